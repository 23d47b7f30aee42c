//! What tensors say reaches problems and launches, and what cannot be is refused by name.

use std::ptr;

use super::ffi::{CUDA, Element};
use super::view::Form;
use super::*;
use crate::problem::ATTN_DTYPE_F16;
use crate::serving::{ATTN_ALIBI_PER_SEQUENCE_AND_HEAD, ATTN_DESCALES_PER_HEAD, ATTN_FLOAT8_ALL, ATTN_FLOAT8_KEYS};

mod anything;
mod appended;
mod handed_out;

/// A tensor with its sizes and strides, as a producer keeps them.
struct Given {
    tensor: DLTensor,
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
}

const AT: u64 = 0x7000_0000;

fn given(element: Element, shape: &[i64], strides: Option<&[i64]>) -> Given {
    let tensor = DLTensor {
        data: ptr::without_provenance_mut(AT as usize),
        device: DLDevice { device_type: CUDA, device_id: 1 },
        ndim: shape.len() as i32,
        dtype: element.dtype(),
        shape: ptr::null_mut(),
        strides: ptr::null_mut(),
        byte_offset: 0,
    };
    Given { tensor, shape: shape.to_vec(), strides: strides.map(<[i64]>::to_vec) }
}

fn compact(element: Element, shape: &[i64]) -> Given {
    given(element, shape, None)
}

impl Given {
    fn view(mut self, argument: &'static str) -> Result<Option<View>, Failure> {
        self.tensor.shape = self.shape.as_mut_ptr();
        self.tensor.strides = self.strides.as_mut().map_or(ptr::null_mut(), |strides| strides.as_mut_ptr());
        // SAFETY: as many sizes and strides as dimensions.
        unsafe { View::read(argument, &self.tensor, 1) }
    }

    fn changed(mut self, change: impl FnOnce(&mut DLTensor)) -> Self {
        change(&mut self.tensor);
        self
    }

    fn refused(self) -> String {
        self.view("k").expect_err("must be refused").text().to_owned()
    }
}

fn seen(argument: &'static str, given: Given) -> Option<View> {
    given.view(argument).unwrap_or_else(|failure| panic!("{}", failure.text()))
}

/// Tensors one after another, each 16 bytes further on.
fn apart() -> impl FnMut() -> Option<View> {
    let mut at = 0;
    move || {
        at += 16;
        seen("any", compact(Element::U8, &[1]).changed(|tensor| tensor.byte_offset = at))
    }
}

const NONE: Views = Views {
    q: None,
    k: None,
    v: None,
    o: None,
    lse: None,
    workspace: None,
    cu_seqlens_q: None,
    cu_seqlens_k: None,
    seqused_q: None,
    seqused_k: None,
    page_table: None,
    sinks: None,
    alibi_slopes: None,
    q_descale: None,
    k_descale: None,
    v_descale: None,
};

/// Q, K and V of two sequences, the heads of Q outermost in memory.
fn dense() -> Views {
    let q = given(Element::F16, &[2, 5, 4, 64], Some(&[320, 64, 640, 1]));
    Views {
        q: seen("q", q),
        k: seen("k", compact(Element::F16, &[2, 70, 2, 64])),
        v: seen("v", compact(Element::F16, &[2, 70, 2, 32])),
        ..NONE
    }
}

fn refused(views: &Views) -> String {
    views.problem().expect_err("must be refused").text().to_owned()
}

#[test]
fn a_view_has_its_offset_and_compact_strides() {
    let view = seen("k", compact(Element::Bf16, &[2, 70, 3, 64]).changed(|tensor| tensor.byte_offset = 48));
    let view = view.expect("there");
    assert_eq!((view.address, view.sizes()), (AT + 48, [2, 70, 3, 64].as_slice()));
    assert_eq!(view.strides(), [70 * 3 * 64, 3 * 64, 64, 1]);
    // SAFETY: null is allowed.
    assert!(unsafe { View::read("k", ptr::null(), 1) }.is_ok_and(|view| view.is_none()));
}

#[test]
fn what_is_no_tensor_of_this_device_is_named() {
    let tensor = || compact(Element::Bf16, &[2, 70, 2, 64]);
    let cases = [
        (tensor().changed(|t| t.device.device_type = 1), "k lies on device 1 of type 1; allowed: device 1 of type 2"),
        (tensor().changed(|t| t.device.device_id = 0), "k lies on device 0 of type 2; allowed: device 1 of type 2"),
        (tensor().changed(|t| t.data = ptr::null_mut()), "data of k is a null device pointer"),
        (tensor().changed(|t| t.byte_offset = u64::MAX), "byte_offset of k is 18446744073709551615 from 0x70000000"),
        (tensor().changed(|t| t.ndim = 0), "k has 0 dimensions; allowed: 1 to 4"),
        (tensor().changed(|t| t.ndim = -1), "k has -1 dimensions"),
        (tensor().changed(|t| t.ndim = i32::MAX), "k has 2147483647 dimensions"),
        (compact(Element::Bf16, &[2, -70, 2, 64]), "dimension 1 of k is -70; allowed: 1 and more"),
        (compact(Element::Bf16, &[2, 70, 0, 64]), "dimension 2 of k is 0; allowed: 1 and more"),
        (
            compact(Element::Bf16, &[1 << 31, 1 << 30, 1 << 3, 1]),
            "shape of k is (2147483648, 1073741824, 8, 1); allowed: at most 2^63 - 1 elements",
        ),
    ];
    for (given, part) in cases {
        let text = given.refused();
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    let mut bare = compact(Element::Bf16, &[1]).tensor;
    bare.shape = ptr::null_mut();
    // SAFETY: a null shape is allowed.
    let failure = unsafe { View::read("k", &bare, 1) }.expect_err("no shape");
    assert_eq!(failure.text(), "shape of k is a null pointer");
}

#[test]
fn a_dense_problem_has_the_tensors_sizes_and_strides() {
    let (problem, serving) = dense().problem().expect("possible");
    assert_eq!(serving, Serving::NONE);
    let shape =
        attn_host::Shape { batch: 2, seqlen_q: 5, seqlen_k: 70, heads: 4, kv_heads: 2, head_dim: 64, head_dim_v: 32 };
    let expected = Problem::contiguous(ATTN_DTYPE_F16, shape);
    let strides = crate::Strides { batch: 320, seq: 64, head: 640 };
    assert_eq!(problem, Problem { q: strides, ..expected });

    let views = Views {
        o: seen("o", given(Element::F16, &[2, 5, 4, 32], Some(&[1280, 256, 64, 1]))),
        lse: seen("lse", given(Element::F32, &[2, 4, 5], Some(&[100, 25, 1]))),
        ..dense()
    };
    let (problem, _) = views.problem().expect("possible");
    assert_eq!(problem.o, crate::Strides { batch: 1280, seq: 256, head: 64 });
    assert_eq!((problem.lse_batch_stride, problem.lse_head_stride), (100, 25));
}

#[test]
fn packed_tensors_have_totals() {
    let views = Views {
        q: seen("q", compact(Element::Bf16, &[9, 4, 64])),
        k: seen("k", given(Element::Bf16, &[20, 2, 64], Some(&[256, 64, 1]))),
        v: seen("v", compact(Element::Bf16, &[20, 2, 32])),
        lse: seen("lse", compact(Element::F32, &[4, 9])),
        cu_seqlens_q: seen("cu_seqlens_q", compact(Element::I32, &[4])),
        cu_seqlens_k: seen("cu_seqlens_k", compact(Element::I32, &[4])),
        seqused_q: seen("seqused_q", compact(Element::I32, &[3])),
        sinks: seen("sinks", compact(Element::F32, &[4])),
        alibi_slopes: seen("alibi_slopes", compact(Element::F32, &[3, 4])),
        ..NONE
    };
    let (problem, serving) = views.problem().expect("possible");
    assert_eq!((problem.batch, problem.seqlen_q, problem.seqlen_k), (3, 9, 20));
    assert_eq!((problem.k.seq, problem.o.seq, problem.lse_head_stride), (256, 4 * 32, 9));
    let expected = Serving {
        total_q: 9,
        total_k: 20,
        seqused_q: 1,
        sinks: 1,
        alibi: ATTN_ALIBI_PER_SEQUENCE_AND_HEAD,
        ..Serving::NONE
    };
    assert_eq!(serving, expected);
    let short = Views { cu_seqlens_k: seen("cu_seqlens_k", compact(Element::I32, &[3])), ..views };
    assert_eq!(refused(&short), "shape of cu_seqlens_k is (3); allowed: (4)");
    let dense = Views { q: seen("q", compact(Element::Bf16, &[3, 3, 4, 64])), ..views };
    assert!(refused(&dense).contains("q has 4 dimensions; allowed: 3, (total, heads, head_dim)"));
}

#[test]
fn pages_and_narrow_keys() {
    let views = Views {
        q: seen("q", compact(Element::F16, &[2, 1, 4, 64])),
        k: seen("k", compact(Element::E4m3, &[9, 16, 2, 64])),
        v: seen("v", compact(Element::E4m3, &[9, 16, 2, 64])),
        page_table: seen("page_table", compact(Element::I32, &[2, 3])),
        seqused_k: seen("seqused_k", compact(Element::I32, &[2])),
        k_descale: seen("k_descale", compact(Element::F32, &[2])),
        v_descale: seen("v_descale", compact(Element::F32, &[2])),
        ..NONE
    };
    let (problem, serving) = views.problem().expect("possible");
    assert_eq!((problem.dtype, problem.seqlen_k, problem.k.batch), (ATTN_DTYPE_F16, 48, 16 * 2 * 64));
    let expected = Serving {
        page_size: 16,
        pages: 9,
        table_width: 3,
        seqused_k: 1,
        float8: ATTN_FLOAT8_KEYS,
        descales: ATTN_DESCALES_PER_HEAD,
        ..Serving::NONE
    };
    assert_eq!(serving, expected);

    let all = Views { q: seen("q", compact(Element::E4m3, &[2, 1, 4, 64])), ..views };
    let (problem, serving) = all.problem().expect("possible");
    assert_eq!((problem.dtype, serving.float8), (crate::ATTN_DTYPE_BF16, ATTN_FLOAT8_ALL));
    let half = Views { o: seen("o", compact(Element::F16, &[2, 1, 4, 64])), ..all };
    assert_eq!(half.problem().expect("possible").0.dtype, ATTN_DTYPE_F16);
    let wide = Views { v: seen("v", compact(Element::F16, &[9, 16, 2, 64])), ..views };
    assert!(refused(&wide).starts_with("dtype of v is code 2, 16 bits, 1 lanes; allowed: float8_e4m3fn (10, 8, 1)"));
}

#[test]
fn tensors_that_do_not_go_together_are_named() {
    let dense = dense();
    assert_eq!(refused(&Views { v: None, ..dense }), "v is a null pointer");
    let cases = [
        (
            Views { k: seen("k", compact(Element::F16, &[2, 70, 2, 32])), ..dense },
            "shape of k is (2, 70, 2, 32); allowed: (2, 70, 2, 64)",
        ),
        (
            Views { k: seen("k", compact(Element::F16, &[3, 70, 2, 64])), ..dense },
            "shape of k is (3, 70, 2, 64); allowed: (2, 70, 2, 64)",
        ),
        (Views { v: seen("v", compact(Element::F16, &[2, 70, 1, 32])), ..dense }, "shape of v is (2, 70, 1, 32)"),
        (
            Views { v: seen("v", compact(Element::F16, &[2, 70, 64])), ..dense },
            "v has 3 dimensions; allowed: 4, (batch, seq, heads, head_dim)",
        ),
        (Views { k: seen("k", compact(Element::Bf16, &[2, 70, 2, 64])), ..dense }, "dtype of k is code 4, 16 bits"),
        (
            Views { q: seen("q", compact(Element::F32, &[2, 5, 4, 64])), ..dense },
            "allowed: bfloat16 (4, 16, 1), float16 (2, 16, 1), float8_e4m3fn (10, 8, 1)",
        ),
        (
            Views { q: seen("q", compact(Element::F16, &[2, 5, 4, 64]).changed(|t| t.dtype.lanes = 2)), ..dense },
            "dtype of q is code 2, 16 bits, 2 lanes",
        ),
        (
            Views { q: seen("q", given(Element::F16, &[2, 5, 4, 64], Some(&[2560, 512, 128, 2]))), ..dense },
            "strides of q are (2560, 512, 128, 2); allowed: (2560, 512, 128, 1)",
        ),
        (
            Views { o: seen("o", compact(Element::Bf16, &[2, 5, 4, 32])), ..dense },
            "dtype of o is code 4, 16 bits, 1 lanes; allowed: float16 (2, 16, 1)",
        ),
        (
            Views { lse: seen("lse", given(Element::F32, &[2, 4, 5], Some(&[40, 10, 2]))), ..dense },
            "strides of lse are (40, 10, 2); allowed: (40, 10, 1)",
        ),
        (
            Views { seqused_k: seen("seqused_k", compact(Element::F32, &[2])), ..dense },
            "dtype of seqused_k is code 2, 32 bits, 1 lanes; allowed: int32 (0, 32, 1)",
        ),
        (
            Views { seqused_k: seen("seqused_k", given(Element::I32, &[2], Some(&[2]))), ..dense },
            "strides of seqused_k are (2); allowed: (1)",
        ),
        (
            Views { page_table: seen("page_table", compact(Element::I32, &[2])), ..dense },
            "page_table has 1 dimensions; allowed: 2, (batch, table_width)",
        ),
        (
            Views { alibi_slopes: seen("alibi_slopes", compact(Element::F32, &[1, 2, 4])), ..dense },
            "alibi_slopes has 3 dimensions",
        ),
    ];
    for (views, part) in cases {
        let text = refused(&views);
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn a_launch_takes_only_the_plans_tensors() {
    let views = dense();
    let (problem, serving) = views.problem().expect("possible");
    assert!(views.check(&problem, &serving).is_ok());
    // The stride of a dimension of size 1 is nobody's business, other strides are.
    let one = Problem { batch: 1, ..problem };
    let q = |batch: i64, head: i64| given(Element::F16, &[1, 5, 4, 64], Some(&[batch, 64, head, 1]));
    assert!(Views { q: seen("q", q(7, 640)), ..NONE }.check(&one, &serving).is_ok());
    assert!(Views { q: seen("q", q(320, 648)), ..NONE }.check(&one, &serving).is_err());
    assert!(Views { q: seen("q", q(320, 640)), ..NONE }.check(&problem, &serving).is_err());
    let room = |bytes: i64| Views { workspace: seen("workspace", compact(Element::U8, &[bytes])), ..NONE };
    assert!(check_workspace(&room(256), 256).is_ok() && check_workspace(&NONE, 256).is_ok());
    let failure = check_workspace(&room(255), 256).expect_err("too small");
    assert_eq!(failure.text(), "workspace has 255 bytes; allowed: 256 and more");
    let wide = Views { workspace: seen("workspace", compact(Element::F32, &[256])), ..NONE };
    assert!(check_workspace(&wide, 256).is_err(), "its size is in bytes");
}

#[test]
fn every_tensor_reaches_the_launch() {
    let mut next = apart();
    let views = Views {
        q: next(),
        k: next(),
        v: next(),
        o: next(),
        lse: next(),
        workspace: next(),
        cu_seqlens_q: next(),
        cu_seqlens_k: next(),
        seqused_q: next(),
        seqused_k: next(),
        page_table: next(),
        sinks: next(),
        alibi_slopes: next(),
        q_descale: next(),
        k_descale: next(),
        v_descale: next(),
    };
    let found = addresses(&views);
    let needed = [found.q, found.k, found.v, found.o].map(Some);
    let others = [
        found.lse,
        found.workspace,
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
    let all: Vec<u64> = needed.into_iter().chain(others).map(|address| address.map_or(0, |found| found.0)).collect();
    assert_eq!(all, (1..=16).map(|i| AT + 16 * i).collect::<Vec<_>>());
}

#[test]
fn spans_of_forms() {
    let span = |dims| Form::new::<3>(Element::F16, dims).span();
    assert_eq!(span([(2, 640), (5, 128), (64, 1)]), Some((640 + 4 * 128 + 63 + 1) * 2));
    assert_eq!(span([(1, -5), (1, i64::MAX), (8, 1)]), Some(16));
    assert_eq!(span([(2, -5), (1, 0), (8, 1)]), None);
    assert_eq!(span([(1 << 40, 1 << 40), (1, 1), (8, 1)]), None);
}
