//! Extents of every type and length against plans on the recording driver.

use super::*;
use crate::append::{Append, AppendShape, Cache, Pairs, Rotary, Sines};
use crate::{Alibi, Descales, Float8, PagedKv, Problem, Shape, Splits, fake, select};

const SHAPE: Shape =
    Shape { batch: 3, seqlen_q: 10, seqlen_k: 96, heads: 4, kv_heads: 2, head_dim: 64, head_dim_v: 32 };
const PAGED: PagedKv = PagedKv { page_size: 16, pages: 20, table_width: 6 };

fn problem() -> Problem {
    Problem::new(DType::Bf16, SHAPE)
}

/// All that a problem can have at once.
fn serving() -> Problem {
    let problem = problem().packed_q(25).paged(PAGED).seqused_q().seqused_k().sinks().alibi(Alibi::PerSequenceAndHead);
    problem.splits(Splits::Exactly(2)).float8(Float8::Keys).descales(Descales::PerSequenceAndHead)
}

fn plan(problem: &Problem) -> Plan {
    fake::reset();
    Plan::with_loader(&fake::device(), problem, fake::code, select::choose).expect("valid")
}

/// A buffer at `0x1000 * n`.
fn extent(n: u64, kind: Kind, elements: u64) -> Extent {
    Extent { address: 0x1000 * n, elements, kind }
}

/// Exactly what a plan for [`problem`] needs, with LSE.
fn dense() -> Tensors<Extent> {
    let bf16 = |n, elements| extent(n, Kind::Bf16, elements);
    let rows = (bf16(1, 3 * 10 * 4 * 64), bf16(2, 3 * 96 * 2 * 64), bf16(3, 3 * 96 * 2 * 32), bf16(4, 3 * 10 * 4 * 32));
    Tensors::new(rows.0, rows.1, rows.2, rows.3).lse(extent(5, Kind::F32, 3 * 4 * 10))
}

/// Exactly what a plan for [`serving`] needs.
fn complete(plan: &Plan) -> Tensors<Extent> {
    let keys = |n, dim: u64| extent(n, Kind::Bits8, 20 * 16 * 2 * dim);
    Tensors::new(extent(1, Kind::Bf16, 25 * 4 * 64), keys(2, 64), keys(3, 32), extent(4, Kind::Bf16, 25 * 4 * 32))
        .lse(extent(5, Kind::F32, 4 * 25))
        .workspace(extent(6, Kind::Bits8, plan.workspace_bytes()))
        .cu_seqlens_q(extent(7, Kind::I32, 4))
        .seqused_q(extent(8, Kind::U32, 3))
        .seqused_k(extent(9, Kind::I32, 3))
        .page_table(extent(10, Kind::U32, 18))
        .sinks(extent(11, Kind::F32, 4))
        .alibi_slopes(extent(12, Kind::F32, 12))
        .k_descale(extent(13, Kind::F32, 6))
        .v_descale(extent(14, Kind::F32, 6))
}

type Field = fn(&mut Tensors<Extent>) -> Option<&mut Extent>;

/// The arguments of tensors and a way to each.
fn fields() -> [(&'static str, Field); 16] {
    [
        ("q", |t| Some(&mut t.q)),
        ("k", |t| Some(&mut t.k)),
        ("v", |t| Some(&mut t.v)),
        ("o", |t| Some(&mut t.o)),
        ("lse", |t| t.lse.as_mut()),
        ("workspace", |t| t.workspace.as_mut()),
        ("cu_seqlens_q", |t| t.cu_seqlens_q.as_mut()),
        ("cu_seqlens_k", |t| t.cu_seqlens_k.as_mut()),
        ("seqused_q", |t| t.seqused_q.as_mut()),
        ("seqused_k", |t| t.seqused_k.as_mut()),
        ("page_table", |t| t.page_table.as_mut()),
        ("sinks", |t| t.sinks.as_mut()),
        ("alibi_slopes", |t| t.alibi_slopes.as_mut()),
        ("q_descale", |t| t.q_descale.as_mut()),
        ("k_descale", |t| t.k_descale.as_mut()),
        ("v_descale", |t| t.v_descale.as_mut()),
    ]
}

#[test]
fn buffers_of_the_exact_length_pass_with_their_addresses() {
    let (dense_plan, serving_plan) = (plan(&problem()), plan(&serving()));
    for (plan, given, present) in [(&dense_plan, dense(), 5), (&serving_plan, complete(&serving_plan), 14)] {
        let found = plan.addresses(&given).expect("valid");
        let mut places =
            found.map(|place| extent(place.0 / 0x1000, Kind::U32, 0), |place| extent(place.0 / 0x1000, Kind::U32, 0));
        let mut seen = 0;
        for (argument, field) in fields() {
            let address = field(&mut places).map(|place| place.address);
            assert_eq!(address, field(&mut given.clone()).map(|given| given.address), "{argument}");
            seen += usize::from(address.is_some());
        }
        assert_eq!(seen, present);
    }
}

#[test]
fn a_buffer_that_is_one_element_short_is_named() {
    let (dense_plan, serving_plan) = (plan(&problem()), plan(&serving()));
    let mut shortened = 0;
    for (plan, given) in [(&dense_plan, dense()), (&serving_plan, complete(&serving_plan))] {
        for (argument, field) in fields() {
            let mut short = given;
            let Some(extent) = field(&mut short) else { continue };
            let needed = extent.elements;
            extent.elements -= 1;
            assert_eq!(plan.addresses(&short), Err(Error::BufferTooSmall { argument, elements: needed - 1, needed }));
            shortened += 1;
        }
    }
    assert_eq!(shortened, 19);
}

#[test]
fn a_buffer_of_another_type_is_named() {
    let plan = plan(&serving());
    let given = complete(&plan);
    for (argument, field) in fields() {
        let mut other = given;
        let Some(extent) = field(&mut other) else { continue };
        // Long enough, whatever it is of.
        (extent.kind, extent.elements) = (Kind::F16, 1 << 20);
        let found = plan.addresses(&other);
        if argument == "workspace" {
            assert!(found.is_ok(), "memory to work in is of any type: {found:?}");
            continue;
        }
        assert!(
            matches!(found, Err(Error::ElementType { argument: a, found: "f16", .. }) if a == argument),
            "{found:?}"
        );
    }
}

#[test]
fn bits_stand_for_any_type_of_their_width() {
    let (bf16, f16) = (plan(&problem()), plan(&Problem::new(DType::F16, SHAPE)));
    let with = |kind| Tensors { q: Extent { kind, ..dense().q }, ..dense() };
    assert!(bf16.addresses(&with(Kind::Bits16)).is_ok());
    let found = f16.addresses(&with(Kind::F16));
    assert!(matches!(found, Err(Error::ElementType { argument: "k", found: "bf16", allowed: "f16" })), "{found:?}");
    let found = bf16.addresses(&with(Kind::Bits8));
    assert!(matches!(found, Err(Error::ElementType { argument: "q", allowed: "bf16", .. })), "{found:?}");
}

#[test]
fn what_is_missing_or_not_planned_is_named_before_lengths() {
    let plan = plan(&serving());
    let given = complete(&plan);
    let found = plan.addresses(&Tensors { page_table: None, ..given });
    assert!(matches!(found, Err(Error::Missing { argument: "page_table", .. })), "{found:?}");
    let found = plan.addresses(&Tensors { workspace: None, ..given });
    assert!(matches!(found, Err(Error::Missing { argument: "workspace", .. })), "{found:?}");
    let found = plan.addresses(&given.cu_seqlens_k(extent(15, Kind::I32, 0)));
    assert!(matches!(found, Err(Error::NotPlanned { argument: "cu_seqlens_k", .. })), "{found:?}");
}

#[test]
fn prefix_sums_are_the_callers_to_answer_for() {
    assert_eq!(plan(&problem().paged(PAGED).seqused_k()).check_trust("another"), Ok(()));
    for (packed, name) in [(problem().packed_q(25), "packed queries"), (problem().packed_k(40), "packed keys")] {
        let found = plan(&packed).check_trust("another");
        assert!(matches!(found, Err(Error::Combination { first, allowed: "another", .. }) if first.starts_with(name)));
    }
}

/// An append with all there is, and exactly what its plan needs.
fn append(sines: Sines) -> (AppendPlan, AppendTensors<Extent>) {
    fake::reset();
    let shape = AppendShape { batch: 3, new: 4, kv_heads: 2, head_dim: 64, head_dim_v: 32 };
    let rotary = Rotary { dim: 32, pairs: Pairs::Halves, positions: 100, sines };
    let append = Append::new(DType::F16, shape, Cache::Paged(PAGED)).packed(9).seqused_new().seqlens_before();
    let append = append.rotary(rotary).queries(4).float8_cache().descales(Descales::PerHead);
    let plan = AppendPlan::with_loader(&fake::device(), &append, fake::code).expect("valid");
    let f16 = |n, elements| extent(n, Kind::F16, elements);
    let cache = |n, dim: u64| extent(n, Kind::Bits8, 20 * 16 * 2 * dim);
    let table = |n| extent(n, if sines == Sines::F32 { Kind::F32 } else { Kind::F16 }, 100 * 16);
    let tensors = AppendTensors::new(f16(1, 9 * 2 * 64), f16(2, 9 * 2 * 32), cache(3, 64), cache(4, 32))
        .q(f16(5, 9 * 4 * 64))
        .q_out(f16(6, 9 * 4 * 64))
        .cos(table(7))
        .sin(table(8))
        .cu_seqlens_new(extent(9, Kind::I32, 4))
        .seqused_new(extent(10, Kind::I32, 3))
        .seqlens_before(extent(11, Kind::U32, 3))
        .page_table(extent(12, Kind::I32, 18))
        .k_descale(extent(13, Kind::F32, 2))
        .v_descale(extent(14, Kind::F32, 2));
    (plan, tensors)
}

#[test]
fn tensors_to_append_are_checked_alike() {
    type Field = fn(&mut AppendTensors<Extent>) -> &mut Extent;
    let fields: [(&str, Field); 14] = [
        ("k", |t| &mut t.k),
        ("v", |t| &mut t.v),
        ("k_cache", |t| &mut t.k_cache),
        ("v_cache", |t| &mut t.v_cache),
        ("q", |t| t.q.as_mut().expect("given")),
        ("q_out", |t| t.q_out.as_mut().expect("given")),
        ("cos", |t| t.cos.as_mut().expect("given")),
        ("sin", |t| t.sin.as_mut().expect("given")),
        ("cu_seqlens_new", |t| t.cu_seqlens_new.as_mut().expect("given")),
        ("seqused_new", |t| t.seqused_new.as_mut().expect("given")),
        ("seqlens_before", |t| t.seqlens_before.as_mut().expect("given")),
        ("page_table", |t| t.page_table.as_mut().expect("given")),
        ("k_descale", |t| t.k_descale.as_mut().expect("given")),
        ("v_descale", |t| t.v_descale.as_mut().expect("given")),
    ];
    for sines in [Sines::F32, Sines::AsTensors] {
        let (plan, given) = append(sines);
        let found = plan.addresses(&given).expect("valid");
        assert_eq!(
            (found.k, found.q_out, found.v_descale),
            (DevicePtr(0x1000), Some(DevicePtr(0x6000)), Some(DevicePtr(0xe000)))
        );
        for (argument, field) in fields {
            let mut short = given;
            field(&mut short).elements -= 1;
            let needed = field(&mut given.clone()).elements;
            assert_eq!(plan.addresses(&short), Err(Error::BufferTooSmall { argument, elements: needed - 1, needed }));
            let mut other = given;
            field(&mut other).kind = Kind::Bf16;
            let found = plan.addresses(&other);
            assert!(
                matches!(found, Err(Error::ElementType { argument: a, found: "bf16", .. }) if a == argument),
                "{found:?}"
            );
        }
    }
}

#[test]
fn queries_are_rotated_in_place_where_they_may_be_written() {
    let (plan, given) = append(Sines::F32);
    let found = plan.addresses(&AppendTensors { q: None, ..given }).expect("q_out has the queries");
    assert_eq!((found.q, found.q_out), (None, Some(DevicePtr(0x6000))));
    let found = plan.addresses(&AppendTensors { q_out: None, ..given });
    assert!(matches!(found, Err(Error::Missing { argument: "q_out", .. })), "{found:?}");
    let found = plan.addresses(&AppendTensors { q: None, q_out: None, ..given });
    assert!(matches!(found, Err(Error::Missing { argument: "q", .. })), "{found:?}");
}
