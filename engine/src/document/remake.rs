//! Views that are made again: because the CRDT library failed on a batch (rule M2), because other entries are to be shown, or because
//! storing failed. Never for a fork that is revealed: that changes names only, see [`View::apply_remote`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use automerge as am;
use automerge::ReadDoc;
use commonhold_sync::change;
use commonhold_sync::id::EntryId;

use super::admit::{self, Fault};
use super::compare::compare_documents;
use super::graph::{ChainIdx, NodeId};
use super::local::{ChainAuthor, LocalEntry};
use super::patch::Patch;
use super::renaming::Renaming;
use super::view::{Applied, Broken, Doc, View, blank, guarded, rewrite};

/// A reader of the log of a document: calls back with the raw bytes of every entry that the view holds, but for local changes
/// not flushed yet, in any order. A view that hits a fault of the CRDT library is rebuilt from it; so is one that is to show other
/// entries.
pub type ReadLog<'a> = dyn FnMut(&mut dyn FnMut(&[u8])) + 'a;

/// What became of a view that was made again.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// Local changes, not flushed, that were made upon entries which the log does not give any more: they are lost.
    pub dropped: Vec<EntryId>,
    /// Entries of the log that can never be shown, with the reason.
    pub invalid: Vec<(EntryId, Fault)>,
    /// Entries on which the CRDT library failed, or did once.
    pub quarantined: Vec<EntryId>,
    /// Entries of the log whose past it does not give.
    pub missing: Vec<EntryId>,
    /// Patches of local edits that were pending. They come before `patches`.
    pub local_patches: Vec<Patch>,
    /// Patches from what was shown to what is. Only made while watching.
    pub patches: Vec<Patch>,
}

impl View {
    /// Entries that begin a branch whose name another one has, of a smaller id.
    pub(super) fn twins(&self) -> Vec<EntryId> {
        let chains = 0..self.graph.chains() as ChainIdx;
        let mut twins = Vec::new();
        for siblings in chains.flat_map(|chain| self.graph.forks_of(chain)) {
            for start in siblings.iter().map(|start| self.graph.id(*start)) {
                let smaller: Vec<NodeId> =
                    siblings.iter().copied().filter(|other| self.graph.id(*other) < start).collect();
                twins.extend(admit::twin(&self.graph, &smaller, &start).map(|_| start));
            }
        }
        twins
    }

    /// Makes the view again without some entries that it took, and what builds on them.
    pub(super) fn leave_out(&mut self, ids: &[EntryId], batch: &[(NodeId, am::Change)], out: &mut Applied) {
        for id in ids {
            self.refuse(*id);
            out.invalid.push((*id, Fault::Twin));
        }
        let all = guarded(|| Ok(self.wire_changes(&[]))).unwrap_or_default();
        let all = all.iter().chain(batch).map(|(node, change)| (self.graph.id(*node), change.raw_bytes().to_vec()));
        let all: Vec<(EntryId, Vec<u8>)> = all.filter(|(id, _)| !ids.contains(id)).collect();
        let batch: Vec<EntryId> = batch.iter().map(|(node, _)| self.graph.id(*node)).collect();
        match self.remake(&all) {
            Ok((again, patches)) => {
                out.applied = batch.iter().filter(|id| self.contains(id)).count();
                out.invalid.extend(again.invalid);
                out.quarantined.extend(again.quarantined);
                out.patches = patches;
            }
            Err(Broken) => out.broken = true,
        }
    }

    /// Makes everything again from these entries, which have to be all that is to be shown. Gives the patches from what was
    /// shown, while watching.
    fn remake(&mut self, entries: &[(EntryId, Vec<u8>)]) -> Result<(Applied, Vec<Patch>), Broken> {
        let mut fresh = View::new();
        (fresh.quarantine, fresh.refused) = (std::mem::take(&mut self.quarantine), std::mem::take(&mut self.refused));
        #[cfg(test)]
        (fresh.panic_on = self.panic_on);
        let entries: Vec<(EntryId, &[u8])> = entries.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
        // What a fresh view holds before its first batch is nothing, and so is its log.
        let out = fresh.apply_remote(&entries, &mut |_| {});
        (self.quarantine, self.refused) = (fresh.quarantine, fresh.refused);
        if out.broken {
            self.broken = true;
            return Err(Broken);
        }
        let old = std::mem::replace(&mut self.doc, fresh.doc);
        (self.graph, self.renaming, self.index) = (fresh.graph, fresh.renaming, fresh.index);
        self.commands.clear();
        let was_broken = std::mem::replace(&mut self.broken, false);
        let patches = match (&old, &self.doc) {
            _ if !self.watching => Vec::new(),
            (Doc::Idle(old), Doc::Idle(new)) if !was_broken => {
                guarded(|| Ok(compare_documents(old, new))).unwrap_or_else(|Broken| vec![Patch::reset(self.to_json())])
            }
            _ => vec![Patch::reset(self.to_json())],
        };
        Ok((out, patches))
    }

    /// Rule M2, second half: from the log again, then the entries of the batch, without the guilty ones. The document that failed
    /// is not looked at any more.
    pub(super) fn recover(
        &mut self,
        known: NodeId,
        entries: &[(EntryId, &[u8])],
        admitted: &[NodeId],
        log: &mut ReadLog<'_>,
        out: &mut Applied,
    ) {
        self.doc = Doc::Idle(Box::new(blank()));
        if self.recovered(known, entries, admitted, log, out).is_err() {
            self.broken = true;
            (out.broken, out.applied, out.patches) = (true, 0, Vec::new());
        }
    }

    fn recovered(
        &mut self,
        known: NodeId,
        entries: &[(EntryId, &[u8])],
        admitted: &[NodeId],
        log: &mut ReadLog<'_>,
        out: &mut Applied,
    ) -> Result<(), Broken> {
        let mut logged = self.read_log(log, true)?;
        // It may hold more: what is refused, or about to come.
        logged.retain(|(id, _)| self.graph.find(id).is_some_and(|node| node < known));
        let bytes: HashMap<EntryId, &[u8]> = entries.iter().copied().collect();
        let parse = |id: EntryId, bytes: &[u8]| admit::parse(id, bytes).map_err(|_| Broken);
        let mut base: BTreeMap<NodeId, am::Change> = BTreeMap::new();
        for (id, bytes) in &logged {
            let node = self.graph.find(id).ok_or(Broken)?;
            base.insert(node, parse(*id, bytes)?);
        }
        if base.len() != known as usize {
            return Err(Broken);
        }
        let mut batch: Vec<(NodeId, am::Change)> = Vec::with_capacity(admitted.len());
        for node in admitted {
            let id = self.graph.id(*node);
            batch.push((*node, parse(id, bytes[&id])?));
        }
        // Names as if all of the batch could stay.
        let graph = &mut self.graph;
        let (base, mut rest, renaming) = guarded(|| {
            let mut renaming = Renaming::of(graph);
            let mut base_doc = blank();
            base_doc.apply_changes(rewrite(&mut renaming, graph, base)?).map_err(|_| Broken)?;
            let nodes: Vec<NodeId> = batch.iter().map(|(node, _)| *node).collect();
            let rest: Vec<am::Change> = rewrite(&mut renaming, graph, batch)?;
            Ok((base_doc, nodes.into_iter().zip(rest).collect::<Vec<_>>(), renaming))
        })?;
        #[cfg(test)]
        let trap = self.panic_on.and_then(|id| self.graph.find(&id));
        let applies = |doc: &am::Automerge, changes: &[(NodeId, am::Change)]| {
            let mut trial = doc.clone();
            guarded(|| {
                #[cfg(test)]
                assert!(!changes.iter().any(|(node, _)| Some(*node) == trap), "injected");
                trial.apply_changes(changes.iter().map(|(_, change)| change.clone())).map_err(|_| Broken)?;
                let hashes: Vec<am::ChangeHash> = changes.iter().map(|(_, change)| change.hash()).collect();
                if ReadDoc::get_missing_deps(&trial, &hashes).is_empty() { Ok(()) } else { Err(Broken) }
            })
            .map(|()| trial)
        };
        let mut doc = base.clone();
        let mut out_of_view: BTreeSet<NodeId> = BTreeSet::new();
        // The entries are sorted, so each prefix applies or fails on its own account.
        while !rest.is_empty() {
            if let Ok(done) = applies(&doc, &rest) {
                doc = done;
                break;
            }
            let (mut fine, mut fails) = (0, rest.len());
            while fails - fine > 1 {
                let middle = fine + (fails - fine) / 2;
                if applies(&doc, &rest[..middle]).is_ok() { fine = middle } else { fails = middle }
            }
            if fine > 0
                && let Ok(done) = applies(&doc, &rest[..fine])
            {
                doc = done;
            }
            out_of_view.insert(rest[fine].0);
            rest = rest.split_off(fine + 1);
            rest.retain(|(node, _)| {
                let held = self.graph.deps(*node).iter().any(|dep| out_of_view.contains(dep));
                if held {
                    out_of_view.insert(*node);
                }
                !held
            });
        }
        let mut guilty: Vec<EntryId> = out_of_view.iter().map(|node| self.graph.id(*node)).collect();
        guilty.sort_unstable();
        self.quarantine.extend(guilty.iter().copied());
        let stays: Vec<EntryId> =
            admitted.iter().map(|node| self.graph.id(*node)).filter(|id| guilty.binary_search(id).is_err()).collect();
        out.quarantined.extend(guilty);
        if out_of_view.is_empty() {
            if self.watching {
                out.patches = guarded(|| Ok(compare_documents(&base, &doc)))?;
            }
            (self.doc, self.renaming, out.applied) = (Doc::Idle(Box::new(doc)), renaming, stays.len());
            return Ok(());
        }
        // What stays may go by other names, and the tables hold the guilty.
        drop(doc);
        self.doc = Doc::Idle(Box::new(base));
        let mut all = logged;
        all.extend(stays.iter().map(|id| (*id, bytes[id].to_vec())));
        let (again, patches) = self.remake(&all)?;
        out.quarantined.extend(again.quarantined);
        out.patches = patches;
        out.applied = stays.iter().filter(|id| self.contains(id)).count();
        Ok(())
    }

    /// The entries of the log, and those that are not flushed if they are wanted.
    fn read_log(&self, log: &mut ReadLog<'_>, with_queue: bool) -> Result<Vec<(EntryId, Vec<u8>)>, Broken> {
        let mut entries = Vec::new();
        let mut bad = false;
        log(&mut |bytes| match change::id(bytes) {
            Ok(id) => entries.push((id, bytes.to_vec())),
            Err(_) => bad = true,
        });
        if with_queue {
            entries.extend(self.queue.iter().map(|entry| (entry.id, entry.bytes.clone())));
        }
        if bad { Err(Broken) } else { Ok(entries) }
    }

    /// Makes the document again from its log, without what was not flushed and without flushed entries that the log does
    /// not give (because storing them failed). The chain is given up. Gives the patch that replaces the document, while watching.
    pub fn rebuild(&mut self, log: &mut ReadLog<'_>) -> Result<Vec<Patch>, Broken> {
        self.queue.clear();
        self.local_patches.clear();
        self.chain = None;
        self.doc = Doc::Idle(Box::new(blank()));
        let watching = std::mem::replace(&mut self.watching, false);
        let made = self.read_log(log, false).and_then(|entries| self.remake(&entries));
        self.watching = watching;
        self.broken |= made.is_err();
        made?;
        Ok(if watching { vec![Patch::reset(self.to_json())] } else { Vec::new() })
    }

    /// Makes the view again because its log gives other entries than it shows: some were hidden, because of a fork or a revocation,
    /// and others may have come. Local changes stay, pending edits become one, unless they build on what is gone; the
    /// chain stays, unless entries of its own that were flushed are gone. After an error the view shows what it showed, and is
    /// broken.
    pub fn reload(&mut self, log: &mut ReadLog<'_>) -> Result<Reloaded, Broken> {
        // Where it fails, the edits are lost as with every such failure.
        let _ = self.commit();
        let local_patches = self.take_local_patches();
        let flushed = self.own_flushed();
        let entries = self.read_log(log, true).inspect_err(|_| self.broken = true)?;
        let (out, patches) = self.remake(&entries)?;
        let queue = std::mem::take(&mut self.queue);
        let (kept, lost): (Vec<LocalEntry>, Vec<LocalEntry>) = queue.into_iter().partition(|e| self.contains(&e.id));
        self.queue = kept;
        if self.own_flushed() < flushed {
            // To go on would be to write a number twice.
            self.chain = None;
        }
        let dropped: Vec<EntryId> = lost.into_iter().map(|entry| entry.id).collect();
        let missing = out.missing.into_iter().filter(|id| !dropped.contains(id)).collect();
        let Applied { invalid, quarantined, .. } = out;
        Ok(Reloaded { dropped, invalid, quarantined, missing, local_patches, patches })
    }

    /// The patches from what this view shows to what another one of the same document does. None where one of them is broken.
    pub fn patches_to(&mut self, other: &mut View) -> Option<Vec<Patch>> {
        self.commit().and(other.commit()).ok()?;
        let (Doc::Idle(old), Doc::Idle(new)) = (&self.doc, &other.doc) else { return None };
        guarded(|| Ok(compare_documents(old, new))).ok()
    }

    /// Entries of our own chain that are not in the queue.
    fn own_flushed(&self) -> usize {
        let Some(ChainAuthor { actor, .. }) = self.chain else { return 0 };
        let lines = self.graph.chain(&actor).map_or(&[][..], |chain| self.graph.lines_of(chain));
        let held: usize = lines.iter().map(|line| self.graph.entries(*line).len()).sum();
        held.saturating_sub(self.queue.iter().filter(|entry| entry.actor == actor).count())
    }
}
