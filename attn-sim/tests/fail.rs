//! Every rule has a smallest kernel that breaks it, with the report that it must give, in `tests/fail`.
//!
//! A file's head says how to launch it (`// launch: grid=N block=N shared=N cluster=N params=KIND:BYTES,..`, where a
//! `buffer` is filled by the host, an `empty` one is not, a `map` is the tensor map of one, and a `shifted-map` one whose base address
//! lies 64 rows before the buffer) and what the report must contain (`// expect: ..`). Lines
//! that begin with `//+` are what the kernel lacks, lines with `//-` precede one that it has too much: repaired like
//! that (and launched by `// fixed-launch:`, where there is one), it must run without a finding. All of it holds for
//! every seed, or with `// expect-seeds: some` for at least one.

use attn_sim::tensor_map::{DataType, EncodeTiled, Interleave, L2Promotion, OobFill, Swizzle};
use attn_sim::{Error, Gpu, Launch};
use std::fs;
use std::path::{Path, PathBuf};

const SEEDS: u64 = 8;

fn head<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let prefix = format!("// {key}: ");
    text.lines().filter_map(|l| l.strip_prefix(prefix.as_str())).collect()
}

/// The kernel with what it lacks, and without what it has too much.
fn repaired(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let code = line.trim_start();
        match (code.strip_prefix("//+"), code.starts_with("//-")) {
            (Some(missing), _) => missing.to_owned(),
            (_, true) => String::new(),
            _ => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The kernel as it is: what follows `//-` is part of it.
fn broken(text: &str) -> String {
    text.replace("//-", "")
}

/// All that a run says: findings and, if there is one, why it stopped.
fn run(text: &str, spec: &str, seed: u64) -> String {
    let mut gpu = Gpu::new();
    let mut launch = Launch { seed, step_limit: 1_000_000, ..Launch::default() };
    for word in spec.split_whitespace() {
        let (key, value) = word.split_once('=').expect("key=value");
        let number = || value.parse::<u32>().expect("a number");
        match key {
            "grid" => launch.grid[0] = number(),
            "block" => launch.block[0] = number(),
            "shared" => launch.shared = number(),
            "cluster" => launch.cluster = Some([number(), 1, 1]),
            "params" => launch.params = value.split(',').map(|spec| param(&mut gpu, spec)).collect(),
            _ => panic!("no such word in a launch line: {key}"),
        }
    }
    let kernel = gpu.load(text).expect("the kernel parses").kernel("k").expect("the kernel decodes");
    let say = |findings: &[attn_sim::report::Finding]| findings.iter().map(|f| format!("{f}\n")).collect::<String>();
    match launch.run(&mut gpu, &kernel) {
        Ok(run) => say(&run.findings),
        Err(Error::Failed(failure)) => format!("{}{failure}\n", say(&failure.findings)),
        Err(other) => panic!("{other}"),
    }
}

fn param(gpu: &mut Gpu, spec: &str) -> Vec<u8> {
    let (kind, bytes) = spec.split_once(':').expect("KIND:BYTES");
    let bytes: u64 = bytes.parse().expect("a number of bytes");
    let addr = match kind {
        "buffer" => gpu.upload(&(0..bytes).map(|i| i as u8).collect::<Vec<_>>()),
        "empty" => gpu.alloc(bytes),
        "map" => return map(gpu, bytes, 0),
        "shifted-map" => return map(gpu, bytes, 64),
        _ => panic!("no such parameter: {kind}"),
    };
    addr.to_le_bytes().to_vec()
}

/// A map of rows of 64 bytes, which are copied one at a time. So many of them come before the buffer and are nobody's memory.
fn map(gpu: &mut Gpu, bytes: u64, before: u64) -> Vec<u8> {
    let args = EncodeTiled {
        data_type: DataType::Uint8,
        global_address: gpu.upload(&vec![1; bytes as usize]) - 64 * before,
        global_dim: &[64, before + bytes / 64],
        global_strides: &[64],
        box_dim: &[64, 1],
        element_strides: &[1, 1],
        interleave: Interleave::None,
        swizzle: Swizzle::None,
        l2_promotion: L2Promotion::None,
        oob_fill: OobFill::Zero,
    };
    args.encode().expect("the map is valid").to_bytes().to_vec()
}

fn kernels(dir: &Path, list: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("tests/fail is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            kernels(&path, list);
        } else if path.extension().is_some_and(|e| e == "ptx") {
            list.push(path);
        }
    }
}

/// What is wrong with a file's runs, if anything.
fn check(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let spec = *head(&text, "launch").first().ok_or("no launch line")?;
    let expected = head(&text, "expect");
    if expected.is_empty() {
        return Err("no expect line".into());
    }
    let some = !head(&text, "expect-seeds").is_empty();
    let reports: Vec<String> = (0..SEEDS).map(|seed| run(&broken(&text), spec, seed)).collect();
    let told = |said: &String| expected.iter().all(|e| said.contains(e));
    if !(if some { reports.iter().any(told) } else { reports.iter().all(told) }) {
        let silent: Vec<_> = reports.iter().enumerate().filter(|(_, said)| !told(said)).collect();
        return Err(format!("expected {expected:?}; the other reports by seed: {silent:#?}"));
    }
    let spec = head(&text, "fixed-launch").first().copied().unwrap_or(spec);
    for seed in 0..SEEDS {
        let said = run(&repaired(&text), spec, seed);
        if !said.is_empty() {
            return Err(format!("seed {seed}: repaired, it still gives:\n{said}"));
        }
    }
    Ok(())
}

#[test]
fn every_rule_is_reported_where_it_is_broken_and_only_there() {
    let mut list = Vec::new();
    kernels(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fail"), &mut list);
    list.sort();
    assert!(!list.is_empty());
    let wrong: Vec<String> = list
        .iter()
        .filter_map(|path| {
            let result = std::panic::catch_unwind(|| check(path)).unwrap_or_else(|panic| {
                let what = panic.downcast_ref::<String>().cloned();
                Err(format!("panicked: {}", what.unwrap_or_default()))
            });
            result.err().map(|e| format!("{}: {e}", path.display()))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} kernels:\n{}", wrong.len(), list.len(), wrong.join("\n"));
}
