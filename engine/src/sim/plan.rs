//! What a seed decides before anything moves: how many peers, how they are connected, how often what fails.

use crate::store::faulty::Rng;
use commonhold_sync::limits::Limits;
use commonhold_sync::record::Writers;

/// A peer that breaks a rule, or a disk that lies. The checks must catch each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Canary {
    /// Peer 0's disk says that it has synced, and has not.
    NeverSyncs,
    /// Peer 0 says "stored" seconds before it writes.
    EarlyStored,
    /// Peer 0 leaves every third segment out when it stores.
    DropsThirdSegment,
    /// Peer 0's view does not show one of the entries.
    HidesEntry,
    /// Peer 0 goes on to show what does not count any more.
    KeepsShowing,
    /// Peer 0 shows of a closed chain no branch but the first.
    OneBranch,
}

/// Who is connected to whom while all is well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Everybody to everybody.
    Complete,
    /// Each to the next.
    Line,
    /// A line whose ends meet.
    Ring,
    /// Everybody to peer 0.
    Star,
}

impl Shape {
    /// Whether two peers (the lower number first) of `count` are neighbours.
    pub(super) fn joins(self, a: usize, b: usize, count: usize) -> bool {
        match self {
            Shape::Complete => true,
            Shape::Line => b == a + 1,
            Shape::Ring => b == a + 1 || (a == 0 && b == count - 1),
            Shape::Star => a == 0,
        }
    }
}

/// Chances, in thousandths, per occasion.
#[derive(Clone, Debug, Default)]
pub struct Chances {
    /// A connection breaks; per connection and 100 ms.
    pub breaks: u64,
    /// A connection stands still for seconds.
    pub stalls: u64,
    /// Two peers cannot reach each other for seconds; per pair and 100 ms.
    pub partitions: u64,
    /// A frame is damaged, repeated or swapped with the next.
    pub tampers: u64,
    /// A peer loses power; per peer and 100 ms.
    pub crashes: u64,
    /// A peer is shut down and started again; per peer and 100 ms.
    pub restarts: u64,
    /// A commit fails.
    pub commit_fails: u64,
    /// A commit meets a power cut.
    pub commit_cut: u64,
    /// A dial finds the pair connected and dials all the same.
    pub double_dials: u64,
}

/// Of either kind: each has a key of its own, made of one byte.
const MEMBERS_MAX: usize = 100;

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that all of it, and everything random later, comes from.
    pub seed: u64,
    /// Peers; a seed has 2 to 6.
    pub peers: usize,
    /// Who may write in each space, and whose space it is.
    pub spaces: Vec<(Writers, usize)>,
    /// Whether the stores are redb over the faulty disk, or maps.
    pub redb: bool,
    /// Connections while healing.
    pub shape: Shape,
    /// Connections during the faults.
    pub faulty_shape: Shape,
    /// Length of the phase of faults, ms.
    pub faults_ms: u64,
    /// Mean time between two actions of an app, ms.
    pub app_ms: u64,
    /// When each peer is started for the first time, ms.
    pub starts: Vec<u64>,
    /// What fails how often.
    pub chances: Chances,
    /// Bytes a millisecond of the slowest links; 0 if all are fast.
    pub slow_bytes_per_ms: u64,
    /// Longest time that a commit takes, ms.
    pub commit_ms: u64,
    /// Every peer's limits.
    pub limits: Limits,
    /// Members that lie, besides the honest peers.
    pub liars: usize,
    /// Mean time between two lies of one liar, ms.
    pub lie_ms: u64,
    /// Whether they go on while the others come to agree, with what brings nothing new.
    pub lies_on: bool,
    /// From when on honest peers meet no other until healing begins, ms. What liars tell each of them meanwhile, each builds
    /// upon.
    pub apart_from: Option<u64>,
    /// Whether apps pack documents.
    pub packs: bool,
    /// Whether administrators make others, and take rights back.
    pub revokes: bool,
    /// Whether what peers may send for others is bounded now and then: who has spent it turns leaf until it is allowed more.
    pub spends: bool,
}

impl Plan {
    /// What a seed means.
    pub fn of(seed: u64) -> Plan {
        let rng = &mut Rng::new(seed ^ 0x5eed_0001);
        let peers = 2 + rng.below(5) as usize;
        let spaces = 1 + usize::from(rng.below(3) == 0);
        let spaces = (0..spaces).map(|_| {
            let writers = if rng.below(2) == 0 { Writers::Granted } else { Writers::Anyone };
            (writers, rng.below(peers as u64) as usize)
        });
        let spaces: Vec<(Writers, usize)> = spaces.collect();
        let shapes = [Shape::Complete, Shape::Line, Shape::Ring, Shape::Star];
        let shape = |rng: &mut Rng| shapes[rng.below(4) as usize];
        let (shape, faulty_shape) = (shape(rng), shape(rng));
        let faults_ms = 5_000 + rng.below(25_000);
        let starts = (0..peers).map(|_| if rng.below(3) == 0 { rng.below(faults_ms) } else { rng.below(100) });
        let starts = starts.collect();
        // Each kind of fault is absent, rare or frequent, each by itself: rare combinations are where the faults are.
        let mut chance = |most: u64| [0, 0, most.div_ceil(4), most][rng.below(4) as usize];
        let chances = Chances {
            breaks: chance(30),
            stalls: chance(20),
            partitions: chance(10),
            tampers: chance(10),
            crashes: chance(12),
            restarts: chance(12),
            commit_fails: chance(20),
            commit_cut: chance(20),
            double_dials: chance(50),
        };
        let mut limits = Limits::default();
        if rng.below(4) == 0 {
            limits.resident_bytes_max = 4 << 10;
        }
        if rng.below(4) == 0 {
            limits.waiting_bytes_per_peer = 2 << 10;
            limits.waiting_bytes_total = 4 << 10;
        }
        if rng.below(6) == 0 {
            limits.unsolicited_entries_per_s = 4;
        }
        if rng.below(4) == 0 {
            limits.ride_bytes = 200;
        }
        if rng.below(4) == 0 {
            limits.send_queue_bytes_max = 1 << 10;
        }
        if rng.below(6) == 0 {
            limits.handles_per_connection = 2;
        }
        let revokes = rng.below(3) > 0;
        // Where anybody writes there is little to take back.
        let granted = |(writers, root)| (if revokes { Writers::Granted } else { writers }, root);
        let spaces: Vec<(Writers, usize)> = spaces.into_iter().map(granted).collect();
        Plan {
            seed,
            peers,
            spaces,
            redb: seed % 2 == 1,
            shape,
            faulty_shape,
            faults_ms,
            app_ms: [60, 200, 600][rng.below(3) as usize],
            starts,
            chances,
            slow_bytes_per_ms: [0, 0, 1, 20][rng.below(4) as usize],
            commit_ms: [1, 5, 40, 800][rng.below(4) as usize],
            limits,
            liars: 0,
            lie_ms: 200,
            lies_on: false,
            apart_from: None,
            packs: true,
            revokes,
            spends: seed % 5 == 4,
        }
    }

    /// The plan with its numbers made to fit each other: 1 to 100 peers, at most 100 liars, a start and a root for each.
    pub(super) fn fitted(mut self) -> Plan {
        self.peers = self.peers.clamp(1, MEMBERS_MAX);
        self.liars = self.liars.min(MEMBERS_MAX);
        self.starts.resize(self.peers, 0);
        self.spaces.iter_mut().for_each(|(_, root)| *root %= self.peers);
        for each in [&mut self.app_ms, &mut self.commit_ms, &mut self.lie_ms] {
            *each = (*each).max(1);
        }
        self
    }

    /// The same among liars. Runs are shorter: what liars do takes no patience.
    pub fn with_liars(seed: u64) -> Plan {
        let plan = Plan::of(seed);
        let rng = &mut Rng::new(seed ^ 0x11a5);
        // Nine of ten lie, and two honest peers know nobody else for most of the time.
        let eclipse = rng.below(10) == 0;
        let peers = if eclipse { 2 } else { 2 + rng.below(3) as usize };
        let liars = if eclipse { 18 } else { 1 + rng.below(3) as usize };
        let faults_ms = 3_000 + rng.below(7_000);
        let calm = rng.below(2) == 0;
        let apart = (seed % 5 == 3).then_some(faults_ms / 3);
        Plan {
            peers,
            spaces: plan.spaces.iter().map(|(writers, root)| (*writers, root % peers)).collect(),
            starts: plan.starts.iter().map(|at| at % (faults_ms / 2)).take(peers).chain([0; 8]).take(peers).collect(),
            faults_ms,
            chances: if calm { Chances::default() } else { Chances { tampers: 0, ..plan.chances.clone() } },
            limits: if calm { Limits::default() } else { plan.limits.clone() },
            commit_ms: plan.commit_ms.min(40),
            app_ms: plan.app_ms.min(200),
            liars,
            lie_ms: if eclipse { 1_000 } else { [60, 200][rng.below(2) as usize] },
            lies_on: rng.below(3) == 0,
            apart_from: if eclipse { Some(0) } else { apart },
            packs: rng.below(4) == 0,
            revokes: rng.below(3) == 0,
            ..plan
        }
    }
}
