//! Some rows of an answer that is too large to check whole.

use std::ops::Range;

use rayon::prelude::*;

use crate::case::Case;
use crate::compare::{self, Mismatch, Report};
use crate::dense::{Dense, Dims};
use crate::layout::{Placement, View};
use crate::oracle::{Answer, Attention, Window};

/// Rows of a sampled block.
const ROWS: usize = 32;

/// The inputs and outputs of a case as the buffers that its [`Placement`] describes.
#[derive(Clone, Copy, Debug)]
pub struct Buffers<'a> {
    /// Q, K and V, each the buffer that its view indexes.
    pub qkv: [&'a [u16]; 3],
    /// O.
    pub o: &'a [u16],
    /// LSE, when it was asked for.
    pub lse: Option<&'a [u32]>,
}

/// What is known of some rows: blocks of 32, spread evenly over batch, heads and queries, the first and the last among them.
pub struct Sample {
    blocks: Vec<Block>,
}

/// One block's rows: where they are, what is right and what a naive program gives.
struct Block {
    head: (usize, usize),
    rows: Range<usize>,
    reference: (Vec<f64>, Vec<f64>),
    lowp: (Vec<f32>, Vec<f32>),
}

/// Checks `blocks` blocks of rows of one answer.
pub fn check(case: &Case, place: &Placement, buffers: &Buffers<'_>, blocks: usize) -> Result<Report, Mismatch> {
    Sample::of(case, place, buffers.qkv, blocks).check(case, place, buffers.o, buffers.lse)
}

impl Sample {
    /// Computes what is right in `blocks` blocks of rows, for any number of answers to the same inputs.
    pub fn of(case: &Case, place: &Placement, qkv: [&[u16]; 3], blocks: usize) -> Sample {
        let per_head = case.seqlen_q.div_ceil(ROWS);
        let total = case.batch * case.heads * per_head;
        let blocks = blocks.clamp(1, total);
        let chosen: Vec<usize> =
            (0..blocks).map(|i| if i + 1 == blocks { total - 1 } else { i * total / blocks }).collect();
        let block = |i| {
            let (head, first) = (i / per_head, i % per_head * ROWS);
            Block::of(case, place, qkv, (head / case.heads, head % case.heads), first)
        };
        Sample { blocks: chosen.into_par_iter().map(block).collect() }
    }

    /// Compares an answer, in the buffers that `place` describes. LSE when it was asked for.
    pub fn check(&self, case: &Case, place: &Placement, o: &[u16], lse: Option<&[u32]>) -> Result<Report, Mismatch> {
        let rows: Vec<(usize, usize, usize)> =
            self.blocks.iter().flat_map(|b| b.rows.clone().map(|query| (b.head.0, b.head.1, query))).collect();
        let dims = |width| Dims { batch: 1, seq: rows.len(), heads: 1, width };
        let (wide, narrow) = (dims(case.head_dim_v), dims(1));
        let got_o = self.flat(wide, |b| b.view(&place.o.0).gather(o, |bits| case.precision.from_bits(bits)).data);
        let got_lse = lse.map(|lse| self.flat(narrow, |b| b.view(&place.lse.0).gather(lse, f32::from_bits).data));
        let reference =
            Answer { o: self.flat(wide, |b| b.reference.0.clone()), lse: self.flat(narrow, |b| b.reference.1.clone()) };
        let lowp = Answer { o: self.flat(wide, |b| b.lowp.0.clone()), lse: self.flat(narrow, |b| b.lowp.1.clone()) };
        compare::check(&got_o, got_lse.as_ref(), &reference, &lowp, case.precision).map_err(|mismatch| {
            mismatch.moved(|(_, row, _, column)| {
                let (batch, head, query) = rows[row];
                (batch, query, head, column)
            })
        })
    }

    /// The parts of an output's buffer that [`check`](Self::check) reads.
    pub fn spans(&self, whole: &View) -> Vec<Range<usize>> {
        let span = |block: &Block| {
            let view = block.view(whole);
            let last = view.index((0, view.dims.seq - 1, 0, view.dims.width - 1));
            view.index((0, 0, 0, 0))..last + 1
        };
        self.blocks.iter().map(span).collect()
    }

    /// A part of every block, one below another.
    fn flat<T>(&self, dims: Dims, part: impl Fn(&Block) -> Vec<T>) -> Dense<T> {
        Dense { dims, data: self.blocks.iter().flat_map(part).collect() }
    }
}

impl Block {
    fn of(case: &Case, place: &Placement, qkv: [&[u16]; 3], (batch, head): (usize, usize), first: usize) -> Block {
        let kv_head = head / (case.heads / case.kv_heads);
        let widen = |bits| case.precision.from_bits(bits);
        let of = |i: usize, head| one_head(&place.qkv[i].1, batch, head).gather(qkv[i], widen);
        let (q, k, v) = (of(0, head), of(1, kv_head), of(2, kv_head));
        let attention = Attention::new(&q, &k, &v, case.scale()).window(Window::causal(case.causal));
        let rows = first..case.seqlen_q.min(first + ROWS);
        Block {
            head: (batch, head),
            reference: attention.reference_rows(0, 0, rows.clone()),
            lowp: attention.lowp_rows(0, 0, rows.clone(), case.precision),
            rows,
        }
    }

    /// The block's rows of an output.
    fn view(&self, whole: &View) -> View {
        let (batch, head) = self.head;
        let head = one_head(whole, batch, head);
        View {
            offset: head.offset + self.rows.start * head.seq,
            dims: Dims { seq: self.rows.len(), ..head.dims },
            ..head
        }
    }
}

fn one_head(view: &View, batch: usize, head: usize) -> View {
    let offset = view.offset + batch * view.batch + head * view.head;
    View { offset, dims: Dims { batch: 1, heads: 1, ..view.dims }, ..*view }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Inputs;

    #[test]
    fn sampled_rows_are_those_of_the_whole() {
        let case: Case = "bf16 b=2 h=4 hk=2 sq=70 sk=90 d=16 dv=24 causal lse layout=padded".parse().expect("valid");
        let (inputs, place) = (Inputs::of(&case), case.layout.place(&case));
        let answer = inputs.attention(&case).reference();
        let mut arenas: Vec<Vec<u16>> = place.inputs.iter().map(|a| vec![0; a.host_len()]).collect();
        for ((arena, view), tensor) in place.qkv.iter().zip([&inputs.q, &inputs.k, &inputs.v]) {
            view.scatter(tensor, case.precision, &mut arenas[*arena]);
        }
        let narrow = |t: &Dense<f64>| Dense { dims: t.dims, data: t.data.iter().map(|x| *x as f32).collect() };
        let mut o = vec![0; place.o.1.host_len()];
        place.o.0.scatter(&narrow(&answer.o), case.precision, &mut o);
        let mut lse = vec![0; place.lse.1.host_len()];
        place.lse.0.scatter_bits(&narrow(&answer.lse), f32::to_bits, &mut lse);
        let qkv = place.qkv.map(|(arena, _)| arenas[arena].as_slice());
        let run = |o: &[u16], blocks| check(&case, &place, &Buffers { qkv, o, lse: Some(&lse) }, blocks);
        for blocks in [1, 5, 24, 1000] {
            run(&o, blocks).expect("the reference's own answer passes");
        }
        // Nothing but the spans is read.
        let sample = Sample::of(&case, &place, qkv, 5);
        let part = |spans: Vec<Range<usize>>, i: &usize| spans.iter().any(|span| span.contains(i));
        let only_o: Vec<u16> =
            (0..o.len()).map(|i| if part(sample.spans(&place.o.0), &i) { o[i] } else { 0x7FC0 }).collect();
        let only_lse: Vec<u32> =
            (0..lse.len()).map(|i| if part(sample.spans(&place.lse.0), &i) { lse[i] } else { !0 }).collect();
        assert!(only_o != o && only_lse != lse);
        sample.check(&case, &place, &only_o, Some(&only_lse)).expect("the sampled rows are there");
        // The last row of the last head is always among the sampled ones.
        let last = place.o.0.index((1, 69, 3, 7));
        o[last] = case.precision.to_bits(100.0);
        match run(&o, 2) {
            Err(Mismatch::Size { at: (1, 69, 3, 7), count: 1, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
