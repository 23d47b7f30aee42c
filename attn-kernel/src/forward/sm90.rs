//! The Hopper forward kernel: one producer warpgroup with TMA, two or three consumer warpgroups with wgmma.
//!
//! Each consumer warpgroup owns 64 query rows; all of them share the K and V tiles, walked from the last visible block
//! down to block 0. One warpgroup's view, with S, P and O in registers:
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

pub mod anatomy;
mod block;
mod epilogue;
pub mod kernels;
mod merge;

pub use kernels::{KERNELS, describe};

use self::block::{Rings, Seat, Walker, WarpQuad, Work};
use super::params::{ForwardParams, TensorMap};
use super::plan::{Plan, ROWS, WARPGROUP};
use crate::attn::mask::{self, Lengths, Mask};
use crate::attn::softmax::{self, Block, Knobs, Rows};
use crate::entry;
use crate::mem::descriptor::{Descriptor, k_major_step, mn_major_step};
use crate::mem::{Element, Smem, Swizzle};
use crate::pipe::ring::{self, Consumer, Producer};
use crate::ptx::wgmma::{self, K_MAJOR, MN_MAJOR};
use crate::ptx::{fence, grid, tma, warp};

/// What distinguishes one instantiation from another.
pub trait Variant {
    /// Tile shapes and resources.
    const PLAN: Plan;
    /// Element type of Q, K, V, O.
    type Element: Element;
    /// Which keys a query sees.
    type Mask: Mask;

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
struct Maps {
    q: *const TensorMap,
    k: *const TensorMap,
    v: *const TensorMap,
    o: *const TensorMap,
}

/// The kernel. `S`, `O` and `P` are a thread's registers for the scores (f32), the output (f32) and the packed
/// probabilities: `bn / 2`, `dv / 2` and `bn / 4`.
///
/// # Safety
/// Runs as a kernel of `PLAN.threads()` threads with `PLAN.smem().end` bytes of dynamic shared memory; maps and parameters
/// describe live device memory as [`ForwardParams`] says.
#[inline(always)]
unsafe fn forward<
    V: Variant,
    const S: usize,
    const O: usize,
    const P: usize,
    const STAGES: u32,
    const QUERIES: u32,
    const SPLIT: u32,
>(
    params: ForwardParams,
    maps: Maps,
) {
    let smem = Smem::new(entry::dynamic_shared());
    let rings = Rings::<STAGES, QUERIES>::new::<V>(smem);
    let walker = Walker::new(&params);
    // Taken from lane 0, so that the compiler knows the role to be uniform and keeps addresses in uniform registers.
    let warp = warp::uniform(entry::thread_idx_x() / 32);
    let group = warp / (WARPGROUP / 32);
    let ready = const { block::ready(&V::PLAN) };

    // SAFETY: the thread that initialises the barriers is the first to use them; every other one that does has met its arrival. Whole
    // warpgroups take a role, and `Plan::checked` has proven that their register budgets add up.
    unsafe {
        if group == 0 {
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
            // No wait: the lane that loads is the one that has made the barriers, since an election always has the same result.
            ready.arrive();
            V::enter_producer();
            if warp == 0 && warp::elect() {
                produce::<V, STAGES, QUERIES>(&params, maps, rings, walker);
            }
        } else {
            ready.sync();
            V::enter_consumer();
            consume::<V, S, O, P, STAGES, QUERIES, SPLIT>(&params, maps, rings, walker, smem, group - 1);
        }
    }
}

// ---- producer ----

/// Keeps the rings full.
///
/// # Safety
/// Called by one thread of the block.
#[inline(always)]
unsafe fn produce<V: Variant, const STAGES: u32, const QUERIES: u32>(
    params: &ForwardParams,
    maps: Maps,
    rings: Rings<STAGES, QUERIES>,
    mut walker: Walker,
) {
    let plan = const { V::PLAN };
    let (mut q, mut k, mut v) = (rings.q.split().0, rings.k.split().0, rings.v.split().0);
    let mut work = walker.next::<V>();
    // Everything that the block reads or writes in global memory comes after these loads. The next kernel's blocks may set themselves up
    // from now on; they wait in their turn for all of this one.
    grid::wait();
    grid::launch_dependents();
    while let Some(Work { tile, blocks }) = work {
        let kv_head = params.group.div_rem(tile.head).0 as i32;
        let batch = tile.batch as i32;
        let keys = |block: u32| [0, (block * plan.bn) as i32, kv_head, batch];
        let rows = [0, (tile.m_block * plan.bm) as i32, tile.head as i32, batch];
        // SAFETY: each map's box is one panel, and the panels fill the stage exactly.
        unsafe {
            if blocks > 0 {
                load(&mut k, maps.k, plan.d, plan.bn, 1, keys(blocks - 1));
            }
            // Also for a tile without keys: its zeros may go out through Q's memory, which must be the consumers' by then.
            load(&mut q, maps.q, plan.d, ROWS, plan.bm / ROWS, rows);
            let mut block = blocks;
            while block > 1 {
                block -= 1;
                load(&mut k, maps.k, plan.d, plan.bn, 1, keys(block - 1));
                load(&mut v, maps.v, plan.dv, plan.bn, 1, keys(block));
            }
            if blocks > 0 {
                load(&mut v, maps.v, plan.dv, plan.bn, 1, keys(0));
            }
        }
        work = walker.next::<V>();
    }
    // No drain: the consumers wait for every stage, so no copy is in flight when the block ends.
}

/// Fills the next stage with `parts` groups of `rows` rows of `d` elements, a panel a copy.
///
/// # Safety
/// The stage holds `parts * rows * d` elements, and the map's box is one panel of `rows` rows.
#[inline(always)]
unsafe fn load<const STAGES: u32>(
    ring: &mut Producer<STAGES>,
    map: *const TensorMap,
    d: u32,
    rows: u32,
    parts: u32,
    from: [i32; 4],
) {
    let slot = ring.acquire();
    let (tile, full) = (slot.tile(), slot.full());
    slot.expect(parts * rows * d * 2);
    let mut part = 0;
    while part < parts {
        let mut column = 0;
        while column < d {
            let target = tile.offset((part * d + column) * rows * 2);
            let coords = [column as i32, from[1] + (part * rows) as i32, from[2], from[3]];
            // SAFETY: the caller's promise.
            unsafe { tma::load(target, map, coords, full) };
            column += Plan::panel(d);
        }
        part += 1;
    }
}

// ---- consumers ----

/// What stays the same while a warpgroup works on a tile.
#[derive(Clone, Copy)]
struct Context {
    seat: Seat,
    knobs: Knobs,
    queries: Descriptor,
}

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
>(
    params: &ForwardParams,
    maps: Maps,
    rings: Rings<STAGES, QUERIES>,
    mut walker: Walker,
    smem: Smem<()>,
    group: u32,
) {
    let plan = const { V::PLAN };
    let seat = Seat::of::<V>(group);
    let knobs = Knobs { scale_log2: params.scale_log2, bound: V::Element::SUM_BOUND, exp2: plan.exp2 };
    let mut q = rings.q.split().1;
    let (mut k, mut v) = (rings.k.share::<SPLIT>(seat.part), rings.v.share::<SPLIT>(seat.part));
    let swizzle = const { Swizzle::of_span(Plan::panel(V::PLAN.d) * 2) };
    // In Q's memory it is the warpgroup's own rows of Q that O takes, which are wider where d is.
    let width = const { if V::PLAN.o_in_q() { V::PLAN.d } else { V::PLAN.dv } };
    let o = smem.offset(const { V::PLAN.smem().o } + seat.rows * width * 2);
    let handed = merge::Handed::new(smem.offset(const { V::PLAN.smem().handed }), seat);
    // Key blocks of all tiles so far, of which every other one is the warpgroup's where two split them.
    let mut passed = 0;
    if group + 1 == plan.consumers() {
        seat.pass_turn::<V>(); // the first turn is warpgroup 0's
    }

    while let Some(work) = walker.next::<V>() {
        let tile = q.wait();
        let queries = Descriptor::k_major(swizzle, tile.tile().offset(seat.rows * plan.d * 2));
        let ctx = Context { seat, knobs, queries };
        let first_row = work.tile.m_block * plan.bm + seat.rows;
        let mut state = State { rows: Rows::new(), acc: [0.0; O], p: [0; P] };

        // The blocks that only other warpgroups' rows see.
        let own = own_blocks::<V>(walker.lengths, first_row);
        let mut block = work.blocks;
        while block > own {
            block -= 1;
            skip::<V, STAGES>(seat, &mut k, &mut v, block);
        }
        if const { SPLIT > 1 } {
            block = block.saturating_sub((passed + seat.part) % SPLIT);
            passed += work.blocks;
        }
        let has_keys = block > 0;
        if has_keys {
            let limits = visible::<V>(walker.lengths, first_row, seat);
            first_step::<V, S, O, P, STAGES>(&ctx, &mut k, &mut state, limits, block - 1);
            block = before::<SPLIT>(block);
            if V::Mask::PARTIAL_BLOCKS {
                let whole = V::Mask::full_blocks(walker.lengths, first_row, plan.bn);
                while block > whole {
                    step::<V, S, O, P, STAGES>(&ctx, &mut k, &mut v, &mut state, |scores| {
                        mask::apply(scores, in_block(limits, block - 1, plan.bn));
                    });
                    block = before::<SPLIT>(block);
                }
            }
            while block > 0 {
                step::<V, S, O, P, STAGES>(&ctx, &mut k, &mut v, &mut state, |_| {});
                block = before::<SPLIT>(block);
            }
        }
        // Every multiply with Q has been waited for: the next tile's may come, unless O leaves through this one's memory.
        let tile = if const { V::PLAN.o_in_q() } {
            Some(tile)
        } else {
            seat.release(tile);
            None
        };
        if has_keys {
            last_step::<V, O, P, STAGES>(&ctx, &mut v, &mut state);
        }
        if const { SPLIT > 1 } {
            // SAFETY: both warpgroups come here once a tile.
            unsafe { handed.merge(seat, &mut state.rows, &mut state.acc, &knobs) };
            if seat.part > 0 {
                continue;
            }
        }

        let (inverse, lse) = state.rows.finish::<WarpQuad>(&knobs);
        softmax::scale_rows(&mut state.acc, inverse);
        // SAFETY: `o` is this warpgroup's; where it is also Q's memory, its multiplies with Q have been waited for.
        unsafe {
            epilogue::stage_output::<V, O>(seat, o, &state.acc);
            if seat.thread == 0 {
                epilogue::store_output::<V>(maps.o, o, work.tile, first_row, walker.lengths.q);
            }
            if let Some(tile) = tile {
                if seat.thread == 0 {
                    tma::wait_group_read::<0>();
                }
                tile.release_by(seat.thread == 0);
            }
            epilogue::store_lse(params, work.tile, first_row, seat, lse);
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

/// Keys that the thread's two rows see, counted from the thread's first column of block 0.
#[inline(always)]
fn visible<V: Variant>(lengths: Lengths, first_row: u32, seat: Seat) -> [i32; 2] {
    let row = first_row + seat.row();
    let limit = |row| V::Mask::visible_keys(lengths, row) as i32 - seat.column() as i32;
    [limit(row), limit(row + 8)]
}

/// The same, counted from the thread's first column of `block`.
#[inline(always)]
fn in_block(limits: [i32; 2], block: u32, bn: u32) -> [i32; 2] {
    limits.map(|l| l - (block * bn) as i32)
}

/// Key blocks that the warpgroup's rows from `first_row` on need, at most those of the whole tile: none for rows past the last query.
#[inline(always)]
fn own_blocks<V: Variant>(lengths: Lengths, first_row: u32) -> u32 {
    if first_row < lengths.q { V::Mask::blocks(lengths, first_row, ROWS, V::PLAN.bn) } else { 0 }
}

/// A block that none of the warpgroup's rows sees: its stages pass by unread, and its turn is handed on.
#[inline(always)]
fn skip<V: Variant, const STAGES: u32>(seat: Seat, k: &mut Consumer<STAGES>, v: &mut Consumer<STAGES>, block: u32) {
    // Block 0 is the others' first one if it is skipped, and takes no turn.
    if block > 0 {
        seat.take_turn::<V>();
        seat.pass_turn::<V>();
    }
    // Waited for, because an arrival before the stage has been filled would count for its previous filling.
    seat.release(k.wait());
    seat.release(v.wait());
}

/// The tile's first block, the one with its last visible key: nothing yet to multiply with V.
#[inline(always)]
fn first_step<V: Variant, const S: usize, const O: usize, const P: usize, const STAGES: u32>(
    ctx: &Context,
    k: &mut Consumer<STAGES>,
    state: &mut State<O, P>,
    limits: [i32; 2],
    block: u32,
) {
    let keys = k.wait();
    let mut scores = issue_scores::<V, S>(ctx.queries, keys.tile());
    // SAFETY: the whole warpgroup waits for its own multiply.
    unsafe { wgmma::wait_with::<0, S>(&mut scores) };
    ctx.seat.release(keys);
    mask::apply(&mut scores, in_block(limits, block, V::PLAN.bn));
    state.rows.first::<WarpQuad, S>(&mut scores, &ctx.knobs);
    state.p = pack::<V::Element, S, P>(&scores);
}

/// A later block: its S and the previous block's O run together, and [`Plan::exp_under_output`] eighths of its exponentials under O.
#[inline(always)]
fn step<V: Variant, const S: usize, const O: usize, const P: usize, const STAGES: u32>(
    ctx: &Context,
    k: &mut Consumer<STAGES>,
    v: &mut Consumer<STAGES>,
    state: &mut State<O, P>,
    mask: impl FnOnce(&mut [f32; S]),
) {
    let keys = k.wait();
    ctx.seat.take_turn::<V>();
    let mut scores = issue_scores::<V, S>(ctx.queries, keys.tile());
    let values = v.wait();
    issue_output::<V, O, P>(&mut state.acc, &state.p, values.tile());
    ctx.seat.pass_turn::<V>();

    let under = const { V::PLAN.exp_under_output as usize } * P / 8;
    let mut block = Block::new();
    // SAFETY: the whole warpgroup waits. The scores were committed first: they are done when one group is left. After the wait for
    // none, O and P are ordinary registers again.
    unsafe {
        if under > 0 {
            wgmma::wait_with::<1, S>(&mut scores);
            ctx.seat.release(keys);
            mask(&mut scores);
            state.rows.probabilities(&scores, 0..under, &ctx.knobs, &mut block, V::Element::pack);
            wgmma::hold_waits(block.witness());
            wgmma::wait_with::<0, O>(&mut state.acc);
        } else {
            wgmma::wait_with::<0, S>(&mut scores);
            wgmma::tie(&mut state.acc);
            ctx.seat.release(keys);
            mask(&mut scores);
        }
        wgmma::tie_packed(&mut state.p);
    }
    ctx.seat.release(values);
    state.rows.probabilities(&scores, under..P, &ctx.knobs, &mut block, V::Element::pack);
    // SAFETY: registers only. It keeps the roundings between the exponentials: they would move behind the branch.
    unsafe { wgmma::tie_packed(&mut block.p) };
    // Voted, so that the whole warp takes the branch, and quads may exchange.
    if warp::any(!block.within(&ctx.knobs)) {
        let factor = state.rows.raise::<WarpQuad, S>(&mut scores, &ctx.knobs);
        softmax::scale_rows(&mut state.acc, factor);
        state.p = pack::<V::Element, S, P>(&scores);
    } else {
        state.rows.add(&block);
        state.p = block.p;
    }
}

/// The last P V of the tile.
#[inline(always)]
fn last_step<V: Variant, const O: usize, const P: usize, const STAGES: u32>(
    ctx: &Context,
    v: &mut Consumer<STAGES>,
    state: &mut State<O, P>,
) {
    let values = v.wait();
    issue_output::<V, O, P>(&mut state.acc, &state.p, values.tile());
    // SAFETY: the whole warpgroup waits for its own multiply.
    unsafe { wgmma::wait_with::<0, O>(&mut state.acc) };
    ctx.seat.release(values);
}

/// Issues S = Q Kᵀ as one committed group.
#[inline(always)]
fn issue_scores<V: Variant, const S: usize>(queries: Descriptor, keys: Smem<ring::Tile>) -> [f32; S] {
    let plan = const { V::PLAN };
    let swizzle = const { Swizzle::of_span(Plan::panel(V::PLAN.d) * 2) };
    let keys = Descriptor::k_major(swizzle, keys);
    // SAFETY: both tiles have been waited for and stay until the group has been waited for; the whole warpgroup issues.
    unsafe {
        wgmma::fence();
        let mut scores = wgmma::ss_zero::<V::Element, S, K_MAJOR>(queries, keys);
        let mut i = 1;
        while i < plan.d / 16 {
            let a = queries.advance(k_major_step(swizzle, ROWS, i));
            let b = keys.advance(k_major_step(swizzle, plan.bn, i));
            wgmma::ss::<V::Element, S, K_MAJOR>(&mut scores, a, b);
            i += 1;
        }
        wgmma::commit();
        scores
    }
}

/// Issues O += P V as one committed group. P's packed registers are A fragments as they are.
///
/// In [`step`] the scores' fence orders these registers already, but ptxas (13.5) does not see it over the wait for V: without
/// a fence of its own it inserts one into that wait's loop, and serialises the multiplies (C7519).
#[inline(always)]
fn issue_output<V: Variant, const O: usize, const P: usize>(
    acc: &mut [f32; O],
    p: &[u32; P],
    values: Smem<ring::Tile>,
) {
    let plan = const { V::PLAN };
    let swizzle = const { Swizzle::of_span(Plan::panel(V::PLAN.dv) * 2) };
    let values = Descriptor::mn_major(swizzle, values, plan.bn * swizzle.span());
    // SAFETY: as in `issue_scores`.
    unsafe {
        wgmma::fence();
        let mut i = 0;
        while i < P {
            let b = values.advance(mn_major_step(swizzle, i as u32 / 4));
            wgmma::rs::<V::Element, O, MN_MAJOR>(acc, [p[i], p[i + 1], p[i + 2], p[i + 3]], b);
            i += 4;
        }
        wgmma::commit();
    }
}

/// Rounds to the element type, two values to a register.
#[inline(always)]
fn pack<E: Element, const S: usize, const P: usize>(scores: &[f32; S]) -> [u32; P] {
    let mut p = [0; P];
    let mut i = 0;
    while i < P {
        p[i] = E::pack(scores[2 * i], scores[2 * i + 1]);
        i += 1;
    }
    p
}
