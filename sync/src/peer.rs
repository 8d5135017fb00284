//! A peer is a value: things happen to it ([`Input`]), it wants things done ([`Output`]).
//!
//! Contract: call [`Peer::handle`], then [`Peer::poll_output`] until `None`, then sleep until [`Peer::poll_timeout`] or the
//! next input. In debug builds `handle` asserts that the outputs were drained. Outputs of one drain that store something
//! come as one [`Output::Store`]: one transaction. Store operations must be carried out in order.
//!
//! Durability: what this device made is sent only after [`Input::Stored`]; what others made is forwarded at once and
//! acknowledged only from [`Input::Stored`].

mod connection;
mod connections;
mod local;
mod receive;
mod records;
mod repair;
mod rights;
mod serve;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use self::connections::Connections;
use self::receive::From;
use self::repair::SetCache;
use self::rights::{Asker, Gather, Recut};
use crate::chain::{Kind, Opening, Tip};
use crate::clock::Fingerprint;
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId, StoreId};
use crate::limits::Limits;
use crate::log::{DeepEntry, Header, Image, Log, SnapshotOf, StoredSegment};
use crate::merkle::Frontier;
use crate::message::{Cursor, Since};
use crate::proof::ForkProof;
use crate::record::{Genesis, Record};
use crate::space::{RightRow, Space, SpaceRow};
use crate::waiting::{Waiter, Waiting};

/// A moment, in milliseconds since the driver's epoch. Never compared between peers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now(pub u64);

/// A connection, named by the driver. Never reused within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// A piece of work that the peer asked for, named by the peer's own counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub u64);

/// The caller's name for a local request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// What happens to a peer.
#[derive(Debug)]
pub enum Input {
    /// A transport connected. `expected` is the peer that was meant to be dialled.
    Connected {
        /// Its name.
        conn: ConnId,
        /// True if this side dialled.
        dialled: bool,
        /// Whom it must be.
        expected: Option<DeviceId>,
    },
    /// A frame arrived.
    Frame {
        /// Where.
        conn: ConnId,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// The transport has sent what it had queued down to so many bytes.
    Drained {
        /// Which.
        conn: ConnId,
        /// Bytes that still wait in the transport.
        pending: usize,
    },
    /// A transport ended. The answer to [`Output::Disconnect`] too.
    Disconnected {
        /// Which.
        conn: ConnId,
    },
    /// The operations of [`Output::Store`] are on disk.
    Stored {
        /// Which.
        op: OpId,
    },
    /// They are not, and nothing later will be: the store has failed. The peer is spent; make a new one from the store.
    StoreFailed {
        /// Which.
        op: OpId,
    },
    /// The answer to [`Output::Load`].
    Loaded {
        /// Which.
        op: OpId,
        /// What was found.
        loaded: Loaded,
    },
    /// A space to hold from now on.
    Join {
        /// Its id.
        space: SpaceId,
        /// Its genesis, if it is known.
        genesis: Option<Genesis>,
        /// The only documents taken, if not all; at most [`LIST_MAX`](crate::message::LIST_MAX). Means nothing for a space
        /// that is held already.
        filter: Option<Vec<DocId>>,
    },
    /// Take these documents of a space from now on, or all. What is held of others stays, and is no longer kept up to date.
    Take {
        /// Which space.
        space: SpaceId,
        /// As for [`Input::Join`].
        filter: Option<Vec<DocId>>,
    },
    /// Something that this device says. Answered by [`Event::Saved`] or [`Event::Failed`].
    Local {
        /// The caller's name for it.
        ticket: Ticket,
        /// In which space.
        space: SpaceId,
        /// What.
        local: Local,
    },
    /// The verdict on [`Event::CheckSnapshot`].
    SnapshotChecked {
        /// Which.
        op: OpId,
        /// What it holds, or why it is not taken.
        result: Result<SnapshotContent, SnapshotFault>,
    },
    /// The answer to [`Event::MergeSnapshots`].
    SnapshotsMerged {
        /// Which.
        op: OpId,
        /// The snapshot of both and what it holds, or why there is none.
        result: Result<(Vec<u8>, SnapshotContent), String>,
    },
    /// The engine made a snapshot of exactly what is held of a document. Dropped if something came in between.
    SnapshotMade {
        /// In which space.
        space: SpaceId,
        /// Of which document.
        doc: DocId,
        /// The snapshot.
        bytes: Vec<u8>,
        /// The Automerge heads.
        heads: Vec<EntryId>,
        /// How many changes of each actor it holds.
        ends: Vec<(Vec<u8>, u64)>,
    },
    /// The peer is about to be dropped: every other side is told goodbye, and what rides with the next commit is stored now.
    Close,
    /// Time passed.
    Tick,
}

/// Something that this device says.
#[derive(Debug)]
pub enum Local {
    /// Records for the authority log.
    Records(Vec<Record>),
    /// Takes back grants, members or invites, by the ids of their records.
    Revoke {
        /// Which; at most [`REVOKED_MAX`](crate::record::REVOKED_MAX).
        records: Vec<EntryId>,
        /// What stays of what the devices said and wrote that they let in.
        keep: Keep,
        /// Said by a root key, which takes members out of its identity, and not by this device.
        root: Option<Root>,
    },
    /// Records of a root key, in a chain of their own: nothing tells whether another device that holds the key says something
    /// at the same time.
    AsRoot {
        /// Which.
        root: Root,
        /// What it says.
        records: Vec<Record>,
    },
    /// The next entries of this device's chain, in order.
    Entries {
        /// In which document.
        doc: DocId,
        /// As given by [`Peer::own_opening`], or a foreign one.
        opening: Opening,
        /// Changes in wire form.
        entries: Vec<Vec<u8>>,
    },
}

/// A root key of an identity, and what makes it one.
#[derive(Clone, Debug)]
pub struct Root {
    /// The key.
    pub key: SigningKey,
    /// The record by which the identity was founded, or by which this key took the place of the one before.
    pub first: Record,
}

/// What a revocation leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// What this peer holds of it, as far as it counts.
    Held,
    /// Nothing, but for what others built upon.
    Nothing,
}

/// What a checked snapshot holds.
#[derive(Debug)]
pub struct SnapshotContent {
    /// Ids of each actor's changes, in order.
    pub chains: Vec<(Vec<u8>, Vec<EntryId>)>,
    /// The heads: id, actor, number, highest operation, and the past in other chains (actor, number).
    pub heads: Vec<ContentHead>,
}

/// Why a snapshot is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFault {
    /// No honest peer would send it.
    #[error("{0}")]
    Broken(String),
    /// More than this peer takes, or not possible now.
    #[error("{0}")]
    NotTaken(String),
}

/// A head of a checked snapshot.
#[derive(Debug)]
pub struct ContentHead {
    /// Its id.
    pub id: EntryId,
    /// Its actor.
    pub actor: Vec<u8>,
    /// Its number.
    pub n: u64,
    /// Highest operation up to it.
    pub max_op: u64,
    /// Its past in other chains.
    pub past: Vec<(Vec<u8>, u64)>,
}

/// What a peer wants done.
#[derive(Debug)]
pub enum Output {
    /// Send a frame. The transport must queue it.
    Send {
        /// Where.
        conn: ConnId,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// One transaction. Answer with [`Input::Stored`] or [`Input::StoreFailed`].
    Store {
        /// Its name.
        op: OpId,
        /// In order.
        ops: Vec<StoreOp>,
    },
    /// Read from the store (as of the last `Stored`, or later). Answer with [`Input::Loaded`].
    Load {
        /// Its name.
        op: OpId,
        /// What.
        load: Load,
    },
    /// Tell the application.
    Emit(Event),
    /// Send what is queued, then close.
    Disconnect {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: Reason,
    },
}

/// Why a connection was ended from this side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reason {
    /// Stable code (docs/protocol.md, "Violations").
    pub code: &'static str,
    /// For people.
    pub text: String,
    /// True if the other side broke a rule.
    pub violation: bool,
}

/// A change of the store.
#[derive(Clone, Debug)]
pub enum StoreOp {
    /// The row of a space.
    Space {
        /// Which.
        space: SpaceId,
        /// What.
        row: SpaceRow,
    },
    /// The row of a document, with what stands for it in fingerprints.
    Document {
        /// In which space.
        space: SpaceId,
        /// Which.
        doc: DocId,
        /// Its digest.
        digest: Option<[u8; 32]>,
        /// What.
        image: Image,
    },
    /// A segment, at its place in the sequence.
    Segment {
        /// In which space.
        space: SpaceId,
        /// The store that it came from; `None` if it was made here.
        source: Option<StoreId>,
        /// What.
        stored: StoredSegment,
    },
    /// The image of a log has new proofs of closed chains: it is put at this place in the sequence, and no longer at the
    /// one before.
    Proofs {
        /// In which space.
        space: SpaceId,
        /// Of which log.
        doc: DocId,
        /// The place.
        seq: u64,
        /// The place before; 0 if there was none.
        before: u64,
        /// The store that they came from; `None` if the fork was found here.
        source: Option<StoreId>,
    },
    /// A record about rights, kept apart so that it is at hand at start.
    Right {
        /// In which space.
        space: SpaceId,
        /// What, and where in the authority log.
        right: RightRow,
    },
    /// A snapshot that covers the named chain ends. Raw segments inside it may go, but for the most recent.
    Snapshot {
        /// In which space.
        space: SpaceId,
        /// Of which document.
        doc: DocId,
        /// The place in the sequence if it came from elsewhere; 0 if it was made from what is held.
        seq: u64,
        /// The store that it came from.
        source: Option<StoreId>,
        /// Chain and last number covered.
        ends: Vec<(ChainId, u64)>,
        /// The snapshot.
        bytes: Vec<u8>,
    },
    /// The bodies of a deleted document go.
    Drop {
        /// In which space.
        space: SpaceId,
        /// Which.
        doc: DocId,
    },
    /// How far this peer holds what another peer's store holds.
    Cursor {
        /// In which space.
        space: SpaceId,
        /// Whose store.
        peer: DeviceId,
        /// How far.
        cursor: Cursor,
    },
}

/// A question to the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Load {
    /// Logs: image and the segments that no snapshot covers, by sequence. Answer: [`Loaded::Logs`].
    Logs {
        /// In which space.
        space: SpaceId,
        /// Which.
        docs: Vec<DocId>,
    },
    /// The same with all raw segments, for serving. Answer: [`Loaded::Logs`].
    Raw {
        /// In which space.
        space: SpaceId,
        /// Which.
        docs: Vec<DocId>,
    },
    /// Rows of the sequence after a number. Answer: [`Loaded::Page`].
    Page {
        /// In which space.
        space: SpaceId,
        /// From the next.
        after: u64,
        /// Bytes of bodies at most (at least one row comes).
        bytes: usize,
        /// Rows at most.
        rows: usize,
        /// Rows that came from this store are left out.
        skip: Option<StoreId>,
        /// Put the bytes of snapshots in.
        snapshots: bool,
    },
    /// What stands for each log of a space in fingerprints. Answer: [`Loaded::Digests`].
    Digests {
        /// In which space.
        space: SpaceId,
    },
    /// The bytes of a snapshot. Answer: [`Loaded::Snapshot`].
    Snapshot {
        /// In which space.
        space: SpaceId,
        /// Of which document.
        doc: DocId,
    },
    /// The entries inside a snapshot. Answer: [`Loaded::Deep`].
    Deep {
        /// In which space.
        space: SpaceId,
        /// Of which document.
        doc: DocId,
    },
    /// Documents that concern one of these devices ([`Image::concerns`]), in the order of ids. Answer: [`Loaded::Concerned`].
    Concerned {
        /// In which space.
        space: SpaceId,
        /// Which devices.
        devices: BTreeSet<DeviceId>,
        /// From the next after this one.
        after: Option<DocId>,
        /// Documents at most.
        max: usize,
    },
    /// A chain of the authority log: its segments, of all branches, that reach up to a number or further. Answer:
    /// [`Loaded::Chain`].
    Chain {
        /// In which space.
        space: SpaceId,
        /// Which chain.
        opening: Opening,
        /// From which number.
        from: u64,
    },
}

/// What the store holds.
#[derive(Debug)]
pub enum Loaded {
    /// Segments of a chain, by sequence.
    Chain(Vec<StoredSegment>),
    /// Documents with what is stored of them. Fewer than were asked for: there are no more.
    Concerned(Vec<(DocId, Image)>),
    /// For each document asked for, what is held, or `None`.
    Logs(Vec<(DocId, Option<(Image, Vec<StoredSegment>)>)>),
    /// Rows in order, and the number up to which they are complete.
    Page {
        /// The rows.
        rows: Vec<PageRow>,
        /// Last number looked at.
        upto: u64,
        /// True if there is nothing after it.
        end: bool,
    },
    /// (log, digest), the authority log left out.
    Digests(Vec<(DocId, [u8; 32])>),
    /// The snapshot, if there is one.
    Snapshot(Option<Vec<u8>>),
    /// Entries in causal order; empty if it could not be loaded.
    Deep(Vec<DeepEntry>),
}

/// One row of a store's sequence.
#[derive(Debug)]
pub enum PageRow {
    /// A segment.
    Segment(StoredSegment),
    /// Chains of a log are closed.
    Proofs {
        /// Which log.
        doc: DocId,
        /// Its image, with the proofs.
        image: Box<Image>,
    },
    /// A snapshot stands for everything of the document up to here.
    Snapshot {
        /// Which document.
        doc: DocId,
        /// Its image.
        image: Box<Image>,
        /// The snapshot, if it was asked for and fits.
        bytes: Option<Vec<u8>>,
    },
}

/// What a peer tells the application.
#[derive(Debug)]
pub enum Event {
    /// A peer is connected and known.
    Opened {
        /// Connection.
        conn: ConnId,
        /// Who.
        peer: DeviceId,
        /// What program it says it is.
        agent: String,
        /// Where it says it can be dialled.
        addresses: Vec<String>,
    },
    /// A connection is gone.
    Closed {
        /// Connection.
        conn: ConnId,
        /// Who, if it was known.
        peer: Option<DeviceId>,
    },
    /// The genesis of a space became known.
    Space {
        /// Which.
        space: SpaceId,
    },
    /// A document became known.
    Document {
        /// In which space.
        space: SpaceId,
        /// Which.
        doc: DocId,
        /// What its header says.
        header: Header,
    },
    /// A document is not there any more: its creator turned out to have had no right to create it, and nobody else's entries
    /// are in it. It is told of again ([`Event::Document`]) should that change.
    Withdrawn {
        /// In which space.
        space: SpaceId,
        /// Which.
        doc: DocId,
    },
    /// A document is deleted.
    Deleted {
        /// In which space.
        space: SpaceId,
        /// Which.
        doc: DocId,
    },
    /// Entries to be shown were admitted, in causal order of segments.
    Entries {
        /// In which space.
        space: SpaceId,
        /// In which document.
        doc: DocId,
        /// In which chain.
        chain: ChainId,
        /// Number of the last.
        n: u64,
        /// (id, bytes).
        entries: Vec<(EntryId, Vec<u8>)>,
        /// Who delivered them; `None` for this device's own.
        from: Option<DeviceId>,
    },
    /// A local request is on disk.
    Saved {
        /// Which.
        ticket: Ticket,
        /// For records: ids in order (of a header, the document's).
        records: Vec<EntryId>,
        /// For entries: the chain and its last number.
        end: Option<(ChainId, u64)>,
    },
    /// A local request came to nothing.
    Failed {
        /// Which.
        ticket: Ticket,
        /// Why.
        why: LocalError,
    },
    /// A peer holds this device's chain durably up to a number.
    Acked {
        /// Who.
        peer: DeviceId,
        /// In which space.
        space: SpaceId,
        /// In which log.
        doc: DocId,
        /// Which chain.
        chain: ChainId,
        /// Up to where.
        n: u64,
    },
    /// A connected peer holds a space that this one holds.
    Shared {
        /// Who.
        peer: DeviceId,
        /// Which space.
        space: SpaceId,
    },
    /// This peer and another hold the same of a space, and what is held here is durable.
    Level {
        /// Who.
        peer: DeviceId,
        /// Which space.
        space: SpaceId,
        /// True if the two were compared. False if one takes only a part: then this peer has what it takes of what the other
        /// holds, and what the other has is known from acknowledgements alone.
        whole: bool,
    },
    /// A device signed two histories of one chain.
    Forked {
        /// In which space.
        space: SpaceId,
        /// In which document.
        doc: DocId,
        /// Which chain.
        chain: ChainId,
        /// Whose.
        device: DeviceId,
    },
    /// Somebody else shows a chain of this device beyond what it made: it must not be continued.
    ChainLost {
        /// In which space.
        space: SpaceId,
        /// In which document.
        doc: DocId,
    },
    /// Load this snapshot, check it, and answer with [`Input::SnapshotChecked`].
    CheckSnapshot {
        /// Its name.
        op: OpId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Make one snapshot of this one, which was checked, and the one that the store holds of the document: each covers
    /// what the other does not. Answer with [`Input::SnapshotsMerged`].
    MergeSnapshots {
        /// Its name.
        op: OpId,
        /// In which space.
        space: SpaceId,
        /// Of which document.
        doc: DocId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// What is to be shown of a document changed otherwise than by more entries: a proof or a right hides some, or somebody
    /// was found to have built upon hidden ones. The store says what ([`Image::counted`]).
    Reshown {
        /// In which space.
        space: SpaceId,
        /// Of which document.
        doc: DocId,
    },
    /// A received snapshot is part of the document now: a view must be built anew.
    Snapshot {
        /// In which space.
        space: SpaceId,
        /// Of which document.
        doc: DocId,
    },
    /// Something was refused or not held, here or by a peer.
    Notice {
        /// Who delivered it or said so.
        peer: Option<DeviceId>,
        /// In which space.
        space: Option<SpaceId>,
        /// In which document.
        doc: Option<DocId>,
        /// Stable code.
        code: String,
        /// For people.
        text: String,
    },
    /// A document has so much after its last snapshot that a new one would pay: (bytes, entries).
    Loose {
        /// In which space.
        space: SpaceId,
        /// Which.
        doc: DocId,
    },
}

/// Why a local request came to nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LocalError {
    /// The space is not held here.
    #[error("this peer does not hold the space; join it first")]
    UnknownSpace,
    /// The genesis has not arrived.
    #[error("the space is not known yet: no peer that holds it has been reached")]
    SpaceNotReady,
    /// There is no such document here.
    #[error("this peer does not hold the document")]
    UnknownDocument,
    /// The document is deleted.
    #[error("the document is deleted")]
    Deleted,
    /// This peer takes only some documents of the space, and not this one.
    #[error("this peer does not take the document; take it first")]
    NotTaken,
    /// A peer that takes only some documents takes at most [`LIST_MAX`](crate::message::LIST_MAX).
    #[error("this peer takes as many single documents as it can; take the whole space")]
    TakesTooMany,
    /// This device may not do that.
    #[error("this device has no right to {0} in the space; ask an administrator for a grant")]
    NotAllowed(&'static str),
    /// The entries do not continue this device's chain.
    #[error("the entries do not continue this device's chain: {0}")]
    DoesNotFit(String),
    /// The store has failed.
    #[error("the store has failed; nothing more is saved until it is opened again")]
    StoreFailed,
}

/// What a peer starts from.
#[derive(Debug)]
pub struct Start {
    /// The device's secret.
    pub key: SigningKey,
    /// The store's id.
    pub store: StoreId,
    /// Salt of this run's chains: random, or the last run's if chains may be continued.
    pub salt: [u8; 8],
    /// Randomness.
    pub seed: [u8; 32],
    /// Bits of [`crate::message::roles`].
    pub roles: u64,
    /// Name and version of the program.
    pub agent: String,
    /// Where this peer can be dialled.
    pub addresses: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// The spaces held, with their rights records.
    pub spaces: Vec<(SpaceId, SpaceRow, Vec<RightRow>)>,
    /// Cursors over other peers' stores.
    pub cursors: Vec<(SpaceId, DeviceId, Cursor)>,
}

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

/// Time between two loads of one document's snapshot for the sake of an entry that builds on its inside, or of one space's
/// records for the sake of a second history.
const DEEPEN_EVERY_MS: u64 = 10_000;

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
}

/// A snapshot that the engine made: document, bytes, heads, chain ends by actor.
type Made = (SpaceId, DocId, Vec<u8>, Vec<EntryId>, Vec<(Vec<u8>, u64)>);

/// The reading of the entries inside a snapshot.
#[derive(Clone, Copy, Debug)]
struct Deepening {
    /// Not before this moment.
    at: Now,
    asked: bool,
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
    deepened: BTreeMap<(SpaceId, DocId), Now>,
    connections: Connections,
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
    /// Spaces with own records to be said again, once this operation and what it is about are on disk.
    resaying: BTreeMap<SpaceId, OpId>,
    gather: Option<Gather>,
    /// Documents with entries that wait for their header, and whose devices may write.
    headers: BTreeSet<(SpaceId, DocId)>,
    pushed: BTreeSet<(ConnId, SpaceId)>,
    sealing: BTreeSet<ConnId>,
    /// Cursors that ride with the next commit.
    late: Vec<(SpaceId, DeviceId, Cursor)>,
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
        let mut peer = Peer {
            device: DeviceId(start.key.verifying_key().to_bytes()),
            key: start.key,
            store: start.store,
            salt: start.salt,
            lost: BTreeMap::new(),
            rng: ChaCha20Rng::from_seed(start.seed),
            roles: start.roles,
            agent: start.agent,
            addresses: start.addresses,
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
            connections: Connections::default(),
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
            resaying: BTreeMap::new(),
            gather: None,
            headers: BTreeSet::new(),
            pushed: BTreeSet::new(),
            sealing: BTreeSet::new(),
            late: Vec::new(),
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
        peer
    }

    /// The device that this peer is.
    pub fn device(&self) -> DeviceId {
        self.device
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

    /// Bytes of segments that wait for their past or for authority.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.total_bytes()
    }

    /// Rough bytes of logs in memory.
    pub fn resident_bytes(&self) -> usize {
        self.resident_bytes
    }

    /// Says where this peer can be dialled, from the next hello on.
    pub fn set_addresses(&mut self, addresses: Vec<String>) {
        self.addresses = addresses;
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
            Input::Local { ticket, space, local } => self.local.push_back((ticket, space, local)),
            Input::SnapshotChecked { op, result } => self.snapshot_checked(op, result),
            Input::SnapshotsMerged { op, result } => self.snapshots_merged(op, result),
            Input::SnapshotMade { space, doc, bytes, heads, ends } => {
                self.snapshot_made(space, doc, bytes, heads, ends)
            }
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
        self.run_resays();
        self.run_heals();
        self.run_snapshots();
        self.run_made();
        self.run_offers();
        self.run_timers();
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
        self.flush_store();
        self.run_deepening();
        self.flush_frames();
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
                After::Push { space, stored } => self.push(space, &stored, None),
                After::PushProof { space, proof } => self.push_proof(space, &proof, None),
                After::Ack { conn, number, prompt } => self.note_stored(conn, number, prompt),
                After::Ask { conn, since } => self.ask(conn, since),
                After::Check { conn, space, answer } => self.check(conn, space, answer),
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
            .filter(|(key, _)| !self.awaited.contains(key) && self.deepening.get(key).is_none_or(|d| !d.asked))
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
        self.connections.next_timer().into_iter().chain(waiting).chain(self.deepening_due()).min()
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
