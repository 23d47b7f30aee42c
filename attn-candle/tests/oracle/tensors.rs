//! Tensors of numbers that a seed determines.

use candle_core::{DType, Device, Result, Tensor};

/// Numbers between -2 and 2 that a seed determines.
pub fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

/// A tensor of values of a type.
pub fn tensor(values: Vec<f32>, shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// The elements of a tensor, in order. By way of f32, which holds them all: candle's own conversion of F8E4M3 to f64 does not end.
pub fn elements(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.flatten_all()?.to_dtype(DType::F32)?.to_dtype(DType::F64)?.to_vec1()
}
