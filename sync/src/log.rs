//! One document's log: enough to admit, order and serve its entries, never their meaning.
//!
//! Structural admission of changes happens here (rules T2–T3 and S1–S6). A segment is admitted whole or not at all:
//! what it covers is one step of its author. Bodies are not kept; the index of entries reaches back to the last snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::chain::{Kind, Opening, Segment, Tip};
use crate::change;
use crate::clock::Clock;
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use crate::limits::{Limits, Rules};
use crate::lines::{Line, Lines, Place};
use crate::merkle::Frontier;
use crate::violation::Violation;

/// What the header of a document says, and who made it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Header {
    /// The device that created the document.
    #[n(0)]
    pub creator: DeviceId,
    /// What the app calls documents of this sort.
    #[n(1)]
    pub kind: String,
    /// A name for people.
    #[n(2)]
    pub name: String,
}

/// The stored form of a log, without its bodies.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Image {
    /// The document's header.
    #[n(0)]
    pub header: Header,
    /// True once a tombstone came: bodies are gone, and stay gone.
    #[n(1)]
    pub deleted: bool,
    /// Chains in order of arrival.
    #[n(2)]
    pub lines: Vec<Line>,
    /// What the snapshot covers, if there is one.
    #[n(3)]
    pub covered: Option<Covered>,
}

impl Image {
    /// A document of which only the header is known.
    pub fn of_header(header: Header) -> Image {
        Image { header, deleted: false, lines: Vec::new(), covered: None }
    }

    /// Exactly which entries it stands for.
    pub fn clock(&self, space: &SpaceId, doc: &DocId) -> Clock {
        Lines::from_stored(space, doc, self.lines.clone()).clock()
    }

    /// What stands for the document in fingerprints; `None` if there is nothing to compare.
    pub fn digest(&self, space: &SpaceId, doc: &DocId) -> Option<[u8; 32]> {
        digest_of(self.deleted, || self.clock(space, doc))
    }
}

/// What stands for a log in fingerprints: the digest of its clock, or of a tombstone; `None` for an empty log.
pub fn digest_of(deleted: bool, clock: impl FnOnce() -> Clock) -> Option<[u8; 32]> {
    if deleted {
        return Some(*blake3::hash(b"commonhold deleted 1").as_bytes());
    }
    let clock = clock();
    (!clock.0.is_empty()).then(|| clock.digest())
}

/// What a snapshot covers.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Covered {
    /// Bytes of the snapshot, compressed.
    #[n(0)]
    pub bytes: u64,
    /// Entries covered.
    #[n(1)]
    pub entries: u64,
    /// Its heads: entries without successors inside it.
    #[n(2)]
    pub heads: Vec<CoveredHead>,
    /// The tip over each chain, by line.
    #[n(3)]
    pub tips: Vec<(u32, Tip)>,
}

/// A head of a snapshot, enough to build on it without loading it.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct CoveredHead {
    /// Its id.
    #[n(0)]
    pub id: EntryId,
    /// Index of its line.
    #[n(1)]
    pub line: u32,
    /// Its number.
    #[n(2)]
    pub n: u64,
    /// The highest operation up to it.
    #[n(3)]
    pub max_op: u64,
    /// Its past in other chains: (line, number).
    #[n(4)]
    pub past: Vec<(u32, u64)>,
}

/// A segment as the store keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredSegment {
    /// Place in the sequence of the store.
    pub seq: u64,
    /// Branch of its chain; 0 unless the chain is forked.
    pub branch: u8,
    /// The segment.
    pub segment: Segment,
}

/// What the index knows of an entry.
#[derive(Clone, Debug)]
struct Meta {
    line: u32,
    branch: u8,
    n: u64,
    max_op: u64,
    /// Highest entry of each other chain (and branch) in its past.
    past: Arc<Past>,
}

type Past = BTreeMap<(u32, u8), u64>;

impl Meta {
    fn is_or_follows(&self, line: u32, branch: u8, n: u64) -> bool {
        if (self.line, self.branch) == (line, branch) {
            return n <= self.n;
        }
        self.past.get(&(line, branch)).is_some_and(|last| n <= *last)
    }
}

/// What an entry of a loaded snapshot is, in causal order.
#[derive(Clone, Debug)]
pub struct DeepEntry {
    /// Its id.
    pub id: EntryId,
    /// The Automerge actor.
    pub actor: Vec<u8>,
    /// Its number.
    pub n: u64,
    /// The highest operation up to it.
    pub max_op: u64,
    /// Its dependencies.
    pub deps: Vec<EntryId>,
}

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
    /// The deliverer is at fault.
    Refused(Violation),
}

/// The new part of an admitted segment.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The chain.
    pub chain: ChainId,
    /// Its branch; anything but 0 is evidence of a fork, and not shown.
    pub branch: u8,
    /// The segment without the entries that were held before.
    pub segment: Segment,
    /// Ids of its entries.
    pub ids: Vec<EntryId>,
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
    index: BTreeMap<EntryId, Meta>,
    deep: bool,
    no_past: Arc<Past>,
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
        }
        let mut log = Log {
            space,
            doc,
            header: image.header,
            deleted: image.deleted,
            covered: image.covered,
            lines: Lines::from_stored(&space, &doc, lines),
            index: BTreeMap::new(),
            deep: false,
            no_past: Arc::default(),
            loose: (0, 0),
        };
        for head in log.covered.iter().flat_map(|c| c.heads.clone()) {
            let past = head.past.iter().map(|(line, n)| ((*line, 0), *n)).collect();
            let meta = Meta { line: head.line, branch: 0, n: head.n, max_op: head.max_op, past: Arc::new(past) };
            log.index.insert(head.id, meta);
        }
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
            // A dependency deep inside the snapshot leaves the past short; `admit` then asks for the deep index.
            let past = self.past_of(line as u32, stored.branch, &head.deps).unwrap_or_else(|_| self.no_past.clone());
            let meta = Meta { line: line as u32, branch: stored.branch, n, max_op: head.max_op(), past };
            self.lines.restore(line, usize::from(stored.branch), head.id);
            self.index.insert(head.id, meta);
            self.loose = (self.loose.0 + bytes.len() as u64, self.loose.1 + 1);
        }
        Some(())
    }

    /// The stored form.
    pub fn image(&self) -> Image {
        Image {
            header: self.header.clone(),
            deleted: self.deleted,
            lines: self.lines.all().to_vec(),
            covered: self.covered.clone(),
        }
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
        digest_of(self.deleted, || self.clock())
    }

    /// The chains.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// What the snapshot covers.
    pub fn covered(&self) -> Option<&Covered> {
        self.covered.as_ref()
    }

    /// Bytes and number of the entries that no snapshot covers.
    pub fn loose(&self) -> (u64, u64) {
        self.loose
    }

    /// Rough memory cost in bytes, for the bound on resident logs: 200 bytes an entry (id, index node, past shared).
    pub fn memory_bytes(&self) -> usize {
        1_024 + 200 * self.index.len() + 512 * self.lines.all().len()
    }

    /// Drops everything but the tombstone.
    pub fn delete(&mut self) {
        self.deleted = true;
        self.lines = Lines::default();
        self.index.clear();
        self.covered = None;
        self.loose = (0, 0);
    }

    /// Admits a segment whose device has the right to write. `known_tip` is true for segments that this very device
    /// has just made.
    pub fn admit(&mut self, rules: &Rules, limits: &Limits, segment: Segment) -> Admission {
        let chain = segment.opening.chain(&self.space, &self.doc);
        let ids: Result<Vec<_>, _> = segment.entries.iter().map(|e| change::id(e)).collect();
        let ids = match ids {
            Ok(ids) => ids,
            Err(fault) => return Admission::Refused(fault.into()),
        };
        let place = self.lines.place(&self.space, &self.doc, &chain, &segment, &ids, limits.branches_per_chain);
        let (line, branch, shared, skip) = match &place {
            Place::Duplicate => return Admission::Duplicate,
            Place::Gap => return Admission::WaitsForPrefix,
            Place::NeedsWhole => return Admission::NeedsWhole,
            Place::BadTip => return Admission::Refused(Violation::BadTip),
            Place::TooManyBranches => return Admission::NotHeld("branches"),
            Place::Extends { line, branch, skip, .. } => {
                let shared = self.lines.all().get(*line).map_or(0, |l| l.branches[*branch].shared);
                (*line as u32, *branch as u8, shared, *skip)
            }
            Place::Forks { line, shared, skip, .. } => {
                let branch = self.lines.all()[*line].branches.len() as u8;
                (*line as u32, branch, *shared, *skip)
            }
        };
        let metas = match self.walk_entries(rules, &segment, &ids, line, branch, shared, skip) {
            Ok(metas) => metas,
            Err(admission) => return admission,
        };
        let opens = line as usize == self.lines.all().len();
        if opens && !self.has_room_for_chain(&segment.opening, metas.first(), limits) {
            return Admission::NotHeld("live-chains");
        }
        if opens && self.is_own_actor(&segment.opening.kind) {
            return Admission::NotHeld("foreign-claim");
        }
        self.lines.apply(chain, place, &segment, &ids);
        for (id, meta) in ids[skip..].iter().zip(metas) {
            self.index.insert(*id, meta);
        }
        let mut segment = segment;
        segment.entries.drain(..skip);
        segment.first += skip as u64;
        self.loose.0 += segment.body_bytes() as u64;
        self.loose.1 += segment.entries.len() as u64;
        Admission::Admitted(Admitted { chain, branch, segment, ids: ids[skip..].to_vec() })
    }

    /// Rules S1–S6 on the new entries of a segment whose tip has been verified.
    #[allow(clippy::too_many_arguments, reason = "the place of a segment, spelled out")]
    fn walk_entries(
        &self,
        rules: &Rules,
        segment: &Segment,
        ids: &[EntryId],
        line: u32,
        branch: u8,
        shared: u64,
        skip: usize,
    ) -> Result<Vec<Meta>, Admission> {
        let refuse = |violation: Violation| Err(Admission::Refused(violation));
        let actor = segment.opening.actor(&self.space, &self.doc);
        let mut metas: Vec<Meta> = Vec::with_capacity(ids.len() - skip);
        let mut fresh: BTreeMap<EntryId, usize> = BTreeMap::new();
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
            let lookup = |id: &EntryId| fresh.get(id).map(|i| &metas[*i]).or_else(|| self.index.get(id));
            let mut past_op = 0;
            let mut has_predecessor = n == 1;
            for dep in &head.deps {
                let Some(meta) = lookup(dep) else {
                    return Err(match self.covered.is_some() && !self.deep {
                        true => Admission::NeedsDeep,
                        false => Admission::WaitsForEntry(*dep),
                    });
                };
                past_op = past_op.max(meta.max_op);
                has_predecessor |= match n - 1 > shared {
                    true => meta.is_or_follows(line, branch, n - 1),
                    false => meta.is_or_follows(line, 0, n - 1),
                };
            }
            if !has_predecessor {
                return refuse(Violation::PredecessorNotInPast);
            }
            let starts_right = match segment.opening.kind {
                Kind::Own => head.start_op == past_op + 1,
                Kind::Foreign(_) => head.start_op > past_op && head.start_op - past_op <= rules.foreign_jump_max,
            };
            if !starts_right {
                return refuse(Violation::WrongStartOp { found: head.start_op, past: past_op });
            }
            let past = merge_past(line, branch, shared, &self.no_past, head.deps.iter().filter_map(lookup));
            fresh.insert(ids[at], metas.len());
            metas.push(Meta { line, branch, n, max_op: head.max_op(), past });
        }
        Ok(metas)
    }

    fn past_of(&self, line: u32, branch: u8, deps: &[EntryId]) -> Result<Arc<Past>, EntryId> {
        let metas = deps.iter().map(|dep| self.index.get(dep).ok_or(*dep)).collect::<Result<Vec<_>, _>>()?;
        let shared = self.lines.all()[line as usize].branches[usize::from(branch)].shared;
        Ok(merge_past(line, branch, shared, &self.no_past, metas.into_iter()))
    }

    /// Whether a foreign chain goes by the name of a device's own, which is held here and beats it.
    fn is_own_actor(&self, kind: &Kind) -> bool {
        let Kind::Foreign(actor) = kind else { return false };
        let line = ChainId::try_from(&actor[..]).ok().and_then(|chain| self.lines.get(&chain));
        line.is_some_and(|(_, line)| line.opening.kind == Kind::Own)
    }

    /// A chain is live until another chain of the same device has its end in its past.
    fn has_room_for_chain(&self, opening: &Opening, first: Option<&Meta>, limits: &Limits) -> bool {
        let of_device = self.lines.all().iter().enumerate().filter(|(_, l)| l.opening.device == opening.device);
        if opening.kind != Kind::Own || of_device.clone().count() < limits.live_chains_per_device {
            return true;
        }
        let live =
            of_device.filter(|(i, l)| !first.is_some_and(|m| m.is_or_follows(*i as u32, 0, l.branches[0].len())));
        live.count() < limits.live_chains_per_device
    }

    /// Whether the index may lack the past of entries inside the snapshot.
    pub fn is_shallow(&self) -> bool {
        self.covered.is_some() && !self.deep
    }

    /// Whether entries to be made here depend on something inside the snapshot that the index lacks.
    pub fn needs_deep(&self, entries: &[Vec<u8>]) -> bool {
        let heads: Vec<_> = entries.iter().filter_map(|bytes| change::walk(bytes, &Rules::V1).ok()).collect();
        let known = |dep: &EntryId| self.index.contains_key(dep) || heads.iter().any(|head| head.id == *dep);
        !heads.iter().flat_map(|head| &head.deps).all(known)
    }

    /// What the index knows of the heads of a snapshot of everything that is held; `None` if it lacks one.
    pub fn heads_for_snapshot(&self, heads: &[EntryId]) -> Option<Vec<SnapshotHead>> {
        let chain_of = |line: u32| Some(self.lines.all().get(line as usize)?.opening.chain(&self.space, &self.doc));
        let heads = heads.iter().map(|id| {
            let meta = self.index.get(id).filter(|meta| meta.branch == 0)?;
            let past = meta.past.iter().filter(|((_, branch), _)| *branch == 0);
            let past = past.map(|((line, _), n)| Some((chain_of(*line)?, *n))).collect::<Option<_>>()?;
            Some(SnapshotHead { id: *id, chain: chain_of(meta.line)?, n: meta.n, max_op: meta.max_op, past })
        });
        heads.collect()
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
        for entry in entries {
            let Some(line) = lines.get(&entry.actor).copied() else { continue };
            let past = merge_past(line, 0, 0, &self.no_past, entry.deps.iter().filter_map(|d| self.index.get(d)));
            self.index.insert(entry.id, Meta { line, branch: 0, n: entry.n, max_op: entry.max_op, past });
        }
        self.deep = true;
    }

    /// Takes note of a snapshot that the engine has made or checked. `chains` are the openings, the trees up to the
    /// covered end, and the tips; `heads` as in [`Covered`] but with chain ids.
    pub fn cover(&mut self, snapshot: SnapshotOf) {
        let mut tips = Vec::new();
        for (opening, frontier, tip) in &snapshot.chains {
            let chain = opening.chain(&self.space, &self.doc);
            let line = self.lines.get(&chain).map_or(self.lines.all().len(), |(i, _)| i);
            self.lines.cover(line, frontier.clone(), tip, opening, chain);
            tips.push((line as u32, tip.clone()));
        }
        let line_of = |chain: &ChainId| self.lines.get(chain).map(|(i, _)| i as u32);
        let heads = snapshot.heads.iter().filter_map(|h| {
            let past = h.past.iter().filter_map(|(c, n)| Some((line_of(c)?, *n))).collect();
            Some(CoveredHead { id: h.id, line: line_of(&h.chain)?, n: h.n, max_op: h.max_op, past })
        });
        let heads: Vec<CoveredHead> = heads.collect();
        let ends: BTreeMap<u32, u64> = tips.iter().map(|(line, tip)| (*line, tip.n)).collect();
        self.index.retain(|_, m| m.branch > 0 || ends.get(&m.line).is_none_or(|end| m.n > *end));
        for head in &heads {
            let past = head.past.iter().map(|(line, n)| ((*line, 0), *n)).collect();
            let meta = Meta { line: head.line, branch: 0, n: head.n, max_op: head.max_op, past: Arc::new(past) };
            self.index.insert(head.id, meta);
        }
        let entries = tips.iter().map(|(_, tip)| tip.n).sum();
        self.covered = Some(Covered { bytes: snapshot.bytes, entries, heads, tips });
        self.deep = false;
        self.loose = (0, self.index.values().filter(|m| ends.get(&m.line).is_none_or(|e| m.n > *e)).count() as u64);
    }
}

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

/// The past of an entry in chains other than its own branch, from its dependencies. Shared with the dependency wherever
/// that is the only one and of the same branch, so that a run of typing costs one map.
fn merge_past<'a>(
    line: u32,
    branch: u8,
    shared: u64,
    none: &Arc<Past>,
    mut deps: impl Iterator<Item = &'a Meta>,
) -> Arc<Past> {
    let Some(first) = deps.next() else { return none.clone() };
    let second = deps.next();
    if second.is_none() && (first.line, first.branch) == (line, branch) {
        return first.past.clone();
    }
    let mut past = Past::new();
    if branch > 0 && shared > 0 {
        past.insert((line, 0), shared);
    }
    for meta in core::iter::once(first).chain(second).chain(deps) {
        let own = ((meta.line, meta.branch), meta.n);
        for (key, n) in meta.past.iter().map(|(k, n)| (*k, *n)).chain([own]) {
            if key != (line, branch) {
                let last = past.entry(key).or_insert(0);
                *last = n.max(*last);
            }
        }
    }
    Arc::new(past)
}
