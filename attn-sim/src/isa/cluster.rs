//! Clusters: their barrier, and stores and reductions in other blocks that complete on an mbarrier.

use super::Decoded;
use super::bulk;
use super::form::Form;
use super::mbarrier;
use crate::counters::Class;
use crate::machine::clock::{Knowledge, Proxy};
use crate::machine::decode::{Addr, Decode, Source};
use crate::machine::events::Unit;
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::machine::wait::Key;
use crate::machine::{Context, Location, Machine, Stream, UnitState};
use crate::ptx::ScalarType;
use crate::reduction::ReduceOp;
use crate::report::{Kind, Stop};
use std::collections::BTreeMap;

/// Decodes `barrier.cluster`, whose words up to there are taken.
pub(super) fn decode_barrier(d: &Decode, mut words: Form) -> Decoded {
    let wait = words.take("wait");
    if !wait {
        words.expect("arrive")?;
    }
    let aligned = words.take("aligned");
    let relaxed = words.relaxed(if wait { "acquire" } else { "release" });
    words.end()?;
    if d.operands() > 0 {
        return Err(d.unsupported("operands of a cluster's barrier"));
    }
    Ok(if wait { Box::new(ClusterWait { aligned }) } else { Box::new(ClusterArrive { aligned, relaxed }) })
}

/// The barrier of a cluster.
#[derive(Default)]
struct ClusterBarrier {
    round: u64,
    /// Lanes that arrived in this round, by warp.
    arrived: BTreeMap<usize, u32>,
    gathering: Knowledge,
    released: Knowledge,
}

impl UnitState for ClusterBarrier {}

/// A warp's lanes that arrived and have not waited, and in which round.
#[derive(Default)]
struct ClusterSide {
    lanes: u32,
    round: u64,
}

impl UnitState for ClusterSide {}

/// Ends the round if all threads of the cluster that have not ended arrived.
fn settle(cx: &mut Context<'_>) {
    let cluster = cx.cluster();
    let barrier = cx.cluster_state::<ClusterBarrier>();
    let (arrived, round) = (std::mem::take(&mut barrier.arrived), barrier.round);
    let m = &mut *cx.m;
    let blocks = m.clusters[cluster].blocks.clone();
    let missing = blocks
        .flat_map(|block| m.blocks[block].warps.clone())
        .any(|warp| m.warps[warp].live & !arrived.get(&warp).copied().unwrap_or(0) != 0);
    let barrier: &mut ClusterBarrier = m.clusters[cluster].states.get();
    if missing {
        barrier.arrived = arrived;
        return;
    }
    barrier.round = round + 1;
    let gathering = std::mem::take(&mut barrier.gathering);
    barrier.released.join(&gathering);
    m.wake(Key::Cluster(cluster));
}

/// `barrier.cluster.arrive`.
#[derive(Debug)]
struct ClusterArrive {
    aligned: bool,
    relaxed: bool,
}

impl Execute for ClusterArrive {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        if self.aligned {
            cx.aligned()?;
        }
        let (warp, mask) = (cx.warp, cx.mask);
        let released = match self.relaxed {
            true => super::fence::known_by_relaxed(cx),
            false => (*cx.m.release_of(warp, mask)).clone(),
        };
        let again = cx.warp_state::<ClusterSide>().lanes & mask;
        if again != 0 {
            let message = format!("lanes {again:#010x} arrive at the cluster's barrier twice without a wait between");
            return Err(cx.fault(Kind::Barrier, message));
        }
        let barrier = cx.cluster_state::<ClusterBarrier>();
        *barrier.arrived.entry(warp).or_default() |= mask;
        barrier.gathering.join(&released);
        let round = barrier.round;
        let side = cx.warp_state::<ClusterSide>();
        (side.lanes, side.round) = (side.lanes | mask, round);
        settle(cx);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Barrier
    }
}

/// `barrier.cluster.wait`.
#[derive(Debug)]
struct ClusterWait {
    aligned: bool,
}

impl Execute for ClusterWait {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        if self.aligned {
            cx.aligned()?;
        }
        let mask = cx.mask;
        let ClusterSide { lanes, round } = *cx.warp_state::<ClusterSide>();
        if mask & !lanes != 0 {
            let message = format!("lanes {:#010x} wait at the cluster's barrier and have not arrived", mask & !lanes);
            return Err(cx.fault(Kind::Barrier, message));
        }
        settle(cx);
        let cluster = cx.cluster();
        let barrier = cx.cluster_state::<ClusterBarrier>();
        if barrier.round == round {
            let warps: Vec<_> = barrier.arrived.keys().map(|warp| warp.to_string()).collect();
            let detail = format!("round {round}, where warps {} of the machine arrived", warps.join(", "));
            return Ok(cx.block_on(Key::Cluster(cluster), "cluster barrier", detail));
        }
        let released = barrier.released.clone();
        cx.warp_state::<ClusterSide>().lanes &= !mask;
        let warp = cx.warp;
        cx.m.acquire(warp, &released);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Barrier
    }
}

/// Decodes `st.async` and `red.async` that complete on an mbarrier, by modifier `async` of `st` and `red`.
pub fn decode_async(d: &Decode) -> Decoded {
    let mut words = Form::new(d);
    words.expect("async")?;
    words.expect("mbarrier::complete_tx::bytes")?;
    words.skip(&["weak"]);
    words.relaxed("weak");
    words.shared_space();
    let width = if words.take("v4") {
        4
    } else if words.take("v2") {
        2
    } else {
        1
    };
    let ty = words.one("the type", ScalarType::parse)?;
    let op = words.find(ReduceOp::parse);
    words.end()?;
    if (d.inst.opcode == "red") != op.is_some() {
        return Err(d.unsupported("a reduction without its operation"));
    }
    let fits = |op: ReduceOp| match op {
        ReduceOp::Add => matches!(ty, ScalarType::U32 | ScalarType::S32 | ScalarType::U64),
        ReduceOp::Min | ReduceOp::Max => matches!(ty, ScalarType::U32 | ScalarType::S32),
        ReduceOp::Inc | ReduceOp::Dec => ty == ScalarType::U32,
        ReduceOp::And | ReduceOp::Or | ReduceOp::Xor => ty == ScalarType::B32,
    };
    let values = d.sources(1, ty)?;
    if op.is_some_and(|op| !fits(op)) || values.len() != width || !matches!(ty.bytes(), 4 | 8) {
        return Err(d.unsupported(format!("{width} values of {ty}")));
    }
    Ok(Box::new(AsyncStore { to: d.address(0)?, values, ty, bar: d.address(2)?, op }))
}

#[derive(Debug)]
struct AsyncStore {
    to: Addr,
    values: Vec<Source>,
    ty: ScalarType,
    bar: Addr,
    op: Option<ReduceOp>,
}

impl Execute for AsyncStore {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (to, bars) = (cx.addresses(&self.to), cx.addresses(&self.bar));
        let values: Vec<_> = self.values.iter().map(|value| cx.u64(value)).collect();
        let (size, op, ty) = (self.ty.bytes() as usize, self.op, self.ty);
        for lane in cx.lanes() {
            let (block, offset) = cx.shared_at(lane, Space::SharedCluster, to[lane])?;
            let bar = mbarrier::place(cx, lane, Space::SharedCluster, bars[lane])?;
            if bar.0 != block {
                return Err(cx.fault(Kind::Operand, "the store and its mbarrier are in different blocks"));
            }
            let bytes: Vec<u8> = values.iter().flat_map(|v| v[lane].to_le_bytes()[..size].to_vec()).collect();
            let at = Location::Shared { block, offset };
            let who = cx.begin(Stream::Mbarrier(bar.0, bar.1), Proxy::Generic, false);
            cx.m.check_aligned(&who, at, bytes.len() as u64)?;
            cx.schedule(Unit::Store, None, move |m: &mut Machine| {
                if bulk::too_late(m, &who, block) {
                    return Ok(());
                }
                match op {
                    None => m.write(&who, at, &bytes)?,
                    Some(op) => bulk::reduce(m, &who, at, &bytes, (op, ty, false))?,
                }
                m.count_bytes("async store", bytes.len() as u64);
                m.mbarrier_complete_tx(&who, bar, bytes.len() as u32)
            });
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}
