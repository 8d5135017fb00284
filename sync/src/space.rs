//! A space: who may do what in it, and the running totals over its logs.
//!
//! The authority log is a log like any other (chains, tips, segments) whose entries are records. Its ids are not kept in
//! memory: a million document headers cost a frontier.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::authority::{Authority, Judgement, Limit, Needed, RecordAt};
use crate::chain::{Kind, Opening, RIGHTS_HEADS_MAX, Segment};
use crate::clock::{Clock, Ends, Fingerprint};
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use crate::limits::{Limits, Rules};
use crate::lines::{Closing, Line, Lines, Place};
use crate::log::{Admitted, Header, Image, SaidAt};
use crate::merkle::Head;
use crate::proof::ForkProof;
use crate::record::{Genesis, Record, Right, Writers};
use crate::violation::Violation;

/// The last place in its sequence that a stored space may name.
const SEQ_MAX: u64 = 1 << 62;

/// The stored form of a space, without its logs.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct SpaceRow {
    /// Canonical genesis; absent while only the id is known.
    #[n(0)]
    pub genesis: Option<ByteVec>,
    /// Chains of the authority log.
    #[n(1)]
    pub lines: Vec<Line>,
    /// Last sequence number given out in this space.
    #[n(2)]
    pub seq: u64,
    /// Over all logs, the authority log included.
    #[n(3)]
    pub fingerprint: Fingerprint,
    /// Logs in the fingerprint.
    #[n(4)]
    pub logs: u64,
    /// If present, the only documents that this peer wants.
    #[n(5)]
    pub filter: Option<Vec<DocId>>,
    /// Devices whose rights have changed, while not all logs were looked at again.
    #[cbor(n(6), default)]
    pub recut: Vec<DeviceId>,
    /// As [`Space::strangers`].
    #[cbor(n(7), default)]
    pub strangers: Vec<DeviceId>,
    /// As [`Space::resay`].
    #[cbor(n(8), default)]
    pub resay: Vec<ChainId>,
}

impl SpaceRow {
    /// The authority log as the store speaks of any log: it has no header worth naming.
    pub fn image(&self) -> Image {
        let header = Header { creator: DeviceId([0; 32]), kind: String::new(), name: String::new() };
        Image { lines: self.lines.clone(), ..Image::of_header(header) }
    }
}

/// A stored record about rights, with its place in the authority log.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct RightRow {
    /// Who said it.
    #[n(0)]
    pub device: DeviceId,
    /// In which chain.
    #[n(1)]
    pub chain: ChainId,
    /// As which entry of it.
    #[n(2)]
    pub n: u64,
    /// Its bytes.
    #[n(3)]
    pub bytes: ByteVec,
}

/// What a device was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// The record that gives it.
    pub record: EntryId,
    /// What it gives.
    pub right: Right,
    /// May vouch for foreign changes.
    pub gateway: bool,
}

/// What became of a segment of records.
#[derive(Debug)]
pub enum RecordAdmission {
    /// In. The records with their ids, in order.
    Admitted(Admitted, Vec<(EntryId, Record)>),
    /// Nothing in it is new.
    Duplicate,
    /// Entries before its first are missing.
    WaitsForPrefix,
    /// The device has no right that this peer knows of yet.
    WaitsForRight,
    /// All of it is beyond what a revocation, rotation or closing leaves of its chain: not held, and nobody's fault who
    /// delivers it.
    Cut,
    /// It may show a second history of its chain. To tell, the ids of the chain are needed ([`Space::deepen`]), and then all of
    /// what the deliverer has of it.
    Suspect,
    /// It shows a second history of its chain: to be closed by this proof, and the segment offered again.
    Forked(Box<ForkProof>),
    /// Too many chains.
    NotHeld(&'static str),
    /// The deliverer is at fault.
    Refused(Violation),
}

/// A space in memory.
#[derive(Debug)]
pub struct Space {
    id: SpaceId,
    genesis: Option<Genesis>,
    lines: Lines,
    authority: Authority,
    /// What others leave of chains that they cut, as of a generation of the authority.
    ends: (u64, BTreeMap<ChainId, u64>),
    /// Last sequence number given out.
    pub seq: u64,
    /// Over all logs.
    pub fingerprint: Fingerprint,
    /// Logs in the fingerprint.
    pub logs: u64,
    /// If present, the only documents that this peer takes.
    pub filter: Option<BTreeSet<DocId>>,
    /// Devices whose rights have changed, while not all logs were looked at again.
    pub recut: BTreeSet<DeviceId>,
    /// Devices without a right that is known here, of whom entries are held because others built upon them.
    pub strangers: BTreeSet<DeviceId>,
    /// Chains of the authority log that are this device's own and closed, until what it said in them is said again.
    pub resay: BTreeSet<ChainId>,
    /// Chains of the authority log whose ids are in memory.
    suspects: BTreeSet<ChainId>,
    /// The generation of the authority up to which [`Space::take_affected`] has told.
    told: u64,
}

impl Space {
    /// Whether this peer takes a log of the space. The authority log is taken always.
    pub fn takes(&self, doc: &DocId) -> bool {
        *doc == self.id.authority() || self.filter.as_ref().is_none_or(|docs| docs.contains(doc))
    }

    /// A space of which only the id is known.
    pub fn unknown(id: SpaceId) -> Space {
        Space {
            id,
            genesis: None,
            lines: Lines::default(),
            authority: Authority::new(id),
            ends: (0, BTreeMap::new()),
            seq: 0,
            fingerprint: Fingerprint::default(),
            logs: 0,
            filter: None,
            recut: BTreeSet::new(),
            strangers: BTreeSet::new(),
            resay: BTreeSet::new(),
            suspects: BTreeSet::new(),
            told: 0,
        }
    }

    /// From its stored row and its stored rights records, in any order.
    pub fn load(id: SpaceId, row: SpaceRow, mut rights: Vec<RightRow>) -> Space {
        let mut lines = Lines::from_stored(&id, &id.authority(), row.lines);
        lines.forget_ids(&BTreeSet::new());
        let mut space = Space {
            lines,
            // Beyond that it was not written by this engine; there must be room to count on.
            seq: row.seq.min(SEQ_MAX),
            fingerprint: row.fingerprint,
            logs: row.logs,
            filter: row.filter.map(|docs| docs.into_iter().collect()),
            recut: row.recut.into_iter().collect(),
            strangers: row.strangers.into_iter().collect(),
            resay: row.resay.into_iter().collect(),
            ..Space::unknown(id)
        };
        if let Some(genesis) = row.genesis.and_then(|bytes| Genesis::from_bytes(&bytes).ok()) {
            space.authority.set_genesis(&genesis);
            space.genesis = Some(genesis);
        }
        rights.sort_unstable_by_key(|right| (right.chain, right.n));
        for RightRow { device, chain, n, bytes } in rights {
            if let Ok(record) = Record::from_bytes(&bytes) {
                let at = RecordAt { device, chain, n, id: Record::id(&id, &device, &bytes) };
                space.authority.note(at, &record);
            }
        }
        let chains: Vec<(ChainId, DeviceId)> = space.chains().collect();
        for (chain, device) in chains {
            space.authority.open(chain, device);
            if let Some(proof) = space.lines.get(&chain).and_then(|(_, line)| line.closed.as_ref()) {
                space.authority.close(chain, proof.at());
            }
            space.find_end(chain, &device);
        }
        space.ends.0 = space.authority.generation();
        space.told = space.ends.0;
        space
    }

    /// The devices whose limits have changed since this was last asked, and those that have a right by now of whom entries
    /// were held before.
    pub fn take_affected(&mut self) -> BTreeSet<DeviceId> {
        let mut affected = self.authority.affected(self.told);
        self.told = self.authority.generation();
        let authority = &self.authority;
        affected.extend(self.strangers.extract_if(.., |device| authority.ever(device, Right::Write)));
        affected
    }

    fn chains(&self) -> impl Iterator<Item = (ChainId, DeviceId)> {
        self.lines.all().iter().map(|line| (self.authority_chain(&line.opening), line.opening.device))
    }

    fn find_end(&mut self, chain: ChainId, device: &DeviceId) {
        match self.authority.holds_upto(&chain, device) {
            u64::MAX => self.ends.1.remove(&chain),
            end => self.ends.1.insert(chain, end),
        };
    }

    /// Finds anew what is left of the chains of those whose limits have changed.
    fn find_ends(&mut self) {
        let now = self.authority.generation();
        if now == self.ends.0 {
            return;
        }
        let affected = self.authority.affected(self.ends.0);
        let chains: Vec<(ChainId, DeviceId)> = self.chains().filter(|(_, device)| affected.contains(device)).collect();
        chains.iter().for_each(|(chain, device)| self.find_end(*chain, device));
        self.ends.0 = now;
    }

    /// The stored form.
    pub fn row(&self) -> SpaceRow {
        SpaceRow {
            genesis: self.genesis.as_ref().map(|g| g.to_bytes().into()),
            lines: self.lines.all().to_vec(),
            seq: self.seq,
            fingerprint: self.fingerprint,
            logs: self.logs,
            filter: self.filter.as_ref().map(|docs| docs.iter().copied().collect()),
            recut: self.recut.iter().copied().collect(),
            strangers: self.strangers.iter().copied().collect(),
            resay: self.resay.iter().copied().collect(),
        }
    }

    /// The id.
    pub fn id(&self) -> SpaceId {
        self.id
    }

    /// The genesis, once it is known.
    pub fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_ref()
    }

    /// Takes the genesis if its hash is the id and its rules are known.
    pub fn set_genesis(&mut self, genesis: Genesis) -> Result<(), &'static str> {
        if genesis.space() != self.id {
            return Err("the genesis does not hash to the id of the space");
        }
        Rules::of_version(genesis.rules).ok_or("the space follows rules that this version does not know")?;
        self.authority.set_genesis(&genesis);
        self.genesis = Some(genesis);
        Ok(())
    }

    /// The rules of the space; `None` until the genesis is known.
    pub fn rules(&self) -> Option<&'static Rules> {
        Rules::of_version(self.genesis.as_ref()?.rules)
    }

    /// Who may do what.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Takes the ids of the entries of a chain of the authority log, as the disk has them, to tell two histories apart. They stay
    /// in memory until [`Space::forget`].
    pub fn deepen(&mut self, chain: ChainId, ids: Vec<EntryId>) {
        if let Some((line, _)) = self.lines.get(&chain) {
            self.suspects.insert(chain);
            self.lines.deepen(line, ids);
        }
    }

    /// Lets go of the ids of chains that were looked at more closely.
    pub fn forget(&mut self) {
        self.suspects.clear();
        self.lines.forget_ids(&self.suspects);
    }

    /// Closes a chain of the authority log by a proof. What was said in it from there on does not count.
    pub fn close(&mut self, proof: &ForkProof) -> Closing {
        let (chain, at) = (proof.chain(&self.id), proof.at());
        let mut closing = Closing::Known;
        self.recount(|space| {
            closing = space.lines.close(&space.id, proof.clone(), None);
            if closing == Closing::Closed {
                space.authority.open(chain, proof.opening.device);
                space.authority.close(chain, at);
                space.count(&chain);
            }
        });
        closing
    }

    /// Finds how much counts of the branches of a closed chain of the authority log: what they share.
    fn count(&mut self, chain: &ChainId) {
        let Some((line, held)) = self.lines.get(chain).filter(|(_, line)| line.closed.is_some()) else { return };
        let ends: Vec<u64> = held.branches.iter().map(|branch| branch.len().min(held.counts_to())).collect();
        ends.into_iter().enumerate().for_each(|(branch, n)| self.lines.count(line, branch, n));
    }

    /// The greatest right that a device was given and that nothing ends; none for the root.
    pub fn grant(&self, device: &DeviceId) -> Option<Granted> {
        let record = *self.authority.path_of(device).first()?;
        Some(Granted { record, right: self.authority.right_of(device)?, gateway: self.authority.is_gateway(device) })
    }

    /// What a device may do from now on, as far as is known here.
    pub fn right_of(&self, device: &DeviceId) -> Option<Right> {
        self.authority.right_of(device)
    }

    /// Whether a device may write from now on, in a document of `creator` if it is about one. False may become true: unknown
    /// authority means wait.
    ///
    /// To vouch for a foreign chain is a right of its own, because a foreign actor can be anything, the name of a device's
    /// own chain as well, and what comes second under a name is not shown. Where anyone may write, only the creator of
    /// a document may do it there, who could delete the document too.
    pub fn may_write(&self, opening: &Opening, creator: Option<&DeviceId>) -> bool {
        let needed = self.needed(opening, creator);
        self.genesis.is_some() && self.authority.may(&opening.device, needed, creator.is_some())
    }

    /// Up to where the entries count of the chain that `opening` opens in a log: in a document of `creator`, or in the
    /// authority log.
    pub fn limit(&self, doc: &DocId, opening: &Opening, creator: Option<&DeviceId>) -> Limit {
        let chain = opening.chain(&self.id, doc);
        self.authority.limit(doc, &chain, &opening.device, self.needed(opening, creator))
    }

    fn needed(&self, opening: &Opening, creator: Option<&DeviceId>) -> Needed {
        let open = self.genesis.as_ref().is_some_and(|genesis| genesis.writers == Writers::Anyone);
        let own = opening.kind == Kind::Own || (open && creator == Some(&opening.device));
        Needed { right: Right::Write, gateway: !own }
    }

    /// The rights records that a tip of `device` should name: those that let it write.
    pub fn rights_for(&self, device: &DeviceId) -> Vec<EntryId> {
        let mut rights = self.authority.path_of(device);
        rights.truncate(RIGHTS_HEADS_MAX);
        rights
    }

    /// Whether every rights record that a tip names is known here.
    pub fn knows_rights(&self, named: &[EntryId]) -> bool {
        named.iter().all(|id| self.authority.knows(id))
    }

    /// The clock of the authority log.
    pub fn clock(&self) -> Clock {
        self.lines.clock()
    }

    /// The digest of the authority log. A chain that others cut enters it by what they left, without a head, once it has come
    /// so far: some peers hold what lies beyond, and some do not.
    pub fn digest(&self) -> Option<[u8; 32]> {
        let mut clock = self.clock();
        for (chain, end) in &self.ends.1 {
            let Some(ends) = clock.0.get_mut(chain).filter(|ends| ends.length() >= *end) else { continue };
            ends.heads = if *end > 0 { vec![(*end, Head([0; 32]))] } else { Vec::new() };
            if *ends == Ends::default() {
                clock.0.remove(chain);
            }
        }
        crate::log::digest_of(false, || clock)
    }

    /// The chains of the authority log.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Number of records that the chain of `opening` has.
    pub fn chain_length(&self, opening: &Opening) -> u64 {
        let chain = opening.chain(&self.id, &self.id.authority());
        self.lines.get(&chain).map_or(0, |(_, line)| line.branches[0].len())
    }

    /// The tree of a chain, for signing what comes next.
    pub fn chain_frontier(&self, opening: &Opening) -> crate::merkle::Frontier {
        let chain = opening.chain(&self.id, &self.id.authority());
        self.lines.get(&chain).map_or_else(Default::default, |(_, line)| line.branches[0].frontier.clone())
    }

    /// Admits a segment of the authority log.
    ///
    /// What lies behind a cut is not held, but where it is `awaited`: a document with entries that count may have its header
    /// there.
    pub fn admit(&mut self, segment: Segment, limits: &Limits, awaited: bool) -> RecordAdmission {
        let doc = self.id.authority();
        let chain = segment.opening.chain(&self.id, &doc);
        let device = segment.opening.device;
        if segment.opening.kind != Kind::Own {
            return RecordAdmission::NotHeld("authority-foreign");
        }
        // Who has no right must not buy a signature check, but for what may bring a right with it.
        let known = self.authority.ever(&device, Right::Relay) || brings_right(&segment);
        if self.genesis.is_none() || !known || !self.knows_rights(&segment.tip.rights) {
            return RecordAdmission::WaitsForRight;
        }
        let ids: Vec<EntryId> = segment.entries.iter().map(|bytes| Record::id(&self.id, &device, bytes)).collect();
        let closed = self.lines.get(&chain).and_then(|(_, line)| line.closed.as_ref()).map(ForkProof::at);
        if closed.is_some() && !awaited && self.lines.is_behind_the_end(&chain, &segment, &ids) {
            return RecordAdmission::Cut;
        }
        let place = self.lines.place(&self.id, &doc, &chain, &segment, &ids);
        let floor = self.lines.get(&chain).map_or(0, |(_, line)| line.branches[0].floor());
        let (branch, skip) = match &place {
            // What ends where no ids are known is taken for what is held, unless there are two histories to choose from.
            Place::Duplicate if awaited && floor > 0 && closed.is_some_and(|at| at <= segment.tip.n) => {
                return RecordAdmission::Suspect;
            }
            Place::Duplicate => return RecordAdmission::Duplicate,
            Place::Gap => return RecordAdmission::WaitsForPrefix,
            Place::BadTip if floor == 0 => return RecordAdmission::Refused(Violation::BadTip),
            Place::BadTip | Place::NeedsWhole | Place::LeavesBase => return RecordAdmission::Suspect,
            Place::Forks { line, skip, .. } => match self.lines.proof(&place, &segment, &ids) {
                Some(proof) if closed.is_none_or(|at| proof.at() < at) => {
                    return RecordAdmission::Forked(Box::new(proof));
                }
                _ if !awaited => return RecordAdmission::Cut,
                _ if self.lines.all()[*line].branches.len() >= limits.branches_per_chain => {
                    return RecordAdmission::NotHeld("branches");
                }
                _ => (self.lines.all()[*line].branches.len(), *skip),
            },
            Place::Extends { line, .. } if *line >= limits.chains_per_log => return RecordAdmission::NotHeld("chains"),
            Place::Extends { skip, branch, .. } => (*branch, *skip),
        };
        let mut records = Vec::with_capacity(ids.len() - skip);
        for (id, bytes) in ids.iter().zip(&segment.entries).skip(skip) {
            match Record::from_bytes(bytes) {
                Ok(record) => records.push((*id, record)),
                Err(fault) => return RecordAdmission::Refused(fault.into()),
            }
        }
        let first = segment.first + skip as u64;
        match self.authority.judge(&device, &chain, first, &records) {
            Judgement::Admit => {}
            Judgement::Wait => return RecordAdmission::WaitsForRight,
            Judgement::Cut if !awaited => return RecordAdmission::Cut,
            Judgement::Cut => {}
            Judgement::Full => return RecordAdmission::NotHeld("redeems"),
        }
        self.recount(|space| {
            space.lines.apply(chain, place, &segment, &ids);
            space.lines.forget_ids(&space.suspects);
            space.count(&chain);
            for (n, (id, record)) in (first..).zip(&records) {
                space.authority.note(RecordAt { device, chain, n, id: *id }, record);
            }
            space.find_end(chain, &device);
        });
        let mut segment = segment;
        segment.entries.drain(..skip);
        segment.first = first;
        let (counted, ids) = (segment.tip.n, ids[skip..].to_vec());
        let branch = branch as u16;
        let admitted = Admitted { chain, branch, segment, ids, counted, reshown: false, proof: None };
        RecordAdmission::Admitted(admitted, records)
    }

    /// Changes the authority log and its share of the fingerprint with it.
    fn recount(&mut self, change: impl FnOnce(&mut Space)) {
        let before = self.digest();
        change(self);
        self.find_ends();
        let after = self.digest();
        self.replace(&self.id.authority(), before, after);
    }

    /// Replaces one log's share of the fingerprint.
    pub fn replace(&mut self, doc: &DocId, before: Option<[u8; 32]>, after: Option<[u8; 32]>) {
        if before == after {
            return;
        }
        if let Some(digest) = before {
            self.fingerprint.remove(doc, &digest);
            self.logs = self.logs.saturating_sub(1);
        }
        if let Some(digest) = after {
            self.fingerprint.add(doc, &digest);
            self.logs = self.logs.saturating_add(1);
        }
    }

    /// Whether a tombstone by `device` for a document of `creator` has effect. False may become true.
    pub fn may_delete(&self, device: &DeviceId, creator: &DeviceId) -> bool {
        device == creator || self.right_of(device) == Some(Right::Admin)
    }

    /// Whether a tombstone is in force for a document of `creator`, though its device may not delete any more.
    pub fn buries(&self, (device, chain, n): &SaidAt, creator: &DeviceId) -> bool {
        let right = if device == creator { Right::Write } else { Right::Admin };
        self.authority.counts_at(device, chain, *n, right)
    }

    /// Whether a device had the right to create a document where it said the header.
    pub fn founds(&self, (device, chain, n): &SaidAt) -> bool {
        self.authority.counts_at(device, chain, *n, Right::Write)
    }

    /// Id of the chain that `opening` opens in the authority log.
    pub fn authority_chain(&self, opening: &Opening) -> ChainId {
        opening.chain(&self.id, &self.id.authority())
    }
}

/// Whether a segment begins with a record by which a device without a right may come in.
fn brings_right(segment: &Segment) -> bool {
    let first = segment.entries.first().filter(|_| segment.first == 1).map(|bytes| Record::from_bytes(bytes));
    matches!(first, Some(Ok(Record::Redeem { .. } | Record::Identity { .. } | Record::Rotate { .. })))
}

#[cfg(test)]
mod tests;
