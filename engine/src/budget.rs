//! What the network may cost: bytes a day on networks that are paid for, and bytes a day for others. Counted over restarts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use commonhold_sync::message::roles;
use commonhold_sync::spending::{Allowance, Spent};
use minicbor::{Decode, Encode};

const DAY_S: u64 = 86_400;
/// Version of [`SpentRow`].
const ROW_VERSION: u32 = 1;
/// What is on disk is ahead of what was spent by up to this part of a budget: so much of it a crash costs, and so rarely it is written.
const AHEAD: u64 = 16;
/// The same where a budget is small or absent.
const AHEAD_MIN: u64 = 64 << 10;

/// What a node may spend of the network in a day, which begins at midnight UTC. Bytes are those of frames or messages; what a
/// transport adds (TCP, TLS, some 40 bytes a packet) is not in them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Budgets {
    /// Bytes a day, sent and received, while the network is metered ([`Node::set_metered`](crate::Node::set_metered)). When they are
    /// spent, no connection is kept until the next day, or until the network is not metered any more. `None`: no bound.
    pub metered: Option<u64>,
    /// Bytes a day that are sent of what others made: relayed, served, blobs. When they are spent, this node is a leaf until the next
    /// day: it sends what was made here, and serves nobody. `None`: no bound.
    pub background: Option<u64>,
    /// When others are served at all.
    pub serving: Serving,
}

/// When a node sends others what it did not make itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Serving {
    /// Never: it is a leaf.
    Never,
    /// Unless the network is metered.
    Metered,
    /// On any network.
    #[default]
    Always,
}

impl Budgets {
    /// Bits of [`roles`] that follow.
    pub(crate) fn roles(&self) -> u64 {
        if self.serving == Serving::Never { roles::LEAF } else { 0 }
    }
}

/// What was spent of [`Budgets`], and what follows from it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BudgetInfo {
    /// Whether the network is metered at present.
    pub metered: bool,
    /// Bytes sent and received today while it was, and how many may be.
    pub metered_bytes: u64,
    /// Of [`Budgets::metered`].
    pub metered_max: Option<u64>,
    /// Bytes sent today of what others made, and how many may be.
    pub background_bytes: u64,
    /// Of [`Budgets::background`].
    pub background_max: Option<u64>,
    /// Whether others are served at present.
    pub serves: bool,
    /// Whether connections are kept at present.
    pub connects: bool,
}

/// As it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub(crate) struct SpentRow {
    #[n(0)]
    version: u32,
    /// Days since 1970, UTC.
    #[n(1)]
    day: u64,
    #[n(2)]
    metered: u64,
    #[n(3)]
    background: u64,
}

/// Today, in days since 1970. A clock before that is at its beginning.
pub(crate) fn today() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / DAY_S)
}

/// Until the next day begins.
pub(crate) fn until_tomorrow() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs((now.as_secs() / DAY_S + 1) * DAY_S) - now
}

/// Keeps account.
#[derive(Debug)]
pub(crate) struct Purse {
    budgets: Budgets,
    metered: bool,
    today: SpentRow,
    /// What the machine's counters showed last.
    counted: Spent,
    stored: SpentRow,
}

impl Purse {
    pub(crate) fn new(budgets: Budgets, metered: bool, row: Option<SpentRow>, day: u64) -> Purse {
        let row = row.filter(|row| row.version == ROW_VERSION).unwrap_or_default();
        let empty = SpentRow { version: ROW_VERSION, day, ..SpentRow::default() };
        // A clock that was set back begins no new day.
        let today = if row.day >= day { row } else { empty };
        Purse { budgets, metered, today, counted: Spent::default(), stored: today }
    }

    /// A machine that has spent nothing yet.
    pub(crate) fn begin(&mut self) {
        self.counted = Spent::default();
    }

    /// Takes in what the machine has spent so far.
    pub(crate) fn note(&mut self, spent: Spent) {
        if self.metered {
            self.today.metered += spent.all - self.counted.all;
        }
        self.today.background += spent.others - self.counted.others;
        self.counted = spent;
    }

    /// True if the network was said to be something else before.
    pub(crate) fn set_metered(&mut self, metered: bool) -> bool {
        core::mem::replace(&mut self.metered, metered) != metered
    }

    /// True if a new day begins.
    pub(crate) fn turn(&mut self, day: u64) -> bool {
        let new = day > self.today.day;
        if new {
            self.today = SpentRow { version: ROW_VERSION, day, ..SpentRow::default() };
        }
        new
    }

    /// What may be spent from here on.
    pub(crate) fn allowance(&self) -> Allowance {
        let left = |max: Option<u64>, spent: u64| max.map(|max| max.saturating_sub(spent));
        let serves = match self.budgets.serving {
            Serving::Never => false,
            Serving::Metered => !self.metered,
            Serving::Always => true,
        };
        Allowance {
            all: left(self.budgets.metered.filter(|_| self.metered), self.today.metered),
            others: if serves { left(self.budgets.background, self.today.background) } else { Some(0) },
        }
    }

    /// The row to store, if it is time.
    pub(crate) fn take_due(&mut self) -> Option<SpentRow> {
        let ahead = |max: Option<u64>| max.map_or(AHEAD_MIN, |max| (max / AHEAD).max(AHEAD_MIN.min(max)));
        let (metered, background) = (ahead(self.budgets.metered), ahead(self.budgets.background));
        let near = |spent: u64, stored: u64, ahead: u64| spent > 0 && spent + ahead / 2 > stored;
        let due = self.today.day != self.stored.day && self.today != self.stored
            || near(self.today.metered, self.stored.metered, metered)
            || near(self.today.background, self.stored.background, background);
        if !self.is_bounded() || !due {
            return None;
        }
        let with = |spent: u64, ahead: u64| if spent > 0 { spent + ahead } else { 0 };
        self.stored = SpentRow {
            metered: with(self.today.metered, metered),
            background: with(self.today.background, background),
            ..self.today
        };
        Some(self.stored)
    }

    /// The row of a node that ends in good order.
    pub(crate) fn last(&self) -> Option<SpentRow> {
        (self.today != self.stored).then_some(self.today)
    }

    /// Whether a new day could change anything.
    pub(crate) fn is_bounded(&self) -> bool {
        self.budgets.metered.is_some() || self.budgets.background.is_some()
    }

    pub(crate) fn info(&self, serves: bool, connects: bool) -> BudgetInfo {
        BudgetInfo {
            metered: self.metered,
            metered_bytes: self.today.metered,
            metered_max: self.budgets.metered,
            background_bytes: self.today.background,
            background_max: self.budgets.background,
            serves,
            connects,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purse(serving: Serving, metered: bool) -> Purse {
        Purse::new(Budgets { metered: Some(1 << 20), background: Some(1 << 24), serving }, metered, None, 9)
    }

    #[test]
    fn what_is_spent_today_is_not_there_any_more_today() {
        let mut purse = purse(Serving::Always, true);
        purse.note(Spent { all: 1_000, others: 300 });
        assert!(purse.set_metered(false));
        purse.note(Spent { all: 5_000, others: 400 });
        assert_eq!(purse.allowance(), Allowance { all: None, others: Some((1 << 24) - 400) });
        purse.set_metered(true);
        assert_eq!(purse.allowance().all, Some((1 << 20) - 1_000), "what went while it was free is not in it");
        assert!(!purse.turn(9) && !purse.turn(8), "a clock that is set back gives nothing");
        assert!(purse.turn(10));
        assert_eq!(purse.allowance(), Allowance { all: Some(1 << 20), others: Some(1 << 24) });
        // The machine began anew meanwhile.
        purse.begin();
        purse.note(Spent { all: 10, others: 0 });
        assert_eq!(purse.allowance().all, Some((1 << 20) - 10));
    }

    #[test]
    fn who_is_served_follows_the_policy() {
        let others = |serving, metered| purse(serving, metered).allowance().others;
        assert_eq!([others(Serving::Never, false), others(Serving::Metered, true)], [Some(0), Some(0)]);
        assert_eq!([others(Serving::Metered, false), others(Serving::Always, true)], [Some(1 << 24); 2]);
        let free = Purse::new(Budgets::default(), true, None, 9);
        assert_eq!((free.allowance(), free.is_bounded()), (Allowance::default(), false));
    }

    #[test]
    fn a_restart_gives_nothing_back_and_a_crash_costs_a_part_of_the_day_at_most() {
        let mut first = purse(Serving::Always, true);
        let mut spent = Spent::default();
        let (mut rows, mut row) = (0, None);
        while first.allowance().all.is_some_and(|left| left > 1_000) {
            spent.all += 1_000;
            first.note(spent);
            if let Some(stored) = first.take_due() {
                (rows, row) = (rows + 1, Some(stored));
            }
            let crashed = Purse::new(first.budgets.clone(), true, row, 9);
            let (before, after) = (first.allowance().all.unwrap(), crashed.allowance().all.unwrap());
            assert!(after <= before && after + (1 << 20) / AHEAD >= before, "{after} of {before}");
        }
        assert!(rows <= 2 * AHEAD + 2, "it was stored {rows} times");
        let closed = Purse::new(first.budgets.clone(), true, first.last(), 9);
        assert_eq!(closed.allowance(), first.allowance());
        assert_eq!(Purse::new(first.budgets.clone(), true, first.last(), 10).allowance().all, Some(1 << 20));
    }
}
