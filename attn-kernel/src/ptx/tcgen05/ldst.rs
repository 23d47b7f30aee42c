//! Loads and stores between tensor memory and registers.
//!
//! | shape | register `i` of lane `t` | of |
//! |---|---|---|
//! | 32x32b | lane `t`, column `i` | the warp's 32 lanes |
//! | 16x256b | lane `t / 4 + 8 ((i >> 1) & 1)`, column `8 (i >> 2) + 2 (t % 4) + (i & 1)`: a wgmma fragment | 16 of them |
//!
//! Registers come in powers of two up to 128. The address's lane is the first of the warp's
//! ([`Tmem::of_warp`](crate::mem::Tmem::of_warp)); for 16x256b it may be 16 more.

use crate::mem::Tmem;
use crate::ptx;

/// Expands `$op!` with the list of register indices of `N` registers: 1, 2, 4, ... 128. `N` is a constant and picks one.
macro_rules! powers {
    ($n:ident, $op:ident $args:tt) => {{
        const { assert!($n.is_power_of_two() && $n <= 128, "registers come in powers of two, 1 to 128") };
        powers!(@pick $n, $op $args, [],
            [0] [1] [2 3] [4 5 6 7] [8 9 10 11 12 13 14 15]
            [16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]
            [32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]
            [64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95
             96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123
             124 125 126 127])
    }};
    (@pick $n:ident, $op:ident $args:tt, [$($done:literal)*],) => {
        unreachable!()
    };
    (@pick $n:ident, $op:ident $args:tt, [$($done:literal)*], [$($next:literal)*] $($rest:tt)*) => {
        if const { $n == [$($done,)* $($next),*].len() } {
            $op!($args, $($done)* $($next)*)
        } else {
            powers!(@pick $n, $op $args, [$($done)* $($next)*], $($rest)*)
        }
    };
}
pub(super) use powers;

/// A load: `$regs` are outputs. `$extra` stands between the registers and the address.
macro_rules! load {
    (($shape:literal, $suffix:literal, $count:expr, $regs:ident, $at:ident, $extra:literal, $($operand:tt)*), $first:literal $($i:literal)*) => {
        ptx!(
            concat!(
                "tcgen05.ld", $shape, ".x{count}", $suffix, " {{",
                "{", $first, "}", $(",{", $i, "}",)* "}}", $extra, ", [{at}];"
            ),
            out(reg32) $regs[$first], $(out(reg32) $regs[$i],)*
            count = const $count, at = in(reg32) $at.addr(), $($operand)*
            options(nostack)
        )
    };
}

/// A store: `$regs` are inputs.
macro_rules! store {
    (($shape:literal, $count:expr, $regs:ident, $at:ident), $first:literal $($i:literal)*) => {
        ptx!(
            concat!(
                "tcgen05.st", $shape, ".x{count}.b32 [{at}], {{",
                "{", $first, "}", $(",{", $i, "}",)* "}};"
            ),
            in(reg32) $regs[$first], $(in(reg32) $regs[$i],)*
            count = const $count, at = in(reg32) $at.addr(),
            options(nostack)
        )
    };
}

/// `tcgen05.ld.32x32b.xN`: `N` columns from `at`, thread `t` of the warp its lane `t`. sm_100a.
///
/// The registers hold what was loaded after a [`wait_ld_with`](super::wait_ld_with); nothing may read them before.
///
/// # Safety
/// One warp together, with the same address in its own lanes; the columns are allocated, and what wrote them is ordered before by the
/// table of [`tcgen05`](super).
#[inline(always)]
pub unsafe fn ld<const N: usize>(at: Tmem<f32>) -> [f32; N] {
    let mut regs = [0.0; N];
    powers!(N, load(".sync.aligned.32x32b", ".b32", N, regs, at, "",));
    regs
}

/// [`ld`] of words. Bits that are no f32 by nature, such as packed pairs. sm_100a.
///
/// # Safety
/// As [`ld`], with [`wait_ld_with_u32`](super::wait_ld_with_u32).
#[inline(always)]
pub unsafe fn ld_u32<const N: usize>(at: Tmem<u32>) -> [u32; N] {
    let mut regs = [0; N];
    powers!(N, load(".sync.aligned.32x32b", ".b32", N, regs, at, "",));
    regs
}

/// `tcgen05.ld.16x256b.x(N / 4)`: `2 N` columns of 16 lanes, as fragments of a matrix. `N` is 4 to 128. sm_100a.
///
/// # Safety
/// As [`ld`].
#[inline(always)]
pub unsafe fn ld_16x256b<const N: usize>(at: Tmem<f32>) -> [f32; N] {
    const { assert!(N >= 4, "a fragment is four registers") };
    let mut regs = [0.0; N];
    powers!(N, load(".sync.aligned.16x256b", ".b32", N / 4, regs, at, "",));
    regs
}

macro_rules! reduce {
    ($(#[$doc:meta])* $name:ident: $op:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`ld`]. The second result, too, is there only after the wait: tie it by a [`wait_ld_with`](super::wait_ld_with) of an array of one.
        #[inline(always)]
        pub unsafe fn $name<const N: usize>(at: Tmem<f32>) -> ([f32; N], f32) {
            const { assert!(N >= 2, "a reduction is of 2 to 128 columns") };
            let mut regs = [0.0; N];
            let reduced: f32;
            powers!(N, load(".red.sync.aligned.32x32b", $op, N, regs, at, ", {red}", red = out(reg32) reduced,));
            (regs, reduced)
        }
    };
}

reduce!(
    /// `tcgen05.ld.red.max`: [`ld`], and the greatest of the thread's `N` values; NaNs lose. sm_103a.
    ld_max: ".max.f32"
);
reduce!(
    /// `tcgen05.ld.red.min`: [`ld`], and the least of the thread's `N` values; NaNs lose. sm_103a.
    ld_min: ".min.f32"
);

/// `tcgen05.st.32x32b.xN`: `N` columns from `at`, thread `t` of the warp its lane `t`. sm_100a.
///
/// Has finished after [`wait_st`](super::wait_st).
///
/// # Safety
/// One warp together, with the same address in its own lanes; the columns are allocated, and who read them before is ordered before by the
/// table of [`tcgen05`](super).
#[inline(always)]
pub unsafe fn st<const N: usize>(at: Tmem<u32>, regs: [u32; N]) {
    powers!(N, store(".sync.aligned.32x32b", N, regs, at))
}

/// [`st`] of f32: an accumulator that was rescaled. sm_100a.
///
/// # Safety
/// As [`st`].
#[inline(always)]
pub unsafe fn st_f32<const N: usize>(at: Tmem<f32>, regs: [f32; N]) {
    powers!(N, store(".sync.aligned.32x32b", N, regs, at))
}

/// `tcgen05.st.16x256b.x(N / 4)`: the inverse of [`ld_16x256b`]. sm_100a.
///
/// # Safety
/// As [`st`].
#[inline(always)]
pub unsafe fn st_16x256b<const N: usize>(at: Tmem<f32>, regs: [f32; N]) {
    const { assert!(N >= 4, "a fragment is four registers") };
    powers!(N, store(".sync.aligned.16x256b", N / 4, regs, at))
}
