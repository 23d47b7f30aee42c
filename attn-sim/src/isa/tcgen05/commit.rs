//! `tcgen05.commit`: arrives on mbarriers when the thread's multiplies and copies are complete.

use super::super::Decoded;
use super::{Order, begin, group};
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::decode::{Addr, Decode, Source};
use crate::machine::events::Unit;
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::ptx::ScalarType;
use crate::report::{Kind, Stop};

/// Decodes `tcgen05.commit.cta_group::G.mbarrier::arrive::one{.shared::cluster}{.multicast::cluster}.b64 [mbar]{, mask}`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    group(cx)?;
    let mask = if cx.has("multicast::cluster") { Some(cx.source(1, ScalarType::U16)?) } else { None };
    let space = if cx.has("shared::cluster") { Space::SharedCluster } else { Space::Generic };
    Ok(Box::new(Commit { barrier: cx.address(0)?, space, mask }))
}

#[derive(Debug)]
struct Commit {
    barrier: Addr,
    space: Space,
    mask: Option<Source>,
}

impl Execute for Commit {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addresses = cx.addresses(&self.barrier);
        let masks = self.mask.as_ref().map(|mask| cx.u32(mask));
        for lane in cx.lanes() {
            let (block, offset) = cx.shared_at(lane, self.space, addresses[lane])?;
            let blocks = match masks {
                None => vec![block],
                Some(masks) => self.multicast(cx, masks[lane])?,
            };
            let who = begin(cx, "tcgen05").fenced();
            cx.warp_state::<Order>().uncommitted = 0;
            let warp = cx.warp as u64;
            cx.schedule(Unit::Matrix, Some((Unit::Matrix, warp)), move |m| {
                blocks.into_iter().try_for_each(|block| m.mbarrier_async_arrive(&who, (block, offset)))
            });
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Mbarrier
    }
}

impl Commit {
    /// The blocks of a mask of cluster ranks.
    fn multicast(&self, cx: &Context<'_>, mask: u32) -> Result<Vec<usize>, Stop> {
        let ranks = (0..16).filter(|rank| mask >> rank & 1 == 1);
        let found = |rank| {
            let missing = || {
                cx.fault(Kind::Operand, format!("the mask {mask:#06x} names rank {rank}, which the cluster has not"))
            };
            cx.m.peer(cx.block, rank).ok_or_else(missing)
        };
        ranks.map(found).collect()
    }
}
