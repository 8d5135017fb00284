//! Connections: ordered, each with its own delay, until they break in the middle.

use std::collections::{BTreeMap, BTreeSet};

use commonhold_sync::peer::ConnId;

/// A connection. Its ends are 0 (who dialled) and 1.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) hosts: [usize; 2],
    /// Whether each end knows of no end yet.
    pub(super) open: [bool; 2],
    /// Frames that arrive from this moment on are lost; the ends hear of it in their own time.
    pub(super) broken_at: Option<u64>,
    /// When a frame was interfered with.
    pub(super) tampered_at: Option<u64>,
    pub(super) delay_ms: u64,
    /// 0: as much as comes.
    pub(super) bytes_per_ms: u64,
    pub(super) stalled_until: u64,
    /// When the last frame from each end arrives.
    last: [u64; 2],
    /// Bytes from each end that have not arrived.
    pub(super) pending: [usize; 2],
}

impl Link {
    pub(super) fn end_of(&self, host: usize) -> usize {
        usize::from(self.hosts[1] == host)
    }

    /// Whether it carries anything.
    pub(super) fn lives(&self) -> bool {
        self.open == [true; 2] && self.broken_at.is_none()
    }

    /// What is in flight arrives by then.
    pub(super) fn hasten(&mut self, latest: u64) {
        self.last = self.last.map(|last| last.min(latest));
    }

    /// When everything sent so far from an end has arrived.
    pub(super) fn last_arrival(&self, end: usize) -> u64 {
        self.last[end]
    }

    /// Takes a frame in and says when it arrives.
    pub(super) fn send(&mut self, end: usize, now: u64, jitter: u64, bytes: usize) -> u64 {
        self.pending[end] += bytes;
        let wire = (bytes as u64).checked_div(self.bytes_per_ms).unwrap_or(0);
        let start = self.last[end].max(now + self.delay_ms + jitter).max(self.stalled_until);
        self.last[end] = start + wire;
        self.last[end]
    }
}

#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) links: BTreeMap<ConnId, Link>,
    next: u64,
    /// Pairs (lower number first) that cannot reach each other.
    pub(super) parted: BTreeSet<(usize, usize)>,
}

impl Network {
    pub(super) fn connect(&mut self, from: usize, to: usize, delay_ms: u64, bytes_per_ms: u64) -> ConnId {
        self.next += 1;
        let link = Link {
            hosts: [from, to],
            open: [true; 2],
            broken_at: None,
            tampered_at: None,
            delay_ms,
            bytes_per_ms,
            stalled_until: 0,
            last: [0; 2],
            pending: [0; 2],
        };
        self.links.insert(ConnId(self.next), link);
        ConnId(self.next)
    }

    pub(super) fn connected(&self, a: usize, b: usize) -> bool {
        self.links.values().any(|l| l.lives() && (l.hosts == [a, b] || l.hosts == [b, a]))
    }

    /// Forgets connections that both ends have given up.
    pub(super) fn sweep(&mut self) {
        self.links.retain(|_, link| link.open != [false; 2]);
    }
}
