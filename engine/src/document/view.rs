//! The view itself: the document, what it holds, and the way that other people's entries take into it.

use std::collections::{BTreeSet, HashMap};

use automerge as am;
use automerge::ReadDoc;
use automerge::transaction::OwnedTransaction;
use commonhold_sync::id::EntryId;
use commonhold_sync::limits::Rules;

use super::admit::{self, Fault, Trust};
use super::compare::{compare, compare_documents};
use super::edit::Command;
use super::graph::{Graph, NodeId};
use super::local::{ChainAuthor, LocalEntry};
use super::op_index::{Doubt, OpIndex, OpRef};
use super::patch::{self, Patch};
use super::remake::ReadLog;
use super::renaming::Renaming;
use crate::contain::contain;

/// Invalid entries remembered, so that what builds on them is known to be invalid too. 2 MiB at most; beyond it the newest
/// are reported once and then count as missing.
const REFUSED_MAX: usize = 1 << 16;

/// The document cannot be shown: even its log does not build. All edits and entries are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("document cannot be rebuilt from its log")]
pub struct Broken;

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Applied {
    /// Entries that are in the view now and were not before.
    pub applied: usize,
    /// Entries that can never be, with the reason.
    pub invalid: Vec<(EntryId, Fault)>,
    /// Entries on which the CRDT library failed: kept out until an engine version that can, with what builds on them.
    pub quarantined: Vec<EntryId>,
    /// Entries whose past is not in the view. Not kept: offer them again with their past.
    pub missing: Vec<EntryId>,
    /// An entry that was in the view already, from a snapshot, and should not have been. Nothing was applied; make
    /// the view again from entries.
    pub bad_base: Option<(EntryId, Fault)>,
    /// The document does not show any more; `View::rebuild` may help.
    pub broken: bool,
    /// Patches of local edits that were pending when the batch came. They come before `patches`.
    pub local_patches: Vec<Patch>,
    /// The version that these lead to.
    pub heads_before: Option<Vec<EntryId>>,
    /// Patches of the batch. Only made while watching.
    pub patches: Vec<Patch>,
}

/// What a view costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// Changes held.
    pub changes: usize,
    /// Operations held, deletions not counted.
    pub ops: usize,
    /// Chains held.
    pub actors: usize,
    /// Bytes in memory, estimated: 1,000 a change and 20 an operation for Automerge (246 MB for 259,778 changes of one
    /// operation, 82 MB for the same as one change, both at their peak), and what our own tables count.
    pub bytes_estimate: usize,
}

#[derive(Debug)]
pub(super) enum Doc {
    Idle(Box<am::Automerge>),
    /// Edits wait for a commit.
    Open(Box<OwnedTransaction>),
}

/// Runs an expression over the document, whether or not a transaction is open.
macro_rules! with_doc {
    ($view:expr, $doc:ident => $body:expr) => {
        match &$view.doc {
            $crate::document::view::Doc::Idle(doc) => {
                let $doc = &**doc;
                $body
            }
            $crate::document::view::Doc::Open(tx) => {
                let $doc = &**tx;
                $body
            }
        }
    };
}
pub(super) use with_doc;

pub(super) fn blank() -> am::Automerge {
    am::Automerge::new_with_encoding(am::TextEncoding::UnicodeCodePoint)
}

/// The document that an app sees: Automerge over the entries that the rules let in.
///
/// A view is a value without I/O. Entries come in through [`View::apply_remote`], which must only be given entries that the
/// structural rules have passed; edits through [`View::edit`], and leave through [`View::flush`]. The order of calls is the order of
/// the document's history; nothing else (time, randomness) enters it.
#[derive(Debug)]
pub struct View {
    pub(super) doc: Doc,
    pub(super) graph: Graph,
    pub(super) renaming: Renaming,
    /// Built when the first entry has to be checked; a document that is only read does not pay for it.
    pub(super) index: Option<OpIndex>,
    pub(super) rules: &'static Rules,
    pub(super) chain: Option<ChainAuthor>,
    /// The edits in the open transaction.
    pub(super) commands: Vec<Command>,
    /// Local changes that are closed but not flushed.
    pub(super) queue: Vec<LocalEntry>,
    pub(super) time: i64,
    pub(super) watching: bool,
    pub(super) local_patches: Vec<Patch>,
    pub(super) quarantine: BTreeSet<EntryId>,
    pub(super) refused: BTreeSet<EntryId>,
    pub(super) broken: bool,
    #[cfg(test)]
    pub(super) panic_on: Option<EntryId>,
}

impl Default for View {
    fn default() -> Self {
        View::new()
    }
}

impl View {
    /// An empty document.
    pub fn new() -> View {
        View::over(blank(), Graph::default(), Some(OpIndex::default()))
    }

    pub(super) fn over(doc: am::Automerge, graph: Graph, index: Option<OpIndex>) -> View {
        View {
            doc: Doc::Idle(Box::new(doc)),
            graph,
            renaming: Renaming::default(),
            index,
            rules: &Rules::V1,
            chain: None,
            commands: Vec::new(),
            queue: Vec::new(),
            time: 0,
            watching: false,
            local_patches: Vec::new(),
            quarantine: BTreeSet::new(),
            refused: BTreeSet::new(),
            broken: false,
            #[cfg(test)]
            panic_on: None,
        }
    }

    /// Whether patches are made. They cost about as much again as the edit or entry itself. Takes effect for edits with
    /// the next change.
    pub fn watch(&mut self, watching: bool) {
        self.watching = watching;
    }

    /// Entries to keep out without trying: quarantined earlier by this engine version.
    pub fn quarantine(&mut self, ids: impl IntoIterator<Item = EntryId>) {
        self.quarantine.extend(ids);
    }

    /// Whether an entry is in the view.
    pub fn contains(&self, id: &EntryId) -> bool {
        self.graph.find(id).is_some()
    }

    /// Whether the entries that it was loaded from have been checked, as the first batch makes sure.
    pub fn is_checked(&self) -> bool {
        self.index.is_some()
    }

    /// How many entries are in the view.
    pub(crate) fn changes(&self) -> usize {
        self.graph.len()
    }

    /// What the view costs.
    pub fn cost(&self) -> Cost {
        let stats = with_doc!(self, doc => ReadDoc::stats(doc));
        let (changes, ops) = (self.graph.len(), stats.num_ops as usize);
        let own = self.graph.bytes_estimate()
            + self.renaming.bytes_estimate()
            + self.index.as_ref().map_or(0, OpIndex::bytes_estimate);
        Cost { changes, ops, actors: self.graph.chains(), bytes_estimate: own + 1_000 * changes + 20 * ops }
    }

    /// Checks and applies entries, in any order, in one batch. `log` is read only if the CRDT library fails on the batch.
    pub fn apply_remote(&mut self, entries: &[(EntryId, &[u8])], log: &mut ReadLog<'_>) -> Applied {
        let mut out = Applied::default();
        let committed = self.commit();
        out.local_patches = self.take_local_patches();
        out.heads_before = Some(self.graph.heads());
        if self.broken || committed.is_err() {
            out.broken = true;
            return out;
        }
        if let Err(bad) = self.verify() {
            out.bad_base = Some(bad);
            return out;
        }
        let before = self.renaming.hashes(&self.graph, &self.graph.heads());
        let known = self.graph.len() as NodeId;
        self.index.get_or_insert_default().begin_batch();
        let good = self.admit_batch(entries, &mut out);
        let doubt = self.index.as_mut().map(OpIndex::end_batch).unwrap_or_default();
        if good.is_empty() {
            return out;
        }
        let admitted: Vec<NodeId> = good.iter().map(|(node, _)| *node).collect();
        let forked = self.graph.take_forked();
        if forked.is_some() {
            let twins = self.twins();
            if !twins.is_empty() {
                self.leave_out(&twins, &good, &mut out);
                return out;
            }
        }
        let shown = match forked {
            None => self.show(good, &before, doubt),
            // An entry that is shown gets another name.
            Some(first) if first < known => self.reveal(good),
            Some(_) => {
                self.renaming.extend(&self.graph);
                self.show(good, &before, doubt)
            }
        };
        match shown {
            Ok(patches) => (out.applied, out.patches) = (admitted.len(), patches),
            Err(Broken) => self.recover(known, entries, &admitted, log, &mut out),
        }
        out
    }

    /// Rule M1, dependencies first. Good entries are in graph and index when this returns.
    fn admit_batch(&mut self, entries: &[(EntryId, &[u8])], out: &mut Applied) -> Vec<(NodeId, am::Change)> {
        let mut batch = Batch::default();
        for (id, bytes) in entries {
            if self.contains(id) || batch.at.contains_key(id) {
                continue;
            }
            batch.at.insert(*id, batch.items.len());
            batch.items.push((*id, Some(admit::parse(*id, bytes))));
        }
        let mut good = Vec::with_capacity(batch.items.len());
        for at in batch.order() {
            let (id, parsed) = &mut batch.items[at];
            let id = *id;
            let verdict = match parsed.take().expect("each item is taken once") {
                Ok(change) => self.admit_one(id, &change).map(|node| (node, change)),
                Err(fault) => Err(Refusal::Invalid(fault)),
            };
            match verdict {
                Ok(entry) => good.push(entry),
                Err(Refusal::Missing) => out.missing.push(id),
                Err(Refusal::Quarantined) => {
                    self.quarantine.insert(id);
                    out.quarantined.push(id);
                }
                Err(Refusal::Invalid(fault)) => {
                    self.refuse(id);
                    out.invalid.push((id, fault));
                }
            }
        }
        good
    }

    pub(super) fn refuse(&mut self, id: EntryId) {
        if self.refused.len() < REFUSED_MAX {
            self.refused.insert(id);
        }
    }

    fn admit_one(&mut self, id: EntryId, change: &am::Change) -> Result<NodeId, Refusal> {
        let ids = change.deps().iter().map(|dep| EntryId(dep.0));
        if ids.clone().any(|dep| self.refused.contains(&dep)) {
            return Err(Refusal::Invalid(Fault::PastInvalid));
        }
        if self.quarantine.contains(&id) || ids.clone().any(|dep| self.quarantine.contains(&dep)) {
            return Err(Refusal::Quarantined);
        }
        let deps: Option<Vec<NodeId>> = ids.map(|dep| self.graph.find(&dep)).collect();
        let deps = deps.ok_or(Refusal::Missing)?;
        let index = self.index.get_or_insert_default();
        admit::admit(&mut self.graph, index, self.rules, change, &deps).map_err(Refusal::Invalid)
    }

    /// Rule M2, first half: one batch, behind a guard, and no word is believed but the heads.
    fn show(
        &mut self,
        entries: Vec<(NodeId, am::Change)>,
        before: &[am::ChangeHash],
        doubt: Doubt,
    ) -> Result<Vec<Patch>, Broken> {
        let trap = self.traps(&entries);
        let watching = self.watching;
        let View { doc: Doc::Idle(doc), graph, renaming, .. } = self else { unreachable!("committed before a batch") };
        guarded(|| {
            assert!(!trap, "injected");
            let changes = rewrite(renaming, graph, entries)?;
            let mut log = am::PatchLog::new(watching);
            doc.apply_changes_log_patches(changes, &mut log).map_err(|_| Broken)?;
            if doc.get_heads() != renaming.hashes(graph, &graph.heads()) {
                return Err(Broken);
            }
            if !watching {
                return Ok(Vec::new());
            }
            let patches = doc.make_patches(&mut log);
            let stands = |(map, key): &(Option<OpRef>, Box<str>)| {
                let map = map.map_or(am::ROOT, |op| {
                    am::ObjId::Id(u64::from(op.counter), renaming.naming().actor(graph, op), usize::MAX)
                });
                doc.get(map, &**key).is_ok_and(|found| found.is_some())
            };
            if doubt.certain || doubt.keys.iter().any(stands) || patches.iter().any(patch::doubtful) {
                return Ok(compare(doc, before, patches));
            }
            Ok(patches.into_iter().map(Patch::from_am).collect())
        })
    }

    /// Applies a batch by which entries that are shown get other names: makes the document again, from itself.
    fn reveal(&mut self, entries: Vec<(NodeId, am::Change)>) -> Result<Vec<Patch>, Broken> {
        let mut all = guarded(|| Ok(self.wire_changes(&[])))?;
        all.extend(entries);
        let (doc, renaming) = self.build(all)?;
        let patches = match (self.watching, &self.doc) {
            (true, Doc::Idle(old)) => guarded(|| Ok(compare_documents(old, &doc)))?,
            _ => Vec::new(),
        };
        (self.doc, self.renaming) = (Doc::Idle(Box::new(doc)), renaming);
        Ok(patches)
    }

    /// A document of entries of the graph, under the names that the graph asks for. All of the graph, if its heads are to be right.
    fn build(&mut self, mut entries: Vec<(NodeId, am::Change)>) -> Result<(am::Automerge, Renaming), Broken> {
        entries.sort_unstable_by_key(|(node, _)| *node);
        let trap = self.traps(&entries);
        let graph = &mut self.graph;
        guarded(|| {
            assert!(!trap, "injected");
            let mut renaming = Renaming::of(graph);
            let changes = rewrite(&mut renaming, graph, entries)?;
            let mut doc = blank();
            doc.apply_changes(changes).map_err(|_| Broken)?;
            let heads = renaming.hashes(graph, &graph.heads());
            if doc.get_heads() == heads { Ok((doc, renaming)) } else { Err(Broken) }
        })
    }

    /// Whether a test wants these entries to fail.
    #[cfg(test)]
    fn traps(&self, entries: &[(NodeId, am::Change)]) -> bool {
        entries.iter().any(|(node, _)| Some(self.graph.id(*node)) == self.panic_on)
    }

    #[cfg(not(test))]
    fn traps(&self, _: &[(NodeId, am::Change)]) -> bool {
        false
    }

    /// Checks rule M1 for everything that came with a snapshot; done at most once, by itself before the first remote entry.
    /// Worth calling early for a snapshot from a stranger. About 6 µs an operation, and half a kilobyte a change for its time.
    pub fn verify(&mut self) -> Result<(), (EntryId, Fault)> {
        if self.index.is_some() {
            return Ok(());
        }
        let Doc::Idle(doc) = &self.doc else { return Ok(()) };
        let changes = doc.get_changes(&[]);
        let mut index = OpIndex::default();
        for change in &changes {
            let id = EntryId(change.hash().0);
            let node = self.graph.find(&id).expect("the graph was made of this document");
            let line = self.graph.node(node).line;
            let deps: Vec<NodeId> = self.graph.deps(node).to_vec();
            let clock = self.graph.past(&deps);
            admit::check_ops(&self.graph, &mut index, self.rules, line, change, &clock, Trust::Loaded)
                .map_err(|f| (id, f))?;
            self.graph.note(node, clock);
        }
        self.index = Some(index);
        Ok(())
    }
}

/// What the view applies for these entries, which are in the order of the graph.
pub(super) fn rewrite(
    renaming: &mut Renaming,
    graph: &mut Graph,
    entries: impl IntoIterator<Item = (NodeId, am::Change)>,
) -> Result<Vec<am::Change>, Broken> {
    entries.into_iter().map(|(node, change)| renaming.applied(graph, node, change)).collect()
}

/// Why an entry of a batch is not applied.
enum Refusal {
    Missing,
    Quarantined,
    Invalid(Fault),
}

type Parsed = (EntryId, Option<Result<am::Change, Fault>>);

#[derive(Default)]
struct Batch {
    items: Vec<Parsed>,
    at: HashMap<EntryId, usize>,
}

impl Batch {
    /// Positions, dependencies first, else as given. Ids are hashes of what names them, so there is no cycle.
    fn order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.items.len());
        let mut waits = vec![0usize; self.items.len()];
        let mut wakes: HashMap<usize, Vec<usize>> = HashMap::new();
        for (at, (_, parsed)) in self.items.iter().enumerate() {
            let deps = parsed.iter().flatten().flat_map(|change| change.deps());
            for dep in deps.filter_map(|dep| self.at.get(&EntryId(dep.0))) {
                waits[at] += 1;
                wakes.entry(*dep).or_default().push(at);
            }
        }
        order.extend((0..self.items.len()).filter(|at| waits[*at] == 0));
        let mut next = 0;
        while let Some(at) = order.get(next).copied() {
            next += 1;
            for woken in wakes.remove(&at).unwrap_or_default() {
                waits[woken] -= 1;
                if waits[woken] == 0 {
                    order.push(woken);
                }
            }
        }
        order
    }
}

/// Runs what may panic inside the CRDT library. Whatever it touched is thrown away then.
pub(super) fn guarded<T>(f: impl FnOnce() -> Result<T, Broken>) -> Result<T, Broken> {
    contain(f).unwrap_or(Err(Broken))
}
