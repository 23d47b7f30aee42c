//! Random tensors of any size.

use attn_host::{Arrays, Float8};
use attn_tests::dense::Dims;
use attn_tests::input::normal;
use attn_tests::precision::{Precision, float8};

use crate::job::{Bits, Job, Tensor};
use crate::problem::Spec;

/// Elements that are drawn; larger tensors repeat them. A prime number, so that neighbouring rows and sequences never hold the same.
const DRAWN: usize = 4_194_301;

/// A job on standard normal values.
pub fn random(spec: Spec, arrays: Arrays) -> Job {
    let [q, k, v, _] = Job::elements(&spec);
    let (narrow_q, narrow_k) = (spec.float8 == Float8::All, spec.float8 != Float8::None);
    let parts = [(q, narrow_q), (k, narrow_k), (v, narrow_k)];
    let mut stream = 0;
    let qkv = parts.map(|(len, narrow)| {
        stream += 1;
        Tensor { len, block: block(spec.dtype, len.min(DRAWN), narrow, stream) }
    });
    Job { spec, arrays, qkv }
}

fn block(precision: Precision, len: usize, narrow: bool, stream: u64) -> Bits {
    let values = normal(Dims { batch: 1, seq: 1, heads: 1, width: len }, 0, stream).data;
    if !narrow {
        return Bits::Wide(precision, values.into_iter().map(|x| precision.to_bits(x)).collect());
    }
    // Sixteen bits are few enough to look up, and 8 bits make nothing of the rest.
    let table: Vec<u8> = (0..=u16::MAX).map(|bits| float8::to_bits(Precision::F16.from_bits(bits))).collect();
    Bits::Narrow(values.into_iter().map(|x| table[usize::from(Precision::F16.to_bits(x))]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn_host::Shape;

    #[test]
    fn large_tensors_repeat_normal_values() {
        let shape =
            Shape { batch: 1, seqlen_q: 50, seqlen_k: 9000, heads: 8, kv_heads: 8, head_dim: 64, head_dim_v: 64 };
        let spec = Spec { float8: Float8::Keys, ..Spec::dense(Precision::Bf16, shape) };
        let job = random(spec, Arrays::default());
        let [q, k, _] = &job.qkv;
        assert_eq!((q.len, k.len, k.block.len(), k.bytes()), (25_600, 4_608_000, DRAWN, 4_608_000));
        let mean = (0..q.len).map(|i| f64::from(q.value(i))).sum::<f64>() / q.len as f64;
        let square = (0..q.len).map(|i| f64::from(q.value(i)).powi(2)).sum::<f64>() / q.len as f64;
        assert!(mean.abs() < 0.05 && (square - 1.0).abs() < 0.05, "{mean} {square}");
        assert_eq!(k.value(DRAWN), k.value(0));
    }
}
