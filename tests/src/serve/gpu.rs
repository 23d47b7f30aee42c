//! Serving problems on a GPU or on the simulator in its place.

use attn_host::cust::memory::{CopyDestination, DeviceBuffer, mem_get_info};
use attn_host::{
    Alibi, Arrays, Descales, DevicePtr, Float8, Mask, PagedKv, Plan, Problem, Shape, Splits, Strides, Tensors,
};

use crate::case::Case;
use crate::gpu::{Gpu, GpuError, LSE_POISON, Output, RESERVE, address, allocate, download, upload, upload_arrays};
use crate::layout::View;
use crate::oracle::Window;
use crate::precision::POISON;
use crate::serve::case::{self, Narrow, ServeCase, Slopes};
use crate::serve::inputs::ServeInputs;
use crate::serve::layout::{Rooms, ServePlacement};

/// NaN of 8 bits.
const FLOAT8_POISON: u16 = 0x7F;
/// What the workspace holds before a launch, and what must still stand around it afterwards.
const WORKSPACE_POISON: u8 = 0xFF;
/// Bytes of that before and after the workspace; a multiple of its alignment.
const WORKSPACE_GUARD: usize = 1024;

/// A serving problem on the device, ready to launch.
pub struct ServeLoaded<'a> {
    gpu: &'a Gpu,
    /// The plan that its launches use.
    pub plan: Plan,
    place: ServePlacement,
    tensors: Tensors,
    o: DeviceBuffer<u16>,
    lse: Option<DeviceBuffer<u32>>,
    /// Guards included; empty when none is needed.
    workspace: DeviceBuffer<u8>,
    _inputs: Vec<DeviceBuffer<u16>>,
    _arrays: Vec<DeviceBuffer<u32>>,
}

impl Gpu {
    /// Plans a serving problem, with the kernel of a name where one is given, and uploads its inputs.
    ///
    /// # Errors
    /// What the launch side refuses, and failures of the driver.
    pub fn load_serving(
        &self,
        case: &ServeCase,
        inputs: &ServeInputs,
        kernel: Option<&str>,
    ) -> Result<ServeLoaded<'_>, GpuError> {
        self.announce(format!("--case '{case}'"));
        let place = ServePlacement::of(case);
        let problem = problem(case, &place);
        let plan = match kernel {
            Some(name) => Plan::with_kernel(self.device(), &problem, name)?,
            None => Plan::new(self.device(), &problem)?,
        };
        let workspace_bytes = plan.workspace_bytes() as usize;
        let tensors = place.inputs.iter().chain([&place.o.1]).map(|a| 2 * a.device_len()).sum::<usize>();
        let need = tensors + 4 * place.lse.1.device_len() + workspace_bytes;
        let free = mem_get_info()?.0;
        if free < need + RESERVE {
            return Err(GpuError::TooLarge { need, free });
        }
        let buffers = upload_inputs(case, inputs, &place)?;
        let o = allocate(&place.o.1)?;
        let lse = case.base.lse.then(|| allocate(&place.lse.1)).transpose()?;
        let guards = if workspace_bytes > 0 { 2 * WORKSPACE_GUARD } else { 0 };
        let workspace = DeviceBuffer::from_slice(&vec![WORKSPACE_POISON; workspace_bytes + guards])?;
        let narrow = narrow_arenas(case, &place);
        let [q, k, v] = place.qkv.map(|(arena, view)| {
            if narrow[arena] {
                DevicePtr(address(&buffers[arena], 0).0 + view.offset as u64)
            } else {
                address(&buffers[arena], view.offset)
            }
        });
        let tensors = Tensors {
            lse: lse.as_ref().map(|lse| address(lse, place.lse.0.offset)),
            workspace: (workspace_bytes > 0).then(|| address(&workspace, WORKSPACE_GUARD)),
            ..Tensors::new(q, k, v, address(&o, place.o.0.offset))
        };
        let mut words = Vec::new();
        let tensors = tensors.with_arrays(upload_arrays(&arrays(case, inputs, &place), &mut words)?);
        Ok(ServeLoaded { gpu: self, plan, place, tensors, o, lse, workspace, _inputs: buffers, _arrays: words })
    }
}

impl ServeLoaded<'_> {
    /// Where the tensors lie.
    pub fn place(&self) -> &ServePlacement {
        &self.place
    }

    /// Poisons the outputs and the workspace, launches, waits and reads back.
    ///
    /// # Errors
    /// What the launch side refuses, and failures of the driver.
    pub fn run(&self) -> Result<Output, GpuError> {
        let (o_arena, lse_arena) = (&self.place.o.1, &self.place.lse.1);
        upload(&self.o, o_arena, &vec![POISON; o_arena.host_len()])?;
        if let Some(lse) = &self.lse {
            upload(lse, lse_arena, &vec![LSE_POISON; lse_arena.host_len()])?;
        }
        if !self.workspace.is_empty() {
            self.workspace.index(..).copy_from(&vec![WORKSPACE_POISON; self.workspace.len()])?;
        }
        // SAFETY: every buffer was allocated for the case's sizes and strides and lives in `self`, the index arrays name rows and pages
        // inside of them wherever a sequence has rows; the stream and the plan belong to the context that `gpu` keeps, and nothing else
        // uses the outputs until the wait below.
        unsafe { self.plan.launch(&self.tensors, self.gpu.raw_stream()) }?;
        self.gpu.wait()?;
        let o = download(&self.o, o_arena)?;
        let lse = self.lse.as_ref().map(|lse| download(lse, lse_arena)).transpose()?;
        Ok(Output { o, lse })
    }

    /// First byte beside the workspace that the last launch has written, counted from the guard's start.
    ///
    /// # Errors
    /// Failures of the driver.
    pub fn workspace_overwritten(&self) -> Result<Option<usize>, GpuError> {
        let mut bytes = vec![0; self.workspace.len()];
        self.workspace.copy_to(&mut bytes)?;
        let inside = WORKSPACE_GUARD..bytes.len().saturating_sub(WORKSPACE_GUARD);
        Ok(bytes.iter().enumerate().position(|(i, byte)| !inside.contains(&i) && *byte != WORKSPACE_POISON))
    }
}

/// The launch side's words for a case.
pub fn problem(case: &ServeCase, place: &ServePlacement) -> Problem {
    let Case { precision, batch, heads, kv_heads, seqlen_q, seqlen_k, head_dim, head_dim_v, causal, scale, .. } =
        case.base;
    let [batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v] =
        [batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v].map(|n| n as u64);
    let shape = Shape { batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v };
    let strides = |[batch, seq, head]: [i64; 3]| Strides { batch, seq, head };
    let [q, k, v] = place.qkv.map(|(arena, view)| strides(view.device_strides(&place.inputs[arena])));
    let [lse_batch, _, lse_head] = place.lse.0.device_strides(&place.lse.1);
    let mut problem = Problem::new(precision.dtype(), shape)
        .mask(mask(case.window, causal))
        .strides_q(q)
        .strides_k(k)
        .strides_v(v)
        .strides_o(strides(place.o.0.device_strides(&place.o.1)))
        .lse_strides(lse_batch, lse_head)
        .splits(match case.splits {
            case::Splits::Auto => Splits::Auto,
            case::Splits::Exactly(n) => Splits::Exactly(n as u32),
        });
    let rows = |view: &View| view.dims.seq as u64;
    if let Rooms::Packed(_) = place.queries {
        problem = problem.packed_q(rows(&place.qkv[0].1));
    }
    match &place.keys {
        Rooms::Dense => {}
        Rooms::Packed(_) => problem = problem.packed_k(rows(&place.qkv[1].1)),
        Rooms::Paged { table, page_size } => {
            let [page_size, pages, table_width] = [*page_size, table.pages, table.stride].map(|n| n as u64);
            problem = problem.paged(PagedKv { page_size, pages, table_width });
        }
    }
    let tell = |on: bool, problem: Problem, tell: fn(Problem) -> Problem| if on { tell(problem) } else { problem };
    problem = tell(case.used_q.is_some(), problem, Problem::seqused_q);
    problem = tell(case.used_k.is_some(), problem, Problem::seqused_k);
    problem = tell(case.sinks, problem, Problem::sinks);
    problem = match case.alibi {
        None => problem,
        Some(Slopes::PerHead) => problem.alibi(Alibi::PerHead),
        Some(Slopes::PerSequence) => problem.alibi(Alibi::PerSequenceAndHead),
    };
    problem = match case.float8 {
        None => problem,
        Some(Narrow::Keys) => problem.float8(Float8::Keys),
        Some(Narrow::All) => problem.float8(Float8::All),
    };
    problem = match case.factors {
        None => problem,
        Some(Slopes::PerHead) => problem.descales(Descales::PerHead),
        Some(Slopes::PerSequence) => problem.descales(Descales::PerSequenceAndHead),
    };
    problem = case.softcap.map_or(problem, |softcap| problem.softcap(softcap));
    scale.map_or(problem, |scale| problem.scale(scale))
}

fn mask(window: Option<Window>, causal: bool) -> Mask {
    match window {
        Some(Window { left, right }) => Mask::Window { left: left.map(|n| n as u64), right: right.map(|n| n as u64) },
        None if causal => Mask::Causal,
        None => Mask::None,
    }
}

/// The arrays beside Q, K and V that a case has.
fn arrays(case: &ServeCase, inputs: &ServeInputs, place: &ServePlacement) -> Arrays {
    let [q, k, v] = inputs.factors.each_ref().map(|factors| case.factors.map(|_| factors.clone()));
    Arrays {
        cu_seqlens_q: ServePlacement::cumulative(&place.queries),
        cu_seqlens_k: ServePlacement::cumulative(&place.keys),
        seqused_q: ServePlacement::in_use(case.used_q.as_ref()),
        seqused_k: ServePlacement::in_use(case.used_k.as_ref()),
        page_table: if let Rooms::Paged { table, .. } = &place.keys { Some(table.entries.clone()) } else { None },
        sinks: case.sinks.then(|| inputs.sinks.clone()),
        alibi_slopes: case.alibi.map(|_| inputs.slopes.clone()),
        q_descale: q.filter(|_| case.float8 == Some(Narrow::All)),
        k_descale: k,
        v_descale: v,
    }
}

/// Which arenas have tensors of 8 bits.
fn narrow_arenas(case: &ServeCase, place: &ServePlacement) -> Vec<bool> {
    let narrow = match case.float8 {
        None => [false; 3],
        Some(Narrow::Keys) => [false, true, true],
        Some(Narrow::All) => [true; 3],
    };
    let is = |arena| place.qkv.iter().zip(narrow).any(|((at, _), narrow)| *at == arena && narrow);
    (0..place.inputs.len()).map(is).collect()
}

/// The buffers of Q, K and V, poison wherever no row in use lies.
fn upload_inputs(
    case: &ServeCase,
    inputs: &ServeInputs,
    place: &ServePlacement,
) -> Result<Vec<DeviceBuffer<u16>>, GpuError> {
    let bits = |x| case.base.precision.to_bits(x);
    let narrow = narrow_arenas(case, place);
    let mut buffers = Vec::with_capacity(place.inputs.len());
    for (i, arena) in place.inputs.iter().enumerate() {
        let mut data = vec![if narrow[i] { FLOAT8_POISON } else { POISON }; arena.host_len()];
        for (b, sequence) in inputs.sequences.iter().enumerate() {
            for (which, tensor) in [&sequence.q, &sequence.k, &sequence.v].into_iter().enumerate() {
                if place.qkv[which].0 != i {
                    continue;
                }
                if narrow[i] {
                    place.scatter(which, b, &inputs.codes(case, which, b, tensor), |code| code as u16, &mut data);
                } else {
                    place.scatter(which, b, tensor, bits, &mut data);
                }
            }
        }
        if narrow[i] {
            // Two elements to a word.
            let words = data.chunks(2).map(|pair| pair[0] | pair.get(1).unwrap_or(&FLOAT8_POISON) << 8);
            buffers.push(DeviceBuffer::from_slice(&words.collect::<Vec<u16>>())?);
            continue;
        }
        let buffer = allocate(arena)?;
        upload(&buffer, arena, &data)?;
        buffers.push(buffer);
    }
    Ok(buffers)
}
