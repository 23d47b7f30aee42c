//! Launches on cust's buffers and streams, with everything checked that types and lengths can say.

use std::marker::PhantomData;

use bytemuck::TransparentWrapper;
use cust::memory::{DeviceBuffer, DeviceCopy, DeviceSlice};

use crate::append::{AppendPlan, AppendTensors};
use crate::driver::Driver;
use crate::error::Error;
use crate::launch::Stream;
use crate::plan::Plan;
use crate::tensors::Tensors;
use crate::typed::element::Sealed;
use crate::typed::{Element, Extent, Kind};

#[cfg(test)]
mod tests;

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

impl Sealed for Bf16 {
    const KIND: Kind = Kind::Bf16;
}

impl Sealed for F16 {
    const KIND: Kind = Kind::F16;
}

impl Element for Bf16 {}
impl Element for F16 {}

/// What cust lets a launch read: made by `into` from references to slices and buffers.
#[derive(Clone, Copy, Debug)]
pub struct CustSlice<'a> {
    extent: Extent,
    borrowed: PhantomData<&'a ()>,
}

/// What cust lets a launch write: made by `into` from mutable references to slices and buffers.
#[derive(Debug)]
pub struct CustSliceMut<'a> {
    extent: Extent,
    borrowed: PhantomData<&'a mut ()>,
}

/// The tensors of a launch in cust's memory; each buffer starts with its tensor's first element.
pub type CustTensors<'a> = Tensors<CustSlice<'a>, CustSliceMut<'a>>;

/// The tensors of a launch that appends in cust's memory; each buffer starts with its tensor's first element.
pub type CustAppendTensors<'a> = AppendTensors<CustSlice<'a>, CustSliceMut<'a>>;

fn extent<T: Element + DeviceCopy>(slice: &DeviceSlice<T>) -> Extent {
    Extent { address: slice.as_device_ptr().as_raw(), elements: slice.len() as u64, kind: T::KIND }
}

impl<'a, T: Element + DeviceCopy> From<&'a DeviceSlice<T>> for CustSlice<'a> {
    fn from(slice: &'a DeviceSlice<T>) -> Self {
        CustSlice { extent: extent(slice), borrowed: PhantomData }
    }
}

impl<'a, T: Element + DeviceCopy> From<&'a DeviceBuffer<T>> for CustSlice<'a> {
    fn from(buffer: &'a DeviceBuffer<T>) -> Self {
        CustSlice { extent: extent(buffer), borrowed: PhantomData }
    }
}

impl<'a, T: Element + DeviceCopy> From<&'a mut DeviceSlice<T>> for CustSliceMut<'a> {
    fn from(slice: &'a mut DeviceSlice<T>) -> Self {
        CustSliceMut { extent: extent(slice), borrowed: PhantomData }
    }
}

impl<'a, T: Element + DeviceCopy> From<&'a mut DeviceBuffer<T>> for CustSliceMut<'a> {
    fn from(buffer: &'a mut DeviceBuffer<T>) -> Self {
        CustSliceMut { extent: extent(buffer), borrowed: PhantomData }
    }
}

impl Plan {
    /// Runs the plan on the stream and waits for it, and for what was queued there before.
    ///
    /// # Errors
    /// [`Error::ElementType`] and [`Error::BufferTooSmall`] for buffers that are not what was planned; [`Error::Combination`] for packed
    /// sequences, whose prefix sums nobody looks at: [`launch_on`](Self::launch_on) takes them; otherwise the errors of
    /// [`launch`](Self::launch), [`check_context`](Self::check_context) and [`check_devices`](Self::check_devices), or
    /// [`Error::Cuda`] when the kernel or earlier work on the stream failed.
    pub fn run(&self, tensors: CustTensors<'_>, stream: &cust::stream::Stream) -> Result<(), Error> {
        self.check_trust("launch_on")?;
        let tensors = self.addresses(&tensors.map(|slice| slice.extent, |slice| slice.extent))?;
        self.check_context()?;
        self.check_devices(&tensors)?;
        // SAFETY: the borrows last until the stream has passed the kernels (below), the outputs are borrowed alone, lengths,
        // devices and the context have been checked, and there are no prefix sums. A stream of another context is an error of the driver.
        unsafe { self.launch(&tensors, Stream(stream.as_inner().cast())) }?;
        finish(stream, self.driver)
    }

    /// Queues the plan on the stream and returns: [`launch`](Self::launch) with element types and lengths checked. May be
    /// captured into a graph.
    ///
    /// # Errors
    /// As [`run`](Self::run), packed sequences allowed, without those of the running kernel.
    ///
    /// # Safety
    /// Until the stream has passed the kernels, and in every replay of a graph that captured them:
    /// 1. the buffers are not freed;
    /// 2. nothing writes what is read, and nothing else touches O, LSE and the workspace;
    /// 3. the plan's context has not been destroyed;
    /// 4. prefix sums begin with 0, never fall, and end with no more than the rows that the problem says, and no sequence has more queries or
    ///    keys in use than between two of them.
    pub unsafe fn launch_on(&self, tensors: CustTensors<'_>, stream: &cust::stream::Stream) -> Result<(), Error> {
        let tensors = self.addresses(&tensors.map(|slice| slice.extent, |slice| slice.extent))?;
        // SAFETY: lengths are checked, the rest is the caller's promise.
        unsafe { self.launch(&tensors, Stream(stream.as_inner().cast())) }
    }
}

impl AppendPlan {
    /// Runs the plan on the stream and waits for it, and for what was queued there before.
    ///
    /// # Errors
    /// As [`Plan::run`](crate::Plan::run), packed tokens allowed.
    pub fn run(&self, tensors: CustAppendTensors<'_>, stream: &cust::stream::Stream) -> Result<(), Error> {
        let tensors = self.addresses(&tensors.map(|slice| slice.extent, |slice| slice.extent))?;
        self.check_context()?;
        self.check_devices(&tensors)?;
        // SAFETY: as in `Plan::run`. Nothing outside the tensors is touched whatever lengths and pages say.
        unsafe { self.launch(&tensors, Stream(stream.as_inner().cast())) }?;
        finish(stream, self.driver)
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
    /// 2. nothing writes what is read, and nothing else touches what is written of the caches and `q_out`;
    /// 3. the plan's context has not been destroyed.
    pub unsafe fn launch_on(&self, tensors: CustAppendTensors<'_>, stream: &cust::stream::Stream) -> Result<(), Error> {
        let tensors = self.addresses(&tensors.map(|slice| slice.extent, |slice| slice.extent))?;
        // SAFETY: lengths are checked, the rest is the caller's promise.
        unsafe { self.launch(&tensors, Stream(stream.as_inner().cast())) }
    }
}

fn finish(stream: &cust::stream::Stream, driver: &Driver) -> Result<(), Error> {
    stream.synchronize().or_else(|error| driver.check("cuStreamSynchronize", error as i32))
}
