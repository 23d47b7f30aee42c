//! The pipeline for those who await (feature `tokio`): of tokio only what threads and tasks wait with, whatever the runtime.

use std::pin::pin;
use std::time::Duration;

use super::batch::{Batch, Reason, Rejected};
use super::control::Patience;
use super::{Pipeline, Shutdown, Ticket, refused};
use crate::error::Error;

impl Pipeline {
    /// Submits a batch; awaits room in the queue. Dropping the future drops the batch.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub async fn submit_async(&self, batch: Batch) -> Result<Ticket, Rejected> {
        let mut batch = self.checked(batch)?;
        loop {
            let mut room = pin!(self.shared.control.room_async.notified());
            // In line before the queue is looked at, so that room which comes in between is heard of.
            room.as_mut().enable();
            match self.admit(batch, Patience::None) {
                Err(Rejected { reason: Reason::QueueFull { .. }, batch: back }) => batch = back,
                settled => return settled.map_err(refused),
            }
            room.await;
        }
    }

    /// As [`shutdown`](Self::shutdown), awaited.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    pub async fn shutdown_async(&self, how: Shutdown) -> Result<(), Error> {
        self.close_async(how, None).await
    }

    /// As [`shutdown_timeout`](Self::shutdown_timeout), awaited: the time is kept by a thread of the pipeline.
    ///
    /// # Errors
    /// As [`shutdown_timeout`](Self::shutdown_timeout).
    pub async fn shutdown_timeout_async(&self, how: Shutdown, patience: Duration) -> Result<(), Error> {
        self.close_async(how, Some(patience)).await
    }

    async fn close_async(&self, how: Shutdown, patience: Option<Duration>) -> Result<(), Error> {
        let control = &self.shared.control;
        self.shut(how, patience);
        loop {
            let ended = control.ended_async.notified();
            match control.has_ended() {
                Some(result) => return result,
                None => ended.await,
            }
        }
    }
}
