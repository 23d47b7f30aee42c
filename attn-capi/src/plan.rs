//! Plans: made, asked and destroyed.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use attn_host::{Device, Plan as HostPlan};

use crate::problem::{Problem, read};
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
    plan: *mut *mut Plan,
    make: impl FnOnce(&Device, &attn_host::Problem) -> Result<HostPlan, Failure>,
) -> Result<(), Failure> {
    if plan.is_null() {
        return Err(Failure::null("plan"));
    }
    // SAFETY: a place for a pointer (caller). Null until there is a plan, so that it may be destroyed whatever happens.
    unsafe { plan.write(ptr::null_mut()) };
    // SAFETY: as the caller promises.
    let problem = unsafe { read("problem", problem) }?.to_host()?;
    let made = Plan::new(make(&Device::current()?, &problem)?)?;
    // SAFETY: as above.
    unsafe { plan.write(Box::into_raw(Box::new(made))) };
    Ok(())
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
    guarded(|| unsafe { create(problem, plan, |device, problem| Ok(HostPlan::new(device, problem)?)) })
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
    let make = |device: &Device, problem: &attn_host::Problem| {
        if kernel.is_null() {
            return Err(Failure::null("kernel"));
        }
        // SAFETY: a terminated text (caller).
        let name = unsafe { CStr::from_ptr(kernel) };
        let name = name.to_str().map_err(|_| Failure::argument(format!("kernel is {name:?}; allowed: UTF-8")))?;
        Ok(HostPlan::with_kernel(device, problem, name)?)
    };
    // SAFETY: as the caller promises.
    guarded(|| unsafe { create(problem, plan, make) })
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
