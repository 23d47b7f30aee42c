//! The tuner's measurement from folder to results, on the simulator. Its variants are prebuilt kernels under other names.

use std::path::{Path, PathBuf};

use attn_kernel::forward::sm90::describe;
use attn_kernel::forward::{DType, KERNELS, tune};
use attn_tests::tune::{Options, run};
use attn_tune::Class;
use attn_tune::folder::{Folder, Job, Variant};
use attn_tune::grid::Dropped;
use attn_tune::results::Results;
use clap::Parser;

/// A folder of its own, removed when the test ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the temporary folder harms nothing.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The PTX of a prebuilt kernel, its entry point renamed.
fn ptx(kernel: &str, name: &str) -> String {
    let known = KERNELS.iter().find(|known| known.name == kernel).expect("a kernel");
    attn_host::ptx(&known.entry_point()).expect("a prebuilt kernel").expect("its PTX").replace(kernel, name)
}

fn fill(dir: &Path, classes: Vec<Job>, code: &[(&str, &str, u64)]) {
    std::fs::create_dir_all(dir.join("sm_90a")).expect("writable");
    for (kernel, name, _) in code {
        std::fs::write(dir.join(format!("sm_90a/{name}.ptx")), ptx(kernel, name)).expect("writable");
    }
    let entry = |(_, name, plan): &(&str, &str, u64)| format!(r#"{{"name": "{name}", "plan": "{plan:016x}"}}"#);
    let entries: Vec<String> = code.iter().map(entry).collect();
    std::fs::write(dir.join("sm_90a/manifest.json"), format!(r#"{{"kernels": [{}]}}"#, entries.join(", ")))
        .expect("writable");
    Folder { classes }.write(dir).expect("writable");
}

#[test]
fn right_variants_are_ranked_and_the_others_say_why_not() {
    let scratch = Scratch(std::env::temp_dir().join(format!("attn-gpu-tune-{}", std::process::id())));
    let dir = &scratch.0;
    let plan = tune::plan(32, 32, false);
    let paired = plan.with("schedule=paired").expect("a knob");
    let print = |plan: attn_kernel::forward::Plan| describe("", DType::Bf16, false, plan).launch.fingerprint();
    let variant = |name: &str, knobs: String| Variant { name: name.into(), knobs };
    let class = |name: &str| Class::try_from(name.to_owned()).expect("a class");
    let job = Job {
        class: class("bf16_d32"),
        lengths: vec![4096],
        tokens: 16_384,
        variants: vec![
            variant("t_00", plan.to_string()),
            variant("t_01", plan.to_string()),
            variant("t_02", paired.to_string()),
            variant("t_03", plan.with("bn=96").expect("a knob").to_string()),
            variant("t_04", "bm=256".into()),
            variant("t_05", plan.to_string()),
        ],
        dropped: vec![Dropped { knobs: "bn=256".into(), why: "spills".into() }],
    };
    let without_code =
        Job { class: class("bf16_d32_causal"), variants: vec![variant("t_06", plan.to_string())], ..job.clone() };
    let code = [
        ("fwd_sm90_bf16_d32", "t_00", print(plan)),
        ("fwd_sm90_bf16_d32", "t_01", print(plan)),
        // The mask is the one thing that a fingerprint does not tell.
        ("fwd_sm90_bf16_d32_causal", "t_02", print(paired)),
        ("fwd_sm90_bf16_d32", "t_03", print(plan)),
    ];
    fill(dir, vec![job.clone(), without_code], &code);
    let json = dir.join("results.json");
    let run = |more: &[&str]| {
        let (dir, json) = (dir.display().to_string(), json.display().to_string());
        let words = ["attn-gpu-tune", &dir, "--json", &json, "--simulator"];
        run(&Options::parse_from(words.iter().chain(more)))
    };
    assert_eq!(run(&["--class", "d64"]), 1, "no such class");
    assert_eq!(run(&["--class", "d32_causal"]), 1, "its present plan has no code");
    assert_eq!(run(&["--skip", "t_05"]), 1, "the first class is measured and written, then the second fails");
    assert_eq!(Results::read(&json).expect("written").classes.len(), 1);
    Folder { classes: vec![job.clone(), job] }.write(dir).expect("writable");
    assert_eq!(run(&["--skip", "t_05"]), 0);

    let results = Results::read(&json).expect("written");
    assert_eq!((results.classes.len(), results.simulated), (2, true));
    let measured = &results.classes[0];
    assert_eq!((measured.class, measured.dropped.len(), measured.lines.len()), (class("bf16_d32"), 1, 1));
    assert!(measured.lines[0].case.contains("sq=96 sk=96 d=32") && measured.lines[0].flops > 0.0);
    let mut ranked: Vec<usize> = measured.ranking().iter().map(|rank| rank.variant).collect();
    ranked.sort_unstable();
    assert_eq!(ranked, [0, 1]);
    let why = |variant: usize| measured.variants[variant].failed.as_deref().unwrap_or("nothing");
    assert!(why(2).starts_with("wrong: "), "{}", why(2));
    assert!(why(3).contains("compiled from plan"), "{}", why(3));
    assert!(why(4).contains("three consumer warpgroups"), "{}", why(4));
    assert!(why(5).contains("--skip"), "{}", why(5));
}
