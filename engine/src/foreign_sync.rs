//! Sync with clients that sign nothing: today's Automerge apps. Each client and document has one [`ForeignSync`].
//!
//! What a client sends is read with bounds, checked like everything from a stranger, and becomes foreign chains, for which
//! this device vouches. What it is sent is what the document shows, in single changes, once that is on this disk.

use std::collections::{BTreeMap, BTreeSet};

use commonhold_sync::authority::{Authority, Needed};
use commonhold_sync::id::EntryId;
use commonhold_sync::record::{Right, Writers};
use tokio::sync::{oneshot, watch};

use crate::document::StoredChanges;
use crate::document::sync_message::{self, BadChange, BadMessage, SyncMessage, WalkedChange};
use crate::document::sync_state::SyncState;
use crate::document_handle::Document;
use crate::error::Error;
use crate::open_document::foreign::Taken;
use crate::shared::{Command, locked};

/// Bytes of changes of one client that wait for others in one document, as of a peer. Beyond it the client begins anew.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Refused changes remembered, so that they are not asked for again. 2 MiB.
const REFUSED_MAX: usize = 1 << 16;
/// Bytes of a message that is read without leaving the runtime's thread: a millisecond's work at most.
const READ_HERE_BYTES: usize = 16 << 10;

/// Why a client's message came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignSyncError {
    /// The client's fault: nothing of the message was taken.
    #[error(transparent)]
    Message(#[from] BadMessage),
    /// A device has signed two histories of a chain in the document. It is shown under names that Automerge clients do not know.
    #[error("a device signed two histories in this document, which Automerge clients cannot be shown")]
    Forked,
    /// The document or the node.
    #[error(transparent)]
    Engine(#[from] Error),
}

/// What became of a client's message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// Changes that are shown and on disk now, and were not before.
    pub taken: usize,
    /// Changes that wait for what they build upon.
    pub waiting: usize,
    /// Changes that were refused, with the reason: by id, where they have one.
    pub refused: Vec<(Option<EntryId>, String)>,
}

/// What a client wants of a document that is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wants {
    /// To have it.
    It,
    /// To give it, if it is asked with this message.
    ToBeAsked(Vec<u8>),
    /// To give it: changes come with the message.
    ToGive,
}

/// Reads the first message of a client about a document that is not here.
pub fn wants(message: &[u8]) -> Result<Wants, BadMessage> {
    let read = SyncMessage::read(message, &commonhold_sync::limits::Rules::V1)?;
    Ok(match (read.changes.is_empty(), read.heads.is_empty()) {
        (false, _) => Wants::ToGive,
        (true, false) => Wants::ToBeAsked(sync_message::asking(&read.heads)),
        (true, true) => Wants::It,
    })
}

/// The sync of one document with one client. It keeps the document open.
#[derive(Debug)]
pub struct ForeignSync {
    document: Document,
    state: SyncState,
    waiting: BTreeMap<EntryId, WalkedChange>,
    waiting_bytes: usize,
    refused: BTreeSet<EntryId>,
    /// Its changes are not taken, so they are not asked for either.
    read_only: bool,
    moves: watch::Receiver<u64>,
}

impl Document {
    /// Begins to sync the document with an Automerge client.
    pub fn foreign_sync(&self) -> ForeignSync {
        ForeignSync {
            document: self.clone(),
            state: SyncState::default(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            refused: BTreeSet::new(),
            read_only: false,
            moves: self.open().moves(),
        }
    }

    /// Takes raw changes, one after another as [`Document::changes_since`] gives them, of somebody who signs nothing: with the bounds and the
    /// checks of [`ForeignSync::receive`]. Returns when those taken are on disk. What waits for changes that are not here is not kept.
    pub async fn take_changes(&self, bytes: impl AsRef<[u8]> + Send + 'static) -> Result<Received, ForeignSyncError> {
        if !self.may_vouch().await? {
            return Err(Error::NotAllowed("vouch for changes of others").into());
        }
        let rules = self.open().read(|view| view.wire_rules()).await?;
        let work = tokio::task::spawn_blocking(move || SyncMessage::read_changes(bytes.as_ref(), rules));
        let read = work.await.map_err(|_| Error::Internal("reading changes failed"))??;
        let mut received = Received { refused: told(read.bad), ..Received::default() };
        let mut sync = self.foreign_sync();
        sync.take(read.changes, &mut received).await?;
        received.waiting = sync.waiting.len();
        Ok(received)
    }

    /// Takes changes that were read from a storage of Automerge's, with the checks of [`ForeignSync::receive`]. Returns when those taken are on
    /// disk; those that are here already are left out. What waits for changes that are not here is not kept.
    pub async fn take_stored(&self, stored: StoredChanges) -> Result<Received, ForeignSyncError> {
        if !self.may_vouch().await? {
            return Err(Error::NotAllowed("vouch for changes of others").into());
        }
        // A task of its own, because what is shown has to be said even if nobody waits for it.
        let taken = tokio::spawn(self.open_arc().take_foreign(stored.0)).await;
        let Taken { taken, missing, refused } = taken.map_err(|_| Error::Internal("taking changes failed"))??;
        let refused = refused.into_iter().map(|(id, why)| (Some(id), why)).collect();
        Ok(Received { taken: taken.len(), waiting: missing.len(), refused })
    }

    /// Whether this device may vouch for changes of others in the document: the right to write, and the gateway flag or
    /// the document being its own where anyone writes.
    pub async fn may_vouch(&self) -> Result<bool, Error> {
        let (shared, space) = (self.shared(), self.space());
        match shared.may_write(&space) {
            Err(Error::NotAllowed(_)) => return Ok(false),
            may => may?,
        }
        let (device, creator) = (shared.device, self.info().await?.creator);
        let open = locked(&shared.geneses).get(&space).is_some_and(|genesis| genesis.writers == Writers::Anyone);
        let needed = Needed { right: Right::Write, gateway: !(open && creator == device) };
        let (reply, seen) = oneshot::channel();
        let look = move |authority: &Authority| _ = reply.send(authority.may(&device, needed, true));
        shared.command(Command::Look { space, look: Box::new(look) }).await?;
        seen.await.map_err(|_| shared.no_reply())
    }
}

impl ForeignSync {
    /// The document.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Returns when the document may have something new for the client: then [`ForeignSync::generate`] tells. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.moves.changed().await.is_err() {
            // The document cannot go while it is held.
            std::future::pending::<()>().await;
        }
    }

    /// What the client said last that it has.
    pub fn their_heads(&self) -> Vec<EntryId> {
        self.state.their_heads().collect()
    }

    /// Takes a message of the client: returns when what could be taken of its changes is on disk.
    pub async fn receive(&mut self, message: &[u8]) -> Result<Received, ForeignSyncError> {
        let rules = self.document.open().read(|view| view.wire_rules()).await?;
        let mut read = match message.len() > READ_HERE_BYTES {
            false => SyncMessage::read(message, rules)?,
            true => {
                let message = message.to_vec();
                let work = tokio::task::spawn_blocking(move || SyncMessage::read(&message, rules));
                work.await.map_err(|_| Error::Internal("reading a message failed"))??
            }
        };
        let mut received = Received { refused: told(std::mem::take(&mut read.bad)), ..Received::default() };
        let changes = std::mem::take(&mut read.changes);
        let brought = !changes.is_empty();
        let known = |id| self.waiting.contains_key(id) || self.refused.contains(id);
        // A client that hears that nothing of it is here sends all of it again, each time.
        let fresh = !self.read_only && changes.iter().any(|change| !known(&change.head.id));
        if brought {
            self.take(changes, &mut received).await?;
        }
        let state = std::mem::take(&mut self.state);
        let (state, done) =
            self.with_state(state, move |state, view| state.receive(view, &read, brought, fresh)).await?;
        self.state = state;
        done?;
        received.waiting = self.waiting.len();
        Ok(received)
    }

    /// The next message for the client, if there is something to say: after each that it sent, and whenever the document has changed.
    pub async fn generate(&mut self) -> Result<Option<Vec<u8>>, ForeignSyncError> {
        self.moves.mark_unchanged();
        if !self.waiting.is_empty() {
            // Others may have brought what these wait for.
            self.take(Vec::new(), &mut Received::default()).await?;
        }
        let wanted = self.state.their_heads().filter(|id| !self.read_only && !self.refused.contains(id));
        let need = self.lacking(wanted.collect());
        let state = std::mem::take(&mut self.state);
        let (state, made) = self
            .with_state(state, move |state, view| {
                let need = need.into_iter().filter(|id| !view.contains(id)).collect();
                state.generate(view, &need)
            })
            .await?;
        self.state = state;
        made
    }

    async fn with_state<T: Send + 'static>(
        &self,
        mut state: SyncState,
        f: impl FnOnce(&mut SyncState, &mut crate::document::View) -> Result<T, crate::document::Broken> + Send + 'static,
    ) -> Result<(SyncState, Result<T, ForeignSyncError>), ForeignSyncError> {
        let done = self.document.open().on_saved(move |view| {
            if view.shows_forks() {
                return (state, Err(ForeignSyncError::Forked));
            }
            let done = f(&mut state, view).map_err(|_| Error::from(crate::document::EditError::Broken).into());
            (state, done)
        });
        Ok(done.await?)
    }

    /// Takes these changes and those that wait, as far as that goes.
    async fn take(&mut self, changes: Vec<WalkedChange>, received: &mut Received) -> Result<(), ForeignSyncError> {
        if !self.document.may_vouch().await? {
            if !changes.is_empty() {
                let why = Error::NotAllowed("vouch for changes of others").to_string();
                received.refused.push((None, why));
            }
            (self.read_only, self.waiting_bytes) = (true, 0);
            self.waiting.clear();
            return Ok(());
        }
        self.read_only = false;
        let all = std::mem::take(&mut self.waiting).into_values().chain(changes).collect();
        self.waiting_bytes = 0;
        // A task of its own, because what is shown has to be said even if nobody waits for it.
        let taken = tokio::spawn(self.document.open_arc().take_foreign(all)).await;
        let Taken { taken, missing, refused } = taken.map_err(|_| Error::Internal("taking changes failed"))??;
        received.taken = taken.len();
        for (id, why) in refused {
            if self.refused.len() >= REFUSED_MAX {
                return Err(BadMessage::TooMuch { what: "refused changes", max: REFUSED_MAX as u64 }.into());
            }
            self.refused.insert(id);
            received.refused.push((Some(id), why));
        }
        for change in missing {
            self.waiting_bytes += change.bytes.len();
            if self.waiting_bytes > WAITING_BYTES_MAX {
                return Err(BadMessage::TooManyWait { max: WAITING_BYTES_MAX }.into());
            }
            self.waiting.insert(change.head.id, change);
        }
        Ok(())
    }

    /// What has to come for these to be taken, as far as what waits tells. What the document holds is among it.
    fn lacking(&self, mut todo: Vec<EntryId>) -> BTreeSet<EntryId> {
        let (mut lacking, mut seen) = (BTreeSet::new(), BTreeSet::new());
        while let Some(id) = todo.pop() {
            match self.waiting.get(&id) {
                _ if !seen.insert(id) => {}
                Some(change) => todo.extend(&change.head.deps),
                None => _ = lacking.insert(id),
            }
        }
        lacking
    }
}

/// Changes that break a rule by their bytes alone.
fn told(bad: Vec<BadChange>) -> Vec<(Option<EntryId>, String)> {
    bad.into_iter().map(|bad| (None, format!("change {} of the message: {}", bad.at, bad.why))).collect()
}
