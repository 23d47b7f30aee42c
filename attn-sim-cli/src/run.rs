//! Runs a kernel under several seeds and reports.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use attn_sim::report::Finding;
use attn_sim::{Gpu, Kernel, Launch, Loaded};

use crate::buffers::{self, All, BufferError, Filled};
use crate::mutants;
use crate::options::Options;
use crate::spec::{Spec, SpecError};

/// Why a kernel could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No kernel was named and the file has none or several.
    #[error("--kernel names one of: {have}")]
    WhichKernel {
        /// The kernels there are.
        have: String,
    },
    /// The spec.
    #[error("--params, {0}")]
    Spec(#[from] SpecError),
    /// Buffers and parameters.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// The module or the launch.
    #[error(transparent)]
    Sim(#[from] attn_sim::Error),
    /// Mutants of a kernel that is wrong itself would tell nothing.
    #[error("--mutate takes a kernel without findings; under seed {seed} it has: {what}")]
    Unclean {
        /// The seed.
        seed: u64,
        /// Its first finding, or why it stopped.
        what: String,
    },
    /// The report cannot be written.
    #[error("cannot write the report: {0}")]
    Report(#[from] io::Error),
}

/// Runs what the options ask for and reports to `out`; true when nothing was found.
pub fn run(options: &Options, out: &mut impl Write) -> Result<bool, RunError> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).map_err(|source| RunError::Read { path: path.clone(), source });
    let spec = match options.params.strip_prefix('@') {
        Some(path) => read(&PathBuf::from(path))?,
        None => options.params.clone(),
    };
    let spec = Spec::parse(&spec)?;
    let before = buffers::fill(&spec)?;
    let text = read(&options.ptx)?;
    if options.mutate {
        return mutants::run(options, &spec, &before, &text, out);
    }
    let mut gpu = Gpu::new();
    let loaded = gpu.load(&text)?;
    let kernel = kernel(&loaded, options)?;
    let addresses = buffers::place(&mut gpu, &before)?;
    let params = buffers::params(&spec, &before, &addresses, &kernel)?;
    let launch = Launch { trace: options.trace.clone(), ..launch(options, params) };
    let mut session = Session { kernel, launch, before, addresses, first: None, clean: true };
    for seed in seeds(options) {
        session.seed(&gpu, seed, out)?;
    }
    if let (Some(path), Some(first)) = (&options.output, &session.first) {
        let changed = first.iter().zip(&session.before);
        let changed: All = changed.filter(|((_, a), (_, b))| a.written && a != b).map(|(a, _)| a.clone()).collect();
        buffers::write(path, &changed)?;
        let names: Vec<&str> = changed.iter().map(|(name, _)| name.as_str()).collect();
        writeln!(out, "output    {} in {}", names.join(", "), path.display())?;
    }
    Ok(session.clean)
}

/// The launch that options and parameters ask for, under the first seed.
pub(crate) fn launch(options: &Options, params: Vec<Vec<u8>>) -> Launch {
    Launch {
        grid: options.grid,
        block: options.block,
        cluster: options.cluster,
        shared: options.smem,
        params,
        seed: options.seed,
        sms: options.multiprocessors,
        step_limit: options.steps,
        ..Launch::default()
    }
}

/// The seeds that options ask for.
pub(crate) fn seeds(options: &Options) -> impl Iterator<Item = u64> + Clone {
    let first = options.seed;
    (0..options.seeds).map(move |i| first.wrapping_add(i))
}

/// The kernel that options name, or the only one.
pub(crate) fn kernel(loaded: &Loaded, options: &Options) -> Result<Kernel, RunError> {
    if let Some(name) = &options.kernel {
        return Ok(loaded.kernel(name)?);
    }
    let entries = loaded.module().functions.iter().filter(|function| function.entry);
    match &entries.map(|function| function.name.as_str()).collect::<Vec<_>>()[..] {
        [only] => Ok(loaded.kernel(only)?),
        all => Err(RunError::WhichKernel { have: all.join(", ") }),
    }
}

/// What stays the same for all seeds, and what the first one left.
struct Session {
    kernel: Kernel,
    launch: Launch,
    before: All,
    addresses: BTreeMap<String, u64>,
    first: Option<All>,
    clean: bool,
}

impl Session {
    /// Runs under one seed on a copy of the memory.
    fn seed(&mut self, gpu: &Gpu, seed: u64, out: &mut impl Write) -> Result<(), RunError> {
        let mut gpu = gpu.clone();
        let launch = Launch { seed, ..self.launch.clone() };
        let start = Instant::now();
        let result = launch.run(&mut gpu, &self.kernel);
        let seconds = start.elapsed().as_secs_f64();
        let (findings, trace) = match result {
            Ok(run) => {
                writeln!(out, "seed {seed}: ended, {} findings, {seconds:.2} s", run.findings.len())?;
                if self.first.is_none() {
                    write!(out, "{}", run.counters)?;
                }
                self.compare(&gpu, seed, out)?;
                (run.findings, run.trace)
            }
            Err(attn_sim::Error::Failed(failure)) => {
                self.clean = false;
                writeln!(out, "seed {seed}: stopped after {seconds:.2} s\n{}", failure.stop)?;
                (failure.findings, failure.trace)
            }
            Err(error) => return Err(error.into()),
        };
        self.clean &= findings.is_empty();
        report(&findings, out)?;
        trace.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        out.flush()?;
        Ok(())
    }

    /// Says which buffers have bytes that were never written, and which differ from what the first seed left.
    fn compare(&mut self, gpu: &Gpu, seed: u64, out: &mut impl Write) -> Result<(), RunError> {
        let after = self.after(gpu)?;
        for (name, buffer) in &after {
            let Some(address) = self.addresses.get(name) else { continue };
            if let (true, Some(at)) = (buffer.written, gpu.first_unwritten(*address, buffer.bytes.len())?) {
                writeln!(out, "note: `{name}` is written in part; byte {} is the first that is not", at - address)?;
            }
        }
        match &self.first {
            None => self.first = Some(after),
            Some(first) => {
                for ((name, a), (_, b)) in after.iter().zip(first) {
                    if let Some(at) = a.bytes.iter().zip(&b.bytes).position(|(a, b)| a != b) {
                        let element = at / a.element.bytes();
                        writeln!(
                            out,
                            "note: `{name}` of seed {seed} differs from the first seed's at element {element}"
                        )?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The buffers as they are in memory. One that was not written stays so unless something was stored to it.
    fn after(&self, gpu: &Gpu) -> Result<All, RunError> {
        let mut all = All::new();
        for (name, buffer) in &self.before {
            let Some(&address) = self.addresses.get(name) else { continue };
            let bytes = gpu.read(address, buffer.bytes.len())?.to_vec();
            let any = |from: usize| gpu.first_unwritten(address + from as u64, 1).is_ok_and(|found| found.is_none());
            let written = buffer.written || (0..bytes.len()).any(any);
            all.push((name.clone(), Filled { bytes, written, ..buffer.clone() }));
        }
        Ok(all)
    }
}

/// Findings, numbered.
fn report(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    findings
        .iter()
        .enumerate()
        .try_for_each(|(i, finding)| writeln!(out, "finding {} of {}: {finding}", i + 1, findings.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use safetensors::SafeTensors;

    /// Writes the module to a file of its own, runs it and returns whether it was clean, and the report.
    fn simulate(test: &str, body: &str, words: &[&str]) -> (Result<bool, RunError>, String) {
        let path = std::env::temp_dir().join(format!("attn-sim-cli-{}-{test}.ptx", std::process::id()));
        let text = format!(".version 8.0\n.target sm_90a\n.address_size 64\n{body}");
        std::fs::write(&path, text).expect("a writable temporary folder");
        let ptx = path.to_str().expect("text");
        let options = Options::parse_from(["attn-sim", "--ptx", ptx, "--block", "32"].iter().chain(words));
        let mut report = Vec::new();
        let result = run(&options, &mut report);
        std::fs::remove_file(&path).expect("removable");
        (result, String::from_utf8(report).expect("text"))
    }

    /// o[i] = a[i] + n
    const ADD: &str = "
.visible .entry add(.param .u64 a, .param .u64 o, .param .u32 n)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [o];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd3, %r2, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.u32 %r3, [%rd4];
    add.s32 %r3, %r3, %r1;
    st.global.u32 [%rd5], %r3;
    ret;
}";

    #[test]
    fn a_kernel_runs_under_several_seeds_and_its_output_is_written() {
        let path = std::env::temp_dir().join(format!("attn-sim-cli-{}.safetensors", std::process::id()));
        let spec = "a = u32[32] index; o = u32[64]; ptr a; ptr o; u32 5";
        let words = ["--params", spec, "--seeds", "2", "--output", path.to_str().expect("text"), "--trace", "warp:0:0"];
        let (result, report) = simulate("seeds", ADD, &words);
        assert!(result.expect("runs"), "{report}");
        for part in ["seed 0: ended, 0 findings", "seed 1: ended", "`o` is written in part; byte 128", "ld.global.u32"]
        {
            assert!(report.contains(part), "no '{part}' in\n{report}");
        }
        let bytes = std::fs::read(&path).expect("written");
        std::fs::remove_file(&path).expect("removable");
        let file = SafeTensors::deserialize(&bytes).expect("valid");
        assert_eq!(file.names(), ["o"]);
        assert_eq!(file.tensor("o").expect("o").data()[4 * 31..4 * 32], 36u32.to_le_bytes());
    }

    /// The README's blocks of a kind.
    fn documented(kind: &str) -> Vec<&'static str> {
        let blocks = include_str!("../../attn-sim/README.md").split("```").skip(1).step_by(2);
        blocks.filter_map(|block| block.strip_prefix(kind)?.strip_prefix('\n')).collect()
    }

    #[test]
    fn the_documented_examples_run() {
        let (kernel, command) = (documented("ptx")[0], documented("sh")[0]);
        let body = kernel.split_once(".address_size 64\n").expect("a header").1;
        let spec = command.split('\'').nth(1).expect("quoted parameters");
        let output = std::env::temp_dir().join(format!("attn-sim-cli-{}-documented.safetensors", std::process::id()));
        let file = output.to_str().expect("text");
        // As documented, but for the files' places and the block, of which there may be only one.
        let words = ["--kernel", "add", "--grid", "32", "--seeds", "5", "--output", file, "--params", spec];
        let (result, report) = simulate("documented", body, &words);
        assert!(result.expect("runs") && report.contains("seed 4: ended, 0 findings"), "{report}");
        std::fs::remove_file(&output).expect("written");
        let specs = documented("spec");
        assert!(specs.len() >= 3);
        for text in specs {
            // Paths are the repository's.
            let text = text.replace("file tests/", concat!("file ", env!("CARGO_MANIFEST_DIR"), "/../tests/"));
            let spec = Spec::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            let buffers = buffers::fill(&spec).unwrap_or_else(|error| panic!("{error}\n{text}"));
            let mut gpu = Gpu::new();
            let addresses = buffers::place(&mut gpu, &buffers).expect("fits");
            let any =
                gpu.load(&format!("{}.visible .entry any() {{ ret; }}", kernel.split(".visible").next().unwrap_or("")));
            let any = any.and_then(|module| module.kernel("any")).expect("a kernel without parameters");
            let params = buffers::params(&spec, &buffers, &addresses, &any);
            assert_eq!(params.unwrap_or_else(|error| panic!("{error}\n{text}")).len(), spec.params.len());
        }
    }

    /// Loads 64 bytes in bulk, waits for them and stores the first word.
    const LOAD: &str = "
.visible .entry load(.param .u64 a, .param .u64 o)
{
    .reg .pred %p<3>; .reg .b32 %r<6>; .reg .b64 %rd<3>;
    .shared .align 128 .b8 tile[64]; .shared .align 8 .b64 bar;
    ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [o];
    mov.u32 %r1, %tid.x; setp.ne.u32 %p1, %r1, 0;
    mov.u32 %r2, bar; mov.u32 %r3, tile;
    @%p1 bra WAIT;
    mbarrier.init.shared::cta.b64 [%r2], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 64;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 64, [%r2];
WAIT:
    bar.sync 0;
AGAIN:
    mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0;
    @!%p2 bra AGAIN;
    ld.shared.u32 %r4, [%r3];
    @!%p1 st.global.u32 [%rd2], %r4;
    ret;
}";

    #[test]
    fn the_history_of_an_mbarrier_is_printed() {
        let spec = ["--params", "a = u32[16] index; o = u32[1]; ptr a; ptr o", "--trace"];
        let history = |trace: &str| {
            let (result, report) = simulate("mbarrier", LOAD, &[&spec[..], &[trace]].concat());
            assert!(result.expect("runs"), "{report}");
            report.lines().filter(|line| line.contains("  mbarrier 0x")).map(str::to_owned).collect::<Vec<_>>()
        };
        let all = history("mbarriers:0");
        for part in [
            "was initialised by `mbarrier.init",
            "was changed by `mbarrier.arrive.expect_tx",
            "missing 0 of 1 arrivals and 64 bytes of phase 0",
            "completed a phase by `cp.async.bulk",
            "passes `mbarrier.try_wait",
        ] {
            assert!(all.iter().any(|line| line.contains(part)), "no '{part}' in\n{}", all.join("\n"));
        }
        // Its address is in the history; of another one there is none, nor in another block.
        let address = all[0].split_whitespace().nth(2).expect("an address");
        assert_eq!(history(&format!("mbarrier:0,0,0:{address}")), all);
        assert_eq!(history("mbarrier:0,0,0:0x8"), Vec::<String>::new());
        assert_eq!(history("mbarriers:1"), Vec::<String>::new());
    }

    #[test]
    fn what_is_found_is_reported_and_makes_the_run_unclean() {
        let (result, report) = simulate("found", ADD, &["--params", "a = u32[32]; o = u32[8]; ptr a; ptr o; u32 5"]);
        assert!(!result.expect("runs"), "{report}");
        for part in ["seed 0: stopped", "uninitialised read", "out of bounds", "st.global.u32"] {
            assert!(report.contains(part), "no '{part}' in\n{report}");
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        let error = |words: &[&str]| simulate("wrong", ADD, words).0.expect_err("wrong").to_string();
        assert!(error(&["--kernel", "subtract"]).contains("it has add"));
        assert!(error(&["--params", "u32 1; u64 2; u32 3"]).contains("parameter 0 is 4 bytes, kernel add takes 8"));
        assert!(error(&["--params", "u64 1"]).contains("params is 1 of them, allowed is 3"));
        assert!(error(&["--params", "@nowhere"]).contains("nowhere: "));
        let two = format!("{ADD}\n.visible .entry other() {{ ret; }}");
        let which = simulate("which", &two, &[]).0.expect_err("two kernels").to_string();
        assert_eq!(which, "--kernel names one of: add, other");
    }

    #[test]
    fn mutants_are_run_and_survivors_named() {
        // The first barrier orders the exchange, the second one nothing.
        let body = "
.visible .entry k(.param .u64 o)
{
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    .shared .align 4 .b8 s[128];
    ld.param.u64 %rd1, [o];
    mov.u32 %r1, %tid.x;
    shl.b32 %r2, %r1, 2;
    mov.u32 %r3, s;
    add.s32 %r4, %r3, %r2;
    st.shared.u32 [%r4], %r1;
    bar.warp.sync -1;
    xor.b32 %r4, %r2, 64;
    add.s32 %r4, %r4, %r3;
    ld.shared.u32 %r5, [%r4];
    bar.warp.sync -1;
    cvt.u64.u32 %rd2, %r2;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r5;
    ret;
}";
        let words = ["--params", "o = u32[32]; ptr o", "--seeds", "3", "--mutate"];
        let (result, report) = simulate("mutate", body, &words);
        assert!(!result.expect("runs"), "{report}");
        assert!(
            report.contains("2 mutants: 1 reported, 0 gave a wrong result, 1 unnoticed (50.0 % noticed)"),
            "{report}"
        );
        assert!(report.contains(": bar.warp.sync deleted"), "{report}");
        let broken = body.replace("    bar.warp.sync -1;\n", "");
        let error = simulate("mutate-broken", &broken, &words).0.expect_err("a race").to_string();
        assert!(error.contains("under seed 0 it has: race"), "{error}");
    }
}
