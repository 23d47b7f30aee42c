//! The kernel that `guide/src/kernel.md` writes: its rows, what the simulator says when its fence is gone, and that it notices whatever else
//! is taken away.

use attn_kernel::probe::softmax::{PROBE, WIDTH};
use attn_sim::mutate::{self, Outcome};
use attn_sim::report::Kind;
use attn_sim::{Gpu, Launch};

use super::{ARCHITECTURES, SEEDS, Setup, bytes, ptx};

const COLUMNS: usize = WIDTH as usize;

/// Rows of very different sizes.
fn rows(count: usize) -> Vec<f32> {
    (0..count * COLUMNS).map(|i| ((i * 7919 % 1013) as f32 - 500.0) * 0.01 * (1 + i / COLUMNS) as f32).collect()
}

/// The launch's parameters; returns the address of the result.
fn setup(arch: &'static str, seed: u64, x: &[f32]) -> (Setup, u64) {
    let mut setup = Setup::new(arch, seed);
    setup.input(&bytes(x.iter().map(|x| x.to_bits())));
    let y = setup.output(x.len());
    setup.param((x.len() as u32 / WIDTH).to_le_bytes());
    (setup, y)
}

fn softmax(row: &[f32]) -> Vec<f64> {
    let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = row.iter().map(|x| f64::from(x - greatest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

#[test]
fn rows_are_those_of_plain_arithmetic_whatever_the_grid() {
    for arch in ARCHITECTURES {
        for (seed, (count, blocks)) in SEEDS.zip([(1, 1), (10, 1), (10, 4), (3, 5)]) {
            let x = rows(count);
            let (mut setup, y) = setup(arch, seed, &x);
            let run = setup.launch(PROBE, blocks);
            assert!(run.findings.is_empty(), "{arch} seed {seed}: {}", run.findings[0]);
            let got = setup.words(y, x.len());
            for (row, (x, got)) in x.chunks_exact(COLUMNS).zip(got.chunks_exact(COLUMNS)).enumerate() {
                for (column, (want, got)) in softmax(x).into_iter().zip(got).enumerate() {
                    let got = f64::from(f32::from_bits(*got));
                    assert!((got - want).abs() <= 1e-5 * want + 1e-30, "{arch}: {row}, {column}: {got}, not {want}");
                }
            }
        }
    }
}

#[test]
fn without_its_fence_the_report_is_that_of_the_guide() {
    let text = ptx("sm_90a", PROBE.name);
    let broken: String = text.lines().filter(|line| !line.contains("fence.proxy")).map(|l| format!("{l}\n")).collect();
    let (mut setup, _) = setup("sm_90a", 0, &rows(10));
    let kernel = setup.gpu.load(&broken).and_then(|module| module.kernel(PROBE.name)).expect("still a kernel");
    let run = launch(&setup, 4).run(&mut setup.gpu, &kernel).expect("it comes to its end");
    let [finding] = &run.findings[..] else { panic!("one finding, not {}", run.findings.len()) };
    assert_eq!(finding.kind, Kind::ProxyFence);
    let says = finding.to_string();
    let first = says.lines().next().unwrap_or_default();
    let guide = include_str!("../../../guide/src/kernel.md");
    assert!(guide.contains(first), "the guide does not quote `{first}`");
}

#[test]
fn nothing_can_be_taken_away_from_it_unnoticed() {
    let module = Gpu::new().load(&ptx("sm_90a", PROBE.name)).expect("PTX").module().clone();
    // One block, so that somebody waits for a stage to be released, and 40 times round the ring: one arrival too few for a phase lets the next
    // one begin early by one more each time.
    let x = rows(128);
    let score = mutate::score(&module, PROBE.name, 0..5, |mutant, seed| {
        let (mut setup, _) = setup("sm_90a", seed, &x);
        let loaded = setup.gpu.load_module(mutant.clone());
        let kernel = loaded.kernel(PROBE.name).expect("the same kernel");
        match (Launch { step_limit: 1 << 20, ..launch(&setup, 1) }).run(&mut setup.gpu, &kernel) {
            Ok(run) if run.findings.is_empty() => Outcome::Unnoticed,
            _ => Outcome::Reported,
        }
    });
    assert_eq!((score.reported, score.survivors.len()), (25, 0), "{score}");
}

fn launch(setup: &Setup, blocks: u32) -> Launch {
    Launch {
        grid: [blocks, 1, 1],
        block: [PROBE.threads, 1, 1],
        shared: PROBE.shared,
        params: setup.params.clone(),
        seed: setup.seed,
        ..Launch::default()
    }
}
