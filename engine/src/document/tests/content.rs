//! What a document shows is put into another, and shows the same there.

use super::forks::world::World;
use super::*;

fn refilled(content: &Content) -> View {
    let mut view = view(9);
    view.edit(|edit| edit.fill(&ObjId::ROOT, content)).unwrap();
    view
}

#[test]
fn any_document_shows_the_same_without_its_history() {
    for seed in 0..60 {
        let mut world = World::new(7 << 32 | seed);
        (0..40).for_each(|_| world.step());
        world.flush_all();
        let old = world.delivered();
        let content = old.content();
        let mut new = refilled(&content);
        assert_eq!((new.content(), new.to_json()), (content, old.to_json()), "seed {seed}");
        flushed(&mut new);
        lives(&mut new);
    }
}

#[test]
fn every_kind_of_value_and_mark_goes_along() {
    let mut old = view(1);
    let unknown = Scalar::Unknown { code: 13, bytes: vec![1, 2] };
    old.edit(|edit| {
        edit.set_json(&[], &serde_json::json!({"t": "a b c", "l": [[1], {}]}))?;
        edit.put(&ObjId::ROOT, "c", Scalar::Counter(40))?;
        edit.increment(&ObjId::ROOT, "c", 2)?;
        let list = edit.resolve(&path(&["l"]))?;
        for value in
            [Scalar::Null, Scalar::Timestamp(-5), Scalar::Bytes(vec![0]), Scalar::F64(0.5), Scalar::Uint(u64::MAX)]
        {
            edit.insert(&list, 0, value)?;
        }
        edit.insert(&list, 0, unknown.clone())?;
        let text = edit.resolve(&path(&["t"]))?;
        edit.mark(&text, 0, 3, Expand::Both, "bold", true)?;
        edit.mark(&text, 2, 5, Expand::None, "link", "https://example.org")
    })
    .unwrap();
    let content = old.content();
    let mut new = refilled(&content);
    assert_eq!(new.content(), content);
    let Content::Map(entries) = content else { panic!() };
    assert_eq!(entries[0], ("c".into(), Content::Scalar(Scalar::Counter(42))));
    assert!(matches!(&entries[1].1, Content::List(items) if items[0] == Content::Scalar(unknown)));
    assert!(matches!(&entries[2].1, Content::Text(text, marks) if text == "a b c" && marks.len() == 2));
    // A counter it still is.
    new.edit(|edit| edit.increment(&ObjId::ROOT, "c", 1)).unwrap();
    assert_eq!(new.to_json()["c"], 43);
}

#[test]
fn more_than_fits_one_change_goes_into_several() {
    let mut old = view(1);
    let list: Vec<u64> = (0..70_000).collect();
    set(&mut old, serde_json::json!({"list": list, "text": "wörd ".repeat(30_000)}));
    let mut new = refilled(&old.content());
    assert_eq!(new.to_json(), old.to_json());
    let changes = flushed(&mut new);
    assert!(changes.len() > 2, "{}", changes.len());
    let rules = commonhold_sync::limits::Rules::V1;
    assert!(changes.iter().all(|(_, bytes)| commonhold_sync::change::walk(bytes, &rules).is_ok()));
}
