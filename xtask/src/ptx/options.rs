//! What the user can ask of `build-ptx`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::arch::Arch;
use crate::workspace;

/// Compile the kernels from Rust to PTX and cubin, and print their resources.
///
/// Fails when a kernel spills registers, has a stack frame or draws a performance warning from ptxas. Fetches the toolchain
/// first where `setup` has not. Only kernels that changed are compiled again.
#[derive(clap::Args)]
pub struct Options {
    /// Architectures, separated by commas; the default are those that have kernels, all of them.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sm_90a,sm_100a,sm_103a")]
    pub arch: Vec<Arch>,
    /// The code generator.
    #[arg(long, value_enum, default_value = "llvm")]
    pub codegen: Codegen,
    /// Only kernels whose name contains this.
    #[arg(long, value_name = "PART")]
    pub kernel: Option<String>,
    /// Folder for the results: `DIR/ARCH/KERNEL.EXT` [default: target/ptx].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What to write, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ptx,cubin")]
    pub emit: Vec<Emit>,
    /// Also compile the kernels that only tests start.
    #[arg(long)]
    pub probes: bool,
    /// Also write the kernels that attn-host carries, `attn-host/prebuilt`, and the probes' PTX that attn-sim's tests run.
    #[arg(long, conflicts_with_all = ["kernel", "probes", "codegen"])]
    pub prebuilt: bool,
    /// Prove that the kernels that attn-host carries, and the probes of attn-sim's tests, are those of the source.
    #[arg(long, conflicts_with_all = ["kernel", "codegen", "prebuilt"])]
    pub check_prebuilt: bool,
    /// Also print what each step took.
    #[arg(short, long)]
    pub verbose: bool,
    /// Kernels compiled at once [default: one per core].
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
}

impl Options {
    /// The architectures, to read.
    pub fn arch_names(&self) -> String {
        self.arch.iter().map(|arch| arch.name()).collect::<Vec<_>>().join(", ")
    }

    /// The folder for the results.
    pub fn out(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| workspace::target().join("ptx"))
    }
}

/// A way from IR to PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Codegen {
    /// LLVM's opt and llc.
    Llvm,
    /// NVIDIA's libNVVM; from Blackwell on, for Hopper it takes only the IR of LLVM 7.
    Nvvm,
    /// Rust-CUDA's code generator, for Hopper: needs a nightly, LLVM 7 and NVIDIA's toolkit, and is not exercised by CI.
    RustCuda,
}

/// A kind of result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// Annotated, unoptimised LLVM IR.
    Ir,
    /// PTX.
    Ptx,
    /// Machine code.
    Cubin,
    /// Machine code as text.
    Sass,
}

impl Emit {
    /// The file name's extension.
    pub fn extension(self) -> &'static str {
        match self {
            Emit::Ir => "ll",
            Emit::Ptx => "ptx",
            Emit::Cubin => "cubin",
            Emit::Sass => "sass",
        }
    }
}
