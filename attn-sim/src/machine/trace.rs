//! The history of a warp or of an mbarrier, line by line.

use super::Machine;
use super::clock::Actor;
use super::mbarrier::At;

/// Whose history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Every instruction that a warp executes.
    Warp {
        /// `%ctaid`
        block: [u32; 3],
        /// Warp of the block.
        warp: u32,
    },
    /// Every change of an mbarrier, and every wait for it.
    Mbarrier {
        /// `%ctaid`
        block: [u32; 3],
        /// Offset in the block's shared memory, as in addresses.
        offset: u32,
    },
    /// The same of every mbarrier of a block: what there is, and where.
    Mbarriers {
        /// `%ctaid`
        block: [u32; 3],
    },
}

impl Machine {
    /// Notes an instruction, if its warp's history is wanted.
    pub(super) fn trace_step(&mut self, warp: usize, op: u32, mask: u32, resumed: bool) {
        let (index, block) = (self.warps[warp].index, self.blocks[self.warps[warp].block].ctaid);
        if !self.shape.trace.contains(&Trace::Warp { block, warp: index }) {
            return;
        }
        let op = &self.program.ops[op as usize];
        let again = if resumed { " (again)" } else { "" };
        let text = format!("{:>8}  line {:>5}  lanes {mask:#010x}  {}{again}", self.now, op.line, op.text);
        self.trace.push(text);
    }

    /// Notes what happened to an mbarrier, if its history is wanted.
    pub(super) fn trace_mbarrier(&mut self, who: &Actor, at: At, what: &str) {
        if self.shape.trace.is_empty() {
            return;
        }
        let block = self.blocks[at.0].ctaid;
        let wanted = [Trace::Mbarrier { block, offset: at.1 }, Trace::Mbarriers { block }];
        if !self.shape.trace.iter().any(|trace| wanted.contains(trace)) {
            return;
        }
        let bar = self.blocks[at.0].mbarriers.get(&at.1);
        let state = bar.map_or_else(String::new, |b| format!(": missing {}", b.state.missing()));
        let site = self.site(who.warp as usize, who.op);
        let text = &self.program.ops[who.op as usize].text;
        self.trace.push(format!("{:>8}  mbarrier {:#x} {what} `{text}`, {site}{state}", self.now, at.1));
    }
}
