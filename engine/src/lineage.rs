//! Whether this run is the continuation of the last one: decided at open, from facts kept both in the store and in a
//! file outside the data folder. A copied or restored store must not go on under the old store id, since other peers
//! hold cursors into its sequence, nor go on with its chains, which would fork them.
//!
//! What no local file can tell: a whole disk set back together with its keys folder, and a copy of the store taken
//! while it ran, put back over the same file after that same run was killed. Neither continues a chain unless a
//! shutdown token says so, and a peer that shows more of a chain than is held here opens a new one.
//!
//! The steps, each durable before the next, so that a crash between any two only costs new chains:
//! [`open`] (the token outside is gone) → the caller stores [`Opening::to_store`] → [`Opening::stored`] → edits →
//! [`Lineage::closing`] → the caller stores that → [`Lineage::closed`] (a token is in both places).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use commonhold_sync::id::StoreId;
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use crate::device::private_file::{self, PrivateFileError, seal, unseal};

const LABEL: &str = "commonhold lineage 1";
const MACHINE_LABEL: &str = "commonhold machine 1";

/// 128 random bits: two runs or tokens are never equal by chance.
type Nonce = ByteArray<16>;

/// What a store turned out to be at open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A store without a past: a new id.
    Fresh,
    /// The last run ended cleanly and nothing was moved: its chains and the store id go on.
    Continue,
    /// The last run was killed: the store id goes on, its chains do not.
    Crashed,
    /// An older state, or a file put in place of the one that was here: a new id, new chains.
    Restored,
    /// The original is still there, or this is another machine: a new id, new chains.
    Copied,
}

impl Outcome {
    /// Chains of the last run may be continued.
    pub fn continues_chains(self) -> bool {
        self == Outcome::Continue
    }

    /// What the person should be told, if anything.
    pub fn message(self) -> Option<&'static str> {
        match self {
            Outcome::Fresh | Outcome::Continue | Outcome::Crashed => None,
            Outcome::Restored => Some(
                "this store was restored from a copy, or its keys folder was lost: it goes on as a new store, and edits \
                 made after the copy come back from other peers",
            ),
            Outcome::Copied => Some(
                "this store was copied or moved from elsewhere: it goes on as a new store. If the original still runs, \
                 give the copy a keys folder of its own",
            ),
        }
    }
}

/// The facts as the store keeps them: opaque bytes, under one key, written in a durable transaction.
pub type StoredLineage = Vec<u8>;

/// Lineage facts could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineageError {
    /// The file in the keys folder.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The store's own file.
    #[error("cannot look at the store file {}", .path.display())]
    Store {
        /// The store file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Facts {
    #[n(0)]
    store: StoreId,
    #[n(1)]
    run: Nonce,
    /// Present only between a clean shutdown and the next open.
    #[n(2)]
    token: Option<Nonce>,
    /// Outside only: a run that may have reached the store. No edit is made before it became `run`.
    #[n(3)]
    pending: Option<Nonce>,
    #[n(4)]
    place: Place,
}

/// Where a store lives.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Place {
    #[n(0)]
    inode: u64,
    #[n(1)]
    device: u64,
    /// A hash, so that neither file gives the machine's id away.
    #[n(2)]
    machine: Nonce,
    /// Absolute path; what is not UTF-8 in it is replaced, since it is only compared.
    #[n(3)]
    path: String,
}

impl Place {
    fn of(store_file: &Path, machine: Nonce) -> io::Result<Self> {
        let metadata = fs::metadata(store_file)?;
        let path = fs::canonicalize(store_file)?.to_string_lossy().into_owned();
        Ok(Place { inode: metadata.ino(), device: metadata.dev(), machine, path })
    }

    /// The same file on the same machine. Device numbers may change with a reboot (device mapper, btrfs, NFS) and paths
    /// with a rename, but not both at once with the inode kept.
    fn is(&self, other: &Place) -> bool {
        self.machine == other.machine
            && self.inode == other.inode
            && (self.device == other.device || self.path == other.path)
    }
}

/// The decision alone. `original_there`: the file that `outside` speaks of still exists elsewhere.
fn decide(stored: Option<&Facts>, outside: Option<&Facts>, here: &Place, original_there: bool) -> Outcome {
    let Some(stored) = stored else { return Outcome::Fresh };
    let Some(outside) = outside else { return Outcome::Restored };
    if !stored.place.is(here) || !outside.place.is(here) {
        let elsewhere = original_there || outside.place.machine != here.machine;
        return if elsewhere { Outcome::Copied } else { Outcome::Restored };
    }
    if stored.run != outside.run && Some(stored.run) != outside.pending {
        return Outcome::Restored;
    }
    match (stored.token, outside.token) {
        (Some(stored), Some(outside)) if stored == outside => Outcome::Continue,
        // A token reaches the store first and leaves the outside first, so this is a crash between two steps at most.
        (_, None) => Outcome::Crashed,
        // For the same reason this is a store set back to before its clean shutdown.
        (_, Some(_)) => Outcome::Restored,
    }
}

/// A store that was looked at, and that may not be edited yet.
#[derive(Debug)]
#[must_use = "edits need the facts of this run in the store and outside"]
pub struct Opening {
    /// What the store is.
    pub outcome: Outcome,
    /// The id under which it goes on.
    pub store_id: StoreId,
    lineage: Lineage,
}

impl Opening {
    /// What the caller must now store durably, in place of what was there.
    pub fn to_store(&self) -> StoredLineage {
        encode(&self.lineage.facts)
    }

    /// To be called when [`to_store`](Self::to_store) is on disk. From then on edits may be made.
    pub fn stored(self) -> Result<Lineage, LineageError> {
        self.lineage.write_outside(&self.lineage.facts)?;
        Ok(self.lineage)
    }
}

/// The lineage of a running store.
#[derive(Debug)]
pub struct Lineage {
    keys_dir: PathBuf,
    facts: Facts,
}

/// Decides what the store in `store_file` is. `stored` is what it kept of [`Opening::to_store`] or
/// [`Lineage::closing`], `None` for a new store; the file must exist and be locked against other processes. A shutdown
/// token is used up when this returns.
pub fn open(keys_dir: &Path, store_file: &Path, stored: Option<&[u8]>) -> Result<Opening, LineageError> {
    private_file::ensure_dir(keys_dir)?;
    let here = Place::of(store_file, machine(keys_dir)?)
        .map_err(|source| LineageError::Store { path: store_file.to_owned(), source })?;
    let facts = stored.and_then(decode);
    let outside = match &facts {
        Some(facts) => read_outside(keys_dir, facts.store)?,
        None => None,
    };
    let original_there = outside.as_ref().is_some_and(|outside| {
        let there = fs::metadata(&outside.place.path);
        outside.place.path != here.path && there.is_ok_and(|there| there.ino() == outside.place.inode)
    });
    let outcome = match stored {
        // There was a past, but it is unreadable: doubt enough.
        Some(_) if facts.is_none() => Outcome::Restored,
        _ => decide(facts.as_ref(), outside.as_ref(), &here, original_there),
    };
    let run = Nonce::from(private_file::random()?);
    let kept = facts.filter(|_| matches!(outcome, Outcome::Continue | Outcome::Crashed));
    let store_id = match &kept {
        Some(kept) => kept.store,
        None => StoreId(private_file::random()?),
    };
    let facts = Facts { store: store_id, run, token: None, pending: None, place: here };
    let lineage = Lineage { keys_dir: keys_dir.to_owned(), facts };
    if let Some(kept) = kept {
        // Until the store has the new run, both are right: a crash before or after it is no restore.
        lineage.write_outside(&Facts { run: kept.run, pending: Some(run), ..lineage.facts.clone() })?;
    }
    Ok(Opening { outcome, store_id, lineage })
}

impl Lineage {
    /// The store's id.
    pub fn store_id(&self) -> StoreId {
        self.facts.store
    }

    /// Begins a clean shutdown: what the caller must store durably, as the last thing it stores.
    pub fn closing(&mut self) -> Result<StoredLineage, LineageError> {
        self.facts.token = Some(private_file::random()?.into());
        Ok(encode(&self.facts))
    }

    /// Ends a clean shutdown, once what [`closing`](Self::closing) gave is on disk.
    pub fn closed(self) -> Result<(), LineageError> {
        self.write_outside(&self.facts)
    }

    fn write_outside(&self, facts: &Facts) -> Result<(), LineageError> {
        let contents = minicbor::to_vec(facts).expect("memory takes all writes");
        Ok(private_file::replace(&outside_path(&self.keys_dir, facts.store), LABEL, &contents)?)
    }
}

fn outside_path(keys_dir: &Path, store: StoreId) -> PathBuf {
    keys_dir.join(format!("lineage-{store}"))
}

/// Damage counts as absence: it is doubt, which never keeps a store from opening.
fn read_outside(keys_dir: &Path, store: StoreId) -> Result<Option<Facts>, LineageError> {
    match private_file::read(&outside_path(keys_dir, store), LABEL) {
        Ok(contents) => {
            Ok(contents.and_then(|bytes| minicbor::decode(&bytes).ok()).filter(|f: &Facts| f.store == store))
        }
        Err(PrivateFileError::Damaged(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn encode(facts: &Facts) -> StoredLineage {
    let contents = minicbor::to_vec(facts).expect("memory takes all writes");
    seal(LABEL, &contents).to_vec()
}

fn decode(stored: &[u8]) -> Option<Facts> {
    minicbor::decode(unseal(LABEL, stored)?).ok()
}

/// A hash of the machine's id, or of a random one kept in the keys folder where the system has none.
fn machine(keys_dir: &Path) -> Result<Nonce, LineageError> {
    let system = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    // Containers have an empty file or the word "uninitialized".
    if system.trim().len() >= 32 {
        return Ok(machine_hash(system.trim().as_bytes()));
    }
    let path = keys_dir.join("machine");
    private_file::create(&path, MACHINE_LABEL, &private_file::random::<16>()?)?;
    match private_file::read(&path, MACHINE_LABEL)? {
        Some(id) => Ok(machine_hash(&id)),
        None => Err(PrivateFileError::Damaged(path).into()),
    }
}

fn machine_hash(id: &[u8]) -> Nonce {
    let hash = blake3::derive_key("commonhold machine 1", id);
    Nonce::from(*hash.first_chunk().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests;
