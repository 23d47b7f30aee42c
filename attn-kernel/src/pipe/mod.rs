//! Between warps: rings of shared-memory stages whose handles own stage and phase, and named barriers.

pub mod named;
pub mod ring;

pub use named::NamedBarrier;
pub use ring::Ring;
