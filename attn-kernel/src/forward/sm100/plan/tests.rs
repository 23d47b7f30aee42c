//! Maps of every kernel: nothing overlaps, everything has its place, and the lists say what the kernel does.

extern crate std;
use std::vec::Vec;

use super::{KEYS, Plan, ROWS};
use crate::forward::anatomy::{Region, Role};
use crate::forward::cost::Machine;
use crate::forward::plan::SMEM_LIMIT;
use crate::forward::{AnyPlan, Arch, KERNELS};
use crate::mem::{E4m3, Operand, tmem};
use crate::ptx::float8;

fn plans() -> Vec<(&'static str, Arch, Plan)> {
    let of = |plan| if let AnyPlan::Sm100(plan) = plan { Some(plan) } else { None };
    KERNELS.iter().filter_map(|kernel| Some((kernel.name, kernel.arch, of(kernel.plan)?))).collect()
}

/// Regions follow each other without a gap, from 0 to `end`.
fn check_tiling(name: &str, regions: &[Region], end: u32) {
    let mut at = 0;
    for region in regions.iter().filter(|region| region.count > 0) {
        assert_eq!(region.at, at, "{name}: {}", region.name);
        at = region.end();
    }
    assert_eq!(at, end, "{name}");
}

#[test]
fn shared_memory_is_covered_without_overlap() {
    for (name, _, plan) in plans() {
        let map = plan.smem();
        check_tiling(name, &plan.smem_regions(), map.end);
        assert!(map.end <= SMEM_LIMIT, "{name}");
        assert!(plan.o_in_q() || map.o == plan.tiles * plan.q_bytes(), "{name}");
    }
}

#[test]
fn tensor_memory_is_covered_and_probabilities_lie_in_their_scores() {
    for (name, _, plan) in plans() {
        let map = plan.tmem();
        check_tiling(name, &plan.tmem_regions(), map.end);
        assert!(map.end <= tmem::COLUMNS, "{name}");
        for (scores, probabilities) in map.scores.into_iter().zip(map.probabilities) {
            assert_eq!(probabilities + KEYS / 2, scores + KEYS, "{name}");
        }
    }
}

#[test]
fn every_mbarrier_has_a_meaning_and_roles_that_exist() {
    for (name, _, plan) in plans() {
        let list = plan.barrier_list();
        let mut at: Vec<u32> = list.iter().flat_map(|b| (0..b.count).map(|i| b.at + i * b.stride)).collect();
        at.sort_unstable();
        let all: Vec<u32> = (0..plan.barriers().end / 8).map(|i| 8 * i).collect();
        assert_eq!(at, all, "{name}");
        let roles = plan.warps().map(|warps| warps.role);
        for b in list {
            assert!(b.arrivals >= 1, "{name}: {}", b.signal.name);
            assert!(
                b.signal.from.iter().chain(b.signal.to).all(|role| roles.contains(role)),
                "{name}: {}",
                b.signal.name
            );
        }
    }
}

#[test]
fn arrivals_are_those_of_the_roles_threads() {
    for (name, _, plan) in plans() {
        let n = plan.arrivals();
        // One thread loads, stores, commits; each warp of a warpgroup has one lane that arrives.
        let widened = if plan.converts() { 4 } else { 1 };
        assert_eq!((n.q.0, n.kv, n.raw, n.scores, n.output), (1, (widened, 1), (1, 4), 1, 1), "{name}");
        assert_eq!(n.q.1, 1 + u32::from(plan.o_in_q()), "{name}");
        assert_eq!((n.o, n.inverses, n.ready, n.last), ((4, 1), (4, 4), 8, 4), "{name}");
        // The multiply and store warps, and each warp of the correction, of every softmax, and of those that widen.
        assert_eq!(n.units, (1, 1 + 1 + 4 + 4 * plan.tiles + 4 * u32::from(plan.converts())), "{name}");
    }
}

#[test]
fn warps_are_covered_and_own_the_registers_they_take() {
    for (name, _, plan) in plans() {
        let (mut next, mut registers) = (0, 0);
        for warps in plan.warps() {
            assert_eq!(warps.first, next, "{name}");
            next += warps.count;
            registers += warps.count * warps.registers;
        }
        assert_eq!(next * 32, plan.threads(), "{name}");
        assert!(registers <= plan.threads() / 32 * plan.entry_registers(), "{name}");
        let named = plan.named_list();
        assert!(named.iter().all(|n| n.first >= 1 && n.first + n.count <= 16), "{name}");
        assert_eq!(plan.warps()[2].role, Role::Mma, "{name}");
    }
}

#[test]
fn costs_follow_from_shapes() {
    for (name, arch, plan) in plans() {
        let (machine, work) = (Machine::of(arch), plan.work());
        let cycles = machine.cycles(&work);
        // A multiply of 128 x 128 x 16 takes 64 cycles, one of twice as many 8-bit elements as long.
        let steps = f64::from(plan.tiles * (plan.d + plan.dv) / plan.step_keys());
        assert_eq!(cycles.tensor, 64.0 * steps, "{name}");
        let exponentials = work.exp2 as f64 / f64::from(plan.bm());
        assert_eq!(exponentials, f64::from(KEYS + 1 - plan.emulated_columns()), "{name}");
        assert_eq!(work.tmem_loaded, u64::from(plan.tiles * ROWS * KEYS * 4), "{name}");
        assert_eq!(cycles.bound().1, cycles.units().map(|unit| unit.1).into_iter().fold(0.0, f64::max), "{name}");
        let more = machine.cycles(&work.and(&plan.rescale_work()));
        assert!(more.fma > cycles.fma && more.tmem_store > cycles.tmem_store, "{name}");
        assert_eq!(more.tensor, cycles.tensor, "{name}");
    }
}

#[test]
fn probabilities_of_8_bits_do_not_saturate() {
    let of_8_bits: Vec<_> = plans().into_iter().filter(|(_, _, plan)| plan.operand_bytes() == 1).collect();
    assert_eq!(of_8_bits.len(), 16);
    for (name, _, plan) in of_8_bits {
        let greatest = (E4m3::LIFT + plan.rescale_threshold).exp2();
        assert_eq!(float8::pack_e4m3([greatest, greatest * 1.04, 0.0, 0.0]) & 0xff, 0x7d, "{name}");
        // All but the last chunk is whole k-steps.
        assert_eq!((plan.early_steps(), KEYS / plan.step_keys()), (3, 4), "{name}");
    }
}

#[test]
fn head_dim_128_is_bound_by_its_multiplies() {
    let find = |wanted: &str| plans().into_iter().find(|(name, ..)| *name == wanted).unwrap();
    for name in ["fwd_sm100_bf16_d128", "fwd_sm103_bf16_d128"] {
        let (_, arch, plan) = find(name);
        assert_eq!(Machine::of(arch).cycles(&plan.work()).bound(), ("tensor cores", 2048.0), "{name}");
    }
    let (_, arch, plan) = find("fwd_sm100_bf16_d64");
    assert_eq!(Machine::of(arch).cycles(&plan.work()).bound().0, "MUFU (exp2)");
}
