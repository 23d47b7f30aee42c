//! The serving lists on the launch side: every case has a plan, and the simulator's cases run every kernel.

use attn_host::Plan;
use attn_host::simulator::Options;
use attn_kernel::forward::{Arch, Family, KERNELS, Kernel};
use attn_tests::gpu::Gpu;
use attn_tests::serve::case::{Keys, ServeCase, Splits};
use attn_tests::serve::gpu::problem;
use attn_tests::serve::layout::ServePlacement;
use attn_tests::serve::lists::{self, Entry};
use attn_tests::serve::random::{self, Size};

#[test]
fn every_case_has_a_kernel_and_every_kernel_a_case() {
    let gpu = Gpu::simulated(Options::default()).expect("the simulator");
    let chosen = |Entry { case, .. }: &Entry| {
        let problem = problem(case, &ServePlacement::of(case));
        Plan::choice(gpu.device().info(), &problem).unwrap_or_else(|error| panic!("{case}: {error}"))
    };
    // The suite runs a case with every kernel that computes it, not the chosen one alone.
    let class = |kernel: &Kernel| (kernel.dtype, kernel.launch.d, kernel.launch.dv, kernel.launch.float8);
    let taken: Vec<_> = lists::simulator().into_iter().map(|e| (class(chosen(&e)), e.case)).collect();
    for kernel in KERNELS.iter().filter(|kernel| kernel.arch == Arch::Sm90a && kernel.family != Family::Dense) {
        let runs = |(of, case): &(_, ServeCase)| *of == class(kernel) && computes(kernel, case);
        assert!(taken.iter().any(runs), "no case runs {}", kernel.name);
    }
    // Those whose tensors are small: the host's copies of the others take a while.
    let small = |entry: &Entry| entry.case.base.batch * entry.case.base.seqlen_k < 1 << 20;
    let more = random::cases(500, 3, Size::GPU).into_iter().map(|case| Entry { list: "random", case });
    for entry in lists::checked().into_iter().filter(small).chain(more) {
        assert_ne!(chosen(&entry).family, Family::Dense, "{}", entry.case);
    }
}

/// Whether a kernel of the case's class computes it.
fn computes(kernel: &Kernel, case: &ServeCase) -> bool {
    let plain = case.softcap.is_none() && case.alibi.is_none();
    let unsplit = !matches!(case.splits, Splits::Exactly(2..));
    let no_left_edge = case.window.is_none_or(|window| window.left.is_none());
    match kernel.family {
        Family::Serve { modified: false } => plain,
        Family::Prompt => {
            let packed = case.packed_q.is_some() && matches!(case.keys, Keys::Packed(_));
            plain && no_left_edge && packed && unsplit
        }
        Family::Short => plain && no_left_edge && unsplit && case.base.seqlen_k <= kernel.launch.bn as usize,
        _ => true,
    }
}
