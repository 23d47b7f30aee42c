//! Launches on cudarc's views and streams, with everything checked that types and lengths can say.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr as _, DevicePtrMut as _};

use crate::error::Error;
use crate::launch::Stream;
use crate::plan::Plan;
use crate::typed::{Element, Extent, Extents};

/// The tensors of a launch as cudarc's views; each starts with its tensor's first element.
#[derive(Debug)]
pub struct CudarcBuffers<'a, T: Element> {
    /// Q, read.
    pub q: CudaView<'a, T>,
    /// K, read.
    pub k: CudaView<'a, T>,
    /// V, read.
    pub v: CudaView<'a, T>,
    /// O, written.
    pub o: CudaViewMut<'a, T>,
    /// LSE, written; not computed when absent.
    pub lse: Option<CudaViewMut<'a, f32>>,
}

impl Plan {
    /// Makes the stream's context current, queues the plan on the stream and returns.
    ///
    /// cudarc's events order the launch after earlier work on the buffers, and later work, frees included, after the launch.
    ///
    /// # Errors
    /// [`Error::ElementType`] and [`Error::BufferTooSmall`] for buffers that are not what was planned; otherwise the errors of
    /// [`launch`](Self::launch), [`check_context`](Self::check_context) and [`check_devices`](Self::check_devices).
    pub fn launch_cudarc<T: Element>(
        &self,
        buffers: CudarcBuffers<'_, T>,
        stream: &Arc<CudaStream>,
    ) -> Result<(), Error> {
        let bound = stream.context().bind_to_thread();
        bound.or_else(|error| self.driver.check("cuCtxSetCurrent", error.0 as i32))?;
        let CudarcBuffers { q, k, v, mut o, mut lse } = buffers;
        let [q_len, k_len, v_len, o_len] = [q.len(), k.len(), v.len(), o.len()].map(|n| n as u64);
        // Each guard records its event when it goes out of scope, which is after the launch.
        let ((q, _q_read), (k, _k_read), (v, _v_read)) =
            (q.device_ptr(stream), k.device_ptr(stream), v.device_ptr(stream));
        let (o, _o_written) = o.device_ptr_mut(stream);
        let lse = lse.as_mut().map(|lse| (lse.len() as u64, lse.device_ptr_mut(stream)));
        let extent = |address, elements| Extent { address, elements };
        let extents = Extents {
            q: extent(q, q_len),
            k: extent(k, k_len),
            v: extent(v, v_len),
            o: extent(o, o_len),
            lse: lse.as_ref().map(|(elements, (address, _))| extent(*address, *elements)),
        };
        let tensors = extents.tensors::<T>(self)?;
        self.check_context()?;
        self.check_devices(&tensors)?;
        // SAFETY: cudarc's events keep the buffers alive and untouched until the kernel is done, the outputs are borrowed
        // alone, lengths, devices and the context have been checked, and the stream is of the current context.
        unsafe { self.launch(&tensors, Stream(stream.cu_stream().cast())) }
    }
}
