//! The simulator's list for Blackwell, on a device of that architecture.

use std::collections::HashSet;

use attn_host::Plan;
use attn_host::simulator::{Arch, Options};
use attn_kernel::forward::{Arch as KernelArch, Family, KERNELS};
use attn_tests::gpu::{self, Gpu};
use attn_tests::lists::{self, Entry};

#[test]
fn a_case_for_every_kernel_is_one_that_takes_it() {
    let gpu = Gpu::simulated(Options { arch: Arch::Sm100a, ..Options::default() }).expect("the simulator");
    let list = lists::simulator(KernelArch::Sm100a);
    let taken: HashSet<&str> = list
        .iter()
        .filter(|entry| entry.list == "kernels")
        .map(|Entry { case, .. }| {
            let problem = gpu::problem(case, &case.layout.place(case));
            Plan::choice(gpu.device().info(), &problem).unwrap_or_else(|error| panic!("{case}: {error}")).name
        })
        .collect();
    for kernel in KERNELS.iter().filter(|kernel| kernel.arch == KernelArch::Sm100a && kernel.family == Family::Dense) {
        assert!(taken.contains(kernel.name), "no case runs {}", kernel.name);
    }
}
