//! Edits that were meant for an earlier version.

use serde_json::json;

use super::*;

/// A document, the version that somebody saw, and then what others did.
fn seen(before: Json, others: impl FnOnce(&mut Edit<'_>) -> Result<(), EditError>) -> (View, Vec<EntryId>) {
    let mut view = view(1);
    set(&mut view, before);
    view.commit().unwrap();
    let version = view.heads();
    view.edit(others).unwrap();
    view.commit().unwrap();
    (view, version)
}

fn put(steps: &'static [&'static str], value: Json) -> impl FnOnce(&mut Edit<'_>) -> Result<(), EditError> {
    move |edit| edit.set_json(&path(steps), &value)
}

#[test]
fn keys_that_nobody_meant_stay_as_others_left_them() {
    let (mut view, version) = seen(json!({"a": 1, "b": 1, "c": 1}), |edit| {
        edit.put(&ObjId::ROOT, "b", 2)?;
        edit.put(&ObjId::ROOT, "d", 4)
    });
    // Takes away b, which has another value since, and c, which has not.
    view.edit_at(&version, |edit| edit.set_json(&[], &json!({"a": 9}))).unwrap();
    assert_eq!(view.to_json(), json!({"a": 9, "b": 2, "d": 4}));
}

#[test]
fn elements_are_found_where_they_are_now() {
    let before = json!({"list": ["a", "b", "c", "d"], "rows": [{"id": 1, "n": 1}, {"id": 2, "n": 2}]});
    let (mut view, version) = seen(before, |edit| {
        edit.set_json(&path(&["list"]), &json!(["x", "a", "b", "d"]))?;
        edit.set_json(&path(&["rows"]), &json!([{"id": 0, "n": 0}, {"id": 1, "n": 1}, {"id": 2, "n": 2, "new": true}]))
    });
    let wanted = json!({"list": ["a", "B", "c", "d", "e"], "rows": [{"id": 2, "n": 22}]});
    view.edit_at(&version, |edit| edit.set_json(&[], &wanted)).unwrap();
    assert_eq!(
        view.to_json(),
        json!({"list": ["x", "a", "B", "d", "e"], "rows": [{"id": 0, "n": 0}, {"id": 2, "n": 22, "new": true}]})
    );
}

#[test]
fn a_version_does_not_show_what_is_still_being_edited() {
    let mut view = view(1);
    for n in 0..3 {
        let (heads, was) = (view.heads(), view.to_json());
        view.edit(|edit| edit.put(&ObjId::ROOT, format!("k{n}"), n)).unwrap();
        assert!(view.is_gathering());
        assert_eq!(view.json_at_heads(&heads).unwrap(), was);
        assert_eq!(view.json_at_version(&path(&["k0"]), &heads), was.get("k0").cloned());
        assert_eq!(view.patches_between(&heads, &heads).unwrap(), []);
        view.commit().unwrap();
        assert_eq!(view.patches_between(&heads, &view.heads()).unwrap().len(), 1);
    }
}

#[test]
fn text_is_spliced_where_it_was_read() {
    let (mut view, version) =
        seen(json!({"t": "the quick fox jumps"}), put(&["t"], json!("Then the quick brown fox jumps")));
    view.edit_at(&version, put(&["t"], json!("the slow fox jumps over"))).unwrap();
    assert_eq!(view.to_json(), json!({"t": "Then the slow brown fox jumps over"}));
}

#[test]
fn long_text_that_was_replaced_as_a_whole_gives_way_but_for_what_others_typed() {
    let old = "abcdefghij".repeat(5_000);
    let (mut view, version) = seen(json!({ "t": old }), |edit| {
        let text = edit.resolve(&path(&["t"]))?;
        edit.splice_text(&text, 20_000, 0, "HERE")?;
        edit.splice_text(&text, 100, 50, "")
    });
    view.edit_at(&version, put(&["t"], json!("1234567"))).unwrap();
    let shown = view.to_json()["t"].as_str().unwrap().to_owned();
    assert!(shown == "1234567HERE" || shown == "HERE1234567", "{shown}");
}

#[test]
fn a_counter_counts_the_difference_to_what_was_seen() {
    let (mut view, version) = seen(json!({}), |edit| edit.put(&ObjId::ROOT, "n", Scalar::Counter(10)));
    let seen_at = view.heads();
    view.edit(|edit| edit.increment(&ObjId::ROOT, "n", 5)).unwrap();
    view.edit_at(&seen_at, put(&["n"], json!(11))).unwrap();
    assert_eq!(view.to_json(), json!({"n": 16}));
    // Who saw no counter puts a number.
    view.edit_at(&version, put(&["n"], json!(1))).unwrap();
    assert_eq!(view.to_json(), json!({"n": 1}));
}

#[test]
fn what_others_deleted_comes_back_if_it_was_written() {
    let (mut view, version) = seen(json!({"list": [1, 2, 3], "gone": {"a": 1}}), |edit| {
        edit.set_json(&path(&["list"]), &json!([1, 3]))?;
        edit.delete(&ObjId::ROOT, "gone")
    });
    view.edit_at(&version, put(&["list", "1"], json!(22))).unwrap();
    assert_eq!(view.to_json(), json!({"list": [1, 22, 3]}));
    // Inside of what is gone, it is gone as well.
    view.edit_at(&version, put(&["gone", "a"], json!(2))).unwrap();
    assert_eq!(view.to_json(), json!({"list": [1, 22, 3]}));
}

#[test]
fn what_comes_back_does_not_push_its_neighbours_aside() {
    let (mut view, version) = seen(json!({"l": [1, 2, 3], "t": ["x", "y"], "o": {"a": 1}}), |edit| {
        edit.set_json(&path(&["l"]), &json!([2, 3]))?;
        edit.set_json(&path(&["t"]), &json!(["y"]))?;
        edit.put_object(&ObjId::ROOT, "o", ObjKind::Map).map(drop)
    });
    view.edit_at(&version, |edit| edit.set_json(&path(&["l"]), &json!([10, 20, 3]))).unwrap();
    // A text that others deleted is written anew if it changed, and stays away if it did not.
    view.edit_at(&version, |edit| edit.set_json(&path(&["t"]), &json!(["z", "y"]))).unwrap();
    let part = Wanted::Map([("b".to_owned(), Some(Wanted::Value(json!(2))))].into());
    let part = Wanted::Map([("o".to_owned(), Some(part))].into());
    view.edit_at(&version, |edit| edit.make_so(&part)).unwrap();
    assert_eq!(view.to_json(), json!({"l": [10, 20, 3], "t": ["z", "y"], "o": {"b": 2}}));
    view.edit_at(&version, |edit| edit.set_json(&[], &json!({"l": [1, 2, 3], "t": ["x", "y"], "o": {"a": 1}, "n": 1})))
        .unwrap();
    assert_eq!(view.to_json(), json!({"l": [10, 20, 3], "t": ["z", "y"], "o": {"b": 2}, "n": 1}));
}

#[test]
fn a_version_that_is_not_held_is_refused_and_one_that_is_the_present_is_an_edit_like_any() {
    let (mut view, _) = seen(json!({"a": 1}), |edit| edit.put(&ObjId::ROOT, "a", 2));
    let refused = view.edit_at(&[EntryId([9; 32])], put(&["a"], json!(3)));
    assert_eq!(refused, Err(EditError::UnknownVersion));
    let now = view.heads();
    view.edit_at(&now, put(&["a"], json!(3))).unwrap();
    assert_eq!(view.to_json(), json!({"a": 3}));
}

#[test]
fn what_is_wanted_names_what_stays() {
    let kept = |was| Element { was: Some(was), now: Wanted::Kept };
    let new = |value| Element { was: None, now: Wanted::Value(value) };
    let list =
        |elements| Wanted::Map([("list".to_owned(), Some(Wanted::List(elements))), ("gone".to_owned(), None)].into());
    let (mut view, version) = seen(json!({"list": ["a", "a", "a"], "gone": 1, "kept": 1}), |edit| {
        let list = edit.resolve(&path(&["list"]))?;
        edit.insert(&list, 1, "X")
    });
    // Of equal elements, that one goes which was meant.
    view.edit_at(&version, |edit| edit.make_so(&list(vec![new(json!(0)), kept(0), kept(2), new(json!(9))]))).unwrap();
    assert_eq!(view.to_json(), json!({"list": [0, "a", "X", "a", 9], "kept": 1}));
    let bad = view.edit(|edit| edit.make_so(&list(vec![kept(2), kept(1)])));
    assert!(matches!(bad, Err(EditError::Index { .. })), "{bad:?}");
}

/// Whatever was seen and whatever others did: who writes upon the present gets what is wanted, and patches lead from any version to
/// any other.
mod random {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            (0..4i64).prop_map(Json::from),
            "[ab]{0,4}".prop_map(Json::from),
            Just(Json::Null),
            any::<bool>().prop_map(Json::from)
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    fn document() -> impl Strategy<Value = Json> {
        prop::collection::btree_map("[a-c]", value(), 0..4).prop_map(|map| Json::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn an_edit_at_any_version_is_taken_and_one_at_the_present_is_exact(
            documents in prop::collection::vec(document(), 2..6),
            at in any::<prop::sample::Index>(),
            wanted in document(),
        ) {
            let mut view = view(1);
            let mut versions = Vec::new();
            for document in &documents {
                set(&mut view, document.clone());
                view.commit().unwrap();
                versions.push(view.heads());
            }
            let version = &versions[at.index(versions.len())];
            view.edit_at(version, |edit| edit.set_json(&[], &wanted)).unwrap();
            view.commit().unwrap();
            if version == versions.last().unwrap() {
                prop_assert_eq!(view.to_json(), wanted.clone());
            }
            let now = view.heads();
            let mut shown = view.json_at_heads(version).unwrap();
            for patch in view.patches_between(version, &now).unwrap() {
                patch::apply(&mut shown, &patch).unwrap();
            }
            prop_assert_eq!(shown, view.to_json());
            // Nobody else did anything: what is written at a version is there.
            let (mut alone, version) = seen(documents[0].clone(), |_| Ok(()));
            alone.edit(|edit| edit.put(&ObjId::ROOT, "z", 1)).unwrap();
            alone.edit_at(&version, |edit| edit.set_json(&[], &wanted)).unwrap();
            let mut expected = wanted;
            expected["z"] = json!(1);
            prop_assert_eq!(alone.to_json(), expected);
        }
    }
}
