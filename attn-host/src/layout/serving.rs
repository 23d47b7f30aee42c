//! Checks what makes a problem more than a dense one.

use std::f32::consts::LOG2_E;

use attn_kernel::attn::sequence::UNLIMITED;

use super::{MAX_COUNT, MAX_SEQLEN};
use crate::error::Error;
use crate::problem::{Float8, PagedKv, Problem, Splits, float8_name};

/// Refuses sizes and combinations that no kernel computes.
pub(super) fn check(problem: &Problem) -> Result<(), Error> {
    let serving = &problem.serving;
    if !problem.is_dense() {
        check_lengths(problem)?;
    }
    if serving.paged.is_some() && serving.packed_k.is_some() {
        return Err(Error::Combination {
            first: "paged K and V",
            second: "packed keys (cu_seqlens_k)",
            allowed: "one of both",
        });
    }
    for (argument, total) in [("total_q", serving.packed_q), ("total_k", serving.packed_k)] {
        if let Some(value) = total.filter(|&total| total == 0 || total > MAX_SEQLEN) {
            return Err(Error::Size { argument, value, allowed: "1 to 2147482624" });
        }
    }
    if let Some(paged) = serving.paged {
        check_pages(paged)?;
        let (value, room) = (problem.shape.seqlen_k, paged.page_size * paged.table_width);
        if value > room {
            return Err(Error::Size { argument: "seqlen_k", value, allowed: "at most page_size * table_width" });
        }
    }
    if serving.descales.is_some() && serving.float8 == Float8::None {
        return Err(Error::Combination {
            first: "factors (descales)",
            second: float8_name(serving.float8),
            allowed: "factors with tensors of 8 bits",
        });
    }
    if let Some(softcap) = serving.softcap {
        check_softcap(softcap, problem.scale)?;
    }
    match serving.splits {
        Some(Splits::Exactly(splits)) if splits == 0 || splits > Splits::MOST => {
            Err(Error::Size { argument: "splits", value: u64::from(splits), allowed: "1 to 128" })
        }
        _ => Ok(()),
    }
}

/// Refuses sequences whose positions a serving kernel could not count.
pub(crate) fn check_lengths(problem: &Problem) -> Result<(), Error> {
    for (argument, value) in [("seqlen_q", problem.shape.seqlen_q), ("seqlen_k", problem.shape.seqlen_k)] {
        if value > u64::from(UNLIMITED) {
            return Err(Error::Size { argument, value, allowed: "1 to 536870912 where the problem is not dense" });
        }
    }
    Ok(())
}

/// Refuses pages and tables that no kernel addresses.
pub(crate) fn check_pages(PagedKv { page_size, pages, table_width }: PagedKv) -> Result<(), Error> {
    if !page_size.is_power_of_two() || page_size < 16 || page_size > u64::from(UNLIMITED) {
        return Err(Error::Size {
            argument: "page_size",
            value: page_size,
            allowed: "a power of two from 16 to 536870912",
        });
    }
    for (argument, value) in [("pages", pages), ("table_width", table_width)] {
        if value == 0 || value > MAX_COUNT {
            return Err(Error::Size { argument, value, allowed: "1 to 2147483647" });
        }
    }
    Ok(())
}

fn check_softcap(softcap: f32, scale: f32) -> Result<(), Error> {
    let factors = [softcap * LOG2_E, 1.0 / softcap, 2.0 * LOG2_E * scale / softcap];
    if softcap > 0.0 && factors.iter().all(|factor| factor.is_normal()) {
        return Ok(());
    }
    Err(Error::Softcap {
        value: softcap,
        allowed: "above 0 and finite, also when multiplied by log2(e) or dividing the scale",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layouts;
    use crate::problem::{DType, Shape};

    const SHAPE: Shape =
        Shape { batch: 2, seqlen_q: 100, seqlen_k: 200, heads: 8, kv_heads: 2, head_dim: 64, head_dim_v: 32 };
    const PAGED: PagedKv = PagedKv { page_size: 64, pages: 7, table_width: 4 };

    fn problem() -> Problem {
        Problem::new(DType::Bf16, SHAPE)
    }

    fn error_of(problem: Problem) -> Error {
        Layouts::of(&problem).expect_err("must be refused")
    }

    fn size(problem: Problem) -> (&'static str, u64) {
        match error_of(problem) {
            Error::Size { argument, value, .. } => (argument, value),
            other => panic!("not about a size: {other}"),
        }
    }

    #[test]
    fn packed_and_paged_tensors_have_their_own_dimensions() {
        let packed = Layouts::of(&problem().packed_q(150).packed_k(300)).expect("valid");
        assert_eq!((packed.q.dims, packed.o.dims), ([64, 150, 8, 1], [32, 150, 8, 1]));
        assert_eq!((packed.k.dims, packed.v.dims), ([64, 300, 2, 1], [32, 300, 2, 1]));
        assert_eq!((packed.q.span, packed.lse.span), (150 * 8 * 64, 150 * 8));
        assert_eq!(packed.lse.strides[0], 150);
        let paged = Layouts::of(&problem().paged(PAGED)).expect("valid");
        assert_eq!((paged.k.dims, paged.v.dims), ([64, 64, 2, 7], [32, 64, 2, 7]));
        assert_eq!(paged.k.strides, [128, 64, 64 * 128]);
        assert_eq!(paged.q.dims, [64, 100, 8, 2]);
    }

    #[test]
    fn a_stride_from_page_to_page_is_called_so() {
        let strides = crate::Strides { batch: 4, seq: 128, head: 64 };
        let found = error_of(problem().paged(PAGED).strides_k(strides));
        assert!(matches!(found, Error::Stride { argument: "k", dimension: "page", value: 4, .. }), "{found}");
    }

    #[test]
    fn sizes_outside_their_range_are_named() {
        for value in [0, 1 << 31, u64::MAX] {
            assert_eq!(size(problem().packed_q(value)), ("total_q", value));
            assert_eq!(size(problem().packed_k(value)), ("total_k", value));
            assert_eq!(size(problem().paged(PagedKv { pages: value, ..PAGED })), ("pages", value));
            assert_eq!(size(problem().paged(PagedKv { table_width: value, ..PAGED })), ("table_width", value));
        }
        for value in [0, 1, 8, 17, 48, (1 << 29) + 1, 1 << 30, u64::MAX] {
            assert_eq!(size(problem().paged(PagedKv { page_size: value, ..PAGED })), ("page_size", value));
        }
        assert_eq!(size(problem().paged(PagedKv { table_width: 3, ..PAGED })), ("seqlen_k", 200));
        for value in [0, 129, u32::MAX] {
            assert_eq!(size(problem().splits(Splits::Exactly(value))), ("splits", u64::from(value)));
        }
        assert!(Layouts::of(&problem().splits(Splits::Exactly(128))).is_ok());
    }

    #[test]
    fn only_dense_sequences_may_be_longer_than_a_window_can_count() {
        let long = |seqlen_q, seqlen_k| Problem::new(DType::Bf16, Shape { seqlen_q, seqlen_k, ..SHAPE });
        let (most, more) = (1 << 29, (1 << 29) + 1);
        assert!(Layouts::of(&long(more, more)).is_ok());
        assert!(Layouts::of(&long(most, most).sinks()).is_ok());
        assert_eq!(size(long(more, most).sinks()), ("seqlen_q", more));
        assert_eq!(size(long(most, more).window(Some(1), None)), ("seqlen_k", more));
    }

    #[test]
    fn pages_of_packed_keys_make_no_sense() {
        let found = error_of(problem().paged(PAGED).packed_k(300));
        assert!(matches!(found, Error::Combination { first: "paged K and V", allowed: "one of both", .. }), "{found}");
    }

    #[test]
    fn softcaps_that_are_no_cap_are_refused() {
        for value in [0.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45] {
            let found = error_of(problem().softcap(value));
            assert!(matches!(found, Error::Softcap { value: v, .. } if v == value), "{found}");
        }
        assert!(matches!(error_of(problem().softcap(f32::NAN)), Error::Softcap { value, .. } if value.is_nan()));
        assert!(Layouts::of(&problem().softcap(30.0)).is_ok());
    }
}
