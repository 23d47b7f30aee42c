//! What is measured, and what others reach on it.

use crate::case::Case;
use crate::precision::Precision;

/// Tokens of every line: batch times length.
const TOKENS: usize = 16_384;
/// Heads times head_dim of every line.
const HIDDEN: usize = 2_048;

/// One line of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Head dimension of Q and K.
    pub head_dim: usize,
    /// Head dimension of V and O.
    pub head_dim_v: usize,
    /// Queries and keys.
    pub seqlen: usize,
    /// Causal mask.
    pub causal: bool,
    /// Query heads that share a key/value head.
    pub group: usize,
    /// TFLOP/s of the fastest peer and its name, where one was measured.
    pub peer: Option<(f64, &'static str)>,
}

impl Line {
    /// The line as a problem.
    pub fn case(&self, precision: Precision) -> Case {
        // Heads of 192 do not divide the hidden size; the model that has them (192, 128) uses as many as 128 gives.
        let heads = HIDDEN / if self.head_dim == 192 { 128 } else { self.head_dim };
        Case {
            batch: TOKENS / self.seqlen,
            heads,
            kv_heads: heads / self.group,
            head_dim_v: self.head_dim_v,
            causal: self.causal,
            lse: true,
            ..Case::new(precision, self.seqlen, self.head_dim)
        }
    }
}

const fn line(head_dim: usize, seqlen: usize, causal: bool, peer: (f64, &'static str)) -> Line {
    Line { head_dim, head_dim_v: head_dim, seqlen, causal, group: 1, peer: Some(peer) }
}

const fn alone(head_dim: usize, head_dim_v: usize, seqlen: usize, causal: bool) -> Line {
    Line { head_dim, head_dim_v, seqlen, causal, group: 1, peer: None }
}

/// Peers' figures: H100 SXM, bf16, forward, the best of FlashAttention-3, FlashAttention-4 (CuTe, sm_90) and cuDNN 9.19 in
/// one process, interleaved, median of 9 rounds, 2026-11; an 8192-cubed matrix product gave 773 in the same run.
pub const LINES: &[Line] = &[
    line(128, 16384, false, (690.0, "FA3")),
    line(128, 16384, true, (688.0, "FA3")),
    line(128, 8192, false, (671.0, "FA3")),
    line(128, 8192, true, (663.0, "FA3")),
    Line { group: 4, ..line(128, 8192, true, (660.0, "FA3")) },
    line(128, 4096, false, (653.0, "FA3")),
    line(128, 4096, true, (617.0, "FA3")),
    line(128, 2048, true, (535.0, "FA3")),
    line(128, 1024, false, (565.0, "FA3")),
    line(128, 1024, true, (416.0, "cuDNN")),
    line(128, 512, true, (315.0, "cuDNN")),
    line(64, 16384, false, (549.0, "FA4")),
    line(64, 16384, true, (522.0, "FA4")),
    line(64, 4096, false, (495.0, "FA4")),
    line(64, 4096, true, (446.0, "FA3")),
    line(64, 1024, true, (323.0, "cuDNN")),
    line(256, 8192, false, (721.0, "FA4")),
    line(256, 8192, true, (712.0, "FA3")),
    alone(32, 32, 8192, false),
    alone(96, 96, 8192, false),
    alone(192, 128, 8192, false),
    alone(192, 128, 8192, true),
    alone(192, 192, 8192, false),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_the_same_work_to_read() {
        for line in LINES {
            let case = line.case(Precision::Bf16).checked().expect("possible");
            assert_eq!(case.batch * case.seqlen_q, TOKENS, "{case}");
            assert!(case.heads * case.head_dim_v <= HIDDEN * 192 / 128, "{case}");
            assert_eq!(case.heads, case.kv_heads * line.group, "{case}");
        }
    }
}
