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

use core::mem::offset_of;

use crate::attn::divide::Divisor;
use crate::attn::search::owner;
use crate::attn::sequence::Side;
use crate::companion::Companion;
use crate::entry::{block_idx_x, thread_idx_x};
use crate::kernel;
use crate::mem::{Bf16, Element, F16};
use crate::ptx::{float8, grid, ldst, math};

/// [`append_bf16`].
pub const APPEND_BF16: Companion = Companion::new("append_bf16", THREADS, 0, &AppendParams::LAYOUT);
/// [`append_f16`].
pub const APPEND_F16: Companion = Companion::new("append_f16", THREADS, 0, &AppendParams::LAYOUT);

/// Threads of a block.
pub const THREADS: u32 = 128;
/// Elements of an item: two vectors of 16 bytes.
pub const ITEM: u32 = 16;

/// Rows of heads in memory. Strides are in elements, multiples of 8; the address is on 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Address of the first element.
    pub base: *mut u32,
    /// From one batch entry, or one page, to the next; 0 for packed rows.
    pub outer: u64,
    /// From one row to the next.
    pub row: u64,
    /// From one head to the next.
    pub head: u64,
}

/// The arguments of the append kernels, by value. Launched with [`blocks`](Self::blocks) blocks.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AppendParams {
    /// New keys.
    pub k: Rows,
    /// New values.
    pub v: Rows,
    /// Queries to rotate.
    pub q: Rows,
    /// Where they go; may be where they are.
    pub q_out: Rows,
    /// The cache of keys, by pages or batch entries.
    pub k_cache: Rows,
    /// The cache of values.
    pub v_cache: Rows,
    /// Cosines, f32 or 16-bit elements: of each position `rotary / 2`.
    pub cos: *const u32,
    /// Sines.
    pub sin: *const u32,
    /// Keys that each sequence has in the cache already, `i32[batch]`; null: none.
    pub before: *const i32,
    /// Prefix sums of the new tokens, `i32[batch + 1]`; null: every sequence has `new` of them.
    pub cu_new: *const i32,
    /// New tokens in use of each sequence, `i32[batch]`; null: all.
    pub used_new: *const i32,
    /// Pages of each sequence, `i32[batch][page_stride]`; null: a batch entry is a page.
    pub pages: *const i32,
    /// What K's elements in a cache of 8-bit floats are to be multiplied with, f32, of each key/value head, for each batch entry
    /// `descale_stride` further; null: 1.
    pub k_descale: *const f32,
    /// What V's are.
    pub v_descale: *const f32,
    /// Entries from one sequence's pages to the next's.
    pub page_stride: u64,
    /// Elements from one position's sines to the next's: a multiple of 4 of f32, of 8 of 16-bit elements.
    pub table_stride: u64,
    /// Blocks of a token.
    pub parts: Divisor,
    /// New tokens of a sequence, at most.
    pub new: Divisor,
    /// Items of a head of K or Q.
    pub k_items: Divisor,
    /// Items of a head of V.
    pub v_items: Divisor,
    /// Sequences.
    pub batch: u32,
    /// Elements of a head of K or Q, a multiple of 8.
    pub d: u32,
    /// Elements of a head of V, a multiple of 8.
    pub dv: u32,
    /// Heads of K and V.
    pub kv_heads: u32,
    /// Heads of Q; 0: no queries to rotate.
    pub heads: u32,
    /// Elements of a head that are rotated, a multiple of 16; 0: none.
    pub rotary: u32,
    /// 1: pairs are neighbours, 0: they are in the two halves.
    pub interleaved: u32,
    /// 1: the sines are f32, 0: they are of the tensors' type.
    pub table_f32: u32,
    /// 1: the caches hold e4m3, 0: they are of the tensors' type.
    pub cache_e4m3: u32,
    /// From one batch entry's factors to the next; 0: all have the same.
    pub descale_stride: u32,
    /// Positions that the tables have.
    pub positions: u32,
    /// Positions that the cache has for each sequence.
    pub capacity: u32,
    /// Binary logarithm of the rows of a page; 31 without pages.
    pub page_shift: u32,
    /// Pages, or batch entries, that there are.
    pub page_count: u32,
}

/// Items of a head of `d` elements of which the first `rotary` are rotated.
pub const fn items(d: u32, rotary: u32) -> u32 {
    rotary / ITEM + (d - rotary).div_ceil(ITEM)
}

impl AppendParams {
    /// Items of a token.
    pub const fn items(k_items: u32, v_items: u32, kv_heads: u32, heads: u32) -> u32 {
        (kv_heads + heads) * k_items + kv_heads * v_items
    }

    /// Blocks of a launch for `tokens` tokens: all rows of packed ones, `batch * new` of others.
    pub const fn blocks(&self, tokens: u32) -> u32 {
        tokens * self.parts.get()
    }

    const LAYOUT: [u32; 39] = [
        size_of::<Self>() as u32,
        offset_of!(Rows, base) as u32,
        offset_of!(Rows, outer) as u32,
        offset_of!(Rows, row) as u32,
        offset_of!(Rows, head) as u32,
        offset_of!(Self, k) as u32,
        offset_of!(Self, v) as u32,
        offset_of!(Self, q) as u32,
        offset_of!(Self, q_out) as u32,
        offset_of!(Self, k_cache) as u32,
        offset_of!(Self, v_cache) as u32,
        offset_of!(Self, cos) as u32,
        offset_of!(Self, sin) as u32,
        offset_of!(Self, before) as u32,
        offset_of!(Self, cu_new) as u32,
        offset_of!(Self, used_new) as u32,
        offset_of!(Self, pages) as u32,
        offset_of!(Self, k_descale) as u32,
        offset_of!(Self, v_descale) as u32,
        offset_of!(Self, page_stride) as u32,
        offset_of!(Self, table_stride) as u32,
        offset_of!(Self, parts) as u32,
        offset_of!(Self, new) as u32,
        offset_of!(Self, k_items) as u32,
        offset_of!(Self, v_items) as u32,
        offset_of!(Self, batch) as u32,
        offset_of!(Self, d) as u32,
        offset_of!(Self, dv) as u32,
        offset_of!(Self, kv_heads) as u32,
        offset_of!(Self, heads) as u32,
        offset_of!(Self, rotary) as u32,
        offset_of!(Self, interleaved) as u32,
        offset_of!(Self, table_f32) as u32,
        offset_of!(Self, cache_e4m3) as u32,
        offset_of!(Self, descale_stride) as u32,
        offset_of!(Self, positions) as u32,
        offset_of!(Self, capacity) as u32,
        offset_of!(Self, page_shift) as u32,
        offset_of!(Self, page_count) as u32,
    ];
}

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

/// Which of a token's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tensor {
    K,
    V,
    Q,
}

/// What one thread moves: two vectors of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    tensor: Tensor,
    head: u32,
    /// First elements of the two vectors.
    at: [u32; 2],
    /// Whether there is a second one.
    pair: bool,
    /// The first of the 8 sines of a position, where it is rotated.
    column: Option<u32>,
}

/// Two vectors, each of four pairs of elements.
type Vectors = [[u32; 4]; 2];

/// Where a token goes: its sequence and its position in it.
#[derive(Clone, Copy)]
struct Place {
    batch: u32,
    position: u32,
}

impl Item {
    /// # Safety
    /// The row is in memory.
    #[inline(always)]
    unsafe fn load(&self, rows: Row) -> Vectors {
        // SAFETY: the caller's promise.
        unsafe {
            let first = ldst::ld_global_u32x4(rows.at(self.head, self.at[0]));
            [first, if self.pair { ldst::ld_global_u32x4(rows.at(self.head, self.at[1])) } else { [0; 4] }]
        }
    }

    /// # Safety
    /// The row is in memory, and these vectors are no other thread's.
    #[inline(always)]
    unsafe fn store(&self, rows: Row, [[a, b, c, d], [e, f, g, h]]: Vectors) {
        // SAFETY: the caller's promise.
        unsafe {
            ldst::st_global_u32x4(rows.at(self.head, self.at[0]), a, b, c, d);
            if self.pair {
                ldst::st_global_u32x4(rows.at(self.head, self.at[1]), e, f, g, h);
            }
        }
    }

    /// Stores what is multiplied with `factor` and rounded.
    ///
    /// # Safety
    /// As [`store`](Self::store), with a row of 8-bit elements.
    #[inline(always)]
    unsafe fn store_e4m3(&self, rows: Row, elements: [[f32; 8]; 2], factor: f32) {
        let four = |[a, b, c, d]: [f32; 4]| float8::pack_e4m3([a, b, c, d].map(|x| math::mul(x, factor)));
        let halves = |[a, b, c, d, e, f, g, h]: [f32; 8]| [four([a, b, c, d]), four([e, f, g, h])];
        let [first, second] = elements.map(halves);
        // SAFETY: the caller's promise.
        unsafe {
            ldst::st_global_u32x2(rows.at_byte(self.head, self.at[0]), first[0], first[1]);
            if self.pair {
                ldst::st_global_u32x2(rows.at_byte(self.head, self.at[1]), second[0], second[1]);
            }
        }
    }
}

/// A row of all heads.
#[derive(Clone, Copy)]
struct Row {
    base: *mut u32,
    /// Elements before the row.
    start: u64,
    head: u64,
}

impl Row {
    /// The address of a vector.
    #[inline(always)]
    fn at(&self, head: u32, element: u32) -> *mut u32 {
        // Two elements a word.
        self.base.wrapping_add((self.offset(head, element) / 2) as usize)
    }

    /// The address of a vector of 8-bit elements.
    #[inline(always)]
    fn at_byte(&self, head: u32, element: u32) -> *mut u32 {
        self.base.wrapping_byte_add(self.offset(head, element) as usize)
    }

    #[inline(always)]
    const fn offset(&self, head: u32, element: u32) -> u64 {
        self.start + head as u64 * self.head + element as u64
    }
}

impl Rows {
    #[inline(always)]
    const fn row(&self, outer: u32, row: u32) -> Row {
        Row { base: self.base, start: outer as u64 * self.outer + row as u64 * self.row, head: self.head }
    }
}

impl AppendParams {
    /// Item `index` of a token: those of K, of V, of Q.
    #[inline(always)]
    const fn item(&self, index: u32) -> Option<Item> {
        let (of_k, of_v) = (self.kv_heads * self.k_items.get(), self.kv_heads * self.v_items.get());
        let (tensor, (head, slot)) = if index < of_k {
            (Tensor::K, self.k_items.div_rem(index))
        } else if index < of_k + of_v {
            (Tensor::V, self.v_items.div_rem(index - of_k))
        } else {
            (Tensor::Q, self.k_items.div_rem(index - of_k - of_v))
        };
        if matches!(tensor, Tensor::Q) && head >= self.heads {
            return None;
        }
        let (d, rotary) = if matches!(tensor, Tensor::V) { (self.dv, 0) } else { (self.d, self.rotary) };
        let rotated = slot < rotary / ITEM;
        let at = if rotated && self.interleaved == 0 {
            [ITEM / 2 * slot, rotary / 2 + ITEM / 2 * slot]
        } else {
            // The rotated ones come first in either case.
            [ITEM * slot, ITEM * slot + ITEM / 2]
        };
        Some(Item { tensor, head, at, pair: at[1] < d, column: if rotated { Some(ITEM / 2 * slot) } else { None } })
    }

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

    /// Eight cosines and eight sines.
    #[inline(always)]
    unsafe fn sines<E: Element>(&self, at: u64) -> [[f32; 8]; 2] {
        let mut out = [[0.0; 8]; 2];
        let tables = [self.cos, self.sin];
        let mut table = 0;
        while table < 2 {
            // SAFETY: the caller's promise: the position has a row in the tables.
            unsafe {
                if self.table_f32 != 0 {
                    let from = tables[table].cast::<f32>().wrapping_add(at as usize);
                    let (low, high) = (ldst::ld_global_f32x4(from), ldst::ld_global_f32x4(from.wrapping_add(4)));
                    let mut i = 0;
                    while i < 4 {
                        (out[table][i], out[table][i + 4]) = (low[i], high[i]);
                        i += 1;
                    }
                } else {
                    out[table] = unpack::<E>(ldst::ld_global_u32x4(tables[table].wrapping_add((at / 2) as usize)));
                }
            }
            table += 1;
        }
        out
    }

    /// What elements are multiplied with before they are rounded to 8 bits.
    #[inline(always)]
    unsafe fn factor(&self, item: Item, batch: u32) -> f32 {
        let descales = if item.tensor == Tensor::K { self.k_descale } else { self.v_descale };
        if descales.is_null() {
            return 1.0;
        }
        let at = batch as usize * self.descale_stride as usize + item.head as usize;
        // SAFETY: the caller's promise. A division, not an approximation: once for each thread.
        1.0 / unsafe { ldst::ld_global_f32(descales.wrapping_add(at)) }
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

/// The eight elements of a vector.
#[inline(always)]
fn unpack<E: Element>(vector: [u32; 4]) -> [f32; 8] {
    let mut out = [0.0; 8];
    let mut i = 0;
    while i < 4 {
        (out[2 * i], out[2 * i + 1]) = E::unpack(vector[i]);
        i += 1;
    }
    out
}

/// Eight elements, each rounded.
#[inline(always)]
fn pack<E: Element>(elements: [f32; 8]) -> [u32; 4] {
    let mut out = [0; 4];
    let mut i = 0;
    while i < 4 {
        out[i] = E::pack(elements[2 * i], elements[2 * i + 1]);
        i += 1;
    }
    out
}

/// Rotates eight pairs by their angles.
#[inline(always)]
fn rotate([mut a, mut b]: [[f32; 8]; 2], [cos, sin]: [[f32; 8]; 2], interleaved: bool) -> [[f32; 8]; 2] {
    let mut i = 0;
    while i < 8 {
        if interleaved {
            let vector = if i < 4 { &mut a } else { &mut b };
            let at = 2 * (i % 4);
            [vector[at], vector[at + 1]] = turn([vector[at], vector[at + 1]], cos[i], sin[i]);
        } else {
            [a[i], b[i]] = turn([a[i], b[i]], cos[i], sin[i]);
        }
        i += 1;
    }
    [a, b]
}

/// A point turned by an angle.
#[inline(always)]
fn turn([x, y]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [math::fma(x, cos, -math::mul(y, sin)), math::fma(y, cos, math::mul(x, sin))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr;
    use std::vec::Vec;

    fn params(d: u32, dv: u32, rotary: u32, interleaved: bool) -> AppendParams {
        let rows = Rows { base: ptr::null_mut(), outer: 0, row: 0, head: 0 };
        let (k_items, v_items) = (items(d, rotary), items(dv, 0));
        AppendParams {
            k: rows,
            v: rows,
            q: rows,
            q_out: rows,
            k_cache: rows,
            v_cache: rows,
            cos: ptr::null(),
            sin: ptr::null(),
            before: ptr::null(),
            cu_new: ptr::null(),
            used_new: ptr::null(),
            pages: ptr::null(),
            k_descale: ptr::null(),
            v_descale: ptr::null(),
            page_stride: 0,
            table_stride: 0,
            parts: Divisor::new(AppendParams::items(k_items, v_items, 2, 3).div_ceil(THREADS)),
            new: Divisor::new(1),
            k_items: Divisor::new(k_items),
            v_items: Divisor::new(v_items),
            batch: 1,
            d,
            dv,
            kv_heads: 2,
            heads: 3,
            rotary,
            interleaved: interleaved.into(),
            table_f32: 1,
            cache_e4m3: 0,
            descale_stride: 0,
            positions: 1,
            capacity: 1,
            page_shift: 31,
            page_count: 1,
        }
    }

    #[test]
    fn every_vector_of_a_token_is_moved_once() {
        for (d, dv) in [(64, 64), (128, 128), (192, 128), (72, 8), (8, 256), (256, 40)] {
            for (rotary, interleaved) in
                [(0, false), (16, false), (48, true), (d / 16 * 16, false), (d / 16 * 16, true)]
            {
                if rotary > d {
                    continue;
                }
                let params = params(d, dv, rotary, interleaved);
                let count = AppendParams::items(items(d, rotary), items(dv, 0), 2, 3);
                let mut vectors = Vec::new();
                for index in 0..params.parts.get() * THREADS {
                    let item = params.item(index);
                    assert_eq!(item.is_some(), index < count, "item {index} of {count}, head_dim {d}, {dv}");
                    let Some(item) = item else { continue };
                    let all = &item.at[..1 + usize::from(item.pair)];
                    vectors.extend(all.iter().map(|at| (item.tensor as u32, item.head, *at)));
                    assert_eq!(item.column.is_some(), item.tensor != Tensor::V && item.at[0] < rotary);
                }
                vectors.sort_unstable();
                let heads = [(0, 2, d), (1, 2, dv), (2, 3, d)];
                let all = heads.into_iter().flat_map(|(tensor, heads, d)| {
                    (0..heads).flat_map(move |head| (0..d / 8).map(move |vector| (tensor, head, 8 * vector)))
                });
                assert_eq!(vectors, all.collect::<Vec<_>>(), "head_dim {d}, {dv}, {rotary} rotated");
            }
        }
    }

    #[test]
    fn a_quarter_turn_swaps_the_pairs() {
        let numbers = |from: f32| -> [f32; 8] { core::array::from_fn(|i| from + i as f32) };
        let vectors = [numbers(0.0), numbers(8.0)];
        let quarter = [[0.0; 8], [1.0; 8]];
        let [a, b] = rotate(vectors, quarter, false);
        assert_eq!((a, b), (numbers(8.0).map(|x| -x), numbers(0.0)));
        let [a, b] = rotate(vectors, quarter, true);
        assert_eq!(a, [-1.0, 0.0, -3.0, 2.0, -5.0, 4.0, -7.0, 6.0]);
        assert_eq!(b, [-9.0, 8.0, -11.0, 10.0, -13.0, 12.0, -15.0, 14.0]);
    }

    #[test]
    fn no_turn_changes_nothing() {
        let vectors = [[0x3c00_7bff, 0x8001_0001, 5, 6], [7, 8, 0x3c01_bc01, 0x0400_8400]];
        for interleaved in [false, true] {
            let still = rotate(vectors.map(unpack::<F16>), [[1.0; 8], [0.0; 8]], interleaved);
            assert_eq!(still.map(pack::<F16>), vectors);
        }
    }
}
