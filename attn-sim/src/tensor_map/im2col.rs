//! Maps of batches of images, whose copies walk through pixels as a convolution does.

use super::{DataType, EncodeError, Interleave, L2Promotion, MAX_RANK, OobFill, Swizzle, TensorMap, filled, rules};

/// Most spatial dimensions: width, height and depth.
const SPATIAL: usize = MAX_RANK - 2;

/// Which pixels a copy moves. Corners are of width, height and depth, and 0 past the map's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// First place of a filter's base.
    pub lower: [i32; SPATIAL],
    /// Its last place, counted from the image's last pixel.
    pub upper: [i32; SPATIAL],
    /// Pixels that one copy moves.
    pub per_column: u32,
}

/// The arguments of `cuTensorMapEncodeIm2col`; `tensorRank` is the length of `global_dim`. Dimensions are channels, width, height
/// and depth, as many as there are, and the images of the batch.
#[derive(Clone, Copy, Debug)]
pub struct EncodeIm2col<'a> {
    /// Type of the elements.
    pub data_type: DataType,
    /// Address of element (0, 0, ..).
    pub global_address: u64,
    /// Elements in each dimension, innermost first.
    pub global_dim: &'a [u64],
    /// Bytes from one index to the next in dimensions 1.., one entry fewer than dimensions.
    pub global_strides: &'a [u64],
    /// First place of a filter's base in each spatial dimension: less the padding.
    pub pixel_box_lower_corner: &'a [i32],
    /// Its last place, counted from the image's last pixel: the padding less what the filter spans past its base.
    pub pixel_box_upper_corner: &'a [i32],
    /// Channels that are moved of each pixel.
    pub channels_per_pixel: u32,
    /// Pixels that one copy moves.
    pub pixels_per_column: u32,
    /// Distance between filter bases in each dimension.
    pub element_strides: &'a [u32],
    /// Layout of channels in global memory.
    pub interleave: Interleave,
    /// Layout in shared memory.
    pub swizzle: Swizzle,
    /// Size of L2 requests.
    pub l2_promotion: L2Promotion,
    /// What is read outside the tensor.
    pub oob_fill: OobFill,
}

impl EncodeIm2col<'_> {
    /// The tensor map.
    ///
    /// # Errors
    /// The first rule that the arguments break, with the value that breaks it.
    pub fn encode(&self) -> Result<TensorMap, EncodeError> {
        let rank = self.global_dim.len();
        if !(3..=MAX_RANK).contains(&rank) {
            return Err(EncodeError::Rank { got: rank, least: 3 });
        }
        rules::lengths(
            rank,
            &[
                ("globalStrides", self.global_strides.len(), rank - 1),
                ("pixelBoxLowerCorner", self.pixel_box_lower_corner.len(), rank - 2),
                ("pixelBoxUpperCorner", self.pixel_box_upper_corner.len(), rank - 2),
                ("elementStrides", self.element_strides.len(), rank),
            ],
        )?;
        let map = TensorMap {
            data_type: self.data_type,
            rank,
            global_address: self.global_address,
            global_dim: filled(self.global_dim, 1),
            global_strides: filled(self.global_strides, 0),
            box_dim: filled(&[self.channels_per_pixel], 1),
            pixels: Some(Pixels {
                lower: filled(self.pixel_box_lower_corner, 0),
                upper: filled(self.pixel_box_upper_corner, 0),
                per_column: self.pixels_per_column,
            }),
            element_strides: filled(self.element_strides, 1),
            interleave: self.interleave,
            swizzle: self.swizzle,
            l2_promotion: self.l2_promotion,
            oob_fill: self.oob_fill,
        };
        map.check()?;
        Ok(map)
    }
}

impl TensorMap {
    /// First and last place of a filter's base in dimension `dim`, a spatial one of a map with `pixels`.
    pub fn bases(&self, pixels: &Pixels, dim: usize) -> (i64, i64) {
        let last = self.global_dim[dim] as i64 - 1;
        (pixels.lower[dim - 1].into(), last + i64::from(pixels.upper[dim - 1]))
    }

    /// Bits of a corner, and one more than those of an offset.
    fn corner_bits(&self) -> u32 {
        [16, 8, 5][self.rank - 3]
    }

    /// Largest offset that a copy may add to filter bases.
    pub fn largest_offset(&self) -> u16 {
        u16::MAX >> (16 - self.corner_bits())
    }

    /// Checks the rules of `pixels`.
    pub(super) fn check_pixels(&self) -> Result<(), EncodeError> {
        let Some(pixels) = &self.pixels else { return Ok(()) };
        if self.rank < 3 {
            return Err(EncodeError::Rank { got: self.rank, least: 3 });
        }
        if !(1..=1024).contains(&pixels.per_column) {
            return Err(EncodeError::PixelsPerColumn { got: pixels.per_column });
        }
        let end = 1 << (self.corner_bits() - 1);
        for dim in 1..self.rank - 1 {
            let index = dim - 1;
            for (argument, got) in
                [("pixelBoxLowerCorner", pixels.lower[index]), ("pixelBoxUpperCorner", pixels.upper[index])]
            {
                if !(-end..end).contains(&got) {
                    return Err(EncodeError::Corner { argument, index, got, least: -end, most: end - 1 });
                }
            }
            let (first, last) = self.bases(pixels, dim);
            if last < first {
                return Err(EncodeError::EmptyBox { index, first, last });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A 3x3 convolution with padding 1 over 4 images of 9 by 14 pixels of 64 halves.
    pub(crate) fn convolution() -> EncodeIm2col<'static> {
        EncodeIm2col {
            data_type: DataType::Float16,
            global_address: 0x10000,
            global_dim: &[64, 9, 14, 4],
            global_strides: &[128, 128 * 9, 128 * 9 * 14],
            pixel_box_lower_corner: &[-1, -1],
            pixel_box_upper_corner: &[-1, -1],
            channels_per_pixel: 64,
            pixels_per_column: 32,
            element_strides: &[1, 1, 1, 1],
            interleave: Interleave::None,
            swizzle: Swizzle::B128,
            l2_promotion: L2Promotion::None,
            oob_fill: OobFill::Zero,
        }
    }

    #[test]
    fn filter_bases_and_sizes() {
        let map = convolution().encode().unwrap();
        let pixels = map.pixels.unwrap();
        assert_eq!((map.bases(&pixels, 1), map.bases(&pixels, 2)), ((-1, 7), (-1, 12)));
        assert_eq!((map.row_bytes(), map.box_bytes(), map.largest_offset()), (128, 32 * 128, 255));
        assert_eq!(TensorMap::from_bytes(&map.to_bytes()), Ok(map));
    }

    #[test]
    fn rules() {
        let refused = |args: EncodeIm2col| args.encode().expect_err("the arguments break a rule");
        let flat = EncodeIm2col { global_dim: &[64, 9], ..convolution() };
        assert_eq!(refused(flat), EncodeError::Rank { got: 2, least: 3 });
        let short = EncodeIm2col { pixel_box_lower_corner: &[0], ..convolution() };
        let argument = "pixelBoxLowerCorner";
        assert_eq!(refused(short), EncodeError::Length { argument, got: 1, need: 2, rank: 4 });
        let far = EncodeIm2col { pixel_box_lower_corner: &[0, -129], ..convolution() };
        let corner = EncodeError::Corner { argument, index: 1, got: -129, least: -128, most: 127 };
        assert_eq!(refused(far), corner);
        assert_eq!(corner.to_string(), "pixelBoxLowerCorner[1] is -129, allowed are -128 to 127");
        let empty = EncodeIm2col { pixel_box_upper_corner: &[-10, -1], ..convolution() };
        assert_eq!(refused(empty), EncodeError::EmptyBox { index: 0, first: -1, last: -2 });
        for got in [0, 1025] {
            let args = EncodeIm2col { pixels_per_column: got, ..convolution() };
            assert_eq!(refused(args), EncodeError::PixelsPerColumn { got });
        }
        let wide = EncodeIm2col { channels_per_pixel: 257, swizzle: Swizzle::None, ..convolution() };
        assert_eq!(refused(wide), EncodeError::ChannelsPerPixel { got: 257 });
    }
}
