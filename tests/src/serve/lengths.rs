//! Lengths of the sequences of a batch, as a word of a case's line.

use std::fmt;
use std::str::FromStr;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Uniform, Zipf};

/// A length for each sequence of a batch, written as a list of items with commas between them:
///
/// | item | meaning |
/// |---|---|
/// | `17` | one sequence of that length |
/// | `64*17` | 64 of them |
/// | `zipf:N:MAX:SEED` | `N` random lengths from 0 to `MAX`, the short ones frequent |
/// | `uniform:N:MAX:SEED` | `N` random lengths from 0 to `MAX`, all alike |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths {
    spec: String,
    values: Vec<usize>,
}

/// Sequences that a batch of the tests may have.
const MOST: usize = 1 << 17;

impl Lengths {
    /// The lengths as given.
    pub fn of(values: &[usize]) -> Self {
        let spec = values.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        Lengths { spec, values: values.to_vec() }
    }

    /// The lengths.
    pub fn values(&self) -> &[usize] {
        &self.values
    }

    /// The longest.
    pub fn longest(&self) -> usize {
        self.values.iter().copied().max().unwrap_or(0)
    }

    /// Where each sequence begins when they are packed, and their sum.
    pub fn starts(&self) -> Vec<usize> {
        let sums = self.values.iter().scan(0, |sum, length| {
            *sum += length;
            Some(*sum)
        });
        [0].into_iter().chain(sums).collect()
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec)
    }
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(spec: &str) -> Result<Self, String> {
        let items: Vec<Vec<usize>> = spec.split(',').map(item).collect::<Result<_, _>>()?;
        let values = items.concat();
        if values.is_empty() || values.len() > MOST {
            return Err(format!("{} lengths; there may be 1 to {MOST}", values.len()));
        }
        Ok(Lengths { spec: spec.into(), values })
    }
}

fn item(item: &str) -> Result<Vec<usize>, String> {
    let number = |word: &str| word.parse::<usize>().map_err(|why| format!("'{word}' in '{item}': {why}"));
    let words: Vec<&str> = item.split(':').collect();
    let (count, draw): (&str, Draw) = match *words {
        [one] => {
            let (count, length) = one.split_once('*').unwrap_or(("1", one));
            let length = number(length)?;
            (count, Box::new(move |_| length))
        }
        ["zipf", count, max, _] => {
            // Draws start at 1.
            let of = Zipf::new(number(max)? as f64 + 1.0, 1.0).map_err(|why| format!("'{item}': {why}"))?;
            (count, Box::new(move |rng| of.sample(rng) as usize - 1))
        }
        ["uniform", count, max, _] => {
            let of = Uniform::new_inclusive(0, number(max)?).map_err(|why| format!("'{item}': {why}"))?;
            (count, Box::new(move |rng| of.sample(rng)))
        }
        _ => {
            return Err(format!(
                "'{item}' is none of LENGTH, COUNT*LENGTH, zipf:COUNT:MAX:SEED, uniform:COUNT:MAX:SEED"
            ));
        }
    };
    let seed = words.get(3).map_or(Ok(0), |seed| number(seed))?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
    Ok((0..number(count)?.min(MOST + 1)).map(|_| draw(&mut rng)).collect())
}

type Draw = Box<dyn Fn(&mut ChaCha8Rng) -> usize>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_what_they_say_and_print_back() {
        let spec = "5,0,3*17,zipf:40:300:7,uniform:20:9:1";
        let lengths: Lengths = spec.parse().expect("valid");
        assert_eq!(lengths.to_string(), spec);
        assert_eq!(lengths.values()[..5], [5, 0, 17, 17, 17]);
        assert_eq!(lengths.values().len(), 65);
        let zipf = &lengths.values()[5..45];
        assert!(zipf.iter().all(|l| *l <= 300) && zipf.iter().filter(|l| **l < 30).count() > 15, "{zipf:?}");
        assert!(lengths.values()[45..].iter().all(|l| *l <= 9));
        assert_eq!(Lengths::of(&[4, 0]), "4,0".parse().expect("valid"));
    }

    #[test]
    fn starts_are_sums() {
        let lengths = Lengths::of(&[3, 0, 5]);
        assert_eq!((lengths.starts(), lengths.longest()), (vec![0, 3, 3, 8], 5));
    }

    #[test]
    fn bad_items_are_named() {
        for bad in ["", "5,x", "zipf:3", "normal:1:2:3", "9*", "-1", "1000000*3"] {
            assert!(bad.parse::<Lengths>().is_err(), "{bad}");
        }
        assert!("5,x".parse::<Lengths>().expect_err("no number").contains("'x'"));
    }
}
