//! What became of requests.

use std::collections::BTreeMap;
use std::time::Duration;

/// What became of a request.
pub enum Outcome<'a> {
    /// It has embeddings, and these are what they should be.
    Answered { got: Vec<Vec<f32>>, want: Vec<&'a [f32]> },
    /// The service had too much to do, and said when to come again.
    Refused,
    /// The client hung up.
    GivenUp,
    /// The answer is not what it should be.
    Wrong(String),
    /// There was no answer.
    Lost(String),
}

/// Counts of outcomes.
pub struct Tally {
    tolerance: f32,
    answered: u64,
    sentences: u64,
    other_bits: u64,
    largest: f32,
    refused: u64,
    given_up: u64,
    errors: BTreeMap<&'static str, u64>,
    wrong: Vec<String>,
    lost: Vec<String>,
    times: Vec<Duration>,
}

impl Tally {
    /// Nothing yet. Embeddings may differ by `tolerance` from those of sentences alone.
    pub fn new(tolerance: f32) -> Self {
        Tally {
            tolerance,
            answered: 0,
            sentences: 0,
            other_bits: 0,
            largest: 0.0,
            refused: 0,
            given_up: 0,
            errors: BTreeMap::new(),
            wrong: Vec::new(),
            lost: Vec::new(),
            times: Vec::new(),
        }
    }

    /// Counts a request of which the service is to say what is wrong.
    pub fn expect(&mut self, kind: &'static str, status: u16, got: Result<(u16, String), String>) {
        match got {
            Ok((got, words)) if got == status && !words.is_empty() => *self.errors.entry(kind).or_default() += 1,
            // Whoever is busy need not look at what is wrong.
            Ok((503, _)) => self.refused += 1,
            Ok((got, words)) => self.wrong.push(format!("{kind}, but got {got}: {words}")),
            Err(error) => self.lost.push(format!("{kind}: {error}")),
        }
    }

    /// Counts a request.
    pub fn count(&mut self, outcome: Outcome, time: Duration) {
        match outcome {
            Outcome::Answered { got, want } => {
                self.times.push(time);
                self.compare(&got, &want);
            }
            Outcome::Refused => self.refused += 1,
            Outcome::GivenUp => self.given_up += 1,
            Outcome::Wrong(what) => self.wrong.push(what),
            Outcome::Lost(what) => self.lost.push(what),
        }
    }

    fn compare(&mut self, got: &[Vec<f32>], want: &[&[f32]]) {
        self.answered += 1;
        self.sentences += want.len() as u64;
        if got.len() != want.len() || got.iter().zip(want).any(|(got, want)| got.len() != want.len()) {
            self.wrong.push(format!("{} embeddings for {} sentences, or of other lengths", got.len(), want.len()));
            return;
        }
        for (got, want) in got.iter().zip(want) {
            let differences = got.iter().zip(*want).map(|(got, want)| (got - want).abs());
            // A NaN is no more than any number, so it is asked for by name.
            let largest = differences.fold(0.0, |a, b| if b.is_nan() { f32::INFINITY } else { f32::max(a, b) });
            self.other_bits += u64::from(got != want);
            self.largest = self.largest.max(largest);
            if largest > self.tolerance {
                self.wrong.push(format!("an embedding differs by {largest:e} from that of the sentence alone"));
            }
        }
    }

    /// This and another client's.
    pub fn and(mut self, other: Tally) -> Tally {
        self.answered += other.answered;
        self.sentences += other.sentences;
        self.other_bits += other.other_bits;
        self.largest = self.largest.max(other.largest);
        self.refused += other.refused;
        self.given_up += other.given_up;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.wrong.extend(other.wrong);
        self.lost.extend(other.lost);
        self.times.extend(other.times);
        self
    }

    /// Requests that had some outcome.
    pub fn requests(&self) -> u64 {
        let errors: u64 = self.errors.values().sum();
        self.answered + self.refused + self.given_up + errors + (self.wrong.len() + self.lost.len()) as u64
    }

    /// Prints the table. Whether everything was as it should be.
    pub fn report(mut self, seconds: f64) -> bool {
        self.times.sort_unstable();
        let last = self.times.len().saturating_sub(1);
        let at = |part: f64| self.times.get((last as f64 * part) as usize).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        let line = |name: &str, value: String| println!("{name:<25}{value}");
        line("answered", format!("{} requests, {} sentences", self.answered, self.sentences));
        let rates = (self.answered as f64 / seconds, self.sentences as f64 / seconds);
        line("rate", format!("{:.1} requests/s, {:.1} sentences/s", rates.0, rates.1));
        line("time", format!("median {:.1} ms, 99 % {:.1} ms, most {:.1} ms", at(0.5), at(0.99), at(1.0)));
        line(
            "largest difference",
            format!("{:e}, {} sentences with other bits than alone", self.largest, self.other_bits),
        );
        line("refused with 503", self.refused.to_string());
        line("given up by clients", self.given_up.to_string());
        for (kind, count) in &self.errors {
            line(kind, count.to_string());
        }
        line("wrong answers", self.wrong.len().to_string());
        line("requests without answer", self.lost.len().to_string());
        for what in self.wrong.iter().chain(&self.lost).take(5) {
            line("", what.clone());
        }
        self.answered > 0 && self.wrong.is_empty() && self.lost.is_empty()
    }
}
