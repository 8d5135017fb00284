//! Who holds what: the answer to "is it synced?", from acknowledgements and comparisons; and what the node tells of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use commonhold_sync::id::{ChainId, DeviceId, DocId, SpaceId};
use commonhold_sync::record::{Right, Writers};
use commonhold_sync::usage::Usage;

/// Documents whose acknowledgements are remembered. About 200 bytes each and peer: 13 MiB for one peer.
const ENDS_MAX: usize = 65_536;
/// Peers of which it is known how much of a document they hold.
const PEERS_MAX: usize = 64;

/// A space as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceInfo {
    /// Its id.
    pub id: SpaceId,
    /// False until its genesis has arrived.
    pub ready: bool,
    /// Who may write.
    pub writers: Option<Writers>,
    /// The device that founded it.
    pub root: Option<DeviceId>,
    /// What this device may do.
    pub right: Option<Right>,
    /// Documents with content, and deleted ones.
    pub documents: u64,
    /// Last number of the store's sequence.
    pub seq: u64,
    /// Hash over everything held; equal on peers that hold the same.
    pub fingerprint: [u8; 32],
    /// The documents that this peer takes; `None`: all of them.
    pub takes: Option<BTreeSet<DocId>>,
    /// What counts for its quota.
    pub stored: Usage,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who.
    pub device: DeviceId,
    /// What program it says it is.
    pub agent: String,
    /// Where the connection goes or came from, if that has a name.
    pub address: Option<String>,
    /// What it says that it does: bits of [`roles`](commonhold_sync::message::roles).
    pub roles: u64,
    /// Where it says it can be dialled.
    pub addresses: Vec<String>,
    /// Since when.
    pub since: SystemTime,
    /// True if this side dialled.
    pub dialled: bool,
}

/// What went over the network since a node was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TrafficInfo {
    /// Bytes of frames sent; what a transport adds is not in them.
    pub sent_bytes: u64,
    /// Bytes of frames received.
    pub received_bytes: u64,
    /// Live segments that came and were new.
    pub delivered: u64,
    /// Live segments that came and were held already.
    pub duplicates: u64,
    /// Live segments pushed to others.
    pub pushed: u64,
}

/// What happens on a node. Receivers that lag lose the oldest.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A peer is connected and known.
    Opened(PeerInfo),
    /// A peer is gone.
    Closed(DeviceId),
    /// A space became known.
    Space(SpaceId),
    /// A document became known.
    Document {
        /// In which space.
        space: SpaceId,
        /// Which.
        doc: DocId,
        /// What the app calls documents of this sort.
        kind: String,
        /// A name for people.
        name: String,
    },
    /// A document is not there any more: its creator turned out to have had no right to create it, and nobody else wrote in
    /// it. It may come back ([`NodeEvent::Document`]).
    Withdrawn {
        /// In which space.
        space: SpaceId,
        /// Which.
        doc: DocId,
    },
    /// A document was deleted.
    Deleted {
        /// In which space.
        space: SpaceId,
        /// Which.
        doc: DocId,
    },
    /// Others' entries of a document were admitted.
    Changed {
        /// In which space.
        space: SpaceId,
        /// Which.
        doc: DocId,
        /// Who delivered them.
        from: DeviceId,
    },
    /// This peer and another hold the same of a space.
    Level {
        /// Who.
        peer: DeviceId,
        /// Which.
        space: SpaceId,
    },
    /// A blob is here, whole and durable: it was put, or fetched.
    BlobHeld {
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: commonhold_sync::blobs::Blob,
    },
    /// A device signed two histories.
    Forked {
        /// In which space.
        space: SpaceId,
        /// In which document.
        doc: DocId,
        /// Whose.
        device: DeviceId,
    },
    /// Something was refused or not held, here or by a peer.
    Notice {
        /// Who delivered it or said so.
        peer: Option<DeviceId>,
        /// In which space.
        space: Option<SpaceId>,
        /// In which document.
        doc: Option<DocId>,
        /// Stable code.
        code: String,
        /// For people.
        text: String,
    },
    /// Nothing is saved until the store is open again; the node tries by itself.
    StoreFailed {
        /// Stable code.
        code: &'static str,
        /// For people.
        text: String,
    },
    /// The store is open again.
    StoreRecovered,
}

/// Whether a document is synced, in four answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncStatus {
    /// Every edit made here is on this disk.
    pub saved_here: bool,
    /// Batches of edits that are not on this disk yet.
    pub unsaved: u64,
    /// Peers that have said that this device's entries are on their disks, and whether all of them are.
    pub acknowledged: Vec<(DeviceId, bool)>,
    /// Connected peers that hold the same of the space as this one, as last compared.
    pub level_with: Vec<DeviceId>,
}

impl SyncStatus {
    /// Peers on whose disks everything is that this device made.
    pub fn held_by(&self) -> usize {
        self.acknowledged.iter().filter(|(_, all)| *all).count()
    }
}

/// What a document costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Changes.
    pub changes: usize,
    /// Operations, deletions not counted.
    pub ops: usize,
    /// Chains.
    pub actors: usize,
    /// Bytes in memory, estimated.
    pub memory_bytes: usize,
    /// Bytes of its snapshot on disk.
    pub snapshot_bytes: u64,
    /// Milliseconds that it took to load.
    pub load_ms: u64,
}

/// Which of this device's entries which peers have durably.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    /// Counts what was saved here.
    clock: u64,
    /// What the clock showed when the two were level last, and whether that was said of all that this peer holds.
    levels: BTreeMap<(SpaceId, DeviceId), (u64, bool)>,
    /// Connected peers that hold a space.
    sharing: BTreeSet<(SpaceId, DeviceId)>,
    ends: BTreeMap<(SpaceId, DocId), End>,
}

#[derive(Debug)]
struct End {
    chain: ChainId,
    n: u64,
    /// When it was saved; 0: in an earlier run, and how far the chain goes is not known here.
    at: u64,
    by: BTreeMap<DeviceId, (ChainId, u64)>,
}

impl End {
    fn held_by(&self, peer: &DeviceId) -> bool {
        self.at > 0 && self.by.get(peer).is_some_and(|(chain, n)| *chain == self.chain && *n >= self.n)
    }
}

impl Tracker {
    pub(crate) fn saved(&mut self, space: SpaceId, doc: DocId, chain: ChainId, n: u64) {
        self.clock += 1;
        let at = self.clock;
        let end = self.ends.entry((space, doc)).or_insert_with(|| End { chain, n, at, by: BTreeMap::new() });
        (end.chain, end.n, end.at) = (chain, n, at);
        if self.ends.len() > ENDS_MAX {
            let oldest = at.saturating_sub(ENDS_MAX as u64 / 2);
            self.ends.retain(|_, end| end.at > oldest);
        }
    }

    /// Makes room for another end or peer. Those of an earlier run go first: being level says as much of them.
    fn has_room(&mut self, space: SpaceId, doc: DocId, peer: DeviceId) -> bool {
        let Some(end) = self.ends.get_mut(&(space, doc)) else { return self.ends.len() < ENDS_MAX };
        if end.by.len() >= PEERS_MAX && !end.by.contains_key(&peer) {
            end.by.retain(|known, _| self.sharing.contains(&(space, *known)));
        }
        end.by.len() < PEERS_MAX || end.by.contains_key(&peer)
    }

    pub(crate) fn acked(&mut self, peer: DeviceId, space: SpaceId, doc: DocId, chain: ChainId, n: u64) {
        if !self.has_room(space, doc, peer) {
            return;
        }
        let end = self.ends.entry((space, doc)).or_insert_with(|| End { chain, n, at: 0, by: BTreeMap::new() });
        // Of several chains (an earlier one, an imported one) the one that is written on counts.
        if end.chain != chain {
            return;
        }
        let known = end.by.entry(peer).or_insert((chain, n));
        if known.0 != chain || known.1 < n {
            *known = (chain, n);
        }
    }

    pub(crate) fn shares(&mut self, peer: DeviceId, space: SpaceId) {
        self.sharing.insert((space, peer));
    }

    pub(crate) fn level(&mut self, peer: DeviceId, space: SpaceId, whole: bool) {
        self.levels.insert((space, peer), (self.clock, whole));
    }

    pub(crate) fn closed(&mut self, peer: &DeviceId) {
        self.levels.retain(|(_, level), _| level != peer);
        self.sharing.retain(|(_, sharer)| sharer != peer);
    }

    /// Connected peers that hold a space, and whether each is level.
    pub(crate) fn sharing(&self, space: &SpaceId) -> Vec<(DeviceId, bool)> {
        let all = self.sharing.range((*space, DeviceId([0; 32]))..).take_while(|(of, _)| of == space);
        all.map(|(_, peer)| (*peer, self.is_level(space, peer))).collect()
    }

    /// The two were level, and what this device has made since is on the other's disk.
    pub(crate) fn is_level(&self, space: &SpaceId, peer: &DeviceId) -> bool {
        let Some((level, whole)) = self.levels.get(&(*space, *peer)) else { return false };
        let ends = self.ends.range((*space, DocId([0; 32]))..).take_while(|((of, _), _)| of == space);
        // Who takes a part of the space holds of the rest what it once acknowledged.
        let concerns = |end: &End| end.at > *level && (*whole || end.by.contains_key(peer));
        ends.filter(|(_, end)| concerns(end)).all(|(_, end)| end.held_by(peer))
    }

    /// Peers that hold entries of this device in a document, and whether all of them.
    pub(crate) fn acknowledged(&self, space: &SpaceId, doc: &DocId) -> Vec<(DeviceId, bool)> {
        let end = self.ends.get(&(*space, *doc));
        let mut found: BTreeMap<DeviceId, bool> =
            end.iter().flat_map(|end| end.by.keys().map(|peer| (*peer, end.held_by(peer)))).collect();
        for ((of, peer), (at, whole)) in &self.levels {
            if of == space && *whole && end.is_none_or(|end| end.at <= *at) {
                found.insert(*peer, true);
            }
        }
        found.into_iter().collect()
    }

    pub(crate) fn level_with(&self, space: &SpaceId) -> Vec<DeviceId> {
        let peers = self.levels.keys().filter(|(of, _)| of == space).map(|(_, peer)| *peer);
        peers.filter(|peer| self.is_level(space, peer)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: SpaceId = SpaceId([1; 32]);
    const DOC: DocId = DocId([2; 32]);
    const CHAIN: ChainId = ChainId([3; 16]);
    const PEER: DeviceId = DeviceId([4; 32]);

    #[test]
    fn what_an_earlier_run_made_is_acknowledged_by_whoever_is_level_and_by_nobody_else() {
        let mut tracker = Tracker::default();
        tracker.acked(PEER, SPACE, DOC, CHAIN, 1);
        assert_eq!(tracker.acknowledged(&SPACE, &DOC), [(PEER, false)]);
        tracker.level(PEER, SPACE, true);
        assert_eq!(tracker.acknowledged(&SPACE, &DOC), [(PEER, true)]);
        tracker.saved(SPACE, DOC, CHAIN, 5);
        assert_eq!(tracker.acknowledged(&SPACE, &DOC), [(PEER, false)]);
    }

    #[test]
    fn ever_new_peers_do_not_grow_what_is_known_of_them() {
        let mut tracker = Tracker::default();
        tracker.saved(SPACE, DOC, CHAIN, 5);
        for n in 0..1_000u32 {
            let mut peer = [0; 32];
            peer[..4].copy_from_slice(&n.to_be_bytes());
            tracker.acked(DeviceId(peer), SPACE, DOC, CHAIN, 5);
        }
        tracker.shares(PEER, SPACE);
        tracker.acked(PEER, SPACE, DOC, CHAIN, 5);
        let known = tracker.acknowledged(&SPACE, &DOC);
        assert!(known.len() <= PEERS_MAX && known.contains(&(PEER, true)), "{}", known.len());
    }

    #[test]
    fn an_edit_ends_being_level_until_it_is_acknowledged() {
        let mut tracker = Tracker::default();
        tracker.level(PEER, SPACE, true);
        assert!(tracker.is_level(&SPACE, &PEER));
        tracker.saved(SPACE, DOC, CHAIN, 5);
        assert!(!tracker.is_level(&SPACE, &PEER));
        tracker.acked(PEER, SPACE, DOC, CHAIN, 4);
        assert_eq!(tracker.acknowledged(&SPACE, &DOC), vec![(PEER, false)]);
        tracker.acked(PEER, SPACE, DOC, CHAIN, 5);
        assert!(tracker.is_level(&SPACE, &PEER));
        assert_eq!(tracker.acknowledged(&SPACE, &DOC), vec![(PEER, true)]);
    }

    #[test]
    fn what_was_compared_needs_no_acknowledgement_and_what_is_gone_is_not_level() {
        let mut tracker = Tracker::default();
        tracker.saved(SPACE, DOC, CHAIN, 5);
        tracker.shares(PEER, SPACE);
        assert_eq!(tracker.sharing(&SPACE), vec![(PEER, false)]);
        tracker.level(PEER, SPACE, true);
        assert_eq!(tracker.acknowledged(&SPACE, &DOC), vec![(PEER, true)]);
        assert_eq!((tracker.sharing(&SPACE), tracker.sharing(&SpaceId([9; 32]))), (vec![(PEER, true)], vec![]));
        tracker.closed(&PEER);
        assert!(tracker.sharing(&SPACE).is_empty());
        assert!(!tracker.is_level(&SPACE, &PEER));
    }
}
