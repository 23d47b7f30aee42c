//! The functions of candle-flash-attn, each against the definition, and what is refused.

use attn_candle::*;
use candle_core::{DType, Device, Result, Tensor, Var};

use oracle::{Heads, Scores, assert_close, attend, elements, tensor, values};

mod oracle;

const SIZES: Heads = Heads { heads: 4, kv_heads: 2, dim: 16, dim_v: 16 };
/// Queries and keys of two sequences.
const LENGTHS: [(usize, usize); 2] = [(3, 9), (5, 6)];
const SLOPES: [f32; 4] = [0.5, 0.25, 0.125, 0.0625];
const SCALE: f32 = 0.2;
const CAP: f32 = 3.0;

fn scores(left: Option<usize>, right: Option<usize>, softcap: bool, sloped: bool) -> Scores {
    Scores {
        scale: f64::from(SCALE),
        left,
        right,
        softcap: softcap.then_some(f64::from(CAP)),
        slopes: sloped.then(|| SLOPES.map(f64::from).to_vec()),
        sinks: None,
    }
}

#[test]
fn dense_functions() -> Result<()> {
    let (q, k) = (values(5 * 4 * 16, 1), values(7 * 2 * 16, 2));
    let (q, k) = (tensor(q, &[1, 5, 4, 16], DType::F32)?, tensor(k, &[1, 7, 2, 16], DType::F32)?);
    let v = tensor(values(7 * 2 * 16, 3), &[1, 7, 2, 16], DType::F32)?;
    let slopes = tensor(SLOPES.to_vec(), &[4], DType::F32)?;
    let (l, r) = (Some(2), Some(1));
    let all = [
        (flash_attn(&q, &k, &v, SCALE, false)?, scores(None, None, false, false)),
        (flash_attn(&q, &k, &v, SCALE, true)?, scores(None, Some(0), false, false)),
        (flash_attn_windowed(&q, &k, &v, SCALE, l, r)?, scores(l, r, false, false)),
        (flash_attn_alibi(&q, &k, &v, &slopes, SCALE, true)?, scores(None, Some(0), false, true)),
        (flash_attn_alibi_windowed(&q, &k, &v, &slopes, SCALE, l, r)?, scores(l, r, false, true)),
        (flash_attn_alibi_windowed_softcap(&q, &k, &v, None, SCALE, l, r, CAP)?, scores(l, r, true, false)),
        (flash_attn_alibi_windowed_softcap(&q, &k, &v, Some(&slopes), SCALE, l, r, CAP)?, scores(l, r, true, true)),
    ];
    for (found, scores) in all {
        assert_close(&found, &attend(&elements(&q)?, &elements(&k)?, &elements(&v)?, SIZES, &scores));
    }
    Ok(())
}

/// What packed sequences come to.
fn expected(q: &Tensor, k: &Tensor, v: &Tensor, scores: &Scores) -> Result<Vec<f64>> {
    let (mut from_q, mut from_k, mut all) = (0, 0, Vec::new());
    for (queries, keys) in LENGTHS {
        let part = |tensor: &Tensor, from, count| elements(&tensor.narrow(0, from, count)?);
        let (k, v) = (part(k, from_k, keys)?, part(v, from_k, keys)?);
        all.extend(attend(&part(q, from_q, queries)?, &k, &v, SIZES, scores));
        (from_q, from_k) = (from_q + queries, from_k + keys);
    }
    Ok(all)
}

#[test]
fn packed_functions() -> Result<()> {
    let (q, k) = (values(8 * 4 * 16, 1), values(15 * 2 * 16, 2));
    let (q, k) = (tensor(q, &[8, 4, 16], DType::F16)?, tensor(k, &[15, 2, 16], DType::F16)?);
    let v = tensor(values(15 * 2 * 16, 3), &[15, 2, 16], DType::F16)?;
    let slopes = tensor(SLOPES.to_vec(), &[4], DType::F32)?;
    let (sq, sk) = (Tensor::new(&[0u32, 3, 8], &Device::Cpu)?, Tensor::new(&[0u32, 9, 15], &Device::Cpu)?);
    let (l, r, s) = (Some(2), Some(1), SCALE);
    let capped = |slopes| flash_attn_varlen_alibi_windowed_softcap(&q, &k, &v, slopes, &sq, &sk, 5, 9, s, l, r, CAP);
    let all = [
        (flash_attn_varlen(&q, &k, &v, &sq, &sk, 5, 9, s, false)?, scores(None, None, false, false)),
        (flash_attn_varlen(&q, &k, &v, &sq, &sk, 8, 64, s, true)?, scores(None, Some(0), false, false)),
        (flash_attn_varlen_windowed(&q, &k, &v, &sq, &sk, 5, 9, s, l, r)?, scores(l, r, false, false)),
        (flash_attn_varlen_alibi(&q, &k, &v, &slopes, &sq, &sk, 5, 9, s, true)?, scores(None, Some(0), false, true)),
        (flash_attn_varlen_alibi_windowed(&q, &k, &v, &slopes, &sq, &sk, 5, 9, s, l, r)?, scores(l, r, false, true)),
        (capped(None)?, scores(l, r, true, false)),
        (capped(Some(&slopes))?, scores(l, r, true, true)),
    ];
    for (found, scores) in all {
        assert_close(&found, &expected(&q, &k, &v, &scores)?);
    }
    Ok(())
}

#[test]
fn the_function_of_pages() -> Result<()> {
    let q = tensor(values(8 * 4 * 16, 1), &[8, 4, 16], DType::F32)?;
    let pages = |seed| tensor(values(5 * 4 * 2 * 16, seed), &[5, 4, 2, 16], DType::F32);
    let (k, v) = (pages(2)?, pages(3)?);
    let table = Tensor::new(&[[4u32, 0, 2], [3, 1, 77]], &Device::Cpu)?;
    let (sq, sk) = (Tensor::new(&[0u32, 3, 8], &Device::Cpu)?, Tensor::new(&[0u32, 9, 15], &Device::Cpu)?);
    let call = |ranges, size, cap| {
        flash_attn_varlen_paged_windowed(&q, &k, &v, &sq, &sk, &table, ranges, 5, 12, SCALE, None, Some(0), size, cap)
    };
    let packed = |tensor: &Tensor| -> Result<Tensor> {
        let page = |page, count| tensor.get(page)?.narrow(0, 0, count);
        Tensor::cat(&[page(4, 4)?, page(0, 4)?, page(2, 1)?, page(3, 4)?, page(1, 2)?], 0)
    };
    for capped in [false, true] {
        let expected = expected(&q, &packed(&k)?, &packed(&v)?, &scores(None, Some(0), capped, false))?;
        assert_close(&call(None, 4, capped.then_some(CAP))?, &expected);
    }
    assert!(refusal(call(Some(&sq), 4, None)).contains("mm_prefix_ranges"));
    assert!(refusal(call(None, 8, None)).contains("page_block_size is 8"));
    Ok(())
}

fn refusal(result: Result<Tensor>) -> String {
    result.expect_err("must be refused").to_string()
}

#[test]
fn what_does_not_go_together_is_refused_by_name() -> Result<()> {
    let cpu = Device::Cpu;
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &cpu);
    let f32s = |shape: &[usize]| zeros(shape, DType::F32);
    let (q, kv) = (f32s(&[2, 3, 4, 16])?, f32s(&[2, 5, 2, 16])?);
    let plain = Attention::new();
    let refused = |attention: &Attention, q: &Tensor, k: &Tensor, v: &Tensor| refusal(attention.forward(q, k, v));
    let same = |attention: Attention| refused(&attention, &q, &kv, &kv);
    let ints = |values: &[u32]| Tensor::new(values, &cpu);
    let table = |values: &[u32], shape: (usize, usize)| Tensor::from_slice(values, shape, &cpu);
    let all = [
        (refused(&plain, &f32s(&[3, 4, 16])?, &kv, &kv), "q is of shape [3, 4, 16]"),
        (refused(&plain, &q, &f32s(&[2, 5, 2, 8])?, &kv), "head_dim of k is 8; allowed: q's, 16"),
        (refused(&plain, &q, &f32s(&[2, 5, 1, 16])?, &kv), "kv_heads of v is 2; allowed: k's, 1"),
        (refused(&plain, &q, &f32s(&[2, 4, 2, 16])?, &kv), "rows of v is 5; allowed: k's, 4"),
        (refused(&plain, &q, &f32s(&[2, 5, 3, 16])?, &f32s(&[2, 5, 3, 16])?), "heads is 4"),
        (refused(&plain, &q, &f32s(&[3, 5, 2, 16])?, &f32s(&[3, 5, 2, 16])?), "k has 3 sequences"),
        (refused(&plain, &q, &zeros(&[2, 5, 2, 16], DType::F16)?, &kv), "k is of type F16; allowed: F32"),
        (
            refused(
                &plain,
                &zeros(&[2, 3, 4, 16], DType::I64)?,
                &zeros(&[2, 5, 2, 16], DType::I64)?,
                &zeros(&[2, 5, 2, 16], DType::I64)?,
            ),
            "allowed: BF16, F16, F32",
        ),
        (same(plain.clone().scale(f32::NAN)), "scale is NaN; allowed: finite and above zero"),
        (same(plain.clone().softcap(0.0)), "softcap is 0; allowed: finite and above zero"),
        (same(plain.clone().sinks(&f32s(&[3])?)), "sinks is of shape [3]; allowed: [[4]]"),
        (same(plain.clone().sinks(&ints(&[1, 2, 3, 4])?)), "sinks is of type U32"),
        (same(plain.clone().alibi(&f32s(&[3, 4])?)), "alibi_slopes is of shape [3, 4]"),
        (same(plain.clone().seqused_k(&ints(&[1, 6])?)), "seqused_k[1] is 6; allowed: 0 to 5"),
        (same(plain.clone().seqused_k(&ints(&[1])?)), "seqused_k is of shape [1]"),
        (same(plain.clone().descales(&f32s(&[2])?, &f32s(&[2])?)), "factors (descales) together with keys"),
        (same(plain.clone().paged(&table(&[0], (1, 1))?)), "page_table is of shape [1, 1]"),
    ];
    for (found, part) in all {
        assert!(found.contains(part), "{part:?} is not in {found:?}");
    }
    let pages = f32s(&[2, 16, 2, 16])?;
    let attention = plain.paged(&table(&[0, 1, 2, 0], (2, 2))?);
    assert!(refused(&attention, &q, &pages, &pages).contains("page_table[2] is 2; allowed: 0 to 1"));
    Ok(())
}

#[test]
fn lengths_are_checked_when_they_are_made_and_used() -> Result<()> {
    let cpu = Device::Cpu;
    for (sums, part) in [
        (Tensor::new(&[1u32, 2], &cpu)?, "begin with Some(1)"),
        (Tensor::new(&[0i32, 3, 2], &cpu)?, "cumulative_lengths[2] is 2"),
        (Tensor::new(&[0i32, -3], &cpu)?, "cumulative_lengths[1]"),
        (Tensor::new(&[0f32, 3.0], &cpu)?, "type F32"),
    ] {
        let found = Lengths::from_cumulative(&sums).expect_err("must be refused").to_string();
        assert!(found.contains(part), "{part:?} is not in {found:?}");
    }
    assert!(Lengths::new(&[1 << 31], &cpu).is_err());
    let lengths = Lengths::new(&[3, 0, 5], &cpu)?;
    assert_eq!((lengths.count(), lengths.total(), lengths.longest()), (3, 8, 5));
    assert_eq!(lengths.each().collect::<Vec<_>>(), [3, 0, 5]);
    let rows = |count: usize| Tensor::zeros(&[count, 2, 8], DType::F32, &cpu);
    let attention = Attention::new().packed(&lengths, &lengths);
    assert!(refusal(attention.forward(&rows(8)?, &rows(7)?, &rows(7)?)).contains("cu_seqlens_k[3] is 8"));
    let short = attention.longest(4, 5);
    assert!(refusal(short.forward(&rows(8)?, &rows(8)?, &rows(8)?)).contains("cu_seqlens_q[3] is 8"));
    Ok(())
}

#[test]
fn there_is_no_backward_pass() -> Result<()> {
    let q = Var::zeros(&[1, 2, 1, 8], DType::F32, &Device::Cpu)?;
    let kv = Tensor::zeros(&[1, 2, 1, 8], DType::F32, &Device::Cpu)?;
    let found = flash_attn(&q, &kv, &kv, 1.0, false)?.sum_all()?.backward().expect_err("must be refused");
    assert!(found.to_string().contains("forward pass only"), "{found}");
    let (_, lse) = Attention::new().forward_with_lse(&q, &kv, &kv)?;
    let found = lse.sum_all()?.backward().expect_err("must be refused");
    assert!(found.to_string().contains("forward pass only"), "{found}");
    Ok(())
}

#[test]
fn nothing_to_see_is_zeros() -> Result<()> {
    let zeros = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu);
    let o = flash_attn(&zeros(&[2, 3, 2, 8])?, &zeros(&[2, 0, 1, 8])?, &zeros(&[2, 0, 1, 4])?, 1.0, true)?;
    assert_eq!((o.dims(), elements(&o)?), (&[2, 3, 2, 4][..], vec![0.0; 48]));
    let o = flash_attn(&zeros(&[2, 0, 2, 8])?, &zeros(&[2, 5, 1, 8])?, &zeros(&[2, 5, 1, 4])?, 1.0, true)?;
    assert_eq!(o.dims(), [2, 0, 2, 4]);
    let sinks = Tensor::new(&[0.5f32, -1.0], &Device::Cpu)?;
    for (attention, expected) in
        [(Attention::new(), [f32::NEG_INFINITY; 2]), (Attention::new().sinks(&sinks), [0.5, -1.0])]
    {
        let none = zeros(&[2, 0, 1, 8])?;
        let (o, lse) = attention.forward_with_lse(&zeros(&[2, 3, 2, 8])?, &none, &none)?;
        assert_eq!(elements(&o)?, vec![0.0; 96]);
        assert_eq!(lse.to_vec3::<f32>()?, vec![expected.map(|x| vec![x; 3]).to_vec(); 2]);
    }
    Ok(())
}
