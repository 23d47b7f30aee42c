//! A plan to append: what has been checked, with its kernel loaded.

use std::fmt;
use std::ptr;

use attn_kernel::append::{APPEND_BF16, APPEND_F16, AppendParams, Rows, THREADS};
use attn_kernel::attn::divide::Divisor;
use attn_kernel::attn::sequence::UNLIMITED;
use attn_kernel::companion::EntryPoint;
use attn_kernel::forward::Arch;

use super::check::{Blocks, Layouts};
use super::{Append, Cache, Pairs, Sines};
use crate::device::{Device, DeviceInfo};
use crate::driver::Driver;
use crate::error::Error;
use crate::kernels;
use crate::layout::Layout;
use crate::module;
use crate::plan::{current_is, same_context};
use crate::problem::{DType, Descales};
use crate::select;
use crate::sys::Handle;

/// What is to be appended, checked, and the kernel that does it, in one CUDA context.
///
/// As a [`Plan`](crate::Plan) it is made once and launched any number of times, may be shared between threads, and allocates no device memory
/// beyond the kernel's code.
#[derive(Clone)]
pub struct AppendPlan {
    pub(crate) driver: &'static Driver,
    pub(super) context: Handle,
    context_id: u64,
    pub(super) ordinal: i32,
    pub(super) function: Handle,
    pub(super) append: Append,
    pub(super) layouts: Layouts,
    /// Everything but addresses.
    pub(super) params: AppendParams,
    pub(super) blocks: u32,
    pub(super) overlap: bool,
}

// SAFETY: the pointers in the parameters are null until a launch copies them; nothing else is tied to a thread.
unsafe impl Send for AppendPlan {}
// SAFETY: a plan never changes.
unsafe impl Sync for AppendPlan {}

/// Elements from the first to one past the last that sizes and strides reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendSpans {
    /// Of the new keys.
    pub k: u64,
    /// Of the new values.
    pub v: u64,
    /// Of the queries; 0 without.
    pub q: u64,
    /// Of the rotated queries.
    pub q_out: u64,
    /// Of the cache of keys.
    pub k_cache: u64,
    /// Of the cache of values.
    pub v_cache: u64,
    /// Of the cosines, and of the sines; 0 without.
    pub sines: u64,
}

impl AppendPlan {
    /// Checks what is to be appended and loads the kernel. The device's context must be current.
    ///
    /// # Errors
    /// Sizes, strides and combinations that are not allowed give the error that names the argument; [`Error::WrongDevice`] where no kernel is
    /// compiled for the device; else those of [`Plan::new`](crate::Plan::new) about contexts and kernels.
    pub fn new(device: &Device, append: &Append) -> Result<Self, Error> {
        Self::with_loader(device, append, kernels::find)
    }

    pub(crate) fn with_loader(
        device: &Device,
        append: &Append,
        find: impl FnOnce(&EntryPoint) -> Result<kernels::Code, Error>,
    ) -> Result<Self, Error> {
        let layouts = Layouts::of(append)?;
        let blocks = Blocks::of(append)?;
        let kernel = kernel(append.dtype, device.info())?;
        current_is(device.driver, device.context)?;
        Ok(AppendPlan {
            driver: device.driver,
            context: device.context,
            context_id: device.context_id,
            ordinal: device.info().ordinal,
            function: module::entry_point(device, &kernel, find)?,
            append: *append,
            params: params(append, &layouts, &blocks),
            layouts,
            blocks: blocks.all,
            overlap: true,
        })
    }

    /// The plan with or without overlap of its launches with what comes before them in the stream, as
    /// [`Plan::overlapping`](crate::Plan::overlapping) says. The default is with it.
    #[must_use]
    pub fn overlapping(self, overlap: bool) -> Self {
        AppendPlan { overlap, ..self }
    }

    /// What was planned.
    pub fn append(&self) -> &Append {
        &self.append
    }

    /// Blocks of the launch.
    pub fn grid(&self) -> (u32, u32, u32) {
        (self.blocks, 1, 1)
    }

    /// Threads of a block.
    pub fn block(&self) -> (u32, u32, u32) {
        (THREADS, 1, 1)
    }

    /// Checks that the context that is current is the one that the plan was made in, and not a later one at its address.
    ///
    /// # Errors
    /// Those of [`Plan::check_context`](crate::Plan::check_context).
    pub fn check_context(&self) -> Result<(), Error> {
        same_context(self.driver, self.context, self.context_id)
    }

    /// Elements that each tensor's buffer must hold at least.
    pub fn spans(&self) -> AppendSpans {
        let Layouts { k, v, q, k_cache, v_cache, sines } = &self.layouts;
        let (q, q_out) = q.map_or((0, 0), |(q, q_out)| (q.span, q_out.span));
        AppendSpans { k: k.span, v: v.span, q, q_out, k_cache: k_cache.span, v_cache: v_cache.span, sines: sines.span }
    }
}

fn kernel(dtype: DType, device: &DeviceInfo) -> Result<EntryPoint, Error> {
    let companion = match dtype {
        DType::F16 => APPEND_F16,
        _ => APPEND_BF16,
    };
    let arch = Arch::ALL.into_iter().find(|arch| arch.compute_capability() == device.compute_capability);
    arch.map(|arch| companion.entry_point(arch)).ok_or_else(|| select::wrong_device(device))
}

/// Strides of a tensor for the kernel; its address comes with a launch.
fn rows(layout: &Layout, packed: bool) -> Rows {
    let [row, head, outer] = layout.strides;
    Rows { base: ptr::null_mut(), outer: if packed { 0 } else { outer }, row, head }
}

/// The kernel's arguments without addresses. The sizes have been checked to fit.
fn params(append: &Append, layouts: &Layouts, blocks: &Blocks) -> AppendParams {
    let (shape, packed) = (&append.shape, append.packed.is_some());
    let (pages, _) = append.cache_entries();
    let (capacity, page_shift, page_stride) = match append.cache {
        Cache::Dense { rows } => (rows, 31, 0),
        Cache::Paged(paged) => {
            (paged.page_size.saturating_mul(paged.table_width), paged.page_size.ilog2(), paged.table_width)
        }
    };
    let (q, q_out) = layouts.q.unwrap_or((layouts.k, layouts.k));
    AppendParams {
        k: rows(&layouts.k, packed),
        v: rows(&layouts.v, packed),
        q: rows(&q, packed),
        q_out: rows(&q_out, packed),
        k_cache: rows(&layouts.k_cache, false),
        v_cache: rows(&layouts.v_cache, false),
        cos: ptr::null(),
        sin: ptr::null(),
        before: ptr::null(),
        cu_new: ptr::null(),
        used_new: ptr::null(),
        pages: ptr::null(),
        k_descale: ptr::null(),
        v_descale: ptr::null(),
        page_stride,
        table_stride: layouts.sines.stride,
        parts: Divisor::new(blocks.parts),
        new: Divisor::new(shape.new as u32),
        k_items: Divisor::new(blocks.k_items),
        v_items: Divisor::new(blocks.v_items),
        batch: shape.batch as u32,
        d: shape.head_dim as u32,
        dv: shape.head_dim_v as u32,
        kv_heads: shape.kv_heads as u32,
        heads: append.heads as u32,
        rotary: append.rotary.map_or(0, |rotary| rotary.dim as u32),
        interleaved: append.rotary.is_some_and(|rotary| rotary.pairs == Pairs::Interleaved).into(),
        table_f32: append.rotary.is_some_and(|rotary| rotary.sines == Sines::F32).into(),
        positions: append.rotary.map_or(0, |rotary| rotary.positions as u32),
        cache_e4m3: append.float8.into(),
        descale_stride: if append.descales == Some(Descales::PerSequenceAndHead) { shape.kv_heads as u32 } else { 0 },
        // No position is greater.
        capacity: capacity.min(u64::from(UNLIMITED)) as u32,
        page_shift,
        page_count: pages as u32,
    }
}

impl fmt::Display for AppendPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "append: {}; grid {}, block {THREADS}", self.append, self.blocks)
    }
}

impl fmt::Debug for AppendPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppendPlan({self})")
    }
}
