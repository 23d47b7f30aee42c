//! What typed buffers of any library have in common: element types and lengths are checked against the plan.

use crate::error::Error;
use crate::launch::DevicePtr;
use crate::plan::{Plan, Spans};
use crate::problem::{DType, dtype_name};
use crate::tensors::Tensors;

pub(crate) mod sealed {
    pub trait Sealed {}
    impl Sealed for u16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// Element types that a kernel reads and writes. `u16` stands for the bits of any 16-bit one.
pub trait Element: sealed::Sealed {
    /// The one element type that this is, `None` when it may be any.
    const DTYPE: Option<DType>;
}

impl Element for u16 {
    const DTYPE: Option<DType> = None;
}

impl Element for half::bf16 {
    const DTYPE: Option<DType> = Some(DType::Bf16);
}

impl Element for half::f16 {
    const DTYPE: Option<DType> = Some(DType::F16);
}

/// A buffer of any library: where it starts and how many elements it has.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) address: u64,
    pub(crate) elements: u64,
}

/// The buffers of a launch: Q, K, V, O and LSE.
pub(crate) struct Extents {
    pub(crate) q: Extent,
    pub(crate) k: Extent,
    pub(crate) v: Extent,
    pub(crate) o: Extent,
    pub(crate) lse: Option<Extent>,
}

impl Extents {
    /// The addresses, when the plan is for elements `T` and every buffer is as long as its tensor reaches.
    pub(crate) fn tensors<T: Element>(&self, plan: &Plan) -> Result<Tensors, Error> {
        let dtype = plan.problem().dtype();
        if let Some(found) = T::DTYPE.filter(|&found| found != dtype) {
            let (found, allowed) = (dtype_name(found), dtype_name(dtype));
            return Err(Error::ElementType { argument: "q, k, v and o", found, allowed });
        }
        // What is of 8 bits goes by address.
        let narrow = ["q", "k", "v", "o"].into_iter().zip(plan.problem().types()).find(|(_, dtype)| dtype.bytes() == 1);
        if let Some((argument, allowed)) = narrow {
            let found = T::DTYPE.map_or("a type of 16 bits", dtype_name);
            return Err(Error::ElementType { argument, found, allowed: dtype_name(allowed) });
        }
        let Spans { q, k, v, o, lse } = plan.spans();
        let (q, k) = (reaching("q", self.q, q)?, reaching("k", self.k, k)?);
        let (v, o) = (reaching("v", self.v, v)?, reaching("o", self.o, o)?);
        let lse = self.lse.map(|extent| reaching("lse", extent, lse)).transpose()?;
        Ok(Tensors { lse, ..Tensors::new(q, k, v, o) })
    }
}

fn reaching(argument: &'static str, extent: Extent, needed: u64) -> Result<DevicePtr, Error> {
    let Extent { address, elements } = extent;
    if elements < needed { Err(Error::BufferTooSmall { argument, elements, needed }) } else { Ok(DevicePtr(address)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Float8, Problem, Shape, fake, select};

    const SHAPE: Shape =
        Shape { batch: 1, seqlen_q: 10, seqlen_k: 20, heads: 2, kv_heads: 1, head_dim: 64, head_dim_v: 64 };
    /// Elements of Q, K, V, O and LSE.
    const EXACT: [u64; 5] = [1280, 1280, 1280, 1280, 20];

    fn tensors<T: Element>(lengths: [u64; 5]) -> Result<Tensors, Error> {
        tensors_of::<T>(&Problem::new(DType::Bf16, SHAPE), lengths)
    }

    fn tensors_of<T: Element>(problem: &Problem, lengths: [u64; 5]) -> Result<Tensors, Error> {
        fake::reset();
        let plan = Plan::with_loader(&fake::device(), problem, fake::code, select::choose).expect("valid");
        let extent = |i: usize| Extent { address: 0x10000 * (i as u64 + 1), elements: lengths[i] };
        Extents { q: extent(0), k: extent(1), v: extent(2), o: extent(3), lse: Some(extent(4)) }.tensors::<T>(&plan)
    }

    #[test]
    fn buffers_of_the_exact_length_pass_with_their_addresses() {
        for found in [tensors::<u16>(EXACT), tensors::<half::bf16>(EXACT)] {
            let found = found.expect("valid");
            assert_eq!([found.q, found.k, found.v, found.o].map(|p| p.0), [0x10000, 0x20000, 0x30000, 0x40000]);
            assert_eq!(found.lse, Some(DevicePtr(0x50000)));
        }
    }

    #[test]
    fn a_buffer_that_is_one_element_short_is_named() {
        for (i, argument) in ["q", "k", "v", "o", "lse"].into_iter().enumerate() {
            let mut lengths = EXACT;
            lengths[i] -= 1;
            let (elements, needed) = (lengths[i], EXACT[i]);
            assert_eq!(tensors::<u16>(lengths), Err(Error::BufferTooSmall { argument, elements, needed }));
        }
    }

    #[test]
    fn tensors_of_8_bits_are_no_buffers_of_16() {
        let problem = Problem::new(DType::Bf16, SHAPE);
        for (float8, first) in [(Float8::Keys, "k"), (Float8::All, "q")] {
            for found in [
                tensors_of::<u16>(&problem.float8(float8), EXACT),
                tensors_of::<half::bf16>(&problem.float8(float8), EXACT),
            ] {
                let Err(Error::ElementType { argument, allowed, .. }) = found else { panic!("{float8:?}: {found:?}") };
                assert_eq!((argument, allowed), (first, "e4m3"));
            }
        }
    }

    #[test]
    fn the_other_element_type_is_refused() {
        let found = tensors::<half::f16>(EXACT);
        assert!(matches!(found, Err(Error::ElementType { found: "f16", allowed: "bf16", .. })), "{found:?}");
    }
}
