//! One document's log: enough to admit, order and serve its entries, never their meaning.
//!
//! Structural admission of changes happens here (rules T2–T3 and S1–S6). A segment is admitted whole or not at all:
//! what it covers is one step of its author. Bodies are not kept; the index of entries reaches back to the last snapshot.

mod image;
mod past;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::{Kind, Opening, Segment};
use crate::change::{self, ChangeHead};
use crate::clock::Clock;
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use crate::limits::{Limits, Rules};
use crate::lines::{Closing, Line, Lines, Place};
use crate::proof::ForkProof;
use crate::usage::UNSIGNED;
use crate::violation::Violation;

use self::image::comparable;
use self::image::concerns;
pub use self::image::{Covered, CoveredHead, DeepEntry, Header, Image, StoredSegment, Taken, digest_of};
use self::past::{Follows, Graph, Past, Spot};
pub use self::snapshot::{HEAD_PASTS_MAX, SnapshotHead, SnapshotOf};

/// Bytes of entries of a log that count for nothing yet, and are kept because they may: what others will turn out to have
/// built upon. As much as may wait of one deliverer.
const HIDDEN_BYTES_MAX: u64 = 4 << 20;
/// The same of what nothing here waits for.
const HIDDEN_ASKED_MAX: u64 = 256 << 10;
/// Branches that count, of one chain: each is built upon by another chain at least.
const BRANCHES_MAX: usize = 4_096;

/// Places in the authority log where a document was created or deleted that are told apart. With one more, the first that was
/// not in force is forgotten.
pub const PLACES_MAX: usize = 16;

/// Where something was said in the authority log: by whom, in which chain, as which entry.
pub type SaidAt = (DeviceId, ChainId, u64);

/// What became of a segment.
#[derive(Debug)]
pub enum Admission {
    /// Its new entries are in.
    Admitted(Admitted),
    /// Nothing in it is new.
    Duplicate,
    /// It waits for this entry.
    WaitsForEntry(EntryId),
    /// It waits for the entries before its first.
    WaitsForPrefix,
    /// The chain is needed from its first entry.
    NeedsWhole,
    /// The past lies inside the snapshot: the index must be deepened, then the segment offered again.
    NeedsDeep,
    /// Local policy: too many live chains or branches.
    NotHeld(&'static str),
    /// Behind the end of a closed chain, and nothing here builds upon it: not kept now.
    Idle,
    /// An entry breaks a rule of which its author alone is guilty; the text says which.
    Invalid(&'static str),
    /// The deliverer is at fault.
    Refused(Violation),
}

/// Why a segment came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Need {
    /// Somebody pushed it.
    Pushed,
    /// It was asked for.
    Asked,
    /// Something here waits for it, or this device made it.
    Awaited,
}

/// The new part of an admitted segment.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The chain.
    pub chain: ChainId,
    /// Its branch.
    pub branch: u16,
    /// The segment without the entries that were held before.
    pub segment: Segment,
    /// Ids of its entries.
    pub ids: Vec<EntryId>,
    /// Entries up to this number count, and are to be shown.
    pub counted: u64,
    /// What is to be shown changed otherwise than by these entries.
    pub reshown: bool,
    /// The proof that they gave, if they closed the chain, or closed it earlier.
    pub proof: Option<Box<ForkProof>>,
}

/// What became of a fork proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProofAdmission {
    /// The chain is closed by it. True if something is not to be shown any more.
    Closed(bool),
    /// Nothing new.
    Known,
    /// The chain is closed inside the snapshot: the index must be deepened, then the proof offered again.
    NeedsDeep,
    /// Local policy: too many chains.
    NotHeld,
    /// It proves nothing: the deliverer is at fault.
    Refused,
}

/// What became of the limits of a log's chains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutOutcome {
    /// They were the same.
    Same,
    /// They are others: the image of the log is another. True if something is not to be shown any more, or is again.
    Set(bool),
    /// The index must be deepened first.
    NeedsDeep,
}

/// One document's log in memory.
#[derive(Debug)]
pub struct Log {
    space: SpaceId,
    doc: DocId,
    header: Header,
    deleted: bool,
    covered: Option<Covered>,
    lines: Lines,
    graph: Graph,
    deep: bool,
    proofs_seq: u64,
    headers: Vec<SaidAt>,
    unfounded: bool,
    tombstones: Vec<SaidAt>,
    /// As [`Image::taken`].
    taken: BTreeMap<DeviceId, u64>,
    /// Bytes of entries that do not count.
    hidden: u64,
    /// Entry bytes after the snapshot, and their number: what compaction looks at.
    loose: (u64, u64),
}

impl Log {
    /// A log from its image and the stored segments that no snapshot covers, in order of their sequence. Rows that do
    /// not fit are skipped, and counted with the branches that lack one: the caller treats the document as damaged.
    pub fn load(space: SpaceId, doc: DocId, image: Image, segments: &[StoredSegment]) -> (Log, usize) {
        let mut lines = image.lines;
        for branch in lines.iter_mut().flat_map(|l| &mut l.branches) {
            branch.ids.clear();
            branch.inside.clear();
        }
        let mut log = Log {
            space,
            doc,
            header: image.header,
            deleted: image.deleted,
            covered: image.covered,
            lines: Lines::from_stored(&space, &doc, lines),
            graph: Graph::default(),
            deep: false,
            proofs_seq: image.proofs_seq,
            headers: image.headers,
            unfounded: image.unfounded,
            tombstones: image.tombstones,
            taken: image.taken.iter().map(|of| (of.device, of.bytes)).collect(),
            hidden: 0,
            loose: (0, 0),
        };
        if log.taken.is_empty() {
            // From before it was counted.
            segments.iter().for_each(|stored| log.take(stored.segment.opening.device, stored.segment.body_bytes()));
            log.take_snapshot(log.covered.as_ref().map_or(0, |covered| covered.bytes));
        }
        log.graph.cover(log.covered.as_ref().map_or(&[], |covered| &covered.heads));
        let strange = segments.iter().filter(|stored| log.restore(stored).is_none()).count();
        let branches = log.lines.all().iter().flat_map(|line| &line.branches);
        let missing = branches.filter(|b| !log.deleted && b.base.len() + b.ids.len() as u64 != b.len()).count();
        (log, strange + missing)
    }

    fn restore(&mut self, stored: &StoredSegment) -> Option<()> {
        let chain = stored.segment.opening.chain(&self.space, &self.doc);
        let (line, found) = self.lines.get(&chain)?;
        let base = found.branches.get(usize::from(stored.branch))?.base.len();
        for (n, bytes) in (stored.segment.first..).zip(&stored.segment.entries) {
            if n <= base {
                continue;
            }
            let head = change::walk(bytes, &Rules::V1).ok()?;
            let before = self.id_at(line, stored.branch, n - 1);
            // A dependency may lie deep inside the snapshot: it stays an edge to an id that is not in the index.
            let spot = Spot { line: line as u32, branch: stored.branch, n };
            let max_op = head.max_op();
            self.graph.push(spot, head.id, max_op, head.deps, before.as_ref());
            self.lines.restore(line, usize::from(stored.branch), head.id);
            // What stood on the first branch when the chain was closed is not charged: it would crowd out the others.
            if stored.branch > 0 && n > self.lines.all()[line].counted(usize::from(stored.branch)) {
                self.hidden += bytes.len() as u64;
            }
            self.loose = (self.loose.0 + bytes.len() as u64, self.loose.1 + 1);
        }
        Some(())
    }

    /// The id of an entry that no snapshot covers.
    fn id_at(&self, line: usize, branch: u16, n: u64) -> Option<EntryId> {
        self.lines.all().get(line)?.branches.get(usize::from(branch))?.id_at(n).copied()
    }

    /// The stored form.
    pub fn image(&self) -> Image {
        Image {
            header: self.header.clone(),
            deleted: self.deleted,
            lines: self.lines.all().to_vec(),
            covered: self.covered.clone(),
            proofs_seq: self.proofs_seq,
            headers: self.headers.clone(),
            unfounded: self.unfounded,
            tombstones: self.tombstones.clone(),
            taken: self.taken.iter().map(|(device, bytes)| Taken { device: *device, bytes: *bytes }).collect(),
        }
    }

    /// What came of each device.
    pub fn taken(&self) -> &BTreeMap<DeviceId, u64> {
        &self.taken
    }

    /// Counts entries of a device.
    pub fn take(&mut self, device: DeviceId, bytes: usize) {
        if bytes > 0 {
            *self.taken.entry(device).or_default() += bytes as u64;
        }
    }

    /// Counts a snapshot from elsewhere in place of the one before. By how many bytes it is larger.
    pub fn take_snapshot(&mut self, bytes: u64) -> u64 {
        let before = self.taken.get(&UNSIGNED).copied().unwrap_or(0);
        if bytes > before {
            self.taken.insert(UNSIGNED, bytes);
        }
        bytes.saturating_sub(before)
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// True once a tombstone came.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// Exactly which entries are held.
    pub fn clock(&self) -> Clock {
        self.lines.clock()
    }

    /// What stands for the log in fingerprints.
    pub fn digest(&self) -> Option<[u8; 32]> {
        digest_of(self.deleted, || comparable(self.clock(), self.unfounded))
    }

    /// The chains.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// What the snapshot covers.
    pub fn covered(&self) -> Option<&Covered> {
        self.covered.as_ref()
    }

    /// Whether an entry is in the index: it is held, and so is what it builds upon.
    pub fn holds(&self, id: &EntryId) -> bool {
        self.graph.get(id).is_some()
    }

    /// The highest operation up to an entry, if it is in the index.
    pub fn max_op(&self, id: &EntryId) -> Option<u64> {
        self.graph.get(id).map(|meta| meta.max_op)
    }

    /// Bytes of entries that do not count.
    pub fn hidden_bytes(&self) -> u64 {
        self.hidden
    }

    /// Bytes and number of the entries that no snapshot covers.
    pub fn loose(&self) -> (u64, u64) {
        self.loose
    }

    /// Rough memory cost in bytes, for the bound on resident logs: linear in the entries, their dependencies and the chains.
    pub fn memory_bytes(&self) -> usize {
        1_024 + self.graph.memory_bytes() + 512 * self.lines.all().len()
    }

    /// Where its creator said the header, as far as that is known.
    pub fn headers(&self) -> &[SaidAt] {
        &self.headers
    }

    /// Takes note of another place where the header was said. `counts` tells which are in force.
    pub fn head(&mut self, at: SaidAt, counts: impl Fn(&SaidAt) -> bool) {
        remember(&mut self.headers, at, counts);
    }

    /// Sets whether its creator had the right to create it.
    pub fn found(&mut self, founded: bool) {
        self.unfounded = !founded;
    }

    /// Whether its creator had no right to create it.
    pub fn is_unfounded(&self) -> bool {
        self.unfounded
    }

    /// Whether one of these devices created it, deleted it, or has a chain in it.
    pub fn concerns(&self, devices: &BTreeSet<DeviceId>) -> bool {
        concerns(&self.header, &self.tombstones, self.lines.all(), devices)
    }

    /// Whether the document is there for people: it is not deleted, and its creator had the right to create it or others
    /// wrote in it.
    pub fn is_shown(&self) -> bool {
        !self.deleted && (!self.unfounded || self.lines.all().iter().any(Line::counts))
    }

    /// Where it was said that it is deleted.
    pub fn tombstones(&self) -> &[SaidAt] {
        &self.tombstones
    }

    /// Takes note of another place where it was said that it is deleted.
    pub fn bury(&mut self, at: SaidAt, counts: impl Fn(&SaidAt) -> bool) {
        remember(&mut self.tombstones, at, counts);
    }

    /// Drops everything but the tombstones.
    pub fn delete(&mut self) {
        self.deleted = true;
        self.lines = Lines::default();
        self.graph.clear();
        self.covered = None;
        self.deep = false;
        self.taken.clear();
        self.hidden = 0;
        self.loose = (0, 0);
    }

    /// The tombstones are not in force any more: what it held comes again from those who kept it.
    pub fn restore_deleted(&mut self) {
        self.deleted = false;
    }

    /// Admits a segment whose device has the right to write, without an end.
    pub fn admit(&mut self, rules: &Rules, limits: &Limits, segment: Segment, need: Need) -> Admission {
        self.admit_upto(rules, limits, segment, need, None)
    }

    /// Admits a segment of a chain of which the rights of its device cover entries up to `cut`, or all.
    pub fn admit_upto(
        &mut self,
        rules: &Rules,
        limits: &Limits,
        segment: Segment,
        need: Need,
        cut: Option<u64>,
    ) -> Admission {
        let chain = segment.opening.chain(&self.space, &self.doc);
        let ids: Result<Vec<_>, _> = segment.entries.iter().map(|e| change::id(e)).collect();
        let ids = match ids {
            Ok(ids) => ids,
            Err(fault) => return Admission::Refused(fault.into()),
        };
        // Before anything is verified: of a closed chain, a device can sign as much as it likes.
        let behind = match self.lines.get(&chain) {
            Some(_) => self.lines.is_behind_the_end(&chain, &segment, &ids),
            None => cut.is_some_and(|cut| segment.first > cut),
        };
        if behind && !self.keeps_idle(&chain, &segment, limits, need) {
            return Admission::Idle;
        }
        let place = self.lines.place(&self.space, &self.doc, &chain, &segment, &ids);
        // Line and branch of the new entries, and the branch on which the entry before them stands.
        let (line, branch, from, skip) = match &place {
            // Inside a snapshot another history cannot be told from what it covers: while something waits, that is looked up.
            Place::Duplicate if need == Need::Awaited && self.is_shallow() && self.ends_inside(&chain, &segment) => {
                return Admission::NeedsDeep;
            }
            Place::Duplicate => return Admission::Duplicate,
            Place::Gap => return Admission::WaitsForPrefix,
            Place::NeedsWhole => return Admission::NeedsWhole,
            Place::BadTip => return Admission::Refused(Violation::BadTip),
            Place::LeavesBase if self.is_shallow() => return Admission::NeedsDeep,
            Place::LeavesBase => return Admission::NotHeld("branches"),
            Place::Extends { line, branch, skip, .. } => (*line, *branch as u16, *branch, *skip),
            Place::Forks { line, from, skip, .. } => {
                (*line, self.lines.all()[*line].branches.len() as u16, *from, *skip)
            }
        };
        if usize::from(branch) >= BRANCHES_MAX {
            return Admission::NotHeld("branches");
        }
        let opens = line == self.lines.all().len();
        if opens && line >= limits.chains_per_log {
            return Admission::NotHeld("chains");
        }
        let proof = match &place {
            Place::Forks { .. } => match self.lines.proof(&place, &segment, &ids) {
                Some(proof) => Some(Box::new(proof)).filter(|proof| self.closes(&chain, proof)),
                // Ids of the branch that it leaves are inside the snapshot.
                None if self.is_shallow() => return Admission::NeedsDeep,
                None => return Admission::NotHeld("branches"),
            },
            _ => None,
        };
        let spot = Spot { line: line as u32, branch, n: segment.first + skip as u64 };
        let heads = match self.walk_entries(rules, &segment, &ids, spot, from, skip) {
            Ok(heads) => heads,
            Err(admission) => return admission,
        };
        if let Err(admission) = self.check_forks(&segment, &ids[skip..], &heads, spot, from) {
            return admission;
        }
        if opens {
            let deps = heads.first().map_or(&[][..], |head| &head.deps);
            match self.has_room_for_chain(&segment.opening, deps, limits) {
                Ok(true) => {}
                Ok(false) => return Admission::NotHeld("live-chains"),
                Err(admission) => return admission,
            }
        }
        if opens && self.is_own_actor(&segment.opening.kind) {
            return Admission::NotHeld("foreign-claim");
        }
        // What counts is found before anything is changed: that may need what is inside the snapshot.
        let counts_to = self.lines.all().get(line).map_or(cut.unwrap_or(u64::MAX), Line::counts_to);
        let counts_to = counts_to.min(proof.as_ref().map_or(u64::MAX, |proof| proof.at() - 1));
        let roots = heads.iter().zip(spot.n..).filter(|(_, n)| *n <= counts_to);
        let deps: Vec<EntryId> = roots.flat_map(|(head, _)| &head.deps).copied().collect();
        let Ok(mut found) = self.newly_counted(&deps) else { return Admission::NeedsDeep };
        if proof.is_some() && self.is_shallow() && counts_to < self.lines.all()[line].branches[0].base.len() {
            return Admission::NeedsDeep;
        }
        self.lines.apply(chain, place, &segment, &ids);
        if opens {
            self.lines.cut(line, cut);
        }
        for (head, n) in heads.into_iter().zip(spot.n..) {
            let before = self.id_at(line, branch, n - 1);
            let max_op = head.max_op();
            self.graph.push(Spot { n, ..spot }, head.id, max_op, head.deps, before.as_ref());
        }
        let mut segment = segment;
        segment.entries.drain(..skip);
        segment.first += skip as u64;
        self.loose.0 += segment.body_bytes() as u64;
        self.loose.1 += segment.entries.len() as u64;
        let mut reshown = !found.is_empty();
        if let Some(proof) = &proof {
            let before = self.counted();
            self.lines.close(&self.space, (**proof).clone(), None);
            reshown |= self.recount(&before);
        } else {
            if !self.lines.all()[line].is_open() {
                let already = self.lines.all()[line].counted(usize::from(branch));
                found.push(((line as u32, branch), segment.tip.n.min(counts_to).max(already)));
            }
            found.into_iter().for_each(|((line, branch), n)| self.lines.count(line as usize, usize::from(branch), n));
        }
        let counted = self.lines.all()[line].counted(usize::from(branch));
        let hidden = (segment.first..).zip(&segment.entries).filter(|(n, _)| *n > counted);
        self.hidden += hidden.map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        let ids = ids[skip..].to_vec();
        Admission::Admitted(Admitted { chain, branch, segment, ids, counted, reshown, proof })
    }

    /// Whether a segment ends where its chain is not known by ids.
    fn ends_inside(&self, chain: &ChainId, segment: &Segment) -> bool {
        self.lines.get(chain).is_some_and(|(_, line)| segment.tip.n <= line.branches[0].floor())
    }

    /// Whether a segment behind the end of its chain is kept all the same.
    fn keeps_idle(&self, chain: &ChainId, segment: &Segment, limits: &Limits, need: Need) -> bool {
        let idle = self.lines.get(chain).map_or(0, |(_, line)| line.idle_branches());
        let bytes = self.hidden + segment.body_bytes() as u64;
        match need {
            Need::Pushed => false,
            Need::Asked => bytes <= HIDDEN_ASKED_MAX && idle < limits.branches_per_chain,
            Need::Awaited => bytes <= HIDDEN_BYTES_MAX,
        }
    }

    /// Whether a proof closes the chain, or closes it earlier.
    fn closes(&self, chain: &ChainId, proof: &ForkProof) -> bool {
        let known = self.lines.get(chain).and_then(|(_, line)| line.closed.as_ref());
        known.is_none_or(|known| proof.at() < known.at())
    }

    /// Closes a chain by a proof from elsewhere, of which the rights of its device cover the first `cut` entries, or all.
    pub fn close(&mut self, proof: &ForkProof, limits: &Limits, cut: Option<u64>) -> ProofAdmission {
        let chain = proof.chain(&self.space);
        if !self.closes(&chain, proof) {
            return ProofAdmission::Known;
        }
        let line = self.lines.get(&chain).map(|(_, line)| line);
        if line.is_none() && self.lines.all().len() >= limits.chains_per_log {
            return ProofAdmission::NotHeld;
        }
        if !proof.verifies(&self.space) {
            return ProofAdmission::Refused;
        }
        if self.is_shallow() && line.is_some_and(|line| proof.at() <= line.branches[0].base.len()) {
            return ProofAdmission::NeedsDeep;
        }
        let before = self.counted();
        match self.lines.close(&self.space, proof.clone(), cut) {
            Closing::Closed => ProofAdmission::Closed(self.recount(&before)),
            Closing::Known => ProofAdmission::Known,
        }
    }

    /// Sets how far the rights of its device cover each chain, in their order.
    pub fn cut(&mut self, cuts: &[Option<u64>]) -> CutOutcome {
        let mut lines = self.lines.all().iter().zip(cuts);
        if lines.clone().all(|(line, cut)| line.cut == *cut) {
            return CutOutcome::Same;
        }
        // The end of what counts is known by ids that are inside the snapshot.
        if self.is_shallow() && lines.any(|(line, cut)| cut.is_some_and(|cut| cut < line.branches[0].base.len())) {
            return CutOutcome::NeedsDeep;
        }
        let before = self.counted();
        cuts.iter().enumerate().for_each(|(line, cut)| self.lines.cut(line, *cut));
        CutOutcome::Set(self.recount(&before))
    }

    /// Whether all of it counts.
    pub fn is_open(&self) -> bool {
        self.lines.all().iter().all(Line::is_open)
    }

    /// Notes where the proofs stand in the sequence; gives the place before.
    pub fn place_proofs(&mut self, seq: u64) -> u64 {
        core::mem::replace(&mut self.proofs_seq, seq)
    }

    /// How much of each branch of each line counts.
    fn counted(&self) -> Vec<Vec<u64>> {
        let of = |line: &Line| (0..line.branches.len()).map(|branch| line.counted(branch)).collect();
        self.lines.all().iter().map(of).collect()
    }

    /// Finds anew what counts: of each chain what stands before its end, and everything that this was built upon. True if
    /// of what was there `before`, something counted that does not any more, or the other way round.
    fn recount(&mut self, before: &[Vec<u64>]) -> bool {
        let seeds = self.lines.all().iter().zip(0u32..).flat_map(|(line, at)| {
            let ends = line.branches.iter().zip(0u16..).map(move |(branch, number)| {
                let n = branch.len().min(line.counts_to());
                Spot { line: at, branch: number, n }
            });
            ends.filter(|spot| spot.n > 0 && (spot.branch == 0 || line.is_open()))
        });
        let past = self.graph.reach(&self.lines, seeds.collect());
        for line in 0..self.lines.all().len() {
            if self.lines.all()[line].is_open() {
                continue;
            }
            for branch in 0..self.lines.all()[line].branches.len() {
                let held = &self.lines.all()[line];
                let n = past.reached.get(&(line as u32, branch as u16)).copied().unwrap_or(0);
                let n = n.max(held.branches[branch].len().min(held.counts_to()));
                self.lines.count(line, branch, n);
            }
        }
        let now = self.counted();
        let changed = |(before, now): (&Vec<u64>, &Vec<u64>)| before.iter().zip(now).any(|(before, now)| before != now);
        before.iter().zip(&now).any(changed)
    }

    /// What counts besides, once entries with these dependencies do: ends of branches. An error if that is inside the
    /// snapshot.
    fn newly_counted(&self, deps: &[EntryId]) -> Result<Vec<((u32, u16), u64)>, ()> {
        let mut new: BTreeMap<(u32, u16), u64> = BTreeMap::new();
        if self.is_open() {
            return Ok(Vec::new());
        }
        let mut todo: Vec<Spot> = deps.iter().filter_map(|dep| self.graph.get(dep)).map(|meta| meta.spot).collect();
        while let Some(spot) = todo.pop() {
            let key = (spot.line, spot.branch);
            let Some(line) = self.lines.all().get(spot.line as usize).filter(|line| !line.is_open()) else { continue };
            let known = line.counted(usize::from(spot.branch)).max(new.get(&key).copied().unwrap_or(0));
            if spot.n <= known {
                continue;
            }
            if self.is_shallow() && known < line.branches[0].base.len() && spot.branch == 0 {
                return Err(());
            }
            new.insert(key, spot.n);
            todo.extend(self.graph.behind(known + 1, spot));
            let branch = &line.branches[usize::from(spot.branch)];
            if spot.branch > 0 {
                todo.push(Spot { branch: branch.parent, n: branch.shared, ..spot });
            }
        }
        Ok(new.into_iter().collect())
    }

    /// Rule S7 on new entries: nobody builds on a forked chain behind the point where it parts, once their past shows that it
    /// does. The device itself may do so in the first entry of another chain, on one branch; a chain never goes on after
    /// its own fork. So each chain lets one branch live, at most.
    fn check_forks(
        &self,
        segment: &Segment,
        ids: &[EntryId],
        heads: &[ChangeHead],
        spot: Spot,
        from: usize,
    ) -> Result<(), Admission> {
        let forked = |line: u32| self.lines.all().get(line as usize).is_some_and(|line| line.branches.len() > 1);
        if !(0..self.lines.all().len() as u32).any(forked) && from == 0 && spot.branch == 0 {
            return Ok(());
        }
        let mut past: Vec<EntryId> = Vec::new();
        for (at, head) in heads.iter().enumerate() {
            let held = head.deps.iter().filter(|dep| !ids[..at].contains(dep));
            let new: Vec<EntryId> = held.copied().collect();
            past.extend(&new);
            let on: Vec<Spot> = new.iter().filter_map(|dep| self.graph.get(dep)).map(|meta| meta.spot).collect();
            let before = match at.checked_sub(1) {
                Some(last) => ids.get(last).copied(),
                None => self.id_at(spot.line as usize, from as u16, spot.n - 1),
            };
            // What follows nothing but the entry before it sees no more than that one.
            let follows = before.is_some_and(|before| head.deps == [before]);
            let own = (forked(spot.line) || spot.branch > 0) && !follows;
            if follows || !own && !on.iter().any(|dep| forked(dep.line)) {
                continue;
            }
            let shown = self.graph.past(&self.lines, &past);
            if shown.missing.is_some() && self.is_shallow() {
                return Err(Admission::NeedsDeep);
            }
            // Its own chain: the new entries stand on the branch that they leave or go on with.
            let mut on_own = shown.reached.iter().filter(|((line, _), _)| *line == spot.line);
            if own && (self.parts(&shown, spot.line).is_some() || on_own.any(|(_, n)| *n >= spot.n)) {
                return Err(Admission::Invalid("S7: a chain goes on after its own fork"));
            }
            let first = spot.n + at as u64 == 1;
            let mut branches: BTreeMap<u32, u16> = BTreeMap::new();
            for dep in on {
                if self.parts(&shown, dep.line).is_none_or(|parts| dep.n <= parts) {
                    continue;
                }
                let line = &self.lines.all()[dep.line as usize];
                let same = line.opening.kind == Kind::Own && line.opening.device == segment.opening.device;
                if !(first && same) || *branches.entry(dep.line).or_insert(dep.branch) != dep.branch {
                    return Err(Admission::Invalid("S7: an entry builds on a chain that its past shows to be forked"));
                }
            }
        }
        Ok(())
    }

    /// How many entries of a chain are in the past before it shows two histories, if it does.
    fn parts(&self, past: &Past, line: u32) -> Option<u64> {
        let held = self.lines.all().get(line as usize)?;
        let reached = |branch: u16| past.reached.get(&(line, branch)).copied().unwrap_or(0);
        let leaves = |at: usize| (held.branches[at].parent, held.branches[at].shared);
        let present: Vec<usize> =
            (1..held.branches.len()).filter(|at| reached(*at as u16) > held.branches[*at].shared).collect();
        let parts = present.iter().filter(|at| {
            let (parent, shared) = leaves(**at);
            reached(parent) > shared || present.iter().any(|other| other != *at && leaves(*other) == (parent, shared))
        });
        parts.map(|at| held.branches[*at].shared).min()
    }

    /// Rules S1–S6 on the new entries of a segment whose tip has been verified. `from` is the branch that holds the entry
    /// before them, which is another than theirs where they begin a new one.
    fn walk_entries(
        &self,
        rules: &Rules,
        segment: &Segment,
        ids: &[EntryId],
        spot: Spot,
        from: usize,
        skip: usize,
    ) -> Result<Vec<ChangeHead>, Admission> {
        let refuse = |violation: Violation| Err(Admission::Refused(violation));
        let actor = segment.opening.actor(&self.space, &self.doc);
        let mut heads: Vec<ChangeHead> = Vec::with_capacity(ids.len() - skip);
        let mut fresh: BTreeMap<EntryId, u64> = BTreeMap::new();
        for (at, bytes) in segment.entries.iter().enumerate().skip(skip) {
            let n = segment.first + at as u64;
            let head = match change::walk(bytes, rules) {
                Ok(head) => head,
                Err(fault) => return refuse(fault.into()),
            };
            if head.actor[..] != actor[..] {
                return refuse(Violation::WrongActor);
            }
            if head.seq != n {
                return refuse(Violation::WrongSeq);
            }
            if segment.opening.kind == Kind::Own && head.author.is_some_and(|a| a != segment.opening.device.0) {
                return refuse(Violation::WrongAuthor);
            }
            let mut past_op = 0;
            for dep in &head.deps {
                let max_op = fresh.get(dep).copied().or_else(|| self.graph.get(dep).map(|meta| meta.max_op));
                past_op = past_op.max(max_op.ok_or_else(|| self.lacks(*dep))?);
            }
            // What is new here is in nobody else's past.
            let builds = n == 1 || (at > skip && head.deps.contains(&ids[at - 1]));
            if !builds {
                let before =
                    if at > skip { Some(ids[at - 1]) } else { self.id_at(spot.line as usize, from as u16, n - 1) };
                let held = before.and_then(|id| self.graph.get(&id));
                // Without a place of its own it is inside the snapshot, which covers nothing but first branches.
                let inside = (at == skip).then_some((Spot { branch: 0, n: n - 1, ..spot }, 0));
                let Some((target, order)) = held.map(|meta| (meta.spot, meta.order)).or(inside) else {
                    return refuse(Violation::PredecessorNotInPast);
                };
                let deps: Vec<EntryId> = head.deps.iter().filter(|dep| !fresh.contains_key(dep)).copied().collect();
                match self.graph.follows(&self.lines, &deps, target, order) {
                    Follows::Yes => {}
                    Follows::No => return refuse(Violation::PredecessorNotInPast),
                    Follows::Unknown(id) => return Err(self.lacks(id)),
                }
            }
            let starts_right = match segment.opening.kind {
                Kind::Own => head.start_op == past_op + 1,
                Kind::Foreign(_) => head.start_op > past_op && head.start_op - past_op <= rules.foreign_jump_max,
            };
            if !starts_right {
                return refuse(Violation::WrongStartOp { found: head.start_op, past: past_op });
            }
            fresh.insert(ids[at], head.max_op());
            heads.push(head);
        }
        Ok(heads)
    }

    /// What to do about an entry that is not in the index.
    fn lacks(&self, id: EntryId) -> Admission {
        if self.is_shallow() { Admission::NeedsDeep } else { Admission::WaitsForEntry(id) }
    }

    /// Whether a foreign chain goes by the name of a device's own, which is held here and beats it.
    fn is_own_actor(&self, kind: &Kind) -> bool {
        let Kind::Foreign(actor) = kind else { return false };
        let line = ChainId::try_from(&actor[..]).ok().and_then(|chain| self.lines.get(&chain));
        line.is_some_and(|(_, line)| line.opening.kind == Kind::Own)
    }

    /// A chain is live until another chain of the same device has its end in its past. `deps` are those of the first entry.
    fn has_room_for_chain(&self, opening: &Opening, deps: &[EntryId], limits: &Limits) -> Result<bool, Admission> {
        let lines = self.lines.all().iter().zip(0u32..);
        let of_device = lines.filter(|(l, _)| l.opening.device == opening.device && l.closed.is_none());
        if opening.kind != Kind::Own || of_device.clone().count() < limits.live_chains_per_device {
            return Ok(true);
        }
        let past = self.graph.past(&self.lines, deps);
        let ended = |line: &Line, at| past.reached.get(&(at, 0)).is_some_and(|n| *n >= line.branches[0].len());
        let room = of_device.filter(|(line, at)| !ended(line, *at)).count() < limits.live_chains_per_device;
        match past.missing {
            Some(_) if !room && self.is_shallow() => Err(Admission::NeedsDeep),
            _ => Ok(room),
        }
    }
}

fn remember(places: &mut Vec<SaidAt>, at: SaidAt, counts: impl Fn(&SaidAt) -> bool) {
    if places.contains(&at) {
        return;
    }
    if places.len() >= PLACES_MAX {
        match places.iter().position(|place| !counts(place)) {
            Some(idle) => drop(places.remove(idle)),
            None => return,
        }
    }
    places.push(at);
}
