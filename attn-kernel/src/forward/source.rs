//! Where a unit's K and V lie: what the loading warp of either architecture asks for each copy.

use super::serve::{ServeParams, Unit};
use crate::attn::sequence::bounded;
use crate::ptx::{ldst, special};

/// A unit's K and V.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    params: &'a ServeParams,
    /// The page of a batch entry that is not paged.
    page: u32,
    /// The pages of one that is.
    table: *const i32,
    /// First row of the sequence, or of each page.
    start: u32,
    /// Keys.
    len: u32,
    /// Head of K and V.
    pub kv_head: u32,
    /// The sequence is packed: there are no pages, and one copy brings a tile.
    plain: bool,
}

impl<'a> Source<'a> {
    /// The source of a unit, of which `len` keys are read; what lies behind them reads as zeros.
    #[inline(always)]
    pub fn of(params: &'a ServeParams, unit: &Unit, len: u32, plain: bool) -> Self {
        Source {
            params,
            page: unit.batch,
            table: params.pages.wrapping_add((unit.batch as u64 * params.page_stride) as usize),
            start: unit.sequence.k_start,
            len,
            kv_head: params.group.div_rem(unit.head).0,
            plain,
        }
    }

    /// Page of the lane's chunk of block `block` of `bn` keys.
    ///
    /// # Safety
    /// The page table is as [`ServeParams`] says.
    #[inline(always)]
    pub unsafe fn page(&self, block: u32, bn: u32) -> u32 {
        if self.plain || self.params.pages.is_null() {
            return self.page;
        }
        let offset = special::lane_id() * self.params.chunk;
        let key = block * bn + offset;
        if offset >= bn || key >= self.len {
            return 0; // of which nothing is read
        }
        // SAFETY: the sequence has a page for each of its keys.
        unsafe { ldst::ld_global_u32(self.table.wrapping_add((key >> self.params.page_shift) as usize).cast()) }
    }

    /// Coordinates of the chunk that begins with key `key`, which lies in page `page` of a tensor whose pages are `room` rows apart: as
    /// [`bounded`]'s. Of a page that does not exist, nothing.
    #[inline(always)]
    pub fn chunk(&self, key: u32, page: u32, room: u32) -> [i32; 2] {
        if self.plain {
            return bounded(self.start + key, self.len.saturating_sub(key), self.params.chunk);
        }
        let left = if page < self.params.page_count { self.len.saturating_sub(key) } else { 0 };
        let row = self.start + (key & ((1 << self.params.page_shift) - 1));
        bounded(page * room + row, left, self.params.chunk)
    }
}
