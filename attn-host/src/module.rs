//! Loaded kernels, one module for each kernel and context, shared by all plans.
//!
//! A module stays loaded until its context is destroyed, which the driver then does by itself. Contexts are told apart by
//! the number of `cuCtxGetId`, which no later context gets again, so a plan never finds a module of a context that is gone.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{LazyLock, Mutex, PoisonError};

use attn_kernel::companion::EntryPoint;

use crate::device::Device;
use crate::error::Error;
use crate::kernels::Code;
use crate::sys::{self, Handle, function_attribute as attribute};

/// Entry points by context number and kernel name.
static LOADED: LazyLock<Mutex<HashMap<(u64, &'static str), Handle>>> = LazyLock::new(Mutex::default);

/// The kernel's entry point in the device's context, which is current: loaded by the first call, ready to launch.
///
/// `find` gives the code; it is called when the kernel is not loaded yet.
pub(crate) fn entry_point(
    device: &Device,
    kernel: &EntryPoint,
    find: impl FnOnce(&EntryPoint) -> Result<Code, Error>,
) -> Result<Handle, Error> {
    // A panic while the lock was held leaves a map without the new entry, which is as good as before.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (device.context_id, kernel.name);
    if let Some(&function) = loaded.get(&key) {
        return Ok(function);
    }
    let module = load(device, kernel, &find(kernel)?)?;
    match prepare(device, kernel, module) {
        Ok(function) => {
            loaded.insert(key, function);
            Ok(function)
        }
        Err(error) => {
            // The first error is the one to report; a module that cannot be unloaded goes with its context.
            let _ = device.driver.unload_module(module);
            Err(error)
        }
    }
}

/// A form of a kernel's code, which is unpacked when it is asked for.
type Unpack = fn(&Code, &EntryPoint) -> Result<Option<Vec<u8>>, Error>;

/// What a driver is given, in turn, until it takes one.
const FORMS: [(&str, Unpack); 2] = [("machine code", Code::cubin), ("PTX", Code::ptx)];

/// Loads the machine code or, where the driver does not take it, has the driver compile the PTX.
fn load(device: &Device, kernel: &EntryPoint, code: &Code) -> Result<Handle, Error> {
    let driver = device.driver;
    let mut refusals = Vec::new();
    for (form, image) in FORMS {
        let Some(image) = image(code, kernel)? else { continue };
        // SAFETY: the image is a whole file of its form, and PTX comes with its terminating zero.
        match unsafe { driver.load_module(&image) } {
            Ok(module) => return Ok(module),
            Err(error) if means_too_old(error.code) => refusals.push(format!("{form}: {}", driver.describe(&error))),
            Err(error) => return Err(driver.load_error(&error)),
        }
    }
    Err(Error::DriverTooOld {
        found: device.info().driver_version,
        missing: format!("which takes no form of kernel {} ({})", kernel.name, refusals.join("; ")),
    })
}

/// Codes by which a driver says that an image is of a later time than itself.
fn means_too_old(code: sys::Code) -> bool {
    matches!(
        code,
        sys::INVALID_IMAGE
            | sys::NO_BINARY_FOR_GPU
            | sys::JIT_COMPILER_NOT_FOUND
            | sys::UNSUPPORTED_PTX_VERSION
            | sys::INVALID_SOURCE
    )
}

fn prepare(device: &Device, kernel: &EntryPoint, module: Handle) -> Result<Handle, Error> {
    let driver = device.driver;
    let name = CString::new(kernel.name).expect("kernel names are Rust identifiers");
    let function = driver.function(module, &name)?;
    let (found, needed) = (driver.function_attribute(function, attribute::MAX_THREADS_PER_BLOCK)?, kernel.threads);
    if found < needed {
        return Err(Error::StaleKernel { kernel: kernel.name, found, needed });
    }
    driver.set_function_attribute(function, attribute::MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel.shared)?;
    Ok(function)
}
