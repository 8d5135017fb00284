//! What the view calls the branches of chains that have forked.
//!
//! A chain with a fork among the entries shown falls into segments: the trunk up to the first fork, and for each entry that has
//! a sibling the segment that it begins. The trunk keeps the chain's name; a segment is called by the chain and the first
//! [`BRANCH_BYTES`] of the ids that begin the segments on its path. So names depend on the set of entries shown, not on the order
//! in which they came, and a further fork makes names longer but never orders two branches the other way round. Numbers
//! begin at 1 in each segment, as Automerge wants of an actor; counters of operations stay.

use std::collections::HashMap;

use automerge as am;

use super::graph::{BRANCH_BYTES, ChainIdx, Graph, LineIdx, NodeId};
use super::op_index::OpRef;

/// Bytes of a locator: the chain, and the entry that begins the segment.
const LOCATOR_BYTES: usize = 16 + BRANCH_BYTES;

/// The part of a line that one segment covers.
#[derive(Debug)]
struct Part {
    from_seq: u32,
    from_op: u32,
    name: am::ActorId,
}

/// The names of all lines of forked chains. Empty while no chain has forked.
#[derive(Debug, Default)]
pub(super) struct Naming {
    /// By line; none where the chain has not forked.
    parts: Vec<Vec<Part>>,
    /// Lines by the names that are no chain's.
    lines: HashMap<am::ActorId, LineIdx>,
}

impl Naming {
    pub(super) fn of(graph: &Graph) -> Naming {
        let mut naming = Naming::default();
        if !graph.is_forked() {
            return naming;
        }
        naming.parts.resize_with(graph.lines(), Vec::new);
        (0..graph.chains() as ChainIdx).for_each(|chain| naming.chain(graph, chain));
        naming
    }

    fn chain(&mut self, graph: &Graph, chain: ChainIdx) {
        let mut starts: Vec<NodeId> = graph.forks_of(chain).iter().flatten().copied().collect();
        if starts.is_empty() {
            return;
        }
        // By line, and in the order of the line.
        starts.sort_unstable_by_key(|start| (graph.node(*start).line, *start));
        for line in graph.lines_of(chain).iter().copied() {
            let (parent, shared) = graph.parent(line);
            let mut name = match parent {
                Some(parent) => self.part(parent, |part| part.from_seq <= shared).name.to_bytes().to_vec(),
                None => graph.chain_name(chain).to_vec(),
            };
            let mut parts = Vec::new();
            let from = starts.partition_point(|start| graph.node(*start).line < line);
            let own = starts[from..].iter().take_while(|start| graph.node(**start).line == line);
            let mut own = own.map(|start| (*start, graph.node(*start))).peekable();
            if own.peek().is_none_or(|(_, first)| first.seq != shared + 1) {
                let name = am::ActorId::from(&name[..]);
                parts.push(Part { from_seq: shared + 1, from_op: 0, name });
            }
            for (start, node) in own {
                name.extend_from_slice(&graph.id(start).0[..BRANCH_BYTES]);
                let name = am::ActorId::from(&name[..]);
                self.lines.insert(name.clone(), line);
                parts.push(Part { from_seq: node.seq, from_op: node.start_op, name });
            }
            self.parts[line as usize] = parts;
        }
    }

    fn part(&self, line: LineIdx, before: impl FnMut(&Part) -> bool) -> &Part {
        let parts = &self.parts[line as usize];
        &parts[parts.partition_point(before).saturating_sub(1)]
    }

    fn is_named(&self, line: LineIdx) -> bool {
        self.parts.get(line as usize).is_some_and(|parts| !parts.is_empty())
    }

    /// Whether no chain has forked: all names are the chains' own.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether a branch has forked again.
    #[cfg(test)]
    pub(super) fn is_nested(&self) -> bool {
        self.lines.keys().any(|name| name.to_bytes().len() > LOCATOR_BYTES)
    }

    /// Whether the chain of that name has forked, or it is a locator.
    pub(super) fn concerns(&self, graph: &Graph, name: &am::ActorId) -> bool {
        let name = name.to_bytes();
        name.len() > 16 || graph.chain(name).is_some_and(|chain| !graph.forks_of(chain).is_empty())
    }

    /// The actor under which the view shows an operation.
    pub(super) fn actor(&self, graph: &Graph, op: OpRef) -> am::ActorId {
        match self.is_named(op.line) {
            false => am::ActorId::from(*graph.name(op.line)),
            true => self.part(op.line, |part| part.from_op <= op.counter).name.clone(),
        }
    }

    /// The actor and number under which the view shows an entry; none where they are its own.
    pub(super) fn entry(&self, graph: &Graph, node: NodeId) -> Option<(am::ActorId, u64)> {
        let node = graph.node(node);
        self.is_named(node.line).then(|| {
            let part = self.part(node.line, |part| part.from_seq <= node.seq);
            (part.name.clone(), u64::from(node.seq - part.from_seq + 1))
        })
    }

    /// The line of an actor of the view.
    pub(super) fn line(&self, graph: &Graph, actor: &am::ActorId) -> Option<LineIdx> {
        match self.lines.get(actor) {
            Some(line) => Some(*line),
            None => graph.chain(actor.to_bytes()).map(|chain| graph.lines_of(chain)[0]),
        }
    }
}

/// What names the operations of an actor of the view on the wire: itself, or the locator of its segment.
pub(super) fn locator(actor: &am::ActorId) -> Option<am::ActorId> {
    let name = actor.to_bytes();
    (name.len() > LOCATOR_BYTES).then(|| {
        let (chain, branch) = (&name[..16], &name[name.len() - BRANCH_BYTES..]);
        am::ActorId::from([chain, branch].concat())
    })
}
