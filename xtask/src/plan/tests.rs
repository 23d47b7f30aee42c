//! What is printed is what the kernels' constants say.

use attn_kernel::forward::{self, AnyPlan, KERNELS};
use clap::Parser;

use super::describe::Description;
use super::{Options, select, table};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

fn selected(words: &str) -> anyhow::Result<&'static forward::Kernel> {
    select(&Command::try_parse_from(std::iter::once("plan").chain(words.split(' ')))?.options)
}

#[test]
fn the_kernel_with_the_least_padding_is_taken() {
    let of = |words| selected(words).unwrap().name;
    assert_eq!(of("--arch sm_100a --head-dim 128 --causal"), "fwd_sm100_bf16_d128_causal");
    assert_eq!(of("--arch sm_103a --head-dim 120 --dtype f16 --short"), "fwd_sm103_f16_d128_short");
    assert_eq!(of("--arch sm_100a --head-dim 192 --head-dim-v 128"), "fwd_sm100_bf16_d192_128");
    assert_eq!(of("--arch sm_100a --head-dim 256 --short"), "fwd_sm100_bf16_d256");
    assert_eq!(of("--arch sm_90a --head-dim 64 --causal"), "fwd_sm90_bf16_d64_causal");
}

#[test]
fn what_no_kernel_takes_is_named() {
    let error = |words| selected(words).unwrap_err().to_string();
    assert_eq!(
        error("--arch sm_90a --head-dim 64 --short"),
        "sm_90a has no kernel of one query tile for head dimensions 64 and 64"
    );
    assert_eq!(error("--arch sm_100a --head-dim 264"), "sm_100a has no kernel for head dimensions 264 and 264");
    assert_eq!(error("--arch sm_100a --head-dim 0"), "a head dimension is at least 1, not 0");
}

/// The cells of the line of `text` that begins with `first` in the section `title`.
fn line<'t>(text: &'t str, title: &str, first: &str) -> Vec<&'t str> {
    let from = text.find(title).unwrap_or_else(|| panic!("no {title} in\n{text}"));
    let section = text[from..].lines().skip(1).take_while(|line| !line.is_empty());
    let cells = |line: &'t str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>();
    section.map(cells).find(|cells| cells.contains(&first)).unwrap_or_else(|| panic!("no {first} in\n{text}"))
}

#[test]
fn tables_of_blackwell_kernels_show_the_constants() {
    for kernel in KERNELS {
        let AnyPlan::Sm100(plan) = kernel.plan else { continue };
        let text = table::render(&Description::of(kernel));
        assert!(text.starts_with(kernel.name), "{text}");
        assert!(text.contains(&format!("shared memory, {} bytes", plan.smem().end)), "{text}");
        let number = |title, first, column: usize| -> u32 { line(&text, title, first)[column].parse().unwrap() };
        assert_eq!(number("tensor memory", "O", 0), plan.tmem().output);
        assert_eq!(number("tensor memory", "O", 1), plan.tmem().end);
        assert_eq!(number("shared memory,", "K, V ring", 0), plan.smem().kv);
        let (map, bars, arrivals) = (plan.smem(), plan.barriers(), plan.arrivals());
        for (name, at, count) in [
            ("Q full", bars.q, arrivals.q.0),
            ("Q empty", bars.q + 8, arrivals.q.1),
            ("O full", bars.o, arrivals.o.0),
            ("K, V empty", bars.kv + 8 * plan.stages, arrivals.kv.1),
            ("ready", bars.ready, arrivals.ready),
            ("last", bars.last, arrivals.last),
            ("output", bars.output, arrivals.output),
        ] {
            assert_eq!((number("mbarriers\n", name, 0), number("mbarriers\n", name, 3)), (map.barriers + at, count));
        }
        assert_eq!(number("\nwarps", "softmax", 2), plan.regs.softmax);
        assert_eq!(number("\nwarps", "mma", 0), plan.mma_warp());
        // Multiplies of 8 bits take half as long.
        assert_eq!(number("\ncycles", "tensor cores", 1), plan.tiles * (plan.d + plan.dv) * 2 * plan.operand_bytes());
    }
}

#[test]
fn tables_of_hopper_kernels_show_the_constants() {
    for kernel in KERNELS {
        let AnyPlan::Sm90(plan) = kernel.plan else { continue };
        let text = table::render(&Description::of(kernel));
        let number = |title, first, column: usize| -> u32 { line(&text, title, first)[column].parse().unwrap() };
        assert_eq!(number("shared memory,", "V ring", 0), plan.smem().v);
        assert_eq!(number("mbarriers\n", "K empty", 3), plan.arrivals().k.1);
        assert_eq!(number("\nwarps", "mma-softmax", 2), plan.regs.consumer);
        // Multiplies of 8 bits take half as long.
        let flops = plan.operand_bytes() * plan.bm * plan.bn * (plan.d + plan.dv);
        assert_eq!(number("\ncycles", "tensor cores", 1), flops / 4096);
        assert!(!text.contains("tensor memory"), "{text}");
    }
}

#[test]
fn json_says_the_same() {
    let kernel = selected("--arch sm_100a --head-dim 128 --causal").unwrap();
    let json = serde_json::to_value(Description::of(kernel)).unwrap();
    assert_eq!(json["shared_bytes"], kernel.launch.shared);
    assert_eq!(json["threads"], kernel.launch.threads);
    assert_eq!(json["cycles"][0]["cycles"], 2048.0);
}
