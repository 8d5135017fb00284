//! A store in memory, for tests and for peers that keep nothing. It is as durable as its process.

use super::{Batch, Scan, Store, StoreError, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A [`Store`] of ordered maps.
#[derive(Debug, Default)]
pub struct MemoryStore {
    // std's lock: held for the length of one call and never across an await
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Keys and values held.
    size_bytes: u64,
    limit_bytes: Option<u64>,
    /// Rows that pretend to fail their checksum.
    damaged: BTreeSet<(Table, Vec<u8>)>,
    fail_next: Option<StoreError>,
    failed: Option<String>,
}

impl MemoryStore {
    /// An empty store, bounded only by what its user puts into it.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that refuses, with [`StoreError::Full`], batches that take it over `limit_bytes` of keys and values.
    /// Unlike a disk it goes on afterwards, because nothing is in doubt.
    pub fn with_limit(limit_bytes: u64) -> Self {
        Self { state: RwLock::new(State { limit_bytes: Some(limit_bytes), ..State::default() }) }
    }

    /// Makes a row read as damaged until it is written again.
    #[cfg(any(test, feature = "testing"))]
    pub fn damage(&self, table: Table, key: &[u8]) {
        self.write().damaged.insert((table, key.to_vec()));
    }

    /// Makes the next commit fail with `error`, and the later ones with [`StoreError::Failed`], as a disk's would.
    #[cfg(any(test, feature = "testing"))]
    pub fn fail_next_commit(&self, error: StoreError) {
        self.write().fail_next = Some(error);
    }

    // A panic inside a lock below could only be ours, before any change: the maps are whole, so poison is ignored.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(value) = self.tables.get(&table).and_then(|rows| rows.get(key)) else { return Ok(None) };
        if self.is_damaged(table, key) {
            return Err(StoreError::Damaged { table, key: key.to_vec() });
        }
        Ok(Some(value.clone()))
    }

    fn is_damaged(&self, table: Table, key: &[u8]) -> bool {
        !self.damaged.is_empty() && self.damaged.contains(&(table, key.to_vec()))
    }

    fn range<'a>(
        &'a self,
        table: Table,
        start: &'a [u8],
        end: Option<&'a [u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Vec<u8>)> {
        let rows = self.tables.get(&table).filter(|_| super::holds_keys(start, end));
        rows.into_iter().flat_map(move |rows| rows.range::<[u8], _>(bounds(start, end)))
    }
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read().get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Scan, StoreError> {
        let state = self.read();
        let mut meter = ScanMeter::new(max_rows, max_bytes);
        let mut scan = Scan::default();
        for (key, value) in state.range(table, start, end) {
            if !meter.admits(key.len() + value.len()) {
                scan.next = Some(key.clone());
                break;
            }
            if state.is_damaged(table, key) {
                scan.damaged.push(key.clone());
            } else {
                scan.rows.push((key.clone(), value.clone()));
            }
        }
        Ok(scan)
    }

    fn each_row(&self, visit: &mut dyn FnMut(Table, &[u8], &[u8]) -> bool) -> Result<(), StoreError> {
        // A copy, so that whoever commits does not wait for whoever looks.
        let (tables, damaged) = {
            let state = self.read();
            (state.tables.clone(), state.damaged.clone())
        };
        for (table, rows) in &tables {
            for (key, value) in rows {
                if damaged.contains(&(*table, key.clone())) {
                    return Err(StoreError::Damaged { table: *table, key: key.clone() });
                }
                if !visit(*table, key, value) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut state = self.write();
        let state = &mut *state;
        if let Some(reason) = &state.failed {
            return Err(StoreError::Failed { reason: reason.clone() });
        }
        if let Some(error) = state.fail_next.take() {
            state.failed = Some(error.to_string());
            return Err(error);
        }
        // Judged by what the batch brings, without what it frees: a bound, not a quota
        let after = state.size_bytes.saturating_add(batch.size_bytes() as u64);
        let tables = batch.into_tables()?;
        let puts = tables.values().any(|ops| ops.rows.values().any(Option::is_some));
        if puts && state.limit_bytes.is_some_and(|limit| after > limit) {
            let source = io::Error::new(io::ErrorKind::StorageFull, "the memory limit of this store is reached");
            return Err(StoreError::Full { source: Arc::new(source) });
        }
        for (table, ops) in tables {
            let rows = state.tables.entry(table).or_default();
            for (start, end) in &ops.ranges {
                for (key, value) in rows.extract_if(bounds::<Vec<u8>>(start, end.as_ref()), |_, _| true) {
                    state.size_bytes -= (key.len() + value.len()) as u64;
                    state.damaged.remove(&(table, key));
                }
            }
            for (key, value) in ops.rows {
                if !state.damaged.is_empty() {
                    state.damaged.remove(&(table, key.clone()));
                }
                let key_bytes = key.len();
                state.size_bytes += value.as_ref().map_or(0, |value| key_bytes + value.len()) as u64;
                let old = match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
                state.size_bytes -= old.map_or(0, |old| key_bytes + old.len()) as u64;
            }
        }
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }

    fn damaged_rows(&self, max: usize) -> Result<Vec<(Table, Vec<u8>)>, StoreError> {
        Ok(self.read().damaged.iter().take(max).cloned().collect())
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.read().size_bytes)
    }
}

/// `start <= key < end` as the standard library writes it.
pub(super) fn bounds<'a, K: ?Sized>(start: &'a K, end: Option<&'a K>) -> (Bound<&'a K>, Bound<&'a K>) {
    (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded))
}

/// Counts the rows and bytes of a scan against its limits.
pub(super) struct ScanMeter {
    rows_left: usize,
    bytes_left: usize,
    first: bool,
}

impl ScanMeter {
    pub(super) fn new(max_rows: usize, max_bytes: usize) -> Self {
        Self { rows_left: max_rows.max(1), bytes_left: max_bytes, first: true }
    }

    /// Whether a row of this size still fits; the first always does.
    pub(super) fn admits(&mut self, bytes: usize) -> bool {
        let fits = self.first || (self.rows_left > 0 && bytes <= self.bytes_left);
        if fits {
            self.first = false;
            self.rows_left = self.rows_left.saturating_sub(1);
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_the_conformance_suite() {
        super::super::conformance::run(MemoryStore::new);
    }

    #[test]
    fn a_full_store_refuses_the_batch_and_goes_on() {
        let store = MemoryStore::with_limit(10);
        let mut batch = Batch::new();
        batch.put(Table::Log, *b"a", *b"12345678");
        store.commit(batch).unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Log, *b"b", *b"12345678");
        assert_eq!(store.commit(batch).unwrap_err().code(), "store_full");
        assert_eq!(store.size_bytes().unwrap(), 9);
        let mut batch = Batch::new();
        batch.delete(Table::Log, *b"a");
        store.commit(batch).unwrap();
        assert_eq!(store.size_bytes().unwrap(), 0);
    }

    #[test]
    fn a_damaged_row_stays_so_until_it_is_written_again() {
        let store = MemoryStore::new();
        let mut batch = Batch::new();
        batch.put(Table::Log, *b"a", *b"1");
        batch.put(Table::Log, *b"b", *b"2");
        store.commit(batch.clone()).unwrap();
        store.damage(Table::Log, b"a");
        assert_eq!(store.get(Table::Log, b"a").unwrap_err().code(), "store_row_damaged");
        let scan = store.scan(Table::Log, b"", None, 9, 99).unwrap();
        assert_eq!(scan.damaged, [b"a".to_vec()]);
        assert_eq!(scan.rows, [(b"b".to_vec(), b"2".to_vec())]);
        store.commit(batch).unwrap();
        assert_eq!(store.get(Table::Log, b"a").unwrap().unwrap(), b"1");
    }

    #[test]
    fn after_a_failed_commit_writes_are_refused() {
        let store = MemoryStore::new();
        store.fail_next_commit(StoreError::io("testing", io::ErrorKind::Other.into()));
        let mut batch = Batch::new();
        batch.put(Table::Log, *b"a", *b"1");
        assert_eq!(store.commit(batch.clone()).unwrap_err().code(), "store_io");
        assert_eq!(store.commit(batch).unwrap_err().code(), "store_failed");
        assert_eq!(store.get(Table::Log, b"a").unwrap(), None);
    }
}
