//! The pipeline on the simulated GPU: right numbers, and what spans and metrics say of them. One test, which counts all that its process does.

use std::collections::HashMap;

use attn_host::pipeline::{Batch, Done, Options, Pipeline, Shutdown};
use attn_host::{Arrays, DType, Mask, Problem, Shape, simulator};
use attn_tests::compare;
use attn_tests::dense::{Dense, Dims};
use attn_tests::gpu::Gpu;
use attn_tests::input::normal;
use attn_tests::oracle::{Attention, Window};
use attn_tests::precision::Precision;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

mod notes;

/// Sequences of queries and keys, in f16, 4 heads for 2.
struct Sequences {
    lengths: Vec<usize>,
    dims: [Dims; 3],
    qkv: [Dense<f32>; 3],
}

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const D: usize = 64;

impl Sequences {
    fn new(lengths: &[usize], seed: u64) -> Self {
        let rows = lengths.iter().sum();
        let dims = [HEADS, KV_HEADS, KV_HEADS].map(|heads| Dims { batch: 1, seq: rows, heads, width: D });
        let mut qkv = [0, 1, 2].map(|i| normal(dims[i], seed, i as u64));
        qkv.iter_mut().flat_map(|t| &mut t.data).for_each(|x| *x = Precision::F16.round(*x));
        Sequences { lengths: lengths.to_vec(), dims, qkv }
    }

    /// Causal attention within each sequence.
    fn batch(&self) -> Batch {
        let longest = self.lengths.iter().copied().max().unwrap_or(1) as u64;
        let (rows, packed) = (self.dims[0].seq as u64, self.lengths.len() > 1);
        let shape = Shape {
            batch: self.lengths.len() as u64,
            seqlen_q: longest,
            seqlen_k: longest,
            heads: HEADS as u64,
            kv_heads: KV_HEADS as u64,
            head_dim: D as u64,
            head_dim_v: D as u64,
        };
        let problem = Problem::new(DType::F16, shape).mask(Mask::Causal);
        let problem = if packed { problem.packed_q(rows).packed_k(rows) } else { problem };
        let sums = packed.then(|| (0..=self.lengths.len()).map(|i| self.start(i) as i32).collect::<Vec<_>>());
        let [q, k, v] = self.qkv.each_ref().map(in_memory);
        let arrays = Arrays { cu_seqlens_q: sums.clone(), cu_seqlens_k: sums, ..Arrays::default() };
        Batch { lse: true, arrays, ..Batch::new(problem, q, k, v) }
    }

    fn start(&self, sequence: usize) -> usize {
        self.lengths[..sequence].iter().sum()
    }

    fn check(&self, done: &Done) {
        let bits = done.o.elements::<u16>().expect("16 bits");
        let lse = done.lse.as_ref().expect("it was asked for");
        let rows = self.dims[0].seq;
        for (i, &length) in self.lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            let first = self.start(i);
            let part = |whole: &Dense<f32>| {
                let dims = Dims { seq: length, ..whole.dims };
                Dense::from_fn(dims, |_, row, head, column| whole.row(0, head, first + row)[column])
            };
            let [q, k, v] = self.qkv.each_ref().map(part);
            let window = Window { right: Some(0), ..Window::default() };
            let attention = Attention::new(&q, &k, &v, 1.0 / (D as f32).sqrt()).window(window);
            let (reference, lowp) = (attention.reference(), attention.lowp(Precision::F16));
            let o = Dense::from_fn(q.dims, |_, row, head, column| {
                Precision::F16.from_bits(bits[((first + row) * HEADS + head) * D + column])
            });
            let found_lse =
                Dense::from_fn(Dims { width: 1, ..q.dims }, |_, row, head, _| lse[head * rows + first + row]);
            compare::check(&o, Some(&found_lse), &reference, &lowp, Precision::F16)
                .unwrap_or_else(|mismatch| panic!("sequence {i} of {:?}: {mismatch}", self.lengths));
        }
    }
}

/// A tensor as (seq, heads, width) in f16.
fn in_memory(tensor: &Dense<f32>) -> Vec<half::f16> {
    let Dims { seq, heads, .. } = tensor.dims;
    let rows = (0..seq).flat_map(|row| (0..heads).map(move |head| (row, head)));
    rows.flat_map(|(row, head)| tensor.row(0, head, row)).map(|&x| half::f16::from_f32(x)).collect()
}

#[test]
fn batches_of_several_threads_are_right_and_are_told_of() {
    let recorder = DebuggingRecorder::new();
    let recorded = recorder.snapshotter();
    recorder.install().expect("the only one");
    let notes = notes::Notes::default();
    tracing::subscriber::set_global_default(notes.clone()).expect("the only one");
    let gpu = Gpu::simulated(simulator::Options::default()).expect("one device in this process");
    let pipeline = Pipeline::new(gpu.device(), Options { queue: 2, ..Options::default() }).expect("it starts");
    let all = [vec![40], vec![17, 0, 30, 1], vec![40], vec![9, 25]];
    std::thread::scope(|scope| {
        for (seed, lengths) in all.iter().enumerate() {
            let pipeline = &pipeline;
            scope.spawn(move || {
                let sequences = Sequences::new(lengths, seed as u64);
                sequences.check(&pipeline.submit(sequences.batch()).expect("accepted").wait().expect("done"));
            });
        }
    });
    // On another thread than the one that made the pipeline, and awaited.
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    let sequences = Sequences::new(&[12, 12], 9);
    runtime.block_on(async {
        let ticket = pipeline.submit_async(sequences.batch()).await.expect("accepted");
        sequences.check(&ticket.await.expect("done"));
        pipeline.shutdown_async(Shutdown::Drain).await.expect("nothing is lost");
    });

    assert_eq!((notes.count("attn.batch"), notes.count("attn.launch")), (5, 5));
    let metrics: HashMap<String, DebugValue> = recorded
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| (key.key().name().to_owned(), value))
        .collect();
    assert_eq!(metrics["attn_launches_total"], DebugValue::Counter(5));
    assert_eq!(metrics["attn_batches_total"], DebugValue::Counter(5));
    let elements: usize = all.iter().flatten().chain(&[12, 12]).sum::<usize>() * D;
    let out = 2 * elements * HEADS + 4 * elements / D * HEADS;
    assert_eq!(metrics["attn_bytes_out_total"], DebugValue::Counter(out as u64));
    assert!(
        matches!(metrics["attn_bytes_in_total"], DebugValue::Counter(bytes) if bytes >= (2 * elements * (HEADS + 2 * KV_HEADS)) as u64)
    );
    assert_eq!(metrics["attn_queue_depth"], DebugValue::Gauge(0.0.into()));
    assert!(matches!(&metrics["attn_launch_seconds"], DebugValue::Histogram(times) if times.len() == 5));
    assert!(!metrics.contains_key("attn_launch_errors_total"));
}
