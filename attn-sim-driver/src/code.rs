//! `CUresult`: the codes that this driver returns, with the driver's names and words for them.

use std::ffi::CStr;

/// A `CUresult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Code(pub i32);

macro_rules! codes {
    ($($ident:ident = $value:literal $name:literal $words:literal;)*) => {
        #[allow(missing_docs)] // the driver's names
        impl Code {
            $(pub const $ident: Code = Code($value);)*

            /// The code's name, `CUDA_ERROR_...`.
            pub fn name(self) -> Option<&'static CStr> {
                match self.0 { $($value => Some($name),)* _ => None }
            }

            /// The code in words.
            pub fn words(self) -> Option<&'static CStr> {
                match self.0 { $($value => Some($words),)* _ => None }
            }
        }
    };
}

codes! {
    SUCCESS = 0 c"CUDA_SUCCESS" c"no error";
    INVALID_VALUE = 1 c"CUDA_ERROR_INVALID_VALUE" c"invalid argument";
    OUT_OF_MEMORY = 2 c"CUDA_ERROR_OUT_OF_MEMORY" c"out of memory";
    NOT_INITIALIZED = 3 c"CUDA_ERROR_NOT_INITIALIZED" c"cuInit has not been called";
    INVALID_DEVICE = 101 c"CUDA_ERROR_INVALID_DEVICE" c"invalid device ordinal";
    INVALID_IMAGE = 200 c"CUDA_ERROR_INVALID_IMAGE" c"the image is neither PTX text nor a form that a GPU would take";
    INVALID_CONTEXT = 201 c"CUDA_ERROR_INVALID_CONTEXT" c"invalid device context";
    NO_BINARY_FOR_GPU = 209 c"CUDA_ERROR_NO_BINARY_FOR_GPU" c"the simulator runs PTX text, not machine code, and only of its architecture";
    INVALID_PTX = 218 c"CUDA_ERROR_INVALID_PTX" c"a PTX text was not accepted";
    FILE_NOT_FOUND = 301 c"CUDA_ERROR_FILE_NOT_FOUND" c"file not found";
    INVALID_HANDLE = 400 c"CUDA_ERROR_INVALID_HANDLE" c"invalid resource handle";
    NOT_FOUND = 500 c"CUDA_ERROR_NOT_FOUND" c"named symbol not found";
    ILLEGAL_ADDRESS = 700 c"CUDA_ERROR_ILLEGAL_ADDRESS" c"an address outside of every allocation";
    HOST_MEMORY_ALREADY_REGISTERED = 712 c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED" c"host memory is registered already";
    HOST_MEMORY_NOT_REGISTERED = 713 c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED" c"host memory is not registered";
    LAUNCH_FAILED = 719 c"CUDA_ERROR_LAUNCH_FAILED" c"the simulator found errors in the launch; its report is on standard error";
    NOT_SUPPORTED = 801 c"CUDA_ERROR_NOT_SUPPORTED" c"not modelled by the simulator; its report is on standard error";
    UNKNOWN = 999 c"CUDA_ERROR_UNKNOWN" c"the simulator itself failed";
}

impl From<Result<(), Code>> for Code {
    fn from(result: Result<(), Code>) -> Self {
        result.err().unwrap_or(Code::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_names_and_others_have_none() {
        assert_eq!(Code::LAUNCH_FAILED.name(), Some(c"CUDA_ERROR_LAUNCH_FAILED"));
        assert!(Code::LAUNCH_FAILED.words().is_some_and(|w| w.to_string_lossy().contains("report")));
        assert_eq!(Code(12345).name(), None);
        assert_eq!(Code::from(Err(Code::NOT_FOUND)), Code(500));
        assert_eq!(Code::from(Ok(())), Code::SUCCESS);
    }
}
