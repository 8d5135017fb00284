//! Segments whose past or authority has not come yet. Bounded per deliverer and in all; the heaviest deliverer's oldest
//! go first, and everything goes after a time.

use std::collections::BTreeMap;

use crate::chain::Segment;
use crate::id::{DeviceId, DocId, SpaceId};
use crate::limits::Limits;

/// A waiting segment.
#[derive(Debug)]
pub struct Waiter {
    /// The space.
    pub space: SpaceId,
    /// Who delivered it.
    pub from: DeviceId,
    /// When it came, in ms.
    pub since_ms: u64,
    /// The segment.
    pub segment: Segment,
}

/// What waits, by log.
#[derive(Debug, Default)]
pub struct Waiting {
    by_log: BTreeMap<(SpaceId, DocId), Vec<Waiter>>,
    bytes: BTreeMap<DeviceId, usize>,
    total: usize,
}

/// Bytes charged for a segment beyond its bodies: ids, tip, vectors.
const OVERHEAD: usize = 256;

fn cost(segment: &Segment) -> usize {
    segment.body_bytes() + OVERHEAD + 24 * segment.entries.len()
}

impl Waiting {
    /// Keeps a segment. False if it was dropped because of the bounds; its deliverer will be asked again.
    pub fn push(&mut self, waiter: Waiter, limits: &Limits) -> bool {
        let bytes = cost(&waiter.segment);
        let from = waiter.from;
        if bytes > limits.waiting_bytes_per_peer {
            return false;
        }
        let key = (waiter.space, waiter.segment.doc);
        if self.by_log.get(&key).is_some_and(|w| w.iter().any(|w| w.segment == waiter.segment)) {
            return true;
        }
        while self.bytes.get(&from).copied().unwrap_or(0) + bytes > limits.waiting_bytes_per_peer {
            self.drop_oldest_of(from);
        }
        while self.total + bytes > limits.waiting_bytes_total {
            let Some(heaviest) = self.bytes.iter().max_by_key(|(_, b)| **b).map(|(d, _)| *d) else { break };
            self.drop_oldest_of(heaviest);
        }
        *self.bytes.entry(from).or_default() += bytes;
        self.total += bytes;
        self.by_log.entry(key).or_default().push(waiter);
        true
    }

    /// Takes everything that waits in a log, in order of arrival.
    pub fn take(&mut self, space: SpaceId, doc: DocId) -> Vec<Waiter> {
        let taken = self.by_log.remove(&(space, doc)).unwrap_or_default();
        taken.iter().for_each(|w| self.release(w));
        taken
    }

    /// How many segments wait in a log.
    pub fn count(&self, space: SpaceId, doc: DocId) -> usize {
        self.by_log.get(&(space, doc)).map_or(0, Vec::len)
    }

    /// The logs of a space in which something waits.
    pub fn logs_of(&self, space: SpaceId) -> Vec<DocId> {
        let range = (space, DocId([0; 32]))..=(space, DocId([255; 32]));
        self.by_log.range(range).map(|((_, doc), _)| *doc).collect()
    }

    /// Whether anything that `from` delivered in `space` waits.
    pub fn holds_of(&self, space: SpaceId, from: DeviceId) -> bool {
        let range = (space, DocId([0; 32]))..=(space, DocId([255; 32]));
        self.bytes.contains_key(&from) && self.by_log.range(range).any(|(_, w)| w.iter().any(|w| w.from == from))
    }

    /// Drops what has waited too long.
    pub fn expire(&mut self, now_ms: u64, limits: &Limits) {
        let mut gone = Vec::new();
        self.by_log.retain(|_, waiters| {
            gone.extend(waiters.extract_if(.., |w| w.since_ms + limits.waiting_ms <= now_ms));
            !waiters.is_empty()
        });
        gone.iter().for_each(|w| self.release(w));
    }

    /// When the oldest expires, in ms.
    pub fn deadline(&self, limits: &Limits) -> Option<u64> {
        self.by_log.values().flatten().map(|w| w.since_ms + limits.waiting_ms).min()
    }

    /// Bytes waiting in all.
    pub fn total_bytes(&self) -> usize {
        self.total
    }

    fn drop_oldest_of(&mut self, from: DeviceId) {
        let of = self.by_log.iter().flat_map(|(key, ws)| ws.iter().enumerate().map(move |(i, w)| (*key, i, w)));
        let oldest = of.filter(|(_, _, w)| w.from == from).min_by_key(|(_, _, w)| w.since_ms).map(|(k, i, _)| (k, i));
        let Some((key, index)) = oldest else {
            self.bytes.remove(&from);
            return;
        };
        let waiters = self.by_log.get_mut(&key).expect("found a moment ago");
        let gone = waiters.remove(index);
        if waiters.is_empty() {
            self.by_log.remove(&key);
        }
        self.release(&gone);
    }

    fn release(&mut self, waiter: &Waiter) {
        let bytes = cost(&waiter.segment);
        self.total -= bytes;
        if let Some(left) = self.bytes.get_mut(&waiter.from) {
            *left -= bytes;
            if *left == 0 {
                self.bytes.remove(&waiter.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Kind, Opening, Tip};

    fn waiter(from: u8, since_ms: u64, size: usize) -> Waiter {
        let segment = Segment {
            doc: DocId([from; 32]),
            opening: Opening { device: DeviceId([from; 32]), salt: since_ms.to_be_bytes(), kind: Kind::Own },
            first: 2,
            entries: vec![vec![0; size]],
            tip: Tip { n: 2, rights: vec![], signature: [0; 64] },
        };
        Waiter { space: SpaceId([0; 32]), from: DeviceId([from; 32]), since_ms, segment }
    }

    #[test]
    fn a_flood_evicts_its_own_oldest_and_nobody_elses() {
        let limits = Limits::default();
        let mut waiting = Waiting::default();
        waiting.push(waiter(1, 0, 10), &limits);
        (0..1_000).for_each(|i| assert!(waiting.push(waiter(2, i, 50_000), &limits)));
        assert!(waiting.total_bytes() <= limits.waiting_bytes_per_peer + 1_000);
        assert!(waiting.holds_of(SpaceId([0; 32]), DeviceId([1; 32])));
    }

    #[test]
    fn the_heaviest_gives_way_when_all_is_full() {
        let limits = Limits { waiting_bytes_total: 6 << 20, ..Limits::default() };
        let mut waiting = Waiting::default();
        waiting.push(waiter(1, 0, 1_000), &limits);
        for from in 2..6 {
            (0..100).for_each(|i| assert!(waiting.push(waiter(from, i, 30_000), &limits)));
        }
        assert!(waiting.total_bytes() <= 6 << 20);
        assert!(waiting.holds_of(SpaceId([0; 32]), DeviceId([1; 32])));
    }

    #[test]
    fn everything_expires() {
        let limits = Limits::default();
        let mut waiting = Waiting::default();
        waiting.push(waiter(1, 5, 10), &limits);
        assert_eq!(waiting.deadline(&limits), Some(5 + limits.waiting_ms));
        waiting.expire(5 + limits.waiting_ms, &limits);
        assert_eq!(waiting.total_bytes(), 0);
    }
}
