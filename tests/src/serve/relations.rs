//! Other problems whose answers have the same bits.

use std::collections::BTreeSet;
use std::iter;

use crate::dense::{Dense, Dims};
use crate::input::{self, Inputs};
use crate::layout::Layout;
use crate::serve::case::{Keys, Relation, ServeCase};
use crate::serve::inputs::ServeInputs;
use crate::serve::lengths::Lengths;

/// A problem, and the rows that it has in common with another.
#[derive(Clone, Debug)]
pub struct Other {
    /// The problem.
    pub case: ServeCase,
    /// Its inputs.
    pub inputs: ServeInputs,
    /// What is the same.
    pub same: Vec<Same>,
}

/// All rows of a sequence of the one problem are rows of a sequence of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Same {
    /// The sequence in the one problem.
    pub here: usize,
    /// The sequence in the other.
    pub there: usize,
    /// The first of its rows.
    pub first: usize,
}

/// The problems whose answers a case says are its own.
pub fn others(case: &ServeCase, inputs: &ServeInputs) -> Vec<Other> {
    match case.equals {
        None => Vec::new(),
        Some(Relation::Alone) => chosen(case).into_iter().map(|b| alone(case, inputs, b)).collect(),
        Some(Relation::Dense) => vec![dense(case, inputs)],
        Some(Relation::Prefill) => vec![prefill(case, inputs)],
    }
}

/// Of the sequences that have queries the first and the last, the shortest, the middle and the longest.
fn chosen(case: &ServeCase) -> Vec<usize> {
    let with: Vec<usize> = (0..case.base.batch).filter(|b| case.queries(*b) > 0).collect();
    let mut by_length = with.clone();
    by_length.sort_by_key(|b| case.queries(*b) + case.keys(*b));
    let places = [0, with.len() / 2, with.len().saturating_sub(1)];
    let ends = [with.first(), with.last()].into_iter().flatten();
    let chosen: BTreeSet<usize> = places.iter().filter_map(|i| by_length.get(*i)).chain(ends).copied().collect();
    chosen.into_iter().collect()
}

fn alone(case: &ServeCase, inputs: &ServeInputs, b: usize) -> Other {
    let (queries, keys) = (case.queries(b), case.keys(b));
    let mut other = ServeCase { poisoned: None, equals: None, ..case.clone() };
    other.base.batch = 1;
    // Its own lengths are the longest ones then, for which other kernels and other tiles may be chosen.
    (other.base.seqlen_q, other.base.seqlen_k) = (queries.max(1), keys.max(1));
    other.packed_q = case.packed_q.as_ref().map(|_| Lengths::of(&[queries]));
    other.used_q = None;
    if let Keys::Packed(_) = case.keys {
        other.keys = Keys::Packed(Lengths::of(&[keys]));
    } else {
        other.used_k = Some(Lengths::of(&[keys]));
    }
    if let Keys::Packed(_) = other.keys {
        other.used_k = None;
    }
    if other.base.layout == Layout::Packed {
        other.base.layout = Layout::Bshd;
    }
    let inputs = ServeInputs {
        sequences: vec![inputs.sequences[b].clone()],
        slopes: inputs.slopes(case, b).to_vec(),
        sinks: inputs.sinks.clone(),
        factors: [0, 1, 2].map(|which| inputs.factors(case, which, b).to_vec()),
    };
    Other { case: other, inputs, same: vec![Same { here: b, there: 0, first: 0 }] }
}

fn dense(case: &ServeCase, inputs: &ServeInputs) -> Other {
    let mut other = ServeCase { keys: Keys::Dense, equals: None, ..case.clone() };
    if other.base.layout == Layout::Far {
        other.base.layout = Layout::Bshd;
    }
    let same = (0..case.base.batch).map(|b| Same { here: b, there: b, first: 0 }).collect();
    Other { case: other, inputs: inputs.clone(), same }
}

fn prefill(case: &ServeCase, inputs: &ServeInputs) -> Other {
    let keys: Vec<usize> = (0..case.base.batch).map(|b| case.keys(b)).collect();
    let rows = Lengths::of(&keys);
    let mut other = ServeCase { used_q: None, equals: None, ..case.clone() };
    other.base.seqlen_q = rows.longest().max(1);
    other.packed_q = Some(rows);
    if other.base.layout == Layout::Packed {
        other.base.layout = Layout::Bshd;
    }
    let first = |b: usize| case.keys(b) - case.queries(b);
    let mut inputs = inputs.clone();
    for (b, sequence) in inputs.sequences.iter_mut().enumerate() {
        sequence.q = with_queries_before(sequence, first(b), case);
    }
    let same = (0..case.base.batch).map(|b| Same { here: b, there: b, first: first(b) }).collect();
    Other { case: other, inputs, same }
}

/// The queries of a sequence with `count` others before them.
fn with_queries_before(inputs: &Inputs, count: usize, case: &ServeCase) -> Dense<f32> {
    let (q, precision) = (&inputs.q, case.base.precision);
    let more = input::normal(Dims { seq: count, ..q.dims }, case.base.seed, 4);
    let more = Dense { data: more.data.iter().map(|x| precision.round(*x)).collect(), ..more };
    let heads = (0..q.dims.heads).flat_map(|head| more.head(0, head).iter().chain(q.head(0, head)));
    Dense { dims: Dims { seq: count + q.dims.seq, ..q.dims }, data: heads.copied().collect() }
}

/// First element in which rows differ, of an output's bits; all NaN are alike. Positions are (row, head, column) of `here`.
pub fn difference<T: Copy + PartialEq>(
    here: &Dense<T>,
    there: &Dense<T>,
    first: usize,
    is_nan: impl Fn(T) -> bool,
) -> Option<(usize, usize, usize)> {
    let Dims { seq, heads, width, .. } = here.dims;
    let rows = (0..seq).flat_map(|row| iter::repeat_n(row, heads).zip(0..heads));
    rows.flat_map(|(row, head)| (0..width).map(move |column| (row, head, column))).find(|(row, head, column)| {
        let (a, b) = (here.row(0, *head, *row)[*column], there.row(0, *head, first + *row)[*column]);
        a != b && !(is_nan(a) && is_nan(b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Answer;

    /// The reference of both problems is the same wherever they say that they are.
    fn assert_holds(line: &str, count: usize) {
        let case: ServeCase = line.parse().expect(line);
        let inputs = ServeInputs::of(&case);
        let others = others(&case, &inputs);
        assert_eq!(others.len(), count, "{line}");
        let answers = |case: &ServeCase, inputs: &ServeInputs| -> Vec<Answer<f64>> {
            (0..case.base.batch).map(|b| inputs.attention(case, b).reference()).collect()
        };
        let here = answers(&case, &inputs);
        for other in others {
            let what = other.case.to_string();
            let checked = other.case.clone().checked();
            checked.unwrap_or_else(|error| panic!("{what}: {error}"));
            let there = answers(&other.case, &other.inputs);
            for (b, sequence) in other.inputs.sequences.iter().enumerate() {
                assert_eq!(
                    (sequence.q.dims.seq, sequence.k.dims.seq),
                    (other.case.queries(b), other.case.keys(b)),
                    "{what}"
                );
            }
            for Same { here: a, there: b, first } in other.same {
                for (a, b) in [(&here[a].o, &there[b].o), (&here[a].lse, &there[b].lse)] {
                    assert_eq!(difference(a, b, first, f64::is_nan), None, "{line}: {what}");
                }
            }
        }
    }

    #[test]
    fn what_is_said_to_be_equal_is() {
        let alone = "bf16 h=4 hk=2 d=16 dv=8 varlen=9,0,17,2,40 klens=9,4,20,0,50 window=8:2 alibi=head sinks lse";
        assert_holds(&format!("{alone} equals=alone"), 4);
        assert_holds(&format!("{alone} equals=alone poison=2 splits=3 alibi=sequence"), 4);
        assert_holds("bf16 b=3 h=1 hk=1 sq=5 sk=9 d=8 dv=8 usedq=5,0,2 usedk=9,9,3 causal equals=alone splits=2", 2);
        assert_holds("f16 h=4 hk=2 sq=2 d=16 dv=16 usedk=9,0,40 page=16:1 softcap=3 equals=alone layout=packedkv", 3);
        assert_holds("f16 h=4 hk=2 d=16 dv=16 varlen=4,7 klens=same equals=alone layout=packed", 2);
        assert_holds("f16 h=4 hk=2 sq=2 d=16 dv=8 usedk=9,0,40 page=16:1 equals=dense", 1);
        assert_holds("f16 h=4 hk=2 sq=2 d=16 dv=8 usedk=9,5,40 page=16:1 causal sinks alibi=head equals=prefill", 1);
        assert_holds("bf16 h=2 hk=2 d=16 dv=8 varlen=1,0,3 klens=30,20,3 window=5:0 equals=prefill", 1);
    }

    #[test]
    fn a_difference_is_found_where_it_is() {
        let dims = Dims { batch: 1, seq: 3, heads: 2, width: 4 };
        let a = Dense::from_fn(dims, |_, s, h, c| (s * 8 + h * 4 + c) as f32);
        let mut b = Dense::from_fn(Dims { seq: 5, ..dims }, |_, s, h, c| s as f32 * 8.0 - 16.0 + (h * 4 + c) as f32);
        assert_eq!(difference(&a, &b, 2, f32::is_nan), None);
        let at = b.row_start(0, 1, 4) + 3;
        b.data[at] = f32::NAN;
        assert_eq!(difference(&a, &b, 2, f32::is_nan), Some((2, 1, 3)));
        let mut c = a.clone();
        c.data[7] = f32::NAN;
        assert_eq!(difference(&c, &c, 0, f32::is_nan), None);
    }
}
