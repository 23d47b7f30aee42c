//! The command line.

use std::path::PathBuf;

use attn_sim::Trace;
use clap::Parser;

/// Runs a kernel of any PTX file on a simulated Hopper or Blackwell GPU, and reports what hardware does not: races, missing
/// fences and waits, reads of what was never written, deadlocks.
///
/// The exit status is 0 when nothing was found under any seed, 1 when something was, 2 when the kernel could not be run.
#[derive(Parser, Debug)]
#[command(name = "attn-sim", bin_name = "cargo xtask sim", after_help = PARAMS)]
pub struct Options {
    /// The PTX file.
    #[arg(long, value_name = "FILE")]
    pub ptx: PathBuf,
    /// The kernel; may be left out where the file has only one.
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// Blocks.
    #[arg(long, value_name = "X,Y,Z", value_parser = three, default_value = "1")]
    pub grid: [u32; 3],
    /// Threads of a block.
    #[arg(long, value_name = "X,Y,Z", value_parser = three)]
    pub block: [u32; 3],
    /// Blocks of a cluster [default: what the kernel requires].
    #[arg(long, value_name = "X,Y,Z", value_parser = three)]
    pub cluster: Option<[u32; 3]>,
    /// Bytes of dynamic shared memory.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub smem: u32,
    /// Buffers and parameters as text (below), or @FILE with it.
    #[arg(long, value_name = "SPEC", default_value = "")]
    pub params: String,
    /// The first seed: the order of warps and of completions is drawn from it.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How many seeds to run, each on memory as it is at the start.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Multiprocessors that the kernel is told of.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub multiprocessors: u32,
    /// Instructions of warps that one cluster may execute before it counts as running for ever.
    #[arg(long, value_name = "N", default_value_t = 1 << 32)]
    pub steps: u64,
    /// Write the buffers that the first seed's run has changed to this safetensors file.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Instead: delete or weaken each of the kernel's synchronising instructions in turn, run each such mutant under the seeds,
    /// and report those that nothing gives away, neither a finding nor another result. A survivor is an instruction that the
    /// kernel does not need, or one whose loss the simulator does not see. The exit status is 0 when there is none.
    #[arg(long, conflicts_with_all = ["output", "trace"])]
    pub mutate: bool,
    /// Print the history of a warp (`warp:X,Y,Z:WARP`), of an mbarrier (`mbarrier:X,Y,Z:ADDRESS`, as in the kernel's shared
    /// addresses) or of every mbarrier (`mbarriers:X,Y,Z`) of block X,Y,Z; may be repeated.
    #[arg(long, value_name = "WHAT", value_parser = trace)]
    pub trace: Vec<Trace>,
}

/// The spec, in short; the README of attn-sim says all of it.
const PARAMS: &str = "\
Buffers and parameters (--params), a statement a line or between `;`:
  q = file FILE TENSOR           a buffer with a tensor of a safetensors file
  a = bf16[8,64] normal 7        a buffer with numbers: zero, value X, index, normal [SEED], uniform [SEED]
  o = f32[8,64]                  a buffer that holds nothing yet: reading it is a finding
  ptr q                          parameter: a buffer's address; also ptr q+BYTES, ptr null
  u32 7                          parameter: a number (u8 to u64, s8 to s64, f16, bf16, f32, f64; 0x.. is the bits)
  map q box=64,8 swizzle=128     parameter: a tensor map; also dims= strides= steps= fill=nan offset=, innermost first
                                 (dims and strides are those of the buffer unless given, strides in bytes)
  struct ptr o, u32 7, f32 0.5   parameter: a struct, members aligned as C does
  bytes 00ff                     parameter: any bytes
attn-sim/README.md has every fill and every word of a map, with examples.

Example, O = A + B for 1024 f32:
  cargo xtask sim --ptx add.ptx --kernel add --grid 8 --block 128 --seeds 5 --output o.safetensors \\
    --params 'a = f32[1024] normal 1; b = f32[1024] normal 2; o = f32[1024]; ptr a; ptr b; ptr o; u32 1024'";

/// One to three numbers; those left out are 1.
fn three(text: &str) -> Result<[u32; 3], String> {
    let mut all = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err(format!("{} numbers, allowed are 1 to 3", parts.len()));
    }
    for (place, part) in all.iter_mut().zip(parts) {
        *place = part.trim().parse().map_err(|_| format!("`{part}` is no unsigned number"))?;
    }
    Ok(all)
}

/// `warp:0,0,0:4`, `mbarrier:0,0,0:0x400` or `mbarriers:0,0,0`
fn trace(text: &str) -> Result<Trace, String> {
    let expected = || "expected warp:X,Y,Z:WARP, mbarrier:X,Y,Z:ADDRESS or mbarriers:X,Y,Z".to_owned();
    let (kind, block, number) = match text.split(':').collect::<Vec<_>>()[..] {
        [kind @ "mbarriers", block] => (kind, block, "0"),
        [kind @ ("warp" | "mbarrier"), block, number] => (kind, block, number),
        _ => return Err(expected()),
    };
    // Blocks count from 0, so what is left out of one is 0.
    let mut at = [0; 3];
    for (place, part) in at.iter_mut().zip(block.split(',')) {
        *place = part.trim().parse().map_err(|_| expected())?;
    }
    let number = match number.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => number.parse(),
    };
    let number = number.map_err(|_| expected())?;
    match kind {
        "warp" => Ok(Trace::Warp { block: at, warp: number }),
        "mbarriers" => Ok(Trace::Mbarriers { block: at }),
        _ => Ok(Trace::Mbarrier { block: at, offset: number }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    /// What the guide says to type is understood, buffers and parameters too.
    #[test]
    fn the_guides_commands_are_understood() {
        let chapter = include_str!("../../guide/src/kernel.md").replace("\\\n", " ");
        let lines: Vec<&str> = chapter.lines().filter_map(|line| line.strip_prefix("cargo xtask sim ")).collect();
        for line in &lines {
            // What stands in quotes is one word.
            let parts = line.split('\'').enumerate();
            let words =
                parts.flat_map(|(i, part)| if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() });
            let options = Options::try_parse_from(std::iter::once("attn-sim").chain(words)).expect(line);
            assert_eq!(crate::spec::Spec::parse(&options.params).expect(line).params.len(), 3, "{line}");
        }
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn triples_and_traces_are_read() {
        assert_eq!(three("4"), Ok([4, 1, 1]));
        assert_eq!(three("4,2,3"), Ok([4, 2, 3]));
        assert!(three("1,2,3,4").is_err() && three("x").is_err());
        assert_eq!(trace("warp:1,2:4"), Ok(Trace::Warp { block: [1, 2, 0], warp: 4 }));
        assert_eq!(trace("mbarrier:0,0,0:0x408"), Ok(Trace::Mbarrier { block: [0; 3], offset: 0x408 }));
        assert_eq!(trace("mbarriers:3"), Ok(Trace::Mbarriers { block: [3, 0, 0] }));
        assert!(trace("mbarriers:0:1").is_err() && trace("mbarrier:0").is_err());
        assert!(trace("lane:0:1").is_err() && trace("warp:0").is_err() && trace("warp:a:1").is_err());
    }
}
