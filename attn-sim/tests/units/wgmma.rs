//! Every type, major, swizzle and source of A of `wgmma.mma_async`, and what is reported of its fences and waits.

use super::tile::{Matrix, Tile, Type, product};
use super::{Setup, epilogue, kernel, prologue, run, run_clean};
use attn_sim::layout::fragment;
use attn_sim::report::Kind;

const THREADS: usize = 128;

/// A multiply `D = A B^T` over one K, twice.
#[derive(Clone, Copy, Debug)]
struct Case {
    a: Type,
    b: Type,
    d: &'static str,
    n: usize,
    span: usize,
    a_k_major: bool,
    b_k_major: bool,
    registers: bool,
    /// Factors of A and B.
    signs: (i32, i32),
}

const PLAIN: Case = Case {
    a: Type::Bf16,
    b: Type::Bf16,
    d: "f32",
    n: 64,
    span: 128,
    a_k_major: true,
    b_k_major: true,
    registers: false,
    signs: (1, 1),
};

impl Case {
    /// K of one instruction.
    fn k(&self) -> usize {
        32 / self.a.bytes()
    }

    /// Tiles hold two K, of which the second is used.
    fn tiles(&self) -> (Tile, Tile) {
        let tile = |lines, k_major, ty: Type| Tile {
            span: self.span,
            k_major,
            lines,
            k: 2 * self.k(),
            bytes: ty.bytes(),
            bits: ty.bit_count(),
        };
        (tile(64, self.a_k_major, self.a), tile(self.n, self.b_k_major, self.b))
    }

    fn d_registers(&self) -> usize {
        if self.d == "f16" { self.n / 4 } else { self.n / 2 }
    }

    fn matrices(&self) -> (Matrix, Matrix) {
        (Matrix { ty: self.a, seed: 1 }, Matrix { ty: self.b, seed: 5 })
    }

    fn image(&self) -> (Vec<u8>, usize) {
        let (a, b) = self.tiles();
        let b_at = a.size().next_multiple_of(1024);
        let mut image = vec![0; (b_at + b.size()).next_multiple_of(16 * THREADS)];
        let (x, y) = self.matrices();
        a.write(&mut image, 0, |r, k| x.bits(r, k));
        b.write(&mut image, b_at, |c, k| y.bits(c, k));
        (image, b_at)
    }

    /// A's registers of each thread.
    fn fragments(&self) -> Vec<u32> {
        let (a, bits) = (self.matrices().0, 8 * self.a.bytes() as u32);
        let register = |t: u32, r: u32| {
            let place = fragment::a(bits, t, r);
            let element = |e: u32| a.bits(place.line as usize, self.k() + (place.column + e) as usize);
            (0..32 / bits).fold(0, |v, e| v | element(e) << (e * bits))
        };
        (0..THREADS as u32).flat_map(|t| (0..4).map(move |r| register(t, r))).collect()
    }

    fn instruction(&self, scale_d: u32) -> String {
        let list = |prefix: &str, n: usize| (0..n).map(|i| format!("%{prefix}{i}")).collect::<Vec<_>>().join(", ");
        let d = list("d", self.d_registers());
        let a = if self.registers { format!("{{{}}}", list("a", 4)) } else { "%da".into() };
        let signs = if self.a.is_integer() { String::new() } else { format!(", {}, {}", self.signs.0, self.signs.1) };
        let t = |k_major: bool| u8::from(!k_major);
        let majors = match (self.a.bytes(), self.registers) {
            (2, false) => format!(", {}, {}", t(self.a_k_major), t(self.b_k_major)),
            (2, true) => format!(", {}", t(self.b_k_major)),
            _ => String::new(),
        };
        format!(
            "wgmma.mma_async.sync.aligned.m64n{}k{}.{}.{}.{} {{{d}}}, {a}, %db, {scale_d}{signs}{majors};\n",
            self.n,
            self.k(),
            self.d,
            self.a.name(),
            self.b.name()
        )
    }

    fn text(&self, between: &str, wait: &str) -> String {
        let (image, b_at) = self.image();
        let (a, b) = self.tiles();
        let descriptor = |name, bits: u64| format!("add.s64 %{name}, %field, {bits:#x};\n");
        let body = prologue(THREADS, image.len())
            + &descriptor("da", a.wgmma(0, self.k()))
            + &descriptor("db", b.wgmma(b_at, self.k()))
            + "ld.param.u64 %rd6, [fragments]; mul.wide.u32 %rd7, %th, 16; add.s64 %rd6, %rd6, %rd7;\n"
            + "ld.global.v4.b32 {%a0, %a1, %a2, %a3}, [%rd6];\n"
            + "wgmma.fence.sync.aligned;\n"
            + &self.instruction(0)
            + between
            + &self.instruction(1)
            + "wgmma.commit_group.sync.aligned;\n"
            + wait
            + &epilogue(self.d_registers());
        kernel("sm_90a", &body)
    }

    fn setup<'a>(&self, text: &'a str, image: &'a [u8], fragments: &'a [u32]) -> Setup<'a> {
        Setup { text, image, fragments, out: THREADS * self.d_registers(), threads: THREADS, cluster: 1, seed: 3 }
    }

    fn check(&self) {
        let text = self.text("", "wgmma.wait_group.sync.aligned 0;\n");
        let out = run_clean(&self.setup(&text, &self.image().0, &self.fragments()));
        let (a, b) = self.matrices();
        let expected = |row: u32, column: u32| {
            2 * self.signs.0 * self.signs.1 * product(&a, &b, row as usize, column as usize, self.k()..2 * self.k())
        };
        let registers = self.d_registers();
        for (i, &word) in out.iter().enumerate() {
            let (t, r) = ((i / registers) as u32, (i % registers) as u32);
            match self.d {
                "f16" => {
                    let p = fragment::d16(t, r);
                    let pair = [word as u16, (word >> 16) as u16].map(|h| half::f16::from_bits(h).to_f32() as i32);
                    assert_eq!(pair, [expected(p.line, p.column), expected(p.line, p.column + 1)], "{self:?} {p:?}");
                }
                _ => {
                    let p = fragment::d32(t, r);
                    let value = if self.a.is_integer() { word as i32 } else { f32::from_bits(word) as i32 };
                    assert_eq!(value, expected(p.line, p.column), "{self:?} {p:?}");
                }
            }
        }
    }
}

#[test]
fn every_width() {
    for n in (8..=256).step_by(8) {
        Case { n, ..PLAIN }.check();
    }
}

#[test]
fn every_major_and_swizzle() {
    for span in [0, 32, 64, 128] {
        for majors in 0..4 {
            let (a_k_major, b_k_major) = (majors & 1 == 0, majors & 2 == 0);
            for n in [64, 128] {
                Case { span, a_k_major, b_k_major, n, ..PLAIN }.check();
            }
            if a_k_major {
                Case { span, b_k_major, registers: true, ..PLAIN }.check();
            }
        }
    }
}

#[test]
fn every_type() {
    for (a, b, d) in [
        (Type::F16, Type::F16, "f32"),
        (Type::F16, Type::F16, "f16"),
        (Type::Bf16, Type::Bf16, "f32"),
        (Type::Tf32, Type::Tf32, "f32"),
        (Type::E4m3, Type::E4m3, "f32"),
        (Type::E4m3, Type::E5m2, "f16"),
        (Type::E5m2, Type::E4m3, "f32"),
        (Type::S8, Type::S8, "s32"),
        (Type::U8, Type::S8, "s32"),
    ] {
        for registers in [false, true] {
            for span in [0, 32, 64, 128] {
                Case { a, b, d, registers, span, n: 32, ..PLAIN }.check();
            }
        }
    }
}

#[test]
fn negated_operands() {
    for signs in [(-1, 1), (1, -1), (-1, -1)] {
        Case { signs, ..PLAIN }.check();
        Case { signs, registers: true, ..PLAIN }.check();
    }
}

/// Kinds of the findings of a changed kernel.
fn kinds(case: &Case, text: &str) -> Vec<Kind> {
    let (_, run) = run(&case.setup(text, &case.image().0, &case.fragments()));
    let mut kinds: Vec<Kind> = run.findings.iter().map(|f| f.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[test]
fn accumulators_are_in_flight_until_a_wait() {
    let late = PLAIN.text("", "");
    assert_eq!(kinds(&PLAIN, &late), [Kind::RegisterInFlight, Kind::OutstandingAtExit]);
    let one_too_many = PLAIN.text("wgmma.commit_group.sync.aligned;\n", "wgmma.wait_group.sync.aligned 1;\n");
    assert!(kinds(&PLAIN, &one_too_many).contains(&Kind::RegisterInFlight));
    let touched = PLAIN.text("mov.b32 %d0, 0;\n", "wgmma.wait_group.sync.aligned 0;\n");
    assert_eq!(kinds(&PLAIN, &touched), [Kind::RegisterInFlight, Kind::MissingFence]);
    let rs = Case { registers: true, ..PLAIN };
    let changed = rs.text("mov.b32 %a1, 0;\n", "wgmma.wait_group.sync.aligned 0;\n");
    assert_eq!(kinds(&rs, &changed), [Kind::RegisterInFlight, Kind::MissingFence]);
}

#[test]
fn fences_are_missed() {
    let wait = "wgmma.wait_group.sync.aligned 0;\n";
    let unfenced = PLAIN.text("", wait).replace("wgmma.fence.sync.aligned;\n", "");
    assert_eq!(kinds(&PLAIN, &unfenced), [Kind::MissingFence]);
    let no_proxy_fence = PLAIN.text("", wait).replace("fence.proxy.async;", "");
    assert_eq!(kinds(&PLAIN, &no_proxy_fence), [Kind::ProxyFence]);
    let no_barrier = PLAIN.text("", wait).replace("bar.sync 0;", "");
    // The multiply is the later side, and an asynchronous one.
    assert!(kinds(&PLAIN, &no_barrier).contains(&Kind::InFlight));
}

#[test]
fn operands_are_in_use_until_a_wait() {
    let overwrite = "bar.sync 0; st.shared.b32 [%smem+2080], %th;\n";
    let early = PLAIN.text("", &format!("{overwrite}wgmma.wait_group.sync.aligned 0;\n"));
    assert!(kinds(&PLAIN, &early).contains(&Kind::InFlight));
}

#[test]
fn shapes_that_do_not_exist_are_refused() {
    let text = PLAIN.text("", "").replace("m64n64k16", "m64n64k8");
    let mut gpu = attn_sim::Gpu::new();
    let error = gpu.load(&text).and_then(|m| m.kernel("k")).expect_err("there is no such shape");
    assert!(error.to_string().contains("the shape m64n64k8"), "{error}");
}
