//! What a client asks, and whether the answer is right.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::corpus::{Corpus, Random};
use crate::tally::{Outcome, Tally};

const JSON: &str = "application/json";

/// One client of the service.
pub struct Client {
    address: String,
    agent: ureq::Agent,
    most_sentences: usize,
}

/// A response's status, whether it says when to come again, and its JSON.
struct Response {
    status: u16,
    retry_after: bool,
    body: Value,
}

impl Client {
    /// A client of the service at `address`, which asks for no more sentences together.
    pub fn new(address: &str, most_sentences: u32) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = config.timeout_global(Some(Duration::from_secs(300))).build().into();
        Client { address: address.to_owned(), agent, most_sentences: most_sentences as usize }
    }

    fn post(&self, content_type: &str, body: &[u8]) -> Result<Response, String> {
        let request = self.agent.post(format!("http://{}/embed", self.address)).content_type(content_type);
        let mut response = request.send(body).map_err(|error| error.to_string())?;
        let text = response.body_mut().with_config().limit(256 << 20).read_to_string();
        let text = text.map_err(|error| error.to_string())?;
        Ok(Response {
            status: response.status().as_u16(),
            retry_after: response.headers().contains_key("retry-after"),
            body: serde_json::from_str(&text).map_err(|error| error.to_string())?,
        })
    }

    /// The embeddings of sentences.
    pub fn embed(&self, sentences: &[&str]) -> Result<Vec<Vec<f32>>, String> {
        let response = self.post(JSON, json!({ "inputs": sentences }).to_string().as_bytes())?;
        if response.status != 200 {
            return Err(format!("status {}: {}", response.status, response.body));
        }
        serde_json::from_value(response.body["embeddings"].clone()).map_err(|error| error.to_string())
    }

    /// Bytes and blocks that the service has allocated and not freed.
    pub fn live(&self) -> Result<(u64, u64), String> {
        let mut response =
            self.agent.get(format!("http://{}/metrics", self.address)).call().map_err(|error| error.to_string())?;
        let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value = line.and_then(|value| value.parse::<f64>().ok());
            value.map(|value| value as u64).ok_or(format!("/metrics has no {name}"))
        };
        Ok((value("embed_live_bytes")?, value("embed_live_blocks")?))
    }

    /// Makes one request and counts what became of it.
    pub fn ask(&self, corpus: &Corpus, random: &mut Random, tally: &mut Tally) {
        match random.below(100) {
            0..5 => tally.expect("malformed: 400", 400, self.status(JSON, br#"{"inputs": ["a", "#)),
            5..8 => tally.expect("not a list: 422", 422, self.status(JSON, br#"{"inputs": {"a": 1}}"#)),
            8..10 => tally.expect("not JSON: 415", 415, self.status("text/plain", b"hello")),
            10..12 => {
                let body = json!({ "inputs": vec!["x"; 5000] }).to_string();
                tally.expect("too many sentences: 413", 413, self.status(JSON, body.as_bytes()));
            }
            12..14 => {
                let body = vec![b' '; (2 << 20) + random.below(4 << 20)];
                tally.expect("too many bytes: 413", 413, self.status(JSON, &body));
            }
            14..17 => self.give_up(corpus, random, tally),
            _ => self.embed_some(corpus, random, tally),
        }
    }

    fn status(&self, content_type: &str, body: &[u8]) -> Result<(u16, String), String> {
        let response = self.post(content_type, body)?;
        let words = response.body["error"].as_str().unwrap_or_default().to_owned();
        Ok((response.status, words))
    }

    /// Asks for sentences of the corpus and compares with what they are alone.
    fn embed_some(&self, corpus: &Corpus, random: &mut Random, tally: &mut Tally) {
        let most = [1, 1, 4, 16, 64][random.below(5)];
        let count = 1 + random.below(self.most_sentences.min(most));
        let chosen: Vec<_> = (0..count).map(|_| corpus.any(random)).collect();
        let inputs: Vec<&str> = chosen.iter().map(|(sentence, _)| sentence.as_str()).collect();
        let body = json!({ "inputs": inputs }).to_string();
        let start = Instant::now();
        let outcome = match self.post(JSON, body.as_bytes()) {
            Ok(Response { status: 200, body, .. }) => {
                let got: Vec<Vec<f32>> = serde_json::from_value(body["embeddings"].clone()).unwrap_or_default();
                Outcome::Answered { got, want: chosen.iter().map(|(_, want)| want.as_slice()).collect() }
            }
            Ok(Response { status: 503, retry_after: true, .. }) => Outcome::Refused,
            Ok(Response { status, body, .. }) => Outcome::Wrong(format!("status {status}: {body}")),
            Err(error) => Outcome::Lost(error),
        };
        let refused = matches!(outcome, Outcome::Refused);
        tally.count(outcome, start.elapsed());
        if refused {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Sends a request, whole or in part, and hangs up.
    fn give_up(&self, corpus: &Corpus, random: &mut Random, tally: &mut Tally) {
        let body = json!({ "inputs": corpus.any(random).0 }).to_string();
        let head = format!(
            "POST /embed HTTP/1.1\r\nhost: soak\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let request = head + &body;
        let part = if random.below(2) == 0 { request.len() } else { random.below(request.len()) };
        let sent =
            TcpStream::connect(&self.address).and_then(|mut stream| stream.write_all(&request.as_bytes()[..part]));
        match sent {
            Ok(()) => tally.count(Outcome::GivenUp, Duration::ZERO),
            Err(error) => tally.count(Outcome::Lost(error.to_string()), Duration::ZERO),
        }
    }
}
