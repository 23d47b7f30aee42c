//! Tensor maps: how a TMA finds a tile of a strided tensor.
//!
//! [`Tiled::new`] checks every rule of `cuTensorMapEncodeTiled` when a plan is made, so that a launch only adds the address.

use attn_kernel::forward::{DType, TensorMap};

use crate::driver::Driver;
use crate::error::Error;
use crate::layout::Layout;
use crate::tensors::Tensors;

/// `CU_TENSOR_MAP_DATA_TYPE_*` of an element type.
fn data_type(dtype: DType) -> i32 {
    match dtype {
        DType::Bf16 => 9,
        DType::F16 => 6,
        // Copies do not look at bytes.
        DType::E4m3 => 0,
        // A new element type gets its line here together with its kernels: the test below walks over all of them.
        other => unreachable!("no kernel computes in {other:?}"),
    }
}

/// How the 16-byte units of a box row are permuted in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swizzle {
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// That of a panel whose rows have `bytes` bytes.
    fn of_row(bytes: u64) -> Self {
        if bytes == 128 { Swizzle::Bytes128 } else { Swizzle::Bytes64 }
    }

    /// `CU_TENSOR_MAP_SWIZZLE_*`.
    fn code(self) -> i32 {
        match self {
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes128 => 3,
        }
    }

    /// Bytes of a box row.
    fn span(self) -> u64 {
        match self {
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }
}

/// The most dimensions that a tensor has here.
const RANK: usize = 5;

/// A tensor map without its address: of rank 4, `(dim, seq, heads, batch)`, innermost first, or of rank 5,
/// `(dim, pack, seq, heads / pack, batch)` or a ragged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiled {
    argument: &'static str,
    dtype: DType,
    rank: usize,
    /// Sizes; 1 beyond the rank.
    dims: [u64; RANK],
    /// Bytes from one to the next of every dimension but the first; 0 beyond the rank.
    strides: [u64; RANK - 1],
    /// Sizes of the box; 1 beyond the rank.
    tile: [u32; RANK],
    swizzle: Swizzle,
    /// Bytes by which the map's address lies below the tensor's.
    below: u64,
}

impl Tiled {
    /// A map of the tensor that loads or stores boxes of `tile`: elements of one head, then sequence positions.
    pub(crate) fn new(
        argument: &'static str,
        dtype: DType,
        layout: &Layout,
        (panel, rows): (u32, u32),
    ) -> Result<Self, Error> {
        let bytes = u64::from(dtype.bytes());
        let [dim, seq, heads, batch] = layout.dims;
        let [to_seq, to_head, to_batch] = layout.strides.map(|stride| stride * bytes);
        Tiled {
            argument,
            dtype,
            rank: 4,
            dims: [dim, seq, heads, batch, 1],
            strides: [to_seq, to_head, to_batch, 0],
            tile: [panel, rows, 1, 1, 1],
            swizzle: Swizzle::of_row(u64::from(panel) * bytes),
            below: 0,
        }
        .checked()
    }

    /// A map whose boxes of `tile` have `pack` neighbouring heads for each sequence position, the heads next to each other: row `r`
    /// of a box is head `r % pack` at position `r / pack`. `pack` divides the heads and the box's rows.
    pub(crate) fn packed(
        argument: &'static str,
        dtype: DType,
        layout: &Layout,
        (panel, rows): (u32, u32),
        pack: u32,
    ) -> Result<Self, Error> {
        let bytes = u64::from(dtype.bytes());
        let [dim, seq, heads, batch] = layout.dims;
        let [to_seq, to_head, to_batch] = layout.strides.map(|stride| stride * bytes);
        let packs = heads / u64::from(pack);
        // With one pack nothing ever steps to the next, and its distance need not be one that a map can hold.
        let to_pack = if packs == 1 { to_head } else { to_head.saturating_mul(u64::from(pack)) };
        Tiled {
            argument,
            dtype,
            rank: 5,
            dims: [dim, u64::from(pack), seq, packs, batch],
            strides: [to_head, to_seq, to_pack, to_batch],
            tile: [panel, pack, rows / pack, 1, 1],
            swizzle: Swizzle::of_row(u64::from(panel) * bytes),
            below: 0,
        }
        .checked()
    }

    /// A map with these dimensions, strides in elements and box, whose address lies `below` elements before the tensor's. No coordinates that a
    /// copy is given reach what is there.
    pub(crate) fn ragged(
        argument: &'static str,
        dtype: DType,
        dims: [u64; RANK],
        strides: [u64; RANK - 1],
        tile: [u32; RANK],
        below: u64,
    ) -> Result<Self, Error> {
        let bytes = u64::from(dtype.bytes());
        Tiled {
            argument,
            dtype,
            rank: 5,
            dims,
            strides: strides.map(|stride| stride.saturating_mul(bytes)),
            tile,
            swizzle: Swizzle::of_row(u64::from(tile[0]) * bytes),
            below: below.saturating_mul(bytes),
        }
        .checked()
    }

    fn checked(self) -> Result<Self, Error> {
        let refuse = |field, value, allowed| Err(Error::TensorMap { argument: self.argument, field, value, allowed });
        for dim in self.dims {
            if dim == 0 || dim > 1 << 32 {
                return refuse("globalDim", dim, "1 to 2^32");
            }
        }
        for stride in self.strides {
            if stride % 16 != 0 || stride >= 1 << 40 {
                return refuse("globalStrides", stride, "multiples of 16 bytes below 2^40");
            }
        }
        for extent in self.tile {
            if extent == 0 || extent > 256 {
                return refuse("boxDim", u64::from(extent), "1 to 256");
            }
        }
        let row = u64::from(self.tile[0]) * u64::from(self.dtype.bytes());
        if row != self.swizzle.span() {
            return refuse("boxDim[0] in bytes", row, "64 or 128: the swizzle's span");
        }
        Ok(self)
    }

    /// `CU_TENSOR_MAP_L2_PROMOTION_*`: L2 fetches 128 or 256 bytes for each miss, no more than a row surely has.
    fn l2_promotion(&self) -> i32 {
        if self.dims[0] * u64::from(self.dtype.bytes()) >= 256 { 3 } else { 2 }
    }

    /// The map of the tensor at `address`.
    pub(crate) fn encode(&self, driver: &Driver, address: u64) -> Result<TensorMap, Error> {
        const NO_INTERLEAVE: i32 = 0;
        const OUTSIDE_IS_ZERO: i32 = 0;
        let address = address.checked_sub(self.below).ok_or(Error::Overflow {
            argument: self.argument,
            what: "the address",
            allowed: "at least that of a copy's rows before the tensor",
        })?;
        let mut map = TensorMap([0; 16]);
        // SAFETY: `map` is 128 bytes, 64-byte aligned; the arrays have the entries that a rank of up to 5 needs. The address is
        // only written into the map.
        let code = unsafe {
            (driver.encode_tiled)(
                &mut map,
                data_type(self.dtype),
                self.rank as u32,
                address as *mut _,
                self.dims.as_ptr(),
                self.strides.as_ptr(),
                self.tile.as_ptr(),
                [1u32; RANK].as_ptr(),
                NO_INTERLEAVE,
                self.swizzle.code(),
                self.l2_promotion(),
                OUTSIDE_IS_ZERO,
            )
        };
        driver.check("cuTensorMapEncodeTiled", code)?;
        Ok(map)
    }
}

/// The tensor maps of the four tensors, without their addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maps {
    pub(crate) q: Tiled,
    pub(crate) k: Tiled,
    pub(crate) v: Tiled,
    pub(crate) o: Tiled,
}

impl Maps {
    /// The maps of Q, K, V and O of a launch.
    pub(crate) fn encode(&self, driver: &Driver, tensors: &Tensors) -> Result<[TensorMap; 4], Error> {
        let Tensors { q, k, v, o, .. } = tensors;
        Ok([
            self.q.encode(driver, q.0)?,
            self.k.encode(driver, k.0)?,
            self.v.encode(driver, v.0)?,
            self.o.encode(driver, o.0)?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: Tiled = Tiled {
        argument: "k",
        dtype: DType::Bf16,
        rank: 4,
        dims: [72, 1000, 4, 2, 1],
        strides: [576, 144, 576_000, 0],
        tile: [64, 176, 1, 1, 1],
        swizzle: Swizzle::Bytes128,
        below: 0,
    };

    fn refused(tiled: Tiled) -> (&'static str, u64) {
        match tiled.checked() {
            Err(Error::TensorMap { argument: "k", field, value, .. }) => (field, value),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_kernels_element_type_has_a_code() {
        for kernel in attn_kernel::forward::KERNELS {
            assert!([6, 9].contains(&data_type(kernel.dtype)), "{}", kernel.name);
        }
    }

    #[test]
    fn every_rule_names_its_field_and_value() {
        assert_eq!(VALID.checked(), Ok(VALID));
        for value in [0, (1 << 32) + 1] {
            assert_eq!(refused(Tiled { dims: [72, value, 4, 2, 1], ..VALID }), ("globalDim", value));
        }
        for value in [8, 1 << 40] {
            assert_eq!(refused(Tiled { strides: [576, value, 0, 0], ..VALID }), ("globalStrides", value));
        }
        for value in [0, 257] {
            assert_eq!(refused(Tiled { tile: [64, value, 1, 1, 1], ..VALID }), ("boxDim", u64::from(value)));
        }
        assert_eq!(refused(Tiled { tile: [32, 176, 1, 1, 1], ..VALID }), ("boxDim[0] in bytes", 64));
        assert_eq!(refused(Tiled { swizzle: Swizzle::Bytes64, ..VALID }), ("boxDim[0] in bytes", 128));
    }

    #[test]
    fn packed_heads_are_a_dimension_of_their_own() {
        let layout = Layout { dims: [64, 1000, 12, 2], strides: [768, 64, 768_000], span: 0 };
        let map = Tiled::packed("q", DType::F16, &layout, (64, 128), 4).expect("valid");
        assert_eq!((map.rank, map.dims, map.tile), (5, [64, 4, 1000, 3, 2], [64, 4, 32, 1, 1]));
        assert_eq!(map.strides, [128, 1536, 512, 1_536_000]);
        let alone = Tiled::packed("q", DType::F16, &layout, (64, 128), 1).expect("valid");
        assert_eq!((alone.dims, alone.tile), ([64, 1, 1000, 12, 2], [64, 1, 128, 1, 1]));
    }

    #[test]
    fn only_heads_that_are_there_must_be_within_a_maps_reach() {
        let far = (1 << 39) - 8;
        let layout = |heads| Layout { dims: [64, 1, heads, 1], strides: [64, far, 64], span: 0 };
        assert!(Tiled::packed("q", DType::F16, &layout(4), (64, 128), 4).is_ok());
        assert_eq!(
            Tiled::packed("k", DType::F16, &layout(8), (64, 128), 4)
                .map_err(|e| e.to_string().contains("globalStrides")),
            Err(true)
        );
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let limits = Tiled {
            rank: 5,
            dims: [1 << 32; 5],
            strides: [0, (1 << 40) - 16, 16, 32],
            tile: [64, 256, 256, 256, 256],
            ..VALID
        };
        assert_eq!(limits.checked(), Ok(limits));
    }
}
