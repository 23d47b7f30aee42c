//! What a problem may be beyond dense tensors and softmax: sequences of different lengths, pages, changed scores, splits.

use std::fmt;

use attn_kernel::forward::Float8;

/// K and V in pages that a table deals out: K is `(pages, page_size, kv_heads, head_dim)`, V likewise, and key `j` of sequence `b` is row
/// `j % page_size` of page `table[b][j / page_size]`.
///
/// The table is device memory, which no launch looks at on the host: a page that is not below `pages` reads as zeros, never as foreign
/// memory. [`check_page_table`](crate::check_page_table) finds such where the table is at hand.
///
/// ```
/// use attn_host::{PagedKv, check_page_table};
///
/// let paged = PagedKv { page_size: 16, pages: 4, table_width: 2 };
/// let (table, lengths) = ([2, 0, 1, -1], [20, 9]); // the second sequence needs one page
/// assert_eq!(check_page_table(&table, paged.table_width, &lengths, paged.page_size, paged.pages), Ok(()));
/// let wrong = check_page_table(&table, paged.table_width, &[20, 17], paged.page_size, paged.pages);
/// assert!(wrong.is_err_and(|error| error.to_string().starts_with("page_table[3] is -1; allowed: 0 to 3")));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PagedKv {
    /// Keys of a page: a power of two from 16.
    pub page_size: u64,
    /// Pages that there are.
    pub pages: u64,
    /// Entries of the table for each sequence: `i32[batch][table_width]`. Those past a sequence's last key are never read.
    pub table_width: u64,
}

/// ALiBi: `slope * |position of the query - key|` is taken from each score, after a softcap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Alibi {
    /// A slope for each query head: `f32[heads]`.
    PerHead,
    /// A slope for each sequence and query head: `f32[batch][heads]`.
    PerSequenceAndHead,
}

/// The factors of 8-bit floats: K's elements are meant times `k_descale`, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Descales {
    /// A factor for each key/value head: `f32[kv_heads]`.
    PerHead,
    /// A factor for each sequence and key/value head: `f32[batch][kv_heads]`.
    PerSequenceAndHead,
}

/// Into how many parts the keys of a sequence are split, for multiprocessors that would have nothing to do otherwise. The parts' results go
/// through the workspace and are combined by a second kernel.
///
#[cfg_attr(feature = "simulator", doc = "```")]
#[cfg_attr(not(feature = "simulator"), doc = "```no_run")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "simulator")]
/// # attn_host::simulator::install(Default::default())?;
/// use attn_host::{DType, Device, Plan, Problem, Shape, Splits};
///
/// let shape = Shape { batch: 1, seqlen_q: 1, seqlen_k: 8192, heads: 8, kv_heads: 8, head_dim: 64, head_dim_v: 64 };
/// let problem = Problem::new(DType::Bf16, shape).splits(Splits::Exactly(3));
/// let plan = Plan::new(&Device::open(0)?, &problem)?;
/// assert_eq!(plan.splits(), 3);
/// assert!(plan.workspace_bytes() >= 3 * 8 * (64 + 1) * 4); // O and LSE of each split, in f32
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Splits {
    /// As many as should be fastest for the sizes that the problem says, with sequences as long as they may be.
    #[default]
    Auto,
    /// As many as this, 1 to [`Splits::MOST`]. The result of a sequence is then its own, bit by bit: it depends neither on the others in the
    /// batch nor on how many they are, how long they may be and which of them it is.
    Exactly(u32),
}

impl Splits {
    /// The most parts that keys are split into.
    pub const MOST: u32 = 128;
}

/// What dense problems do not have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Serving {
    /// Queries of all sequences, where they are packed.
    pub(crate) packed_q: Option<u64>,
    /// Keys of all sequences, where they are packed.
    pub(crate) packed_k: Option<u64>,
    pub(crate) seqused_q: bool,
    pub(crate) seqused_k: bool,
    pub(crate) paged: Option<PagedKv>,
    pub(crate) softcap: Option<f32>,
    pub(crate) sinks: bool,
    pub(crate) alibi: Option<Alibi>,
    pub(crate) splits: Option<Splits>,
    pub(crate) float8: Float8,
    pub(crate) descales: Option<Descales>,
}

/// What is of 8 bits, in words.
pub(crate) fn float8_name(float8: Float8) -> &'static str {
    match float8 {
        Float8::None => "Q, K and V of 16 bits",
        Float8::Keys => "K and V of 8 bits",
        Float8::All => "Q, K and V of 8 bits",
    }
}

impl Serving {
    /// The scores are changed before the softmax.
    pub(crate) fn modified(&self) -> bool {
        self.softcap.is_some() || self.alibi.is_some()
    }

    /// The first thing that dense kernels do not have, beside a window.
    pub(crate) fn beyond_dense(&self) -> Option<&'static str> {
        let found = [
            (self.packed_q.is_some(), "packed queries (cu_seqlens_q)"),
            (self.packed_k.is_some(), "packed keys (cu_seqlens_k)"),
            (self.seqused_q, "seqused_q"),
            (self.seqused_k, "seqused_k"),
            (self.paged.is_some(), "paged K and V"),
            (self.softcap.is_some(), "softcap"),
            (self.sinks, "sinks"),
            (self.alibi.is_some(), "alibi"),
            (self.splits.is_some(), "splits"),
            (self.float8 != Float8::None, float8_name(self.float8)),
        ];
        found.into_iter().find_map(|(is, name)| is.then_some(name))
    }

    /// The first thing that kernels for packed sequences alone do not have, beside splits, a window's left edge, softcap, ALiBi and 8 bits.
    pub(crate) fn beyond_packed(&self) -> Option<&'static str> {
        let found = [
            (self.packed_q.is_none(), "queries that are not packed"),
            (self.packed_k.is_none(), "keys that are not packed"),
        ];
        found.into_iter().find_map(|(is, name)| is.then_some(name))
    }
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(total) = self.packed_q {
            write!(f, ", {total} packed queries")?;
        }
        if let Some(total) = self.packed_k {
            write!(f, ", {total} packed keys")?;
        }
        if let Some(PagedKv { page_size, pages, .. }) = self.paged {
            write!(f, ", {pages} pages of {page_size} keys")?;
        }
        for (is, name) in [(self.seqused_q, "seqused_q"), (self.seqused_k, "seqused_k"), (self.sinks, "sinks")] {
            if is {
                write!(f, ", {name}")?;
            }
        }
        if let Some(softcap) = self.softcap {
            write!(f, ", softcap {softcap}")?;
        }
        if self.float8 != Float8::None {
            write!(f, ", {}", float8_name(self.float8))?;
        }
        match self.descales {
            None => {}
            Some(Descales::PerHead) => write!(f, " with factors")?,
            Some(Descales::PerSequenceAndHead) => write!(f, " with factors for each sequence")?,
        }
        match self.alibi {
            None => Ok(()),
            Some(Alibi::PerHead) => write!(f, ", alibi"),
            Some(Alibi::PerSequenceAndHead) => write!(f, ", alibi for each sequence"),
        }
    }
}
