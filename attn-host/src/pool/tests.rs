use super::core::class_of;
use super::*;
use crate::{Error, fake, sys};

fn pool(limit: u64) -> DevicePool {
    fake::reset();
    DevicePool::new(&fake::device(), limit)
}

fn count(call: &str) -> usize {
    fake::with(|state| state.calls.iter().filter(|&&c| c == call).count())
}

/// What the fake holds: device allocations and pinned places.
fn held() -> (usize, usize) {
    fake::with(|state| {
        assert_eq!(state.machine.violations, [""; 0]);
        (state.machine.memory.len(), state.machine.pinned.len())
    })
}

#[test]
fn classes_are_at_most_a_quarter_larger_than_what_they_hold() {
    for bytes in (0..5000).chain([1 << 20, (1 << 20) + 1, 123_456_789, 1 << 40]) {
        let class = class_of(bytes);
        assert!(class >= bytes && class.is_multiple_of(512), "{bytes}: {class}");
        assert!(class <= (bytes + bytes / 4).max(bytes.next_multiple_of(512)).max(512), "{bytes}: {class}");
        assert_eq!(class_of(class), class, "{bytes}");
    }
    assert_eq!(class_of(u64::MAX), u64::MAX);
}

#[test]
fn a_block_is_used_again() {
    let pool = pool(1 << 20);
    let first = pool.take(1000).expect("fits");
    let address = first.address();
    assert_eq!(first.capacity(), 1024);
    drop(first);
    let again = pool.take(900).expect("fits");
    assert_eq!(again.address(), address);
    let other = pool.take(900).expect("fits");
    assert_ne!(other.address(), address);
    let statistics = pool.statistics();
    assert_eq!((statistics.in_use, statistics.kept, statistics.peak), (2048, 0, 2048));
    assert_eq!((statistics.reused, statistics.allocated, statistics.refused), (1, 2, 0));
    drop((again, other));
    assert_eq!((pool.statistics().in_use, pool.statistics().kept), (0, 2048));
    pool.trim();
    assert_eq!((pool.statistics().kept, held()), (0, (0, 0)));
}

#[test]
fn the_limit_holds_and_kept_blocks_make_room() {
    let pool = pool(4096);
    let blocks = [1024, 2048].map(|bytes| pool.take(bytes).expect("fits"));
    let error = pool.take(1025).expect_err("1280 bytes beside 3072 do not fit");
    assert_eq!(error, Error::PoolLimit { pool: "device", bytes: 1025, in_use: 3072, limit: 4096 });
    assert_eq!(error.to_string(), "the device pool cannot give 1025 bytes: 3072 are in use; allowed: 4096 in all");
    drop(blocks);
    assert_eq!(pool.statistics().kept, 3072);
    let large = pool.take(3584).expect("what is kept goes");
    assert_eq!((pool.statistics().evicted, held().0), (2, 1));
    drop(large);
    let all = pool.take(4096).expect("as much as the limit, whatever its class");
    assert_eq!(all.capacity(), 4096);
    assert!(matches!(pool.take(1), Err(Error::PoolLimit { in_use: 4096, .. })));
    assert_eq!(pool.statistics().refused, 2);
    assert!(matches!(DevicePool::new(&fake::device(), 0).take(0), Err(Error::PoolLimit { limit: 0, .. })));
}

#[test]
fn what_is_kept_is_freed_when_the_driver_has_no_more() {
    let pool = pool(1 << 30);
    fake::with(|state| state.machine.room = 10_000);
    drop([pool.take(4096).expect("fits"), pool.take(4096).expect("fits")]);
    let block = pool.take(6000).expect("what is kept goes");
    assert_eq!((pool.statistics().evicted, count("cuMemAlloc")), (2, 4));
    assert_eq!(pool.take(6000).map(|_| ()), Err(Error::OutOfMemory { call: "cuMemAlloc" }));
    assert_eq!(count("cuMemAlloc"), 5, "with nothing kept there is no point in asking twice");
    assert_eq!((pool.statistics().in_use, pool.statistics().refused), (block.capacity(), 1));
}

#[test]
fn pinned_buffers_are_written_and_read_as_scalars() {
    fake::reset();
    let pool = PinnedPool::new(&fake::device(), 1 << 20);
    let mut buffer = pool.take(10).expect("fits");
    assert_eq!((buffer.len(), buffer.of::<i32>().len()), (10, 2));
    assert!(buffer.iter().all(|byte| *byte == 0), "new memory is cleared");
    buffer.of_mut::<u16>()[4] = 0x1234;
    assert_eq!(buffer[8..], [0x34, 0x12]);
    assert_eq!(buffer.of::<u8>().as_ptr() as usize % 4096, 0);
    let statistics = pool.statistics();
    assert_eq!((held(), statistics.in_use), ((0, 1), 512));
    drop((buffer, pool));
    assert_eq!(held(), (0, 0));
}

#[test]
fn a_buffer_outlives_its_pool_and_goes_to_other_threads() {
    fake::reset();
    let device = fake::device();
    let (device_pool, pinned_pool) = (DevicePool::new(&device, 1 << 20), PinnedPool::new(&device, 1 << 20));
    let (block, mut buffer) = (device_pool.take(100).expect("fits"), pinned_pool.take(100).expect("fits"));
    drop((device_pool, pinned_pool));
    std::thread::spawn(move || {
        buffer.fill(7);
        drop((block, buffer));
    })
    .join()
    .expect("no panic");
    assert_eq!(held(), (0, 0));
}

#[test]
fn memory_that_cannot_be_pinned_is_freed() {
    fake::reset();
    let device = fake::device();
    let pool = PinnedPool::new(&device, 1 << 20);
    let next = fake::with(|state| state.calls.len()) + 1;
    fake::with(|state| state.fail = Some((next, sys::OUT_OF_MEMORY)));
    assert_eq!(pool.take(100).map(|_| ()), Err(Error::OutOfMemory { call: "cuMemHostRegister" }));
    assert_eq!((held(), pool.statistics().in_use), ((0, 0), 0));
    assert!(pool.take(100).is_ok());
}

#[test]
fn a_pool_asks_in_its_own_context() {
    let pool = pool(1 << 20);
    let other = fake::with(|state| state.current);
    drop(pool.take(1).expect("fits"));
    // The thread's context is what it was.
    assert_eq!(fake::with(|state| state.current), other);
    let calls: Vec<_> = fake::with(|state| state.calls.iter().rev().take(2).rev().copied().collect());
    assert_eq!(calls, ["cuCtxPushCurrent", "cuMemAlloc"]);
}

#[test]
fn a_later_context_with_the_same_handle_keeps_its_memory() {
    let pool = pool(1 << 20);
    drop(pool.take(1).expect("fits"));
    fake::with(|state| state.context_id += 1000);
    drop(pool);
    assert_eq!(held(), (1, 0), "it is the later context's");
}

#[test]
fn many_threads_share_a_pool() {
    let pool = pool(64 << 10);
    let rounds = if cfg!(miri) { 5 } else { 200 };
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..rounds {
                    let bytes = 1 + (thread * 7919 + round * 104_729) % 20_000;
                    match pool.take(bytes) {
                        Ok(block) => assert!(block.capacity() >= bytes),
                        Err(error) => assert!(matches!(error, Error::PoolLimit { .. }), "{error}"),
                    }
                    let PoolStatistics { in_use, kept, limit, .. } = pool.statistics();
                    assert!(in_use + kept <= limit);
                }
            });
        }
    });
    assert_eq!(pool.statistics().in_use, 0);
    drop(pool);
    assert_eq!(held(), (0, 0));
}
