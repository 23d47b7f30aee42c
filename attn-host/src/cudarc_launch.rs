//! Launches on cudarc's slices, views and streams, with everything checked that types and lengths can say.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceSlice as _, SyncOnDrop};

use crate::append::{AppendPlan, AppendTensors};
use crate::driver::Driver;
use crate::error::Error;
use crate::launch::Stream;
use crate::plan::Plan;
use crate::tensors::Tensors;
use crate::typed::{Element, Extent, Kind};

/// What cudarc lets a launch read: made by `into` from `&CudaSlice` and from `CudaView`.
#[derive(Debug)]
pub struct CudarcView<'a> {
    bytes: CudaView<'a, u8>,
    elements: usize,
    kind: Kind,
}

/// What cudarc lets a launch write: made by `into` from `&mut CudaSlice` and `&mut CudaViewMut`.
#[derive(Debug)]
pub struct CudarcViewMut<'a> {
    bytes: CudaViewMut<'a, u8>,
    elements: usize,
    kind: Kind,
}

/// The tensors of a launch in cudarc's memory; each buffer starts with its tensor's first element.
pub type CudarcTensors<'a> = Tensors<CudarcView<'a>, CudarcViewMut<'a>>;

/// The tensors of a launch that appends in cudarc's memory; each buffer starts with its tensor's first element.
pub type CudarcAppendTensors<'a> = AppendTensors<CudarcView<'a>, CudarcViewMut<'a>>;

impl<'a, T: Element> From<CudaView<'a, T>> for CudarcView<'a> {
    fn from(view: CudaView<'a, T>) -> Self {
        // SAFETY: any memory is bytes, and no more of them are asked for than the elements have.
        let bytes = unsafe { view.transmute(view.num_bytes()) };
        CudarcView { bytes: bytes.expect("as long as it is"), elements: view.len(), kind: T::KIND }
    }
}

impl<'a, T: Element> From<&'a CudaSlice<T>> for CudarcView<'a> {
    fn from(slice: &'a CudaSlice<T>) -> Self {
        slice.as_view().into()
    }
}

impl<'a, T: Element> From<&'a mut CudaViewMut<'_, T>> for CudarcViewMut<'a> {
    fn from(view: &'a mut CudaViewMut<'_, T>) -> Self {
        let (length, elements) = (view.num_bytes(), view.len());
        // SAFETY: as above. What is written are elements again: kernels write those of the types that the plan was checked for.
        let bytes = unsafe { view.transmute_mut(length) };
        CudarcViewMut { bytes: bytes.expect("as long as it is"), elements, kind: T::KIND }
    }
}

impl<'a, T: Element> From<&'a mut CudaSlice<T>> for CudarcViewMut<'a> {
    fn from(slice: &'a mut CudaSlice<T>) -> Self {
        let (length, elements) = (slice.num_bytes(), slice.len());
        // SAFETY: as above.
        let bytes = unsafe { slice.transmute_mut(length) };
        CudarcViewMut { bytes: bytes.expect("as long as it is"), elements, kind: T::KIND }
    }
}

/// A stream that has been made to wait for buffers. When it goes out of scope, which must be after the launch, cudarc records that the stream
/// uses them.
struct Users<'a> {
    stream: &'a CudaStream,
    until: [Option<SyncOnDrop<'a>>; MOST],
}

/// Tensors that a launch reads, or writes, at most.
const MOST: usize = 16;

impl<'a> Users<'a> {
    fn new(stream: &'a CudaStream) -> Self {
        Users { stream, until: [const { None }; MOST] }
    }

    fn read(&mut self, view: CudarcView<'a>) -> Extent {
        let (address, until) = view.bytes.view_ptr(self.stream);
        self.keep(until);
        Extent { address, elements: view.elements as u64, kind: view.kind }
    }

    fn write(&mut self, view: CudarcViewMut<'a>) -> Extent {
        let (address, until) = view.bytes.view_ptr_mut(self.stream);
        self.keep(until);
        Extent { address, elements: view.elements as u64, kind: view.kind }
    }

    fn keep(&mut self, until: SyncOnDrop<'a>) {
        let free = self.until.iter_mut().find(|place| place.is_none());
        *free.expect("there are no more tensors") = Some(until);
    }
}

impl Plan {
    /// Makes the stream's context current, queues the plan on the stream and returns.
    ///
    /// cudarc's events order the launch after earlier work on the buffers, and later work, frees included, after the launch.
    ///
    /// # Errors
    /// [`Error::ElementType`] and [`Error::BufferTooSmall`] for buffers that are not what was planned; [`Error::Combination`] for packed
    /// sequences, whose prefix sums nobody looks at: [`launch_cudarc_packed`](Self::launch_cudarc_packed) takes them; otherwise the errors of
    /// [`launch`](Self::launch), [`check_context`](Self::check_context) and [`check_devices`](Self::check_devices).
    pub fn launch_cudarc(&self, tensors: CudarcTensors<'_>, stream: &Arc<CudaStream>) -> Result<(), Error> {
        self.check_trust("launch_cudarc_packed")?;
        // SAFETY: there are no prefix sums.
        unsafe { self.launch_cudarc_packed(tensors, stream) }
    }

    /// The same for packed sequences too.
    ///
    /// # Errors
    /// As [`launch_cudarc`](Self::launch_cudarc), packed sequences allowed.
    ///
    /// # Safety
    /// Prefix sums begin with 0, never fall, and end with no more than the rows that the problem says, and no sequence has more queries or keys
    /// in use than between two of them: [`check_cu_seqlens`](crate::check_cu_seqlens) and [`check_seqused`](crate::check_seqused) check what the
    /// host knows.
    pub unsafe fn launch_cudarc_packed(
        &self,
        tensors: CudarcTensors<'_>,
        stream: &Arc<CudaStream>,
    ) -> Result<(), Error> {
        bind(stream, self.driver)?;
        let (mut readers, mut writers) = (Users::new(stream), Users::new(stream));
        let tensors = self.addresses(&tensors.map(|view| readers.read(view), |view| writers.write(view)))?;
        self.check_context()?;
        self.check_devices(&tensors)?;
        // SAFETY: cudarc's events keep the buffers alive and untouched until the kernels are done, the outputs are borrowed alone, lengths,
        // devices and the context have been checked, the stream is of the current context, and the caller answers for prefix sums.
        unsafe { self.launch(&tensors, Stream(stream.cu_stream().cast())) }
    }
}

impl AppendPlan {
    /// Makes the stream's context current, queues the plan on the stream and returns, ordered as
    /// [`Plan::launch_cudarc`](crate::Plan::launch_cudarc) is.
    ///
    /// # Errors
    /// As [`Plan::launch_cudarc`](crate::Plan::launch_cudarc), packed tokens allowed.
    pub fn launch_cudarc(&self, tensors: CudarcAppendTensors<'_>, stream: &Arc<CudaStream>) -> Result<(), Error> {
        bind(stream, self.driver)?;
        let (mut readers, mut writers) = (Users::new(stream), Users::new(stream));
        let tensors = self.addresses(&tensors.map(|view| readers.read(view), |view| writers.write(view)))?;
        self.check_context()?;
        self.check_devices(&tensors)?;
        // SAFETY: as above. Nothing outside the tensors is touched whatever lengths and pages say.
        unsafe { self.launch(&tensors, Stream(stream.cu_stream().cast())) }
    }
}

fn bind(stream: &CudaStream, driver: &Driver) -> Result<(), Error> {
    stream.context().bind_to_thread().or_else(|error| driver.check("cuCtxSetCurrent", error.0 as i32))
}
