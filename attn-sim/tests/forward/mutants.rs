//! What deleting or weakening a synchronising instruction of a kernel leads to.

use attn_sim::mutate::{self, Outcome};
use attn_sim::ptx::Module;

use crate::problem::{Shape, built, module, scaled_inputs, simulate};

/// An instruction whose mutants go unnoticed because it orders nothing that other instructions do not order, how many
/// mutants that is, and what those others are.
type Redundant = (&'static str, usize, &'static str);

/// What no Hopper kernel needs for its results.
const HOPPER: &[Redundant] = &[
    (
        "wgmma.fence.sync.aligned",
        1,
        "its multiply's registers are untouched since the fence before it; without it ptxas serialises the multiplies",
    ),
    ("wgmma.commit_group.sync.aligned", 1, "the scores', where they are waited for together with O"),
    (
        "bar.warp.sync",
        2,
        "keep ptxas from moving a wait, and a warp together from tile to tile; order nothing between warps",
    ),
    (
        "mbarrier.try_wait.parity.shared::cta.b64",
        2,
        "the producer's for a tile's first K: with two stages, it was given back before the V whose stage the last tile's \
         last V waited for; the ring does not know of the other ring. That for K of a warpgroup without rows: when the \
         V before it had come, both warpgroups had given back the last K of its stage",
    ),
];

/// Deletes or weakens each synchronising instruction of a kernel, under several seeds, with blocks that go round several
/// tiles of each problem: all mutants are noticed but those of instructions known to be redundant.
fn mutants(name: &str, shapes: &[Shape], redundant: &[Redundant]) {
    let kernel = built(name);
    let module = module(kernel);
    // Scores so large that maxima grow from block to block, and O is rescaled.
    let problems: Vec<_> = shapes.iter().map(|&shape| (shape, scaled_inputs(kernel, shape, 16.0))).collect();
    let right = problems.iter().map(|(shape, inputs)| {
        let run = simulate(kernel, &module, *shape, inputs, 0).expect("the kernel itself runs to its end");
        assert!(run.findings.is_empty());
        run
    });
    let right: Vec<_> = right.collect();
    let notice = |mutant: &Module, seed: u64, which: usize| {
        let (shape, inputs) = &problems[which];
        match simulate(kernel, mutant, *shape, inputs, seed) {
            Err(_) => Outcome::Reported,
            Ok(run) if !run.findings.is_empty() => Outcome::Reported,
            Ok(run) if !run.written || run.o != right[which].o || run.lse != right[which].lse => Outcome::WrongResult,
            Ok(_) => Outcome::Unnoticed,
        }
    };
    let score = mutate::score(&module, name, 0..6, |mutant, seed| {
        let outcomes = (0..problems.len()).map(|which| notice(mutant, seed, which));
        outcomes.into_iter().find(|outcome| *outcome != Outcome::Unnoticed).unwrap_or(Outcome::Unnoticed)
    });
    println!("{name}: {score}");
    for survivor in &score.survivors {
        let same = score.survivors.iter().filter(|s| s.instruction == survivor.instruction).count();
        let known = redundant.iter().find(|(instruction, ..)| *instruction == survivor.instruction);
        let (_, count, why) = known.unwrap_or_else(|| panic!("{name}: unnoticed: {survivor}"));
        assert!(same <= *count, "{name}: {same} mutants of {}, {count} are redundant: {why}", survivor.instruction);
    }
}

const ROUNDS: Shape = Shape { batch: 1, heads: 2, kv_heads: 1, q: 130, k: 600, sms: 1 };

#[test]
#[ignore = "a minute, in release"]
fn mutants_of_d128_are_noticed() {
    mutants("fwd_sm90_bf16_d128", &[ROUNDS], HOPPER);
}

#[test]
#[ignore = "a minute, in release"]
fn mutants_of_d32_are_noticed() {
    mutants("fwd_sm90_bf16_d32", &[Shape { q: 200, ..ROUNDS }], HOPPER);
}

#[test]
#[ignore = "two minutes, in release"]
fn mutants_of_d192_128_are_noticed() {
    mutants("fwd_sm90_bf16_d192_128", &[Shape { k: 500, ..ROUNDS }], HOPPER);
}

/// What no Blackwell kernel needs for its results.
const BLACKWELL: &[Redundant] = &[
    (
        "bar.warp.sync",
        1,
        "keeps the warps of one lane's work together for the block's barrier, where PTX lets the lanes come one by one",
    ),
    ("mbarrier.try_wait.parity.shared::cta.b64", 1, "Q of the second tile: both are given back together"),
];

/// What those do not need whose O lies in Q's memory: the next tile's Q is loaded after O has been stored, and what follows from
/// its scores comes after all that the correction did for this tile.
const BLACKWELL_O_IN_Q: &[Redundant] = &[
    ("mbarrier.init.shared::cta.b64", 2, "arrivals by which the correction gives back the sums' inverses, a tile each"),
    ("bar.warp.sync", 3, "before those arrivals, a tile each; the one of all kernels"),
    ("mbarrier.try_wait.parity.shared::cta.b64", 3, "for the inverses' place, once, and O's, a tile each"),
    (
        "tcgen05.fence::before_thread_sync",
        1,
        "behind the first tile's last loads of O: that behind the second's covers them",
    ),
];

const BLACKWELL_ROUNDS: Shape = Shape { q: 140, k: 300, heads: 4, kv_heads: 1, ..ROUNDS };
const BLACKWELL_CAUSAL: Shape = Shape { q: 300, k: 400, ..ROUNDS };
const BLACKWELL_SHORT: Shape = Shape { q: 100, k: 500, heads: 3, kv_heads: 3, ..ROUNDS };

/// Of every problem also one of a single block of keys.
fn blackwell(name: &str, shape: Shape, redundant: &[Redundant]) {
    mutants(name, &[shape, Shape { k: 100, ..shape }], redundant);
}

#[test]
#[ignore = "minutes, in release"]
fn mutants_of_blackwells_d64_are_noticed() {
    // More blocks of K and V than stages for them.
    blackwell("fwd_sm100_bf16_d64", Shape { k: 700, ..BLACKWELL_ROUNDS }, BLACKWELL);
}

#[test]
#[ignore = "minutes, in release"]
fn mutants_of_blackwells_d128_are_noticed() {
    blackwell("fwd_sm100_bf16_d128", BLACKWELL_ROUNDS, BLACKWELL);
}

#[test]
#[ignore = "minutes, in release"]
fn mutants_of_blackwells_causal_d128_are_noticed() {
    blackwell("fwd_sm100_bf16_d128_causal", BLACKWELL_CAUSAL, BLACKWELL);
}

#[test]
#[ignore = "minutes, in release"]
fn mutants_of_blackwells_short_d128_are_noticed() {
    blackwell("fwd_sm100_bf16_d128_short", BLACKWELL_SHORT, BLACKWELL);
}

#[test]
#[ignore = "minutes, in release"]
fn mutants_of_blackwells_d192_128_are_noticed() {
    blackwell("fwd_sm100_bf16_d192_128", BLACKWELL_ROUNDS, BLACKWELL_O_IN_Q);
}

#[test]
#[ignore = "minutes, in release"]
fn mutants_of_blackwells_d256_are_noticed() {
    blackwell("fwd_sm100_bf16_d256", BLACKWELL_SHORT, BLACKWELL_O_IN_Q);
}

#[test]
#[ignore = "minutes, in release"]
fn mutants_of_sm_103as_d128_are_noticed() {
    blackwell("fwd_sm103_bf16_d128", BLACKWELL_ROUNDS, BLACKWELL);
}
