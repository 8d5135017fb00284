//! What came lately: per chain the highest number, when it came and from whom.

use std::collections::BTreeMap;

use super::message::Item;
use crate::id::{ChainId, DeviceId};
use crate::peer::Now;

/// How the highest number of a chain came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) n: u64,
    pub(super) at: Now,
    pub(super) from: Option<DeviceId>,
    /// Somebody was asked for it: a duplicate is then the fault of the asker.
    pub(super) asked: bool,
}

/// Two generations: when the young one is half of the bound or half of the time old, it becomes the old one, and that is forgotten.
#[derive(Debug, Default)]
pub(super) struct Seen {
    young: BTreeMap<ChainId, Held>,
    old: BTreeMap<ChainId, Held>,
    turned: Now,
}

impl Seen {
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub(super) fn get(&self, chain: &ChainId) -> Option<&Held> {
        self.young.get(chain).or_else(|| self.old.get(chain))
    }

    /// Whether the item is known to be held.
    pub(super) fn holds(&self, item: &Item) -> bool {
        self.get(&item.chain).is_some_and(|held| held.n >= item.n)
    }

    /// What came last from somebody else.
    pub(super) fn last(&self) -> Option<Item> {
        let all = self.young.iter().chain(&self.old).filter(|(_, held)| held.from.is_some());
        all.max_by_key(|(_, held)| held.at).map(|(chain, held)| Item { chain: *chain, n: held.n })
    }

    pub(super) fn insert(&mut self, chain: ChainId, held: Held, chains_max: usize, keep_ms: u64) {
        let aged = held.at.0.saturating_sub(self.turned.0) >= keep_ms / 2;
        if aged || self.young.len() >= chains_max / 2 {
            self.old = core::mem::take(&mut self.young);
            self.turned = held.at;
        }
        self.young.insert(chain, held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_remembered_for_half_the_time_at_least_and_never_more_than_the_bound() {
        let chain = |i: u32| ChainId(core::array::from_fn(|at| i.to_be_bytes()[at % 4]));
        let held = |at| Held { n: 1, at: Now(at), from: None, asked: false };
        let mut seen = Seen::default();
        for i in 0..100_000 {
            seen.insert(chain(i), held(0), 1_000, 120_000);
            assert!(seen.len() <= 1_000);
        }
        assert!(seen.holds(&Item { chain: chain(99_999), n: 1 }) && seen.get(&chain(99_500)).is_some());
        seen.insert(chain(0), held(60_000), 1_000, 120_000);
        assert!(seen.get(&chain(99_999)).is_some());
        seen.insert(chain(1), held(120_000), 1_000, 120_000);
        assert!(seen.get(&chain(99_999)).is_none() && seen.get(&chain(0)).is_some());
    }
}
