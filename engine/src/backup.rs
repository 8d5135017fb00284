//! Backups: everything that a peer holds in one file ([`Manifest`] at its end), made while the peer runs, verified and restored without it.
//!
//! A backup is one snapshot of the store, and the blobs that are whole. What makes this device the device that it is lies in the keys folder
//! and is not in it. A restored store is a copy by its own word: it goes on under a new id and with new chains, so that nothing is signed twice,
//! and what was edited after the backup comes back from other peers.

mod format;
mod restore;

use std::io::{self, Write};

use commonhold_sync::id::SpaceId;

use crate::blobs::{Blob, BlobStore};
use crate::check::CheckReport;
use crate::discovery::wall_ms;
use crate::error::Error;
use crate::node::Node;
use crate::shared::locked;
use crate::storage::Storage;
use crate::store::StoreError;
use format::Writer;
pub use format::{Manifest, TableDigest};
pub use restore::{Restored, Verified, restore, verify};

/// What stands in the way of verifying or restoring a backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Another file.
    #[error("this is no backup: it does not begin like one")]
    NotABackup,
    /// A later version of the program made it.
    #[error("the backup has format {found}, this program knows formats up to {known}: use a newer version")]
    NewerFormat {
        /// Of the backup.
        found: u32,
        /// Newest that is known.
        known: u32,
    },
    /// It was altered or cut short. Nothing was restored.
    #[error("the backup is damaged at {} places, first at byte {}: {}", .0.len(), .0.first().map_or(0, |first| first.from), .0.first().map_or("", |first| &first.what))]
    Damaged(Vec<Damage>),
    /// It is as it was written, and what was written does not hold together. Nothing was restored.
    #[error("the store in the backup is not sound: {} rows and {} documents are at fault", .0.damaged_rows.len(), .0.faults.len())]
    Unsound(Box<CheckReport>),
    /// There is a store, and nobody said that it is to be replaced.
    #[error("there is a store already")]
    Exists,
    /// The store that is there, or the one that is made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file of the backup, or the folder to restore to.
    #[error("reading the backup or writing what it holds failed")]
    Io(#[from] io::Error),
}

/// A damaged place of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// First byte of the file that may be damaged.
    pub from: u64,
    /// The byte behind the last.
    pub to: u64,
    /// What stood there, as far as that can be told.
    pub what: String,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// The manifest, as it stands in the file.
    pub manifest: Manifest,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Node {
    /// Bytes that a backup has, about: those of the store, which has free pages that a backup has not, and of blobs.
    pub async fn backup_size(&self, blobs: bool) -> Result<u64, Error> {
        let (fetches, spaces) = (self.shared().blobs.store.clone(), self.space_ids());
        let size = move |storage: &Storage| -> Result<u64, Error> {
            let blobs = if blobs { all_blobs(&*fetches, &spaces)? } else { Vec::new() };
            Ok(storage.store().size_bytes()? + blobs.iter().map(|(_, blob)| blob.size).sum::<u64>())
        };
        self.shared().blocking(size).await?
    }

    /// Writes a backup: all that was acknowledged when this was called, and nothing half. Edits go on meanwhile; what they free of the store's
    /// file is used again only afterwards. A damaged row is an error, for a backup without it would be no backup. Writes on a thread of its own, and
    /// ends early with `to`.
    pub async fn backup(&self, blobs: bool, to: impl Write + Send + 'static) -> Result<BackupReport, Error> {
        self.shared().settle().await?;
        let facts = Manifest {
            format: format::FORMAT,
            program: concat!("commonhold/", env!("CARGO_PKG_VERSION")).to_owned(),
            made_ms: wall_ms(),
            device: self.device().to_string(),
            store: self.store_id().to_string(),
            tables: Vec::new(),
            blobs: 0,
            blob_bytes: 0,
        };
        let (fetches, spaces) = (self.shared().blobs.store.clone(), self.space_ids());
        let spaces = if blobs { spaces } else { Vec::new() };
        self.shared().blocking(move |storage| write(storage, &*fetches, &spaces, facts, to)).await?
    }

    fn space_ids(&self) -> Vec<SpaceId> {
        locked(&self.shared().spaces).keys().copied().collect()
    }
}

fn write(
    storage: &Storage,
    blobs: &dyn BlobStore,
    spaces: &[SpaceId],
    mut facts: Manifest,
    to: impl Write,
) -> Result<BackupReport, Error> {
    let mut writer = Writer::begin(to)?;
    let mut failed: Option<io::Error> = None;
    storage.store().each_row(&mut |table, key, value| {
        let Some(value) = Storage::row_of_copy(table, key, value) else { return true };
        match writer.row(table, key, value) {
            Ok(()) => true,
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    // After the rows: what they refer to is not collected within a day.
    for (space, blob) in all_blobs(blobs, spaces)? {
        // One that went since, or is damaged, is another peer's to give.
        let Some((first, _)) = blobs.read(&space, &blob, 0)? else { continue };
        writer.blob(&space, &blob)?;
        writer.piece(&first)?;
        for piece in 1..blob.pieces().unwrap_or(0) {
            let read = blobs.read(&space, &blob, piece)?;
            let gone = || io::Error::other(format!("blob {} is damaged, or went meanwhile: try again", blob.hash));
            writer.piece(&read.ok_or_else(gone)?.0)?;
        }
        facts.blobs += 1;
        facts.blob_bytes += blob.size;
    }
    let (manifest, bytes) = writer.finish(facts)?;
    Ok(BackupReport { manifest, bytes })
}

/// Whole blobs, of each space in the order of their names.
fn all_blobs(store: &dyn BlobStore, spaces: &[SpaceId]) -> Result<Vec<(SpaceId, Blob)>, Error> {
    let mut all = Vec::new();
    for space in spaces {
        all.extend(store.list(space)?.into_iter().map(|info| (*space, info.blob)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
