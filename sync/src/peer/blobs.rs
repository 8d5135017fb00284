//! Blobs between peers: who has what, asking for pieces, serving them. Who has what is soft state: it is told to those who ask
//! about a blob, as long as they are connected, and stored nowhere.

mod interface;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use self::interface::{BlobInput, BlobOutput};
use super::connection::Connection;
use super::{ConnId, Now, OpId, Output, Peer};
use crate::blobs::fetch::{Fetch, Order};
use crate::blobs::pieces::Pieces;
use crate::blobs::serving::{Ask, Asks, Sent};
use crate::blobs::tree::{Node, Tree};
use crate::blobs::{ASKED_PIECES_MAX, BLOBS_ASKED_MAX, Blob, FETCHES_MAX, PROOF_NODES_MAX};
use crate::id::SpaceId;
use crate::message::{BlobHas, BlobPiece, BlobWant, Message};
use crate::violation::Violation;

/// Bytes queued on a connection above which no piece is put behind them: what is edited meanwhile waits for that much.
const BLOB_QUEUE_HIGH: usize = 512 << 10;
/// Pieces that are read for a connection before there is room for them: 1 MiB, a disk's latency at the speed of a fast link.
const READ_AHEAD: usize = 4;
/// Bytes of a piece's message beside its own, at most: the proof, the name of the blob, the keys.
const PIECE_OVERHEAD: usize = 32 * PROOF_NODES_MAX + 256;
/// Time between two messages that say what one has of a blob: at least that, and a millisecond for each 64 bytes of the set.
const NEWS_MS: u64 = 30;
/// How often a fetch looks for peers that are late, when nothing comes.
const LOOK_MS: u64 = 200;

type Key = (SpaceId, Blob);

/// All that a peer knows of blobs.
#[derive(Default, Debug)]
pub(super) struct Blobs {
    fetches: BTreeMap<Key, Fetch>,
    /// Those in which something changed.
    hungry: BTreeSet<Key>,
    /// When fetches were last looked at.
    looked: Now,
    /// Blobs that others ask about.
    asked: BTreeMap<Key, AskedAbout>,
    sent: BTreeMap<Key, Sent>,
    conns: BTreeMap<ConnId, Conn>,
    reads: BTreeMap<OpId, (ConnId, Ask)>,
    /// Who is to be told what is had of a blob, and when.
    news: BTreeSet<(Now, ConnId, Key)>,
    /// Connections to serve, and when pieces that wait for their time are due.
    serving: BTreeSet<ConnId>,
    holds: BTreeMap<ConnId, Now>,
}

/// What this peer has of a blob that others ask about.
#[derive(Default, Debug)]
struct AskedAbout {
    conns: BTreeSet<ConnId>,
    /// `None` until the store has told.
    has: Option<Pieces>,
    /// It was fetched while it was asked about: others have it too, and nobody need be put off to spare this peer. (Two that
    /// have fetched it and both put off a third would let it wait for nothing.)
    fetched: bool,
}

/// A connection over which something was said about blobs.
#[derive(Default, Debug)]
struct Conn {
    watches: BTreeMap<Key, Watch>,
    asks: Asks,
    reading: usize,
    ready: VecDeque<(Ask, Option<(Vec<u8>, Vec<Node>)>)>,
    /// Pieces that were asked for and then left out: they may come all the same.
    left_out: usize,
}

/// The other side asks about a blob.
#[derive(Default, Debug)]
struct Watch {
    /// How many pieces it was told of, and when.
    told: Option<(u32, Now)>,
    /// News are on their way.
    pending: bool,
}

fn as_want(theirs: u32, blob: &Blob) -> BlobWant {
    BlobWant { space: theirs, hash: blob.hash, size: blob.size, pieces: Vec::new(), end: false, patient: false }
}

impl Peer {
    pub(super) fn blob_input(&mut self, input: BlobInput) {
        match input {
            BlobInput::Fetch { space, blob, have } => self.fetch_blob(space, blob, have),
            BlobInput::Cancel { space, blob } => self.end_fetch((space, blob)),
            BlobInput::Has { space, blob, pieces } => self.blob_has((space, blob), pieces),
            BlobInput::Read { op, piece } => self.piece_read(op, piece),
            BlobInput::Stored { space, blob, piece } => self.piece_stored((space, blob), piece),
        }
    }

    fn blob_output(&mut self, output: BlobOutput) {
        self.outputs.push_back(Output::Blob(output));
    }

    // Fetching.

    fn fetch_blob(&mut self, space: SpaceId, blob: Blob, have: Pieces) {
        let key = (space, blob);
        if self.blobs.fetches.contains_key(&key) {
            return;
        }
        let room = self.spaces.contains_key(&space) && self.blobs.fetches.len() < FETCHES_MAX;
        let Some(fetch) = Fetch::new(blob, have.clone()).filter(|_| room) else {
            return self.blob_output(BlobOutput::Refused { space, blob });
        };
        if have.is_all() {
            return self.blob_output(BlobOutput::Finish { space, blob });
        }
        self.blobs.fetches.insert(key, fetch);
        if let Some(asked) = self.blobs.asked.get_mut(&key) {
            asked.fetched = true;
        }
        self.blob_has(key, Some(have));
        self.add_sources(key);
    }

    /// Asks those who share the space and are not asked yet, as long as there is room.
    fn add_sources(&mut self, key: Key) {
        for conn in self.connections.of_space(&key.0) {
            self.add_source(conn, key);
        }
    }

    fn add_source(&mut self, conn: ConnId, key: Key) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let (Some(device), Some(link)) = (connection.peer, connection.links.get(&key.0)) else { return };
        let theirs = link.theirs;
        let Some(fetch) = self.blobs.fetches.get_mut(&key) else { return };
        if fetch.add(conn, device, self.now) {
            connection.send(&Message::BlobWant(as_want(theirs, &key.1)));
        }
    }

    /// Both sides of a connection hold a space.
    pub(super) fn blobs_shared(&mut self, conn: ConnId, space: SpaceId) {
        let keys: Vec<Key> = self.blobs.fetches.keys().filter(|(of, _)| *of == space).copied().collect();
        keys.into_iter().for_each(|key| self.add_source(conn, key));
    }

    /// A connection is gone: what it owed is asked of others.
    pub(super) fn blobs_closed(&mut self, conn: ConnId) {
        let keys: Vec<Key> = self.blobs.fetches.keys().copied().collect();
        for key in keys {
            if let Some(fetch) = self.blobs.fetches.get_mut(&key) {
                fetch.gone(conn);
            }
            self.add_sources(key);
            self.blobs.hungry.insert(key);
        }
        let watched = self.blobs.conns.remove(&conn).map(|gone| gone.watches).unwrap_or_default();
        watched.into_keys().for_each(|key| self.blobs.unwatch(conn, key));
        self.blobs.news.retain(|(_, of, _)| *of != conn);
        self.blobs.serving.remove(&conn);
        self.blobs.holds.remove(&conn);
    }

    fn end_fetch(&mut self, key: Key) {
        let Some(mut fetch) = self.blobs.fetches.remove(&key) else { return };
        self.blobs.hungry.remove(&key);
        for conn in self.connections.of_space(&key.0) {
            if !fetch.is_source(conn) {
                continue;
            }
            let owed = fetch.gone(conn);
            self.blobs.conns.entry(conn).or_default().left_out += owed;
            self.say_about(conn, key, |want| BlobWant { end: true, ..want });
        }
    }

    fn say_about(&mut self, conn: ConnId, key: Key, what: impl FnOnce(BlobWant) -> BlobWant) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Some(theirs) = connection.links.get(&key.0).map(|link| link.theirs) else { return };
        connection.send(&Message::BlobWant(what(as_want(theirs, &key.1))));
    }

    /// These come from elsewhere.
    fn leave_out(&mut self, conn: ConnId, key: Key, pieces: Vec<u32>) {
        self.blobs.conns.entry(conn).or_default().left_out += pieces.len();
        self.say_about(conn, key, |want| BlobWant { pieces, end: true, ..want });
    }

    fn piece_stored(&mut self, key: Key, piece: u32) {
        let Some(fetch) = self.blobs.fetches.get_mut(&key) else { return };
        let done = fetch.stored(piece);
        let (bytes, sources) = (fetch.bytes(), fetch.sources());
        self.blobs.hungry.insert(key);
        let leaf = self.is_leaf();
        if let Some(has) = self.blobs.asked.get_mut(&key).and_then(|asked| asked.has.as_mut()).filter(|_| !leaf) {
            has.insert(piece);
            self.blobs.tell(key, self.now);
        }
        self.blob_output(BlobOutput::Progress { space: key.0, blob: key.1, bytes, sources });
        if done {
            self.end_fetch(key);
            self.blob_output(BlobOutput::Finish { space: key.0, blob: key.1 });
        }
    }

    pub(super) fn on_blob_has(&mut self, conn: ConnId, message: BlobHas) -> Result<(), Violation> {
        let Some(key) = self.blob_key(conn, message.space, Blob { hash: message.hash, size: message.size })? else {
            return Ok(());
        };
        // It may have come after what was fetched.
        let Some(fetch) = self.blobs.fetches.get_mut(&key) else { return Ok(()) };
        let of = fetch.have().of();
        let has = match message.pieces {
            None => Pieces::all(of),
            Some(bytes) => {
                Pieces::from_bytes(&bytes, of).ok_or(Violation::OutOfPlace("a set of pieces of another size"))?
            }
        };
        fetch.told(conn, has)?;
        self.blobs.hungry.insert(key);
        Ok(())
    }

    pub(super) fn on_blob_piece(&mut self, conn: ConnId, message: BlobPiece) -> Result<(), Violation> {
        let Some(key) = self.blob_key(conn, message.space, Blob { hash: message.hash, size: message.size })? else {
            return Ok(());
        };
        let piece = message.piece;
        let Some(fetch) = self.blobs.fetches.get_mut(&key).filter(|fetch| fetch.is_asked(conn, piece)) else {
            let left_out = self.blobs.conns.get_mut(&conn).map(|of| &mut of.left_out).filter(|count| **count > 0);
            let left_out = left_out.ok_or(Violation::OutOfPlace("a piece of a blob that was not asked for"))?;
            *left_out -= 1;
            return Ok(());
        };
        self.blobs.hungry.insert(key);
        let Some(bytes) = message.bytes.map(Vec::from) else {
            fetch.absent(conn, piece);
            self.note_failed(conn);
            return Ok(());
        };
        let (proof, rest) = message.proof.as_chunks::<32>();
        if !rest.is_empty() || proof.len() > PROOF_NODES_MAX || !Tree::verifies(&key.1, piece, &bytes, proof) {
            fetch.lied(conn);
            return Err(Violation::BadPiece);
        }
        let (wanted, others) = fetch.came(conn, piece, self.now);
        others.into_iter().for_each(|other| self.leave_out(other, key, vec![piece]));
        self.took |= wanted;
        if wanted {
            let (space, blob, proof) = (key.0, key.1, proof.to_vec());
            self.blob_output(BlobOutput::Store { space, blob, piece, bytes, proof });
        }
        Ok(())
    }

    /// Which blob a message is about. `None`: the two do not share the space (any more).
    fn blob_key(&self, conn: ConnId, handle: u32, blob: Blob) -> Result<Option<Key>, Violation> {
        let Some(connection) = self.connections.get(&conn) else { return Ok(None) };
        let space = connection.space_of(handle)?;
        Ok(connection.links.contains_key(&space).then_some((space, blob)))
    }

    // Serving.

    pub(super) fn on_blob_want(&mut self, conn: ConnId, message: BlobWant) -> Result<(), Violation> {
        let blob = Blob { hash: message.hash, size: message.size };
        let count = blob.pieces().ok_or(Violation::OutOfPlace("a blob that has no pieces"))?;
        let Some(key) = self.blob_key(conn, message.space, blob)? else { return Ok(()) };
        if message.pieces.iter().any(|piece| *piece >= count) {
            return Err(Violation::OutOfPlace("a piece that the blob does not have"));
        }
        let of = self.blobs.conns.entry(conn).or_default();
        match (message.end, message.pieces.is_empty()) {
            (true, whole) => {
                of.asks.drop(&key.0, &key.1, &message.pieces);
                let stays = |ask: &Ask| (ask.space, ask.blob) != key || !(whole || message.pieces.contains(&ask.piece));
                of.ready.retain(|(ask, _)| stays(ask));
                if whole && of.watches.remove(&key).is_some() {
                    self.blobs.unwatch(conn, key);
                }
            }
            (false, true) => self.watch_blob(conn, key)?,
            (false, false) => {
                if !of.watches.contains_key(&key) {
                    return Err(Violation::OutOfPlace("pieces of a blob that was not asked about"));
                }
                for piece in message.pieces {
                    let ask = Ask { space: key.0, blob, piece, patient: message.patient, at: self.now };
                    of.asks.push(ask)?;
                }
            }
        }
        self.blobs.serving.insert(conn);
        Ok(())
    }

    fn watch_blob(&mut self, conn: ConnId, key: Key) -> Result<(), Violation> {
        let of = self.blobs.conns.entry(conn).or_default();
        if of.watches.len() >= BLOBS_ASKED_MAX {
            return Err(Violation::ListTooLong);
        }
        if of.watches.insert(key, Watch::default()).is_some() {
            return Err(Violation::OutOfPlace("a blob was asked about twice"));
        }
        let leaf = self.is_leaf();
        let asked = self.blobs.asked.entry(key).or_default();
        let first = asked.conns.is_empty();
        asked.fetched |= self.blobs.fetches.contains_key(&key);
        asked.conns.insert(conn);
        if leaf {
            asked.has = key.1.pieces().map(Pieces::none);
        } else if let Some(fetch) = self.blobs.fetches.get(&key) {
            asked.has = Some(fetch.have().clone());
        } else if first {
            self.blob_output(BlobOutput::Find { space: key.0, blob: key.1 });
        }
        self.blobs.tell(key, self.now);
        Ok(())
    }

    fn blob_has(&mut self, key: Key, pieces: Option<Pieces>) {
        let pieces = pieces.filter(|_| !self.is_leaf());
        let Some(asked) = self.blobs.asked.get_mut(&key) else { return };
        asked.has = pieces.or_else(|| key.1.pieces().map(Pieces::none));
        self.blobs.tell(key, self.now);
    }

    fn piece_read(&mut self, op: OpId, piece: Option<(Vec<u8>, Vec<Node>)>) {
        let Some((conn, ask)) = self.blobs.reads.remove(&op) else { return };
        let Some(of) = self.blobs.conns.get_mut(&conn) else { return };
        of.reading = of.reading.saturating_sub(1);
        if of.watches.contains_key(&(ask.space, ask.blob)) {
            of.ready.push_back((ask, piece));
        }
        self.blobs.serving.insert(conn);
    }

    /// There may be room on a connection.
    pub(super) fn blobs_drained(&mut self, conn: ConnId) {
        if self.blobs.conns.contains_key(&conn) {
            self.blobs.serving.insert(conn);
        }
    }

    /// Sends what was read as long as there is room, and reads ahead.
    fn serve_blobs(&mut self, conn: ConnId) {
        self.blobs.holds.remove(&conn);
        let Some(of) = self.blobs.conns.get_mut(&conn) else { return };
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        while has_room(connection)
            && let Some((ask, piece)) = of.ready.pop_front()
        {
            let Some(theirs) = connection.links.get(&ask.space).map(|link| link.theirs) else { continue };
            let (bytes, proof) = piece.map_or((None, Vec::new()), |(bytes, proof)| (Some(bytes), proof));
            if !self.spending.may_serve(bytes.as_ref().map_or(0, Vec::len) + PIECE_OVERHEAD) {
                return;
            }
            let sent = connection.send_counted(&Message::BlobPiece(BlobPiece {
                space: theirs,
                hash: ask.blob.hash,
                size: ask.blob.size,
                piece: ask.piece,
                bytes: bytes.map(Into::into),
                proof: proof.concat().into(),
            }));
            self.spending.served(sent);
        }
        let mut chosen = Vec::new();
        while of.reading + of.ready.len() < READ_AHEAD {
            let spares = |key: &Key| self.blobs.asked.get(key).is_some_and(|asked| !asked.fetched);
            let Some(ask) = of.asks.next(conn, self.now, &self.blobs.sent, spares) else { break };
            of.reading += 1;
            self.blobs.sent.entry((ask.space, ask.blob)).or_default().note(ask.piece, conn);
            chosen.push(ask);
        }
        if of.reading == 0
            && of.ready.is_empty()
            && let Some(due) = of.asks.deadline(self.now)
        {
            self.blobs.holds.insert(conn, due);
        }
        for ask in chosen {
            let op = self.op();
            self.blobs.reads.insert(op, (conn, ask));
            self.blob_output(BlobOutput::Read { op, space: ask.space, blob: ask.blob, piece: ask.piece });
        }
    }

    // What happens in each step.

    pub(super) fn run_blobs(&mut self) {
        self.tell_news();
        let now = self.now;
        if now.0 >= self.blobs.looked.0 + LOOK_MS {
            self.blobs.looked = now;
            self.blobs.hungry.extend(self.blobs.fetches.keys().copied().collect::<Vec<_>>());
        }
        for key in core::mem::take(&mut self.blobs.hungry) {
            self.ask_for_pieces(key);
        }
        let due: Vec<ConnId> = self.blobs.holds.iter().filter(|(_, due)| **due <= now).map(|(conn, _)| *conn).collect();
        self.blobs.serving.extend(due);
        let mut serving: Vec<ConnId> = core::mem::take(&mut self.blobs.serving).into_iter().collect();
        // Who gave more than it got comes first.
        let peer = |conn: &ConnId| self.connections.get(conn).and_then(|c| c.peer);
        serving.sort_by_cached_key(|conn| core::cmp::Reverse(peer(conn).map(|peer| self.ledger.favour(&peer, now))));
        serving.into_iter().for_each(|conn| self.serve_blobs(conn));
    }

    fn ask_for_pieces(&mut self, key: Key) {
        let random = u64::from_le_bytes(self.random());
        let Some(mut fetch) = self.blobs.fetches.remove(&key) else { return };
        let others: Vec<&Fetch> = self.blobs.fetches.values().collect();
        let room = |conn| {
            let owed: usize = others.iter().map(|other| other.owed(conn)).sum();
            ASKED_PIECES_MAX.saturating_sub(owed + fetch.owed(conn))
        };
        let rooms: BTreeMap<ConnId, usize> = fetch.conns().map(|conn| (conn, room(conn))).collect();
        let company = self.blobs.asked.contains_key(&key);
        let orders = fetch.poll(self.now, |conn| rooms.get(&conn).copied().unwrap_or(0), company, random);
        self.blobs.fetches.insert(key, fetch);
        for order in orders {
            match order {
                Order::Ask { conn, pieces, patient } => {
                    self.say_about(conn, key, |want| BlobWant { pieces, patient, ..want });
                }
                Order::Drop { conn, pieces } => self.leave_out(conn, key, pieces),
            }
        }
    }

    fn tell_news(&mut self) {
        while let Some((at, conn, key)) = self.blobs.news.first().copied()
            && at <= self.now
        {
            self.blobs.news.pop_first();
            let Some(has) = self.blobs.asked.get(&key).and_then(|asked| asked.has.as_ref()) else { continue };
            let watch = self.blobs.conns.get_mut(&conn).and_then(|of| of.watches.get_mut(&key));
            let Some(watch) = watch else { continue };
            watch.pending = false;
            if watch.told.is_some_and(|(count, _)| count == has.count()) {
                continue;
            }
            watch.told = Some((has.count(), self.now));
            let pieces = if has.is_all() { None } else { Some(has.as_bytes().to_vec().into()) };
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            let Some(theirs) = connection.links.get(&key.0).map(|link| link.theirs) else { continue };
            let (hash, size) = (key.1.hash, key.1.size);
            connection.send(&Message::BlobHas(BlobHas { space: theirs, hash, size, pieces }));
        }
    }

    /// When [`Peer::run_blobs`] has something to do though nothing happened.
    pub(super) fn blobs_deadline(&self) -> Option<Now> {
        let news = self.blobs.news.first().map(|(at, ..)| *at);
        let holds = self.blobs.holds.values().min().copied();
        let waits = self.blobs.fetches.values().any(Fetch::is_owed);
        let look = waits.then_some(Now(self.blobs.looked.0 + LOOK_MS));
        news.into_iter().chain(holds).chain(look).min()
    }
}

impl Blobs {
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let quiet = self.conns.values().all(|of| of.watches.is_empty() && of.asks.is_empty() && of.ready.is_empty());
        quiet && self.fetches.is_empty() && self.asked.is_empty() && self.sent.is_empty() && self.news.is_empty()
    }

    /// Somebody asks about a blob no more.
    fn unwatch(&mut self, conn: ConnId, key: Key) {
        if let Some(asked) = self.asked.get_mut(&key) {
            asked.conns.remove(&conn);
            if asked.conns.is_empty() {
                self.asked.remove(&key);
                self.sent.remove(&key);
            }
        }
        self.news.retain(|(_, of, about)| (*of, *about) != (conn, key));
    }

    /// Who asks about a blob will be told what is had of it.
    fn tell(&mut self, key: Key, now: Now) {
        let Some(asked) = self.asked.get(&key) else { return };
        let Some(has) = &asked.has else { return };
        let pause = NEWS_MS + has.as_bytes().len() as u64 / 64;
        for conn in &asked.conns {
            let Some(watch) = self.conns.get_mut(conn).and_then(|of| of.watches.get_mut(&key)) else { continue };
            if !core::mem::replace(&mut watch.pending, true) {
                let at = watch.told.map_or(now, |(_, at)| now.max(Now(at.0 + pause)));
                self.news.insert((at, *conn, key));
            }
        }
    }
}

fn has_room(connection: &Connection) -> bool {
    connection.queued + connection.channel.queued_bytes() < BLOB_QUEUE_HIGH
}
