//! What a peer keeps, as rows of a [`Store`]: the operations that the core asks for become batches, its questions become
//! reads. The layout is described in docs/storage.md, "Keys and values".
//!
//! Not here: when to commit (`writer`), and what a snapshot holds (`worker`). Calls block on the disk.

mod copy;
mod feed;
mod keys;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use commonhold_sync::chain::Opening;
use commonhold_sync::id::{ChainId, DeviceId, DocId, SpaceId, StoreId};
use commonhold_sync::log::{Header, Image, StoredSegment};
use commonhold_sync::message::Cursor;
use commonhold_sync::peer::{Load, Loaded, PageRow, StoreOp};
use commonhold_sync::proof::PROOF_BYTES_MAX;
use commonhold_sync::space::{RightRow, SpaceRow};
use commonhold_sync::usage::{UNSIGNED, Usage};

use crate::address_book::{BookRow, ROW_VERSION};
use crate::block::BlockRow;
use crate::budget::SpentRow;
use crate::quarantine::{Quarantine, Quarantined};
use crate::store::{Batch, Row, Store, StoreError, Table};
pub(crate) use copy::Carried;
pub use feed::{DocumentChange, DocumentChanges};
use keys::{ends_with, split, under};
pub(crate) use rows::SnapshotHead;
use rows::{BodyRow, DocumentRow, InviteRow, Kind, LogRow};

/// Entries that stay raw behind a snapshot, so that who was briefly away gets entries and not the snapshot: as many as a
/// document gathers before its next one is made.
const RECENT_ENTRIES: usize = 1_024;
/// The same in bytes: four times what rides along with a reconnect answer.
const RECENT_BYTES: usize = 256 << 10;
/// How far sequence numbers leap after a crash: more than one run can have shown without having stored them.
pub const SEQ_LEAP: u64 = 1 << 20;

/// Rows and bytes of one read while walking a range.
const SCAN_ROWS: usize = 1_024;
const SCAN_BYTES: usize = 8 << 20;

const META_STORE: &[u8] = b"store";
const META_SALT: &[u8] = b"salt";
const META_LINEAGE: &[u8] = b"lineage";
const META_RECORD: &[u8] = b"record";
const META_SPENT: &[u8] = b"spent";
/// Invites to one space that are kept: more peers than one asks in turn. A guess.
const INVITES_MAX: usize = 16;

/// What a peer starts from.
#[derive(Debug, Default)]
pub struct Stored {
    /// Spaces, with their records about rights.
    #[allow(clippy::type_complexity, reason = "the shape that the core defines")]
    pub spaces: Vec<(SpaceId, SpaceRow, Vec<RightRow>)>,
    /// How far other stores are held.
    pub cursors: Vec<(SpaceId, DeviceId, Cursor)>,
    /// What each device has stored in each space.
    pub usage: Vec<(SpaceId, DeviceId, Usage)>,
}

/// Facts about the store as a whole.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// Its id.
    pub store: Option<StoreId>,
    /// The salt of its last run's chains.
    pub salt: Option<[u8; 8]>,
    /// What [`crate::lineage`] keeps.
    pub lineage: Option<Vec<u8>>,
}

/// A document as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentInfo {
    /// Its id.
    pub id: DocId,
    /// What the app calls documents of this sort.
    pub kind: String,
    /// A name for people.
    pub name: String,
    /// The device that created it.
    pub creator: DeviceId,
    /// True once it was deleted.
    pub deleted: bool,
}

/// Which documents to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentQuery {
    /// Only those after this one, in the order of ids.
    pub after: Option<DocId>,
    /// At most so many; 0 means all.
    pub limit: usize,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only names that begin so.
    pub prefix: Option<String>,
    /// Deleted ones too.
    pub deleted: bool,
}

/// A document's rows, for making a view.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) space: SpaceId,
    pub(crate) doc: DocId,
    pub(crate) image: Image,
    pub(crate) snapshot: Option<(SnapshotHead, Vec<u8>)>,
    /// Whether the snapshot needs no check of rule M1: it was made here, or was checked since it came.
    pub(crate) checked: bool,
    /// Those that the snapshot does not wholly cover, in order.
    pub(crate) segments: Vec<StoredSegment>,
}

/// What was read, and the rows that did not match their checksums and so were not.
#[derive(Debug)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// Damaged rows.
    pub damaged: Vec<(Table, Vec<u8>)>,
}

/// The rows of a peer.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn Store>,
}

impl Storage {
    /// The rows in `store`.
    pub fn new(store: Arc<dyn Store>) -> Storage {
        Storage { store }
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Facts about the store. Those that are damaged are left out.
    pub fn facts(&self) -> Result<Read<Facts>, StoreError> {
        let mut damaged = Vec::new();
        let mut get = |key: &[u8]| self.bytes(Table::Meta, key, &mut damaged);
        let value = Facts {
            store: get(META_STORE)?.and_then(|bytes| StoreId::try_from(&bytes[..]).ok()),
            salt: get(META_SALT)?.and_then(|bytes| bytes.try_into().ok()),
            lineage: get(META_LINEAGE)?,
        };
        Ok(Read { value, damaged })
    }

    /// What stands in a copy of the store for one of its rows, so that whoever opens the copy knows it for one: a new store id and new chains,
    /// wherever it is opened and whatever lies beside it. `None`: the row is left out.
    pub(crate) fn row_of_copy<'a>(table: Table, key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
        match (table, key) {
            (Table::Meta, META_SALT) => None,
            // A past that cannot be read is doubt enough (`lineage::open`).
            (Table::Meta, META_LINEAGE) => Some(&[]),
            _ => Some(value),
        }
    }

    /// Writes facts; what is `None` stays as it was. With `leap`, every sequence goes on [`SEQ_LEAP`] further.
    pub fn put_facts(&self, facts: &Facts, leap: bool) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        if let Some(store) = &facts.store {
            batch.put(Table::Meta, META_STORE, store.0);
        }
        if let Some(salt) = &facts.salt {
            batch.put(Table::Meta, META_SALT, *salt);
        }
        if let Some(lineage) = &facts.lineage {
            batch.put(Table::Meta, META_LINEAGE, lineage.clone());
        }
        if leap {
            for (space, mut row, _) in self.start()?.spaces {
                row.seq += SEQ_LEAP;
                batch.put(Table::Spaces, space.0, rows::to_vec(&row));
            }
        }
        self.store.commit(batch)
    }

    /// Keeps the text of an invite, so that its addresses are dialled again in the next run: of each peer the last, and of
    /// each space those of the last 16 peers.
    pub fn put_invite(&self, space: &SpaceId, peer: Option<&DeviceId>, text: &str) -> Result<(), StoreError> {
        let peer = peer.map_or(&[][..], |peer| &peer.0);
        let all = self.invite_rows()?;
        let number = all.last().map_or(0, |row| row.number) + 1;
        let of_space = all.into_iter().filter(|row| row.space == space.0);
        let (same, mut others): (Vec<_>, Vec<_>) =
            of_space.partition(|row| row.peer.as_deref() == Some(peer) || row.text == text);
        others.truncate(others.len().saturating_sub(INVITES_MAX - 1));
        let mut batch = Batch::new();
        same.into_iter().chain(others).for_each(|row| batch.delete(Table::Meta, row.key));
        batch.put(Table::Meta, keys::invite(space, number, peer), text);
        self.store.commit(batch)
    }

    /// The invites kept, the oldest first.
    pub fn invites(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.invite_rows()?.into_iter().map(|row| row.text).collect())
    }

    /// In the order in which they came.
    fn invite_rows(&self) -> Result<Vec<InviteRow>, StoreError> {
        let mut rows = Vec::new();
        let each = |key: Vec<u8>, value| rows.extend(InviteRow::from(key, value));
        self.walk(Table::Meta, keys::INVITE, each, &mut Vec::new())?;
        rows.sort_by_key(|row| row.number);
        Ok(rows)
    }

    /// Writes rows of the app's own, or takes them out.
    pub(crate) fn put_app_rows(&self, rows: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        for (key, value) in rows {
            match value {
                Some(value) => batch.put(Table::Meta, keys::app(&key), value),
                None => batch.delete(Table::Meta, keys::app(&key)),
            }
        }
        self.store.commit(batch)
    }

    /// The app's own rows whose keys begin so, by key. Damaged ones are left out.
    pub(crate) fn app_rows(&self, prefix: &[u8]) -> Result<Vec<Row>, StoreError> {
        let mut found = Vec::new();
        let each = |key: Vec<u8>, value| found.extend(key.strip_prefix(keys::APP).map(|key| (key.to_vec(), value)));
        self.walk(Table::Meta, &keys::app(prefix), each, &mut Vec::new())?;
        Ok(found)
    }

    /// Writes rows of the address book, or takes them out, and when this device last signed a record of itself.
    pub(crate) fn put_peers(&self, rows: Vec<(DeviceId, Option<BookRow>)>, own_made_ms: u64) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.put(Table::Meta, META_RECORD, own_made_ms.to_be_bytes());
        for (device, row) in rows {
            match row {
                Some(row) => batch.put(Table::Peers, keys::peer(&device), rows::to_vec(&row)),
                None => batch.delete(Table::Peers, keys::peer(&device)),
            }
        }
        self.store.commit(batch)
    }

    /// The address book, and when this device last signed a record of itself. Damaged rows are left out: others know the peer.
    pub(crate) fn peers(&self) -> Result<(Vec<(DeviceId, BookRow)>, Option<u64>), StoreError> {
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        let each = |key: Vec<u8>, value: Vec<u8>| {
            let device = key.strip_prefix(keys::PEER).and_then(|id| DeviceId::try_from(id).ok());
            let row = rows::from_slice::<BookRow>(&value).filter(|row| row.version == ROW_VERSION);
            found.extend(device.zip(row));
        };
        self.walk(Table::Peers, keys::PEER, each, &mut damaged)?;
        let own = self.bytes(Table::Meta, META_RECORD, &mut damaged)?;
        Ok((found, own.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)))
    }

    /// Writes an entry of the block list, or takes it out.
    pub(crate) fn put_blocked(&self, subject: &str, row: Option<&BlockRow>) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        let key = [keys::BLOCK, subject.as_bytes()].concat();
        match row {
            Some(row) => batch.put(Table::Meta, key, rows::to_vec(row)),
            None => batch.delete(Table::Meta, key),
        }
        self.store.commit(batch)
    }

    /// The block list.
    ///
    /// # Errors
    /// [`StoreError::DamagedFile`] if a row of it is damaged: nobody would notice that somebody is let in again.
    pub(crate) fn blocked(&self) -> Result<Vec<(String, BlockRow)>, StoreError> {
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        let each = |key: Vec<u8>, value: Vec<u8>| {
            let subject = key.strip_prefix(keys::BLOCK).and_then(|text| String::from_utf8(text.to_vec()).ok());
            found.extend(subject.zip(rows::from_slice(&value)));
        };
        self.walk(Table::Meta, keys::BLOCK, each, &mut damaged)?;
        match damaged.is_empty() {
            true => Ok(found),
            false => Err(StoreError::DamagedFile { detail: "a row of the block list cannot be read".into() }),
        }
    }

    /// Writes that a document is in quarantine, or released; `None`: neither.
    pub(crate) fn put_quarantined(
        &self,
        space: &SpaceId,
        doc: &DocId,
        row: Option<&Quarantined>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        match row {
            Some(row) => batch.put(Table::Meta, keys::quarantine(space, doc), rows::to_vec(row)),
            None => batch.delete(Table::Meta, keys::quarantine(space, doc)),
        };
        self.store.commit(batch)
    }

    /// The documents in quarantine, and those that were. One whose row is damaged is found again when it is loaded.
    pub(crate) fn quarantine(&self) -> Result<Quarantine, StoreError> {
        let mut found = Quarantine::new();
        let each = |key: Vec<u8>, value: Vec<u8>| {
            let of = key.strip_prefix(keys::QUARANTINE).and_then(split);
            let of = of.and_then(|(space, doc)| Some((SpaceId(space), DocId(split(doc)?.0))));
            found.extend(of.zip(rows::from_slice::<Quarantined>(&value).filter(Quarantined::is_known)));
        };
        self.walk(Table::Meta, keys::QUARANTINE, each, &mut Vec::new())?;
        Ok(found)
    }

    /// Writes what was spent of the network today.
    pub(crate) fn put_spent(&self, row: &SpentRow) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.put(Table::Meta, META_SPENT, rows::to_vec(row));
        self.store.commit(batch)
    }

    /// What was spent of the network on the last day of which that is known. A damaged row counts as none.
    pub(crate) fn spent(&self) -> Result<Option<SpentRow>, StoreError> {
        Ok(self.bytes(Table::Meta, META_SPENT, &mut Vec::new())?.and_then(|bytes| rows::from_slice(&bytes)))
    }

    /// Whether nothing was ever written.
    pub fn is_new(&self) -> Result<bool, StoreError> {
        for table in Table::ALL {
            let scan = self.store.scan(table, &[], None, 1, 1)?;
            if !scan.rows.is_empty() || !scan.damaged.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What a peer starts from. Damaged rows are left out.
    ///
    /// # Errors
    /// [`StoreError::DamagedFile`] if the row of a space is damaged: without it the space would not seem to be held, and its
    /// numbers would begin at 1 again.
    pub fn start(&self) -> Result<Stored, StoreError> {
        let mut stored = Stored::default();
        let (mut damaged, mut lost, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        let mut rights: BTreeMap<SpaceId, Vec<RightRow>> = BTreeMap::new();
        self.walk(
            Table::Records,
            &[],
            |key, value| {
                if let (Some((space, _)), Some(row)) = (split(&key), rows::from_slice::<RightRow>(&value)) {
                    rights.entry(SpaceId(space)).or_default().push(row);
                }
            },
            &mut damaged,
        )?;
        self.walk(
            Table::Spaces,
            &[],
            |key, value| {
                if let (Some((space, [])), Some(row)) = (split(&key), rows::from_slice(&value)) {
                    let space = SpaceId(space);
                    stored.spaces.push((space, row, rights.remove(&space).unwrap_or_default()));
                } else {
                    unread.push((Table::Spaces, key));
                }
            },
            &mut lost,
        )?;
        if let Some((_, key)) = lost.into_iter().chain(unread).next() {
            let space: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(StoreError::DamagedFile { detail: format!("the row of space {space} cannot be read") });
        }
        self.walk(
            Table::Peers,
            &[],
            |key, value| {
                let found = split(&key).and_then(|(space, rest)| Some((space, split(rest)?.0)));
                if let (Some((space, device)), Some(cursor)) = (found, rows::from_slice(&value)) {
                    stored.cursors.push((SpaceId(space), DeviceId(device), cursor));
                }
            },
            &mut damaged,
        )?;
        let each = |key: Vec<u8>, value: Vec<u8>| {
            let found = key.strip_prefix(keys::USAGE).and_then(split);
            let found = found.and_then(|(space, device)| Some((SpaceId(space), DeviceId::try_from(device).ok()?)));
            stored
                .usage
                .extend(found.zip(rows::from_slice(&value)).map(|((space, device), usage)| (space, device, usage)));
        };
        self.walk(Table::Meta, keys::USAGE, each, &mut damaged)?;
        for (table, _) in damaged {
            tracing::error!(table = table.name(), "a damaged row was left out at start");
        }
        Ok(stored)
    }

    /// Counts what a store holds that was written before there were counts: reads all of it.
    pub fn count_usage(&self) -> Result<(), StoreError> {
        let (first, end) = under(keys::USAGE);
        if self.is_new()? || !self.store.scan(Table::Meta, &first, end.as_deref(), 1, 1)?.rows.is_empty() {
            return Ok(());
        }
        tracing::info!("counting what is stored of whom, for the first time");
        let (mut usage, mut damaged) = (BTreeMap::<_, Usage>::new(), Vec::new());
        let each = |key: Vec<u8>, value: Vec<u8>| {
            if let (Some((space, _)), Some(row)) = (split(&key), rows::from_slice::<BodyRow>(&value)) {
                let bytes = row.entries.iter().map(|entry| entry.len() as u64).sum::<u64>();
                usage.entry((space, row.opening.device)).or_default().bytes += bytes;
            }
        };
        self.walk(Table::Bodies, &[], each, &mut damaged)?;
        let each = |key: Vec<u8>, value: Vec<u8>| {
            if let (Some((space, _)), Some(row)) = (split(&key), DocumentRow::from_bytes(&value))
                && !row.image.deleted
            {
                usage.entry((space, row.image.header.creator)).or_default().documents += 1;
                let packed = row.image.covered.map_or(0, |covered| covered.bytes);
                usage.entry((space, UNSIGNED)).or_default().bytes += packed;
            }
        };
        self.walk(Table::Documents, &[], each, &mut damaged)?;
        let mut batch = Batch::new();
        for ((space, device), usage) in usage {
            batch.put(Table::Meta, keys::usage(&SpaceId(space), &device), rows::to_vec(&usage));
        }
        self.store.commit(batch)
    }

    /// Whether these operations read what earlier ones wrote, so that those must be on disk first.
    pub(crate) fn reads_back(ops: &[StoreOp]) -> bool {
        ops.iter().any(|op| matches!(op, StoreOp::Snapshot { .. } | StoreOp::Drop { .. }))
    }

    /// Adds operations to a batch, in order.
    pub fn write(&self, ops: Vec<StoreOp>, batch: &mut Batch) -> Result<(), StoreError> {
        ops.into_iter().try_for_each(|op| self.write_one(op, batch))
    }

    fn write_one(&self, op: StoreOp, batch: &mut Batch) -> Result<(), StoreError> {
        match op {
            StoreOp::Space { space, row } => batch.put(Table::Spaces, space.0, rows::to_vec(&row)),
            StoreOp::Document { space, doc, digest, image } => {
                let row = DocumentRow { digest, image };
                self.note_change(batch, &space, &doc, &row)?;
                batch.put(Table::Documents, keys::document(&space, &doc), row.to_bytes());
            }
            StoreOp::Segment { space, source, stored } => {
                let (doc, seq) = (stored.segment.doc, stored.seq);
                batch.put(Table::Log, keys::log(&space, seq), LogRow { kind: Kind::Segment, doc, source }.to_bytes());
                batch.put(Table::Bodies, keys::body(&space, &doc, seq), rows::to_vec(&BodyRow::new(stored, source)));
            }
            StoreOp::Right { space, right } => {
                batch.put(Table::Records, keys::right(&space, &right.chain, right.n), rows::to_vec(&right));
            }
            StoreOp::Proofs { space, doc, seq, before, source } => {
                if before > 0 {
                    batch.delete(Table::Log, keys::log(&space, before));
                }
                batch.put(Table::Log, keys::log(&space, seq), LogRow { kind: Kind::Proofs, doc, source }.to_bytes());
            }
            StoreOp::Snapshot { space, doc, seq, source, ends, bytes } => {
                self.write_snapshot(batch, space, doc, SnapshotHead { seq, source, ends }, bytes)?;
            }
            StoreOp::Drop { space, doc } => self.write_drop(batch, &space, &doc)?,
            StoreOp::Usage { space, device, usage } => {
                batch.put(Table::Meta, keys::usage(&space, &device), rows::to_vec(&usage));
            }
            StoreOp::Cursor { space, peer, cursor } => {
                batch.put(Table::Peers, [space.0, peer.0].concat(), rows::to_vec(&cursor));
            }
        }
        Ok(())
    }

    /// Raw segments that the snapshot covers go, but for the most recent. It takes the place of the last that goes, so
    /// that whoever has not seen all of them comes upon it.
    fn write_snapshot(
        &self,
        batch: &mut Batch,
        space: SpaceId,
        doc: DocId,
        mut head: SnapshotHead,
        bytes: Vec<u8>,
    ) -> Result<(), StoreError> {
        let ends: BTreeMap<ChainId, u64> = head.ends.iter().copied().collect();
        let mut covered = Vec::new();
        let each = |key: Vec<u8>, value: Vec<u8>| {
            let (Some(seq), Some(row)) = (ends_with(&key), rows::from_slice::<BodyRow>(&value)) else { return };
            let chain = row.opening.chain(&space, &doc);
            if row.branch == 0 && ends.get(&chain).is_some_and(|end| row.tip.n <= *end) {
                covered.push((seq, row.entries.len(), value.len()));
            }
        };
        self.walk(Table::Bodies, &keys::document(&space, &doc), each, &mut Vec::new())?;
        let (mut entries, mut size) = (0, 0);
        let kept = covered.iter().rev().take_while(|(_, count, bytes)| {
            (entries, size) = (entries + count, size + bytes);
            entries <= RECENT_ENTRIES && size <= RECENT_BYTES
        });
        covered.truncate(covered.len() - kept.count());
        let mut place = covered.last().map_or(0, |(seq, ..)| *seq);
        for (seq, ..) in covered {
            batch.delete(Table::Bodies, keys::body(&space, &doc, seq));
            batch.delete(Table::Log, keys::log(&space, seq));
        }
        let key = keys::document(&space, &doc);
        if let Some(old) = self.get::<SnapshotHead>(Table::Snapshots, &key, &mut Vec::new())?
            && old.seq > 0
        {
            batch.delete(Table::Log, keys::log(&space, old.seq));
            place = place.max(old.seq);
        }
        if head.seq == 0 {
            head.seq = place;
        }
        if head.seq > 0 {
            let row = LogRow { kind: Kind::Snapshot, doc, source: head.source };
            batch.put(Table::Log, keys::log(&space, head.seq), row.to_bytes());
        }
        batch.put(Table::Snapshots, key.clone(), rows::to_vec(&head));
        batch.put(Table::Snapshots, keys::snapshot_bytes(&key), bytes);
        Ok(())
    }

    /// The tombstone itself travels in the authority log; nothing of the document need be told any more.
    fn write_drop(&self, batch: &mut Batch, space: &SpaceId, doc: &DocId) -> Result<(), StoreError> {
        let key = keys::document(space, doc);
        let each = |body: Vec<u8>, _| {
            if let Some(seq) = ends_with(&body) {
                batch.delete(Table::Log, keys::log(space, seq));
            }
        };
        self.walk(Table::Bodies, &key, each, &mut Vec::new())?;
        if let Some(head) = self.get::<SnapshotHead>(Table::Snapshots, &key, &mut Vec::new())?
            && head.seq > 0
        {
            batch.delete(Table::Log, keys::log(space, head.seq));
        }
        let (start, end) = under(&key);
        batch.delete_range(Table::Bodies, start.clone(), end.clone());
        batch.delete_range(Table::Snapshots, start, end);
        Ok(())
    }

    /// Answers a question of the core; [`Load::Deep`] is the worker's.
    pub fn load(&self, load: &Load) -> Result<Read<Loaded>, StoreError> {
        let mut damaged = Vec::new();
        let value = match load {
            Load::Logs { space, docs } => Loaded::Logs(self.logs(space, docs, false, &mut damaged)?),
            Load::Raw { space, docs } => Loaded::Logs(self.logs(space, docs, true, &mut damaged)?),
            Load::Page { space, after, bytes, rows, skip, snapshots } => {
                let limits = PageLimits { bytes: *bytes, rows: *rows, skip: *skip, snapshots: *snapshots };
                self.page(space, *after, &limits, &mut damaged)?
            }
            Load::Digests { space } => {
                let mut digests = Vec::new();
                let each = |key: Vec<u8>, value: Vec<u8>| {
                    let doc = key.get(32..).and_then(split).map(|(doc, _)| DocId(doc));
                    digests.extend(doc.zip(DocumentRow::digest_of(&value)));
                };
                self.walk(Table::Documents, &space.0, each, &mut damaged)?;
                Loaded::Digests(digests)
            }
            Load::Snapshot { space, doc } => {
                let key = keys::snapshot_bytes(&keys::document(space, doc));
                Loaded::Snapshot(self.bytes(Table::Snapshots, &key, &mut damaged)?)
            }
            Load::Deep { .. } => Loaded::Deep(Vec::new()),
            Load::Chain { space, opening, from } => Loaded::Chain(self.chain(space, opening, *from, &mut damaged)?),
            Load::Concerned { space, devices, after, max } => {
                Loaded::Concerned(self.concerned(space, devices, after.as_ref(), *max, &mut damaged)?)
            }
        };
        Ok(Read { value, damaged })
    }

    #[allow(clippy::type_complexity, reason = "the shape that the core defines")]
    fn logs(
        &self,
        space: &SpaceId,
        docs: &[DocId],
        raw: bool,
        damaged: &mut Vec<(Table, Vec<u8>)>,
    ) -> Result<Vec<(DocId, Option<(Image, Vec<StoredSegment>)>)>, StoreError> {
        let mut logs = Vec::with_capacity(docs.len());
        for doc in docs {
            let Some(image) = self.image(space, doc, damaged)? else {
                logs.push((*doc, None));
                continue;
            };
            let segments = self.segments(space, doc, &image, raw, damaged)?;
            logs.push((*doc, Some((image, segments))));
        }
        Ok(logs)
    }

    /// The image of a document; of an authority log, one that has no header worth naming.
    pub(crate) fn image(
        &self,
        space: &SpaceId,
        doc: &DocId,
        damaged: &mut Vec<(Table, Vec<u8>)>,
    ) -> Result<Option<Image>, StoreError> {
        if *doc == space.authority() {
            let row = self.get::<SpaceRow>(Table::Spaces, &space.0, damaged)?;
            return Ok(row.map(|row| row.image()));
        }
        let bytes = self.bytes(Table::Documents, &keys::document(space, doc), damaged)?;
        Ok(bytes.and_then(|bytes| DocumentRow::from_bytes(&bytes)).map(|row| row.image))
    }

    fn segments(
        &self,
        space: &SpaceId,
        doc: &DocId,
        image: &Image,
        raw: bool,
        damaged: &mut Vec<(Table, Vec<u8>)>,
    ) -> Result<Vec<StoredSegment>, StoreError> {
        let bases = image.lines.iter().map(|line| (line.opening.chain(space, doc), &line.branches));
        let bases: BTreeMap<ChainId, _> = bases.collect();
        let covered = |row: &BodyRow| {
            let branches = bases.get(&row.opening.chain(space, doc));
            let base = branches.and_then(|b| b.get(usize::from(row.branch))).map_or(0, |b| b.base.len());
            row.tip.n <= base
        };
        let mut segments = Vec::new();
        let each = |key: Vec<u8>, value: Vec<u8>| {
            let (Some(seq), Some(row)) = (ends_with(&key), rows::from_slice::<BodyRow>(&value)) else { return };
            if raw || !covered(&row) {
                segments.push(row.into_stored(*doc, seq));
            }
        };
        self.walk(Table::Bodies, &keys::document(space, doc), each, damaged)?;
        Ok(segments)
    }

    fn page(
        &self,
        space: &SpaceId,
        after: u64,
        limits: &PageLimits,
        damaged: &mut Vec<(Table, Vec<u8>)>,
    ) -> Result<Loaded, StoreError> {
        let (mut rows, mut size, mut upto) = (Vec::new(), 0, after);
        let Some(mut start) = after.checked_add(1).map(|seq| keys::log(space, seq)) else {
            return Ok(Loaded::Page { rows, upto, end: true });
        };
        let end = under(&space.0).1;
        // What a snapshot in this page holds does not come again raw.
        let mut inside: BTreeMap<DocId, Vec<(ChainId, u64)>> = BTreeMap::new();
        loop {
            let want = limits.rows.clamp(1, SCAN_ROWS);
            let scan = self.store.scan(Table::Log, &start, end.as_deref(), want, SCAN_BYTES)?;
            damaged.extend(scan.damaged.into_iter().map(|key| (Table::Log, key)));
            for (key, value) in scan.rows {
                let (Some(seq), Some(row)) = (ends_with(&key), LogRow::from_bytes(&value)) else { continue };
                if limits.skip.is_some() && row.source == limits.skip {
                    upto = seq;
                    continue;
                }
                // At least one row comes, however large.
                let Some((found, bytes)) = self.page_row(space, seq, &row, limits, damaged)? else {
                    upto = seq;
                    continue;
                };
                if is_inside(space, &inside, &found) {
                    upto = seq;
                    continue;
                }
                if !rows.is_empty() && (rows.len() >= limits.rows || size + bytes > limits.bytes) {
                    return Ok(Loaded::Page { rows, upto, end: false });
                }
                if let PageRow::Snapshot { doc, bytes: Some(_), .. } = &found {
                    let head = self.get::<SnapshotHead>(Table::Snapshots, &keys::document(space, doc), damaged)?;
                    inside.insert(*doc, head.map_or(Vec::new(), |head| head.ends));
                }
                rows.push(found);
                (size, upto) = (size + bytes, seq);
            }
            match scan.next {
                None => return Ok(Loaded::Page { rows, upto, end: true }),
                Some(next) => start = next,
            }
        }
    }

    fn page_row(
        &self,
        space: &SpaceId,
        seq: u64,
        row: &LogRow,
        limits: &PageLimits,
        damaged: &mut Vec<(Table, Vec<u8>)>,
    ) -> Result<Option<(PageRow, usize)>, StoreError> {
        if row.kind == Kind::Segment {
            let body = self.get::<BodyRow>(Table::Bodies, &keys::body(space, &row.doc, seq), damaged)?;
            return Ok(body.map(|body| {
                let stored = body.into_stored(row.doc, seq);
                let bytes = stored.segment.body_bytes();
                (PageRow::Segment(stored), bytes)
            }));
        }
        let Some(image) = self.image(space, &row.doc, damaged)? else { return Ok(None) };
        if row.kind == Kind::Proofs {
            let bytes = PROOF_BYTES_MAX * image.proofs().count();
            return Ok(Some((PageRow::Proofs { doc: row.doc, image: Box::new(image) }, bytes)));
        }
        let fits = image.covered.as_ref().is_some_and(|c| c.bytes <= limits.bytes as u64);
        let key = keys::snapshot_bytes(&keys::document(space, &row.doc));
        let bytes = if limits.snapshots && fits { self.bytes(Table::Snapshots, &key, damaged)? } else { None };
        let size = bytes.as_ref().map_or(0, Vec::len);
        Ok(Some((PageRow::Snapshot { doc: row.doc, image: Box::new(image), bytes }, size)))
    }

    /// Everything that a view is made of.
    pub(crate) fn held(&self, space: &SpaceId, doc: &DocId) -> Result<Option<Read<Held>>, StoreError> {
        let mut damaged = Vec::new();
        let Some(image) = self.image(space, doc, &mut damaged)? else {
            // Not the same as a document that was never here.
            return match damaged.pop() {
                Some((table, key)) => Err(StoreError::Damaged { table, key }),
                None => Ok(None),
            };
        };
        let key = keys::document(space, doc);
        let head = self.get::<SnapshotHead>(Table::Snapshots, &key, &mut damaged)?;
        let bytes = self.bytes(Table::Snapshots, &keys::snapshot_bytes(&key), &mut damaged)?;
        let segments = self.segments(space, doc, &image, false, &mut damaged)?;
        let snapshot = head.zip(bytes);
        let checked = match &snapshot {
            Some((head, bytes)) if head.source.is_some() => {
                let mark = self.store.get(Table::Snapshots, &keys::snapshot_checked(&key))?;
                mark.is_some_and(|mark| mark == blake3::hash(bytes).as_bytes())
            }
            _ => true,
        };
        Ok(Some(Read { value: Held { space: *space, doc: *doc, image, snapshot, checked, segments }, damaged }))
    }

    /// Keeps that the snapshot read keeps rule M1, so that it is not checked again at the next opening.
    pub(crate) fn mark_checked(&self, space: &SpaceId, doc: &DocId, held: &Held) -> Result<(), StoreError> {
        let Some((_, bytes)) = &held.snapshot else { return Ok(()) };
        let mut batch = Batch::new();
        // Bound to the content: another snapshot may have come meanwhile.
        let key = keys::snapshot_checked(&keys::document(space, doc));
        batch.put(Table::Snapshots, key, *blake3::hash(bytes).as_bytes());
        self.store.commit(batch)
    }

    /// The bytes of a snapshot.
    pub(crate) fn snapshot(&self, space: &SpaceId, doc: &DocId) -> Result<Option<Vec<u8>>, StoreError> {
        self.bytes(Table::Snapshots, &keys::snapshot_bytes(&keys::document(space, doc)), &mut Vec::new())
    }

    /// Documents of a space, by id.
    pub fn documents(&self, space: &SpaceId, query: &DocumentQuery) -> Result<Vec<DocumentInfo>, StoreError> {
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        self.walk_documents(space, query.after.as_ref(), &mut damaged, |id, row| {
            let hidden = row.is_hidden();
            let Header { creator, kind, name } = row.image.header;
            let info = DocumentInfo { id, kind, name, creator, deleted: row.image.deleted };
            let fits = (query.deleted || !info.deleted)
                && query.kind.as_ref().is_none_or(|kind| *kind == info.kind)
                && query.prefix.as_ref().is_none_or(|prefix| info.name.starts_with(prefix));
            if fits && !hidden {
                found.push(info);
            }
            found.len() < limit
        })?;
        if !damaged.is_empty() {
            tracing::error!(%space, rows = damaged.len(), "documents whose row is damaged are not listed");
        }
        Ok(found)
    }

    /// Some documents of a space, deleted ones too; those that are not held are left out.
    pub fn documents_named(
        &self,
        space: &SpaceId,
        docs: &[DocId],
    ) -> Result<BTreeMap<DocId, DocumentInfo>, StoreError> {
        let mut found = BTreeMap::new();
        for doc in docs {
            let row = self.store.get(Table::Documents, &keys::document(space, doc))?;
            if let Some(row) = row.and_then(|row| DocumentRow::from_bytes(&row)) {
                let Header { creator, kind, name } = row.image.header;
                found.insert(*doc, DocumentInfo { id: *doc, kind, name, creator, deleted: row.image.deleted });
            }
        }
        Ok(found)
    }

    fn concerned(
        &self,
        space: &SpaceId,
        devices: &BTreeSet<DeviceId>,
        after: Option<&DocId>,
        max: usize,
        damaged: &mut Vec<(Table, Vec<u8>)>,
    ) -> Result<Vec<(DocId, Image)>, StoreError> {
        let mut found = Vec::new();
        self.walk_documents(space, after, damaged, |doc, row| {
            if row.image.concerns(devices) {
                found.push((doc, row.image));
            }
            found.len() < max
        })?;
        Ok(found)
    }

    /// Segments of a chain of the authority log that reach up to a number or further.
    fn chain(
        &self,
        space: &SpaceId,
        opening: &Opening,
        from: u64,
        damaged: &mut Vec<(Table, Vec<u8>)>,
    ) -> Result<Vec<StoredSegment>, StoreError> {
        let doc = space.authority();
        let mut found = Vec::new();
        let each = |key: Vec<u8>, value: Vec<u8>| {
            let (Some(seq), Some(row)) = (ends_with(&key), rows::from_slice::<BodyRow>(&value)) else { return };
            if row.opening == *opening && row.tip.n >= from {
                found.push(row.into_stored(doc, seq));
            }
        };
        self.walk(Table::Bodies, &keys::document(space, &doc), each, damaged)?;
        Ok(found)
    }

    /// The documents of a space after one, in the order of ids, while `each` wants more.
    fn walk_documents(
        &self,
        space: &SpaceId,
        after: Option<&DocId>,
        damaged: &mut Vec<(Table, Vec<u8>)>,
        mut each: impl FnMut(DocId, DocumentRow) -> bool,
    ) -> Result<(), StoreError> {
        let end = under(&space.0).1;
        let mut start = match after {
            None => space.0.to_vec(),
            Some(doc) => [&keys::document(space, doc)[..], &[0]].concat(),
        };
        loop {
            let scan = self.store.scan(Table::Documents, &start, end.as_deref(), SCAN_ROWS, SCAN_BYTES)?;
            damaged.extend(scan.damaged.into_iter().map(|key| (Table::Documents, key)));
            for (key, value) in scan.rows {
                let doc = key.get(32..).and_then(split).map(|(doc, _)| DocId(doc));
                let (Some(doc), Some(row)) = (doc, DocumentRow::from_bytes(&value)) else { continue };
                if !each(doc, row) {
                    return Ok(());
                }
            }
            match scan.next {
                None => return Ok(()),
                Some(next) => start = next,
            }
        }
    }

    fn bytes(
        &self,
        table: Table,
        key: &[u8],
        damaged: &mut Vec<(Table, Vec<u8>)>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        match self.store.get(table, key) {
            Err(StoreError::Damaged { table, key }) => {
                damaged.push((table, key));
                Ok(None)
            }
            other => other,
        }
    }

    /// A row that checks out but does not decode was written by a fault of ours; it counts as damaged too.
    fn get<T: for<'b> minicbor::Decode<'b, ()>>(
        &self,
        table: Table,
        key: &[u8],
        damaged: &mut Vec<(Table, Vec<u8>)>,
    ) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.bytes(table, key, damaged)? else { return Ok(None) };
        let row = rows::from_slice(&bytes);
        if row.is_none() {
            damaged.push((table, key.to_vec()));
        }
        Ok(row)
    }

    /// Calls back with every row whose key begins so, in order.
    fn walk(
        &self,
        table: Table,
        prefix: &[u8],
        mut each: impl FnMut(Vec<u8>, Vec<u8>),
        damaged: &mut Vec<(Table, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        let (mut start, end) = under(prefix);
        loop {
            let scan = self.store.scan(table, &start, end.as_deref(), SCAN_ROWS, SCAN_BYTES)?;
            damaged.extend(scan.damaged.into_iter().map(|key| (table, key)));
            scan.rows.into_iter().for_each(|(key, value)| each(key, value));
            match scan.next {
                None => return Ok(()),
                Some(next) => start = next,
            }
        }
    }
}

struct PageLimits {
    bytes: usize,
    rows: usize,
    skip: Option<StoreId>,
    snapshots: bool,
}

/// Whether a segment lies wholly inside the snapshot of its document, if that is among these.
fn is_inside(space: &SpaceId, snapshots: &BTreeMap<DocId, Vec<(ChainId, u64)>>, row: &PageRow) -> bool {
    let PageRow::Segment(stored) = row else { return false };
    let Some(ends) = snapshots.get(&stored.segment.doc).filter(|_| stored.branch == 0) else { return false };
    let chain = stored.segment.opening.chain(space, &stored.segment.doc);
    ends.iter().any(|(covered, n)| *covered == chain && stored.segment.tip.n <= *n)
}
