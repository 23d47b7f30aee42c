//! `mbarrier`: arrivals, transactions, waits.

use super::form::Form;
use crate::counters::Class;
use crate::machine::UnitState;
use crate::machine::clock::Lane;
use crate::machine::context::{Context, lanes};
use crate::machine::decode::{Addr, Decode, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::mbarrier::{At, Phase};
use crate::machine::memory::Space;
use crate::machine::wait::{Key, Wait};
use crate::mbarrier_state::{MbarrierState, Misuse, Token};
use crate::ptx::ScalarType;
use crate::report::{Kind, Stop, Unsupported};
use std::collections::BTreeMap;

/// Decodes an `mbarrier` instruction.
pub fn decode(d: &Decode) -> Result<Box<dyn Execute>, Unsupported> {
    let mut words = Form::new(d);
    words.expect("b64")?;
    let verb = words.one("an operation", |word| {
        ["init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx", "test_wait", "try_wait", "pending_count"]
            .into_iter()
            .find(|verb| *verb == word)
    });
    let op: Box<dyn Execute> = match verb? {
        "init" => {
            let space = words.shared_space();
            Box::new(Life { space, addr: d.address(0)?, count: Some(d.source(1, ScalarType::U32)?) })
        }
        "inval" => Box::new(Life { space: words.shared_space(), addr: d.address(0)?, count: None }),
        "arrive" => Box::new(arrive(d, &mut words, false)?),
        "arrive_drop" => Box::new(arrive(d, &mut words, true)?),
        // `mbarrier.arrive.expect_tx` has both words, and `arrive` comes first.
        verb @ ("expect_tx" | "complete_tx") => {
            words.relaxed("relaxed");
            let (space, addr) = (words.shared_space(), d.address(0)?);
            Box::new(Transaction { space, addr, bytes: d.source(1, ScalarType::U32)?, complete: verb == "complete_tx" })
        }
        "pending_count" => Box::new(PendingCount { dest: d.dest(0)?, state: d.source(1, ScalarType::B64)? }),
        verb => Box::new(wait(d, &mut words, verb == "try_wait")?),
    };
    words.end()?;
    Ok(op)
}

/// The mbarrier that a lane names.
pub(super) fn place(cx: &Context<'_>, lane: usize, space: Space, addr: u64) -> Result<At, Stop> {
    let (block, offset) = cx.shared_at(lane, space, addr)?;
    if !offset.is_multiple_of(8) {
        return Err(cx.fault(Kind::Misaligned, format!("the mbarrier at {offset:#x} is not a multiple of 8")));
    }
    cx.m.check_bounds(&cx.actor(), crate::machine::Location::Shared { block, offset }, 8)?;
    Ok((block, offset))
}

/// `mbarrier.init` and `mbarrier.inval`.
#[derive(Debug)]
struct Life {
    space: Space,
    addr: Addr,
    count: Option<Source>,
}

impl Execute for Life {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addrs = cx.addresses(&self.addr);
        let counts = self.count.map(|count| cx.u32(&count));
        // Lanes that initialise one mbarrier alike do so once, and each for itself: a warp often does it as a whole.
        let mut done = Vec::new();
        for lane in cx.lanes() {
            let initial = |lane: usize| counts.map(|counts| (addrs[lane], counts[lane]));
            if initial(lane).is_some_and(|initial| done.contains(&initial)) {
                continue;
            }
            done.extend(initial(lane));
            let alone = counts.is_none() || !cx.lanes().any(|other| other != lane && initial(other) == initial(lane));
            let by = if alone { Lane::One(lane as u8) } else { Lane::Any };
            let (at, who) = (place(cx, lane, self.space, addrs[lane])?, cx.actor_of(by));
            cx.m.warps[cx.warp].touched = who.clock;
            match counts {
                Some(counts) => {
                    let already = cx.m.blocks[at.0].mbarriers.contains_key(&at.1);
                    if !already {
                        cx.m.note_shared_write(&who, at.0, at.1, 8);
                    }
                    cx.m.mbarrier_init(&who, at, counts[lane])?;
                }
                None => cx.m.mbarrier_inval(&who, at)?,
            }
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Mbarrier
    }
}

/// `mbarrier.arrive` and `mbarrier.arrive_drop` in all forms.
#[derive(Debug)]
struct Arrive {
    dest: Option<Reg>,
    space: Space,
    addr: Addr,
    form: Arrival,
    /// Count of arrivals, or bytes to expect; 1 where it is not written.
    amount: Source,
    release: bool,
    drop: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Plain,
    NoComplete,
    ExpectTx,
}

fn arrive(d: &Decode, words: &mut Form, drop: bool) -> Result<Arrive, Unsupported> {
    let form = match (words.take("expect_tx"), words.take("noComplete")) {
        (true, _) => Arrival::ExpectTx,
        (false, true) => Arrival::NoComplete,
        (false, false) => Arrival::Plain,
    };
    // The destination may be left out altogether in the remote forms of old compilers.
    let first = usize::from(!matches!(d.operand(0)?, crate::ptx::Operand::Address(_)));
    let amount = match d.operands() > first + 1 {
        true => d.source(first + 1, ScalarType::U32)?,
        false if form == Arrival::Plain => Source::Imm(1),
        false => return Err(d.unsupported("without a count")),
    };
    let release = !words.relaxed("release");
    let dest = if first == 1 { d.dest(0)? } else { None };
    let space = words.shared_space();
    if space == Space::SharedCluster && dest.is_some() {
        return Err(d.unsupported("a state of an mbarrier in `.shared::cluster`"));
    }
    Ok(Arrive { dest, space, addr: d.address(first)?, form, amount, release, drop })
}

impl Arrive {
    fn change(&self, bar: &mut MbarrierState, amount: u32) -> Result<(Token, crate::mbarrier_state::Step), Misuse> {
        match (self.form, self.drop) {
            (Arrival::Plain, false) => bar.arrive(amount),
            (Arrival::ExpectTx, false) => bar.arrive_expect_tx(amount),
            (Arrival::NoComplete, false) => Ok((bar.arrive_no_complete(amount)?, crate::mbarrier_state::Step::Pending)),
            (Arrival::Plain, true) => bar.arrive_drop(amount, false),
            (Arrival::ExpectTx, true) => bar.arrive_drop_expect_tx(amount),
            (Arrival::NoComplete, true) => bar.arrive_drop(amount, true),
        }
    }
}

impl Execute for Arrive {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (addrs, amounts) = (cx.addresses(&self.addr), cx.u32(&self.amount));
        let (mask, mut who) = (cx.mask, cx.actor());
        // Lanes that arrive at one mbarrier release together what each of them knows.
        let together = lanes(mask).all(|lane| addrs[lane] == addrs[cx.first_lane()]);
        let mut released = None;
        let mut states = [0; 32];
        for lane in lanes(mask) {
            let at = place(cx, lane, self.space, addrs[lane])?;
            if self.release && !(together && released.is_some()) {
                released = Some(cx.m.release_of(cx.warp, if together { mask } else { 1 << lane }));
            }
            let known = released.as_deref();
            who.lane = Lane::One(lane as u8);
            let token = cx.m.mbarrier_change(&who, at, known, |bar| self.change(bar, amounts[lane]))?;
            states[lane] = token.0;
        }
        cx.set_u64(self.dest, &states);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Mbarrier
    }
}

/// `mbarrier.expect_tx` and `mbarrier.complete_tx`.
#[derive(Debug)]
struct Transaction {
    space: Space,
    addr: Addr,
    bytes: Source,
    complete: bool,
}

impl Execute for Transaction {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (addrs, bytes) = (cx.addresses(&self.addr), cx.u32(&self.bytes));
        for lane in cx.lanes() {
            let (at, who) = (place(cx, lane, self.space, addrs[lane])?, cx.actor_of(Lane::One(lane as u8)));
            cx.m.mbarrier_change(&who, at, None, |bar| {
                let step = if self.complete { bar.complete_tx(bytes[lane])? } else { bar.expect_tx(bytes[lane])? };
                Ok(((), step))
            })?;
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Mbarrier
    }
}

/// `mbarrier.pending_count`.
#[derive(Debug)]
struct PendingCount {
    dest: Option<Reg>,
    state: Source,
}

impl Execute for PendingCount {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let counts = cx.u64(&self.state).map(|state| Token(state).pending_count());
        cx.set_u32(self.dest, &counts);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Mbarrier
    }
}

/// `mbarrier.test_wait` and `mbarrier.try_wait`.
#[derive(Debug)]
struct WaitFor {
    dest: Option<Reg>,
    space: Space,
    addr: Addr,
    phase: Source,
    parity: bool,
    acquire: bool,
    suspends: bool,
}

fn wait(d: &Decode, words: &mut Form, suspends: bool) -> Result<WaitFor, Unsupported> {
    let parity = words.take("parity");
    let acquire = !words.relaxed("acquire");
    let space = words.shared_space();
    if space == Space::SharedCluster {
        return Err(d.unsupported("a wait on another block's mbarrier"));
    }
    // A fourth operand is the time after which try_wait gives up: a hint.
    let phase = d.source(2, if parity { ScalarType::U32 } else { ScalarType::B64 })?;
    Ok(WaitFor { dest: d.dest(0)?, space, addr: d.address(1)?, phase, parity, acquire, suspends })
}

/// A warp's waits, by mbarrier.
#[derive(Default)]
struct Waits {
    /// Phases found incomplete: the warp will ask for them again.
    asked: BTreeMap<At, u64>,
    /// The last phase that a wait passed for, and whether one had passed for the phase before it too.
    passed: BTreeMap<At, (u64, bool)>,
}

impl UnitState for Waits {}

impl Waits {
    /// The phase that a wait by parity is for, where the warp has waited for one phase after the other so far.
    fn meant(&self, at: At, parity: bool) -> Option<u64> {
        let (last, in_turn) = *self.passed.get(&at)?;
        (in_turn && (last + 1) % 2 == u64::from(parity)).then_some(last + 1)
    }

    /// A wait has passed while phase `now` is in progress.
    fn pass(&mut self, at: At, now: u64) {
        self.asked.remove(&at);
        let Some(phase) = now.checked_sub(1) else { return };
        let before = self.passed.get(&at).copied();
        let in_turn = before.is_some_and(|(last, in_turn)| last + 1 == phase || last == phase && in_turn);
        self.passed.insert(at, (phase, in_turn));
    }
}

impl WaitFor {
    /// Whether a phase is complete, which some lanes ask for. Asking for one that hardware cannot tell from another by now is
    /// reported.
    fn complete(&self, cx: &mut Context<'_>, lanes: u32, at: At, phase: Phase) -> Result<bool, Stop> {
        let who = cx.actor_of(Lane::of_mask(lanes));
        let done = cx.m.mbarrier_test(&who, at, phase, self.acquire)?;
        let state = cx.m.mbarrier(&who, at)?.state;
        let now = state.phase();
        let waits = cx.warp_state::<Waits>();
        let (asked, meant) = match phase {
            Phase::Parity(parity) => (waits.asked.get(&at).copied(), waits.meant(at, parity)),
            Phase::State(_) => (None, None),
        };
        if done {
            waits.pass(at, now);
        } else {
            waits.asked.insert(at, now);
        }
        let again = asked.filter(|&asked| !done && state.wait_again(asked).is_err());
        // Two more phases have ended since, and parities are those of before.
        let late = meant.filter(|meant| now > meant + 1);
        if let Some(target) = again.or(late) {
            let misuse = Misuse::Overtaken { target, phase: now };
            cx.report(Kind::Mbarrier, format!("the mbarrier at {:#x}: {misuse}", at.1));
        }
        Ok(done)
    }

    fn words(&self, at: At, phase: Phase) -> String {
        match phase {
            Phase::Parity(parity) => format!("at {:#x}, parity {}", at.1, u32::from(parity)),
            Phase::State(token) => format!("at {:#x}, phase {}", at.1, token.phase()),
        }
    }
}

impl Execute for WaitFor {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (addrs, phases) = (cx.addresses(&self.addr), cx.u64(&self.phase));
        // Lanes mostly ask the same.
        let mut asked: Vec<(At, Phase, u32)> = Vec::new();
        for lane in cx.lanes() {
            let at = place(cx, lane, self.space, addrs[lane])?;
            let phase = match self.parity {
                true => Phase::Parity(phases[lane] & 1 == 1),
                false => Phase::State(Token(phases[lane])),
            };
            match asked.iter_mut().find(|(a, p, _)| (*a, *p) == (at, phase)) {
                Some((.., lanes)) => *lanes |= 1 << lane,
                None => asked.push((at, phase, 1 << lane)),
            }
        }
        let mut done = 0;
        for &(at, phase, lanes) in &asked {
            if self.complete(cx, lanes, at, phase)? {
                done |= lanes;
            }
        }
        // Hardware too gives up at times: code that does not ask again must show.
        let gives_up = cx.timed_out || !cx.resumed && cx.m.one_in(3);
        if done == 0 && self.suspends && !gives_up {
            let (at, phase, _) = asked[0];
            let (key, detail) = (Key::Mbarrier(at.0, at.1), self.words(at, phase));
            return Ok(Step::Block(Wait { key, what: "mbarrier", detail, gives_up: true }));
        }
        cx.set_pred(self.dest, done);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Mbarrier
    }
}
