//! Tasks that submit and await, on one thread.

use std::sync::Arc;

use super::*;

/// Runs tasks of one thread to their end.
fn run<F: Future<Output = ()>>(work: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    tokio::task::LocalSet::new().block_on(&runtime, work);
}

#[test]
fn tasks_await_room_and_results() {
    in_time("tasks".to_owned(), || {
        let pipeline = Arc::new(open(Options { queue: 1, depth: 1, ..small() }).expect("the fake works"));
        run(async {
            let tasks: Vec<_> = (0..if cfg!(miri) { 6 } else { 40 })
                .map(|salt| {
                    let pipeline = pipeline.clone();
                    tokio::task::spawn_local(async move {
                        let done = pipeline.submit_async(dense(salt, 4)).await.expect("accepted").await.expect("done");
                        check_done(&done);
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("no panic");
            }
            pipeline.shutdown_async(Shutdown::Drain).await.expect("nothing is lost");
            let refused = pipeline.submit_async(dense(0, 4)).await.expect_err("closed");
            assert_eq!(refused.reason, Reason::ShutDown);
        });
        drop(pipeline);
        nothing_left("after tasks", 0);
    });
}

#[test]
fn room_that_a_dropped_task_was_told_of_goes_to_the_next() {
    in_time("dropped tasks".to_owned(), || {
        let pipeline = Arc::new(open(Options { queue: 1, depth: 1, ..small() }).expect("the fake works"));
        run(async {
            let held = fake::hold();
            // Two in flight and one that waits; the others await room.
            let tasks: Vec<_> = (0..12)
                .map(|salt| {
                    let pipeline = pipeline.clone();
                    tokio::task::spawn_local(async move {
                        let ticket = pipeline.submit_async(dense(salt, 4)).await.expect("accepted");
                        check_done(&ticket.await.expect("done"));
                    })
                })
                .collect();
            while pipeline.statistics().submitted < 3 {
                tokio::task::yield_now().await;
            }
            tasks.iter().skip(4).step_by(2).for_each(tokio::task::JoinHandle::abort);
            drop(held);
            for (i, task) in tasks.into_iter().enumerate() {
                let aborted = i >= 4 && i % 2 == 0;
                assert!(task.await.is_ok() || aborted, "task {i}");
            }
        });
    });
}

#[test]
fn who_awaits_room_hears_of_the_end() {
    for how in [Shutdown::Drain, Shutdown::Abandon] {
        in_time(format!("{how:?} while tasks wait"), move || {
            let pipeline = Arc::new(open(Options { queue: 1, depth: 1, ..small() }).expect("the fake works"));
            run(async {
                let held = fake::hold();
                let tasks: Vec<_> = (0..6)
                    .map(|salt| {
                        let pipeline = pipeline.clone();
                        tokio::task::spawn_local(async move { pipeline.submit_async(dense(salt, 4)).await })
                    })
                    .collect();
                while pipeline.statistics().submitted < 3 {
                    tokio::task::yield_now().await;
                }
                let ending = pipeline.clone();
                let ending = tokio::task::spawn_local(async move { ending.shutdown_async(how).await });
                let mut refused = 0;
                let mut tickets = Vec::new();
                for task in tasks {
                    match task.await.expect("no panic") {
                        Ok(ticket) => tickets.push(ticket),
                        Err(rejected) => {
                            assert_eq!(rejected.reason, Reason::ShutDown);
                            refused += 1;
                        }
                    }
                }
                assert_eq!((refused, tickets.len()), (3, 3));
                drop(held);
                ending.await.expect("no panic").expect("nothing is lost");
                for ticket in tickets {
                    assert!(ticket.is_done());
                    drop(ticket.await);
                }
            });
        });
    }
}

#[test]
fn who_awaits_hears_of_what_does_not_end() {
    in_time("awaiting what does not end".to_owned(), || {
        let options = Options { queue: 1, depth: 1, shutdown_timeout: Some(Duration::from_millis(200)), ..small() };
        let pipeline = Arc::new(open(options).expect("the fake works"));
        // Behind three copies, their event and the wait for it: the first kernel.
        let held = fake::stick(5);
        run(async {
            let tasks: Vec<_> = (0..6)
                .map(|salt| {
                    let pipeline = pipeline.clone();
                    tokio::task::spawn_local(async move {
                        match pipeline.submit_async(dense(salt, 4)).await {
                            Ok(ticket) => Err(ticket.await.expect_err("it does not end").failure),
                            Err(rejected) => Ok(rejected.reason),
                        }
                    })
                })
                .collect();
            while pipeline.statistics().submitted < 3 {
                tokio::task::yield_now().await;
            }
            let error = if cfg!(miri) {
                pipeline.shutdown_async(Shutdown::Drain).await
            } else {
                pipeline.shutdown_timeout_async(Shutdown::Drain, Duration::from_millis(50)).await
            };
            assert!(matches!(error, Err(Error::Stuck { batch: 0, .. })), "{error:?}");
            assert_eq!(pipeline.shutdown_async(Shutdown::Abandon).await, error);
            let (mut refused, mut stuck) = (0, 0);
            for task in tasks {
                match task.await.expect("no panic") {
                    Ok(Reason::ShutDown | Reason::Stuck { .. }) => refused += 1,
                    Err(Failure::Stuck { batch: 0, .. }) => stuck += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((refused, stuck), (3, 3));
        });
        drop(pipeline);
        drop(held);
    });
}
