//! Comparisons and selections: `setp`, `set`, `selp`, `slct`, `testp`.

use super::Decoded;
use super::form::{Form, float, integer, mask, signed};
use super::lane::{double, lanewise};
use crate::counters::Class;
use crate::machine::decode::Decode;
use crate::num::float as arithmetic;
use crate::num::format::Format;
use crate::ptx::ScalarType;
use crate::report::Unsupported;
use std::cmp::Ordering;

/// Decodes this module's opcodes.
pub(super) fn decode(d: &Decode<'_>) -> Decoded {
    match d.inst.opcode.as_str() {
        "setp" => set_predicate(d),
        "set" => set(d),
        "selp" => select(d),
        "slct" => select_by_sign(d),
        "testp" => test(d),
        _ => Err(d.unsupported("the opcode")),
    }
}

/// A comparison: which orders make it true, and whether a NaN does.
#[derive(Clone, Copy)]
struct Test {
    less: bool,
    equal: bool,
    greater: bool,
    unordered: bool,
}

impl Test {
    const fn new(less: bool, equal: bool, greater: bool, unordered: bool) -> Self {
        Test { less, equal, greater, unordered }
    }

    fn holds(self, order: Option<Ordering>) -> bool {
        match order {
            Some(Ordering::Less) => self.less,
            Some(Ordering::Equal) => self.equal,
            Some(Ordering::Greater) => self.greater,
            None => self.unordered,
        }
    }
}

/// Comparisons that every type has.
const COMMON: &[(&str, Test)] = &[
    ("eq", Test::new(false, true, false, false)),
    ("ne", Test::new(true, false, true, false)),
    ("lt", Test::new(true, false, false, false)),
    ("le", Test::new(true, true, false, false)),
    ("gt", Test::new(false, false, true, false)),
    ("ge", Test::new(false, true, true, false)),
];

/// Other names for comparisons of unsigned integers.
const UNSIGNED: &[(&str, Test)] = &[
    ("lo", Test::new(true, false, false, false)),
    ("ls", Test::new(true, true, false, false)),
    ("hi", Test::new(false, false, true, false)),
    ("hs", Test::new(false, true, true, false)),
];

/// Comparisons of floats that are true of NaNs, or ask for them.
const UNORDERED: &[(&str, Test)] = &[
    ("equ", Test::new(false, true, false, true)),
    ("neu", Test::new(true, false, true, true)),
    ("ltu", Test::new(true, false, false, true)),
    ("leu", Test::new(true, true, false, true)),
    ("gtu", Test::new(false, false, true, true)),
    ("geu", Test::new(false, true, true, true)),
    ("num", Test::new(true, true, true, false)),
    ("nan", Test::new(false, false, false, true)),
];

/// What joins a comparison with a predicate.
#[derive(Clone, Copy)]
enum Join {
    And,
    Or,
    Xor,
}

impl Join {
    fn apply(self, a: bool, b: bool) -> bool {
        match self {
            Join::And => a && b,
            Join::Or => a || b,
            Join::Xor => a ^ b,
        }
    }
}

/// The comparison of an instruction, read from its modifiers.
#[derive(Clone, Copy)]
struct Comparison {
    ty: ScalarType,
    test: Test,
    join: Option<Join>,
    ftz: bool,
}

impl Comparison {
    /// Takes everything but the type, which was taken.
    fn read(d: &Decode<'_>, form: &mut Form<'_, '_>, ty: ScalarType) -> Result<Self, Unsupported> {
        let mut names: Vec<(&str, Test)> = match ty {
            ScalarType::B16 | ScalarType::B32 | ScalarType::B64 => COMMON[..2].to_vec(),
            _ if float(ty).is_some() || integer(ty).is_some_and(|(bits, _)| bits > 8) => COMMON.to_vec(),
            _ => return Err(d.unsupported(format!("the type .{ty}"))),
        };
        match (float(ty).is_some(), integer(ty)) {
            (true, _) => names.extend_from_slice(UNORDERED),
            (_, Some((_, false))) => names.extend_from_slice(UNSIGNED),
            _ => {}
        }
        let test = form.required("the comparison", &names)?;
        let join = form.choice(&[("and", Join::And), ("or", Join::Or), ("xor", Join::Xor)]);
        let ftz = matches!(ty, ScalarType::F32 | ScalarType::F16 | ScalarType::F16x2) && form.take("ftz");
        Ok(Comparison { ty, test, join, ftz })
    }

    /// Of two values, of a packed type the halves at `shift`.
    fn holds(&self, a: u64, b: u64, shift: u32) -> bool {
        let order = match (float(self.ty), integer(self.ty)) {
            (Some((Format::F32, 1)), _) if !self.ftz => f32::from_bits(a as u32).partial_cmp(&f32::from_bits(b as u32)),
            (Some((format, _)), _) => {
                let bits = mask(format.bits());
                arithmetic::compare(format, a >> shift & bits, b >> shift & bits, self.ftz)
            }
            (_, Some((bits, true))) => Some(signed(a, bits).cmp(&signed(b, bits))),
            _ => {
                let bits = mask(self.ty.bits());
                Some((a & bits).cmp(&(b & bits)))
            }
        };
        self.test.holds(order)
    }
}

/// `setp`: `p = (a ? b) op c`, `q = !(a ? b) op c`; of packed halves, `p` of the lower and `q` of the upper ones.
fn set_predicate(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let ty = form.ty()?;
    let comparison = Comparison::read(d, &mut form, ty)?;
    let operands = if comparison.join.is_some() { 4 } else { 3 };
    form.done(operands..=operands)?;
    let (p, q) = d.pair(0)?;
    let halves = matches!(ty, ScalarType::F16x2 | ScalarType::Bf16x2);
    let both = move |a: u64, b: u64| {
        let first = comparison.holds(a, b, 0);
        (first, if halves { comparison.holds(a, b, 16) } else { !first })
    };
    let (a, b) = (d.source(1, ty)?, d.source(2, ty)?);
    let Some(join) = comparison.join else {
        return Ok(double(Class::Integer, [p, q], [a, b], move |[a, b]| {
            let (p, q) = both(a, b);
            [p.into(), q.into()]
        }));
    };
    Ok(double(Class::Integer, [p, q], [a, b, d.pred(3)?], move |[a, b, c]| {
        let (p, q) = both(a, b);
        [join.apply(p, c != 0).into(), join.apply(q, c != 0).into()]
    }))
}

/// The bits of a true comparison in a type: 1.0 in floats, all ones in integers. Of packed types, of one half.
fn truth(d: &Decode<'_>, ty: ScalarType) -> Result<u64, Unsupported> {
    match ty {
        ScalarType::F32 => Ok(1f32.to_bits().into()),
        ScalarType::F16 | ScalarType::F16x2 => Ok(0x3c00),
        ScalarType::Bf16 | ScalarType::Bf16x2 => Ok(0x3f80),
        ScalarType::U16 | ScalarType::S16 => Ok(0xffff),
        ScalarType::U32 | ScalarType::S32 => Ok(0xffff_ffff),
        _ => Err(d.unsupported(format!("the result type .{ty}"))),
    }
}

/// `set`: the truth of a comparison as a number.
fn set(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, result) = (form.ty()?, form.ty()?);
    let comparison = Comparison::read(d, &mut form, ty)?;
    let operands = if comparison.join.is_some() { 4 } else { 3 };
    form.done(operands..=operands)?;
    let halves = matches!(ty, ScalarType::F16x2 | ScalarType::Bf16x2);
    let one = match (halves, result) {
        (true, r) if r == ty => truth(d, r)?,
        (true, ScalarType::U32 | ScalarType::S32) => 0xffff,
        (true, _) => return Err(d.unsupported(format!("the result type .{result}"))),
        (false, r) => truth(d, r)?,
    };
    let (a, b) = (d.source(1, ty)?, d.source(2, ty)?);
    let value = move |a: u64, b: u64, c: bool| {
        let part = |shift: u32| {
            let holds = comparison.holds(a, b, shift);
            if comparison.join.map_or(holds, |j| j.apply(holds, c)) { one << shift } else { 0 }
        };
        part(0) | if halves { part(16) } else { 0 }
    };
    if comparison.join.is_none() {
        return Ok(lanewise(Class::Integer, d.dest(0)?, [a, b], move |[a, b]| value(a, b, false)));
    }
    Ok(lanewise(Class::Integer, d.dest(0)?, [a, b, d.pred(3)?], move |[a, b, c]| value(a, b, c != 0)))
}

/// `selp`: `p ? a : b`.
fn select(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let ty = form.ty()?;
    form.done(4..=4)?;
    if !matches!(ty.bits(), 16 | 32 | 64) {
        return Err(d.unsupported(format!("the type .{ty}")));
    }
    let sources = [d.source(1, ty)?, d.source(2, ty)?, d.pred(3)?];
    Ok(lanewise(Class::Integer, d.dest(0)?, sources, |[a, b, p]| if p != 0 { a } else { b }))
}

/// `slct`: `c >= 0 ? a : b`.
fn select_by_sign(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (by, ty) = (form.ty()?, form.ty()?);
    let ftz = by == ScalarType::F32 && form.take("ftz");
    form.done(4..=4)?;
    if !matches!(ty.bits(), 16 | 32 | 64) || !matches!(by, ScalarType::S32 | ScalarType::F32) {
        return Err(d.unsupported("its types"));
    }
    let sources = [d.source(1, ty)?, d.source(2, ty)?, d.source(3, by)?];
    Ok(lanewise(Class::Integer, d.dest(0)?, sources, move |[a, b, c]| {
        let picks = match by {
            // A NaN takes the second.
            ScalarType::F32 => arithmetic::compare(Format::F32, c, 0, ftz).is_some_and(Ordering::is_ge),
            _ => c as i32 >= 0,
        };
        if picks { a } else { b }
    }))
}

/// `testp`: what kind of number a float is. Zero counts as normal.
fn test(d: &Decode<'_>) -> Decoded {
    use arithmetic::Class::{Infinite, Nan, Normal, Subnormal, Zero};
    let mut form = Form::new(d);
    let ty = form.ty()?;
    let wanted: &[arithmetic::Class] = form.required(
        "the property",
        &[
            ("finite", &[Zero, Subnormal, Normal][..]),
            ("infinite", &[Infinite]),
            ("number", &[Zero, Subnormal, Normal, Infinite]),
            ("notanumber", &[Nan]),
            ("normal", &[Zero, Normal]),
            ("subnormal", &[Subnormal]),
        ],
    )?;
    form.done(2..=2)?;
    let format = match ty {
        ScalarType::F32 => Format::F32,
        ScalarType::F64 => Format::F64,
        _ => return Err(d.unsupported(format!("the type .{ty}"))),
    };
    Ok(lanewise(Class::Float, d.dest(0)?, [d.source(1, ty)?], move |[a]| {
        wanted.contains(&arithmetic::class(format, a)).into()
    }))
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{refused, table, value};

    fn bits(x: f32) -> u64 {
        x.to_bits().into()
    }

    /// Compares two values of a type by every given name, as a string of 0 and 1.
    fn tests(ty: &str, names: &[&str], a: u64, b: u64) -> String {
        let width = if ty == "f64" || ty.ends_with("64") { 64 } else { 32 };
        let get = if width == 64 {
            "mov.b64 %rd0, %a0; mov.b64 %rd1, %a1;"
        } else {
            "cvt.u32.u64 %r0, %a0; cvt.u32.u64 %r1, %a1;"
        };
        let (x, y) = if width == 64 { ("%rd0", "%rd1") } else { ("%r0", "%r1") };
        let one = |name: &&str| {
            value(&format!("{get} setp.{name}.{ty} %p0, {x}, {y}; selp.b64 %out, 1, 0, %p0;"), &[a, b]).to_string()
        };
        names.iter().map(one).collect()
    }

    const ALL: &[&str] = &["eq", "ne", "lt", "le", "gt", "ge"];

    #[test]
    fn integers_compare_by_their_sign() {
        assert_eq!(tests("s32", ALL, 0xffff_ffff, 1), "011100");
        assert_eq!(tests("u32", ALL, 0xffff_ffff, 1), "010011");
        assert_eq!(tests("u32", &["lo", "ls", "hi", "hs"], 1, 1), "0101");
        assert_eq!(tests("s64", ALL, u64::MAX, 0), "011100");
        assert_eq!(tests("b32", &["eq", "ne"], 5, 5), "10");
    }

    #[test]
    fn a_nan_is_unordered() {
        let names = &["eq", "ne", "lt", "ge", "equ", "neu", "ltu", "geu", "num", "nan"];
        assert_eq!(tests("f32", names, bits(f32::NAN), bits(1.0)), "0000111101");
        assert_eq!(tests("f32", names, bits(1.0), bits(2.0)), "0110011010");
        assert_eq!(tests("f32", &["eq", "lt"], bits(-0.0), bits(0.0)), "10");
        assert_eq!(tests("ftz.f32", &["eq"], 1, 0), "1");
        assert_eq!(tests("f32", &["eq"], 1, 0), "0");
        assert_eq!(tests("f64", ALL, 1f64.to_bits(), 2f64.to_bits()), "011100");
    }

    #[test]
    fn predicates_join_and_split() {
        let pair = "setp.lt.and.s32 %p1|%p2, 1, 2, %p0; selp.b64 %rd1, 1, 0, %p1; selp.b64 %rd2, 2, 0, %p2; or.b64 %out, %rd1, %rd2;";
        assert_eq!(value(&format!("setp.eq.s32 %p0, 1, 1; {pair}"), &[]), 1);
        let other = pair.replace(", %p0;", ", !%p0;").replace(".and", ".xor");
        assert_eq!(value(&format!("setp.eq.s32 %p0, 1, 1; {other}"), &[]), 1);
        let halves = "mov.b32 %r0, 0x3c004000; mov.b32 %r1, 0x40003c00; setp.lt.f16x2 %p1|%p2, %r0, %r1;
            selp.b64 %rd1, 1, 0, %p1; selp.b64 %rd2, 2, 0, %p2; or.b64 %out, %rd1, %rd2;";
        assert_eq!(value(halves, &[]), 2);
    }

    #[test]
    fn numbers_of_truth_and_selections() {
        table(&[
            ("set.leu.u32.f32", 32, 32, &[bits(1.0), bits(f32::NAN)], 0xffff_ffff),
            ("set.lt.f32.s32", 32, 32, &[0xffff_ffff, 1], bits(1.0)),
            ("set.eq.u32.u32", 32, 32, &[1, 2], 0),
            ("set.gt.f16x2.f16x2", 32, 32, &[0x4000_3c00, 0x3c00_4000], 0x3c00_0000),
            ("slct.b32.s32", 32, 32, &[7, 8, 0xffff_ffff], 8),
            ("slct.b32.f32", 32, 32, &[7, 8, bits(-0.0)], 7),
            ("slct.b32.f32", 32, 32, &[7, 8, bits(f32::NAN)], 8),
        ]);
        let properties = |x: f32| -> String {
            let names = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
            let one = |n: &str| {
                value(&format!("cvt.u32.u64 %r0, %a0; testp.{n}.f32 %p0, %r0; selp.b64 %out, 1, 0, %p0;"), &[bits(x)])
                    .to_string()
            };
            names.iter().map(|n| one(n)).collect()
        };
        assert_eq!(properties(1.0), "101010");
        assert_eq!(properties(f32::INFINITY), "011000");
        assert_eq!(properties(f32::NAN), "000100");
        assert_eq!(properties(f32::from_bits(1)), "101001");
        assert_eq!(properties(-0.0), "101010");
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "setp.lt.b32 %p1, %r1, %r2;",
            "setp.ltu.s32 %p1, %r1, %r2;",
            "setp.s32 %p1, %r1, %r2;",
            "set.eq.f64.f32 %rd1, %f1, %f2;",
        ] {
            refused(line);
        }
    }
}
