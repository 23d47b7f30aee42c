//! Launches on cust's buffers and streams, with everything checked that types and lengths can say.

use bytemuck::TransparentWrapper;
use cust::memory::{DeviceCopy, DeviceSlice};

use crate::error::Error;
use crate::launch::Stream;
use crate::plan::Plan;
use crate::problem::DType;
use crate::tensors::Tensors;
use crate::typed::{Element, Extent, Extents, sealed::Sealed};

/// A [`half::bf16`] in cust's memory, whose `DeviceCopy` knows the types of an older `half` only.
///
/// `wrap_slice` and `peel_slice` of [`TransparentWrapper`] turn slices of `half`'s type into this and back without a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(transparent)]
pub struct Bf16(pub half::bf16);

/// A [`half::f16`] in cust's memory, whose `DeviceCopy` knows the types of an older `half` only.
///
/// `wrap_slice` and `peel_slice` of [`TransparentWrapper`] turn slices of `half`'s type into this and back without a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(transparent)]
pub struct F16(pub half::f16);

// SAFETY: 16 bits without pointers.
unsafe impl DeviceCopy for Bf16 {}
// SAFETY: 16 bits without pointers.
unsafe impl DeviceCopy for F16 {}
// SAFETY: `repr(transparent)` over the wrapped type.
unsafe impl TransparentWrapper<half::bf16> for Bf16 {}
// SAFETY: `repr(transparent)` over the wrapped type.
unsafe impl TransparentWrapper<half::f16> for F16 {}

impl Sealed for Bf16 {}
impl Sealed for F16 {}

impl Element for Bf16 {
    const DTYPE: Option<DType> = Some(DType::Bf16);
}

impl Element for F16 {
    const DTYPE: Option<DType> = Some(DType::F16);
}

/// The tensors of a launch as cust's slices; each starts with its tensor's first element.
#[derive(Debug)]
pub struct Buffers<'a, T: Element + DeviceCopy> {
    /// Q, read.
    pub q: &'a DeviceSlice<T>,
    /// K, read.
    pub k: &'a DeviceSlice<T>,
    /// V, read.
    pub v: &'a DeviceSlice<T>,
    /// O, written.
    pub o: &'a mut DeviceSlice<T>,
    /// LSE, written; not computed when absent.
    pub lse: Option<&'a mut DeviceSlice<f32>>,
}

impl<T: Element + DeviceCopy> Buffers<'_, T> {
    fn tensors(&self, plan: &Plan) -> Result<Tensors, Error> {
        let lse = self.lse.as_deref().map(extent);
        Extents { q: extent(self.q), k: extent(self.k), v: extent(self.v), o: extent(self.o), lse }.tensors::<T>(plan)
    }
}

fn extent<T: DeviceCopy>(slice: &DeviceSlice<T>) -> Extent {
    Extent { address: slice.as_device_ptr().as_raw(), elements: slice.len() as u64 }
}

impl Plan {
    /// Runs the plan on the stream and waits for it, and for what was queued there before.
    ///
    /// # Errors
    /// [`Error::ElementType`] and [`Error::BufferTooSmall`] for buffers that are not what was planned; otherwise the errors of
    /// [`launch`](Self::launch), [`check_context`](Self::check_context) and [`check_devices`](Self::check_devices), or
    /// [`Error::Cuda`] when the kernel or earlier work on the stream failed.
    pub fn run<T: Element + DeviceCopy>(
        &self,
        buffers: Buffers<'_, T>,
        stream: &cust::stream::Stream,
    ) -> Result<(), Error> {
        let tensors = buffers.tensors(self)?;
        self.check_context()?;
        self.check_devices(&tensors)?;
        // SAFETY: the borrows last until the stream has passed the kernel (below), the outputs are borrowed alone, lengths,
        // devices and the context have been checked. A stream of another context is an error of the driver.
        unsafe { self.launch(&tensors, Stream(stream.as_inner().cast())) }?;
        stream.synchronize().or_else(|error| self.driver.check("cuStreamSynchronize", error as i32))
    }

    /// Queues the plan on the stream and returns: [`launch`](Self::launch) with element types and lengths checked. May be
    /// captured into a graph.
    ///
    /// # Errors
    /// As [`run`](Self::run), without those of the running kernel.
    ///
    /// # Safety
    /// Until the stream has passed the kernel, and in every replay of a graph that captured it:
    /// 1. the buffers are not freed;
    /// 2. nothing writes Q, K and V, and nothing else touches O and LSE;
    /// 3. the plan's context has not been destroyed.
    pub unsafe fn launch_on<T: Element + DeviceCopy>(
        &self,
        buffers: &mut Buffers<'_, T>,
        stream: &cust::stream::Stream,
    ) -> Result<(), Error> {
        let tensors = buffers.tensors(self)?;
        // SAFETY: lengths are checked, the rest is the caller's promise.
        unsafe { self.launch(&tensors, Stream(stream.as_inner().cast())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DevicePtr, Problem, Shape, fake, select};
    use cust::memory::DevicePointer;

    #[test]
    fn slices_give_their_addresses_and_lengths() {
        fake::reset();
        let shape = Shape { batch: 1, seqlen_q: 10, seqlen_k: 20, heads: 2, kv_heads: 1, head_dim: 64, head_dim_v: 64 };
        let problem = Problem::new(DType::Bf16, shape);
        let plan = Plan::with_loader(&fake::device(), &problem, fake::code, select::choose).expect("valid");
        // SAFETY: only the address and the length are ever used.
        let slice = |address, n| unsafe { DeviceSlice::<Bf16>::from_raw_parts(DevicePointer::from_raw(address), n) };
        let (q, k, v, mut o) = (slice(0x100, 1280), slice(0x200, 1280), slice(0x300, 1280), slice(0x400, 1280));
        let tensors = Buffers { q: &q, k: &k, v: &v, o: &mut o, lse: None }.tensors(&plan).expect("valid");
        assert_eq!([tensors.q, tensors.k, tensors.v, tensors.o], [0x100, 0x200, 0x300, 0x400].map(DevicePtr));
        assert_eq!(tensors.lse, None);
        o = slice(0x400, 1279);
        let found = Buffers { q: &q, k: &k, v: &v, o: &mut o, lse: None }.tensors(&plan);
        assert_eq!(found, Err(Error::BufferTooSmall { argument: "o", elements: 1279, needed: 1280 }));
    }

    #[test]
    fn wrapped_slices_are_the_same_memory() {
        let values = [half::bf16::from_f32(1.5), half::bf16::from_f32(-2.0)];
        let wrapped = Bf16::wrap_slice(&values);
        assert_eq!(wrapped, [Bf16(values[0]), Bf16(values[1])]);
        assert_eq!(wrapped.as_ptr().cast(), values.as_ptr());
    }
}
