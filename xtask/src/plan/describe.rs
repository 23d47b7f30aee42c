//! A kernel's plan as data: what the tables show and what `--json` writes.

use attn_kernel::forward::anatomy::{Barriers, Named, Region, Role, Warps};
use attn_kernel::forward::cost::{Cycles, Machine, Work};
use attn_kernel::forward::{AnyPlan, Kernel, Schedule};
use serde::Serialize;

/// All of it.
#[derive(Debug, Serialize)]
pub struct Description {
    pub kernel: &'static str,
    pub arch: &'static str,
    pub head_dim: u32,
    pub head_dim_v: u32,
    pub causal: bool,
    pub tile_rows: u32,
    pub block_keys: u32,
    pub threads: u32,
    pub entry_registers: u32,
    pub schedule: &'static str,
    pub max_packed_heads: u32,
    /// When O is rescaled.
    pub rescale: String,
    /// Columns of a row of scores whose exponentials the FMA pipe computes.
    pub emulated_columns: u32,
    /// Columns; none where there is no tensor memory.
    pub tensor_memory: Vec<Place>,
    /// Bytes.
    pub shared_memory: Vec<Place>,
    pub shared_bytes: u32,
    pub mbarriers: Vec<Barrier>,
    pub named_barriers: Vec<Meeting>,
    pub warps: Vec<Crew>,
    /// For one block of keys: every unit, without and with the rescale of O.
    pub cycles: Vec<Unit>,
    pub bound: &'static str,
}

/// A stretch of memory.
#[derive(Debug, Serialize)]
pub struct Place {
    pub name: &'static str,
    pub from: u32,
    pub to: u32,
    pub count: u32,
    pub size: u32,
    pub note: &'static str,
}

/// Mbarriers of one meaning.
#[derive(Debug, Serialize)]
pub struct Barrier {
    pub name: &'static str,
    /// Byte of shared memory.
    pub at: u32,
    pub stride: u32,
    pub count: u32,
    pub arrivals: u32,
    pub from: Vec<&'static str>,
    pub to: Vec<&'static str>,
    pub means: &'static str,
}

/// Named barriers of one meaning.
#[derive(Debug, Serialize)]
pub struct Meeting {
    pub name: &'static str,
    pub first: u32,
    pub count: u32,
    pub threads: u32,
    pub from: Vec<&'static str>,
    pub to: Vec<&'static str>,
    pub means: &'static str,
}

/// Warps of a role.
#[derive(Debug, Serialize)]
pub struct Crew {
    pub role: &'static str,
    pub first: u32,
    pub count: u32,
    pub registers: u32,
    pub work: &'static str,
}

/// Cycles of a unit.
#[derive(Debug, Serialize)]
pub struct Unit {
    pub unit: &'static str,
    pub cycles: f64,
    pub with_rescale: f64,
}

/// What the plans of both families have to say.
struct Lists {
    entry_registers: u32,
    rescale_when: String,
    emulated_columns: u32,
    tensor_memory: Vec<Region>,
    shared_memory: Vec<Region>,
    first_barrier: u32,
    barriers: Vec<Barriers>,
    named: Vec<Named>,
    warps: Vec<Warps>,
    work: Work,
    rescale: Work,
}

impl Lists {
    fn of(kernel: &Kernel) -> Lists {
        match kernel.plan {
            AnyPlan::Sm90(plan) => Lists {
                entry_registers: plan.entry_registers(),
                rescale_when: format!(
                    "where a thread's exponentials of a row and a block sum to more than 2^{}",
                    kernel.dtype.sum_bound().log2()
                ),
                emulated_columns: plan.bn * plan.exp2.emulated / plan.exp2.period,
                tensor_memory: Vec::new(),
                shared_memory: plan.smem_regions().to_vec(),
                first_barrier: plan.smem().barriers,
                barriers: plan.barrier_list().to_vec(),
                named: plan.named_list().to_vec(),
                warps: plan.warps().to_vec(),
                work: plan.work(),
                rescale: plan.rescale_work(),
            },
            AnyPlan::Sm100(plan) => Lists {
                entry_registers: plan.entry_registers(),
                rescale_when: format!("where the maximum grew by more than 2^{}", plan.rescale_threshold),
                emulated_columns: plan.emulated_columns(),
                tensor_memory: plan.tmem_regions().to_vec(),
                shared_memory: plan.smem_regions().to_vec(),
                first_barrier: plan.smem().barriers,
                barriers: plan.barrier_list().to_vec(),
                named: plan.named_list().to_vec(),
                warps: plan.warps().to_vec(),
                work: plan.work(),
                rescale: plan.rescale_work(),
            },
            _ => unreachable!("both families are listed"),
        }
    }
}

impl Description {
    /// The description of `kernel`.
    pub fn of(kernel: &Kernel) -> Description {
        let (launch, lists) = (&kernel.launch, Lists::of(kernel));
        let machine = Machine::of(kernel.arch);
        let cycles = machine.cycles(&lists.work);
        Description {
            kernel: kernel.name,
            arch: kernel.arch.name(),
            head_dim: launch.d,
            head_dim_v: launch.dv,
            causal: kernel.causal,
            tile_rows: launch.bm,
            block_keys: launch.bn,
            threads: launch.threads,
            entry_registers: lists.entry_registers,
            schedule: schedule(launch.schedule),
            max_packed_heads: launch.max_pack,
            rescale: lists.rescale_when,
            emulated_columns: lists.emulated_columns,
            tensor_memory: places(&lists.tensor_memory),
            shared_memory: places(&lists.shared_memory),
            shared_bytes: launch.shared,
            mbarriers: lists.barriers.iter().map(|b| barrier(b, lists.first_barrier)).collect(),
            named_barriers: lists.named.iter().filter(|n| n.count > 0).map(meeting).collect(),
            warps: lists.warps.iter().filter(|w| w.count > 0).map(crew).collect(),
            cycles: units(&cycles, &machine.cycles(&lists.work.and(&lists.rescale))),
            bound: cycles.bound().0,
        }
    }
}

fn schedule(schedule: Schedule) -> &'static str {
    match schedule {
        Schedule::Persistent => "a block a multiprocessor, each walks every n-th tile, head by head",
        Schedule::LongestFirst => "a block a tile, the longest first, in sections of heads whose K and V fit L2",
        Schedule::Paired => {
            "a block a multiprocessor, each walks a long and a short tile in turn, the last heads a tile at a time, longest first"
        }
    }
}

fn places(regions: &[Region]) -> Vec<Place> {
    let place =
        |r: &Region| Place { name: r.name, from: r.at, to: r.end(), count: r.count, size: r.size, note: r.note };
    regions.iter().filter(|region| region.count > 0).map(place).collect()
}

fn names(roles: &[Role]) -> Vec<&'static str> {
    roles.iter().map(|role| role.name()).collect()
}

fn barrier(b: &Barriers, first: u32) -> Barrier {
    let Barriers { signal, at, stride, count, arrivals } = *b;
    let (from, to) = (names(signal.from), names(signal.to));
    Barrier { name: signal.name, at: first + at, stride, count, arrivals, from, to, means: signal.means }
}

fn meeting(n: &Named) -> Meeting {
    let Named { signal, first, count, threads } = *n;
    Meeting {
        name: signal.name,
        first,
        count,
        threads,
        from: names(signal.from),
        to: names(signal.to),
        means: signal.means,
    }
}

fn crew(w: &Warps) -> Crew {
    Crew { role: w.role.name(), first: w.first, count: w.count, registers: w.registers, work: w.work }
}

/// Every unit that is used at all.
fn units(cycles: &Cycles, with_rescale: &Cycles) -> Vec<Unit> {
    let pairs = cycles.units().into_iter().zip(with_rescale.units());
    pairs
        .map(|((unit, cycles), (_, with_rescale))| Unit { unit, cycles, with_rescale })
        .filter(|unit| unit.with_rescale > 0.0)
        .collect()
}
