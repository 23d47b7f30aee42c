//! Blackwell's multiplies and tensor memory: whole products of one tile, and every shape of load and store.

use super::Probe;
use crate::entry::{dynamic_shared, thread_idx_x};
use crate::forward::plan::WARPGROUP;
use crate::kernel;
use crate::mem::umma::{Factor, Sum};
use crate::mem::{Bf16, F16, Instruction, Layout, Smem, Swizzle, Tmem, UmmaDescriptor};
use crate::ptx::mbarrier::Mbarrier;
use crate::ptx::tcgen05::Issuer;
use crate::ptx::{barrier, cluster, fence, ldst, mbarrier, tcgen05, warp};

/// Rows of A and D that a block holds.
pub const M: u32 = 128;
/// Columns of A and B: eight k-steps.
pub const K: u32 = 128;
/// Columns of D of [`SS`] and [`PAIR`].
pub const N: u32 = 128;
/// Columns of D of [`TS`].
pub const N_TS: u32 = 64;

/// [`probe_tcgen05_ss`].
pub const SS: Probe = Probe::new("probe_tcgen05_ss", WARPGROUP, A.bytes() + b(1).bytes() + 16);
/// [`probe_tcgen05_pair`].
pub const PAIR: Probe =
    Probe { cluster: 2, ..Probe::new("probe_tcgen05_pair", WARPGROUP, A.bytes() + b(2).bytes() + 16) };
/// [`probe_tcgen05_ts`].
pub const TS: Probe = Probe::new("probe_tcgen05_ts", WARPGROUP, V.bytes() + 16);
/// [`probe_tcgen05_registers`].
pub const REGISTERS: Probe = Probe::new("probe_tcgen05_registers", WARPGROUP, ROWS.bytes() + 16);
/// [`probe_tcgen05_reduce`]; sm_103a alone.
pub const REDUCE: Probe = Probe::new("probe_tcgen05_reduce", WARPGROUP, 16);

const A: Layout = Layout { swizzle: Swizzle::B128, mn_major: false, mn: M, k: K };
const V: Layout = Layout { swizzle: Swizzle::B128, mn_major: true, mn: N_TS, k: K };
/// What [`probe_tcgen05_registers`] copies: rows of 32 bytes.
const ROWS: Layout = Layout { swizzle: Swizzle::B32, mn_major: false, mn: M, k: 16 };

/// B's part in each of `blocks` blocks.
const fn b(blocks: u32) -> Layout {
    Layout { swizzle: Swizzle::B128, mn_major: false, mn: N / blocks, k: K }
}

/// Tensor memory and the barrier of a block, behind its tiles.
#[derive(Clone, Copy)]
struct Block<const G: u32> {
    bar: Smem<Mbarrier>,
    slot: Smem<u32>,
    columns: u32,
}

impl<const G: u32> Block<G> {
    /// # Safety
    /// All threads of the block call it once, at the start; 16 bytes at `at` are free.
    #[inline(always)]
    unsafe fn new(at: Smem<u32>, columns: u32) -> Self {
        let block = Block { bar: at.cast(), slot: at.offset(mbarrier::BYTES), columns };
        // SAFETY: warp 0 allocates and initialises, before `start` shows both to the others.
        unsafe {
            if thread_idx_x() / 32 == 0 {
                tcgen05::alloc::<G>(block.slot, columns);
                tcgen05::relinquish_alloc_permit::<G>();
                if warp::elect() {
                    mbarrier::init(block.bar, 1);
                    fence::mbarrier_init();
                }
            }
        }
        block
    }

    /// Meets the other threads, of both blocks of a pair, and returns the allocated columns: what they stored in shared and tensor
    /// memory is there for the tensor core.
    ///
    /// # Safety
    /// All threads together, each after its stores to tensor memory have finished.
    #[inline(always)]
    unsafe fn start(self) -> Tmem<f32> {
        fence::proxy_async_shared_cta();
        // SAFETY: the caller's promise; the slot was written before the barrier.
        unsafe {
            self.meet();
            Tmem::new(ldst::ld_shared_u32(self.slot))
        }
    }

    /// A barrier with tensor memory's fences round it.
    #[inline(always)]
    unsafe fn meet(self) {
        tcgen05::before_thread_sync();
        // SAFETY: all threads together.
        unsafe {
            if const { G == 2 } {
                cluster::arrive();
                cluster::wait();
            } else {
                barrier::sync_all();
            }
        }
        tcgen05::after_thread_sync();
    }

    /// Signals the barrier, of both blocks of a pair, when what this thread issued has finished.
    #[inline(always)]
    unsafe fn commit(self) {
        // SAFETY: the issuing thread; one commit a phase.
        unsafe {
            if const { G == 2 } {
                tcgen05::commit_multicast::<G>(Issuer::THIS_THREAD, self.bar, 3);
            } else {
                tcgen05::commit::<G>(Issuer::THIS_THREAD, self.bar);
            }
        }
    }

    /// Waits for the first commit.
    #[inline(always)]
    unsafe fn finished(self) {
        // SAFETY: one commit signals the barrier.
        unsafe { mbarrier::wait_parity(self.bar, 0) };
        tcgen05::after_thread_sync();
    }

    /// Frees the columns.
    ///
    /// # Safety
    /// All threads together, each after its last access.
    #[inline(always)]
    unsafe fn end(self, at: Tmem<f32>) {
        // SAFETY: nobody touches the columns after the meeting.
        unsafe {
            self.meet();
            if thread_idx_x() / 32 == 0 {
                tcgen05::dealloc::<G, f32>(at, self.columns);
            }
        }
    }
}

/// Whether this thread issues for the block, or the pair.
#[inline(always)]
unsafe fn issues(rank: u32) -> bool {
    // SAFETY: the lanes of warp 0 agree about the first condition.
    unsafe { thread_idx_x() / 32 == 0 && rank == 0 && warp::elect() }
}

/// Copies a dense row-major matrix of `layout.mn` rows to its tile.
#[inline(always)]
unsafe fn fill(layout: Layout, tile: Smem<u16>, from: *const u16) {
    let mut i = thread_idx_x();
    while i < layout.mn * layout.k {
        // SAFETY: `i` is below the number of elements, on both sides.
        unsafe {
            ldst::st_shared_u16(tile.offset(layout.offset(i / layout.k, i % layout.k)), *from.add(i as usize));
        }
        i += WARPGROUP;
    }
}

/// Writes this thread's row of `n` columns of D to `row`.
#[inline(always)]
unsafe fn store(d: Tmem<f32>, row: *mut f32, n: u32) {
    let mut column = 0;
    while column < n {
        // SAFETY: whole warps, each in its lanes; a row has `n` columns, a multiple of 32.
        unsafe {
            let mut part = tcgen05::ld::<32>(d.of_warp(thread_idx_x() / 32).columns(column));
            tcgen05::wait_ld_with(&mut part);
            write_f32(row.add(column as usize), &part);
        }
        column += 32;
    }
}

#[inline(always)]
unsafe fn write_f32<const R: usize>(to: *mut f32, words: &[f32; R]) {
    let mut i = 0;
    while i < R {
        // SAFETY: the caller has room for `R` words.
        unsafe { ldst::st_global_f32(to.add(i), words[i]) };
        i += 1;
    }
}

#[inline(always)]
unsafe fn write<const R: usize>(to: *mut u32, words: &[u32; R]) {
    let mut i = 0;
    while i < R {
        // SAFETY: the caller has room for `R` words.
        unsafe { ldst::st_global_u32(to.add(i), words[i]) };
        i += 1;
    }
}

/// `D = A B^T` by one block, or by two with half of the rows of A, B and D each.
#[inline(always)]
unsafe fn product<const G: u32>(a_from: *const u16, b_from: *const u16, d: *mut f32) {
    let b_layout = b(G);
    let bf16 = Factor::of::<Bf16>();
    let instruction = Instruction::new(Sum::F32, bf16, bf16, M * G, N);
    let rank = if const { G == 2 } { cluster::rank() } else { 0 };
    let a_tile = Smem::<u16>::new(dynamic_shared());
    let b_tile = a_tile.offset(A.bytes());
    // SAFETY: the launch is one warpgroup a block, with the tiles and 16 bytes behind; the matrices have the promised sizes.
    unsafe {
        let block = Block::<G>::new(b_tile.offset(b_layout.bytes()).cast(), N);
        fill(A, a_tile, a_from.add((rank * M * K) as usize));
        fill(b_layout, b_tile, b_from.add((rank * b_layout.mn * K) as usize));
        let sum = block.start();
        if issues(rank) {
            let mut step = 0;
            while step < K / 16 {
                let a = UmmaDescriptor::of(A.descriptor(a_tile, step));
                let b = UmmaDescriptor::of(b_layout.descriptor(b_tile, step));
                tcgen05::mma_ss::<G, Bf16>(Issuer::THIS_THREAD, sum, a, b, instruction, step > 0);
                step += 1;
            }
            block.commit();
        }
        warp::sync();
        block.finished();
        store(sum, d.add(((rank * M + thread_idx_x()) * N) as usize), N);
        block.end(sum);
    }
}

kernel! {
    threads = SS.threads, registers = 128, shared = SS.shared;
    /// `d = a b^T` of bf16: `a` 128 x 128, `b` 128 x 128, all dense and row-major; both K-major in shared memory.
    pub unsafe fn probe_tcgen05_ss(a: *const u16, b: *const u16, d: *mut f32) {
        // SAFETY: this kernel's own promise.
        unsafe { product::<1>(a, b, d) }
    }
}

kernel! {
    threads = PAIR.threads, registers = 128, shared = PAIR.shared, cluster = "2,1,1";
    /// [`probe_tcgen05_ss`] with `a` 256 x 128, by a pair of blocks.
    pub unsafe fn probe_tcgen05_pair(a: *const u16, b: *const u16, d: *mut f32) {
        // SAFETY: this kernel's own promise.
        unsafe { product::<2>(a, b, d) }
    }
}

kernel! {
    threads = TS.threads, registers = 128, shared = TS.shared;
    /// `d = p v^T` of f16 twice over, the second product added to the first: `p` 128 x 128 by way of tensor memory, `v` 64 x 128, MN-major
    /// in shared memory; `d` 128 x 64. The first product is stored back halved before the second is added, so `d = 1.5 p v^T`.
    pub unsafe fn probe_tcgen05_ts(p: *const u32, v: *const u16, d: *mut f32) {
        const COLUMNS: u32 = 128;
        const F: Factor = Factor::of::<F16>();
        const INSTRUCTION: Instruction = Instruction::new(Sum::F32, F, F, M, N_TS).b_mn_major();
        let tile = Smem::<u16>::new(dynamic_shared());
        let row = thread_idx_x();
        // SAFETY: the launch is one block of one warpgroup with the tile and 16 bytes behind; the matrices have the promised sizes.
        unsafe {
            let block = Block::<1>::new(tile.offset(V.bytes()).cast(), COLUMNS);
            fill(V, tile, v);
            let sum = block.start();
            let factor = sum.columns(N_TS).cast::<u32>();
            let mut pairs = [0; K as usize / 2];
            let mut i = 0;
            while i < pairs.len() {
                pairs[i] = ldst::ld_global_u32(p.add(row as usize * pairs.len() + i));
                i += 1;
            }
            tcgen05::st(factor.of_warp(row / 32), pairs);
            tcgen05::wait_st();
            block.meet();
            let mut pass = 0;
            while pass < 2 {
                if issues(0) {
                    let mut step = 0;
                    while step < K / 16 {
                        let b = UmmaDescriptor::of(V.descriptor(tile, step));
                        tcgen05::mma_ts::<1, F16>(Issuer::THIS_THREAD, sum, factor.columns(8 * step), b, INSTRUCTION, pass + step > 0);
                        step += 1;
                    }
                    block.commit();
                }
                warp::sync();
                mbarrier::wait_parity(block.bar, pass);
                tcgen05::after_thread_sync();
                if pass == 0 {
                    halve(sum.of_warp(row / 32));
                }
                block.meet();
                pass += 1;
            }
            store(sum, d.add((row * N_TS) as usize), N_TS);
            block.end(sum);
        }
    }
}

/// Halves this thread's row of 64 columns: what a correction of the online softmax does.
#[inline(always)]
unsafe fn halve(at: Tmem<f32>) {
    // SAFETY: whole warps, each in its lanes, after the multiply.
    unsafe {
        let mut row = tcgen05::ld::<64>(at);
        tcgen05::wait_ld_with(&mut row);
        tcgen05::st_f32(at, row.map(|x| 0.5 * x));
        tcgen05::wait_st();
    }
}

/// Words of each thread that [`probe_tcgen05_registers`] writes.
pub const RESULTS: usize = 255 + 124 + 32 + 8;

/// What is stored in column `column` of a thread's lane.
pub const fn word(thread: u32, column: u32) -> u32 {
    thread << 16 | column << 4 | 0xa
}

/// The thread's words, from column `first`.
#[inline(always)]
fn words<const R: usize>(first: u32) -> [u32; R] {
    let mut x = [0; R];
    let mut i = 0;
    while i < R {
        x[i] = word(thread_idx_x(), first + i as u32);
        i += 1;
    }
    x
}

/// Stores `R` columns from column `R`, loads and writes them.
#[inline(always)]
unsafe fn round_trip<const R: usize>(at: Tmem<u32>, out: *mut u32) {
    // SAFETY: whole warps, each in its lanes, in 256 columns; the caller has room for `R` words.
    unsafe {
        let at = at.columns(R as u32);
        tcgen05::st(at, words::<R>(R as u32));
        tcgen05::wait_st();
        let mut back = tcgen05::ld_u32::<R>(at);
        tcgen05::wait_ld_with_u32(&mut back);
        write(out, &back);
    }
}

/// Loads `2 R` columns of the warp's last 16 lanes as fragments.
#[inline(always)]
unsafe fn fragments<const R: usize>(at: Tmem<f32>, out: *mut u32) {
    // SAFETY: whole warps, each in its lanes, in 256 columns; the caller has room for `R` words.
    unsafe {
        let mut back = tcgen05::ld_16x256b::<R>(at.lanes(16));
        tcgen05::wait_ld_with(&mut back);
        write(out, &back.map(f32::to_bits));
    }
}

kernel! {
    threads = REGISTERS.threads, registers = 255, shared = REGISTERS.shared;
    /// Thread `t` writes [`RESULTS`] words to `out[RESULTS t ..]`: its lane by 32x32b for 1, 2, 4, .. 128 registers `R`, which are
    /// `word(t, R ..)`; from column 128, where `word(t, 128 + i)` lies in column `128 + i`, fragments of the warp's upper 16 lanes in 4, 8,
    /// .. 64 registers; its lane's 32 columns after a store of fragments `word(t, i)` to the upper 16 lanes; row `t`, 32 bytes, of
    /// `rows`, copied from shared memory.
    pub unsafe fn probe_tcgen05_registers(rows: *const u16, out: *mut u32) {
        let tile = Smem::<u16>::new(dynamic_shared());
        let out = row_of(out);
        // SAFETY: the launch is one block of one warpgroup with the tile and 16 bytes behind; each thread writes its own words.
        unsafe {
            let block = Block::<1>::new(tile.offset(ROWS.bytes()).cast(), 256);
            fill(ROWS, tile, rows);
            let first = block.start();
            let mine = first.of_warp(thread_idx_x() / 32);
            let (at, upper) = (mine.cast::<u32>(), mine.columns(128));
            round_trip::<1>(at, out);
            round_trip::<2>(at, out.add(1));
            round_trip::<4>(at, out.add(3));
            round_trip::<8>(at, out.add(7));
            round_trip::<16>(at, out.add(15));
            round_trip::<32>(at, out.add(31));
            round_trip::<64>(at, out.add(63));
            round_trip::<128>(at, out.add(127));
            fragments::<4>(upper, out.add(255));
            fragments::<8>(upper, out.add(259));
            fragments::<16>(upper, out.add(267));
            fragments::<32>(upper, out.add(283));
            fragments::<64>(upper, out.add(315));
            tcgen05::st_16x256b::<16>(upper.lanes(16), words::<16>(0).map(f32::from_bits));
            tcgen05::wait_st();
            let mut back = tcgen05::ld_u32::<32>(upper.cast());
            tcgen05::wait_ld_with_u32(&mut back);
            write(out.add(379), &back);
            block.meet();
            if issues(0) {
                tcgen05::cp_128x256b::<1, f32>(Issuer::THIS_THREAD, first, UmmaDescriptor::of(ROWS.descriptor(tile, 0)));
                block.commit();
            }
            warp::sync();
            block.finished();
            let mut copied = tcgen05::ld_u32::<8>(at);
            tcgen05::wait_ld();
            tcgen05::wait_ld_with_u32(&mut copied);
            write(out.add(411), &copied);
            block.end(first);
        }
    }
}

/// Where the thread's words begin.
#[inline(always)]
fn row_of(out: *mut u32) -> *mut u32 {
    out.wrapping_add(thread_idx_x() as usize * RESULTS)
}

/// Loads with reductions exist from sm_103a on.
#[cfg(any(not(target_arch = "nvptx64"), attn_arch = "sm_103a"))]
mod reduce {
    use super::*;

    kernel! {
        threads = REDUCE.threads, registers = 128, shared = REDUCE.shared;
        /// `d` of 128 x 2: the least and the greatest of each row of `a`, 128 x 64.
        pub unsafe fn probe_tcgen05_reduce(a: *const f32, d: *mut f32) {
            let row = thread_idx_x() as usize;
            // SAFETY: the launch is one block of one warpgroup with 16 bytes; the matrices have the promised sizes.
            unsafe {
                let block = Block::<1>::new(Smem::new(dynamic_shared()), 64);
                let first = block.start();
                let at = first.of_warp(row as u32 / 32);
                let mut values = [0.0; 64];
                let mut i = 0;
                while i < values.len() {
                    values[i] = ldst::ld_global_f32(a.add(row * values.len() + i));
                    i += 1;
                }
                tcgen05::st_f32(at, values);
                tcgen05::wait_st();
                let (_, low) = tcgen05::ld_min::<64>(at);
                let (_, high) = tcgen05::ld_max::<64>(at);
                let mut both = [low, high];
                tcgen05::wait_ld_with(&mut both);
                write_f32(d.add(2 * row), &both);
                block.end(first);
            }
        }
    }
}
#[cfg(any(not(target_arch = "nvptx64"), attn_arch = "sm_103a"))]
pub use reduce::probe_tcgen05_reduce;
