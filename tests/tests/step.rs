//! A step of an engine on the simulated GPU, through the launch side: new tokens are rotated and appended to pages, then their queries attend
//! to all that is there. Against the same in f64.

use std::sync::{Mutex, MutexGuard, PoisonError};

use attn_host::cust::memory::{CopyDestination, DeviceBuffer};
use attn_host::simulator::{self, Options};
use attn_host::{
    Append, AppendPlan, AppendShape, AppendTensors, Cache, DType, Device, DevicePtr, Error, Mask, PagedKv, Pairs, Plan,
    Problem, Rotary, Shape, Sines, Splits, Stream, Tensors, cust,
};
use half::bf16;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

mod notes;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const D: usize = 64;
const ROTARY: usize = 32;
const POSITIONS: usize = 128;
const PAGE: usize = 16;
const WIDTH: usize = 6;

/// One test at a time: a span that a thread without a subscriber meets first, while another thread alone has one, is off for both.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What lies in device memory as long as the test needs it.
struct Memory(Vec<DeviceBuffer<u8>>);

impl Memory {
    fn put(&mut self, bytes: Vec<u8>) -> DevicePtr {
        let buffer = DeviceBuffer::from_slice(&bytes).expect("memory");
        let address = buffer.as_device_ptr().as_raw();
        self.0.push(buffer);
        DevicePtr(address)
    }

    fn halves(&mut self, values: &[f32]) -> DevicePtr {
        self.put(values.iter().flat_map(|&x| bf16::from_f32(x).to_bits().to_le_bytes()).collect())
    }

    fn ints(&mut self, values: &[usize]) -> DevicePtr {
        self.put(values.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect())
    }

    fn floats(&mut self, values: &[f32]) -> DevicePtr {
        self.put(values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn read(&self, address: DevicePtr) -> Vec<f64> {
        let buffer = self.0.iter().find(|buffer| buffer.as_device_ptr().as_raw() == address.0).expect("put before");
        let mut bytes = vec![0; buffer.len()];
        buffer.copy_to(&mut bytes).expect("readable");
        bytes.chunks_exact(2).map(|b| bf16::from_bits(u16::from_le_bytes([b[0], b[1]])).to_f64()).collect()
    }
}

/// Values between -1 and 1 that bf16 holds.
fn values(count: usize, salt: usize) -> Vec<f32> {
    (0..count).map(|i| bf16::from_f32(((i * 37 + salt * 11) % 101) as f32 / 50.0 - 1.0).to_f32()).collect()
}

fn angle(position: usize, pair: usize) -> f32 {
    position as f32 * 100f32.powf(-2.0 * pair as f32 / ROTARY as f32)
}

/// A head's row at a position, rounded as the cache has it.
fn rotated(row: &[f32], position: usize) -> Vec<f64> {
    let mut out: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
    for i in 0..ROTARY / 2 {
        let (sin, cos) = f64::from(angle(position, i)).sin_cos();
        let (x, y) = (out[i], out[i + ROTARY / 2]);
        (out[i], out[i + ROTARY / 2]) = (x * cos - y * sin, y * cos + x * sin);
    }
    out.iter().map(|&x| bf16::from_f64(x).to_f64()).collect()
}

/// Appends `new` tokens to sequences that have `before`, and attends with `splits` parts, twice.
fn step(before: &[usize], new: &[usize], splits: u32) {
    simulator::install(Options::default()).expect("every test asks for the same device");
    let _context = cust::quick_init().expect("the simulator has a device");
    let device = Device::current().expect("there is one");
    let (batch, total) = (before.len(), new.iter().sum::<usize>());
    let starts: Vec<usize> = (0..=batch).map(|b| new[..b].iter().sum()).collect();
    let most = new.iter().copied().max().unwrap_or(0);

    // Pages in no order, none twice, and what they hold before: values of the old keys, already rotated.
    let pages = batch * WIDTH + 1;
    let table: Vec<usize> = (0..batch * WIDTH).map(|i| (i * 7 + 3) % pages).collect();
    let (old_k, old_v) = (values(pages * PAGE * KV_HEADS * D, 1), values(pages * PAGE * KV_HEADS * D, 2));
    let (k, v, q) = (values(total * KV_HEADS * D, 3), values(total * KV_HEADS * D, 4), values(total * HEADS * D, 5));
    let mut memory = Memory(Vec::new());
    let sines = |f: fn(f32) -> f32| -> Vec<f32> {
        (0..POSITIONS).flat_map(|p| (0..ROTARY / 2).map(move |i| f(angle(p, i)))).collect()
    };
    let (cos, sin) = (memory.floats(&sines(f32::cos)), memory.floats(&sines(f32::sin)));
    let [new_k, new_v, queries] = [&k, &v, &q].map(|values| memory.halves(values));
    let [k_cache, v_cache] = [&old_k, &old_v].map(|values| memory.halves(values));
    let (page_table, cu_seqlens) = (memory.ints(&table), memory.ints(&starts));
    let seqlens_before = memory.ints(before);
    let after: Vec<usize> = before.iter().zip(new).map(|(before, new)| before + new).collect();
    let seqused_k = memory.ints(&after);
    let [o, again] = [(); 2].map(|()| memory.halves(&vec![f32::NAN; total * HEADS * D]));

    let paged = PagedKv { page_size: PAGE as u64, pages: pages as u64, table_width: WIDTH as u64 };
    let (kv_heads, dim) = (KV_HEADS as u64, D as u64);
    let shape = AppendShape { batch: batch as u64, new: most as u64, kv_heads, head_dim: dim, head_dim_v: dim };
    let rotary = Rotary { dim: ROTARY as u64, pairs: Pairs::Halves, positions: POSITIONS as u64, sines: Sines::F32 };
    let append = Append::new(DType::Bf16, shape, Cache::Paged(paged));
    let append = append.packed(total as u64).seqlens_before().rotary(rotary).queries(HEADS as u64);
    let append = AppendPlan::new(&device, &append).expect("a kernel fits");
    let shape = Shape {
        batch: batch as u64,
        seqlen_q: most as u64,
        seqlen_k: (WIDTH * PAGE) as u64,
        heads: HEADS as u64,
        kv_heads,
        head_dim: dim,
        head_dim_v: dim,
    };
    let problem = Problem::new(DType::Bf16, shape).mask(Mask::Causal).packed_q(total as u64).seqused_k();
    let plan = Plan::new(&device, &problem.paged(paged).splits(Splits::Exactly(splits))).expect("a kernel fits");
    let workspace = memory.put(vec![0xff; plan.workspace_bytes() as usize]);
    let appended = AppendTensors {
        q: Some(queries),
        cos: Some(cos),
        sin: Some(sin),
        cu_seqlens_new: Some(cu_seqlens),
        seqlens_before: Some(seqlens_before),
        page_table: Some(page_table),
        ..AppendTensors::new(new_k, new_v, k_cache, v_cache)
    };
    let attended = Tensors {
        workspace: Some(workspace),
        cu_seqlens_q: Some(cu_seqlens),
        seqused_k: Some(seqused_k),
        page_table: Some(page_table),
        ..Tensors::new(queries, k_cache, v_cache, o)
    };
    // SAFETY: the tensors are of the shapes that were planned and live in `memory`; the simulator is done when a launch returns.
    unsafe {
        append.launch(&appended, Stream::DEFAULT).unwrap_or_else(|e| panic!("{e}\n{:?}", simulator::last_report()));
        // The second one, as a replayed graph would be, finds the workspace as the first has left it.
        for o in [o, again] {
            let launched = plan.launch(&Tensors { o, ..attended }, Stream::DEFAULT);
            launched.unwrap_or_else(|e| panic!("{e}\n{:?}", simulator::last_report()));
        }
    }

    let (o, again) = (memory.read(o), memory.read(again));
    assert_eq!(
        o.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        again.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    );
    let row_of = |cache: &[f32], b: usize, key: usize, head: usize| -> Vec<f64> {
        let row = table[b * WIDTH + key / PAGE] * PAGE + key % PAGE;
        let at = (row * KV_HEADS + head) * D;
        cache[at..at + D].iter().map(|&x| f64::from(x)).collect()
    };
    for b in 0..batch {
        for (i, head) in (0..new[b]).flat_map(|i| (0..HEADS).map(move |head| (i, head))) {
            let kv_head = head / (HEADS / KV_HEADS);
            let new_row = |tensor: &[f32], token: usize| {
                let at = ((starts[b] + token) * KV_HEADS + kv_head) * D;
                tensor[at..at + D].to_vec()
            };
            let at = ((starts[b] + i) * HEADS + head) * D;
            let query = rotated(&q[at..at + D], before[b] + i);
            let mut scores = Vec::new();
            let mut rows = Vec::new();
            for key in 0..=before[b] + i {
                let (k_row, v_row) = match key.checked_sub(before[b]) {
                    None => (row_of(&old_k, b, key, kv_head), row_of(&old_v, b, key, kv_head)),
                    Some(token) => {
                        (rotated(&new_row(&k, token), key), new_row(&v, token).iter().map(|&x| f64::from(x)).collect())
                    }
                };
                let product: f64 = query.iter().zip(&k_row).map(|(x, y)| x * y).sum();
                scores.push((product / (D as f64).sqrt()).exp());
                rows.push(v_row);
            }
            let sum: f64 = scores.iter().sum();
            for c in 0..D {
                let want = scores.iter().zip(&rows).map(|(score, row)| score * row[c]).sum::<f64>() / sum;
                let got = o[at + c];
                assert!((got - want).abs() < 0.012, "sequence {b} token {i} head {head}: o[{c}] is {got}, not {want}");
            }
        }
    }
}

#[test]
fn one_token_of_each_sequence() {
    let _alone = alone();
    step(&[5, 40, 0, 79], &[1; 4], 1);
    step(&[5, 40, 0, 79], &[1; 4], 3);
}

#[test]
fn prompts_and_steps_of_several_lengths_together() {
    let _alone = alone();
    step(&[0, 33, 16, 90, 7], &[20, 0, 1, 6, 3], 1);
    step(&[0, 33, 16, 90, 7], &[20, 0, 1, 6, 3], 2);
}

/// A launch that appends to what is nowhere.
fn refused() {
    let _context = cust::quick_init().expect("the simulator has a device");
    let device = Device::current().expect("there is one");
    let shape = AppendShape { batch: 1, new: 1, kv_heads: 1, head_dim: 64, head_dim_v: 64 };
    let append = AppendPlan::new(&device, &Append::new(DType::F16, shape, Cache::Dense { rows: 8 }));
    let nowhere = DevicePtr(0);
    let tensors = AppendTensors::new(nowhere, nowhere, nowhere, nowhere);
    // SAFETY: such addresses are refused before anything is launched.
    let error = unsafe { append.expect("a kernel fits").launch(&tensors, Stream::DEFAULT) };
    assert!(matches!(error, Err(Error::NullPointer { .. })), "{error:?}");
}

#[test]
fn appending_is_told_of() {
    let _alone = alone();
    let (notes, recorder) = (notes::Notes::default(), DebuggingRecorder::new());
    let recorded = recorder.snapshotter();
    tracing::subscriber::with_default(notes.clone(), || {
        metrics::with_local_recorder(&recorder, || {
            step(&[5, 40, 0, 79], &[1; 4], 1);
            refused();
        });
    });
    assert_eq!((notes.count("attn.append"), notes.count("attn.launch")), (2, 2));
    let metrics = recorded.snapshot().into_vec();
    let found = |name: &str| metrics.iter().find(|(key, ..)| key.key().name() == name).map(|(_, _, _, value)| value);
    assert_eq!(found("attn_appends_total"), Some(&DebugValue::Counter(2)));
    assert_eq!(found("attn_append_errors_total"), Some(&DebugValue::Counter(1)));
    let bytes = 4 * (2 * KV_HEADS + HEADS) * D * 2;
    assert_eq!(found("attn_append_bytes_total"), Some(&DebugValue::Counter(bytes as u64)));
    assert!(matches!(found("attn_append_seconds"), Some(DebugValue::Histogram(times)) if times.len() == 2));
    assert_eq!(
        (found("attn_launches_total"), found("attn_launch_errors_total")),
        (Some(&DebugValue::Counter(2)), None)
    );
}
