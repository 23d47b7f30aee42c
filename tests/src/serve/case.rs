//! One serving problem: sequences of different lengths, pages, windows, modified scores, splits.

use crate::case::{Case, CaseError};
use crate::layout::Layout;
use crate::names::named;
use crate::oracle::{Modifiers, Window};
use crate::precision::Precision;
use crate::serve::lengths::Lengths;

/// A problem of a serving engine; [its line](crate::serve::line) begins with the words of a [`Case`].
#[derive(Clone, Debug, PartialEq)]
pub struct ServeCase {
    /// Format, heads, widths, inputs, layout and seed; the batch; the most queries and keys that a sequence may have, or has where nothing
    /// else is said.
    pub base: Case,
    /// Q and O are packed, with this room for each sequence. Else every sequence has `base.seqlen_q` rows.
    pub packed_q: Option<Lengths>,
    /// Where K and V lie.
    pub keys: Keys,
    /// Queries in use, when not all of a sequence's room.
    pub used_q: Option<Lengths>,
    /// Keys in use, when not all.
    pub used_k: Option<Lengths>,
    /// A window, in place of the mask that `base` has.
    pub window: Option<Window>,
    /// Softcap on the scores.
    pub softcap: Option<f32>,
    /// A slope for every head.
    pub alibi: Option<Slopes>,
    /// A sink for every head.
    pub sinks: bool,
    /// Parts into which a sequence's keys are split.
    pub splits: Splits,
    /// The sequence whose inputs are all NaN, which must reach no other.
    pub poisoned: Option<usize>,
    /// Another problem whose answer is this one's, bit by bit.
    pub equals: Option<Relation>,
    /// What is of 8 bits.
    pub float8: Option<Narrow>,
    /// Factors of what is of 8 bits.
    pub factors: Option<Slopes>,
    /// The factors are so small that what is more than half as great as a head's greatest element becomes 448, the greatest there is.
    pub saturated: bool,
}

/// Where K and V lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// In room for `base.seqlen_k` rows of each sequence.
    Dense,
    /// Packed, with this room for each sequence.
    Packed(Lengths),
    /// In pages of a cache.
    Paged(Paging),
}

/// Pages of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// Rows of a page.
    pub page_size: usize,
    /// Pages that all sequences that fill as many share as their first ones.
    pub shared: usize,
    /// One in so many of a sequence's pages does not exist and reads as zeros; 0: none.
    pub missing: usize,
}

impl Paging {
    /// Whether page `index` of a sequence does not exist.
    pub fn misses(&self, index: usize) -> bool {
        self.missing > 0 && index % self.missing == self.missing - 1
    }
}

/// Parts into which a sequence's keys are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splits {
    /// As many as the launch side chooses.
    Auto,
    /// So many.
    Exactly(usize),
}

named! {
    /// Whose slopes, or factors, there are.
    Slopes {
        /// Each head's.
        PerHead = "head",
        /// Each head's in each sequence.
        PerSequence = "sequence",
    }
}

named! {
    /// What is of 8 bits.
    Narrow {
        /// K and V.
        Keys = "keys",
        /// Q, K and V.
        All = "all",
    }
}

named! {
    /// Another problem that has the same answer.
    Relation {
        /// Each sequence without its neighbours.
        Alone = "alone",
        /// K and V in one room for each sequence instead of pages.
        Dense = "dense",
        /// The last rows of a problem with as many queries as keys.
        Prefill = "prefill",
    }
}

impl ServeCase {
    /// The dense problem of a case, in the words of this type.
    pub fn new(base: Case) -> Self {
        ServeCase {
            base,
            packed_q: None,
            keys: Keys::Dense,
            used_q: None,
            used_k: None,
            window: None,
            softcap: None,
            alibi: None,
            sinks: false,
            splits: Splits::Exactly(1),
            poisoned: None,
            equals: None,
            float8: None,
            factors: None,
            saturated: false,
        }
    }

    /// Queries of a sequence.
    pub fn queries(&self, sequence: usize) -> usize {
        let room = self.packed_q.as_ref().map_or(self.base.seqlen_q, |room| room.values()[sequence]);
        self.used_q.as_ref().map_or(room, |used| used.values()[sequence])
    }

    /// Keys of a sequence.
    pub fn keys(&self, sequence: usize) -> usize {
        let room = match &self.keys {
            Keys::Packed(room) => room.values()[sequence],
            Keys::Dense | Keys::Paged(_) => self.base.seqlen_k,
        };
        self.used_k.as_ref().map_or(room, |used| used.values()[sequence])
    }

    /// Queries of all sequences.
    pub fn all_queries(&self) -> usize {
        (0..self.base.batch).map(|b| self.queries(b)).sum()
    }

    /// The sequences whose answers are looked at: all but the one whose inputs are NaN. A value that a row does not see may make it NaN
    /// there, zero times NaN.
    pub fn compared(&self) -> impl Iterator<Item = usize> {
        (0..self.base.batch).filter(|b| self.poisoned != Some(*b))
    }

    /// Scores that the problem has before any mask: what its reference costs.
    pub fn scores(&self) -> usize {
        let pairs: usize = (0..self.base.batch).map(|b| self.queries(b) * self.keys(b)).sum();
        self.base.heads * pairs
    }

    /// The pages, where there are any.
    pub fn paging(&self) -> Option<Paging> {
        match self.keys {
            Keys::Paged(paging) => Some(paging),
            _ => None,
        }
    }

    /// The window of the oracle.
    pub fn visible(&self) -> Window {
        self.window.unwrap_or(Window::causal(self.base.causal))
    }

    /// What is done to the scores, given a slope and a sink for every head.
    pub fn modifiers<'a>(&self, slopes: &'a [f32], sinks: &'a [f32]) -> Modifiers<'a> {
        Modifiers { softcap: self.softcap, alibi: self.alibi.map(|_| slopes), sinks: self.sinks.then_some(sinks) }
    }

    /// The case itself when its fields agree with each other.
    pub fn checked(self) -> Result<Self, CaseError> {
        self.base.sizes()?;
        match self.contradiction() {
            Some(what) => Err(CaseError::Contradiction(what)),
            None => Ok(self),
        }
    }

    fn contradiction(&self) -> Option<String> {
        let Case { batch, causal, .. } = self.base;
        let wrong = |wrong: bool, what: &str| wrong.then(|| what.to_string());
        self.wrong_lengths()
            .or(wrong(causal && self.window.is_some(), "a window takes the place of causal"))
            .or(wrong(self.softcap.is_some_and(|cap| cap.is_nan() || cap <= 0.0), "softcap is above zero"))
            .or(wrong(self.splits == Splits::Exactly(0), "splits is at least 1"))
            .or(wrong(self.paging().is_some_and(|p| !p.page_size.is_power_of_two()), "page is a power of two"))
            .or(wrong(self.poisoned.is_some_and(|b| b >= batch), &format!("poison names a sequence below {batch}")))
            .or(wrong(self.poisoned.is_some() && batch == 1, "poison is for neighbours to keep away from"))
            .or(wrong(
                self.poisoned.is_some() && self.paging().is_some_and(|p| p.shared > 0),
                "what sequences share is not poisoned",
            ))
            .or(wrong(self.factors.is_some() && self.float8.is_none(), "factors are said of float8"))
            .or(wrong(self.saturated && self.factors.is_none(), "saturated is said of factors"))
            .or(wrong(
                self.factors == Some(Slopes::PerSequence) && self.paging().is_some_and(|p| p.shared > 0),
                "what sequences share has one factor",
            ))
            .or_else(|| self.wrong_relation())
            .or_else(|| self.wrong_layout())
    }

    fn wrong_lengths(&self) -> Option<String> {
        let Case { batch, seqlen_q, seqlen_k, .. } = self.base;
        let packed_k = if let Keys::Packed(room) = &self.keys { Some(room) } else { None };
        let sides = [
            ("varlen", self.packed_q.as_ref(), "usedq", &self.used_q, "sq", seqlen_q),
            ("klens", packed_k, "usedk", &self.used_k, "sk", seqlen_k),
        ];
        for (packed, room, used, in_use, most, limit) in sides {
            let words = [(packed, room), (used, in_use.as_ref())];
            for (word, lengths) in words.into_iter().filter_map(|(word, lengths)| Some((word, lengths?))) {
                if lengths.values().len() != batch {
                    return Some(format!("{word} has {} lengths for a batch of {batch}", lengths.values().len()));
                }
            }
            for b in 0..batch {
                let room = room.map_or(limit, |room| room.values()[b]);
                let length = in_use.as_ref().map_or(room, |used| used.values()[b]);
                if length > room {
                    return Some(format!("sequence {b} uses {length} rows, over its room of {room}"));
                }
                if length > limit {
                    return Some(format!("sequence {b} has {length} rows, longer than {most}={limit}"));
                }
            }
        }
        None
    }

    fn wrong_relation(&self) -> Option<String> {
        let enough_keys = |b| self.queries(b) <= self.keys(b);
        if self.equals.is_some() && self.splits == Splits::Auto {
            // The count may depend on what the two problems differ in.
            return Some("equals is said of a count of splits".into());
        }
        match self.equals? {
            Relation::Dense if self.paging().is_none() => Some("equals=dense is said of pages".into()),
            Relation::Prefill if !(0..self.base.batch).all(enough_keys) => {
                Some("equals=prefill needs as many keys as queries".into())
            }
            _ => None,
        }
    }

    fn wrong_layout(&self) -> Option<String> {
        let Case { seqlen_q, seqlen_k, layout, head_dim, head_dim_v, .. } = self.base;
        let same_rows = match (&self.packed_q, &self.keys) {
            (Some(q), Keys::Packed(k)) => q == k,
            (None, Keys::Dense) => seqlen_q == seqlen_k,
            _ => false,
        };
        match layout {
            Layout::Packed if !same_rows || head_dim != head_dim_v => {
                Some("layout=packed needs as many rows of Q as of K, and d = dv".into())
            }
            Layout::PackedKv if head_dim != head_dim_v => Some("layout=packedkv needs d = dv".into()),
            Layout::Far if self.paging().is_none() => Some("layout=far is for pages".into()),
            Layout::Sbhd | Layout::Broadcast => Some(format!("layout={layout} is for dense problems")),
            Layout::Padded | Layout::Far if self.float8.is_some() => {
                Some(format!("layout={layout} is for tensors of 16 bits"))
            }
            Layout::Packed if self.float8 == Some(Narrow::Keys) => {
                Some("layout=packed needs tensors of one type".into())
            }
            _ if self.float8 == Some(Narrow::All) && self.base.precision == Precision::F16 => {
                Some("O of 8-bit inputs is bf16".into())
            }
            _ if self.float8.is_some() && (head_dim % 16 > 0 || head_dim_v % 16 > 0) => {
                Some("8-bit rows are multiples of 16".into())
            }
            _ => None,
        }
    }
}
