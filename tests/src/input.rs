//! What Q, K and V hold. Values are rounded to the case's format, so that kernel and reference read the same numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::case::Case;
use crate::dense::{Dense, Dims};
use crate::layout::Layout;
use crate::names::named;
use crate::oracle::{Attention, Window};
use crate::sample::Sample;

named! {
    /// Kinds of input.
    Input {
        /// Standard normal.
        Normal = "normal",
        /// Normal with deviation 4 (Q, K) and 10 (V): few keys carry a row, maxima differ a lot between tiles.
        Large = "large",
        /// All ones: every probability equal, the output exactly 1.
        Constant = "constant",
        /// Query `i` matches the keys `j = i (mod head_dim)` alone.
        OneHot = "onehot",
        /// A third of the keys, the first ones among them, score `-inf`; every key of batch 0, head 0 does.
        MinusInfinity = "neginf",
        /// Every score far below zero: a padding key counted as score 0 would outweigh all real ones.
        Negative = "negative",
        /// Scores climb by 60 along the keys: the running maximum grows in every tile.
        Rising = "rising",
        /// Scores fall by 60 along the keys.
        Falling = "falling",
        /// Scores climb by about 5 powers of two per 128 keys: below a lazy rescale's threshold in one tile, above in two.
        Creeping = "creeping",
        /// Scores fall by about 20 powers of two per 128 keys: a kernel that walks from the last key to the first leaves a reference behind
        /// that still serves in one tile, and in two no longer.
        Sinking = "sinking",
        /// The second key scores 150 above all others: what a kernel has computed before it counts for nothing, and its exponential
        /// against any earlier reference overflows.
        Spike = "spike",
        /// Batch 0, head 0 has a NaN in one key, at the start of the last 128: every query that sees it gets NaN, no other does.
        NotANumber = "nan",
        /// The first key of batch 0, head 0 scores `+inf`, a value that no softmax survives: every query that sees it gets NaN, no
        /// other does.
        Infinity = "inf",
        /// The real sample, repeated to the case's sizes.
        MiniLm = "minilm",
    }
}

/// The input tensors of a case.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Queries.
    pub q: Dense<f32>,
    /// Keys.
    pub k: Dense<f32>,
    /// Values.
    pub v: Dense<f32>,
}

impl Inputs {
    /// The inputs that a case names; the same case gives the same numbers everywhere.
    pub fn of(case: &Case) -> Self {
        let [q, k, v] = dims(case);
        let mut inputs = match case.input {
            Input::MiniLm => Self::minilm(q, k, v),
            kind => Self { q: normal(q, case.seed, 0), k: normal(k, case.seed, 1), v: normal(v, case.seed, 2) }
                .shaped(case, kind),
        };
        for t in [&mut inputs.q, &mut inputs.k, &mut inputs.v] {
            t.data.iter_mut().for_each(|x| *x = case.precision.round(*x));
        }
        if case.layout == Layout::Broadcast {
            for t in [&mut inputs.k, &mut inputs.v] {
                let one = t.data.len() / case.batch;
                t.data = t.data[..one].repeat(case.batch);
            }
        }
        inputs
    }

    /// The problem that these inputs belong to.
    pub fn attention(&self, case: &Case) -> Attention<'_> {
        Attention::new(&self.q, &self.k, &self.v, case.scale()).window(Window::causal(case.causal))
    }

    fn minilm(q: Dims, k: Dims, v: Dims) -> Self {
        let sample = Sample::minilm();
        let repeat = |from: &Dense<f32>, dims| {
            let Dims { seq, heads, width, .. } = from.dims;
            Dense::from_fn(dims, |b, s, h, c| from.row(0, (h + b) % heads, s % seq)[c % width])
        };
        Inputs { q: repeat(&sample.q, q), k: repeat(&sample.k, k), v: repeat(&sample.v, v) }
    }

    /// Random normal tensors turned into `kind`.
    fn shaped(mut self, case: &Case, kind: Input) -> Self {
        let score = case.head_dim as f32 * case.scale();
        let last = case.seqlen_k.max(2) as f32 - 1.0;
        match kind {
            Input::Normal | Input::MiniLm => {}
            Input::Large => {
                [&mut self.q, &mut self.k].into_iter().for_each(|t| t.data.iter_mut().for_each(|x| *x *= 4.0));
                self.v.data.iter_mut().for_each(|x| *x *= 10.0);
            }
            Input::Constant => [&mut self.q, &mut self.k, &mut self.v].into_iter().for_each(|t| t.data.fill(1.0)),
            Input::OneHot => {
                // A match scores 30 in natural-log units, everything else 0.
                let high = (30.0 / case.scale()).sqrt();
                for t in [&mut self.q, &mut self.k] {
                    *t = Dense::from_fn(t.dims, |_, s, _, c| if c == s % case.head_dim { high } else { 0.0 });
                }
            }
            Input::MinusInfinity => {
                self.q.data.chunks_exact_mut(case.head_dim).for_each(|row| row[0] = 1.0);
                let dead = |b, s, h| (b, h) == (0, 0) || s < case.seqlen_k / 4 || (s * 7 + h) % 11 == 3;
                let k = &self.k;
                self.k =
                    Dense::from_fn(
                        k.dims,
                        |b, s, h, c| {
                            if c == 0 && dead(b, s, h) { f32::NEG_INFINITY } else { k.row(b, h, s)[c] }
                        },
                    );
            }
            Input::Infinity => {
                self.q.data.chunks_exact_mut(case.head_dim).for_each(|row| row[0] = 1.0);
                self.k.data[0] = f32::INFINITY;
            }
            Input::NotANumber => {
                let poisoned = (0, (case.seqlen_k - 1) / 128 * 128, 0, 0);
                let k = &self.k;
                self.k = Dense::from_fn(
                    k.dims,
                    |b, s, h, c| {
                        if (b, s, h, c) == poisoned { f32::NAN } else { k.row(b, h, s)[c] }
                    },
                );
            }
            Input::Negative => {
                self.q.data.iter_mut().for_each(|x| *x = x.abs() + 2.0);
                self.k.data.iter_mut().for_each(|x| *x = -x.abs() - 2.0);
            }
            Input::Rising => self.slope(|j| 60.0 * j as f32 / last / score),
            Input::Falling => self.slope(|j| 60.0 * (1.0 - j as f32 / last) / score),
            Input::Sinking => self.slope(|j| 20.0 * std::f32::consts::LN_2 * (last - j as f32) / 128.0 / score),
            Input::Spike => self.slope(|j| if j == 1 { 150.0 / score } else { 0.0 }),
            Input::Creeping => self.slope(|j| 5.0 * std::f32::consts::LN_2 * j as f32 / 128.0 / score),
        }
        self
    }

    /// Queries near one, keys near `height(j)` in every column.
    fn slope(&mut self, height: impl Fn(usize) -> f32) {
        self.q.data.iter_mut().for_each(|x| *x = 1.0 + 0.1 * *x);
        let k = &self.k;
        self.k = Dense::from_fn(k.dims, |b, s, h, c| height(s) + 0.1 * k.row(b, h, s)[c]);
    }
}

/// Sizes of Q, K and V.
pub fn dims(case: &Case) -> [Dims; 3] {
    let q = Dims { batch: case.batch, seq: case.seqlen_q, heads: case.heads, width: case.head_dim };
    let k = Dims { seq: case.seqlen_k, heads: case.kv_heads, ..q };
    [q, k, Dims { width: case.head_dim_v, ..k }]
}

/// Standard normal values; `stream` tells the tensors of one seed apart.
pub fn normal(dims: Dims, seed: u64, stream: u64) -> Dense<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    Dense { dims, data: StandardNormal.sample_iter(&mut rng).take(dims.len()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::Precision;

    fn inputs(line: &str) -> (Case, Inputs) {
        let case: Case = line.parse().expect(line);
        (case, Inputs::of(&case))
    }

    #[test]
    fn every_kind_gives_finite_references_in_both_formats_or_minus_infinity() {
        for precision in Precision::ALL {
            for input in Input::ALL {
                let (case, inputs) = inputs(&format!("{precision} h=2 hk=2 sq=40 sk=60 d=64 causal input={input}"));
                let attention = inputs.attention(&case);
                let answer = attention.reference();
                if matches!(input, Input::NotANumber | Input::Infinity) {
                    let [poisoned, other] = [0, 1].map(|h| answer.lse.head(0, h).iter().filter(|x| x.is_nan()).count());
                    assert_eq!(
                        (poisoned, other),
                        (40, 0),
                        "{case}: the first key is seen by all rows of its head alone"
                    );
                    continue;
                }
                assert!(answer.o.data.iter().all(|x| x.is_finite()), "{case}");
                assert!(answer.lse.data.iter().all(|x| *x < f64::INFINITY), "{case}");
                assert!(attention.lowp(precision).o.data.iter().all(|x| x.is_finite()), "{case}");
            }
        }
    }

    #[test]
    fn kinds_do_what_they_say() {
        let lse = |line: &str| {
            let (case, inputs) = inputs(line);
            inputs.attention(&case).reference()
        };
        let dead = lse("bf16 b=2 h=2 hk=2 sq=3 sk=50 d=16 input=neginf");
        assert!(dead.lse.head(0, 0).iter().all(|x| *x == f64::NEG_INFINITY));
        assert!(dead.lse.head(1, 0).iter().all(|x| x.is_finite()));
        assert!(lse("f16 sq=5 sk=90 d=128 input=negative").lse.data.iter().all(|x| *x < -40.0));
        assert!(lse("f16 sq=5 sk=90 d=128 input=constant").o.data.iter().all(|x| (*x - 1.0).abs() < 1e-12));
        let onehot = lse("bf16 sq=16 sk=16 d=16 input=onehot");
        let (_, inputs) = inputs("bf16 sq=16 sk=16 d=16 input=onehot");
        for (o, v) in onehot.o.data.iter().zip(&inputs.v.data) {
            assert!((o - f64::from(*v)).abs() < 1e-6, "query i returns value i");
        }
    }

    #[test]
    fn rising_scores_climb_by_sixty() {
        let (case, inputs) = inputs("f16 sq=1 sk=1000 d=64 input=rising");
        let score = |j: usize| -> f32 {
            let products = inputs.q.row(0, 0, 0).iter().zip(inputs.k.row(0, 0, j)).map(|(q, k)| q * k);
            products.sum::<f32>() * case.scale()
        };
        let climb = score(999) - score(0);
        assert!((50.0..70.0).contains(&climb), "{climb}");
    }

    #[test]
    fn seeds_and_streams_differ() {
        let (_, a) = inputs("bf16 sq=4 sk=4 seed=1");
        let (_, b) = inputs("bf16 sq=4 sk=4 seed=2");
        assert_ne!(a.q, b.q);
        assert_ne!(a.q.data, a.k.data);
        let (_, shared) = inputs("bf16 b=2 sq=4 sk=4 layout=broadcast");
        assert_eq!(shared.k.head(0, 0), shared.k.head(1, 0));
    }
}
