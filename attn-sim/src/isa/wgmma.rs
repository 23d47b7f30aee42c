//! `wgmma`: the multiplies of a warpgroup, and the fence, commits and waits that go with them.
//!
//! Each warp multiplies its own sixteen rows when it issues the instruction, so results do not depend on timing; its accumulators
//! and A registers are then held, and its reads of shared memory count as unordered, until a `wait_group` covers the instruction.

mod multiply;

use super::Decoded;
use crate::counters::Class;
use crate::machine::clock::Agent;
use crate::machine::decode::{Decode, Reg};
use crate::machine::events::Unit;
use crate::machine::execute::{Execute, Step};
use crate::machine::registers::Hold;
use crate::machine::wait::Key;
use crate::machine::{Context, UnitState};
use crate::report::{Kind, Stop};
use std::collections::VecDeque;
use std::sync::Arc;

/// Warps of a warpgroup.
const WARPS: u32 = 4;

/// Decodes `wgmma.*`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    match cx.modifiers().next() {
        Some("mma_async") => multiply::decode(cx),
        Some("fence") => Ok(Box::new(Fence)),
        Some("commit_group") => Ok(Box::new(Commit)),
        Some("wait_group") => Ok(Box::new(Wait(cx.int(0)? as u64))),
        _ => Err(cx.unsupported("no such form of wgmma")),
    }
}

/// A multiply that no wait has covered.
#[derive(Debug)]
struct Multiply {
    accumulators: Arc<[Reg]>,
    fragments: Arc<[Reg]>,
    op: u32,
    agent: Agent,
    clock: u32,
}

/// What a warp's multiplies use.
#[derive(Debug, Default)]
struct Multiplies {
    /// Groups that no wait has covered, oldest first.
    groups: VecDeque<Vec<Multiply>>,
    /// Multiplies since the last commit.
    open: Vec<Multiply>,
    /// Groups committed and completed since the start.
    committed: u64,
    completed: u64,
    /// Groups that waits have covered.
    covered: u64,
    /// When the last fence was executed.
    fenced: Option<u64>,
}

impl UnitState for Multiplies {
    fn at_exit(&self) -> Option<(Kind, String)> {
        let under_way = self.groups.iter().map(Vec::len).sum::<usize>() + self.open.len();
        (under_way > 0)
            .then(|| (Kind::OutstandingAtExit, format!("{under_way} wgmma multiplies that no wait_group covers")))
    }

    fn describe(&self) -> Option<String> {
        Some(format!("{} wgmma groups committed, {} complete", self.committed, self.completed))
    }
}

impl Multiplies {
    fn under_way(&self) -> impl Iterator<Item = &Multiply> {
        self.groups.iter().flatten().chain(&self.open)
    }
}

/// What the four warps of a warpgroup must execute alike: the instructions in order, until all four have passed.
#[derive(Debug, Default)]
struct Warpgroup {
    steps: VecDeque<(u32, [u64; 2])>,
    first: u64,
    passed: [u64; WARPS as usize],
}

/// The warpgroups of a block.
#[derive(Debug, Default)]
struct Warpgroups(Vec<Warpgroup>);

impl UnitState for Warpgroups {
    fn at_exit(&self) -> Option<(Kind, String)> {
        let parted = self.0.iter().position(|g| !g.steps.is_empty())?;
        Some((Kind::Divergent, format!("wgmma instructions that not all warps of warpgroup {parted} executed")))
    }
}

/// The rules of `.sync.aligned` for a warpgroup: whole warps, and the same instruction with the same operands in all four.
fn in_step(cx: &mut Context<'_>, operands: [u64; 2]) -> Result<(), Stop> {
    cx.aligned()?;
    if cx.mask != u32::MAX {
        return Err(
            cx.fault(Kind::Divergent, format!("lanes {:#010x} execute it; a warpgroup has whole warps", cx.mask))
        );
    }
    let index = cx.m.warps[cx.warp].index;
    let (group, member) = ((index / WARPS) as usize, (index % WARPS) as usize);
    if cx.m.blocks[cx.block].warps.len() < (group + 1) * WARPS as usize {
        return Err(cx.fault(Kind::Divergent, format!("warp {index} is in no warpgroup: the block's warps end before")));
    }
    let op = cx.op;
    let groups = &mut cx.block_state::<Warpgroups>().0;
    if groups.len() <= group {
        groups.resize_with(group + 1, Warpgroup::default);
    }
    let state = &mut groups[group];
    let step = (state.passed[member] - state.first) as usize;
    let expected = state.steps.get(step).copied();
    if expected.is_none() {
        state.steps.push_back((op, operands));
    }
    state.passed[member] += 1;
    while state.passed.iter().all(|&p| p > state.first) {
        state.steps.pop_front();
        state.first += 1;
    }
    match expected {
        Some((other, with)) if (other, with) != (op, operands) => {
            let line = cx.m.program.ops[other as usize].line;
            let message = format!(
                "another warp of the warpgroup executes line {line} with {with:x?}, this one has {operands:x?}"
            );
            Err(cx.fault(Kind::Divergent, message))
        }
        _ => Ok(()),
    }
}

/// `wgmma.fence.sync.aligned`
#[derive(Debug)]
struct Fence;

impl Execute for Fence {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        in_step(cx, [0; 2])?;
        let now = cx.m.now;
        cx.warp_state::<Multiplies>().fenced = Some(now);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Fence
    }
}

/// `wgmma.commit_group.sync.aligned`
#[derive(Debug)]
struct Commit;

impl Execute for Commit {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        in_step(cx, [0; 2])?;
        let state = cx.warp_state::<Multiplies>();
        let group = std::mem::take(&mut state.open);
        state.groups.push_back(group);
        state.committed += 1;
        let warp = cx.warp;
        cx.schedule(Unit::Matrix, Some((Unit::Matrix, warp as u64)), move |m| {
            m.warps[warp].states.get::<Multiplies>().completed += 1;
            m.wake(Key::Warp(warp));
            Ok(())
        });
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Fence
    }
}

/// `wgmma.wait_group.sync.aligned n`: at most `n` groups are under way.
#[derive(Debug)]
struct Wait(u64);

impl Execute for Wait {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        if !cx.resumed {
            in_step(cx, [0; 2])?;
        }
        let warp = cx.warp;
        let state = cx.warp_state::<Multiplies>();
        let needed = state.committed.saturating_sub(self.0);
        if state.completed < needed {
            let detail = format!("{} of {needed} groups complete", state.completed);
            return Ok(cx.block_on(Key::Warp(warp), "wgmma", detail));
        }
        let count = needed.saturating_sub(state.covered) as usize;
        let done: Vec<Multiply> = state.groups.drain(..count).flatten().collect();
        state.covered = state.covered.max(needed);
        release(cx, &done);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Fence
    }
}

/// Gives registers back that no multiply under way still uses; what was read of shared memory is over.
fn release(cx: &mut Context<'_>, done: &[Multiply]) {
    let Some(last) = done.last() else { return };
    cx.m.observe(cx.warp, last.agent, last.clock);
    for multiply in done {
        for reg in multiply.accumulators.iter().chain(&*multiply.fragments) {
            cx.m.warps[cx.warp].regs.release(*reg);
        }
    }
    hold_again(cx);
}

/// Holds the registers of all multiplies under way.
fn hold_again(cx: &mut Context<'_>) {
    let mut holds = Vec::new();
    for m in cx.warp_state::<Multiplies>().under_way() {
        holds.push((Arc::clone(&m.accumulators), Hold::Writing, m.op));
        holds.push((Arc::clone(&m.fragments), Hold::Reading, m.op));
    }
    let regs = &mut cx.m.warps[cx.warp].regs;
    for (list, hold, op) in holds {
        list.iter().for_each(|reg| regs.hold(*reg, hold, op));
    }
}
