//! Tensors that others hold: what they see, and who frees the memory when.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// Memory that counts how often it is freed.
struct Memory(Arc<AtomicU32>);

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn exported() -> (*mut DLManagedTensorVersioned, Arc<AtomicU32>) {
    let freed = Arc::new(AtomicU32::new(0));
    let form = Form::new(Element::F16, [(2, 640), (5, 128), (64, 1)]);
    let held = Held { owner: Arc::new(Memory(freed.clone())), address: AT, form, device: 3 };
    let mut tensor = ptr::null_mut();
    // SAFETY: a place for a pointer.
    unsafe { hand_out("tensor", &mut tensor, || Ok(held)) }.expect("a place");
    (tensor, freed)
}

/// Deletes as a consumer does.
fn delete(tensor: *mut DLManagedTensorVersioned) {
    // SAFETY: a tensor that has not been deleted.
    unsafe { ((*tensor).deleter.expect("there is one"))(tensor) }
}

#[test]
fn a_consumer_sees_the_tensor() {
    let (tensor, _) = exported();
    // SAFETY: not deleted yet.
    let found = unsafe { &*tensor };
    assert_eq!((found.version, found.flags), (DLPackVersion { major: 1, minor: 1 }, 0));
    let DLTensor { data, device, ndim, dtype, shape, strides, byte_offset } = found.dl_tensor;
    assert_eq!((data.addr(), byte_offset, ndim), (AT as usize, 0, 3));
    assert_eq!((device, dtype), (DLDevice { device_type: CUDA, device_id: 3 }, Element::F16.dtype()));
    // SAFETY: three of each.
    let (shape, strides) = unsafe { (std::slice::from_raw_parts(shape, 3), std::slice::from_raw_parts(strides, 3)) };
    assert_eq!((shape, strides), ([2, 5, 64].as_slice(), [640, 128, 1].as_slice()));
    delete(tensor);
}

#[test]
fn memory_is_freed_once_with_the_last_tensor_on_whatever_thread() {
    let (tensor, freed) = exported();
    let (mut again, mut old) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: a tensor that has not been deleted, places for pointers.
    unsafe {
        assert_eq!(attn_dlpack_share(tensor, &mut again), Status::Ok);
        assert_eq!(attn_dlpack_share_unversioned(again, &mut old), Status::Ok);
    }
    delete(tensor);
    delete(again);
    assert_eq!(freed.load(Ordering::Relaxed), 0);
    // SAFETY: not deleted yet.
    let found = unsafe { &*old };
    assert_eq!((found.dl_tensor.data.addr(), found.dl_tensor.ndim), (AT as usize, 3));
    let address = old.expose_provenance();
    let elsewhere = std::thread::spawn(move || {
        let old = ptr::with_exposed_provenance_mut::<DLManagedTensor>(address);
        // SAFETY: as above; this thread is the only one that has it.
        unsafe { ((*old).deleter.expect("there is one"))(old) }
    });
    elsewhere.join().expect("no panic");
    assert_eq!(freed.load(Ordering::Relaxed), 1);
}

#[test]
fn tensors_of_others_are_not_shared() {
    let (tensor, _) = exported();
    let mut shared = ptr::dangling_mut();
    // SAFETY: a tensor that has not been deleted, a place for a pointer; null is allowed.
    unsafe {
        let own = (*tensor).manager_ctx;
        (*tensor).manager_ctx = ptr::null_mut();
        assert_eq!(attn_dlpack_share(tensor, &mut shared), Status::InvalidArgument);
        assert!(shared.is_null(), "what failed leaves null behind");
        assert_eq!(attn_dlpack_share(ptr::null(), &mut shared), Status::InvalidArgument);
        assert_eq!(attn_dlpack_share(tensor, ptr::null_mut()), Status::InvalidArgument);
        (*tensor).manager_ctx = own;
    }
    delete(tensor);
}

/// A capsule as far as its destructor sees it.
struct Capsule {
    name: &'static CStr,
    pointer: *mut c_void,
}

unsafe extern "C" fn is_valid(capsule: *mut c_void, name: *const c_char) -> c_int {
    // SAFETY: the test's own capsule, and a terminated name.
    unsafe { c_int::from((*capsule.cast::<Capsule>()).name == CStr::from_ptr(name)) }
}

unsafe extern "C" fn get_pointer(capsule: *mut c_void, _: *const c_char) -> *mut c_void {
    // SAFETY: the test's own capsule.
    unsafe { (*capsule.cast::<Capsule>()).pointer }
}

#[test]
fn a_capsule_deletes_what_nobody_took() {
    let destroy = |name, pointer| {
        let mut capsule = Capsule { name, pointer };
        // SAFETY: the test's own capsule, whose name says what the pointer is.
        unsafe { attn_dlpack_capsule_destroy((&raw mut capsule).cast()) };
    };
    let (tensor, freed) = exported();
    destroy(c"dltensor_versioned", tensor.cast());
    assert_eq!(freed.load(Ordering::Relaxed), 0, "without Python's functions nothing is known");
    // SAFETY: such functions, or null.
    unsafe {
        assert_eq!(attn_dlpack_capsule_init(None, Some(get_pointer)), Status::InvalidArgument);
        assert_eq!(attn_dlpack_capsule_init(Some(is_valid), None), Status::InvalidArgument);
        assert_eq!(attn_dlpack_capsule_init(Some(is_valid), Some(get_pointer)), Status::Ok);
    }
    let mut old = ptr::null_mut();
    // SAFETY: a tensor that has not been deleted, a place for a pointer.
    assert_eq!(unsafe { attn_dlpack_share_unversioned(tensor, &mut old) }, Status::Ok);
    destroy(c"used_dltensor_versioned", tensor.cast());
    destroy(c"dltensor", ptr::null_mut());
    assert_eq!(freed.load(Ordering::Relaxed), 0);
    destroy(c"dltensor_versioned", tensor.cast());
    assert_eq!(freed.load(Ordering::Relaxed), 0, "the other one holds it");
    destroy(c"dltensor", old.cast());
    assert_eq!(freed.load(Ordering::Relaxed), 1);
}
