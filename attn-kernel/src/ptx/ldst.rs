//! Ordinary loads and stores with their state space named: what the epilogues and reductions need.

use crate::mem::Smem;
use crate::ptx;

macro_rules! store_global {
    ($(#[$doc:meta])* $name:ident($ty:ty; $($x:ident)*): $suffix:literal, $list:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `ptr` is valid device memory for the store, aligned to its whole width.
        #[inline(always)]
        #[allow(clippy::too_many_arguments, reason = "a vector's elements")]
        pub unsafe fn $name(ptr: *mut $ty, $($x: $ty),*) {
            ptx!(
                concat!("st.global.", $suffix, " [{ptr}], ", $list, ";"),
                $($x = in(reg32) $x,)* ptr = in(reg64) ptr, options(nostack)
            );
        }
    };
}

store_global!(
    /// `st.global.b32` of an f32.
    st_global_f32(f32; x): "b32", "{x}"
);
store_global!(
    /// `st.global.v2.b32` of two f32.
    st_global_f32x2(f32; x y): "v2.b32", "{{{x}, {y}}}"
);
store_global!(
    /// `st.global.v4.b32` of four f32.
    st_global_f32x4(f32; x y z w): "v4.b32", "{{{x}, {y}, {z}, {w}}}"
);
store_global!(
    /// `st.global.b32` of 32 bits.
    st_global_u32(u32; x): "b32", "{x}"
);
store_global!(
    /// `st.global.v2.b32` of 64 bits.
    st_global_u32x2(u32; x y): "v2.b32", "{{{x}, {y}}}"
);
store_global!(
    /// `st.global.v4.b32` of 128 bits.
    st_global_u32x4(u32; x y z w): "v4.b32", "{{{x}, {y}, {z}, {w}}}"
);

macro_rules! load {
    ($(#[$doc:meta])* $name:ident($ptr:ty, $class:ident, $addr:ident) -> $out:ty: $asm:literal, $list:literal; $($i:literal)*) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `ptr` is valid for the load, aligned to its whole width, and nobody writes there at the same time.
        #[inline(always)]
        pub unsafe fn $name(ptr: $ptr) -> $out {
            let mut r: $out = Default::default();
            ptx!(
                concat!($asm, " ", $list, ", [{ptr}];"),
                $(out(reg32) r[$i],)* ptr = in($class) address::$addr(ptr), options(nostack)
            );
            r
        }
    };
}

/// How an address reaches its register.
mod address {
    use crate::mem::Smem;

    #[inline(always)]
    pub fn shared<T>(ptr: Smem<T>) -> u32 {
        ptr.addr()
    }

    #[inline(always)]
    pub fn global<T>(ptr: *const T) -> *const T {
        ptr
    }
}

load!(
    /// `ld.global.v4.b32`: four f32.
    ld_global_f32x4(*const f32, reg64, global) -> [f32; 4]: "ld.global.v4.b32", "{{{0}, {1}, {2}, {3}}}"; 0 1 2 3
);
load!(
    /// `ld.global.v2.b32`: two f32.
    ld_global_f32x2(*const f32, reg64, global) -> [f32; 2]: "ld.global.v2.b32", "{{{0}, {1}}}"; 0 1
);
load!(
    /// `ld.global.v4.b32`: 128 bits.
    ld_global_u32x4(*const u32, reg64, global) -> [u32; 4]: "ld.global.v4.b32", "{{{0}, {1}, {2}, {3}}}"; 0 1 2 3
);
load!(
    /// `ld.global.nc.v4.b32`: 128 bits that nobody writes while the kernel runs, through the read-only path.
    ld_global_nc_u32x4(*const u32, reg64, global) -> [u32; 4]: "ld.global.nc.v4.b32", "{{{0}, {1}, {2}, {3}}}"; 0 1 2 3
);
load!(
    /// `ld.shared.v4.b32`: 128 bits.
    ld_shared_u32x4(Smem<u32>, reg32, shared) -> [u32; 4]: "ld.shared::cta.v4.b32", "{{{0}, {1}, {2}, {3}}}"; 0 1 2 3
);
load!(
    /// `ld.shared.v4.b32`: four f32.
    ld_shared_f32x4(Smem<f32>, reg32, shared) -> [f32; 4]: "ld.shared::cta.v4.b32", "{{{0}, {1}, {2}, {3}}}"; 0 1 2 3
);
load!(
    /// `ld.shared.v2.b32`: two f32.
    ld_shared_f32x2(Smem<f32>, reg32, shared) -> [f32; 2]: "ld.shared::cta.v2.b32", "{{{0}, {1}}}"; 0 1
);

macro_rules! scalar {
    ($ld:ident, $st:ident, $ty:ty) => {
        /// `ld.shared.b32`.
        ///
        /// # Safety
        /// `ptr` is 4-byte aligned shared memory of this block that nobody writes at the same time.
        #[inline(always)]
        pub unsafe fn $ld(ptr: Smem<$ty>) -> $ty {
            let x: $ty;
            ptx!("ld.shared::cta.b32 {x}, [{ptr}];", x = lateout(reg32) x, ptr = in(reg32) ptr.addr(), options(nostack));
            x
        }

        /// `st.shared.b32`.
        ///
        /// # Safety
        /// `ptr` is 4-byte aligned shared memory of this block that nobody reads or writes at the same time.
        #[inline(always)]
        pub unsafe fn $st(ptr: Smem<$ty>, x: $ty) {
            ptx!("st.shared::cta.b32 [{ptr}], {x};", x = in(reg32) x, ptr = in(reg32) ptr.addr(), options(nostack));
        }
    };
}

scalar!(ld_shared_f32, st_shared_f32, f32);
scalar!(ld_shared_u32, st_shared_u32, u32);

/// `red.shared.add.u32`: adds to what lies there, indivisibly. sm_20.
///
/// # Safety
/// `ptr` is 4-byte aligned shared memory of this block that is only added to at the same time.
#[inline(always)]
pub unsafe fn red_shared_add_u32(ptr: Smem<u32>, x: u32) {
    ptx!("red.shared::cta.add.u32 [{ptr}], {x};", x = in(reg32) x, ptr = in(reg32) ptr.addr(), options(nostack));
}

/// `atom.global.add.u32`: adds to what lies there, indivisibly, and returns what it was. Relaxed. sm_20.
///
/// # Safety
/// `ptr` is valid device memory, 4-byte aligned, that is only added to at the same time.
#[inline(always)]
pub unsafe fn atom_global_add_u32(ptr: *mut u32, x: u32) -> u32 {
    let old: u32;
    ptx!("atom.global.add.u32 {old}, [{ptr}], {x};", old = lateout(reg32) old, ptr = in(reg64) ptr, x = in(reg32) x, options(nostack));
    old
}

/// `ld.global.b32` of an f32.
///
/// # Safety
/// `ptr` is valid device memory, 4-byte aligned, that nobody writes at the same time.
#[inline(always)]
pub unsafe fn ld_global_f32(ptr: *const f32) -> f32 {
    let x: f32;
    ptx!("ld.global.b32 {x}, [{ptr}];", x = lateout(reg32) x, ptr = in(reg64) ptr, options(nostack));
    x
}

/// `ld.global.b32` of 32 bits.
///
/// # Safety
/// As [`ld_global_f32`].
#[inline(always)]
pub unsafe fn ld_global_u32(ptr: *const u32) -> u32 {
    let x: u32;
    ptx!("ld.global.b32 {x}, [{ptr}];", x = lateout(reg32) x, ptr = in(reg64) ptr, options(nostack));
    x
}

/// `st.shared.v4.b32`: 128 bits.
///
/// # Safety
/// `ptr` is 16-byte aligned shared memory of this block that nobody reads or writes at the same time.
#[inline(always)]
pub unsafe fn st_shared_u32x4(ptr: Smem<u32>, x: [u32; 4]) {
    ptx!(
        "st.shared::cta.v4.b32 [{ptr}], {{{0}, {1}, {2}, {3}}};",
        in(reg32) x[0], in(reg32) x[1], in(reg32) x[2], in(reg32) x[3], ptr = in(reg32) ptr.addr(), options(nostack)
    );
}

/// `st.shared.v4.b32`: four f32.
///
/// # Safety
/// `ptr` is 16-byte aligned shared memory of this block that nobody reads or writes at the same time.
#[inline(always)]
pub unsafe fn st_shared_f32x4(ptr: Smem<f32>, x: [f32; 4]) {
    ptx!(
        "st.shared::cta.v4.b32 [{ptr}], {{{0}, {1}, {2}, {3}}};",
        in(reg32) x[0], in(reg32) x[1], in(reg32) x[2], in(reg32) x[3], ptr = in(reg32) ptr.addr(), options(nostack)
    );
}

/// `st.shared.v2.b32`: two f32.
///
/// # Safety
/// `ptr` is 8-byte aligned shared memory of this block that nobody reads or writes at the same time.
#[inline(always)]
pub unsafe fn st_shared_f32x2(ptr: Smem<f32>, x: [f32; 2]) {
    ptx!(
        "st.shared::cta.v2.b32 [{ptr}], {{{0}, {1}}};",
        in(reg32) x[0], in(reg32) x[1], ptr = in(reg32) ptr.addr(), options(nostack)
    );
}

/// `st.shared.b16`: one 16-bit element.
///
/// # Safety
/// `ptr` is 2-byte aligned shared memory of this block that nobody reads or writes at the same time.
#[inline(always)]
pub unsafe fn st_shared_u16(ptr: Smem<u16>, x: u16) {
    ptx!("st.shared::cta.b16 [{ptr}], {x};", x = in(reg16) x, ptr = in(reg32) ptr.addr(), options(nostack));
}
