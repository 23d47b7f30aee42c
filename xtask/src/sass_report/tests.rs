//! The whole report, on excerpts of this project's own kernels and on a kernel itself.
//!
//! `fixtures/load.sass` is the load loop of `fwd_sm90_bf16_d128_causal` with its two waits; `fixtures/softmax.sass` is the loop
//! without mask, most of whose arithmetic was cut out. Both end in an EXIT of their own.

use super::class::Class;
use super::report::{Assumptions, Report, report};
use super::role::Role;
use super::unit::Unit;
use super::{assignment, cubin, parse, table};
use crate::ptx::Arch;

const LOAD: &str = include_str!("fixtures/load.sass");
const SOFTMAX: &str = include_str!("fixtures/softmax.sass");

fn of(text: &str, assume: &Assumptions) -> Report {
    report(&parse::kernels(text).unwrap()[0], "excerpt", None, assume).unwrap()
}

#[test]
fn tries_after_the_first_of_a_wait_do_not_count() {
    let load = of(LOAD, &Assumptions::default());
    let [only] = load.loops.as_slice() else { panic!("{:?}", load.loops) };
    assert_eq!((only.role, only.masked, only.from, only.to), (Role::Load, false, 0x10e0, 0x1470));
    assert_eq!(only.every.instructions, f64::from((0x1470 - 0x10e0) / 16 + 1));
    assert_eq!(only.longest.instructions, only.every.instructions);
    // Two waits: try, jump back to it, jump into the loop.
    assert_eq!(only.left_out, 6);
    assert_eq!((only.every.classes[&Class::Copy], only.every.classes[&Class::Barrier]), (4.0, 4.0));
    assert_eq!(load.unknown, Vec::<String>::new());
}

#[test]
fn a_wait_that_begins_a_loop_is_not_a_way_back_of_it() {
    let load = of(&LOAD.replace("@!P0 BRA `(.L_x_7) ;", "@!P0 BRA `(.L_x_9) ;"), &Assumptions::default());
    let [only] = load.loops.as_slice() else { panic!("{:?}", load.loops) };
    assert_eq!((only.every.instructions, only.longest.instructions, only.left_out), (58.0, 58.0, 3));
}

#[test]
fn a_skipped_rescale_is_only_in_the_longest_way() {
    let softmax = of(SOFTMAX, &Assumptions::default());
    let [only] = softmax.loops.as_slice() else { panic!("{:?}", softmax.loops) };
    assert_eq!((only.role, only.masked, only.marks.multiplies), (Role::MmaSoftmax, false, 16));
    let difference = |class| only.longest.classes[&class] - only.every.classes[&class];
    assert_eq!(difference(Class::Fma), 10.0);
    assert_eq!(difference(Class::Barrier), 0.0);
    // Nothing else: a shuffle that ptxas wrote out again for scattered warps is in every way of one that is together.
    assert_eq!(only.longest.instructions - only.every.instructions, 10.0);
    assert_eq!(only.left_out, 16);
}

#[test]
fn cycles_are_of_all_warps_for_one_kv_block() {
    let softmax = of(SOFTMAX, &Assumptions::default());
    // Two warpgroups with 64 rows each: 4 * 128 * 128 * 128 operations at 4096 a cycle.
    assert_eq!(softmax.loops[0].longest.cycles[&Unit::Tensor], 2048.0);
    let three = [assignment("mma-softmax=12").unwrap()].into();
    let half = [assignment("mma-softmax=2").unwrap()].into();
    let other = of(SOFTMAX, &Assumptions { warps: three, per: half, outer: false });
    assert_eq!(other.loops[0].longest.cycles[&Unit::Tensor], 1536.0);
    assert_eq!(other.loops[0].longest.instructions * 2.0, softmax.loops[0].longest.instructions);
    assert_eq!(softmax.together(|l| &l.longest)[&Unit::Tensor], 2048.0);
}

#[test]
fn what_is_not_known_is_said() {
    let text = LOAD.replace("UTMALDG.4D [UR8], [UR16]", "UFROB.4D [UR8]").replace("UTMALDG.4D [UR8]", "UFROB.4D [UR8]");
    let text = text.replace("/*1480*/ EXIT", "/*1480*/ BRX R2 -0x10");
    let report = of(&text, &Assumptions::default());
    assert_eq!(
        (report.unknown.as_slice(), report.unresolved.as_slice()),
        (["UFROB.4D".to_owned()].as_slice(), [0x1480].as_slice())
    );
    let shown = table::render(&[report], table::Style { names: false });
    assert!(shown.contains("unknown instructions, in no unit's cycles: UFROB.4D"), "{shown}");
    assert!(shown.contains("the jump at 0x1480"), "{shown}");
    let error = report_of_target("sm_80").unwrap_err().to_string();
    assert!(error.contains("sm_80") && error.contains("sm_100"), "{error}");
}

fn report_of_target(target: &str) -> anyhow::Result<Report> {
    let text = LOAD.replace("sm_90a", target);
    report(&parse::kernels(&text)?[0], "excerpt", None, &Assumptions::default())
}

#[test]
fn two_reports_stand_side_by_side() {
    let reports = [of(SOFTMAX, &Assumptions::default()), of(LOAD, &Assumptions::default())];
    let shown = table::render(&reports, table::Style { names: true });
    let line = |title: &str| shown.lines().find(|line| line.trim_start().starts_with(title)).unwrap_or_default();
    assert!(line("A every").ends_with("B longest"), "{shown}");
    assert_eq!(line("cycles: tensor cores").split_whitespace().collect::<Vec<_>>()[3..], ["2048", "2048", "-", "-"]);
    assert!(shown.contains("    HGMMA ") && shown.contains("A: bound by tensor cores: 2048 cycles"), "{shown}");
}

/// Needs NVIDIA's tools, which are fetched when they are nowhere.
#[test]
fn a_kernel_of_attn_host_has_its_loops() {
    let code = cubin::read(&cubin::find("fwd_sm90_bf16_d128_causal", &[Arch::Sm90a]).unwrap()).unwrap();
    let resources = code.resources.unwrap();
    assert_eq!((resources.registers, resources.threads), (168, Some(384)));
    let report = report(&code.kernel, &code.file, code.resources, &Assumptions::default()).unwrap();
    assert_eq!(
        (report.unknown.as_slice(), report.unresolved.as_slice(), report.ldl, report.stl),
        ([].as_slice(), [].as_slice(), 0, 0)
    );
    let roles: Vec<_> = report.loops.iter().map(|l| (l.role, l.masked, l.marks.multiplies)).collect();
    assert_eq!(roles, [(Role::MmaSoftmax, false, 16), (Role::MmaSoftmax, true, 16), (Role::Load, false, 0)]);
    assert_eq!(report.together(|l| &l.every)[&Unit::Tensor], 2048.0);
}

#[test]
fn a_role_takes_a_number_above_zero() {
    assert_eq!(assignment("correction=0.5").unwrap(), (Role::Correction, 0.5));
    assert!(assignment("corection=1").unwrap_err().contains("mma-softmax"));
    for wrong in ["mma", "mma=x", "mma=0", "mma=nan"] {
        assert!(assignment(wrong).is_err(), "{wrong}");
    }
}
