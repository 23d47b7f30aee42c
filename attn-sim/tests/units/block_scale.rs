//! `tcgen05.mma` with block scales: every kind and number of scales, one block and two, A in shared and in tensor memory. The scales
//! come from shared memory by `tcgen05.cp`, as they do in real kernels.

use super::tcgen05::{AWAIT, THREADS, list, setup, teardown};
use super::tile::{Matrix, Tile, Type};
use super::{Setup, epilogue, kernel, prologue, run, run_clean};
use attn_sim::report::Kind;

/// Columns of tensor memory of A's scales, of B's and of A.
const A_SCALES: usize = 256;
const B_SCALES: usize = 264;
const A_COLUMN: usize = 288;
/// Bytes of the scales of 128 lines.
const PANEL: usize = 512;

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: &'static str,
    size: &'static str,
    /// Scales of a line.
    count: usize,
    a: Type,
    b: Type,
    n: usize,
    group: usize,
    /// `ue8m0` scales; else `ue4m3`.
    powers: bool,
    /// Bytes of a word at which the scales of A and of B begin.
    first: (usize, usize),
    tensor: bool,
}

const MXF8: Case = Case {
    kind: "mxf8f6f4",
    size: ".scale_vec::1X",
    count: 1,
    a: Type::E4m3,
    b: Type::E4m3,
    n: 64,
    group: 1,
    powers: true,
    first: (0, 0),
    tensor: false,
};
const MXF4: Case = Case { kind: "mxf4", size: "", count: 2, a: Type::E2m1, b: Type::E2m1, ..MXF8 };
const NVF4: Case = Case { kind: "mxf4nvf4", size: ".scale_vec::4X", count: 4, powers: false, ..MXF4 };

/// A scale of line `line` of an operand, as its pattern and its value.
fn scale(powers: bool, line: usize, i: usize, seed: usize) -> (u8, f32) {
    let x = (line * 7 + i * 3 + seed) % 4;
    if powers {
        (126 + x as u8, [0.5, 1.0, 2.0, 4.0][x])
    } else {
        ([0x30, 0x38, 0x3c, 0x44][x], [0.5, 1.0, 1.5, 3.0][x])
    }
}

impl Case {
    fn packed(&self) -> bool {
        self.kind != "mxf8f6f4"
    }

    fn k(&self) -> usize {
        if self.packed() { 64 } else { 32 }
    }

    fn matrices(&self) -> (Matrix, Matrix) {
        (Matrix { ty: self.a, seed: 1 }, Matrix { ty: self.b, seed: 5 })
    }

    fn tile(&self, lines: usize, ty: Type) -> Tile {
        let bits = if self.packed() { 8 } else { ty.bit_count() };
        Tile { span: 128, k_major: true, lines, k: 128, bytes: 1, bits }
    }

    /// Byte `i` of a line: an element, or two.
    fn byte(&self, matrix: &Matrix, line: usize, i: usize) -> u32 {
        if self.packed() { matrix.bits(line, 2 * i) | matrix.bits(line, 2 * i + 1) << 4 } else { matrix.bits(line, i) }
    }

    /// The scales of `lines` lines from `first` on, as `tcgen05.cp` takes them: 32 rows of the words of four lines.
    fn scales(&self, first: usize, lines: usize, at: usize, seed: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; PANEL * lines.div_ceil(128)];
        for line in 0..lines {
            for i in 0..self.count {
                let word = line / 128 * PANEL + line % 32 * 16 + line % 128 / 32 * 4;
                bytes[word + at + i] = scale(self.powers, first + line, i, seed).0;
            }
        }
        bytes
    }

    /// Each block's image, and where B, A's scales and B's begin in it.
    fn image(&self) -> (Vec<u8>, [usize; 3]) {
        let (a, b) = (self.tile(128, self.a), self.tile(self.n / self.group, self.b));
        let b_at = a.size();
        let a_scales = b_at + b.size();
        let b_scales = a_scales + PANEL;
        let size = (b_scales + PANEL * self.n.div_ceil(128)).next_multiple_of(16 * THREADS);
        let (x, y) = self.matrices();
        let mut images = Vec::new();
        for rank in 0..self.group {
            let mut image = vec![0; size];
            a.write(&mut image, 0, |r, k| self.byte(&x, rank * 128 + r, k));
            b.write(&mut image, b_at, |c, k| self.byte(&y, rank * b.lines + c, k));
            let scales = self.scales(rank * 128, 128, self.first.0, 0);
            image[a_scales..][..scales.len()].copy_from_slice(&scales);
            let scales = self.scales(0, self.n, self.first.1, 1);
            image[b_scales..][..scales.len()].copy_from_slice(&scales);
            images.extend(image);
        }
        (images, [b_at, a_scales, b_scales])
    }

    /// A's bytes of the K that is multiplied, as words of each lane.
    fn fragments(&self) -> Vec<u32> {
        let a = self.matrices().0;
        let word =
            |row: usize, w: usize| (0..4).fold(0, |word, i| word | self.byte(&a, row, 32 + 4 * w + i) << (8 * i));
        (0..128 * self.group).flat_map(|row| (0..8).map(move |w| (row, w))).map(|(row, w)| word(row, w)).collect()
    }

    fn instruction(&self) -> u32 {
        let code = |ty| match ty {
            Type::E4m3 => 0u32,
            Type::E5m2 => 1,
            Type::E2m3 => 3,
            Type::E3m2 => 4,
            _ => 5,
        };
        let types = if self.packed() { 1 << 7 | 1 << 10 } else { code(self.a) << 7 | code(self.b) << 10 };
        types
            | (self.first.1 as u32) << 4
            | (self.n as u32 / 8) << 17
            | u32::from(self.powers) << 23
            | (self.group as u32) << 27
            | (self.first.0 as u32) << 29
    }

    /// Two multiplies of the second K of the tiles, the second on top of the first.
    fn text(&self) -> String {
        let (image, [b_at, a_scales, b_scales]) = self.image();
        let (a, b) = (self.tile(128, self.a), self.tile(self.n / self.group, self.b));
        let (group, n) = (self.group, self.n);
        let from = Tile { span: 0, k_major: true, lines: 32, k: 16, bytes: 1, bits: 8 };
        let copy = |column: usize, at: usize| {
            format!(
                "add.s64 %rd8, %field, {:#x}; tcgen05.cp.cta_group::{group}.32x128b.warpx4 [%t+{column}], %rd8;\n",
                from.tcgen05(at, 0)
            )
        };
        let mut copies = copy(A_SCALES, a_scales);
        (0..n.div_ceil(128)).for_each(|i| copies += &copy(B_SCALES + 4 * i, b_scales + i * PANEL));
        let a_operand = if self.tensor { format!("[%t+{A_COLUMN}]") } else { "%da".into() };
        let mma = |accumulate: u32| {
            format!(
                "tcgen05.mma.cta_group::{group}.kind::{}.block_scale{} [%t], {a_operand}, %db, {:#x}, [%t+{A_SCALES}], [%t+{B_SCALES}], {accumulate};\n",
                self.kind,
                self.size,
                self.instruction()
            )
        };
        let meet =
            if group == 2 { "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" } else { "bar.sync 0;" };
        let store = format!(
            "mad.lo.u32 %r16, %rank, 128, %th; ld.param.u64 %rd6, [fragments]; mul.wide.u32 %rd7, %r16, 32; add.s64 %rd6, %rd6, %rd7;\n\
             ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%rd6]; ld.global.v4.b32 {{%a4, %a5, %a6, %a7}}, [%rd6+16];\n\
             tcgen05.st.sync.aligned.32x32b.x8.b32 [%r14+{A_COLUMN}], {{{}}};\n\
             tcgen05.wait::st.sync.aligned; tcgen05.fence::before_thread_sync; {meet}\n",
            list("a", 8)
        );
        let multicast = if group == 2 { (".multicast::cluster", ", 3") } else { ("", "") };
        let upper = if n > 128 {
            format!("tcgen05.ld.sync.aligned.32x32b.x128.b32 {{{}}}, [%r14+128];\n", high())
        } else {
            String::new()
        };
        let body = prologue(THREADS, image.len() / group)
            + &setup(group)
            // Each block's image is in shared memory before one thread of the pair reads both.
            + &format!("{meet}\nadd.s64 %da, %field, {:#x};\nadd.s64 %db, %field, {:#x};\n", a.tcgen05(0, 32), b.tcgen05(b_at, 32))
            + if self.tensor { &store } else { "" }
            + "or.b32 %r15, %th, %rank; setp.ne.u32 %p0, %r15, 0; @%p0 bra ISSUED;\n"
            + if self.tensor { "tcgen05.fence::after_thread_sync;\n" } else { "" }
            + &copies
            + &mma(0)
            + &mma(1)
            + &format!(
                "tcgen05.commit.cta_group::{group}.mbarrier::arrive::one.shared::cluster{}.b64 [%r13]{};\nISSUED:\n",
                multicast.0, multicast.1
            )
            + AWAIT
            + &format!("tcgen05.ld.sync.aligned.32x32b.x{}.b32 {{{}}}, [%r14];\n", n.min(128), list("d", n.min(128)))
            + &upper
            + "tcgen05.wait::ld.sync.aligned;\n"
            + &epilogue(n)
            + &teardown(group);
        kernel("sm_100a", &body)
    }

    fn expected(&self, row: usize, column: usize) -> f32 {
        let (x, y) = self.matrices();
        let (k, part) = (self.k(), self.k() / self.count);
        let one = |i: usize| {
            let elements = k + i * part..k + (i + 1) * part;
            let sum: i32 = elements.map(|k| x.value(row, k) * y.value(column, k)).sum();
            sum as f32 * scale(self.powers, row, i, 0).1 * scale(self.powers, column, i, 1).1
        };
        2.0 * (0..self.count).map(one).sum::<f32>()
    }

    fn setup<'a>(&self, text: &'a str, image: &'a [u8], fragments: &'a [u32]) -> Setup<'a> {
        let out = self.group * THREADS * self.n;
        Setup { text, image, fragments, out, threads: THREADS, cluster: self.group as u32, seed: 3 }
    }

    fn check(&self) {
        let out = run_clean(&self.setup(&self.text(), &self.image().0, &self.fragments()));
        for (i, word) in out.into_iter().enumerate() {
            let (row, column) = (i / self.n, i % self.n);
            assert_eq!(f32::from_bits(word), self.expected(row, column), "{self:?} row {row} column {column}");
        }
    }
}

/// Registers of the columns from 128 on.
fn high() -> String {
    (128..256).map(|i| format!("%d{i}")).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_kind() {
    MXF8.check();
    Case { size: "", a: Type::E5m2, b: Type::E2m1, ..MXF8 }.check();
    Case { size: ".block32", a: Type::E3m2, b: Type::E2m3, ..MXF8 }.check();
    MXF4.check();
    Case { size: ".block32", ..MXF4 }.check();
    Case { kind: "mxf4nvf4", size: ".scale_vec::2X", ..MXF4 }.check();
    NVF4.check();
    Case { size: ".block16", powers: true, ..NVF4 }.check();
}

#[test]
fn scales_in_every_part_of_a_word() {
    for byte in 0..4 {
        Case { first: (byte, 3 - byte), n: 32, ..MXF8 }.check();
    }
    Case { first: (2, 0), n: 32, ..MXF4 }.check();
    Case { first: (0, 2), n: 32, ..MXF4 }.check();
}

#[test]
fn wide_products_and_pairs_of_blocks() {
    Case { n: 256, ..MXF8 }.check();
    Case { group: 2, n: 64, ..MXF8 }.check();
    Case { group: 2, n: 256, ..NVF4 }.check();
}

#[test]
fn a_in_tensor_memory() {
    Case { tensor: true, ..MXF8 }.check();
    Case { tensor: true, ..NVF4 }.check();
    Case { tensor: true, group: 2, ..MXF4 }.check();
}

#[test]
fn scales_that_are_not_there_are_reported() {
    let text = MXF8.text();
    let copy = text.lines().find(|line| line.contains(&format!("[%t+{B_SCALES}], %rd8"))).expect("a copy");
    let text = text.replacen(copy, "", 1);
    let (_, run) = run(&MXF8.setup(&text, &MXF8.image().0, &MXF8.fragments()));
    assert!(run.findings.iter().all(|f| f.kind == Kind::Uninitialised) && !run.findings.is_empty());
}
