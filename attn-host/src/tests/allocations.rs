//! What a launch of an existing plan allocates: nothing.

use std::ffi::c_void;
use std::hint::black_box;

use attn_kernel::forward::{DType, TensorMap};

use super::counting::{Counting, allocations};
use super::{SHAPE, TENSORS, launch, plan_on};
use crate::driver::Driver;
use crate::sys::{self, Code, Handle, LaunchConfig};
use crate::{Device, DevicePtr, Mask, Problem, Shape, Splits, Tensors, fake};

#[global_allocator]
static COUNTING: Counting = Counting;

/// The fake driver, with functions on the launch path that keep no record: recording allocates.
fn silent_driver() -> &'static Driver {
    unsafe extern "C" fn ctx_current(context: *mut Handle) -> Code {
        // SAFETY: the driver layer passes a place for a handle.
        unsafe { context.write(fake::with(|state| state.current)) };
        sys::SUCCESS
    }
    unsafe extern "C" fn pointer_attribute(value: *mut c_void, _: i32, _: u64) -> Code {
        // SAFETY: the one attribute that is asked for is an int.
        unsafe { value.cast::<i32>().write(0) };
        sys::SUCCESS
    }
    unsafe extern "C" fn encode_tiled(
        map: *mut TensorMap,
        _: i32,
        _: u32,
        _: *mut c_void,
        _: *const u64,
        _: *const u64,
        _: *const u32,
        _: *const u32,
        _: i32,
        _: i32,
        _: i32,
        _: i32,
    ) -> Code {
        // SAFETY: the driver layer passes a place for a map.
        unsafe { map.write(TensorMap([0; 16])) };
        sys::SUCCESS
    }
    unsafe extern "C" fn launch_kernel(
        _: *const LaunchConfig,
        _: Handle,
        _: *mut *mut c_void,
        _: *mut *mut c_void,
    ) -> Code {
        sys::SUCCESS
    }
    Box::leak(Box::new(Driver { ctx_current, pointer_attribute, encode_tiled, launch_kernel, ..fake::DRIVER }))
}

#[test]
fn allocations_are_counted() {
    assert_eq!(allocations(|| drop(black_box(Box::new(7)))).0, 1);
    assert_eq!(allocations(|| drop(black_box(vec![0u8; 100]))).0, 1);
    assert_eq!(allocations(|| ()).0, 0);
}

#[test]
fn a_launch_of_an_existing_plan_allocates_nothing() {
    let driver = silent_driver();
    for capability in [(9, 0), (10, 0), (10, 3)] {
        fake::reset_to(capability);
        let device = Device::with_driver(driver).expect("the fake answers");
        for (head_dim, head_dim_v) in [(32, 32), (64, 64), (96, 96), (128, 128), (192, 128), (256, 256)] {
            for (dtype, mask) in [(DType::Bf16, Mask::None), (DType::F16, Mask::Causal)] {
                let problem = Problem::new(dtype, Shape { head_dim, head_dim_v, ..SHAPE }).mask(mask);
                let plan = plan_on(&device, &problem).expect("a kernel fits");
                let (asked, ()) = allocations(|| (0..10).for_each(|_| launch(&plan, &TENSORS).expect("valid")));
                assert_eq!(asked, 0, "{plan}");
            }
        }
    }
}

#[test]
fn a_launch_of_several_kernels_allocates_nothing_either() {
    let driver = silent_driver();
    fake::reset();
    let device = Device::with_driver(driver).expect("the fake answers");
    let problem = Problem::new(DType::Bf16, SHAPE).packed_q(900).seqused_k().sinks().splits(Splits::Exactly(3));
    let plan = plan_on(&device, &problem).expect("a kernel fits");
    let at = Some(DevicePtr(0x7000_0000));
    let tensors = Tensors { cu_seqlens_q: at, seqused_k: at, sinks: at, workspace: at, ..TENSORS };
    let tensors = Tensors {
        k: DevicePtr(0x8000_0000),
        v: DevicePtr(0x9000_0000),
        q: DevicePtr(0xa000_0000),
        o: DevicePtr(0xb000_0000),
        ..tensors
    };
    let (asked, ()) = allocations(|| (0..10).for_each(|_| launch(&plan, &tensors).expect("valid")));
    assert_eq!(asked, 0, "{plan}");
}
