//! The measurement of the pipeline's overlap, with the simulator in the place of a GPU.

use attn_tests::pipeline::{self, Options};
use clap::Parser;

#[test]
fn every_kind_of_load_is_timed_and_right() {
    let options = Options::parse_from(["attn-gpu-pipeline", "--simulator", "--batches", "2"]);
    pipeline::run(&options).expect("right numbers");
}
