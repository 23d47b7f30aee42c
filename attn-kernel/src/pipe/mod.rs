//! Between warps: rings of shared-memory stages whose handles own stage and phase, signals that complete once a block of keys, and
//! named barriers.

pub mod named;
pub mod ring;
pub mod signal;

pub use named::NamedBarrier;
pub use ring::Ring;
pub use signal::{Beat, Signals};
