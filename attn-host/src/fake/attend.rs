//! The fake's attention kernels: where their tensors lie, by the maps that they are passed.

use attn_kernel::forward::TensorMap;

use super::machine::Work;
use super::{Arguments, Encoded, State};

impl Encoded {
    /// Bytes that the tensor's elements reach over: of packed rows as far as there are rows.
    fn span(&self, ragged: bool) -> (u64, usize) {
        let bytes = if self.data_type == 0 { 1 } else { 2 };
        let (mut dims, mut address) = (self.dims.clone(), self.address);
        if let ([_, _, rows, _, more], true) = (&mut dims[..], ragged) {
            // A ragged output's address lies a box before the tensor.
            address += *rows * self.strides[1];
            (*rows, *more) = (*more - *rows, 1);
        }
        let reach = dims[1..].iter().zip(&self.strides).map(|(dim, stride)| (dim - 1) * stride);
        (address, (dims[0] * bytes + reach.sum::<u64>()) as usize)
    }
}

impl State {
    /// Queues an attention kernel, on streams of the machine: tests of launches alone have others.
    pub(super) fn attend(&mut self, stream: usize, arguments: &Arguments, maps: &[TensorMap; 4]) {
        let span = |map: &TensorMap, ragged| self.encoded[map.0[1] as usize].span(ragged);
        let [q, k, v, o] = maps;
        let (inputs, output, lse) = match arguments {
            Arguments::Dense(params, _) => ([q, k, v].map(|map| span(map, false)), span(o, false), params.lse),
            // Of ragged K and V the first bytes stand for all.
            Arguments::Serve(params, _) => ([span(q, false), (k.0[0], 16), (v.0[0], 16)], span(o, true), params.lse),
            _ => return,
        };
        if self.machine.streams.contains_key(&stream) {
            let lse = (!lse.is_null()).then_some(lse as u64);
            self.machine.queue(stream, Work::Attend { inputs: inputs.into(), output, lse });
        }
    }
}
