//! Pinned host memory, which the device copies from and to by itself.

use std::alloc::{self, Layout};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use super::core::{Pool, PoolStatistics, Source};
use crate::device::Device;
use crate::driver::Driver;
use crate::error::Error;
use crate::sys::Handle;

/// Alignment of pinned memory: what is pinned are whole pages.
const PAGE: usize = 4096;

/// A pool of pinned host memory. Pinning costs about as much as writing the memory a few times over, so buffers are worth keeping.
///
#[cfg_attr(feature = "simulator", doc = "```")]
#[cfg_attr(not(feature = "simulator"), doc = "```no_run")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "simulator")]
/// # attn_host::simulator::install(Default::default())?;
/// use attn_host::{Device, PinnedPool};
///
/// let pool = PinnedPool::new(&Device::open(0)?, 1 << 20);
/// let mut buffer = pool.take(100)?;
/// buffer.of_mut::<f32>().fill(0.5);
/// assert_eq!(buffer.of::<f32>(), [0.5; 25]);
/// drop(buffer);
/// assert!(pool.statistics().kept >= 100); // for the next who asks
/// # Ok(())
/// # }
/// ```
///
/// Methods may be called from any thread, whatever context is current there. The memory is the program's own: a buffer stays valid when the
/// device's context is destroyed, it is merely no longer pinned.
#[derive(Clone)]
pub struct PinnedPool(Arc<Pool<PinnedMemory>>);

/// Pinned memory of the host.
pub(super) struct PinnedMemory {
    driver: &'static Driver,
    context: Handle,
}

/// Where a buffer starts.
#[derive(Clone, Copy)]
pub(super) struct Place(NonNull<u8>);

// SAFETY: the memory belongs to who holds the place, on whatever thread.
unsafe impl Send for Place {}

impl Source for PinnedMemory {
    type Place = Place;
    const NAME: &'static str = "pinned";

    fn obtain(&self, bytes: u64) -> Result<Place, Error> {
        let none = Error::OutOfMemory { call: "the host's allocator" };
        let layout = layout(bytes).ok_or(none.clone())?;
        let _entered = self.driver.enter(self.context)?;
        // SAFETY: a class is never of zero bytes.
        let place = NonNull::new(unsafe { alloc::alloc_zeroed(layout) }).ok_or(none)?;
        // SAFETY: as many bytes, which `release` frees no sooner than it has unregistered them.
        match unsafe { self.driver.register(place.as_ptr(), layout.size()) } {
            Ok(()) => Ok(Place(place)),
            Err(error) => {
                // SAFETY: allocated above with this layout, and not registered.
                unsafe { alloc::dealloc(place.as_ptr(), layout) };
                Err(error)
            }
        }
    }

    unsafe fn release(&self, Place(place): Place, bytes: u64) {
        let Some(layout) = layout(bytes) else { return };
        let entered = self.driver.enter(self.context).or_else(|_| self.driver.enter(self.context));
        // SAFETY: `obtain` registered it; no copy uses it (caller). Where this fails the context is gone or lost, and nothing copies any more.
        let _ = unsafe { self.driver.unregister(place.as_ptr()) };
        drop(entered);
        // SAFETY: `obtain` allocated it with this layout, and nothing uses it (caller).
        unsafe { alloc::dealloc(place.as_ptr(), layout) };
    }
}

fn layout(bytes: u64) -> Option<Layout> {
    Layout::from_size_align(usize::try_from(bytes).ok()?, PAGE).ok()
}

impl PinnedPool {
    /// A pool that holds at most `limit` bytes. Nothing is allocated yet.
    pub fn new(device: &Device, limit: u64) -> Self {
        PinnedPool(Pool::new(PinnedMemory { driver: device.driver, context: device.context }, limit))
    }

    /// A buffer of `bytes` bytes, which holds zeros or whatever its last user left.
    ///
    /// # Errors
    /// [`Error::PoolLimit`], [`Error::OutOfMemory`]; [`Error::Cuda`] and [`Error::NoContext`] when the driver fails.
    pub fn take(&self, bytes: usize) -> Result<PinnedBuffer, Error> {
        let (Place(place), class) = self.0.take(bytes as u64)?;
        Ok(PinnedBuffer { pool: self.0.clone(), place, len: bytes, class })
    }

    /// Frees what is kept for the next.
    pub fn trim(&self) {
        self.0.trim();
    }

    /// What the pool holds and has done.
    pub fn statistics(&self) -> PoolStatistics {
        self.0.statistics()
    }
}

impl fmt::Debug for PinnedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedPool").field(&self.statistics()).finish()
    }
}

/// Pinned host memory, which goes back to its pool when it is dropped. A slice of bytes, and of any [`Scalar`] by [`of`](Self::of).
pub struct PinnedBuffer {
    pool: Arc<Pool<PinnedMemory>>,
    place: NonNull<u8>,
    len: usize,
    class: u64,
}

// SAFETY: the memory is this buffer's alone, like a `Box<[u8]>`'s.
unsafe impl Send for PinnedBuffer {}
// SAFETY: as above.
unsafe impl Sync for PinnedBuffer {}

impl PinnedBuffer {
    /// Its memory as elements; what is left at the end of no whole element is left out.
    pub fn of<T: Scalar>(&self) -> &[T] {
        // SAFETY: initialised, aligned to a page, as long as that; every bit pattern is a scalar.
        unsafe { slice::from_raw_parts(self.place.as_ptr().cast(), self.len / size_of::<T>()) }
    }

    /// The same to be written.
    pub fn of_mut<T: Scalar>(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.place.as_ptr().cast(), self.len / size_of::<T>()) }
    }

    /// Where it starts, for the driver.
    pub(crate) fn place(&self) -> *mut u8 {
        self.place.as_ptr()
    }
}

impl Deref for PinnedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.of()
    }
}

impl DerefMut for PinnedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.of_mut()
    }
}

impl fmt::Debug for PinnedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedBuffer({} bytes)", self.len)
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        self.pool.give(Place(self.place), self.class);
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A number of which every bit pattern is one.
pub trait Scalar: sealed::Sealed + Copy {}

macro_rules! scalars {
    ($($(#[$gate:meta])* $name:ty),*) => {$(
        $(#[$gate])*
        impl sealed::Sealed for $name {}
        $(#[$gate])*
        impl Scalar for $name {}
    )*};
}

scalars!(
    u8,
    u16,
    i32,
    f32,
    #[cfg(any(feature = "cust", feature = "cudarc"))]
    half::bf16,
    #[cfg(any(feature = "cust", feature = "cudarc"))]
    half::f16
);
