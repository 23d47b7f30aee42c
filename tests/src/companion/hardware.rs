//! The kernels beside attention on a GPU.

use std::ffi::c_void;

use attn_host::cust::context::Context;
use attn_host::cust::device::{Device, DeviceAttribute};
use attn_host::cust::memory::{CopyDestination, DeviceBuffer};
use attn_host::cust::module::Module;
use attn_host::cust::stream::{Stream, StreamFlags};
use attn_host::cust::{self, CudaFlags};
use attn_kernel::companion::EntryPoint;
use attn_kernel::forward::Arch;

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const MAX_DYNAMIC_SHARED: i32 = 8;
/// Bits that are a NaN as f32 and in both 16-bit formats.
const NOTHING: u8 = 0x7f;

/// The first GPU, and what was allocated on it.
pub(super) struct Hardware {
    buffers: Vec<DeviceBuffer<u8>>,
    stream: Stream,
    driver: libloading::Library,
    _context: Context,
}

type Failure = Box<dyn std::error::Error>;

/// The architecture of the first GPU.
pub(super) fn arch() -> Result<Arch, Failure> {
    cust::init(CudaFlags::empty())?;
    let device = Device::get_device(0)?;
    let attribute = |which| device.get_attribute(which).map(|value| value as u32);
    let here =
        (attribute(DeviceAttribute::ComputeCapabilityMajor)?, attribute(DeviceAttribute::ComputeCapabilityMinor)?);
    let arch = Arch::ALL.into_iter().find(|arch| arch.compute_capability() == here);
    arch.ok_or_else(|| format!("no kernels for compute capability {}.{}", here.0, here.1).into())
}

impl Hardware {
    pub(super) fn open() -> Result<Self, Failure> {
        cust::init(CudaFlags::empty())?;
        let context = Context::new(Device::get_device(0)?)?;
        // SAFETY: the driver is loaded already, by the calls above.
        let driver = unsafe { libloading::Library::new("libcuda.so.1") }?;
        // A stream that waits for the legacy stream, on which cust's copies run.
        Ok(Hardware {
            buffers: Vec::new(),
            stream: Stream::new(StreamFlags::DEFAULT, None)?,
            driver,
            _context: context,
        })
    }

    pub(super) fn alloc(&mut self, bytes: usize) -> Result<u64, Failure> {
        let buffer = DeviceBuffer::from_slice(&vec![NOTHING; bytes.max(1)])?;
        let address = buffer.as_device_ptr().as_raw();
        self.buffers.push(buffer);
        Ok(address)
    }

    /// The buffer with `bytes` bytes at an address, and where they begin in it.
    fn find(&self, address: u64, bytes: usize) -> Result<(&DeviceBuffer<u8>, usize), Failure> {
        let inside = self.buffers.iter().find_map(|buffer| {
            let at = address.checked_sub(buffer.as_device_ptr().as_raw())? as usize;
            (at + bytes <= buffer.len()).then_some((buffer, at))
        });
        inside.ok_or_else(|| format!("{bytes} bytes at {address:#x} are not inside one allocation").into())
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Failure> {
        let (buffer, at) = self.find(address, bytes.len())?;
        Ok(buffer.index(at..at + bytes.len()).copy_from(bytes)?)
    }

    pub(super) fn read(&self, address: u64, bytes: usize) -> Result<Vec<u8>, Failure> {
        let (buffer, at) = self.find(address, bytes)?;
        let mut out = vec![0; bytes];
        buffer.index(at..at + bytes).copy_to(&mut out)?;
        Ok(out)
    }

    /// Runs a kernel of one parameter to its end.
    pub(super) fn run(&self, kernel: &EntryPoint, blocks: u32, shared: u32, params: &mut [u8]) -> Result<(), Failure> {
        let code = attn_host::machine_code(kernel)?.ok_or("there is no machine code of the kernel")?;
        let module = Module::from_cubin(code, &[])?;
        let function = module.get_function(kernel.name)?;
        // SAFETY: the function's signature in the driver's stable ABI, and a function that is loaded.
        let code = unsafe {
            let set: libloading::Symbol<unsafe extern "C" fn(*mut c_void, i32, i32) -> i32> =
                self.driver.get(b"cuFuncSetAttribute\0")?;
            set(function.to_raw().cast(), MAX_DYNAMIC_SHARED, kernel.shared as i32)
        };
        if code != 0 {
            return Err(format!("cuFuncSetAttribute: error {code}").into());
        }
        // SAFETY: the kernel's one parameter, with addresses of buffers that live in `self`.
        unsafe { self.stream.launch(&function, blocks, kernel.threads, shared, &[params.as_mut_ptr().cast()]) }?;
        Ok(self.stream.synchronize()?)
    }
}
