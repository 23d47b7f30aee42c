//! A problem with its tensors.

use attn_host::Arrays;
use attn_tests::precision::{Precision, float8};

use crate::problem::Spec;

/// What is to be computed, on what.
#[derive(Clone, Debug)]
pub struct Job {
    /// The problem.
    pub spec: Spec,
    /// Its arrays.
    pub arrays: Arrays,
    /// Q, K and V.
    pub qkv: [Tensor; 3],
}

/// Elements of a tensor in memory order: a block of bits, again and again, as often as it has elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Elements.
    pub len: usize,
    /// What repeats.
    pub block: Bits,
}

/// Elements as bits.
#[derive(Clone, Debug, PartialEq)]
pub enum Bits {
    /// Of 16 bits.
    Wide(Precision, Vec<u16>),
    /// Of 8 bits.
    Narrow(Vec<u8>),
}

impl Tensor {
    /// A tensor that does not repeat.
    pub fn whole(block: Bits) -> Self {
        Tensor { len: block.len(), block }
    }

    /// The value of an element.
    pub fn value(&self, index: usize) -> f32 {
        match &self.block {
            Bits::Wide(precision, bits) => precision.from_bits(bits[index % bits.len()]),
            Bits::Narrow(bits) => float8::from_bits(bits[index % bits.len()]),
        }
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.len * self.block.element()
    }
}

impl Bits {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Bits::Wide(_, bits) => bits.len(),
            Bits::Narrow(bits) => bits.len(),
        }
    }

    /// Bytes of an element.
    pub fn element(&self) -> usize {
        match self {
            Bits::Wide(..) => 2,
            Bits::Narrow(_) => 1,
        }
    }

    /// The bytes as they lie in memory.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Bits::Wide(_, bits) => attn_host::bytemuck::cast_slice(bits),
            Bits::Narrow(bits) => bits,
        }
    }
}

impl Job {
    /// A tensor's elements, rows times heads times head dimension: Q, K, V, then O.
    pub fn elements(spec: &Spec) -> [usize; 4] {
        let (queries, keys) = spec.rows();
        let shape = spec.shape;
        let count = |rows: u64, heads: u64, dim: u64| {
            usize::try_from(rows.saturating_mul(heads).saturating_mul(dim)).unwrap_or(usize::MAX)
        };
        [
            count(queries, shape.heads, shape.head_dim),
            count(keys, shape.kv_heads, shape.head_dim),
            count(keys, shape.kv_heads, shape.head_dim_v),
            count(queries, shape.heads, shape.head_dim_v),
        ]
    }

    /// Where LSE of a query is: a row of all sequences, and its head.
    pub fn lse_index(&self, row: usize, head: usize) -> usize {
        let heads = self.spec.shape.heads as usize;
        match self.spec.packed_q {
            Some(total) => head * total as usize + row,
            None => {
                let rows = self.spec.shape.seqlen_q as usize;
                (row / rows * heads + head) * rows + row % rows
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn_host::Shape;

    #[test]
    fn blocks_repeat() {
        let bits = [1.0, 2.0, -3.0].map(|x| Precision::F16.to_bits(x)).to_vec();
        let tensor = Tensor { len: 7, block: Bits::Wide(Precision::F16, bits) };
        assert_eq!((tensor.value(2), tensor.value(4), tensor.bytes()), (-3.0, 2.0, 14));
        let narrow = Tensor::whole(Bits::Narrow(vec![float8::to_bits(1.5)]));
        assert_eq!((narrow.value(0), narrow.bytes()), (1.5, 1));
    }

    #[test]
    fn lse_lies_by_head_of_a_sequence_or_of_all() {
        let shape = Shape { batch: 2, seqlen_q: 5, seqlen_k: 5, heads: 3, kv_heads: 3, head_dim: 8, head_dim_v: 8 };
        let tensor = Tensor::whole(Bits::Narrow(vec![0]));
        let qkv = [tensor.clone(), tensor.clone(), tensor];
        let dense = Job { spec: Spec::dense(Precision::F16, shape), arrays: Arrays::default(), qkv };
        assert_eq!(dense.lse_index(7, 1), (3 + 1) * 5 + 2);
        let packed = Job { spec: Spec { packed_q: Some(9), ..dense.spec.clone() }, ..dense };
        assert_eq!(packed.lse_index(7, 1), 9 + 7);
    }
}
