//! What the append kernels are told.

use core::mem::offset_of;

use crate::attn::divide::Divisor;

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

    pub(super) const LAYOUT: [u32; 39] = [
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
