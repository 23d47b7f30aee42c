//! Arithmetic, exchanges and special registers, and a ring between warps.

use attn_kernel::probe::{arith, ring, warp};

use super::{ARCHITECTURES, SEEDS, Setup, bytes};

/// Special values, then numbers of every magnitude.
fn numbers() -> Vec<f32> {
    let tiny = f32::from_bits(1);
    let special = [0.0, -0.0, 1.0, -1.0, 0.5, tiny, -tiny, f32::MIN_POSITIVE, f32::MAX, f32::MIN, f32::NAN];
    let infinities = [f32::INFINITY, f32::NEG_INFINITY];
    let mut state = 12345u32;
    let random = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(state ^ state >> 13)
    });
    // Exponents of two that are no overflow, which most bit patterns are.
    let moderate = (0..300).map(|i| (i as f32 - 150.0) * 0.837);
    special.into_iter().chain(infinities).chain(moderate).chain(random.take(300)).collect()
}

#[test]
fn arithmetic_is_its_host_twins() {
    let x = numbers();
    for arch in ARCHITECTURES {
        let mut setup = Setup::new(arch, 0);
        setup.input(&bytes(x.iter().map(|x| x.to_bits())));
        let out = setup.output(arith::RESULTS * x.len());
        setup.param((x.len() as u32).to_le_bytes());
        setup.run(arith::PROBE);
        let got = setup.words(out, arith::RESULTS * x.len());
        for (i, got) in got.chunks_exact(arith::RESULTS).enumerate() {
            let (a, b) = (x[i], x[(i + 1) % x.len()]);
            let want = arith::arith(a, b);
            for (j, (&got, &want)) in got.iter().zip(&want).enumerate() {
                let (g, w) = (f32::from_bits(got), f32::from_bits(want));
                // Two packed conversions, then floats.
                let equal = got == want || j >= 2 && g.is_nan() && w.is_nan();
                let near = j >= arith::EXACT && (g - w).abs() <= 4.0 * f32::EPSILON * w.abs().max(f32::MIN_POSITIVE);
                assert!(
                    equal || near,
                    "{arch}: result {j} of {a:e} and {b:e} is {g:e} ({got:#x}), not {w:e} ({want:#x})"
                );
            }
        }
    }
}

#[test]
fn exchanges_and_registers_are_as_expected() {
    for arch in ARCHITECTURES {
        for seed in SEEDS {
            let mut setup = Setup::new(arch, seed);
            let words = warp::RESULTS * warp::PROBE.threads as usize;
            let out = setup.output(words);
            setup.run(warp::PROBE);
            for (thread, got) in (0..).zip(setup.words(out, words).chunks_exact(warp::RESULTS)) {
                assert_eq!(got, warp::expected(thread), "{arch} seed {seed}: thread {thread}");
            }
        }
    }
}

#[test]
fn a_ring_hands_over_every_round() {
    for arch in ARCHITECTURES {
        for (seed, rounds) in SEEDS.zip([0, 1, 3, 50]) {
            let mut setup = Setup::new(arch, seed);
            let out = setup.output(64);
            setup.param(u32::to_le_bytes(rounds));
            setup.run(ring::PROBE);
            for (thread, got) in (32..).zip(setup.words(out, 64)) {
                assert_eq!(got, ring::expected(thread, rounds), "{arch} seed {seed}: thread {thread}");
            }
        }
    }
}
