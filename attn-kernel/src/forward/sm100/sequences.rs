//! What a kernel is told of its sequences, as a part that it is composed of: the tiles that there are, where their rows lie, and where
//! results go. [`Dense`](super::dense::Dense) has sequences of equal lengths, [`Ragged`](super::ragged::Ragged) everything else.

use super::block::Shared;
use super::{Maps, Variant};
use crate::attn::mask::Lengths;
use crate::attn::row::{Knobs, Row};
use crate::attn::scores::Modified;
use crate::attn::walk::Tile;

/// A thread's row: of query tile `tile` of a work tile, row `row`.
#[derive(Clone, Copy)]
pub struct Place {
    /// The query tile.
    pub tile: u32,
    /// Its row.
    pub row: u32,
}

/// What the correction does with a row of O.
#[derive(Clone, Copy)]
pub enum Part {
    /// It is the result: to shared memory, from which the store warp takes it.
    Whole,
    /// It is a split's: `columns` f32 to device memory at `to`; 0 columns of a row that does not exist.
    Split {
        /// The row's first element, a multiple of 16 bytes.
        to: *mut f32,
        /// A multiple of 4.
        columns: u32,
    },
}

/// Which lanes of a warp take part in a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// All, converged.
    All,
    /// One, while the others do nothing.
    One,
}

/// A kind of sequences. A value of it is a role's own view, made of the kernel's parameters, with the tiles of the block in order.
pub trait Sequences: Copy {
    /// The kernel's first parameter.
    type Params: Copy;

    /// The view of a role of the block.
    fn new(params: &Self::Params) -> Self;

    /// What the softmax of a tile scales scores with: `softmax_scale * log2(e)`, and the factors of 8-bit Q and K.
    ///
    /// # Safety
    /// The parameters' addresses are those of device memory as they say.
    unsafe fn scale_log2<V: Variant<Sequences = Self>>(params: &Self::Params, work: &Work<V::Mask>) -> f32;

    /// Loads Q, K and V of all tiles of the block.
    ///
    /// # Safety
    /// Called by the load warp, converged.
    unsafe fn load<V: Variant<Sequences = Self>, const TILES: u32, const STAGES: u32>(
        self,
        params: &Self::Params,
        maps: Maps,
        shared: Shared<TILES, STAGES>,
    );

    /// Another role's next tile; what it was told stays until it says that it is [`done`](Self::done).
    ///
    /// # Safety
    /// Called by every warp of the roles other than the load warp, by those lanes of it that `lanes` says.
    unsafe fn next<V: Variant<Sequences = Self>, const TILES: u32, const STAGES: u32>(
        &mut self,
        params: &Self::Params,
        shared: &Shared<TILES, STAGES>,
        lanes: Lanes,
    ) -> Option<Work<V::Mask>>;

    /// The present tile once more, for its end: `work`, or what need not have been kept in registers all along.
    ///
    /// # Safety
    /// Called by whole warps, converged, before they are done with the tile.
    unsafe fn again<V: Variant<Sequences = Self>, const TILES: u32, const STAGES: u32>(
        &self,
        params: &Self::Params,
        shared: &Shared<TILES, STAGES>,
        work: Work<V::Mask>,
    ) -> Work<V::Mask>;

    /// The warp needs not be told the present tile again.
    ///
    /// # Safety
    /// As [`next`](Self::next), once for each tile.
    unsafe fn done<const TILES: u32, const STAGES: u32>(&self, shared: &Shared<TILES, STAGES>, lanes: Lanes);

    /// Which keys a row sees, and which blocks its query tile.
    fn visible<V: Variant<Sequences = Self>>(
        &self,
        params: &Self::Params,
        work: &Work<V::Mask>,
        place: Place,
    ) -> Visible;

    /// What the scores of a row are to be changed by, as those of the first of two rows.
    ///
    /// # Safety
    /// The parameters' addresses are those of device memory as they say.
    unsafe fn modified<V: Variant<Sequences = Self>>(
        &self,
        params: &Self::Params,
        work: &Work<V::Mask>,
        place: Place,
    ) -> Modified;

    /// Ends a row: what its O is multiplied with, and its LSE (natural logarithm).
    ///
    /// # Safety
    /// As [`modified`](Self::modified).
    unsafe fn finish<V: Variant<Sequences = Self>>(
        &self,
        params: &Self::Params,
        work: &Work<V::Mask>,
        place: Place,
        row: &Row,
        knobs: &Knobs,
    ) -> (f32, f32);

    /// Writes a row's LSE to where it belongs.
    ///
    /// # Safety
    /// As [`modified`](Self::modified), once a row.
    unsafe fn store_lse<V: Variant<Sequences = Self>>(
        &self,
        params: &Self::Params,
        work: &Work<V::Mask>,
        place: Place,
        lse: f32,
    );

    /// What the correction does with a row of O.
    fn part<V: Variant<Sequences = Self>>(&self, params: &Self::Params, work: &Work<V::Mask>, place: Place) -> Part;

    /// Where the store warp puts O of query tile `tile`: the coordinates of the first panel, if anywhere.
    fn output<V: Variant<Sequences = Self>>(
        &self,
        params: &Self::Params,
        work: &Work<V::Mask>,
        tile: u32,
    ) -> Option<[i32; 5]>;
}

/// A tile and what it covers.
#[derive(Clone, Copy)]
pub struct Work<M> {
    /// The tile; its head may be a pack of heads.
    pub tile: Tile,
    /// Its first query; with dense tensors its first row, of which a query has one for each head of a pack.
    pub first: u32,
    /// Lengths of its sequence.
    pub lengths: Lengths,
    /// Which keys a query sees.
    pub mask: M,
    /// First key block ...
    pub from: u32,
    /// ... and one past the last, of which there is at least one: a tile that sees no key works on block 0, wholly masked, so that no role
    /// needs a case for it.
    pub to: u32,
    /// Whether any row may see a key of these blocks.
    pub sees: bool,
    /// Which split of the tile's key blocks these are.
    pub split: u32,
    /// The sequence's first row in Q.
    pub q_start: u32,
    /// Tiles that the block has worked on before: every role's uses of the one-stage rings.
    pub rounds: u32,
}

/// Which keys a thread's row sees, and which key blocks all rows of its query tile.
#[derive(Clone, Copy)]
pub struct Visible {
    /// The row's first key; 0 where the mask has no lower edge.
    pub floor: i32,
    /// One past its last.
    pub limit: i32,
    /// Blocks of which every row sees every key.
    pub whole: (u32, u32),
}
