//! Typed launches on cudarc's memory. cudarc opens `libcuda.so.1` itself, so the tests that launch run in a process of their own, with the
//! simulator in its place; `cargo test -p attn-host --features cudarc --test cudarc -- --ignored` runs them on a GPU.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::{env, fs};

use attn_host::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use attn_host::{
    Append, AppendPlan, AppendShape, AppendTensors, Cache, DType, Device, Error, PagedKv, Pairs, Plan, Problem, Rotary,
    Shape, Sines, Splits, Tensors,
};
use half::bf16;

#[test]
fn launches_on_the_simulator() {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Where this program was built, which has the simulator already; cargo does not hold the folder while tests run.
    let target = tmp.parent().expect("cargo's folder for tests lies in it");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["rustc", "--quiet", "--release", "--package", "attn-sim-driver"]);
    cargo.args(["--features", "libcuda", "--crate-type", "cdylib"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", target);
    assert!(cargo.status().expect("cargo starts").success());
    let driver = tmp.join("cudarc");
    fs::create_dir_all(&driver).expect("a writable target folder");
    fs::copy(target.join("release/libattn_sim_driver.so"), driver.join("libcuda.so.1")).expect("built above");
    let mut own = Command::new(env::current_exe().expect("this program"));
    let output =
        own.args(["--ignored", "--test-threads=1"]).env("LD_LIBRARY_PATH", driver).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("3 passed"), "{text}");
}

const SHAPE: Shape = Shape { batch: 2, seqlen_q: 1, seqlen_k: 96, heads: 4, kv_heads: 2, head_dim: 64, head_dim_v: 64 };
const PAGED: PagedKv = PagedKv { page_size: 32, pages: 7, table_width: 3 };
const TABLE: [u32; 6] = [5, 0, 3, 6, 2, 1];
const LENGTHS: [i32; 2] = [70, 41];
/// Elements of a row of K and V, and of Q and O.
const ROW: [usize; 2] = [2 * 64, 4 * 64];

/// A device, and a stream of it that is not the default one.
fn device() -> (Device, Arc<CudaStream>) {
    let context = CudaContext::new(0).expect("a device");
    let stream = context.new_stream().expect("a stream");
    (Device::current().expect("cudarc made its context current"), stream)
}

/// Deterministic values between -1 and 1.
fn values(count: usize, salt: usize) -> Vec<bf16> {
    (0..count).map(|i| bf16::from_f32(((i * 37 + salt * 11) % 101) as f32 / 50.0 - 1.0)).collect()
}

/// Row `key` of sequence `b` in pages.
fn row(b: usize, key: usize) -> usize {
    TABLE[b * 3 + key / 32] as usize * 32 + key % 32
}

/// What a query of a sequence makes of the pages, in f64.
fn attend(q: &[bf16], k: &[bf16], v: &[bf16], b: usize, head: usize) -> Vec<f64> {
    let at = |tensor: &[bf16], key: usize, c: usize| tensor[row(b, key) * ROW[0] + head / 2 * 64 + c].to_f64();
    let q = &q[(b * 4 + head) * 64..][..64];
    let score = |key: usize| (0..64).map(|c| q[c].to_f64() * at(k, key, c)).sum::<f64>() / 8.0;
    let weights: Vec<f64> = (0..LENGTHS[b] as usize).map(|key| score(key).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..64).map(|c| weights.iter().enumerate().map(|(key, w)| w * at(v, key, c)).sum::<f64>() / sum).collect()
}

struct Step {
    q: CudaSlice<bf16>,
    k: CudaSlice<bf16>,
    v: CudaSlice<bf16>,
    o: CudaSlice<bf16>,
    table: CudaSlice<u32>,
    lengths: CudaSlice<i32>,
    workspace: CudaSlice<u8>,
}

/// A step of decoding in memory of the stream.
fn step(plan: &Plan, stream: &Arc<CudaStream>) -> Step {
    let pages = (PAGED.pages * PAGED.page_size) as usize;
    let upload = |values: Vec<bf16>| stream.clone_htod(&values).expect("memory");
    Step {
        q: upload(values(2 * ROW[1], 0)),
        k: upload(values(pages * ROW[0], 1)),
        v: upload(values(pages * ROW[0], 2)),
        o: stream.alloc_zeros(2 * ROW[1]).expect("memory"),
        table: stream.clone_htod(&TABLE).expect("memory"),
        lengths: stream.clone_htod(&LENGTHS).expect("memory"),
        workspace: stream.alloc_zeros(plan.workspace_bytes() as usize).expect("memory"),
    }
}

#[test]
#[ignore = "needs libcuda.so.1"]
fn a_step_of_decoding_from_pages() {
    let (device, stream) = device();
    let problem = Problem::new(DType::Bf16, SHAPE).paged(PAGED).seqused_k().splits(Splits::Exactly(2));
    let plan = Plan::new(&device, &problem).expect("a kernel fits");
    let mut step = step(&plan, &stream);
    // Queued on another stream than the one that filled the buffers: cudarc's events order the two.
    let other = stream.context().new_stream().expect("a stream");
    let tensors = Tensors::of(&step.q, step.k.as_view(), &step.v, &mut step.o);
    let tensors = tensors.page_table(&step.table).seqused_k(&step.lengths).workspace(&mut step.workspace);
    plan.launch_cudarc(tensors, &other).expect("valid");
    let [q, k, v, o] = [&step.q, &step.k, &step.v, &step.o].map(|slice| stream.clone_dtoh(slice).expect("readable"));
    for (b, head) in [(0, 0), (0, 3), (1, 1), (1, 2)] {
        let found = &o[(b * 4 + head) * 64..][..64];
        for (found, wanted) in found.iter().zip(attend(&q, &k, &v, b, head)) {
            assert!((found.to_f64() - wanted).abs() < 0.01, "sequence {b}, head {head}: {found}, expected {wanted}");
        }
    }

    let short = step.table.try_slice(..5).expect("there are 6");
    let tensors = Tensors::of(&step.q, &step.k, &step.v, &mut step.o);
    let tensors = tensors.page_table(short).seqused_k(&step.lengths).workspace(&mut step.workspace);
    let found = plan.launch_cudarc(tensors, &stream);
    assert_eq!(found, Err(Error::BufferTooSmall { argument: "page_table", elements: 5, needed: 6 }));
}

#[test]
#[ignore = "needs libcuda.so.1"]
fn packed_sequences_are_launched_on_the_callers_word() {
    let (device, stream) = device();
    let shape = Shape { seqlen_q: 40, seqlen_k: 40, ..SHAPE };
    let plan = Plan::new(&device, &Problem::new(DType::Bf16, shape).packed_q(64).packed_k(64)).expect("a kernel fits");
    let upload = |count: usize, salt| stream.clone_htod(&values(count, salt)).expect("memory");
    let (q, k, v) = (upload(64 * ROW[1], 0), upload(64 * ROW[0], 1), upload(64 * ROW[0], 2));
    let mut o: CudaSlice<bf16> = stream.alloc_zeros(64 * ROW[1]).expect("memory");
    let mut lse: CudaSlice<f32> = stream.alloc_zeros(64 * 4).expect("memory");
    let mut workspace: CudaSlice<u8> = stream.alloc_zeros(plan.workspace_bytes() as usize).expect("memory");
    let sums = stream.clone_htod(&[0, 24, 64]).expect("memory");
    let mut output = o.as_view_mut();
    let tensors = Tensors::of(&q, &k, &v, &mut output).lse(&mut lse).workspace(&mut workspace);
    let found = plan.launch_cudarc(tensors.cu_seqlens_q(&sums).cu_seqlens_k(&sums), &stream);
    assert!(matches!(found, Err(Error::Combination { allowed: "launch_cudarc_packed", .. })), "{found:?}");
    let tensors = Tensors::of(&q, &k, &v, &mut output).lse(&mut lse).workspace(&mut workspace);
    // SAFETY: two sequences of 24 and 40 rows, 64 in all.
    unsafe { plan.launch_cudarc_packed(tensors.cu_seqlens_q(&sums).cu_seqlens_k(&sums), &stream) }.expect("valid");
    let [q, k] = [&q, &k].map(|slice| stream.clone_dtoh(slice).expect("readable"));
    let lse = stream.clone_dtoh(&lse).expect("readable");
    for (query, head, keys) in [(0, 0, 0..24), (23, 3, 0..24), (24, 1, 24..64), (63, 2, 24..64)] {
        let score = |key: usize| {
            let (q, k) = (&q[query * ROW[1] + head * 64..][..64], &k[key * ROW[0] + head / 2 * 64..][..64]);
            q.iter().zip(k).map(|(q, k)| q.to_f64() * k.to_f64()).sum::<f64>() / 8.0
        };
        let wanted = keys.map(|key| score(key).exp()).sum::<f64>().ln();
        let found = f64::from(lse[head * 64 + query]);
        assert!((found - wanted).abs() < 1e-3, "query {query}, head {head}: {found}, expected {wanted}");
    }
}

#[test]
#[ignore = "needs libcuda.so.1"]
fn tokens_are_appended_and_queries_rotated_in_place() {
    let (device, stream) = device();
    let shape = AppendShape { batch: 2, new: 1, kv_heads: 2, head_dim: 64, head_dim_v: 64 };
    let rotary = Rotary { dim: 64, pairs: Pairs::Halves, positions: 96, sines: Sines::F32 };
    let append = Append::new(DType::Bf16, shape, Cache::Paged(PAGED)).seqlens_before().rotary(rotary).queries(4);
    let plan = AppendPlan::new(&device, &append).expect("a kernel");
    let upload = |count: usize, salt| stream.clone_htod(&values(count, salt)).expect("memory");
    let (k, v, mut q) = (upload(2 * ROW[0], 1), upload(2 * ROW[0], 2), upload(2 * ROW[1], 3));
    let cache = || stream.alloc_zeros::<bf16>((PAGED.pages * PAGED.page_size) as usize * ROW[0]).expect("memory");
    let (mut k_cache, mut v_cache) = (cache(), cache());
    // A turn by a right angle everywhere: the first half becomes minus the second, the second the first.
    let (cos, sin) =
        (stream.clone_htod(&[0f32; 96 * 32]).expect("memory"), stream.clone_htod(&[1f32; 96 * 32]).expect("memory"));
    let (table, before) = (stream.clone_htod(&TABLE).expect("memory"), stream.clone_htod(&LENGTHS).expect("memory"));
    let tensors = AppendTensors::of(&k, &v, &mut k_cache, &mut v_cache).q_out(&mut q).cos(&cos).sin(&sin);
    plan.launch_cudarc(tensors.page_table(&table).seqlens_before(&before), &stream).expect("valid");
    let turned = |values: Vec<bf16>| -> Vec<bf16> {
        values.chunks(64).flat_map(|head| head[32..].iter().map(|x| -*x).chain(head[..32].to_vec())).collect()
    };
    assert_eq!(stream.clone_dtoh(&q).expect("readable"), turned(values(2 * ROW[1], 3)));
    let (k_cache, v_cache) =
        (stream.clone_dtoh(&k_cache).expect("readable"), stream.clone_dtoh(&v_cache).expect("readable"));
    let (k, v) = (turned(values(2 * ROW[0], 1)), values(2 * ROW[0], 2));
    for b in 0..2 {
        let place = row(b, LENGTHS[b] as usize) * ROW[0];
        assert_eq!(k_cache[place..][..ROW[0]], k[b * ROW[0]..][..ROW[0]]);
        assert_eq!(v_cache[place..][..ROW[0]], v[b * ROW[0]..][..ROW[0]]);
    }
    let written = v_cache.iter().filter(|value| **value != bf16::ZERO).count();
    assert!(written <= 2 * ROW[0], "{written} elements of the cache are not zero");
}
