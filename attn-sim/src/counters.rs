//! What a launch did, in numbers.

use std::collections::BTreeMap;
use std::fmt;

/// Classes that instructions are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Class {
    Integer,
    Float,
    Convert,
    Move,
    Memory,
    Atomic,
    Control,
    /// Shuffles, votes, elections.
    Warp,
    /// Named and cluster barriers.
    Barrier,
    Mbarrier,
    /// Tensor, bulk and asynchronous copies.
    Copy,
    Fence,
    /// Multiplies of the tensor cores, and matrix moves.
    Matrix,
    /// Loads, stores and allocation of tensor memory.
    TensorMemory,
    Other,
}

impl Class {
    /// Every class, in the order of [`Class::index`].
    pub const ALL: [Class; 15] = [
        Class::Integer,
        Class::Float,
        Class::Convert,
        Class::Move,
        Class::Memory,
        Class::Atomic,
        Class::Control,
        Class::Warp,
        Class::Barrier,
        Class::Mbarrier,
        Class::Copy,
        Class::Fence,
        Class::Matrix,
        Class::TensorMemory,
        Class::Other,
    ];

    /// Position in [`Class::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Counts of a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Warp instructions by class, for each warp of a block, summed over blocks. Warps of one role have alike numbers.
    pub instructions: Vec<[u64; Class::ALL.len()]>,
    /// Bytes moved by each unit, by its name: `tma load`, `bulk store`, `wgmma smem`.
    pub bytes: BTreeMap<&'static str, u64>,
    /// Times a warp had to wait, by what for: `mbarrier`, `named barrier`.
    pub waits: BTreeMap<&'static str, u64>,
    /// Asynchronous operations that completed.
    pub completions: u64,
}

impl Counters {
    /// Counts one warp instruction.
    pub(crate) fn instruction(&mut self, warp: usize, class: Class) {
        if self.instructions.len() <= warp {
            self.instructions.resize(warp + 1, [0; Class::ALL.len()]);
        }
        self.instructions[warp][class.index()] += 1;
    }

    /// Adds another launch's, or another cluster's.
    pub fn add(&mut self, other: &Counters) {
        if self.instructions.len() < other.instructions.len() {
            self.instructions.resize(other.instructions.len(), [0; Class::ALL.len()]);
        }
        for (mine, theirs) in self.instructions.iter_mut().zip(&other.instructions) {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
        other.bytes.iter().for_each(|(unit, n)| *self.bytes.entry(unit).or_default() += n);
        other.waits.iter().for_each(|(what, n)| *self.waits.entry(what).or_default() += n);
        self.completions += other.completions;
    }

    /// Instructions of each role: neighbouring warps that execute the same classes of instructions, and their counts together.
    pub fn roles(&self) -> Vec<(std::ops::RangeInclusive<usize>, [u64; Class::ALL.len()])> {
        let mut roles: Vec<(std::ops::RangeInclusive<usize>, [u64; Class::ALL.len()])> = Vec::new();
        for (warp, counts) in self.instructions.iter().enumerate() {
            match roles.last_mut() {
                Some((warps, sums)) if sums.iter().zip(counts).all(|(a, b)| (*a == 0) == (*b == 0)) => {
                    *warps = *warps.start()..=warp;
                    sums.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
                }
                _ => roles.push((warp..=warp, *counts)),
            }
        }
        roles
    }

    /// Warp instructions in all.
    pub fn total(&self) -> u64 {
        self.instructions.iter().flatten().sum()
    }

    /// Warp instructions of a class, all warps.
    pub fn of(&self, class: Class) -> u64 {
        self.instructions.iter().map(|warp| warp[class.index()]).sum()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} warp instructions, {} asynchronous completions", self.total(), self.completions)?;
        for (warps, counts) in self.roles() {
            match (warps.start(), warps.end()) {
                (first, last) if first == last => write!(f, "  warp {first}:")?,
                (first, last) => write!(f, "  warps {first} to {last}:")?,
            }
            let mut used = Class::ALL.iter().zip(counts).filter(|(_, n)| *n > 0);
            used.try_for_each(|(class, n)| write!(f, " {class:?} {n}"))?;
            writeln!(f)?;
        }
        self.bytes.iter().try_for_each(|(unit, n)| writeln!(f, "  {unit}: {n} bytes"))?;
        self.waits.iter().try_for_each(|(what, n)| writeln!(f, "  waits for {what}: {n}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_listed_in_their_order() {
        Class::ALL.iter().enumerate().for_each(|(i, class)| assert_eq!(class.index(), i));
    }

    #[test]
    fn warps_of_a_role_are_counted_together() {
        let mut counters = Counters::default();
        for (warp, class, times) in [
            (0, Class::Copy, 3),
            (1, Class::Matrix, 5),
            (2, Class::Matrix, 6),
            (3, Class::Matrix, 4),
            (3, Class::Copy, 1),
            (4, Class::Matrix, 2),
        ] {
            (0..times).for_each(|_| counters.instruction(warp, class));
        }
        let roles = counters.roles();
        assert_eq!(roles.iter().map(|(warps, _)| warps.clone()).collect::<Vec<_>>(), [0..=0, 1..=2, 3..=3, 4..=4]);
        assert_eq!(roles[1].1[Class::Matrix.index()], 11);
        let text = counters.to_string();
        assert!(text.contains("  warp 0: Copy 3\n  warps 1 to 2: Matrix 11\n  warp 3: Copy 1 Matrix 4\n"), "{text}");
    }
}
