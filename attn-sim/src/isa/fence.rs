//! `fence.proxy` and `fence.mbarrier_init`: what threads did becomes visible to asynchronous units.
//!
//! Fences between threads are in `order.rs`.

use super::Decoded;
use super::form::Form;
use crate::counters::Class;
use crate::machine::clock::Knowledge;
use crate::machine::decode::Decode;
use crate::machine::execute::{Execute, Step};
use crate::machine::{Context, UnitState};
use crate::report::Stop;

/// Whether a `fence` is one of this module's.
pub(super) fn is_between_proxies(d: &Decode) -> bool {
    d.has("proxy") || d.has("mbarrier_init")
}

/// Decodes `fence.proxy` and `fence.mbarrier_init`.
pub fn decode(d: &Decode) -> Decoded {
    let mut words = Form::new(d);
    let fence = if words.take("mbarrier_init") {
        words.expect("release")?;
        words.expect("cluster")?;
        Fence::MbarrierInit
    } else {
        words.expect("proxy")?;
        let between = words.one("the proxies", |word| {
            ["alias", "async", "async::generic", "tensormap::generic"].into_iter().find(|between| *between == word)
        })?;
        let acquire = words.take("acquire");
        words.skip(&["release", "global", "shared::cta", "shared::cluster"]);
        words.skip(&["sync_restrict::shared::cta", "sync_restrict::shared::cluster", "cta", "cluster", "gpu", "sys"]);
        match between {
            "async" => Fence::Units,
            "tensormap::generic" if acquire => Fence::Units,
            _ => Fence::Nothing,
        }
    };
    words.end()?;
    Ok(Box::new(fence))
}

/// A fence.
#[derive(Clone, Copy, Debug)]
enum Fence {
    /// What the thread wrote, or heard of, is visible to asynchronous units; also the tensor maps that they read.
    Units,
    /// mbarriers that the thread initialised are, and relaxed arrivals at the cluster's barrier tell the other blocks.
    MbarrierInit,
    /// Orders what is in order here: aliases of an address; a thread's reads before units' later writes; the releasing side of a
    /// tensor map's fence, which comes with the release of a flag or barrier.
    Nothing,
}

/// What `fence.mbarrier_init` released.
#[derive(Default)]
struct Initialised(Knowledge);

impl UnitState for Initialised {}

/// What a relaxed arrival at the cluster's barrier tells others: what the last fence of threads saw, and the mbarriers that were
/// initialised before a fence of theirs.
pub(super) fn known_by_relaxed(cx: &mut Context<'_>) -> Knowledge {
    let mut known = cx.warp_state::<Initialised>().0.clone();
    if let Some(fenced) = super::order::fenced(cx, cx.mask) {
        known.join(&fenced);
    }
    known
}

impl Execute for Fence {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let warp = cx.warp;
        match self {
            Fence::Units => {
                cx.m.fence_proxy(warp, cx.mask);
                cx.m.mbarriers_to_units(warp);
            }
            Fence::MbarrierInit => {
                cx.m.mbarriers_to_units(warp);
                let who = cx.actor();
                // What the warp does from here on is not part of it.
                cx.m.release(warp);
                cx.warp_state::<Initialised>().0.seen.raise(who.agent, who.clock);
            }
            Fence::Nothing => {}
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Fence
    }
}
