//! The rule accepts a correctly rounded answer and refuses the mistakes that kernels make.

use super::*;
use crate::case::Case;
use crate::input::Inputs;
use crate::oracle::{Attention, Window};

struct Problem {
    inputs: Inputs,
    causal: bool,
    scale: f32,
    precision: Precision,
    reference: Answer<f64>,
    lowp: Answer<f32>,
}

impl Problem {
    fn new(line: &str) -> Self {
        let case: Case = line.parse().expect("a valid case");
        let inputs = Inputs::of(&case);
        let (reference, lowp) = {
            let attention = inputs.attention(&case);
            (attention.reference(), attention.lowp(case.precision))
        };
        Problem { inputs, causal: case.causal, scale: case.scale(), precision: case.precision, reference, lowp }
    }

    /// The rounded answer of a program that computes something else than asked.
    fn answer(&self, change: impl FnOnce(&mut Inputs, &mut bool, &mut f32)) -> (Dense<f32>, Dense<f32>) {
        let (mut inputs, mut causal, mut scale) = (self.inputs.clone(), self.causal, self.scale);
        change(&mut inputs, &mut causal, &mut scale);
        let Inputs { q, k, v } = &inputs;
        let wrong = Attention::new(q, k, v, scale).window(Window::causal(causal)).reference();
        let o = wrong.o.data.iter().map(|x| self.precision.round(*x as f32)).collect();
        let lse = wrong.lse.data.iter().map(|x| *x as f32).collect();
        (Dense { dims: wrong.o.dims, data: o }, Dense { dims: wrong.lse.dims, data: lse })
    }

    fn check(&self, o: &Dense<f32>, lse: &Dense<f32>) -> Result<Report, Mismatch> {
        check(o, Some(lse), &self.reference, &self.lowp, self.precision)
    }
}

const LINES: [&str; 3] = [
    "bf16 b=2 h=4 hk=2 sq=150 sk=170 d=64 dv=64 causal lse",
    "f16 b=1 h=2 hk=2 sq=130 sk=130 d=128 dv=128 lse",
    "bf16 b=1 h=12 hk=12 sq=331 sk=331 d=32 dv=32 lse input=minilm",
];

#[test]
fn a_correctly_rounded_answer_passes() {
    for line in LINES {
        let problem = Problem::new(line);
        let (o, lse) = problem.answer(|_, _, _| ());
        let report = problem.check(&o, &lse).expect(line);
        assert!(report.error > 0.0 && report.error <= report.bound / 2.0, "{line}: {report}");
    }
}

#[test]
fn the_naive_answer_passes_with_room() {
    for line in LINES {
        let problem = Problem::new(line);
        let error = worst("o", &problem.lowp.o, &problem.reference.o, f64::INFINITY).expect("finite");
        let bound = bound(&problem.reference.o.data, &problem.lowp.o.data, problem.precision, FACTOR).expect("finite");
        assert!(error > 0.0 && 2.0 * error < bound, "{line}: {error} of {bound}");
    }
}

/// Each mistake with a name, so that a rule grown too lax says what it lets through.
#[test]
fn mistakes_are_refused() {
    type Change = fn(&mut Inputs, &mut bool, &mut f32);
    let mistakes: [(&str, Change); 6] = [
        ("scale off by 3 %", |_, _, scale| *scale *= 1.03),
        ("the mask forgotten or added", |_, causal, _| *causal = !*causal),
        ("the first key counted as a zero", |i, _, _| i.k.data[..i.k.dims.width].fill(0.0)),
        ("the values of a tile of keys moved by one row", |i, _, _| {
            let width = i.v.dims.width;
            i.v.data[..64 * width].rotate_right(width);
        }),
        ("key rows of a tile in reverse", |i, _, _| {
            let width = i.k.dims.width;
            i.k.data[..16 * width].chunks_exact_mut(width).for_each(|row| row.reverse());
        }),
        ("two query rows swapped", |i, _, _| {
            let at = i.q.row_start(0, 0, i.q.dims.seq - 2);
            i.q.data[at..].chunks_exact_mut(i.q.dims.width).take(2).for_each(|row| row.rotate_left(1));
        }),
    ];
    for line in LINES {
        let problem = Problem::new(line);
        for (name, change) in mistakes {
            let (o, lse) = problem.answer(change);
            assert!(problem.check(&o, &lse).is_err(), "{name} passes in {line}");
        }
    }
}

#[test]
fn a_wrong_value_column_is_refused_by_the_output_alone() {
    let problem = Problem::new(LINES[0]);
    let (o, _) = problem.answer(|i, _, _| {
        let width = i.v.dims.width;
        i.v.data.chunks_exact_mut(width).for_each(|row| row.swap(0, 8));
    });
    let error = check(&o, None, &problem.reference, &problem.lowp, problem.precision).expect_err("columns are swapped");
    assert!(matches!(error, Mismatch::Size { what: "o", .. }), "{error}");
}

#[test]
fn one_bad_element_is_found_and_named() {
    let problem = Problem::new(LINES[0]);
    let (mut o, lse) = problem.answer(|_, _, _| ());
    let bound = bound(&problem.reference.o.data, &problem.lowp.o.data, problem.precision, FACTOR).expect("finite");
    let i = o.row_start(1, 3, 77) + 5;
    o.data[i] += 2.0 * bound as f32;
    match problem.check(&o, &lse) {
        Err(Mismatch::Size { what: "o", at: (1, 77, 3, 5), count: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn lse_in_the_wrong_base_is_refused() {
    let problem = Problem::new(LINES[1]);
    let (o, mut lse) = problem.answer(|_, _, _| ());
    lse.data.iter_mut().for_each(|x| *x *= std::f32::consts::LOG2_E);
    assert!(matches!(problem.check(&o, &lse), Err(Mismatch::Size { what: "lse", .. })));
}

#[test]
fn nan_and_infinity_are_compared_by_place() {
    let problem = Problem::new("f16 b=1 h=1 hk=1 sq=20 sk=8 d=16 dv=16 causal lse");
    let (o, lse) = problem.answer(|_, _, _| ());
    let report = problem.check(&o, &lse).expect("rows without keys are zeros and -inf");
    assert!(report.bound > 0.0);

    let mut nan = o.clone();
    nan.data[3] = f32::NAN;
    assert!(matches!(problem.check(&nan, &lse), Err(Mismatch::Kind { what: "o", at: (0, 0, 0, 3), count: 1, .. })));

    let mut zero = lse.clone();
    zero.data[0] = 0.0;
    assert!(matches!(problem.check(&o, &zero), Err(Mismatch::Kind { what: "lse", .. })));

    let mut plus = lse.clone();
    plus.data[0] = f32::INFINITY;
    assert!(matches!(problem.check(&o, &plus), Err(Mismatch::Kind { what: "lse", .. })));
}

#[test]
fn an_overflowing_naive_answer_gives_no_bound() {
    assert_eq!(
        bound(&[1.0], &[f32::NAN], Precision::F16, FACTOR),
        Err(Mismatch::NoBound { precision: Precision::F16 }),
        "a NaN bound would accept everything"
    );
}

#[test]
fn the_rounding_term_is_the_formats_own() {
    // With an exact naive answer only the probe remains. In bf16 1.7 + 0.3 steps over 2, where the grid doubles to 1/64:
    // 1.703125 + 0.3 gives 2, minus 0.3 gives 1.703125; 1.9 becomes 2.203125 and comes back as 1.90625.
    let of = |value: f64, precision| bound(&[value], &[value as f32], precision, FACTOR);
    let (bf16, f16) = (of(1.9, Precision::Bf16).expect("finite"), of(1.9, Precision::F16).expect("finite"));
    assert!(bf16 > 2.0 * f16, "{bf16} {f16}");
    assert!((1e-3..0.04).contains(&bf16), "{bf16}");
}

#[test]
fn the_factor_is_on_the_naive_programs_error_alone() {
    let of = |factor| bound(&[1.0], &[1.125], Precision::F16, factor).expect("finite");
    assert_eq!(of(FACTOR_SOFTCAP) - of(FACTOR), 0.125);
}
