//! Sentences of random lengths, and their embeddings when nothing else is computed.

use crate::client::Client;

/// Words of one word piece each.
const WORDS: &str = "time year people way day man thing woman life child world school state family student group country problem hand \
    part place case week company system program question work government number night point home water room mother area money story fact \
    month lot right study book eye job word business issue side kind head house service friend father power hour game line end member law \
    car city community name president team minute idea body information back parent face others level office door health person art war \
    history party result change morning reason research girl guy moment air teacher force education the of and a to in is you that it he was";

/// Numbers that look random, the same for the same seed (SplitMix64).
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Sentences with their embeddings.
pub struct Corpus {
    sentences: Vec<(String, Vec<f32>)>,
}

impl Corpus {
    /// `count` sentences of at most so many words, each embedded by a request of its own while there is no other.
    pub fn alone(client: &Client, random: &mut Random, count: usize, most_words: usize) -> Result<Self, String> {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let sentence = |random: &mut Random| {
            // Mostly short ones; one in eight up to 300 words, past the model's limit.
            let most = [12, 12, 12, 12, 40, 40, 100, 300][random.below(8)];
            let length = 1 + random.below(most_words.min(most));
            (0..length).map(|_| words[random.below(words.len())]).collect::<Vec<_>>().join(" ")
        };
        let sentences = (0..count)
            .map(|_| {
                let sentence = sentence(random);
                let embedding = client.embed(&[&sentence])?.remove(0);
                Ok((sentence, embedding))
            })
            .collect::<Result<_, String>>()?;
        Ok(Corpus { sentences })
    }

    /// Sentences.
    pub fn len(&self) -> usize {
        self.sentences.len()
    }

    /// A sentence and its embedding.
    pub fn any(&self, random: &mut Random) -> &(String, Vec<f32>) {
        &self.sentences[random.below(self.sentences.len())]
    }
}
