//! What leaves: pages of the sequence, answers to wants, snapshots, live pushes.

use std::collections::BTreeMap;

use super::connection::{Ask, Connection, Serve, wire};
use super::receive::created;
use super::{After, ConnId, Load, PageRow, Peer, Purpose};
use crate::chain::Segment;
use crate::change;
use crate::clock::{Ends, Fingerprint};
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId, StoreId};
use crate::limits::{Limits, Rules};
use crate::lines::Line;
use crate::log::{Image, StoredSegment};
use crate::message::{
    Covered, Data, Have, ITEM_BYTES_MAX, LIST_MAX, Message, Proofs, Since, SnapshotPart, SpaceHello, Want, runs,
};
use crate::proof::ForkProof;
use crate::spending::Spending;
use crate::violation::Violation;

/// Bytes of bodies in one data message.
const MESSAGE_BODIES: usize = 512 << 10;
/// Bytes of a message of data, beside its segments or its piece of a snapshot, at most: type, keys, lengths, handles.
const DATA_OVERHEAD: usize = 128;
/// Rows of the sequence in one page.
const PAGE_ROWS: usize = 4_096;
/// Bytes queued on a connection above which nothing more is read for it.
const QUEUE_HIGH: usize = 1 << 20;
/// Bytes of a snapshot in one message.
const SNAPSHOT_PIECE: usize = 512 << 10;
/// Documents read at once to answer wants.
const WANTS_AT_ONCE: usize = 256;
/// Ends of chains in the clocks that wait for an answer on one link: some 60 MB.
const WANTS_PAIRS_MAX: usize = 1 << 20;
/// Documents offered in one message.
const OFFERS_AT_ONCE: usize = 256;

impl Connection {
    /// Stands for the other side's store in the rows that came from it, and bound to its device: by another's store id
    /// alone, it could have rows kept from that one.
    pub(super) fn source(&self) -> Option<StoreId> {
        let (peer, store) = self.peer.zip(self.store)?;
        let hash = blake3::hash(&[&peer.0[..], &store.0].concat());
        hash.as_bytes().first_chunk().copied().map(StoreId)
    }

    fn has_room(&self) -> bool {
        self.queued + self.channel.queued_bytes() < QUEUE_HIGH
    }
}

impl Peer {
    /// Starts sending what the other side lacks, as its hello says.
    pub(super) fn begin_serving(&mut self, conn: ConnId, space: SpaceId, hello: &SpaceHello) {
        let Some(held) = self.spaces.get(&space) else { return };
        let (seq, ours) = (held.seq, held.fingerprint);
        let durable = self.durable(&space).seq;
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some(link) = connection.links.get_mut(&space) else { return };
        link.fresh = held.logs == 0;
        let cursor = hello.cursor.filter(|c| c.store == self.store && c.seq <= seq).map(|c| c.seq);
        if hello.fingerprint == ours && link.is_whole() {
            return self.finish_serving(conn, space, Some(durable));
        }
        let after = match cursor {
            Some(after) => after,
            // Nothing is held here, so nothing is lacking there.
            None if ours == Fingerprint::default() && link.is_whole() => {
                return self.finish_serving(conn, space, Some(durable));
            }
            None if hello.fresh || !link.is_whole() => 0,
            None => {
                // No common past: only a comparison of everything tells. The dialler begins it.
                let (now, dialled) = (self.now, connection.dialled);
                if dialled {
                    link.repair.stranger(now);
                }
                return self.finish_serving(conn, space, None);
            }
        };
        link.serve = Serve::Paging { after, ride: hello.ride, fresh: hello.fresh };
        self.serve_on(conn);
    }

    /// Everything up to `upto` has been sent (or, without it, must be found out): from here on, live.
    fn finish_serving(&mut self, conn: ConnId, space: SpaceId, upto: Option<u64>) {
        let fingerprint = self.durable(&space).fingerprint;
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some(link) = connection.links.get_mut(&space) else { return };
        link.serve = Serve::Live;
        link.repair.quiet(now);
        if upto.is_some() {
            link.repair.tells(fingerprint);
        }
        let data = Data { upto, fingerprint: Some(fingerprint), ..empty(link.theirs, true) };
        connection.send(&Message::Data(data));
    }

    pub(super) fn on_since(&mut self, conn: ConnId, since: &Since) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let space = connection.space_of(since.space)?;
        let Some(link) = connection.links.get_mut(&space) else { return Ok(()) };
        if !matches!(link.serve, Serve::Paused { .. }) {
            return Err(Violation::OutOfPlace("a page was asked for while another is being sent"));
        }
        link.serve = Serve::Paging { after: since.after, ride: since.ride, fresh: since.fresh };
        self.serve_on(conn);
        Ok(())
    }

    /// Reads the next thing that a connection waits for, if there is room to send it.
    pub(super) fn serve_on(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if !connection.has_room() {
            return;
        }
        let store = connection.source();
        let mut loads = Vec::new();
        for (space, link) in &mut connection.links {
            let durable = self.durable.get(space).copied().unwrap_or_default().seq;
            if let Serve::Lagging { after } = link.serve
                && durable > link.read_at
            {
                link.serve = Serve::Paging { after, ride: u64::MAX, fresh: false };
            }
            if let (Serve::Paging { after, ride, fresh }, false) = (link.serve, link.reading) {
                link.reading = true;
                link.read_at = durable;
                let bytes = usize::try_from(ride).unwrap_or(usize::MAX).clamp(1, MESSAGE_BODIES);
                let load = Load::Page { space: *space, after, bytes, rows: PAGE_ROWS, skip: store, snapshots: fresh };
                loads.push((*space, load, Purpose::Page { conn }));
            }
            if let (false, Some(doc)) = (connection.reading_snapshot, link.snapshots.front()) {
                connection.reading_snapshot = true;
                loads.push((
                    *space,
                    Load::Snapshot { space: *space, doc: *doc },
                    Purpose::SnapshotFor { conn, doc: *doc },
                ));
                link.snapshots.pop_front();
            }
            if link.answering.is_empty() && link.snapshots.is_empty() && !link.wants.is_empty() {
                let count = link.wants.len().min(WANTS_AT_ONCE);
                link.answering = link.wants.drain(..count).collect();
                if link.wants.is_empty() {
                    link.wants_pairs = 0;
                }
                let docs = link.answering.keys().copied().collect();
                loads.push((*space, Load::Raw { space: *space, docs }, Purpose::Raw { conn }));
            }
        }
        for (space, load, purpose) in loads {
            self.load(space, load, purpose);
        }
    }

    pub(super) fn page_loaded(&mut self, conn: ConnId, space: SpaceId, rows: Vec<PageRow>, upto: u64, end: bool) {
        let limits = self.limits.clone();
        let (device, seq) = (self.device, self.spaces.get(&space).map_or(0, |s| s.seq));
        let leaf = self.is_leaf();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some(link) = connection.links.get_mut(&space) else { return };
        link.reading = false;
        let Serve::Paging { ride, fresh, .. } = link.serve else { return };
        let theirs = link.theirs;
        let mut segments = Joined::default();
        let (mut haves, mut proofs) = (Vec::new(), Vec::new());
        let mut snapshots = Vec::new();
        let mut bytes = 0;
        for row in rows.into_iter().filter(|row| !self.unwanted.docs.contains(&row.doc())) {
            match row {
                // A leaf sends what it made, and whoever it is attached to has the rest from others.
                PageRow::Segment(stored) if leaf && stored.segment.opening.device != device => {}
                PageRow::Snapshot { image, .. } if leaf && !image.has_chain_of(&device) => {}
                PageRow::Segment(stored) if link.wants_doc(&space, &stored.segment.doc) => {
                    bytes += stored.segment.body_bytes();
                    segments.push(stored);
                }
                PageRow::Proofs { doc, image } if link.wants_doc(&space, &doc) => {
                    proofs.extend(image.proofs().cloned())
                }
                PageRow::Snapshot { doc, image, bytes } if link.wants_doc(&space, &doc) => match bytes {
                    Some(bytes) => snapshots.push((doc, image, bytes)),
                    None => haves.push(Have { doc, clock: image.clock(&space, &doc) }),
                },
                _ => {}
            }
        }
        let spending = &mut self.spending;
        send_segments(connection, spending, &limits, device, &space, theirs, segments.all, haves, true);
        send_proofs(connection, theirs, proofs, true);
        for (doc, image, snapshot) in snapshots {
            bytes += snapshot.len();
            let paid = Some(&mut *spending).filter(|_| !leaf);
            send_snapshot(connection, paid, device, &space, theirs, doc, &image, &snapshot);
        }
        let ride = ride.saturating_sub(bytes.max(1) as u64);
        let Some(link) = connection.links.get_mut(&space) else { return };
        if end && link.read_at == seq {
            return self.finish_serving(conn, space, Some(seq));
        }
        if end {
            // More came meanwhile. It is read once it is on disk (`stored` comes back here).
            link.serve = Serve::Lagging { after: upto };
            return self.serve_on(conn);
        }
        if ride > 0 {
            link.serve = Serve::Paging { after: upto, ride, fresh };
        } else {
            link.serve = Serve::Paused { after: upto };
            connection.send(&Message::Data(Data { upto: Some(upto), ..empty(theirs, true) }));
        }
        self.serve_on(conn);
    }

    pub(super) fn on_want(&mut self, conn: ConnId, want: Want) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let space = connection.space_of(want.space)?;
        let Some(link) = connection.links.get_mut(&space) else { return Ok(()) };
        if want.docs.len() + link.wants.len() > 2 * LIST_MAX {
            return Err(Violation::ListTooLong);
        }
        let mut absent = Vec::new();
        for have in want.docs {
            let pairs = have.clock.pairs();
            if link.wants_pairs + pairs > WANTS_PAIRS_MAX {
                absent.push(have.doc);
                continue;
            }
            link.wants_pairs += pairs;
            link.wants.push_back((have.doc, (have.clock, want.no_snapshot)));
        }
        if !absent.is_empty() {
            // Not now: the next comparison asks again.
            let theirs = link.theirs;
            connection.send(&Message::Data(Data { absent, ..empty(theirs, true) }));
        }
        self.serve_on(conn);
        Ok(())
    }

    pub(super) fn raw_loaded(
        &mut self,
        conn: ConnId,
        space: SpaceId,
        logs: Vec<(DocId, Option<(Image, Vec<StoredSegment>)>)>,
    ) {
        let limits = self.limits.clone();
        let device = self.device;
        let leaf = self.is_leaf();
        let mut snapshots = Vec::new();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let peer = connection.peer;
        let Some(link) = connection.links.get_mut(&space) else { return };
        let answering = core::mem::take(&mut link.answering);
        let theirs = link.theirs;
        let mut segments = Joined::default();
        let (mut absent, mut proofs) = (Vec::new(), Vec::new());
        for (doc, found) in logs {
            let Some((clock, no_snapshot)) = answering.get(&doc) else { continue };
            let served = |(image, _): &(Image, _)| !image.deleted && !self.unwanted.docs.contains(&doc);
            let Some((image, stored)) = found.filter(served) else {
                absent.push(doc);
                continue;
            };
            let lines: BTreeMap<ChainId, &Line> =
                image.lines.iter().map(|line| (line.opening.chain(&space, &doc), line)).collect();
            let lacks = |stored: &StoredSegment| {
                if leaf && stored.segment.opening.device != device {
                    return false;
                }
                let chain = stored.segment.opening.chain(&space, &doc);
                let (Some(line), ends) = (lines.get(&chain), clock.0.get(&chain)) else { return false };
                // Behind the end of a chain of records may stand the header of a document in which others wrote.
                let behind = doc == space.authority() && stored.segment.tip.n > line.counts_to();
                // Nobody but its device brings what does not count of a closed chain back to count.
                let own = peer == Some(line.opening.device) && ends.is_none() && line.closed.is_some();
                behind || own || is_lacking(line, ends, stored)
            };
            let mut sent: Vec<bool> = stored.iter().map(lacks).collect();
            if doc != space.authority() {
                add_hidden_past(&space, &lines, &stored, &mut sent);
            }
            let lacking: Vec<StoredSegment> =
                stored.into_iter().zip(sent).filter(|(_, sent)| *sent).map(|(stored, _)| stored).collect();
            let complete = lines.iter().all(|(chain, line)| {
                covers(&lacking, &space, chain, clock.length(chain), line.branches[0].len().min(line.counted(0)))
            });
            let closed = lines.iter().filter_map(|(chain, line)| Some((clock.0.get(chain), line.closed.as_ref()?)));
            let earlier = |theirs: Option<&Ends>, proof: &ForkProof| {
                theirs.and_then(|ends| ends.closed).is_none_or(|at| proof.at() < at)
            };
            let before = proofs.len();
            proofs.extend(closed.filter(|(theirs, proof)| earlier(*theirs, proof)).map(|(_, proof)| proof.clone()));
            if !complete && !no_snapshot && image.covered.is_some() && (!leaf || image.has_chain_of(&device)) {
                snapshots.push(doc);
            } else if lacking.is_empty() && proofs.len() == before {
                absent.push(doc);
            }
            lacking.into_iter().for_each(|stored| segments.push(stored));
        }
        send_proofs(connection, theirs, proofs, true);
        let spending = &mut self.spending;
        send_segments(connection, spending, &limits, device, &space, theirs, segments.all, Vec::new(), true);
        if !absent.is_empty() {
            connection.send(&Message::Data(Data { absent, ..empty(theirs, true) }));
        }
        if let Some(link) = connection.links.get_mut(&space) {
            link.snapshots.extend(snapshots);
        }
        self.serve_on(conn);
    }

    pub(super) fn snapshot_loaded(&mut self, conn: ConnId, space: SpaceId, doc: DocId, bytes: Option<Vec<u8>>) {
        if let Some(bytes) = &bytes
            && !self.ensure(space, [doc])
        {
            self.snapshots_ready.push((conn, space, doc, bytes.clone()));
            return;
        }
        let log = self.log(space, doc).filter(|_| !self.unwanted.docs.contains(&doc));
        let image = log.map(crate::log::Log::image).filter(|image| image.covered.is_some());
        let Some((bytes, image)) = bytes.zip(image) else {
            // Deleted or blocked meanwhile. The other side waits for an answer.
            let Some(connection) = self.connections.get_mut(&conn) else { return };
            connection.reading_snapshot = false;
            let Some(theirs) = connection.links.get(&space).map(|l| l.theirs) else { return };
            connection.send(&Message::Data(Data { absent: vec![doc], ..empty(theirs, true) }));
            return self.serve_on(conn);
        };
        // What was read may be the snapshot before the one that the log speaks of: sent under its tips it would be a lie.
        let another = image.covered.as_ref().is_some_and(|covered| covered.bytes != bytes.len() as u64);
        if another || self.covering.contains_key(&(space, doc)) {
            self.load(space, Load::Snapshot { space, doc }, Purpose::SnapshotFor { conn, doc });
            return;
        }
        let (device, leaf) = (self.device, self.is_leaf());
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.reading_snapshot = false;
        let Some(theirs) = connection.links.get(&space).map(|l| l.theirs) else { return };
        let paid = Some(&mut self.spending).filter(|_| !leaf);
        send_snapshot(connection, paid, device, &space, theirs, doc, &image, &bytes);
        self.serve_on(conn);
    }

    pub(super) fn run_snapshots(&mut self) {
        for (conn, space, doc, bytes) in core::mem::take(&mut self.snapshots_ready) {
            self.snapshot_loaded(conn, space, doc, Some(bytes));
        }
    }

    /// A proof goes to everybody who follows live, but for whoever delivered it. Who lags comes upon it in the store.
    pub(super) fn push_proof(&mut self, space: SpaceId, proof: &ForkProof, except: Option<ConnId>) {
        if self.unwanted.docs.contains(&proof.doc) {
            return;
        }
        for conn in self.connections.of_space(&space) {
            let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space)) else { continue };
            if Some(conn) == except || link.serve != Serve::Live || !link.wants_doc(&space, &proof.doc) {
                continue;
            }
            link.proofs.push(proof.clone());
            self.pushed.insert((conn, space));
        }
    }

    /// The pushes of one drain become one message for each connection and space.
    pub(super) fn flush_pushes(&mut self) {
        let limits = self.limits.clone();
        let device = self.device;
        for (conn, space) in core::mem::take(&mut self.pushed) {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            let Some(link) = connection.links.get_mut(&space) else { continue };
            let (theirs, pushes) = (link.theirs, core::mem::take(&mut link.pushes));
            let proofs = core::mem::take(&mut link.proofs);
            send_proofs(connection, theirs, proofs, false);
            let mut segments = Joined::default();
            pushes.iter().for_each(|stored| segments.push(StoredSegment::clone(stored)));
            let spending = &mut self.spending;
            send_segments(connection, spending, &limits, device, &space, theirs, segments.all, Vec::new(), false);
        }
    }

    /// Puts documents on the list of those whose clock the other side is told.
    pub(super) fn offer(&mut self, conn: ConnId, space: SpaceId, docs: impl IntoIterator<Item = DocId>) {
        if let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space)) {
            link.offers.extend(docs);
            self.offering.insert((conn, space));
        }
    }

    /// Tells the other sides what is held of documents that they may lack.
    pub(super) fn run_offers(&mut self) {
        for (conn, space) in core::mem::take(&mut self.offering) {
            while let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space)) {
                let docs: Vec<DocId> = link.offers.iter().take(OFFERS_AT_ONCE).copied().collect();
                if docs.is_empty() {
                    break;
                }
                if !self.ensure(space, docs.iter().copied().filter(|d| *d != space.authority())) {
                    self.offering.insert((conn, space));
                    break;
                }
                let served = docs.iter().filter(|doc| !self.unwanted.docs.contains(doc));
                let haves = served.filter_map(|doc| Some(Have { doc: *doc, clock: self.clock_of(space, *doc)? }));
                let haves: Vec<Have> = haves.filter(|have| !have.clock.0.is_empty()).collect();
                let Some(connection) = self.connections.get_mut(&conn) else { break };
                let Some(link) = connection.links.get_mut(&space) else { break };
                docs.iter().for_each(|doc| {
                    link.offers.remove(doc);
                });
                let theirs = link.theirs;
                for haves in runs(haves, LIST_MAX) {
                    connection.send(&Message::Data(Data { haves, ..empty(theirs, true) }));
                }
            }
        }
    }

    /// Wanted documents have come: the dialler compares.
    pub(super) fn levelled(&mut self, conn: ConnId, space: SpaceId) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some((link, peer)) = connection.links.get_mut(&space).zip(connection.peer) else { return };
        let done = link.ask == Ask::Level && !link.repair.is_put_off();
        if !link.wanted.is_empty() || done || link.ask == Ask::Paging {
            return;
        }
        if link.is_whole() {
            return link.repair.quiet(now);
        }
        // Nothing to compare: who takes a part is level with what it was sent.
        if let Some(upto) = link.reached {
            self.reach(conn, space, upto, true);
            self.after.push(After::Level { conn, peer, space, whole: false });
            self.follows(space);
        }
    }
}

fn empty(space: u32, asked: bool) -> Data {
    Data { space, segments: vec![], haves: vec![], upto: None, fingerprint: None, asked, absent: vec![], proofs: None }
}

/// Segments, each under one tip with the one before if it continues that branch and the two still fit a message.
#[derive(Default)]
struct Joined {
    all: Vec<Segment>,
    /// Branch of the last.
    branch: u16,
}

impl Joined {
    fn push(&mut self, next: StoredSegment) {
        let branch = core::mem::replace(&mut self.branch, next.branch);
        let next = next.segment;
        match self.all.last_mut() {
            Some(last)
                if branch == self.branch
                    && last.continues_with(&next)
                    && last.body_bytes() + next.body_bytes() <= MESSAGE_BODIES =>
            {
                last.join(next);
            }
            _ => self.all.push(next),
        }
    }
}

/// Whether a segment has something that counts and who has `theirs` of its chain may lack.
fn is_lacking(line: &Line, theirs: Option<&Ends>, stored: &StoredSegment) -> bool {
    let (branch, segment) = (usize::from(stored.branch), &stored.segment);
    let Some(held) = line.branches.get(branch) else { return false };
    let counted = line.counted(branch);
    let Some(theirs) = theirs else { return segment.first <= counted };
    if line.is_open() {
        return segment.tip.n > theirs.length() || theirs.heads.len() > 1;
    }
    // Of which branch their ends are is not known: what is sent is what does not end as theirs does, but for what both
    // have before the chain parts.
    let has_end = held.counts.is_some_and(|counts| theirs.heads.contains(&(counts.n, counts.head)));
    let at = line.closed.as_ref().map(ForkProof::at);
    let before = at.is_some_and(|at| segment.tip.n < at) && theirs.closed == at && segment.tip.n <= theirs.length();
    segment.first <= counted && !has_end && !before
}

/// Adds what is not shown and the entries that go out build upon, where those are not shown either but share a tip with some
/// that are: it is in nobody's clock, and without it they do not fit.
fn add_hidden_past(space: &SpaceId, lines: &BTreeMap<ChainId, &Line>, stored: &[StoredSegment], sent: &mut [bool]) {
    let hidden = |stored: &StoredSegment| {
        let (segment, all) = (&stored.segment, stored.segment.entries.len());
        let line = lines.get(&segment.opening.chain(space, &segment.doc));
        let counted = line.map_or(u64::MAX, |line| line.counted(usize::from(stored.branch)));
        let shown = counted.saturating_add(1).saturating_sub(segment.first);
        shown.min(all as u64) as usize..all
    };
    let mut todo: Vec<usize> = (0..stored.len()).filter(|at| sent[*at] && !hidden(&stored[*at]).is_empty()).collect();
    if todo.is_empty() {
        return;
    }
    let walked: Vec<Vec<change::ChangeHead>> = stored
        .iter()
        .map(|stored| stored.segment.entries[hidden(stored)].iter())
        .map(|entries| entries.filter_map(|bytes| change::walk(bytes, &Rules::V1).ok()).collect())
        .collect();
    let place: BTreeMap<EntryId, usize> =
        walked.iter().enumerate().flat_map(|(at, heads)| heads.iter().map(move |head| (head.id, at))).collect();
    while let Some(at) = todo.pop() {
        let past = walked[at].iter().flat_map(|head| &head.deps).filter_map(|dep| place.get(dep).copied());
        todo.extend(past.filter(|of| !core::mem::replace(&mut sent[*of], true)));
    }
}

fn send_proofs(connection: &mut Connection, theirs: u32, proofs: Vec<ForkProof>, asked: bool) {
    for proofs in Proofs::cut(proofs) {
        connection.send(&Message::Data(Data { proofs: Some(proofs), ..empty(theirs, asked) }));
    }
}

/// Whether the segments hold every entry of a chain from `have + 1` to `end`.
fn covers(segments: &[StoredSegment], space: &SpaceId, chain: &ChainId, have: u64, end: u64) -> bool {
    let mut at = have;
    for segment in segments.iter().map(|s| &s.segment).filter(|s| s.opening.chain(space, &s.doc) == *chain) {
        if segment.first <= at.saturating_add(1) {
            at = at.max(segment.tip.n);
        }
    }
    at >= end
}

/// Nothing, if what others made in it may not be paid for.
#[allow(clippy::too_many_arguments, reason = "one message, spelled out")]
fn send_segments(
    connection: &mut Connection,
    spending: &mut Spending,
    limits: &Limits,
    device: DeviceId,
    space: &SpaceId,
    theirs: u32,
    segments: Vec<Segment>,
    haves: Vec<Have>,
    asked: bool,
) {
    let is_own = |segment: &Segment| segment.opening.device == device;
    let bytes_max: usize = segments.iter().map(|segment| segment.wire_bytes_max() + DATA_OVERHEAD).sum();
    if !segments.iter().all(is_own) && !spending.may_serve(bytes_max) {
        return;
    }
    let mut rest = segments.into_iter().peekable();
    while rest.peek().is_some() {
        let mut others = false;
        let (mut wires, mut headers, mut own) = (Vec::new(), Headers::default(), Vec::new());
        let mut bytes = 0;
        while let Some(segment) = rest.next_if(|s| bytes == 0 || bytes + s.wire_bytes_max() <= MESSAGE_BODIES) {
            bytes += segment.wire_bytes_max();
            wires.push(wire(connection, limits, space, &segment, &headers.index));
            if segment.doc == space.authority() {
                headers.note(space, &segment);
            }
            others |= !is_own(&segment);
            if is_own(&segment) {
                let chain = segment.opening.chain(space, &segment.doc);
                own.push((*space, segment.doc, chain, segment.tip.n));
            }
        }
        connection.count_data(own);
        let bytes = connection.send_counted(&Message::Data(Data { segments: wires, ..empty(theirs, asked) }));
        if others {
            spending.served(bytes);
        }
    }
    for haves in runs(haves, LIST_MAX) {
        connection.send(&Message::Data(Data { haves, ..empty(theirs, asked) }));
    }
}

/// Documents that a message creates, by the place of their headers in it.
#[derive(Default)]
struct Headers {
    index: BTreeMap<DocId, u32>,
    /// Headers so far. A liar's may repeat.
    count: u32,
}

impl Headers {
    fn note(&mut self, space: &SpaceId, segment: &Segment) {
        for doc in created(space, segment) {
            self.index.insert(doc, self.count);
            self.count += 1;
        }
    }
}

/// `spending` pays for it, unless it is sent for what this device made in it.
#[allow(clippy::too_many_arguments, reason = "one snapshot, spelled out")]
fn send_snapshot(
    connection: &mut Connection,
    mut spending: Option<&mut Spending>,
    device: DeviceId,
    space: &SpaceId,
    theirs: u32,
    doc: DocId,
    image: &Image,
    bytes: &[u8],
) {
    let Some(covered) = &image.covered else { return };
    let of_line = |(line, tip): &(u32, crate::chain::Tip)| {
        let opening = image.lines.get(*line as usize)?.opening.clone();
        Some(Covered { opening, tip: tip.clone() })
    };
    let chains: Vec<Covered> = covered.tips.iter().filter_map(of_line).collect();
    let signed = minicbor::to_vec(&chains).map_or(usize::MAX, |encoded| encoded.len());
    if signed >= ITEM_BYTES_MAX {
        // More chains than a message names. Who asked is not left waiting.
        return connection.send(&Message::Data(Data { absent: vec![doc], ..empty(theirs, true) }));
    }
    let parts = bytes.len() / SNAPSHOT_PIECE + 2;
    if spending.as_mut().is_some_and(|spending| !spending.may_serve(bytes.len() + signed + parts * DATA_OVERHEAD)) {
        return;
    }
    let own = chains.iter().filter(|c| c.opening.device == device);
    let own = own.map(|c| (*space, doc, c.opening.chain(space, &doc), c.tip.n));
    connection.count_data(own.collect());
    let total = bytes.len() as u64;
    // The first piece shares its message with the chains.
    let (first, rest) = bytes.split_at(bytes.len().min(SNAPSHOT_PIECE.min(ITEM_BYTES_MAX - signed)));
    let mut offset = 0;
    let mut chains = Some(chains);
    for piece in core::iter::once(first).chain(rest.chunks(SNAPSHOT_PIECE)) {
        let sent = connection.send_counted(&Message::SnapshotPart(SnapshotPart {
            space: theirs,
            doc,
            offset,
            total,
            bytes: piece.to_vec().into(),
            chains: chains.take().unwrap_or_default(),
        }));
        spending.iter_mut().for_each(|spending| spending.served(sent));
        offset += piece.len() as u64;
    }
}
