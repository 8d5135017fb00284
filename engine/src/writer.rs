//! The one thread that writes. While a commit is under way, further operations queue and become the next transaction
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

/// The writing thread's owner. Dropping it lets the thread end once it has written what it was given.
pub(crate) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `tell` is called on it.
    pub(crate) fn start(storage: Storage, tell: impl Fn(Written) + Send + 'static) -> std::io::Result<Writer> {
        let (jobs, queue) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name("commonhold-writer".into()).spawn(move || run(&storage, &queue, &tell))?;
        Ok(Writer { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Queues a job. What comes after a failure is dropped.
    pub(crate) fn give(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends early only after a failure that it has told.
            let _ = jobs.send(job);
        }
    }

    /// Waits until everything is written and the store is let go of. Blocks.
    pub(crate) fn finish(mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been told as a failure of the store already.
            let _ = thread.join();
        }
    }
}

fn run(storage: &Storage, queue: &mpsc::Receiver<Job>, tell: &impl Fn(Written)) {
    while let Ok(first) = queue.recv() {
        let mut group = Group { batch: Batch::new(), ops: Vec::new() };
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

struct Group {
    batch: Batch,
    ops: Vec<OpId>,
}

impl Group {
    fn add(&mut self, storage: &Storage, job: Job, tell: &impl Fn(Written)) -> Result<(), (OpId, StoreError)> {
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

    fn commit(&mut self, storage: &Storage, tell: &impl Fn(Written)) -> Result<(), (OpId, StoreError)> {
        let Some(first) = self.ops.first().copied() else { return Ok(()) };
        storage.store().commit(std::mem::take(&mut self.batch)).map_err(|error| (first, error))?;
        tell(Written::Stored(std::mem::take(&mut self.ops)));
        Ok(())
    }
}
