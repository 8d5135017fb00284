//! Identifiers. Every id is a newtype over its bytes, ordered, and shown in lower-case hex.

use core::fmt;
use core::str::FromStr;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// Text that is not the hex form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hex digits, found {found:?}")]
pub struct IdParseError {
    expected: usize,
    found: String,
}

pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], IdParseError> {
    let fault = || IdParseError { expected: 2 * N, found: text.chars().take(80).collect() };
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(fault());
    }
    let mut out = [0u8; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
        *byte = digit(pair[0]).zip(digit(pair[1])).map(|(hi, lo)| hi << 4 | lo).ok_or_else(fault)?;
    }
    Ok(out)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
            /// The bytes of the id.
            pub fn as_bytes(&self) -> &[u8; $len] { &self.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write_hex(f, &self.0) }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "("))?;
                write_hex(f, &self.0[..4])?;
                f.write_str("…)")
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;
            fn from_str(text: &str) -> Result<Self, IdParseError> { parse_hex(text).map(Self) }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = core::array::TryFromSliceError;
            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> { bytes.try_into().map(Self) }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                let at = d.position();
                d.bytes()?.try_into().map(Self).map_err(|_| decode::Error::message(concat!("wrong length for ", stringify!($name))).at(at))
            }
        }
    };
}

id!(
    /// A device: an Ed25519 public key. A peer is named by its device.
    DeviceId, 32
);
id!(
    /// A space: BLAKE3 of its genesis.
    SpaceId, 32
);
id!(
    /// A document: BLAKE3 of its header. The id of a space, used as a document id, names the space's authority log.
    DocId, 32
);
id!(
    /// A chain: the Automerge actor id of one run of one device on one document.
    ChainId, 16
);
id!(
    /// An entry: the Automerge change hash, or the hash of a sealed bundle or authority record.
    EntryId, 32
);
id!(
    /// A store: drawn at random when the store is made, and again after a restore, a copy or an import.
    StoreId, 16
);
id!(
    /// The content of a blob: BLAKE3 of its bytes.
    BlobHash, 32
);

id!(
    /// What peers of one space announce on one day: a hash of both.
    Topic, 32
);

impl SpaceId {
    /// The document id under which the authority log of this space is kept.
    pub fn authority(&self) -> DocId {
        DocId(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_bad_hex_is_refused() {
        let id = ChainId([0xa5; 16]);
        assert_eq!(id.to_string().parse::<ChainId>().unwrap(), id);
        for bad in ["", "a5", "zz5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5", "é5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"] {
            assert!(bad.parse::<ChainId>().is_err(), "{bad:?}");
        }
    }
}
