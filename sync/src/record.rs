//! What is signed about a space itself: its genesis, and the records of its authority log.
//!
//! Records travel as entries of a device's chain in the log whose document id is the space's own id, so one tip signs
//! thousands of them. Signed forms are canonical CBOR: bytes that do not re-encode to themselves are refused, and so are
//! unknown fields. An unknown record *kind* is kept, relayed, and acted on by whoever knows it.

use core::fmt;
use core::str::FromStr;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::chain::SIGNATURE_LEN;
use crate::id::{ChainId, DeviceId, DocId, EntryId, IdParseError, SpaceId};
use crate::peer_record::{RECORD_ADDRESS_BYTES_MAX, RECORD_ADDRESSES_MAX};

/// Longest document name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 256;
/// Longest document kind, in bytes of UTF-8.
pub const KIND_BYTES_MAX: usize = 64;
/// Longest record, in bytes.
pub const RECORD_BYTES_MAX: usize = 4_096;
/// Longest name of an identity's device, in bytes of UTF-8.
pub const DEVICE_NAME_BYTES_MAX: usize = 64;
/// Longest note of an erase request, in bytes of UTF-8.
pub const NOTE_BYTES_MAX: usize = 256;
/// Records that one revocation takes back.
pub const REVOKED_MAX: usize = 16;
/// Chains that one rotation keeps: at 26 bytes each, what a record holds.
pub const ROTATE_CUTS_MAX: usize = 128;
/// Cut records of one revocation: at about 70 documents each, those of a million documents.
pub const CUT_PARTS_MAX: u32 = 16_384;
/// Redemptions that an invite may ask for.
pub const INVITE_USES_MAX: u32 = 16;

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
    /// Who owns the space: an identity, or a single device.
    #[n(0)]
    pub root: Subject,
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

/// Who a right is given to: a device, by its key, or an identity, by its id. Nothing tells the two apart but what is
/// known of them; a hash cannot be a key that somebody holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(pub [u8; 32]);

impl From<DeviceId> for Subject {
    fn from(device: DeviceId) -> Subject {
        Subject(device.0)
    }
}

impl Subject {
    /// The device that this subject is, unless it is an identity.
    pub fn device(&self) -> DeviceId {
        DeviceId(self.0)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.device().fmt(f)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subject(")?;
        crate::id::write_hex(f, &self.0[..4])?;
        f.write_str("…)")
    }
}

impl FromStr for Subject {
    type Err = IdParseError;
    fn from_str(text: &str) -> Result<Subject, IdParseError> {
        text.parse().map(|device: DeviceId| device.into())
    }
}

impl<C> Encode<C> for Subject {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), encode::Error<W::Error>> {
        self.device().encode(e, c)
    }
}

impl<'b, C> Decode<'b, C> for Subject {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Subject, decode::Error> {
        DeviceId::decode(d, c).map(Subject::from)
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

/// Up to where chains stay: (chain, number of its last entry), by chain ascending, every number at least 1. A chain that is
/// not named keeps nothing.
pub type ChainEnds = Vec<(ChainId, u64)>;

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
    /// Gives a device or an identity a right.
    Grant {
        /// To whom.
        subject: Subject,
        /// What.
        right: Right,
        /// May vouch for unsigned changes of foreign actors.
        gateway: bool,
        /// Told apart from the same grant, given before and taken back, by this number. Left out of the bytes if 0.
        again: u32,
    },
    /// Deletes a document: bodies are dropped, the tombstone stays.
    Tombstone {
        /// Which.
        doc: DocId,
    },
    /// Founds an identity, whose id is the hash of this record ([`Record::identity`]).
    Identity {
        /// Its first root key.
        root: DeviceId,
        /// Commits to the next root key ([`commitment`]); all zero if there is none.
        next: [u8; 32],
    },
    /// Puts the key of the chain in the place of the root key before it. It names the founding in full, so that it needs no other
    /// record.
    Rotate {
        /// First root key of the identity.
        root: DeviceId,
        /// What that commits to.
        first: [u8; 32],
        /// Commits to the key after this one.
        next: [u8; 32],
        /// What counts of the authority chains of older root keys.
        cuts: ChainEnds,
    },
    /// Lets a device act for an identity. Said by a root key of the identity.
    Member {
        /// For whom.
        identity: Subject,
        /// Which device.
        device: DeviceId,
        /// Its name, for people; may be empty.
        name: String,
        /// As in a grant, but never left out.
        again: u32,
    },
    /// Takes back grants, invites or members.
    Revoke {
        /// The ids of their records, ascending; 1 to [`REVOKED_MAX`].
        records: Vec<EntryId>,
        /// How many records directly before this one in its chain ([`Record::Cuts`]) say what stays.
        parts: u32,
    },
    /// A part of what a revocation leaves in force.
    Cuts {
        /// By document ascending; the id of the space names the authority log. What is not named keeps nothing.
        entries: Vec<(DocId, ChainEnds)>,
    },
    /// Says the header of a document again, whose creator no longer counts.
    Adopt {
        /// The creator.
        device: DeviceId,
        /// Canonical bytes of the header.
        header: Vec<u8>,
    },
    /// A document goes on in another, made by the same device.
    Successor {
        /// The new one.
        doc: DocId,
        /// The old one.
        old: DocId,
    },
    /// Asks everybody to erase a document.
    Erase {
        /// Which.
        doc: DocId,
        /// Why, for people; may be empty.
        note: String,
    },
    /// States that this device has erased what a request names.
    Erased {
        /// The record id of the request.
        request: EntryId,
    },
    /// Gives a right to whoever holds a secret key.
    Invite {
        /// BLAKE3 of its public key.
        key: [u8; 32],
        /// Below [`Right::Admin`].
        right: Right,
        /// Devices that are expected to use it, 1 to [`INVITE_USES_MAX`].
        uses: u32,
    },
    /// Claims for the device of the chain what an invite gives.
    Redeem {
        /// The record id of the invite.
        invite: EntryId,
        /// The public key whose hash the invite names.
        key: [u8; 32],
        /// By that key, over [`redeem_bytes`].
        signature: [u8; SIGNATURE_LEN],
    },
    /// Says where the device of the chain can be dialled, to whoever holds the space.
    Place {
        /// When, by the device's own clock in milliseconds since 1970: of several, the latest counts.
        made_ms: u64,
        /// Best first, at most [`RECORD_ADDRESSES_MAX`]; none: nowhere any more.
        addresses: Vec<String>,
    },
    /// A kind that this version does not know.
    Unknown {
        /// Its number.
        kind: u32,
    },
}

const HEADER: u32 = 1;
const GRANT: u32 = 2;
const TOMBSTONE: u32 = 3;
const IDENTITY: u32 = 4;
const ROTATE: u32 = 5;
const MEMBER: u32 = 6;
const REVOKE: u32 = 7;
const CUTS: u32 = 8;
const ADOPT: u32 = 9;
const SUCCESSOR: u32 = 10;
const ERASE: u32 = 11;
const ERASED: u32 = 12;
const INVITE: u32 = 13;
const REDEEM: u32 = 14;
const PLACE: u32 = 15;

/// What the root key before `key` committed to, where `next` is what `key` commits to in turn. As each commitment holds the
/// one after it, all root keys of an identity are fixed at its founding.
pub fn commitment(key: &DeviceId, next: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"commonhold next root 1").update(&key.0).update(next);
    *hasher.finalize().as_bytes()
}

/// What the key of an invite signs for the device that redeems it.
pub fn redeem_bytes(space: &SpaceId, invite: &EntryId, device: &DeviceId) -> Vec<u8> {
    [&b"commonhold redeem 1"[..], &space.0, &invite.0, &device.0].concat()
}

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

    /// The id of the identity that this record founds, or whose founding it names.
    pub fn identity(&self) -> Option<Subject> {
        let (Record::Identity { root, next: first } | Record::Rotate { root, first, .. }) = self else { return None };
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"commonhold identity 1").update(&Record::Identity { root: *root, next: *first }.to_bytes());
        Some(Subject(*hasher.finalize().as_bytes()))
    }

    /// Whether the record has a part in who may do what, or is about a document without making or deleting it: such records
    /// are kept apart, so that they are at hand at start.
    pub fn is_authority(&self) -> bool {
        !matches!(self, Record::Header { .. } | Record::Tombstone { .. } | Record::Unknown { .. })
    }
}

impl<C> Encode<C> for Record {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), encode::Error<W::Error>> {
        match self {
            Record::Header { nonce, kind, name } => e.array(4)?.u32(HEADER)?.bytes(nonce)?.str(kind)?.str(name)?.ok(),
            Record::Grant { subject, right, gateway, again } => {
                e.array(if *again == 0 { 4 } else { 5 })?.u32(GRANT)?;
                subject.encode(e, c)?;
                right.encode(e, c)?;
                e.bool(*gateway)?;
                if *again > 0 {
                    e.u32(*again)?;
                }
                Ok(())
            }
            Record::Tombstone { doc } => {
                e.array(2)?.u32(TOMBSTONE)?;
                doc.encode(e, c)
            }
            Record::Identity { root, next } => {
                e.array(3)?.u32(IDENTITY)?;
                root.encode(e, c)?;
                e.bytes(next)?.ok()
            }
            Record::Rotate { root, first, next, cuts } => {
                e.array(5)?.u32(ROTATE)?;
                root.encode(e, c)?;
                encode_ends(e.bytes(first)?.bytes(next)?, cuts)
            }
            Record::Member { identity, device, name, again } => {
                e.array(5)?.u32(MEMBER)?;
                identity.encode(e, c)?;
                device.encode(e, c)?;
                e.str(name)?.u32(*again)?.ok()
            }
            Record::Revoke { records, parts } => {
                e.array(3)?.u32(REVOKE)?;
                records.encode(e, c)?;
                e.u32(*parts)?.ok()
            }
            Record::Cuts { entries } => {
                e.array(2)?.u32(CUTS)?.array(entries.len() as u64)?;
                entries.iter().try_for_each(|(doc, ends)| encode_ends(e.array(2)?.bytes(&doc.0)?, ends))
            }
            Record::Adopt { device, header } => {
                e.array(3)?.u32(ADOPT)?;
                device.encode(e, c)?;
                e.bytes(header)?.ok()
            }
            Record::Successor { doc, old } => {
                e.array(3)?.u32(SUCCESSOR)?;
                doc.encode(e, c)?;
                old.encode(e, c)
            }
            Record::Erase { doc, note } => {
                e.array(3)?.u32(ERASE)?;
                doc.encode(e, c)?;
                e.str(note)?.ok()
            }
            Record::Erased { request } => {
                e.array(2)?.u32(ERASED)?;
                request.encode(e, c)
            }
            Record::Invite { key, right, uses } => {
                e.array(4)?.u32(INVITE)?.bytes(key)?;
                right.encode(e, c)?;
                e.u32(*uses)?.ok()
            }
            Record::Redeem { invite, key, signature } => {
                e.array(4)?.u32(REDEEM)?;
                invite.encode(e, c)?;
                e.bytes(key)?.bytes(signature)?.ok()
            }
            Record::Place { made_ms, addresses } => {
                e.array(3)?.u32(PLACE)?.u64(*made_ms)?.array(addresses.len() as u64)?;
                addresses.iter().try_for_each(|address| e.str(address)?.ok())
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
        let hash = |d: &mut Decoder<'b>| d.bytes()?.try_into().map_err(|_| fault("a key or hash has 32 bytes"));
        match (kind, fields) {
            (HEADER, 4) => Ok(Record::Header {
                nonce: d.bytes()?.try_into().map_err(|_| fault("a nonce has 16 bytes"))?,
                kind: text(d, KIND_BYTES_MAX)?,
                name: text(d, NAME_BYTES_MAX)?,
            }),
            (GRANT, 4 | 5) => {
                let subject = Subject::decode(d, c)?;
                let (right, gateway) = (Right::decode(d, c)?, d.bool()?);
                let again = if fields == 5 { d.u32()? } else { 0 };
                Ok(Record::Grant { subject, right, gateway, again })
            }
            (TOMBSTONE, 2) => Ok(Record::Tombstone { doc: DocId::decode(d, c)? }),
            (IDENTITY, 3) => Ok(Record::Identity { root: DeviceId::decode(d, c)?, next: hash(d)? }),
            (ROTATE, 5) => Ok(Record::Rotate {
                root: DeviceId::decode(d, c)?,
                first: hash(d)?,
                next: hash(d)?,
                cuts: decode_ends(d, c, ROTATE_CUTS_MAX)?,
            }),
            (MEMBER, 5) => Ok(Record::Member {
                identity: Subject::decode(d, c)?,
                device: DeviceId::decode(d, c)?,
                name: text(d, DEVICE_NAME_BYTES_MAX)?,
                again: d.u32()?,
            }),
            (REVOKE, 3) => {
                let count = d.array()?.filter(|n| (1..=REVOKED_MAX as u64).contains(n));
                let count = count.ok_or_else(|| fault("a revocation names 1 to 16 records"))?;
                let records = (0..count).map(|_| EntryId::decode(d, c)).collect::<Result<Vec<_>, _>>()?;
                if !records.is_sorted_by(|one, other| one < other) {
                    return Err(fault("revoked records are out of order"));
                }
                let parts = Some(d.u32()?).filter(|n| *n <= CUT_PARTS_MAX);
                Ok(Record::Revoke { records, parts: parts.ok_or_else(|| fault("too many cut records"))? })
            }
            (CUTS, 2) => {
                let count = d.array()?.filter(|n| (1..=RECORD_BYTES_MAX as u64).contains(n));
                let count = count.ok_or_else(|| fault("a cut record names no document"))?;
                let mut entries: Vec<(DocId, ChainEnds)> = Vec::new();
                for _ in 0..count {
                    if d.array()? != Some(2) {
                        return Err(fault("a cut has two fields"));
                    }
                    let doc = DocId::decode(d, c)?;
                    if entries.last().is_some_and(|(last, _)| *last >= doc) {
                        return Err(fault("cut documents are out of order"));
                    }
                    entries.push((doc, decode_ends(d, c, RECORD_BYTES_MAX)?));
                }
                Ok(Record::Cuts { entries })
            }
            (ADOPT, 3) => {
                let (device, header) = (DeviceId::decode(d, c)?, d.bytes()?);
                match Record::from_bytes(header) {
                    Ok(Record::Header { .. }) => Ok(Record::Adopt { device, header: header.to_vec() }),
                    _ => Err(fault("what is adopted is not a header")),
                }
            }
            (SUCCESSOR, 3) => Ok(Record::Successor { doc: DocId::decode(d, c)?, old: DocId::decode(d, c)? }),
            (ERASE, 3) => Ok(Record::Erase { doc: DocId::decode(d, c)?, note: text(d, NOTE_BYTES_MAX)? }),
            (ERASED, 2) => Ok(Record::Erased { request: EntryId::decode(d, c)? }),
            (INVITE, 4) => {
                let (key, right, uses) = (hash(d)?, Right::decode(d, c)?, d.u32()?);
                if right == Right::Admin || !(1..=INVITE_USES_MAX).contains(&uses) {
                    return Err(fault("an invite gives less than admin, and is for 1 to 16 uses"));
                }
                Ok(Record::Invite { key, right, uses })
            }
            (REDEEM, 4) => Ok(Record::Redeem {
                invite: EntryId::decode(d, c)?,
                key: hash(d)?,
                signature: d.bytes()?.try_into().map_err(|_| fault("a signature has 64 bytes"))?,
            }),
            (PLACE, 3) => {
                let made_ms = d.u64()?;
                let count = d.array()?.filter(|count| *count <= RECORD_ADDRESSES_MAX as u64);
                let count = count.ok_or_else(|| fault("a place has at most 8 addresses"))?;
                let addresses = (0..count).map(|_| text(d, RECORD_ADDRESS_BYTES_MAX)).collect::<Result<_, _>>()?;
                Ok(Record::Place { made_ms, addresses })
            }
            (HEADER..=PLACE, _) => Err(fault("wrong number of fields")),
            (kind, fields) => {
                for _ in 1..fields {
                    d.skip()?;
                }
                Ok(Record::Unknown { kind })
            }
        }
    }
}

/// A flat list: chain, number, chain, number …
fn encode_ends<W: encode::Write>(e: &mut Encoder<W>, ends: &ChainEnds) -> Result<(), encode::Error<W::Error>> {
    e.array(2 * ends.len() as u64)?;
    ends.iter().try_for_each(|(chain, n)| e.bytes(&chain.0)?.u64(*n)?.ok())
}

fn decode_ends<C>(d: &mut Decoder<'_>, c: &mut C, chains_max: usize) -> Result<ChainEnds, decode::Error> {
    let fault = decode::Error::message;
    let count = d.array()?.filter(|n| n % 2 == 0 && n / 2 <= chains_max as u64);
    let count = count.ok_or_else(|| fault("not pairs of chain and number, or too many"))? / 2;
    let mut ends = ChainEnds::new();
    for _ in 0..count {
        let (chain, n) = (ChainId::decode(d, c)?, d.u64()?);
        if n == 0 || ends.last().is_some_and(|(last, _)| *last >= chain) {
            return Err(fault("chains are out of order, or keep nothing"));
        }
        ends.push((chain, n));
    }
    Ok(ends)
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
            root: Subject([1; 32]),
            privacy: Privacy::Public,
            writers: Writers::Granted,
            rules: 1,
            nonce: [2; 16],
        }
    }

    fn header() -> Record {
        Record::Header { nonce: [3; 16], kind: "note".into(), name: "Shopping".into() }
    }

    #[test]
    fn signed_statements_survive_their_encoding() {
        assert_eq!(Genesis::from_bytes(&genesis().to_bytes()), Ok(genesis()));
        for record in [
            Record::Header { nonce: [3; 16], kind: "note".into(), name: "Shopping".into() },
            Record::Grant { subject: Subject([4; 32]), right: Right::Write, gateway: false, again: 0 },
            Record::Grant { subject: Subject([4; 32]), right: Right::Write, gateway: false, again: 70_000 },
            Record::Tombstone { doc: DocId([5; 32]) },
            Record::Identity { root: DeviceId([1; 32]), next: [2; 32] },
            Record::Rotate {
                root: DeviceId([1; 32]),
                first: [4; 32],
                next: [2; 32],
                cuts: vec![(ChainId([3; 16]), 300)],
            },
            Record::Member { identity: Subject([1; 32]), device: DeviceId([2; 32]), name: "phone".into(), again: 0 },
            Record::Revoke { records: vec![EntryId([1; 32]), EntryId([2; 32])], parts: 3 },
            Record::Cuts { entries: vec![(DocId([1; 32]), vec![(ChainId([1; 16]), 1)]), (DocId([2; 32]), vec![])] },
            Record::Adopt { device: DeviceId([1; 32]), header: header().to_bytes() },
            Record::Successor { doc: DocId([1; 32]), old: DocId([2; 32]) },
            Record::Erase { doc: DocId([1; 32]), note: "they asked".into() },
            Record::Erased { request: EntryId([1; 32]) },
            Record::Invite { key: [1; 32], right: Right::Read, uses: 1 },
            Record::Redeem { invite: EntryId([1; 32]), key: [2; 32], signature: [3; 64] },
            Record::Place { made_ms: 1_700_000_000_000, addresses: vec!["ws://192.0.2.1:7777/".into(), String::new()] },
            Record::Place { made_ms: 1 << 40, addresses: vec![] },
        ] {
            assert!(record.to_bytes().len() >= 10, "an entry has at least 10 bytes");
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
    fn a_grant_that_is_not_given_again_has_the_bytes_that_it_always_had() {
        let grant = |again| Record::Grant { subject: Subject([4; 32]), right: Right::Write, gateway: true, again };
        assert_eq!(grant(0).to_bytes(), minicbor::to_vec((2u32, DeviceId([4; 32]), 2u8, true)).unwrap());
        let zero = minicbor::to_vec((2u32, DeviceId([4; 32]), 2u8, true, 0u32)).unwrap();
        assert_eq!(Record::from_bytes(&zero), Err(RecordError::NotCanonical("record")));
    }

    #[test]
    fn a_record_out_of_its_bounds_is_refused() {
        let ends = |n| (0..n).map(|i| (ChainId([i; 16]), 1)).collect::<ChainEnds>();
        let rotate = |cuts| Record::Rotate { root: DeviceId([1; 32]), first: [0; 32], next: [0; 32], cuts };
        let cuts = |docs: &[u8]| Record::Cuts { entries: docs.iter().map(|i| (DocId([*i; 32]), ends(1))).collect() };
        let revoke =
            |ids: &[u8], parts| Record::Revoke { records: ids.iter().map(|i| EntryId([*i; 32])).collect(), parts };
        assert!(Record::from_bytes(&rotate(ends(ROTATE_CUTS_MAX as u8)).to_bytes()).is_ok());
        let many: Vec<u8> = (0..17).collect();
        let member =
            Record::Member { identity: Subject([1; 32]), device: DeviceId([1; 32]), name: "x".repeat(65), again: 0 };
        for (what, record) in [
            ("more chains than a rotation names", rotate(ends(ROTATE_CUTS_MAX as u8 + 1))),
            ("a chain that keeps nothing", rotate(vec![(ChainId([0; 16]), 0)])),
            ("a chain twice", rotate(vec![(ChainId([0; 16]), 1), (ChainId([0; 16]), 2)])),
            ("no document", cuts(&[])),
            ("documents out of order", cuts(&[2, 1])),
            ("nothing revoked", revoke(&[], 0)),
            ("17 records revoked", revoke(&many, 0)),
            ("a record revoked twice", revoke(&[1, 1], 0)),
            ("too many parts", revoke(&[1], CUT_PARTS_MAX + 1)),
            ("a device's name of 65 bytes", member),
            ("a note of 257 bytes", Record::Erase { doc: DocId([1; 32]), note: "x".repeat(257) }),
            ("an adopted grant", Record::Adopt { device: DeviceId([1; 32]), header: rotate(ends(1)).to_bytes() }),
            ("an invite to be admin", Record::Invite { key: [1; 32], right: Right::Admin, uses: 1 }),
            ("an invite for nobody", Record::Invite { key: [1; 32], right: Right::Read, uses: 0 }),
        ] {
            assert!(Record::from_bytes(&record.to_bytes()).is_err(), "{what}");
        }
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
