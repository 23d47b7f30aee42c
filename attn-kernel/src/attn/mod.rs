//! The mathematics of attention: plain Rust over the instruction wrappers, tested on the host.

pub mod divide;
pub mod exp2;
pub mod mask;
pub mod row;
pub mod scores;
pub mod search;
pub mod sequence;
pub mod softmax;
pub mod walk;
