//! The three streams, the events between them, and the device memory that batches take turns with.

use crate::driver::{Driver, Event, Queue};
use crate::error::Error;
use crate::pool::{DeviceBlock, DevicePool};
use crate::sys;

/// Streams and events of a pipeline.
pub(super) struct Lanes {
    driver: &'static Driver,
    pub(super) copy_in: Queue,
    pub(super) compute: Queue,
    pub(super) copy_out: Queue,
    /// One set for each batch that may be in flight.
    pub(super) marks: Vec<Marks>,
}

/// How far a batch is.
pub(super) struct Marks {
    /// Its inputs are on the device.
    pub(super) loaded: Event,
    /// Its kernels are done.
    pub(super) computed: Event,
    /// Its outputs are on the host.
    pub(super) copied: Event,
}

impl Lanes {
    /// Streams and events in the current context.
    pub(super) fn new(driver: &'static Driver, flights: usize) -> Result<Self, Error> {
        let event = || Event::new(driver);
        let marks = || Ok(Marks { loaded: event()?, computed: event()?, copied: event()? });
        Ok(Lanes {
            driver,
            copy_in: Queue::new(driver)?,
            compute: Queue::new(driver)?,
            copy_out: Queue::new(driver)?,
            marks: (0..flights).map(|_| marks()).collect::<Result<_, Error>>()?,
        })
    }

    /// Waits until nothing is queued. Where even that fails, and waiting for the context too, the device is lost, and nothing on it goes on.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let waited = [&self.copy_in, &self.compute, &self.copy_out].map(Queue::wait);
        let Some(first) = waited.into_iter().find_map(Result::err) else { return Ok(()) };
        if is_lost(&first) {
            return Err(first);
        }
        self.driver.wait_for_context().map_err(|_| first)
    }
}

/// Whether an error means that nothing in the context works any more, and nothing that was queued goes on.
pub(super) fn is_lost(error: &Error) -> bool {
    match error {
        Error::Cuda { code, .. } => sys::LOST.contains(code),
        Error::NoContext | Error::ContextGone => true,
        _ => false,
    }
}

/// Which batch last used a block, by its marks.
pub(super) struct Slot {
    block: Option<DeviceBlock>,
    pub(super) last: Option<usize>,
}

/// Blocks that batches use in turn, those of inputs or of outputs.
pub(super) struct Slots(Vec<Slot>);

impl Slots {
    pub(super) fn new(depth: usize) -> Self {
        Slots((0..depth).map(|_| Slot { block: None, last: None }).collect())
    }

    /// The slot of the batch with this number, its block with room for `bytes`. A block that is too small is given up for a larger one once
    /// `done` says that its last user is.
    pub(super) fn with_room(
        &mut self,
        number: usize,
        bytes: u64,
        pool: &DevicePool,
        done: impl FnOnce(usize) -> Result<(), Error>,
    ) -> Result<(u64, &mut Slot), Error> {
        let count = self.0.len();
        let slot = &mut self.0[number % count];
        let address = match &slot.block {
            Some(block) if block.capacity() >= bytes => block.address().0,
            _ => {
                if slot.block.is_some() {
                    slot.last.map_or(Ok(()), done)?;
                    slot.last = None;
                    slot.block = None;
                }
                slot.block.insert(pool.take(bytes)?).address().0
            }
        };
        Ok((address, slot))
    }

    /// Gives all blocks back. Nothing uses them.
    pub(super) fn clear(&mut self) {
        self.0.iter_mut().for_each(|slot| *slot = Slot { block: None, last: None });
    }
}
