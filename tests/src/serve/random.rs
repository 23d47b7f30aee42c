//! Random serving problems: everything that a case can say, in combinations that nobody thought of.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::case::Case;
use crate::input::Input;
use crate::layout::Layout;
use crate::lists::WIDTHS;
use crate::oracle::Window;
use crate::precision::Precision;
use crate::serve::case::{Keys, Paging, Relation, ServeCase, Slopes, Splits};
use crate::serve::lengths::Lengths;

/// How large random problems are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Sequences of a batch.
    pub batch: usize,
    /// Rows of a sequence.
    pub rows: usize,
    /// Scores of all heads.
    pub scores: usize,
}

impl Size {
    /// Milliseconds on a GPU and its host.
    pub const GPU: Size = Size { batch: 20, rows: 2000, scores: 250_000 };
    /// A second in the simulator.
    pub const SIMULATOR: Size = Size { batch: 4, rows: 150, scores: 30_000 };
}

/// `count` problems; those of one seed are always the same, whatever their count.
pub fn cases(count: usize, seed: u64, size: Size) -> Vec<ServeCase> {
    (0..count as u64).map(|i| case(seed, i, size)).collect()
}

/// Draws until a problem is possible and small enough.
fn case(seed: u64, index: u64, size: Size) -> ServeCase {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    loop {
        let case = Draw { rng: &mut rng, size }.case(index);
        if case.scores() <= size.scores
            && let Ok(case) = case.checked()
        {
            return case;
        }
    }
}

struct Draw<'a> {
    rng: &'a mut ChaCha8Rng,
    size: Size,
}

impl Draw<'_> {
    fn case(mut self, seed: u64) -> ServeCase {
        let base = self.base(seed);
        let mut case = ServeCase::new(base);
        self.sequences(&mut case);
        if self.chance(0.5) {
            case.base.causal = true;
        } else if self.chance(0.6) {
            case.window = Some(Window { left: self.side(), right: self.side() });
        }
        case.softcap = self.chance(0.2).then(|| self.pick(&[0.5, 5.0, 30.0]));
        case.alibi = self.chance(0.2).then(|| self.pick(Slopes::ALL));
        case.sinks = self.chance(0.25);
        case.splits = match self.rng.random_range(0..5) {
            0 => Splits::Auto,
            1 => Splits::Exactly(self.pick(&[2, 3, 4, 7, 16])),
            _ => Splits::Exactly(1),
        };
        case.poisoned = (case.base.batch > 1 && self.chance(0.1)).then(|| self.rng.random_range(0..case.base.batch));
        case.equals = self.relation(&case);
        case
    }

    fn chance(&mut self, p: f64) -> bool {
        self.rng.random_bool(p)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(self.rng).expect("not empty")
    }

    /// Spread evenly over magnitudes, from 1.
    fn length(&mut self) -> usize {
        self.rng.random_range(0.0..(self.size.rows as f64).ln()).exp().round() as usize
    }

    fn side(&mut self) -> Option<usize> {
        match self.rng.random_range(0..4) {
            0 => None,
            1 => Some(0),
            _ => Some(self.length()),
        }
    }

    fn base(&mut self, seed: u64) -> Case {
        let (head_dim, head_dim_v) = self.pick(&WIDTHS);
        let kv_heads = self.pick(&[1, 1, 2, 3]);
        Case {
            precision: self.pick(&Precision::ALL),
            batch: self.rng.random_range(1..=self.size.batch),
            heads: kv_heads * self.pick(&[1, 1, 2, 3, 4, 7, 8, 12]),
            kv_heads,
            seqlen_q: if self.chance(0.4) { 1 } else { self.length() },
            seqlen_k: self.length(),
            head_dim,
            head_dim_v,
            causal: false,
            lse: self.chance(0.8),
            scale: self.chance(0.1).then(|| self.rng.random_range(2..20) as f32 / 100.0),
            layout: self.pick(&[
                Layout::Bshd,
                Layout::Bshd,
                Layout::Bhsd,
                Layout::Padded,
                Layout::Packed,
                Layout::PackedKv,
            ]),
            input: self.pick(&[
                Input::Normal,
                Input::Normal,
                Input::Normal,
                Input::Rising,
                Input::Sinking,
                Input::Spike,
            ]),
            seed,
        }
    }

    /// Where the sequences lie and how long they are.
    fn sequences(&mut self, case: &mut ServeCase) {
        let batch = case.base.batch;
        if self.chance(0.5) {
            let room = self.rooms(batch, case.base.seqlen_q);
            case.base.seqlen_q = room.longest().max(1);
            case.packed_q = Some(room);
        }
        match self.rng.random_range(0..4) {
            0 => {}
            1 => {
                let same = case.packed_q.clone().filter(|_| self.rng.random_bool(0.5));
                let room = same.unwrap_or_else(|| self.rooms(batch, case.base.seqlen_k));
                case.base.seqlen_k = room.longest().max(1);
                case.keys = Keys::Packed(room);
            }
            _ => {
                let shared = if self.chance(0.3) { self.rng.random_range(1..4) } else { 0 };
                let missing = if self.chance(0.1) { self.rng.random_range(2..6) } else { 0 };
                case.keys = Keys::Paged(Paging { page_size: self.pick(&[16, 16, 32, 64, 128, 256]), shared, missing });
            }
        }
        if self.chance(0.2) {
            let room: Vec<usize> = (0..batch).map(|b| case.queries(b)).collect();
            case.used_q = Some(self.parts(&room));
        }
        if self.chance(if case.paging().is_some() { 0.9 } else { 0.3 }) {
            let room: Vec<usize> = (0..batch).map(|b| case.keys(b)).collect();
            case.used_k = Some(self.parts(&room));
        }
    }

    /// Rooms for sequences of at most `most` rows, some of them empty.
    fn rooms(&mut self, batch: usize, most: usize) -> Lengths {
        let lengths: Vec<usize> =
            (0..batch).map(|_| if self.chance(0.1) { 0 } else { self.length().min(most) }).collect();
        Lengths::of(&lengths)
    }

    /// For each room none of it, all of it or a part.
    fn parts(&mut self, room: &[usize]) -> Lengths {
        let part = |room: &usize| match self.rng.random_range(0..8) {
            0 => 0,
            1 | 2 => *room,
            _ => self.rng.random_range(0..=*room),
        };
        Lengths::of(&room.iter().map(part).collect::<Vec<_>>())
    }

    fn relation(&mut self, case: &ServeCase) -> Option<Relation> {
        // The number of splits that is chosen may depend on what the two problems differ in.
        let Splits::Exactly(splits) = case.splits else { return None };
        let relation = self.pick(&[None, Some(Relation::Alone), Some(Relation::Dense), Some(Relation::Prefill)])?;
        let possible = match relation {
            Relation::Alone => case.base.batch > 1,
            Relation::Dense => case.paging().is_some(),
            Relation::Prefill => splits == 1 && case.base.seqlen_q <= 4,
        };
        possible.then_some(relation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_the_same_again_print_back_and_meet_each_other() {
        for size in [Size::GPU, Size::SIMULATOR] {
            let some = cases(400, 7, size);
            assert_eq!(some[..20], cases(20, 7, size));
            assert_ne!(some[0], cases(1, 8, size)[0]);
            for case in &some {
                assert_eq!(case.to_string().parse().as_ref(), Ok(case));
                assert!(case.scores() <= size.scores);
            }
            let met = |what: &str, test: &dyn Fn(&ServeCase) -> bool| {
                assert!(some.iter().any(test), "no case has {what}");
            };
            for relation in Relation::ALL {
                met(&format!("equals={relation}"), &|c| c.equals == Some(*relation));
            }
            met("splits of packed pages with sinks", &|c| {
                c.splits != Splits::Exactly(1) && c.packed_q.is_some() && c.paging().is_some() && c.sinks
            });
            met("softcap in a window", &|c| c.softcap.is_some() && c.window.is_some());
            met("ALiBi of a decode step", &|c| c.alibi.is_some() && c.base.seqlen_q == 1);
            met("shared pages", &|c| c.paging().is_some_and(|p| p.shared > 0));
            met("a NaN neighbour in packed keys", &|c| c.poisoned.is_some() && matches!(c.keys, Keys::Packed(_)));
            met("an interleaved buffer", &|c| c.base.layout == Layout::Packed);
        }
    }
}
