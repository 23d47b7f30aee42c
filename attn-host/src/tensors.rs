//! Where the tensors of a launch lie, and what a problem asks of them.

use crate::arrays::{Arrays, needs};
use crate::driver::Driver;
use crate::error::Error;
use crate::launch::DevicePtr;
use crate::plan::Plan;
use crate::problem::Problem;
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

impl Tensors {
    /// The same with the arrays that only some problems have.
    pub fn with_arrays(self, arrays: Arrays<DevicePtr, DevicePtr>) -> Self {
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

    /// The arrays that only some problems have.
    pub fn arrays(&self) -> Arrays<DevicePtr, DevicePtr> {
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

    /// What there may be beside Q, K, V, O, LSE and the workspace, and where it is.
    fn extras(&self, problem: &Problem) -> impl Iterator<Item = (Need, Option<DevicePtr>)> + use<> {
        needs(problem).into_iter().zip(self.arrays().each())
    }
}

/// What a plan asks of a tensor that only some problems have.
pub(crate) struct Need {
    pub(crate) argument: &'static str,
    /// What needs it.
    pub(crate) feature: &'static str,
    pub(crate) needed: bool,
    pub(crate) alignment: u64,
    pub(crate) bytes: u64,
}

impl Need {
    /// Elements that kernels load 16 bytes at a time.
    pub(crate) const fn tensor(argument: &'static str, feature: &'static str, needed: bool, bytes: u64) -> Self {
        Need { argument, feature, needed, alignment: 16, bytes }
    }

    /// Words of 32 bits.
    pub(crate) const fn words(argument: &'static str, feature: &'static str, needed: bool, words: u64) -> Self {
        Need { argument, feature, needed, alignment: 4, bytes: words.saturating_mul(4) }
    }

    /// Refuses it where it is absent and needed, and where it is there and not planned.
    pub(crate) fn check_presence(&self, present: bool) -> Result<(), Error> {
        let Need { argument, feature, needed, .. } = *self;
        match present {
            false if needed => Err(Error::Missing { argument, feature }),
            true if !needed => Err(Error::NotPlanned { argument, feature }),
            _ => Ok(()),
        }
    }

    /// The tensor at an address.
    pub(crate) fn at(&self, address: DevicePtr) -> Placed {
        Placed { argument: self.argument, address: address.0, alignment: self.alignment, bytes: self.bytes }
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
        tensors.extras(&self.problem).try_for_each(|(need, address)| need.check_presence(address.is_some()))?;
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
        let extras = tensors.extras(&self.problem).filter_map(|(need, address)| Some(need.at(address?)));
        rows.into_iter().chain(lse).chain(workspace).chain(extras)
    }
}
