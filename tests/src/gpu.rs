//! Cases on a GPU or on the simulator in its place: upload, launch, wait, read back.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::io::Write;
use std::time::{Duration, Instant};

use attn_host::cust::context::Context;
use attn_host::cust::error::CudaError;
use attn_host::cust::event::{Event, EventFlags, EventStatus};
use attn_host::cust::memory::{CopyDestination, DeviceBuffer, DeviceCopy, mem_get_info};
use attn_host::cust::stream::{Stream, StreamFlags};
use attn_host::cust::{self, CudaFlags};
use attn_host::simulator::{self, ConfigureError};
use attn_host::{Arrays, Device, DevicePtr, Mask, Plan, Problem, Shape, Strides, Tensors};
use attn_kernel::forward::{KERNELS, Kernel, Launch};

use crate::case::Case;
use crate::dense::Dense;
use crate::input::Inputs;
use crate::layout::{Arena, Placement};
use crate::precision::{POISON, Precision};

/// What an LSE buffer holds before a launch: a NaN that no arithmetic produces.
pub const LSE_POISON: u32 = 0xFFFB_FFFB;

/// How long a launch may run before it counts as hanging, unless another time is set. Under compute-sanitizer a case takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Device memory left alone when a case's size is weighed against what is free.
pub(crate) const RESERVE: usize = 1 << 30;

/// Why a case did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The launch side refused or failed.
    #[error(transparent)]
    Host(#[from] attn_host::Error),
    /// A driver call for memory, streams or events failed.
    #[error("CUDA: {0}")]
    Cuda(#[from] CudaError),
    /// The simulator cannot be as asked for.
    #[error(transparent)]
    Simulator(#[from] ConfigureError),
    /// No kernel runs on this device.
    #[error("{device}; kernels exist for {allowed}")]
    NoKernels {
        /// The device.
        device: String,
        /// The architectures that have kernels.
        allowed: String,
    },
    /// The case does not fit the device's memory.
    #[error("needs {} MiB of device memory, {} MiB are free", need >> 20, free >> 20)]
    TooLarge {
        /// Bytes that the case needs.
        need: usize,
        /// Bytes that are free.
        free: usize,
    },
}

/// The first GPU, with a context and a stream of its own.
pub struct Gpu {
    stream: Stream,
    /// What runs at the moment.
    running: RefCell<String>,
    patience: Cell<Duration>,
    device: Device,
    simulated: bool,
    _context: Context,
}

impl Gpu {
    /// Opens the first GPU, or the simulator where [`simulated`](Self::simulated) has put it in its place.
    ///
    /// # Errors
    /// [`attn_host::Error::NoDriver`] when there is no driver, [`GpuError::Cuda`] when there is no device,
    /// [`GpuError::NoKernels`] when it is of an architecture without kernels.
    pub fn open() -> Result<Self, GpuError> {
        // The launch side says best what is wrong with a driver; that no context is current yet is expected here.
        if let Err(error @ (attn_host::Error::NoDriver { .. } | attn_host::Error::DriverTooOld { .. })) =
            Device::current()
        {
            return Err(error.into());
        }
        Self::start()
    }

    /// Opens the simulator, which then stands in the place of a GPU for the whole process.
    ///
    /// # Errors
    /// [`GpuError::Simulator`] when the process simulates another device already.
    pub fn simulated(options: simulator::Options) -> Result<Self, GpuError> {
        simulator::install(options)?;
        Self::start()
    }

    fn start() -> Result<Self, GpuError> {
        cust::init(CudaFlags::empty())?;
        let context = Context::new(cust::device::Device::get_device(0)?)?;
        // A stream that waits for the legacy stream, on which cust's copies run.
        let stream = Stream::new(StreamFlags::DEFAULT, None)?;
        let gpu = Gpu {
            stream,
            running: RefCell::default(),
            patience: Cell::new(PATIENCE),
            device: Device::current()?,
            simulated: simulator::is_installed(),
            _context: context,
        };
        let here = gpu.device.info().compute_capability;
        if KERNELS.iter().all(|kernel| kernel.arch.compute_capability() != here) {
            let mut archs: Vec<_> = KERNELS.iter().map(|kernel| kernel.arch.name()).collect();
            archs.dedup();
            return Err(GpuError::NoKernels { device: gpu.describe(), allowed: archs.join(", ") });
        }
        Ok(gpu)
    }

    /// The device as the launch side sees it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The device in one line.
    pub fn describe(&self) -> String {
        let info = self.device.info();
        let (major, minor) = info.compute_capability;
        format!("{}, sm_{major}{minor}, {} SMs, driver for CUDA {}", info.name, info.sm_count, info.driver_version)
    }

    /// Whether it is the simulator.
    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// Lets the simulator's next launches take another order; does nothing to a GPU.
    pub fn reseed(&self, seed: u64) -> Result<(), GpuError> {
        if let Some(options) = simulator::installed() {
            simulator::install(simulator::Options { seed, ..options })?;
        }
        Ok(())
    }

    /// Whether an earlier error has ended the context, so that nothing more can run in this process.
    pub fn is_lost(&self) -> bool {
        mem_get_info().is_err()
    }

    /// Says what the following launches belong to, for the message when one never ends.
    pub fn announce(&self, what: impl Into<String>) {
        self.running.replace(what.into());
    }

    /// Sets how long a launch may run before it counts as hanging.
    pub fn set_patience(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// The stream as the launch side takes it.
    pub fn raw_stream(&self) -> attn_host::Stream {
        attn_host::Stream(self.stream.as_inner().cast::<c_void>())
    }

    /// The kernel for problems of every size where several have a case's head dimensions, format and mask. Which of them is chosen depends
    /// on the device's multiprocessors, and the simulator has fewer than a GPU: answers that are compared are this one's.
    ///
    /// # Errors
    /// Those of a problem that no kernel computes.
    pub fn general_kernel(&self, case: &Case) -> Result<&'static str, GpuError> {
        let chosen = Plan::choice(self.device.info(), &problem(case, &case.layout.place(case)))?;
        let class = |kernel: &Kernel| {
            let Launch { d, dv, .. } = kernel.launch;
            (kernel.arch, kernel.family, kernel.dtype, kernel.causal, d, dv)
        };
        let alike = KERNELS.iter().filter(|kernel| class(kernel) == class(chosen)).map(|kernel| kernel.name);
        // The others' names have a word more.
        Ok(alike.min_by_key(|name| name.len()).unwrap_or(chosen.name))
    }

    /// Plans a case and uploads its inputs.
    pub fn load(&self, case: &Case, inputs: &Inputs) -> Result<Loaded<'_>, GpuError> {
        self.load_with(case, inputs, |problem| Plan::new(&self.device, problem))
    }

    /// The same with the kernel of a name, or the choice where there is none.
    pub fn load_kernel(&self, case: &Case, inputs: &Inputs, name: Option<&str>) -> Result<Loaded<'_>, GpuError> {
        self.load_with(case, inputs, |problem| match name {
            Some(name) => Plan::with_kernel(&self.device, problem, name),
            None => Plan::new(&self.device, problem),
        })
    }

    /// The same with a plan of the caller's choice.
    pub fn load_with(
        &self,
        case: &Case,
        inputs: &Inputs,
        plan: impl FnOnce(&Problem) -> Result<Plan, attn_host::Error>,
    ) -> Result<Loaded<'_>, GpuError> {
        self.announce(format!("--case '{case}'"));
        let place = case.layout.place(case);
        let mut arenas: Vec<Vec<u16>> = place.inputs.iter().map(|arena| vec![POISON; arena.host_len()]).collect();
        for ((arena, view), tensor) in place.qkv.iter().zip([&inputs.q, &inputs.k, &inputs.v]) {
            view.scatter(tensor, case.precision, &mut arenas[*arena]);
        }
        let plan = plan(&problem(case, &place))?;
        let need = place.inputs.iter().chain([&place.o.1]).map(|a| 2 * a.device_len()).sum::<usize>()
            + if case.lse { 4 * place.lse.1.device_len() } else { 0 };
        let free = mem_get_info()?.0;
        if free < need + RESERVE {
            return Err(GpuError::TooLarge { need, free });
        }
        let inputs: Vec<DeviceBuffer<u16>> = place.inputs.iter().map(allocate).collect::<Result<_, _>>()?;
        for ((buffer, arena), data) in inputs.iter().zip(&place.inputs).zip(&arenas) {
            upload(buffer, arena, data)?;
        }
        let o = allocate(&place.o.1)?;
        let lse = case.lse.then(|| allocate(&place.lse.1)).transpose()?;
        let qkv = place.qkv.map(|(arena, view)| address(&inputs[arena], view.offset));
        let tensors = Tensors {
            lse: lse.as_ref().map(|lse| address(lse, place.lse.0.offset)),
            ..Tensors::new(qkv[0], qkv[1], qkv[2], address(&o, place.o.0.offset))
        };
        Ok(Loaded { gpu: self, plan, place, arenas, tensors, _inputs: inputs, o, lse })
    }

    /// Waits for the work queued so far.
    ///
    /// A kernel that never ends takes its process with it, since freeing its buffers would wait for it too: after
    /// some time this says what was running and aborts.
    pub fn wait(&self) -> Result<(), GpuError> {
        let done = Event::new(EventFlags::DISABLE_TIMING)?;
        done.record(&self.stream)?;
        let start = Instant::now();
        while done.query()? == EventStatus::NotReady {
            if start.elapsed() > self.patience.get() {
                println!("FAILED: no end after {} s: {}", self.patience.get().as_secs(), self.running.borrow());
                std::io::stdout().flush().unwrap_or(());
                std::process::abort();
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }

    /// Microseconds per call of `launch`, of which `count` are queued between two events.
    pub fn time(&self, count: u32, launch: impl Fn() -> Result<(), GpuError>) -> Result<f64, GpuError> {
        let (start, stop) = (Event::new(EventFlags::DEFAULT)?, Event::new(EventFlags::DEFAULT)?);
        start.record(&self.stream)?;
        (0..count).try_for_each(|_| launch())?;
        stop.record(&self.stream)?;
        self.wait()?;
        Ok(f64::from(stop.elapsed_time_f32(&start)?) * 1e3 / f64::from(count))
    }
}

/// A case on the device, ready to launch.
pub struct Loaded<'a> {
    gpu: &'a Gpu,
    /// The plan that its launches use.
    pub plan: Plan,
    place: Placement,
    arenas: Vec<Vec<u16>>,
    tensors: Tensors,
    _inputs: Vec<DeviceBuffer<u16>>,
    o: DeviceBuffer<u16>,
    lse: Option<DeviceBuffer<u32>>,
}

/// The output buffers after a launch, guards and gaps included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// O, as bits.
    pub o: Vec<u16>,
    /// LSE, as bits, when it was asked for.
    pub lse: Option<Vec<u32>>,
}

impl Loaded<'_> {
    /// Where the tensors lie.
    pub fn place(&self) -> &Placement {
        &self.place
    }

    /// The input buffers as they were uploaded.
    pub fn arenas(&self) -> &[Vec<u16>] {
        &self.arenas
    }

    /// Poisons the outputs, launches, waits and reads back.
    pub fn run(&self) -> Result<Output, GpuError> {
        let (o_arena, lse_arena) = (&self.place.o.1, &self.place.lse.1);
        upload(&self.o, o_arena, &vec![POISON; o_arena.host_len()])?;
        if let Some(lse) = &self.lse {
            upload(lse, lse_arena, &vec![LSE_POISON; lse_arena.host_len()])?;
        }
        self.launch()?;
        self.gpu.wait()?;
        let o = download(&self.o, o_arena)?;
        let lse = self.lse.as_ref().map(|lse| download(lse, lse_arena)).transpose()?;
        Ok(Output { o, lse })
    }

    /// Queues one launch.
    pub fn launch(&self) -> Result<(), GpuError> {
        // SAFETY: every buffer was allocated for the case's strides and lives in `self`; the stream and the plan belong to
        // the context that `gpu` keeps, and nothing else uses the outputs until `run` or `time` has waited.
        Ok(unsafe { self.plan.launch(&self.tensors, self.gpu.raw_stream()) }?)
    }

    /// O and LSE as tensors.
    pub fn tensors(&self, output: &Output, precision: Precision) -> (Dense<f32>, Option<Dense<f32>>) {
        let o = self.place.o.0.gather(&output.o, |bits| precision.from_bits(bits));
        (o, output.lse.as_ref().map(|lse| self.place.lse.0.gather(lse, f32::from_bits)))
    }
}

/// The launch side's words for a case.
pub fn problem(case: &Case, place: &Placement) -> Problem {
    let shape = Shape {
        batch: case.batch as u64,
        seqlen_q: case.seqlen_q as u64,
        seqlen_k: case.seqlen_k as u64,
        heads: case.heads as u64,
        kv_heads: case.kv_heads as u64,
        head_dim: case.head_dim as u64,
        head_dim_v: case.head_dim_v as u64,
    };
    let strides = |[batch, seq, head]: [i64; 3]| Strides { batch, seq, head };
    let [q, k, v] = place.qkv.map(|(arena, view)| strides(view.device_strides(&place.inputs[arena])));
    let [lse_batch, _, lse_head] = place.lse.0.device_strides(&place.lse.1);
    let problem = Problem::new(case.precision.dtype(), shape)
        .mask(if case.causal { Mask::Causal } else { Mask::None })
        .strides_q(q)
        .strides_k(k)
        .strides_v(v)
        .strides_o(strides(place.o.0.device_strides(&place.o.1)))
        .lse_strides(lse_batch, lse_head);
    match case.scale {
        Some(scale) => problem.scale(scale),
        None => problem,
    }
}

pub(crate) fn allocate<T: DeviceCopy>(arena: &Arena) -> Result<DeviceBuffer<T>, CudaError> {
    // SAFETY: whatever a launch or a comparison reads is uploaded or written first.
    unsafe { DeviceBuffer::uninitialized(arena.device_len()) }
}

pub(crate) fn upload<T: DeviceCopy>(buffer: &DeviceBuffer<T>, arena: &Arena, data: &[T]) -> Result<(), CudaError> {
    for (i, piece) in data.chunks_exact(arena.chunk).enumerate() {
        buffer.index(i * arena.stride..i * arena.stride + arena.chunk).copy_from(piece)?;
    }
    Ok(())
}

pub(crate) fn download<T: DeviceCopy + Default>(buffer: &DeviceBuffer<T>, arena: &Arena) -> Result<Vec<T>, CudaError> {
    let mut data = vec![T::default(); arena.host_len()];
    for (i, piece) in data.chunks_exact_mut(arena.chunk).enumerate() {
        buffer.index(i * arena.stride..i * arena.stride + arena.chunk).copy_to(piece)?;
    }
    Ok(data)
}

pub(crate) fn address<T: DeviceCopy>(buffer: &DeviceBuffer<T>, offset: usize) -> DevicePtr {
    DevicePtr(buffer.as_device_ptr().as_raw() + (offset * size_of::<T>()) as u64)
}

/// Uploads the arrays that there are, into buffers that are kept in `words`.
///
/// # Errors
/// Failures of the driver.
pub fn upload_arrays(
    arrays: &Arrays,
    words: &mut Vec<DeviceBuffer<u32>>,
) -> Result<Arrays<DevicePtr, DevicePtr>, GpuError> {
    let integers = |array: &Vec<i32>| array.iter().map(|&x| x.cast_unsigned()).collect::<Vec<_>>();
    let floats = |array: &Vec<f32>| array.iter().map(|x| x.to_bits()).collect();
    arrays.as_ref().map(integers, floats).try_each(|array| {
        let buffer = DeviceBuffer::from_slice(&array)?;
        let at = address(&buffer, 0);
        words.push(buffer);
        Ok(at)
    })
}
