//! The chains of one log and their branches: where a segment belongs, and whether its tip covers it.
//!
//! Not for meaning or for order between chains; a log of changes ([`crate::log`]) and an authority log
//! ([`crate::space`]) both stand on this.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::chain::{Opening, Segment, Tip};
use crate::clock::Clock;
use crate::id::{ChainId, DocId, EntryId, SpaceId};
use crate::merkle::{Frontier, Head};

/// One branch of a chain. Branch 0 is the first that this peer saw; others are evidence that the device signed two
/// histories.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Branch {
    /// Entries shared with branch 0; 0 for branch 0 itself.
    #[n(0)]
    pub shared: u64,
    /// The tree up to where single ids are no longer kept (covered by a snapshot, or an authority log on disk).
    #[n(1)]
    pub base: Frontier,
    /// The tree up to the end.
    #[n(2)]
    pub frontier: Frontier,
    /// The tip over the end.
    #[n(3)]
    pub tip: Tip,
    /// Ids of the entries after `base`. Not stored: rebuilt from the segments.
    #[cbor(skip)]
    pub ids: Vec<EntryId>,
}

impl Branch {
    /// Number of entries.
    pub fn len(&self) -> u64 {
        self.frontier.len()
    }

    /// Never true of a branch in a log.
    pub fn is_empty(&self) -> bool {
        self.frontier.is_empty()
    }

    /// The tree over the first `n` entries, if `n` is neither in the base nor beyond the end.
    fn frontier_at(&self, n: u64) -> Option<Frontier> {
        if n == self.len() {
            return Some(self.frontier.clone());
        }
        let known = usize::try_from(n.checked_sub(self.base.len())?).ok()?;
        let mut frontier = self.base.clone();
        self.ids.get(..known)?.iter().for_each(|id| frontier.push(id));
        Some(frontier)
    }

    /// The id of entry `n`, if it is kept.
    pub fn id_at(&self, n: u64) -> Option<&EntryId> {
        self.ids.get(usize::try_from(n.checked_sub(self.base.len() + 1)?).ok()?)
    }
}

/// A chain of a log.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Line {
    /// Its opening.
    #[n(0)]
    pub opening: Opening,
    /// At least one.
    #[n(1)]
    pub branches: Vec<Branch>,
}

/// Where a segment belongs.
#[derive(Debug)]
pub enum Place {
    /// All of it is held.
    Duplicate,
    /// It starts beyond what is held: entries up to (not including) its first are missing.
    Gap,
    /// It does not fit what is held; the chain is needed from its first entry to tell a fork from a lie.
    NeedsWhole,
    /// The tip does not verify.
    BadTip,
    /// The chain has as many branches as are kept.
    TooManyBranches,
    /// The device signed it, and it differs from what is held inside a base, where nothing can be told apart any more.
    LeavesBase,
    /// It continues a branch (or starts a chain: `line` is then the number of lines) after `skip` known entries.
    Extends {
        /// Index of the line.
        line: usize,
        /// Index of the branch.
        branch: usize,
        /// Entries at the start of the segment that are held.
        skip: usize,
        /// The tree with the segment.
        frontier: Frontier,
    },
    /// It leaves a branch: the device signed two histories.
    Forks {
        /// Index of the line.
        line: usize,
        /// Index of the branch that it leaves.
        from: usize,
        /// Entries shared with branch 0.
        shared: u64,
        /// Entries at the start of the segment that are held.
        skip: usize,
        /// The tree of the branch that it leaves, where it does.
        base: Frontier,
        /// The tree with the segment.
        frontier: Frontier,
    },
}

/// What another clock shows beyond [`Lines`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lacks {
    /// A chain is unknown or longer.
    pub more: bool,
    /// Chains with another history than those held, and not longer.
    pub forks: Vec<ChainId>,
}

/// The chains of one log.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    lines: Vec<Line>,
    by_id: BTreeMap<ChainId, usize>,
}

impl Lines {
    /// From stored lines, whose ids past the base are still to be [`Lines::restore`]d.
    pub fn from_stored(space: &SpaceId, doc: &DocId, lines: Vec<Line>) -> Lines {
        let by_id = lines.iter().enumerate().map(|(i, line)| (line.opening.chain(space, doc), i)).collect();
        Lines { lines, by_id }
    }

    /// All lines, in order of arrival.
    pub fn all(&self) -> &[Line] {
        &self.lines
    }

    /// The line of a chain and its index.
    pub fn get(&self, chain: &ChainId) -> Option<(usize, &Line)> {
        self.by_id.get(chain).map(|i| (*i, &self.lines[*i]))
    }

    /// The chains and the ends of their branches.
    pub fn clock(&self) -> Clock {
        let mut clock = Clock::default();
        for (chain, line) in &self.by_id {
            for branch in &self.lines[*line].branches {
                clock.insert(*chain, branch.len(), branch.frontier.head());
            }
        }
        clock
    }

    /// What `theirs` shows that is not here, as far as ids are kept: what lies inside the base of a branch is taken for
    /// what is held.
    pub fn lacks(&self, theirs: &Clock) -> Lacks {
        let mut lacks = Lacks::default();
        for (chain, ends) in &theirs.0 {
            let branches = self.get(chain).map_or(&[][..], |(_, line)| &line.branches);
            let longest = branches.iter().map(Branch::len).max().unwrap_or(0);
            let (longer, within): (Vec<_>, Vec<_>) = ends.iter().partition(|(n, _)| *n > longest);
            lacks.more |= !longer.is_empty();
            if !branches.is_empty() && !pass(branches, &within) {
                lacks.forks.push(*chain);
            }
        }
        lacks
    }

    /// Puts back an id that a stored segment carries, in order.
    pub fn restore(&mut self, line: usize, branch: usize, id: EntryId) {
        if let Some(branch) = self.lines.get_mut(line).and_then(|l| l.branches.get_mut(branch)) {
            branch.ids.push(id);
        }
    }

    /// Finds the place of a segment with these entry ids: on the branch that shares most with it. Checks at most one
    /// signature per branch and one more, and none for a duplicate.
    pub fn place(
        &self,
        space: &SpaceId,
        doc: &DocId,
        chain: &ChainId,
        segment: &Segment,
        ids: &[EntryId],
        branches_max: usize,
    ) -> Place {
        let verifies = |frontier: &Frontier| segment.tip.verifies(space, doc, &segment.opening, &frontier.head());
        let Some((at, line)) = self.get(chain) else {
            if segment.first > 1 {
                return Place::Gap;
            }
            let frontier = extended(Frontier::default(), ids);
            return match verifies(&frontier) {
                true => Place::Extends { line: self.lines.len(), branch: 0, skip: 0, frontier },
                false => Place::BadTip,
            };
        };
        let before = segment.first - 1;
        if line.branches.iter().all(|b| before > b.len()) {
            return Place::Gap;
        }
        // Of what a base covers no ids are kept, so a branch says nothing of a segment that ends there.
        let mut candidates: Vec<(usize, usize)> = Vec::new();
        for (index, branch) in line.branches.iter().enumerate().filter(|(_, b)| segment.tip.n > b.base.len()) {
            let Some(common) = self.common(branch, segment, ids) else { continue };
            if common == ids.len() {
                return Place::Duplicate;
            }
            candidates.push((index, common));
        }
        // What ends inside the base of the first branch, which alone moves, is taken for what is held there.
        let base = line.branches[0].base.len();
        candidates.sort_by_key(|(_, common)| core::cmp::Reverse(*common));
        for (index, skip) in candidates {
            let branch = &line.branches[index];
            let end = before + skip as u64;
            if segment.tip.n <= base && end <= branch.base.len() {
                // Nothing but the trunk in common with this branch.
                continue;
            }
            let skipped_base = branch.base.len().saturating_sub(before) as usize;
            let Some(frontier) = branch.frontier_at(before.max(branch.base.len())) else { continue };
            let frontier = extended(frontier, &ids[skipped_base..]);
            if !verifies(&frontier) {
                continue;
            }
            if end == branch.len() {
                return Place::Extends { line: at, branch: index, skip, frontier };
            }
            if line.branches.len() >= branches_max {
                return Place::TooManyBranches;
            }
            let Some(base) = branch.frontier_at(end) else { return Place::NeedsWhole };
            let shared = if index == 0 { end } else { branch.shared.min(end) };
            return Place::Forks { line: at, from: index, shared, skip, base, frontier };
        }
        match segment.first {
            _ if segment.tip.n <= base => Place::Duplicate,
            1 if base > 0 && verifies(&extended(Frontier::default(), ids)) => Place::LeavesBase,
            1 => Place::BadTip,
            _ => Place::NeedsWhole,
        }
    }

    /// How many entries of the segment, from its start, the branch holds at the same numbers. Entries inside the base
    /// count as held. `None` if the segment starts beyond the end of the branch.
    fn common(&self, branch: &Branch, segment: &Segment, ids: &[EntryId]) -> Option<usize> {
        let before = segment.first - 1;
        let in_base = usize::try_from(branch.base.len().saturating_sub(before)).ok()?.min(ids.len());
        if before > branch.len() {
            return None;
        }
        let known = ids[in_base..].iter().enumerate();
        let same = known.take_while(|(i, id)| branch.id_at(segment.first + (in_base + i) as u64) == Some(id)).count();
        Some(in_base + same)
    }

    /// Adds a placed segment (only its entries after `skip`).
    pub fn apply(&mut self, chain: ChainId, place: Place, segment: &Segment, ids: &[EntryId]) -> (usize, usize) {
        match place {
            Place::Extends { line, branch, skip, frontier } => {
                if line == self.lines.len() {
                    let first = Branch {
                        shared: 0,
                        base: Frontier::default(),
                        frontier: Frontier::default(),
                        tip: segment.tip.clone(),
                        ids: Vec::new(),
                    };
                    self.lines.push(Line { opening: segment.opening.clone(), branches: vec![first] });
                    self.by_id.insert(chain, line);
                }
                let target = &mut self.lines[line].branches[branch];
                target.ids.extend_from_slice(&ids[skip..]);
                target.frontier = frontier;
                target.tip = segment.tip.clone();
                (line, branch)
            }
            Place::Forks { line, shared, skip, base, frontier, .. } => {
                let branches = &mut self.lines[line].branches;
                branches.push(Branch { shared, base, frontier, tip: segment.tip.clone(), ids: ids[skip..].to_vec() });
                (line, branches.len() - 1)
            }
            other => unreachable!("only a place that adds something is applied, not {other:?}"),
        }
    }

    /// Makes everything up to `n` of branch 0 of a line its base: a snapshot covers it.
    pub fn cover(&mut self, line: usize, frontier: Frontier, tip: &Tip, opening: &Opening, chain: ChainId) {
        if line == self.lines.len() {
            self.by_id.insert(chain, line);
            let branch = Branch { shared: 0, base: frontier.clone(), frontier, tip: tip.clone(), ids: Vec::new() };
            self.lines.push(Line { opening: opening.clone(), branches: vec![branch] });
            return;
        }
        let branch = &mut self.lines[line].branches[0];
        let gone = (frontier.len().saturating_sub(branch.base.len()) as usize).min(branch.ids.len());
        branch.ids.drain(..gone);
        if frontier.len() >= branch.len() {
            branch.frontier = frontier.clone();
            branch.tip = tip.clone();
        }
        branch.base = frontier;
    }

    /// Drops the ids of all branches: everything is on disk and is never told apart again (authority logs).
    pub fn forget_ids(&mut self) {
        for branch in self.lines.iter_mut().flat_map(|l| &mut l.branches) {
            branch.base = branch.frontier.clone();
            branch.ids = Vec::new();
        }
    }
}

/// Whether each of these ends, sorted, lies on a branch. One pass over the ids of each branch at most.
fn pass(branches: &[Branch], ends: &[&(u64, Head)]) -> bool {
    let mut found: Vec<bool> = ends.iter().map(|(n, _)| *n < branches[0].base.len()).collect();
    for branch in branches {
        let (mut tree, mut ids) = (branch.base.clone(), branch.ids.iter());
        for ((n, head), found) in ends.iter().zip(&mut found) {
            if *found || *n < tree.len() || *n > branch.len() {
                continue;
            }
            *found = match *n == branch.len() {
                true => branch.frontier.head() == *head,
                false => {
                    ids.by_ref().take((*n - tree.len()) as usize).for_each(|id| tree.push(id));
                    tree.head() == *head
                }
            };
        }
    }
    !found.contains(&false)
}

fn extended(mut frontier: Frontier, ids: &[EntryId]) -> Frontier {
    ids.iter().for_each(|id| frontier.push(id));
    frontier
}
