//! The plans to try for a shape class.
//!
//! [`product`] takes every combination of the values that it is given. [`around`] takes the present plan, then all that differ from
//! it in one way, then in two, until there are enough: the tuner's own choice, which may be repeated from what it found.

use std::fmt;
use std::str::FromStr;

use attn_kernel::forward::Plan;
use attn_kernel::forward::knobs::{KNOBS, Knob};
use serde::{Deserialize, Serialize};

/// A knob and the values to try: `bn=96,112,128`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// The knob's word.
    pub word: String,
    /// Its values.
    pub values: Vec<String>,
}

/// A plan that is not tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its knobs.
    pub knobs: String,
    /// Why it cannot be used.
    pub why: String,
}

/// Plans to try, the present one first, and plans that cannot run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    /// The plans.
    pub plans: Vec<Plan>,
    /// The others.
    pub dropped: Vec<Dropped>,
}

/// Why there is no grid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// Not an axis.
    #[error("'{0}' is not KNOB=VALUE,VALUE,..; the knobs are {knobs}", knobs = words())]
    Axis(String),
    /// Knobs that do not read.
    #[error("'{line}' stops making sense at '{rest}': {why}; the knobs are {knobs}", knobs = words())]
    Knobs {
        /// The knobs.
        line: String,
        /// What is left where reading stopped.
        rest: String,
        /// What is wrong there.
        why: &'static str,
    },
    /// More than are wanted.
    #[error("the grid has {got} plans that can run; at most {max} are wanted (--max)")]
    TooMany {
        /// How many it has.
        got: usize,
        /// How many may be.
        max: usize,
    },
}

/// Every knob with its values, for messages and help.
pub fn words() -> String {
    let of = |knob: &Knob| match knob.values {
        [] => knob.word.to_owned(),
        values => format!("{}={}", knob.word, values.join("|")),
    };
    KNOBS.iter().map(of).collect::<Vec<_>>().join(", ")
}

impl FromStr for Axis {
    type Err = GridError;

    fn from_str(text: &str) -> Result<Self, GridError> {
        let wrong = || GridError::Axis(text.to_owned());
        let (word, values) = text.split_once('=').ok_or_else(wrong)?;
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        if !KNOBS.iter().any(|knob| knob.word == word) || values.iter().any(String::is_empty) {
            return Err(wrong());
        }
        Ok(Axis { word: word.to_owned(), values })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.word, self.values.join(","))
    }
}

/// `plan` with other knobs.
pub fn with(plan: Plan, knobs: &str) -> Result<Plan, GridError> {
    plan.with(knobs).map_err(|unreadable| GridError::Knobs {
        line: knobs.to_owned(),
        rest: knobs[unreadable.at..].to_owned(),
        why: unreadable.why,
    })
}

/// The same with the registers that so many warpgroups can have, where `knobs` names rows and no registers.
fn with_registers(plan: Plan, knobs: &str) -> Result<Plan, GridError> {
    let other = with(plan, knobs)?;
    let named = |word: &str| knobs.split(' ').any(|knob| knob.split_once('=').is_some_and(|(name, _)| name == word));
    if other.bm == plan.bm || named("regs") {
        return Ok(other);
    }
    with(other, if other.bm > 128 { "regs=160/32" } else { "regs=240/24" })
}

impl Grid {
    /// A grid with only the present plan.
    pub fn of(present: Plan) -> Grid {
        Grid { plans: vec![present], dropped: Vec::new() }
    }

    /// Adds a plan, unless it is there already.
    pub fn add(&mut self, plan: Plan) {
        let knobs = plan.to_string();
        match plan.refusal() {
            None if !self.plans.contains(&plan) => self.plans.push(plan),
            Some(why) if !self.dropped.iter().any(|dropped| dropped.knobs == knobs) => {
                self.dropped.push(Dropped { knobs, why: why.to_owned() });
            }
            _ => {}
        }
    }

    /// Adds the present plan with other knobs; registers follow the rows where they are not named.
    pub fn add_with(&mut self, knobs: &str) -> Result<(), GridError> {
        let plan = with_registers(self.plans[0], knobs)?;
        self.add(plan);
        Ok(())
    }
}

/// Every combination of the axes' values, the other knobs as in `present`; at most `max` plans.
pub fn product(present: Plan, axes: &[Axis], max: usize) -> Result<Grid, GridError> {
    let mut lines = vec![String::new()];
    for Axis { word, values } in axes {
        lines =
            lines.iter().flat_map(|line| values.iter().map(move |value| format!("{line} {word}={value}"))).collect();
    }
    let mut grid = Grid::of(present);
    for line in &lines {
        grid.add_with(line.trim_start())?;
    }
    match grid.plans.len() {
        got if got > max => Err(GridError::TooMany { got, max }),
        _ => Ok(grid),
    }
}

/// `present`, then what differs from it in one way, then in two, at most `max` plans.
pub fn around(present: Plan, causal: bool, max: usize) -> Result<Grid, GridError> {
    let (shapes, numbers) = (shapes(present, causal), numbers(present));
    // Shapes depend on each other: what keeps the tensor cores busy with one tile need not with another. Few pairs of ways first.
    let mut pairs: Vec<(&Vec<String>, &Vec<String>)> =
        shapes.iter().enumerate().flat_map(|(i, a)| shapes[i + 1..].iter().map(move |b| (a, b))).collect();
    pairs.sort_by_key(|(a, b)| a.len() * b.len());
    let single = shapes.iter().chain(&numbers).flatten().cloned();
    let double = pairs.iter().flat_map(|(a, b)| b.iter().flat_map(|b| a.iter().map(move |a| format!("{a} {b}"))));
    let mut grid = Grid::of(present);
    for knobs in single.chain(double) {
        if grid.plans.len() >= max {
            break;
        }
        grid.add_with(&knobs)?;
    }
    Ok(grid)
}

/// Tiles, and other words for the knobs that take words: the knobs to change, grouped by what they change.
fn shapes(present: Plan, causal: bool) -> Vec<Vec<String>> {
    let mut ways = vec![tiles(present)];
    for knob in KNOBS {
        // Tiles of one length need no order; with a mask the first of the schedules is the slowest by far.
        let values: &[&str] = match (knob.word, causal) {
            ("schedule", false) => &[],
            ("schedule", true) => &["paired", "longest"],
            _ => knob.values,
        };
        ways.push(others(present, knob.word, values));
    }
    ways
}

/// Values that are tried of knobs that take numbers. Registers follow the tile.
const NUMBERS: &[(&str, &[&str])] = &[
    ("wait", &["0", "1", "2", "3", "4", "6", "8"]),
    ("stages", &["2", "3"]),
    ("q", &["1", "2"]),
    ("exp2", &["0/1", "1/16", "1/8"]),
];

/// Numbers, each by itself.
fn numbers(present: Plan) -> Vec<Vec<String>> {
    let number = |word: &str| KNOBS.iter().any(|knob| knob.word == word && knob.values.is_empty());
    NUMBERS.iter().filter(|(word, _)| number(word)).map(|(word, values)| others(present, word, values)).collect()
}

/// The knob `word` with each of `values` that it does not have now.
fn others(present: Plan, word: &str, values: &[&str]) -> Vec<String> {
    let now = present.value(word).to_string();
    values.iter().filter(|value| **value != now).map(|value| format!("{word}={value}")).collect()
}

/// Tiles near the present one: with as many rows, and with the other count of warpgroups, for whose registers there are fewer keys.
fn tiles(present: Plan) -> Vec<String> {
    let same = near(present, present.bm, present.bn);
    let other = if present.bm > 128 { near(present, 128, present.bn) } else { near(present, 192, present.bn * 3 / 4) };
    let line = |(bm, bn): (u32, u32)| if bm == present.bm { format!("bn={bn}") } else { format!("bm={bm} bn={bn}") };
    same.into_iter().chain(other).map(line).collect()
}

/// The four tiles of `bm` rows that can run and are nearest to `bn` keys, the present one left out.
fn near(present: Plan, bm: u32, bn: u32) -> Vec<(u32, u32)> {
    let runs = |keys: &u32| {
        let plan = with_registers(present, &format!("bm={bm} bn={keys}"));
        plan.is_ok_and(|plan| plan != present && plan.refusal().is_none())
    };
    let mut keys: Vec<u32> = (1..=16).map(|steps| steps * 16).filter(runs).collect();
    keys.sort_by_key(|keys| keys.abs_diff(bn));
    keys.into_iter().take(4).map(|keys| (bm, keys)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Class, Element};
    use attn_kernel::forward::tune::plan;

    fn axes(texts: &[&str]) -> Vec<Axis> {
        texts.iter().map(|text| text.parse().expect("an axis")).collect()
    }

    #[test]
    fn a_product_is_every_combination_and_the_present_plan() {
        let present = plan(64, 64, false);
        let grid = product(present, &axes(&["bn=80,96", "turns=0,1", "stages=2,3"]), 40).expect("a grid");
        assert_eq!((grid.plans.len(), grid.plans[0], grid.dropped.len()), (9, present, 0));
        for (bn, turns, stages) in [(80, false, 2), (80, true, 3), (96, true, 2), (96, false, 3)] {
            assert!(grid.plans.contains(&Plan { bn, ping_pong: turns, stages, ..present }), "{bn} {turns} {stages}");
        }
        assert_eq!(product(present, &[], 40), Ok(Grid::of(present)));
        let many = product(present, &axes(&["bn=80,96", "turns=0,1"]), 4);
        assert_eq!(many, Err(GridError::TooMany { got: 5, max: 4 }));
    }

    #[test]
    fn registers_follow_the_rows_unless_they_are_named() {
        let present = plan(64, 64, false);
        let mut grid = Grid::of(present);
        grid.add_with("bm=128").expect("knobs");
        grid.add_with("bm=128 regs=232/40").expect("knobs");
        let registers: Vec<_> =
            grid.plans.iter().map(|plan| (plan.bm, plan.regs.consumer, plan.regs.producer)).collect();
        assert_eq!(registers, [(192, 160, 32), (128, 240, 24), (128, 232, 40)]);
    }

    #[test]
    fn plans_that_cannot_run_are_kept_apart_with_the_reason() {
        let grid = product(plan(128, 128, false), &axes(&["bn=96,120,240", "stages=2,4"]), 3).expect("a grid");
        assert_eq!(grid.plans.len(), 3);
        let why: Vec<_> = grid.dropped.iter().map(|dropped| dropped.why.as_str()).collect();
        assert_eq!(why.iter().filter(|why| why.contains("whole k-steps")).count(), 2, "{why:?}");
        assert_eq!(why.iter().filter(|why| why.contains("shared memory")).count(), 2, "{why:?}");
        let first = &grid.dropped[0].knobs;
        assert!(first.contains("bn=120 ") && first.contains(" stages=2 "), "{first}");
    }

    #[test]
    fn the_tuners_own_grid_turns_every_knob_and_is_bounded() {
        for class in Class::all(Element::Bf16) {
            let (present, causal) = (class.present(), class.line.causal);
            let grid = around(present, causal, 40).expect("a grid");
            assert!(grid.plans.len() <= 40 && grid.plans.len() > 10, "{class}: {}", grid.plans.len());
            assert_eq!(grid.plans[0], present);
            let refused = grid.dropped.iter().map(|dropped| with(class.base(), &dropped.knobs).expect("printed knobs"));
            let all: Vec<Plan> = grid.plans.iter().copied().chain(refused).collect();
            let tried = |knob: &&Knob| !knob.values.is_empty() || NUMBERS.iter().any(|(word, _)| *word == knob.word);
            for Knob { word, .. } in KNOBS.iter().filter(tried).filter(|knob| causal || knob.word != "schedule") {
                let turned = all.iter().any(|plan| plan.value(word).to_string() != present.value(word).to_string());
                assert!(turned, "{class}: {word} is never changed");
            }
        }
        assert_eq!(around(plan(64, 64, true), true, 5).map(|grid| grid.plans.len()), Ok(5));
    }

    #[test]
    fn what_is_not_an_axis_or_a_knob_says_so() {
        for text in ["bn", "bn=", "bn=1,,2", "bx=1"] {
            let error = text.parse::<Axis>().expect_err(text).to_string();
            assert!(error.contains(text) && error.contains("schedule=persistent|longest|paired"), "{error}");
        }
        assert_eq!("bn=1,2".parse::<Axis>().map(|axis| axis.to_string()), Ok("bn=1,2".to_owned()));
        let error = with(plan(64, 64, true), "bm=128 turns=x bn=5").expect_err("turns").to_string();
        assert!(error.contains("at 'turns=x bn=5': the value of turns is one of 0 1"), "{error}");
    }
}
