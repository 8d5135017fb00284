//! The task that owns the machine: it feeds [`Peer`] what happens and does what the machine wants done. Nothing about the
//! protocol is decided here.
//!
//! Architecture Invariant: the driver never waits for a document, a link or the disk, but for its last goodbyes. Each input is
//! followed by all its outputs before the next.

mod blobs;
mod conns;
mod events;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use commonhold_sync::id::{DeviceId, DocId, SpaceId};
use commonhold_sync::message::{Peers, roles};
use commonhold_sync::peer::{
    ConnId, Input, Load, Loaded, LocalError, Now, OpId, Output, Peer, SnapshotContent, SnapshotFault, Start, StoreOp,
    Ticket,
};
use commonhold_sync::peer_record::PeerRecord;
use commonhold_sync::tracker::TrackerRefusal;
use commonhold_sync::usage::Quotas;
use ed25519_dalek::SigningKey;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::block::BlockSubject;
use crate::budget::{self, Purse};
use crate::dial::{Dialled, Whom};
use crate::discovery::{Heard, wall_ms};
use crate::error::Error;
use crate::quarantine::Quarantined;
use crate::shared::{Command, Mode, Reply, Shared, locked};
use crate::start;
use crate::status::{NodeEvent, SpaceInfo};
use crate::storage::{Storage, Stored};
use crate::store::StoreError;
use crate::transport::{LinkEvent, TransportConfig};
use crate::worker::{self, Packed, Unloaded};
use crate::writer::{Job, Writer, Written};
use conns::Conns;

/// Link events that wait. A frame has 256 KiB at most: 64 MiB; then links stop reading.
const LINK_EVENTS_MAX: usize = 256;
/// Bytes on their way to disk above which links are not read.
const STORING_MAX: usize = 32 << 20;
/// How long a document rests before its snapshot is made.
const LOOSE_QUIET: Duration = Duration::from_secs(2);
/// How long after a snapshot was made, or could not be, the next is thought of: it costs as much as a load.
const LOOSE_AGAIN: Duration = Duration::from_secs(30);
/// Documents that are loaded for the machine at once.
const HEAVY: usize = 2;
/// Waits before a failed store is opened again: the first, and the longest. They double until a store has lasted for the
/// third, which is more than a commit that fails takes: one that opens and then fails must not be tried four times a second.
const REOPEN: [Duration; 3] = [Duration::from_millis(250), Duration::from_secs(30), Duration::from_secs(60)];

/// Why a connection ends that the app does not admit.
const NOT_ADMITTED: &str = "this peer's operator does not want that connection";
/// How long a node that closes waits for its goodbyes to leave: several round trips, and nobody notices.
const GOODBYE: Duration = Duration::from_millis(500);

/// What work elsewhere came to. Those of an earlier run of the machine count for nothing.
enum Done {
    Written(Written),
    Loaded { op: OpId, loaded: Result<Loaded, StoreError> },
    Checked { op: OpId, result: Result<SnapshotContent, SnapshotFault> },
    Merged { op: OpId, result: Result<(Vec<u8>, SnapshotContent), String> },
    Compacted { space: SpaceId, doc: DocId, packed: Option<Packed>, reply: Option<oneshot::Sender<()>> },
    Asked { conn: ConnId, admitted: bool },
    Announced { conn: ConnId, answer: Result<Peers, TrackerRefusal> },
    Blob(blobs::BlobDone),
    Reopened(Result<Box<(Storage, Stored, [u8; 8])>, StoreError>),
}

pub(crate) struct Driver {
    shared: Arc<Shared>,
    key: SigningKey,
    epoch: Instant,
    /// Absent while the store has failed.
    machine: Option<Machine>,
    /// Counts machines.
    run: u64,
    conns: Conns,
    transport: Arc<TransportConfig>,
    links: mpsc::Receiver<LinkEvent>,
    commands: mpsc::Receiver<Command>,
    done: mpsc::UnboundedReceiver<(u64, Done)>,
    tell: mpsc::UnboundedSender<(u64, Done)>,
    tickets: BTreeMap<Ticket, (SpaceId, Option<DocId>, Reply)>,
    next_ticket: u64,
    loose: BTreeMap<(SpaceId, DocId), Instant>,
    /// When snapshots were last made, or could not be.
    packed_at: BTreeMap<(SpaceId, DocId), Instant>,
    compacting: bool,
    /// Who waits for a snapshot that was made.
    packs: Vec<oneshot::Sender<()>>,
    /// Counts loads.
    loads: u64,
    heavy: Arc<Semaphore>,
    reopening: Backoff,
    /// The only devices that connections are kept with, if not all.
    allowed: Option<BTreeSet<DeviceId>>,
    purse: Purse,
    quotas: Quotas,
}

struct Machine {
    peer: Peer,
    storage: Storage,
    writer: Writer,
    /// Rough bytes of each operation on its way to disk.
    storing: BTreeMap<OpId, usize>,
    storing_bytes: usize,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        key: SigningKey,
        storage: Storage,
        stored: Stored,
        salt: [u8; 8],
    ) -> Result<Driver, StoreError> {
        let (link_events, links) = mpsc::channel(LINK_EVENTS_MAX);
        let (tell, done) = mpsc::unbounded_channel();
        let transport = Arc::new(TransportConfig::new(&shared.config.limits));
        let allowed = shared.config.allowed();
        let (budgets, metered) = (shared.config.budgets.clone(), shared.config.metered);
        let purse = Purse::new(budgets, metered, storage.spent()?, budget::today());
        let (quotas, addresses) = (shared.config.quotas, shared.addresses.clone());
        let mut driver = Driver {
            shared,
            key,
            epoch: Instant::now(),
            machine: None,
            run: 0,
            conns: Conns::new(link_events, transport.clone(), addresses),
            transport,
            links,
            commands,
            done,
            tell,
            tickets: BTreeMap::new(),
            next_ticket: 0,
            loose: BTreeMap::new(),
            packed_at: BTreeMap::new(),
            compacting: false,
            packs: Vec::new(),
            loads: 0,
            heavy: Arc::new(Semaphore::new(HEAVY)),
            reopening: Backoff::new(REOPEN[0], REOPEN[1], REOPEN[2]),
            allowed,
            purse,
            quotas,
        };
        driver.start_machine(storage, stored, salt)?;
        Ok(driver)
    }

    fn start_machine(&mut self, storage: Storage, stored: Stored, salt: [u8; 8]) -> Result<(), StoreError> {
        self.run += 1;
        let (run, tell) = (self.run, self.tell.clone());
        let told = move |written| drop(tell.send((run, Done::Written(written))));
        let writer = Writer::start(storage.clone(), told)
            .map_err(|source| StoreError::Io { doing: "starting to write", source: Arc::new(source) })?;
        let mut peer = Peer::new(Start {
            key: self.key.clone(),
            store: self.shared.store_id,
            salt,
            seed: start::random()
                .map_err(|source| StoreError::Io { doing: "asking for random numbers", source: Arc::new(source) })?,
            roles: self.shared.config.roles(),
            agent: self.shared.config.agent.clone(),
            addresses: self.shared.advertised(),
            record: self.own_record(),
            limits: self.shared.config.limits.clone(),
            spaces: stored.spaces,
            cursors: stored.cursors,
            usage: stored.usage,
            accounts: locked(&self.shared.book).accounts(),
        });
        peer.set_allowed(self.allowed.clone());
        peer.set_asks(self.shared.config.gate.is_some());
        let machine = Machine { peer, storage, writer, storing: BTreeMap::new(), storing_bytes: 0 };
        let ids: Vec<SpaceId> = machine.peer.spaces().map(|space| space.id()).collect();
        self.machine = Some(machine);
        ids.iter().for_each(|id| self.note_space(id));
        self.purse.begin();
        self.allow();
        self.handle(Input::Quotas(self.quotas));
        self.enforce_blocks();
        Ok(())
    }

    /// Tells the machine what it may spend.
    fn allow(&mut self) {
        self.handle(Input::Allow(self.purse.allowance()));
    }

    fn now(&self) -> Now {
        Now(self.epoch.elapsed().as_millis() as u64)
    }

    /// Runs until the node is closed or forgotten.
    pub(crate) async fn run(mut self) {
        loop {
            let timeout = self.machine.as_ref().and_then(|m| m.peer.poll_timeout());
            let due = timeout.map(|now| self.epoch + Duration::from_millis(now.0));
            let pack = self.loose.values().min().copied().filter(|_| !self.compacting && self.machine.is_some());
            let tomorrow = self.purse.is_bounded().then(|| Instant::now() + budget::until_tomorrow());
            let wake = due.into_iter().chain(pack).chain(tomorrow).min();
            let busy = self.machine.as_ref().is_some_and(|m| m.storing_bytes > STORING_MAX);
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Close(reply)) => return self.close(Some(reply)).await,
                    Some(command) => self.command(command),
                    None => return self.close(None).await,
                },
                Some((run, done)) = self.done.recv() => if run == self.run {
                    self.finished(done);
                },
                Some(event) = self.links.recv(), if !busy => self.link_event(event),
                () = sleep_until(wake.unwrap_or(self.epoch)), if wake.is_some() => self.tick(due),
            }
        }
    }

    fn tick(&mut self, due: Option<Instant>) {
        if due.is_some_and(|due| due <= Instant::now()) {
            self.handle(Input::Tick);
        }
        if self.purse.is_bounded() && self.purse.turn(budget::today()) {
            self.allow();
        }
        self.compact_loose();
    }

    /// One input, and everything that follows from it.
    fn handle(&mut self, input: Input) {
        let now = self.now();
        let Some(machine) = &mut self.machine else { return };
        machine.peer.handle(now, input);
        self.drain();
        // The machine counts what it sends; what the links have taken off since is told in between.
        while let Some((conn, pending)) = self.conns.poll_drained() {
            let Some(machine) = &mut self.machine else { return };
            machine.peer.handle(now, Input::Drained { conn, pending });
            self.drain();
        }
        self.note_traffic();
        self.note_spent();
    }

    /// What was spent is kept, over restarts, and shown.
    fn note_spent(&mut self) {
        let Some(machine) = &mut self.machine else { return };
        self.purse.note(machine.peer.spent());
        let info = self.purse.info(machine.peer.roles() & roles::LEAF == 0, !machine.peer.is_spent());
        self.shared.budget.send_if_modified(|shown| std::mem::replace(shown, info) != info);
        if let Some(row) = self.purse.take_due() {
            let storage = machine.storage.clone();
            self.barrier(move || {
                if let Err(error) = storage.put_spent(&row) {
                    tracing::warn!(%error, "what was spent of the network today may be forgotten by a restart");
                }
            });
        }
    }

    /// What the machine and the links count is for whoever asks how much goes over the network.
    fn note_traffic(&mut self) {
        let Some(machine) = &self.machine else { return };
        let news = machine.peer.traffic();
        let mut traffic = locked(&self.shared.traffic);
        (traffic.delivered, traffic.duplicates, traffic.pushed) = (news.delivered, news.duplicates, news.pushed);
        (traffic.sent_bytes, traffic.received_bytes) = (self.conns.sent_bytes, self.conns.received_bytes);
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.as_mut().and_then(|m| m.peer.poll_output()) {
            match output {
                Output::Send { conn, bytes } => self.conns.send(conn, bytes),
                Output::Store { op, ops } => self.store(op, ops),
                Output::Load { op, load } => self.load(op, load),
                Output::Blob(output) => self.blob(output),
                Output::Emit(event) => self.emit(event),
                Output::Dial { device, addresses } => self.dial(device, &addresses),
                Output::Disconnect { conn, reason } => self.conns.close(conn, &reason),
            }
        }
    }

    /// What this peer says of itself, if it can be dialled.
    fn own_record(&self) -> Option<PeerRecord> {
        Some(self.shared.own.record()).filter(|record| self.shared.config.discovery.on && !record.addresses.is_empty())
    }

    /// An overlay wants a connection to a peer.
    fn dial(&self, device: DeviceId, addresses: &[String]) {
        let (shared, config) = (self.shared.clone(), self.transport.clone());
        let addresses = if shared.config.discovery.on { shared.worth_dialling(addresses) } else { Vec::new() };
        tokio::spawn(async move {
            let dialled = shared.dialler.dial_peer(&shared, &config, Whom::Device(device), &addresses).await;
            if !matches!(dialled, Dialled::Reached(_) | Dialled::Already) {
                let _ = shared.command(Command::DialFailed(device)).await;
            }
        });
    }

    fn store(&mut self, op: OpId, ops: Vec<StoreOp>) {
        let spaces: Vec<SpaceId> = ops
            .iter()
            .filter_map(|op| match op {
                StoreOp::Space { space, .. } => Some(*space),
                _ => None,
            })
            .collect();
        spaces.iter().for_each(|space| self.note_space(space));
        let Some(machine) = &mut self.machine else { return };
        let bytes = ops.iter().map(rough_bytes).sum();
        machine.storing.insert(op, bytes);
        machine.storing_bytes += bytes;
        machine.writer.give(Job::Commit { op, ops });
    }

    fn load(&mut self, op: OpId, load: Load) {
        self.loads += 1;
        let Some(machine) = &self.machine else { return };
        let storage = machine.storage.clone();
        if let Load::Deep { space, doc } = load {
            return self
                .heavy(move || Done::Loaded { op, loaded: Ok(Loaded::Deep(worker::deep(&storage, &space, &doc))) });
        }
        let (tell, run, shared) = (self.tell.clone(), self.run, self.shared.clone());
        let blocks = storage.store().blocks();
        let read = move || {
            let loaded = storage.load(&load).map(|read| {
                start::note_damage(&shared, &read.damaged);
                read.value
            });
            let _ = tell.send((run, Done::Loaded { op, loaded }));
        };
        match blocks {
            true => drop(tokio::task::spawn_blocking(read)),
            false => read(),
        }
    }

    /// Work that loads a whole document for the machine. Few at a time: each may take as much memory as a document.
    fn heavy(&self, work: impl FnOnce() -> Done + Send + 'static) {
        let (tell, run, places) = (self.tell.clone(), self.run, self.heavy.clone());
        tokio::spawn(async move {
            let Ok(_place) = places.acquire_owned().await else { return };
            if let Ok(done) = tokio::task::spawn_blocking(work).await {
                let _ = tell.send((run, done));
            }
        });
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Say { space, local, reply } => self.say(space, local, reply),
            Command::Join { space, genesis, docs, reply } => {
                self.handle(Input::Join { space, genesis, filter: docs });
                self.note_space(&space);
                let _ = self.shared.heard.try_send(Heard::Spaces);
                self.barrier(move || _ = reply.send(()));
            }
            Command::Take { space, docs, reply } => {
                self.handle(Input::Take { space, filter: docs });
                self.note_space(&space);
                self.barrier(move || _ = reply.send(()));
            }
            Command::Prepare { space, doc, reply } => {
                let Some(machine) = &self.machine else { return };
                let opening = machine.peer.own_opening(&space, &doc);
                if let Some(open) = self.shared.open_document(space, doc) {
                    open.superseded();
                }
                self.barrier(move || _ = reply.send(opening));
            }
            Command::Look { space, look } => {
                if let Some(held) = self.machine.as_ref().and_then(|machine| machine.peer.space(&space)) {
                    look(held.authority());
                }
            }
            Command::Blob(input) => match self.machine.is_some() {
                true => self.blob_input(input),
                false => self.shared.blobs.fail_all(&self.shared.no_reply()),
            },
            Command::Settle(reply) => self.barrier(move || _ = reply.send(())),
            Command::Attach(attach) => {
                // Who is not wanted is hung up on before anything is said.
                let list = self.shared.blocked.borrow().clone();
                let wanted = |remote| !list.has_address(remote) && !self.shared.addresses.is_over(remote);
                if self.machine.is_some() && attach.remote.is_none_or(wanted) {
                    let (dialled, expected) = (attach.dialled, attach.expected);
                    let conn = self.conns.add(attach);
                    self.handle(Input::Connected { conn, dialled, expected });
                }
            }
            Command::AskReceipts { space, doc, entries } => self.handle(Input::AskReceipts { space, doc, entries }),
            Command::DialFailed(device) => self.handle(Input::DialFailed { device }),
            Command::Announce { conn, announce } => self.handle(Input::Announce { conn, announce }),
            Command::Met { space, record } => self.handle(Input::Met { space, record }),
            Command::Addresses(addresses) => {
                let record = self.own_record();
                if let Some(machine) = &mut self.machine {
                    machine.peer.set_addresses(addresses, record);
                }
            }
            Command::Allow(devices) => {
                if let Some(allowed) = &mut self.allowed {
                    allowed.extend(devices);
                    let allowed = Some(allowed.clone());
                    self.machine.iter_mut().for_each(|machine| machine.peer.set_allowed(allowed.clone()));
                }
            }
            Command::Block { subject, blocks, reply } => self.block(subject, blocks, reply),
            Command::Quotas(quotas) => {
                self.quotas = quotas;
                self.handle(Input::Quotas(quotas));
            }
            Command::Usage(reply) => {
                _ = reply.send(self.machine.iter().flat_map(|machine| machine.peer.usage()).collect());
            }
            Command::Accounts(reply) => {
                let accounts = self.machine.iter().flat_map(|machine| machine.peer.accounts());
                _ = reply.send(accounts.collect());
            }
            Command::Metered(metered) => {
                if self.purse.set_metered(metered) {
                    self.allow();
                }
            }
            Command::Disconnect(peer) => self.conns.disconnect(&peer),
            Command::Compact { docs, reply } => self.compact(docs, Some(reply)),
            Command::Loose(reply) => _ = reply.send(self.loose.keys().copied().collect()),
            Command::Close(_) => unreachable!("handled where the loop can end"),
        }
    }

    fn block(&mut self, subject: BlockSubject, blocks: bool, reply: oneshot::Sender<Result<bool, Error>>) {
        let Some(storage) = self.machine.as_ref().map(|machine| machine.storage.clone()) else { return };
        let mut set = Ok(false);
        self.shared.blocked.send_if_modified(|list| {
            set = Arc::make_mut(list).set(subject, blocks, wall_ms());
            matches!(set, Ok(true))
        });
        let changed = match set {
            Ok(changed) => changed,
            full => return drop(reply.send(full)),
        };
        if changed {
            self.enforce_blocks();
        }
        if changed && !blocks {
            // Those that somebody still holds are shown again.
            let all = locked(&self.shared.documents).open.values().cloned().collect::<Vec<_>>();
            all.iter().filter(|open| subject.covers(&open.space, &open.doc)).for_each(|open| open.reload());
        }
        // Also if nothing changed: the row may not have been written the last time.
        let row = self.shared.blocked.borrow().row(&subject);
        self.barrier(move || {
            let written = storage.put_blocked(&subject.to_string(), row.as_ref());
            // Whoever gave up waiting is not told.
            let _ = reply.send(written.map(|()| changed).map_err(Error::from));
        });
    }

    /// Ends what the block list says is to end.
    fn enforce_blocks(&mut self) {
        let list = self.shared.blocked.borrow().clone();
        self.handle(Input::Block(list.of_machine()));
        for conn in self.conns.of_blocked(&list) {
            let text = "this peer's operator wants no connection with that address";
            self.handle(Input::End { conn, code: "blocked", text });
        }
        let open: Vec<_> = locked(&self.shared.documents).open.values().cloned().collect();
        for open in open {
            if let Err(why) = list.may_open(&open.space, &open.doc) {
                open.withhold(why);
            }
        }
    }

    fn say(&mut self, space: SpaceId, local: commonhold_sync::peer::Local, reply: Reply) {
        let doc = match &local {
            commonhold_sync::peer::Local::Entries { doc, .. } => Some(*doc),
            commonhold_sync::peer::Local::Records(_)
            | commonhold_sync::peer::Local::Revoke { .. }
            | commonhold_sync::peer::Local::AsRoot { .. } => None,
        };
        if self.machine.is_none() {
            return answer(&self.shared, space, doc, reply, Err(LocalError::StoreFailed));
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.tickets.insert(ticket, (space, doc, reply));
        self.handle(Input::Local { ticket, space, local });
    }

    /// Calls this when everything that was stored so far is on disk.
    fn barrier(&mut self, call: impl FnOnce() + Send + 'static) {
        if let Some(machine) = &mut self.machine {
            machine.writer.give(Job::Barrier(Box::new(call)));
        }
    }

    fn finished(&mut self, done: Done) {
        match done {
            Done::Written(Written::Stored(ops)) => {
                for op in ops {
                    if let Some(machine) = &mut self.machine {
                        machine.storing_bytes -= machine.storing.remove(&op).unwrap_or(0);
                    }
                    self.handle(Input::Stored { op });
                }
                self.shared.stored.send_replace(());
            }
            Done::Written(Written::Failed(op, error)) => self.store_failed(op, error),
            Done::Loaded { op, loaded: Ok(loaded) } => {
                self.handle(Input::Loaded { op, loaded });
                self.packed();
            }
            Done::Loaded { op, loaded: Err(error) } => self.store_failed(op, error),
            Done::Blob(done) => self.blob_done(done),
            Done::Checked { op, result } => self.handle(Input::SnapshotChecked { op, result }),
            Done::Merged { op, result } => self.handle(Input::SnapshotsMerged { op, result }),
            Done::Compacted { space, doc, packed, reply } => {
                self.compacting = false;
                let now = Instant::now();
                self.packed_at.retain(|_, at| *at + LOOSE_AGAIN > now);
                self.packed_at.insert((space, doc), now);
                let loads = self.loads;
                if let Some(Packed { bytes, heads, ends }) = packed {
                    self.handle(Input::SnapshotMade { space, doc, bytes, heads, ends });
                }
                self.packs.extend(reply);
                // A log that is not in memory is read before the snapshot is taken.
                if self.loads == loads {
                    self.packed();
                }
            }
            Done::Asked { conn, admitted: true } => self.handle(Input::Admit { conn }),
            Done::Asked { conn, admitted: false } => {
                self.handle(Input::End { conn, code: "policy", text: NOT_ADMITTED })
            }
            Done::Announced { conn, answer } => self.handle(Input::AnnounceAnswered { conn, answer }),
            Done::Reopened(Ok(reopened)) => self.recover(*reopened),
            Done::Reopened(Err(error)) => {
                tracing::warn!(%error, "the store cannot be opened yet");
                self.reopen();
            }
        }
    }

    // Failure and recovery of the store.

    fn store_failed(&mut self, op: OpId, error: StoreError) {
        tracing::error!(%error, code = error.code(), "the store failed");
        let (code, text) = (error.code(), error.to_string());
        // First, so that whoever waits for what was not stored is told why.
        self.shared.mode.send_replace(Mode::StoreFailed(Arc::new(error)));
        self.handle(Input::StoreFailed { op });
        *self.shared.storage.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.emit(NodeEvent::StoreFailed { code, text });
        self.machine = None;
        self.run += 1;
        self.shared.blobs.fail_all(&self.shared.no_reply());
        self.compacting = false;
        self.packs.clear();
        self.conns.close_all("the store of this peer has failed");
        for (space, doc, reply) in std::mem::take(&mut self.tickets).into_values() {
            answer(&self.shared, space, doc, reply, Err(LocalError::StoreFailed));
        }
        self.shared.moved();
        self.reopen();
    }

    fn reopen(&mut self) {
        let (run, tell, shared) = (self.run, self.tell.clone(), self.shared.clone());
        // Nobody else waits for this disk, so the wait needs no chance in it.
        let next = self.reopening.failed(Instant::now().into_std(), u64::MAX);
        tokio::spawn(async move {
            sleep_until(next.into()).await;
            let opened = tokio::task::spawn_blocking(move || start::reopen(&shared)).await;
            let opened = opened.unwrap_or_else(|_| {
                Err(StoreError::Failed { reason: "opening it again ended in a fault of ours".into() })
            });
            let _ = tell.send((run, Done::Reopened(opened.map(Box::new))));
        });
    }

    fn recover(&mut self, (storage, stored, salt): (Storage, Stored, [u8; 8])) {
        if let Err(error) = self.start_machine(storage.clone(), stored, salt) {
            tracing::warn!(%error, "the store cannot be used yet");
            return self.reopen();
        }
        self.reopening.connected(Instant::now().into_std());
        *self.shared.storage.write().unwrap_or_else(PoisonError::into_inner) = Some(storage);
        self.shared.mode.send_replace(Mode::Running);
        self.shared.emit(NodeEvent::StoreRecovered);
        tracing::info!("the store is open again");
        locked(&self.shared.documents).open.values().for_each(|open| open.discard());
        self.shared.moved();
    }

    // Snapshots.

    fn compact_loose(&mut self) {
        let now = Instant::now();
        let due = self.loose.iter().find(|(_, at)| **at <= now).map(|(key, _)| *key);
        if let Some(key) = due.filter(|_| !self.compacting) {
            self.loose.remove(&key);
            self.compact(vec![key], None);
        }
    }

    /// One after the other: each may take as much memory as its document.
    fn compact(&mut self, docs: Vec<(SpaceId, DocId)>, reply: Option<oneshot::Sender<()>>) {
        let Some(machine) = &self.machine else { return };
        // To make a snapshot is to load a document.
        let may_show = |(space, doc): &(SpaceId, DocId)| self.shared.may_show(space, doc).is_ok();
        let docs = docs.into_iter().filter(may_show);
        let docs: Vec<_> = docs.map(|(space, doc)| (space, doc, self.shared.budget_of(&space, &doc))).collect();
        self.compacting = !docs.is_empty();
        let mut reply = reply;
        let count = docs.len();
        if count == 0 {
            _ = reply.map(|reply| reply.send(()));
            return;
        }
        let (storage, tell, run) = (machine.storage.clone(), self.tell.clone(), self.run);
        let shared = self.shared.clone();
        let work = move || {
            for (at, (space, doc, budget)) in docs.into_iter().enumerate() {
                let packed = match worker::compact(&storage, &space, &doc, &budget) {
                    Ok(packed) => packed,
                    Err(Unloaded::Over(excess)) => {
                        let row = Quarantined::new(excess, wall_ms());
                        let written = storage.put_quarantined(&space, &doc, Some(&row));
                        shared.is_aside(space, doc, row, written);
                        None
                    }
                    Err(Unloaded::Damaged(why)) => {
                        tracing::warn!(%space, %doc, why, "no snapshot could be made");
                        None
                    }
                };
                let reply = if at + 1 == count { reply.take() } else { None };
                let _ = tell.send((run, Done::Compacted { space, doc, packed, reply }));
            }
        };
        self.barrier(move || drop(std::thread::Builder::new().name("commonhold-compact".into()).spawn(work)));
    }

    /// Tells who waits for a snapshot when it is on disk.
    fn packed(&mut self) {
        for reply in std::mem::take(&mut self.packs) {
            self.barrier(move || _ = reply.send(()));
        }
    }

    // What the node shows of the machine.

    fn note_space(&self, id: &SpaceId) {
        let Some(peer) = self.machine.as_ref().map(|machine| &machine.peer) else { return };
        let Some(space) = peer.space(id) else { return };
        let authority = u64::from(!space.clock().0.is_empty());
        let info = SpaceInfo {
            id: *id,
            ready: space.rules().is_some(),
            writers: space.genesis().map(|genesis| genesis.writers),
            root: space.genesis().map(|genesis| genesis.root.device()),
            right: space.right_of(&self.shared.device),
            documents: space.logs.saturating_sub(authority),
            seq: space.seq,
            fingerprint: space.fingerprint.to_bytes(),
            takes: space.filter.clone(),
            stored: peer.usage_of(id),
        };
        if let Some(genesis) = space.genesis() {
            locked(&self.shared.geneses).entry(*id).or_insert_with(|| genesis.clone());
        }
        locked(&self.shared.spaces).insert(*id, info);
    }

    async fn close(mut self, reply: Option<oneshot::Sender<Option<Storage>>>) {
        self.handle(Input::Close);
        self.conns.close_all("this peer closes");
        if let Some(storage) = self.machine.as_ref().map(|machine| machine.storage.clone()) {
            let (spent, known) = (self.purse.last(), locked(&self.shared.book).take_unwritten());
            let made_ms = self.shared.own.record().made_ms;
            self.barrier(move || {
                let spent = spent.map_or(Ok(()), |row| storage.put_spent(&row));
                if let Err(error) = spent.and_then(|()| storage.put_peers(known, made_ms)) {
                    tracing::warn!(%error, "what was exchanged last with others may be forgotten");
                }
            });
        }
        let storage = self.machine.take().map(|machine| {
            // Everything given is written before the thread ends; that wait is not the runtime's.
            (machine.storage, machine.writer)
        });
        self.shared.mode.send_replace(Mode::Closed);
        self.shared.blobs.fail_all(&Error::Closed);
        *self.shared.storage.write().unwrap_or_else(PoisonError::into_inner) = None;
        std::mem::take(&mut locked(&self.shared.documents).open).into_values().for_each(|open| open.close());
        self.shared.moved();
        let finish = move || {
            storage.map(|(storage, writer)| {
                writer.finish();
                storage
            })
        };
        let finished = tokio::task::spawn_blocking(finish);
        let _ = tokio::time::timeout(GOODBYE, self.goodbyes()).await;
        if let (Ok(storage), Some(reply)) = (finished.await, reply) {
            let _ = reply.send(storage);
        }
    }

    /// Returns when every link has sent what it was given, or is gone.
    async fn goodbyes(&mut self) {
        while !self.conns.is_empty() {
            match self.links.recv().await {
                Some(LinkEvent::Closed { id, .. }) => self.conns.remove(ConnId(id)),
                Some(LinkEvent::Drained { id, .. }) => drop(self.conns.drained(ConnId(id))),
                Some(LinkEvent::Frame { .. }) => {}
                None => return,
            }
        }
    }
}

/// Tells whoever asked.
fn answer(shared: &Shared, space: SpaceId, doc: Option<DocId>, reply: Reply, result: Result<events::Said, LocalError>) {
    let error = |why| shared.local_error(why, space, doc);
    match reply {
        // Whoever gave up waiting is not told.
        Reply::Records(reply) => drop(reply.send(result.map(|said| said.records).map_err(error))),
        Reply::Entries(reply) => drop(reply.send(result.map(|said| said.end).map_err(error))),
        Reply::Document(open, number) => open.resolved(number, result.map(drop)),
        Reply::Foreign(open, number, reply) => {
            open.resolved_foreign(number, result.is_ok());
            drop(reply.send(result.map(drop).map_err(error)));
        }
    }
}

fn rough_bytes(op: &StoreOp) -> usize {
    match op {
        StoreOp::Segment { stored, .. } => 256 + stored.segment.body_bytes(),
        StoreOp::Snapshot { bytes, .. } => bytes.len(),
        StoreOp::Document { image, .. } => 256 + 512 * image.lines.len(),
        _ => 256,
    }
}
