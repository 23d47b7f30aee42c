//! The n-th call of the driver fails, for every n: nothing hangs, nothing is left, every batch is reported once, and others are not touched.

use super::*;
use crate::sys::{self, Code};

/// What is done while a call fails: batches of every kind, memory that grows, what is cancelled, pinned buffers, and a drain at the end.
fn workload(what: &str, failing: usize, code: Code, sticky: bool) -> Option<&'static str> {
    let device = fake::device();
    let options = small();
    let (device_pool, pinned_pool) =
        (DevicePool::new(&device, options.device_bytes), PinnedPool::new(&device, options.pinned_bytes));
    let kept = (device_pool.clone(), pinned_pool.clone());
    fake::with(|state| {
        let first = state.calls.len();
        (state.fail, state.sticky) = (Some((first + failing, code)), sticky);
    });
    if let Ok(pipeline) = Pipeline::with_plans(&device, options, device_pool, pinned_pool, make) {
        let mut tickets = Vec::new();
        let mut own = pipeline.pinned(4 * 2 * 8 * 2).ok();
        for salt in 0..6 {
            let mut batch = match salt {
                2 => packed(salt),
                // Larger than what came before, so that blocks are replaced.
                4 => dense(salt, 40),
                _ => dense(salt, 4),
            };
            if salt == 3 {
                batch.o = own.take().map(Into::into);
            }
            match pipeline.submit(batch) {
                Ok(ticket) => tickets.push(ticket),
                Err(Rejected { reason: Reason::DeviceLost(_), .. }) => assert!(sticky, "{what}: {salt}"),
                Err(other) => panic!("{what}: {other}"),
            }
        }
        if let Some(ticket) = tickets.get(5) {
            ticket.cancel();
        }
        let failures = tickets.into_iter().filter_map(|ticket| judge(what, ticket.wait(), code, sticky)).count();
        assert!(sticky || failures <= 1, "{what}: {failures} batches failed of one error");
        if !sticky {
            let done = pipeline.submit(dense(9, 4)).expect("accepted").wait();
            // The call that fails may be one of this batch's.
            judge(what, done, code, sticky);
            let done = pipeline.submit(dense(10, 4)).expect("accepted").wait().or_else(|failed| {
                assert!(failures == 0, "{what}: {failed}");
                pipeline.submit(dense(11, 4)).expect("accepted").wait()
            });
            check_done(&done.unwrap_or_else(|failed| panic!("{what}: {failed}")));
        }
        let ended = pipeline.shutdown(Shutdown::Drain);
        assert!(sticky || ended.is_ok(), "{what}: {ended:?}");
    }
    for (name, statistics) in [("device", kept.0.statistics()), ("pinned", kept.1.statistics())] {
        assert_eq!(statistics.in_use, 0, "{what}: {name} memory that did not come back");
    }
    // What they keep is freed before it is asked whether the call was made.
    drop(kept);
    fake::with(|state| state.failed)
}

/// Checks an outcome. The failure, unless it was asked for.
fn judge(what: &str, outcome: Outcome, code: Code, sticky: bool) -> Option<Failure> {
    match outcome {
        Ok(done) => {
            check_done(&done);
            None
        }
        Err(Failed { failure: Failure::Cancelled, .. }) => None,
        Err(Failed { failure, batch, .. }) => {
            assert!(batch.is_some_and(|batch| !batch.q.bytes().is_empty()), "{what}: the batch comes back");
            match &failure {
                Failure::DeviceLost(Error::Cuda { code: found, .. }) if sticky => assert_eq!(*found, code, "{what}"),
                Failure::Failed(Error::Cuda { code: found, .. }) if !sticky => assert_eq!(*found, code, "{what}"),
                Failure::Failed(Error::OutOfMemory { .. }) if code == sys::OUT_OF_MEMORY => {}
                other => panic!("{what}: {other}"),
            }
            Some(failure)
        }
    }
}

/// Every call in turn, until the workload makes no more.
fn every_call(code: Code, sticky: bool) {
    let step = if cfg!(miri) { 37 } else { 1 };
    for failing in (0..).step_by(step) {
        let what = format!("call {failing} returns {code}");
        let name = what.clone();
        let failed = in_time(what.clone(), move || {
            let failed = workload(&name, failing, code, sticky);
            // What could not be given back is all that may be left.
            let releases = ["cuMemFree", "cuMemHostUnregister", "cuStreamDestroy", "cuEventDestroy"];
            let spared = !sticky && failed.is_some_and(|call| releases.contains(&call));
            nothing_left(&format!("{name} ({failed:?})"), spared.into());
            failed
        });
        if failed.is_none() {
            assert!(failing > 100, "the workload is too short: {failing} calls");
            return;
        }
    }
}

#[test]
fn any_call_may_fail() {
    every_call(1, false);
}

#[test]
fn memory_may_run_out_in_any_call() {
    every_call(sys::OUT_OF_MEMORY, false);
}

#[test]
fn the_device_may_be_lost_in_any_call() {
    every_call(700, true);
}

#[test]
fn an_uncorrectable_error_of_the_memory_is_no_other() {
    for failing in [60, 90, 120] {
        in_time(format!("call {failing} returns 214"), move || {
            let what = format!("call {failing} returns 214");
            assert!(workload(&what, failing, 214, true).is_some());
            nothing_left(&what, 0);
        });
    }
}

#[test]
fn memory_that_runs_out_once_is_found_by_freeing_what_is_kept() {
    in_time("memory that is kept".to_owned(), || {
        let pipeline = open(small()).expect("the fake works");
        check_done(&pipeline.submit(dense(0, 4)).expect("accepted").wait().expect("done"));
        // Its blocks have 1536 bytes, the next one's 4608: the former must go.
        fake::with(|state| state.machine.room = 5000);
        check_done(&pipeline.submit(dense(1, 60)).expect("accepted").wait().expect("room is made"));
        fake::with(|state| state.machine.room = 1024);
        let failed = pipeline.submit(dense(2, 200)).expect("accepted").wait().expect_err("there is no room");
        assert_eq!(failed.failure, Failure::Failed(Error::OutOfMemory { call: "cuMemAlloc" }));
        fake::with(|state| state.machine.room = 1 << 20);
        check_done(&pipeline.submit(dense(3, 200)).expect("accepted").wait().expect("there is room again"));
        drop(pipeline);
        nothing_left("after memory ran out", 0);
    });
}
