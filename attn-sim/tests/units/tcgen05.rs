//! `tcgen05`: products of every kind, shape, major, swizzle and source of A, of one block and of two; every shape of loads and stores;
//! what is reported of fences, waits and allocations.

use super::tile::{Matrix, Tile, Type, product};
use super::{Setup, epilogue, kernel, prologue, run, run_clean, try_run};
use attn_sim::layout::tmem::{DataPath, Shape};
use attn_sim::report::Kind;

pub(super) const THREADS: usize = 128;

/// Allocates, with the address in `%t`; `%p2` is thread 0, `%r13` the barrier, `%r14` the warp's quarter. Each block of a pair does so.
pub(super) fn setup(group: usize) -> String {
    let meet = if group == 2 {
        "fence.mbarrier_init.release.cluster; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n"
    } else {
        ""
    };
    format!(
        "shr.u32 %r11, %th, 5; setp.eq.u32 %p1, %r11, 0; setp.eq.u32 %p2, %th, 0; mov.u32 %r13, bar; mov.u32 %r12, slot;\n\
         @!%p1 bra ALLOCATED;\n\
         tcgen05.alloc.cta_group::{group}.sync.aligned.shared::cta.b32 [%r12], 512;\n\
         tcgen05.relinquish_alloc_permit.cta_group::{group}.sync.aligned;\n\
         ALLOCATED:\n\
         @%p2 mbarrier.init.shared::cta.b64 [%r13], 1;\n\
         bar.sync 0;\n{meet}\
         ld.shared.b32 %t, [%r12]; shl.b32 %r14, %r11, 21; add.s32 %r14, %r14, %t;\n"
    )
}

/// Waits for the barrier's first phase, then sees what the multiplies wrote.
pub(super) const AWAIT: &str = "AWAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r13], 0; @!%p3 bra AWAIT;\n\
                     tcgen05.fence::after_thread_sync;\n";

/// Frees what `setup` allocated once all threads are done.
pub(super) fn teardown(group: usize) -> String {
    let meet =
        if group == 2 { "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n" } else { "bar.sync 0;\n" };
    format!(
        "tcgen05.fence::before_thread_sync; {meet}@!%p1 bra FREED;\n\
         tcgen05.dealloc.cta_group::{group}.sync.aligned.b32 %t, 512;\nFREED:\n"
    )
}

pub(super) fn list(prefix: &str, n: usize) -> String {
    (0..n).map(|i| format!("%{prefix}{i}")).collect::<Vec<_>>().join(", ")
}

/// A multiply `D = A B^T` over one K, twice.
#[derive(Clone, Copy, Debug)]
struct Case {
    a: Type,
    b: Type,
    d: &'static str,
    m: usize,
    n: usize,
    span: usize,
    a_k_major: bool,
    b_k_major: bool,
    /// A in tensor memory.
    tensor: bool,
    group: usize,
    stationary: bool,
    /// More operands of the first multiply.
    disabled: &'static str,
    scale: &'static str,
    /// A in tensor memory has other signs in lanes 64 to 127, for the right half of the columns.
    two: bool,
    /// Every warp gives tensor memory's own address, with no lanes added to it.
    same_address: bool,
}

const PLAIN: Case = Case {
    a: Type::Bf16,
    b: Type::Bf16,
    d: "f32",
    m: 128,
    n: 64,
    span: 128,
    a_k_major: true,
    b_k_major: true,
    tensor: false,
    group: 1,
    stationary: false,
    disabled: "",
    scale: "",
    two: false,
    same_address: false,
};

/// Column at which A lies in tensor memory.
const A_COLUMN: usize = 256;
/// Registers of A of each thread.
const A_WORDS: usize = 8;

impl Case {
    fn k(&self) -> usize {
        32 / self.a.bytes()
    }

    fn kind(&self) -> &'static str {
        match self.a {
            Type::F16 | Type::Bf16 => "f16",
            Type::Tf32 => "tf32",
            Type::E4m3 | Type::E5m2 | Type::E2m3 | Type::E3m2 | Type::E2m1 => "f8f6f4",
            Type::S8 | Type::U8 => "i8",
        }
    }

    fn path(&self) -> DataPath {
        DataPath::of(self.m as u32, self.group as u32, self.stationary).expect("the case has a data path")
    }

    fn instruction(&self) -> u32 {
        let code = |ty| match ty {
            Type::F16 | Type::E4m3 | Type::U8 => 0,
            Type::Bf16 | Type::E5m2 | Type::S8 => 1,
            Type::Tf32 => 2u32,
            Type::E2m3 => 3,
            Type::E3m2 => 4,
            Type::E2m1 => 5,
        };
        let d = match self.d {
            "f16" => 0,
            "f32" => 1,
            _ => 2u32,
        };
        let majors = u32::from(!self.a_k_major) << 15 | u32::from(!self.b_k_major) << 16;
        d << 4
            | code(self.a) << 7
            | code(self.b) << 10
            | majors
            | (self.n as u32 / 8) << 17
            | (self.m as u32 / 16) << 24
    }

    /// Each block's tiles hold two K, of which the second is used.
    fn tiles(&self) -> (Tile, Tile) {
        let tile = |lines, k_major, ty: Type| Tile {
            span: self.span,
            k_major,
            lines,
            k: 2 * self.k(),
            bytes: ty.bytes(),
            bits: ty.bit_count(),
        };
        (tile(self.m / self.group, self.a_k_major, self.a), tile(self.n / self.group, self.b_k_major, self.b))
    }

    fn matrices(&self) -> (Matrix, Matrix) {
        (Matrix { ty: self.a, seed: 1 }, Matrix { ty: self.b, seed: 5 })
    }

    /// The images of all blocks, and where B begins in each.
    fn image(&self) -> (Vec<u8>, usize) {
        let (a, b) = self.tiles();
        let b_at = a.size().next_multiple_of(1024);
        let bytes = (b_at + b.size()).next_multiple_of(16 * THREADS);
        let mut images = Vec::new();
        let (x, y) = self.matrices();
        for rank in 0..self.group {
            let mut image = vec![0; bytes];
            a.write(&mut image, 0, |r, k| x.bits(rank * a.lines + r, k));
            b.write(&mut image, b_at, |c, k| y.bits(rank * b.lines + c, k));
            images.extend(image);
        }
        (images, b_at)
    }

    /// A's words of each lane of each block.
    fn fragments(&self) -> Vec<u32> {
        let mut words = vec![0; self.group * THREADS * A_WORDS];
        let (a, bits) = (self.matrices().0, 8 * self.a.bytes());
        for row in 0..self.m {
            let (block, lanes) = self.path().a_lanes(row as u32);
            for lane in lanes {
                for k in 0..self.k() {
                    let at = (block as usize * THREADS + lane as usize) * A_WORDS + k * bits / 32;
                    let sign = u32::from(self.two && lane >= 64) << (bits - 1);
                    words[at] |= (a.bits(row, self.k() + k) ^ sign) << (k * bits % 32);
                }
            }
        }
        words
    }

    /// Shape, repetition and registers of the load that fetches D.
    fn load(&self) -> (Shape, String, usize) {
        let columns = match self.path() {
            DataPath::Pair128 | DataPath::Stationary64 => self.n / 2,
            DataPath::Stationary32 => self.n / 4,
            _ => self.n,
        };
        // Sixteen lanes of each quarter are written when M is 64.
        if self.path() == DataPath::Rows64 {
            return (Shape::X16x256, format!("16x256b.x{}", columns / 8), columns / 2);
        }
        (Shape::X32x32, format!("32x32b.x{columns}"), columns)
    }

    fn text(&self) -> String {
        let (image, b_at) = self.image();
        let (a, b) = self.tiles();
        let (_, load, registers) = self.load();
        let group = self.group;
        let ws = if self.stationary { ".ws" } else { "" };
        let place = if self.same_address { "%t" } else { "%r14" };
        let a_operand = if self.tensor { format!("[%t+{A_COLUMN}]") } else { "%da".into() };
        let mma = |disabled: &str, accumulate: u32, scale: &str| {
            format!(
                "tcgen05.mma{ws}.cta_group::{group}.kind::{} [%t], {a_operand}, %db, {:#x}{disabled}, {accumulate}{scale};\n",
                self.kind(),
                self.instruction()
            )
        };
        let store = format!(
            "mad.lo.u32 %r16, %rank, 128, %th; ld.param.u64 %rd6, [fragments]; mul.wide.u32 %rd7, %r16, 32; add.s64 %rd6, %rd6, %rd7;\n\
             ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%rd6]; ld.global.v4.b32 {{%a4, %a5, %a6, %a7}}, [%rd6+16];\n\
             tcgen05.st.sync.aligned.32x32b.x8.b32 [{place}+{A_COLUMN}], {{{}}};\n\
             tcgen05.wait::st.sync.aligned; tcgen05.fence::before_thread_sync; {}\n",
            list("a", A_WORDS),
            if group == 2 { "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" } else { "bar.sync 0;" }
        );
        let multicast = if group == 2 { (".multicast::cluster", ", 3") } else { ("", "") };
        let commit = format!(
            "tcgen05.commit.cta_group::{group}.mbarrier::arrive::one.shared::cluster{}.b64 [%r13]{};\n",
            multicast.0, multicast.1
        );
        let body = prologue(THREADS, image.len() / group)
            + &setup(group)
            + &format!(
                "add.s64 %da, %field, {:#x};\nadd.s64 %db, %field, {:#x};\n",
                a.tcgen05(0, self.k()),
                b.tcgen05(b_at, self.k())
            )
            + if self.tensor { &store } else { "" }
            + "or.b32 %r15, %th, %rank; setp.ne.u32 %p0, %r15, 0; @%p0 bra ISSUED;\n"
            + if self.tensor { "tcgen05.fence::after_thread_sync;\n" } else { "" }
            + &mma("", 0, "")
            + &mma(self.disabled, 1, self.scale)
            + &commit
            + "ISSUED:\n"
            + AWAIT
            + &format!("tcgen05.ld.sync.aligned.{load}.b32 {{{}}}, [{place}];\n", list("d", registers))
            + "tcgen05.wait::ld.sync.aligned;\n"
            + &epilogue(registers)
            + &teardown(group);
        kernel("sm_100a", &body)
    }

    fn run(&self, text: &str) -> (Vec<u32>, attn_sim::Run) {
        run(&self.setup(text, &self.image().0, &self.fragments()))
    }

    fn setup<'a>(&self, text: &'a str, image: &'a [u8], fragments: &'a [u32]) -> Setup<'a> {
        let out = self.group * THREADS * self.load().2;
        Setup { text, image, fragments, out, threads: THREADS, cluster: self.group as u32, seed: 3 }
    }

    fn read(&self, word: u32) -> f32 {
        match self.d {
            "f16" => half::f16::from_bits(word as u16).to_f32(),
            "f32" => f32::from_bits(word),
            _ => word as i32 as f32,
        }
    }

    /// Checks D against `factor(row)` times the product of one multiply.
    fn check_factor(&self, factor: impl Fn(usize) -> f32) {
        self.check_factors(|row, _| factor(row));
    }

    /// The same, for each row and column.
    fn check_factors(&self, factor: impl Fn(usize, usize) -> f32) {
        let text = self.text();
        let out = run_clean(&self.setup(&text, &self.image().0, &self.fragments()));
        let (shape, _, registers) = self.load();
        let mut cells = std::collections::HashMap::new();
        for (i, &word) in out.iter().enumerate() {
            let (thread, register) = (i / registers, i % registers);
            let cell = shape.cell(thread as u32 % 32, register as u32, 0);
            let lane = (thread % THREADS) as u32 / 32 * 32 + cell.lane;
            cells.insert((thread / THREADS, lane, cell.column), word);
        }
        let (a, b) = self.matrices();
        for row in 0..self.m {
            for column in 0..self.n {
                let (block, cell) = self.path().cell(row as u32, column as u32, self.n as u32);
                let got = self.read(cells[&(block as usize, cell.lane, cell.column)]);
                let expected = factor(row, column) * product(&a, &b, row, column, self.k()..2 * self.k()) as f32;
                assert_eq!(got, expected, "{self:?} row {row} column {column}");
            }
        }
    }

    fn check(&self) {
        self.check_factor(|_| 2.0);
    }
}

#[test]
fn every_type_and_height() {
    for (a, b, d) in [
        (Type::F16, Type::F16, "f32"),
        (Type::F16, Type::F16, "f16"),
        (Type::Bf16, Type::Bf16, "f32"),
        (Type::Tf32, Type::Tf32, "f32"),
        (Type::E4m3, Type::E5m2, "f32"),
        (Type::E5m2, Type::E4m3, "f16"),
        (Type::S8, Type::U8, "s32"),
    ] {
        for m in [64, 128] {
            for tensor in [false, true] {
                Case { a, b, d, m, tensor, n: 32, ..PLAIN }.check();
            }
        }
    }
}

/// Elements of 4 and 6 bits, sixteen to 16 bytes, in either major and with those of 8 bits.
#[test]
fn narrow_elements() {
    let types = [Type::E2m1, Type::E2m3, Type::E3m2, Type::E4m3];
    for a in types {
        for b in types {
            for majors in 0..4 {
                let (a_k_major, b_k_major) = (majors & 1 == 0, majors & 2 == 0);
                Case { a, b, a_k_major, b_k_major, n: 128, ..PLAIN }.check();
            }
        }
    }
}

#[test]
fn every_major_and_swizzle() {
    for span in [0, 32, 64, 128] {
        for majors in 0..4 {
            let (a_k_major, b_k_major) = (majors & 1 == 0, majors & 2 == 0);
            Case { span, a_k_major, b_k_major, ..PLAIN }.check();
            Case { span, a_k_major, b_k_major, a: Type::E4m3, b: Type::E4m3, ..PLAIN }.check();
            if a_k_major {
                Case { span, b_k_major, tensor: true, n: 128, ..PLAIN }.check();
            }
        }
    }
}

#[test]
fn pairs_of_blocks() {
    for m in [128, 256] {
        for n in [32, 128] {
            Case { group: 2, m, n, ..PLAIN }.check();
            Case { group: 2, m, n, b_k_major: false, span: if n == 32 { 32 } else { 128 }, ..PLAIN }.check();
            Case { group: 2, m, n, tensor: true, ..PLAIN }.check();
        }
    }
    Case { group: 2, m: 256, a: Type::S8, b: Type::S8, d: "s32", ..PLAIN }.check();
}

#[test]
fn weight_stationary() {
    for m in [32, 64, 128] {
        for tensor in [false, true] {
            Case { stationary: true, m, n: 64, tensor, ..PLAIN }.check();
        }
    }
    Case { stationary: true, m: 64, n: 64, scale: ", 0", ..PLAIN }.check();
}

#[test]
fn each_half_of_the_columns_has_the_a_of_its_lanes() {
    for (m, group) in [(64, 1), (128, 2)] {
        let case = Case { stationary: group == 1, group, m, n: 64, tensor: true, two: true, ..PLAIN };
        case.check_factors(|_, column| if column < 32 { 2.0 } else { -2.0 });
    }
}

#[test]
fn warps_may_leave_their_lanes_to_the_hardware() {
    Case { tensor: true, same_address: true, ..PLAIN }.check();
    Case { m: 64, same_address: true, ..PLAIN }.check();
}

#[test]
fn masked_columns_are_refused() {
    let case = Case { stationary: true, scale: ", 0x8000000000", ..PLAIN };
    let text = case.text();
    let error = try_run(&case.setup(&text, &case.image().0, &case.fragments())).expect_err("no mask is modelled");
    assert!(error.to_string().contains("masked"), "{error}");
}

#[test]
fn disabled_lanes_and_scaled_accumulators() {
    // Lanes 0 to 31 and lane 127 keep the first product.
    let disabled = Case { disabled: ", {-1, 0, 0, 0x80000000}", ..PLAIN };
    disabled.check_factor(|row| if row < 32 || row == 127 { 1.0 } else { 2.0 });
    Case { scale: ", 3", ..PLAIN }.check_factor(|_| 1.125);
}

/// Kinds of the findings of a kernel with some text replaced.
fn kinds(case: &Case, from: &str, to: &str) -> Vec<Kind> {
    let text = case.text();
    assert!(text.contains(from), "{from}");
    let mut kinds: Vec<Kind> = case.run(&text.replace(from, to)).1.findings.iter().map(|f| f.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[test]
fn missing_waits_and_fences_are_reported() {
    let tensor = Case { tensor: true, ..PLAIN };
    // Other warps come too early in most orders, and then find nothing.
    assert!(kinds(&PLAIN, AWAIT, "tcgen05.fence::after_thread_sync;\n").contains(&Kind::InFlight));
    assert_eq!(kinds(&PLAIN, "bra AWAIT;\ntcgen05.fence::after_thread_sync;", "bra AWAIT;\n"), [Kind::TensorOrder]);
    assert_eq!(kinds(&PLAIN, "tcgen05.wait::ld.sync.aligned;", ""), [Kind::TensorOrder]);
    assert_eq!(kinds(&tensor, "tcgen05.wait::st.sync.aligned;", ""), [Kind::InFlight]);
    assert_eq!(kinds(&tensor, "tcgen05.fence::before_thread_sync; bar.sync", "bar.sync"), [Kind::TensorOrder]);
    assert_eq!(kinds(&tensor, "bra ISSUED;\ntcgen05.fence::after_thread_sync;", "bra ISSUED;\n"), [Kind::TensorOrder]);
    assert_eq!(kinds(&PLAIN, "fence.proxy.async;", ""), [Kind::ProxyFence]);
    assert_eq!(kinds(&PLAIN, "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %t, 512;", ""), [Kind::TensorMemory]);
}

/// A store in one shape and a load in another: cells are where the shape says.
fn moved(store: &str, load: &str, repeat: (usize, usize), registers: (usize, usize), half: (&str, &str)) -> Vec<u32> {
    let values = (0..registers.0).fold(String::new(), |s, i| s + &format!("mad.lo.u32 %a{i}, %th, 1024, {i};\n"));
    let body = prologue(THREADS, 16 * THREADS)
        + &setup(1)
        + &values
        + &format!(
            "tcgen05.st.sync.aligned.{store}.x{}.b32 [%r14]{}, {{{}}};\n",
            repeat.0,
            half.0,
            list("a", registers.0)
        )
        + "tcgen05.wait::st.sync.aligned;\n"
        + &format!(
            "tcgen05.ld.sync.aligned.{load}.x{}.b32 {{{}}}, [%r14]{};\n",
            repeat.1,
            list("d", registers.1),
            half.1
        )
        + "tcgen05.wait::ld.sync.aligned;\n"
        + &epilogue(registers.1)
        + &teardown(1);
    let text = kernel("sm_100a", &body);
    let image = vec![0; 16 * THREADS];
    run_clean(&Setup {
        text: &text,
        image: &image,
        fragments: &[],
        out: THREADS * registers.1,
        threads: THREADS,
        cluster: 1,
        seed: 1,
    })
}

#[test]
fn every_shape_of_loads_and_stores() {
    let shapes = [("16x64b", Shape::X16x64), ("16x128b", Shape::X16x128), ("16x256b", Shape::X16x256)];
    let value = |t: usize, i: usize| (1024 * t + i) as u32;
    for (name, shape) in shapes {
        for (other, to) in shapes {
            // Sixteen lanes of 32 columns.
            let registers = 16;
            let repeats = [shape, to].map(|s| registers / s.registers() as usize);
            let out = moved(name, other, (repeats[0], repeats[1]), (registers, registers), ("", ""));
            for warp in 0..4 {
                let mut cells = std::collections::HashMap::new();
                for t in 0..32 {
                    for i in 0..registers {
                        cells.insert(shape.cell(t, i as u32, 0), value(32 * warp + t as usize, i));
                    }
                }
                for t in 0..32 {
                    for i in 0..registers {
                        let got = out[(32 * warp + t as usize) * registers + i];
                        assert_eq!(got, cells[&to.cell(t, i as u32, 0)], "{name} {other}");
                    }
                }
            }
        }
    }
    let same = moved("32x32b", "32x32b", (32, 32), (32, 32), ("", ""));
    assert!(same.iter().enumerate().all(|(i, v)| *v == value(i / 32, i % 32)));
    // Two halves of sixteen lanes, 40 columns apart, against their own places.
    let halves = moved("16x32bx2", "16x32bx2", (8, 8), (8, 8), (", 40", ", 40"));
    assert!(halves.iter().enumerate().all(|(i, v)| *v == value(i / 8, i % 8)));
}

#[test]
fn packing_takes_two_columns_for_a_register() {
    // Unpacked stores put both halves of a register into columns of their own; a plain load shows them.
    let body = |st: &str, ld: &str, n: usize, m: usize| {
        let values = (0..n).fold(String::new(), |s, i| s + &format!("mad.lo.u32 %a{i}, %th, 65536, {};\n", 100 + i));
        let body = prologue(THREADS, 16 * THREADS)
            + &setup(1)
            + &values
            + &format!("tcgen05.st.sync.aligned.32x32b.x{n}{st}.b32 [%r14], {{{}}};\n", list("a", n))
            + "tcgen05.wait::st.sync.aligned;\n"
            + &format!("tcgen05.ld.sync.aligned.32x32b.x{m}{ld}.b32 {{{}}}, [%r14];\n", list("d", m))
            + "tcgen05.wait::ld.sync.aligned;\n"
            + &epilogue(m)
            + &teardown(1);
        let text = kernel("sm_100a", &body);
        let image = vec![0; 16 * THREADS];
        run_clean(&Setup {
            text: &text,
            image: &image,
            fragments: &[],
            out: THREADS * m,
            threads: THREADS,
            cluster: 1,
            seed: 1,
        })
    };
    let unpacked = body(".unpack::16b", "", 4, 8);
    assert!(unpacked.iter().enumerate().all(|(i, v)| {
        let (t, column) = (i as u32 / 8, i as u32 % 8);
        *v == if column % 2 == 0 { 100 + column / 2 } else { t }
    }));
    let packed = body(".unpack::16b", ".pack::16b", 4, 4);
    assert!(packed.iter().enumerate().all(|(i, v)| *v == (i as u32 / 4) << 16 | (100 + i as u32 % 4)));
}

#[test]
fn loads_reduce() {
    let values = (0..4).fold(String::new(), |s, i| s + &format!("mad.lo.s32 %a{i}, %th, {}, 7;\n", [3, -5, 2, 1][i]));
    let body = prologue(THREADS, 16 * THREADS)
        + &setup(1)
        + &values
        + "tcgen05.st.sync.aligned.32x32b.x4.b32 [%r14], {%a0, %a1, %a2, %a3}; tcgen05.wait::st.sync.aligned;\n"
        + "tcgen05.ld.red.sync.aligned.32x32b.x4.min.s32 {%a4, %a5, %a6, %a7}, %d0, [%r14]; tcgen05.wait::ld.sync.aligned;\n"
        + &epilogue(1)
        + &teardown(1);
    let text = kernel("sm_103a", &body);
    let image = vec![0; 16 * THREADS];
    let setup =
        Setup { text: &text, image: &image, fragments: &[], out: THREADS, threads: THREADS, cluster: 1, seed: 1 };
    assert!(run_clean(&setup).iter().enumerate().all(|(t, v)| *v as i32 == 7 - 5 * t as i32));
}

/// Rows of shared memory arrive in the lanes of the shape.
#[test]
fn copies_to_tensor_memory() {
    let lanes_of = |shape: &str, row: u32| -> Vec<u32> {
        match shape {
            "128x256b" | "128x128b" => vec![row],
            "64x128b.warpx2::02_13" => vec![row, row + 64],
            "64x128b.warpx2::01_23" => vec![row / 32 * 64 + row % 32, row / 32 * 64 + 32 + row % 32],
            _ => vec![row, row + 32, row + 64, row + 96],
        }
    };
    for (shape, rows, columns) in [
        ("128x256b", 128, 8),
        ("128x128b", 128, 4),
        ("64x128b.warpx2::02_13", 64, 4),
        ("64x128b.warpx2::01_23", 64, 4),
        ("32x128b.warpx4", 32, 4),
    ] {
        let tile = Tile { span: 32, k_major: true, lines: rows, k: 8, bytes: 4, bits: 32 };
        let mut image = vec![0; tile.size().next_multiple_of(16 * THREADS)];
        tile.write(&mut image, 0, |r, k| (100 * r + k) as u32);
        let body = prologue(THREADS, image.len())
            + &setup(1)
            + &format!("add.s64 %da, %field, {:#x};\n@!%p2 bra ISSUED;\n", tile.tcgen05(0, 0))
            + &format!("tcgen05.cp.cta_group::1.{shape} [%t], %da;\n")
            + "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r13];\nISSUED:\n"
            + AWAIT
            + &format!("tcgen05.ld.sync.aligned.32x32b.x{columns}.b32 {{{}}}, [%r14];\n", list("d", columns))
            + "tcgen05.wait::ld.sync.aligned;\n"
            + &epilogue(columns)
            + &teardown(1);
        let text = kernel("sm_100a", &body);
        let out = run_clean(&Setup {
            text: &text,
            image: &image,
            fragments: &[],
            out: THREADS * columns,
            threads: THREADS,
            cluster: 1,
            seed: 1,
        });
        for row in 0..rows as u32 {
            for lane in lanes_of(shape, row) {
                for k in 0..columns {
                    assert_eq!(out[lane as usize * columns + k], 100 * row + k as u32, "{shape} row {row}");
                }
            }
        }
    }
}
