//! Bits: logic, shifts, fields, counts and permutations.

use super::Decoded;
use super::form::{Form, integer, mask, signed};
use super::lane::{double, lanewise};
use crate::counters::Class;
use crate::machine::decode::Decode;
use crate::ptx::ScalarType;
use crate::report::Unsupported;

/// An instruction of 32-bit operands and a 32-bit result.
fn words<const N: usize>(d: &Decode<'_>, f: impl Fn([u32; N]) -> u32 + Send + Sync + 'static) -> Decoded {
    let mut sources = Vec::with_capacity(N);
    for i in 1..=N {
        sources.push(d.source(i, ScalarType::B32)?);
    }
    let sources = sources.try_into().map_err(|_| d.unsupported("its number of operands"))?;
    Ok(lanewise(Class::Integer, d.dest(0)?, sources, move |v: [u64; N]| f(v.map(|x| x as u32)).into()))
}

/// Takes the last modifier, which is one of these types, and gives its width.
fn width(d: &Decode<'_>, form: &mut Form<'_, '_>, allowed: &[ScalarType]) -> Result<(ScalarType, u32), Unsupported> {
    let ty = form.ty()?;
    if allowed.contains(&ty) { Ok((ty, ty.bits())) } else { Err(d.unsupported(format!("the type .{ty}"))) }
}

const LOGIC: &[ScalarType] = &[ScalarType::Pred, ScalarType::B16, ScalarType::B32, ScalarType::B64];
const B32_B64: &[ScalarType] = &[ScalarType::B32, ScalarType::B64];

/// Decodes this module's opcodes.
pub(super) fn decode(d: &Decode<'_>) -> Decoded {
    match d.inst.opcode.as_str() {
        "and" | "or" | "xor" => logic(d),
        "not" | "cnot" => not(d),
        "lop3" => lop3(d),
        "shl" | "shr" => shift(d),
        "shf" => funnel(d),
        "popc" | "clz" | "brev" => count(d),
        "bfind" => find_leading(d),
        "fns" => find_nth(d),
        "bfe" => extract(d),
        "bfi" => insert(d),
        "bmsk" | "szext" => mask_or_extend(d),
        "prmt" => permute(d),
        _ => Err(d.unsupported("the opcode")),
    }
}

fn logic(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, bits) = width(d, &mut form, LOGIC)?;
    form.done(3..=3)?;
    let f: fn(u64, u64) -> u64 = match d.inst.opcode.as_str() {
        "and" => |a, b| a & b,
        "or" => |a, b| a | b,
        _ => |a, b| a ^ b,
    };
    Ok(lanewise(Class::Integer, d.dest(0)?, [d.source(1, ty)?, d.source(2, ty)?], move |[a, b]| f(a, b) & mask(bits)))
}

/// `not`, and `cnot`: 1 for 0, 0 for anything else.
fn not(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let counts = d.inst.opcode == "cnot";
    let (ty, bits) = width(d, &mut form, if counts { &LOGIC[1..] } else { LOGIC })?;
    form.done(2..=2)?;
    let (dest, a) = (d.dest(0)?, d.source(1, ty)?);
    if counts {
        return Ok(lanewise(Class::Integer, dest, [a], move |[a]| u64::from(a & mask(bits) == 0)));
    }
    Ok(lanewise(Class::Integer, dest, [a], move |[a]| !a & mask(bits)))
}

/// The function of three bits with this truth table, on words.
fn lookup(a: u32, b: u32, c: u32, table: u8) -> u32 {
    (0..8).filter(|i| table >> i & 1 != 0).fold(0, |result, i| {
        let pick = |word: u32, bit: u32| if i >> bit & 1 != 0 { word } else { !word };
        result | pick(a, 2) & pick(b, 1) & pick(c, 0)
    })
}

/// `lop3.b32 d, a, b, c, table`, and `lop3.{or,and}.b32 d|p, a, b, c, table, q` with `p = (d != 0) op q`.
fn lop3(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    width(d, &mut form, &[ScalarType::B32])?;
    let combine = form.choice(&[("or", true), ("and", false)]);
    form.done(if combine.is_some() { 6..=6 } else { 5..=5 })?;
    let table = d.int(4)?;
    let table = u8::try_from(table).map_err(|_| d.unsupported(format!("the table {table}")))?;
    let Some(or) = combine else {
        return words(d, move |[a, b, c]| lookup(a, b, c, table));
    };
    let (dest, pred) = d.pair(0)?;
    let b32 = ScalarType::B32;
    let sources = [d.source(1, b32)?, d.source(2, b32)?, d.source(3, b32)?, d.pred(5)?];
    Ok(double(Class::Integer, [dest, pred], sources, move |[a, b, c, q]| {
        let result = lookup(a as u32, b as u32, c as u32, table);
        let (p, q) = (result != 0, q != 0);
        [result.into(), u64::from(if or { p || q } else { p && q })]
    }))
}

/// Shifts by the type's width or more give 0, or the sign.
fn shift(d: &Decode<'_>) -> Decoded {
    use ScalarType::*;
    let mut form = Form::new(d);
    let left = d.inst.opcode == "shl";
    let allowed: &[ScalarType] = if left { &LOGIC[1..] } else { &[B16, B32, B64, U16, U32, U64, S16, S32, S64] };
    let (ty, bits) = width(d, &mut form, allowed)?;
    form.done(3..=3)?;
    let (dest, sources) = (d.dest(0)?, [d.source(1, ty)?, d.source(2, U32)?]);
    let class = Class::Integer;
    if left {
        return Ok(lanewise(class, dest, sources, move |[a, n]| a.checked_shl(n as u32).unwrap_or(0) & mask(bits)));
    }
    if ty.is_signed() {
        return Ok(lanewise(class, dest, sources, move |[a, n]| {
            (signed(a, bits) >> (n as u32).min(63)) as u64 & mask(bits)
        }));
    }
    Ok(lanewise(class, dest, sources, move |[a, n]| (a & mask(bits)).checked_shr(n as u32).unwrap_or(0)))
}

/// `shf`: the upper half of `b:a << n`, or the lower half of `b:a >> n`.
fn funnel(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    width(d, &mut form, &[ScalarType::B32])?;
    let left = form.required("the direction", &[("l", true), ("r", false)])?;
    let wraps = form.required("what large shifts do", &[("wrap", true), ("clamp", false)])?;
    form.done(4..=4)?;
    words(d, move |[a, b, n]| {
        let n = if wraps { n & 31 } else { n.min(32) };
        let both = u64::from(b) << 32 | u64::from(a);
        (if left { both << n >> 32 } else { both >> n }) as u32
    })
}

fn count(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, bits) = width(d, &mut form, B32_B64)?;
    form.done(2..=2)?;
    let f: fn(u64, u32) -> u64 = match d.inst.opcode.as_str() {
        "popc" => |a, _| a.count_ones().into(),
        "clz" => |a, bits| u64::from(a.leading_zeros() - (64 - bits)),
        _ => |a, bits| a.reverse_bits() >> (64 - bits),
    };
    Ok(lanewise(Class::Integer, d.dest(0)?, [d.source(1, ty)?], move |[a]| f(a & mask(bits), bits)))
}

/// `bfind`: the place of the highest bit that is not a copy of the sign, or how far it is from the top.
fn find_leading(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let ty = form.ty()?;
    let Some((bits @ (32 | 64), is_signed)) = integer(ty) else {
        return Err(d.unsupported(format!("the type .{ty}")));
    };
    let from_top = form.take("shiftamt");
    form.done(2..=2)?;
    Ok(lanewise(Class::Integer, d.dest(0)?, [d.source(1, ty)?], move |[a]| {
        let value = if is_signed && signed(a, bits) < 0 { !a } else { a } & mask(bits);
        match value.checked_ilog2() {
            None => 0xffff_ffff,
            Some(place) if from_top => u64::from(bits - 1 - place),
            Some(place) => place.into(),
        }
    }))
}

/// `fns`: the place of the n-th set bit from `base` on, upward or, for negative n, downward.
fn find_nth(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    width(d, &mut form, &[ScalarType::B32])?;
    form.done(4..=4)?;
    words(d, |[word, base, offset]| {
        let offset = offset as i32;
        let is_set = |place: &i64| (0..32).contains(place) && word >> place & 1 != 0;
        let step = if offset < 0 { -1 } else { 1 };
        let found = if offset == 0 {
            Some(i64::from(base)).filter(is_set)
        } else {
            let places = (0..32).map(|i| i64::from(base) + step * i);
            places.filter(is_set).nth(offset.unsigned_abs() as usize - 1)
        };
        found.map_or(u32::MAX, |place| place as u32)
    })
}

/// `bfe`: `len` bits of `a` from `pos` on, continued by the sign or zeros.
fn extract(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let ty = form.ty()?;
    let Some((bits @ (32 | 64), is_signed)) = integer(ty) else {
        return Err(d.unsupported(format!("the type .{ty}")));
    };
    form.done(4..=4)?;
    let sources = [d.source(1, ty)?, d.source(2, ScalarType::U32)?, d.source(3, ScalarType::U32)?];
    Ok(lanewise(Class::Integer, d.dest(0)?, sources, move |[a, pos, len]| {
        let (a, pos, len) = (a & mask(bits), pos as u32 & 0xff, len as u32 & 0xff);
        if len == 0 {
            return 0;
        }
        let field = a.checked_shr(pos).unwrap_or(0) & mask(len);
        let top = (pos + len - 1).min(bits - 1);
        let sign = is_signed && a >> top & 1 != 0;
        // The sign fills every bit that the field does not, those past the top of `a` included.
        let present = len.min(bits.saturating_sub(pos));
        (if sign { field | !mask(present) } else { field }) & mask(bits)
    }))
}

/// `bfi`: `b` with `len` bits from `pos` on replaced by the low bits of `a`.
fn insert(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let (ty, bits) = width(d, &mut form, B32_B64)?;
    form.done(5..=5)?;
    let u32 = ScalarType::U32;
    let sources = [d.source(1, ty)?, d.source(2, ty)?, d.source(3, u32)?, d.source(4, u32)?];
    Ok(lanewise(Class::Integer, d.dest(0)?, sources, move |[a, b, pos, len]| {
        let (pos, len) = (pos as u32 & 0xff, len as u32 & 0xff);
        let field = mask(len).checked_shl(pos).unwrap_or(0);
        (b & !field | a.checked_shl(pos).unwrap_or(0) & field) & mask(bits)
    }))
}

/// `bmsk`: `b` ones from place `a` on. `szext`: `a` extended from its low `b` bits.
fn mask_or_extend(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let is_mask = d.inst.opcode == "bmsk";
    let allowed: &[ScalarType] = if is_mask { &[ScalarType::B32] } else { &[ScalarType::U32, ScalarType::S32] };
    let (ty, _) = width(d, &mut form, allowed)?;
    let wraps = form.required("what large values do", &[("wrap", true), ("clamp", false)])?;
    form.done(3..=3)?;
    let limit = move |n: u32| if wraps { n & 31 } else { n.min(32) };
    if is_mask {
        return words(d, move |[a, b]| (mask(limit(b)) as u32).checked_shl(limit(a)).unwrap_or(0));
    }
    let is_signed = ty.is_signed();
    words(d, move |[a, n]| match limit(n) {
        0 => 0,
        n if is_signed => signed(a.into(), n) as u32,
        n => a & mask(n) as u32,
    })
}

/// `prmt`: four bytes out of the eight of `b:a`.
fn permute(d: &Decode<'_>) -> Decoded {
    type Pick = fn(u32, u32) -> u32;
    let mut form = Form::new(d);
    form.required("its type", &[("b32", ())])?;
    // Byte `i` of the result, for a selector of two bits.
    let modes: &[(&str, Pick)] = &[
        ("f4e", |i, n| n + i),
        ("b4e", |i, n| n.wrapping_sub(i) & 7),
        ("rc8", |_, n| n),
        ("ecl", |i, n| i.max(n)),
        ("ecr", |i, n| i.min(n)),
        ("rc16", |i, n| (i & 1) + 2 * (n & 1)),
    ];
    let mode = form.choice(modes);
    form.done(4..=4)?;
    words(d, move |[a, b, selector]| {
        let both = u64::from(b) << 32 | u64::from(a);
        let byte = |place: u32| (both >> (8 * place)) as u32 & 0xff;
        (0..4).fold(0, |result, i| {
            let value = match mode {
                Some(pick) => byte(pick(i, selector & 3)),
                None => {
                    let nibble = selector >> (4 * i) & 0xf;
                    let value = byte(nibble & 7);
                    if nibble & 8 == 0 { value } else { (value >> 7) * 0xff }
                }
            };
            result | value << (8 * i)
        })
    })
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{apply, refused, table, value};

    #[test]
    fn logic_and_shifts() {
        table(&[
            ("and.b32", 32, 32, &[0b1100, 0b1010], 0b1000),
            ("or.b64", 64, 64, &[1 << 40, 1], 1 << 40 | 1),
            ("xor.b16", 16, 16, &[0xff, 0x0f], 0xf0),
            ("not.b32", 32, 32, &[0xff], 0xffff_ff00),
            ("cnot.b32", 32, 32, &[0], 1),
            ("cnot.b32", 32, 32, &[9], 0),
            ("shl.b32", 32, 32, &[3, 31], 0x8000_0000),
            ("shl.b32", 32, 32, &[3, 32], 0),
            ("shr.u32", 32, 32, &[0x8000_0000, 31], 1),
            ("shr.s32", 32, 32, &[0x8000_0000, 31], 0xffff_ffff),
            ("shr.s32", 32, 32, &[0x8000_0000, 200], 0xffff_ffff),
            ("shr.b32", 32, 32, &[0x8000_0000, 32], 0),
            ("shf.l.wrap.b32", 32, 32, &[0x8000_0000, 1, 33], 3),
            ("shf.r.wrap.b32", 32, 32, &[0x8000_0000, 1, 4], 0x1800_0000),
            ("shf.l.clamp.b32", 32, 32, &[0xdead_beef, 1, 40], 0xdead_beef),
            ("shf.r.clamp.b32", 32, 32, &[1, 0xdead_beef, 32], 0xdead_beef),
        ]);
        assert_eq!(value("cvt.u32.u64 %r0, %a0; shl.b64 %out, %a1, %r0;", &[40, 3]), 3 << 40);
        let predicates = "setp.eq.s32 %p0, 1, 1; not.pred %p1, %p0; xor.pred %p2, %p0, %p1; selp.b64 %out, 7, 8, %p2;";
        assert_eq!(value(predicates, &[]), 7);
    }

    #[test]
    fn lookup_tables() {
        let (a, b, c) = (0xf0f0_1234u64, 0xcccc_5678u64, 0xaaaa_9abcu64);
        let run = |table: u32| {
            value(
                &format!(
                    "mov.b64 {{%r0, %r1}}, %a0; cvt.u32.u64 %r2, %a1; lop3.b32 %r3, %r0, %r1, %r2, {table}; cvt.u64.u32 %out, %r3;"
                ),
                &[b << 32 | a, c],
            )
        };
        assert_eq!(run(0x80), a & b & c);
        assert_eq!(run(0xfe), a | b | c);
        assert_eq!(run(0x96), a ^ b ^ c);
        assert_eq!(run(0xe2), (a ^ c) & b ^ c);
        assert_eq!(run(0xf0), a);
        let body = "setp.eq.s32 %p1, 1, 2; lop3.or.b32 %r3|%p2, 1, 2, 4, 0xfe, %p1; selp.b64 %out, 1, 0, %p2;";
        assert_eq!(value(body, &[]), 1);
    }

    #[test]
    fn counts_and_fields() {
        table(&[
            ("popc.b32", 32, 32, &[0xf0f0], 8),
            ("popc.b64", 32, 64, &[u64::MAX], 64),
            ("clz.b32", 32, 32, &[1], 31),
            ("clz.b32", 32, 32, &[0], 32),
            ("clz.b64", 32, 64, &[1], 63),
            ("brev.b32", 32, 32, &[1], 0x8000_0000),
            ("brev.b64", 64, 64, &[1], 1 << 63),
            ("bfind.u32", 32, 32, &[0x100], 8),
            ("bfind.u32", 32, 32, &[0], 0xffff_ffff),
            ("bfind.s32", 32, 32, &[0xffff_fffe], 0),
            ("bfind.shiftamt.u32", 32, 32, &[0x100], 23),
            ("bfe.u32", 32, 32, &[0xabcd_1234, 8, 12], 0xd12),
            ("bfe.s32", 32, 32, &[0xabcd_1234, 24, 8], 0xffff_ffab),
            ("bfe.s32", 32, 32, &[0xabcd_1234, 28, 8], 0xffff_fffa),
            ("bfe.s32", 32, 32, &[0x8000_0000, 40, 8], 0xffff_ffff),
            ("bfe.u32", 32, 32, &[0xabcd_1234, 28, 8], 0xa),
            ("bfe.u32", 32, 32, &[0xabcd_1234, 4, 0], 0),
            ("bmsk.clamp.b32", 32, 32, &[4, 8], 0xff0),
            ("bmsk.clamp.b32", 32, 32, &[0, 99], 0xffff_ffff),
            ("bmsk.wrap.b32", 32, 32, &[33, 1], 2),
            ("szext.clamp.s32", 32, 32, &[0x80, 8], 0xffff_ff80),
            ("szext.wrap.u32", 32, 32, &[0x1ff, 40], 0xff),
            ("fns.b32", 32, 32, &[0b1011_0100, 0, 2], 4),
            ("fns.b32", 32, 32, &[0b1011_0100, 7, 0xffff_fffe], 5),
            ("fns.b32", 32, 32, &[0b1011_0100, 2, 0], 2),
            ("fns.b32", 32, 32, &[0b1, 1, 1], 0xffff_ffff),
        ]);
        let insert = apply("bfi.b32", 32, &[(32, 0xab), (32, 0xffff_ffff), (32, 4), (32, 8)]);
        assert_eq!(insert, 0xffff_fabf);
        assert_eq!(apply("bfi.b64", 64, &[(64, 1), (64, 0), (32, 63), (32, 8)]), 1 << 63);
    }

    #[test]
    fn permutations() {
        let (a, b) = (0x3322_1100, 0x7766_5584);
        table(&[
            ("prmt.b32", 32, 32, &[a, b, 0x7531], 0x7755_3311),
            ("prmt.b32", 32, 32, &[a, b, 0xc3c0], 0xff33_ff00),
            ("prmt.b32.f4e", 32, 32, &[a, b, 1], 0x8433_2211),
            ("prmt.b32.b4e", 32, 32, &[a, b, 1], 0x6677_0011),
            ("prmt.b32.rc8", 32, 32, &[a, b, 2], 0x2222_2222),
            ("prmt.b32.ecl", 32, 32, &[a, b, 2], 0x3322_2222),
            ("prmt.b32.ecr", 32, 32, &[a, b, 1], 0x1111_1100),
            ("prmt.b32.rc16", 32, 32, &[a, b, 1], 0x3322_3322),
        ]);
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "and.u32 %r1, %r2, %r3;",
            "shl.u32 %r1, %r2, %r3;",
            "lop3.b32 %r1, %r2, %r3, %r4, 256;",
            "popc.u32 %r1, %r2;",
        ] {
            refused(line);
        }
    }
}
