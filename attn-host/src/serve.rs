//! A problem for the serving kernels: what they are launched with, everything but addresses.

use std::f32::consts::LOG2_E;
use std::ptr;

use attn_kernel::attn::divide::Divisor;
use attn_kernel::attn::sequence::UNLIMITED;
use attn_kernel::forward::serve::Units;
use attn_kernel::forward::{AnyPlan, Arch, Family, Kernel, ServeParams};

use crate::device::DeviceInfo;
use crate::error::Error;
use crate::layout::{Layouts, check_lengths};
use crate::problem::{Alibi, Descales, Problem};
use crate::tensor_map::Maps;

use rows::Rows;
use tiles::Tiles;
use workspace::Workspace;

pub(crate) use workspace::ALIGNMENT;

mod launch;
mod rows;
mod splits;
#[cfg(test)]
mod tests;
pub(crate) mod tiles;
mod workspace;

/// What serving kernels are launched with.
#[derive(Clone, Debug)]
pub(crate) struct Serve {
    pub(crate) maps: Maps,
    /// Everything but addresses.
    pub(crate) params: ServeParams,
    pub(crate) workspace: Workspace,
    pub(crate) tiles: Tiles,
    /// Each unit gets a block of its own, which the hardware starts where a multiprocessor is free.
    pub(crate) uneven: bool,
    /// Elements from one row of O, and from one head's, to the next.
    o_strides: (u64, u64),
    batch: u32,
    bn: u32,
}

impl Serve {
    /// What a serving kernel is launched with for a problem whose sizes and strides have been checked.
    pub(crate) fn of(
        kernel: &Kernel,
        problem: &Problem,
        layouts: &Layouts,
        device: &DeviceInfo,
    ) -> Result<Self, Error> {
        check_lengths(problem)?;
        let tiles = Tiles::of(kernel, problem, device)?;
        let (q, o) = (Rows::of("q", &layouts.q)?, Rows::of("o", &layouts.o)?);
        let chunk = chunk(kernel, problem);
        let (types, launch, cut) = (problem.types(), &kernel.launch, &tiles.cut);
        let (k, v) = (Rows::of("k", &layouts.k)?, Rows::of("v", &layouts.v)?);
        let maps = Maps {
            q: q.queries(types[0], launch.q_box.0, cut.pack, cut.queries)?,
            k: k.keys(types[1], launch.k_box.0, chunk)?,
            v: v.keys(types[2], launch.v_box.0, chunk)?,
            o: o.output(types[3], launch.o_box.0, cut.pack, cut.queries)?,
        };
        Ok(Serve {
            maps,
            params: ServeParams {
                q_room: q.room,
                o_room: o.room,
                k_room: k.room,
                v_room: v.room,
                // Of packed keys every sequence has the one page.
                page_count: layouts.k.dims[3].max(problem.shape.batch) as u32,
                chunk,
                ..params(problem, layouts, &tiles)
            },
            workspace: Workspace::of(problem, &tiles)?,
            tiles,
            uneven: uneven(kernel, problem),
            o_strides: (o.stride, layouts.o.strides[1]),
            batch: problem.shape.batch as u32,
            bn: launch.bn,
        })
    }
}

/// Keys of the longest sequence from which on uneven tiles get a block each.
const LONG: u64 = 8192;

/// Whether tiles differ so much that dealing them to persistent blocks in advance costs more than the start of a block for each. Measured on
/// an H100 with a causal mask: 2 sequences of 8192 1.2 to 1.5 times as fast, sequences of up to 4096 as fast or up to 10 % slower. With a list
/// most kernels' blocks draw their tiles.
fn uneven(kernel: &Kernel, problem: &Problem) -> bool {
    let bounded = problem.mask.reach().1.is_some();
    matches!(kernel.family, Family::Serve { .. })
        && kernel.arch == Arch::Sm90a
        && bounded
        && !(problem.serving.packed_q.is_some() && draws(kernel))
        && problem.shape.seqlen_q.min(problem.shape.seqlen_k) >= LONG
}

/// Whether blocks draw the tiles of a list.
fn draws(kernel: &Kernel) -> bool {
    matches!(kernel.plan, AnyPlan::Sm90(plan) if plan.draws())
}

/// Keys that one copy brings: as many as a tile of K, what a kernel loads of V at once, and a page are whole numbers of.
fn chunk(kernel: &Kernel, problem: &Problem) -> u32 {
    let bn = kernel.launch.k_box.1.min(kernel.launch.v_box.1);
    // Both are multiples of 16, a page by its lowest bit alone.
    let page = problem.serving.paged.map_or(u64::MAX, |paged| paged.page_size);
    let power = u64::from(bn & bn.wrapping_neg());
    if problem.serving.paged.is_none() { bn } else { power.min(page) as u32 }
}

/// The scalar arguments. The sizes have been checked to fit.
fn params(problem: &Problem, layouts: &Layouts, tiles: &Tiles) -> ServeParams {
    let (shape, serving, cut) = (&problem.shape, &problem.serving, &tiles.cut);
    let unlimited = u64::from(UNLIMITED);
    let reach = |keys: Option<u64>| keys.map_or(unlimited, |keys| keys.min(unlimited)) as u32;
    let (left, right) = problem.mask.reach();
    // What the softmax scales its scores by: they are in units of it.
    let unit = serving.softcap.unwrap_or(problem.scale);
    ServeParams {
        lse: ptr::null_mut(),
        lse_batch_stride: if serving.packed_q.is_some() { 0 } else { layouts.lse.strides[1] },
        lse_head_stride: layouts.lse.strides[0],
        partial: ptr::null_mut(),
        partial_lse: ptr::null_mut(),
        rows: tiles::rows(problem),
        dv: shape.head_dim_v as u32,
        heads: shape.heads as u32,
        cu_q: ptr::null(),
        cu_k: ptr::null(),
        used_q: ptr::null(),
        used_k: ptr::null(),
        seqlen_q: shape.seqlen_q as u32,
        seqlen_k: shape.seqlen_k as u32,
        q_room: 0,
        o_room: 0,
        pages: ptr::null(),
        page_stride: serving.paged.map_or(0, |paged| paged.table_width),
        page_shift: serving.paged.map_or(31, |paged| paged.page_size.ilog2()),
        k_room: 0,
        chunk: 0,
        v_room: 0,
        page_count: 0,
        left: reach(left),
        right: reach(right),
        group: Divisor::new((cut.heads / shape.kv_heads) as u32),
        pack: Divisor::new(cut.pack),
        queries: cut.queries,
        tile_queries: cut.of_tile,
        units: Units {
            list: ptr::null(),
            m_blocks: Divisor::new(cut.m_blocks as u32),
            entries: cut.entries as u32,
            heads: cut.heads as u32,
            section: Divisor::new(tiles.section),
            units: tiles.units,
            splits: Divisor::new(tiles.splits),
        },
        scale_log2: unit * LOG2_E,
        cap: serving.softcap.map_or(0.0, |softcap| 2.0 * LOG2_E * problem.scale / softcap),
        slope_scale: 1.0 / unit,
        slopes: ptr::null(),
        slopes_batch_stride: if serving.alibi == Some(Alibi::PerSequenceAndHead) { shape.heads } else { 0 },
        sinks: ptr::null(),
        k_descale: ptr::null(),
        v_descale: ptr::null(),
        q_descale: ptr::null(),
        descale_batch_stride: if serving.descales == Some(Descales::PerSequenceAndHead) { shape.kv_heads } else { 0 },
    }
}
