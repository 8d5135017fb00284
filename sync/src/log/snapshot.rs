//! What a log knows of the inside of its snapshot: as much as it takes to build on the heads, until the rest is read again.

use std::collections::BTreeMap;

use super::past::Spot;
use super::{Covered, CoveredHead, DeepEntry, Log};
use crate::chain::{Opening, Tip};
use crate::id::{ChainId, EntryId};
use crate::merkle::Frontier;

/// Pairs in the pasts of a snapshot's heads, in all: 24 MiB in memory. Heads beyond are treated like the rest of the
/// snapshot's inside: what builds on them has it loaded. A document with 16 heads may have all its chains in each.
pub const HEAD_PASTS_MAX: usize = 1 << 20;

/// Edges looked at for the pasts of a snapshot's heads, in all; about a second. Heads beyond as above.
const HEAD_STEPS_MAX: usize = 1 << 23;

/// What [`Log::cover`] is told of a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotOf {
    /// Bytes of the snapshot, compressed.
    pub bytes: u64,
    /// Each chain: opening, tree at the covered end, tip over it.
    pub chains: Vec<(Opening, Frontier, Tip)>,
    /// Its heads.
    pub heads: Vec<SnapshotHead>,
}

/// A head of a snapshot, by chain ids.
#[derive(Clone, Debug)]
pub struct SnapshotHead {
    /// Its id.
    pub id: EntryId,
    /// Its chain.
    pub chain: ChainId,
    /// Its number.
    pub n: u64,
    /// The highest operation up to it.
    pub max_op: u64,
    /// Its past in other chains.
    pub past: Vec<(ChainId, u64)>,
}

impl Log {
    /// Whether the index may lack the past of entries inside the snapshot.
    pub fn is_shallow(&self) -> bool {
        self.covered.is_some() && !self.deep
    }

    /// What the index knows of the heads of a snapshot of everything that is held; `None` if it lacks one or does not
    /// know all of its past, which the next snapshot would lack for good. Not more than [`HEAD_PASTS_MAX`] allows.
    pub fn heads_for_snapshot(&self, heads: &[EntryId]) -> Option<Vec<SnapshotHead>> {
        let chains: Vec<ChainId> =
            self.lines.all().iter().map(|line| line.opening.chain(&self.space, &self.doc)).collect();
        let (mut out, mut pairs, mut steps) = (Vec::new(), 0, 0);
        for id in heads {
            let meta = self.graph.get(id).filter(|meta| meta.spot.branch == 0)?;
            if pairs > HEAD_PASTS_MAX || steps > HEAD_STEPS_MAX {
                break;
            }
            let past = self.graph.past(&self.lines, &[*id]);
            if past.missing.is_some() {
                return None;
            }
            (pairs, steps) = (pairs + past.reached.len(), steps + past.steps);
            let others =
                past.reached.iter().filter(|((line, branch), n)| *branch == 0 && *line != meta.spot.line && **n > 0);
            let past = others.map(|((line, _), n)| (chains[*line as usize], *n)).collect();
            let Spot { line, n, .. } = meta.spot;
            out.push(SnapshotHead { id: *id, chain: chains[line as usize], n, max_op: meta.max_op, past });
        }
        Some(out)
    }

    /// Whether these ids of a chain, from its first, are the history that is held here as far as both reach.
    pub fn agrees_with(&self, chain: &ChainId, ids: &[EntryId]) -> bool {
        let Some((_, line)) = self.lines.get(chain) else { return true };
        let branch = &line.branches[0];
        match ids.get(..usize::try_from(branch.len()).unwrap_or(usize::MAX)) {
            Some(shared) => {
                let mut frontier = Frontier::default();
                shared.iter().for_each(|id| frontier.push(id));
                frontier.head() == branch.frontier.head()
            }
            None => (1..).zip(ids).all(|(n, id)| branch.id_at(n).is_none_or(|held| held == id)),
        }
    }

    /// Fills the index with the entries of the loaded snapshot, in causal order.
    pub fn deepen(&mut self, entries: Vec<DeepEntry>) {
        let lines: BTreeMap<Vec<u8>, u32> = self
            .lines
            .all()
            .iter()
            .enumerate()
            .map(|(i, l)| (l.opening.actor(&self.space, &self.doc), i as u32))
            .collect();
        let mut inside: BTreeMap<u32, Vec<EntryId>> = BTreeMap::new();
        for entry in entries {
            let Some(line) = lines.get(&entry.actor).copied() else { continue };
            inside.entry(line).or_default().push(entry.id);
            self.graph.push_deep(Spot { line, branch: 0, n: entry.n }, entry.id, entry.max_op, entry.deps);
        }
        inside.into_iter().for_each(|(line, ids)| self.lines.deepen(line as usize, ids));
        self.deep = true;
        if !self.is_open() {
            // A snapshot that came meanwhile may hold what builds on a closed chain.
            self.recount(&[]);
        }
    }

    /// Takes note of a snapshot that the engine has made or checked. `chains` are the openings, the trees up to the
    /// covered end, and the tips; `heads` as in [`Covered`] but with chain ids.
    pub fn cover(&mut self, snapshot: SnapshotOf) {
        let mut tips = Vec::new();
        for (opening, frontier, tip) in &snapshot.chains {
            let chain = opening.chain(&self.space, &self.doc);
            let line = self.lines.get(&chain).map_or(self.lines.all().len(), |(i, _)| i);
            let end = frontier.len();
            if let (Some(last), Some(next)) = (self.id_at(line, 0, end), self.id_at(line, 0, end + 1)) {
                self.graph.anchor(Spot { line: line as u32, branch: 0, n: end + 1 }, &next, last);
            }
            self.lines.cover(line, frontier.clone(), tip, opening, chain);
            tips.push((line as u32, tip.clone()));
        }
        let line_of = |chain: &ChainId| self.lines.get(chain).map(|(i, _)| i as u32);
        let heads = snapshot.heads.iter().filter_map(|h| {
            let past = h.past.iter().filter_map(|(c, n)| Some((line_of(c)?, *n))).collect();
            Some(CoveredHead { id: h.id, line: line_of(&h.chain)?, n: h.n, max_op: h.max_op, past })
        });
        let mut pairs = 0;
        let heads: Vec<CoveredHead> = heads
            .take_while(|head| {
                pairs += head.past.len();
                pairs <= HEAD_PASTS_MAX
            })
            .collect();
        let ends: BTreeMap<u32, u64> = tips.iter().map(|(line, tip)| (*line, tip.n)).collect();
        let loose = |spot: &Spot| ends.get(&spot.line).is_none_or(|end| spot.n > *end);
        self.graph.retain(|spot| spot.branch > 0 || loose(spot));
        self.loose = (0, self.graph.spots().filter(loose).count() as u64);
        self.graph.cover(&heads);
        let entries = tips.iter().map(|(_, tip)| tip.n).sum();
        self.covered = Some(Covered { bytes: snapshot.bytes, entries, heads, tips });
        self.deep = false;
    }
}
