//! Every recorded instruction of an H100, in the simulator. Probes that differ are listed with what is different in
//! `data/h100_differences.txt`: none other may differ, and none of them may agree.

use std::collections::HashSet;
use std::path::Path;

use attn_sim::report::{Kind, Stop};
use attn_tests::probe::machine::{Failure, Machine};
use attn_tests::probe::record::{self, Recording};
use attn_tests::probe::simulator::Simulator;
use attn_tests::probe::{self, Probe};
use rayon::prelude::*;

/// Whether the simulator stopped where the device stops with an illegal instruction.
fn is_illegal(error: &Failure) -> bool {
    let Some(attn_sim::Error::Failed(failed)) = error.downcast_ref() else { return false };
    matches!(&*failed.stop, Stop::Fault(finding) if finding.kind == Kind::IllegalInstruction)
}

/// What the simulator makes of a probe, against what the H100 made of it.
fn verdict(probe: &Probe, recorded: &[u32]) -> Result<(), String> {
    match (Simulator { seed: 0 }).run(probe) {
        Err(error) if recorded == record::ILLEGAL && is_illegal(&error) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) if recorded == record::ILLEGAL => Err("the device calls it illegal".into()),
        Ok(words) => match record::compare(probe.agreement, recorded, &words) {
            Ok(_) => Ok(()),
            Err(record::Difference::Word { at, of, recorded, found }) => Err(format!(
                "word {at} is {found:#010x}, recorded {recorded:#010x}, of {of} that differ; inputs {}",
                record::inputs(probe, at)
            )),
            Err(difference) => Err(format!("{difference:?}")),
        },
    }
}

/// Names of the probes that differ. Lines that begin with `#` say what is different in the probes below them.
fn known_differences() -> HashSet<&'static str> {
    let lines = include_str!("../data/h100_differences.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn the_simulator_agrees_with_an_h100() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/h100_probes.safetensors");
    let recording = Recording::load(&path).expect("a recording");
    let known = known_differences();
    let wrong: Vec<String> = probe::all()
        .par_iter()
        .filter_map(|probe| {
            let recorded = recording.0.get(&probe.name);
            let verdict = recorded.map_or(Err("it is not recorded".into()), |r| verdict(probe, r));
            match (verdict, known.contains(&probe.name.as_str())) {
                (Ok(()), true) => Some(format!("{}: agrees, but is listed as different", probe.name)),
                (Err(error), false) => Some(format!("{}: {error}", probe.name)),
                _ => None,
            }
        })
        .collect();
    assert!(wrong.is_empty(), "{} probes differ:\n{}", wrong.len(), wrong.join("\n"));
}
