//! Between launches and clusters: `griddepcontrol`, `clusterlaunchcontrol`; and instructions that change nothing here.

use super::Decoded;
use super::bulk;
use super::form::Form;
use super::mbarrier;
use super::tma;
use crate::counters::Class;
use crate::machine::clock::Proxy;
use crate::machine::decode::{Addr, Decode, Reg, Source, elements};
use crate::machine::events::Unit;
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::machine::{Context, Location, Machine, Stream, UnitState};
use crate::ptx::ScalarType;
use crate::report::{Kind, Stop};

/// An instruction without an effect that a program could see.
#[derive(Debug)]
pub struct Nothing(pub Class);

impl Execute for Nothing {
    fn execute(&self, _: &mut Context<'_>) -> Result<Step, Stop> {
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        self.0
    }
}

/// Decodes `griddepcontrol`. Launches run one after the other here, so what a wait waits for has ended, and nothing that
/// depends on this launch can start early.
pub fn decode_griddepcontrol(d: &Decode) -> Decoded {
    let mut words = Form::new(d);
    if !words.take("launch_dependents") {
        words.expect("wait")?;
    }
    words.end()?;
    Ok(Box::new(Nothing(Class::Other)))
}

/// Decodes `clusterlaunchcontrol`.
pub fn decode_clusterlaunchcontrol(d: &Decode) -> Decoded {
    let mut words = Form::new(d);
    words.expect("b128")?;
    if words.take("try_cancel") {
        words.expect("async")?;
        words.expect("mbarrier::complete_tx::bytes")?;
        let space = words.shared_space();
        let multicast = words.take("multicast::cluster::all");
        words.end()?;
        return Ok(Box::new(TryCancel { to: d.address(0)?, bar: d.address(1)?, space, multicast }));
    }
    words.expect("query_cancel")?;
    let what = words.one("a query", |word| match word {
        "is_canceled" => Some(Query::IsCanceled),
        "get_first_ctaid" => Some(Query::FirstAll),
        "get_first_ctaid::x" => Some(Query::First(0)),
        "get_first_ctaid::y" => Some(Query::First(1)),
        "get_first_ctaid::z" => Some(Query::First(2)),
        _ => None,
    })?;
    words.skip(&["pred", "v4", "b32"]);
    words.end()?;
    let dests = elements(d.operand(0)?).iter().map(|o| d.dest_of(o)).collect::<Result<_, _>>()?;
    Ok(Box::new(QueryCancel { dests, response: d.source(1, ScalarType::B128)?, what }))
}

/// A response's 16 bytes: first block of the cluster that was cancelled, and a word that says there was one.
fn response(first: Option<[u32; 3]>) -> [u8; 16] {
    let [x, y, z] = first.unwrap_or_default();
    let mut bytes = [0; 16];
    for (word, bytes) in [x, y, z, u32::from(first.is_some())].into_iter().zip(bytes.chunks_exact_mut(4)) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Whether a cluster has been told that nothing is left.
#[derive(Default)]
struct NothingLeft(bool);

impl UnitState for NothingLeft {}

/// `clusterlaunchcontrol.try_cancel`: asks for the work of a cluster that has not started.
#[derive(Debug)]
struct TryCancel {
    to: Addr,
    bar: Addr,
    space: Space,
    multicast: bool,
}

impl Execute for TryCancel {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (to, bars) = (cx.addresses(&self.to), cx.addresses(&self.bar));
        let cluster = cx.cluster();
        for lane in cx.lanes() {
            if cx.cluster_state::<NothingLeft>().0 {
                cx.report(Kind::Operand, "a request after one that was answered with no cluster");
            }
            let (block, offset) = cx.shared_at(lane, self.space, to[lane])?;
            let bar = mbarrier::place(cx, lane, self.space, bars[lane])?;
            let all = (1u32 << cx.m.clusters[cluster].blocks.len()) - 1;
            let mask = self.multicast.then_some(all);
            let targets: Vec<_> = tma::targets(cx, block, bar, mask, false)?
                .into_iter()
                .map(|(block, bar)| {
                    (
                        cx.begin(Stream::Mbarrier(bar.0, bar.1), Proxy::Async, false),
                        Location::Shared { block, offset },
                        bar,
                    )
                })
                .collect();
            for (who, at, bar) in &targets {
                cx.m.check_aligned(who, *at, 16)?;
                cx.m.mbarrier_for_unit(who, lane, *bar)?;
            }
            cx.schedule(Unit::Launch, None, move |m: &mut Machine| {
                let first = m.cancel_cluster().map(|id| std::array::from_fn(|axis| id[axis] * m.shape.cluster[axis]));
                if first.is_none() {
                    m.clusters[cluster].states.get::<NothingLeft>().0 = true;
                }
                for (who, at, bar) in &targets {
                    if !matches!(at, Location::Shared { block, .. } if bulk::too_late(m, who, *block)) {
                        m.write(who, *at, &response(first))?;
                        m.mbarrier_complete_tx(who, *bar, 16)?;
                    }
                }
                Ok(())
            });
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Other
    }

    fn communicates(&self) -> bool {
        true
    }
}

#[derive(Clone, Copy, Debug)]
enum Query {
    IsCanceled,
    First(usize),
    FirstAll,
}

/// `clusterlaunchcontrol.query_cancel`.
#[derive(Debug)]
struct QueryCancel {
    dests: Vec<Option<Reg>>,
    response: Source,
    what: Query,
}

impl Execute for QueryCancel {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let responses = cx.u128(&self.response);
        let word = |i: usize| responses.map(|response| (response >> (32 * i)) as u32);
        let cancelled = cx.lanes().fold(0, |bits, lane| bits | (word(3)[lane] & 1) << lane);
        if let Query::IsCanceled = self.what {
            cx.set_pred(self.dests[0], cancelled);
            return Ok(Step::Next);
        }
        // Compilers ask before they look whether there was one: without a cluster there is no value, which nobody may use.
        let holes = std::array::from_fn(|lane| if cancelled >> lane & 1 == 1 { 0 } else { u128::MAX });
        for (i, dest) in self.dests.iter().enumerate() {
            let values = match self.what {
                Query::First(axis) => word(axis),
                _ if i < 3 => word(i),
                _ => [0; 32],
            };
            cx.set_copied(*dest, 32, &values.map(u128::from), &holes);
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Other
    }
}
