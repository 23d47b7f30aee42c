//! `attn bench`: how fast.

use std::io::Write;
use std::path::PathBuf;

use attn_host::Plan;
use attn_tests::gpu::Gpu;
use clap::Args;
use serde_json::json;

use crate::card::Card;
use crate::check;
use crate::device::Loaded;
use crate::error::Failure;
use crate::figures::{Figures, peak_factor};
use crate::job::Job;
use crate::options::{Scores, Sizes};
use crate::progress;
use crate::table::table;

mod data;
mod mixes;

use mixes::Mix;

/// How fast: medians of many rounds on random normal data
///
/// Without --mix it is the one problem that the sizes describe, with --mix a set of problems; options about scores then hold for all of them. Lines are timed in turn, round by round, each round's launches back to back between two events, so that a change of clocks meets every line. K and V may be in the L2 cache from the launch before, where they fit.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub struct Options {
    /// A set of problems instead of one
    #[arg(long, value_name = "NAME")]
    mix: Option<Mix>,
    /// Rounds
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=1000))]
    rounds: u32,
    /// Milliseconds of launches of a line in a round
    #[arg(long, value_name = "MS", default_value_t = 5.0, value_parser = milliseconds)]
    millis: f64,
    /// Compare each answer with f64 on the CPU before it is timed, in rows spread over it
    #[arg(long)]
    check: bool,
    /// Write the results as JSON to this file; - is the output, in place of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    sizes: Sizes,
    #[command(flatten)]
    scores: Scores,
}

const AFTER: &str = "\
Examples:
  attn bench --batch 2 --seqlen 8192 --heads 16 --causal
  attn bench --mix decode --json decode.json
  attn bench --lengths zipf:64:4096:1 --causal --check
  attn bench --mix tiny --check                        does it work here

JSON: device, rounds, millis, checked, and for each of its lines: name, problem, kernel, splits, launches_per_round, \
median_us, spread (slowest less fastest round, as a part of the median), rounds_us, tflops, gbytes_per_s, of_peak \
(1 is the data sheet's; null for an unknown card) and bound, the peak that is meant (matrix products, memory).";

fn milliseconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|ms| (0.1..=1000.0).contains(ms)).ok_or_else(|| "0.1 to 1000 milliseconds".to_owned())
}

/// A problem on the device, and its times so far.
struct Line<'a> {
    name: String,
    job: Job,
    loaded: Loaded<'a>,
    count: u32,
    micros: Vec<f64>,
}

/// Runs the command.
pub fn run(options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    let wanted = match options.mix {
        Some(mix) => mix.problems(&options.sizes, &options.scores)?,
        None => {
            let (spec, arrays) = options.sizes.spec(&options.scores)?;
            vec![(String::new(), spec, arrays)]
        }
    };
    for (_, spec, arrays) in &wanted {
        arrays.check(&spec.problem(arrays))?;
    }
    let gpu = Gpu::open()?;
    let bar = progress::bar(wanted.len() as u64 + u64::from(options.rounds), "preparing");
    let mut lines = Vec::new();
    for (name, spec, arrays) in wanted {
        lines.push(Line::prepare(&gpu, name, data::random(spec, arrays), options)?);
        bar.inc(1);
    }
    bar.set_message("timing");
    for _ in 0..options.rounds {
        for line in &mut lines {
            let micros = gpu.time(line.count, || line.loaded.launch())?;
            line.micros.push(micros);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let results = as_json(options, &gpu, &lines);
    match &options.json {
        Some(path) if path.as_os_str() == "-" => writeln!(out, "{results:#}")?,
        Some(path) => {
            std::fs::write(path, format!("{results:#}\n")).map_err(|e| Failure::file(path)(e.into()))?;
            report(options, &gpu, &lines, out)?;
        }
        None => report(options, &gpu, &lines, out)?,
    }
    Ok(())
}

impl<'a> Line<'a> {
    /// Uploads a job, checks its answer where that is asked for, and finds out how many launches fill a round.
    fn prepare(gpu: &'a Gpu, name: String, job: Job, options: &Options) -> Result<Self, Failure> {
        let mut loaded = Loaded::new(gpu, &job)?;
        gpu.announce(loaded.plan.problem().to_string());
        if options.check {
            check::check(&job, &loaded.run()?, false)?;
        }
        let once = gpu.time(3, || loaded.launch())?.max(0.1);
        let count = (options.millis * 1e3 / once).ceil().clamp(1.0, 5000.0) as u32;
        gpu.time(count, || loaded.launch())?;
        Ok(Line { name, job, loaded, count, micros: Vec::new() })
    }

    fn plan(&self) -> &Plan {
        &self.loaded.plan
    }

    /// The problem in words.
    fn label(&self) -> String {
        if self.name.is_empty() { self.plan().problem().to_string() } else { self.name.clone() }
    }
}

/// What a line's times say.
struct Outcome {
    median: f64,
    /// From the fastest round to the slowest, as a part of the median.
    spread: f64,
    tflops: f64,
    gbytes: f64,
    /// Of the peak that bounds it, where the card is known.
    of_peak: Option<(f64, &'static str)>,
}

impl Outcome {
    fn of(gpu: &Gpu, line: &Line<'_>) -> Self {
        let mut sorted = line.micros.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        let spread = (sorted[sorted.len() - 1] - sorted[0]) / median;
        let figures = Figures::of(&line.job.spec, &line.job.arrays);
        let (tflops, gbytes) = (figures.flops / median * 1e-6, figures.bytes / median * 1e-3);
        let of_peak = Card::of(gpu.device().info()).map(|card| match figures.floor(&line.job.spec, card) {
            (_, by @ "memory") => (gbytes / card.gbytes, by),
            (_, by) => (tflops / (card.tflops * peak_factor(&line.job.spec)), by),
        });
        Outcome { median, spread, tflops, gbytes, of_peak }
    }
}

fn report(options: &Options, gpu: &Gpu, lines: &[Line<'_>], out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "{}", gpu.describe())?;
    let checked = if options.check { ", answers compared with f64" } else { "" };
    writeln!(
        out,
        "random normal data, LSE written, median of {} rounds of {} ms{checked}\n",
        options.rounds, options.millis
    )?;
    let mut rows = table(&["problem", "kernel", "us", "spread", "TFLOP/s", "GB/s", "of peak"], 2);
    for line in lines {
        let Outcome { median, spread, tflops, gbytes, of_peak } = Outcome::of(gpu, line);
        let peak = of_peak.map_or(String::new(), |(part, by)| {
            format!("{:.0} % {}", part * 100.0, if by == "memory" { "GB/s" } else { "TFLOP/s" })
        });
        rows.add_row([
            line.label(),
            line.plan().kernel().name.to_owned(),
            format!("{median:.1}"),
            format!("{:.1} %", spread * 100.0),
            format!("{tflops:.1}"),
            format!("{gbytes:.0}"),
            peak,
        ]);
    }
    writeln!(out, "{rows}")?;
    Ok(())
}

fn as_json(options: &Options, gpu: &Gpu, lines: &[Line<'_>]) -> serde_json::Value {
    let lines = lines.iter().map(|line| {
        let Outcome { median, spread, tflops, gbytes, of_peak } = Outcome::of(gpu, line);
        json!({
            "name": line.label(),
            "problem": line.plan().problem().to_string(),
            "kernel": line.plan().kernel().name,
            "splits": line.plan().splits(),
            "launches_per_round": line.count,
            "median_us": median,
            "spread": spread,
            "rounds_us": line.micros,
            "tflops": tflops,
            "gbytes_per_s": gbytes,
            "of_peak": of_peak.map(|(part, _)| part),
            "bound": of_peak.map(|(_, by)| by),
        })
    });
    json!({
        "device": gpu.describe(),
        "rounds": options.rounds,
        "millis": options.millis,
        "checked": options.check,
        "lines": lines.collect::<Vec<_>>(),
    })
}
