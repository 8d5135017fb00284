//! How two peers without a common cursor find out which documents they hold differently.
//!
//! Each peer turns every document into one 128-bit [`Element`], a keyed hash of the document and its clock, so the
//! question becomes the difference of two sets. The asker wants the answer, the responder helps and keeps no state.
//! It sends a stream of [`Symbol`]s of its set ([`coded_range`], [`Encoder`]), of which any prefix about 1.35 to 1.8 times
//! as long as the difference is enough for the asker's [`Decoder`], whatever the size of the sets. The scheme is that of
//! Yang, Gilad and Alizadeh, "Practical Rateless Set Reconciliation" (SIGCOMM 2024).
//!
//! Not here: what an element stands for after it was found, messages, timers, and when to ask again. Nothing here proves
//! that two sets are equal; a liar can hide documents from the asker, as it can by not answering.

mod codec;
mod decoder;
mod encoder;
mod symbol;
#[cfg(test)]
mod tests;

pub use codec::{Batch, BytesError, decode_symbols, encode_symbols};
pub use decoder::{Decoder, work_max};
pub use encoder::{Encoder, coded_range};
pub use symbol::{SetMark, Symbol};

use core::fmt;

use crate::id::{DocId, write_hex};

/// Symbols of one stream, at most: the memory of a [`Decoder`] is 37 bytes for each, so 37 MiB at the worst, for a
/// difference of up to about 770,000 elements. Callers usually ask for less.
pub const SYMBOLS_MAX: usize = 1 << 20;

/// Symbols of one [`Batch`], at most: about 430 KB on the wire, so that a batch fits a message.
pub const BATCH_SYMBOLS_MAX: usize = 1 << 14;

/// Elements of one set, at most. Indices and counts then stay far from the ends of their types.
pub const SET_LEN_MAX: u64 = u32::MAX as u64;

/// One document in one state, as the sets hold it: uniform for whoever does not know the seed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element(pub [u8; 16]);

impl Element {
    /// As a number, in the order of the bytes.
    fn bits(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    fn from_bits(bits: u128) -> Self {
        Element(bits.to_be_bytes())
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Element(")?;
        write_hex(f, &self.0[..4])?;
        f.write_str("…)")
    }
}

/// The element of `doc` in the state that `clock_digest` names, under the responder's `seed`:
/// the first 16 bytes of BLAKE3 keyed with `"commonhold recon" ‖ seed`, over `doc ‖ clock_digest` (one compression).
pub fn element(seed: &[u8; 16], doc: &DocId, clock_digest: &[u8; 32]) -> Element {
    let mut key = *b"commonhold recon................";
    key[16..].copy_from_slice(seed);
    let mut input = [0; 64];
    input[..32].copy_from_slice(doc.as_bytes());
    input[32..].copy_from_slice(clock_digest);
    let hash = blake3::keyed_hash(&key, &input);
    Element(*hash.as_bytes().first_chunk().expect("16 of 32 bytes"))
}

/// How far the asker has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Ask for more.
    NeedMore,
    /// The whole difference, each list in order and without repeats.
    Done {
        /// What the responder says it holds and the asker does not hold.
        only_remote: Vec<Element>,
        /// What the asker holds and the responder does not show.
        only_local: Vec<Element>,
    },
}

/// Why a reconciliation ended without an answer. The caller starts again later, or with another peer. Only [`Fault::Inconsistent`] may be a lie, and a set
/// that changed between two answers can look the same, so none is worth more than local standing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The stream does not continue where it stopped.
    #[error("symbols start at {found} where {expected} was due")]
    OutOfOrder {
        /// The next index that was due.
        expected: usize,
        /// The index that came.
        found: usize,
    },
    /// The responder's set changed since the first answer: start again.
    #[error("the remote set changed between two answers")]
    SetChanged,
    /// No set gives what came.
    #[error("inconsistent answer: {0}")]
    Inconsistent(&'static str),
    /// The answer came to more symbols or elements than were agreed.
    #[error("more than {max} symbols or elements")]
    TooMany {
        /// The bound.
        max: u64,
    },
    /// The symbols that came made more work than an honest stream of their length.
    #[error("decoding took more than {max} steps")]
    WorkExceeded {
        /// The bound, from [`work_max`].
        max: u64,
    },
    /// The caller went on after an answer or a fault.
    #[error("the reconciliation has ended")]
    Ended,
}
