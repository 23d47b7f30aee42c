//! What a program uses: a simulated GPU with memory, modules loaded on it, and launches.

use crate::machine::decode::Place;
use crate::machine::launch::{self, Failure, Run, Shape};
use crate::machine::memory::{GlobalMemory, Space as StateSpace};
use crate::machine::program::Program;
use crate::machine::trace::Trace;
use crate::ptx::{Module, ParseError, Space, Symbol, Variable};
use crate::report::Unsupported;
use std::sync::Arc;

/// What cannot be asked of the simulated GPU.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PTX.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// An instruction is not modelled.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A range is not inside one allocation.
    #[error("{bytes} bytes at {addr:#x} are not inside one allocation")]
    OutOfBounds {
        /// Where it begins.
        addr: u64,
        /// Its length.
        bytes: usize,
    },
    /// No kernel of this name.
    #[error("the module has no kernel `{name}`; it has {}", .have.join(", "))]
    NoKernel {
        /// The name asked for.
        name: String,
        /// The names there are.
        have: Vec<String>,
    },
    /// A launch that hardware would refuse.
    #[error("launch of `{kernel}`: {argument} is {got}, allowed is {allowed}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// Which argument.
        argument: &'static str,
        /// What it was.
        got: String,
        /// What it may be.
        allowed: String,
    },
    /// The launch began and ended early.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Greatest shared memory of a block, in bytes: what Hopper and Blackwell data centre parts have.
pub const MAX_SHARED: u32 = 227 * 1024;

/// A simulated GPU: its global memory, and how many multiprocessors kernels are told of.
#[derive(Clone, Debug, Default)]
pub struct Gpu {
    memory: GlobalMemory,
}

impl Gpu {
    /// A GPU with empty memory.
    pub fn new() -> Self {
        Gpu::default()
    }

    /// Allocates `bytes` that hold nothing yet, at a multiple of 256. Never two allocations next to each other.
    pub fn alloc(&mut self, bytes: u64) -> u64 {
        self.memory.alloc(bytes, 256, "")
    }

    /// Allocates and fills.
    pub fn upload(&mut self, bytes: &[u8]) -> u64 {
        let addr = self.alloc(bytes.len() as u64);
        assert!(self.memory.write(addr, bytes), "the allocation is as long as the bytes");
        addr
    }

    /// Frees what [`Gpu::alloc`] returned.
    pub fn free(&mut self, addr: u64) -> Result<(), Error> {
        if self.memory.free(addr) { Ok(()) } else { Err(Error::OutOfBounds { addr, bytes: 0 }) }
    }

    /// Writes memory.
    pub fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Error> {
        if self.memory.write(addr, bytes) { Ok(()) } else { Err(Error::OutOfBounds { addr, bytes: bytes.len() }) }
    }

    /// Memory as it is; bytes that were never written are 0. See [`Gpu::first_unwritten`].
    pub fn read(&self, addr: u64, bytes: usize) -> Result<&[u8], Error> {
        self.memory.read(addr, bytes).ok_or(Error::OutOfBounds { addr, bytes })
    }

    /// The first byte of a range that nothing has written.
    pub fn first_unwritten(&self, addr: u64, bytes: usize) -> Result<Option<u64>, Error> {
        let (allocation, offset) = self.memory.find(addr, bytes).ok_or(Error::OutOfBounds { addr, bytes })?;
        Ok(allocation.written.first_missing(offset, bytes).map(|o| addr + (o - offset) as u64))
    }

    /// Parses PTX and places its variables in memory.
    pub fn load(&mut self, text: &str) -> Result<Loaded, Error> {
        Ok(self.load_module(Module::parse(text)?))
    }

    /// Places a module's variables in memory.
    pub fn load_module(&mut self, module: Module) -> Loaded {
        let mut constants = Vec::new();
        let places: Vec<Place> = module.variables.iter().map(|v| self.place(v, &mut constants)).collect();
        for (variable, place) in module.variables.iter().zip(&places) {
            let (Some(init), Place::At(at)) = (&variable.init, *place) else { continue };
            let mut bytes = init.bytes.clone();
            for fixup in &init.fixups {
                let value =
                    fixup_value(&module, &places, fixup.symbol, fixup.generic).wrapping_add_signed(fixup.offset);
                let value = (value >> fixup.shift).to_le_bytes();
                bytes[fixup.at..fixup.at + fixup.width as usize].copy_from_slice(&value[..fixup.width as usize]);
            }
            match variable.space {
                Space::Const => constants[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes),
                _ => assert!(self.memory.write(at, &bytes), "an initialiser is no longer than its variable"),
            }
        }
        Loaded { module: Arc::new(module), places, constants }
    }

    fn place(&mut self, variable: &Variable, constants: &mut Vec<u8>) -> Place {
        match variable.space {
            Space::Shared => Place::Shared(0),
            Space::Const => {
                let at = (constants.len() as u64).next_multiple_of(variable.align.max(1));
                constants.resize((at + variable.bytes()) as usize, 0);
                Place::At(at)
            }
            _ => {
                let bytes = variable.bytes();
                let at = self.memory.alloc(bytes, variable.align, &variable.name);
                // `.global` variables without an initialiser are zero.
                assert!(self.memory.write(at, &vec![0; bytes as usize]), "the allocation is as long as the variable");
                Place::At(at)
            }
        }
    }
}

fn fixup_value(module: &Module, places: &[Place], symbol: Symbol, generic: bool) -> u64 {
    let Symbol::Variable(i) = symbol else { return 0 };
    let Place::At(at) = places[i] else { return 0 };
    let window = if module.variables[i].space == Space::Const { StateSpace::Const.window() } else { 0 };
    at + if generic { window } else { 0 }
}

/// A module with its variables in memory.
#[derive(Clone, Debug)]
pub struct Loaded {
    module: Arc<Module>,
    places: Vec<Place>,
    constants: Vec<u8>,
}

impl Loaded {
    /// The parsed module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// The address of a `.global` variable.
    pub fn global(&self, name: &str) -> Option<u64> {
        let i = self.module.variables.iter().position(|v| v.space == Space::Global && v.name == name)?;
        match self.places[i] {
            Place::At(at) => Some(at),
            Place::Shared(_) => None,
        }
    }

    /// Makes a kernel ready to run; an instruction that is not modelled is an error with its line.
    pub fn kernel(&self, name: &str) -> Result<Kernel, Error> {
        let Some(function) = self.module.kernel(name) else {
            let kernels = self.module.functions.iter().filter(|f| f.entry);
            return Err(Error::NoKernel { name: name.into(), have: kernels.map(|f| f.name.clone()).collect() });
        };
        let program = Arc::new(Program::decode(&self.module, function, &self.places)?);
        let params = function.params.iter().map(|p| (p.align, p.bytes)).collect();
        Ok(Kernel { program, params, constants: self.constants.clone() })
    }
}

/// A kernel made ready to run.
#[derive(Clone, Debug)]
pub struct Kernel {
    program: Arc<Program>,
    params: Vec<(u64, u64)>,
    constants: Vec<u8>,
}

impl Kernel {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Alignment and bytes of each parameter.
    pub fn params(&self) -> &[(u64, u64)] {
        &self.params
    }

    /// Static shared memory in bytes; dynamic shared memory begins behind it.
    pub fn static_shared(&self) -> u32 {
        self.program.dynamic_shared - crate::machine::shared::FIRST
    }
}

/// How a kernel is launched.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster; `None` for what the kernel requires, or no clusters.
    pub cluster: Option<[u32; 3]>,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Each parameter's bytes: numbers and addresses little endian, tensor maps as their 128 bytes.
    pub params: Vec<Vec<u8>>,
    /// Orders warps and completions: the same seed gives the same run.
    pub seed: u64,
    /// Multiprocessors that the kernel is told of; so many clusters of communicating kernels run at a time.
    pub sms: u32,
    /// Cores to run on.
    pub threads: usize,
    /// Warp instructions that one cluster (all, where they communicate) may execute.
    pub step_limit: u64,
    /// Histories to keep: they come back in [`Run::trace`].
    pub trace: Vec<Trace>,
}

impl Default for Launch {
    fn default() -> Self {
        Launch {
            grid: [1; 3],
            block: [1; 3],
            cluster: None,
            shared: 0,
            params: Vec::new(),
            seed: 0,
            sms: 132,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            step_limit: 1 << 32,
            trace: Vec::new(),
        }
    }
}

impl Launch {
    /// Runs the kernel to its end.
    ///
    /// # Errors
    /// [`Error::Launch`] names an argument that the kernel or the hardware does not allow, [`Error::Failed`] holds why the
    /// run ended early and what was found before.
    pub fn run(&self, gpu: &mut Gpu, kernel: &Kernel) -> Result<Run, Error> {
        let shape = Arc::new(self.shape(kernel)?);
        Ok(launch::run(&kernel.program, &shape, &mut gpu.memory, self.threads)?)
    }

    fn shape(&self, kernel: &Kernel) -> Result<Shape, Error> {
        let bounds = &kernel.program.bounds;
        let wrong = |argument, got: String, allowed: String| {
            Err(Error::Launch { kernel: kernel.name().into(), argument, got, allowed })
        };
        let threads: u64 = self.block.iter().map(|&n| u64::from(n)).product();
        if threads == 0 || threads > 1024 {
            return wrong("block", format!("{:?}", self.block), "1 to 1024 threads".into());
        }
        if let Some(need) = bounds.reqntid.filter(|need| *need != self.block) {
            return wrong("block", format!("{:?}", self.block), format!("what the kernel requires, {need:?}"));
        }
        let most = bounds.maxntid.map_or(1024, |m| m.iter().product::<u32>());
        if threads > u64::from(most) {
            return wrong("block", format!("{:?}", self.block), format!("at most the kernel's {most} threads"));
        }
        if self.grid.contains(&0) {
            return wrong("grid", format!("{:?}", self.grid), "at least one block on each axis".into());
        }
        let cluster = match (self.cluster, bounds.reqnctapercluster) {
            (Some(asked), Some(need)) if asked != need => {
                return wrong("cluster", format!("{asked:?}"), format!("what the kernel requires, {need:?}"));
            }
            (asked, need) => asked.or(need).unwrap_or([1; 3]),
        };
        let blocks: u32 = cluster.iter().product();
        if blocks == 0 || blocks > 16 || (0..3).any(|a| !self.grid[a].is_multiple_of(cluster[a].max(1))) {
            return wrong(
                "cluster",
                format!("{cluster:?}"),
                format!("1 to 16 blocks that divide the grid {:?}", self.grid),
            );
        }
        let shared = kernel.static_shared() + self.shared;
        if shared > MAX_SHARED {
            return wrong("shared", format!("{shared} bytes with the static part"), format!("at most {MAX_SHARED}"));
        }
        if self.params.len() != kernel.params.len() {
            return wrong("params", format!("{} of them", self.params.len()), format!("{}", kernel.params.len()));
        }
        let mut buffer = Vec::new();
        for (i, (given, &(align, bytes))) in self.params.iter().zip(&kernel.params).enumerate() {
            if given.len() as u64 != bytes {
                return wrong("params", format!("{} bytes for parameter {i}", given.len()), format!("{bytes} bytes"));
            }
            buffer.resize(buffer.len().next_multiple_of(align.max(1) as usize), 0);
            buffer.extend_from_slice(given);
        }
        Ok(Shape {
            grid: self.grid,
            block: self.block,
            cluster,
            explicit_cluster: self.cluster.is_some() || bounds.reqnctapercluster.is_some(),
            shared: self.shared,
            params: buffer,
            constants: kernel.constants.clone(),
            seed: self.seed,
            sms: self.sms.max(1),
            resident_clusters: (self.sms / blocks).max(1),
            step_limit: self.step_limit,
            trace: self.trace.clone(),
        })
    }
}
