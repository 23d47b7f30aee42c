//! What C fills reaches attn-host.

use super::*;
use crate::problem::{ATTN_DTYPE_BF16, ATTN_MASK_WINDOW, attn_problem_init};
use crate::status::attn_last_error;
use attn_host::DevicePtr;

fn problem() -> Problem {
    let mut problem = mem::MaybeUninit::uninit();
    // SAFETY: a place for a problem, which a success fills.
    unsafe {
        assert_eq!(attn_problem_init(problem.as_mut_ptr(), ATTN_DTYPE_BF16, 2, 5, 70, 4, 2, 64, 32), Status::Ok);
        problem.assume_init()
    }
}

fn contiguous(serving: Serving) -> Problem {
    let mut problem = problem();
    // SAFETY: both are there.
    let status = unsafe { attn_serving_contiguous(&serving, &mut problem) };
    assert_eq!(status, Status::Ok, "{:?}", attn_last_error());
    problem
}

#[test]
fn the_layout_is_what_other_languages_declare() {
    assert_eq!(mem::size_of::<Serving>(), 8 + 7 * 8 + 8 * 4);
    assert_eq!(mem::offset_of!(Serving, softcap), 64);
    assert_eq!(mem::size_of::<ServingTensors>(), 11 * 8);
}

#[test]
fn contiguous_strides_are_attn_hosts() {
    let shape =
        attn_host::Shape { batch: 2, seqlen_q: 5, seqlen_k: 70, heads: 4, kv_heads: 2, head_dim: 64, head_dim_v: 32 };
    let dense = attn_host::Problem::new(attn_host::DType::Bf16, shape);
    let rows = attn_host::Strides::contiguous;
    let paged = Serving { total_q: 9, page_size: 16, pages: 30, table_width: 5, ..Serving::NONE };
    let host = paged.of(contiguous(paged)).expect("possible");
    let expected = dense
        .packed_q(9)
        .paged(PagedKv { page_size: 16, pages: 30, table_width: 5 })
        .splits(Splits::Auto)
        .strides_q(rows(9, 4, 64))
        .strides_k(rows(16, 2, 64))
        .strides_v(rows(16, 2, 32))
        .strides_o(rows(9, 4, 32))
        .lse_strides(36, 9);
    assert_eq!(host, expected);
    assert_eq!(contiguous(Serving { total_k: 100, ..Serving::NONE }).k, rows(100, 2, 64).into());
    assert_eq!(contiguous(Serving::NONE), problem());
}

#[test]
fn every_field_reaches_attn_host() {
    let told = |serving: Serving| {
        let problem = Problem { mask: ATTN_MASK_WINDOW, ..problem() };
        serving.of(problem).map(|problem| problem.to_string()).map_err(|failure| failure.text().to_owned())
    };
    let all = Serving {
        window_left: 3,
        softcap: 30.0,
        splits: 4,
        alibi: ATTN_ALIBI_PER_SEQUENCE_AND_HEAD,
        sinks: 1,
        seqused_q: 1,
        seqused_k: 1,
        float8: ATTN_FLOAT8_KEYS,
        descales: ATTN_DESCALES_PER_SEQUENCE_AND_HEAD,
        ..Serving::NONE
    };
    let text = told(all).expect("possible");
    for part in [
        "3 keys before and all after",
        "softcap 30",
        "alibi for each sequence",
        "sinks",
        "seqused_q",
        "seqused_k",
        "8 bits with factors for each sequence",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    for (wrong, name) in [
        (Serving { alibi: 3, ..all }, "alibi is 3"),
        (Serving { sinks: 2, ..all }, "sinks is 2"),
        (Serving { seqused_q: 7, ..all }, "seqused_q is 7"),
        (Serving { seqused_k: 9, ..all }, "seqused_k is 9"),
        (Serving { float8: 3, ..all }, "float8 is 3"),
        (Serving { descales: 3, ..all }, "descales is 3"),
    ] {
        let found = told(wrong).expect_err("must be refused");
        assert!(found.contains(name), "{found}");
    }
}

#[test]
fn arrays_that_are_0_are_absent() {
    let [q, k, v, o] = [1, 2, 3, 4].map(DevicePtr);
    let tensors = attn_host::Tensors::new(q, k, v, o);
    let none = ServingTensors {
        struct_size: mem::size_of::<ServingTensors>(),
        cu_seqlens_q: 0,
        cu_seqlens_k: 0,
        seqused_q: 0,
        seqused_k: 0,
        page_table: 0,
        sinks: 0,
        alibi_slopes: 0,
        q_descale: 0,
        k_descale: 0,
        v_descale: 0,
    };
    assert_eq!(none.with(tensors), tensors);
    let all = ServingTensors {
        cu_seqlens_q: 16,
        cu_seqlens_k: 32,
        seqused_q: 48,
        seqused_k: 64,
        page_table: 80,
        sinks: 96,
        alibi_slopes: 112,
        q_descale: 128,
        k_descale: 144,
        v_descale: 160,
        ..none
    };
    let found = all.with(tensors);
    let arrays = [
        found.cu_seqlens_q,
        found.cu_seqlens_k,
        found.seqused_q,
        found.seqused_k,
        found.page_table,
        found.sinks,
        found.alibi_slopes,
        found.q_descale,
        found.k_descale,
        found.v_descale,
    ];
    assert_eq!(arrays, [16, 32, 48, 64, 80, 96, 112, 128, 144, 160].map(|address| Some(DevicePtr(address))));
}
