//! What stands between a peer and the app on one machine: views of the documents, edited and followed by patches alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::patch;
use crate::document::{Applied, ChainAuthor, EditError, Patch, View};
use crate::storage::{DocumentQuery, Storage};
use crate::store::faulty::Rng;
use commonhold_sync::id::{DocId, EntryId, SpaceId};
use commonhold_sync::peer::{Input, Local, LocalError, Peer, Ticket};
use commonhold_sync::record::Record;
use serde_json::Value as Json;

use super::app::App;
use super::plan::Plan;
use crate::worker;

/// What a ticket stands for.
#[derive(Debug)]
pub(super) enum Asked {
    Records(SpaceId, Vec<Record>),
    Entries(SpaceId, DocId, Vec<EntryId>),
    Revocation,
}

/// A document on screen.
pub(super) struct Open {
    pub(super) view: View,
    /// What a watcher made of the patches.
    mirror: Json,
    /// Entries that came since the last frame.
    arrived: Vec<(EntryId, Vec<u8>)>,
    /// A frame is due.
    pub(super) due: bool,
    /// A snapshot became part of the log: the view is made anew once everything is on disk.
    pub(super) stale: bool,
    /// Flushes not saved yet.
    pub(super) unsaved: usize,
    /// One of them was refused, and the view shows it until it is made anew.
    refused: bool,
    /// Some of the authors lie.
    among_liars: bool,
}

pub(super) struct Screen {
    pub(super) docs: BTreeMap<(SpaceId, DocId), Open>,
    pub(super) deleted: BTreeSet<(SpaceId, DocId)>,
    pub(super) asked: BTreeMap<Ticket, Asked>,
    next_ticket: u64,
    /// Some of the authors lie.
    among_liars: bool,
    /// Rights are taken back.
    revokes: bool,
    /// A canary: once true, the next entry from elsewhere is not shown.
    pub(super) hides_next: bool,
    /// A canary: of a closed chain, no branch but the first is shown.
    pub(super) one_branch: bool,
    app: Box<dyn App>,
}

impl Open {
    fn new(mut view: View, among_liars: bool) -> Open {
        view.watch(true);
        let mirror = view.to_json();
        Open { view, mirror, arrived: Vec::new(), due: false, stale: false, unsaved: 0, refused: false, among_liars }
    }

    fn watch(&mut self, patches: &[Patch]) -> Result<(), String> {
        for patch in patches {
            patch::apply(&mut self.mirror, patch).map_err(|e| format!("{e}: {patch:?} on {}", self.mirror))?;
        }
        Ok(())
    }

    /// What patches make is what is there.
    pub(super) fn check(&self) -> Result<(), String> {
        let json = self.view.to_json();
        match json == self.mirror {
            true => Ok(()),
            false => Err(format!("patches made {}, and the document is {json}", self.mirror)),
        }
    }

    /// Whether everything that came is shown and everything that was done has left.
    pub(super) fn is_settled(&self) -> bool {
        self.arrived.is_empty() && !self.stale && !self.view.has_unflushed() && self.unsaved == 0
    }

    fn apply(&mut self, entries: &[(EntryId, Vec<u8>)]) -> Result<(), String> {
        let refs: Vec<(EntryId, &[u8])> = entries.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
        let Applied { invalid, quarantined, missing, bad_base, broken, local_patches, patches, .. } =
            self.view.apply_remote(&refs, &mut |_| {});
        // Among liars, what breaks a rule of meaning is hidden by every view.
        if !(invalid.is_empty() || self.among_liars)
            || !quarantined.is_empty()
            || !missing.is_empty()
            || bad_base.is_some()
            || broken
        {
            return Err(format!(
                "a view refused entries of honest peers: invalid {invalid:?}, quarantined {quarantined:?}, missing \
                 {missing:?}, base {bad_base:?}, broken {broken}"
            ));
        }
        self.watch(&local_patches)?;
        self.watch(&patches)
    }
}

impl Screen {
    /// Views of everything that a store holds.
    pub(super) fn open(storage: &Storage, plan: &Plan, app: Box<dyn App>) -> Result<Screen, String> {
        let mut screen = Screen {
            docs: BTreeMap::new(),
            deleted: BTreeSet::new(),
            asked: BTreeMap::new(),
            next_ticket: 0,
            among_liars: plan.liars > 0,
            revokes: plan.revokes,
            hides_next: false,
            one_branch: false,
            app,
        };
        let start = storage.start().map_err(|e| e.to_string())?;
        for (space, ..) in start.spaces {
            let query = DocumentQuery { deleted: true, ..DocumentQuery::default() };
            for info in storage.documents(&space, &query).map_err(|e| e.to_string())? {
                if info.deleted {
                    screen.deleted.insert((space, info.id));
                } else {
                    let open = Open::new(view_from(storage, space, info.id, false)?, screen.among_liars);
                    screen.app.shows(&open.view)?;
                    screen.docs.insert((space, info.id), open);
                }
            }
        }
        Ok(screen)
    }

    pub(super) fn agrees(&mut self) -> Result<(), String> {
        self.app.agrees(&self.docs.iter().map(|(key, open)| (*key, &open.view)).collect())
    }

    pub(super) fn ticket(&mut self, asked: Asked) -> Ticket {
        self.next_ticket += 1;
        self.asked.insert(Ticket(self.next_ticket), asked);
        Ticket(self.next_ticket)
    }

    /// A document is there, or there again: it may have been withdrawn, or deleted by who had no right to.
    pub(super) fn document(&mut self, space: SpaceId, doc: DocId) {
        let (among_liars, again) = (self.among_liars, self.deleted.remove(&(space, doc)));
        let open = self.docs.entry((space, doc)).or_insert_with(|| Open::new(View::new(), among_liars));
        open.stale |= again || self.revokes;
    }

    pub(super) fn withdraw(&mut self, space: SpaceId, doc: DocId) {
        self.docs.remove(&(space, doc));
    }

    pub(super) fn saved(&mut self, space: SpaceId, doc: DocId) {
        if let Some(open) = self.docs.get_mut(&(space, doc)) {
            open.unsaved = open.unsaved.saturating_sub(1);
        }
    }

    /// What the peer refused because of rights that were taken back is not shown any more. False if that is no reason.
    pub(super) fn refused(&mut self, why: &LocalError, asked: &Asked) -> bool {
        let by_right = matches!(why, LocalError::NotAllowed(_) | LocalError::UnknownDocument | LocalError::Deleted);
        let Asked::Entries(space, doc, _) = asked else { return by_right };
        let Some(open) = self.docs.get_mut(&(*space, *doc)) else { return true };
        // What was written upon it goes with it, and what was written on a view that is to be made anew: rights came or went.
        let goes = by_right || open.refused || open.stale;
        open.unsaved = open.unsaved.saturating_sub(1);
        (open.refused, open.stale) = (true, true);
        goes
    }

    pub(super) fn remove(&mut self, space: SpaceId, doc: DocId) {
        self.docs.remove(&(space, doc));
        self.deleted.insert((space, doc));
    }

    /// Takes entries in; true if a frame is to be scheduled.
    pub(super) fn arrive(&mut self, space: SpaceId, doc: DocId, mut entries: Vec<(EntryId, Vec<u8>)>) -> bool {
        if self.hides_next && entries.len() == 1 {
            self.hides_next = false;
            entries.clear();
        }
        let Some(open) = self.docs.get_mut(&(space, doc)) else { return false };
        open.arrived.extend(entries);
        !core::mem::replace(&mut open.due, true)
    }

    /// Shows what has come.
    pub(super) fn frame(&mut self, space: SpaceId, doc: DocId) -> Result<(), String> {
        let Some(open) = self.docs.get_mut(&(space, doc)) else { return Ok(()) };
        open.due = false;
        if open.stale {
            return Ok(());
        }
        let entries = core::mem::take(&mut open.arrived);
        open.apply(&entries)?;
        self.app.shows(&open.view)
    }

    /// A snapshot came into the log of a document, whose view must be made anew.
    pub(super) fn outdated(&mut self, space: SpaceId, doc: DocId) {
        if let Some(open) = self.docs.get_mut(&(space, doc)) {
            open.stale = true;
        }
    }

    /// Makes views anew whose log is wholly on disk.
    pub(super) fn renew(&mut self, storage: &Storage) -> Result<(), String> {
        for ((space, doc), open) in self.docs.iter_mut().filter(|(_, o)| o.stale && o.unsaved == 0) {
            // What came meanwhile is on disk too, or does not count any more.
            let view = view_from(storage, *space, *doc, self.one_branch)?;
            *open = Open { due: open.due, ..Open::new(view, self.among_liars) };
            self.app.shows(&open.view)?;
        }
        Ok(())
    }

    /// Edits a document; what was done leaves when `flush` is true.
    pub(super) fn edit(
        &mut self,
        peer: &Peer,
        space: SpaceId,
        doc: DocId,
        rng: &mut Rng,
        flush: bool,
    ) -> Result<Option<Input>, String> {
        let Some(open) = self.docs.get_mut(&(space, doc)).filter(|open| !open.stale) else { return Ok(None) };
        let opening = peer.own_opening(&space, &doc);
        let actor = opening.chain(&space, &doc).0;
        let author = ChainAuthor { actor, device: opening.device.0 };
        open.view.set_chain(author).map_err(|e| e.to_string())?;
        let app = &mut self.app;
        for _ in 0..1 + rng.below(4) {
            open.view.edit(|edit| app.edit(edit, rng)).map_err(|e: EditError| format!("an edit failed: {e}"))?;
        }
        app.shows(&open.view)?;
        if flush { self.flush(peer, space, doc) } else { Ok(None) }
    }

    /// Closes what was done into entries and asks the peer to save them.
    pub(super) fn flush(&mut self, peer: &Peer, space: SpaceId, doc: DocId) -> Result<Option<Input>, String> {
        let Some(open) = self.docs.get_mut(&(space, doc)) else { return Ok(None) };
        let entries = open.view.flush().map_err(|e| e.to_string())?;
        let patches = open.view.take_local_patches();
        open.watch(&patches)?;
        if entries.is_empty() {
            return Ok(None);
        }
        open.unsaved += 1;
        let ids = entries.iter().map(|e| e.id).collect();
        let ticket = self.ticket(Asked::Entries(space, doc, ids));
        let entries = entries.into_iter().map(|e| e.bytes).collect();
        let opening = peer.own_opening(&space, &doc);
        Ok(Some(Input::Local { ticket, space, local: Local::Entries { doc, opening, entries } }))
    }
}

/// A view from what is on disk, as the engine makes it.
pub(super) fn view_from(storage: &Storage, space: SpaceId, doc: DocId, one_branch: bool) -> Result<View, String> {
    let mut view = View::new();
    if let Some(mut read) = storage.held(&space, &doc).map_err(|e| e.to_string())? {
        read.value.segments.retain(|stored| stored.branch == 0 || !one_branch);
        view = worker::view_of(&read.value, &[])?.view;
    }
    view.watch(false);
    Ok(view)
}
