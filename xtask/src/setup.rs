//! `cargo xtask setup`: the toolchain that compiles kernels.

use std::time::Instant;

use anyhow::Result;

use crate::ptx;
use crate::toolchain;

/// Find or fetch the toolchain that compiles kernels.
///
/// What is fetched goes to `target/toolchain`; nothing is installed and no root is needed. A second run does nothing.
///
/// rustc and LLVM are taken from ATTN_KERNEL_RUSTC (with ATTN_KERNEL_LIBRARY and ATTN_KERNEL_LLVM_BIN where they do not
/// lie in its sysroot), else from a rustup nightly that has rust-src and llvm-tools, else from Debian's packages,
/// unpacked without root. ptxas, nvdisasm, cuobjdump and libnvvm are taken from CUDA_HOME when it is CUDA 13, else from NVIDIA's
/// wheels on PyPI.
#[derive(clap::Args)]
pub struct Options {}

/// Runs the command.
pub fn run(_: &Options) -> Result<()> {
    let start = Instant::now();
    let toolchain = toolchain::ready()?;
    ptx::prepare(&toolchain)?;
    let (rust, cuda) = (&toolchain.rust, &toolchain.cuda);
    if cuda.libnvvm.is_none() {
        println!("no libNVVM ({}): `build-ptx --codegen nvvm` is not available", cuda.origin);
    }
    println!(
        "toolchain ready: rustc {} with LLVM {} ({}), CUDA {} ({}), {:.1} s",
        rust.version,
        rust.llvm_version,
        rust.origin,
        cuda.version,
        cuda.origin,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
