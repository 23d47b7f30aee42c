//! What a problem asks of the tensors of a launch.

use super::Tensors;
use crate::arrays::needs;
use crate::driver::Driver;
use crate::error::Error;
use crate::launch::DevicePtr;
use crate::plan::Plan;
use crate::problem::{DType, Problem};
use crate::serve::ALIGNMENT;

impl<T: Copy> Tensors<T> {
    /// What there may be beside Q, K, V, O, LSE and the workspace, and what is given for it.
    fn extras(&self, problem: &Problem) -> impl Iterator<Item = (Need, Option<T>)> + use<T> {
        needs(problem).into_iter().zip(self.arrays().each())
    }
}

/// What a plan asks of a tensor that only some problems have.
pub(crate) struct Need {
    pub(crate) argument: &'static str,
    /// What needs it.
    pub(crate) feature: &'static str,
    pub(crate) needed: bool,
    pub(crate) holds: Holds,
    pub(crate) alignment: u64,
    pub(crate) bytes: u64,
}

impl Need {
    /// Elements that kernels load 16 bytes at a time.
    pub(crate) const fn rows(
        argument: &'static str,
        feature: &'static str,
        needed: bool,
        holds: Holds,
        bytes: u64,
    ) -> Self {
        Need { argument, feature, needed, holds, alignment: 16, bytes }
    }

    /// Numbers of type `i32`.
    pub(crate) const fn integers(argument: &'static str, feature: &'static str, needed: bool, count: u64) -> Self {
        Need { argument, feature, needed, holds: Holds::I32, alignment: 4, bytes: count.saturating_mul(4) }
    }

    /// Numbers of type `f32`.
    pub(crate) const fn floats(argument: &'static str, feature: &'static str, needed: bool, count: u64) -> Self {
        Need { argument, feature, needed, holds: Holds::F32, alignment: 4, bytes: count.saturating_mul(4) }
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

    /// The tensor as it is given.
    pub(crate) fn met_by<T>(&self, given: T) -> Placed<T> {
        let Need { argument, holds, alignment, bytes, .. } = *self;
        Placed { argument, given, holds, alignment, bytes }
    }
}

/// What the elements of a buffer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Those of a tensor.
    Tensor(DType),
    F32,
    I32,
    /// Anything: memory to work in.
    Bytes,
}

/// One tensor of a launch: what holds it, where it must lie and how far it reaches.
pub(crate) struct Placed<T = DevicePtr> {
    pub(crate) argument: &'static str,
    pub(crate) given: T,
    #[cfg_attr(not(any(feature = "cust", feature = "cudarc")), expect(dead_code, reason = "addresses have no type"))]
    pub(crate) holds: Holds,
    pub(crate) alignment: u64,
    pub(crate) bytes: u64,
}

impl<T> Placed<T> {
    /// Rows of elements that kernels load 16 bytes at a time, `span` elements from the first to the last.
    pub(crate) fn rows(argument: &'static str, given: T, span: u64, dtype: DType) -> Self {
        Placed { argument, given, holds: Holds::Tensor(dtype), alignment: 16, bytes: span * u64::from(dtype.bytes()) }
    }
}

impl Placed {
    /// Refuses a null or misaligned address and a tensor that would pass the end of the address space.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Placed { argument, given: DevicePtr(address), alignment, bytes, .. } = *self;
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
        let Placed { argument, given: DevicePtr(address), .. } = *self;
        match driver.pointer_device(address)? {
            found if found != ordinal => Err(Error::ForeignPointer { argument, address, found, allowed: ordinal }),
            _ => Ok(()),
        }
    }
}

impl Plan {
    /// Refuses tensors that are absent and needed, there and not planned, or not where they can be.
    pub(crate) fn check_tensors(&self, tensors: &Tensors) -> Result<(), Error> {
        self.check_presence(tensors)?;
        self.placed(tensors).try_for_each(|tensor| tensor.check())
    }

    /// Refuses tensors that are absent and needed, or there and not planned.
    pub(crate) fn check_presence<T: Copy>(&self, tensors: &Tensors<T>) -> Result<(), Error> {
        tensors.extras(&self.problem).try_for_each(|(need, given)| need.check_presence(given.is_some()))?;
        if tensors.workspace.is_none() && self.workspace_bytes() > 0 {
            return Err(Error::Missing { argument: "workspace", feature: "packed queries or splits" });
        }
        Ok(())
    }

    /// The tensors of a launch with what the plan asks of them.
    pub(crate) fn placed<T: Copy>(&self, tensors: &Tensors<T>) -> impl Iterator<Item = Placed<T>> {
        let spans = self.spans();
        let [q, k, v, o] = self.problem.types();
        let rows = [
            ("q", tensors.q, spans.q, q),
            ("k", tensors.k, spans.k, k),
            ("v", tensors.v, spans.v, v),
            ("o", tensors.o, spans.o, o),
        ];
        let rows = rows.map(|(argument, given, span, dtype)| Placed::rows(argument, given, span, dtype));
        let lse = tensors.lse.map(|given| Placed {
            argument: "lse",
            given,
            holds: Holds::F32,
            alignment: 4,
            bytes: spans.lse * 4,
        });
        let workspace = tensors.workspace.filter(|_| self.workspace_bytes() > 0).map(|given| Placed {
            argument: "workspace",
            given,
            holds: Holds::Bytes,
            alignment: ALIGNMENT,
            bytes: self.workspace_bytes(),
        });
        let extras = tensors.extras(&self.problem).filter_map(|(need, given)| Some(need.met_by(given?)));
        rows.into_iter().chain(lse).chain(workspace).chain(extras)
    }
}
