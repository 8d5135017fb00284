//! Many overlays of one space under a virtual clock, and the baseline under the same conditions.
//!
//! Links take 10–100 ms each way, fixed per pair by the seed; deliveries, joins, writes and deaths are the same for
//! [`commonhold_sync::overlay`] and for iroh-gossip's `proto`. What is measured is what goes over the links: the payloads of this
//! simulation are numbers.

mod baseline;
mod flood;
mod ledger;
mod queue;
mod scenario;
mod swarm;

pub use self::ledger::{Ledger, Spread};
pub use self::scenario::{NAMES, Report, Row, run};

/// What happens in one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Peers, the bootstrap peer included.
    pub peers: usize,
    /// Draws delays, writers, and who is what.
    pub seed: u64,
    /// Time between two joins.
    pub join_every_ms: u64,
    /// Time between the last join and the first item.
    pub settle_ms: u64,
    /// Items that are written before those that are measured.
    pub warm_items: usize,
    /// Items that are measured.
    pub items: usize,
    /// Mean time between two items.
    pub item_every_ms: u64,
    /// How many of the peers write, in turn at random.
    pub writers: usize,
    /// The one that writes is the first that joined: it has been the bootstrap peer's neighbour from the beginning.
    pub first_writes: bool,
    /// Of 100 peers, how many are leaves.
    pub leaves_percent: usize,
    /// Of 100 full peers, how many cannot be dialled.
    pub undialable_percent: usize,
    /// Of 100 full peers, how many take part in membership and forward nothing.
    pub holes_percent: usize,
    /// Of 100 full peers, how many flood those they can reach with all that the protocol knows.
    pub hostile_percent: usize,
    /// Of 100 peers, how many die at once in the middle of the measured items.
    pub killed_percent: usize,
    /// The bootstrap peer dies one second after the last join.
    pub bootstrap_dies: bool,
    /// Time after the last item.
    pub drain_ms: u64,
    /// Ours looks for nearer neighbours, as it does by default.
    pub near: bool,
}

impl Plan {
    /// Nothing goes wrong.
    pub fn calm(peers: usize, seed: u64) -> Plan {
        Plan {
            peers,
            seed,
            join_every_ms: 50,
            settle_ms: 20_000,
            warm_items: 200,
            items: 200,
            item_every_ms: 250,
            writers: 24,
            first_writes: false,
            leaves_percent: 0,
            undialable_percent: 0,
            holes_percent: 0,
            hostile_percent: 0,
            killed_percent: 0,
            bootstrap_dies: false,
            drain_ms: 20_000,
            near: true,
        }
    }
}

/// When a dead peer's links are noticed.
pub const DETECT_MS: u64 = 3_000;
