//! The kernels that join splits, in the simulator or on a GPU, against f64: `O = sum_s exp(LSE_s - LSE) O_s`.

use std::ptr;

use attn_kernel::attn::divide::Divisor;
use attn_kernel::companion::Companion;
use attn_kernel::forward::combine::{COMBINE_BF16, COMBINE_F16, CombineParams};
use attn_kernel::forward::serve::{ServeParams, Units};
use attn_kernel::forward::{Arch, DType};
use attn_tests::companion::{Machine, arches, nothing};
use attn_tests::gpu::LSE_POISON;
use attn_tests::precision::{POISON, Precision};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

#[derive(Clone, Debug)]
struct Case {
    dtype: DType,
    /// Queries of each sequence, packed; or the room of each.
    lengths: Vec<u32>,
    packed: bool,
    used: Option<Vec<i32>>,
    heads: u32,
    dv: u32,
    splits: u32,
    sinks: bool,
    /// Of 100 splits of a row, how many have keys.
    with_keys: u32,
    /// Rows and columns of O that belong to nobody.
    gap: u32,
    lse: bool,
}

impl Case {
    fn longest(&self) -> u32 {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    fn rows(&self) -> u32 {
        if self.packed { self.lengths.iter().sum() } else { self.longest() * self.lengths.len() as u32 }
    }

    /// The sequence of a row and the row's query; `None` where the query is not in use.
    fn query(&self, row: u32) -> Option<(usize, u32)> {
        let (batch, query) = if self.packed {
            let mut start = 0;
            let batch = self.lengths.iter().position(|length| {
                start += length;
                row < start
            })?;
            (batch, row - (start - self.lengths[batch]))
        } else {
            ((row / self.longest()) as usize, row % self.longest())
        };
        let used = self.used.as_ref().map_or(self.lengths[batch] as i32, |used| used[batch]);
        (i64::from(query) < i64::from(used)).then_some((batch, query))
    }
}

/// What the splits found, and what is to come of it.
struct Data {
    o: Vec<Option<Vec<f32>>>,
    lse: Vec<f32>,
    sinks: Vec<f32>,
}

impl Data {
    fn new(case: &Case, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let rows = case.splits * case.heads * case.rows();
        let mut normal = || rng.sample::<f32, _>(StandardNormal);
        let o: Vec<_> = (0..rows).map(|_| Some((0..case.dv).map(|_| normal()).collect())).collect();
        let lse: Vec<f32> = (0..rows).map(|_| 3.0 * normal() + 2.0).collect();
        let sinks = (0..case.heads).map(|_| 2.0 * normal()).collect();
        let keys: Vec<bool> = (0..rows).map(|_| rng.random_range(0..100) < case.with_keys).collect();
        let o = o.into_iter().zip(&keys).map(|(row, &keys)| row.filter(|_| keys)).collect();
        let lse = lse.into_iter().zip(&keys).map(|(lse, &keys)| if keys { lse } else { f32::NEG_INFINITY }).collect();
        Data { o, lse, sinks }
    }

    /// O and LSE of a row, in f64.
    fn expected(&self, case: &Case, head: u32, row: u32) -> (Vec<f64>, f64) {
        let at = |split: u32| ((split * case.heads + head) * case.rows() + row) as usize;
        let sink = if case.sinks { f64::from(self.sinks[head as usize]) } else { f64::NEG_INFINITY };
        let terms = || (0..case.splits).map(|split| f64::from(self.lse[at(split)])).chain([sink]);
        let greatest = terms().fold(f64::NEG_INFINITY, f64::max);
        if greatest == f64::NEG_INFINITY {
            return (vec![0.0; case.dv as usize], greatest);
        }
        let lse = greatest + terms().map(|term| (term - greatest).exp()).sum::<f64>().ln();
        let mut o = vec![0.0; case.dv as usize];
        for split in 0..case.splits {
            let Some(row) = &self.o[at(split)] else { continue };
            let weight = (f64::from(self.lse[at(split)]) - lse).exp();
            o.iter_mut().zip(row).for_each(|(o, &x)| *o += weight * f64::from(x));
        }
        (o, lse)
    }
}

/// Bits of O, with the gaps, and of LSE.
fn run(case: &Case, data: &Data, arch: Arch, seed: u64) -> Result<(Vec<u16>, Vec<u32>), String> {
    let mut machine = Machine::new(seed);
    // The rows of splits without keys are not written, so that the simulator reports who reads them.
    let partial = machine.alloc(4 * data.o.len() * case.dv as usize);
    for (row, o) in data.o.iter().enumerate() {
        if let Some(o) = o {
            machine.write(partial + 4 * (row * case.dv as usize) as u64, o);
        }
    }
    let (room, row_stride) = (case.longest() + case.gap, case.heads * case.dv + 8 * case.gap);
    let o_rows = if case.packed { case.rows() } else { room * case.lengths.len() as u32 };
    let o_len = (o_rows * row_stride) as usize;
    let lse_len = (case.rows() * case.heads) as usize;
    let o = machine.upload(&vec![POISON; o_len]);
    let lse = machine.upload(&vec![LSE_POISON; lse_len]);
    let sums = [0].into_iter().chain(case.lengths.iter().scan(0, |sum, length| {
        *sum += length;
        Some(*sum)
    }));
    let sums: Vec<u32> = sums.collect();
    let serve = ServeParams {
        lse: if case.lse { lse as *mut f32 } else { ptr::null_mut() },
        lse_batch_stride: if case.packed { 0 } else { u64::from(case.heads * case.longest()) },
        lse_head_stride: u64::from(if case.packed { case.rows() } else { case.longest() }),
        partial: partial as *mut f32,
        partial_lse: machine.upload(&data.lse) as *mut f32,
        rows: u64::from(case.rows()),
        dv: case.dv,
        heads: case.heads,
        cu_q: if case.packed { machine.upload(&sums) as *const i32 } else { ptr::null() },
        used_q: case.used.as_ref().map_or(ptr::null(), |used| machine.upload(used) as *const i32),
        seqlen_q: case.longest(),
        o_room: room,
        sinks: if case.sinks { machine.upload(&data.sinks) as *const f32 } else { ptr::null() },
        units: Units { splits: Divisor::new(case.splits), ..nothing().units },
        ..nothing()
    };
    let batch = case.lengths.len() as u32;
    let params = CombineParams::new(&serve, o as *mut u32, u64::from(row_stride), u64::from(case.dv), batch);
    let kernel: Companion = if case.dtype == DType::F16 { COMBINE_F16 } else { COMBINE_BF16 };
    // SAFETY: the struct's fields fill it.
    unsafe { machine.run(&kernel, arch, params.blocks(), kernel.shared, &params)? };
    Ok((machine.halves(o, o_len), machine.words(lse, lse_len)))
}

fn check(case: &Case, seed: u64) {
    let data = Data::new(case, seed);
    let precision = if case.dtype == DType::F16 { Precision::F16 } else { Precision::Bf16 };
    // Half a unit in the last place of the format, and what f32 and the approximate exponential add to it.
    let allowed = if case.dtype == DType::F16 { 6e-4 } else { 4.5e-3 };
    for arch in arches() {
        let (mut o, mut lse) = run(case, &data, arch, seed).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        let (room, row_stride) = (case.longest() + case.gap, case.heads * case.dv + 8 * case.gap);
        for row in 0..case.rows() {
            let Some((batch, query)) = case.query(row) else { continue };
            for head in 0..case.heads {
                let (want, want_lse) = data.expected(case, head, row);
                let o_row = if case.packed { row } else { batch as u32 * room + query };
                let first = (o_row * row_stride + head * case.dv) as usize;
                for (column, want) in want.iter().enumerate() {
                    let found = f64::from(precision.from_bits(o[first + column]));
                    let close = (found - want).abs() <= allowed * want.abs().max(0.05);
                    assert!(close, "{case:?}\nhead {head} row {row} column {column}: {found}, not {want}");
                    o[first + column] = POISON;
                }
                if case.lse {
                    let at = if case.packed {
                        head * case.rows() + row
                    } else {
                        (batch as u32 * case.heads + head) * case.longest() + query
                    };
                    let found = f64::from(f32::from_bits(lse[at as usize]));
                    let close = found == want_lse || (found - want_lse).abs() < 2e-5;
                    assert!(close, "{case:?}\nhead {head} row {row}: LSE {found}, not {want_lse}");
                    lse[at as usize] = LSE_POISON;
                }
            }
        }
        assert!(o.iter().all(|&bits| bits == POISON), "{case:?}: a row of O that is nobody's was written");
        assert!(lse.iter().all(|&bits| bits == LSE_POISON), "{case:?}: an LSE that is nobody's was written");
    }
}

fn case() -> Case {
    Case {
        dtype: DType::Bf16,
        lengths: vec![1; 3],
        packed: false,
        used: None,
        heads: 4,
        dv: 128,
        splits: 3,
        sinks: false,
        with_keys: 100,
        gap: 0,
        lse: true,
    }
}

#[test]
fn splits_are_joined() {
    for (seed, dv) in [8, 64, 72, 96, 128, 192, 256].into_iter().enumerate() {
        check(&Case { dv, ..case() }, seed as u64);
        check(&Case { dv, dtype: DType::F16, lengths: vec![5; 2], splits: 9, gap: 1, ..case() }, seed as u64);
    }
}

#[test]
fn any_count_of_splits_goes() {
    for splits in [1, 2, 4, 5, 8, 16, 17, 31, 32, 33, 64, 100] {
        check(&Case { splits, heads: 3, dv: 64, ..case() }, u64::from(splits));
        check(&Case { splits, heads: 3, dv: 64, with_keys: 40, sinks: true, ..case() }, u64::from(splits));
    }
}

#[test]
fn rows_without_keys_are_zero_or_have_the_sink_alone() {
    check(&Case { with_keys: 0, ..case() }, 0);
    check(&Case { with_keys: 0, sinks: true, ..case() }, 1);
    check(&Case { with_keys: 30, splits: 2, lengths: vec![7; 3], lse: false, ..case() }, 2);
}

#[test]
fn rows_that_are_not_in_use_are_left_alone() {
    let used = Some(vec![3, 0, 5, -2]);
    check(&Case { lengths: vec![5; 4], used: used.clone(), gap: 2, ..case() }, 0);
    check(&Case { lengths: vec![5, 1, 9, 4], used, packed: true, ..case() }, 1);
}

#[test]
fn packed_rows_find_their_sequence() {
    check(&Case { lengths: vec![0, 3, 0, 0, 1, 12, 0], packed: true, splits: 5, ..case() }, 0);
    let used = (0..1100).map(|b| b % 3).collect();
    let lengths = (0..1100).map(|b| b % 4).collect();
    check(&Case { lengths, used: Some(used), packed: true, heads: 1, dv: 8, splits: 2, ..case() }, 1);
}

#[test]
fn a_row_has_the_same_bits_whatever_else_there_is() {
    let alone = Case { lengths: vec![1], splits: 20, ..case() };
    let data = Data::new(&alone, 5);
    let (o, lse) = run(&alone, &data, arches()[0], 0).expect("no finding");
    // The same row again as the last one of seven sequences.
    let many = Case { lengths: vec![1; 7], ..alone.clone() };
    let mut others = Data::new(&many, 6);
    for of_head in 0..20 * 4 {
        others.o[of_head * 7 + 6] = data.o[of_head].clone();
        others.lse[of_head * 7 + 6] = data.lse[of_head];
    }
    let (all_o, all_lse) = run(&many, &others, arches()[0], 1).expect("no finding");
    assert_eq!(o, all_o[6 * 4 * 128..]);
    assert_eq!(lse, all_lse[6 * 4..]);
}
