//! The pipeline over the fake driver, whose device does what is queued late and in any order that streams and events allow.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::fake::machine::{answer, checksum};
use crate::{Arrays, DType, Problem, Shape, Splits, fake, select};

#[cfg(feature = "tokio")]
mod asynchronous;
mod faults;
mod interleavings;
mod ordinary;
mod stuck;

/// Longer than anything here takes, under Miri too.
const WATCHDOG: Duration = Duration::from_secs(if cfg!(miri) { 600 } else { 60 });

const SHAPE: Shape = Shape { batch: 1, seqlen_q: 4, seqlen_k: 6, heads: 2, kv_heads: 1, head_dim: 8, head_dim_v: 8 };

fn make(device: &Device, problem: &Problem) -> Result<Plan, Error> {
    Plan::with_loader(device, problem, fake::code, select::choose)
}

/// A pipeline over the fake of this thread.
fn open(options: Options) -> Result<Pipeline, Error> {
    // The device is looked at before anything is to fail.
    let device = fake::device();
    let (device_pool, pinned_pool) =
        (DevicePool::new(&device, options.device_bytes), PinnedPool::new(&device, options.pinned_bytes));
    Pipeline::with_plans(&device, options, device_pool, pinned_pool, make)
}

fn small() -> Options {
    Options { queue: 3, device_bytes: 1 << 20, pinned_bytes: 1 << 20, ..Options::default() }
}

/// Values that differ from batch to batch.
fn values(count: usize, salt: u64) -> Vec<u16> {
    (0..count as u64).map(|i| ((i + 1) * (2 * salt + 1) * 40_503) as u16).collect()
}

/// A dense batch whose queries are `seqlen_q`.
fn dense(salt: u64, seqlen_q: u64) -> Batch {
    let problem = Problem::new(DType::Bf16, Shape { seqlen_q, ..SHAPE });
    let q = values(seqlen_q as usize * 2 * 8, salt);
    Batch { lse: salt.is_multiple_of(2), ..Batch::new(problem, q, values(6 * 8, salt + 1), values(6 * 8, salt + 2)) }
}

/// A batch of packed sequences, with splits, so that all kinds of kernels run.
fn packed(salt: u64) -> Batch {
    let shape = Shape { batch: 3, seqlen_q: 4, seqlen_k: 6, ..SHAPE };
    let problem = Problem::new(DType::Bf16, shape).packed_q(7).packed_k(9).sinks().splits(Splits::Exactly(2));
    let arrays = Arrays {
        cu_seqlens_q: Some(vec![0, 4, 4, 7]),
        cu_seqlens_k: Some(vec![0, 2, 8, 9]),
        sinks: Some(vec![0.5, -0.5]),
        ..Arrays::default()
    };
    Batch {
        lse: true,
        arrays,
        ..Batch::new(problem, values(7 * 2 * 8, salt), values(9 * 8, salt + 1), values(9 * 8, salt + 2))
    }
}

/// What the fake's kernels make of a batch: O.
fn expected(batch: &Batch) -> Vec<u8> {
    let (q, k, v) = (batch.q.bytes(), batch.k.bytes(), batch.v.bytes());
    let inputs = if batch.arrays.cu_seqlens_q.is_some() { [q, &k[..16], &v[..16]] } else { [q, k, v] };
    let mut o = vec![0; q.len()];
    answer(inputs.into_iter().fold(0, checksum), &mut o);
    o
}

/// Checks a result against its batch.
fn check_done(done: &Done) {
    let Done { batch, o, lse, .. } = done;
    let expected = expected(batch);
    assert_eq!(o.bytes()[..expected.len()], expected, "batch {}", done.id);
    assert_eq!(lse.is_some(), batch.lse);
    if let Some(lse) = lse {
        assert_eq!(lse[0].to_le_bytes(), expected[..4], "batch {}", done.id);
    }
}

/// Runs what must come to an end, on a thread of its own with a fresh fake.
fn in_time<T: Send + 'static>(what: String, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    let worker = thread::spawn(move || {
        fake::reset();
        let _ = send.send(work());
    });
    match receive.recv_timeout(WATCHDOG) {
        Ok(result) => {
            worker.join().expect("it has ended");
            result
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: no end"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{what}: {:?}", worker.join().err().map(text)),
    }
}

/// A panic's words.
fn text(panic: Box<dyn std::any::Any + Send>) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_default()
}

/// Asserts that nothing is left on the device but `spared` things, and that nothing was done that is not allowed.
fn nothing_left(what: &str, spared: usize) {
    fake::with(|state| {
        let machine = &state.machine;
        assert_eq!(machine.violations, [""; 0], "{what}");
        let mut left = machine.streams.len() + machine.events.len();
        // The memory of a context that is lost goes with it.
        if state.lost.is_none() {
            left += machine.memory.len() + machine.pinned.len();
        }
        assert_eq!(left, spared, "{what}: memory, pinned memory, streams and events that are left");
    });
}
