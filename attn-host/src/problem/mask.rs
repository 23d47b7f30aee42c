//! Which keys a query sees.

use std::fmt;

/// Which keys a query sees. Query `i` of a sequence stands at position `i + seqlen_k - seqlen_q` among its keys, so that the last query
/// stands at the last key (bottom-right aligned). A query that sees no key gets zeros and an LSE of minus infinity, or its sink's.
///
/// ```
/// use attn_host::Mask;
///
/// assert_eq!(Mask::Causal.visible_pairs(3, 5), 3 + 4 + 5);
/// assert_eq!(Mask::Window { left: Some(1), right: Some(0) }.visible_pairs(3, 5), 2 + 2 + 2);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mask {
    /// Every key.
    #[default]
    None,
    /// The key at its own position and those before it.
    Causal,
    /// Those from `left` keys before its own position to `right` keys after it; `None`: all on that side. With `right` 0 the window is
    /// causal.
    Window {
        /// Keys before its own position.
        left: Option<u64>,
        /// Keys after it.
        right: Option<u64>,
    },
}

impl Mask {
    /// Keys before a query's own position and after it that it sees, `None` where there is no end.
    pub(crate) fn reach(self) -> (Option<u64>, Option<u64>) {
        match self {
            Mask::None => (None, None),
            Mask::Causal => (None, Some(0)),
            Mask::Window { left, right } => (left, right),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self.reach() {
            (None, None) => "no mask",
            (None, Some(0)) => "a causal mask",
            _ => "a window",
        }
    }

    /// Query-key pairs of one head of one sequence that the mask leaves visible.
    pub fn visible_pairs(self, seqlen_q: u64, seqlen_k: u64) -> u128 {
        let (left, right) = self.reach();
        let keys = i128::from(seqlen_k);
        let position = keys - i128::from(seqlen_q);
        // Query i sees the keys from `begin + i` to before `end + i`, as far as there are such.
        let end = right.map_or(u128::from(seqlen_q) * u128::from(seqlen_k), |right| {
            clamped_sum(position + i128::from(right) + 1, seqlen_q, keys)
        });
        let begin = left.map_or(0, |left| clamped_sum(position - i128::from(left), seqlen_q, keys));
        end - begin
    }
}

/// The sum of `first + i`, no less than 0 and no more than `most`, for `i` in `0..count`.
fn clamped_sum(first: i128, count: u64, most: i128) -> u128 {
    let count = i128::from(count);
    // Up to `zeros` the terms are 0, from `full` on they are `most`.
    let zeros = (-first).clamp(0, count);
    let full = (most - first).clamp(zeros, count);
    // No term is negative, and the sum is at most `count * most`, which is below 2^128.
    let [rising, start, level, most] = [full - zeros, first + zeros, count - full, most].map(i128::unsigned_abs);
    (if rising == 0 { 0 } else { rising * start + rising * (rising - 1) / 2 }) + level * most
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: Option<u64>| side.map_or("all".to_owned(), |keys| keys.to_string());
        match self.reach() {
            (None, None | Some(0)) => f.write_str(self.name()),
            (left, right) => write!(f, "a window of {} keys before and {} after", side(left), side(right)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_equal_a_count_over_the_mask() {
        let some = [None, Some(0), Some(1), Some(3), Some(100)];
        let windows = some.into_iter().flat_map(|left| some.map(|right| Mask::Window { left, right }));
        let masks: Vec<Mask> = windows.chain([Mask::None, Mask::Causal]).collect();
        for (sq, sk) in [(1, 1), (5, 5), (3, 7), (7, 3), (1, 9), (9, 1), (9, 0), (0, 9)] {
            for &mask in &masks {
                let (left, right) = mask.reach();
                let sees = |i: i64, j: i64| {
                    let position = i + sk - sq;
                    left.is_none_or(|left| j >= position - left as i64)
                        && right.is_none_or(|right| j <= position + right as i64)
                };
                let counted = (0..sq).flat_map(|i| (0..sk).map(move |j| (i, j))).filter(|&(i, j)| sees(i, j)).count();
                assert_eq!(mask.visible_pairs(sq as u64, sk as u64), counted as u128, "sq={sq} sk={sk} {mask}");
            }
        }
    }

    #[test]
    fn the_longest_sequences_do_not_overflow() {
        let most = u64::MAX;
        assert_eq!(Mask::None.visible_pairs(most, most), u128::from(most) * u128::from(most));
        let window = Mask::Window { left: Some(most), right: Some(most) };
        assert_eq!(window.visible_pairs(most, most), u128::from(most) * u128::from(most));
        assert_eq!(Mask::Causal.visible_pairs(most, 1), 1);
    }

    #[test]
    fn windows_without_ends_are_the_masks_that_they_equal() {
        assert_eq!(Mask::Window { left: None, right: None }.reach(), Mask::None.reach());
        assert_eq!(Mask::Window { left: None, right: Some(0) }.name(), "a causal mask");
        let text = Mask::Window { left: Some(128), right: None }.to_string();
        assert_eq!(text, "a window of 128 keys before and all after");
    }
}
