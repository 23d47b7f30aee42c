//! `attn bench` from its options to its exit status, with the simulator in the place of `libcuda.so.1`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;

static TMP: &str = env!("CARGO_TARGET_TMPDIR");
static DRIVER: LazyLock<PathBuf> =
    LazyLock::new(|| attn_tests::stand_in::folder(Path::new(TMP)).expect("the simulator's library builds"));

/// Runs the program with the driver in a folder, or whatever driver there is.
fn attn(driver: Option<&Path>, words: &[&str]) -> (Output, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attn"));
    match driver {
        Some(folder) => command.env("LD_LIBRARY_PATH", folder),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
    let output = command.args(words).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

/// Runs `attn bench` on the simulator with as few launches as it allows.
fn bench(words: &[&str]) -> (Output, String, String) {
    let quick = ["bench", "--rounds", "3", "--millis", "0.1"];
    attn(Some(&DRIVER), &[&quick[..], words].concat())
}

fn succeeds(words: &[&str]) -> String {
    let (output, out, err) = bench(words);
    assert!(output.status.success(), "{words:?}: {}\n{out}{err}", output.status);
    out
}

/// The fields of the whole, and of a line.
const WHOLE: [&str; 5] = ["device", "rounds", "millis", "checked", "lines"];
const LINE: [&str; 12] = [
    "name",
    "problem",
    "kernel",
    "splits",
    "launches_per_round",
    "median_us",
    "spread",
    "rounds_us",
    "tflops",
    "gbytes_per_s",
    "of_peak",
    "bound",
];

fn assert_fields(value: &Value, fields: &[&str]) {
    let mut found: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut fields = fields.to_vec();
    found.sort_unstable();
    fields.sort_unstable();
    assert_eq!(found, fields);
}

#[test]
fn a_mix_as_json_has_the_fields_of_the_help() {
    let (_, help, _) = attn(None, &["bench", "--help"]);
    let described = help.split_once("JSON: ").expect("a paragraph on JSON").1;
    for field in [&WHOLE[..], &LINE].concat() {
        let mut words = described.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        assert!(words.any(|word| word == field), "{field}: {help}");
    }

    let results: Value = serde_json::from_str(&succeeds(&["--mix", "tiny", "--check", "--json", "-"])).expect("JSON");
    assert_fields(&results, &WHOLE);
    assert!(results["device"].as_str().is_some_and(|device| device.contains("attn-sim sm_90a")), "{results:#}");
    assert_eq!((results["rounds"].as_u64(), results["checked"].as_bool()), (Some(3), Some(true)));
    let lines = results["lines"].as_array().expect("a list");
    let kernels: Vec<&str> = lines.iter().filter_map(|line| line["kernel"].as_str()).collect();
    assert_eq!(kernels.len(), 3);
    for (kernel, part) in kernels.iter().zip(["fwd_sm90_bf16_d64_causal", "_sm90_bf16_d128", "_sm90_bf16_d128"]) {
        assert!(kernel.contains(part), "{kernels:?}");
    }
    for line in lines {
        assert_fields(line, &LINE);
        let rounds: Vec<f64> = line["rounds_us"].as_array().expect("times").iter().filter_map(Value::as_f64).collect();
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.len() == 3 && sorted[0] > 0.0, "{line:#}");
        assert_eq!(line["median_us"].as_f64(), Some(sorted[1]));
        assert!(line["tflops"].as_f64() > Some(0.0) && line["gbytes_per_s"].as_f64() > Some(0.0), "{line:#}");
        // No data sheet has the simulator's peak.
        assert!(line["of_peak"].is_null() && line["bound"].is_null(), "{line:#}");
    }
}

#[test]
fn one_problem_as_a_table_and_json_in_a_file() {
    let path = Path::new(TMP).join("bench.json");
    let problem = ["--lengths", "17,40", "--heads", "2", "--head-dim", "64", "--softcap", "20", "--check"];
    let table = succeeds(&[&problem[..], &["--json", path.to_str().expect("UTF-8")]].concat());
    for part in
        ["attn-sim sm_90a", "median of 3 rounds of 0.1 ms, answers compared with f64", "of peak", "_sm90_bf16_d64"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    let results: Value = serde_json::from_slice(&fs::read(&path).expect("written")).expect("JSON");
    assert!(results["lines"][0]["problem"].as_str().is_some_and(|problem| table.contains(problem)), "{results:#}");
}

#[test]
fn what_cannot_be_timed_is_said_in_one_line() {
    let refuse = |words: &[&str], status, part: &str| {
        let (output, out, err) = bench(words);
        assert_eq!(output.status.code(), Some(status), "{words:?}: {err}");
        assert!(out.is_empty() && err.starts_with("error: ") && err.contains(part), "{words:?}: {out}{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    };
    refuse(&["--head-dim", "100"], 3, "head_dim is 100; allowed: ");
    refuse(&["--batch", "64", "--seqlen", "1000000"], 5, "MiB of device memory");
    let unwritable = Path::new(TMP).join("absent/bench.json");
    refuse(&["--seqlen", "8", "--heads", "1", "--json", unwritable.to_str().expect("UTF-8")], 3, "bench.json: ");
}

#[test]
fn without_a_driver_it_says_what_else_there_is() {
    let (output, out, err) = attn(None, &["bench", "--mix", "tiny", "--rounds", "3"]);
    // A machine with a GPU has times instead.
    match output.status.code() {
        Some(0) => assert!(out.contains("packed d128 17,40"), "{out}"),
        status => {
            assert_eq!((status, out.as_str()), (Some(4), ""), "{err}");
            assert!(err.starts_with("error: no CUDA driver") && err.contains("`attn plan --arch`"), "{err}");
            assert_eq!(err.lines().count(), 1, "{err}");
        }
    }
}
