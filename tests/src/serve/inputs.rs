//! What the sequences of a serving problem hold, and what is right.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::case::Case;
use crate::dense::{Dense, Dims};
use crate::input::{Input, Inputs};
use crate::oracle::{Answer, Attention};
use crate::precision::float8;
use crate::serve::case::{Narrow, Paging, ServeCase, Slopes};

/// The inputs of every sequence, and those of the heads.
#[derive(Clone, Debug)]
pub struct ServeInputs {
    /// Q, K and V of each sequence: its rows in use, as a batch of one.
    pub sequences: Vec<Inputs>,
    /// ALiBi slope of each head, for all sequences together or one sequence after another.
    pub slopes: Vec<f32>,
    /// Sink of each head.
    pub sinks: Vec<f32>,
    /// Factors of 8-bit Q, K and V of each key/value head, for all sequences together or one sequence after another.
    pub factors: [Vec<f32>; 3],
}

impl ServeInputs {
    /// The inputs that a case names. A sequence's do not depend on the others, beyond what they share.
    pub fn of(case: &ServeCase) -> Self {
        let sequences: Vec<Inputs> = (0..case.base.batch).into_par_iter().map(|b| sequence(case, b)).collect();
        let factors = [0, 1, 2]
            .map(|which| if case.saturated { saturating(case, which, &sequences) } else { factors(case, which) });
        let mut inputs = ServeInputs { sequences, slopes: slopes(case), sinks: sinks(case), factors };
        inputs.narrow(case);
        if let Some(paging) = case.paging() {
            inputs.share(paging.page_size * paging.shared);
        }
        if let Some(poisoned) = case.poisoned {
            let Inputs { q, k, v } = &mut inputs.sequences[poisoned];
            [q, k, v].into_iter().for_each(|t| t.data.fill(f32::NAN));
        }
        if let Some(paging) = case.paging() {
            inputs.zero_missing(&paging);
        }
        inputs
    }

    /// What is of 8 bits becomes what 8 bits times their factor are.
    fn narrow(&mut self, case: &ServeCase) {
        let Some(float8) = case.float8 else { return };
        for b in 0..self.sequences.len() {
            let factors = [0, 1, 2].map(|which| self.factors(case, which, b).to_vec());
            let Inputs { q, k, v } = &mut self.sequences[b];
            for (which, t) in [q, k, v].into_iter().enumerate().skip(usize::from(float8 == Narrow::Keys)) {
                let group = t.dims.heads / case.base.kv_heads;
                for head in 0..t.dims.heads {
                    let factor = factors[which][head / group];
                    let (start, n) = (t.row_start(0, head, 0), t.dims.seq * t.dims.width);
                    t.data[start..start + n].iter_mut().for_each(|x| *x = float8::round(*x / factor) * factor);
                }
            }
        }
    }

    /// A sequence's Q, K or V as the codes of 8-bit floats, each in the place of its value.
    pub fn codes(&self, case: &ServeCase, which: usize, sequence: usize, tensor: &Dense<f32>) -> Dense<f32> {
        let group = tensor.dims.heads / case.base.kv_heads;
        let factors = self.factors(case, which, sequence);
        let code = |head: usize, x: f32| f32::from(float8::to_bits(x / factors[head / group]));
        Dense::from_fn(tensor.dims, |_, i, head, c| code(head, tensor.row(0, head, i)[c]))
    }

    /// The factors of a sequence's key/value heads, of Q, K or V.
    pub fn factors(&self, case: &ServeCase, which: usize, sequence: usize) -> &[f32] {
        let first = if case.factors == Some(Slopes::PerSequence) { sequence * case.base.kv_heads } else { 0 };
        &self.factors[which][first..first + case.base.kv_heads]
    }

    /// The first `rows` keys and values of the sequences that have as many become those of the first such.
    fn share(&mut self, rows: usize) {
        let mut with = self.sequences.iter_mut().filter(|inputs| inputs.k.dims.seq >= rows);
        let Some(first) = with.next().map(|inputs| inputs.clone()) else { return };
        for inputs in with {
            for (to, from) in [(&mut inputs.k, &first.k), (&mut inputs.v, &first.v)] {
                for head in 0..from.dims.heads {
                    let (to_start, from_start) = (to.row_start(0, head, 0), from.row_start(0, head, 0));
                    let n = rows * from.dims.width;
                    to.data[to_start..to_start + n].copy_from_slice(&from.data[from_start..from_start + n]);
                }
            }
        }
    }

    /// Keys and values of pages that do not exist become zeros.
    fn zero_missing(&mut self, paging: &Paging) {
        for Inputs { k, v, .. } in &mut self.sequences {
            let Dims { seq, heads, .. } = k.dims;
            for (row, head) in (0..seq).flat_map(|row| (0..heads).map(move |head| (row, head))) {
                if paging.misses(row / paging.page_size) {
                    for t in [&mut *k, &mut *v] {
                        let start = t.row_start(0, head, row);
                        t.data[start..start + t.dims.width].fill(0.0);
                    }
                }
            }
        }
    }

    /// The problem of one sequence.
    pub fn attention(&self, case: &ServeCase, sequence: usize) -> Attention<'_> {
        let Inputs { q, k, v } = &self.sequences[sequence];
        Attention::new(q, k, v, case.base.scale())
            .window(case.visible())
            .modifiers(case.modifiers(self.slopes(case, sequence), &self.sinks))
    }

    /// The slopes of a sequence's heads.
    pub fn slopes(&self, case: &ServeCase, sequence: usize) -> &[f32] {
        let first = if case.alibi == Some(Slopes::PerSequence) { sequence * case.base.heads } else { 0 };
        &self.slopes[first..first + case.base.heads]
    }

    /// The answers of the sequences [to be compared](ServeCase::compared), the rows in use one below another.
    pub fn reference(&self, case: &ServeCase) -> Answer<f64> {
        self.all(case, |attention| attention.reference())
    }

    /// The same of a naive program in the case's precision.
    pub fn lowp(&self, case: &ServeCase) -> Answer<f32> {
        match case.float8 {
            Some(Narrow::All) => self.all(case, |attention| attention.lowp_float8(case.base.precision)),
            _ => self.all(case, |attention| attention.lowp(case.base.precision)),
        }
    }

    fn all<T: Copy + Send>(&self, case: &ServeCase, answer: impl Fn(Attention<'_>) -> Answer<T> + Sync) -> Answer<T> {
        let compared: Vec<usize> = case.compared().collect();
        let answers: Vec<Answer<T>> = compared.into_par_iter().map(|b| answer(self.attention(case, b))).collect();
        let of = |part: fn(&Answer<T>) -> &Dense<T>| stacked(answers.iter().map(part).collect());
        Answer { o: of(|answer| &answer.o), lse: of(|answer| &answer.lse) }
    }
}

/// Tensors of single sequences, of which there is one, as one tensor, the sequences' rows one below another.
pub fn stacked<T: Copy>(parts: Vec<&Dense<T>>) -> Dense<T> {
    let dims = Dims { seq: parts.iter().map(|part| part.dims.seq).sum(), ..parts[0].dims };
    let data = (0..dims.heads).flat_map(|head| parts.iter().flat_map(move |part| part.head(0, head)));
    Dense { dims, data: data.copied().collect() }
}

/// The sequence that a row of [`stacked`] tensors belongs to, and its row in there.
pub fn unstacked(case: &ServeCase, mut row: usize) -> (usize, usize) {
    for b in case.compared() {
        match row.checked_sub(case.queries(b)) {
            Some(rest) => row = rest,
            None => return (b, row),
        }
    }
    (case.base.batch, row)
}

fn sequence(case: &ServeCase, b: usize) -> Inputs {
    let (seqlen_q, seqlen_k) = (case.queries(b), case.keys(b));
    // Kinds that single out a key need one.
    let input = if seqlen_q.min(seqlen_k) == 0 { Input::Normal } else { case.base.input };
    // Seeds of neighbouring cases and of neighbouring sequences do not meet.
    let seed = case.base.seed.wrapping_mul(1 << 20).wrapping_add(b as u64);
    Inputs::of(&Case { batch: 1, seqlen_q, seqlen_k, input, seed, ..case.base })
}

/// The geometric series of slopes that models are trained with; sequences with their own have it halved once or twice.
fn slopes(case: &ServeCase) -> Vec<f32> {
    let (heads, own) = (case.base.heads, case.alibi == Some(Slopes::PerSequence));
    let series = |b: usize| (1..=heads).map(move |h| (-8.0 * h as f32 / heads as f32 - (b % 3) as f32).exp2());
    (0..if own { case.base.batch } else { 1 }).flat_map(series).collect()
}

/// Factors between a quarter and 4, of Q, K or V; all 1 where a case has none.
fn factors(case: &ServeCase, which: usize) -> Vec<f32> {
    let (heads, own) = (case.base.kv_heads, case.factors == Some(Slopes::PerSequence));
    let count = if own { case.base.batch * heads } else { heads };
    let one = |i: usize| if case.factors.is_some() { ((i * 5 + which * 3) % 9) as f32 * 0.5 - 2.0 } else { 0.0 };
    (0..count).map(|i| one(i).exp2()).collect()
}

/// Factors that make 448 of half of each head's greatest element.
fn saturating(case: &ServeCase, which: usize, sequences: &[Inputs]) -> Vec<f32> {
    let heads = case.base.kv_heads;
    let greatest = |sequences: &[Inputs], head: usize| {
        let of_head = sequences.iter().flat_map(|Inputs { q, k, v }| {
            let t = [q, k, v][which];
            let group = t.dims.heads / heads;
            (head * group..(head + 1) * group).flat_map(|head| t.head(0, head))
        });
        of_head.fold(0.0f32, |greatest, x| greatest.max(x.abs()))
    };
    let together = if case.factors == Some(Slopes::PerSequence) { 1 } else { sequences.len() };
    let all = sequences.chunks(together).flat_map(|part| (0..heads).map(move |head| greatest(part, head)));
    // A head without elements has any factor.
    all.map(|greatest| if greatest > 0.0 { greatest / (2.0 * 448.0) } else { 1.0 }).collect()
}

/// Random sinks, of which every fifth is none, the third among them.
fn sinks(case: &ServeCase) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(case.base.seed);
    rng.set_stream(3);
    (0..case.base.heads).map(|h| if h % 5 == 2 { f32::NEG_INFINITY } else { rng.random_range(-3.0..4.0) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(line: &str) -> (ServeCase, ServeInputs) {
        let case: ServeCase = line.parse().expect(line);
        let inputs = ServeInputs::of(&case);
        (case, inputs)
    }

    #[test]
    fn answers_are_those_of_each_sequence() {
        let (case, inputs) = inputs("bf16 h=4 hk=2 d=16 dv=8 varlen=5,0,17 klens=9,3,0 usedq=2,0,17 window=3:0 sinks");
        let answer = inputs.reference(&case);
        assert_eq!(answer.o.dims, Dims { batch: 1, seq: 19, heads: 4, width: 8 });
        for (row, (b, i)) in [(0, (0, 0)), (1, (0, 1)), (2, (2, 0)), (18, (2, 16))] {
            assert_eq!(unstacked(&case, row), (b, i));
            let own = inputs.attention(&case, b).reference();
            for head in 0..4 {
                assert_eq!(answer.o.row(0, head, row), own.o.row(0, head, i));
                assert_eq!(answer.lse.row(0, head, row), own.lse.row(0, head, i));
            }
        }
        // A sequence without keys: its sinks remain.
        assert_eq!(answer.lse.row(0, 1, 18)[0], f64::from(inputs.sinks[1]));
        assert_eq!(answer.lse.row(0, 2, 18)[0], f64::NEG_INFINITY);
    }

    #[test]
    fn shared_pages_hold_the_same_and_the_rest_does_not() {
        let (_, inputs) = inputs("bf16 h=2 hk=2 d=16 dv=8 usedk=40,16,33,50 page=16:2");
        let k = |b: usize, h, j| inputs.sequences[b].k.row(0, h, j);
        for j in 0..32 {
            assert_eq!((k(0, 1, j), k(0, 0, j)), (k(2, 1, j), k(3, 0, j)));
        }
        assert_ne!(k(0, 1, 32), k(2, 1, 32));
        assert_ne!(k(0, 1, 0), k(1, 1, 0), "one page is not two");
        assert_eq!(inputs.sequences[0].v.row(0, 1, 31), inputs.sequences[3].v.row(0, 1, 31));
    }

    #[test]
    fn saturated_tensors_reach_the_greatest_of_8_bits() {
        for line in ["float8=all factors=head saturated", "float8=all factors=sequence saturated input=large"] {
            let (case, inputs) = inputs(&format!("bf16 h=4 hk=2 d=16 dv=32 varlen=50,0,17 klens=90,30,0 {line}"));
            for which in 0..3 {
                let codes = |b: usize| {
                    let Inputs { q, k, v } = &inputs.sequences[b];
                    inputs.codes(&case, which, b, [q, k, v][which]).data
                };
                let all: Vec<f32> = (0..3).flat_map(codes).collect();
                let greatest = all.iter().filter(|code| matches!(**code, 126.0 | 254.0)).count();
                let expected = all.len() / 50..all.len() / 5;
                assert!(expected.contains(&greatest), "{line}, {which}: {greatest} of {}", all.len());
                assert!(!all.iter().any(|code| matches!(*code, 127.0 | 255.0)), "{line}, {which}: a NaN");
            }
        }
    }

    #[test]
    fn poison_stays_in_its_sequence() {
        let (case, inputs) = inputs("bf16 h=1 hk=1 d=8 dv=8 varlen=3,4,5 klens=same causal poison=1");
        for (b, nan) in [(0, false), (1, true), (2, false)] {
            let answer = inputs.attention(&case, b).reference();
            assert!(answer.lse.data.iter().chain(&answer.o.data).all(|x| x.is_nan() == nan), "{b}");
        }
        let answer = inputs.reference(&case);
        assert_eq!((answer.o.dims.seq, unstacked(&case, 2), unstacked(&case, 3)), (8, (0, 2), (2, 0)));
    }

    #[test]
    fn a_sequences_inputs_do_not_depend_on_its_neighbours() {
        let (_, a) = inputs("f16 h=2 hk=1 d=8 dv=8 varlen=3,4,5 klens=same seed=3");
        let (_, b) = inputs("f16 h=2 hk=1 d=8 dv=8 varlen=9,4 klens=same seed=3");
        assert_eq!(a.sequences[1].k, b.sequences[1].k);
        assert_ne!(a.sequences[1].k.data[..8], a.sequences[2].k.data[..8]);
    }
}
