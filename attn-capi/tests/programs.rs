//! Programs in C and Python against `libattn.so` and `libattn.a`, with the simulator in the place of `libcuda.so.1`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::{env, fs};

/// The libraries, built as users build them, and a folder whose `libcuda.so.1` is the simulator.
struct Built {
    libraries: PathBuf,
    driver: PathBuf,
    scratch: PathBuf,
}

static BUILT: LazyLock<Built> = LazyLock::new(|| {
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    // A folder of its own: the target's has libraries with whatever features the workspace turned on last.
    let target = scratch.join("build");
    cargo(&target, &["build", "--release", "--package", "attn-capi", "--lib"]);
    // The target's has the simulator already, and cargo does not hold it while tests run.
    let common = scratch.parent().expect("cargo's folder for tests lies in it");
    let stand_in =
        ["rustc", "--release", "--package", "attn-sim-driver", "--features", "libcuda", "--crate-type", "cdylib"];
    cargo(common, &stand_in);
    let (libraries, driver) = (target.join("release"), scratch.join("driver"));
    fs::create_dir_all(&driver).expect("a writable target folder");
    fs::copy(common.join("release/libattn_sim_driver.so"), driver.join("libcuda.so.1")).expect("built above");
    // A program asks for the soname.
    fs::copy(libraries.join("libattn.so"), scratch.join("libattn.so.1")).expect("built above");
    Built { libraries, driver, scratch }
});

fn cargo(target: &Path, words: &[&str]) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    succeed(cargo.args(words).arg("--quiet").current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", target));
}

/// Runs a program to success and returns what it printed.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// Whether a tool that the test cannot do without is there. Where it is not, the test says so and ends.
fn there(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: there is no {tool}");
    }
    found
}

/// Compiles a C program against a form of the library and runs it.
fn compile_and_run(program: &str, name: &str, link: impl FnOnce(&mut Command, &Built)) {
    if !there("cc") {
        return;
    }
    let binary = BUILT.scratch.join(name);
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg("-I")
        .arg(source(""))
        .arg(source(program))
        .arg("-o")
        .arg(&binary);
    link(&mut cc, &BUILT);
    succeed(cc.arg(BUILT.driver.join("libcuda.so.1")).args(["-lpthread", "-ldl", "-lm"]));
    let mut run = Command::new(&binary);
    run.arg(BUILT.scratch.join("libattn.so.1"));
    assert_eq!(succeed(run.env("LD_LIBRARY_PATH", search(&BUILT.driver, &BUILT.scratch))), "right\n");
}

fn search(first: &Path, second: &Path) -> std::ffi::OsString {
    env::join_paths([first, second]).expect("no colon in a path")
}

fn shared(cc: &mut Command, built: &Built) {
    cc.arg(built.libraries.join("libattn.so"));
}

fn r#static(cc: &mut Command, built: &Built) {
    cc.arg(built.libraries.join("libattn.a"));
}

#[test]
fn c_with_the_shared_library() {
    compile_and_run("forward.c", "forward-shared", shared);
}

#[test]
fn c_with_the_static_library() {
    compile_and_run("forward.c", "forward-static", r#static);
}

#[test]
fn c_with_several_threads() {
    // Linked to nothing of the library: the program opens it, and closes it.
    compile_and_run("threads.c", "threads", |_, _| ());
}

#[test]
fn c_with_tensors_of_dlpack() {
    compile_and_run("dlpack.c", "dlpack", shared);
}

/// Runs a Python program with the modules of `bench`; what it said, which has these parts.
fn python(program: &str, parts: &[&str]) {
    if !there("python3") {
        return;
    }
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench");
    let mut python = Command::new("python3");
    python.arg("-B").arg(source(program)).arg(bench);
    python.env("LD_LIBRARY_PATH", &BUILT.driver).env("ATTN_LIBRARY", BUILT.libraries.join("libattn.so"));
    let said = succeed(&mut python);
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
}

#[test]
fn python_with_the_module_of_bench() {
    python("forward.py", &["right: fwd_sm90_bf16_d32_causal: bf16 b=1"]);
}

#[test]
fn python_with_packed_and_paged_sequences() {
    python("serving.py", &["right: ", "_sm90_bf16_d64"]);
}

#[test]
fn python_with_tensors_of_dlpack() {
    python("dlpack.py", &["right: "]);
}

#[test]
fn only_the_headers_symbols_are_exported() {
    if !there("nm") {
        return;
    }
    let library = BUILT.libraries.join("libattn.so");
    let listed =
        succeed(Command::new("nm").args(["--dynamic", "--defined-only", "--format=just-symbols"]).arg(&library));
    let mut symbols: Vec<&str> = listed.lines().map(str::trim).collect();
    symbols.sort_unstable();
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let header =
        ["attn.h", "attn_dlpack.h"].map(|name| fs::read_to_string(include.join(name)).expect("committed")).concat();
    let mut declared: Vec<&str> = header
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '('))
        .filter_map(|word| word.split_once('(').map(|(name, _)| name))
        .filter(|name| name.starts_with("attn_"))
        .collect();
    declared.sort_unstable();
    declared.dedup();
    assert_eq!(symbols, declared);
}
