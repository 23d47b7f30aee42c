//! Tiles in shared memory, written by the text-book picture of each layout, and plain products to compare with.

/// How a tile lies in memory: bytes of a swizzled row (0 for core matrices without a swizzle), and whether K is contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    pub span: usize,
    pub k_major: bool,
    /// Lines (rows of A, columns of B) and K of the tile.
    pub lines: usize,
    pub k: usize,
    pub bytes: usize,
    /// Bits of an element: 4- and 6-bit ones lie together at the start of each 16 bytes.
    pub bits: usize,
}

impl Tile {
    /// Size of the contiguous dimension and of the other.
    fn extents(&self) -> (usize, usize) {
        if self.k_major { (self.k, self.lines) } else { (self.lines, self.k) }
    }

    /// Offset of an element. A swizzled tile is panels of rows of one span whose 16-byte chunks are exchanged by row.
    pub fn offset(&self, line: usize, k: usize) -> usize {
        let (inner, outer) = if self.k_major { (k, line) } else { (line, k) };
        let byte = inner * self.bytes;
        let rows = self.extents().1;
        if self.span == 0 {
            // Core matrices of 8 rows of 16 bytes, those of neighbouring rows next to each other.
            return byte / 16 * rows * 16 + outer * 16 + byte % 16;
        }
        let (panel, chunk) = (byte / self.span, byte % self.span / 16);
        let exchanged = chunk ^ ((outer % 8) / (128 / self.span));
        panel * rows * self.span + outer * self.span + exchanged * 16 + byte % 16
    }

    /// Bytes of the whole tile, up to the next swizzle period.
    pub fn size(&self) -> usize {
        let (inner, outer) = self.extents();
        (inner * self.bytes).next_multiple_of(self.span.max(16)) * outer.next_multiple_of(8)
    }

    /// Leading and stride byte offsets of its descriptor.
    fn strides(&self) -> (usize, usize) {
        let rows = self.extents().1;
        match (self.span, self.k_major) {
            (0, true) => (rows * 16, 128),
            (0, false) => (128, rows * 16),
            (span, true) => (16, 8 * span),
            (span, false) => (rows * span, 8 * span),
        }
    }

    /// The descriptor of the part that begins at element (0, `k`), without the address of the tile.
    fn fields(&self, at: usize, k: usize) -> u64 {
        let (lbo, sbo) = self.strides();
        // The XOR pattern of the first row leaves its first chunk where it is, so the plain offset is the address.
        let start = at + self.offset(0, k);
        assert!(start.is_multiple_of(16) && lbo < 1 << 18 && sbo < 1 << 18);
        (start >> 4) as u64 | ((lbo >> 4) as u64) << 16 | ((sbo >> 4) as u64) << 32
    }

    /// For wgmma, with the tile at `at`.
    pub fn wgmma(&self, at: usize, k: usize) -> u64 {
        let mode = match self.span {
            0 => 0,
            128 => 1,
            64 => 2,
            _ => 3u64,
        };
        self.fields(at, k) | mode << 62
    }

    /// For tcgen05, with the tile at `at`.
    pub fn tcgen05(&self, at: usize, k: usize) -> u64 {
        let mode = match self.span {
            0 => 0,
            128 => 2,
            64 => 4,
            _ => 6u64,
        };
        self.fields(at, k) | 1 << 46 | mode << 61
    }

    /// Writes elements `value(line, k)` at `at`.
    pub fn write(&self, image: &mut [u8], at: usize, value: impl Fn(usize, usize) -> u32) {
        for line in 0..self.lines {
            for k in 0..self.k {
                if self.bits.is_multiple_of(8) {
                    let to = at + self.offset(line, k);
                    image[to..to + self.bytes].copy_from_slice(&value(line, k).to_le_bytes()[..self.bytes]);
                    continue;
                }
                let (inner, outer) = if self.k_major { (k, line) } else { (line, k) };
                let first = inner / 16 * 16;
                let piece = at + if self.k_major { self.offset(outer, first) } else { self.offset(first, outer) };
                let shifted = u64::from(value(line, k)) << (inner % 16 * self.bits % 8);
                for (i, byte) in shifted.to_le_bytes().into_iter().take(2).enumerate() {
                    image[piece + inner % 16 * self.bits / 8 + i] |= byte;
                }
            }
        }
    }
}

/// Element types with patterns of small integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    E2m3,
    E3m2,
    E2m1,
    S8,
    U8,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Type::F16 => "f16",
            Type::Bf16 => "bf16",
            Type::Tf32 => "tf32",
            Type::E4m3 => "e4m3",
            Type::E5m2 => "e5m2",
            Type::E2m3 => "e2m3",
            Type::E3m2 => "e3m2",
            Type::E2m1 => "e2m1",
            Type::S8 => "s8",
            Type::U8 => "u8",
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Type::F16 | Type::Bf16 => 2,
            Type::Tf32 => 4,
            _ => 1,
        }
    }

    pub fn bit_count(self) -> usize {
        match self {
            Type::E2m1 => 4,
            Type::E2m3 | Type::E3m2 => 6,
            _ => 8 * self.bytes(),
        }
    }

    pub fn is_integer(self) -> bool {
        matches!(self, Type::S8 | Type::U8)
    }

    /// A small integer, as a value that the type has (e5m2 has few, u8 no negative ones).
    pub fn value(self, seed: usize) -> i32 {
        let x = (seed.wrapping_mul(2_654_435_761) >> 7) % 7;
        if self == Type::U8 { x as i32 } else { x as i32 - 3 }
    }

    /// Its pattern.
    pub fn bits(self, value: i32) -> u32 {
        let x = value as f32;
        match self {
            Type::F16 => half::f16::from_f32(x).to_bits().into(),
            Type::Bf16 => half::bf16::from_f32(x).to_bits().into(),
            Type::Tf32 => x.to_bits(),
            Type::S8 | Type::U8 => value as u8 as u32,
            // 0, 1, 2 and 3 of each.
            Type::E2m3 => [0, 0b01000, 0b10000, 0b10100][value.unsigned_abs() as usize] | u32::from(value < 0) << 5,
            Type::E3m2 => [0, 0b01100, 0b10000, 0b10010][value.unsigned_abs() as usize] | u32::from(value < 0) << 5,
            Type::E2m1 => [0, 0b010, 0b100, 0b101][value.unsigned_abs() as usize] | u32::from(value < 0) << 3,
            // The upper byte of f16 is e5m2.
            Type::E5m2 => u32::from(half::f16::from_f32(x).to_bits() >> 8),
            Type::E4m3 => {
                let bits = x.abs().to_bits();
                let code = if value == 0 { 0 } else { (((bits >> 23) - 120) << 3) | (bits >> 20 & 7) };
                code | if value < 0 { 0x80 } else { 0 }
            }
        }
    }
}

/// A matrix of small integers.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub ty: Type,
    pub seed: usize,
}

impl Matrix {
    pub fn value(&self, line: usize, k: usize) -> i32 {
        self.ty.value(self.seed + line * 131 + k * 7919)
    }

    pub fn bits(&self, line: usize, k: usize) -> u32 {
        self.ty.bits(self.value(line, k))
    }
}

/// Element of `a b^T` over `k` in a range.
pub fn product(a: &Matrix, b: &Matrix, row: usize, column: usize, k: std::ops::Range<usize>) -> i32 {
    k.map(|k| a.value(row, k) * b.value(column, k)).sum()
}
