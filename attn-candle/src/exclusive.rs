//! Memory of a tensor that is written in place.

use std::cell::Cell;

use candle_core::{CpuStorage, CudaStorage, InplaceOp1, Layout, Result, Tensor};

/// A tensor's memory while nobody else has it.
pub(crate) enum Memory<'a> {
    Cpu(&'a mut CpuStorage),
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is no GPU"))]
    Cuda(&'a mut CudaStorage),
}

/// Calls `run` once with the tensor's memory, which is locked meanwhile.
pub(crate) fn exclusive<F>(tensor: &Tensor, run: F) -> Result<()>
where
    F: FnOnce(Memory<'_>, &Layout) -> Result<()>,
{
    tensor.inplace_op1(&Once(Cell::new(Some(run))))
}

/// An op in place that is a closure.
struct Once<F>(Cell<Option<F>>);

impl<F: FnOnce(Memory<'_>, &Layout) -> Result<()>> Once<F> {
    fn call(&self, memory: Memory<'_>, layout: &Layout) -> Result<()> {
        // candle calls an op once.
        self.0.take().map_or(Ok(()), |run| run(memory, layout))
    }
}

impl<F: FnOnce(Memory<'_>, &Layout) -> Result<()>> InplaceOp1 for Once<F> {
    fn name(&self) -> &'static str {
        "attn-append"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.call(Memory::Cpu(storage), layout)
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        self.call(Memory::Cuda(storage), layout)
    }
}
