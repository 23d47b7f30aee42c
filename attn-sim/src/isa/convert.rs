//! `cvt`, `cvt.pack`: conversions between integers and floats of all widths, one value or packed ones.

use super::Decoded;
use super::form::{Form, mask, signed};
use super::lane::lanewise;
use crate::counters::Class;
use crate::machine::decode::Decode;
use crate::num::convert::{Number, Options, convert, pack_f32, pack_f32_nearest, ue8m0};
use crate::num::format::{Format, Rounding};
use crate::num::stochastic;
use crate::ptx::ScalarType;
use crate::report::Unsupported;

/// A type of a conversion: what each number is, how many a register holds, and how far apart they lie.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Type {
    number: Number,
    count: u32,
    stride: u32,
}

/// Every type that a conversion takes or gives, but `ue8m0x2`, which is no format of numbers with signs.
fn ty(name: &str) -> Option<Type> {
    let float = |format, count, stride| Some(Type { number: Number::Float(format), count, stride });
    match name {
        "f16" => float(Format::F16, 1, 16),
        "bf16" => float(Format::BF16, 1, 16),
        "f32" => float(Format::F32, 1, 32),
        "f64" => float(Format::F64, 1, 64),
        "tf32" => float(Format::TF32, 1, 32),
        "f16x2" => float(Format::F16, 2, 16),
        "bf16x2" => float(Format::BF16, 2, 16),
        "e4m3x2" => float(Format::E4M3, 2, 8),
        "e5m2x2" => float(Format::E5M2, 2, 8),
        "e2m3x2" => float(Format::E2M3, 2, 8),
        "e3m2x2" => float(Format::E3M2, 2, 8),
        "e2m1x2" => float(Format::E2M1, 2, 4),
        _ => {
            let ty = ScalarType::parse(name)?;
            let bits = ty.bits();
            let is_integer = matches!(name.as_bytes()[0], b'u' | b's');
            let number = if ty.is_signed() { Number::Signed(bits) } else { Number::Unsigned(bits) };
            is_integer.then_some(Type { number, count: 1, stride: bits })
        }
    }
}

/// The modifiers between `cvt` and its types.
struct Modifiers {
    options: Options,
    /// A rounding that was written.
    rounding: Option<Rounding>,
}

/// Roundings to integers, `.rni` and its like.
const INTEGRAL: &[(&str, Rounding)] =
    &[("rni", Rounding::Nearest), ("rzi", Rounding::Zero), ("rmi", Rounding::Down), ("rpi", Rounding::Up)];

fn modifiers(d: &Decode<'_>, form: &mut Form<'_, '_>) -> Result<Modifiers, Unsupported> {
    let integral = form.choice(INTEGRAL);
    let rounding = form.rounding();
    if integral.is_some() && rounding.is_some() {
        return Err(d.unsupported("two roundings"));
    }
    let options = Options {
        rounding: integral.or(rounding).unwrap_or(Rounding::Nearest),
        integral: integral.is_some(),
        ftz: form.take("ftz"),
        sat: form.take("sat"),
        satfinite: form.take("satfinite"),
        relu: form.take("relu"),
    };
    Ok(Modifiers { options, rounding })
}

/// Decodes `cvt`.
pub(super) fn decode(d: &Decode<'_>) -> Decoded {
    if d.has("pack") {
        return pack(d);
    }
    let mut form = Form::new(d);
    // The types are the last two modifiers: to, from. What follows them is a scale, which is not known here.
    let names: Vec<&str> = d.modifiers().collect();
    let [.., to_name, from_name] = names.as_slice() else { return Err(d.unsupported("its types are missing")) };
    form.take_last(2);
    if form.take("rs") {
        return stochastic_cvt(d, form, to_name, from_name);
    }
    let m = modifiers(d, &mut form)?;
    if *to_name == "ue8m0x2" || *from_name == "ue8m0x2" {
        return scale_pair(d, form, &m, to_name, from_name);
    }
    let (Some(to), Some(from)) = (ty(to_name), ty(from_name)) else { return Err(d.unsupported("its types")) };
    match (to.count, from.count) {
        (1, 1) => single(d, form, &m, to, from),
        (2, 1) => narrow_pair(d, form, &m, to, from),
        (2, 2) => pair(d, form, &m, to, from),
        _ => Err(d.unsupported("its types")),
    }
}

/// `cvt.rs.bf16x2.f32 d, a, b, random` and `cvt.rs.satfinite.e4m3x4.f32 d, {a, b, e, f}, random`: `a` is uppermost.
fn stochastic_cvt(d: &Decode<'_>, mut form: Form<'_, '_>, to: &str, from: &str) -> Decoded {
    let (satfinite, relu) = (form.take("satfinite"), form.take("relu"));
    let (format, stride) = match to {
        "f16x2" => (Format::F16, 16),
        "bf16x2" => (Format::BF16, 16),
        "e4m3x4" => (Format::E4M3, 8),
        "e5m2x4" => (Format::E5M2, 8),
        "e2m3x4" => (Format::E2M3, 8),
        "e3m2x4" => (Format::E3M2, 8),
        "e2m1x4" => (Format::E2M1, 4),
        _ => return Err(d.unsupported("its types")),
    };
    let dest = d.dest(0)?;
    let pack = move |numbers: &[u64], random: u64| {
        let dithers = stochastic::dithers(format, random as u32);
        numbers.iter().rev().zip(dithers).enumerate().fold(0, |word, (i, (&x, dither))| {
            let x = f32::from_bits(x as u32);
            word | stochastic::round(format, x, dither, satfinite, relu) << (i as u32 * stride)
        })
    };
    if from != "f32" || (stride < 16 && !satfinite) {
        return Err(d.unsupported("its types or modifiers"));
    }
    if stride == 16 {
        form.done(4..=4)?;
        let sources = [d.source(1, ScalarType::F32)?, d.source(2, ScalarType::F32)?, d.source(3, ScalarType::B32)?];
        return Ok(lanewise(Class::Convert, dest, sources, move |[a, b, random]| pack(&[a, b], random)));
    }
    form.done(3..=3)?;
    let [a, b, e, f] = d.sources(1, ScalarType::F32)?[..] else { return Err(d.unsupported("its number of operands")) };
    let sources = [a, b, e, f, d.source(2, ScalarType::B32)?];
    Ok(lanewise(Class::Convert, dest, sources, move |[a, b, e, f, random]| pack(&[a, b, e, f], random)))
}

/// The type that a constant operand is read in.
fn operand_type(number: Number) -> ScalarType {
    match number {
        Number::Float(f) if f == Format::F64 => ScalarType::F64,
        Number::Float(_) => ScalarType::F32,
        _ => ScalarType::B64,
    }
}

/// Which modifiers a conversion of one value has; what PTX asks for and is missing, or has no meaning, is refused.
fn check(d: &Decode<'_>, m: &Modifiers, to: Type, from: Type) -> Result<(), Unsupported> {
    let refuse = |reason: &str| Err(d.unsupported(reason));
    let (is_float, was_float) = (matches!(to.number, Number::Float(_)), matches!(from.number, Number::Float(_)));
    let widens = match (from.number, to.number) {
        (Number::Float(f), Number::Float(t)) => f.bits() < t.bits() && f.bits() != 19 || f == t,
        _ => false,
    };
    if m.options.integral && !was_float {
        return refuse("an integer rounding of an integer");
    }
    if was_float && !is_float && !m.options.integral {
        return refuse("its integer rounding is missing");
    }
    if is_float && !widens && m.rounding.is_none() {
        return refuse("its rounding is missing");
    }
    if m.rounding.is_some() && !is_float {
        return refuse("a floating-point rounding of an integer");
    }
    let away = m.rounding == Some(Rounding::NearestAway);
    if away && to.number != Number::Float(Format::TF32) {
        return refuse("the rounding .rna for its type");
    }
    let narrow = matches!(to.number, Number::Float(f) if f == Format::F16 || f == Format::BF16 || f == Format::TF32);
    if (m.options.satfinite || m.options.relu) && !(narrow && was_float) {
        return refuse(".satfinite or .relu for its types");
    }
    if m.options.ftz && to.number != Number::Float(Format::F32) && from.number != Number::Float(Format::F32) {
        return refuse(".ftz without .f32");
    }
    Ok(())
}

/// One value to one value. A wider destination register gets the sign of a signed result, zeros otherwise.
fn single(d: &Decode<'_>, form: Form<'_, '_>, m: &Modifiers, to: Type, from: Type) -> Decoded {
    form.done(2..=2)?;
    check(d, m, to, from)?;
    let options = m.options;
    let source = d.source(1, operand_type(from.number))?;
    let (from, to) = (from.number, to.number);
    let from_bits = match from {
        Number::Float(f) => f.bits(),
        Number::Unsigned(n) | Number::Signed(n) => n,
    };
    let dest = d.dest(0)?;
    let extend = match to {
        Number::Signed(n) if n < 64 => Some(n),
        _ => None,
    };
    Ok(lanewise(Class::Convert, dest, [source], move |[a]| {
        let result = convert(from, to, a & mask(from_bits), options);
        extend.map_or(result, |bits| signed(result, bits) as u64)
    }))
}

/// Two f32 to a packed pair: the first operand goes to the upper half.
fn narrow_pair(d: &Decode<'_>, form: Form<'_, '_>, m: &Modifiers, to: Type, from: Type) -> Decoded {
    form.done(3..=3)?;
    let Number::Float(format) = to.number else { return Err(d.unsupported("its types")) };
    let halves = format == Format::F16 || format == Format::BF16;
    let options = m.options;
    let rounds = matches!(m.rounding, Some(Rounding::Nearest)) || halves && matches!(m.rounding, Some(Rounding::Zero));
    if from.number != Number::Float(Format::F32) || !rounds || options.integral || options.ftz || options.sat {
        return Err(d.unsupported("its types or modifiers"));
    }
    if !halves && !options.satfinite {
        return Err(d.unsupported(".satfinite is missing"));
    }
    let sources = [d.source(1, ScalarType::F32)?, d.source(2, ScalarType::F32)?];
    let numbers = |a: u64, b: u64| (f32::from_bits(a as u32), f32::from_bits(b as u32));
    if halves && options == Options::rounded(Rounding::Nearest) {
        return Ok(lanewise(Class::Convert, d.dest(0)?, sources, move |[a, b]| {
            let (high, low) = numbers(a, b);
            pack_f32_nearest(format, high, low).into()
        }));
    }
    Ok(lanewise(Class::Convert, d.dest(0)?, sources, move |[a, b]| {
        let (high, low) = numbers(a, b);
        pack_f32(format, high, low, options)
    }))
}

/// A packed pair to a packed pair: 8-bit and narrower formats to f16x2, and f16x2 to 8-bit ones.
fn pair(d: &Decode<'_>, form: Form<'_, '_>, m: &Modifiers, to: Type, from: Type) -> Decoded {
    form.done(2..=2)?;
    let options = m.options;
    let (Number::Float(t), Number::Float(f)) = (to.number, from.number) else { return Err(d.unsupported("its types")) };
    let narrows = (f == Format::F16 || f == Format::BF16) && to.stride <= 8;
    let widens = from.stride <= 8 && (t == Format::F16 || t == Format::BF16);
    let plain = m.rounding == Some(Rounding::Nearest) && !options.integral && !options.ftz && !options.sat;
    if !plain || !(narrows && options.satfinite || widens && !options.satfinite) {
        return Err(d.unsupported("its types or modifiers"));
    }
    Ok(lanewise(Class::Convert, d.dest(0)?, [d.source(1, ScalarType::B32)?], move |[a]| {
        let one = |i: u32| {
            convert(from.number, to.number, a >> (i * from.stride) & mask(f.bits()), options) << (i * to.stride)
        };
        one(0) | one(1)
    }))
}

/// `ue8m0x2`: two powers of two from f32, or as bf16x2.
fn scale_pair(d: &Decode<'_>, form: Form<'_, '_>, m: &Modifiers, to: &str, from: &str) -> Decoded {
    let options = m.options;
    let plain = !options.integral && !options.ftz && !options.sat && !options.relu;
    match (to, from, m.rounding) {
        ("ue8m0x2", "f32", Some(rounding @ (Rounding::Zero | Rounding::Up))) if plain && options.satfinite => {
            form.done(3..=3)?;
            let sources = [d.source(1, ScalarType::F32)?, d.source(2, ScalarType::F32)?];
            Ok(lanewise(Class::Convert, d.dest(0)?, sources, move |v| {
                let [high, low] = v.map(|x| u64::from(ue8m0(f32::from_bits(x as u32), rounding)));
                high << 8 | low
            }))
        }
        ("ue8m0x2", "bf16x2", Some(rounding @ (Rounding::Zero | Rounding::Up))) if plain && options.satfinite => {
            form.done(2..=2)?;
            Ok(lanewise(Class::Convert, d.dest(0)?, [d.source(1, ScalarType::B32)?], move |[pair]| {
                let one = |bits: u64| u64::from(ue8m0(f32::from_bits((bits as u32) << 16), rounding));
                one(pair >> 16) << 8 | one(pair & 0xffff)
            }))
        }
        ("bf16x2", "ue8m0x2", Some(Rounding::Nearest)) if plain && !options.satfinite => {
            form.done(2..=2)?;
            Ok(lanewise(Class::Convert, d.dest(0)?, [d.source(1, ScalarType::B16)?], |[a]| {
                // The exponent alone; the smallest power is subnormal, and 255 is a NaN.
                let one = |e: u64| match e {
                    0 => 0x0040,
                    255 => 0x7fff,
                    e => e << 7,
                };
                one(a & 0xff) | one(a >> 8 & 0xff) << 16
            }))
        }
        _ => Err(d.unsupported("its types or modifiers")),
    }
}

/// `cvt.pack.sat.to.s32 d, a, b` and `cvt.pack.sat.to.s32.b32 d, a, b, c`: two saturated integers, `a` above `b`, with
/// `c`'s low bits above both.
fn pack(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    form.take("pack");
    form.required(".sat", &[("sat", ())])?;
    let keeps = form.take("b32");
    let to = form.required(
        "its type",
        &[
            ("u16", (16, 0, 0xffff)),
            ("s16", (16, -0x8000, 0x7fff)),
            ("u8", (8, 0, 0xff)),
            ("s8", (8, -0x80, 0x7f)),
            ("u4", (4, 0, 0xf)),
            ("s4", (4, -8, 7)),
            ("u2", (2, 0, 3)),
            ("s2", (2, -2, 1)),
        ],
    )?;
    form.required("its source type", &[("s32", ())])?;
    form.done(if keeps { 4..=4 } else { 3..=3 })?;
    let (bits, low, high): (u32, i64, i64) = to;
    if keeps == (bits == 16) {
        return Err(d.unsupported("its types"));
    }
    let s32 = ScalarType::S32;
    let one = move |x: u64| signed(x, 32).clamp(low, high) as u64 & mask(bits);
    let both = move |a: u64, b: u64| one(a) << bits | one(b);
    if !keeps {
        return Ok(lanewise(Class::Convert, d.dest(0)?, [d.source(1, s32)?, d.source(2, s32)?], move |[a, b]| {
            both(a, b)
        }));
    }
    let sources = [d.source(1, s32)?, d.source(2, s32)?, d.source(3, ScalarType::B32)?];
    Ok(lanewise(Class::Convert, d.dest(0)?, sources, move |[a, b, c]| (c << (2 * bits) | both(a, b)) & mask(32)))
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{apply, refused, value};

    fn b(x: f32) -> u64 {
        x.to_bits().into()
    }

    #[test]
    fn one_value() {
        // Form, result width, operand width, operand, result.
        let rows: &[(&str, u32, u32, u64, u64)] = &[
            ("cvt.u16.u32", 16, 32, 0x1_2345, 0x2345),
            ("cvt.u32.u16", 32, 16, 0xffff, 0xffff),
            ("cvt.s64.s32", 64, 32, 0xffff_fffe, -2i64 as u64),
            ("cvt.u64.u32", 64, 32, 0xffff_fffe, 0xffff_fffe),
            ("cvt.s32.s8", 32, 32, 0x80, 0xffff_ff80),
            ("cvt.s16.s8", 32, 32, 0x80, 0xffff_ff80),
            ("cvt.u8.u32", 32, 32, 0x1ff, 0xff),
            ("cvt.sat.u8.s32", 32, 32, 0xffff_ffff, 0),
            ("cvt.sat.s8.s32", 32, 32, 300, 127),
            ("cvt.rn.f32.s32", 32, 32, 0xffff_ffff, b(-1.0)),
            ("cvt.rn.f32.u32", 32, 32, 0xffff_ffff, b(4294967296.0)),
            ("cvt.rz.f32.u32", 32, 32, 0xffff_ffff, b(4294967040.0)),
            ("cvt.rn.f64.s64", 64, 64, -3i64 as u64, (-3f64).to_bits()),
            ("cvt.rni.s32.f32", 32, 32, b(2.5), 2),
            ("cvt.rzi.s32.f32", 32, 32, b(-2.7), -2i32 as u32 as u64),
            ("cvt.rmi.s32.f32", 32, 32, b(-2.2), -3i32 as u32 as u64),
            ("cvt.rpi.u32.f32", 32, 32, b(2.2), 3),
            ("cvt.rzi.u32.f32", 32, 32, b(-1.0), 0),
            ("cvt.rzi.s32.f32", 32, 32, b(1e20), 0x7fff_ffff),
            ("cvt.rni.ftz.s32.f32", 32, 32, b(f32::NAN), 0),
            ("cvt.rni.f32.f32", 32, 32, b(2.5), b(2.0)),
            ("cvt.rmi.f32.f32", 32, 32, b(-0.5), b(-1.0)),
            ("cvt.sat.f32.f32", 32, 32, b(3.0), b(1.0)),
            ("cvt.f64.f32", 64, 32, b(1.5), 1.5f64.to_bits()),
            ("cvt.rn.f32.f64", 32, 64, 0.1f64.to_bits(), b(0.1)),
            ("cvt.f32.f16", 32, 16, 0x3c00, b(1.0)),
            ("cvt.f32.bf16", 32, 16, 0x4040, b(3.0)),
            ("cvt.rn.f16.f32", 16, 32, b(1.0 + 1.0 / 2048.0), 0x3c00),
            ("cvt.rz.bf16.f32", 16, 32, 0x3fff_ffff, 0x3fff),
            ("cvt.rn.relu.bf16.f32", 16, 32, b(-1.0), 0),
            ("cvt.rna.tf32.f32", 32, 32, 0x3f80_1000, 0x3f80_2000),
            ("cvt.rn.satfinite.tf32.f32", 32, 32, b(f32::INFINITY), 0x7f7f_e000),
        ];
        for &(form, width, operand, a, expected) in rows {
            let got = apply(form, width, &[(operand, a)]);
            assert_eq!(got, expected, "{form} {a:#x}: {got:#x}, expected {expected:#x}");
        }
    }

    #[test]
    fn the_first_of_two_goes_above_the_second() {
        // Form, result width, operands with their widths, result.
        type Row<'a> = (&'a str, u32, &'a [(u32, u64)], u64);
        let rows: &[Row<'_>] = &[
            ("cvt.rn.bf16x2.f32", 32, &[(32, b(1.0)), (32, b(2.0))], 0x3f80_4000),
            ("cvt.rn.f16x2.f32", 32, &[(32, b(1.0)), (32, b(2.0))], 0x3c00_4000),
            ("cvt.rz.relu.f16x2.f32", 32, &[(32, b(-1.0)), (32, b(2.0))], 0x4000),
            ("cvt.rn.satfinite.f16x2.f32", 32, &[(32, b(1e9)), (32, b(2.0))], 0x7bff_4000),
            ("cvt.rn.satfinite.e4m3x2.f32", 16, &[(32, b(1.0)), (32, b(1e9))], 0x387e),
            ("cvt.rn.satfinite.e5m2x2.f32", 16, &[(32, b(1.0)), (32, b(-1e9))], 0x3cfb),
            ("cvt.rn.satfinite.relu.e4m3x2.f16x2", 16, &[(32, 0x3c00_bc00)], 0x3800),
            ("cvt.rn.f16x2.e4m3x2", 32, &[(16, 0x3840)], 0x3c00_4000),
            ("cvt.rn.f16x2.e5m2x2", 32, &[(16, 0x3c40)], 0x3c00_4000),
            ("cvt.rz.satfinite.ue8m0x2.f32", 16, &[(32, b(1.0)), (32, b(4.0))], 0x7f81),
            ("cvt.rp.satfinite.ue8m0x2.bf16x2", 16, &[(32, 0x3f81_4080)], 0x8081),
            ("cvt.rs.bf16x2.f32", 32, &[(32, 0x3f80_8000), (32, 0x4000_8000), (32, 0x8000_7fff)], 0x3f81_4000),
            ("cvt.rs.relu.f16x2.f32", 32, &[(32, b(-1.0)), (32, 0x3f80_1000), (32, 0x1000)], 0x0000_3c01),
            ("cvt.rn.bf16x2.ue8m0x2", 32, &[(16, 0x7f81)], 0x3f80_4080),
            ("cvt.pack.sat.s16.s32", 32, &[(32, 70000), (32, 0xffff_ffff)], 0x7fff_ffff),
            ("cvt.pack.sat.u8.s32.b32", 32, &[(32, 300), (32, 0xffff_ffff), (32, 0x1234)], 0x1234_ff00),
        ];
        for (form, width, operands, expected) in rows {
            let got = apply(form, *width, operands);
            assert_eq!(got, *expected, "{form}: {got:#x}, expected {expected:#x}");
        }
    }

    #[test]
    fn four_numbers_at_random() {
        let numbers =
            "mov.b32 %f0, 0f3FC00000; mov.b32 %f1, 0f40000000; mov.b32 %f2, 0fBF800000; mov.b32 %f3, 0f3F000000;";
        let four = |to: &str, dest: &str, widen: &str| {
            value(
                &format!(
                    "{numbers} mov.u32 %r1, -1; cvt.rs.satfinite.{to}.f32 {dest}, {{%f0, %f1, %f2, %f3}}, %r1; {widen}"
                ),
                &[],
            )
        };
        assert_eq!(four("e4m3x4", "%r0", "cvt.u64.u32 %out, %r0;"), 0x3c40_b830);
        assert_eq!(four("e2m1x4", "%h0", "cvt.u64.u16 %out, %h0;"), 0x34a1);
    }

    #[test]
    fn a_constant_and_a_special_register_convert_too() {
        assert_eq!(
            value(
                "cvt.u64.u32 %rd0, %ntid.x; cvt.rn.f32.s32 %f0, -2; mov.b32 %r0, %f0; mov.b64 %out, {%r0, %r0}; sub.s64 %out, %out, %rd0;",
                &[]
            ),
            (b(-2.0) << 32 | b(-2.0)) - 32
        );
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "cvt.f32.s32 %f0, %r0;",
            "cvt.s32.f32 %r0, %f0;",
            "cvt.f16.f32 %h0, %f0;",
            "cvt.rs.bf16x2.f32 %r0, %f0, %f1;",
            "cvt.rs.e4m3x4.f32 %r0, {%f0, %f1, %f2, %f3}, %r1;",
            "cvt.rs.tf32.f32 %r0, %f0, %f1, %r1;",
            "cvt.rn.e4m3x2.f32 %h0, %f0, %f1;",
            "cvt.rn.b32.f32 %r0, %f0;",
            "cvt.rni.s32.s32 %r0, %r1;",
            "cvt.rn.satfinite.s32.f32 %r0, %f0;",
        ] {
            refused(line);
        }
    }
}
