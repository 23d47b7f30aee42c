//! Plans: made, asked and destroyed.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use attn_host::{Device, Plan as HostPlan};

use crate::append::AppendPlan;
use crate::pointers::{destroy, give, lent, read, write};
use crate::problem::Problem;
use crate::serving::Serving;
use crate::status::{Failure, Status, guarded};

/// A checked problem with its kernel, in one CUDA context. It never changes and may be used by several threads.
#[derive(Debug)]
pub struct Plan {
    pub(crate) host: HostPlan,
    pub(crate) asked: Asked,
    /// The number of its device.
    pub(crate) device: i32,
    kernel: CString,
    description: CString,
}

impl Plan {
    fn new(host: HostPlan, asked: Asked, device: i32) -> Result<Self, Failure> {
        let text = |text: String| CString::new(text).map_err(|e| Failure::argument(e.to_string()));
        let (kernel, description) = (text(host.kernel().name.to_owned())?, text(host.to_string())?);
        Ok(Plan { host, asked, device, kernel, description })
    }
}

// Any thread may use and destroy one.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Plan>();
    shared::<AppendPlan>();
};

/// What a plan is asked to compute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) problem: Problem,
    /// What makes it more than a dense problem.
    pub(crate) serving: Option<Serving>,
}

impl Asked {
    /// # Safety
    /// `problem` and `serving` are null or what they are called. Without `serving` the problem is a dense one.
    unsafe fn read(problem: *const Problem, serving: *const Serving) -> Result<Self, Failure> {
        // SAFETY: as the caller promises.
        unsafe {
            let problem = read("problem", problem)?;
            let serving = if serving.is_null() { None } else { Some(read("serving", serving)?) };
            Ok(Asked { problem, serving })
        }
    }

    fn to_host(self) -> Result<attn_host::Problem, Failure> {
        match self.serving {
            None => self.problem.to_host(),
            Some(serving) => serving.of(self.problem),
        }
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
    // SAFETY: as the caller promises.
    unsafe {
        give("plan", plan, || {
            let asked = Asked::read(problem, serving)?;
            let (problem, device) = (asked.to_host()?, Device::current()?);
            Plan::new(make(&device, &problem, kernel)?, asked, device.info().ordinal)
        })
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
        let problem = unsafe { Asked::read(problem, serving) }?.to_host()?;
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
        // SAFETY: as the caller promises.
        unsafe { destroy(plan) };
        Ok(())
    });
}

/// Bytes of device memory that a launch needs beside its tensors, aligned to 256 bytes. Zero: no workspace.
/// Launches that may run at the same time, on two streams or in two branches of a graph, need one each.
///
/// # Safety
/// `plan` is null or a plan; `bytes` is null or a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_plan_workspace_bytes(plan: *const Plan, bytes: *mut u64) -> Status {
    guarded(|| {
        // SAFETY: a plan and a place for a number, if not null (caller).
        unsafe { write("bytes", bytes, lent("plan", plan)?.host.workspace_bytes()) }
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
