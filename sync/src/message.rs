//! The messages of the protocol (docs/protocol.md), inside the secure channel.
//!
//! A message is its type (one byte, high bit set if the body is LZ4), then a CBOR map with integer keys. Unknown keys
//! and unknown types are ignored, so that versions can grow. Everything is bounded before it is allocated.

use minicbor::bytes::ByteVec;
use minicbor::data::Type;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::chain::{Opening, Tip};
use crate::clock::{Clock, Fingerprint};
use crate::id::{BlobHash, DocId, EntryId, StoreId, Topic};
use crate::ledger::Receipt;
use crate::limits::Limits;
use crate::peer_record::PeerRecord;
use crate::proof::ForkProof;
use crate::storage_receipt::{RECEIPT_ENTRIES_MAX, StorageReceipt};

/// Bodies shorter than this are never compressed.
const COMPRESS_FROM: usize = 512;
const COMPRESSED: u8 = 0x80;

/// Spaces in one hello or [`Spaces`] message.
pub const SPACES_MAX: usize = 4_096;
/// Documents in one list of a message.
pub const LIST_MAX: usize = 16_384;
/// Fork proofs in one message.
pub const PROOFS_MAX: usize = 64;
/// Bytes of a list of clocks or spaces in one message.
pub const RUN_BYTES: usize = 512 << 10;
/// Bytes of one item of a list: with the rest of its message it stays below `message_bytes_max`.
pub const ITEM_BYTES_MAX: usize = 1 << 20;

/// Topics in one [`Announce`]: 256 spaces on an ordinary day, 128 around midnight. 8 KiB.
pub const TOPICS_MAX: usize = 256;
/// Peers in one [`Peers`]: at the largest records some 290 KiB, ordinarily 20.
pub const PEERS_MAX: usize = 128;

/// Bytes of an entry, at least: the header of a change. Nothing that is shorter takes up a vector of its own.
const ENTRY_BYTES_MIN: usize = 10;

/// Bytes that are not a message. The connection that sent them is closed with this reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not CBOR of the promised shape.
    #[error("message of type {0} does not decode: {1}")]
    Malformed(u8, String),
    /// Larger than the limits after inflation, or inflating too much.
    #[error("message inflates from {from} to {to} bytes")]
    Inflates {
        /// Bytes received.
        from: usize,
        /// Bytes declared.
        to: usize,
    },
    /// No bytes at all.
    #[error("empty message")]
    Empty,
}

/// First message of either side.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// Bits of optional features that the sender understands; unknown bits are ignored.
    #[n(0)]
    pub features: u64,
    /// Bits of the roles that the sender plays ([`roles`]).
    #[n(1)]
    pub roles: u64,
    /// Whose sequence the cursors of this connection speak of.
    #[n(2)]
    pub store: StoreId,
    /// Name and version of the program, for people.
    #[n(3)]
    pub agent: String,
    /// Addresses at which the sender can be dialled.
    #[cbor(n(4), decode_with = "list::<_, _, 1_024>")]
    pub addresses: Vec<String>,
    /// The first page of spaces.
    #[n(5)]
    pub spaces: Vec<SpaceHello>,
    /// What the sender says of itself for others to pass on, if it can be dialled.
    #[n(6)]
    pub record: Option<PeerRecord>,
}

/// Roles in [`Hello::roles`].
pub mod roles {
    /// Stores whole spaces and serves them.
    pub const STORE: u64 = 1;
    /// Forwards what it is sent.
    pub const RELAY: u64 = 2;
    /// Sends only its own entries and serves nobody.
    pub const LEAF: u64 = 4;
    /// Introduces peers to one another.
    pub const TRACKER: u64 = 8;
    /// Speaks HTTP (a later version).
    pub const SHIM: u64 = 16;
    /// Sends and wants what is new in bursts, because waking its radio is what costs it. It is a leaf, too: others would wait for what
    /// it passes on.
    pub const SAVER: u64 = 32;
    /// What it sends costs it something: who is pushed the same by others is pushed it by them.
    pub const SPARED: u64 = 64;
}

/// One space that the sender holds, recognisable only to somebody who knows its id.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct SpaceHello {
    /// The sender's handle for the space on this connection.
    #[n(0)]
    pub handle: u32,
    /// First two bytes of BLAKE3 of the id, so that only that bucket need be hashed.
    #[n(1)]
    pub prefix: u16,
    /// Keyed hash of the id under the session.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub tag: [u8; 16],
    /// Up to where the sender holds what the receiver's store holds.
    #[n(3)]
    pub cursor: Option<Cursor>,
    /// What the sender holds.
    #[n(4)]
    pub fingerprint: Fingerprint,
    /// Bytes of bodies that may ride along with the answer.
    #[n(5)]
    pub ride: u64,
    /// True if the sender holds nothing: the answer may ride in full and use snapshots.
    #[n(6)]
    pub fresh: bool,
    /// If present, the only documents that the sender wants.
    #[n(7)]
    pub filter: Option<Vec<DocId>>,
    /// The sender knows the id but lacks the genesis.
    #[n(8)]
    pub wants_genesis: bool,
}

/// A place in the sequence of one store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Cursor {
    /// Which store.
    #[n(0)]
    pub store: StoreId,
    /// Everything up to and including this number.
    #[n(1)]
    pub seq: u64,
}

/// More spaces, after the hello. Same form as in the hello.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Spaces {
    /// At most [`SPACES_MAX`].
    #[n(0)]
    pub spaces: Vec<SpaceHello>,
}

/// The genesis of a space, for a sender that knows only its id.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct GenesisOf {
    /// The receiver's own handle for the space.
    #[n(0)]
    pub space: u32,
    /// Canonical bytes; their hash is the id.
    #[n(1)]
    pub genesis: ByteVec,
}

/// Asks for the next page of the receiver's sequence.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Since {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// Place in the receiver's store.
    #[n(1)]
    pub after: u64,
    /// As in [`SpaceHello::ride`].
    #[n(2)]
    pub ride: u64,
    /// As in [`SpaceHello::fresh`].
    #[n(3)]
    pub fresh: bool,
}

/// Segments, why they come, and (for a page) where it ends.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Data {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// Runs of entries.
    #[n(1)]
    pub segments: Vec<WireSegment>,
    /// Documents about which the receiver should ask by clock.
    #[n(2)]
    pub haves: Vec<Have>,
    /// Set on pages and marks: the receiver now holds or knows everything up to this number of the sender's store.
    #[n(3)]
    pub upto: Option<u64>,
    /// Set on the last page: the fingerprint at `upto`.
    #[n(4)]
    pub fingerprint: Option<Fingerprint>,
    /// True if these answer a [`Want`] or [`Since`]; false for live pushes.
    #[n(5)]
    pub asked: bool,
    /// Wanted documents that the sender does not hold.
    #[n(6)]
    pub absent: Vec<DocId>,
    /// Proofs that close chains. They are read before the entries.
    #[n(7)]
    pub proofs: Option<Proofs>,
}

/// Fork proofs, at least one and at most [`PROOFS_MAX`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proofs(pub Vec<ForkProof>);

impl Proofs {
    /// In messages of their own, as many in each as one may hold.
    pub fn cut(proofs: Vec<ForkProof>) -> impl Iterator<Item = Proofs> {
        let mut rest = proofs.into_iter();
        core::iter::from_fn(move || {
            let some: Vec<ForkProof> = rest.by_ref().take(PROOFS_MAX).collect();
            (!some.is_empty()).then_some(Proofs(some))
        })
    }
}

impl<C> Encode<C> for Proofs {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), encode::Error<W::Error>> {
        self.0.encode(e, c)
    }
}

impl<'b, C> Decode<'b, C> for Proofs {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        list::<_, _, PROOFS_MAX>(d, c).map(Proofs)
    }
}

/// A document and exactly which of its entries the sender holds.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Have {
    /// Which.
    #[n(0)]
    pub doc: DocId,
    /// What of it.
    #[n(1)]
    pub clock: Clock,
}

/// Asks for what the receiver holds beyond these clocks. A chain that the asker wants whole is left out of its clock.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Want {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// At most [`LIST_MAX`].
    #[n(1)]
    pub docs: Vec<Have>,
    /// Entries only: a snapshot would not help.
    #[n(2)]
    pub no_snapshot: bool,
}

/// A piece of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct SnapshotPart {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// Which document.
    #[n(1)]
    pub doc: DocId,
    /// Where the piece starts. Pieces come in order.
    #[n(2)]
    pub offset: u64,
    /// Bytes of the whole.
    #[n(3)]
    pub total: u64,
    /// The piece.
    #[n(4)]
    pub bytes: ByteVec,
    /// With the first piece: the chains that it covers.
    #[n(5)]
    pub chains: Vec<Covered>,
}

/// A chain inside a snapshot, whole up to its tip.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Covered {
    /// The chain.
    #[n(0)]
    pub opening: Opening,
    /// The tip over its last covered entry.
    #[n(1)]
    pub tip: Tip,
}

/// Cuts a list into runs of at most `max` items that take at most [`RUN_BYTES`] each when encoded. What takes more alone goes
/// alone, and what takes more than a message holds ([`ITEM_BYTES_MAX`]) is left out.
pub fn runs<T: Encode<()>>(items: Vec<T>, max: usize) -> Vec<Vec<T>> {
    let mut runs: Vec<Vec<T>> = Vec::new();
    let mut filled = 0;
    for item in items {
        let size = minicbor::to_vec(&item).map_or(usize::MAX, |encoded| encoded.len());
        if size > ITEM_BYTES_MAX {
            continue;
        }
        match runs.last_mut() {
            Some(run) if filled + size <= RUN_BYTES && run.len() < max => run.push(item),
            _ => {
                filled = 0;
                runs.push(vec![item]);
            }
        }
        filled += size;
    }
    runs
}

/// Says what is now durable here.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Ack {
    /// Data messages and whole snapshots of the receiver of this ack, counted from 1, that are stored.
    #[n(0)]
    pub data: u64,
    /// Places in the sender's own sequence up to which the receiver has been sent everything: (handle, number).
    #[cbor(n(1), decode_with = "list::<_, _, 32_768>")]
    pub marks: Vec<(u32, u64)>,
    /// Of the counted messages, those that are not stored: something in them waits, or is not held here.
    #[cbor(n(2), decode_with = "list::<_, _, 32_768>")]
    pub except: Vec<u64>,
}

/// Compares what both hold, when things are quiet.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Check {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// What the sender holds.
    #[n(1)]
    pub fingerprint: Fingerprint,
    /// Number of documents of the sender.
    #[n(2)]
    pub docs: u64,
    /// Last durable number of the sender's sequence: if the fingerprints are equal, the receiver holds all up to it.
    #[n(3)]
    pub seq: u64,
    /// False in the question, true in the answer.
    #[n(4)]
    pub answer: bool,
}

/// A message between the overlays of one space ([`crate::overlay`]).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Gossip {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// What one overlay says to the other.
    #[n(1)]
    pub said: crate::overlay::Message,
}

/// Asks for coded symbols of the receiver's set of (document, clock).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct SymbolsWanted {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// Index of the first.
    #[n(1)]
    pub from: u64,
    /// How many; the receiver may send fewer.
    #[n(2)]
    pub count: u64,
    /// The seed of an earlier answer, if symbols of that very set are still wanted.
    #[n(3)]
    pub seed: Option<ByteVec>,
}

/// Coded symbols.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Symbols {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// Under which the elements are hashed.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub seed: [u8; 16],
    /// Size of the sender's set.
    #[n(2)]
    pub set: u64,
    /// Encoded symbols ([`crate::reconcile`]); empty if the set has changed and the asker must begin again.
    #[n(3)]
    pub symbols: ByteVec,
}

/// Ends a reconciliation: the elements that the asker wants named. What only it holds, it offers ([`Data::haves`]).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Difference {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// The seed of the symbols.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub seed: [u8; 16],
    /// Elements (16 bytes each) of the receiver's set that the asker lacks.
    #[n(2)]
    pub elements: ByteVec,
}

/// Why something that was sent is not held here. Never silence.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Notice {
    /// The receiver's handle, if it is about a space.
    #[n(0)]
    pub space: Option<u32>,
    /// The document, if it is about one.
    #[n(1)]
    pub doc: Option<DocId>,
    /// A stable code (docs/protocol.md, "Notices").
    #[n(2)]
    pub code: String,
    /// For people.
    #[n(3)]
    pub text: String,
}

/// The last message of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Bye {
    /// A stable code (docs/protocol.md, "Violations").
    #[n(0)]
    pub code: String,
    /// For people.
    #[n(1)]
    pub text: String,
}

/// To a tracker: says where the sender can be dialled, and asks who else announced the same topics.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Announce {
    /// The sender's own.
    #[n(0)]
    pub record: PeerRecord,
    /// At most [`TOPICS_MAX`]. They replace those of the sender's last announce.
    #[cbor(n(1), decode_with = "list::<_, _, TOPICS_MAX>")]
    pub topics: Vec<Topic>,
}

/// A tracker's answer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Peers {
    /// Seconds for which the announce counts.
    #[n(0)]
    pub ttl_s: u64,
    /// A random sample of those who announced the same; at most [`PEERS_MAX`].
    #[cbor(n(1), decode_with = "list::<_, _, PEERS_MAX>")]
    pub found: Vec<Found>,
}

/// A peer that announced topics of the asker.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Found {
    /// What it says of itself. The asker verifies it.
    #[n(0)]
    pub record: PeerRecord,
    /// Places of those topics in the announce, from 0.
    #[cbor(n(1), decode_with = "list::<_, _, TOPICS_MAX>")]
    pub topics: Vec<u32>,
}

/// How much content came from the receiver of this message, in all.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Received {
    /// Signed by the sender.
    #[n(0)]
    pub receipt: Receipt,
}

/// Asks for a receipt for a version of a document ([`Held`]), as soon as the receiver has it on disk.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct ReceiptWant {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// Which document.
    #[n(1)]
    pub doc: DocId,
    /// The heads of the version, ascending; from 1 to [`RECEIPT_ENTRIES_MAX`].
    #[cbor(n(2), decode_with = "list::<_, _, RECEIPT_ENTRIES_MAX>")]
    pub entries: Vec<EntryId>,
}

/// The sender has what it was asked for on disk.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Held {
    /// Signed by the sender.
    #[n(0)]
    pub receipt: StorageReceipt,
}

/// Asks about a blob of a space, for pieces of it, or for nothing of it any more.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct BlobWant {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// Which blob.
    #[n(1)]
    pub hash: BlobHash,
    /// Its size.
    #[n(2)]
    pub size: u64,
    /// Which pieces, at most [`ASKED_PIECES_MAX`](crate::blobs::ASKED_PIECES_MAX). None: which pieces the receiver has, from now on.
    #[cbor(n(3), decode_with = "list::<_, _, 64>")]
    pub pieces: Vec<u32>,
    /// These are no longer wanted; without pieces, nothing of the blob is.
    #[n(4)]
    pub end: bool,
    /// The sender knows others who may have them: what was just sent to somebody else can wait.
    #[n(5)]
    pub patient: bool,
}

/// Says which pieces of a blob the sender has: after the question, and whenever there are more.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct BlobHas {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// Which blob.
    #[n(1)]
    pub hash: BlobHash,
    /// Its size.
    #[n(2)]
    pub size: u64,
    /// A bit for each piece ([`Pieces`](crate::blobs::pieces::Pieces)); absent: all of them.
    #[n(3)]
    pub pieces: Option<ByteVec>,
}

/// A piece of a blob that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct BlobPiece {
    /// The receiver's handle.
    #[n(0)]
    pub space: u32,
    /// Of which blob.
    #[n(1)]
    pub hash: BlobHash,
    /// Its size.
    #[n(2)]
    pub size: u64,
    /// Which.
    #[n(3)]
    pub piece: u32,
    /// Its bytes; absent: the sender has it no more.
    #[n(4)]
    pub bytes: Option<ByteVec>,
    /// The nodes beside its path in the tree, from the bottom, 32 bytes each.
    #[n(5)]
    pub proof: ByteVec,
}

/// A list of small items, of which a message could otherwise hold millions: one byte there is many in memory.
pub(crate) fn list<'b, C, T: Decode<'b, C>, const MAX: usize>(
    d: &mut Decoder<'b>,
    c: &mut C,
) -> Result<Vec<T>, decode::Error> {
    let count = d.array()?.filter(|count| *count <= MAX as u64);
    let count = count.ok_or_else(|| decode::Error::message("a list has more items than the protocol allows"))?;
    (0..count).map(|_| T::decode(d, c)).collect()
}

/// How a segment names its log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DocRef {
    /// By its id.
    Id(DocId),
    /// By the number of a header record among those that this very message has carried so far, from 0.
    Header(u32),
    /// The authority log of the message's space.
    Authority,
    /// The document of the segment before, in this message or an earlier one about this space on this connection; segments of
    /// the authority log do not count. Live edits are mostly of one document, whose id would be an eighth of the message.
    Last,
}

impl<C> Encode<C> for DocRef {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        match self {
            DocRef::Id(doc) => e.bytes(&doc.0)?.ok(),
            DocRef::Header(index) => e.u32(*index)?.ok(),
            DocRef::Authority => e.null()?.ok(),
            DocRef::Last => e.bool(true)?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for DocRef {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        match d.datatype()? {
            Type::Bytes => DocId::decode(d, c).map(DocRef::Id),
            Type::Null => d.null().map(|()| DocRef::Authority),
            Type::Bool if d.bool()? => Ok(DocRef::Last),
            _ => d.u32().map(DocRef::Header),
        }
    }
}

/// How a segment names its chain's opening: by a number, defined on its first use on the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpeningRef {
    /// The sender gave this number before.
    Known(u32),
    /// From here on, this number names this opening.
    New(u32, Opening),
}

impl<C> Encode<C> for OpeningRef {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), encode::Error<W::Error>> {
        match self {
            OpeningRef::Known(handle) => e.u32(*handle)?.ok(),
            OpeningRef::New(handle, opening) => {
                e.array(2)?.u32(*handle)?;
                opening.encode(e, c)
            }
        }
    }
}

impl<'b, C> Decode<'b, C> for OpeningRef {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        match d.datatype()? {
            Type::Array => match d.array()? {
                Some(2) => Ok(OpeningRef::New(d.u32()?, Opening::decode(d, c)?)),
                _ => Err(decode::Error::message("an opening reference has two fields")),
            },
            _ => d.u32().map(OpeningRef::Known),
        }
    }
}

/// A [`crate::chain::Segment`] on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WireSegment {
    /// The log.
    pub doc: DocRef,
    /// The chain.
    pub opening: OpeningRef,
    /// Number of the first entry.
    pub first: u64,
    /// The tip over the last.
    pub tip: Tip,
    /// The entries.
    pub entries: Vec<Vec<u8>>,
}

impl<C> Encode<C> for WireSegment {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(5)?;
        self.doc.encode(e, c)?;
        self.opening.encode(e, c)?;
        e.u64(self.first)?;
        self.tip.encode(e, c)?;
        e.array(self.entries.len() as u64)?;
        self.entries.iter().try_for_each(|entry| e.bytes(entry)?.ok())
    }
}

impl<'b, C> Decode<'b, C> for WireSegment {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, decode::Error> {
        if d.array()? != Some(5) {
            return Err(decode::Error::message("a segment has five fields"));
        }
        let (doc, opening) = (DocRef::decode(d, c)?, OpeningRef::decode(d, c)?);
        let (first, tip) = (d.u64()?, Tip::decode(d, c)?);
        let count = d.array()?.ok_or_else(|| decode::Error::message("entries come in a definite array"))?;
        // Grows with what is there, not with what is declared.
        let entries = (0..count).map(|_| match d.bytes()? {
            entry if entry.len() < ENTRY_BYTES_MIN => Err(decode::Error::message("an entry has at least 10 bytes")),
            entry => Ok(entry.to_vec()),
        });
        let entries = entries.collect::<Result<_, _>>()?;
        Ok(WireSegment { doc, opening, first, tip, entries })
    }
}

macro_rules! messages {
    ($($tag:literal $name:ident),* $(,)?) => {
        /// Every message of the protocol.
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[allow(missing_docs, reason = "each variant is documented at its type")]
        pub enum Message { $($name($name),)* Unknown(u8) }

        impl Message {
            /// Type, then body, compressed if that pays.
            pub fn to_bytes(&self) -> Vec<u8> {
                let (tag, body) = match self {
                    $(Message::$name(body) => ($tag, minicbor::to_vec(body)),)*
                    Message::Unknown(tag) => (*tag, Ok(Vec::new())),
                };
                frame(tag, body.expect("writing to a Vec cannot fail"))
            }

            fn decode(tag: u8, body: &[u8]) -> Result<Message, decode::Error> {
                Ok(match tag {
                    $($tag => Message::$name(minicbor::decode(body)?),)*
                    unknown => Message::Unknown(unknown),
                })
            }
        }
    };
}

messages! {
    0 Hello, 1 Spaces, 2 GenesisOf, 3 Since, 4 Data, 5 Want, 6 SnapshotPart, 7 Ack, 8 Check, 9 SymbolsWanted, 10 Symbols,
    11 Difference, 12 Notice, 13 Bye, 14 Gossip, 15 Announce, 16 Peers, 17 BlobWant, 18 BlobHas, 19 BlobPiece,
    20 Received, 21 ReceiptWant, 22 Held,
}

impl Message {
    /// Whether it carries what is shared: entries, a snapshot, a piece of a blob. Both sides count such bytes ([`crate::ledger`]).
    pub fn is_content(&self) -> bool {
        match self {
            Message::Data(data) => !data.segments.is_empty(),
            Message::BlobPiece(piece) => piece.bytes.is_some(),
            message => matches!(message, Message::SnapshotPart(_)),
        }
    }
}

/// The type of a piece of a blob. Attachments are mostly compressed as they are, and looking for more would cost who serves
/// them as much as encrypting does.
const PLAIN: u8 = 19;

fn frame(tag: u8, body: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 8);
    if body.len() >= COMPRESS_FROM && tag != PLAIN {
        let packed = lz4_flex::block::compress(&body);
        // A receiver refuses more than its ratio, whose default is 64; nothing worth saving lies beyond it.
        if packed.len() + 8 < body.len() && packed.len() * 64 >= body.len() {
            out.push(tag | COMPRESSED);
            out.extend_from_slice(&(body.len() as u32).to_be_bytes());
            out.extend(packed);
            return out;
        }
    }
    out.push(tag);
    out.extend(body);
    out
}

impl Message {
    /// Bytes of a message's body once it is inflated, as the message says.
    pub fn inflated_len(bytes: &[u8]) -> usize {
        match bytes.split_first() {
            Some((tag, body)) if tag & COMPRESSED != 0 => {
                body.first_chunk::<4>().map_or(0, |size| u32::from_be_bytes(*size) as usize)
            }
            Some((_, body)) => body.len(),
            None => 0,
        }
    }

    /// Decodes one message. The inflated size is checked against `limits` before anything is inflated.
    pub fn from_bytes(bytes: &[u8], limits: &Limits) -> Result<Message, MessageError> {
        let (tag, body) = bytes.split_first().ok_or(MessageError::Empty)?;
        let malformed = |tag: u8, why: String| MessageError::Malformed(tag, why);
        if tag & COMPRESSED == 0 {
            return Message::decode(*tag, body).map_err(|e| malformed(*tag, e.to_string()));
        }
        let tag = tag & !COMPRESSED;
        let (size, packed) = body.split_first_chunk::<4>().ok_or_else(|| malformed(tag, "no inflated size".into()))?;
        let to = u32::from_be_bytes(*size) as usize;
        if to > limits.inflated_bytes_max || to > packed.len().saturating_mul(limits.inflate_ratio_max) {
            return Err(MessageError::Inflates { from: packed.len(), to });
        }
        let mut inflated = vec![0; to];
        match lz4_flex::block::decompress_into(packed, &mut inflated) {
            Ok(n) if n == to => Message::decode(tag, &inflated).map_err(|e| malformed(tag, e.to_string())),
            Ok(n) => Err(malformed(tag, format!("inflates to {n} bytes, not to {to} as declared"))),
            Err(e) => Err(malformed(tag, e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use proptest::prelude::*;

    #[test]
    fn lists_are_cut_by_their_size() {
        let clock = |chains: u32| {
            let mut clock = Clock::default();
            for n in 0..chains {
                let mut id = [0; 16];
                id[..4].copy_from_slice(&n.to_be_bytes());
                clock.insert(crate::id::ChainId(id), 1, crate::merkle::Head([7; 32]));
            }
            clock
        };
        let haves = (0..256).map(|n| Have { doc: DocId([n as u8; 32]), clock: clock(100) });
        let too_large = Have { doc: DocId([1; 32]), clock: clock(40_000) };
        let cut = runs(haves.chain([too_large]).collect(), LIST_MAX);
        assert_eq!(cut.iter().map(Vec::len).sum::<usize>(), 256, "the last fits no message at all");
        for docs in cut {
            let message = Message::Want(Want { space: 0, docs, no_snapshot: false });
            assert!(message.to_bytes().len() <= Limits::default().message_bytes_max);
        }
    }

    #[test]
    fn a_message_survives_its_encoding_with_and_without_compression() {
        for entries in [vec![vec![1; 12]], vec![vec![0; 4_000]; 4]] {
            let message = Message::Data(Data {
                space: 1,
                segments: vec![WireSegment {
                    doc: DocRef::Header(3),
                    opening: OpeningRef::Known(2),
                    first: 9,
                    tip: Tip { n: 12, rights: vec![], signature: [5; 64] },
                    entries,
                }],
                haves: vec![],
                upto: Some(77),
                fingerprint: None,
                asked: true,
                absent: vec![],
                proofs: None,
            });
            let bytes = message.to_bytes();
            assert_eq!(Message::from_bytes(&bytes, &Limits::default()), Ok(message));
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_inflated() {
        let body = lz4_flex::block::compress(&vec![0u8; 4 << 20]);
        let mut bytes = vec![4 | COMPRESSED];
        bytes.extend((4u32 << 20).to_be_bytes());
        bytes.extend(body);
        assert!(matches!(Message::from_bytes(&bytes, &Limits::default()), Err(MessageError::Inflates { .. })));
    }

    #[test]
    fn an_unknown_type_is_not_an_error() {
        assert_eq!(Message::from_bytes(&[99, 1, 2], &Limits::default()), Ok(Message::Unknown(99)));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::from_bytes(&bytes, &Limits::default());
            for tag in 0..21u8 {
                let mut framed = vec![tag];
                framed.extend(&bytes);
                let _ = Message::from_bytes(&framed, &Limits::default());
            }
        }
    }
}
