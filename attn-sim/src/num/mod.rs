//! Arithmetic of the machine's instructions on bit patterns: pure functions, the same on every machine that runs the simulator.

pub mod approx;
pub mod convert;
pub mod dot;
pub mod exact;
pub mod float;
pub mod format;
pub mod product;
pub mod scaled;
pub mod stochastic;

pub use format::{Format, Rounding};
