//! Fingerprints, and plans that cannot run.

use super::*;
use crate::forward::tune;

#[test]
fn fingerprints_differ_by_what_a_launch_depends_on_and_by_nothing_else() {
    let plan = tune::plan(64, 64, false);
    let same = Plan {
        ping_pong: !plan.ping_pong,
        exp_under_output: plan.exp_under_output + 1,
        cost: Cost { tile: 1, block: 1 },
        ..plan
    };
    let of = |plan: Plan| plan.launch().fingerprint();
    assert_eq!(of(same), of(plan));
    let others = [
        Plan { bm: plan.bm - ROWS, ..plan },
        Plan { bn: plan.bn - 16, ..plan },
        Plan { stages: plan.stages + 1, ..plan },
        Plan { d: 32, ..plan },
        Plan { dv: 32, ..plan },
        Plan { schedule: Schedule::LongestFirst, ..plan },
    ];
    let mut all: std::vec::Vec<u64> = others.iter().map(|&other| of(other)).chain([of(plan)]).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), others.len() + 1);
}

#[test]
fn a_plan_that_cannot_run_is_refused_with_the_reason() {
    let why = |knobs: &str| {
        let plan =
            tune::plan(128, 128, true).with("q=1 turns=0").expect("knobs").with(knobs).expect("knobs that exist");
        plan.refusal().unwrap_or("nothing")
    };
    assert_eq!(why(""), "nothing");
    assert_eq!(why("bm=192 bn=64 regs=160/32"), "nothing");
    assert!(why("bm=256").contains("three consumer warpgroups"));
    assert!(why("bm=0").contains("three consumer warpgroups"));
    assert!(why("bn=120").contains("whole k-steps"));
    assert!(why("bn=0").contains("at least one k-step"));
    assert!(why("stages=1").contains("one stage"));
    assert!(why("stages=4").contains("shared memory does not fit"));
    assert!(why("stages=4096").contains("shared memory does not fit"));
    assert!(why("regs=241/24").contains("steps of 8"));
    assert!(why("regs=248/24").contains("24 to 240"));
    assert!(why("regs=240/40").contains("does not own"));
    assert!(why("bm=192 bn=96").contains("does not own"));
    assert!(why("bn=192 regs=160/24").contains("alone take more registers"));
    assert!(why("wait=9").contains("eighths"));
    assert!(why("exp2=3/2").contains("at most the whole"));
    assert!(why("exp2=0/0").contains("at most the whole"));
    assert_eq!(why("bm=64 bn=64 split=2 stages=4"), "nothing");
    assert!(why("split=2").contains("tile of 64 rows"));
    assert!(why("split=0").contains("tile of 64 rows"));
    assert!(why("bm=64 bn=64 split=2 stages=3").contains("stages of their own"));
    assert!(why("bm=64 bn=64 split=2 stages=4 turns=1").contains("stages of their own"));
    assert_eq!(why("q=2"), "nothing");
    assert!(why("q=3").contains("one or two stages of Q"));
    assert!(why("q=2 stages=3 bn=96").contains("second Q"));
    assert!(why("blocks=0").contains("one to four blocks"));
    assert!(why("blocks=2").contains("shared memory does not fit"));
    assert_eq!(why("bm=64 bn=64 blocks=2 regs=216/40"), "nothing");
    assert!(why("bm=64 bn=64 blocks=2 regs=224/40").contains("does not own"));
}
