//! Device buffers that many problems use from their start, one after another.

use std::ops::Range;

use attn_host::cust::memory::{CopyDestination, DeviceBuffer};
use attn_host::{DevicePtr, Plan, Tensors};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use crate::case::Case;
use crate::gpu::{Gpu, GpuError, LSE_POISON};
use crate::layout::Placement;
use crate::precision::{POISON, Precision};

/// Buffers that every problem uses from their start, and what the host knows of their contents.
pub struct Pool {
    host: [Vec<u16>; 3],
    qkv: [DeviceBuffer<u16>; 3],
    o: DeviceBuffer<u16>,
    lse: DeviceBuffer<u32>,
}

/// Parts of the buffers of O and LSE.
pub struct Spans {
    /// Elements of O.
    pub o: Vec<Range<usize>>,
    /// Elements of LSE.
    pub lse: Vec<Range<usize>>,
}

impl Pool {
    /// Room for every one of `cases`, random normal inputs in it.
    pub fn new<'a>(precision: Precision, cases: impl Iterator<Item = &'a Case>) -> Result<Self, GpuError> {
        let places: Vec<Placement> = cases.map(|case| case.layout.place(case)).collect();
        let longest = |of: &dyn Fn(&Placement) -> usize| places.iter().map(of).max().unwrap_or(0);
        let host = [0, 1, 2].map(|i| normal_bits(precision, longest(&|p| p.inputs[i].host_len()), i as u64));
        let [q, k, v] = &host;
        let qkv = [DeviceBuffer::from_slice(q)?, DeviceBuffer::from_slice(k)?, DeviceBuffer::from_slice(v)?];
        // SAFETY: only what a launch has written is read.
        let (o, lse) = unsafe {
            let lse = DeviceBuffer::uninitialized(longest(&|p| p.lse.1.host_len()))?;
            (DeviceBuffer::uninitialized(longest(&|p| p.o.1.host_len()))?, lse)
        };
        Ok(Pool { host, qkv, o, lse })
    }

    /// The inputs of Q, K or V from their start, as bits.
    pub fn host(&self, i: usize) -> &[u16] {
        &self.host[i]
    }

    /// Queues one launch.
    pub fn launch(&self, gpu: &Gpu, plan: &Plan, place: &Placement) -> Result<(), GpuError> {
        let [q, k, v] = [0, 1, 2].map(|i: usize| DevicePtr(self.qkv[i].as_device_ptr().as_raw()));
        let o = DevicePtr(self.o.as_device_ptr().as_raw() + 2 * place.o.0.offset as u64);
        let lse = DevicePtr(self.lse.as_device_ptr().as_raw() + 4 * place.lse.0.offset as u64);
        let tensors = Tensors { lse: Some(lse), ..Tensors::new(q, k, v, o) };
        // SAFETY: the buffers are as long as the longest line needs and live in `self`; plan and stream belong to the
        // context that `gpu` keeps; launches run one after another in that stream.
        unsafe { plan.launch(&tensors, gpu.raw_stream()) }.map_err(GpuError::from)
    }

    /// Launches once over poison and reads back.
    pub fn answer(&self, gpu: &Gpu, plan: &Plan, place: &Placement) -> Result<(Vec<u16>, Vec<u32>), GpuError> {
        let mut answer = (vec![0; place.o.1.host_len()], vec![0; place.lse.1.host_len()]);
        let all = |len| std::iter::once(0..len).collect();
        let spans = Spans { o: all(answer.0.len()), lse: all(answer.1.len()) };
        self.answer_in(gpu, plan, place, &spans, &mut answer)?;
        Ok(answer)
    }

    /// Launches once over poison and reads some parts of O and LSE back, to where they lie in the whole.
    pub fn answer_in(
        &self,
        gpu: &Gpu,
        plan: &Plan,
        place: &Placement,
        spans: &Spans,
        (o, lse): &mut (Vec<u16>, Vec<u32>),
    ) -> Result<(), GpuError> {
        self.o.index(..place.o.1.host_len()).set_16(POISON)?;
        self.lse.index(..place.lse.1.host_len()).set_32(LSE_POISON)?;
        self.launch(gpu, plan, place)?;
        gpu.wait()?;
        for span in &spans.o {
            self.o.index(span.clone()).copy_to(&mut o[span.clone()])?;
        }
        for span in &spans.lse {
            self.lse.index(span.clone()).copy_to(&mut lse[span.clone()])?;
        }
        Ok(())
    }
}

/// Standard normal values as bits, made on all cores; the same for any number of them.
fn normal_bits(precision: Precision, len: usize, seed: u64) -> Vec<u16> {
    const PIECE: usize = 1 << 18;
    let mut bits = vec![0; len];
    bits.par_chunks_mut(PIECE).enumerate().for_each(|(stream, piece)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream as u64);
        piece.iter_mut().zip(StandardNormal.sample_iter(&mut rng)).for_each(|(to, x)| *to = precision.to_bits(x));
    });
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_normal_and_repeat() {
        let bits = normal_bits(Precision::F16, 600_000, 1);
        assert_eq!(bits[..300_000], normal_bits(Precision::F16, 300_000, 1)[..]);
        let values = || bits.iter().map(|b| f64::from(Precision::F16.from_bits(*b)));
        let (mean, square) = (values().sum::<f64>() / 6e5, values().map(|x| x * x).sum::<f64>() / 6e5);
        assert!(mean.abs() < 0.01 && (square - 1.0).abs() < 0.01, "{mean} {square}");
    }
}
