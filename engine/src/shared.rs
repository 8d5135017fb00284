//! What the driver, the documents and the node's handles have in common.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use commonhold_sync::authority::Authority;
use commonhold_sync::chain::Opening;
use commonhold_sync::id::{ChainId, DeviceId, DocId, EntryId, SpaceId, StoreId};
use commonhold_sync::ledger::Account;
use commonhold_sync::message::{Announce, roles};
use commonhold_sync::peer::{BlobInput, ConnId, Local, LocalError};
use commonhold_sync::peer_record::PeerRecord;
use commonhold_sync::record::{Genesis, Right};
use commonhold_sync::usage::{Quotas, UsageOf};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::address_book::AddressBook;
use crate::addresses::AddressMeter;
use crate::blobs::Fetches;
use crate::block::{BlockList, BlockSubject};
use crate::budget::BudgetInfo;
use crate::config::Config;
use crate::dial::Dialler;
use crate::discovery::{Heard, OwnRecord, wall_ms};
use crate::error::Error;
use crate::lineage::Outcome;
use crate::open_document::OpenDocument;
use crate::quarantine::{DocumentBudget, Excess, Quarantine, Quarantined};
use crate::receipts::Receipts;
use crate::status::{NodeEvent, PeerInfo, SpaceInfo, Tracker, TrafficInfo};
use crate::storage::Storage;
use crate::store::StoreError;
use crate::tracker::TrackerRole;
use crate::transport::{Address, Admission, Link};

/// Requests that wait for the driver.
pub(crate) const COMMANDS_MAX: usize = 1_024;
/// Events that a slow receiver may be behind.
const EVENTS_MAX: usize = 1_024;

/// What is asked of the rights in a space.
pub(crate) type Look = Box<dyn FnOnce(&Authority) + Send>;

/// What the driver is asked.
pub(crate) enum Command {
    /// Say something as this device.
    Say { space: SpaceId, local: Local, reply: Reply },
    /// Hold a space; the reply comes when that is on disk.
    Join { space: SpaceId, genesis: Option<Genesis>, docs: Option<Vec<DocId>>, reply: oneshot::Sender<()> },
    /// Take these documents of a space from now on; the reply comes when that is on disk.
    Take { space: SpaceId, docs: Option<Vec<DocId>>, reply: oneshot::Sender<()> },
    /// How this device writes in a document; the reply comes when everything so far is on disk.
    Prepare { space: SpaceId, doc: DocId, reply: oneshot::Sender<Opening> },
    /// Look at who may do what in a space.
    Look { space: SpaceId, look: Look },
    /// Ask for receipts for a version.
    AskReceipts { space: SpaceId, doc: DocId, entries: Vec<EntryId> },
    /// Something about blobs.
    Blob(BlobInput),
    /// The reply comes when everything so far is on disk.
    Settle(oneshot::Sender<()>),
    /// Take a connection.
    Attach(Attach),
    /// The driver asked to dial this peer, and it could not be reached.
    DialFailed(DeviceId),
    /// Somebody told of a peer that is said to share a space.
    Met { space: SpaceId, record: PeerRecord },
    /// Announce to a connected tracker.
    Announce { conn: ConnId, announce: Announce },
    /// This peer can be dialled elsewhere than before.
    Addresses(Vec<String>),
    /// Connections are kept with these devices too.
    Allow(Vec<DeviceId>),
    /// Block something from here on, or not any more; the reply comes when that is on disk, and says whether it changed anything.
    Block { subject: BlockSubject, blocks: bool, reply: oneshot::Sender<Result<bool, Error>> },
    /// How much may be stored from here on.
    Quotas(Quotas),
    /// What is stored of whom.
    Usage(oneshot::Sender<Vec<UsageOf>>),
    /// What was exchanged with whom.
    Accounts(oneshot::Sender<Vec<(DeviceId, Account)>>),
    /// The network costs something from here on, or does not any more.
    Metered(bool),
    /// End the connections to a peer.
    Disconnect(DeviceId),
    /// Make snapshots of these documents now.
    Compact { docs: Vec<(SpaceId, DocId)>, reply: oneshot::Sender<()> },
    /// The documents that a snapshot would serve well.
    Loose(oneshot::Sender<Vec<(SpaceId, DocId)>>),
    /// Stop, once everything is on disk. The reply is the storage, for the last word in it.
    Close(oneshot::Sender<Option<Storage>>),
}

/// A new connection.
pub(crate) struct Attach {
    pub(crate) link: Link,
    pub(crate) dialled: bool,
    pub(crate) expected: Option<DeviceId>,
    pub(crate) address: Option<String>,
    /// Held until the other side has authenticated.
    pub(crate) admission: Option<Admission>,
    /// Where it came from, or goes to, as far as that is an address of the network.
    pub(crate) remote: Option<IpAddr>,
    /// Told who it is once the other side is known.
    pub(crate) opened: Option<oneshot::Sender<DeviceId>>,
    /// Dropped when the connection ends; told before if it ended because neither side had a use for it.
    pub(crate) alive: Option<oneshot::Sender<()>>,
}

impl Attach {
    /// A connection of which nothing more is known.
    pub(crate) fn new(link: Link, dialled: bool) -> Attach {
        Attach {
            link,
            dialled,
            expected: None,
            address: None,
            admission: None,
            remote: None,
            opened: None,
            alive: None,
        }
    }
}

/// Who waits for something that was said.
pub(crate) enum Reply {
    Records(oneshot::Sender<Result<Vec<EntryId>, Error>>),
    Entries(oneshot::Sender<Result<Option<(ChainId, u64)>, Error>>),
    /// A batch of a document's own edits, by its number.
    Document(Arc<OpenDocument>, u64),
    /// A batch of foreign changes that the document shows already, by its number.
    Foreign(Arc<OpenDocument>, u64, oneshot::Sender<Result<(), Error>>),
}

/// What the node is able to do.
#[derive(Debug, Clone)]
pub(crate) enum Mode {
    Running,
    StoreFailed(Arc<StoreError>),
    Closed,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) device: DeviceId,
    pub(crate) store_id: StoreId,
    pub(crate) outcome: Outcome,
    pub(crate) listening: Vec<Address>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Absent while the store has failed.
    pub(crate) storage: RwLock<Option<Storage>>,
    pub(crate) documents: Mutex<Documents>,
    pub(crate) blobs: Fetches,
    pub(crate) spaces: Mutex<BTreeMap<SpaceId, SpaceInfo>>,
    pub(crate) geneses: Mutex<BTreeMap<SpaceId, Genesis>>,
    pub(crate) peers: Mutex<BTreeMap<u64, PeerInfo>>,
    pub(crate) tracker: Mutex<Tracker>,
    pub(crate) receipts: Mutex<Receipts>,
    pub(crate) book: Mutex<AddressBook>,
    pub(crate) dialler: Dialler,
    /// Where invites that were taken say that others hold a space, beside who invited.
    pub(crate) hints: Mutex<BTreeMap<SpaceId, Vec<Address>>>,
    pub(crate) own: OwnRecord,
    /// News for whoever looks for peers. Full: some is lost, and learnt again.
    pub(crate) heard: mpsc::Sender<Heard>,
    /// Present if this peer plays the role.
    pub(crate) tracker_role: Option<TrackerRole>,
    /// Where this peer says that it can be dialled, if that was changed since the start.
    pub(crate) advertised: Mutex<Option<Vec<String>>>,
    /// Changes with the tracker and with open documents' progress, for whoever waits.
    pub(crate) progress: watch::Sender<u64>,
    pub(crate) mode: watch::Sender<Mode>,
    /// Changes whenever something is on disk that was not.
    pub(crate) stored: watch::Sender<()>,
    pub(crate) budget: watch::Sender<BudgetInfo>,
    pub(crate) blocked: watch::Sender<Arc<BlockList>>,
    pub(crate) addresses: AddressMeter,
    pub(crate) quarantine: Mutex<Quarantine>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    /// Another copy of this device wrote further on a chain than this store knew.
    pub(crate) chain_lost: AtomicBool,
    /// What was sent and received since the start.
    pub(crate) traffic: Mutex<TrafficInfo>,
    /// Damaged rows met since the start.
    pub(crate) damaged_rows: AtomicU64,
}

/// Open documents, and those of them that nobody holds, least recently used first.
#[derive(Default)]
pub(crate) struct Documents {
    pub(crate) open: BTreeMap<(SpaceId, DocId), Arc<OpenDocument>>,
    idle: BTreeMap<u64, (SpaceId, DocId, usize)>,
    idle_bytes: usize,
    uses: u64,
}

impl Shared {
    pub(crate) fn new(config: Config, parts: Parts) -> (Arc<Shared>, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let addresses = AddressMeter::default();
        addresses.set_max(config.address_bytes_max);
        let shared = Shared {
            blobs: Fetches::new(&config),
            config,
            device: parts.device,
            store_id: parts.store_id,
            outcome: parts.outcome,
            listening: parts.listening,
            commands,
            storage: RwLock::new(Some(parts.storage)),
            documents: Mutex::default(),
            traffic: Mutex::default(),
            spaces: Mutex::default(),
            geneses: Mutex::default(),
            peers: Mutex::default(),
            tracker: Mutex::default(),
            receipts: Mutex::default(),
            book: Mutex::new(parts.book),
            dialler: Dialler::new(),
            hints: Mutex::default(),
            own: parts.own,
            heard: parts.heard,
            tracker_role: (parts.roles & roles::TRACKER != 0).then(TrackerRole::new),
            advertised: Mutex::default(),
            progress: watch::Sender::new(0),
            mode: watch::Sender::new(Mode::Running),
            stored: watch::Sender::new(()),
            budget: watch::Sender::new(BudgetInfo { connects: true, ..BudgetInfo::default() }),
            blocked: watch::Sender::new(parts.blocked),
            addresses,
            quarantine: Mutex::new(parts.quarantine),
            events: broadcast::Sender::new(EVENTS_MAX),
            chain_lost: AtomicBool::new(false),
            damaged_rows: AtomicU64::new(0),
        };
        (Arc::new(shared), queue)
    }

    pub(crate) fn storage(&self) -> Result<Storage, Error> {
        let storage = self.storage.read().unwrap_or_else(PoisonError::into_inner).clone();
        storage.ok_or_else(|| match &*self.mode.borrow() {
            Mode::StoreFailed(error) => Error::StoreFailed(error.clone()),
            _ => Error::Closed,
        })
    }

    pub(crate) fn running(&self) -> Result<(), Error> {
        match &*self.mode.borrow() {
            Mode::Running => Ok(()),
            Mode::StoreFailed(error) => Err(Error::StoreFailed(error.clone())),
            Mode::Closed => Err(Error::Closed),
        }
    }

    /// What a reply that never came means.
    pub(crate) fn no_reply(&self) -> Error {
        // The writer lets go of who waits before the driver hears that it failed.
        self.running().err().unwrap_or_else(|| StoreError::Failed { reason: "a write".into() }.into())
    }

    /// A local request that came to nothing, with what the disk said if that was it.
    pub(crate) fn local_error(&self, why: LocalError, space: SpaceId, doc: Option<DocId>) -> Error {
        match why {
            LocalError::StoreFailed => self.no_reply(),
            why => Error::from_local(why, space, doc),
        }
    }

    pub(crate) async fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Closed)
    }

    /// Runs a read of the store on the blocking pool.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Storage) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let storage = self.storage()?;
        let task = tokio::task::spawn_blocking(move || read(&storage));
        task.await.map_err(|_| Error::Internal("a read of the store failed"))
    }

    /// Waits until a read of the store sees everything that events have told of.
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        let (reply, settled) = oneshot::channel();
        self.command(Command::Settle(reply)).await?;
        settled.await.map_err(|_| self.no_reply())
    }

    pub(crate) fn emit(&self, event: NodeEvent) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    /// Whether nobody is to be dialled there, or that device anywhere.
    pub(crate) fn blocks_dial(&self, device: Option<&DeviceId>, address: &Address) -> bool {
        self.blocked.borrow().blocks_dial(device, address)
    }

    /// # Errors
    /// [`Error::Blocked`] and [`Error::Quarantined`], for documents that are not to be shown.
    pub(crate) fn may_show(&self, space: &SpaceId, doc: &DocId) -> Result<(), Error> {
        self.blocked.borrow().may_open(space, doc)?;
        match locked(&self.quarantine).get(&(*space, *doc)) {
            Some(Quarantined { excess, released: false, .. }) => Err(Error::Quarantined { doc: *doc, excess: *excess }),
            _ => Ok(()),
        }
    }

    /// What a document may cost.
    pub(crate) fn budget_of(&self, space: &SpaceId, doc: &DocId) -> DocumentBudget {
        match locked(&self.quarantine).get(&(*space, *doc)) {
            Some(Quarantined { released: true, .. }) => DocumentBudget::default(),
            _ => self.config.document_budget,
        }
    }

    /// Puts a document in quarantine. What those are told who want to see it.
    pub(crate) async fn set_aside(&self, space: SpaceId, doc: DocId, excess: Excess) -> Error {
        let row = Quarantined::new(excess, wall_ms());
        let written = self.blocking(move |storage| storage.put_quarantined(&space, &doc, Some(&row))).await;
        match written {
            Ok(written) => self.is_aside(space, doc, row, written),
            Err(error) => error,
        }
    }

    /// A document is in quarantine, and this is what became of the row that says so. What those are told who want to see it.
    pub(crate) fn is_aside(
        &self,
        space: SpaceId,
        doc: DocId,
        row: Quarantined,
        written: Result<(), StoreError>,
    ) -> Error {
        if let Err(error) = written {
            tracing::warn!(%error, "that a document is over its budget is found out again after a restart");
        }
        let excess = row.excess;
        locked(&self.quarantine).insert((space, doc), row);
        let error = Error::Quarantined { doc, excess };
        tracing::warn!(%space, %doc, %excess, "a document is over its budget, and is neither loaded nor shown until it is released");
        let code = error.code().to_owned();
        let notice =
            NodeEvent::Notice { peer: None, space: Some(space), doc: Some(doc), code, text: error.to_string() };
        self.emit(notice);
        error
    }

    /// The spaces for which peers are looked for.
    pub(crate) fn unblocked_spaces(&self) -> Vec<SpaceId> {
        let list = self.blocked.borrow();
        locked(&self.spaces).keys().filter(|space| !list.has_space(space)).copied().collect()
    }

    /// Waits until connections may cost something.
    pub(crate) async fn until_affordable(&self) {
        // The sender is in self.
        let _ = self.budget.subscribe().wait_for(|budget| budget.connects).await;
    }

    pub(crate) fn moved(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    /// Waits until something holds of what `progress` tells.
    pub(crate) async fn until(&self, mut holds: impl FnMut() -> bool) -> Result<(), Error> {
        let (mut moved, mut mode) = (self.progress.subscribe(), self.mode.subscribe());
        loop {
            if holds() {
                return Ok(());
            }
            if matches!(&*mode.borrow_and_update(), Mode::Closed) {
                return Err(Error::Closed);
            }
            tokio::select! {
                _ = moved.changed() => {}
                _ = mode.changed() => {}
            }
        }
    }

    pub(crate) fn may_write(&self, space: &SpaceId) -> Result<(), Error> {
        match locked(&self.spaces).get(space) {
            None => Err(Error::UnknownSpace(*space)),
            Some(info) if !info.ready => Err(Error::SpaceNotReady(*space)),
            Some(info) if info.right < Some(Right::Write) => Err(Error::NotAllowed("write")),
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn open_document(&self, space: SpaceId, doc: DocId) -> Option<Arc<OpenDocument>> {
        locked(&self.documents).open.get(&(space, doc)).cloned()
    }

    pub(crate) fn advertised(&self) -> Vec<String> {
        let changed = locked(&self.advertised).clone();
        changed.unwrap_or_else(|| advertised(&self.config, &self.listening))
    }
}

/// What [`Shared::new`] needs besides the configuration.
pub(crate) struct Parts {
    pub(crate) device: DeviceId,
    pub(crate) store_id: StoreId,
    pub(crate) outcome: Outcome,
    pub(crate) listening: Vec<Address>,
    pub(crate) storage: Storage,
    pub(crate) book: AddressBook,
    pub(crate) blocked: Arc<BlockList>,
    pub(crate) quarantine: Quarantine,
    pub(crate) own: OwnRecord,
    pub(crate) heard: mpsc::Sender<Heard>,
    /// Bits of [`roles`].
    pub(crate) roles: u64,
}

/// Where a peer says that it can be dialled.
pub(crate) fn advertised(config: &Config, listening: &[Address]) -> Vec<String> {
    match config.advertise.is_empty() {
        false => config.advertise.clone(),
        true => listening.iter().map(Address::to_string).collect(),
    }
}

/// Views looked at, the longest unused first, when one is let go: more than one, so that some with unsaved edits do not
/// keep the rest.
const CANDIDATES: usize = 64;

/// What an open document costs besides the content of its view: the task, and what Automerge allocates for the smallest
/// document. Measured: 25 KB of resident memory for each of 60,000.
const OPEN_BYTES: usize = 25_000;

impl Documents {
    /// A handle more. Counted under the lock, so that unloading cannot come in between.
    pub(crate) fn hold(&mut self, document: &OpenDocument) {
        document.handles.fetch_add(1, Ordering::Relaxed);
        if let Some((_, _, bytes)) = self.idle.remove(&document.used.load(Ordering::Relaxed)) {
            self.idle_bytes -= bytes;
        }
    }

    /// A handle less. Beyond the budget, views that nobody holds are let go, the longest unused first.
    pub(crate) fn release(&mut self, document: &OpenDocument, budget: usize) {
        if document.handles.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let key = (document.space, document.doc);
        if !self.open.get(&key).is_some_and(|open| std::ptr::eq(&**open, document)) {
            return;
        }
        self.uses += 1;
        document.used.store(self.uses, Ordering::Relaxed);
        let bytes = OPEN_BYTES + document.bytes.load(Ordering::Relaxed);
        self.idle.insert(self.uses, (key.0, key.1, bytes));
        self.idle_bytes += bytes;
        let mut after = 0;
        for _ in 0..CANDIDATES {
            if self.idle_bytes <= budget {
                return;
            }
            let Some((used, (space, doc, bytes))) = self.idle.range(after..).next().map(|(used, of)| (*used, *of))
            else {
                return;
            };
            after = used + 1;
            // One with unsaved edits stays until a later look.
            if self.open.get(&(space, doc)).is_none_or(|open| open.is_quiet()) {
                self.idle.remove(&used);
                self.idle_bytes -= bytes;
                if let Some(open) = self.open.remove(&(space, doc)) {
                    open.close();
                }
            }
        }
    }

    /// Takes a document out, whoever holds it.
    pub(crate) fn remove(&mut self, document: &OpenDocument) {
        let key = (document.space, document.doc);
        if self.open.get(&key).is_some_and(|open| std::ptr::eq(&**open, document)) {
            self.open.remove(&key);
            if let Some((_, _, bytes)) = self.idle.remove(&document.used.load(Ordering::Relaxed)) {
                self.idle_bytes -= bytes;
            }
        }
    }
}

/// Plain tables, whole at every point where something could panic.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
