//! Streams and events. Work is done when the call that queues it returns, so nothing here ever waits.

use std::ffi::c_void;
use std::time::Instant;

use crate::abi::{Out, Outcome, exports};
use crate::code::Code;
use crate::device;
use crate::state::{self, Event, Handle, Locked, Stream};

/// `CU_EVENT_DISABLE_TIMING`
const DISABLE_TIMING: u32 = 2;

exports! {
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) {
        stream.put(create(flags, 0)?)
    }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) {
        stream.put(create(flags, priority)?)
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        state::in_context()?.0.streams.remove(&stream).map(|_| ()).ok_or(Code::INVALID_HANDLE)
    }

    fn cuStreamGetFlags(stream: Handle, flags: Out<u32>) {
        flags.put(on(stream)?.streams.get(&stream).map_or(0, |s| s.flags))
    }

    fn cuStreamGetPriority(stream: Handle, priority: Out<i32>) {
        priority.put(on(stream)?.streams.get(&stream).map_or(0, |s| s.priority))
    }

    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        let (state, current) = state::in_context()?;
        state.check_stream(stream)?;
        context.put(state.streams.get(&stream).map_or(current, |s| s.context))
    }

    fn cuStreamGetDevice(stream: Handle, ordinal: Out<i32>) {
        on(stream)?;
        ordinal.put(device::ORDINAL)
    }

    fn cuStreamSynchronize(stream: Handle) {
        on(stream).map(|_| ())
    }

    fn cuStreamQuery(stream: Handle) {
        on(stream).map(|_| ())
    }

    /// No stream is ever being captured: `CU_STREAM_CAPTURE_STATUS_NONE`.
    fn cuStreamIsCapturing(stream: Handle, status: Out<u32>) {
        on(stream)?;
        status.put(0)
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: u32) {
        if on(stream)?.events.contains_key(&event) { Ok(()) } else { Err(Code::INVALID_HANDLE) }
    }

    /// All that was queued before is done, so the function is called at once.
    fn cuLaunchHostFunc(stream: Handle, function: Option<unsafe extern "C" fn(*mut c_void)>, argument: *mut c_void) {
        // The device is free again when the function is called.
        drop(on(stream)?);
        let function = function.ok_or(Code::INVALID_VALUE)?;
        // SAFETY: the caller promises a function that takes this argument and does not call the driver.
        unsafe { function(argument) };
        Ok(())
    }

    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        let (mut state, context) = state::in_context()?;
        let handle = state.handle();
        state.events.insert(handle, Event { timed: flags & DISABLE_TIMING == 0, recorded: None, context });
        event.put(handle)
    }

    fn cuEventDestroy_v2(event: Handle) {
        state::in_context()?.0.events.remove(&event).map(|_| ()).ok_or(Code::INVALID_HANDLE)
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        let mut state = on(stream)?;
        state.events.get_mut(&event).ok_or(Code::INVALID_HANDLE)?.recorded = Some(Instant::now());
        Ok(())
    }

    fn cuEventQuery(event: Handle) {
        known(event)
    }

    fn cuEventSynchronize(event: Handle) {
        known(event)
    }

    /// Wall clock: what the simulation took.
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        milliseconds.put(elapsed(start, end)?)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        milliseconds.put(elapsed(start, end)?)
    }
}

fn create(flags: u32, priority: i32) -> Outcome<Handle> {
    let (mut state, context) = state::in_context()?;
    let handle = state.handle();
    state.streams.insert(handle, Stream { flags, priority, context });
    Ok(handle)
}

fn on(stream: Handle) -> Outcome<Locked> {
    let state = state::in_context()?.0;
    state.check_stream(stream)?;
    Ok(state)
}

fn known(event: Handle) -> Outcome {
    if state::in_context()?.0.events.contains_key(&event) { Ok(()) } else { Err(Code::INVALID_HANDLE) }
}

fn elapsed(start: Handle, end: Handle) -> Outcome<f32> {
    let state = state::in_context()?.0;
    let moment = |event: Handle| {
        let found = state.events.get(&event).filter(|event| event.timed).ok_or(Code::INVALID_HANDLE)?;
        found.recorded.ok_or(Code::INVALID_HANDLE)
    };
    let (start, end) = (moment(start)?, moment(end)?);
    let seconds = if end >= start { (end - start).as_secs_f64() } else { -(start - end).as_secs_f64() };
    Ok((seconds * 1e3) as f32)
}
