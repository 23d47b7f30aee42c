//! What serving plans hand to the driver, feature by feature.

use std::f32::consts::LOG2_E;

use crate::fake::{self, Arguments, Launch};
use crate::problem::{DType, Mask};
use crate::tests::{self, launch, plan};
use crate::{
    Alibi, Descales, DevicePtr, Error, Float8, PagedKv, Plan, Problem, Shape, Splits, Strides, Tensors, Unsupported,
};

const SHAPE: Shape =
    Shape { batch: 3, seqlen_q: 500, seqlen_k: 700, heads: 8, kv_heads: 2, head_dim: 128, head_dim_v: 128 };
const PAGED: PagedKv = PagedKv { page_size: 64, pages: 40, table_width: 11 };
const BASE: [u64; 4] = [0x1000_0000, 0x2000_0000, 0x3000_0000, 0x4000_0000];

fn problem() -> Problem {
    Problem::new(DType::Bf16, SHAPE)
}

fn decode() -> Problem {
    Problem::new(DType::Bf16, Shape { seqlen_q: 1, seqlen_k: 8192, ..SHAPE }).seqused_k()
}

fn tensors() -> Tensors {
    let [q, k, v, o] = BASE.map(DevicePtr);
    Tensors { lse: Some(DevicePtr(0x5000_0000)), ..Tensors::new(q, k, v, o) }
}

/// Tensors with all that the problem needs: the n-th extra one at `0x6000_0000 + n * 0x100`.
fn complete(plan: &Plan) -> Tensors {
    let serving = &plan.problem().serving;
    let at = |needed: bool, n: u64| needed.then_some(DevicePtr(0x6000_0000 + n * 0x100));
    Tensors {
        cu_seqlens_q: at(serving.packed_q.is_some(), 0),
        cu_seqlens_k: at(serving.packed_k.is_some(), 1),
        seqused_q: at(serving.seqused_q, 2),
        seqused_k: at(serving.seqused_k, 3),
        page_table: at(serving.paged.is_some(), 4),
        sinks: at(serving.sinks, 5),
        alibi_slopes: at(serving.alibi.is_some(), 6),
        k_descale: at(serving.descales.is_some(), 7),
        v_descale: at(serving.descales.is_some(), 8),
        q_descale: at(serving.descales.is_some() && serving.float8 == Float8::All, 9),
        workspace: at(plan.workspace_bytes() > 0, 16),
        ..tensors()
    }
}

/// Plans and launches on a fresh fake; what was launched.
fn launched(problem: &Problem) -> (Plan, Vec<Launch>) {
    fake::reset();
    let plan = plan(problem).unwrap_or_else(|e| panic!("{problem}: {e}"));
    launch(&plan, &complete(&plan)).expect("valid");
    (plan, fake::with(|state| state.launches.clone()))
}

#[test]
fn what_is_not_dense_goes_to_the_kernels_for_serving() {
    let chosen = |problem: &Problem| {
        fake::reset();
        plan(problem).expect("valid").kernel().name
    };
    let many = Problem::new(DType::Bf16, Shape { batch: 100, ..SHAPE }).seqused_k();
    assert_eq!(chosen(&many), "serve_sm90_bf16_d128");
    assert_eq!(chosen(&many.softcap(30.0)), "serve_sm90_bf16_d128_mod");
    assert_eq!(chosen(&many.alibi(Alibi::PerHead)), "serve_sm90_bf16_d128_mod");
    assert_eq!(chosen(&decode()), "decode_sm90_bf16_d128");
    let few = Problem::new(DType::Bf16, Shape { batch: 2, ..SHAPE }).seqused_k();
    assert_eq!(chosen(&few), "decode_sm90_bf16_d128");
    let short = |keys| {
        let shape = Shape { batch: 100, seqlen_q: 30, seqlen_k: keys, ..SHAPE };
        Problem::new(DType::Bf16, shape).packed_q(1000).packed_k(100 * keys)
    };
    assert_eq!(chosen(&short(64)), "short_sm90_bf16_d128");
    assert_eq!(chosen(&short(65)), "prompt_sm90_bf16_d128");
    assert_eq!(chosen(&short(64).softcap(30.0)), "serve_sm90_bf16_d128_mod");
    assert_eq!(chosen(&short(64).window(Some(9), Some(0))), "serve_sm90_bf16_d128");
    let packed =
        Problem::new(DType::Bf16, Shape { batch: 100, seqlen_k: 500, ..SHAPE }).packed_q(50_000).packed_k(50_000);
    for mask in [Mask::None, Mask::Causal, Mask::Window { left: None, right: Some(7) }] {
        assert_eq!(chosen(&packed.mask(mask)), "prompt_sm90_bf16_d128");
    }
    assert_eq!(chosen(&packed.sinks().splits(Splits::Auto)), "prompt_sm90_bf16_d128");
    assert_eq!(chosen(&packed.window(Some(9), Some(0))), "serve_sm90_bf16_d128");
    assert_eq!(chosen(&packed.splits(Splits::Exactly(2))), "serve_sm90_bf16_d128");
    assert_eq!(chosen(&packed.softcap(30.0)), "serve_sm90_bf16_d128_mod");
    // Heads of a group fill tiles of few queries; tiles of one sequence alone would leave multiprocessors idle.
    assert_eq!(chosen(&packed.packed_q(2_000)), "prompt_sm90_bf16_d128");
    let lone = Problem::new(DType::Bf16, Shape { batch: 1, seqlen_k: 500, ..SHAPE }).packed_q(500).packed_k(500);
    assert_eq!(chosen(&lone), "decode_sm90_bf16_d128");
    assert!(chosen(&problem()).starts_with("fwd_sm90_bf16_d128"));
    assert!(chosen(&problem().window(None, Some(0))).starts_with("fwd_sm90_bf16_d128_causal"));
    assert!(!chosen(&problem().window(Some(9), Some(0))).starts_with("fwd"));
    assert!(!chosen(&problem().splits(Splits::Auto)).starts_with("fwd"));
}

#[test]
fn a_dense_cache_is_addressed_as_rows() {
    let (plan, launches) = launched(&problem().seqused_k().splits(Splits::Exactly(1)));
    let [launch] = launches.as_slice() else { panic!("one launch, not {}", launches.len()) };
    assert_eq!((launch.grid, launch.block, launch.smem), (plan.grid(), plan.block(), plan.smem_bytes()));
    let (params, addresses) = launch.serve();
    let kernel = &plan.kernel().launch;
    let (row_q, row_k) = (8 * 128 * 2, 2 * 128 * 2);
    let below = [0, 0, 0, 64 * row_q]; // only a store may have a map that begins before its tensor
    assert_eq!(addresses, [0, 1, 2, 3].map(|i| BASE[i] - below[i]));
    let maps = fake::with(|state| state.encoded.clone());
    assert_eq!(maps[0].dims, [128, 1, 1500, 8, 1]);
    assert_eq!(maps[3].dims, [128, 1, 64, 8, 1500 + 64]);
    assert_eq!(
        (&maps[0].strides[..], &maps[3].strides[..]),
        (&[256, row_q, 256, row_q][..], &[256, row_q, 256, row_q][..])
    );
    assert_eq!((&maps[0].tile[..], &maps[3].tile[..]), (&[64, 1, 64, 1, 1][..], &[64, 1, 64, 1, 1][..]));
    assert_eq!(maps[1].dims, [128, 1 << 30, 2, (1 << 30) + 1, 2100 + 1]);
    assert_eq!(maps[1].strides, [row_k, 256, (1 << 34) - row_k, row_k]);
    assert_eq!(maps[1].tile, [64, kernel.bn, 1, 1, 1]);
    assert_eq!(maps[2].dims, maps[1].dims);
    assert_eq!((params.q_room, params.o_room, params.rows), (500, 500, 1500));
    assert_eq!((params.seqlen_q, params.seqlen_k, params.chunk), (500, 700, kernel.bn));
    assert_eq!(
        (params.page_shift, params.k_room, params.v_room, params.page_count, params.page_stride),
        (31, 700, 700, 3, 0)
    );
    assert_eq!((params.lse as u64, params.lse_batch_stride, params.lse_head_stride), (0x5000_0000, 4000, 500));
    assert_eq!(params.used_k as u64, 0x6000_0300);
    assert!(params.cu_q.is_null() && params.cu_k.is_null() && params.used_q.is_null() && params.pages.is_null());
    assert!(params.partial.is_null() && params.units.list.is_null() && params.sinks.is_null());
    let m_blocks = 500u32.div_ceil(kernel.bm);
    assert_eq!((params.units.m_blocks.get(), params.units.entries), (m_blocks, 3 * m_blocks));
    assert_eq!((params.units.heads, params.units.splits.get(), params.units.units), (8, 1, 24 * m_blocks));
    assert_eq!((params.group.get(), params.pack.get(), params.queries), (4, 1, 64));
    assert_eq!((params.left, params.right), (1 << 29, 1 << 29));
}

#[test]
fn keys_of_8_bits_are_copied_as_bytes() {
    let narrow = problem().seqused_k().float8(Float8::Keys).descales(Descales::PerSequenceAndHead);
    let (plan, launches) = launched(&narrow.splits(Splits::Exactly(1)));
    assert!(plan.kernel().name.contains("_bf16_kv8_d128"), "{plan}");
    let (params, addresses) = launches[0].serve();
    let bn = plan.kernel().launch.bn;
    let (row_q, row_k) = (8 * 128 * 2, 2 * 128);
    let below = [0, 0, 0, 64 * row_q];
    assert_eq!(addresses, [0, 1, 2, 3].map(|i| BASE[i] - below[i]));
    let maps = fake::with(|state| state.encoded.clone());
    assert_eq!(maps.iter().map(|map| map.data_type).collect::<Vec<_>>(), [9, 0, 0, 9]);
    assert_eq!(
        (&maps[1].dims[..], &maps[1].strides[..]),
        (&[128, 1 << 30, 2, (1 << 30) + 1, 2101][..], &[row_k, 128, (1 << 34) - row_k, row_k][..])
    );
    assert_eq!(maps[1].tile, [128, bn, 1, 1, 1]);
    assert_eq!((params.k_descale as u64, params.v_descale as u64), (0x6000_0700, 0x6000_0800));
    assert!(params.q_descale.is_null());
    assert_eq!(params.descale_batch_stride, 2);
    let (_, launches) = launched(&narrow.descales(Descales::PerHead).splits(Splits::Exactly(1)));
    assert_eq!(launches[0].serve().0.descale_batch_stride, 0);
    fake::reset();
    let wide = Problem::new(DType::Bf16, Shape { head_dim: 256, head_dim_v: 144, ..SHAPE }).float8(Float8::Keys);
    assert_eq!(tests::plan(&wide).expect("a kernel").kernel().name, "serve_sm90_bf16_kv8_d256");
}

#[test]
fn queries_of_8_bits_have_an_output_of_16() {
    let narrow = problem().seqused_k().float8(Float8::All).descales(Descales::PerHead);
    let (plan, launches) = launched(&narrow.splits(Splits::Exactly(1)));
    assert_eq!(plan.kernel().name, "serve_sm90_e4m3_d128");
    let (params, addresses) = launches[0].serve();
    assert_eq!((addresses[0], addresses[3]), (BASE[0], BASE[3] - 64 * 8 * 128 * 2));
    let maps = fake::with(|state| state.encoded.clone());
    assert_eq!(maps.iter().map(|map| map.data_type).collect::<Vec<_>>(), [0, 0, 0, 9]);
    assert_eq!([maps[0].tile[0], maps[3].tile[0]], [128, 64]);
    assert_eq!((params.q_descale as u64, params.k_descale as u64), (0x6000_0900, 0x6000_0700));
    fake::reset();
    let wide = Problem::new(DType::Bf16, Shape { head_dim: 256, head_dim_v: 144, ..SHAPE }).float8(Float8::All);
    assert_eq!(tests::plan(&wide).expect("a kernel").kernel().name, "serve_sm90_e4m3_d256");
    let halves = Problem::new(DType::F16, SHAPE).float8(Float8::All);
    assert!(matches!(tests::plan(&halves), Err(Error::Unsupported { .. })));
}

#[test]
fn what_8_bits_do_not_go_with_is_named() {
    fake::reset();
    let refused = |problem: &Problem| plan(problem).expect_err("must be refused").to_string();
    assert!(refused(&problem().descales(Descales::PerHead)).contains("factors (descales)"));
    let strides = Strides { batch: 700 * 264, seq: 264, head: 128 };
    let narrow = problem().float8(Float8::Keys);
    assert!(refused(&narrow.strides_k(strides)).contains("a multiple of 16 elements"));
    let odd = Problem::new(DType::E4m3, SHAPE).seqused_k();
    assert!(matches!(plan(&odd), Err(Error::Unsupported { reason: Unsupported::DType { got: "e4m3", .. }, .. })));
    // Factors that a launch lacks, and such that nobody asked for.
    let scaled = plan(&narrow.descales(Descales::PerHead)).expect("valid");
    let without = Tensors { v_descale: None, ..complete(&scaled) };
    assert!(matches!(launch(&scaled, &without), Err(Error::Missing { argument: "v_descale", .. })));
    let plain = plan(&narrow).expect("valid");
    let with = Tensors { k_descale: Some(DevicePtr(0x6000_0700)), ..complete(&plain) };
    assert!(matches!(launch(&plain, &with), Err(Error::NotPlanned { argument: "k_descale", .. })));
}

#[test]
fn packed_sequences_have_a_list_of_tiles() {
    let problem = Problem::new(DType::Bf16, Shape { kv_heads: 8, ..SHAPE });
    let (plan, launches) = launched(&problem.packed_q(1100).packed_k(2000).splits(Splits::Exactly(1)));
    let [schedule, attention] = launches.as_slice() else { panic!("two launches, not {}", launches.len()) };
    let Arguments::Schedule(list) = &schedule.arguments else { panic!("{schedule:?}") };
    let (params, _) = attention.serve();
    let tile = plan.kernel().launch.bm;
    let entries = 1100 / tile + 3;
    assert_eq!((schedule.grid, schedule.block), ((1, 1, 1), (1024, 1, 1)));
    assert_eq!((list.list as u64, list.room, list.batch, list.queries.get()), (0x6000_1000, entries, 3, tile));
    assert_eq!((list.cu_q as u64, list.cu_k as u64), (0x6000_0000, 0x6000_0100));
    assert_eq!((params.cu_q, params.cu_k), (list.cu_q, list.cu_k));
    assert_eq!(params.units.list as u64, 0x6000_1000);
    assert_eq!(plan.workspace_bytes(), (32 + 32 * u64::from(entries)).next_multiple_of(256));
    assert_eq!((params.rows, params.q_room, params.k_room, params.page_count), (1100, 0, 0, 3));
    assert_eq!((params.lse_batch_stride, params.lse_head_stride), (0, 1100));
    assert!(attention.overlap, "behind the list");
    let maps = fake::with(|state| state.encoded.clone());
    assert_eq!((&maps[0].dims[2..], &maps[3].dims[2..]), (&[1100, 8, 1][..], &[64, 8, 1100 + 64][..]));
    assert_eq!(maps[1].dims, [128, 1 << 30, 8, (1 << 30) + 1, 2000 + 1]);
}

/// A sequence whose length nobody knows leaves half a tile empty on average.
#[test]
fn heads_of_a_group_are_packed_where_tiles_would_be_emptier_without() {
    let pack = |longest: u64, total: u64| {
        let problem = Problem::new(DType::Bf16, Shape { batch: 100, seqlen_q: longest, seqlen_k: longest, ..SHAPE });
        let (_, launches) = launched(&problem.packed_q(total).packed_k(total));
        launches.last().expect("attention").serve().0.pack.get()
    };
    assert_eq!((pack(512, 51_200), pack(500, 50_000)), (1, 1), "equal lengths of nearly whole tiles");
    assert_eq!((pack(400, 40_000), pack(513, 51_300)), (4, 4), "equal lengths, the last tile nearly empty");
    assert_eq!((pack(1024, 51_200), pack(1024, 4_000)), (4, 4), "lengths that differ");
    assert_eq!(pack(8192, 400_000), 1, "a last tile of many");
}

#[test]
fn long_uneven_tiles_without_a_list_have_a_block_each() {
    let grid = |keys: u64, causal: bool, packed: bool| {
        let shape = Shape { batch: 4, seqlen_q: keys, seqlen_k: keys, heads: 16, kv_heads: 16, ..SHAPE };
        let problem = Problem::new(DType::Bf16, shape).splits(Splits::Exactly(1));
        let problem = if causal { problem.mask(crate::problem::Mask::Causal) } else { problem };
        let problem = if packed { problem.packed_q(4 * keys).packed_k(4 * keys) } else { problem.seqused_k() };
        let (_, launches) = launched(&problem);
        let launch = launches.last().expect("attention");
        (launch.grid.0, launch.serve().0.units.units)
    };
    let (blocks, units) = grid(8192, true, false);
    assert_eq!(blocks, units);
    // With a list, blocks draw their tiles.
    for (keys, causal, packed) in [(8192, true, true), (8192, false, false), (4096, true, false)] {
        let (blocks, units) = grid(keys, causal, packed);
        assert!(blocks < units, "{keys} {causal} {packed}: {blocks} of {units}");
    }
}

#[test]
fn pages_are_copied_in_chunks_that_both_a_page_and_a_tile_are_made_of() {
    for (page_size, head_dim, chunk) in [(16, 128, 16), (64, 128, 64), (256, 128, 128), (256, 192, 32)] {
        let paged = PagedKv { page_size, pages: 40, table_width: 44 };
        let shape = Shape { head_dim, ..SHAPE };
        let (plan, launches) = launched(&Problem::new(DType::Bf16, shape).paged(paged).splits(Splits::Exactly(1)));
        let (params, addresses) = launches[0].serve();
        let row = 2 * head_dim * 2;
        assert_eq!(u64::from(params.chunk), chunk, "{plan}");
        assert_eq!(u64::from(params.page_shift), u64::from(page_size.ilog2()));
        assert_eq!((params.pages as u64, params.page_stride, params.page_count), (0x6000_0400, 44, 40));
        assert_eq!((addresses[1], u64::from(params.k_room)), (BASE[1], page_size));
        let maps = fake::with(|state| state.encoded.clone());
        assert_eq!(maps[1].dims, [head_dim, 1 << 30, 2, (1 << 30) + 1, 40 * page_size + 1]);
        assert_eq!(maps[1].strides, [row, head_dim * 2, (1 << 34) - row, row]);
        assert_eq!(maps[1].tile, [64, chunk as u32, 1, 1, 1]);
    }
}

#[test]
fn heads_of_a_group_share_a_tile_where_queries_are_few() {
    let of = |seqlen_q, heads, kv_heads| {
        let shape = Shape { seqlen_q, heads, kv_heads, ..SHAPE };
        let (_, launches) = launched(&Problem::new(DType::Bf16, shape).seqused_k().splits(Splits::Exactly(1)));
        let params = launches[0].serve().0;
        let map = fake::with(|state| state.encoded[0].clone());
        assert_eq!((map.dims[1], map.dims[3]), (params.pack.get().into(), params.units.heads.into()));
        assert_eq!((map.tile[1], map.tile[2]), (params.pack.get(), params.queries));
        let packs = params.units.heads;
        assert!(packs == 1 || map.strides[2] == u64::from(params.pack.get()) * 256, "{packs} packs: {map:?}");
        (params.pack.get(), params.queries, params.units.heads, params.group.get())
    };
    assert_eq!(of(1, 8, 1), (8, 8, 1, 1));
    assert_eq!(of(1, 12, 2), (6, 10, 2, 1));
    assert_eq!(of(1, 7, 1), (7, 9, 1, 1));
    // More heads than rows: the largest divisor that fits.
    assert_eq!(of(1, 128, 1), (64, 1, 2, 2));
    assert_eq!(of(1, 71, 1), (1, 64, 71, 71));
    assert_eq!(of(1, 8, 8), (1, 64, 8, 1));
    assert_eq!(of(4096, 8, 1), (1, 64, 8, 8), "tiles are full without");
}

#[test]
fn splits_go_through_the_workspace_and_are_combined() {
    let (plan, launches) = launched(&decode().packed_q(3).sinks().splits(Splits::Exactly(5)));
    let [schedule, attention, combine] = launches.as_slice() else { panic!("{} launches", launches.len()) };
    assert!(matches!(schedule.arguments, Arguments::Schedule(_)));
    let (params, _) = attention.serve();
    let Arguments::Combine(joined) = &combine.arguments else { panic!("{combine:?}") };
    // The list: a header and an entry for each sequence.
    let (list, values) = (256, (5 * 8 * 3 * 128 * 4u64).next_multiple_of(256));
    assert_eq!(params.partial as u64, 0x6000_1000 + list);
    assert_eq!(params.partial_lse as u64, 0x6000_1000 + list + values);
    assert_eq!(plan.workspace_bytes(), list + values + (5 * 8 * 3 * 4u64).next_multiple_of(256));
    assert_eq!((plan.splits(), params.units.splits.get(), params.rows), (5, 5, 3));
    assert_eq!((joined.partial as u64, joined.splits, joined.dv), (params.partial as u64, 5, 128));
    assert_eq!((joined.o as u64, joined.o_row_stride, joined.o_head_stride), (BASE[3], 8 * 128, 128));
    assert_eq!((joined.lse as u64, joined.sinks as u64), (0x5000_0000, 0x6000_0500));
    assert!(combine.overlap && combine.grid.0 == joined.blocks());
    assert_eq!(params.sinks as u64, 0x6000_0500);
}

#[test]
fn splits_are_chosen_for_the_multiprocessors() {
    let splits = |batch, seqlen_k| {
        let shape = Shape { batch, seqlen_q: 1, seqlen_k, heads: 64, kv_heads: 8, ..SHAPE };
        launched(&Problem::new(DType::Bf16, shape).seqused_k()).0.splits()
    };
    assert_eq!(splits(1, 65_536), 16);
    assert_eq!(splits(8, 8192), 2);
    assert_eq!(splits(64, 8192), 1);
    assert_eq!(splits(1, 128), 1);
    // A window is all that there is to split.
    let shape = Shape { batch: 1, seqlen_q: 1, seqlen_k: 1 << 20, heads: 8, kv_heads: 8, ..SHAPE };
    assert_eq!(launched(&Problem::new(DType::Bf16, shape).window(Some(100), Some(0))).0.splits(), 1);
}

#[test]
fn scores_are_changed_in_units_of_what_the_softmax_scales() {
    let params = |problem: &Problem| launched(&problem.splits(Splits::Exactly(1))).1[0].serve().0;
    let plain = params(&problem().scale(0.5).alibi(Alibi::PerHead));
    assert_eq!((plain.scale_log2, plain.cap, plain.slope_scale), (0.5 * LOG2_E, 0.0, 2.0));
    assert_eq!((plain.slopes as u64, plain.slopes_batch_stride), (0x6000_0600, 0));
    let capped = params(&problem().scale(0.5).softcap(32.0).alibi(Alibi::PerSequenceAndHead));
    assert_eq!((capped.scale_log2, capped.cap), (32.0 * LOG2_E, 2.0 * LOG2_E * 0.5 / 32.0));
    assert_eq!((capped.slope_scale, capped.slopes_batch_stride), (1.0 / 32.0, 8));
}

#[test]
fn windows_are_counted_from_the_querys_own_position() {
    let reach = |left, right| {
        let params = launched(&problem().window(left, right).splits(Splits::Exactly(1))).1[0].serve().0;
        (params.left, params.right)
    };
    assert_eq!(reach(Some(100), Some(0)), (100, 0));
    assert_eq!(reach(None, Some(7)), (1 << 29, 7));
    assert_eq!(reach(Some(0), None), (0, 1 << 29));
    assert_eq!(reach(Some(u64::MAX), Some(u64::MAX)), (1 << 29, 1 << 29));
    assert_eq!(reach(None, Some(0)), (1 << 29, 0));
}

#[test]
fn what_a_problem_needs_must_be_there_and_nothing_else() {
    fake::reset();
    let all = decode()
        .packed_q(3)
        .seqused_q()
        .paged(PagedKv { table_width: 128, ..PAGED })
        .sinks()
        .alibi(Alibi::PerHead)
        .splits(Splits::Exactly(2));
    let packed = Problem::new(DType::Bf16, SHAPE).packed_k(2000);
    let (all, packed) = (plan(&all).expect("valid"), plan(&packed).expect("valid"));
    let before = fake::with(|state| state.calls.len());
    type Place = fn(&mut Tensors) -> &mut Option<DevicePtr>;
    let places: [(&str, &Plan, &Plan, Place); 7] = [
        ("cu_seqlens_q", &all, &packed, |t| &mut t.cu_seqlens_q),
        ("cu_seqlens_k", &packed, &all, |t| &mut t.cu_seqlens_k),
        ("seqused_q", &all, &packed, |t| &mut t.seqused_q),
        ("seqused_k", &all, &packed, |t| &mut t.seqused_k),
        ("page_table", &all, &packed, |t| &mut t.page_table),
        ("sinks", &all, &packed, |t| &mut t.sinks),
        ("alibi_slopes", &all, &packed, |t| &mut t.alibi_slopes),
    ];
    for (argument, with, without, place) in places {
        let changed = |plan: &Plan, address| {
            let mut tensors = complete(plan);
            *place(&mut tensors) = address;
            launch(plan, &tensors).expect_err("must be refused")
        };
        let found = changed(with, None);
        assert!(matches!(found, Error::Missing { argument: a, .. } if a == argument), "{found}");
        let found = changed(without, Some(DevicePtr(0x7000_0000)));
        assert!(matches!(found, Error::NotPlanned { argument: a, .. } if a == argument), "{found}");
        assert_eq!(changed(with, Some(DevicePtr(0))), Error::NullPointer { argument });
        let found = changed(with, Some(DevicePtr(0x7000_0002)));
        assert_eq!(found, Error::Misaligned { argument, address: 0x7000_0002, alignment: 4 });
    }
    let at = |workspace| launch(&all, &Tensors { workspace, ..complete(&all) }).expect_err("must be refused");
    assert!(matches!(at(None), Error::Missing { argument: "workspace", .. }));
    let address = 0x7000_0080;
    assert_eq!(at(Some(DevicePtr(address))), Error::Misaligned { argument: "workspace", address, alignment: 256 });
    assert_eq!(fake::with(|state| state.calls.len()), before, "the driver was not called");
}

#[test]
fn dense_launches_take_a_workspace_and_nothing_else_beside_their_tensors() {
    fake::reset();
    let plan = plan(&problem()).expect("valid");
    launch(&plan, &Tensors { workspace: Some(DevicePtr(1)), ..tensors() }).expect("ignored");
    let found = launch(&plan, &Tensors { sinks: Some(DevicePtr(0x100)), ..tensors() });
    assert_eq!(found, Err(Error::NotPlanned { argument: "sinks", feature: "sinks" }));
}

#[test]
fn tensors_of_other_strides_are_rows_or_refused() {
    // A fused (batch, seq, q k v, heads, dim) tensor, and one with heads before positions.
    let fused = Strides { batch: 500 * 3072, seq: 3072, head: 128 };
    let heads_first = Strides { batch: 8 * 500 * 128, seq: 128, head: 500 * 128 };
    let (_, launches) = launched(&problem().sinks().strides_q(fused).strides_o(heads_first));
    let params = launches[0].serve().0;
    assert_eq!((params.q_room, params.o_room), (500, 4000));
    fake::reset();
    let odd = Strides { batch: 500 * 3072 + 8, ..fused };
    let found = plan(&problem().sinks().strides_q(odd)).map(|_| ());
    assert!(matches!(found, Err(Error::Stride { argument: "q", dimension: "batch", .. })), "{found:?}");
}

#[test]
fn a_tensor_too_near_the_start_of_memory_is_refused() {
    fake::reset();
    let plan = plan(&problem().sinks().splits(Splits::Exactly(1))).expect("valid");
    let found = launch(&plan, &Tensors { o: DevicePtr(0x100), ..complete(&plan) });
    assert!(matches!(found, Err(Error::Overflow { argument: "o", what: "the address", .. })), "{found:?}");
    assert_eq!(fake::with(|state| state.launches.len()), 0);
}

#[test]
fn limits_of_lists_splits_and_architectures_are_named() {
    fake::reset();
    let refused = |problem: &Problem| crate::supports(problem, fake::device().info()).expect_err("must be refused");
    let many = Problem::new(DType::Bf16, Shape { batch: 8193, ..SHAPE }).packed_q(100_000);
    assert!(matches!(refused(&many), Error::Size { argument: "batch", value: 8193, .. }));
    let long = Problem::new(DType::Bf16, Shape { seqlen_q: 1 << 26, heads: 16, ..SHAPE });
    assert!(matches!(refused(&long.splits(Splits::Exactly(2))), Error::Overflow { what: "the count of rows", .. }));
    assert_eq!(crate::supports(&problem().packed_q(900).packed_k(900), fake::device().info()), Ok(()));
    fake::reset_to((10, 0));
    let packed = problem().packed_q(900);
    assert_eq!(crate::supports(&packed, fake::device().info()), Ok(()));
    let chosen = |problem: &Problem| crate::select::choose(problem, fake::device().info()).expect("a kernel").name;
    assert_eq!(chosen(&packed.softcap(30.0)), "decode_sm100_bf16_d128");
    let narrow = Problem::new(DType::Bf16, Shape { batch: 64, ..SHAPE }).float8(Float8::All);
    assert_eq!(chosen(&narrow), "serve_sm100_e4m3_d128");
    assert_eq!(chosen(&narrow.alibi(Alibi::PerHead)), "serve_sm100_e4m3_d128_mod");
    let many = Problem::new(DType::Bf16, Shape { batch: 64, ..SHAPE }).seqused_k();
    assert_eq!(chosen(&many.softcap(30.0)), "serve_sm100_bf16_d128_mod");
    let wide = Problem::new(DType::Bf16, Shape { batch: 64, head_dim: 256, head_dim_v: 256, ..SHAPE });
    assert_eq!(chosen(&wide.float8(Float8::All)), "serve_sm100_e4m3_d256");
    assert_eq!(chosen(&packed.packed_k(900).float8(Float8::Keys)), "decode_sm100_bf16_kv8_d128");
}

#[test]
fn a_dense_problem_may_be_given_to_a_kernel_for_serving() {
    fake::reset();
    let forced = |problem: &Problem, name: &str| {
        Plan::with_loader(&fake::device(), problem, fake::code, |problem, info| {
            crate::select::forced(name, problem, info)
        })
    };
    let plan = forced(&problem(), "serve_sm90_bf16_d128").expect("valid");
    launch(&plan, &complete(&plan)).expect("valid");
    assert!(forced(&problem().softcap(1.0), "serve_sm90_bf16_d128").is_err());
    assert!(forced(&problem().sinks(), "fwd_sm90_bf16_d128").is_err());
}
