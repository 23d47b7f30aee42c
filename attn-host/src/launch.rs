//! Launching a plan: addresses into tensor maps and parameters, a call of the driver for each kernel.

use std::ffi::c_void;
use std::ptr;

use attn_kernel::forward::{ForwardParams, TensorMap};

use crate::blueprint::Work;
use crate::error::Error;
use crate::observe;
use crate::plan::{Plan, current_is};
use crate::tensors::Tensors;

/// An address in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct DevicePtr(pub u64);

/// A `CUstream` of any CUDA library. Null is the legacy default stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Stream(pub *mut c_void);

// SAFETY: the handle is a name that only the driver looks up, and the driver API may be called from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// The legacy default stream, which waits for the other blocking streams of its context.
    pub const DEFAULT: Stream = Stream(ptr::null_mut());
}

impl Plan {
    /// Queues the plan's kernels on the stream and returns. No allocation, no synchronisation, no lock; may be captured into a graph,
    /// which then holds these addresses.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::NotPlanned`] for tensors that the problem needs or does not have, [`Error::NullPointer`],
    /// [`Error::Misaligned`] (16 bytes; the workspace 256, numbers of 32 bits 4), [`Error::Overflow`] for a tensor beyond the end of the
    /// address space, [`Error::NoContext`] and [`Error::WrongContext`] when the plan's context is not current, all before
    /// anything is launched; [`Error::Cuda`] from the driver, also for errors of earlier work on the device. In builds with
    /// debug assertions also those of [`check_devices`](Self::check_devices).
    ///
    /// # Safety
    /// 1. Each address is memory of the plan's device for as many elements as [`spans`](Self::spans) and [`Tensors`] say.
    /// 2. Until the stream has passed the kernels, nothing writes what they read, nothing else touches O, LSE and the workspace, and none is
    ///    freed.
    /// 3. O, LSE and the workspace overlap none of the others.
    /// 4. The stream belongs to the plan's context, and the context has not been destroyed since the plan was made.
    /// 5. Prefix sums begin with 0, never fall, and end with no more than the rows that the problem says; no more queries or keys are in use
    ///    than a sequence has room for. Where this does not hold, results of other sequences may be wrong, and LSE be written where it is not.
    ///    [`check_cu_seqlens`](crate::check_cu_seqlens) checks them where they are at hand.
    pub unsafe fn launch(&self, tensors: &Tensors, stream: Stream) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        observe::launch(self, || unsafe { self.queue(tensors, stream) })
    }

    /// Queues the plan's kernels.
    ///
    /// # Safety
    /// As [`launch`](Self::launch).
    unsafe fn queue(&self, tensors: &Tensors, stream: Stream) -> Result<(), Error> {
        self.check_tensors(tensors)?;
        current_is(self.driver, self.context)?;
        if cfg!(debug_assertions) {
            self.check_devices(tensors)?;
        }
        let maps = self.blueprint.work.maps().encode(self.driver, tensors)?;
        match &self.blueprint.work {
            Work::Dense(dense) => {
                let lse = tensors.lse.map_or(ptr::null_mut(), |lse| lse.0 as *mut f32);
                // SAFETY: a dense kernel takes these parameters; the rest is the caller's promise.
                unsafe { self.attend(ForwardParams { lse, ..dense.params }, maps, stream, self.overlaps()) }
            }
            // SAFETY: the plan is for serving kernels; the rest is the caller's promise.
            Work::Serve(serve) => unsafe { self.launch_serving(serve, tensors, maps, stream) },
        }
    }

    /// Queues the attention kernel.
    ///
    /// # Safety
    /// `P` is the kernel's first parameter; tensors and stream are as [`launch`](Self::launch) asks. With `overlap` the kernel waits by itself
    /// for what comes before it.
    pub(crate) unsafe fn attend<P: Copy>(
        &self,
        mut params: P,
        mut maps: [TensorMap; 4],
        stream: Stream,
        overlap: bool,
    ) -> Result<(), Error> {
        let [q, k, v, o] = &mut maps;
        let mut arguments: [*mut c_void; 5] = [
            (&raw mut params).cast(),
            (&raw mut *q).cast(),
            (&raw mut *k).cast(),
            (&raw mut *v).cast(),
            (&raw mut *o).cast(),
        ];
        let size = (self.grid().0, self.block().0);
        // SAFETY: the five arguments are what an attention kernel takes; the driver copies them before it returns. The
        // tensors and the stream are good (caller), the function is loaded in the current context.
        unsafe {
            self.driver.launch(self.functions.attention, size, self.smem_bytes(), stream, overlap, &mut arguments)
        }
    }

    /// Checks that every tensor lies on the plan's device. A few hundred nanoseconds for each, so [`launch`](Self::launch)
    /// does it only with debug assertions.
    ///
    /// # Errors
    /// [`Error::ForeignPointer`]; [`Error::Cuda`] for an address that the driver does not know.
    pub fn check_devices(&self, tensors: &Tensors) -> Result<(), Error> {
        self.placed(tensors).try_for_each(|tensor| tensor.check_device(self.driver, self.ordinal))
    }
}
