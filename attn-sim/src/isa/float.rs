//! Floating-point arithmetic: f32, f64, f16, bf16, their packed pairs, and the approximate functions.

use super::Decoded;
use super::form::{Form, float, mask};
use super::lane::lanewise;
use crate::counters::Class;
use crate::machine::decode::Decode;
use crate::num::approx;
use crate::num::float::{self as num, MinMax, Mode};
use crate::num::format::{Format, Rounding};
use crate::ptx::ScalarType;
use crate::report::Unsupported;

/// Whether an instruction's last modifier is a floating-point type.
pub(super) fn is_float(d: &Decode<'_>) -> bool {
    d.modifiers().last().and_then(ScalarType::parse).is_some_and(|ty| float(ty).is_some())
}

/// Decodes this module's opcodes.
pub(super) fn decode(d: &Decode<'_>) -> Decoded {
    match d.inst.opcode.as_str() {
        "add" | "sub" if is_mixed(d) => mixed_sum(d),
        "fma" if is_mixed(d) => mixed_fma(d),
        "add" | "sub" | "mul" => binary(d),
        "fma" | "mad" => fma(d),
        "div" => divide(d),
        "abs" | "neg" => sign(d),
        "min" | "max" => min_max(d),
        "rcp" | "sqrt" | "rsqrt" => root(d),
        "sin" | "cos" | "lg2" | "ex2" | "tanh" => function(d),
        "copysign" => copysign(d),
        _ => Err(d.unsupported("the opcode")),
    }
}

/// A floating-point instruction's type: format, how many in a register.
struct Type {
    ty: ScalarType,
    format: Format,
    count: u32,
}

impl Type {
    fn read(d: &Decode<'_>, form: &mut Form<'_, '_>) -> Result<Self, Unsupported> {
        let ty = form.ty()?;
        let (format, count) = float(ty).ok_or_else(|| d.unsupported(format!("the type .{ty}")))?;
        Ok(Type { ty, format, count })
    }

    fn is_16_bits(&self) -> bool {
        self.format.bits() == 16
    }
}

/// An instruction of `N` operands that treats the numbers in its registers alike.
fn each<const N: usize>(d: &Decode<'_>, t: &Type, f: impl Fn([u64; N]) -> u64 + Send + Sync + 'static) -> Decoded {
    let mut sources = Vec::with_capacity(N);
    for i in 1..=N {
        sources.push(d.source(i, t.ty)?);
    }
    let sources: [_; N] = sources.try_into().map_err(|_| d.unsupported("its number of operands"))?;
    let (bits, dest) = (t.format.bits(), d.dest(0)?);
    if t.count == 1 {
        return Ok(lanewise(Class::Float, dest, sources, move |v: [u64; N]| f(v.map(|x| x & mask(bits)))));
    }
    Ok(lanewise(Class::Float, dest, sources, move |v: [u64; N]| {
        f(v.map(|x| x & mask(bits))) | f(v.map(|x| x >> bits & mask(bits))) << bits
    }))
}

/// The modifiers of a result: rounding, `.ftz`, `.sat`, `.relu`, as far as the type has them.
fn mode(d: &Decode<'_>, form: &mut Form<'_, '_>, t: &Type) -> Result<Mode, Unsupported> {
    let rounding = form.rounding().unwrap_or(Rounding::Nearest);
    if rounding == Rounding::NearestAway || t.is_16_bits() && rounding != Rounding::Nearest {
        return Err(d.unsupported("this rounding for its type"));
    }
    let ftz = t.format != Format::F64 && t.format != Format::BF16 && form.take("ftz");
    let sat = t.format != Format::F64 && t.format != Format::BF16 && t.ty != ScalarType::F32x2 && form.take("sat");
    Ok(Mode { rounding, ftz, sat, relu: false })
}

/// `add`, `sub` and `mul`.
fn binary(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let t = Type::read(d, &mut form)?;
    let mode = mode(d, &mut form, &t)?;
    form.done(3..=3)?;
    let opcode = d.inst.opcode.as_str();
    if t.format == Format::F32 {
        let f: fn(f32, f32, Mode) -> f32 = match opcode {
            "add" => num::add_f32,
            "sub" => num::sub_f32,
            _ => num::mul_f32,
        };
        return each(d, &t, move |[a, b]| f(f32::from_bits(a as u32), f32::from_bits(b as u32), mode).to_bits().into());
    }
    let f: fn(Format, u64, u64, Mode) -> u64 = match opcode {
        "add" => num::add,
        "sub" => num::sub,
        _ => num::mul,
    };
    let format = t.format;
    each(d, &t, move |[a, b]| f(format, a, b, mode))
}

/// `fma`, and `mad`, which is the same on every machine that this models.
fn fma(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let t = Type::read(d, &mut form)?;
    let mut mode = mode(d, &mut form, &t)?;
    mode.relu = t.is_16_bits() && form.take("relu");
    form.done(4..=4)?;
    if t.format == Format::F32 {
        return each(d, &t, move |v: [u64; 3]| {
            let [a, b, c] = v.map(|x| f32::from_bits(x as u32));
            num::fma_f32(a, b, c, mode).to_bits().into()
        });
    }
    let format = t.format;
    if format == Format::F64 {
        return each(d, &t, move |[a, b, c]| num::fma_f64(a, b, c, mode));
    }
    each(d, &t, move |[a, b, c]| num::fma(format, a, b, c, mode))
}

/// Whether the last two modifiers are `.f32` and a 16-bit format.
fn is_mixed(d: &Decode<'_>) -> bool {
    let modifiers: Vec<_> = d.modifiers().collect();
    matches!(modifiers.as_slice(), [.., "f32", "f16" | "bf16"])
}

/// The narrow type, and the modifiers, of an instruction that mixes f32 with it.
fn mixed<'d>(d: &Decode<'_>, mut form: Form<'d, '_>, operands: usize) -> Result<(Type, Mode), Unsupported> {
    let narrow = Type::read(d, &mut form)?;
    let wide = Type::read(d, &mut form)?;
    let mut mode = mode(d, &mut form, &wide)?;
    mode.ftz = false;
    if d.has("ftz") {
        return Err(d.unsupported("the modifier .ftz"));
    }
    form.done(operands..=operands)?;
    Ok((narrow, mode))
}

/// `add.f32.bf16 d, a, c`: the narrow `a` plus the f32 `c`, or, for `sub`, less it.
fn mixed_sum(d: &Decode<'_>) -> Decoded {
    let (narrow, mode) = mixed(d, Form::new(d), 3)?;
    let subtracts = d.inst.opcode == "sub";
    let sources = [d.source(1, narrow.ty)?, d.source(2, ScalarType::F32)?];
    Ok(lanewise(Class::Float, d.dest(0)?, sources, move |[a, c]| {
        let a = Format::F32.encode(narrow.format.decode(a & 0xffff), Rounding::Nearest);
        (if subtracts { num::sub } else { num::add })(Format::F32, a, c, mode)
    }))
}

/// `fma.rn.f32.bf16 d, a, b, c`: narrow factors, an f32 sum.
fn mixed_fma(d: &Decode<'_>) -> Decoded {
    let (narrow, mode) = mixed(d, Form::new(d), 4)?;
    let sources = [d.source(1, narrow.ty)?, d.source(2, narrow.ty)?, d.source(3, ScalarType::F32)?];
    Ok(lanewise(Class::Float, d.dest(0)?, sources, move |[a, b, c]| {
        num::fma_mixed(narrow.format, a & 0xffff, b & 0xffff, c, mode)
    }))
}

fn divide(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let t = Type::read(d, &mut form)?;
    let quick: Option<fn(f32, f32, bool) -> f32> = match t.ty {
        ScalarType::F32 => {
            form.choice(&[("approx", approx::div as fn(f32, f32, bool) -> f32), ("full", approx::div_full)])
        }
        ScalarType::F64 => None,
        _ => return Err(d.unsupported(format!("the type .{}", t.ty))),
    };
    if let Some(f) = quick {
        let ftz = form.take("ftz");
        form.done(3..=3)?;
        return each(d, &t, move |[a, b]| f(f32::from_bits(a as u32), f32::from_bits(b as u32), ftz).to_bits().into());
    }
    let mode = exact_mode(d, &mut form, &t)?;
    form.done(3..=3)?;
    let format = t.format;
    each(d, &t, move |[a, b]| num::div(format, a, b, mode))
}

/// The modifiers of an instruction that must have a rounding.
fn exact_mode(d: &Decode<'_>, form: &mut Form<'_, '_>, t: &Type) -> Result<Mode, Unsupported> {
    let rounding = form.rounding().filter(|r| *r != Rounding::NearestAway);
    let rounding = rounding.ok_or_else(|| d.unsupported("its rounding is missing or unknown"))?;
    let ftz = t.format == Format::F32 && form.take("ftz");
    Ok(Mode { rounding, ftz, ..Mode::NEAREST })
}

fn sign(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let t = Type::read(d, &mut form)?;
    let ftz = matches!(t.format, Format::F32 | Format::F16) && form.take("ftz");
    form.done(2..=2)?;
    if t.ty == ScalarType::F32x2 {
        return Err(d.unsupported("the type .f32x2"));
    }
    let f = if d.inst.opcode == "abs" { num::abs } else { num::neg };
    let format = t.format;
    each(d, &t, move |[a]| f(format, a, ftz))
}

/// `min` and `max` of two numbers, and of three f32.
fn min_max(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let t = Type::read(d, &mut form)?;
    let three = t.ty == ScalarType::F32 && d.operands() == 4;
    let mut op = MinMax { max: d.inst.opcode == "max", ..MinMax::default() };
    if t.ty == ScalarType::F32x2 {
        return Err(d.unsupported("the type .f32x2"));
    }
    if t.format != Format::F64 {
        op.ftz = t.format != Format::BF16 && form.take("ftz");
        op.nan = form.take("NaN");
        op.xorsign = !three && form.take("xorsign");
        op.abs = (three || op.xorsign) && form.take("abs");
        if op.xorsign && !op.abs {
            return Err(d.unsupported(".xorsign without .abs"));
        }
    }
    form.done(if three { 4..=4 } else { 3..=3 })?;
    let format = t.format;
    let plain = format == Format::F32 && !(op.nan || op.xorsign || op.abs || op.ftz);
    let flushes = format == Format::F32 && MinMax { ftz: true, max: op.max, ..MinMax::default() } == op;
    let two = move |a: u64, b: u64| {
        // Two different normal numbers, the common case, in the host's own arithmetic.
        if plain || flushes {
            let (x, y) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
            let common = (x < y || y < x) && (plain || !x.is_subnormal() && !y.is_subnormal());
            if common {
                return if (x < y) == op.max { b } else { a };
            }
        }
        num::min_max(format, op, a, b)
    };
    if three {
        return each(d, &t, move |[a, b, c]| two(two(a, b), c));
    }
    each(d, &t, move |[a, b]| two(a, b))
}

/// `rcp`, `sqrt` and `rsqrt`, approximate or rounded.
fn root(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let t = Type::read(d, &mut form)?;
    let opcode = d.inst.opcode.as_str();
    if form.take("approx") {
        let ftz = form.take("ftz");
        form.done(2..=2)?;
        if t.ty == ScalarType::F64 && ftz && opcode != "sqrt" {
            let reciprocal = opcode == "rcp";
            return each(d, &t, move |[a]| coarse_f64(a, reciprocal));
        }
        if t.ty == ScalarType::F64 && !ftz && opcode == "rsqrt" {
            return each(d, &t, |[a]| {
                let y = 1.0 / f64::from_bits(a).sqrt();
                if y.is_nan() { Format::F64.nan() } else { y.to_bits() }
            });
        }
        if t.ty != ScalarType::F32 {
            return Err(d.unsupported(format!("the type .{}", t.ty)));
        }
        let f: fn(f32, bool) -> f32 = match opcode {
            "rcp" => approx::rcp,
            "sqrt" => approx::sqrt,
            _ => approx::rsqrt,
        };
        return each(d, &t, move |[a]| f(f32::from_bits(a as u32), ftz).to_bits().into());
    }
    let mode = exact_mode(d, &mut form, &t)?;
    form.done(2..=2)?;
    let format = t.format;
    match (opcode, t.ty) {
        ("rcp", ScalarType::F32 | ScalarType::F64) => each(d, &t, move |[a]| num::rcp(format, a, mode)),
        ("sqrt", ScalarType::F32 | ScalarType::F64) => each(d, &t, move |[a]| num::sqrt(format, a, mode)),
        _ => Err(d.unsupported("its type or rounding")),
    }
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: only the upper 32 bits of operand and result count.
fn coarse_f64(a: u64, reciprocal: bool) -> u64 {
    let flush = |x: f64| if x.is_subnormal() { 0f64.copysign(x) } else { x };
    let x = flush(f64::from_bits(a & 0xffff_ffff_0000_0000));
    let y = flush(if reciprocal { 1.0 / x } else { 1.0 / x.sqrt() });
    if y.is_nan() { 0x7fff_ffff_0000_0000 } else { y.to_bits() & 0xffff_ffff_0000_0000 }
}

/// `sin`, `cos`, `lg2`, `ex2`, `tanh`, all `.approx`.
fn function(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let t = Type::read(d, &mut form)?;
    let opcode = d.inst.opcode.as_str();
    form.required(".approx", &[("approx", ())])?;
    let ftz = opcode != "tanh" && form.take("ftz");
    form.done(2..=2)?;
    let format = t.format;
    match (opcode, t.ty) {
        ("tanh", ScalarType::F32) => each(d, &t, |[a]| approx::tanh(f32::from_bits(a as u32)).to_bits().into()),
        (_, ScalarType::F32) => {
            let f: fn(f32, bool) -> f32 = match opcode {
                "sin" => approx::sin,
                "cos" => approx::cos,
                "lg2" => approx::lg2,
                _ => approx::ex2,
            };
            each(d, &t, move |[a]| f(f32::from_bits(a as u32), ftz).to_bits().into())
        }
        ("tanh", _) if t.is_16_bits() => each(d, &t, move |[a]| approx::narrow(format, a, approx::tanh)),
        // f16 keeps subnormals; bf16 flushes them, and must say so.
        ("ex2", _) if t.is_16_bits() && ftz == (format == Format::BF16) => {
            each(d, &t, move |[a]| approx::narrow(format, a, |x| approx::ex2(x, ftz)))
        }
        _ => Err(d.unsupported(format!("the type .{}", t.ty))),
    }
}

/// `copysign d, a, b`: the magnitude of `b` with the sign of `a`.
fn copysign(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let t = Type::read(d, &mut form)?;
    form.done(3..=3)?;
    if !matches!(t.ty, ScalarType::F32 | ScalarType::F64) {
        return Err(d.unsupported(format!("the type .{}", t.ty)));
    }
    let sign = t.format.sign();
    each(d, &t, move |[a, b]| b & !sign | a & sign)
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{apply, refused, table, value};

    fn b(x: f32) -> u64 {
        x.to_bits().into()
    }

    fn d(x: f64) -> u64 {
        x.to_bits()
    }

    /// Two f32 in one register: the first is the lower one.
    fn x2(low: f32, high: f32) -> u64 {
        b(high) << 32 | b(low)
    }

    const NAN: u64 = 0x7fff_ffff;

    #[test]
    fn single_precision() {
        let inf = b(f32::INFINITY);
        table(&[
            ("add.f32", 32, 32, &[b(1.5), b(2.25)], b(3.75)),
            ("add.rm.f32", 32, 32, &[b(1.0), b(1e-9)], b(1.0)),
            ("add.rp.f32", 32, 32, &[b(1.0), b(1e-9)], b(1.0) + 1),
            ("add.rz.f32", 32, 32, &[b(-1.0), b(-1e-9)], b(-1.0)),
            ("add.ftz.f32", 32, 32, &[1, 1], 0),
            ("add.f32", 32, 32, &[1, 1], 2),
            ("add.sat.f32", 32, 32, &[b(1.0), b(1.0)], b(1.0)),
            ("add.f32", 32, 32, &[inf, b(f32::NEG_INFINITY)], NAN),
            ("sub.rn.f32", 32, 32, &[b(1.0), b(3.0)], b(-2.0)),
            ("mul.f32", 32, 32, &[b(3.0), b(-2.0)], b(-6.0)),
            ("fma.rn.f32", 32, 32, &[b(3.0), b(2.0), b(1.0)], b(7.0)),
            ("mad.rn.f32", 32, 32, &[b(3.0), b(2.0), b(1.0)], b(7.0)),
            ("fma.rz.ftz.sat.f32", 32, 32, &[b(3.0), b(-2.0), b(1.0)], 0),
            ("div.rn.f32", 32, 32, &[b(1.0), b(3.0)], b(1.0 / 3.0)),
            ("div.full.f32", 32, 32, &[b(6.0), b(3.0)], b(2.0)),
            ("div.approx.ftz.f32", 32, 32, &[b(6.0), b(3.0)], b(2.0)),
            ("neg.f32", 32, 32, &[b(1.0)], b(-1.0)),
            ("abs.ftz.f32", 32, 32, &[b(-1.0)], b(1.0)),
            ("max.f32", 32, 32, &[b(-0.0), b(0.0)], 0),
            ("min.f32", 32, 32, &[b(0.0), b(-0.0)], b(-0.0)),
            ("max.f32", 32, 32, &[b(f32::NAN), b(2.0)], b(2.0)),
            ("max.NaN.f32", 32, 32, &[b(f32::NAN), b(2.0)], NAN),
            ("max.ftz.f32", 32, 32, &[b(3.0), b(2.0)], b(3.0)),
            ("max.ftz.f32", 32, 32, &[1, b(-2.0)], 0),
            ("max.f32", 32, 32, &[b(1.0), b(5.0), b(3.0)], b(5.0)),
            ("min.abs.f32", 32, 32, &[b(-1.0), b(5.0), b(3.0)], b(1.0)),
            ("max.NaN.f32", 32, 32, &[b(1.0), b(5.0), b(f32::NAN)], NAN),
            ("max.xorsign.abs.f32", 32, 32, &[b(-3.0), b(2.0)], b(-3.0)),
            ("sqrt.rn.f32", 32, 32, &[b(2.0)], b(2f32.sqrt())),
            ("rcp.rn.f32", 32, 32, &[b(3.0)], b(1.0 / 3.0)),
            ("rcp.approx.ftz.f32", 32, 32, &[b(4.0)], b(0.25)),
            ("rsqrt.approx.f32", 32, 32, &[b(4.0)], b(0.5)),
            ("rsqrt.approx.f64", 64, 64, &[4f64.to_bits()], 0.5f64.to_bits()),
            ("sqrt.approx.ftz.f32", 32, 32, &[b(9.0)], b(3.0)),
            ("ex2.approx.ftz.f32", 32, 32, &[b(3.0)], b(8.0)),
            ("ex2.approx.ftz.f32", 32, 32, &[b(f32::NEG_INFINITY)], 0),
            ("ex2.approx.f32", 32, 32, &[b(-149.0)], 1),
            ("lg2.approx.ftz.f32", 32, 32, &[b(8.0)], b(3.0)),
            ("sin.approx.f32", 32, 32, &[0], 0),
            ("cos.approx.f32", 32, 32, &[0], b(1.0)),
            ("tanh.approx.f32", 32, 32, &[inf], b(1.0)),
            ("copysign.f32", 32, 32, &[b(-1.0), b(2.0)], b(-2.0)),
        ]);
    }

    #[test]
    fn pairs_of_f32() {
        table(&[
            ("add.rn.f32x2", 64, 64, &[x2(1.0, 2.0), x2(3.0, 4.0)], x2(4.0, 6.0)),
            ("add.rm.ftz.f32x2", 64, 64, &[x2(1.0, 1.0), x2(1e-9, -1e-9)], x2(1.0, 1.0 - f32::EPSILON / 2.0)),
            ("sub.rn.f32x2", 64, 64, &[x2(1.0, 2.0), x2(3.0, 5.0)], x2(-2.0, -3.0)),
            ("mul.f32x2", 64, 64, &[x2(1.0, 2.0), x2(3.0, 5.0)], x2(3.0, 10.0)),
            ("fma.rn.f32x2", 64, 64, &[x2(1.0, 2.0), x2(3.0, 5.0), x2(1.0, -1.0)], x2(4.0, 9.0)),
        ]);
    }

    #[test]
    fn other_formats() {
        table(&[
            ("add.f64", 64, 64, &[d(0.1), d(0.2)], d(0.1 + 0.2)),
            ("fma.rp.f64", 64, 64, &[d(1.0), d(1.0), d(1e-30)], d(1.0) + 1),
            ("div.rn.f64", 64, 64, &[d(1.0), d(3.0)], d(1.0 / 3.0)),
            ("sqrt.rn.f64", 64, 64, &[d(2.0)], d(2f64.sqrt())),
            ("min.f64", 64, 64, &[d(1.0), d(f64::NAN)], d(1.0)),
            ("rcp.approx.ftz.f64", 64, 64, &[d(2.0)], d(0.5)),
            ("neg.f64", 64, 64, &[d(2.0)], d(-2.0)),
            ("add.f16", 16, 16, &[0x3c00, 0x4000], 0x4200),
            ("add.rn.f16x2", 32, 32, &[0x3c00_4000, 0x4000_4000], 0x4200_4400),
            ("mul.bf16x2", 32, 32, &[0x3f80_4000, 0x4000_4000], 0x4000_4080),
            ("fma.rn.relu.bf16", 16, 16, &[0x3f80, 0xc000, 0x3f80], 0),
            ("fma.rn.sat.f16x2", 32, 32, &[0x4000_4000, 0x4000_c000, 0], 0x3c00_0000),
            ("max.NaN.bf16x2", 32, 32, &[0x7fc0_3f80, 0x3f80_4000], 0x7fff_4000),
            ("neg.bf16x2", 32, 32, &[0x3f80_bf80], 0xbf80_3f80),
            ("abs.f16x2", 32, 32, &[0xbc00_3c00], 0x3c00_3c00),
            ("ex2.approx.f16x2", 32, 32, &[0x3c00_4000], 0x4000_4400),
            ("ex2.approx.ftz.bf16x2", 32, 32, &[0x3f80_4000], 0x4000_4080),
            ("tanh.approx.bf16", 16, 16, &[0], 0),
        ]);
    }

    #[test]
    fn narrow_and_wide_mix() {
        assert_eq!(apply("add.rn.f32.bf16", 32, &[(16, 0x4000), (32, b(0.5))]), b(2.5));
        assert_eq!(apply("sub.f32.f16", 32, &[(16, 0x4000), (32, b(0.5))]), b(1.5));
        assert_eq!(apply("fma.rn.f32.f16", 32, &[(16, 0x4000), (16, 0x4200), (32, b(1.0))]), b(7.0));
    }

    #[test]
    fn constants_are_of_the_operands_type() {
        assert_eq!(value("add.f32 %f0, 1.5, 0f40000000; mov.b32 %r0, %f0; cvt.u64.u32 %out, %r0;", &[]), b(3.5));
        assert_eq!(value("add.f64 %out, 0d3FF0000000000000, 1.5;", &[]), d(2.5));
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "max.f32x2 %rd0, %rd1, %rd2;",
            "fma.rn.oob.f16 %h0, %h1, %h2, %h3;",
            "add.rm.f16 %h0, %h1, %h2;",
            "add.sat.bf16 %h0, %h1, %h2;",
            "ex2.f32 %f0, %f1;",
            "ex2.approx.f64 %rd0, %rd1;",
            "div.f32 %f0, %f1, %f2;",
            "sqrt.f32 %f0, %f1;",
            "rsqrt.rn.f32 %f0, %f1;",
            "max.xorsign.f32 %f0, %f1, %f2;",
        ] {
            refused(line);
        }
    }
}
