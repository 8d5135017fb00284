//! Values: CBOR maps with integer keys where they are read one at a time, fixed fields where they are read by the thousand.

use commonhold_sync::chain::{Opening, Segment, Tip};
use commonhold_sync::id::{ChainId, DocId, StoreId};
use commonhold_sync::log::{Image, StoredSegment};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use super::keys;

pub(super) fn to_vec<T: Encode<()>>(row: &T) -> Vec<u8> {
    minicbor::to_vec(row).expect("writing to a Vec cannot fail")
}

pub(super) fn from_slice<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Option<T> {
    minicbor::decode(bytes).ok()
}

/// Table Bodies.
#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct BodyRow {
    #[n(0)]
    pub(super) branch: u16,
    #[n(1)]
    pub(super) source: Option<StoreId>,
    #[n(2)]
    pub(super) opening: Opening,
    #[n(3)]
    pub(super) first: u64,
    #[n(4)]
    pub(super) tip: Tip,
    #[n(5)]
    pub(super) entries: Vec<ByteVec>,
}

impl BodyRow {
    pub(super) fn new(stored: StoredSegment, source: Option<StoreId>) -> BodyRow {
        let Segment { opening, first, entries, tip, .. } = stored.segment;
        let entries = entries.into_iter().map(ByteVec::from).collect();
        BodyRow { branch: stored.branch, source, opening, first, tip, entries }
    }

    pub(super) fn into_stored(self, doc: DocId, seq: u64) -> StoredSegment {
        let entries = self.entries.into_iter().map(Vec::from).collect();
        let segment = Segment { doc, opening: self.opening, first: self.first, entries, tip: self.tip };
        StoredSegment { seq, branch: self.branch, segment }
    }
}

/// An invite that was taken, of table Meta.
#[derive(Debug)]
pub(super) struct InviteRow {
    pub(super) key: Vec<u8>,
    pub(super) space: [u8; 32],
    /// 0: written when a space had one invite, and its key ended with the space.
    pub(super) number: u64,
    /// The device that it names, which may be none; `None` where the key does not tell.
    pub(super) peer: Option<Vec<u8>>,
    pub(super) text: String,
}

impl InviteRow {
    pub(super) fn from(key: Vec<u8>, text: Vec<u8>) -> Option<InviteRow> {
        let (space, rest) = keys::split(key.strip_prefix(keys::INVITE)?)?;
        let (number, peer) = match rest {
            [] => (0, None),
            _ => rest.split_first_chunk().map(|(number, peer)| (u64::from_be_bytes(*number), Some(peer.to_vec())))?,
        };
        Some(InviteRow { key, space, number, peer, text: String::from_utf8(text).ok()? })
    }
}

/// Table Snapshots, without the bytes.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub(crate) struct SnapshotHead {
    /// Its place in the sequence; 0 if everything that it covers is there raw as well.
    #[n(0)]
    pub(crate) seq: u64,
    #[n(1)]
    pub(crate) source: Option<StoreId>,
    #[n(2)]
    pub(crate) ends: Vec<(ChainId, u64)>,
}

/// Table Documents: the digest (zero: none), then the image.
pub(super) struct DocumentRow {
    pub(super) digest: Option<[u8; 32]>,
    pub(super) image: Image,
}

impl DocumentRow {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.digest.unwrap_or_default().to_vec();
        bytes.extend(to_vec(&self.image));
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<DocumentRow> {
        let image = from_slice(bytes.get(32..)?)?;
        Some(DocumentRow { digest: Self::digest_of(bytes), image })
    }

    /// Whether the document is not there for people: nobody with the right to create it did, and nobody wrote in it.
    pub(super) fn is_hidden(&self) -> bool {
        self.image.unfounded && self.digest.is_none()
    }

    pub(super) fn digest_of(bytes: &[u8]) -> Option<[u8; 32]> {
        bytes.first_chunk().copied().filter(|digest| *digest != [0; 32])
    }
}

/// The last change of a document, of table Index: number, digest (zero: none), whether it is hidden.
pub(super) struct ChangeRow {
    pub(super) number: u64,
    pub(super) digest: [u8; 32],
    pub(super) hidden: bool,
}

impl ChangeRow {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [&self.number.to_be_bytes()[..], &self.digest, &[u8::from(self.hidden)]].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<ChangeRow> {
        let (number, rest) = bytes.split_first_chunk()?;
        let (digest, hidden) = rest.split_first_chunk()?;
        Some(ChangeRow { number: u64::from_be_bytes(*number), digest: *digest, hidden: *hidden == [1] })
    }
}

/// What a place in the sequence stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Segment,
    Snapshot,
    /// The proofs in the image of the log.
    Proofs,
}

/// Table Log: kind (0 segment, 1 snapshot, 2 proofs), document, the store that it came from (zero: made here).
pub(super) struct LogRow {
    pub(super) kind: Kind,
    pub(super) doc: DocId,
    pub(super) source: Option<StoreId>,
}

impl LogRow {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [&[self.kind as u8][..], &self.doc.0, &self.source.map_or([0; 16], |id| id.0)].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<LogRow> {
        let (kind, rest) = bytes.split_first()?;
        let kind = match kind {
            0 => Kind::Segment,
            1 => Kind::Snapshot,
            2 => Kind::Proofs,
            _ => return None,
        };
        let (doc, source) = rest.split_first_chunk()?;
        let source = StoreId::try_from(source).ok()?;
        Some(LogRow { kind, doc: DocId(*doc), source: (source.0 != [0; 16]).then_some(source) })
    }
}
