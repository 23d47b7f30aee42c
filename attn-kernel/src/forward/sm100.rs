//! The Blackwell forward kernel: FlashAttention-4's division of labour on tcgen05 and tensor memory.
//!
//! A block owns two query tiles of 128 rows and walks their key blocks from the last visible one down to block 0. Scores S, probabilities
//! P and the output O live in tensor memory; every role is a few warps that do one thing:
//!
//! | role | warps | for every key block |
//! |---|---|---|
//! | load ([`Sequences::load`]) | 1 | K and V through one ring of shared memory, by TMA |
//! | [`mma`] | 1 | `S = Q Kᵀ`, `O += P V`, alternating between the tiles: O₀, S₀, O₁, S₁ |
//! | [`softmax`] | 4 a tile | a row a thread: maximum, `P = exp2(S)`, packed over S; the row's sum when P is on its way; LSE |
//! | [`correction`] | 4 | rescales O's rows where the maximum grew much; at the end O / sum |
//! | [`store`] | 1 | O to global memory, by TMA |
//!
//! While the tensor cores work on one tile the softmax of the other runs:
//!
//! ```text
//! tensor   S0 S1 |       O0 S0 | O1 S1 | O0 S0 | O1 S1 | ...
//! softmax0    | block n-1 |      | block n-2 |     | ...
//! softmax1       | block n-1  |      | block n-2 |     | ...
//! ```
//!
//! With one tile ([`Plan::tiles`](plan::Plan::tiles)) its blocks take the two slots of scores in turn: S of the next block is computed while the
//! softmax works on this one. That serves head dimension 256, whose O takes half of tensor memory, and problems with few queries.
//!
//! # Who waits for whom
//!
//! | signal | from | to | means |
//! |---|---|---|---|
//! | `scores` | mma | softmax | S of the slot is complete |
//! | `ready` | softmax, correction | mma | three quarters of P are stored, O is rescaled (before a tile's first block: read out) |
//! | `last` | softmax | mma | the last quarter of P is stored |
//! | factors (named barriers) | softmax | correction | O's factors of these 32 rows are written |
//! | `output` | mma | correction | O is complete |
//! | `inverses` | softmax | correction | `1 / sum` of each row is written |
//!
//! What needs no signal, because another implies it:
//! - S of a slot is overwritten after P of the slot has been multiplied: the same thread issues both, and multiplies run in order.
//! - O of block `i` is complete when the factors for block `i + 1` are written (two tiles): they come from scores whose commit followed
//!   that multiply. With one tile S of block `i + 1` is issued first, so there the correction waits for `output` at every block.
//! - A factor has been read when the softmax overwrites it: the slot's next scores were issued after a P V that waited for `ready`, in
//!   which the correction arrives after reading.
//!
//! Q, K and V may be of 8 bits ([`Plan::float8`](plan::Plan::float8)): multiplies take them as they are, V in either direction, and P is rounded to
//! as many. Or K and V alone are: then one warpgroup more widens them in shared memory (`convert`), and a block has one query tile.
//!
//! A kernel is composed of parts ([`Variant`]): which keys a query sees, what is done to a score, and how the sequences lie, dense or
//! [`ragged`].

mod block;
mod convert;
mod correction;
mod dense;
pub mod kernels;
mod mma;
pub mod plan;
mod ragged;
mod sequences;
mod softmax;
mod store;
pub mod tune;

pub use kernels::{KERNELS, KERNELS_SM103, SERVING_KERNELS, SERVING_KERNELS_SM103};
pub use plan::Plan;

use self::block::Shared;
pub use self::dense::Dense;
pub use self::ragged::Ragged;
pub use self::sequences::Sequences;
use super::params::TensorMap;
use crate::attn::mask::Mask;
use crate::attn::scores::Scores;
use crate::entry;
use crate::mem::{Element, Operand, Smem, Tmem, tmem};
use crate::ptx::{barrier, fence, tcgen05, tma, warp};

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

    /// `setmaxnreg` to the plan's softmax budget.
    ///
    /// # Safety
    /// Called by all threads of a softmax warpgroup, converged.
    unsafe fn enter_softmax();

    /// `setmaxnreg` to the plan's correction budget.
    ///
    /// # Safety
    /// Called by all threads of the correction warpgroup, converged.
    unsafe fn enter_correction();

    /// `setmaxnreg` to the plan's budget of the warps that widen K and V.
    ///
    /// # Safety
    /// Called by all threads of their warpgroup, converged, where the plan has one.
    unsafe fn enter_convert();

    /// `setmaxnreg` to the plan's budget of the other roles.
    ///
    /// # Safety
    /// Called by all threads of their warpgroup, converged.
    unsafe fn enter_other();
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

/// The kernel.
///
/// # Safety
/// Runs as a kernel of `PLAN.threads()` threads with `PLAN.smem().end` bytes of dynamic shared memory; maps and parameters
/// describe live device memory as the parameters' documentation says. The constants are the plan's tiles, stages, and parts of
/// a K and of a V block.
#[inline(always)]
unsafe fn forward<V: Variant, const TILES: u32, const STAGES: u32, const K_PARTS: usize, const V_PARTS: usize>(
    params: Params<V>,
    maps: Maps,
) {
    let plan = const { V::PLAN };
    let shared = Shared::<TILES, STAGES>::new::<V>(Smem::new(entry::dynamic_shared()));
    // Taken from lane 0, so that the compiler knows the role to be uniform and keeps addresses in uniform registers.
    let warp = warp::uniform(entry::thread_idx_x() / 32);

    // SAFETY: one thread initialises the barriers, one warp allocates all of tensor memory, and all threads pass `sync_all` before the
    // first use of either; whole warpgroups take a role, and `Plan::checked` has proven that their register budgets add up.
    unsafe {
        if warp == plan.mma_warp() {
            tcgen05::alloc::<1>(shared.tmem_slot(), tmem::COLUMNS);
            tcgen05::relinquish_alloc_permit::<1>();
        }
        if warp == plan.load_warp() && warp::elect() {
            tma::prefetch_map(maps.q);
            tma::prefetch_map(maps.k);
            tma::prefetch_map(maps.v);
            tma::prefetch_map(maps.o);
            shared.init::<V>();
            fence::mbarrier_init();
        }
        // No fence of tcgen05: to allocate is no asynchronous operation, and every warp but the allocating one has a fence between
        // its first wait and its first access.
        barrier::sync_all();

        if warp < plan.correction_warp() {
            V::enter_softmax();
            softmax::run::<V, TILES, STAGES>(&params, shared, V::Sequences::new(&params), warp / 4);
        } else if warp < plan.mma_warp() {
            V::enter_correction();
            correction::run::<V, TILES, STAGES>(&params, shared, V::Sequences::new(&params));
        } else if const { V::PLAN.converts() } && warp >= plan.convert_warp() {
            V::enter_convert();
            convert::run::<V, TILES, STAGES>(&params, shared, V::Sequences::new(&params));
        } else {
            V::enter_other();
            if warp == plan.mma_warp() {
                mma::run::<V, TILES, STAGES, K_PARTS, V_PARTS>(&params, shared, V::Sequences::new(&params));
            } else if warp == plan.load_warp() {
                V::Sequences::new(&params).load::<V, TILES, STAGES>(&params, maps, shared);
            } else if warp == plan.store_warp() && warp::elect() {
                store::run::<V, TILES, STAGES>(&params, maps.o, shared, V::Sequences::new(&params));
            }
            warp::sync();
        }

        // Nor here: all multiplies were waited for, all loads and stores too, with a fence behind them.
        barrier::sync_all();
        // Asked again, so that no role keeps the answer in a register.
        if warp::uniform(entry::thread_idx_x() / 32) == plan.mma_warp() {
            tcgen05::dealloc::<1, f32>(Tmem::new(0), tmem::COLUMNS);
        }
    }
}
