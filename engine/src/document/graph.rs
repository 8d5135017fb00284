//! The causal graph of a view: which entries it holds, by chain and number, and what lies in the past of each.
//!
//! A chain that never forked is one line of entries. Where it forked, the branch that came second is a line of its own, which
//! knows where it left its parent. Which branch came second is a matter of this view only: nothing that others see, names above
//! all, may depend on it.
//!
//! A past is a clock: for each line the number of its last entry that is in it. Clocks are not kept for every entry (that
//! would be lines × entries): the newest few are cached, one entry in some hundreds is a checkpoint, the rest is walked.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use commonhold_sync::id::EntryId;

use super::op_index::OpRef;

/// Position of an entry in the graph: entries are numbered as they were added, dependencies first.
pub(super) type NodeId = u32;
/// Position of a line in the graph.
pub(super) type LineIdx = u32;
/// Position of a chain in the graph.
pub(super) type ChainIdx = u32;
/// A chain's name.
pub(super) type ChainName = [u8; 16];
/// Bytes of an entry's id that name a branch. Two branches that begin alike cost their maker 2^64 hashes.
pub(super) const BRANCH_BYTES: usize = 16;

/// Entries walked to find a past before the result is kept as a checkpoint. Wild guess: 256 steps are about 10 µs.
const WALK_MAX: usize = 256;
/// Newest clocks kept. A batch interleaves at most a handful of live chains in the common case.
const HOT_CLOCKS: usize = 8;

/// For each line, the number of its last entry in a past; 0 without one, and beyond the end. Where a line has one, all that its
/// path shares with the parent is there too, because the entry before lies in the past of every entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Clock(Vec<u32>);

impl Clock {
    pub(super) fn seq(&self, line: LineIdx) -> u32 {
        self.0.get(line as usize).copied().unwrap_or(0)
    }

    fn raise(&mut self, line: LineIdx, seq: u32) {
        let line = line as usize;
        if self.0.len() <= line {
            self.0.resize(line + 1, 0);
        }
        self.0[line] = self.0[line].max(seq);
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
    pub(super) line: LineIdx,
    /// Its number in the chain.
    pub(super) seq: u32,
    pub(super) start_op: u32,
    /// Highest operation of the entry and its past; `start_op - 1` where the entry is empty.
    pub(super) max_op: u32,
    deps_at: u32,
}

#[derive(Debug)]
struct Chain {
    name: ChainName,
    /// Parents before what left them.
    lines: Vec<LineIdx>,
    /// The entries that follow the same entry, for each place where that is more than one.
    forks: Vec<Vec<NodeId>>,
}

#[derive(Debug)]
struct Line {
    chain: ChainIdx,
    /// The line that holds the entry before the first of this one. None where it begins with number 1.
    parent: Option<LineIdx>,
    /// Entries before the first of this line.
    shared: u32,
    entries: Vec<NodeId>,
}

/// Where the next entry of a chain belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On the first line of a chain.
    First,
    /// At the end of a line.
    On(LineIdx),
    /// On a new line: the entry before it has a successor already.
    Beside { parent: Option<LineIdx>, shared: u32 },
}

/// Operations of one line that a name may mean: counters, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    line: LineIdx,
    from: u32,
    to: u32,
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    ids: Vec<EntryId>,
    nodes: Vec<Node>,
    deps: Vec<NodeId>,
    by_id: HashMap<EntryId, NodeId>,
    chains: Vec<Chain>,
    lines: Vec<Line>,
    by_name: HashMap<ChainName, ChainIdx>,
    /// Places where a chain forks.
    forks: usize,
    /// Since last asked: the first entry that got a sibling and had none; `NodeId::MAX` if all had.
    forked: Option<NodeId>,
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

    /// Whether a chain has more than one branch.
    pub(super) fn is_forked(&self) -> bool {
        self.forks > 0
    }

    /// Whether entries got siblings since this was asked last: the first of those that had none, `NodeId::MAX` if all had.
    pub(super) fn take_forked(&mut self) -> Option<NodeId> {
        self.forked.take()
    }

    pub(super) fn chain(&self, name: &[u8]) -> Option<ChainIdx> {
        self.by_name.get(<&ChainName>::try_from(name).ok()?).copied()
    }

    pub(super) fn chain_name(&self, chain: ChainIdx) -> &ChainName {
        &self.chains[chain as usize].name
    }

    pub(super) fn chain_of(&self, line: LineIdx) -> ChainIdx {
        self.lines[line as usize].chain
    }

    /// Name of the chain of a line.
    pub(super) fn name(&self, line: LineIdx) -> &ChainName {
        self.chain_name(self.chain_of(line))
    }

    /// Lines of a chain, parents first.
    pub(super) fn lines_of(&self, chain: ChainIdx) -> &[LineIdx] {
        &self.chains[chain as usize].lines
    }

    /// Entries that follow the same entry, for each place of a chain where that is more than one.
    pub(super) fn forks_of(&self, chain: ChainIdx) -> &[Vec<NodeId>] {
        &self.chains[chain as usize].forks
    }

    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// The line that a line left, and after how many entries of its path.
    pub(super) fn parent(&self, line: LineIdx) -> (Option<LineIdx>, u32) {
        let line = &self.lines[line as usize];
        (line.parent, line.shared)
    }

    /// The line with number 1 of the chain on the path of a line.
    pub(super) fn root_of(&self, line: LineIdx) -> LineIdx {
        let mut at = line;
        while let (Some(parent), _) = self.parent(at) {
            at = parent;
        }
        at
    }

    /// Entries of a line, in order.
    pub(super) fn entries(&self, line: LineIdx) -> &[NodeId] {
        &self.lines[line as usize].entries
    }

    /// The first line of the chain of that name, made if new.
    pub(super) fn intern(&mut self, name: &ChainName) -> LineIdx {
        if let Some(chain) = self.by_name.get(name) {
            return self.chains[*chain as usize].lines[0];
        }
        let chain = self.chains.len() as ChainIdx;
        self.chains.push(Chain { name: *name, lines: Vec::new(), forks: Vec::new() });
        self.by_name.insert(*name, chain);
        self.add_line(chain, None, 0)
    }

    fn add_line(&mut self, chain: ChainIdx, parent: Option<LineIdx>, shared: u32) -> LineIdx {
        let line = self.lines.len() as LineIdx;
        self.lines.push(Line { chain, parent, shared, entries: Vec::new() });
        self.chains[chain as usize].lines.push(line);
        line
    }

    /// The line of a chain on which an entry can be put that belongs to a place.
    pub(super) fn line_at(&mut self, name: &ChainName, place: Place) -> LineIdx {
        let first = self.intern(name);
        match place {
            Place::First => first,
            Place::On(line) => line,
            Place::Beside { parent, shared } => self.add_line(self.chain_of(first), parent, shared),
        }
    }

    /// Takes away the newest line if it is empty and no chain's first.
    pub(super) fn drop_empty(&mut self, line: LineIdx) {
        let chain = self.chain_of(line) as usize;
        let newest = line as usize + 1 == self.lines.len() && self.lines[line as usize].entries.is_empty();
        if newest && self.chains[chain].lines.len() > 1 {
            self.lines.pop();
            self.chains[chain].lines.pop();
        }
    }

    /// The last entry of a chain in a past that shows one branch of it at most; `Err` where it shows more.
    #[allow(clippy::result_unit_err, reason = "private")]
    pub(super) fn last_in(&self, chain: ChainIdx, past: &Clock) -> Result<Option<NodeId>, ()> {
        let lines = self.lines_of(chain);
        let seen = || lines.iter().copied().filter(|line| past.seq(*line) > 0);
        let Some(tip) = seen().max_by_key(|line| past.seq(*line)) else { return Ok(None) };
        // All that is seen has to lie on the path to the tip.
        let (mut at, mut on_path) = (tip, 1);
        while let (Some(parent), shared) = self.parent(at) {
            if past.seq(parent) != shared {
                return Err(());
            }
            (at, on_path) = (parent, on_path + 1);
        }
        if seen().count() != on_path {
            return Err(());
        }
        Ok(self.entry_at(tip, past.seq(tip)))
    }

    /// The entry of a number that is a line's own.
    fn entry_at(&self, line: LineIdx, seq: u32) -> Option<NodeId> {
        let Line { shared, entries, .. } = &self.lines[line as usize];
        entries.get(seq.checked_sub(shared + 1)? as usize).copied()
    }

    /// Where an entry belongs that follows `last`, or is the first of the chain.
    pub(super) fn place_after(&self, chain: Option<ChainIdx>, last: Option<NodeId>) -> Place {
        match (chain, last) {
            (None, _) => Place::First,
            (Some(chain), None) => match self.entries(self.lines_of(chain)[0]).is_empty() {
                true => Place::First,
                false => Place::Beside { parent: None, shared: 0 },
            },
            (_, Some(last)) => {
                let Node { line, seq, .. } = self.node(last);
                if self.entries(line).last() == Some(&last) {
                    Place::On(line)
                } else {
                    Place::Beside { parent: Some(line), shared: seq }
                }
            }
        }
    }

    /// The entries that hold the place of a line that is to be made.
    pub(super) fn siblings(&self, chain: ChainIdx, parent: Option<LineIdx>, shared: u32) -> Vec<NodeId> {
        let own = parent.and_then(|parent| self.entry_at(parent, shared + 1));
        let beside = self.lines_of(chain).iter().filter(|line| self.parent(**line) == (parent, shared));
        own.into_iter().chain(beside.filter_map(|line| self.entries(*line).first().copied())).collect()
    }

    /// What a name in a change may mean, by the past of the change: a chain's 16 bytes all of its operations, a locator
    /// those of the branch that begins with the entry. Empty where it names nothing.
    pub(super) fn spans(&self, name: &[u8], past: &Clock) -> Vec<Span> {
        let Some((name, branch)) = name.split_first_chunk::<16>() else { return Vec::new() };
        let Some(chain) = self.by_name.get(name).copied() else { return Vec::new() };
        let span = |line: LineIdx| {
            let to = self.max_op_of(line, past);
            let first = self.entries(line).first().map_or(1, |node| self.node(*node).start_op);
            (past.seq(line) > 0).then_some(Span { line, from: first, to })
        };
        let lines = self.lines_of(chain);
        if branch.is_empty() {
            return lines.iter().filter_map(|line| span(*line)).collect();
        }
        let Some(start) = self.branch_start(chain, branch, past) else { return Vec::new() };
        let Node { line: begins, seq, start_op, .. } = self.node(start);
        let passes = |line: &LineIdx| {
            let (mut at, mut reach) = (*line, u32::MAX);
            while at != begins {
                match self.parent(at) {
                    (Some(parent), shared) => (at, reach) = (parent, shared),
                    (None, _) => return false,
                }
            }
            reach >= seq
        };
        let passing = lines.iter().copied().filter(passes).filter_map(span);
        passing
            .map(|span| Span { from: span.from.max(if span.line == begins { start_op } else { 0 }), ..span })
            .collect()
    }

    /// The one entry in a past that begins a branch and whose id begins so: it has a sibling there.
    fn branch_start(&self, chain: ChainIdx, branch: &[u8], past: &Clock) -> Option<NodeId> {
        if branch.len() != BRANCH_BYTES {
            return None;
        }
        let mut found = None;
        for siblings in self.forks_of(chain) {
            let held = |node: &&NodeId| past.seq(self.node(**node).line) >= self.node(**node).seq;
            if siblings.iter().filter(held).count() < 2 {
                continue;
            }
            for start in siblings.iter().filter(held).filter(|start| self.id(**start).0.starts_with(branch)) {
                if found.replace(*start).is_some() {
                    return None;
                }
            }
        }
        found
    }

    /// The one operation of that counter within what a name may mean.
    pub(super) fn pick(&self, spans: &[Span], counter: u32) -> Option<OpRef> {
        let within = |span: &&Span| (span.from..=span.to).contains(&counter);
        if let [span] = spans {
            return within(&span).then_some(OpRef { line: span.line, counter });
        }
        let mut found = spans.iter().filter(within).filter(|span| self.holder(span.line, counter).is_some());
        let only = found.next()?;
        found.next().is_none().then_some(OpRef { line: only.line, counter })
    }

    /// The entry of a line that holds an operation of that counter.
    pub(super) fn holder(&self, line: LineIdx, counter: u32) -> Option<NodeId> {
        let entries = self.entries(line);
        let after = entries.partition_point(|node| self.node(*node).start_op <= counter);
        entries[..after].last().copied().filter(|node| self.node(*node).max_op >= counter)
    }

    /// How two operations compare in every view that shows both: by counter, then by the names of their lines there.
    pub(super) fn op_order(&self, a: OpRef, b: OpRef) -> Ordering {
        let by_chain = || self.name(a.line).cmp(self.name(b.line));
        let by_branch = || if a.line == b.line { Ordering::Equal } else { self.branch_order(a, b) };
        a.counter.cmp(&b.counter).then_with(by_chain).then_with(by_branch)
    }

    /// Which of two branches of one chain comes first by name: by the ids of the entries where their paths part.
    fn branch_order(&self, a: OpRef, b: OpRef) -> Ordering {
        let path = |op: OpRef| {
            // Each line on the way up, and the last entry of it on the path.
            let mut path = vec![(op.line, self.holder(op.line, op.counter).map_or(0, |node| self.node(node).seq))];
            while let Some((at, _)) = path.last()
                && let (Some(parent), shared) = self.parent(*at)
            {
                path.push((parent, shared));
            }
            path.reverse();
            path
        };
        let (a, b) = (path(a), path(b));
        let first = |(line, _): (LineIdx, u32)| self.entries(line).first().copied();
        let shared = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        let (start_a, start_b) = match (a.get(shared), b.get(shared)) {
            (Some(one), Some(other)) if one.0 != other.0 => {
                // Both left the last line that they share, where that line ended for both: at the same entry.
                (first(*one), first(*other))
            }
            (Some(one), Some(other)) => {
                // The same line, left (or ended) at different entries: the shorter stay ends where the other goes on.
                let end = one.1.min(other.1);
                let leaves = |path: &[(LineIdx, u32)], stay: (LineIdx, u32)| match stay.1 > end {
                    true => self.entry_at(stay.0, end + 1),
                    false => path.get(shared + 1).and_then(|next| first(*next)),
                };
                (leaves(&a, *one), leaves(&b, *other))
            }
            _ => (None, None),
        };
        let name = |start: Option<NodeId>| start.map(|start| self.id(start).0);
        let cut = |id: &[u8; 32]| <[u8; BRANCH_BYTES]>::try_from(&id[..BRANCH_BYTES]).expect("an id is longer");
        name(start_a).as_ref().map(cut).cmp(&name(start_b).as_ref().map(cut))
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

    /// Each head, with its past in other lines. Entries that follow each other in a line share one map.
    pub(super) fn head_pasts(&self) -> Vec<(NodeId, Arc<BTreeMap<LineIdx, u32>>)> {
        let mut pasts: Vec<Arc<BTreeMap<LineIdx, u32>>> = Vec::with_capacity(self.nodes.len());
        for (at, node) in self.nodes.iter().enumerate() {
            let past = match self.deps(at as NodeId) {
                [dep] if self.node(*dep).line == node.line => pasts[*dep as usize].clone(),
                deps => {
                    let mut past = BTreeMap::new();
                    for dep in deps {
                        let of = self.node(*dep);
                        let theirs = pasts[*dep as usize].iter().map(|(line, seq)| (*line, *seq));
                        for (line, seq) in theirs.chain([(of.line, of.seq)]) {
                            let last = past.entry(line).or_insert(0);
                            *last = seq.max(*last);
                        }
                    }
                    past.remove(&node.line);
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

    /// Highest operation of a line that is in a past.
    pub(super) fn max_op_of(&self, line: LineIdx, clock: &Clock) -> u32 {
        match clock.seq(line) {
            0 => 0,
            seq => self.entry_at(line, seq).map_or(0, |node| self.node(node).max_op),
        }
    }

    /// Adds the next entry of a line, whose dependencies are there. With `clock`, its past, known, those that ask soon find it.
    pub(super) fn push(
        &mut self,
        id: EntryId,
        line: LineIdx,
        start_op: u32,
        ops: u32,
        deps: &[NodeId],
        clock: Option<Clock>,
    ) -> NodeId {
        let node = self.nodes.len() as NodeId;
        let max_op = start_op + ops - 1;
        let Line { chain, parent, shared, ref entries } = self.lines[line as usize];
        let seq = shared + entries.len() as u32 + 1;
        if entries.is_empty() && self.lines_of(chain).len() > 1 {
            self.note_fork(chain, parent, shared, node);
        }
        self.nodes.push(Node { line, seq, start_op, max_op, deps_at: self.deps.len() as u32 });
        self.deps.extend_from_slice(deps);
        self.ids.push(id);
        self.by_id.insert(id, node);
        self.lines[line as usize].entries.push(node);
        for dep in deps {
            self.heads.remove(dep);
        }
        self.heads.insert(node);
        if let Some(clock) = clock {
            self.note(node, clock);
        }
        node
    }

    fn note_fork(&mut self, chain: ChainIdx, parent: Option<LineIdx>, shared: u32, node: NodeId) {
        let Some(sibling) = self.siblings(chain, parent, shared).first().copied() else { return };
        let forks = &mut self.chains[chain as usize].forks;
        let known = match forks.iter_mut().find(|siblings| siblings.contains(&sibling)) {
            Some(siblings) => {
                siblings.push(node);
                NodeId::MAX
            }
            None => {
                forks.push(vec![sibling, node]);
                self.forks += 1;
                sibling
            }
        };
        self.forked = Some(self.forked.map_or(known, |first| first.min(known)));
    }

    /// Keeps the past of an entry for those that will ask soon.
    pub(super) fn note(&mut self, node: NodeId, mut past: Clock) {
        let Node { line, seq, .. } = self.node(node);
        past.raise(line, seq);
        // A checkpoint costs 4 bytes a line, so documents with many chains take them further apart.
        if (node as usize).is_multiple_of(WALK_MAX.max(self.lines.len())) {
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
            let Node { line, seq, .. } = self.node(node);
            clock.raise(line, seq);
            stack.extend_from_slice(self.deps(node));
        }
        (clock, seen.len())
    }

    /// Bytes that the graph takes, by its counts.
    pub(super) fn bytes_estimate(&self) -> usize {
        100 * self.nodes.len()
            + 4 * self.deps.len()
            + 200 * self.lines.len()
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
            for (n, (name, deps, with_clock)) in steps.iter().enumerate() {
                let line = graph.intern(&[*name; 16]);
                let mut deps: Vec<NodeId> = if n == 0 { vec![] } else { deps.iter().map(|d| d.index(n) as NodeId).collect() };
                deps.extend(graph.entries(line).last());
                deps.sort_unstable();
                deps.dedup();
                let clock = graph.past(&deps);
                let mut past: BTreeSet<NodeId> = deps.iter().flat_map(|d| sets[*d as usize].iter().copied()).collect();
                for other in 0..graph.lines() as LineIdx {
                    let held = graph.entries(other).iter().filter(|node| past.contains(node)).count();
                    prop_assert_eq!(clock.seq(other) as usize, held);
                }
                let node = graph.push(id(n), line, n as u32 + 1, 1, &deps, with_clock.then_some(clock));
                past.insert(node);
                sets.push(past);
            }
        }
    }

    /// Entries of chain 1 by what they follow, each with one operation; gives node and clock of each.
    fn tree(graph: &mut Graph, follow: &[Option<usize>]) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = Vec::new();
        for (n, last) in follow.iter().enumerate() {
            let last = last.map(|last| nodes[last]);
            let start = last.map_or(1, |last| graph.node(last).max_op + 1);
            let place = graph.place_after(graph.chain(&[1; 16]), last);
            let line = graph.line_at(&[1; 16], place);
            let deps: Vec<NodeId> = last.into_iter().collect();
            nodes.push(graph.push(id(n), line, start, 1, &deps, None));
        }
        nodes
    }

    #[test]
    fn a_name_means_what_the_past_shows_of_its_chain() {
        let mut graph = Graph::default();
        //   0 - 1 - 2 - 3 - 7
        //        \- 4 - 5
        //             \- 6
        let nodes = tree(&mut graph, &[None, Some(0), Some(1), Some(2), Some(1), Some(4), Some(4), Some(3)]);
        let find = |graph: &mut Graph, past: &[usize], branch: Option<usize>, counter| {
            let past = graph.past(&past.iter().map(|n| nodes[*n]).collect::<Vec<_>>());
            let mut name = vec![1; 16];
            name.extend(branch.map(|n| id(n).0[..16].to_vec()).unwrap_or_default());
            let spans = graph.spans(&name, &past);
            graph.pick(&spans, counter).and_then(|op| graph.holder(op.line, op.counter))
        };
        let at = |n: usize| Some(nodes[n]);
        assert_eq!(find(&mut graph, &[3], None, 3), at(2));
        assert_eq!(find(&mut graph, &[5], None, 3), at(4));
        assert_eq!(find(&mut graph, &[3, 5], None, 3), None, "two of that number");
        assert_eq!(find(&mut graph, &[3, 5], None, 2), at(1));
        assert_eq!(find(&mut graph, &[7, 4], None, 5), at(7), "one of that number");
        assert_eq!(find(&mut graph, &[3, 5], Some(2), 3), at(2));
        assert_eq!(find(&mut graph, &[3, 5], Some(2), 4), at(3));
        assert_eq!(find(&mut graph, &[3, 5], Some(2), 2), None, "before the branch");
        assert_eq!(find(&mut graph, &[3, 5], Some(4), 4), at(5));
        assert_eq!(find(&mut graph, &[3, 5], Some(3), 4), None, "begins no branch");
        assert_eq!(find(&mut graph, &[5], Some(4), 3), None, "no fork in that past");
        assert_eq!(find(&mut graph, &[5, 6], Some(5), 4), at(5));
        assert_eq!(find(&mut graph, &[3, 5, 6], Some(4), 4), None, "two on that branch");
        assert_eq!(find(&mut graph, &[3, 5, 6], Some(6), 4), at(6));
        assert_eq!(find(&mut graph, &[3, 5, 6], Some(2), 5), None, "not in the past");
        let past = |graph: &mut Graph, of: &[usize]| graph.past(&of.iter().map(|n| nodes[*n]).collect::<Vec<_>>());
        let chain = graph.chain(&[1; 16]).unwrap();
        for (of, last) in
            [(&[5][..], Ok(at(5))), (&[6], Ok(at(6))), (&[1], Ok(at(1))), (&[2, 4], Err(())), (&[5, 6], Err(()))]
        {
            let past = past(&mut graph, of);
            assert_eq!(graph.last_in(chain, &past), last, "{of:?}");
        }
        let op = |n: usize| OpRef { line: graph.node(nodes[n]).line, counter: graph.node(nodes[n]).start_op };
        for (a, b, by) in [(2, 4, (2, 4)), (3, 5, (2, 4)), (3, 6, (2, 4)), (5, 6, (5, 6))] {
            let by = id(by.0).0[..16].cmp(&id(by.1).0[..16]);
            assert_eq!(graph.branch_order(op(a), op(b)), by, "{a} {b}");
            assert_eq!(graph.branch_order(op(b), op(a)), by.reverse());
        }
    }
}
