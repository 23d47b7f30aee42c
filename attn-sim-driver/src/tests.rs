//! The driver's functions as a program calls them: by name, through C.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Code, Options, configure, last_launch, last_report, symbol};

/// Calls a driver function by its name; the types are its C signature.
macro_rules! call {
    ($name:literal ( $($arg:expr => $ty:ty),* $(,)? )) => {{
        let address = symbol($name).unwrap_or_else(|| panic!("{} exists", $name));
        // SAFETY: the test gives the function's C signature, and arguments that keep its contract.
        unsafe { std::mem::transmute::<*const c_void, unsafe extern "C" fn($($ty),*) -> Code>(address)($($arg),*) }
    }};
}

/// One test at a time: the last launch is the process's.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A retained primary context that is current on this thread, released at the end.
struct Session;

impl Session {
    fn open() -> Self {
        configure(Options::default()).expect("every test asks for the same device");
        assert_eq!(call!("cuInit"(0 => u32)), Code::SUCCESS);
        let mut context = 0usize;
        assert_eq!(call!("cuDevicePrimaryCtxRetain"(&mut context => *mut usize, 0 => i32)), Code::SUCCESS);
        assert_eq!(call!("cuCtxSetCurrent"(context => usize)), Code::SUCCESS);
        Session
    }

    fn alloc(&self, bytes: usize) -> u64 {
        let mut address = 0u64;
        assert_eq!(call!("cuMemAlloc_v2"(&mut address => *mut u64, bytes => usize)), Code::SUCCESS);
        address
    }

    fn function(&self, ptx: &CStr, name: &CStr) -> Result<usize, Code> {
        let (mut module, mut function) = (0usize, 0usize);
        let loaded = call!("cuModuleLoadData"(&mut module => *mut usize, ptx.as_ptr() => *const c_char));
        if loaded != Code::SUCCESS {
            return Err(loaded);
        }
        let found = call!(
            "cuModuleGetFunction"(&mut function => *mut usize, module => usize, name.as_ptr() => *const c_char)
        );
        if found == Code::SUCCESS { Ok(function) } else { Err(found) }
    }

    /// Launches `blocks` blocks of 32 threads.
    fn launch(&self, function: usize, blocks: u32, params: &mut [*mut c_void]) -> Code {
        call!("cuLaunchKernel"(
            function => usize, blocks => u32, 1 => u32, 1 => u32, 32 => u32, 1 => u32, 1 => u32, 0 => u32, 0 => usize,
            params.as_mut_ptr() => *mut *mut c_void, ptr::null_mut() => *mut *mut c_void
        ))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        assert_eq!(call!("cuDevicePrimaryCtxRelease_v2"(0 => i32)), Code::SUCCESS);
    }
}

/// out[i] = in[i] + n for the first block's threads.
const ADD: &CStr = c"
.version 8.0
.target sm_90a
.address_size 64
.visible .entry add(.param .u64 to, .param .u64 from, .param .u32 n)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [to];
    ld.param.u64 %rd2, [from];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd3, %r2, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.u32 %r3, [%rd5];
    add.s32 %r3, %r3, %r1;
    st.global.u32 [%rd4], %r3;
    ret;
}
";

#[test]
fn a_kernel_runs_between_copies() {
    let _alone = alone();
    let session = Session::open();
    let (to, from) = (session.alloc(128), session.alloc(128));
    let input: Vec<u32> = (0..32).collect();
    assert_eq!(call!("cuMemcpyHtoD_v2"(from => u64, input.as_ptr() => *const u32, 128 => usize)), Code::SUCCESS);
    let function = session.function(ADD, c"add").expect("loads");
    let (mut a, mut b, mut n) = (to, from, 100u32);
    let mut params = [(&raw mut a).cast(), (&raw mut b).cast(), (&raw mut n).cast()];
    assert_eq!(session.launch(function, 1, &mut params), Code::SUCCESS, "{:?}", last_report());
    let mut output = vec![0u32; 32];
    assert_eq!(call!("cuMemcpyDtoH_v2"(output.as_mut_ptr() => *mut u32, to => u64, 128 => usize)), Code::SUCCESS);
    assert_eq!(output, (100..132).collect::<Vec<u32>>());
    let launch = last_launch().expect("there was one");
    assert_eq!((launch.kernel.as_str(), launch.report), ("add", None));
    assert!(launch.counters.is_some_and(|counters| counters.total() >= 11));
}

#[test]
fn what_the_simulator_finds_fails_the_launch_and_is_reported() {
    let _alone = alone();
    let session = Session::open();
    let function = session.function(ADD, c"add").expect("loads");
    let (mut to, mut from, mut n) = (session.alloc(128), session.alloc(100), 1u32);
    let mut params = [(&raw mut to).cast(), (&raw mut from).cast(), (&raw mut n).cast()];
    assert_eq!(session.launch(function, 1, &mut params), Code::LAUNCH_FAILED);
    let report = last_report().expect("something was wrong");
    for part in ["kernel add", "seed 0", "out of bounds", "line 16", "ld.global.u32"] {
        assert!(report.contains(part), "no '{part}' in\n{report}");
    }
    // Unlike on a GPU the context goes on.
    assert_eq!(call!("cuCtxSynchronize"()), Code::SUCCESS);
}

#[test]
fn images_that_are_not_ptx_of_this_device_are_refused_with_reasons() {
    let _alone = alone();
    let session = Session::open();
    assert_eq!(session.function(c"\x7fELF\x02\x01", c"k"), Err(Code::NO_BINARY_FOR_GPU));
    assert_eq!(
        session.function(c".version 8.7\n.target sm_100a\n.address_size 64\n", c"k"),
        Err(Code::NO_BINARY_FOR_GPU)
    );
    assert_eq!(session.function(c".version 8.0\n.target sm_90a\nnonsense", c"k"), Err(Code::INVALID_PTX));
    assert_eq!(session.function(ADD, c"subtract"), Err(Code::NOT_FOUND));
    let (mut module, mut log) = (0usize, [0u8; 64]);
    let (mut options, mut values) = ([5u32, 6], [log.as_mut_ptr().cast(), ptr::without_provenance_mut(log.len())]);
    let text = c".version 8.0\n.target sm_90a\nnonsense";
    let code = call!("cuModuleLoadDataEx"(
        &mut module => *mut usize, text.as_ptr() => *const c_char, 2 => u32, options.as_mut_ptr() => *mut u32,
        values.as_mut_ptr() => *mut *mut c_void
    ));
    assert_eq!(code, Code::INVALID_PTX);
    let log = CStr::from_bytes_until_nul(&log).expect("terminated").to_str().expect("text");
    assert!(log.starts_with("line 3"), "{log}");
}

#[test]
fn an_instruction_that_is_not_modelled_is_not_supported() {
    let _alone = alone();
    let session = Session::open();
    let text =
        c".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k() {\n  frobnicate.sync.b32;\n  ret;\n}";
    assert_eq!(session.function(text, c"k"), Err(Code::NOT_SUPPORTED));
}

#[test]
fn memory_is_bounded_counted_and_owned() {
    let _alone = alone();
    let session = Session::open();
    let info = || {
        let (mut free, mut total) = (0usize, 0usize);
        assert_eq!(call!("cuMemGetInfo_v2"(&mut free => *mut usize, &mut total => *mut usize)), Code::SUCCESS);
        (free, total)
    };
    let before = info();
    let address = session.alloc(1000);
    assert_eq!(info(), (before.0 - 1000, before.1));
    let mut ordinal = -1i32;
    let owner = |ordinal: &mut i32, address: u64| call!("cuPointerGetAttribute"(ptr::from_mut(ordinal).cast() => *mut c_void, 9 => i32, address => u64));
    assert_eq!((owner(&mut ordinal, address + 999), ordinal), (Code::SUCCESS, 0));
    assert_eq!(owner(&mut ordinal, address + 1000), Code::INVALID_VALUE);
    assert_eq!(call!("cuMemsetD32_v2"(address => u64, 0x01020304 => u32, 250 => usize)), Code::SUCCESS);
    assert_eq!(call!("cuMemsetD32_v2"(address => u64, 0 => u32, 251 => usize)), Code::INVALID_VALUE);
    assert_eq!(call!("cuMemcpyDtoD_v2"(address => u64, address + 500 => u64, 501 => usize)), Code::INVALID_VALUE);
    let mut bytes = [0u8; 4];
    assert_eq!(call!("cuMemcpyDtoH_v2"(bytes.as_mut_ptr() => *mut u8, address + 2 => u64, 4 => usize)), Code::SUCCESS);
    assert_eq!(bytes, [2, 1, 4, 3]);
    assert_eq!(call!("cuMemFree_v2"(address => u64)), Code::SUCCESS);
    assert_eq!(call!("cuMemFree_v2"(address => u64)), Code::INVALID_VALUE);
    assert_eq!(info(), before);
    let mut none = 0u64;
    assert_eq!(call!("cuMemAlloc_v2"(&mut none => *mut u64, 1usize << 40 => usize)), Code::OUT_OF_MEMORY);
}

#[test]
fn a_context_takes_what_it_owns_with_it() {
    let _alone = alone();
    configure(Options::default()).expect("every test asks for the same device");
    assert_eq!(call!("cuInit"(0 => u32)), Code::SUCCESS);
    let (mut context, mut event, mut id) = (0usize, 0usize, 0u64);
    assert_eq!(call!("cuCtxCreate_v2"(&mut context => *mut usize, 0 => u32, 0 => i32)), Code::SUCCESS);
    assert_eq!(call!("cuEventCreate"(&mut event => *mut usize, 0 => u32)), Code::SUCCESS);
    assert_eq!(call!("cuEventRecord"(event => usize, 0 => usize)), Code::SUCCESS);
    assert_eq!(call!("cuEventQuery"(event => usize)), Code::SUCCESS);
    assert_eq!(call!("cuCtxGetId"(context => usize, &mut id => *mut u64)), Code::SUCCESS);
    assert_eq!(call!("cuCtxDestroy_v2"(context => usize)), Code::SUCCESS);
    assert_eq!(call!("cuCtxGetId"(context => usize, &mut id => *mut u64)), Code::INVALID_CONTEXT);
    assert_eq!(call!("cuEventQuery"(event => usize)), Code::INVALID_CONTEXT);
}

#[test]
fn tensor_maps_are_made_by_the_drivers_rules() {
    let encode = |columns: u32| {
        let mut map = [0u8; 128];
        let code = call!("cuTensorMapEncodeTiled"(
            &mut map => *mut [u8; 128], 9 => u32, 2 => u32, 0x1000 => u64, [128u64, 40].as_ptr() => *const u64,
            [256u64].as_ptr() => *const u64, [columns, 8].as_ptr() => *const u32, [1u32, 1].as_ptr() => *const u32,
            0 => u32, 3 => u32, 3 => u32, 0 => u32
        ));
        (code, map)
    };
    let (code, map) = encode(64);
    assert_eq!(code, Code::SUCCESS);
    let decoded = attn_sim::tensor_map::TensorMap::from_bytes(&map).expect("a map");
    assert_eq!((decoded.global_address, decoded.box_bytes()), (0x1000, 1024));
    assert_eq!(encode(128).0, Code::INVALID_VALUE);
    let encode = |pixels: u32| {
        let mut map = [0u8; 128];
        let code = call!("cuTensorMapEncodeIm2col"(
            &mut map => *mut [u8; 128], 9 => u32, 3 => u32, 0x1000 => u64, [64u64, 9, 4].as_ptr() => *const u64,
            [128u64, 1152].as_ptr() => *const u64, [-1i32].as_ptr() => *const i32, [-1i32].as_ptr() => *const i32,
            64 => u32, pixels => u32, [1u32, 1, 1].as_ptr() => *const u32, 0 => u32, 3 => u32, 3 => u32, 0 => u32
        ));
        (code, map)
    };
    let (code, map) = encode(1024);
    assert_eq!(code, Code::SUCCESS);
    let decoded = attn_sim::tensor_map::TensorMap::from_bytes(&map).expect("a map");
    assert_eq!(decoded.box_bytes(), 1024 * 128);
    assert_eq!(encode(1025).0, Code::INVALID_VALUE);
}

#[test]
fn functions_are_found_by_name_and_others_are_not() {
    assert!(
        symbol("cuMemAlloc_v2").is_some() && symbol("cuMemAlloc").is_none() && symbol("cuTexObjectCreate").is_none()
    );
    let mut found = ptr::null::<c_void>();
    let code = call!("cuGetProcAddress"(
        c"cuMemAlloc".as_ptr() => *const c_char, &mut found => *mut *const c_void, 12000 => i32, 0 => u64
    ));
    assert_eq!((code, Some(found)), (Code::SUCCESS, symbol("cuMemAlloc_v2")));
    let other = Options { multiprocessors: 99, ..Options::default() };
    configure(Options::default()).expect("every test asks for the same device");
    assert!(configure(other).is_err_and(|e| e.to_string().contains("4 multiprocessors already, not sm_90a with 99")));
}
