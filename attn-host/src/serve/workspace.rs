//! What lies in the workspace of a launch: the list of tiles, then what the splits have found.

use attn_kernel::forward::schedule;

use super::tiles::{Tiles, rows};
use crate::error::Error;
use crate::problem::Problem;

/// Every part starts on a multiple of this many bytes, and the workspace too.
pub(crate) const ALIGNMENT: u64 = 256;

/// Offsets in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Workspace {
    /// The list of tiles, where queries are packed.
    pub(crate) list: Option<u64>,
    /// O and LSE of each split, where there are several.
    pub(crate) partial: Option<(u64, u64)>,
    /// Bytes in all.
    pub(crate) bytes: u64,
}

impl Workspace {
    pub(crate) fn of(problem: &Problem, tiles: &Tiles) -> Result<Self, Error> {
        let mut next = Some(0u64);
        let mut take = |bytes: Option<u64>| {
            let at = next;
            next = next.zip(bytes).and_then(|(at, bytes)| at.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT));
            at.unwrap_or(0)
        };
        // Units, and so entries, are fewer than 2^30.
        let list = problem.serving.packed_q.map(|_| take(Some(4 * schedule::list_words(tiles.cut.entries as u32))));
        let partial = (tiles.splits > 1).then(|| {
            let rows = rows(problem).checked_mul(problem.shape.heads * u64::from(tiles.splits));
            let values = rows.and_then(|rows| rows.checked_mul(4 * problem.shape.head_dim_v));
            (take(values), take(rows.and_then(|rows| rows.checked_mul(4))))
        });
        let bytes = next.filter(|&bytes| bytes <= i64::MAX as u64).ok_or(Error::Overflow {
            argument: "workspace",
            what: "the size",
            allowed: "at most 2^63 - 1 bytes",
        })?;
        Ok(Workspace { list, partial, bytes })
    }
}
