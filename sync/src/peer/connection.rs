//! Connections: the channel, messages in order, acknowledgements and cursors.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::receipts::Waited;
use super::repair::Repair;
use super::spending::BURST_MS;
use super::tracker::Introductions;
use super::{ConnId, Event, Now, Output, Peer, Reason};
use crate::chain::{Opening, Segment};
use crate::clock::{Clock, Fingerprint};
use crate::id::{ChainId, DeviceId, DocId, SpaceId, StoreId};
use crate::ledger::Conduct;
use crate::limits::Limits;
use crate::log::StoredSegment;
use crate::message::{Ack, Bye, Cursor, GenesisOf, LIST_MAX, Message, SnapshotPart, SpaceHello, WireSegment};
use crate::peer_record::PeerRecord;
use crate::proof::ForkProof;
use crate::secure::Channel;
use crate::violation::Violation;

/// Delay before an acknowledgement or mark that nobody waits for, so that many become one message: as long as the quiet after which
/// peers compare, which says the same.
const ACK_DELAY_MS: u64 = 2_000;
/// Own entries whose acknowledgement is awaited, per connection; beyond it the status is learnt at the next reconnect.
const UNACKED_MAX: usize = 8_192;
/// Messages that wait for loads, per connection. The transport is not read meanwhile, so this is a backstop.
const INBOX_MAX: usize = 4_096;

/// Bytes that wait for the driver's word on whether a connection is kept: the names of some 30,000 spaces.
const ASKED_BYTES_MAX: usize = 4 << 20;

/// Code of a goodbye for lack of use.
pub(super) const RELEASED: &str = "released";

pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) dialled: bool,
    pub(super) opened: Now,
    pub(super) expected: Option<DeviceId>,
    pub(super) peer: Option<DeviceId>,
    pub(super) store: Option<StoreId>,
    /// Roles that the other side plays, and what it says of itself for others to pass on.
    pub(super) roles: u64,
    pub(super) record: Option<PeerRecord>,
    /// When the first frame came, and how long a round trip of the handshake took.
    heard: Option<Now>,
    pub(super) rtt_ms: Option<u32>,
    pub(super) hello_sent: bool,
    /// This side's spaces were named, so that one that comes later is named by itself.
    pub(super) named: bool,
    /// The driver was asked whether to keep it, and has not said.
    asked: bool,
    /// Spaces by this side's handles.
    pub(super) handles: Vec<SpaceId>,
    /// Spaces of the other side that this one does not know.
    pub(super) unmatched: Vec<SpaceHello>,
    /// Boxed: a map makes room for eleven at once, and most peers share one or two spaces.
    pub(super) links: BTreeMap<SpaceId, Box<Link>>,
    /// With the inflated bytes of each, and those on the wire.
    pub(super) inbox: VecDeque<(Message, usize, usize)>,
    /// Inflated bytes of the messages in it.
    inbox_bytes: usize,
    /// One of the two saves: what is new goes in bursts.
    pub(super) bursts: bool,
    /// When the next leaves, if there is something.
    pub(super) burst_at: Option<Now>,
    pub(super) held_bytes: usize,
    /// Bytes of content sent since that was counted.
    gave: usize,
    openings_out: BTreeMap<Opening, u32>,
    next_opening: u32,
    pub(super) openings_in: BTreeMap<u32, Opening>,
    /// Data messages received so far, those not stored yet, and those that will not be.
    pub(super) data_in: u64,
    pub(super) unstored: BTreeSet<u64>,
    /// What is known of the data message at the head of the inbox, if a part of it has been taken in.
    pub(super) begun: Option<Begun>,
    not_held: BTreeSet<u64>,
    acked_in: u64,
    ack_due: Option<Now>,
    /// Data messages sent so far, and this device's own chain ends in them.
    data_out: u64,
    unacked: VecDeque<(u64, Vec<(SpaceId, DocId, ChainId, u64)>)>,
    /// Bytes handed to the transport and not known to be sent.
    pub(super) queued: usize,
    /// A snapshot for it is being read.
    pub(super) reading_snapshot: bool,
    pub(super) bucket: Bucket,
    pub(super) introductions: Introductions,
    /// Versions for which a receipt was asked.
    pub(super) receipts: Waited,
}

/// A data message of which a part has been taken in; the rest needs the inside of a snapshot.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) number: u64,
    /// Something in it waits or is not held.
    pub(super) pending: bool,
    /// Documents in the part that was taken in.
    pub(super) docs: BTreeSet<DocId>,
}

/// Credit for unsolicited entries: one second's worth and the same again as a burst.
#[derive(Debug)]
pub(super) struct Bucket {
    entries: f64,
    bytes: f64,
    at: Now,
}

impl Bucket {
    fn new(now: Now, limits: &Limits) -> Bucket {
        Bucket {
            entries: 2.0 * f64::from(limits.unsolicited_entries_per_s),
            bytes: 2.0 * f64::from(limits.unsolicited_bytes_per_s),
            at: now,
        }
    }

    /// Whether so much may come in now.
    pub(super) fn take(&mut self, now: Now, entries: usize, bytes: usize, limits: &Limits) -> bool {
        let seconds = now.0.saturating_sub(self.at.0) as f64 / 1_000.0;
        let (per_entries, per_bytes) =
            (f64::from(limits.unsolicited_entries_per_s), f64::from(limits.unsolicited_bytes_per_s));
        self.entries = (self.entries + seconds * per_entries).min(2.0 * per_entries);
        self.bytes = (self.bytes + seconds * per_bytes).min(2.0 * per_bytes);
        self.at = now;
        let enough = self.entries >= entries as f64 && self.bytes >= bytes as f64;
        if enough {
            self.entries -= entries as f64;
            self.bytes -= bytes as f64;
        }
        enough
    }
}

/// A space that both sides of a connection hold.
#[derive(Debug)]
pub(super) struct Link {
    /// The other side's handle.
    pub(super) theirs: u32,
    pub(super) filter: Option<BTreeSet<DocId>>,
    /// This side takes only some documents.
    partial: bool,
    pub(super) serve: Serve,
    pub(super) ask: Ask,
    /// What this side has of the other's sequence, once it is all stored.
    pub(super) reached: Option<u64>,
    /// Bytes of bodies last asked for at once; 0 before the first time.
    pub(super) page_bytes: u64,
    pub(super) wanted: BTreeSet<DocId>,
    /// What the other side asked for, waiting and being read: the clock it has, and whether it wants no snapshot.
    pub(super) wants: VecDeque<(DocId, (Clock, bool))>,
    /// Ends of chains in them.
    pub(super) wants_pairs: usize,
    pub(super) answering: BTreeMap<DocId, (Clock, bool)>,
    /// Documents that are answered with a snapshot: read and sent one at a time.
    pub(super) snapshots: VecDeque<DocId>,
    /// Documents whose clock the other side is to be told.
    pub(super) offers: BTreeSet<DocId>,
    /// A page is being read.
    pub(super) reading: bool,
    /// Last durable number when it was asked for.
    pub(super) read_at: u64,
    /// The other side knows only the id, and waits for the genesis.
    pub(super) wants_genesis: bool,
    /// This side held nothing when it said hello.
    pub(super) fresh: bool,
    pub(super) whole: BTreeSet<ChainId>,
    /// Chains of this device of which all histories were asked for.
    pub(super) remembered: BTreeSet<ChainId>,
    /// When records were last asked for that lie behind a cut.
    pub(super) records_asked: Option<Now>,
    /// Documents asked for in a way that a snapshot may answer.
    pub(super) due: BTreeSet<DocId>,
    pub(super) snapshot: Option<Incoming>,
    pub(super) pushes: Vec<Arc<StoredSegment>>,
    pub(super) proofs: Vec<ForkProof>,
    pub(super) repair: Repair,
    /// The last document of which a segment was sent, and received ([`DocRef::Last`](crate::message::DocRef::Last)).
    last_out: Option<DocId>,
    pub(super) last_in: Option<DocId>,
    /// Sequence number of this store up to which the other side has been told (a mark).
    marked: u64,
    mark_due: bool,
    /// Sequence number of the last segment that was pushed, and whether others were not: then no mark is said before the two
    /// have compared.
    pub(super) told: u64,
    pub(super) gap: bool,
    /// Since when the overlay of the space has no use for it.
    pub(super) released: Option<Now>,
    /// When something that was asked for and is new came last.
    pub(super) progress: Option<Now>,
}

/// What this side sends of its sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Serve {
    /// A page is being read.
    Paging { after: u64, ride: u64, fresh: bool },
    /// The other side asks for the next page when it is ready.
    Paused { after: u64 },
    /// Everything so far has been sent; new entries are pushed.
    Live,
    /// The transport was full: entries after this number are sent once it has drained.
    Lagging { after: u64 },
}

/// What this side knows of the other's sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    /// Pages come.
    Paging,
    /// The stores have no common past: only a reconciliation tells.
    Stranger,
    /// All pages came; wanted documents may still be on their way.
    Fetching,
    /// This side holds everything that the other does.
    Level,
}

/// A snapshot that is arriving.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) first: SnapshotPart,
    /// Bytes that came.
    pub(super) len: u64,
    /// The same, unless it is not held here.
    pub(super) bytes: Option<Vec<u8>>,
}

impl Link {
    pub(super) fn new(theirs: u32, filter: Option<Vec<DocId>>, partial: bool) -> Link {
        Link {
            theirs,
            filter: filter.map(|docs| docs.into_iter().collect()),
            partial,
            serve: Serve::Paused { after: 0 },
            ask: Ask::Paging,
            reached: None,
            page_bytes: 0,
            wanted: BTreeSet::new(),
            wants: VecDeque::new(),
            wants_pairs: 0,
            answering: BTreeMap::new(),
            snapshots: VecDeque::new(),
            offers: BTreeSet::new(),
            reading: false,
            read_at: 0,
            wants_genesis: false,
            fresh: false,
            whole: BTreeSet::new(),
            remembered: BTreeSet::new(),
            records_asked: None,
            due: BTreeSet::new(),
            snapshot: None,
            pushes: Vec::new(),
            proofs: Vec::new(),
            repair: Repair::default(),
            last_out: None,
            last_in: None,
            marked: 0,
            mark_due: false,
            told: 0,
            gap: false,
            released: None,
            progress: None,
        }
    }

    /// There is no room to push what has this number: it is read from the store, with what follows, once there is. What is asked for
    /// again may have been read before.
    pub(super) fn lag(&mut self, seq: u64) {
        self.serve = Serve::Lagging { after: seq - 1 };
        self.read_at = self.read_at.min(seq - 1);
    }

    /// Whether the other side wants this document.
    pub(super) fn wants_doc(&self, space: &SpaceId, doc: &DocId) -> bool {
        *doc == space.authority() || self.filter.as_ref().is_none_or(|docs| docs.contains(doc))
    }

    /// What the other side creates it takes.
    pub(super) fn note_created(&mut self, docs: Vec<DocId>) {
        if let Some(filter) = &mut self.filter {
            let room = LIST_MAX.saturating_sub(filter.len());
            filter.extend(docs.into_iter().take(room));
        }
    }

    /// Whether both sides take everything, so that what they hold can be compared.
    pub(super) fn is_whole(&self) -> bool {
        self.filter.is_none() && !self.partial
    }
}

impl Connection {
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Now> {
        if self.peer.is_none() || self.store.is_none() {
            return Some(Now(self.opened.0 + limits.handshake_ms));
        }
        let repair = self.links.values().filter_map(|l| l.repair.due());
        repair.chain(self.ack_due).chain(self.burst_at).min()
    }

    pub(super) fn space_of(&self, handle: u32) -> Result<SpaceId, Violation> {
        self.handles.get(handle as usize).copied().ok_or(Violation::UnknownHandle)
    }

    pub(super) fn opening_ref(&mut self, opening: &Opening, limits: &Limits) -> crate::message::OpeningRef {
        use crate::message::OpeningRef;
        if let Some(handle) = self.openings_out.get(opening) {
            return OpeningRef::Known(*handle);
        }
        let handle = self.next_opening % limits.handles_per_connection as u32;
        self.next_opening += 1;
        if self.next_opening as usize > limits.handles_per_connection {
            self.openings_out.retain(|_, h| *h != handle);
        }
        self.openings_out.insert(opening.clone(), handle);
        OpeningRef::New(handle, opening.clone())
    }

    fn next_message(&mut self) -> Option<(Message, usize, usize)> {
        if self.asked {
            return None;
        }
        let (message, size, wire) = self.inbox.pop_front()?;
        self.inbox_bytes -= size;
        Some((message, size, wire))
    }

    /// Takes a genesis out of the inbox, past what came before it.
    pub(super) fn take_genesis(&mut self) -> Option<GenesisOf> {
        let at = self.inbox.iter().position(|(m, ..)| matches!(m, Message::GenesisOf(_)))?;
        let (message, size, _) = self.inbox.remove(at)?;
        self.inbox_bytes -= size;
        match message {
            Message::GenesisOf(genesis) => Some(genesis),
            _ => None,
        }
    }

    /// The dialler's second flight answers the first, the acceptor hears a third that answers its own.
    fn note_round_trip(&mut self, now: Now) {
        let since = match (self.dialled, self.heard) {
            (true, _) => self.opened,
            (false, Some(first)) => first,
            (false, None) => return self.heard = Some(now),
        };
        self.rtt_ms.get_or_insert(u32::try_from(now.0.saturating_sub(since.0)).unwrap_or(u32::MAX));
    }

    pub(super) fn send(&mut self, message: &Message) {
        self.send_counted(message);
    }

    /// The same, and gives the bytes that it takes.
    pub(super) fn send_counted(&mut self, message: &Message) -> usize {
        let bytes = message.to_bytes();
        self.gave += if message.is_content() { bytes.len() } else { 0 };
        self.channel.send(&bytes);
        bytes.len()
    }

    /// Counts a data message that is sent, and remembers whose ends in it are this device's own.
    pub(super) fn count_data(&mut self, own: Vec<(SpaceId, DocId, ChainId, u64)>) {
        self.data_out += 1;
        if !own.is_empty() && self.unacked.len() < UNACKED_MAX {
            self.unacked.push_back((self.data_out, own));
        }
    }
}

impl Peer {
    pub(super) fn connected(&mut self, conn: ConnId, dialled: bool, expected: Option<DeviceId>) {
        let seed = self.random();
        let channel = match dialled {
            true => Channel::dial(&self.key, expected, seed, &self.limits),
            false => Channel::accept(&self.key, seed, &self.limits),
        };
        let connection = Connection {
            channel,
            dialled,
            opened: self.now,
            expected,
            peer: None,
            store: None,
            roles: 0,
            record: None,
            heard: None,
            rtt_ms: None,
            hello_sent: false,
            named: false,
            asked: false,
            handles: Vec::new(),
            unmatched: Vec::new(),
            links: BTreeMap::new(),
            inbox: VecDeque::new(),
            gave: 0,
            bursts: false,
            burst_at: None,
            held_bytes: 0,
            inbox_bytes: 0,
            openings_out: BTreeMap::new(),
            next_opening: 0,
            openings_in: BTreeMap::new(),
            data_in: 0,
            unstored: BTreeSet::new(),
            begun: None,
            not_held: BTreeSet::new(),
            acked_in: 0,
            ack_due: None,
            data_out: 0,
            unacked: VecDeque::new(),
            queued: 0,
            reading_snapshot: false,
            bucket: Bucket::new(self.now, &self.limits),
            introductions: Introductions::default(),
            receipts: Waited::default(),
        };
        self.connections.insert(conn, connection);
    }

    pub(super) fn frame(&mut self, conn: ConnId, bytes: &[u8]) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if !self.spending.frame(bytes.len()) {
            return;
        }
        connection.note_round_trip(now);
        let mut messages = Vec::new();
        let result = connection.channel.receive(bytes, &self.limits);
        while let Some(message) = connection.channel.poll_message() {
            messages.push(message);
        }
        if let Err(error) = result {
            return self.close(conn, error.code(), &error.to_string(), true);
        }
        if let (None, Some(peer)) = (connection.peer, connection.channel.peer()) {
            connection.peer = Some(peer);
            if self.allowed.as_ref().is_some_and(|all| !all.contains(&peer)) {
                let text = "this peer keeps connections with devices that it knows only";
                return self.close(conn, "not-allowed", text, false);
            }
            if self.is_blocked(&peer) {
                return self.hang_up(conn);
            }
            if self.asks {
                let Some(connection) = self.connections.get_mut(&conn) else { return };
                connection.asked = true;
                self.emit(Event::Asked { conn, peer });
            }
        }
        self.greet(conn);
        let Some(connection) = self.connections.get(&conn) else { return };
        let asked = connection.asked;
        for bytes in messages {
            match Message::from_bytes(&bytes, &self.limits) {
                Ok(message) => {
                    let Some(connection) = self.connections.get_mut(&conn) else { return };
                    let size = Message::inflated_len(&bytes);
                    // A whole snapshot may come while its document is read.
                    let bytes_max = match asked {
                        true => ASKED_BYTES_MAX,
                        false => self.limits.snapshot_bytes_max + 2 * self.limits.in_flight_bytes_per_peer,
                    };
                    if connection.inbox.len() >= INBOX_MAX || connection.inbox_bytes + size > bytes_max {
                        return self.close(conn, "P.flood", "too many messages are waiting", true);
                    }
                    connection.inbox_bytes += size;
                    connection.inbox.push_back((message, size, bytes.len()));
                    self.busy.insert(conn);
                }
                Err(error) => return self.close(conn, "P.message", &error.to_string(), true),
            }
        }
    }

    /// Says hello if it is time to. The dialler's leaves with its last handshake flight, unless its driver is asked first; the acceptor's once it
    /// knows who asks.
    fn greet(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let knows = (connection.dialled && !self.asks) || connection.peer.is_some();
        let knows = knows && connection.channel.session_hash().is_some();
        if knows && !connection.hello_sent && !connection.asked {
            self.send_hello(conn);
        }
    }

    /// The driver keeps a connection that it was asked about ([`Event::Asked`]).
    pub(super) fn admit(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if core::mem::take(&mut connection.asked) {
            self.busy.insert(conn);
            self.greet(conn);
        }
    }

    /// Ends a connection from this side. The driver answers with [`super::Input::Disconnected`].
    pub(super) fn close(&mut self, conn: ConnId, code: &'static str, text: &str, violation: bool) {
        let Some(mut connection) = self.connections.remove(&conn) else { return };
        if connection.peer.is_some() {
            connection.send(&Message::Bye(Bye { code: code.into(), text: text.into() }));
        }
        while let Some(bytes) = connection.channel.poll_frame()
            && self.spending.frame(bytes.len())
        {
            self.outputs.push_back(Output::Send { conn, bytes });
        }
        let reason = Reason { code, text: text.into(), violation };
        self.outputs.push_back(Output::Disconnect { conn, reason });
        self.forget(conn, &connection);
        self.emit(Event::Closed { conn, peer: connection.peer, released: code == RELEASED });
    }

    pub(super) fn violated(&mut self, conn: ConnId, violation: &Violation) {
        if let Some(peer) = self.connections.get(&conn).and_then(|c| c.peer) {
            self.ledger.note(peer, Conduct::Wrong, self.now);
        }
        self.close(conn, violation.code(), &violation.to_string(), true);
    }

    pub(super) fn disconnected(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.remove(&conn) {
            self.forget(conn, &connection);
            self.emit(Event::Closed { conn, peer: connection.peer, released: false });
        }
    }

    /// What else there is to do when a connection is gone.
    fn forget(&mut self, conn: ConnId, connection: &Connection) {
        self.blobs_closed(conn);
        self.receipts.closed(conn);
        connection.handles.iter().for_each(|space| self.caught_up(conn, *space));
        if let Some(peer) = connection.peer {
            self.gossip_down(conn, peer, connection.links.keys().copied());
            self.tell_account(peer);
        }
    }

    pub(super) fn drained(&mut self, conn: ConnId, pending: usize) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.queued = pending;
            self.serve_on(conn);
            self.blobs_drained(conn);
        }
    }

    /// Processes messages in order until one has to wait for a load.
    pub(super) fn run_inboxes(&mut self) {
        for conn in core::mem::take(&mut self.busy) {
            while let Some((message, size, wire)) = self.connections.get_mut(&conn).and_then(Connection::next_message) {
                self.took = false;
                match self.message(conn, message) {
                    Ok(None) if self.took => self.note_content(conn, wire),
                    Ok(None) => {}
                    Ok(Some(later)) => {
                        if let Some(connection) = self.connections.get_mut(&conn) {
                            connection.inbox_bytes += size;
                            connection.inbox.push_front((later, size, wire));
                            self.blocked.insert(conn);
                        }
                        break;
                    }
                    Err(violation) => self.violated(conn, &violation),
                }
            }
        }
    }

    /// Handles one message, or gives it back if something must be loaded first.
    fn message(&mut self, conn: ConnId, message: Message) -> Result<Option<Message>, Violation> {
        let Some(connection) = self.connections.get(&conn) else { return Ok(None) };
        if connection.store.is_none() && !matches!(message, Message::Hello(_) | Message::Bye(_)) {
            return Err(Violation::OutOfPlace("a message before the hello"));
        }
        match message {
            Message::Hello(hello) => self.on_hello(conn, hello)?,
            Message::Spaces(spaces) => self.on_spaces(conn, spaces)?,
            Message::GenesisOf(genesis) => self.on_genesis(conn, genesis)?,
            Message::Since(since) => self.on_since(conn, &since)?,
            Message::Data(data) => return Ok(self.on_data(conn, data)?.map(Message::Data)),
            Message::Want(want) => self.on_want(conn, want)?,
            Message::SnapshotPart(part) => return Ok(self.on_snapshot_part(conn, part)?.map(Message::SnapshotPart)),
            Message::Ack(ack) => self.on_ack(conn, &ack)?,
            Message::Check(check) => self.on_check(conn, &check)?,
            Message::Gossip(gossip) => self.on_gossip(conn, gossip)?,
            Message::SymbolsWanted(wanted) => {
                return Ok(self.on_symbols_wanted(conn, wanted)?.map(Message::SymbolsWanted));
            }
            Message::Symbols(symbols) => return Ok(self.on_symbols(conn, symbols)?.map(Message::Symbols)),
            Message::Difference(difference) => {
                return Ok(self.on_difference(conn, difference)?.map(Message::Difference));
            }
            Message::Notice(notice) => {
                let space = notice.space.and_then(|handle| connection.space_of(handle).ok());
                self.notice(connection.peer, space, notice.doc, &notice.code, &notice.text);
                self.note_refusal(conn, &notice.code);
            }
            Message::Announce(announce) => self.on_announce(conn, announce)?,
            Message::Peers(peers) => self.on_peers(conn, peers)?,
            Message::Bye(bye) => {
                // In good order: nothing that anybody need be told.
                if bye.code != "bye" && bye.code != RELEASED {
                    self.notice(connection.peer, None, None, &bye.code, &bye.text);
                }
                let code = if bye.code == RELEASED { RELEASED } else { "bye" };
                self.close(conn, code, "the other side said goodbye", false);
            }
            Message::BlobWant(want) => self.on_blob_want(conn, want)?,
            Message::BlobHas(has) => self.on_blob_has(conn, has)?,
            Message::BlobPiece(piece) => self.on_blob_piece(conn, piece)?,
            Message::Received(received) => self.on_received(conn, received.receipt)?,
            Message::ReceiptWant(want) => self.on_receipt_want(conn, want)?,
            Message::Held(held) => self.on_held(conn, held.receipt)?,
            Message::Unknown(_) => {}
        }
        Ok(None)
    }

    fn on_ack(&mut self, conn: ConnId, ack: &Ack) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let Some(peer) = connection.peer else { return Ok(()) };
        if ack.marks.len() > LIST_MAX || ack.except.len() > LIST_MAX {
            return Err(Violation::ListTooLong);
        }
        let mut ends = BTreeMap::new();
        while connection.unacked.front().is_some_and(|(number, _)| *number <= ack.data) {
            let Some((number, of)) = connection.unacked.pop_front() else { break };
            if !ack.except.contains(&number) {
                ends.extend(of.into_iter().map(|(space, doc, chain, n)| ((space, doc, chain), n)));
            }
        }
        if !ack.except.is_empty() {
            // What they could not take yet they may lack the past of.
            connection.links.values_mut().for_each(|link| link.repair.touch(self.now));
        }
        let marks: Vec<(SpaceId, u64)> = ack
            .marks
            .iter()
            .map(|(handle, seq)| Ok((connection.space_of(*handle)?, *seq)))
            .collect::<Result<_, Violation>>()?;
        for ((space, doc, chain), n) in ends {
            self.emit(Event::Acked { peer, space, doc, chain, n });
        }
        for (space, seq) in marks {
            self.reach(conn, space, seq, false);
        }
        Ok(())
    }

    /// Notes that this side has been sent everything of the other's sequence up to `seq`. The cursor moves only when
    /// all of it is stored: nothing of it waits or is wanted.
    pub(super) fn reach(&mut self, conn: ConnId, space: SpaceId, seq: u64, proven: bool) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let (Some(peer), Some(store)) = (connection.peer, connection.store) else { return };
        let Some(link) = connection.links.get_mut(&space) else { return };
        if proven {
            link.ask = Ask::Level;
            link.gap = false;
            self.caught_up(conn, space);
        }
        let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space)) else { return };
        if link.ask != Ask::Level || !link.wanted.is_empty() {
            return;
        }
        if !proven && (link.snapshot.is_some() || self.waiting.holds_of(peer)) {
            return;
        }
        let cursor = Cursor { store, seq };
        let moved = self.cursors.get(&(space, peer)).is_none_or(|old| old.store != store || old.seq < seq);
        if moved {
            self.cursors.insert((space, peer), cursor);
            // Rides with the next commit: losing it costs a repetition, never data.
            self.late.push((space, peer, cursor));
        }
    }

    /// A received data message is stored (all of it that will be).
    pub(super) fn note_stored(&mut self, conn: ConnId, number: u64, prompt: bool) {
        let due = if prompt { self.now } else { Now(self.now.0 + ACK_DELAY_MS) };
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.unstored.remove(&number);
            connection.ack_due = Some(connection.ack_due.map_or(due, |d| d.min(due)));
        }
    }

    /// Something in a received data message waits or is not held: it will be acknowledged as such.
    pub(super) fn note_unstored(&mut self, conn: ConnId, number: u64) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            // More than an acknowledgement can name hold it up: what is not named counts as stored.
            if connection.not_held.len() < LIST_MAX {
                connection.unstored.remove(&number);
                connection.not_held.insert(number);
            }
        }
    }

    /// Asked-for data of these documents has come.
    pub(super) fn got(&mut self, conn: ConnId, space: SpaceId, docs: &BTreeSet<DocId>, asked: bool) {
        if let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space))
            && asked
        {
            docs.iter().for_each(|doc| {
                link.wanted.remove(doc);
            });
        }
    }

    /// This store has more on disk: the other sides are told how far they have been sent it.
    pub(super) fn note_durable(&mut self, space: SpaceId) {
        let now = self.now;
        let due = Now(now.0 + ACK_DELAY_MS);
        for conn in self.connections.of_space(&space) {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            if let Some(link) = connection.links.get_mut(&space) {
                link.mark_due = true;
                if connection.dialled {
                    link.repair.touch(now);
                }
                let waits = !link.wants.is_empty() || link.serve != Serve::Live;
                // Marks are no news for which a radio need wake.
                let late = if connection.bursts { BURST_MS } else { 0 };
                connection.ack_due.get_or_insert(Now(due.0 + late));
                if waits {
                    self.serve_on(conn);
                }
            }
        }
    }

    fn send_acks(&mut self, due: &[ConnId]) {
        let now = self.now;
        // A mark says that what lies before it was sent.
        self.flush_pushes();
        for conn in due {
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            if connection.ack_due.is_none_or(|due| due > now) {
                continue;
            }
            connection.ack_due = None;
            let upto = connection.unstored.first().map_or(connection.data_in, |first| first - 1);
            let mut marks = Vec::new();
            for (space, link) in &mut connection.links {
                let durable = self.durable.get(space).copied().unwrap_or_default().seq;
                let told = link.serve == Serve::Live && !link.gap && link.pushes.is_empty();
                if link.mark_due && told && durable > link.marked {
                    link.marked = durable;
                    marks.push((link.theirs, durable));
                }
                link.mark_due = false;
            }
            if upto > connection.acked_in || !marks.is_empty() {
                connection.acked_in = upto;
                let except = connection.not_held.iter().copied().filter(|n| *n <= upto).collect();
                connection.not_held = connection.not_held.split_off(&(upto + 1));
                let ack = Message::Ack(Ack { data: upto, marks, except });
                connection.send(&ack);
            }
        }
    }

    pub(super) fn run_timers(&mut self) {
        self.waiting.expire(self.now.0, &self.limits);
        if self.waiting.is_empty() {
            self.missing.clear();
        }
        // Timers set in this very drain may be due as well.
        self.set_timers();
        let due = self.connections.due(self.now);
        self.send_acks(&due);
        for conn in &due {
            let Some(connection) = self.connections.get(conn) else { continue };
            let stranger = connection.peer.is_none() || connection.store.is_none();
            if stranger && self.now.0 >= connection.opened.0 + self.limits.handshake_ms {
                self.close(*conn, "P.handshake", "the handshake took too long", false);
            }
        }
        self.run_bursts(&due);
        self.run_repairs(&due);
    }

    fn set_timers(&mut self) {
        for conn in self.connections.take_touched() {
            let at = self.connections.get(&conn).and_then(|c| c.deadline(&self.limits));
            self.connections.set_timer(conn, at);
            self.sealing.insert(conn);
        }
    }

    /// Seals what is queued.
    pub(super) fn flush_frames(&mut self) {
        self.set_timers();
        for conn in core::mem::take(&mut self.sealing) {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            while let Some(bytes) = connection.channel.poll_frame()
                && self.spending.frame(bytes.len())
            {
                connection.queued += bytes.len();
                self.outputs.push_back(Output::Send { conn, bytes });
            }
            let gave = core::mem::take(&mut connection.gave);
            if let (Some(peer), 1..) = (connection.peer, gave) {
                self.ledger.gave(peer, gave);
            }
        }
        self.connections.take_touched();
    }

    /// What the other side holds of this fingerprint's space, for comparing.
    pub(super) fn fingerprint(&self, space: &SpaceId) -> Fingerprint {
        self.spaces.get(space).map(|s| s.fingerprint).unwrap_or_default()
    }
}

/// How a segment travels on a connection.
pub(super) fn wire(
    connection: &mut Connection,
    limits: &Limits,
    space: &SpaceId,
    segment: &Segment,
    headers: &BTreeMap<DocId, u32>,
) -> WireSegment {
    use crate::message::DocRef;
    let last = connection.links.get_mut(space).map(|link| &mut link.last_out);
    let doc = if segment.doc == space.authority() {
        DocRef::Authority
    } else if last.is_some_and(|last| last.replace(segment.doc) == Some(segment.doc)) {
        DocRef::Last
    } else {
        headers.get(&segment.doc).map_or(DocRef::Id(segment.doc), |index| DocRef::Header(*index))
    };
    WireSegment {
        doc,
        opening: connection.opening_ref(&segment.opening, limits),
        first: segment.first,
        tip: segment.tip.clone(),
        entries: segment.entries.clone(),
    }
}
