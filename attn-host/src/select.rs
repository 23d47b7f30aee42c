//! Chooses a kernel: first what would be correct, then what should be fastest.

use std::collections::BTreeSet;

use attn_kernel::attn::mask::{Causal, Lengths, Mask as _};
use attn_kernel::forward::sm100::Plan;
use attn_kernel::forward::{AnyPlan, Cost, DType, Family, KERNELS, Kernel, Plan as HopperPlan, Schedule};

use crate::device::DeviceInfo;
use crate::error::{Error, Unsupported};
use crate::layout::MAX_SEQLEN;
use crate::problem::{Mask, Problem, Splits, dtype_name, float8_name};

mod serving;

/// Query heads that share a tile's rows: a power of two that divides the query heads of a key/value head, and by which the rows
/// of all queries can still be counted in 31 bits.
pub(crate) fn pack(kernel: &Kernel, problem: &Problem) -> u32 {
    // The sizes have been checked: a count of heads fits.
    let mut pack = kernel.launch.pack((problem.shape.heads / problem.shape.kv_heads) as u32);
    while pack > 1 && problem.shape.seqlen_q * u64::from(pack) > MAX_SEQLEN {
        pack /= 2;
    }
    pack
}

/// Query tiles of one head, or of one pack of heads.
pub(crate) fn m_blocks(kernel: &Kernel, problem: &Problem) -> u64 {
    (problem.shape.seqlen_q * u64::from(pack(kernel, problem))).div_ceil(u64::from(kernel.launch.bm))
}

/// The mask that a kernel computes with.
fn mask_of(kernel: &Kernel) -> Mask {
    if kernel.causal { Mask::Causal } else { Mask::None }
}

/// Whether the kernel computes this problem correctly on this device.
pub(crate) fn eligible(kernel: &Kernel, problem: &Problem, device: &DeviceInfo) -> Result<(), Unsupported> {
    let launch = &kernel.launch;
    if kernel.arch.compute_capability() != device.compute_capability {
        return Err(Unsupported::Architecture { got: device.compute_capability, have: kernel.arch.name() });
    }
    if kernel.dtype != problem.dtype {
        return Err(Unsupported::DType { got: dtype_name(problem.dtype), have: dtype_name(kernel.dtype) });
    }
    if launch.float8 != problem.serving.float8 {
        let (got, have) = (float8_name(problem.serving.float8), float8_name(launch.float8));
        return Err(Unsupported::Feature { got, have });
    }
    match (kernel.family, problem.serving.beyond_dense()) {
        (Family::Dense, None) if mask_of(kernel).reach() != problem.mask.reach() => {
            return Err(Unsupported::Mask { got: problem.mask.name(), have: mask_of(kernel).name() });
        }
        (Family::Dense, Some(got)) => return Err(Unsupported::Feature { got, have: "dense tensors" }),
        (Family::Serve { modified: false } | Family::Prompt | Family::Short, _) if problem.serving.modified() => {
            return Err(Unsupported::Feature { got: "softcap or alibi", have: "plain scores" });
        }
        (Family::Prompt | Family::Short, _) if matches!(problem.serving.splits, Some(Splits::Exactly(2..))) => {
            return Err(Unsupported::Feature { got: "splits", have: "keys that are not split" });
        }
        (Family::Prompt | Family::Short, _) if problem.mask.reach().0.is_some() => {
            return Err(Unsupported::Feature { got: "a window with a left edge", have: "masks without one" });
        }
        (Family::Prompt, _) => {
            if let Some(got) = problem.serving.beyond_packed() {
                return Err(Unsupported::Feature { got, have: "packed sequences alone" });
            }
        }
        (Family::Short, _) if problem.shape.seqlen_k > u64::from(launch.bn) => {
            return Err(Unsupported::Feature { got: "sequences of several blocks of keys", have: "one block of keys" });
        }
        _ => {}
    }
    for (argument, got, have) in
        [("head_dim", problem.shape.head_dim, launch.d), ("head_dim_v", problem.shape.head_dim_v, launch.dv)]
    {
        if got > u64::from(have) {
            return Err(Unsupported::HeadDim { argument, got, have });
        }
    }
    let need = launch.shared;
    if need > device.smem_limit {
        return Err(Unsupported::SharedMemory { need, limit: device.smem_limit });
    }
    Ok(())
}

/// Least wins, the first difference decides: no work on padded head dimensions; less time for all tiles; larger tiles.
fn cost(kernel: &Kernel, problem: &Problem, device: &DeviceInfo) -> (u32, u64, u32) {
    let launch = &kernel.launch;
    let time = match &kernel.plan {
        AnyPlan::Sm90(plan) => hopper_time(kernel, plan, problem, device),
        _ => {
            let waves = tiles(kernel, problem).div_ceil(u64::from(device.sm_count.max(1)));
            waves.saturating_mul(tile_time(kernel))
        }
    };
    (launch.d + launch.dv, time, u32::MAX - launch.bm)
}

/// What is lost where a launch does not overlap with what comes before it, in nanoseconds.
const OVERLAP: u64 = 1000;

/// Tiles of a problem. Saturates: a plan for more than 2^31 is refused.
fn tiles(kernel: &Kernel, problem: &Problem) -> u64 {
    let lines = problem.shape.heads.saturating_mul(problem.shape.batch) / u64::from(pack(kernel, problem));
    m_blocks(kernel, problem).saturating_mul(lines)
}

/// Nanoseconds that a Hopper kernel is expected to take, by those that its tiles and key blocks were measured to take.
///
/// Tiles of equal length go in rounds. Under a causal mask they are dealt so that every block has as much work, but none ends before
/// the longest tile. Where several blocks share a multiprocessor, the longest tile is the last one's, which has half of the others'
/// share besides its own, and launches do not overlap.
fn hopper_time(kernel: &Kernel, plan: &HopperPlan, problem: &Problem, device: &DeviceInfo) -> u64 {
    let Cost { tile, block } = plan.cost;
    let time = |blocks: u64| u64::from(tile) + blocks.saturating_mul(u64::from(block));
    let (tiles, slots) = (tiles(kernel, problem), u64::from(device.sm_count.max(1)) * u64::from(plan.per_sm));
    if !kernel.causal {
        return tiles.div_ceil(slots).saturating_mul(time(problem.shape.seqlen_k.div_ceil(u64::from(plan.bn))));
    }
    let lengths = Lengths { q: problem.shape.seqlen_q as u32, k: problem.shape.seqlen_k as u32 };
    let blocks = |m_block: u64| u64::from(Causal.blocks(lengths, m_block as u32 * plan.bm, plan.bm, plan.bn));
    let (shortest, longest) = (blocks(0), blocks(m_blocks(kernel, problem) - 1));
    let share = tiles.saturating_mul(time(shortest) + time(longest)) / (2 * slots);
    let alone = time(longest) * u64::from(plan.per_sm + 1) / u64::from(2 * plan.per_sm);
    share.max(alone) + if plan.per_sm > 1 { OVERLAP } else { 0 }
}

/// What a tile takes, in units that only compare the kernels of one pair of head dimensions.
///
/// Blackwell's tile of two times 128 rows hides the softmax of one half under the other half's multiplies. Half a tile has only its
/// own next block for that, so that it is taken to last three quarters as long, an estimate that no measurement supports yet: it
/// pays where the other half would be empty, or where tiles are fewer than multiprocessors.
fn tile_time(kernel: &Kernel) -> u64 {
    match kernel.plan {
        AnyPlan::Sm100(Plan { tiles: 1, .. }) => 192,
        _ => u64::from(kernel.launch.bm),
    }
}

/// The best kernel for a problem whose sizes have been checked.
pub(crate) fn choose(problem: &Problem, device: &DeviceInfo) -> Result<&'static Kernel, Error> {
    let best = KERNELS
        .iter()
        .filter(|kernel| (kernel.family == Family::Dense) == problem.is_dense())
        .filter(|kernel| eligible(kernel, problem, device).is_ok())
        .min_by_key(|kernel| {
            if problem.is_dense() { cost(kernel, problem, device) } else { serving::cost(kernel, problem, device) }
        });
    best.ok_or_else(|| refusal(problem, device))
}

/// The kernel of a name, when it can compute the problem.
pub(crate) fn forced(name: &str, problem: &Problem, device: &DeviceInfo) -> Result<&'static Kernel, Error> {
    let kernel = KERNELS.iter().find(|kernel| kernel.name == name).ok_or_else(|| Error::UnknownKernel {
        name: name.to_owned(),
        allowed: KERNELS.iter().map(|kernel| kernel.name).collect::<Vec<_>>().join(", "),
    })?;
    eligible(kernel, problem, device).map_err(|reason| Error::Unsupported { kernel: kernel.name, reason })?;
    Ok(kernel)
}

/// Why no kernel fits: the device, or else the reason of the kernel that came furthest through the checks.
fn refusal(problem: &Problem, device: &DeviceInfo) -> Error {
    let reasons = KERNELS.iter().filter_map(|k| Some((k.name, eligible(k, problem, device).err()?)));
    let furthest = reasons.max_by_key(|(_, reason)| match reason {
        Unsupported::Architecture { .. } => 0,
        Unsupported::DType { .. } => 1,
        Unsupported::Feature { .. } => 2,
        Unsupported::Mask { .. } => 3,
        Unsupported::HeadDim { .. } => 4,
        Unsupported::SharedMemory { .. } => 5,
    });
    match furthest {
        Some((kernel, reason)) if !matches!(reason, Unsupported::Architecture { .. }) => {
            Error::Unsupported { kernel, reason }
        }
        _ => wrong_device(device),
    }
}

/// What is said of a device without kernels.
pub(crate) fn wrong_device(device: &DeviceInfo) -> Error {
    let have: BTreeSet<_> = KERNELS.iter().map(|k| (k.arch.compute_capability(), k.arch.name())).collect();
    let allowed: Vec<_> = have.iter().map(|((major, minor), name)| format!("{major}.{minor} ({name})")).collect();
    Error::WrongDevice {
        device: device.name.clone(),
        compute_capability: device.compute_capability,
        allowed: allowed.join(", "),
    }
}

/// Key/value heads of one sequence whose K and V fit into the L2 cache together, at least one.
pub(crate) fn kv_heads_in_l2(problem: &Problem, device: &DeviceInfo) -> u64 {
    let shape = &problem.shape;
    let bytes = u64::from(DType::bytes(problem.dtype));
    let kv_head = shape.seqlen_k * (shape.head_dim + shape.head_dim_v) * bytes;
    (l2_budget(device) / kv_head).max(1)
}

/// Query heads whose K and V fit into the L2 cache together: a power of two of key/value heads, times the query heads that
/// share each, and no more heads than there are. Counted in packs of heads.
fn heads_in_l2(problem: &Problem, pack: u32, device: &DeviceInfo) -> u32 {
    let shape = &problem.shape;
    let power_of_two = 1u64 << kv_heads_in_l2(problem, device).ilog2();
    let heads = power_of_two.saturating_mul(shape.heads / shape.kv_heads).min(shape.heads.saturating_mul(shape.batch));
    u32::try_from(heads / u64::from(pack)).unwrap_or(u32::MAX)
}

/// Heads of a section of the kernel's walk: those that share the L2 cache, and where tiles are dealt in pairs at least as many as
/// give every multiprocessor a tile. Twice as many are then dealt a tile at a time, so that pairs never leave one without work.
pub(crate) fn section(kernel: &Kernel, problem: &Problem, device: &DeviceInfo) -> u32 {
    let pack = pack(kernel, problem);
    let shared = heads_in_l2(problem, pack, device);
    if kernel.launch.schedule != Schedule::Paired {
        return shared;
    }
    let lines = problem.shape.heads / u64::from(pack) * problem.shape.batch;
    let filling = u64::from(device.sm_count).div_ceil(m_blocks(kernel, problem)).min(lines);
    shared.max(u32::try_from(filling).unwrap_or(u32::MAX))
}

/// Bytes of L2 that K and V may fill. The rest is for Q, O and the other half's copies: a Hopper L2 is two halves, and a
/// line may be held in both.
fn l2_budget(device: &DeviceInfo) -> u64 {
    u64::from(device.l2_bytes) / 8 * 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DriverVersion;
    use crate::problem::Shape;

    fn h100() -> DeviceInfo {
        DeviceInfo {
            ordinal: 0,
            name: "H100".to_owned(),
            compute_capability: (9, 0),
            sm_count: 132,
            l2_bytes: 50 << 20,
            smem_limit: 227 * 1024,
            driver_version: DriverVersion(13000),
        }
    }

    fn blackwell(minor: u32) -> DeviceInfo {
        let name = "Blackwell".to_owned();
        DeviceInfo { name, compute_capability: (10, minor), sm_count: 148, l2_bytes: 126 << 20, ..h100() }
    }

    fn problem(dtype: DType, head_dim: u64, head_dim_v: u64, mask: Mask) -> Problem {
        let shape = Shape { batch: 2, seqlen_q: 1000, seqlen_k: 1000, heads: 16, kv_heads: 4, head_dim, head_dim_v };
        Problem::new(dtype, shape).mask(mask)
    }

    fn chosen(dtype: DType, d: u64, dv: u64, mask: Mask) -> &'static str {
        choose(&problem(dtype, d, dv, mask), &h100()).expect("a kernel fits").name
    }

    fn forced_kernel(name: &str) -> &'static Kernel {
        KERNELS.iter().find(|kernel| kernel.name == name).expect("a kernel's name")
    }

    #[test]
    fn the_smallest_instantiation_that_holds_both_head_dims_wins() {
        assert_eq!(chosen(DType::Bf16, 8, 8, Mask::None), "fwd_sm90_bf16_d32");
        assert_eq!(chosen(DType::F16, 64, 64, Mask::Causal), "fwd_sm90_f16_d64_causal");
        assert_eq!(chosen(DType::Bf16, 72, 72, Mask::None), "fwd_sm90_bf16_d96");
        assert_eq!(chosen(DType::Bf16, 128, 128, Mask::Causal), "fwd_sm90_bf16_d128_causal");
        assert_eq!(chosen(DType::Bf16, 192, 128, Mask::None), "fwd_sm90_bf16_d192_128");
        assert_eq!(chosen(DType::Bf16, 192, 136, Mask::None), "fwd_sm90_bf16_d192");
        assert_eq!(chosen(DType::Bf16, 64, 256, Mask::None), "fwd_sm90_bf16_d256");
    }

    #[test]
    fn every_head_dim_has_a_kernel() {
        for mask in [Mask::None, Mask::Causal] {
            for dtype in [DType::Bf16, DType::F16] {
                for (d, dv) in (8..=256).step_by(8).flat_map(|d| (8..=256).step_by(8).map(move |dv| (d, dv))) {
                    assert!(choose(&problem(dtype, d, dv, mask), &h100()).is_ok(), "{dtype:?} {mask:?} {d} {dv}");
                }
            }
        }
    }

    #[test]
    fn blackwell_has_a_kernel_for_every_head_dim_too() {
        let on = |minor, d, dv, mask| choose(&problem(DType::Bf16, d, dv, mask), &blackwell(minor)).map(|k| k.name);
        for (d, dv) in (8..=256).step_by(8).flat_map(|d| (8..=256).step_by(8).map(move |dv| (d, dv))) {
            for (minor, prefix) in [(0, "fwd_sm100_bf16"), (3, "fwd_sm103_bf16")] {
                let name = on(minor, d, dv, Mask::Causal).expect("a kernel fits");
                assert!(name.starts_with(prefix), "{d} {dv}: {name}");
            }
        }
        assert_eq!(on(0, 8, 8, Mask::None), Ok("fwd_sm100_bf16_d64"));
        assert_eq!(on(3, 160, 96, Mask::None), Ok("fwd_sm103_bf16_d192_128"));
        assert_eq!(on(0, 136, 136, Mask::Causal), Ok("fwd_sm100_bf16_d256_causal"));
        assert_eq!(on(0, 32, 192, Mask::None), Ok("fwd_sm100_bf16_d256"));
    }

    #[test]
    fn few_rows_take_tiles_of_128_and_many_those_of_256() {
        let chosen = |batch, seqlen_q, heads, kv_heads| {
            let shape = Shape { batch, seqlen_q, heads, kv_heads, ..problem(DType::Bf16, 128, 128, Mask::None).shape };
            choose(&Problem::new(DType::Bf16, shape), &blackwell(0)).expect("a kernel fits").name
        };
        assert_eq!(chosen(64, 128, 16, 16), "fwd_sm100_bf16_d128_short");
        assert_eq!(chosen(64, 129, 16, 16), "fwd_sm100_bf16_d128");
        // Four heads of a group share a tile.
        assert_eq!(chosen(64, 32, 16, 4), "fwd_sm100_bf16_d128_short");
        assert_eq!(chosen(64, 33, 16, 4), "fwd_sm100_bf16_d128");
        assert_eq!(chosen(4, 4096, 16, 16), "fwd_sm100_bf16_d128");
        // 8 tiles of 256 rows would leave most of 148 multiprocessors idle; 16 of 128 rows fewer of them.
        assert_eq!(chosen(1, 2048, 1, 1), "fwd_sm100_bf16_d128_short");
    }

    #[test]
    fn hoppers_kernels_are_chosen_by_length_and_by_the_tiles_that_there_are() {
        let chosen = |batch, heads, seqlen, d, mask| {
            let shape =
                Shape { batch, seqlen_q: seqlen, seqlen_k: seqlen, heads, kv_heads: heads, head_dim: d, head_dim_v: d };
            let name = choose(&Problem::new(DType::Bf16, shape).mask(mask), &h100()).expect("a kernel fits").name;
            name.strip_prefix("fwd_sm90_bf16_").expect("a Hopper kernel")
        };
        // One sequence: tiles of 64 rows are as many as multiprocessors, and later twice as many.
        for seqlen in [1, 128, 256, 512, 1024] {
            assert_eq!(chosen(1, 16, seqlen, 128, Mask::Causal), "d128_causal_small", "{seqlen}");
        }
        assert_eq!(chosen(1, 16, 2048, 128, Mask::Causal), "d128_causal");
        assert_eq!(chosen(1, 16, 256, 128, Mask::None), "d128_small");
        assert_eq!(chosen(1, 16, 2048, 128, Mask::None), "d128");
        assert_eq!(chosen(1, 32, 256, 64, Mask::Causal), "d64_causal_small");
        assert_eq!(chosen(1, 32, 256, 64, Mask::None), "d64_small");
        // Many sequences.
        for seqlen in [256, 1024] {
            assert_eq!(chosen(16_384 / seqlen, 32, seqlen, 64, Mask::Causal), "d64_causal_short", "{seqlen}");
        }
        for seqlen in [256, 512, 1024] {
            assert_eq!(chosen(16_384 / seqlen, 16, seqlen, 128, Mask::Causal), "d128_causal", "{seqlen}");
        }
        for seqlen in [2048, 4096, 16_384] {
            assert_eq!(chosen(16_384 / seqlen, 32, seqlen, 64, Mask::Causal), "d64_causal", "{seqlen}");
        }
        assert_eq!(chosen(16, 32, 1024, 64, Mask::None), "d64");
        // Rows without keys and lengths at the limit are no trouble.
        let extreme = |seqlen_q, seqlen_k| {
            let shape = Shape { seqlen_q, seqlen_k, ..problem(DType::Bf16, 64, 64, Mask::None).shape };
            [Mask::None, Mask::Causal].map(|mask| choose(&Problem::new(DType::Bf16, shape).mask(mask), &h100()).is_ok())
        };
        for (q, k) in [(1, 1), (MAX_SEQLEN, 1), (1, MAX_SEQLEN), (MAX_SEQLEN, MAX_SEQLEN)] {
            assert_eq!(extreme(q, k), [true, true], "{q} {k}");
        }
    }

    #[test]
    fn heads_are_packed_as_long_as_their_rows_can_be_counted() {
        let kernel = KERNELS.iter().find(|k| k.name == "fwd_sm100_bf16_d128").expect("there");
        let pack_of = |seqlen_q, heads| {
            let shape = Shape { seqlen_q, heads, kv_heads: 1, ..problem(DType::Bf16, 128, 128, Mask::None).shape };
            pack(kernel, &Problem::new(DType::Bf16, shape))
        };
        for (group, packed) in [(1, 1), (2, 2), (3, 1), (6, 2), (7, 1), (8, 8), (12, 4), (128, 128), (256, 128)] {
            assert_eq!(pack_of(1000, group), packed, "{group} heads");
        }
        assert_eq!((pack_of(1 << 25, 64), pack_of(1 << 25, 32), pack_of((1 << 31) - 1024, 8)), (32, 32, 1));
    }

    #[test]
    fn a_device_without_kernels_is_named() {
        let ampere = DeviceInfo { name: "A100".to_owned(), compute_capability: (8, 0), ..h100() };
        let found = choose(&problem(DType::Bf16, 64, 64, Mask::None), &ampere).expect_err("no kernel");
        let Error::WrongDevice { device, compute_capability, allowed } = found else { panic!("{found}") };
        assert_eq!((device.as_str(), compute_capability), ("A100", (8, 0)));
        assert_eq!(allowed, "9.0 (sm_90a), 10.0 (sm_100a), 10.3 (sm_103a)");
    }

    #[test]
    fn a_device_with_little_shared_memory_is_told_so() {
        let small = DeviceInfo { smem_limit: 1000, ..h100() };
        let found = choose(&problem(DType::Bf16, 64, 64, Mask::None), &small).expect_err("no kernel");
        assert!(
            matches!(found, Error::Unsupported { reason: Unsupported::SharedMemory { limit: 1000, .. }, .. }),
            "{found}"
        );
    }

    #[test]
    fn a_forced_kernel_is_taken_or_its_reason_given() {
        let p = problem(DType::Bf16, 64, 64, Mask::None);
        assert_eq!(forced("fwd_sm90_bf16_d128", &p, &h100()).map(|k| k.name), Ok("fwd_sm90_bf16_d128"));
        let reason = |name| match forced(name, &p, &h100()) {
            Err(Error::Unsupported { kernel, reason }) if kernel == name => reason,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(reason("fwd_sm90_bf16_d32"), Unsupported::HeadDim { argument: "head_dim", got: 64, have: 32 });
        assert!(matches!(reason("fwd_sm90_f16_d64"), Unsupported::DType { got: "bf16", have: "f16" }));
        assert!(matches!(reason("fwd_sm90_bf16_d64_causal"), Unsupported::Mask { .. }));
        let unknown = forced("fwd_sm90_bf16_d65", &p, &h100());
        assert!(matches!(unknown, Err(Error::UnknownKernel { name, .. }) if name == "fwd_sm90_bf16_d65"));
    }

    #[test]
    fn sections_give_every_multiprocessor_a_tile_where_tiles_come_in_pairs() {
        let of = |name, seqlen_q, heads| {
            let shape = Shape {
                seqlen_q,
                seqlen_k: 60_000,
                heads,
                kv_heads: heads,
                batch: 1,
                ..problem(DType::Bf16, 256, 256, Mask::Causal).shape
            };
            section(forced_kernel(name), &Problem::new(DType::Bf16, shape).mask(Mask::Causal), &h100())
        };
        // 61 MB of K and V a head: none shares L2.
        assert_eq!(of("fwd_sm90_bf16_d256_causal", 60_000, 16), 1);
        assert_eq!(of("fwd_sm90_bf16_d256_causal", 1000, 100), 17);
        assert_eq!(of("fwd_sm90_bf16_d256_causal", 1, 100), 100);
        assert_eq!(of("fwd_sm90_bf16_d256_causal", 1, 1000), 132);
        assert_eq!(of("fwd_sm90_bf16_d256", 1, 1000), 1, "not in pairs");
    }

    #[test]
    fn heads_in_l2_is_bounded_by_the_cache_and_by_the_heads() {
        // 1000 keys of 64 + 64 bf16 are 256,000 bytes; 128 of them fit 31.25 MiB, but there are only 32 heads.
        let p = problem(DType::Bf16, 64, 64, Mask::Causal);
        assert_eq!(heads_in_l2(&p, 1, &h100()), 32);
        // 16,000 keys: 4,096,000 bytes, 8 key/value heads, each shared by 4 query heads.
        let long = |heads, kv_heads, seqlen_k| {
            let shape = Shape { heads, kv_heads, seqlen_k, batch: 16, ..p.shape };
            heads_in_l2(&Problem::new(DType::Bf16, shape), 1, &h100())
        };
        assert_eq!(long(16, 4, 16_000), 32);
        assert_eq!(long(16, 16, 16_000), 8);
        assert_eq!(long(16, 16, 10_000_000), 1);
        assert_eq!(long(16, 1, 10_000_000), 16);
        assert_eq!(heads_in_l2(&p, 4, &h100()), 8, "packs of four heads");
    }
}
