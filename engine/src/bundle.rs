//! Bundles: a space in a file, for a stick or an archive.
//!
//! Format 1: `commonhold bundle 1\n`; rows, each table id (1 byte), length of key and of value (4 bytes each, big end first),
//! key, value; then 255 and the BLAKE3 of everything before it. The rows are those of docs/storage.md, "Keys and values".
//!
//! A bundle is trusted as little as a stranger: importing opens a second peer over its rows, in memory and under a key of
//! its own, and lets it sync with this one. So there is one set of rules, and a file cannot get around it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use commonhold_sync::clock::Ends;
use commonhold_sync::id::{DocId, SpaceId};
use commonhold_sync::record::Genesis;
use commonhold_sync::space::SpaceRow;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::error::Error;
use crate::foreign;
use crate::node::Node;
use crate::shared::Shared;
use crate::status::NodeEvent;
use crate::storage::{Carried, Storage};
use crate::store::{Batch, MemoryStore, Store, Table};
use crate::transport::Link;

const MAGIC: &[u8] = b"commonhold bundle 1\n";
const END: u8 = u8::MAX;
/// Bytes of a file that is imported: it is held in memory meanwhile.
const BYTES_MAX: usize = 1 << 30;
/// Bytes written at once.
const CHUNK: usize = 256 << 10;
/// How long an import waits without getting anywhere.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// Documents.
    pub documents: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What was imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Into which space.
    pub space: Option<SpaceId>,
    /// The documents in the file.
    pub documents: Vec<DocId>,
    /// Entries in the file; those that were held before count too.
    pub entries: u64,
}

pub(crate) async fn export(
    node: &Node,
    space: SpaceId,
    docs: Option<Vec<DocId>>,
    mut to: impl AsyncWrite + Unpin,
) -> Result<ExportReport, Error> {
    node.space(space)?;
    node.shared().settle().await?;
    let docs: Option<BTreeSet<DocId>> = docs.map(|docs| docs.into_iter().collect());
    let (chunks, mut written) = mpsc::channel::<Vec<u8>>(4);
    let shared = node.shared().clone();
    let reading = tokio::spawn(async move {
        let read = move |storage: &Storage| {
            let mut chunk = MAGIC.to_vec();
            let mut hash = blake3::Hasher::new();
            let mut each = |table: Table, key: Vec<u8>, value: Vec<u8>| {
                put_row(&mut chunk, table, &key, &value);
                if chunk.len() < CHUNK {
                    return true;
                }
                hash.update(&chunk);
                chunks.blocking_send(std::mem::take(&mut chunk)).is_ok()
            };
            let copied = storage.copy(&space, docs.as_ref(), &mut each)?;
            chunk.push(END);
            hash.update(&chunk);
            chunk.extend_from_slice(hash.finalize().as_bytes());
            // If nobody takes it, the other side has failed and says why.
            let _ = chunks.blocking_send(chunk);
            Ok::<_, Error>(copied)
        };
        shared.blocking(read).await?
    });
    let mut bytes = 0;
    while let Some(chunk) = written.recv().await {
        bytes += chunk.len() as u64;
        to.write_all(&chunk).await?;
    }
    to.flush().await?;
    let copied = reading.await.map_err(|_| Error::Internal("reading the store failed"))??;
    Ok(ExportReport { documents: copied.ok_or(Error::UnknownSpace(space))?, bytes })
}

fn put_row(out: &mut Vec<u8>, table: Table, key: &[u8], value: &[u8]) {
    out.push(table.id());
    out.extend_from_slice(&(key.len() as u32).to_be_bytes());
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

pub(crate) async fn import(
    node: &Node,
    from: impl AsyncRead + Unpin,
    into: Option<SpaceId>,
) -> Result<ImportReport, Error> {
    let mut bytes = Vec::new();
    from.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() > BYTES_MAX {
        return Err(Error::TooMuch { what: "bytes of a file to import", max: BYTES_MAX });
    }
    if bytes.starts_with(&foreign::MAGIC) {
        let space = into.ok_or_else(|| Error::Import("name the space that the document is to go into".into()))?;
        return foreign::import(node, bytes, space).await;
    }
    let unpacked = tokio::task::spawn_blocking(move || unpack(&bytes)).await;
    let (store, space, genesis) = unpacked.map_err(|_| Error::Internal("reading the bundle failed"))??;
    if into.is_some_and(|into| into != space) {
        return Err(Error::Import(format!("the bundle holds space {space}, not the one named")));
    }
    take(node, store, space, genesis).await
}

/// The rows of a bundle as a store, and the space in it.
fn unpack(bytes: &[u8]) -> Result<(Arc<dyn Store>, SpaceId, Genesis), Error> {
    let fault = |what: &str| Error::Import(what.to_owned());
    let cut = || fault("the bundle is cut short or damaged; copy it again");
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| match bytes.starts_with(&MAGIC[..17]) {
        true => fault("the bundle was made by a newer version; upgrade"),
        false => fault("neither a bundle nor an Automerge file"),
    })?;
    let (content, check) = bytes.split_last_chunk::<32>().ok_or_else(cut)?;
    if blake3::hash(content).as_bytes() != check {
        return Err(cut());
    }
    let mut rest = &rest[..rest.len().saturating_sub(32)];
    let mut batch = Batch::new();
    let mut space = None;
    while let Some((&[id], after)) = rest.split_first_chunk::<1>() {
        if id == END {
            break;
        }
        let (lengths, after) = after.split_first_chunk::<8>().ok_or_else(cut)?;
        let length = |at: usize| lengths[at..at + 4].iter().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
        let (key, after) = after.split_at_checked(length(0)).ok_or_else(cut)?;
        let (value, after) = after.split_at_checked(length(4)).ok_or_else(cut)?;
        rest = after;
        let table = Table::ALL.into_iter().find(|table| table.id() == id).ok_or_else(cut)?;
        match table {
            Table::Spaces => {
                let row: SpaceRow = minicbor::decode(value).map_err(|_| cut())?;
                let genesis = row.genesis.as_ref().and_then(|bytes| Genesis::from_bytes(bytes).ok());
                let genesis = genesis.ok_or_else(|| fault("the bundle lacks the genesis of its space"))?;
                space = Some((genesis.space(), genesis));
            }
            Table::Records | Table::Documents | Table::Bodies | Table::Log | Table::Snapshots => {}
            _ => return Err(fault("the bundle holds rows that do not belong in one")),
        }
        batch.put(table, key, value);
    }
    let (space, genesis) = space.ok_or_else(|| fault("the bundle holds no space"))?;
    let store = MemoryStore::new();
    store.commit(batch).map_err(|error| Error::Import(error.to_string()))?;
    Ok((Arc::new(store), space, genesis))
}

/// Lets a peer over the bundle's rows sync with this one.
async fn take(node: &Node, store: Arc<dyn Store>, space: SpaceId, genesis: Genesis) -> Result<ImportReport, Error> {
    let carried = Storage::new(store.clone()).carried(&space)?;
    let documents = carried.iter().filter(|log| log.doc != space.authority());
    let lengths = documents.clone().flat_map(|log| log.clock.0.values()).map(Ends::length);
    let report = ImportReport {
        space: Some(space),
        documents: documents.clone().map(|log| log.doc).collect(),
        entries: lengths.sum(),
    };
    node.hold_space(space, genesis).await?;
    let config = Config { store: Some(Arc::new(move || Ok(store.clone()))), ..Config::default() };
    // Boxed: a node that imports opens a node, which could import.
    let other = Box::pin(Node::open(config)).await.map_err(|error| Error::Import(error.to_string()))?;
    let mut events = node.events();
    let (ours, theirs) = Link::pair(&Default::default());
    node.attach(ours, false, Some(other.device()));
    other.attach(theirs, true, Some(node.device()));
    let held = hold_all(node.shared(), space, carried, &mut events, &other).await;
    node.disconnect(other.device());
    drop(other);
    held.map(|()| report)
}

/// Waits until everything in the bundle is held here.
async fn hold_all(
    shared: &Shared,
    space: SpaceId,
    mut missing: Vec<Carried>,
    events: &mut broadcast::Receiver<NodeEvent>,
    other: &Node,
) -> Result<(), Error> {
    let mut until = Instant::now() + PATIENCE;
    let mut said = None;
    loop {
        let count = missing.len();
        let look = move |storage: &Storage| {
            let mut still = Vec::new();
            for log in missing {
                if !storage.covers(&space, &log)? {
                    still.push(log);
                }
            }
            Ok::<_, Error>(still)
        };
        missing = shared.blocking(look).await??;
        if missing.is_empty() {
            return Ok(());
        }
        if missing.len() < count {
            until = Instant::now() + PATIENCE;
        }
        // Looked at again after a moment, since what was admitted is on disk a little later.
        match timeout(Duration::from_millis(20), events.recv()).await {
            Ok(Ok(NodeEvent::Notice { peer, code, text, .. })) if peer == Some(other.device()) => {
                said = Some(format!("{text} ({code})"));
            }
            Ok(Ok(NodeEvent::Changed { from, .. })) if from == other.device() => until = Instant::now() + PATIENCE,
            Ok(Err(broadcast::error::RecvError::Closed)) => return Err(Error::Closed),
            _ => {}
        }
        if Instant::now() > until {
            let why = said.unwrap_or_else(|| "they do not pass the rules, or their authors have no right here".into());
            return Err(Error::Import(format!("{} logs of the bundle were not taken: {why}", missing.len())));
        }
    }
}
