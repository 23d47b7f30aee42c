//! What a launcher needs to know of a kernel, whatever its architecture.

use super::ForwardParams;
use super::plan::{Arch, DType, Float8, Plan, Schedule};
use super::serve::ServeParams;
use crate::attn::walk::Grid;

/// What a launcher needs to know of a kernel's plan, whatever the architecture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Launch {
    /// Head dimension of Q and K that the kernel is compiled for; a smaller one is zero-filled.
    pub d: u32,
    /// Head dimension of V and O that the kernel is compiled for.
    pub dv: u32,
    /// Rows of a tile: queries, times the heads packed together.
    pub bm: u32,
    /// Keys of a K or V tile.
    pub bn: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
    /// Head dimensions and rows of one copy of Q.
    pub q_box: (u32, u32),
    /// Head dimensions and rows of one copy of K.
    pub k_box: (u32, u32),
    /// Head dimensions and rows of one copy of V.
    pub v_box: (u32, u32),
    /// Head dimensions and rows of one copy of O.
    pub o_box: (u32, u32),
    /// How tiles are dealt to blocks.
    pub schedule: Schedule,
    /// Blocks that a multiprocessor holds at once.
    pub per_sm: u32,
    /// The kernel waits for what comes before it in its stream, and lets the next one start early (`griddepcontrol`).
    pub waits: bool,
    /// Most query heads of a group that are packed into a tile's rows, a power of two. 1: none, and maps of Q and O of rank 4.
    pub max_pack: u32,
    /// The kernel takes [`ServeParams`] and ragged maps; any group of up to a copy's rows of Q may be packed.
    pub ragged: bool,
    /// Which of Q, K and V are of 8 bits.
    pub float8: Float8,
}

impl Launch {
    /// Blocks of a launch of `tiles` tiles on a device of `multiprocessors`.
    pub const fn blocks(&self, tiles: u32, multiprocessors: u32) -> u32 {
        match self.schedule {
            Schedule::Persistent | Schedule::Paired if tiles > multiprocessors * self.per_sm => {
                multiprocessors * self.per_sm
            }
            _ => tiles,
        }
    }

    /// A number of what host and kernel must agree on: tensor maps, tiles, threads, shared memory and parameters. The host refuses
    /// code that was compiled under another one, which could wait for ever for bytes that are never loaded. Knobs that only the
    /// kernel turns are left out, so that kernels with other ones can be tried with one program.
    pub const fn fingerprint(&self) -> u64 {
        let walk = match self.schedule {
            Schedule::Persistent => 0,
            Schedule::LongestFirst => 1,
            Schedule::Paired => 2,
        };
        let sizes = [
            self.d,
            self.dv,
            self.bm,
            self.bn,
            self.threads,
            self.shared,
            walk,
            self.per_sm,
            self.waits as u32,
            self.max_pack,
            self.float8 as u32,
        ];
        let boxes = [
            self.q_box.0,
            self.q_box.1,
            self.k_box.0,
            self.k_box.1,
            self.v_box.0,
            self.v_box.1,
            self.o_box.0,
            self.o_box.1,
        ];
        let common = fnv(fnv(0xcbf2_9ce4_8422_2325, &sizes), &boxes);
        if self.ragged {
            fnv(common, &ServeParams::LAYOUT)
        } else {
            fnv(fnv(common, &ForwardParams::LAYOUT), &Grid::LAYOUT)
        }
    }

    /// Query heads that a problem with `group` query heads for each key/value head packs into a tile's rows: the largest power of two
    /// that divides the group, up to [`max_pack`](Self::max_pack).
    pub const fn pack(&self, group: u32) -> u32 {
        let power = group & group.wrapping_neg();
        if power > self.max_pack { self.max_pack } else { power }
    }
}

/// The plan that a kernel was compiled from.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum AnyPlan {
    /// Of a Hopper kernel.
    Sm90(Plan),
    /// Of a Blackwell kernel.
    Sm100(super::sm100::Plan),
}

/// One compiled kernel: what it computes and the plan it was compiled from.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Entry point's name, and the file name of its cubin.
    pub name: &'static str,
    /// Architecture it is compiled for.
    pub arch: Arch,
    /// Element type of O, and of Q, K and V unless the launch says that they are of 8 bits.
    pub dtype: DType,
    /// Bottom-right aligned causal mask: query `i` sees keys `j <= i + seqlen_k - seqlen_q`.
    pub causal: bool,
    /// Which problems it is for.
    pub family: Family,
    /// What a launcher needs of the plan.
    pub launch: Launch,
    /// The plan itself.
    pub plan: AnyPlan,
}

/// Which problems a kernel is for, and what it is composed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Sequences of equal lengths in dense tensors, whole or causal.
    Dense,
    /// Everything that [`ServeParams`] says: sequences of different lengths, paged K and V, windows, splits, sinks.
    Serve {
        /// Softcap and ALiBi too.
        modified: bool,
    },
    /// The same with softcap and ALiBi, on tiles for few queries.
    Decode,
    /// Packed sequences alone, whole or causal, with sinks: no pages, splits, or windows with a left edge.
    Prompt,
    /// The same as without, on tiles for few queries of sequences whose keys are one block of the kernel: then they have the bits that they
    /// have in larger blocks.
    Short,
}

/// FNV-1a over 32-bit words.
pub(crate) const fn fnv(mut hash: u64, words: &[u32]) -> u64 {
    let mut i = 0;
    while i < words.len() {
        hash = (hash ^ words[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}
