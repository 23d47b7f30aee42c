//! `attn plan`: what a launch would be.

use std::io::Write;

use attn_host::{Arch, DeviceInfo, Outline};
use attn_kernel::forward::anatomy::Warps;
use attn_kernel::forward::{AnyPlan, Family, Kernel};
use attn_tests::gpu::Gpu;
use clap::Args;
use serde_json::json;

use crate::card::Card;
use crate::error::Failure;
use crate::figures::{Figures, scaled};
use crate::options::{Scores, Sizes};
use crate::problem::Spec;
use crate::table::facts;

/// What a launch would be: kernel, tile, grid, splits, workspace, shared memory, registers, work and the least time for it
///
/// Nothing is loaded or launched. Without --arch the problem is planned for the first GPU.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub struct Options {
    #[command(flatten)]
    sizes: Sizes,
    #[command(flatten)]
    scores: Scores,
    /// Plan for the usual card of an architecture, which need not be there: sm_90a, sm_100a or sm_103a
    #[arg(long, value_name = "ARCH", value_parser = architecture, help_heading = "Device")]
    arch: Option<Arch>,
    /// Write JSON instead of text
    #[arg(long)]
    json: bool,
}

const AFTER: &str = "\
Examples:
  attn plan --batch 4 --seqlen 8192 --heads 32 --kv-heads 8 --causal --arch sm_90a
  attn plan --lengths 8192,128*64 --causal             one long sequence packed with 128 short ones
  attn plan --seqlen 1 --heads 64 --kv-heads 8 --cache 64*8192 --page-size 64";

/// An architecture by its name.
pub fn architecture(name: &str) -> Result<Arch, String> {
    let names = || Arch::ALL.map(Arch::name).join(", ");
    Arch::ALL.into_iter().find(|arch| arch.name() == name).ok_or_else(|| format!("architectures are {}", names()))
}

/// The device that is asked about.
fn device(arch: Option<Arch>) -> Result<DeviceInfo, Failure> {
    match arch {
        Some(arch) => Ok(DeviceInfo::nominal(arch)),
        None => Ok(Gpu::open()?.device().info().clone()),
    }
}

/// Runs the command.
pub fn run(options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    let (spec, arrays) = options.sizes.spec(&options.scores)?;
    let device = device(options.arch)?;
    let problem = spec.problem(&arrays);
    let outline = match &spec.kernel {
        Some(name) => Outline::with_kernel(&problem, &device, name)?,
        None => Outline::of(&problem, &device)?,
    };
    arrays.check(&spec.problem(&arrays))?;
    let figures = Figures::of(&spec, &arrays);
    if options.json {
        writeln!(out, "{:#}", as_json(&spec, &problem.to_string(), &device, &outline, figures))?;
    } else {
        write!(out, "{}", as_text(&spec, &problem.to_string(), &device, &outline, figures))?;
    }
    Ok(())
}

/// Registers of a thread at the launch, and of each role's later.
pub fn registers(kernel: &Kernel) -> (u32, Vec<Warps>) {
    match &kernel.plan {
        AnyPlan::Sm90(plan) => (plan.entry_registers(), plan.warps().to_vec()),
        AnyPlan::Sm100(plan) => (plan.entry_registers(), plan.warps().to_vec()),
        _ => (0, Vec::new()),
    }
}

/// Which problems a kernel is for.
pub fn family(kernel: &Kernel) -> &'static str {
    match (kernel.family, kernel.causal) {
        (Family::Dense, false) => "dense, whole",
        (Family::Dense, true) => "dense, causal",
        (Family::Serve { modified: false }, _) => "packed, paged, windows",
        (Family::Serve { modified: true }, _) => "the same with softcap and ALiBi",
        (Family::Decode, _) => "few queries",
        (Family::Prompt, _) => "packed, whole or causal",
        (Family::Short, _) => "few queries, few keys",
    }
}

fn as_text(spec: &Spec, problem: &str, device: &DeviceInfo, outline: &Outline, figures: Figures) -> String {
    let (kernel, launch) = (outline.kernel, &outline.kernel.launch);
    let (entry, warps) = registers(kernel);
    let roles: Vec<String> = warps
        .iter()
        .map(|Warps { role, count, registers, .. }| {
            format!("{} {count} x {registers}", format!("{role:?}").to_lowercase())
        })
        .collect();
    let (major, minor) = device.compute_capability;
    let companions = match outline.companions.join(", ") {
        none if none.is_empty() => "none".to_owned(),
        some => some,
    };
    let mut lines = vec![
        ("problem", problem.to_owned()),
        ("device", format!("{}, sm_{major}{minor}, {} multiprocessors", device.name, device.sm_count)),
        ("kernel", format!("{}: {}", kernel.name, family(kernel))),
        ("beside it", companions),
        (
            "tile",
            format!("{} rows, {} heads packed into them; {} keys a step", launch.bm, outline.packed_heads, launch.bn),
        ),
        ("tiles", format!("{} at most, keys in {} part(s)", outline.tiles, outline.splits)),
        (
            "grid",
            format!("{} blocks of {} threads, {} on a multiprocessor", outline.grid, launch.threads, launch.per_sm),
        ),
        ("registers", format!("{entry} a thread at the start; warps x registers: {}", roles.join(", "))),
        ("shared memory", format!("{} bytes a block", launch.shared)),
        ("workspace", format!("{} bytes", outline.workspace_bytes)),
        ("work", format!("{}, {}", scaled(figures.flops, "FLOP"), scaled(figures.bytes, "B"))),
    ];
    if let Some(card) = Card::of(device) {
        let (micros, by) = figures.floor(spec, card);
        let peaks = format!("{} TFLOP/s (16 bits), {} GB/s", card.tflops, card.gbytes);
        lines.push(("least time", format!("{micros:.1} us, bound by {by}, at the data sheet's {peaks}")));
    }
    facts(&lines)
}

fn as_json(spec: &Spec, problem: &str, device: &DeviceInfo, outline: &Outline, figures: Figures) -> serde_json::Value {
    let (kernel, launch) = (outline.kernel, &outline.kernel.launch);
    let (entry, warps) = registers(kernel);
    let roles = warps.iter().map(|warps| {
        json!({ "role": format!("{:?}", warps.role).to_lowercase(), "warps": warps.count, "registers": warps.registers })
    });
    let floor = Card::of(device).map(|card| figures.floor(spec, card));
    json!({
        "problem": problem,
        "device": device.name,
        "multiprocessors": device.sm_count,
        "kernel": kernel.name,
        "companions": outline.companions,
        "tile_rows": launch.bm,
        "packed_heads": outline.packed_heads,
        "block_keys": launch.bn,
        "tiles": outline.tiles,
        "splits": outline.splits,
        "grid": outline.grid,
        "threads": launch.threads,
        "blocks_per_multiprocessor": launch.per_sm,
        "entry_registers": entry,
        "registers": roles.collect::<Vec<_>>(),
        "shared_bytes": launch.shared,
        "workspace_bytes": outline.workspace_bytes,
        "flops": figures.flops,
        "bytes": figures.bytes,
        "floor_us": floor.map(|(micros, _)| micros),
        "bound": floor.map(|(_, by)| by),
    })
}
