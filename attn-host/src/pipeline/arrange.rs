//! Where a batch's tensors lie in its two blocks of device memory, one for what is read and one for what is written.

use super::batch::Batch;
use crate::arrays::Arrays;
use crate::error::Error;
use crate::launch::DevicePtr;
use crate::plan::Plan;
use crate::serve::ALIGNMENT;
use crate::tensors::Tensors;

/// Bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// The parts of a batch's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrangement {
    /// Arrays that only some problems have, side by side from the start of the inputs.
    pub(super) arrays: Arrays<Part, Part>,
    /// Bytes of the inputs up to the end of these.
    pub(super) array_bytes: u64,
    /// Q, K and V.
    pub(super) qkv: [Part; 3],
    workspace: Option<Part>,
    /// Bytes of the inputs, workspace included.
    pub(super) input_bytes: u64,
    pub(super) o: Part,
    pub(super) lse: Option<Part>,
    /// Bytes of the outputs.
    pub(super) output_bytes: u64,
    /// Whether there are outputs that no query writes, which would show what was there before.
    pub(super) gaps: bool,
}

/// Places parts one after the other.
#[derive(Default)]
struct Row(u64);

impl Row {
    fn place(&mut self, argument: &'static str, bytes: u64) -> Result<Part, Error> {
        let offset = self.0;
        let end = offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
        self.0 = end.filter(|&end| end <= i64::MAX as u64).ok_or(Error::Overflow {
            argument,
            what: "the end in a batch's memory",
            allowed: "at most 2^63 - 1 bytes",
        })?;
        Ok(Part { offset, bytes })
    }
}

impl Arrangement {
    pub(super) fn of(batch: &Batch, plan: &Plan) -> Result<Self, Error> {
        let mut inputs = Row::default();
        let arrays = batch.array_bytes().try_each(|array| inputs.place("an array", array.len() as u64))?;
        let array_bytes = inputs.0;
        let (spans, [q, k, v, o]) = (plan.spans(), plan.problem().types().map(|dtype| u64::from(dtype.bytes())));
        let qkv = [inputs.place("q", spans.q * q)?, inputs.place("k", spans.k * k)?, inputs.place("v", spans.v * v)?];
        let workspace = plan.workspace_bytes();
        let workspace = (workspace > 0).then(|| inputs.place("workspace", workspace)).transpose()?;
        let mut outputs = Row::default();
        let o = outputs.place("o", spans.o * o)?;
        let lse = batch.lse.then(|| outputs.place("lse", spans.lse * 4)).transpose()?;
        Ok(Arrangement {
            arrays,
            array_bytes,
            qkv,
            workspace,
            input_bytes: inputs.0,
            o,
            lse,
            output_bytes: outputs.0,
            gaps: gaps(batch, plan),
        })
    }

    /// The addresses of a launch whose blocks start there.
    pub(super) fn tensors(&self, input: DevicePtr, output: DevicePtr) -> Tensors {
        let at = |part: &Part| DevicePtr(input.0 + part.offset);
        let [q, k, v] = self.qkv.each_ref().map(at);
        let tensors = Tensors::new(q, k, v, DevicePtr(output.0 + self.o.offset));
        Tensors {
            lse: self.lse.map(|lse| DevicePtr(output.0 + lse.offset)),
            workspace: self.workspace.as_ref().map(at),
            ..tensors.with_arrays(self.arrays.as_ref().map(at, at))
        }
    }
}

/// Whether outputs have elements that no query writes: between rows, of queries that are not in use, behind the last sequence.
fn gaps(batch: &Batch, plan: &Plan) -> bool {
    let layouts = &plan.blueprint.layouts;
    let strided = [&layouts.o, &layouts.lse].iter().any(|layout| layout.dims.iter().product::<u64>() != layout.span);
    let total = plan.problem().serving.packed_q.unwrap_or(0);
    let packed = batch.arrays.cu_seqlens_q.as_ref().and_then(|sums| sums.last());
    strided || batch.arrays.seqused_q.is_some() || packed.is_some_and(|&end| u64::try_from(end) != Ok(total))
}
