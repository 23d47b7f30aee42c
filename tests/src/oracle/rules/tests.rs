//! Windows, softcap, ALiBi and sinks against loops over their definitions and against identities.

use approx::assert_abs_diff_eq;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Modifiers, Window};
use crate::dense::{Dense, Dims};
use crate::oracle::{Answer, Attention};
use crate::precision::Precision;

const HEADS: usize = 4;
const WIDTH: usize = 6;

fn random(seq: usize, heads: usize, seed: u64) -> Dense<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Dense::from_fn(Dims { batch: 1, seq, heads, width: WIDTH }, |_, _, _, _| rng.random_range(-2.0..2.0))
}

struct Inputs([Dense<f32>; 3]);

impl Inputs {
    fn new(queries: usize, keys: usize) -> Self {
        Inputs([random(queries, HEADS, 1), random(keys, 2, 2), random(keys, 2, 3)])
    }

    fn attention(&self) -> Attention<'_> {
        let Inputs([q, k, v]) = self;
        Attention::new(q, k, v, 0.7)
    }
}

/// One output row and its LSE, by the definition: no key left out but by comparing positions, no maximum subtracted.
fn row(problem: &Attention<'_>, head: usize, i: usize) -> (Vec<f64>, f64) {
    let (queries, keys) = (problem.q.dims.seq as i64, problem.k.dims.seq as i64);
    let (mut sum, mut o) = (0.0, vec![0.0; WIDTH]);
    if let Some(sinks) = problem.modifiers.sinks {
        sum += f64::from(sinks[head]).exp();
    }
    for j in 0..keys {
        let away = j - (i as i64 + keys - queries);
        let right = problem.window.right.is_some_and(|right| away > right as i64);
        let left = problem.window.left.is_some_and(|left| -away > left as i64);
        if left || right {
            continue;
        }
        let products = problem.q.row(0, head, i).iter().zip(problem.k.row(0, head / 2, j as usize));
        let mut s = f64::from(problem.scale) * products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
        if let Some(cap) = problem.modifiers.softcap.map(f64::from) {
            s = cap * (s / cap).tanh();
        }
        if let Some(slopes) = problem.modifiers.alibi {
            s -= f64::from(slopes[head]) * away.abs() as f64;
        }
        sum += s.exp();
        let v = problem.v.row(0, head / 2, j as usize);
        o.iter_mut().zip(v).for_each(|(o, v)| *o += s.exp() * f64::from(*v));
    }
    let divisor = if sum > 0.0 { sum } else { 1.0 };
    (o.into_iter().map(|o| o / divisor).collect(), sum.ln())
}

fn assert_is_the_definition(problem: &Attention<'_>, what: &str) {
    let answer = problem.reference();
    for head in 0..HEADS {
        for i in 0..problem.q.dims.seq {
            let (o, lse) = row(problem, head, i);
            for (got, want) in answer.o.row(0, head, i).iter().zip(o) {
                assert_abs_diff_eq!(*got, want, epsilon = 1e-12);
            }
            let got = answer.lse.row(0, head, i)[0];
            assert!(got == lse || (got - lse).abs() < 1e-12, "{what}, head {head}, query {i}: {got} for {lse}");
        }
    }
}

fn assert_near(a: &Answer<f64>, b: &Answer<f64>, epsilon: f64) {
    for (a, b) in a.o.data.iter().zip(&b.o.data).chain(a.lse.data.iter().zip(&b.lse.data)) {
        assert!(a == b || (a - b).abs() <= epsilon, "{a} and {b}");
    }
}

#[test]
fn windows_and_modifiers_are_their_definitions() {
    let sides = [None, Some(0), Some(2), Some(5), Some(100)];
    let (slopes, sinks) = ([0.5, 0.0, 0.25, 1.5], [0.3, -4.0, 2.5, f32::NEG_INFINITY]);
    for (queries, keys) in [(1, 9), (7, 7), (9, 4), (3, 11), (1, 1), (4, 0), (0, 4)] {
        let inputs = Inputs::new(queries, keys);
        for (left, right) in sides.into_iter().flat_map(|left| sides.map(|right| (left, right))) {
            for bits in 0..8 {
                let on = |bit: u32| bits >> bit & 1 == 1;
                let problem = inputs.attention().window(Window { left, right }).modifiers(Modifiers {
                    softcap: on(0).then_some(1.5),
                    alibi: on(1).then_some(&slopes),
                    sinks: on(2).then_some(&sinks),
                });
                assert_is_the_definition(&problem, &format!("{queries} x {keys}, {left:?} {right:?}, {bits:b}"));
            }
        }
    }
}

#[test]
fn a_window_as_wide_as_the_keys_is_the_causal_mask_or_none() {
    let inputs = Inputs::new(6, 9);
    let window = |left, right| inputs.attention().window(Window { left, right }).reference();
    assert_eq!(window(Some(8), Some(0)), window(None, Some(0)));
    assert_eq!(window(Some(8), Some(5)), window(None, None));
    assert_ne!(window(Some(7), None), window(None, None), "the last query misses the first key");
    assert_ne!(window(None, Some(4)), window(None, None), "the first query misses the last key");
}

#[test]
fn a_high_softcap_is_none_and_a_low_one_bounds_scores() {
    let inputs = Inputs::new(5, 8);
    let capped = |softcap| inputs.attention().modifiers(Modifiers { softcap, ..Modifiers::default() }).reference();
    assert_near(&capped(Some(1e6)), &capped(None), 1e-9);
    // Scores near zero: every probability is near 1/8.
    capped(Some(1e-3)).lse.data.iter().for_each(|lse| assert_abs_diff_eq!(*lse, 8f64.ln(), epsilon = 1.1e-3));
}

#[test]
fn slopes_of_zero_are_none_and_large_ones_leave_the_own_key() {
    let inputs = Inputs::new(8, 8);
    let with = |slopes: &[f32; HEADS]| {
        inputs.attention().modifiers(Modifiers { alibi: Some(slopes), ..Modifiers::default() }).reference()
    };
    assert_eq!(with(&[0.0; HEADS]), inputs.attention().reference());
    let steep = with(&[1e4; HEADS]);
    for (i, head) in (0..8).flat_map(|i| (0..HEADS).map(move |head| (i, head))) {
        for (o, v) in steep.o.row(0, head, i).iter().zip(inputs.0[2].row(0, head / 2, i)) {
            assert_eq!(*o, f64::from(*v));
        }
    }
}

#[test]
fn a_sink_is_one_more_key_with_a_value_of_zero() {
    let (queries, keys) = (5, 7);
    let inputs = Inputs::new(queries, keys);
    let sinks = [0.4f32, -1.0, 3.0, 0.0];
    let with = inputs.attention().modifiers(Modifiers { sinks: Some(&sinks), ..Modifiers::default() }).reference();
    // The queries get a column of `sink / scale`, which only the last key has a one in.
    let [q, k, v] = &inputs.0;
    let wide = |t: &Dense<f32>, seq| Dims { seq, width: WIDTH + 1, ..t.dims };
    let q = Dense::from_fn(wide(q, queries), |_, i, h, c| if c == WIDTH { sinks[h] / 0.7 } else { q.row(0, h, i)[c] });
    let extended = |t: &Dense<f32>, one: f32| {
        Dense::from_fn(wide(t, keys + 1), |_, j, h, c| match (j == keys, c == WIDTH) {
            (true, true) => one,
            (true, false) | (false, true) => 0.0,
            _ => t.row(0, h, j)[c],
        })
    };
    let (k, v) = (extended(k, 1.0), extended(v, 0.0));
    let one_more = Attention::new(&q, &k, &v, 0.7).reference();
    for (got, want) in with.o.data.chunks_exact(WIDTH).zip(one_more.o.data.chunks_exact(WIDTH + 1)) {
        got.iter().zip(want).for_each(|(got, want)| assert_abs_diff_eq!(*got, *want, epsilon = 1e-6));
    }
    with.lse.data.iter().zip(&one_more.lse.data).for_each(|(a, b)| assert_abs_diff_eq!(*a, *b, epsilon = 1e-6));
}

#[test]
fn a_sink_of_minus_infinity_is_none_and_alone_it_is_the_lse() {
    let modifiers = |sinks| Modifiers { sinks: Some(sinks), ..Modifiers::default() };
    let inputs = Inputs::new(9, 4);
    let causal = inputs.attention().window(Window::CAUSAL);
    assert_eq!(causal.modifiers(modifiers(&[f32::NEG_INFINITY; HEADS])).reference(), causal.reference());
    // The first five queries see no key.
    let sunk = causal.modifiers(modifiers(&[1.5; HEADS])).reference();
    for (head, i) in (0..HEADS).flat_map(|head| (0..5).map(move |i| (head, i))) {
        assert_eq!((sunk.o.row(0, head, i), sunk.lse.row(0, head, i)), (&[0.0; WIDTH][..], &[1.5][..]));
    }
}

#[test]
fn the_naive_answer_is_near_and_rounds_every_step() {
    let inputs = Inputs::new(5, 8);
    let slopes = [0.5, 0.25, 0.125, 0.0625];
    let modifiers = Modifiers { softcap: Some(2.0), alibi: Some(&slopes), sinks: Some(&[0.5; HEADS]) };
    let problem = inputs.attention().modifiers(modifiers);
    let (reference, lowp) = (problem.reference(), problem.lowp(Precision::Bf16));
    let errors = reference.o.data.iter().zip(&lowp.o.data).map(|(r, l)| (r - f64::from(*l)).abs());
    let worst = errors.fold(0.0, f64::max);
    assert!((1e-4..5e-2).contains(&worst), "{worst}");
    let mut scores = [100.0f32, 1.0];
    let round = |x| Precision::Bf16.round(x);
    let modifiers = Modifiers { softcap: Some(3.0), ..Modifiers::default() };
    modifiers.apply(0, (0, 1, 2), 0..2, &mut scores, round);
    assert_eq!(scores, [3.0, round(round(round(1.0 / 3.0).tanh()) * 3.0)]);
}
