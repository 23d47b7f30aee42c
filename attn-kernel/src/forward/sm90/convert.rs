//! The warps beside the loading one, where K and V are of 8 bits: what TMA has brought goes through their hands to the rings that the consumers
//! read, widened to 16 bits or, of V alone, transposed.
//!
//! | loading warp | raw ring | these warps          | K and V rings | consumers |
//! |--------------|----------|----------------------|---------------|-----------|
//! | K1           | V0 K0    | K0 to 16 bits        | K, V          | Q Kᵀ, P V |
//!
//! The raw ring has the tiles in the order in which consumers want them, each with a tag that says what it is.

use super::Variant;
use super::block::Rings;
use crate::entry;
use crate::forward::narrow::{Crew, Narrow};
use crate::forward::plan::{Float8, TAG_BYTES};
use crate::mem::Smem;
use crate::pipe::ring::{Filling, Producer, Tile};
use crate::ptx::{fence, ldst, warp};

/// The warps.
pub const CONVERTERS: u32 = 3;

/// What an 8-bit tile is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// None: there are no more.
    End = 0,
    /// K.
    Keys = 1,
    /// V.
    Values = 2,
}

/// The tags beside the raw ring.
#[derive(Clone, Copy)]
pub(super) struct Tags {
    first_tile: u32,
    tags: Smem<u32>,
}

impl Tags {
    #[inline(always)]
    pub(super) fn new<V: Variant>(smem: Smem<()>) -> Self {
        let map = const { V::PLAN.smem() };
        Tags { first_tile: smem.offset(map.raw).addr(), tags: smem.offset(map.tags).cast() }
    }

    #[inline(always)]
    fn of<V: Variant>(&self, stage: Smem<Tile>) -> Smem<u32> {
        let stage = (stage.addr() - self.first_tile) / const { at_least_one(V::PLAN.raw_bytes()) };
        self.tags.offset(stage * TAG_BYTES)
    }

    /// Says what the stage will hold.
    ///
    /// # Safety
    /// Called by the thread that has acquired the stage and then commits it.
    #[inline(always)]
    pub(super) unsafe fn tell<V: Variant>(&self, stage: Smem<Tile>, tag: Tag) {
        // SAFETY: the stage's tag is the producer's as the stage is.
        unsafe { ldst::st_shared_u32(self.of::<V>(stage), tag as u32) }
    }
}

/// For a division that kernels without such tiles are compiled with and never come to.
const fn at_least_one(bytes: u32) -> u32 {
    if bytes == 0 { 1 } else { bytes }
}

/// Changes every tile of the raw ring, to the last.
///
/// # Safety
/// Called by warps 1 to [`CONVERTERS`] of the block, converged.
#[inline(always)]
pub(super) unsafe fn convert<V: Variant, const STAGES: u32, const QUERIES: u32, const RAW: u32>(
    rings: Rings<STAGES, QUERIES, RAW>,
    smem: Smem<()>,
) {
    let plan = const { V::PLAN };
    let tags = Tags::new::<V>(smem);
    let thread = entry::thread_idx_x();
    let crew = Crew::of(warp::uniform(thread / 32) - 1, CONVERTERS);
    let arrives = crew.lane == 0;
    let (mut k, mut v, mut raw) = (rings.k.split().0, rings.v.split().0, rings.raw.split().1);
    loop {
        let stage = raw.wait();
        // Read by the lane that gives the stage back, so that the tag's next writer is ordered behind its reader without the warp's others.
        // SAFETY: the producer wrote the tag before the stage's barrier, and writes again only after the arrivals below.
        let tag = if arrives { unsafe { ldst::ld_shared_u32(tags.of::<V>(stage.tile())) } } else { 0 };
        let tag = warp::uniform(tag);
        if tag == Tag::End as u32 {
            stage.release_by(false);
            return;
        }
        let keys = tag == Tag::Keys as u32;
        let from = stage.tile().cast();
        if const { matches!(V::PLAN.float8, Float8::Keys) } && (keys || plan.d == plan.dv) {
            let to = if keys { k.acquire() } else { v.acquire() };
            // SAFETY: both stages are this role's, whose warps all come here.
            unsafe { Narrow { rows: plan.bn, d: plan.d }.widen::<V::Element>(from, to.tile().cast(), crew) };
            publish();
            to.commit_by(arrives);
        } else {
            let to = v.acquire();
            let tile = Narrow { rows: plan.bn, d: plan.dv };
            // SAFETY: as above.
            unsafe {
                if const { matches!(V::PLAN.float8, Float8::Keys) } {
                    tile.widen::<V::Element>(from, to.tile().cast(), crew);
                } else {
                    tile.transpose(from, to.tile().cast(), crew);
                }
            }
            publish();
            to.commit_by(arrives);
        }
        stage.release_by(arrives);
    }
}

/// What the warp's lanes have written is for the tensor cores to read once one of them arrives.
#[inline(always)]
fn publish() {
    fence::proxy_async_shared_cta();
    // SAFETY: whole warps convert.
    unsafe { warp::sync() }
}

/// Where the loading warp puts K and V: into the rings that the consumers read, or into the raw one.
pub(super) struct Targets<const STAGES: u32, const RAW: u32> {
    k: Producer<STAGES>,
    v: Producer<STAGES>,
    raw: Producer<RAW>,
    tags: Tags,
}

impl<const STAGES: u32, const RAW: u32> Targets<STAGES, RAW> {
    #[inline(always)]
    pub(super) fn new<V: Variant, const QUERIES: u32>(rings: Rings<STAGES, QUERIES, RAW>, smem: Smem<()>) -> Self {
        let (k, v, raw) = (rings.k.split().0, rings.v.split().0, rings.raw.split().0);
        Targets { k, v, raw, tags: Tags::new::<V>(smem) }
    }

    /// The next stage for K; the warp calls it, of which one lane `leads`.
    #[inline(always)]
    pub(super) fn keys<V: Variant>(&mut self, leads: bool) -> Filling {
        if const { matches!(V::PLAN.float8, Float8::Keys) } {
            self.raw_stage::<V>(leads, Tag::Keys)
        } else {
            self.k.acquire()
        }
    }

    /// The next stage for V.
    #[inline(always)]
    pub(super) fn values<V: Variant>(&mut self, leads: bool) -> Filling {
        if const { !matches!(V::PLAN.float8, Float8::None) } {
            self.raw_stage::<V>(leads, Tag::Values)
        } else {
            self.v.acquire()
        }
    }

    /// There are no more.
    #[inline(always)]
    pub(super) fn end<V: Variant>(mut self, leads: bool) {
        if const { !matches!(V::PLAN.float8, Float8::None) } {
            self.raw_stage::<V>(leads, Tag::End).commit_by(leads);
        }
    }

    #[inline(always)]
    fn raw_stage<V: Variant>(&mut self, leads: bool, tag: Tag) -> Filling {
        let stage = self.raw.acquire();
        if leads {
            // SAFETY: the lane that leads commits the stage.
            unsafe { self.tags.tell::<V>(stage.tile(), tag) };
        }
        stage
    }
}
