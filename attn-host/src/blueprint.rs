//! All that is decided of a problem for a device, before anything is loaded: the kernel, its tensor maps and parameters.

use std::f32::consts::LOG2_E;
use std::ptr;

use attn_kernel::attn::divide::Divisor;
use attn_kernel::attn::walk::Grid;
use attn_kernel::companion::EntryPoint;
use attn_kernel::forward::{DType, Family, ForwardParams, Kernel, Launch, combine, schedule};

use crate::device::DeviceInfo;
use crate::error::Error;
use crate::layout::Layouts;
use crate::problem::Problem;
use crate::select;
use crate::serve::Serve;
use crate::tensor_map::{Maps, Tiled};

/// A checked problem, its kernel and what that is launched with.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    pub(crate) kernel: &'static Kernel,
    pub(crate) layouts: Layouts,
    pub(crate) work: Work,
}

/// What a kernel is launched with, by its family.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Dense(Box<Dense>),
    Serve(Box<Serve>),
}

impl Work {
    /// The tensor maps, without addresses.
    pub(crate) fn maps(&self) -> &Maps {
        match self {
            Work::Dense(dense) => &dense.maps,
            Work::Serve(serve) => &serve.maps,
        }
    }
}

/// What a dense kernel is launched with.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    pub(crate) maps: Maps,
    /// Everything but the address of LSE.
    pub(crate) params: ForwardParams,
}

/// Whether a plan for the problem can be made on such a device, which need not be there.
///
/// ```
/// use attn_host::{Arch, DType, DeviceInfo, Problem, Shape, supports};
///
/// let shape = Shape { batch: 1, seqlen_q: 64, seqlen_k: 64, heads: 6, kv_heads: 4, head_dim: 64, head_dim_v: 64 };
/// let refused = supports(&Problem::new(DType::F16, shape), &DeviceInfo::nominal(Arch::Sm90a)).expect_err("6 is no multiple of 4");
/// assert_eq!(refused.to_string(), "heads is 6, which is not a multiple of kv_heads = 4");
/// ```
///
/// # Errors
/// Those of [`Plan::new`](crate::Plan::new) that are about the problem: a size or combination that is not allowed, or what the nearest kernel
/// lacks.
pub fn supports(problem: &Problem, device: &DeviceInfo) -> Result<(), Error> {
    Blueprint::of(problem, device, select::choose).map(|_| ())
}

impl Blueprint {
    pub(crate) fn of(
        problem: &Problem,
        device: &DeviceInfo,
        choose: impl FnOnce(&Problem, &DeviceInfo) -> Result<&'static Kernel, Error>,
    ) -> Result<Self, Error> {
        let layouts = Layouts::of(problem)?;
        let kernel = choose(problem, device)?;
        let work = match kernel.family {
            Family::Dense => Work::Dense(Box::new(Dense::of(kernel, problem, &layouts, device)?)),
            Family::Serve { .. } | Family::Prompt | Family::Decode | Family::Short => {
                Work::Serve(Box::new(Serve::of(kernel, problem, &layouts, device)?))
            }
        };
        Ok(Blueprint { kernel, layouts, work })
    }

    /// Tiles, or units of work, at most.
    pub(crate) fn tiles(&self) -> u32 {
        match &self.work {
            Work::Dense(dense) => dense.params.grid.tiles,
            Work::Serve(serve) => serve.tiles.units,
        }
    }

    /// Blocks of the attention kernel's launch.
    pub(crate) fn blocks(&self, multiprocessors: u32) -> u32 {
        match &self.work {
            Work::Serve(serve) if serve.uneven => serve.tiles.units,
            _ => self.kernel.launch.blocks(self.tiles(), multiprocessors),
        }
    }

    /// The kernel that lists the tiles, where there is a list.
    pub(crate) fn schedule(&self) -> Option<EntryPoint> {
        let Work::Serve(serve) = &self.work else { return None };
        serve.workspace.list.map(|_| schedule::SCHEDULE.entry_point(self.kernel.arch))
    }

    /// The kernel that combines splits, where there are several.
    pub(crate) fn combine(&self) -> Option<EntryPoint> {
        let Work::Serve(serve) = &self.work else { return None };
        let companion = match self.kernel.dtype {
            DType::F16 => combine::COMBINE_F16,
            _ => combine::COMBINE_BF16,
        };
        serve.workspace.partial.map(|_| companion.entry_point(self.kernel.arch))
    }
}

impl Dense {
    fn of(kernel: &Kernel, problem: &Problem, layouts: &Layouts, device: &DeviceInfo) -> Result<Self, Error> {
        Ok(Dense { maps: maps(kernel, problem, layouts)?, params: params(kernel, problem, layouts, device)? })
    }
}

/// The tensor maps of a dense kernel.
pub(crate) fn maps(kernel: &Kernel, problem: &Problem, layouts: &Layouts) -> Result<Maps, Error> {
    let Launch { q_box, k_box, v_box, o_box, .. } = kernel.launch;
    let queries = |argument, layout, tile| {
        if kernel.launch.max_pack == 1 {
            Tiled::new(argument, problem.dtype, layout, tile)
        } else {
            Tiled::packed(argument, problem.dtype, layout, tile, select::pack(kernel, problem))
        }
    };
    Ok(Maps {
        q: queries("q", &layouts.q, q_box)?,
        k: Tiled::new("k", problem.dtype, &layouts.k, k_box)?,
        v: Tiled::new("v", problem.dtype, &layouts.v, v_box)?,
        o: queries("o", &layouts.o, o_box)?,
    })
}

/// The kernel's scalar arguments. The sizes have been checked to fit, all but the count of tiles.
fn params(kernel: &Kernel, problem: &Problem, layouts: &Layouts, device: &DeviceInfo) -> Result<ForwardParams, Error> {
    let shape = &problem.shape;
    let too_many = Error::Overflow {
        argument: "batch * heads * query tiles",
        what: "the count of tiles",
        allowed: "at most 2^31 - 1 tiles",
    };
    let (m_blocks, pack) = (select::m_blocks(kernel, problem), select::pack(kernel, problem));
    let heads = shape.heads / u64::from(pack);
    let tiles = m_blocks
        .checked_mul(heads)
        .and_then(|tiles| tiles.checked_mul(shape.batch))
        .filter(|&tiles| tiles <= i32::MAX as u64);
    if tiles.is_none() {
        return Err(too_many);
    }
    let section = select::section(kernel, problem, device);
    Ok(ForwardParams {
        lse: ptr::null_mut(),
        lse_batch_stride: layouts.lse.strides[1],
        lse_head_stride: layouts.lse.strides[0],
        seqlen_q: shape.seqlen_q as u32,
        seqlen_k: shape.seqlen_k as u32,
        group: Divisor::new((heads / shape.kv_heads) as u32),
        grid: Grid::new(m_blocks as u32, heads as u32, shape.batch as u32, section),
        scale_log2: problem.scale * LOG2_E,
        pack: pack.ilog2(),
    })
}
