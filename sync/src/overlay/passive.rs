//! Peers to fall back on: records of peers that can be dialled, are not linked, and are tried when neighbours are lacking.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;

use super::limits::OverlayLimits;
use super::pick;
use crate::id::DeviceId;
use crate::peer::Now;
use crate::peer_record::PeerRecord;

/// What is known of one of them.
#[derive(Debug)]
pub(super) struct Fallback {
    pub(super) record: PeerRecord,
    /// Which peer told; none for an invite, a tracker, or a peer that was reached at these addresses.
    source: Option<DeviceId>,
    /// Not to be dialled before.
    pub(super) not_before: Now,
    /// Dials and requests that failed in a row.
    pub(super) fails: u32,
    /// As last measured. A peer known to be far is not tried as a nearer neighbour again.
    pub(super) rtt_ms: Option<u32>,
}

/// The table of them. Full, it gives up one of the same source, or one that failed, or any. Half of it is for those that nobody's
/// word is needed for: whatever peers invent, these remain to be dialled.
#[derive(Debug, Default)]
pub(super) struct Passive {
    peers: BTreeMap<DeviceId, Fallback>,
}

impl Passive {
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn get(&self, peer: &DeviceId) -> Option<&Fallback> {
        self.peers.get(peer)
    }

    pub(super) fn get_mut(&mut self, peer: &DeviceId) -> Option<&mut Fallback> {
        self.peers.get_mut(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&DeviceId, &Fallback)> {
        self.peers.iter()
    }

    pub(super) fn remove(&mut self, peer: &DeviceId) -> Option<Fallback> {
        self.peers.remove(peer)
    }

    /// Remembers a peer that can be dialled. True if it was not known.
    pub(super) fn insert(
        &mut self,
        record: PeerRecord,
        source: Option<DeviceId>,
        limits: &OverlayLimits,
        rng: &mut ChaCha8Rng,
    ) -> bool {
        if record.addresses.is_empty() {
            self.peers.remove(&record.device);
            return false;
        }
        if let Some(held) = self.peers.get_mut(&record.device) {
            if record.replaces(&held.record) {
                held.record = record;
                (held.fails, held.not_before) = (0, Now(0));
            }
            return false;
        }
        let of_source = |held: &Fallback| source.is_some() && held.source == source;
        let from_same: Vec<DeviceId> =
            self.peers.iter().filter(|(_, held)| of_source(held)).map(|(peer, _)| *peer).collect();
        if from_same.len() >= limits.passive_per_source {
            pick(rng, &from_same).map(|peer| self.peers.remove(&peer));
        } else if self.peers.len() >= limits.passive {
            let sure = self.peers.values().filter(|held| held.source.is_none()).count() + usize::from(source.is_none());
            let of_sure = sure > limits.passive / 2;
            let may = || self.peers.iter().filter(|(_, held)| held.source.is_none() == of_sure);
            let most = may().map(|(_, held)| held.fails).max().unwrap_or(0);
            let worst: Vec<DeviceId> = may().filter(|(_, held)| held.fails == most).map(|(peer, _)| *peer).collect();
            pick(rng, &worst).map(|peer| self.peers.remove(&peer));
        }
        self.peers.insert(record.device, Fallback { record, source, not_before: Now(0), fails: 0, rtt_ms: None });
        true
    }

    /// A dial or a request failed: not again before a wait that doubles.
    pub(super) fn failed(&mut self, now: Now, peer: &DeviceId, limits: &OverlayLimits) {
        if let Some(held) = self.peers.get_mut(peer) {
            let wait = limits.retry_ms << held.fails.min(20);
            held.not_before = Now(now.0.saturating_add(wait.min(limits.retry_max_ms)));
            held.fails = held.fails.saturating_add(1);
        }
    }
}
