//! Compiles the kernels with Rust-CUDA: `attn-rust-cuda OUT.ptx`.

use std::path::PathBuf;
use std::process::ExitCode;

use cuda_builder::{CudaBuilder, NvvmArch};

fn main() -> ExitCode {
    let Some(out) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: attn-rust-cuda OUT.ptx");
        return ExitCode::FAILURE;
    };
    let kernels = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kernels");
    // Arithmetic is what the kernels write: no contraction, no replaced mathematics.
    let builder = CudaBuilder::new(kernels).arch(NvvmArch::Compute90a).fma_contraction(false).override_libm(false);
    match builder.generate_line_info(false).copy_to(&out).build() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: Rust-CUDA does not compile the kernels: {error}");
            ExitCode::FAILURE
        }
    }
}
