//! Small forward cases, whose outputs are recorded as bits.

use crate::case::Case;
use crate::gpu::Gpu;
use crate::input::Inputs;
use crate::precision::Precision;

use super::machine::Failure;

/// The cases: every kind of kernel, with ragged lengths, grouped heads and the masks.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (d, dv) in [(32, 32), (64, 64), (96, 96), (128, 128), (192, 128), (256, 256)] {
        for (precision, causal) in [(Precision::Bf16, true), (Precision::F16, false)] {
            cases.push(Case {
                head_dim_v: dv,
                causal,
                lse: true,
                seed: d as u64,
                seqlen_q: 70,
                ..Case::new(precision, 200, d)
            });
        }
    }
    cases.push(Case { heads: 4, kv_heads: 2, causal: true, lse: true, ..Case::new(Precision::Bf16, 40, 64) });
    cases.push(Case { heads: 1, kv_heads: 1, lse: true, ..Case::new(Precision::Bf16, 512, 128) });
    cases
}

/// What a recording calls a case.
pub fn name(case: &Case) -> String {
    format!("forward {case}")
}

/// Runs a case: O in memory order (batch, heads, seq, width), two elements a word, then LSE.
///
/// # Errors
/// The launch side's or the driver's.
pub fn run(gpu: &Gpu, case: &Case) -> Result<Vec<u32>, Failure> {
    let kernel = gpu.general_kernel(case)?;
    let loaded = gpu.load_kernel(case, &Inputs::of(case), Some(kernel))?;
    let output = loaded.run()?;
    let (o, lse) = loaded.tensors(&output, case.precision);
    let bits: Vec<u16> = o.data.iter().map(|x| case.precision.to_bits(*x)).collect();
    let mut words: Vec<u32> = bits.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect();
    words.extend(lse.iter().flat_map(|lse| &lse.data).map(|x| x.to_bits()));
    Ok(words)
}
