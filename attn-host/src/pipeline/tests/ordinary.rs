//! What a pipeline does when nothing goes wrong, and what it refuses.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake};

use super::*;

#[test]
fn results_are_those_of_their_batches_in_order() {
    in_time("a run".to_owned(), || {
        let pipeline = open(small()).expect("the fake works");
        let mut tickets = Vec::new();
        let count = if cfg!(miri) { 6 } else { 40 };
        for salt in 0..count {
            let batch = if salt % 3 == 2 { packed(salt) } else { dense(salt, 4 + salt % 5 * 3) };
            tickets.push(pipeline.submit(batch).expect("accepted"));
        }
        let ids: Vec<u64> = tickets.iter().map(Ticket::id).collect();
        assert_eq!(ids, (0..count).collect::<Vec<_>>());
        while let Some(ticket) = tickets.pop() {
            // The last one first: when it is there, all are.
            let done = ticket.wait().expect("nothing fails");
            check_done(&done);
            assert!(tickets.iter().all(Ticket::is_done));
            assert!(done.queued <= done.total);
        }
        assert_eq!(pipeline.statistics().submitted, count);
        drop(pipeline);
        nothing_left("after a run", 0);
    });
}

#[test]
fn a_steady_run_allocates_nothing_on_the_device() {
    in_time("a steady run".to_owned(), || {
        let pipeline = open(small()).expect("the fake works");
        let mut batch = Some(dense(0, 4));
        let round = |batch: &mut Option<Batch>| {
            let done = pipeline.submit(batch.take().expect("it came back")).expect("accepted").wait().expect("done");
            check_done(&done);
            *batch = Some(Batch { o: Some(done.o), ..*done.batch });
        };
        (0..4).for_each(|_| round(&mut batch));
        let allocations = |state: &mut fake::State| {
            state.calls.iter().filter(|call| ["cuMemAlloc", "cuMemHostRegister"].contains(call)).count()
        };
        let before = fake::with(allocations);
        (0..4).for_each(|_| round(&mut batch));
        assert_eq!(fake::with(allocations), before);
    });
}

#[test]
fn pinned_buffers_are_used_where_they_lie() {
    in_time("pinned buffers".to_owned(), || {
        let pipeline = open(small()).expect("the fake works");
        let plain = dense(2, 4);
        let pinned = |from: &HostBuffer| {
            let mut buffer = pipeline.pinned(from.bytes().len()).expect("there is room");
            buffer.copy_from_slice(from.bytes());
            buffer
        };
        let (q, k, v, o) = (pinned(&plain.q), pinned(&plain.k), pinned(&plain.v), pinned(&plain.q));
        let place = o.as_ptr();
        let batch = Batch { o: Some(o.into()), ..Batch::new(plain.problem, q, k, v) };
        let done = pipeline.submit(batch).expect("accepted").wait().expect("done");
        check_done(&done);
        assert_eq!(done.o.bytes().as_ptr(), place);
        // No stage was needed: no pinned memory but the four buffers.
        assert_eq!(fake::with(|state| state.machine.pinned.len()), 4);
        drop((done, pipeline));
        nothing_left("after pinned buffers", 0);
    });
}

#[test]
fn what_no_query_writes_is_zero() {
    in_time("gaps".to_owned(), || {
        let pipeline = open(small()).expect("the fake works");
        let problem = Problem::new(DType::Bf16, SHAPE).seqused_q();
        let q = values(4 * 2 * 8, 0);
        let arrays = Arrays { seqused_q: Some(vec![2]), ..Arrays::default() };
        let batch = Batch { arrays, ..Batch::new(problem, q, values(48, 1), values(48, 2)) };
        pipeline.submit(batch).expect("accepted").wait().expect("done");
        assert_eq!(fake::with(|state| state.calls.iter().filter(|&&call| call == "cuMemsetD8Async").count()), 1);
    });
}

#[test]
fn wrong_batches_come_back_at_once() {
    in_time("wrong batches".to_owned(), || {
        let pipeline = open(small()).expect("the fake works");
        let refuse = |batch: Batch| match pipeline.submit(batch) {
            Err(Rejected { reason: Reason::Invalid(error), .. }) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let short = Batch { q: values(63, 0).into(), ..dense(0, 4) };
        assert_eq!(refuse(short), "q has 63 elements; its shape and strides reach 64");
        let with = |mut batch: Batch, change: fn(&mut Arrays)| {
            change(&mut batch.arrays);
            batch
        };
        let missing = with(packed(0), |arrays| arrays.sinks = None);
        assert_eq!(refuse(missing), "sinks is absent; the problem has sinks, so it is needed");
        let long = with(packed(0), |arrays| arrays.sinks = Some(vec![0.0; 3]));
        assert_eq!(refuse(long), "sinks has 3 entries; allowed: 2");
        let unplanned = with(dense(0, 4), |arrays| arrays.seqused_k = Some(vec![1]));
        assert!(refuse(unplanned).starts_with("seqused_k is given, but the problem has no"));
        let falling = with(packed(0), |arrays| arrays.cu_seqlens_q = Some(vec![0, 4, 3, 7]));
        assert_eq!(refuse(falling), "cu_seqlens_q[2] is 3; allowed: 4 to 7");
        let mut over = packed(0);
        (over.problem, over.arrays.seqused_k) = (over.problem.seqused_k(), Some(vec![2, 6, 2]));
        assert_eq!(refuse(over), "seqused_k[2] is 2; allowed: 0 to 1, the sequence's room");
        let mut wrong = dense(0, 4);
        wrong.problem = Problem::new(DType::Bf16, Shape { heads: 3, kv_heads: 2, ..SHAPE });
        assert_eq!(refuse(wrong), "heads is 3, which is not a multiple of kv_heads = 2");
        let done = pipeline.submit(dense(1, 4)).expect("accepted").wait().expect("done");
        assert_eq!(done.id, 0, "batches that come back have no number");
    });
}

#[test]
fn options_out_of_range_are_refused() {
    fake::reset();
    let size = |options: Options| match open(options) {
        Err(Error::Size { argument, value, .. }) => (argument, value),
        other => panic!("{other:?}"),
    };
    assert_eq!(size(Options { depth: 0, ..small() }), ("depth", 0));
    assert_eq!(size(Options { depth: 65, ..small() }), ("depth", 65));
    assert_eq!(size(Options { queue: 0, ..small() }), ("queue", 0));
}

#[test]
fn a_batch_that_does_not_fit_fails_alone_and_tight_memory_only_costs_time() {
    in_time("tight memory".to_owned(), || {
        // Room for the blocks of one batch of 100 queries, not of two.
        let pipeline = open(Options { device_bytes: 12 << 10, ..small() }).expect("the fake works");
        let tickets: Vec<_> = [100, 2000, 100, 4, 100, 101, 102]
            .into_iter()
            .enumerate()
            .map(|(i, queries)| pipeline.submit(dense(i as u64, queries)).expect("accepted"))
            .collect();
        for (i, ticket) in tickets.into_iter().enumerate() {
            match ticket.wait() {
                Ok(done) => check_done(&done),
                Err(Failed { failure: Failure::Failed(Error::PoolLimit { pool: "device", limit, .. }), .. }) => {
                    assert_eq!((i, limit), (1, 12 << 10));
                }
                Err(other) => panic!("{other}"),
            }
        }
        drop(pipeline);
        nothing_left("after tight memory", 0);
    });
}

#[test]
fn a_ticket_wakes_who_awaits_it() {
    struct Told(thread::Thread);
    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    in_time("a future".to_owned(), || {
        let pipeline = open(small()).expect("the fake works");
        let mut ticket = pin!(pipeline.submit(dense(3, 4)).expect("accepted"));
        let waker = Arc::new(Told(thread::current())).into();
        let done = loop {
            match ticket.as_mut().poll(&mut Context::from_waker(&waker)) {
                std::task::Poll::Ready(outcome) => break outcome.expect("done"),
                std::task::Poll::Pending => thread::park(),
            }
        };
        check_done(&done);
    });
}

#[test]
fn a_full_queue_hands_the_batch_back() {
    in_time("a full queue".to_owned(), || {
        let pipeline = open(Options { queue: 1, depth: 1, ..small() }).expect("the fake works");
        // The machine is held, so that nothing lands.
        let held = fake::hold();
        let mut tickets = vec![];
        let back = loop {
            match pipeline.try_submit(dense(5, 4)) {
                Ok(ticket) => tickets.push(ticket),
                // Two are in flight and one waits.
                Err(rejected) if tickets.len() == 3 => break rejected,
                Err(_) => thread::yield_now(),
            }
        };
        assert_eq!(back.reason, Reason::QueueFull { capacity: 1 });
        assert_eq!(expected(&back.batch), expected(&dense(5, 4)));
        let late = pipeline.submit_timeout(*back.batch, Duration::from_millis(5)).expect_err("still full");
        assert_eq!(late.to_string(), "the batch was not accepted: the queue is full: 1 batches wait");
        drop(held);
        tickets.into_iter().for_each(|ticket| check_done(&ticket.wait().expect("done")));
    });
}

#[test]
fn cancelled_batches_come_back_in_their_turn() {
    in_time("cancelling".to_owned(), || {
        let pipeline = open(Options { queue: 8, depth: 1, ..small() }).expect("the fake works");
        let held = fake::hold();
        let tickets: Vec<_> = (0..6).map(|salt| pipeline.submit(dense(salt, 4)).expect("accepted")).collect();
        tickets[0].cancel();
        tickets[4].canceller().cancel();
        drop(held);
        for (i, ticket) in tickets.into_iter().enumerate() {
            match (i, ticket.wait()) {
                (0 | 4, Err(Failed { failure: Failure::Cancelled, batch: Some(batch), id, .. })) => {
                    assert_eq!((id, expected(&batch)), (i as u64, expected(&dense(i as u64, 4))));
                }
                (1 | 2 | 3 | 5, Ok(done)) => check_done(&done),
                (_, other) => panic!("batch {i}: {other:?}"),
            }
        }
        drop(pipeline.submit(dense(9, 4)).expect("accepted"));
        pipeline.shutdown(Shutdown::Drain).expect("nothing is lost");
        drop(pipeline);
        nothing_left("after cancelling", 0);
    });
}

#[test]
fn a_shutdown_drains_or_abandons() {
    for how in [Shutdown::Drain, Shutdown::Abandon] {
        in_time(format!("{how:?}"), move || {
            let pipeline = open(Options { queue: 8, depth: 1, ..small() }).expect("the fake works");
            let held = fake::hold();
            let tickets: Vec<_> = (0..8).map(|salt| pipeline.submit(dense(salt, 4)).expect("accepted")).collect();
            let waiting = thread::scope(|scope| {
                let closing = scope.spawn(|| pipeline.shutdown(how));
                let closed = |refused: Rejected| refused.reason == Reason::ShutDown;
                while !pipeline.try_submit(dense(0, 4)).is_err_and(closed) {
                    thread::yield_now();
                }
                drop(held);
                closing.join().expect("no panic")
            });
            waiting.expect("nothing is lost");
            let refused = pipeline.submit(dense(0, 4)).expect_err("closed");
            assert_eq!(refused.reason, Reason::ShutDown);
            let outcomes: Vec<_> = tickets.into_iter().map(Ticket::wait).collect();
            let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            for outcome in &outcomes {
                match outcome {
                    Ok(done) => check_done(done),
                    Err(failed) => assert_eq!(failed.failure, Failure::ShutDown),
                }
            }
            // Two were in flight at most when the pipeline was closed.
            assert!(if how == Shutdown::Drain { done == 8 } else { done <= 2 }, "{how:?}: {done}");
            drop(pipeline);
            nothing_left("after a shutdown", 0);
        });
    }
}
