//! What can go wrong with a store, sorted by who must act.

use super::Table;
use std::io;
use std::sync::Arc;

/// An error of a store. Every message says what to do; [`StoreError::code`] is for programs.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk, the file system or the operating system failed. The operator checks the disk.
    #[error("{doing} failed ({source}): check the disk and the permissions, then open the store again")]
    Io {
        /// What the store was doing.
        doing: &'static str,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// No space, or a quota, or the largest file the file system allows. The operator frees space.
    #[error("the disk is full ({source}): free some space, then open the store again")]
    Full {
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// A write on a store that was opened read-only, or that lies on a read-only file system.
    #[error("the store is read-only: open it for writing, on a file system that allows it")]
    ReadOnly,
    /// A later version of the program wrote the store. The operator upgrades the program. Nothing was changed.
    #[error("the store has format {found}, this program knows formats up to {known}: use a newer version")]
    NewerFormat {
        /// Format of the store.
        found: u32,
        /// Newest format that this program reads.
        known: u32,
    },
    /// The file is something else, or empty. It was not changed.
    #[error("not a store: {reason}: check the path, or restore the file from a backup")]
    NotAStore {
        /// What the file is or lacks.
        reason: String,
    },
    /// Another process, or another part of this one, has the store open.
    #[error("the store is in use by {}: stop it, or reach the store through it", holder(*pid))]
    InUse {
        /// Process that has it open, where known.
        pid: Option<u32>,
    },
    /// One row does not match its checksum. A document that needs it is refused; other rows are not affected.
    #[error("a row of table {} is damaged (key {}): restore a backup, or sync into a new store from a peer", table.name(), hex(key))]
    Damaged {
        /// Table of the row.
        table: Table,
        /// Key of the row.
        key: Vec<u8>,
    },
    /// The structure that leads to the rows is damaged, so any row may be out of reach. The store takes no more writes. The
    /// operator restores a backup, or starts a new store and lets peers fill it.
    #[error(
        "the store file is damaged ({detail}): restore it from a backup, or move it away and sync again from peers"
    )]
    DamagedFile {
        /// What was found.
        detail: String,
    },
    /// A row over [`KEY_BYTES_MAX`](super::KEY_BYTES_MAX) or [`VALUE_BYTES_MAX`](super::VALUE_BYTES_MAX): the caller's
    /// mistake. Nothing of the batch was written, and the store goes on.
    #[error("a {what} of {bytes} bytes for table {} is over the limit of {max} bytes", table.name())]
    TooLarge {
        /// Table of the row.
        table: Table,
        /// `key` or `value`.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// An earlier operation failed in a way that leaves open what the disk holds. Writes are refused until the store is
    /// opened again; reads may fail too.
    #[error("the store failed earlier ({reason}) and takes no more writes: open it again")]
    Failed {
        /// The first failure.
        reason: String,
    },
}

impl StoreError {
    /// A name of the kind of error that stays the same in all versions.
    pub fn code(&self) -> &'static str {
        match self {
            StoreError::Io { .. } => "store_io",
            StoreError::Full { .. } => "store_full",
            StoreError::ReadOnly => "store_read_only",
            StoreError::NewerFormat { .. } => "store_newer_format",
            StoreError::NotAStore { .. } => "store_not_a_store",
            StoreError::InUse { .. } => "store_in_use",
            StoreError::Damaged { .. } => "store_row_damaged",
            StoreError::DamagedFile { .. } => "store_file_damaged",
            StoreError::TooLarge { .. } => "store_too_large",
            StoreError::Failed { .. } => "store_failed",
        }
    }

    /// An I/O error, sorted into full, read-only and the rest.
    pub(super) fn io(doing: &'static str, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => StoreError::Full { source: Arc::new(source) },
            ReadOnlyFilesystem => StoreError::ReadOnly,
            _ => StoreError::Io { doing, source: Arc::new(source) },
        }
    }

    /// Whether the store may go on writing after this error.
    pub(super) fn leaves_store_usable(&self) -> bool {
        matches!(self, StoreError::Damaged { .. } | StoreError::TooLarge { .. } | StoreError::ReadOnly)
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// The first bytes of a key for a message; keys hold ids, which are told apart long before 32 bytes.
fn hex(key: &[u8]) -> String {
    let shown: String = key.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
    if key.len() > 32 { format!("{shown}… of {} bytes", key.len()) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_are_sorted_by_who_must_act() {
        let code = |kind: io::ErrorKind| StoreError::io("testing", kind.into()).code();
        assert_eq!(code(io::ErrorKind::StorageFull), "store_full");
        assert_eq!(code(io::ErrorKind::QuotaExceeded), "store_full");
        assert_eq!(code(io::ErrorKind::ReadOnlyFilesystem), "store_read_only");
        assert_eq!(code(io::ErrorKind::PermissionDenied), "store_io");
    }

    #[test]
    fn messages_name_the_row_and_the_process() {
        let damaged = StoreError::Damaged { table: Table::Bodies, key: vec![0xab; 40] };
        assert!(damaged.to_string().contains("table bodies"));
        assert!(damaged.to_string().contains("abab… of 40 bytes"));
        assert!(StoreError::InUse { pid: Some(7) }.to_string().contains("process 7"));
        assert!(StoreError::InUse { pid: None }.to_string().contains("another process"));
    }
}
