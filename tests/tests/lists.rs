//! Every case of the GPU suite gives a usable comparison, shown where there is no GPU: the reference has no NaN
//! unless the inputs do, the naive answer gives a finite bound, and the correctly rounded reference passes.

use attn_tests::compare;
use attn_tests::dense::Dense;
use attn_tests::input::{Input, Inputs};
use attn_tests::lists;

#[test]
fn every_checked_case_accepts_its_rounded_reference() {
    for lists::Entry { list, case, .. } in lists::checked() {
        let inputs = Inputs::of(&case);
        let attention = inputs.attention(&case);
        let (reference, lowp) = (attention.reference(), attention.lowp(case.precision));
        let rounded = |t: &Dense<f64>, to: &dyn Fn(f32) -> f32| Dense {
            dims: t.dims,
            data: t.data.iter().map(|x| to(*x as f32)).collect(),
        };
        let o = rounded(&reference.o, &|x| case.precision.round(x));
        let lse = rounded(&reference.lse, &|x| x);
        let poisoned = case.input == Input::NotANumber;
        assert_eq!(o.data.iter().any(|x| !x.is_finite()), poisoned, "{list}: {case}");
        let report = compare::check(&o, Some(&lse), &reference, &lowp, case.precision);
        report.unwrap_or_else(|error| panic!("{list}: {case}: {error}"));
    }
}
