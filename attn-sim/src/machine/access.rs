//! Accesses of memory with their checks: bounds, initialisation, order, proxy.

use super::clock::{Actor, Epoch, Lane, Proxy};
use super::memory::{GlobalView, Space};
use super::shadow::Conflict;
use super::shared::FIRST;
use super::{Location, Machine};
use crate::report::{Kind, Stop};
use std::fmt;

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Global(addr) => write!(f, "global {addr:#x}"),
            Location::Shared { offset, .. } => write!(f, "shared {offset:#x}"),
            Location::Local { lane, offset, .. } => write!(f, "local {offset:#x} of lane {lane}"),
            Location::Param(addr) => write!(f, "parameter byte {addr:#x}"),
            Location::Const(addr) => write!(f, "constant {addr:#x}"),
            Location::Tensor { lane, column, .. } => write!(f, "tensor memory lane {lane}, column {column}"),
        }
    }
}

impl Location {
    /// The place `bytes` further on.
    pub fn plus(self, bytes: u64) -> Self {
        match self {
            Location::Global(a) => Location::Global(a + bytes),
            Location::Shared { block, offset } => Location::Shared { block, offset: offset + bytes as u32 },
            Location::Local { warp, lane, offset } => Location::Local { warp, lane, offset: offset + bytes as u32 },
            Location::Param(a) => Location::Param(a + bytes),
            Location::Const(a) => Location::Const(a + bytes),
            Location::Tensor { block, lane, column } => {
                Location::Tensor { block, lane, column: column + bytes as u32 / 4 }
            }
        }
    }
}

impl Machine {
    /// Where an address of a space leads for a lane of the actor's warp. Bounds are checked by the access.
    pub fn locate(&self, who: &Actor, lane: u32, space: Space, addr: u64) -> Result<Location, Stop> {
        let warp = who.warp as usize;
        let block = self.warps[warp].block;
        match space {
            Space::Generic => {
                let (space, addr) = Space::of_generic(addr);
                self.locate(who, lane, space, addr)
            }
            Space::Global => Ok(Location::Global(addr)),
            Space::Local => Ok(Location::Local { warp, lane, offset: u32::try_from(addr).unwrap_or(u32::MAX) }),
            Space::Param => Ok(Location::Param(addr)),
            Space::Const => Ok(Location::Const(addr)),
            Space::Shared | Space::SharedCluster => {
                // A 64-bit register may hold the generic address: the hardware takes its low 32 bits.
                let addr = match Space::of_generic(addr) {
                    (Space::SharedCluster, low) => low,
                    _ => addr,
                };
                let found = u32::try_from(addr).ok().and_then(|a| self.shared_location(block, a));
                match found {
                    Some((at, offset)) if at == block || space == Space::SharedCluster => {
                        Ok(Location::Shared { block: at, offset })
                    }
                    Some(_) => {
                        let message =
                            format!("shared address {addr:#x} is another block's; `.shared` reaches the own one");
                        Err(self.fault(who, Kind::OutOfBounds, message))
                    }
                    None => Err(self.fault(who, Kind::OutOfBounds, format!("shared address {addr:#x} is in no block"))),
                }
            }
        }
    }

    /// The fault of a range outside of what its place has.
    fn outside(&self, who: &Actor, at: Location, len: usize) -> Stop {
        let what = match at {
            Location::Global(addr) => self.global.base().describe(addr),
            Location::Shared { block, .. } => {
                let rank = self.blocks[block].rank;
                format!("block of rank {rank} has offsets {FIRST:#x} to {:#x}", self.blocks[block].shared.end())
            }
            Location::Local { warp, .. } => format!("a thread has {} bytes", self.warps[warp].local.bytes),
            Location::Param(_) => format!("the parameters have {} bytes", self.shape.params.len()),
            Location::Const(_) => format!("the constant bank has {} bytes", self.shape.constants.len()),
            Location::Tensor { .. } => "loads and stores do not reach it".into(),
        };
        self.fault(who, Kind::OutOfBounds, format!("{len} bytes at {at}: {what}"))
    }

    /// Checks that a range lies within its place.
    pub fn check_bounds(&self, who: &Actor, at: Location, len: usize) -> Result<(), Stop> {
        let inside = |offset: u64, end: usize| offset.checked_add(len as u64).is_some_and(|e| e <= end as u64);
        let ok = match at {
            Location::Global(addr) => self.global.base().find(addr, len).is_some(),
            Location::Shared { block, offset } => self.blocks[block].shared.holds(offset, len),
            Location::Local { warp, offset, .. } => inside(u64::from(offset), self.warps[warp].local.bytes as usize),
            Location::Param(addr) => inside(addr, self.shape.params.len()),
            Location::Const(addr) => inside(addr, self.shape.constants.len()),
            Location::Tensor { .. } => false,
        };
        if ok { Ok(()) } else { Err(self.outside(who, at, len)) }
    }

    /// Checks that an address is a multiple of `align`, a power of two.
    pub fn check_aligned(&self, who: &Actor, at: Location, align: u64) -> Result<(), Stop> {
        let addr = match at {
            Location::Global(a) | Location::Param(a) | Location::Const(a) => a,
            Location::Shared { offset, .. } | Location::Local { offset, .. } => u64::from(offset),
            Location::Tensor { column, .. } => 4 * u64::from(column),
        };
        if addr % align == 0 {
            return Ok(());
        }
        Err(self.fault(who, Kind::Misaligned, format!("{at} is not a multiple of {align}")))
    }

    /// Reads bytes: checks bounds, that they were written, and that no unordered or unfenced write is about.
    pub fn read(&mut self, who: &Actor, at: Location, out: &mut [u8]) -> Result<(), Stop> {
        self.check_bounds(who, at, out.len())?;
        let len = out.len();
        match at {
            Location::Global(addr) => {
                let met = self.global.read(who, addr, out);
                if let Some(unwritten) = met.unwritten {
                    self.unwritten(who, Location::Global(unwritten));
                }
                if let Some((addr, conflict)) = met.conflict {
                    self.conflict(who, false, Location::Global(addr), conflict);
                }
            }
            Location::Shared { block, offset } => {
                self.note_shared_read(who, block, offset, len);
                out.copy_from_slice(self.blocks[block].shared.bytes(offset, len));
            }
            Location::Local { warp, lane, offset } => {
                let local = &self.warps[warp].local;
                let start = lane as usize * local.bytes as usize + offset as usize;
                out.copy_from_slice(&local.data[start..start + len]);
                if let Some(missing) = local.written.first_missing(start, len) {
                    let offset = offset + (missing - start) as u32;
                    self.unwritten(who, Location::Local { warp, lane, offset });
                }
            }
            Location::Param(addr) => out.copy_from_slice(&self.shape.params[addr as usize..addr as usize + len]),
            Location::Const(addr) => out.copy_from_slice(&self.shape.constants[addr as usize..addr as usize + len]),
            Location::Tensor { .. } => return Err(self.outside(who, at, len)),
        }
        Ok(())
    }

    /// Writes bytes: checks bounds, and that no unordered access is about.
    pub fn write(&mut self, who: &Actor, at: Location, bytes: &[u8]) -> Result<(), Stop> {
        self.check_bounds(who, at, bytes.len())?;
        let len = bytes.len();
        match at {
            Location::Global(addr) => {
                if let Some((addr, conflict)) = self.global.write(who, addr, bytes).conflict {
                    self.conflict(who, true, Location::Global(addr), conflict);
                }
            }
            Location::Shared { block, offset } => {
                self.note_shared_write(who, block, offset, len);
                self.blocks[block].shared.bytes_mut(offset, len).copy_from_slice(bytes);
            }
            Location::Local { warp, lane, offset } => {
                let local = &mut self.warps[warp].local;
                let start = lane as usize * local.bytes as usize + offset as usize;
                local.data[start..start + len].copy_from_slice(bytes);
                local.written.set(start, len);
            }
            Location::Param(_) | Location::Const(_) | Location::Tensor { .. } => {
                return Err(self.fault(who, Kind::OutOfBounds, format!("{at} cannot be written")));
            }
        }
        Ok(())
    }

    /// Notes the read of a shared range that is in bounds; the bytes are then those of
    /// [`SharedMemory::bytes`](super::shared::SharedMemory::bytes).
    pub fn note_shared_read(&mut self, who: &Actor, block: usize, offset: u32, len: usize) {
        let met = self.blocks[block].shared.note_read(who, offset, len);
        if let Some(offset) = met.unwritten
            && who.lane != Lane::OthersRows
        {
            self.unwritten(who, Location::Shared { block, offset });
        }
        if let Some(conflict) = met.conflict {
            self.conflict(who, false, Location::Shared { block, offset: conflict.offset as u32 }, conflict);
        }
    }

    /// Notes the write of a shared range that is in bounds.
    pub fn note_shared_write(&mut self, who: &Actor, block: usize, offset: u32, len: usize) {
        let met = self.blocks[block].shared.note_write(who, offset, len);
        if let Some(conflict) = met.conflict {
            self.conflict(who, true, Location::Shared { block, offset: conflict.offset as u32 }, conflict);
        }
        // An mbarrier's eight bytes are not the program's while it lives.
        let over = self.blocks[block].mbarriers.range(offset.saturating_sub(7)..offset + len as u32).next();
        if let Some((&bar, _)) = over {
            self.report(who, Kind::Mbarrier, format!("{len} bytes written over the live mbarrier at {bar:#x}"), None);
        }
    }

    fn unwritten(&mut self, who: &Actor, at: Location) {
        self.report(who, Kind::Uninitialised, format!("{at} was never written"), None);
    }

    /// Reports two accesses that nothing orders, or a missing proxy fence.
    pub fn conflict(&mut self, who: &Actor, writes: bool, at: Location, conflict: Conflict) {
        let asynchronous = |e: Epoch| self.agents[e.agent as usize].asynchronous;
        let how = |w: bool| if w { "written" } else { "read" };
        let (now, then) = (how(writes), how(conflict.wrote));
        let earlier = conflict.earlier;
        let others_rows = who.lane == Lane::OthersRows && !conflict.unfenced && !asynchronous(earlier)
            || earlier.lane() == Lane::OthersRows && who.agent == who.issuer;
        let (kind, message) = if others_rows {
            let rule = "nothing orders a multiply by other warps of the warpgroup and the write of its rows of A";
            (Kind::WarpgroupOrder, format!("{at} is {now}, and was {then}: {rule}"))
        } else if !conflict.unfenced && who.apart(earlier) {
            let kind = if who.agent == who.issuer { Kind::Race } else { Kind::InFlight };
            let lanes = "another lane of the same warp, and the two have not met since (bar.warp.sync)";
            (kind, format!("{at} is {now}, and was {then} by {lanes}"))
        } else if conflict.unfenced && who.proxy == Proxy::Tensor {
            let fences = "tcgen05.fence::before_thread_sync on one side or ::after_thread_sync on the other";
            (Kind::TensorOrder, format!("{at} is {now}, {then} before by another thread, without {fences}"))
        } else if conflict.unfenced {
            (
                Kind::ProxyFence,
                format!("{at} is {now} by an asynchronous unit, {then} before with no proxy fence between"),
            )
        } else if who.known.seen.covers_lane(earlier.by(Lane::Any)) {
            let lanes = "another lane than the one that has released, which it had not met before (bar.warp.sync)";
            // That a wait of tcgen05 is for a whole warp, hardware may know and PTX does not say.
            let kind = if who.proxy == Proxy::Tensor { Kind::TensorOrder } else { Kind::Race };
            (kind, format!("{at} is {now}, and was {then} by {lanes}"))
        } else if asynchronous(conflict.earlier) {
            (Kind::InFlight, format!("{at} is {now}, with no wait for the operation by which it was {then}"))
        } else if asynchronous(who.epoch()) {
            (
                Kind::InFlight,
                format!("{at} is {now} by an asynchronous operation, and was {then} with nothing to order the two"),
            )
        } else {
            (Kind::Race, format!("{at} is {now}, and was {then} with nothing to order the two"))
        };
        self.report(who, kind, message, Some(conflict.earlier));
    }
}

impl GlobalView {
    /// Whether a range lies in one allocation.
    pub fn holds(&self, addr: u64, len: usize) -> bool {
        self.base().find(addr, len).is_some()
    }
}
