//! Where the tensors of a launch lie.

use crate::arrays::Arrays;
use crate::launch::DevicePtr;

pub(crate) use check::{Holds, Need, Placed};

mod check;

/// The tensors of a launch: `Tensors { lse: Some(lse), ..Tensors::new(q, k, v, o) }`.
///
/// What only some problems have must be there for these and absent for all others; only the workspace may be there without need.
///
/// [`Plan::launch`](crate::Plan::launch) takes them as device addresses. Typed launches take the slices and views of a library, `R` for what
/// is read and `W` for what is written: `Tensors::of(&q, &k, &v, &mut o).lse(&mut lse)`.
///
/// ```
/// use attn_host::{DevicePtr, Tensors};
///
/// let [q, k, v, o, table, lengths] = [0x100, 0x200, 0x300, 0x400, 0x500, 0x600].map(DevicePtr);
/// let step: Tensors = Tensors::new(q, k, v, o).page_table(table).seqused_k(lengths);
/// assert_eq!((step.page_table, step.lse), (Some(table), None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensors<R = DevicePtr, W = R> {
    /// Q, read.
    pub q: R,
    /// K, read.
    pub k: R,
    /// V, read.
    pub v: R,
    /// O, written.
    pub o: W,
    /// LSE, written, f32; not computed when absent.
    pub lse: Option<W>,
    /// [`Plan::workspace_bytes`](crate::Plan::workspace_bytes) bytes, aligned to 256 bytes; may be absent when that is zero.
    /// One launch's at a time.
    pub workspace: Option<W>,
    /// Prefix sums of the lengths of packed queries, `i32[batch + 1]` from 0: [`Problem::packed_q`](crate::Problem::packed_q).
    pub cu_seqlens_q: Option<R>,
    /// Prefix sums of the lengths of packed keys, `i32[batch + 1]` from 0: [`Problem::packed_k`](crate::Problem::packed_k).
    pub cu_seqlens_k: Option<R>,
    /// Queries of each sequence, `i32[batch]`: [`Problem::seqused_q`](crate::Problem::seqused_q).
    pub seqused_q: Option<R>,
    /// Keys of each sequence, `i32[batch]`: [`Problem::seqused_k`](crate::Problem::seqused_k).
    pub seqused_k: Option<R>,
    /// Pages of each sequence, `i32[batch][table_width]`: [`Problem::paged`](crate::Problem::paged).
    pub page_table: Option<R>,
    /// Sink of each query head, `f32[heads]`: [`Problem::sinks`](crate::Problem::sinks).
    pub sinks: Option<R>,
    /// Slopes, `f32[heads]` or `f32[batch][heads]`: [`Problem::alibi`](crate::Problem::alibi).
    pub alibi_slopes: Option<R>,
    /// Factors of 8-bit Q, `f32[kv_heads]` or `f32[batch][kv_heads]`: [`Problem::descales`](crate::Problem::descales).
    pub q_descale: Option<R>,
    /// The same of K.
    pub k_descale: Option<R>,
    /// The same of V.
    pub v_descale: Option<R>,
}

impl<R, W> Tensors<R, W> {
    /// The tensors that every launch has, and none of the others.
    pub const fn new(q: R, k: R, v: R, o: W) -> Self {
        Tensors {
            q,
            k,
            v,
            o,
            lse: None,
            workspace: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            seqused_q: None,
            seqused_k: None,
            page_table: None,
            sinks: None,
            alibi_slopes: None,
            q_descale: None,
            k_descale: None,
            v_descale: None,
        }
    }

    /// [`new`](Self::new) from whatever turns into `R` and `W`: references to a library's buffers.
    pub fn of(q: impl Into<R>, k: impl Into<R>, v: impl Into<R>, o: impl Into<W>) -> Self {
        Self::new(q.into(), k.into(), v.into(), o.into())
    }

    /// The same tensors as something else.
    pub fn map<A, B>(self, mut read: impl FnMut(R) -> A, mut write: impl FnMut(W) -> B) -> Tensors<A, B> {
        Tensors {
            q: read(self.q),
            k: read(self.k),
            v: read(self.v),
            o: write(self.o),
            lse: self.lse.map(&mut write),
            workspace: self.workspace.map(&mut write),
            cu_seqlens_q: self.cu_seqlens_q.map(&mut read),
            cu_seqlens_k: self.cu_seqlens_k.map(&mut read),
            seqused_q: self.seqused_q.map(&mut read),
            seqused_k: self.seqused_k.map(&mut read),
            page_table: self.page_table.map(&mut read),
            sinks: self.sinks.map(&mut read),
            alibi_slopes: self.alibi_slopes.map(&mut read),
            q_descale: self.q_descale.map(&mut read),
            k_descale: self.k_descale.map(&mut read),
            v_descale: self.v_descale.map(&mut read),
        }
    }

    /// The same with the arrays that only some problems have.
    pub fn with_arrays(self, arrays: Arrays<R, R>) -> Self {
        let Arrays { cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, page_table, sinks, alibi_slopes, .. } = arrays;
        let Arrays { q_descale, k_descale, v_descale, .. } = arrays;
        Tensors {
            cu_seqlens_q,
            cu_seqlens_k,
            seqused_q,
            seqused_k,
            page_table,
            sinks,
            alibi_slopes,
            q_descale,
            k_descale,
            v_descale,
            ..self
        }
    }
}

impl<R: Copy, W: Copy> Tensors<R, W> {
    /// The arrays that only some problems have.
    pub fn arrays(&self) -> Arrays<R, R> {
        let Tensors { cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, page_table, sinks, alibi_slopes, .. } = *self;
        let Tensors { q_descale, k_descale, v_descale, .. } = *self;
        Arrays {
            cu_seqlens_q,
            cu_seqlens_k,
            seqused_q,
            seqused_k,
            page_table,
            sinks,
            alibi_slopes,
            q_descale,
            k_descale,
            v_descale,
        }
    }
}

/// Methods that add a tensor, from whatever turns into `R` or `W`.
macro_rules! setters {
    ($tensors:ident: $($name:ident $side:ident,)*) => {
        impl<R, W> $tensors<R, W> {
            $(
                #[doc = concat!("With [`", stringify!($name), "`](", stringify!($tensors), "#structfield.", stringify!($name), ").")]
                #[must_use]
                pub fn $name(self, $name: impl Into<$side>) -> Self {
                    $tensors { $name: Some($name.into()), ..self }
                }
            )*
        }
    };
}

pub(crate) use setters;

setters! {
    Tensors:
    lse W,
    workspace W,
    cu_seqlens_q R,
    cu_seqlens_k R,
    seqused_q R,
    seqused_k R,
    page_table R,
    sinks R,
    alibi_slopes R,
    q_descale R,
    k_descale R,
    v_descale R,
}
