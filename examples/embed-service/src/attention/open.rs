//! Which device computes attention: what was asked for, or what there is.

use std::sync::Arc;

use attn_host::simulator;
use tracing::info;

use super::{Attention, AttentionError, CpuAttention, DeviceAttention, Room};
use crate::config::DeviceChoice;

/// What attention is asked for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens of a batch, all sentences together.
    pub tokens: usize,
    /// Sentences of a batch.
    pub sentences: usize,
    /// Tokens of a sentence.
    pub longest: usize,
}

/// Opens the device that was chosen and logs which one it is, and why.
///
/// # Errors
/// What keeps a device from computing that was asked for by name.
pub fn open(choice: DeviceChoice, size: Size, room: Room) -> Result<Arc<dyn Attention>, AttentionError> {
    let cpu = || Arc::new(CpuAttention::new(size.head_dim));
    match choice {
        DeviceChoice::Cpu => {
            info!("attention on the CPU, as asked for");
            Ok(cpu())
        }
        DeviceChoice::Gpu => {
            let gpu = DeviceAttention::open(size, room)?;
            info!(kernel = gpu.kernel(), "attention on {}, as asked for", gpu.describe());
            Ok(Arc::new(gpu))
        }
        DeviceChoice::Simulator => {
            simulator::install(simulator::Options::default())?;
            // What takes long there is not stuck.
            let device = DeviceAttention::open(size, Room { timeout: None, ..room })?;
            info!(kernel = device.kernel(), "attention on {}, as asked for: right, but slow", device.describe());
            Ok(Arc::new(device))
        }
        DeviceChoice::Auto => match DeviceAttention::open(size, room) {
            Ok(gpu) => {
                info!(kernel = gpu.kernel(), "attention on {}: a GPU that has kernels", gpu.describe());
                Ok(Arc::new(gpu))
            }
            Err(reason) => {
                info!("attention on the CPU: {reason}");
                Ok(cpu())
            }
        },
    }
}
