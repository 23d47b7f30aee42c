//! The warpgroup multiply: `D = A B (+ D)` with operands as they lie in shared memory.
//!
//! Shared memory holds random words, whatever the layout: which of them enter which sum is the descriptors' meaning, and thereby tested.

use super::matrix::operands;
use super::{Agreement, Arg, Probe};

/// Bytes of shared memory: A's from 0, B's from [`B_AT`].
const IMAGE: u32 = 48 * 1024;
const B_AT: u64 = 10 * 1024;

/// One form of the instruction.
#[derive(Clone, Copy, Debug)]
struct Form {
    /// `D.A.B`.
    formats: &'static str,
    /// Of A, for the choice of values.
    format: &'static str,
    n: u32,
    k: u32,
    /// A comes from registers.
    registers: bool,
    /// Span of the swizzle in bytes; 16 for none.
    span: u64,
    /// Whether A and B are MN-major.
    major: [bool; 2],
    /// `imm-scale-a`, `imm-scale-b`.
    signs: [i32; 2],
    /// Whether D is added.
    accumulate: bool,
    /// Bytes that the operands start behind their panel's start: a later step along K.
    step: u64,
    /// Of values.
    set: usize,
}

const PLAIN: Form = Form {
    formats: "f32.bf16.bf16",
    format: "bf16",
    n: 16,
    k: 16,
    registers: false,
    span: 128,
    major: [false, false],
    signs: [1, 1],
    accumulate: true,
    step: 0,
    set: 1,
};

impl Form {
    fn name(&self) -> String {
        let side = if self.registers { "rs" } else { "ss" };
        let major = self.major.map(|mn| if mn { "mn" } else { "k" }).join(" ");
        let add = if self.accumulate { " +d" } else { "" };
        let signs =
            if self.signs == [1, 1] { String::new() } else { format!(" signs {} {}", self.signs[0], self.signs[1]) };
        let step = if self.step == 0 { String::new() } else { format!(" step {}", self.step) };
        format!(
            "wgmma m64n{}k{} {} {side} {major} swizzle {}{add}{signs}{step} set {}",
            self.n, self.k, self.formats, self.span, self.set
        )
    }

    /// 32-bit registers of D.
    fn d_registers(&self) -> u32 {
        if self.formats.starts_with("f16") { self.n / 4 } else { self.n / 2 }
    }

    /// A descriptor without the address of shared memory; the operand starts at byte `at` of it.
    fn descriptor(&self, mn_major: bool, at: u64) -> u64 {
        let code = match self.span {
            128 => 1,
            64 => 2,
            32 => 3,
            _ => 0u64,
        };
        // Panels of 8 rows, or of 8 keys, follow each other; so do the panels of an MN-major operand, two keys' worth apart.
        let (leading, stride) = match (mn_major, self.span) {
            (false, 16) => (128, 256),
            (false, span) => (16, 8 * span),
            (true, 16) => (128, 256),
            (true, span) => (16 * span, 8 * span),
        };
        (at + self.step) >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | code << 62
    }

    fn ptx(&self) -> String {
        let r = self.d_registers();
        let list = |name: &str, n: u32| (0..n).map(|i| format!("{name}{i}")).collect::<Vec<_>>().join(", ");
        let move_all = |op: &str| {
            (0..r)
                .map(|i| {
                    if op == "ld" {
                        format!("ld.global.b32 d{i}, [x+{}];\n    ", 4 * i)
                    } else {
                        format!("st.global.b32 [x+{}], d{i};\n    ", 4 * i)
                    }
                })
                .collect::<String>()
        };
        let a = if self.registers { format!("{{{}}}", list("a", 4)) } else { "da".to_owned() };
        let majors = match (self.k, self.registers) {
            (16, true) => format!(", {}", u32::from(self.major[1])),
            (16, false) => format!(", {}, {}", u32::from(self.major[0]), u32::from(self.major[1])),
            _ => String::new(),
        };
        format!(
            ".version 8.3
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 image[];
.visible .entry probe(.param .u64 pimage, .param .u64 pa, .param .u64 pd, .param .u64 pda, .param .u64 pdb, .param .u32 padd)
.reqntid 128, 1, 1
{{
    .reg .pred p, more;
    .reg .b32 a<4>, d<{r}>, thread, base, word, at, add;
    .reg .b64 x, offset, da, db, start;
    mov.u32 thread, %tid.x;
    mov.u32 base, image;
    ld.param.u64 x, [pimage];
    mov.u32 word, thread;
copy:
    mul.wide.u32 offset, word, 4;
    add.u64 offset, x, offset;
    ld.global.b32 at, [offset];
    mad.lo.u32 add, word, 4, base;
    st.shared.b32 [add], at;
    add.u32 word, word, 128;
    setp.lt.u32 more, word, {words};
    @more bra copy;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    ld.param.u64 x, [pa];
    mul.wide.u32 offset, thread, 16;
    add.u64 x, x, offset;
    ld.global.v4.b32 {{a0, a1, a2, a3}}, [x];
    ld.param.u64 x, [pd];
    mul.wide.u32 offset, thread, {row};
    add.u64 x, x, offset;
    {loads}and.b32 base, base, 0x3ffff;
    shr.u32 base, base, 4;
    cvt.u64.u32 start, base;
    ld.param.u64 da, [pda];
    add.u64 da, da, start;
    ld.param.u64 db, [pdb];
    add.u64 db, db, start;
    ld.param.u32 add, [padd];
    setp.ne.u32 p, add, 0;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n{n}k{k}.{formats} {{{ds}}}, {a}, db, p, {sa}, {sb}{majors};
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    {stores}ret;
}}
",
            words = IMAGE / 4,
            row = 4 * r,
            loads = move_all("ld"),
            stores = move_all("st"),
            n = self.n,
            k = self.k,
            formats = self.formats,
            ds = list("d", r),
            sa = self.signs[0],
            sb = self.signs[1],
        )
    }

    fn probe(&self) -> Probe {
        let name = self.name();
        let values = |what: &str, format, n| operands(&format!("{what} of {name}"), format, self.set, n);
        let d = if self.formats.starts_with("f16") { "f16" } else { "f32" };
        let args = vec![
            Arg::Input(values("image", self.format, IMAGE as usize / 4)),
            Arg::Input(values("a", self.format, 512)),
            Arg::Output(values("d", d, 128 * self.d_registers() as usize)),
            Arg::Long(self.descriptor(self.major[0], 0)),
            Arg::Long(self.descriptor(self.major[1], B_AT)),
            Arg::Word(u32::from(self.accumulate)),
        ];
        Probe { ptx: self.ptx(), grid: 1, block: 128, shared: IMAGE, args, agreement: Agreement::Bits, name }
    }
}

/// The probes of this module.
pub fn probes() -> Vec<Probe> {
    let mut forms = Vec::new();
    let f16 = Form { formats: "f32.f16.f16", format: "f16", ..PLAIN };
    // Every N.
    for n in (8..=256).step_by(8) {
        forms.push(Form { n, ..PLAIN });
        forms.push(Form { n, registers: true, major: [false, true], span: 64, accumulate: false, ..f16 });
    }
    // Every swizzle and major, from memory and from registers, in both formats and at every step of K that a panel has.
    for base in [PLAIN, f16] {
        for span in [16, 32, 64, 128] {
            for major in [[false, false], [false, true], [true, false], [true, true]] {
                forms.push(Form { span, major, n: 64, set: 0, ..base });
                if !major[0] {
                    forms.push(Form { span, major, n: 64, registers: true, accumulate: false, ..base });
                }
            }
        }
        for set in 0..3 {
            forms.push(Form { set, n: 24, ..base });
            forms.push(Form { set, n: 24, registers: true, accumulate: false, ..base });
        }
    }
    forms.extend([32, 64, 96].map(|step| Form { step, n: 40, ..PLAIN }));
    forms.push(Form { step: 32, span: 64, n: 40, ..PLAIN });
    forms.extend([[-1, 1], [1, -1], [-1, -1]].map(|signs| Form { signs, ..PLAIN }));
    // Other formats.
    let halves = Form { formats: "f16.f16.f16", ..f16 };
    let tf32 = Form { formats: "f32.tf32.tf32", format: "tf32", k: 8, ..PLAIN };
    let e4m3 = Form { formats: "f32.e4m3.e4m3", format: "e4m3", k: 32, ..PLAIN };
    let e5m2 = Form { formats: "f32.e5m2.e5m2", format: "e5m2", k: 32, ..PLAIN };
    let mixed = Form { formats: "f32.e4m3.e5m2", ..e4m3 };
    for base in [halves, tf32, e4m3, e5m2, mixed] {
        for set in 0..3 {
            forms.push(Form { set, ..base });
        }
        forms.push(Form { registers: true, accumulate: false, n: 48, ..base });
    }
    let mut probes: Vec<Probe> = forms.iter().map(Form::probe).collect();
    let mut seen = std::collections::HashSet::new();
    probes.retain(|probe| seen.insert(probe.name.clone()));
    probes
}
