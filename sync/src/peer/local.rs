//! What this device says itself: records and entries, signed here, sent once they are on disk.

use super::rights::ends_of;
use super::{After, Event, Local, LocalError, Peer, SnapshotContent, StoreOp, Ticket};
use crate::authority::RootKeys;
use crate::chain::{Kind, Opening, Segment, Tip};
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use crate::log::{Admission, Log, Need, SnapshotHead, SnapshotOf};
use crate::merkle::Frontier;
use crate::message::LIST_MAX;
use crate::record::{Record, Right};
use crate::space::RecordAdmission;
use crate::usage::Usage;

/// Bytes of entries under one tip: small enough that any segment travels in one message, with room for several.
const SEGMENT_BYTES: usize = 256 << 10;

impl Peer {
    /// Carries out local requests in order, until one has to wait for a load.
    pub(super) fn run_local(&mut self) {
        while let Some((_, space, local)) = self.local.front() {
            let (space, docs) = match local {
                Local::Records(records) => {
                    let docs = records.iter().filter_map(|r| match r {
                        Record::Tombstone { doc } | Record::Erase { doc, .. } => Some(*doc),
                        _ => None,
                    });
                    (*space, docs.collect::<Vec<_>>())
                }
                Local::Revoke { .. } | Local::AsRoot { .. } => (*space, Vec::new()),
                Local::Entries { doc, .. } => (*space, vec![*doc]),
            };
            if !self.failed && !self.ensure(space, docs) {
                return;
            }
            if let Some((_, space, Local::Entries { doc, .. })) = self.local.front()
                && self.is_deepening(&(*space, *doc))
            {
                // What is read may be for these.
                return;
            }
            if let Some((ticket, space, Local::Revoke { records, keep, root })) = self.local.front() {
                let (ticket, space, records, keep, root) = (*ticket, *space, records.clone(), *keep, root.clone());
                let Some(records) = self.run_gather(ticket, space, &records, keep, root) else { return };
                if let Some((_, _, local)) = self.local.front_mut() {
                    *local = records;
                }
            }
            let Some((ticket, space, local)) = self.local.pop_front() else { return };
            if let Err(why) = self.say(ticket, space, local) {
                self.emit(Event::Failed { ticket, why });
            }
        }
    }

    fn say(&mut self, ticket: Ticket, space: SpaceId, local: Local) -> Result<(), LocalError> {
        if self.failed {
            return Err(LocalError::StoreFailed);
        }
        let held = self.spaces.get(&space).ok_or(LocalError::UnknownSpace)?;
        held.rules().ok_or(LocalError::SpaceNotReady)?;
        match local {
            Local::Records(records) => self.say_records(ticket, space, &records),
            Local::Revoke { .. } => unreachable!("a revocation is said as its records"),
            Local::AsRoot { root, records } => self.say_as_root(ticket, space, &root, &records),
            Local::Entries { doc, opening, entries } => self.say_entries(ticket, space, doc, opening, entries),
        }
    }

    fn say_records(&mut self, ticket: Ticket, space: SpaceId, records: &[Record]) -> Result<(), LocalError> {
        let documents = records.iter().filter(|record| matches!(record, Record::Header { .. })).count() as u64;
        let held = self.spaces.get(&space).ok_or(LocalError::UnknownSpace)?;
        if documents > 0 && self.meter.is_beyond(&space, None, Usage { bytes: 1, documents }) {
            return Err(LocalError::Quota);
        }
        let right = held.right_of(&self.device);
        for record in records {
            match record {
                Record::Grant { right, .. } | Record::Invite { right, .. }
                    if !held.authority().may_give(&self.device, *right) =>
                {
                    return Err(LocalError::NotAllowed("grant that"));
                }
                Record::Revoke { records, .. } if !held.authority().may_revoke(&self.device, records) => {
                    return Err(LocalError::NotAllowed("take that back"));
                }
                // Whether these are for this device to say, admission tells: some bring the right with them.
                Record::Identity { .. }
                | Record::Rotate { .. }
                | Record::Member { .. }
                | Record::Redeem { .. }
                | Record::Revoke { .. }
                | Record::Cuts { .. } => {}
                Record::Tombstone { doc } | Record::Erase { doc, .. } => {
                    let Some(log) = self.log(space, *doc) else { return Err(LocalError::UnknownDocument) };
                    let creator = log.header().creator;
                    let held = self.spaces.get(&space).ok_or(LocalError::UnknownSpace)?;
                    if !held.may_delete(&self.device, &creator) {
                        return Err(LocalError::NotAllowed("delete the document"));
                    }
                }
                Record::Header { .. } if held.filter.as_ref().is_some_and(|docs| docs.len() >= LIST_MAX) => {
                    return Err(LocalError::TakesTooMany);
                }
                _ if right < Some(Right::Write) => return Err(LocalError::NotAllowed("write")),
                _ => {}
            }
        }
        let ids = self.add_records(space, records)?;
        self.after.push(After::Saved { ticket, records: ids, end: None });
        Ok(())
    }

    fn say_as_root(
        &mut self,
        ticket: Ticket,
        space: SpaceId,
        root: &RootKeys,
        records: &[Record],
    ) -> Result<(), LocalError> {
        let held = self.spaces.get(&space).ok_or(LocalError::UnknownSpace)?;
        let (known, newest) = (held.authority().root_keys(&root.identity()).len(), root.keys().len() - 1);
        if known > root.keys().len() {
            return Err(LocalError::KeyReplaced(known));
        }
        for index in known.max(1)..newest {
            self.say_as_key(space, root, index, &[])?;
        }
        let rotates = newest > 0 && known <= newest;
        let said = match rotates || !records.is_empty() {
            true => self.say_as_key(space, root, newest, records)?,
            false => Vec::new(),
        };
        self.after.push(After::Saved { ticket, records: said, end: None });
        Ok(())
    }

    /// Begins a chain of one root key with what makes it one. Gives the ids of what it says behind that.
    fn say_as_key(
        &mut self,
        space: SpaceId,
        root: &RootKeys,
        index: usize,
        records: &[Record],
    ) -> Result<Vec<EntryId>, LocalError> {
        let key = root.keys().get(index).ok_or(LocalError::DoesNotFit("no such root key".to_owned()))?;
        let device = DeviceId(key.verifying_key().to_bytes());
        let held = self.spaces.get(&space).ok_or(LocalError::UnknownSpace)?;
        let doc = space.authority();
        let cuts = || {
            let older = root.keys()[..index].iter().map(|key| DeviceId(key.verifying_key().to_bytes())).collect();
            let ends = ends_of(&space, &doc, held.lines().all(), &older);
            held.authority().rotation_cuts(&root.identity(), &device, ends)
        };
        let first = root.rotation(index, cuts()).unwrap_or_else(|| root.founding());
        let opening = Opening { device, salt: self.random(), kind: Kind::Own };
        let entries: Vec<Vec<u8>> = core::iter::once(&first).chain(records).map(Record::to_bytes).collect();
        let ids: Vec<EntryId> = entries.iter().map(|bytes| Record::id(&space, &opening.device, bytes)).collect();
        let mut frontier = Frontier::default();
        ids.iter().for_each(|id| frontier.push(id));
        let tip = Tip::sign(key, &space, &doc, &opening, frontier.len(), &frontier.head(), Vec::new());
        self.admit_own_records(space, Segment { doc, opening, first: 1, entries, tip })?;
        Ok(ids.into_iter().skip(1).collect())
    }

    /// Signs records and takes them in. Gives their ids.
    pub(super) fn add_records(&mut self, space: SpaceId, records: &[Record]) -> Result<Vec<EntryId>, LocalError> {
        let mut opening = self.own_opening(&space, &space.authority());
        // What brings a right with it counts as the first of a chain only.
        let begun = self.spaces.get(&space).is_some_and(|held| !held.chain_frontier(&opening).is_empty());
        if begun && matches!(records.first(), Some(Record::Redeem { .. })) {
            let salt = self.random();
            self.lost.insert((space, space.authority()), salt);
            opening = self.own_opening(&space, &space.authority());
        }
        let mut ids = Vec::new();
        let mut bodies: Vec<Vec<u8>> = records.iter().map(Record::to_bytes).collect();
        while !bodies.is_empty() {
            let entries = take_segment(&mut bodies);
            let held = self.spaces.get(&space).ok_or(LocalError::UnknownSpace)?;
            let mut frontier = held.chain_frontier(&opening);
            let first = frontier.len() + 1;
            let of = |bytes: &Vec<u8>| Record::id(&space, &opening.device, bytes);
            let new: Vec<EntryId> = entries.iter().map(of).collect();
            new.iter().for_each(|id| frontier.push(id));
            let rights = held.rights_for(&self.device);
            let doc = space.authority();
            let tip = Tip::sign(&self.key, &space, &doc, &opening, frontier.len(), &frontier.head(), rights);
            ids.extend(new);
            self.admit_own_records(space, Segment { doc, opening: opening.clone(), first, entries, tip })?;
        }
        Ok(ids)
    }

    fn admit_own_records(&mut self, space: SpaceId, segment: Segment) -> Result<(), LocalError> {
        let held = self.spaces.get_mut(&space).ok_or(LocalError::UnknownSpace)?;
        match held.admit(segment, &self.limits, false) {
            RecordAdmission::Admitted(admitted, records) => {
                self.take_records(space, admitted, records, None);
                Ok(())
            }
            other => Err(LocalError::DoesNotFit(format!("{other:?}"))),
        }
    }

    fn say_entries(
        &mut self,
        ticket: Ticket,
        space: SpaceId,
        doc: DocId,
        opening: Opening,
        mut entries: Vec<Vec<u8>>,
    ) -> Result<(), LocalError> {
        match self.add_entries(space, doc, &opening, &mut entries)? {
            Some(end) => self.after.push(After::Saved { ticket, records: Vec::new(), end: Some(end) }),
            None => {
                self.local.push_front((ticket, space, Local::Entries { doc, opening, entries }));
                self.deepen(space, doc, true);
            }
        }
        Ok(())
    }

    /// Signs entries and takes them in. Gives the chain and its last number, or nothing if those that are left wait for what
    /// is inside the snapshot.
    fn add_entries(
        &mut self,
        space: SpaceId,
        doc: DocId,
        opening: &Opening,
        entries: &mut Vec<Vec<u8>>,
    ) -> Result<Option<(ChainId, u64)>, LocalError> {
        if self.unwanted.docs.contains(&doc) {
            return Err(LocalError::Blocked("the document"));
        }
        if self.meter.is_beyond(&space, None, Usage::bytes(entries.iter().map(Vec::len).sum())) {
            return Err(LocalError::Quota);
        }
        let held = self.spaces.get(&space).ok_or(LocalError::UnknownSpace)?;
        let creator = self.log(space, doc).map(|log| log.header().creator);
        if !held.may_write(opening, creator.as_ref()) {
            return Err(LocalError::NotAllowed("write"));
        }
        if !held.takes(&doc) {
            return Err(LocalError::NotTaken);
        }
        let rules = held.rules().ok_or(LocalError::SpaceNotReady)?;
        let rights = held.rights_for(&self.device);
        let log = self.log(space, doc).ok_or(LocalError::UnknownDocument)?;
        if log.is_deleted() {
            return Err(LocalError::Deleted);
        }
        let chain = opening.chain(&space, &doc);
        let mut frontier =
            log.lines().get(&chain).map_or_else(Default::default, |(_, l)| l.branches[0].frontier.clone());
        while !entries.is_empty() {
            let bodies = take_segment(entries);
            // Only then may they have to come again.
            let kept = self.log(space, doc).is_some_and(Log::is_shallow).then(|| bodies.clone());
            let first = frontier.len() + 1;
            for bytes in &bodies {
                let id = crate::change::id(bytes).map_err(|fault| LocalError::DoesNotFit(fault.to_string()))?;
                frontier.push(&id);
            }
            let (n, head) = (frontier.len(), frontier.head());
            let tip = Tip::sign(&self.key, &space, &doc, opening, n, &head, rights.clone());
            let segment = Segment { doc, opening: opening.clone(), first, entries: bodies, tip };
            let limits = self.limits.clone();
            let admission = self.change_log(space, doc, |log| log.admit(rules, &limits, segment, Need::Awaited));
            match admission {
                Some(Admission::Admitted(admitted)) => self.take_entries(space, admitted, None),
                Some(Admission::NeedsDeep) if kept.is_some() => {
                    entries.splice(0..0, kept.into_iter().flatten());
                    return Ok(None);
                }
                other => return Err(LocalError::DoesNotFit(format!("{other:?}"))),
            }
        }
        Ok(Some((chain, frontier.len())))
    }

    /// Brings chains of this device to an end that turned out to have two histories, because the disk was copied or an old
    /// state came back: each branch is built upon by the first entry of a new chain, so that all of it counts. The person is
    /// not to lose what was written on either side.
    pub(super) fn run_heals(&mut self) {
        for (space, doc) in core::mem::take(&mut self.heals) {
            if self.deepening.contains_key(&(space, doc)) || !self.ensure(space, [doc]) {
                self.heals.insert((space, doc));
                continue;
            }
            self.heal(space, doc);
        }
    }

    fn heal(&mut self, space: SpaceId, doc: DocId) {
        let device = self.device;
        let Some(log) = self.log(space, doc).filter(|log| !log.is_deleted()) else { return };
        let own = self.own_opening(&space, &doc);
        let lost = log.lines().get(&own.chain(&space, &doc)).is_some_and(|(_, line)| line.closed.is_some());
        let closed = log.lines().all().iter().filter(|l| l.opening.device == device && l.opening.kind == Kind::Own);
        let ends = closed.filter(|line| line.closed.is_some()).flat_map(|line| {
            let idle = line.branches.iter().enumerate().filter(|(at, branch)| branch.len() > line.counted(*at));
            idle.map(|(_, branch)| branch.id_at(branch.len()).copied())
        });
        let ends: Vec<Option<EntryId>> = ends.collect();
        let own = log.lines().all().iter().filter(|line| line.opening.device == device && line.lacks_a_history());
        let forgotten: Vec<ChainId> = own.map(|line| line.opening.chain(&space, &doc)).collect();
        self.remember(space, doc, &forgotten);
        if lost {
            self.lose_chain(space, doc);
        }
        if ends.contains(&None) {
            self.heals.insert((space, doc));
            return self.deepen(space, doc, false);
        }
        for end in ends.into_iter().flatten() {
            let opening = Opening { device, salt: self.random(), kind: Kind::Own };
            let Some(start) = self.log(space, doc).and_then(|log| log.max_op(&end)).map(|op| op + 1) else { continue };
            let actor = opening.chain(&space, &doc);
            let entry = crate::change::joining(&actor.0, &device, &[end], start);
            // What fails here fails again only when something comes that lets the log be looked at again.
            match self.add_entries(space, doc, &opening, &mut vec![entry]) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    self.heals.insert((space, doc));
                    return self.deepen(space, doc, false);
                }
                Err(why) => self.notice(None, Some(space), Some(doc), "own-fork", &why.to_string()),
            }
        }
    }

    /// This device may not know its chain in a log to its end: never continue it.
    pub(super) fn lose_chain(&mut self, space: SpaceId, doc: DocId) {
        let salt = self.random();
        self.lost.insert((space, doc), salt);
        self.emit(Event::ChainLost { space, doc });
    }

    /// Asks everybody, once a connection, for histories of this device that a proof speaks of and that are not held: of a disk
    /// that was set back, others have what was written since. Whoever is met later is asked as well.
    fn remember(&mut self, space: SpaceId, doc: DocId, chains: &[ChainId]) {
        match chains.is_empty() {
            true => self.forgotten.remove(&(space, doc)),
            false => self.forgotten.insert((space, doc)),
        };
        for conn in self.connections.of_space(&space) {
            for chain in chains {
                let link = self.connections.get_mut(&conn).and_then(|connection| connection.links.get_mut(&space));
                if link.is_some_and(|link| link.wants_doc(&space, &doc) && link.remembered.insert(*chain)) {
                    self.ask_log(conn, space, doc, Some(*chain));
                }
            }
        }
    }

    /// A connection follows a space from now on.
    pub(super) fn follows(&mut self, space: SpaceId) {
        let forgotten = self.forgotten.range((space, DocId([0; 32]))..=(space, DocId([255; 32])));
        self.heals.extend(forgotten);
    }

    /// A snapshot made by the engine of exactly what is held: it replaces raw entries.
    pub(super) fn snapshot_made(
        &mut self,
        space: SpaceId,
        doc: DocId,
        bytes: Vec<u8>,
        heads: Vec<EntryId>,
        ends: Vec<(Vec<u8>, u64)>,
    ) {
        if !self.ensure(space, [doc]) {
            self.made.push((space, doc, bytes, heads, ends));
            return;
        }
        let Some(log) = self.log(space, doc) else { return };
        let lines = log.lines().all();
        let current = lines.iter().map(|line| (line.opening.actor(&space, &doc), line.branches[0].len()));
        let mut current: Vec<(Vec<u8>, u64)> = current.collect();
        let mut ends = ends;
        current.sort();
        ends.sort();
        if current != ends || log.is_deleted() {
            return;
        }
        // Where a second gateway went on with a foreign chain, the newest tip is not by who opened it: a snapshot, which names one
        // opening for each chain, would not verify. Such a document travels raw.
        let verifies = |line: &crate::lines::Line| {
            let first = line.branches.first();
            first.is_some_and(|branch| branch.tip.verifies(&space, &doc, &line.opening, &branch.frontier.head()))
        };
        if !lines.iter().filter(|line| line.opening.kind != Kind::Own).all(verifies) {
            return;
        }
        let Some(heads) = log.heads_for_snapshot(&heads) else {
            if log.is_shallow() {
                // A part of their past is inside the last snapshot, and would be lacking in this one.
                self.made.push((space, doc, bytes, heads, ends));
                self.deepen(space, doc, true);
            }
            return;
        };
        let chains = lines.iter().map(|l| {
            let branch = &l.branches[0];
            (l.opening.clone(), branch.frontier.clone(), branch.tip.clone())
        });
        let snapshot = SnapshotOf { bytes: bytes.len() as u64, chains: chains.collect(), heads };
        let ends: Vec<(ChainId, u64)> =
            snapshot.chains.iter().map(|(o, f, _)| (o.chain(&space, &doc), f.len())).collect();
        self.cover_log(space, doc, snapshot);
        self.batch.push(StoreOp::Snapshot { space, doc, seq: 0, source: None, ends, bytes });
    }

    /// Takes the snapshots whose logs have been read by now.
    pub(super) fn run_made(&mut self) {
        for (space, doc, bytes, heads, ends) in core::mem::take(&mut self.made) {
            self.snapshot_made(space, doc, bytes, heads, ends);
        }
    }

    pub(super) fn log(&self, space: SpaceId, doc: DocId) -> Option<&Log> {
        match self.slots.get(&(space, doc)) {
            Some(super::Slot::Held(held)) => Some(&held.log),
            _ => None,
        }
    }
}

/// The heads of a checked snapshot, by chain.
pub(super) fn heads_of(
    content: &SnapshotContent,
    chain_of: impl Fn(&[u8]) -> Option<ChainId>,
) -> Option<Vec<SnapshotHead>> {
    let heads = content.heads.iter().map(|head| {
        let past = head.past.iter().map(|(actor, n)| Some((chain_of(actor)?, *n))).collect::<Option<_>>()?;
        Some(SnapshotHead { id: head.id, chain: chain_of(&head.actor)?, n: head.n, max_op: head.max_op, past })
    });
    heads.collect()
}

fn take_segment(entries: &mut Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        bytes += entry.len();
        bytes <= SEGMENT_BYTES
    });
    let count = fits.count().max(1);
    entries.drain(..count).collect()
}
