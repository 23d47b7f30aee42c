//! What a Blackwell kernel does for a block of keys without mask.

use super::{CHUNKS, KEYS, Plan, ROWS};
use crate::forward::cost::Work;

/// Operations on two f32 that the polynomial of a pair of exponentials takes: rounding, fraction, three steps of Horner, the power.
const EMULATED_FMA2: u64 = 7;
/// And on the ALU pipe: two lower limits, two exponents moved into place.
const EMULATED_ALU: u64 = 4;

impl Plan {
    /// Columns of a row whose exponentials are computed by the polynomial.
    pub const fn emulated_columns(&self) -> u32 {
        self.exp2.columns(CHUNKS)
    }

    /// All roles, all tiles, without the rescale of O, which most blocks skip.
    pub const fn work(&self) -> Work {
        let (tiles, rows) = (self.tiles as u64, self.bm() as u64);
        let (keys, d, dv) = (KEYS as u64, self.d as u64, self.dv as u64);
        let bytes = self.operand_bytes() as u64;
        let emulated = self.emulated_columns() as u64;
        // A maximum of three takes two scores; with the tile's load, one of each chunk and the reference are left.
        let maxima = if self.load_max { CHUNKS as u64 / 2 } else { keys / 2 };
        // What warps read and write to widen K and V.
        let widened = if self.converts() { keys * (d + dv) * 3 } else { 0 };
        Work {
            // Those of 16 bits that take as long.
            flops: rows * keys * (d + dv) * bytes,
            // One more for the factor of O.
            exp2: rows * (keys - emulated + 1),
            // Growth and its scale, the offset, the end of the sum.
            fma: rows * 5,
            // Scale and offset of a pair, its addition to the sum.
            fma2: rows * (keys / 2 + keys / 2 - 1 + emulated / 2 * EMULATED_FMA2),
            // Maxima, rounding of pairs, and comparisons and choices of the rescale.
            alu: rows * (maxima + keys / 2 + 4 + emulated / 2 * EMULATED_ALU),
            tmem_loaded: rows * keys * 4,
            tmem_stored: rows * keys * bytes,
            // Q and K of S; V of O, whose P lies in tensor memory.
            factors: tiles * ((ROWS as u64 + keys) * d + keys * dv) * bytes,
            // The factor of a row is written and read.
            shared: rows * 4 * 2 + widened,
            copied: keys * (d + dv) * self.key_bytes() as u64,
        }
    }

    /// What the rescale of all rows of O adds.
    pub const fn rescale_work(&self) -> Work {
        let (rows, dv) = (self.bm() as u64, self.dv as u64);
        Work {
            flops: 0,
            exp2: 0,
            fma: 0,
            fma2: rows * dv / 2,
            alu: 0,
            tmem_loaded: rows * dv * 4,
            tmem_stored: rows * dv * 4,
            factors: 0,
            shared: 0,
            copied: 0,
        }
    }
}
