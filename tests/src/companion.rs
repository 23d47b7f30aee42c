//! The kernels beside attention in the simulator: their parameters by value, memory that holds just what they may touch.

use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::path::Path;
use std::ptr;

use attn_host::KERNEL_DIR;
use attn_kernel::attn::divide::Divisor;
use attn_kernel::companion::{Companion, EntryPoint};
use attn_kernel::forward::Arch;
use attn_kernel::forward::serve::{ServeParams, Units};
use attn_sim::{Gpu, Launch};
use flate2::read::GzDecoder;

/// The architectures they are compiled for.
pub const ARCHES: [Arch; 3] = [Arch::Sm90a, Arch::Sm100a, Arch::Sm103a];

/// A kernel's PTX: of the folder that [`KERNEL_DIR`] names, or as `attn-host` carries it.
fn ptx(kernel: &EntryPoint) -> io::Result<String> {
    let (arch, name) = (kernel.arch.name(), kernel.name);
    if let Some(dir) = std::env::var_os(KERNEL_DIR) {
        return fs::read_to_string(Path::new(&dir).join(arch).join(name).with_extension("ptx"));
    }
    let prebuilt = Path::new(env!("CARGO_MANIFEST_DIR")).join("../attn-host/prebuilt");
    let mut text = String::new();
    GzDecoder::new(File::open(prebuilt.join(format!("{arch}/{name}.ptx.gz")))?).read_to_string(&mut text)?;
    Ok(text)
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
        page_step: 0,
        chunk: 16,
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

words!(u16 u32 i32 f32);

/// A simulated GPU and what was found on it.
pub struct Machine {
    gpu: Gpu,
    seed: u64,
}

impl Machine {
    /// One whose warps take another order for each seed.
    pub fn new(seed: u64) -> Self {
        Machine { gpu: Gpu::new(), seed }
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
        self.gpu.write(address, &bytes).expect("inside one allocation");
    }

    /// The address of `bytes` that hold nothing: to read them is an error.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        self.gpu.alloc(bytes as u64)
    }

    /// Memory as 32-bit words.
    ///
    /// # Panics
    /// Where they are not inside one allocation.
    pub fn words(&self, address: u64, count: usize) -> Vec<u32> {
        let bytes = self.gpu.read(address, 4 * count).expect("inside one allocation");
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// Memory as 16-bit words.
    ///
    /// # Panics
    /// Where they are not inside one allocation.
    pub fn halves(&self, address: u64, count: usize) -> Vec<u16> {
        let bytes = self.gpu.read(address, 2 * count).expect("inside one allocation");
        bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
    }

    /// Runs a kernel of one parameter.
    ///
    /// # Errors
    /// What the simulator found, or why there is no such kernel.
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
        let EntryPoint { name, threads, .. } = companion.entry_point(arch);
        let text = |error: &dyn std::fmt::Display| format!("{name} for {}: {error}", arch.name());
        let ptx = ptx(&companion.entry_point(arch)).map_err(|e| text(&e))?;
        let kernel = self.gpu.load(&ptx).and_then(|module| module.kernel(name)).map_err(|e| text(&e))?;
        let mut bytes = vec![MaybeUninit::<u8>::uninit(); size_of::<P>()];
        // SAFETY: the vector is as long as the struct, whose every byte is a field's (caller).
        let bytes: Vec<u8> = unsafe {
            bytes.as_mut_ptr().copy_from_nonoverlapping((&raw const *params).cast(), size_of::<P>());
            bytes.iter().map(|byte| byte.assume_init()).collect()
        };
        let launch = Launch {
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            shared,
            params: vec![bytes],
            seed: self.seed,
            threads: 1,
            ..Launch::default()
        };
        let run = launch.run(&mut self.gpu, &kernel).map_err(|e| text(&e))?;
        match run.findings.first() {
            None => Ok(()),
            Some(finding) => Err(text(finding)),
        }
    }
}
