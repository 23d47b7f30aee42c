//! Copies by the CPU between the caller's memory and pinned memory: a large one by several threads, since one core moves a fraction of what
//! the bus does.

use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// What a thread takes at a time. Starting a thread takes some 30 µs, in which a core copies about 300 KB.
const PART: usize = 1 << 20;

/// How many threads copy, the calling one among them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copiers(pub(super) usize);

impl Copiers {
    /// Copies `from` to `to`, and returns when all of it is there.
    ///
    /// # Panics
    /// When the lengths differ.
    pub(super) fn copy(self, from: &[u8], to: &mut [MaybeUninit<u8>]) {
        self.copy_parts(from, to, PART);
    }

    /// The same over initialised bytes.
    pub(super) fn copy_over(self, from: &[u8], to: &mut [u8]) {
        // SAFETY: through it only initialised bytes are written.
        self.copy(from, unsafe { &mut *(std::ptr::from_mut(to) as *mut [MaybeUninit<u8>]) });
    }

    fn copy_parts(self, from: &[u8], to: &mut [MaybeUninit<u8>], part: usize) {
        assert_eq!(from.len(), to.len(), "a copy is as long as what it copies");
        let helpers = self.0.min(from.len() / part).saturating_sub(1);
        let parts = Mutex::new(from.chunks(part).zip(to.chunks_mut(part)));
        let draw = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some((from, to)) = draw() {
                to.write_copy_of_slice(from);
            }
        };
        thread::scope(|scope| {
            for _ in 0..helpers {
                // One that cannot be started leaves its parts to the others.
                let _ = thread::Builder::new().name("attn-copy".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_once_by_any_number_of_threads() {
        let from: Vec<u8> = (0..1000u32).map(|i| (i * 7 % 251) as u8).collect();
        for length in [0, 1, 15, 16, 17, 160, 161, 1000] {
            for threads in [0, 1, 2, 3, 8, 100] {
                // One byte more on either side, which stays as it is.
                let mut to = vec![MaybeUninit::new(255); length + 2];
                Copiers(threads).copy_parts(&from[..length], &mut to[1..=length], 16);
                // SAFETY: all of it was initialised.
                let to: Vec<u8> = to.iter().map(|byte| unsafe { byte.assume_init() }).collect();
                assert_eq!((to[0], &to[1..=length], to[length + 1]), (255, &from[..length], 255), "{threads} threads");
            }
        }
    }

    #[test]
    fn more_than_a_part_is_copied_too() {
        let from: Vec<u8> = (0..3 * PART + 5).map(|i| (i % 253) as u8).collect();
        let mut to = vec![0; from.len()];
        Copiers(3).copy_over(&from, &mut to);
        assert!(to == from);
    }
}
