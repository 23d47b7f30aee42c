//! A service author's path, as the guide's quick start has it: a new cargo project outside this workspace with one line of dependencies, the
//! program of the guide, a clear error without a driver, and the right answer with one, which is the simulator's here.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use attn_tests::stand_in;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The guide's block that is opened by this line and contains this text.
fn block(opening: &str, part: &str) -> String {
    let chapter = fs::read_to_string(root().join("guide/src/service.md")).expect("the chapter is there");
    let opening = format!("\n```{opening}\n");
    let found =
        chapter.split(&opening).skip(1).filter_map(|rest| rest.split("\n```").next()).find(|b| b.contains(part));
    format!(
        "{}\n",
        found.unwrap_or_else(|| panic!("the quick start has no block that begins with {opening:?} and has {part}"))
    )
}

/// cargo as a user has it, but without a network and with a folder of its own for what is built, in which the tests of `attn-capi` build too.
fn cargo(folder: &Path, words: &[&str]) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(words).args(["--offline", "--quiet"]).current_dir(folder);
    cargo.env("CARGO_TARGET_DIR", built()).env_remove("CUDA_LIBRARY_PATH").env_remove("CUDARC_CUDA_VERSION");
    // As in this workspace, so that what it has compiled serves here.
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "true").env("CARGO_PROFILE_RELEASE_LTO", "off");
    let output = cargo.output().unwrap_or_else(|e| panic!("{cargo:?}: {e}"));
    assert!(output.status.success(), "{cargo:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn built() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("build")
}

/// A folder that goes with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let folder = env::temp_dir().join(format!("attn-service-author-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a writable folder for temporary files");
        Scratch(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind in a folder for temporary files hurts nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The new project, with the guide's line and program.
fn project(scratch: &Path) -> PathBuf {
    cargo(scratch, &["new", "service", "--vcs", "none"]);
    let service = scratch.join("service");
    let host = root().join("attn-host").canonicalize().expect("it is there");
    let lines = block("toml", "attn-host = { git = \"…\", default-features = false }");
    let lines = lines.replace("git = \"…\"", &format!("path = {host:?}"));
    let manifest = fs::read_to_string(service.join("Cargo.toml")).expect("cargo wrote it");
    let (before, after) = manifest.split_once("[dependencies]\n").expect("cargo's own heading");
    fs::write(service.join("Cargo.toml"), format!("{before}{lines}{after}")).expect("writable");
    fs::write(service.join("src/main.rs"), block("rust,no_run", "fn main()")).expect("writable");
    // The versions that were fetched for this workspace.
    fs::copy(root().join("Cargo.lock"), service.join("Cargo.lock")).expect("writable");
    service
}

fn run(program: &Path, libraries: Option<&Path>) -> Output {
    let mut command = Command::new(program);
    match libraries {
        Some(folder) => command.env("LD_LIBRARY_PATH", folder),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
    command.output().expect("it starts")
}

#[test]
fn a_new_project_with_one_dependency_computes_attention() {
    let scratch = Scratch::new();
    cargo(&project(&scratch.0), &["build", "--release"]);
    let program = built().join("release/service");

    // SAFETY: loading the driver, where there is one, runs its initialisers, which are sound in any process.
    if unsafe { libloading::Library::new("libcuda.so.1") }.is_err() {
        let output = run(&program, None);
        assert_eq!(String::from_utf8_lossy(&output.stderr), block("text", "error: no CUDA driver"));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    }

    let driver = stand_in::folder(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("the simulator's library builds");
    let output = run(&program, Some(&driver));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), block("text", "query 0"));
}
