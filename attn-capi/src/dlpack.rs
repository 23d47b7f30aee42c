//! Tensors in DLPack's form: those of other libraries as arguments of a launch, results for other libraries.

use std::ffi::{c_char, c_int, c_void};

use attn_host::Device;

pub use self::cache::{DlpackAppendTensors, attn_dlpack_append, attn_dlpack_append_launch};
use self::export::{Export, Held, Managed};
pub use self::ffi::{DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLPackVersion, DLTensor};
use self::view::View;
use self::views::Views;
use crate::launch::{Tensors, launch};
use crate::plan::Plan;
use crate::pointers::{give, lent, read, write};
use crate::problem::Problem;
use crate::serving::{Serving, ServingTensors};
use crate::status::{Failure, Status, guarded};

mod cache;
mod capsule;
mod export;
mod ffi;
#[cfg(test)]
mod tests;
mod view;
mod views;

/// The plan's O.
pub const ATTN_OUTPUT_O: u32 = 0;
/// The plan's LSE.
pub const ATTN_OUTPUT_LSE: u32 = 1;
/// Room for a launch of the plan: uint8 (attn_plan_workspace_bytes).
pub const ATTN_OUTPUT_WORKSPACE: u32 = 2;

/// The tensors of a problem or a launch; null where there is none. They stay the caller's and are read before the call returns.
///
/// Every one is CUDA memory (kDLCUDA) of the current context's device, with one lane. Strides may be null for compact tensors, and the stride
/// of a dimension of size 1 may be anything. Whether a tensor that is written may be written, flags say that are not part of it: that is
/// the caller's to look at (DLPACK_FLAG_BITMASK_READ_ONLY).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DlpackTensors {
    /// sizeof(attn_dlpack_tensors).
    pub struct_size: usize,
    /// Q: bfloat16, float16 or float8_e4m3fn, (batch, seqlen_q, heads, head_dim); (total_q, heads, head_dim) with cu_seqlens_q.
    pub q: *const DLTensor,
    /// K: as Q or float8_e4m3fn, (batch, seqlen_k, kv_heads, head_dim); (total_k, kv_heads, head_dim) with cu_seqlens_k, and
    /// (pages, page_size, kv_heads, head_dim) with page_table.
    pub k: *const DLTensor,
    /// V: as K, with head_dim_v.
    pub v: *const DLTensor,
    /// O, written: as Q with head_dim_v, of 16 bits.
    pub o: *const DLTensor,
    /// LSE, written: float32 (batch, heads, seqlen_q), or (heads, total_q).
    pub lse: *const DLTensor,
    /// uint8 (n), of attn_plan_workspace_bytes bytes or more. Not looked at without a plan.
    pub workspace: *const DLTensor,
    /// int32 (batch + 1), compact like all that follow.
    pub cu_seqlens_q: *const DLTensor,
    /// int32 (batch + 1).
    pub cu_seqlens_k: *const DLTensor,
    /// int32 (batch).
    pub seqused_q: *const DLTensor,
    /// int32 (batch).
    pub seqused_k: *const DLTensor,
    /// int32 (batch, table_width).
    pub page_table: *const DLTensor,
    /// float32 (heads).
    pub sinks: *const DLTensor,
    /// float32 (heads) or (batch, heads).
    pub alibi_slopes: *const DLTensor,
    /// float32 (kv_heads) or (batch, kv_heads).
    pub q_descale: *const DLTensor,
    /// float32 (kv_heads) or (batch, kv_heads).
    pub k_descale: *const DLTensor,
    /// float32 (kv_heads) or (batch, kv_heads).
    pub v_descale: *const DLTensor,
}

impl DlpackTensors {
    /// # Safety
    /// Each is null or a `DLTensor` whose `shape` is null or as many sizes as `ndim` says, and `strides` likewise.
    unsafe fn views(&self, device: i32) -> Result<Views, Failure> {
        // SAFETY: the caller's promise.
        let view = |argument, tensor| unsafe { View::read(argument, tensor, device) };
        Ok(Views {
            q: view("q", self.q)?,
            k: view("k", self.k)?,
            v: view("v", self.v)?,
            o: view("o", self.o)?,
            lse: view("lse", self.lse)?,
            workspace: view("workspace", self.workspace)?,
            cu_seqlens_q: view("cu_seqlens_q", self.cu_seqlens_q)?,
            cu_seqlens_k: view("cu_seqlens_k", self.cu_seqlens_k)?,
            seqused_q: view("seqused_q", self.seqused_q)?,
            seqused_k: view("seqused_k", self.seqused_k)?,
            page_table: view("page_table", self.page_table)?,
            sinks: view("sinks", self.sinks)?,
            alibi_slopes: view("alibi_slopes", self.alibi_slopes)?,
            q_descale: view("q_descale", self.q_descale)?,
            k_descale: view("k_descale", self.k_descale)?,
            v_descale: view("v_descale", self.v_descale)?,
        })
    }
}

/// Fills a problem, and an attn_serving where the tensors need one, with what the tensors say: sizes, element types, strides, and which arrays
/// there are. q, k and v are needed; without o or lse, theirs are contiguous.
///
/// The mask is none and the scale 1 / sqrt(head_dim) until the caller changes them; window, softcap and splits likewise. What tensors do not
/// say is as large as it may be: seqlen_q of packed queries and seqlen_k of packed keys are their totals, seqlen_k of pages what a row of the
/// page table has room for. A caller who knows the longest sequence sets it, which makes better plans.
///
/// `serving` may be null where the tensors are a dense problem (none behind workspace, no float8_e4m3fn).
///
/// # Safety
/// `tensors` is null or an `attn_dlpack_tensors` of tensors that are what dlpack.h says; `problem` and `serving` are null or places for what
/// they are called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_dlpack_problem(
    tensors: *const DlpackTensors,
    problem: *mut Problem,
    serving: *mut Serving,
) -> Status {
    // SAFETY: as the caller promises.
    guarded(|| unsafe {
        let views = read("tensors", tensors)?.views(Device::current()?.info().ordinal)?;
        let (filled, beyond) = views.problem()?;
        if !serving.is_null() || beyond != Serving::NONE {
            write("serving", serving, beyond)?;
        }
        write("problem", problem, filled)
    })
}

/// attn_plan_launch on tensors, or attn_plan_launch_serving, after a look at each whether it is what the plan was made for.
///
/// # Safety
/// As for these two; the tensors are what dlpack.h says, their memory is there, and o, lse and workspace may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_dlpack_launch(
    plan: *const Plan,
    tensors: *const DlpackTensors,
    stream: *mut c_void,
) -> Status {
    // SAFETY: as the caller promises.
    guarded(|| unsafe {
        let planned = lent("plan", plan)?;
        let views = read("tensors", tensors)?.views(planned.device)?;
        views.check(&planned.asked.problem, &planned.asked.serving.unwrap_or(Serving::NONE))?;
        check_workspace(&views, planned.host.workspace_bytes())?;
        launch(plan, &addresses(&views), stream)
    })
}

fn check_workspace(views: &Views, bytes: u64) -> Result<(), Failure> {
    let Some(workspace) = &views.workspace else { return Ok(()) };
    let [found] = workspace.sizes_of("(bytes)")?;
    if found < bytes {
        return Err(Failure::problem(format!("workspace has {found} bytes; allowed: {bytes} and more")));
    }
    workspace.fits(&export::bytes(found))
}

fn addresses(views: &Views) -> attn_host::Tensors {
    let at = |view: &Option<View>| view.map_or(0, |view| view.address);
    let tensors = Tensors {
        struct_size: size_of::<Tensors>(),
        q: at(&views.q),
        k: at(&views.k),
        v: at(&views.v),
        o: at(&views.o),
        lse: at(&views.lse),
        workspace: at(&views.workspace),
    };
    let arrays = ServingTensors {
        struct_size: size_of::<ServingTensors>(),
        cu_seqlens_q: at(&views.cu_seqlens_q),
        cu_seqlens_k: at(&views.cu_seqlens_k),
        seqused_q: at(&views.seqused_q),
        seqused_k: at(&views.seqused_k),
        page_table: at(&views.page_table),
        sinks: at(&views.sinks),
        alibi_slopes: at(&views.alibi_slopes),
        q_descale: at(&views.q_descale),
        k_descale: at(&views.k_descale),
        v_descale: at(&views.v_descale),
    };
    arrays.with(tensors.to_host())
}

/// Allocates a tensor for launches of a plan (ATTN_OUTPUT_*), with the strides that the problem says, in the plan's context, which must be
/// current. *tensor is null on failure, and where a plan needs no workspace.
///
/// The tensor is the caller's to delete, or a consumer's that it is handed to: by its deleter, once, on any thread. What it holds is
/// whatever the memory held. Deleting frees the memory in its own context (cuMemFree, which waits for what the device does with it) unless
/// others share it, and frees nothing but the structure when that context has been destroyed. libattn.so stays loaded for it when it is closed.
///
/// # Safety
/// `plan` is null or a plan, `tensor` null or a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_dlpack_output(
    plan: *const Plan,
    output: u32,
    tensor: *mut *mut DLManagedTensorVersioned,
) -> Status {
    // SAFETY: as the caller promises.
    guarded(|| unsafe {
        write("tensor", tensor, std::ptr::null_mut())?;
        let plan = lent("plan", plan)?;
        let (problem, serving) = (&plan.asked.problem, plan.asked.serving.unwrap_or(Serving::NONE));
        let form = match (output, plan.host.workspace_bytes()) {
            (ATTN_OUTPUT_O, _) => views::o(problem, &serving),
            (ATTN_OUTPUT_LSE, _) => views::lse(problem, &serving),
            (ATTN_OUTPUT_WORKSPACE, 0) => return Ok(()),
            (ATTN_OUTPUT_WORKSPACE, bytes) => export::bytes(bytes),
            _ => return Err(Failure::argument(format!("output is {output}; allowed: ATTN_OUTPUT_* (0 to 2)"))),
        };
        plan.host.check_context()?;
        let held = export::allocate(form, &Device::current()?)?;
        hand_out("tensor", tensor, || Ok(held))
    })
}

/// Makes another tensor of the same memory, for another consumer. The memory is freed when the last one is deleted.
///
/// # Safety
/// `tensor` is null or a `DLManagedTensorVersioned` that has not been deleted; `shared` is null or a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_dlpack_share(
    tensor: *const DLManagedTensorVersioned,
    shared: *mut *mut DLManagedTensorVersioned,
) -> Status {
    // SAFETY: as the caller promises.
    guarded(|| unsafe { hand_out("shared", shared, || export::held(tensor)) })
}

/// The same for a consumer that knows DLPack before 1.0 only (a capsule named "dltensor").
///
/// # Safety
/// As for `attn_dlpack_share`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_dlpack_share_unversioned(
    tensor: *const DLManagedTensorVersioned,
    shared: *mut *mut DLManagedTensor,
) -> Status {
    // SAFETY: as the caller promises.
    guarded(|| unsafe { hand_out("shared", shared, || export::held(tensor)) })
}

/// Prepares attn_dlpack_capsule_destroy, which needs CPython's PyCapsule_IsValid and PyCapsule_GetPointer: the library links no Python. Called
/// again it changes nothing.
///
/// # Safety
/// The functions are those, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_dlpack_capsule_init(
    is_valid: Option<unsafe extern "C" fn(capsule: *mut c_void, name: *const c_char) -> c_int>,
    get_pointer: Option<unsafe extern "C" fn(capsule: *mut c_void, name: *const c_char) -> *mut c_void>,
) -> Status {
    guarded(|| capsule::init(is_valid, get_pointer))
}

/// A PyCapsule_Destructor for capsules named "dltensor_versioned" and "dltensor": deletes the tensor unless a consumer has taken it, which
/// renames the capsule. For wrappers that have no code of their own beside Python's: a capsule may go while an exception is on its way, when
/// no Python function can be called.
///
/// # Safety
/// `capsule` is a capsule that is being destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_dlpack_capsule_destroy(capsule: *mut c_void) {
    // SAFETY: as the caller promises.
    unsafe { capsule::destroy(capsule) }
}

/// # Safety
/// `place` is null or a place for a pointer.
unsafe fn hand_out<M: Managed>(
    argument: &str,
    place: *mut *mut M,
    held: impl FnOnce() -> Result<Held, Failure>,
) -> Result<(), Failure> {
    // SAFETY: as the caller promises. An export begins with its structure.
    unsafe { give(argument, place.cast::<*mut Export<M>>(), || Ok(Export::new(held()?))) }
}
