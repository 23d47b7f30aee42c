//! 8x8 matrices of 16-bit elements between registers and shared memory.
//!
//! The 16-byte rows of matrix `i` are named by lanes `8i` to `8i + 7`; other lanes' addresses are not used. Lane `t` holds row
//! `t / 4`, columns `2 (t % 4)` and the next, the lower column in the low half; `trans` swaps rows and columns.

use crate::ptx;

macro_rules! stmatrix {
    ($(#[$doc:meta])* $name:ident: $n:literal, $shape:literal, $list:literal; $($i:literal)*) => {
        $(#[$doc])*
        /// sm_90.
        ///
        /// # Safety
        /// All 32 lanes call it together; the named rows are 16-byte aligned shared memory of this block.
        #[inline(always)]
        pub unsafe fn $name(row: u32, r: [u32; $n]) {
            ptx!(
                concat!("stmatrix.sync.aligned.m8n8.", $shape, ".shared::cta.b16 [{row}], ", $list, ";"),
                $(in(reg32) r[$i],)* row = in(reg32) row, options(nostack)
            );
        }
    };
}

stmatrix!(
    /// `stmatrix.x4`: stores four matrices.
    stmatrix_x4: 4, "x4", "{{{0}, {1}, {2}, {3}}}"; 0 1 2 3
);
stmatrix!(
    /// `stmatrix.x2`: stores two matrices.
    stmatrix_x2: 2, "x2", "{{{0}, {1}}}"; 0 1
);
stmatrix!(
    /// `stmatrix.x1`: stores one matrix.
    stmatrix_x1: 1, "x1", "{{{0}}}"; 0
);
stmatrix!(
    /// `stmatrix.x4.trans`: stores four matrices transposed.
    stmatrix_x4_trans: 4, "x4.trans", "{{{0}, {1}, {2}, {3}}}"; 0 1 2 3
);
stmatrix!(
    /// `stmatrix.x2.trans`: stores two matrices transposed.
    stmatrix_x2_trans: 2, "x2.trans", "{{{0}, {1}}}"; 0 1
);
stmatrix!(
    /// `stmatrix.x1.trans`: stores one matrix transposed.
    stmatrix_x1_trans: 1, "x1.trans", "{{{0}}}"; 0
);

macro_rules! ldmatrix {
    ($(#[$doc:meta])* $name:ident: $n:literal, $shape:literal, $list:literal; $($i:literal)*) => {
        $(#[$doc])*
        /// sm_75.
        ///
        /// # Safety
        /// All 32 lanes call it together; the named rows are 16-byte aligned shared memory of this block.
        #[inline(always)]
        pub unsafe fn $name(row: u32) -> [u32; $n] {
            let mut r = [0; $n];
            ptx!(
                concat!("ldmatrix.sync.aligned.m8n8.", $shape, ".shared::cta.b16 ", $list, ", [{row}];"),
                $(out(reg32) r[$i],)* row = in(reg32) row, options(nostack)
            );
            r
        }
    };
}

ldmatrix!(
    /// `ldmatrix.x4`: loads four matrices.
    ldmatrix_x4: 4, "x4", "{{{0}, {1}, {2}, {3}}}"; 0 1 2 3
);
ldmatrix!(
    /// `ldmatrix.x2`: loads two matrices.
    ldmatrix_x2: 2, "x2", "{{{0}, {1}}}"; 0 1
);
ldmatrix!(
    /// `ldmatrix.x4.trans`: loads four matrices transposed.
    ldmatrix_x4_trans: 4, "x4.trans", "{{{0}, {1}, {2}, {3}}}"; 0 1 2 3
);
ldmatrix!(
    /// `ldmatrix.x2.trans`: loads two matrices transposed.
    ldmatrix_x2_trans: 2, "x2.trans", "{{{0}, {1}}}"; 0 1
);
