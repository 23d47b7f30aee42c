//! The small arrays beside Q, K and V.

/// Lengths, pages and factors as a launch has them; what is absent is not part of the problem.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arrays {
    /// Prefix sums of packed queries' lengths.
    pub cu_seqlens_q: Option<Vec<i32>>,
    /// Prefix sums of packed keys' lengths.
    pub cu_seqlens_k: Option<Vec<i32>>,
    /// Queries in use of each sequence.
    pub seqused_q: Option<Vec<i32>>,
    /// Keys in use of each sequence.
    pub seqused_k: Option<Vec<i32>>,
    /// Pages of each sequence, row after row.
    pub page_table: Option<Vec<i32>>,
    /// A sink for each query head.
    pub sinks: Option<Vec<f32>>,
    /// A slope for each query head, or of each sequence and query head.
    pub alibi_slopes: Option<Vec<f32>>,
    /// Factors of 8-bit Q, K and V.
    pub descales: [Option<Vec<f32>>; 3],
}
