//! What the service does when the device fails at a batch, and with batches of different sizes. On the simulator, in a process of its own.

mod common;

use common::Running;
use serde_json::json;

#[test]
fn a_batch_that_the_device_has_no_room_for_is_answered_and_others_are_computed() {
    // Room for batches of up to 128 tokens, not of 200.
    let words =
        "--device simulator --max-tokens 72 --max-batch-tokens 200 --max-batch-sentences 3 --device-bytes 600000";
    let service = Running::start(words);
    let long = ["dog"; 68].join(" ");
    let alone = service.embed(&["hello"]).remove(0);
    // In a batch of more tokens, which has another plan.
    assert_eq!(service.embed(&["hello", &long]).remove(0), alone);
    let long = [&long; 3];
    let (status, retry, body) =
        service.post("/embed", "application/json", json!({ "inputs": long }).to_string().as_bytes());
    assert_eq!((status, retry.as_deref(), &body["error_type"]), (503, Some("1"), &json!("backend")), "{body}");
    let error = body["error"].as_str().expect("words");
    assert!(error.starts_with("the device failed: the batch failed: the device pool cannot give "), "{error}");
    assert_eq!(service.get("/healthz").0, 503);
    assert_eq!(service.embed(&["hello"]).remove(0), alone);
    assert_eq!(service.get("/healthz").0, 200);
    assert!(service.get("/metrics").1.contains("attn_batches_total{outcome=\"failed\"} 1"));
}
