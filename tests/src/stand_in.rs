//! The simulator as a shared library, for programs that open the driver themselves.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// Builds the library, optimised, into the target folder that `tmp` is the `CARGO_TARGET_TMPDIR` of, and returns a folder whose
/// `libcuda.so.1` it is.
///
/// # Errors
/// What starting cargo or writing the folder gives, and cargo's failure.
pub fn folder(tmp: &Path) -> io::Result<PathBuf> {
    // The one that the tests were built into, which has the simulator already: cargo does not hold it while tests run.
    let target = tmp.parent().unwrap_or(tmp);
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["rustc", "--quiet", "--release", "--package", "attn-sim-driver"]);
    cargo.args(["--features", "libcuda", "--crate-type", "cdylib"]);
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", target).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("{cargo:?}: {status}")));
    }
    let folder = tmp.join("stand-in");
    fs::create_dir_all(&folder)?;
    // Under another name first: a program of another test may have the library open.
    let fresh = folder.join(format!("libcuda.so.1-{}", std::process::id()));
    fs::copy(target.join("release/libattn_sim_driver.so"), &fresh)?;
    fs::rename(fresh, folder.join("libcuda.so.1"))?;
    Ok(folder)
}
