//! Modules of PTX text, their kernels and variables.

use std::ffi::c_void;
use std::fs;

use attn_sim::ptx::{Bounds, Space};

use crate::abi::{Array, Out, Outcome, Source, Target, exports};
use crate::code::Code;
use crate::device::{DEFAULT_SHARED, MAX_THREADS};
use crate::state::{self, Function, Handle, Module, State};

/// `CUjit_option`s whose values say where a log goes and how long it may be.
const ERROR_LOG_BUFFER: u32 = 5;
const ERROR_LOG_BUFFER_SIZE_BYTES: u32 = 6;

/// How machine code begins: ELF, and the two forms of fat binaries.
const BINARIES: [&[u8]; 3] = [b"\x7fELF", b"\x50\xed\x55\xba", b"\xb1\x43\x62\x46"];

exports! {
    fn cuModuleLoad(module: Out<Handle>, path: Source) {
        let text = fs::read(path.name()?).map_err(|_| Code::FILE_NOT_FOUND)?;
        module.put(load(&text).map_err(Refused::told)?)
    }

    fn cuModuleLoadData(module: Out<Handle>, image: Source) {
        module.put(load(image.text()?.to_bytes()).map_err(Refused::told)?)
    }

    fn cuModuleLoadDataEx(
        module: Out<Handle>, image: Source, count: u32, options: Array<u32>, values: Array<*mut c_void>,
    ) {
        let (options, values) = (options.read(count as usize)?, values.read(count as usize)?);
        let loaded = load(image.text()?.to_bytes()).map_err(|refused| match log_buffer(&options, &values) {
            Some((buffer, room)) => {
                // SAFETY: the caller promises a buffer of the length that it gives beside it.
                let log = unsafe { Target::new(buffer) };
                // A buffer of no bytes takes no log.
                let _ = log.fill_text(&refused.why, room);
                refused.code
            }
            None => refused.told(),
        });
        module.put(loaded?)
    }

    fn cuModuleUnload(module: Handle) {
        state::in_context()?.0.unload(module)
    }

    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Source) {
        let mut state = state::in_context()?.0;
        function.put(find(&mut state, module, name.name()?)?)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Source) {
        let state = state::in_context()?.0;
        let loaded = &state.modules.get(&module).ok_or(Code::INVALID_HANDLE)?.loaded;
        let name = name.name()?;
        let variables = &loaded.module().variables;
        let variable = variables.iter().find(|v| v.space == Space::Global && v.name == name).ok_or(Code::NOT_FOUND)?;
        bytes.put_if_wanted(variable.bytes() as usize);
        address.put_if_wanted(loaded.global(name).ok_or(Code::NOT_FOUND)?);
        Ok(())
    }

    fn cuFuncGetAttribute(value: Out<i32>, attribute: i32, function: Handle) {
        value.put(attribute_of(&*state::ready()?, function, attribute)?)
    }

    fn cuFuncSetAttribute(function: Handle, attribute: i32, value: i32) {
        set_attribute(&mut *state::ready()?, function, attribute, value)
    }

    fn cuFuncGetModule(module: Out<Handle>, function: Handle) {
        module.put(state::ready()?.functions.get(&function).ok_or(Code::INVALID_HANDLE)?.module)
    }

    /// Preferences between caches and shared memory change nothing here.
    fn cuFuncSetCacheConfig(function: Handle, _config: u32) {
        known(function)
    }

    fn cuFuncSetSharedMemConfig(function: Handle, _config: u32) {
        known(function)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(count: Out<i32>, function: Handle, threads: i32, dynamic: usize) {
        let state = state::ready()?;
        let function = state.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        let threads = u32::try_from(threads).ok().filter(|n| (1..=MAX_THREADS).contains(n)).ok_or(Code::INVALID_VALUE)?;
        count.put(occupancy(threads, function.kernel.static_shared() as usize + dynamic))
    }
}

/// Why an image was not loaded.
struct Refused {
    code: Code,
    why: String,
}

impl Refused {
    /// The code, for callers who have no place for the reason.
    fn told(self) -> Code {
        eprintln!("attn-sim: {}", self.why);
        self.code
    }
}

fn log_buffer(options: &[u32], values: &[*mut c_void]) -> Option<(*mut c_void, usize)> {
    let value = |wanted| options.iter().zip(values).find(|(option, _)| **option == wanted).map(|(_, value)| *value);
    // The length is passed in the place of a pointer.
    Some((value(ERROR_LOG_BUFFER)?, value(ERROR_LOG_BUFFER_SIZE_BYTES)?.addr()))
}

fn load(image: &[u8]) -> Result<Handle, Refused> {
    let refuse = |code, why: String| Err(Refused { code, why });
    let (mut state, context) =
        state::in_context().map_err(|code| Refused { code, why: "no context is current".into() })?;
    if BINARIES.iter().any(|magic| image.starts_with(magic)) {
        return refuse(Code::NO_BINARY_FOR_GPU, "machine code cannot be simulated, PTX can".into());
    }
    let Ok(text) = std::str::from_utf8(image) else {
        return refuse(Code::INVALID_IMAGE, "the image is not PTX text".into());
    };
    let module = match attn_sim::ptx::Module::parse(text) {
        Ok(module) => module,
        Err(error) => return refuse(Code::INVALID_PTX, error.to_string()),
    };
    let arch = state.options.arch;
    if let Some(target) = module.target.first().filter(|target| !arch.runs(target)) {
        return refuse(Code::NO_BINARY_FOR_GPU, format!("PTX for {target} does not run on {arch}"));
    }
    let loaded = state.gpu.load_module(module);
    let handle = state.handle();
    state.modules.insert(handle, Module { loaded, context });
    Ok(handle)
}

/// The kernel's handle; the same name gives the same one.
fn find(state: &mut State, module: Handle, name: &str) -> Outcome<Handle> {
    let known = state.functions.iter().find(|(_, f)| f.module == module && f.kernel.name() == name);
    if let Some((handle, _)) = known {
        return Ok(*handle);
    }
    let loaded = &state.modules.get(&module).ok_or(Code::INVALID_HANDLE)?.loaded;
    let kernel = loaded.kernel(name).map_err(|error| match error {
        attn_sim::Error::Unsupported(_) => {
            eprintln!("attn-sim: kernel {name}: {error}");
            Code::NOT_SUPPORTED
        }
        _ => Code::NOT_FOUND,
    })?;
    let bounds = loaded.module().kernel(name).map(|f| f.bounds.clone()).unwrap_or_default();
    let max_dynamic_shared = DEFAULT_SHARED.saturating_sub(kernel.static_shared());
    let handle = state.handle();
    let function = Function { module, kernel, bounds, max_dynamic_shared, large_clusters: false };
    state.functions.insert(handle, function);
    Ok(handle)
}

/// Threads of the largest block that the kernel's bounds allow.
fn max_threads(bounds: &Bounds) -> u32 {
    bounds.reqntid.or(bounds.maxntid).map_or(MAX_THREADS, |n| n.iter().product::<u32>().min(MAX_THREADS))
}

/// A `CUfunction_attribute`.
fn attribute_of(state: &State, function: Handle, attribute: i32) -> Outcome<i32> {
    let function = state.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
    let module = state.modules.get(&function.module).ok_or(Code::INVALID_HANDLE)?.loaded.module();
    let (major, minor) = state.options.arch.compute_capability();
    let cluster = |axis: usize| function.bounds.reqnctapercluster.map_or(0, |n| n[axis]) as i32;
    Ok(match attribute {
        0 => max_threads(&function.bounds) as i32,
        1 => function.kernel.static_shared() as i32,
        // Constant and local memory, cache mode: nothing here depends on them.
        2 | 3 | 7 => 0,
        // Registers are not allocated; a bound on them is the best that is known.
        4 => function.bounds.maxnreg.unwrap_or(255) as i32,
        5 => (module.version.0 * 10 + module.version.1) as i32,
        6 => (major * 10 + minor) as i32,
        8 => function.max_dynamic_shared as i32,
        9 => -1,
        10 => i32::from(function.bounds.reqnctapercluster.is_some()),
        11..=13 => cluster(attribute as usize - 11),
        14 => i32::from(function.large_clusters),
        15 => 0,
        _ => return Err(Code::INVALID_VALUE),
    })
}

fn set_attribute(state: &mut State, function: Handle, attribute: i32, value: i32) -> Outcome {
    let function = state.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
    match attribute {
        8 => {
            let most = attn_sim::MAX_SHARED.saturating_sub(function.kernel.static_shared());
            let bytes = u32::try_from(value).ok().filter(|bytes| *bytes <= most).ok_or(Code::INVALID_VALUE)?;
            function.max_dynamic_shared = bytes;
        }
        // A preferred share of shared memory changes nothing here.
        9 => {}
        14 => function.large_clusters = value != 0,
        _ => return Err(Code::INVALID_VALUE),
    }
    Ok(())
}

fn known(function: Handle) -> Outcome {
    if state::ready()?.functions.contains_key(&function) { Ok(()) } else { Err(Code::INVALID_HANDLE) }
}

/// Blocks of a multiprocessor by threads and shared memory.
fn occupancy(threads: u32, shared: usize) -> i32 {
    /// A multiprocessor's shared memory, and the part of every block's that is the system's.
    const SHARED: usize = 228 * 1024;
    const RESERVED: usize = 1024;
    let by_threads = 2048 / threads.next_multiple_of(32);
    let by_shared = SHARED / (shared + RESERVED);
    by_threads.min(32).min(by_shared as u32) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_a_multiprocessor_are_bounded_by_threads_and_shared_memory() {
        assert_eq!(occupancy(1024, 0), 2);
        assert_eq!(occupancy(33, 0), 32);
        assert_eq!(occupancy(128, 227 * 1024), 1);
        assert_eq!(occupancy(128, 228 * 1024), 0);
        assert_eq!(occupancy(128, 56 * 1024), 4);
    }

    #[test]
    fn a_log_needs_a_buffer_and_its_length() {
        let mut buffer = [0u8; 4];
        let place: *mut c_void = buffer.as_mut_ptr().cast();
        let length = std::ptr::without_provenance_mut(4);
        assert_eq!(log_buffer(&[5, 6], &[place, length]), Some((place, 4)));
        assert_eq!(log_buffer(&[5], &[place]), None);
    }
}
