//! The custom ops: attention, and one that hands on its LSE.

use std::sync::{Arc, Mutex, PoisonError};

use attn_host::Arrays;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

use crate::attention::Attention;
use crate::cpu;
use crate::geometry::Geometry;

/// Attention on tensors that have been found to go together.
pub(crate) struct Attend {
    pub(crate) attention: Attention,
    pub(crate) geometry: Geometry,
    /// Everything beside Q, K and V, contiguous.
    pub(crate) arrays: Arrays<Tensor, Tensor>,
    /// Where the LSE is left, if it is wanted.
    pub(crate) lse: Option<Handover>,
}

/// The LSE on its way from one op to the next: candle's ops have one result.
#[derive(Clone, Default)]
pub(crate) struct Handover(Arc<Mutex<Option<Storage>>>);

impl Handover {
    pub(crate) fn leave(&self, lse: Storage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(lse);
    }

    fn take(&self) -> Option<Storage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What [`Attend`] has left, as the result of an op on the same tensors: a gradient that is asked of it is refused and not lost.
pub(crate) struct LogSumExp {
    pub(crate) shape: Vec<usize>,
    pub(crate) from: Handover,
}

impl Attend {
    pub(crate) fn new(attention: &Attention, geometry: Geometry, lse: Option<Handover>) -> Result<Self> {
        let sums = |lengths: &Option<crate::Lengths>| lengths.as_ref().map(|lengths| lengths.on_device().clone());
        let arrays = Arrays {
            cu_seqlens_q: sums(&attention.packed_q),
            cu_seqlens_k: sums(&attention.packed_k),
            ..attention.arrays.clone()
        };
        let arrays = arrays.try_each(|array| array.contiguous())?;
        Ok(Attend { attention: attention.clone(), geometry, arrays, lse })
    }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attn"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let o = cpu::forward(self, (q, q_layout), (k, k_layout), (v, v_layout))?;
        Ok((o, Shape::from(self.geometry.output.clone())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        q_layout: &Layout,
        k: &CudaStorage,
        k_layout: &Layout,
        v: &CudaStorage,
        v_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let o = crate::cuda::forward(self, (q, q_layout), (k, k_layout), (v, v_layout))?;
        Ok((o, Shape::from(self.geometry.output.clone())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Gradients> {
        bail!("{FORWARD_ONLY}")
    }
}

impl CustomOp3 for LogSumExp {
    fn name(&self) -> &'static str {
        "attn-lse"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match self.from.take() {
            Some(Storage::Cpu(lse)) => Ok((lse, Shape::from(self.shape.clone()))),
            _ => bail!("{NOT_LEFT}"),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        match self.from.take() {
            Some(Storage::Cuda(lse)) => Ok((lse, Shape::from(self.shape.clone()))),
            _ => bail!("{NOT_LEFT}"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Gradients> {
        bail!("{FORWARD_ONLY}")
    }
}

/// Of each of three tensors.
type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

const FORWARD_ONLY: &str = "attn computes the forward pass only; detach() its inputs where no gradient is needed";
const NOT_LEFT: &str = "the LSE has been taken already: each computation of attention leaves one";
