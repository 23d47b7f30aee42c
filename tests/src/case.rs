//! One attention problem as a line of text that prints and parses back:
//! `bf16 b=2 h=8 hk=2 sq=333 sk=517 d=96 dv=96 causal lse layout=padded input=normal scale=0.3 seed=7`.

use std::fmt;
use std::str::FromStr;

use crate::input::Input;
use crate::layout::Layout;
use crate::precision::Precision;

/// A problem, its inputs and where they lie. Fields that a line does not name take the values of [`Case::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Format of Q, K, V and O.
    pub precision: Precision,
    /// Batch entries.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; they divide `heads`.
    pub kv_heads: usize,
    /// Queries.
    pub seqlen_q: usize,
    /// Keys.
    pub seqlen_k: usize,
    /// Width of Q and K.
    pub head_dim: usize,
    /// Width of V and O.
    pub head_dim_v: usize,
    /// Bottom-right aligned causal mask.
    pub causal: bool,
    /// Whether LSE is asked for.
    pub lse: bool,
    /// Factor on the scores, when not `1/sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// Where the tensors lie.
    pub layout: Layout,
    /// What they hold.
    pub input: Input,
    /// Seed of the random inputs.
    pub seed: u64,
}

/// A line that is no case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    /// A word that is none of the line's fields.
    #[error(
        "'{0}' is no field of a case; they are bf16|f16, b=, h=, hk=, sq=, sk=, d=, dv=, causal, lse, scale=, layout=, input=, seed="
    )]
    Unknown(String),
    /// A field's value does not parse.
    #[error("'{word}': {why}")]
    Value {
        /// The word.
        word: String,
        /// What is wrong with it.
        why: String,
    },
    /// Fields that contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

impl Case {
    /// One head of equal lengths and widths, random normal, contiguous (batch, seq, heads, head_dim).
    pub fn new(precision: Precision, seqlen: usize, head_dim: usize) -> Self {
        Case {
            precision,
            batch: 1,
            heads: 1,
            kv_heads: 1,
            seqlen_q: seqlen,
            seqlen_k: seqlen,
            head_dim,
            head_dim_v: head_dim,
            causal: false,
            lse: false,
            scale: None,
            layout: Layout::Bshd,
            input: Input::Normal,
            seed: 0,
        }
    }

    /// Takes one word of a line; `false` when it is none of this type's.
    pub(crate) fn set(&mut self, word: &str) -> Result<bool, CaseError> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "bf16" | "f16" => self.precision = parse(word, key)?,
            "causal" => self.causal = true,
            "lse" => self.lse = true,
            "b" => self.batch = parse(word, value)?,
            "h" => self.heads = parse(word, value)?,
            "hk" => self.kv_heads = parse(word, value)?,
            "sq" => self.seqlen_q = parse(word, value)?,
            "sk" => self.seqlen_k = parse(word, value)?,
            "d" => self.head_dim = parse(word, value)?,
            "dv" => self.head_dim_v = parse(word, value)?,
            "scale" => self.scale = Some(parse(word, value)?),
            "layout" => self.layout = parse(word, value)?,
            "input" => self.input = parse(word, value)?,
            "seed" => self.seed = parse(word, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The factor on the scores.
    pub fn scale(&self) -> f32 {
        self.scale.unwrap_or(1.0 / (self.head_dim as f32).sqrt())
    }

    /// Scores that the problem has: what its reference costs.
    pub fn scores(&self) -> usize {
        self.batch * self.heads * self.seqlen_q * self.seqlen_k
    }

    /// The case itself when its fields agree with each other.
    pub fn checked(self) -> Result<Self, CaseError> {
        self.sizes()?;
        self.layout.accepts(&self).map_err(CaseError::Contradiction)?;
        Ok(self)
    }

    /// Whether a problem can have these sizes.
    pub(crate) fn sizes(&self) -> Result<(), CaseError> {
        let zero =
            [self.batch, self.heads, self.kv_heads, self.seqlen_q, self.seqlen_k, self.head_dim, self.head_dim_v];
        if zero.contains(&0) {
            return Err(CaseError::Contradiction("every size is at least 1".into()));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(CaseError::Contradiction(format!("hk={} does not divide h={}", self.kv_heads, self.heads)));
        }
        Ok(())
    }
}

impl Default for Case {
    fn default() -> Self {
        Case::new(Precision::Bf16, 1, 64)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { precision, batch, heads, kv_heads, seqlen_q, seqlen_k, head_dim, head_dim_v, .. } = self;
        write!(
            f,
            "{precision} b={batch} h={heads} hk={kv_heads} sq={seqlen_q} sk={seqlen_k} d={head_dim} dv={head_dim_v}"
        )?;
        for (on, word) in [(self.causal, " causal"), (self.lse, " lse")] {
            f.write_str(if on { word } else { "" })?;
        }
        if let Some(scale) = self.scale {
            write!(f, " scale={scale}")?;
        }
        write!(f, " layout={} input={} seed={}", self.layout, self.input, self.seed)
    }
}

impl FromStr for Case {
    type Err = CaseError;

    fn from_str(line: &str) -> Result<Self, CaseError> {
        let mut case = Case::default();
        for word in line.split_whitespace() {
            if !case.set(word)? {
                return Err(CaseError::Unknown(word.into()));
            }
        }
        case.checked()
    }
}

/// The value of a word, as the field has it.
pub(crate) fn parse<T: FromStr>(word: &str, value: &str) -> Result<T, CaseError>
where
    T::Err: fmt::Display,
{
    value.parse().map_err(|why: T::Err| CaseError::Value { word: word.into(), why: why.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_print_and_parse_back() {
        let line = "f16 b=2 h=8 hk=2 sq=333 sk=517 d=192 dv=128 causal lse scale=0.3 layout=padded input=rising seed=7";
        let case: Case = line.parse().expect("valid");
        assert_eq!(case.to_string(), line);
        assert_eq!((case.heads, case.kv_heads, case.scale), (8, 2, Some(0.3)));
        let plain = Case::new(Precision::Bf16, 17, 40);
        assert_eq!(plain.to_string().parse(), Ok(plain));
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        let error = |line: &str| line.parse::<Case>().expect_err(line).to_string();
        assert!(error("bf16 heads=3").contains("'heads=3' is no field"));
        assert!(error("bf16 h=x").contains("'h=x'"));
        assert!(error("bf16 layout=diagonal").contains("bhsd"));
        assert!(error("bf16 h=3 hk=2").contains("hk=2 does not divide h=3"));
        assert!(error("bf16 sq=0").contains("at least 1"));
        assert!(error("bf16 sq=3 sk=4 layout=packed").contains("packed"));
    }
}
