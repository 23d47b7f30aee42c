//! Launching a plan: addresses into tensor maps, one call of the driver.

use std::ffi::c_void;
use std::ptr;

use attn_kernel::forward::ForwardParams;

use crate::error::Error;
use crate::plan::{Plan, current_is};

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

/// Where the tensors of a launch lie: `Tensors { lse: Some(lse), ..Tensors::new(q, k, v, o) }`.
///
/// What only some problems have must be there for these and absent for all others; only the workspace may be there without need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensors {
    /// Q, read.
    pub q: DevicePtr,
    /// K, read.
    pub k: DevicePtr,
    /// V, read.
    pub v: DevicePtr,
    /// O, written.
    pub o: DevicePtr,
    /// LSE, written, f32; not computed when absent.
    pub lse: Option<DevicePtr>,
    /// [`Plan::workspace_bytes`] bytes, aligned to 256 bytes; may be absent when that is zero.
    pub workspace: Option<DevicePtr>,
    /// Prefix sums of the lengths of packed queries, `i32[batch + 1]` from 0: [`Problem::packed_q`](crate::Problem::packed_q).
    pub cu_seqlens_q: Option<DevicePtr>,
    /// Prefix sums of the lengths of packed keys, `i32[batch + 1]` from 0: [`Problem::packed_k`](crate::Problem::packed_k).
    pub cu_seqlens_k: Option<DevicePtr>,
    /// Queries of each sequence, `i32[batch]`: [`Problem::seqused_q`](crate::Problem::seqused_q).
    pub seqused_q: Option<DevicePtr>,
    /// Keys of each sequence, `i32[batch]`: [`Problem::seqused_k`](crate::Problem::seqused_k).
    pub seqused_k: Option<DevicePtr>,
    /// Pages of each sequence, `i32[batch][table_width]`: [`Problem::paged`](crate::Problem::paged).
    pub page_table: Option<DevicePtr>,
    /// Sink of each query head, `f32[heads]`: [`Problem::sinks`](crate::Problem::sinks).
    pub sinks: Option<DevicePtr>,
    /// Slopes, `f32[heads]` or `f32[batch][heads]`: [`Problem::alibi`](crate::Problem::alibi).
    pub alibi_slopes: Option<DevicePtr>,
}

impl Tensors {
    /// The tensors that every launch has, and none of the others.
    pub const fn new(q: DevicePtr, k: DevicePtr, v: DevicePtr, o: DevicePtr) -> Self {
        Tensors {
            q,
            k,
            v,
            o,
            lse: None,
            workspace: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            seqused_q: None,
            seqused_k: None,
            page_table: None,
            sinks: None,
            alibi_slopes: None,
        }
    }
}

/// One tensor of a launch: where it must lie and how far it reaches.
struct Placed {
    argument: &'static str,
    address: u64,
    alignment: u64,
    bytes: u64,
}

impl Placed {
    /// Refuses a null or misaligned address and a tensor that would pass the end of the address space.
    fn check(&self) -> Result<(), Error> {
        let Placed { argument, address, alignment, bytes } = *self;
        if address == 0 {
            return Err(Error::NullPointer { argument });
        }
        if address % alignment != 0 {
            return Err(Error::Misaligned { argument, address, alignment });
        }
        if address.checked_add(bytes).is_none() {
            return Err(Error::Overflow { argument, what: "the address", allowed: "at most 2^64 at its end" });
        }
        Ok(())
    }
}

impl Plan {
    /// Queues the kernel on the stream and returns. No allocation, no synchronisation, no lock; may be captured into a graph,
    /// which then holds these addresses.
    ///
    /// # Errors
    /// [`Error::NullPointer`], [`Error::Misaligned`] (16 bytes; LSE 4), [`Error::Overflow`] for a tensor beyond the end of the
    /// address space, [`Error::NoContext`] and [`Error::WrongContext`] when the plan's context is not current, all before
    /// anything is launched; [`Error::Cuda`] from the driver, also for errors of earlier work on the device. In builds with
    /// debug assertions also those of [`check_devices`](Self::check_devices).
    ///
    /// # Safety
    /// 1. Each address is memory of the plan's device for as many elements as [`spans`](Self::spans) says.
    /// 2. Until the stream has passed the kernel, nothing writes Q, K and V, nothing else touches O and LSE, and none is freed.
    /// 3. O and LSE overlap none of the others.
    /// 4. The stream belongs to the plan's context, and the context has not been destroyed since the plan was made.
    pub unsafe fn launch(&self, tensors: &Tensors, stream: Stream) -> Result<(), Error> {
        self.placed(tensors).try_for_each(|tensor| tensor.check())?;
        current_is(self.driver, self.context)?;
        if cfg!(debug_assertions) {
            self.check_devices(tensors)?;
        }
        let lse = tensors.lse.map_or(ptr::null_mut(), |lse| lse.0 as *mut f32);
        let mut params = ForwardParams { lse, ..self.params };
        let mut q = self.maps.q.encode(self.driver, tensors.q.0)?;
        let mut k = self.maps.k.encode(self.driver, tensors.k.0)?;
        let mut v = self.maps.v.encode(self.driver, tensors.v.0)?;
        let mut o = self.maps.o.encode(self.driver, tensors.o.0)?;
        let mut arguments: [*mut c_void; 5] = [
            (&raw mut params).cast(),
            (&raw mut q).cast(),
            (&raw mut k).cast(),
            (&raw mut v).cast(),
            (&raw mut o).cast(),
        ];
        // SAFETY: the five arguments are what a forward kernel takes; the driver copies them before it returns. The
        // tensors and the stream are good (caller), the function is loaded in the current context; a plan overlaps only where its kernel
        // waits.
        unsafe {
            let size = (self.grid().0, self.block().0);
            self.driver.launch(self.function, size, self.smem_bytes(), stream, self.overlaps(), &mut arguments)
        }
    }

    /// The tensors of a launch with what the plan asks of them.
    fn placed(&self, tensors: &Tensors) -> impl Iterator<Item = Placed> {
        let spans = self.spans();
        let bytes = u64::from(self.problem.dtype.bytes());
        let rows = [
            ("q", tensors.q, spans.q),
            ("k", tensors.k, spans.k),
            ("v", tensors.v, spans.v),
            ("o", tensors.o, spans.o),
        ];
        let rows = rows.map(|(argument, address, span)| Placed {
            argument,
            address: address.0,
            alignment: 16,
            bytes: span * bytes,
        });
        let lse = tensors.lse.map(|lse| Placed { argument: "lse", address: lse.0, alignment: 4, bytes: spans.lse * 4 });
        rows.into_iter().chain(lse)
    }

    /// Checks that every tensor lies on the plan's device. A few hundred nanoseconds for each, so [`launch`](Self::launch)
    /// does it only with debug assertions.
    ///
    /// # Errors
    /// [`Error::ForeignPointer`]; [`Error::Cuda`] for an address that the driver does not know.
    pub fn check_devices(&self, tensors: &Tensors) -> Result<(), Error> {
        for Placed { argument, address, .. } in self.placed(tensors) {
            let found = self.driver.pointer_device(address)?;
            if found != self.ordinal {
                return Err(Error::ForeignPointer { argument, address, found, allowed: self.ordinal });
            }
        }
        Ok(())
    }
}
