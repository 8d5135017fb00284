//! The one place that writes. While a commit is under way, further operations queue and become the next transaction
//! (group commit): under load the cost of a sync is shared.

use std::sync::mpsc;
use std::thread::JoinHandle;

use commonhold_sync::peer::{OpId, StoreOp};

use crate::storage::Storage;
use crate::store::{Batch, StoreError};

/// Bytes of rows at which a transaction is not made larger.
const BATCH_BYTES: usize = 16 << 20;

/// What the thread is asked.
pub(crate) enum Job {
    /// Write these.
    Commit { op: OpId, ops: Vec<StoreOp> },
    /// Call this when everything before is on disk. Dropped uncalled if the store fails.
    Barrier(Box<dyn FnOnce() + Send>),
}

/// What the thread says.
#[derive(Debug)]
pub(crate) enum Written {
    /// These are on disk, in order.
    Stored(Vec<OpId>),
    /// This one is not, and nothing after it will be.
    Failed(OpId, StoreError),
}

/// Writes what it is given, in order: on a thread of its own if the store blocks, else where it is given. Dropping it
/// lets the thread end once it has written what it was given.
pub(crate) enum Writer {
    Thread { jobs: mpsc::Sender<Job>, thread: JoinHandle<()> },
    Here { storage: Storage, tell: Box<dyn Fn(Written) + Send>, failed: bool },
}

impl Writer {
    /// Begins. `tell` is called on the thread, or during [`Writer::give`].
    pub(crate) fn start(storage: Storage, tell: impl Fn(Written) + Send + 'static) -> std::io::Result<Writer> {
        if !storage.store().blocks() {
            return Ok(Writer::Here { storage, tell: Box::new(tell), failed: false });
        }
        let (jobs, queue) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name("commonhold-writer".into()).spawn(move || run(&storage, &queue, &tell))?;
        Ok(Writer::Thread { jobs, thread })
    }

    /// Queues a job. What comes after a failure is dropped.
    pub(crate) fn give(&mut self, job: Job) {
        match self {
            // The thread ends early only after a failure that it has told.
            Writer::Thread { jobs, .. } => _ = jobs.send(job),
            Writer::Here { storage, tell, failed } if !*failed => {
                let mut group = Group::default();
                let done = group.add(storage, job, tell).and_then(|()| group.commit(storage, tell));
                if let Err((op, error)) = done {
                    *failed = true;
                    tell(Written::Failed(op, error));
                }
            }
            Writer::Here { .. } => {}
        }
    }

    /// Waits until everything is written and the store is let go of. Blocks.
    pub(crate) fn finish(self) {
        if let Writer::Thread { jobs, thread } = self {
            drop(jobs);
            // A panic of the thread has been told as a failure of the store already.
            let _ = thread.join();
        }
    }
}

fn run(storage: &Storage, queue: &mpsc::Receiver<Job>, tell: &dyn Fn(Written)) {
    while let Ok(first) = queue.recv() {
        let mut group = Group::default();
        let mut next = Some(first);
        while let Some(job) = next {
            if let Err((op, error)) = group.add(storage, job, tell) {
                return tell(Written::Failed(op, error));
            }
            next = if group.batch.size_bytes() < BATCH_BYTES { queue.try_recv().ok() } else { None };
        }
        if let Err((op, error)) = group.commit(storage, tell) {
            return tell(Written::Failed(op, error));
        }
    }
}

#[derive(Default)]
struct Group {
    batch: Batch,
    ops: Vec<OpId>,
}

impl Group {
    fn add(&mut self, storage: &Storage, job: Job, tell: &dyn Fn(Written)) -> Result<(), (OpId, StoreError)> {
        match job {
            Job::Commit { op, ops } => {
                if Storage::reads_back(&ops) {
                    self.commit(storage, tell)?;
                }
                self.ops.push(op);
                storage.write(ops, &mut self.batch).map_err(|error| (op, error))
            }
            Job::Barrier(call) => {
                self.commit(storage, tell)?;
                call();
                Ok(())
            }
        }
    }

    fn commit(&mut self, storage: &Storage, tell: &dyn Fn(Written)) -> Result<(), (OpId, StoreError)> {
        let Some(first) = self.ops.first().copied() else { return Ok(()) };
        storage.store().commit(std::mem::take(&mut self.batch)).map_err(|error| (first, error))?;
        tell(Written::Stored(std::mem::take(&mut self.ops)));
        Ok(())
    }
}
