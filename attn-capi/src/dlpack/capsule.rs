//! The destructor of Python's capsules, as code that is not Python: a capsule is often destroyed while an exception is on its way, when no
//! Python code may run, so that a wrapper by ctypes cannot be its own destructor.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use super::ffi::{DLManagedTensor, DLManagedTensorVersioned};
use crate::status::{Failure, guarded};

type IsValid = unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int;
type GetPointer = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

/// What is needed of Python, which this library does not link.
#[derive(Clone, Copy)]
struct Python {
    is_valid: IsValid,
    get_pointer: GetPointer,
}

static PYTHON: OnceLock<Python> = OnceLock::new();

/// A capsule's names while nobody has taken the tensor out of it.
const VERSIONED: &CStr = c"dltensor_versioned";
const UNVERSIONED: &CStr = c"dltensor";

/// Notes Python's functions; those that are noted first stay.
pub(super) fn init(is_valid: Option<IsValid>, get_pointer: Option<GetPointer>) -> Result<(), Failure> {
    let is_valid = is_valid.ok_or_else(|| Failure::null("is_valid"))?;
    let get_pointer = get_pointer.ok_or_else(|| Failure::null("get_pointer"))?;
    PYTHON.get_or_init(|| Python { is_valid, get_pointer });
    Ok(())
}

/// Deletes the tensor that is still in the capsule, of whatever producer.
///
/// # Safety
/// A capsule on its way out.
pub(super) unsafe fn destroy(capsule: *mut c_void) {
    // SAFETY: as the caller promises. A capsule of such a name has a pointer to such a structure.
    guarded(|| unsafe {
        let Some(python) = PYTHON.get() else { return Ok(()) };
        if let Some(tensor) = python.tensor::<DLManagedTensorVersioned>(capsule, VERSIONED)
            && let Some(delete) = (*tensor).deleter
        {
            delete(tensor);
        }
        if let Some(tensor) = python.tensor::<DLManagedTensor>(capsule, UNVERSIONED)
            && let Some(delete) = (*tensor).deleter
        {
            delete(tensor);
        }
        Ok(())
    });
}

impl Python {
    /// # Safety
    /// `capsule` is one.
    unsafe fn tensor<T>(&self, capsule: *mut c_void, name: &CStr) -> Option<*mut T> {
        // SAFETY: as Python's functions ask; neither fails on a capsule of that name.
        unsafe {
            let has = (self.is_valid)(capsule, name.as_ptr()) != 0;
            has.then(|| (self.get_pointer)(capsule, name.as_ptr()).cast::<T>()).filter(|tensor| !tensor.is_null())
        }
    }
}
