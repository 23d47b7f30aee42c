//! Lengths of packed sequences that have been checked.

use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Tensor};

/// Lengths of sequences that lie one after the other, on the host and on the device.
///
/// Kernels trust such lengths, so they are checked once, here, and not again by each layer of a model.
#[derive(Clone, Debug)]
pub struct Lengths {
    sums: Arc<[i32]>,
    on_device: Tensor,
}

impl Lengths {
    /// The lengths of sequences, for tensors of this device.
    ///
    /// # Errors
    /// Sums beyond `i32`; candle's, when memory cannot be had.
    pub fn new(lengths: &[usize], device: &Device) -> Result<Self> {
        let sums = lengths.iter().try_fold(vec![0u32], |mut sums, &length| {
            let sum = sums[sums.len() - 1] as usize + length;
            sums.push(u32::try_from(sum).ok().filter(|&sum| sum <= i32::MAX as u32)?);
            Some(sums)
        });
        let sums = sums.ok_or_else(|| Error::msg("the sum of the lengths is above 2147483647"))?;
        Self::of(sums, device)
    }

    /// The lengths whose prefix sums, from 0, a tensor of `u32` or `i32` holds, as `candle-flash-attn` takes them. They are copied to the
    /// host, which waits for the device.
    ///
    /// # Errors
    /// Another type or rank, no element, a first that is not 0, and sums that fall or are beyond `i32`.
    pub fn from_cumulative(sums: &Tensor) -> Result<Self> {
        let values = match sums.dtype() {
            DType::U32 => sums.to_vec1::<u32>()?,
            // Negative ones become too large, and are refused below.
            DType::I32 => sums.to_vec1::<i32>()?.into_iter().map(|sum| sum as u32).collect(),
            other => candle_core::bail!("cumulative lengths are of type {other:?}; allowed: U32, I32"),
        };
        if values.first() != Some(&0) {
            candle_core::bail!("cumulative lengths begin with {:?}; allowed: 0", values.first());
        }
        if let Some(i) = (1..values.len()).find(|&i| values[i] < values[i - 1] || values[i] > i32::MAX as u32) {
            candle_core::bail!("cumulative_lengths[{i}] is {}; allowed: {} to 2147483647", values[i], values[i - 1]);
        }
        // A tensor of its own, which nobody else can change.
        Self::of(values, sums.device())
    }

    fn of(sums: Vec<u32>, device: &Device) -> Result<Self> {
        // None is beyond i32.
        let host = sums.iter().map(|&sum| sum as i32).collect();
        Ok(Lengths { sums: host, on_device: Tensor::from_vec(sums.clone(), sums.len(), device)? })
    }

    /// Sequences.
    pub fn count(&self) -> usize {
        self.sums.len() - 1
    }

    /// Rows of all.
    pub fn total(&self) -> usize {
        self.sums[self.count()] as usize
    }

    /// Rows of the longest.
    pub fn longest(&self) -> usize {
        self.each().max().unwrap_or(0)
    }

    /// Rows of each.
    pub fn each(&self) -> impl Iterator<Item = usize> {
        self.sums.windows(2).map(|pair| (pair[1] - pair[0]) as usize)
    }

    pub(crate) fn sums(&self) -> &[i32] {
        &self.sums
    }

    pub(crate) fn on_device(&self) -> &Tensor {
        &self.on_device
    }
}
