//! A peer is a value: things happen to it ([`Input`]), it wants things done ([`Output`]).
//!
//! Contract: call [`Peer::handle`], then [`Peer::poll_output`] until `None`, then sleep until [`Peer::poll_timeout`] or the
//! next input. In debug builds `handle` asserts that the outputs were drained. Outputs of one drain that store something
//! come as one [`Output::Store`]: one transaction. Store operations must be carried out in order.
//!
//! Durability: what this device made is sent only after [`Input::Stored`]; what others made is forwarded at once and
//! acknowledged only from [`Input::Stored`].

mod accounts;
mod blobs;
mod block;
mod connection;
mod connections;
mod erasing;
mod gossip;
mod greet;
mod interface;
mod local;
mod quota;
mod receipts;
mod receive;
mod records;
mod repair;
mod rights;
mod serve;
mod snapshots;
mod spending;
mod tracker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use self::blobs::Blobs;
pub use self::blobs::{BlobInput, BlobOutput};
pub use self::block::Blocked;
use self::connections::Connections;
pub use self::gossip::Traffic;
use self::gossip::{Came, Gossip};
pub use self::interface::{
    ConnId, ContentHead, Event, Input, Keep, Load, Loaded, Local, LocalError, Now, OpId, Output, PageRow, Reason,
    SnapshotContent, SnapshotFault, Start, StoreOp, Ticket,
};
use self::receipts::{Asker as ReceiptAsker, Receipts};
use self::receive::From;
use self::repair::SetCache;
use self::rights::{Asker, Burials, Gather, Recut};
use crate::chain::{Kind, Opening, Tip};
use crate::clock::Fingerprint;
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId, StoreId};
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::log::{Log, SnapshotOf, StoredSegment};
use crate::merkle::Frontier;
use crate::message::{Cursor, Since, roles};
use crate::peer_record::PeerRecord;
use crate::proof::ForkProof;
use crate::space::Space;
use crate::spending::{Spending, Spent};
use crate::usage::{Meter, Usage, UsageOf};
use crate::waiting::{Waiter, Waiting};

#[derive(Debug)]
enum Slot {
    /// The store has no such document.
    Absent,
    Held(Box<Held>),
}

#[derive(Debug)]
struct Held {
    log: Log,
    /// What stands for it in fingerprints now.
    digest: Option<[u8; 32]>,
    used: u64,
    /// The last store operation with a change of it.
    stored_by: OpId,
}

/// Time between two loads of one space's records for the sake of a second history, and after which a document's snapshot is loaded at once
/// for the sake of an entry that builds on its inside. Sooner it is loaded as often as costs little ([`snapshots`]).
const DEEPEN_EVERY_MS: u64 = 10_000;

/// Time after which it is looked again whether spaces that were not named can be.
const HELD_BACK_EVERY_MS: u64 = 500;

/// What of a space is on disk. This is what others are told: they take it for an acknowledgement.
#[derive(Clone, Copy, Debug, Default)]
struct Durable {
    seq: u64,
    fingerprint: Fingerprint,
}

impl Durable {
    fn of(space: &Space) -> Durable {
        Durable { seq: space.seq, fingerprint: space.fingerprint }
    }
}

#[derive(Debug)]
enum Purpose {
    Logs,
    Page { conn: ConnId },
    Raw { conn: ConnId },
    SnapshotFor { conn: ConnId, doc: DocId },
    Set,
    Deep { doc: DocId },
    Concerned { asker: Asker },
    Suspect { opening: Opening, from: From },
    Resay { opening: Opening },
}

/// What is told once a store operation is durable.
#[derive(Debug)]
enum After {
    Saved {
        ticket: Ticket,
        records: Vec<EntryId>,
        end: Option<(ChainId, u64)>,
    },
    Push {
        space: SpaceId,
        stored: StoredSegment,
    },
    /// A proof that was found by means of an own entry.
    PushProof {
        space: SpaceId,
        proof: Box<ForkProof>,
    },
    Ack {
        conn: ConnId,
        number: u64,
        prompt: bool,
    },
    Ask {
        conn: ConnId,
        since: Since,
    },
    Level {
        conn: ConnId,
        peer: DeviceId,
        space: SpaceId,
        whole: bool,
    },
    Check {
        conn: ConnId,
        space: SpaceId,
        answer: bool,
    },
    Receipt {
        asker: ReceiptAsker,
        space: SpaceId,
        doc: DocId,
        entries: Vec<EntryId>,
    },
}

/// A snapshot that the engine made: document, bytes, heads, chain ends by actor.
type Made = (SpaceId, DocId, Vec<u8>, Vec<EntryId>, Vec<(Vec<u8>, u64)>);

/// The reading of the entries inside a snapshot.
#[derive(Clone, Copy, Debug)]
struct Deepening {
    /// It was read a short while ago.
    again: bool,
    /// Since when it is being read.
    asked: Option<Now>,
    tries: u8,
}

/// A snapshot that the engine checks.
#[derive(Debug)]
struct Checking {
    conn: ConnId,
    number: u64,
    space: SpaceId,
    doc: DocId,
    chains: Vec<(Opening, Tip)>,
    bytes: Vec<u8>,
    /// It is not what came any more, but that and what was held.
    merged: bool,
}

/// A peer. See the module for the contract.
pub struct Peer {
    key: SigningKey,
    device: DeviceId,
    store: StoreId,
    salt: [u8; 8],
    lost: BTreeMap<(SpaceId, DocId), [u8; 8]>,
    rng: ChaCha20Rng,
    roles: u64,
    agent: String,
    addresses: Vec<String>,
    /// What this peer says of itself for others to pass on, if it can be dialled.
    own_record: Option<PeerRecord>,
    /// The only devices that connections are kept with, if not all.
    allowed: Option<BTreeSet<DeviceId>>,
    /// The driver is asked about each connection.
    asks: bool,
    unwanted: Blocked,
    limits: Limits,
    now: Now,
    spaces: BTreeMap<SpaceId, Space>,
    prefixes: BTreeMap<u16, BTreeSet<SpaceId>>,
    cursors: BTreeMap<(SpaceId, DeviceId), Cursor>,
    slots: BTreeMap<(SpaceId, DocId), Slot>,
    resident_bytes: usize,
    uses: u64,
    waiting: Waiting,
    /// Indexes of snapshots that are to be read, or are being read.
    deepening: BTreeMap<(SpaceId, DocId), Deepening>,
    /// Snapshots on their way to disk: what is read before they are there is not what the log says.
    covering: BTreeMap<(SpaceId, DocId), OpId>,
    /// Logs that something waits for while others are read: they stay in memory.
    awaited: BTreeSet<(SpaceId, DocId)>,
    /// When what is inside a snapshot, or the records of a space, was read last.
    deepened: BTreeMap<(SpaceId, DocId), Now>,
    /// From when on a snapshot may be read that was read a short while ago.
    deepen_again: Now,
    connections: Connections,
    gossip: Gossip,
    /// Spaces that are not named yet on a connection, and until when at the latest.
    held_back: BTreeMap<(ConnId, SpaceId), Now>,
    /// Connections on which a space was named and that are not level in it.
    catching: BTreeMap<SpaceId, BTreeSet<ConnId>>,
    /// Connections with messages to look at, and those whose first message waits for a load.
    busy: BTreeSet<ConnId>,
    blocked: BTreeSet<ConnId>,
    offering: BTreeSet<(ConnId, SpaceId)>,
    /// Segments whose blocker is gone.
    retries: VecDeque<Waiter>,
    local: VecDeque<(Ticket, SpaceId, Local)>,
    sets: BTreeMap<SpaceId, SetCache>,
    next_op: u64,
    loads: BTreeMap<OpId, (SpaceId, Purpose)>,
    loading: BTreeSet<(SpaceId, DocId)>,
    checking: BTreeMap<OpId, Checking>,
    batch: Vec<StoreOp>,
    changed: BTreeSet<(SpaceId, DocId)>,
    dirty_spaces: BTreeSet<SpaceId>,
    /// Checked snapshots and snapshots to send that wait until their log is read.
    rechecks: Vec<(OpId, Checking, Result<SnapshotContent, SnapshotFault>)>,
    snapshots_ready: Vec<(ConnId, SpaceId, DocId, Vec<u8>)>,
    made: Vec<Made>,
    /// Proofs that close a chain inside a snapshot, until its inside is read.
    proofs: BTreeMap<(SpaceId, DocId), Vec<(From, ForkProof)>>,
    /// When a closed chain was last closed earlier, by log.
    reclosed: BTreeMap<(SpaceId, DocId), Now>,
    /// Logs in which this device has chains to bring to an end.
    heals: BTreeSet<(SpaceId, DocId)>,
    /// Logs in which a proof speaks of a history of this device that is not held: wanted of everybody.
    forgotten: BTreeSet<(SpaceId, DocId)>,
    recuts: BTreeMap<SpaceId, Recut>,
    burials: BTreeMap<SpaceId, Burials>,
    /// Spaces with own records to be said again, once this operation and what it is about are on disk.
    resaying: BTreeMap<SpaceId, OpId>,
    /// Documents that somebody asked to erase, or that were deleted, to be looked at.
    erasing: BTreeSet<(SpaceId, DocId)>,
    /// Those of which this device can say nothing until it has a right.
    unsigned: BTreeSet<(SpaceId, DocId)>,
    gather: Option<Gather>,
    /// Records that entries of devices which may write wait for: headers of their documents, and rights that tips name.
    missing: BTreeSet<(SpaceId, EntryId)>,
    pushed: BTreeSet<(ConnId, SpaceId)>,
    sealing: BTreeSet<ConnId>,
    /// Cursors that ride with the next commit.
    late: Vec<(SpaceId, DeviceId, Cursor)>,
    receipts: Receipts,
    blobs: Blobs,
    spending: Spending,
    meter: Meter,
    /// Documents of which something did not fit into a quota, and until when they are not asked for again.
    beyond: BTreeMap<(SpaceId, DocId), Now>,
    ledger: Ledger,
    /// The message at hand brought something that is new.
    took: bool,
    /// What this peer last told others that it does: bits of [`roles`](crate::message::roles).
    roles_told: u64,
    after: Vec<After>,
    stores: BTreeMap<OpId, Vec<After>>,
    /// Highest sequence number of each space that is on its way to disk, by operation.
    storing: BTreeMap<OpId, Vec<(SpaceId, Durable)>>,
    durable: BTreeMap<SpaceId, Durable>,
    outputs: VecDeque<Output>,
    /// Highest store operation that is done; they are done in order.
    done: OpId,
    /// The same when logs were last dropped from memory.
    evicted: (OpId, u64),
    /// Counts what was read: after that, logs that were kept may no longer be needed.
    reads: u64,
    closing: bool,
    failed: bool,
}

impl Peer {
    /// A peer from what its store holds.
    pub fn new(start: Start) -> Peer {
        let spaces: BTreeMap<SpaceId, Space> =
            start.spaces.into_iter().map(|(id, row, rights)| (id, Space::load(id, row, rights))).collect();
        let roles = start.roles | if start.roles & roles::SAVER != 0 { roles::LEAF } else { 0 };
        let mut peer = Peer {
            device: DeviceId(start.key.verifying_key().to_bytes()),
            own_record: start.record,
            key: start.key,
            store: start.store,
            salt: start.salt,
            lost: BTreeMap::new(),
            rng: ChaCha20Rng::from_seed(start.seed),
            roles,
            agent: start.agent,
            addresses: start.addresses,
            allowed: None,
            asks: false,
            unwanted: Blocked::default(),
            limits: start.limits,
            now: Now(0),
            durable: spaces.iter().map(|(id, s)| (*id, Durable::of(s))).collect(),
            prefixes: BTreeMap::new(),
            spaces,
            cursors: start.cursors.into_iter().map(|(s, d, c)| ((s, d), c)).collect(),
            slots: BTreeMap::new(),
            resident_bytes: 0,
            uses: 0,
            waiting: Waiting::default(),
            deepening: BTreeMap::new(),
            covering: BTreeMap::new(),
            awaited: BTreeSet::new(),
            deepened: BTreeMap::new(),
            deepen_again: Now(0),
            connections: Connections::default(),
            gossip: Gossip::new(&start.seed),
            held_back: BTreeMap::new(),
            catching: BTreeMap::new(),
            busy: BTreeSet::new(),
            blocked: BTreeSet::new(),
            offering: BTreeSet::new(),
            retries: VecDeque::new(),
            local: VecDeque::new(),
            sets: BTreeMap::new(),
            next_op: 1,
            loads: BTreeMap::new(),
            loading: BTreeSet::new(),
            checking: BTreeMap::new(),
            batch: Vec::new(),
            changed: BTreeSet::new(),
            dirty_spaces: BTreeSet::new(),
            rechecks: Vec::new(),
            snapshots_ready: Vec::new(),
            made: Vec::new(),
            proofs: BTreeMap::new(),
            reclosed: BTreeMap::new(),
            heals: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            recuts: BTreeMap::new(),
            burials: BTreeMap::new(),
            resaying: BTreeMap::new(),
            erasing: BTreeSet::new(),
            unsigned: BTreeSet::new(),
            gather: None,
            missing: BTreeSet::new(),
            pushed: BTreeSet::new(),
            sealing: BTreeSet::new(),
            late: Vec::new(),
            receipts: Receipts::default(),
            blobs: Blobs::default(),
            spending: Spending::default(),
            meter: Meter::load(start.usage),
            beyond: BTreeMap::new(),
            ledger: Ledger::load(start.accounts),
            took: false,
            roles_told: roles,
            after: Vec::new(),
            stores: BTreeMap::new(),
            storing: BTreeMap::new(),
            outputs: VecDeque::new(),
            done: OpId(0),
            reads: 0,
            evicted: (OpId(0), 0),
            closing: false,
            failed: false,
        };
        let ids: Vec<SpaceId> = peer.spaces.keys().copied().collect();
        ids.iter().for_each(|id| peer.index_space(*id));
        peer.resume_recuts();
        let resay = peer.spaces.iter().filter(|(_, held)| !held.resay.is_empty());
        peer.resaying = resay.map(|(space, _)| (*space, OpId(0))).collect();
        ids.iter().for_each(|id| peer.asked_to_erase(*id, |_| true));
        ids.iter().for_each(|id| peer.find_owners(*id));
        peer
    }

    /// The device that this peer is.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// What live news cost so far.
    pub fn traffic(&self) -> Traffic {
        self.gossip.traffic
    }

    /// What it has spent of the network so far.
    pub fn spent(&self) -> Spent {
        self.spending.spent()
    }

    /// Whether all of it is spent: no connection is kept.
    pub fn is_spent(&self) -> bool {
        self.spending.is_over()
    }

    /// What it does at present: bits of [`roles`].
    pub fn roles(&self) -> u64 {
        self.roles_now()
    }

    /// The peers with which this one exchanges news of a space, and those attached to it.
    pub fn neighbours(&self, space: &SpaceId) -> Vec<DeviceId> {
        let overlay = self.gossip.overlay(space);
        overlay.into_iter().flat_map(|overlay| overlay.neighbours().chain(overlay.leaves())).copied().collect()
    }

    /// The id of its store.
    pub fn store_id(&self) -> StoreId {
        self.store
    }

    /// A space that is held.
    pub fn space(&self, space: &SpaceId) -> Option<&Space> {
        self.spaces.get(space)
    }

    /// The spaces that are held.
    pub fn spaces(&self) -> impl Iterator<Item = &Space> {
        self.spaces.values()
    }

    /// The opening of the chain under which this run writes in a log.
    pub fn own_opening(&self, space: &SpaceId, doc: &DocId) -> Opening {
        let salt = self.lost.get(&(*space, *doc)).copied().unwrap_or(self.salt);
        Opening { device: self.device, salt, kind: Kind::Own }
    }

    /// What each device has stored in each space.
    pub fn usage(&self) -> impl Iterator<Item = UsageOf> + '_ {
        self.meter.all()
    }

    /// What is stored in a space.
    pub fn usage_of(&self, space: &SpaceId) -> Usage {
        self.meter.of_space(space)
    }

    /// Bytes of segments that wait for their past or for authority.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.total_bytes()
    }

    /// Rough bytes of logs in memory.
    pub fn resident_bytes(&self) -> usize {
        self.resident_bytes
    }

    /// Says where this peer can be dialled, from the next hello on, and what others pass on of it.
    pub fn set_addresses(&mut self, addresses: Vec<String>, record: Option<PeerRecord>) {
        self.addresses = addresses;
        self.gossip.set_own(record.as_ref());
        self.own_record = record;
    }

    /// Says with which devices alone connections are kept, from the next handshake on; `None`: with all.
    pub fn set_allowed(&mut self, allowed: Option<BTreeSet<DeviceId>>) {
        self.allowed = allowed;
    }

    /// Says whether the driver is asked about each connection, once its other side has proven who it is ([`Event::Asked`]).
    pub fn set_asks(&mut self, asks: bool) {
        self.asks = asks;
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        debug_assert!(self.outputs.is_empty(), "outputs of the last input were not drained");
        self.now = self.now.max(now);
        match input {
            Input::Connected { conn, dialled, expected } => self.connected(conn, dialled, expected),
            Input::Frame { conn, bytes } => self.frame(conn, &bytes),
            Input::Drained { conn, pending } => self.drained(conn, pending),
            Input::Disconnected { conn } => self.disconnected(conn),
            Input::Stored { op } => self.stored(op),
            Input::StoreFailed { op } => self.store_failed(op),
            Input::Loaded { op, loaded } => self.loaded(op, loaded),
            Input::Join { space, genesis, filter } => self.join(space, genesis, filter),
            Input::Take { space, filter } => self.take(space, filter),
            Input::Met { space, record } => self.met(space, record),
            Input::DialFailed { device } => self.dial_failed(device),
            Input::Local { ticket, space, local } => self.local.push_back((ticket, space, local)),
            Input::SnapshotChecked { op, result } => self.snapshot_checked(op, result),
            Input::SnapshotsMerged { op, result } => self.snapshots_merged(op, result),
            Input::SnapshotMade { space, doc, bytes, heads, ends } => {
                self.snapshot_made(space, doc, bytes, heads, ends)
            }
            Input::Announce { conn, announce } => self.send_announce(conn, announce),
            Input::AnnounceAnswered { conn, answer } => self.answer_announce(conn, answer),
            Input::Blob(input) => self.blob_input(input),
            Input::AskReceipts { space, doc, entries } => self.ask_receipts(space, doc, entries),
            Input::Allow(allowance) => self.spending.allow(allowance),
            Input::Block(blocked) => self.block(blocked),
            Input::Quotas(quotas) => self.set_quotas(quotas),
            Input::Admit { conn } => self.admit(conn),
            Input::End { conn, code, text } => self.close(conn, code, text, false),
            Input::Close => {
                self.closing = true;
                self.connections.ids().into_iter().for_each(|conn| self.close(conn, "bye", "this peer closes", false));
            }
            Input::Tick => {}
        }
        self.run_local();
        self.run_retries();
        self.run_inboxes();
        self.run_retries();
        self.run_rechecks();
        self.run_recuts();
        self.run_burials();
        self.run_resays();
        self.run_erasures();
        self.run_heals();
        self.run_snapshots();
        self.run_made();
        self.run_offers();
        self.run_held_back();
        self.run_blobs();
        self.run_receipts();
        self.run_timers();
        self.run_gossip();
        self.flush();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Emit(event));
    }

    fn op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// What of a space is on disk.
    fn durable(&self, space: &SpaceId) -> Durable {
        self.durable.get(space).copied().unwrap_or_default()
    }

    fn load(&mut self, space: SpaceId, load: Load, purpose: Purpose) -> OpId {
        let op = self.op();
        self.loads.insert(op, (space, purpose));
        self.outputs.push_back(Output::Load { op, load });
        op
    }

    /// Asks for the logs that are not in memory. True if all of them are; otherwise those that are stay there, or two
    /// that do not both fit would be read by turns for ever.
    fn ensure(&mut self, space: SpaceId, docs: impl IntoIterator<Item = DocId>) -> bool {
        let docs: BTreeSet<DocId> = docs.into_iter().collect();
        if docs.iter().all(|doc| self.slots.contains_key(&(space, *doc))) {
            return true;
        }
        self.awaited.extend(docs.iter().map(|doc| (space, *doc)));
        let missing = docs.into_iter().filter(|doc| !self.slots.contains_key(&(space, *doc)));
        let missing: Vec<DocId> = missing.filter(|doc| self.loading.insert((space, *doc))).collect();
        if !missing.is_empty() {
            self.load(space, Load::Logs { space, docs: missing }, Purpose::Logs);
        }
        false
    }

    fn held(&mut self, space: SpaceId, doc: DocId) -> Option<&mut Held> {
        self.uses += 1;
        let uses = self.uses;
        match self.slots.get_mut(&(space, doc)) {
            Some(Slot::Held(held)) => {
                held.used = uses;
                Some(held)
            }
            _ => None,
        }
    }

    /// Changes a log, and its share of the fingerprint and of memory with it.
    fn change_log<T>(&mut self, space: SpaceId, doc: DocId, change: impl FnOnce(&mut Log) -> T) -> Option<T> {
        let held = self.held(space, doc)?;
        let (before, cost, was_shown) = (held.digest, held.log.memory_bytes(), held.log.is_shown());
        let result = change(&mut held.log);
        let (after, cost_after) = (held.log.digest(), held.log.memory_bytes());
        let (is_shown, is_deleted) = (held.log.is_shown(), held.log.is_deleted());
        held.digest = after;
        self.resident_bytes = (self.resident_bytes + cost_after).saturating_sub(cost);
        // What was refused, or held before, is no reason to write.
        if before != after {
            self.changed.insert((space, doc));
            self.dirty_spaces.insert(space);
            self.receipts.changed(space, doc);
            self.spaces.get_mut(&space)?.replace(&doc, before, after);
        }
        match (was_shown, is_shown) {
            (true, false) if is_deleted => self.emit(Event::Deleted { space, doc }),
            (true, false) => self.emit(Event::Withdrawn { space, doc }),
            (false, true) => self.emit_document(space, doc),
            _ => {}
        }
        Some(result)
    }

    /// Takes note of a snapshot. What is held may be the same as before, how it is held is not.
    fn cover_log(&mut self, space: SpaceId, doc: DocId, snapshot: SnapshotOf) {
        self.change_log(space, doc, |log| log.cover(snapshot));
        self.changed.insert((space, doc));
        self.dirty_spaces.insert(space);
    }

    fn put_slot(&mut self, space: SpaceId, doc: DocId, slot: Slot) {
        if let Slot::Held(held) = &slot {
            self.resident_bytes += held.log.memory_bytes();
        }
        if let Some(Slot::Held(old)) = self.slots.insert((space, doc), slot) {
            self.resident_bytes = self.resident_bytes.saturating_sub(old.log.memory_bytes());
        }
    }

    fn loaded(&mut self, op: OpId, loaded: Loaded) {
        let Some((space, purpose)) = self.loads.remove(&op) else { return };
        self.busy.append(&mut self.blocked);
        self.reads += 1;
        // Whoever still waits says so again.
        self.awaited.clear();
        match (purpose, loaded) {
            (Purpose::Logs, Loaded::Logs(logs)) => {
                for (doc, found) in logs {
                    self.loading.remove(&(space, doc));
                    if self.slots.contains_key(&(space, doc)) {
                        continue;
                    }
                    self.uses += 1;
                    let slot = match found {
                        None => Slot::Absent,
                        Some((image, segments)) => {
                            let (log, bad) = Log::load(space, doc, image, &segments);
                            if bad > 0 {
                                self.notice(
                                    None,
                                    Some(space),
                                    Some(doc),
                                    "store.damaged",
                                    "stored segments do not fit the document",
                                );
                            }
                            Slot::Held(Box::new(Held {
                                digest: log.digest(),
                                log,
                                used: self.uses,
                                stored_by: OpId(0),
                            }))
                        }
                    };
                    self.put_slot(space, doc, slot);
                    if self.is_to_refresh(&space) {
                        self.refresh(space, doc);
                    }
                    self.note_own_forks(space, doc);
                    self.note_buried(space, doc, |peer, space, doc| _ = peer.bury_in_time(space, doc));
                }
            }
            (Purpose::Page { conn }, Loaded::Page { rows, upto, end }) => {
                self.page_loaded(conn, space, rows, upto, end)
            }
            (Purpose::Raw { conn }, Loaded::Logs(logs)) => self.raw_loaded(conn, space, logs),
            (Purpose::SnapshotFor { conn, doc }, Loaded::Snapshot(bytes)) => {
                self.snapshot_loaded(conn, space, doc, bytes)
            }
            (Purpose::Set, Loaded::Digests(digests)) => self.set_loaded(space, digests),
            (Purpose::Deep { doc }, Loaded::Deep(entries)) => self.deep_loaded(space, doc, entries),
            (Purpose::Suspect { opening, from }, Loaded::Chain(segments)) => {
                self.suspect_loaded(space, &opening, from, &segments)
            }
            (Purpose::Resay { opening }, Loaded::Chain(segments)) => self.resay_loaded(space, &opening, segments),
            (Purpose::Concerned { asker }, Loaded::Concerned(found)) => self.concerned_loaded(space, asker, op, found),
            (purpose, loaded) => debug_assert!(false, "a load for {purpose:?} was answered with {loaded:?}"),
        }
    }

    fn notice(&mut self, peer: Option<DeviceId>, space: Option<SpaceId>, doc: Option<DocId>, code: &str, text: &str) {
        self.emit(Event::Notice { peer, space, doc, code: code.into(), text: text.into() });
    }

    /// Ends a drain: what changed becomes one store operation, pushes become messages, messages become frames.
    fn flush(&mut self) {
        self.flush_pushes();
        self.run_roles();
        self.flush_store();
        self.run_deepening();
        self.flush_frames();
        self.run_spending();
        self.evict();
    }

    fn flush_store(&mut self) {
        if self.failed {
            self.batch.clear();
            return;
        }
        let op = self.op();
        for (space, doc) in core::mem::take(&mut self.changed) {
            let Some(Slot::Held(held)) = self.slots.get_mut(&(space, doc)) else { continue };
            held.stored_by = op;
            let (digest, image) = (held.digest, held.log.image());
            self.batch.push(StoreOp::Document { space, doc, digest, image });
        }
        let mut held_then = Vec::new();
        for space in core::mem::take(&mut self.dirty_spaces) {
            if let Some(held) = self.spaces.get(&space) {
                self.batch.push(StoreOp::Space { space, row: held.row() });
                held_then.push((space, Durable::of(held)));
            }
        }
        for (space, device, usage) in self.meter.take_changed() {
            self.batch.push(StoreOp::Usage { space, device, usage });
        }
        if !self.batch.is_empty() || core::mem::take(&mut self.closing) {
            for (space, peer, cursor) in core::mem::take(&mut self.late) {
                self.batch.push(StoreOp::Cursor { space, peer, cursor });
            }
        }
        let after = core::mem::take(&mut self.after);
        if !self.batch.is_empty() {
            for change in &self.batch {
                if let StoreOp::Snapshot { space, doc, .. } = change {
                    self.covering.insert((*space, *doc), op);
                }
            }
            self.stores.insert(op, after);
            self.storing.insert(op, held_then);
            self.outputs.push_back(Output::Store { op, ops: core::mem::take(&mut self.batch) });
        } else if let Some((_, last)) = self.stores.iter_mut().next_back() {
            // Nothing new to store, but what it speaks of may be on its way.
            last.extend(after);
        } else {
            self.carry_out(after);
        }
    }

    fn stored(&mut self, op: OpId) {
        for (space, durable) in self.storing.remove(&op).unwrap_or_default() {
            self.durable.insert(space, durable);
            self.note_durable(space);
        }
        self.done = op;
        self.covering.retain(|_, by| *by > op);
        let after = self.stores.remove(&op).unwrap_or_default();
        self.carry_out(after);
    }

    fn carry_out(&mut self, after: Vec<After>) {
        for after in after {
            match after {
                After::Saved { ticket, records, end } => self.emit(Event::Saved { ticket, records, end }),
                After::Push { space, stored } => self.push(space, &stored, Came::Made),
                After::PushProof { space, proof } => self.push_proof(space, &proof, None),
                After::Ack { conn, number, prompt } => self.note_stored(conn, number, prompt),
                After::Ask { conn, since } => self.ask(conn, since),
                After::Check { conn, space, answer } => self.check(conn, space, answer),
                After::Receipt { asker, space, doc, entries } => self.give_receipt(asker, space, doc, entries),
                // By now the two may have parted.
                After::Level { conn, peer, space, whole } => {
                    if self.connections.get(&conn).is_some() {
                        self.emit(Event::Level { peer, space, whole });
                    }
                }
            }
        }
    }

    fn store_failed(&mut self, op: OpId) {
        self.failed = true;
        self.storing.clear();
        let mut pending = core::mem::take(&mut self.stores);
        pending.remove(&op).into_iter().chain(pending.into_values()).flatten().for_each(|after| {
            if let After::Saved { ticket, .. } = after {
                self.outputs.push_back(Output::Emit(Event::Failed { ticket, why: LocalError::StoreFailed }));
            }
        });
        for conn in self.connections.ids() {
            self.close(conn, "store-failed", "this peer's store has failed", false);
        }
    }

    /// Keeps the logs in memory within their bound; dropping one costs a read later.
    fn evict(&mut self) {
        let full = self.resident_bytes > self.limits.resident_bytes_max || self.slots.len() > 65_536;
        // Until something is stored or read there is nothing new to drop.
        if !full || self.evicted == (self.done, self.reads) {
            return;
        }
        self.evicted = (self.done, self.reads);
        let done = self.done;
        let mut by_use: Vec<(u64, (SpaceId, DocId))> = self
            .slots
            .iter()
            .filter(|(key, _)| !self.awaited.contains(key) && self.deepening.get(key).is_none_or(|d| d.asked.is_none()))
            .filter_map(|(key, slot)| match slot {
                Slot::Absent => Some((0, *key)),
                // What is on its way to disk is not read back before it is there.
                Slot::Held(held) => (held.stored_by <= done).then_some((held.used, *key)),
            })
            .collect();
        by_use.sort_unstable();
        for (_, key) in by_use {
            if self.resident_bytes <= self.limits.resident_bytes_max / 2 && self.slots.len() <= 32_768 {
                break;
            }
            if let Some(Slot::Held(held)) = self.slots.remove(&key) {
                self.resident_bytes = self.resident_bytes.saturating_sub(held.log.memory_bytes());
            }
        }
    }

    /// When [`Input::Tick`] is due next, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Now> {
        let waiting = self.waiting.deadline(&self.limits).map(Now);
        let held_back = (!self.held_back.is_empty()).then_some(Now(self.now.0 + HELD_BACK_EVERY_MS));
        // Those that are overdue wait for a log to be read.
        let burials = self.burials.values().map(|burials| burials.due).filter(|due| *due > self.now);
        self.connections
            .next_timer()
            .into_iter()
            .chain(waiting)
            .chain(self.deepening_due())
            .chain(burials)
            .chain(self.gossip.due())
            .chain(held_back)
            .chain(self.blobs_deadline())
            .min()
    }
}

/// The tree over a chain's ids.
fn frontier_of(ids: &[EntryId]) -> Frontier {
    let mut frontier = Frontier::default();
    ids.iter().for_each(|id| frontier.push(id));
    frontier
}

#[cfg(test)]
mod tests;
