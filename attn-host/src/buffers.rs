//! Launches on cust's buffers and streams, with everything checked that types and lengths can say.

use bytemuck::TransparentWrapper;
use cust::memory::{DeviceCopy, DeviceSlice};

use crate::error::Error;
use crate::launch::{DevicePtr, Stream, Tensors};
use crate::plan::Plan;
use crate::problem::dtype_name;
use crate::{DType, Spans};

/// A [`half::bf16`] in device memory. (cust's `DeviceCopy` knows the types of an older `half` only.)
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(transparent)]
pub struct Bf16(pub half::bf16);

/// A [`half::f16`] in device memory. (cust's `DeviceCopy` knows the types of an older `half` only.)
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

mod sealed {
    pub trait Sealed {}
    impl Sealed for u16 {}
    impl Sealed for super::Bf16 {}
    impl Sealed for super::F16 {}
}

/// Element types that a kernel reads and writes. `u16` stands for the bits of either.
///
/// `Bf16::wrap_slice` and `Bf16::peel_slice` of [`TransparentWrapper`] turn slices of `half`'s types into these and back
/// without a copy.
pub trait Element: DeviceCopy + sealed::Sealed {
    /// The one element type that this is, `None` when it may be any.
    const DTYPE: Option<DType>;
}

impl Element for u16 {
    const DTYPE: Option<DType> = None;
}

impl Element for Bf16 {
    const DTYPE: Option<DType> = Some(DType::Bf16);
}

impl Element for F16 {
    const DTYPE: Option<DType> = Some(DType::F16);
}

/// The tensors of a launch as cust's slices; each starts with its tensor's first element.
#[derive(Debug)]
pub struct Buffers<'a, T: Element> {
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

impl<T: Element> Buffers<'_, T> {
    /// The addresses, after a look at element types and lengths.
    fn tensors(&self, plan: &Plan) -> Result<Tensors, Error> {
        let dtype = plan.problem().dtype();
        if let Some(found) = T::DTYPE.filter(|&found| found != dtype) {
            let (found, allowed) = (dtype_name(found), dtype_name(dtype));
            return Err(Error::ElementType { argument: "q, k, v and o", found, allowed });
        }
        let Spans { q, k, v, o, lse } = plan.spans();
        Ok(Tensors {
            q: reaching("q", self.q, q)?,
            k: reaching("k", self.k, k)?,
            v: reaching("v", self.v, v)?,
            o: reaching("o", self.o, o)?,
            lse: self.lse.as_deref().map(|slice| reaching("lse", slice, lse)).transpose()?,
            workspace: None,
        })
    }
}

/// The address of a slice that has as many elements as its tensor reaches.
fn reaching<T: DeviceCopy>(argument: &'static str, slice: &DeviceSlice<T>, needed: u64) -> Result<DevicePtr, Error> {
    let elements = slice.len() as u64;
    if elements < needed {
        return Err(Error::BufferTooSmall { argument, elements, needed });
    }
    Ok(DevicePtr(slice.as_device_ptr().as_raw()))
}

impl Plan {
    /// Runs the plan on the stream and waits for it, and for what was queued there before.
    ///
    /// # Errors
    /// [`Error::ElementType`] and [`Error::BufferTooSmall`] for buffers that are not what was planned; otherwise the errors of
    /// [`launch`](Self::launch) and [`check_devices`](Self::check_devices), or [`Error::Cuda`] when the kernel or earlier work
    /// on the stream failed.
    pub fn run<T: Element>(&self, buffers: Buffers<'_, T>, stream: &cust::stream::Stream) -> Result<(), Error> {
        let tensors = buffers.tensors(self)?;
        self.check_devices(&tensors)?;
        // SAFETY: the borrows last until the stream has passed the kernel (below), the outputs are borrowed alone, lengths
        // and devices have been checked. A stream of another context is an error of the driver.
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
    pub unsafe fn launch_on<T: Element>(
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
    use crate::{Problem, Shape, fake, select};
    use cust::memory::DevicePointer;

    const SHAPE: Shape =
        Shape { batch: 1, seqlen_q: 10, seqlen_k: 20, heads: 2, kv_heads: 1, head_dim: 64, head_dim_v: 64 };
    /// Elements of Q, K, V, O and LSE.
    const EXACT: [usize; 5] = [1280, 1280, 1280, 1280, 20];

    fn slice<T: DeviceCopy>(address: u64, elements: usize) -> DeviceSlice<T> {
        // SAFETY: only the address and the length are ever used.
        unsafe { DeviceSlice::from_raw_parts(DevicePointer::from_raw(address), elements) }
    }

    fn tensors<T: Element>(lengths: [usize; 5]) -> Result<Tensors, Error> {
        fake::reset();
        let problem = Problem::new(DType::Bf16, SHAPE);
        let plan = Plan::with_loader(&fake::device(), &problem, fake::code, select::choose).expect("valid");
        let [q, k, v, o, lse] = lengths;
        let (q, k, v) = (slice::<T>(0x10000, q), slice(0x20000, k), slice(0x30000, v));
        let (mut o, mut lse) = (slice(0x40000, o), slice(0x50000, lse));
        Buffers { q: &q, k: &k, v: &v, o: &mut o, lse: Some(&mut lse) }.tensors(&plan)
    }

    #[test]
    fn buffers_of_the_exact_length_pass_with_their_addresses() {
        for found in [tensors::<u16>(EXACT), tensors::<Bf16>(EXACT)] {
            let found = found.expect("valid");
            assert_eq!([found.q, found.k, found.v, found.o].map(|p| p.0), [0x10000, 0x20000, 0x30000, 0x40000]);
            assert_eq!(found.lse, Some(DevicePtr(0x50000)));
        }
    }

    #[test]
    fn a_buffer_that_is_one_element_short_is_named() {
        for (i, argument) in ["q", "k", "v", "o", "lse"].into_iter().enumerate() {
            let mut lengths = EXACT;
            lengths[i] -= 1;
            let (elements, needed) = (lengths[i] as u64, EXACT[i] as u64);
            assert_eq!(tensors::<u16>(lengths), Err(Error::BufferTooSmall { argument, elements, needed }));
        }
    }

    #[test]
    fn the_other_element_type_is_refused() {
        let found = tensors::<F16>(EXACT);
        assert!(matches!(found, Err(Error::ElementType { found: "f16", allowed: "bf16", .. })), "{found:?}");
    }
}
