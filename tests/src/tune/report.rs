//! A class's measurements as a table: the fastest first, then what was not timed.

use std::fmt::Write;

use attn_tune::grid::Dropped;
use attn_tune::results::{Line, Measured, Rank, median, spread};

/// The table. Variants are told by the knobs in which they differ from the present plan.
pub fn render(measured: &Measured) -> String {
    let mut text = String::new();
    let heads: String = measured.lines.iter().map(|line| format!("  {:>16}", format!("s={}", line.length))).collect();
    let _ = writeln!(text, "{:>7}{heads}  plan; TFLOP/s, spread of the middle half", "x");
    for rank in measured.ranking() {
        let cells: String =
            rank.lines.iter().zip(&measured.lines).enumerate().map(|(i, x)| cell(measured, &rank, i, x)).collect();
        let _ = writeln!(text, "{:>7.3}{cells}  {}", rank.speed, plan(measured, rank.variant));
    }
    for (variant, timed) in measured.variants.iter().enumerate() {
        if let Some(why) = &timed.failed {
            let _ = writeln!(text, "  not timed: {}: {why}", plan(measured, variant));
        }
    }
    for Dropped { knobs, why } in &measured.dropped {
        let _ = writeln!(text, "  left out: {}: {why}", differences(&measured.variants[0].knobs, knobs));
    }
    text
}

/// `1.034 688 0.4 %`
fn cell(measured: &Measured, rank: &Rank, line: usize, (ratio, problem): (&f64, &Line)) -> String {
    let micros = &measured.variants[rank.variant].micros[line];
    let tflops = problem.flops / median(micros) * 1e-6;
    format!("  {ratio:>6.3} {tflops:>4.0} {:>2.0} %", 100.0 * spread(micros))
}

fn plan(measured: &Measured, variant: usize) -> String {
    let present = &measured.variants[0].knobs;
    let number = measured.variants[variant].name.rsplit('_').next().unwrap_or_default();
    match variant {
        0 => format!("{number} present: {present}"),
        _ => format!("{number} {}", differences(present, &measured.variants[variant].knobs)),
    }
}

/// The knobs of `other` that `base` has not.
fn differences(base: &str, other: &str) -> String {
    let base: Vec<&str> = base.split(' ').collect();
    other.split(' ').filter(|knob| !base.contains(knob)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn_tune::Class;
    use attn_tune::results::Timed;

    #[test]
    fn a_table_has_a_line_for_everything_that_was_asked_for() {
        let timed = |name: &str, knobs: &str, failed: Option<&str>, micros: [f64; 3]| Timed {
            name: name.into(),
            knobs: knobs.into(),
            failed: failed.map(str::to_owned),
            micros: vec![if failed.is_some() { Vec::new() } else { micros.to_vec() }],
        };
        let measured = Measured {
            class: Class::try_from("bf16_d64_causal".to_owned()).expect("a class"),
            lines: vec![Line { length: 512, case: String::new(), flops: 2e9 }],
            variants: vec![
                timed("tune_x_00", "bm=128 bn=96 turns=1", None, [10.0, 10.0, 10.0]),
                timed("tune_x_01", "bm=192 bn=96 turns=1", Some("wrong: 7"), [0.0; 3]),
                timed("tune_x_02", "bm=128 bn=96 turns=0", None, [8.0, 8.0, 8.0]),
            ],
            dropped: vec![Dropped { knobs: "bm=128 bn=512 turns=1".into(), why: "spills".into() }],
        };
        let text = render(&measured);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("s=512"), "{text}");
        assert!(lines[1].contains("1.250") && lines[1].contains(" 250 ") && lines[1].ends_with("02 turns=0"), "{text}");
        assert!(lines[2].contains("1.000") && lines[2].contains("00 present: bm=128 bn=96 turns=1"), "{text}");
        assert_eq!(lines[3..], ["  not timed: 01 bm=192: wrong: 7", "  left out: bn=512: spills"], "{text}");
    }
}
