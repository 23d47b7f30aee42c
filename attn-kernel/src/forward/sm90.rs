//! The Hopper forward kernel: one producer warpgroup with TMA, two or three consumer warpgroups with wgmma.
//!
//! Each consumer warpgroup owns 64 query rows; all of them share the K and V tiles, walked from the last visible block
//! down to block 0. One warpgroup's view, with S, P and O in registers:
//!
//! | producer | tensor cores                  | softmax, while the tensor cores run         |
//! |----------|-------------------------------|---------------------------------------------|
//! | K0, Q    | S = Q K0ᵀ                     |                                             |
//! | K1, V0   |                               | P = exp2(S), block 0                        |
//! | K2, V1   | S = Q K1ᵀ, then O += P V0     | S is done: exp2(S), block 1, while O runs   |
//! | ...      |                               | O is done: P = S, O rescaled where it must  |
//! | Vn       | O += P Vn                     |                                             |
//! | next Q   |                               | O / sum to shared memory, TMA store, LSE    |
//!
//! With [`Plan::ping_pong`] the warpgroups also take turns: one issues its two multiplies, hands the tensor cores on, and
//! computes its softmax while the others' multiplies run.

use super::params::{ForwardParams, TensorMap};
use super::plan::{Arch, DType, Kernel, Plan, ROWS, Schedule, WARPGROUP};
use super::tune;
use crate::attn::mask::{self, Causal, Full, Lengths, Mask};
use crate::attn::softmax::{self, Knobs, Quad, Rows};
use crate::attn::walk::{self, Grid, Tile};
use crate::entry;
use crate::mem::descriptor::{Descriptor, k_major_step, mn_major_step};
use crate::mem::{Bf16, Element, F16, Smem, Swizzle};
use crate::pipe::named::NamedBarrier;
use crate::pipe::ring::{self, Consumer, Producer, Ring};
use crate::ptx::wgmma::{self, K_MAJOR, MN_MAJOR};
use crate::ptx::{barrier, fence, ldst, math, matrix, regs, tma, warp};

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

/// Barrier-guarded buffers: the Q tile as a ring of one, then K and V.
#[derive(Clone, Copy)]
struct Rings<const STAGES: u32> {
    q: Ring<1>,
    k: Ring<STAGES>,
    v: Ring<STAGES>,
}

impl<const STAGES: u32> Rings<STAGES> {
    #[inline(always)]
    fn new<V: Variant>(smem: Smem<()>) -> Self {
        let (plan, map) = const { (V::PLAN, V::PLAN.smem()) };
        let q = smem.offset(map.barriers);
        let k = q.offset(Ring::<1>::BARRIER_BYTES);
        let v = k.offset(Ring::<STAGES>::BARRIER_BYTES);
        // SAFETY: the plan's map gives each ring memory of its own, and `forward` initialises before the roles part.
        unsafe {
            Rings {
                q: Ring::new(smem.offset(map.q).cast(), plan.q_bytes(), q.cast()),
                k: Ring::new(smem.offset(map.k).cast(), plan.k_bytes(), k.cast()),
                v: Ring::new(smem.offset(map.v).cast(), plan.v_bytes(), v.cast()),
            }
        }
    }

    /// # Safety
    /// Called by one thread, before any other touches the barriers.
    #[inline(always)]
    unsafe fn init<V: Variant>(&self) {
        let (groups, shared) = const { (V::PLAN.consumers(), V::PLAN.o_in_q()) };
        let warps = groups * WARPGROUP / 32;
        // SAFETY: passed on to the caller.
        unsafe {
            // Where O reuses Q's memory, Q is given back by the one thread of a warpgroup that knows that O has left.
            self.q.init(1, if shared { groups } else { warps });
            self.k.init(1, warps);
            self.v.init(1, warps);
        }
    }
}

/// The tiles of this block, in order. Every role walks the same ones.
#[derive(Clone, Copy)]
struct Walker {
    grid: Grid,
    lengths: Lengths,
    round: u32,
}

/// A tile and the number of key blocks that it needs.
#[derive(Clone, Copy)]
struct Work {
    tile: Tile,
    blocks: u32,
}

impl Walker {
    #[inline(always)]
    fn new(p: &ForwardParams) -> Self {
        let grid = Grid { m_blocks: p.m_blocks, heads: p.heads, tiles: p.tiles, section: p.heads_in_l2 };
        Walker { grid, lengths: Lengths { q: p.seqlen_q, k: p.seqlen_k }, round: 0 }
    }

    #[inline(always)]
    fn next<V: Variant>(&mut self) -> Option<Work> {
        let index = walk::index(self.round, entry::block_idx_x(), entry::grid_dim_x(), self.grid.tiles)?;
        self.round += 1;
        let tile = match const { V::PLAN.schedule } {
            Schedule::Persistent => walk::by_head(&self.grid, index),
            Schedule::LongestFirst => walk::longest_first(&self.grid, index),
        };
        let (bm, bn) = const { (V::PLAN.bm, V::PLAN.bn) };
        Some(Work { tile, blocks: V::Mask::blocks(self.lengths, tile.m_block * bm, bm, bn) })
    }
}

/// The kernel. `S`, `O` and `P` are a thread's registers for the scores (f32), the output (f32) and the packed
/// probabilities: `bn / 2`, `dv / 2` and `bn / 4`.
///
/// # Safety
/// Runs as a kernel of `PLAN.threads()` threads with `PLAN.smem().end` bytes of dynamic shared memory; maps and parameters
/// describe live device memory as [`ForwardParams`] says.
#[inline(always)]
unsafe fn forward<V: Variant, const S: usize, const O: usize, const P: usize, const STAGES: u32>(
    params: ForwardParams,
    maps: Maps,
) {
    let smem = Smem::new(entry::dynamic_shared());
    let rings = Rings::<STAGES>::new::<V>(smem);
    let walker = Walker::new(&params);
    // Taken from lane 0, so that the compiler knows the role to be uniform and keeps addresses in uniform registers.
    let warp = warp::uniform(entry::thread_idx_x() / 32);
    let group = warp / (WARPGROUP / 32);

    // SAFETY: one thread initialises the barriers and all threads pass `sync_all` before the first use; whole warpgroups take
    // a role, and `Plan::checked` has proven that their register budgets add up.
    unsafe {
        if entry::thread_idx_x() == 0 {
            tma::prefetch_map(maps.q);
            tma::prefetch_map(maps.k);
            tma::prefetch_map(maps.v);
            tma::prefetch_map(maps.o);
            rings.init::<V>();
            fence::mbarrier_init();
            // The async proxy (TMA's completion) must see the barriers too.
            fence::proxy_async_shared_cta();
        }
        barrier::sync_all();

        if group == 0 {
            V::enter_producer();
            if warp == 0 && warp::elect() {
                produce::<V, STAGES>(&params, maps, rings, walker);
            }
        } else {
            V::enter_consumer();
            let o = smem.offset(const { V::PLAN.smem().o });
            consume::<V, S, O, P, STAGES>(&params, maps, rings, walker, o, group - 1);
        }
    }
}

// ---- producer ----

/// Keeps the rings full.
///
/// # Safety
/// Called by one thread of the block.
#[inline(always)]
unsafe fn produce<V: Variant, const STAGES: u32>(
    params: &ForwardParams,
    maps: Maps,
    rings: Rings<STAGES>,
    mut walker: Walker,
) {
    let plan = const { V::PLAN };
    let (mut q, mut k, mut v) = (rings.q.split().0, rings.k.split().0, rings.v.split().0);
    while let Some(Work { tile, blocks }) = walker.next::<V>() {
        let kv_head = walk::div_rem(tile.head, params.group).0 as i32;
        let batch = tile.batch as i32;
        let keys = |block: u32| [0, (block * plan.bn) as i32, kv_head, batch];
        let rows = [0, (tile.m_block * plan.bm) as i32, tile.head as i32, batch];
        // SAFETY: each map's box is one panel, and the panels fill the stage exactly.
        unsafe {
            if blocks > 0 {
                load(&mut k, maps.k, plan.d, plan.bn, 1, keys(blocks - 1));
            }
            // Also for a tile without keys: its zeros may go out through Q's memory, which must be the consumers' by then.
            load(&mut q, maps.q, plan.d, ROWS, plan.consumers(), rows);
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

/// Named barriers of the ping-pong: the turn of each consumer warpgroup, met by it and by the one that passes the turn on.
const TURN: NamedBarrier = NamedBarrier::new(1, 2 * WARPGROUP);
/// Named barriers inside each consumer warpgroup.
const INSIDE: NamedBarrier = NamedBarrier::new(4, WARPGROUP);

/// A thread's place among the consumers.
#[derive(Clone, Copy)]
struct Seat {
    /// Consumer warpgroup, from 0.
    group: u32,
    /// Thread of the warpgroup.
    thread: u32,
}

impl Seat {
    /// First of the thread's two rows within the warpgroup's 64; the other one is 8 further.
    #[inline(always)]
    fn row(self) -> u32 {
        self.thread / 32 * 16 + self.thread % 32 / 4
    }

    /// The thread's first column within every 8 of a fragment.
    #[inline(always)]
    fn column(self) -> u32 {
        self.thread % 4 * 2
    }

    /// Gives a stage back: one arrival a warp.
    #[inline(always)]
    fn release(self, stage: ring::Full) {
        stage.release_by(self.thread.is_multiple_of(32));
    }

    /// Waits until the tensor cores are this warpgroup's.
    #[inline(always)]
    fn take_turn<V: Variant>(self) {
        if const { V::PLAN.ping_pong && V::PLAN.consumers() > 1 } {
            // SAFETY: all threads of this warpgroup wait here, and the warpgroup before it arrives once for each wait.
            unsafe { TURN.of(self.group).sync() }
        }
    }

    /// Hands the tensor cores to the next warpgroup.
    #[inline(always)]
    fn pass_turn<V: Variant>(self) {
        if const { V::PLAN.ping_pong && V::PLAN.consumers() > 1 } {
            let next = self.group + 1;
            let next = if next == const { V::PLAN.consumers() } { 0 } else { next };
            // SAFETY: as in `take_turn`.
            unsafe { TURN.of(next).arrive() }
        }
    }

    /// All threads of this warpgroup meet.
    #[inline(always)]
    fn sync(self) {
        // SAFETY: called on paths that the whole warpgroup takes.
        unsafe { INSIDE.of(self.group).sync() }
    }
}

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
/// Called by all threads of that warpgroup, converged; `o` is the O tile of the plan's map.
#[inline(always)]
unsafe fn consume<V: Variant, const S: usize, const O: usize, const P: usize, const STAGES: u32>(
    params: &ForwardParams,
    maps: Maps,
    rings: Rings<STAGES>,
    mut walker: Walker,
    o: Smem<()>,
    group: u32,
) {
    let plan = const { V::PLAN };
    let seat = Seat { group, thread: entry::thread_idx_x() % WARPGROUP };
    let knobs = Knobs { scale_log2: params.scale_log2, threshold: plan.rescale_threshold, exp2: plan.exp2 };
    let (mut q, mut k, mut v) = (rings.q.split().1, rings.k.split().1, rings.v.split().1);
    let swizzle = const { Swizzle::of_span(Plan::panel(V::PLAN.d) * 2) };
    let o = o.offset(group * ROWS * plan.dv * 2);
    if group + 1 == plan.consumers() {
        seat.pass_turn::<V>(); // the first turn is warpgroup 0's
    }

    while let Some(work) = walker.next::<V>() {
        let tile = q.wait_converged();
        let queries = Descriptor::k_major(swizzle, tile.tile().offset(group * ROWS * plan.d * 2));
        let ctx = Context { seat, knobs, queries };
        let first_row = work.tile.m_block * plan.bm + group * ROWS;
        let mut state = State { rows: Rows::new(), acc: [0.0; O], p: [0; P] };

        if work.blocks > 0 {
            let limits = visible::<V>(walker.lengths, first_row, seat);
            let mut block = work.blocks - 1;
            first_step::<V, S, O, P, STAGES>(&ctx, &mut k, &mut state, limits, block);
            if V::Mask::PARTIAL_BLOCKS {
                let whole = V::Mask::full_blocks(walker.lengths, first_row, plan.bn);
                while block > whole {
                    block -= 1;
                    step::<V, S, O, P, STAGES>(&ctx, &mut k, &mut v, &mut state, |scores| {
                        mask::apply(scores, in_block(limits, block, plan.bn));
                    });
                }
            }
            while block > 0 {
                block -= 1;
                step::<V, S, O, P, STAGES>(&ctx, &mut k, &mut v, &mut state, |_| {});
            }
            last_step::<V, O, P, STAGES>(&ctx, &mut v, &mut state);
        }

        let shared = const { V::PLAN.o_in_q() };
        let tile = if shared {
            Some(tile)
        } else {
            seat.release(tile);
            None
        };
        let (inverse, lse) = state.rows.finish::<WarpQuad>(&knobs);
        softmax::scale_rows(&mut state.acc, inverse);
        // SAFETY: `o` is this warpgroup's; where it is also Q's memory, its multiplies with Q have been waited for.
        unsafe {
            stage_output::<V, O>(seat, o, &state.acc);
            if seat.thread == 0 {
                store_output::<V>(maps.o, o, work.tile, first_row, walker.lengths.q);
            }
            if let Some(tile) = tile {
                if seat.thread == 0 {
                    tma::wait_group_read::<0>();
                }
                tile.release_by(seat.thread == 0);
            }
            store_lse(params, work.tile, first_row, seat, lse);
        }
    }
    if seat.thread == 0 {
        tma::wait_group::<0>(); // shared memory lives until the last store has read it
    }
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

/// The tile's first block, the one with its last visible key: nothing yet to multiply with V.
#[inline(always)]
fn first_step<V: Variant, const S: usize, const O: usize, const P: usize, const STAGES: u32>(
    ctx: &Context,
    k: &mut Consumer<STAGES>,
    state: &mut State<O, P>,
    limits: [i32; 2],
    block: u32,
) {
    let keys = k.wait_converged();
    let mut scores = issue_scores::<V, S>(ctx.queries, keys.tile());
    // SAFETY: the whole warpgroup waits for its own multiply.
    unsafe { wgmma::wait_with::<0, S>(&mut scores) };
    ctx.seat.release(keys);
    mask::apply(&mut scores, in_block(limits, block, V::PLAN.bn));
    state.rows.first::<WarpQuad, S>(&mut scores, &ctx.knobs);
    state.p = pack::<V::Element, S, P>(&scores);
}

/// A later block: its S and the previous block's O run together, its softmax under the tail of O.
#[inline(always)]
fn step<V: Variant, const S: usize, const O: usize, const P: usize, const STAGES: u32>(
    ctx: &Context,
    k: &mut Consumer<STAGES>,
    v: &mut Consumer<STAGES>,
    state: &mut State<O, P>,
    mask: impl FnOnce(&mut [f32; S]),
) {
    let keys = k.wait_converged();
    ctx.seat.take_turn::<V>();
    let mut scores = issue_scores::<V, S>(ctx.queries, keys.tile());
    let values = v.wait_converged();
    issue_output::<V, O, P>(&mut state.acc, &state.p, values.tile());
    ctx.seat.pass_turn::<V>();

    // SAFETY: the whole warpgroup waits. The scores were committed first: they are done when one group is left.
    unsafe { wgmma::wait_with::<1, S>(&mut scores) };
    ctx.seat.release(keys);
    mask(&mut scores);
    let factor = state.rows.step::<WarpQuad, S>(&mut scores, &ctx.knobs);
    wgmma::hold_waits(state.rows.witness());

    // SAFETY: as above; after this, O and P are ordinary registers again.
    unsafe {
        wgmma::wait_with::<0, O>(&mut state.acc);
        wgmma::tie_packed(&mut state.p);
    }
    ctx.seat.release(values);
    state.p = pack::<V::Element, S, P>(&scores);
    // Voted, so that the multiplications are skipped by a branch that the whole warp takes.
    if warp::any(factor[0] != 1.0 || factor[1] != 1.0) {
        softmax::scale_rows(&mut state.acc, factor);
    }
}

/// The last P V of the tile.
#[inline(always)]
fn last_step<V: Variant, const O: usize, const P: usize, const STAGES: u32>(
    ctx: &Context,
    v: &mut Consumer<STAGES>,
    state: &mut State<O, P>,
) {
    let values = v.wait_converged();
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

/// The four threads of a warp that share a fragment's rows.
struct WarpQuad;

impl Quad for WarpQuad {
    #[inline(always)]
    fn max(x: f32) -> f32 {
        let x = math::max(x, warp::shfl_xor_f32(x, 1));
        math::max(x, warp::shfl_xor_f32(x, 2))
    }

    #[inline(always)]
    fn sum(x: f32) -> f32 {
        let x = x + warp::shfl_xor_f32(x, 1);
        x + warp::shfl_xor_f32(x, 2)
    }
}

// ---- epilogue ----

/// Writes the warpgroup's 64 rows of O to shared memory, rounded and swizzled as the TMA store expects.
///
/// # Safety
/// `o` is the warpgroup's own 64 x dv tile; called by all its threads, converged.
#[inline(always)]
unsafe fn stage_output<V: Variant, const O: usize>(seat: Seat, o: Smem<()>, acc: &[f32; O]) {
    let swizzle = const { Swizzle::of_span(Plan::panel(V::PLAN.dv) * 2) };
    let panel = const { Plan::panel(V::PLAN.dv) as usize };
    // The previous tile's store has read this memory; all warps are done with what else lies in it.
    if seat.thread == 0 {
        tma::wait_group_read::<0>();
    }
    seat.sync();
    // stmatrix takes four 8x8 matrices: both row halves of two neighbouring column groups. Lane `l` names row `l % 16` of
    // group `l / 16`.
    let lane = seat.thread % 32;
    let row = (seat.thread / 32 * 16 + lane % 16) * swizzle.span() + lane / 16 * 16;
    let mut i = 0;
    while i < O {
        let column = 2 * i; // 8 registers are 16 columns
        let at = (column / panel) as u32 * ROWS * swizzle.span() + (column % panel) as u32 * 2;
        let pairs = [0, 2, 4, 6].map(|j| V::Element::pack(acc[i + j], acc[i + j + 1]));
        // SAFETY: inside the tile; the tile starts on the swizzle's period, so swizzling the offset swizzles the address.
        unsafe { matrix::stmatrix_x4(o.addr() + swizzle.apply(row + at), pairs) };
        i += 8;
    }
    fence::proxy_async_shared_cta();
    seat.sync();
}

/// Stores the staged rows, a panel a copy; the map cuts off rows and columns that do not exist.
///
/// # Safety
/// Called by one thread after [`stage_output`].
#[inline(always)]
unsafe fn store_output<V: Variant>(map: *const TensorMap, o: Smem<()>, tile: Tile, first_row: u32, seqlen_q: u32) {
    if first_row >= seqlen_q {
        return;
    }
    let dv = const { V::PLAN.dv };
    let mut column = 0;
    while column < dv {
        let coords = [column as i32, first_row as i32, tile.head as i32, tile.batch as i32];
        // SAFETY: the panel lies in the staged tile.
        unsafe { tma::store(map, coords, o.offset(column * ROWS * 2)) };
        column += Plan::panel(dv);
    }
    tma::commit_group();
}

/// Writes the LSE of the warpgroup's rows, one thread of each quad.
///
/// # Safety
/// `params.lse` is null or the LSE array that [`ForwardParams`] describes.
#[inline(always)]
unsafe fn store_lse(params: &ForwardParams, tile: Tile, first_row: u32, seat: Seat, lse: [f32; 2]) {
    if params.lse.is_null() || seat.column() != 0 {
        return;
    }
    let line = tile.batch as u64 * params.lse_batch_stride + tile.head as u64 * params.lse_head_stride;
    for (r, &value) in lse.iter().enumerate() {
        let row = first_row + seat.row() + 8 * r as u32;
        if row < params.seqlen_q {
            // SAFETY: the row exists.
            unsafe { ldst::st_global_f32(params.lse.wrapping_add((line + row as u64) as usize), value) };
        }
    }
}

// ---- instantiations ----

macro_rules! kernels {
    ($($name:ident: $dtype:ident, $d:literal, $dv:literal, $mask:ident;)*) => {
        /// The kernels of this file.
        pub const KERNELS: &[Kernel] = &[$(Kernel {
            name: stringify!($name),
            arch: Arch::Sm90a,
            dtype: DType::$dtype,
            causal: <$mask as Mask>::PARTIAL_BLOCKS,
            plan: tune::plan($d, $dv, <$mask as Mask>::PARTIAL_BLOCKS),
        }),*];

        $(
        /// One instantiation: its plan, element type and mask, and the entry point.
        pub mod $name {
            use super::*;

            const PLAN: Plan = tune::plan($d, $dv, <$mask as Mask>::PARTIAL_BLOCKS);

            enum This {}

            impl Variant for This {
                const PLAN: Plan = PLAN;
                type Element = $dtype;
                type Mask = $mask;

                #[inline(always)]
                unsafe fn enter_consumer() {
                    // SAFETY: the caller's promise.
                    unsafe { regs::setmaxnreg_inc::<{ PLAN.regs.consumer }>() }
                }

                #[inline(always)]
                unsafe fn enter_producer() {
                    // SAFETY: the caller's promise.
                    unsafe { regs::setmaxnreg_dec::<{ PLAN.regs.producer }>() }
                }
            }

            crate::kernel! {
                threads = PLAN.threads(), registers = PLAN.entry_registers(), shared = PLAN.smem().end, tensor_maps = "1,2,3,4";
                /// Forward attention; see [`ForwardParams`].
                ///
                /// # Safety
                /// As [`forward`].
                pub unsafe fn $name(
                    params: ForwardParams,
                    q: *const TensorMap,
                    k: *const TensorMap,
                    v: *const TensorMap,
                    o: *const TensorMap,
                ) {
                    const S: usize = PLAN.bn as usize / 2;
                    const O: usize = PLAN.dv as usize / 2;
                    const P: usize = PLAN.bn as usize / 4;
                    // SAFETY: the caller's promise.
                    unsafe { forward::<This, S, O, P, { PLAN.stages }>(params, Maps { q, k, v, o }) }
                }
            }
        })*
    };
}

kernels! {
    fwd_sm90_bf16_d32: Bf16, 32, 32, Full;
    fwd_sm90_bf16_d32_causal: Bf16, 32, 32, Causal;
    fwd_sm90_bf16_d64: Bf16, 64, 64, Full;
    fwd_sm90_bf16_d64_causal: Bf16, 64, 64, Causal;
    fwd_sm90_bf16_d96: Bf16, 96, 96, Full;
    fwd_sm90_bf16_d96_causal: Bf16, 96, 96, Causal;
    fwd_sm90_bf16_d128: Bf16, 128, 128, Full;
    fwd_sm90_bf16_d128_causal: Bf16, 128, 128, Causal;
    fwd_sm90_bf16_d192_128: Bf16, 192, 128, Full;
    fwd_sm90_bf16_d192_128_causal: Bf16, 192, 128, Causal;
    fwd_sm90_bf16_d192: Bf16, 192, 192, Full;
    fwd_sm90_bf16_d192_causal: Bf16, 192, 192, Causal;
    fwd_sm90_bf16_d256: Bf16, 256, 256, Full;
    fwd_sm90_bf16_d256_causal: Bf16, 256, 256, Causal;
    fwd_sm90_f16_d32: F16, 32, 32, Full;
    fwd_sm90_f16_d32_causal: F16, 32, 32, Causal;
    fwd_sm90_f16_d64: F16, 64, 64, Full;
    fwd_sm90_f16_d64_causal: F16, 64, 64, Causal;
    fwd_sm90_f16_d96: F16, 96, 96, Full;
    fwd_sm90_f16_d96_causal: F16, 96, 96, Causal;
    fwd_sm90_f16_d128: F16, 128, 128, Full;
    fwd_sm90_f16_d128_causal: F16, 128, 128, Causal;
    fwd_sm90_f16_d192_128: F16, 192, 128, Full;
    fwd_sm90_f16_d192_128_causal: F16, 192, 128, Causal;
    fwd_sm90_f16_d192: F16, 192, 192, Full;
    fwd_sm90_f16_d192_causal: F16, 192, 192, Causal;
    fwd_sm90_f16_d256: F16, 256, 256, Full;
    fwd_sm90_f16_d256_causal: F16, 256, 256, Causal;
}
