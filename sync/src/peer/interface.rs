//! What a peer is told and what it wants done: the types between it and its driver.

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;

use super::blobs::{BlobInput, BlobOutput};
use super::block::Blocked;
use crate::authority::RootKeys;
use crate::chain::Opening;
use crate::id::{ChainId, DeviceId, DocId, EntryId, SpaceId, StoreId};
use crate::ledger::Account;
use crate::limits::Limits;
use crate::log::{DeepEntry, Header, Image, StoredSegment};
use crate::message::{Announce, Cursor, Peers};
use crate::peer_record::PeerRecord;
use crate::record::{Genesis, Record};
use crate::space::{RightRow, SpaceRow};
use crate::spending::Allowance;
use crate::storage_receipt::StorageReceipt;
use crate::tracker::TrackerRefusal;
use crate::usage::{Quotas, Usage};

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
    /// A peer that shares a space, as an invite, a tracker, the network around or the address book says. What it is worth, the
    /// overlay of the space decides.
    Met {
        /// Which space.
        space: SpaceId,
        /// What the peer says of itself; not checked yet.
        record: PeerRecord,
    },
    /// What [`Output::Dial`] asked for came to nothing.
    DialFailed {
        /// Who was to answer.
        device: DeviceId,
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
    /// Announce to a peer that plays the role of a tracker. Answered by [`Event::Introduced`], or by a notice whose code begins
    /// with `tracker-`.
    Announce {
        /// Where.
        conn: ConnId,
        /// What; the record is this device's own.
        announce: Announce,
    },
    /// The answer to [`Event::Announced`].
    AnnounceAnswered {
        /// Where.
        conn: ConnId,
        /// What [`Tracker::announce`](crate::tracker::Tracker::announce) said.
        answer: Result<Peers, TrackerRefusal>,
    },
    /// Something about blobs.
    Blob(BlobInput),
    /// What may be spent of the network from here on. Whether this peer serves others follows from it: where that changes,
    /// connections begin anew, so that the other sides learn of it.
    Allow(Allowance),
    /// Ask for receipts for a version of a document ([`Event::Held`]): this peer itself, and those connected that take the document, each
    /// once. Nothing comes of more than [`RECEIPT_ENTRIES_MAX`](crate::storage_receipt::RECEIPT_ENTRIES_MAX) entries, or of none.
    AskReceipts {
        /// In which space.
        space: SpaceId,
        /// Which document.
        doc: DocId,
        /// The heads of the version.
        entries: Vec<EntryId>,
    },
    /// How much may be stored from here on. What is held stays, however much it is; what is refused is not acknowledged, and its
    /// deliverer is told `quota`.
    Quotas(Quotas),
    /// What this peer has nothing to do with from here on. Connections to whom it concerns end with the code `blocked`; those on
    /// which a space was named that is blocked now begin anew, without it.
    Block(Blocked),
    /// The answer to [`Event::Asked`], if the connection is kept; [`Input::End`] if it is not.
    Admit {
        /// Which.
        conn: ConnId,
    },
    /// The driver wants a connection no longer, for a reason of its own, which the other side is told.
    End {
        /// Which.
        conn: ConnId,
        /// Stable code.
        code: &'static str,
        /// For people.
        text: &'static str,
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
        root: Option<RootKeys>,
    },
    /// Records of the newest of these root keys, in a chain of their own: nothing tells whether another device that holds the
    /// key says something at the same time. Rotations to keys that are not known in the space are said first, and leave what
    /// this peer holds of what the older keys said.
    AsRoot {
        /// Root keys of an identity.
        root: RootKeys,
        /// What the newest says; nothing, if only rotations are to be told.
        records: Vec<Record>,
    },
    /// The next entries of this device's chain, in order.
    Entries {
        /// In which document.
        doc: DocId,
        /// As given by [`Peer::own_opening`](super::Peer::own_opening), or a foreign one.
        opening: Opening,
        /// Changes in wire form.
        entries: Vec<Vec<u8>>,
    },
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
    /// Do something about blobs.
    Blob(BlobOutput),
    /// Tell the application.
    Emit(Event),
    /// Connect to a peer, once. Followed by [`Input::Connected`] that expects this device, or by [`Input::DialFailed`].
    Dial {
        /// Who must answer.
        device: DeviceId,
        /// Where it says it can be dialled, best first.
        addresses: Vec<String>,
    },
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
    /// What a device has stored in a space by now.
    Usage {
        /// In which space.
        space: SpaceId,
        /// Whose; [`UNSIGNED`](crate::usage::UNSIGNED) for snapshots.
        device: DeviceId,
        /// How much.
        usage: Usage,
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

impl PageRow {
    /// The log that it is about.
    pub fn doc(&self) -> DocId {
        match self {
            PageRow::Segment(stored) => stored.segment.doc,
            PageRow::Proofs { doc, .. } | PageRow::Snapshot { doc, .. } => *doc,
        }
    }
}

/// What a peer tells the application.
#[derive(Debug)]
pub enum Event {
    /// Somebody proved who it is, and [`Peer::set_asks`](super::Peer::set_asks) said to ask. Answer with [`Input::Admit`] or [`Input::End`]:
    /// until then nothing is told to it, and what it says waits, not longer than the handshake may take.
    Asked {
        /// Connection.
        conn: ConnId,
        /// Who.
        peer: DeviceId,
    },
    /// A peer is connected and known.
    Opened {
        /// Connection.
        conn: ConnId,
        /// Who.
        peer: DeviceId,
        /// What program it says it is.
        agent: String,
        /// Bits of [`crate::message::roles`].
        roles: u64,
        /// Where it says it can be dialled.
        addresses: Vec<String>,
    },
    /// A peer announces to this one, which plays the role of a tracker. Answer with [`Input::AnnounceAnswered`]; until then no other
    /// announce of this connection is told.
    Announced {
        /// Connection.
        conn: ConnId,
        /// Who; the record is of this device, and not verified yet.
        peer: DeviceId,
        /// What.
        announce: Announce,
    },
    /// What was exchanged with a peer: to be kept, and given back at the next start ([`Start::accounts`]).
    Account {
        /// With whom.
        device: DeviceId,
        /// All of it.
        account: Account,
    },
    /// A tracker's answer. Its records are not verified yet.
    Introduced {
        /// Connection.
        conn: ConnId,
        /// Which tracker.
        peer: DeviceId,
        /// What it answered.
        peers: Peers,
    },
    /// A connection is gone.
    Closed {
        /// Connection.
        conn: ConnId,
        /// Who, if it was known.
        peer: Option<DeviceId>,
        /// One of the sides had no use for it: there are others. It need not be made again soon.
        released: bool,
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
    /// What was asked for with [`Input::AskReceipts`]; this device gives its own like others.
    Held {
        /// It verifies.
        receipt: StorageReceipt,
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
    /// The space knows a newer root key of the identity than those at hand.
    #[error("the root key of the identity was replaced: the space knows {0} root keys")]
    KeyReplaced(usize),
    /// The entries do not continue this device's chain.
    #[error("the entries do not continue this device's chain: {0}")]
    DoesNotFit(String),
    /// The operator of this peer has blocked the space, or the document.
    #[error("{0} is blocked on this peer")]
    Blocked(&'static str),
    /// The space has all that its quota on this peer allows.
    #[error("the space takes all that it may on this peer; delete documents, or raise its quota")]
    Quota,
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
    /// What it says of itself for others to pass on, if it can be dialled.
    pub record: Option<PeerRecord>,
    /// Bounds.
    pub limits: Limits,
    /// The spaces held, with their rights records.
    pub spaces: Vec<(SpaceId, SpaceRow, Vec<RightRow>)>,
    /// Cursors over other peers' stores.
    pub cursors: Vec<(SpaceId, DeviceId, Cursor)>,
    /// What each device has stored in each space ([`StoreOp::Usage`]).
    pub usage: Vec<(SpaceId, DeviceId, Usage)>,
    /// What was exchanged with others ([`Event::Account`]).
    pub accounts: Vec<(DeviceId, Account)>,
}

impl Start {
    /// Of a peer whose store holds nothing yet.
    pub fn empty(key: SigningKey, store: StoreId, salt: [u8; 8], seed: [u8; 32]) -> Start {
        Start {
            key,
            store,
            salt,
            seed,
            roles: 0,
            agent: String::new(),
            addresses: Vec::new(),
            record: None,
            limits: Limits::default(),
            spaces: Vec::new(),
            cursors: Vec::new(),
            usage: Vec::new(),
            accounts: Vec::new(),
        }
    }
}
