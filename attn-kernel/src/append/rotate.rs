//! Rotary position embedding of vectors in registers.

use super::params::AppendParams;
use crate::mem::Element;
use crate::ptx::{ldst, math};

impl AppendParams {
    /// Eight cosines and eight sines.
    #[inline(always)]
    pub(super) unsafe fn sines<E: Element>(&self, at: u64) -> [[f32; 8]; 2] {
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
}

/// The eight elements of a vector.
#[inline(always)]
pub(super) fn unpack<E: Element>(vector: [u32; 4]) -> [f32; 8] {
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
pub(super) fn pack<E: Element>(elements: [f32; 8]) -> [u32; 4] {
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
pub(super) fn rotate([mut a, mut b]: [[f32; 8]; 2], [cos, sin]: [[f32; 8]; 2], interleaved: bool) -> [[f32; 8]; 2] {
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
    use crate::mem::F16;

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
