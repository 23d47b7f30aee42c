//! The demo from file to report. The kernel runs on the GPU, or on the simulator where there is none.

use std::path::PathBuf;

use attn_tests::demo::{self, Options};
use attn_tests::precision::Precision;
use attn_tests::sample::Sample;
use safetensors::SafeTensors;

fn run(options: &Options) -> (Result<(), demo::DemoError>, String) {
    let mut report = Vec::new();
    let result = demo::run(options, &mut report);
    (result, String::from_utf8(report).expect("text"))
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("attn-demo-{}-{name}.safetensors", std::process::id()))
}

#[test]
fn the_real_sample_is_right() {
    let (result, report) = run(&Options::default());
    result.expect("right");
    for part in [
        "q (1, 331, 12, 32)",
        "no mask",
        "kernel   fwd_sm90_bf16_d32",
        "against  the file's own o and lse",
        "right",
        "time",
    ] {
        assert!(report.contains(part), "no '{part}' in\n{report}");
    }
}

#[test]
fn the_answer_is_written_in_the_inputs_format() {
    let path = scratch("out");
    let (result, report) = run(&Options { output: Some(path.clone()), ..Options::default() });
    result.expect("right");
    assert!(report.contains("o (bf16) and lse (f32)"), "{report}");
    let bytes = std::fs::read(&path).expect("written");
    std::fs::remove_file(&path).expect("removable");
    let file = SafeTensors::deserialize(&bytes).expect("valid");
    let (o, lse) = (file.tensor("o").expect("o"), file.tensor("lse").expect("lse"));
    assert_eq!((o.shape(), lse.shape()), (&[1, 331, 12, 32][..], &[1, 12, 331][..]));
    let want = Sample::minilm().o.expect("the sample has o");
    let (row, bits) = (want.row(0, 7, 100), &o.data()[2 * (100 * 12 + 7) * 32..]);
    for (want, got) in row.iter().zip(bits.chunks_exact(2)) {
        let got = Precision::Bf16.from_bits(u16::from_le_bytes([got[0], got[1]]));
        assert!((got - want).abs() < 0.02, "{got} {want}");
    }
}

#[test]
fn a_mask_changes_the_answer_and_what_it_is_compared_with() {
    let path = scratch("causal");
    let (result, report) = run(&Options { causal: true, output: Some(path.clone()), ..Options::default() });
    result.expect("right");
    assert!(report.contains("causal") && !report.contains("the file's own"), "{report}");
    let bytes = std::fs::read(&path).expect("written");
    std::fs::remove_file(&path).expect("removable");
    let file = SafeTensors::deserialize(&bytes).expect("valid");
    // The first query sees the first key alone, so its output is the first value.
    let (sample, o) = (Sample::minilm(), file.tensor("o").expect("o"));
    for (value, got) in sample.v.row(0, 0, 0).iter().zip(o.data().chunks_exact(2)) {
        assert_eq!(*value, Precision::Bf16.from_bits(u16::from_le_bytes([got[0], got[1]])));
    }
}

#[test]
fn a_wrong_expectation_and_a_bad_file_are_errors() {
    let mut bytes = include_bytes!("../data/minilm_layer3.safetensors").to_vec();
    let path = scratch("bad");
    let attempt = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("writable");
        run(&Options { input: Some(path.clone()), ..Options::default() }).0.expect_err("bad").to_string()
    };
    let truncated = attempt(&bytes[..5000]);
    assert!(truncated.contains("-bad.safetensors: not a complete safetensors file"), "{truncated}");
    // The last bytes of the file are values, which every expected output depends on.
    let end = bytes.len() - 20_000;
    bytes[end..].fill(0x40);
    let wrong = attempt(&bytes);
    assert!(wrong.starts_with("the answer is wrong: o(0,"), "{wrong}");
    std::fs::remove_file(&path).expect("removable");
    let missing = run(&Options { input: Some(path), ..Options::default() }).0.expect_err("gone").to_string();
    assert!(missing.contains("-bad.safetensors: No such file"), "{missing}");
}
