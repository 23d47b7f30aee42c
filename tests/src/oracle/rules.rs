//! What turns products of queries and keys into scores that count: which keys a query sees, and what is done to a score.

use std::ops::Range;

use num_traits::Float;

/// Which keys a query sees. Query `i` of `n` stands at position `p = i + keys - n`, so that the last query stands at the last key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Keys `j >= p - left` only.
    pub left: Option<usize>,
    /// Keys `j <= p + right` only.
    pub right: Option<usize>,
}

impl Window {
    /// No key after the query's own position.
    pub const CAUSAL: Window = Window { left: None, right: Some(0) };

    /// The causal mask, or none.
    pub fn causal(causal: bool) -> Self {
        if causal { Self::CAUSAL } else { Self::default() }
    }

    /// The keys that query `i` of `queries` sees; empty, wherever it starts, when there is none.
    pub fn keys(&self, i: usize, queries: usize, keys: usize) -> Range<usize> {
        let position = position(i, queries, keys);
        let clamp = |j: i64| j.clamp(0, keys as i64) as usize;
        let first = self.left.map_or(0, |left| clamp(position - left as i64));
        let end = self.right.map_or(keys, |right| clamp(position + right as i64 + 1));
        first.min(end)..end
    }
}

/// Where query `i` stands among the keys; negative before the first of them.
fn position(i: usize, queries: usize, keys: usize) -> i64 {
    i as i64 + keys as i64 - queries as i64
}

/// What is done to the scaled scores, beside nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Modifiers<'a> {
    /// A score `s` becomes `c tanh(s / c)`.
    pub softcap: Option<f32>,
    /// A slope for each query head: a score loses `slope` for every key that lies between it and the query's position.
    pub alibi: Option<&'a [f32]>,
    /// A score for each query head that belongs to no key: it takes part in the softmax, with a value of zero.
    pub sinks: Option<&'a [f32]>,
}

impl Modifiers<'_> {
    /// Turns the scaled scores of query `i` with `keys`, which begin at the first in `scores`, into those of the softmax; `round` says
    /// what a program that works in some precision keeps of each intermediate value.
    pub(super) fn apply<F: Float + From<f32>>(
        &self,
        head: usize,
        (i, queries, all_keys): (usize, usize, usize),
        keys: Range<usize>,
        scores: &mut [F],
        round: impl Fn(F) -> F,
    ) {
        if let Some(cap) = self.softcap {
            let cap: F = cap.into();
            scores.iter_mut().for_each(|s| *s = round(round(round(*s / cap).tanh()) * cap));
        }
        if let Some(slopes) = self.alibi {
            let (slope, position): (F, _) = (slopes[head].into(), position(i, queries, all_keys));
            for (s, j) in scores.iter_mut().zip(keys) {
                let distance: F = ((position - j as i64).unsigned_abs() as f32).into();
                *s = round(*s - slope * distance);
            }
        }
    }
}

#[cfg(test)]
mod tests;
