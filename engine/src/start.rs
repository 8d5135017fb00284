//! Opening: keys, store, lineage, listeners, driver; and opening the store again after it failed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use commonhold_sync::id::StoreId;
use ed25519_dalek::SigningKey;
use tokio::sync::mpsc;

use crate::address_book::AddressBook;
use crate::block::BlockList;
use crate::config::{Config, OpenStore};
use crate::device::DeviceSecret;
use crate::dial;
use crate::discovery::{Discovery, HEARD_MAX, OwnRecord};
use crate::driver::Driver;
use crate::error::{Error, OpenError};
use crate::lineage::{self, Lineage, Outcome};
use crate::quarantine::Quarantine;
use crate::shared::{Parts, Shared, advertised};
use crate::status::NodeEvent;
use crate::storage::{Facts, Read, Storage, Stored};
use crate::store::{MemoryStore, Options, RedbStore, Store, StoreError, Table};
use crate::transport::{Listener, QuicSeed, TransportConfig, listen_with};

/// The store in the data folder.
pub(crate) const STORE_FILE: &str = "store.redb";
/// How long closing waits for reads that are under way: 5 s.
const RELEASE_TRIES: usize = 500;
const RELEASE_WAIT: Duration = Duration::from_millis(10);
/// A store up to this size is read whole when it is opened: 4 MiB, some 12 ms (docs/storage.md).
const LOOK_OVER_BYTES_MAX: u64 = 4 << 20;
/// Damaged rows that are told of then.
const DAMAGED_MAX: usize = 20;

/// What an open node owns besides what it shares.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lineage: Option<Lineage>,
    pub(crate) transport: Arc<TransportConfig>,
}

struct Ready {
    key: SigningKey,
    storage: Storage,
    stored: Stored,
    store_id: StoreId,
    salt: [u8; 8],
    outcome: Outcome,
    lineage: Option<Lineage>,
    book: AddressBook,
    blocked: Arc<BlockList>,
    quarantine: Quarantine,
    own_made_ms: Option<u64>,
}

pub(crate) async fn open(mut config: Config) -> Result<Opened, OpenError> {
    let (opener, again) = openers(&config)?;
    config.store = Some(again);
    let (data, keys) = (config.data.clone(), config.keys.clone());
    let ready = tokio::task::spawn_blocking(move || prepare(&opener, data.as_deref(), keys.as_deref())).await;
    let ready = ready.map_err(|error| OpenError::Random(error.to_string()))??;

    if let Some(message) = ready.outcome.message() {
        tracing::warn!(store = %ready.store_id, "{message}");
    }
    let quic_seed = blake3::derive_key("commonhold quic addresses 1", ready.key.as_bytes());
    let transport = Arc::new(TransportConfig {
        quic_seed: Some(QuicSeed(quic_seed)),
        #[cfg(feature = "tls")]
        tls: config.tls.clone(),
        ..TransportConfig::new(&config.limits)
    });
    let listeners = match bind(&config, &transport).await {
        Ok(listeners) => listeners,
        Err(error) => {
            // Nothing was edited: once the port is free, the next run goes on where the last one ended.
            if let Some(lineage) = ready.lineage
                && let Ok(Err(error)) =
                    tokio::task::spawn_blocking(move || last_word(ready.storage, lineage, false)).await
            {
                tracing::debug!(%error, "the store was not closed in good order");
            }
            return Err(error);
        }
    };
    let (heard, hears) = mpsc::channel(HEARD_MAX);
    let listening: Vec<_> = listeners.iter().map(|listener| listener.address().clone()).collect();
    let roles = config.roles();
    let own = OwnRecord::new(ready.key.clone(), roles, &advertised(&config, &listening), ready.own_made_ms);
    let parts = Parts {
        device: DeviceSecret::from_seed(&ready.key.to_bytes()).device_id(),
        store_id: ready.store_id,
        outcome: ready.outcome,
        listening,
        storage: ready.storage.clone(),
        book: ready.book,
        blocked: ready.blocked,
        quarantine: ready.quarantine,
        own,
        heard,
        roles,
    };
    let (shared, commands) = Shared::new(config, parts);
    let driver = Driver::new(shared.clone(), commands, ready.key, ready.storage, ready.stored, ready.salt)?;
    tokio::spawn(driver.run());
    tokio::spawn(Discovery::new(shared.clone(), transport.clone(), hears).run());
    for listener in listeners {
        tokio::spawn(dial::accept(shared.clone(), listener));
    }
    tracing::info!(device = %shared.device, store = %shared.store_id, outcome = ?shared.outcome, "open");
    Ok(Opened { shared, lineage: ready.lineage, transport })
}

/// Everything that others can find this node by.
async fn bind(config: &Config, transport: &Arc<TransportConfig>) -> Result<Vec<Listener>, OpenError> {
    let mut listeners = Vec::new();
    for address in &config.listen {
        let listener = listen_with(address, transport, &config.sockets).await;
        listeners.push(listener.map_err(|source| OpenError::Listen { address: address.to_string(), source })?);
    }
    Ok(listeners)
}

/// The shutdown token: in the store first, then outside. With `chain_lost`, the next run begins new chains: who wrote
/// further on one of these may have done so on others, of which this run heard nothing.
pub(crate) fn last_word(storage: Storage, mut lineage: Lineage, chain_lost: bool) -> Result<(), Error> {
    let failed = |error: lineage::LineageError| {
        tracing::warn!(%error, "the next run will begin new chains");
        Error::StoreFailed(Arc::new(StoreError::Failed { reason: error.to_string() }))
    };
    let facts = lineage.closing().map_err(failed)?;
    let no_salt = |source| StoreError::Io { doing: "asking for random numbers", source: Arc::new(source) };
    let salt = if chain_lost { Some(random().map_err(no_salt)?) } else { None };
    storage.put_facts(&Facts { store: None, salt, lineage: Some(facts) }, false)?;
    // Reads under way end within moments; then the file is free for its next owner.
    for _ in 0..RELEASE_TRIES {
        if Arc::strong_count(storage.store()) == 1 {
            break;
        }
        std::thread::sleep(RELEASE_WAIT);
    }
    drop(storage);
    lineage.closed().map_err(failed)
}

/// How the store is opened now, and how after a failure: then none is made, since the one that failed must be there.
pub(crate) fn openers(config: &Config) -> Result<(OpenStore, OpenStore), OpenError> {
    if let Some(store) = &config.store {
        return Ok((store.clone(), store.clone()));
    }
    let Some(data) = config.data.clone() else {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let opener: OpenStore = Arc::new(move || Ok(memory.clone()));
        return Ok((opener.clone(), opener));
    };
    if config.keys.is_none() {
        return Err(OpenError::NoKeys);
    }
    std::fs::create_dir_all(&data).map_err(|source| OpenError::Data { path: data.clone(), source })?;
    let (file, cache_bytes) = (data.join(STORE_FILE), config.cache_bytes);
    let opener = |create| -> OpenStore {
        let (file, options) = (file.clone(), Options { cache_bytes, create, ..Options::default() });
        Arc::new(move || Ok(Arc::new(RedbStore::open(&file, &options)?)))
    };
    Ok((opener(true), opener(false)))
}

/// Everything that blocks on the disk.
fn prepare(opener: &OpenStore, data: Option<&Path>, keys: Option<&Path>) -> Result<Ready, OpenError> {
    let secret = match keys {
        Some(keys) => DeviceSecret::load_or_create(keys)?,
        None => DeviceSecret::from_seed(&random()?),
    };
    let key = secret.signing_key().clone();
    let storage = Storage::new(opener()?);
    look_over(&storage)?;
    let Read { value: mut facts, damaged } = storage.facts()?;
    let doubt = !damaged.is_empty();
    for (_, key) in damaged {
        tracing::error!(key = %key.escape_ascii(), "a fact about the store is damaged: it goes on as a new one");
    }
    if doubt {
        // What cannot be decoded is a past that nothing is known of.
        facts = Facts { lineage: Some(Vec::new()), ..Facts::default() };
    }
    let file = data.map(|data| data.join(STORE_FILE)).filter(|file| file.exists());
    let (Some(keys), Some(file)) = (keys, file) else {
        // A store without a place: its id goes on, its chains never do.
        let salt = random()?;
        let store_id = match facts.store {
            Some(id) => id,
            None => StoreId(random()?),
        };
        let outcome = match facts.store {
            _ if doubt => Outcome::Restored,
            Some(_) => Outcome::Crashed,
            None => Outcome::Fresh,
        };
        storage.put_facts(&Facts { store: Some(store_id), salt: Some(salt), lineage: None }, facts.store.is_some())?;
        storage.count_usage()?;
        let stored = storage.start()?;
        storage.order_documents(stored.spaces.iter().map(|(space, ..)| *space))?;
        let (book, own_made_ms) = known_peers(&storage)?;
        let (blocked, quarantine) = (BlockList::load(&storage)?, storage.quarantine()?);
        return Ok(Ready {
            key,
            storage,
            stored,
            store_id,
            salt,
            outcome,
            lineage: None,
            book,
            blocked,
            quarantine,
            own_made_ms,
        });
    };
    if facts.store.is_none() && !doubt && !storage.is_new()? {
        let detail = "the row with the id of the store is missing".to_owned();
        return Err(StoreError::DamagedFile { detail }.into());
    }
    let opening = lineage::open(keys, &file, facts.lineage.as_deref())?;
    let (outcome, store_id) = (opening.outcome, opening.store_id);
    let salt = match facts.salt {
        Some(salt) if outcome.continues_chains() => salt,
        _ => random()?,
    };
    let now = Facts { store: Some(store_id), salt: Some(salt), lineage: Some(opening.to_store()) };
    // Numbers that a run showed and a crash took away are never given out again.
    storage.put_facts(&now, outcome == Outcome::Crashed)?;
    let lineage = Some(opening.stored()?);
    storage.count_usage()?;
    let stored = storage.start()?;
    storage.order_documents(stored.spaces.iter().map(|(space, ..)| *space))?;
    let (book, own_made_ms) = known_peers(&storage)?;
    let (blocked, quarantine) = (BlockList::load(&storage)?, storage.quarantine()?);
    Ok(Ready { key, storage, stored, store_id, salt, outcome, lineage, book, blocked, quarantine, own_made_ms })
}

/// The address book, and when this device last signed a record of itself.
fn known_peers(storage: &Storage) -> Result<(AddressBook, Option<u64>), StoreError> {
    let (rows, own_made_ms) = storage.peers()?;
    Ok((AddressBook::load(rows), own_made_ms))
}

/// Reads a small store whole. A damaged row in it is told now rather than when it is needed, and a row that a damaged page
/// hides is not mistaken for one that was never there. Of a large store `commonhold doctor` tells it.
fn look_over(storage: &Storage) -> Result<(), StoreError> {
    if storage.store().size_bytes()? > LOOK_OVER_BYTES_MAX {
        return Ok(());
    }
    for (table, _) in storage.store().damaged_rows(DAMAGED_MAX)? {
        tracing::error!(table = table.name(), "a row is damaged");
    }
    Ok(())
}

/// The store once more, after it failed. What the last writes came to is unknown, so chains are new and numbers leap.
pub(crate) fn reopen(shared: &Shared) -> Result<(Storage, Stored, [u8; 8]), StoreError> {
    let failed = |reason: &str| StoreError::Failed { reason: reason.into() };
    let opener = shared.config.store.as_ref().ok_or_else(|| failed("there is no way to open it again"))?;
    let storage = Storage::new(opener()?);
    // Somebody may have put another file there. What this run said is in its own store, or in none.
    if storage.facts()?.value.store != Some(shared.store_id) {
        return Err(failed("what is in its place now is another store: put it back, or start this peer again"));
    }
    let salt = random().map_err(|_| failed("the system gives no random numbers"))?;
    storage.put_facts(&Facts { salt: Some(salt), ..Facts::default() }, true)?;
    let stored = storage.start()?;
    Ok((storage, stored, salt))
}

/// Tells of rows that did not match their checksums.
pub(crate) fn note_damage(shared: &Shared, damaged: &[(Table, Vec<u8>)]) {
    for (table, key) in damaged {
        shared.damaged_rows.fetch_add(1, Ordering::Relaxed);
        tracing::error!(table = table.name(), key_bytes = key.len(), "a row is damaged and was left out");
        shared.emit(NodeEvent::Notice {
            peer: None,
            space: None,
            doc: None,
            code: "store_row_damaged".into(),
            text: format!("a row of table {} is damaged: sync again from a peer", table.name()),
        });
    }
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], std::io::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::from)?;
    Ok(bytes)
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        OpenError::Random(error.to_string())
    }
}
