//! Snapshots: pieces that come, their checks, and what is looked up inside the ones that are held.

use std::collections::BTreeMap;

use super::connection::{Ask, Connection, Incoming, Serve};
use super::local::heads_of;
use super::{
    After, Checking, ConnId, DEEPEN_EVERY_MS, Deepening, Event, Load, Now, OpId, Output, Peer, Purpose,
    SnapshotContent, SnapshotFault, StoreOp, frontier_of,
};
use crate::authority::Limit;
use crate::chain::{Opening, Tip};
use crate::id::{DocId, EntryId, SpaceId};
use crate::log::{DeepEntry, SnapshotOf};
use crate::message::{LIST_MAX, SnapshotPart};
use crate::usage::{UNSIGNED, Usage};
use crate::violation::Violation;
use crate::waiting::Blocker;

/// Snapshots of the largest size that may be on their way or under check at once, over all connections. What exceeds it is
/// not taken now.
const INCOMING_TIMES: u64 = 4;
/// Times that a snapshot is read when it turns out to be another than the log speaks of.
const DEEPEN_TRIES: u8 = 3;
/// Of snapshots that are loaded again within [`DEEPEN_EVERY_MS`], one is loaded at a time, and the next after so many times as long as that
/// took, but no longer than that: those that take up to a second take less than a tenth of the time together.
const DEEPEN_REST: u64 = 10;

impl Peer {
    pub(super) fn on_snapshot_part(
        &mut self,
        conn: ConnId,
        part: SnapshotPart,
    ) -> Result<Option<SnapshotPart>, Violation> {
        let Some(connection) = self.connections.get(&conn) else { return Ok(None) };
        let space = connection.space_of(part.space)?;
        if self.spaces.get(&space).is_none_or(|s| s.rules().is_none()) || !self.ensure(space, [part.doc]) {
            return Ok(Some(part));
        }
        let max = self.limits.snapshot_bytes_max as u64;
        let checking = self.checking.values().filter(|c| c.conn == conn).map(|c| c.bytes.len() as u64).sum::<u64>();
        let incoming = if part.offset == 0 { self.incoming_bytes() } else { 0 };
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(None) };
        let Some(link) = connection.links.get_mut(&space) else { return Ok(None) };
        if part.offset == 0 {
            if part.total > max || part.chains.len() > LIST_MAX {
                return Err(Violation::BadSnapshot("larger than this peer takes".into()));
            }
            // A check is the most costly thing that a peer can cause: only of what was asked for, and not many at once.
            let asked = link.due.remove(&part.doc) || (link.fresh && link.ask == Ask::Paging);
            let room = checking + part.total <= max && incoming + part.total <= INCOMING_TIMES * max;
            let bytes = (asked && room).then(|| part.bytes.to_vec());
            let len = part.bytes.len() as u64;
            link.snapshot = Some(Incoming { first: SnapshotPart { bytes: Vec::new().into(), ..part }, len, bytes });
        } else {
            let fits = |i: &&mut Incoming| i.first.doc == part.doc && i.len == part.offset;
            let incoming = link.snapshot.as_mut().filter(fits);
            let incoming = incoming.ok_or(Violation::OutOfPlace("a piece of a snapshot that does not fit"))?;
            incoming.len += part.bytes.len() as u64;
            if let Some(bytes) = &mut incoming.bytes {
                link.progress = Some(self.now);
                bytes.extend_from_slice(&part.bytes);
            }
        }
        let Some(incoming) = &link.snapshot else { return Ok(None) };
        self.took |= incoming.bytes.is_some();
        match incoming.len.cmp(&incoming.first.total) {
            core::cmp::Ordering::Less => return Ok(None),
            core::cmp::Ordering::Greater => return Err(Violation::OutOfPlace("a snapshot longer than it said")),
            core::cmp::Ordering::Equal => {}
        }
        let Some(incoming) = link.snapshot.take() else { return Ok(None) };
        let doc = incoming.first.doc;
        connection.data_in += 1;
        let number = connection.data_in;
        connection.unstored.insert(number);
        let Some(bytes) = incoming.bytes else {
            // Counted, because its sender counts it.
            link.wanted.remove(&doc);
            self.note_unstored(conn, number);
            self.levelled(conn, space);
            return Ok(None);
        };
        link.wanted.insert(doc);
        let op = self.op();
        let chains = incoming.first.chains.into_iter().map(|c| (c.opening, c.tip)).collect();
        let checking = Checking { conn, number, space, doc, chains, bytes: bytes.clone(), merged: false };
        self.checking.insert(op, checking);
        self.outputs.push_back(Output::Emit(Event::CheckSnapshot { op, bytes }));
        Ok(None)
    }

    /// Bytes of snapshots that are on their way or being checked, over all connections.
    fn incoming_bytes(&self) -> u64 {
        let ids = self.connections.ids();
        let connections = ids.iter().filter_map(|id| self.connections.get(id));
        let links = connections.flat_map(|connection| connection.links.values());
        let coming = links.filter_map(|link| link.snapshot.as_ref()).filter(|incoming| incoming.bytes.is_some());
        let checked: usize = self.checking.values().map(|checking| checking.bytes.len()).sum();
        coming.map(|incoming| incoming.first.total).sum::<u64>() + checked as u64
    }

    pub(super) fn snapshot_checked(&mut self, op: OpId, result: Result<SnapshotContent, SnapshotFault>) {
        let Some(checking) = self.checking.remove(&op) else { return };
        let (conn, space, doc) = (checking.conn, checking.space, checking.doc);
        if !self.slots.contains_key(&(space, doc)) {
            // It was dropped from memory meanwhile: read it again, then come back.
            self.rechecks.push((op, checking, result));
            return;
        }
        let peer = self.connections.get(&conn).and_then(|c| c.peer);
        let (number, merged) = (checking.number, checking.merged);
        match result.and_then(|content| self.take_snapshot(op, checking, &content)) {
            Ok(false) => return,
            Ok(true) => self.after.push(After::Ack { conn, number, prompt: false }),
            Err(SnapshotFault::Broken(why)) if !merged => {
                self.notice(peer, Some(space), Some(doc), "S1.snapshot", &why);
                return self.violated(conn, &Violation::BadSnapshot(why));
            }
            Err(SnapshotFault::NotTaken(why) | SnapshotFault::Broken(why)) => {
                self.notice(peer, Some(space), Some(doc), "snapshot.not-taken", &why);
                self.note_unstored(conn, number);
            }
        }
        if let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space)) {
            link.wanted.remove(&doc);
        }
        self.waiting.take_all(space, doc).into_iter().for_each(|w| self.retries.push_back(w));
        self.levelled(conn, space);
    }

    pub(super) fn snapshots_merged(&mut self, op: OpId, result: Result<(Vec<u8>, SnapshotContent), String>) {
        let Some(checking) = self.checking.get_mut(&op) else { return };
        checking.merged = true;
        let content = result.map(|(bytes, content)| {
            checking.bytes = bytes;
            content
        });
        self.snapshot_checked(op, content.map_err(SnapshotFault::NotTaken));
    }

    pub(super) fn run_rechecks(&mut self) {
        for (op, checking, result) in core::mem::take(&mut self.rechecks) {
            let (space, doc) = (checking.space, checking.doc);
            if self.ensure(space, [doc]) {
                self.checking.insert(op, checking);
                self.snapshot_checked(op, result);
            } else {
                self.rechecks.push((op, checking, result));
            }
        }
    }

    /// A checked snapshot counts only if every chain in it, whole, is what a tip signs. False: it comes back, merged with
    /// the one that is held.
    fn take_snapshot(
        &mut self,
        op: OpId,
        mut checking: Checking,
        content: &SnapshotContent,
    ) -> Result<bool, SnapshotFault> {
        use SnapshotFault::{Broken, NotTaken};
        let (broken, not_taken) = (|why: &str| Broken(why.into()), |why: &str| NotTaken(why.into()));
        let (space, doc) = (checking.space, checking.doc);
        if self.unwanted.docs.contains(&doc) {
            return Err(not_taken("the document is blocked on this peer"));
        }
        let held = self.spaces.get(&space).ok_or_else(|| not_taken("the space is gone"))?;
        let log = self.log(space, doc).ok_or_else(|| not_taken("its document is not known here yet"))?;
        if log.is_deleted() {
            return Ok(true);
        }
        // It takes the place of the one before.
        let before = log.taken().get(&UNSIGNED).copied().unwrap_or(0);
        let more = Usage { bytes: (checking.bytes.len() as u64).saturating_sub(before), documents: 0 };
        if self.meter.is_beyond(&space, None, more) {
            return Err(not_taken("the space has all that its quota on this peer allows"));
        }
        if content.chains.len() != checking.chains.len() {
            return Err(broken("it holds other chains than its tips sign"));
        }
        let mut chains = Vec::new();
        let mut ends = Vec::new();
        let mut names = BTreeMap::new();
        let inside: BTreeMap<&[u8], &Vec<EntryId>> = content.chains.iter().map(|(a, ids)| (&a[..], ids)).collect();
        for (opening, tip) in &checking.chains {
            let (chain, actor) = (opening.chain(&space, &doc), opening.actor(&space, &doc));
            let ids = *inside.get(&actor[..]).ok_or_else(|| broken("it lacks a chain that its tips sign"))?;
            let frontier = frontier_of(ids);
            if frontier.len() != tip.n || !tip.verifies(&space, &doc, opening, &frontier.head()) {
                return Err(broken("a tip does not verify over the entries in it"));
            }
            // The grant may be on its way; and of two histories of a chain its author is guilty, not who has the other.
            if held.limit(&doc, opening, Some(&log.header().creator)) == Limit::Unknown {
                return Err(not_taken("a device without the right to write signed a part of it"));
            }
            if !log.agrees_with(&chain, ids) {
                return Err(not_taken("it shows another history of a chain than the one held here"));
            }
            ends.push((chain, tip.n));
            names.insert(actor, chain);
            chains.push((opening.clone(), frontier, tip.clone()));
        }
        let covered = log.covered().into_iter().flat_map(|covered| &covered.tips);
        let held: BTreeMap<Opening, Tip> =
            covered.map(|(line, tip)| (log.lines().all()[*line as usize].opening.clone(), tip.clone())).collect();
        let theirs: BTreeMap<Opening, Tip> = checking.chains.iter().cloned().collect();
        let covers = |all: &BTreeMap<Opening, Tip>, some: &BTreeMap<Opening, Tip>| {
            some.iter().all(|(opening, tip)| all.get(opening).is_some_and(|end| tip.n <= end.n))
        };
        if !covers(&theirs, &held) {
            if covers(&held, &theirs) {
                return Ok(true);
            }
            if checking.merged {
                return Err(not_taken("the snapshot held here changed meanwhile"));
            }
            let mut both = theirs;
            for (opening, tip) in held {
                let end = both.entry(opening).or_insert_with(|| tip.clone());
                if end.n < tip.n {
                    *end = tip;
                }
            }
            checking.chains = both.into_iter().collect();
            let bytes = checking.bytes.clone();
            self.checking.insert(op, checking);
            self.emit(Event::MergeSnapshots { op, space, doc, bytes });
            return Ok(false);
        }
        let heads = heads_of(content, |actor| names.get(actor).copied())
            .ok_or_else(|| broken("its heads name unknown chains"))?;
        let bytes = checking.bytes.len() as u64;
        let snapshot = SnapshotOf { bytes, chains, heads };
        self.count_snapshot(space, doc, bytes);
        self.cover_log(space, doc, snapshot);
        if self.is_to_refresh(&space) {
            self.refresh(space, doc);
        }
        if self.log(space, doc).is_some_and(|log| !log.is_open()) {
            // What it holds may build on closed chains.
            self.deepen(space, doc, true);
        }
        let Some(held) = self.spaces.get_mut(&space) else { return Ok(true) };
        held.seq += 1;
        let seq = held.seq;
        let source = self.connections.get(&checking.conn).and_then(Connection::source).filter(|_| !checking.merged);
        self.batch.push(StoreOp::Snapshot { space, doc, seq, source, ends, bytes: checking.bytes });
        self.emit(Event::Snapshot { space, doc });
        // Those who follow live are told to compare: a snapshot is not pushed.
        for conn in self.connections.of_space(&space) {
            let link = self.connections.get(&conn).and_then(|c| c.links.get(&space));
            if link.is_some_and(|l| l.serve == Serve::Live) {
                self.offer(conn, space, [doc]);
            }
        }
        Ok(true)
    }

    /// Wants the index of what is inside a snapshot: at once for this device, for others after a while.
    pub(super) fn deepen(&mut self, space: SpaceId, doc: DocId, own: bool) {
        // Loading a snapshot is the most costly thing that an entry can ask for: once in a while for each document.
        let now = self.now;
        self.deepened.retain(|_, at| at.0 + DEEPEN_EVERY_MS > now.0);
        let again = !own && self.deepened.contains_key(&(space, doc));
        let deepening = self.deepening.entry((space, doc)).or_insert(Deepening { again, asked: None, tries: 0 });
        if deepening.asked.is_none() {
            deepening.again &= again;
        }
    }

    /// Whether a snapshot is being read, or may be by now.
    pub(super) fn is_deepening(&self, key: &(SpaceId, DocId)) -> bool {
        let may = |deepening: &Deepening| self.deepens_at(key, deepening) <= self.now;
        self.deepening.get(key).is_some_and(|deepening| deepening.asked.is_some() || may(deepening))
    }

    /// When a snapshot may be read.
    fn deepens_at(&self, key: &(SpaceId, DocId), deepening: &Deepening) -> Now {
        let last = self.deepened.get(key).filter(|_| deepening.again);
        last.map_or(Now(0), |last| self.deepen_again.min(Now(last.0 + DEEPEN_EVERY_MS)))
    }

    /// Reads the snapshots whose time it is, once what the log says of them is on disk.
    pub(super) fn run_deepening(&mut self) {
        let now = self.now;
        let due: Vec<(SpaceId, DocId)> = self
            .deepening
            .iter()
            .filter(|(key, d)| self.deepens_at(key, d) <= now && self.may_deepen(key, d))
            .map(|(key, _)| *key)
            .collect();
        for (space, doc) in due {
            // Another may have been begun just now.
            if !self.is_deepening(&(space, doc)) || !self.ensure(space, [doc]) {
                continue;
            }
            self.load(space, Load::Deep { space, doc }, Purpose::Deep { doc });
            self.deepened.insert((space, doc), now);
            if let Some(deepening) = self.deepening.get_mut(&(space, doc)) {
                *deepening = Deepening { asked: Some(now), tries: deepening.tries + 1, ..*deepening };
                if deepening.again {
                    // Until it has come.
                    self.deepen_again = Now(u64::MAX);
                }
            }
        }
    }

    fn may_deepen(&self, key: &(SpaceId, DocId), deepening: &Deepening) -> bool {
        deepening.asked.is_none() && !self.covering.contains_key(key) && !self.loading.contains(key)
    }

    /// When the next snapshot is to be read.
    pub(super) fn deepening_due(&self) -> Option<Now> {
        self.deepening.iter().filter(|(key, d)| self.may_deepen(key, d)).map(|(key, d)| self.deepens_at(key, d)).min()
    }

    pub(super) fn deep_loaded(&mut self, space: SpaceId, doc: DocId, entries: Vec<DeepEntry>) {
        if let Some(since) = self.deepening.get(&(space, doc)).filter(|d| d.again).and_then(|d| d.asked) {
            // What memory has no room for is read again for each entry that needs it, and holds up all that comes after that on its connection.
            let rest = (DEEPEN_REST * (self.now.0.saturating_sub(since.0) + 1)).min(DEEPEN_EVERY_MS);
            self.deepen_again = Now(self.now.0 + rest);
        }
        let covered = self.log(space, doc).and_then(|log| log.covered()).map_or(0, |c| c.entries);
        if let Some(deepening) = self.deepening.get_mut(&(space, doc))
            && covered != entries.len() as u64
            && deepening.tries < DEEPEN_TRIES
        {
            // Another snapshot took its place meanwhile.
            deepening.asked = None;
            return;
        }
        if let Some(held) = self.held(space, doc) {
            let cost = held.log.memory_bytes();
            held.log.deepen(entries);
            let cost_after = held.log.memory_bytes();
            self.resident_bytes = (self.resident_bytes + cost_after).saturating_sub(cost);
        }
        self.deepening.remove(&(space, doc));
        for (from, proof) in self.proofs.remove(&(space, doc)).unwrap_or_default() {
            if let Err(violation) = self.take_proof(space, proof, from) {
                self.violated(from.conn, &violation);
            }
        }
        if self.is_to_refresh(&space) {
            self.refresh(space, doc);
        }
        self.receipts.changed(space, doc);
        self.unblock(space, doc, Blocker::Deep);
    }
}
