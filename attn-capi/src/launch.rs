//! Launching a plan.

use std::ffi::c_void;

use attn_host::{DevicePtr, Stream};

use crate::plan::Plan;
use crate::pointers::{lent, read};
use crate::serving::ServingTensors;
use crate::status::{Failure, Status, guarded};

/// Where the tensors of a launch lie in device memory: CUdeviceptr, or pointers of the CUDA runtime as numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensors {
    /// sizeof(attn_tensors).
    pub struct_size: usize,
    /// Q, read; aligned to 16 bytes like K, V and O.
    pub q: u64,
    /// K, read.
    pub k: u64,
    /// V, read.
    pub v: u64,
    /// O, written.
    pub o: u64,
    /// LSE, f32, written; 0 where it is not wanted.
    pub lse: u64,
    /// attn_plan_workspace_bytes bytes; may be 0 when none are needed.
    pub workspace: u64,
}

impl Tensors {
    pub(crate) fn to_host(self) -> attn_host::Tensors {
        let Tensors { q, k, v, o, lse, workspace, .. } = self;
        let [q, k, v, o] = [q, k, v, o].map(DevicePtr);
        attn_host::Tensors { lse: present(lse), workspace: present(workspace), ..attn_host::Tensors::new(q, k, v, o) }
    }
}

/// An address that is 0 where there is none.
pub(crate) fn present(address: u64) -> Option<DevicePtr> {
    (address != 0).then_some(DevicePtr(address))
}

/// Queues the kernel on a CUstream (null: the legacy default stream) and returns: no allocation, no wait, no lock. May be
/// captured into a graph, which then holds these addresses.
///
/// # Safety
/// `plan` is null or a plan; `tensors` is null or an `attn_tensors`. Each address is memory of the plan's device for as many
/// elements as shape and strides reach; until the stream has passed the kernel, nothing writes Q, K and V, nothing else touches
/// O and LSE, which overlap none of the others, and none is freed. The stream belongs to the plan's context, which has not been
/// destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_plan_launch(plan: *const Plan, tensors: *const Tensors, stream: *mut c_void) -> Status {
    // SAFETY: as the caller promises.
    guarded(|| unsafe { launch(plan, &read("tensors", tensors)?.to_host(), stream) })
}

/// Queues the kernels of a plan of attn_plan_create_serving, as attn_plan_launch does.
///
/// # Safety
/// As for `attn_plan_launch`; `serving` is null or an `attn_serving_tensors`. Sums of lengths begin with 0, never fall and end with no more
/// than all queries or keys; no more are in use than a sequence has room for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_plan_launch_serving(
    plan: *const Plan,
    tensors: *const Tensors,
    serving: *const ServingTensors,
    stream: *mut c_void,
) -> Status {
    guarded(|| {
        // SAFETY: null or the caller's structures; the rest as the caller promises.
        unsafe {
            let (arrays, tensors) = (read("serving", serving)?, read("tensors", tensors)?);
            launch(plan, &arrays.with(tensors.to_host()), stream)
        }
    })
}

/// # Safety
/// As `attn_plan_launch` asks.
pub(crate) unsafe fn launch(
    plan: *const Plan,
    tensors: &attn_host::Tensors,
    stream: *mut c_void,
) -> Result<(), Failure> {
    // SAFETY: a plan if not null; the caller promises what `launch` asks for.
    Ok(unsafe { lent("plan", plan)?.host.launch(tensors, Stream(stream)) }?)
}
