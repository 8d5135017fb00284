//! Watching a document. A watcher that does not keep up is told the whole document again, so its queue has a bound.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use commonhold_sync::id::{DeviceId, EntryId};
use tokio::sync::Notify;

use crate::document::{Patch, PatchAction, View};
use crate::document_handle::Document;

/// Changes that wait for a watcher.
const QUEUE_CHANGES: usize = 256;
/// Patches that wait for a watcher. A patch of a keystroke takes about 150 bytes: 1.5 MiB.
const QUEUE_PATCHES: usize = 10_000;

/// Where a change came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An edit made through this node.
    Local,
    /// Entries that this peer delivered (the last of several).
    Remote(DeviceId),
    /// Nobody's in particular: the view was made again, because other entries count than before (a device signed two
    /// histories, or a right was taken back), or because entries came in a snapshot.
    Rebuilt,
    /// None: the patch is the whole document, at the beginning and whenever single patches were not at hand.
    Reset,
}

/// One update of a watched document. Applied in order, patches give its JSON form.
#[derive(Debug, Clone)]
pub struct Change {
    /// Where it came from.
    pub origin: Origin,
    /// What changed.
    pub patches: Vec<Patch>,
    /// The version that they lead to.
    pub heads: Vec<EntryId>,
}

/// What waits for one watcher.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    changes: VecDeque<Change>,
    patches: usize,
    reset: bool,
    ended: bool,
}

impl Queue {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        // Whole at every point where something could panic.
        let result = f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
        result
    }

    pub(crate) fn push(&self, change: &Change) {
        self.with(|state| {
            if state.reset {
                return;
            }
            state.patches += change.patches.len();
            if state.changes.len() >= QUEUE_CHANGES || state.patches > QUEUE_PATCHES {
                *state = State { reset: true, ended: state.ended, ..State::default() };
                return;
            }
            state.changes.push_back(change.clone());
        });
    }

    /// The next change is the whole document.
    pub(crate) fn reset(&self) {
        self.with(|state| *state = State { reset: true, ended: state.ended, ..State::default() });
    }

    /// There is nothing more to come: the document is deleted or cannot be shown, or the node closed.
    pub(crate) fn end(&self) {
        self.with(|state| state.ended = true);
    }

    /// The next change; `Some(None)` if it is the whole document.
    fn take(&self) -> Option<Option<Change>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.reset {
            return Some(None);
        }
        let change = state.changes.pop_front()?;
        state.patches -= change.patches.len();
        Some(Some(change))
    }

    pub(crate) fn caught_up(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { ended: state.ended, ..State::default() };
    }

    fn ended(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended
    }
}

/// The whole document as one change.
pub(crate) fn whole(view: &View) -> Change {
    let patch = Patch { path: Vec::new(), action: PatchAction::Put { value: view.to_json(), conflict: false } };
    Change { origin: Origin::Reset, patches: vec![patch], heads: view.heads() }
}

/// A watcher of a document. Dropping it ends the watch. It keeps the document open.
#[derive(Debug)]
pub struct Watch {
    document: Document,
    queue: Option<Arc<Queue>>,
}

impl Watch {
    pub(crate) fn new(document: Document) -> Watch {
        Watch { document, queue: None }
    }

    /// The next change, the first being the whole document; `None` when no more can come, because the document is
    /// deleted or damaged, or the node is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change> {
        let queue = match &self.queue {
            Some(queue) => queue.clone(),
            None => {
                let queue = Arc::<Queue>::default();
                let change = self.document.open().begin_watch(&queue).await?;
                self.queue = Some(queue);
                return Some(change);
            }
        };
        loop {
            let news = queue.news.notified();
            match queue.take() {
                Some(Some(change)) => return Some(change),
                Some(None) => return self.document.open().whole(&queue).await,
                None if queue.ended() => return None,
                None => news.await,
            }
        }
    }
}
