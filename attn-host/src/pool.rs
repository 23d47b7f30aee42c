//! Memory that is kept for the next who asks, within a limit: of the device, and pinned on the host.

mod core;
mod device;
mod pinned;
#[cfg(test)]
mod tests;

pub use self::core::PoolStatistics;
pub use device::{DeviceBlock, DevicePool};
pub use pinned::{PinnedBuffer, PinnedPool, Scalar};
