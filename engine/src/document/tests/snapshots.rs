use serde_json::json;

use super::*;

fn packed(view: &mut View) -> Vec<u8> {
    flushed(view);
    view.to_snapshot().unwrap()
}

/// A snapshot around any content, as `pack` would not make it.
fn around(method: u8, stated: u64, content: &[u8]) -> Vec<u8> {
    [b"CHsn".as_slice(), &[1, method], &stated.to_le_bytes(), content].concat()
}

fn load(bytes: &[u8]) -> Result<(View, Vec<SnapshotEntry>), SnapshotFault> {
    View::from_snapshot(bytes, &SnapshotCaps::default())
}

#[test]
fn a_snapshot_gives_back_every_entry_by_chain_and_number() {
    let mut one = view(1);
    set(&mut one, json!({"a": 1}));
    let mut two = view(2);
    give(&mut two, &flushed(&mut one));
    set(&mut two, json!({"a": 2}));
    two.commit().unwrap();
    set(&mut two, json!({"a": 3}));
    let bytes = packed(&mut two);
    let (mut again, entries) = load(&bytes).unwrap();
    assert_eq!(again.to_json(), json!({"a": 3}));
    let names: Vec<(u8, u64, u64)> = entries.iter().map(|e| (e.actor[0], e.seq, e.start_op)).collect();
    assert_eq!(names, vec![(1, 1, 1), (2, 1, 2), (2, 2, 3)]);
    assert!(entries.iter().all(|e| e.author.as_deref() == (e.seq == 1).then_some(&[e.actor[0] + 100; 32][..])));
    for entry in &entries {
        assert_eq!(again.entry(&entry.id), two.entry(&entry.id));
    }
    // It goes on where the other was, remote entries included.
    set(&mut one, json!({"a": 4, "b": 1}));
    let more = flushed(&mut one);
    assert_eq!(give(&mut again, &more).applied, 1);
    lives(&mut again);
}

#[test]
fn a_snapshot_is_not_made_of_what_is_not_flushed() {
    let mut view = view(1);
    set(&mut view, json!({"a": 1}));
    assert_eq!(view.to_snapshot(), None);
    view.commit().unwrap();
    assert_eq!(view.to_snapshot(), None);
    flushed(&mut view);
    assert!(view.to_snapshot().is_some());
}

#[test]
fn bombs_are_refused_before_they_inflate() {
    let zeros = zstd::bulk::compress(&vec![0; 512 << 20], 3).unwrap();
    assert!(zeros.len() < 64 << 10);
    let caps = SnapshotCaps::default();
    for stated in [512 << 20, u64::MAX, (caps.ratio_max * zeros.len()) as u64 + (1 << 20) + 1] {
        let refused = load(&around(1, stated, &zeros)).unwrap_err();
        assert!(matches!(refused, SnapshotFault::TooLarge { what: "content", .. }), "{refused:?}");
    }
    // A lie about the length stops one byte beyond it.
    assert_eq!(load(&around(1, 1_000, &zeros)).unwrap_err(), SnapshotFault::Inflate);
    let small = SnapshotCaps { packed_bytes_max: 100, ..caps };
    let refused = View::from_snapshot(&around(0, 200, &[0; 200]), &small).unwrap_err();
    assert_eq!(refused, SnapshotFault::TooLarge { what: "snapshot", max: 100 });
}

#[test]
fn what_compresses_beyond_the_ratio_is_stored() {
    let mut view = view(1);
    let blob = vec![7u8; 200 << 10];
    for n in 0..10 {
        view.edit(|edit| edit.put(&ObjId::ROOT, format!("{n}"), blob.clone())).unwrap();
    }
    let bytes = packed(&mut view);
    assert!(load(&bytes).is_ok());
}

#[test]
fn damage_anywhere_is_an_error_and_no_panic() {
    let mut view = view(1);
    set(&mut view, json!({"text": "some words", "list": [1, 2, {"x": "y"}]}));
    let bytes = packed(&mut view);
    let (whole, _) = load(&bytes).unwrap();
    let mut differs = 0;
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        if let Ok((view, _)) = load(&bad) {
            assert_eq!(view.heads(), whole.heads(), "byte {at}");
        } else {
            differs += 1;
        }
        assert!(load(&bytes[..at]).is_err());
    }
    assert!(differs > bytes.len() * 9 / 10);
}

/// Documents that plain Automerge saves and loads, but that break a rule.
#[test]
fn entries_that_break_a_rule_are_found_after_the_load() {
    let author = |doc: am::Automerge, n: u8| doc.with_actor(am::ActorId::from([n; 16]));
    let bytes_of = |doc: &am::Automerge| around(0, doc.save_nocompress().len() as u64, &doc.save_nocompress());
    let put = |doc: &mut am::Automerge, n: i64| {
        doc.transact(|tx| am::transaction::Transactable::put(tx, am::ROOT, "n", n)).unwrap();
        doc.get_last_local_change().unwrap()
    };
    // S5: numbers that jump.
    let mut doc = author(am::Automerge::new(), 1);
    let mut jumped = put(&mut doc, 1).decode();
    jumped.start_op = 10.try_into().unwrap();
    let mut doc = author(am::Automerge::new(), 1);
    doc.apply_changes([am::Change::from(jumped.clone())]).unwrap();
    let refused = load(&bytes_of(&doc)).unwrap_err();
    assert!(matches!(refused, SnapshotFault::Rule { rule: "S5", .. }), "{refused:?}");
    let foreign = SnapshotCaps { foreign: true, ..SnapshotCaps::default() };
    assert!(View::from_snapshot(&bytes_of(&doc), &foreign).is_ok());
    jumped.start_op = (2 << 20).try_into().unwrap();
    let mut doc = author(am::Automerge::new(), 1);
    doc.apply_changes([am::Change::from(jumped)]).unwrap();
    let refused = View::from_snapshot(&bytes_of(&doc), &foreign).unwrap_err();
    assert!(matches!(refused, SnapshotFault::Rule { rule: "S5", .. }), "{refused:?}");
    // S6: something behind the operations of a later change.
    let mut doc = author(am::Automerge::new(), 1);
    let first = put(&mut doc, 1);
    let mut second = put(&mut doc, 2).decode();
    second.extra_bytes = vec![9, 9];
    let mut doc = author(am::Automerge::new(), 1);
    doc.apply_changes([first, am::Change::from(second)]).unwrap();
    let refused = load(&bytes_of(&doc)).unwrap_err();
    assert!(matches!(refused, SnapshotFault::Document(commonhold_sync::change::Fault::Author)), "{refused:?}");
}

#[test]
fn a_snapshot_with_a_semantic_lie_is_found_before_the_first_remote_entry() {
    // A deletion of nothing would not survive a save; a value put over one of another key does.
    let mut one = view(1);
    set(&mut one, json!({"a": 1, "b": 2}));
    let entries = flushed(&mut one);
    let mut doc = am::Automerge::new();
    doc.apply_changes(entries.iter().map(|(_, bytes)| change(bytes))).unwrap();
    let mut liar = view(2);
    give(&mut liar, &entries);
    liar.edit(|edit| {
        let text = edit.put_object(&ObjId::ROOT, "t", ObjKind::Text)?;
        edit.splice_text(&text, 0, 0, "abc")
    })
    .unwrap();
    let mut lie = change(&flushed(&mut liar)[0].1).decode();
    // A list inside a text.
    lie.operations[2].action = am::legacy::OpType::Make(am::ObjType::List);
    let lie = am::Change::from(lie);
    doc.apply_changes([lie.clone()]).unwrap();
    let raw = doc.save_nocompress();
    let (mut view, _) = load(&around(0, raw.len() as u64, &raw)).unwrap();
    set(&mut one, json!({"a": 3}));
    let more = flushed(&mut one);
    let out = give(&mut view, &more);
    assert!(matches!(&out.bad_base, Some((id, Fault::Operation(..))) if id.0 == lie.hash().0), "{out:?}");
    assert_eq!(out.applied, 0);
}
