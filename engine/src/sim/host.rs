//! One machine: what outlives a crash (disk, key), and what does not (peer, app, work under way).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::storage::{Facts, Storage};
use crate::store::Batch;
use crate::store::faulty::Rng;
use commonhold_sync::id::{DeviceId, SpaceId, StoreId};
use commonhold_sync::peer::{ConnId, OpId, Peer, Start, StoreOp};
use commonhold_sync::record::Genesis;
use ed25519_dalek::SigningKey;

use super::app::Apps;
use super::disk::{CommitFault, Committed, Disk};
use super::ledger::Ledger;
use super::plan::{Canary, Plan};
use super::screen::Screen;

pub(super) struct Host {
    pub(super) index: usize,
    key: SigningKey,
    pub(super) disk: Disk,
    /// Counts runs, so that work of an earlier one is told apart.
    pub(super) boot: u64,
    /// The last run ended as it should, and its chains go on.
    pub(super) clean: bool,
    salt: [u8; 8],
    /// Spaces that the app has joined; said again at each start.
    pub(super) joined: Vec<(SpaceId, Option<Genesis>)>,
    pub(super) run: Option<Run>,
    segments_stored: u64,
}

/// A process.
pub(super) struct Run {
    pub(super) peer: Peer,
    pub(super) storage: Storage,
    pub(super) screen: Screen,
    /// What the peer wants stored, oldest first.
    pub(super) commits: VecDeque<(OpId, Vec<StoreOp>)>,
    /// A commit is under way.
    pub(super) committing: bool,
    /// Reads under way.
    pub(super) loads: usize,
    /// A chain turned out not to be known to its end: the next run goes on with none.
    pub(super) chain_lost: bool,
    /// Who is on each connection.
    pub(super) connected: BTreeMap<ConnId, DeviceId>,
    /// With whom of them the peer is level, in which space.
    pub(super) level: BTreeSet<(DeviceId, SpaceId)>,
}

impl Run {
    fn new(peer: Peer, storage: Storage, screen: Screen) -> Run {
        Run {
            peer,
            storage,
            screen,
            commits: VecDeque::new(),
            committing: false,
            loads: 0,
            chain_lost: false,
            connected: BTreeMap::new(),
            level: BTreeSet::new(),
        }
    }

    pub(super) fn parted(&mut self, conn: ConnId) {
        let gone = self.connected.remove(&conn).filter(|gone| !self.connected.values().any(|other| other == gone));
        self.level.retain(|(with, _)| Some(*with) != gone);
    }
}

impl Host {
    pub(super) fn new(index: usize, plan: &Plan, canary: Option<Canary>) -> Host {
        let lies = canary == Some(Canary::NeverSyncs) && index == 0;
        Host {
            index,
            key: SigningKey::from_bytes(&[index as u8 + 1; 32]),
            disk: Disk::new(plan.redb, !lies),
            boot: 0,
            clean: false,
            salt: [0; 8],
            joined: Vec::new(),
            run: None,
            segments_stored: 0,
        }
    }

    pub(super) fn device(&self) -> DeviceId {
        DeviceId(self.key.verifying_key().to_bytes())
    }

    /// Starts a process on what the disk holds. After a crash the chains of the last run are left, and the sequence leaps.
    pub(super) fn start(&mut self, plan: &Plan, ledger: &Ledger, rng: &mut Rng, apps: &Apps) -> Result<(), String> {
        self.boot += 1;
        let storage = Storage::new(self.disk.open()?);
        ledger.check_store(self.index, &storage)?;
        if !self.clean {
            self.salt = rng.next_u64().to_be_bytes();
            let facts = Facts { salt: Some(self.salt), ..Facts::default() };
            storage.put_facts(&facts, self.boot > 1).map_err(|e| e.to_string())?;
        }
        self.clean = false;
        let stored = storage.start().map_err(|e| e.to_string())?;
        let screen = Screen::open(&storage, plan, apps(self.index))?;
        let seed = rng.bytes(32);
        let seed = seed.try_into().expect("32 bytes were drawn");
        let empty = Start::empty(self.key.clone(), StoreId([self.index as u8 + 1; 16]), self.salt, seed);
        let (limits, spaces) = (plan.limits.clone(), stored.spaces);
        let mut peer = Peer::new(Start { limits, spaces, cursors: stored.cursors, usage: stored.usage, ..empty });
        // Half of them ask their drivers whom to keep.
        peer.set_asks(peer.device().0[0].is_multiple_of(2));
        self.run = Some(Run::new(peer, storage, screen));
        Ok(())
    }

    /// Writes the next operations, several in one transaction if it falls out so. Says which, and how it ended.
    pub(super) fn commit(
        &mut self,
        fault: CommitFault,
        canary: Option<Canary>,
        rng: &mut Rng,
    ) -> (Vec<OpId>, Committed) {
        let Some(run) = &mut self.run else { return (Vec::new(), Committed::Done) };
        // The engine's writer takes all that waits; half the time some of it comes just too late.
        let few = 1 + rng.below(4) as usize;
        let most = if rng.below(2) == 0 { few } else { usize::MAX };
        let (mut batch, mut done) = (Batch::new(), Vec::new());
        while done.len() < most {
            // What reads back what was written before comes first in its transaction.
            let reads = |op: &StoreOp| matches!(op, StoreOp::Snapshot { .. } | StoreOp::Drop { .. });
            if !done.is_empty() && run.commits.front().is_some_and(|(_, ops)| ops.iter().any(reads)) {
                break;
            }
            let Some((op, mut ops)) = run.commits.pop_front() else { break };
            if canary == Some(Canary::DropsThirdSegment) && self.index == 0 {
                ops.retain(|op| {
                    let segment = matches!(op, StoreOp::Segment { .. });
                    self.segments_stored += u64::from(segment);
                    !segment || !self.segments_stored.is_multiple_of(3)
                });
            }
            done.push(op);
            if run.storage.write(ops, &mut batch).is_err() {
                return (done, Committed::Failed);
            }
        }
        let ended = self.disk.commit(&**run.storage.store(), batch, fault, rng);
        (done, ended)
    }
}
