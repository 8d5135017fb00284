//! What a backup holds becomes a store again, and is checked like one before it takes anybody's place.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use commonhold_sync::blobs::Blob;
use commonhold_sync::id::SpaceId;

use super::format::{self, Found, Unpack};
use super::{BackupError, Manifest};
use crate::blobs::{BlobLimits, BlobStore, FOLDER as BLOBS, FileBlobs};
use crate::check::{CheckReport, check};
use crate::start::STORE_FILE;
use crate::storage::Storage;
use crate::store::{Batch, Options, RedbStore, Store, StoreLock, Table};

/// Bytes of rows in one commit.
const BATCH_BYTES: usize = 16 << 20;
/// The folder in the data folder in which a store is made before it takes its place.
const RESTORING: &str = "restoring";
/// Begins the names of folders in which stores lie that were replaced.
const REPLACED: &str = "replaced-";

/// A backup that is as it was written, and holds together.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Its manifest.
    pub manifest: Manifest,
    /// Bytes of the file.
    pub bytes: u64,
    /// What the check of the store found: nothing at fault. `None`: only digests were compared.
    pub check: Option<CheckReport>,
}

/// A store that was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What was in the backup.
    pub verified: Verified,
    /// Where the store lies now that was here before.
    pub replaced: Option<PathBuf>,
}

/// Reads a backup and compares every digest in it. With `scratch`, a folder in which a store may lie for a while, the store is also unpacked
/// there, and its ids, trees and signatures are computed again. `progress` is told how many bytes were read.
pub fn verify(from: impl Read, scratch: Option<&Path>, progress: &mut dyn FnMut(u64)) -> Result<Verified, BackupError> {
    let Some(scratch) = scratch else {
        return sound(format::read(from, &mut Nowhere, progress)?, None);
    };
    let mut unpacking = Unpacking::begin(scratch, false)?;
    let found = format::read(from, &mut unpacking, progress)?;
    unpacking.checked(found)
}

/// Makes a store of a backup in a data folder that no process uses. It is made beside its place, verified as [`verify`] does, and then renamed:
/// until then nothing of what was there is touched. A store that is there is moved into a folder beside with `replace`, and otherwise an error.
pub fn restore(
    from: impl Read,
    data: &Path,
    replace: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<Restored, BackupError> {
    fs::create_dir_all(data)?;
    let _lock = StoreLock::take(&data.join(STORE_FILE), true)?;
    let (place, blobs) = (data.join(STORE_FILE), data.join(BLOBS));
    let taken = place.try_exists()? || blobs.try_exists()?;
    if taken && !replace {
        return Err(BackupError::Exists);
    }
    let making = Making::begin(data.join(RESTORING))?;
    let mut unpacking = Unpacking::begin(&making.0, true)?;
    let found = format::read(from, &mut unpacking, progress)?;
    let verified = unpacking.checked(found)?;
    let replaced = match taken {
        true => Some(move_aside(data)?),
        false => None,
    };
    // The store comes last: what is there before it is looked at by nobody.
    for name in [BLOBS, STORE_FILE] {
        let made = making.0.join(name);
        if made.try_exists()? {
            fs::rename(made, data.join(name))?;
        }
    }
    File::open(data)?.sync_all()?;
    Ok(Restored { verified, replaced })
}

/// Moves a store and its blobs into a new folder beside. Gives the folder.
fn move_aside(data: &Path) -> io::Result<PathBuf> {
    let mut number = 0;
    let aside = loop {
        number += 1;
        let aside = data.join(format!("{REPLACED}{number}"));
        match private_folder(&aside) {
            Ok(()) => break aside,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    };
    for name in [STORE_FILE, BLOBS] {
        let there = data.join(name);
        if there.try_exists()? {
            fs::rename(there, aside.join(name))?;
        }
    }
    Ok(aside)
}

fn private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// The folder in which a store is made; removed when this is dropped, and what an earlier run left of it before.
struct Making(PathBuf);

impl Making {
    fn begin(path: PathBuf) -> io::Result<Making> {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        private_folder(&path)?;
        Ok(Making(path))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // What cannot be removed is removed by the next.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What was found, if nothing of it is damaged.
fn sound(found: Found, check: Option<CheckReport>) -> Result<Verified, BackupError> {
    match found.manifest {
        Some(manifest) if found.damage.is_empty() => Ok(Verified { manifest, bytes: found.bytes, check }),
        _ => Err(BackupError::Damaged(found.damage)),
    }
}

/// Compares digests only.
struct Nowhere;

impl Unpack for Nowhere {
    fn row(&mut self, _: Table, _: &[u8], _: &[u8]) -> Result<(), BackupError> {
        Ok(())
    }

    fn blob(&mut self, _: &SpaceId, _: &Blob) -> Result<(), BackupError> {
        Ok(())
    }

    fn piece(&mut self, _: &[u8]) -> Result<(), BackupError> {
        Ok(())
    }

    fn end_blob(&mut self) -> Result<(), BackupError> {
        Ok(())
    }
}

/// A store that is being made.
struct Unpacking {
    store: Arc<dyn Store>,
    batch: Batch,
    /// Where blobs go, if they are kept, and the file of the one that comes.
    blobs: Option<(PathBuf, FileBlobs)>,
    coming: Option<(SpaceId, PathBuf, File)>,
}

impl Unpacking {
    fn begin(folder: &Path, blobs: bool) -> Result<Unpacking, BackupError> {
        let store = RedbStore::open(folder.join(STORE_FILE), &Options::default())?;
        // What was held may be held again.
        let limits = BlobLimits { bytes_per_space: u64::MAX, ..BlobLimits::default() };
        let blobs = blobs.then(|| (folder.join("blob"), FileBlobs::new(folder.join(BLOBS), limits)));
        Ok(Unpacking { store: Arc::new(store), batch: Batch::new(), blobs, coming: None })
    }

    fn commit(&mut self) -> Result<(), BackupError> {
        Ok(self.store.commit(std::mem::take(&mut self.batch))?)
    }

    /// Everything was read: the store is closed and checked.
    fn checked(mut self, found: Found) -> Result<Verified, BackupError> {
        let verified = sound(found, None)?;
        self.commit()?;
        let report = check(&Storage::new(self.store.clone()))?;
        match report.is_sound() {
            true => Ok(Verified { check: Some(report), ..verified }),
            false => Err(BackupError::Unsound(Box::new(report))),
        }
    }
}

impl Unpack for Unpacking {
    fn row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), BackupError> {
        self.batch.put(table, key, value);
        match self.batch.size_bytes() < BATCH_BYTES {
            true => Ok(()),
            false => self.commit(),
        }
    }

    fn blob(&mut self, space: &SpaceId, _: &Blob) -> Result<(), BackupError> {
        self.coming = match &self.blobs {
            Some((path, _)) => Some((*space, path.clone(), File::create(path)?)),
            None => None,
        };
        Ok(())
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        match &mut self.coming {
            Some((_, _, file)) => Ok(file.write_all(bytes)?),
            None => Ok(()),
        }
    }

    fn end_blob(&mut self) -> Result<(), BackupError> {
        if let (Some((space, path, file)), Some((_, blobs))) = (self.coming.take(), &self.blobs) {
            drop(file);
            blobs.put(&space, &mut File::open(&path)?).map_err(io::Error::other)?;
            fs::remove_file(path)?;
        }
        Ok(())
    }
}
