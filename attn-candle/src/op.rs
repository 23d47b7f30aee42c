//! The custom op.

use attn_host::Arrays;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use crate::attention::Attention;
use crate::cpu;
use crate::geometry::Geometry;

/// Attention on tensors that have been found to go together.
pub(crate) struct Attend {
    pub(crate) attention: Attention,
    pub(crate) geometry: Geometry,
    /// Everything beside Q, K and V, contiguous.
    pub(crate) arrays: Arrays<Tensor, Tensor>,
}

impl Attend {
    pub(crate) fn new(attention: &Attention, geometry: Geometry) -> Result<Self> {
        let sums = |lengths: &Option<crate::Lengths>| lengths.as_ref().map(|lengths| lengths.on_device().clone());
        let arrays = Arrays {
            cu_seqlens_q: sums(&attention.packed_q),
            cu_seqlens_k: sums(&attention.packed_k),
            ..attention.arrays.clone()
        };
        Ok(Attend { attention: attention.clone(), geometry, arrays: arrays.try_each(|array| array.contiguous())? })
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
        q: &candle_core::CudaStorage,
        q_layout: &Layout,
        k: &candle_core::CudaStorage,
        k_layout: &Layout,
        v: &candle_core::CudaStorage,
        v_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let o = crate::cuda::forward(self, (q, q_layout), (k, k_layout), (v, v_layout))?;
        Ok((o, Shape::from(self.geometry.output.clone())))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        bail!("attn computes the forward pass only; detach() its inputs where no gradient is needed")
    }
}
