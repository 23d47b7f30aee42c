//! Contexts, and which of them is current on a thread.

use crate::abi::{Out, Outcome, exports};
use crate::code::Code;
use crate::device;
use crate::state::{self, Context, Handle, State};

/// `cuCtxGetApiVersion`.
const API_VERSION: u32 = 3020;

exports! {
    fn cuCtxCreate_v2(context: Out<Handle>, flags: u32, device: i32) {
        let mut state = state::ready()?;
        device::check(device)?;
        let created = state.create_context(flags);
        state::with_stack(|stack| stack.push(created));
        context.put(created)
    }

    fn cuCtxDestroy_v2(context: Handle) {
        state::ready()?.destroy_context(context)?;
        state::with_stack(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    }

    fn cuCtxSetCurrent(context: Handle) {
        let state = state::ready()?;
        if context != 0 {
            exists(&state, context)?;
        }
        state::with_stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        exists(&*state::ready()?, context)?;
        state::with_stack(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        state::ready()?;
        let popped = state::with_stack(Vec::pop).ok_or(Code::INVALID_CONTEXT)?;
        context.put_if_wanted(popped);
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) {
        state::ready()?;
        context.put(state::current().unwrap_or(0))
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        state::in_context()?;
        device.put(device::ORDINAL)
    }

    fn cuCtxGetId(context: Handle, id: Out<u64>) {
        let state = state::ready()?;
        let context = or_current(context)?;
        exists(&state, context)?;
        id.put(context as u64)
    }

    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) {
        let state = state::ready()?;
        exists(&state, or_current(context)?)?;
        version.put(API_VERSION)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        flags.put(with_current(|context| context.flags)?)
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        config.put(with_current(|context| context.cache_config)?)
    }

    fn cuCtxSetCacheConfig(config: u32) {
        with_current(|context| context.cache_config = config)
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        config.put(with_current(|context| context.shared_config)?)
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        with_current(|context| context.shared_config = config)
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        value.put(with_current(|context| context.limits.get(&limit).copied().unwrap_or(0))?)
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        with_current(|context| context.limits.insert(limit, value)).map(|_| ())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        state::in_context()?;
        least.put_if_wanted(0);
        greatest.put_if_wanted(0);
        Ok(())
    }

    fn cuCtxSynchronize() {
        state::in_context().map(|_| ())
    }

    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) {
        let mut state = state::ready()?;
        device::check(device)?;
        let flags = state.primary.flags;
        let handle = match state.primary.context {
            Some(handle) => handle,
            None => state.create_context(flags),
        };
        state.primary.context = Some(handle);
        state.primary.retained += 1;
        context.put(handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        let mut state = state::ready()?;
        device::check(device)?;
        state.primary.retained = state.primary.retained.checked_sub(1).ok_or(Code::INVALID_CONTEXT)?;
        if state.primary.retained == 0 { reset(&mut state) } else { Ok(()) }
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        let mut state = state::ready()?;
        device::check(device)?;
        reset(&mut state)
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        let mut state = state::ready()?;
        device::check(device)?;
        state.primary.flags = flags;
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let state = state::ready()?;
        device::check(device)?;
        flags.put(state.primary.flags)?;
        active.put(i32::from(state.primary.context.is_some()))
    }
}

fn exists(state: &State, context: Handle) -> Outcome {
    if state.contexts.contains_key(&context) { Ok(()) } else { Err(Code::INVALID_CONTEXT) }
}

/// A null context means the current one.
fn or_current(context: Handle) -> Outcome<Handle> {
    Some(context).filter(|c| *c != 0).or_else(state::current).ok_or(Code::INVALID_CONTEXT)
}

fn with_current<R>(f: impl FnOnce(&mut Context) -> R) -> Outcome<R> {
    let (mut state, context) = state::in_context()?;
    state.contexts.get_mut(&context).map(f).ok_or(Code::INVALID_CONTEXT)
}

/// Ends the primary context; its owners stay, and get a new one when one of them retains it.
fn reset(state: &mut State) -> Outcome {
    state.primary.context.take().map_or(Ok(()), |context| state.destroy_context(context))
}
