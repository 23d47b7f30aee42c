//! Instructions of one thread, or of one warp, on words.

use super::values::{self, Kind};
use super::{Agreement, Arg, Probe};
use crate::precision::Precision;

/// Threads of a block.
const BLOCK: u32 = 128;
/// Blocks: 512 threads, each with a triple of its own.
const GRID: u32 = 4;
/// Blocks of a probe that sweeps over its inputs.
const SWEEP_GRID: u32 = 32;

/// `body` computes `d` of `a`, `b` and `c` (32 bits each). It may use predicates `p` and `q`, 16-bit `h`, `k`, 32-bit `u` and `v`, 64-bit `w`
/// and `x`, and 16 bytes of shared memory of its own thread at `s`.
fn module(body: &str) -> String {
    format!(
        ".version 8.3
.target sm_90a
.address_size 64
.visible .entry probe(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd)
.reqntid {BLOCK}, 1, 1
{{
    .reg .pred p, q;
    .reg .b16 h, k;
    .reg .b32 a, b, c, d, s, u, v, thread, index;
    .reg .b64 w, x, offset;
    .shared .align 16 .b8 cells[2048];
    mov.u32 thread, %tid.x;
    mov.u32 index, %ctaid.x;
    mad.lo.u32 index, index, {BLOCK}, thread;
    mul.wide.u32 offset, index, 4;
    ld.param.u64 x, [pa];
    add.u64 x, x, offset;
    ld.global.b32 a, [x];
    ld.param.u64 x, [pb];
    add.u64 x, x, offset;
    ld.global.b32 b, [x];
    ld.param.u64 x, [pc];
    add.u64 x, x, offset;
    ld.global.b32 c, [x];
    mov.u32 s, cells;
    mad.lo.u32 s, thread, 16, s;
    {body}
    ld.param.u64 x, [pd];
    add.u64 x, x, offset;
    st.global.b32 [x], d;
    ret;
}}
"
    )
}

/// The list under construction.
struct List(Vec<Probe>);

impl List {
    fn add(&mut self, name: &str, kind: Kind, body: &str) {
        self.near(name, kind, body, Agreement::Bits);
    }

    fn near(&mut self, name: &str, kind: Kind, body: &str, agreement: Agreement) {
        let grid = if matches!(kind, Kind::Sweep | Kind::HalfSweep) { SWEEP_GRID } else { GRID };
        let n = (grid * BLOCK) as usize;
        let [a, b, c] = values::triples(name, kind, n).map(Arg::Input);
        let args = vec![a, b, c, Arg::Output(vec![0; n])];
        let name = name.to_owned();
        self.0.push(Probe { name, ptx: module(body), grid, block: BLOCK, shared: 0, args, agreement });
    }

    /// An instruction whose name says everything: `op d, a, ..` with this many operands.
    fn plain(&mut self, kind: Kind, operands: usize, op: &str) {
        let list = ["a", "b", "c"][..operands].join(", ");
        self.add(op, kind, &format!("{op} d, {list};"));
    }

    /// As [`List::plain`], with a 16-bit result.
    fn narrow(&mut self, kind: Kind, operands: usize, op: &str) {
        let list = ["a", "b", "c"][..operands].join(", ");
        self.add(op, kind, &format!("{op} h, {list}; cvt.u32.u16 d, h;"));
    }

    /// As [`List::plain`] with one 16-bit operand: the lower half of `a`.
    fn widen(&mut self, kind: Kind, op: &str) {
        self.add(op, kind, &format!("cvt.u16.u32 h, a; {op} d, h;"));
    }
}

/// The probes of this module.
pub fn probes() -> Vec<Probe> {
    let mut list = List(Vec::new());
    float(&mut list);
    compare(&mut list);
    halves(&mut list);
    convert(&mut list);
    approximate(&mut list);
    integer(&mut list);
    warp(&mut list);
    atomic(&mut list);
    mbarrier(&mut list);
    list.0
}

const ROUNDINGS: [&str; 4] = ["rn", "rz", "rm", "rp"];

fn float(list: &mut List) {
    for round in ROUNDINGS {
        for tail in ["", ".ftz", ".sat", ".ftz.sat"] {
            for (op, operands) in [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3)] {
                list.plain(Kind::Float, operands, &format!("{op}.{round}{tail}.f32"));
            }
        }
        for tail in ["", ".ftz"] {
            list.plain(Kind::Float, 2, &format!("div.{round}{tail}.f32"));
            list.plain(Kind::Float, 1, &format!("rcp.{round}{tail}.f32"));
            list.plain(Kind::Float, 1, &format!("sqrt.{round}{tail}.f32"));
        }
    }
    for op in ["min", "max"] {
        for tail in ["", ".ftz", ".NaN", ".ftz.NaN", ".xorsign.abs", ".NaN.xorsign.abs"] {
            list.plain(Kind::Float, 2, &format!("{op}{tail}.f32"));
        }
    }
    for op in ["abs", "neg"] {
        list.plain(Kind::Float, 1, &format!("{op}.f32"));
        list.plain(Kind::Float, 1, &format!("{op}.ftz.f32"));
    }
    list.plain(Kind::Float, 2, "copysign.f32");
    for class in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
        let op = format!("testp.{class}.f32");
        list.add(&op, Kind::Float, &format!("{op} p, a; selp.u32 d, 1, 0, p;"));
    }
    for round in ROUNDINGS {
        let body = format!(
            "mov.b64 w, {{a, b}}; mov.b64 x, {{b, c}}; fma.{round}.f64 w, w, x, w; mov.b64 {{u, v}}, w; xor.b32 d, u, v;"
        );
        list.add(&format!("fma.{round}.f64"), Kind::Float, &body);
    }
}

fn compare(list: &mut List) {
    for test in ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"] {
        for tail in ["", ".ftz"] {
            let op = format!("setp.{test}{tail}.f32");
            list.add(&op, Kind::Float, &format!("{op} p, a, b; selp.u32 d, 1, 0, p;"));
        }
        for (format, kind) in [("f16x2", Kind::Half), ("bf16x2", Kind::Brain)] {
            let op = format!("setp.{test}.{format}");
            list.add(&op, kind, &format!("{op} p|q, a, b; selp.u32 u, 1, 0, p; selp.u32 v, 2, 0, q; or.b32 d, u, v;"));
        }
    }
    for test in ["eq", "lt", "hi", "ls"] {
        let op = format!("setp.{test}.u32");
        list.add(&op, Kind::Int, &format!("{op} p, a, b; selp.u32 d, 1, 0, p;"));
    }
    list.plain(Kind::Float, 2, "set.lt.u32.f32");
    list.plain(Kind::Float, 2, "set.geu.ftz.f32.f32");
    list.plain(Kind::Float, 3, "slct.f32.f32");
}

fn halves(list: &mut List) {
    for op in ["add", "sub", "mul"] {
        for tail in ["", ".rn", ".ftz", ".sat", ".rn.ftz.sat"] {
            list.plain(Kind::Half, 2, &format!("{op}{tail}.f16x2"));
        }
        list.plain(Kind::Brain, 2, &format!("{op}.rn.bf16x2"));
    }
    for tail in ["", ".ftz", ".sat", ".relu", ".ftz.relu"] {
        list.plain(Kind::Half, 3, &format!("fma.rn{tail}.f16x2"));
    }
    list.plain(Kind::Brain, 3, "fma.rn.bf16x2");
    list.plain(Kind::Brain, 3, "fma.rn.relu.bf16x2");
    for op in ["min", "max"] {
        for tail in ["", ".NaN", ".xorsign.abs"] {
            list.plain(Kind::Half, 2, &format!("{op}{tail}.f16x2"));
            list.plain(Kind::Brain, 2, &format!("{op}{tail}.bf16x2"));
        }
        list.plain(Kind::Half, 2, &format!("{op}.ftz.f16x2"));
    }
    for op in ["abs", "neg"] {
        list.plain(Kind::Half, 1, &format!("{op}.f16x2"));
        list.plain(Kind::Brain, 1, &format!("{op}.bf16x2"));
    }
}

fn convert(list: &mut List) {
    for round in ["rn", "rz"] {
        for tail in ["", ".relu", ".satfinite", ".relu.satfinite"] {
            for format in ["f16x2", "bf16x2"] {
                if tail.contains("satfinite") && round == "rz" {
                    continue;
                }
                list.plain(Kind::Float, 2, &format!("cvt.{round}{tail}.{format}.f32"));
            }
        }
        for tail in ["", ".relu"] {
            list.narrow(Kind::Float, 1, &format!("cvt.{round}{tail}.bf16.f32"));
            list.narrow(Kind::Float, 1, &format!("cvt.{round}{tail}.f16.f32"));
        }
    }
    for op in ["cvt.rm.f16.f32", "cvt.rp.f16.f32", "cvt.rn.ftz.f16.f32", "cvt.rn.sat.f16.f32"] {
        list.narrow(Kind::Float, 1, op);
    }
    for format in ["e4m3x2", "e5m2x2"] {
        for tail in ["", ".relu"] {
            list.narrow(Kind::Float, 2, &format!("cvt.rn.satfinite{tail}.{format}.f32"));
            list.narrow(Kind::Half, 1, &format!("cvt.rn.satfinite{tail}.{format}.f16x2"));
            list.widen(Kind::Int, &format!("cvt.rn{tail}.f16x2.{format}"));
        }
    }
    list.plain(Kind::Float, 1, "cvt.rna.tf32.f32");
    list.plain(Kind::Float, 1, "cvt.rn.tf32.f32");
    list.plain(Kind::Float, 1, "cvt.rz.relu.tf32.f32");
    for op in ["cvt.f32.f16", "cvt.ftz.f32.f16", "cvt.sat.f32.f16"] {
        list.widen(Kind::Half, op);
    }
    list.widen(Kind::Brain, "cvt.f32.bf16");
    for round in ["rni", "rzi", "rmi", "rpi"] {
        for tail in ["", ".ftz", ".sat", ".ftz.sat"] {
            list.plain(Kind::Float, 1, &format!("cvt.{round}{tail}.f32.f32"));
        }
        for to in ["s32", "u32"] {
            list.plain(Kind::Float, 1, &format!("cvt.{round}.{to}.f32"));
            list.plain(Kind::Float, 1, &format!("cvt.{round}.ftz.{to}.f32"));
            list.widen(Kind::Half, &format!("cvt.{round}.{to}.f16"));
        }
        for to in ["s16", "u16", "s8", "u8"] {
            // An 8-bit result is extended to its register by its sign.
            list.narrow(Kind::Float, 1, &format!("cvt.{round}.{to}.f32"));
        }
        for to in ["s64", "u64"] {
            let op = format!("cvt.{round}.{to}.f32");
            list.add(
                &op,
                Kind::Float,
                &format!("{op} w, a; mov.b64 {{u, v}}, w; shf.l.wrap.b32 v, v, v, 1; xor.b32 d, u, v;"),
            );
        }
    }
    for round in ROUNDINGS {
        for from in ["s32", "u32"] {
            list.plain(Kind::Int, 1, &format!("cvt.{round}.f32.{from}"));
            list.narrow(Kind::Int, 1, &format!("cvt.{round}.f16.{from}"));
        }
        list.add(
            &format!("cvt.{round}.f32.s64"),
            Kind::Int,
            &format!("mov.b64 w, {{a, b}}; cvt.{round}.f32.s64 d, w;"),
        );
        list.add(
            &format!("cvt.{round}.f32.f64"),
            Kind::Float,
            &format!("mov.b64 w, {{a, b}}; cvt.{round}.f32.f64 d, w;"),
        );
    }
    list.add("cvt.f64.f32", Kind::Float, "cvt.f64.f32 w, a; mov.b64 {u, v}, w; xor.b32 d, u, v;");
    for op in ["cvt.sat.s8.s32", "cvt.sat.u8.s32", "cvt.sat.u8.u32", "cvt.sat.s16.s32", "cvt.sat.u16.s32", "cvt.s8.s32"]
    {
        list.narrow(Kind::Int, 1, op);
    }
    list.plain(Kind::Int, 1, "cvt.sat.s32.u32");
    list.plain(Kind::Int, 1, "cvt.sat.u32.s32");
}

fn approximate(list: &mut List) {
    for (op, ulps, absolute) in [
        ("ex2.approx", 2, 0.0),
        ("lg2.approx", 4, 1e-6),
        ("rcp.approx", 1, 0.0),
        ("sqrt.approx", 2, 0.0),
        ("rsqrt.approx", 2, 0.0),
    ] {
        for tail in ["", ".ftz"] {
            let op = format!("{op}{tail}.f32");
            list.near(&op, Kind::Sweep, &format!("{op} d, a;"), Agreement::Ulps(ulps, absolute));
        }
    }
    // The ranges that matter, which a sweep over all patterns meets too rarely.
    let body = "and.b32 u, a, 0xffffff; cvt.rn.f32.u32 v, u; mul.f32 v, v, 0fB6000000; ex2.approx.ftz.f32 d, v;";
    list.near("ex2.approx.ftz.f32 (0 to -32)", Kind::Sweep, body, Agreement::Ulps(2, 0.0));
    let body = "and.b32 u, a, 0xffffff; or.b32 u, u, 0x3f000000; lg2.approx.ftz.f32 d, u;";
    list.near("lg2.approx.ftz.f32 (0.5 to 2)", Kind::Sweep, body, Agreement::Ulps(4, 1e-6));
    for op in ["sin.approx.ftz.f32", "cos.approx.ftz.f32"] {
        let body =
            format!("and.b32 u, a, 0xffffff; cvt.rn.f32.s32 v, u; fma.rn.f32 v, v, 0f34C00000, 0fC0400000; {op} d, v;");
        list.near(&format!("{op} (-3 to 3)"), Kind::Sweep, &body, Agreement::Ulps(2, 1e-6));
    }
    list.near("tanh.approx.f32", Kind::Sweep, "tanh.approx.f32 d, a;", Agreement::Ulps(1 << 13, 0.0));
    list.near("div.approx.f32", Kind::Float, "div.approx.f32 d, a, b;", Agreement::Ulps(2, 0.0));
    list.near("div.full.f32", Kind::Float, "div.full.f32 d, a, b;", Agreement::Ulps(2, 0.0));
    for (op, format) in [
        ("ex2.approx.f16x2", Precision::F16),
        ("tanh.approx.f16x2", Precision::F16),
        ("ex2.approx.ftz.bf16x2", Precision::Bf16),
        ("tanh.approx.bf16x2", Precision::Bf16),
    ] {
        list.near(op, Kind::HalfSweep, &format!("{op} d, a;"), Agreement::HalfUlps(2, format));
    }
}

fn integer(list: &mut List) {
    for ty in ["s32", "u32"] {
        for op in ["add", "sub", "mul.lo", "mul.hi", "mul24.lo", "mul24.hi", "min", "max", "shr", "div", "rem"] {
            let op = format!("{op}.{ty}");
            if op.starts_with("div") || op.starts_with("rem") {
                // A divisor of zero has no defined result.
                list.add(&op, Kind::Int, &format!("max.u32 b, b, 1; {op} d, a, b;"));
            } else {
                list.plain(Kind::Int, 2, &op);
            }
        }
        for op in ["mad.lo", "mad.hi", "mad24.lo", "sad"] {
            list.plain(Kind::Int, 3, &format!("{op}.{ty}"));
        }
        list.plain(Kind::Int, 1, &format!("bfind.{ty}"));
        list.plain(Kind::Int, 1, &format!("bfind.shiftamt.{ty}"));
        list.add(
            &format!("bfe.{ty}"),
            Kind::Int,
            &format!("and.b32 b, b, 0xff; and.b32 c, c, 0xff; bfe.{ty} d, a, b, c;"),
        );
        let body = format!("mul.wide.{ty} w, a, b; mov.b64 {{u, v}}, w; shf.l.wrap.b32 v, v, v, 1; xor.b32 d, u, v;");
        list.add(&format!("mul.wide.{ty}"), Kind::Int, &body);
        list.plain(Kind::Int, 3, &format!("dp4a.{ty}.{ty}"));
        list.plain(Kind::Int, 3, &format!("dp2a.lo.{ty}.{ty}"));
    }
    list.plain(Kind::Int, 3, "dp4a.u32.s32");
    for op in ["add.sat.s32", "sub.sat.s32", "and.b32", "or.b32", "xor.b32", "shl.b32"] {
        list.plain(Kind::Int, 2, op);
    }
    list.plain(Kind::Int, 3, "mad.hi.sat.s32");
    for op in ["abs.s32", "neg.s32", "not.b32", "cnot.b32", "brev.b32", "clz.b32", "popc.b32"] {
        list.plain(Kind::Int, 1, op);
    }
    for op in ["shf.l.wrap.b32", "shf.l.clamp.b32", "shf.r.wrap.b32", "shf.r.clamp.b32"] {
        list.plain(Kind::Int, 3, op);
    }
    for mode in ["", ".f4e", ".b4e", ".rc8", ".ecl", ".ecr", ".rc16"] {
        list.plain(Kind::Int, 3, &format!("prmt.b32{mode}"));
    }
    for table in ["0x96", "0xe8", "0xca", "0x01"] {
        list.add(&format!("lop3.b32 {table}"), Kind::Int, &format!("lop3.b32 d, a, b, c, {table};"));
    }
    list.add("bfi.b32", Kind::Int, "and.b32 u, c, 0xff; shr.u32 v, c, 24; bfi.b32 d, a, b, u, v;");
    list.add("bmsk.clamp.b32", Kind::Int, "bmsk.clamp.b32 d, a, b;");
    list.add("szext.wrap.s32", Kind::Int, "szext.wrap.s32 d, a, b;");
    list.add("fns.b32", Kind::Int, "and.b32 b, b, 31; and.b32 c, c, 7; sub.s32 c, c, 4; fns.b32 d, a, b, c;");
    list.add("add.cc/addc", Kind::Int, "add.cc.u32 u, a, b; addc.cc.u32 v, c, a; addc.u32 d, u, v;");
    list.add("sub.cc/subc", Kind::Int, "sub.cc.u32 u, a, b; subc.cc.u32 v, c, a; subc.u32 d, u, v;");
    list.add("mad.lo.cc/madc.hi", Kind::Int, "mad.lo.cc.u32 u, a, b, c; madc.hi.u32 d, a, b, c;");
    list.add("shl.b64", Kind::Int, "mov.b64 w, {a, b}; shl.b64 w, w, c; mov.b64 {u, v}, w; xor.b32 d, u, v;");
    list.add("shr.s64", Kind::Int, "mov.b64 w, {a, b}; shr.s64 w, w, c; mov.b64 {u, v}, w; xor.b32 d, u, v;");
    list.add(
        "mul.hi.u64",
        Kind::Int,
        "mov.b64 w, {a, b}; mov.b64 x, {b, c}; mul.hi.u64 w, w, x; mov.b64 {u, v}, w; xor.b32 d, u, v;",
    );
}

fn warp(list: &mut List) {
    for mode in ["idx", "bfly", "up", "down"] {
        // The last operand: a clamp alone, and one with segments of 8 lanes.
        for last in if mode == "up" { ["0", "0x1800"] } else { ["31", "0x181f"] } {
            let body =
                format!("shfl.sync.{mode}.b32 d|p, a, b, {last}, -1; selp.u32 u, 0x80000000, 0, p; xor.b32 d, d, u;");
            list.add(&format!("shfl.sync.{mode}.b32 {last}"), Kind::Int, &body);
        }
    }
    list.add("vote.sync.ballot.b32", Kind::Int, "setp.lt.u32 p, a, b; vote.sync.ballot.b32 d, p, -1;");
    for mode in ["any", "all", "uni"] {
        let body = format!(
            "shfl.sync.idx.b32 u, b, 0, 31, -1; setp.ge.u32 p, a, u; vote.sync.{mode}.pred q, p, -1; selp.u32 d, 1, 0, q;"
        );
        list.add(&format!("vote.sync.{mode}.pred"), Kind::Int, &body);
    }
    list.add("match.any.sync.b32", Kind::Int, "and.b32 a, a, 3; match.any.sync.b32 d, a, -1;");
    let body = "shr.u32 u, thread, 5; and.b32 u, u, 1; and.b32 a, a, u; match.all.sync.b32 d|p, a, -1; selp.u32 u, 1, 0, p; shl.b32 u, u, 7; xor.b32 d, d, u;";
    list.add("match.all.sync.b32", Kind::Int, body);
    for op in ["add.u32", "add.s32", "min.u32", "min.s32", "max.u32", "max.s32", "and.b32", "or.b32", "xor.b32"] {
        list.add(&format!("redux.sync.{op}"), Kind::Int, &format!("redux.sync.{op} d, a, -1;"));
    }
    let body = "elect.sync u|p, -1; selp.u32 v, 0x100, 0, p; or.b32 d, u, v;";
    list.add("elect.sync", Kind::Int, body);
    list.add("elect.sync of the upper half", Kind::Int, "mov.u32 d, 77; mov.u32 u, %laneid; setp.ge.u32 p, u, 16; @p elect.sync d|q, 0xffff0000; @p selp.u32 v, 0x100, 0, q; @p or.b32 d, d, v;");
    for (op, result) in
        [("popc.u32 d", ""), ("and.pred q", " selp.u32 d, 1, 0, q;"), ("or.pred q", " selp.u32 d, 1, 0, q;")]
    {
        let body = format!("setp.lt.u32 p, a, b; barrier.red.{op}, 0, p;{result}");
        list.add(&format!("barrier.red.{}", op.split(' ').next().unwrap_or(op)), Kind::Int, &body);
    }
}

fn atomic(list: &mut List) {
    // Each thread has a cell of its own, so the order of threads does not show.
    let body = |op: &str, operands: &str| {
        format!(
            "st.shared.b32 [s], b; atom.shared.{op} u, [s], {operands}; ld.shared.b32 v, [s]; shf.l.wrap.b32 u, u, u, 1; xor.b32 d, u, v;"
        )
    };
    for op in [
        "add.u32", "min.u32", "min.s32", "max.u32", "max.s32", "inc.u32", "dec.u32", "and.b32", "or.b32", "xor.b32",
        "exch.b32",
    ] {
        list.add(&format!("atom.shared.{op}"), Kind::Int, &body(op, "a"));
    }
    list.add("atom.shared.add.f32", Kind::Float, &body("add.f32", "a"));
    list.add("atom.shared.add.noftz.f16x2", Kind::Half, &body("add.noftz.f16x2", "a"));
    list.add("atom.shared.add.noftz.bf16x2", Kind::Brain, &body("add.noftz.bf16x2", "a"));
    list.add(
        "atom.shared.cas.b32",
        Kind::Int,
        &format!("and.b32 a, a, 3; and.b32 b, b, 3; {}", body("cas.b32", "a, c")),
    );
    // On global memory: the output's own word.
    let global = |op: &str| {
        format!(
            "ld.param.u64 x, [pd]; add.u64 x, x, offset; st.global.b32 [x], b; red.global.{op} [x], a; ld.global.b32 d, [x];"
        )
    };
    for (op, kind) in [
        ("add.u32", Kind::Int),
        ("min.s32", Kind::Int),
        ("max.u32", Kind::Int),
        ("add.f32", Kind::Float),
        ("add.noftz.f16x2", Kind::Half),
        ("add.noftz.bf16x2", Kind::Brain),
    ] {
        list.add(&format!("red.global.{op}"), kind, &global(op));
    }
}

fn mbarrier(list: &mut List) {
    // Every thread has a barrier of its own, with 3 to 10 arrivals expected.
    let start = "and.b32 a, a, 7; add.u32 a, a, 3; mbarrier.init.shared::cta.b64 [s], a;";
    let body = format!("{start} mbarrier.arrive.noComplete.shared.b64 w, [s], 2; mbarrier.pending_count.b64 d, w;");
    list.add("mbarrier.pending_count", Kind::Int, &body);
    let tests = |op: &str| {
        format!(
            "mov.u32 d, 0; {op} p, [s], 0; @p or.b32 d, d, 1; {op} p, [s], 1; @p or.b32 d, d, 2; mbarrier.arrive.shared.b64 _, [s], a; {op} p, [s], 0; @p or.b32 d, d, 4; {op} p, [s], 1; @p or.b32 d, d, 8; mbarrier.arrive.shared.b64 _, [s], a; {op} p, [s], 0; @p or.b32 d, d, 16; {op} p, [s], 1; @p or.b32 d, d, 32;"
        )
    };
    for op in ["mbarrier.test_wait.parity.shared::cta.b64", "mbarrier.try_wait.parity.shared::cta.b64"] {
        list.add(op, Kind::Int, &format!("{start} {}", tests(op)));
    }
    let body = format!(
        "{start} mov.u32 d, 0; mbarrier.arrive.expect_tx.shared.b64 _, [s], 48; sub.u32 u, a, 1; mbarrier.arrive.shared.b64 _, [s], u; mbarrier.test_wait.parity.shared.b64 p, [s], 0; @p or.b32 d, d, 1; mbarrier.complete_tx.shared::cta.relaxed.cta.b64 [s], 32; mbarrier.test_wait.parity.shared.b64 p, [s], 0; @p or.b32 d, d, 2; mbarrier.complete_tx.shared::cta.relaxed.cta.b64 [s], 16; mbarrier.test_wait.parity.shared.b64 p, [s], 0; @p or.b32 d, d, 4;"
    );
    list.add(
        "mbarrier.complete_tx",
        Kind::Int,
        &body.replace("complete_tx.shared::cta.relaxed.cta", "complete_tx.relaxed.cta.shared::cta"),
    );
    let body = format!(
        "{start} mov.u32 d, 0; mbarrier.arrive_drop.shared.b64 w, [s]; sub.u32 u, a, 1; mbarrier.arrive.shared.b64 _, [s], u; mbarrier.test_wait.shared.b64 p, [s], w; @p or.b32 d, d, 1; mbarrier.arrive.shared.b64 w, [s], u; mbarrier.test_wait.shared.b64 p, [s], w; @p or.b32 d, d, 2; mbarrier.arrive.noComplete.shared.b64 w, [s], 1; mbarrier.pending_count.b64 v, w; shl.b32 v, v, 8; or.b32 d, d, v;"
    );
    list.add("mbarrier.arrive_drop", Kind::Int, &body);
}
