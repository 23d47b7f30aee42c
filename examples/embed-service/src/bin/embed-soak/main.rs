//! `embed-soak --seconds 600 -- embed-service --model FOLDER`: a service under load, with every answer checked.
//!
//! Starts the service, asks for the embedding of each sentence of a corpus alone, then lets clients ask for random ones together, among requests
//! that are malformed, oversized or given up half way. Exits with 0 when no request was lost, every answer was right, the service's memory did
//! not grow and the service stopped when told to.

mod client;
mod corpus;
mod memory;
mod process;
mod tally;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use client::Client;
use corpus::{Corpus, Random};
use memory::Memory;
use process::Process;
use tally::Tally;

/// Keeps a service under load and checks every answer.
#[derive(Parser)]
#[command(name = "embed-soak", version)]
struct Options {
    /// How long.
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u64,
    /// Parts of this time, after each of which the service is left alone until it is idle.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// Clients that ask at the same time.
    #[arg(long, value_name = "N", default_value_t = 16)]
    clients: u64,
    /// Different sentences.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    sentences: u32,
    /// Most sentences of a request.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    most_sentences: u32,
    /// Most words of a sentence; short ones for many requests a second.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    most_words: u32,
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
    let client = Client::new(&process.address, options.most_sentences);
    let corpus = Corpus::alone(&client, &mut random, options.sentences as usize, options.most_words as usize)?;
    println!("{} sentences embedded alone; {} clients for {} s", corpus.len(), options.clients, options.seconds);
    let mut memory = Memory::default();
    let mut tally = Tally::new(options.tolerance);
    let mut busy = Duration::ZERO;
    for round in 0..options.rounds {
        let start = Instant::now();
        let end = start + Duration::from_secs(options.seconds) / options.rounds;
        let part = load(options, &process, &corpus, u64::from(round), end);
        busy += start.elapsed();
        tally = tally.and(part);
        memory.look(&client, process.id, tally.requests())?;
    }
    let stopped = process.stop();
    let passed = tally.report(busy.as_secs_f64()) & memory.report();
    match &stopped {
        Ok(()) => println!("stopped                  when told to, with status 0"),
        Err(error) => println!("stopped                  NOT as it should: {error}"),
    }
    let passed = passed && stopped.is_ok();
    println!("{}", if passed { "PASSED" } else { "FAILED" });
    Ok(passed)
}

/// Has clients ask until `end`.
fn load(options: &Options, process: &Process, corpus: &Corpus, round: u64, end: Instant) -> Tally {
    let ask = |seed: u64| {
        let (mut random, mut tally) = (Random::new(seed), Tally::new(options.tolerance));
        let client = Client::new(&process.address, options.most_sentences);
        while Instant::now() < end {
            client.ask(corpus, &mut random, &mut tally);
        }
        tally
    };
    thread::scope(|scope| {
        let seed = |client: u64| options.seed ^ (client + 1) << 32 ^ round << 16;
        let clients: Vec<_> = (0..options.clients).map(|i| scope.spawn(move || ask(seed(i)))).collect();
        let tallies = clients.into_iter().map(|client| client.join().expect("a client does not panic"));
        tallies.fold(Tally::new(options.tolerance), Tally::and)
    })
}
