//! What is refused of a step, by name, and memory that arguments share.

use attn_candle::{Append, Attention, Lengths, Pairs};
use candle_core::{DType, Device, Result, Tensor};

use tensors::{elements, tensor, values};

#[path = "oracle/tensors.rs"]
mod tensors;

const CPU: &Device = &Device::Cpu;

fn rows(shape: &[usize], seed: u64) -> Result<Tensor> {
    tensor(values(shape.iter().product(), seed), shape, DType::F32)
}

fn ints(values: &[u32]) -> Result<Tensor> {
    Tensor::new(values, CPU)
}

#[test]
fn what_does_not_go_together_is_refused_by_name() -> Result<()> {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, CPU);
    let f32s = |shape: &[usize]| zeros(shape, DType::F32);
    let (k, v) = (f32s(&[2, 3, 2, 16])?, f32s(&[2, 3, 2, 8])?);
    let (k_cache, v_cache) = (f32s(&[2, 9, 2, 16])?, f32s(&[2, 9, 2, 8])?);
    let refused = |append: &Append, k: &Tensor, v: &Tensor, k_cache: &Tensor, v_cache: &Tensor| {
        append.write(k, v, k_cache, v_cache).expect_err("must be refused").to_string()
    };
    let plain = Append::new();
    let same = |append: Append| refused(&append, &k, &v, &k_cache, &v_cache);
    let tables = |shape: &[usize], dtype| -> Result<String> {
        let table = zeros(shape, dtype)?;
        Ok(same(Append::new().rotary(&table, &table, Pairs::Halves)))
    };
    let table = |shape: (usize, usize)| Tensor::zeros(shape, DType::U32, CPU);
    let packed = |lengths: &[usize]| Ok::<_, candle_core::Error>(Append::new().packed(&Lengths::new(lengths, CPU)?));
    let (k_packed, v_packed) = (f32s(&[5, 2, 16])?, f32s(&[5, 2, 8])?);
    let (wide, factors) = (zeros(&[2, 9, 2, 16], DType::F8E4M3)?, f32s(&[2])?);
    let all = [
        (refused(&plain, &k_packed, &v, &k_cache, &v_cache), "k is of shape [5, 2, 16]; allowed: (batch, rows"),
        (refused(&plain, &k, &f32s(&[2, 3, 1, 8])?, &k_cache, &v_cache), "kv_heads of v is 1; allowed: k's, 2"),
        (refused(&plain, &k, &f32s(&[2, 4, 2, 8])?, &k_cache, &v_cache), "rows of v is 4; allowed: k's, 3"),
        (refused(&plain, &k, &v, &f32s(&[2, 9, 2, 8])?, &v_cache), "head_dim of k_cache is 8; allowed: k's, 16"),
        (refused(&plain, &k, &v, &k_cache, &k_cache), "head_dim of v_cache is 16; allowed: v's, 8"),
        (refused(&plain, &k, &v, &k_cache, &f32s(&[2, 8, 2, 8])?), "rows of v_cache is 8; allowed: k_cache's, 9"),
        (refused(&plain, &k, &v, &f32s(&[3, 9, 2, 16])?, &f32s(&[3, 9, 2, 8])?), "k_cache has 3 sequences"),
        (refused(&plain, &k, &v, &f32s(&[2, 0, 2, 16])?, &f32s(&[2, 0, 2, 8])?), "rows of k_cache is 0"),
        (refused(&plain, &k, &zeros(&[2, 3, 2, 8], DType::F16)?, &k_cache, &v_cache), "v is of type F16; allowed: k's"),
        (refused(&plain, &k, &v, &zeros(&[2, 9, 2, 16], DType::F16)?, &v_cache), "k_cache is of type F16; allowed"),
        (refused(&plain, &k, &v, &wide, &v_cache), "v_cache is of type F32; allowed: k_cache's, F8E4M3"),
        (
            refused(&plain, &zeros(&[1, 1, 1, 8], DType::I64)?, &v, &k_cache, &v_cache),
            "k is of type I64; allowed: BF16",
        ),
        (same(plain.clone().seqlens_before(&ints(&[1])?)), "seqlens_before is of shape [1]; allowed: [[2]]"),
        (same(plain.clone().seqused_new(&f32s(&[2])?)), "seqused_new is of type F32"),
        (same(plain.clone().paged(&table((3, 4))?)), "page_table is of shape [3, 4]; allowed: [[2, 4]]"),
        (same(plain.clone().descales(&factors, &factors)), "factors (descales) together with caches of 16 bits"),
        (tables(&[9], DType::F32)?, "cos is of shape [9]; allowed: (positions, dim / 2)"),
        (tables(&[9, 9], DType::F32)?, "cos has 9 pairs of a head; allowed: 1 to 8"),
        (tables(&[9, 0], DType::F32)?, "cos has 0 pairs"),
        (tables(&[9, 8], DType::BF16)?, "cos is of type BF16"),
        (
            same(plain.clone().rotary(&f32s(&[9, 8])?, &f32s(&[8, 8])?, Pairs::Halves)),
            "sin is of shape [8, 8]; allowed: [[9, 8]]",
        ),
        (refused(&packed(&[2, 4])?, &k_packed, &v_packed, &k_cache, &v_cache), "cu_seqlens_new[2] is 6"),
        (refused(&packed(&[2, 3])?, &k, &v, &k_cache, &v_cache), "k is of shape [2, 3, 2, 16]; allowed: (total"),
    ];
    for (found, part) in all {
        assert!(found.contains(part), "{part:?} is not in {found:?}");
    }
    let found = plain.write_and_rotate(&k, &k, &v, &k_cache, &v_cache).expect_err("must be refused").to_string();
    assert!(found.contains("queries together with no rotary embedding"), "{found}");
    let rotary = plain.rotary(&f32s(&[9, 8])?, &f32s(&[9, 8])?, Pairs::Halves);
    let found = rotary.write_and_rotate(&v, &k, &v, &k_cache, &v_cache).expect_err("must be refused").to_string();
    assert!(found.contains("head_dim of q is 8; allowed: k's, 16"), "{found}");
    assert_eq!(elements(&k_cache)?, vec![0.0; 2 * 9 * 2 * 16], "nothing is written");
    Ok(())
}

#[test]
fn caches_have_memory_of_their_own_and_inputs_may_share_theirs() -> Result<()> {
    let (both, k) = (rows(&[2, 2, 9, 2, 16], 1)?, rows(&[2, 3, 2, 16], 2)?);
    let found = Append::new().write(&k, &k, &both.get(0)?, &both.get(1)?).expect_err("must be refused").to_string();
    assert!(found.contains("v_cache shares k_cache's memory; allowed: a tensor of its own"), "{found}");
    let repeated = both.get(0)?.narrow(0, 0, 1)?.broadcast_as((2, 9, 2, 16))?;
    let v_cache = rows(&[2, 9, 2, 16], 3)?;
    for (k_cache, v_cache, name) in [(&repeated, &v_cache, "k_cache"), (&v_cache, &repeated, "v_cache")] {
        let found = Append::new().write(&k, &k, k_cache, v_cache).expect_err("must be refused").to_string();
        assert!(found.contains(&format!("{name} has repeated elements")), "{found}");
    }
    assert_eq!(elements(&v_cache)?, elements(&rows(&[2, 9, 2, 16], 3)?)?, "nothing is written");

    // Keys that lie behind the sequences' own in the cache are moved to its beginning.
    let k_cache = rows(&[2, 9, 2, 16], 4)?;
    let new = k_cache.narrow(1, 5, 3)?;
    let wanted = elements(&new)?;
    Append::new().write(&new, &v_cache.narrow(1, 1, 3)?, &k_cache, &v_cache)?;
    assert_eq!(elements(&k_cache.narrow(1, 0, 3)?)?, wanted);
    assert_eq!(elements(&v_cache.narrow(1, 0, 2)?)?, elements(&rows(&[2, 9, 2, 16], 3)?.narrow(1, 1, 2)?)?);
    Ok(())
}

#[test]
fn no_tokens_change_nothing() -> Result<()> {
    let (none, cache) = (rows(&[2, 0, 2, 16], 1)?, rows(&[2, 9, 2, 16], 2)?);
    let (before, other) = (elements(&cache)?, rows(&[2, 9, 2, 16], 3)?);
    let tables = rows(&[4, 8], 4)?;
    let append = Append::new().rotary(&tables, &tables, Pairs::Interleaved);
    let rotated = append.write_and_rotate(&rows(&[2, 0, 6, 16], 5)?, &none, &none, &cache, &other)?;
    assert_eq!((rotated.dims(), elements(&cache)?), (&[2, 0, 6, 16][..], before));
    Ok(())
}

#[test]
fn steps_of_tokens_and_attention_are_attention_of_all() -> Result<()> {
    let (q, k, v) = (rows(&[2, 7, 4, 16], 1)?, rows(&[2, 7, 2, 16], 2)?, rows(&[2, 7, 2, 16], 3)?);
    let whole = Attention::new().causal().forward(&q, &k, &v)?;
    let (k_cache, v_cache) = (rows(&[2, 9, 2, 16], 4)?, rows(&[2, 9, 2, 16], 5)?);
    for (first, count) in [(0, 4), (4, 1), (5, 2)] {
        let part = |tensor: &Tensor| tensor.narrow(1, first, count);
        let (before, after) = (ints(&[first as u32; 2])?, ints(&[(first + count) as u32; 2])?);
        Append::new().seqlens_before(&before).write(&part(&k)?, &part(&v)?, &k_cache, &v_cache)?;
        let o = Attention::new().causal().seqused_k(&after).forward(&part(&q)?, &k_cache, &v_cache)?;
        assert_eq!(elements(&o)?, elements(&part(&whole)?)?);
    }
    Ok(())
}
