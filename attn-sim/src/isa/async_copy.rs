//! `cp`: the copies of each thread from global to shared memory (`cp.async`), and the way to bulk and tensor copies.

use super::Decoded;
use super::form::Form;
use super::groups::{Groups, Part};
use super::mbarrier;
use crate::counters::Class;
use crate::machine::clock::{Actor, Lane, Proxy};
use crate::machine::decode::{Addr, Decode, Source};
use crate::machine::events::Unit;
use crate::machine::execute::{Execute, Step};
use crate::machine::mbarrier::At;
use crate::machine::memory::Space;
use crate::machine::wait::Key;
use crate::machine::{Context, Location, Machine, Stream, UnitState};
use crate::mbarrier_state;
use crate::ptx::ScalarType;
use crate::report::{Kind, Stop};

/// Decodes `cp`.
pub fn decode(d: &Decode) -> Decoded {
    let mut words = Form::new(d);
    words.expect("async")?;
    if words.take("bulk") {
        return match words.take("tensor") {
            true => super::tma::decode(d, words),
            false => super::bulk::decode(d, words),
        };
    }
    if words.take("commit_group") {
        words.end()?;
        return Ok(Box::new(Commit));
    }
    if words.take("wait_all") {
        words.end()?;
        return Ok(Box::new(Wait(None)));
    }
    if words.take("wait_group") {
        words.end()?;
        return Ok(Box::new(Wait(Some(d.int(0)? as u64))));
    }
    if words.take("mbarrier") {
        words.expect("arrive")?;
        words.expect("b64")?;
        let (counted, space) = (words.take("noinc"), words.shared_space());
        words.end()?;
        return Ok(Box::new(Arrive { space, addr: d.address(0)?, counted }));
    }
    copy(d, words)
}

fn copy(d: &Decode, mut words: Form) -> Decoded {
    let wide_only = words.take("cg");
    if !wide_only {
        words.expect("ca")?;
    }
    words.expect("global")?;
    words.shared_space();
    let hint = d.has("L2::cache_hint");
    words.skip(&[]);
    words.end()?;
    let bytes = d.int(2)?;
    if !matches!((bytes, wide_only), (4 | 8, false) | (16, _)) {
        return Err(d.unsupported(format!("a copy of {bytes} bytes")));
    }
    let rest = d.operands() - 3 - usize::from(hint);
    let taken = match rest {
        0 => Taken::All,
        _ => match d.source(3, ScalarType::U32)? {
            Source::Reg(reg) if reg.is_pred() => Taken::Unless(Source::Reg(reg)),
            not @ Source::NotPred(_) => Taken::Unless(not),
            size => Taken::Bytes(size),
        },
    };
    Ok(Box::new(Copy { to: d.address(0)?, from: d.address(1)?, bytes: bytes as usize, taken }))
}

/// How much of the source is read; the rest is zero.
#[derive(Clone, Copy, Debug)]
enum Taken {
    All,
    Bytes(Source),
    /// `ignore-src`: nothing where the predicate is true.
    Unless(Source),
}

/// `cp.async`.
#[derive(Debug)]
struct Copy {
    to: Addr,
    from: Addr,
    bytes: usize,
    taken: Taken,
}

/// Groups of a warp's copies.
#[derive(Default)]
struct CopyGroups {
    groups: Groups,
    /// Arrivals that come when the copies of a lane are done.
    arrivals: Vec<(usize, At, Actor)>,
}

impl UnitState for CopyGroups {
    fn at_exit(&self) -> Option<(Kind, String)> {
        self.groups.uncovered(Part::Writes).filter(|lane| self.groups.writing(*lane)).map(|lane| {
            (Kind::OutstandingAtExit, format!("lane {lane} ends, and its asynchronous copies are under way"))
        })
    }
}

impl Execute for Copy {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (to, from) = (cx.addresses(&self.to), cx.addresses(&self.from));
        let sizes = match &self.taken {
            Taken::All => [self.bytes as u32; 32],
            Taken::Bytes(size) => cx.u32(size),
            Taken::Unless(pred) => {
                let ignored = cx.pred(pred);
                std::array::from_fn(|lane| if ignored >> lane & 1 == 1 { 0 } else { self.bytes as u32 })
            }
        };
        let who = cx.begin(Stream::Warp(cx.warp, "cp.async"), Proxy::Generic, false);
        let mut moves = Vec::new();
        for lane in cx.lanes() {
            let target = cx.locate(lane, Space::Shared, to[lane])?;
            let source = cx.locate(lane, Space::Global, from[lane])?;
            cx.m.check_aligned(&who, target, self.bytes as u64)?;
            cx.m.check_aligned(&who, source, self.bytes as u64)?;
            if sizes[lane] as usize > self.bytes {
                let message = format!("{} bytes of the source for {} bytes", sizes[lane], self.bytes);
                return Err(cx.fault(Kind::Operand, message));
            }
            let group = cx.warp_state::<CopyGroups>().groups.issue(lane, None, &who);
            moves.push((lane, target, source, sizes[lane] as usize, group));
        }
        let (warp, bytes) = (cx.warp, self.bytes);
        cx.schedule(Unit::Store, None, move |m: &mut Machine| {
            m.count_bytes("cp.async", (bytes * moves.len()) as u64);
            for (lane, target, source, size, group) in moves {
                let who = Actor { lane: Lane::One(lane as u8), ..who.clone() };
                let mut data = [0; 16];
                if size > 0 {
                    m.read(&who, source, &mut data[..size])?;
                }
                m.write(&who, target, &data[..bytes])?;
                done(m, warp, lane, group)?;
            }
            m.wake(Key::Warp(warp));
            Ok(())
        });
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}

/// A lane's copy is done: arrivals that waited for it come.
fn done(m: &mut Machine, warp: usize, lane: usize, group: u64) -> Result<(), Stop> {
    if m.warps[warp].live == 0 {
        return Ok(());
    }
    let state = m.warps[warp].states.get::<CopyGroups>();
    state.groups.finish(lane, group, Part::Writes);
    if state.groups.writing(lane) {
        return Ok(());
    }
    let (now, later) = std::mem::take(&mut state.arrivals).into_iter().partition(|(of, ..)| *of == lane);
    state.arrivals = later;
    let now: Vec<(usize, At, Actor)> = now;
    now.into_iter().try_for_each(|(_, at, who)| m.mbarrier_lane_arrive(&who, lane, at))
}

/// `cp.async.commit_group`.
#[derive(Debug)]
struct Commit;

impl Execute for Commit {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let mask = cx.mask;
        cx.warp_state::<CopyGroups>().groups.commit(mask);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}

/// `cp.async.wait_group`, or with none `cp.async.wait_all`.
#[derive(Debug)]
struct Wait(Option<u64>);

impl Execute for Wait {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (mask, warp) = (cx.mask, cx.warp);
        let groups = &mut cx.warp_state::<CopyGroups>().groups;
        let observed = match self.0 {
            Some(pending) => groups.wait(mask, pending, Part::Writes),
            None => groups.wait_all(mask),
        };
        let Some(observed) = observed else {
            return Ok(cx.block_on(Key::Warp(warp), "asynchronous copies", "of this warp"));
        };
        observed.into_iter().for_each(|(agent, clock)| cx.m.warps[warp].learn_parts(agent, clock));
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}

/// `cp.async.mbarrier.arrive`: an arrival once the thread's copies so far are done.
#[derive(Debug)]
struct Arrive {
    space: Space,
    addr: Addr,
    /// `.noinc`: the arrival is among those the mbarrier was made for.
    counted: bool,
}

impl Execute for Arrive {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addrs = cx.addresses(&self.addr);
        for lane in cx.lanes() {
            let at = mbarrier::place(cx, lane, self.space, addrs[lane])?;
            if matches!(cx.locate(lane, self.space, addrs[lane])?, Location::Shared { block, .. } if block != cx.block)
            {
                return Err(cx.fault(Kind::Operand, "the mbarrier is in another block"));
            }
            let issuer = cx.actor_of(Lane::One(lane as u8));
            if !self.counted {
                cx.m.mbarrier_change(&issuer, at, None, |bar| {
                    bar.increment_pending()?;
                    Ok(((), mbarrier_state::Step::Pending))
                })?;
            }
            // The arrival releases the lane's copies so far: it is the last of their stream.
            let who = cx.begin(Stream::Warp(cx.warp, "cp.async"), Proxy::Generic, true);
            let state = cx.warp_state::<CopyGroups>();
            if state.groups.writing(lane) {
                state.arrivals.push((lane, at, who));
            } else {
                cx.m.mbarrier_lane_arrive(&who, lane, at)?;
            }
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Mbarrier
    }
}
