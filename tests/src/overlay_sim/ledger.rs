//! What was written, who got it when, and how many payloads that took.

use std::collections::BTreeMap;

use super::Plan;
use super::queue::drawn;

/// One item: the n-th of its writer.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) at_ms: u64,
    pub(super) writer: usize,
    /// Per peer, when it came; `u64::MAX` if it did not.
    pub(super) came_ms: Vec<u64>,
    /// Per peer, whether it came by comparing.
    pub(super) repaired: Vec<bool>,
}

/// The record of a run, the same for ours and the baseline.
#[derive(Debug)]
pub struct Ledger {
    pub(super) items: Vec<Written>,
    by_writer: BTreeMap<usize, Vec<usize>>,
    /// Those that are counted, by index.
    pub(super) measured_from: usize,
    /// Payloads that arrived, pushed or asked for, of measured items.
    pub payloads: u64,
    /// Payloads that arrived by comparing.
    pub repairs: u64,
    /// Messages other than payloads, and their bytes, while measured items were written.
    pub messages: u64,
    /// Their bytes.
    pub message_bytes: u64,
    /// Payloads that the bootstrap peer pushed while measured items were written.
    pub bootstrap_gave: u64,
}

/// Times to the last peer, over the measured items.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Mean over items.
    pub mean_ms: f64,
    /// Half of the items took no longer.
    pub median_ms: u64,
    /// 95 of 100 items took no longer.
    pub p95_ms: u64,
    /// The slowest item.
    pub max_ms: u64,
    /// Items that did not reach everybody who counts.
    pub incomplete: usize,
}

/// When which peer writes: times and writers, the same for all who run the plan. `first_ms` is the time of the first.
pub(super) fn schedule(plan: &Plan, first_ms: u64, writers: &[usize]) -> Vec<(u64, usize)> {
    let mut at_ms = first_ms;
    let all = plan.warm_items + plan.items;
    let next = |i: usize| {
        let writer = writers[(drawn(plan.seed, 77, i as u64) % writers.len() as u64) as usize];
        let now = at_ms;
        at_ms += plan.item_every_ms / 2 + drawn(plan.seed, 78, i as u64) % plan.item_every_ms;
        (now, writer)
    };
    (0..all).map(next).collect()
}

impl Ledger {
    pub(super) fn new(measured_from: usize) -> Ledger {
        Ledger {
            items: Vec::new(),
            by_writer: BTreeMap::new(),
            measured_from,
            payloads: 0,
            repairs: 0,
            messages: 0,
            message_bytes: 0,
            bootstrap_gave: 0,
        }
    }

    /// The index of the new item, and its number in its chain.
    pub(super) fn write(&mut self, at_ms: u64, writer: usize, peers: usize) -> (usize, u64) {
        let of = self.by_writer.entry(writer).or_default();
        of.push(self.items.len());
        let n = of.len() as u64;
        let mut came_ms = vec![u64::MAX; peers];
        came_ms[writer] = at_ms;
        self.items.push(Written { at_ms, writer, came_ms, repaired: vec![false; peers] });
        (self.items.len() - 1, n)
    }

    /// A payload with all of a writer's items up to `n` arrived.
    pub(super) fn arrived(&mut self, now_ms: u64, writer: usize, n: u64, peer: usize, repair: bool) {
        let Some(of) = self.by_writer.get(&writer) else { return };
        let Some(last) = (n as usize).checked_sub(1).and_then(|at| of.get(at)) else { return };
        if *last >= self.measured_from {
            match repair {
                true => self.repairs += 1,
                false => self.payloads += 1,
            }
        }
        for index in of[..n as usize].iter().rev() {
            let item = &mut self.items[*index];
            if item.came_ms[peer] != u64::MAX {
                break;
            }
            (item.came_ms[peer], item.repaired[peer]) = (now_ms, repair);
        }
    }

    /// The payload of one item alone arrived for the first time.
    pub(super) fn arrived_one(&mut self, now_ms: u64, writer: usize, n: u64, peer: usize) {
        let index = self.by_writer.get(&writer).and_then(|of| of.get(n as usize - 1)).copied();
        let Some(index) = index else { return };
        if index >= self.measured_from {
            self.payloads += 1;
        }
        let came_ms = &mut self.items[index].came_ms[peer];
        *came_ms = now_ms.min(*came_ms);
    }

    pub(super) fn measured(&self) -> &[Written] {
        &self.items[self.measured_from.min(self.items.len())..]
    }

    /// Payloads for each delivery of a measured item, to whomever it was delivered.
    pub fn copies(&self) -> f64 {
        let got = |item: &Written| {
            let came = item.came_ms.iter().zip(&item.repaired).enumerate();
            came.filter(|(peer, (at, repaired))| *peer != item.writer && **at != u64::MAX && !**repaired).count()
        };
        let deliveries: usize = self.measured().iter().map(got).sum();
        self.payloads as f64 / deliveries.max(1) as f64
    }

    /// How long items took to the last of the peers that count.
    pub fn spread(&self, counts: &[bool]) -> Spread {
        let mut times: Vec<u64> = self.measured().iter().map(|item| self.last_ms(item, counts)).collect();
        let all = times.len();
        times.retain(|time| *time != u64::MAX);
        times.sort_unstable();
        let at = |percent: usize| {
            times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        Spread {
            mean_ms: times.iter().sum::<u64>() as f64 / times.len().max(1) as f64,
            median_ms: at(50),
            p95_ms: at(95),
            max_ms: times.last().copied().unwrap_or(0),
            incomplete: all - times.len(),
        }
    }

    /// From when on items reach all that count in time: the time after `event_ms` of the last item that took longer than `within_ms` to the
    /// last of them. Nothing is compared before two seconds of quiet, so what spreads in less spreads through the overlay; but for single
    /// items that a comparison which was under way brought first.
    pub fn recovery_ms(&self, event_ms: u64, within_ms: u64, counts: &[bool]) -> u64 {
        let after = self.measured().iter().filter(|item| item.at_ms >= event_ms && counts[item.writer]);
        let late = after.filter(|item| self.last_ms(item, counts) > within_ms);
        late.map(|item| item.at_ms - event_ms).max().unwrap_or(0)
    }

    /// How long an item took to the last of the peers that count; `u64::MAX` if it did not reach all.
    fn last_ms(&self, item: &Written, counts: &[bool]) -> u64 {
        let came = item.came_ms.iter().zip(counts).filter(|(_, counts)| **counts);
        match came.map(|(at, _)| *at).max() {
            Some(last) if last < u64::MAX => last - item.at_ms,
            _ => u64::MAX,
        }
    }
}
