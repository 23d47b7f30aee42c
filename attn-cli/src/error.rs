//! Everything that ends a command early, and the exit status that says so.

use std::path::PathBuf;

use attn_host::Error;
use attn_tests::compare::Mismatch;
use attn_tests::gpu::GpuError;

use crate::files::FileError;

/// Why a command did not finish.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The answer is not what f64 gives.
    #[error("the answer is wrong: {0}")]
    Wrong(#[from] Mismatch),
    /// Options that each may be given, but not so.
    #[error("{argument} is {value}; allowed: {allowed}")]
    Option {
        /// The option.
        argument: &'static str,
        /// What was given.
        value: String,
        /// What may be.
        allowed: String,
    },
    /// A file of tensors.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// The launch side refused or failed.
    #[error(transparent)]
    Host(#[from] Error),
    /// The GPU failed, or there is none.
    #[error("{error}{hint}", error = .0, hint = hint(.0))]
    Gpu(#[from] GpuError),
    /// What is printed cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// The exit status of the program.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Wrong(_) => 1,
            Failure::Option { .. } => 2,
            Failure::File { .. } => 3,
            Failure::Host(error) => status_of(error),
            Failure::Gpu(GpuError::Host(error)) => status_of(error),
            Failure::Gpu(GpuError::NoKernels { .. }) => 4,
            Failure::Gpu(GpuError::Cuda(error)) if is_absent(*error) => 4,
            Failure::Gpu(_) | Failure::Output(_) => 5,
        }
    }

    /// A file's failure with its name.
    pub fn file(path: &std::path::Path) -> impl FnOnce(FileError) -> Failure {
        let path = path.to_owned();
        move |source| Failure::File { path, source }
    }
}

fn status_of(error: &Error) -> u8 {
    match error {
        Error::NoDriver { .. } | Error::DriverTooOld { .. } | Error::WrongDevice { .. } => 4,
        Error::Cuda { .. } | Error::OutOfMemory { .. } | Error::NoContext | Error::WrongContext { .. } => 5,
        Error::ContextGone | Error::NoKernel { .. } | Error::KernelFile { .. } | Error::StaleKernel { .. } => 5,
        // Sizes, strides, lengths and pages of a problem.
        _ => 3,
    }
}

/// Whether a code of the driver says that there is no device.
fn is_absent(error: attn_host::cust::error::CudaError) -> bool {
    use attn_host::cust::error::CudaError;
    matches!(error, CudaError::NoDevice | CudaError::InvalidDevice)
}

/// What else can be done where there is no GPU.
fn hint(error: &GpuError) -> &'static str {
    let absent = match error {
        GpuError::Host(error) => status_of(error) == 4,
        GpuError::Cuda(error) => is_absent(*error),
        GpuError::NoKernels { .. } => true,
        _ => false,
    };
    if absent {
        "; `attn run --simulate` runs kernels on the CPU, `attn plan --arch` asks about absent cards"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_status() {
        let no_driver = || Error::NoDriver { reason: "not found".to_owned() };
        let option = Failure::Option { argument: "--window", value: "x".to_owned(), allowed: "LEFT:RIGHT".to_owned() };
        assert_eq!(Failure::from(no_driver()).status(), 4);
        assert_eq!(Failure::from(GpuError::from(no_driver())).status(), 4);
        assert_eq!(option.status(), 2);
        assert_eq!(Failure::from(Error::HeadGroups { heads: 3, kv_heads: 2 }).status(), 3);
        assert_eq!(Failure::from(Error::OutOfMemory { call: "cuMemAlloc" }).status(), 5);
        let text = Failure::from(GpuError::from(no_driver())).to_string();
        assert!(text.contains("--simulate"), "{text}");
    }
}
