//! One owner for a store: a lock file beside it, which also says who the owner is.
//!
//! The operating system ends the lock with the process, so a lock file that is left behind means nothing. The lock is
//! taken before the store file is looked at, so creating a store is as exclusive as using one; the file itself cannot serve,
//! because a new store appears under its name only when it is complete.

use super::StoreError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The held lock. Dropping it lets the next owner in.
#[derive(Debug)]
pub(crate) struct StoreLock {
    file: File,
    exclusive: bool,
}

impl StoreLock {
    /// Takes the lock of the store at `path`: exclusive for an owner that writes, shared between readers. `None` when
    /// a reader may not create the lock file (a read-only medium), where only redb's own lock on the file remains.
    pub(crate) fn take(path: &Path, exclusive: bool) -> Result<Option<Self>, StoreError> {
        let file = match open(&beside(path, ".lock")) {
            Ok(file) => file,
            Err(error) if !exclusive && cannot_write(&error) => return Ok(None),
            Err(error) => return Err(StoreError::io("opening the lock file", error)),
        };
        match if exclusive { file.try_lock() } else { file.try_lock_shared() } {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { pid: pid_in(&file) }),
            // A file system without locks: redb then has none either, and the operator has to see to it
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("locking the store", error)),
        }
        let lock = Self { file, exclusive };
        lock.sign().map_err(|error| StoreError::io("writing the lock file", error))?;
        Ok(Some(lock))
    }

    /// Leaves this process's id in the file. Readers are several, so they only wipe out what was there.
    fn sign(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        if self.exclusive {
            (&self.file).write_all(std::process::id().to_string().as_bytes())?;
        }
        Ok(())
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        if self.exclusive {
            // Only a hint to others; the lock itself ends with the file
            let _ = self.file.set_len(0);
        }
    }
}

/// The name of a file that belongs to the store at `path`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Options that create files for the owner's eyes only.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn open(path: &Path) -> io::Result<File> {
    private().read(true).write(true).create(true).truncate(false).open(path)
}

fn cannot_write(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn pid_in(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_learns_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let lock = StoreLock::take(&path, true).unwrap();
        let Err(StoreError::InUse { pid }) = StoreLock::take(&path, true) else { panic!("two owners") };
        assert_eq!(pid, Some(std::process::id()));
        assert!(StoreLock::take(&path, false).is_err());
        drop(lock);
        let _reader = StoreLock::take(&path, false).unwrap();
        let _another = StoreLock::take(&path, false).unwrap();
        let Err(StoreError::InUse { pid }) = StoreLock::take(&path, true) else { panic!("an owner beside readers") };
        assert_eq!(pid, None);
    }
}
