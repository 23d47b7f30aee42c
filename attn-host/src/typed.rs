//! What typed launches of any library have in common: element types and lengths are checked against the plan.

use crate::append::{AppendPlan, AppendTensors};
use crate::error::Error;
use crate::launch::DevicePtr;
use crate::plan::Plan;
use crate::problem::{DType, dtype_name};
use crate::tensors::{Holds, Placed, Tensors};

pub use element::Element;
pub(crate) use element::Kind;

pub(crate) mod element;
#[cfg(test)]
mod tests;

/// A buffer of any library: where it starts, how many elements it has, and of what type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) address: u64,
    pub(crate) elements: u64,
    pub(crate) kind: Kind,
}

impl Extent {
    fn at(self) -> DevicePtr {
        DevicePtr(self.address)
    }
}

impl Plan {
    /// The addresses of tensors, when exactly those that are needed are there, of the right type and as long as they reach.
    pub(crate) fn addresses(&self, tensors: &Tensors<Extent>) -> Result<Tensors, Error> {
        self.check_presence(tensors)?;
        self.placed(tensors).try_for_each(|tensor| tensor.check_extent())?;
        Ok(tensors.map(Extent::at, Extent::at))
    }

    /// Refuses what a function that is safe to call cannot answer for: prefix sums, which are in device memory, and where wrong make kernels
    /// reach beyond buffers. Wrong lengths and pages do not.
    pub(crate) fn check_trust(&self, allowed: &'static str) -> Result<(), Error> {
        let serving = &self.problem.serving;
        let first = match (serving.packed_q, serving.packed_k) {
            (Some(_), _) => "packed queries (cu_seqlens_q)",
            (None, Some(_)) => "packed keys (cu_seqlens_k)",
            (None, None) => return Ok(()),
        };
        Err(Error::Combination { first, second: "a launch that is safe to call", allowed })
    }
}

impl AppendPlan {
    /// As [`Plan::addresses`].
    pub(crate) fn addresses(&self, tensors: &AppendTensors<Extent>) -> Result<AppendTensors, Error> {
        self.check_presence(tensors)?;
        if tensors.q.is_some() && tensors.q_out.is_none() {
            let feature = "queries and `q` is only read (for rotation in place, give `q_out` alone)";
            return Err(Error::Missing { argument: "q_out", feature });
        }
        self.placed(tensors).try_for_each(|tensor| tensor.check_extent())?;
        Ok(tensors.map(Extent::at, Extent::at))
    }
}

impl Placed<Extent> {
    /// Refuses elements of another type, and a buffer that is too short.
    fn check_extent(&self) -> Result<(), Error> {
        let Placed { argument, given: Extent { elements, kind, .. }, holds, bytes, .. } = *self;
        if !kind.may_hold(holds) {
            return Err(Error::ElementType { argument, found: kind.name(), allowed: name(holds) });
        }
        let needed = bytes.div_ceil(kind.bytes());
        if elements < needed { Err(Error::BufferTooSmall { argument, elements, needed }) } else { Ok(()) }
    }
}

fn name(holds: Holds) -> &'static str {
    match holds {
        Holds::Tensor(dtype) => dtype_name(dtype),
        Holds::F32 => "f32",
        Holds::I32 => "i32",
        Holds::Bytes => "bytes",
    }
}

impl Kind {
    fn may_hold(self, holds: Holds) -> bool {
        match holds {
            Holds::Tensor(DType::Bf16) => matches!(self, Kind::Bf16 | Kind::Bits16),
            Holds::Tensor(DType::F16) => matches!(self, Kind::F16 | Kind::Bits16),
            Holds::Tensor(dtype) => dtype.bytes() == 1 && self == Kind::Bits8,
            Holds::F32 => self == Kind::F32,
            Holds::I32 => matches!(self, Kind::I32 | Kind::U32),
            Holds::Bytes => true,
        }
    }
}
