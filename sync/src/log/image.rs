//! A log as the store keeps it.

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};

use super::SaidAt;
use crate::chain::{Kind, Opening, Segment, Tip};
use crate::clock::Clock;
use crate::id::{DeviceId, DocId, EntryId, SpaceId};
use crate::lines::{Line, Lines};
use crate::proof::ForkProof;

/// What the header of a document says, and who made it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Header {
    /// The device that created the document.
    #[n(0)]
    pub creator: DeviceId,
    /// What the app calls documents of this sort.
    #[n(1)]
    pub kind: String,
    /// A name for people.
    #[n(2)]
    pub name: String,
}

/// The stored form of a log, without its bodies.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Image {
    /// The document's header.
    #[n(0)]
    pub header: Header,
    /// True once a tombstone came: bodies are gone, and stay gone.
    #[n(1)]
    pub deleted: bool,
    /// Chains in order of arrival.
    #[n(2)]
    pub lines: Vec<Line>,
    /// What the snapshot covers, if there is one.
    #[n(3)]
    pub covered: Option<Covered>,
    /// The place in the sequence where the proofs of its closed chains stand; 0 if there are none.
    #[cbor(n(4), default)]
    pub proofs_seq: u64,
    /// Where its creator said the header, at most [`PLACES_MAX`](super::PLACES_MAX); unknown in stores written before rights could be taken back.
    #[cbor(n(5), default)]
    pub headers: Vec<SaidAt>,
    /// True if the creator had no right to say it there: the document is shown only while something in it counts.
    #[cbor(n(6), default)]
    pub unfounded: bool,
    /// Where it was said that it is deleted, at most [`PLACES_MAX`](super::PLACES_MAX).
    #[cbor(n(7), default)]
    pub tombstones: Vec<SaidAt>,
    /// Bytes of entries as they came, by the device that signed them; of a snapshot from elsewhere for
    /// [`UNSIGNED`](crate::usage::UNSIGNED). Empty in stores written before there were quotas.
    #[cbor(n(8), default)]
    pub taken: Vec<Taken>,
}

/// What came of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Taken {
    /// Whose.
    #[n(0)]
    pub device: DeviceId,
    /// How much.
    #[n(1)]
    pub bytes: u64,
}

impl Image {
    /// A document of which only the header is known.
    pub fn of_header(header: Header) -> Image {
        Image {
            header,
            deleted: false,
            lines: Vec::new(),
            covered: None,
            proofs_seq: 0,
            headers: Vec::new(),
            unfounded: false,
            tombstones: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// Whether one of these devices created it, deleted it, or has a chain in it.
    pub fn concerns(&self, devices: &BTreeSet<DeviceId>) -> bool {
        concerns(&self.header, &self.tombstones, &self.lines, devices)
    }

    /// Whether a device has written in it.
    pub fn has_chain_of(&self, device: &DeviceId) -> bool {
        self.lines.iter().any(|line| line.opening.device == *device)
    }

    /// The proofs of its closed chains.
    pub fn proofs(&self) -> impl Iterator<Item = &ForkProof> {
        self.lines.iter().filter_map(|line| line.closed.as_ref())
    }

    /// How many entries of a branch of a chain count.
    pub fn counted(&self, opening: &Opening, branch: u16) -> u64 {
        // A foreign chain is one chain whoever vouches for a part of it.
        let same = |known: &Opening| *known == *opening || (opening.kind != Kind::Own && known.kind == opening.kind);
        let line = self.lines.iter().find(|line| same(&line.opening));
        line.map_or(0, |line| line.counted(usize::from(branch)))
    }

    /// Exactly which entries it stands for.
    pub fn clock(&self, space: &SpaceId, doc: &DocId) -> Clock {
        Lines::from_stored(space, doc, self.lines.clone()).clock()
    }

    /// What stands for the document in fingerprints; `None` if there is nothing to compare.
    pub fn digest(&self, space: &SpaceId, doc: &DocId) -> Option<[u8; 32]> {
        digest_of(self.deleted, || comparable(self.clock(space, doc), self.unfounded))
    }
}

/// What of a clock can be compared. A document whose creator had no right to it and in which nothing counts is not held by everybody:
/// nor is what closes chains in it.
pub(super) fn comparable(clock: Clock, unfounded: bool) -> Clock {
    match unfounded && clock.0.values().all(|ends| ends.heads.is_empty()) {
        true => Clock::default(),
        false => clock,
    }
}

/// What stands for a log in fingerprints: the digest of its clock, or of a tombstone; `None` for an empty log.
pub fn digest_of(deleted: bool, clock: impl FnOnce() -> Clock) -> Option<[u8; 32]> {
    if deleted {
        return Some(*blake3::hash(b"commonhold deleted 1").as_bytes());
    }
    let clock = clock();
    (!clock.0.is_empty()).then(|| clock.digest())
}

/// What a snapshot covers.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Covered {
    /// Bytes of the snapshot, compressed.
    #[n(0)]
    pub bytes: u64,
    /// Entries covered.
    #[n(1)]
    pub entries: u64,
    /// Its heads: entries without successors inside it.
    #[n(2)]
    pub heads: Vec<CoveredHead>,
    /// The tip over each chain, by line.
    #[n(3)]
    pub tips: Vec<(u32, Tip)>,
}

/// A head of a snapshot, enough to build on it without loading it.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct CoveredHead {
    /// Its id.
    #[n(0)]
    pub id: EntryId,
    /// Index of its line.
    #[n(1)]
    pub line: u32,
    /// Its number.
    #[n(2)]
    pub n: u64,
    /// The highest operation up to it.
    #[n(3)]
    pub max_op: u64,
    /// Its past in other chains: (line, number).
    #[n(4)]
    pub past: Vec<(u32, u64)>,
}

/// A segment as the store keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredSegment {
    /// Place in the sequence of the store.
    pub seq: u64,
    /// Branch of its chain; 0 unless the chain is forked.
    pub branch: u16,
    /// The segment.
    pub segment: Segment,
}

/// What an entry of a loaded snapshot is, in causal order.
#[derive(Clone, Debug)]
pub struct DeepEntry {
    /// Its id.
    pub id: EntryId,
    /// The Automerge actor.
    pub actor: Vec<u8>,
    /// Its number.
    pub n: u64,
    /// The highest operation up to it.
    pub max_op: u64,
    /// Its dependencies.
    pub deps: Vec<EntryId>,
}

/// Whether a log has anything to do with some devices.
pub(super) fn concerns(header: &Header, tombstones: &[SaidAt], lines: &[Line], devices: &BTreeSet<DeviceId>) -> bool {
    let buried = tombstones.iter().any(|(device, ..)| devices.contains(device));
    let writes = lines.iter().any(|line| devices.contains(&line.opening.device));
    buried || writes || devices.contains(&header.creator)
}
