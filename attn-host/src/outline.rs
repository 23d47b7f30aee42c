//! What a plan would be on a device that need not be there: for programs that show, compare or budget plans.

use attn_kernel::forward::Kernel;

use crate::blueprint::{Blueprint, Work};
use crate::device::DeviceInfo;
use crate::error::Error;
use crate::plan::Spans;
use crate::problem::Problem;
use crate::select;

/// The figures of a plan. Nothing is loaded for it and no driver is needed.
///
/// ```
/// use attn_host::{Arch, DType, DeviceInfo, Mask, Outline, Problem, Shape};
///
/// let shape = Shape { batch: 4, seqlen_q: 4096, seqlen_k: 4096, heads: 32, kv_heads: 8, head_dim: 128, head_dim_v: 128 };
/// let problem = Problem::new(DType::Bf16, shape).mask(Mask::Causal);
/// let outline = Outline::of(&problem, &DeviceInfo::nominal(Arch::Sm90a))?;
/// assert_eq!(outline.kernel.name, "fwd_sm90_bf16_d128_causal");
/// assert_eq!((outline.grid, outline.workspace_bytes), (132, 0));
/// # Ok::<(), attn_host::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outline {
    /// The kernel that is chosen.
    pub kernel: &'static Kernel,
    /// Kernels that a launch queues around it: what lists the tiles of packed queries, what combines splits.
    pub companions: Vec<&'static str>,
    /// Tiles, or units of work; at most so many where sequences have lengths of their own.
    pub tiles: u32,
    /// Blocks of the attention kernel's launch.
    pub grid: u32,
    /// Query heads that share a tile's rows.
    pub packed_heads: u32,
    /// Parts that the keys are split into: 1 where they are not.
    pub splits: u32,
    /// Bytes of device memory that a launch needs beside its tensors.
    pub workspace_bytes: u64,
    /// Elements that each tensor's buffer must hold at least.
    pub spans: Spans,
}

impl Outline {
    /// What [`Plan::new`](crate::Plan::new) would make of the problem on such a device.
    ///
    /// # Errors
    /// Those of [`supports`](crate::supports).
    pub fn of(problem: &Problem, device: &DeviceInfo) -> Result<Self, Error> {
        Ok(Self::drawn(problem, device, &Blueprint::of(problem, device, select::choose)?))
    }

    /// The same with the kernel of a name, as [`Plan::with_kernel`](crate::Plan::with_kernel).
    ///
    /// # Errors
    /// [`Error::UnknownKernel`] and [`Error::Unsupported`] when there is no such kernel or it cannot compute the problem; otherwise
    /// those of [`of`](Self::of).
    pub fn with_kernel(problem: &Problem, device: &DeviceInfo, name: &str) -> Result<Self, Error> {
        let forced = |problem: &Problem, device: &DeviceInfo| select::forced(name, problem, device);
        Ok(Self::drawn(problem, device, &Blueprint::of(problem, device, forced)?))
    }

    fn drawn(problem: &Problem, device: &DeviceInfo, blueprint: &Blueprint) -> Self {
        let (packed_heads, splits, workspace_bytes) = match &blueprint.work {
            Work::Dense(_) => (select::pack(blueprint.kernel, problem), 1, 0),
            Work::Serve(serve) => (serve.tiles.cut.pack, serve.tiles.splits, serve.workspace.bytes),
        };
        Outline {
            kernel: blueprint.kernel,
            companions: [blueprint.schedule(), blueprint.combine()].into_iter().flatten().map(|k| k.name).collect(),
            tiles: blueprint.tiles(),
            grid: blueprint.blocks(device.sm_count),
            packed_heads,
            splits,
            workspace_bytes,
            spans: Spans::of(&blueprint.layouts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arch, DType, PagedKv, Plan, Shape, Splits, fake};

    fn problem() -> Problem {
        let shape =
            Shape { batch: 3, seqlen_q: 200, seqlen_k: 500, heads: 8, kv_heads: 2, head_dim: 64, head_dim_v: 64 };
        Problem::new(DType::Bf16, shape)
    }

    #[test]
    fn an_outline_is_the_plans() {
        fake::reset();
        let device = fake::device();
        let pages = PagedKv { page_size: 64, pages: 30, table_width: 8 };
        for problem in [problem(), problem().packed_q(400), problem().paged(pages).splits(Splits::Exactly(3))] {
            let plan = Plan::with_loader(&device, &problem, fake::code, select::choose).expect("valid");
            let outline = Outline::of(&problem, device.info()).expect("valid");
            assert_eq!((outline.kernel.name, outline.grid), (plan.kernel().name, plan.grid().0));
            assert_eq!((outline.splits, outline.workspace_bytes), (plan.splits(), plan.workspace_bytes()));
            assert_eq!(outline.spans, plan.spans());
        }
    }

    #[test]
    fn companions_are_those_that_a_launch_queues() {
        let device = DeviceInfo::nominal(Arch::Sm90a);
        let companions = |problem: Problem| Outline::of(&problem, &device).expect("valid").companions;
        assert_eq!(companions(problem()), [""; 0]);
        assert_eq!(companions(problem().packed_q(400)), ["schedule"]);
        assert_eq!(companions(problem().splits(Splits::Exactly(2))), ["combine_bf16"]);
    }

    #[test]
    fn every_architecture_has_a_nominal_device_with_kernels() {
        for arch in Arch::ALL {
            let device = DeviceInfo::nominal(arch);
            assert_eq!(device.compute_capability, arch.compute_capability());
            let outline = Outline::of(&problem(), &device).expect("a kernel fits");
            assert_eq!(outline.kernel.arch, arch);
            let name = outline.kernel.name;
            assert_eq!(Outline::with_kernel(&problem(), &device, name).expect("it does").grid, outline.grid);
        }
        let found = Outline::with_kernel(&problem(), &DeviceInfo::nominal(Arch::Sm90a), "fwd");
        assert!(matches!(found, Err(Error::UnknownKernel { .. })), "{found:?}");
    }
}
