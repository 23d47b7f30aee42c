//! What the service holds whenever nothing is asked of it.
//!
//! What counts is what its allocator has handed out and not got back, at moments when nobody asks: after the first round, which fills caches and
//! queues to their size, it stays where it is, or something leaks. Resident memory, which also counts what the allocator keeps for later, is
//! looked at too, but says little.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;

/// Bytes and blocks that may be live at the end beyond those after the first round. Not none: the histograms of the metrics free what they have
/// folded by crossbeam-epoch, of which each thread that folds, every few seconds, keeps up to 64 dead nodes of 2 KiB before it frees them
/// together. A single block that every request leaves behind is far beyond this after a minute.
const LIVE_SLACK: (u64, u64) = (512 << 10, 256);

/// Resident memory that may come on top of what the service has after the first round: a quarter.
const RESIDENT_SLACK: f64 = 0.25;

/// How long idle threads and connections may take to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often, and how far apart, the same must be seen.
const LOOKS: (usize, Duration) = (4, Duration::from_secs(1));

/// The service's memory after a round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Requests that it had answered until then.
    requests: u64,
    /// Bytes and blocks that are allocated and not freed.
    live: (u64, u64),
    /// Bytes of the process that are in memory.
    resident: u64,
}

/// The service's memory over time.
#[derive(Default)]
pub struct Memory {
    samples: Vec<Sample>,
}

impl Memory {
    /// Waits until the service is idle and notes what it holds.
    pub fn look(&mut self, client: &Client, process: u32, requests: u64) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        // Until it stands still.
        while seen.len() < LOOKS.0
            || (Instant::now() < end && !seen.iter().rev().take(LOOKS.0).all(|live| Some(live) == seen.last()))
        {
            thread::sleep(LOOKS.1);
            seen.push(client.live()?);
        }
        let live = *seen.last().ok_or("nothing was seen")?;
        let resident = resident(process).ok_or("/proc does not say what is resident")?;
        println!(
            "idle after {requests} requests: {} bytes live in {} blocks, {:.1} MiB resident",
            live.0,
            live.1,
            mib(resident)
        );
        self.samples.push(Sample { requests, live, resident });
        Ok(())
    }

    /// Prints it. Whether it has not grown since the first round.
    pub fn report(&self) -> bool {
        let [first, .., last] = &self.samples[..] else { return false };
        let grown = |last: u64, first: u64| last as i64 - first as i64;
        let (bytes, blocks) = (grown(last.live.0, first.live.0), grown(last.live.1, first.live.1));
        let requests = last.requests - first.requests;
        println!("live memory              {bytes:+} bytes, {blocks:+} blocks by {requests} requests");
        println!("resident memory          {:.1} MiB, then {:.1} MiB", mib(first.resident), mib(last.resident));
        bytes <= LIVE_SLACK.0 as i64
            && blocks <= LIVE_SLACK.1 as i64
            && last.resident as f64 <= first.resident as f64 * (1.0 + RESIDENT_SLACK)
    }
}

/// Bytes of a process that are in memory.
fn resident(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
