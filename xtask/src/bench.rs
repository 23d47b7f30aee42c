//! `cargo xtask bench`: our forward pass beside its peers, in one process on one card.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::capi;

/// Builds libattn.so and runs a script of bench/ with it: ours beside cuDNN, FlashAttention-2, FlexAttention and, where they can
/// be imported, FlashAttention-4 and -3 and FlashInfer.
///
/// Needs a GPU and a Python with PyTorch (ATTN_PYTHON names another than python3). Where one is missing, says how to run it
/// on a machine that has both.
#[derive(clap::Args)]
pub struct Options {
    /// What to compare: whole sequences, packed sequences of mixed lengths, or decoding steps.
    #[arg(long, value_enum, default_value = "peers")]
    script: Script,
    /// The script's options: --backends A,B, --out STEM and, of peers, --quick and --lines TEXT; `-- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// The scripts of bench/.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Script {
    Peers,
    Varlen,
    Decode,
}

impl Script {
    fn file(self) -> &'static str {
        match self {
            Script::Peers => "peers.py",
            Script::Varlen => "varlen.py",
            Script::Decode => "decode.py",
        }
    }
}

/// Whether PyTorch sees a GPU.
const READY: &str = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 3)";

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let library = capi::library()?;
    println!("{}", library.display());
    let python = std::env::var_os("ATTN_PYTHON").unwrap_or_else(|| "python3".into());
    if let Some(missing) = missing(&python) {
        println!(
            "{missing}; on a machine with both: cargo xtask bench, or ./run.sh peers serving in the folder that \
             `cargo xtask gpu-bundle` fills here"
        );
        return Ok(());
    }
    let mut peers = Command::new(&python);
    peers
        .arg("-B")
        .arg(capi::bench_dir().join(options.script.file()))
        .args(&options.words)
        .env("ATTN_LIBRARY", library);
    let status = peers.status().with_context(|| format!("cannot start {}", python.display()))?;
    if !status.success() {
        bail!("the benchmark failed ({status})");
    }
    Ok(())
}

/// What this machine lacks for the benchmark.
fn missing(python: &OsString) -> Option<String> {
    let name = python.display();
    match Command::new(python).args(["-c", READY]).output() {
        Err(error) => Some(format!("there is no {name} here ({error})")),
        Ok(output) => match output.status.code() {
            Some(0) => None,
            Some(3) => Some("PyTorch sees no GPU here".to_owned()),
            _ => Some(format!("{name} has no PyTorch here")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_in_the_benchmark() {
        for script in <Script as clap::ValueEnum>::value_variants() {
            assert!(capi::BENCH.contains(&script.file()), "{}", script.file());
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let nowhere = missing(&"no-such-python".into()).expect("there is none of this name");
        assert!(nowhere.starts_with("there is no no-such-python here"), "{nowhere}");
        assert_eq!(missing(&"false".into()).as_deref(), Some("false has no PyTorch here"));
        assert_eq!(missing(&"true".into()), None);
    }
}
