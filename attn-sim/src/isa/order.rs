//! Acquire and release by ordinary memory: what a warp's strong accesses and fences pass on to others.
//!
//! A release at an address leaves what the warp knows there; an acquire at the address takes it. A relaxed write behind a
//! fence releases what the fence saw, and a fence behind relaxed reads acquires what they met.

use super::Decoded;
use super::form::Form;
use crate::counters::Class;
use crate::machine::clock::{Agent, Knowledge};
use crate::machine::decode::Decode;
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::machine::{Context, Location, UnitState};
use crate::report::{Kind, Stop};

/// How strongly an access orders others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Nothing at all: an ordinary access.
    Weak,
    /// Indivisible, and never a race with its like.
    Relaxed,
    /// What the address's releases passed on is seen by what follows.
    Acquire,
    /// What comes before is passed on.
    Release,
    /// Both.
    AcquireRelease,
}

impl Order {
    /// Whether it takes what was released.
    pub(super) fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcquireRelease)
    }

    /// Whether it passes on what came before.
    pub(super) fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcquireRelease)
    }
}

/// Takes a scope, of which all are treated alike: nothing here is visible to fewer than all.
pub(super) fn scope(form: &mut Form<'_, '_>) -> bool {
    form.choice(&[("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())]).is_some()
}

/// What a warp's fences have seen, and what its relaxed reads have met since.
#[derive(Debug, Default)]
struct Fences {
    /// What the warp knew at its last fence, and of whose work its lanes knew different parts, from where on.
    released: Option<(Knowledge, Vec<(Agent, u32)>)>,
    met: Knowledge,
}

impl UnitState for Fences {}

/// A fence of memory (`fence.acq_rel`, `fence.sc`, `membar`) by this warp.
pub(super) fn fence(cx: &mut Context<'_>) {
    let met = std::mem::take(&mut cx.warp_state::<Fences>().met);
    cx.m.acquire(cx.warp, &met);
    let apart = cx.m.warps[cx.warp].apart().collect();
    let released = cx.m.release(cx.warp);
    cx.warp_state::<Fences>().released = Some(((*released).clone(), apart));
}

/// What relaxed arrivals and writes of some lanes pass on: what they knew at the warp's last fence.
pub(super) fn fenced(cx: &mut Context<'_>, lanes: u32) -> Option<Knowledge> {
    let whole = cx.m.warps[cx.warp].is_whole(lanes);
    let (mut known, apart) = cx.warp_state::<Fences>().released.clone()?;
    if !whole {
        apart.into_iter().for_each(|(agent, from)| known.confine(agent, from, lanes));
    }
    Some(known)
}

/// The generic address of a place that others may look at; none of local memory, parameters and constants.
fn shared_name(at: Location) -> Option<u64> {
    match at {
        Location::Global(addr) => Some(addr),
        // Blocks of all clusters in a machine are told apart by their index.
        Location::Shared { block, offset } => Some(Space::Shared.window() + ((block as u64) << 24 | u64::from(offset))),
        _ => None,
    }
}

/// A lane's strong write at a place.
pub(super) fn release(cx: &mut Context<'_>, lane: usize, at: Location, order: Order) {
    let Some(name) = shared_name(at) else { return };
    if order.releases() {
        let released = cx.m.release_of(cx.warp, 1 << lane);
        cx.m.released_at(name).join(&released);
    } else if let Some(fenced) = fenced(cx, 1 << lane) {
        cx.m.released_at(name).join(&fenced);
    }
}

/// A strong read at a place.
pub(super) fn acquire(cx: &mut Context<'_>, at: Location, order: Order) {
    let Some(name) = shared_name(at) else { return };
    let released = cx.m.released_at(name).clone();
    if order.acquires() {
        cx.m.acquire(cx.warp, &released);
    } else {
        cx.warp_state::<Fences>().met.join(&released);
    }
}

/// Reads a place without the checks of an ordinary access, as strong accesses do not race with each other.
pub(super) fn peek(cx: &mut Context<'_>, at: Location, out: &mut [u8]) -> Result<(), Stop> {
    let who = cx.actor();
    cx.m.check_bounds(&who, at, out.len())?;
    match at {
        Location::Global(addr) => {
            if let Some(missing) = cx.m.global.unwritten(addr, out.len()) {
                cx.report(Kind::Uninitialised, format!("global {missing:#x} was never written"));
            }
            cx.m.global.peek(addr, out);
            Ok(())
        }
        Location::Shared { block, offset } => {
            out.copy_from_slice(cx.m.blocks[block].shared.bytes(offset, out.len()));
            Ok(())
        }
        _ => cx.m.read(&who, at, out),
    }
}

/// Writes a place without the checks of an ordinary access.
pub(super) fn poke(cx: &mut Context<'_>, at: Location, bytes: &[u8]) -> Result<(), Stop> {
    let who = cx.actor();
    cx.m.check_bounds(&who, at, bytes.len())?;
    match at {
        Location::Global(addr) => {
            cx.m.global.poke(addr, bytes);
            Ok(())
        }
        Location::Shared { block, offset } => {
            let shared = &mut cx.m.blocks[block].shared;
            shared.bytes_mut(offset, bytes.len()).copy_from_slice(bytes);
            shared.set_written(offset, bytes.len());
            Ok(())
        }
        _ => cx.m.write(&who, at, bytes),
    }
}

/// `membar.{cta,gl,sys}`, `fence.{acq_rel,sc}.SCOPE` and their one-sided forms, which order no less.
pub(super) fn decode(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    if d.inst.opcode == "membar" {
        form.required("its level", &[("cta", ()), ("gl", ()), ("sys", ())])?;
    } else {
        let orders = [("acq_rel", ()), ("sc", ()), ("acquire", ()), ("release", ())];
        form.choice(&orders[..]);
        // Restricted to accesses of shared memory: what is ordered beyond them here is no less.
        form.skip(&["sync_restrict::shared::cta", "sync_restrict::shared::cluster"]);
        if !scope(&mut form) {
            return Err(d.unsupported("its scope is missing"));
        }
    }
    form.done(0..=0)?;
    Ok(Box::new(Fence))
}

#[derive(Debug)]
struct Fence;

impl Execute for Fence {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        fence(cx);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Fence
    }
}
