//! What was measured, and who won.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::grid::Dropped;
use crate::{FileError, read, write};

/// Measurements of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The device.
    pub device: String,
    /// Whether it was the simulator, whose times say nothing.
    #[serde(default)]
    pub simulated: bool,
    /// Each class.
    pub classes: Vec<Measured>,
}

/// A class as it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The class.
    pub class: Class,
    /// What was timed, a line each.
    pub lines: Vec<Line>,
    /// The variants, the present plan first.
    pub variants: Vec<Timed>,
    /// What was not measured.
    pub dropped: Vec<Dropped>,
}

/// A problem that was timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Queries and keys.
    pub length: usize,
    /// The whole problem, as the suite takes it.
    pub case: String,
    /// Floating-point operations.
    pub flops: f64,
}

/// A variant's times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// Entry point.
    pub name: String,
    /// Its plan's knobs.
    pub knobs: String,
    /// Why it has no times: its answer was wrong, or it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Microseconds of a launch: for each line, for each round that the variant took part in. The present plan took part in all.
    pub micros: Vec<Vec<f64>>,
}

/// A variant beside the present plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Rank {
    /// Its index.
    pub variant: usize,
    /// Geometric mean of `lines`.
    pub speed: f64,
    /// How many times as fast as the present plan, for each line.
    pub lines: Vec<f64>,
}

impl Results {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Results, FileError> {
        read(path)
    }

    /// Writes it.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        write(path, self)
    }
}

impl Measured {
    /// The variants that answered rightly, the fastest first; nothing when the present plan did not.
    pub fn ranking(&self) -> Vec<Rank> {
        let Some(present) = self.variants.first().filter(|present| present.failed.is_none()) else { return Vec::new() };
        let right = self.variants.iter().enumerate().filter(|(_, timed)| timed.failed.is_none());
        let mut ranks: Vec<Rank> = right
            .map(|(variant, timed)| {
                let lines: Vec<f64> = present.micros.iter().zip(&timed.micros).map(|(a, b)| speed(a, b)).collect();
                let speed = (lines.iter().map(|x| x.ln()).sum::<f64>() / lines.len().max(1) as f64).exp();
                Rank { variant, speed, lines }
            })
            .collect();
        ranks.sort_by(|a, b| b.speed.total_cmp(&a.speed));
        ranks
    }

    /// The present plan and the `count` fastest others.
    pub fn leaders(&self, count: usize) -> Vec<usize> {
        let others = self.ranking().into_iter().map(|rank| rank.variant).filter(|&variant| variant != 0);
        std::iter::once(0).chain(others.take(count)).collect()
    }
}

/// How many times as fast `other` is as `base`: the median over the rounds of both, so that a clock that drifts from round to round
/// meets both.
fn speed(base: &[f64], other: &[f64]) -> f64 {
    median(&base.iter().zip(other).map(|(base, other)| base / other).collect::<Vec<_>>())
}

/// The median; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The middle half of the values, as a part of their median.
pub fn spread(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    (sorted[last - last / 4] - sorted[last / 4]) / median(&sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Element;

    fn timed(name: &str, micros: [[f64; 3]; 2]) -> Timed {
        Timed { name: name.into(), knobs: String::new(), failed: None, micros: micros.map(|m| m.to_vec()).to_vec() }
    }

    fn measured(variants: Vec<Timed>) -> Measured {
        let class = Class::all(Element::Bf16).next().expect("a class");
        let line = |length| Line { length, case: String::new(), flops: 1e9 };
        Measured { class, lines: vec![line(512), line(1024)], variants, dropped: Vec::new() }
    }

    #[test]
    fn the_fastest_over_all_lines_is_first() {
        // The second is 2 x at one length and 0.9 x at the other, the third 1.2 x at both; every clock halves after a round.
        let present = timed("a", [[10.0, 20.0, 20.0], [9.0, 18.0, 18.0]]);
        let ranking = measured(vec![
            present.clone(),
            timed("b", [[5.0, 10.0, 10.0], [10.0, 20.0, 20.0]]),
            timed("c", [[10.0 / 1.2, 20.0 / 1.2, 1e9], [7.5, 15.0, 15.0]]),
        ])
        .ranking();
        let order: Vec<usize> = ranking.iter().map(|rank| rank.variant).collect();
        assert_eq!(order, [1, 2, 0]);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(ranking[0].lines[0], 2.0) && near(ranking[0].lines[1], 0.9), "{ranking:?}");
        assert!(near(ranking[0].speed, 1.8f64.sqrt()) && near(ranking[1].speed, 1.2), "{ranking:?}");
        assert_eq!(ranking[2].speed, 1.0);
    }

    #[test]
    fn leaders_are_the_present_plan_and_the_fastest() {
        let at = |name, micros| timed(name, [[micros; 3]; 2]);
        let all = measured(vec![at("a", 3.0), at("b", 2.0), at("c", 4.0), at("d", 1.0)]);
        assert_eq!(all.leaders(2), [0, 3, 1]);
        assert_eq!(all.leaders(0), [0]);
        assert_eq!(all.leaders(9), [0, 3, 1, 2]);
    }

    #[test]
    fn wrong_answers_have_no_rank() {
        let wrong = |name| Timed { failed: Some("wrong".into()), ..timed(name, [[1.0; 3]; 2]) };
        let right = |name| timed(name, [[2.0; 3]; 2]);
        let variants: Vec<_> =
            measured(vec![right("a"), wrong("b"), right("c")]).ranking().iter().map(|rank| rank.variant).collect();
        assert_eq!(variants, [0, 2]);
        assert_eq!(measured(vec![wrong("a"), right("b")]).ranking(), []);
    }

    #[test]
    fn medians_and_spreads() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert!(median(&[]).is_nan());
        // Of nine values the middle half runs from the third to the seventh.
        let values: Vec<f64> = (1..=9).map(f64::from).collect();
        assert_eq!(spread(&values), 4.0 / 5.0);
    }

    #[test]
    fn results_read_back() {
        let path = std::env::temp_dir().join(format!("attn-tune-{}.json", std::process::id()));
        let results = Results {
            device: "H100".into(),
            simulated: false,
            classes: vec![measured(vec![timed("a", [[1.5; 3]; 2])])],
        };
        results.write(&path).expect("writable");
        let read = Results::read(&path);
        std::fs::write(&path, "{").expect("writable");
        let broken = Results::read(&path).expect_err("no JSON").to_string();
        std::fs::remove_file(&path).expect("removable");
        assert_eq!(read.expect("readable"), results);
        assert!(broken.starts_with(&path.display().to_string()), "{broken}");
        assert!(Results::read(&path).expect_err("gone").to_string().contains("No such file"));
    }
}
