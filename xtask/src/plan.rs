//! `cargo xtask plan`: where everything of a kernel lies, who waits for whom, and what a block of keys costs.
//!
//! All of it comes from the constants that the kernel is compiled from ([`describe`]); [`table`] makes it readable.

mod describe;
mod table;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, ensure};
use attn_kernel::forward::{self, AnyPlan, KERNELS, Kernel};
use clap::ValueEnum;

use crate::ptx::Arch;
use describe::Description;

/// Print the plan of a forward kernel: tensor memory, shared memory, barriers, roles, schedule, and expected cycles.
///
/// The kernel is the one with the least padding that takes the head dimensions. Barriers: how many arrivals complete each,
/// which roles arrive and which wait. Cycles: how long a block of keys without mask keeps each unit of a multiprocessor that
/// does nothing else, at published throughputs; latencies come on top. `cargo xtask sass-report` counts what the compiled
/// kernel executes.
#[derive(clap::Args)]
pub struct Options {
    /// Architecture.
    #[arg(long, value_enum)]
    arch: Arch,
    /// Head dimension of Q and K.
    #[arg(long, value_name = "N")]
    head_dim: u32,
    /// Head dimension of V and O [default: that of Q and K].
    #[arg(long, value_name = "N")]
    head_dim_v: Option<u32>,
    /// With the causal mask.
    #[arg(long)]
    causal: bool,
    /// Element type.
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: DType,
    /// Blackwell's kernel of one query tile, for few queries.
    #[arg(long)]
    short: bool,
    /// JSON in place of the tables.
    #[arg(long)]
    json: bool,
}

/// Element type of Q, K, V and O.
#[derive(Clone, Copy, ValueEnum)]
enum DType {
    Bf16,
    F16,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let description = Description::of(select(options)?);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&description)?);
    } else {
        print!("{}", table::render(&description));
    }
    Ok(())
}

/// The kernel with the least padding; of those the one with two query tiles, or one with `--short`.
fn select(options: &Options) -> Result<&'static Kernel> {
    let (d, dv) = (options.head_dim, options.head_dim_v.unwrap_or(options.head_dim));
    ensure!(d >= 1 && dv >= 1, "a head dimension is at least 1, not {}", d.min(dv));
    let arch = match options.arch {
        Arch::Sm90a => forward::Arch::Sm90a,
        Arch::Sm100a => forward::Arch::Sm100a,
        Arch::Sm103a => forward::Arch::Sm103a,
    };
    let dtype = match options.dtype {
        DType::Bf16 => forward::DType::Bf16,
        DType::F16 => forward::DType::F16,
    };
    let one_tile = |kernel: &Kernel| matches!(kernel.plan, AnyPlan::Sm100(plan) if plan.tiles == 1);
    let fits = |kernel: &&Kernel| {
        (kernel.arch, kernel.dtype, kernel.causal) == (arch, dtype, options.causal)
            && kernel.launch.d >= d
            && kernel.launch.dv >= dv
            && (!options.short || one_tile(kernel))
    };
    let best = |kernel: &&Kernel| (kernel.launch.d + kernel.launch.dv, one_tile(kernel));
    KERNELS.iter().filter(fits).min_by_key(best).with_context(|| {
        let short = if options.short { " of one query tile" } else { "" };
        format!("{} has no kernel{short} for head dimensions {d} and {dv}", arch.name())
    })
}
