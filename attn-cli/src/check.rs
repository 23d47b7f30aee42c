//! An answer against softmax attention in f64 on the CPU.

use std::ops::Range;

use attn_host::{Alibi, Descales, Float8, Mask};
use attn_tests::compare::{self, Mismatch, Report, Tolerance};
use attn_tests::dense::{Dense, Dims};
use attn_tests::oracle::{self, Attention, Modifiers, Window};
use rayon::prelude::*;

use crate::device::Answer;
use crate::job::Job;
use crate::problem::Sequence;
use crate::progress;

/// Rows that are compared together.
const ROWS: usize = 64;
/// Multiplications that are spent at most, unless every row is asked for: some seconds.
const BUDGET: f64 = 2e10;

/// Neighbouring queries of one head.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    sequence: usize,
    head: usize,
    rows: Range<usize>,
}

/// What was compared, and how far it was off.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// Errors and what they may be.
    pub report: Report,
    /// Rows compared.
    pub rows: usize,
    /// Rows there are.
    pub of: usize,
}

/// Compares blocks of rows that are spread evenly over the answer, or all of them.
///
/// # Errors
/// The first or worst element that is wrong; its position is sequence, query, head, column.
pub fn check(job: &Job, answer: &Answer, all: bool) -> Result<Checked, Mismatch> {
    let sequences = job.spec.sequences(&job.arrays);
    let (blocks, of) = blocks(job, &sequences, if all { f64::INFINITY } else { BUDGET });
    let bar = progress::bar(blocks.len() as u64, "comparing with f64");
    let parts: Vec<Part> = blocks
        .par_iter()
        .map(|block| {
            let part = Part::of(job, &sequences, block, answer);
            bar.inc(1);
            part
        })
        .collect();
    bar.finish_and_clear();
    let rows: Vec<(usize, usize, usize)> =
        blocks.iter().flat_map(|b| b.rows.clone().map(|row| (b.sequence, row, b.head))).collect();
    if rows.is_empty() {
        return Ok(Checked { report: Report { error: 0.0, bound: 0.0, lse_error: None }, rows: 0, of });
    }
    let dims = Dims { batch: 1, seq: rows.len(), heads: 1, width: job.spec.shape.head_dim_v as usize };
    let one = Dims { width: 1, ..dims };
    let all = |part: fn(&Part) -> &Vec<f64>| parts.iter().flat_map(|p| part(p).iter().copied()).collect::<Vec<_>>();
    let narrow = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect::<Vec<_>>();
    let reference = oracle::Answer {
        o: Dense { dims, data: all(|part| &part.reference.0) },
        lse: Dense { dims: one, data: all(|part| &part.reference.1) },
    };
    let lowp = oracle::Answer {
        o: Dense { dims, data: narrow(all(|part| &part.lowp)) },
        // Only outputs have a bound by the naive program.
        lse: Dense { dims: one, data: vec![0.0; rows.len()] },
    };
    let o = Dense { dims, data: narrow(all(|part| &part.got.0)) };
    let lse = Dense { dims: one, data: narrow(all(|part| &part.got.1)) };
    let place = |(_, row, _, column): (usize, usize, usize, usize)| {
        let (sequence, query, head) = rows[row];
        (sequence, query, head, column)
    };
    let report = compare::check_within(tolerance(job), &o, Some(&lse), &reference, &lowp, job.spec.dtype);
    Ok(Checked { report: report.map_err(|mismatch| mismatch.moved(place))?, rows: rows.len(), of })
}

/// How far the answer may be off, as the suite has it.
fn tolerance(job: &Job) -> Tolerance {
    let factor = if job.spec.softcap.is_some() { compare::FACTOR_SOFTCAP } else { compare::FACTOR };
    let lse =
        if job.spec.float8 == Float8::All { compare::lse_part_float8(job.spec.shape.head_dim as usize) } else { 0.0 };
    Tolerance { factor, lse }
}

/// Blocks that the budget allows, spread evenly, and the rows that there are.
fn blocks(job: &Job, sequences: &[Sequence], budget: f64) -> (Vec<Block>, usize) {
    let shape = job.spec.shape;
    let (heads, width) = (shape.heads as usize, (shape.head_dim + shape.head_dim_v) as f64);
    let mut all = Vec::new();
    for (sequence, Sequence { queries, .. }) in sequences.iter().enumerate() {
        for head in 0..heads {
            let starts = (0..*queries).step_by(ROWS);
            all.extend(starts.map(|from| Block { sequence, head, rows: from..(from + ROWS).min(*queries) }));
        }
    }
    let rows = all.iter().map(|block| block.rows.len()).sum();
    // Twice for both precisions, and once more for the copies of K and V.
    let cost = |block: &Block| (2 * block.rows.len() + 8) as f64 * sequences[block.sequence].keys as f64 * width;
    let total: f64 = all.iter().map(cost).sum();
    let step = (total / budget).ceil().max(1.0) as usize;
    // A step that shares no divisor with the blocks of a head would do; an odd one nearly always does.
    (all.into_iter().step_by(step | 1).collect(), rows)
}

/// A block's rows: what is right, what a naive program gives, what the kernel gave.
struct Part {
    reference: (Vec<f64>, Vec<f64>),
    lowp: Vec<f64>,
    got: (Vec<f64>, Vec<f64>),
}

impl Part {
    fn of(job: &Job, sequences: &[Sequence], block: &Block, answer: &Answer) -> Self {
        let Block { sequence, head, rows } = block.clone();
        let inputs = Inputs::of(job, sequences, sequence, head);
        let attention = inputs.attention(job);
        let (precision, own) = (job.spec.dtype, rows.clone());
        let (lowp, _) = match job.spec.float8 {
            Float8::All => attention.lowp_float8_rows(0, 0, own, precision),
            _ => attention.lowp_rows(0, 0, own, precision),
        };
        Part {
            reference: attention.reference_rows(0, 0, rows.clone()),
            lowp: lowp.into_iter().map(f64::from).collect(),
            got: got(job, answer, sequences[sequence].q_start, head, rows),
        }
    }
}

/// What the kernel gave for some queries of a head.
fn got(job: &Job, answer: &Answer, q_start: usize, head: usize, rows: Range<usize>) -> (Vec<f64>, Vec<f64>) {
    let (heads, width) = (job.spec.shape.heads as usize, job.spec.shape.head_dim_v as usize);
    let (mut o, mut lse) = (Vec::with_capacity(rows.len() * width), Vec::with_capacity(rows.len()));
    for row in rows.map(|row| q_start + row) {
        let from = (row * heads + head) * width;
        o.extend(answer.o[from..from + width].iter().map(|bits| f64::from(job.spec.dtype.from_bits(*bits))));
        lse.push(f64::from(answer.lse[job.lse_index(row, head)]));
    }
    (o, lse)
}

/// One head of one sequence.
struct Inputs {
    q: Dense<f32>,
    k: Dense<f32>,
    v: Dense<f32>,
    slope: Option<[f32; 1]>,
    sink: Option<[f32; 1]>,
}

impl Inputs {
    fn of(job: &Job, sequences: &[Sequence], sequence: usize, head: usize) -> Self {
        let (spec, arrays, shape) = (&job.spec, &job.arrays, job.spec.shape);
        let (heads, kv_heads) = (shape.heads as usize, shape.kv_heads as usize);
        let kv_head = head / (heads / kv_heads);
        let Sequence { q_start, queries, keys } = sequences[sequence];
        let [q, k, v] = &job.qkv;
        let factor = |factors: &Option<Vec<f32>>| {
            let own = spec.descales == Some(Descales::PerSequenceAndHead);
            let at = if own { sequence * kv_heads + kv_head } else { kv_head };
            factors.as_ref().map_or(1.0, |factors| factors[at])
        };
        let factors = [&arrays.q_descale, &arrays.k_descale, &arrays.v_descale].map(factor);
        let rows = |seq, width| Dims { batch: 1, seq, heads: 1, width };
        let (d, dv) = (shape.head_dim as usize, shape.head_dim_v as usize);
        let key_row = |key| spec.key_row(arrays, sequence, key) * kv_heads + kv_head;
        let per_head = |values: &Option<Vec<f32>>, own: bool| {
            values.as_ref().map(|values| [values[if own { sequence * heads + head } else { head }]])
        };
        Inputs {
            q: Dense::from_fn(rows(queries, d), |_, s, _, c| {
                q.value(((q_start + s) * heads + head) * d + c) * factors[0]
            }),
            k: Dense::from_fn(rows(keys, d), |_, s, _, c| k.value(key_row(s) * d + c) * factors[1]),
            v: Dense::from_fn(rows(keys, dv), |_, s, _, c| v.value(key_row(s) * dv + c) * factors[2]),
            slope: per_head(&arrays.alibi_slopes, spec.alibi == Some(Alibi::PerSequenceAndHead)),
            sink: per_head(&arrays.sinks, false),
        }
    }

    fn attention(&self, job: &Job) -> Attention<'_> {
        let softcap = job.spec.softcap;
        let (alibi, sinks) = (self.slope.as_ref().map(|s| &s[..]), self.sink.as_ref().map(|s| &s[..]));
        Attention::new(&self.q, &self.k, &self.v, job.spec.scale()).window(window(job.spec.mask)).modifiers(Modifiers {
            softcap,
            alibi,
            sinks,
        })
    }
}

fn window(mask: Mask) -> Window {
    match mask {
        Mask::Causal => Window::CAUSAL,
        Mask::Window { left, right } => {
            let keys = |side: Option<u64>| side.map(|keys| keys.min(1 << 40) as usize);
            Window { left: keys(left), right: keys(right) }
        }
        _ => Window::default(),
    }
}
