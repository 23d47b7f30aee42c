//! Checks a batch against its problem, before it waits for its turn: all that a launch trusts its caller with.

use super::batch::Batch;
use super::buffer::HostBuffer;
use crate::blueprint::Blueprint;
use crate::device::DeviceInfo;
use crate::error::Error;
use crate::problem::{DType, dtype_name};
use crate::select;

/// Refuses a batch that no kernel computes or whose buffers and arrays are not what its problem says.
pub(super) fn check(batch: &Batch, device: &DeviceInfo) -> Result<(), Error> {
    let layouts = Blueprint::of(&batch.problem, device, select::choose)?.layouts;
    let [q, k, v, o] = batch.problem.types();
    check_buffer("q", &batch.q, q, layouts.q.span)?;
    check_buffer("k", &batch.k, k, layouts.k.span)?;
    check_buffer("v", &batch.v, v, layouts.v.span)?;
    if let Some(buffer) = &batch.o {
        check_buffer("o", buffer, o, layouts.o.span)?;
    }
    batch.arrays.check(&batch.problem)
}

fn check_buffer(argument: &'static str, buffer: &HostBuffer, dtype: DType, needed: u64) -> Result<(), Error> {
    let allowed = dtype_name(dtype);
    if let Some(found) = buffer.dtype().filter(|&found| found != dtype) {
        return Err(Error::ElementType { argument, found: dtype_name(found), allowed });
    }
    if buffer.width().is_some_and(|width| width != dtype.bytes()) {
        return Err(Error::ElementType { argument, found: "a type of 16 bits", allowed });
    }
    let elements = buffer.bytes().len() as u64 / u64::from(dtype.bytes());
    if elements < needed { Err(Error::BufferTooSmall { argument, elements, needed }) } else { Ok(()) }
}
