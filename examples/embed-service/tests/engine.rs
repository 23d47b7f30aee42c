//! Batches that are computed at the same time, and one that fails among others, with attention of the test's own.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use attn_host::Error;
use attn_host::pipeline;
use embed_service::attention::{Attention, AttentionError, CpuAttention, Packed};
use embed_service::engine::Engine;
use embed_service::model::{Encoder, ModelConfig};
use embed_service::queue::{Bounds, Failure};
use ndarray::{ArrayView2, ArrayViewMut2};

/// The CPU's attention, which waits once until two batches ask for it at the same time, and fails for sentences of one length.
#[derive(Default)]
struct Meeting {
    asking: Mutex<usize>,
    changed: Condvar,
    met: AtomicBool,
    /// Tokens of sentences whose attention fails; of none when 0.
    fails: AtomicUsize,
}

impl Meeting {
    /// Waits for another batch.
    fn meet(&self) {
        let mut asking = self.asking.lock().unwrap();
        *asking += 1;
        self.met.fetch_or(*asking == 2, Ordering::Relaxed);
        self.changed.notify_all();
        let alone = |_: &mut usize| !self.met.load(Ordering::Relaxed);
        let (mut asking, _) = self.changed.wait_timeout_while(asking, Duration::from_secs(30), alone).unwrap();
        *asking -= 1;
    }
}

/// For the encoder and for the test.
struct Shared(Arc<Meeting>, CpuAttention);

impl Attention for Shared {
    fn attend(&self, packed: &Packed, qkv: ArrayView2<f32>, context: ArrayViewMut2<f32>) -> Result<(), AttentionError> {
        let fails = self.0.fails.load(Ordering::Relaxed);
        if packed.spans().any(|rows| rows.len() == fails) {
            return Err(AttentionError::Failed(pipeline::Failure::Failed(Error::OutOfMemory { call: "cuMemAlloc" })));
        }
        self.0.meet();
        self.1.attend(packed, qkv, context)
    }

    fn describe(&self) -> String {
        "the test".to_owned()
    }

    fn in_flight(&self) -> usize {
        2
    }
}

/// An engine whose batches have one sentence each.
fn engine(meeting: &Arc<Meeting>) -> Engine {
    let folder = common::model();
    let config = ModelConfig::read(&folder).expect("the model's");
    let attention = Shared(Arc::clone(meeting), CpuAttention::new(config.head_dim()));
    let encoder = Encoder::load(&folder, &config, Arc::new(attention)).expect("the model's");
    let bounds = Bounds { room: 100, tokens: 64, sentences: 1, wait: Duration::ZERO };
    Engine::start(encoder, bounds).expect("there are threads")
}

#[test]
fn two_batches_are_computed_at_the_same_time() {
    let meeting = Arc::new(Meeting::default());
    let engine = engine(&meeting);
    let receivers = engine.submit(vec![vec![101, 7592, 102], vec![101, 102]]).expect("there is room");
    for receiver in receivers {
        receiver.blocking_recv().expect("an answer").expect("an embedding");
    }
    assert!(meeting.met.load(Ordering::Relaxed), "both had asked for attention before either had it");
}

#[test]
fn a_batch_that_fails_leaves_the_others_alone() {
    let meeting = Arc::new(Meeting::default());
    // Nobody need wait.
    meeting.met.store(true, Ordering::Relaxed);
    meeting.fails.store(5, Ordering::Relaxed);
    let engine = engine(&meeting);
    let sentences = [3, 5, 4, 3, 5, 2].map(|tokens| vec![101; tokens]);
    let receivers = engine.submit(sentences.to_vec()).expect("there is room");
    for (sentence, receiver) in sentences.iter().zip(receivers) {
        match receiver.blocking_recv().expect("an answer") {
            Ok(embedding) => assert!(sentence.len() != 5 && embedding.iter().all(|x| x.is_finite())),
            Err(failure) => {
                assert_eq!(sentence.len(), 5, "{failure}");
                let words = "the batch failed: cuMemAlloc ran out of memory (CUDA_ERROR_OUT_OF_MEMORY)";
                assert_eq!(failure, Failure::Device(words.to_owned()));
            }
        }
    }
    let alone = |tokens: usize| engine.submit(vec![vec![101; tokens]]).expect("room").remove(0).blocking_recv();
    assert!(alone(5).expect("an answer").is_err() && engine.is_failing());
    assert!(alone(4).expect("an answer").is_ok() && !engine.is_failing());
}
