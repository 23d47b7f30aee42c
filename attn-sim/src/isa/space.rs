//! Addresses of state spaces: `cvta`, `isspacep`, `mapa`, `getctarank`.

use super::Decoded;
use super::form::Form;
use super::lane::lanewise;
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::decode::{Decode, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::ptx::{Operand, ScalarType, Symbol};
use crate::report::{Stop, Unsupported};

/// Decodes this module's opcodes.
pub fn decode(d: &Decode<'_>) -> Decoded {
    match d.inst.opcode.as_str() {
        "cvta" => convert(d),
        "isspacep" => is_space(d),
        "mapa" => map(d),
        "getctarank" => rank(d),
        _ => Err(d.unsupported("the opcode")),
    }
}

/// The bits of an address's type.
fn width(d: &Decode<'_>, form: &mut Form<'_, '_>) -> Result<ScalarType, Unsupported> {
    match form.ty()? {
        ty @ (ScalarType::U32 | ScalarType::U64) => Ok(ty),
        ty => Err(d.unsupported(format!("the type .{ty}"))),
    }
}

/// `cvta.SPACE.u64`: an address of a space as a generic one; `cvta.to.SPACE.u64`: the other way.
fn convert(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let ty = width(d, &mut form)?;
    let back = form.take("to");
    let space = form.find(Space::parse).ok_or_else(|| d.unsupported("its state space"))?;
    form.done(2..=2)?;
    if ty != ScalarType::U64 {
        return Err(d.unsupported("generic addresses of 32 bits"));
    }
    // A `.param` variable of a body lies in local memory.
    let local = matches!(d.operand(1)?, Operand::Symbol { symbol: Symbol::Local(_), .. });
    let window = if space == Space::Param && local { Space::Local } else { space }.window();
    let (dest, source) = (d.dest(0)?, d.source(1, ty)?);
    if back {
        return Ok(lanewise(Class::Move, dest, [source], move |[a]| a.wrapping_sub(window)));
    }
    Ok(lanewise(Class::Move, dest, [source], move |[a]| a.wrapping_add(window)))
}

/// `isspacep.SPACE p, a`: whether a generic address leads there.
fn is_space(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let space = form.find(Space::parse).ok_or_else(|| d.unsupported("its state space"))?;
    form.done(2..=2)?;
    Ok(Box::new(InSpace { space, dest: d.dest(0)?, source: d.source(1, ScalarType::U64)? }))
}

#[derive(Debug)]
struct InSpace {
    space: Space,
    dest: Option<Reg>,
    source: Source,
}

impl Execute for InSpace {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let own = cx.m.shared_address(cx.block, 0) >> 24;
        let results = cx.u64(&self.source).map(|a| {
            let (space, addr) = Space::of_generic(a);
            u64::from(match self.space {
                Space::Shared => space == Space::SharedCluster && addr >> 24 == u64::from(own),
                other => space == other,
            })
        });
        cx.set_u64(self.dest, &results);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Move
    }
}

/// Bits of a shared address that say which block of the cluster.
const RANK: u64 = 0xff << 24;

/// `mapa d, a, rank`: the same place in another block of the cluster; a generic address unless `.shared::cluster`.
fn map(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let ty = width(d, &mut form)?;
    let shared = form.take("shared::cluster");
    form.done(3..=3)?;
    if !shared && ty != ScalarType::U64 {
        return Err(d.unsupported("generic addresses of 32 bits"));
    }
    let sources = [d.source(1, ty)?, d.source(2, ScalarType::U32)?];
    Ok(lanewise(Class::Move, d.dest(0)?, sources, |[a, rank]| a & !RANK | (rank & 0xff) << 24))
}

/// `getctarank d, a`: the block that an address of shared memory leads to.
fn rank(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let ty = width(d, &mut form)?;
    let shared = form.take("shared::cluster");
    form.done(2..=2)?;
    if !shared && ty != ScalarType::U64 {
        return Err(d.unsupported("generic addresses of 32 bits"));
    }
    Ok(lanewise(Class::Move, d.dest(0)?, [d.source(1, ty)?], |[a]| (a & RANK) >> 24))
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{lanes, refused, try_run, value};

    #[test]
    fn generic_addresses_lead_back() {
        let body = "mov.u32 %r0, buf; cvt.u64.u32 %rd0, %r0; cvta.shared.u64 %rd1, %rd0; st.b32 [%rd1], 77;
            cvta.to.shared.u64 %rd2, %rd1; cvt.u32.u64 %r1, %rd2; ld.shared.u32 %r2, [%r1]; cvt.u64.u32 %out, %r2;";
        assert_eq!(value(body, &[]), 77);
        let symbol =
            "cvta.shared.u64 %rd1, buf; st.b16 [%rd1+2], 5; ld.shared.u16 %h0, [buf+2]; cvt.u64.u16 %out, %h0;";
        assert_eq!(value(symbol, &[]), 5);
        assert_eq!(
            lanes(
                ".const .b32 c[2] = {3, 4};",
                "cvta.const.u64 %rd0, c; ld.u32 %r0, [%rd0+4]; cvt.u64.u32 %out, %r0;",
                &[]
            )[0],
            4
        );
        assert_eq!(
            lanes(
                ".global .b32 g = 9;",
                "mov.u64 %rd0, g; cvta.global.u64 %rd0, %rd0; ld.u32 %r0, [%rd0]; cvt.u64.u32 %out, %r0;",
                &[]
            )[0],
            9
        );
    }

    #[test]
    fn shared_memory_takes_generic_addresses_of_its_own() {
        let body = "cvta.shared.u64 %rd0, buf; st.shared.b32 [%rd0+4], 6; mapa.u64 %rd1, %rd0, 0;
            ld.shared::cluster.u32 %r0, [%rd1+4]; cvt.u64.u32 %out, %r0;";
        assert_eq!(value(body, &[]), 6);
        let global = "ld.param.u64 %rd0, [out]; ld.shared.b32 %r0, [%rd0];";
        assert!(matches!(try_run("", global, &[]), Err(crate::Error::Failed(_))), "a global address is no shared one");
    }

    #[test]
    fn spaces_are_told_apart() {
        let which = |make: &str| -> String {
            let one =
                |s: &str| value(&format!("{make} isspacep.{s} %p0, %rd0; selp.b64 %out, 1, 0, %p0;"), &[]).to_string();
            ["global", "shared", "shared::cluster", "local", "const"].iter().map(|s| one(s)).collect()
        };
        assert_eq!(which("cvta.shared.u64 %rd0, buf;"), "01100");
        assert_eq!(which("ld.param.u64 %rd0, [out];"), "10000");
        assert_eq!(which(".local .b32 l; cvta.local.u64 %rd0, l;"), "00010");
    }

    #[test]
    fn ranks_are_the_top_byte() {
        assert_eq!(
            value(
                "mapa.shared::cluster.u32 %r0, buf, 3; getctarank.shared::cluster.u32 %r1, %r0; cvt.u64.u32 %out, %r1;",
                &[]
            ),
            3
        );
        assert_eq!(value("cvta.shared.u64 %rd0, buf; mapa.u64 %rd1, %rd0, 1; xor.b64 %out, %rd0, %rd1;", &[]), 1 << 24);
        refused("mapa.u32 %r0, %r1, %r2;");
        refused("cvta.global.u32 %r0, %r1;");
    }
}
