//! Where the tensors of a launch lie, and what a problem asks of them.

use crate::driver::Driver;
use crate::error::Error;
use crate::launch::DevicePtr;
use crate::plan::Plan;
use crate::problem::{Alibi, Descales, Float8, Problem};
use crate::serve::ALIGNMENT;

/// Where the tensors of a launch lie: `Tensors { lse: Some(lse), ..Tensors::new(q, k, v, o) }`.
///
/// What only some problems have must be there for these and absent for all others; only the workspace may be there without need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensors {
    /// Q, read.
    pub q: DevicePtr,
    /// K, read.
    pub k: DevicePtr,
    /// V, read.
    pub v: DevicePtr,
    /// O, written.
    pub o: DevicePtr,
    /// LSE, written, f32; not computed when absent.
    pub lse: Option<DevicePtr>,
    /// [`Plan::workspace_bytes`] bytes, aligned to 256 bytes; may be absent when that is zero.
    pub workspace: Option<DevicePtr>,
    /// Prefix sums of the lengths of packed queries, `i32[batch + 1]` from 0: [`Problem::packed_q`](crate::Problem::packed_q).
    pub cu_seqlens_q: Option<DevicePtr>,
    /// Prefix sums of the lengths of packed keys, `i32[batch + 1]` from 0: [`Problem::packed_k`](crate::Problem::packed_k).
    pub cu_seqlens_k: Option<DevicePtr>,
    /// Queries of each sequence, `i32[batch]`: [`Problem::seqused_q`](crate::Problem::seqused_q).
    pub seqused_q: Option<DevicePtr>,
    /// Keys of each sequence, `i32[batch]`: [`Problem::seqused_k`](crate::Problem::seqused_k).
    pub seqused_k: Option<DevicePtr>,
    /// Pages of each sequence, `i32[batch][table_width]`: [`Problem::paged`](crate::Problem::paged).
    pub page_table: Option<DevicePtr>,
    /// Sink of each query head, `f32[heads]`: [`Problem::sinks`](crate::Problem::sinks).
    pub sinks: Option<DevicePtr>,
    /// Slopes, `f32[heads]` or `f32[batch][heads]`: [`Problem::alibi`](crate::Problem::alibi).
    pub alibi_slopes: Option<DevicePtr>,
    /// Factors of 8-bit Q, `f32[kv_heads]` or `f32[batch][kv_heads]`: [`Problem::descales`](crate::Problem::descales).
    pub q_descale: Option<DevicePtr>,
    /// The same of K.
    pub k_descale: Option<DevicePtr>,
    /// The same of V.
    pub v_descale: Option<DevicePtr>,
}

impl Tensors {
    /// The tensors that every launch has, and none of the others.
    pub const fn new(q: DevicePtr, k: DevicePtr, v: DevicePtr, o: DevicePtr) -> Self {
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
}

/// A tensor that only some problems have.
pub(crate) struct Extra {
    pub(crate) argument: &'static str,
    pub(crate) address: Option<DevicePtr>,
    /// What needs it.
    pub(crate) feature: &'static str,
    pub(crate) needed: bool,
    pub(crate) alignment: u64,
    pub(crate) bytes: u64,
}

impl Extra {
    /// Refuses it where it is absent and needed, unless it may be absent, and where it is there and not planned.
    pub(crate) fn check_presence(&self, may_be_absent: bool) -> Result<(), Error> {
        let Extra { argument, address, feature, needed, .. } = *self;
        match address {
            None if needed && !may_be_absent => Err(Error::Missing { argument, feature }),
            Some(_) if !needed => Err(Error::NotPlanned { argument, feature }),
            _ => Ok(()),
        }
    }

    /// Where it is, if it is there.
    pub(crate) fn placed(&self) -> Option<Placed> {
        let Extra { argument, address, alignment, bytes, .. } = *self;
        Some(Placed { argument, address: address?.0, alignment, bytes })
    }
}

impl Tensors {
    /// What there may be beside Q, K, V, O, LSE and the workspace.
    pub(crate) fn extras(&self, problem: &Problem) -> [Extra; 10] {
        let (serving, shape) = (&problem.serving, &problem.shape);
        let extra = |argument, address, feature, needed, words: u64| Extra {
            argument,
            address,
            feature,
            needed,
            alignment: 4,
            bytes: words.saturating_mul(4),
        };
        let (batch, packed_q, packed_k) = (shape.batch, serving.packed_q.is_some(), serving.packed_k.is_some());
        let table = serving.paged.map_or(0, |paged| paged.table_width.saturating_mul(batch));
        let slopes = if serving.alibi == Some(Alibi::PerSequenceAndHead) { shape.heads * batch } else { shape.heads };
        let factors = match serving.descales {
            Some(Descales::PerSequenceAndHead) => shape.kv_heads * batch,
            _ => shape.kv_heads,
        };
        let (scaled, all) = (serving.descales.is_some(), serving.float8 == Float8::All);
        [
            extra("cu_seqlens_q", self.cu_seqlens_q, "packed queries", packed_q, batch + 1),
            extra("cu_seqlens_k", self.cu_seqlens_k, "packed keys", packed_k, batch + 1),
            extra("seqused_q", self.seqused_q, "queries in use (seqused_q)", serving.seqused_q, batch),
            extra("seqused_k", self.seqused_k, "keys in use (seqused_k)", serving.seqused_k, batch),
            extra("page_table", self.page_table, "paged K and V", serving.paged.is_some(), table),
            extra("sinks", self.sinks, "sinks", serving.sinks, shape.heads),
            extra("alibi_slopes", self.alibi_slopes, "ALiBi", serving.alibi.is_some(), slopes),
            extra("q_descale", self.q_descale, "factors (descales) of Q of 8 bits", scaled && all, factors),
            extra("k_descale", self.k_descale, "factors (descales)", scaled, factors),
            extra("v_descale", self.v_descale, "factors (descales)", scaled, factors),
        ]
    }
}

/// One tensor of a launch: where it must lie and how far it reaches.
pub(crate) struct Placed {
    pub(crate) argument: &'static str,
    pub(crate) address: u64,
    pub(crate) alignment: u64,
    pub(crate) bytes: u64,
}

impl Placed {
    /// Refuses a null or misaligned address and a tensor that would pass the end of the address space.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Placed { argument, address, alignment, bytes } = *self;
        if address == 0 {
            return Err(Error::NullPointer { argument });
        }
        if address % alignment != 0 {
            return Err(Error::Misaligned { argument, address, alignment });
        }
        if address.checked_add(bytes).is_none() {
            return Err(Error::Overflow { argument, what: "the address", allowed: "at most 2^64 at its end" });
        }
        Ok(())
    }

    /// Refuses an address of another device.
    pub(crate) fn check_device(&self, driver: &Driver, ordinal: i32) -> Result<(), Error> {
        let Placed { argument, address, .. } = *self;
        match driver.pointer_device(address)? {
            found if found != ordinal => Err(Error::ForeignPointer { argument, address, found, allowed: ordinal }),
            _ => Ok(()),
        }
    }
}

impl Plan {
    /// Refuses tensors that are absent and needed, there and not planned, or not where they can be.
    pub(crate) fn check_tensors(&self, tensors: &Tensors) -> Result<(), Error> {
        tensors.extras(&self.problem).iter().try_for_each(|extra| extra.check_presence(false))?;
        if tensors.workspace.is_none() && self.workspace_bytes() > 0 {
            return Err(Error::Missing { argument: "workspace", feature: "packed queries or splits" });
        }
        self.placed(tensors).try_for_each(|tensor| tensor.check())
    }

    /// The tensors of a launch with what the plan asks of them.
    pub(crate) fn placed(&self, tensors: &Tensors) -> impl Iterator<Item = Placed> {
        let spans = self.spans();
        let [q, k, v, o] = self.problem.types();
        let rows = [
            ("q", tensors.q, spans.q, q),
            ("k", tensors.k, spans.k, k),
            ("v", tensors.v, spans.v, v),
            ("o", tensors.o, spans.o, o),
        ];
        let rows = rows.map(|(argument, address, span, dtype)| Placed {
            argument,
            address: address.0,
            alignment: 16,
            bytes: span * u64::from(dtype.bytes()),
        });
        let lse = tensors.lse.map(|lse| Placed { argument: "lse", address: lse.0, alignment: 4, bytes: spans.lse * 4 });
        let workspace = tensors.workspace.filter(|_| self.workspace_bytes() > 0).map(|workspace| Placed {
            argument: "workspace",
            address: workspace.0,
            alignment: ALIGNMENT,
            bytes: self.workspace_bytes(),
        });
        let extras = tensors.extras(&self.problem).into_iter().filter_map(|extra| extra.placed());
        rows.into_iter().chain(lse).chain(workspace).chain(extras)
    }
}
