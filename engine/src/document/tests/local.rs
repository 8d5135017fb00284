use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::json;

use super::*;

#[test]
fn edits_between_flushes_are_one_change() {
    let mut view = view(1);
    for n in 0..10 {
        view.edit(|edit| edit.put(&ObjId::ROOT, "n", n)).unwrap();
    }
    assert_eq!(view.to_json(), json!({"n": 9}));
    let entries = view.flush().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].seq, entries[0].start_op, entries[0].ops), (1, 1, 10));
    assert_eq!(view.heads(), vec![entries[0].id]);
    assert_eq!(view.flush().unwrap(), vec![]);
}

#[test]
fn the_first_entry_of_a_chain_names_the_device_and_later_ones_do_not() {
    let mut view = view(1);
    set(&mut view, json!({"a": 1}));
    view.commit().unwrap();
    set(&mut view, json!({"a": 2}));
    let entries = view.flush().unwrap();
    let authors: Vec<_> = entries.iter().map(|e| change(&e.bytes).author().map(|a| a.as_bytes().to_vec())).collect();
    assert_eq!(authors, vec![Some(author(1).device.to_vec()), None]);
    assert!(entries.iter().all(|e| change(&e.bytes).timestamp() == 0 && change(&e.bytes).hash().0 == e.id.0));
    view.set_chain(author(2)).unwrap();
    set(&mut view, json!({"a": 3}));
    let entries = view.flush().unwrap();
    assert_eq!((entries[0].actor, entries[0].seq), (author(2).actor, 1));
    assert!(change(&entries[0].bytes).author().is_some());
}

#[test]
fn an_edit_without_a_chain_is_refused() {
    let refused = View::new().edit(|edit| edit.put(&ObjId::ROOT, "a", 1));
    assert_eq!(refused, Err(EditError::NoChain));
}

#[test]
fn a_failing_closure_undoes_its_own_edits_and_no_others() {
    let mut view = view(1);
    view.edit(|edit| edit.set_json(&[], &json!({"text": "abc", "list": [1, 2]}))).unwrap();
    let list = view.edit(|edit| edit.resolve(&path(&["list"]))).unwrap();
    let before = view.to_json();
    let failed: Result<(), EditError> = view.edit(|edit| {
        edit.put(&ObjId::ROOT, "text", "gone")?;
        edit.delete(&list, 0)?;
        edit.put(&list, 7, 1)
    });
    assert_eq!(failed, Err(EditError::Index { index: 7, len: 1 }));
    assert_eq!(view.to_json(), before);
    // The handle from before is still good, and the numbers of operations go on as if nothing had happened.
    view.edit(|edit| edit.insert(&list, 2, 3)).unwrap();
    let entries = view.flush().unwrap();
    assert_eq!(entries.len(), 1);
    let mut other = View::new();
    let out = give(&mut other, &[(entries[0].id, entries[0].bytes.clone())]);
    assert_eq!((out.applied, other.to_json()), (1, json!({"text": "abc", "list": [1, 2, 3]})));
}

#[test]
fn a_panicking_closure_undoes_its_own_edits_and_no_others() {
    let mut view = view(1);
    set(&mut view, json!({"kept": true}));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        view.edit(|edit| -> Result<(), EditError> {
            edit.put(&ObjId::ROOT, "kept", false)?;
            panic!("the app's own");
        })
    }));
    assert!(caught.is_err());
    assert_eq!(view.to_json(), json!({"kept": true}));
    lives(&mut view);
}

#[test]
fn what_the_rules_forbid_is_refused_before_it_touches_anything() {
    let mut view = view(1);
    let big = "x".repeat((256 << 10) + 1);
    let refused = view.edit(|edit| edit.put(&ObjId::ROOT, "a", big.as_str()));
    assert!(matches!(refused, Err(EditError::TooLarge { what: "value", .. })), "{refused:?}");
    let refused = view.edit(|edit| edit.put(&ObjId::ROOT, "k".repeat(1025), 1));
    assert!(matches!(refused, Err(EditError::TooLarge { what: "key", .. })), "{refused:?}");
    let nested = |levels| {
        (0..levels).fold(json!(1), |inside, n| if n % 2 == 0 { json!({ "a": inside }) } else { json!([inside]) })
    };
    let refused = view.edit(|edit| edit.set_json(&["deep".into()], &nested(101)));
    assert!(matches!(refused, Err(EditError::TooDeep { max: 100 })), "{refused:?}");
    assert!(!view.has_unflushed());
    set(&mut view, json!({ "deep": nested(100) }));
    assert_eq!(view.to_json(), json!({ "deep": nested(100) }));
    // The same string as text is no value: each character is one.
    set(&mut view, json!({"a": big}));
    lives(&mut view);
}

#[test]
fn a_transaction_over_the_caps_leaves_as_several_changes() {
    let mut view = view(1);
    let long = "word ".repeat(20_000);
    let blobs: Vec<Vec<u8>> = (0..9).map(|n| vec![n; 200 << 10]).collect();
    view.edit(|edit| {
        edit.set_json(&[], &json!({"text": long}))?;
        blobs.iter().enumerate().try_for_each(|(n, blob)| edit.put(&ObjId::ROOT, format!("b{n}"), blob.clone()))
    })
    .unwrap();
    let shown = view.to_json();
    let entries = view.flush().unwrap();
    assert!(entries.len() > 3);
    assert!(entries.iter().all(|e| e.bytes.len() <= 1 << 20 && e.ops <= 65_536));
    assert_eq!(view.to_json(), shown);
    assert_eq!(view.text(&path(&["text"])).unwrap(), long);
}

#[test]
fn deleting_more_than_a_change_holds_works() {
    let mut view = view(1);
    set(&mut view, json!({"text": "ab".repeat(50_000)}));
    flushed(&mut view);
    set(&mut view, json!({"text": "ba"}));
    let entries = view.flush().unwrap();
    assert!(entries.len() > 2 && entries.iter().all(|e| e.bytes.len() <= 1 << 20));
    assert_eq!(view.to_json(), json!({"text": "ba"}));
}

#[test]
fn many_heads_are_joined_before_an_edit_depends_on_them() {
    let mut all = Vec::new();
    for n in 0..150 {
        let mut peer = view(n);
        set(&mut peer, json!({ format!("k{n}"): n }));
        all.extend(flushed(&mut peer));
    }
    let mut view = view(200);
    assert_eq!(give(&mut view, &all).applied, 150);
    assert_eq!(view.heads().len(), 150);
    view.edit(|edit| edit.put(&ObjId::ROOT, "mine", 1)).unwrap();
    let entries = view.flush().unwrap();
    assert!(entries.iter().all(|e| e.deps.len() <= 64));
    assert_eq!(view.heads(), vec![entries.last().unwrap().id]);
    lives(&mut view);
}

#[test]
fn set_leaves_equal_parts_alone_and_splices_strings() {
    let mut view = view(1);
    set(&mut view, json!({"title": "hello world", "n": 1, "deep": {"x": [1, 2, 3]}}));
    flushed(&mut view);
    set(&mut view, json!({"title": "hello brave world", "n": 1, "deep": {"x": [1, 3]}}));
    let entry = &view.flush().unwrap()[0];
    assert_eq!(entry.ops, 7, "six characters and one deletion");
    set(&mut view, json!({"title": "hello brave world", "n": 1, "deep": {"x": [1, 3]}}));
    assert_eq!(view.flush().unwrap(), vec![]);
}

#[test]
fn list_elements_keep_their_identity_by_id() {
    let mut one = view(1);
    set(
        &mut one,
        json!({"todo": [{"id": "a", "done": false}, {"id": "b", "done": false}, {"id": "c", "done": false}]}),
    );
    let mut two = view(2);
    give(&mut two, &flushed(&mut one));
    // One peer removes the first; the other ticks the last.
    set(&mut one, json!({"todo": [{"id": "b", "done": false}, {"id": "c", "done": false}]}));
    set(&mut two, json!({"todo": [{"id": "a", "done": false}, {"id": "b", "done": false}, {"id": "c", "done": true}]}));
    let (from_one, from_two) = (flushed(&mut one), flushed(&mut two));
    give(&mut one, &from_two);
    give(&mut two, &from_one);
    assert_eq!(one.to_json(), json!({"todo": [{"id": "b", "done": false}, {"id": "c", "done": true}]}));
    assert_eq!(one.to_json(), two.to_json());
}

#[test]
fn typed_values_read_as_they_were_put() {
    let mut view = view(1);
    view.edit(|edit| -> Result<(), EditError> {
        let root = ObjId::ROOT;
        edit.put(&root, "s", ScalarString("plain".into()))?;
        edit.put(&root, "t", Scalar::Timestamp(12))?;
        edit.put(&root, "c", Scalar::Counter(5))?;
        edit.put(&root, "b", vec![1u8, 2])?;
        edit.put(&root, "u", u64::MAX)?;
        edit.increment(&root, "c", -2)?;
        assert_eq!(edit.increment(&root, "s", 1), Err(EditError::NotACounter));
        let text = edit.put_object(&root, "x", ObjKind::Text)?;
        edit.splice_text(&text, 0, 0, "añb🙂c")?;
        edit.splice_text(&text, 3, 1, "!")?;
        edit.mark(&text, 0, 2, Expand::None, "bold", true)
    })
    .unwrap();
    assert_eq!(view.value(&path(&["s"])), Some(Value::Scalar(Scalar::Str("plain".into()))));
    assert_eq!(view.text(&path(&["x"])).unwrap(), "añb!c");
    assert_eq!(view.marks(&path(&["x"])).unwrap().len(), 1);
    assert_eq!(view.to_json(), json!({"s": "plain", "t": 12, "c": 3, "b": [1, 2], "u": u64::MAX, "x": "añb!c"}));
    assert_eq!(view.get::<Vec<u8>>(&path(&["b"])).unwrap(), vec![1, 2]);
    assert_eq!(view.get::<String>(&path(&["none"])), Err(EditError::NotFound("[\"none\"]".into())));
    lives(&mut view);
}

#[test]
fn an_old_version_can_be_read_and_history_names_every_entry() {
    let mut view = view(1);
    set(&mut view, json!({"a": 1}));
    let first = view.flush().unwrap().remove(0);
    view.set_time(77);
    set(&mut view, json!({"a": 2}));
    let second = view.flush().unwrap().remove(0);
    assert_eq!(view.json_at_heads(&[first.id]), Some(json!({"a": 1})));
    assert_eq!(view.json_at_heads(&[EntryId([9; 32])]), None);
    let history: Vec<ChangeInfo> = view.history().collect();
    assert_eq!(
        history.iter().map(|c| (c.id, c.seq, c.time)).collect::<Vec<_>>(),
        vec![(first.id, 1, 0), (second.id, 2, 77)]
    );
    assert_eq!(view.entries_since(&[first.id]), vec![(second.id, second.bytes.clone())]);
    assert_eq!(view.entry(&second.id), Some(second.bytes));
    assert_eq!(view.entry(&EntryId([9; 32])), None);
}

#[test]
fn a_rebuild_drops_what_the_log_does_not_have() {
    let mut view = view(1);
    view.watch(true);
    set(&mut view, json!({"a": 1}));
    let kept = flushed(&mut view);
    set(&mut view, json!({"a": 2}));
    flushed(&mut view);
    set(&mut view, json!({"a": 3}));
    let patches = view.rebuild(&mut |give| kept.iter().for_each(|(_, bytes)| give(bytes))).unwrap();
    let mut shown = json!({"a": 2});
    patches.iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
    assert_eq!((view.to_json(), shown), (json!({"a": 1}), json!({"a": 1})));
    assert!(!view.has_unflushed());
    lives(&mut view);
}

#[test]
fn concurrent_values_are_listed_with_their_entries() {
    let (mut one, mut two) = (view(1), view(2));
    set(&mut one, json!({"a": 1}));
    set(&mut two, json!({"a": 2}));
    let (from_one, from_two) = (flushed(&mut one), flushed(&mut two));
    give(&mut one, &from_two);
    let found = one.conflicts(&path(&["a"]));
    assert_eq!(
        found,
        vec![
            Alternative { value: json!(1), entry: Some(from_one[0].0) },
            Alternative { value: json!(2), entry: Some(from_two[0].0) },
        ]
    );
    assert_eq!(one.to_json(), json!({"a": 2}));
}

#[test]
fn setting_what_stands_there_changes_nothing_whatever_it_reads_as() {
    let mut view = view(1);
    let made: Result<(), EditError> = view.edit(|edit| {
        let bytes = || Scalar::Bytes(vec![1, 2, 255]);
        edit.set_json(&[], &json!({"list": [{"id": 1, "n": 0}], "plain": [0], "text": "abc"}))?;
        let (list, item) = (edit.resolve(&path(&["plain"]))?, edit.resolve(&["list".into(), 0.into()])?);
        edit.insert(&list, 1, bytes())?;
        edit.put(&ObjId::ROOT, "bytes", bytes())?;
        edit.put(&item, "bytes", bytes())?;
        edit.put(&item, "count", Scalar::Counter(3))?;
        edit.put(&item, "at", Scalar::Timestamp(1_700_000_000))?;
        edit.put(&item, "word", Scalar::Str("whole".into()))
    });
    made.unwrap();
    view.flush().unwrap();
    let shown = view.to_json();
    assert_eq!(shown["list"][0]["bytes"], json!([1, 2, 255]));
    view.edit(|edit| edit.set_json(&[], &shown)).unwrap();
    assert_eq!(view.flush().unwrap(), vec![]);
    // Something beside it is another matter, and only that.
    let mut wanted = shown;
    wanted["list"][0]["n"] = json!(1);
    wanted["plain"][0] = json!(7);
    view.edit(|edit| edit.set_json(&[], &wanted)).unwrap();
    let entries = view.flush().unwrap();
    assert_eq!((entries.len(), entries[0].ops), (1, 2));
}
