//! The tensors of a launch that appends.

use crate::launch::DevicePtr;
use crate::tensors::setters;

/// The tensors of a launch: `AppendTensors { seqlens_before: Some(lengths), ..AppendTensors::new(k, v, k_cache, v_cache) }`.
///
/// What only some plans have must be there for these and absent for all others; only one of `q` and `q_out` may be absent where there are
/// queries, which are then rotated in place.
///
/// [`AppendPlan::launch`](crate::AppendPlan::launch) takes them as device addresses, typed launches as the slices and views of a library:
/// [`Tensors`](crate::Tensors) says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendTensors<R = DevicePtr, W = R> {
    /// New keys, read.
    pub k: R,
    /// New values, read.
    pub v: R,
    /// Cache of keys, written where new ones go.
    pub k_cache: W,
    /// Cache of values, likewise.
    pub v_cache: W,
    /// Queries: [`Append::queries`](crate::Append::queries). May be absent where they are rotated in place, and then `q_out` has them.
    pub q: Option<R>,
    /// Rotated queries, written. Absent where queries are rotated in place in `q`, which typed launches, for which `q` is read, do not do.
    pub q_out: Option<W>,
    /// Cosines, `(positions, dim / 2)`: [`Append::rotary`](crate::Append::rotary).
    pub cos: Option<R>,
    /// Sines, likewise.
    pub sin: Option<R>,
    /// Prefix sums of the counts of packed tokens, `i32[batch + 1]` from 0: [`Append::packed`](crate::Append::packed).
    pub cu_seqlens_new: Option<R>,
    /// New tokens of each sequence, `i32[batch]`: [`Append::seqused_new`](crate::Append::seqused_new).
    pub seqused_new: Option<R>,
    /// Keys that are in the cache already, `i32[batch]`: [`Append::seqlens_before`](crate::Append::seqlens_before).
    pub seqlens_before: Option<R>,
    /// Pages of each sequence, `i32[batch][table_width]`: [`Cache::Paged`](crate::Cache::Paged).
    pub page_table: Option<R>,
    /// Factors of K, `f32[kv_heads]` or `f32[batch][kv_heads]`: [`Append::descales`](crate::Append::descales).
    pub k_descale: Option<R>,
    /// Factors of V, likewise.
    pub v_descale: Option<R>,
}

impl<R, W> AppendTensors<R, W> {
    /// The tensors that every launch has, and none of the others.
    pub const fn new(k: R, v: R, k_cache: W, v_cache: W) -> Self {
        AppendTensors {
            k,
            v,
            k_cache,
            v_cache,
            q: None,
            q_out: None,
            cos: None,
            sin: None,
            cu_seqlens_new: None,
            seqused_new: None,
            seqlens_before: None,
            page_table: None,
            k_descale: None,
            v_descale: None,
        }
    }

    /// [`new`](Self::new) from whatever turns into `R` and `W`: references to a library's buffers.
    pub fn of(k: impl Into<R>, v: impl Into<R>, k_cache: impl Into<W>, v_cache: impl Into<W>) -> Self {
        Self::new(k.into(), v.into(), k_cache.into(), v_cache.into())
    }

    /// The same tensors as something else.
    pub fn map<A, B>(self, mut read: impl FnMut(R) -> A, mut write: impl FnMut(W) -> B) -> AppendTensors<A, B> {
        AppendTensors {
            k: read(self.k),
            v: read(self.v),
            k_cache: write(self.k_cache),
            v_cache: write(self.v_cache),
            q: self.q.map(&mut read),
            q_out: self.q_out.map(&mut write),
            cos: self.cos.map(&mut read),
            sin: self.sin.map(&mut read),
            cu_seqlens_new: self.cu_seqlens_new.map(&mut read),
            seqused_new: self.seqused_new.map(&mut read),
            seqlens_before: self.seqlens_before.map(&mut read),
            page_table: self.page_table.map(&mut read),
            k_descale: self.k_descale.map(&mut read),
            v_descale: self.v_descale.map(&mut read),
        }
    }
}

setters! {
    AppendTensors:
    q R,
    q_out W,
    cos R,
    sin R,
    cu_seqlens_new R,
    seqused_new R,
    seqlens_before R,
    page_table R,
    k_descale R,
    v_descale R,
}
