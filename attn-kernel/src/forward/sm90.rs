//! The Hopper forward kernel: one producer warpgroup with TMA, two or three consumer warpgroups with wgmma.
//!
//! Each consumer warpgroup owns 64 query rows; all of them share the K and V tiles, walked from the last visible block
//! down to the first. One warpgroup's view, with S, P and O in registers:
//!
//! | producer | tensor cores                  | softmax                                     |
//! |----------|-------------------------------|---------------------------------------------|
//! | K0, Q    | S = Q K0ᵀ                     |                                             |
//! | K1, V0   |                               | P = exp2(S), block 0                        |
//! | K2, V1   | S = Q K1ᵀ, then O += P V0     | S is done: P = exp2(S), some of it          |
//! | ...      |                               | O is done: P = exp2(S), the rest            |
//! | Vn       | O += P Vn                     |                                             |
//! | next Q   |                               | O / sum to shared memory, TMA store, LSE    |
//!
//! P is taken against the reference of the block before; where that is too small by far, S gives its maximum, P is made again and O
//! rescaled ([`softmax`]).
//!
//! With [`Plan::ping_pong`] the warpgroups also take turns: one issues its two multiplies, hands the tensor cores on, and
//! computes its softmax while the others' multiplies run.
//!
//! With [`Plan::split`] two warpgroups have the same 64 rows and take the key blocks in turn, each with stages of its own; at a tile's end
//! one hands its O and row statistics to the other (`merge`). That halves the time of a problem with fewer tiles than multiprocessors.
//!
//! A tile's first block is where its keys end. With [`Plan::in_part_blocks`] only the quarters of it that the warpgroup's rows see are
//! multiplied: short sequences would spend much of their time on keys that are none.
//!
//! K and V may be of 8 bits, or all of Q, K and V: the producer's other warps then change them on their way (`convert`). Of the latter each
//! block's P V is a sum of its own, where O is wide one of a few columns at a time (`strips`).
//!
//! A kernel is composed of parts ([`Variant`]): which keys a query sees, what is done to a score, and how the sequences lie, dense or
//! [`ragged`].

pub mod anatomy;
mod block;
mod context;
mod convert;
mod dense;
mod epilogue;
pub mod kernels;
mod merge;
mod multiply;
mod ragged;
mod sequences;
mod strips;

pub use kernels::{KERNELS, SERVING_KERNELS, describe};

use self::block::{Rings, Seat, WarpQuad};
use self::context::{Context, Visible};
pub use self::dense::Dense;
use self::multiply::{add_part, issue_output, issue_scores, pack};
pub use self::ragged::Ragged;
pub use self::sequences::Sequences;
use super::params::TensorMap;
use super::plan::{PART, Plan, WARPGROUP};
use crate::attn::mask::Mask;
use crate::attn::scores::Scores;
use crate::attn::softmax::{self, Block, Knobs, Rows};
use crate::entry;
use crate::mem::descriptor::Descriptor;
use crate::mem::{Element, Operand, Smem, Swizzle};
use crate::pipe::ring::{Consumer, Full};
use crate::ptx::{fence, tma, warp, wgmma};

/// What distinguishes one instantiation from another.
pub trait Variant {
    /// Tile shapes and resources.
    const PLAN: Plan;
    /// Element type of O, and of what Q, K and V are multiplied as unless they are all of 8 bits.
    type Element: Element;
    /// What Q, K and V are multiplied as, and P is rounded to.
    type Operand: Operand;
    /// Which keys a query sees.
    type Mask: Mask;
    /// What is done to a score.
    type Scores: Scores;
    /// How the sequences lie.
    type Sequences: Sequences;

    /// `setmaxnreg` to the plan's consumer budget.
    ///
    /// # Safety
    /// Called by all threads of a consumer warpgroup, converged.
    unsafe fn enter_consumer();

    /// `setmaxnreg` to the plan's producer budget.
    ///
    /// # Safety
    /// Called by all threads of the producer warpgroup, converged.
    unsafe fn enter_producer();
}

/// The tensor maps of a launch: parameter-space addresses.
#[derive(Clone, Copy)]
pub struct Maps {
    q: *const TensorMap,
    k: *const TensorMap,
    v: *const TensorMap,
    o: *const TensorMap,
}

/// The parameters of a kernel.
type Params<V> = <<V as Variant>::Sequences as Sequences>::Params;

/// The kernel. `S`, `O` and `P` are a thread's registers for the scores (f32), the output (f32) and the packed
/// probabilities: `bn / 2`, `dv / 2` and `bn / 4`, of 8 bits `bn / 8`.
///
/// # Safety
/// Runs as a kernel of `PLAN.threads()` threads with `PLAN.smem().end` bytes of dynamic shared memory; maps and parameters
/// describe live device memory as the parameters' documentation says.
#[inline(always)]
unsafe fn forward<
    V: Variant,
    const S: usize,
    const O: usize,
    const P: usize,
    const STAGES: u32,
    const QUERIES: u32,
    const SPLIT: u32,
    const RAW: u32,
>(
    params: Params<V>,
    maps: Maps,
) {
    let smem = Smem::new(entry::dynamic_shared());
    let rings = Rings::<STAGES, QUERIES, RAW>::new::<V>(smem);
    let tiles = V::Sequences::new::<V>(&params, smem);
    // Taken from lane 0, so that the compiler knows the role to be uniform and keeps addresses in uniform registers.
    let warp = warp::uniform(entry::thread_idx_x() / 32);
    let group = warp / (WARPGROUP / 32);
    let ready = const { block::ready(&V::PLAN) };

    // SAFETY: the thread that initialises the barriers is the first to use them; every other one that does has met its arrival. Whole
    // warpgroups take a role, and `Plan::checked` has proven that their register budgets add up.
    unsafe {
        // The producer's other warps wait too where they convert: all threads at the same instruction.
        if const { V::PLAN.raw > 0 } {
            if group == 0 {
                prepare::<V, STAGES, QUERIES, RAW>(&maps, &rings, warp);
            }
            ready.sync();
        }
        if group == 0 {
            if const { V::PLAN.raw == 0 } {
                prepare::<V, STAGES, QUERIES, RAW>(&maps, &rings, warp);
                // No wait: the lane that loads is the one that has made the barriers, since an election always has the same result.
                ready.arrive();
            }
            V::enter_producer();
            if warp == 0 {
                tiles.produce::<V, STAGES, QUERIES, RAW>(&params, maps, rings, smem);
            } else if const { V::PLAN.raw > 0 } {
                convert::convert::<V, STAGES, QUERIES, RAW>(rings, smem);
            }
        } else {
            if const { V::PLAN.raw == 0 } {
                ready.sync();
            }
            V::enter_consumer();
            consume::<V, S, O, P, STAGES, QUERIES, SPLIT, RAW>(&params, maps, rings, tiles, smem, group - 1);
        }
    }
}

/// Makes the barriers, and has the maps at hand.
///
/// # Safety
/// Called by the producer warpgroup, before anything else; `warp` is the thread's.
#[inline(always)]
unsafe fn prepare<V: Variant, const STAGES: u32, const QUERIES: u32, const RAW: u32>(
    maps: &Maps,
    rings: &Rings<STAGES, QUERIES, RAW>,
    warp: u32,
) {
    // SAFETY: one thread does each; the maps are the kernel's parameters.
    unsafe {
        if warp == 0 && warp::elect() {
            // In the order of the first loads, which wait for them.
            tma::prefetch_map(maps.k);
            tma::prefetch_map(maps.q);
            rings.init::<V>();
            // For TMA, which completes on them; no data is written before it that would need a proxy fence.
            fence::mbarrier_init();
        } else if warp == 1 && warp::elect() {
            tma::prefetch_map(maps.v);
            tma::prefetch_map(maps.o);
        }
    }
}

// ---- consumers ----

/// What a warpgroup accumulates over a tile's key blocks.
struct State<const O: usize, const P: usize> {
    rows: Rows,
    /// O, unnormalised, against the reference maximum of `rows`.
    acc: [f32; O],
    /// P of the block whose V has not been multiplied yet.
    p: [u32; P],
}

/// Works through all tiles of the block for consumer warpgroup `group`.
///
/// # Safety
/// Called by all threads of that warpgroup, converged; `smem` is laid out by the plan's map.
#[inline(always)]
unsafe fn consume<
    V: Variant,
    const S: usize,
    const O: usize,
    const P: usize,
    const STAGES: u32,
    const QUERIES: u32,
    const SPLIT: u32,
    const RAW: u32,
>(
    params: &Params<V>,
    maps: Maps,
    rings: Rings<STAGES, QUERIES, RAW>,
    mut tiles: V::Sequences,
    smem: Smem<()>,
    group: u32,
) {
    let plan = const { V::PLAN };
    let seat = Seat::of::<V>(group);
    let mut q = rings.q.split().1;
    let (mut k, mut v) = (rings.k.share::<SPLIT>(seat.part), rings.v.share::<SPLIT>(seat.part));
    let swizzle = const { Swizzle::of_span(V::PLAN.span(V::PLAN.d)) };
    // In Q's memory it is the warpgroup's own rows of Q that O takes, which are wider where d is.
    let width = const { if V::PLAN.o_in_q() { V::PLAN.d } else { V::PLAN.dv } };
    let o = smem.offset(const { V::PLAN.smem().o } + seat.rows * width * 2);
    let handed = merge::Handed::new(smem.offset(const { V::PLAN.smem().handed }), seat);
    // Key blocks of all tiles so far, of which every other one is the warpgroup's where two split them.
    let mut passed = 0;
    if group + 1 == plan.consumers() {
        seat.pass_turn::<V>(); // the first turn is warpgroup 0's
    }
    // SAFETY: no multiply has read Q yet, and the rows that are cleared are never loaded.
    unsafe { V::Sequences::prepare::<V>(params, smem.offset(const { V::PLAN.smem().q }), seat) };

    // SAFETY: whole warpgroups come here.
    while let Some((work, tile)) = unsafe { tiles.next::<V, QUERIES>(params, &mut q) } {
        let queries = Descriptor::k_major(swizzle, tile.tile().offset(seat.rows * plan.d * plan.operand_bytes()));
        // SAFETY: the parameters are the launcher's.
        let scale_log2 = unsafe { V::Sequences::scale_log2::<V>(params, &work) };
        let (bound, lift) = (V::Element::SUM_BOUND, V::Operand::LIFT);
        let knobs = Knobs { scale_log2, bound, lift, exp2: plan.exp2 };
        let first = V::Sequences::first_query::<V>(params, work.tile.m_block, seat);
        // SAFETY: the parameters are the launcher's.
        let scores = V::Scores::of(unsafe { V::Sequences::modified::<V>(params, &work, first, seat) });
        let ctx = Context { seat, knobs, queries, scores, visible: Visible::of::<V>(params, &work, first, seat) };
        let mut state = State { rows: Rows::new(), acc: [0.0; O], p: [0; P] };

        // The blocks that only other warpgroups' rows see.
        let (from, to) = if const { V::PLAN.single && V::PLAN.consumers() == 1 } {
            (work.from, work.to) // all rows are the warpgroup's
        } else {
            work.own(first, V::Sequences::queries::<V>(params), plan.bn)
        };
        let mut block = work.to;
        while block > to {
            block -= 1;
            // The first block of a tile takes no turn, except in strips.
            skip::<V, STAGES>(seat, &mut k, &mut v, const { V::PLAN.in_strips() } || block > work.from);
        }
        if const { SPLIT > 1 } {
            block = block.saturating_sub((passed + seat.part) % SPLIT);
            passed += work.to;
        }
        let has_keys = block > from;
        let mut tile = Some(tile);
        if const { V::PLAN.single } {
            if has_keys {
                first_step::<V, S, O, P, STAGES>(&ctx, &mut k, &mut state, block - 1, plan.bn);
                // Before the last step: the next tile's Q may come.
                if let Some(tile) = tile.take() {
                    seat.release(tile);
                }
                last_step::<V, O, P, STAGES>(&ctx, &mut v, &mut state);
            } else {
                // SAFETY: registers only. Where there is a key, no zeros are kept meanwhile.
                unsafe { wgmma::tie(&mut state.acc) };
            }
        } else if has_keys {
            if const { !V::PLAN.in_strips() } {
                let seen = work.seen(first, V::Sequences::queries::<V>(params)) - (block - 1) * plan.bn;
                first_step::<V, S, O, P, STAGES>(&ctx, &mut k, &mut state, block - 1, seen);
                block = before::<SPLIT>(block);
            }
            let whole = ctx.visible.whole;
            // Down to the last block that every row sees whole, then to the last one that only the left edge cuts, then the rest.
            let mut masked_to = if const { V::Mask::PARTIAL_BLOCKS } { larger(whole.1, from) } else { block };
            loop {
                while block > masked_to {
                    step::<V, S, O, P, STAGES>(&ctx, &mut k, &mut v, &mut state, |scores| {
                        ctx.mask::<V, S>(scores, block - 1)
                    });
                    block = before::<SPLIT>(block);
                }
                while block > larger(whole.0, from) {
                    step::<V, S, O, P, STAGES>(&ctx, &mut k, &mut v, &mut state, |scores| {
                        ctx.modify::<V, S>(scores, block - 1)
                    });
                    block = before::<SPLIT>(block);
                }
                if !V::Mask::LEFT || block <= from {
                    break;
                }
                masked_to = from;
            }
        }
        // Every multiply with Q has been waited for: the next tile's may come, unless O leaves through this one's memory.
        let tile = if const { V::PLAN.o_in_q() } {
            tile
        } else {
            if let Some(tile) = tile {
                seat.release(tile);
            }
            None
        };
        if const { !V::PLAN.in_strips() && !V::PLAN.single } && has_keys {
            last_step::<V, O, P, STAGES>(&ctx, &mut v, &mut state);
        }
        // SAFETY: the next tile's Q has not been given back.
        let work = unsafe { tiles.again::<V>(params, &work) };
        let first = if const { V::Sequences::RAGGED } {
            V::Sequences::first_query::<V>(params, work.tile.m_block, seat)
        } else {
            first
        };
        if V::Mask::LEFT {
            // Those below that only other warpgroups' rows see, in which they take turns.
            let mut block = work.own(first, V::Sequences::queries::<V>(params), plan.bn).0;
            while block > work.from {
                block -= 1;
                skip::<V, STAGES>(seat, &mut k, &mut v, true);
            }
        }
        if const { SPLIT > 1 } {
            // SAFETY: both warpgroups come here once a tile.
            unsafe { handed.merge(seat, &mut state.rows, &mut state.acc, &knobs) };
            if seat.part > 0 {
                continue;
            }
        }

        // SAFETY: `o` is this warpgroup's; where it is also Q's memory, its multiplies with Q have been waited for.
        unsafe {
            V::Sequences::finish::<V, O>(params, maps, o, &work, first, seat, (&state.rows, &mut state.acc), &knobs);
            if let Some(tile) = tile {
                if seat.thread == 0 {
                    tma::wait_group_read::<0>();
                }
                tile.release_by(seat.thread == 0);
            }
            // Lanes that store no LSE would go on to the next tile by themselves: then ptxas could keep nothing of the loop, such as a
            // ring's stage, in uniform registers.
            warp::sync();
        }
    }
    // Shared memory lives until the last store has read it; the writes are the kernel's, whose end waits for them. Where O lies
    // in Q's memory, each tile has waited already.
    if const { !V::PLAN.o_in_q() } && seat.thread == 0 {
        tma::wait_group_read::<0>();
    }
}

/// One past the warpgroup's next block, downwards, when it is done with the one below `block`.
#[inline(always)]
fn before<const SPLIT: u32>(block: u32) -> u32 {
    if const { SPLIT > 1 } { block.saturating_sub(SPLIT) } else { block - 1 }
}

/// The larger of two.
#[inline(always)]
fn larger(a: u32, b: u32) -> u32 {
    if a > b { a } else { b }
}

/// A block that none of the warpgroup's rows sees: its stages pass by unread, and its turn is handed on.
#[inline(always)]
fn skip<V: Variant, const STAGES: u32>(seat: Seat, k: &mut Consumer<STAGES>, v: &mut Consumer<STAGES>, turn: bool) {
    if turn {
        seat.take_turn::<V>();
        seat.pass_turn::<V>();
    }
    // Waited for, because an arrival before the stage has been filled would count for its previous filling.
    seat.release(k.wait());
    seat.release(v.wait());
}

/// The tile's first block, the one with its last visible key: nothing yet to multiply with V. The warpgroup's rows see the first `seen` of
/// its keys. Whole [`PART`]s behind those are left out where the plan says so; the row's sums have the same bits without their zeros.
#[inline(always)]
fn first_step<V: Variant, const S: usize, const O: usize, const P: usize, const STAGES: u32>(
    ctx: &Context<V::Scores>,
    k: &mut Consumer<STAGES>,
    state: &mut State<O, P>,
    block: u32,
    seen: u32,
) {
    const ONE: usize = PART as usize / 2;
    let keys = k.wait();
    if const { !V::PLAN.in_part_blocks() } || seen > 3 * PART {
        first_scores::<V, S, O, P>(ctx, keys, state, block);
    } else if seen > 2 * PART {
        first_scores::<V, { 3 * ONE }, O, P>(ctx, keys, state, block);
    } else if seen > PART {
        first_scores::<V, { 2 * ONE }, O, P>(ctx, keys, state, block);
    } else {
        first_scores::<V, ONE, O, P>(ctx, keys, state, block);
    }
    if const { V::PLAN.in_part_blocks() } {
        // As at a step's end: four ways meet.
        // SAFETY: whole warps come here.
        unsafe { warp::sync() };
    }
}

/// [`first_step`] with the block's first `2 * N` keys.
#[inline(always)]
fn first_scores<V: Variant, const N: usize, const O: usize, const P: usize>(
    ctx: &Context<V::Scores>,
    keys: Full,
    state: &mut State<O, P>,
    block: u32,
) {
    let mut scores = issue_scores::<V, N>(ctx.queries, keys.tile());
    // SAFETY: the whole warpgroup waits for its own multiply.
    unsafe { wgmma::wait_with::<0, N>(&mut scores) };
    ctx.seat.release(keys);
    ctx.mask::<V, N>(&mut scores, block);
    state.rows.first::<WarpQuad, N>(&mut scores, &ctx.knobs);
    state.p = pack::<V::Operand, N, P>(&scores);
}

/// A later block: its S and the previous block's O run together, and [`Plan::exp_under_output`] eighths of its exponentials under O.
#[inline(always)]
fn step<V: Variant, const S: usize, const O: usize, const P: usize, const STAGES: u32>(
    ctx: &Context<V::Scores>,
    k: &mut Consumer<STAGES>,
    v: &mut Consumer<STAGES>,
    state: &mut State<O, P>,
    mask: impl FnOnce(&mut [f32; S]),
) {
    if const { V::PLAN.in_strips() } {
        return step_in_strips::<V, S, O, P, STAGES>(ctx, k, v, state, mask);
    }
    let keys = k.wait();
    ctx.seat.take_turn::<V>();
    let mut scores = issue_scores::<V, S>(ctx.queries, keys.tile());
    let values = v.wait();
    let mut part = issue_output::<V, O, P>(&mut state.acc, &state.p, values.tile());
    let sums = if const { V::PLAN.in_parts() } { &mut part } else { &mut state.acc };
    ctx.seat.pass_turn::<V>();

    let pairs = S / 2;
    let under = const { V::PLAN.exp_under_output as usize } * pairs / 8;
    let mut block = Block::new();
    // SAFETY: the whole warpgroup waits. The scores were committed first: they are done when one group is left. After the wait for
    // none, O and P are ordinary registers again.
    unsafe {
        if under > 0 {
            wgmma::wait_with::<1, S>(&mut scores);
            ctx.seat.release(keys);
            mask(&mut scores);
            state.rows.probabilities::<V::Operand, S, P>(&scores, 0..under, &ctx.knobs, &mut block);
            wgmma::hold_waits(block.witness());
            wgmma::wait_with::<0, O>(sums);
        } else {
            wgmma::wait_with::<0, S>(&mut scores);
            wgmma::tie(sums);
            ctx.seat.release(keys);
            mask(&mut scores);
        }
        wgmma::tie_packed(&mut state.p);
    }
    add_part::<V, O>(&mut state.acc, &part);
    ctx.seat.release(values);
    state.rows.probabilities::<V::Operand, S, P>(&scores, under..pairs, &ctx.knobs, &mut block);
    // SAFETY: registers only. It keeps the roundings between the exponentials: they would move behind the branch.
    unsafe { wgmma::tie_packed(&mut block.p) };
    settle::<V, S, O, P>(ctx, state, &mut scores, &block);
}

/// A block from its S to its O, where O is multiplied in strips ([`Plan::in_strips`]): a thread's registers hold S or the sums of strips, not
/// both, and a softmax runs under the other warpgroup's multiplies alone.
///
/// A tile's first block is one of these too. It finds no reference, and is done again with one.
#[inline(always)]
fn step_in_strips<V: Variant, const S: usize, const O: usize, const P: usize, const STAGES: u32>(
    ctx: &Context<V::Scores>,
    k: &mut Consumer<STAGES>,
    v: &mut Consumer<STAGES>,
    state: &mut State<O, P>,
    mask: impl FnOnce(&mut [f32; S]),
) {
    let keys = k.wait();
    ctx.seat.take_turn::<V>();
    let mut scores = issue_scores::<V, S>(ctx.queries, keys.tile());
    ctx.seat.pass_turn::<V>();
    let mut block = Block::new();
    // SAFETY: the whole warpgroup waits for its own multiply.
    unsafe { wgmma::wait_with::<0, S>(&mut scores) };
    ctx.seat.release(keys);
    mask(&mut scores);
    state.rows.probabilities::<V::Operand, S, P>(&scores, 0..S / 2, &ctx.knobs, &mut block);
    // SAFETY: as in `step`.
    unsafe { wgmma::tie_packed(&mut block.p) };
    settle::<V, S, O, P>(ctx, state, &mut scores, &block);
    let values = v.wait();
    // SAFETY: the tile has been waited for; nothing of this warpgroup's is on its way.
    unsafe { strips::add_product::<V, O, P>(&mut state.acc, &mut state.p, values.tile()) };
    ctx.seat.release(values);
}

/// A block's probabilities count, or are made again against another reference.
#[inline(always)]
fn settle<V: Variant, const S: usize, const O: usize, const P: usize>(
    ctx: &Context<V::Scores>,
    state: &mut State<O, P>,
    scores: &mut [f32; S],
    block: &Block<P>,
) {
    // Voted, so that the whole warp takes the branch, and quads may exchange.
    if warp::any(!block.within::<V::Operand>(&ctx.knobs)) {
        // With ragged sequences a row's bits do not depend on its neighbours in the tile, which are others when it is decoded alone.
        let rows =
            if const { V::Sequences::RAGGED } { block.exceeded::<V::Operand, WarpQuad>(&ctx.knobs) } else { [true; 2] };
        let factor = state.rows.raise::<WarpQuad, S>(scores, rows, &ctx.knobs);
        softmax::scale_rows(&mut state.acc, factor);
        state.p = pack::<V::Operand, S, P>(scores);
    } else {
        state.rows.add(block);
        state.p = block.p;
    }
    if const { V::Sequences::RAGGED } {
        // Without, both ways go back to the head of a loop that others enter too: then ptxas could keep nothing of it in uniform registers,
        // and a multiply's descriptors took 40 moves more.
        // SAFETY: whole warps come here.
        unsafe { warp::sync() };
    }
}

/// The last P V of the tile.
#[inline(always)]
fn last_step<V: Variant, const O: usize, const P: usize, const STAGES: u32>(
    ctx: &Context<V::Scores>,
    v: &mut Consumer<STAGES>,
    state: &mut State<O, P>,
) {
    let values = v.wait();
    let mut part = issue_output::<V, O, P>(&mut state.acc, &state.p, values.tile());
    let sums = if const { V::PLAN.in_parts() } { &mut part } else { &mut state.acc };
    // SAFETY: the whole warpgroup waits for its own multiply.
    unsafe { wgmma::wait_with::<0, O>(sums) };
    add_part::<V, O>(&mut state.acc, &part);
    ctx.seat.release(values);
}
