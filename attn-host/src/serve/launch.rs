//! Launching a serving plan: the list of tiles where queries are packed, attention, and what combines its splits.

use std::ffi::c_void;
use std::ptr;

use attn_kernel::forward::serve::Units;
use attn_kernel::forward::{CombineParams, ScheduleParams, ServeParams, TensorMap, combine, schedule};

use super::Serve;
use crate::error::Error;
use crate::launch::{DevicePtr, Stream};
use crate::plan::Plan;
use crate::tensors::Tensors;

/// The address as the kernels have it, null where there is none.
fn at<T>(address: Option<DevicePtr>) -> *const T {
    address.map_or(ptr::null(), |address| address.0 as *const T)
}

impl Serve {
    /// The parameters with a launch's addresses.
    fn params_with(&self, tensors: &Tensors) -> ServeParams {
        // Offsets are there only where the workspace is.
        let place = |offset: u64| tensors.workspace.map_or(0, |workspace| workspace.0 + offset);
        let partial = self.workspace.partial;
        let part = |offset: Option<u64>| offset.map_or(ptr::null_mut(), |offset| place(offset) as *mut f32);
        ServeParams {
            lse: at::<f32>(tensors.lse).cast_mut(),
            partial: part(partial.map(|(values, _)| values)),
            partial_lse: part(partial.map(|(_, lse)| lse)),
            cu_q: at(tensors.cu_seqlens_q),
            cu_k: at(tensors.cu_seqlens_k),
            used_q: at(tensors.seqused_q),
            used_k: at(tensors.seqused_k),
            pages: at(tensors.page_table),
            units: Units {
                list: self.workspace.list.map_or(ptr::null(), |offset| place(offset) as *const u32),
                ..self.params.units
            },
            slopes: at(tensors.alibi_slopes),
            sinks: at(tensors.sinks),
            q_descale: at(tensors.q_descale),
            k_descale: at(tensors.k_descale),
            v_descale: at(tensors.v_descale),
            ..self.params
        }
    }
}

impl Plan {
    /// Queues the kernels of a serving plan.
    ///
    /// # Safety
    /// `serve` is the plan's; the rest as [`launch`](Plan::launch) asks.
    pub(crate) unsafe fn launch_serving(
        &self,
        serve: &Serve,
        tensors: &Tensors,
        maps: [TensorMap; 4],
        stream: Stream,
    ) -> Result<(), Error> {
        let params = serve.params_with(tensors);
        // SAFETY: each kernel gets its own parameters. All of them wait for what comes before them, so that those behind the first one may always
        // start early. The rest is the caller's promise.
        unsafe {
            if self.functions.schedule.is_some() {
                self.list_tiles(serve, &params, stream)?;
            }
            let behind = self.functions.schedule.is_some() && self.kernel().launch.waits;
            self.attend(params, maps, stream, behind || self.overlaps())?;
            self.combine_splits(serve, &params, tensors, stream)
        }
    }

    /// Queues the kernel that lists the tiles.
    ///
    /// # Safety
    /// As [`launch_serving`](Self::launch_serving); the plan has the kernel.
    unsafe fn list_tiles(&self, serve: &Serve, params: &ServeParams, stream: Stream) -> Result<(), Error> {
        let Some(function) = self.functions.schedule else { return Ok(()) };
        let cut = &serve.tiles.cut;
        let list = params.units.list.cast_mut();
        let mut params = ScheduleParams::new(params, list, serve.batch, cut.of_tile, serve.bn, cut.entries as u32);
        let mut arguments: [*mut c_void; 1] = [(&raw mut params).cast()];
        let size = (schedule::blocks(params.room), schedule::THREADS);
        let shared = schedule::shared(serve.batch);
        // SAFETY: the kernel's one argument; the list has room for the entries, the rest is the caller's promise.
        unsafe { self.driver.launch(function, size, shared, stream, self.overlap, &mut arguments) }
    }

    /// Queues the kernel that combines splits, where there are several.
    ///
    /// # Safety
    /// As [`launch_serving`](Self::launch_serving).
    unsafe fn combine_splits(
        &self,
        serve: &Serve,
        params: &ServeParams,
        tensors: &Tensors,
        stream: Stream,
    ) -> Result<(), Error> {
        let Some(function) = self.functions.combine else { return Ok(()) };
        let (row, head) = serve.o_strides;
        let mut params = CombineParams::new(params, tensors.o.0 as *mut u32, row, head, serve.batch);
        let size = (params.blocks(), combine::THREADS);
        let mut arguments: [*mut c_void; 1] = [(&raw mut params).cast()];
        // SAFETY: the kernel's one argument; the rest is the caller's promise.
        unsafe { self.driver.launch(function, size, combine::COMBINE_BF16.shared, stream, true, &mut arguments) }
    }
}
