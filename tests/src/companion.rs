//! The kernels beside attention by themselves, in the simulator or on a GPU.

use std::mem::MaybeUninit;
use std::ptr;

use attn_kernel::attn::divide::Divisor;
use attn_kernel::companion::{Companion, EntryPoint};
use attn_kernel::forward::Arch;
use attn_kernel::forward::serve::{ServeParams, Units};
use attn_sim::{Gpu, Launch};

use hardware::Hardware;

mod hardware;

/// Says that the tests run on a GPU, one at a time (`--test-threads 1`), and not on the simulator.
const ON_GPU: &str = "ATTN_COMPANIONS_ON_GPU";

fn on_gpu() -> bool {
    std::env::var_os(ON_GPU).is_some()
}

/// The architectures to test: all, or the GPU's.
///
/// # Panics
/// Where a GPU is asked for and has no kernels.
pub fn arches() -> Vec<Arch> {
    if on_gpu() { vec![hardware::arch().expect("a GPU with kernels")] } else { Arch::ALL.to_vec() }
}

/// Serving parameters of no tensors and no sequences.
pub fn nothing() -> ServeParams {
    let one = Divisor::new(1);
    let units = Units { list: ptr::null(), m_blocks: one, entries: 0, heads: 1, section: one, units: 0, splits: one };
    ServeParams {
        lse: ptr::null_mut(),
        lse_batch_stride: 0,
        lse_head_stride: 0,
        partial: ptr::null_mut(),
        partial_lse: ptr::null_mut(),
        rows: 0,
        dv: 0,
        heads: 1,
        cu_q: ptr::null(),
        cu_k: ptr::null(),
        used_q: ptr::null(),
        used_k: ptr::null(),
        seqlen_q: 0,
        seqlen_k: 0,
        q_room: 0,
        o_room: 0,
        pages: ptr::null(),
        page_stride: 0,
        page_shift: 31,
        k_room: 0,
        chunk: 16,
        v_room: 0,
        page_count: 0,
        left: 0,
        right: 0,
        group: one,
        pack: one,
        queries: 64,
        units,
        scale_log2: 1.0,
        cap: 0.0,
        slope_scale: 0.0,
        tile_queries: 64,
        slopes: ptr::null(),
        slopes_batch_stride: 0,
        sinks: ptr::null(),
        k_descale: ptr::null(),
        v_descale: ptr::null(),
        q_descale: ptr::null(),
        descale_batch_stride: 0,
    }
}

/// Bytes of a number or of an element.
pub trait Word: Copy {
    /// Appends it.
    fn put(self, bytes: &mut Vec<u8>);
}

macro_rules! words {
    ($($ty:ty)*) => {$(
        impl Word for $ty {
            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }
        }
    )*};
}

words!(u8 u16 u32 i32 f32);

/// A machine and its memory.
pub struct Machine {
    seed: u64,
    backend: Backend,
}

enum Backend {
    Simulator(Box<Gpu>),
    Hardware(Box<Hardware>),
}

impl Machine {
    /// One whose warps take another order for each seed, where it is the simulator.
    ///
    /// # Panics
    /// Where a GPU is asked for and cannot be opened.
    pub fn new(seed: u64) -> Self {
        let backend = if on_gpu() {
            Backend::Hardware(Box::new(Hardware::open().expect("a GPU")))
        } else {
            Backend::Simulator(Box::default())
        };
        Machine { seed, backend }
    }

    /// The address of a copy of `words`.
    pub fn upload<T: Word>(&mut self, words: &[T]) -> u64 {
        let address = self.alloc(size_of_val(words));
        self.write(address, words);
        address
    }

    /// Writes memory.
    ///
    /// # Panics
    /// Where it is not inside one allocation.
    pub fn write<T: Word>(&mut self, address: u64, words: &[T]) {
        let mut bytes = Vec::new();
        words.iter().for_each(|word| word.put(&mut bytes));
        match &mut self.backend {
            Backend::Simulator(gpu) => gpu.write(address, &bytes).expect("inside one allocation"),
            Backend::Hardware(gpu) => gpu.write(address, &bytes).expect("inside one allocation"),
        }
    }

    /// The address of `bytes` that hold nothing: the simulator finds who reads them, a GPU has NaNs there.
    ///
    /// # Panics
    /// Where a GPU has no memory left.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        match &mut self.backend {
            Backend::Simulator(gpu) => gpu.alloc(bytes as u64),
            Backend::Hardware(gpu) => gpu.alloc(bytes).expect("enough memory"),
        }
    }

    /// Memory as bytes.
    ///
    /// # Panics
    /// Where they are not inside one allocation.
    pub fn bytes(&self, address: u64, bytes: usize) -> Vec<u8> {
        match &self.backend {
            Backend::Simulator(gpu) => gpu.read(address, bytes).expect("inside one allocation").to_vec(),
            Backend::Hardware(gpu) => gpu.read(address, bytes).expect("inside one allocation"),
        }
    }

    /// Memory as 32-bit words.
    ///
    /// # Panics
    /// Where they are not inside one allocation.
    pub fn words(&self, address: u64, count: usize) -> Vec<u32> {
        let bytes = self.bytes(address, 4 * count);
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// Memory as 16-bit words.
    ///
    /// # Panics
    /// Where they are not inside one allocation.
    pub fn halves(&self, address: u64, count: usize) -> Vec<u16> {
        let bytes = self.bytes(address, 2 * count);
        bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
    }

    /// Runs a kernel of one parameter.
    ///
    /// # Errors
    /// What the simulator found, or why the kernel did not run.
    ///
    /// # Safety
    /// `P` has no padding.
    pub unsafe fn run<P: Copy>(
        &mut self,
        companion: &Companion,
        arch: Arch,
        blocks: u32,
        shared: u32,
        params: &P,
    ) -> Result<(), String> {
        let kernel = companion.entry_point(arch);
        let mut bytes = vec![MaybeUninit::<u8>::uninit(); size_of::<P>()];
        // SAFETY: the vector is as long as the struct, whose every byte is a field's (caller).
        let mut bytes: Vec<u8> = unsafe {
            bytes.as_mut_ptr().copy_from_nonoverlapping((&raw const *params).cast(), size_of::<P>());
            bytes.iter().map(|byte| byte.assume_init()).collect()
        };
        let done = match &mut self.backend {
            Backend::Simulator(gpu) => simulate(gpu, &kernel, blocks, shared, bytes, self.seed),
            Backend::Hardware(gpu) => gpu.run(&kernel, blocks, shared, &mut bytes),
        };
        done.map_err(|error| format!("{} for {}: {error}", kernel.name, arch.name()))
    }
}

fn simulate(
    gpu: &mut Gpu,
    kernel: &EntryPoint,
    blocks: u32,
    shared: u32,
    params: Vec<u8>,
    seed: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let loaded = gpu.load(&attn_host::ptx(kernel)?.ok_or("there is no PTX of the kernel")?)?.kernel(kernel.name)?;
    let launch = Launch {
        grid: [blocks, 1, 1],
        block: [kernel.threads, 1, 1],
        shared,
        params: vec![params],
        seed,
        threads: 1,
        ..Launch::default()
    };
    match launch.run(gpu, &loaded)?.findings.first() {
        None => Ok(()),
        Some(finding) => Err(finding.to_string().into()),
    }
}
