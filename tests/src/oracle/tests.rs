//! The oracle against values worked out by hand and against the file that another program computed.

use approx::assert_abs_diff_eq;

use super::*;
use crate::sample::Sample;

fn rows(heads: usize, width: usize, data: &[f32]) -> Dense<f32> {
    let dims = Dims { batch: 1, seq: data.len() / width / heads, heads, width };
    Dense { dims, data: data.to_vec() }
}

#[test]
fn two_keys_by_hand() {
    // Scores 0 and ln 3, so probabilities 1/4 and 3/4, and LSE = ln 4.
    let (q, k, v) = (rows(1, 1, &[1.0]), rows(1, 1, &[0.0, 3f32.ln()]), rows(1, 2, &[4.0, 8.0, 0.0, 16.0]));
    let answer = Attention::new(&q, &k, &v, 1.0).reference();
    assert_abs_diff_eq!(answer.o.data[0], 1.0, epsilon = 1e-6);
    assert_abs_diff_eq!(answer.o.data[1], 14.0, epsilon = 1e-6);
    assert_abs_diff_eq!(answer.lse.data[0], 4f64.ln(), epsilon = 1e-6);
}

#[test]
fn scale_multiplies_scores() {
    // Score 2 * ln 3 / 2 = ln 3 against 0.
    let (q, k, v) = (rows(1, 1, &[2.0]), rows(1, 1, &[0.0, 3f32.ln()]), rows(1, 1, &[0.0, 1.0]));
    let answer = Attention::new(&q, &k, &v, 0.5).reference();
    assert_abs_diff_eq!(answer.o.data[0], 0.75, epsilon = 1e-6);
}

#[test]
fn causal_is_aligned_to_the_bottom_right() {
    // All scores equal, so each output is the mean of the visible values 1, 2, 3.
    let (k, v) = (rows(1, 1, &[0.0; 3]), rows(1, 1, &[1.0, 2.0, 3.0]));
    let mean = |queries: usize| {
        let q = rows(1, 1, &vec![1.0; queries]);
        Attention::new(&q, &k, &v, 1.0).window(Window::CAUSAL).reference()
    };
    assert_eq!(mean(1).o.data, [2.0]);
    assert_eq!(mean(2).o.data, [1.5, 2.0]);
    assert_eq!(mean(3).o.data, [1.0, 1.5, 2.0]);
    let five = mean(5);
    assert_eq!(five.o.data, [0.0, 0.0, 1.0, 1.5, 2.0]);
    assert_eq!(five.lse.data[..2], [f64::NEG_INFINITY; 2]);
    assert_eq!(five.lse.data[2], 0.0);
}

#[test]
fn minus_infinity_hides_a_key_and_a_whole_row() {
    let (q, v) = (rows(1, 1, &[1.0]), rows(1, 1, &[5.0, 7.0]));
    let run = |k: [f32; 2]| {
        let k = rows(1, 1, &k);
        let problem = Attention::new(&q, &k, &v, 1.0);
        (problem.reference(), problem.lowp(Precision::Bf16))
    };
    let (one, _) = run([f32::NEG_INFINITY, 0.0]);
    assert_eq!((one.o.data[0], one.lse.data[0]), (7.0, 0.0));
    let (none, lowp) = run([f32::NEG_INFINITY; 2]);
    assert_eq!((none.o.data[0], none.lse.data[0]), (0.0, f64::NEG_INFINITY));
    assert_eq!(lowp.o.data[0], 0.0);
}

#[test]
fn query_heads_share_their_own_key_head() {
    let q = rows(4, 1, &[1.0; 4]);
    let (k, v) = (rows(2, 1, &[0.0; 2]), rows(2, 1, &[10.0, 20.0]));
    let answer = Attention::new(&q, &k, &v, 1.0).reference();
    assert_eq!(answer.o.data, [10.0, 10.0, 20.0, 20.0]);
}

#[test]
fn lowp_rounds_scores_probabilities_and_output() {
    // Score 257 is 256 in bf16: both keys tie, although the second is larger by a factor e.
    let (q, k, v) = (rows(1, 2, &[16.0, 1.0]), rows(1, 2, &[16.0, 0.0, 16.0, 1.0]), rows(1, 1, &[0.0, 1.0]));
    let problem = Attention::new(&q, &k, &v, 1.0);
    assert_eq!(problem.lowp(Precision::Bf16).o.data[0], 0.5);
    assert_abs_diff_eq!(problem.reference().o.data[0], 1.0 / (1.0 + (-1f64).exp()), epsilon = 1e-12);
}

#[test]
fn real_sample_gives_the_files_answer() {
    let sample = Sample::minilm();
    let answer = Attention::new(&sample.q, &sample.k, &sample.v, sample.scale).reference();
    let (o, lse) = (sample.o.expect("the sample has o"), sample.lse.expect("the sample has lse"));
    assert_eq!(answer.o.dims, o.dims);
    for (got, want) in answer.o.data.iter().zip(&o.data).chain(answer.lse.data.iter().zip(&lse.data)) {
        assert_abs_diff_eq!(*got, f64::from(*want), epsilon = 2e-6);
    }
}

#[test]
fn widths_that_are_no_multiple_of_four_are_summed_in_full() {
    let q: Vec<f32> = (1..=7).map(|x| x as f32).collect();
    let k = transposed::<f64>(&q.repeat(3), 7);
    let mut out = [0.0; 3];
    dot_products(&q, &k, (3, 0), &mut out);
    assert_eq!(out, [140.0; 3]);
    let k = transposed::<f64>(&[0.0, 1.0, 0.0, 2.0, 0.0, 4.0], 2);
    let mut last = [0.0; 2];
    dot_products(&[9.0, 10.0], &k, (3, 1), &mut last);
    assert_eq!(last, [20.0, 40.0]);
}
