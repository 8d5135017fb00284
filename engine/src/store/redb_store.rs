//! The store on disk: one redb file, two-phase commits, a checksum on every value.
//!
//! redb checks the pages of a file only when it is asked to ([`Options::verify`]) and may panic on a damaged one; here a
//! panic becomes [`StoreError::DamagedFile`]. This needs a build with unwinding panics, the default.

use super::lock::{StoreLock, beside, private};
use super::memory::{ScanMeter, bounds};
use super::{Batch, Scan, Store, StoreError, Table, row};
use crate::contain::contain;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadOnlyDatabase, ReadOnlyTable, ReadTransaction, ReadableDatabase,
    ReadableTable, ReadableTableMetadata, StorageBackend, TableDefinition, TableError, TableHandle,
};
use shared::Shared;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

mod shared;
#[cfg(test)]
mod tests;

/// Format of the layout of a store file, in the row [`FORMAT_KEY`] of [`FORMAT_TABLE`]. It grows with every change that an
/// older program would misread.
const FORMAT: u32 = 1;
/// Not one of [`Table`]: no batch of the engine can touch the row.
const FORMAT_TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("commonhold");
const FORMAT_KEY: &[u8] = b"format";
/// Stands for [`FORMAT_TABLE`] in checksums; tables number upwards from 0.
const FORMAT_TABLE_ID: u8 = 255;

/// How to open a [`RedbStore`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory that redb may use for pages, bytes. Default 32 MiB: the branch pages of some ten million rows, or what a
    /// few thousand documents in use touch; the operating system caches the file besides.
    pub cache_bytes: usize,
    /// Create the store when there is no file. Default true.
    pub create: bool,
    /// Write nothing. Several readers may share a store; they exclude a writer. Default false.
    pub read_only: bool,
    /// Check every page of the file before using it, and refuse a file with damage anywhere. Reads the whole file, and
    /// has no effect on a read-only store. Without it damage to a value is found when it is read, but rows below a
    /// damaged branch page may be missing without a word. Default false.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, create: true, read_only: false, verify: false }
    }
}

/// A [`Store`] in one redb file, or in anything else that redb can write to.
#[derive(Debug)]
pub struct RedbStore {
    /// `None` only while it is being dropped.
    db: Option<Db>,
    backend: Arc<dyn StorageBackend>,
    /// Why writes are refused.
    failed: OnceLock<String>,
    /// Held for its drop, after `db`'s.
    _lock: Option<StoreLock>,
}

enum Db {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
}

impl RedbStore {
    /// Opens the store at `path`, and creates it if need be with mode 0600; its folder must exist. A file `path.lock`
    /// stays beside it, and `path.new` appears for a moment while a store is made.
    ///
    /// # Errors
    /// [`StoreError::InUse`]; [`StoreError::NotAStore`] for an empty or foreign file; [`StoreError::NewerFormat`];
    /// [`StoreError::DamagedFile`] for a truncated or damaged one; otherwise what the disk said.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let lock = StoreLock::take(path, !options.read_only)?;
        let opening = |error| StoreError::io("opening the store", error);
        if options.create && !options.read_only && !path.try_exists().map_err(opening)? {
            create(path)?;
        }
        let file = private().read(true).write(!options.read_only).open(path).map_err(opening)?;
        let backend = Arc::new(FileBackend::new(file).map_err(open_error)?);
        Self::open_existing(backend, options, lock)
    }

    /// Opens the store in `backend`, and makes a new one if the backend is empty and `options` allow. Whether a crash
    /// in the middle of making it leaves something that opens is up to the backend; [`RedbStore::open`] takes care of it.
    ///
    /// # Errors
    /// As [`RedbStore::open`]; [`StoreError::InUse`] only if the backend has locks.
    pub fn open_backend(backend: impl StorageBackend, options: &Options) -> Result<Self, StoreError> {
        let backend: Arc<dyn StorageBackend> = Arc::new(backend);
        let opening = |error| StoreError::io("opening the store", error);
        if options.create && !options.read_only && backend.len().map_err(opening)? == 0 {
            let db = guarded(|| builder(options).create_with_backend(Shared(backend.clone())).map_err(open_error))?;
            let store = Self { db: Some(Db::Writable(db)), backend, failed: OnceLock::new(), _lock: None };
            store.guarded(|| init(store.writable()?))?;
            return Ok(store);
        }
        Self::open_existing(backend, options, None)
    }

    fn open_existing(
        backend: Arc<dyn StorageBackend>,
        options: &Options,
        lock: Option<StoreLock>,
    ) -> Result<Self, StoreError> {
        if backend.len().map_err(|error| StoreError::io("opening the store", error))? == 0 {
            return Err(StoreError::NotAStore { reason: "the file is empty".to_owned() });
        }
        let shared = Shared(backend.clone());
        let db = guarded(|| {
            let mut builder = builder(options);
            if options.read_only {
                return builder.open_read_only_with_backend(shared).map(Db::ReadOnly).map_err(open_error);
            }
            builder.set_check_integrity_on_open(options.verify);
            builder.create_with_backend(shared).map(Db::Writable).map_err(open_error)
        })?;
        let store = Self { db: Some(db), backend, failed: OnceLock::new(), _lock: lock };
        store.read("reading the format", check_format)?;
        Ok(store)
    }

    /// Closes the store and reports what dropping it would keep quiet. Everything committed is on disk either way.
    ///
    /// # Errors
    /// What the disk said. The next open then takes the way it takes after a crash.
    pub fn close(mut self) -> Result<(), StoreError> {
        match self.db.take() {
            Some(Db::Writable(db)) => guarded(|| db.close().map_err(open_error)),
            Some(Db::ReadOnly(db)) => guarded(|| db.close().map_err(open_error)),
            None => Ok(()),
        }
    }

    /// Runs `read` on one snapshot.
    fn read<T>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.guarded(|| {
            let txn = match self.db.as_ref().expect("the database is there until drop") {
                Db::Writable(db) => db.begin_read(),
                Db::ReadOnly(db) => db.begin_read(),
            };
            read(&txn.map_err(|error| self.storage_error(doing, error.into()))?)
        })
    }

    /// Opens a table of a snapshot. `None`: the store was made before the table existed, so it has no rows.
    fn table(&self, txn: &ReadTransaction, table: Table) -> Result<Option<Rows>, StoreError> {
        match txn.open_table(definition(table)) {
            Ok(rows) => Ok(Some(rows)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(self.storage_error(READING, error.into())),
        }
    }

    fn value(&self, rows: &Rows, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(stored) = rows.get(key).map_err(|error| self.storage_error(READING, error.into()))? else {
            return Ok(None);
        };
        match row::open(table.id(), key, stored.value()) {
            Some(value) => Ok(Some(value.to_vec())),
            None => Err(StoreError::Damaged { table, key: key.to_vec() }),
        }
    }

    fn writable(&self) -> Result<&Database, StoreError> {
        match self.db.as_ref().expect("the database is there until drop") {
            Db::Writable(db) => Ok(db),
            Db::ReadOnly(_) => Err(StoreError::ReadOnly),
        }
    }

    /// Runs `f`, turns a panic of redb into an error, and stops further writes after an error that leaves the file in doubt.
    fn guarded<T>(&self, f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let result = guarded(f);
        if let Err(error) = &result
            && !error.leaves_store_usable()
        {
            // The first reason is the one to show
            let _ = self.failed.set(error.to_string());
        }
        result
    }

    fn storage_error(&self, doing: &'static str, error: redb::Error) -> StoreError {
        match error {
            redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
                let reason = self.failed.get().cloned().unwrap_or_else(|| error.to_string());
                StoreError::Failed { reason }
            }
            error => storage_error(doing, error),
        }
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        let db = self.db.take();
        // redb may meet a damaged page while it closes; whoever wants to know calls `close`
        let _ = guarded(|| {
            drop(db);
            Ok(())
        });
    }
}

impl Store for RedbStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(READING, |txn| match self.table(txn, table)? {
            Some(rows) => self.value(&rows, table, key),
            None => Ok(None),
        })
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Scan, StoreError> {
        if !super::holds_keys(start, end) {
            return Ok(Scan::default());
        }
        self.read(READING, |txn| {
            let mut scan = Scan::default();
            let Some(rows) = self.table(txn, table)? else { return Ok(scan) };
            let mut meter = ScanMeter::new(max_rows, max_bytes);
            let fault = |error: redb::StorageError| self.storage_error(READING, error.into());
            let mut expected = start.to_vec();
            for found in ReadableTable::range::<&[u8]>(&rows, bounds(start, end)).map_err(fault)? {
                let (key, stored) = found.map_err(fault)?;
                let (key, stored) = (key.value(), stored.value());
                in_order(&mut expected, key, end)?;
                if !meter.admits(key.len() + stored.len().saturating_sub(row::TRAILER_BYTES)) {
                    scan.next = Some(key.to_vec());
                    break;
                }
                match row::open(table.id(), key, stored) {
                    Some(value) => scan.rows.push((key.to_vec(), value.to_vec())),
                    None => scan.damaged.push(key.to_vec()),
                }
            }
            Ok(scan)
        })
    }

    fn each_row(&self, visit: &mut dyn FnMut(Table, &[u8], &[u8]) -> bool) -> Result<(), StoreError> {
        self.read(READING, |txn| {
            let fault = |error: redb::StorageError| self.storage_error(READING, error.into());
            for table in Table::ALL {
                let Some(rows) = self.table(txn, table)? else { continue };
                let (mut found, mut least) = (0, Vec::new());
                for row in rows.iter().map_err(fault)? {
                    let (key, stored) = row.map_err(fault)?;
                    let key = key.value();
                    in_order(&mut least, key, None)?;
                    let Some(value) = row::open(table.id(), key, stored.value()) else {
                        return Err(StoreError::Damaged { table, key: key.to_vec() });
                    };
                    if !visit(table, key, value) {
                        return Ok(());
                    }
                    found += 1;
                }
                let counted = rows.len().map_err(fault)?;
                if found != counted {
                    let detail = format!("of {counted} rows of table {}, {found} are there", table.name());
                    return Err(StoreError::DamagedFile { detail });
                }
            }
            Ok(())
        })
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let db = self.writable()?;
        if let Some(reason) = self.failed.get() {
            return Err(StoreError::Failed { reason: reason.clone() });
        }
        if batch.is_empty() {
            return Ok(());
        }
        let tables = batch.into_tables()?;
        self.guarded(|| {
            let fault = |error: redb::Error| self.storage_error(WRITING, error);
            let txn = begin_write(db).map_err(fault)?;
            for (table, ops) in tables {
                let mut rows = txn.open_table(definition(table)).map_err(|error| fault(error.into()))?;
                for (start, end) in &ops.ranges {
                    rows.retain_in::<&[u8], _>(bounds(start.as_slice(), end.as_deref()), |_, _| false)
                        .map_err(|error| fault(error.into()))?;
                }
                for (key, value) in &ops.rows {
                    match value {
                        Some(value) => put(&mut rows, table.id(), key, value),
                        None => rows.remove(key.as_slice()).map(drop),
                    }
                    .map_err(|error| fault(error.into()))?;
                }
            }
            txn.commit().map_err(|error| fault(error.into()))
        })
    }

    fn damaged_rows(&self, max: usize) -> Result<Vec<(Table, Vec<u8>)>, StoreError> {
        self.read(READING, |txn| {
            let fault = |error: redb::StorageError| self.storage_error(READING, error.into());
            // A table whose name is damaged would look like one that was never made.
            for table in txn.list_tables().map_err(fault)? {
                if !Table::ALL.iter().any(|known| known.name() == table.name()) && table.name() != FORMAT_TABLE.name() {
                    return Err(StoreError::DamagedFile { detail: format!("there is a table {:?}", table.name()) });
                }
            }
            let mut damaged = Vec::new();
            for table in Table::ALL {
                let Some(rows) = self.table(txn, table)? else { continue };
                let (mut found, mut least) = (0, Vec::new());
                for row in rows.iter().map_err(fault)? {
                    let (key, stored) = row.map_err(fault)?;
                    in_order(&mut least, key.value(), None)?;
                    // A damaged branch page may lead elsewhere.
                    found += u64::from(rows.get(key.value()).map_err(fault)?.is_some());
                    if row::open(table.id(), key.value(), stored.value()).is_none() && damaged.len() < max {
                        damaged.push((table, key.value().to_vec()));
                    }
                }
                let counted = rows.len().map_err(fault)?;
                if found != counted {
                    let detail = format!("of {counted} rows of table {}, {found} are there", table.name());
                    return Err(StoreError::DamagedFile { detail });
                }
            }
            Ok(damaged)
        })
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        self.backend.len().map_err(|error| StoreError::io("measuring the store", error))
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Db::Writable(_)) { "Writable" } else { "ReadOnly" })
    }
}

const READING: &str = "reading the store";
const WRITING: &str = "writing the store";

type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Holds a scan to its promise on a file whose tree is damaged: keys inside the range, in ascending order.
fn in_order(expected: &mut Vec<u8>, key: &[u8], end: Option<&[u8]>) -> Result<(), StoreError> {
    if key < expected.as_slice() || end.is_some_and(|end| key >= end) {
        return Err(StoreError::DamagedFile { detail: "keys are out of order".to_owned() });
    }
    // The least key after this one
    expected.clear();
    expected.extend_from_slice(key);
    expected.push(0);
    Ok(())
}

fn builder(options: &Options) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache_bytes);
    builder
}

/// Makes an empty store under a name of its own and moves it to `path` when it is complete, so that a crash in between
/// leaves nothing at `path`, and an empty file there is always a fault. The caller holds the lock.
fn create(path: &Path) -> Result<(), StoreError> {
    let creating = |error| StoreError::io("creating the store", error);
    let unfinished = beside(path, ".new");
    let file = private().read(true).write(true).create(true).truncate(true).open(&unfinished).map_err(creating)?;
    let backend = FileBackend::new(file).map_err(open_error)?;
    guarded(|| {
        let db = Builder::new().create_with_backend(backend).map_err(open_error)?;
        init(&db)?;
        db.close().map_err(open_error)
    })?;
    std::fs::rename(&unfinished, path).map_err(creating)?;
    // Elsewhere than on Unix the name is durable with the file system's next flush
    #[cfg(unix)]
    std::fs::File::open(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))
        .and_then(|dir| dir.sync_all())
        .map_err(creating)?;
    Ok(())
}

/// Writes the format row and the empty tables.
fn init(db: &Database) -> Result<(), StoreError> {
    let fault = |error: redb::Error| storage_error("creating the store", error);
    let txn = begin_write(db).map_err(fault)?;
    {
        let mut rows = txn.open_table(FORMAT_TABLE).map_err(|error| fault(error.into()))?;
        put(&mut rows, FORMAT_TABLE_ID, FORMAT_KEY, &FORMAT.to_le_bytes()).map_err(|error| fault(error.into()))?;
        for table in Table::ALL {
            txn.open_table(definition(table)).map_err(|error| fault(error.into()))?;
        }
    }
    txn.commit().map_err(|error| fault(error.into()))
}

fn check_format(txn: &ReadTransaction) -> Result<(), StoreError> {
    let fault = |error: redb::Error| storage_error("reading the format", error);
    let missing = || StoreError::NotAStore { reason: "a redb database of another program".to_owned() };
    let rows = match txn.open_table(FORMAT_TABLE) {
        Ok(rows) => rows,
        Err(TableError::TableDoesNotExist(_)) => return Err(missing()),
        Err(error) => return Err(fault(error.into())),
    };
    let stored = rows.get(FORMAT_KEY).map_err(|error| fault(error.into()))?.ok_or_else(missing)?;
    let value = row::open(FORMAT_TABLE_ID, FORMAT_KEY, stored.value());
    let Some(found) = value.and_then(|value| value.try_into().ok()).map(u32::from_le_bytes) else {
        return Err(StoreError::DamagedFile { detail: "the format row does not match its checksum".to_owned() });
    };
    if found > FORMAT {
        return Err(StoreError::NewerFormat { found, known: FORMAT });
    }
    Ok(())
}

/// A transaction whose commit returns only when the data is on disk.
fn begin_write(db: &Database) -> Result<redb::WriteTransaction, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate).expect("no savepoint is ever made");
    // Strangers choose the data: a half-written commit must not pass for a whole one by its checksum
    txn.set_two_phase_commit(true);
    // Open after a crash without walking the file
    txn.set_quick_repair(true);
    Ok(txn)
}

fn put(
    rows: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    table_id: u8,
    key: &[u8],
    value: &[u8],
) -> Result<(), redb::StorageError> {
    let mut slot = rows.insert_reserve(key, value.len() + row::TRAILER_BYTES)?;
    let (head, tail) = slot.as_mut().split_at_mut(value.len());
    head.copy_from_slice(value);
    tail.copy_from_slice(&row::trailer(table_id, key, value));
    Ok(())
}

/// Runs `f` and turns a panic into an error. What `f` touched is not used for writing afterwards.
fn guarded<T>(f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    contain(f).unwrap_or_else(|said| {
        Err(StoreError::DamagedFile { detail: format!("redb stopped on an internal check: {said}") })
    })
}

fn open_error(error: DatabaseError) -> StoreError {
    use redb::StorageError::Io;
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => StoreError::InUse { pid: None },
        DatabaseError::RepairAborted => {
            StoreError::DamagedFile { detail: "it needs a repair, which opening it for writing makes".to_owned() }
        }
        DatabaseError::UpgradeRequired(version) => {
            StoreError::NotAStore { reason: format!("a redb file of version {version}, older than any store") }
        }
        DatabaseError::Storage(Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::NotAStore { reason: error.to_string() }
        }
        DatabaseError::Storage(Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            StoreError::DamagedFile { detail: "it is shorter than it should be".to_owned() }
        }
        error => storage_error("opening the store", error.into()),
    }
}

fn storage_error(doing: &'static str, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            StoreError::DamagedFile { detail: "it is shorter than it should be".to_owned() }
        }
        redb::Error::Io(error) => StoreError::io(doing, error),
        redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
            StoreError::Failed { reason: error.to_string() }
        }
        error => StoreError::DamagedFile { detail: error.to_string() },
    }
}
