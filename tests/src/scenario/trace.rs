//! Editing sessions: recorded ones, or one made up for machines that have none.

use std::io::Read;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Deserialize;

/// A trace that cannot be used.
#[derive(Debug)]
pub struct TraceError(String);

impl std::fmt::Display for TraceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TraceError {}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "endContent")]
    end: String,
    txns: Vec<Transaction>,
}

#[derive(Deserialize)]
struct Transaction {
    patches: Vec<(usize, usize, String)>,
}

/// A session: transactions of (position, deleted, inserted), positions in code points.
pub struct Trace {
    /// Each becomes one change.
    pub transactions: Vec<Vec<(usize, usize, String)>>,
    /// The text afterwards, if it is known.
    pub end: Option<String>,
}

impl Trace {
    /// Reads a sequential trace, gzipped JSON.
    pub fn read(path: &Path) -> Result<Trace, TraceError> {
        let fault = |what: &str| TraceError(format!("{}: {what}", path.display()));
        let file = std::fs::File::open(path).map_err(|e| fault(&e.to_string()))?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).map_err(|e| fault(&e.to_string()))?;
        let file: File = serde_json::from_str(&text).map_err(|e| fault(&e.to_string()))?;
        let transactions = file.txns.into_iter().map(|t| t.patches).collect();
        Ok(Trace { transactions, end: Some(file.end) })
    }

    /// A made-up session of single keystrokes: mostly typing on, sometimes deleting, sometimes elsewhere.
    pub fn generated(keystrokes: usize) -> Trace {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut length, mut at) = (0usize, 0usize);
        let letters: Vec<char> = "etaoin shrdlu cmfwyp vbgkjqxz,.\n".chars().collect();
        let transactions = (0..keystrokes).map(|_| {
            if rng.next_u32() % 100 == 0 {
                at = rng.next_u32() as usize % (length + 1);
            }
            if at > 0 && rng.next_u32() % 8 == 0 {
                at -= 1;
                length -= 1;
                return vec![(at, 1, String::new())];
            }
            let letter = letters[rng.next_u32() as usize % letters.len()];
            at += 1;
            length += 1;
            vec![(at - 1, 0, letter.to_string())]
        });
        Trace { transactions: transactions.collect(), end: None }
    }
}
