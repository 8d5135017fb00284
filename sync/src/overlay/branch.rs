//! One link of the tree: whether payloads are pushed along it, and how the peer at its end has done so far.

use std::collections::BTreeMap;

use super::bucket::Bucket;
use super::limits::OverlayLimits;
use super::message::Item;
use crate::id::{ChainId, DeviceId};
use crate::peer::Now;

/// Round trip of a link that was not measured yet: the middle of 10–100 ms each way.
const RTT_UNKNOWN_MS: u32 = 110;
/// Faults halve after this.
const FAULTS_HALVE_MS: u64 = 30_000;
/// With this many faults a neighbour's announcements open nothing: others are believed first.
pub(super) const FAULTS_DISTRUST: u32 = 4;
/// With this many it is no neighbour any more.
pub(super) const FAULTS_LEAVE: u32 = 12;
/// What a probe that is not answered counts: the third is the last. Once a second or two may be a link that stood still.
pub(super) const FAULTS_PROBE: u32 = 4;
/// With fewer deliveries since its last word, a neighbour counts as one that speaks.
const SILENT_FEW: u32 = 8;
/// However much was asked for, it is late once within this time.
const FAULT_EVERY_MS: u64 = 250;
/// Two requests within this time: the tree does not reach here any more, and the link becomes part of it.
const ASKS_WINDOW_MS: u64 = 10_000;
/// Samples of a lead that count: the mean moves by an eighth each.
const LEAD_SHIFT: u32 = 3;

/// By how much a neighbour's announcements come before another's payloads.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Lead {
    /// Mean, in eighths of a millisecond.
    mean: i64,
    pub(super) samples: u32,
}

impl Lead {
    fn add(&mut self, ms: i64) {
        let eighths = ms.clamp(-5_000, 5_000) << LEAD_SHIFT;
        match self.samples {
            0 => self.mean = eighths,
            few => self.mean += (eighths - self.mean) / i64::from(few + 1).min(8),
        }
        self.samples = self.samples.saturating_add(1);
    }

    pub(super) fn mean_ms(&self) -> i64 {
        self.mean >> LEAD_SHIFT
    }
}

/// A question whose answer is known, to a neighbour that has not said anything for long.
#[derive(Debug, Clone, Copy)]
pub(super) enum Probe {
    Idle { not_before: Now },
    Planned { item: Item, at: Now },
    Asked { until: Now },
}

#[derive(Debug)]
pub(super) struct Branch {
    /// Payloads are pushed along this link, in both directions as long as neither side prunes.
    pub(super) eager: bool,
    /// The other end is a leaf: it forwards nothing.
    pub(super) leaf: bool,
    /// The other end is to be spared, and this one is not: whatever others bring, they bring.
    pub(super) spared: bool,
    rtt_ms: Option<u32>,
    /// Chains to announce, each with its highest number.
    announce: BTreeMap<ChainId, u64>,
    pub(super) announce_at: Option<Now>,
    /// Payloads that came from here first, and that came from here again. Both halve when they grow.
    pub(super) firsts: u32,
    pub(super) duplicates: u32,
    /// Deliveries since it last said something about any item.
    pub(super) silent: u32,
    pub(super) spoke_ever: bool,
    pub(super) probe: Probe,
    /// It once gave or announced what there is.
    pub(super) sound: bool,
    /// When something new came from here last, by whatever way.
    pub(super) heard_at: Now,
    faults: u32,
    faults_at: Now,
    /// Missing chains that it was the first to announce.
    pub(super) opened: usize,
    asks: u32,
    asks_at: Now,
    pub(super) pruned_at: Now,
    /// Against whom it leads.
    pub(super) leads: BTreeMap<DeviceId, Lead>,
    pub(super) grafts: Bucket,
}

impl Branch {
    pub(super) fn new(now: Now, leaf: bool, rtt_ms: Option<u32>, limits: &OverlayLimits) -> Branch {
        Branch {
            eager: true,
            leaf,
            spared: false,
            rtt_ms,
            announce: BTreeMap::new(),
            announce_at: None,
            firsts: 0,
            duplicates: 0,
            silent: 0,
            spoke_ever: false,
            probe: Probe::Idle { not_before: now },
            sound: false,
            heard_at: Now(0),
            faults: 0,
            faults_at: now,
            opened: 0,
            asks: 0,
            asks_at: now,
            pruned_at: Now(0),
            leads: BTreeMap::new(),
            grafts: Bucket::new(now, limits.grafts_burst, limits.grafts_per_s),
        }
    }

    pub(super) fn rtt_ms(&self) -> u32 {
        self.rtt_ms.unwrap_or(RTT_UNKNOWN_MS)
    }

    pub(super) fn set_rtt(&mut self, ms: u32) {
        self.rtt_ms = Some(ms);
    }

    pub(super) fn announce(&mut self, now: Now, item: Item, limits: &OverlayLimits) {
        let n = self.announce.entry(item.chain).or_default();
        *n = item.n.max(*n);
        let at = if self.announce.len() >= limits.announced { now.0 } else { now.0 + limits.announce_ms };
        self.announce_at = Some(Now(self.announce_at.map_or(at, |before| before.0.min(at))));
    }

    /// What waits to be announced, if its time has come.
    pub(super) fn take_announced(&mut self, now: Now) -> Vec<Item> {
        if self.announce_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.announce_at = None;
        core::mem::take(&mut self.announce).into_iter().map(|(chain, n)| Item { chain, n }).collect()
    }

    pub(super) fn spoke(&mut self, now: Now) {
        (self.silent, self.spoke_ever) = (0, true);
        self.probe = match self.probe {
            Probe::Idle { not_before } => Probe::Idle { not_before },
            _ => Probe::Idle { not_before: Now(now.0 + FAULTS_HALVE_MS) },
        };
    }

    /// Whether it said something of late, as far as there was anything to say.
    pub(super) fn speaks(&self) -> bool {
        self.spoke_ever && self.silent < SILENT_FEW
    }

    pub(super) fn heard(&mut self, now: Now) {
        (self.heard_at, self.sound) = (now, true);
        self.spoke(now);
    }

    pub(super) fn count(&mut self, duplicate: bool) {
        match duplicate {
            true => self.duplicates += 1,
            false => self.firsts += 1,
        }
        if self.firsts + self.duplicates > 48 {
            (self.firsts, self.duplicates) = (self.firsts / 2, self.duplicates / 2);
        }
    }

    pub(super) fn faults(&self, now: Now) -> u32 {
        let halvings = now.0.saturating_sub(self.faults_at.0) / FAULTS_HALVE_MS;
        self.faults >> halvings.min(31)
    }

    /// It did not give what it announced.
    pub(super) fn is_late(&mut self, now: Now) {
        if self.faults == 0 || now.0 >= self.faults_at.0 + FAULT_EVERY_MS {
            self.fault(now, 1);
        }
    }

    pub(super) fn fault(&mut self, now: Now, weight: u32) {
        self.faults = self.faults(now).saturating_add(weight);
        self.faults_at = now;
    }

    pub(super) fn kept_word(&mut self, now: Now) {
        self.faults = self.faults(now).saturating_sub(1);
        self.faults_at = now;
    }

    /// Counts one more time that it was asked for what the tree did not bring. How often that was lately.
    pub(super) fn asked(&mut self, now: Now) -> u32 {
        if now.0.saturating_sub(self.asks_at.0) > ASKS_WINDOW_MS {
            (self.asks, self.asks_at) = (0, now);
        }
        self.asks += 1;
        self.asks
    }

    /// Its announcement came so much before (or after) the payload from another.
    pub(super) fn lead(&mut self, over: DeviceId, ms: i64) {
        self.leads.entry(over).or_default().add(ms);
    }
}
