//! What 8-bit Q, K and V are multiplied with ("descales"), and where that goes: the factors of Q and K into the softmax's scale, V's into the end of
//! a tile.

use super::plan::Float8;
use super::serve::ServeParams;
use crate::attn::walk::Tile;
use crate::ptx::{ldst, math};

impl ServeParams {
    /// What the softmax of a tile scales scores with: `softmax_scale * log2(e)`, and the factors of Q and K.
    ///
    /// # Safety
    /// The parameters' addresses are those of device memory as they say.
    #[inline(always)]
    pub unsafe fn scale_of(&self, tile: Tile, float8: Float8) -> f32 {
        // With a softcap the factors are the cap's.
        if matches!(float8, Float8::None) || self.cap != 0.0 {
            return self.scale_log2;
        }
        // SAFETY: the caller's promise.
        self.scale_log2 * unsafe { self.factor_of_scores(tile, float8) }
    }

    /// [`cap`](Self::cap) and [`slope_scale`](Self::slope_scale) as the scores of a tile need them, which are products of Q and K as they are
    /// stored.
    ///
    /// # Safety
    /// As [`scale_of`](Self::scale_of).
    #[inline(always)]
    pub unsafe fn modifiers_of(&self, tile: Tile, float8: Float8) -> (f32, f32) {
        if matches!(float8, Float8::None) {
            return (self.cap, self.slope_scale);
        }
        // SAFETY: the caller's promise.
        let factor = unsafe { self.factor_of_scores(tile, float8) };
        if self.cap == 0.0 {
            (self.cap, self.slope_scale * math::rcp(factor))
        } else {
            (self.cap * factor, self.slope_scale)
        }
    }

    /// The factor of V of a tile's key/value head and batch entry.
    ///
    /// # Safety
    /// As [`scale_of`](Self::scale_of).
    #[inline(always)]
    pub unsafe fn factor_of_values(&self, tile: Tile) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { self.factor(tile, self.v_descale) }
    }

    /// What scores are multiplied with.
    #[inline(always)]
    unsafe fn factor_of_scores(&self, tile: Tile, float8: Float8) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let of_keys = self.factor(tile, self.k_descale);
            if matches!(float8, Float8::All) { of_keys * self.factor(tile, self.q_descale) } else { of_keys }
        }
    }

    /// The factor of the tile's key/value head and batch entry.
    #[inline(always)]
    unsafe fn factor(&self, tile: Tile, factors: *const f32) -> f32 {
        if factors.is_null() {
            return 1.0;
        }
        let at = tile.batch as u64 * self.descale_batch_stride + self.group.div_rem(tile.head).0 as u64;
        // SAFETY: a factor for each key/value head of each batch entry.
        unsafe { ldst::ld_global_f32(factors.wrapping_add(at as usize)) }
    }
}
