//! A set of changes that a store applies as one. Kept in the form in which it is applied: per table the ranges to clear
//! first, then the rows to write in key order, which is also the order that costs a B-tree least.

use super::{KEY_BYTES_MAX, StoreError, Table, VALUE_BYTES_MAX};
use std::collections::BTreeMap;

/// Puts and deletes in the order given; a later one on the same key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    tables: BTreeMap<Table, TableBatch>,
    size_bytes: usize,
}

/// The changes of one table. Clearing `ranges` and then applying `rows` equals the operations in the order given, because
/// a range takes out the earlier rows inside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TableBatch {
    pub(super) ranges: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// `None` deletes.
    pub(super) rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a row, over the one that may be there.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.set(table, key.into(), Some(value.into()));
    }

    /// Deletes a row; one that does not exist is no error.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.set(table, key.into(), None);
    }

    /// Deletes the rows with `start <= key < end`, of the store and of this batch so far; `None` is the end of the table.
    pub fn delete_range(&mut self, table: Table, start: impl Into<Vec<u8>>, end: Option<Vec<u8>>) {
        let start = start.into();
        if !super::holds_keys(&start, end.as_deref()) {
            return;
        }
        let ops = self.tables.entry(table).or_default();
        let mut inside = ops.rows.split_off(&start);
        if let Some(end) = &end {
            ops.rows.append(&mut inside.split_off(end));
        }
        self.size_bytes -= inside.iter().map(|(key, value)| row_bytes(key, value.as_ref())).sum::<usize>();
        self.size_bytes += start.len() + end.as_ref().map_or(0, Vec::len);
        ops.ranges.push((start, end));
    }

    /// What the batch does with a row, if it names it: writes this, or deletes it.
    pub(crate) fn pending(&self, table: Table, key: &[u8]) -> Option<Option<&Vec<u8>>> {
        self.tables.get(&table)?.rows.get(key).map(Option::as_ref)
    }

    /// Bytes of keys, values and range bounds held.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Number of rows written or deleted, and ranges deleted.
    pub fn len(&self) -> usize {
        self.tables.values().map(|ops| ops.ranges.len() + ops.rows.len()).sum()
    }

    /// Whether applying the batch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn set(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        let key_bytes = key.len();
        self.size_bytes += row_bytes(&key, value.as_ref());
        if let Some(old) = self.tables.entry(table).or_default().rows.insert(key, value) {
            self.size_bytes -= key_bytes + old.map_or(0, |old| old.len());
        }
    }

    /// The changes per table, if every row is within the limits.
    pub(super) fn into_tables(self) -> Result<BTreeMap<Table, TableBatch>, StoreError> {
        for (&table, ops) in &self.tables {
            for (key, value) in &ops.rows {
                if key.len() > KEY_BYTES_MAX {
                    return Err(StoreError::TooLarge { table, what: "key", bytes: key.len(), max: KEY_BYTES_MAX });
                }
                let bytes = value.as_ref().map_or(0, Vec::len);
                if bytes > VALUE_BYTES_MAX {
                    return Err(StoreError::TooLarge { table, what: "value", bytes, max: VALUE_BYTES_MAX });
                }
            }
        }
        Ok(self.tables)
    }
}

fn row_bytes(key: &[u8], value: Option<&Vec<u8>>) -> usize {
    key.len() + value.map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_counts_what_is_held_after_overwrites_and_ranges() {
        let mut batch = Batch::new();
        batch.put(Table::Log, *b"aa", *b"12345");
        assert_eq!(batch.size_bytes(), 7);
        batch.put(Table::Log, *b"aa", *b"1");
        batch.put(Table::Log, *b"b", *b"22");
        assert_eq!(batch.size_bytes(), 6);
        batch.delete(Table::Log, *b"b");
        assert_eq!((batch.size_bytes(), batch.len()), (4, 2));
        batch.delete_range(Table::Log, *b"a", Some(b"b".to_vec()));
        assert_eq!((batch.size_bytes(), batch.len()), (1 + 2, 2));
        batch.delete_range(Table::Log, *b"", None);
        assert_eq!(batch.len(), 2);
        assert_eq!(batch.size_bytes(), 2);
    }

    #[test]
    fn a_range_without_keys_is_dropped() {
        let mut batch = Batch::new();
        batch.delete_range(Table::Log, *b"b", Some(b"a".to_vec()));
        batch.delete_range(Table::Log, *b"b", Some(b"b".to_vec()));
        assert!(batch.is_empty());
    }

    #[test]
    fn a_row_over_the_limit_is_refused() {
        let mut batch = Batch::new();
        batch.put(Table::Log, vec![0; KEY_BYTES_MAX + 1], *b"");
        assert!(matches!(batch.into_tables(), Err(StoreError::TooLarge { what: "key", .. })));
        let mut batch = Batch::new();
        batch.put(Table::Log, *b"k", vec![0; VALUE_BYTES_MAX + 1]);
        assert!(matches!(batch.into_tables(), Err(StoreError::TooLarge { what: "value", .. })));
    }
}
