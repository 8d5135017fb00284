//! The durable store under the engine: an ordered key-value store with a fixed set of tables and atomic durable
//! batches, and nothing else.
//!
//! What a key or a value means is not decided here; the layouts are the engine's (`docs/storage.md`). There is one writer
//! at a time, reads see the last finished batch, and every value read back has been checked against the checksum it was
//! stored with. Calls block on the disk: an async caller makes them on a thread of their own, unless [`Store::blocks`] says no.

mod batch;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
mod lock;
mod memory;
mod redb_store;
mod row;

pub use batch::Batch;
pub use error::StoreError;
pub(crate) use lock::StoreLock;
pub use memory::MemoryStore;
pub use redb_store::{Options, RedbStore};

/// Longest key of a row, bytes. Keys are ids and numbers joined together; 1 KiB is many times the longest layout, and
/// keeps several keys on one 4 KiB page of the tree.
pub const KEY_BYTES_MAX: usize = 1024;

/// Longest value of a row, bytes. Snapshots are the largest values; redb keeps a value in one run of pages whose size is
/// a power of two and reads it whole, so a larger one belongs in several rows.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// The tables of a store. Ids and names are on disk and never change meaning; a table that is dropped leaves a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Table {
    /// Facts about this store as a whole: its random id, sequence, shutdown token.
    Meta = 0,
    /// One row per space held.
    Spaces = 1,
    /// One row per document: header, clock, state.
    Documents = 2,
    /// The documents of each space in the order of their last change.
    Index = 3,
    /// Raw entries. They are the truth; the rest can be derived from them or fetched again.
    Bodies = 4,
    /// The order in which entries arrived, which cursors point into.
    Log = 5,
    /// Authority records.
    Records = 6,
    /// Snapshots and checkpoint clocks.
    Snapshots = 7,
    /// What is known of other peers.
    Peers = 8,
    /// The newest tip of each branch, and fork proofs.
    Tips = 9,
}

impl Table {
    /// Every table, in the order of its id.
    pub const ALL: [Table; 10] = [
        Table::Meta,
        Table::Spaces,
        Table::Documents,
        Table::Index,
        Table::Bodies,
        Table::Log,
        Table::Records,
        Table::Snapshots,
        Table::Peers,
        Table::Tips,
    ];

    /// The name on disk and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Spaces => "spaces",
            Table::Documents => "documents",
            Table::Index => "index",
            Table::Bodies => "bodies",
            Table::Log => "log",
            Table::Records => "records",
            Table::Snapshots => "snapshots",
            Table::Peers => "peers",
            Table::Tips => "tips",
        }
    }

    /// The number that goes into the checksum of a row.
    pub const fn id(self) -> u8 {
        self as u8
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Part of a table, as [`Store::scan`] read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The rows that passed their checksum, by ascending key.
    pub rows: Vec<Row>,
    /// Keys of rows in the same stretch whose value did not match its checksum: quarantine and fetch them again.
    pub damaged: Vec<Vec<u8>>,
    /// The first key that a limit kept out; scan again from here. `None`: the range was read to its end.
    pub next: Option<Vec<u8>>,
}

/// An ordered key-value store. All implementations pass one suite, `store::conformance` (cargo feature `testing`).
///
/// Ranges are `start <= key < end`; `end = None` means to the end of the table, and an `end` at or before `start` names no
/// rows. Keys order as byte strings; the empty key is a key and the empty value a value.
pub trait Store: Send + Sync + 'static {
    /// The value of one row, or `None` when there is no such row.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the value fails its checksum; otherwise what the disk said.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Rows of a range in ascending order, until the next one would exceed `max_rows` rows or `max_bytes` bytes of keys
    /// and values. The first row is always read, so that a scan makes progress. Damaged rows count as rows.
    ///
    /// # Errors
    /// What the disk said. A damaged row is not an error here: it is listed in [`Scan::damaged`].
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Scan, StoreError>;

    /// Shows every row of one snapshot, table by table and by ascending key, until `visit` says `false`. Batches that are committed meanwhile
    /// are not in it and do not wait, but what they free is not used again before this returns.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] at the first row whose value fails its checksum; [`StoreError::DamagedFile`] if a table has fewer or more rows
    /// than it counted; otherwise what the disk said.
    fn each_row(&self, visit: &mut dyn FnMut(Table, &[u8], &[u8]) -> bool) -> Result<(), StoreError>;

    /// Applies a batch: all of it or nothing. When this returns `Ok`, the batch is on disk. After any error but
    /// [`StoreError::TooLarge`] and [`StoreError::ReadOnly`] it is unknown until the store is opened again whether the
    /// batch is there (then all of it is), and a store on disk refuses further writes until then.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] before anything is touched; [`StoreError::Failed`] once an earlier write has failed.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Whether calls may wait for a disk. If not, they are made where they are needed, without a thread of their own.
    fn blocks(&self) -> bool {
        true
    }

    /// Reads every row of one snapshot and lists the damaged ones, at most `max` of them.
    ///
    /// # Errors
    /// What the disk said; [`StoreError::DamagedFile`] if a table has fewer or more rows than it counted.
    fn damaged_rows(&self, max: usize) -> Result<Vec<(Table, Vec<u8>)>, StoreError>;

    /// Bytes that the store takes up where it keeps its rows.
    ///
    /// # Errors
    /// What the disk said.
    fn size_bytes(&self) -> Result<u64, StoreError>;
}

/// Whether a range can hold any key at all.
fn holds_keys(start: &[u8], end: Option<&[u8]>) -> bool {
    end.is_none_or(|end| start < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_ids_and_names_are_distinct_and_in_order() {
        for (i, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(table.id()), i);
            assert_eq!(Table::ALL.iter().filter(|other| other.name() == table.name()).count(), 1);
        }
    }
}
