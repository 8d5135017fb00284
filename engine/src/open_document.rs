//! One open document: its view, the entries that wait for the next frame, the edits that wait for the next flush.
//!
//! A small task per open document keeps the time; edits and reads happen in the caller's task under the view's lock.
//! The driver never takes that lock: it leaves entries and verdicts in the inbox.
//!
//! Architecture Invariant: batches of edits reach the driver in the order in which they were flushed, because they are
//! handed over under the view's lock.

pub(crate) mod foreign;
mod inbox;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use commonhold_sync::chain::Opening;
use commonhold_sync::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use commonhold_sync::log::Header;
use commonhold_sync::peer::{Local, LocalError};
use tokio::sync::mpsc::Permit;
use tokio::sync::{MutexGuard, Notify, oneshot};
use tokio::time::{Duration, Instant, sleep_until};

use crate::document::{Applied, ChainAuthor, Edit, EditError, View};
use crate::error::{EditFailure, Error};
use crate::quarantine::{DocumentBudget, Excess, Measure};
use crate::shared::{Command, Reply, Shared, locked};
use crate::status::{Cost, NodeEvent};
use crate::storage::Storage;
use crate::watch::{Change, Origin, Queue, whole};
use crate::worker::{self, Unloaded};
use inbox::{Inbox, Reload, Work};

/// Batches of edits that are not on disk yet; beyond it edits gather in the view.
const UNSAVED_MAX: u64 = 64;
/// Bytes of entries that are applied without leaving the runtime's thread: a millisecond's work at most.
const APPLY_HERE_BYTES: usize = 4 << 10;
/// Watchers of one document.
const WATCHERS_MAX: usize = 1_024;

pub(crate) struct OpenDocument {
    pub(crate) space: SpaceId,
    pub(crate) doc: DocId,
    shared: Arc<Shared>,
    view: Arc<tokio::sync::Mutex<Shown>>,
    inbox: Mutex<Inbox>,
    wake: Notify,
    /// Batches handed over, and those that have their verdict.
    submitted: AtomicU64,
    resolved: AtomicU64,
    /// Edits in the view that were not handed over.
    dirty: AtomicBool,
    /// Counts what changes the view, for whoever talks with a client about it.
    moves: tokio::sync::watch::Sender<u64>,
    pub(crate) handles: AtomicUsize,
    pub(crate) used: AtomicU64,
    /// Rough memory cost, as of the last load.
    pub(crate) bytes: AtomicUsize,
}

/// What is under the view's lock.
pub(crate) struct Shown {
    state: State,
    opening: Option<Opening>,
    watchers: Vec<Weak<Queue>>,
    last_flush: Option<Instant>,
    header: Header,
    quarantined: Vec<EntryId>,
    snapshot_bytes: u64,
    load_ms: u64,
}

enum State {
    Loading,
    Ready(Box<View>),
    /// The view cannot be had; the next open tries again.
    Failed(Error),
}

impl OpenDocument {
    /// A document that is being opened, and the task that opens it.
    pub(crate) fn spawn(shared: &Arc<Shared>, space: SpaceId, doc: DocId) -> Arc<OpenDocument> {
        let shown = Shown {
            state: State::Loading,
            opening: None,
            watchers: Vec::new(),
            last_flush: None,
            header: Header { creator: DeviceId([0; 32]), kind: String::new(), name: String::new() },
            quarantined: Vec::new(),
            snapshot_bytes: 0,
            load_ms: 0,
        };
        let open = Arc::new(OpenDocument {
            space,
            doc,
            shared: shared.clone(),
            view: Arc::new(tokio::sync::Mutex::new(shown)),
            inbox: Mutex::new(Inbox::new()),
            wake: Notify::new(),
            submitted: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            moves: tokio::sync::watch::Sender::new(0),
            handles: AtomicUsize::new(0),
            used: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
        });
        tokio::spawn(open.clone().run());
        open
    }

    /// Tells the task something.
    fn leave<T>(&self, f: impl FnOnce(&mut Inbox) -> T) -> T {
        let result = f(&mut locked(&self.inbox));
        self.wake.notify_one();
        result
    }

    // What the driver tells.

    pub(crate) fn entries(&self, entries: Vec<(EntryId, Vec<u8>)>, from: Option<DeviceId>) {
        let frame = Duration::from_millis(self.shared.config.frame_ms);
        self.leave(|inbox| inbox.add(entries, from, Instant::now(), frame));
    }

    pub(crate) fn reload(&self) {
        self.leave(|inbox| _ = inbox.reload.get_or_insert(Reload::Keep));
    }

    /// Other entries count than before.
    pub(crate) fn reshow(&self) {
        self.leave(|inbox| inbox.reshow(Instant::now()));
    }

    /// The view is about to be read from a store that will hold everything told so far.
    pub(crate) fn superseded(&self) {
        locked(&self.inbox).clear();
    }

    pub(crate) fn opening(&self, opening: Opening) {
        self.leave(|inbox| inbox.opening = Some(opening));
    }

    pub(crate) fn deleted(&self) {
        self.withhold(Error::Deleted(self.doc));
    }

    /// It is shown no more, and no longer watched, for this reason.
    pub(crate) fn withhold(&self, why: Error) {
        self.leave(|inbox| inbox.withheld = Some(why));
        self.shared.moved();
    }

    /// The verdict on a batch of edits.
    pub(crate) fn resolved(&self, number: u64, result: Result<(), LocalError>) {
        if let Err(why) = result {
            tracing::warn!(space = %self.space, doc = %self.doc, %why, "edits were not saved and are taken back");
            let error = self.shared.local_error(why, self.space, Some(self.doc));
            self.leave(|inbox| {
                let why = inbox.discard(error);
                inbox.lost.add(why);
            });
        }
        self.resolved.fetch_max(number, Ordering::AcqRel);
        self.shared.moved();
    }

    /// The store was opened again: what was not saved is lost, and chains are new.
    pub(crate) fn discard(&self) {
        self.leave(|inbox| _ = inbox.discard(self.shared.no_reply()));
    }

    /// Notes what the view costs by now, unless somebody is at it.
    pub(crate) fn weigh(&self) {
        if let Ok(shown) = self.view.try_lock()
            && let State::Ready(view) = &shown.state
        {
            self.bytes.store(view.cost().bytes_estimate, Ordering::Relaxed);
        }
    }

    /// Nothing of it is unsaved or about to be shown.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_unsaved() && self.handles.load(Ordering::Relaxed) == 0
    }

    fn is_unsaved(&self) -> bool {
        self.dirty.load(Ordering::Acquire) || self.unsaved() > 0
    }

    /// Batches handed over that have no verdict.
    pub(crate) fn unsaved(&self) -> u64 {
        self.submitted.load(Ordering::Acquire).saturating_sub(self.resolved.load(Ordering::Acquire))
    }

    pub(crate) fn is_saved(&self) -> (bool, u64) {
        (!self.is_unsaved(), self.unsaved() + u64::from(self.dirty.load(Ordering::Acquire)))
    }

    /// Ends the task.
    pub(crate) fn close(&self) {
        self.leave(|inbox| inbox.closed = true);
    }

    // The task.

    async fn run(self: Arc<Self>) {
        loop {
            let (due, work) = locked(&self.inbox).next(Instant::now());
            match work {
                Work::End => break,
                Work::Reload(reload) => {
                    self.make_again(reload).await;
                    locked(&self.inbox).remade();
                    self.shared.moved();
                }
                Work::Withhold(why) => self.hide(why).await,
                Work::Apply => self.apply().await,
                Work::Flush => {
                    let mut shown = self.view.lock().await;
                    // The reason is kept for whoever flushes next.
                    if let Err(error) = self.hand_over(&mut shown).await {
                        tracing::debug!(doc = %self.doc, %error, "not flushed");
                    }
                }
                Work::Wait => tokio::select! {
                    () = self.wake.notified() => {}
                    () = sleep_until(due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600))) => {}
                },
            }
        }
        self.view.lock().await.end_watchers();
    }

    fn moved(&self) {
        self.moves.send_modify(|count| *count += 1);
    }

    async fn make_again(self: &Arc<Self>, reload: Reload) {
        let mut shown = self.view.clone().lock_owned().await;
        let unsaved = match reload {
            Reload::Keep => {
                let handed = self.hand_over(&mut shown).await;
                let _ = self.shared.until(|| self.unsaved() == 0).await;
                handed
            }
            Reload::Discard(why) => Err(why),
        };
        let made = self.load(&shown).await;
        match made {
            Ok(made) => {
                for (id, why) in &made.hidden {
                    tracing::debug!(space = %self.space, doc = %self.doc, %id, why, "an entry is not shown");
                }
                let mut view = made.view;
                self.bytes.store(view.cost().bytes_estimate, Ordering::Relaxed);
                shown.quarantined.extend(made.quarantined);
                (shown.header, shown.snapshot_bytes, shown.load_ms) = (made.header, made.snapshot_bytes, made.load_ms);
                let watched = !shown.watchers.is_empty() && !made.deleted;
                let patches = match &mut shown.state {
                    State::Ready(old) if watched => old.patches_to(&mut view),
                    _ => None,
                };
                match patches {
                    Some(patches) => shown.tell(Origin::Rebuilt, patches, &view.heads()),
                    None => shown.each_watcher(Queue::reset),
                }
                view.watch(!shown.watchers.is_empty());
                shown.state = match made.deleted {
                    false => State::Ready(Box::new(view)),
                    true => State::Failed(Error::Deleted(self.doc)),
                };
            }
            Err(Error::StoreFailed(_)) if matches!(shown.state, State::Ready(_)) => {
                // What is shown stays shown; when the store is open again, a reload is asked for.
                tracing::debug!(doc = %self.doc, "the view waits for the store");
                return;
            }
            Err(error) => {
                shown.state = State::Failed(error);
                shown.end_watchers();
            }
        }
        if let Err(why) = unsaved {
            self.lose(why);
        }
        drop(shown);
        self.moved();
        self.shared.moved();
    }

    /// Notes that what the view was gathering is lost. Called under its lock.
    fn lose(&self, why: Error) {
        if self.dirty.swap(false, Ordering::AcqRel) {
            locked(&self.inbox).lost.add(why);
        }
    }

    async fn load(&self, shown: &Shown) -> Result<worker::Made, Error> {
        let (reply, ready) = oneshot::channel();
        // The answer is as of when the driver reads this; what it says while the answer waits for the disk is newer.
        locked(&self.inbox).opening = None;
        self.shared.may_show(&self.space, &self.doc)?;
        self.shared.command(Command::Prepare { space: self.space, doc: self.doc, reply }).await?;
        let opening = ready.await.map_err(|_| self.shared.no_reply())?;
        locked(&self.inbox).prepared(opening);
        let (space, doc, quarantined) = (self.space, self.doc, shown.quarantined.clone());
        let budget = self.shared.budget_of(&space, &doc);
        let load = move |storage: &Storage| worker::load(storage, &space, &doc, &quarantined, &budget);
        match self.shared.blocking(load).await? {
            Ok(made) => made.ok_or(Error::UnknownDocument(doc)),
            Err(Unloaded::Damaged(why)) => Err(Error::Damaged { doc, why }),
            Err(Unloaded::Over(excess)) => Err(self.shared.set_aside(space, doc, excess).await),
        }
    }

    async fn hide(&self, why: Error) {
        let mut shown = self.view.lock().await;
        if matches!(why, Error::Quarantined { .. }) {
            // What was edited is kept as all entries are.
            if let Err(why) = self.hand_over(&mut shown).await {
                self.lose(why);
            }
        }
        shown.state = State::Failed(why);
        shown.end_watchers();
        self.dirty.store(false, Ordering::Release);
        self.moved();
    }

    /// Shows what has come since the last frame.
    async fn apply(&self) {
        let (entries, from) = locked(&self.inbox).begin_frame(Instant::now());
        let mut shown = self.view.clone().lock_owned().await;
        let bytes: usize = entries.iter().map(|(_, bytes)| bytes.len()).sum();
        // Off the runtime: a batch may be large, and the first one pays for checking what was loaded.
        let elsewhere = bytes > APPLY_HERE_BYTES || !shown.is_checked();
        let budget = self.shared.budget_of(&self.space, &self.doc);
        let mut work = move || (shown.apply(&entries, from), shown.excess(&budget));
        let done = match elsewhere {
            true => tokio::task::spawn_blocking(work).await.ok(),
            false => Some(work()),
        };
        let Some((Some(applied), excess)) = done else { return self.reload() };
        self.moved();
        for (id, fault) in &applied.invalid {
            self.shared.emit(NodeEvent::Notice {
                peer: from,
                space: Some(self.space),
                doc: Some(self.doc),
                code: "M1".into(),
                text: format!("entry {id} is invalid and not shown: {fault}"),
            });
        }
        if applied.broken || applied.bad_base.is_some() {
            return self.reload();
        }
        if let Some(excess) = excess {
            let why = self.shared.set_aside(self.space, self.doc, excess).await;
            self.withhold(why);
        }
    }

    // What handles do.

    /// The view, once it is there.
    async fn ready(&self) -> Result<MutexGuard<'_, Shown>, Error> {
        loop {
            let mut moved = self.shared.progress.subscribe();
            let shown = self.view.lock().await;
            match &shown.state {
                State::Ready(_) => return Ok(shown),
                State::Failed(error) if !locked(&self.inbox).is_remade() => return Err(error.clone()),
                State::Failed(_) | State::Loading => drop(shown),
            }
            if locked(&self.inbox).closed {
                return Err(self.shared.no_reply());
            }
            moved.changed().await.map_err(|_| Error::Closed)?;
        }
    }

    pub(crate) async fn read<T>(&self, f: impl FnOnce(&View) -> T) -> Result<T, Error> {
        let mut shown = self.ready().await?;
        Ok(f(shown.view()?))
    }

    pub(crate) async fn read_mut<T>(&self, f: impl FnOnce(&mut View) -> T) -> Result<T, Error> {
        let mut shown = self.ready().await?;
        Ok(f(shown.view()?))
    }

    pub(crate) async fn edit<T, E>(
        &self,
        at: Option<&[EntryId]>,
        f: impl FnOnce(&mut Edit<'_>) -> Result<T, E> + Send,
    ) -> Result<T, EditFailure<E>> {
        self.shared.running()?;
        self.shared.may_write(&self.space)?;
        let mut shown = self.ready().await?;
        if let Some(excess) = shown.excess(&self.shared.budget_of(&self.space, &self.doc)) {
            // What was edited before leaves first.
            self.hand_over(&mut shown).await?;
            let why = self.shared.set_aside(self.space, self.doc, excess).await;
            self.withhold(why.clone());
            return Err(why.into());
        }
        self.take_opening(&mut shown)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let view = shown.view()?;
        view.set_time(now);
        let f = |edit: &mut Edit<'_>| f(edit).map_err(EditFailure::App);
        let result = match at {
            None => view.edit(f),
            Some(version) => view.edit_at(version, f),
        };
        let result = result.inspect_err(|error| {
            if matches!(error, EditFailure::Engine(Error::Edit(EditError::Broken))) {
                self.reload();
            }
        })?;
        if !view.has_unflushed() {
            return Ok(result);
        }
        self.dirty.store(true, Ordering::Release);
        let now = Instant::now();
        let gather = Duration::from_millis(self.shared.config.flush_ms);
        let due = shown.last_flush.map_or(now, |last| last + gather);
        let leaves = due <= now && self.unsaved() < UNSAVED_MAX;
        match leaves.then(|| self.shared.commands.try_reserve()) {
            Some(Ok(room)) => self.hand(&mut shown, room)?,
            // The document's task hands it over: a caller may give up waiting.
            _ => self.leave(|inbox| _ = inbox.flush_due.get_or_insert(due)),
        }
        Ok(result)
    }

    /// Closes the change that is being gathered, without handing it over.
    pub(crate) async fn commit(&self) -> Result<(), Error> {
        let mut shown = self.ready().await?;
        let closed = shown.view()?.commit();
        shown.tell_local();
        closed.map_err(|_| EditError::Broken.into())
    }

    /// Losses of edits that some flush has told.
    pub(crate) fn told(&self) -> u64 {
        locked(&self.inbox).lost.told()
    }

    /// Returns when every edit so far is on disk. What was lost is told if nobody was told yet.
    pub(crate) async fn flush(&self) -> Result<Vec<EntryId>, Error> {
        self.flush_for(&AtomicU64::new(self.told()), View::heads).await
    }

    /// The same for somebody who knows of this many losses, and is told of every later one. Reads the view at the version that is saved.
    pub(crate) async fn flush_for<T>(&self, known: &AtomicU64, read: impl FnOnce(&View) -> T) -> Result<T, Error> {
        // As of now, so that two who share it and wait at once are both told.
        let before = known.load(Ordering::Acquire);
        let flushed = self.save(read).await;
        match locked(&self.inbox).lost.tell(before) {
            Some((count, why)) => {
                known.fetch_max(count, Ordering::AcqRel);
                Err(why)
            }
            None => flushed,
        }
    }

    async fn save<T>(&self, read: impl FnOnce(&View) -> T) -> Result<T, Error> {
        // What others save is on its way: the edits of all who come meanwhile leave together, as one change with one signature.
        let before = self.submitted.load(Ordering::Acquire);
        if self.unsaved() > 0 {
            self.shared.until(|| self.resolved.load(Ordering::Acquire) >= before).await?;
        }
        let (read, number) = {
            let mut shown = self.ready().await?;
            self.hand_over(&mut shown).await?;
            (read(shown.view()?), self.submitted.load(Ordering::Acquire))
        };
        self.shared.until(|| self.resolved.load(Ordering::Acquire) >= number).await?;
        Ok(read)
    }

    /// The edits that are gathered leave for the driver, once it has room.
    async fn hand_over(&self, shown: &mut Shown) -> Result<(), Error> {
        let State::Ready(view) = &mut shown.state else { return Ok(()) };
        if !view.has_unflushed() {
            // An edit that broke the view has taken with it what was gathered.
            self.lose(EditError::Broken.into());
            return Ok(());
        }
        if self.unsaved() >= UNSAVED_MAX {
            self.shared.until(|| self.unsaved() < UNSAVED_MAX).await?;
        }
        let room = self.shared.commands.reserve().await.map_err(|_| Error::Closed)?;
        self.hand(shown, room)
    }

    /// The same where the driver has room. Nothing in here waits: a batch that is out of the view has to leave, even if
    /// nobody waits for it any more.
    fn hand(&self, shown: &mut Shown, room: Permit<'_, Command>) -> Result<(), Error> {
        let State::Ready(view) = &mut shown.state else { return Ok(()) };
        let opening = shown.opening.clone().ok_or(Error::Internal("an edit without a chain"))?;
        let this = self.shared.open_document(self.space, self.doc);
        let this = this.filter(|this| std::ptr::eq(&**this, self)).ok_or(Error::Closed)?;
        let Ok(entries) = view.flush() else {
            self.lose(EditError::Broken.into());
            self.reload();
            return Err(EditError::Broken.into());
        };
        shown.last_flush = Some(Instant::now());
        shown.tell_local();
        self.leave(|inbox| inbox.flush_due = None);
        if !entries.is_empty() {
            let number = self.submitted.fetch_add(1, Ordering::AcqRel) + 1;
            let entries = entries.into_iter().map(|entry| entry.bytes).collect();
            let local = Local::Entries { doc: self.doc, opening, entries };
            room.send(Command::Say { space: self.space, local, reply: Reply::Document(this, number) });
            self.moved();
        }
        self.dirty.store(false, Ordering::Release);
        Ok(())
    }

    /// Goes on under the chain that the driver names.
    fn take_opening(&self, shown: &mut Shown) -> Result<(), Error> {
        let named = locked(&self.inbox).opening.take();
        // A change under the old chain that has not left yet leaves under the old chain.
        if let Some(opening) = named {
            if shown.opening.is_some() && shown.view()?.has_unflushed() {
                locked(&self.inbox).opening.get_or_insert(opening);
                return Ok(());
            }
            shown.opening = Some(opening);
        }
        let opening = shown.opening.clone().ok_or(Error::Internal("a document without a chain"))?;
        let chain: ChainId = opening.chain(&self.space, &self.doc);
        let author = ChainAuthor { actor: chain.0, device: opening.device.0 };
        shown.view()?.set_chain(author).map_err(|_| EditError::Broken.into())
    }

    pub(crate) async fn header(&self) -> Result<Header, Error> {
        Ok(self.ready().await?.header.clone())
    }

    pub(crate) async fn cost(&self) -> Result<Cost, Error> {
        let mut shown = self.ready().await?;
        let (snapshot_bytes, load_ms) = (shown.snapshot_bytes, shown.load_ms);
        let cost = shown.view()?.cost();
        self.bytes.store(cost.bytes_estimate, Ordering::Relaxed);
        Ok(Cost {
            changes: cost.changes,
            ops: cost.ops,
            actors: cost.actors,
            memory_bytes: cost.bytes_estimate,
            snapshot_bytes,
            load_ms,
        })
    }

    /// Enters a watcher; the document as it is now.
    pub(crate) async fn begin_watch(&self, queue: &Arc<Queue>) -> Option<Change> {
        let mut shown = self.ready().await.ok()?;
        shown.watchers.retain(|watcher| watcher.strong_count() > 0);
        if shown.watchers.len() >= WATCHERS_MAX {
            tracing::warn!(doc = %self.doc, "too many watchers");
            return None;
        }
        // What was closed before this watch is in the whole.
        let view = shown.view().ok()?;
        if view.commit().is_err() {
            return None;
        }
        shown.tell_local();
        shown.watchers.push(Arc::downgrade(queue));
        let view = shown.view().ok()?;
        view.watch(true);
        Some(whole(view))
    }

    /// The document as it is now, for a watcher that fell behind.
    pub(crate) async fn whole(&self, queue: &Queue) -> Option<Change> {
        let mut shown = self.ready().await.ok()?;
        shown.view().ok()?.commit().ok()?;
        shown.tell_local();
        queue.caught_up();
        Some(whole(shown.view().ok()?))
    }
}

impl Shown {
    /// How the view has outgrown a budget.
    fn excess(&self, budget: &DocumentBudget) -> Option<Excess> {
        let State::Ready(view) = &self.state else { return None };
        if budget.is_none() {
            return None;
        }
        let cost = view.cost();
        budget.excess([
            (Measure::Changes, cost.changes as u64),
            (Measure::Operations, cost.ops as u64),
            (Measure::Memory, cost.bytes_estimate as u64),
        ])
    }

    fn view(&mut self) -> Result<&mut View, Error> {
        match &mut self.state {
            State::Ready(view) => Ok(view),
            State::Failed(error) => Err(error.clone()),
            State::Loading => Err(Error::Internal("a document that is not loaded")),
        }
    }

    fn is_checked(&self) -> bool {
        matches!(&self.state, State::Ready(view) if view.is_checked())
    }

    fn each_watcher(&self, f: impl Fn(&Queue)) {
        self.watchers.iter().filter_map(Weak::upgrade).for_each(|queue| f(&queue));
    }

    /// Nothing more comes to those who watch, even if the document can be shown again: they begin anew.
    fn end_watchers(&mut self) {
        self.each_watcher(Queue::end);
        self.watchers.clear();
    }

    fn apply(&mut self, entries: &[(EntryId, Vec<u8>)], from: Option<DeviceId>) -> Option<Applied> {
        let State::Ready(view) = &mut self.state else { return None };
        let entries: Vec<(EntryId, &[u8])> = entries.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
        // A view that fails on a batch is made again from the store, where the guilty entries are found.
        let mut applied = view.apply_remote(&entries, &mut |_| {});
        let before = applied.heads_before.take();
        self.quarantined.extend(applied.quarantined.iter().copied());
        let local = std::mem::take(&mut applied.local_patches);
        let remote = std::mem::take(&mut applied.patches);
        let heads = view.heads();
        // What was being edited here is a version of its own: who has heard of it only has not heard of the rest.
        self.tell(Origin::Local, local, before.as_ref().unwrap_or(&heads));
        self.tell(from.map_or(Origin::Local, Origin::Remote), remote, &heads);
        Some(applied)
    }

    fn tell_local(&mut self) {
        let State::Ready(view) = &mut self.state else { return };
        let (patches, heads) = (view.take_local_patches(), view.heads());
        self.tell(Origin::Local, patches, &heads);
    }

    fn tell(&mut self, origin: Origin, patches: Vec<crate::document::Patch>, heads: &[EntryId]) {
        if patches.is_empty() {
            return;
        }
        let change = Change { origin, patches, heads: heads.to_vec() };
        self.each_watcher(|queue| queue.push(&change));
        self.watchers.retain(|watcher| watcher.strong_count() > 0);
        if self.watchers.is_empty()
            && let State::Ready(view) = &mut self.state
        {
            view.watch(false);
        }
    }
}

impl std::fmt::Debug for OpenDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenDocument").field("space", &self.space).field("doc", &self.doc).finish_non_exhaustive()
    }
}
