//! Tensors of a safetensors file, f32 or f16, as f32 matrices.

use half::f16;
use ndarray::{Array1, Array2};
use safetensors::{Dtype, SafeTensors};

use super::ModelError;

/// The tensors of a model.
pub struct Weights<'a>(pub SafeTensors<'a>);

impl Weights<'_> {
    /// A matrix of this shape.
    pub fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Array2<f32>, ModelError> {
        let values = self.values(name, &shape)?;
        Array2::from_shape_vec(shape, values).map_err(|error| wrong(name, error.to_string()))
    }

    /// A vector of this length.
    pub fn vector(&self, name: &str, length: usize) -> Result<Array1<f32>, ModelError> {
        Ok(Array1::from_vec(self.values(name, &[length])?))
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let tensor = self.0.tensor(name).map_err(|error| wrong(name, error.to_string()))?;
        if tensor.shape() != shape {
            return Err(wrong(name, format!("has shape {:?}, the configuration asks for {shape:?}", tensor.shape())));
        }
        match tensor.dtype() {
            Dtype::F32 => Ok(tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()),
            Dtype::F16 => {
                Ok(tensor.data().as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect())
            }
            other => Err(wrong(name, format!("is of type {other:?}; f32 and f16 are read"))),
        }
    }
}

fn wrong(name: &str, reason: String) -> ModelError {
    ModelError::Tensor { name: name.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    #[test]
    fn halves_and_singles_are_read_and_other_shapes_refused() {
        let singles: Vec<u8> = [1.5f32, -2.0].into_iter().flat_map(f32::to_le_bytes).collect();
        let halves: Vec<u8> = [0.5f32, 3.0].into_iter().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect();
        let view = |dtype, data| TensorView::new(dtype, vec![1, 2], data).unwrap();
        let tensors = [
            ("a", view(Dtype::F32, &singles)),
            ("b", view(Dtype::F16, &halves)),
            ("c", TensorView::new(Dtype::I32, vec![2], &singles).unwrap()),
        ];
        let file = safetensors::serialize(tensors, None).unwrap();
        let weights = Weights(SafeTensors::deserialize(&file).unwrap());
        assert_eq!(weights.matrix("a", [1, 2]).unwrap(), ndarray::array![[1.5, -2.0]]);
        assert_eq!(weights.matrix("b", [1, 2]).unwrap(), ndarray::array![[0.5, 3.0]]);
        let refused = |result: Result<Array2<f32>, ModelError>| result.unwrap_err().to_string();
        assert_eq!(
            refused(weights.matrix("a", [2, 1])),
            "tensor a: has shape [1, 2], the configuration asks for [2, 1]"
        );
        assert!(refused(weights.matrix("d", [1, 2])).contains("tensor d"));
        assert!(weights.vector("c", 2).unwrap_err().to_string().contains("I32"));
    }
}
