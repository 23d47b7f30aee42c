//! The kernels that append to a cache, in the simulator or on a GPU, against plain Rust, bit by bit.

use std::ptr;

use attn_kernel::append::{self, APPEND_BF16, APPEND_F16, AppendParams, Rows, THREADS};
use attn_kernel::attn::divide::Divisor;
use attn_kernel::forward::Arch;
use attn_tests::companion::{Machine, arches};
use attn_tests::precision::{POISON, Precision};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[derive(Clone, Debug)]
struct Case {
    precision: Precision,
    /// New tokens of each sequence: packed, or each has room for the most.
    new: Vec<i32>,
    packed: bool,
    used: Option<Vec<i32>>,
    before: Option<Vec<i32>>,
    /// Keys of a page; none: a dense cache.
    page: Option<u32>,
    /// Positions of a sequence in the cache.
    capacity: u32,
    /// Pages of this many of the first sequences have numbers that do not exist.
    lost: usize,
    kv_heads: u32,
    heads: u32,
    d: u32,
    dv: u32,
    rotary: u32,
    interleaved: bool,
    table_f32: bool,
    positions: u32,
    in_place: bool,
    float8: Option<Descales>,
}

/// The factors of a cache of 8-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Descales {
    One,
    PerHead,
    PerSequenceAndHead,
}

/// The e4m3 next to `x`, of two the even one: looked for among all. NaN has one code.
fn e4m3(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7f;
    }
    let value = |code: u16| {
        let (exponent, mantissa) = (i32::from(code >> 3), f64::from(code & 7));
        if exponent == 0 { mantissa * 2f64.powi(-9) } else { (8.0 + mantissa) * 2f64.powi(exponent - 10) }
    };
    let sign = u16::from(x.is_sign_negative()) << 7;
    let magnitude = f64::from(x.abs()).min(value(0x7e));
    let distance = |code: &u16| (value(*code) - magnitude).abs();
    let nearest = (0..=0x7e).min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))));
    sign | nearest.expect("there are some")
}

/// A tensor on the host: rows of heads with a gap after each row.
#[derive(Clone)]
struct Tensor {
    data: Vec<u16>,
    outer: u64,
    row: u64,
    head: u64,
    /// Elements are bytes.
    narrow: bool,
}

impl Tensor {
    fn new(outer: u32, rows: u32, heads: u32, d: u32, packed: bool) -> Self {
        let row = u64::from(heads * d + 8);
        let outer_stride = if packed { 0 } else { u64::from(rows) * row };
        let all = if packed { u64::from(rows) * row } else { u64::from(outer) * outer_stride };
        Tensor { data: vec![POISON; all as usize], outer: outer_stride, row, head: u64::from(d), narrow: false }
    }

    fn at(&self, outer: u32, row: u32, head: u32) -> usize {
        (u64::from(outer) * self.outer + u64::from(row) * self.row + u64::from(head) * self.head) as usize
    }

    fn upload(&self, machine: &mut Machine) -> Rows {
        let address = if self.narrow {
            machine.upload(&self.data.iter().map(|&x| x as u8).collect::<Vec<_>>())
        } else {
            machine.upload(&self.data)
        };
        Rows { base: address as *mut u32, outer: self.outer, row: self.row, head: self.head }
    }

    fn download(&self, machine: &Machine, rows: &Rows) -> Vec<u16> {
        let address = rows.base as u64;
        if self.narrow {
            return machine.bytes(address, self.data.len()).into_iter().map(u16::from).collect();
        }
        machine.halves(address, self.data.len())
    }
}

impl Case {
    fn most(&self) -> u32 {
        self.new.iter().copied().max().unwrap_or(0) as u32
    }

    fn tokens(&self) -> u32 {
        if self.packed { self.new.iter().sum::<i32>() as u32 } else { self.most() * self.new.len() as u32 }
    }

    /// Batch entry and row of a token in the tensors of tokens.
    fn row_of(&self, batch: usize, i: u32) -> (u32, u32) {
        if self.packed { (0, self.new[..batch].iter().sum::<i32>() as u32 + i) } else { (batch as u32, i) }
    }

    fn in_use(&self, batch: usize) -> u32 {
        let room = if self.packed { self.new[batch] } else { self.most() as i32 };
        self.used.as_ref().map_or(room, |used| used[batch].clamp(0, room)) as u32
    }
}

/// Everything that goes in, and what the cache and Q are to be.
struct Data {
    k: Tensor,
    v: Tensor,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Of K, then of V.
    descales: [Vec<f32>; 2],
    pages: Option<Vec<i32>>,
    page_count: u32,
}

impl Data {
    fn new(case: &Case, rng: &mut ChaCha8Rng) -> Self {
        let batch = case.new.len() as u32;
        let rows = if case.packed { case.tokens() } else { case.most() };
        let mut filled = |heads: u32, d: u32| {
            let mut tensor = Tensor::new(batch, rows, heads, d, case.packed);
            tensor.data.iter_mut().for_each(|x| *x = case.precision.to_bits(rng.random_range(-4.0..4.0)));
            tensor
        };
        let (k, v, q) = (filled(case.kv_heads, case.d), filled(case.kv_heads, case.dv), filled(case.heads, case.d));
        let of_sequence = case.page.map_or(1, |page| case.capacity / page);
        let page_count = batch * of_sequence + 3;
        let mut pages: Vec<i32> = (0..page_count as i32).collect();
        pages.shuffle(rng);
        pages.truncate((batch * of_sequence) as usize);
        for (i, page) in pages.iter_mut().take(case.lost * of_sequence as usize).enumerate() {
            *page = [-1, page_count as i32, i32::MAX, i32::MIN][i % 4];
        }
        let (pages, page_count) = if case.page.is_some() { (Some(pages), page_count) } else { (None, batch) };
        let cache = |d| {
            let mut cache = Tensor::new(page_count, case.page.unwrap_or(case.capacity), case.kv_heads, d, false);
            if case.float8.is_some() {
                cache.narrow = true;
                cache.data.iter_mut().for_each(|x| *x &= 0xff);
            }
            cache
        };
        let (k_cache, v_cache) = (cache(case.d), cache(case.dv));
        let round = |x: f32| if case.table_f32 { x } else { case.precision.from_bits(case.precision.to_bits(x)) };
        let angles: Vec<f32> =
            (0..case.positions * case.rotary / 2).map(|_| rng.random_range(0.0..std::f32::consts::TAU)).collect();
        let (cos, sin) = angles.iter().map(|a| (round(a.cos()), round(a.sin()))).unzip();
        let mut factors = || (0..batch * case.kv_heads).map(|_| rng.random_range(0.003..3.0)).collect();
        let descales = [factors(), factors()];
        Data { k, v, q, k_cache, v_cache, cos, sin, descales, pages, page_count }
    }

    /// A row of a head, rotated for a position, in f32.
    fn rotated(&self, case: &Case, x: &[u16], position: u32) -> Vec<f32> {
        let half = case.rotary as usize / 2;
        let mut out: Vec<f32> = x.iter().map(|&x| case.precision.from_bits(x)).collect();
        for i in 0..half {
            let (a, b) = if case.interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
            let (cos, sin) = (self.cos[position as usize * half + i], self.sin[position as usize * half + i]);
            let (u, w) = (case.precision.from_bits(x[a]), case.precision.from_bits(x[b]));
            out[a] = u.mul_add(cos, -(w * sin));
            out[b] = w.mul_add(cos, u * sin);
        }
        out
    }

    /// Elements of a head as the cache of K (0) or V (1) has them.
    fn cached(&self, case: &Case, row: &[f32], which: usize, batch: usize, head: u32) -> Vec<u16> {
        let Some(descales) = case.float8 else { return row.iter().map(|&x| case.precision.to_bits(x)).collect() };
        let factor = match descales {
            Descales::One => 1.0,
            Descales::PerHead => 1.0 / self.descales[which][head as usize],
            Descales::PerSequenceAndHead => 1.0 / self.descales[which][batch * case.kv_heads as usize + head as usize],
        };
        row.iter().map(|&x| e4m3(x * factor)).collect()
    }

    /// The caches and the output of Q by the definition.
    fn expected(&self, case: &Case) -> [Vec<u16>; 3] {
        let (mut k_cache, mut v_cache) = (self.k_cache.clone(), self.v_cache.clone());
        let mut q_out = if case.in_place { self.q.clone() } else { empty(&self.q) };
        for batch in 0..case.new.len() {
            for i in 0..case.in_use(batch) {
                let (outer, row) = case.row_of(batch, i);
                let position = case.before.as_ref().map_or(0, |before| before[batch]).wrapping_add(i as i32) as u32;
                if case.rotary > 0 && position >= case.positions {
                    continue;
                }
                for head in 0..case.heads {
                    let at = self.q.at(outer, row, head);
                    let d = case.d as usize;
                    let row = self.rotated(case, &self.q.data[at..at + d], position);
                    let bits: Vec<u16> = row.iter().map(|&x| case.precision.to_bits(x)).collect();
                    q_out.data[at..at + d].copy_from_slice(&bits);
                }
                if position >= case.capacity {
                    continue;
                }
                let rows = case.page.unwrap_or(case.capacity);
                let page = self.pages.as_ref().map_or(batch as i32, |pages| {
                    pages[batch * (case.capacity / rows) as usize + (position / rows) as usize]
                });
                if !(0..self.page_count as i32).contains(&page) {
                    continue;
                }
                for head in 0..case.kv_heads {
                    let to = k_cache.at(page as u32, position % rows, head);
                    let (from, d) = (self.k.at(outer, row, head), case.d as usize);
                    let row_of_k = self.rotated(case, &self.k.data[from..from + d], position);
                    k_cache.data[to..to + d].copy_from_slice(&self.cached(case, &row_of_k, 0, batch, head));
                    let to = v_cache.at(page as u32, position % rows, head);
                    let (from, d) = (self.v.at(outer, row, head), case.dv as usize);
                    let row_of_v: Vec<f32> =
                        self.v.data[from..from + d].iter().map(|&x| case.precision.from_bits(x)).collect();
                    v_cache.data[to..to + d].copy_from_slice(&self.cached(case, &row_of_v, 1, batch, head));
                }
            }
        }
        [k_cache.data, v_cache.data, q_out.data]
    }

    fn run(&self, case: &Case, arch: Arch, seed: u64) -> Result<[Vec<u16>; 3], String> {
        let mut machine = Machine::new(seed);
        let q = self.q.upload(&mut machine);
        let q_out = if case.in_place { q } else { empty(&self.q).upload(&mut machine) };
        let (k_cache, v_cache) = (self.k_cache.upload(&mut machine), self.v_cache.upload(&mut machine));
        let mut table = |values: &[f32]| -> *const u32 {
            if case.table_f32 {
                return machine.upload(values) as *const u32;
            }
            let bits: Vec<u16> = values.iter().map(|&x| case.precision.to_bits(x)).collect();
            machine.upload(&bits) as *const u32
        };
        let (cos, sin) = (table(&self.cos), table(&self.sin));
        let sums = [0].into_iter().chain(case.new.iter().scan(0, |sum, new| {
            *sum += new;
            Some(*sum)
        }));
        let sums: Vec<i32> = sums.collect();
        let (k_items, v_items) = (append::items(case.d, case.rotary), append::items(case.dv, 0));
        let items = AppendParams::items(k_items, v_items, case.kv_heads, case.heads);
        let mut factors = |which: usize| -> *const f32 {
            let scaled = !matches!(case.float8, None | Some(Descales::One));
            if scaled { machine.upload(&self.descales[which]) as *const f32 } else { ptr::null() }
        };
        let (k_descale, v_descale) = (factors(0), factors(1));
        let mut lengths = |lengths: Option<&Vec<i32>>| -> *const i32 {
            lengths.map_or(ptr::null(), |lengths| machine.upload(lengths) as *const i32)
        };
        let params = AppendParams {
            cu_new: lengths(case.packed.then_some(&sums)),
            used_new: lengths(case.used.as_ref()),
            before: lengths(case.before.as_ref()),
            pages: lengths(self.pages.as_ref()),
            k_descale,
            v_descale,
            descale_stride: u32::from(case.float8 == Some(Descales::PerSequenceAndHead)) * case.kv_heads,
            cache_e4m3: case.float8.is_some().into(),
            k: self.k.upload(&mut machine),
            v: self.v.upload(&mut machine),
            q,
            q_out,
            k_cache,
            v_cache,
            cos,
            sin,
            page_stride: u64::from(case.page.map_or(0, |page| case.capacity / page)),
            table_stride: u64::from(case.rotary / 2),
            parts: Divisor::new(items.div_ceil(THREADS)),
            new: Divisor::new(case.most().max(1)),
            k_items: Divisor::new(k_items),
            v_items: Divisor::new(v_items),
            batch: case.new.len() as u32,
            d: case.d,
            dv: case.dv,
            kv_heads: case.kv_heads,
            heads: case.heads,
            rotary: case.rotary,
            interleaved: case.interleaved.into(),
            table_f32: case.table_f32.into(),
            positions: case.positions,
            capacity: case.capacity,
            page_shift: case.page.map_or(31, u32::ilog2),
            page_count: self.page_count,
        };
        let kernel = if case.precision == Precision::F16 { APPEND_F16 } else { APPEND_BF16 };
        // SAFETY: the struct's fields fill it.
        unsafe { machine.run(&kernel, arch, params.blocks(case.tokens()), 0, &params)? };
        Ok([
            self.k_cache.download(&machine, &k_cache),
            self.v_cache.download(&machine, &v_cache),
            self.q.download(&machine, &q_out),
        ])
    }
}

/// A tensor of the same shape that holds nothing of use.
fn empty(tensor: &Tensor) -> Tensor {
    Tensor { data: vec![POISON; tensor.data.len()], ..tensor.clone() }
}

fn check(case: &Case, seed: u64) {
    let data = Data::new(case, &mut ChaCha8Rng::seed_from_u64(seed));
    agree(case, &data, &data.expected(case), seed);
}

/// Whether every architecture's kernel writes what is expected.
fn agree(case: &Case, data: &Data, expected: &[Vec<u16>; 3], seed: u64) {
    for arch in arches() {
        let found = data.run(case, arch, seed).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        for ((name, found), expected) in ["cache of K", "cache of V", "Q"].into_iter().zip(&found).zip(expected) {
            let differs = (0..expected.len()).find(|&i| found[i] != expected[i]);
            if let Some(i) = differs {
                panic!("{case:?}\n{name}, element {i}: {:#06x}, not {:#06x}", found[i], expected[i]);
            }
        }
    }
}

fn case() -> Case {
    Case {
        precision: Precision::Bf16,
        new: vec![1; 3],
        packed: false,
        used: None,
        before: Some(vec![5, 0, 31]),
        page: None,
        capacity: 48,
        lost: 0,
        kv_heads: 2,
        heads: 4,
        d: 64,
        dv: 64,
        rotary: 64,
        interleaved: false,
        table_f32: true,
        positions: 48,
        in_place: true,
        float8: None,
    }
}

#[test]
fn a_token_of_each_sequence_is_appended() {
    for (i, (d, dv)) in [(64, 64), (128, 128), (192, 128), (72, 8), (256, 256), (8, 40)].into_iter().enumerate() {
        let most = d / 16 * 16;
        for (rotary, interleaved) in [(0, false), (16.min(most), true), (most, false), (most, true)] {
            let precision = if i % 2 == 0 { Precision::Bf16 } else { Precision::F16 };
            let case = Case { precision, d, dv, rotary, interleaved, table_f32: rotary < 64, ..case() };
            check(&case, i as u64);
            check(&Case { page: Some(16), in_place: false, ..case }, 10 + i as u64);
        }
    }
}

#[test]
fn packed_tokens_go_to_their_sequences() {
    let new = vec![3, 0, 17, 1, 0, 40, 0];
    let before = Some(vec![0, 9, 100, 63, 2, 64, 128]);
    let case = Case { new, packed: true, before, capacity: 128, positions: 128, heads: 1, ..case() };
    check(&case, 0);
    for page in [16, 32, 64, 128] {
        check(&Case { page: Some(page), interleaved: true, table_f32: false, ..case.clone() }, u64::from(page));
    }
    check(&Case { before: None, used: Some(vec![2, 0, 30, 0, 5, -1, 7]), ..case }, 1);
}

#[test]
fn many_sequences_are_searched() {
    let new = (0..200).map(|b| b % 3).collect();
    let before = Some((0..200).map(|b| b * 7 % 40).collect());
    check(&Case { new, packed: true, before, heads: 0, d: 16, dv: 16, rotary: 16, page: Some(16), ..case() }, 0);
}

#[test]
fn tokens_without_a_place_are_dropped() {
    // Before the cache, at its end, past it, past the sines.
    let new = vec![4; 6];
    let before = Some(vec![-2, 46, 48, i32::MAX, i32::MIN, 10]);
    let case = Case { new, before, positions: 50, ..case() };
    check(&case, 0);
    check(&Case { page: Some(16), lost: 1, ..case.clone() }, 1);
    check(&Case { page: Some(16), lost: 6, rotary: 0, ..case.clone() }, 2);
    check(&Case { positions: 12, used: Some(vec![4, 4, 4, 4, 4, 3]), ..case }, 3);
}

/// Around the greatest e4m3, where a step is 32, far beyond it, and around the least, 2^-9.
const EDGES: [f32; 16] = [
    415.0,
    416.0,
    432.0,
    434.0,
    447.0,
    448.0,
    449.0,
    463.0,
    464.0,
    466.0,
    480.0,
    900.0,
    60000.0,
    f32::INFINITY,
    0.001,
    0.0029,
];

#[test]
fn what_is_too_large_for_8_bits_becomes_the_greatest_of_them() {
    for (seed, precision) in Precision::ALL.into_iter().enumerate() {
        for (descales, rotary) in [(Descales::One, 0), (Descales::One, 16), (Descales::PerHead, 0)] {
            let case = Case { precision, float8: Some(descales), rotary, heads: 0, page: Some(16), ..case() };
            let mut data = Data::new(&case, &mut ChaCha8Rng::seed_from_u64(seed as u64));
            for tensor in [&mut data.k, &mut data.v] {
                for (i, x) in tensor.data.iter_mut().enumerate() {
                    let edge = EDGES[i / 2 % EDGES.len()];
                    *x = precision.to_bits(if i % 2 == 0 { edge } else { -edge });
                }
                tensor.data[7] = precision.to_bits(f32::NAN);
            }
            data.descales[0][0] = 0.9; // past 448 from 404 on
            data.descales[1][0] = 2.0; // not before 896
            let expected = data.expected(&case);
            for cache in &expected[..2] {
                for code in [0x7e, 0xfe, 0x7f] {
                    assert!(cache.contains(&code), "{precision}, {descales:?}: no {code:#x}");
                }
            }
            agree(&case, &data, &expected, seed as u64);
        }
    }
}

#[test]
fn a_cache_of_8_bit_floats_has_keys_and_values_over_their_descales() {
    for (seed, descales) in [Descales::One, Descales::PerHead, Descales::PerSequenceAndHead].into_iter().enumerate() {
        let case = Case { float8: Some(descales), rotary: 32, ..case() };
        check(&case, seed as u64);
        let precision = Precision::F16;
        check(&Case { precision, d: 72, dv: 24, page: Some(16), interleaved: true, ..case.clone() }, seed as u64);
        check(&Case { rotary: 0, heads: 0, page: Some(32), capacity: 64, ..case }, seed as u64);
    }
}
