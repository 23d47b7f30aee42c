//! Attention by the CPU, a head of a sentence at a time.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::{Attention, AttentionError, Packed};

/// Attention in f32 on rayon's threads.
#[derive(Clone, Copy, Debug)]
pub struct CpuAttention {
    head_dim: usize,
}

impl CpuAttention {
    /// For heads of `head_dim` elements.
    pub fn new(head_dim: usize) -> Self {
        CpuAttention { head_dim }
    }
}

impl Attention for CpuAttention {
    fn attend(&self, packed: &Packed, qkv: ArrayView2<f32>, context: ArrayViewMut2<f32>) -> Result<(), AttentionError> {
        let (d, hidden) = (self.head_dim, context.ncols());
        let mut sentences = split_rows(context, packed);
        let tasks: Vec<_> = packed
            .spans()
            .zip(&mut sentences)
            .flat_map(|(rows, sentence)| {
                let heads = sentence.axis_chunks_iter_mut(Axis(1), d).enumerate();
                heads.map(move |(head, out)| (rows.clone(), head, out))
            })
            .collect();
        tasks.into_par_iter().for_each(|(rows, head, out)| {
            let of =
                |part: usize| qkv.slice(s![rows.clone(), part * hidden + head * d..part * hidden + (head + 1) * d]);
            attend_head(of(0), of(1), of(2), out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        "cpu".to_owned()
    }
}

/// The rows of each sentence.
fn split_rows<'a>(all: ArrayViewMut2<'a, f32>, packed: &Packed) -> Vec<ArrayViewMut2<'a, f32>> {
    let mut rest = all;
    let mut parts = Vec::with_capacity(packed.sentences());
    for rows in packed.spans() {
        let (part, after) = rest.split_at(Axis(0), rows.len());
        parts.push(part);
        rest = after;
    }
    parts
}

/// One head of one sentence.
fn attend_head(q: ArrayView2<f32>, k: ArrayView2<f32>, v: ArrayView2<f32>, mut out: ArrayViewMut2<f32>) {
    let scale = 1.0 / (q.ncols() as f32).sqrt();
    let mut scores = Array2::zeros((q.nrows(), k.nrows()));
    general_mat_mul(scale, &q, &k.t(), 0.0, &mut scores);
    let mut sums = Vec::with_capacity(scores.nrows());
    for mut row in scores.rows_mut() {
        let max = row.iter().fold(f32::NEG_INFINITY, |max, &score| max.max(score));
        row.mapv_inplace(|score| (score - max).exp());
        sums.push(row.sum());
    }
    general_mat_mul(1.0, &scores, &v, 0.0, &mut out);
    for (mut row, sum) in out.rows_mut().into_iter().zip(sums) {
        row.mapv_inplace(|x| x / sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    #[test]
    fn each_sentence_sees_itself_alone() {
        let (heads, d) = (2, 4);
        let packed = Packed::of([3, 1, 5]);
        let qkv = Array2::from_shape_fn((9, 3 * heads * d), |(i, j)| ((i * 31 + j * 17) % 23) as f32 / 7.0 - 1.5);
        let mut context = Array2::from_elem((9, heads * d), f32::NAN);
        CpuAttention::new(d).attend(&packed, qkv.view(), context.view_mut()).unwrap();
        for rows in packed.spans() {
            for (i, c) in rows.clone().flat_map(|i| (0..heads * d).map(move |c| (i, c))) {
                let head = c / d;
                let at = |row: usize, part: usize, x: usize| f64::from(qkv[(row, part * heads * d + head * d + x)]);
                let weights: Vec<f64> = rows
                    .clone()
                    .map(|j| ((0..d).map(|x| at(i, 0, x) * at(j, 1, x)).sum::<f64>() / (d as f64).sqrt()).exp())
                    .collect();
                let sum: f64 = weights.iter().sum();
                let want = rows.clone().zip(&weights).map(|(j, w)| w * at(j, 2, c % d)).sum::<f64>() / sum;
                assert!((f64::from(context[(i, c)]) - want).abs() < 1e-5, "({i}, {c})");
            }
        }
    }

    #[test]
    fn a_sentence_has_the_same_bits_alone_and_among_others() {
        let (d, lengths) = (32, [2usize, 70, 1, 33]);
        let packed = Packed::of(lengths);
        let qkv = Array2::from_shape_fn((106, 3 * 2 * d), |(i, j)| ((i * 37 + j * 11) % 101) as f32 / 50.0 - 1.0);
        let mut together = Array2::zeros((106, 2 * d));
        let attention = CpuAttention::new(d);
        attention.attend(&packed, qkv.view(), together.view_mut()).unwrap();
        for rows in packed.spans() {
            let mut alone = Array2::zeros((rows.len(), 2 * d));
            attention.attend(&Packed::of([rows.len()]), qkv.slice(s![rows.clone(), ..]), alone.view_mut()).unwrap();
            assert_eq!(alone, together.slice(s![rows, ..]));
        }
    }
}
