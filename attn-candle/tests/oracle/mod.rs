//! Attention in f64 from its definition, one query and key at a time; it shares nothing with the crate.

use candle_core::{DType, Tensor};

pub use tensors::{elements, tensor, values};

mod tensors;

/// What is computed besides the sizes.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    pub scale: f64,
    pub left: Option<usize>,
    pub right: Option<usize>,
    pub softcap: Option<f64>,
    /// Of each query head.
    pub slopes: Option<Vec<f64>>,
    pub sinks: Option<Vec<f64>>,
}

/// Heads and their dimensions.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub dim_v: usize,
}

/// O of one sequence: Q is `[queries][heads][dim]`, K and V `[keys][kv_heads][dim]`.
pub fn attend(q: &[f64], k: &[f64], v: &[f64], sizes: Heads, scores: &Scores) -> Vec<f64> {
    attend_with_lse(q, k, v, sizes, scores).0
}

/// The same, and LSE as `[queries][heads]`.
pub fn attend_with_lse(q: &[f64], k: &[f64], v: &[f64], sizes: Heads, scores: &Scores) -> (Vec<f64>, Vec<f64>) {
    let Heads { heads, kv_heads, dim, dim_v } = sizes;
    let (queries, keys) = (q.len() / (heads * dim), k.len() / (kv_heads * dim));
    let (mut o, mut lse) = (vec![0.0; queries * heads * dim_v], Vec::new());
    for i in 0..queries {
        for h in 0..heads {
            let kv = h / (heads / kv_heads);
            let mut weights = Vec::new();
            for j in 0..keys {
                // Distance of the key from the query's position: the last query stands at the last key.
                let ahead = j as i64 - (i as i64 + keys as i64 - queries as i64);
                let early = scores.left.is_some_and(|left| -ahead > left as i64);
                let late = scores.right.is_some_and(|right| ahead > right as i64);
                if early || late {
                    continue;
                }
                let product: f64 =
                    (0..dim).map(|c| q[(i * heads + h) * dim + c] * k[(j * kv_heads + kv) * dim + c]).sum();
                let mut score = scores.scale * product;
                if let Some(cap) = scores.softcap {
                    score = cap * (score / cap).tanh();
                }
                if let Some(slopes) = &scores.slopes {
                    score -= slopes[h] * ahead.abs() as f64;
                }
                weights.push((j, score.exp()));
            }
            let sink = scores.sinks.as_ref().map_or(0.0, |sinks| sinks[h].exp());
            let sum: f64 = weights.iter().map(|(_, w)| w).sum::<f64>() + sink;
            lse.push(sum.ln());
            for (j, weight) in weights {
                for c in 0..dim_v {
                    o[(i * heads + h) * dim_v + c] += weight / sum * v[(j * kv_heads + kv) * dim_v + c];
                }
            }
        }
    }
    (o, lse)
}

/// Panics where a result is further from what is expected than computing in f32 and rounding to its type explain.
pub fn assert_close(found: &Tensor, expected: &[f64]) {
    let unit = match found.dtype() {
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 0.0,
    };
    let elements = elements(found).expect("on the CPU");
    assert_eq!(elements.len(), expected.len());
    for (i, (found, expected)) in elements.iter().zip(expected).enumerate() {
        let allowed = 2e-5 + unit * expected.abs();
        assert!((found - expected).abs() <= allowed, "element {i} is {found}, expected {expected} within {allowed}");
    }
}
