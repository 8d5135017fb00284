//! Operations that name what is not there: rule M1. The peer cannot see it and the engine can, so the liar is not shown and whoever
//! delivered it stays connected.

use automerge as am;
use automerge::legacy::{ElementId, Key, ObjectId, OpId, OpType};
use commonhold_engine::document::Fault;

use super::harness::*;

/// The lie reaches the victim from its author, and the bystander over the victim, an honest relay. Neither shows it; both
/// connections stay; honest entries of the same message count.
fn not_shown(spoil: impl Fn(&mut am::ExpandedChange), expected: impl Fn(&Fault) -> bool) {
    let mut stage = Stage::new();
    let doc = stage.doc;
    let relay = stage.world.connect(1, 0);
    stage.world.settle();
    let mut forger = stage.forger();
    let mut lie = forger.draft(&stage.base, |edit| {
        let list = edit.resolve(&["list".into()])?;
        edit.put(&list, 1, 9)?;
        edit.insert(&list, 0, 8)?;
        edit.set_json(&["map".into(), "k".into()], &serde_json::json!(5))
    });
    spoil(&mut lie);
    let lie = bytes_of(lie);
    let id = id_of(&lie);
    let segments = vec![forger.seal(vec![lie.clone()]), stage.honest.clone()];
    // What builds on it, by somebody else.
    let mut upon = Forger::new(&key(67), 1, stage.world.space, doc);
    let mut change = upon.put(&stage.base, "upon", 1);
    change.deps = vec![am::ChangeHash(id.0)];
    change.start_op = (am::Change::try_from(&lie[..]).map_or(1, |c| c.max_op()) + 1).try_into().unwrap();
    let segments = segments.into_iter().chain([upon.seal(vec![bytes_of(change)])]).collect();
    stage.liar.push(&mut stage.world, segments);
    stage.world.settle();
    assert_eq!(stage.world.ended(&stage.liar), None, "the deliverer need not have noticed");
    assert!(!stage.world.hosts[1].ended.contains_key(&relay), "nor the honest relay");
    for host in [0, 1] {
        let invalid = &stage.world.hosts[host].invalid;
        assert_eq!(invalid.len(), 2, "{invalid:?}");
        assert!(invalid[0].0 == id && expected(&invalid[0].1), "{invalid:?}");
        assert_eq!(invalid[1].1, Fault::PastInvalid);
        assert_eq!(stage.world.get(host, doc, "honest"), Some(1));
        assert_eq!(stage.world.get(host, doc, "upon"), None);
    }
    println!("row: View {:?}", stage.world.hosts[0].invalid[0].1);
    stage.world.cut(1, 0, relay);
    stage.all_is_well();
}

fn actor_of_base(stage: &Stage) -> am::ActorId {
    am::Change::try_from(&stage.base[0].1[..]).unwrap().actor_id().clone()
}

#[test]
fn an_op_on_a_missing_object_is_not_shown() {
    let actor = actor_of_base(&Stage::new());
    // An operation that is there and made no object.
    not_shown(
        |c| c.operations[0].obj = ObjectId::Id(OpId(c.start_op.get() - 1, actor.clone())),
        |f| matches!(f, Fault::Object(_)),
    );
}

#[test]
fn an_op_that_names_a_later_operation_is_refused() {
    let stage = Stage::new();
    let mut forger = stage.forger();
    let mut lie = forger.draft(&stage.base, |edit| edit.set_json(&["map".into(), "k".into()], &serde_json::json!(5)));
    lie.operations[0].obj = ObjectId::Id(OpId(2_000, actor_of_base(&stage)));
    let lies = vec![forger.seal(vec![bytes_of(lie)])];
    stage.refuses("S2.id", lies);
}

#[test]
fn an_op_that_names_an_unknown_actor_is_not_shown() {
    let unknown = am::ActorId::from([9; 16]);
    not_shown(|c| c.operations[0].obj = ObjectId::Id(OpId(1, unknown.clone())), |f| matches!(f, Fault::Object(_)));
    not_shown(
        |c| c.operations[1].key = Key::Seq(ElementId::Id(OpId(1, unknown.clone()))),
        |f| matches!(f, Fault::Element(_)),
    );
    not_shown(|c| c.operations[2].pred = vec![OpId(1, unknown.clone())].into(), |f| matches!(f, Fault::Predecessor(_)));
}

#[test]
fn a_missing_predecessor_is_not_shown() {
    let actor = actor_of_base(&Stage::new());
    not_shown(
        |c| c.operations[2].pred = vec![OpId(c.start_op.get() - 1, actor.clone())].into(),
        |f| matches!(f, Fault::Predecessor(_)),
    );
}

#[test]
fn an_object_of_the_wrong_kind_is_not_shown() {
    not_shown(
        |c| {
            let list = c.operations[0].obj.clone();
            c.operations[2].obj = list;
        },
        |f| matches!(f, Fault::Key(_)),
    );
    // An element of the root can be seen in the bytes already.
    let stage = Stage::new();
    let mut forger = stage.forger();
    let mut lie = forger.draft(&stage.base, |edit| edit.insert(&edit.resolve(&["list".into()])?, 0, 8));
    lie.operations[0].obj = ObjectId::Root;
    let lies = vec![forger.seal(vec![bytes_of(lie)])];
    stage.refuses("S2.key", lies);
}

/// Whoever reads the document would walk it on a stack, and an overflow of that cannot be caught.
#[test]
fn objects_deep_inside_each_other_are_not_shown() {
    not_shown(
        |c| {
            let (start, actor) = (c.start_op.get(), c.actor_id.clone());
            let mut op = c.operations[2].clone();
            op.action = OpType::Make(am::ObjType::Map);
            op.key = Key::Map("deeper".into());
            op.pred = Vec::new().into();
            op.insert = false;
            c.operations = (0..20_000)
                .map(|n| {
                    let obj = if n == 0 { ObjectId::Root } else { ObjectId::Id(OpId(start + n - 1, actor.clone())) };
                    am::legacy::Op { obj, ..op.clone() }
                })
                .collect();
        },
        |f| matches!(f, Fault::Operation(_, "objects too deep inside each other")),
    );
}

#[test]
fn an_element_of_another_list_is_not_shown() {
    not_shown(
        |c| {
            let ObjectId::Id(OpId(n, actor)) = c.operations[2].obj.clone() else { panic!("the map has an id") };
            c.operations[1].key = Key::Seq(ElementId::Id(OpId(n, actor)));
        },
        |f| matches!(f, Fault::Element(_)),
    );
}

#[test]
fn a_deletion_of_nothing_is_refused_before_it_is_interpreted() {
    let stage = Stage::new();
    let mut forger = stage.forger();
    let mut lie = forger.put(&stage.base, "lie", 1);
    lie.operations[0].action = OpType::Delete;
    lie.operations[0].pred = Vec::new().into();
    let lies = vec![forger.seal(vec![bytes_of(lie)])];
    stage.refuses("S2.shape", lies);
}

#[test]
fn five_thousand_changes_of_one_message_go_to_automerge_in_one_batch() {
    let mut stage = Stage::new();
    let mut forger = stage.forger();
    let mut base = stage.base.clone();
    let mut view = view_of(&base);
    view.set_chain(chain_author(&forger.opening, &stage.world.space, &stage.doc)).unwrap();
    for n in 0..5_000 {
        view.edit(|edit| edit.put(&commonhold_engine::document::ObjId::ROOT, "many", n)).unwrap();
        view.commit().unwrap();
    }
    let entries: Vec<Vec<u8>> = view.flush().unwrap().into_iter().map(|entry| entry.bytes).collect();
    base.truncate(0);
    let segment = forger.seal(entries);
    // As an answer, whose amount the asker bounds; as a push it would be more than a second's credit.
    let (doc, theirs) = (stage.doc, stage.liar.theirs);
    let mut clock = stage.world.clock(0, doc);
    clock.insert(forger.chain(), 5_000, forger.frontier.head());
    let have = commonhold_sync::message::Have { doc, clock };
    let offer = commonhold_sync::message::Data { haves: vec![have], ..empty(theirs, false) };
    stage.liar.send(&mut stage.world, &commonhold_sync::message::Message::Data(offer));
    let before = stage.world.hosts[0].batches;
    let answer = stage.liar.data(vec![segment, stage.honest.clone()], true);
    let started = std::time::Instant::now();
    stage.liar.send(&mut stage.world, &answer);
    let batched = started.elapsed();
    assert_eq!(stage.world.get(0, doc, "many"), Some(4_999));
    assert_eq!(stage.world.hosts[0].batches - before, 2, "one batch for each segment");
    println!("row: 5,000 changes in one batch, admission and all: {batched:?}");
    stage.all_is_well();
}
