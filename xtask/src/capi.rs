//! Builds `libattn.so`, and says what the benchmark in Python consists of.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{process, workspace};

/// The benchmark's files, all in the repository's folder `bench`.
pub const BENCH: [&str; 13] = [
    "attn.py",
    "attn_abi.py",
    "attn_dlpack.py",
    "backends.py",
    "check.py",
    "decode.py",
    "lines.py",
    "measure.py",
    "mixes.py",
    "peers.py",
    "report.py",
    "serving.py",
    "varlen.py",
];

/// Builds the library and returns where cargo put it.
pub fn library() -> Result<PathBuf> {
    let mut command = process::cargo();
    command.args([
        "build",
        "--release",
        "--package",
        "attn-capi",
        "--lib",
        "--message-format",
        "json-render-diagnostics",
    ]);
    command.stderr(std::process::Stdio::inherit());
    let output = process::run(&mut command)?;
    let messages = String::from_utf8_lossy(&output.stdout);
    shared_library(&messages).context("cargo built no shared library of attn-capi; this works on Linux")
}

/// The shared library among the files that cargo's messages name.
fn shared_library(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let files = messages.filter(|message| message["target"]["name"] == "attn").flat_map(|message| {
        message["filenames"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|f| f.as_str().map(PathBuf::from))
            .collect::<Vec<_>>()
    });
    files.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "so"))
}

/// The folder of the benchmark.
pub fn bench_dir() -> PathBuf {
    workspace::root().join("bench")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_library_is_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"half"},"filenames":["/t/libhalf.so"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"attn"},"filenames":["/t/libattn.a","/t/libattn.so"]}"#,
            "\nnot json",
        );
        assert_eq!(shared_library(messages), Some(PathBuf::from("/t/libattn.so")));
        assert_eq!(shared_library("{}"), None);
    }

    #[test]
    fn every_file_of_the_benchmark_is_known() {
        let entries = fs::read_dir(bench_dir()).expect("there").map(|entry| entry.expect("readable").file_name());
        let mut found: Vec<_> =
            entries.map(|name| name.to_string_lossy().into_owned()).filter(|n| n.ends_with(".py")).collect();
        found.sort_unstable();
        assert_eq!(found, BENCH);
    }
}
