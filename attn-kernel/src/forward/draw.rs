//! Which units a persistent block works on, one after the other.
//!
//! A block's first unit is that of its own number. With a list, blocks draw the others from a counter in its header: whoever is done first gets
//! the next one, and since the list ends with its shortest units, all are done at about the same time. The schedule kernel sets the counter to
//! 0, so that a list is one launch's. Without a list, or with a kernel whose producer has no registers left for it, units are dealt in advance.
//!
//! A draw takes as long as an access to the L2 cache. It is made shortly before the unit before is at its end: a block that draws before
//! a long unit keeps from the others what it will come to last.

use super::serve::{LIST_DRAWN, ServeParams, dealt};
use crate::entry;
use crate::ptx::{ldst, special, warp};

/// A block's draws, as a warp sees them.
pub struct Draw<'a> {
    params: &'a ServeParams,
    /// Whether there is a list to draw from.
    draws: bool,
    /// Whether a draw is under way.
    early: bool,
    /// What the counter was at the last draw, in lane 0; where units are dealt, how many have been.
    drawn: u32,
}

impl<'a> Draw<'a> {
    /// The draws after the first `dealt` units; of a kernel that never draws ([`Plan::draws`](super::plan::Plan::draws)), what it is dealt.
    #[inline(always)]
    pub fn new(params: &'a ServeParams, draws: bool, dealt: u32) -> Self {
        Draw { params, draws: draws && !params.units.list.is_null(), early: false, drawn: dealt }
    }

    /// Draws the next unit, unless that is under way.
    ///
    /// # Safety
    /// Called by a whole warp; the list has been written.
    #[inline(always)]
    pub unsafe fn early(&mut self) {
        if !self.early {
            self.early = true;
            // SAFETY: the caller's promise.
            unsafe { self.ask() };
        }
    }

    /// The number of the next unit, perhaps past the last.
    ///
    /// # Safety
    /// As [`early`](Self::early).
    #[inline(always)]
    pub unsafe fn next(&mut self) -> u32 {
        let (own, blocks) = (entry::block_idx_x(), entry::grid_dim_x());
        if !self.draws {
            let turn = self.drawn;
            self.drawn += 1;
            return dealt(turn, own, blocks);
        }
        // SAFETY: the caller's promise.
        unsafe { self.early() };
        self.early = false;
        blocks + warp::uniform(self.drawn)
    }

    #[inline(always)]
    unsafe fn ask(&mut self) {
        if self.draws && special::lane_id() == 0 {
            let list = self.params.units.list.cast_mut();
            // SAFETY: the list has the word, to which blocks only add.
            self.drawn = unsafe { ldst::atom_global_add_u32(list.wrapping_add(LIST_DRAWN as usize), 1) };
        }
    }
}
