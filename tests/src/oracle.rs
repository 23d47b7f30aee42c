//! Softmax attention on the CPU, written from its definition: nothing here comes from the kernels, masks included.
//!
//! [`Attention::reference`] computes in f64 from the same rounded inputs as the kernel. [`Attention::lowp`] is what a
//! straightforward 16-bit program gives: scores, each step of what is done to them and probabilities rounded to the format, sums in
//! f32. How far the second is from the first says how much error a case's numbers invite.

use std::ops::Range;

use num_traits::{Float, NumAssign};
use rayon::prelude::*;

use crate::dense::{Dense, Dims};
use crate::precision::{Precision, float8};

mod rules;

pub use rules::{Modifiers, Window};

/// An attention problem with its inputs. Heads of K and V divide those of Q; Q and K have equal width.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Queries.
    pub q: &'a Dense<f32>,
    /// Keys.
    pub k: &'a Dense<f32>,
    /// Values.
    pub v: &'a Dense<f32>,
    /// Factor on the scores.
    pub scale: f32,
    /// The keys that each query sees.
    pub window: Window,
    /// What is done to the scaled scores.
    pub modifiers: Modifiers<'a>,
}

/// Output and log-sum-exp.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// (batch, seq, heads, head_dim).
    pub o: Dense<T>,
    /// Natural logarithm of the sum of the exponentials of the scaled scores; width 1. `-inf` for a row without keys.
    pub lse: Dense<T>,
}

/// Rows that one task computes: enough to pay for its transposed copy of K.
const ROWS: usize = 64;

impl<'a> Attention<'a> {
    /// Every query sees every key, and scores are only scaled.
    pub fn new(q: &'a Dense<f32>, k: &'a Dense<f32>, v: &'a Dense<f32>, scale: f32) -> Self {
        Attention { q, k, v, scale, window: Window::default(), modifiers: Modifiers::default() }
    }

    /// The same with another window.
    pub fn window(self, window: Window) -> Self {
        Attention { window, ..self }
    }

    /// The same with other scores.
    pub fn modifiers(self, modifiers: Modifiers<'a>) -> Self {
        Attention { modifiers, ..self }
    }

    /// The answer in f64.
    pub fn reference(&self) -> Answer<f64> {
        self.all_rows(|batch, head, rows| self.reference_rows(batch, head, rows))
    }

    /// The answer of a naive program in `precision`.
    pub fn lowp(&self, precision: Precision) -> Answer<f32> {
        self.all_rows(|batch, head, rows| self.lowp_rows(batch, head, rows, precision))
    }

    /// The same where the program multiplies probabilities as 8-bit floats, those of each row times what makes the greatest one 2^8.
    pub fn lowp_float8(&self, precision: Precision) -> Answer<f32> {
        self.all_rows(|batch, head, rows| self.lowp_float8_rows(batch, head, rows, precision))
    }

    /// Some rows of one head in f64: outputs row after row, and their LSE.
    pub fn reference_rows(&self, batch: usize, head: usize, rows: Range<usize>) -> (Vec<f64>, Vec<f64>) {
        self.rows(batch, head, rows, |x| x, |_| {})
    }

    /// Some rows of one head in `precision`.
    pub fn lowp_rows(
        &self,
        batch: usize,
        head: usize,
        rows: Range<usize>,
        precision: Precision,
    ) -> (Vec<f32>, Vec<f32>) {
        let round_p = |p: &mut [f32]| p.iter_mut().for_each(|p| *p = precision.round(*p));
        self.rows(batch, head, rows, |x| precision.round(x), round_p)
    }

    /// Some rows of one head in `precision`, where probabilities are multiplied as 8-bit floats.
    pub fn lowp_float8_rows(
        &self,
        batch: usize,
        head: usize,
        rows: Range<usize>,
        precision: Precision,
    ) -> (Vec<f32>, Vec<f32>) {
        let round_p = |p: &mut [f32]| {
            let unit = p.iter().copied().fold(0.0, f32::max) / 256.0;
            p.iter_mut().for_each(|p| *p = if unit > 0.0 { float8::round(*p / unit) * unit } else { *p });
        };
        self.rows(batch, head, rows, |x| precision.round(x), round_p)
    }

    /// For each column of V, the largest magnitude of `p_j v_j` in the row's weighted sum, in f64.
    pub fn largest_terms(&self, batch: usize, head: usize, i: usize) -> Vec<f64> {
        let kv_head = self.kv_head(head);
        let keys = self.keys(i);
        let kt = transposed::<f64>(self.k.head(batch, kv_head), self.k.dims.width);
        let mut p = vec![0.0; keys.len()];
        self.scores(batch, head, i, &kt, &mut p, |x| x);
        softmax(&mut p, self.sink(head));
        let mut largest = vec![0.0; self.v.dims.width];
        for (p, v) in p.iter().zip(self.v.head(batch, kv_head).chunks_exact(self.v.dims.width).skip(keys.start)) {
            largest.iter_mut().zip(v).for_each(|(l, v): (&mut f64, _)| *l = l.max((p * f64::from(*v)).abs()));
        }
        largest
    }

    fn kv_head(&self, head: usize) -> usize {
        head / (self.q.dims.heads / self.k.dims.heads)
    }

    /// Keys that query `i` sees.
    fn keys(&self, i: usize) -> Range<usize> {
        self.window.keys(i, self.q.dims.seq, self.k.dims.seq)
    }

    fn sink<F: From<f32>>(&self, head: usize) -> Option<F> {
        self.modifiers.sinks.map(|sinks| sinks[head].into())
    }

    fn all_rows<T>(&self, rows: impl Fn(usize, usize, Range<usize>) -> (Vec<T>, Vec<T>) + Sync) -> Answer<T>
    where
        T: Copy + Send + Sync,
    {
        let Dims { batch, seq, heads, .. } = self.q.dims;
        let blocks = seq.div_ceil(ROWS);
        let tasks: Vec<(Vec<T>, Vec<T>)> = (0..batch * heads * blocks)
            .into_par_iter()
            .map(|task| {
                let (bh, first) = (task / blocks, task % blocks * ROWS);
                rows(bh / heads, bh % heads, first..seq.min(first + ROWS))
            })
            .collect();
        // Tasks are in the order (batch, head, rows), which is the memory order of a dense tensor.
        let dims = Dims { batch, seq, heads, width: self.v.dims.width };
        let o = Dense { dims, data: tasks.iter().flat_map(|t| t.0.iter().copied()).collect() };
        let lse =
            Dense { dims: Dims { width: 1, ..dims }, data: tasks.iter().flat_map(|t| t.1.iter().copied()).collect() };
        Answer { o, lse }
    }

    /// The one algorithm behind all answers; `round` is what the program keeps of each value that it writes down, `round_p` of a row's
    /// probabilities.
    fn rows<F: Float + NumAssign + From<f32>>(
        &self,
        batch: usize,
        head: usize,
        rows: Range<usize>,
        round: impl Fn(F) -> F,
        round_p: impl Fn(&mut [F]),
    ) -> (Vec<F>, Vec<F>) {
        let (kv_head, width) = (self.kv_head(head), self.v.dims.width);
        let kt = transposed::<F>(self.k.head(batch, kv_head), self.k.dims.width);
        let v: Vec<F> = self.v.head(batch, kv_head).iter().map(|x| (*x).into()).collect();
        let mut scores = vec![F::zero(); self.k.dims.seq];
        let (mut o, mut lse) = (vec![F::zero(); rows.len() * width], Vec::with_capacity(rows.len()));
        for (i, o) in rows.zip(o.chunks_exact_mut(width)) {
            let keys = self.keys(i);
            let p = &mut scores[keys.clone()];
            self.scores(batch, head, i, &kt, p, &round);
            lse.push(softmax(p, self.sink(head)));
            round_p(p);
            for (p, v) in p.iter().zip(v.chunks_exact(width).skip(keys.start)) {
                o.iter_mut().zip(v).for_each(|(o, v)| *o += *p * *v);
            }
            o.iter_mut().for_each(|o| *o = round(*o));
        }
        (o, lse)
    }

    /// The scores of query `i` with the keys that it sees, of which `kt` is the transpose.
    fn scores<F: Float + NumAssign + From<f32>>(
        &self,
        batch: usize,
        head: usize,
        i: usize,
        kt: &[F],
        scores: &mut [F],
        round: impl Fn(F) -> F,
    ) {
        let (queries, keys, seen) = (self.q.dims.seq, self.k.dims.seq, self.keys(i));
        if seen.is_empty() {
            return;
        }
        let scale: F = self.scale.into();
        dot_products(self.q.row(batch, head, i), kt, (keys, seen.start), scores);
        scores.iter_mut().for_each(|s| *s = round(round(*s) * scale));
        self.modifiers.apply(head, (i, queries, keys), seen, scores, round);
    }
}

/// `rows x width` to `width x rows`.
fn transposed<F: Float + From<f32>>(rows: &[f32], width: usize) -> Vec<F> {
    let n = rows.len() / width;
    let mut out = vec![F::zero(); rows.len()];
    for (j, row) in rows.chunks_exact(width).enumerate() {
        row.iter().enumerate().for_each(|(c, x)| out[c * n + j] = (*x).into());
    }
    out
}

/// `out[j] = q . k[first + j]`, where `kt` is K transposed with `n` columns, so that the inner loop runs along memory.
fn dot_products<F: Float + NumAssign + From<f32>>(q: &[f32], kt: &[F], (n, first): (usize, usize), out: &mut [F]) {
    out.fill(F::zero());
    for (q, k) in q.chunks(4).zip(kt.chunks(4 * n)) {
        if let [a, b, c, d] = *q {
            let (a, b, c, d): (F, F, F, F) = (a.into(), b.into(), c.into(), d.into());
            let [ka, kb, kc, kd] = [0, 1, 2, 3].map(|c| &k[c * n + first..(c + 1) * n]);
            for ((((o, ka), kb), kc), kd) in out.iter_mut().zip(ka).zip(kb).zip(kc).zip(kd) {
                *o += a * *ka + b * *kb + c * *kc + d * *kd;
            }
        } else {
            for (q, k) in q.iter().zip(k.chunks(n)) {
                let q: F = (*q).into();
                out.iter_mut().zip(&k[first..]).for_each(|(o, k)| *o += q * *k);
            }
        }
    }
}

/// Scores to probabilities in place; returns their log-sum-exp, with the sink's part in it. Where no score is above `-inf`, that is
/// `-inf` and the probabilities are zeros.
fn softmax<F: Float + NumAssign>(scores: &mut [F], sink: Option<F>) -> F {
    let max = scores.iter().copied().chain(sink).fold(F::neg_infinity(), F::max);
    if max == F::neg_infinity() && !scores.iter().any(|s| s.is_nan()) {
        scores.fill(F::zero());
        return max;
    }
    let mut sum = sink.map_or(F::zero(), |sink| (sink - max).exp());
    for s in scores.iter_mut() {
        *s = (*s - max).exp();
        sum += *s;
    }
    scores.iter_mut().for_each(|p| *p /= sum);
    max + sum.ln()
}

#[cfg(test)]
mod tests;
