//! A node: an open peer, as the application holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use commonhold_sync::id::{DeviceId, DocId, EntryId, SpaceId, StoreId};
use commonhold_sync::ledger::Account;
use commonhold_sync::message::LIST_MAX;
use commonhold_sync::peer::Local;
use commonhold_sync::peer_record::RECORD_ADDRESSES_MAX;
use commonhold_sync::record::{Genesis, KIND_BYTES_MAX, NAME_BYTES_MAX, Privacy, Record, Writers};
use commonhold_sync::tracker::TrackerRefusal;
use commonhold_sync::usage::{Quotas, UsageOf};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, oneshot, watch};

use crate::address_book::{KnownPeer, Source};
use crate::addresses::AddressMeter;
use crate::block::{BlockList, BlockSubject, BlockedInfo};
use crate::budget::BudgetInfo;
use crate::bundle::{self, ExportReport, ImportReport};
use crate::check::{CheckReport, check};
use crate::config::Config;
use crate::dial;
use crate::discovery::{Heard, wall_ms};
use crate::document_handle::Document;
use crate::error::{Error, OpenError};
use crate::invite::Invite;
use crate::lineage::{Lineage, Outcome};
use crate::quarantine::Quarantined;
use crate::shared::{Attach, Command, Reply, Shared, locked};
use crate::start::{self, random};
use crate::status::{NodeEvent, PeerInfo, SpaceInfo, TrafficInfo};
use crate::storage::{DocumentChanges, DocumentInfo, DocumentQuery, Storage};
use crate::store::Row;
use crate::tracker::{AnnounceAnswer, AnnounceError, AnnounceRequest, TrackerRole};
use crate::transport::{Address, Link, TransportConfig};

/// Addresses that are kept dialled at once.
const DIALLED_MAX: usize = 1_024;
/// Addresses of others in invites that are kept of one space: those of four invites.
const HINTS_MAX: usize = 16;
/// Documents of one answer about changes: about 1 MiB, as each has two texts of up to 256 bytes.
const CHANGES_MAX: usize = 1_000;
/// How long closing waits for snapshots that would pay.
const CLOSE_COMPACT: Duration = Duration::from_secs(10);

/// An open peer. Cheap to clone; it runs in tasks of its own until [`Node::close`], or until the last clone is dropped
/// (which is like a crash: nothing saved is lost, but chains of this run are not continued).
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    transport: Arc<TransportConfig>,
    lineage: Mutex<Option<Lineage>>,
    /// Who is expected there. An address that is taken out is dialled no more.
    dialled: Mutex<BTreeMap<Address, watch::Sender<Option<DeviceId>>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A full queue is drained by the driver, which then finds this among the first.
        let commands = self.shared.commands.clone();
        let (reply, _) = oneshot::channel();
        if let Err(error) = commands.try_send(Command::Close(reply))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { commands.send(error.into_inner()).await.ok() });
        }
    }
}

impl Node {
    /// Opens a peer: its keys, its store, its listeners; then connects. Must be called inside a tokio runtime.
    pub async fn open(config: Config) -> Result<Node, OpenError> {
        let connect = config.connect.clone();
        let opened = start::open(config).await?;
        let node = Node {
            inner: Arc::new(Inner {
                shared: opened.shared,
                transport: opened.transport,
                lineage: Mutex::new(opened.lineage),
                dialled: Mutex::default(),
            }),
        };
        for (address, expected) in &connect {
            if let Some(device) = expected {
                locked(&node.shared().book).told(*device, &address.to_string(), Source::Configured, wall_ms());
            }
            node.connect(address.clone(), *expected);
        }
        if node.shared().config.dial_invites
            && let Ok(Ok(invites)) = node.shared().blocking(Storage::invites).await
        {
            for invite in invites.iter().filter_map(|text| text.parse::<Invite>().ok()) {
                // Whoever configured an address knows better than an invite of old.
                node.dial_invite(&invite, &connect);
            }
            node.hear(Heard::Spaces);
        }
        Ok(node)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// The device that this peer is.
    pub fn device(&self) -> DeviceId {
        self.shared().device
    }

    /// The id of its store.
    pub fn store_id(&self) -> StoreId {
        self.shared().store_id
    }

    /// What the store turned out to be when it was opened.
    pub fn outcome(&self) -> Outcome {
        self.shared().outcome
    }

    /// Where it listens, with the ports that the system chose.
    pub fn listening(&self) -> Vec<String> {
        self.shared().listening.iter().map(Address::to_string).collect()
    }

    // Spaces.

    /// Founds a space. This device is its root.
    pub async fn create_space(&self, writers: Writers) -> Result<SpaceId, Error> {
        self.shared().running()?;
        let nonce = random()?;
        let genesis = Genesis { root: self.device().into(), privacy: Privacy::Public, writers, rules: 1, nonce };
        let space = genesis.space();
        self.hold(space, Some(genesis), None).await?;
        Ok(space)
    }

    /// Holds a space from now on, and dials whoever invited.
    pub async fn join(&self, invite: &Invite) -> Result<SpaceId, Error> {
        self.join_as(invite, None).await
    }

    /// The same, but takes only these documents of the space (and those that it creates), at most 16,384. The names of all
    /// documents come anyway; their content does not. [`Node::take`] changes the choice. For a space that is held already,
    /// the choice stays as it was.
    pub async fn join_partly(&self, invite: &Invite, docs: impl IntoIterator<Item = DocId>) -> Result<SpaceId, Error> {
        self.join_as(invite, Some(choice(docs)?)).await
    }

    async fn join_as(&self, invite: &Invite, docs: Option<Vec<DocId>>) -> Result<SpaceId, Error> {
        self.hold(invite.space, invite.genesis(), docs).await?;
        if !invite.addresses.is_empty() || !invite.others().is_empty() {
            // The secret in it is for now, not for whoever finds the disk.
            let (space, text) = (invite.space, invite.without_grant().to_string());
            let peer = invite.peer;
            self.shared().blocking(move |storage| storage.put_invite(&space, peer.as_ref(), &text)).await??;
            if self.shared().config.dial_invites {
                self.dial_invite(invite, &[]);
                self.hear(Heard::Spaces);
            }
        }
        Ok(invite.space)
    }

    pub(crate) async fn hold_space(&self, space: SpaceId, genesis: Genesis) -> Result<(), Error> {
        self.hold(space, Some(genesis), None).await
    }

    async fn hold(&self, space: SpaceId, genesis: Option<Genesis>, docs: Option<Vec<DocId>>) -> Result<(), Error> {
        self.shared().running()?;
        if self.shared().blocked.borrow().has_space(&space) {
            return Err(Error::Blocked("the space"));
        }
        let (reply, joined) = oneshot::channel();
        self.shared().command(Command::Join { space, genesis, docs, reply }).await?;
        joined.await.map_err(|_| self.shared().no_reply())
    }

    /// Takes these documents of a space from now on (at most 16,384), or all with `None`. Connections begin anew; what is
    /// held of other documents stays, and is no longer kept up to date.
    pub async fn take(&self, space: SpaceId, docs: Option<Vec<DocId>>) -> Result<(), Error> {
        self.space(space)?;
        let docs = docs.map(choice).transpose()?;
        let (reply, taken) = oneshot::channel();
        self.shared().command(Command::Take { space, docs, reply }).await?;
        taken.await.map_err(|_| self.shared().no_reply())
    }

    fn dial_invite(&self, invite: &Invite, but: &[(Address, Option<DeviceId>)]) {
        let ours = self.shared().advertised();
        if let Some(peer) = invite.peer {
            let mut book = locked(&self.shared().book);
            invite.addresses.iter().for_each(|address| book.told(peer, address, Source::Invite, wall_ms()));
            drop(book);
            // Who invites is somebody that one connects with.
            let commands = self.shared().commands.clone();
            tokio::spawn(async move { commands.send(Command::Allow(vec![peer])).await.ok() });
        }
        let others = invite.others().iter().filter(|address| !ours.contains(address));
        let others = others.filter_map(|address| address.parse().ok());
        let mut hints = locked(&self.shared().hints);
        let of_space: &mut Vec<Address> = hints.entry(invite.space).or_default();
        for address in others {
            if of_space.len() < HINTS_MAX && !of_space.contains(&address) {
                of_space.push(address);
            }
        }
        drop(hints);
        for address in invite.addresses.iter().filter(|address| !ours.contains(address)) {
            match address.parse() {
                Ok(address) if but.iter().any(|(there, _)| *there == address) => {}
                // To name nobody takes back nothing.
                Ok(address) if invite.peer.is_none() && locked(&self.inner.dialled).contains_key(&address) => {}
                Ok(address) => self.connect(address, invite.peer),
                Err(error) => tracing::info!(address, %error, "an address in the invite cannot be dialled"),
            }
        }
    }

    /// The spaces held.
    pub fn spaces(&self) -> Vec<SpaceInfo> {
        locked(&self.shared().spaces).values().cloned().collect()
    }

    /// One space.
    pub fn space(&self, space: SpaceId) -> Result<SpaceInfo, Error> {
        locked(&self.shared().spaces).get(&space).cloned().ok_or(Error::UnknownSpace(space))
    }

    /// An invite to a space: it names this peer and where it can be dialled. In a public space, whoever has it can read.
    pub fn invite(&self, space: SpaceId) -> Result<Invite, Error> {
        self.space(space)?;
        let genesis = locked(&self.shared().geneses).get(&space).cloned();
        let invite = Invite::new(space, genesis.as_ref(), Some(self.device()), self.shared().advertised());
        Ok(invite.with_others(self.shared().others_of(&space)))
    }

    /// Returns when the genesis of a space is known: at once, or when a peer that holds it has been reached.
    pub async fn wait_ready(&self, space: SpaceId) -> Result<(), Error> {
        self.shared().until(|| locked(&self.shared().spaces).get(&space).is_some_and(|info| info.ready)).await
    }

    pub(crate) async fn say(&self, space: SpaceId, local: Local) -> Result<Vec<EntryId>, Error> {
        self.shared().running()?;
        let (reply, said) = oneshot::channel();
        self.shared().command(Command::Say { space, local, reply: Reply::Records(reply) }).await?;
        said.await.map_err(|_| self.shared().no_reply())?
    }

    // Documents.

    /// Creates a document and opens it. Kind and name are for the application and its people; either may be empty.
    pub async fn create_document(&self, space: SpaceId, kind: &str, name: &str) -> Result<Document, Error> {
        let ids = self.create_documents(space, [(kind, name)]).await?;
        let doc = ids.first().copied().ok_or(Error::Internal("a document without an id"))?;
        self.open_document(space, doc).await
    }

    /// Creates many documents, each of a kind and with a name, with one signature and one commit.
    pub async fn create_documents<K: AsRef<str>, N: AsRef<str>>(
        &self,
        space: SpaceId,
        documents: impl IntoIterator<Item = (K, N)>,
    ) -> Result<Vec<DocId>, Error> {
        if self.shared().blocked.borrow().has_space(&space) {
            return Err(Error::Blocked("the space"));
        }
        let mut records = Vec::new();
        for (kind, name) in documents {
            let (kind, name) = (kind.as_ref(), name.as_ref());
            for (what, length, max) in
                [("bytes of a kind", kind.len(), KIND_BYTES_MAX), ("bytes of a name", name.len(), NAME_BYTES_MAX)]
            {
                if length > max {
                    return Err(Error::TooMuch { what, max });
                }
            }
            records.push(Record::Header { nonce: random()?, kind: kind.to_owned(), name: name.to_owned() });
        }
        Ok(self.say(space, Local::Records(records)).await?.into_iter().map(|id| DocId(id.0)).collect())
    }

    /// Opens a document that is held here.
    pub async fn open_document(&self, space: SpaceId, doc: DocId) -> Result<Document, Error> {
        if self.space(space)?.takes.is_some_and(|docs| !docs.contains(&doc)) {
            return Err(Error::NotTaken(doc));
        }
        self.shared().may_show(&space, &doc)?;
        Document::open_in(self.shared(), space, doc).await
    }

    /// The documents of a space, by id.
    pub async fn documents(&self, space: SpaceId, query: DocumentQuery) -> Result<Vec<DocumentInfo>, Error> {
        self.space(space)?;
        self.shared().settle().await?;
        Ok(self.shared().blocking(move |storage| storage.documents(&space, &query)).await??)
    }

    /// Documents of a space that changed after a number of this store, each at its last change, at most `limit` (1,000 at most). Whoever goes on
    /// after [`DocumentChanges::last`] misses nothing and is told nothing twice, whatever is written meanwhile and over restarts. Numbers mean
    /// nothing in another store: keep [`Node::store_id`] with them.
    pub async fn changes(&self, space: SpaceId, after: u64, limit: usize) -> Result<DocumentChanges, Error> {
        self.may_follow(space)?;
        let limit = limit.clamp(1, CHANGES_MAX);
        Ok(self.shared().blocking(move |storage| storage.changes(&space, after, limit)).await??)
    }

    /// The number of the last change of a space; 0 before the first.
    pub async fn last_change(&self, space: SpaceId) -> Result<u64, Error> {
        self.may_follow(space)?;
        Ok(self.shared().blocking(move |storage| storage.last_change(&space)).await??)
    }

    fn may_follow(&self, space: SpaceId) -> Result<(), Error> {
        self.space(space)?;
        match self.shared().blocked.borrow().has_space(&space) {
            true => Err(Error::Blocked("the space")),
            false => Ok(()),
        }
    }

    /// Changes whenever something is on disk that was not: then [`Node::changes`] may have more.
    pub fn stored(&self) -> watch::Receiver<()> {
        self.shared().stored.subscribe()
    }

    /// Deletes a document: its content is dropped by every peer, a tombstone stays.
    pub async fn delete_document(&self, space: SpaceId, doc: DocId) -> Result<(), Error> {
        self.say(space, Local::Records(vec![Record::Tombstone { doc }])).await.map(drop)
    }

    // Connections.

    /// Keeps an address dialled, with backoff. `expected` is who must answer there, from now on if it is dialled already.
    pub fn connect(&self, address: Address, expected: Option<DeviceId>) {
        let mut dialled = locked(&self.inner.dialled);
        if self.shared().listening.contains(&address) {
            return;
        }
        if let Some(there) = dialled.get(&address) {
            there.send_if_modified(|there| std::mem::replace(there, expected) != expected);
            return;
        }
        if dialled.len() >= DIALLED_MAX {
            return tracing::warn!(%address, "too many addresses to dial");
        }
        let expected = watch::Sender::new(expected);
        let (shared, config) = (self.shared().clone(), self.inner.transport.clone());
        tokio::spawn(dial::keep_dialled(shared, config, address.clone(), expected.subscribe()));
        dialled.insert(address, expected);
    }

    /// Keeps an address dialled no more. A connection to it stays until it ends.
    pub fn stop_dialling(&self, address: &Address) {
        locked(&self.inner.dialled).remove(address);
    }

    /// Ends the connections to a peer, and stops dialling it where it is known to be.
    pub fn disconnect(&self, peer: DeviceId) {
        let infos = self.peers();
        let at: Vec<&String> = infos
            .iter()
            .filter(|info| info.device == peer && info.dialled)
            .filter_map(|i| i.address.as_ref())
            .collect();
        locked(&self.inner.dialled)
            .retain(|address, expected| *expected.borrow() != Some(peer) && !at.contains(&&address.to_string()));
        let commands = self.shared().commands.clone();
        tokio::spawn(async move { commands.send(Command::Disconnect(peer)).await.ok() });
    }

    /// The documents of a space that are over their budget, and those that were released.
    pub fn quarantine(&self, space: SpaceId) -> BTreeMap<DocId, Quarantined> {
        let all = locked(&self.shared().quarantine);
        all.iter().filter(|((of, _), _)| *of == space).map(|((_, doc), row)| (*doc, *row)).collect()
    }

    /// Lets a document out of quarantine: it is shown again, and has no budget from now on. Whether it was in it; that is on disk then.
    pub async fn release(&self, space: SpaceId, doc: DocId) -> Result<bool, Error> {
        let row = locked(&self.shared().quarantine).get(&(space, doc)).copied().filter(|row| !row.released);
        let Some(row) = row.map(Quarantined::release) else { return Ok(false) };
        self.shared().blocking(move |storage| storage.put_quarantined(&space, &doc, Some(&row))).await??;
        locked(&self.shared().quarantine).insert((space, doc), row);
        if let Some(open) = self.shared().open_document(space, doc) {
            open.reload();
        }
        Ok(true)
    }

    /// Says how much may be stored from now on. What is held stays.
    pub async fn set_quotas(&self, quotas: Quotas) -> Result<(), Error> {
        self.shared().command(Command::Quotas(quotas)).await
    }

    /// What each device has stored in each space.
    pub async fn usage(&self) -> Result<Vec<UsageOf>, Error> {
        let (reply, usage) = oneshot::channel();
        self.shared().command(Command::Usage(reply)).await?;
        usage.await.map_err(|_| Error::Closed)
    }

    /// Counts what goes to and comes from each address, and bounds it: also for whoever lets others in by ways of its own.
    pub fn addresses(&self) -> AddressMeter {
        self.shared().addresses.clone()
    }

    /// Blocks something from now on: connections that it concerns end, with a reason, and documents are shown no more. Whether that is
    /// new; it is on disk by then. At most 4,096 entries.
    pub async fn block(&self, subject: BlockSubject) -> Result<bool, Error> {
        self.set_blocked(subject, true).await
    }

    /// Takes something off the block list. Whether it was on it; it is on disk by then.
    pub async fn unblock(&self, subject: BlockSubject) -> Result<bool, Error> {
        self.set_blocked(subject, false).await
    }

    async fn set_blocked(&self, subject: BlockSubject, blocks: bool) -> Result<bool, Error> {
        self.shared().running()?;
        let (reply, done) = oneshot::channel();
        self.shared().command(Command::Block { subject, blocks, reply }).await?;
        done.await.map_err(|_| self.shared().no_reply())?
    }

    /// What is blocked.
    pub fn blocked(&self) -> Vec<BlockedInfo> {
        self.shared().blocked.borrow().all()
    }

    /// The block list, for whoever lets others in by ways of its own. Changes can be waited for.
    pub fn block_list(&self) -> watch::Receiver<Arc<BlockList>> {
        self.shared().blocked.subscribe()
    }

    /// Takes a connection that was made elsewhere: one end of [`Link::pair`], or of any byte stream. Exactly one side
    /// says `dialled`.
    pub fn attach(&self, link: Link, dialled: bool, expected: Option<DeviceId>) {
        let attach = Attach { expected, ..Attach::new(link, dialled) };
        let commands = self.shared().commands.clone();
        tokio::spawn(async move { commands.send(Command::Attach(attach)).await.ok() });
    }

    #[cfg(test)]
    pub(crate) fn dials(&self) -> usize {
        locked(&self.inner.dialled).len()
    }

    /// The peers connected now.
    pub fn peers(&self) -> Vec<PeerInfo> {
        locked(&self.shared().peers).values().cloned().collect()
    }

    /// What went over the network since the node was opened.
    pub fn traffic(&self) -> TrafficInfo {
        *locked(&self.shared().traffic)
    }

    /// Says in a space where this node can be dialled, and gives that, for all that hold the space, for as long as it has a right there:
    /// they find it without a middleman. Each time is a record that all keep: for peers whose address stays. With `withdraw`, it
    /// can be dialled nowhere any more.
    pub async fn publish_addresses(&self, space: SpaceId, withdraw: bool) -> Result<Vec<String>, Error> {
        let mut addresses = if withdraw { Vec::new() } else { self.shared().own.record().addresses };
        addresses.truncate(RECORD_ADDRESSES_MAX);
        if addresses.is_empty() && !withdraw {
            return Err(Error::NoAddress);
        }
        let place = Record::Place { made_ms: wall_ms(), addresses: addresses.clone() };
        self.say(space, Local::Records(vec![place])).await?;
        Ok(addresses)
    }

    /// Where others said in a space that they can be dialled.
    pub async fn published_addresses(&self, space: SpaceId) -> Result<Vec<(DeviceId, Vec<String>)>, Error> {
        self.look(space, |authority| authority.places()).await
    }

    /// Says whether the network costs something from now on ([`Budgets`](crate::Budgets)): apps learn that from the system.
    pub async fn set_metered(&self, metered: bool) -> Result<(), Error> {
        self.shared().command(Command::Metered(metered)).await
    }

    /// What was spent of the budgets today, and what follows from it. Changes can be waited for.
    pub fn budget(&self) -> watch::Receiver<BudgetInfo> {
        self.shared().budget.subscribe()
    }

    /// What was exchanged with each device, as this one counts it, with the receipts of those that got something.
    pub async fn accounts(&self) -> Result<Vec<(DeviceId, Account)>, Error> {
        let (reply, accounts) = oneshot::channel();
        self.shared().command(Command::Accounts(reply)).await?;
        accounts.await.map_err(|_| Error::Closed)
    }

    /// Every peer that this one has heard of, best first: where it can be dialled, and how that went.
    pub fn known_peers(&self) -> Vec<KnownPeer> {
        locked(&self.shared().book).best(None, wall_ms())
    }

    /// Says where this peer can be dialled from now on, in place of what the configuration says.
    pub async fn advertise(&self, addresses: Vec<String>) -> Result<(), Error> {
        *locked(&self.shared().advertised) = Some(addresses.clone());
        if self.shared().own.set_addresses(&addresses) {
            self.hear(Heard::Record);
        }
        self.shared().command(Command::Addresses(addresses)).await
    }

    /// Takes an announce that came over HTTP, if this peer is a tracker.
    pub fn take_announce(&self, request: &AnnounceRequest, from: IpAddr) -> Result<AnnounceAnswer, AnnounceError> {
        let role = self.shared().tracker_role.as_ref().ok_or(TrackerRefusal::Off)?;
        let announce = request.verified()?;
        let list = self.shared().blocked.borrow();
        if list.has_address(from) || list.has_device(&announce.record.device) {
            return Err(AnnounceError::Blocked);
        }
        Ok(role.announce(&announce, Some(from))?.into())
    }

    /// Devices that have announced to this peer and are listed now; `None`: it is no tracker.
    pub fn announced(&self) -> Option<usize> {
        self.shared().tracker_role.as_ref().map(TrackerRole::devices)
    }

    fn hear(&self, heard: Heard) {
        let _ = self.shared().heard.try_send(heard);
    }

    /// What happens on this node, from now on.
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.shared().events.subscribe()
    }

    /// Returns when a peer and this one have compared a space and found it the same, and the peer has what this device
    /// made since. Puts no limit to the time.
    pub async fn wait_level(&self, space: SpaceId, peer: DeviceId) -> Result<(), Error> {
        self.space(space)?;
        self.shared().until(|| locked(&self.shared().tracker).is_level(&space, &peer)).await
    }

    /// The connected peers that hold a space, and whether each is level in it, as [`Node::wait_level`] means it.
    pub fn sharing(&self, space: SpaceId) -> Result<Vec<(DeviceId, bool)>, Error> {
        self.space(space)?;
        Ok(locked(&self.shared().tracker).sharing(&space))
    }

    // The program's own.

    /// Writes rows that the program keeps in the store beside what peers share, all or none, or takes them out; returns when that is on disk.
    /// A key has at most 1,020 bytes, a value 64 MiB. They go where the store goes: into backups, and back from them.
    pub async fn put_app_rows(&self, rows: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), Error> {
        self.shared().running()?;
        Ok(self.shared().blocking(move |storage| storage.put_app_rows(rows)).await??)
    }

    /// Waits until what is read of the store holds all that events have told of.
    pub async fn settle(&self) -> Result<(), Error> {
        self.shared().settle().await
    }

    /// The program's own rows whose keys begin so, by key.
    pub async fn app_rows(&self, prefix: &[u8]) -> Result<Vec<Row>, Error> {
        let prefix = prefix.to_vec();
        Ok(self.shared().blocking(move |storage| storage.app_rows(&prefix)).await??)
    }

    // Files.

    /// Writes a space, or some of its documents, as a bundle: what another peer takes with [`Node::import`].
    pub async fn export(
        &self,
        space: SpaceId,
        docs: Option<Vec<DocId>>,
        to: impl AsyncWrite + Unpin,
    ) -> Result<ExportReport, Error> {
        bundle::export(self, space, docs, to).await
    }

    /// Takes a bundle, checked like what comes from a stranger, or an `.automerge` file, which becomes a new document in
    /// `into`.
    pub async fn import(&self, from: impl AsyncRead + Unpin, into: Option<SpaceId>) -> Result<ImportReport, Error> {
        let report = bundle::import(self, from, into).await;
        // What came may say where others are.
        self.hear(Heard::Spaces);
        report
    }

    /// Reads every row and checks what can be checked: checksums, ids, the signatures over them.
    pub async fn check(&self) -> Result<CheckReport, Error> {
        self.shared().settle().await?;
        Ok(self.shared().blocking(check).await??)
    }

    /// Closes in good order: edits are flushed, snapshots made where they pay, peers told goodbye, and chains marked
    /// as complete, so that the next run continues them. Other clones of the node are of no use afterwards.
    pub async fn close(self) -> Result<(), Error> {
        let shared = self.shared();
        let open: Vec<_> = locked(&shared.documents).open.values().cloned().collect();
        let mut first_error = None;
        for document in open {
            match document.flush().await {
                Err(Error::Deleted(_) | Error::Blocked(_) | Error::Quarantined { .. } | Error::UnknownDocument(_))
                | Ok(_) => {}
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        let _ = tokio::time::timeout(CLOSE_COMPACT, self.compact()).await;
        shared.write_book().await;
        let (reply, closed) = oneshot::channel();
        shared.command(Command::Close(reply)).await?;
        let storage = closed.await.map_err(|_| Error::Closed)?;
        let lineage = locked(&self.inner.lineage).take();
        if let (Some(storage), Some(lineage)) = (storage, lineage) {
            let lost = shared.chain_lost.load(Ordering::Relaxed);
            let done = tokio::task::spawn_blocking(move || start::last_word(storage, lineage, lost)).await;
            done.map_err(|_| Error::Internal("closing the store failed"))??;
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Makes the snapshot of a document now, instead of when it pays and the document rests.
    pub async fn compact_now(&self, space: SpaceId, doc: DocId) -> Result<(), Error> {
        self.pack(vec![(space, doc)]).await
    }

    async fn compact(&self) -> Result<(), Error> {
        let (reply, loose) = oneshot::channel();
        self.shared().command(Command::Loose(reply)).await?;
        let docs = loose.await.map_err(|_| Error::Closed)?;
        self.pack(docs).await
    }

    async fn pack(&self, docs: Vec<(SpaceId, DocId)>) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        self.shared().command(Command::Compact { docs, reply }).await?;
        done.await.map_err(|_| Error::Closed)
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.device())
    }
}

/// A choice of documents, no longer than a hello can say.
fn choice(docs: impl IntoIterator<Item = DocId>) -> Result<Vec<DocId>, Error> {
    let docs: BTreeSet<DocId> = docs.into_iter().collect();
    if docs.len() > LIST_MAX {
        return Err(Error::TooMuch { what: "documents taken of a space", max: LIST_MAX });
    }
    Ok(docs.into_iter().collect())
}
