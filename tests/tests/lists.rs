//! Every case of the GPU suite gives a usable comparison, shown where there is no GPU: the reference has no NaN
//! unless the inputs do, the naive answer gives a finite bound, and the correctly rounded reference passes.

use attn_tests::compare;
use attn_tests::dense::Dense;
use attn_tests::input::{Input, Inputs};
use attn_tests::oracle::Answer;
use attn_tests::precision::Precision;
use attn_tests::serve::inputs::ServeInputs;
use attn_tests::{lists, serve};

#[test]
fn every_checked_case_accepts_its_rounded_reference() {
    for lists::Entry { list, case, .. } in lists::checked() {
        let inputs = Inputs::of(&case);
        let attention = inputs.attention(&case);
        let (reference, lowp) = (attention.reference(), attention.lowp(case.precision));
        let Answer { o, lse } = rounded(&reference, case.precision);
        let poisoned = case.input == Input::NotANumber;
        assert_eq!(o.data.iter().any(|x| !x.is_finite()), poisoned, "{list}: {case}");
        let report = compare::check(&o, Some(&lse), &reference, &lowp, case.precision);
        report.unwrap_or_else(|error| panic!("{list}: {case}: {error}"));
    }
}

/// Scores up to which a serving case is looked at here.
const MOST_SCORES: usize = 200_000;

#[test]
fn every_serving_case_accepts_its_rounded_reference() {
    for serve::lists::Entry { list, case } in serve::lists::checked().into_iter().chain(serve::lists::simulator()) {
        let elements = case.base.batch * case.base.seqlen_k * case.base.kv_heads * case.base.head_dim;
        if case.scores() > MOST_SCORES || elements > 100 * MOST_SCORES {
            continue;
        }
        let inputs = ServeInputs::of(&case);
        let (reference, lowp) = (inputs.reference(&case), inputs.lowp(&case));
        let Answer { o, lse } = rounded(&reference, case.base.precision);
        assert!(case.poisoned.is_some() || o.data.iter().all(|x| x.is_finite()), "{list}: {case}");
        let report = compare::check(&o, Some(&lse), &reference, &lowp, case.base.precision);
        report.unwrap_or_else(|error| panic!("{list}: {case}: {error}"));
    }
}

fn rounded(answer: &Answer<f64>, precision: Precision) -> Answer<f32> {
    let to = |t: &Dense<f64>, to: &dyn Fn(f32) -> f32| Dense {
        dims: t.dims,
        data: t.data.iter().map(|x| to(*x as f32)).collect(),
    };
    Answer { o: to(&answer.o, &|x| precision.round(x)), lse: to(&answer.lse, &|x| x) }
}
