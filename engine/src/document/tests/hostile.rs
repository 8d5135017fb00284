use automerge::legacy::{ElementId, Key, MarkData, ObjectId, Op, OpId, OpType};
use serde_json::json;

use super::*;

/// A document with one of everything, the entries that make it, and a further honest change as raw material for lies.
fn base() -> (View, Vec<(EntryId, Vec<u8>)>, am::ExpandedChange) {
    let mut one = view(1);
    set(&mut one, json!({"map": {"k": 1, "l": 1}, "list": [1, 2, 3], "text": "abcdef"}));
    let entries = flushed(&mut one);
    let mut liar = view(2);
    give(&mut liar, &entries);
    liar.edit(|edit| {
        let list = edit.resolve(&path(&["list"]))?;
        edit.put(&list, 1, 9)?;
        edit.insert(&list, 0, 8)?;
        edit.set_json(&path(&["map", "k"]), &json!(5))
    })
    .unwrap();
    let lie = change(&flushed(&mut liar)[0].1).decode();
    (one, entries, lie)
}

fn op_of(view: &mut View, prop: &str) -> OpId {
    let ops: Vec<(u64, Op)> = view
        .entries_since(&[])
        .iter()
        .flat_map(|(_, bytes)| {
            let decoded = change(bytes).decode();
            (decoded.start_op.get()..).zip(decoded.operations)
        })
        .collect();
    let (counter, _) = ops.iter().find(|(_, op)| op.key == Key::Map(prop.into())).unwrap();
    OpId(*counter, am::ActorId::from([1; 16]))
}

/// The lie is refused, an honest entry offered with it goes in, what builds on the lie is refused as well, and all is well.
fn refused(mut view: View, lie: am::ExpandedChange, expected: impl Fn(&Fault) -> bool) {
    let lie = wire(lie);
    let mut honest = super::view(3);
    give(&mut honest, &view.entries_since(&[]));
    set(&mut honest, json!({"honest": true}));
    let honest = flushed(&mut honest).remove(0);
    let mut upon = change(&honest.1).decode();
    upon.actor_id = am::ActorId::from([7; 16]);
    upon.start_op = 60.try_into().unwrap();
    upon.deps.push(am::ChangeHash(lie.0.0));
    upon.deps.sort();
    let upon = wire(upon);
    let before = view.cost().changes;
    let out = give(&mut view, &[upon.clone(), lie.clone(), honest]);
    assert_eq!((out.applied, view.cost().changes), (1, before + 1), "{out:?}");
    assert_eq!(out.invalid.len(), 2, "{out:?}");
    let (id, fault) = &out.invalid[0];
    assert!(*id == lie.0 && expected(fault), "{fault:?}");
    assert_eq!(out.invalid[1], (upon.0, Fault::PastInvalid));
    assert_eq!(view.json_at(&path(&["honest"])), Some(json!(true)));
    lives(&mut view);
}

fn actor(n: u8) -> am::ActorId {
    am::ActorId::from([n; 16])
}

#[test]
fn an_honest_change_survives_being_decoded_and_encoded() {
    let (mut view, _, lie) = base();
    assert_eq!(give(&mut view, &[wire(lie)]).applied, 1);
    lives(&mut view);
}

#[test]
fn an_op_on_a_missing_object_is_refused() {
    for id in [OpId(99, actor(1)), OpId(1, actor(9)), OpId(u64::MAX, actor(1))] {
        let (view, _, mut lie) = base();
        lie.operations[0].obj = ObjectId::Id(id);
        // The library's own decoder panics at counters beyond 32 bits.
        refused(view, lie, |f| matches!(f, Fault::Object(_) | Fault::Malformed(_)));
    }
}

#[test]
fn an_op_on_what_is_no_object_is_refused() {
    let (mut view, _, mut lie) = base();
    lie.operations[2].obj = ObjectId::Id(op_of(&mut view, "k"));
    refused(view, lie, |f| matches!(f, Fault::Object(_)));
}

#[test]
fn a_key_that_does_not_fit_the_object_is_refused() {
    let (mut view, _, mut lie) = base();
    lie.operations[2].obj = ObjectId::Id(op_of(&mut view, "list"));
    refused(view, lie, |f| matches!(f, Fault::Key(_)));
    let (mut view, _, mut lie) = base();
    lie.operations[0].obj = ObjectId::Id(op_of(&mut view, "map"));
    refused(view, lie, |f| matches!(f, Fault::Key(_)));
}

#[test]
fn an_element_that_is_missing_or_in_another_list_is_refused() {
    let (_, _, honest) = base();
    for (n, op) in honest.operations.iter().enumerate().take(2) {
        let (mut view, _, mut lie) = base();
        lie.operations[n].obj = ObjectId::Id(op_of(&mut view, "text"));
        if op.insert {
            lie.operations[n].key = Key::Seq(ElementId::Id(OpId(op_of(&mut view, "list").0 + 1, actor(1))));
        }
        refused(view, lie, |f| matches!(f, Fault::Element(_)));
        let (view, _, mut lie) = base();
        lie.operations[n].key = Key::Seq(ElementId::Id(OpId(4_000, actor(1))));
        refused(view, lie, |f| matches!(f, Fault::Element(_)));
    }
}

#[test]
fn an_update_of_the_head_is_refused() {
    let (view, _, mut lie) = base();
    lie.operations[0].key = Key::head();
    refused(view, lie, |f| matches!(f, Fault::Element(_)));
}

#[test]
fn a_predecessor_that_is_missing_or_elsewhere_is_refused() {
    let (mut view, _, _) = base();
    for id in [OpId(99, actor(1)), OpId(1, actor(9)), op_of(&mut view, "l"), op_of(&mut view, "map")] {
        for n in [0, 2] {
            let (view, _, mut lie) = base();
            lie.operations[n].pred = vec![id.clone()].into();
            refused(view, lie, |f| matches!(f, Fault::Predecessor(_)));
        }
    }
}

#[test]
fn a_predecessor_named_twice_is_refused() {
    let (view, _, mut lie) = base();
    let pred = lie.operations[2].pred.get(0).unwrap().clone();
    lie.operations[2].pred = vec![pred.clone(), pred].into();
    refused(view, lie, |f| matches!(f, Fault::Predecessor(_)));
}

#[test]
fn an_insert_with_a_predecessor_is_refused() {
    let (view, _, mut lie) = base();
    let pred = lie.operations[0].pred.get(0).unwrap().clone();
    lie.operations[1].pred = vec![pred].into();
    refused(view, lie, |f| matches!(f, Fault::Predecessor(_)));
}

#[test]
fn a_deletion_or_increment_of_nothing_is_refused() {
    for action in [OpType::Delete, OpType::Increment(1)] {
        let (view, _, mut lie) = base();
        lie.operations[2].action = action;
        lie.operations[2].pred = Vec::new().into();
        refused(view, lie, |f| matches!(f, Fault::Operation(..)));
    }
}

#[test]
fn numbers_that_repeat_or_rewind_are_refused() {
    for start in [1, 5] {
        let (view, _, mut lie) = base();
        lie.start_op = start.try_into().unwrap();
        refused(view, lie, |f| matches!(f, Fault::StartOp { .. }));
    }
    // An own chain that goes back over its own numbers: a collision.
    let (mut view, _, lie) = base();
    let first = wire(lie.clone());
    give(&mut view, std::slice::from_ref(&first));
    let mut second = lie;
    (second.seq, second.deps, second.extra_bytes) = (2, vec![am::ChangeHash(first.0.0)], vec![]);
    second.operations.truncate(1);
    second.operations[0].key = Key::Seq(ElementId::Head);
    second.operations[0].insert = true;
    second.operations[0].pred = Vec::new().into();
    refused(view, second, |f| matches!(f, Fault::StartOp { .. }));
}

#[test]
fn numbers_near_the_top_are_refused() {
    for start in [(1 << 31) - 2, u64::from(u32::MAX) - 5] {
        let (view, _, mut lie) = base();
        lie.start_op = start.try_into().unwrap();
        refused(view, lie, |f| matches!(f, Fault::StartOp { .. }));
    }
}

#[test]
fn a_chain_that_skips_or_repeats_a_number_is_refused() {
    for seq in [0, 2, 5] {
        let (view, _, mut lie) = base();
        (lie.seq, lie.extra_bytes) = (seq, vec![]);
        refused(view, lie, |f| matches!(f, Fault::Number { .. }));
    }
}

#[test]
fn a_change_that_forgets_its_own_chain_is_refused() {
    let (mut view, _, lie) = base();
    let first = wire(lie.clone());
    give(&mut view, std::slice::from_ref(&first));
    let mut second = lie;
    (second.seq, second.extra_bytes, second.start_op) = (2, vec![], 50.try_into().unwrap());
    refused(view, second, |f| matches!(f, Fault::OwnPast));
}

#[test]
fn an_author_on_a_later_entry_is_refused() {
    let (mut view, _, lie) = base();
    let first = wire(lie.clone());
    give(&mut view, std::slice::from_ref(&first));
    let mut second = lie;
    (second.seq, second.deps, second.start_op) = (2, vec![am::ChangeHash(first.0.0)], 50.try_into().unwrap());
    refused(view, second, |f| matches!(f, Fault::Author(2)));
}

#[test]
fn what_a_concurrent_change_made_may_not_be_named() {
    let (mut view, _, lie) = base();
    let mut other = lie.clone();
    other.actor_id = actor(5);
    let other = wire(other);
    give(&mut view, std::slice::from_ref(&other));
    let mut naming = lie;
    naming.operations[1].key = Key::Seq(ElementId::Id(OpId(naming.start_op.get() + 1, actor(5))));
    refused(view, naming, |f| matches!(f, Fault::Element(_)));
}

#[test]
fn a_mark_that_ends_before_it_begins_is_refused() {
    let marks = |begin: usize, end: usize| {
        let (mut view, _, mut lie) = base();
        let text = op_of(&mut view, "text");
        let at = |n: usize| match n {
            0 => Key::head(),
            n => Key::Seq(ElementId::Id(OpId(text.0 + n as u64, actor(1)))),
        };
        let data = MarkData { name: "bold".into(), value: true.into(), expand: false };
        let mark = |action, n| Op {
            action,
            obj: ObjectId::Id(text.clone()),
            key: at(n),
            pred: Vec::new().into(),
            insert: true,
        };
        lie.operations = vec![mark(OpType::MarkBegin(data), begin), mark(OpType::MarkEnd(false), end)];
        (view, lie)
    };
    for (begin, end) in [(0, 3), (1, 2), (2, 6)] {
        let (mut view, lie) = marks(begin, end);
        assert_eq!(give(&mut view, &[wire(lie)]).applied, 1);
        lives(&mut view);
    }
    for (begin, end) in [(0, 0), (2, 2), (3, 1), (6, 5), (4, 0)] {
        let (view, lie) = marks(begin, end);
        refused(view, lie, |f| matches!(f, Fault::MarkOrder(_)));
    }
    let (view, mut lie) = marks(1, 3);
    lie.operations.truncate(1);
    refused(view, lie, |f| matches!(f, Fault::MarkOrder(_)));
    let (view, mut lie) = marks(1, 3);
    lie.operations.remove(0);
    refused(view, lie, |f| matches!(f, Fault::MarkOrder(_)));
}

/// With two values in one place of a text, the library panics as soon as the older one is deleted.
#[test]
fn a_value_in_place_of_an_element_of_a_text_is_refused() {
    for preds in [0, 1] {
        let (mut view, _, mut lie) = base();
        let text = op_of(&mut view, "text");
        let letter = OpId(text.0 + 2, actor(1));
        let op = &mut lie.operations[0];
        (op.obj, op.key) = (ObjectId::Id(text), Key::Seq(ElementId::Id(letter.clone())));
        op.pred = vec![letter; preds].into();
        refused(view, lie, |f| matches!(f, Fault::Operation(_, "value in place of an element of a text")));
    }
}

#[test]
fn a_table_is_refused() {
    let (view, _, mut lie) = base();
    lie.operations[2].action = OpType::Make(am::ObjType::Table);
    refused(view, lie, |f| matches!(f, Fault::Operation(_, "table")));
}

#[test]
fn bytes_that_are_not_the_canonical_encoding_are_refused() {
    let (mut view, _, lie) = base();
    let (id, bytes) = wire(lie.clone());
    let mut compressed = am::Change::try_from(&bytes[..]).unwrap();
    let mut long = lie;
    long.message = Some("m".repeat(2_000));
    let mut longer = am::Change::from(long);
    assert_ne!(longer.bytes().len(), longer.raw_bytes().len());
    let cases = [
        (EntryId([1; 32]), bytes.clone(), Fault::WrongId),
        (EntryId(longer.hash().0), longer.bytes().to_vec(), Fault::NotCanonical),
    ];
    for (id, bytes, fault) in cases {
        assert_eq!(give(&mut view, &[(id, bytes)]).invalid, vec![(id, fault)]);
    }
    for cut in [0, 3, 20, bytes.len() - 1] {
        let out = give(&mut view, &[(id, bytes[..cut].to_vec())]);
        assert!(matches!(out.invalid[0].1, Fault::Malformed(_) | Fault::WrongId), "{out:?}");
    }
    // The checksum is the first four bytes of the hash; the library itself does not look at it here.
    let mut wrong_sum = bytes.clone();
    wrong_sum[5] ^= 1;
    assert!(give(&mut view, &[(id, wrong_sum)]).applied == 0);
    assert_eq!(give(&mut view, &[(id, compressed.bytes().to_vec())]).applied, 1);
}

#[test]
fn entries_without_their_past_are_missing_not_invalid() {
    let (_, entries, lie) = base();
    let mut empty = View::new();
    let lie = wire(lie);
    let out = give(&mut empty, std::slice::from_ref(&lie));
    assert_eq!((out.applied, out.missing, out.invalid), (0, vec![lie.0], vec![]));
    let out = give(&mut empty, &[lie, entries[0].clone()]);
    assert_eq!((out.applied, out.missing), (2, vec![]));
}

#[test]
fn a_panic_quarantines_the_guilty_entry_and_what_builds_on_it_and_keeps_the_rest() {
    let (mut view, entries, _) = base();
    view.watch(true);
    let mut log = entries.clone();
    view.set_chain(author(1)).unwrap();
    set(&mut view, json!({"own": 1}));
    log.extend(flushed(&mut view));
    // Closed but not flushed: in no log yet.
    view.edit(|edit| edit.put(&ObjId::ROOT, "own", 2)).unwrap();
    let mut batch = Vec::new();
    for n in 10..20 {
        let mut peer = super::view(n);
        give(&mut peer, &entries);
        for k in 0..3 {
            peer.edit(|edit| edit.put(&ObjId::ROOT, format!("p{n}"), k)).unwrap();
            batch.extend(flushed(&mut peer));
        }
    }
    let guilty = batch[13].0;
    view.panic_on = Some(guilty);
    let mut shown = view.to_json();
    let refs: Vec<(EntryId, &[u8])> = batch.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
    let out = view.apply_remote(&refs, &mut |give| log.iter().for_each(|(_, bytes)| give(bytes)));
    let mut expected = vec![guilty, batch[14].0];
    expected.sort();
    assert_eq!((out.applied, out.invalid.len(), out.broken), (28, 0, false), "{out:?}");
    assert_eq!(out.quarantined, expected);
    assert_eq!(view.json_at(&path(&["p14"])), Some(json!(0)));
    assert_eq!(view.json_at(&path(&["p19"])), Some(json!(2)));
    assert_eq!(view.json_at(&path(&["own"])), Some(json!(2)));
    out.patches.iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
    assert_eq!(shown, view.to_json());
    // Offered again, it is not tried again.
    assert_eq!(view.apply_remote(&refs, &mut no_log).quarantined.len(), 2);
    view.panic_on = None;
    lives(&mut view);
}

#[test]
fn a_view_without_a_usable_log_says_that_it_is_broken_and_heals_by_a_rebuild() {
    let (mut view, entries, lie) = base();
    let (id, bytes) = wire(lie);
    view.panic_on = Some(id);
    let out = view.apply_remote(&[(id, &bytes)], &mut |_| ());
    assert!(out.broken && out.applied == 0);
    assert_eq!(view.edit(|edit| edit.put(&ObjId::ROOT, "a", 1)), Err(EditError::Broken));
    view.panic_on = None;
    view.rebuild(&mut |give| entries.iter().for_each(|(_, bytes)| give(bytes))).unwrap();
    assert_eq!(view.apply_remote(&[(id, &bytes)], &mut no_log).applied, 1);
    lives(&mut view);
}
