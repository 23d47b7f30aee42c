//! Device memory.

use std::fmt;
use std::sync::Arc;

use super::core::{Pool, PoolStatistics, Source};
use crate::device::Device;
use crate::driver::Driver;
use crate::error::Error;
use crate::launch::DevicePtr;
use crate::sys::Handle;

/// A pool of device memory, kept for the next who asks, within a limit. [`PinnedPool`](crate::PinnedPool) is its sibling on the host.
///
/// A block goes back to its pool when it is dropped, and the pool gives it to the next who asks for about as much. What a pool holds, in use
/// and kept, never exceeds its limit: kept blocks are freed to make room, and a request that does not fit beside what is in use is
/// [`Error::PoolLimit`]. When the driver has no memory left, the pool frees all that it keeps and asks once more before it gives up with
/// [`Error::OutOfMemory`]. Pools are handles: clones share what they hold, and the last one to go, or the last block, frees it.
///
#[cfg_attr(feature = "simulator", doc = "```")]
#[cfg_attr(not(feature = "simulator"), doc = "```no_run")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "simulator")]
/// # attn_host::simulator::install(Default::default())?;
/// use attn_host::{Device, DevicePool};
///
/// let pool = DevicePool::new(&Device::open(0)?, 1 << 30);
/// let block = pool.take(1 << 20)?;
/// let address = block.address(); // for a plan's workspace, say
/// drop(block); // once nothing on the device uses it any more
/// assert_eq!(pool.statistics().kept, 1 << 20);
/// # Ok(())
/// # }
/// ```
///
/// Blocks are aligned to 256 bytes at least. Methods may be called from any thread, whatever context is current there; the device's context
/// must not be destroyed before the pool and its blocks are gone, or else every call that needs the driver is an error.
#[derive(Clone)]
pub struct DevicePool(Arc<Pool<DeviceMemory>>);

/// Device memory of a context.
pub(super) struct DeviceMemory {
    driver: &'static Driver,
    context: Handle,
    context_id: u64,
}

impl Source for DeviceMemory {
    type Place = u64;
    const NAME: &'static str = "device";

    fn obtain(&self, bytes: u64) -> Result<u64, Error> {
        let _entered = self.driver.enter(self.context)?;
        self.driver.allocate(bytes)
    }

    unsafe fn release(&self, address: u64, _: u64) {
        // Where the context cannot be entered, tried twice because nobody would free the block later, it is gone or lost, and its memory with
        // it. The same holds of a failure to free.
        let Ok(_entered) = self.driver.enter(self.context).or_else(|_| self.driver.enter(self.context)) else { return };
        // Another context may have come to the handle since, the primary one above all. What lies at the address there is not the pool's.
        if self.driver.context_id(self.context).is_ok_and(|id| id != self.context_id) {
            return;
        }
        // SAFETY: the caller's promise.
        let _ = unsafe { self.driver.free(address) };
    }
}

impl DevicePool {
    /// A pool that holds at most `limit` bytes of the device's memory. Nothing is allocated yet.
    pub fn new(device: &Device, limit: u64) -> Self {
        let Device { driver, context, context_id, .. } = *device;
        DevicePool(Pool::new(DeviceMemory { driver, context, context_id }, limit))
    }

    /// A block of at least `bytes` bytes, which holds whatever its last user left.
    ///
    /// # Errors
    /// [`Error::PoolLimit`], [`Error::OutOfMemory`]; [`Error::Cuda`] and [`Error::NoContext`] when the driver fails.
    pub fn take(&self, bytes: u64) -> Result<DeviceBlock, Error> {
        let (address, class) = self.0.take(bytes)?;
        Ok(DeviceBlock { pool: self.0.clone(), address, class })
    }

    /// Frees what is kept for the next.
    pub fn trim(&self) {
        self.0.trim();
    }

    /// What the pool holds and has done.
    pub fn statistics(&self) -> PoolStatistics {
        self.0.statistics()
    }

    /// Refuses a device whose context is not the pool's.
    pub(crate) fn check_context(&self, device: &Device) -> Result<(), Error> {
        let (planned, current) = (self.0.source().context, device.context);
        if planned == current {
            return Ok(());
        }
        Err(Error::WrongContext { planned: planned.0 as usize, current: current.0 as usize })
    }
}

impl fmt::Debug for DevicePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DevicePool").field(&self.statistics()).finish()
    }
}

/// A block of device memory, which goes back to its pool when it is dropped: not before the device is done with it.
pub struct DeviceBlock {
    pool: Arc<Pool<DeviceMemory>>,
    address: u64,
    class: u64,
}

impl DeviceBlock {
    /// Where it starts.
    pub fn address(&self) -> DevicePtr {
        DevicePtr(self.address)
    }

    /// Bytes that there are: at least as many as were asked for.
    pub fn capacity(&self) -> u64 {
        self.class
    }
}

impl fmt::Debug for DeviceBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceBlock({:#x}, {} bytes)", self.address, self.class)
    }
}

impl Drop for DeviceBlock {
    fn drop(&mut self) {
        self.pool.give(self.address, self.class);
    }
}
