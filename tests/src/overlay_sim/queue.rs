//! Virtual time: what happens when, and how long a link takes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events in order of time, and of being said at equal times: links deliver in order.
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    said: u64,
    now_ms: u64,
}

struct Entry<E> {
    at_ms: u64,
    said: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ms, self.said) == (other.at_ms, other.said)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.said).cmp(&(other.at_ms, other.said))
    }
}

impl<E> Queue<E> {
    pub(super) fn new() -> Queue<E> {
        Queue { heap: BinaryHeap::new(), said: 0, now_ms: 0 }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub(super) fn at(&mut self, at_ms: u64, event: E) {
        self.said += 1;
        self.heap.push(Reverse(Entry { at_ms: at_ms.max(self.now_ms), said: self.said, event }));
    }

    pub(super) fn after(&mut self, ms: u64, event: E) {
        self.at(self.now_ms + ms, event);
    }

    /// The next event before `end_ms`.
    pub(super) fn next(&mut self, end_ms: u64) -> Option<E> {
        if self.heap.peek().is_none_or(|Reverse(entry)| entry.at_ms >= end_ms) {
            self.now_ms = end_ms.max(self.now_ms);
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        self.now_ms = entry.at_ms;
        Some(entry.event)
    }
}

/// A number that the seed and two more draw: the same in every run, whatever happened before.
pub(super) fn drawn(seed: u64, a: u64, b: u64) -> u64 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&a.to_le_bytes());
    bytes[16..].copy_from_slice(&b.to_le_bytes());
    let hash = blake3::hash(&bytes);
    hash.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// One way, 10–100 ms, the same in both directions.
pub(super) fn delay_ms(seed: u64, a: usize, b: usize) -> u64 {
    10 + drawn(seed, a.min(b) as u64, (a.max(b) + 1_000_000) as u64) % 91
}
