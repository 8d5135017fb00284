//! Data that arrives: tip and right, structural admission, then forwarding, storing and telling the application.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::block::BLOCKED;
use super::connection::{Ask, Begun, Connection};
use super::quota::QUOTA;
use super::{After, Came, ConnId, Event, Held, OpId, Peer, Slot, StoreOp};
use crate::authority::{Limit, RecordAt};
use crate::chain::Segment;
use crate::clock::Clock;
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId, StoreId};
use crate::lines::Lines;
use crate::log::{Admission, Admitted, Header, Image, Log, Need, ProofAdmission, StoredSegment};
use crate::message::{Data, DocRef, Have, LIST_MAX, Message, Notice, OpeningRef, Since, Want, WireSegment, runs};
use crate::overlay::Item;
use crate::proof::ForkProof;
use crate::record::Record;
use crate::space::{RecordAdmission, RightRow, Space};
use crate::violation::Violation;
use crate::waiting::{Blocker, Waiter};

/// Entries after the last snapshot from which on the engine is told that a new one would pay.
const LOOSE_ENTRIES: u64 = 1_024;
/// The same in bytes.
const LOOSE_BYTES: u64 = 1 << 20;

/// Time between two proofs that close closed chains of one log earlier.
const RECLOSE_EVERY_MS: u64 = 1_000;
/// Proofs of one log that wait until the inside of its snapshot is read. Others come with the next comparison.
const PROOFS_WAITING: usize = 16;
/// Time between two questions to one peer for the records behind a cut.
const RECORDS_EVERY_MS: u64 = 10_000;

/// Who delivered something.
#[derive(Clone, Copy, Debug)]
pub(super) struct From {
    pub(super) conn: ConnId,
    pub(super) peer: DeviceId,
    pub(super) store: Option<StoreId>,
    /// It was asked for.
    pub(super) asked: bool,
}

/// What became of one delivered segment.
enum Outcome {
    /// Stored, or held before.
    Held,
    /// As if it were held: nobody need send it again.
    Useless,
    /// Waits or was not held.
    Pending,
    /// Not held, and not to be asked for: it is not wanted here.
    Unwanted,
    /// Given back: it builds on the inside of a snapshot, which is to be read first.
    NeedsDeep(Box<Segment>),
}

impl Peer {
    pub(super) fn on_data(&mut self, conn: ConnId, mut data: Data) -> Result<Option<Data>, Violation> {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(None) };
        let (Some(peer), store) = (connection.peer, connection.source()) else { return Ok(None) };
        let space = connection.space_of(data.space)?;
        if !connection.links.contains_key(&space) {
            return Err(Violation::OutOfPlace("data of a space that was not named by both"));
        }
        if data.haves.len() > LIST_MAX || data.absent.len() > LIST_MAX {
            return Err(Violation::ListTooLong);
        }
        let (segments, last) = self.resolve(conn, space, &data.segments)?;
        if let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space)) {
            let own = segments.iter().filter(|s| s.doc == space.authority() && s.opening.device == peer);
            own.for_each(|segment| link.note_created(created(&space, segment)));
        }
        let mut docs: BTreeSet<DocId> = segments
            .iter()
            .map(|s| s.doc)
            .chain(data.haves.iter().map(|h| h.doc))
            .chain(data.proofs.iter().flat_map(|proofs| &proofs.0).map(|proof| proof.doc))
            .filter(|d| *d != space.authority())
            .collect();
        if self.spaces.get(&space).is_none_or(|s| s.rules().is_none()) {
            // The genesis is on its way, on this connection or another; it may overtake. Until then nothing of the space
            // is looked at.
            let Some(connection) = self.connections.get_mut(&conn) else { return Ok(None) };
            if let Some(genesis) = connection.take_genesis() {
                self.on_genesis(conn, genesis)?;
                return self.on_data(conn, data);
            }
            return Ok(Some(data));
        }
        let named: Vec<DocId> = segments.iter().flat_map(|s| named(&space, s)).collect();
        if !self.ensure(space, docs.iter().copied().chain(named)) {
            return Ok(Some(data));
        }
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(None) };
        if let Some(link) = connection.links.get_mut(&space) {
            link.last_in = last;
        }
        for wire in &data.segments {
            if let OpeningRef::New(handle, opening) = &wire.opening {
                connection.openings_in.insert(*handle, opening.clone());
            }
        }
        let wanted = connection.links.get(&space).is_some_and(|link| !link.wanted.is_empty());
        let mut number = None;
        let (mut pending, mut unwanted) = (false, false);
        let begun = connection.begun.take();
        let resumes = begun.is_some();
        if let Some(begun) = begun {
            (number, pending) = (Some(begun.number), begun.pending);
            docs.extend(begun.docs);
        } else if !segments.is_empty() {
            connection.data_in += 1;
            number = Some(connection.data_in);
            connection.unstored.insert(connection.data_in);
        }
        // A proof costs two signatures to check, an entry in a segment of its own one.
        let proofs = data.proofs.as_ref().map_or(0, |proofs| proofs.0.len());
        let entries = segments.iter().map(|s| s.entries.len()).sum::<usize>() + 2 * proofs;
        let bytes = segments.iter().map(Segment::body_bytes).sum();
        if !data.asked && !resumes && !connection.bucket.take(self.now, entries, bytes, &self.limits) {
            // Dropped, and learnt again at the next comparison.
            if let Some(link) = connection.links.get_mut(&space) {
                if !link.is_whole() {
                    // A part is not compared: the next connection goes on from the cursor.
                    let text = "more unsolicited entries than this peer takes in a second, of a space of which it takes a part";
                    self.close(conn, "busy", text, false);
                    return Ok(None);
                }
                if link.ask == Ask::Level {
                    link.ask = Ask::Fetching;
                }
                link.repair.touch(self.now);
            }
            let theirs = connection.links.get(&space).map(|l| l.theirs);
            let text = "more unsolicited entries than this peer takes in a second; they are asked for later".into();
            connection.send(&Message::Notice(Notice { space: theirs, doc: None, code: "busy".into(), text }));
            if let Some(number) = number {
                self.note_unstored(conn, number);
            }
            return Ok(None);
        }
        let from = From { conn, peer, store, asked: data.asked };
        let prompt = segments.iter().any(|s| s.opening.device == peer);
        docs.extend(segments.iter().map(|s| s.doc).filter(|doc| *doc == space.authority()));
        let mut violation = None;
        for proof in data.proofs.take().into_iter().flat_map(|proofs| proofs.0) {
            violation = violation.or(self.take_proof(space, proof, from).err());
        }
        let mut segments = segments.into_iter();
        let mut done = 0;
        while let Some(segment) = segments.next() {
            let item = Item { chain: segment.opening.chain(&space, &segment.doc), n: segment.tip.n };
            match self.take_segment(space, segment, from, data.asked) {
                Ok(Outcome::Held) => {}
                Ok(Outcome::Useless) => self.note_received(space, item, from, true),
                Ok(Outcome::Pending) => {
                    pending = true;
                    self.note_received(space, item, from, false);
                }
                Ok(Outcome::Unwanted) => {
                    unwanted = true;
                    self.note_received(space, item, from, true);
                }
                Err(found) => violation = violation.or(Some(found)),
                Ok(Outcome::NeedsDeep(segment)) if violation.is_none() => {
                    // The rest stays where it is, and holds up what comes after it on this connection alone. To let it wait
                    // beside others, in a bounded space, would lose the oldest, without which the others are nothing.
                    self.deepen(space, segment.doc, false);
                    let rest = core::iter::once(*segment).chain(segments);
                    data.segments =
                        data.segments.drain(done..).zip(rest).map(|(wire, s)| alone(&space, wire, s)).collect();
                    if let (Some(number), Some(connection)) = (number, self.connections.get_mut(&conn)) {
                        connection.begun = Some(Begun { number, pending: pending || unwanted, docs });
                    }
                    return Ok(Some(data));
                }
                Ok(Outcome::NeedsDeep(_)) => {}
            }
            done += 1;
        }
        if let Some(number) = number {
            match pending || unwanted {
                false => self.after.push(After::Ack { conn, number, prompt }),
                true => self.note_unstored(conn, number),
            }
        }
        if pending && let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space)) {
            // What is lacking comes by a comparison.
            link.repair.touch(self.now);
        }
        if let Some(violation) = violation {
            return Err(violation);
        }
        self.take_haves(conn, space, data.haves);
        self.got(conn, space, &docs, data.asked);
        self.end_of_data(conn, space, data.upto, data.fingerprint, data.asked, &data.absent);
        if wanted {
            self.levelled(conn, space);
        }
        Ok(None)
    }

    /// What a message names by numbers, in full; and the document that the next message may mean by "last".
    fn resolve(
        &self,
        conn: ConnId,
        space: SpaceId,
        wires: &[WireSegment],
    ) -> Result<(Vec<Segment>, Option<DocId>), Violation> {
        let Some(connection) = self.connections.get(&conn) else { return Ok((Vec::new(), None)) };
        let mut last = connection.links.get(&space).and_then(|link| link.last_in);
        let mut defined = BTreeMap::new();
        let mut named: Vec<DocId> = Vec::new();
        let mut segments = Vec::with_capacity(wires.len());
        for wire in wires {
            let opening = match &wire.opening {
                OpeningRef::New(handle, opening) => {
                    if *handle as usize >= self.limits.handles_per_connection {
                        return Err(Violation::UnknownHandle);
                    }
                    defined.insert(*handle, opening.clone());
                    opening.clone()
                }
                OpeningRef::Known(handle) => {
                    let known = defined.get(handle).or_else(|| connection.openings_in.get(handle));
                    known.cloned().ok_or(Violation::UnknownHandle)?
                }
            };
            let doc = match wire.doc {
                DocRef::Id(doc) => doc,
                DocRef::Authority => space.authority(),
                DocRef::Header(index) => *named.get(index as usize).ok_or(Violation::UnknownHandle)?,
                DocRef::Last => last.ok_or(Violation::UnknownHandle)?,
            };
            if doc != space.authority() {
                last = Some(doc);
            }
            let segment =
                Segment { doc, opening, first: wire.first, entries: wire.entries.clone(), tip: wire.tip.clone() };
            if doc == space.authority() {
                named.extend(created(&space, &segment));
            }
            if !segment.is_well_formed() || segment.wire_bytes_max() > self.limits.message_bytes_max {
                return Err(Violation::SegmentShape);
            }
            segments.push(segment);
        }
        Ok((segments, last))
    }

    /// One segment from elsewhere, whose log is in memory.
    fn take_segment(
        &mut self,
        space: SpaceId,
        segment: Segment,
        from: From,
        asked: bool,
    ) -> Result<Outcome, Violation> {
        let doc = segment.doc;
        match doc == space.authority() {
            true => self.take_record_segment(space, segment, from),
            false => self.take_change_segment(space, segment, from, asked),
        }
    }

    fn take_record_segment(&mut self, space: SpaceId, segment: Segment, from: From) -> Result<Outcome, Violation> {
        // A deletion whose document is not known yet would be forgotten.
        let headers: BTreeSet<DocId> = created(&space, &segment).into_iter().collect();
        for doc in deleted(&segment).into_iter().filter(|doc| !headers.contains(doc)) {
            if self.log(space, doc).is_none() {
                self.await_record(space, EntryId(doc.0), &segment.opening.device);
                self.want_records(from, space);
                self.wait(space, segment, from, Blocker::Entry(EntryId(doc.0)));
                return Ok(Outcome::Pending);
            }
        }
        if self.is_record_beyond(space, &segment, headers.len()) {
            self.not_held(from, space, segment.doc, QUOTA);
            return Ok(Outcome::Unwanted);
        }
        // What this device said in a copy of its disk is to be said again.
        let own = segment.opening.device == self.device;
        let awaited = own || self.awaits_records(&space);
        let Some(held) = self.spaces.get_mut(&space) else { return Ok(Outcome::Pending) };
        match held.admit(segment.clone(), &self.limits, awaited) {
            RecordAdmission::Admitted(admitted, records) => {
                let chain = admitted.chain;
                self.take_records(space, admitted, records, Some(from));
                if own {
                    self.lose_records(space, chain, &segment.opening);
                }
                Ok(Outcome::Held)
            }
            RecordAdmission::Suspect => {
                self.suspect(space, segment.opening, from);
                Ok(Outcome::Pending)
            }
            RecordAdmission::Forked(proof) => {
                self.close_records(space, *proof, from);
                self.take_record_segment(space, segment, from)
            }
            RecordAdmission::Duplicate => {
                let item = Item { chain: held.authority_chain(&segment.opening), n: segment.tip.n };
                self.note_duplicate(space, item, from);
                Ok(Outcome::Held)
            }
            RecordAdmission::WaitsForPrefix => {
                let chain = held.authority_chain(&segment.opening);
                self.wait(space, segment, from, Blocker::Prefix(chain));
                Ok(Outcome::Pending)
            }
            RecordAdmission::WaitsForRight => {
                self.await_rights(space, &segment, from);
                self.wait(space, segment, from, Blocker::Right);
                Ok(Outcome::Pending)
            }
            // As if it were held: it would not be shown, and to ask for it again would be no use.
            RecordAdmission::Cut => {
                self.not_held(from, space, segment.doc, "authority-cut");
                Ok(Outcome::Useless)
            }
            RecordAdmission::NotHeld(why) => {
                self.not_held(from, space, segment.doc, why);
                Ok(Outcome::Pending)
            }
            RecordAdmission::Refused(violation) => Err(violation),
        }
    }

    fn take_change_segment(
        &mut self,
        space: SpaceId,
        segment: Segment,
        from: From,
        asked: bool,
    ) -> Result<Outcome, Violation> {
        let (doc, opening) = (segment.doc, segment.opening.clone());
        let Some(held) = self.spaces.get(&space) else { return Ok(Outcome::Pending) };
        let Some(rules) = held.rules().filter(|_| held.takes(&doc)) else { return Ok(Outcome::Pending) };
        if self.unwanted.docs.contains(&doc) {
            self.not_held(from, space, doc, BLOCKED);
            return Ok(Outcome::Unwanted);
        }
        let creator = self.log(space, doc).map(|log| log.header().creator);
        let limit = held.limit(&doc, &opening, creator.as_ref());
        let known = held.knows_rights(&segment.tip.rights);
        let Some(log) = self.log(space, doc) else {
            self.await_record(space, EntryId(doc.0), &opening.device);
            self.want_records(from, space);
            self.wait(space, segment, from, Blocker::Header);
            return Ok(Outcome::Pending);
        };
        if log.is_deleted() {
            return Ok(Outcome::Useless);
        }
        let awaited = self.waiting.awaits_entry(space, doc);
        if (limit == Limit::Unknown || !known) && !awaited {
            self.await_rights(space, &segment, from);
            self.wait(space, segment, from, Blocker::Right);
            return Ok(Outcome::Pending);
        }
        let limits = self.limits.clone();
        let chain = opening.chain(&space, &doc);
        let need = match asked {
            _ if awaited && !(log.is_open() && limit == Limit::All) => Need::Awaited,
            true => Need::Asked,
            false => Need::Pushed,
        };
        if self.is_beyond(space, &segment, asked) {
            self.not_held(from, space, doc, QUOTA);
            return Ok(Outcome::Unwanted);
        }
        let admission =
            self.change_log(space, doc, |log| log.admit_upto(rules, &limits, segment.clone(), need, limit.cut()));
        match admission {
            Some(Admission::Admitted(admitted)) => {
                if limit == Limit::Unknown
                    && let Some(held) = self.spaces.get_mut(&space)
                {
                    held.strangers.insert(opening.device);
                }
                if opening == self.own_opening(&space, &doc) {
                    // Somebody shows my own chain beyond what I made in this run.
                    self.lose_chain(space, doc);
                }
                self.take_entries(space, admitted, Some(from));
                Ok(Outcome::Held)
            }
            Some(Admission::Duplicate) => {
                self.note_duplicate(space, Item { chain, n: segment.tip.n }, from);
                Ok(Outcome::Held)
            }
            Some(Admission::WaitsForEntry(id)) => {
                self.wait(space, segment, from, Blocker::Entry(id));
                Ok(Outcome::Pending)
            }
            Some(Admission::WaitsForPrefix) => {
                self.wait(space, segment, from, Blocker::Prefix(chain));
                Ok(Outcome::Pending)
            }
            Some(Admission::NeedsDeep) => Ok(Outcome::NeedsDeep(Box::new(segment))),
            Some(Admission::NeedsWhole) => {
                self.want_whole(from, space, doc, chain);
                Ok(Outcome::Pending)
            }
            Some(Admission::NotHeld(why)) => {
                self.not_held(from, space, doc, why);
                Ok(Outcome::Pending)
            }
            Some(Admission::Idle) => Ok(Outcome::Pending),
            Some(Admission::Invalid(why)) => {
                // Its author is at fault, not who delivered it.
                self.notice(Some(from.peer), Some(space), Some(doc), "S7", why);
                Ok(Outcome::Pending)
            }
            Some(Admission::Refused(violation)) => Err(violation),
            None => Ok(Outcome::Pending),
        }
    }

    /// A proof from elsewhere: believed by its signatures, whoever brought it.
    pub(super) fn take_proof(&mut self, space: SpaceId, proof: ForkProof, from: From) -> Result<(), Violation> {
        let doc = proof.doc;
        let takes = |held: &&Space| held.takes(&doc) && !self.unwanted.docs.contains(&doc);
        let Some(held) = self.spaces.get(&space).filter(takes) else { return Ok(()) };
        if doc == space.authority() {
            return self.take_record_proof(space, proof, from);
        }
        let Some(log) = self.log(space, doc).filter(|log| !log.is_deleted()) else { return Ok(()) };
        // Who never had the right to write cannot fill a document with closed chains. If the right is on its way, a
        // comparison brings the proof again.
        let limit = held.limit(&doc, &proof.opening, Some(&log.header().creator));
        if limit == Limit::Unknown && !held.strangers.contains(&proof.opening.device) {
            return Ok(());
        }
        // A device can sign its chain shorter as often as it has entries, and each time all that counts is found anew.
        let (now, key) = (self.now, (space, doc));
        let is_closed = log.lines().get(&proof.chain(&space)).is_some_and(|(_, line)| line.closed.is_some());
        self.reclosed.retain(|_, at| at.0 + RECLOSE_EVERY_MS > now.0);
        if is_closed && self.reclosed.contains_key(&key) {
            return Ok(());
        }
        let limits = self.limits.clone();
        match self.change_log(space, doc, |log| log.close(&proof, &limits, limit.cut())) {
            Some(ProofAdmission::Closed(reshown)) => {
                if is_closed {
                    self.reclosed.insert(key, now);
                }
                self.note_closed(space, proof, Some(from));
                if reshown {
                    self.emit(Event::Reshown { space, doc });
                }
            }
            Some(ProofAdmission::NeedsDeep) => {
                let waiting = self.proofs.entry(key).or_default();
                if waiting.len() < PROOFS_WAITING {
                    waiting.push((from, proof));
                }
                self.deepen(space, doc, false);
            }
            Some(ProofAdmission::NotHeld) => self.not_held(from, space, doc, "chains"),
            Some(ProofAdmission::Refused) => return Err(Violation::BadProof),
            Some(ProofAdmission::Known) | None => {}
        }
        Ok(())
    }

    /// A chain was closed, or closed earlier: stored, told, and the proof goes to everybody who follows live.
    pub(super) fn note_closed(&mut self, space: SpaceId, proof: ForkProof, from: Option<From>) {
        let (doc, chain, device) = (proof.doc, proof.chain(&space), proof.opening.device);
        let Some(held) = self.spaces.get_mut(&space) else { return };
        held.seq += 1;
        let seq = held.seq;
        self.dirty_spaces.insert(space);
        let before = self.change_log(space, doc, |log| log.place_proofs(seq)).unwrap_or(0);
        self.changed.insert((space, doc));
        let source = from.and_then(|from| from.store);
        self.batch.push(StoreOp::Proofs { space, doc, seq, before, source });
        match from {
            None => self.after.push(After::PushProof { space, proof: Box::new(proof) }),
            Some(from) => self.push_proof(space, &proof, Some(from.conn)),
        }
        self.emit(Event::Forked { space, doc, chain, device });
        self.note_own_forks(space, doc);
    }

    /// Remembers that chains of this device are closed here, if some are.
    pub(super) fn note_own_forks(&mut self, space: SpaceId, doc: DocId) {
        let device = self.device;
        let Some(log) = self.log(space, doc).filter(|log| !log.is_open()) else { return };
        if log.lines().all().iter().any(|line| line.opening.device == device && line.closed.is_some()) {
            self.heals.insert((space, doc));
        }
    }

    /// Asks once for a chain from its first entry, to tell a fork from a lie. A second mismatch proves neither: what the
    /// segment builds on may be a branch that is not held here.
    fn want_whole(&mut self, from: From, space: SpaceId, doc: DocId, chain: ChainId) {
        let Some(link) = self.connections.get_mut(&from.conn).and_then(|c| c.links.get_mut(&space)) else { return };
        if !link.whole.insert(chain) {
            return self.not_held(from, space, doc, "branches");
        }
        self.ask_log(from.conn, space, doc, Some(chain));
    }

    /// Asks for what is not held of a log and, of one of its chains, for all that the other side has.
    pub(super) fn ask_log(&mut self, conn: ConnId, space: SpaceId, doc: DocId, whole: Option<ChainId>) {
        let records = self.spaces.get(&space).filter(|_| doc == space.authority()).map(Space::clock);
        let mut clock = records.or_else(|| self.log(space, doc).map(Log::clock)).unwrap_or_default();
        whole.iter().for_each(|chain| drop(clock.0.remove(chain)));
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some(link) = connection.links.get_mut(&space) else { return };
        link.wanted.insert(doc);
        let want = Want { space: link.theirs, docs: vec![Have { doc, clock }], no_snapshot: whole.is_some() };
        connection.send(&Message::Want(want));
    }

    /// A segment waits for rights that its tip names. They may lie behind a cut that came before them.
    fn await_rights(&mut self, space: SpaceId, segment: &Segment, from: From) {
        let Some(held) = self.spaces.get(&space) else { return };
        let unknown = segment.tip.rights.iter().filter(|record| !held.authority().knows(record));
        let unknown: Vec<EntryId> = unknown.copied().collect();
        if unknown.is_empty() {
            return;
        }
        unknown.into_iter().for_each(|record| self.await_record(space, record, &segment.opening.device));
        self.want_records(from, space);
    }

    /// Asks for the records that are not held here, as who brings entries that need them holds them: the digest of the
    /// authority log does not tell of what lies behind a cut.
    fn want_records(&mut self, from: From, space: SpaceId) {
        let now = self.now;
        if self.spaces.get(&space).is_none_or(|held| !held.authority().has_ends()) {
            return;
        }
        let Some(link) = self.connections.get_mut(&from.conn).and_then(|c| c.links.get_mut(&space)) else { return };
        if link.records_asked.is_some_and(|at| at.0 + RECORDS_EVERY_MS > now.0) {
            return;
        }
        link.records_asked = Some(now);
        self.ask_log(from.conn, space, space.authority(), None);
    }

    fn not_held(&mut self, from: From, space: SpaceId, doc: DocId, why: &'static str) {
        let text = "a local limit; nothing is wrong with the data";
        self.notice(Some(from.peer), Some(space), Some(doc), why, text);
        if let Some(connection) = self.connections.get_mut(&from.conn) {
            let theirs = connection.links.get(&space).map(|l| l.theirs);
            let notice = Notice { space: theirs, doc: Some(doc), code: why.into(), text: text.into() };
            connection.send(&Message::Notice(notice));
        }
    }

    fn wait(&mut self, space: SpaceId, segment: Segment, from: From, blocker: Blocker) {
        let waiter = Waiter { space, conn: from.conn, from: from.peer, since_ms: self.now.0, segment };
        self.waiting.push(waiter, blocker, &self.limits);
    }

    /// What waited for this is offered again.
    pub(super) fn unblock(&mut self, space: SpaceId, doc: DocId, blocker: Blocker) {
        if !self.waiting.is_empty() {
            self.retries.extend(self.waiting.take(space, doc, blocker));
        }
    }

    /// The same after a change of rights.
    pub(super) fn unblock_rights(&mut self, space: SpaceId) {
        self.retries.extend(self.waiting.take_for_rights(space));
        self.busy.append(&mut self.blocked);
    }

    pub(super) fn run_retries(&mut self) {
        let mut later = VecDeque::new();
        while let Some(waiter) = self.retries.pop_front() {
            let space = waiter.space;
            let docs = match waiter.segment.doc {
                doc if doc == space.authority() => named(&space, &waiter.segment),
                doc => vec![doc],
            };
            if !self.ensure(space, docs) {
                later.push_back(waiter);
                continue;
            }
            let store = self.connections.get(&waiter.conn).and_then(Connection::source);
            let from = From { conn: waiter.conn, peer: waiter.from, store, asked: false };
            // What something waits for may come behind what is asked for.
            match self.take_segment(space, waiter.segment, from, true) {
                Ok(Outcome::Held | Outcome::Useless | Outcome::Pending | Outcome::Unwanted) => {}
                Ok(Outcome::NeedsDeep(segment)) => {
                    self.deepen(space, segment.doc, false);
                    self.wait(space, *segment, from, Blocker::Deep);
                }
                Err(violation) => self.violated(from.conn, &violation),
            }
        }
        self.retries = later;
    }

    /// New records: stored, forwarded, acted on.
    pub(super) fn take_records(
        &mut self,
        space: SpaceId,
        admitted: Admitted,
        records: Vec<(EntryId, Record)>,
        from: Option<From>,
    ) {
        let device = admitted.segment.opening.device;
        let bodies = admitted.segment.entries.clone();
        let (chain, first) = (admitted.chain, admitted.segment.first);
        self.dirty_spaces.insert(space);
        self.unblock(space, space.authority(), Blocker::Prefix(admitted.chain));
        self.store_segment(space, admitted, from);
        let mut rights = false;
        for ((n, (id, record)), bytes) in (first..).zip(records).zip(bodies) {
            let at = RecordAt { device, chain, n, id };
            self.missing.remove(&(space, id));
            match record {
                Record::Header { kind, name, .. } => {
                    self.take_header(space, &at, Header { creator: device, kind, name });
                }
                Record::Tombstone { doc } => self.bury(space, doc, &at),
                Record::Unknown { kind } => {
                    let text = format!("a record of kind {kind}, which this version keeps and does not know");
                    self.notice(None, Some(space), None, "record.unknown", &text);
                }
                record => {
                    if let Record::Erase { doc, .. } = record {
                        self.erasing.insert((space, doc));
                    }
                    let right = RightRow { device, chain, n, bytes: bytes.into() };
                    self.batch.push(StoreOp::Right { space, right });
                    rights = true;
                }
            }
        }
        if rights {
            self.unblock_rights(space);
            self.look_for_blocked(space);
            self.find_owners(space);
            self.recut(space);
            self.may_have_erased(space);
        }
    }

    /// A document, whether or not its creator had the right to create it: what others wrote in it needs it.
    fn take_header(&mut self, space: SpaceId, at: &RecordAt, header: Header) {
        let (doc, said) = (DocId(at.id.0), (at.device, at.chain, at.n));
        let Some(held) = self.spaces.get_mut(&space) else { return };
        if at.device == self.device
            && let Some(filter) = &mut held.filter
        {
            filter.insert(doc);
        }
        let founded = held.founds(&said);
        if let Some(Slot::Held(slot)) = self.slots.get_mut(&(space, doc)) {
            // Said again, perhaps where it counts, or will when the other does not any more.
            slot.log.head(said, |at| held.founds(at));
            let founds = founded && slot.log.is_unfounded();
            self.changed.insert((space, doc));
            self.dirty_spaces.insert(space);
            if founds {
                self.change_log(space, doc, |log| log.found(true));
            }
            return;
        }
        self.uses += 1;
        let image = Image { headers: vec![said], unfounded: !founded, ..Image::of_header(header.clone()) };
        let (log, _) = Log::load(space, doc, image, &[]);
        let slot = Held { digest: log.digest(), log, used: self.uses, stored_by: OpId(0) };
        self.put_slot(space, doc, Slot::Held(Box::new(slot)));
        self.count_document(space, at.device);
        self.changed.insert((space, doc));
        if founded {
            self.emit(Event::Document { space, doc, header });
        }
        self.unblock(space, doc, Blocker::Header);
        self.unblock(space, space.authority(), Blocker::Entry(at.id));
    }

    /// New entries: stored, forwarded, told.
    pub(super) fn take_entries(&mut self, space: SpaceId, admitted: Admitted, from: Option<From>) {
        let doc = admitted.segment.doc;
        let n = admitted.segment.tip.n.min(admitted.counted);
        let shown = (n + 1).saturating_sub(admitted.segment.first) as usize;
        let all = admitted.ids.iter().copied().zip(admitted.segment.entries.iter().cloned());
        let event = match admitted.reshown {
            true => Some(Event::Reshown { space, doc }),
            false => (shown > 0).then(|| {
                let (chain, from) = (admitted.chain, from.map(|from| from.peer));
                Event::Entries { space, doc, chain, n, entries: all.take(shown).collect(), from }
            }),
        };
        let (proof, chain) = (admitted.proof.clone(), admitted.chain);
        if !self.waiting.is_empty() {
            self.unblock(space, doc, Blocker::Prefix(admitted.chain));
            admitted.ids.iter().for_each(|id| self.unblock(space, doc, Blocker::Entry(*id)));
        }
        self.store_segment(space, admitted, from);
        if let Some(proof) = proof {
            self.note_closed(space, *proof, from);
        }
        event.into_iter().for_each(|event| self.emit(event));
        if self.log(space, doc).and_then(|log| log.lines().get(&chain)).is_some_and(|(_, line)| line.closed.is_some()) {
            self.note_own_forks(space, doc);
        }
        // Of a document with a closed chain no snapshot is made.
        let loose = self.log(space, doc).filter(|log| log.is_open()).map(Log::loose).unwrap_or_default();
        if loose.0 >= LOOSE_BYTES || loose.1 >= LOOSE_ENTRIES {
            self.emit(Event::Loose { space, doc });
        }
    }

    fn store_segment(&mut self, space: SpaceId, admitted: Admitted, from: Option<From>) {
        self.count_segment(space, &admitted.segment);
        let Some(held) = self.spaces.get_mut(&space) else { return };
        held.seq += 1;
        let seq = held.seq;
        self.dirty_spaces.insert(space);
        // Even where none of it counts, and the digest is what it was.
        self.changed.insert((space, admitted.segment.doc));
        let stored = StoredSegment { seq, branch: admitted.branch, segment: admitted.segment };
        match from {
            // Own entries leave only once they are on disk.
            None => self.after.push(After::Push { space, stored: stored.clone() }),
            Some(from) if from.asked => self.push(space, &stored, Came::Found(from.conn)),
            Some(from) => self.push(space, &stored, Came::Pushed(from.conn)),
        }
        self.batch.push(StoreOp::Segment { space, source: from.and_then(|f| f.store), stored });
    }

    /// Documents that the other side holds: what this side lacks of them is wanted.
    pub(super) fn take_haves(&mut self, conn: ConnId, space: SpaceId, haves: Vec<Have>) {
        let (mut docs, mut forked, mut suspect) = (Vec::new(), Vec::new(), None);
        for have in haves {
            let takes = |held: &&Space| held.takes(&have.doc) && !self.unwanted.docs.contains(&have.doc);
            let Some(held) = self.spaces.get(&space).filter(takes) else { continue };
            let log = self.log(space, have.doc);
            if log.is_some_and(Log::is_deleted) || self.was_beyond(space, have.doc) {
                continue;
            }
            let authority = have.doc == space.authority();
            let none = Lines::default();
            let lines = if authority { held.lines() } else { log.map_or(&none, Log::lines) };
            let lacks = lines.lacks(&have.clock);
            let mut clock = lines.clock();
            if let Some(chain) = lacks.forks.first().filter(|_| authority) {
                suspect = lines.get(chain).map(|(_, line)| line.opening.clone());
            }
            // A second history comes with the chain from its first entry, and with it all that may build upon it.
            if !lacks.forks.is_empty() && !authority {
                lacks.forks.iter().for_each(|chain| drop(clock.0.remove(chain)));
                forked.push(Have { doc: have.doc, clock });
            } else if lacks.more {
                docs.push(Have { doc: have.doc, clock });
            }
        }
        let source = self.connections.get(&conn).and_then(|connection| Some((connection.peer?, connection.source())));
        if let Some((opening, (peer, store))) = suspect.zip(source) {
            self.suspect(space, opening, From { conn, peer, store, asked: true });
        }
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some(link) = connection.links.get_mut(&space) else { return };
        let mut wants = Vec::new();
        for (mut docs, no_snapshot) in [(docs, false), (forked, true)] {
            docs.retain(|have| link.wanted.len() < LIST_MAX && link.wanted.insert(have.doc));
            if docs.is_empty() {
                continue;
            }
            if !no_snapshot {
                link.due.extend(docs.iter().map(|have| have.doc));
                while link.due.len() > LIST_MAX {
                    link.due.pop_first();
                }
            }
            let runs = runs(docs, LIST_MAX).into_iter();
            wants.extend(runs.map(|docs| Message::Want(Want { space: link.theirs, docs, no_snapshot })));
        }
        wants.iter().for_each(|want| connection.send(want));
    }

    fn end_of_data(
        &mut self,
        conn: ConnId,
        space: SpaceId,
        upto: Option<u64>,
        fingerprint: Option<crate::clock::Fingerprint>,
        asked: bool,
        absent: &[DocId],
    ) {
        let ours = self.fingerprint(&space);
        let in_flight = self.limits.in_flight_bytes_per_peer as u64;
        let ride = self.limits.ride_bytes as u64;
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some(peer) = connection.peer else { return };
        let Some(link) = connection.links.get_mut(&space) else { return };
        absent.iter().for_each(|doc| {
            link.wanted.remove(doc);
        });
        if !asked {
            return;
        }
        // The two may have turned out level while pages were on their way. They are read to their end all the same: until then
        // the other side pushes nothing.
        match (upto, fingerprint) {
            (Some(upto), Some(theirs)) if link.ask != Ask::Level || theirs != ours => {
                link.ask = Ask::Fetching;
                link.reached = Some(upto);
                link.repair.hears(theirs, upto);
                link.repair.quiet(now);
                if !connection.dialled && link.is_whole() {
                    // The dialler would ask; to tell it saves a trip.
                    self.after.push(After::Check { conn, space, answer: true });
                }
                if theirs == ours && link.is_whole() {
                    self.reach(conn, space, upto, true);
                    self.after.push(After::Level { conn, peer, space, whole: true });
                    self.follows(space);
                }
                self.levelled(conn, space);
            }
            (Some(upto), None) => {
                let fresh = link.fresh;
                // A page costs a round trip: each may be twice the last.
                link.page_bytes =
                    if fresh { in_flight } else { link.page_bytes.saturating_mul(2).max(ride).min(in_flight) };
                let ride = link.page_bytes;
                // Asked once this page is on disk: a slow disk slows the sender.
                let since = Since { space: link.theirs, after: upto, ride, fresh };
                self.after.push(After::Ask { conn, since });
            }
            (None, Some(_)) if link.ask == Ask::Paging => {
                link.ask = Ask::Stranger;
                link.repair.stranger(now);
            }
            _ => {}
        }
    }

    pub(super) fn ask(&mut self, conn: ConnId, since: Since) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.send(&Message::Since(since));
        }
    }

    /// The clock of a log that is in memory.
    pub(super) fn clock_of(&self, space: SpaceId, doc: DocId) -> Option<Clock> {
        match doc == space.authority() {
            true => self.spaces.get(&space).map(|s| s.clock()),
            false => self.log(space, doc).map(Log::clock),
        }
    }
}

/// A segment in a form that does not refer to what came before it in its message.
fn alone(space: &SpaceId, wire: WireSegment, segment: Segment) -> WireSegment {
    let doc = if segment.doc == space.authority() { DocRef::Authority } else { DocRef::Id(segment.doc) };
    let (OpeningRef::New(handle, _) | OpeningRef::Known(handle)) = wire.opening;
    WireSegment { doc, opening: OpeningRef::New(handle, segment.opening), ..wire }
}

/// The documents that a segment of the authority log deletes. All are to be read first: one whose header the segment brings as
/// well may be held, if that part of the segment is.
fn deleted(segment: &Segment) -> Vec<DocId> {
    let deleted = |bytes: &Vec<u8>| match Record::from_bytes(bytes) {
        Ok(Record::Tombstone { doc }) => Some(doc),
        _ => None,
    };
    segment.entries.iter().filter_map(deleted).collect()
}

/// The documents that a segment of the authority log is about. A header may come again, and its document not be in memory.
fn named(space: &SpaceId, segment: &Segment) -> Vec<DocId> {
    if segment.doc != space.authority() {
        return Vec::new();
    }
    created(space, segment).into_iter().chain(deleted(segment)).collect()
}

/// The documents that a segment of the authority log creates, in order.
pub(super) fn created(space: &SpaceId, segment: &Segment) -> Vec<DocId> {
    let is_header = |bytes: &&Vec<u8>| matches!(Record::from_bytes(bytes), Ok(Record::Header { .. }));
    let of = |bytes: &Vec<u8>| DocId(Record::id(space, &segment.opening.device, bytes).0);
    segment.entries.iter().filter(is_header).map(of).collect()
}
