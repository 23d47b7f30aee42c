//! The project's own forward kernels, as they are shipped, run in the simulator against attention in f64.

mod blackwell;
mod mutants;
mod problem;

use problem::{Shape, built, check, inputs, module, simulate, simulate_on};

#[test]
fn d128_one_head() {
    check("fwd_sm90_bf16_d128", Shape { batch: 1, heads: 1, kv_heads: 1, q: 200, k: 300, sms: 132 }, 0..2);
}

#[test]
fn d128_causal() {
    check("fwd_sm90_bf16_d128_causal", Shape { batch: 1, heads: 1, kv_heads: 1, q: 130, k: 260, sms: 132 }, 0..2);
}

#[test]
fn d32_heads_share_keys() {
    check("fwd_sm90_bf16_d32", Shape { batch: 2, heads: 2, kv_heads: 1, q: 70, k: 130, sms: 2 }, 0..2);
}

#[test]
fn a_seed_means_the_same_run_on_any_number_of_cores() {
    let kernel = built("fwd_sm90_bf16_d32");
    let shape = Shape { batch: 1, heads: 3, kv_heads: 1, q: 70, k: 130, sms: 3 };
    let (module, inputs) = (module(kernel), inputs(kernel, shape));
    let run = |threads, seed| {
        let run = simulate_on(threads, kernel, &module, shape, &inputs, seed).expect("it runs to its end");
        (run.trace, run.counters)
    };
    let (one, two, other) = (run(1, 5), run(2, 5), run(2, 6));
    assert!(one.0.len() > 1000, "the history of block 1's warp 4 is kept");
    assert!(one == two, "threads change what happens");
    assert!(one.0 != other.0, "another seed is another schedule");
}

/// The speed that the simulator promises, in release on two cores: `cargo test --release -p attn-sim --test forward --
/// --ignored --nocapture`.
#[test]
#[ignore = "a measurement, meaningful in release only"]
fn d128_512_by_512_in_two_seconds() {
    let start = std::time::Instant::now();
    let kernel = built("fwd_sm90_bf16_d128");
    let shape = Shape { batch: 1, heads: 1, kv_heads: 1, q: 512, k: 512, sms: 132 };
    let inputs = inputs(kernel, shape);
    let got = simulate(kernel, &module(kernel), shape, &inputs, 0).expect("it runs to its end");
    let took = start.elapsed();
    println!("{took:.2?}\n{}", got.counters);
    assert!(got.findings.is_empty());
    assert!(took.as_secs_f64() <= 2.0, "{took:.2?}");
}
