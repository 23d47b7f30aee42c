//! Sets of problems to time.

use attn_host::Arrays;
use attn_tests::bench::shapes;
use attn_tests::case::Case;
use attn_tests::serve::lengths::Lengths;
use clap::ValueEnum;

use crate::error::Failure;
use crate::options::{Scores, Sizes};
use crate::problem::Spec;

/// A set of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mix {
    /// Whole sequences, 16,384 tokens and hidden size 2048 in all: what README's table has
    Dense,
    /// Packed sequences of different lengths, about as many tokens
    Packed,
    /// One query of each sequence against a cache, dense and in pages; 64 query heads on 8 of K and V
    Decode,
    /// A few of each
    Short,
    /// One of each, small: whether it works, not how fast
    Tiny,
}

/// Packed batches: lengths, causal, query heads on a key/value head.
const PACKED: [(&str, bool, u64); 8] = [
    ("16*1024", false, 1),
    ("16*1024", true, 1),
    ("2*8192", true, 1),
    ("zipf:48:4096:1", false, 1),
    ("zipf:48:4096:1", true, 8),
    ("8192,128*64", true, 1),
    ("uniform:32:1024:1", true, 1),
    ("uniform:1024:32:1", true, 8),
];

/// Caches: lengths, keys of a page.
const CACHES: [(&str, Option<u64>); 9] = [
    ("1*8192", None),
    ("8*8192", None),
    ("64*1024", None),
    ("64*8192", None),
    ("1*8192", Some(64)),
    ("8*8192", Some(64)),
    ("64*1024", Some(64)),
    ("64*8192", Some(64)),
    ("uniform:64:8192:1", Some(16)),
];

type Problem = (String, Spec, Arrays);

impl Mix {
    /// The problems with their names; format and 8-bit floats are those of `sizes`.
    ///
    /// # Errors
    /// Those of [`Sizes::spec`].
    pub fn problems(self, sizes: &Sizes, scores: &Scores) -> Result<Vec<Problem>, Failure> {
        match self {
            Mix::Dense => shapes::LINES.iter().map(|line| dense(&line.case(sizes.dtype), sizes, scores)).collect(),
            Mix::Packed => PACKED.iter().map(|line| packed(*line, sizes, scores)).collect(),
            Mix::Decode => CACHES.iter().map(|line| decode(*line, sizes, scores)).collect(),
            Mix::Short => {
                let mut problems = Vec::new();
                for line in [1, 7, 12] {
                    problems.push(dense(&shapes::LINES[line].case(sizes.dtype), sizes, scores)?);
                }
                for line in [1, 5] {
                    problems.push(packed(PACKED[line], sizes, scores)?);
                }
                for line in [1, 7] {
                    problems.push(decode(CACHES[line], sizes, scores)?);
                }
                Ok(problems)
            }
            Mix::Tiny => {
                let small = Case { batch: 2, heads: 4, kv_heads: 2, causal: true, ..Case::new(sizes.dtype, 64, 64) };
                Ok(vec![
                    dense(&small, sizes, scores)?,
                    packed(("17,40", true, 8), sizes, scores)?,
                    decode(("100,70", Some(16)), sizes, scores)?,
                ])
            }
        }
    }
}

fn dense(case: &Case, sizes: &Sizes, scores: &Scores) -> Result<Problem, Failure> {
    let sizes = Sizes {
        batch: case.batch as u64,
        seqlen: case.seqlen_q as u64,
        seqlen_k: None,
        heads: case.heads as u64,
        kv_heads: Some(case.kv_heads as u64),
        head_dim: case.head_dim as u64,
        head_dim_v: Some(case.head_dim_v as u64),
        ..alone(sizes)
    };
    let width = if case.head_dim == case.head_dim_v { String::new() } else { format!(",{}", case.head_dim_v) };
    let group = if case.heads == case.kv_heads { String::new() } else { format!(" {}:{}", case.heads, case.kv_heads) };
    let name = format!("dense d{}{width} {} x {}{group}", case.head_dim, case.batch, case.seqlen_q);
    named(name, &sizes, scores, case.causal)
}

fn packed((lengths, causal, group): (&str, bool, u64), sizes: &Sizes, scores: &Scores) -> Result<Problem, Failure> {
    let heads = 16;
    let sizes = Sizes {
        heads,
        kv_heads: Some(heads / group),
        head_dim: 128,
        head_dim_v: None,
        lengths: Some(parsed(lengths)?),
        ..alone(sizes)
    };
    let group = if group > 1 { format!(" {group}:1") } else { String::new() };
    named(format!("packed d128 {lengths}{group}"), &sizes, scores, causal)
}

fn decode((lengths, page_size): (&str, Option<u64>), sizes: &Sizes, scores: &Scores) -> Result<Problem, Failure> {
    let sizes = Sizes {
        seqlen: 1,
        heads: 64,
        kv_heads: Some(8),
        head_dim: 128,
        head_dim_v: None,
        cache: Some(parsed(lengths)?),
        page_size,
        ..alone(sizes)
    };
    let pages = page_size.map_or("dense".to_owned(), |size| format!("pages of {size}"));
    named(format!("decode d128 {lengths} {pages}"), &sizes, scores, false)
}

/// What the options say of every problem of a set: the format, and what is of 8 bits.
fn alone(sizes: &Sizes) -> Sizes {
    Sizes { lengths: None, cache: None, page_size: None, ..sizes.clone() }
}

fn named(name: String, sizes: &Sizes, scores: &Scores, causal: bool) -> Result<Problem, Failure> {
    let causal = causal && scores.window.is_none();
    let scores = Scores { causal: scores.causal || causal, ..scores.clone() };
    let (spec, arrays) = sizes.spec(&scores)?;
    Ok((if causal { format!("{name} causal") } else { name }, spec, arrays))
}

fn parsed(lengths: &str) -> Result<Lengths, Failure> {
    lengths.parse().map_err(|allowed| Failure::Option { argument: "--mix", value: lengths.to_owned(), allowed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Line;
    use attn_host::{Arch, DeviceInfo, supports};
    use clap::Parser;

    #[test]
    fn every_problem_has_a_kernel_on_every_architecture() {
        let line = Line::parse_from(["attn"]);
        for mix in Mix::value_variants() {
            let problems = mix.problems(&line.sizes, &line.scores).expect("possible");
            assert!(problems.len() >= 3, "{mix:?}");
            for (name, spec, arrays) in problems {
                arrays.check(&spec.problem(&arrays)).expect(&name);
                for arch in Arch::ALL {
                    let device = DeviceInfo::nominal(arch);
                    supports(&spec.problem(&arrays), &device).unwrap_or_else(|e| panic!("{name}: {e}"));
                }
            }
        }
    }
}
