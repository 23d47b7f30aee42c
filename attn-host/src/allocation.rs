//! Device memory that lives as long as its owner, apart from any pool.

use std::fmt;

use crate::device::Device;
use crate::driver::Driver;
use crate::error::Error;
use crate::launch::DevicePtr;
use crate::sys::Handle;

/// Device memory of its own: allocated in a context, freed there when it is dropped. [`DevicePool`](crate::DevicePool) is for memory that many
/// take turns with.
///
/// It may be dropped on any thread, whatever context is current there, and also after its context has been destroyed, which has freed the
/// memory already. Freeing waits for what the device still does with it.
pub struct Allocation {
    driver: &'static Driver,
    context: Handle,
    context_id: u64,
    address: u64,
    bytes: u64,
}

impl Allocation {
    /// Allocates in the device's context. The memory holds whatever it held, and starts at a multiple of 256 bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Size`] for no bytes at all; [`Error::Cuda`] and [`Error::NoContext`] when the driver fails.
    pub fn new(device: &Device, bytes: u64) -> Result<Self, Error> {
        if bytes == 0 {
            return Err(Error::Size { argument: "bytes", value: 0, allowed: "at least 1" });
        }
        let Device { driver, context, context_id, .. } = *device;
        let _entered = driver.enter(context)?;
        Ok(Allocation { driver, context, context_id, address: driver.allocate(bytes)?, bytes })
    }

    /// Where it starts.
    pub fn address(&self) -> DevicePtr {
        DevicePtr(self.address)
    }

    /// Bytes that there are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Allocation({:#x}, {} bytes)", self.address, self.bytes)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let Ok(_entered) = self.driver.enter(self.context) else { return };
        // A later context may have the handle of one that is gone, the primary one above all. What lies at the address there is another's.
        if self.driver.context_id(self.context) == Ok(self.context_id) {
            // SAFETY: allocated in this context, and nobody's but this owner's.
            let _ = unsafe { self.driver.free(self.address) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fake, sys};

    fn held() -> usize {
        fake::with(|state| state.machine.memory.len())
    }

    #[test]
    fn it_is_freed_in_its_context_on_any_thread() {
        fake::reset();
        let memory = Allocation::new(&fake::device(), 1000).expect("room");
        assert_eq!((memory.bytes(), memory.address().0 % 256, held()), (1000, 0, 1));
        std::thread::spawn(move || {
            fake::reset();
            let own = fake::with(|state| state.current);
            drop(memory);
            assert_eq!(fake::with(|state| state.current), own);
        })
        .join()
        .expect("no panic");
        assert_eq!(held(), 0);
    }

    #[test]
    fn a_context_that_is_gone_has_freed_it() {
        fake::reset();
        let memory = Allocation::new(&fake::device(), 1000).expect("room");
        fake::reset();
        drop(memory);
        assert!(fake::with(|state| state.calls.is_empty()));
    }

    #[test]
    fn a_later_context_with_the_same_handle_keeps_its_memory() {
        fake::reset();
        let memory = Allocation::new(&fake::device(), 1000).expect("room");
        fake::with(|state| state.context_id += 1000);
        drop(memory);
        assert_eq!(held(), 1, "it is the later context's");
    }

    #[test]
    fn failures_are_errors() {
        fake::reset();
        let device = fake::device();
        fake::with(|state| state.machine.room = 999);
        assert_eq!(Allocation::new(&device, 1000).map(drop), Err(Error::OutOfMemory { call: "cuMemAlloc" }));
        assert!(matches!(Allocation::new(&device, 0), Err(Error::Size { argument: "bytes", value: 0, .. })));
        let next = fake::with(|state| state.calls.len());
        fake::with(|state| state.fail = Some((next, sys::INVALID_CONTEXT)));
        assert_eq!(Allocation::new(&device, 1).map(drop), Err(Error::NoContext));
    }
}
