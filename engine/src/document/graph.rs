//! The causal graph of a view: which entries it holds, by chain and number, and what lies in the past of each.
//!
//! A past is a clock: for each chain the number of its entries that are in it. Clocks are not kept for every entry (that
//! would be chains × entries): the newest few are cached, one entry in some hundreds is a checkpoint, the rest is walked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use commonhold_sync::id::EntryId;

/// Position of an entry in the graph: entries are numbered as they were added, dependencies first.
pub(super) type NodeId = u32;
/// Position of a chain in the graph.
pub(super) type ActorIdx = u32;

/// Entries walked to find a past before the result is kept as a checkpoint. Wild guess: 256 steps are about 10 µs.
const WALK_MAX: usize = 256;
/// Newest clocks kept. A batch interleaves at most a handful of live chains in the common case.
const HOT_CLOCKS: usize = 8;

/// For each chain, how many of its entries are in a past. Chains beyond the end have none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Clock(Vec<u32>);

impl Clock {
    pub(super) fn seq(&self, actor: ActorIdx) -> u32 {
        self.0.get(actor as usize).copied().unwrap_or(0)
    }

    fn raise(&mut self, actor: ActorIdx, seq: u32) {
        let actor = actor as usize;
        if self.0.len() <= actor {
            self.0.resize(actor + 1, 0);
        }
        self.0[actor] = self.0[actor].max(seq);
    }

    fn merge(&mut self, other: &[u32]) {
        if self.0.len() < other.len() {
            self.0.resize(other.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(other) {
            *mine = (*mine).max(*theirs);
        }
    }
}

/// One entry. 20 bytes, besides its id and the table from id to node (about 100 bytes an entry in all).
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) actor: ActorIdx,
    pub(super) seq: u32,
    pub(super) start_op: u32,
    /// Highest operation of the entry and its past; `start_op - 1` where the entry is empty.
    pub(super) max_op: u32,
    deps_at: u32,
}

#[derive(Debug)]
struct Chain {
    name: Box<[u8]>,
    entries: Vec<NodeId>,
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    ids: Vec<EntryId>,
    nodes: Vec<Node>,
    deps: Vec<NodeId>,
    by_id: HashMap<EntryId, NodeId>,
    chains: Vec<Chain>,
    by_name: HashMap<Box<[u8]>, ActorIdx>,
    heads: BTreeSet<NodeId>,
    checkpoints: HashMap<NodeId, Box<[u32]>>,
    hot: Vec<(NodeId, Clock)>,
}

impl Graph {
    pub(super) fn with_capacity(entries: usize) -> Graph {
        Graph {
            ids: Vec::with_capacity(entries),
            nodes: Vec::with_capacity(entries),
            deps: Vec::with_capacity(entries),
            by_id: HashMap::with_capacity(entries),
            ..Graph::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn chains(&self) -> usize {
        self.chains.len()
    }

    pub(super) fn find(&self, id: &EntryId) -> Option<NodeId> {
        // Chains mostly go on from the entry before; this saves hashing 32 bytes.
        match self.ids.last() {
            Some(last) if last == id => Some(self.ids.len() as NodeId - 1),
            _ => self.by_id.get(id).copied(),
        }
    }

    pub(super) fn id(&self, node: NodeId) -> EntryId {
        self.ids[node as usize]
    }

    pub(super) fn node(&self, node: NodeId) -> Node {
        self.nodes[node as usize]
    }

    pub(super) fn deps(&self, node: NodeId) -> &[NodeId] {
        let from = self.nodes[node as usize].deps_at as usize;
        let to = self.nodes.get(node as usize + 1).map_or(self.deps.len(), |next| next.deps_at as usize);
        &self.deps[from..to]
    }

    pub(super) fn actor(&self, name: &[u8]) -> Option<ActorIdx> {
        self.by_name.get(name).copied()
    }

    pub(super) fn actor_name(&self, actor: ActorIdx) -> &[u8] {
        &self.chains[actor as usize].name
    }

    /// Entries of a chain, in order.
    pub(super) fn chain(&self, actor: ActorIdx) -> &[NodeId] {
        &self.chains[actor as usize].entries
    }

    /// The chain of that name, made if new.
    pub(super) fn intern(&mut self, name: &[u8]) -> ActorIdx {
        if let Some(actor) = self.actor(name) {
            return actor;
        }
        let actor = self.chains.len() as ActorIdx;
        self.chains.push(Chain { name: name.into(), entries: Vec::new() });
        self.by_name.insert(name.into(), actor);
        actor
    }

    /// Ids of the entries that no other depends on, sorted.
    pub(super) fn heads(&self) -> Vec<EntryId> {
        let mut heads: Vec<EntryId> = self.heads.iter().map(|node| self.id(*node)).collect();
        heads.sort_unstable();
        heads
    }

    /// The entries that no other depends on.
    pub(super) fn head_nodes(&self) -> Vec<NodeId> {
        self.heads.iter().copied().collect()
    }

    /// Each head, with its past in other chains. Entries that follow each other in a chain share one map.
    pub(super) fn head_pasts(&self) -> Vec<(NodeId, Arc<BTreeMap<ActorIdx, u32>>)> {
        let mut pasts: Vec<Arc<BTreeMap<ActorIdx, u32>>> = Vec::with_capacity(self.nodes.len());
        for (at, node) in self.nodes.iter().enumerate() {
            let past = match self.deps(at as NodeId) {
                [dep] if self.node(*dep).actor == node.actor => pasts[*dep as usize].clone(),
                deps => {
                    let mut past = BTreeMap::new();
                    for dep in deps {
                        let of = self.node(*dep);
                        let theirs = pasts[*dep as usize].iter().map(|(actor, seq)| (*actor, *seq));
                        for (actor, seq) in theirs.chain([(of.actor, of.seq)]) {
                            let last = past.entry(actor).or_insert(0);
                            *last = seq.max(*last);
                        }
                    }
                    past.remove(&node.actor);
                    Arc::new(past)
                }
            };
            pasts.push(past);
        }
        self.heads.iter().map(|head| (*head, pasts[*head as usize].clone())).collect()
    }

    /// Highest operation of what these entries and their pasts hold. As `start_op` always exceeds the past, the direct
    /// dependencies are enough.
    pub(super) fn max_op(&self, deps: &[NodeId]) -> u32 {
        deps.iter().map(|dep| self.node(*dep).max_op).max().unwrap_or(0)
    }

    /// Highest operation of a chain that is in a past.
    pub(super) fn max_op_of(&self, actor: ActorIdx, clock: &Clock) -> u32 {
        match clock.seq(actor) {
            0 => 0,
            seq => self.chain(actor).get(seq as usize - 1).map_or(0, |node| self.node(*node).max_op),
        }
    }

    /// Adds an entry whose dependencies are present and whose number is the next of its chain. `clock` is its past if
    /// the caller has it at hand.
    pub(super) fn push(
        &mut self,
        id: EntryId,
        actor: ActorIdx,
        start_op: u32,
        ops: u32,
        deps: &[NodeId],
        clock: Option<Clock>,
    ) -> NodeId {
        let node = self.nodes.len() as NodeId;
        let seq = self.chains[actor as usize].entries.len() as u32 + 1;
        let max_op = (start_op + ops).saturating_sub(1);
        self.nodes.push(Node { actor, seq, start_op, max_op, deps_at: self.deps.len() as u32 });
        self.deps.extend_from_slice(deps);
        self.ids.push(id);
        self.by_id.insert(id, node);
        self.chains[actor as usize].entries.push(node);
        for dep in deps {
            self.heads.remove(dep);
        }
        self.heads.insert(node);
        if let Some(clock) = clock {
            self.note(node, clock);
        }
        node
    }

    /// Keeps the past of an entry for those that will ask soon.
    pub(super) fn note(&mut self, node: NodeId, mut past: Clock) {
        let Node { actor, seq, .. } = self.node(node);
        past.raise(actor, seq);
        // A checkpoint costs 4 bytes a chain, so documents with many chains take them further apart.
        if (node as usize).is_multiple_of(WALK_MAX.max(self.chains.len())) {
            self.checkpoints.insert(node, past.0.clone().into());
        }
        self.remember(node, past);
    }

    fn remember(&mut self, node: NodeId, clock: Clock) {
        if self.hot.len() == HOT_CLOCKS {
            self.hot.remove(0);
        }
        self.hot.push((node, clock));
    }

    /// What lies in the past of these entries, themselves included.
    pub(super) fn past(&mut self, of: &[NodeId]) -> Clock {
        let mut clock = Clock::default();
        for node in of {
            if let Some((_, hot)) = self.hot.iter().rev().find(|(hot, _)| hot == node) {
                clock.merge(&hot.0);
            } else if let Some(checkpoint) = self.checkpoints.get(node) {
                clock.merge(checkpoint);
            } else {
                let (walked, steps) = self.walk(*node);
                clock.merge(&walked.0);
                if steps > WALK_MAX {
                    self.checkpoints.insert(*node, walked.0.clone().into());
                }
                self.remember(*node, walked);
            }
        }
        clock
    }

    fn walk(&self, from: NodeId) -> (Clock, usize) {
        let (mut clock, mut seen, mut stack) = (Clock::default(), HashSet::new(), vec![from]);
        while let Some(node) = stack.pop() {
            if !seen.insert(node) {
                continue;
            }
            if let Some(checkpoint) = self.checkpoints.get(&node) {
                clock.merge(checkpoint);
                continue;
            }
            let Node { actor, seq, .. } = self.node(node);
            clock.raise(actor, seq);
            stack.extend_from_slice(self.deps(node));
        }
        (clock, seen.len())
    }

    /// Bytes that the graph takes, by its counts.
    pub(super) fn bytes_estimate(&self) -> usize {
        100 * self.nodes.len()
            + 4 * self.deps.len()
            + 120 * self.chains.len()
            + self.checkpoints.values().map(|clock| 4 * clock.len() + 48).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: usize) -> EntryId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        EntryId(bytes)
    }

    proptest! {
        #[test]
        fn the_past_found_equals_the_past_walked_by_hand(
            steps in prop::collection::vec((0u8..5, prop::collection::vec(any::<prop::sample::Index>(), 1..4), any::<bool>()), 1..700)
        ) {
            let mut graph = Graph::default();
            let mut sets: Vec<BTreeSet<NodeId>> = Vec::new();
            for (n, (actor, deps, with_clock)) in steps.iter().enumerate() {
                let actor = graph.intern(&[*actor; 16]);
                let mut deps: Vec<NodeId> = if n == 0 { vec![] } else { deps.iter().map(|d| d.index(n) as NodeId).collect() };
                deps.extend(graph.chain(actor).last());
                deps.sort_unstable();
                deps.dedup();
                let clock = graph.past(&deps);
                let mut past: BTreeSet<NodeId> = deps.iter().flat_map(|d| sets[*d as usize].iter().copied()).collect();
                for other in 0..graph.chains() as ActorIdx {
                    let held = graph.chain(other).iter().filter(|node| past.contains(node)).count();
                    prop_assert_eq!(clock.seq(other) as usize, held);
                }
                let node = graph.push(id(n), actor, n as u32 + 1, 1, &deps, with_clock.then_some(clock));
                past.insert(node);
                sets.push(past);
            }
        }
    }
}
