//! What a problem costs at least.

use attn_host::{Arrays, Float8, Shape};

use crate::card::Card;
use crate::problem::Spec;

/// Work and traffic of a problem, by its sequences' own lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Floating-point operations of the two matrix products, for the pairs that the mask leaves.
    pub flops: f64,
    /// Bytes of Q, K, V and O, each moved once.
    pub bytes: f64,
}

impl Figures {
    /// Of a problem whose arrays have been checked.
    pub fn of(spec: &Spec, arrays: &Arrays) -> Self {
        let Shape { heads, kv_heads, head_dim, head_dim_v, .. } = spec.shape;
        let (d, dv) = (head_dim as f64, head_dim_v as f64);
        let (q_bytes, k_bytes) = spec.element_bytes();
        let (mut pairs, mut queries, mut keys) = (0.0, 0.0, 0.0);
        for sequence in spec.sequences(arrays) {
            pairs += spec.mask.visible_pairs(sequence.queries as u64, sequence.keys as u64) as f64;
            queries += sequence.queries as f64;
            keys += sequence.keys as f64;
        }
        let rows = queries * heads as f64 * (d * q_bytes as f64 + dv * 2.0);
        Figures {
            flops: 2.0 * heads as f64 * (d + dv) * pairs,
            bytes: rows + keys * kv_heads as f64 * (d + dv) * k_bytes as f64,
        }
    }

    /// Microseconds that a card takes at least: the longer of multiplying at its peak and moving the bytes, and which of both.
    pub fn floor(&self, spec: &Spec, card: Card) -> (f64, &'static str) {
        let compute = self.flops / (card.tflops * peak_factor(spec)) * 1e-6;
        let memory = self.bytes / card.gbytes * 1e-3;
        if compute >= memory { (compute, "matrix products") } else { (memory, "memory") }
    }
}

/// How many times as many products as of 16 bits the tensor cores do.
pub fn peak_factor(spec: &Spec) -> f64 {
    if spec.float8 == Float8::All { 2.0 } else { 1.0 }
}

/// A number with a unit's prefix, three digits of it.
pub fn scaled(value: f64, unit: &str) -> String {
    const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let step = (value.abs().max(1.0).log10() / 3.0 + 1e-12).floor().min(PREFIXES.len() as f64 - 1.0);
    let value = value / 1000f64.powf(step);
    let digits = if step == 0.0 || value >= 100.0 { 0 } else { 2 };
    format!("{value:.digits$} {}{unit}", PREFIXES[step as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn_host::Mask;
    use attn_tests::precision::Precision;

    #[test]
    fn dense_figures_are_the_launch_sides() {
        let shape = Shape { batch: 2, seqlen_q: 50, seqlen_k: 70, heads: 4, kv_heads: 2, head_dim: 64, head_dim_v: 32 };
        let spec = Spec { mask: Mask::Causal, ..Spec::dense(Precision::F16, shape) };
        let figures = Figures::of(&spec, &Arrays::default());
        assert_eq!(figures.flops, spec.problem(&Arrays::default()).flops());
        assert_eq!(figures.bytes, 2.0 * (2.0 * 50.0 * 4.0 * 96.0 + 2.0 * 70.0 * 2.0 * 96.0));
    }

    #[test]
    fn the_floor_is_the_longer_of_both() {
        let card = Card { tflops: 1.0, gbytes: 1.0 };
        let shape = Shape { batch: 1, seqlen_q: 1, seqlen_k: 1, heads: 1, kv_heads: 1, head_dim: 8, head_dim_v: 8 };
        let spec = Spec::dense(Precision::Bf16, shape);
        let floor = |flops, bytes| Figures { flops, bytes }.floor(&spec, card);
        assert_eq!(floor(3e6, 1e3), (3.0, "matrix products"));
        assert_eq!(floor(3e6, 5e3), (5.0, "memory"));
    }

    #[test]
    fn numbers_have_prefixes() {
        assert_eq!(scaled(12.0, "B"), "12 B");
        assert_eq!(scaled(1234.0, "B"), "1.23 kB");
        assert_eq!(scaled(274_877_906_944.0, "FLOP"), "275 GFLOP");
    }
}
