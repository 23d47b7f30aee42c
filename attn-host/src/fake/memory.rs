//! The fake's functions for memory, streams, events and contexts.

use std::ffi::c_void;
use std::thread;
use std::time::Duration;

use super::machine::{Host, Machine, Work};
use super::{STATE, State, call, contexts, put, release, with};
use crate::sys::{self, Code, Handle};

/// How long who waits for the device sleeps before looking again. Miri's clock leaps to the end of a sleep, but every look takes it long.
const NAP: Duration = if cfg!(miri) { Duration::from_millis(250) } else { Duration::from_micros(100) };

/// Contexts that were current before others were pushed. A thread's state is that of its current context.
pub(super) unsafe extern "C" fn ctx_push(context: Handle) -> Code {
    let Some(state) = contexts().get(&(context.0 as usize)).and_then(std::sync::Weak::upgrade) else {
        return sys::INVALID_CONTEXT;
    };
    let before = STATE.with_borrow_mut(|stack| {
        stack.push(state);
        stack.len()
    });
    let code = call("cuCtxPushCurrent", |_| sys::SUCCESS);
    if code != sys::SUCCESS {
        STATE.with_borrow_mut(|stack| stack.truncate(before - 1));
    }
    code
}

/// Never fails by order: what is popped was pushed.
pub(super) unsafe extern "C" fn ctx_pop(context: *mut Handle) -> Code {
    let popped = STATE.with_borrow_mut(|stack| if stack.len() > 1 { stack.pop() } else { None });
    match popped {
        Some(state) => put(context, super::lock(&state).current),
        None => sys::INVALID_CONTEXT,
    }
}

/// Records a call that waits for the device, and sleeps until the machine says that it is done.
fn wait(name: &'static str, done: impl Fn(&mut Machine) -> bool) -> Code {
    if let Some(code) = with(|state| state.failure(name)) {
        return code;
    }
    loop {
        match with(|state| state.lost.or_else(|| done(&mut state.machine).then_some(sys::SUCCESS))) {
            Some(code) => return code,
            None => thread::sleep(NAP),
        }
    }
}

/// What allocates and frees waits for the device to be idle, as drivers may, where it does not come to be.
fn until_not_stuck() {
    while with(|state| state.lost.is_none() && state.machine.is_stuck()) {
        thread::sleep(NAP);
    }
}

pub(super) unsafe extern "C" fn ctx_synchronize() -> Code {
    wait("cuCtxSynchronize", |machine| machine.finish(None))
}

pub(super) unsafe extern "C" fn mem_alloc(address: *mut u64, bytes: usize) -> Code {
    until_not_stuck();
    call("cuMemAlloc", |state| state.machine.allocate(bytes).map_or(sys::OUT_OF_MEMORY, |found| put(address, found)))
}

pub(super) unsafe extern "C" fn mem_free(address: u64) -> Code {
    until_not_stuck();
    release("cuMemFree", |state| state.machine.free(address))
}

pub(super) unsafe extern "C" fn host_register(place: *mut c_void, bytes: usize, _: u32) -> Code {
    until_not_stuck();
    call("cuMemHostRegister", |state| {
        state.machine.pinned.insert(place as usize, bytes);
        sys::SUCCESS
    })
}

pub(super) unsafe extern "C" fn host_unregister(place: *mut c_void) -> Code {
    until_not_stuck();
    release("cuMemHostUnregister", |state| {
        if state.machine.pinned.remove(&(place as usize)).is_none() {
            state.machine.violation(format!("{place:?} is unregistered and was not registered"));
        }
    })
}

/// Queues work on a stream.
fn queue(name: &'static str, stream: Handle, work: Work) -> Code {
    call(name, |state| {
        state.machine.queue(stream.0 as usize, work);
        sys::SUCCESS
    })
}

pub(super) unsafe extern "C" fn copy_in(to: u64, from: *const c_void, bytes: usize, stream: Handle) -> Code {
    let from = Host(from.cast::<u8>().cast_mut());
    queue("cuMemcpyHtoDAsync", stream, Work::CopyIn { to, from, bytes })
}

pub(super) unsafe extern "C" fn copy_out(to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> Code {
    queue("cuMemcpyDtoHAsync", stream, Work::CopyOut { to: Host(to.cast()), from, bytes })
}

pub(super) unsafe extern "C" fn fill(at: u64, value: u8, bytes: usize, stream: Handle) -> Code {
    assert_eq!(value, 0);
    queue("cuMemsetD8Async", stream, Work::Clear { at, bytes })
}

pub(super) unsafe extern "C" fn stream_create(stream: *mut Handle, _: u32) -> Code {
    call("cuStreamCreate", |state| put(stream, Handle(state.machine.create_stream() as *mut c_void)))
}

pub(super) unsafe extern "C" fn stream_destroy(stream: Handle) -> Code {
    release("cuStreamDestroy", |state: &mut State| {
        let lost = state.lost.is_some();
        state.machine.destroy_stream(stream.0 as usize, lost);
    })
}

pub(super) unsafe extern "C" fn stream_synchronize(stream: Handle) -> Code {
    wait("cuStreamSynchronize", |machine| machine.finish(Some(stream.0 as usize)))
}

pub(super) unsafe extern "C" fn stream_wait_event(stream: Handle, event: Handle, _: u32) -> Code {
    call("cuStreamWaitEvent", |state| {
        state.machine.wait_event(stream.0 as usize, event.0 as usize);
        sys::SUCCESS
    })
}

pub(super) unsafe extern "C" fn event_create(event: *mut Handle, _: u32) -> Code {
    call("cuEventCreate", |state| put(event, Handle(state.machine.create_event() as *mut c_void)))
}

pub(super) unsafe extern "C" fn event_destroy(event: Handle) -> Code {
    release("cuEventDestroy", |state| state.machine.destroy_event(event.0 as usize))
}

pub(super) unsafe extern "C" fn event_record(event: Handle, stream: Handle) -> Code {
    call("cuEventRecord", |state| {
        state.machine.record(event.0 as usize, stream.0 as usize);
        sys::SUCCESS
    })
}

pub(super) unsafe extern "C" fn event_synchronize(event: Handle) -> Code {
    wait("cuEventSynchronize", |machine| machine.finish_event(event.0 as usize))
}
