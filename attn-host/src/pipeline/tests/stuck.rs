//! Something on the device never ends: nobody waits for ever, every batch is reported, and what the device may use is left alone until it is done.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use super::*;

/// How much longer things take.
const SLOWER: u32 = if cfg!(miri) { 100 } else { 1 };

/// Far longer than anything here takes that does end.
const TIMEOUT: Duration = Duration::from_secs(SLOWER as u64);

/// Given up when nothing has ended for this long.
fn impatient() -> Options {
    Options { timeout: Some(TIMEOUT), ..small() }
}

/// Given up only once it is shut down.
fn patient() -> Options {
    Options { timeout: None, shutdown_timeout: Some(Duration::from_millis(200)), ..small() }
}

/// Batches of every kind, larger ones after smaller ones, one into a pinned buffer of its own: the tickets of those that are accepted.
fn submit_all(pipeline: &Pipeline) -> Vec<Ticket> {
    let own = pipeline.pinned(4 * 2 * 8 * 2).expect("there is room");
    let batches = [
        packed(0),
        dense(1, 4),
        Batch { o: Some(own.into()), ..dense(2, 4) },
        dense(3, 40),
        packed(4),
        dense(5, 4),
        dense(6, 60),
    ];
    let mut tickets = Vec::new();
    for batch in batches {
        match pipeline.submit(batch) {
            Ok(ticket) => tickets.push(ticket),
            Err(Rejected { reason: Reason::Stuck { .. }, batch, .. }) => assert!(!batch.q.bytes().is_empty()),
            Err(other) => panic!("{other}"),
        }
    }
    tickets
}

/// Checks the outcomes of batches in their order: right results, then failures that all name the first that has none. How many those are.
fn judge(what: &str, outcomes: impl IntoIterator<Item = Outcome>) -> usize {
    let (mut first, mut returned) = (None, Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(done) => {
                assert_eq!(first, None, "{what}: batch {} is done", done.id);
                check_done(&done);
            }
            Err(Failed { id, failure: Failure::Stuck { batch, .. }, batch: back, .. }) => {
                assert_eq!(*first.get_or_insert(id), batch, "{what}");
                returned.push(back.is_some());
            }
            Err(other) => panic!("{what}: {other}"),
        }
    }
    assert!(returned.is_sorted(), "{what}: those come back that had not been started: {returned:?}");
    assert!(returned.first() != Some(&true), "{what}: the first is what the device has");
    returned.len()
}

/// Waits until the pipeline's threads have given everything back, which they do when the device goes on.
fn comes_back(what: &str) {
    let start = Instant::now();
    let left = || {
        fake::with(|state| {
            let machine = &state.machine;
            machine.streams.len() + machine.events.len() + machine.memory.len() + machine.pinned.len()
        })
    };
    while left() > 0 && start.elapsed() < WATCHDOG {
        thread::sleep(Duration::from_millis(1));
    }
    nothing_left(what, 0);
}

/// The workload, with the work of this number never ending. What kind of work that was.
fn hang(number: usize) -> Option<&'static str> {
    let what = format!("work {number} does not end");
    let device = fake::device();
    let options = impatient();
    let pools = (DevicePool::new(&device, options.device_bytes), PinnedPool::new(&device, options.pinned_bytes));
    let pipeline = Pipeline::with_plans(&device, options, pools.0.clone(), pools.1.clone(), make).expect("it works");
    let spare = pipeline.pinned(3000).expect("there is room");
    let held = fake::stick(number);
    let lost = judge(&what, submit_all(&pipeline).into_iter().map(Ticket::wait));
    let stuck = fake::with(|state| state.machine.stuck);
    if lost == 0 {
        assert_eq!(stuck, None, "{what}: but all is done");
        return None;
    }
    assert!(stuck.is_some(), "{what}, and {lost} batches are lost");
    // Whatever thread of the pipeline waits in the driver, its owner's do not.
    let refused = pipeline.submit(dense(9, 4)).expect_err("closed");
    assert!(matches!(refused.reason, Reason::Stuck { .. }), "{what}: {refused}");
    assert!(matches!(pipeline.health(), Err(Error::Stuck { .. })), "{what}");
    assert!(matches!(pipeline.shutdown(Shutdown::Drain), Err(Error::Stuck { .. })), "{what}");
    drop(spare);
    let statistics = pipeline.statistics();
    assert!((1..=lost).contains(&statistics.in_flight), "{what}: {statistics:?}");
    drop(pipeline);
    // Time for threads that do not wait in the driver to end. What the device may still use is in use, and is there: the fake notes where
    // it is not.
    thread::sleep(Duration::from_millis(20));
    assert_eq!(pools.0.statistics().in_use, statistics.device.in_use, "{what}: {statistics:?}");
    drop(held);
    drop(pools);
    comes_back(&what);
    stuck
}

#[test]
fn whatever_does_not_end_is_given_up() {
    let (side_by_side, step) = if cfg!(miri) { (1, 23) } else { (16, 1) };
    let workers: Vec<_> = (0..side_by_side)
        .map(|worker| {
            thread::spawn(move || {
                let mut kinds = BTreeSet::new();
                for number in (worker..).step_by(side_by_side * step) {
                    match in_time(format!("work {number} does not end"), move || hang(number)) {
                        Some(kind) => kinds.insert(kind),
                        None => break,
                    };
                }
                kinds
            })
        })
        .collect();
    let kinds: BTreeSet<_> = workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect();
    if !cfg!(miri) {
        assert_eq!(kinds, BTreeSet::from(["attend", "copy in", "copy out", "record", "wait"]));
    }
}

/// A pipeline whose third batch hangs in its kernel, tickets of five batches, and what holds it.
fn hanging(options: Options) -> (Pipeline, Vec<Ticket>, fake::Held) {
    let pipeline = open(Options { queue: 8, ..options }).expect("the fake works");
    let tickets = (0..2).map(|salt| pipeline.submit(dense(salt, 4)).expect("accepted"));
    tickets.for_each(|ticket| check_done(&ticket.wait().expect("done")));
    // Three copies in, the event behind them, and what the kernel waits for.
    let held = fake::stick(5);
    let tickets: Vec<_> = (2..7).map(|salt| pipeline.submit(dense(salt, 4)).expect("accepted")).collect();
    while fake::with(|state| state.machine.stuck).is_none() {
        thread::yield_now();
    }
    (pipeline, tickets, held)
}

#[test]
fn a_shutdown_gives_up_what_does_not_end() {
    type End = fn(&Pipeline) -> Result<(), Error>;
    let ends: [(&str, Options, End); 4] = [
        ("a drain", patient(), |pipeline| pipeline.shutdown(Shutdown::Drain)),
        ("an abandonment", patient(), |pipeline| pipeline.shutdown(Shutdown::Abandon)),
        ("a drain with a time", Options { shutdown_timeout: None, ..patient() }, |pipeline| {
            pipeline.shutdown_timeout(Shutdown::Drain, Duration::from_millis(50))
        }),
        ("a time sooner than the options'", impatient(), |pipeline| {
            thread::scope(|scope| {
                let first = scope.spawn(|| pipeline.shutdown(Shutdown::Drain));
                let second = pipeline.shutdown_timeout(Shutdown::Abandon, Duration::from_millis(50));
                assert_eq!(first.join().expect("no panic"), second);
                second
            })
        }),
    ];
    for (what, options, end) in ends {
        in_time(what.to_owned(), move || {
            let (pipeline, tickets, held) = hanging(options);
            let error = end(&pipeline).expect_err("it does not end");
            assert!(matches!(error, Error::Stuck { batch: 2, .. }), "{what}: {error}");
            assert!(tickets.iter().all(Ticket::is_done), "{what}");
            assert_eq!(judge(what, tickets.into_iter().map(Ticket::wait)), 5, "{what}");
            drop(pipeline);
            drop(held);
            comes_back(what);
        });
    }
}

#[test]
fn dropping_a_pipeline_gives_up_what_does_not_end() {
    in_time("a drop".to_owned(), || {
        let (pipeline, tickets, held) = hanging(patient());
        drop(pipeline);
        assert_eq!(judge("a drop", tickets.into_iter().map(Ticket::wait)), 5);
        drop(held);
        comes_back("a drop");
    });
}

#[test]
fn cancelled_and_dropped_tickets_change_nothing() {
    in_time("cancelling what does not end".to_owned(), || {
        let (pipeline, mut tickets, held) = hanging(impatient());
        tickets[0].cancel();
        tickets[3].cancel();
        drop(tickets.remove(4));
        drop(tickets.remove(1));
        assert_eq!(judge("cancelling", tickets.into_iter().map(Ticket::wait)), 3);
        drop(pipeline);
        drop(held);
        comes_back("cancelling what does not end");
    });
}

#[test]
fn who_waits_for_room_hears_of_it() {
    in_time("waiting for room".to_owned(), || {
        let pipeline = open(Options { queue: 1, depth: 1, ..impatient() }).expect("the fake works");
        let held = fake::stick(5);
        let outcomes: Vec<_> = (0..8).map(|salt| pipeline.submit(dense(salt, 4))).collect();
        let (accepted, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        // Two in flight, one in the queue; one who waited, and those who came later.
        assert_eq!((accepted.len(), refused.len()), (3, 5));
        assert_eq!(judge("waiting for room", accepted.into_iter().flatten().map(Ticket::wait)), 3);
        drop(pipeline);
        drop(held);
        comes_back("waiting for room");
    });
}

#[test]
fn a_pipeline_that_was_idle_has_all_the_time_again() {
    in_time("an idle pipeline".to_owned(), || {
        let timeout = Duration::from_millis(300) * SLOWER;
        let pipeline = open(Options { timeout: Some(timeout), ..small() }).expect("the fake works");
        for salt in 0..3 {
            thread::sleep(timeout + timeout / 3);
            check_done(&pipeline.submit(dense(salt, 4)).expect("accepted").wait().expect("done"));
        }
        pipeline.shutdown(Shutdown::Drain).expect("nothing hangs");
        drop(pipeline);
        nothing_left("after idling", 0);
    });
}

#[test]
#[cfg_attr(miri, ignore = "there are no processes")]
fn a_process_ends_while_threads_wait_for_the_device() {
    const ROLE: &str = "ATTN_TEST_HANGS";
    if std::env::var_os(ROLE).is_some() {
        fake::reset();
        let (pipeline, tickets, held) = hanging(patient());
        drop(pipeline);
        std::mem::forget(held);
        assert_eq!(judge("a process", tickets.into_iter().map(Ticket::wait)), 5);
        return;
    }
    let name = "pipeline::tests::stuck::a_process_ends_while_threads_wait_for_the_device";
    let program = std::env::current_exe().expect("the test's program");
    let mut child = Command::new(program).args(["--exact", name]).env(ROLE, "1").spawn().expect("it starts");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        assert!(start.elapsed() < WATCHDOG, "the process does not end: {:?}", child.kill());
        thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
}
