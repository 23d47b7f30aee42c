//! A block's shared memory.

use super::clock::Actor;
use super::shadow::{Bits, Conflict, Shadow};

/// Offset of the first byte that a program may use; the system keeps those before it.
pub const FIRST: u32 = 1024;

/// Shared memory of one block. Offsets are those of addresses: the first valid one is [`FIRST`].
#[derive(Debug)]
pub struct SharedMemory {
    data: Vec<u8>,
    written: Bits,
    shadow: Shadow,
}

/// What an access met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// First byte read that was never written.
    pub unwritten: Option<u32>,
    /// First unordered access.
    pub conflict: Option<Conflict>,
}

impl SharedMemory {
    /// `bytes` beyond [`FIRST`], unwritten.
    pub fn new(bytes: u32) -> Self {
        let end = (FIRST + bytes) as usize;
        SharedMemory { data: vec![0; end], written: Bits::new(end), shadow: Shadow::new(end) }
    }

    /// One past the last valid offset.
    pub fn end(&self) -> u32 {
        self.data.len() as u32
    }

    /// Whether a program may use all of a range.
    pub fn holds(&self, offset: u32, len: usize) -> bool {
        offset >= FIRST && offset as usize + len <= self.data.len()
    }

    /// The bytes of a range that [`SharedMemory::holds`], without any note of it.
    pub fn bytes(&self, offset: u32, len: usize) -> &[u8] {
        &self.data[offset as usize..offset as usize + len]
    }

    /// Bytes to change without any note of it: for what is not an access of a program.
    pub fn bytes_mut(&mut self, offset: u32, len: usize) -> &mut [u8] {
        &mut self.data[offset as usize..offset as usize + len]
    }

    /// Notes a read of a range that [`SharedMemory::holds`].
    pub fn note_read(&mut self, who: &Actor, offset: u32, len: usize) -> Met {
        let start = offset as usize;
        let unwritten = self.written.first_missing(start, len).map(|o| o as u32);
        Met { unwritten, conflict: self.shadow.read(who, start, len) }
    }

    /// Notes a write of a range that [`SharedMemory::holds`].
    pub fn note_write(&mut self, who: &Actor, offset: u32, len: usize) -> Met {
        let start = offset as usize;
        self.written.set(start, len);
        Met { unwritten: None, conflict: self.shadow.write(who, start, len) }
    }

    /// Counts a range as written.
    pub fn set_written(&mut self, offset: u32, len: usize) {
        self.written.set(offset as usize, len);
    }
}
