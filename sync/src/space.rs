//! A space: who may do what in it, and the running totals over its logs.
//!
//! The authority log is a log like any other (chains, tips, segments) whose entries are records. Its ids are not kept in
//! memory: a million document headers cost a frontier.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::chain::{Opening, Segment};
use crate::clock::{Clock, Fingerprint};
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use crate::limits::{Limits, Rules};
use crate::lines::{Line, Lines, Place};
use crate::log::Admitted;
use crate::record::{Genesis, Record, Right, Writers};
use crate::violation::Violation;

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
}

/// A grant in force.
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
    /// A second history of an authority chain, or too many chains.
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
    grants: BTreeMap<DeviceId, Granted>,
    /// Every grant admitted, those included that a greater one has replaced: a tip may name any of them.
    known: BTreeSet<EntryId>,
    /// Last sequence number given out.
    pub seq: u64,
    /// Over all logs.
    pub fingerprint: Fingerprint,
    /// Logs in the fingerprint.
    pub logs: u64,
    /// If present, the only documents that this peer takes.
    pub filter: Option<BTreeSet<DocId>>,
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
            grants: BTreeMap::new(),
            known: BTreeSet::new(),
            seq: 0,
            fingerprint: Fingerprint::default(),
            logs: 0,
            filter: None,
        }
    }

    /// From its stored row and its stored rights records.
    pub fn load(id: SpaceId, row: SpaceRow, rights: Vec<(DeviceId, Vec<u8>)>) -> Space {
        let mut lines = Lines::from_stored(&id, &id.authority(), row.lines);
        lines.forget_ids();
        let mut space = Space {
            genesis: row.genesis.and_then(|bytes| Genesis::from_bytes(&bytes).ok()),
            lines,
            seq: row.seq,
            fingerprint: row.fingerprint,
            logs: row.logs,
            filter: row.filter.map(|docs| docs.into_iter().collect()),
            ..Space::unknown(id)
        };
        // Rows come in the order of their ids. Only the root makes admins, so once its grants are in, no other waits for one.
        let root = space.genesis.as_ref().map(|g| g.root);
        let (first, rest): (Vec<_>, Vec<_>) = rights.into_iter().partition(|(device, _)| Some(*device) == root);
        for (device, bytes) in first.into_iter().chain(rest) {
            if let Ok(record) = Record::from_bytes(&bytes) {
                space.note_right(&device, Record::id(&id, &device, &bytes), &record);
            }
        }
        space
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
        self.genesis = Some(genesis);
        Ok(())
    }

    /// The rules of the space; `None` until the genesis is known.
    pub fn rules(&self) -> Option<&'static Rules> {
        Rules::of_version(self.genesis.as_ref()?.rules)
    }

    /// The grant of a device, if it has one.
    pub fn grant(&self, device: &DeviceId) -> Option<&Granted> {
        self.grants.get(device)
    }

    /// All grants in force.
    pub fn grants(&self) -> impl Iterator<Item = (&DeviceId, &Granted)> {
        self.grants.iter()
    }

    /// What a device may do, as far as is known here.
    pub fn right_of(&self, device: &DeviceId) -> Option<Right> {
        let genesis = self.genesis.as_ref()?;
        if genesis.root == *device {
            return Some(Right::Admin);
        }
        let open = (genesis.writers == Writers::Anyone).then_some(Right::Write);
        self.grants.get(device).map(|g| g.right).max(open)
    }

    /// Whether a device may write, in a document of `creator` if it is about one. False may become true: unknown authority
    /// means wait.
    ///
    /// To vouch for a foreign chain is a right of its own, because a foreign actor can be anything, the name of a device's
    /// own chain as well, and what comes second under a name is not shown. Where anyone may write, only the creator of
    /// a document may do it there, who could delete the document too.
    pub fn may_write(&self, opening: &Opening, creator: Option<&DeviceId>) -> bool {
        let foreign = matches!(opening.kind, crate::chain::Kind::Foreign(_));
        let vouches = |genesis: &Genesis| {
            genesis.root == opening.device
                || (genesis.writers == Writers::Anyone && creator == Some(&opening.device))
                || self.grants.get(&opening.device).is_some_and(|g| g.gateway)
        };
        self.right_of(&opening.device) >= Some(Right::Write) && (!foreign || self.genesis.as_ref().is_some_and(vouches))
    }

    /// The rights records that a tip of `device` should name: the one that lets it write.
    pub fn rights_for(&self, device: &DeviceId) -> Vec<EntryId> {
        self.grants.get(device).map(|g| g.record).into_iter().collect()
    }

    /// Whether every rights record that a tip names is known here.
    pub fn knows_rights(&self, named: &[EntryId]) -> bool {
        named.iter().all(|id| self.known.contains(id))
    }

    /// The clock of the authority log.
    pub fn clock(&self) -> Clock {
        self.lines.clock()
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
    pub fn admit(&mut self, segment: Segment, limits: &Limits) -> RecordAdmission {
        let doc = self.id.authority();
        let chain = segment.opening.chain(&self.id, &doc);
        let device = segment.opening.device;
        if !self.may_write(&segment.opening, None) || !self.knows_rights(&segment.tip.rights) {
            return RecordAdmission::WaitsForRight;
        }
        let ids: Vec<EntryId> = segment.entries.iter().map(|bytes| Record::id(&self.id, &device, bytes)).collect();
        let place = self.lines.place(&self.id, &doc, &chain, &segment, &ids);
        let skip = match &place {
            Place::Duplicate => return RecordAdmission::Duplicate,
            Place::Gap => return RecordAdmission::WaitsForPrefix,
            Place::BadTip if self.lines.get(&chain).is_none() => return RecordAdmission::Refused(Violation::BadTip),
            Place::BadTip | Place::NeedsWhole | Place::LeavesBase | Place::Forks { .. } => {
                return RecordAdmission::NotHeld("authority-fork");
            }
            Place::Extends { line, .. } if *line >= limits.chains_per_log => return RecordAdmission::NotHeld("chains"),
            Place::Extends { skip, .. } => *skip,
        };
        let mut records = Vec::with_capacity(ids.len() - skip);
        for (id, bytes) in ids.iter().zip(&segment.entries).skip(skip) {
            match Record::from_bytes(bytes) {
                Ok(record) => records.push((*id, record)),
                Err(fault) => return RecordAdmission::Refused(fault.into()),
            }
        }
        // A grant acts on every peer or on none, whatever came first: it waits for the right to give it.
        if !records.iter().all(|(_, record)| self.may_give(&device, record)) {
            return RecordAdmission::WaitsForRight;
        }
        self.recount(|space| {
            space.lines.apply(chain, place, &segment, &ids);
            space.lines.forget_ids();
        });
        for (id, record) in &records {
            self.note_right(&device, *id, record);
        }
        let mut segment = segment;
        segment.entries.drain(..skip);
        segment.first += skip as u64;
        let (counted, ids) = (segment.tip.n, ids[skip..].to_vec());
        let admitted = Admitted { chain, branch: 0, segment, ids, counted, reshown: false, proof: None };
        RecordAdmission::Admitted(admitted, records)
    }

    /// Changes the authority log and its share of the fingerprint with it.
    fn recount(&mut self, change: impl FnOnce(&mut Space)) {
        let digest = |space: &Space| crate::log::digest_of(false, || space.clock());
        let before = digest(self);
        change(self);
        let after = digest(self);
        self.replace(&self.id.authority(), before, after);
    }

    /// Replaces one log's share of the fingerprint.
    pub fn replace(&mut self, doc: &DocId, before: Option<[u8; 32]>, after: Option<[u8; 32]>) {
        if before == after {
            return;
        }
        if let Some(digest) = before {
            self.fingerprint.remove(doc, &digest);
            self.logs -= 1;
        }
        if let Some(digest) = after {
            self.fingerprint.add(doc, &digest);
            self.logs += 1;
        }
    }

    /// Whether a record by `device`, if it is a grant, has effect: the root makes Admins, Admins grant the rest. False may
    /// become true.
    pub fn may_give(&self, device: &DeviceId, record: &Record) -> bool {
        let Record::Grant { right, .. } = record else { return true };
        let root = self.genesis.as_ref().is_some_and(|g| g.root == *device);
        root || (*right < Right::Admin && self.right_of(device) == Some(Right::Admin))
    }

    fn note_right(&mut self, by: &DeviceId, record_id: EntryId, record: &Record) {
        let Record::Grant { device, right, gateway } = record else { return };
        self.known.insert(record_id);
        let rank = |g: &Granted| (g.right, g.gateway, g.record);
        let granted = Granted { record: record_id, right: *right, gateway: *gateway };
        let better = self.grants.get(device).is_none_or(|old| rank(old) < rank(&granted));
        if better && self.may_give(by, record) {
            self.grants.insert(*device, granted);
        }
    }

    /// Whether a tombstone by `device` for a document of `creator` has effect. False may become true.
    pub fn may_delete(&self, device: &DeviceId, creator: &DeviceId) -> bool {
        device == creator || self.right_of(device) == Some(Right::Admin)
    }

    /// Id of the chain that `opening` opens in the authority log.
    pub fn authority_chain(&self, opening: &Opening) -> ChainId {
        opening.chain(&self.id, &self.id.authority())
    }
}

#[cfg(test)]
mod tests;
