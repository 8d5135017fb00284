//! The rows of one space, as another store could hold them: what a bundle carries.

use std::collections::BTreeSet;

use commonhold_sync::clock::{Clock, Fingerprint};
use commonhold_sync::id::{DocId, SpaceId};
use commonhold_sync::space::{Space, SpaceRow};

use super::rows::{BodyRow, DocumentRow, Kind, LogRow, SnapshotHead, from_slice, to_vec};
use super::{Storage, ends_with, keys, split};
use crate::store::{StoreError, Table};

/// A row and its table.
type TableRow = (Table, Vec<u8>, Vec<u8>);

/// How often a document is read again when it changes meanwhile.
const TRIES: usize = 16;

/// A log in a bundle, and exactly what is in it.
#[derive(Debug, Clone)]
pub(crate) struct Carried {
    pub(crate) doc: DocId,
    pub(crate) clock: Clock,
    pub(crate) deleted: bool,
}

impl Storage {
    /// Calls back with the rows of a space and of the chosen documents (all, if none are named). Where they came from and
    /// what this peer wants of the space is left out. The space's own row comes last.
    pub(crate) fn copy(
        &self,
        space: &SpaceId,
        docs: Option<&BTreeSet<DocId>>,
        each: &mut dyn FnMut(Table, Vec<u8>, Vec<u8>) -> bool,
    ) -> Result<Option<usize>, StoreError> {
        let (_, (row, bodies, records)) = self.settled(|| {
            let row = self.get::<SpaceRow>(Table::Spaces, &space.0, &mut Vec::new())?;
            let lines = row.as_ref().map(|row| to_vec(&row.lines));
            let mut records = Vec::new();
            self.walk(Table::Records, &space.0, |key, value| records.push((key, value)), &mut Vec::new())?;
            Ok((lines, (row, self.rows_of(space, &space.authority())?, records)))
        })?;
        let Some(mut row) = row else { return Ok(None) };
        let mut fingerprint = Fingerprint::default();
        let mut logs = 0;
        let mut count = |doc: &DocId, digest: Option<[u8; 32]>| {
            if let Some(digest) = digest {
                fingerprint.add(doc, &digest);
                logs += 1;
            }
        };
        let rights = records.iter().filter_map(|(_, value)| from_slice(value)).collect();
        count(&space.authority(), Space::load(*space, row.clone(), rights).digest());
        let mut going = bodies.into_iter().all(|(table, key, value)| each(table, key, value));
        going = going && records.into_iter().all(|(key, value)| each(Table::Records, key, value));

        let mut wanted: Vec<DocId> = docs.into_iter().flatten().copied().collect();
        if docs.is_none() {
            let all = |key: Vec<u8>, _| wanted.extend(key.get(32..).and_then(split).map(|(doc, _)| DocId(doc)));
            self.walk(Table::Documents, &space.0, all, &mut Vec::new())?;
        }
        let mut copied = 0;
        for doc in &wanted {
            if !going {
                break;
            }
            let key = keys::document(space, doc);
            let (image, bodies) = self.settled(|| {
                let image = self.bytes(Table::Documents, &key, &mut Vec::new())?;
                Ok((image, self.rows_of(space, doc)?))
            })?;
            let Some(image) = image else { continue };
            count(doc, DocumentRow::digest_of(&image));
            copied += 1;
            going = each(Table::Documents, key, image)
                && bodies.into_iter().all(|(table, key, value)| each(table, key, value));
        }
        (row.fingerprint, row.logs, row.filter) = (fingerprint, logs, None);
        let _ = going && each(Table::Spaces, space.0.to_vec(), to_vec(&row));
        Ok(Some(copied))
    }

    /// Reads twice what names the state, and again until it was the same before and after.
    fn settled<S: PartialEq, T>(
        &self,
        read: impl Fn() -> Result<(Option<S>, T), StoreError>,
    ) -> Result<(Option<S>, T), StoreError> {
        let mut last = read()?;
        for _ in 0..TRIES {
            let next = read()?;
            if next.0 == last.0 {
                return Ok(next);
            }
            last = next;
        }
        Err(StoreError::Failed { reason: "a document changes faster than it can be read".into() })
    }

    /// Bodies, snapshot, and their places in the sequence.
    fn rows_of(&self, space: &SpaceId, doc: &DocId) -> Result<Vec<TableRow>, StoreError> {
        let prefix = keys::document(space, doc);
        let mut rows = Vec::new();
        let bodies = |key: Vec<u8>, value: Vec<u8>| {
            let (Some(seq), Some(row)) = (ends_with(&key), from_slice::<BodyRow>(&value)) else { return };
            let log = LogRow { kind: Kind::Segment, doc: *doc, source: None };
            rows.push((Table::Log, keys::log(space, seq), log.to_bytes()));
            rows.push((Table::Bodies, key, to_vec(&BodyRow { source: None, ..row })));
        };
        self.walk(Table::Bodies, &prefix, bodies, &mut Vec::new())?;
        if let Some(image) = self.image(space, doc, &mut Vec::new())?
            && image.proofs_seq > 0
        {
            let log = LogRow { kind: Kind::Proofs, doc: *doc, source: None };
            rows.push((Table::Log, keys::log(space, image.proofs_seq), log.to_bytes()));
        }
        if let Some(head) = self.get::<SnapshotHead>(Table::Snapshots, &prefix, &mut Vec::new())? {
            if head.seq > 0 {
                let log = LogRow { kind: Kind::Snapshot, doc: *doc, source: None };
                rows.push((Table::Log, keys::log(space, head.seq), log.to_bytes()));
            }
            let key = keys::snapshot_bytes(&prefix);
            if let Some(bytes) = self.bytes(Table::Snapshots, &key, &mut Vec::new())? {
                rows.push((Table::Snapshots, prefix, to_vec(&SnapshotHead { source: None, ..head })));
                rows.push((Table::Snapshots, key, bytes));
            }
        }
        Ok(rows)
    }

    /// The logs of a space and what is in them.
    pub(crate) fn carried(&self, space: &SpaceId) -> Result<Vec<Carried>, StoreError> {
        let mut carried = Vec::new();
        let each = |key: Vec<u8>, value: Vec<u8>| {
            let doc = key.get(32..).and_then(split).map(|(doc, _)| DocId(doc));
            let (Some(doc), Some(row)) = (doc, DocumentRow::from_bytes(&value)) else { return };
            carried.push(Carried { doc, clock: row.image.clock(space, &doc), deleted: row.image.deleted });
        };
        self.walk(Table::Documents, &space.0, each, &mut Vec::new())?;
        let authority = space.authority();
        if let Some(image) = self.image(space, &authority, &mut Vec::new())? {
            carried.push(Carried { doc: authority, clock: image.clock(space, &authority), deleted: false });
        }
        Ok(carried)
    }

    /// Whether everything of a log is held here too.
    pub(crate) fn covers(&self, space: &SpaceId, carried: &Carried) -> Result<bool, StoreError> {
        let Some(image) = self.image(space, &carried.doc, &mut Vec::new())? else { return Ok(false) };
        let ours = image.clock(space, &carried.doc);
        Ok(image.deleted || (!carried.deleted && !ours.lacks_something_of(&carried.clock)))
    }
}
