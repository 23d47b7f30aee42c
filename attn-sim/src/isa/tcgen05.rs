//! `tcgen05`: tensor memory, its multiplies, copies, loads and stores.
//!
//! A multiply has its effect when it is issued, in program order, as the unit executes those of one thread; what is drawn from the
//! seed is when a commit arrives, and when loads and stores are waited for. Accesses of tensor memory are ordered by what a warp
//! knows: commits and waits say when an operation is over, and the two fences carry that across a thread synchronisation. An access
//! that neither covers is reported.

mod commit;
mod copy;
mod memory;
mod multiply;
mod operands;
mod scales;

use super::Decoded;
use crate::counters::Class;
use crate::layout::tmem::COLUMNS;
use crate::machine::clock::{Actor, Agent, Clock, Lane, Proxy};
use crate::machine::decode::{Addr, Decode, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::machine::wait::Key;
use crate::machine::{Context, Stream, UnitState};
use crate::ptx::ScalarType;
use crate::report::{Kind, Stop, Unsupported};
use std::rc::Rc;

/// Decodes `tcgen05.*`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    match cx.modifiers().next() {
        Some("alloc") => Ok(Box::new(Alloc {
            to: cx.address(0)?,
            space: if cx.has("shared::cta") { Space::Shared } else { Space::Generic },
            columns: cx.source(1, ScalarType::U32)?,
        })),
        Some("dealloc") => {
            Ok(Box::new(Dealloc { at: cx.source(0, ScalarType::U32)?, columns: cx.source(1, ScalarType::U32)? }))
        }
        Some("relinquish_alloc_permit") => Ok(Box::new(Relinquish)),
        Some("mma") => multiply::decode(cx),
        Some("commit") => commit::decode(cx),
        Some("cp") => copy::decode(cx),
        Some("ld" | "st") => memory::decode(cx),
        Some("wait::ld") => Ok(Box::new(Wait { stores: false })),
        Some("wait::st") => Ok(Box::new(Wait { stores: true })),
        Some("fence::before_thread_sync") => Ok(Box::new(Fence { after: false })),
        Some("fence::after_thread_sync") => Ok(Box::new(Fence { after: true })),
        Some("shift") => Err(cx.unsupported("which way it shifts is not documented well enough")),
        _ => Err(cx.unsupported("no such form of tcgen05")),
    }
}

/// Blocks that work together: 1 or 2.
fn group(cx: &Decode<'_>) -> Result<u32, Unsupported> {
    match (cx.has("cta_group::1"), cx.has("cta_group::2")) {
        (true, false) => Ok(1),
        (false, true) => Ok(2),
        _ => Err(cx.unsupported("neither .cta_group::1 nor .cta_group::2")),
    }
}

/// Loads, or stores, of a warp.
#[derive(Debug, Default)]
struct Pending {
    issued: u64,
    completed: u64,
    /// The last one, as others will know it.
    last: Option<(Agent, u32)>,
    /// Registers that loads still write.
    registers: Vec<Reg>,
}

/// What a warp has under way, and what it knows of others' work on tensor memory.
#[derive(Debug, Default)]
struct Order {
    loads: Pending,
    stores: Pending,
    /// What the last `fence::after_thread_sync` covers.
    after: Clock,
    /// What its own waits cover.
    own: Clock,
    /// Multiplies and copies that no commit has followed.
    uncommitted: u64,
}

impl UnitState for Order {
    fn at_exit(&self) -> Option<(Kind, String)> {
        (self.uncommitted > 0).then(|| {
            let message = format!("{} tcgen05 multiplies or copies that no commit follows", self.uncommitted);
            (Kind::OutstandingAtExit, message)
        })
    }

    fn describe(&self) -> Option<String> {
        let [ld, st] = [&self.loads, &self.stores].map(|p| p.issued - p.completed);
        Some(format!("{ld} tcgen05 loads and {st} stores under way"))
    }
}

impl Order {
    fn pending(&mut self, stores: bool) -> &mut Pending {
        if stores { &mut self.stores } else { &mut self.loads }
    }
}

/// An operation of the tensor memory's units: as it accesses shared memory, and as it accesses tensor memory.
struct Operation {
    shared: Actor,
    tensor: Actor,
}

impl Operation {
    /// As what follows it has heard of it: a commit is also `fence::before_thread_sync`.
    fn fenced(self) -> Actor {
        let Operation { shared, tensor } = self;
        let mut known = tensor.known;
        Rc::make_mut(&mut known).tensor.raise(shared.agent, shared.clock);
        Actor { known, ..shared }
    }
}

/// What covers some lanes, of what covers each lane's own part.
fn confined(cx: &Context<'_>, mut covered: Clock) -> Clock {
    let warp = &cx.m.warps[cx.warp];
    if !warp.is_whole(cx.mask) {
        warp.apart().for_each(|(agent, from)| covered.confine(agent, from, cx.mask));
    }
    covered
}

/// Begins an operation on a stream of the warp; operations of one stream are in order.
fn begin(cx: &mut Context<'_>, stream: &'static str) -> Operation {
    let shared = cx.begin(Stream::Warp(cx.warp, stream), Proxy::Async, true);
    let order = cx.warp_state::<Order>();
    let mut covered = order.after.clone();
    covered.join(&order.own);
    covered.raise(shared.agent, shared.clock - 1);
    let mut known = (*shared.known).clone();
    known.tensor = confined(cx, covered);
    let tensor = Actor { known: Rc::new(known), proxy: Proxy::Tensor, ..shared.clone() };
    Operation { shared, tensor }
}

/// `tcgen05.alloc`
#[derive(Debug)]
struct Alloc {
    to: Addr,
    space: Space,
    columns: Source,
}

/// The fault of an allocation's rule.
fn misuse(cx: &Context<'_>, error: impl ToString) -> Stop {
    cx.fault(Kind::TensorMemory, error.to_string())
}

impl Execute for Alloc {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        cx.aligned()?;
        let columns = cx.uniform(&self.columns, "the number of columns")? as u32;
        let block = cx.block;
        let Some(start) = cx.m.tmem(block).alloc(columns).map_err(|e| misuse(cx, e))? else {
            let detail = format!("{columns} free columns");
            return Ok(cx.block_on(Key::Block(block), "tensor memory", detail));
        };
        let lane = cx.first_lane();
        let to = cx.addresses(&self.to)[lane];
        cx.store_as(Lane::Any, lane, self.space, to, 4, &start.to_le_bytes())?;
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::TensorMemory
    }
}

/// `tcgen05.dealloc`
#[derive(Debug)]
struct Dealloc {
    at: Source,
    columns: Source,
}

impl Execute for Dealloc {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        cx.aligned()?;
        let at = cx.uniform(&self.at, "the address")? as u32;
        let columns = cx.uniform(&self.columns, "the number of columns")? as u32;
        let block = cx.block;
        if at < COLUMNS && cx.m.tmem(block).allocated().contains(&(at..at.saturating_add(columns))) {
            // Nobody may use them any longer: as though they were written.
            let who = cx.actor();
            for lane in 0..crate::layout::tmem::LANES {
                cx.m.tmem_write(&who, block, lane, at, &vec![0; columns as usize])?;
            }
        }
        cx.m.tmem(block).dealloc(at, columns).map_err(|e| misuse(cx, e))?;
        cx.m.wake(Key::Block(block));
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::TensorMemory
    }
}

/// `tcgen05.relinquish_alloc_permit`
#[derive(Debug)]
struct Relinquish;

impl Execute for Relinquish {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        cx.aligned()?;
        let block = cx.block;
        cx.m.tmem(block).relinquish();
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::TensorMemory
    }
}

/// `tcgen05.wait::ld`, `tcgen05.wait::st`
#[derive(Debug)]
struct Wait {
    stores: bool,
}

impl Execute for Wait {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        cx.aligned()?;
        let warp = cx.warp;
        let order = cx.warp_state::<Order>();
        let pending = order.pending(self.stores);
        if pending.completed < pending.issued {
            let what = if self.stores { "tcgen05 stores" } else { "tcgen05 loads" };
            let detail = format!("{} of {} complete", pending.completed, pending.issued);
            return Ok(cx.block_on(Key::Warp(warp), what, detail));
        }
        let (last, registers) = (pending.last, std::mem::take(&mut pending.registers));
        if let Some((agent, clock)) = last {
            order.own.raise(agent, clock);
            // Whoever this warp synchronises with also needs a fence to see it in tensor memory.
            cx.m.warps[warp].learn_parts(agent, clock);
        }
        registers.into_iter().for_each(|reg| cx.m.warps[warp].regs.release(reg));
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::TensorMemory
    }
}

/// `tcgen05.fence::before_thread_sync`, `tcgen05.fence::after_thread_sync`
#[derive(Debug)]
struct Fence {
    after: bool,
}

impl Execute for Fence {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let warp = cx.warp;
        if self.after {
            let known = Rc::clone(&cx.m.warps[warp].known);
            let order = cx.warp_state::<Order>();
            order.after.join(&known.tensor);
        } else {
            let own = cx.warp_state::<Order>().own.clone();
            let own = confined(cx, own);
            Rc::make_mut(&mut cx.m.warps[warp].known).tensor.join(&own);
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Fence
    }
}
