//! What an app does with one peer: it keeps views of the documents, edits them, and follows them by patches alone.

use std::collections::{BTreeMap, BTreeSet};

use commonhold_engine::document::patch;
use commonhold_engine::document::{Applied, ChainAuthor, EditError, ObjId, ObjKind, Patch, Scalar, Value, View};
use commonhold_engine::storage::{DocumentQuery, Storage};
use commonhold_engine::store::faulty::Rng;
use commonhold_sync::id::{DocId, EntryId, SpaceId};
use commonhold_sync::peer::{Input, Load, Loaded, Local, Peer, Ticket};
use commonhold_sync::record::Record;
use serde_json::Value as Json;

use super::plan::Plan;
use super::snapshot;

/// What a ticket stands for.
#[derive(Debug)]
pub(super) enum Asked {
    Records(SpaceId, Vec<Record>),
    Entries(SpaceId, DocId, Vec<EntryId>),
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
    /// Some of the authors lie.
    among_liars: bool,
}

#[derive(Default)]
pub(super) struct App {
    pub(super) docs: BTreeMap<(SpaceId, DocId), Open>,
    pub(super) deleted: BTreeSet<(SpaceId, DocId)>,
    pub(super) asked: BTreeMap<Ticket, Asked>,
    next_ticket: u64,
    /// Some of the authors lie.
    among_liars: bool,
    /// A canary: once true, the next entry from elsewhere is not shown.
    pub(super) hides_next: bool,
    /// A canary: of a closed chain, no branch but the first is shown.
    pub(super) one_branch: bool,
}

impl Open {
    fn new(mut view: View, among_liars: bool) -> Open {
        view.watch(true);
        let mirror = view.to_json();
        Open { view, mirror, arrived: Vec::new(), due: false, stale: false, unsaved: 0, among_liars }
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

impl App {
    /// Views of everything that a store holds.
    pub(super) fn open(storage: &Storage, plan: &Plan) -> Result<App, String> {
        let mut app = App { among_liars: plan.liars > 0, ..App::default() };
        let start = storage.start().map_err(|e| e.to_string())?;
        for (space, ..) in start.spaces {
            let query = DocumentQuery { deleted: true, ..DocumentQuery::default() };
            for info in storage.documents(&space, &query).map_err(|e| e.to_string())? {
                if info.deleted {
                    app.deleted.insert((space, info.id));
                } else {
                    app.docs.insert(
                        (space, info.id),
                        Open::new(view_from(storage, space, info.id, plan, false)?, plan.liars > 0),
                    );
                }
            }
        }
        Ok(app)
    }

    pub(super) fn ticket(&mut self, asked: Asked) -> Ticket {
        self.next_ticket += 1;
        self.asked.insert(Ticket(self.next_ticket), asked);
        Ticket(self.next_ticket)
    }

    pub(super) fn document(&mut self, space: SpaceId, doc: DocId) {
        let among_liars = self.among_liars;
        if !self.deleted.contains(&(space, doc)) {
            self.docs.entry((space, doc)).or_insert_with(|| Open::new(View::new(), among_liars));
        }
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
        open.apply(&entries)
    }

    /// A snapshot came into the log of a document, whose view must be made anew.
    pub(super) fn outdated(&mut self, space: SpaceId, doc: DocId) {
        if let Some(open) = self.docs.get_mut(&(space, doc)) {
            open.stale = true;
        }
    }

    /// Makes views anew whose log is wholly on disk.
    pub(super) fn renew(&mut self, storage: &Storage, plan: &Plan) -> Result<(), String> {
        for ((space, doc), open) in self.docs.iter_mut().filter(|(_, o)| o.stale && o.unsaved == 0) {
            // What came meanwhile is on disk too, or does not count any more.
            *open = Open {
                due: open.due,
                ..Open::new(view_from(storage, *space, *doc, plan, self.one_branch)?, plan.liars > 0)
            };
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
        for _ in 0..1 + rng.below(4) {
            open.view.edit(|edit| scribble(edit, rng)).map_err(|e: EditError| format!("an edit failed: {e}"))?;
        }
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

/// A view from what is on disk.
pub(super) fn view_from(
    storage: &Storage,
    space: SpaceId,
    doc: DocId,
    plan: &Plan,
    one_branch: bool,
) -> Result<View, String> {
    let load = |load| storage.load(&load).map(|read| read.value).map_err(|e| e.to_string());
    let (mut view, mut entries) = (View::new(), Vec::new());
    if let Loaded::Snapshot(Some(bytes)) = load(Load::Snapshot { space, doc })? {
        view = snapshot::open(&bytes, &plan.limits)?.0;
    }
    if let Loaded::Logs(mut logs) = load(Load::Logs { space, docs: vec![doc] })?
        && let Some((_, Some((image, segments)))) = logs.pop()
    {
        for stored in segments.into_iter().filter(|stored| stored.branch == 0 || !one_branch) {
            let counted = image.counted(&stored.segment.opening, stored.branch);
            let shown = (counted + 1).saturating_sub(stored.segment.first) as usize;
            for bytes in stored.segment.entries.into_iter().take(shown) {
                let id = commonhold_sync::change::id(&bytes).map_err(|e| e.to_string())?;
                entries.push((id, bytes));
            }
        }
    }
    let mut open = Open::new(view, plan.liars > 0);
    open.apply(&entries)?;
    open.view.watch(false);
    Ok(open.view)
}

const WORDS: [&str; 8] = ["a", "bee", "commons", "déjà", "édition", "field", "🌾", "hold the line"];

/// One random edit: scalars, counters, nested maps, lists, text.
pub(super) fn scribble(edit: &mut commonhold_engine::document::Edit<'_>, rng: &mut Rng) -> Result<(), EditError> {
    let root = ObjId::ROOT;
    let word = WORDS[rng.below(8) as usize];
    let key = format!("k{}", rng.below(4));
    match rng.below(12) {
        0 | 1 => edit.put(&root, key.as_str(), rng.below(1_000) as i64),
        2 => edit.put(&root, key.as_str(), word),
        3 => edit.delete(&root, key.as_str()),
        4 => match edit.get(&root, "count") {
            Some(Value::Scalar(Scalar::Counter(_))) => edit.increment(&root, "count", rng.below(9) as i64 - 4),
            _ => edit.put(&root, "count", Scalar::Counter(0)),
        },
        5 => {
            let map = child(edit, "map", ObjKind::Map)?;
            edit.put(&map, key.as_str(), word)
        }
        6..=8 => {
            let text = child(edit, "text", ObjKind::Text)?;
            let len = edit.len(&text);
            let at = rng.below(len as u64 + 1) as usize;
            let delete = (rng.below(4) as usize).min(len - at);
            edit.splice_text(&text, at, delete, word)
        }
        9 | 10 => {
            let list = child(edit, "list", ObjKind::List)?;
            let len = edit.len(&list);
            match rng.below(4) {
                0 if len > 0 => edit.delete(&list, rng.below(len as u64) as usize),
                1 if len > 0 => edit.put(&list, rng.below(len as u64) as usize, word),
                2 => edit.insert_object(&list, rng.below(len as u64 + 1) as usize, ObjKind::Map).map(drop),
                _ => edit.insert(&list, rng.below(len as u64 + 1) as usize, word),
            }
        }
        _ => {
            let size = if rng.below(8) == 0 { rng.below(40_000) } else { rng.below(600) };
            edit.put(&root, "blob", rng.bytes(size as usize))
        }
    }
}

fn child(edit: &mut commonhold_engine::document::Edit<'_>, key: &str, kind: ObjKind) -> Result<ObjId, EditError> {
    match edit.get(&ObjId::ROOT, key) {
        Some(Value::Object(found, id)) if found == kind => Ok(id),
        _ => edit.put_object(&ObjId::ROOT, key, kind),
    }
}
