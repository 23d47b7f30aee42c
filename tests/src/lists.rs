//! The lists of cases.
//!
//! | list | what it holds |
//! |---|---|
//! | `plain` | every pair of head dimensions, format and mask, at lengths that fill no tile |
//! | `feature` | seeded draws from the product of everything a case can say |
//! | `corner` | unkind ones: tile edges, length 1, rows without keys, grids past 65,535, every input kind, every layout |
//! | `far` | tensors whose offsets pass 32 bits; they need 20 GB of device memory |
//! | `repeat` | run 20 times each, every result bitwise equal |
//! | `sanitizer` | a small case for every kernel, for runs under compute-sanitizer |
//! | `simulator` | small cases for runs on the simulator: every kernel, then shapes, layouts and inputs |
//! | `kernels` | its part that runs kernels by name or by choice: on Hopper those that share their head dimensions, on Blackwell every one |

use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use attn_kernel::forward::{Arch, DType, Family, KERNELS, Kernel};

use crate::case::Case;
use crate::input::Input;
use crate::layout::Layout;
use crate::precision::Precision;

/// A case and the list that it is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// The list's name.
    pub list: &'static str,
    /// The case.
    pub case: Case,
    /// The kernel that runs it, where it is not the launch side's choice. Only on a device of its architecture.
    pub kernel: Option<&'static str>,
}

/// Head dimensions of Q/K and of V/O: each instantiated pair, and ones between them that are filled up with zeros.
pub const WIDTHS: [(usize, usize); 22] = [
    (8, 8),
    (16, 16),
    (24, 24),
    (32, 32),
    (40, 40),
    (64, 64),
    (72, 72),
    (80, 80),
    (96, 96),
    (104, 104),
    (128, 128),
    (136, 136),
    (160, 160),
    (192, 192),
    (200, 200),
    (248, 248),
    (256, 256),
    (192, 128),
    (160, 96),
    (128, 64),
    (32, 128),
    (256, 40),
];

/// One pair for every instantiated kernel.
const INSTANTIATED: [(usize, usize); 7] =
    [(32, 32), (64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256)];

/// Scores that a case of the lists may have, so that its reference takes milliseconds.
const MAX_SCORES: usize = 2_000_000;

/// The lists with a reference to compare with, in the order in which the suite runs them.
pub fn checked() -> Vec<Entry> {
    let lists: [(&'static str, Vec<Case>); 4] =
        [("plain", plain()), ("feature", feature(180)), ("corner", corner()), ("far", far())];
    entries(lists)
}

/// Cases that are run 20 times each.
pub fn repeat() -> Vec<Entry> {
    let mut list = entries([("repeat", every_kernel(2, 8, 1111))]);
    list.extend(siblings().map(|kernel| by_name("repeat", kernel, 2, (8, 4), (1111, 1111))));
    list
}

/// Small cases for every kernel, and the layouts.
pub fn sanitizer() -> Vec<Entry> {
    let layouts = [Layout::Padded, Layout::Packed, Layout::Broadcast];
    let mut cases = every_kernel(1, 2, 200);
    cases.extend(layouts.map(|layout| Case {
        layout,
        batch: 2,
        lse: true,
        causal: true,
        ..Case::new(Precision::Bf16, 77, 64)
    }));
    let mut list = entries([("sanitizer", cases)]);
    list.extend(siblings().map(|kernel| by_name("sanitizer", kernel, 1, (2, 1), (200, 200))));
    list
}

/// Hopper's kernels that have the same head dimensions, format and mask as another, so that the choice between them depends on sizes.
fn siblings() -> impl Iterator<Item = &'static Kernel> {
    let alike = |a: &Kernel, b: &Kernel| {
        (a.arch, a.dtype, a.causal, a.launch.d, a.launch.dv) == (b.arch, b.dtype, b.causal, b.launch.d, b.launch.dv)
    };
    let hoppers = || KERNELS.iter().filter(|kernel| kernel.arch == Arch::Sm90a && kernel.family == Family::Dense);
    hoppers().filter(move |kernel| hoppers().filter(|other| alike(kernel, other)).count() > 1)
}

/// A case that a kernel runs because it is told to.
fn by_name(
    list: &'static str,
    kernel: &Kernel,
    batch: usize,
    (heads, kv_heads): (usize, usize),
    (seqlen_q, seqlen_k): (usize, usize),
) -> Entry {
    let precision = if kernel.dtype == DType::F16 { Precision::F16 } else { Precision::Bf16 };
    let (d, dv) = (kernel.launch.d as usize, kernel.launch.dv as usize);
    let base = Case { batch, heads, kv_heads, seqlen_q, seqlen_k, causal: kernel.causal, ..Case::new(precision, 1, d) };
    Entry { list, case: Case { head_dim_v: dv, lse: true, seed: d as u64, ..base }, kernel: Some(kernel.name) }
}

/// Each of [`siblings`]: a tile for every block and several, tile edges, one query, one key, rows without keys.
pub fn kernels() -> Vec<Entry> {
    let lengths = [(141, 203), (203, 141), (256, 256), (64, 65), (1, 130), (130, 1), (177, 177), (65, 256), (193, 192)];
    let of = |(i, kernel)| {
        let case = move |j: usize| {
            let heads = [(2, 1), (3, 3), (9, 3)][j];
            by_name("kernels", kernel, 1 + j % 2, heads, lengths[(i + 3 * j) % lengths.len()])
        };
        (0..3).map(case)
    };
    siblings().enumerate().flat_map(of).collect()
}

/// The list whose answers are recorded, of the general kernels.
pub const RECORDED: &str = "simulator";

/// The cases of [`RECORDED`] for Hopper.
pub fn recorded() -> Vec<Entry> {
    hopper().into_iter().filter(|entry| entry.list == RECORDED).collect()
}

/// Small cases for the simulator: a case for every kernel of the architecture, then what else a case can say.
pub fn simulator(arch: Arch) -> Vec<Entry> {
    match arch {
        Arch::Sm90a => hopper(),
        _ => blackwell(),
    }
}

fn parsed(lines: &str) -> impl Iterator<Item = Case> {
    lines.lines().map(|line| line.parse::<Case>().unwrap_or_else(|e| panic!("{line}: {e}")))
}

/// Cases of at most 256 queries and keys a head.
fn hopper() -> Vec<Entry> {
    let mut cases = Vec::new();
    for (i, (d, dv)) in INSTANTIATED.into_iter().enumerate() {
        for (j, (precision, causal)) in kinds().enumerate() {
            // Lengths that fill no tile, in turn more queries than keys and more keys than queries.
            let (seqlen_q, seqlen_k) = [(141, 203), (203, 141), (177, 177), (67, 251)][(i + j) % 4];
            let base = Case { heads: 2, seqlen_q, seqlen_k, ..Case::new(precision, 1, d) };
            cases.push(Case { head_dim_v: dv, causal, lse: true, seed: (d + j) as u64, ..base });
        }
    }
    cases.extend(parsed(SMALL));
    let mut list = entries([(RECORDED, cases)]);
    list.extend(kernels());
    list
}

/// Every kernel: three heads make tiles of 256 rows the choice for the four multiprocessors that are simulated, few queries those of
/// 128. Then groups of every kind of size, with which heads are packed, and [`SMALL_BLACKWELL`].
fn blackwell() -> Vec<Entry> {
    let mut kernels = Vec::new();
    for (i, (d, dv)) in [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)].into_iter().enumerate() {
        for (j, (precision, causal)) in kinds().enumerate() {
            let (seqlen_q, seqlen_k) = [(141, 203), (203, 141), (177, 177), (150, 413)][(i + j) % 4];
            let base = Case { heads: 3, kv_heads: [3, 1][i % 2], seqlen_q, ..Case::new(precision, seqlen_k, d) };
            let tall = Case { head_dim_v: dv, causal, lse: true, seed: (d + j) as u64, ..base };
            kernels.push(tall);
            if [64, 128, 192].contains(&d) {
                let seqlen_q = [100, 31, 128, 1][(i + j) % 4];
                kernels.push(Case { heads: 2, kv_heads: 1, seqlen_q, seqlen_k: seqlen_k + 100, ..tall });
            }
        }
    }
    let groups = [(1, 1), (2, 2), (3, 1), (4, 1), (6, 1), (8, 1), (7, 1), (16, 1), (12, 2), (8, 4)];
    let packs = groups.into_iter().enumerate().map(|(i, (heads, kv_heads))| {
        let (precision, causal) = (Precision::ALL[i % 2], i % 3 != 0);
        let (seqlen_q, seqlen_k) = [(37, 129), (130, 40), (65, 256), (9, 300)][i % 4];
        Case { heads, kv_heads, seqlen_q, causal, lse: true, seed: i as u64, ..Case::new(precision, seqlen_k, 64) }
    });
    let widths = (8..=128).step_by(8).enumerate().map(|(i, d)| {
        let (precision, causal) = (Precision::ALL[i / 2 % 2], i % 2 == 0);
        let layout = Layout::ALL[[0, 1, 2][i % 3]];
        Case { batch: 2, heads: 2, layout, causal, lse: true, kv_heads: 2, ..Case::new(precision, 130, d) }
    });
    let rest = packs.chain(widths).chain(parsed(SMALL)).chain(parsed(SMALL_BLACKWELL)).collect();
    entries([("kernels", kernels), (RECORDED, rest)])
}

fn entries<const N: usize>(lists: [(&'static str, Vec<Case>); N]) -> Vec<Entry> {
    lists
        .into_iter()
        .flat_map(|(list, cases)| cases.into_iter().map(move |case| Entry { list, case, kernel: None }))
        .collect()
}

/// The kinds of input of the lists for a GPU.
fn inputs() -> impl Iterator<Item = Input> {
    Input::ALL.iter().copied().filter(|input| *input != Input::Infinity)
}

/// The layouts whose allocations are no larger than their tensors.
fn near_layouts() -> impl Iterator<Item = Layout> {
    Layout::ALL.iter().copied().filter(|layout| *layout != Layout::Far)
}

/// Every precision with every mask.
fn kinds() -> impl Iterator<Item = (Precision, bool)> {
    Precision::ALL.into_iter().flat_map(|p| [(p, false), (p, true)])
}

fn every_kernel(batch: usize, heads: usize, seqlen: usize) -> Vec<Case> {
    let of = |(d, dv), (precision, causal)| Case {
        batch,
        heads,
        kv_heads: heads / 2,
        head_dim_v: dv,
        causal,
        lse: true,
        seed: (d + dv) as u64,
        ..Case::new(precision, seqlen, d)
    };
    INSTANTIATED.into_iter().flat_map(|widths| kinds().map(move |kind| of(widths, kind))).collect()
}

fn plain() -> Vec<Case> {
    let lengths = [333, 200, 257, 391, 129, 300, 411];
    let mut cases = Vec::new();
    for (d, dv) in WIDTHS {
        for (precision, causal) in kinds() {
            let seed = cases.len();
            let base = Case::new(precision, lengths[seed % lengths.len()], d);
            let kv_heads = [3, 1][seed / 4 % 2];
            cases.push(Case {
                batch: 2,
                heads: 3,
                kv_heads,
                head_dim_v: dv,
                causal,
                lse: true,
                seed: seed as u64,
                ..base
            });
        }
    }
    cases
}

/// Draws until enough of them are possible and small enough.
fn feature(count: usize) -> Vec<Case> {
    let mut rng = ChaCha8Rng::seed_from_u64(20);
    let mut cases = Vec::new();
    while cases.len() < count {
        let case = draw(&mut rng, cases.len() as u64);
        if case.scores() <= MAX_SCORES && case.checked().is_ok() {
            cases.push(case);
        }
    }
    cases
}

fn draw(rng: &mut ChaCha8Rng, seed: u64) -> Case {
    let layout = near_layouts().choose(rng).expect("not empty");
    let pick = |rng: &mut ChaCha8Rng, from: &[usize]| *from.choose(rng).expect("not empty");
    let (head_dim, head_dim_v) = *WIDTHS.choose(rng).expect("not empty");
    // Lengths spread evenly over magnitudes, 1 to 1100.
    let length = |rng: &mut ChaCha8Rng| rng.random_range(0.0..(1100f64).ln()).exp().round() as usize;
    let (seqlen_q, other) = (length(rng), length(rng));
    let kv_heads = pick(rng, &[1, 1, 2, 3, 5]);
    Case {
        precision: *Precision::ALL.choose(rng).expect("not empty"),
        batch: pick(rng, &[1, 2, 3, 5]),
        heads: kv_heads * pick(rng, &[1, 1, 2, 3, 4, 8]),
        kv_heads,
        seqlen_q,
        seqlen_k: if rng.random_bool(0.3) { seqlen_q } else { other },
        head_dim,
        head_dim_v,
        causal: rng.random(),
        lse: rng.random_bool(0.7),
        scale: rng.random_bool(0.3).then(|| (rng.random_range(2..20) as f32) / 100.0),
        layout,
        input: inputs().choose(rng).expect("not empty"),
        seed,
    }
}

fn corner() -> Vec<Case> {
    let mut cases = tile_edges();
    for (i, input) in inputs().enumerate() {
        for (precision, causal) in kinds() {
            let (d, dv) = INSTANTIATED[(i + usize::from(causal)) % INSTANTIATED.len()];
            let base = Case::new(precision, 460, d);
            cases.push(Case { batch: 2, heads: 2, kv_heads: 2, head_dim_v: dv, causal, lse: true, input, ..base });
        }
    }
    for layout in near_layouts() {
        for (precision, causal) in kinds() {
            for d in [64, 128, 72] {
                let base = Case { layout, causal, lse: true, ..Case::new(precision, 201, d) };
                cases.push(Case { batch: 3, heads: 4, kv_heads: 2, seed: d as u64, ..base });
            }
        }
    }
    cases.extend(parsed(UNKIND));
    cases
}

/// Lengths around multiples of every tile size, alone and against each other.
fn tile_edges() -> Vec<Case> {
    let edges = [1, 2, 63, 64, 65, 79, 80, 81, 95, 97, 127, 128, 129, 175, 176, 177, 191, 192, 193, 255, 257, 352, 385];
    let mut cases = Vec::new();
    for (i, n) in edges.into_iter().enumerate() {
        for (j, (d, causal)) in [(64, true), (128, false), (256, i % 2 == 0)].into_iter().enumerate() {
            let seqlen_k = if j == 2 { edges[edges.len() - 1 - i] } else { n };
            let base = Case::new(Precision::ALL[(i + j) % 2], n, d);
            cases.push(Case { heads: 2, kv_heads: 1, seqlen_k, causal, lse: true, seed: n as u64, ..base });
        }
    }
    cases
}

fn far() -> Vec<Case> {
    [
        "bf16 b=3 h=4 hk=2 sq=130 sk=200 d=64 dv=64 causal lse layout=far",
        "f16 b=3 h=2 hk=2 sq=200 sk=130 d=128 dv=128 lse layout=far",
    ]
    .map(|line| line.parse().expect("valid"))
    .into()
}

/// Grids past 65,535, decoding shapes, rows without keys, more heads than share L2, lone scales, large groups, long rows.
const UNKIND: &str = "\
bf16 b=66000 h=1 hk=1 sq=1 sk=3 d=8 dv=8 lse
f16 b=1 h=66000 hk=66000 sq=2 sk=2 d=16 dv=16 causal lse
bf16 b=1 h=66000 hk=1 sq=1 sk=5 d=32 dv=32 lse layout=bhsd
bf16 b=1 h=8 hk=1 sq=1 sk=100003 d=128 dv=128 lse
f16 b=1 h=4 hk=4 sq=1 sk=65537 d=64 dv=64 causal lse
bf16 b=2 h=4 hk=2 sq=3 sk=40000 d=96 dv=96 causal lse
bf16 b=1 h=2 hk=2 sq=20011 sk=5 d=64 dv=64 causal lse
f16 b=1 h=2 hk=2 sq=30000 sk=1 d=128 dv=128 lse
bf16 b=1 h=1 hk=1 sq=1 sk=1 d=8 dv=8 lse
f16 b=1 h=1 hk=1 sq=1 sk=1 d=256 dv=256 causal lse
bf16 b=2 h=2 hk=2 sq=700 sk=200 d=128 dv=128 causal lse
f16 b=2 h=2 hk=2 sq=700 sk=200 d=64 dv=64 causal lse layout=padded
bf16 b=1 h=3 hk=3 sq=513 sk=129 d=192 dv=128 causal lse
f16 b=1 h=3 hk=3 sq=640 sk=1 d=256 dv=256 causal lse
bf16 b=1 h=4 hk=4 sq=100 sk=1000 d=128 dv=128 causal lse
f16 b=1 h=4 hk=4 sq=64 sk=1063 d=64 dv=64 causal lse
bf16 b=1 h=71 hk=1 sq=65 sk=130 d=64 dv=64 causal lse
f16 b=2 h=40 hk=8 sq=150 sk=150 d=128 dv=128 causal lse
bf16 b=1 h=300 hk=300 sq=40 sk=130 d=256 dv=256 causal lse
bf16 b=2 h=9 hk=3 sq=200 sk=320 d=128 dv=128 lse layout=sbhd
bf16 b=1 h=2 hk=2 sq=300 sk=300 d=64 dv=64 lse scale=1
f16 b=1 h=2 hk=2 sq=300 sk=300 d=128 dv=128 causal lse scale=0.001
bf16 b=1 h=2 hk=2 sq=1024 sk=900 d=128 dv=128 causal lse input=rising
f16 b=1 h=2 hk=2 sq=900 sk=1024 d=64 dv=64 causal lse input=creeping
bf16 b=1 h=2 hk=2 sq=900 sk=1024 d=256 dv=256 lse input=rising
f16 b=1 h=2 hk=2 sq=1000 sk=1000 d=128 dv=128 lse input=falling
f16 b=1 h=2 hk=2 sq=900 sk=1100 d=64 dv=64 causal lse input=sinking
bf16 b=1 h=2 hk=2 sq=700 sk=1024 d=128 dv=128 lse input=sinking
f16 b=1 h=2 hk=2 sq=300 sk=900 d=96 dv=96 lse input=sinking
bf16 b=1 h=2 hk=2 sq=300 sk=700 d=256 dv=256 causal lse input=sinking
f16 b=1 h=2 hk=2 sq=500 sk=900 d=128 dv=128 causal lse input=spike
bf16 b=1 h=2 hk=2 sq=400 sk=800 d=64 dv=64 lse input=spike
f16 b=1 h=1 hk=1 sq=300 sk=600 d=192 dv=128 lse input=spike
bf16 b=1 h=1 hk=1 sq=300 sk=500 d=32 dv=32 lse input=spike
bf16 b=2 h=3 hk=1 sq=700 sk=350 d=64 dv=64 causal lse input=neginf
f16 b=2 h=3 hk=1 sq=350 sk=700 d=128 dv=128 lse input=neginf layout=padded
bf16 b=2 h=2 hk=2 sq=200 sk=200 d=32 dv=32 lse input=nan
f16 b=1 h=2 hk=2 sq=300 sk=260 d=32 dv=32 causal lse input=nan
bf16 b=2 h=4 hk=2 sq=190 sk=300 d=64 dv=64 lse input=nan
f16 b=2 h=2 hk=1 sq=300 sk=200 d=128 dv=128 causal lse input=nan
bf16 b=2 h=2 hk=2 sq=190 sk=190 d=40 dv=40 causal lse input=negative layout=padded
f16 b=1 h=2 hk=2 sq=177 sk=177 d=136 dv=136 lse input=negative
bf16 b=2 h=2 hk=2 sq=190 sk=33 d=200 dv=200 lse input=negative layout=packedkv
bf16 b=1 h=12 hk=12 sq=331 sk=331 d=32 dv=32 lse input=minilm
bf16 b=1 h=12 hk=12 sq=331 sk=331 d=32 dv=32 causal lse input=minilm
f16 b=1 h=12 hk=12 sq=331 sk=331 d=32 dv=32 lse input=minilm layout=packed
bf16 b=4 h=2 hk=2 sq=1 sk=500 d=128 dv=128 causal lse layout=broadcast
bf16 b=2 h=2 hk=2 sq=250 sk=250 d=64 dv=64 causal
f16 b=2 h=2 hk=2 sq=250 sk=250 d=128 dv=128";

/// What the simulator's cases for every kernel leave out: blocks that walk several tiles, tile edges, length 1, narrow and
/// uneven head dimensions, layouts, scales, rows without keys, inputs that move the maximum.
const SMALL: &str = "\
bf16 b=2 h=6 hk=2 sq=130 sk=130 d=64 dv=64 causal lse
f16 b=3 h=4 hk=1 sq=65 sk=97 d=32 dv=32 lse
bf16 b=1 h=1 hk=1 sq=1 sk=1 d=8 dv=8 lse
f16 b=1 h=2 hk=1 sq=1 sk=256 d=128 dv=128 causal lse
bf16 b=1 h=1 hk=1 sq=256 sk=1 d=64 dv=64 lse
bf16 b=1 h=1 hk=1 sq=192 sk=256 d=128 dv=128 causal lse
f16 b=1 h=1 hk=1 sq=256 sk=128 d=128 dv=128 causal lse
f16 b=1 h=1 hk=1 sq=128 sk=176 d=64 dv=64
bf16 b=1 h=2 hk=2 sq=100 sk=77 d=24 dv=40 lse
f16 b=1 h=1 hk=1 sq=90 sk=110 d=72 dv=16 causal lse
bf16 b=1 h=1 hk=1 sq=70 sk=130 d=248 dv=200 lse
bf16 b=2 h=2 hk=2 sq=90 sk=90 d=64 dv=64 causal lse layout=padded
f16 b=2 h=2 hk=2 sq=90 sk=90 d=128 dv=128 lse layout=packed
bf16 b=2 h=2 hk=1 sq=66 sk=131 d=40 dv=40 causal lse layout=packedkv
bf16 b=2 h=2 hk=2 sq=80 sk=129 d=32 dv=32 lse layout=broadcast
f16 b=2 h=2 hk=1 sq=63 sk=65 d=64 dv=64 lse layout=bhsd
bf16 b=2 h=2 hk=1 sq=64 sk=66 d=96 dv=96 causal layout=sbhd
bf16 b=1 h=1 hk=1 sq=130 sk=256 d=128 dv=128 lse input=rising
f16 b=1 h=1 hk=1 sq=130 sk=256 d=64 dv=64 causal lse input=creeping
bf16 b=1 h=1 hk=1 sq=130 sk=256 d=32 dv=32 lse input=falling
f16 b=1 h=1 hk=1 sq=70 sk=250 d=64 dv=64 lse scale=0.4 input=sinking
bf16 b=1 h=1 hk=1 sq=70 sk=256 d=128 dv=128 causal lse input=sinking
f16 b=1 h=1 hk=1 sq=70 sk=200 d=32 dv=32 lse input=spike
bf16 b=1 h=1 hk=1 sq=66 sk=250 d=256 dv=256 lse input=spike
bf16 b=1 h=2 hk=2 sq=100 sk=200 d=64 dv=64 lse input=neginf
f16 b=1 h=1 hk=1 sq=100 sk=130 d=128 dv=128 lse input=large scale=0.3
bf16 b=1 h=2 hk=1 sq=77 sk=33 d=64 dv=64 lse input=negative layout=padded
f16 b=1 h=12 hk=12 sq=33 sk=65 d=32 dv=32 causal lse input=minilm";

/// Lengths around multiples of Blackwell's tiles, blocks of one and of several tiles, narrow and uneven head dimensions at 256, every
/// kind of input, rows without keys.
const SMALL_BLACKWELL: &str = "\
bf16 b=1 h=3 hk=3 sq=255 sk=127 d=128 dv=128 causal lse
f16 b=1 h=3 hk=3 sq=256 sk=128 d=128 dv=128 causal lse
bf16 b=1 h=3 hk=3 sq=257 sk=129 d=128 dv=128 causal lse
f16 b=1 h=3 hk=3 sq=257 sk=257 d=64 dv=64 causal lse
bf16 b=1 h=3 hk=1 sq=383 sk=385 d=64 dv=64 lse
f16 b=1 h=1 hk=1 sq=513 sk=511 d=128 dv=128 causal lse
bf16 b=2 h=3 hk=3 sq=128 sk=512 d=128 dv=128 lse
bf16 b=2 h=5 hk=5 sq=260 sk=130 d=64 dv=64 lse
f16 b=2 h=5 hk=5 sq=300 sk=300 d=64 dv=64 causal lse
bf16 b=3 h=4 hk=2 sq=90 sk=200 d=128 dv=128 lse
f16 b=3 h=6 hk=3 sq=60 sk=140 d=192 dv=128 lse
bf16 b=2 h=8 hk=2 sq=50 sk=150 d=256 dv=256 lse
f16 b=2 h=6 hk=6 sq=140 sk=140 d=256 dv=256 causal lse
bf16 b=1 h=16 hk=1 sq=20 sk=200 d=128 dv=128 causal lse
bf16 b=1 h=128 hk=1 sq=3 sk=150 d=64 dv=64 causal lse
f16 b=1 h=256 hk=1 sq=2 sk=130 d=64 dv=64 lse
bf16 b=2 h=24 hk=2 sq=40 sk=40 d=64 dv=64 causal lse layout=padded
bf16 b=1 h=3 hk=3 sq=300 sk=100 d=128 dv=128 causal lse
f16 b=1 h=3 hk=3 sq=400 sk=1 d=64 dv=64 causal lse
bf16 b=1 h=8 hk=1 sq=300 sk=20 d=128 dv=128 causal lse
f16 b=1 h=2 hk=2 sq=300 sk=150 d=256 dv=256 causal lse
bf16 b=1 h=1 hk=1 sq=200 sk=700 d=192 dv=128 causal lse
bf16 b=1 h=1 hk=1 sq=70 sk=1025 d=128 dv=128 lse
f16 b=1 h=3 hk=3 sq=130 sk=1000 d=64 dv=64 lse
bf16 b=1 h=1 hk=1 sq=130 sk=200 d=136 dv=136 causal lse
f16 b=1 h=1 hk=1 sq=100 sk=140 d=160 dv=72 lse
bf16 b=1 h=2 hk=1 sq=66 sk=131 d=200 dv=8 causal lse layout=padded
f16 b=1 h=1 hk=1 sq=130 sk=130 d=32 dv=192 lse
bf16 b=1 h=3 hk=3 sq=130 sk=300 d=64 dv=64 lse
f16 b=1 h=3 hk=3 sq=130 sk=300 d=128 dv=128
bf16 b=1 h=3 hk=3 sq=150 sk=600 d=128 dv=128 causal lse input=rising
f16 b=1 h=3 hk=3 sq=150 sk=600 d=64 dv=64 lse input=creeping
bf16 b=1 h=3 hk=3 sq=150 sk=600 d=128 dv=128 lse input=falling
f16 b=1 h=1 hk=1 sq=100 sk=600 d=256 dv=256 lse input=rising
bf16 b=1 h=1 hk=1 sq=100 sk=600 d=128 dv=128 lse input=creeping
bf16 b=2 h=3 hk=3 sq=150 sk=300 d=128 dv=128 causal lse input=neginf
f16 b=1 h=2 hk=2 sq=100 sk=300 d=64 dv=64 lse input=neginf
bf16 b=1 h=1 hk=1 sq=100 sk=300 d=256 dv=256 causal lse input=neginf
bf16 b=1 h=3 hk=3 sq=200 sk=300 d=128 dv=128 causal lse input=nan
f16 b=1 h=2 hk=2 sq=100 sk=200 d=64 dv=64 lse input=nan
bf16 b=1 h=3 hk=3 sq=200 sk=140 d=64 dv=64 causal lse input=inf
f16 b=1 h=2 hk=2 sq=100 sk=200 d=128 dv=128 lse input=inf
f16 b=1 h=3 hk=3 sq=150 sk=300 d=128 dv=128 lse input=large scale=1
bf16 b=1 h=2 hk=2 sq=100 sk=300 d=64 dv=64 causal lse input=large scale=1
bf16 b=1 h=3 hk=3 sq=150 sk=150 d=64 dv=64 lse scale=0.0001
f16 b=1 h=3 hk=3 sq=150 sk=150 d=128 dv=128 causal lse input=onehot
bf16 b=1 h=3 hk=3 sq=200 sk=33 d=64 dv=64 lse input=negative layout=padded
f16 b=1 h=2 hk=2 sq=90 sk=300 d=96 dv=96 lse input=constant
bf16 b=1 h=12 hk=12 sq=331 sk=331 d=32 dv=32 lse input=minilm
bf16 b=1 h=12 hk=12 sq=331 sk=331 d=32 dv=32 causal lse input=minilm";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_are_at_least_three_hundred_different_cases() {
        let lines: HashSet<String> = checked().iter().map(|e| e.case.to_string()).collect();
        assert!(lines.len() >= 300, "{}", lines.len());
        assert_eq!(lines.len(), checked().len(), "no case is listed twice");
    }

    #[test]
    fn every_case_is_possible_small_and_prints_back() {
        for Entry { case, .. } in checked().into_iter().chain(repeat()).chain(sanitizer()).chain(simulator(Arch::Sm90a))
        {
            assert_eq!(case.to_string().parse(), Ok(case));
            assert!(case.head_dim.is_multiple_of(8) && case.head_dim_v.is_multiple_of(8), "{case}");
        }
        assert!(checked().iter().all(|e| e.case.scores() <= MAX_SCORES));
        assert!(simulator(Arch::Sm90a).iter().all(|e| e.case.seqlen_q <= 256 && e.case.seqlen_k <= 256));
    }

    #[test]
    fn features_meet_each_other() {
        let cases: Vec<Case> = checked().iter().map(|e| e.case).collect();
        let met = |what: &str, test: &dyn Fn(&Case) -> bool| assert!(cases.iter().any(test), "no case has {what}");
        for (precision, causal) in kinds() {
            let kind = |c: &Case| c.precision == precision && c.causal == causal;
            for layout in near_layouts() {
                met(&format!("{precision} causal={causal} {layout}"), &|c| kind(c) && c.layout == layout);
            }
            for input in inputs() {
                met(&format!("{precision} causal={causal} {input}"), &|c| kind(c) && c.input == input);
            }
            for widths in WIDTHS {
                met(&format!("{precision} causal={causal} {widths:?}"), &|c| {
                    kind(c) && (c.head_dim, c.head_dim_v) == widths
                });
            }
            met("GQA", &|c| kind(c) && c.kv_heads > 1 && c.kv_heads < c.heads);
            met("MQA", &|c| kind(c) && c.kv_heads == 1 && c.heads > 1);
            met("a scale", &|c| kind(c) && c.scale.is_some());
            met("no LSE", &|c| kind(c) && !c.lse);
            met("more queries than keys", &|c| kind(c) && c.seqlen_q > c.seqlen_k);
            met("more keys than queries", &|c| kind(c) && c.seqlen_q < c.seqlen_k);
        }
    }

    #[test]
    fn the_reduced_lists_reach_every_kernel() {
        for kernel in KERNELS.iter().filter(|kernel| kernel.family == Family::Dense) {
            for list in [repeat(), sanitizer(), simulator(kernel.arch)] {
                let named = siblings().any(|sibling| sibling.name == kernel.name);
                let reached = list.iter().any(|Entry { case, kernel: name, .. }| {
                    case.precision.dtype() == kernel.dtype
                        && case.causal == kernel.causal
                        && (case.head_dim, case.head_dim_v) == (kernel.launch.d as usize, kernel.launch.dv as usize)
                        && (!named || *name == Some(kernel.name))
                });
                assert!(reached, "no case runs {}", kernel.name);
            }
        }
    }
}
