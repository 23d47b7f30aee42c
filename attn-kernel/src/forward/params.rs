//! What the host hands to a forward kernel.

use core::mem::offset_of;

use crate::attn::divide::Divisor;
use crate::attn::walk::Grid;

/// A `CUtensorMap`: 128 opaque bytes made by `cuTensorMapEncodeTiled`, passed by value as a kernel parameter.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct TensorMap(pub [u64; 16]);

/// The scalar arguments of a forward kernel, by value, in this order and layout on both sides.
///
/// A forward kernel's parameters are `(ForwardParams, q, k, v, o)`: this struct, then four [`TensorMap`]s. Each map is of
/// rank 4 with dimensions `(head_dim, seq, heads, batch)`, innermost first; boxes and swizzle come from
/// [`Launch`](super::Launch). Blackwell's maps of Q and O are of rank 5, `(head_dim, pack, seq, heads / pack, batch)`, for the
/// heads packed into a tile's rows. Head dimensions below the instantiated one are filled with zeros by the map's bounds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForwardParams {
    /// Device address of LSE, f32, natural logarithm, last dimension (query) contiguous. Null when it is not wanted.
    pub lse: *mut f32,
    /// Elements from one batch entry's LSE to the next.
    pub lse_batch_stride: u64,
    /// Elements from one head's LSE to the next.
    pub lse_head_stride: u64,
    /// Queries of each batch entry, at least 1.
    pub seqlen_q: u32,
    /// Keys of each batch entry, at least 1.
    pub seqlen_k: u32,
    /// Query heads that share one key/value head.
    pub group: Divisor,
    /// The tiles. A section is as many heads as their K and V fit the L2 cache together, or more where fewer would not give every
    /// multiprocessor a tile; the causal tile walk stays within such a section.
    pub grid: Grid,
    /// `softmax_scale * log2(e)`.
    pub scale_log2: f32,
    /// Binary logarithm of the query heads that are packed into a tile's rows; `group` and the grid's heads
    /// then count packs. Row `r` of a head's tiles is query `r >> pack` of head `r & (2^pack - 1)` of the pack. Only
    /// Blackwell's kernels pack; 0 elsewhere.
    pub pack: u32,
}

impl ForwardParams {
    /// Bytes of the struct, then where each field lies: equal on both sides, or they read different numbers.
    pub(super) const LAYOUT: [u32; 10] = [
        size_of::<Self>() as u32,
        offset_of!(Self, lse) as u32,
        offset_of!(Self, lse_batch_stride) as u32,
        offset_of!(Self, lse_head_stride) as u32,
        offset_of!(Self, seqlen_q) as u32,
        offset_of!(Self, seqlen_k) as u32,
        offset_of!(Self, group) as u32,
        offset_of!(Self, grid) as u32,
        offset_of!(Self, scale_log2) as u32,
        offset_of!(Self, pack) as u32,
    ];
}
