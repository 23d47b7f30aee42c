//! The driver's symbols that cust's code links, each forwarding to the library that is opened on first use.
//!
//! cust asks the linker for `libcuda`. A program linked that way does not even start on a machine without a driver, and
//! cannot be built on one. These definitions answer cust's references instead, and the `-lcuda` that remains finds the empty
//! archive in `link/lib64`. Without a driver every call returns `CUDA_ERROR_NO_DEVICE`, so `cust::init` is an ordinary `Err`.
//!
//! The list is exactly what cust 0.3.2 calls. Arguments are written by their place in the C calling convention alone:
//! a pointer, handle or callback is [`Ptr`], an enum is [`Uint`].

#![allow(non_snake_case)]

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::driver::{self, Source};

type Ptr = *mut c_void;
type Address = u64;
type Int = i32;
type Uint = u32;

const NO_DEVICE: Uint = 100;
const SYMBOL_NOT_FOUND: Uint = 302;
const UNKNOWN: Uint = 999;

/// Where a driver function lies, looked up by its first call.
struct Symbol {
    name: &'static str,
    /// By the kind of source that it was found in, which a program can change.
    found: [AtomicPtr<c_void>; Source::KINDS],
}

impl Symbol {
    const fn new(name: &'static str) -> Self {
        Symbol { name, found: [const { AtomicPtr::new(ptr::null_mut()) }; Source::KINDS] }
    }

    /// The function's address, or the code to return instead of calling it.
    fn find(&self) -> Result<Ptr, Uint> {
        let source = driver::source().map_err(|_| NO_DEVICE)?;
        let place = &self.found[source.kind()];
        // Relaxed: the address is all there is to see, and a second lookup finds the same one.
        let known = place.load(Ordering::Relaxed);
        if !known.is_null() {
            return Ok(known);
        }
        let found = source.find(self.name).ok_or(SYMBOL_NOT_FOUND)?;
        place.store(found, Ordering::Relaxed);
        Ok(found)
    }
}

/// The codes of CUDA 11.4, whose list is a Rust enum in cust: a later driver's new code must not enter it.
fn known(code: Uint) -> Uint {
    match code {
        0..=8
        | 34
        | 100..=102
        | 200..=202
        | 205..=224
        | 300..=304
        | 400..=401
        | 500
        | 600
        | 700..=705
        | 708..=720
        | 800..=809
        | 900..=911
        | 999 => code,
        _ => UNKNOWN,
    }
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $ty),*) -> Uint {
            static SYMBOL: Symbol = Symbol::new(stringify!($name));
            match SYMBOL.find() {
                Ok(address) => {
                    // SAFETY: the driver's function of this name has this signature in the C calling convention, and
                    // the caller keeps its contract.
                    let function = unsafe { std::mem::transmute::<Ptr, unsafe extern "C" fn($($ty),*) -> Uint>(address) };
                    // SAFETY: as above.
                    known(unsafe { function($($arg),*) })
                }
                Err(code) => code,
            }
        }
    )*};
}

/// cust asks for the words of an error while it prints it, which must work without a driver too.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(error: Uint, text: *mut *const c_char) -> Uint {
    static SYMBOL: Symbol = Symbol::new("cuGetErrorString");
    let Ok(address) = SYMBOL.find() else {
        // SAFETY: the caller passes a place for one pointer; the text is static.
        unsafe { text.write(c"no CUDA driver is installed".as_ptr()) };
        return 0;
    };
    // SAFETY: this is the driver function's signature in the C calling convention.
    let function =
        unsafe { std::mem::transmute::<Ptr, unsafe extern "C" fn(Uint, *mut *const c_char) -> Uint>(address) };
    // SAFETY: the caller keeps the function's contract.
    known(unsafe { function(error, text) })
}

forward! {
    cuArray3DCreate_v2(handle: Ptr, allocate_array: Ptr);
    cuArray3DGetDescriptor_v2(array_descriptor: Ptr, array: Ptr);
    cuArrayDestroy(array: Ptr);
    cuCtxCreate_v2(pctx: Ptr, flags: Uint, dev: Int);
    cuCtxDestroy_v2(ctx: Ptr);
    cuCtxGetApiVersion(ctx: Ptr, version: Ptr);
    cuCtxGetCacheConfig(pconfig: Ptr);
    cuCtxGetCurrent(pctx: Ptr);
    cuCtxGetDevice(device: Ptr);
    cuCtxGetFlags(flags: Ptr);
    cuCtxGetLimit(pvalue: Ptr, limit: Uint);
    cuCtxGetSharedMemConfig(config: Ptr);
    cuCtxGetStreamPriorityRange(least_priority: Ptr, greatest_priority: Ptr);
    cuCtxPopCurrent_v2(pctx: Ptr);
    cuCtxPushCurrent_v2(ctx: Ptr);
    cuCtxSetCacheConfig(config: Uint);
    cuCtxSetCurrent(ctx: Ptr);
    cuCtxSetLimit(limit: Uint, value: usize);
    cuCtxSetSharedMemConfig(config: Uint);
    cuCtxSynchronize();
    cuDestroyExternalMemory(ext_mem: Ptr);
    cuDeviceGet(device: Ptr, ordinal: Int);
    cuDeviceGetAttribute(pi: Ptr, attrib: Uint, dev: Int);
    cuDeviceGetCount(count: Ptr);
    cuDeviceGetName(name: Ptr, len: Int, dev: Int);
    cuDevicePrimaryCtxRelease_v2(dev: Int);
    cuDevicePrimaryCtxReset_v2(dev: Int);
    cuDevicePrimaryCtxRetain(pctx: Ptr, dev: Int);
    cuDevicePrimaryCtxSetFlags_v2(dev: Int, flags: Uint);
    cuDeviceTotalMem_v2(bytes: Ptr, dev: Int);
    cuDriverGetVersion(driver_version: Ptr);
    cuEventCreate(event: Ptr, flags: Uint);
    cuEventDestroy_v2(event: Ptr);
    cuEventElapsedTime(milliseconds: Ptr, start: Ptr, end: Ptr);
    cuEventQuery(event: Ptr);
    cuEventRecord(event: Ptr, stream: Ptr);
    cuEventSynchronize(event: Ptr);
    cuExternalMemoryGetMappedBuffer(dev_ptr: Ptr, ext_mem: Ptr, buffer_desc: Ptr);
    cuFuncGetAttribute(pi: Ptr, attrib: Uint, hfunc: Ptr);
    cuFuncSetCacheConfig(hfunc: Ptr, config: Uint);
    cuFuncSetSharedMemConfig(hfunc: Ptr, config: Uint);
    cuGraphAddKernelNode(graph_node: Ptr, graph: Ptr, dependencies: Ptr, num_dependencies: usize, node_params: Ptr);
    cuGraphCreate(graph: Ptr, flags: Uint);
    cuGraphDebugDotPrint(graph: Ptr, path: Ptr, flags: Uint);
    cuGraphDestroy(graph: Ptr);
    cuGraphGetEdges(graph: Ptr, from: Ptr, to: Ptr, num_edges: Ptr);
    cuGraphGetNodes(graph: Ptr, nodes: Ptr, num_nodes: Ptr);
    cuGraphKernelNodeGetParams(node: Ptr, node_params: Ptr);
    cuGraphNodeGetType(node: Ptr, kind: Ptr);
    cuImportExternalMemory(ext_mem_out: Ptr, mem_handle_desc: Ptr);
    cuInit(flags: Uint);
    cuLaunchHostFunc(stream: Ptr, callback: Ptr, user_data: Ptr);
    cuLaunchKernel(
        function: Ptr, grid_dim_x: Uint, grid_dim_y: Uint, grid_dim_z: Uint, block_dim_x: Uint, block_dim_y:
        Uint, block_dim_z: Uint, shared_mem_bytes: Uint, stream: Ptr, kernel_params: Ptr, extra: Ptr
    );
    cuLinkAddData_v2(
        state: Ptr, kind: Uint, data: Ptr, size: usize, name: Ptr, num_options: Uint, options: Ptr,
        option_values: Ptr
    );
    cuLinkComplete(state: Ptr, cubin_out: Ptr, size_out: Ptr);
    cuLinkCreate_v2(num_options: Uint, options: Ptr, option_values: Ptr, state_out: Ptr);
    cuLinkDestroy(state: Ptr);
    cuMemAdvise(dev_ptr: Address, count: usize, advice: Uint, device: Int);
    cuMemAllocAsync(dptr: Ptr, bytesize: usize, stream: Ptr);
    cuMemAllocHost_v2(pp: Ptr, bytesize: usize);
    cuMemAllocManaged(dptr: Ptr, bytesize: usize, flags: Uint);
    cuMemAlloc_v2(dptr: Ptr, bytesize: usize);
    cuMemFreeAsync(dptr: Address, stream: Ptr);
    cuMemFreeHost(p: Ptr);
    cuMemFree_v2(dptr: Address);
    cuMemGetInfo_v2(free: Ptr, total: Ptr);
    cuMemPrefetchAsync(dev_ptr: Address, count: usize, dst_device: Int, stream: Ptr);
    cuMemcpy2D_v2(copy: Ptr);
    cuMemcpyAtoH_v2(dst_host: Ptr, src_array: Ptr, src_offset: usize, byte_count: usize);
    cuMemcpyDtoDAsync_v2(dst_device: Address, src_device: Address, byte_count: usize, stream: Ptr);
    cuMemcpyDtoD_v2(dst_device: Address, src_device: Address, byte_count: usize);
    cuMemcpyDtoHAsync_v2(dst_host: Ptr, src_device: Address, byte_count: usize, stream: Ptr);
    cuMemcpyDtoH_v2(dst_host: Ptr, src_device: Address, byte_count: usize);
    cuMemcpyHtoA_v2(dst_array: Ptr, dst_offset: usize, src_host: Ptr, byte_count: usize);
    cuMemcpyHtoDAsync_v2(dst_device: Address, src_host: Ptr, byte_count: usize, stream: Ptr);
    cuMemcpyHtoD_v2(dst_device: Address, src_host: Ptr, byte_count: usize);
    cuMemsetD16Async(dst_device: Address, value: u16, n: usize, stream: Ptr);
    cuMemsetD16_v2(dst_device: Address, value: u16, n: usize);
    cuMemsetD32Async(dst_device: Address, value: Uint, n: usize, stream: Ptr);
    cuMemsetD32_v2(dst_device: Address, value: Uint, n: usize);
    cuMemsetD8Async(dst_device: Address, value: u8, n: usize, stream: Ptr);
    cuMemsetD8_v2(dst_device: Address, value: u8, n: usize);
    cuModuleGetFunction(hfunc: Ptr, hmod: Ptr, name: Ptr);
    cuModuleGetGlobal_v2(dptr: Ptr, bytes: Ptr, hmod: Ptr, name: Ptr);
    cuModuleLoad(module: Ptr, fname: Ptr);
    cuModuleLoadData(module: Ptr, image: Ptr);
    cuModuleLoadDataEx(module: Ptr, image: Ptr, num_options: Uint, options: Ptr, option_values: Ptr);
    cuModuleUnload(hmod: Ptr);
    cuOccupancyAvailableDynamicSMemPerBlock(dynamic_smem_size: Ptr, func: Ptr, num_blocks: Int, block_size: Int);
    cuOccupancyMaxActiveBlocksPerMultiprocessor(num_blocks: Ptr, func: Ptr, block_size: Int, dynamic_bytes: usize);
    cuOccupancyMaxPotentialBlockSize(
        min_grid_size: Ptr, block_size: Ptr, func: Ptr, block_to_dynamic_bytes: Ptr, dynamic_bytes: usize,
        block_size_limit: Int
    );
    cuStreamCreateWithPriority(stream: Ptr, flags: Uint, priority: Int);
    cuStreamDestroy_v2(stream: Ptr);
    cuStreamGetFlags(stream: Ptr, flags: Ptr);
    cuStreamGetPriority(stream: Ptr, priority: Ptr);
    cuStreamSynchronize(stream: Ptr);
    cuStreamWaitEvent(stream: Ptr, event: Ptr, flags: Uint);
    cuSurfObjectCreate(surf_object: Ptr, res_desc: Ptr);
    cuSurfObjectDestroy(surf_object: Address);
    cuSurfObjectGetResourceDesc(res_desc: Ptr, surf_object: Address);
    cuTexObjectCreate(tex_object: Ptr, res_desc: Ptr, tex_desc: Ptr, res_view_desc: Ptr);
    cuTexObjectDestroy(tex_object: Address);
    cuTexObjectGetResourceDesc(res_desc: Ptr, tex_object: Address);
    cuTexObjectGetResourceViewDesc(res_view_desc: Ptr, tex_object: Address);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_cust_does_not_know_become_unknown() {
        for code in [0, 2, 100, 222, 719, 911, 999] {
            assert_eq!(known(code), code);
        }
        for code in [9, 46, 225, 226, 305, 402, 721, 810, 912, 998, 1000, Uint::MAX] {
            assert_eq!(known(code), UNKNOWN);
        }
    }

    #[test]
    fn a_symbol_is_found_or_its_absence_is_a_code() {
        static ABSENT: Symbol = Symbol::new("cuNoSuchFunction");
        let expected = if driver::source().is_ok() { SYMBOL_NOT_FOUND } else { NO_DEVICE };
        assert_eq!(ABSENT.find(), Err(expected));
    }

    #[test]
    fn cust_starts_with_or_without_a_driver() {
        let found = cust::init(cust::CudaFlags::empty());
        if driver::source().is_ok() {
            assert!(found.is_ok() || found == Err(cust::error::CudaError::NoDevice), "{found:?}");
        } else {
            let error = found.expect_err("there is no driver");
            assert_eq!(error, cust::error::CudaError::NoDevice);
            assert!(error.to_string().contains("no CUDA driver is installed"), "{error}");
        }
    }
}
