//! From what is on the wire to what the view applies, and back.
//!
//! Where a chain has forked, Automerge is given changes that are written anew: under the names of [`Naming`], with dependencies that
//! name what it was given. Most of this module does nothing while no chain has forked.

use std::collections::HashMap;

use automerge as am;
use automerge::legacy::{ElementId, Key, ObjectId, OpId};
use commonhold_sync::id::EntryId;

use super::graph::{Clock, Graph, NodeId, Span};
use super::naming::{Naming, locator};
use super::op_index::OpRef;
use super::view::Broken;

/// What became of an entry that the view could not take as it is.
#[derive(Debug)]
struct Rewritten {
    hash: am::ChangeHash,
    /// The entry as it is on the wire. More than one wire form may mean what the view shows.
    wire: Box<[u8]>,
}

/// The names in force, and every entry that was written anew for them.
#[derive(Debug, Default)]
pub(super) struct Renaming {
    naming: Naming,
    by_node: HashMap<NodeId, Rewritten>,
    by_hash: HashMap<am::ChangeHash, NodeId>,
}

impl Renaming {
    /// For the entries that a graph holds; none of them is written yet.
    pub(super) fn of(graph: &Graph) -> Renaming {
        Renaming { naming: Naming::of(graph), ..Renaming::default() }
    }

    /// New names, after forks that change no name of an entry that was written.
    pub(super) fn extend(&mut self, graph: &Graph) {
        self.naming = Naming::of(graph);
    }

    pub(super) fn naming(&self) -> &Naming {
        &self.naming
    }

    /// Entries that were written anew.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_node.len()
    }

    pub(super) fn bytes_estimate(&self) -> usize {
        self.by_node.values().map(|rewritten| rewritten.wire.len() + 160).sum()
    }

    /// The hash under which the view holds an entry.
    pub(super) fn hash(&self, graph: &Graph, node: NodeId) -> am::ChangeHash {
        match self.by_node.get(&node) {
            Some(rewritten) => rewritten.hash,
            None => am::ChangeHash(graph.id(node).0),
        }
    }

    /// The same for many, in the library's order. Unknown ones stay as they are.
    pub(super) fn hashes(&self, graph: &Graph, ids: &[EntryId]) -> Vec<am::ChangeHash> {
        let hash = |id: &EntryId| match graph.find(id) {
            Some(node) if !self.by_node.is_empty() => self.hash(graph, node),
            _ => am::ChangeHash(id.0),
        };
        let mut hashes: Vec<am::ChangeHash> = ids.iter().map(hash).collect();
        hashes.sort_unstable();
        hashes
    }

    /// The entry that the view holds under a hash.
    pub(super) fn node(&self, graph: &Graph, hash: &am::ChangeHash) -> Option<NodeId> {
        self.by_hash.get(hash).copied().or_else(|| graph.find(&EntryId(hash.0)))
    }

    /// Its id.
    pub(super) fn id(&self, graph: &Graph, hash: &am::ChangeHash) -> EntryId {
        match self.by_hash.get(hash) {
            Some(node) => graph.id(*node),
            None => EntryId(hash.0),
        }
    }

    /// The wire form of an entry that was written anew.
    pub(super) fn wire(&self, node: NodeId) -> Option<&[u8]> {
        self.by_node.get(&node).map(|rewritten| &*rewritten.wire)
    }

    /// Notes that the view holds an entry under another hash.
    pub(super) fn note(&mut self, node: NodeId, hash: am::ChangeHash, wire: &[u8]) {
        self.by_node.insert(node, Rewritten { hash, wire: wire.into() });
        self.by_hash.insert(hash, node);
    }

    /// What the view applies for an entry of the graph. Its dependencies come first.
    pub(super) fn applied(
        &mut self,
        graph: &mut Graph,
        node: NodeId,
        change: am::Change,
    ) -> Result<am::Change, Broken> {
        if self.naming.is_empty() {
            return Ok(change);
        }
        let own = self.naming.entry(graph, node);
        let names = change.actors().any(|name| self.naming.concerns(graph, name));
        let depends = graph.deps(node).iter().any(|dep| self.by_node.contains_key(dep));
        if !names && !depends {
            return Ok(change);
        }
        let mut decoded = change.decode();
        if depends {
            decoded.deps = graph.deps(node).iter().map(|dep| self.hash(graph, *dep)).collect();
            decoded.deps.sort_unstable();
        }
        if names {
            let deps = graph.deps(node).to_vec();
            let past = graph.past(&deps);
            let start = decoded.start_op.get();
            let wire_name = decoded.actor_id.clone();
            let mut names = Names {
                graph,
                naming: &self.naming,
                past: &past,
                own: wire_name,
                own_line: graph.node(node).line,
                start,
                seen: Vec::new(),
            };
            rename(&mut decoded.operations, &mut |id| names.view(id))?;
        }
        if let Some((actor, seq)) = own {
            (decoded.actor_id, decoded.seq) = (actor, seq);
        }
        let view = am::Change::from(decoded);
        if view.hash() != change.hash() {
            self.note(node, view.hash(), change.raw_bytes());
        }
        Ok(view)
    }

    /// The wire form of a change that was made in the view; none where that is its form already.
    pub(super) fn written(&self, graph: &Graph, change: &am::Change) -> Option<am::Change> {
        if self.naming.is_empty() {
            return None;
        }
        let renamed = change.actors().any(|name| name.to_bytes().len() > 16);
        let depends = change.deps().iter().any(|dep| self.by_hash.contains_key(dep));
        if !renamed && !depends {
            return None;
        }
        let mut decoded = change.decode();
        decoded.deps = change.deps().iter().map(|dep| am::ChangeHash(self.id(graph, dep).0)).collect();
        decoded.deps.sort_unstable();
        if renamed {
            let located = |id: &OpId| Ok(OpId(id.0, locator(&id.1).unwrap_or_else(|| id.1.clone())));
            rename(&mut decoded.operations, &mut { located }).ok()?;
        }
        Some(am::Change::from(decoded))
    }
}

/// What the names in one change mean.
struct Names<'a> {
    graph: &'a Graph,
    naming: &'a Naming,
    past: &'a Clock,
    own: am::ActorId,
    own_line: u32,
    start: u64,
    seen: Vec<(am::ActorId, Option<Vec<Span>>)>,
}

impl Names<'_> {
    fn view(&mut self, id: &OpId) -> Result<OpId, Broken> {
        let counter = u32::try_from(id.0).map_err(|_| Broken)?;
        let op = if id.0 >= self.start && id.1 == self.own {
            OpRef { line: self.own_line, counter }
        } else {
            let at = match self.seen.iter().position(|(name, _)| *name == id.1) {
                Some(at) => at,
                None => {
                    let spans = || self.graph.spans(id.1.to_bytes(), self.past);
                    let spans = self.naming.concerns(self.graph, &id.1).then(spans);
                    self.seen.push((id.1.clone(), spans));
                    self.seen.len() - 1
                }
            };
            match &self.seen[at].1 {
                Some(spans) => self.graph.pick(spans, counter).ok_or(Broken)?,
                None => return Ok(id.clone()),
            }
        };
        Ok(OpId(id.0, self.naming.actor(self.graph, op)))
    }
}

/// Gives every id in the operations another name.
fn rename(ops: &mut [am::legacy::Op], to: &mut impl FnMut(&OpId) -> Result<OpId, Broken>) -> Result<(), Broken> {
    for op in ops {
        if let ObjectId::Id(id) = &mut op.obj {
            *id = to(id)?;
        }
        if let Key::Seq(ElementId::Id(id)) = &mut op.key {
            *id = to(id)?;
        }
        if !op.pred.is_empty() {
            // Collecting sorts: other names, another order.
            op.pred = op.pred.iter().map(&mut *to).collect::<Result<Vec<OpId>, Broken>>()?.into();
        }
    }
    Ok(())
}
