//! `cp.async.bulk`: copies of contiguous bytes, and the groups that stores of all kinds are waited for by.

use super::Decoded;
use super::form::Form;
use super::groups::{Groups, Part};
use super::mbarrier;
use crate::counters::Class;
use crate::machine::clock::{Actor, Proxy};
use crate::machine::context::lanes;
use crate::machine::decode::{Addr, Decode, Source};
use crate::machine::events::Unit;
use crate::machine::execute::{Execute, Step};
use crate::machine::mbarrier::At;
use crate::machine::memory::Space;
use crate::machine::wait::Key;
use crate::machine::{Context, Location, Machine, Stream, UnitState};
use crate::ptx::ScalarType;
use crate::reduction::{self, ReduceOp};
use crate::report::{Kind, Stop, Unsupported};

/// What a store does with bytes of global memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Replaces them.
    Write,
    /// Replaces those whose number within 16 has its bit set.
    Masked(u16),
    /// Combines elements.
    Reduce { op: ReduceOp, ty: ScalarType, ftz: bool },
}

/// A store from shared to global memory.
pub(super) struct StoreJob {
    /// The block whose shared memory is read.
    pub block: usize,
    /// Shared offset, global address, bytes.
    pub pieces: Vec<(u32, u64, u32)>,
    pub effect: Effect,
    /// Name of the count of its bytes.
    pub unit: &'static str,
}

/// Groups of a warp's bulk stores.
#[derive(Default)]
struct BulkGroups(Groups);

impl UnitState for BulkGroups {
    fn at_exit(&self) -> Option<(Kind, String)> {
        self.0.uncovered(Part::Reads).map(|lane| {
            let message = format!("lane {lane} ends, and no wait has covered its bulk stores' reads of shared memory");
            (Kind::OutstandingAtExit, message)
        })
    }
}

/// The two sides of a store, which are waited for apart.
pub(super) struct Actors {
    pub reads: Actor,
    pub writes: Actor,
}

pub(super) fn begin(cx: &mut Context<'_>) -> Actors {
    Actors {
        reads: cx.begin(Stream::Warp(cx.warp, "bulk store reads"), Proxy::Async, false),
        writes: cx.begin(Stream::Warp(cx.warp, "bulk store writes"), Proxy::Async, false),
    }
}

/// Lanes that ask for the same, in the order of the first of each. A store that several lanes of a warp ask for comes to one:
/// the same bytes go to the same place, and the assembler makes one instruction of it. (Not so a reduction, or a load, whose
/// bytes count at an mbarrier.)
pub(super) fn alike<T: PartialEq>(asked: impl IntoIterator<Item = (usize, T)>) -> Vec<(u32, T)> {
    let mut all: Vec<(u32, T)> = Vec::new();
    for (lane, what) in asked {
        match all.iter_mut().find(|(_, known)| *known == what) {
            Some((mask, _)) => *mask |= 1 << lane,
            None => all.push((1 << lane, what)),
        }
    }
    all
}

/// Hands a store to the copy unit, in the open groups of lanes.
pub(super) fn issue(cx: &mut Context<'_>, mask: u32, actors: Actors, job: StoreJob) {
    let state = &mut cx.warp_state::<BulkGroups>().0;
    let groups: Vec<(usize, u64)> =
        lanes(mask).map(|lane| (lane, state.issue(lane, Some(&actors.reads), &actors.writes))).collect();
    let warp = cx.warp;
    cx.schedule(Unit::Copy, None, move |m| {
        let mut data = Vec::with_capacity(job.pieces.len());
        for &(offset, addr, len) in &job.pieces {
            let mut bytes = vec![0; len as usize];
            m.read(&actors.reads, Location::Shared { block: job.block, offset }, &mut bytes)?;
            data.push((addr, bytes));
        }
        finish(m, warp, &groups, Part::Reads);
        m.schedule(Unit::Copy, None, move |m| {
            for (addr, bytes) in &data {
                apply(m, &actors.writes, *addr, bytes, job.effect)?;
                m.count_bytes(job.unit, bytes.len() as u64);
            }
            finish(m, warp, &groups, Part::Writes);
            Ok(())
        });
        Ok(())
    });
}

fn finish(m: &mut Machine, warp: usize, groups: &[(usize, u64)], part: Part) {
    // Nobody waits for the copies of a warp that has ended.
    if m.warps[warp].live != 0 {
        let state = &mut m.warps[warp].states.get::<BulkGroups>().0;
        groups.iter().for_each(|&(lane, group)| state.finish(lane, group, part));
        m.wake(Key::Warp(warp));
    }
}

/// Lets bytes take effect on global memory.
fn apply(m: &mut Machine, who: &Actor, addr: u64, bytes: &[u8], effect: Effect) -> Result<(), Stop> {
    match effect {
        Effect::Write => m.write(who, Location::Global(addr), bytes),
        Effect::Masked(mask) => {
            let kept = (0..bytes.len()).filter(|i| mask >> (i % 16) & 1 == 1);
            kept.into_iter().try_for_each(|i| m.write(who, Location::Global(addr + i as u64), &bytes[i..=i]))
        }
        Effect::Reduce { op, ty, ftz } => reduce(m, who, Location::Global(addr), bytes, (op, ty, ftz)),
    }
}

/// Combines elements with those in memory, each in one step that cannot be divided.
pub(super) fn reduce(
    m: &mut Machine,
    who: &Actor,
    at: Location,
    bytes: &[u8],
    (op, ty, ftz): (ReduceOp, ScalarType, bool),
) -> Result<(), Stop> {
    m.check_bounds(who, at, bytes.len())?;
    let size = ty.bytes() as usize;
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    let mut old = vec![0; bytes.len()];
    match at {
        Location::Global(addr) => {
            if let Some(missing) = m.global.unwritten(addr, bytes.len()) {
                m.report(who, Kind::Uninitialised, format!("global {missing:#x} was never written"), None);
            }
            m.global.peek(addr, &mut old);
        }
        Location::Shared { block, offset } => old.copy_from_slice(m.blocks[block].shared.bytes(offset, bytes.len())),
        _ => return Err(m.fault(who, Kind::OutOfBounds, format!("{at} cannot be reduced"))),
    }
    for (old, operand) in old.chunks_exact_mut(size).zip(bytes.chunks_exact(size)) {
        let Some(new) = reduction::apply(op, ty, ftz, word(old), word(operand)) else {
            return Err(m.fault(who, Kind::Operand, format!("{op:?} of {ty}")));
        };
        old.copy_from_slice(&new.to_le_bytes()[..size]);
    }
    match at {
        Location::Global(addr) => m.global.poke(addr, &old),
        Location::Shared { block, offset } => {
            m.blocks[block].shared.bytes_mut(offset, old.len()).copy_from_slice(&old);
            m.blocks[block].shared.set_written(offset, old.len());
        }
        _ => {}
    }
    Ok(())
}

/// Whether the block that a copy writes to has ended, which is reported.
pub(super) fn too_late(m: &mut Machine, who: &Actor, block: usize) -> bool {
    let ended = m.blocks[block].live == 0;
    if ended {
        let rank = m.blocks[block].rank;
        let message = format!("the copy reaches shared memory of the block of rank {rank} after its end");
        m.report(who, Kind::OutstandingAtExit, message, None);
    }
    ended
}

/// Decodes `cp{.reduce}.async.bulk` without `tensor`, whose words up to there are taken but for `reduce`.
pub(super) fn decode(d: &Decode, mut words: Form) -> Decoded {
    if words.take("commit_group") {
        words.end()?;
        return Ok(Box::new(Commit));
    }
    if words.take("wait_group") {
        let part = if words.take("read") { Part::Reads } else { Part::Writes };
        words.end()?;
        return Ok(Box::new(Wait { pending: d.int(0)? as u64, part }));
    }
    if words.take("prefetch") {
        words.skip(&["L2", "global"]);
        words.end()?;
        return Ok(Box::new(super::grid::Nothing(Class::Copy)));
    }
    let reduce = reduction_of(d, &mut words)?;
    let size = d.source(2, ScalarType::U32)?;
    let (a, b) = (d.address(0)?, d.address(1)?);
    let op: Box<dyn Execute> = if words.take("bulk_group") {
        words.expect("global")?;
        words.shared_space();
        let masked = words.take("cp_mask");
        let last = d.operands() - 1;
        let mask = if masked { Some(d.source(last, ScalarType::U16)?) } else { None };
        words.skip(&[]);
        Box::new(Store { to: a, from: b, size, reduce, mask })
    } else {
        words.expect("mbarrier::complete_tx::bytes")?;
        // The destination's space comes first.
        let space = words.shared_space();
        let from = if words.take("global") { Space::Global } else { words.shared_space() };
        let multicast = words.take("multicast::cluster");
        words.skip(&[]);
        let mask = if multicast { Some(d.source(4, ScalarType::U16)?) } else { None };
        Box::new(Load { space, to: a, from_space: from, from: b, size, bar: d.address(3)?, mask, reduce })
    };
    words.end()?;
    Ok(op)
}

/// Operation and element type.
fn reduction_of(d: &Decode, words: &mut Form) -> Result<Option<(ReduceOp, ScalarType)>, Unsupported> {
    if !words.take("reduce") {
        return Ok(None);
    }
    let op = words.one("the operation", ReduceOp::parse)?;
    let ty = words.one("the element type", ScalarType::parse)?;
    // `.add.f32` is described as flushing subnormals without it, and as recorded on an H100 keeps them.
    words.skip(&["noftz"]);
    if reduction::apply(op, ty, false, 0, 0).is_none() {
        return Err(d.unsupported(format!("{op:?} of {ty}")));
    }
    Ok(Some((op, ty)))
}

/// A lane's size and addresses, which must be multiples of 16.
fn check_multiples(cx: &Context<'_>, values: [(&str, u64); 3]) -> Result<(), Stop> {
    match values.into_iter().find(|(_, value)| !value.is_multiple_of(16)) {
        None => Ok(()),
        Some((what, value)) => Err(cx.fault(Kind::Misaligned, format!("{what} {value:#x} is not a multiple of 16"))),
    }
}

/// A copy or reduction to shared memory, which completes on an mbarrier.
#[derive(Debug)]
struct Load {
    space: Space,
    to: Addr,
    from_space: Space,
    from: Addr,
    size: Source,
    bar: Addr,
    mask: Option<Source>,
    reduce: Option<(ReduceOp, ScalarType)>,
}

impl Execute for Load {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (to, from) = (cx.addresses(&self.to), cx.addresses(&self.from));
        let (bars, sizes) = (cx.addresses(&self.bar), cx.u32(&self.size));
        let masks = self.mask.as_ref().map(|mask| cx.u32(mask));
        for lane in cx.lanes() {
            let (block, offset) = cx.shared_at(lane, self.space, to[lane])?;
            let bar = mbarrier::place(cx, lane, self.space, bars[lane])?;
            let source = cx.locate(lane, self.from_space, from[lane])?;
            let size = sizes[lane];
            check_multiples(cx, [("destination", offset.into()), ("source", from[lane]), ("size", size.into())])?;
            let mask = masks.map(|masks| masks[lane] & 0xffff);
            for (block, bar) in super::tma::targets(cx, block, bar, mask, false)? {
                let who = cx.begin(Stream::Mbarrier(bar.0, bar.1), Proxy::Async, false);
                cx.m.mbarrier_for_unit(&who, lane, bar)?;
                let (to, reduce) = (Location::Shared { block, offset }, self.reduce);
                cx.schedule(Unit::Copy, None, move |m| land(m, &who, source, to, size, bar, reduce));
            }
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}

/// The bytes of a copy reach shared memory, and its mbarrier is told.
fn land(
    m: &mut Machine,
    who: &Actor,
    from: Location,
    to: Location,
    size: u32,
    bar: At,
    reduce: Option<(ReduceOp, ScalarType)>,
) -> Result<(), Stop> {
    if let Location::Shared { block, .. } = to
        && too_late(m, who, block)
    {
        return Ok(());
    }
    let mut bytes = vec![0; size as usize];
    m.read(who, from, &mut bytes)?;
    match reduce {
        None => m.write(who, to, &bytes)?,
        Some((op, ty)) => self::reduce(m, who, to, &bytes, (op, ty, false))?,
    }
    m.count_bytes("bulk load", u64::from(size));
    m.mbarrier_complete_tx(who, bar, size)
}

/// A copy or reduction from shared to global memory.
#[derive(Debug)]
struct Store {
    to: Addr,
    from: Addr,
    size: Source,
    reduce: Option<(ReduceOp, ScalarType)>,
    mask: Option<Source>,
}

impl Execute for Store {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (to, from, sizes) = (cx.addresses(&self.to), cx.addresses(&self.from), cx.u32(&self.size));
        let masks = self.mask.as_ref().map(|mask| cx.u32(mask));
        let apart = self.reduce.is_some();
        let of = |lane: usize| (to[lane], from[lane], sizes[lane], masks.map(|m| m[lane]), apart.then_some(lane));
        for (same, (to, from, size, mask, _)) in alike(cx.lanes().map(|lane| (lane, of(lane)))) {
            let lane = same.trailing_zeros() as usize;
            let (block, offset) = cx.shared_at(lane, Space::Shared, from)?;
            check_multiples(cx, [("destination", to), ("source", offset.into()), ("size", size.into())])?;
            let effect = match (self.reduce, mask) {
                (Some((op, ty)), _) => Effect::Reduce { op, ty, ftz: false },
                (None, Some(mask)) => Effect::Masked(mask as u16),
                (None, None) => Effect::Write,
            };
            let unit = if apart { "bulk reduce" } else { "bulk store" };
            let actors = begin(cx);
            issue(cx, same, actors, StoreJob { block, pieces: vec![(offset, to, size)], effect, unit });
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }

    fn communicates(&self) -> bool {
        self.reduce.is_some()
    }
}

/// `cp.async.bulk.commit_group`.
#[derive(Debug)]
struct Commit;

impl Execute for Commit {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let mask = cx.mask;
        cx.warp_state::<BulkGroups>().0.commit(mask);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}

/// `cp.async.bulk.wait_group{.read}`.
#[derive(Debug)]
struct Wait {
    pending: u64,
    part: Part,
}

impl Execute for Wait {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let mask = cx.mask;
        match cx.warp_state::<BulkGroups>().0.wait(mask, self.pending, self.part) {
            Some(observed) => {
                let warp = cx.warp;
                observed.into_iter().for_each(|(agent, clock)| cx.m.observe(warp, agent, clock));
                Ok(Step::Next)
            }
            None => {
                let detail = format!("until {} groups are left", self.pending);
                Ok(cx.block_on(Key::Warp(cx.warp), "bulk stores", detail))
            }
        }
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}

/// Decodes `st.bulk`: zeros to shared memory.
pub(super) fn decode_fill(d: &Decode) -> Decoded {
    let mut words = Form::new(d);
    words.expect("bulk")?;
    words.skip(&["weak"]);
    words.shared_space();
    words.end()?;
    if d.int(2)? != 0 {
        return Err(d.unsupported("a value other than 0"));
    }
    Ok(Box::new(Fill { to: d.address(0)?, size: d.source(1, ScalarType::U64)? }))
}

#[derive(Debug)]
struct Fill {
    to: Addr,
    size: Source,
}

impl Execute for Fill {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (to, sizes) = (cx.addresses(&self.to), cx.u64(&self.size));
        for lane in cx.lanes() {
            if !sizes[lane].is_multiple_of(8) {
                let message = format!("the size {} is not a multiple of 8", sizes[lane]);
                return Err(cx.fault(Kind::Operand, message));
            }
            let who = cx.actor();
            let at = cx.locate(lane, Space::Shared, to[lane])?;
            cx.m.check_bounds(&who, at, sizes[lane] as usize)?;
            cx.store(lane, Space::Shared, to[lane], 8, &vec![0; sizes[lane] as usize])?;
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Memory
    }
}
