//! The simulated device and everything that handles stand for.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use attn_sim::ptx::Bounds;
use attn_sim::{Gpu, Kernel, Loaded};

use crate::abi::Outcome;
use crate::code::Code;
use crate::options::Options;

/// A handle as it crosses the C boundary. Zero is none; a number is given once.
pub(crate) type Handle = usize;

/// Bytes of device memory.
pub(crate) const MEMORY: u64 = 16 << 30;

/// A context.
#[derive(Debug, Default)]
pub(crate) struct Context {
    pub(crate) flags: u32,
    /// `CUfunc_cache` and `CUsharedconfig`, kept to be asked for.
    pub(crate) cache_config: u32,
    pub(crate) shared_config: u32,
    /// Resource limits that were set, by `CUlimit`.
    pub(crate) limits: HashMap<u32, usize>,
}

/// Device memory that a context owns.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) bytes: u64,
    pub(crate) context: Handle,
}

/// A loaded module.
pub(crate) struct Module {
    pub(crate) loaded: Loaded,
    pub(crate) context: Handle,
}

/// A kernel of a module, with what has been set for it.
pub(crate) struct Function {
    pub(crate) module: Handle,
    pub(crate) kernel: Kernel,
    pub(crate) bounds: Bounds,
    pub(crate) max_dynamic_shared: u32,
    /// Whether clusters of more than 8 blocks are allowed, kept to be asked for.
    pub(crate) large_clusters: bool,
}

/// A stream. Work on it is done when the call that queues it returns.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    pub(crate) context: Handle,
}

/// An event, with the moment at which it was last recorded.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) timed: bool,
    pub(crate) recorded: Option<Instant>,
    pub(crate) context: Handle,
}

/// The primary context while it is retained.
#[derive(Debug, Default)]
pub(crate) struct Primary {
    pub(crate) context: Option<Handle>,
    pub(crate) retained: u32,
    pub(crate) flags: u32,
}

/// Everything behind the driver's functions.
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) initialised: bool,
    pub(crate) gpu: Gpu,
    pub(crate) contexts: HashMap<Handle, Context>,
    pub(crate) primary: Primary,
    pub(crate) memory: BTreeMap<u64, Allocation>,
    pub(crate) modules: HashMap<Handle, Module>,
    pub(crate) functions: HashMap<Handle, Function>,
    pub(crate) streams: HashMap<Handle, Stream>,
    pub(crate) events: HashMap<Handle, Event>,
    pub(crate) last: Option<crate::LastLaunch>,
    given: Handle,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

thread_local! {
    /// This thread's contexts, the current one last.
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

/// The device, made by the first call with the environment's options.
pub(crate) fn lock() -> Outcome<Locked> {
    // A panic poisons the lock; `guard` says why the state is used regardless.
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if state.is_none() {
        let options = Options::from_env().map_err(|error| {
            eprintln!("attn-sim: {error}");
            Code::INVALID_VALUE
        })?;
        *state = Some(State::new(options));
    }
    Ok(Locked(state))
}

/// The device, if `cuInit` has been called.
pub(crate) fn ready() -> Outcome<Locked> {
    let state = lock()?;
    if state.initialised { Ok(state) } else { Err(Code::NOT_INITIALIZED) }
}

/// The device and this thread's current context.
pub(crate) fn in_context() -> Outcome<(Locked, Handle)> {
    let state = ready()?;
    let context = current().filter(|context| state.contexts.contains_key(context)).ok_or(Code::INVALID_CONTEXT)?;
    Ok((state, context))
}

/// This thread's current context, which may have been destroyed.
pub(crate) fn current() -> Option<Handle> {
    CURRENT.with_borrow(|stack| stack.last().copied())
}

/// Changes this thread's stack of contexts.
pub(crate) fn with_stack<R>(f: impl FnOnce(&mut Vec<Handle>) -> R) -> R {
    CURRENT.with_borrow_mut(f)
}

/// The device while this thread uses it.
pub(crate) struct Locked(MutexGuard<'static, Option<State>>);

impl std::ops::Deref for Locked {
    type Target = State;

    fn deref(&self) -> &State {
        self.0.as_ref().unwrap_or_else(|| unreachable!("`lock` makes the device"))
    }
}

impl std::ops::DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut State {
        self.0.as_mut().unwrap_or_else(|| unreachable!("`lock` makes the device"))
    }
}

/// The device's options, if there is one.
pub(crate) fn made() -> Option<Options> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|state| state.options)
}

/// Makes the device with `options`, or gives the seed to one that is otherwise the same.
pub(crate) fn configure(options: Options) -> Result<(), Options> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    match state.as_mut() {
        None => *state = Some(State::new(options)),
        Some(made) if Options { seed: options.seed, tensor_order: options.tensor_order, ..made.options } == options => {
            made.options = options
        }
        Some(made) => return Err(made.options),
    }
    Ok(())
}

impl State {
    fn new(options: Options) -> Self {
        State {
            options,
            initialised: false,
            gpu: Gpu::new(),
            contexts: HashMap::new(),
            primary: Primary::default(),
            memory: BTreeMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            last: None,
            given: 0x1000,
        }
    }

    /// A handle that nothing had before.
    pub(crate) fn handle(&mut self) -> Handle {
        self.given += 0x10;
        self.given
    }

    /// Makes a context.
    pub(crate) fn create_context(&mut self, flags: u32) -> Handle {
        let handle = self.handle();
        self.contexts.insert(handle, Context { flags, ..Context::default() });
        handle
    }

    /// Ends a context and all that belongs to it.
    pub(crate) fn destroy_context(&mut self, context: Handle) -> Outcome {
        self.contexts.remove(&context).ok_or(Code::INVALID_CONTEXT)?;
        self.streams.retain(|_, stream| stream.context != context);
        self.events.retain(|_, event| event.context != context);
        let modules: Vec<Handle> = self.modules.iter().filter(|(_, m)| m.context == context).map(|(h, _)| *h).collect();
        modules.into_iter().try_for_each(|module| self.unload(module))?;
        let memory: Vec<u64> = self.memory.iter().filter(|(_, m)| m.context == context).map(|(a, _)| *a).collect();
        memory.into_iter().try_for_each(|address| self.free(address))
    }

    /// Unloads a module and its functions.
    pub(crate) fn unload(&mut self, module: Handle) -> Outcome {
        self.modules.remove(&module).ok_or(Code::INVALID_HANDLE)?;
        self.functions.retain(|_, function| function.module != module);
        Ok(())
    }

    /// Bytes allocated.
    pub(crate) fn used(&self) -> u64 {
        self.memory.values().map(|allocation| allocation.bytes).sum()
    }

    /// Allocates device memory.
    pub(crate) fn allocate(&mut self, bytes: u64, context: Handle) -> Outcome<u64> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        if bytes > MEMORY - self.used() {
            return Err(Code::OUT_OF_MEMORY);
        }
        let address = self.gpu.alloc(bytes);
        self.memory.insert(address, Allocation { bytes, context });
        Ok(address)
    }

    /// Frees device memory.
    pub(crate) fn free(&mut self, address: u64) -> Outcome {
        self.memory.remove(&address).ok_or(Code::INVALID_VALUE)?;
        self.gpu.free(address).map_err(|_| Code::INVALID_VALUE)
    }

    /// The allocation that holds an address: its start and bytes.
    pub(crate) fn owner(&self, address: u64) -> Option<(u64, u64)> {
        let (&start, allocation) = self.memory.range(..=address).next_back()?;
        (address - start < allocation.bytes).then_some((start, allocation.bytes))
    }

    /// Whether a stream may be used: one that exists, or one of the driver's own (null, legacy, per thread).
    pub(crate) fn check_stream(&self, stream: Handle) -> Outcome {
        if stream <= 2 || self.streams.contains_key(&stream) { Ok(()) } else { Err(Code::INVALID_HANDLE) }
    }
}
