//! The whole service with attention by the GPU's kernels, on the simulator.

mod common;

use common::{Running, distance, golden};

#[test]
fn embeddings_by_the_kernels_are_those_of_sentence_transformers() {
    let (sentences, want) = golden();
    // Two sentences of different lengths in one launch per layer.
    let chosen = [0, 3];
    let service = Running::start("--device simulator --max-tokens 32 --max-batch-tokens 32 --max-batch-sentences 3");
    assert!(service.get("/info").1.contains("attn-sim"), "the simulator computes");
    let texts: Vec<&String> = chosen.iter().map(|&i| &sentences[i]).collect();
    for (&i, got) in chosen.iter().zip(service.embed(&texts)) {
        let distance = distance(&got, &want[i]);
        assert!(distance < 1e-3, "{:?} is {distance:e} from the reference", sentences[i]);
    }
    let metrics = service.get("/metrics").1;
    for line in ["attn_launches_total 6", "attn_batches_total{outcome=\"done\"} 6", "attn_batches_in_flight 0"] {
        assert!(metrics.lines().any(|found| found == line), "no {line:?} in\n{metrics}");
    }
}
