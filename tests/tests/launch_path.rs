//! The measurement of the launch path, with the simulator's launches, which allocate, in the place of a GPU's.

use attn_host::simulator::Options;
use attn_tests::case::Case;
use attn_tests::counting::Counting;
use attn_tests::gpu::Gpu;
use attn_tests::launch_path::{ROW, of_case};
use attn_tests::precision::Precision;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn rows_are_timed_and_allocations_counted() {
    let gpu = Gpu::simulated(Options::default()).expect("one device in this process");
    let case = Case { batch: 1, heads: 1, kv_heads: 1, ..Case::new(Precision::Bf16, 8, 32) };
    let path = of_case(&gpu, &case, 2).expect("runs");
    assert!(path.micros.len() == 2 && path.micros.is_sorted() && path.median() > 0.0, "{path:?}");
    assert!(
        path.first.as_secs_f64() * 1e6 > path.micros[0],
        "the first launch is one of them, and loads the kernel: {path:?}"
    );
    assert!(path.allocations >= 2 * u64::from(ROW), "{path:?}");
    assert!(path.report().ends_with("allocations | fwd_sm90_bf16_d32"), "{}", path.report());
}
