//! The whole service in this process, with attention on the CPU.

mod common;

use std::io::{Read, Write};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use common::{Running, distance, golden, options};
use embed_service::service::{Service, ServiceError};
use serde_json::{Value, json};

const JSON: &str = "application/json";

/// One service for all tests that only ask.
fn shared() -> &'static Running {
    static SERVICE: OnceLock<Running> = OnceLock::new();
    SERVICE.get_or_init(|| Running::start("--device cpu --request-timeout-s 600"))
}

#[test]
fn embeddings_are_those_of_sentence_transformers() {
    let (sentences, want) = golden();
    let got = shared().embed(&sentences);
    for ((sentence, got), want) in sentences.iter().zip(&got).zip(&want) {
        let distance = distance(got, want);
        assert!(distance < 1e-5, "{sentence:?} is {distance:e} from the reference");
        let length: f32 = got.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{sentence:?} has length {length}");
    }
}

#[test]
fn a_sentence_has_the_same_bits_alone_and_among_others_of_many_clients() {
    let (sentences, _) = golden();
    let alone: Vec<Vec<f32>> = sentences.iter().map(|sentence| shared().embed(&[sentence]).remove(0)).collect();
    thread::scope(|scope| {
        for client in 0..8usize {
            let (sentences, alone) = (&sentences, &alone);
            scope.spawn(move || {
                for round in 0..4 {
                    let mine: Vec<usize> =
                        (0..=client).map(|i| (i * 7 + client * 3 + round) % sentences.len()).collect();
                    let texts: Vec<&String> = mine.iter().map(|&i| &sentences[i]).collect();
                    for (&i, got) in mine.iter().zip(shared().embed(&texts)) {
                        assert!(got == alone[i], "{:?} for client {client}", sentences[i]);
                    }
                }
            });
        }
    });
}

#[test]
fn what_was_cut_off_is_said_and_can_be_refused() {
    let most = ["dog"; 254].join(" ");
    let more = ["dog"; 300].join(" ");
    let ask = |truncate: bool| {
        let body = json!({ "inputs": [most, more], "truncate": truncate }).to_string();
        shared().post("/embed", JSON, body.as_bytes())
    };
    let (status, _, body) = ask(true);
    assert_eq!((status, &body["tokens"], &body["truncated"]), (200, &json!([256, 256]), &json!([false, true])));
    assert_eq!(body["embeddings"][0], body["embeddings"][1], "254 dogs are left of both");
    let (status, _, body) = ask(false);
    assert_eq!(status, 413);
    assert_eq!(body["error"], "sentence 1 has 302 tokens, more than 256, and is not to be truncated");
}

#[test]
fn without_normalization_only_the_length_differs() {
    let ask = |normalize: bool| -> Vec<f32> {
        let body = json!({ "inputs": "A cat sits on the mat.", "normalize": normalize }).to_string();
        serde_json::from_value(shared().post("/embed", JSON, body.as_bytes()).2["embeddings"][0].clone()).unwrap()
    };
    let (raw, normal) = (ask(false), ask(true));
    assert!(distance(&raw, &normal) < 1e-6);
    assert!((raw.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() > 0.1);
}

#[test]
fn openais_route_gives_the_same_embeddings_as_numbers_and_as_base64() {
    let sentences = ["A cat sits on the mat.", "hello"];
    let ask = |format: &str| {
        let body = json!({ "input": sentences, "model": "any", "encoding_format": format }).to_string();
        let (status, _, body) = shared().post("/v1/embeddings", JSON, body.as_bytes());
        assert_eq!(status, 200, "{body}");
        body
    };
    let numbers = ask("float");
    assert_eq!(numbers["usage"], json!({ "prompt_tokens": 12, "total_tokens": 12 }));
    let encoded = ask("base64");
    for (i, want) in shared().embed(&sentences).iter().enumerate() {
        let got: Vec<f32> = serde_json::from_value(numbers["data"][i]["embedding"].clone()).unwrap();
        assert_eq!(&got, want);
        let text = encoded["data"][i]["embedding"].as_str().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        let got: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        assert_eq!(&got, want);
        assert_eq!(numbers["data"][i]["index"], i);
    }
}

#[test]
fn malformed_and_oversized_requests_get_clear_errors() {
    let many = json!({ "inputs": vec!["x"; 257] }).to_string();
    let large = json!({ "inputs": "x ".repeat(1 << 20) }).to_string();
    let cases: &[(&str, &str, &[u8], u16, &str)] = &[
        ("/embed", JSON, b"", 400, "not JSON"),
        ("/embed", JSON, b"{\"inputs\": [\"a\"", 400, "not JSON: EOF"),
        ("/embed", JSON, b"{\"inputs\": [\"\xff\xfe\"]}", 400, "not JSON: invalid unicode"),
        ("/embed", "text/plain", b"hello", 415, "\"text/plain\"; send the header content-type: application/json"),
        ("/embed", JSON, b"[\"a\"]", 422, "invalid type: sequence, expected a map"),
        ("/embed", JSON, b"{}", 422, "missing field `inputs`"),
        ("/embed", JSON, b"{\"inputs\": []}", 422, "there are no sentences"),
        ("/embed", JSON, b"{\"inputs\": [1, 2]}", 422, "expected a sentence or a list of sentences"),
        ("/embed", JSON, b"{\"inputs\": \"a\", \"truncat\": true}", 422, "unknown field `truncat`"),
        ("/v1/embeddings", JSON, b"{\"input\": \"a\", \"dimensions\": 100}", 422, "the model has 384"),
        ("/embed", JSON, many.as_bytes(), 413, "257 sentences are more than 256"),
        ("/embed", JSON, large.as_bytes(), 413, "more than 1048576 bytes"),
        ("/nowhere", JSON, b"{}", 404, "there is no /nowhere"),
        ("/healthz", JSON, b"{}", 405, "POST /healthz is not possible"),
    ];
    for (path, content_type, body, want, words) in cases {
        let (status, _, body) = shared().post(path, content_type, body);
        let error = body["error"].as_str().unwrap_or_default();
        assert!(status == *want && error.contains(words), "{path}, {words:?}: {status}, {body}");
        assert!(body["error_type"].is_string(), "{body}");
    }
}

#[test]
fn health_information_metrics_and_the_page_are_there() {
    shared().embed(&["counted"]);
    let (status, health) = shared().get("/healthz");
    assert_eq!((status, serde_json::from_str::<Value>(&health).unwrap()["status"].clone()), (200, json!("ok")));
    let info: Value = serde_json::from_str(&shared().get("/info").1).unwrap();
    assert_eq!((&info["model"], &info["dimensions"]), (&json!("all-MiniLM-L6-v2"), &json!(384)));
    assert_eq!((&info["max_tokens"], &info["device"]), (&json!(256), &json!("cpu")));
    let (_, metrics) = shared().get("/metrics");
    for name in [
        "embed_requests_total{route=\"/embed\",status=\"200\"}",
        "embed_batch_tokens_bucket",
        "embed_waited_seconds_sum",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    assert!(shared().get("/").1.contains("<!doctype html>"));
}

#[test]
fn a_full_queue_refuses_and_stopping_finishes_what_was_accepted() {
    // No batch leaves by itself: it would wait for others for a minute.
    let service = Running::start("--device cpu --queue 4 --max-wait-ms 60000 --max-requests 3");
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..2).map(|_| scope.spawn(|| service.embed(&["hello", "A cat sits on the mat."]))).collect();
        let start = Instant::now();
        while !service.get("/healthz").1.contains("\"waiting\":4") {
            assert!(start.elapsed() < Duration::from_secs(30), "four sentences are queued");
            thread::sleep(Duration::from_millis(5));
        }
        let (status, retry, body) = service.post("/embed", JSON, b"{\"inputs\": \"one more\"}");
        assert_eq!((status, retry.as_deref(), &body["error_type"]), (503, Some("1"), &json!("overloaded")));
        assert_eq!(body["error"], "too busy: 4 sentences are waiting and 1 more do not fit, 4 is the most");
        service.tell_to_stop();
        for client in clients {
            assert_eq!(client.join().unwrap().len(), 2);
        }
    });
    let address = service.address;
    service.join().expect("everything is finished in time");
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn whoever_sends_much_to_be_refused_hears_of_it() {
    let service = Running::start("--device cpu --max-wait-ms 60000 --max-requests 1");
    let much = vec![b' '; 8 << 20];
    let refused = |path: &str, content_type: &str| service.post(path, content_type, &much).0;
    assert_eq!((refused("/embed", "text/plain"), refused("/nowhere", JSON), refused("/info", JSON)), (415, 404, 405));
    thread::scope(|scope| {
        let first = scope.spawn(|| service.embed(&["hello"]));
        let start = Instant::now();
        while !service.get("/healthz").1.contains("\"waiting\":1") {
            assert!(start.elapsed() < Duration::from_secs(30), "a sentence is queued");
            thread::sleep(Duration::from_millis(5));
        }
        let (status, retry, body) = service.post("/v1/embeddings", JSON, &much);
        assert_eq!((status, retry.as_deref()), (503, Some("1")));
        assert_eq!(body["error"], "too busy: 1 requests are under way");
        service.tell_to_stop();
        assert_eq!(first.join().unwrap().len(), 1);
    });
    service.join().expect("everything is finished in time");
}

#[test]
fn what_the_queue_never_has_room_for_is_too_large() {
    let service = Running::start("--device cpu --queue 4");
    let body = json!({ "inputs": vec!["x"; 5] }).to_string();
    let (status, retry, body) = service.post("/embed", JSON, body.as_bytes());
    assert_eq!((status, retry, &body["error"]), (413, None, &json!("5 sentences are more than 4 (--queue)")));
    service.tell_to_stop();
    service.join().expect("nothing is under way");
}

#[test]
fn a_connection_that_sends_no_whole_request_is_closed_and_keeps_nobody() {
    let service = Running::start("--device cpu --idle-timeout-s 2 --grace-s 20");
    let half = || {
        let mut stream = std::net::TcpStream::connect(service.address).expect("it listens");
        stream.write_all(b"POST /emb").expect("sent");
        stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a time");
        stream
    };
    // Says nothing, or that the head took too long, and hangs up.
    assert!(half().read_to_end(&mut Vec::new()).is_ok(), "it is closed");
    let left_open = half();
    let silent = std::net::TcpStream::connect(service.address).expect("it listens");
    // So that the service has taken both.
    service.embed(&["hello"]);
    service.tell_to_stop();
    service.join().expect("well before the time for what was accepted is over");
    drop((left_open, silent));
}

#[test]
fn what_cannot_be_served_is_said_at_the_start() {
    let refused = |words: &str, change: fn(&mut embed_service::config::Options)| {
        let mut options = options(words);
        change(&mut options);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(Service::new(&options)).err().expect("it is refused")
    };
    let error = refused("--device cpu", |options| options.model = "/nowhere".into());
    assert!(matches!(error, ServiceError::Model(_)) && error.to_string().contains("/nowhere/config.json"), "{error}");
    let error = refused("--device cpu --max-tokens 512", |_| {});
    assert_eq!(error.to_string(), "--max-tokens is 512; allowed: 3 to the model's 256");
    let error = refused("--device cpu --max-batch-tokens 100", |_| {});
    assert!(error.to_string().starts_with("--max-batch-tokens is 100; allowed: at least 256"), "{error}");
}
