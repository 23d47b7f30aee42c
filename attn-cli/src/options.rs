//! Options that describe a problem.

use std::str::FromStr;

use attn_host::{Alibi, Arrays, Descales, Float8, Mask, PagedKv, Shape, Splits};
use attn_tests::precision::Precision;
use attn_tests::serve::lengths::Lengths;
use clap::{Args, ValueEnum};

use crate::error::Failure;
use crate::problem::Spec;

/// What is done to the scores, and with which kernel: for problems of every origin.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Attention")]
pub struct Scores {
    /// Mask the keys after each query, aligned to the last query and the last key
    #[arg(long, conflicts_with = "window")]
    pub causal: bool,
    /// Keys before and after a query's own position that it sees: 128:0, 128: (no end after), :0 (causal)
    #[arg(long, value_name = "LEFT:RIGHT", allow_hyphen_values = true)]
    pub window: Option<Window>,
    /// Scores become C tanh(score / C)
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    pub softcap: Option<f32>,
    /// Factor on the scores [default: 1/sqrt(head_dim)]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub scale: Option<f32>,
    /// Parts that the keys are split into: a number, or auto [default: auto where the problem is not dense]
    #[arg(long, value_name = "N")]
    pub splits: Option<SplitCount>,
    /// The kernel of this name instead of the one that should be fastest; `attn info` lists names
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
}

impl Scores {
    /// The mask that the options ask for.
    pub fn mask(&self) -> Option<Mask> {
        match (self.causal, self.window) {
            (true, _) => Some(Mask::Causal),
            (false, Some(Window { left, right })) => Some(Mask::Window { left, right }),
            (false, None) => None,
        }
    }

    /// The problem with what the options say, and otherwise as it is.
    pub fn over(&self, spec: Spec) -> Spec {
        Spec {
            mask: self.mask().unwrap_or(spec.mask),
            scale: self.scale.or(spec.scale),
            softcap: self.softcap.or(spec.softcap),
            splits: self.splits.map_or(spec.splits, |splits| Some(splits.0)),
            kernel: self.kernel.clone().or(spec.kernel),
            ..spec
        }
    }
}

/// A window as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    left: Option<u64>,
    right: Option<u64>,
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a window is LEFT:RIGHT, each a count of keys or nothing for no end".to_owned();
        let (left, right) = text.split_once(':').ok_or_else(wrong)?;
        // What other libraries write for no end.
        let side = |text: &str| match text {
            "" | "-1" => Ok(None),
            count => count.parse().map(Some).map_err(|_| wrong()),
        };
        Ok(Window { left: side(left)?, right: side(right)? })
    }
}

/// A count of splits as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitCount(Splits);

impl FromStr for SplitCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(SplitCount(Splits::Auto));
        }
        let count = text.parse().ok().filter(|count| (1..=Splits::MOST).contains(count));
        count
            .map(|count| SplitCount(Splits::Exactly(count)))
            .ok_or_else(|| format!("splits are auto, or 1 to {}", Splits::MOST))
    }
}

/// What is of 8 bits.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Narrow {
    /// K and V
    Keys,
    /// Q, K and V
    All,
}

/// Sizes of a problem whose tensors nobody has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sizes")]
pub struct Sizes {
    /// Format of Q, K, V and O: bf16 or f16
    #[arg(long, default_value = "bf16")]
    pub dtype: Precision,
    /// Sequences
    #[arg(long, short, default_value_t = 1)]
    pub batch: u64,
    /// Queries of each sequence
    #[arg(long, short, value_name = "N", default_value_t = 4096)]
    pub seqlen: u64,
    /// Keys of each sequence [default: as many as queries]
    #[arg(long, value_name = "N")]
    pub seqlen_k: Option<u64>,
    /// Query heads
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub heads: u64,
    /// Key/value heads, a divisor of the query heads [default: as many as query heads]
    #[arg(long, value_name = "N")]
    pub kv_heads: Option<u64>,
    /// Elements of a query and key
    #[arg(long, short = 'd', value_name = "N", default_value_t = 128)]
    pub head_dim: u64,
    /// Elements of a value [default: head_dim]
    #[arg(long, value_name = "N")]
    pub head_dim_v: Option<u64>,
    /// Packed sequences of these lengths instead of equal ones: 17,64*300,zipf:COUNT:MAX:SEED,uniform:COUNT:MAX:SEED
    #[arg(long, value_name = "LIST", conflicts_with_all = ["batch", "seqlen", "seqlen_k"])]
    pub lengths: Option<Lengths>,
    /// Keys in use of each sequence of a cache: a list like that of --lengths; --batch and --seqlen-k follow from it
    #[arg(long, value_name = "LIST", conflicts_with_all = ["batch", "seqlen_k", "lengths"])]
    pub cache: Option<Lengths>,
    /// The cache lies in pages of so many keys
    #[arg(long, value_name = "KEYS", requires = "cache")]
    pub page_size: Option<u64>,
    /// 8-bit floats (e4m3)
    #[arg(long, value_name = "WHICH")]
    pub float8: Option<Narrow>,
    /// A logit of each head that has no value
    #[arg(long)]
    pub sinks: bool,
    /// ALiBi with the usual slopes
    #[arg(long)]
    pub alibi: bool,
}

impl Sizes {
    /// The problem and its arrays.
    ///
    /// # Errors
    /// Lengths that no 32-bit number counts.
    pub fn spec(&self, scores: &Scores) -> Result<(Spec, Arrays), Failure> {
        let kv_heads = self.kv_heads.unwrap_or(self.heads);
        let head_dim_v = self.head_dim_v.unwrap_or(self.head_dim);
        let shape = Shape {
            batch: self.batch,
            seqlen_q: self.seqlen,
            seqlen_k: self.seqlen_k.unwrap_or(self.seqlen),
            heads: self.heads,
            kv_heads,
            head_dim: self.head_dim,
            head_dim_v,
        };
        let mut spec = Spec::dense(self.dtype, shape);
        let mut arrays = Arrays::default();
        if let Some(lengths) = &self.lengths {
            pack(&mut spec, &mut arrays, lengths)?;
        }
        if let Some(lengths) = &self.cache {
            keep(&mut spec, &mut arrays, lengths, self.page_size)?;
        }
        let heads = self.heads.min(1 << 16);
        arrays.sinks = self.sinks.then(|| (0..heads).map(|h| (h % 5) as f32 - 2.0).collect());
        if self.alibi {
            spec.alibi = Some(Alibi::PerHead);
            arrays.alibi_slopes = Some((1..=heads).map(|h| (-8.0 * h as f32 / heads as f32).exp2()).collect());
        }
        if let Some(narrow) = self.float8 {
            spec.float8 = if matches!(narrow, Narrow::All) { Float8::All } else { Float8::Keys };
            spec.descales = Some(Descales::PerHead);
            let factors = |needed: bool| needed.then(|| vec![0.5; kv_heads.min(1 << 16) as usize]);
            arrays.q_descale = factors(spec.float8 == Float8::All);
            (arrays.k_descale, arrays.v_descale) = (factors(true), factors(true));
        }
        Ok((scores.over(spec), arrays))
    }
}

/// Packed queries and keys of these lengths.
fn pack(spec: &mut Spec, arrays: &mut Arrays, lengths: &Lengths) -> Result<(), Failure> {
    let sums = integers("--lengths", &lengths.starts())?;
    let total = sums.last().map_or(0, |sum| sum.unsigned_abs().into());
    let longest = lengths.longest() as u64;
    spec.shape = Shape { batch: lengths.values().len() as u64, seqlen_q: longest, seqlen_k: longest, ..spec.shape };
    (spec.packed_q, spec.packed_k) = (Some(total), Some(total));
    (arrays.cu_seqlens_q, arrays.cu_seqlens_k) = (Some(sums.clone()), Some(sums));
    Ok(())
}

/// A cache in which sequences have so many keys.
fn keep(spec: &mut Spec, arrays: &mut Arrays, lengths: &Lengths, page_size: Option<u64>) -> Result<(), Failure> {
    let (batch, longest) = (lengths.values().len() as u64, lengths.longest() as u64);
    spec.shape = Shape { batch, seqlen_k: longest, ..spec.shape };
    arrays.seqused_k = Some(integers("--cache", lengths.values())?);
    if let Some(page_size) = page_size.filter(|&size| size > 0) {
        let of = |length: usize| (length as u64).div_ceil(page_size);
        let (width, pages) =
            (of(lengths.longest()).max(1), lengths.values().iter().map(|l| of(*l)).sum::<u64>().max(1));
        spec.paged = Some(PagedKv { page_size, pages, table_width: width });
        arrays.page_table = Some(scattered(lengths, width as usize, pages, of)?);
    } else if page_size.is_some() {
        spec.paged = Some(PagedKv { page_size: 0, pages: 1, table_width: 1 });
    }
    Ok(())
}

/// A table that gives each sequence pages from all over the cache.
fn scattered(lengths: &Lengths, width: usize, pages: u64, of: impl Fn(usize) -> u64) -> Result<Vec<i32>, Failure> {
    // A step without a common divisor visits every page once.
    let step = (pages * 5 / 8..).find(|&step| step > 0 && gcd(step, pages) == 1).unwrap_or(1);
    let mut next = (0..pages).map(|i| i * step % pages);
    let mut table = Vec::with_capacity(width * lengths.values().len());
    for length in lengths.values() {
        let filled = of(*length) as usize;
        table.extend(next.by_ref().take(filled).map(|page| page as usize));
        table.resize(table.len() + width - filled, 0);
    }
    integers("--cache", &table)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn integers(argument: &'static str, values: &[usize]) -> Result<Vec<i32>, Failure> {
    let whole = |value: &usize| {
        i32::try_from(*value).map_err(|_| Failure::Option {
            argument,
            value: format!("a list with {value} rows"),
            allowed: "at most 2147483647 rows in all".to_owned(),
        })
    };
    values.iter().map(whole).collect()
}

/// A command line that has sizes and scores alone.
#[cfg(test)]
#[derive(clap::Parser)]
pub struct Line {
    #[command(flatten)]
    pub sizes: Sizes,
    #[command(flatten)]
    pub scores: Scores,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn spec(words: &str) -> (Spec, Arrays) {
        let line = Line::try_parse_from(format!("attn {words}").split_whitespace()).unwrap_or_else(|e| panic!("{e}"));
        line.sizes.spec(&line.scores).expect(words)
    }

    #[test]
    fn windows_and_splits_are_written_in_several_ways() {
        let window = |left, right| Ok(Window { left, right });
        assert_eq!("128:0".parse(), window(Some(128), Some(0)));
        assert_eq!(":0".parse(), window(None, Some(0)));
        assert_eq!("64:-1".parse(), window(Some(64), None));
        assert!("128".parse::<Window>().is_err() && "a:b".parse::<Window>().is_err());
        assert_eq!("auto".parse(), Ok(SplitCount(Splits::Auto)));
        assert!(["0", "129", "-1", "x"].iter().all(|text| text.parse::<SplitCount>().is_err()));
    }

    #[test]
    fn packed_sequences_have_sums() {
        let (spec, arrays) = spec("--lengths 3,2*5 --heads 8 --kv-heads 2 --causal");
        assert_eq!((spec.shape.batch, spec.shape.seqlen_q, spec.packed_k), (3, 5, Some(13)));
        assert_eq!(arrays.cu_seqlens_q, Some(vec![0, 3, 8, 13]));
        assert_eq!(spec.mask, Mask::Causal);
        arrays.check(&spec.problem(&arrays)).expect("consistent");
    }

    #[test]
    fn every_page_of_a_cache_has_one_owner() {
        let (spec, arrays) = spec("--cache 100,0,33,16 --page-size 16 --seqlen 1 --sinks --alibi");
        arrays.check(&spec.problem(&arrays)).expect("consistent");
        let paged = spec.paged.expect("paged");
        assert_eq!((paged.pages, paged.table_width, spec.shape.seqlen_k), (11, 7, 100));
        let table = arrays.page_table.expect("paged");
        let mut used: Vec<i32> = [&table[..7], &table[14..17], &table[21..22]].concat();
        used.sort_unstable();
        assert_eq!(used, (0..11).collect::<Vec<_>>());
        assert_eq!(arrays.alibi_slopes.map(|slopes| slopes.len()), Some(16));
    }
}
