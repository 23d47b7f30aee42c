//! Which elements a thread moves, and where they lie in a row.

use super::params::{AppendParams, ITEM, Rows};
use crate::ptx::{float8, ldst, math};

/// Which of a token's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tensor {
    K,
    V,
    Q,
}

/// What one thread moves: two vectors of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) tensor: Tensor,
    head: u32,
    /// First elements of the two vectors.
    at: [u32; 2],
    /// Whether there is a second one.
    pair: bool,
    /// The first of the 8 sines of a position, where it is rotated.
    pub(super) column: Option<u32>,
}

/// Two vectors, each of four pairs of elements.
pub(super) type Vectors = [[u32; 4]; 2];

impl Item {
    /// # Safety
    /// The row is in memory.
    #[inline(always)]
    pub(super) unsafe fn load(&self, rows: Row) -> Vectors {
        // SAFETY: the caller's promise.
        unsafe {
            let first = ldst::ld_global_u32x4(rows.at(self.head, self.at[0]));
            [first, if self.pair { ldst::ld_global_u32x4(rows.at(self.head, self.at[1])) } else { [0; 4] }]
        }
    }

    /// # Safety
    /// The row is in memory, and these vectors are no other thread's.
    #[inline(always)]
    pub(super) unsafe fn store(&self, rows: Row, [[a, b, c, d], [e, f, g, h]]: Vectors) {
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
    pub(super) unsafe fn store_e4m3(&self, rows: Row, elements: [[f32; 8]; 2], factor: f32) {
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
pub(super) struct Row {
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
    pub(super) const fn row(&self, outer: u32, row: u32) -> Row {
        Row { base: self.base, start: outer as u64 * self.outer + row as u64 * self.row, head: self.head }
    }
}

impl AppendParams {
    /// Item `index` of a token: those of K, of V, of Q.
    #[inline(always)]
    pub(super) const fn item(&self, index: u32) -> Option<Item> {
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

    /// What elements are multiplied with before they are rounded to 8 bits.
    #[inline(always)]
    pub(super) unsafe fn factor(&self, item: Item, batch: u32) -> f32 {
        let descales = if item.tensor == Tensor::K { self.k_descale } else { self.v_descale };
        if descales.is_null() {
            return 1.0;
        }
        let at = batch as usize * self.descale_stride as usize + item.head as usize;
        // SAFETY: the caller's promise. A division, not an approximation: once for each thread.
        1.0 / unsafe { ldst::ld_global_f32(descales.wrapping_add(at)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append::{THREADS, items};
    use crate::attn::divide::Divisor;
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
}
