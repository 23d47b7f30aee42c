//! Matrix descriptors of wgmma and tcgen05: 64 bits that say where the elements of an operand lie in shared memory.
//!
//! Address of element `(mn, k)` before the swizzle, `W` its span, `mb` and `kb` the element's byte offsets along either dimension:
//!
//! | major | swizzle | address |
//! |---|---|---|
//! | K | 32, 64, 128 B | `start + (mn % 8) W + (mn / 8) SBO + kb` |
//! | K | none | `start + (mn % 8) 16 + (mn / 8) SBO + kb % 16 + (kb / 16) LBO` |
//! | MN | 32, 64, 128 B | `start + mb % W + (mb / W) LBO + (k % 8) W + (k / 8) SBO` |
//! | MN | 128 B, atoms of 32 B | `start + mb % 128 + (mb / 128) LBO + (k % 4) 128 + (k / 4) SBO` |
//! | MN | none | `start + mb % 16 + (mb / 16) SBO + (k % 8) 16 + (k / 8) LBO` |

use super::swizzle::Swizzle;
use std::ops::Range;

/// Which dimension is contiguous in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Major {
    /// The reduction dimension.
    K,
    /// M of A, N of B.
    Mn,
}

/// A descriptor that no instruction takes, or whose meaning is not modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The field of the swizzle mode.
    #[error("swizzle mode {0} in a matrix descriptor: none is defined by that number")]
    Mode(u32),
    /// Bits 48:46 of tcgen05's.
    #[error("bits 48:46 of a tcgen05 matrix descriptor are {0:#b}: they are 0b001")]
    Version(u32),
    /// Bits 51:49: patterns that do not start on their period.
    #[error("base offset {0} in a matrix descriptor: only tiles that start on their swizzle's period are modelled")]
    BaseOffset(u32),
    /// Bit 52 of tcgen05's.
    #[error("an absolute leading dimension in a matrix descriptor (bit 52) is not modelled")]
    AbsoluteLeading,
    /// The 32-byte atoms are for MN-major operands.
    #[error("a K-major operand in the 128-byte swizzle with 32-byte atoms is not modelled")]
    MajorOfAtoms,
}

/// Where an operand lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Offset of its first element in the block's shared memory.
    pub start: u32,
    /// Leading dimension byte offset.
    pub lbo: u32,
    /// Stride dimension byte offset.
    pub sbo: u32,
    /// The swizzle.
    pub swizzle: Swizzle,
}

/// A 14-bit field that counts 16 bytes.
fn bytes(bits: u64, low: u32) -> u32 {
    ((bits >> low) as u32 & 0x3fff) << 4
}

impl Matrix {
    fn fields(bits: u64, swizzle: Swizzle) -> Result<Self, Invalid> {
        let base = (bits >> 49) as u32 & 7;
        if base != 0 {
            return Err(Invalid::BaseOffset(base));
        }
        Ok(Matrix { start: bytes(bits, 0), lbo: bytes(bits, 16), sbo: bytes(bits, 32), swizzle })
    }

    /// Reads wgmma's.
    pub fn wgmma(bits: u64) -> Result<Self, Invalid> {
        let modes = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32];
        Self::fields(bits, modes[(bits >> 62) as usize])
    }

    /// Reads tcgen05's.
    pub fn tcgen05(bits: u64) -> Result<Self, Invalid> {
        let version = (bits >> 46) as u32 & 7;
        if version != 1 {
            return Err(Invalid::Version(version));
        }
        if bits >> 52 & 1 == 1 {
            return Err(Invalid::AbsoluteLeading);
        }
        let swizzle = match (bits >> 61) as u32 {
            0 => Swizzle::None,
            1 => Swizzle::B128Atom32,
            2 => Swizzle::B128,
            4 => Swizzle::B64,
            6 => Swizzle::B32,
            other => return Err(Invalid::Mode(other)),
        };
        Self::fields(bits, swizzle)
    }

    /// Whether an operand of this major can have this layout.
    pub fn check(&self, major: Major) -> Result<(), Invalid> {
        match (self.swizzle, major) {
            (Swizzle::B128Atom32, Major::K) => Err(Invalid::MajorOfAtoms),
            _ => Ok(()),
        }
    }

    /// Offset in shared memory of the byte `kb` along K in row (or column) `mn` of a K-major operand.
    pub fn k_major(&self, mn: u32, kb: u32) -> u32 {
        let along = match self.swizzle {
            Swizzle::None => kb % 16 + kb / 16 * self.lbo,
            _ => kb,
        };
        self.place((mn % 8) * self.swizzle.span() + mn / 8 * self.sbo + along)
    }

    /// Offset in shared memory of the byte `mb` along M or N, at `k` along K, of an MN-major operand.
    pub fn mn_major(&self, mb: u32, k: u32) -> u32 {
        let w = self.swizzle.span();
        self.place(match self.swizzle {
            Swizzle::None => mb % 16 + mb / 16 * self.sbo + (k % 8) * 16 + k / 8 * self.lbo,
            Swizzle::B128Atom32 => mb % w + mb / w * self.lbo + (k % 4) * w + k / 4 * self.sbo,
            _ => mb % w + mb / w * self.lbo + (k % 8) * w + k / 8 * self.sbo,
        })
    }

    /// Addresses of 18 bits, swizzled.
    fn place(&self, offset: u32) -> u32 {
        self.swizzle.apply((self.start + offset) & 0x3_ffff)
    }

    /// The 16-byte pieces of an operand's `lines` (rows of A, or columns of B) and its `k` elements of `element` bytes. K-major pieces
    /// run along K, the others along lines.
    pub fn pieces(&self, major: Major, lines: Range<u32>, k: u32, element: u32) -> Vec<Piece> {
        let per = 16 / element;
        let mut pieces = Vec::with_capacity(lines.len() * (k / per) as usize);
        match major {
            Major::K => {
                for line in lines {
                    for first in (0..k).step_by(per as usize) {
                        pieces.push(Piece { line, k: first, offset: self.k_major(line, first * element) });
                    }
                }
            }
            Major::Mn => {
                for first in 0..k {
                    for line in lines.clone().step_by(per as usize) {
                        pieces.push(Piece { line, k: first, offset: self.mn_major(line * element, first) });
                    }
                }
            }
        }
        pieces
    }
}

/// 16 contiguous bytes of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Row of A or column of B of the first element.
    pub line: u32,
    /// K of the first element.
    pub k: u32,
    /// Offset in the block's shared memory.
    pub offset: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn_kernel::mem::{self, Layout, Smem};

    const SWIZZLES: [(Swizzle, mem::Swizzle); 3] =
        [(Swizzle::B32, mem::Swizzle::B32), (Swizzle::B64, mem::Swizzle::B64), (Swizzle::B128, mem::Swizzle::B128)];

    /// The kernels write a tile by their own layout and hand over their own descriptors: every element is found.
    #[test]
    fn tiles_of_the_kernels_are_read_back() {
        for (_, swizzle) in SWIZZLES {
            for mn_major in [false, true] {
                let layout = Layout { swizzle, mn_major, mn: 128, k: 128 };
                let tile = Smem::<u16>::new(0x4000);
                for step in 0..8 {
                    let matrix = Matrix::wgmma(layout.descriptor(tile, step).bits()).unwrap();
                    for mn in 0..128 {
                        for k in 0..16 {
                            let here = if mn_major { matrix.mn_major(2 * mn, k) } else { matrix.k_major(mn, 2 * k) };
                            assert_eq!(here, 0x4000 + layout.offset(mn, 16 * step + k), "{swizzle:?} {mn} {k}");
                        }
                    }
                }
            }
        }
    }

    /// The 16-byte pieces are where their elements are one by one, for every swizzle, major and element.
    #[test]
    fn pieces_are_contiguous() {
        let all = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];
        for swizzle in all {
            let matrix = Matrix { start: 0x2000, lbo: 0x800, sbo: 0x400, swizzle };
            for element in [1, 2, 4] {
                let k = 32 / element;
                for p in matrix.pieces(Major::K, 0..64, k, element) {
                    for i in 0..16 {
                        assert_eq!(matrix.k_major(p.line, p.k * element + i), p.offset + i);
                    }
                }
                for p in matrix.pieces(Major::Mn, 0..64, k, element) {
                    for i in 0..16 {
                        assert_eq!(matrix.mn_major(p.line * element + i, p.k), p.offset + i);
                    }
                }
                assert_eq!(matrix.pieces(Major::K, 0..64, k, element).len(), 128);
                assert_eq!(matrix.pieces(Major::Mn, 0..64, k, element).len(), 128);
            }
        }
    }

    /// Core matrices of 8 rows by 16 bytes, contiguous, when there is no swizzle.
    #[test]
    fn core_matrices() {
        let m = Matrix { start: 0, lbo: 128, sbo: 256, swizzle: Swizzle::None };
        assert_eq!([m.k_major(1, 0), m.k_major(8, 0), m.k_major(0, 16), m.k_major(9, 18)], [16, 256, 128, 402]);
        let m = Matrix { start: 0, lbo: 256, sbo: 128, swizzle: Swizzle::None };
        assert_eq!([m.mn_major(0, 1), m.mn_major(16, 0), m.mn_major(2, 8)], [16, 128, 258]);
    }

    #[test]
    fn descriptors_of_other_programs() {
        // FlashAttention-4's high word: 128-byte swizzle, version 1, stride 1024; V's panels are 16 KiB apart.
        let q = Matrix::tcgen05(0x4000_4040_0001_0440).unwrap();
        assert_eq!(q, Matrix { start: 0x4400, lbo: 16, sbo: 1024, swizzle: Swizzle::B128 });
        assert_eq!(Matrix::tcgen05(0x4000_4040_0400_0440).unwrap().lbo, 16384);
        assert_eq!(Matrix::tcgen05(0x4000_0040_0001_0440), Err(Invalid::Version(0)));
        assert_eq!(Matrix::tcgen05(0x6000_4040_0001_0440), Err(Invalid::Mode(3)));
        assert_eq!(Matrix::wgmma(0x4002_0040_0001_0440), Err(Invalid::BaseOffset(1)));
        let atoms = Matrix::tcgen05(0x2000_4020_0001_0440).unwrap();
        assert_eq!(atoms.check(Major::K), Err(Invalid::MajorOfAtoms));
        assert_eq!(atoms.mn_major(32, 5) - 0x4400, (512 + 128 + 32) ^ 32);
    }
}
