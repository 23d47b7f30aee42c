//! New keys and values into a cache, with rotary position embedding of keys and queries on the way.
//!
//! A thread moves one item: two vectors of 8 elements of one head of one token, those whose elements are rotated with each other. All loads
//! of a token's rows are issued before anything is known of where they go. One launch moves K, V and Q.
//!
//! | style | pairs | an item's vectors |
//! |---|---|---|
//! | halves | element `i` with `i + rotary / 2` | 8 of the first half, the same 8 of the second one |
//! | interleaved | element `2 i` with `2 i + 1` | 16 neighbours |
//! | not rotated: V, and what lies past `rotary` | none | 16 neighbours, the last 8 alone where their count is odd |
//!
//! Into a cache of 8-bit floats (e4m3) go keys and values over their descales, rounded once; what is too large becomes 448.
//!
//! What memory says of positions and pages is not trusted: a token whose place is not in the cache is dropped, and so is one that the
//! tables of sines do not reach.

use crate::attn::search::owner;
use crate::attn::sequence::Side;
use crate::companion::Companion;
use crate::entry::{block_idx_x, thread_idx_x};
use crate::kernel;
use crate::mem::{Bf16, Element, F16};
use crate::ptx::{grid, ldst};

mod item;
mod params;
mod rotate;

use item::{Row, Tensor};
pub use params::{AppendParams, ITEM, Rows, items};
use rotate::{pack, rotate, unpack};

/// [`append_bf16`].
pub const APPEND_BF16: Companion = Companion::new("append_bf16", THREADS, 0, &AppendParams::LAYOUT);
/// [`append_f16`].
pub const APPEND_F16: Companion = Companion::new("append_f16", THREADS, 0, &AppendParams::LAYOUT);

/// Threads of a block.
pub const THREADS: u32 = 128;

macro_rules! kernels {
    ($($name:ident: $dtype:ident, $companion:ident;)*) => {$(
        kernel! {
            threads = THREADS, registers = 64, shared = 0, plan = $companion.fingerprint;
            /// Appends to a cache; see [`AppendParams`].
            pub unsafe fn $name(params: AppendParams) {
                // SAFETY: the caller's promise.
                unsafe { append::<$dtype>(&params) }
            }
        }
    )*};
}

kernels! {
    append_bf16: Bf16, APPEND_BF16;
    append_f16: F16, APPEND_F16;
}

#[inline(always)]
unsafe fn append<E: Element>(params: &AppendParams) {
    grid::launch_dependents();
    let (token, part) = params.parts.div_rem(block_idx_x());
    let item = params.item(part * THREADS + thread_idx_x());
    grid::wait();
    // SAFETY: the tensors are as the parameters say.
    unsafe {
        // In memory packed tokens lie one after the other, whoever they belong to.
        let loaded = item.map(|item| item.load(params.row(item.tensor, token)));
        // All lanes search together, also those without an item.
        let place = params.place(token);
        if let (Some(item), Some(loaded), Some(place)) = (item, loaded, place) {
            let Some(to) = params.destination(item.tensor, token, place) else { return };
            let mut elements = loaded.map(unpack::<E>);
            if let Some(column) = item.column {
                let at = u64::from(place.position) * params.table_stride + u64::from(column);
                elements = rotate(elements, params.sines::<E>(at), params.interleaved != 0);
            }
            if params.cache_e4m3 != 0 && item.tensor != Tensor::Q {
                item.store_e4m3(to, elements, params.factor(item, place.batch));
            } else if item.column.is_some() {
                item.store(to, elements.map(pack::<E>));
            } else {
                // As they are, NaNs too.
                item.store(to, loaded);
            }
        }
    }
}

/// Where a token goes: its sequence and its position in it.
#[derive(Clone, Copy)]
struct Place {
    batch: u32,
    position: u32,
}

impl AppendParams {
    /// The row of a token where it comes from.
    #[inline(always)]
    const fn row(&self, tensor: Tensor, token: u32) -> Row {
        let (batch, row) = self.outer_and_row(token);
        match tensor {
            Tensor::K => self.k.row(batch, row),
            Tensor::V => self.v.row(batch, row),
            Tensor::Q => self.q.row(batch, row),
        }
    }

    /// Batch entry and row of a token in a tensor of tokens.
    #[inline(always)]
    const fn outer_and_row(&self, token: u32) -> (u32, u32) {
        if self.cu_new.is_null() { self.new.div_rem(token) } else { (0, token) }
    }

    /// The sequence and position of a token; `None` where it is in no sequence, not in use, or beyond the sines.
    #[inline(always)]
    unsafe fn place(&self, token: u32) -> Option<Place> {
        let side = Side { cumulative: self.cu_new, used: self.used_new, longest: self.new.get(), room: self.new.get() };
        // SAFETY: the caller's promise; all lanes have the same token.
        unsafe {
            let batch = if self.cu_new.is_null() {
                self.new.div_rem(token).0
            } else {
                owner(self.cu_new, self.batch, token, thread_idx_x() % 32)
            };
            let (start, length) = side.rows(batch);
            let query = token.wrapping_sub(start);
            let mut position = query;
            if !self.before.is_null() {
                let before = ldst::ld_global_u32(self.before.wrapping_add(batch as usize).cast());
                position = query.wrapping_add(before);
            }
            let sines = self.rotary == 0 || position < self.positions;
            (query < length && sines).then_some(Place { batch, position })
        }
    }

    /// The row that a token goes to; `None` where the cache has none.
    #[inline(always)]
    unsafe fn destination(&self, tensor: Tensor, token: u32, place: Place) -> Option<Row> {
        if tensor == Tensor::Q {
            let (batch, row) = self.outer_and_row(token);
            return Some(self.q_out.row(batch, row));
        }
        if place.position >= self.capacity {
            return None;
        }
        let of_sequence = place.position >> self.page_shift;
        let mut page = place.batch;
        if !self.pages.is_null() {
            let at = u64::from(place.batch) * self.page_stride + u64::from(of_sequence);
            // SAFETY: the caller's promise: the sequence has pages for its positions.
            page = unsafe { ldst::ld_global_u32(self.pages.wrapping_add(at as usize).cast()) };
        }
        if page >= self.page_count {
            return None;
        }
        let row = place.position - (of_sequence << self.page_shift);
        Some(if tensor == Tensor::K { self.k_cache.row(page, row) } else { self.v_cache.row(page, row) })
    }
}
