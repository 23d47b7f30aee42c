//! A driver that records what it is asked, for the tests. Its state belongs to the test's thread, and to others while the state's context is
//! current there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use attn_kernel::append::AppendParams;
use attn_kernel::companion::EntryPoint;
use attn_kernel::forward::{CombineParams, ForwardParams, ScheduleParams, ServeParams, TensorMap};

use crate::device::Device;
use crate::driver::Driver;
use crate::kernels::Code as KernelCode;
use crate::sys::{self, Code, DeviceHandle, Handle, LaunchAttribute, LaunchConfig, device_attribute};
use machine::Machine;

mod attend;
pub(crate) mod machine;
mod memory;

/// What the driver was told, and how it is to behave.
pub(crate) struct State {
    /// Every call but those that look up an error's words.
    pub(crate) calls: Vec<&'static str>,
    /// The call with this index returns this code and does nothing.
    pub(crate) fail: Option<(usize, Code)>,
    /// A call that fails leaves the device lost.
    pub(crate) sticky: bool,
    /// What every call returns once the device is lost.
    pub(crate) lost: Option<Code>,
    /// The call that was to fail, once it has.
    pub(crate) failed: Option<&'static str>,
    /// What loading machine code and loading PTX return.
    pub(crate) load_codes: (Code, Code),
    pub(crate) current: Handle,
    pub(crate) context_id: u64,
    pub(crate) attributes: HashMap<i32, i32>,
    /// The device of each address that is not on device 0.
    pub(crate) foreign: HashMap<u64, i32>,
    pub(crate) max_threads: i32,
    pub(crate) modules_alive: i32,
    pub(crate) smem_set: Option<i32>,
    pub(crate) encoded: Vec<Encoded>,
    pub(crate) launches: Vec<Launch>,
    /// Memory, streams and events.
    pub(crate) machine: Machine,
}

// SAFETY: handles and addresses of the fake are numbers; the pointers in the records are never read.
unsafe impl Send for State {}

/// The arguments of one `cuTensorMapEncodeTiled`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Encoded {
    pub(crate) data_type: i32,
    pub(crate) address: u64,
    pub(crate) dims: Vec<u64>,
    pub(crate) strides: Vec<u64>,
    pub(crate) tile: Vec<u32>,
    pub(crate) swizzle: i32,
}

/// The arguments of one `cuLaunchKernelEx`. The fake's tensor maps hold their address in the first word.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) grid: (u32, u32, u32),
    pub(crate) block: (u32, u32, u32),
    pub(crate) smem: u32,
    pub(crate) stream: usize,
    pub(crate) overlap: bool,
    pub(crate) arguments: Arguments,
}

/// What a kernel was passed, by its name. Attention kernels get the addresses of their maps too.
#[derive(Clone, Debug)]
pub(crate) enum Arguments {
    Dense(ForwardParams, [u64; 4]),
    Serve(ServeParams, [u64; 4]),
    Schedule(ScheduleParams),
    Combine(CombineParams),
    Append(AppendParams),
}

/// The function of each kind of kernel.
const FUNCTIONS: [(&[u8], usize); 8] = [
    (b"fwd_", 0x2000),
    (b"serve_", 0x3000),
    (b"decode_", 0x3000),
    (b"prompt_", 0x3000),
    (b"short_", 0x3000),
    (b"schedule", 0x4000),
    (b"combine_", 0x5000),
    (b"append_", 0x6000),
];

impl Launch {
    /// What a dense kernel was passed.
    pub(crate) fn dense(&self) -> (ForwardParams, [u64; 4]) {
        match self.arguments {
            Arguments::Dense(params, addresses) => (params, addresses),
            ref other => panic!("not a dense kernel: {other:?}"),
        }
    }

    /// What a serving kernel was passed.
    pub(crate) fn serve(&self) -> (ServeParams, [u64; 4]) {
        match self.arguments {
            Arguments::Serve(params, addresses) => (params, addresses),
            ref other => panic!("not a serving kernel: {other:?}"),
        }
    }
}

/// The context that a state has at first.
fn own_context(id: u64) -> Handle {
    Handle((id * 0x100) as *mut c_void)
}

type Shared = Arc<Mutex<State>>;

thread_local! {
    /// The state of the thread's current context last, below it those of what was current before.
    static STATE: RefCell<Vec<Shared>> = RefCell::new(vec![State::shared()]);
}

/// States by their context.
fn contexts() -> MutexGuard<'static, HashMap<usize, Weak<Mutex<State>>>> {
    static CONTEXTS: LazyLock<Mutex<HashMap<usize, Weak<Mutex<State>>>>> = LazyLock::new(Mutex::default);
    CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn new() -> Self {
        static CONTEXTS: AtomicUsize = AtomicUsize::new(1);
        let id = CONTEXTS.fetch_add(1, Ordering::Relaxed);
        State {
            calls: Vec::new(),
            fail: None,
            sticky: false,
            lost: None,
            failed: None,
            load_codes: (sys::SUCCESS, sys::SUCCESS),
            current: own_context(id as u64),
            context_id: id as u64,
            attributes: HashMap::from([
                (device_attribute::COMPUTE_CAPABILITY_MAJOR, 9),
                (device_attribute::COMPUTE_CAPABILITY_MINOR, 0),
                (device_attribute::MULTIPROCESSOR_COUNT, 132),
                (device_attribute::L2_CACHE_SIZE, 50 << 20),
                (device_attribute::MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 227 * 1024),
            ]),
            foreign: HashMap::new(),
            max_threads: 1024,
            modules_alive: 0,
            smem_set: None,
            encoded: Vec::new(),
            launches: Vec::new(),
            machine: Machine::new(id as u64),
        }
    }

    /// A new state, to be found by its context.
    fn shared() -> Shared {
        let state = State::new();
        let context = state.current.0 as usize;
        let shared = Arc::new(Mutex::new(state));
        contexts().insert(context, Arc::downgrade(&shared));
        shared
    }
}

/// A fresh context with nothing loaded, called or failing.
pub(crate) fn reset() {
    STATE.with_borrow_mut(|stack| *stack = vec![State::shared()]);
}

/// [`reset`], to a device of this compute capability.
pub(crate) fn reset_to((major, minor): (i32, i32)) {
    reset();
    with(|state| {
        state.attributes.insert(device_attribute::COMPUTE_CAPABILITY_MAJOR, major);
        state.attributes.insert(device_attribute::COMPUTE_CAPABILITY_MINOR, minor);
    });
}

/// Reads or changes the state.
pub(crate) fn with<R>(f: impl FnOnce(&mut State) -> R) -> R {
    let state = STATE.with_borrow(|stack| stack.last().expect("there is always one").clone());
    f(&mut lock(&state))
}

/// The fake's device.
pub(crate) fn device() -> Device {
    Device::with_driver(&DRIVER).expect("the fake answers")
}

/// Code that the fake loads.
pub(crate) fn code(_: &EntryPoint) -> Result<KernelCode, crate::Error> {
    Ok(KernelCode::from_parts(Some(b"cubin".to_vec()), Some(b"ptx".to_vec())))
}

impl State {
    /// Records a call. The code of its failure, where it is to fail.
    fn failure(&mut self, name: &'static str) -> Option<Code> {
        let index = self.calls.len();
        self.calls.push(name);
        if self.lost.is_some() {
            return self.lost;
        }
        let (_, code) = self.fail.filter(|(failing, _)| *failing == index)?;
        self.failed = Some(name);
        if self.sticky {
            self.lost = Some(code);
        }
        Some(code)
    }
}

/// Records a call, and carries it out unless it is to fail.
fn call(name: &'static str, effect: impl FnOnce(&mut State) -> Code) -> Code {
    with(|state| state.failure(name).unwrap_or_else(|| effect(state)))
}

/// The same of a call that gives something back, which counts as given back on a lost device too.
fn release(name: &'static str, effect: impl FnOnce(&mut State)) -> Code {
    with(|state| {
        let failure = state.failure(name);
        if failure.is_none() || state.lost.is_some() {
            effect(state);
        }
        failure.unwrap_or(sys::SUCCESS)
    })
}

/// Writes a result to the caller's place.
fn put<T>(place: *mut T, value: T) -> Code {
    // SAFETY: the driver layer passes places for the values that it asks for.
    unsafe { place.write(value) };
    sys::SUCCESS
}

pub(crate) static DRIVER: Driver = Driver {
    init,
    driver_version,
    device_get,
    primary_context,
    ctx_set,
    error_name: error_text,
    error_string: error_text,
    ctx_current,
    ctx_id,
    ctx_device,
    device_name,
    device_attribute: device_attribute_of,
    pointer_attribute,
    module_load,
    module_unload,
    module_function,
    func_get_attribute,
    func_set_attribute,
    encode_tiled,
    launch_kernel,
    ctx_push: memory::ctx_push,
    ctx_pop: memory::ctx_pop,
    ctx_synchronize: memory::ctx_synchronize,
    mem_alloc: memory::mem_alloc,
    mem_free: memory::mem_free,
    host_register: memory::host_register,
    host_unregister: memory::host_unregister,
    copy_in: memory::copy_in,
    copy_out: memory::copy_out,
    fill: memory::fill,
    stream_create: memory::stream_create,
    stream_destroy: memory::stream_destroy,
    stream_synchronize: memory::stream_synchronize,
    stream_wait_event: memory::stream_wait_event,
    event_create: memory::event_create,
    event_destroy: memory::event_destroy,
    event_record: memory::event_record,
    event_synchronize: memory::event_synchronize,
};

unsafe extern "C" fn init(_: u32) -> Code {
    call("cuInit", |_| sys::SUCCESS)
}

unsafe extern "C" fn driver_version(version: *mut i32) -> Code {
    call("cuDriverGetVersion", |_| put(version, 12080))
}

/// `CUDA_ERROR_INVALID_DEVICE`.
pub(crate) const INVALID_DEVICE: Code = 101;

/// There is one device, 0.
unsafe extern "C" fn device_get(device: *mut DeviceHandle, ordinal: i32) -> Code {
    call("cuDeviceGet", |_| if ordinal == 0 { put(device, 0) } else { INVALID_DEVICE })
}

/// Its primary context is the one that the thread had at first.
unsafe extern "C" fn primary_context(context: *mut Handle, _: DeviceHandle) -> Code {
    call("cuDevicePrimaryCtxRetain", |state| put(context, own_context(state.context_id)))
}

unsafe extern "C" fn ctx_set(context: Handle) -> Code {
    call("cuCtxSetCurrent", |state| {
        state.current = context;
        sys::SUCCESS
    })
}

unsafe extern "C" fn error_text(_: Code, text: *mut *const c_char) -> Code {
    put(text, c"FAKE".as_ptr())
}

unsafe extern "C" fn ctx_current(context: *mut Handle) -> Code {
    call("cuCtxGetCurrent", |state| put(context, state.current))
}

unsafe extern "C" fn ctx_id(_: Handle, id: *mut u64) -> Code {
    call("cuCtxGetId", |state| put(id, state.context_id))
}

unsafe extern "C" fn ctx_device(device: *mut DeviceHandle) -> Code {
    call("cuCtxGetDevice", |_| put(device, 0))
}

unsafe extern "C" fn device_name(name: *mut c_char, length: i32, _: DeviceHandle) -> Code {
    let text = c"Fake GPU".to_bytes_with_nul();
    assert!(length as usize >= text.len());
    // SAFETY: the text fits the caller's buffer.
    call("cuDeviceGetName", |_| unsafe {
        name.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        sys::SUCCESS
    })
}

unsafe extern "C" fn device_attribute_of(value: *mut i32, attribute: i32, _: DeviceHandle) -> Code {
    call("cuDeviceGetAttribute", |state| put(value, state.attributes[&attribute]))
}

unsafe extern "C" fn pointer_attribute(value: *mut c_void, attribute: i32, address: u64) -> Code {
    assert_eq!(attribute, sys::pointer_attribute::DEVICE_ORDINAL);
    call("cuPointerGetAttribute", |state| put(value.cast(), state.foreign.get(&address).copied().unwrap_or(0)))
}

unsafe extern "C" fn module_load(
    module: *mut Handle,
    image: *const c_void,
    options: u32,
    _: *mut i32,
    values: *mut *mut c_void,
) -> Code {
    assert_eq!(options, 2);
    // SAFETY: the tests' images are at least five bytes, PTX with its terminator four.
    let is_ptx = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), 4) } == b"ptx\0";
    call("cuModuleLoadDataEx", |state| {
        let code = if is_ptx { state.load_codes.1 } else { state.load_codes.0 };
        if code == sys::SUCCESS {
            state.modules_alive += 1;
            return put(module, Handle(0x1000 as *mut c_void));
        }
        if is_ptx {
            // SAFETY: the first value is the log buffer, which is longer than this.
            unsafe { (*values).cast::<[u8; 6]>().write(*b"line 9") };
        }
        code
    })
}

unsafe extern "C" fn module_unload(_: Handle) -> Code {
    call("cuModuleUnload", |state| {
        state.modules_alive -= 1;
        sys::SUCCESS
    })
}

unsafe extern "C" fn module_function(function: *mut Handle, _: Handle, name: *const c_char) -> Code {
    // SAFETY: the driver layer passes a terminated name.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let known = FUNCTIONS.iter().find(|(prefix, _)| name.starts_with(prefix));
    let &(_, handle) = known.unwrap_or_else(|| panic!("no kernel is called {}", String::from_utf8_lossy(name)));
    call("cuModuleGetFunction", |_| put(function, Handle(handle as *mut c_void)))
}

unsafe extern "C" fn func_get_attribute(value: *mut i32, attribute: i32, _: Handle) -> Code {
    assert_eq!(attribute, sys::function_attribute::MAX_THREADS_PER_BLOCK);
    call("cuFuncGetAttribute", |state| put(value, state.max_threads))
}

unsafe extern "C" fn func_set_attribute(_: Handle, attribute: i32, value: i32) -> Code {
    assert_eq!(attribute, sys::function_attribute::MAX_DYNAMIC_SHARED_SIZE_BYTES);
    call("cuFuncSetAttribute", |state| {
        state.smem_set = Some(value);
        sys::SUCCESS
    })
}

unsafe extern "C" fn encode_tiled(
    map: *mut TensorMap,
    data_type: i32,
    rank: u32,
    address: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    tile: *const u32,
    element_strides: *const u32,
    interleave: i32,
    swizzle: i32,
    _l2_promotion: i32,
    fill: i32,
) -> Code {
    assert!((interleave, fill) == (0, 0) && (4..=5).contains(&rank));
    let rank = rank as usize;
    // SAFETY: the arrays have an entry for every dimension, that of strides one less.
    let (dims, strides, tile, steps) = unsafe {
        (
            std::slice::from_raw_parts(dims, rank).to_vec(),
            std::slice::from_raw_parts(strides, rank - 1).to_vec(),
            std::slice::from_raw_parts(tile, rank).to_vec(),
            std::slice::from_raw_parts(element_strides, rank),
        )
    };
    assert!(steps.iter().all(|&step| step == 1));
    call("cuTensorMapEncodeTiled", |state| {
        let address = address as u64;
        let mut encoded = TensorMap([0; 16]);
        encoded.0[..2].copy_from_slice(&[address, state.encoded.len() as u64]);
        state.encoded.push(Encoded { data_type, address, dims, strides, tile, swizzle });
        put(map, encoded)
    })
}

unsafe extern "C" fn launch_kernel(
    config: *const LaunchConfig,
    function: Handle,
    arguments: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    assert!(!function.is_null() && extra.is_null());
    // SAFETY: a configuration with as many attributes as it says.
    let (config, attributes) = unsafe {
        let config = &*config;
        (config, std::slice::from_raw_parts(config.attributes, config.count as usize))
    };
    let mut maps = [TensorMap([0; 16]); 4];
    // SAFETY: each kernel takes its parameters first, an attention kernel then four tensor maps.
    let passed = unsafe {
        let params = *arguments;
        let mut addresses = || {
            let places = *arguments.cast::<[*mut c_void; 5]>();
            maps = [1, 2, 3, 4].map(|i| *places[i].cast::<TensorMap>());
            maps.map(|map| map.0[0])
        };
        match function.0 as usize {
            0x2000 => Arguments::Dense(*params.cast(), addresses()),
            0x3000 => Arguments::Serve(*params.cast(), addresses()),
            0x4000 => Arguments::Schedule(*params.cast()),
            0x5000 => Arguments::Combine(*params.cast()),
            0x6000 => Arguments::Append(*params.cast()),
            other => panic!("{other:#x} is no function of this driver"),
        }
    };
    call("cuLaunchKernelEx", |state| {
        let overlap = attributes.iter().any(|a| a.id == LaunchAttribute::OVERLAP && a.value[0] == 1);
        let LaunchConfig { grid, block, smem, stream, .. } = *config;
        let (grid, block) = (grid.into(), block.into());
        state.attend(stream.0 as usize, &passed, &maps);
        state.launches.push(Launch { grid, block, smem, stream: stream.0 as usize, overlap, arguments: passed });
        sys::SUCCESS
    })
}

/// The device does nothing, or something on it does not end, and who waits for it waits, as long as this lives.
pub(crate) struct Held(Shared);

impl Drop for Held {
    fn drop(&mut self) {
        let machine = &mut lock(&self.0).machine;
        (machine.held, machine.endless) = (false, None);
    }
}

/// This thread's state, with a change to it.
fn held(change: impl FnOnce(&mut Machine)) -> Held {
    let state = STATE.with_borrow(|stack| stack.last().expect("there is always one").clone());
    change(&mut lock(&state).machine);
    Held(state)
}

/// Holds the device of this thread's context.
pub(crate) fn hold() -> Held {
    held(|machine| machine.held = true)
}

/// Of the work that is queued from now on, the one with this number does not end, nor does anything behind it in its stream.
pub(crate) fn stick(number: usize) -> Held {
    held(|machine| machine.endless = Some(machine.queued + number))
}
