//! A plan to append, and its launch.

use std::ffi::c_void;

use attn_host::{AppendPlan as HostPlan, Device, DevicePtr, Stream};

use super::Append;
use crate::launch::present;
use crate::pointers::{destroy, give, lent, read};
use crate::status::{Status, guarded};

/// Where the tensors of a launch that appends lie in device memory; those that the plan does not need are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendTensors {
    /// sizeof(attn_append_tensors).
    pub struct_size: usize,
    /// New keys, read.
    pub k: u64,
    /// New values, read.
    pub v: u64,
    /// Cache of keys, written where new ones go.
    pub k_cache: u64,
    /// Cache of values, likewise.
    pub v_cache: u64,
    /// Queries.
    pub q: u64,
    /// Rotated queries, written; 0: where the queries are.
    pub q_out: u64,
    /// Cosines, (positions, rotary_dim / 2).
    pub cos: u64,
    /// Sines, likewise.
    pub sin: u64,
    /// int32[batch + 1], sums of the counts of new tokens before each sequence, from 0.
    pub cu_seqlens_new: u64,
    /// int32[batch].
    pub seqused_new: u64,
    /// int32[batch].
    pub seqlens_before: u64,
    /// int32[batch][table_width].
    pub page_table: u64,
    /// f32[kv_heads], or f32[batch][kv_heads].
    pub k_descale: u64,
    /// f32[kv_heads], or f32[batch][kv_heads].
    pub v_descale: u64,
}

/// A checked attn_append with its kernel, in one CUDA context. It never changes and may be used by several threads.
#[derive(Debug)]
pub struct AppendPlan {
    pub(crate) host: HostPlan,
    pub(crate) asked: Append,
    /// The number of its device.
    pub(crate) device: i32,
}

impl AppendTensors {
    pub(crate) fn to_host(self) -> attn_host::AppendTensors {
        let [k, v, k_cache, v_cache] = [self.k, self.v, self.k_cache, self.v_cache].map(DevicePtr);
        attn_host::AppendTensors {
            q: present(self.q),
            q_out: present(self.q_out),
            cos: present(self.cos),
            sin: present(self.sin),
            cu_seqlens_new: present(self.cu_seqlens_new),
            seqused_new: present(self.seqused_new),
            seqlens_before: present(self.seqlens_before),
            page_table: present(self.page_table),
            k_descale: present(self.k_descale),
            v_descale: present(self.v_descale),
            ..attn_host::AppendTensors::new(k, v, k_cache, v_cache)
        }
    }
}

/// Makes a plan to append in the CUDA context that is current on this thread. On failure *plan is null.
///
/// # Safety
/// `append` is null or an `attn_append`; `plan` is null or a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_append_plan_create(append: *const Append, plan: *mut *mut AppendPlan) -> Status {
    // SAFETY: null, a place for a pointer, the caller's structure.
    guarded(|| unsafe {
        give("plan", plan, || {
            let asked = read("append", append)?;
            let (append, device) = (asked.to_host()?, Device::current()?);
            Ok(AppendPlan { host: HostPlan::new(&device, &append)?, asked, device: device.info().ordinal })
        })
    })
}

/// Destroys a plan to append; null is allowed. Launches of it that are still queued go on.
///
/// # Safety
/// `plan` is null or a plan that has not been destroyed and that no thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_append_plan_destroy(plan: *mut AppendPlan) {
    guarded(|| {
        // SAFETY: as the caller promises.
        unsafe { destroy(plan) };
        Ok(())
    });
}

/// Queues the kernel that appends on a CUstream (null: the legacy default stream) and returns: no allocation, no wait, no lock. May be captured
/// into a graph, which then holds these addresses.
///
/// # Safety
/// `plan` is null or a plan to append; `tensors` is null or an `attn_append_tensors`. Each address is memory of the plan's device for as many
/// elements as sizes and strides reach; until the stream has passed the kernel, nothing writes what it reads, nothing else touches what it
/// writes, and none is freed. The caches and q_out overlap none of the others, but q_out may be q. No page belongs to two sequences that
/// append to it; sums of counts begin with 0, never fall and end with no more than all new tokens. The stream belongs to the plan's context,
/// which has not been destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_append_plan_launch(
    plan: *const AppendPlan,
    tensors: *const AppendTensors,
    stream: *mut c_void,
) -> Status {
    guarded(|| {
        // SAFETY: null, a plan, the caller's structure; the caller promises what `launch` asks for.
        unsafe {
            let (plan, tensors) = (lent("plan", plan)?, read("tensors", tensors)?.to_host());
            Ok(plan.host.launch(&tensors, Stream(stream))?)
        }
    })
}
