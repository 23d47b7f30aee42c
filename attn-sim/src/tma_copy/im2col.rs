//! Copies of columns of pixels.
//!
//! A column begins at the base of a filter and takes a pixel at each base that follows: to the end of the box of bases in width,
//! then in height, then in depth, then in the next image. What is copied is the pixel a fixed offset away from the base, a row of
//! shared memory each; pixels outside the image are outside the tensor.

use super::{CopyError, Image, check_column};
use crate::tensor_map::{MAX_RANK, Pixels, TensorMap};

/// A store keeps to the image.
pub(super) fn check_store(map: &TensorMap) -> Result<(), CopyError> {
    let Some(pixels) = &map.pixels else { return Ok(()) };
    match (0..map.rank - 2).find(|&i| pixels.lower[i] < 0 || pixels.upper[i] > 0) {
        Some(i) => Err(CopyError::StoreBox { dim: i + 1 }),
        None => Ok(()),
    }
}

fn check(map: &TensorMap, pixels: &Pixels, base: &[i32], offsets: &[u16]) -> Result<(), CopyError> {
    if base.len() != map.rank {
        return Err(CopyError::Rank { got: base.len(), rank: map.rank });
    }
    if !offsets.is_empty() && offsets.len() != map.rank - 2 {
        return Err(CopyError::Offsets { got: offsets.len(), rank: map.rank });
    }
    check_column(map, base[0])?;
    for (dim, &got) in base.iter().enumerate().take(map.rank - 1).skip(1) {
        let (first, last) = map.bases(pixels, dim);
        if !(first..=last).contains(&got.into()) {
            return Err(CopyError::Base { dim, got, first, last });
        }
    }
    let most = map.largest_offset();
    match offsets.iter().position(|got| *got > most) {
        Some(i) => Err(CopyError::Offset { dim: i + 1, got: offsets[i], most }),
        None => Ok(()),
    }
}

impl Image<'_> {
    pub(super) fn im2col(&mut self, base: &[i32], offsets: &[u16]) -> Result<(), CopyError> {
        let Some(pixels) = &self.map.pixels else { return Err(CopyError::Mode { im2col: false }) };
        check(self.map, pixels, base, offsets)?;
        let (rank, mut at) = (self.map.rank, [0; MAX_RANK]);
        at[..rank].copy_from_slice(base);
        for _ in 0..pixels.per_column {
            let mut place = [0; MAX_RANK];
            for (dim, place) in place.iter_mut().enumerate().take(rank) {
                let offset = if dim == 0 { None } else { offsets.get(dim - 1) };
                *place = at[dim].wrapping_add(offset.copied().unwrap_or(0).into());
            }
            self.row(base[0], self.row_address(&place[1..rank]));
            self.next_base(pixels, &mut at);
        }
        Ok(())
    }

    /// Moves on by a pixel, with a carry from dimension to dimension.
    fn next_base(&self, pixels: &Pixels, at: &mut [i32; MAX_RANK]) {
        let images = self.map.rank - 1;
        for (dim, at) in at.iter_mut().enumerate().take(images).skip(1) {
            let (first, last) = self.map.bases(pixels, dim);
            let next = i64::from(*at) + i64::from(self.map.step(dim));
            *at = if next <= last { next } else { first } as i32;
            if next <= last {
                return;
            }
        }
        at[images] = at[images].wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Coordinates, CopyPlan, Source, load, store};
    use super::*;
    use crate::tensor_map::EncodeIm2col;
    use crate::tensor_map::im2col_tests::convolution;

    const SHARED: u32 = 2048;

    fn column(args: EncodeIm2col, base: &[i32], offsets: &[u16]) -> Result<CopyPlan, CopyError> {
        load(&args.encode().expect("the map is valid"), Coordinates::Im2col { base, offsets }, SHARED)
    }

    /// Where the first 16 bytes of a row come from.
    fn source(plan: &CopyPlan, row: u32) -> Source {
        let at = SHARED + row * 128;
        let physical = crate::layout::swizzle::Swizzle::B128.apply(at);
        let piece = plan.pieces.iter().find(|p| (p.shared..p.shared + p.bytes).contains(&physical)).expect("a piece");
        piece.source.plus((physical - piece.shared).into())
    }

    /// The definition: output pixels of a convolution in order, from one on, and what the filter's element `(r, s)` multiplies.
    fn definition(stride: i32, from: i32, rows: u32, (s, r): (i32, i32)) -> Vec<Source> {
        let (width, height, images) = (9, 14, 4);
        let (across, down) = ((width - 1) / stride + 1, (height - 1) / stride + 1);
        let of = |i: i32| {
            let (w, h, n) = (i % across * stride - 1 + s, i / across % down * stride - 1 + r, i / (across * down));
            let inside = (0..width).contains(&w) && (0..height).contains(&h) && n < images;
            let pixel = i64::from((n * height + h) * width + w);
            if inside { Source::Global((0x10000 + pixel * 128) as u64) } else { Source::Outside }
        };
        (from..from + rows as i32).map(of).collect()
    }

    #[test]
    fn a_column_is_what_a_convolution_multiplies() {
        for stride in [1, 2] {
            let steps = [1, stride as u32, stride as u32, 1];
            let args = EncodeIm2col { element_strides: &steps, pixels_per_column: 100, ..convolution() };
            let (across, down) = (8 / stride + 1, 13 / stride + 1);
            for from in [0, 5, across * down - 3, 3 * across * down + 20] {
                let at = [from % across * stride - 1, from / across % down * stride - 1, from / (across * down)];
                let base = [0, at[0], at[1], at[2]];
                for (s, r) in [(0, 0), (2, 0), (1, 2), (2, 2)] {
                    let plan = column(args, &base, &[s as u16, r as u16]).unwrap();
                    assert_eq!(plan.bytes, 100 * 128, "pixels outside count");
                    let found: Vec<_> = (0..100).map(|row| source(&plan, row)).collect();
                    assert_eq!(
                        found,
                        definition(stride, from, 100, (s, r)),
                        "stride {stride}, from {from}, ({s}, {r})"
                    );
                }
            }
        }
    }

    #[test]
    fn one_and_three_spatial_dimensions() {
        let flat = EncodeIm2col {
            global_dim: &[64, 10, 3],
            global_strides: &[128, 1280],
            pixel_box_lower_corner: &[0],
            pixel_box_upper_corner: &[-2],
            element_strides: &[1, 1, 1],
            pixels_per_column: 4,
            ..convolution()
        };
        let plan = column(flat, &[0, 6, 1], &[2]).unwrap();
        let pixels = [18, 19, 22, 23].map(|pixel| Source::Global(0x10000 + pixel * 128));
        assert_eq!([0, 1, 2, 3].map(|row| source(&plan, row)), pixels);
        let deep = EncodeIm2col {
            global_dim: &[64, 2, 2, 2, 3],
            global_strides: &[128, 256, 512, 1024],
            pixel_box_lower_corner: &[0, 0, 0],
            pixel_box_upper_corner: &[0, 0, 0],
            element_strides: &[1; 5],
            pixels_per_column: 4,
            ..convolution()
        };
        let plan = column(deep, &[0, 0, 1, 1, 0], &[]).unwrap();
        assert_eq!([0, 1, 2, 3].map(|row| source(&plan, row)), [6, 7, 8, 9].map(|p| Source::Global(0x10000 + p * 128)));
    }

    #[test]
    fn misuse_is_named() {
        let error = |base: &[i32], offsets: &[u16]| column(convolution(), base, offsets).expect_err("it is refused");
        assert_eq!(error(&[0, 0, 0], &[0, 0]), CopyError::Rank { got: 3, rank: 4 });
        assert_eq!(error(&[0, 0, 0, 0], &[0]), CopyError::Offsets { got: 1, rank: 4 });
        assert_eq!(error(&[0, 0, 0, 0], &[0, 256]), CopyError::Offset { dim: 2, got: 256, most: 255 });
        assert_eq!(error(&[0, 8, 0, 0], &[]), CopyError::Base { dim: 1, got: 8, first: -1, last: 7 });
        assert!(error(&[4, 0, 0, 0], &[]).is_illegal_instruction());
        let map = convolution().encode().unwrap();
        let tile = load(&map, Coordinates::Tile(&[0, 0, 0, 0]), SHARED).unwrap_err();
        assert_eq!(tile.to_string(), "the tensor map is an im2col map, the instruction is of the other mode");
        let stored = store(&map, Coordinates::Im2col { base: &[0; 4], offsets: &[] }, SHARED);
        assert_eq!(stored, Err(CopyError::StoreBox { dim: 1 }));
        let inside = EncodeIm2col { pixel_box_lower_corner: &[0, 0], ..convolution() }.encode().unwrap();
        let negative = store(&inside, Coordinates::Im2col { base: &[0, 0, -1, 0], offsets: &[] }, SHARED);
        assert_eq!(negative, Err(CopyError::Negative { dim: 2, got: -1 }));
        assert!(store(&inside, Coordinates::Im2col { base: &[0; 4], offsets: &[] }, SHARED).is_ok());
    }
}
