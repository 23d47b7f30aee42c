//! Where each element of a 16-bit matrix operand lies in shared memory.
//!
//! [`Layout`] is the writing side of a [`Descriptor`]: for code that fills a tile itself, and for tests. TMA writes the swizzled layouts by
//! boxes of one panel each.

use super::{Descriptor, Smem, Swizzle};

/// Bytes of an element.
const ELEMENT: u32 = 2;

/// Layout of an operand of `mn` rows (M of A, N of B) and `k` columns of 16-bit elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The swizzle; its span is a panel's row.
    pub swizzle: Swizzle,
    /// Whether M or N is contiguous; otherwise K is.
    pub mn_major: bool,
    /// Rows, a multiple of 8.
    pub mn: u32,
    /// Columns, a multiple of 16.
    pub k: u32,
}

impl Layout {
    /// Bytes from one panel to the next. Without a swizzle: from one 8-element slice along the contiguous dimension to the next.
    pub const fn panel_bytes(&self) -> u32 {
        (if self.mn_major { self.k } else { self.mn }) * self.swizzle.span()
    }

    /// Bytes of the tile: whole panels.
    pub const fn bytes(&self) -> u32 {
        let contiguous = if self.mn_major { self.mn } else { self.k } * ELEMENT;
        contiguous.div_ceil(self.swizzle.span()) * self.panel_bytes()
    }

    /// Byte offset of element `(mn, k)`, swizzled, in a tile that starts on the swizzle's period.
    #[inline(always)]
    pub const fn offset(&self, mn: u32, k: u32) -> u32 {
        let (row, byte) = if self.mn_major { (k, mn * ELEMENT) } else { (mn, k * ELEMENT) };
        let span = self.swizzle.span();
        self.swizzle.apply((byte / span) * self.panel_bytes() + row * span + byte % span)
    }

    /// The descriptor of k-step `step` (16 columns) of the tile at `tile`.
    #[inline(always)]
    pub const fn descriptor<T>(&self, tile: Smem<T>, step: u32) -> Descriptor {
        let plain = matches!(self.swizzle, Swizzle::None);
        let first = match (self.mn_major, plain) {
            (false, false) => Descriptor::k_major(self.swizzle, tile),
            (true, false) => Descriptor::mn_major(self.swizzle, tile, self.panel_bytes()),
            // Eight rows of 16 bytes are one core matrix; neighbours along the rows follow at 128 bytes.
            (false, true) => Descriptor::k_major_plain(tile, self.panel_bytes(), 128),
            (true, true) => Descriptor::mn_major_plain(tile, 128, self.panel_bytes()),
        };
        first.advance(self.step_bytes(step))
    }

    /// Byte offset of k-step `step`.
    const fn step_bytes(&self, step: u32) -> u32 {
        let span = self.swizzle.span();
        match (self.mn_major, span) {
            (true, _) => step * 16 * span,
            (false, 16) => step * 2 * self.panel_bytes(),
            (false, _) => super::descriptor::k_major_step(self.swizzle, self.mn, step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How the tensor core finds element `(mn, k)` of a k-step: the descriptor's fields through the hardware's formulas.
    fn hardware_address(d: Descriptor, mn_major: bool, mn: u32, k: u32) -> u32 {
        let field = |shift: u32| ((d.bits() >> shift) as u32 & 0x3fff) << 4;
        let (start, lbo, sbo) = (field(0), field(16), field(32));
        let (swizzle, w) = match d.bits() >> 62 {
            0 => (Swizzle::None, 16),
            1 => (Swizzle::B128, 128),
            2 => (Swizzle::B64, 64),
            _ => (Swizzle::B32, 32),
        };
        let (mb, kb) = (mn * 2, k * 2);
        let offset = match (mn_major, w) {
            (false, 16) => (mn % 8) * 16 + (mn / 8) * sbo + kb % 16 + (kb / 16) * lbo,
            (false, _) => (mn % 8) * w + (mn / 8) * sbo + kb,
            (true, 16) => mb % 16 + (mb / 16) * sbo + (k % 8) * 16 + (k / 8) * lbo,
            (true, _) => mb % w + (mb / w) * lbo + (k % 8) * w + (k / 8) * sbo,
        };
        swizzle.apply(start + offset)
    }

    #[test]
    fn the_tensor_core_finds_what_was_written() {
        for swizzle in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            for mn_major in [false, true] {
                for mn in [16, 64, 80, 192, 256] {
                    let layout = Layout { swizzle, mn_major, mn, k: 128 };
                    let tile = Smem::<()>::new(0x2000);
                    for step in 0..layout.k / 16 {
                        let d = layout.descriptor(tile, step);
                        for (m, k) in (0..mn).flat_map(|m| (0..16).map(move |k| (m, k))) {
                            let want = tile.addr() + layout.offset(m, 16 * step + k);
                            assert_eq!(hardware_address(d, mn_major, m, k), want, "{layout:?} step {step} ({m}, {k})");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn elements_fill_the_tile_once() {
        for swizzle in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            for mn_major in [false, true] {
                let layout = Layout { swizzle, mn_major, mn: 64, k: 64 };
                let mut seen = std::vec![false; layout.bytes() as usize / 2];
                for (m, k) in (0..64).flat_map(|m| (0..64).map(move |k| (m, k))) {
                    let slot = &mut seen[layout.offset(m, k) as usize / 2];
                    assert!(!*slot, "{layout:?} ({m}, {k})");
                    *slot = true;
                }
                assert!(seen.iter().all(|s| *s));
            }
        }
    }
}
