//! The scenarios by name, and what they report.

use commonhold_sync::overlay::{OverlayLimits, OverlaySizes};
use serde::Serialize;

use super::Plan;
use super::baseline;
use super::ledger::{Ledger, Spread};
use super::queue::drawn;
use super::swarm::Swarm;

/// All scenarios.
pub const NAMES: [&str; 9] =
    ["no-fault", "one-writer", "killed", "black-holes", "leaves", "undialable", "bootstrap-dies", "floods", "idle"];

/// What a peer is in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Full,
    /// Takes part in membership and forwards nothing.
    Hole,
    /// Floods.
    Hostile,
    /// Full, and without an address.
    Undialable,
    Leaf,
}

/// Who is what, drawn from the seed.
pub(super) struct Cast {
    pub(super) kinds: Vec<Kind>,
    pub(super) writers: Vec<usize>,
    pub(super) killed: Vec<usize>,
}

impl Cast {
    pub(super) fn new(plan: &Plan) -> Cast {
        let mut order: Vec<usize> = (1..plan.peers).collect();
        order.sort_by_key(|peer| drawn(plan.seed, 11, *peer as u64));
        let mut kinds = vec![Kind::Full; plan.peers];
        let leaves = plan.peers * plan.leaves_percent / 100;
        let full = plan.peers - leaves;
        let (holes, undialable) = (full * plan.holes_percent / 100, full * plan.undialable_percent / 100);
        let hostile = full * plan.hostile_percent / 100;
        let drawn_kinds = std::iter::repeat_n(Kind::Leaf, leaves)
            .chain(std::iter::repeat_n(Kind::Hole, holes))
            .chain(std::iter::repeat_n(Kind::Hostile, hostile))
            .chain(std::iter::repeat_n(Kind::Undialable, undialable));
        order.iter().zip(drawn_kinds).for_each(|(peer, kind)| kinds[*peer] = kind);
        let mut writers: Vec<usize> =
            (1..plan.peers).filter(|peer| !matches!(kinds[*peer], Kind::Hole | Kind::Hostile)).collect();
        writers.sort_by_key(|peer| drawn(plan.seed, 12, *peer as u64));
        writers.truncate(plan.writers);
        if plan.first_writes {
            writers = vec![1];
        }
        order.sort_by_key(|peer| drawn(plan.seed, 13, *peer as u64));
        let killed = order[..plan.peers * plan.killed_percent / 100].to_vec();
        Cast { kinds, writers, killed }
    }

    /// In the middle of the measured items.
    pub(super) fn kill_ms(&self, plan: &Plan) -> u64 {
        let joined = plan.peers as u64 * plan.join_every_ms + plan.settle_ms;
        joined + (plan.warm_items as u64 + plan.items as u64 / 2) * plan.item_every_ms
    }

    /// Peers whose deliveries count: honest ones that live to the end.
    fn counts(&self, plan: &Plan) -> Vec<bool> {
        let honest = |peer: usize| !matches!(self.kinds[peer], Kind::Hole | Kind::Hostile);
        let lives = |peer: usize| !(self.killed.contains(&peer) || plan.bootstrap_dies && peer == 0);
        let counts = |peer: usize| honest(peer) && lives(peer);
        (0..plan.peers).map(counts).collect()
    }
}

/// One line of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which run.
    pub run: String,
    /// Peers.
    pub peers: usize,
    /// The seed.
    pub seed: u64,
    /// `ours` or `baseline`.
    pub system: &'static str,
    /// Payloads for each delivery.
    pub copies: f64,
    /// Mean time to the last peer.
    pub last_mean_ms: f64,
    /// Its median.
    pub last_median_ms: u64,
    /// Its 95th percentile.
    pub last_p95_ms: u64,
    /// The slowest item.
    pub last_max_ms: u64,
    /// Items that did not reach everybody that counts.
    pub incomplete: usize,
    /// Payloads by comparing.
    pub repairs: u64,
    /// Other messages for each delivery.
    pub messages_per_delivery: f64,
    /// Payloads that the bootstrap peer pushed for each item.
    pub bootstrap_gave: f64,
    /// Time from the deaths until each item reaches all within a second again.
    pub recovery_ms: Option<u64>,
    /// Sets of peers that reach one another at the end.
    pub components: Option<usize>,
    /// Neighbours that are so on one side only, at the end.
    pub lopsided: Option<usize>,
    /// The most that any honest overlay's tables held.
    #[serde(skip)]
    pub most: OverlaySizes,
    /// Bytes per minute and neighbour with 100 spaces, in the first hour and in the two after it.
    pub idle_bytes: Option<(f64, f64)>,
}

/// What a scenario found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which scenario.
    pub scenario: String,
    /// Its runs.
    pub rows: Vec<Row>,
}

/// Runs a scenario for each seed from 0. `warm` is the number of items before those that are measured; without `near`, ours does not
/// look for nearer neighbours.
pub fn run(name: &str, peers: usize, seeds: u64, warm: Option<usize>, near: bool) -> Option<Report> {
    let mut rows = Vec::new();
    for seed in 0..seeds {
        let mut calm = Plan::calm(peers, seed);
        (calm.warm_items, calm.near) = (warm.unwrap_or(calm.warm_items), near);
        match name {
            "no-fault" => {
                rows.push(ours(name, &calm));
                rows.push(base(name, &calm));
            }
            "one-writer" => {
                rows.push(ours(name, &Plan { writers: 1, ..calm.clone() }));
                rows.push(ours("first writes", &Plan { first_writes: true, ..calm.clone() }));
            }
            "killed" => {
                for killed_percent in [30, 50] {
                    let plan = Plan { killed_percent, ..calm.clone() };
                    let run = format!("{name} {killed_percent}%");
                    rows.push(ours(&run, &plan));
                    rows.push(base(&run, &plan));
                }
            }
            "black-holes" => {
                rows.push(ours("no-fault", &calm));
                rows.push(ours("holes 40%", &Plan { holes_percent: 40, ..calm.clone() }));
                rows.push(ours("holes 60%", &Plan { holes_percent: 60, ..calm.clone() }));
            }
            "leaves" => {
                rows.push(ours("no-fault", &calm));
                rows.push(ours("leaves 80%", &Plan { leaves_percent: 80, ..calm.clone() }));
            }
            "undialable" => {
                rows.push(ours("no-fault", &calm));
                rows.push(ours("undialable 50%", &Plan { undialable_percent: 50, ..calm.clone() }));
            }
            "bootstrap-dies" => {
                let plan = Plan { bootstrap_dies: true, warm_items: 0, items: 20, settle_ms: 20_000, ..calm };
                rows.push(ours(name, &plan));
            }
            "floods" => {
                rows.push(ours("no-fault", &calm));
                rows.push(ours("floods 20%", &Plan { hostile_percent: 20, ..calm.clone() }));
            }
            "idle" => rows.push(idle(peers, seed)),
            _ => return None,
        }
    }
    Some(Report { scenario: name.into(), rows })
}

fn ours(run: &str, plan: &Plan) -> Row {
    let cast = Cast::new(plan);
    let mut limits = OverlayLimits::default();
    if !plan.near {
        limits.improve_ms = u64::MAX / 4;
    }
    let mut swarm = Swarm::new(plan, &cast, &limits);
    swarm.run();
    let row = row(run, plan, &cast, &swarm.ledger, "ours");
    Row { components: Some(swarm.components()), lopsided: Some(swarm.lopsided()), most: swarm.most, ..row }
}

/// What a frame costs besides its message: the headers of WebSocket, TCP segment excluded, the tag of the cipher, type and space.
const FRAME_BYTES: u64 = 32;

/// A hundred spaces of the same size in which nobody writes. What each costs is added up: a peer with neighbours in all of them.
fn idle(peers: usize, seed: u64) -> Row {
    let plan = Plan { items: 0, warm_items: 0, writers: 1, drain_ms: 0, ..Plan::calm(peers, seed) };
    let (mut first, mut later, mut neighbours) = (0.0, 0.0, 0);
    let mut last = None;
    for space in 0..100 {
        let plan = Plan { seed: seed * 1_000 + space, ..plan.clone() };
        let cast = Cast::new(&plan);
        let mut swarm = Swarm::new(&plan, &cast, &OverlayLimits::default());
        let sent = |swarm: &Swarm| {
            swarm.nodes.iter().map(|node| node.sent_bytes + FRAME_BYTES * node.sent_messages).sum::<u64>() as f64
        };
        swarm.run_until(3_600_000);
        let hour = sent(&swarm);
        swarm.run_until(3 * 3_600_000);
        neighbours += swarm.nodes.iter().map(|node| node.overlay.neighbours().count()).sum::<usize>();
        (first, later) = (first + hour / 60.0, later + (sent(&swarm) - hour) / 120.0);
        last = Some((cast, swarm));
    }
    let Some((cast, swarm)) = last else { unreachable!("a hundred spaces were run") };
    // All pairs of neighbours in one space: a hundred spaces share them.
    let pairs = f64::from(neighbours as u32) / 100.0;
    let row = row("idle, 100 spaces", &plan, &cast, &swarm.ledger, "ours");
    Row { components: Some(swarm.components()), idle_bytes: Some((first / pairs, later / pairs)), ..row }
}

fn base(run: &str, plan: &Plan) -> Row {
    let cast = Cast::new(plan);
    let ledger = baseline::run(plan, &cast);
    row(run, plan, &cast, &ledger, "baseline")
}

fn row(run: &str, plan: &Plan, cast: &Cast, ledger: &Ledger, system: &'static str) -> Row {
    let counts = cast.counts(plan);
    let Spread { mean_ms, median_ms, p95_ms, max_ms, incomplete } = ledger.spread(&counts);
    let deliveries = ledger.measured().len() * counts.iter().filter(|counts| **counts).count().saturating_sub(1);
    Row {
        run: run.into(),
        peers: plan.peers,
        seed: plan.seed,
        system,
        copies: ledger.copies(),
        last_mean_ms: mean_ms,
        last_median_ms: median_ms,
        last_p95_ms: p95_ms,
        last_max_ms: max_ms,
        incomplete,
        repairs: ledger.repairs,
        messages_per_delivery: ledger.messages as f64 / deliveries.max(1) as f64,
        bootstrap_gave: ledger.bootstrap_gave as f64 / ledger.measured().len().max(1) as f64,
        recovery_ms: (plan.killed_percent > 0).then(|| ledger.recovery_ms(cast.kill_ms(plan), 1_000, &counts)),
        components: None,
        lopsided: None,
        most: OverlaySizes::default(),
        idle_bytes: None,
    }
}
