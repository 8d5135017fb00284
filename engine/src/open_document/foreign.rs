//! What clients that sign nothing do to an open document: their changes are shown and said as this device vouches for them,
//! and they are told only what is on disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use commonhold_sync::chain::{Kind, Opening};
use commonhold_sync::id::EntryId;
use commonhold_sync::peer::Local;
use tokio::sync::{oneshot, watch};

use super::{APPLY_HERE_BYTES, OpenDocument, Shown, State};
use crate::document::View;
use crate::document::sync_message::WalkedChange;
use crate::error::Error;
use crate::shared::{Command, Reply};

/// The salt of every foreign chain that this device vouches for. What tells such chains apart is the actor, and each run
/// continues the last one's.
const SALT: [u8; 8] = [0; 8];
/// Changes in a document above which a message for a client is made off the runtime: about a millisecond's work.
const HERE_CHANGES: usize = 1_024;

/// What became of changes from a client.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Those that are shown and on disk now, and were not before.
    pub(crate) taken: Vec<EntryId>,
    /// Those whose past is not here.
    pub(crate) missing: Vec<WalkedChange>,
    /// Those that never are, and why.
    pub(crate) refused: Vec<(EntryId, String)>,
}

impl OpenDocument {
    /// What changes whenever the view may show something else than before.
    pub(crate) fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// The driver's answer to foreign changes. Those that were not saved are shown no longer.
    pub(crate) fn resolved_foreign(&self, number: u64, saved: bool) {
        if !saved {
            self.reload();
        }
        self.resolved.fetch_max(number, Ordering::AcqRel);
        self.shared.moved();
    }

    /// Takes changes of clients, as many as can be; returns when they are on disk. To be run to its end: what is shown
    /// has to be said.
    pub(crate) async fn take_foreign(self: Arc<Self>, changes: Vec<WalkedChange>) -> Result<Taken, Error> {
        drop(self.ready().await?);
        let mut shown = self.view.clone().lock_owned().await;
        let bytes: usize = changes.iter().map(|change| change.bytes.len()).sum();
        let budget = self.shared.budget_of(&self.space, &self.doc);
        let work = move || {
            let applied = shown.apply_foreign(changes);
            let excess = shown.excess(&budget);
            (shown, applied, excess)
        };
        let (shown, applied, excess) = match bytes > APPLY_HERE_BYTES {
            true => tokio::task::spawn_blocking(work).await.map_err(|_| Error::Internal("taking changes failed"))?,
            false => work(),
        };
        let Some((mut out, runs, whole)) = applied else {
            return Err(Error::Internal("a document that is not loaded"));
        };
        if !whole {
            self.reload();
        }
        // Under the lock, so that edits made upon these are said behind them.
        let mut replies = Vec::with_capacity(runs.len());
        for run in runs {
            let Some(first) = run.first() else { continue };
            let opening =
                Opening { device: self.shared.device, salt: SALT, kind: Kind::Foreign(first.head.actor.to_vec()) };
            let (ids, entries) =
                run.into_iter().map(|change| (change.head.id, change.bytes)).unzip::<_, _, Vec<_>, _>();
            let number = self.submitted.fetch_add(1, Ordering::AcqRel) + 1;
            let (reply, said) = oneshot::channel();
            let local = Local::Entries { doc: self.doc, opening, entries };
            let reply = Reply::Foreign(self.clone(), number, reply);
            if let Err(error) = self.shared.command(Command::Say { space: self.space, local, reply }).await {
                self.resolved_foreign(number, false);
                return Err(error);
            }
            replies.push((ids, said));
        }
        drop(shown);
        for (ids, said) in replies {
            match said.await.map_err(|_| self.shared.no_reply())? {
                Ok(()) => out.taken.extend(ids),
                Err(error @ (Error::DoesNotFit(_) | Error::NotAllowed(_))) => {
                    out.refused.extend(ids.into_iter().map(|id| (id, error.to_string())));
                }
                Err(error) => return Err(error),
            }
        }
        self.moved();
        if let Some(excess) = excess {
            let why = self.shared.set_aside(self.space, self.doc, excess).await;
            self.withhold(why);
        }
        Ok(out)
    }

    /// Does something with the view when all that it shows of this device's is on disk.
    pub(crate) async fn on_saved<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut View) -> T + Send + 'static,
    ) -> Result<T, Error> {
        // Most of the waiting is done without the lock.
        self.save(|_| ()).await?;
        let mut shown = self.view.clone().lock_owned().await;
        if matches!(&shown.state, State::Ready(view) if view.has_unflushed()) {
            self.hand_over(&mut shown).await?;
        }
        self.shared.until(|| self.unsaved() == 0).await?;
        let heavy = shown.view()?.changes() > HERE_CHANGES;
        let work = move || Ok(f(shown.view()?));
        match heavy {
            true => {
                tokio::task::spawn_blocking(work).await.map_err(|_| Error::Internal("a look at a document failed"))?
            }
            false => work(),
        }
    }
}

impl Shown {
    /// Shows what can be shown of these. Gives what became of the rest, those shown in runs of one actor, and whether the
    /// view is sound; none if there is no view.
    fn apply_foreign(&mut self, changes: Vec<WalkedChange>) -> Option<(Taken, Vec<Vec<WalkedChange>>, bool)> {
        let State::Ready(view) = &mut self.state else { return None };
        let mut sorted = view.vouchable(changes);
        let mut out = Taken { missing: sorted.missing, ..Taken::default() };
        out.refused.extend(sorted.refused.into_iter().map(|(id, why)| (id, why.to_owned())));
        if sorted.runs.is_empty() {
            return Some((out, Vec::new(), true));
        }
        let entries: Vec<(EntryId, Vec<u8>)> =
            sorted.runs.iter().flatten().map(|change| (change.head.id, change.bytes.clone())).collect();
        let applied = self.apply(&entries, None)?;
        out.refused.extend(applied.invalid.into_iter().map(|(id, fault)| (id, fault.to_string())));
        let kept_out = |id: &EntryId| (*id, "this version of the engine cannot show it".to_owned());
        out.refused.extend(applied.quarantined.iter().map(kept_out));
        let whole = !applied.broken && applied.bad_base.is_none();
        let State::Ready(view) = &mut self.state else { return None };
        for run in &mut sorted.runs {
            let mut rest = std::mem::take(run).into_iter();
            run.extend(rest.by_ref().take_while(|change| whole && view.contains(&change.head.id)));
        }
        sorted.runs.retain(|run| !run.is_empty());
        Some((out, sorted.runs, whole))
    }
}
