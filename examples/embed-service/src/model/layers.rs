//! The parts of an encoder that look at one token at a time.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, concatenate};

use super::ModelError;
use super::config::ModelConfig;
use super::weights::Weights;

/// `x W + b`.
pub struct Dense {
    /// Inputs by outputs, the other way round than in files: rows of the product's inner loop are contiguous.
    weight: Array2<f32>,
    bias: Array1<f32>,
}

impl Dense {
    /// The tensors `NAME.weight` and `NAME.bias`.
    pub fn load(weights: &Weights, name: &str, inputs: usize, outputs: usize) -> Result<Self, ModelError> {
        let weight = weights.matrix(&format!("{name}.weight"), [outputs, inputs])?;
        let bias = weights.vector(&format!("{name}.bias"), outputs)?;
        Ok(Dense { weight: weight.t().as_standard_layout().into_owned(), bias })
    }

    /// Several layers with the same inputs as one.
    pub fn joined(parts: &[Dense]) -> Self {
        let weights: Vec<_> = parts.iter().map(|part| part.weight.view()).collect();
        let biases: Vec<_> = parts.iter().map(|part| part.bias.view()).collect();
        let same = "the parts have the same inputs";
        Dense { weight: concatenate(Axis(1), &weights).expect(same), bias: concatenate(Axis(0), &biases).expect(same) }
    }

    /// The outputs of every row.
    pub fn apply(&self, x: &ArrayView2<f32>) -> Array2<f32> {
        let mut y = Array2::zeros((x.nrows(), self.bias.len()));
        self.apply_to(x, y.view_mut());
        y
    }

    /// The outputs of every row, into `y`.
    pub fn apply_to(&self, x: &ArrayView2<f32>, mut y: ArrayViewMut2<f32>) {
        y.assign(&self.bias);
        general_mat_mul(1.0, x, &self.weight, 1.0, &mut y);
    }
}

/// Rows moved and scaled to mean 0 and variance 1, then by learnt factors.
pub struct LayerNorm {
    weight: Array1<f32>,
    bias: Array1<f32>,
    eps: f32,
}

impl LayerNorm {
    /// The tensors `NAME.weight` and `NAME.bias`.
    pub fn load(weights: &Weights, name: &str, config: &ModelConfig) -> Result<Self, ModelError> {
        Ok(LayerNorm {
            weight: weights.vector(&format!("{name}.weight"), config.hidden_size)?,
            bias: weights.vector(&format!("{name}.bias"), config.hidden_size)?,
            eps: config.layer_norm_eps,
        })
    }

    /// Norms every row in place.
    pub fn apply(&self, x: &mut ArrayViewMut2<f32>) {
        let count = x.ncols() as f32;
        for mut row in x.rows_mut() {
            let mean = row.sum() / count;
            let variance = row.iter().map(|&x| (x - mean) * (x - mean)).sum::<f32>() / count;
            let factor = 1.0 / (variance + self.eps).sqrt();
            for ((x, weight), bias) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
                *x = (*x - mean) * factor * weight + bias;
            }
        }
    }
}

/// `x Φ(x)`, Φ being the normal distribution's.
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The error function: a quotient of polynomials fitted on [-3.92, 3.92], beyond which f32 knows only 1. No branch and no call, so that loops
/// over it become vector instructions.
fn erf(x: f32) -> f32 {
    let x = x.clamp(-3.92, 3.92);
    let x2 = x * x;
    let above = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    let below = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let horner = |coefficients: &[f32]| coefficients.iter().fold(0.0, |sum, c| sum * x2 + c);
    x * horner(&above) / horner(&below)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error function's power series, in f64.
    fn series(x: f64) -> f64 {
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn erf_is_within_four_ulps_of_one() {
        for i in -5000..=5000 {
            let x = i as f32 / 1000.0;
            let want = if x.abs() < 4.5 { series(f64::from(x)) } else { f64::from(x.signum()) };
            assert!((f64::from(erf(x)) - want).abs() < 5e-7, "erf({x}) = {} and not {want}", erf(x));
        }
    }

    #[test]
    fn gelu_of_large_values_is_the_value_or_zero() {
        assert_eq!(gelu(0.0), 0.0);
        assert!((gelu(20.0) - 20.0).abs() < 1e-5 && gelu(-20.0).abs() < 1e-5, "{} {}", gelu(20.0), gelu(-20.0));
    }

    #[test]
    fn layers_are_joined_side_by_side() {
        let dense = |x: f32| Dense { weight: ndarray::array![[x, 2.0 * x]], bias: ndarray::array![1.0, -x] };
        let x = ndarray::array![[3.0f32], [-1.0]];
        let joined = Dense::joined(&[dense(1.0), dense(10.0)]).apply(&x.view());
        assert_eq!(joined, ndarray::array![[4.0, 5.0, 31.0, 50.0], [0.0, -3.0, -9.0, -30.0]]);
    }
}
