//! `tune apply`: what won, beside the present line, and into the table.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use attn_kernel::forward::Plan;
use attn_tune::Class;
use attn_tune::results::{Measured, Rank, Results};

use super::table;
use crate::process;

/// Write the fastest plans of a measurement into the table of plans.
///
/// A plan is fastest by the geometric mean over the measured lengths. The present line stays where nothing is faster by --margin, and
/// a result is refused whose present plan is not the table's any more. Comments and the other lines stay as they are. The kernels
/// are built from the new table by `cargo xtask build-ptx`, those that attn-host carries with --prebuilt.
#[derive(clap::Args)]
pub struct Options {
    /// The results.json of a measurement.
    #[arg(value_name = "RESULTS")]
    results: PathBuf,
    /// Show what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take this variant, by its name in the results, not its class's fastest.
    #[arg(long, value_name = "NAME")]
    take: Vec<String>,
    /// Percent by which a plan must be faster than the present one.
    #[arg(long, value_name = "PERCENT", default_value_t = MARGIN)]
    margin: f64,
}

impl Options {
    /// With the default margin.
    pub fn of(results: PathBuf, dry_run: bool) -> Options {
        Options { results, dry_run, take: Vec::new(), margin: MARGIN }
    }
}

/// Percent by which a plan must be faster than the present one to take its line: less is noise.
const MARGIN: f64 = 1.0;
/// Variants that are shown of a class.
const SHOWN: usize = 5;

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let results = Results::read(&options.results)?;
    ensure!(
        options.dry_run || !results.simulated,
        "{} is of the simulator, whose times say nothing; look at it with --dry-run",
        options.results.display()
    );
    let path = table::path();
    let old = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = old.clone();
    println!("{}", results.device);
    let names: Vec<&str> = results.classes.iter().flat_map(|m| &m.variants).map(|timed| timed.name.as_str()).collect();
    for name in &options.take {
        ensure!(names.contains(&name.as_str()), "--take {name}: the results have no such variant");
    }
    for measured in &results.classes {
        let chosen = choose(measured, &options.take, options.margin)?;
        show(measured, &chosen);
        if let Some(rank) = chosen {
            text = table::replace(&text, measured.class, &measured.variants[rank.variant].knobs)?;
        }
    }
    match (text == old, options.dry_run) {
        (true, _) => println!("the table stays as it is"),
        (false, true) => println!("nothing is written (--dry-run)"),
        (false, false) => {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            process::run(Command::new("rustfmt").args(["--edition", "2024"]).arg(&path))?;
            println!("written to {}; next: cargo xtask build-ptx --prebuilt", path.display());
        }
    }
    Ok(())
}

/// The variant that the class's line is to have, when it is another than now.
fn choose(measured: &Measured, take: &[String], margin: f64) -> Result<Option<Rank>> {
    let class = measured.class;
    let present = measured.variants.first().with_context(|| format!("{class}: no variants"))?;
    let now = class.present();
    if read(class, &present.knobs)? != now {
        bail!(
            "{class} was measured beside the plan `{}`, and the table has `{now}` now; build and measure again",
            present.knobs
        );
    }
    let ranking = measured.ranking();
    let Some(best) = ranking.first() else {
        bail!("{class}: the present plan has no times: {}", present.failed.as_deref().unwrap_or("no reason is given"))
    };
    let taken = ranking.iter().find(|rank| take.contains(&measured.variants[rank.variant].name));
    let rank = match taken {
        Some(rank) => rank,
        None if best.speed >= 1.0 + margin / 100.0 => best,
        None => return Ok(None),
    };
    // What the next build would refuse is not written.
    let plan = read(class, &measured.variants[rank.variant].knobs)?;
    if let Some(why) = plan.refusal() {
        bail!("{class}: `{plan}` cannot run: {why}");
    }
    Ok(Some(rank.clone()).filter(|rank| rank.variant != 0))
}

fn read(class: Class, knobs: &str) -> Result<Plan> {
    Ok(attn_tune::grid::with(class.base(), knobs)?)
}

fn show(measured: &Measured, chosen: &Option<Rank>) {
    let lengths: Vec<String> = measured.lines.iter().map(|line| line.length.to_string()).collect();
    println!("\n{}, times as fast as the present plan at {}", measured.class, lengths.join(", "));
    let ranking = measured.ranking();
    let worth = |(place, rank): &(usize, &Rank)| {
        *place < SHOWN || rank.variant == 0 || chosen.as_ref().is_some_and(|c| c.variant == rank.variant)
    };
    for (_, rank) in ranking.iter().enumerate().filter(worth) {
        let lines: Vec<String> = rank.lines.iter().map(|x| format!("{x:.3}")).collect();
        let mark = match (chosen, rank.variant) {
            (Some(chosen), variant) if chosen.variant == variant => "new",
            (_, 0) => "present",
            _ => "",
        };
        let timed = &measured.variants[rank.variant];
        println!("  {:7} {:.3}  {}  {}  {}", mark, rank.speed, lines.join(" "), timed.name, timed.knobs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn_tune::results::{Line, Timed};

    fn class() -> Class {
        Class::try_from("bf16_d64_causal".to_owned()).expect("a class")
    }

    /// The present plan at 100 microseconds, then others.
    fn measured(others: &[(&str, f64)]) -> Measured {
        let present = class().present().to_string();
        let timed =
            |name: String, knobs: String, micros: f64| Timed { name, knobs, failed: None, micros: vec![vec![micros]] };
        let other = others.iter().enumerate().map(|(i, (knobs, micros))| {
            let plan = class().present().with(knobs).expect("knobs");
            timed(format!("v{}", i + 1), plan.to_string(), *micros)
        });
        Measured {
            class: class(),
            lines: vec![Line { length: 512, case: String::new(), flops: 1e9 }],
            variants: [timed("v0".into(), present, 100.0)].into_iter().chain(other).collect(),
            dropped: Vec::new(),
        }
    }

    fn chosen(measured: &Measured, take: &[&str]) -> Option<usize> {
        let take: Vec<String> = take.iter().map(ToString::to_string).collect();
        choose(measured, &take, 0.5).expect("a choice").map(|rank| rank.variant)
    }

    #[test]
    fn the_fastest_is_taken_when_it_is_faster_by_the_margin() {
        assert_eq!(chosen(&measured(&[("bn=96", 99.0), ("bn=80", 98.0)]), &[]), Some(2));
        assert_eq!(chosen(&measured(&[("bn=96", 99.6), ("bn=80", 120.0)]), &[]), None);
        assert_eq!(chosen(&measured(&[]), &[]), None);
    }

    #[test]
    fn the_simulators_times_are_not_written() {
        let path = std::env::temp_dir().join(format!("attn-apply-{}.json", std::process::id()));
        let results = Results { device: "sim".into(), simulated: true, classes: vec![measured(&[("bn=96", 50.0)])] };
        results.write(&path).expect("writable");
        let before = fs::read_to_string(table::path()).expect("the table");
        let (written, shown) = (run(&Options::of(path.clone(), false)), run(&Options::of(path.clone(), true)));
        fs::remove_file(&path).expect("removable");
        assert!(written.expect_err("refused").to_string().contains("of the simulator"));
        shown.expect("shown");
        assert_eq!(fs::read_to_string(table::path()).expect("the table"), before);
    }

    #[test]
    fn another_than_the_fastest_can_be_taken() {
        let measured = measured(&[("bn=96", 90.0), ("bn=80", 120.0)]);
        assert_eq!(chosen(&measured, &["v2", "of another class"]), Some(2));
        assert_eq!(chosen(&measured, &["v0"]), None, "the line stays");
    }

    #[test]
    fn results_of_another_table_and_plans_that_cannot_run_are_refused() {
        let error = |measured: &Measured| choose(measured, &[], 0.5).expect_err("refused").to_string();
        let mut stale = measured(&[("bn=96", 90.0)]);
        stale.variants[0].knobs = class().present().with("bn=48").expect("knobs").to_string();
        assert!(error(&stale).contains("measure again"), "{}", error(&stale));
        let impossible = measured(&[("bn=96 stages=40", 90.0)]);
        assert!(error(&impossible).contains("shared memory does not fit"), "{}", error(&impossible));
        let mut wrong = measured(&[("bn=96", 90.0)]);
        wrong.variants[0].failed = Some("wrong: 7".into());
        assert!(error(&wrong).contains("no times: wrong: 7"), "{}", error(&wrong));
    }
}
