//! Plans: made, asked and destroyed.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use attn_host::{Device, Plan as HostPlan};

use crate::problem::{Problem, read};
use crate::serving::Serving;
use crate::status::{Failure, Status, guarded};

/// A checked problem with its kernel, in one CUDA context. It never changes and may be used by several threads.
#[derive(Debug)]
pub struct Plan {
    pub(crate) host: HostPlan,
    kernel: CString,
    description: CString,
}

impl Plan {
    fn new(host: HostPlan) -> Result<Self, Failure> {
        let text = |text: String| CString::new(text).map_err(|e| Failure::argument(e.to_string()));
        Ok(Plan { kernel: text(host.kernel().name.to_owned())?, description: text(host.to_string())?, host })
    }
}

/// Makes a plan and gives it to the caller.
///
/// # Safety
/// As [`attn_plan_create`] asks.
unsafe fn create(
    problem: *const Problem,
    serving: *const Serving,
    kernel: *const c_char,
    plan: *mut *mut Plan,
) -> Result<(), Failure> {
    if plan.is_null() {
        return Err(Failure::null("plan"));
    }
    // SAFETY: a place for a pointer (caller). Null until there is a plan, so that it may be destroyed whatever happens.
    unsafe { plan.write(ptr::null_mut()) };
    // SAFETY: as the caller promises.
    let problem = unsafe { host_problem(problem, serving) }?;
    // SAFETY: as above.
    let made = Plan::new(unsafe { make(&Device::current()?, &problem, kernel) }?)?;
    // SAFETY: as above.
    unsafe { plan.write(Box::into_raw(Box::new(made))) };
    Ok(())
}

/// The problem for attn-host: a dense one without an `attn_serving`.
///
/// # Safety
/// `problem` and `serving` are null or what they are called.
unsafe fn host_problem(problem: *const Problem, serving: *const Serving) -> Result<attn_host::Problem, Failure> {
    // SAFETY: as the caller promises.
    unsafe {
        let problem = read("problem", problem)?;
        if serving.is_null() { problem.to_host() } else { read("serving", serving)?.of(problem) }
    }
}

/// Makes a plan with the kernel of a name, or where that is null with the one that should be fastest.
///
/// # Safety
/// `kernel` is null or a terminated text.
unsafe fn make(device: &Device, problem: &attn_host::Problem, kernel: *const c_char) -> Result<HostPlan, Failure> {
    if kernel.is_null() {
        return Ok(HostPlan::new(device, problem)?);
    }
    // SAFETY: a terminated text (caller).
    let name = unsafe { CStr::from_ptr(kernel) };
    let name = name.to_str().map_err(|_| Failure::argument(format!("kernel is {name:?}; allowed: UTF-8")))?;
    Ok(HostPlan::with_kernel(device, problem, name)?)
}

/// Makes a plan in the CUDA context that is current on this thread, with the kernel that should be fastest.
///
/// The first plan of a kernel in a context loads its code, which takes milliseconds and stays until the context goes;
/// later ones take microseconds. On failure *plan is null.
///
/// # Safety
/// `problem` is null or an `attn_problem`; `plan` is null or a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_plan_create(problem: *const Problem, plan: *mut *mut Plan) -> Status {
    // SAFETY: as the caller promises.
    guarded(|| unsafe { create(problem, ptr::null(), ptr::null(), plan) })
}

/// Like attn_plan_create, with the kernel of this name ("fwd_sm90_bf16_d128") where it can compute the problem.
///
/// # Safety
/// As for `attn_plan_create`; `kernel` is null or a terminated text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_plan_create_with_kernel(
    problem: *const Problem,
    kernel: *const c_char,
    plan: *mut *mut Plan,
) -> Status {
    guarded(|| {
        if kernel.is_null() {
            return Err(Failure::null("kernel"));
        }
        // SAFETY: as the caller promises.
        unsafe { create(problem, ptr::null(), kernel, plan) }
    })
}

/// Makes a plan for the serving kernels: attn_plan_create with packed or paged sequences, windows, changed scores or splits.
///
/// `kernel` is the name of a kernel, or null for the one that should be fastest. A plan is launched by attn_plan_launch_serving.
///
/// # Safety
/// `problem`, `serving` and `kernel` are null or what they are called; `plan` is null or a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_plan_create_serving(
    problem: *const Problem,
    serving: *const Serving,
    kernel: *const c_char,
    plan: *mut *mut Plan,
) -> Status {
    guarded(|| {
        if serving.is_null() {
            return Err(Failure::null("serving"));
        }
        // SAFETY: as the caller promises.
        unsafe { create(problem, serving, kernel, plan) }
    })
}

/// Whether a plan for the problem can be made on the device of the current context: ATTN_STATUS_OK, or why not. Nothing is loaded.
///
/// # Safety
/// `problem` and `serving` are null or what they are called. Without `serving` the problem is a dense one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_supports(problem: *const Problem, serving: *const Serving) -> Status {
    guarded(|| {
        // SAFETY: as the caller promises.
        let problem = unsafe { host_problem(problem, serving) }?;
        Ok(attn_host::supports(&problem, Device::current()?.info())?)
    })
}

/// Destroys a plan; null is allowed. Launches of it that are still queued go on.
///
/// # Safety
/// `plan` is null or a plan that has not been destroyed and that no thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_plan_destroy(plan: *mut Plan) {
    guarded(|| {
        if !plan.is_null() {
            // SAFETY: made by `create` from a box, and nobody else's (caller).
            drop(unsafe { Box::from_raw(plan) });
        }
        Ok(())
    });
}

/// Bytes of device memory that a launch needs beside its tensors, aligned to 256 bytes. Zero: no workspace.
///
/// # Safety
/// `plan` is null or a plan; `bytes` is null or a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_plan_workspace_bytes(plan: *const Plan, bytes: *mut u64) -> Status {
    guarded(|| {
        // SAFETY: a plan if not null (caller).
        let plan = unsafe { plan.as_ref() }.ok_or_else(|| Failure::null("plan"))?;
        if bytes.is_null() {
            return Err(Failure::null("bytes"));
        }
        // SAFETY: a place for a number (caller).
        unsafe { bytes.write(plan.host.workspace_bytes()) };
        Ok(())
    })
}

/// The name of the plan's kernel; null for a null plan. Valid as long as the plan.
///
/// # Safety
/// `plan` is null or a plan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_plan_kernel(plan: *const Plan) -> *const c_char {
    // SAFETY: a plan if not null (caller).
    unsafe { plan.as_ref() }.map_or(ptr::null(), |plan| plan.kernel.as_ptr())
}

/// The plan in words: kernel, problem, tiles, grid and memory; null for a null plan. Valid as long as the plan.
///
/// # Safety
/// `plan` is null or a plan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_plan_description(plan: *const Plan) -> *const c_char {
    // SAFETY: a plan if not null (caller).
    unsafe { plan.as_ref() }.map_or(ptr::null(), |plan| plan.description.as_ptr())
}
