//! What runs a probe.

use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use attn_host::cust::context::Context;
use attn_host::cust::event::{Event, EventFlags, EventStatus};
use attn_host::cust::memory::{CopyDestination, DeviceBuffer, mem_get_info};
use attn_host::cust::module::Module;
use attn_host::cust::stream::{Stream, StreamFlags};
use attn_host::cust::{self, CudaFlags};

use super::{Arg, Map, Probe};

/// A failure of a machine, in words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs probes.
pub trait Machine {
    /// Launches a probe and returns what its outputs hold then, one after the other.
    ///
    /// # Errors
    /// The module does not load, a map is refused, or the launch fails.
    fn run(&mut self, probe: &Probe) -> Result<Vec<u32>, Failure>;
}

/// How long a probe may run.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first GPU.
pub struct Hardware {
    cubins: Option<PathBuf>,
    encode: libloading::Library,
    stream: Stream,
    _context: Context,
}

impl Hardware {
    /// Opens the first GPU. Machine code is taken from the folder `cubins` where it has a file for a probe; otherwise the driver
    /// compiles the probe's PTX.
    ///
    /// # Errors
    /// There is no driver or no GPU.
    pub fn open(cubins: Option<PathBuf>) -> Result<Self, Failure> {
        cust::init(CudaFlags::empty())?;
        let context = Context::new(cust::device::Device::get_device(0)?)?;
        let stream = Stream::new(StreamFlags::DEFAULT, None)?;
        // SAFETY: the driver is loaded already, by the calls above.
        let encode = unsafe { libloading::Library::new("libcuda.so.1") }?;
        Ok(Hardware { cubins, encode, stream, _context: context })
    }

    /// The GPU's name.
    pub fn name(&self) -> String {
        cust::device::Device::get_device(0).and_then(|device| device.name()).unwrap_or_else(|error| error.to_string())
    }

    /// Whether an error has ended the context, so that nothing more can run in this process.
    pub fn is_lost(&self) -> bool {
        mem_get_info().is_err()
    }

    fn module(&self, probe: &Probe) -> Result<Module, Failure> {
        let cubin = self.cubins.as_ref().map(|folder| folder.join(format!("{}.cubin", file_name(&probe.ptx))));
        Ok(match cubin.filter(|path| path.exists()) {
            Some(path) => Module::from_cubin(std::fs::read(path)?, &[])?,
            None => Module::from_ptx_cstr(&CString::new(probe.ptx.as_str())?, &[])?,
        })
    }

    fn encode(&self, map: &Map, address: u64) -> Result<TensorMap, Failure> {
        type Encode = unsafe extern "C" fn(
            *mut TensorMap,
            u32,
            u32,
            *mut c_void,
            *const u64,
            *const u64,
            *const u32,
            *const u32,
            u32,
            u32,
            u32,
            u32,
        ) -> u32;
        let mut out = TensorMap([0; 16]);
        // SAFETY: this is the function's signature, the arrays have an entry for each dimension (strides: one fewer) and the map is 128
        // bytes, aligned to 64.
        let code = unsafe {
            let encode: libloading::Symbol<Encode> = self.encode.get(b"cuTensorMapEncodeTiled\0")?;
            encode(
                &mut out,
                map.data_type,
                map.dims.len() as u32,
                address as *mut c_void,
                map.dims.as_ptr(),
                map.strides.as_ptr(),
                map.tile.as_ptr(),
                map.steps.as_ptr(),
                0,
                map.swizzle,
                0,
                u32::from(map.nan_fill),
            )
        };
        if code == 0 { Ok(out) } else { Err(format!("cuTensorMapEncodeTiled: error {code} for {map:?}").into()) }
    }

    /// Waits for the launch. A kernel that never ends takes the process with it, since its context cannot be left otherwise.
    fn wait(&self, probe: &Probe) -> Result<(), Failure> {
        let done = Event::new(EventFlags::DISABLE_TIMING)?;
        done.record(&self.stream)?;
        let start = Instant::now();
        while done.query()? == EventStatus::NotReady {
            if start.elapsed() > PATIENCE {
                eprintln!("no end after {} s: {}", PATIENCE.as_secs(), probe.name);
                std::process::abort();
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }
}

/// `CUtensorMap`.
#[repr(C, align(64))]
struct TensorMap([u64; 16]);

/// The name of a module's machine code: probes with one text share it.
pub fn file_name(ptx: &str) -> String {
    format!("{:016x}", super::record::fnv(ptx.bytes()))
}

/// A parameter's value, kept where its address stays valid.
enum Value {
    Word(u32),
    Long(u64),
    Map(Box<TensorMap>),
}

impl Machine for Hardware {
    fn run(&mut self, probe: &Probe) -> Result<Vec<u32>, Failure> {
        let module = self.module(probe)?;
        let function = module.get_function("probe")?;
        let mut buffers = Vec::new();
        for arg in &probe.args {
            buffers.push(match arg {
                Arg::Input(words) | Arg::Output(words) => Some(DeviceBuffer::from_slice(words)?),
                _ => None,
            });
        }
        let address = |i: usize| buffers[i].as_ref().map(|b| b.as_device_ptr().as_raw()).ok_or("a map of no buffer");
        let mut values = Vec::new();
        for (i, arg) in probe.args.iter().enumerate() {
            values.push(match arg {
                Arg::Input(_) | Arg::Output(_) => Value::Long(address(i)?),
                Arg::Word(word) => Value::Word(*word),
                Arg::Long(long) => Value::Long(*long),
                Arg::Map(map) => Value::Map(Box::new(self.encode(map, address(map.buffer)?)?)),
            });
        }
        let pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| match value {
                Value::Word(word) => (&raw mut *word).cast(),
                Value::Long(long) => (&raw mut *long).cast(),
                Value::Map(map) => (&raw mut **map).cast(),
            })
            .collect();
        // SAFETY: the parameters are those of the probe's text, in its order; the buffers live until the wait below has ended.
        unsafe { self.stream.launch(&function, probe.grid, probe.block, probe.shared, &pointers) }?;
        self.wait(probe)?;
        let mut out = Vec::new();
        for (arg, buffer) in probe.args.iter().zip(&buffers) {
            if let (Arg::Output(words), Some(buffer)) = (arg, buffer) {
                let mut found = vec![0; words.len()];
                buffer.copy_to(&mut found)?;
                out.extend(found);
            }
        }
        Ok(out)
    }
}
