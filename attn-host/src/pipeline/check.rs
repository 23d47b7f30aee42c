//! Checks a batch against its problem, before it waits for its turn: all that a launch trusts its caller with.

use super::batch::Batch;
use super::buffer::HostBuffer;
use crate::blueprint::Blueprint;
use crate::check::{check_cu_seqlens, check_page_table, check_seqused};
use crate::device::DeviceInfo;
use crate::error::Error;
use crate::launch::DevicePtr;
use crate::problem::{DType, dtype_name};
use crate::select;
use crate::tensors::Tensors;

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
    check_presence(batch)?;
    check_lengths(batch)
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

/// Refuses arrays that are absent and needed, there and not planned, or of another length.
fn check_presence(batch: &Batch) -> Result<(), Error> {
    let arrays = batch.extras();
    let place = |i: usize| arrays[i].map(|_| DevicePtr(0));
    let tensors = Tensors {
        cu_seqlens_q: place(0),
        cu_seqlens_k: place(1),
        seqused_q: place(2),
        seqused_k: place(3),
        page_table: place(4),
        sinks: place(5),
        alibi_slopes: place(6),
        q_descale: place(7),
        k_descale: place(8),
        v_descale: place(9),
        ..Tensors::new(DevicePtr(0), DevicePtr(0), DevicePtr(0), DevicePtr(0))
    };
    for (extra, array) in tensors.extras(&batch.problem).iter().zip(arrays) {
        extra.check_presence(false)?;
        let Some(array) = array else { continue };
        if array.len() as u64 != extra.bytes {
            let allowed = (extra.bytes / 4).to_string();
            return Err(Error::Entries { argument: extra.argument, entries: array.len() / 4, allowed });
        }
    }
    Ok(())
}

/// Refuses lengths and pages that are not there.
fn check_lengths(batch: &Batch) -> Result<(), Error> {
    let (shape, serving) = (&batch.problem.shape, &batch.problem.serving);
    let sides = [
        ("cu_seqlens_q", &batch.cu_seqlens_q, serving.packed_q, "seqused_q", &batch.seqused_q, shape.seqlen_q),
        ("cu_seqlens_k", &batch.cu_seqlens_k, serving.packed_k, "seqused_k", &batch.seqused_k, shape.seqlen_k),
    ];
    for (argument, sums, total, argument_used, used, longest) in sides {
        if let (Some(sums), Some(total)) = (sums, total) {
            check_cu_seqlens(argument, sums, shape.batch, total, longest)?;
        }
        if let Some(used) = used {
            check_seqused(argument_used, used, shape.batch, longest)?;
            let rooms = sums.iter().flat_map(|sums| sums.windows(2)).map(|pair| pair[1] - pair[0]);
            if let Some((index, (&used, room))) =
                used.iter().zip(rooms).enumerate().find(|(_, (used, room))| *used > room)
            {
                let (value, allowed) = (i64::from(used), format!("0 to {room}"));
                return Err(Error::Entry { argument: argument_used, index, value, allowed });
            }
        }
    }
    if let (Some(table), Some(paged)) = (&batch.page_table, serving.paged) {
        // Without lengths in use every sequence is as long as it may be, which is below 2^30 where K and V are paged.
        let all = vec![shape.seqlen_k as i32; if batch.seqused_k.is_some() { 0 } else { shape.batch as usize }];
        let used = batch.seqused_k.as_ref().unwrap_or(&all);
        check_page_table(table, paged.table_width, used, paged.page_size, paged.pages)?;
    }
    Ok(())
}
