//! The chains of one log and their branches: where a segment belongs, and whether its tip covers it.
//!
//! Not for meaning or for order between chains; a log of changes ([`crate::log`]) and an authority log
//! ([`crate::space`]) both stand on this.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Decoder, Encode, decode};

use crate::chain::{Opening, Segment, Tip};
use crate::clock::{Clock, Ends};
use crate::id::{ChainId, DocId, EntryId, SpaceId};
use crate::merkle::{Frontier, Head};
use crate::proof::{ForkProof, Side, Tail};

/// One branch of a chain. Branch 0 is the first that this peer saw; any other says that the device signed two histories.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Branch {
    /// Entries shared with the branch that it leaves; 0 for branch 0.
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
    /// The branch that it leaves; 0 for branch 0.
    #[cbor(n(4), default)]
    pub parent: u16,
    /// How much of it counts, where not all of its chain does.
    #[n(5)]
    pub counts: Option<Counts>,
    /// Ids of the entries after `base`. Not stored: rebuilt from the segments.
    #[cbor(skip)]
    pub ids: Vec<EntryId>,
    /// Ids of the entries up to `base`, where a snapshot was read for them. Not stored.
    #[cbor(skip)]
    pub inside: Vec<EntryId>,
}

/// The part of a branch that counts: its first `n` entries, those included that it shares with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Counts {
    /// Number of the last.
    #[n(0)]
    pub n: u64,
    /// The head over them.
    #[n(1)]
    pub head: Head,
}

impl Branch {
    /// The first of a chain, without entries yet.
    fn first(tip: &Tip) -> Branch {
        Branch {
            shared: 0,
            base: Frontier::default(),
            frontier: Frontier::default(),
            tip: tip.clone(),
            parent: 0,
            counts: None,
            ids: Vec::new(),
            inside: Vec::new(),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> u64 {
        self.frontier.len()
    }

    /// Never true of a branch in a log.
    pub fn is_empty(&self) -> bool {
        self.frontier.is_empty()
    }

    /// How many of its first entries are not known by their ids.
    pub fn floor(&self) -> u64 {
        if self.inside.is_empty() { self.base.len() } else { 0 }
    }

    /// The tree over the first `n` entries, if their ids are known so far.
    pub fn frontier_at(&self, n: u64) -> Option<Frontier> {
        if n == self.len() {
            return Some(self.frontier.clone());
        }
        if n < self.base.len() {
            return Some(extended(Frontier::default(), self.inside.get(..usize::try_from(n).ok()?)?));
        }
        let known = usize::try_from(n - self.base.len()).ok()?;
        Some(extended(self.base.clone(), self.ids.get(..known)?))
    }

    /// The id of entry `n`, if it is known.
    pub fn id_at(&self, n: u64) -> Option<&EntryId> {
        match n.checked_sub(self.base.len() + 1) {
            Some(after) => self.ids.get(usize::try_from(after).ok()?),
            None => self.inside.get(usize::try_from(n.checked_sub(1)?).ok()?),
        }
    }

    /// The ids of the entries after the first `n`, if they are known.
    fn ids_after(&self, n: u64) -> Option<Vec<EntryId>> {
        let known = |ids: &[EntryId], skip: u64| ids.get(usize::try_from(skip).ok()?..).map(<[_]>::to_vec);
        match n.checked_sub(self.base.len()) {
            Some(after) => known(&self.ids, after),
            None if self.inside.is_empty() => None,
            None => Some([known(&self.inside, n)?, self.ids.clone()].concat()),
        }
    }
}

/// A chain of a log.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Line {
    /// Its opening.
    #[n(0)]
    pub opening: Opening,
    /// At least one. The first may be empty: then all that is known of the chain is that it is closed.
    #[cbor(n(1), decode_with = "some_branches")]
    pub branches: Vec<Branch>,
    /// The proof that closes it earliest, if its device signed two histories.
    #[n(2)]
    pub closed: Option<ForkProof>,
    /// The last entry that the rights of its device cover, if not all are covered.
    #[n(3)]
    pub cut: Option<u64>,
}

/// A stored row may be damaged in a way that its checksum covers, and the first branch is looked at everywhere.
fn some_branches<'b, C>(decoder: &mut Decoder<'b>, cx: &mut C) -> Result<Vec<Branch>, decode::Error> {
    let branches: Vec<Branch> = decoder.decode_with(cx)?;
    match branches.is_empty() {
        true => Err(decode::Error::message("a chain without a branch")),
        false => Ok(branches),
    }
}

impl Line {
    /// The last number that counts by itself; entries after it count only where entries of other chains build upon them.
    pub fn counts_to(&self) -> u64 {
        let closed = self.closed.as_ref().map_or(u64::MAX, |proof| proof.at() - 1);
        closed.min(self.cut.unwrap_or(u64::MAX))
    }

    /// Whether all of it counts, whatever builds upon it.
    pub fn is_open(&self) -> bool {
        let uncut = |cut| self.branches.iter().all(|branch| branch.len() <= cut);
        self.closed.is_none() && self.cut.is_none_or(uncut)
    }

    /// How many entries of a branch count.
    pub fn counted(&self, branch: usize) -> u64 {
        let Some(found) = self.branches.get(branch) else { return 0 };
        match found.counts {
            Some(counts) if !self.is_open() => counts.n,
            _ => found.len().min(self.counts_to()),
        }
    }

    /// Whether something of it counts.
    pub fn counts(&self) -> bool {
        (0..self.branches.len()).any(|branch| self.counted(branch) > 0)
    }

    /// Whether its proof speaks of a history that is not held.
    pub fn lacks_a_history(&self) -> bool {
        let Some(proof) = &self.closed else { return false };
        let holds = |side: &Side| {
            let on = |branch: &&Branch| branch.id_at(proof.at()).is_none_or(|id| *id == side.entry);
            self.branches.iter().filter(on).any(|branch| branch.len() >= side.tip.n)
        };
        !(holds(&proof.first) && holds(&proof.second))
    }

    /// Branches, besides the first, of which nothing counts that is their own.
    pub fn idle_branches(&self) -> usize {
        (1..self.branches.len()).filter(|at| self.counted(*at) <= self.branches[*at].shared).count()
    }

    /// The ends of what counts. Where rights end before it is closed, it makes no difference that it is, and not all peers take
    /// the proof.
    fn ends(&self) -> Ends {
        let closed = self.closed.as_ref().map(ForkProof::at).filter(|at| self.cut.is_none_or(|cut| cut >= *at));
        if self.is_open() {
            let heads = self.branches.iter().map(|branch| (branch.len(), branch.frontier.head()));
            return Ends { closed, heads: heads.filter(|(n, _)| *n > 0).collect() };
        }
        let own = |at: usize| self.counted(at) > self.branches[at].shared;
        let goes_on = |at: usize, n: u64| {
            let mut children = self.branches.iter().enumerate().skip(1);
            children.any(|(child, branch)| usize::from(branch.parent) == at && branch.shared == n && own(child))
        };
        let ends = (0..self.branches.len()).filter(|at| own(*at));
        let ends = ends.filter_map(|at| self.branches[at].counts.filter(|counts| !goes_on(at, counts.n)));
        let mut heads: Vec<(u64, Head)> = ends.map(|counts| (counts.n, counts.head)).collect();
        heads.sort_unstable();
        heads.dedup();
        Ends { closed, heads }
    }
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
    /// A chain is unknown, longer, or closed earlier.
    pub more: bool,
    /// Chains with another history than those held, and not longer.
    pub forks: Vec<ChainId>,
}

/// The outcome of closing a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closing {
    /// It is closed now, or earlier than before.
    Closed,
    /// It was closed there already, or before.
    Known,
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

    /// How far each chain is held, as far as it counts.
    pub fn clock(&self) -> Clock {
        let mut clock = Clock::default();
        for (chain, line) in &self.by_id {
            let ends = self.lines[*line].ends();
            if ends.closed.is_some() || !ends.heads.is_empty() {
                clock.0.insert(*chain, ends);
            }
        }
        clock
    }

    /// What `theirs` shows that is not here, as far as ids are kept: what lies inside the base of a branch is taken for
    /// what is held.
    pub fn lacks(&self, theirs: &Clock) -> Lacks {
        let mut lacks = Lacks::default();
        for (chain, ends) in &theirs.0 {
            let line = self.get(chain).map(|(_, line)| line);
            let at = line.and_then(|line| line.closed.as_ref()).map(ForkProof::at);
            lacks.more |= ends.closed.is_some_and(|theirs| at.is_none_or(|at| theirs < at));
            // Who does not know yet that a part of the chain does not count shows that part as well.
            let counts = line.map_or(u64::MAX, Line::counts_to);
            let told = ends.closed.is_some() || line.is_none_or(|line| line.closed.is_none() && line.cut.is_none());
            let branches = line.map_or(&[][..], |line| &line.branches);
            let longest = branches.iter().map(Branch::len).max().unwrap_or(0);
            let shown = ends.heads.iter().filter(|(n, _)| told || *n <= counts);
            let (longer, within): (Vec<_>, Vec<_>) = shown.partition(|(n, _)| *n > longest);
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

    /// Whether nothing of a segment that is new here would count by itself: it lies behind the point where its chain is
    /// closed or cut. No signature is checked.
    pub fn is_behind_the_end(&self, chain: &ChainId, segment: &Segment, ids: &[EntryId]) -> bool {
        let Some((_, line)) = self.get(chain).filter(|(_, line)| line.counts_to() < u64::MAX) else { return false };
        let common = line.branches.iter().filter_map(|branch| self.common(branch, segment, ids)).max();
        common.is_some_and(|common| segment.first + common as u64 > line.counts_to() && common < ids.len())
    }

    /// The proof that a segment and the branch that it leaves give; `None` where ids are not known.
    pub fn proof(&self, place: &Place, segment: &Segment, ids: &[EntryId]) -> Option<ForkProof> {
        let Place::Forks { line, from, skip, base, .. } = place else { return None };
        let line = self.lines.get(*line)?;
        let branch = line.branches.get(*from)?;
        let held = branch.ids_after(base.len())?;
        let held = Tail { opening: &line.opening, tip: &branch.tip, ids: &held };
        let new = Tail { opening: &segment.opening, tip: &segment.tip, ids: &ids[*skip..] };
        Some(ForkProof::of(segment.doc, base.clone(), held, new))
    }

    /// Closes a chain by a proof that was verified, or closes it earlier. What counts of it is to be found anew. `cut` is how
    /// far the rights of its device reach, if it is unknown so far.
    pub fn close(&mut self, space: &SpaceId, proof: ForkProof, cut: Option<u64>) -> Closing {
        let chain = proof.chain(space);
        let line = match self.by_id.get(&chain) {
            Some(line) => &mut self.lines[*line],
            None => {
                // Known by nothing but its proof.
                self.by_id.insert(chain, self.lines.len());
                let empty = Branch::first(&proof.first.tip);
                self.lines.push(Line { opening: proof.opening.clone(), branches: vec![empty], closed: None, cut });
                self.lines.last_mut().expect("just pushed")
            }
        };
        if line.closed.as_ref().is_some_and(|known| known.at() <= proof.at()) {
            return Closing::Known;
        }
        line.closed = Some(proof);
        Closing::Closed
    }

    /// Lets the first `n` entries of a branch count, of a line that is not open. Without effect where neither their ids are
    /// known nor the proof says what stands before the point where the chain parts.
    pub fn count(&mut self, line: usize, branch: usize, n: u64) {
        let Some(line) = self.lines.get_mut(line) else { return };
        let shared = line.closed.as_ref().map(|proof| &proof.shared).filter(|shared| shared.len() == n);
        let Some(branch) = line.branches.get_mut(branch) else { return };
        let head = branch.frontier_at(n).or_else(|| shared.cloned()).map(|frontier| frontier.head());
        branch.counts = head.map(|head| Counts { n, head }).or(branch.counts);
    }

    /// Sets the last entry of a chain that the rights of its device cover.
    pub fn cut(&mut self, line: usize, cut: Option<u64>) {
        if let Some(line) = self.lines.get_mut(line) {
            line.cut = cut;
        }
    }

    /// Puts the ids of the entries up to the base of each first branch, as a snapshot has them, where they fit.
    pub fn deepen(&mut self, line: usize, ids: Vec<EntryId>) {
        if let Some(branch) = self.lines.get_mut(line).and_then(|line| line.branches.first_mut())
            && extended(Frontier::default(), &ids) == branch.base
        {
            branch.inside = ids;
        }
    }

    /// Finds the place of a segment with these entry ids: on the branch that shares most with it. Checks at most one
    /// signature per branch and one more, and none for a duplicate.
    pub fn place(&self, space: &SpaceId, doc: &DocId, chain: &ChainId, segment: &Segment, ids: &[EntryId]) -> Place {
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
        for (index, branch) in line.branches.iter().enumerate().filter(|(_, b)| segment.tip.n > b.floor()) {
            let Some(common) = self.common(branch, segment, ids) else { continue };
            if common == ids.len() {
                return Place::Duplicate;
            }
            candidates.push((index, common));
        }
        // What ends inside the base of the first branch, which alone moves, is taken for what is held there.
        let base = line.branches[0].floor();
        candidates.sort_by_key(|(_, common)| core::cmp::Reverse(*common));
        for (index, skip) in candidates {
            let branch = &line.branches[index];
            let end = before + skip as u64;
            if segment.tip.n <= base && end <= branch.floor() {
                // Nothing but the trunk in common with this branch.
                continue;
            }
            let skipped_base = branch.floor().saturating_sub(before) as usize;
            let Some(frontier) = branch.frontier_at(before.max(branch.floor())) else { continue };
            let frontier = extended(frontier, &ids[skipped_base..]);
            if !verifies(&frontier) {
                continue;
            }
            if end == branch.len() {
                return Place::Extends { line: at, branch: index, skip, frontier };
            }
            let Some(base) = branch.frontier_at(end) else { return Place::NeedsWhole };
            return Place::Forks { line: at, from: index, skip, base, frontier };
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
        let in_base = usize::try_from(branch.floor().saturating_sub(before)).ok()?.min(ids.len());
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
                    let branches = vec![Branch::first(&segment.tip)];
                    let opening = segment.opening.clone();
                    self.lines.push(Line { opening, branches, closed: None, cut: None });
                    self.by_id.insert(chain, line);
                }
                let target = &mut self.lines[line].branches[branch];
                target.ids.extend_from_slice(&ids[skip..]);
                target.frontier = frontier;
                target.tip = segment.tip.clone();
                (line, branch)
            }
            Place::Forks { line, from, skip, base, frontier } => {
                let branches = &mut self.lines[line].branches;
                let first = Branch::first(&segment.tip);
                let (shared, parent, ids) = (base.len(), from as u16, ids[skip..].to_vec());
                branches.push(Branch { shared, base, frontier, parent, ids, ..first });
                (line, branches.len() - 1)
            }
            other => unreachable!("only a place that adds something is applied, not {other:?}"),
        }
    }

    /// Makes everything up to `n` of branch 0 of a line its base: a snapshot covers it.
    pub fn cover(&mut self, line: usize, frontier: Frontier, tip: &Tip, opening: &Opening, chain: ChainId) {
        if line == self.lines.len() {
            self.by_id.insert(chain, line);
            let branch = Branch { base: frontier.clone(), frontier, ..Branch::first(tip) };
            self.lines.push(Line { opening: opening.clone(), branches: vec![branch], closed: None, cut: None });
            return;
        }
        let branch = &mut self.lines[line].branches[0];
        let gone = (frontier.len().saturating_sub(branch.base.len()) as usize).min(branch.ids.len());
        branch.ids.drain(..gone);
        branch.inside = Vec::new();
        if frontier.len() >= branch.len() {
            branch.frontier = frontier.clone();
            branch.tip = tip.clone();
        }
        branch.base = frontier;
    }

    /// Drops the ids of all branches but for those of some chains: everything is on disk (authority logs).
    pub fn forget_ids(&mut self, but: &BTreeSet<ChainId>) {
        for (_, line) in self.by_id.iter().filter(|(chain, _)| !but.contains(chain)) {
            for branch in &mut self.lines[*line].branches {
                branch.base = branch.frontier.clone();
                (branch.ids, branch.inside) = (Vec::new(), Vec::new());
            }
        }
    }
}

/// Whether each of these ends, sorted, lies on a branch. One pass over the ids of each branch at most.
fn pass(branches: &[Branch], ends: &[&(u64, Head)]) -> bool {
    let mut found: Vec<bool> = ends.iter().map(|(n, _)| *n < branches[0].floor()).collect();
    for branch in branches {
        let known = if branch.inside.is_empty() { branch.base.clone() } else { Frontier::default() };
        let (mut tree, mut ids) = (known, branch.inside.iter().chain(&branch.ids));
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
