//! Tensors that other libraries take: device memory with a `DLManagedTensor` in front of it.

use std::ffi::c_void;
use std::mem;
use std::sync::Arc;

use attn_host::Allocation;

use super::ffi::{CUDA, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLPackVersion, DLTensor, Element};
use super::view::Form;
use crate::pointers::destroy;
use crate::status::{Failure, guarded};

/// The version of DLPack whose codes are sent: 1.1 has all of them.
const VERSION: DLPackVersion = DLPackVersion { major: 1, minor: 1 };

/// `manager_ctx` of this library's tensors, by which it knows them. Two copies of the library do not take each other's.
static OWN: u64 = u64::from_ne_bytes(*b"libattn\0");

/// Where a tensor lies, and what owns the memory: it goes with the last tensor that holds it.
#[derive(Clone)]
pub(super) struct Held {
    #[expect(dead_code, reason = "kept for its drop")]
    pub(super) owner: Arc<dyn Send + Sync>,
    pub(super) address: u64,
    pub(super) form: Form,
    pub(super) device: i32,
}

/// What stands behind the pointer that a consumer gets, whose structure comes first.
#[repr(C)]
pub(super) struct Export<M> {
    managed: M,
    shape: Vec<i64>,
    strides: Vec<i64>,
    held: Held,
}

/// One of the two structures.
pub(super) trait Managed: Sized {
    fn of(tensor: DLTensor, owner: *mut c_void) -> Self;
}

impl Managed for DLManagedTensorVersioned {
    fn of(dl_tensor: DLTensor, manager_ctx: *mut c_void) -> Self {
        DLManagedTensorVersioned { version: VERSION, manager_ctx, deleter: Some(delete_versioned), flags: 0, dl_tensor }
    }
}

impl Managed for DLManagedTensor {
    fn of(dl_tensor: DLTensor, manager_ctx: *mut c_void) -> Self {
        DLManagedTensor { dl_tensor, manager_ctx, deleter: Some(delete_unversioned) }
    }
}

impl<M: Managed> Export<M> {
    pub(super) fn new(held: Held) -> Self {
        // Rust's vectors stay where they are when their owner moves.
        let mut shape: Vec<i64> = held.form.sizes().iter().map(|&size| size.cast_signed()).collect();
        let mut strides = held.form.strides().to_vec();
        let tensor = DLTensor {
            data: held.address as *mut c_void,
            device: DLDevice { device_type: CUDA, device_id: held.device },
            ndim: shape.len() as i32,
            dtype: held.form.element.dtype(),
            shape: shape.as_mut_ptr(),
            strides: strides.as_mut_ptr(),
            byte_offset: 0,
        };
        Export { managed: M::of(tensor, (&raw const OWN).cast_mut().cast()), shape, strides, held }
    }
}

/// What one of this library's tensors holds.
///
/// # Safety
/// `tensor` is null or a `DLManagedTensorVersioned` that has not been deleted.
pub(super) unsafe fn held(tensor: *const DLManagedTensorVersioned) -> Result<Held, Failure> {
    if tensor.is_null() {
        return Err(Failure::null("tensor"));
    }
    // SAFETY: such a structure (caller); only its start is read, which is the same in every version.
    let owner = unsafe { (&raw const (*tensor).manager_ctx).read() };
    if !std::ptr::addr_eq(owner.cast_const(), &raw const OWN) {
        return Err(Failure::argument("tensor is another library's; allowed: one of attn_dlpack_output".to_owned()));
    }
    // SAFETY: made by `Export::new`, since nothing else has this owner.
    let export = unsafe { &*tensor.cast::<Export<DLManagedTensorVersioned>>() };
    Ok(export.held.clone())
}

unsafe extern "C" fn delete_versioned(tensor: *mut DLManagedTensorVersioned) {
    // SAFETY: the consumer passes what it was given, once.
    unsafe { delete::<DLManagedTensorVersioned>(tensor) }
}

unsafe extern "C" fn delete_unversioned(tensor: *mut DLManagedTensor) {
    // SAFETY: as above.
    unsafe { delete::<DLManagedTensor>(tensor) }
}

/// # Safety
/// `tensor` is null or the start of an export that nobody else uses.
unsafe fn delete<M>(tensor: *mut M) {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { destroy(tensor.cast::<Export<M>>()) };
        Ok(())
    });
}

/// The memory of a form, in the current context.
pub(super) fn allocate(form: Form, device: &attn_host::Device) -> Result<Held, Failure> {
    let bytes = form.span().ok_or_else(|| Failure::problem("the tensor has 2^64 bytes and more".to_owned()))?;
    let memory = Allocation::new(device, bytes)?;
    Ok(Held { address: memory.address().0, owner: Arc::new(memory), form, device: device.info().ordinal })
}

// A consumer may delete on any thread.
const _: fn() = || {
    fn sends<T: Send + Sync>() {}
    sends::<Held>();
};

/// The form of so many bytes.
pub(super) fn bytes(count: u64) -> Form {
    Form::compact(Element::U8, [count])
}

const _: () = assert!(mem::offset_of!(Export<DLManagedTensorVersioned>, managed) == 0);
const _: () = assert!(mem::offset_of!(Export<DLManagedTensor>, managed) == 0);
