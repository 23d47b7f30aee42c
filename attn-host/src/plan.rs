//! A plan: a problem that has been checked, with its kernel chosen and loaded.

use std::fmt;

use attn_kernel::companion::EntryPoint;
use attn_kernel::forward::{KERNELS, Kernel};

use crate::blueprint::{Blueprint, Work};
use crate::device::{Device, DeviceInfo};
use crate::driver::Driver;
use crate::error::Error;
use crate::kernels;
use crate::layout::Layouts;
use crate::module;
use crate::problem::Problem;
use crate::select;
use crate::sys::Handle;

/// Tiles for each multiprocessor up to which launches overlap by default.
const OVERLAPPED: u64 = 4;

/// A checked problem, the kernel that computes it and the size of its launch, in one CUDA context.
///
/// Making a plan costs microseconds once the kernel is loaded, and milliseconds the first time in a context. It allocates no
/// device memory beyond the kernel's code, which stays loaded until the context is destroyed; a plan must not be launched
/// after that. A plan can be shared between threads and launched any number of times.
///
#[cfg_attr(feature = "simulator", doc = "```")]
#[cfg_attr(not(feature = "simulator"), doc = "```no_run")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "simulator")]
/// # attn_host::simulator::install(Default::default())?;
/// use attn_host::{DType, Device, Mask, Plan, Problem, Shape};
///
/// let shape = Shape { batch: 2, seqlen_q: 512, seqlen_k: 512, heads: 8, kv_heads: 2, head_dim: 128, head_dim_v: 128 };
/// let plan = Plan::new(&Device::open(0)?, &Problem::new(DType::Bf16, shape).mask(Mask::Causal))?;
/// println!("{plan}");
/// assert_eq!(plan.spans().q, 2 * 512 * 8 * 128); // elements that a launch's buffers need
/// assert_eq!(plan.workspace_bytes(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Plan {
    pub(crate) driver: &'static Driver,
    pub(crate) context: Handle,
    context_id: u64,
    pub(crate) ordinal: i32,
    pub(crate) functions: Functions,
    pub(crate) problem: Problem,
    pub(crate) blueprint: Blueprint,
    grid: u32,
    sm_count: u32,
    pub(crate) overlap: bool,
}

// SAFETY: the pointers in the blueprint's parameters are null until a launch copies them; nothing else is tied to a thread.
unsafe impl Send for Plan {}
// SAFETY: a plan never changes.
unsafe impl Sync for Plan {}

/// The plan's kernels, loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Functions {
    pub(crate) attention: Handle,
    /// What lists the tiles of packed queries.
    pub(crate) schedule: Option<Handle>,
    /// What combines splits.
    pub(crate) combine: Option<Handle>,
}

impl Plan {
    /// Checks the problem, chooses the kernel that should be fastest and loads it. The device's context must be current.
    ///
    /// # Errors
    /// A problem that no kernel computes correctly, or whose sizes or strides are not allowed, gives the error that names
    /// the argument; nothing has been loaded then. [`Error::NoContext`] and [`Error::WrongContext`] when the device's
    /// context is not current; [`Error::NoKernel`], [`Error::KernelFile`], [`Error::DriverTooOld`], [`Error::StaleKernel`],
    /// [`Error::OutOfMemory`] and [`Error::Cuda`] when the kernel cannot be loaded.
    pub fn new(device: &Device, problem: &Problem) -> Result<Self, Error> {
        Self::with_loader(device, problem, kernels::find, select::choose)
    }

    /// Like [`new`](Self::new), with a kernel of the caller's choice, by its name in [`kernel_names`](Self::kernel_names).
    ///
    /// # Errors
    /// [`Error::UnknownKernel`] and [`Error::Unsupported`] when there is no such kernel or it cannot compute the problem;
    /// otherwise those of [`new`](Self::new).
    pub fn with_kernel(device: &Device, problem: &Problem, name: &str) -> Result<Self, Error> {
        Self::with_loader(device, problem, kernels::find, |problem, info| select::forced(name, problem, info))
    }

    /// Like [`new`](Self::new), with a kernel that this program need not know: `kernel` describes it, and its code lies in `dir` as
    /// [`KERNEL_DIR`](crate::KERNEL_DIR) has it, with a manifest that names its plan. For trying other plans than the program's.
    ///
    /// A context loads the code of a name once, so kernels with different code have different names.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the kernel cannot compute the problem, [`Error::ForeignPlan`] when the code is of another plan than
    /// `kernel` says; otherwise those of [`new`](Self::new).
    pub fn with_code(
        device: &Device,
        problem: &Problem,
        kernel: &'static Kernel,
        dir: &std::path::Path,
    ) -> Result<Self, Error> {
        let own = kernel.name;
        let find = |kernel: &EntryPoint| {
            if kernel.name == own { kernels::from_folder(kernel, dir) } else { kernels::find(kernel) }
        };
        Self::with_loader(device, problem, find, |problem, info| {
            select::eligible(kernel, problem, info)
                .map_err(|reason| Error::Unsupported { kernel: kernel.name, reason })?;
            Ok(kernel)
        })
    }

    /// The kernel that [`new`](Self::new) chooses on such a device. Nothing is loaded, and the device need not be there.
    ///
    /// ```
    /// use attn_host::{Arch, DType, DeviceInfo, Plan, Problem, Shape};
    ///
    /// let shape = Shape { batch: 1, seqlen_q: 4096, seqlen_k: 4096, heads: 32, kv_heads: 32, head_dim: 104, head_dim_v: 104 };
    /// let kernel = Plan::choice(&DeviceInfo::nominal(Arch::Sm90a), &Problem::new(DType::F16, shape))?;
    /// assert_eq!(kernel.launch.d, 128); // the next larger one
    /// # Ok::<(), attn_host::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`new`](Self::new) for a problem that no kernel computes.
    pub fn choice(device: &DeviceInfo, problem: &Problem) -> Result<&'static Kernel, Error> {
        Ok(Blueprint::of(problem, device, select::choose)?.kernel)
    }

    /// The names of all forward kernels.
    pub fn kernel_names() -> impl Iterator<Item = &'static str> {
        KERNELS.iter().map(|kernel| kernel.name)
    }

    pub(crate) fn with_loader(
        device: &Device,
        problem: &Problem,
        find: impl Fn(&EntryPoint) -> Result<kernels::Code, Error>,
        choose: impl FnOnce(&Problem, &DeviceInfo) -> Result<&'static Kernel, Error>,
    ) -> Result<Self, Error> {
        let info = device.info();
        let blueprint = Blueprint::of(problem, info, choose)?;
        current_is(device.driver, device.context)?;
        let load = |kernel: EntryPoint| module::entry_point(device, &kernel, &find);
        let kernel = blueprint.kernel;
        let functions = Functions {
            attention: load(kernel.entry_point())?,
            schedule: blueprint.schedule().map(load).transpose()?,
            combine: blueprint.combine().map(load).transpose()?,
        };
        let (tiles, grid) = (blueprint.tiles(), blueprint.blocks(info.sm_count));
        Ok(Plan {
            driver: device.driver,
            context: device.context,
            context_id: device.context_id,
            ordinal: info.ordinal,
            functions,
            problem: *problem,
            blueprint,
            grid,
            sm_count: info.sm_count,
            overlap: kernel.launch.per_sm == 1 && u64::from(tiles) <= OVERLAPPED * u64::from(info.sm_count),
        })
    }

    /// The plan with or without overlap of its launches with what comes before them in the stream. The default is with it for problems
    /// of few tiles, which take little longer than a launch does, unless several blocks share a multiprocessor: those that start early
    /// crowd on the multiprocessors that are free first.
    ///
    /// With overlap (programmatic dependent launch, where the kernel supports it) the driver may start the kernel's blocks while the last
    /// ones of the kernel before it still run, if that kernel allows it, as ours do. They set themselves up and then wait, on the device,
    /// until everything before them in the stream has ended and its writes are visible; nothing is read or written earlier, so that
    /// results are the same. Waiting blocks hold multiprocessors that other streams could have used.
    #[must_use]
    pub fn overlapping(self, overlap: bool) -> Self {
        Plan { overlap, ..self }
    }

    /// Whether launches may start before the kernel before them has ended.
    pub fn overlaps(&self) -> bool {
        self.overlap && self.kernel().launch.waits
    }

    /// The kernel that was chosen.
    pub fn kernel(&self) -> &'static Kernel {
        self.blueprint.kernel
    }

    /// The problem that was planned.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Blocks of the launch: persistent, no more than the device runs at the same time.
    pub fn grid(&self) -> (u32, u32, u32) {
        (self.grid, 1, 1)
    }

    /// Threads of a block.
    pub fn block(&self) -> (u32, u32, u32) {
        (self.kernel().launch.threads, 1, 1)
    }

    /// Bytes of dynamic shared memory of a block.
    pub fn smem_bytes(&self) -> u32 {
        self.kernel().launch.shared
    }

    /// Bytes of device memory that a launch needs beside the tensors, aligned to 256: the list of tiles where queries are packed, and what the
    /// splits of the keys have found. Nothing of it is kept from one launch to the next, and nothing need be cleared.
    ///
    /// A workspace belongs to one launch at a time. Launches one behind the other in a stream, or in a graph, may share it; those that may run
    /// at the same time, on two streams or in two branches of a graph, need one each. Nothing looks for that: a launch sees neither the other
    /// nor who wrote the list and the parts that it finds, and their results would be mixed.
    pub fn workspace_bytes(&self) -> u64 {
        match &self.blueprint.work {
            Work::Dense(_) => 0,
            Work::Serve(serve) => serve.workspace.bytes,
        }
    }

    /// Parts that the keys are split into: 1 where they are not.
    pub fn splits(&self) -> u32 {
        match &self.blueprint.work {
            Work::Dense(_) => 1,
            Work::Serve(serve) => serve.tiles.splits,
        }
    }

    /// Checks that the context that is current is the one that the plan was made in, and not a later one at its address.
    ///
    /// # Errors
    /// [`Error::NoContext`], [`Error::WrongContext`], [`Error::ContextGone`]; [`Error::Cuda`] when the driver fails.
    pub fn check_context(&self) -> Result<(), Error> {
        same_context(self.driver, self.context, self.context_id)
    }

    /// Elements that each tensor's buffer must hold at least: Q, K, V, O and LSE.
    pub fn spans(&self) -> Spans {
        Spans::of(&self.blueprint.layouts)
    }
}

/// Elements from the first to one past the last that shape and strides reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spans {
    /// Of Q.
    pub q: u64,
    /// Of K.
    pub k: u64,
    /// Of V.
    pub v: u64,
    /// Of O.
    pub o: u64,
    /// Of LSE, in f32.
    pub lse: u64,
}

impl Spans {
    pub(crate) fn of(Layouts { q, k, v, o, lse }: &Layouts) -> Self {
        Spans { q: q.span, k: k.span, v: v.span, o: o.span, lse: lse.span }
    }
}

/// Checks that a context is the calling thread's.
pub(crate) fn current_is(driver: &Driver, planned: Handle) -> Result<(), Error> {
    let current = driver.current_context()?;
    if current == planned {
        return Ok(());
    }
    Err(Error::WrongContext { planned: planned.0 as usize, current: current.0 as usize })
}

/// Checks that the calling thread's context is this one, and not a later one at its address.
pub(crate) fn same_context(driver: &Driver, planned: Handle, id: u64) -> Result<(), Error> {
    current_is(driver, planned)?;
    if driver.context_id(planned)? == id { Ok(()) } else { Err(Error::ContextGone) }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let launch = &self.kernel().launch;
        write!(
            f,
            "{}: {}; {} tiles of {} rows, {} keys a step",
            self.kernel().name,
            self.problem,
            self.blueprint.tiles(),
            launch.bm,
            launch.bn,
        )?;
        if let Work::Serve(serve) = &self.blueprint.work {
            write!(f, ", {} heads packed, {} splits", serve.tiles.cut.pack, serve.tiles.splits)?;
        }
        write!(
            f,
            "; grid {} of {} multiprocessors, block {}, {} bytes of shared memory, {} of workspace",
            self.grid,
            self.sm_count,
            launch.threads,
            self.smem_bytes(),
            self.workspace_bytes(),
        )
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plan({self})")
    }
}
