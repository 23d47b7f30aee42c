//! Register fragments: which elements of a matrix a thread's registers hold.
//!
//! Threads of a warp are `lane = 4 g + q`, registers are numbered as in the instruction's vector.

/// Where a register's first element lies: its row, and its column (or K).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Row of A or D; column of B.
    pub line: u32,
    /// Column of D; K of A and B. A register's further elements, lowest bits first, follow.
    pub column: u32,
}

/// Elements of `bits` bits that a 32-bit register holds.
pub const fn per_register(bits: u32) -> u32 {
    32 / bits
}

/// D, and C, of 32-bit elements: `m16n8` of `mma.sync`, and `m64nN` of wgmma, whose registers go on to the next eight columns and
/// whose warps hold sixteen rows each.
pub const fn d32(thread: u32, register: u32) -> Place {
    let (g, q) = (thread % 32 / 4, thread % 4);
    Place {
        line: 16 * (thread / 32) + g + 8 * (register >> 1 & 1),
        column: 8 * (register >> 2) + 2 * q + (register & 1),
    }
}

/// D, and C, of 16-bit elements: a register holds two columns.
pub const fn d16(thread: u32, register: u32) -> Place {
    d32(thread, 2 * register)
}

/// A of elements of `bits` bits: sixteen rows a warp.
pub const fn a(bits: u32, thread: u32, register: u32) -> Place {
    let (g, q, per) = (thread % 32 / 4, thread % 4, per_register(bits));
    Place { line: 16 * (thread / 32) + g + 8 * (register & 1), column: per * q + 4 * per * (register >> 1) }
}

/// B of `mma.sync`, eight columns of D: `line` is the column.
pub const fn b(bits: u32, lane: u32, register: u32) -> Place {
    let per = per_register(bits);
    Place { line: lane / 4, column: per * (lane % 4) + 4 * per * register }
}

/// An 8x8 matrix of 16-bit elements as `ldmatrix` and `stmatrix` move it: the two elements of a lane's register, as (row, column).
/// Rows are those that the addresses name.
pub const fn matrix8x8(lane: u32, trans: bool) -> [(u32, u32); 2] {
    let (g, q) = (lane / 4, lane % 4);
    if trans { [(2 * q, g), (2 * q + 1, g)] } else { [(g, 2 * q), (g, 2 * q + 1)] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Registers of all threads cover a matrix, each element once.
    fn covers(threads: u32, registers: u32, per: u32, lines: u32, columns: u32, f: impl Fn(u32, u32) -> Place) {
        let mut seen = HashSet::new();
        for t in 0..threads {
            for r in 0..registers {
                for i in 0..per {
                    let p = f(t, r);
                    assert!(p.line < lines && p.column + i < columns, "{t} {r}");
                    assert!(seen.insert((p.line, p.column + i)), "{t} {r}");
                }
            }
        }
        assert_eq!(seen.len() as u32, lines * columns);
    }

    #[test]
    fn fragments_cover_their_matrices() {
        for n in (8..=256).step_by(8) {
            covers(128, n / 2, 1, 64, n, d32);
            covers(128, n / 4, 2, 64, n, d16);
        }
        covers(32, 4, 1, 16, 8, d32);
        covers(32, 2, 2, 16, 8, d16);
        for bits in [4, 8, 16, 32] {
            let k = 256 / bits;
            covers(128, 4, per_register(bits), 64, k, |t, r| a(bits, t, r));
            covers(32, 2, per_register(bits), 16, k / 2, |t, r| a(bits, t, r));
            covers(32, 2, per_register(bits), 8, k, |t, r| b(bits, t, r));
            covers(32, 1, per_register(bits), 8, k / 2, |t, r| b(bits, t, r));
        }
    }

    #[test]
    fn known_places() {
        // Thread 5 of warp 2: g = 1, q = 1.
        let t = 64 + 5;
        assert_eq!(
            [0, 1, 2, 3, 4].map(|r| d32(t, r)).map(|p| (p.line, p.column)),
            [(33, 2), (33, 3), (41, 2), (41, 3), (33, 10)]
        );
        assert_eq!(
            [0, 1, 2, 3].map(|r| a(16, t, r)).map(|p| (p.line, p.column)),
            [(33, 2), (41, 2), (33, 10), (41, 10)]
        );
        assert_eq!(
            [0, 1, 2, 3].map(|r| a(8, t, r)).map(|p| (p.line, p.column)),
            [(33, 4), (41, 4), (33, 20), (41, 20)]
        );
        assert_eq!([0, 1, 2, 3].map(|r| a(32, t, r)).map(|p| (p.line, p.column)), [(33, 1), (41, 1), (33, 5), (41, 5)]);
        assert_eq!(b(16, 5, 1), Place { line: 1, column: 10 });
    }

    /// A D fragment converted to 16 bits is the A fragment of the next product, which attention lives by.
    #[test]
    fn p_is_a() {
        for t in 0..128 {
            for block in 0..4 {
                for r in 0..4 {
                    let from = d32(t, 8 * block + 2 * r);
                    let to = a(16, t, r);
                    assert_eq!((from.line, from.column), (to.line, 16 * block + to.column));
                }
            }
        }
    }

    #[test]
    fn matrices_are_transposed() {
        for lane in 0..32 {
            assert_eq!(matrix8x8(lane, true), matrix8x8(lane, false).map(|(r, c)| (c, r)));
        }
        assert_eq!(matrix8x8(6, false), [(1, 4), (1, 5)]);
    }
}
