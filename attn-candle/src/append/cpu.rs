//! The same on the CPU, with the operations of the kernel.

use attn_host::{Cache, PagedKv, Pairs, Strides};
use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType, bail};

use super::Step;
use super::geometry::Geometry;
use crate::cpu::rows::Rows;
use crate::exclusive::{Memory, exclusive};
use crate::geometry::strides;

/// Lengths, pages, tables and factors on the host.
struct Host {
    cu_seqlens_new: Option<Vec<u32>>,
    seqused_new: Option<Vec<u32>>,
    seqlens_before: Option<Vec<u32>>,
    page_table: Option<Vec<u32>>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    k_descale: Option<Vec<f32>>,
    v_descale: Option<Vec<f32>>,
}

/// A new token that is in use.
struct Token {
    /// Batch entry and row in the tensors of new tokens.
    from: (usize, usize),
    sequence: usize,
    position: usize,
    /// Batch entry or page, and row, in the caches, if they have a place for it.
    to: Option<(usize, usize)>,
}

pub(super) fn write(step: &Step<'_>) -> Result<Option<Tensor>> {
    let Geometry { shape, heads, .. } = &step.geometry;
    let host = Host::of(step)?;
    let tokens = tokens(&step.geometry, &host);
    let rotation = step.pairs.map(|pairs| (pairs, &host));
    let rotated = step.q.as_ref().map(|q| queries(step, q, *heads as usize, &tokens, rotation)).transpose()?;
    for (new, cache, factors, rotation) in
        [(&step.k, step.k_cache, &host.k_descale, rotation), (&step.v, step.v_cache, &host.v_descale, None)]
    {
        let (guard, layout) = new.storage_and_layout();
        let rows = Rows::of((cpu(&guard)?, layout))?;
        let task = Task { rows, heads: shape.kv_heads as usize, tokens: &tokens, factors, rotation };
        exclusive(cache, |memory, layout| match memory {
            Memory::Cpu(storage) => task.store(storage, layout, &step.geometry),
            Memory::Cuda(_) => bail!("a cache is on a GPU; allowed: where k is"),
        })?;
    }
    Ok(rotated)
}

fn cpu(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => bail!("k is on a device that attn does not compute on; allowed: the CPU, and a GPU with the feature cuda"),
    }
}

impl Host {
    fn of(step: &Step<'_>) -> Result<Self> {
        let arrays = &step.arrays;
        // i32 as the bits of u32, as the kernel takes them: what is negative is nowhere.
        let integers = |array: &Option<Tensor>| -> Result<Option<Vec<u32>>> {
            let Some(array) = array else { return Ok(None) };
            let array = array.flatten_all()?;
            Ok(Some(match array.dtype() {
                DType::I32 => array.to_vec1::<i32>()?.into_iter().map(|x| x as u32).collect(),
                _ => array.to_vec1()?,
            }))
        };
        let floats = |array: &Option<Tensor>| -> Result<Option<Vec<f32>>> {
            array.as_ref().map(|array| array.flatten_all()?.to_dtype(DType::F32)?.to_vec1()).transpose()
        };
        Ok(Host {
            cu_seqlens_new: integers(&arrays.cu_seqlens_new)?,
            seqused_new: integers(&arrays.seqused_new)?,
            seqlens_before: integers(&arrays.seqlens_before)?,
            page_table: integers(&arrays.page_table)?,
            cos: floats(&arrays.cos)?.unwrap_or_default(),
            sin: floats(&arrays.sin)?.unwrap_or_default(),
            k_descale: floats(&arrays.k_descale)?,
            v_descale: floats(&arrays.v_descale)?,
        })
    }
}

/// The tokens that are in use and whose positions the tables reach.
fn tokens(geometry: &Geometry, host: &Host) -> Vec<Token> {
    let (batch, new) = (geometry.shape.batch as usize, geometry.shape.new as usize);
    let mut tokens = Vec::new();
    for sequence in 0..batch {
        let (first, room) = match &host.cu_seqlens_new {
            Some(sums) => (sums[sequence], sums[sequence + 1] - sums[sequence]),
            None => (0, new as u32),
        };
        let used = host.seqused_new.as_ref().map_or(room, |used| (used[sequence] as i32).clamp(0, room as i32) as u32);
        let before = host.seqlens_before.as_ref().map_or(0, |before| before[sequence]);
        for i in 0..used {
            let position = before.wrapping_add(i);
            if geometry.tables.is_some_and(|(positions, _)| u64::from(position) >= positions) {
                continue;
            }
            let outer = if geometry.packed.is_some() { 0 } else { sequence };
            let to = place(geometry, host, sequence, position);
            tokens.push(Token { from: (outer, (first + i) as usize), sequence, position: position as usize, to });
        }
    }
    tokens
}

/// Where a position of a sequence is in the cache.
fn place(geometry: &Geometry, host: &Host, sequence: usize, position: u32) -> Option<(usize, usize)> {
    let position = u64::from(position);
    match (geometry.cache, &host.page_table) {
        (Cache::Paged(PagedKv { page_size, pages, table_width }), Some(table)) => {
            let (of_sequence, row) = (position / page_size, position % page_size);
            let page = (of_sequence < table_width)
                .then(|| u64::from(table[sequence * table_width as usize + of_sequence as usize]))
                .filter(|page| *page < pages)?;
            Some((page as usize, row as usize))
        }
        (Cache::Dense { rows }, _) => (position < rows).then_some((sequence, position as usize)),
        _ => None,
    }
}

/// The queries of tokens, rotated; zeros for others.
fn queries(
    step: &Step<'_>,
    q: &Tensor,
    heads: usize,
    tokens: &[Token],
    rotation: Option<(Pairs, &Host)>,
) -> Result<Tensor> {
    let rotated = q.zeros_like()?;
    let (guard, layout) = q.storage_and_layout();
    let task = Task { rows: Rows::of((cpu(&guard)?, layout))?, heads, tokens, factors: &None, rotation };
    exclusive(&rotated, |memory, layout| match memory {
        Memory::Cpu(storage) => task.store_at(storage, layout, &step.geometry, |token| Some(token.from)),
        Memory::Cuda(_) => bail!("q is on a GPU; allowed: where k is"),
    })?;
    Ok(rotated)
}

/// Rows that go from one tensor to another.
struct Task<'a> {
    rows: Rows<'a>,
    heads: usize,
    tokens: &'a [Token],
    factors: &'a Option<Vec<f32>>,
    rotation: Option<(Pairs, &'a Host)>,
}

impl Task<'_> {
    fn store(&self, to: &mut CpuStorage, layout: &Layout, geometry: &Geometry) -> Result<()> {
        self.store_at(to, layout, geometry, |token| token.to)
    }

    fn store_at(
        &self,
        to: &mut CpuStorage,
        layout: &Layout,
        geometry: &Geometry,
        place: impl Fn(&Token) -> Option<(usize, usize)>,
    ) -> Result<()> {
        let width = geometry.tables.map_or(0, |(_, width)| width as usize);
        match to {
            CpuStorage::BF16(all) => self.copy(all, layout, width, place),
            CpuStorage::F16(all) => self.copy(all, layout, width, place),
            CpuStorage::F32(all) => self.copy(all, layout, width, place),
            CpuStorage::F8E4M3(all) => self.copy(all, layout, width, place),
            _ => bail!("a cache is of a type that the CPU does not write; allowed: BF16, F16, F32, F8E4M3"),
        }
        Ok(())
    }

    fn copy<T: WithDType>(
        &self,
        all: &mut [T],
        layout: &Layout,
        width: usize,
        place: impl Fn(&Token) -> Option<(usize, usize)>,
    ) {
        let Strides { batch, seq, head: per_head } = strides(layout);
        let along = layout.stride()[layout.stride().len() - 1];
        let mut row = Vec::new();
        for token in self.tokens {
            let Some((outer, line)) = place(token) else { continue };
            for head in 0..self.heads {
                row.clear();
                self.rows.append(token.from.0, token.from.1, head, 1.0, &mut row);
                if let Some((pairs, host)) = self.rotation {
                    let sines = token.position * width / 2..(token.position + 1) * width / 2;
                    rotate(&mut row[..width], pairs, &host.cos[sines.clone()], &host.sin[sines]);
                }
                if let Some(factors) = self.factors {
                    let factor = 1.0 / factors[(token.sequence * self.heads + head) % factors.len()];
                    row.iter_mut().for_each(|x| *x *= factor);
                }
                // Strides of a tensor in memory.
                let first =
                    layout.start_offset() + outer * batch as usize + line * seq as usize + head * per_head as usize;
                for (i, x) in row.iter().enumerate() {
                    all[first + i * along] = T::from_f64(f64::from(*x));
                }
            }
        }
    }
}

/// Turns each pair of a row by its angle, in the kernel's operations.
fn rotate(row: &mut [f32], pairs: Pairs, cos: &[f32], sin: &[f32]) {
    let half = row.len() / 2;
    for (i, (cos, sin)) in cos.iter().zip(sin).enumerate() {
        let (a, b) = match pairs {
            Pairs::Interleaved => (2 * i, 2 * i + 1),
            _ => (i, i + half),
        };
        let (x, y) = (row[a], row[b]);
        row[a] = x.mul_add(*cos, -(y * sin));
        row[b] = y.mul_add(*cos, x * sin);
    }
}
