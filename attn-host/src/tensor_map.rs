//! Tensor maps: how a TMA finds a tile of a strided tensor.
//!
//! [`Tiled::new`] checks every rule of `cuTensorMapEncodeTiled` when a plan is made, so that a launch only adds the address.

use attn_kernel::forward::{DType, TensorMap};

use crate::driver::Driver;
use crate::error::Error;
use crate::layout::Layout;

/// `CU_TENSOR_MAP_DATA_TYPE_*` of an element type.
fn data_type(dtype: DType) -> i32 {
    match dtype {
        DType::Bf16 => 9,
        DType::F16 => 6,
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

/// A tensor map of rank 4 without its address: `(dim, seq, heads, batch)`, innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiled {
    argument: &'static str,
    dtype: DType,
    dims: [u64; 4],
    /// Bytes.
    strides: [u64; 3],
    tile: [u32; 4],
    swizzle: Swizzle,
}

impl Tiled {
    /// A map of the tensor that loads or stores boxes of `rows` sequence positions by `panel` elements of one head.
    pub(crate) fn new(
        argument: &'static str,
        dtype: DType,
        layout: &Layout,
        panel: u32,
        rows: u32,
    ) -> Result<Self, Error> {
        let bytes = u64::from(dtype.bytes());
        let swizzle = if u64::from(panel) * bytes == 128 { Swizzle::Bytes128 } else { Swizzle::Bytes64 };
        let strides = layout.strides.map(|s| s * bytes);
        Tiled { argument, dtype, dims: layout.dims, strides, tile: [panel, rows, 1, 1], swizzle }.checked()
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
        let mut map = TensorMap([0; 16]);
        // SAFETY: `map` is 128 bytes, 64-byte aligned; the arrays have the 4, 3, 4 and 4 entries that rank 4 needs. The
        // address is only written into the map.
        let code = unsafe {
            (driver.encode_tiled)(
                &mut map,
                data_type(self.dtype),
                4,
                address as *mut _,
                self.dims.as_ptr(),
                self.strides.as_ptr(),
                self.tile.as_ptr(),
                [1u32; 4].as_ptr(),
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

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: Tiled = Tiled {
        argument: "k",
        dtype: DType::Bf16,
        dims: [72, 1000, 4, 2],
        strides: [576, 144, 576_000],
        tile: [64, 176, 1, 1],
        swizzle: Swizzle::Bytes128,
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
            assert_eq!(refused(Tiled { dims: [72, value, 4, 2], ..VALID }), ("globalDim", value));
        }
        for value in [8, 1 << 40] {
            assert_eq!(refused(Tiled { strides: [576, value, 0], ..VALID }), ("globalStrides", value));
        }
        for value in [0, 257] {
            assert_eq!(refused(Tiled { tile: [64, value, 1, 1], ..VALID }), ("boxDim", u64::from(value)));
        }
        assert_eq!(refused(Tiled { tile: [32, 176, 1, 1], ..VALID }), ("boxDim[0] in bytes", 64));
        assert_eq!(refused(Tiled { swizzle: Swizzle::Bytes64, ..VALID }), ("boxDim[0] in bytes", 128));
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let limits = Tiled { dims: [1 << 32; 4], strides: [0, (1 << 40) - 16, 16], tile: [64, 256, 256, 256], ..VALID };
        assert_eq!(limits.checked(), Ok(limits));
    }
}
