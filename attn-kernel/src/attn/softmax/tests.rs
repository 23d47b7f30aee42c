//! The kept reference against softmax in f64, and against itself.

extern crate std;
use super::*;
use crate::mem::{Bf16, E4m3, Element};
use crate::ptx::float8;
use std::vec::Vec;

/// A "quad" of one thread that holds whole rows.
struct Alone;
impl Quad for Alone {
    fn max(x: f32) -> f32 {
        x
    }
    fn sum(x: f32) -> f32 {
        x
    }
    fn any(x: bool) -> bool {
        x
    }
}

const HALF_EMULATED: Exp2 = Exp2 { period: 2, emulated: 1 };
/// Scores of a block.
const S: usize = 16;

fn knobs(bound: f32, exp2: Exp2) -> Knobs {
    Knobs { scale_log2: 0.25 * std::f32::consts::LOG2_E, bound, exp2, lift: 0.0 }
}

/// A format as a block of 16 scores is rounded to it.
trait Rounded: Operand {
    /// Words of P.
    type Words: AsRef<[u32]>;
    /// The probabilities of a block against the rows' reference, in two parts.
    fn block(rows: &Rows, scores: &[f32; S], k: &Knobs) -> (bool, [bool; 2], Rows, Self::Words);
    /// Those of scores whose exponentials are known.
    fn whole(exponentials: &[f32; S]) -> Self::Words;
    /// What probability `i` was rounded to.
    fn value(words: &Self::Words, i: usize) -> f32;
    /// How far a sum of rounded probabilities may be off.
    const SLACK: f32;
}

fn block_of<E: Operand, const P: usize>(
    rows: &Rows,
    scores: &[f32; S],
    k: &Knobs,
) -> (bool, [bool; 2], Rows, [u32; P]) {
    let (mut rows, mut done) = (*rows, Block::<P>::new());
    for pairs in [0..3, 3..8] {
        rows.probabilities::<E, S, P>(scores, pairs, k, &mut done);
    }
    rows.add(&done);
    (done.within::<E>(k), done.exceeded::<E, Alone>(k), rows, done.p)
}

fn whole_of<E: Operand, const P: usize>(exponentials: &[f32; S]) -> [u32; P] {
    let mut p = [0; P];
    (0..S / 2).for_each(|j| E::store(&mut p, j, exponentials[2 * j], exponentials[2 * j + 1]));
    p
}

impl Rounded for Bf16 {
    type Words = [u32; 8];
    const SLACK: f32 = 1e-2;

    fn block(rows: &Rows, scores: &[f32; S], k: &Knobs) -> (bool, [bool; 2], Rows, [u32; 8]) {
        block_of::<Bf16, 8>(rows, scores, k)
    }
    fn whole(exponentials: &[f32; S]) -> [u32; 8] {
        whole_of::<Bf16, 8>(exponentials)
    }
    fn value(words: &[u32; 8], i: usize) -> f32 {
        let (low, high) = Bf16::unpack(words[i / 2]);
        [low, high][i % 2]
    }
}

impl Rounded for E4m3 {
    type Words = [u32; 4];
    const SLACK: f32 = 6e-2;

    fn block(rows: &Rows, scores: &[f32; S], k: &Knobs) -> (bool, [bool; 2], Rows, [u32; 4]) {
        block_of::<E4m3, 4>(rows, scores, k)
    }
    fn whole(exponentials: &[f32; S]) -> [u32; 4] {
        whole_of::<E4m3, 4>(exponentials)
    }
    fn value(words: &[u32; 4], i: usize) -> f32 {
        // Fragments of 8 bits as the instruction has them, of keys in the order in which V is transposed: register `i` of a
        // thread's row lies in the word whose places hold its column.
        let (row, column) = ((i >> 1) & 1, (8 * (i >> 2) + (i & 1)) as u32);
        let at = |word: usize, byte: u32| crate::forward::narrow::key_at(16 * (word as u32 / 2) + byte);
        let (word, byte) = (0..4)
            .flat_map(|word| (0..4).map(move |byte| (word, byte)))
            .find(|&(word, byte)| word % 2 == row && at(word, byte) == column)
            .expect("every column has a place");
        let e = words[word].to_le_bytes()[byte as usize];
        half::f16::from_bits(float8::e4m3_to_f16(u32::from(e))[0] as u16).to_f32()
    }
}

/// What became of a tile.
struct Outcome {
    /// O of both rows with V = 1 for every key.
    o: [f32; 2],
    lse: [f32; 2],
    /// Blocks that were done again.
    raised: usize,
}

/// Runs blocks of scores through the online softmax as a kernel does.
fn run<E: Rounded>(blocks: &[[f32; S]], k: &Knobs) -> Outcome {
    let (mut rows, mut o, mut raised) = (Rows::new(), [0.0f32; 4], 0);
    for (n, block) in blocks.iter().enumerate() {
        let mut p = *block;
        let words = if n == 0 {
            rows.first::<Alone, S>(&mut p, k);
            E::whole(&p)
        } else {
            let (within, exceeded, added, words) = E::block(&rows, block, k);
            if within {
                rows = added;
                words
            } else {
                scale_rows(&mut o, rows.raise::<Alone, S>(&mut p, exceeded, k));
                raised += 1;
                E::whole(&p)
            }
        };
        (0..S).for_each(|i| o[i & 2] += E::value(&words, i));
    }
    let (inverse, lse) = rows.finish::<Alone>(k);
    Outcome { o: [o[0] * inverse[0], o[2] * inverse[1]], lse, raised }
}

/// O is 1 and the LSE is f64's, or O is 0 and the LSE -inf. Returns the blocks that were done again.
fn check(blocks: &[[f32; S]], k: Knobs) -> usize {
    check_rounded::<Bf16>(blocks, k)
}

/// The same with probabilities of another format.
fn check_rounded<E: Rounded>(blocks: &[[f32; S]], k: Knobs) -> usize {
    let got = run::<E>(blocks, &k);
    for r in 0..2 {
        let row: Vec<f64> = blocks
            .iter()
            .flatten()
            .enumerate()
            .filter(|(i, _)| (i >> 1) & 1 == r)
            .map(|(_, &s)| s as f64 * 0.25)
            .collect();
        let top = row.iter().cloned().fold(f64::NEG_INFINITY, f64::max);
        if top == f64::NEG_INFINITY {
            assert_eq!((got.o[r], got.lse[r]), (0.0, f32::NEG_INFINITY));
            continue;
        }
        let want = top + row.iter().map(|s| (s - top).exp()).sum::<f64>().ln();
        assert!((got.lse[r] as f64 - want).abs() < 2e-4 * want.abs().max(1.0), "lse {}, not {want}", got.lse[r]);
        assert!((got.o[r] - 1.0).abs() < E::SLACK, "O {} with bound {}", got.o[r], k.bound);
    }
    got.raised
}

#[test]
fn any_bound_gives_the_same_result() {
    let wave = |n: usize, height: f32| core::array::from_fn(|i| height * ((n * S + i) as f32 * 0.7).sin());
    let rising: Vec<[f32; S]> = (0..6).map(|n| wave(n, 4.0 * n as f32)).collect();
    let falling: Vec<[f32; S]> = rising.iter().rev().copied().collect();
    for bound in [64.0, 256.0, 16384.0] {
        for exp2 in [Exp2::HARDWARE, HALF_EMULATED] {
            check(&rising, knobs(bound, exp2));
            assert_eq!(check(&falling, knobs(bound, exp2)), 0, "a falling row keeps its reference");
        }
    }
}

#[test]
fn eight_bits_saturate_nowhere() {
    let k = Knobs { lift: E4m3::LIFT, ..knobs(f32::NAN, Exp2::HARDWARE) };
    let wave = |n: usize, height: f32| core::array::from_fn(|i| height * ((n * S + i) as f32 * 0.7).sin());
    let rising: Vec<[f32; S]> = (0..6).map(|n| wave(n, 4.0 * n as f32)).collect();
    let falling: Vec<[f32; S]> = rising.iter().rev().copied().collect();
    assert!(check_rounded::<E4m3>(&rising, k) > 0);
    assert_eq!(check_rounded::<E4m3>(&falling, k), 0, "a falling row keeps its reference");
    // 2^5 times 13 is below 432, from which on 448 is nearest, and times 14 is not. Each score counts a quarter.
    for (growth, raised) in [(13.0f32, 0), (14.0, 1), (1e30, 1), (0.1, 0)] {
        let late = growth.ln() * 4.0;
        for i in 0..S {
            let mut spike = [0.0; S];
            spike[i] = late;
            assert_eq!(check_rounded::<E4m3>(&[[0.0; S], spike], k), raised, "growth {growth}, register {i}");
        }
        assert_eq!(check_rounded::<E4m3>(&[[0.0; S], [late; S]], k), raised, "growth {growth} of all");
    }
    let none = [f32::NEG_INFINITY; S];
    check_rounded::<E4m3>(&[none, none], k);
    check_rounded::<E4m3>(&[none, wave(0, 9.0), none], k);
    let not = run::<E4m3>(&[[0.0; S], core::array::from_fn(|i| if i == 5 { f32::NAN } else { 0.0 })], &k);
    // Register 5 is of the first row.
    assert!(not.o[0].is_nan() && (not.o[1] - 1.0).abs() < 1e-3, "{:?}", not.o);
}

#[test]
fn a_block_far_above_the_reference_is_done_again() {
    let flat = |x: f32| [x; S];
    for exp2 in [Exp2::HARDWARE, HALF_EMULATED] {
        let k = knobs(16384.0, exp2);
        // Exponents 0, then 36, then 3600 and 36,000: within f32 and far outside.
        assert_eq!(check(&[flat(0.0), flat(100.0), flat(1e4), flat(1e5)], k), 3);
        assert_eq!(check(&[flat(-1e5), flat(1e5), flat(-1e5)], k), 1);
        // One score of one row alone, of the first and of the last pair.
        for i in [0, 1, 2, 3, S - 4, S - 1] {
            let mut spike = flat(0.0);
            spike[i] = 500.0;
            assert_eq!(check(&[flat(0.0), spike, flat(0.0)], k), 1, "register {i}");
        }
    }
}

#[test]
fn halves_of_the_keys_merge_to_the_whole() {
    let k = knobs(16384.0, Exp2::HARDWARE);
    let wave = |n: usize| -> [f32; 16] { core::array::from_fn(|i| 9.0 * ((n * 16 + i) as f32 * 0.7).sin()) };
    let none = [f32::NEG_INFINITY; 16];
    let late: [f32; 16] = core::array::from_fn(|i| if (i >> 1) & 1 == 0 { f32::NEG_INFINITY } else { i as f32 });
    for blocks in [[wave(0), wave(1)], [wave(1), none], [none, wave(2)], [late, none], [late, wave(3)], [none, none]] {
        let (mut whole, mut halves) = (Rows::new(), [Rows::new(), Rows::new()]);
        whole.first::<Alone, 16>(&mut blocks[0].clone(), &k);
        whole.raise::<Alone, 16>(&mut blocks[1].clone(), [true; 2], &k);
        for (half, block) in halves.iter_mut().zip(&blocks) {
            half.first::<Alone, 16>(&mut block.clone(), &k);
        }
        let [mut first, second] = halves;
        let factors = first.merge(second.parts(), &k);
        assert!(factors.iter().flatten().all(|f| (0.0..=1.0).contains(f)), "{factors:?}");
        let ((_, lse), (_, want)) = (first.finish::<Alone>(&k), whole.finish::<Alone>(&k));
        for r in 0..2 {
            assert!(lse[r] == want[r] || (lse[r] - want[r]).abs() < 1e-5, "{lse:?} instead of {want:?}");
            // What each half adds to the row, relative to the whole: together 1, unless there are no keys.
            let all = factors[0][r] * halves[0].sum[r] + factors[1][r] * halves[1].sum[r];
            assert!((all - first.sum[r]).abs() <= 1e-6 * all, "{all} instead of {}", first.sum[r]);
        }
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_its_neighbour_does() {
    let k = knobs(16384.0, Exp2::HARDWARE);
    let wave = |n: usize| core::array::from_fn(|i| 9.0 * ((n * S + i) as f32 * 0.7).sin());
    let alone: Vec<[f32; S]> = (0..5).map(wave).collect();
    // Row 1 rises so much that its blocks are done again, or has no keys at first; row 0 is as before.
    for other in [40.0f32, f32::NEG_INFINITY] {
        let shared: Vec<[f32; S]> = (0..5)
            .map(|n| {
                core::array::from_fn(|i| {
                    if i & 2 == 0 {
                        wave(n)[i]
                    } else if n < 2 {
                        other
                    } else {
                        100.0 * n as f32
                    }
                })
            })
            .collect();
        let (a, b) = (run::<Bf16>(&alone, &k), run::<Bf16>(&shared, &k));
        assert!(b.raised > 0);
        assert_eq!((a.o[0].to_bits(), a.lse[0].to_bits()), (b.o[0].to_bits(), b.lse[0].to_bits()));
    }
}

#[test]
fn a_sink_is_a_key_without_a_value() {
    let k = knobs(16384.0, Exp2::HARDWARE);
    let scores: [f32; S] = core::array::from_fn(|i| (i as f32 * 0.7).sin() * 8.0);
    for sink in [f32::NEG_INFINITY, -300.0, 0.0, 3.0, 300.0] {
        let mut rows = Rows::new();
        rows.first::<Alone, S>(&mut scores.clone(), &k);
        let (inverse, lse) = rows.finish_with::<Alone>([sink * std::f32::consts::LOG2_E; 2], &k);
        let (plain, plain_lse) = rows.finish::<Alone>(&k);
        for r in 0..2 {
            let (own, sink) = (f64::from(plain_lse[r]), f64::from(sink));
            let top = own.max(sink);
            let want = top + ((own - top).exp() + (sink - top).exp()).ln();
            assert!((f64::from(lse[r]) - want).abs() < 1e-4, "{} instead of {want}", lse[r]);
            let share = f64::from(inverse[r] / plain[r]);
            assert!((share - (own - want).exp()).abs() < 1e-4, "sink {sink}: {share}");
        }
    }
    let (inverse, lse) = Rows::new().finish_with::<Alone>([2.0, f32::NEG_INFINITY], &k);
    assert_eq!(inverse, [0.0; 2]);
    assert!((lse[0] - 2.0 * core::f32::consts::LN_2).abs() < 1e-6 && lse[1] == f32::NEG_INFINITY);
}

#[test]
fn a_small_growth_keeps_the_reference() {
    let k = knobs(16384.0, Exp2::HARDWARE);
    assert_eq!(check(&[[1.0; S], [2.0; S], [20.0; S]], k), 0);
    assert_eq!(check(&[[1.0; S], [101.0; S]], k), 1);
    let mut rows = Rows::new();
    rows.first::<Alone, S>(&mut [1.0; S], &k);
    let factor = rows.raise::<Alone, S>(&mut [101.0; S], [true; 2], &k);
    assert!(factor[0] < 1e-10 && factor[0] > 0.0, "growth of 100 must rescale, got {factor:?}");
    assert_eq!(rows.raise::<Alone, S>(&mut [50.0; S], [true; 2], &k), [1.0; 2]);
}

#[test]
fn rows_without_keys_stay_empty_and_may_wake_up_late() {
    let none = [f32::NEG_INFINITY; S];
    let late = |x| core::array::from_fn(|i| if (i >> 1) & 1 == 0 { f32::NEG_INFINITY } else { x + i as f32 });
    for exp2 in [Exp2::HARDWARE, HALF_EMULATED] {
        assert_eq!(check(&[none, none, none], knobs(16384.0, exp2)), 0);
        // A row's first number asks for a reference, however small it is.
        for x in [0.0, -1e4, 1e4] {
            assert_eq!(check(&[none, late(x), none], knobs(16384.0, exp2)), 1);
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    for exp2 in [Exp2::HARDWARE, HALF_EMULATED] {
        for i in 0..S {
            let mut block = [0.0; S];
            block[i] = f32::NAN;
            let got = run::<Bf16>(&[[0.0; S], block, [0.0; S]], &knobs(16384.0, exp2));
            let (hit, other) = ((i >> 1) & 1, ((i >> 1) & 1) ^ 1);
            assert!(got.o[hit].is_nan() && got.lse[hit].is_nan(), "register {i}");
            assert!((got.o[other] - 1.0).abs() < 1e-5, "register {i}");
            assert!(got.raised >= 1);
        }
    }
}
