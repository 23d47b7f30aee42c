//! Sequences of different lengths: packed or paged, with windows, splits of the keys, heads packed into a tile's rows, and sinks.
//!
//! The producer alone works out the tiles, which takes loads from global memory; it leaves each in a slot of shared memory beside Q, whose
//! barrier tells the consumers. A slot that names no head ends the block.

use super::block::{Rings, Seat, WarpQuad};
use super::convert::Targets;
use super::sequences::{Sequences, Work};
use super::{Maps, Variant, epilogue};
use crate::attn::divide::Divisor;
use crate::attn::mask::{Lengths, Mask};
use crate::attn::scores::{Modified, Scores};
use crate::attn::sequence::{BOUND, Sequence, ragged};
use crate::attn::softmax::{self, Knobs, Rows};
use crate::attn::walk::Tile;
use crate::entry;
use crate::forward::draw::Draw;
use crate::forward::plan::{Float8, ROWS};
use crate::forward::serve::{Asked, ServeParams, Unit};
use crate::forward::source::Source;
use crate::forward::{TensorMap, serve};
use crate::mem::{Smem, Swizzle};
use crate::pipe::ring::{Consumer, Filling, Full};
use crate::ptx::{fence, grid, ldst, special, tma, warp};

/// The head of no unit.
const NONE: u32 = u32::MAX;

/// The slots, one more than Q has stages: a consumer looks at a tile's slot again when it has given Q back. The producer writes the slot
/// anew for the tile after so many, whose Q comes after all consumers have given back a later one.
#[derive(Clone, Copy)]
pub struct Ragged {
    slots: Smem<u32>,
    /// The slot of the next tile, and of a consumer's present one.
    next: u32,
    present: u32,
}

impl Ragged {
    /// On to the next slot.
    #[inline(always)]
    fn advance<const QUERIES: u32>(&mut self) -> Smem<u32> {
        self.present = self.next;
        self.next += 1;
        if self.next > QUERIES {
            self.next = 0;
        }
        self.slots.offset(self.present * (Unit::WORDS * 4))
    }

    /// Tells the consumers the next unit.
    ///
    /// # Safety
    /// One thread calls it between a stage's acquisition and its own arrival at the stage's barrier; the others advance.
    #[inline(always)]
    unsafe fn tell(slot: Smem<u32>, unit: &Unit) {
        let Sequence { q_start, q_len, k_start, k_len } = unit.sequence;
        // SAFETY: the slot is the producer's.
        unsafe {
            ldst::st_shared_u32x4(slot, [unit.m_block, unit.head, unit.batch, unit.split]);
            ldst::st_shared_u32x4(slot.offset(16), [q_start, q_len, k_start, k_len]);
        }
    }

    /// The unit of the present slot.
    ///
    /// # Safety
    /// Whole warps call it, converged, between the wait for the tile's Q and the release of the next one's.
    #[inline(always)]
    unsafe fn heard(&self) -> Unit {
        let slot = self.slots.offset(self.present * (Unit::WORDS * 4));
        // Read by the lane that gives Q back, so that the slot's next writer is ordered behind its reader without the warp's others.
        let leads = special::lane_id() == 0;
        // SAFETY: the producer wrote the slot before Q's barrier, and writes it anew after a later Q has been given back.
        let read = |i: u32| if leads { unsafe { ldst::ld_shared_u32(slot.offset(4 * i)) } } else { 0 };
        // What comes out of shuffles ptxas knows to be uniform, and keeps the loops that depend on it so.
        let [m_block, head, batch, split, q_start, q_len, k_start, k_len] =
            [0, 1, 2, 3, 4, 5, 6, 7].map(|i| warp::uniform(read(i)));
        Unit { m_block, head, batch, split, sequence: Sequence { q_start, q_len, k_start, k_len } }
    }
}

/// Blocks of keys before a unit's end at which the next one is drawn: later than an even end of all blocks could bear, and early enough for the
/// answer to be there.
const EARLY: u32 = 3;
/// Blocks of keys before its end at which the list is asked for what has been drawn, where the producer has registers to keep the answer in
/// ([`Plan::asks_early`](crate::forward::plan::Plan::asks_early)).
const ASK: u32 = 1;

/// Heads of an entry that are drawn together, where units are so short that a draw for each would take longer.
const RUN: u32 = 4;
/// Draws of a block from which on they are.
const MANY: u32 = 4;

/// How many heads a draw gives.
#[inline(always)]
fn run<V: Variant<Sequences = Ragged>>(params: &ServeParams) -> u32 {
    if const { V::PLAN.per_sm == 1 || !V::PLAN.draws() } {
        return 1;
    }
    let units = &params.units;
    let enough = units.units >= RUN * MANY * entry::grid_dim_x() && units.splits.get() == 1;
    if enough && units.section.get().is_multiple_of(RUN) { RUN } else { 1 }
}

/// The key blocks of a unit.
#[inline(always)]
fn work_of<V: Variant<Sequences = Ragged>>(params: &ServeParams, unit: &Unit) -> Work<V::Mask> {
    let Unit { m_block, head, batch, split, sequence } = *unit;
    let bn = const { V::PLAN.bn };
    let mask = V::Mask::of(params.left, params.right);
    let lengths = Lengths { q: sequence.q_len, k: sequence.k_len };
    let queries = (m_block * params.tile_queries, params.tile_queries);
    let splits = match const { (V::PLAN.unsplit(), V::PLAN.raw) } {
        (true, _) => Divisor::new(1),
        (false, 0) => params.units.splits,
        // Where other warps convert, whether there is one split was kept from the kernel's start for all roles, in a spilled register.
        (false, _) => params.units.splits.fresh(),
    };
    let (from, to) = serve::blocks(mask, lengths, queries, (split, splits), bn);
    Work { tile: Tile { m_block, head, batch }, lengths, mask, from, to, split, sequence }
}

/// The producer's warp, and the K and V of its unit.
struct Loader<'a> {
    params: &'a ServeParams,
    leads: bool,
    source: Source<'a>,
}

impl Loader<'_> {
    /// Fills a stage with block `block`, a chunk and panel a copy; `page` is the lane's.
    ///
    /// # Safety
    /// Called by the whole warp; the stage holds `bn` rows of `d` elements, the map's box is one panel of a chunk.
    #[inline(always)]
    unsafe fn load<V: Variant>(
        &self,
        slot: Filling,
        (map, room): (*const TensorMap, u32),
        d: u32,
        block: u32,
        page: u32,
    ) {
        let (bn, bytes) = const { (V::PLAN.bn, V::PLAN.key_bytes()) };
        let span = V::PLAN.raw_span(d);
        let (tile, full) = (slot.tile(), slot.full());
        slot.expect_by(self.leads, bn * d * bytes);
        let mut offset = 0;
        let mut lane = 0;
        while offset < bn {
            let page = if const { V::PLAN.plain } { page } else { warp::shfl_idx(page, lane) };
            if self.leads {
                let [a, c] = self.source.chunk(block * bn + offset, page, room);
                let mut column = 0;
                while column < d {
                    let target = tile.offset(column * bn * bytes + offset * span);
                    // SAFETY: the caller's promise.
                    unsafe {
                        tma::load(target, map, [column as i32, a, self.source.kv_head as i32, BOUND as i32, c], full)
                    };
                    column += span / bytes;
                }
            }
            offset += if const { V::PLAN.plain } { bn } else { self.params.chunk };
            lane += 1;
        }
    }
}

/// Queries of one copy of Q, and rows of it.
#[inline(always)]
fn rows_of(params: &ServeParams) -> (u32, u32) {
    (params.queries, params.queries * params.pack.get())
}

/// Fills a stage of Q, the rows of each warpgroup a box of its own.
///
/// # Safety
/// One thread calls it; the map's box is one panel of the queries of a warpgroup.
#[inline(always)]
unsafe fn load_queries<V: Variant<Sequences = Ragged>>(
    params: &ServeParams,
    map: *const TensorMap,
    slot: Filling,
    unit: &Unit,
) {
    let plan = const { V::PLAN };
    let (tile, full, groups, bytes) = (slot.tile(), slot.full(), plan.bm / ROWS, plan.operand_bytes());
    let (queries, rows) = rows_of(params);
    slot.expect(groups * rows * plan.d * bytes);
    let mut group = 0;
    while group < groups {
        let first = (unit.m_block * groups + group) * queries;
        let row = unit.sequence.q_start + first;
        let mut column = 0;
        while column < plan.d {
            let target = tile.offset((group * plan.d + column) * ROWS * bytes);
            // SAFETY: the caller's promise.
            unsafe { tma::load(target, map, [column as i32, 0, row as i32, unit.head as i32, 0], full) };
            column += plan.span(plan.d) / bytes;
        }
        group += 1;
    }
}

impl Sequences for Ragged {
    type Params = ServeParams;
    const RAGGED: bool = true;

    #[inline(always)]
    fn new<V: Variant<Sequences = Self>>(_params: &ServeParams, smem: Smem<()>) -> Self {
        Ragged { slots: smem.offset(const { V::PLAN.smem().slots }).cast(), next: 0, present: 0 }
    }

    #[inline(always)]
    unsafe fn prepare<V: Variant<Sequences = Self>>(params: &ServeParams, q: Smem<()>, seat: Seat) {
        if rows_of(params).1 < ROWS {
            // SAFETY: the caller's promise.
            unsafe { clear_spare_rows::<V>(params, q, seat) };
            fence::proxy_async_shared_cta(); // the multiplies read what is written here
            seat.sync();
        }
    }

    #[inline(always)]
    unsafe fn scale_log2<V: Variant<Sequences = Self>>(params: &ServeParams, work: &Work<V::Mask>) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { params.scale_of(work.tile, const { V::PLAN.float8 }) }
    }

    #[inline(always)]
    unsafe fn produce<V: Variant<Sequences = Self>, const STAGES: u32, const QUERIES: u32, const RAW: u32>(
        mut self,
        params: &ServeParams,
        maps: Maps,
        rings: Rings<STAGES, QUERIES, RAW>,
        smem: Smem<()>,
    ) {
        let plan = const { V::PLAN };
        let (mut q, mut targets) = (rings.q.split().0, Targets::new::<V, QUERIES>(rings, smem));
        // SAFETY: called by a whole warp. All its lanes wait on the barriers that one of them has made.
        let leads = unsafe {
            warp::sync();
            warp::elect()
        };
        // The list of tiles, and all else in global memory, may be what the kernel before this one writes.
        grid::wait();
        grid::launch_dependents();
        // SAFETY: the parameters are the launcher's; the maps' boxes are those of the plan and the problem.
        unsafe {
            let entries = params.entries();
            let (draws, plain) = const { (V::PLAN.draws(), V::PLAN.plain) };
            let run = run::<V>(params);
            let mut draw = Draw::new(params, draws, draws as u32);
            let mut asked = if draws { params.ask(entry::block_idx_x() * run, entries, plain) } else { Asked::NOTHING };
            loop {
                let unit = if draws { params.answer(&asked, plain) } else { params.unit(draw.next(), entries) };
                let Some(mut unit) = unit else { break };
                // Whether the next unit has been asked for before this one's end.
                let mut early = false;
                // Past the end of a sequence that uses less than its room there is nothing to do.
                let mut heads = if plain || unit.m_block * params.tile_queries < unit.sequence.q_len { run } else { 0 };
                while heads > 0 {
                    heads -= 1;
                    let work = work_of::<V>(params, &unit);
                    let source = Source::of(params, &unit, unit.sequence.k_len, plain);
                    let loader = Loader { params, leads, source };
                    let mut block = work.to;
                    let mut page = 0;
                    if draws && heads + (block - work.from) <= EARLY {
                        draw.early();
                    }
                    if block > work.from {
                        page = source.page(block - 1, plan.bn);
                        loader.load::<V>(targets.keys::<V>(leads), (maps.k, params.k_room), plan.d, block - 1, page);
                    }
                    let stage = q.acquire();
                    let slot = self.advance::<QUERIES>();
                    if leads {
                        Self::tell(slot, &unit);
                        load_queries::<V>(params, maps.q, stage, &unit);
                    }
                    while block > work.from {
                        block -= 1;
                        let left = heads + (block - work.from);
                        if draws && left == EARLY {
                            draw.early();
                        }
                        if const { V::PLAN.asks_early() } && left == ASK {
                            asked = params.ask(draw.next(), entries, plain);
                            early = true;
                        }
                        // Asked for before the waits for a stage, behind which its answer hides.
                        let next = if block > work.from { source.page(block - 1, plan.bn) } else { 0 };
                        if block > work.from {
                            loader.load::<V>(
                                targets.keys::<V>(leads),
                                (maps.k, params.k_room),
                                plan.d,
                                block - 1,
                                next,
                            );
                        }
                        loader.load::<V>(targets.values::<V>(leads), (maps.v, params.v_room), plan.dv, block, page);
                        page = next;
                    }
                    unit.head += 1;
                }
                if draws && !early {
                    // The consumers have some blocks to go: the answer comes while they do.
                    asked = params.ask(draw.next() * run, entries, plain);
                }
            }
            let none = Unit {
                m_block: 0,
                head: NONE,
                batch: 0,
                split: 0,
                sequence: Sequence { q_start: 0, q_len: 0, k_start: 0, k_len: 0 },
            };
            let stage = q.acquire();
            if leads {
                Self::tell(self.advance::<QUERIES>(), &none);
                stage.commit();
            }
            targets.end::<V>(leads);
        }
    }

    #[inline(always)]
    unsafe fn next<V: Variant<Sequences = Self>, const QUERIES: u32>(
        &mut self,
        params: &ServeParams,
        q: &mut Consumer<QUERIES>,
    ) -> Option<(Work<V::Mask>, Full)> {
        let stage = q.wait();
        self.advance::<QUERIES>();
        // SAFETY: called by whole warpgroups.
        let unit = unsafe { self.heard() };
        if unit.head == NONE { None } else { Some((work_of::<V>(params, &unit), stage)) }
    }

    #[inline(always)]
    unsafe fn again<V: Variant<Sequences = Self>>(&self, params: &ServeParams, _work: &Work<V::Mask>) -> Work<V::Mask> {
        // SAFETY: the caller's promise.
        work_of::<V>(params, &unsafe { self.heard() })
    }

    #[inline(always)]
    fn query<V: Variant<Sequences = Self>>(params: &ServeParams, first: u32, row: u32) -> (u32, u32) {
        let (query, in_pack) = params.pack.div_rem(row);
        (first + query, in_pack)
    }

    #[inline(always)]
    fn queries<V: Variant<Sequences = Self>>(params: &ServeParams) -> u32 {
        rows_of(params).0
    }

    #[inline(always)]
    fn first_query<V: Variant<Sequences = Self>>(params: &ServeParams, m_block: u32, seat: Seat) -> u32 {
        let queries = rows_of(params).0;
        m_block * (const { V::PLAN.bm } / ROWS * queries) + seat.rows / ROWS * queries
    }

    #[inline(always)]
    unsafe fn modified<V: Variant<Sequences = Self>>(
        params: &ServeParams,
        work: &Work<V::Mask>,
        first: u32,
        seat: Seat,
    ) -> Modified {
        let biased = !params.slopes.is_null();
        let float8 = const { if V::Scores::MODIFIED { V::PLAN.float8 } else { Float8::None } };
        // SAFETY: the caller's promise.
        let (cap, slope_scale) = unsafe { params.modifiers_of(work.tile, float8) };
        let (mut slopes, mut positions) = ([0.0; 2], [0.0; 2]);
        if biased {
            let rows = [0, 8].map(|r| Self::query::<V>(params, first, seat.row() + r));
            let of_batch = params.slopes.wrapping_add((work.tile.batch as u64 * params.slopes_batch_stride) as usize);
            slopes = rows.map(|(_, in_pack)| {
                let head = head(params, work, in_pack).min(params.heads - 1); // a spare row's need not exist
                // SAFETY: the caller's promise.
                unsafe { ldst::ld_global_f32(of_batch.wrapping_add(head as usize)) * slope_scale }
            });
            positions = rows.map(|(query, _)| (query as i32 + work.lengths.k as i32 - work.lengths.q as i32) as f32);
        }
        Modified { cap, biased, slopes, positions }
    }

    #[inline(always)]
    unsafe fn finish<V: Variant<Sequences = Self>, const O: usize>(
        params: &ServeParams,
        maps: Maps,
        o: Smem<()>,
        work: &Work<V::Mask>,
        first: u32,
        seat: Seat,
        (rows, acc): (&Rows, &mut [f32; O]),
        knobs: &Knobs,
    ) {
        // Where O leaves no registers for what a thread's columns would keep over tiles, they are worked out afresh. By what ptxas spills: not
        // where K and V are widened.
        let afresh = const { V::PLAN.in_strips() || V::PLAN.dv > 192 && V::PLAN.raw == 0 };
        let seat = if afresh { seat.fresh() } else { seat };
        // SAFETY: the caller's promise.
        unsafe {
            let places = [0, 8].map(|r| Place::of::<V>(params, work, first, seat.row() + r));
            let whole = const { V::PLAN.unsplit() } || params.partial.is_null();
            let sinks = places.map(|place| if whole { place.sink(params) } else { f32::NEG_INFINITY });
            let (mut inverse, lse) = rows.finish_with::<WarpQuad>(sinks, knobs);
            if const { !matches!(V::PLAN.float8, Float8::None) } {
                let factor = params.factor_of_values(work.tile);
                inverse = inverse.map(|inverse| inverse * factor);
            }
            // In strips, where the scaled rows would take registers of their own, each use scales what it takes.
            let (first_of_all, at_use) =
                if const { V::PLAN.in_strips() } { ([1.0; 2], inverse) } else { (inverse, [1.0; 2]) };
            softmax::scale_rows(acc, first_of_all);
            if whole {
                epilogue::stage_output::<V, O>(seat, o, acc, at_use);
                if seat.thread == 0 && first < work.lengths.q {
                    let packed = const { V::PLAN.plain } || !params.cu_q.is_null();
                    let start = if packed { work.sequence.q_start } else { work.tile.batch * params.o_room };
                    let [a, c] = ragged(start + first, work.lengths.q - first, rows_of(params).0);
                    epilogue::store_output::<V, 5>(maps.o, o, [0, 0, a, work.tile.head as i32, c]);
                }
            } else if const { V::PLAN.o_in_q() } {
                // One thread then gives Q back for all, so that every warp's multiplies with it, and its look at the tile's words, have to
                // be over. Where O is staged, that has met.
                seat.sync();
            }
            places[0].store::<V, O, 0>(params, work, seat, (acc, at_use[0]), lse[0], whole);
            places[1].store::<V, O, 1>(params, work, seat, (acc, at_use[1]), lse[1], whole);
        }
    }
}

/// Query head of a row that has head `in_pack` of its pack.
#[inline(always)]
fn head<M>(params: &ServeParams, work: &Work<M>, in_pack: u32) -> u32 {
    work.tile.head * params.pack.get() + in_pack
}

/// A row's query and head.
#[derive(Clone, Copy)]
struct Place {
    query: u32,
    head: u32,
    /// Whether there is such a query: rows past the sequence's end, or that are left of a tile when its heads do not divide it, have none.
    exists: bool,
}

impl Place {
    #[inline(always)]
    fn of<V: Variant<Sequences = Ragged>>(params: &ServeParams, work: &Work<V::Mask>, first: u32, row: u32) -> Self {
        let (query, in_pack) = Ragged::query::<V>(params, first, row);
        let exists = query < work.lengths.q && row < rows_of(params).1;
        Place { query, head: head(params, work, in_pack), exists }
    }

    /// The sink of its head, in powers of two.
    #[inline(always)]
    unsafe fn sink(&self, params: &ServeParams) -> f32 {
        if params.sinks.is_null() || !self.exists {
            return f32::NEG_INFINITY;
        }
        // SAFETY: a sink for each query head.
        unsafe { ldst::ld_global_f32(params.sinks.wrapping_add(self.head as usize)) * core::f32::consts::LOG2_E }
    }

    /// Writes the LSE of the thread's row `R`, and of a split its part of O.
    #[inline(always)]
    unsafe fn store<V: Variant<Sequences = Ragged>, const O: usize, const R: usize>(
        &self,
        params: &ServeParams,
        work: &Work<V::Mask>,
        seat: Seat,
        (acc, factor): (&[f32; O], f32),
        lse: f32,
        whole: bool,
    ) {
        if !self.exists {
            return;
        }
        let packed = const { V::PLAN.plain } || !params.cu_q.is_null();
        let row = if packed { work.sequence.q_start + self.query } else { self.query } as u64;
        // SAFETY: the row and the head exist.
        unsafe {
            if whole {
                if !params.lse.is_null() && seat.column() == 0 {
                    let line =
                        work.tile.batch as u64 * params.lse_batch_stride + self.head as u64 * params.lse_head_stride;
                    epilogue::store_f32(params.lse, line + row, lse);
                }
                return;
            }
            let row = if packed { row } else { work.tile.batch as u64 * params.seqlen_q as u64 + row };
            let line = (work.split as u64 * params.heads as u64 + self.head as u64) * params.rows + row;
            if seat.column() == 0 {
                epilogue::store_f32(params.partial_lse, line, lse);
            }
            let to = params.partial.wrapping_add((line * params.dv as u64) as usize);
            let mut i = 0;
            while i < O / 4 {
                let column = 8 * i as u32 + seat.column();
                if column < params.dv {
                    let at = to.wrapping_add(column as usize);
                    ldst::st_global_f32x2(at, acc[4 * i + 2 * R] * factor, acc[4 * i + 2 * R + 1] * factor);
                }
                i += 1;
            }
        }
    }
}

/// Fills the rows of a warpgroup's Q that no copy writes with zeros: those that are left when its heads do not divide 64. What they are is
/// nobody's answer, but a number that is none would have their blocks done again and again.
///
/// # Safety
/// Called by all threads of a consumer warpgroup before its first tile; `q` is Q's first stage.
#[inline(always)]
pub(super) unsafe fn clear_spare_rows<V: Variant<Sequences = Ragged>>(params: &ServeParams, q: Smem<()>, seat: Seat) {
    let plan = const { V::PLAN };
    let (swizzle, bytes) = const { (Swizzle::of_span(V::PLAN.span(V::PLAN.d)), V::PLAN.operand_bytes()) };
    let span = swizzle.span();
    let first = rows_of(params).1 * span;
    let pieces = (ROWS * span - first) / 16;
    let mut stage = 0;
    while stage < plan.q_stages {
        let mut column = 0;
        while column < plan.d {
            let panel = q.offset(stage * plan.q_bytes() + (seat.rows * plan.d + column * ROWS) * bytes).cast();
            let mut piece = seat.thread;
            while piece < pieces {
                // SAFETY: inside the panel. Rows are whole multiples of the swizzle's pieces, which stay in their row.
                unsafe { ldst::st_shared_u32x4(panel.offset(first + piece * 16), [0; 4]) };
                piece += 128;
            }
            column += span / bytes;
        }
        stage += 1;
    }
}
