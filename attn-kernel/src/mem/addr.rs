//! Typed addresses in the shared window.

use core::fmt;
use core::marker::PhantomData;

/// A 32-bit address in the shared window, of something of kind `T`.
///
/// Shared memory is never a Rust static: the compiler would reach it through generic addresses, and TMA, wgmma and
/// mbarriers want the 32-bit form. `T` names what lies there ([`Mbarrier`](crate::ptx::mbarrier::Mbarrier), a tile, `f32`)
/// and is never dereferenced by Rust. With clusters the top byte is the rank of the block that owns the memory.
pub struct Smem<T> {
    addr: u32,
    kind: PhantomData<fn() -> T>,
}

impl<T> Smem<T> {
    /// The address itself, checked by nobody: making one is safe, the accesses are not.
    #[inline(always)]
    pub const fn new(addr: u32) -> Self {
        Smem { addr, kind: PhantomData }
    }

    /// The 32-bit shared-window address.
    #[inline(always)]
    pub const fn addr(self) -> u32 {
        self.addr
    }

    /// The address `bytes` further.
    #[inline(always)]
    pub const fn offset(self, bytes: u32) -> Self {
        Smem::new(self.addr.wrapping_add(bytes))
    }

    /// The same address seen as another kind.
    #[inline(always)]
    pub const fn cast<U>(self) -> Smem<U> {
        Smem::new(self.addr)
    }
}

impl<T> Clone for Smem<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Smem<T> {}

impl<T> PartialEq for Smem<T> {
    fn eq(&self, other: &Self) -> bool {
        self.addr == other.addr
    }
}

impl<T> Eq for Smem<T> {}

impl<T> fmt::Debug for Smem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Smem({:#x})", self.addr)
    }
}

#[cfg(test)]
mod tests {
    use super::Smem;

    #[test]
    fn offset_and_cast_keep_the_address() {
        let a = Smem::<f32>::new(0x400);
        assert_eq!(a.offset(16).addr(), 0x410);
        assert_eq!(a.cast::<u32>().addr(), 0x400);
    }
}
