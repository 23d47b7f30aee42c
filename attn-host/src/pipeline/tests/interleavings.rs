//! Threads that submit, cancel, wait and shut down at random: every batch that was accepted has one outcome, and it is its own.

use super::*;

/// A number below `most`.
fn draw(state: &mut u64, most: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % most
}

/// What one thread does; returns how many batches were accepted, and how many had an outcome.
fn user(pipeline: &Pipeline, mut seed: u64) -> (u64, u64) {
    let mut waiting: Vec<(u64, u64, Ticket)> = Vec::new();
    let (mut accepted, mut reported, mut last) = (0, 0, None);
    for _ in 0..draw(&mut seed, if cfg!(miri) { 8 } else { 40 }) {
        let (salt, queries) = (draw(&mut seed, 1000), 1 + draw(&mut seed, 30));
        let batch = if draw(&mut seed, 4) == 0 { packed(salt) } else { dense(salt, queries) };
        let submitted = match draw(&mut seed, 3) {
            0 => pipeline.try_submit(batch),
            1 => pipeline.submit(batch),
            _ => pipeline.submit_timeout(batch, Duration::from_micros(draw(&mut seed, 300))),
        };
        match submitted {
            Ok(ticket) => {
                assert!(last.is_none_or(|last| last < ticket.id()), "numbers rise");
                last = Some(ticket.id());
                accepted += 1;
                waiting.push((ticket.id(), salt, ticket));
            }
            Err(Rejected { reason: Reason::QueueFull { .. } | Reason::ShutDown, batch }) => {
                assert!(!batch.q.bytes().is_empty());
            }
            Err(other) => panic!("{other}"),
        }
        match draw(&mut seed, 12) {
            0 => waiting.last().into_iter().for_each(|(_, _, ticket)| ticket.cancel()),
            1 => {
                // Without its ticket a batch has nobody to report to.
                reported += u64::from(waiting.pop().is_some());
            }
            2 if !waiting.is_empty() => reported += outcome(waiting.remove(0)),
            _ => {}
        }
        if draw(&mut seed, 200) == 0 {
            let how = if draw(&mut seed, 2) == 0 { Shutdown::Drain } else { Shutdown::Abandon };
            pipeline.shutdown(how).expect("nothing is lost");
        }
    }
    (accepted, reported + waiting.into_iter().map(outcome).sum::<u64>())
}

fn outcome((id, salt, ticket): (u64, u64, Ticket)) -> u64 {
    match ticket.wait() {
        Ok(done) => {
            assert_eq!((done.id, done.batch.q.elements::<u16>().map(|q| q[0])), (id, Some(values(1, salt)[0])));
            check_done(&done);
        }
        Err(Failed { failure: Failure::Cancelled | Failure::ShutDown, id: found, .. }) => assert_eq!(found, id),
        Err(other) => panic!("{other}"),
    }
    1
}

#[test]
fn every_batch_has_one_outcome_whatever_threads_do() {
    let rounds = if cfg!(miri) { 3 } else { 60 };
    for round in 0..rounds {
        in_time(format!("round {round}"), move || {
            let mut seed = round;
            let options = Options {
                depth: 1 + draw(&mut seed, 3) as usize,
                queue: 1 + draw(&mut seed, 4) as usize,
                device_bytes: (10 + draw(&mut seed, 40)) << 10,
                ..small()
            };
            let pipeline = open(options).expect("the fake works");
            let totals = thread::scope(|scope| {
                let users: Vec<_> = (0..4).map(|i| (&pipeline, round * 100 + i)).collect();
                let users: Vec<_> = users.into_iter().map(|(p, seed)| scope.spawn(move || user(p, seed))).collect();
                users.into_iter().map(|user| user.join().expect("no panic")).collect::<Vec<_>>()
            });
            for (accepted, reported) in &totals {
                assert_eq!(accepted, reported);
            }
            assert_eq!(pipeline.statistics().submitted, totals.iter().map(|(accepted, _)| accepted).sum::<u64>());
            drop(pipeline);
            nothing_left(&format!("round {round}"), 0);
        });
    }
}
