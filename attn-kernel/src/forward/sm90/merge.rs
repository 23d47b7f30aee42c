//! Two warpgroups that have the same rows and split the keys put together what they have found.
//!
//! Both meet at both barriers, each of which is one instruction, although one of them could go on after an arrival: they end a tile
//! together anyway, racecheck does not see what an arrival orders, and synccheck takes two instructions that wait for divergence.

use super::block::{HANDED, Seat, TAKEN};
use crate::attn::softmax::{Knobs, Rows};
use crate::forward::plan::WARPGROUP;
use crate::mem::Smem;
use crate::ptx::{ldst, math};

/// The memory through which one warpgroup hands its O and row statistics to the other, of which each thread has the same rows and
/// columns: four values a thread at a time, neighbours side by side.
#[derive(Clone, Copy)]
pub(super) struct Handed {
    at: Smem<f32>,
}

impl Handed {
    /// `memory` is [`Plan::handed_bytes`](crate::forward::Plan::handed_bytes) long.
    #[inline(always)]
    pub(super) fn new(memory: Smem<()>, seat: Seat) -> Self {
        Handed { at: memory.offset(seat.thread * 16).cast() }
    }

    /// The thread's `i`th four values.
    #[inline(always)]
    fn four(self, i: usize) -> Smem<f32> {
        self.at.offset(i as u32 * (WARPGROUP * 16))
    }

    /// One warpgroup hands over, the other one adds it to its own.
    ///
    /// # Safety
    /// Called once a tile by all threads of both warpgroups, each converged.
    #[inline(always)]
    pub(super) unsafe fn merge<const O: usize>(self, seat: Seat, rows: &mut Rows, acc: &mut [f32; O], knobs: &Knobs) {
        // SAFETY: what is read has been written before `HANDED`, and is written again only after `TAKEN`.
        unsafe {
            if seat.part > 0 {
                self.give(rows, acc);
            }
            HANDED.sync();
            if seat.part == 0 {
                self.take(rows, acc, knobs);
            }
            TAKEN.sync();
        }
    }

    /// # Safety
    /// Nobody reads or writes the thread's part meanwhile.
    #[inline(always)]
    unsafe fn give<const O: usize>(self, rows: &Rows, acc: &[f32; O]) {
        // SAFETY: the caller's promise.
        unsafe {
            ldst::st_shared_f32x4(self.four(0), rows.parts());
            let mut i = 0;
            while i < O / 4 {
                ldst::st_shared_f32x4(self.four(i + 1), [acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3]]);
                i += 1;
            }
        }
    }

    /// # Safety
    /// Nobody writes the thread's part meanwhile.
    #[inline(always)]
    unsafe fn take<const O: usize>(self, rows: &mut Rows, acc: &mut [f32; O], knobs: &Knobs) {
        // SAFETY: the caller's promise.
        unsafe {
            let [own, other] = rows.merge(ldst::ld_shared_f32x4(self.four(0)), knobs);
            let mut i = 0;
            while i < O {
                let four = ldst::ld_shared_f32x4(self.four(i / 4 + 1));
                let mut j = 0;
                while j < 4 {
                    acc[i + j] = math::fma(acc[i + j], own[j / 2], four[j] * other[j / 2]);
                    j += 1;
                }
                i += 4;
            }
        }
    }
}
