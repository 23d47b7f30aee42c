//! Memory, streams and events, as the pipeline uses them.

use std::ffi::c_void;

use super::Driver;
use crate::error::Error;
use crate::launch::Stream;
use crate::sys::Handle;

/// `CU_MEMHOSTREGISTER_PORTABLE`: pinned for every context.
const PORTABLE: u32 = 1;
/// `CU_STREAM_NON_BLOCKING`: does not wait for the legacy default stream.
const NON_BLOCKING: u32 = 1;
/// `CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING`: who waits sleeps.
const SLEEPING: u32 = 1 | 2;

/// A context that is current on this thread until this is dropped, whatever was before.
#[must_use = "the context is current as long as this lives"]
pub(crate) struct Entered<'a>(&'a Driver);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut left = Handle::NULL;
        // SAFETY: `left` is a place for a handle; what was pushed is popped. A failure leaves nothing that could be done.
        unsafe { (self.0.ctx_pop)(&mut left) };
    }
}

impl Driver {
    /// Makes a context current on this thread for a while.
    pub(crate) fn enter(&self, context: Handle) -> Result<Entered<'_>, Error> {
        // SAFETY: a context that has been destroyed is an error code.
        self.check("cuCtxPushCurrent", unsafe { (self.ctx_push)(context) })?;
        Ok(Entered(self))
    }

    /// Waits until the current context has nothing left to do.
    pub(crate) fn wait_for_context(&self) -> Result<(), Error> {
        // SAFETY: takes nothing.
        self.check("cuCtxSynchronize", unsafe { (self.ctx_synchronize)() })
    }

    /// Allocates device memory in the current context.
    pub(crate) fn allocate(&self, bytes: u64) -> Result<u64, Error> {
        let mut address = 0;
        // SAFETY: `address` is a place for an address. The target has addresses of 64 bits.
        self.check("cuMemAlloc", unsafe { (self.mem_alloc)(&mut address, bytes as usize) })?;
        Ok(address)
    }

    /// Frees what [`allocate`](Self::allocate) gave.
    ///
    /// # Safety
    /// Nothing uses it any more.
    pub(crate) unsafe fn free(&self, address: u64) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        self.check("cuMemFree", unsafe { (self.mem_free)(address) })
    }

    /// Pins host memory, so that copies from and to it go on while the CPU does something else.
    ///
    /// # Safety
    /// `place` is `bytes` bytes that stay allocated until [`unregister`](Self::unregister).
    pub(crate) unsafe fn register(&self, place: *mut u8, bytes: usize) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        self.check("cuMemHostRegister", unsafe { (self.host_register)(place.cast(), bytes, PORTABLE) })
    }

    /// The reverse of [`register`](Self::register).
    ///
    /// # Safety
    /// `place` has been registered, and no copy uses it any more.
    pub(crate) unsafe fn unregister(&self, place: *mut u8) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        self.check("cuMemHostUnregister", unsafe { (self.host_unregister)(place.cast()) })
    }
}

/// A stream of the context that was current when it was made, and is when it is dropped.
pub(crate) struct Queue {
    driver: &'static Driver,
    handle: Handle,
}

impl Queue {
    pub(crate) fn new(driver: &'static Driver) -> Result<Self, Error> {
        let mut handle = Handle::NULL;
        // SAFETY: `handle` is a place for a handle.
        driver.check("cuStreamCreate", unsafe { (driver.stream_create)(&mut handle, NON_BLOCKING) })?;
        Ok(Queue { driver, handle })
    }

    /// The stream as launches take it.
    pub(crate) fn stream(&self) -> Stream {
        Stream(self.handle.0)
    }

    /// What is queued from now on waits for what `event` was recorded behind, on the device.
    pub(crate) fn wait_for(&self, event: &Event) -> Result<(), Error> {
        // SAFETY: both exist, in one context.
        let code = unsafe { (self.driver.stream_wait_event)(self.handle, event.handle, 0) };
        self.driver.check("cuStreamWaitEvent", code)
    }

    /// Sets the event behind all that is queued.
    pub(crate) fn record(&self, event: &Event) -> Result<(), Error> {
        // SAFETY: both exist, in one context.
        self.driver.check("cuEventRecord", unsafe { (self.driver.event_record)(event.handle, self.handle) })
    }

    /// Queues a copy into device memory.
    ///
    /// # Safety
    /// Until the copy is done, `from` is `bytes` bytes that nothing writes, and `to` as many of the device's that nothing else uses.
    pub(crate) unsafe fn copy_in(&self, to: u64, from: *const u8, bytes: usize) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        let code = unsafe { (self.driver.copy_in)(to, from.cast::<c_void>(), bytes, self.handle) };
        self.driver.check("cuMemcpyHtoDAsync", code)
    }

    /// Queues a copy out of device memory.
    ///
    /// # Safety
    /// Until the copy is done, `to` is `bytes` bytes that nothing else uses, and `from` as many of the device's.
    pub(crate) unsafe fn copy_out(&self, to: *mut u8, from: u64, bytes: usize) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        let code = unsafe { (self.driver.copy_out)(to.cast::<c_void>(), from, bytes, self.handle) };
        self.driver.check("cuMemcpyDtoHAsync", code)
    }

    /// Queues zeros into device memory.
    ///
    /// # Safety
    /// `at` is `bytes` bytes of the device's that nothing else uses until this is done.
    pub(crate) unsafe fn clear(&self, at: u64, bytes: usize) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        self.driver.check("cuMemsetD8Async", unsafe { (self.driver.fill)(at, 0, bytes, self.handle) })
    }

    /// Waits until all that is queued is done.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        // SAFETY: the stream exists.
        self.driver.check("cuStreamSynchronize", unsafe { (self.driver.stream_synchronize)(self.handle) })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it any more. Where this fails, the stream goes with its context.
        unsafe { (self.driver.stream_destroy)(self.handle) };
    }
}

/// An event of the context that was current when it was made, and is when it is dropped.
pub(crate) struct Event {
    driver: &'static Driver,
    handle: Handle,
}

impl Event {
    pub(crate) fn new(driver: &'static Driver) -> Result<Self, Error> {
        let mut handle = Handle::NULL;
        // SAFETY: `handle` is a place for a handle.
        driver.check("cuEventCreate", unsafe { (driver.event_create)(&mut handle, SLEEPING) })?;
        Ok(Event { driver, handle })
    }

    /// Sleeps until what it was last recorded behind is done.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        // SAFETY: the event exists.
        self.driver.check("cuEventSynchronize", unsafe { (self.driver.event_synchronize)(self.handle) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it any more. Where this fails, the event goes with its context.
        unsafe { (self.driver.event_destroy)(self.handle) };
    }
}
