//! Matrices of one warp: loads, stores and products.

use super::tile::{Matrix, Type, product};
use super::{Setup, epilogue, kernel, prologue, run_clean};
use attn_sim::layout::fragment;

const WARP: usize = 32;

/// Image, instructions between prologue and epilogue, fragments, and registers of output.
fn warp(image: &[u8], body: &str, fragments: &[u32], registers: usize) -> Vec<u32> {
    let text = kernel("sm_90a", &(prologue(WARP, image.len()) + body + &epilogue(registers)));
    run_clean(&Setup { text: &text, image, fragments, out: WARP * registers, threads: WARP, cluster: 1, seed: 0 })
}

/// Four 8x8 matrices, one behind the other, whose elements are their own numbers.
fn numbered() -> Vec<u8> {
    (0..256u16).flat_map(u16::to_le_bytes).collect()
}

#[test]
fn ldmatrix_moves_rows_and_columns() {
    for trans in [false, true] {
        for count in [1usize, 2, 4] {
            let list = (0..count).map(|i| format!("%d{i}")).collect::<Vec<_>>().join(", ");
            let dot = if trans { ".trans" } else { "" };
            let body = format!(
                "shl.b32 %r2, %th, 4; add.s32 %r2, %r2, %smem;\n\
                 ldmatrix.sync.aligned.m8n8.x{count}{dot}.shared.b16 {{{list}}}, [%r2];\n"
            );
            let out = warp(&numbered(), &body, &[], count);
            for (i, word) in out.iter().enumerate() {
                let (lane, matrix) = (i / count, i % count);
                let (g, q) = (lane / 4, lane % 4);
                let at = |row: usize, column: usize| (64 * matrix + 8 * row + column) as u32;
                let pair = if trans { [at(2 * q, g), at(2 * q + 1, g)] } else { [at(g, 2 * q), at(g, 2 * q + 1)] };
                assert_eq!(*word, pair[0] | pair[1] << 16, "x{count}{dot} {lane}");
            }
        }
    }
}

/// A matrix that is loaded transposed and stored transposed is itself; stored plain it is transposed.
#[test]
fn stmatrix_is_the_inverse() {
    for (load, store, turned) in
        [("", "", false), (".trans", ".trans", false), (".trans", "", true), ("", ".trans", true)]
    {
        let body = format!(
            "shl.b32 %r2, %th, 4; add.s32 %r2, %r2, %smem;\n\
             ldmatrix.sync.aligned.m8n8.x4{load}.shared.b16 {{%a0, %a1, %a2, %a3}}, [%r2]; bar.warp.sync -1;\n\
             stmatrix.sync.aligned.m8n8.x4{store}.shared.b16 [%r2], {{%a0, %a1, %a2, %a3}}; bar.warp.sync -1;\n\
             ld.shared.v4.b32 {{%d0, %d1, %d2, %d3}}, [%r2];\n"
        );
        let out = warp(&numbered(), &body, &[], 4);
        for (i, word) in out.iter().enumerate() {
            let (matrix, row, column) = (i / 32, i / 4 % 8, 2 * (i % 4));
            let at = |r: usize, c: usize| (64 * matrix + if turned { 8 * c + r } else { 8 * r + c }) as u32;
            assert_eq!(*word, at(row, column) | at(row, column + 1) << 16);
        }
    }
}

#[test]
fn movmatrix_transposes() {
    let body = "shl.b32 %r2, %th, 2; add.s32 %r2, %r2, %smem; ld.shared.b32 %a0, [%r2];\n\
                movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;\n";
    for (lane, word) in warp(&numbered(), body, &[], 1).iter().enumerate() {
        let (g, q) = (lane as u32 / 4, lane as u32 % 4);
        assert_eq!(*word, (16 * q + g) | (16 * q + 8 + g) << 16);
    }
}

/// A product of one warp; C is the product's own first result, so D is twice it.
fn mma(a: Type, b: Type, d: &str, k: usize) {
    let (x, y) = (Matrix { ty: a, seed: 3 }, Matrix { ty: b, seed: 11 });
    let bits = 8 * a.bytes() as u32;
    let (a_count, b_count) = (k * a.bytes() / 8, k * a.bytes() / 16);
    let pack = |m: &Matrix, p: fragment::Place| {
        (0..32 / bits).fold(0, |v, e| v | m.bits(p.line as usize, (p.column + e) as usize) << (e * bits))
    };
    let mut fragments = Vec::new();
    for lane in 0..WARP as u32 {
        (0..4).for_each(|r| fragments.push(if r < a_count as u32 { pack(&x, fragment::a(bits, lane, r)) } else { 0 }));
        (0..4).for_each(|r| fragments.push(if r < b_count as u32 { pack(&y, fragment::b(bits, lane, r)) } else { 0 }));
    }
    let registers = if d == "f16" { 2 } else { 4 };
    let list =
        |from: usize, n: usize, p: &str| (from..from + n).map(|i| format!("%{p}{i}")).collect::<Vec<_>>().join(", ");
    let d_list = list(0, registers, "d");
    let (zeros, a_list, b_list) = (vec!["0"; registers].join(", "), list(0, a_count, "a"), list(4, b_count, "a"));
    let op = format!(
        "mma.sync.aligned.m16n8k{k}.row.col.{d}.{}.{}.{d} {{{d_list}}}, {{{a_list}}}, {{{b_list}}}",
        a.name(),
        b.name()
    );
    let body = format!(
        "ld.param.u64 %rd6, [fragments]; mul.wide.u32 %rd7, %th, 32; add.s64 %rd6, %rd6, %rd7;\n\
         ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%rd6]; ld.global.v4.b32 {{%a4, %a5, %a6, %a7}}, [%rd6+16];\n\
         {op}, {{{zeros}}};\n{op}, {{{d_list}}};\n"
    );
    let out = warp(&vec![0; 512], &body, &fragments, registers);
    for (i, &word) in out.iter().enumerate() {
        let (lane, r) = ((i / registers) as u32, (i % registers) as u32);
        let expected = |p: fragment::Place, e: u32| 2 * product(&x, &y, p.line as usize, (p.column + e) as usize, 0..k);
        match d {
            "f16" => {
                let pair = [word as u16, (word >> 16) as u16].map(|h| half::f16::from_bits(h).to_f32() as i32);
                let p = fragment::d16(lane, r);
                assert_eq!(pair, [expected(p, 0), expected(p, 1)], "{op}");
            }
            "s32" => assert_eq!(word as i32, expected(fragment::d32(lane, r), 0), "{op}"),
            _ => assert_eq!(f32::from_bits(word) as i32, expected(fragment::d32(lane, r), 0), "{op}"),
        }
    }
}

#[test]
fn products_of_every_type() {
    for k in [8, 16] {
        mma(Type::F16, Type::F16, "f32", k);
        mma(Type::F16, Type::F16, "f16", k);
        mma(Type::Bf16, Type::Bf16, "f32", k);
    }
    for k in [4, 8] {
        mma(Type::Tf32, Type::Tf32, "f32", k);
    }
    for k in [16, 32] {
        mma(Type::S8, Type::S8, "s32", k);
        mma(Type::U8, Type::S8, "s32", k);
        mma(Type::E4m3, Type::E5m2, "f32", k);
        mma(Type::E5m2, Type::E5m2, "f16", k);
    }
}
