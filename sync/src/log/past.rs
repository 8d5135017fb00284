//! What follows what in one log. Kept is the graph itself, its dependencies as the entries name them, and it is searched
//! when something is asked: a map of the whole past beside each entry would grow with the square of the chains.
//!
//! A run of entries that build on nothing but each other costs no edges. An edge that leads to an id that is not in the
//! index leads into the snapshot: what is behind it is not known until the index is deepened, and a search says so.

use std::collections::BTreeMap;

use super::CoveredHead;
use crate::id::EntryId;
use crate::lines::Lines;

/// A place in a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Spot {
    pub(super) line: u32,
    pub(super) branch: u16,
    pub(super) n: u64,
}

/// What the index knows of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) spot: Spot,
    pub(super) max_op: u64,
    /// Grows with each entry that comes, so that an entry follows only what has a lesser one; 0 inside the snapshot.
    pub(super) order: u64,
}

/// The dependencies of an entry.
#[derive(Debug)]
struct Join {
    order: u64,
    deps: Box<[EntryId]>,
}

/// The entries and edges that are known. Memory is bounded by what came over the wire: see [`Graph::memory_bytes`].
#[derive(Debug, Default)]
pub(super) struct Graph {
    index: BTreeMap<EntryId, Meta>,
    /// Entries with other dependencies than the entry before them, by their place.
    joins: BTreeMap<Spot, Join>,
    /// The past of the heads of the snapshot, as (line, number).
    heads: BTreeMap<Spot, Vec<(u32, u64)>>,
    /// Edges and pairs in the two maps.
    edges: usize,
    last: u64,
}

/// The outcome of a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Follows {
    Yes,
    No,
    /// It depends on what is behind this id, which is not in the index.
    Unknown(EntryId),
}

/// Everything that some entries follow, themselves included: on each branch up to a number.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) reached: BTreeMap<(u32, u16), u64>,
    /// The search ended here: more may be behind it.
    pub(super) missing: Option<EntryId>,
    /// Edges looked at.
    pub(super) steps: usize,
}

impl Graph {
    pub(super) fn get(&self, id: &EntryId) -> Option<&Meta> {
        self.index.get(id)
    }

    pub(super) fn spots(&self) -> impl Iterator<Item = Spot> {
        self.index.values().map(|meta| meta.spot)
    }

    /// Adds an entry with its dependencies. `before` is the entry before it in its branch, if that is in the index.
    pub(super) fn push(&mut self, spot: Spot, id: EntryId, max_op: u64, deps: Vec<EntryId>, before: Option<&EntryId>) {
        self.last += 1;
        self.add(Meta { spot, max_op, order: self.last }, id, deps, before);
    }

    /// The same for an entry inside the snapshot.
    pub(super) fn push_deep(&mut self, spot: Spot, id: EntryId, max_op: u64, deps: Vec<EntryId>) {
        let before = Spot { n: spot.n - 1, ..spot };
        let before = deps.iter().find(|dep| self.get(dep).is_some_and(|meta| meta.spot == before)).copied();
        self.add(Meta { spot, max_op, order: 0 }, id, deps, before.as_ref());
    }

    fn add(&mut self, meta: Meta, id: EntryId, deps: Vec<EntryId>, before: Option<&EntryId>) {
        // An entry that stands on two branches keeps its first place.
        self.index.entry(id).or_insert(meta);
        if before.is_none_or(|before| deps[..] != [*before]) {
            self.join(meta.spot, Join { order: meta.order, deps: deps.into() });
        }
    }

    fn join(&mut self, spot: Spot, join: Join) {
        self.edges += join.deps.len();
        if let Some(old) = self.joins.insert(spot, join) {
            self.edges -= old.deps.len();
        }
    }

    /// Keeps an entry connected to the one before it, which a snapshot is about to cover. A run of entries has no edge
    /// there yet; any other entry has all its edges.
    pub(super) fn anchor(&mut self, spot: Spot, id: &EntryId, before: EntryId) {
        if !self.joins.contains_key(&spot) {
            let order = self.get(id).map_or(0, |meta| meta.order);
            self.join(spot, Join { order, deps: Box::new([before]) });
        }
    }

    /// Forgets what a snapshot covers, and the heads of the one before.
    pub(super) fn retain(&mut self, keep: impl Fn(&Spot) -> bool) {
        self.index.retain(|_, meta| keep(&meta.spot));
        self.joins.retain(|spot, _| keep(spot));
        self.heads.clear();
        self.edges = self.joins.values().map(|join| join.deps.len()).sum();
    }

    /// Adds the heads of the snapshot.
    pub(super) fn cover(&mut self, heads: &[CoveredHead]) {
        for head in heads {
            let spot = Spot { line: head.line, branch: 0, n: head.n };
            self.index.insert(head.id, Meta { spot, max_op: head.max_op, order: 0 });
            self.edges += head.past.len();
            self.heads.insert(spot, head.past.clone());
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Graph::default();
    }

    /// Rough memory cost in bytes: 200 for an entry (its id here and in its chain, index node), 80 for one with edges, 32
    /// for each edge. So a log costs at most about ten times the bytes of its entries, whatever they depend on.
    pub(super) fn memory_bytes(&self) -> usize {
        200 * self.index.len() + 80 * (self.joins.len() + self.heads.len()) + 32 * self.edges
    }

    /// Whether an entry with these dependencies follows what stands at `target`, which came as number `order`.
    ///
    /// Nothing that came before the target is looked at. So for each chain an edge is looked at once on the whole, because
    /// the target, its end, moves on; and an entry that builds on the one before it costs one step.
    pub(super) fn follows(&self, lines: &Lines, deps: &[EntryId], target: Spot, order: u64) -> Follows {
        let past = self.search(lines, deps, Some((target, order)));
        let reached = past.reached.get(&(target.line, target.branch)).is_some_and(|n| *n >= target.n);
        match past.missing {
            _ if reached => Follows::Yes,
            // What came after the snapshot is not inside it.
            Some(id) if order == 0 => Follows::Unknown(id),
            _ => Follows::No,
        }
    }

    /// Everything that these entries follow.
    pub(super) fn past(&self, lines: &Lines, of: &[EntryId]) -> Past {
        self.search(lines, of, None)
    }

    /// Everything that the entries at these places follow, themselves included.
    pub(super) fn reach(&self, lines: &Lines, from: Vec<Spot>) -> Past {
        self.walk(lines, from, Past::default(), None)
    }

    /// What the entries of a run, up to the one at `to`, build upon outside it.
    pub(super) fn behind(&self, from: u64, to: Spot) -> Vec<Spot> {
        let joins = self.joins.range(Spot { n: from, ..to }..=to);
        joins.flat_map(|(_, join)| &join.deps).filter_map(|dep| self.get(dep)).map(|meta| meta.spot).collect()
    }

    fn search(&self, lines: &Lines, from: &[EntryId], target: Option<(Spot, u64)>) -> Past {
        let mut past = Past::default();
        let mut todo: Vec<Spot> = Vec::new();
        self.step(from, &mut todo, &mut past);
        self.walk(lines, todo, past, target)
    }

    fn walk(&self, lines: &Lines, mut todo: Vec<Spot>, mut past: Past, target: Option<(Spot, u64)>) -> Past {
        let since = target.map_or(0, |(_, order)| order);
        while let Some(spot) = todo.pop() {
            let reached = past.reached.entry((spot.line, spot.branch)).or_insert(0);
            if spot.n <= *reached {
                continue;
            }
            let new = Spot { n: *reached + 1, ..spot }..=spot;
            *reached = spot.n;
            if target.is_some_and(|(t, _)| (t.line, t.branch) == (spot.line, spot.branch) && t.n <= spot.n) {
                break;
            }
            for (_, join) in self.joins.range(new.clone()).rev().take_while(|(_, join)| join.order >= since) {
                self.step(&join.deps, &mut todo, &mut past);
            }
            if since == 0 {
                for (_, head) in self.heads.range(new) {
                    past.steps += head.len();
                    todo.extend(head.iter().map(|(line, n)| Spot { line: *line, branch: 0, n: *n }));
                }
            }
            if spot.branch > 0 {
                let branches = lines.all().get(spot.line as usize).map_or(&[][..], |line| &line.branches);
                let left = branches.get(usize::from(spot.branch)).map_or((0, 0), |left| (left.parent, left.shared));
                todo.push(Spot { branch: left.0, n: left.1, ..spot });
            }
        }
        past
    }

    fn step(&self, deps: &[EntryId], todo: &mut Vec<Spot>, past: &mut Past) {
        past.steps += deps.len();
        for dep in deps {
            match self.get(dep) {
                Some(meta) => todo.push(meta.spot),
                None => past.missing = Some(*dep),
            }
        }
    }
}
