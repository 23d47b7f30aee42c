//! `ldmatrix`, `stmatrix` and `mma.sync`.

use rand::Rng;

use super::values::{self, Kind};
use super::{Agreement, Arg, Probe};

/// One warp: `body` computes `d0` to `d7` of `a0` to `a15`, of which the first 4 words of each lane also lie in shared memory at
/// `image + 16 lane`. `row` is that address, and the memory is read back into `d4` to `d7` behind the body.
fn module(body: &str) -> String {
    let mut loads = String::new();
    let mut stores = String::new();
    for i in 0..16 {
        loads += &format!("ld.global.b32 a{i}, [x+{}];\n    ", 4 * i);
    }
    for i in 0..8 {
        stores += &format!("st.global.b32 [x+{}], d{i};\n    ", 4 * i);
    }
    format!(
        ".version 8.4
.target sm_90a
.address_size 64
.visible .entry probe(.param .u64 pa, .param .u64 pd)
.reqntid 32, 1, 1
{{
    .reg .b32 a<16>, d<8>, row, lane;
    .reg .b64 x, offset;
    .shared .align 128 .b8 image[512];
    mov.u32 lane, %tid.x;
    mul.wide.u32 offset, lane, 64;
    ld.param.u64 x, [pa];
    add.u64 x, x, offset;
    {loads}mov.u32 row, image;
    mad.lo.u32 row, lane, 16, row;
    st.shared.v4.b32 [row], {{a0, a1, a2, a3}};
    mov.b32 d0, 0;
    mov.b32 d1, 0;
    mov.b32 d2, 0;
    mov.b32 d3, 0;
    bar.warp.sync -1;
    {body}
    bar.warp.sync -1;
    ld.shared.v4.b32 {{d4, d5, d6, d7}}, [row];
    ld.param.u64 x, [pd];
    mul.wide.u32 offset, lane, 32;
    add.u64 x, x, offset;
    {stores}ret;
}}
"
    )
}

fn probe(name: &str, kind: Kind, body: &str) -> Probe {
    let [a, ..] = values::triples(name, kind, 512);
    let args = vec![Arg::Input(a), Arg::Output(vec![0; 256])];
    Probe { name: name.to_owned(), ptx: module(body), grid: 1, block: 32, shared: 0, args, agreement: Agreement::Bits }
}

/// The probes of this module.
pub fn probes() -> Vec<Probe> {
    let mut probes = Vec::new();
    for (count, registers) in [(1, "d0"), (2, "d0, d1"), (4, "d0, d1, d2, d3")] {
        for trans in ["", ".trans"] {
            let load = format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16");
            probes.push(probe(&load, Kind::Int, &format!("{load} {{{registers}}}, [row];")));
            let store = format!("stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16");
            let from = ["a4", "a5", "a6", "a7"][..count].join(", ");
            probes.push(probe(&store, Kind::Int, &format!("{store} [row], {{{from}}};")));
            // Rows in another order than the lanes'.
            let name = format!("{store} (rows reversed)");
            probes.push(probe(&name, Kind::Int, &format!("xor.b32 a8, row, 0x70; {store} [a8], {{{from}}};")));
        }
    }
    probes.push(probe("movmatrix", Kind::Int, "movmatrix.sync.aligned.m8n8.trans.b16 d0, a4;"));
    probes.extend(multiplies());
    probes
}

/// Words for the operands of a multiply: `set` 0 is of one size, 1 of wildly different exponents, 2 has infinities and NaNs too.
pub fn operands(name: &str, format: &str, set: usize, n: usize) -> Vec<u32> {
    let mut rng = values::rng(name);
    if set == 2 {
        let kind = match format {
            "f16" => Kind::Half,
            "bf16" => Kind::Brain,
            "tf32" | "f32" => Kind::Float,
            _ => Kind::Int,
        };
        // Few of them, so that not every sum is a NaN.
        let odd = values::triples(name, kind, n)[0].clone();
        let plain = operands(name, format, 1, n);
        return plain.into_iter().zip(odd).map(|(p, o)| if rng.random_ratio(1, 150) { o } else { p }).collect();
    }
    let spread = [2, 12][set];
    (0..n).map(|_| word(&mut rng, format, spread)).collect()
}

fn word(rng: &mut impl Rng, format: &str, spread: i32) -> u32 {
    // (bits of the element, of its significand, bias)
    let (bits, significand, bias) = match format {
        "f16" => (16, 10, 15),
        "bf16" => (16, 7, 127),
        "e4m3" => (8, 3, 7),
        "e5m2" => (8, 2, 15),
        _ => (32, 23, 127),
    };
    let spread = spread.min(bias - 2);
    (0..32 / bits).fold(0, |word: u32, _| {
        let exponent = (bias + rng.random_range(-spread..=spread)) as u32;
        let element = exponent << significand
            | rng.random_range(0..1u32 << significand)
            | rng.random_range(0..2u32) << (bits - 1);
        if bits == 32 { element } else { word << bits | element }
    })
}

fn multiplies() -> Vec<Probe> {
    // (shape, formats, words of A, B and C or D)
    let shapes = [
        ("m16n8k16", "f32.bf16.bf16.f32", "bf16", [4, 2, 4]),
        ("m16n8k16", "f32.f16.f16.f32", "f16", [4, 2, 4]),
        ("m16n8k16", "f16.f16.f16.f16", "f16", [4, 2, 2]),
        ("m16n8k8", "f32.bf16.bf16.f32", "bf16", [2, 1, 4]),
        ("m16n8k8", "f32.f16.f16.f32", "f16", [2, 1, 4]),
        ("m16n8k8", "f32.tf32.tf32.f32", "tf32", [4, 2, 4]),
        ("m16n8k32", "f32.e4m3.e5m2.f32", "e4m3", [4, 2, 4]),
    ];
    let mut probes = Vec::new();
    for (shape, formats, format, [a, b, c]) in shapes {
        for set in 0..3 {
            let op = format!("mma.sync.aligned.{shape}.row.col.{formats}");
            let name = format!("{op} set {set}");
            let registers =
                |from: usize, n: usize| (from..from + n).map(|i| format!("a{i}")).collect::<Vec<_>>().join(", ");
            let d = ["d0", "d1", "d2", "d3"][..c].join(", ");
            let (ra, rb, rc) = (registers(4, a), registers(8, b), registers(12, c));
            let mut one = probe(&name, Kind::Int, &format!("{op} {{{d}}}, {{{ra}}}, {{{rb}}}, {{{rc}}};"));
            let mut words = operands(&name, format, set, 512);
            let sums = operands(&name, if c == 2 { "f16" } else { "f32" }, set, 512);
            for (i, word) in words.iter_mut().enumerate() {
                if i % 16 >= 12 {
                    *word = sums[i];
                }
            }
            one.args[0] = Arg::Input(words);
            probes.push(one);
        }
    }
    probes
}
