//! `ld`, `ldu`, `st` and cache hints: one to eight elements of 8 to 128 bits, in every state space.

use super::Decoded;
use super::form::{Form, mask, signed};
use super::order::{self, Order};
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::decode::{Addr, Decode, LANES, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::ptx::{AddressBase, Operand, ScalarType, Symbol};
use crate::report::{Stop, Unsupported};

/// Decodes this module's opcodes.
pub fn decode(d: &Decode<'_>) -> Decoded {
    match d.inst.opcode.as_str() {
        "ld" | "ldu" => load(d),
        "st" => store(d),
        "prefetch" | "prefetchu" | "applypriority" | "discard" => hint(d),
        "createpolicy" => policy(d),
        _ => Err(d.unsupported("the opcode")),
    }
}

/// Modifiers that only advise caches.
const ADVICE: &[&str] = &[
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_normal",
    "L2::evict_first",
    "L2::evict_last",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];

/// Takes what advises caches; whether a cache policy follows the operands.
pub(super) fn advice(form: &mut Form<'_, '_>) -> bool {
    while form.find(|m| ADVICE.contains(&m).then_some(())).is_some() {}
    form.take("L2::cache_hint")
}

/// What loads and stores have in common.
struct Access {
    space: Space,
    order: Order,
    ty: ScalarType,
    count: usize,
}

/// Reads the modifiers of a load or store with `operands` operands besides a cache policy.
fn access(d: &Decode<'_>, addr: usize) -> Result<Access, Unsupported> {
    let mut form = Form::new(d);
    let ty = form.ty()?;
    let count = form.choice(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    let loads = d.inst.opcode != "st";
    let strong = if form.take("mmio") {
        form.required("the order", &[("relaxed", Order::Relaxed)])?;
        Some(Order::Relaxed)
    } else if loads {
        form.choice(&[("relaxed", Order::Relaxed), ("acquire", Order::Acquire)])
    } else {
        form.choice(&[("relaxed", Order::Relaxed), ("release", Order::Release)])
    };
    if strong.is_some() && !order::scope(&mut form) {
        return Err(d.unsupported("its scope is missing"));
    }
    let is_volatile = strong.is_none() && form.take("volatile");
    form.take("weak");
    if loads {
        form.take("nc");
    }
    let space = form.find(Space::parse).unwrap_or(Space::Generic);
    let policy = advice(&mut form);
    form.done(if policy { 3..=3 } else { 2..=2 })?;
    if !matches!(ty.bits(), 8 | 16 | 32 | 64 | 128) || ty == ScalarType::Pred || ty.bytes() * count as u64 > 32 {
        return Err(d.unsupported(format!("{count} of the type .{ty}")));
    }
    let order = strong.unwrap_or(if is_volatile { Order::Relaxed } else { Order::Weak });
    Ok(Access { space: call_frame(d, addr, space)?, order, ty, count })
}

/// `.param` names the kernel's parameters, or a variable of the body, which lies in local memory.
fn call_frame(d: &Decode<'_>, addr: usize, space: Space) -> Result<Space, Unsupported> {
    let local =
        matches!(d.operand(addr)?, Operand::Address(a) if matches!(a.base, AddressBase::Symbol(Symbol::Local(_))));
    Ok(if space == Space::Param && local { Space::Local } else { space })
}

/// Whether blocks of other clusters may see it.
fn communicates(space: Space, order: Order) -> bool {
    order != Order::Weak && matches!(space, Space::Generic | Space::Global)
}

fn load(d: &Decode<'_>) -> Decoded {
    let Access { space, order, ty, count } = access(d, 1)?;
    let dests = d.dests(0)?;
    if dests.len() != count {
        return Err(d.unsupported(format!("{} destinations for {count} elements", dests.len())));
    }
    Ok(Box::new(Load { space, order, ty, dests, addr: d.address(1)? }))
}

fn store(d: &Decode<'_>) -> Decoded {
    let Access { space, order, ty, count } = access(d, 0)?;
    let sources = d.sources(1, ty)?;
    if sources.len() != count {
        return Err(d.unsupported(format!("{} sources for {count} elements", sources.len())));
    }
    Ok(Box::new(Store { space, order, ty, sources, addr: d.address(0)? }))
}

/// A load. A wider register gets the sign of a signed element, zeros otherwise.
#[derive(Debug)]
struct Load {
    space: Space,
    order: Order,
    ty: ScalarType,
    dests: Vec<Option<Reg>>,
    addr: Addr,
}

impl Execute for Load {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addresses = cx.addresses(&self.addr);
        let size = self.ty.bytes() as usize;
        let total = size * self.dests.len();
        let mut values = [[0u128; LANES]; 8];
        for lane in cx.lanes() {
            let mut buffer = [0u8; 32];
            let bytes = &mut buffer[..total];
            if self.order == Order::Weak {
                cx.load(lane, self.space, addresses[lane], total as u64, bytes)?;
            } else {
                let at = cx.locate(lane, self.space, addresses[lane])?;
                cx.m.check_aligned(&cx.actor(), at, total as u64)?;
                order::peek(cx, at, bytes)?;
                order::acquire(cx, at, self.order);
            }
            for (element, lanes) in bytes.chunks_exact(size).zip(&mut values) {
                let mut wide = [0u8; 16];
                wide[..size].copy_from_slice(element);
                lanes[lane] = u128::from_le_bytes(wide);
            }
        }
        for (dest, lanes) in self.dests.iter().zip(&values) {
            match self.ty.bits() {
                128 => cx.set_u128(*dest, lanes),
                bits if self.ty.is_signed() => cx.set_u64(*dest, &lanes.map(|v| signed(v as u64, bits) as u64)),
                _ => cx.set_u64(*dest, &lanes.map(|v| v as u64)),
            }
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Memory
    }

    fn communicates(&self) -> bool {
        communicates(self.space, self.order)
    }
}

/// A store of the low bits of registers.
#[derive(Debug)]
struct Store {
    space: Space,
    order: Order,
    ty: ScalarType,
    sources: Vec<Source>,
    addr: Addr,
}

impl Execute for Store {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addresses = cx.addresses(&self.addr);
        let size = self.ty.bytes() as usize;
        let total = size * self.sources.len();
        let values: Vec<_> = self.sources.iter().map(|s| cx.u128(s)).collect();
        for lane in cx.lanes() {
            let mut buffer = [0u8; 32];
            for (element, lanes) in buffer.chunks_exact_mut(size).zip(&values) {
                element.copy_from_slice(&lanes[lane].to_le_bytes()[..size]);
            }
            let bytes = &buffer[..total];
            if self.order == Order::Weak {
                cx.store(lane, self.space, addresses[lane], total as u64, bytes)?;
                continue;
            }
            let at = cx.locate(lane, self.space, addresses[lane])?;
            cx.m.check_aligned(&cx.actor(), at, total as u64)?;
            order::release(cx, lane, at, self.order);
            order::poke(cx, at, bytes)?;
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Memory
    }

    fn communicates(&self) -> bool {
        communicates(self.space, self.order)
    }
}

/// What changes no result: cache hints on an address.
#[derive(Debug)]
struct Hint;

impl Execute for Hint {
    fn execute(&self, _: &mut Context<'_>) -> Result<Step, Stop> {
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Memory
    }
}

/// `prefetch.global.L1 [a]`, `prefetchu.L1 [a]`, `applypriority.L2::evict_normal [a], 128`.
///
/// `discard` is refused: what it leaves in memory is undefined.
fn hint(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    form.find(Space::parse);
    let operands = if d.inst.opcode == "applypriority" { 2 } else { 1 };
    let level = form.choice(&[("L1", ()), ("L2", ()), ("L2::evict_last", ()), ("L2::evict_normal", ())]);
    if level.is_none() || d.inst.opcode == "discard" {
        return Err(d.unsupported("its form"));
    }
    form.done(operands..=operands)?;
    d.address(0)?;
    Ok(Box::new(Hint))
}

/// `createpolicy`: a cache policy, whose bits are nobody's business; it is written as 0.
fn policy(d: &Decode<'_>) -> Decoded {
    if !matches!(d.modifiers().last(), Some("b64")) {
        return Err(d.unsupported("its type"));
    }
    let dest = d.dest(0)?;
    Ok(super::lane::lanewise(Class::Other, dest, [], move |[]| mask(0)))
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{lanes, refused, try_run, value};
    use crate::report::{Kind, Stop};

    #[test]
    fn elements_of_every_width() {
        let data =
            ".global .align 32 .b8 g[32] = {0x80, 0xff, 0x34, 0x92, 5, 6, 7, 0x88, 9, 10, 11, 12, 13, 14, 15, 16};";
        let run = |body: &str| lanes(data, body, &[])[0];
        assert_eq!(run("ld.global.u8 %out, [g];"), 0x80);
        assert_eq!(run("ld.global.s8 %r0, [g]; cvt.u64.u32 %out, %r0;"), 0xffff_ff80);
        assert_eq!(run("ld.global.s16 %out, [g+2];"), 0xffff_ffff_ffff_9234);
        assert_eq!(run("ld.global.nc.L1::no_allocate.L2::128B.b64 %out, [g];"), 0x8807_0605_9234_ff80);
        assert_eq!(run("ld.global.v4.u8 {%r0, _, %r1, _}, [g]; mov.b64 %out, {%r0, %r1};"), 0x34_0000_0080);
        assert_eq!(run("ld.global.v2.b64 {%rd0, %out}, [g];"), 0x100f_0e0d_0c0b_0a09);
        assert_eq!(
            run("ld.global.v8.b32 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [g]; cvt.u64.u32 %out, %r3;"),
            0x100f_0e0d
        );
        assert_eq!(run("ld.global.b128 %q0, [g]; mov.b128 {%rd0, %out}, %q0;"), 0x100f_0e0d_0c0b_0a09);
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let own = "shl.b32 %r9, %lane, 3; mov.u32 %r8, buf; add.s32 %r8, %r8, %r9;";
        assert_eq!(value(&format!("{own} st.shared.b64 [%r8], %a0; ld.shared.b64 %out, [%r8];"), &[77]), 77);
        assert_eq!(
            value(&format!("{own} st.shared.b32 [%r8+4], -1; ld.shared::cta.s32 %out, [%r8+4];"), &[]),
            u64::MAX
        );
        let local = ".local .align 16 .b8 l[32]; st.local.v4.b32 [l+16], {1, 2, 3, 4}; ld.local.v2.b32 {%r0, %r1}, [l+24]; mov.b64 %out, {%r0, %r1};";
        assert_eq!(value(local, &[]), 4 << 32 | 3);
        let frame = "{ .param .b64 x; st.param.b64 [x], %a0; ld.param.b64 %out, [x]; }";
        assert_eq!(value(frame, &[5]), 5);
        let wide = ".shared .align 16 .b8 w[512]; mov.u32 %r0, w; shl.b32 %r1, %lane, 4; add.s32 %r0, %r0, %r1;
            mov.b128 %q0, {%a0, %a1}; st.shared.b128 [%r0], %q0; ld.shared.b64 %out, [%r0+8];";
        assert_eq!(value(wide, &[1, 2]), 2);
        assert_eq!(lanes(".const .b64 c = 11;", "ld.const.b64 %out, [c];", &[])[7], 11);
    }

    #[test]
    fn strong_accesses_pass_data_on_without_a_race() {
        let body = "setp.eq.u32 %p0, %lane, 0; @%p0 st.global.b32 [g], 5; @%p0 st.release.gpu.global.b32 [g+4], 1;
            ld.acquire.gpu.global.b32 %r0, [g+4]; ld.global.b32 %r1, [g]; cvt.u64.u32 %out, %r1;";
        assert_eq!(lanes(".global .align 8 .b32 g[2];", body, &[])[0], 5);
        assert_eq!(
            lanes(
                ".global .align 8 .b32 g[2];",
                "st.volatile.global.b32 [g], 3; ld.relaxed.sys.global.u32 %r0, [g]; cvt.u64.u32 %out, %r0;",
                &[]
            )[0],
            3
        );
    }

    #[test]
    fn wrong_addresses_are_faults_and_unwritten_bytes_findings() {
        let fault = |body: &str| match try_run(".global .align 16 .b8 g[16];", body, &[]) {
            Err(crate::Error::Failed(f)) => match *f.stop {
                Stop::Fault(finding) => finding.kind,
                other => panic!("{other}"),
            },
            _ => panic!("{body}: no fault"),
        };
        assert_eq!(fault("ld.global.b32 %r0, [g+2];"), Kind::Misaligned);
        assert_eq!(fault("ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [g+16];"), Kind::OutOfBounds);
        assert_eq!(fault("ld.global.b32 %r0, [g+16];"), Kind::OutOfBounds);
        assert_eq!(fault("ld.shared.b32 %r0, [64];"), Kind::OutOfBounds);
        let ran = try_run("", "ld.shared.b32 %r0, [buf];", &[]).unwrap();
        assert_eq!(ran.run.findings[0].kind, Kind::Uninitialised);
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "ld.global.v4.b64.foo {%rd0, %rd1, %rd2, %rd3}, [%rd0];",
            "ld.global.v8.b64 {%rd0, %rd1, %rd2, %rd3, %rd0, %rd1, %rd2, %rd3}, [%rd0];",
            "ld.acquire.global.b32 %r0, [%rd0];",
            "ld.global.v2.b32 %r0, [%rd0];",
            "st.acquire.gpu.global.b32 [%rd0], %r0;",
            "ld.tex.b32 %r0, [%rd0];",
            "discard.global.L2 [%rd0], 128;",
        ] {
            refused(line);
        }
    }
}
