//! `cargo xtask sass-report`: what the loops of a kernel cost.
//!
//! NVIDIA's disassembler gives text, which is read ([`parse`]), cut into blocks ([`flow`]) and searched for loops
//! ([`loops`]); their instructions tell what each is for ([`role`]), what it executes ([`mod@class`]) and how long every
//! hardware unit is busy with it ([`mod@unit`], [`mma`]).

mod class;
mod cubin;
mod flow;
mod loops;
mod mma;
mod parse;
mod report;
mod role;
mod table;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::BTreeMap;

use anyhow::Result;
use clap::ValueEnum;

use report::{Assumptions, Report};
use role::Role;

use crate::ptx::Arch;

/// Report what the inner loops of a kernel execute, and how long each hardware unit is busy with them.
///
/// For the innermost loops of each warp role (multiplies, softmax with and without mask, correction, load, epilogue): the
/// instructions of one iteration by class, and the cycles of one multiprocessor that they take of tensor cores, MUFU, FMA
/// pipe, ALU pipe, tensor memory, shared memory and issue slots at the published throughputs of sm_90, sm_100 and sm_103.
///
/// `every` counts what every iteration executes, `longest` the longest way through it: with a rescale that is mostly
/// skipped, with the elected thread's part. Of a wait for a barrier only the first try counts, not the loop that retries;
/// nor do the ways on which a warp's scattered threads repeat a collective instruction, and a loop that repeats an
/// instruction for threads with different operands counts once. An instruction without effect on a unit (its predicate is
/// false) counts as if it had one.
#[derive(clap::Args)]
pub struct Options {
    /// A kernel's name or a part of it that no other has (of those in target/ptx and attn-host/prebuilt), or a file: a
    /// cubin, or what `nvdisasm -c` writes [default: list the names].
    #[arg(value_name = "KERNEL|FILE")]
    kernel: Option<String>,
    /// Another one, to show beside it.
    #[arg(long, value_name = "KERNEL|FILE", requires = "kernel")]
    against: Option<String>,
    /// Look for names only among kernels of these architectures, separated by commas [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    arch: Vec<Arch>,
    /// KV blocks that one iteration of a role's loops covers, for unrolled loops: counts are divided by it. 0.5 where an
    /// iteration does one of two Q tiles. May be repeated; softmax of rows of 128 scores needs none.
    #[arg(long, value_name = "ROLE=N", value_parser = assignment)]
    per: Vec<(Role, f64)>,
    /// Warps of a block of threads that have the role: cycles are multiplied by it [default: softmax 8, correction 4,
    /// epilogue 4, mma 1, load 1, mma-softmax all but one warpgroup].
    #[arg(long, value_name = "ROLE=N", value_parser = assignment)]
    warps: Vec<(Role, f64)>,
    /// Also loops that go round other loops, without what those execute.
    #[arg(long)]
    outer: bool,
    /// Also a line for every instruction's name.
    #[arg(long)]
    names: bool,
    /// JSON in place of the table: a list of reports.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let arches = if options.arch.is_empty() { Arch::ALL.to_vec() } else { options.arch.clone() };
    let Some(kernel) = &options.kernel else {
        print!("{}", cubin::list(&arches)?);
        return Ok(());
    };
    let assume = Assumptions {
        per: options.per.iter().copied().collect(),
        warps: options.warps.iter().copied().collect::<BTreeMap<_, _>>(),
        outer: options.outer,
    };
    let mut reports: Vec<Report> = Vec::new();
    for what in [Some(kernel), options.against.as_ref()].into_iter().flatten() {
        let code = cubin::read(&cubin::find(what, &arches)?)?;
        reports.push(report::report(&code.kernel, &code.file, code.resources, &assume)?);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else {
        print!("{}", table::render(&reports, table::Style { names: options.names }));
    }
    Ok(())
}

/// Reads `softmax=2`.
fn assignment(text: &str) -> Result<(Role, f64), String> {
    let (role, number) = text.split_once('=').ok_or("it takes the form ROLE=N")?;
    let roles = Role::value_variants().iter().filter_map(|role| Some(role.to_possible_value()?.get_name().to_owned()));
    let role = Role::from_str(role, false)
        .map_err(|_| format!("there is no role `{role}`, but {}", roles.collect::<Vec<_>>().join(", ")))?;
    let number: f64 = number.parse().map_err(|_| format!("`{number}` is not a number"))?;
    if number.is_finite() && number > 0.0 { Ok((role, number)) } else { Err(format!("{number} is not above 0")) }
}
