//! A peer's disk: what it reads back after a crash, and commits that fail on purpose.

use std::sync::Arc;

use crate::store::faulty::{FaultyDisk, Operation, Rng};
use crate::store::{Batch, MemoryStore, Options, RedbStore, Store};

/// What is made to go wrong with one commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CommitFault {
    None,
    /// An error; the process goes on.
    Fails,
    /// The power goes.
    Cut,
}

/// How a commit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Committed {
    Done,
    Failed,
    PowerLost,
}

pub(super) enum Disk {
    /// Maps: a commit that succeeded is durable, of one that did not all is there or nothing.
    Memory(Arc<MemoryStore>),
    /// redb over a disk that loses what was not synced.
    Redb(FaultyDisk),
}

impl Disk {
    pub(super) fn new(redb: bool, syncs: bool) -> Disk {
        match (redb || !syncs, syncs) {
            (false, _) => Disk::Memory(Arc::default()),
            (true, true) => Disk::Redb(FaultyDisk::new()),
            (true, false) => Disk::Redb(FaultyDisk::that_never_syncs()),
        }
    }

    /// The store as a new process finds it.
    pub(super) fn open(&self) -> Result<Arc<dyn Store>, String> {
        match self {
            Disk::Memory(store) => Ok(store.clone()),
            Disk::Redb(disk) => {
                let options = Options { cache_bytes: 1 << 20, ..Options::default() };
                let store = RedbStore::open_backend(disk.backend(), &options);
                Ok(Arc::new(store.map_err(|e| format!("the store does not open after a crash: {e}"))?))
            }
        }
    }

    /// The power goes, and comes back. Stores opened before are dead.
    pub(super) fn crash(&self, seed: u64) {
        if let Disk::Redb(disk) = self {
            disk.crash(seed);
        }
    }

    /// Commits through the open store, with a fault drawn into it.
    pub(super) fn commit(&self, store: &dyn Store, batch: Batch, fault: CommitFault, rng: &mut Rng) -> Committed {
        let ended = match fault {
            CommitFault::None => Committed::Done,
            CommitFault::Fails => Committed::Failed,
            CommitFault::Cut => Committed::PowerLost,
        };
        match self {
            Disk::Memory(_) => {
                if (fault == CommitFault::None || rng.below(2) == 0) && store.commit(batch).is_err() {
                    return Committed::Failed;
                }
                ended
            }
            Disk::Redb(disk) => {
                match fault {
                    CommitFault::None => {}
                    CommitFault::Fails if rng.below(2) == 0 => disk.fail_nth(Operation::Sync, 1 + rng.below(3)),
                    CommitFault::Fails => disk.fail_nth(Operation::Write, 1 + rng.below(8)),
                    CommitFault::Cut => disk.cut_power_after(rng.below(12)),
                }
                // A fault that this commit does not reach stays for a later one.
                match store.commit(batch) {
                    Ok(()) => Committed::Done,
                    Err(_) if fault == CommitFault::None => Committed::PowerLost,
                    Err(_) => ended,
                }
            }
        }
    }
}
