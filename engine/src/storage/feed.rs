//! The documents of a space in the order of their last change (table Index): a number for each, which it leaves for a higher one whenever
//! something about it changes that others see. The sequence of the log cannot tell that: what a document shows changes with rights as well.

use commonhold_sync::id::{DocId, SpaceId};
use commonhold_sync::log::Header;

use super::rows::{ChangeRow, DocumentRow};
use super::{DocumentInfo, SCAN_BYTES, SCAN_ROWS, Storage, ends_with, keys, split, under};
use crate::store::{Batch, StoreError, Table};

const META_ORDERED: &[u8] = b"ordered";
/// Documents of one batch when the order is made: as many as one read of a range gives.
const ORDERED_AT_ONCE: usize = SCAN_ROWS;

/// A document at its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentChange {
    /// Its place in the order of this store: higher with each change, and no two documents of a space have the same.
    pub number: u64,
    /// What lists show. A document that was withdrawn, or never counted, is as one that was deleted.
    pub info: DocumentInfo,
    /// Stands for its content: equal at all peers that hold the same of it. Zero: it has none yet.
    pub digest: [u8; 32],
}

/// Part of the changes of a space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentChanges {
    /// One for each document, by number.
    pub rows: Vec<DocumentChange>,
    /// Go on after this number.
    pub last: u64,
    /// Whether there were no more when this was read.
    pub end: bool,
}

impl Storage {
    /// Gives a document the next number if it differs from what it was when it got its last one.
    pub(super) fn note_change(
        &self,
        batch: &mut Batch,
        space: &SpaceId,
        doc: &DocId,
        row: &DocumentRow,
    ) -> Result<(), StoreError> {
        let key = keys::changed(space, doc);
        let before = self.pending(batch, &key)?.and_then(|bytes| ChangeRow::from_bytes(&bytes));
        let (digest, hidden) = (row.digest.unwrap_or_default(), row.is_hidden());
        if before.as_ref().is_some_and(|before| before.digest == digest && before.hidden == hidden) {
            return Ok(());
        }
        let last = keys::last_change(space);
        let number = match self.pending(batch, &last)?.as_deref().and_then(ends_with) {
            Some(number) => number,
            // None yet, or the row is damaged: a number that was told is never given again.
            None => self.highest_change(space)?,
        } + 1;
        if let Some(before) = before {
            batch.delete(Table::Index, keys::change(space, before.number));
        }
        batch.put(Table::Index, last, number.to_be_bytes());
        batch.put(Table::Index, keys::change(space, number), doc.0);
        batch.put(Table::Index, key, ChangeRow { number, digest, hidden }.to_bytes());
        Ok(())
    }

    /// A row of the index as it is after this batch. A damaged one is made anew.
    fn pending(&self, batch: &Batch, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match batch.pending(Table::Index, key) {
            Some(value) => Ok(value.cloned()),
            None => self.bytes(Table::Index, key, &mut Vec::new()),
        }
    }

    fn highest_change(&self, space: &SpaceId) -> Result<u64, StoreError> {
        let mut highest = 0;
        let each = |key: Vec<u8>, _| highest = ends_with(&key).unwrap_or(0).max(highest);
        self.walk(Table::Index, &keys::changes(space), each, &mut Vec::new())?;
        Ok(highest)
    }

    /// The number of the last change of a space.
    pub fn last_change(&self, space: &SpaceId) -> Result<u64, StoreError> {
        match self.bytes(Table::Index, &keys::last_change(space), &mut Vec::new())?.as_deref().and_then(ends_with) {
            Some(number) => Ok(number),
            None => self.highest_change(space),
        }
    }

    /// Documents that changed after a number, in order, at most so many. A document that changes meanwhile is not told here but after `last`.
    pub fn changes(&self, space: &SpaceId, after: u64, limit: usize) -> Result<DocumentChanges, StoreError> {
        let mut changes = DocumentChanges { last: after, ..DocumentChanges::default() };
        let Some(first) = after.checked_add(1) else { return Ok(DocumentChanges { end: true, ..changes }) };
        let (mut start, end) = (keys::change(space, first), under(&keys::changes(space)).1);
        loop {
            let want = (limit - changes.rows.len()).clamp(1, SCAN_ROWS);
            let scan = self.store.scan(Table::Index, &start, end.as_deref(), want, SCAN_BYTES)?;
            for (key, value) in scan.rows {
                let (Some(number), Some((doc, []))) = (ends_with(&key), split(&value)) else { continue };
                changes.last = number;
                changes.rows.extend(self.change(space, number, DocId(doc))?);
            }
            match scan.next {
                None => return Ok(DocumentChanges { end: true, ..changes }),
                Some(_) if changes.rows.len() >= limit => return Ok(changes),
                Some(next) => start = next,
            }
        }
    }

    /// `None`: it has another number by now.
    fn change(&self, space: &SpaceId, number: u64, id: DocId) -> Result<Option<DocumentChange>, StoreError> {
        let mut damaged = Vec::new();
        let row = self.bytes(Table::Index, &keys::changed(space, &id), &mut damaged)?;
        let Some(row) = row.as_deref().and_then(ChangeRow::from_bytes).filter(|row| row.number == number) else {
            return Ok(None);
        };
        let document = self.bytes(Table::Documents, &keys::document(space, &id), &mut damaged)?;
        let Some(document) = document.as_deref().and_then(DocumentRow::from_bytes) else {
            tracing::error!(%space, doc = %id, "a change is not told, as the row of its document is damaged");
            return Ok(None);
        };
        let Header { creator, kind, name } = document.image.header;
        let deleted = document.image.deleted || row.hidden;
        let info = DocumentInfo { id, kind, name, creator, deleted };
        Ok(Some(DocumentChange { number, info, digest: row.digest }))
    }

    /// Makes the order of a store that was written before there was one.
    pub(crate) fn order_documents(&self, spaces: impl IntoIterator<Item = SpaceId>) -> Result<(), StoreError> {
        if self.bytes(Table::Meta, META_ORDERED, &mut Vec::new())?.is_some() {
            return Ok(());
        }
        for space in spaces {
            let mut after = None;
            loop {
                let (mut found, mut batch) = (Vec::new(), Batch::new());
                self.walk_documents(&space, after.as_ref(), &mut Vec::new(), |doc, row| {
                    found.push((doc, row));
                    found.len() < ORDERED_AT_ONCE
                })?;
                // Whoever is stopped here begins again: what has a number keeps it.
                found.iter().try_for_each(|(doc, row)| self.note_change(&mut batch, &space, doc, row))?;
                self.store.commit(batch)?;
                match found.last() {
                    Some((doc, _)) if found.len() >= ORDERED_AT_ONCE => after = Some(*doc),
                    _ => break,
                }
            }
        }
        let mut batch = Batch::new();
        batch.put(Table::Meta, META_ORDERED, [1]);
        self.store.commit(batch)
    }
}
