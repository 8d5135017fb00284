//! Whatever passes the rules, Automerge applies, saves, reloads and edits.

use automerge::legacy::{ElementId, Key, MarkData, ObjectId, Op, OpId, OpType};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Lie {
    Obj(Index, (u8, u64)),
    Element(Index, Option<(u8, u64)>),
    MapKey(Index, String),
    Preds(Index, Vec<(u8, u64)>),
    Insert(Index),
    Action(Index, Action),
    Swap(Index, Index),
    Drop(Index),
    Repeat(Index),
    StartOp(u8),
    Seq(u8),
    Actor(u8),
    NoDeps,
    Extra(Vec<u8>),
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    Make(u8),
    Delete,
    Increment(i64),
    Put(Scalar),
    Mark(bool),
    Unmark(bool),
}

fn op_id() -> impl Strategy<Value = (u8, u64)> {
    (1u8..5, 0u64..30)
}

pub(super) fn lie() -> impl Strategy<Value = Lie> {
    let at = any::<Index>;
    let value = prop_oneof![
        Just(Scalar::Null),
        Just(Scalar::Counter(1)),
        "[ab]{0,2}".prop_map(Scalar::Str),
        Just(Scalar::Unknown { code: 12, bytes: vec![1] }),
    ];
    let action = prop_oneof![
        (0u8..4).prop_map(Action::Make),
        Just(Action::Delete),
        (-1i64..2).prop_map(Action::Increment),
        value.prop_map(Action::Put),
        any::<bool>().prop_map(Action::Mark),
        any::<bool>().prop_map(Action::Unmark),
    ];
    prop_oneof![
        3 => (at(), op_id()).prop_map(|(n, id)| Lie::Obj(n, id)),
        3 => (at(), prop::option::of(op_id())).prop_map(|(n, id)| Lie::Element(n, id)),
        2 => (at(), "[abc]{0,1}").prop_map(|(n, key)| Lie::MapKey(n, key)),
        3 => (at(), prop::collection::vec(op_id(), 0..3)).prop_map(|(n, ids)| Lie::Preds(n, ids)),
        1 => at().prop_map(Lie::Insert),
        4 => (at(), action).prop_map(|(n, action)| Lie::Action(n, action)),
        1 => (at(), at()).prop_map(|(a, b)| Lie::Swap(a, b)),
        1 => at().prop_map(Lie::Drop),
        1 => at().prop_map(Lie::Repeat),
        1 => any::<u8>().prop_map(Lie::StartOp),
        1 => (0u8..4).prop_map(Lie::Seq),
        1 => (1u8..5).prop_map(Lie::Actor),
        1 => Just(Lie::NoDeps),
        1 => prop::collection::vec(any::<u8>(), 0..4).prop_map(Lie::Extra),
    ]
}

/// Tells a lie in a change, in which actors have names.
pub(super) fn tell(change: &mut am::ExpandedChange, lie: &Lie, name: &dyn Fn(u8) -> am::ActorId) {
    let id = |(actor, counter): (u8, u64)| OpId(counter, name(actor));
    let len = change.operations.len();
    let ops = &mut change.operations;
    let mut with = |n: &Index, f: &dyn Fn(&mut Op)| {
        if len > 0 {
            f(&mut ops[n.index(len)]);
        }
    };
    match lie {
        Lie::Obj(n, (_, 0)) => with(n, &|op| op.obj = ObjectId::Root),
        Lie::Obj(n, obj) => with(n, &|op| op.obj = ObjectId::Id(id(*obj))),
        Lie::Element(n, None) => with(n, &|op| op.key = Key::head()),
        Lie::Element(n, Some(element)) => with(n, &|op| op.key = Key::Seq(ElementId::Id(id(*element)))),
        Lie::MapKey(n, key) => with(n, &|op| op.key = Key::Map(key.into())),
        Lie::Preds(n, preds) => with(n, &|op| op.pred = preds.iter().map(|pred| id(*pred)).collect()),
        Lie::Insert(n) => with(n, &|op| op.insert = !op.insert),
        Lie::Action(n, action) => with(n, &|op| {
            op.action = match action {
                Action::Make(0) => OpType::Make(am::ObjType::Map),
                Action::Make(1) => OpType::Make(am::ObjType::List),
                Action::Make(2) => OpType::Make(am::ObjType::Text),
                Action::Make(_) => OpType::Make(am::ObjType::Table),
                Action::Delete => OpType::Delete,
                Action::Increment(by) => OpType::Increment(*by),
                Action::Put(value) => OpType::Put(value.clone().into()),
                Action::Mark(expand) => {
                    OpType::MarkBegin(MarkData { name: "m".into(), value: true.into(), expand: *expand })
                }
                Action::Unmark(expand) => OpType::MarkEnd(*expand),
            }
        }),
        Lie::Swap(a, b) if len > 0 => ops.swap(a.index(len), b.index(len)),
        Lie::Drop(n) if len > 0 => drop(ops.remove(n.index(len))),
        Lie::Repeat(n) if len > 0 => ops.push(ops[n.index(len)].clone()),
        Lie::Swap(..) | Lie::Drop(_) | Lie::Repeat(_) => {}
        Lie::StartOp(start) => change.start_op = (u64::from(*start) / 4 + 1).try_into().unwrap(),
        Lie::Seq(seq) => change.seq = u64::from(*seq),
        Lie::Actor(actor) => change.actor_id = name(*actor),
        Lie::NoDeps => change.deps.clear(),
        Lie::Extra(bytes) => change.extra_bytes = bytes.clone(),
    }
}

/// Two peers' honest work on the same document, as raw material: four changes.
fn honest() -> (Vec<(EntryId, Vec<u8>)>, Vec<am::ExpandedChange>) {
    let mut one = view(1);
    set(&mut one, json!({"a": {"b": 1}, "l": [1, {"c": 2}], "t": "abc"}));
    one.edit(|edit| edit.put(&ObjId::ROOT, "n", Scalar::Counter(3))).unwrap();
    let entries = flushed(&mut one);
    let mut changes = Vec::new();
    for n in [2, 3] {
        let mut peer = view(n);
        give(&mut peer, &entries);
        peer.edit(|edit| {
            let (list, text) = (edit.resolve(&path(&["l"]))?, edit.resolve(&path(&["t"]))?);
            edit.put(&list, 0, 7)?;
            edit.insert(&list, 1, 8)?;
            edit.increment(&ObjId::ROOT, "n", 1)?;
            edit.mark(&text, 0, 2, Expand::Both, "m", true)?;
            edit.splice_text(&text, 1, 1, "x")
        })
        .unwrap();
        peer.commit().unwrap();
        peer.edit(|edit| edit.set_json(&path(&["a"]), &json!({"b": 2, "t": "z"}))).unwrap();
        changes.extend(flushed(&mut peer).iter().map(|(_, bytes)| change(bytes).decode()));
    }
    (entries, changes)
}

proptest! {
    #[test]
    fn whatever_passes_the_rules_lives(
        told in prop::collection::vec((0usize..4, prop::collection::vec(lie(), 0..3)), 1..4), watch in any::<bool>()
    ) {
        let (entries, mut changes) = honest();
        for (n, lies) in &told {
            lies.iter().for_each(|lie| tell(&mut changes[*n], lie, &|n| am::ActorId::from([n; 16])));
        }
        // What builds on a changed change builds on its new id.
        let first = [wire(changes[0].clone()), wire(changes[2].clone())];
        for (n, (id, _)) in [(1, &first[0]), (3, &first[1])] {
            if !changes[n].deps.is_empty() {
                changes[n].deps = vec![am::ChangeHash(id.0)];
            }
        }
        let batch = [first[0].clone(), wire(changes[1].clone()), first[1].clone(), wire(changes[3].clone())];
        let mut view = View::new();
        view.watch(watch);
        let mut shown = json!({});
        let out = give(&mut view, &entries);
        out.patches.iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
        // `give` panics where the log is asked for, that is, where Automerge fails.
        let out = give(&mut view, &batch);
        prop_assert_eq!(out.applied + out.invalid.len() + out.missing.len(), 4);
        if watch {
            out.patches.iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
            prop_assert_eq!(shown, view.to_json());
        }
        lives(&mut view);
    }
}
