use super::*;

fn case() -> Case {
    "bf16 b=2 h=3 hk=1 sq=40 sk=50 d=8 dv=16 lse".parse().expect("valid")
}

/// The right answer, rounded to the case's format.
fn answer(case: &Case, inputs: &Inputs) -> Answer {
    let reference = inputs.attention(case).reference();
    let narrow = |t: &Dense<f64>| Dense { dims: t.dims, data: t.data.iter().map(|x| *x as f32).collect() };
    Answer::of(case, &narrow(&reference.o), Some(&narrow(&reference.lse)), ROWS)
}

#[test]
fn rows_are_spread_from_the_first_to_the_last() {
    let rows = rows(&case(), ROWS);
    assert_eq!((rows.len(), rows[0], rows[ROWS - 1]), (ROWS, 0, 2 * 3 * 40 - 1));
    assert!(rows.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(super::rows(&case(), 1000), (0..240).collect::<Vec<_>>());
    assert_eq!(super::rows(&Case { batch: 1, heads: 1, seqlen_q: 1, ..case() }, ROWS), [0]);
}

#[test]
fn neighbours_agree_and_more_than_rounding_does_not() {
    let (case, inputs) = (case(), Inputs::of(&case()));
    let recorded = answer(&case, &inputs);
    let agree = |changed: &Answer| changed.compare(&case, &inputs, &recorded);
    assert_eq!(agree(&recorded).map(|a| (a.elements - a.equal, a.worst, a.lse)), Ok((0, 0.0, 0.0)));

    let mut near = recorded.clone();
    near.o[5] += 1;
    let found = agree(&near).expect("one unit in the last place");
    assert!(found.elements - found.equal == 1 && found.worst > 0.0, "{found}");

    // Row 3 of those kept is row 3 * 239 / 159 = 4 of batch 0, head 0.
    let (mut far, at) = (recorded.clone(), 3 * 16 + 7);
    far.o[at] = case.precision.to_bits(case.precision.from_bits(far.o[at]) + 0.1);
    assert!(matches!(agree(&far), Err(Disagreement::Number { what: "o", at: (0, 4, 0, 7), .. })), "{:?}", agree(&far));
    far.o[at] = case.precision.to_bits(f32::NAN);
    assert!(matches!(agree(&far), Err(Disagreement::Number { what: "o", .. })));

    let mut lse = recorded.clone();
    if let Some(lse) = &mut lse.lse {
        lse[9] = (f32::from_bits(lse[9]) + 2.0 * LSE_BOUND).to_bits();
    }
    assert!(matches!(agree(&lse), Err(Disagreement::Number { what: "lse", .. })));
    let without = Answer { lse: None, ..recorded.clone() };
    assert_eq!(agree(&without), Err(Disagreement::Length { what: "lse", recorded: ROWS, found: 0 }));
}

#[test]
fn infinite_lse_agree_with_each_other_alone() {
    let mut agreement = Agreement::default();
    let mut compare = |a, b| compare_lse((0, 0, 0), a, b, &mut agreement).is_ok();
    assert!(compare(f32::NEG_INFINITY, f32::NEG_INFINITY));
    assert!(!compare(f32::NEG_INFINITY, 1.0) && !compare(f32::NAN, 1.0) && !compare(f32::INFINITY, f32::NEG_INFINITY));
}

#[test]
fn a_recording_is_read_as_it_was_written_and_knows_its_inputs() {
    let (case, inputs) = (case(), Inputs::of(&case()));
    let mut recording = Recording { device: "a device".into(), ..Recording::default() };
    recording.insert(&case, &inputs, answer(&case, &inputs));
    let without_lse = Case { lse: false, precision: Precision::F16, ..case };
    let other = Inputs::of(&without_lse);
    recording.insert(&without_lse, &other, Answer { lse: None, ..answer(&without_lse, &other) });
    let path = std::env::temp_dir().join(format!("attn-answers-{}.safetensors", std::process::id()));
    recording.save(&path).expect("writable");
    let again = Recording::load(&path).expect("readable");
    std::fs::remove_file(&path).expect("removable");
    assert_eq!(again, recording);

    let mine = answer(&case, &inputs);
    assert!(again.compare(&case, &inputs, &mine).is_ok());
    assert_eq!(again.compare(&case, &other, &mine), Err(Disagreement::Inputs));
    assert_eq!(again.compare(&Case { seed: 9, ..case }, &inputs, &mine), Err(Disagreement::Unrecorded));
}
