//! Joins what the splits of the keys have found: `O = sum_s exp(LSE_s - LSE) O_s`, `LSE = log sum_s exp(LSE_s)`, with the sink among the terms.
//!
//! Each row of a split's partial O has been divided by that split's own sum. A warp has a row, or several warps of a block have it where there
//! are many splits: each sums up every n-th split, and the first one adds their sums. How many depends on nothing but the splits, so
//! that a row's bits do not depend on what else is in the batch.
//!
//! It moves `4 dv + 4` bytes for each row and split in, `2 dv + 4` for each row out, and does next to nothing else: what counts is how many
//! loads are under way, four splits of a row for each warp.

use core::mem::offset_of;

use super::ServeParams;
use crate::attn::divide::Divisor;
use crate::attn::search::owner;
use crate::attn::sequence::Side;
use crate::companion::Companion;
use crate::entry::{block_idx_x, dynamic_shared, thread_idx_x};
use crate::kernel;
use crate::mem::{Bf16, Element, F16, Smem};
use crate::ptx::{barrier, grid, ldst, math, warp};

/// [`combine_bf16`].
pub const COMBINE_BF16: Companion = Companion::new("combine_bf16", THREADS, SHARED, &CombineParams::LAYOUT);
/// [`combine_f16`].
pub const COMBINE_F16: Companion = Companion::new("combine_f16", THREADS, SHARED, &CombineParams::LAYOUT);

/// Threads of a block.
pub const THREADS: u32 = 256;
/// Widest row.
pub const MAX_DV: u32 = 256;

const WARPS: u32 = THREADS / 32;
/// Splits whose loads are under way at a time.
const AHEAD: usize = 4;
/// Vectors of a lane: four columns out of every 128.
const VECTORS: usize = (MAX_DV / 128) as usize;
/// A row of sums of each warp.
const SHARED: u32 = 4 * WARPS * MAX_DV;

/// The arguments of the combine kernels, by value. Launched with [`blocks`](Self::blocks) blocks and 8 KiB of shared memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CombineParams {
    /// As in [`ServeParams`], like those that follow.
    pub partial: *const f32,
    /// LSE of each split.
    pub partial_lse: *const f32,
    /// O, 16-bit elements.
    pub o: *mut u32,
    /// Elements from one row of O to the next.
    pub o_row_stride: u64,
    /// Elements from one head's O to the next.
    pub o_head_stride: u64,
    /// LSE, or null.
    pub lse: *mut f32,
    /// Elements from one batch entry's LSE to the next; 0 with packed queries.
    pub lse_batch_stride: u64,
    /// Elements from one head's LSE to the next.
    pub lse_head_stride: u64,
    /// Prefix sums of the queries, or null.
    pub cu_q: *const i32,
    /// Queries in use, or null.
    pub used_q: *const i32,
    /// Sinks, or null.
    pub sinks: *const f32,
    /// Queries of all sequences; times `heads` below 2^31.
    pub rows: Divisor,
    /// Most queries of a sequence.
    pub seqlen_q: Divisor,
    /// Query heads.
    pub heads: u32,
    /// Sequences.
    pub batch: u32,
    /// Rows of O from one sequence to the next, where they are not packed.
    pub o_room: u32,
    /// Splits.
    pub splits: u32,
    /// Columns of O, a multiple of 8, at most [`MAX_DV`].
    pub dv: u32,
    /// Binary logarithm of the warps of a row.
    pub warps_log2: u32,
}

impl CombineParams {
    /// What joins the splits of a launch with `serve`: O's address and strides, in elements, and the count of sequences.
    pub const fn new(serve: &ServeParams, o: *mut u32, o_row_stride: u64, o_head_stride: u64, batch: u32) -> Self {
        assert!(
            serve.rows > 0 && serve.rows * serve.heads as u64 <= i32::MAX as u64,
            "rows of all heads are counted in 31 bits"
        );
        assert!(serve.dv.is_multiple_of(8) && serve.dv <= MAX_DV, "rows are whole vectors of up to 256 columns");
        let splits = serve.units.splits.get();
        CombineParams {
            partial: serve.partial,
            partial_lse: serve.partial_lse,
            o,
            o_row_stride,
            o_head_stride,
            lse: serve.lse,
            lse_batch_stride: serve.lse_batch_stride,
            lse_head_stride: serve.lse_head_stride,
            cu_q: serve.cu_q,
            used_q: serve.used_q,
            sinks: serve.sinks,
            rows: Divisor::new(serve.rows as u32),
            seqlen_q: Divisor::new(if serve.seqlen_q == 0 { 1 } else { serve.seqlen_q }),
            heads: serve.heads,
            batch,
            o_room: serve.o_room,
            splits,
            dv: serve.dv,
            warps_log2: warps_log2(splits),
        }
    }

    /// Blocks of a launch.
    pub const fn blocks(&self) -> u32 {
        (self.rows.get() * self.heads).div_ceil(WARPS >> self.warps_log2)
    }

    const LAYOUT: [u32; 20] = [
        size_of::<Self>() as u32,
        offset_of!(Self, partial) as u32,
        offset_of!(Self, partial_lse) as u32,
        offset_of!(Self, o) as u32,
        offset_of!(Self, o_row_stride) as u32,
        offset_of!(Self, o_head_stride) as u32,
        offset_of!(Self, lse) as u32,
        offset_of!(Self, lse_batch_stride) as u32,
        offset_of!(Self, lse_head_stride) as u32,
        offset_of!(Self, cu_q) as u32,
        offset_of!(Self, used_q) as u32,
        offset_of!(Self, sinks) as u32,
        offset_of!(Self, rows) as u32,
        offset_of!(Self, seqlen_q) as u32,
        offset_of!(Self, heads) as u32,
        offset_of!(Self, batch) as u32,
        offset_of!(Self, o_room) as u32,
        offset_of!(Self, splits) as u32,
        offset_of!(Self, dv) as u32,
        offset_of!(Self, warps_log2) as u32,
    ];
}

/// Enough warps that each has its loads under way at once, where a block has so many.
const fn warps_log2(splits: u32) -> u32 {
    let mut log2 = 0;
    while log2 < WARPS.trailing_zeros() && (AHEAD as u32) << log2 < splits {
        log2 += 1;
    }
    log2
}

macro_rules! kernels {
    ($($name:ident: $dtype:ident, $companion:ident;)*) => {$(
        kernel! {
            threads = THREADS, registers = 96, shared = SHARED, plan = $companion.fingerprint;
            /// Joins splits; see [`CombineParams`].
            pub unsafe fn $name(params: CombineParams) {
                // SAFETY: the caller's promise.
                unsafe { combine::<$dtype>(&params) }
            }
        }
    )*};
}

kernels! {
    combine_bf16: Bf16, COMBINE_BF16;
    combine_f16: F16, COMBINE_F16;
}

/// Four columns out of every 128 of a row.
type Columns = [[f32; 4]; VECTORS];

#[inline(always)]
unsafe fn combine<E: Element>(params: &CombineParams) {
    grid::launch_dependents();
    let (warp, lane) = (warp::uniform(thread_idx_x() / 32), thread_idx_x() % 32);
    let share = Share { first: warp & ((1 << params.warps_log2) - 1), step: 1 << params.warps_log2 };
    let index = (block_idx_x() * WARPS + warp) >> params.warps_log2;
    // Warps past the last row go with it to the barrier, and write nothing.
    let last = params.rows.get() * params.heads - 1;
    let (head, row) = params.rows.div_rem(if index < last { index } else { last });
    grid::wait();
    // SAFETY: the block and the tensors are as the parameters say.
    unsafe {
        let place = params.place(row, lane);
        let at = u64::from(head) * u64::from(params.rows.get()) + u64::from(row);
        let (scale, lse) = params.lse(at, head, lane);
        let mut sum = [[0.0; 4]; VECTORS];
        if place.is_some() {
            params.add_splits(&mut sum, at, scale, share, lane);
        }
        if params.warps_log2 > 0 {
            add_warps(&mut sum, share, warp, lane);
        }
        if let Some(place) = place
            && share.first == 0
            && index <= last
        {
            params.store::<E>(&sum, lse, head, place, lane);
        }
    }
}

/// The splits of a warp: every `step`-th from `first` on.
#[derive(Clone, Copy)]
struct Share {
    first: u32,
    step: u32,
}

/// Where a row's results go.
#[derive(Clone, Copy)]
struct Place {
    /// Row of O.
    o_row: u64,
    /// Element of the head's LSE.
    lse: u64,
}

/// What turns a split's LSE into its weight: `exp(lse - reference) * factor`.
#[derive(Clone, Copy)]
struct Scale {
    reference: f32,
    factor: f32,
}

impl CombineParams {
    /// Where the results of a row go; `None` where no sequence has it.
    #[inline(always)]
    unsafe fn place(&self, row: u32, lane: u32) -> Option<Place> {
        let queries = Side { cumulative: self.cu_q, used: self.used_q, longest: self.seqlen_q.get(), room: 0 };
        if self.cu_q.is_null() {
            let (batch, query) = self.seqlen_q.div_rem(row);
            // SAFETY: the caller's promise.
            let (_, length) = unsafe { queries.rows(batch) };
            let o_row = u64::from(batch) * u64::from(self.o_room) + u64::from(query);
            let lse = u64::from(batch) * self.lse_batch_stride + u64::from(query);
            return (query < length).then_some(Place { o_row, lse });
        }
        // SAFETY: the caller's promise; all lanes of the warp have the same row.
        let (start, length) = unsafe { queries.rows(owner(self.cu_q, self.batch, row, lane)) };
        (row.wrapping_sub(start) < length).then_some(Place { o_row: u64::from(row), lse: u64::from(row) })
    }

    /// The scale of the splits' weights of a row, and its LSE, from a lane for each split.
    #[inline(always)]
    unsafe fn lse(&self, at: u64, head: u32, lane: u32) -> (Scale, f32) {
        let sink = if self.sinks.is_null() {
            f32::NEG_INFINITY
        } else {
            // SAFETY: the caller's promise.
            unsafe { ldst::ld_global_f32(self.sinks.wrapping_add(head as usize)) }
        };
        let mut greatest = sink;
        let mut split = lane;
        while split < self.splits {
            // SAFETY: the caller's promise.
            greatest = math::max(greatest, unsafe { self.split_lse(split, at) });
            split += 32;
        }
        let greatest = over_lanes(greatest, math::max);
        // A row without keys has no difference of infinities, but zeros.
        let reference = if greatest == f32::NEG_INFINITY { 0.0 } else { greatest };
        let mut sum = if lane == 0 { exp(sink, reference) } else { 0.0 };
        let mut split = lane;
        while split < self.splits {
            // SAFETY: the caller's promise.
            sum = math::add(sum, exp(unsafe { self.split_lse(split, at) }, reference));
            split += 32;
        }
        let sum = over_lanes(sum, math::add);
        let factor = if sum == 0.0 { 0.0 } else { math::rcp(sum) };
        (Scale { reference, factor }, math::fma(math::lg2(sum), LN_2, reference))
    }

    #[inline(always)]
    unsafe fn split_lse(&self, split: u32, at: u64) -> f32 {
        let of_split = u64::from(self.heads) * u64::from(self.rows.get());
        // SAFETY: the caller's promise.
        unsafe { ldst::ld_global_f32(self.partial_lse.wrapping_add((u64::from(split) * of_split + at) as usize)) }
    }

    /// Adds the weighted rows of this warp's splits. What a split without keys has left unwritten is not read.
    #[inline(always)]
    unsafe fn add_splits(&self, sum: &mut Columns, at: u64, scale: Scale, share: Share, lane: u32) {
        let of_split = u64::from(self.heads) * u64::from(self.rows.get()) * u64::from(self.dv);
        let row = self.partial.wrapping_add((at * u64::from(self.dv)) as usize + 4 * lane as usize);
        let mut group = 0;
        while group < self.splits {
            // The next 32 splits: a lane has the weight of each.
            let lse = if group + lane < self.splits {
                // SAFETY: the caller's promise.
                unsafe { self.split_lse(group + lane, at) }
            } else {
                f32::NEG_INFINITY
            };
            let with_keys = warp::ballot(lse != f32::NEG_INFINITY);
            let weight = math::mul(exp(lse, scale.reference), scale.factor);
            let mut split = share.first;
            while split < 32 && group + split < self.splits {
                let mut rows = [[[0.0; 4]; VECTORS]; AHEAD];
                let mut i = 0;
                while i < AHEAD {
                    let split = split + i as u32 * share.step;
                    if split < 32 && with_keys >> split & 1 == 1 {
                        let from = row.wrapping_add((u64::from(group + split) * of_split) as usize);
                        // SAFETY: the caller's promise: this split has written the row.
                        rows[i] = unsafe { self.load(from, lane) };
                    }
                    i += 1;
                }
                let mut i = 0;
                while i < AHEAD {
                    let weight = warp::shfl_idx(weight.to_bits(), split + i as u32 * share.step);
                    add_weighted(sum, &rows[i], f32::from_bits(weight));
                    i += 1;
                }
                split += AHEAD as u32 * share.step;
            }
            group += 32;
        }
    }

    /// A lane's columns of a row, of which `from` is the first; zeros past the last.
    #[inline(always)]
    unsafe fn load(&self, from: *const f32, lane: u32) -> Columns {
        let mut columns = [[0.0; 4]; VECTORS];
        let mut i = 0;
        while i < VECTORS {
            if 4 * lane + 128 * (i as u32) < self.dv {
                // SAFETY: the caller's promise.
                columns[i] = unsafe { ldst::ld_global_f32x4(from.wrapping_add(128 * i)) };
            }
            i += 1;
        }
        columns
    }

    /// Writes a row of O and its LSE.
    #[inline(always)]
    unsafe fn store<E: Element>(&self, sum: &Columns, lse: f32, head: u32, place: Place, lane: u32) {
        let first = place.o_row * self.o_row_stride + u64::from(head) * self.o_head_stride + 4 * u64::from(lane);
        let mut i = 0;
        while i < VECTORS {
            if 4 * lane + 128 * (i as u32) < self.dv {
                let [a, b, c, d] = sum[i];
                let to = self.o.wrapping_add(first as usize / 2 + 64 * i);
                // SAFETY: the caller's promise: these columns of O are this lane's, on 8 bytes.
                unsafe { ldst::st_global_u32x2(to, E::pack(a, b), E::pack(c, d)) };
            }
            i += 1;
        }
        if lane == 0 && !self.lse.is_null() {
            let at = u64::from(head) * self.lse_head_stride + place.lse;
            // SAFETY: the caller's promise.
            unsafe { ldst::st_global_f32(self.lse.wrapping_add(at as usize), lse) };
        }
    }
}

const LOG2_E: f32 = core::f32::consts::LOG2_E;
const LN_2: f32 = core::f32::consts::LN_2;

/// `exp(x - reference)`; 0 for minus infinity.
#[inline(always)]
fn exp(x: f32, reference: f32) -> f32 {
    math::ex2(math::mul(math::sub(x, reference), LOG2_E))
}

/// `sum += weight * row`; a weight of 0 goes with a row of zeros, or with one that counts for nothing unless it is not finite.
#[inline(always)]
fn add_weighted(sum: &mut Columns, row: &Columns, weight: f32) {
    let mut i = 0;
    while i < VECTORS {
        let mut j = 0;
        while j < 4 {
            sum[i][j] = math::fma(row[i][j], weight, sum[i][j]);
            j += 1;
        }
        i += 1;
    }
}

/// A value of all lanes together, the same in each.
#[inline(always)]
fn over_lanes(mut x: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut mask = 16;
    while mask > 0 {
        x = join(x, warp::shfl_xor_f32(x, mask));
        mask /= 2;
    }
    x
}

/// Adds the sums of a row's warps, in the order of warps, in the first one.
#[inline(always)]
unsafe fn add_warps(sum: &mut Columns, share: Share, warp: u32, lane: u32) {
    let at = |warp: u32, i: usize| Smem::<f32>::new(dynamic_shared() + 4 * (warp * MAX_DV + 128 * i as u32 + 4 * lane));
    // SAFETY: a row of shared memory for each warp; every warp of the block comes here, and reads after the barrier.
    unsafe {
        let mut i = 0;
        while i < VECTORS {
            ldst::st_shared_f32x4(at(warp, i), sum[i]);
            i += 1;
        }
        barrier::sync_all();
        if share.first > 0 {
            return;
        }
        let mut other = 1;
        while other < share.step {
            let mut row = [[0.0; 4]; VECTORS];
            let mut i = 0;
            while i < VECTORS {
                row[i] = ldst::ld_shared_f32x4(at(warp + other, i));
                i += 1;
            }
            add_weighted(sum, &row, 1.0);
            other += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_as_many_warps_as_have_loads_to_wait_for() {
        assert_eq!([1, 4, 5, 8, 9, 16, 17, 1000].map(warps_log2), [0, 0, 1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn exp_of_nothing_is_zero_and_of_the_reference_one() {
        assert_eq!(exp(f32::NEG_INFINITY, 3.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY, 0.0), 0.0);
        assert_eq!(exp(-700.0, -700.0), 1.0);
    }

    #[test]
    fn sums_weigh_every_column() {
        let mut sum = [[1.0; 4]; VECTORS];
        add_weighted(&mut sum, &[[2.0; 4]; VECTORS], 0.5);
        assert_eq!(sum, [[2.0; 4]; VECTORS]);
    }
}
