//! A block's tensor memory: 128 lanes of 512 columns of 32 bits, which columns are allocated, who touched what.

use super::clock::Actor;
use super::shadow::{Bits, Conflict, Shadow};
use super::{Location, Machine};
use crate::layout::tmem::{COLUMNS, LANES};
use crate::report::{Kind, Stop};
use std::ops::Range;

/// Tensor memory of one block.
#[derive(Debug)]
pub struct TensorMemory {
    /// Lane after lane.
    words: Vec<u32>,
    written: Bits,
    shadow: Shadow,
    /// Allocated columns, in order.
    allocated: Vec<Range<u32>>,
    /// Size of the last allocation: later ones are not larger.
    last: u32,
    /// No more allocations may follow.
    relinquished: bool,
}

impl Default for TensorMemory {
    fn default() -> Self {
        let words = (LANES * COLUMNS) as usize;
        TensorMemory {
            words: vec![0; words],
            written: Bits::new(words),
            shadow: Shadow::new(words * 4),
            allocated: Vec::new(),
            last: COLUMNS,
            relinquished: false,
        }
    }
}

/// What is wrong with an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// Not a power of two in range.
    #[error("{0} columns; allowed are 32, 64, 128, 256 and 512")]
    Columns(u32),
    /// Sizes of successive allocations may not grow.
    #[error("{got} columns after an allocation of {last}: sizes may not increase")]
    Grows {
        /// Columns asked for.
        got: u32,
        /// Columns of the allocation before.
        last: u32,
    },
    /// After relinquish.
    #[error("the permit to allocate was relinquished")]
    Relinquished,
    /// Nothing of that place and size is allocated.
    #[error("{columns} columns from {column} are not an allocation")]
    NotAllocated {
        /// First column.
        column: u32,
        /// Columns.
        columns: u32,
    },
}

impl TensorMemory {
    /// Allocates columns and returns the first; `None` where none are free and the warp waits.
    pub fn alloc(&mut self, columns: u32) -> Result<Option<u32>, AllocError> {
        if !columns.is_power_of_two() || !(32..=COLUMNS).contains(&columns) {
            return Err(AllocError::Columns(columns));
        }
        if self.relinquished {
            return Err(AllocError::Relinquished);
        }
        if columns > self.last {
            return Err(AllocError::Grows { got: columns, last: self.last });
        }
        let free = |start: u32| self.allocated.iter().all(|r| r.end <= start || r.start >= start + columns);
        let Some(start) = (0..COLUMNS).step_by(columns as usize).find(|&s| free(s)) else { return Ok(None) };
        self.last = columns;
        self.allocated.push(start..start + columns);
        self.allocated.sort_by_key(|r| r.start);
        // What an earlier owner left is not the new one's.
        for lane in 0..LANES {
            self.written.clear((lane * COLUMNS + start) as usize, columns as usize);
        }
        Ok(Some(start))
    }

    /// Frees an allocation.
    pub fn dealloc(&mut self, column: u32, columns: u32) -> Result<(), AllocError> {
        let found = self.allocated.iter().position(|r| r.start == column && r.len() as u32 == columns);
        let found = found.ok_or(AllocError::NotAllocated { column, columns })?;
        self.allocated.remove(found);
        Ok(())
    }

    /// No more allocations will follow.
    pub fn relinquish(&mut self) {
        self.relinquished = true;
    }

    /// Columns that are allocated, in order.
    pub fn allocated(&self) -> &[Range<u32>] {
        &self.allocated
    }

    /// Whether a range of a lane is allocated.
    fn holds(&self, lane: u32, columns: &Range<u32>) -> bool {
        lane < LANES && columns.clone().all(|c| self.allocated.iter().any(|r| r.contains(&c)))
    }

    fn index(lane: u32, column: u32) -> usize {
        (lane * COLUMNS + column) as usize
    }

    /// Words of a lane, without any note of it.
    pub fn row(&self, lane: u32, columns: Range<u32>) -> &[u32] {
        &self.words[Self::index(lane, columns.start)..Self::index(lane, columns.start) + columns.len()]
    }
}

impl Machine {
    /// A block's tensor memory.
    pub fn tmem(&mut self, block: usize) -> &mut TensorMemory {
        self.blocks[block].tmem.get_or_insert_default()
    }

    fn tmem_place(&mut self, who: &Actor, block: usize, lane: u32, columns: &Range<u32>) -> Result<(), Stop> {
        if columns.end <= COLUMNS && self.tmem(block).holds(lane, columns) {
            return Ok(());
        }
        let allocated = self.tmem(block).allocated.clone();
        let message = format!("tensor memory lane {lane}, columns {columns:?}; allocated are columns {allocated:?}");
        Err(self.fault(who, Kind::OutOfBounds, message))
    }

    /// Reads columns of a lane: checks allocation, that they were written, and order.
    pub fn tmem_read(&mut self, who: &Actor, block: usize, lane: u32, columns: Range<u32>) -> Result<&[u32], Stop> {
        self.tmem_place(who, block, lane, &columns)?;
        let (start, len) = (TensorMemory::index(lane, columns.start), columns.len());
        let memory = self.tmem(block);
        let missing = memory.written.first_missing(start, len);
        let conflict = memory.shadow.read(who, start * 4, len * 4);
        if let Some(missing) = missing {
            let at = Location::Tensor { block, lane, column: missing as u32 % COLUMNS };
            self.report(who, Kind::Uninitialised, format!("{at} was never written"), None);
        }
        self.tmem_conflict(who, block, false, conflict);
        Ok(self.tmem(block).row(lane, columns))
    }

    /// Writes columns of a lane from `column` on: checks allocation and order.
    pub fn tmem_write(&mut self, who: &Actor, block: usize, lane: u32, column: u32, words: &[u32]) -> Result<(), Stop> {
        let columns = column..column + words.len() as u32;
        self.tmem_place(who, block, lane, &columns)?;
        let start = TensorMemory::index(lane, column);
        let memory = self.tmem(block);
        memory.words[start..start + words.len()].copy_from_slice(words);
        memory.written.set(start, words.len());
        let conflict = memory.shadow.write(who, start * 4, words.len() * 4);
        self.tmem_conflict(who, block, true, conflict);
        Ok(())
    }

    fn tmem_conflict(&mut self, who: &Actor, block: usize, writes: bool, conflict: Option<Conflict>) {
        let Some(conflict) = conflict else { return };
        let word = (conflict.offset / 4) as u32;
        let at = Location::Tensor { block, lane: word / COLUMNS, column: word % COLUMNS };
        self.conflict(who, writes, at, conflict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_aligned_to_their_size_and_shrink() {
        let mut memory = TensorMemory::default();
        assert_eq!(memory.alloc(48), Err(AllocError::Columns(48)));
        assert_eq!(memory.alloc(256), Ok(Some(0)));
        assert_eq!(memory.alloc(512), Err(AllocError::Grows { got: 512, last: 256 }));
        assert_eq!(memory.alloc(128), Ok(Some(256)));
        assert_eq!(memory.alloc(128), Ok(Some(384)));
        assert_eq!(memory.alloc(32), Ok(None));
        assert_eq!(memory.dealloc(256, 64), Err(AllocError::NotAllocated { column: 256, columns: 64 }));
        assert_eq!(memory.dealloc(256, 128), Ok(()));
        assert!(memory.holds(127, &(384..512)) && !memory.holds(0, &(255..257)) && !memory.holds(128, &(0..1)));
        memory.relinquish();
        assert_eq!(memory.alloc(32), Err(AllocError::Relinquished));
    }
}
