//! `embed-soak --seconds 600 -- embed-service --model FOLDER`: a service under load, with every answer checked.
//!
//! Starts the service, asks for the embedding of each sentence of a corpus alone, then lets clients ask for random ones together, among requests
//! that are malformed, oversized or given up half way. Exits with 0 when no request was lost, every answer was right, the service's memory did
//! not grow and the service stopped when told to.

mod client;
mod corpus;
mod process;
mod tally;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use client::Client;
use corpus::{Corpus, Random};
use process::Process;
use tally::Tally;

/// Keeps a service under load and checks every answer.
#[derive(Parser)]
#[command(name = "embed-soak", version)]
struct Options {
    /// How long.
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u64,
    /// Clients that ask at the same time.
    #[arg(long, value_name = "N", default_value_t = 16)]
    clients: u64,
    /// Different sentences.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    sentences: u32,
    /// Of another number come other sentences and requests.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Most that an element of an embedding may differ from that of the sentence alone.
    #[arg(long, value_name = "X", default_value_t = 1e-5)]
    tolerance: f32,
    /// The service's program and its options; `--listen` is added.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool, String> {
    let process = Process::start(&options.command)?;
    let mut random = Random::new(options.seed);
    let corpus = Corpus::alone(&Client::new(&process.address), &mut random, options.sentences as usize)?;
    println!("{} sentences embedded alone; {} clients for {} s", corpus.len(), options.clients, options.seconds);
    let start = Instant::now();
    let end = start + Duration::from_secs(options.seconds);
    let (tally, memory) = thread::scope(|scope| {
        let ask = |seed: u64| {
            let (mut random, mut tally) = (Random::new(seed), Tally::new(options.tolerance));
            let client = Client::new(&process.address);
            while Instant::now() < end {
                client.ask(&corpus, &mut random, &mut tally);
            }
            tally
        };
        let clients: Vec<_> =
            (0..options.clients).map(|i| scope.spawn(move || ask(options.seed ^ (i + 1) << 32))).collect();
        let memory = process.watch(end);
        let tallies = clients.into_iter().map(|client| client.join().expect("a client does not panic"));
        (tallies.fold(Tally::new(options.tolerance), Tally::and), memory)
    });
    let seconds = start.elapsed().as_secs_f64();
    let stopped = process.stop();
    let passed = tally.report(seconds) & memory.report();
    match &stopped {
        Ok(()) => println!("stopped                  when told to, with status 0"),
        Err(error) => println!("stopped                  NOT as it should: {error}"),
    }
    let passed = passed && stopped.is_ok();
    println!("{}", if passed { "PASSED" } else { "FAILED" });
    Ok(passed)
}
