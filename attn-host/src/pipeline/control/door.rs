//! Whether batches come in and go on.

use std::time::Duration;

use crate::error::Error;
use crate::pipeline::batch::{Failure, Reason};

/// Whether batches come in and go on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Door {
    Open,
    /// None comes in, those that are in go on.
    Draining,
    /// None comes in, none is started.
    Abandoned,
    /// Nothing works any more.
    Lost(Error),
    /// Something does not come to its end, and nothing is waited for any more.
    Stuck(Stuck),
}

/// What did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stuck {
    pub(super) batch: u64,
    pub(super) after: Duration,
}

impl Door {
    pub(super) fn accepts(&self) -> Result<(), Reason> {
        match self {
            Door::Open => Ok(()),
            Door::Draining | Door::Abandoned => Err(Reason::ShutDown),
            Door::Lost(cause) => Err(Reason::DeviceLost(cause.clone())),
            Door::Stuck(Stuck { batch, after }) => Err(Reason::Stuck { batch: *batch, after: *after }),
        }
    }

    /// Why a batch is not to be started.
    pub(super) fn verdict(&self) -> Option<Failure> {
        match self {
            Door::Open | Door::Draining => None,
            Door::Abandoned => Some(Failure::ShutDown),
            Door::Lost(cause) => Some(Failure::DeviceLost(cause.clone())),
            Door::Stuck(stuck) => Some(stuck.failure()),
        }
    }

    pub(super) fn cause(&self) -> Result<(), Error> {
        match self {
            Door::Lost(cause) => Err(cause.clone()),
            Door::Stuck(stuck) => Err(stuck.error()),
            Door::Open | Door::Draining | Door::Abandoned => Ok(()),
        }
    }
}

impl Stuck {
    pub(super) fn failure(self) -> Failure {
        Failure::Stuck { batch: self.batch, after: self.after }
    }

    pub(super) fn error(self) -> Error {
        Error::Stuck { batch: self.batch, after: self.after }
    }
}
