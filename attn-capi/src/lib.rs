//! The C ABI of the attention kernels: [`attn_host`]'s plans and launches for programs that are not written in Rust.
//!
//! `cargo build --release -p attn-capi` makes `libattn.so` and `libattn.a`; `include/attn.h` declares what is in them:
//!
//! ```c
//! attn_problem problem;
//! attn_problem_init(&problem, ATTN_DTYPE_BF16, 4, 4096, 4096, 32, 8, 128, 128);
//! problem.mask = ATTN_MASK_CAUSAL;
//! attn_plan *plan = NULL;
//! if (attn_plan_create(&problem, &plan) != ATTN_STATUS_OK) { fprintf(stderr, "%s\n", attn_last_error()); return 1; }
//! attn_tensors tensors = { .struct_size = sizeof tensors, .q = q, .k = k, .v = v, .o = o };
//! attn_plan_launch(plan, &tensors, stream);
//! attn_plan_destroy(plan);
//! ```
//!
//! `include/attn_dlpack.h` has the same for tensors in the form of DLPack, and results in that form.
//!
//! The functions can be called from Rust as well, which is how their tests do:
//!
//! ```
//! use std::{ffi::CStr, ptr};
//!
//! let mut plan = ptr::null_mut();
//! // SAFETY: `plan` is a place for a pointer; a problem that is not there is refused.
//! let status = unsafe { attn::attn_plan_create(ptr::null(), &mut plan) };
//! assert!(status != attn::Status::Ok && plan.is_null());
//! // SAFETY: the call failed, so there is a text, which lives until the thread's next failure.
//! println!("{}", unsafe { CStr::from_ptr(attn::attn_last_error()) }.to_string_lossy());
//! ```
//!
//! Every structure starts with its own size, so that a later library knows what an earlier program has filled. The library's
//! soname has the number of the ABI, [`attn_abi_version`] returns it, and every symbol begins with `attn_`.
//!
//! No panic leaves a function: it becomes [`Status::Internal`]. What C cannot promise by its types, each function's
//! `# Safety` asks for.
#![allow(rustdoc::broken_intra_doc_links, reason = "shapes stand in brackets, in texts that are the header's too")]

mod append;
mod dlpack;
mod launch;
mod plan;
mod pointers;
mod problem;
mod serving;
mod status;

use std::ffi::c_char;

pub use append::{
    ATTN_PAIRS_HALVES, ATTN_PAIRS_INTERLEAVED, ATTN_SINES_AS_TENSORS, ATTN_SINES_F32, Append, AppendPlan,
    AppendTensors, attn_append_contiguous, attn_append_init, attn_append_plan_create, attn_append_plan_destroy,
    attn_append_plan_launch,
};
pub use dlpack::{
    ATTN_OUTPUT_LSE, ATTN_OUTPUT_O, ATTN_OUTPUT_WORKSPACE, DLDataType, DLDevice, DLManagedTensor,
    DLManagedTensorVersioned, DLPackVersion, DLTensor, DlpackAppendTensors, DlpackTensors, attn_dlpack_append,
    attn_dlpack_append_launch, attn_dlpack_capsule_destroy, attn_dlpack_capsule_init, attn_dlpack_launch,
    attn_dlpack_output, attn_dlpack_problem, attn_dlpack_share, attn_dlpack_share_unversioned,
};
pub use launch::{Tensors, attn_plan_launch, attn_plan_launch_serving};
pub use plan::{
    Plan, attn_plan_create, attn_plan_create_serving, attn_plan_create_with_kernel, attn_plan_description,
    attn_plan_destroy, attn_plan_kernel, attn_plan_workspace_bytes, attn_supports,
};
pub use problem::{
    ATTN_DTYPE_BF16, ATTN_DTYPE_F16, ATTN_MASK_CAUSAL, ATTN_MASK_NONE, ATTN_MASK_WINDOW, Problem, Strides,
    attn_problem_init,
};
pub use serving::{
    ATTN_ALIBI_NONE, ATTN_ALIBI_PER_HEAD, ATTN_ALIBI_PER_SEQUENCE_AND_HEAD, ATTN_DESCALES_NONE, ATTN_DESCALES_PER_HEAD,
    ATTN_DESCALES_PER_SEQUENCE_AND_HEAD, ATTN_FLOAT8_ALL, ATTN_FLOAT8_KEYS, ATTN_FLOAT8_NONE, ATTN_SPLITS_AUTO,
    ATTN_UNLIMITED, Serving, ServingTensors, attn_serving_contiguous, attn_serving_init,
};
pub use status::{Status, attn_last_error};

/// The ABI that this header declares. It changes when a program built with an older header would no longer work.
pub const ATTN_ABI_VERSION: u32 = 1;

const _: () = assert!(
    matches!(u32::from_str_radix(env!("ATTN_ABI_VERSION"), 10), Ok(ATTN_ABI_VERSION)),
    "the soname of build.rs has another version"
);

/// The ABI of the library that was loaded: ATTN_ABI_VERSION of the header that it was built with.
#[unsafe(no_mangle)]
pub extern "C" fn attn_abi_version() -> u32 {
    ATTN_ABI_VERSION
}

/// The library's release, "0.1.0" say. Never null, never freed.
#[unsafe(no_mangle)]
pub extern "C" fn attn_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
