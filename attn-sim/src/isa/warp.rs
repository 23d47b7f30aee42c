//! Instructions that lanes of a warp execute together: shuffles, votes, matches, reductions, elections.

use super::Decoded;
use super::form::{Form, mask};
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::context::lanes;
use crate::machine::decode::{Decode, LANES, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::num::float::{self, MinMax};
use crate::num::format::Format;
use crate::ptx::ScalarType;
use crate::report::{Kind, Stop};

/// Decodes this module's opcodes.
pub fn decode(d: &Decode<'_>) -> Decoded {
    match d.inst.opcode.as_str() {
        "activemask" => active_mask(d),
        "bar" => warp_barrier(d),
        "shfl" => shuffle(d),
        "vote" => vote(d),
        "match" => match_lanes(d),
        "redux" => reduce(d),
        "elect" => elect(d),
        _ => Err(d.unsupported("the opcode")),
    }
}

/// What the lanes of a member mask compute together: `values` by lane, of which those of `lanes` count.
type Together = dyn Fn(&mut Context<'_>, u32, &[[u64; LANES]], &mut [[u64; LANES]; 2]) + Send + Sync;

/// An instruction with a member mask.
struct Collective {
    sources: Vec<Source>,
    dests: [Option<Reg>; 2],
    members: Source,
    /// Whether lanes may stand at different instructions of this kind.
    anywhere: bool,
    function: Box<Together>,
}

impl std::fmt::Debug for Collective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collective").field("sources", &self.sources).field("dests", &self.dests).finish_non_exhaustive()
    }
}

impl Execute for Collective {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let members = cx.u32(&self.members);
        let first = members[cx.first_lane()];
        let same = lanes(cx.mask).all(|lane| members[lane] == first);
        if same && let Some(Step::Gather { members, .. }) = cx.gather(first)? {
            return Ok(Step::Gather { members, anywhere: self.anywhere });
        }
        // Of these instructions, the barrier alone orders memory.
        if self.anywhere {
            cx.lanes_met();
        }
        let values: Vec<_> = self.sources.iter().map(|s| cx.u64(s)).collect();
        let mut results = [[0; LANES]; 2];
        // Lanes may name different masks, as those of a partition do; each group is complete by itself.
        let mut rest = cx.mask;
        while rest != 0 {
            let mask = members[rest.trailing_zeros() as usize];
            let group = lanes(rest).filter(|&lane| members[lane] == mask).fold(0u32, |all, lane| all | 1 << lane);
            self.check(cx, mask, group)?;
            (self.function)(cx, group, &values, &mut results);
            rest &= !group;
        }
        self.dests.iter().zip(&results).for_each(|(dest, lanes)| cx.set_u64(*dest, lanes));
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Warp
    }
}

impl Collective {
    /// Lanes of one member mask must be its members, all that have not ended.
    fn check(&self, cx: &Context<'_>, members: u32, group: u32) -> Result<(), Stop> {
        if group & !members != 0 || members & cx.live() & !group != 0 {
            let message = format!("lanes {group:#010x} execute it together for the member mask {members:#010x}");
            return Err(cx.fault(Kind::Divergent, message));
        }
        Ok(())
    }
}

/// An instruction whose member mask is operand `members`.
fn collective(
    d: &Decode<'_>,
    dests: [Option<Reg>; 2],
    sources: Vec<Source>,
    members: usize,
    function: impl Fn(&mut Context<'_>, u32, &[[u64; LANES]], &mut [[u64; LANES]; 2]) + Send + Sync + 'static,
) -> Decoded {
    let members = d.source(members, ScalarType::B32)?;
    Ok(Box::new(Collective { sources, dests, members, anywhere: false, function: Box::new(function) }))
}

/// Gives every lane of a group the same result.
fn give(group: u32, value: u64, result: &mut [u64; LANES]) {
    lanes(group).for_each(|lane| result[lane] = value);
}

/// `activemask`: the lanes that happen to execute it together.
fn active_mask(d: &Decode<'_>) -> Decoded {
    #[derive(Debug)]
    struct ActiveMask(Option<Reg>);
    impl Execute for ActiveMask {
        fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
            let mask = cx.mask;
            cx.set_u32(self.0, &[mask; LANES]);
            Ok(Step::Next)
        }

        fn class(&self) -> Class {
            Class::Warp
        }
    }
    let mut form = Form::new(d);
    form.required("its type", &[("b32", ())])?;
    form.done(1..=1)?;
    Ok(Box::new(ActiveMask(d.dest(0)?)))
}

/// `bar.warp.sync`: lanes may come to it at different places.
fn warp_barrier(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    form.required(".warp", &[("warp", ())])?;
    form.required(".sync", &[("sync", ())])?;
    form.done(1..=1)?;
    let members = d.source(0, ScalarType::B32)?;
    let function = Box::new(|_: &mut Context<'_>, _: u32, _: &[[u64; LANES]], _: &mut [[u64; LANES]; 2]| {});
    Ok(Box::new(Collective { sources: Vec::new(), dests: [None, None], members, anywhere: true, function }))
}

/// How a shuffle finds its source lane.
#[derive(Clone, Copy)]
enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

impl Shuffle {
    /// The source of `lane`, and whether it is in range; out of range it is the lane itself.
    fn source(self, lane: u32, b: u32, c: u32) -> (u32, bool) {
        let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
        let (low, high) = (lane & segment, lane & segment | clamp & !segment);
        let (from, in_range) = match self {
            Shuffle::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= high as i32),
            Shuffle::Down => (lane + b, lane + b <= high),
            Shuffle::Butterfly => (lane ^ b, lane ^ b <= high),
            Shuffle::Index => (low | b & !segment, low | b & !segment <= high),
        };
        if in_range { (from, true) } else { (lane, false) }
    }
}

/// `shfl.sync.{up,down,bfly,idx}.b32 d{|p}, a, b, c, mask`.
fn shuffle(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    form.required(".sync", &[("sync", ())])?;
    let modes = [("up", Shuffle::Up), ("down", Shuffle::Down), ("bfly", Shuffle::Butterfly), ("idx", Shuffle::Index)];
    let mode = form.required("its mode", &modes)?;
    form.required("its type", &[("b32", ())])?;
    form.done(5..=5)?;
    let (dest, pred) = d.pair(0)?;
    let b32 = ScalarType::B32;
    let sources = vec![d.source(1, b32)?, d.source(2, b32)?, d.source(3, b32)?];
    collective(d, [dest, pred], sources, 4, move |cx, group, values, results| {
        for lane in lanes(group) {
            let (from, in_range) = mode.source(lane as u32, values[1][lane] as u32, values[2][lane] as u32);
            if group >> from & 1 == 0 {
                let message = format!("lane {lane} takes the value of lane {from}, which does not execute it");
                cx.report(Kind::Uninitialised, message);
            }
            results[0][lane] = values[0][from as usize];
            results[1][lane] = in_range.into();
        }
    })
}

/// `vote.sync.{all,any,uni}.pred p, q, mask` and `vote.sync.ballot.b32 d, q, mask`.
fn vote(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    form.required(".sync", &[("sync", ())])?;
    type Count = fn(u32, u32) -> u64;
    let modes: [(&str, Count); 4] = [
        ("all", |yes, group| u64::from(yes == group)),
        ("any", |yes, _| u64::from(yes != 0)),
        ("uni", |yes, group| u64::from(yes == group || yes == 0)),
        ("ballot", |yes, _| yes.into()),
    ];
    let ballots = d.has("ballot");
    let count = form.required("its mode", &modes)?;
    form.required("its type", if ballots { &[("b32", ())] } else { &[("pred", ())] })?;
    form.done(3..=3)?;
    collective(d, [d.dest(0)?, None], vec![d.pred(1)?], 2, move |_, group, values, results| {
        let yes = lanes(group).filter(|&lane| values[0][lane] != 0).fold(0u32, |all, lane| all | 1 << lane);
        give(group, count(yes, group), &mut results[0]);
    })
}

/// `match.any.sync.TYPE d, a, mask`: the lanes with the same value. `match.all.sync.TYPE d{|p}, a, mask`: all or none.
fn match_lanes(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let all = form.required("its mode", &[("any", false), ("all", true)])?;
    form.required(".sync", &[("sync", ())])?;
    let bits = form.required("its type", &[("b32", 32), ("b64", 64)])?;
    form.done(3..=3)?;
    let (dest, pred) = d.pair(0)?;
    let ty = if bits == 32 { ScalarType::B32 } else { ScalarType::B64 };
    collective(d, [dest, pred], vec![d.source(1, ty)?], 2, move |_, group, values, results| {
        for lane in lanes(group) {
            let value = values[0][lane] & mask(bits);
            let same = lanes(group).filter(|&other| values[0][other] & mask(bits) == value);
            let same = same.fold(0u32, |mask, other| mask | 1 << other);
            results[0][lane] = if all && same != group { 0 } else { same.into() };
            results[1][lane] = u64::from(same == group);
        }
    })
}

/// `redux.sync.OP.TYPE d, a, mask`.
fn reduce(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    form.required(".sync", &[("sync", ())])?;
    let ty = form.ty()?;
    type Two = Box<dyn Fn(u64, u64) -> u64 + Send + Sync>;
    let name = form.required("its operation", &["add", "min", "max", "and", "or", "xor"].map(|n| (n, n)))?;
    let two: Two = match (name, ty) {
        ("add", ScalarType::U32 | ScalarType::S32) => Box::new(|a, b| u64::from((a as u32).wrapping_add(b as u32))),
        ("min", ScalarType::U32) => Box::new(|a, b| a.min(b)),
        ("max", ScalarType::U32) => Box::new(|a, b| a.max(b)),
        ("min", ScalarType::S32) => Box::new(|a, b| u64::from((a as i32).min(b as i32) as u32)),
        ("max", ScalarType::S32) => Box::new(|a, b| u64::from((a as i32).max(b as i32) as u32)),
        ("and", ScalarType::B32) => Box::new(|a, b| a & b),
        ("or", ScalarType::B32) => Box::new(|a, b| a | b),
        ("xor", ScalarType::B32) => Box::new(|a, b| a ^ b),
        ("min" | "max", ScalarType::F32) => {
            let (abs, nan) = (form.take("abs"), form.take("NaN"));
            let op = MinMax { max: name == "max", abs, nan, ..MinMax::default() };
            Box::new(move |a, b| float::min_max(Format::F32, op, a, b))
        }
        _ => return Err(d.unsupported(format!("the type .{ty} for its operation"))),
    };
    form.done(3..=3)?;
    // One lane alone is combined with itself, which gives its magnitude and the canonical NaN.
    let is_float = ty == ScalarType::F32;
    collective(d, [d.dest(0)?, None], vec![d.source(1, ty)?], 2, move |_, group, values, results| {
        let mut all = lanes(group).map(|lane| values[0][lane] & 0xffff_ffff);
        let first = all.next().unwrap_or(0);
        let total = all.fold(if is_float { two(first, first) } else { first }, &two);
        give(group, total, &mut results[0]);
    })
}

/// `elect.sync d|p, mask`: the lowest member.
fn elect(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    form.required(".sync", &[("sync", ())])?;
    form.done(2..=2)?;
    let (dest, pred) = d.pair(0)?;
    collective(d, [dest, pred], Vec::new(), 1, |_, group, _, results| {
        let leader = group.trailing_zeros();
        give(group, leader.into(), &mut results[0]);
        results[1][leader as usize] = 1;
    })
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{lanes, refused, try_run, value};
    use crate::report::{Kind, Stop};

    /// Each lane's result of a shuffle of lane numbers plus 100 times its predicate.
    fn shuffled(mode: &str, b: u32, c: u32) -> Vec<u64> {
        let body = format!(
            "shfl.sync.{mode}.b32 %r0|%p0, %lane, {b}, {c}, -1; cvt.u64.u32 %out, %r0; selp.b64 %rd0, 100, 0, %p0; add.s64 %out, %out, %rd0;"
        );
        lanes("", &body, &[])
    }

    #[test]
    fn shuffles_find_their_lane() {
        assert_eq!(shuffled("bfly", 1, 31)[..4], [101, 100, 103, 102]);
        assert_eq!(shuffled("idx", 5, 31), vec![105; 32]);
        let up = shuffled("up", 2, 0);
        assert_eq!((up[0], up[1], up[2], up[31]), (0, 1, 100, 129));
        let down = shuffled("down", 3, 31);
        assert_eq!((down[0], down[28], down[29]), (103, 131, 29));
        // Segments of eight lanes.
        let segment = shuffled("idx", 1, (0b11000 << 8) | 31);
        assert_eq!((segment[0], segment[9], segment[31]), (101, 109, 125));
        assert_eq!(shuffled("down", 4, (0b11000 << 8) | 0b00111)[5], 5);
    }

    #[test]
    fn votes_and_matches() {
        let odd = "and.b32 %r0, %lane, 1; setp.ne.s32 %p0, %r0, 0;";
        assert_eq!(
            value(&format!("{odd} vote.sync.ballot.b32 %r1, %p0, -1; cvt.u64.u32 %out, %r1;"), &[]),
            0xaaaa_aaaa
        );
        assert_eq!(
            value(&format!("{odd} vote.sync.ballot.b32 %r1, !%p0, -1; cvt.u64.u32 %out, %r1;"), &[]),
            0x5555_5555
        );
        for (mode, expected) in [("any", 1), ("all", 0), ("uni", 0)] {
            let body = format!("{odd} vote.sync.{mode}.pred %p1, %p0, -1; selp.b64 %out, 1, 0, %p1;");
            assert_eq!(value(&body, &[]), expected, "{mode}");
        }
        let same = lanes("", "and.b32 %r0, %lane, 3; match.any.sync.b32 %r1, %r0, -1; cvt.u64.u32 %out, %r1;", &[]);
        assert_eq!(same[..4], [0x1111_1111, 0x2222_2222, 0x4444_4444, 0x8888_8888]);
        assert_eq!(value("match.all.sync.b64 %r1|%p0, %a0, -1; selp.b64 %out, 1, 0, %p0;", &[7]), 1);
        assert_eq!(value("match.all.sync.b32 %r1|%p0, %lane, -1; cvt.u64.u32 %out, %r1;", &[]), 0);
    }

    #[test]
    fn reductions() {
        let run = |op: &str| {
            value(&format!("sub.s32 %r0, %lane, 4; redux.sync.{op} %r1, %r0, -1; cvt.u64.u32 %out, %r1;"), &[]) as u32
        };
        assert_eq!(run("add.s32"), 31 * 16 - 128);
        assert_eq!(run("min.s32") as i32, -4);
        assert_eq!(run("max.u32") as i32, -1);
        assert_eq!(run("max.s32"), 27);
        assert_eq!(run("or.b32"), 0xffff_ffff);
        assert_eq!(run("xor.b32"), (0..32u32).fold(0, |x, l| x ^ l.wrapping_sub(4)));
        let float = "cvt.rn.f32.s32 %f0, %lane; sub.f32 %f0, %f0, 0f42000000; redux.sync.max.abs.f32 %f1, %f0, -1; mov.b32 %r0, %f1; cvt.u64.u32 %out, %r0;";
        assert_eq!(value(float, &[]), u64::from(32f32.to_bits()));
    }

    #[test]
    fn one_lane_is_elected() {
        let out = lanes("", "elect.sync %r0|%p0, -1; selp.b64 %out, 1, 0, %p0;", &[]);
        assert_eq!(out, (0..32).map(|lane| u64::from(lane == 0)).collect::<Vec<_>>());
        let half = "setp.ge.u32 %p1, %lane, 16; @%p1 elect.sync %r0|%p0, 0xffff0000; @%p1 cvt.u64.u32 %out, %r0;";
        assert_eq!(lanes("", half, &[])[15..18], [0, 16, 16]);
    }

    #[test]
    fn lanes_meet_from_both_sides_of_a_branch() {
        let body = "setp.lt.u32 %p0, %lane, 10; @%p0 bra LOW; mov.b64 %out, 2; bar.warp.sync -1; bra END;
            LOW: mov.b64 %out, 1; bar.warp.sync -1; END: activemask.b32 %r0; cvt.u64.u32 %rd0, %r0; add.s64 %out, %out, %rd0;";
        let out = lanes("", body, &[]);
        assert_eq!((out[0], out[31]), (1 + 0xffff_ffff, 2 + 0xffff_ffff));
    }

    #[test]
    fn a_lane_outside_of_the_member_mask_is_a_fault() {
        let stop = match try_run("", "vote.sync.any.pred %p1, 1, 0xff;", &[]) {
            Err(crate::Error::Failed(f)) => *f.stop,
            _ => panic!("no fault"),
        };
        assert!(matches!(stop, Stop::Fault(f) if f.kind == Kind::Divergent));
    }

    #[test]
    fn a_partition_votes_by_itself() {
        let body = "and.b32 %r0, %lane, 1; setp.ne.s32 %p0, %r0, 0; selp.b32 %r1, 0xaaaaaaaa, 0x55555555, %p0;
            redux.sync.add.u32 %r2, %lane, %r1; cvt.u64.u32 %out, %r2;";
        assert_eq!(lanes("", body, &[])[..2], [240, 256]);
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "vote.ballot.b32 %r0, %p0;",
            "shfl.bfly.b32 %r0, %r1, 1, 31;",
            "redux.sync.add.f32 %f0, %f1, -1;",
            "match.sync.b32 %r0, %r1, -1;",
        ] {
            refused(line);
        }
    }
}
