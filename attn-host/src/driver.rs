//! The CUDA driver: opened on first use, every call a `Result`.
//!
//! [`Driver`] is a table of function pointers, so that tests can put a recording fake in the driver's place and a launch
//! costs one indirect call.

use std::ffi::{CStr, c_char, c_void};
use std::mem;
use std::ptr;
use std::sync::OnceLock;

use attn_kernel::forward::TensorMap;
use libloading::Library;

use crate::error::{DriverVersion, Error};
use crate::launch::Stream;
use crate::sys::{self, Code, DeviceHandle, Handle, LaunchAttribute, LaunchConfig, jit_option, pointer_attribute};

mod queues;

pub(crate) use queues::{Event, Queue};

/// Where the driver's library lies by name.
const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// Why an image was not loaded.
#[derive(Debug)]
pub(crate) struct LoadError {
    pub(crate) code: Code,
    /// What the driver's compiler wrote.
    pub(crate) log: String,
}

macro_rules! driver_table {
    ($($name:ident: $symbol:literal ($($arg:ty),*);)*) => {
        /// The driver functions that this crate calls.
        #[derive(Clone, Copy)]
        pub(crate) struct Driver {
            $(pub(crate) $name: unsafe extern "C" fn($($arg),*) -> Code,)*
        }

        impl Driver {
            /// Resolves every function; the first one that is missing is the error.
            fn resolve(source: &Source) -> Result<Driver, &'static str> {
                Ok(Driver {
                    $($name: {
                        let found = source.find($symbol).ok_or($symbol)?;
                        // SAFETY: the driver exports the symbol with this C signature, which is part of its stable ABI.
                        unsafe { mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) -> Code>(found) }
                    },)*
                })
            }
        }
    };
}

driver_table! {
    init: "cuInit" (u32);
    driver_version: "cuDriverGetVersion" (*mut i32);
    error_name: "cuGetErrorName" (Code, *mut *const c_char);
    error_string: "cuGetErrorString" (Code, *mut *const c_char);
    device_get: "cuDeviceGet" (*mut DeviceHandle, i32);
    primary_context: "cuDevicePrimaryCtxRetain" (*mut Handle, DeviceHandle);
    ctx_set: "cuCtxSetCurrent" (Handle);
    ctx_current: "cuCtxGetCurrent" (*mut Handle);
    ctx_id: "cuCtxGetId" (Handle, *mut u64);
    ctx_device: "cuCtxGetDevice" (*mut DeviceHandle);
    device_name: "cuDeviceGetName" (*mut c_char, i32, DeviceHandle);
    device_attribute: "cuDeviceGetAttribute" (*mut i32, i32, DeviceHandle);
    pointer_attribute: "cuPointerGetAttribute" (*mut c_void, i32, u64);
    module_load: "cuModuleLoadDataEx" (*mut Handle, *const c_void, u32, *mut i32, *mut *mut c_void);
    module_unload: "cuModuleUnload" (Handle);
    module_function: "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    func_get_attribute: "cuFuncGetAttribute" (*mut i32, i32, Handle);
    func_set_attribute: "cuFuncSetAttribute" (Handle, i32, i32);
    encode_tiled: "cuTensorMapEncodeTiled" (*mut TensorMap, i32, u32, *mut c_void, *const u64, *const u64, *const u32, *const u32, i32, i32, i32, i32);
    launch_kernel: "cuLaunchKernelEx" (*const LaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
    ctx_push: "cuCtxPushCurrent_v2" (Handle);
    ctx_pop: "cuCtxPopCurrent_v2" (*mut Handle);
    ctx_synchronize: "cuCtxSynchronize" ();
    mem_alloc: "cuMemAlloc_v2" (*mut u64, usize);
    mem_free: "cuMemFree_v2" (u64);
    host_register: "cuMemHostRegister_v2" (*mut c_void, usize, u32);
    host_unregister: "cuMemHostUnregister" (*mut c_void);
    copy_in: "cuMemcpyHtoDAsync_v2" (u64, *const c_void, usize, Handle);
    copy_out: "cuMemcpyDtoHAsync_v2" (*mut c_void, u64, usize, Handle);
    fill: "cuMemsetD8Async" (u64, u8, usize, Handle);
    stream_create: "cuStreamCreate" (*mut Handle, u32);
    stream_destroy: "cuStreamDestroy_v2" (Handle);
    stream_synchronize: "cuStreamSynchronize" (Handle);
    stream_wait_event: "cuStreamWaitEvent" (Handle, Handle, u32);
    event_create: "cuEventCreate" (*mut Handle, u32);
    event_destroy: "cuEventDestroy_v2" (Handle);
    event_record: "cuEventRecord" (Handle, Handle);
    event_synchronize: "cuEventSynchronize" (Handle);
}

/// Where driver functions are found.
#[derive(Debug)]
pub(crate) enum Source {
    /// The installed driver's library.
    Library(Library),
    /// The simulator, which is part of the program.
    #[cfg(feature = "simulator")]
    Simulator,
}

impl Source {
    /// How many kinds there are.
    pub(crate) const KINDS: usize = 2;

    /// The number of this kind, below [`Source::KINDS`].
    pub(crate) fn kind(&self) -> usize {
        match self {
            Source::Library(_) => 0,
            #[cfg(feature = "simulator")]
            Source::Simulator => 1,
        }
    }

    /// A function's address.
    pub(crate) fn find(&self, symbol: &str) -> Option<*mut c_void> {
        match self {
            // SAFETY: only the address is taken; whoever calls it knows the signature.
            Source::Library(library) => unsafe { library.get::<*mut c_void>(symbol.as_bytes()) }.ok().map(|s| *s),
            #[cfg(feature = "simulator")]
            Source::Simulator => attn_sim_driver::symbol(symbol).map(<*const c_void>::cast_mut),
        }
    }
}

/// Set once the simulator stands in the driver's place.
#[cfg(feature = "simulator")]
static SIMULATED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Puts the simulator in the driver's place for everything that is looked up from now on.
#[cfg(feature = "simulator")]
pub(crate) fn simulate() {
    // Release, for the device that was configured before.
    SIMULATED.store(true, std::sync::atomic::Ordering::Release);
}

/// Whether the simulator stands in the driver's place.
#[cfg(feature = "simulator")]
pub(crate) fn is_simulated() -> bool {
    SIMULATED.load(std::sync::atomic::Ordering::Acquire)
}

/// The simulator where it was chosen, else the driver's library, kept open for the life of the process.
pub(crate) fn source() -> Result<&'static Source, Error> {
    #[cfg(feature = "simulator")]
    if is_simulated() {
        return Ok(&Source::Simulator);
    }
    static OPENED: OnceLock<Result<Source, String>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        // SAFETY: loading the driver runs its initialisers, which are sound in any process.
        unsafe { Library::new(LIBRARY) }.map(Source::Library).map_err(|e| cause(&e))
    });
    opened.as_ref().map_err(|reason| Error::NoDriver { reason: reason.clone() })
}

impl Driver {
    /// The installed driver, initialised.
    ///
    /// # Errors
    /// [`Error::NoDriver`] without one, [`Error::DriverTooOld`] when it lacks a function, [`Error::Cuda`] when it does not
    /// initialise (no device, say).
    pub(crate) fn get() -> Result<&'static Driver, Error> {
        static RESOLVED: [OnceLock<Result<Driver, Error>>; Source::KINDS] = [const { OnceLock::new() }; Source::KINDS];
        let source = source()?;
        let resolve = || Driver::resolve(source).map_err(|symbol| lacking(source, symbol));
        let resolved = RESOLVED[source.kind()].get_or_init(resolve);
        let driver = resolved.as_ref().map_err(Clone::clone)?;
        driver.initialise()?;
        Ok(driver)
    }

    fn initialise(&self) -> Result<(), Error> {
        // SAFETY: zero is the one flag value that is defined.
        self.check("cuInit", unsafe { (self.init)(0) })
    }

    /// Turns a result code into a `Result` that carries the driver's name and words for it.
    pub(crate) fn check(&self, call: &'static str, code: Code) -> Result<(), Error> {
        match code {
            sys::SUCCESS => Ok(()),
            sys::OUT_OF_MEMORY => Err(Error::OutOfMemory { call }),
            sys::INVALID_CONTEXT => Err(Error::NoContext),
            _ => Err(Error::Cuda {
                call,
                code,
                name: self.text(self.error_name, code),
                message: self.text(self.error_string, code),
            }),
        }
    }

    fn text(&self, lookup: unsafe extern "C" fn(Code, *mut *const c_char) -> Code, code: Code) -> String {
        let mut text = ptr::null();
        // SAFETY: `text` is a place for one pointer.
        let found = unsafe { lookup(code, &mut text) };
        if found != sys::SUCCESS || text.is_null() {
            return "unknown to this driver".to_owned();
        }
        // SAFETY: the driver gives a terminated string that lives as long as the driver.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    pub(crate) fn version(&self) -> Result<DriverVersion, Error> {
        let mut version = 0;
        // SAFETY: `version` is a place for one int.
        self.check("cuDriverGetVersion", unsafe { (self.driver_version)(&mut version) })?;
        Ok(DriverVersion(version.unsigned_abs()))
    }

    /// The context that is current on this thread.
    pub(crate) fn current_context(&self) -> Result<Handle, Error> {
        let mut context = Handle::NULL;
        // SAFETY: `context` is a place for one handle.
        self.check("cuCtxGetCurrent", unsafe { (self.ctx_current)(&mut context) })?;
        if context.is_null() { Err(Error::NoContext) } else { Ok(context) }
    }

    /// Makes the primary context of the device with this number current on this thread. It is kept for the life of the process: whoever
    /// counts on it need not say so.
    pub(crate) fn enter_primary_context(&self, ordinal: i32) -> Result<(), Error> {
        let (mut device, mut context) = (0, Handle::NULL);
        // SAFETY: `device` is a place for one handle; a number that no device has is an error code.
        self.check("cuDeviceGet", unsafe { (self.device_get)(&mut device, ordinal) })?;
        // SAFETY: `context` is a place for one handle, and the device exists.
        self.check("cuDevicePrimaryCtxRetain", unsafe { (self.primary_context)(&mut context, device) })?;
        // SAFETY: the context exists and stays.
        self.check("cuCtxSetCurrent", unsafe { (self.ctx_set)(context) })
    }

    /// A number that no other context of this process ever has.
    pub(crate) fn context_id(&self, context: Handle) -> Result<u64, Error> {
        let mut id = 0;
        // SAFETY: `context` is current, so it exists; `id` is a place for one number.
        self.check("cuCtxGetId", unsafe { (self.ctx_id)(context, &mut id) })?;
        Ok(id)
    }

    /// The device of the current context.
    pub(crate) fn context_device(&self) -> Result<DeviceHandle, Error> {
        let mut device = 0;
        // SAFETY: `device` is a place for one handle.
        self.check("cuCtxGetDevice", unsafe { (self.ctx_device)(&mut device) })?;
        Ok(device)
    }

    pub(crate) fn device_name(&self, device: DeviceHandle) -> Result<String, Error> {
        let mut name = [0u8; 256];
        // SAFETY: the buffer holds the length that is passed; the driver terminates what it writes.
        let code = unsafe { (self.device_name)(name.as_mut_ptr().cast(), name.len() as i32, device) };
        self.check("cuDeviceGetName", code)?;
        let end = name.iter().position(|&c| c == 0).unwrap_or(name.len());
        Ok(String::from_utf8_lossy(&name[..end]).into_owned())
    }

    pub(crate) fn device_attribute(&self, device: DeviceHandle, attribute: i32) -> Result<u32, Error> {
        let mut value = 0;
        // SAFETY: `value` is a place for one int.
        self.check("cuDeviceGetAttribute", unsafe { (self.device_attribute)(&mut value, attribute, device) })?;
        Ok(value.unsigned_abs())
    }

    /// The ordinal of the device that owns an address.
    pub(crate) fn pointer_device(&self, address: u64) -> Result<i32, Error> {
        let mut ordinal = 0i32;
        let place = (&raw mut ordinal).cast();
        // SAFETY: this attribute is written as one int; an address that the driver does not know is an error code.
        let code = unsafe { (self.pointer_attribute)(place, pointer_attribute::DEVICE_ORDINAL, address) };
        self.check("cuPointerGetAttribute", code)?;
        Ok(ordinal)
    }

    /// Loads a cubin or terminated PTX text into the current context.
    ///
    /// # Safety
    /// `image` is a whole cubin, or PTX that ends with a zero byte: the driver finds the end by itself.
    pub(crate) unsafe fn load_module(&self, image: &[u8]) -> Result<Handle, LoadError> {
        let mut module = Handle::NULL;
        let mut log = vec![0u8; 4096];
        let mut options = [jit_option::ERROR_LOG_BUFFER, jit_option::ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
        // SAFETY: the image is complete (caller); two options with two values, the first a buffer of the second's length.
        let code = unsafe {
            (self.module_load)(&mut module, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
        };
        if code == sys::SUCCESS {
            return Ok(module);
        }
        let end = log.iter().position(|&c| c == 0).unwrap_or(log.len());
        Err(LoadError { code, log: String::from_utf8_lossy(&log[..end]).trim().to_owned() })
    }

    /// A load error in one line.
    pub(crate) fn describe(&self, error: &LoadError) -> String {
        let name = self.text(self.error_name, error.code);
        if error.log.is_empty() { name } else { format!("{name}: {}", error.log) }
    }

    /// A load error as this crate's error, with the compiler's words.
    pub(crate) fn load_error(&self, error: &LoadError) -> Error {
        match self.check("cuModuleLoadDataEx", error.code) {
            Err(Error::Cuda { call, code, name, message }) if !error.log.is_empty() => {
                Error::Cuda { call, code, name, message: format!("{message}; {}", error.log) }
            }
            Err(other) => other,
            Ok(()) => unreachable!("a load error has the code of a failure"),
        }
    }

    pub(crate) fn unload_module(&self, module: Handle) -> Result<(), Error> {
        // SAFETY: the callers pass a module that they have just loaded and that nothing refers to.
        self.check("cuModuleUnload", unsafe { (self.module_unload)(module) })
    }

    pub(crate) fn function(&self, module: Handle, name: &CStr) -> Result<Handle, Error> {
        let mut function = Handle::NULL;
        // SAFETY: `module` is loaded, `name` is terminated.
        self.check("cuModuleGetFunction", unsafe { (self.module_function)(&mut function, module, name.as_ptr()) })?;
        Ok(function)
    }

    pub(crate) fn function_attribute(&self, function: Handle, attribute: i32) -> Result<u32, Error> {
        let mut value = 0;
        // SAFETY: `function` belongs to a loaded module.
        self.check("cuFuncGetAttribute", unsafe { (self.func_get_attribute)(&mut value, attribute, function) })?;
        Ok(value.unsigned_abs())
    }

    /// Launches; with `overlap` the kernel may start while the one before it in the stream still runs.
    ///
    /// # Safety
    /// `function` is loaded in the current context, `arguments` point to what it takes, and `stream` is that context's. A kernel that is
    /// launched with `overlap` waits by itself before it touches global memory.
    pub(crate) unsafe fn launch(
        &self,
        function: Handle,
        (grid, block): (u32, u32),
        smem: u32,
        stream: Stream,
        overlap: bool,
        arguments: &mut [*mut c_void],
    ) -> Result<(), Error> {
        let attributes = [LaunchAttribute::new(LaunchAttribute::OVERLAP, 1)];
        let config = LaunchConfig {
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            smem,
            stream: Handle(stream.0),
            attributes: attributes.as_ptr(),
            count: u32::from(overlap),
        };
        // SAFETY: as the caller promises; the configuration and its attribute live until the call returns.
        let code = unsafe { (self.launch_kernel)(&config, function, arguments.as_mut_ptr(), ptr::null_mut()) };
        self.check("cuLaunchKernelEx", code)
    }

    pub(crate) fn set_function_attribute(&self, function: Handle, attribute: i32, value: u32) -> Result<(), Error> {
        // SAFETY: `function` belongs to a loaded module; a value out of range is an error code.
        self.check("cuFuncSetAttribute", unsafe { (self.func_set_attribute)(function, attribute, value as i32) })
    }
}

/// The dynamic linker's own words where the error has them.
fn cause(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| format!("{LIBRARY}: {error}"), ToString::to_string)
}

fn lacking(source: &Source, symbol: &str) -> Error {
    let mut version = 0;
    if let Some(found) = source.find("cuDriverGetVersion") {
        // SAFETY: `cuDriverGetVersion` has had this signature since CUDA 2.2; it needs no initialisation.
        let get = unsafe { mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut i32) -> Code>(found) };
        // SAFETY: `version` is a place for one int. When the call fails it stays zero, which is then shown.
        unsafe { get(&mut version) };
    }
    Error::DriverTooOld { found: DriverVersion(version.unsigned_abs()), missing: format!("which has no {symbol}") }
}
