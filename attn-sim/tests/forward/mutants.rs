//! What deleting or weakening a synchronising instruction of a kernel leads to.

use attn_sim::mutate::{self, Outcome};

use crate::problem::{Shape, built, inputs, module, simulate};

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
    ("bar.warp.sync", 1, "keeps ptxas from moving a wait; orders nothing between warps"),
    (
        "mbarrier.try_wait.parity.shared::cta.b64",
        1,
        "the producer's for a tile's first K: with two stages, it was given back before the V whose stage the last tile's \
         last V waited for; the ring does not know of the other ring",
    ),
];

/// Deletes or weakens each synchronising instruction of a kernel, under several seeds, with blocks that go round several
/// tiles: all mutants are noticed but those of instructions known to be redundant.
fn mutants(name: &str, shape: Shape, redundant: &[Redundant]) {
    let kernel = built(name);
    let module = module(kernel);
    let inputs = inputs(kernel, shape);
    let right = simulate(kernel, &module, shape, &inputs, 0).expect("the kernel itself runs to its end");
    assert!(right.findings.is_empty());
    let score =
        mutate::score(&module, name, 0..6, |mutant, seed| match simulate(kernel, mutant, shape, &inputs, seed) {
            Err(_) => Outcome::Reported,
            Ok(run) if !run.findings.is_empty() => Outcome::Reported,
            Ok(run) if !run.written || run.o != right.o || run.lse != right.lse => Outcome::WrongResult,
            Ok(_) => Outcome::Unnoticed,
        });
    println!("{name}: {score}");
    for survivor in &score.survivors {
        println!("{survivor}");
    }
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
    mutants("fwd_sm90_bf16_d128", ROUNDS, HOPPER);
}

#[test]
#[ignore = "a minute, in release"]
fn mutants_of_d32_are_noticed() {
    mutants("fwd_sm90_bf16_d32", Shape { q: 200, ..ROUNDS }, HOPPER);
}

#[test]
#[ignore = "two minutes, in release"]
fn mutants_of_d192_128_are_noticed() {
    mutants("fwd_sm90_bf16_d192_128", Shape { k: 500, ..ROUNDS }, HOPPER);
}

/// What no Blackwell kernel needs for its results.
const BLACKWELL: &[Redundant] = &[];

#[test]
#[ignore = "minutes, in release, and the kernels in ATTN_KERNEL_DIR"]
fn mutants_of_blackwells_d128_are_noticed() {
    mutants("fwd_sm100_bf16_d128", Shape { q: 140, k: 300, heads: 4, kv_heads: 1, ..ROUNDS }, BLACKWELL);
}

#[test]
#[ignore = "minutes, in release, and the kernels in ATTN_KERNEL_DIR"]
fn mutants_of_blackwells_causal_d128_are_noticed() {
    mutants("fwd_sm100_bf16_d128_causal", Shape { q: 300, k: 400, ..ROUNDS }, BLACKWELL);
}

#[test]
#[ignore = "minutes, in release, and the kernels in ATTN_KERNEL_DIR"]
fn mutants_of_blackwells_short_d128_are_noticed() {
    mutants("fwd_sm100_bf16_d128_short", Shape { q: 100, k: 500, heads: 3, kv_heads: 3, ..ROUNDS }, BLACKWELL);
}
