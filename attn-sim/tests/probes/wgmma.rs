//! Hopper's multiplies: each form against a plain product, and two in flight at once.

use attn_kernel::forward::plan::WARPGROUP;
use attn_kernel::mem::Format;
use attn_kernel::probe::wgmma::{K, M, MULTIPLIES, Multiply};
use attn_kernel::probe::{Probe, overlap};
use attn_kernel::ptx::float8;
use attn_sim::report::Kind;
use half::{bf16, f16};

use super::{Setup, bytes, compare, half_bytes, product, values};

/// Numbers in a format of the tensor cores.
fn encoded(format: Format, x: &[f32]) -> Vec<u8> {
    match format {
        Format::Bf16 => half_bytes(x.iter().map(|x| bf16::from_f32(*x).to_bits())),
        Format::F16 => half_bytes(x.iter().map(|x| f16::from_f32(*x).to_bits())),
        Format::E4m3 => bytes(x.as_chunks().0.iter().map(|four| float8::pack_e4m3(*four))),
    }
}

fn check(multiply: &Multiply, seed: u64) {
    let k = 2 * K / multiply.format.bytes();
    let (a, b) = (values(M * k, 1), values(multiply.n * k, 2));
    let mut setup = Setup::new("sm_90a", seed);
    setup.input(&encoded(multiply.format, &a));
    setup.input(&encoded(multiply.format, &b));
    let out = setup.output((M * multiply.n) as usize);
    setup.run(Probe {
        name: multiply.name,
        threads: WARPGROUP,
        shared: multiply.shared,
        cluster: 1,
        hopper_only: true,
    });
    let got = setup.words(out, (M * multiply.n) as usize);
    compare(multiply.name, &got, &product(&a, &b, k, 1.0), multiply.n);
}

#[test]
fn every_form_gives_the_product() {
    assert!(MULTIPLIES.len() >= 30);
    (0..).zip(MULTIPLIES).for_each(|(seed, multiply)| check(multiply, seed));
}

#[test]
fn two_multiplies_overlap_without_a_hazard() {
    for (seed, rounds) in [1u32, 2, 7].into_iter().enumerate() {
        let mut setup = Setup::new("sm_90a", seed as u64);
        setup.param(rounds.to_le_bytes());
        let words = 64 * WARPGROUP as usize;
        let out = setup.output(words);
        let run = setup.launch(overlap::PROBE, 1);
        // Nothing fills its tiles, which the machine says; it must say nothing else.
        assert!(run.findings.iter().any(|finding| finding.kind == Kind::Uninitialised));
        let other = run.findings.iter().find(|finding| finding.kind != Kind::Uninitialised);
        assert!(other.is_none(), "{}", other.map_or_else(String::new, ToString::to_string));
        assert_eq!(setup.gpu.first_unwritten(out, 4 * words).expect("an allocation"), None);
    }
}
