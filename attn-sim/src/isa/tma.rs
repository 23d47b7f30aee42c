//! `cp.async.bulk.tensor` and its kin: tensor copies by maps, and prefetches.

use super::Decoded;
use super::bulk::{self, Effect, StoreJob};
use super::form::Form;
use super::mbarrier;
use crate::counters::Class;
use crate::machine::clock::{Actor, Proxy};
use crate::machine::decode::{Addr, Decode, Source};
use crate::machine::events::Unit;
use crate::machine::execute::{Execute, Step};
use crate::machine::mbarrier::At;
use crate::machine::memory::Space;
use crate::machine::{Context, Location, Machine, Stream};
use crate::ptx::{Address, AddressBase, Operand, ScalarType, Symbol};
use crate::reduction::{ReduceOp, scalar_of};
use crate::report::{Kind, Stop, Unsupported};
use crate::tensor_map::{DataType, TensorMap};
use crate::tma_copy::{self, Coordinates, CopyError, CopyPlan};
use std::rc::Rc;

/// A tensor map as an operand names it.
#[derive(Clone, Debug)]
struct MapOperand {
    space: Space,
    addr: Addr,
}

impl MapOperand {
    fn new(d: &Decode, address: &Address) -> Result<Self, Unsupported> {
        let space = match address.base {
            AddressBase::Symbol(Symbol::Param(_)) => Space::Param,
            _ => Space::Generic,
        };
        Ok(MapOperand { space, addr: d.address_of(address)? })
    }

    /// The map, as the copy unit reads it for `who`.
    fn read(&self, cx: &mut Context<'_>, lane: usize, who: &Actor, addr: u64) -> Result<TensorMap, Stop> {
        let at = cx.m.locate(who, lane as u32, self.space, addr)?;
        if matches!(at, Location::Shared { .. } | Location::Local { .. }) {
            let message = format!("the tensor map at {at}: it must be in parameter, constant or global memory");
            return Err(cx.fault(Kind::Operand, message));
        }
        cx.m.check_aligned(who, at, 64)?;
        let mut bytes = [0; 128];
        cx.m.read(who, at, &mut bytes)?;
        TensorMap::from_bytes(&bytes).map_err(|e| cx.fault(Kind::Operand, format!("{at}: {e}")))
    }
}

/// What a tensor copy moves: map and coordinates.
#[derive(Clone, Debug)]
struct BoxOperand {
    map: MapOperand,
    coords: Vec<Source>,
    mode: Mode,
    /// What is added to the filter's base.
    offsets: Vec<Source>,
}

/// How coordinates are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Tile,
    /// Single rows.
    Rows,
    /// Pixels, with offsets.
    Im2col,
    /// Pixels at their filter's base.
    Im2colNoOffsets,
}

impl Mode {
    const WORDS: [(&'static str, Mode); 5] = [
        ("tile", Mode::Tile),
        ("tile::gather4", Mode::Rows),
        ("tile::scatter4", Mode::Rows),
        ("im2col", Mode::Im2col),
        ("im2col_no_offs", Mode::Im2colNoOffsets),
    ];
}

/// Values of a box operand in one lane.
#[derive(Clone, PartialEq)]
struct BoxOf {
    map: u64,
    coords: Vec<i32>,
    offsets: Vec<u16>,
}

impl BoxOperand {
    /// The operands are map with coordinates, at `operand`, and in im2col mode offsets, at `info`.
    fn new(d: &Decode, operand: usize, dims: usize, mode: Mode, info: usize) -> Result<Self, Unsupported> {
        let Operand::Tensor { map, coords } = d.operand(operand)? else {
            return Err(d.unsupported("a tensor map with coordinates was expected"));
        };
        let need = if mode == Mode::Rows { 5 } else { dims };
        let allowed = match mode {
            Mode::Tile => 1..=5,
            Mode::Rows => 2..=2,
            Mode::Im2col | Mode::Im2colNoOffsets => 3..=5,
        };
        if coords.len() != need || !allowed.contains(&dims) {
            return Err(d.unsupported(format!("{} coordinates in {dims} dimensions", coords.len())));
        }
        let coords = coords.iter().map(|c| d.source_of(c, ScalarType::S32)).collect::<Result<_, _>>()?;
        let offsets = if mode == Mode::Im2col { d.sources(info, ScalarType::U16)? } else { Vec::new() };
        if mode == Mode::Im2col && offsets.len() != dims - 2 {
            return Err(d.unsupported(format!("{} offsets in {dims} dimensions", offsets.len())));
        }
        Ok(BoxOperand { map: MapOperand::new(d, map)?, coords, mode, offsets })
    }

    /// The values of every executing lane.
    fn values(&self, cx: &mut Context<'_>) -> Vec<(usize, BoxOf)> {
        let maps = cx.addresses(&self.map.addr);
        let coords: Vec<_> = self.coords.iter().map(|c| cx.u32(c)).collect();
        let offsets: Vec<_> = self.offsets.iter().map(|o| cx.u32(o)).collect();
        let of = |lane: usize| BoxOf {
            map: maps[lane],
            coords: coords.iter().map(|c| c[lane] as i32).collect(),
            offsets: offsets.iter().map(|o| o[lane] as u16).collect(),
        };
        cx.lanes().map(|lane| (lane, of(lane))).collect()
    }

    fn plan(
        &self,
        cx: &Context<'_>,
        plan: impl FnOnce(Coordinates) -> Result<CopyPlan, CopyError>,
        of: &BoxOf,
    ) -> Result<CopyPlan, Stop> {
        let coordinates = match (self.mode, &of.coords[..]) {
            (Mode::Rows, &[column, a, b, c, d]) => Coordinates::Rows { column, rows: [a, b, c, d] },
            (Mode::Tile | Mode::Rows, corner) => Coordinates::Tile(corner),
            (Mode::Im2col | Mode::Im2colNoOffsets, base) => Coordinates::Im2col { base, offsets: &of.offsets },
        };
        plan(coordinates).map_err(|error| match error {
            CopyError::Interleave { .. } => cx.unsupported(error.to_string()),
            CopyError::Shared { .. } => cx.fault(Kind::Misaligned, error.to_string()),
            _ if error.is_illegal_instruction() => cx.fault(Kind::IllegalInstruction, error.to_string()),
            _ => cx.fault(Kind::Operand, error.to_string()),
        })
    }
}

/// Decodes `cp{.reduce}.async.bulk{.prefetch}.tensor`, whose words up to there are taken.
pub(super) fn decode(d: &Decode, mut words: Form) -> Decoded {
    let dims = words.one("the number of dimensions", |word| {
        let dims = word.strip_suffix('d')?.parse().ok()?;
        (1..=5).contains(&dims).then_some(dims)
    })?;
    let mode = words.choice(&Mode::WORDS).unwrap_or(Mode::Tile);
    words.skip(&[]);
    let op: Box<dyn Execute> = if words.take("prefetch") {
        words.skip(&["global", "L2"]);
        Box::new(Prefetch { what: BoxOperand::new(d, 0, dims, mode, 1)? })
    } else if words.take("bulk_group") {
        words.expect("global")?;
        words.shared_space();
        let reduce = words.take("reduce");
        let op = words.find(ReduceOp::parse);
        if reduce != op.is_some() {
            return Err(d.unsupported("a reduction without its operation"));
        }
        if mode == Mode::Im2col {
            return Err(d.unsupported("`.im2col` of a store, which knows `.im2col_no_offs` only"));
        }
        Box::new(Store { what: BoxOperand::new(d, 0, dims, mode, 2)?, from: d.address(1)?, reduce: op })
    } else {
        words.expect("mbarrier::complete_tx::bytes")?;
        words.expect("global")?;
        let space = words.shared_space();
        let multicast = words.take("multicast::cluster");
        let pair = words.take("cta_group::2");
        words.skip(&["cta_group::1"]);
        let behind = if mode == Mode::Im2col { 4 } else { 3 };
        let mask = if multicast { Some(d.source(behind, ScalarType::U16)?) } else { None };
        let what = BoxOperand::new(d, 1, dims, mode, 3)?;
        Box::new(Load { space, to: d.address(0)?, what, bar: d.address(2)?, mask, pair })
    };
    words.end()?;
    Ok(op)
}

/// A load from global to shared memory.
#[derive(Debug)]
struct Load {
    space: Space,
    to: Addr,
    what: BoxOperand,
    bar: Addr,
    mask: Option<Source>,
    /// `.cta_group::2`: the barrier may be in the other block of the pair.
    pair: bool,
}

/// One destination of a load: block, and the mbarrier that is told.
type Target = (usize, At);

/// The destinations of a copy whose operands name `block` and `bar`; with a mask, the blocks of those ranks.
pub(super) fn targets(
    cx: &Context<'_>,
    block: usize,
    bar: At,
    mask: Option<u32>,
    pair: bool,
) -> Result<Vec<Target>, Stop> {
    let rank = |block: usize| cx.m.blocks[block].rank;
    let Some(mask) = mask else {
        let near = if pair { rank(bar.0) >> 1 == rank(block) >> 1 } else { bar.0 == block };
        if !near {
            let message = format!(
                "the copy goes to the block of rank {}, its mbarrier is in that of {}",
                rank(block),
                rank(bar.0)
            );
            return Err(cx.fault(Kind::Operand, message));
        }
        return Ok(vec![(block, bar)]);
    };
    crate::machine::context::lanes(mask)
        .map(|to| {
            let to = to as u32;
            // In a pair the signal goes to the block with the parity of the one that the operand names.
            let signalled = if pair { to & !1 | rank(bar.0) & 1 } else { to };
            match (cx.m.peer(cx.block, to), cx.m.peer(cx.block, signalled)) {
                (Some(block), Some(signalled)) => Ok((block, (signalled, bar.1))),
                _ => {
                    let message =
                        format!("the multicast mask {mask:#x} names rank {to}, which the cluster does not have");
                    Err(cx.fault(Kind::Operand, message))
                }
            }
        })
        .collect()
}

impl Execute for Load {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (to, bars) = (cx.addresses(&self.to), cx.addresses(&self.bar));
        let masks = self.mask.as_ref().map(|mask| cx.u32(mask));
        for (lane, of) in self.what.values(cx) {
            let (block, offset) = cx.shared_at(lane, self.space, to[lane])?;
            let bar_space = if self.pair { Space::SharedCluster } else { self.space };
            let bar = mbarrier::place(cx, lane, bar_space, bars[lane])?;
            let mask = masks.map(|masks| masks[lane] & 0xffff);
            let mut plan = None;
            for (block, bar) in targets(cx, block, bar, mask, self.pair)? {
                let who = cx.begin(Stream::Mbarrier(bar.0, bar.1), Proxy::Async, false);
                cx.m.mbarrier_for_unit(&who, lane, bar)?;
                let shared_plan = match &plan {
                    Some(plan) => Rc::clone(plan),
                    None => {
                        let map = self.what.map.read(cx, lane, &who, of.map)?;
                        let made = self.what.plan(cx, |c| tma_copy::load(&map, c, offset), &of)?;
                        check_base(cx, &map, &made)?;
                        Rc::clone(plan.insert(Rc::new(made)))
                    }
                };
                cx.schedule(Unit::Copy, None, move |m| land(m, &who, &shared_plan, block, bar));
            }
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}

/// The rule of a box that reaches outside of its tensor: the unit touches the map's base address for it.
fn check_base(cx: &Context<'_>, map: &TensorMap, plan: &CopyPlan) -> Result<(), Stop> {
    let base = map.global_address;
    if !plan.reaches_outside() || cx.m.global.holds(base, 1) {
        return Ok(());
    }
    let place = cx.m.global.base().describe(base);
    let message = format!(
        "the box reaches outside of its tensor, for which the copy unit touches the map's base address {base:#x}: {place}"
    );
    Err(cx.fault(Kind::OutOfBounds, message))
}

/// A load's bytes reach a block's shared memory, and its mbarrier is told.
fn land(m: &mut Machine, who: &Actor, plan: &CopyPlan, block: usize, bar: At) -> Result<(), Stop> {
    if bulk::too_late(m, who, block) {
        return Ok(());
    }
    let mut bytes = Vec::new();
    for piece in &plan.pieces {
        bytes.clear();
        match piece.source {
            tma_copy::Source::Global(addr) => {
                bytes.resize(piece.bytes as usize, 0);
                m.read(who, Location::Global(addr), &mut bytes)?;
            }
            tma_copy::Source::Outside | tma_copy::Source::Behind(_) => {
                bytes.extend((0..piece.bytes as usize).map(|i| plan.fill.byte(i)));
            }
        }
        m.write(who, Location::Shared { block, offset: piece.shared }, &bytes)?;
    }
    m.count_bytes("tma load", u64::from(plan.bytes));
    m.mbarrier_complete_tx(who, bar, plan.bytes)
}

/// A store or reduction from shared to global memory.
#[derive(Debug)]
struct Store {
    what: BoxOperand,
    from: Addr,
    reduce: Option<ReduceOp>,
}

impl Store {
    fn effect(&self, cx: &Context<'_>, ty: DataType) -> Result<Effect, Stop> {
        let Some(op) = self.reduce else { return Ok(Effect::Write) };
        match scalar_of(ty).filter(|_| op.fits_tensor(ty)) {
            Some(scalar) => Ok(Effect::Reduce { op, ty: scalar, ftz: ty == DataType::Float32Ftz }),
            None => Err(cx.fault(Kind::Operand, format!("elements of {ty:?} have no reduction by {op:?}"))),
        }
    }
}

/// How many of the bytes behind a row an allocation holds, if any. What follows an allocation on the device, whose allocations
/// take whole blocks of memory, is nobody's.
fn allocated(cx: &Context<'_>, addr: u64, bytes: u32) -> Option<u32> {
    (1..=bytes).rev().find(|bytes| cx.m.global.base().find(addr, *bytes as usize).is_some())
}

impl Execute for Store {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let from = cx.addresses(&self.from);
        let apart = self.reduce.is_some();
        let asked = self.what.values(cx).into_iter().map(|(lane, of)| (lane, (of, from[lane], apart.then_some(lane))));
        for (same, (of, from, _)) in bulk::alike(asked) {
            let lane = same.trailing_zeros() as usize;
            let (block, offset) = cx.shared_at(lane, Space::Shared, from)?;
            let actors = bulk::begin(cx);
            let map = self.what.map.read(cx, lane, &actors.writes, of.map)?;
            let plan = self.what.plan(cx, |c| tma_copy::store(&map, c, offset), &of)?;
            let effect = self.effect(cx, map.data_type)?;
            let pieces = plan.pieces.iter().filter_map(|piece| match piece.source {
                tma_copy::Source::Global(addr) => Some((piece.shared, addr, piece.bytes)),
                tma_copy::Source::Behind(addr) => {
                    allocated(cx, addr, piece.bytes).map(|bytes| (piece.shared, addr, bytes))
                }
                tma_copy::Source::Outside => None,
            });
            let unit = if apart { "tma reduce" } else { "tma store" };
            let job = StoreJob { block, pieces: pieces.collect(), effect, unit };
            bulk::issue(cx, same, actors, job);
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

/// A prefetch of a box, which moves nothing that can be seen; its operands are checked.
#[derive(Debug)]
struct Prefetch {
    what: BoxOperand,
}

impl Execute for Prefetch {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        for (lane, of) in self.what.values(cx) {
            let who = cx.begin(Stream::Warp(cx.warp, "prefetch"), Proxy::Async, false);
            let map = self.what.map.read(cx, lane, &who, of.map)?;
            self.what.plan(cx, |c| tma_copy::load(&map, c, 0), &of)?;
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}

/// Decodes `prefetch{.space}.tensormap`, which checks that a map is there.
pub(super) fn decode_prefetch(d: &Decode) -> Decoded {
    let mut words = Form::new(d);
    words.expect("tensormap")?;
    let Operand::Address(address) = d.operand(0)? else {
        return Err(d.unsupported("the address of a tensor map was expected"));
    };
    let mut map = MapOperand::new(d, address)?;
    if words.take("param") {
        map.space = Space::Param;
    } else if words.take("const") {
        map.space = Space::Const;
    }
    words.end()?;
    Ok(Box::new(PrefetchMap { map }))
}

#[derive(Debug)]
struct PrefetchMap {
    map: MapOperand,
}

impl Execute for PrefetchMap {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addrs = cx.addresses(&self.map.addr);
        for lane in cx.lanes() {
            let who = cx.begin(Stream::Warp(cx.warp, "prefetch"), Proxy::Async, false);
            self.map.read(cx, lane, &who, addrs[lane])?;
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}
