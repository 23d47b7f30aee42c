//! Hardware units, and how long an instruction keeps them.
//!
//! Everything is in cycles of one multiprocessor for one warp's instruction: 32 lanes over the unit's lanes per cycle, all
//! four quarters together. Where a role's warps are spread over the quarters evenly, the sum over a loop times the role's
//! warps is what the loop takes if that unit is the only limit.

use attn_kernel::forward::cost::{self, ALU, FMA, FMA_HALF, SHARED, TMEM_LOAD, TMEM_STORE};

use super::class::{Class, class};
use super::mma::Product;
use super::parse::Instruction;

/// A hardware unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Tensor cores.
    Tensor,
    /// Special functions and conversions.
    Mufu,
    /// The FMA pipe, both halves.
    Fma,
    /// The half of it that multiplies integers.
    FmaHeavy,
    /// The ALU pipe.
    Alu,
    /// Loads of tensor memory.
    TmemLoad,
    /// Stores to tensor memory.
    TmemStore,
    /// Shared memory, matrix operands included, asynchronous copies not.
    Shared,
    /// Issue slots of all four quarters. One warp starts at most one instruction per cycle whatever the others leave free.
    Issue,
}

impl Unit {
    /// Every unit, in the order of the table.
    pub const ALL: [Unit; 9] = [
        Unit::Tensor,
        Unit::Mufu,
        Unit::Fma,
        Unit::FmaHeavy,
        Unit::Alu,
        Unit::TmemLoad,
        Unit::TmemStore,
        Unit::Shared,
        Unit::Issue,
    ];

    /// Its row's title.
    pub const fn title(self) -> &'static str {
        match self {
            Unit::Tensor => "tensor cores",
            Unit::Mufu => "MUFU",
            Unit::Fma => "FMA pipe",
            Unit::FmaHeavy => "FMA pipe, integer half",
            Unit::Alu => "ALU pipe",
            Unit::TmemLoad => "TMEM loads",
            Unit::TmemStore => "TMEM stores",
            Unit::Shared => "shared memory",
            Unit::Issue => "issue slots",
        }
    }
}

/// Lanes of special functions other than exp2, and of conversions.
const SPECIAL: f64 = 16.0;
/// Lanes of shuffles.
const SHUFFLE: f64 = 32.0;
/// Warp instructions that start.
const ISSUE: f64 = 4.0;

/// What one multiprocessor of an architecture does in a cycle: the numbers that the kernels' plans count with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine(cost::Machine);

impl Machine {
    /// The machine of the architecture `arch`, for instance `sm_100a`.
    pub fn of(arch: &str) -> Option<Machine> {
        let number = arch.strip_prefix("sm_")?.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let machine = match number {
            "90" => cost::Machine::SM90,
            "100" => cost::Machine::SM100,
            "103" => cost::Machine::SM103,
            _ => return None,
        };
        Some(Machine(machine))
    }

    /// Whether there is tensor memory.
    pub fn tmem(&self) -> bool {
        self.0.tmem
    }

    /// What one warp's `instruction` takes of each unit; `product` is its shape, if it is a matrix multiply.
    pub fn cost(&self, instruction: &Instruction, product: Option<Product>) -> Vec<(Unit, f64)> {
        let mut cost = vec![(Unit::Issue, 1.0 / ISSUE)];
        if let Some(product) = product {
            cost.push((Unit::Tensor, product.flops() / (self.0.flops * product.speed)));
            cost.push((Unit::Shared, product.shared_bytes() / SHARED));
            return cost;
        }
        let lanes = |rate: f64| 32.0 / rate;
        match (class(instruction), instruction.base()) {
            (Some(Class::Mufu), _) if instruction.has("EX2") => cost.push((Unit::Mufu, lanes(self.0.exp2))),
            (Some(Class::Mufu | Class::Convert), _) => cost.push((Unit::Mufu, lanes(SPECIAL))),
            (_, "IMAD" | "IMUL" | "IDP" | "IDP4A") => {
                let wide = if instruction.has("WIDE") || instruction.has("HI") { 2.0 } else { 1.0 };
                cost.extend([(Unit::Fma, wide * lanes(FMA)), (Unit::FmaHeavy, wide * lanes(FMA_HALF))]);
            }
            (_, "FFMA2" | "FMUL2" | "FADD2" | "HFMA2" | "HADD2" | "HMUL2") => {
                cost.extend([(Unit::Fma, lanes(FMA_HALF)), (Unit::FmaHeavy, lanes(FMA_HALF))]);
            }
            (Some(Class::Fma), _) => cost.push((Unit::Fma, lanes(FMA))),
            (Some(Class::Alu), _) | (_, "MOV") => cost.push((Unit::Alu, lanes(ALU))),
            (_, "SHFL") => cost.push((Unit::Shared, lanes(SHUFFLE))),
            (_, "LDTM") => cost.push((Unit::TmemLoad, tmem_bytes(instruction) / TMEM_LOAD)),
            (_, "STTM") => cost.push((Unit::TmemStore, tmem_bytes(instruction) / TMEM_STORE)),
            (Some(Class::Shared), _) => cost.push((Unit::Shared, shared_bytes(instruction) / SHARED)),
            _ => {}
        }
        cost
    }
}

/// The columns that one warp's LDTM or STTM moves, four bytes each in every lane.
pub fn tmem_columns(instruction: &Instruction) -> u32 {
    let times = instruction.name.split('.').find_map(|part| part.strip_prefix('x')?.parse::<u32>().ok()).unwrap_or(1);
    // Registers of a lane for one repetition of the shape.
    let shape = if instruction.has("16dp256bit") { 4 } else { 1 + u32::from(instruction.has("16dp128bit")) };
    times * shape
}

fn tmem_bytes(instruction: &Instruction) -> f64 {
    f64::from(tmem_columns(instruction) * 32 * 4)
}

/// The bytes that one warp's access of shared memory moves.
fn shared_bytes(instruction: &Instruction) -> f64 {
    let lane = match instruction.base() {
        "LDSM" | "STSM" => instruction
            .name
            .split('.')
            .find_map(|part| part.parse::<u32>().ok().filter(|n| matches!(n, 1 | 2 | 4)))
            .map_or(4, |n| 4 * n),
        _ if instruction.has("128") => 16,
        _ if instruction.has("64") => 8,
        _ => 4,
    };
    f64::from(32 * lane)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sass_report::class::tests::parsed;

    fn cost(arch: &str, code: &str, unit: Unit) -> f64 {
        let costs = Machine::of(arch).unwrap().cost(&parsed(code), None);
        costs.iter().filter(|(of, _)| *of == unit).map(|(_, cost)| cost).sum()
    }

    #[test]
    fn an_instruction_takes_32_lanes_over_the_units_lanes() {
        assert_eq!(cost("sm_90a", "MUFU.EX2 R1, R2", Unit::Mufu), 2.0);
        assert_eq!(cost("sm_100a", "MUFU.EX2 R1, R2", Unit::Mufu), 2.0);
        assert_eq!(cost("sm_103a", "MUFU.EX2 R1, R2", Unit::Mufu), 1.0);
        assert_eq!(cost("sm_103a", "MUFU.RCP R1, R2", Unit::Mufu), 2.0);
        assert_eq!(cost("sm_100a", "FFMA R1, R2, R3, R4", Unit::Fma), 0.25);
        assert_eq!(cost("sm_100a", "FFMA2 R2, R4, R6, R8", Unit::Fma), 0.5);
        assert_eq!(cost("sm_100a", "IMAD R1, R2, R3, R4", Unit::FmaHeavy), 0.5);
        assert_eq!(cost("sm_100a", "IMAD.MOV.U32 R1, RZ, RZ, R4", Unit::FmaHeavy), 0.5);
        assert_eq!(cost("sm_100a", "FMNMX3 R1, R2, R3, R4, !PT", Unit::Alu), 0.5);
        assert_eq!(cost("sm_100a", "FMNMX3 R1, R2, R3, R4, !PT", Unit::Issue), 0.25);
        assert_eq!(cost("sm_90a", "LDS.128 R4, [R2]", Unit::Shared), 4.0);
        assert_eq!(cost("sm_90a", "STSM.16.M88.4 [R2], R4", Unit::Shared), 4.0);
        assert_eq!(Machine::of("sm_80"), None);
    }

    #[test]
    fn tensor_memory_is_counted_in_columns() {
        assert_eq!(tmem_columns(&parsed("LDTM.x32 R8, tmem[UR8]")), 32);
        assert_eq!(tmem_columns(&parsed("LDTM R8, tmem[UR8]")), 1);
        assert_eq!(tmem_columns(&parsed("STTM.16dp256bit.x4 tmem[UR11+0x100080], R196")), 16);
        assert_eq!(cost("sm_100a", "STTM.x16 tmem[UR8], R4", Unit::TmemStore), 2048.0 / 114.0);
    }
}
