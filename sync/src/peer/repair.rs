//! Comparing, and repairing what differs: fingerprints when things are quiet, rateless reconciliation when they differ.
//!
//! The dialler of a connection drives both, so that the two sides never do the same work twice.

use super::connection::{Ask, Serve};
use super::spending::BURST_MS;
use super::{After, ConnId, Durable, Event, Load, Now, Peer, Purpose};
use crate::clock::Fingerprint;
use crate::id::{DocId, SpaceId};
use crate::message::{Check, Difference, Message, Symbols, SymbolsWanted};
use crate::reconcile::{self, Decoder, Element, Encoder, Progress, SetMark};
use crate::violation::Violation;

/// Quiet time after a change before both sides compare again.
const CHECK_AFTER_MS: u64 = 2_000;
/// Time before a comparison that found a difference is repeated, doubled each time.
const RETRY_MS: u64 = 500;
/// The longest such time.
const RETRY_MAX_MS: u64 = 60_000;
/// Time between two readings of one space's set.
const SET_READ_EVERY_MS: u64 = 1_000;
/// Time after its last use at which a set is dropped from memory.
const SET_KEPT_MS: u64 = 30_000;
/// Requests for symbols in a minute after which the asker begins no comparison until the minute is over. One comparison
/// takes two or three, and at worst (the largest difference, each guess of its size too low) 121.
const REQUESTS_BEFORE_REST: u32 = 32;
/// Requests for symbols that one connection may make in a minute. An asker that counts its minutes from another moment
/// makes at most 2 × (31 + 121) of them.
const SYMBOL_REQUESTS_PER_MINUTE: u32 = 320;
/// Symbols asked for first.
const FIRST_SYMBOLS: u64 = 64;

/// Where the comparison of one space with one peer stands.
#[derive(Debug, Default)]
pub(super) struct Repair {
    bursts: bool,
    check_at: Option<Now>,
    /// A comparison was due while something wanted was on its way: it is for when that has come.
    put_off: bool,
    /// What the two sides had when they last differed.
    differed: Option<(Fingerprint, Fingerprint)>,
    /// What the other side was told last that this side holds, and what it said last, up to which number of its sequence.
    told: Option<Fingerprint>,
    heard: Option<(Fingerprint, u64)>,
    stranger: bool,
    retries: u32,
    /// Requests for symbols that this side made, and that the other side did.
    made: Requests,
    asked: Requests,
    session: Option<Session>,
}

/// Counts requests for symbols by the minute.
#[derive(Clone, Copy, Debug, Default)]
struct Requests {
    count: u32,
    since: Now,
}

impl Requests {
    fn in_minute(&mut self, now: Now) -> u32 {
        if now.0 > self.since.0 + 60_000 {
            *self = Requests { count: 0, since: now };
        }
        self.count
    }

    /// Counts one more, and says the how manieth of its minute it is.
    fn add(&mut self, now: Now) -> u32 {
        self.count = self.in_minute(now) + 1;
        self.count
    }
}

#[derive(Debug)]
enum Session {
    /// The first symbols are on their way.
    Asked,
    Decoding {
        seed: [u8; 16],
        decoder: Box<Decoder>,
        local: Vec<(Element, DocId)>,
    },
}

impl Repair {
    /// News come in bursts: between two of them something is always on its way.
    pub(super) fn set_bursts(&mut self) {
        self.bursts = true;
    }

    fn check_after_ms(&self) -> u64 {
        CHECK_AFTER_MS + if self.bursts { BURST_MS } else { 0 }
    }

    pub(super) fn due(&self) -> Option<Now> {
        self.check_at
    }

    /// Compare at once: everything asked for has come.
    pub(super) fn quiet(&mut self, now: Now) {
        self.check_at = Some(now);
    }

    /// Whether a comparison was put off.
    pub(super) fn is_put_off(&self) -> bool {
        self.put_off
    }

    /// Compare element by element at once: there is no common past.
    pub(super) fn stranger(&mut self, now: Now) {
        self.stranger = true;
        self.check_at = Some(now);
    }

    /// Compare after a while.
    pub(super) fn mismatch(&mut self, now: Now) {
        let wait = (RETRY_MS << self.retries.min(16)).min(RETRY_MAX_MS);
        self.retries += 1;
        self.check_at = Some(Now(now.0 + wait));
    }

    /// What is compared is still changing: look again soon, however often it did.
    fn moved(&mut self, now: Now) {
        self.retries = 0;
        self.check_at = Some(Now(now.0 + self.check_after_ms()));
    }

    /// Something changed: compare once it is quiet, however long ago the last comparison found nothing to do.
    pub(super) fn touch(&mut self, now: Now) {
        let at = Now(now.0 + self.check_after_ms());
        self.check_at = Some(self.check_at.map_or(at, |due| due.min(at)));
    }

    /// The other side hears that this side holds this.
    pub(super) fn tells(&mut self, fingerprint: Fingerprint) {
        self.told = Some(fingerprint);
    }

    /// The other side says that it holds this.
    pub(super) fn hears(&mut self, fingerprint: Fingerprint, seq: u64) {
        self.heard = Some((fingerprint, seq));
    }

    /// Both sides hold the same. Symbols that were asked for may still come, so their session stays.
    fn settled(&mut self) {
        let Repair { bursts, told, heard, made, asked, .. } = *self;
        *self = Repair { bursts, told, heard, made, asked, session: self.session.take(), ..Repair::default() };
    }
}

/// The set of (document, clock) of a space, as symbols are made from it.
#[derive(Debug)]
pub(super) struct SetCache {
    /// Of what was read, which may be behind what is in memory.
    fingerprint: Fingerprint,
    digests: Vec<(DocId, [u8; 32])>,
    seed: [u8; 16],
    mark: SetMark,
    /// Sorted.
    elements: Vec<(Element, DocId)>,
    read_at: Now,
    used: Now,
}

impl Peer {
    /// Reads the set of a space unless it is at hand. True if it is.
    fn ensure_set(&mut self, space: SpaceId, fresh: bool) -> bool {
        let (current, now) = (self.durable(&space).fingerprint, self.now);
        if let Some(set) = self.sets.get_mut(&space) {
            set.used = now;
            // Reading a set again costs a scan: not for every change, whoever asks.
            if !fresh || set.fingerprint == current || now.0 < set.read_at.0 + SET_READ_EVERY_MS {
                return true;
            }
        }
        let reading = self.loads.values().any(|(s, p)| *s == space && matches!(p, Purpose::Set));
        if !reading {
            self.load(space, Load::Digests { space }, Purpose::Set);
        }
        false
    }

    pub(super) fn set_loaded(&mut self, space: SpaceId, mut digests: Vec<(DocId, [u8; 32])>) {
        let Some(held) = self.spaces.get(&space) else { return };
        if let Some(digest) = held.digest() {
            digests.push((space.authority(), digest));
        }
        // Not the one of the space: what is on its way to disk was not read, and the set would never be read again.
        let mut fingerprint = Fingerprint::default();
        digests.iter().for_each(|(doc, digest)| fingerprint.add(doc, digest));
        let seed = self.random();
        let elements = elements(&seed, &digests);
        let mark = Encoder::new(&seed, elements.iter().map(|(e, _)| *e)).mark();
        self.sets
            .insert(space, SetCache { fingerprint, digests, seed, mark, elements, read_at: self.now, used: self.now });
    }

    pub(super) fn run_repairs(&mut self, conns: &[ConnId]) {
        let now = self.now;
        self.sets.retain(|_, set| now.0 < set.used.0 + SET_KEPT_MS);
        let connections = conns.iter().filter_map(|conn| Some((conn, self.connections.get(conn)?)));
        let due: Vec<(ConnId, SpaceId)> = connections
            .flat_map(|(conn, c)| {
                let due = c.links.iter().filter(|(_, l)| l.repair.check_at.is_some_and(|at| at <= now));
                due.map(|(space, _)| (*conn, *space))
            })
            .collect();
        for (conn, space) in due {
            self.compare(conn, space);
        }
    }

    fn compare(&mut self, conn: ConnId, space: SpaceId) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let dialled = connection.dialled;
        let Some(link) = connection.links.get_mut(&space) else { return };
        link.repair.check_at = None;
        let ready = link.ask != Ask::Paging && link.serve == Serve::Live && link.wanted.is_empty();
        link.repair.put_off |= !link.wanted.is_empty();
        if !ready || !link.is_whole() || link.repair.session.is_some() {
            return;
        }
        link.repair.put_off = false;
        if !dialled {
            // The dialler compares when something changes at its side. Of what was not pushed to it, it has to be told.
            if link.gap {
                self.after.push(After::Check { conn, space, answer: true });
            }
            return;
        }
        if link.repair.stranger && link.repair.made.in_minute(now) < REQUESTS_BEFORE_REST {
            link.repair.stranger = false;
            link.repair.session = Some(Session::Asked);
            link.repair.made.add(now);
            let wanted = SymbolsWanted { space: link.theirs, from: 0, count: FIRST_SYMBOLS, seed: None };
            return connection.send(&Message::SymbolsWanted(wanted));
        }
        self.after.push(After::Check { conn, space, answer: false });
    }

    /// Says what is held. What came until it was asked for is on disk by now.
    pub(super) fn check(&mut self, conn: ConnId, space: SpaceId, answer: bool) {
        let Durable { seq, fingerprint } = self.durable(&space);
        let docs = self.spaces.get(&space).map_or(0, |s| s.logs);
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some(link) = connection.links.get_mut(&space) else { return };
        link.repair.tells(fingerprint);
        // What it said last may have come before this side had stored the same.
        let heard = link.repair.heard.filter(|(theirs, _)| *theirs == fingerprint && link.ask != Ask::Level);
        let check = Check { space: link.theirs, fingerprint, docs, seq, answer };
        connection.send(&Message::Check(check));
        if let Some(((_, theirs), peer)) = heard.zip(connection.peer) {
            self.reach(conn, space, theirs, true);
            self.emit(Event::Level { peer, space, whole: true });
            self.follows(space);
        }
    }

    pub(super) fn on_check(&mut self, conn: ConnId, check: &Check) -> Result<(), Violation> {
        let Some(connection) = self.connections.get(&conn) else { return Ok(()) };
        let space = connection.space_of(check.space)?;
        let Some(peer) = connection.peer else { return Ok(()) };
        let ours = self.fingerprint(&space);
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let dialled = connection.dialled;
        let Some(link) = connection.links.get_mut(&space) else { return Ok(()) };
        let equal = check.fingerprint == ours;
        link.repair.hears(check.fingerprint, check.seq);
        if check.answer && dialled && !equal {
            // A difference that stands while neither side moves is a real one; otherwise things were in flight.
            let pair = Some((ours, check.fingerprint));
            if link.repair.differed == pair {
                link.repair.stranger |= link.wanted.is_empty();
                link.repair.mismatch(now);
            } else {
                link.repair.moved(now);
            }
            link.repair.differed = pair;
        }
        // The other side knows that the two are level only if what it was told last was this.
        let unknown = equal && link.repair.told != Some(ours);
        if equal {
            link.repair.settled();
        }
        if !check.answer || unknown {
            self.after.push(After::Check { conn, space, answer: true });
        }
        if equal {
            self.reach(conn, space, check.seq, true);
            self.after.push(After::Level { conn, peer, space, whole: true });
            self.follows(space);
        }
        Ok(())
    }

    pub(super) fn on_symbols_wanted(
        &mut self,
        conn: ConnId,
        wanted: SymbolsWanted,
    ) -> Result<Option<SymbolsWanted>, Violation> {
        let Some(connection) = self.connections.get(&conn) else { return Ok(None) };
        let space = connection.space_of(wanted.space)?;
        if !connection.links.contains_key(&space) {
            return Err(Violation::OutOfPlace("symbols of a space that was not offered"));
        }
        if !self.ensure_set(space, wanted.from == 0) {
            return Ok(Some(wanted));
        }
        let now = self.now;
        if let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space))
            && link.repair.asked.add(now) > SYMBOL_REQUESTS_PER_MINUTE
        {
            return Err(Violation::OutOfPlace("more requests for symbols than any difference needs"));
        }
        let Some(set) = self.sets.get(&space) else { return Ok(None) };
        let same = wanted.seed.as_ref().is_none_or(|seed| seed[..] == set.seed[..]);
        let start = usize::try_from(wanted.from).unwrap_or(usize::MAX).min(reconcile::SYMBOLS_MAX);
        let end = start.saturating_add(wanted.count.min(reconcile::BATCH_SYMBOLS_MAX as u64) as usize);
        let symbols = match same {
            true => {
                let all = || set.elements.iter().map(|(e, _)| *e);
                let symbols = reconcile::coded_range(&set.seed, start..end.min(reconcile::SYMBOLS_MAX), all());
                reconcile::encode_symbols(set.mark, start, &symbols)
            }
            false => Vec::new(),
        };
        let (seed, count) = (set.seed, set.elements.len() as u64);
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(None) };
        let Some(link) = connection.links.get(&space) else { return Ok(None) };
        let message = Symbols { space: link.theirs, seed, set: count, symbols: symbols.into() };
        connection.send(&Message::Symbols(message));
        Ok(None)
    }

    pub(super) fn on_symbols(&mut self, conn: ConnId, symbols: Symbols) -> Result<Option<Symbols>, Violation> {
        let Some(connection) = self.connections.get(&conn) else { return Ok(None) };
        let space = connection.space_of(symbols.space)?;
        let session = connection.links.get(&space).and_then(|l| l.repair.session.as_ref());
        let new = match session {
            None => return Err(Violation::OutOfPlace("symbols that nobody asked for")),
            Some(session) => matches!(session, Session::Asked),
        };
        if new && !self.ensure_set(space, true) {
            return Ok(Some(symbols));
        }
        let set = self.sets.get(&space).filter(|_| new);
        let local = set.map(|set| elements(&symbols.seed, &set.digests));
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(None) };
        let Some(link) = connection.links.get_mut(&space) else { return Ok(None) };
        if let Some(local) = local {
            let max = (local.len() as u64).saturating_add(symbols.set).saturating_mul(4).saturating_add(1_024);
            let max = usize::try_from(max).unwrap_or(usize::MAX).min(reconcile::SYMBOLS_MAX);
            let decoder = Box::new(Decoder::new(&symbols.seed, local.iter().map(|(e, _)| *e), max));
            link.repair.session = Some(Session::Decoding { seed: symbols.seed, decoder, local });
        }
        let Some(Session::Decoding { seed, decoder, local }) = &mut link.repair.session else { return Ok(None) };
        let batch = reconcile::decode_symbols(&symbols.symbols, reconcile::BATCH_SYMBOLS_MAX);
        let progress = match batch {
            Ok(batch) if *seed == symbols.seed => decoder.push(&batch).map_err(|fault| fault.to_string()),
            Ok(_) => Err("the set changed".to_owned()),
            Err(fault) => Err(fault.to_string()),
        };
        match progress {
            Ok(Progress::NeedMore) if decoder.wanted() > 0 => {
                let (from, count) = (decoder.received() as u64, decoder.wanted() as u64);
                let seed = Some(seed.to_vec().into());
                let wanted = SymbolsWanted { space: link.theirs, from, count, seed };
                link.repair.made.add(now);
                connection.send(&Message::SymbolsWanted(wanted));
            }
            Ok(Progress::Done { only_remote, only_local }) => {
                let docs = only_local.iter().filter_map(|e| local.binary_search_by_key(e, |(e, _)| *e).ok());
                let docs: Vec<DocId> = docs.map(|at| local[at].1).collect();
                let seed = *seed;
                link.repair.session = None;
                link.ask = if link.ask == Ask::Stranger { Ask::Fetching } else { link.ask };
                let theirs = link.theirs;
                match only_remote.is_empty() && only_local.is_empty() {
                    true => link.repair.quiet(now),
                    false => link.repair.mismatch(now),
                }
                for elements in only_remote.chunks(reconcile::BATCH_SYMBOLS_MAX) {
                    let elements: Vec<u8> = elements.iter().flat_map(|e| e.0).collect();
                    let difference = Difference { space: theirs, seed, elements: elements.into() };
                    connection.send(&Message::Difference(difference));
                }
                self.offer(conn, space, docs);
            }
            Ok(Progress::NeedMore) | Err(_) => {
                // The set moved under the stream, or the symbols are no set at all: begin again, ever more rarely.
                link.repair.session = None;
                link.repair.stranger = true;
                link.repair.mismatch(now);
            }
        }
        Ok(None)
    }

    pub(super) fn on_difference(
        &mut self,
        conn: ConnId,
        difference: Difference,
    ) -> Result<Option<Difference>, Violation> {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(None) };
        let space = connection.space_of(difference.space)?;
        let (elements, rest) = difference.elements.as_chunks::<16>();
        if !rest.is_empty() || elements.len() > reconcile::BATCH_SYMBOLS_MAX {
            return Err(Violation::ListTooLong);
        }
        let Some(set) = self.sets.get(&space).filter(|set| set.seed == difference.seed) else { return Ok(None) };
        let found = elements.iter().filter_map(|element| {
            let at = set.elements.binary_search_by_key(&Element(*element), |(e, _)| *e).ok()?;
            Some(set.elements[at].1)
        });
        let docs: Vec<DocId> = found.collect();
        self.offer(conn, space, docs);
        Ok(None)
    }
}

fn elements(seed: &[u8; 16], digests: &[(DocId, [u8; 32])]) -> Vec<(Element, DocId)> {
    let mut elements: Vec<_> =
        digests.iter().map(|(doc, digest)| (reconcile::element(seed, doc, digest), *doc)).collect();
    elements.sort_unstable();
    elements
}
