//! Segments whose past or authority has not come yet, by what they wait for. Bounded per deliverer and in all; the
//! heaviest deliverer's oldest go first, and everything goes after a time. Every operation is logarithmic: a flood of
//! waiting entries makes nothing else slow.

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::{SIGNATURE_LEN, Segment};
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use crate::limits::Limits;

/// What a segment waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Blocker {
    /// The header of its document.
    Header,
    /// A right of its device.
    Right,
    /// The entries of its chain before its first.
    Prefix(ChainId),
    /// An entry that one of its entries depends on.
    Entry(EntryId),
    /// The inside of the snapshot of its document.
    Deep,
}

/// A waiting segment.
#[derive(Debug)]
pub struct Waiter {
    /// The space.
    pub space: SpaceId,
    /// Over which connection it came.
    pub conn: crate::peer::ConnId,
    /// Who delivered it.
    pub from: DeviceId,
    /// When it came, in ms.
    pub since_ms: u64,
    /// The segment.
    pub segment: Segment,
}

type Key = (SpaceId, DocId, Blocker);

#[derive(Debug, Default)]
struct Deliverer {
    bytes: usize,
    serials: BTreeSet<u64>,
}

/// What waits. Serial numbers grow with time, so the first is the oldest.
#[derive(Debug, Default)]
pub struct Waiting {
    next: u64,
    waiters: BTreeMap<u64, (Key, Waiter)>,
    by_blocker: BTreeMap<Key, BTreeSet<u64>>,
    by_deliverer: BTreeMap<DeviceId, Deliverer>,
    known: BTreeSet<([u8; SIGNATURE_LEN], u64)>,
    total: usize,
}

/// Bytes charged for a segment beyond its bodies: ids, tip, index nodes.
const OVERHEAD: usize = 512;

fn cost(segment: &Segment) -> usize {
    segment.body_bytes() + OVERHEAD + 24 * segment.entries.len()
}

fn name(segment: &Segment) -> ([u8; SIGNATURE_LEN], u64) {
    (segment.tip.signature, segment.first)
}

impl Waiting {
    /// Keeps a segment. False if it was dropped because of the bounds.
    pub fn push(&mut self, waiter: Waiter, blocker: Blocker, limits: &Limits) -> bool {
        let bytes = cost(&waiter.segment);
        if bytes > limits.waiting_bytes_per_peer {
            return false;
        }
        if !self.known.insert(name(&waiter.segment)) {
            return true;
        }
        let from = waiter.from;
        while self.by_deliverer.get(&from).is_some_and(|d| d.bytes + bytes > limits.waiting_bytes_per_peer) {
            self.drop_oldest_of(from);
        }
        while self.total + bytes > limits.waiting_bytes_total {
            let heaviest = self.by_deliverer.iter().max_by_key(|(_, d)| d.bytes).map(|(device, _)| *device);
            let Some(heaviest) = heaviest else { break };
            self.drop_oldest_of(heaviest);
        }
        let serial = self.next;
        self.next += 1;
        let key = (waiter.space, waiter.segment.doc, blocker);
        let deliverer = self.by_deliverer.entry(from).or_default();
        deliverer.bytes += bytes;
        deliverer.serials.insert(serial);
        self.total += bytes;
        self.by_blocker.entry(key).or_default().insert(serial);
        self.waiters.insert(serial, (key, waiter));
        true
    }

    /// Takes what waits for one thing in a log, in order of arrival.
    pub fn take(&mut self, space: SpaceId, doc: DocId, blocker: Blocker) -> Vec<Waiter> {
        let serials = self.by_blocker.get(&(space, doc, blocker)).cloned().unwrap_or_default();
        serials.into_iter().filter_map(|serial| self.remove(serial)).collect()
    }

    /// Whether something in a log waits for an entry that is not held.
    pub fn awaits_entry(&self, space: SpaceId, doc: DocId) -> bool {
        let from = Blocker::Entry(EntryId([0; 32]));
        let next = self.by_blocker.range((space, doc, from)..).next();
        next.is_some_and(|((s, d, blocker), _)| (*s, *d) == (space, doc) && matches!(blocker, Blocker::Entry(_)))
    }

    /// Takes everything that waits in a log.
    pub fn take_all(&mut self, space: SpaceId, doc: DocId) -> Vec<Waiter> {
        let keys = self.by_blocker.range((space, doc, Blocker::Header)..).map(|(key, _)| *key);
        let keys: Vec<Key> = keys.take_while(|(s, d, _)| (*s, *d) == (space, doc)).collect();
        keys.into_iter().flat_map(|(space, doc, blocker)| self.take(space, doc, blocker)).collect()
    }

    /// Takes everything of a space that waits for a right.
    pub fn take_for_rights(&mut self, space: SpaceId) -> Vec<Waiter> {
        let keys = self.by_blocker.range((space, DocId([0; 32]), Blocker::Header)..).map(|(key, _)| *key);
        let keys = keys.take_while(|(s, _, _)| *s == space).filter(|(_, _, blocker)| *blocker == Blocker::Right);
        let keys: Vec<Key> = keys.collect();
        keys.into_iter().flat_map(|(space, doc, blocker)| self.take(space, doc, blocker)).collect()
    }

    /// Whether anything that `from` delivered waits.
    pub fn holds_of(&self, from: DeviceId) -> bool {
        self.by_deliverer.contains_key(&from)
    }

    /// Drops what has waited too long.
    pub fn expire(&mut self, now_ms: u64, limits: &Limits) {
        while let Some((serial, (_, waiter))) = self.waiters.first_key_value()
            && waiter.since_ms + limits.waiting_ms <= now_ms
        {
            self.remove(*serial);
        }
    }

    /// When the oldest expires, in ms.
    pub fn deadline(&self, limits: &Limits) -> Option<u64> {
        self.waiters.first_key_value().map(|(_, (_, waiter))| waiter.since_ms + limits.waiting_ms)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Bytes waiting in all.
    pub fn total_bytes(&self) -> usize {
        self.total
    }

    fn drop_oldest_of(&mut self, from: DeviceId) {
        if let Some(serial) = self.by_deliverer.get(&from).and_then(|d| d.serials.first().copied()) {
            self.remove(serial);
        }
    }

    fn remove(&mut self, serial: u64) -> Option<Waiter> {
        let (key, waiter) = self.waiters.remove(&serial)?;
        let bytes = cost(&waiter.segment);
        self.total -= bytes;
        self.known.remove(&name(&waiter.segment));
        if let Some(serials) = self.by_blocker.get_mut(&key) {
            serials.remove(&serial);
            if serials.is_empty() {
                self.by_blocker.remove(&key);
            }
        }
        if let Some(deliverer) = self.by_deliverer.get_mut(&waiter.from) {
            deliverer.bytes -= bytes;
            deliverer.serials.remove(&serial);
            if deliverer.serials.is_empty() {
                self.by_deliverer.remove(&waiter.from);
            }
        }
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Kind, Opening, Tip};

    fn push(waiting: &mut Waiting, from: u8, since_ms: u64, size: usize, limits: &Limits) -> bool {
        let mut signature = [from; SIGNATURE_LEN];
        signature[..8].copy_from_slice(&since_ms.to_be_bytes());
        let segment = Segment {
            doc: DocId([from; 32]),
            opening: Opening { device: DeviceId([from; 32]), salt: [0; 8], kind: Kind::Own },
            first: 2,
            entries: vec![vec![0; size]],
            tip: Tip { n: 2, rights: vec![], signature },
        };
        let conn = crate::peer::ConnId(0);
        let waiter = Waiter { space: SpaceId([0; 32]), conn, from: DeviceId([from; 32]), since_ms, segment };
        waiting.push(waiter, Blocker::Header, limits)
    }

    #[test]
    fn a_flood_evicts_its_own_oldest_and_nobody_elses() {
        let limits = Limits::default();
        let mut waiting = Waiting::default();
        push(&mut waiting, 1, 0, 10, &limits);
        (0..1_000).for_each(|i| assert!(push(&mut waiting, 2, i, 50_000, &limits)));
        assert!(waiting.total_bytes() <= limits.waiting_bytes_per_peer + 1_000);
        assert!(waiting.holds_of(DeviceId([1; 32])));
    }

    #[test]
    fn the_heaviest_gives_way_when_all_is_full() {
        let limits = Limits { waiting_bytes_total: 6 << 20, ..Limits::default() };
        let mut waiting = Waiting::default();
        push(&mut waiting, 1, 0, 1_000, &limits);
        for from in 2..6 {
            (0..100).for_each(|i| assert!(push(&mut waiting, from, i, 30_000, &limits)));
        }
        assert!(waiting.total_bytes() <= 6 << 20);
        assert!(waiting.holds_of(DeviceId([1; 32])));
    }

    #[test]
    fn what_waits_is_found_by_its_blocker_and_a_repetition_is_not_kept_twice() {
        let limits = Limits::default();
        let mut waiting = Waiting::default();
        push(&mut waiting, 1, 0, 10, &limits);
        push(&mut waiting, 1, 0, 10, &limits);
        let (space, doc) = (SpaceId([0; 32]), DocId([1; 32]));
        assert!(waiting.take(space, doc, Blocker::Right).is_empty());
        assert_eq!(waiting.take(space, doc, Blocker::Header).len(), 1);
        assert_eq!(waiting.total_bytes(), 0);
    }

    #[test]
    fn everything_expires() {
        let limits = Limits::default();
        let mut waiting = Waiting::default();
        push(&mut waiting, 1, 5, 10, &limits);
        assert_eq!(waiting.deadline(&limits), Some(5 + limits.waiting_ms));
        waiting.expire(5 + limits.waiting_ms, &limits);
        assert_eq!(waiting.total_bytes(), 0);
    }
}
