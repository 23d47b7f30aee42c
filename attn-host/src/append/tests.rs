//! Planning and launching against the recording driver: what is passed, and that nothing is where anything is wrong.

use attn_kernel::append::AppendParams;

use super::{Append, AppendPlan, AppendShape, AppendSpans, AppendTensors, Cache, Pairs, Rotary, Sines};
use crate::fake::{self, Arguments, Launch};
use crate::problem::{DType, Descales};
use crate::{DevicePtr, Error, PagedKv, Stream, Strides};

const SHAPE: AppendShape = AppendShape { batch: 3, new: 2, kv_heads: 2, head_dim: 128, head_dim_v: 64 };
const DENSE: Cache = Cache::Dense { rows: 500 };
const PAGED: PagedKv = PagedKv { page_size: 32, pages: 40, table_width: 11 };
const ROTARY: Rotary = Rotary { dim: 64, pairs: Pairs::Halves, positions: 4096, sines: Sines::F32 };

fn append() -> Append {
    Append::new(DType::Bf16, SHAPE, DENSE)
}

fn plan(append: &Append) -> Result<AppendPlan, Error> {
    AppendPlan::with_loader(&fake::device(), append, fake::code)
}

fn tensors() -> AppendTensors {
    let [k, v, k_cache, v_cache] = [1, 2, 3, 4].map(|n| DevicePtr(n << 28));
    AppendTensors::new(k, v, k_cache, v_cache)
}

/// Tensors with all that the plan needs, without `q_out`: the n-th at `0x6000_0000 + n * 0x100`.
fn complete(append: &Append) -> AppendTensors {
    let at = |needed: bool, n: u64| needed.then_some(DevicePtr(0x6000_0000 + n * 0x100));
    AppendTensors {
        q: at(append.heads > 0, 0),
        cos: at(append.rotary.is_some(), 1),
        sin: at(append.rotary.is_some(), 2),
        cu_seqlens_new: at(append.packed.is_some(), 3),
        seqused_new: at(append.seqused_new, 4),
        seqlens_before: at(append.seqlens_before, 5),
        page_table: at(matches!(append.cache, Cache::Paged(_)), 6),
        k_descale: at(append.descales.is_some(), 7),
        v_descale: at(append.descales.is_some(), 8),
        ..tensors()
    }
}

fn launch(plan: &AppendPlan, tensors: &AppendTensors) -> Result<(), Error> {
    // SAFETY: the fake driver touches no memory of these addresses.
    unsafe { plan.launch(tensors, Stream(0x77 as *mut _)) }
}

/// Plans and launches on a fresh fake; what was launched.
fn launched(append: &Append, tensors: &AppendTensors) -> (AppendPlan, Launch, AppendParams) {
    fake::reset();
    let plan = plan(append).unwrap_or_else(|e| panic!("{append}: {e}"));
    launch(&plan, tensors).unwrap_or_else(|e| panic!("{append}: {e}"));
    let launches = fake::with(|state| state.launches.clone());
    let [launch] = launches.as_slice() else { panic!("one launch, not {}", launches.len()) };
    let Arguments::Append(params) = launch.arguments else { panic!("{launch:?}") };
    (plan, launch.clone(), params)
}

fn error_of(append: Append) -> Error {
    fake::reset();
    plan(&append).expect_err("must be refused")
}

#[test]
fn a_dense_cache_is_addressed_by_batch_entries() {
    let (plan, launch, params) = launched(&append(), &tensors());
    assert_eq!((launch.grid, launch.block, launch.smem), (plan.grid(), (128, 1, 1), 0));
    assert!(launch.overlap && launch.stream == 0x77);
    // 2 heads of 8 items of K and 4 of V: a block for each of 6 tokens.
    assert_eq!((launch.grid, params.parts.get(), params.k_items.get(), params.v_items.get()), ((6, 1, 1), 1, 8, 4));
    assert_eq!([params.k.base, params.v.base].map(|base| base as u64), [1 << 28, 2 << 28]);
    assert_eq!([params.k_cache.base, params.v_cache.base].map(|base| base as u64), [3 << 28, 4 << 28]);
    assert_eq!((params.k.outer, params.k.row, params.k.head), (512, 256, 128));
    assert_eq!((params.v.outer, params.v.row, params.v.head), (256, 128, 64));
    assert_eq!((params.k_cache.outer, params.k_cache.row, params.k_cache.head), (500 * 256, 256, 128));
    assert_eq!((params.capacity, params.page_shift, params.page_count, params.page_stride), (500, 31, 3, 0));
    assert_eq!((params.batch, params.new.get(), params.d, params.dv, params.kv_heads), (3, 2, 128, 64, 2));
    assert_eq!((params.heads, params.rotary), (0, 0));
    assert!(params.pages.is_null() && params.before.is_null() && params.cu_new.is_null() && params.cos.is_null());
    let (k, v) = (3 * 2 * 256, 3 * 2 * 128);
    let spans = AppendSpans { k, v, q: 0, q_out: 0, k_cache: 250 * k, v_cache: 250 * v, sines: 0 };
    assert_eq!(plan.spans(), spans);
}

#[test]
fn pages_lengths_and_packed_tokens_are_passed() {
    let all = Append { cache: Cache::Paged(PAGED), ..append() }.packed(70).seqlens_before().seqused_new();
    let (plan, launch, params) = launched(&all, &complete(&all));
    assert_eq!(launch.grid, (70, 1, 1));
    assert_eq!((params.k.outer, params.k.row, params.v.outer), (0, 256, 0));
    assert_eq!((params.capacity, params.page_shift, params.page_count, params.page_stride), (352, 5, 40, 11));
    assert_eq!(params.k_cache.outer, 32 * 256);
    let lengths = [params.cu_new, params.used_new, params.before, params.pages].map(|array| array as u64);
    assert_eq!(lengths, [3, 4, 5, 6].map(|n| 0x6000_0000 + n * 0x100));
    assert_eq!((plan.spans().k, plan.spans().k_cache), (70 * 256, 40 * 32 * 256));
}

#[test]
fn queries_are_rotated_in_place_or_elsewhere() {
    let all = append().rotary(ROTARY).queries(32);
    let in_place = complete(&all);
    let (plan, launch, params) = launched(&all, &in_place);
    // 34 heads of 8 items and 2 of 4.
    assert_eq!((params.parts.get(), launch.grid), (3, (18, 1, 1)));
    assert_eq!((params.rotary, params.interleaved, params.table_f32, params.positions), (64, 0, 1, 4096));
    assert_eq!((params.table_stride, plan.spans().sines), (32, 4096 * 32));
    assert_eq!((params.cos as u64, params.sin as u64), (0x6000_0100, 0x6000_0200));
    assert_eq!((params.q.base, params.q.row), (params.q_out.base, 32 * 128));
    let elsewhere = AppendTensors { q_out: Some(DevicePtr(0x7000_0000)), ..in_place };
    let (_, _, params) = launched(&all, &elsewhere);
    assert_eq!((params.q.base as u64, params.q_out.base as u64), (0x6000_0000, 0x7000_0000));
    let transposed = Strides { batch: 32 * 2 * 128, seq: 128, head: 2 * 128 };
    let moved = all.strides_q_out(transposed);
    let (plan, _, params) = launched(&moved, &elsewhere);
    assert_eq!((params.q_out.row, params.q_out.head, params.q.row), (128, 256, 32 * 128));
    let found = launch_error(&plan, &in_place);
    assert!(matches!(found, Error::Missing { argument: "q_out", .. }), "{found}");
}

fn launch_error(plan: &AppendPlan, tensors: &AppendTensors) -> Error {
    let before = fake::with(|state| state.launches.len());
    let error = launch(plan, tensors).expect_err("must be refused");
    assert_eq!(fake::with(|state| state.launches.len()), before, "nothing is launched");
    error
}

#[test]
fn tables_may_be_halves_of_one_and_of_the_tensors_type() {
    let rotary = Rotary { sines: Sines::AsTensors, pairs: Pairs::Interleaved, ..ROTARY };
    let all = append().rotary(rotary).sines_stride(64);
    let (plan, _, params) = launched(&all, &complete(&all));
    assert_eq!((params.table_f32, params.interleaved, params.table_stride), (0, 1, 64));
    assert_eq!(plan.spans().sines, 4095 * 64 + 32);
    for (value, sines) in [(-16, Sines::F32), (2, Sines::F32), (12, Sines::AsTensors), (1 << 32, Sines::F32)] {
        let found = error_of(append().rotary(Rotary { sines, ..ROTARY }).sines_stride(value));
        assert!(matches!(found, Error::Stride { dimension: "position", value: v, .. } if v == value), "{found}");
    }
}

#[test]
fn caches_of_8_bit_floats_have_factors() {
    let narrow = append().float8_cache();
    let (_, _, params) = launched(&narrow, &tensors());
    assert_eq!((params.cache_e4m3, params.descale_stride, params.k_descale.is_null()), (1, 0, true));
    for (descales, stride) in [(Descales::PerHead, 0), (Descales::PerSequenceAndHead, 2)] {
        let scaled = narrow.descales(descales);
        let (_, _, params) = launched(&scaled, &complete(&scaled));
        assert_eq!((params.k_descale as u64, params.v_descale as u64), (0x6000_0700, 0x6000_0800));
        assert_eq!(params.descale_stride, stride);
    }
    let found = error_of(append().descales(Descales::PerHead));
    assert!(matches!(found, Error::Combination { first: "factors (descales)", .. }), "{found}");
    let eighths = Strides { batch: 500 * 264, seq: 264, head: 128 };
    assert!(plan(&append().strides_k_cache(eighths)).is_ok());
    let found = error_of(narrow.strides_k_cache(eighths));
    assert!(matches!(found, Error::Stride { argument: "k_cache", dimension: "seq", value: 264, .. }), "{found}");
}

#[test]
fn sizes_outside_their_range_are_named() {
    let with = |shape: AppendShape| append_of(shape);
    let size = |append: Append| match error_of(append) {
        Error::Size { argument, value, .. } => (argument, value),
        other => panic!("not about a size: {other}"),
    };
    for value in [0, 1 << 31, u64::MAX] {
        assert_eq!(size(with(AppendShape { batch: value, ..SHAPE })), ("batch", value));
        assert_eq!(size(with(AppendShape { kv_heads: value, ..SHAPE })), ("kv_heads", value));
        assert_eq!(size(with(AppendShape { new: value, ..SHAPE })), ("new", value));
        assert_eq!(size(append().packed(value)), ("total", value));
        assert_eq!(size(Append { cache: Cache::Dense { rows: value }, ..append() }), ("rows", value));
        let pages = |paged| Append { cache: Cache::Paged(paged), ..append() };
        assert_eq!(size(pages(PagedKv { pages: value, ..PAGED })), ("pages", value));
        assert_eq!(size(pages(PagedKv { table_width: value, ..PAGED })), ("table_width", value));
        assert_eq!(size(append().rotary(Rotary { positions: value, ..ROTARY })), ("positions", value));
    }
    for value in [0, 4, 12, 264] {
        assert_eq!(size(with(AppendShape { head_dim: value, ..SHAPE })), ("head_dim", value));
        assert_eq!(size(with(AppendShape { head_dim_v: value, ..SHAPE })), ("head_dim_v", value));
    }
    for value in [0, 8, 24, 144] {
        assert_eq!(size(append().rotary(Rotary { dim: value, ..ROTARY })), ("rotary dim", value));
    }
    let odd = Append { cache: Cache::Paged(PagedKv { page_size: 24, ..PAGED }), ..append() };
    assert_eq!(size(odd), ("page_size", 24));
    assert_eq!(size(append().rotary(ROTARY).queries(1 << 31)), ("heads", 1 << 31));
    let many = with(AppendShape { batch: 1 << 20, new: 1 << 20, ..SHAPE });
    assert!(matches!(error_of(many), Error::Overflow { .. }));
}

fn append_of(shape: AppendShape) -> Append {
    Append { shape, ..append() }
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    let found = error_of(append().queries(8));
    assert!(matches!(found, Error::Combination { first: "queries", .. }), "{found}");
    let repeated = Strides { batch: 0, seq: 256, head: 128 };
    let found = error_of(append().strides_k_cache(repeated));
    assert!(matches!(found, Error::Overlap { argument: "k_cache", dimension: "batch", .. }), "{found}");
    let found = error_of(append().strides_v_cache(Strides { seq: 12, ..repeated }));
    assert!(matches!(found, Error::Stride { argument: "v_cache", dimension: "seq", value: 12, .. }), "{found}");
    assert!(plan(&append().strides_k(repeated)).is_ok(), "inputs may repeat");
    let paged = Append { cache: Cache::Paged(PAGED), ..append() };
    let found = error_of(paged.strides_k_cache(repeated));
    assert!(matches!(found, Error::Overlap { argument: "k_cache", dimension: "page", .. }), "{found}");
}

#[test]
fn tensors_are_there_exactly_when_planned() {
    fake::reset();
    let all = Append { cache: Cache::Paged(PAGED), ..append() };
    let all = all.packed(70).seqlens_before().seqused_new().rotary(ROTARY).queries(8);
    let all = all.float8_cache().descales(Descales::PerHead);
    let (bare, full) = (plan(&append()).expect("valid"), plan(&all).expect("valid"));
    let given = complete(&all);
    type Field = fn(&mut AppendTensors) -> &mut Option<DevicePtr>;
    let changes: [(&str, Field); 9] = [
        ("q", |tensors| &mut tensors.q),
        ("cos", |tensors| &mut tensors.cos),
        ("sin", |tensors| &mut tensors.sin),
        ("cu_seqlens_new", |tensors| &mut tensors.cu_seqlens_new),
        ("seqused_new", |tensors| &mut tensors.seqused_new),
        ("seqlens_before", |tensors| &mut tensors.seqlens_before),
        ("page_table", |tensors| &mut tensors.page_table),
        ("k_descale", |tensors| &mut tensors.k_descale),
        ("v_descale", |tensors| &mut tensors.v_descale),
    ];
    for (name, field) in changes {
        let mut without = given;
        *field(&mut without) = None;
        let found = launch_error(&full, &without);
        assert!(matches!(found, Error::Missing { argument, .. } if argument == name), "{name}: {found}");
        let mut with = tensors();
        *field(&mut with) = *field(&mut given.clone());
        let found = launch_error(&bare, &with);
        assert!(matches!(found, Error::NotPlanned { argument, .. } if argument == name), "{name}: {found}");
        let mut null = given;
        *field(&mut null) = Some(DevicePtr(0));
        assert_eq!(launch_error(&full, &null), Error::NullPointer { argument: name });
        let mut odd = given;
        *field(&mut odd) = Some(DevicePtr(0x6000_0002));
        let found = launch_error(&full, &odd);
        assert!(matches!(found, Error::Misaligned { argument, .. } if argument == name), "{name}: {found}");
    }
    let found = launch_error(&bare, &AppendTensors { v_cache: DevicePtr(8), ..tensors() });
    assert_eq!(found, Error::Misaligned { argument: "v_cache", address: 8, alignment: 16 });
}

#[test]
fn a_device_without_kernels_and_a_foreign_context_are_told() {
    fake::reset_to((8, 0));
    assert!(matches!(plan(&append()), Err(Error::WrongDevice { compute_capability: (8, 0), .. })));
    fake::reset_to((10, 3));
    let plan = plan(&append()).expect("compiled for it");
    fake::with(|state| state.current = crate::sys::Handle(0x5 as *mut _));
    assert!(matches!(launch_error(&plan, &tensors()), Error::WrongContext { .. }));
    fake::with(|state| state.current = plan.context);
    fake::with(|state| state.foreign.insert(3 << 28, 1));
    let found = plan.check_devices(&tensors());
    assert!(matches!(found, Err(Error::ForeignPointer { argument: "k_cache", found: 1, .. })), "{found:?}");
}
