use std::sync::Arc;

use commonhold_sync::chain::{Kind, Opening, Segment, Tip};
use commonhold_sync::id::EntryId;
use commonhold_sync::log::Covered;

use super::*;
use crate::store::MemoryStore;

const SPACE: SpaceId = SpaceId([1; 32]);
const DOC: DocId = DocId([2; 32]);
const THERE: StoreId = StoreId([7; 16]);

fn storage() -> Storage {
    Storage::new(Arc::new(MemoryStore::new()))
}

fn opening() -> Opening {
    Opening { device: DeviceId([5; 32]), salt: [6; 8], kind: Kind::Own }
}

/// One entry of `bytes` bytes at number `n` and place `n`.
fn segment(doc: DocId, n: u64, bytes: usize, source: Option<StoreId>) -> StoreOp {
    let tip = Tip { n, rights: vec![EntryId([9; 32])], signature: [3; 64] };
    let segment = Segment { doc, opening: opening(), first: n, entries: vec![vec![n as u8; bytes]], tip };
    StoreOp::Segment { space: SPACE, source, stored: StoredSegment { seq: n, branch: 0, segment } }
}

fn document(doc: DocId) -> StoreOp {
    let header = Header { creator: DeviceId([4; 32]), kind: "note".into(), name: "name".into() };
    let covered = Covered { bytes: 3, entries: 0, heads: vec![], tips: vec![] };
    let image = Image { covered: Some(covered), ..Image::of_header(header) };
    StoreOp::Document { space: SPACE, doc, digest: Some([8; 32]), image }
}

fn snapshot(doc: DocId, seq: u64, upto: u64) -> StoreOp {
    let ends = vec![(opening().chain(&SPACE, &doc), upto)];
    StoreOp::Snapshot { space: SPACE, doc, seq, source: None, ends, bytes: b"abc".to_vec() }
}

fn commit(storage: &Storage, ops: Vec<StoreOp>) {
    let mut batch = Batch::new();
    storage.write(ops, &mut batch).unwrap();
    storage.store().commit(batch).unwrap();
}

fn page(storage: &Storage, after: u64, bytes: usize, rows: usize, skip: Option<StoreId>) -> (Vec<u64>, u64, bool) {
    let load = Load::Page { space: SPACE, after, bytes, rows, skip, snapshots: true };
    let Loaded::Page { rows, upto, end } = storage.load(&load).unwrap().value else { panic!("a page") };
    let seq = |row: &PageRow| match row {
        PageRow::Segment(stored) => stored.seq,
        PageRow::Snapshot { bytes, .. } => {
            assert_eq!(bytes.as_deref(), Some(&b"abc"[..]));
            0
        }
        PageRow::Proofs { image, .. } => image.proofs_seq,
    };
    (rows.iter().map(seq).collect(), upto, end)
}

fn raw(storage: &Storage, doc: DocId) -> Vec<u64> {
    let Loaded::Logs(logs) = storage.load(&Load::Raw { space: SPACE, docs: vec![doc] }).unwrap().value else {
        panic!("logs")
    };
    logs[0].1.iter().flat_map(|(_, segments)| segments.iter().map(|stored| stored.seq)).collect()
}

#[test]
fn segments_come_back_as_they_were_and_in_pages() {
    let storage = storage();
    commit(&storage, (1..=5).map(|n| segment(DOC, n, 100, (n == 3).then_some(THERE))).chain([document(DOC)]).collect());
    assert_eq!(page(&storage, 0, 1_000, 100, None), (vec![1, 2, 3, 4, 5], 5, true));
    assert_eq!(page(&storage, 0, 1_000, 100, Some(THERE)), (vec![1, 2, 4, 5], 5, true));
    assert_eq!(page(&storage, 1, 1_000, 2, None), (vec![2, 3], 3, false));
    assert_eq!(page(&storage, 0, 250, 100, None), (vec![1, 2], 2, false));
    assert_eq!(page(&storage, 0, 1, 100, None), (vec![1], 1, false), "one comes, however large");
    assert_eq!(page(&storage, 5, 1_000, 100, None), (vec![], 5, true));
    let Loaded::Logs(logs) = storage.load(&Load::Raw { space: SPACE, docs: vec![DOC] }).unwrap().value else {
        panic!("logs")
    };
    let StoreOp::Segment { stored, .. } = segment(DOC, 1, 100, None) else { panic!("a segment") };
    assert_eq!(logs[0].1.as_ref().unwrap().1[0], stored);
}

#[test]
fn a_snapshot_takes_the_place_of_what_it_covers_but_for_the_most_recent() {
    let storage = storage();
    let kilo = 1 << 10;
    commit(&storage, (1..=300).map(|n| segment(DOC, n, 2 * kilo, None)).chain([document(DOC)]).collect());
    commit(&storage, vec![snapshot(DOC, 0, 290)]);
    let left = raw(&storage, DOC);
    let kept = left.iter().filter(|n| **n <= 290).count();
    assert!((100..=128).contains(&kept), "{kept} of 2 KiB fit 256 KiB");
    assert_eq!(left.last(), Some(&300), "what is not covered stays");
    let (rows, upto, end) = page(&storage, 0, 10_000 * kilo, 1_000, None);
    assert_eq!((rows[0], upto, end, rows.len()), (0, 300, true, 11), "first the snapshot, then what it does not hold");
    let place = 290 - kept as u64;
    assert_eq!(page(&storage, place, 10_000 * kilo, 1_000, None).0.len(), left.len(), "it lies where the last went");
    assert_eq!(page(&storage, place - 1, 10_000 * kilo, 1_000, None).0[0], 0);

    commit(&storage, vec![snapshot(DOC, 0, 300)]);
    let rows = page(&storage, 0, 10_000 * kilo, 1_000, None).0;
    assert_eq!(rows.iter().filter(|row| **row == 0).count(), 1, "the one before is gone");
    commit(&storage, vec![snapshot(DOC, 400, 300)]);
    assert_eq!(page(&storage, 300, kilo, 10, None), (vec![0], 400, true), "one from elsewhere has a place of its own");
}

#[test]
fn a_dropped_document_leaves_nothing_and_its_neighbours_alone() {
    let storage = storage();
    let other = DocId([3; 32]);
    commit(&storage, vec![document(DOC), document(other), segment(DOC, 1, 10, None), segment(other, 2, 10, None)]);
    commit(&storage, vec![snapshot(DOC, 3, 1)]);
    commit(&storage, vec![StoreOp::Drop { space: SPACE, doc: DOC }]);
    assert_eq!((raw(&storage, DOC), raw(&storage, other)), (vec![], vec![2]));
    assert_eq!(page(&storage, 0, 1_000, 100, None), (vec![2], 2, true));
    assert!(storage.snapshot(&SPACE, &DOC).unwrap().is_none());
}

#[test]
fn digests_and_lists_come_from_the_documents() {
    let storage = storage();
    commit(&storage, vec![document(DOC), document(DocId([3; 32]))]);
    let Loaded::Digests(digests) = storage.load(&Load::Digests { space: SPACE }).unwrap().value else {
        panic!("digests")
    };
    assert_eq!(digests, vec![(DOC, [8; 32]), (DocId([3; 32]), [8; 32])]);
    let query = DocumentQuery { after: Some(DOC), ..DocumentQuery::default() };
    let found = storage.documents(&SPACE, &query).unwrap();
    assert_eq!((found.len(), found[0].id, &found[0].kind[..]), (1, DocId([3; 32]), "note"));
}

#[test]
fn spaces_rights_and_cursors_are_there_at_start_and_numbers_leap() {
    let storage = storage();
    let row = SpaceRow {
        genesis: None,
        lines: vec![],
        seq: 42,
        fingerprint: Default::default(),
        logs: 0,
        filter: Some(vec![DOC]),
        recut: Vec::new(),
        strangers: Vec::new(),
        resay: Vec::new(),
    };
    let cursor = Cursor { store: THERE, seq: 17 };
    let (peer, device) = (DeviceId([3; 32]), DeviceId([4; 32]));
    let right = RightRow { device, chain: ChainId([5; 16]), n: 6, bytes: vec![1, 2].into() };
    commit(
        &storage,
        vec![
            StoreOp::Space { space: SPACE, row },
            StoreOp::Right { space: SPACE, right: right.clone() },
            StoreOp::Cursor { space: SPACE, peer, cursor },
        ],
    );
    let facts = Facts { store: Some(THERE), salt: Some([1; 8]), lineage: None };
    storage.put_facts(&facts, true).unwrap();
    storage.put_facts(&Facts { lineage: Some(vec![5]), ..Facts::default() }, false).unwrap();
    let found = storage.facts().unwrap().value;
    assert_eq!((found.store, found.salt, found.lineage), (Some(THERE), Some([1; 8]), Some(vec![5])));
    let stored = storage.start().unwrap();
    assert_eq!(stored.cursors, vec![(SPACE, peer, cursor)]);
    let (space, row, rights) = &stored.spaces[0];
    assert_eq!((*space, row.seq, &row.filter), (SPACE, 42 + SEQ_LEAP, &Some(vec![DOC])));
    assert_eq!(rights, &vec![right]);
}

#[test]
fn a_damaged_row_is_left_out_and_named() {
    let memory = Arc::new(MemoryStore::new());
    let storage = Storage::new(memory.clone());
    commit(&storage, vec![document(DOC), segment(DOC, 1, 10, None), segment(DOC, 2, 10, None)]);
    let key = keys::body(&SPACE, &DOC, 1);
    memory.damage(Table::Bodies, &key);
    let read = storage.load(&Load::Raw { space: SPACE, docs: vec![DOC] }).unwrap();
    assert_eq!(read.damaged, vec![(Table::Bodies, key)]);
    assert_eq!(raw(&storage, DOC), vec![2]);
    assert_eq!(page(&storage, 0, 1_000, 100, None), (vec![2], 2, true));
}

#[test]
fn what_a_snapshot_in_a_page_holds_does_not_come_again_raw() {
    let storage = storage();
    commit(&storage, (1..=300).map(|n| segment(DOC, n, 2 << 10, None)).chain([document(DOC)]).collect());
    commit(&storage, vec![snapshot(DOC, 0, 290)]);
    let load = Load::Page { space: SPACE, after: 0, bytes: 1 << 30, rows: 1_000, skip: None, snapshots: true };
    let Loaded::Page { rows, upto, end } = storage.load(&load).unwrap().value else { panic!("a page") };
    let raw = rows.iter().filter(|row| matches!(row, PageRow::Segment(_))).count();
    assert_eq!((raw, upto, end), (10, 300, true), "291 to 300");
}

#[test]
fn of_each_peer_the_last_invite_is_kept_and_of_each_space_the_last_sixteen() {
    let (storage, other) = (storage(), SpaceId([9; 32]));
    let mut old = Batch::new();
    old.put(Table::Meta, [&b"invite:"[..], &SPACE.0].concat(), "of an older program");
    storage.store().commit(old).unwrap();
    let put = |space: &SpaceId, peer: u8, text: &str| {
        storage.put_invite(space, (peer > 0).then_some(&DeviceId([peer; 32])), text).unwrap();
    };
    put(&SPACE, 2, "second");
    put(&other, 2, "elsewhere");
    put(&SPACE, 1, "third");
    put(&SPACE, 0, "of nobody");
    put(&SPACE, 2, "second again");
    let kept = ["of an older program", "elsewhere", "third", "of nobody", "second again"];
    assert_eq!(storage.invites().unwrap(), kept);
    put(&SPACE, 3, "of an older program");
    assert_eq!(storage.invites().unwrap().len(), 5, "the same text is the same invite");
    (10..30).for_each(|peer| put(&SPACE, peer, &format!("{peer}")));
    let invites = storage.invites().unwrap();
    assert_eq!(invites[0], "elsewhere");
    assert_eq!(invites[1..], (14..30).map(|peer| peer.to_string()).collect::<Vec<_>>());
}

/// Document, digest, and whether its creator had the right, as far as that is known.
fn shown(doc: u8, digest: Option<u8>, unfounded: bool) -> StoreOp {
    let header = Header { creator: DeviceId([4; 32]), kind: "note".into(), name: "name".into() };
    let image = Image { unfounded, ..Image::of_header(header) };
    StoreOp::Document { space: SPACE, doc: DocId([doc; 32]), digest: digest.map(|digest| [digest; 32]), image }
}

/// The first byte of each document told, whether it is gone, and where to go on.
fn told(storage: &Storage, after: u64, limit: usize) -> (Vec<(u8, bool)>, u64, bool) {
    let changes = storage.changes(&SPACE, after, limit).unwrap();
    let rows = changes.rows.iter().map(|row| (row.info.id.0[0], row.info.deleted)).collect();
    (rows, changes.last, changes.end)
}

#[test]
fn each_document_is_told_at_its_last_change_and_at_no_other() {
    let storage = storage();
    assert_eq!(told(&storage, 0, 10), (vec![], 0, true));
    commit(&storage, vec![shown(1, None, false), shown(2, None, false), shown(3, None, false)]);
    assert_eq!(told(&storage, 0, 2), (vec![(1, false), (2, false)], 2, false));
    // Meanwhile one that was told changes, and one that was not; twice in one batch.
    commit(&storage, vec![shown(1, Some(7), false), shown(3, Some(7), false), shown(3, Some(8), false)]);
    let (rows, last, end) = told(&storage, 2, 10);
    assert_eq!((rows, end), (vec![(1, false), (3, false)], true));
    // What others see of it is as it was.
    commit(&storage, vec![shown(1, Some(7), false)]);
    assert_eq!(told(&storage, last, 10), (vec![], last, true));
    assert_eq!(storage.last_change(&SPACE).unwrap(), last);
    // Rights come and go.
    commit(&storage, vec![shown(2, None, true)]);
    assert_eq!(told(&storage, last, 10), (vec![(2, true)], last + 1, true));
    commit(&storage, vec![shown(2, None, false)]);
    assert_eq!(told(&storage, last, 10), (vec![(2, false)], last + 2, true));
}

#[test]
fn a_store_without_the_order_of_changes_gets_one_and_no_number_is_given_twice() {
    let storage = storage();
    commit(&storage, (0..200).map(|doc| shown(doc, Some(1), false)).collect());
    let mut batch = Batch::new();
    batch.delete_range(Table::Index, vec![], None);
    storage.store().commit(batch).unwrap();
    assert_eq!(told(&storage, 0, 10), (vec![], 0, true));
    storage.order_documents([SPACE]).unwrap();
    assert_eq!(told(&storage, 0, 1_000).0.len(), 200);
    // The number is lost; then it is found by what has one.
    let mut batch = Batch::new();
    batch.delete(Table::Index, keys::last_change(&SPACE));
    storage.store().commit(batch).unwrap();
    commit(&storage, vec![shown(7, Some(2), false)]);
    assert_eq!(told(&storage, 200, 10), (vec![(7, false)], 201, true));
    storage.order_documents([SPACE]).unwrap();
    assert_eq!(storage.last_change(&SPACE).unwrap(), 201);
}
