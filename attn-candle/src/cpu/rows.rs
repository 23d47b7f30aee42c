//! Rows of a tensor of any type and strides, as f32.

use attn_host::Strides;
use candle_core::{CpuStorage, Layout, Result, bail};
use half::slice::HalfFloatSliceExt as _;

use crate::geometry::strides;

/// Rows of heads of sequences or pages.
pub(crate) struct Rows<'a> {
    storage: &'a CpuStorage,
    offset: usize,
    strides: Strides,
    dim: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn of((storage, layout): (&'a CpuStorage, &'a Layout)) -> Result<Self> {
        use CpuStorage::{BF16, F8E4M3, F16, F32};
        if !matches!(storage, BF16(_) | F16(_) | F32(_) | F8E4M3(_)) {
            bail!(
                "a tensor is of a type that the CPU does not compute; allowed: BF16, F16, F32, and F8E4M3 for K and V"
            );
        }
        let (Some(&dim), Some(&stride)) = (layout.dims().last(), layout.stride().last()) else {
            bail!("a tensor has no dimension; allowed: 3 or 4");
        };
        Ok(Rows { storage, offset: layout.start_offset(), strides: strides(layout), dim, stride })
    }

    /// Appends a row, times a factor.
    pub(crate) fn append(&self, outer: usize, row: usize, head: usize, factor: f32, to: &mut Vec<f32>) {
        let Strides { batch, seq, head: per_head } = self.strides;
        // Strides of a tensor in memory.
        let first = self.offset + outer * batch as usize + row * seq as usize + head * per_head as usize;
        let start = to.len();
        let places = (0..self.dim).map(|i| first + i * self.stride);
        let range = first..first + self.dim;
        match self.storage {
            CpuStorage::BF16(all) if self.stride == 1 => {
                to.resize(start + self.dim, 0.0);
                all[range].convert_to_f32_slice(&mut to[start..]);
            }
            CpuStorage::F16(all) if self.stride == 1 => {
                to.resize(start + self.dim, 0.0);
                all[range].convert_to_f32_slice(&mut to[start..]);
            }
            CpuStorage::F32(all) if self.stride == 1 => to.extend_from_slice(&all[range]),
            CpuStorage::BF16(all) => to.extend(places.map(|i| all[i].to_f32())),
            CpuStorage::F16(all) => to.extend(places.map(|i| all[i].to_f32())),
            CpuStorage::F32(all) => to.extend(places.map(|i| all[i])),
            CpuStorage::F8E4M3(all) => to.extend(places.map(|i| all[i].to_f32())),
            _ => unreachable!("types have been checked"),
        }
        if factor != 1.0 {
            to[start..].iter_mut().for_each(|x| *x *= factor);
        }
    }
}
