//! Integer arithmetic.

use super::Decoded;
use super::form::{Form, integer, mask, signed};
use super::lane::lanewise;
use crate::counters::Class;
use crate::machine::decode::Decode;
use crate::ptx::ScalarType;
use crate::report::Unsupported;

/// An instruction of one destination and operands of one type, whose result has `out` bits.
fn simple<const N: usize>(
    d: &Decode<'_>,
    ty: ScalarType,
    out: u32,
    f: impl Fn([u64; N]) -> u64 + Send + Sync + 'static,
) -> Decoded {
    let mut sources = Vec::with_capacity(N);
    for i in 1..=N {
        sources.push(d.source(i, ty)?);
    }
    let sources = sources.try_into().map_err(|_| d.unsupported("its number of operands"))?;
    let bits = ty.bits();
    Ok(lanewise(Class::Integer, d.dest(0)?, sources, move |v: [u64; N]| f(v.map(|x| x & mask(bits))) & mask(out)))
}

/// Bits and sign of the last modifier, an integer type.
fn scalar(d: &Decode<'_>, form: &mut Form<'_, '_>) -> Result<(ScalarType, u32, bool), Unsupported> {
    let ty = form.ty()?;
    let (bits, is_signed) = integer(ty).ok_or_else(|| d.unsupported(format!("the type .{ty}")))?;
    Ok((ty, bits, is_signed))
}

/// Decodes `add`, `sub`, `mul`, `mad`, `div`, `rem`, `abs`, `neg`, `min`, `max`, `sad`, `mul24`, `mad24`, `dp4a` and `dp2a`.
pub(super) fn decode(d: &Decode<'_>) -> Decoded {
    match d.inst.opcode.as_str() {
        "add" | "sub" if d.has("cc") => super::carry::decode(d),
        "mad" if d.has("cc") => super::carry::decode(d),
        "add" | "sub" | "min" | "max" if d.modifiers().any(|m| matches!(m, "u16x2" | "s16x2")) => halves(d),
        "add" | "sub" => add(d),
        "mul" | "mad" => multiply(d),
        "mul24" | "mad24" => multiply24(d),
        "div" | "rem" => divide(d),
        "min" | "max" => min_max(d),
        "abs" | "neg" => sign(d),
        "sad" => sad(d),
        "dp4a" => dp4a(d),
        "dp2a" => dp2a(d),
        _ => Err(d.unsupported("the opcode")),
    }
}

/// `add` or `sub` of a value with the type's wrap, or, with `.sat`, within the range of s32.
fn add(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, bits, _) = scalar(d, &mut form)?;
    let saturates = form.take("sat");
    if saturates && ty != ScalarType::S32 || bits == 8 {
        return Err(d.unsupported(format!("the type .{ty}")));
    }
    form.done(3..=3)?;
    let subtracts = d.inst.opcode == "sub";
    if saturates {
        return simple(d, ty, bits, move |[a, b]| {
            let (a, b) = (a as i32, b as i32);
            (if subtracts { a.saturating_sub(b) } else { a.saturating_add(b) }) as u32 as u64
        });
    }
    if subtracts {
        simple(d, ty, bits, |[a, b]| a.wrapping_sub(b))
    } else {
        simple(d, ty, bits, |[a, b]| a.wrapping_add(b))
    }
}

/// `.u16x2` and `.s16x2`: two halves that do not touch each other.
fn halves(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let is_signed = form.required("the type", &[("u16x2", false), ("s16x2", true)])?;
    let relu = form.take("relu");
    form.done(3..=3)?;
    let key = move |x: u64| if is_signed { signed(x, 16) } else { x as i64 };
    let one: fn(i64, i64) -> i64 = match d.inst.opcode.as_str() {
        "add" if !relu => |a, b| a.wrapping_add(b),
        "sub" if !relu => |a, b| a.wrapping_sub(b),
        "min" => |a, b| a.min(b),
        "max" => |a, b| a.max(b),
        _ => return Err(d.unsupported("the modifier .relu")),
    };
    if relu && !is_signed {
        return Err(d.unsupported("the modifier .relu"));
    }
    simple(d, ScalarType::B32, 32, move |[a, b]| {
        let half = |shift: u32| {
            let result = one(key(a >> shift & 0xffff), key(b >> shift & 0xffff));
            ((if relu { result.max(0) } else { result }) as u64 & 0xffff) << shift
        };
        half(0) | half(16)
    })
}

/// The product of two words with all its bits.
fn product(a: u64, b: u64, bits: u32, is_signed: bool) -> i128 {
    if is_signed {
        i128::from(signed(a, bits)) * i128::from(signed(b, bits))
    } else {
        (u128::from(a) * u128::from(b)) as i128
    }
}

/// `mul` and `mad`, `.lo`, `.hi` or `.wide`.
fn multiply(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, bits, is_signed) = scalar(d, &mut form)?;
    #[derive(Clone, Copy, PartialEq)]
    enum Part {
        Low,
        High,
        Wide,
    }
    let part = form.required("which half", &[("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)])?;
    let adds = d.inst.opcode == "mad";
    let saturates = adds && part == Part::High && ty == ScalarType::S32 && form.take("sat");
    form.done(if adds { 4..=4 } else { 3..=3 })?;
    let out = if part == Part::Wide { bits * 2 } else { bits };
    if bits == 8 || out > 64 {
        return Err(d.unsupported(format!("the type .{ty}")));
    }
    let (shift, in_mask) = (if part == Part::High { bits } else { 0 }, mask(bits));
    let multiply = move |a: u64, b: u64| (product(a & in_mask, b & in_mask, bits, is_signed) >> shift) as u64;
    let (a, b) = (d.source(1, ty)?, d.source(2, ty)?);
    if !adds {
        return Ok(lanewise(Class::Integer, d.dest(0)?, [a, b], move |[a, b]| multiply(a, b) & mask(out)));
    }
    let c = d.source(3, ty)?;
    Ok(lanewise(Class::Integer, d.dest(0)?, [a, b, c], move |[a, b, c]| {
        if saturates {
            return (multiply(a, b) as i32).saturating_add(c as i32) as u32 as u64;
        }
        multiply(a, b).wrapping_add(c) & mask(out)
    }))
}

/// `mul24` and `mad24`: products of the low 24 bits, of which the low or the high 32 bits of 48 count.
fn multiply24(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, bits, is_signed) = scalar(d, &mut form)?;
    let high = form.required("which half", &[("lo", false), ("hi", true)])?;
    let adds = d.inst.opcode == "mad24";
    let saturates = adds && high && is_signed && form.take("sat");
    form.done(if adds { 4..=4 } else { 3..=3 })?;
    if bits != 32 {
        return Err(d.unsupported(format!("the type .{ty}")));
    }
    let shift = if high { 16 } else { 0 };
    let multiply = move |a: u64, b: u64| (product(a & mask(24), b & mask(24), 24, is_signed) >> shift) as u64;
    if !adds {
        return simple(d, ty, 32, move |[a, b]| multiply(a, b));
    }
    simple(d, ty, 32, move |[a, b, c]| {
        if saturates {
            return (multiply(a, b) as i32).saturating_add(c as i32) as u32 as u64;
        }
        multiply(a, b).wrapping_add(c)
    })
}

/// `div` and `rem`. PTX leaves division by zero open; hardware gives all bits set, and the dividend as remainder.
fn divide(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, bits, is_signed) = scalar(d, &mut form)?;
    form.done(3..=3)?;
    if bits == 8 {
        return Err(d.unsupported(format!("the type .{ty}")));
    }
    match (d.inst.opcode == "div", is_signed) {
        (true, false) => simple(d, ty, bits, |[a, b]| a.checked_div(b).unwrap_or(u64::MAX)),
        (false, false) => simple(d, ty, bits, |[a, b]| a.checked_rem(b).unwrap_or(a)),
        (true, true) => simple(d, ty, bits, move |[a, b]| match signed(b, bits) {
            0 => u64::MAX,
            b => signed(a, bits).wrapping_div(b) as u64,
        }),
        (false, true) => simple(d, ty, bits, move |[a, b]| match signed(b, bits) {
            0 => a,
            b => signed(a, bits).wrapping_rem(b) as u64,
        }),
    }
}

fn min_max(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, bits, is_signed) = scalar(d, &mut form)?;
    let relu = ty == ScalarType::S32 && form.take("relu");
    form.done(3..=3)?;
    if bits == 8 {
        return Err(d.unsupported(format!("the type .{ty}")));
    }
    match (d.inst.opcode == "max", is_signed) {
        (true, false) => simple(d, ty, bits, |[a, b]| a.max(b)),
        (false, false) => simple(d, ty, bits, |[a, b]| a.min(b)),
        (larger, true) => simple(d, ty, bits, move |[a, b]| {
            let (a, b) = (signed(a, bits), signed(b, bits));
            let result = if larger { a.max(b) } else { a.min(b) };
            (if relu { result.max(0) } else { result }) as u64
        }),
    }
}

fn sign(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, bits, is_signed) = scalar(d, &mut form)?;
    form.done(2..=2)?;
    if !is_signed || bits == 8 {
        return Err(d.unsupported(format!("the type .{ty}")));
    }
    if d.inst.opcode == "neg" {
        return simple(d, ty, bits, |[a]| a.wrapping_neg());
    }
    simple(d, ty, bits, move |[a]| signed(a, bits).wrapping_abs() as u64)
}

/// `sad`: `c + |a - b|`.
fn sad(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, bits, is_signed) = scalar(d, &mut form)?;
    form.done(4..=4)?;
    if bits == 8 {
        return Err(d.unsupported(format!("the type .{ty}")));
    }
    simple(d, ty, bits, move |[a, b, c]| {
        let distance = if is_signed { signed(a, bits).abs_diff(signed(b, bits)) } else { a.abs_diff(b) };
        c.wrapping_add(distance)
    })
}

/// The signs of the two multiplied operands of a dot product.
fn dot_signs(d: &Decode<'_>) -> Result<[bool; 2], Unsupported> {
    let mut signs = d.modifiers().filter_map(|m| match m {
        "u32" => Some(false),
        "s32" => Some(true),
        _ => None,
    });
    let (Some(a), Some(b), None) = (signs.next(), signs.next(), signs.next()) else {
        return Err(d.unsupported("its types"));
    };
    Ok([a, b])
}

/// A field of a word, signed or not.
fn field(word: u64, at: u32, bits: u32, is_signed: bool) -> i64 {
    let value = word >> at & mask(bits);
    if is_signed { signed(value, bits) } else { value as i64 }
}

/// `dp4a`: `c` plus the products of four bytes.
fn dp4a(d: &Decode<'_>) -> Decoded {
    let [a_signed, b_signed] = dot_signs(d)?;
    let mut form = Form::new(d);
    form.ty()?;
    form.ty()?;
    form.done(4..=4)?;
    simple(d, ScalarType::B32, 32, move |[a, b, c]| {
        let products = (0..4).map(|i| field(a, 8 * i, 8, a_signed) * field(b, 8 * i, 8, b_signed));
        c.wrapping_add(products.sum::<i64>() as u64)
    })
}

/// `dp2a`: `c` plus the products of `a`'s two halves and two bytes of `b`, its lower or upper ones.
fn dp2a(d: &Decode<'_>) -> Decoded {
    let [a_signed, b_signed] = dot_signs(d)?;
    let mut form = Form::new(d);
    form.ty()?;
    form.ty()?;
    let from = form.required("which half", &[("lo", 0u32), ("hi", 16)])?;
    form.done(4..=4)?;
    simple(d, ScalarType::B32, 32, move |[a, b, c]| {
        let products = (0..2).map(|i| field(a, 16 * i, 16, a_signed) * field(b, from + 8 * i, 8, b_signed));
        c.wrapping_add(products.sum::<i64>() as u64)
    })
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{refused, table, value};

    #[test]
    fn results_of_32_bits() {
        let minus = |x: u32| u64::from(x.wrapping_neg());
        table(&[
            ("add.s32", 32, 32, &[0x7fff_ffff, 1], 0x8000_0000),
            ("add.sat.s32", 32, 32, &[0x7fff_ffff, 1], 0x7fff_ffff),
            ("sub.sat.s32", 32, 32, &[0x8000_0000, 1], 0x8000_0000),
            ("add.u32", 32, 32, &[0xffff_ffff, 2], 1),
            ("sub.u32", 32, 32, &[1, 2], 0xffff_ffff),
            ("mul.lo.s32", 32, 32, &[minus(3), 5], minus(15)),
            ("mul.hi.u32", 32, 32, &[0xffff_ffff, 0xffff_ffff], 0xffff_fffe),
            ("mul.hi.s32", 32, 32, &[minus(1), 1], 0xffff_ffff),
            ("mad.lo.s32", 32, 32, &[minus(3), 5, 20], 5),
            ("mad.hi.u32", 32, 32, &[0x8000_0000, 4, 7], 9),
            ("mad.hi.sat.s32", 32, 32, &[0x7fff_ffff, 0x7fff_ffff, 0x7fff_ffff], 0x7fff_ffff),
            ("mul24.lo.u32", 32, 32, &[0xff00_0002, 3], 6),
            ("mul24.hi.u32", 32, 32, &[0x80_0000, 0x80_0000], 1 << 30),
            ("mad24.lo.s32", 32, 32, &[0xff_ffff, 5, 7], 2),
            ("div.s32", 32, 32, &[minus(7), 2], minus(3)),
            ("rem.s32", 32, 32, &[minus(7), 2], minus(1)),
            ("div.u32", 32, 32, &[7, 0], 0xffff_ffff),
            ("rem.u32", 32, 32, &[7, 4], 3),
            ("div.s32", 32, 32, &[0x8000_0000, minus(1)], 0x8000_0000),
            ("min.s32", 32, 32, &[minus(1), 1], minus(1)),
            ("min.u32", 32, 32, &[minus(1), 1], 1),
            ("max.relu.s32", 32, 32, &[minus(1), minus(2)], 0),
            ("abs.s32", 32, 32, &[minus(5)], 5),
            ("neg.s32", 32, 32, &[5], minus(5)),
            ("sad.s32", 32, 32, &[minus(1), 1, 10], 12),
            ("sad.u32", 32, 32, &[1, 5, 10], 14),
            ("add.u16x2", 32, 32, &[0xffff_ffff, 0x0001_0002], 1),
            ("min.s16x2", 32, 32, &[0xffff_0001, 0x0001_ffff], 0xffff_ffff),
            ("max.relu.s16x2", 32, 32, &[0xffff_0001, 0xfffe_0002], 2),
            ("dp4a.u32.s32", 32, 32, &[0x0403_0201, 0xffff_ffff, 100], 90),
            ("dp4a.s32.u32", 32, 32, &[0xff01_01ff, 0x0202_0202, 1], 1),
            ("dp2a.hi.u32.u32", 32, 32, &[0x0002_0001, 0x0403_0201, 0], 11),
        ]);
    }

    #[test]
    fn results_of_other_widths() {
        table(&[
            ("add.s64", 64, 64, &[u64::MAX, 2], 1),
            ("mul.lo.u64", 64, 64, &[1 << 40, 1 << 30], 0),
            ("mul.hi.u64", 64, 64, &[1 << 40, 1 << 30], 64),
            ("mul.hi.s64", 64, 64, &[u64::MAX, 2], u64::MAX),
            ("mul.wide.u32", 64, 32, &[0xffff_ffff, 2], 0x1_ffff_fffe),
            ("mul.wide.s32", 64, 32, &[0xffff_ffff, 2], -2i64 as u64),
            ("mul.wide.u16", 32, 16, &[0xffff, 2], 0x1_fffe),
            ("mad.lo.s64", 64, 64, &[3, 4, 5], 17),
            ("div.s64", 64, 64, &[-9i64 as u64, 4], -2i64 as u64),
            ("max.s16", 16, 16, &[0xffff, 1], 1),
            ("neg.s16", 16, 16, &[1], 0xffff),
            ("abs.s64", 64, 64, &[-9i64 as u64], 9),
        ]);
        assert_eq!(
            value("cvt.u32.u64 %r1, %a0; mad.wide.u32 %out, %r1, %r1, %a1;", &[0xffff_ffff, 1]),
            0xffff_fffe_0000_0002
        );
        assert_eq!(value("mad.wide.s32 %out, -3, 5, 10;", &[]), -5i64 as u64);
    }

    #[test]
    fn carries_go_from_word_to_word() {
        let sum = "mov.b64 {%r0, %r1}, %a0; mov.b64 {%r2, %r3}, %a1;
            add.cc.u32 %r4, %r0, %r2; addc.u32 %r5, %r1, %r3; mov.b64 %out, {%r4, %r5};";
        assert_eq!(value(sum, &[0x1_ffff_ffff, 0x2_0000_0001]), 0x4_0000_0000);
        let difference = "mov.b64 {%r0, %r1}, %a0; mov.b64 {%r2, %r3}, %a1;
            sub.cc.u32 %r4, %r0, %r2; subc.u32 %r5, %r1, %r3; mov.b64 %out, {%r4, %r5};";
        assert_eq!(value(difference, &[5 << 32, 1]), 0x4_ffff_ffff);
        let product = "cvt.u32.u64 %r0, %a0; cvt.u32.u64 %r1, %a1;
            mad.lo.cc.u32 %r2, %r0, %r1, -1; madc.hi.u32 %r3, %r0, %r1, 7; mov.b64 %out, {%r2, %r3};";
        assert_eq!(value(product, &[0x8000_0001, 0x10]), (0x8_0000_0010 + 0xffff_ffff) + (7 << 32));
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "add.sat.u32 %r1, %r2, %r3;",
            "add.u8 %r1, %r2, %r3;",
            "mul.s32 %r1, %r2, %r3;",
            "mul.wide.u64 %rd1, %rd2, %rd3;",
            "add.s32 %r1, %r2;",
            "add.rn.s32 %r1, %r2, %r3;",
            "neg.u32 %r1, %r2;",
            "dp4a.u32 %r1, %r2, %r3, %r4;",
            "vadd.u32.u32.u32 %r1, %r2, %r3;",
            "vsub.s32.u32.s32.sat %r1, %r2.b0, %r3.h1;",
            "vsub.s32.s32.s32.add %r1.b2, %r2.b3, %r3.b1, %r4;",
            "vadd4.u32.u32.u32.sat %r1.b210, %r2.b3210, %r3.b7654, %r4;",
            "vmad.u32.u32.u32.shr7 %r1, %r2.b0, -%r3.h0, %r4;",
            "add.s32 %r1, -%r2, %r3;",
            "add.s32 %r1, %r2.b0, %r3;",
        ] {
            refused(line);
        }
    }
}
