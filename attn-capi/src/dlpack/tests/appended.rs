//! What tensors say of what is appended.

use super::super::cache::Appended;
use super::*;
use crate::append::{ATTN_PAIRS_HALVES, ATTN_SINES_AS_TENSORS, ATTN_SINES_F32, Append, attn_append_contiguous};

/// Three tokens of two sequences behind what caches of 100 rows hold, with eight heads of queries.
fn dense() -> Appended {
    Appended {
        k: seen("k", compact(Element::F16, &[2, 3, 4, 64])),
        v: seen("v", compact(Element::F16, &[2, 3, 4, 32])),
        k_cache: seen("k_cache", compact(Element::F16, &[2, 100, 4, 64])),
        v_cache: seen("v_cache", compact(Element::F16, &[2, 100, 4, 32])),
        q: seen("q", compact(Element::F16, &[2, 3, 8, 64])),
        q_out: None,
        cos: seen("cos", compact(Element::F32, &[1000, 16])),
        sin: seen("sin", compact(Element::F32, &[1000, 16])),
        cu_seqlens_new: None,
        seqused_new: None,
        seqlens_before: seen("seqlens_before", compact(Element::I32, &[2])),
        page_table: None,
        k_descale: None,
        v_descale: None,
    }
}

fn filled(append: Append) -> Append {
    let mut append = append;
    // SAFETY: it is there.
    assert_eq!(unsafe { attn_append_contiguous(&mut append) }, Status::Ok);
    append
}

#[test]
fn compact_tensors_are_what_c_fills() {
    let sizes = Append {
        cache_rows: 100,
        heads: 8,
        rotary_dim: 32,
        positions: 1000,
        sines: ATTN_SINES_F32,
        pairs: ATTN_PAIRS_HALVES,
        seqlens_before: 1,
        ..Append::new(ATTN_DTYPE_F16, 2, 3, 4, 64, 32)
    };
    assert_eq!(dense().append().unwrap_or_else(|failure| panic!("{}", failure.text())), filled(sizes));

    let paged = Appended {
        k: seen("k", compact(Element::F16, &[5, 4, 64])),
        v: seen("v", compact(Element::F16, &[5, 4, 32])),
        q: seen("q", compact(Element::F16, &[5, 8, 64])),
        k_cache: seen("k_cache", compact(Element::E4m3, &[9, 16, 4, 64])),
        v_cache: seen("v_cache", compact(Element::E4m3, &[9, 16, 4, 32])),
        cos: seen("cos", compact(Element::F16, &[1000, 16])),
        sin: seen("sin", compact(Element::F16, &[1000, 16])),
        cu_seqlens_new: seen("cu_seqlens_new", compact(Element::I32, &[3])),
        page_table: seen("page_table", compact(Element::I32, &[2, 7])),
        k_descale: seen("k_descale", compact(Element::F32, &[4])),
        v_descale: seen("v_descale", compact(Element::F32, &[4])),
        ..dense()
    };
    let expected = Append {
        total: 5,
        new_tokens: 5,
        cache_rows: 0,
        page_size: 16,
        pages: 9,
        table_width: 7,
        sines: ATTN_SINES_AS_TENSORS,
        float8: 1,
        descales: ATTN_DESCALES_PER_HEAD,
        ..sizes
    };
    let mut expected = filled(expected);
    // Packed tokens are one entry, whose stride is nobody's.
    for strides in [&mut expected.k, &mut expected.v, &mut expected.q, &mut expected.q_out] {
        strides.batch = 0;
    }
    assert_eq!(paged.append().unwrap_or_else(|failure| panic!("{}", failure.text())), expected);
}

#[test]
fn strides_are_the_tensors() {
    let wide = given(Element::F16, &[2, 100, 4, 64], Some(&[64, 2 * 4 * 64, 2 * 64, 1]));
    let q_out = given(Element::F16, &[2, 3, 8, 64], Some(&[6144, 2048, 256, 1]));
    let table = || given(Element::F32, &[1000, 16], Some(&[40, 1]));
    let views = Appended {
        k_cache: seen("k_cache", wide),
        q_out: seen("q_out", q_out),
        cos: seen("cos", table()),
        sin: seen("sin", table()),
        ..dense()
    };
    let append = views.append().expect("possible");
    assert_eq!(append.k_cache, crate::Strides { batch: 64, seq: 512, head: 128 });
    assert_eq!((append.q.head, append.q_out.head, append.sines_stride), (64, 256, 40));
    // A plan for q_out would write where queries are not.
    let in_place = Appended { q_out: None, ..views }.check(&append).expect_err("other strides");
    assert_eq!(in_place.text(), "strides of q are (1536, 512, 64, 1); allowed: (6144, 2048, 256, 1)");
}

#[test]
fn tensors_that_do_not_go_together_are_named() {
    let dense = dense();
    let cases = [
        (Appended { v_cache: None, ..dense }, "v_cache is a null pointer"),
        (Appended { sin: None, ..dense }, "sin is a null pointer"),
        (
            Appended { v_cache: seen("v_cache", compact(Element::F16, &[2, 99, 4, 32])), ..dense },
            "shape of v_cache is (2, 99, 4, 32); allowed: (2, 100, 4, 32)",
        ),
        (
            Appended { k_cache: seen("k_cache", compact(Element::Bf16, &[2, 100, 4, 64])), ..dense },
            "dtype of k_cache is code 4, 16 bits, 1 lanes; allowed: float16 (2, 16, 1), float8_e4m3fn (10, 8, 1)",
        ),
        (
            Appended { q: seen("q", compact(Element::F16, &[2, 3, 8, 32])), ..dense },
            "shape of q is (2, 3, 8, 32); allowed: (2, 3, 8, 64)",
        ),
        (
            Appended { sin: seen("sin", compact(Element::F32, &[999, 16])), ..dense },
            "shape of sin is (999, 16); allowed: (1000, 16)",
        ),
        (
            Appended { seqlens_before: seen("seqlens_before", compact(Element::I32, &[3])), ..dense },
            "shape of seqlens_before is (3); allowed: (2)",
        ),
        (
            Appended { k: seen("k", compact(Element::E4m3, &[2, 3, 4, 64])), ..dense },
            "dtype of k is code 10, 8 bits, 1 lanes; allowed: bfloat16 (4, 16, 1), float16 (2, 16, 1)",
        ),
    ];
    for (views, part) in cases {
        let found = views.append().expect_err("must be refused");
        assert!(found.text().contains(part), "{part:?} is not in {:?}", found.text());
    }
}

#[test]
fn every_tensor_reaches_the_launch() {
    let mut next = apart();
    let views = Appended {
        k: next(),
        v: next(),
        k_cache: next(),
        v_cache: next(),
        q: next(),
        q_out: next(),
        cos: next(),
        sin: next(),
        cu_seqlens_new: next(),
        seqused_new: next(),
        seqlens_before: next(),
        page_table: next(),
        k_descale: next(),
        v_descale: next(),
    };
    let found = views.addresses();
    let all = [
        found.k,
        found.v,
        found.k_cache,
        found.v_cache,
        found.q,
        found.q_out,
        found.cos,
        found.sin,
        found.cu_seqlens_new,
        found.seqused_new,
        found.seqlens_before,
        found.page_table,
        found.k_descale,
        found.v_descale,
    ];
    assert_eq!(all.to_vec(), (1..=14).map(|i| AT + 16 * i).collect::<Vec<_>>());
}
