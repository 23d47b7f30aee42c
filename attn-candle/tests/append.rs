//! Random steps on the CPU against what is said of them, element by element: what is written, what is dropped, and that nothing else changes.

use attn_candle::{Append, Lengths, Pairs};
use candle_core::{DType, Device, Result, Tensor};
use proptest::prelude::*;

use tensors::{elements, tensor, values};

#[path = "oracle/tensors.rs"]
mod tensors;

#[derive(Clone, Debug)]
struct Case {
    /// Keys before, new tokens, and how many of these are in use, of each sequence.
    lengths: Vec<(usize, usize, usize)>,
    /// Rows of a page, if there are pages.
    page: Option<usize>,
    packed: bool,
    used: bool,
    /// Heads of K and V, and of Q.
    heads: (usize, usize),
    /// Of K and of V.
    dims: (usize, usize),
    /// Pairs of a head that are rotated, and positions of the tables.
    rotary: Option<(usize, Pairs, usize)>,
    dtype: DType,
    /// The caches are of 8 bits, and whether their factors are those of each sequence.
    narrow: Option<bool>,
    transposed: bool,
    seed: u64,
}

/// Rows of each sequence in a dense cache, or that its pages have.
const ROWS: usize = 24;

fn cases() -> impl Strategy<Value = Case> {
    let lengths = prop::collection::vec((0usize..ROWS, 0usize..6, 0usize..8), 1..4);
    let page = prop::option::of((0u32..4).prop_map(|power| 3 << power));
    let rotary = (0usize..9, any::<bool>(), 1usize..30).prop_map(|(pairs, halves, positions)| {
        (pairs > 0).then_some((pairs, if halves { Pairs::Halves } else { Pairs::Interleaved }, positions))
    });
    let types = prop_oneof![Just(DType::F32), Just(DType::BF16), Just(DType::F16)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), prop::option::weighted(0.3, any::<bool>()));
    let heads = (1usize..4, 1usize..4);
    let dims = (prop_oneof![Just(16usize), Just(21), Just(64)], prop_oneof![Just(8usize), Just(16)]);
    (lengths, page, rotary, types, flags, heads, dims, any::<u64>()).prop_map(
        |(mut lengths, page, rotary, dtype, (packed, used, transposed, narrow), heads, dims, seed)| {
            if !packed {
                let new = lengths[0].1;
                lengths.iter_mut().for_each(|each| each.1 = new);
            }
            Case { lengths, page, packed, used, heads, dims, rotary, dtype, narrow, transposed, seed }
        },
    )
}

/// A tensor whose rows and heads lie the other way round in memory.
fn transposed(tensor: Tensor, really: bool) -> Result<Tensor> {
    let (rows, heads) = (tensor.rank() - 3, tensor.rank() - 2);
    if really { tensor.transpose(rows, heads)?.contiguous()?.transpose(rows, heads) } else { Ok(tensor) }
}

impl Case {
    fn batch(&self) -> usize {
        self.lengths.len()
    }

    /// Rows of new tokens: two behind the last belong to nobody where they are packed.
    fn rows(&self) -> usize {
        self.lengths.iter().map(|each| each.1).sum::<usize>() + if self.packed { 2 } else { 0 }
    }

    fn new_tokens(&self, heads: usize, dim: usize, salt: u64) -> Result<Tensor> {
        let dims =
            if self.packed { vec![self.rows(), heads, dim] } else { vec![self.batch(), self.lengths[0].1, heads, dim] };
        transposed(tensor(values(self.rows() * heads * dim, self.seed ^ salt), &dims, self.dtype)?, self.transposed)
    }

    fn cache_type(&self) -> DType {
        self.narrow.map_or(self.dtype, |_| DType::F8E4M3)
    }

    /// First dimensions of the caches.
    fn places(&self) -> (usize, usize) {
        self.page.map_or((self.batch(), ROWS), |page| (self.batch() * self.width() + 1, page))
    }

    /// Pages of a sequence.
    fn width(&self) -> usize {
        self.page.map_or(0, |page| ROWS / page.min(ROWS))
    }

    /// The page of each sequence's rows; the second one of the first sequence is nowhere.
    fn page_of(&self, sequence: usize, n: usize) -> usize {
        if (sequence, n) == (0, 1) {
            u32::MAX as usize
        } else {
            self.batch() * self.width() - sequence * self.width() - n
        }
    }

    /// The row of a cache, all pages or sequences one after the other, where a position is.
    fn place(&self, sequence: usize, position: usize) -> Option<usize> {
        let (outer, rows) = self.places();
        let place = match self.page {
            Some(page) if position / page < self.width() => (self.page_of(sequence, position / page), position % page),
            None if position < rows => (sequence, position),
            _ => return None,
        };
        (place.0 < outer).then_some(place.0 * rows + place.1)
    }

    fn cache(&self, dim: usize, salt: u64) -> Result<Tensor> {
        let ((outer, rows), heads) = (self.places(), self.heads.0);
        let values = values(outer * rows * heads * dim, self.seed ^ salt);
        transposed(tensor(values, &[outer, rows, heads, dim], self.cache_type())?, self.transposed)
    }

    fn factors(&self, salt: u64) -> Vec<f32> {
        let each = if self.narrow == Some(true) { self.batch() } else { 1 };
        values(each * self.heads.0, self.seed ^ salt).into_iter().map(|x| x.abs() / 20.0 + 0.002).collect()
    }

    /// Every token that is not dropped: its sequence, its row among the new ones, and its position.
    fn tokens(&self) -> Vec<(usize, usize, usize)> {
        let (mut first, mut tokens) = (0, Vec::new());
        for (b, &(before, new, used)) in self.lengths.iter().enumerate() {
            for i in 0..if self.used { used.min(new) } else { new } {
                if self.rotary.is_none_or(|(_, _, positions)| before + i < positions) {
                    tokens.push((b, first + i, before + i));
                }
            }
            first += new;
        }
        tokens
    }
}

/// A head rotated by the definition.
fn rotated(row: &[f64], rotary: Option<(usize, Pairs, usize)>, position: usize, tables: &[Vec<f64>; 2]) -> Vec<f64> {
    let mut out = row.to_vec();
    let Some((count, pairs, _)) = rotary else { return out };
    for i in 0..count {
        let [cos, sin] = [0, 1].map(|table: usize| tables[table][position * count + i]);
        let [a, b] = if pairs == Pairs::Interleaved { [2 * i, 2 * i + 1] } else { [i, i + count] };
        (out[a], out[b]) = (row[a] * cos - row[b] * sin, row[a] * sin + row[b] * cos);
    }
    out
}

/// Panics where a tensor is not what is expected, `None` being what it was before.
fn assert_rows(name: &str, found: &Tensor, before: &[f64], expected: &[Option<f64>]) -> Result<()> {
    let (unit, least) = match found.dtype() {
        DType::BF16 => (1.0 / 256.0, 0.0),
        DType::F16 => (1.0 / 2048.0, 0.0),
        // Below 2^-6 the steps are 2^-9.
        DType::F8E4M3 => (1.0 / 16.0, 1.0 / 1024.0),
        _ => (0.0, 0.0),
    };
    let found = elements(found)?;
    assert_eq!(found.len(), expected.len());
    for (i, ((found, before), expected)) in found.iter().zip(before).zip(expected).enumerate() {
        let Some(expected) = expected else {
            assert_eq!(found, before, "{name}: element {i} is none of the new ones");
            continue;
        };
        let allowed = 2e-6 + least + unit * 1.001 * expected.abs();
        assert!((found - expected).abs() <= allowed, "{name}: element {i} is {found}, expected {expected}");
    }
    Ok(())
}

fn check(case: &Case) -> Result<()> {
    let Case { heads: (kv_heads, heads), dims: (dim, dim_v), .. } = *case;
    let (k, v) = (case.new_tokens(kv_heads, dim, 1)?, case.new_tokens(kv_heads, dim_v, 2)?);
    let q = case.new_tokens(heads, dim, 3)?;
    let (k_cache, v_cache) = (case.cache(dim, 4)?, case.cache(dim_v, 5)?);
    let before = [elements(&k_cache)?, elements(&v_cache)?];
    let numbers = |value: fn(&(usize, usize, usize)) -> usize| -> Result<Tensor> {
        let all: Vec<u32> = case.lengths.iter().map(|each| value(each) as u32).collect();
        Tensor::from_vec(all, case.batch(), &Device::Cpu)
    };
    let mut append = Append::new().seqlens_before(&numbers(|each| each.0)?);
    if case.used {
        append = append.seqused_new(&numbers(|each| each.2)?);
    }
    if case.packed {
        let new: Vec<usize> = case.lengths.iter().map(|each| each.1).collect();
        append = append.packed(&Lengths::new(&new, &Device::Cpu)?);
    }
    if case.page.is_some() {
        let (batch, width) = (case.batch(), case.width());
        let table = (0..batch).flat_map(|b| (0..width).map(move |n| case.page_of(b, n) as u32));
        append = append.paged(&Tensor::from_vec(table.collect::<Vec<_>>(), (batch, width), &Device::Cpu)?);
    }
    let mut tables = [vec![], vec![]];
    if let Some((count, pairs, positions)) = case.rotary {
        // In the tensors' type where the seed is even.
        let dtype = if case.seed.is_multiple_of(2) { case.dtype } else { DType::F32 };
        let table = |salt| tensor(values(positions * count, case.seed ^ salt), &[positions, count], dtype);
        let (cos, sin) = (table(6)?, table(7)?);
        append = append.rotary(&cos, &sin, pairs);
        tables = [elements(&cos)?, elements(&sin)?];
    }
    let factors = case.narrow.map(|_| [case.factors(8), case.factors(9)]);
    if let Some([of_k, of_v]) = &factors {
        let shape: &[usize] = if case.narrow == Some(true) { &[case.batch(), kv_heads] } else { &[kv_heads] };
        let factors = |all: &[f32]| tensor(all.to_vec(), shape, DType::F32);
        append = append.descales(&factors(of_k)?, &factors(of_v)?);
    }
    let rotated_q = match case.rotary {
        Some(_) => Some(append.write_and_rotate(&q, &k, &v, &k_cache, &v_cache)?),
        None => append.write(&k, &v, &k_cache, &v_cache).map(|()| None)?,
    };

    let (k, v, q) = (elements(&k)?, elements(&v)?, elements(&q)?);
    let mut expected = before.each_ref().map(|before| vec![None; before.len()]);
    let mut expected_q = vec![Some(0.0); q.len()];
    for (sequence, row, position) in case.tokens() {
        for head in 0..heads {
            let at = (row * heads + head) * dim;
            for (i, x) in rotated(&q[at..at + dim], case.rotary, position, &tables).into_iter().enumerate() {
                expected_q[at + i] = Some(x);
            }
        }
        let Some(place) = case.place(sequence, position) else { continue };
        for (side, (new, dim, rotary)) in [(&k, dim, case.rotary), (&v, dim_v, None)].into_iter().enumerate() {
            for head in 0..kv_heads {
                let (from, to) = ((row * kv_heads + head) * dim, (place * kv_heads + head) * dim);
                let factor = factors.as_ref().map_or(1.0, |factors| {
                    let all = &factors[side];
                    f64::from(all[(sequence * kv_heads + head) % all.len()])
                });
                for (i, x) in rotated(&new[from..from + dim], rotary, position, &tables).into_iter().enumerate() {
                    let most = if case.narrow.is_some() { 448.0 } else { f64::INFINITY };
                    expected[side][to + i] = Some((x / factor).clamp(-most, most));
                }
            }
        }
    }
    assert_rows("k_cache", &k_cache, &before[0], &expected[0])?;
    assert_rows("v_cache", &v_cache, &before[1], &expected[1])?;
    if let Some(rotated) = rotated_q {
        assert_eq!(rotated.dtype(), case.dtype);
        assert_rows("q", &rotated, &q, &expected_q)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_steps_write_what_they_should_and_nothing_else(case in cases()) {
        check(&case).unwrap();
    }
}
