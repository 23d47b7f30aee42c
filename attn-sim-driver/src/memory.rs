//! Device memory: allocation, copies, fills, and whose an address is.

use std::alloc::{self, Layout};
use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::ptr;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::abi::{Array, Out, Outcome, Source, Target, exports};
use crate::code::Code;
use crate::device;
use crate::state::{self, Handle, MEMORY, State};

exports! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        let (mut state, context) = state::in_context()?;
        address.put(state.allocate(bytes as u64, context)?)
    }

    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        let (mut state, context) = state::in_context()?;
        state.check_stream(stream)?;
        address.put(state.allocate(bytes as u64, context)?)
    }

    fn cuMemFree_v2(address: u64) {
        if address == 0 { Ok(()) } else { state::in_context()?.0.free(address) }
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
        let mut state = state::in_context()?.0;
        state.check_stream(stream)?;
        state.free(address)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let state = state::in_context()?.0;
        free.put_if_wanted((MEMORY - state.used()) as usize);
        total.put_if_wanted(MEMORY as usize);
        Ok(())
    }

    fn cuMemGetAddressRange_v2(start: Out<u64>, bytes: Out<usize>, address: u64) {
        let (first, length) = state::in_context()?.0.owner(address).ok_or(Code::NOT_FOUND)?;
        start.put_if_wanted(first);
        bytes.put_if_wanted(length as usize);
        Ok(())
    }

    fn cuMemAllocHost_v2(place: Out<*mut c_void>, bytes: usize) {
        state::in_context()?;
        let layout = Layout::from_size_align(bytes, PAGE).ok().filter(|l| l.size() > 0).ok_or(Code::INVALID_VALUE)?;
        // SAFETY: the layout's size is not zero.
        let found = unsafe { alloc::alloc_zeroed(layout) };
        if found.is_null() {
            return Err(Code::OUT_OF_MEMORY);
        }
        host_memory(|all| all.insert(found as usize, layout));
        place.put(found.cast())
    }

    fn cuMemFreeHost(place: *mut c_void) {
        let layout = host_memory(|all| all.remove(&(place as usize))).ok_or(Code::INVALID_VALUE)?;
        // SAFETY: `cuMemAllocHost_v2` allocated it with this layout, and it leaves the table once.
        unsafe { alloc::dealloc(place.cast(), layout) };
        Ok(())
    }

    /// Memory of the caller's own is as good as any to the simulator; what is registered is only remembered.
    fn cuMemHostRegister_v2(place: *mut c_void, bytes: usize, _flags: u32) {
        state::in_context()?;
        if place.is_null() || bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        if registered(|all| all.insert(place as usize)) { Ok(()) } else { Err(Code::HOST_MEMORY_ALREADY_REGISTERED) }
    }

    fn cuMemHostUnregister(place: *mut c_void) {
        state::in_context()?;
        if registered(|all| all.remove(&(place as usize))) { Ok(()) } else { Err(Code::HOST_MEMORY_NOT_REGISTERED) }
    }

    fn cuMemcpyHtoD_v2(target: u64, source: Source, bytes: usize) {
        upload(&mut state::in_context()?.0, target, &source, bytes)
    }

    fn cuMemcpyHtoDAsync_v2(target: u64, source: Source, bytes: usize, stream: Handle) {
        upload(&mut *on_stream(stream)?, target, &source, bytes)
    }

    fn cuMemcpyDtoH_v2(target: Target, source: u64, bytes: usize) {
        download(&state::in_context()?.0, &target, source, bytes)
    }

    fn cuMemcpyDtoHAsync_v2(target: Target, source: u64, bytes: usize, stream: Handle) {
        download(&*on_stream(stream)?, &target, source, bytes)
    }

    fn cuMemcpyDtoD_v2(target: u64, source: u64, bytes: usize) {
        copy(&mut state::in_context()?.0, target, source, bytes)
    }

    fn cuMemcpyDtoDAsync_v2(target: u64, source: u64, bytes: usize, stream: Handle) {
        copy(&mut *on_stream(stream)?, target, source, bytes)
    }

    fn cuMemsetD8_v2(target: u64, value: u8, count: usize) {
        fill(&mut state::in_context()?.0, target, &[value], count)
    }

    fn cuMemsetD8Async(target: u64, value: u8, count: usize, stream: Handle) {
        fill(&mut *on_stream(stream)?, target, &[value], count)
    }

    fn cuMemsetD16_v2(target: u64, value: u16, count: usize) {
        fill(&mut state::in_context()?.0, target, &value.to_le_bytes(), count)
    }

    fn cuMemsetD16Async(target: u64, value: u16, count: usize, stream: Handle) {
        fill(&mut *on_stream(stream)?, target, &value.to_le_bytes(), count)
    }

    fn cuMemsetD32_v2(target: u64, value: u32, count: usize) {
        fill(&mut state::in_context()?.0, target, &value.to_le_bytes(), count)
    }

    fn cuMemsetD32Async(target: u64, value: u32, count: usize, stream: Handle) {
        fill(&mut *on_stream(stream)?, target, &value.to_le_bytes(), count)
    }

    fn cuPointerGetAttribute(value: *mut c_void, attribute: i32, address: u64) {
        pointer_attribute(&*state::ready()?, value, attribute, address)
    }

    fn cuPointerGetAttributes(count: u32, attributes: Array<i32>, values: Array<*mut c_void>, address: u64) {
        let state = state::ready()?;
        let (attributes, values) = (attributes.read(count as usize)?, values.read(count as usize)?);
        attributes.into_iter().zip(values).try_for_each(|(a, v)| pointer_attribute(&state, v, a, address))
    }
}

/// Alignment of host memory.
const PAGE: usize = 4096;

/// Uses the table of host memory that `cuMemAllocHost_v2` gave out.
fn host_memory<R>(f: impl FnOnce(&mut HashMap<usize, Layout>) -> R) -> R {
    static ALL: LazyLock<Mutex<HashMap<usize, Layout>>> = LazyLock::new(Mutex::default);
    f(&mut ALL.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Uses the list of the callers' host memory that is registered.
fn registered<R>(f: impl FnOnce(&mut HashSet<usize>) -> R) -> R {
    static ALL: LazyLock<Mutex<HashSet<usize>>> = LazyLock::new(Mutex::default);
    f(&mut ALL.lock().unwrap_or_else(PoisonError::into_inner))
}

fn on_stream(stream: Handle) -> Outcome<state::Locked> {
    let state = state::in_context()?.0;
    state.check_stream(stream)?;
    Ok(state)
}

fn upload(state: &mut State, target: u64, source: &Source, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    state.gpu.write(target, source.bytes(bytes)?).map_err(|_| Code::INVALID_VALUE)
}

fn download(state: &State, target: &Target, source: u64, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    target.fill(state.gpu.read(source, bytes).map_err(|_| Code::INVALID_VALUE)?)
}

fn copy(state: &mut State, target: u64, source: u64, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    let moved = state.gpu.read(source, bytes).map_err(|_| Code::INVALID_VALUE)?.to_vec();
    state.gpu.write(target, &moved).map_err(|_| Code::INVALID_VALUE)
}

fn fill(state: &mut State, target: u64, pattern: &[u8], count: usize) -> Outcome {
    if count == 0 {
        return Ok(());
    }
    if !target.is_multiple_of(pattern.len() as u64) {
        return Err(Code::INVALID_VALUE);
    }
    // The end is looked at first, so that a wild count does not ask for as much host memory.
    let bytes = pattern.len().checked_mul(count).ok_or(Code::INVALID_VALUE)?;
    state.gpu.read(target, bytes).map_err(|_| Code::INVALID_VALUE)?;
    state.gpu.write(target, &pattern.repeat(count)).map_err(|_| Code::INVALID_VALUE)
}

/// `CUpointer_attribute`s: context, memory type, device and host pointer, device ordinal, start and size of the allocation.
fn pointer_attribute(state: &State, value: *mut c_void, attribute: i32, address: u64) -> Outcome {
    const DEVICE_MEMORY: u32 = 2;
    let (start, bytes) = state.owner(address).ok_or(Code::INVALID_VALUE)?;
    let context = state.memory.get(&start).map_or(0, |allocation| allocation.context);
    // SAFETY: the caller gives a place for the attribute's type, which is as long as what is written below.
    let place = unsafe { Target::new(value) };
    match attribute {
        1 => place.fill(&context.to_ne_bytes()),
        2 => place.fill(&DEVICE_MEMORY.to_ne_bytes()),
        3 => place.fill(&address.to_ne_bytes()),
        4 => place.fill(&ptr::null::<c_void>().addr().to_ne_bytes()),
        9 => place.fill(&device::ORDINAL.to_ne_bytes()),
        11 => place.fill(&start.to_ne_bytes()),
        12 => place.fill(&(bytes as usize).to_ne_bytes()),
        _ => Err(Code::INVALID_VALUE),
    }
}
