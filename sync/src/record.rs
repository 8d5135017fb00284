//! What is signed about a space itself: its genesis, and the records of its authority log.
//!
//! Records travel as entries of a device's chain in the log whose document id is the space's own id, so one tip signs
//! thousands of them. Signed forms are canonical CBOR: bytes that do not re-encode to themselves are refused, and so are
//! unknown fields. An unknown record *kind* is kept, relayed, and acted on by whoever knows it.

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::id::{DeviceId, DocId, EntryId, SpaceId};

/// Longest document name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 256;
/// Longest document kind, in bytes of UTF-8.
pub const KIND_BYTES_MAX: usize = 64;
/// Longest record, in bytes.
pub const RECORD_BYTES_MAX: usize = 4_096;

/// A signed statement that does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not the statement's CBOR.
    #[error("not a valid {what}: {why}")]
    Malformed {
        /// Which statement.
        what: &'static str,
        /// What was wrong.
        why: String,
    },
    /// The bytes decode, but are not the one canonical encoding.
    #[error("{0} is not canonically encoded, or has unknown fields")]
    NotCanonical(&'static str),
    /// Longer than [`RECORD_BYTES_MAX`].
    #[error("a record of {0} bytes; the most is 4096")]
    TooLong(usize),
}

/// Who may write in a space, besides its root and those it grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Writers {
    /// Only devices with a grant.
    #[n(0)]
    Granted,
    /// Every device that knows the id of the space.
    #[n(1)]
    Anyone,
}

/// Whether the content of a space is readable by its relays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Privacy {
    /// The id of the space is the right to read it.
    #[n(0)]
    Public,
    /// Entries are sealed bundles (reserved; this version does not open them).
    #[n(1)]
    Private,
}

/// The first statement about a space. Its hash is the space's id.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Genesis {
    /// The root identity: in this version, the key of its one device.
    #[n(0)]
    pub root: DeviceId,
    /// Public or private.
    #[n(1)]
    pub privacy: Privacy,
    /// Who may write without a grant.
    #[n(2)]
    pub writers: Writers,
    /// Version of the admission rules ([`crate::limits::Rules`]).
    #[n(3)]
    pub rules: u32,
    /// Makes the id unguessable.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

impl Genesis {
    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_vec(self)
    }

    /// Decodes canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Genesis, RecordError> {
        canonical("genesis", bytes)
    }

    /// The id of the space that this genesis founds.
    pub fn space(&self) -> SpaceId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"commonhold genesis 1").update(&self.to_bytes());
        SpaceId(*hasher.finalize().as_bytes())
    }
}

/// What a device may do in a space. Each right includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Right {
    /// Store and forward.
    #[n(0)]
    Relay,
    /// Read.
    #[n(1)]
    Read,
    /// Read, write and create documents.
    #[n(2)]
    Write,
    /// Write, and grant the rest (given by the root only).
    #[n(3)]
    Admin,
}

/// The content of one entry of an authority log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Creates a document. The hash of this record is the document's id.
    Header {
        /// Makes the id unguessable.
        nonce: [u8; 16],
        /// What the app calls documents of this sort; may be empty.
        kind: String,
        /// A name for people; may be empty.
        name: String,
    },
    /// Gives a device a right.
    Grant {
        /// Who.
        device: DeviceId,
        /// What.
        right: Right,
        /// May vouch for unsigned changes of foreign actors.
        gateway: bool,
    },
    /// Deletes a document: bodies are dropped, the tombstone stays.
    Tombstone {
        /// Which.
        doc: DocId,
    },
    /// A kind that this version does not know (revocations, device records, successors, erase requests …).
    Unknown {
        /// Its number.
        kind: u32,
    },
}

const HEADER: u32 = 1;
const GRANT: u32 = 2;
const TOMBSTONE: u32 = 3;

impl Record {
    /// Canonical bytes: an array of the kind's number and its fields in order.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_vec(self)
    }

    /// Decodes canonical bytes; kinds that this version does not know become [`Record::Unknown`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Record, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let record: Record = decode_all("record", bytes)?;
        match record {
            Record::Unknown { .. } => Ok(record),
            known if to_vec(&known) == bytes => Ok(known),
            _ => Err(RecordError::NotCanonical("record")),
        }
    }

    /// The id of a record made by `device` in `space`.
    pub fn id(space: &SpaceId, device: &DeviceId, bytes: &[u8]) -> EntryId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"commonhold record 1").update(&space.0).update(&device.0).update(bytes);
        EntryId(*hasher.finalize().as_bytes())
    }
}

impl<C> Encode<C> for Record {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), encode::Error<W::Error>> {
        match self {
            Record::Header { nonce, kind, name } => e.array(4)?.u32(HEADER)?.bytes(nonce)?.str(kind)?.str(name)?.ok(),
            Record::Grant { device, right, gateway } => {
                e.array(4)?.u32(GRANT)?;
                device.encode(e, c)?;
                right.encode(e, c)?;
                e.bool(*gateway)?.ok()
            }
            Record::Tombstone { doc } => {
                e.array(2)?.u32(TOMBSTONE)?;
                doc.encode(e, c)
            }
            Record::Unknown { kind } => e.array(1)?.u32(*kind)?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for Record {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        let fault = decode::Error::message;
        let fields = d.array()?.filter(|n| (1..=64).contains(n)).ok_or_else(|| fault("a record is an array"))?;
        let kind = d.u32()?;
        let text = |d: &mut Decoder<'b>, max: usize| match d.str()? {
            text if text.len() <= max => Ok(text.to_owned()),
            _ => Err(fault("a name or kind is too long")),
        };
        match (kind, fields) {
            (HEADER, 4) => Ok(Record::Header {
                nonce: d.bytes()?.try_into().map_err(|_| fault("a nonce has 16 bytes"))?,
                kind: text(d, KIND_BYTES_MAX)?,
                name: text(d, NAME_BYTES_MAX)?,
            }),
            (GRANT, 4) => {
                Ok(Record::Grant { device: DeviceId::decode(d, c)?, right: Right::decode(d, c)?, gateway: d.bool()? })
            }
            (TOMBSTONE, 2) => Ok(Record::Tombstone { doc: DocId::decode(d, c)? }),
            (HEADER | GRANT | TOMBSTONE, _) => Err(fault("wrong number of fields")),
            (kind, fields) => {
                for _ in 1..fields {
                    d.skip()?;
                }
                Ok(Record::Unknown { kind })
            }
        }
    }
}

fn to_vec<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("writing to a Vec cannot fail")
}

fn decode_all<'b, T: Decode<'b, ()>>(what: &'static str, bytes: &'b [u8]) -> Result<T, RecordError> {
    let mut decoder = Decoder::new(bytes);
    let value = decoder.decode().map_err(|e| RecordError::Malformed { what, why: e.to_string() })?;
    match decoder.position() == bytes.len() {
        true => Ok(value),
        false => Err(RecordError::Malformed { what, why: "bytes after its end".into() }),
    }
}

fn canonical<'b, T: Decode<'b, ()> + Encode<()>>(what: &'static str, bytes: &'b [u8]) -> Result<T, RecordError> {
    let value: T = decode_all(what, bytes)?;
    if to_vec(&value) == bytes { Ok(value) } else { Err(RecordError::NotCanonical(what)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genesis() -> Genesis {
        Genesis {
            root: DeviceId([1; 32]),
            privacy: Privacy::Public,
            writers: Writers::Granted,
            rules: 1,
            nonce: [2; 16],
        }
    }

    #[test]
    fn signed_statements_survive_their_encoding() {
        assert_eq!(Genesis::from_bytes(&genesis().to_bytes()), Ok(genesis()));
        for record in [
            Record::Header { nonce: [3; 16], kind: "note".into(), name: "Shopping".into() },
            Record::Grant { device: DeviceId([4; 32]), right: Right::Write, gateway: false },
            Record::Tombstone { doc: DocId([5; 32]) },
        ] {
            assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
        }
    }

    #[test]
    fn a_longer_encoding_of_the_same_statement_is_refused() {
        // 0x18 0x03 is a two-byte encoding of 3.
        let mut bytes = Record::Tombstone { doc: DocId([5; 32]) }.to_bytes();
        bytes.splice(1..2, [0x18, 0x03]);
        assert_eq!(Record::from_bytes(&bytes), Err(RecordError::NotCanonical("record")));
        let mut bytes = genesis().to_bytes();
        bytes[0] += 1;
        bytes.extend([0x09, 0x00]);
        assert_eq!(Genesis::from_bytes(&bytes), Err(RecordError::NotCanonical("genesis")));
    }

    #[test]
    fn an_unknown_kind_is_kept() {
        let bytes = minicbor::to_vec((77u32, "revocation", 5u8)).unwrap();
        assert_eq!(Record::from_bytes(&bytes), Ok(Record::Unknown { kind: 77 }));
    }

    #[test]
    fn ids_match_the_golden_vectors() {
        assert_eq!(genesis().space().to_string(), "1e372a4cec9a830729526a5fb491b6175668da01947e55437640f5a3660ce6e9");
        let header = Record::Header { nonce: [3; 16], kind: "note".into(), name: "Shopping".into() }.to_bytes();
        assert_eq!(
            Record::id(&SpaceId([1; 32]), &DeviceId([2; 32]), &header).to_string(),
            "678ec6ca2e67e2fbec8e22027e7b020c995bdbb0bd6536f1c89c1c3878a61cfc"
        );
    }
}
