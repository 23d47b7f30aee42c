//! What C fills reaches attn-host.

use super::*;
use crate::serving::ATTN_DESCALES_PER_SEQUENCE_AND_HEAD;
use attn_host::{DType, Descales, DevicePtr};

fn filled() -> Append {
    let sizes = Append::new(crate::ATTN_DTYPE_BF16, 2, 3, 4, 64, 32);
    Append { cache_rows: 100, heads: 8, rotary_dim: 32, positions: 1000, seqlens_before: 1, ..sizes }.contiguous()
}

#[test]
fn the_layout_is_what_other_languages_declare() {
    assert_eq!(mem::size_of::<Append>(), 8 + 8 * 4 + 14 * 8 + 6 * 24);
    assert_eq!((mem::offset_of!(Append, batch), mem::offset_of!(Append, k)), (40, 152));
    assert_eq!(mem::size_of::<AppendTensors>(), 15 * 8);
}

#[test]
fn every_field_reaches_attn_host() {
    let rows = attn_host::Strides::contiguous;
    let shape = AppendShape { batch: 2, new: 3, kv_heads: 4, head_dim: 64, head_dim_v: 32 };
    let strides = |append: attn_host::Append, new, cache| {
        append
            .strides_k(rows(new, 4, 64))
            .strides_v(rows(new, 4, 32))
            .strides_q(rows(new, 8, 64))
            .strides_q_out(rows(new, 8, 64))
            .strides_k_cache(rows(cache, 4, 64))
            .strides_v_cache(rows(cache, 4, 32))
    };
    let rotary = Rotary { dim: 32, pairs: Pairs::Halves, positions: 1000, sines: Sines::F32 };
    let dense = attn_host::Append::new(DType::Bf16, shape, Cache::Dense { rows: 100 }).queries(8).seqlens_before();
    let expected = strides(dense.rotary(rotary).sines_stride(16), 3, 100);
    assert_eq!(filled().to_host().expect("possible"), expected);

    let paged = Append {
        total: 5,
        page_size: 16,
        pages: 9,
        table_width: 7,
        seqused_new: 1,
        seqlens_before: 0,
        pairs: ATTN_PAIRS_INTERLEAVED,
        sines: ATTN_SINES_AS_TENSORS,
        float8: 1,
        descales: ATTN_DESCALES_PER_SEQUENCE_AND_HEAD,
        ..filled()
    };
    let cache = Cache::Paged(PagedKv { page_size: 16, pages: 9, table_width: 7 });
    let rotary = Rotary { pairs: Pairs::Interleaved, sines: Sines::AsTensors, ..rotary };
    let append = attn_host::Append::new(DType::Bf16, shape, cache).queries(8).packed(5).seqused_new();
    let append = append.float8_cache().descales(Descales::PerSequenceAndHead);
    let expected = strides(append.rotary(rotary).sines_stride(16), 5, 16);
    assert_eq!(paged.contiguous().to_host().expect("possible"), expected);
}

#[test]
fn unknown_codes_are_refused() {
    for wrong in [
        Append { dtype: 2, ..filled() },
        Append { reserved: 1, ..filled() },
        Append { pairs: 2, ..filled() },
        Append { sines: 2, ..filled() },
        Append { float8: 2, ..filled() },
        Append { descales: 3, ..filled() },
        Append { seqused_new: 2, ..filled() },
        Append { seqlens_before: 2, ..filled() },
    ] {
        assert!(wrong.to_host().is_err(), "{wrong:?}");
    }
}

#[test]
fn tensors_that_are_0_are_absent() {
    let all = AppendTensors {
        struct_size: mem::size_of::<AppendTensors>(),
        k: 1,
        v: 2,
        k_cache: 3,
        v_cache: 4,
        q: 5,
        q_out: 6,
        cos: 7,
        sin: 8,
        cu_seqlens_new: 9,
        seqused_new: 10,
        seqlens_before: 11,
        page_table: 12,
        k_descale: 13,
        v_descale: 14,
    };
    let host = all.to_host();
    assert_eq!([host.k, host.v, host.k_cache, host.v_cache], [1, 2, 3, 4].map(DevicePtr));
    let extras = |host: attn_host::AppendTensors| {
        [
            host.q,
            host.q_out,
            host.cos,
            host.sin,
            host.cu_seqlens_new,
            host.seqused_new,
            host.seqlens_before,
            host.page_table,
            host.k_descale,
            host.v_descale,
        ]
    };
    assert_eq!(extras(host), [5, 6, 7, 8, 9, 10, 11, 12, 13, 14].map(|address| Some(DevicePtr(address))));
    let none = AppendTensors {
        q: 0,
        q_out: 0,
        cos: 0,
        sin: 0,
        cu_seqlens_new: 0,
        seqused_new: 0,
        seqlens_before: 0,
        page_table: 0,
        k_descale: 0,
        v_descale: 0,
        ..all
    };
    assert_eq!(extras(none.to_host()), [None; 10]);
}
