//! `bar` and `barrier`: the named barriers of a block.

use super::Decoded;
use super::form::Form;
use crate::barrier_state::{Arrival, NamedBarriers, Reduced, Round, WARP};
use crate::counters::Class;
use crate::machine::clock::Knowledge;
use crate::machine::decode::{Decode, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::wait::Key;
use crate::machine::{Context, UnitState};
use crate::ptx::ScalarType;
use crate::report::{Kind, Stop};
use std::collections::BTreeMap;

/// Decodes `bar` and `barrier`.
pub fn decode(d: &Decode) -> Decoded {
    let mut words = Form::new(d);
    if words.take("cluster") {
        return super::cluster::decode_barrier(d, words);
    }
    words.skip(&["cta"]);
    let aligned = words.take("aligned") || d.inst.opcode == "bar";
    let verb = words.one("an operation", |word| ["sync", "arrive", "red"].into_iter().find(|verb| *verb == word))?;
    let reduce = match verb {
        "red" => Some(words.one("the reduction", |word| match word {
            "popc" => Some(Reduction::Popc),
            "and" => Some(Reduction::And),
            "or" => Some(Reduction::Or),
            _ => None,
        })?),
        _ => None,
    };
    words.skip(&["u32", "pred"]);
    words.end()?;
    // `d, a{, b}, p` of a reduction, `a{, b}` otherwise.
    let first = usize::from(reduce.is_some());
    let inputs = d.operands() - 2 * first;
    let dest = if reduce.is_some() { d.dest(0)? } else { None };
    let predicate = if reduce.is_some() { Some(d.pred(d.operands() - 1)?) } else { None };
    let threads = if inputs > 1 { Some(d.source(first + 1, ScalarType::U32)?) } else { None };
    if verb == "arrive" && threads.is_none() {
        return Err(d.unsupported("an arrival without a number of threads"));
    }
    let index = d.source(first, ScalarType::U32)?;
    Ok(Box::new(Barrier { index, threads, aligned, waits: verb != "arrive", reduce, dest, predicate }))
}

#[derive(Clone, Copy, Debug)]
enum Reduction {
    Popc,
    And,
    Or,
}

/// A named barrier's instruction.
#[derive(Debug)]
struct Barrier {
    index: Source,
    /// Threads of the round; all of the block where it is not written.
    threads: Option<Source>,
    aligned: bool,
    waits: bool,
    reduce: Option<Reduction>,
    dest: Option<Reg>,
    predicate: Option<Source>,
}

/// The named barriers of a block, and what their rounds leave for those who wait.
#[derive(Default)]
struct Named {
    barriers: NamedBarriers,
    gathering: BTreeMap<u32, Gathering>,
    ended: BTreeMap<(u32, u64), Ended>,
}

impl UnitState for Named {}

/// A round in progress.
#[derive(Default)]
struct Gathering {
    known: Knowledge,
    waiters: u32,
}

/// A round that has ended, as long as somebody has to hear of it.
struct Ended {
    known: Knowledge,
    reduced: Reduced,
    waiters: u32,
}

impl Named {
    fn end(&mut self, index: u32, round: Round) {
        let Gathering { known, waiters } = self.gathering.remove(&index).unwrap_or_default();
        if waiters > 0 {
            self.ended.insert((index, round.number), Ended { known, reduced: round.reduced, waiters });
        }
    }

    /// What a round left, for one of those who wait for it.
    fn hear(&mut self, index: u32, round: u64) -> Option<(Knowledge, Reduced)> {
        let ended = self.ended.get_mut(&(index, round))?;
        ended.waiters -= 1;
        let heard = (ended.known.clone(), ended.reduced);
        if ended.waiters == 0 {
            self.ended.remove(&(index, round));
        }
        Some(heard)
    }
}

/// The instruction at which a warp waits, with barrier and round.
#[derive(Default)]
struct Waiting(Option<(u32, u32, u64)>);

impl UnitState for Waiting {}

impl Barrier {
    fn threads(&self, cx: &mut Context<'_>) -> Result<u32, Stop> {
        match &self.threads {
            Some(threads) => Ok(cx.uniform(threads, "the number of threads")? as u32),
            // Warps that have ended are not waited for.
            None => Ok(cx.m.blocks[cx.block].live * WARP),
        }
    }

    /// Where nothing says how many threads take part, warps that have ended since are not waited for.
    fn shrink(&self, cx: &mut Context<'_>, index: u32) {
        if self.threads.is_none() && index < crate::barrier_state::BARRIERS {
            let threads = cx.m.blocks[cx.block].live * WARP;
            let named = cx.block_state::<Named>();
            if let Some(round) = named.barriers.shrink(index, threads) {
                named.end(index, round);
                let key = Key::Barrier(cx.block, index);
                cx.m.wake(key);
            }
        }
    }

    fn arrive(&self, cx: &mut Context<'_>) -> Result<(u32, u64), Stop> {
        let index = cx.uniform(&self.index, "the barrier's number")? as u32;
        let threads = self.threads(cx)?;
        let ones = self.predicate.map(|p| cx.pred(&p).count_ones());
        let arrival = match ones {
            Some(ones) => Arrival::Reduce { ones, threads: cx.mask.count_ones() },
            None if self.waits => Arrival::Sync,
            None => Arrival::Arrive,
        };
        self.shrink(cx, index);
        let released = cx.m.release(cx.warp);
        let (warp, waits) = (cx.m.warps[cx.warp].index, self.waits);
        let named = cx.block_state::<Named>();
        let round = match named.barriers.arrive(index, warp, threads, arrival) {
            Ok(ended) => {
                let gathering = named.gathering.entry(index).or_default();
                gathering.known.join(&released);
                gathering.waiters += u32::from(waits);
                ended
            }
            Err(misuse) => return Err(cx.fault(Kind::Barrier, misuse.to_string())),
        };
        let Some(round) = round else { return Ok((index, cx.block_state::<Named>().barriers.round(index))) };
        let number = round.number;
        cx.block_state::<Named>().end(index, round);
        cx.m.wake(Key::Barrier(cx.block, index));
        Ok((index, number))
    }

    /// Goes on, if the round has ended.
    fn hear(&self, cx: &mut Context<'_>, index: u32, round: u64) -> Step {
        self.shrink(cx, index);
        let named = cx.block_state::<Named>();
        let Some((known, reduced)) = named.hear(index, round) else {
            let detail = named.barriers.missing(index);
            let op = cx.op;
            cx.warp_state::<Waiting>().0 = Some((op, index, round));
            return cx.block_on(Key::Barrier(cx.block, index), "named barrier", detail);
        };
        cx.warp_state::<Waiting>().0 = None;
        let warp = cx.warp;
        cx.m.acquire(warp, &known);
        match self.reduce {
            Some(Reduction::Popc) => cx.set_u32(self.dest, &[reduced.ones; 32]),
            Some(Reduction::And) => cx.set_pred(self.dest, if reduced.all() { u32::MAX } else { 0 }),
            Some(Reduction::Or) => cx.set_pred(self.dest, if reduced.any() { u32::MAX } else { 0 }),
            None => {}
        }
        Step::Next
    }
}

impl Execute for Barrier {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        if self.aligned {
            cx.aligned()?;
        } else if cx.mask != cx.live() {
            // The warp counts once all its lanes are here, at this barrier instruction or another.
            return Ok(Step::Gather { members: cx.live(), anywhere: true });
        }
        let op = cx.op;
        if let Some((at, index, round)) = cx.warp_state::<Waiting>().0
            && at == op
        {
            return Ok(self.hear(cx, index, round));
        }
        let (index, round) = self.arrive(cx)?;
        if self.waits { Ok(self.hear(cx, index, round)) } else { Ok(Step::Next) }
    }

    fn class(&self) -> Class {
        Class::Barrier
    }
}
