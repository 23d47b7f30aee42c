//! Whole kernels of an H100 and of the simulator on the same inputs: the forward cases that were recorded beside the probes.
//! `attn-gpu-suite --simulator --recorded` does the same for the suite's list, all of which is recorded.

use std::collections::BTreeSet;
use std::path::Path;

use attn_tests::case::Case;
use attn_tests::gpu::Gpu;
use attn_tests::input::Inputs;
use attn_tests::lists;
use attn_tests::probe::forward;
use attn_tests::probe::record::Recording;
use attn_tests::recorded::{self, Agreement, Answer};

const EVERY_ROW: usize = usize::MAX;

/// The recorded words of a case: O, two elements a word, then LSE.
fn answer(case: &Case, like: &Answer, words: &[u32]) -> Answer {
    let (o, lse) = words.split_at(like.o.len() / 2);
    assert!(case.lse);
    Answer {
        rows: like.rows.clone(),
        o: o.iter().flat_map(|word| [*word as u16, (*word >> 16) as u16]).collect(),
        lse: Some(lse.to_vec()),
    }
}

#[test]
fn forward_answers_are_an_h100s() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/h100_probes.safetensors");
    let recording = Recording::load(&path).expect("a recording");
    let gpu = Gpu::simulated(Default::default()).expect("the simulator");
    let mut all = Agreement::default();
    for case in forward::cases() {
        let inputs = Inputs::of(&case);
        let kernel = gpu.general_kernel(&case).expect("a kernel");
        let loaded = gpu.load_kernel(&case, &inputs, Some(kernel)).unwrap_or_else(|error| panic!("{case}: {error}"));
        let output = loaded.run().unwrap_or_else(|error| panic!("{case}: {error}"));
        let (o, lse) = loaded.tensors(&output, case.precision);
        let mine = Answer::of(&case, &o, lse.as_ref(), EVERY_ROW);
        let theirs = answer(&case, &mine, &recording.0[&forward::name(&case)]);
        match mine.compare(&case, &inputs, &theirs) {
            Ok(agreement) => all.add(&agreement),
            Err(disagreement) => panic!("{case}: {disagreement}"),
        }
    }
    println!("{all}");
    assert!(all.equal as f64 > 0.995 * all.elements as f64, "{all}");
}

#[test]
fn the_simulators_list_is_recorded_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/h100_forward.safetensors");
    let recording = recorded::Recording::load(&path).expect("a recording");
    assert!(recording.device.contains("H100"), "{}", recording.device);
    let recorded: BTreeSet<String> = recording.cases.into_keys().collect();
    let listed: BTreeSet<String> = lists::recorded().iter().map(|entry| entry.case.to_string()).collect();
    assert_eq!(recorded, listed, "attn-gpu-suite --simulator-list --record writes it anew");
}
