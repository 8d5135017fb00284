//! What the connections of the gateway share: which document an id means, who has which open, what was relayed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use commonhold_engine::{DocId, DocumentQuery, EntryId, Error, Node, NodeEvent, SpaceId};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, mpsc};
use tracing::warn;

use super::connection::Outgoing;
use super::ids::{self, KIND, RepoId, head_text};
use super::wire::{Counts, Ephemeral, Speech};

/// Ids that came to mean another document, which a slow connection may be behind. Beyond it, it looks at all of its own.
const MOVES_MAX: usize = 1_024;

pub(super) struct Hub {
    pub(super) node: Node,
    pub(super) space: SpaceId,
    /// Who this peer is to clients.
    pub(super) name: String,
    /// The id of this peer's storage: another store has another.
    pub(super) storage: String,
    /// About 100 bytes for each document of the space.
    directory: Mutex<BTreeMap<RepoId, DocId>>,
    moves: broadcast::Sender<RepoId>,
    clients: Mutex<Clients>,
    counts: Mutex<Counts>,
    /// Held while a document is created, so that it is created once.
    creating: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Clients {
    last: u64,
    /// By number.
    joined: BTreeMap<u64, Client>,
}

/// A client that has joined.
struct Client {
    /// Its own name for itself.
    name: String,
    storage: Option<String>,
    queue: mpsc::Sender<Outgoing>,
    /// Told when the same client has come again.
    replaced: Arc<Notify>,
    /// Its documents, and what it last said that it has of them.
    open: BTreeMap<RepoId, Vec<EntryId>>,
    subscribed: BTreeSet<String>,
}

/// Storages that one client may follow.
const SUBSCRIBED_MAX: usize = 256;

impl Hub {
    /// Knows the documents of the space. What changes about them comes with the events.
    pub(super) async fn open(node: Node, space: SpaceId) -> Result<(Hub, broadcast::Receiver<NodeEvent>), Error> {
        let events = node.events();
        let hub = Hub {
            name: format!("commonhold-{}", node.device()),
            storage: uuid_like(&node),
            node,
            space,
            directory: Mutex::default(),
            moves: broadcast::Sender::new(MOVES_MAX),
            clients: Mutex::default(),
            counts: Mutex::default(),
            creating: tokio::sync::Mutex::default(),
        };
        hub.list().await?;
        Ok((hub, events))
    }

    /// Reads the directory anew.
    async fn list(&self) -> Result<(), Error> {
        let directory = ids::directory(&self.node.documents(self.space, DocumentQuery::default()).await?);
        let before = std::mem::replace(&mut *locked(&self.directory), directory.clone());
        for (id, doc) in directory {
            if before.get(&id) != Some(&doc) {
                let _ = self.moves.send(id);
            }
        }
        Ok(())
    }

    /// A document of the space became known. Of two with one id the lesser is meant, on every peer.
    fn found(&self, id: RepoId, doc: DocId) {
        let mut directory = locked(&self.directory);
        let known = directory.get(&id).copied();
        if known.is_none_or(|known| doc < known) {
            directory.insert(id, doc);
            let _ = self.moves.send(id);
        }
    }

    /// The document that an id means.
    pub(super) fn find(&self, id: RepoId) -> Option<DocId> {
        locked(&self.directory).get(&id).copied()
    }

    /// Ids that mean another document than before.
    pub(super) fn moves(&self) -> broadcast::Receiver<RepoId> {
        self.moves.subscribe()
    }

    /// The document that an id means, made if there is none.
    pub(super) async fn create(&self, id: RepoId) -> Result<DocId, Error> {
        let _creating = self.creating.lock().await;
        if let Some(doc) = self.find(id) {
            return Ok(doc);
        }
        let made = self.node.create_documents(self.space, [(KIND, id.to_string())]).await?;
        let doc = made.first().copied().ok_or(Error::Internal("a document without an id"))?;
        self.found(id, doc);
        Ok(doc)
    }

    // Clients.

    /// A client has joined. An earlier connection of the same ends. Gives its number.
    pub(super) fn join(
        &self,
        name: &str,
        storage: Option<&str>,
        queue: mpsc::Sender<Outgoing>,
        replaced: Arc<Notify>,
    ) -> u64 {
        let mut clients = locked(&self.clients);
        clients.joined.values().filter(|client| client.name == name).for_each(|client| client.replaced.notify_one());
        clients.last += 1;
        let number = clients.last;
        let (name, storage) = (name.to_owned(), storage.map(str::to_owned));
        let (open, subscribed) = (BTreeMap::new(), BTreeSet::new());
        clients.joined.insert(number, Client { name, storage, queue, replaced, open, subscribed });
        number
    }

    pub(super) fn leave(&self, number: u64) {
        locked(&self.clients).joined.remove(&number);
    }

    /// A client has a document open, or not any more.
    pub(super) fn set_open(&self, number: u64, id: RepoId, open: bool) {
        if let Some(client) = locked(&self.clients).joined.get_mut(&number) {
            match open {
                true => drop(client.open.entry(id).or_default()),
                false => drop(client.open.remove(&id)),
            }
        }
    }

    /// Relays a message to everybody else who has the document open, once. Who does not keep up misses it.
    pub(super) fn relay(&self, number: u64, message: &Ephemeral<'_>) {
        let clients = locked(&self.clients);
        let Some(from) = clients.joined.get(&number).filter(|from| from.open.contains_key(&message.id)) else { return };
        // Who is connected speaks for itself, so nobody else can use up its numbers.
        let speaks = from.name == message.sender;
        if !speaks && clients.joined.values().any(|client| client.name == message.sender) {
            return;
        }
        if !locked(&self.counts).is_new(message) {
            return;
        }
        for (other, client) in &clients.joined {
            if *other != number && client.name != message.sender && client.open.contains_key(&message.id) {
                let frame = Speech { from: &self.name, to: &client.name }.ephemeral(message);
                let _ = client.queue.try_send(Outgoing::Frame(frame));
            }
        }
    }

    /// A client follows storages, and is told what those that are connected have.
    pub(super) fn subscribe(&self, number: u64, add: &[&str], remove: &[&str]) {
        let mut clients = locked(&self.clients);
        let Some(client) = clients.joined.get_mut(&number) else { return };
        for storage in remove {
            client.subscribed.remove(*storage);
        }
        let room = SUBSCRIBED_MAX - client.subscribed.len();
        client.subscribed.extend(add.iter().take(room).map(|storage| (*storage).to_owned()));
        let Some(client) = clients.joined.get(&number) else { return };
        for other in clients.joined.values() {
            if let Some(storage) = other.storage.as_ref().filter(|storage| add.contains(&storage.as_str())) {
                for (id, heads) in &other.open {
                    self.tell_heads(client, *id, storage, heads);
                }
            }
        }
    }

    /// A client says what it has of a document. Who follows its storage is told.
    pub(super) fn heads(&self, number: u64, id: RepoId, heads: Vec<EntryId>) {
        let mut clients = locked(&self.clients);
        let Some(client) = clients.joined.get_mut(&number) else { return };
        let Some(before) = client.open.get_mut(&id).filter(|before| **before != heads) else { return };
        before.clone_from(&heads);
        let Some(storage) = client.storage.clone() else { return };
        for (other, client) in &clients.joined {
            if *other != number {
                self.tell_heads(client, id, &storage, &heads);
            }
        }
    }

    fn tell_heads(&self, to: &Client, id: RepoId, storage: &str, heads: &[EntryId]) {
        if heads.is_empty() || !to.subscribed.contains(storage) || !to.open.contains_key(&id) {
            return;
        }
        let heads: Vec<String> = heads.iter().map(head_text).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let frame = Speech { from: &self.name, to: &to.name }.remote_heads(id, storage, &heads, now);
        let _ = to.queue.try_send(Outgoing::Frame(frame));
    }
}

/// Keeps the directory as the space is.
pub(super) async fn follow(hub: Arc<Hub>, mut events: broadcast::Receiver<NodeEvent>) {
    loop {
        let anew = match events.recv().await {
            Ok(NodeEvent::Document { space, doc, kind, name }) if space == hub.space => {
                hub.found(RepoId::created(&kind, &name).unwrap_or_else(|| RepoId::derived(&doc)), doc);
                false
            }
            Ok(NodeEvent::Withdrawn { space, .. } | NodeEvent::Deleted { space, .. }) => space == hub.space,
            Ok(_) => false,
            Err(RecvError::Lagged(_)) => true,
            Err(RecvError::Closed) => return,
        };
        if anew && let Err(error) = hub.list().await {
            warn!(%error, "cannot list the documents of the gateway's space");
        }
    }
}

/// The id of the store in the form that clients expect of a storage.
fn uuid_like(node: &Node) -> String {
    let hash = blake3::Hasher::new().update(b"commonhold storage 1").update(&node.store_id().0).finalize().to_hex();
    format!("{}-{}-{}-{}-{}", &hash[..8], &hash[8..12], &hash[12..16], &hash[16..20], &hash[20..32])
}

/// Plain tables, whole at every point where something could panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
