//! TMA boxes at the edges of tensors, and bulk copies.

use rand::Rng;

use super::values::{self, Kind};
use super::{Agreement, Arg, Map, Probe};

/// Shared memory for a box, behind which its barrier lies.
const BOX_BYTES: u32 = 16 * 1024;
const SHARED: u32 = BOX_BYTES + 16;
/// Words behind a box that a load must leave alone.
const BEHIND: u32 = 16;

/// What a box holds; the codes are the driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    U8 = 0,
    U16 = 1,
    U32 = 2,
    S32 = 3,
    F16 = 6,
    F32 = 7,
    Bf16 = 9,
}

impl Data {
    fn bytes(self) -> u64 {
        match self {
            Data::U8 => 1,
            Data::U16 | Data::F16 | Data::Bf16 => 2,
            Data::U32 | Data::S32 | Data::F32 => 4,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Data::F16 => Kind::Half,
            Data::Bf16 => Kind::Brain,
            Data::F32 => Kind::Float,
            _ => Kind::Int,
        }
    }
}

/// A tensor, a box and where it goes.
#[derive(Clone, Debug)]
struct Shape {
    data: Data,
    dims: Vec<u64>,
    tile: Vec<u32>,
    steps: Vec<u32>,
    at: Vec<i32>,
    swizzle: u32,
    nan_fill: bool,
}

impl Shape {
    fn new(data: Data, dims: &[u64], tile: &[u32], at: &[i32], swizzle: u32) -> Self {
        let (dims, tile, at) = (dims.to_vec(), tile.to_vec(), at.to_vec());
        Shape { data, steps: vec![1; tile.len()], dims, tile, at, swizzle, nan_fill: false }
    }

    fn name(&self, what: &str) -> String {
        let fill = if self.nan_fill { " nan" } else { "" };
        let steps = if self.steps.iter().all(|s| *s == 1) { String::new() } else { format!(" steps {:?}", self.steps) };
        format!(
            "tma {what} {:?} tensor {:?} box {:?}{steps} at {:?} swizzle {}{fill}",
            self.data, self.dims, self.tile, self.at, self.swizzle
        )
    }

    /// Rows are padded to 16 bytes and 16 more, so that the gaps show what a store leaves alone.
    fn strides(&self) -> Vec<u64> {
        let mut stride = (self.dims[0] * self.data.bytes()).next_multiple_of(16) + 16;
        let mut strides = Vec::new();
        for dim in &self.dims[1..] {
            strides.push(stride);
            stride *= dim;
        }
        strides
    }

    fn tensor_words(&self) -> usize {
        let last = self.dims.len() - 1;
        let bytes =
            if last == 0 { self.dims[0] * self.data.bytes() } else { self.strides()[last - 1] * self.dims[last] };
        (bytes.next_multiple_of(16) / 4) as usize
    }

    fn box_bytes(&self) -> u32 {
        let elements: u32 = self.tile.iter().zip(&self.steps).map(|(t, s)| t.div_ceil(*s)).product();
        elements * self.data.bytes() as u32
    }

    /// Bytes that the box lies in: its rows are a whole span of the swizzle apart.
    fn image_bytes(&self) -> u32 {
        let row = self.tile[0] * self.data.bytes() as u32;
        self.box_bytes() / row * if self.swizzle == 0 { row } else { 16 << self.swizzle }
    }

    fn map(&self, buffer: usize) -> Arg {
        Arg::Map(Map {
            buffer,
            data_type: self.data as u32,
            dims: self.dims.clone(),
            strides: self.strides(),
            tile: self.tile.clone(),
            steps: self.steps.clone(),
            swizzle: self.swizzle,
            nan_fill: self.nan_fill,
        })
    }

    /// The box that starts at a multiple of 16 bytes of its row, at or before this one: TMA executes no other.
    fn aligned(&self) -> Shape {
        let step = (16 / self.data.bytes()) as i32;
        let mut shape = self.clone();
        shape.at[0] = self.at[0].div_euclid(step) * step;
        shape
    }

    fn coordinates(&self) -> impl Iterator<Item = Arg> + '_ {
        (0..5).map(|i| Arg::Word(self.at.get(i).copied().unwrap_or(0) as u32))
    }

    fn values(&self, what: &str, words: usize) -> Vec<u32> {
        values::triples(&format!("{what} {:?}", self), self.data.kind(), words)[0].clone()
    }

    fn load(&self) -> Probe {
        let mut args = vec![
            Arg::Input(self.values("tensor", self.tensor_words())),
            Arg::Output(vec![0; (self.box_bytes() / 4 + BEHIND) as usize]),
            self.map(0),
            Arg::Word(self.box_bytes()),
        ];
        args.extend(self.coordinates());
        self.probe("load", load_module(self.dims.len()), args)
    }

    /// `op` is none for a store, or a reduction.
    fn store(&self, op: Option<&str>) -> Probe {
        let mut image = self.values("box", self.box_bytes() as usize / 4);
        image.resize(self.image_bytes() as usize / 4, 0);
        let mut args = vec![
            Arg::Input(image),
            Arg::Output(self.values("tensor", self.tensor_words())),
            self.map(1),
            Arg::Word(self.image_bytes()),
        ];
        args.extend(self.coordinates());
        let what = op.map_or("store".to_owned(), |op| format!("reduce {op}"));
        self.probe(&what, store_module(self.dims.len(), op), args)
    }

    /// A prefetch, which can be seen by what it refuses.
    fn prefetch(&self) -> Probe {
        let mut probe = self.store(None);
        let rank = self.dims.len();
        let c = coordinates(rank);
        let from = format!("cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [m, {{{c}}}], [base];");
        let to = format!("cp.async.bulk.prefetch.tensor.{rank}d.L2.global.tile [m, {{{c}}}];");
        probe.ptx = probe.ptx.replace(&from, &to);
        probe.name = self.name("prefetch");
        probe
    }

    fn probe(&self, what: &str, ptx: String, args: Vec<Arg>) -> Probe {
        Probe { name: self.name(what), ptx, grid: 1, block: 32, shared: SHARED, args, agreement: Agreement::Bits }
    }
}

/// Copies the box, or with `behind` some more, between shared memory and the buffer `p`.
fn image(p: &str, load: bool, behind: u32) -> String {
    let body = if load {
        "ld.global.b32 value, [offset];
    st.shared.b32 [cell], value;"
    } else {
        "ld.shared.b32 value, [cell];
    st.global.b32 [offset], value;"
    };
    format!(
        "ld.param.u64 x, [{p}];
    shr.u32 end, size, 2;
    add.u32 end, end, {behind};
    mov.u32 word, thread;
{p}_loop:
    setp.ge.u32 p, word, end;
    @p bra {p}_end;
    mul.wide.u32 offset, word, 4;
    add.u64 offset, x, offset;
    mad.lo.u32 cell, word, 4, base;
    {body}
    add.u32 word, word, 32;
    bra {p}_loop;
{p}_end:"
    )
}

/// Parameters: two buffers, a map, the box's bytes, five coordinates. `source` and `target` are the buffers.
fn module(body: &str) -> String {
    format!(
        ".version 8.3
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 shared[];
.visible .entry probe(.param .u64 source, .param .u64 target, .param .align 64 .b8 map[128], .param .u32 bytes,
    .param .u32 at0, .param .u32 at1, .param .u32 at2, .param .u32 at3, .param .u32 at4)
.reqntid 32, 1, 1
{{
    .reg .pred p, leader;
    .reg .b32 base, bar, cell, word, thread, value, size, end, c<5>;
    .reg .b64 x, offset, m;
    mov.u32 thread, %tid.x;
    setp.eq.u32 leader, thread, 0;
    mov.u32 base, shared;
    add.u32 bar, base, {BOX_BYTES};
    mov.b64 m, map;
    cvta.param.u64 m, m;
    ld.param.u32 size, [bytes];
    ld.param.u32 c0, [at0];
    ld.param.u32 c1, [at1];
    ld.param.u32 c2, [at2];
    ld.param.u32 c3, [at3];
    ld.param.u32 c4, [at4];
    {body}
    ret;
}}
"
    )
}

fn coordinates(rank: usize) -> String {
    (0..rank).map(|i| format!("c{i}")).collect::<Vec<_>>().join(", ")
}

/// Clears shared memory, loads the box, and writes shared memory out as it lies.
fn load_module(rank: usize) -> String {
    let clear = format!(
        "mov.u32 word, thread;
clear:
    mad.lo.u32 cell, word, 4, base;
    st.shared.b32 [cell], 0xabcdabcd;
    add.u32 word, word, 32;
    setp.lt.u32 p, word, {};
    @p bra clear;
    @leader mbarrier.init.shared::cta.b64 [bar], 1;
    fence.proxy.async.shared::cta;
    bar.sync 0;",
        BOX_BYTES / 4
    );
    module(&format!(
        "{clear}
    @leader mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], size;
    @leader cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [base], [m, {{{}}}], [bar];
    {WAIT}
    {}",
        coordinates(rank),
        image("target", false, BEHIND)
    ))
}

const WAIT: &str = "wait:
    mbarrier.try_wait.parity.shared::cta.b64 p, [bar], 0;
    @!p bra wait;";

/// Fills shared memory and stores the box from it.
fn store_module(rank: usize, op: Option<&str>) -> String {
    let c = coordinates(rank);
    let copy = match op {
        None => format!("cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [m, {{{c}}}], [base];"),
        Some(op) => {
            format!("cp.reduce.async.bulk.tensor.{rank}d.global.shared::cta.{op}.tile.bulk_group [m, {{{c}}}], [base];")
        }
    };
    module(&format!(
        "{}
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @leader {copy}
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;",
        image("source", true, 0)
    ))
}

/// Reductions of tensors, with what they are recorded for.
const REDUCTIONS: &[(Data, &[&str])] = &[
    (Data::U32, &["add", "min", "max", "inc", "dec", "and", "or", "xor"]),
    (Data::S32, &["add", "min", "max"]),
    (Data::F32, &["add"]),
    (Data::F16, &["add", "min", "max"]),
    (Data::Bf16, &["add", "min", "max"]),
];

/// The probes of this module.
pub fn probes() -> Vec<Probe> {
    let mut probes: Vec<Probe> = edges().iter().map(Shape::load).collect();
    let mut rng = values::rng("boxes drawn at random");
    probes.extend((0..24).map(|_| drawn(&mut rng).load()));
    probes.extend(edges().iter().filter(|s| !s.nan_fill && s.steps.iter().all(|s| *s == 1)).map(|s| s.store(None)));
    for (data, ops) in REDUCTIONS {
        for op in *ops {
            probes.push(Shape::new(*data, &[24, 7], &[16, 8], &[-3, 2], 0).store(Some(op)));
        }
        probes.push(Shape::new(*data, &[40, 5, 3], &[8, 4, 2], &[36, 3, 2], 1).store(Some("add")));
    }
    probes.extend([16, 4096].map(bulk_load));
    probes.extend(bulk_stores());
    probes.extend(aligned());
    probes
}

/// The boxes that start inside 16 bytes once more from their beginning, and stores on every side of a tensor.
fn aligned() -> Vec<Probe> {
    let moved = |shape: &Shape| Some(shape.aligned()).filter(|aligned| aligned.at != shape.at);
    let mut probes: Vec<Probe> = edges().iter().filter_map(moved).map(|s| s.load()).collect();
    let mut rng = values::rng("boxes drawn at random");
    probes.extend((0..24).filter_map(|_| moved(&drawn(&mut rng))).map(|s| s.load()));
    probes.extend(
        edges()
            .iter()
            .filter(|s| !s.nan_fill && s.steps.iter().all(|s| *s == 1))
            .filter_map(moved)
            .map(|s| s.store(None)),
    );
    for swizzle in [0, 3] {
        for at in [[-64, 0], [-8, 0], [-8, 3], [0, -8], [0, -3], [8, -1], [-8, -3], [-64, -8], [56, 27], [-72, 2]] {
            if (swizzle, at) != (3, [-64, -8]) {
                probes.push(Shape::new(Data::Bf16, &[64, 30], &[64, 8], &at, swizzle).store(None));
            }
        }
    }
    for (data, ops) in REDUCTIONS {
        for op in *ops {
            probes.push(Shape::new(*data, &[24, 7], &[16, 8], &[-3, 2], 0).aligned().store(Some(op)));
            probes.push(Shape::new(*data, &[24, 7], &[16, 8], &[16, 2], 0).store(Some(op)));
        }
    }
    for data in [Data::F16, Data::Bf16] {
        probes.push(Shape::new(data, &[40, 5, 3], &[8, 4, 2], &[32, 3, 2], 1).store(Some("add")));
    }
    // Rows that end inside 16 bytes.
    for data in [Data::U32, Data::F16] {
        probes.push(Shape::new(data, &[22, 7], &[16, 8], &[8, 2], 0).store(Some("add")));
    }
    for at in [[0, 0], [-8, -3], [4, 0]] {
        probes.push(Shape::new(Data::Bf16, &[64, 30], &[64, 8], &at, 0).prefetch());
    }
    probes.retain({
        let mut names = std::collections::HashSet::new();
        move |probe| names.insert(probe.name.clone())
    });
    probes
}

/// Boxes inside, across every edge and outside of tensors, in every swizzle.
fn edges() -> Vec<Shape> {
    let mut shapes = vec![
        Shape::new(Data::Bf16, &[100], &[64], &[0], 0),
        Shape::new(Data::Bf16, &[100], &[64], &[70], 0),
        Shape::new(Data::F32, &[100], &[64], &[-9], 0),
        Shape::new(Data::U8, &[100], &[112], &[-5], 0),
        Shape::new(Data::U16, &[9, 9], &[8, 16], &[-1, -1], 0),
        Shape::new(Data::U32, &[20, 20], &[4, 3], &[18, 19], 0),
        Shape::new(Data::Bf16, &[64, 30], &[64, 8], &[0, 30], 3),
        Shape::new(Data::Bf16, &[64, 30], &[64, 8], &[64, 0], 3),
        Shape::new(Data::Bf16, &[64, 30], &[64, 8], &[-64, -8], 3),
        Shape::new(Data::Bf16, &[64, 30], &[64, 8], &[i32::MAX, i32::MIN], 3),
        Shape::new(Data::Bf16, &[10, 9, 8, 3], &[8, 4, 4, 2], &[5, 7, -2, 1], 1),
        Shape::new(Data::F16, &[10, 9, 4, 3, 2], &[16, 4, 2, 2, 2], &[-3, -2, 3, 2, -1], 1),
        Shape::new(Data::F16, &[10, 9, 4, 3, 2], &[8, 4, 2, 2, 2], &[3, 6, -1, 2, 1], 0),
        Shape::new(Data::U8, &[77, 11], &[128, 16], &[-20, -3], 3),
        Shape::new(Data::F32, &[50, 13], &[32, 16], &[30, -2], 3),
    ];
    // Every swizzle with a full span, a half one, and across all edges.
    for (swizzle, span) in [(0, 64), (1, 16), (2, 32), (3, 64)] {
        for (width, at) in [(span, [5, 9]), (span, [-7, -3]), (span, [90, 14]), (span / 2, [40, 2])] {
            shapes.push(Shape::new(Data::Bf16, &[100, 21], &[width, 16], &at, swizzle));
        }
        shapes.push(Shape { nan_fill: true, ..Shape::new(Data::Bf16, &[100, 21], &[span, 16], &[-7, 14], swizzle) });
        let four = [span, 9, 2, 1];
        shapes.push(Shape::new(Data::Bf16, &[72, 20, 3, 2], &four, &[32, 13, 1, 1], swizzle));
    }
    for (data, width) in [(Data::F16, 16), (Data::F32, 8)] {
        shapes.push(Shape { nan_fill: true, ..Shape::new(data, &[30, 9], &[width, 8], &[25, -2], 0) });
    }
    for steps in [[1, 2], [1, 3]] {
        let at = [-2, 1];
        shapes.push(Shape { steps: steps.to_vec(), ..Shape::new(Data::Bf16, &[40, 30], &[32, 8], &at, 0) });
    }
    shapes
}

/// A box of any rank near the edges of a small tensor.
fn drawn(rng: &mut impl Rng) -> Shape {
    let rank = rng.random_range(1..=5);
    let (swizzle, span) = [(0, 64), (1, 16), (2, 32), (3, 64)][rng.random_range(0..4)];
    let dims: Vec<u64> = (0..rank).map(|i| rng.random_range(if i == 0 { 8..100 } else { 1..9 })).collect();
    let mut tile: Vec<u32> = (0..rank).map(|_| rng.random_range(1..4)).collect();
    tile[0] = span;
    let at: Vec<i32> = dims.iter().zip(&tile).map(|(d, t)| rng.random_range(-(*t as i32)..=*d as i32)).collect();
    Shape::new(Data::Bf16, &dims, &tile, &at, swizzle)
}

/// A copy of `bytes` bytes to shared memory.
fn bulk_load(bytes: u32) -> Probe {
    let mut probe = Shape::new(Data::U32, &[4096], &[4], &[0], 0).load();
    let from =
        "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [base], [m, {c0}], [bar];";
    let to = "ld.param.u64 x, [source];
    @leader cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [base], [x], size, [bar];";
    probe.ptx = probe.ptx.replace(&format!("@leader {from}"), to);
    probe.args[1] = Arg::Output(vec![0; (bytes / 4 + BEHIND) as usize]);
    probe.args[3] = Arg::Word(bytes);
    probe.name = format!("bulk load {bytes}");
    probe
}

/// Copies and reductions of 2048 bytes from shared memory.
fn bulk_stores() -> Vec<Probe> {
    let from = "cp.async.bulk.tensor.1d.global.shared::cta.tile.bulk_group [m, {c0}], [base];";
    let mut probes = Vec::new();
    for (data, op) in [
        (Data::U32, ""),
        (Data::U32, "add.u32"),
        (Data::S32, "min.s32"),
        (Data::U32, "max.u32"),
        (Data::U32, "xor.b32"),
        (Data::F32, "add.f32"),
        (Data::F16, "add.noftz.f16"),
        (Data::Bf16, "add.noftz.bf16"),
        (Data::F16, "max.f16"),
        (Data::Bf16, "min.bf16"),
        (Data::U32, "inc.u32"),
    ] {
        let shape = Shape::new(data, &[2048 / data.bytes()], &[16], &[0], 0);
        let mut probe = shape.store(None);
        probe.args[0] = Arg::Input(shape.values("box", 512));
        probe.args[3] = Arg::Word(2048);
        let (head, tail) = if op.is_empty() { ("cp", String::new()) } else { ("cp.reduce", format!(".{op}")) };
        let to = format!(
            "ld.param.u64 x, [target];
    @leader {head}.async.bulk.global.shared::cta.bulk_group{tail} [x], [base], 2048;"
        );
        probe.ptx = probe.ptx.replace(&format!("@leader {from}"), &to);
        probe.name = format!("bulk store {op}");
        probes.push(probe);
    }
    probes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_end_before_the_barrier() {
        let mut rng = values::rng("more boxes");
        for shape in edges().into_iter().chain((0..500).map(|_| drawn(&mut rng))) {
            assert!(shape.image_bytes().max(shape.box_bytes() + 4 * BEHIND) <= BOX_BYTES, "{shape:?}");
        }
    }

    #[test]
    fn a_prefetch_takes_the_place_of_a_store() {
        let probe = Shape::new(Data::Bf16, &[64, 30], &[64, 8], &[0, 0], 0).prefetch();
        assert!(probe.ptx.contains("prefetch.tensor.2d") && !probe.ptx.contains("bulk_group ["), "{}", probe.ptx);
    }

    #[test]
    fn a_bulk_copy_takes_the_place_of_the_tensors() {
        for probe in bulk_stores().into_iter().chain([bulk_load(16)]) {
            assert!(probe.ptx.contains("async.bulk") && !probe.ptx.contains("tensor"), "{}", probe.name);
        }
    }
}
