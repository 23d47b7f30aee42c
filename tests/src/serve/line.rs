//! A serving problem as a line of text that prints and parses back. After the words of a [`Case`]:
//!
//! | word | meaning |
//! |---|---|
//! | `varlen=LENGTHS` | Q and O packed, with [these lengths](crate::serve::lengths::Lengths); `sq=` is the longest when it is not given |
//! | `klens=LENGTHS` or `klens=same` | K and V packed; `sk=` is the longest when it is not given |
//! | `page=SIZE`, `page=SIZE:SHARED`, `page=SIZE:SHARED:MISSING` | K and V in pages, of which sequences share so many, and one in so many is missing |
//! | `usedq=LENGTHS`, `usedk=LENGTHS` | rows in use of each sequence's room |
//! | `window=LEFT:RIGHT` | keys seen before and after the own position; nothing means without end |
//! | `softcap=C`, `alibi=head`, `alibi=sequence`, `sinks` | what is done to the scores |
//! | `splits=N`, `splits=auto` | parts of a sequence's keys; 1 without the word |
//! | `float8=keys`, `float8=all` | K and V, or Q too, are of 8 bits |
//! | `factors=head`, `factors=sequence` | what those are multiplied with |
//! | `saturated` | factors for which half of the greatest element is 448, and so is what is greater |
//! | `poison=SEQUENCE` | a sequence whose inputs are NaN |
//! | `equals=RELATION` | another problem that has the same answer, bit by bit |

use std::fmt;
use std::str::FromStr;

use crate::case::{Case, CaseError, parse};
use crate::oracle::Window;
use crate::serve::case::{Keys, Paging, ServeCase, Splits};
use crate::serve::lengths::Lengths;

impl fmt::Display for ServeCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        let lengths = [("varlen", &self.packed_q), ("usedq", &self.used_q), ("usedk", &self.used_k)];
        for (word, lengths) in lengths.iter().filter_map(|(word, l)| Some((word, l.as_ref()?))) {
            write!(f, " {word}={lengths}")?;
        }
        match &self.keys {
            Keys::Dense => {}
            Keys::Packed(room) if Some(room) == self.packed_q.as_ref() => write!(f, " klens=same")?,
            Keys::Packed(room) => write!(f, " klens={room}")?,
            Keys::Paged(Paging { page_size, shared: 0, missing: 0 }) => write!(f, " page={page_size}")?,
            Keys::Paged(Paging { page_size, shared, missing: 0 }) => write!(f, " page={page_size}:{shared}")?,
            Keys::Paged(Paging { page_size, shared, missing }) => write!(f, " page={page_size}:{shared}:{missing}")?,
        }
        if let Some(Window { left, right }) = self.window {
            let side = |side: Option<usize>| side.map_or(String::new(), |side| side.to_string());
            write!(f, " window={}:{}", side(left), side(right))?;
        }
        if let Some(softcap) = self.softcap {
            write!(f, " softcap={softcap}")?;
        }
        if let Some(slopes) = self.alibi {
            write!(f, " alibi={slopes}")?;
        }
        f.write_str(if self.sinks { " sinks" } else { "" })?;
        if let Some(float8) = self.float8 {
            write!(f, " float8={float8}")?;
        }
        if let Some(factors) = self.factors {
            write!(f, " factors={factors}")?;
        }
        f.write_str(if self.saturated { " saturated" } else { "" })?;
        match self.splits {
            Splits::Exactly(n) => write!(f, " splits={n}")?,
            Splits::Auto => f.write_str(" splits=auto")?,
        }
        if let Some(sequence) = self.poisoned {
            write!(f, " poison={sequence}")?;
        }
        self.equals.map_or(Ok(()), |relation| write!(f, " equals={relation}"))
    }
}

impl FromStr for ServeCase {
    type Err = CaseError;

    fn from_str(line: &str) -> Result<Self, CaseError> {
        // Sizes that the line does not give follow from the lengths.
        let mut case = ServeCase::new(Case { batch: 0, seqlen_q: 0, seqlen_k: 0, ..Case::default() });
        let mut same = false;
        for word in line.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "varlen" => case.packed_q = Some(parse(word, value)?),
                "klens" if value == "same" => same = true,
                "klens" => case.keys = Keys::Packed(parse(word, value)?),
                "page" => case.keys = Keys::Paged(parse(word, value)?),
                "usedq" => case.used_q = Some(parse(word, value)?),
                "usedk" => case.used_k = Some(parse(word, value)?),
                "window" => case.window = Some(parse(word, value)?),
                "softcap" => case.softcap = Some(parse(word, value)?),
                "alibi" => case.alibi = Some(parse(word, value)?),
                "sinks" => case.sinks = true,
                "float8" => case.float8 = Some(parse(word, value)?),
                "factors" => case.factors = Some(parse(word, value)?),
                "saturated" => case.saturated = true,
                "splits" if value == "auto" => case.splits = Splits::Auto,
                "splits" => case.splits = Splits::Exactly(parse(word, value)?),
                "poison" => case.poisoned = Some(parse(word, value)?),
                "equals" => case.equals = Some(parse(word, value)?),
                _ if case.base.set(word)? => {}
                _ => return Err(CaseError::Unknown(word.into())),
            }
        }
        if same {
            let room = case.packed_q.clone().ok_or(CaseError::Contradiction("klens=same is said of varlen".into()))?;
            case.keys = Keys::Packed(room);
        }
        case.with_sizes().checked()
    }
}

impl ServeCase {
    /// Fills in the sizes that are 0, none of which a problem has.
    fn with_sizes(mut self) -> Self {
        let packed_k = if let Keys::Packed(room) = &self.keys { Some(room) } else { None };
        let batch = [self.packed_q.as_ref(), packed_k, self.used_q.as_ref(), self.used_k.as_ref()];
        let batch = batch.into_iter().flatten().next().map_or(1, |lengths| lengths.values().len());
        let longest = |lengths: [Option<&Lengths>; 2]| lengths.into_iter().flatten().next().map_or(1, Lengths::longest);
        let sizes = [
            (&mut self.base.batch, batch),
            (&mut self.base.seqlen_q, longest([self.used_q.as_ref(), self.packed_q.as_ref()])),
            (&mut self.base.seqlen_k, longest([self.used_k.as_ref(), packed_k])),
        ];
        for (size, default) in sizes {
            if *size == 0 {
                *size = default.max(1);
            }
        }
        self
    }
}

impl FromStr for Paging {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let number =
            |word: &str| word.parse().map_err(|why| format!("{why}; it is SIZE, SIZE:SHARED or SIZE:SHARED:MISSING"));
        let numbers: Vec<usize> = value.split(':').map(number).collect::<Result<_, _>>()?;
        let at = |i: usize| numbers.get(i).copied().unwrap_or(0);
        Ok(Paging { page_size: at(0), shared: at(1), missing: at(2) })
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let (left, right) = value.split_once(':').ok_or("it is LEFT:RIGHT")?;
        let side = |word: &str| match word {
            "" => Ok(None),
            word => word.parse().map(Some).map_err(|why| format!("'{word}': {why}")),
        };
        Ok(Window { left: side(left)?, right: side(right)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_print_and_parse_back() {
        for line in [
            "f16 b=3 h=8 hk=2 sq=9 sk=20 d=64 dv=64 lse layout=bshd input=normal seed=7 varlen=5,0,9 klens=20,3,0 window=4:0 sinks splits=1",
            "bf16 b=2 h=4 hk=1 sq=1 sk=100 d=128 dv=128 lse layout=bhsd input=normal seed=0 usedk=100,7 page=16:2:3 softcap=30 splits=4",
            "bf16 b=2 h=4 hk=1 sq=40 sk=40 d=64 dv=64 causal layout=packed input=normal seed=0 varlen=40,2 klens=same alibi=sequence splits=1 poison=1",
            "bf16 b=2 h=2 hk=1 sq=4 sk=9 d=64 dv=64 layout=bshd input=normal seed=0 float8=all factors=head saturated splits=1",
            "bf16 b=2 h=4 hk=4 sq=4 sk=9 d=64 dv=64 layout=padded input=normal seed=0 usedq=0,4 window=:3 splits=2 equals=alone",
        ] {
            let case: ServeCase = line.parse().expect(line);
            assert_eq!(case.to_string(), line);
            assert_eq!(case.to_string().parse(), Ok(case));
        }
    }

    #[test]
    fn sizes_follow_from_lengths() {
        let case: ServeCase =
            "bf16 h=2 hk=2 d=64 dv=64 varlen=5,0,17 klens=7,0,100 usedk=6,0,90".parse().expect("valid");
        assert_eq!((case.base.batch, case.base.seqlen_q, case.base.seqlen_k), (3, 17, 90));
        assert_eq!(
            (case.queries(2), case.keys(2), case.all_queries(), case.scores()),
            (17, 90, 22, 2 * (30 + 17 * 90))
        );
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        for (line, why) in [
            ("varlen=5,x klens=same", "'x'"),
            ("varlen=5 klens=1,2", "klens has 2 lengths for a batch of 1"),
            ("varlen=5,6 usedq=5,7 sk=3", "over its room of 6"),
            ("varlen=5,6 sq=5 sk=3", "longer than sq=5"),
            ("causal window=3:0", "takes the place of causal"),
            ("window=3", "LEFT:RIGHT"),
            ("sk=64 page=24", "power of two"),
            ("softcap=0", "above zero"),
            ("splits=0", "at least 1"),
            ("b=2 poison=2", "below 2"),
            ("poison=0", "neighbours"),
            ("b=2 sk=20 page=16:1 poison=1", "share"),
            ("equals=dense", "said of pages"),
            ("b=2 splits=auto equals=alone", "count of splits"),
            ("sq=4 sk=3 equals=prefill", "as many keys"),
            ("klens=same", "said of varlen"),
            ("varlen=4 klens=5 layout=packed", "as many rows"),
            ("layout=sbhd", "dense problems"),
            ("d=64 dv=64 float8=keys saturated", "said of factors"),
            ("pages=16", "'pages=16' is no field"),
        ] {
            let error = line.parse::<ServeCase>().expect_err(line).to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
