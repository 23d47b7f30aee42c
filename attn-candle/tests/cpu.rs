//! Random problems on the CPU against the definition in f64, with NaN wherever nothing may be read.

use attn_candle::{Attention, Lengths};
use candle_core::{DType, Device, Result, Tensor};
use proptest::prelude::*;

use oracle::{Heads, Scores, assert_close, attend, attend_with_lse, elements, tensor, values};

mod oracle;

/// Where K and V are.
#[derive(Clone, Copy, Debug)]
enum Memory {
    Dense,
    Packed,
    Cache,
    Pages(usize),
}

#[derive(Clone, Debug)]
struct Case {
    memory: Memory,
    /// Queries and keys of each sequence.
    lengths: Vec<(usize, usize)>,
    heads: Heads,
    scores: Scores,
    slopes_per_sequence: bool,
    dtype: DType,
    transposed: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let memory = prop_oneof![
        Just(Memory::Dense),
        Just(Memory::Packed),
        Just(Memory::Cache),
        (0u32..3).prop_map(|power| Memory::Pages(4 << power)),
    ];
    let lengths = prop::collection::vec((0usize..7, 0usize..40), 1..4);
    let heads =
        (1usize..3, 1usize..4, prop_oneof![Just(8usize), Just(13), Just(64)], prop_oneof![Just(8usize), Just(40)]);
    let heads = heads.prop_map(|(kv_heads, group, dim, dim_v)| Heads { heads: kv_heads * group, kv_heads, dim, dim_v });
    let side = || prop::option::of(0usize..20);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let types = prop_oneof![Just(DType::F32), Just(DType::BF16), Just(DType::F16)];
    (memory, lengths, heads, side(), side(), prop::option::of(1.0f64..30.0), flags, types, any::<u64>()).prop_map(
        |(memory, mut lengths, heads, left, right, softcap, (sloped, sunk, per_sequence, transposed), dtype, seed)| {
            if matches!(memory, Memory::Dense) {
                let first = lengths[0];
                lengths.iter_mut().for_each(|each| *each = first);
            } else if !matches!(memory, Memory::Packed) {
                let queries = lengths[0].0;
                lengths.iter_mut().for_each(|each| each.0 = queries);
            }
            let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<f64>>();
            let all = heads.heads * lengths.len();
            let scores = Scores {
                scale: 0.3,
                left,
                right,
                softcap,
                slopes: sloped.then(|| wide(values(all, seed ^ 1)).into_iter().map(f64::abs).collect()),
                sinks: sunk.then(|| wide(values(heads.heads, seed ^ 2))),
            };
            Case { memory, lengths, heads, scores, slopes_per_sequence: per_sequence, dtype, transposed, seed }
        },
    )
}

/// The rows of all sequences one after the other.
fn rows(case: &Case, count: impl Fn(&(usize, usize)) -> usize, heads: usize, dim: usize, salt: u64) -> Vec<f32> {
    values(case.lengths.iter().map(count).sum::<usize>() * heads * dim, case.seed ^ salt)
}

/// Rows of sequences, each to its place among `places`, and NaN at the others.
fn spread(case: &Case, packed: &[f32], row: usize, places: usize, place: impl Fn(usize, usize) -> usize) -> Vec<f32> {
    let mut all = vec![f32::NAN; places * row];
    let mut rows = packed.chunks(row);
    for (b, &(_, keys)) in case.lengths.iter().enumerate() {
        for key in 0..keys {
            all[place(b, key) * row..][..row].copy_from_slice(rows.next().expect("as many as keys"));
        }
    }
    all
}

/// A tensor whose rows and heads lie the other way round in memory.
fn transposed(tensor: Tensor, really: bool) -> Result<Tensor> {
    let (rows, heads) = (tensor.rank() - 3, tensor.rank() - 2);
    if really { tensor.transpose(rows, heads)?.contiguous()?.transpose(rows, heads) } else { Ok(tensor) }
}

fn check(case: &Case) -> Result<()> {
    let Heads { heads, kv_heads, dim, dim_v } = case.heads;
    let Scores { scale, left, right, softcap, slopes, sinks } = &case.scores;
    let batch = case.lengths.len();
    let (q, k, v) = (
        rows(case, |each| each.0, heads, dim, 3),
        rows(case, |each| each.1, kv_heads, dim, 4),
        rows(case, |each| each.1, kv_heads, dim_v, 5),
    );
    let longest = case.lengths.iter().map(|each| each.1).max().unwrap_or(0);
    let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let mut attention = Attention::new().scale(*scale as f32).window(*left, *right);
    if let Some(cap) = softcap {
        attention = attention.softcap(*cap as f32);
    }
    if let Some(slopes) = slopes {
        let (count, shape): (usize, &[usize]) =
            if case.slopes_per_sequence { (batch * heads, &[batch, heads]) } else { (heads, &[heads]) };
        attention = attention.alibi(&tensor(narrow(&slopes[..count]), shape, DType::F32)?);
    }
    if let Some(sinks) = sinks {
        attention = attention.sinks(&tensor(narrow(sinks), &[heads], DType::F32)?);
    }
    let used: Vec<u32> = case.lengths.iter().map(|each| each.1 as u32).collect();
    let used = Tensor::from_vec(used, batch, &Device::Cpu)?;
    // The first dimensions of K and V, and where their rows lie.
    type Place<'a> = Box<dyn Fn(usize, usize) -> usize + 'a>;
    let (outer, place): (Vec<usize>, Place<'_>) = match case.memory {
        Memory::Dense => (vec![batch, longest], Box::new(|b, key| b * longest + key)),
        Memory::Packed => {
            let lengths = |side: fn(&(usize, usize)) -> usize| case.lengths.iter().map(side).collect::<Vec<usize>>();
            let sums = [lengths(|each| each.0), lengths(|each| each.1)].map(|all| Lengths::new(&all, &Device::Cpu));
            let [queries, keys] = sums;
            attention = attention.packed(&queries?, &keys?);
            let first = |b: usize| case.lengths[..b].iter().map(|each| each.1).sum::<usize>();
            // Rows behind the last belong to nobody.
            (vec![first(batch) + 2], Box::new(move |b, key| first(b) + key))
        }
        Memory::Cache => {
            attention = attention.seqused_k(&used);
            (vec![batch, longest + 3], Box::new(|b, key| b * (longest + 3) + key))
        }
        Memory::Pages(size) => {
            let width = longest.div_ceil(size).max(1);
            // Backwards, with a page between any two.
            let page = move |b: usize, n: usize| 2 * (batch * width - 1 - (b * width + n)) + 1;
            let table: Vec<u32> = (0..batch).flat_map(|b| (0..width).map(move |n| page(b, n) as u32)).collect();
            attention = attention.paged(&Tensor::from_vec(table, (batch, width), &Device::Cpu)?).seqused_k(&used);
            (vec![2 * batch * width, size], Box::new(move |b, key| page(b, key / size) * size + key % size))
        }
    };
    let places = outer.iter().product();
    let cache = |packed: &[f32], dim: usize| -> Result<Tensor> {
        let shape: Vec<usize> = outer.iter().copied().chain([kv_heads, dim]).collect();
        let values = spread(case, packed, kv_heads * dim, places, &place);
        transposed(tensor(values, &shape, case.dtype)?, case.transposed)
    };
    let total: usize = case.lengths.iter().map(|each| each.0).sum();
    let shape_q = match case.memory {
        Memory::Packed => vec![total, heads, dim],
        _ => vec![batch, case.lengths[0].0, heads, dim],
    };
    let q_tensor = transposed(tensor(q.clone(), &shape_q, case.dtype)?, case.transposed)?;
    let (k_tensor, v_tensor) = (cache(&k, dim)?, cache(&v, dim_v)?);
    let (found, lse) = attention.forward_with_lse(&q_tensor, &k_tensor, &v_tensor)?;
    let alone = attention.forward(&q_tensor, &k_tensor, &v_tensor)?;
    assert_eq!(elements(&found)?, elements(&alone)?, "O is the same without LSE");
    let mut expected_shape = shape_q;
    *expected_shape.last_mut().expect("not empty") = dim_v;
    assert_eq!((found.dims(), found.dtype()), (&expected_shape[..], case.dtype));

    let rounded = |values: Vec<f32>| elements(&tensor(values.clone(), &[values.len()], case.dtype)?);
    let (q, k, v) = (rounded(q)?, rounded(k)?, rounded(v)?);
    let (mut from_q, mut from_k, mut expected, mut sums) = (0, 0, Vec::new(), Vec::new());
    for (b, &(queries, keys)) in case.lengths.iter().enumerate() {
        let first = if case.slopes_per_sequence { b * heads } else { 0 };
        let scores =
            Scores { slopes: slopes.as_ref().map(|all| all[first..first + heads].to_vec()), ..case.scores.clone() };
        let q = &q[from_q * heads * dim..][..queries * heads * dim];
        let k = &k[from_k * kv_heads * dim..][..keys * kv_heads * dim];
        let v = &v[from_k * kv_heads * dim_v..][..keys * kv_heads * dim_v];
        let (o, lse) = attend_with_lse(q, k, v, case.heads, &scores);
        expected.extend(o);
        sums.extend(lse);
        (from_q, from_k) = (from_q + queries, from_k + keys);
    }
    assert_close(&found, &expected);
    check_lse(&lse, &sums, &expected_shape)
}

/// Compares LSE with rows of heads, one query after the other.
fn check_lse(lse: &Tensor, expected: &[f64], shape: &[usize]) -> Result<()> {
    let [outer @ .., queries, heads, _] = shape else { panic!("of rank 3 or 4") };
    let dims: Vec<usize> = outer.iter().chain([heads, queries]).copied().collect();
    assert_eq!((lse.dims(), lse.dtype(), lse.is_contiguous()), (&dims[..], DType::F32, true));
    let found = elements(&lse.transpose(outer.len(), outer.len() + 1)?)?;
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found == expected || (found - expected).abs() <= 2e-5;
        assert!(same, "LSE {i} is {found}, expected {expected}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_problems_are_what_the_definition_says(case in cases()) {
        check(&case).unwrap();
    }
}

#[test]
fn keys_of_8_bits_have_factors() -> Result<()> {
    let sizes = Heads { heads: 4, kv_heads: 2, dim: 16, dim_v: 16 };
    let q = tensor(values(3 * 4 * 16, 1), &[1, 3, 4, 16], DType::BF16)?;
    let k = tensor(values(20 * 2 * 16, 2), &[1, 20, 2, 16], DType::F8E4M3)?;
    let v = tensor(values(20 * 2 * 16, 3), &[1, 20, 2, 16], DType::F8E4M3)?;
    let (k_factors, v_factors) = ([0.5f32, 2.0], [1.5f32, 0.25]);
    let factors = |factors: [f32; 2]| tensor(factors.to_vec(), &[1, 2], DType::F32);
    let attention = Attention::new().causal().descales(&factors(k_factors)?, &factors(v_factors)?);
    let found = attention.forward(&q, &k, &v)?;
    let scaled = |tensor: &Tensor, factors: [f32; 2]| -> Result<Vec<f64>> {
        let rows = elements(tensor)?;
        Ok(rows.iter().enumerate().map(|(i, x)| x * f64::from(factors[i / 16 % 2])).collect())
    };
    let scores = Scores { scale: 0.25, right: Some(0), ..Scores::default() };
    let expected = attend(&elements(&q)?, &scaled(&k, k_factors)?, &scaled(&v, v_factors)?, sizes, &scores);
    assert_close(&found, &expected);
    Ok(())
}
