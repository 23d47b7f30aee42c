//! Planning and launching against the recording driver: what is launched, and that nothing is when anything is wrong.

use attn_kernel::forward::DType;

use crate::kernels::Code;
use crate::sys::{self, Handle};
use crate::{Device, DevicePtr, Error, Mask, Plan, Problem, Shape, Stream, Strides, Tensors, fake, select};

const SHAPE: Shape =
    Shape { batch: 2, seqlen_q: 1000, seqlen_k: 700, heads: 8, kv_heads: 2, head_dim: 128, head_dim_v: 128 };
const TENSORS: Tensors = Tensors {
    lse: Some(DevicePtr(0x50_0004)),
    ..Tensors::new(DevicePtr(0x10_0000), DevicePtr(0x20_0000), DevicePtr(0x30_0000), DevicePtr(0x40_0000))
};

fn problem() -> Problem {
    Problem::new(DType::Bf16, SHAPE)
}

fn plan_on(device: &Device, problem: &Problem) -> Result<Plan, Error> {
    Plan::with_loader(device, problem, fake::code, select::choose)
}

pub(crate) fn plan(problem: &Problem) -> Result<Plan, Error> {
    plan_on(&fake::device(), problem)
}

pub(crate) fn launch(plan: &Plan, tensors: &Tensors) -> Result<(), Error> {
    // SAFETY: the fake driver touches no memory of these addresses.
    unsafe { plan.launch(tensors, Stream(0x77 as *mut _)) }
}

fn count(call: &str) -> usize {
    fake::with(|state| state.calls.iter().filter(|&&c| c == call).count())
}

#[test]
fn a_launch_passes_what_the_plan_says() {
    fake::reset();
    let plan = plan(&problem().mask(Mask::Causal).scale(0.5)).expect("valid");
    launch(&plan, &TENSORS).expect("valid");

    let kernel = plan.kernel();
    assert_eq!(kernel.name, "fwd_sm90_bf16_d128_causal_small");
    let m_blocks = 1000u32.div_ceil(kernel.launch.bm);
    let launches = fake::with(|state| state.launches.clone());
    let [launch] = launches.as_slice() else { panic!("one launch, not {}", launches.len()) };
    assert_eq!(launch.grid, ((m_blocks * 16).min(132), 1, 1));
    assert_eq!((launch.grid, launch.block), (plan.grid(), plan.block()));
    assert_eq!(launch.block, (kernel.launch.threads, 1, 1));
    assert_eq!(launch.smem, kernel.launch.shared);
    assert_eq!(fake::with(|state| state.smem_set), Some(launch.smem as i32));
    assert_eq!(launch.stream, 0x77);
    let (params, addresses) = launch.dense();
    assert_eq!(addresses, [0x10_0000, 0x20_0000, 0x30_0000, 0x40_0000]);
    assert_eq!(params.lse as usize, 0x50_0004);
    assert_eq!((params.lse_batch_stride, params.lse_head_stride), (8000, 1000));
    assert_eq!((params.seqlen_q, params.seqlen_k, params.grid.heads.get(), params.group.get()), (1000, 700, 8, 4));
    assert_eq!((params.grid.m_blocks.get(), params.grid.tiles), (m_blocks, m_blocks * 16));
    assert_eq!(params.scale_log2, 0.5 * std::f32::consts::LOG2_E);
}

#[test]
fn few_tiles_overlap_with_what_comes_before_them_unless_told_otherwise() {
    let overlaps = |capability, seqlen_q, change: fn(Plan) -> Plan| {
        fake::reset_to(capability);
        let plan = change(plan(&Problem::new(DType::Bf16, Shape { seqlen_q, ..SHAPE })).expect("valid"));
        launch(&plan, &TENSORS).expect("valid");
        let launched = fake::with(|state| state.launches[0].overlap);
        assert_eq!(launched, plan.overlaps());
        launched
    };
    assert!(overlaps((9, 0), 1000, |plan| plan));
    assert!(!overlaps((9, 0), 1000, |plan| plan.overlapping(false)));
    assert!(!overlaps((9, 0), 100_000, |plan| plan));
    assert!(overlaps((9, 0), 100_000, |plan| plan.overlapping(true)));
    // Blackwell's kernels do not wait by themselves.
    assert!(!overlaps((10, 0), 1000, |plan| plan.overlapping(true)));
}

#[test]
fn tensor_maps_carry_real_sizes_and_the_boxes_of_the_plan() {
    fake::reset();
    let shape = Shape { head_dim: 72, head_dim_v: 40, ..SHAPE };
    let head_first = Strides { batch: 1000 * 8 * 72, seq: 72, head: 1000 * 72 };
    let plan = plan(&Problem::new(DType::F16, shape).strides_q(head_first)).expect("valid");
    launch(&plan, &Tensors { lse: None, ..TENSORS }).expect("valid");

    assert_eq!(plan.kernel().name, "fwd_sm90_f16_d96");
    let bn = plan.kernel().launch.bn;
    let maps = fake::with(|state| state.encoded.clone());
    assert_eq!(maps.len(), 4);
    assert!(maps.iter().all(|map| map.data_type == 6), "f16");
    assert!(maps.iter().all(|map| map.swizzle == 2), "panels of 32 elements");
    assert_eq!(maps[0].dims, [72, 1000, 8, 2]);
    assert_eq!(maps[0].strides, [144, 144_000, 1_152_000]);
    assert_eq!(maps[1].dims, [72, 700, 2, 2]);
    assert_eq!(maps[2].dims, [40, 700, 2, 2]);
    assert_eq!(maps[2].strides, [160, 80, 112_000]);
    assert_eq!(maps[3].dims, [40, 1000, 8, 2]);
    let boxes: Vec<_> = maps.iter().map(|map| map.tile.clone()).collect();
    assert_eq!(boxes, [[32, 64, 1, 1], [32, bn, 1, 1], [32, bn, 1, 1], [32, 64, 1, 1]]);
    assert!(fake::with(|state| state.launches[0].dense().0.lse.is_null()));
}

#[test]
fn blackwell_packs_the_heads_of_a_group_into_a_tiles_rows() {
    fake::reset_to((10, 0));
    let shape = Shape { heads: 12, kv_heads: 2, ..SHAPE };
    let plan = plan(&Problem::new(DType::Bf16, shape).mask(Mask::Causal)).expect("valid");
    launch(&plan, &TENSORS).expect("valid");

    // Groups of 6 heads are 3 packs of 2: 2000 rows.
    let kernel = plan.kernel();
    assert_eq!((kernel.name, kernel.launch.bm), ("fwd_sm100_bf16_d128_causal", 256));
    let launches = fake::with(|state| state.launches.clone());
    let [launch] = launches.as_slice() else { panic!("one launch, not {}", launches.len()) };
    let (params, _) = launch.dense();
    assert_eq!((params.pack, params.grid.heads.get(), params.group.get(), params.seqlen_q), (1, 6, 3, 1000));
    assert_eq!((params.grid.m_blocks.get(), params.grid.tiles), (8, 8 * 6 * 2));
    assert_eq!(launch.grid, (8 * 6 * 2, 1, 1));
    assert_eq!((params.lse_batch_stride, params.lse_head_stride), (12_000, 1000));
    let maps = fake::with(|state| state.encoded.clone());
    assert_eq!(maps[0].dims, [128, 2, 1000, 6, 2]);
    assert_eq!(maps[0].strides, [256, 12 * 256, 2 * 256, 12 * 256_000]);
    assert_eq!(maps[0].tile, [64, 2, 64, 1, 1]);
    assert_eq!((&maps[3].dims, &maps[3].tile), (&maps[0].dims, &maps[0].tile));
    assert_eq!((&maps[1].dims[..], &maps[1].tile[..]), (&[128, 700, 2, 2][..], &[64, 128, 1, 1][..]));
    assert_eq!((maps[2].dims.len(), &maps[2].tile[..]), (4, &[64, 128, 1, 1][..]));
}

#[test]
fn wide_panels_swizzle_by_128_bytes() {
    fake::reset();
    launch(&plan(&problem()).expect("valid"), &TENSORS).expect("valid");
    fake::with(|state| assert!(state.encoded.iter().all(|m| m.swizzle == 3 && m.tile[0] == 64 && m.data_type == 9)));
}

#[test]
fn a_refused_problem_loads_and_launches_nothing() {
    fake::reset();
    let device = fake::device();
    let before = fake::with(|state| state.calls.len());
    let zero = Strides { batch: 0, seq: 0, head: 0 };
    let many = Shape { batch: 1 << 20, heads: 1 << 20, kv_heads: 1, ..SHAPE };
    let refused = [
        Problem::new(DType::Bf16, Shape { batch: 0, ..SHAPE }),
        Problem::new(DType::Bf16, Shape { head_dim: 264, ..SHAPE }),
        Problem::new(DType::Bf16, Shape { kv_heads: 3, ..SHAPE }),
        problem().scale(-1.0),
        problem().strides_k(Strides { seq: 4, ..zero }),
        problem().strides_o(zero),
        problem().lse_strides(-1, 0),
        Problem::new(DType::Bf16, many),
    ];
    for problem in refused {
        assert!(plan_on(&device, &problem).is_err(), "{problem}");
    }
    assert!(Plan::with_kernel(&device, &problem(), "no_such_kernel").is_err());
    assert_eq!(fake::with(|state| state.calls.len()), before, "the driver was not called");
}

#[test]
fn a_kernel_of_another_plan_is_launched_as_it_says_or_refused() {
    use attn_kernel::forward::{AnyPlan, sm90};
    fake::reset();
    let dir = std::env::temp_dir().join(format!("attn-host-{}-code", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a writable temporary folder");
    let own = Plan::choice(fake::device().info(), &problem()).expect("valid");
    let AnyPlan::Sm90(plan) = own.plan else { panic!("{own:?}") };
    let plan = plan.with("bm=64 bn=64").expect("knobs");
    let kernel: &'static _ = Box::leak(Box::new(sm90::describe("fwd_another", DType::Bf16, false, plan)));
    std::fs::write(dir.join("fwd_another.cubin"), b"machine code").expect("writable");
    let manifest = |plan: u64| {
        let text = format!(r#"{{"kernels": [{{"name": "fwd_another", "plan": "{plan:016x}"}}]}}"#);
        std::fs::write(dir.join("manifest.json"), text).expect("writable");
    };
    let made = |problem: &Problem| Plan::with_code(&fake::device(), problem, kernel, &dir);
    manifest(own.launch.fingerprint());
    let foreign = made(&problem());
    manifest(kernel.launch.fingerprint());
    let (made, other) = (made(&problem()), made(&problem().mask(Mask::Causal)));
    std::fs::remove_dir_all(&dir).expect("removable");
    assert!(matches!(foreign, Err(Error::ForeignPlan { kernel: "fwd_another", .. })), "{foreign:?}");
    assert!(matches!(other, Err(Error::Unsupported { kernel: "fwd_another", .. })), "{other:?}");
    let made = made.expect("its own code");
    assert_eq!((made.block(), made.smem_bytes()), ((256, 1, 1), kernel.launch.shared));
    assert_ne!(made.smem_bytes(), own.launch.shared);
}

#[test]
fn too_many_tiles_are_an_overflow() {
    fake::reset();
    let shape = Shape { batch: 1 << 15, heads: 1 << 15, kv_heads: 1, head_dim: 8, head_dim_v: 8, ..SHAPE };
    let found = plan(&Problem::new(DType::Bf16, shape)).expect_err("2^30 heads of many tiles");
    assert!(matches!(found, Error::Overflow { what: "the count of tiles", .. }), "{found}");
}

#[test]
fn bad_addresses_are_named_and_nothing_is_launched() {
    fake::reset();
    let plan = plan(&problem()).expect("valid");
    let before = fake::with(|state| state.calls.len());
    type Place = fn(&mut Tensors) -> &mut DevicePtr;
    let places: [(&str, u64, Place); 5] = [
        ("q", 16, |t| &mut t.q),
        ("k", 16, |t| &mut t.k),
        ("v", 16, |t| &mut t.v),
        ("o", 16, |t| &mut t.o),
        ("lse", 4, |t| t.lse.as_mut().expect("given")),
    ];
    for (argument, alignment, place) in places {
        let launch_at = |address| {
            let mut tensors = TENSORS;
            *place(&mut tensors) = DevicePtr(address);
            launch(&plan, &tensors).expect_err("must be refused")
        };
        assert_eq!(launch_at(0), Error::NullPointer { argument });
        let address = 0x1000 + alignment / 2;
        assert_eq!(launch_at(address), Error::Misaligned { argument, address, alignment });
        let found = launch_at(u64::MAX - 15);
        assert!(matches!(found, Error::Overflow { argument: a, .. } if a == argument), "{found}");
    }
    assert_eq!(fake::with(|state| state.calls.len()), before, "the driver was not called");
}

#[test]
fn tensors_of_another_device_are_named() {
    fake::reset();
    let plan = plan(&problem()).expect("valid");
    fake::with(|state| state.foreign.insert(TENSORS.v.0, 3));
    let expected = Error::ForeignPointer { argument: "v", address: TENSORS.v.0, found: 3, allowed: 0 };
    assert_eq!(plan.check_devices(&TENSORS), Err(expected.clone()));
    if cfg!(debug_assertions) {
        assert_eq!(launch(&plan, &TENSORS), Err(expected));
        assert_eq!(count("cuLaunchKernelEx"), 0);
    }
}

#[test]
fn without_a_context_there_is_no_device_no_plan_and_no_launch() {
    fake::reset();
    let device = fake::device();
    let plan = plan(&problem()).expect("valid");
    let own = fake::with(|state| std::mem::replace(&mut state.current, Handle::NULL));
    assert_eq!(Device::with_driver(&fake::DRIVER).map(|d| d.info().ordinal), Err(Error::NoContext));
    assert_eq!(plan_on(&device, &problem()).map(|_| ()), Err(Error::NoContext));
    assert_eq!(launch(&plan, &TENSORS), Err(Error::NoContext));

    let other = Handle(0x99 as *mut _);
    fake::with(|state| state.current = other);
    let expected = Error::WrongContext { planned: own.0 as usize, current: 0x99 };
    assert_eq!(plan_on(&device, &problem()).map(|_| ()), Err(expected.clone()));
    assert_eq!(launch(&plan, &TENSORS), Err(expected));
    assert_eq!(count("cuLaunchKernelEx"), 0);
}

#[test]
fn opening_a_device_makes_its_primary_context_current() {
    fake::reset();
    let own = fake::with(|state| std::mem::replace(&mut state.current, Handle::NULL));
    let device = Device::open_with(&fake::DRIVER, 0).expect("there is one");
    assert_eq!(fake::with(|state| state.current), own);
    assert_eq!(plan_on(&device, &problem()).map(|_| ()), Ok(()));

    let failed = |ordinal| Device::open_with(&fake::DRIVER, ordinal).map(|d| d.info().ordinal);
    assert!(
        matches!(failed(1), Err(Error::Cuda { call: "cuDeviceGet", code: fake::INVALID_DEVICE, .. })),
        "{:?}",
        failed(1)
    );
    let allowed = "0 to 2147483647";
    assert_eq!(failed(1 << 31), Err(Error::Size { argument: "ordinal", value: 1 << 31, allowed }));
}

#[test]
fn a_later_context_at_the_same_address_is_not_the_plans() {
    fake::reset();
    let plan = plan(&problem()).expect("valid");
    assert_eq!(plan.check_context(), Ok(()));
    fake::with(|state| state.context_id += 1 << 40);
    assert_eq!(plan.check_context(), Err(Error::ContextGone));
}

#[test]
fn a_device_without_kernels_loads_nothing() {
    fake::reset();
    fake::with(|state| state.attributes.insert(sys::device_attribute::COMPUTE_CAPABILITY_MAJOR, 8));
    let found = plan(&problem()).expect_err("no kernel");
    assert!(matches!(found, Error::WrongDevice { compute_capability: (8, 0), .. }), "{found}");
    assert_eq!(count("cuModuleLoadDataEx"), 0);
}

#[test]
fn plans_of_one_context_share_a_module() {
    fake::reset();
    for seqlen_q in [2000, 3001, 4096] {
        plan(&Problem::new(DType::Bf16, Shape { seqlen_q, ..SHAPE })).expect("valid");
    }
    assert_eq!(count("cuModuleLoadDataEx"), 1);
    fake::with(|state| state.context_id += 1 << 40);
    plan(&problem()).expect("valid");
    assert_eq!(count("cuModuleLoadDataEx"), 2, "another context loads its own");
}

#[test]
fn machine_code_that_the_driver_refuses_is_replaced_by_ptx() {
    fake::reset();
    fake::with(|state| state.load_codes = (sys::NO_BINARY_FOR_GPU, sys::SUCCESS));
    launch(&plan(&problem()).expect("PTX loads"), &TENSORS).expect("valid");
    assert_eq!(count("cuModuleLoadDataEx"), 2);
}

#[test]
fn a_driver_that_takes_no_form_of_a_kernel_is_too_old() {
    fake::reset();
    fake::with(|state| state.load_codes = (sys::INVALID_IMAGE, sys::UNSUPPORTED_PTX_VERSION));
    let found = plan(&problem()).expect_err("nothing loads");
    let Error::DriverTooOld { found: version, missing } = found else { panic!("{found}") };
    assert_eq!(version.to_string(), "12.8");
    assert!(missing.contains("fwd_sm90_bf16_d128") && missing.contains("line 9"), "{missing}");
}

#[test]
fn ptx_with_an_error_is_reported_in_the_compilers_words() {
    fake::reset();
    fake::with(|state| state.load_codes = (sys::NO_BINARY_FOR_GPU, 218));
    let found = plan(&problem()).expect_err("nothing loads");
    assert!(matches!(&found, Error::Cuda { code: 218, message, .. } if message.contains("line 9")), "{found}");
}

#[test]
fn code_of_another_plan_is_stale_and_unloaded() {
    fake::reset();
    fake::with(|state| state.max_threads = 128);
    let found = plan(&problem()).expect_err("too few threads");
    assert!(matches!(found, Error::StaleKernel { found: 128, .. }), "{found}");
    assert_eq!(fake::with(|state| state.modules_alive), 0);
}

#[test]
fn a_kernel_without_code_says_where_it_was_looked_for() {
    fake::reset();
    let missing = |kernel: &attn_kernel::companion::EntryPoint| {
        Err::<Code, _>(Error::NoKernel { kernel: kernel.name, reason: "nowhere".to_owned() })
    };
    let found = Plan::with_loader(&fake::device(), &problem(), missing, select::choose).expect_err("no code");
    assert_eq!(found, Error::NoKernel { kernel: "fwd_sm90_bf16_d128", reason: "nowhere".to_owned() });
}

/// Makes a device and a plan and launches it.
fn whole_run() -> Result<(), Error> {
    let device = Device::with_driver(&fake::DRIVER)?;
    launch(&plan_on(&device, &problem())?, &TENSORS)
}

#[test]
fn whichever_call_fails_the_error_names_it_and_nothing_is_lost() {
    fake::reset();
    whole_run().expect("nothing fails");
    let calls = fake::with(|state| state.calls.clone());
    assert!(calls.len() > 15, "{calls:?}");
    for (failing, &name) in calls.iter().enumerate() {
        for code in [sys::OUT_OF_MEMORY, 999] {
            fake::reset();
            fake::with(|state| state.fail = Some((failing, code)));
            match whole_run().expect_err(name) {
                Error::OutOfMemory { call } if code == sys::OUT_OF_MEMORY => assert_eq!(call, name),
                Error::Cuda { call, code: 999, name: text, .. } => assert_eq!((call, text.as_str()), (name, "FAKE")),
                other => panic!("{name}: {other}"),
            }
            assert_eq!(fake::with(|state| state.launches.len()), 0, "{name}");
            let loads_before = count("cuModuleLoadDataEx");
            let alive = fake::with(|state| state.modules_alive);
            whole_run().expect("works once nothing fails");
            // A module that stayed alive is the one that the next plan uses.
            assert_eq!(count("cuModuleLoadDataEx") - loads_before, usize::from(alive == 0), "{name}");
            assert_eq!(fake::with(|state| state.modules_alive), 1, "{name}");
        }
    }
}

#[test]
fn a_plan_prints_all_that_was_decided() {
    fake::reset();
    let text = plan(&problem().mask(Mask::Causal)).expect("valid").to_string();
    for part in
        ["fwd_sm90_bf16_d128_causal", "b=2 sq=1000 sk=700 h=8 hkv=2 d=128 dv=128", "causal", "grid", "132", "block"]
    {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn the_real_driver_is_there_or_its_absence_is_typed() {
    match Device::current() {
        Err(Error::NoDriver { reason }) => assert!(reason.contains("libcuda"), "{reason}"),
        // A driver without a device, without a context on this thread, or of before CUDA 12.
        Err(Error::Cuda { call: "cuInit", .. } | Error::NoContext | Error::DriverTooOld { .. }) => {}
        other => panic!("no context is current on this thread: {other:?}"),
    }
}

mod allocations;
mod counting;
#[cfg(feature = "cust")]
mod on_a_gpu;
