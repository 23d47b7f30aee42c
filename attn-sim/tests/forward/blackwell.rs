//! Blackwell's kernels: exponentials by polynomial beside those of the hardware.

use crate::problem::{Inputs, Shape, built, module, reference, scaled_inputs, simulate};

/// The polynomial's largest relative error, and so what a sum of exponentials may be off by.
const POLYNOMIAL: f64 = 8.566e-5;

/// Largest errors of O and of the LSE.
fn errors(name: &str, shape: Shape, inputs: &Inputs) -> (f64, f64) {
    let kernel = built(name);
    let got = simulate(kernel, &module(kernel), shape, inputs, 0).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(got.findings.is_empty(), "{name}: {}", got.findings[0]);
    let (o, lse) = reference(kernel, shape, inputs);
    let worst = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    (worst(&got.o, &o), worst(&got.lse, &lse))
}

/// sm_100a computes a part of the exponentials on the FMA units, sm_103a none; the kernels are otherwise the same.
#[test]
#[ignore = "needs the kernels in ATTN_KERNEL_DIR"]
fn polynomial_exponentials_are_as_good_as_the_hardwares() {
    let shape = Shape { batch: 1, heads: 2, kv_heads: 2, q: 256, k: 640, sms: 8 };
    for kind in ["bf16_d64", "f16_d64", "bf16_d128_causal", "f16_d128_causal", "f16_d192_128"] {
        for factor in [1.0, 4.0] {
            let [emulated, hardware] = [100, 103].map(|arch| {
                let name = format!("fwd_sm{arch}_{kind}");
                errors(&name, shape, &scaled_inputs(built(&name), shape, factor))
            });
            println!("{kind}, scores times {factor}: {emulated:?} by polynomial, {hardware:?} by hardware");
            assert!(emulated.0 <= 1.1 * hardware.0, "{kind}: O {emulated:?} {hardware:?}");
            // Probabilities are rounded to 16 bits, which hides the polynomial's error; the sum of a row is not.
            assert!(emulated.1 <= POLYNOMIAL + hardware.1, "{kind}: LSE {emulated:?} {hardware:?}");
        }
    }
}
