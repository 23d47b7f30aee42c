//! What every function returns, and the text of the last failure.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use attn_host::Error;

/// What became of a call. Later versions may add codes; anything but ATTN_STATUS_OK is a failure.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// A pointer that must not be null is, a structure's size is not one that this library knows, or a text is not UTF-8.
    InvalidArgument = 1,
    /// A size, stride, scale, element type or mask is not allowed.
    InvalidProblem = 2,
    /// No kernel computes this problem on this device, or no kernel has the name that was asked for.
    Unsupported = 3,
    /// A device address is null, absent, not aligned, not planned for, or not the plan's device's.
    InvalidAddress = 4,
    /// There is no CUDA driver, or it is too old.
    Driver = 5,
    /// No CUDA context is current, or another one than the plan's.
    Context = 6,
    /// A kernel's code was not found, not readable, or not of this library's plans.
    Kernel = 7,
    /// The driver ran out of memory.
    OutOfMemory = 8,
    /// A call of the driver failed, perhaps because of earlier work on the device.
    Cuda = 9,
    /// A defect of this library.
    Internal = 10,
}

/// A failure on its way to the caller.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    text: String,
}

impl Failure {
    pub(crate) fn argument(text: String) -> Self {
        Failure { status: Status::InvalidArgument, text }
    }

    pub(crate) fn null(argument: &str) -> Self {
        Failure::argument(format!("{argument} is a null pointer"))
    }

    pub(crate) fn problem(text: String) -> Self {
        Failure { status: Status::InvalidProblem, text }
    }

    pub(crate) fn address(text: String) -> Self {
        Failure { status: Status::InvalidAddress, text }
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        Failure { status: Status::Internal, text: format!("a defect of this library: {text}") }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::NoDriver { .. } | Error::DriverTooOld { .. } => Status::Driver,
            Error::NoContext | Error::WrongContext { .. } | Error::ContextGone => Status::Context,
            Error::WrongDevice { .. } | Error::Unsupported { .. } | Error::UnknownKernel { .. } => Status::Unsupported,
            Error::NoKernel { .. }
            | Error::KernelFile { .. }
            | Error::StaleKernel { .. }
            | Error::ForeignPlan { .. } => Status::Kernel,
            Error::NullPointer { .. }
            | Error::Misaligned { .. }
            | Error::ForeignPointer { .. }
            | Error::Missing { .. }
            | Error::NotPlanned { .. } => Status::InvalidAddress,
            Error::OutOfMemory { .. } | Error::PoolLimit { .. } => Status::OutOfMemory,
            Error::Cuda { .. } => Status::Cuda,
            // Sizes, strides, scales and whatever else is said of a problem.
            _ => Status::InvalidProblem,
        };
        Failure { status, text: error.to_string() }
    }
}

thread_local! {
    static LAST: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Runs a function's body: a failure or a panic is noted for [`attn_last_error`] and becomes a code.
pub(crate) fn guarded(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    // Unwind safe: a body touches only what its caller lent it, and plans never change.
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(Failure::panic(&*payload)));
    let Err(Failure { status, text }) = outcome else { return Status::Ok };
    let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
    // While the thread ends there may be no place for it any more.
    let _ = LAST.try_with(|last| last.replace(Some(text)));
    status
}

/// What the last failure on this thread was about, null before the first and while the thread ends. Valid until the next failure on this
/// thread.
#[unsafe(no_mangle)]
pub extern "C" fn attn_last_error() -> *const c_char {
    let text = LAST.try_with(|last| last.borrow().as_ref().map_or(ptr::null(), |text| text.as_ptr()));
    text.unwrap_or(ptr::null())
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn last() -> String {
        // SAFETY: the text is this thread's, and no call failed since.
        unsafe { CStr::from_ptr(attn_last_error()) }.to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn panics_become_a_code_and_a_text() {
        assert_eq!(guarded(|| panic!("a {} text", "formatted")), Status::Internal);
        assert_eq!(last(), "a defect of this library: a formatted text");
        assert_eq!(guarded(|| panic!("plain")), Status::Internal);
        assert_eq!(last(), "a defect of this library: plain");
    }

    #[test]
    fn the_last_error_outlives_successes_and_belongs_to_its_thread() {
        assert_eq!(guarded(|| Err(Failure::argument("first\0second".to_owned()))), Status::InvalidArgument);
        assert_eq!(guarded(|| Ok(())), Status::Ok);
        assert_eq!(last(), "first?second");
        let elsewhere = std::thread::spawn(|| attn_last_error().is_null());
        assert!(elsewhere.join().expect("no panic"));
    }

    /// Fails and asks why when its thread ends.
    struct Late;

    impl Drop for Late {
        fn drop(&mut self) {
            assert_eq!(guarded(|| Err(Failure::null("late"))), Status::InvalidArgument);
            let text = attn_last_error();
            // SAFETY: this thread's text, and no call failed since.
            assert!(text.is_null() || unsafe { CStr::from_ptr(text) } == c"late is a null pointer");
        }
    }

    #[test]
    fn a_thread_that_ends_may_still_fail() {
        thread_local! {
            static BEFORE: Late = const { Late };
            static AFTER: Late = const { Late };
        }
        // One is dropped before the last error is, the other behind it. A panic there would end the process.
        let ended = std::thread::spawn(|| {
            BEFORE.with(|_| ());
            assert_eq!(guarded(|| Err(Failure::null("first"))), Status::InvalidArgument);
            AFTER.with(|_| ());
        });
        ended.join().expect("no panic");
    }

    #[test]
    fn each_kind_of_error_has_its_code() {
        let code = |error: Error| Failure::from(error).status;
        assert_eq!(code(Error::NoDriver { reason: String::new() }), Status::Driver);
        assert_eq!(code(Error::NoContext), Status::Context);
        assert_eq!(code(Error::UnknownKernel { name: String::new(), allowed: String::new() }), Status::Unsupported);
        assert_eq!(code(Error::NoKernel { kernel: "k", reason: String::new() }), Status::Kernel);
        assert_eq!(code(Error::NullPointer { argument: "q" }), Status::InvalidAddress);
        assert_eq!(code(Error::OutOfMemory { call: "cuLaunchKernel" }), Status::OutOfMemory);
        assert_eq!(code(Error::HeadGroups { heads: 3, kv_heads: 2 }), Status::InvalidProblem);
        let failed =
            Error::Cuda { call: "cuLaunchKernel", code: 719, name: String::new(), message: "launch failed".to_owned() };
        assert_eq!(code(failed), Status::Cuda);
    }
}
