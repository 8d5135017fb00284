//! Documents in which chains have forked: every peer that holds the same entries shows the same, whatever came first.

pub(super) mod world;

use super::*;
use proptest::prelude::*;
use serde_json::json;
use world::{World, cases, told};

/// The document that the library has of a view saves and loads again.
pub(super) fn reloads(view: &View) {
    let view::Doc::Idle(doc) = &view.doc else { panic!("something is open") };
    let options = am::LoadOptions::new().text_encoding(am::TextEncoding::UnicodeCodePoint);
    let again = am::Automerge::load_with_options(&doc.save(), options).expect("what was saved loads");
    assert_eq!(again.get_heads(), doc.get_heads());
    assert_eq!(again.hydrate(None), doc.hydrate(None));
}

/// Runs a case for each seed, and tells the seed of one that fails.
fn each_seed(salt: u64, default: u64, case: impl Fn(u64)) {
    let only = std::env::var("COMMONHOLD_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seeds = only.map_or(0..cases(default), |seed| seed..seed + 1);
    for seed in seeds {
        struct Tell(u64);
        impl Drop for Tell {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("COMMONHOLD_SEED={}", self.0);
                }
            }
        }
        let _tell = Tell(seed);
        case(salt << 32 | seed);
    }
}

/// All views of the same entries tell the same, whoever wrote and in whatever order things came.
fn agree(mut world: World) {
    world.flush_all();
    let all = (0..world.pool.len()).collect();
    let first = world.delivered();
    let expected = told(&first);
    assert!(world.pool.iter().all(|entry| first.contains(&entry.id)));
    for _ in 0..2 {
        assert_eq!(told(&world.delivered()), expected);
    }
    for at in 0..world.peers.len() {
        world.receive(at, &all);
        assert_eq!(told(&world.peers[at].view), expected);
    }
    let mut first = first;
    lives(&mut first);
}

#[test]
fn whatever_forks_and_in_whatever_order_all_views_agree() {
    let forked = std::cell::Cell::new((0, 0, 0));
    each_seed(1, 150, |seed| {
        let mut world = World::new(seed);
        let steps = 8 + world.dice.below(50);
        (0..steps).for_each(|_| world.step());
        world.flush_all();
        // Most have two forked chains by then.
        for _ in 0..200 {
            if world.forked_chains() > 1 {
                break;
            }
            world.step();
        }
        world.flush_all();
        let (one, several, nested) = forked.get();
        let chains = world.forked_chains();
        let deep = u64::from(world.delivered().renaming.naming().is_nested());
        forked.set((one + u64::from(chains > 0), several + u64::from(chains > 1), nested + deep));
        agree(world);
    });
    let (one, several, nested) = forked.get();
    assert!(several * 100 >= one * 99, "{several} of {one} cases have several forked chains");
    println!("cases with forks: {one}, with several forked chains: {several}, with nested forks: {nested}");
}

#[test]
fn edits_made_in_forked_documents_mean_the_same_to_all() {
    let edits = std::cell::Cell::new(0);
    each_seed(2, 20, |seed| {
        let mut world = World::new(seed);
        (0..15).for_each(|_| world.step());
        (0..100).for_each(|_| world.calm_step());
        edits.set(edits.get() + world.forked_edits);
        agree(world);
    });
    println!("{} edits in forked documents", edits.get());
}

/// What a chain wrote twice, and what two honest peers built upon it.
///
/// Chain 1 writes `base`, then `left` and `right` as its second entries, each of which makes the map "m" and writes into text
/// and list; chain 2 builds on the left, chain 3 on the right.
struct Forked {
    base: Item,
    left: Item,
    right: Item,
    on_left: Item,
    on_right: Item,
}

type Item = (EntryId, Vec<u8>);

fn write(n: u8, upon: &[Item], f: impl FnOnce(&mut Edit<'_>) -> Result<(), EditError>) -> Item {
    let mut view = view(n);
    assert_eq!(give(&mut view, upon).applied, upon.len());
    view.edit(f).unwrap();
    flushed(&mut view).remove(0)
}

impl Forked {
    fn new() -> Forked {
        let base = write(1, &[], |edit| edit.set_json(&[], &json!({"t": "base", "l": [1, 2]})));
        let branch = |word: &'static str| {
            write(1, std::slice::from_ref(&base), move |edit| {
                let (text, list) = (edit.resolve(&path(&["t"]))?, edit.resolve(&path(&["l"]))?);
                let map = edit.put_object(&ObjId::ROOT, "m", ObjKind::Map)?;
                edit.put(&map, "by", word)?;
                edit.splice_text(&text, 2, 0, word)?;
                edit.insert(&list, 1, word)?;
                edit.mark(&text, 0, 4, Expand::Both, "bold", word)
            })
        };
        let (left, right) = (branch("left"), branch("right"));
        let honest = |n: u8, branch: &Item, key: &'static str| {
            write(n, &[base.clone(), branch.clone()], move |edit| {
                let (text, map) = (edit.resolve(&path(&["t"]))?, edit.resolve(&path(&["m"]))?);
                edit.splice_text(&text, 3, 1, key)?;
                edit.put(&map, key, true)?;
                edit.put(&ObjId::ROOT, key, true)
            })
        };
        let (on_left, on_right) = (honest(2, &left, "L"), honest(3, &right, "R"));
        Forked { base, left, right, on_left, on_right }
    }

    fn lefts(&self) -> [Item; 3] {
        [self.base.clone(), self.left.clone(), self.on_left.clone()]
    }

    fn rights(&self) -> [Item; 2] {
        [self.right.clone(), self.on_right.clone()]
    }

    fn all(&self) -> Vec<Item> {
        self.lefts().into_iter().chain(self.rights()).collect()
    }

    /// The change of an outsider upon both branches, as raw material.
    fn upon_both(&self, f: impl FnOnce(&mut Edit<'_>) -> Result<(), EditError>) -> am::ExpandedChange {
        change(&write(5, &self.all(), f).1).decode()
    }
}

fn shown_by(entries: &[Item]) -> View {
    let mut view = View::new();
    let out = give(&mut view, entries);
    assert_eq!((out.applied, &out.invalid), (entries.len(), &vec![]));
    view
}

fn locator(of: &Item) -> am::ActorId {
    am::ActorId::from([&[1; 16][..], &of.0.0[..16]].concat())
}

#[test]
fn both_branches_show_and_all_orders_agree() {
    let forked = Forked::new();
    let all = forked.all();
    let expected = told(&shown_by(&all));
    for order in [[0, 3, 4, 1, 2], [4, 3, 2, 1, 0], [0, 1, 3, 4, 2], [1, 0, 2, 4, 3]] {
        let mut view = View::new();
        let mut waiting: Vec<Item> = Vec::new();
        for at in order {
            waiting.push(all[at].clone());
            let missing = give(&mut view, &waiting).missing;
            waiting.retain(|(id, _)| missing.contains(id));
        }
        assert_eq!(told(&view), expected);
    }
    let mut view = shown_by(&all);
    let text = view.text(&path(&["t"])).unwrap();
    assert!(text.contains('L') && text.contains('R'), "{text}");
    assert_eq!(view.conflicts(&path(&["m"])).len(), 2);
    assert_eq!(view.pack(), Err(NotNow::Forked));
    lives(&mut view);
}

#[test]
fn nothing_public_shows_a_name_of_the_view() {
    let forked = Forked::new();
    let mut view = shown_by(&forked.all());
    assert!(view.renaming.len() > 0);
    let mut heads = vec![forked.on_left.0, forked.on_right.0];
    heads.sort();
    assert_eq!(view.heads(), heads);
    let history: Vec<ChangeInfo> = view.history().collect();
    let told: Vec<(EntryId, Vec<u8>, u64)> = history.iter().map(|c| (c.id, c.actor.clone(), c.seq)).collect();
    for (item, n, seq) in [(&forked.base, 1, 1), (&forked.left, 1, 2), (&forked.right, 1, 2), (&forked.on_right, 3, 1)]
    {
        assert!(told.contains(&(item.0, vec![n; 16], seq)), "{told:?}");
        assert_eq!(view.entry(&item.0).as_ref(), Some(&item.1));
    }
    assert!(history.iter().all(|c| c.author.as_deref() == Some(&[c.actor[0] + 100; 32][..])));
    let ids: Vec<EntryId> = forked.all().into_iter().map(|(id, _)| id).collect();
    assert!(history.iter().flat_map(|c| &c.deps).all(|dep| ids.contains(dep)));
    assert!(view.conflicts(&path(&["m"])).iter().all(|found| ids.contains(&found.entry.unwrap())));
    let mut entries = view.entries_since(&[]);
    entries.sort();
    let mut all = forked.all();
    all.sort();
    assert_eq!(entries, all);
    let since = view.entries_since(&[forked.on_left.0]);
    assert_eq!(since, forked.rights());
    let left = view.json_at_heads(&[forked.on_left.0]).unwrap();
    assert_eq!(left, shown_by(&forked.lefts()).to_json());
}

#[test]
fn a_document_without_forks_is_renamed_nowhere() {
    let forked = Forked::new();
    let mut view = shown_by(&forked.lefts());
    lives(&mut view);
    assert!(!view.graph.is_forked() && view.renaming.len() == 0 && view.renaming.naming().is_empty());
}

#[test]
fn handles_cursors_and_watchers_survive_a_reveal() {
    let forked = Forked::new();
    let mut view = shown_by(&forked.lefts());
    view.set_chain(author(9)).unwrap();
    view.watch(true);
    let mut shown = view.to_json();
    let map = view.edit(|edit| edit.resolve(&path(&["m"]))).unwrap();
    let text = view.text(&path(&["t"])).unwrap();
    let cursors: Vec<Cursor> = (0..=text.len()).map(|at| view.cursor(&path(&["t"]), at).unwrap()).collect();
    let kept = serde_json::to_string(&cursors).unwrap();
    // Made in the view, and not closed yet.
    let mine = view.edit(|edit| edit.put_object(&map, "mine", ObjKind::List)).unwrap();
    view.edit(|edit| edit.insert(&mine, 0, 7)).unwrap();
    let out = give(&mut view, &forked.rights());
    assert_eq!((out.applied, out.invalid), (2, vec![]));
    assert!(view.renaming.len() > 0);
    for patch in out.local_patches.iter().chain(&out.patches) {
        assert!(!patch.path.is_empty(), "the whole document is told again");
        patch::apply(&mut shown, patch).unwrap();
    }
    assert_eq!(shown, view.to_json());
    view.edit(|edit| {
        assert_eq!(edit.get(&map, "by"), Some(Value::Scalar(Scalar::Str("left".into()))));
        edit.insert(&mine, 1, 8)?;
        assert_eq!(edit.len(&mine), 2);
        edit.put(&map, "again", 1)
    })
    .unwrap();
    let now: Vec<char> = view.text(&path(&["t"])).unwrap().chars().collect();
    let kept: Vec<Cursor> = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept, cursors);
    let at: Vec<usize> = kept.iter().map(|cursor| view.position(cursor).unwrap()).collect();
    assert_eq!(at.last(), Some(&now.len()));
    // Each stands at the letter it stood at, or where that was: the right's author took one that was the base's.
    let gone = text.chars().zip(&at).filter(|(c, at)| now.get(**at) != Some(c)).count();
    assert!(gone <= 1 && at.is_sorted(), "{text} {at:?}");
    // What was written upon both names the branch by its locator, and means the same elsewhere.
    let mut all = forked.all();
    all.extend(flushed(&mut view));
    let named: Vec<am::ActorId> = change(&all.last().unwrap().1).other_actor_ids().to_vec();
    assert!(named.contains(&locator(&forked.left)), "{named:?}");
    assert_eq!(told(&shown_by(&all)), told(&view));
    assert_eq!(give(&mut view, &all).applied, 0, "own changes come back and are known");
}

#[test]
fn a_deleted_element_answers_where_it_was() {
    let mut view = view(1);
    set(&mut view, json!({"t": "abcdef", "l": [1, 2, 3]}));
    let cursor = view.cursor(&path(&["t"]), 3).unwrap();
    let end = view.cursor(&path(&["t"]), 6).unwrap();
    let last = view.cursor(&path(&["l"]), 2).unwrap();
    let text = view.edit(|edit| edit.resolve(&path(&["t"]))).unwrap();
    view.edit(|edit| edit.splice_text(&text, 0, 1, "xyz")).unwrap();
    view.commit().unwrap();
    assert_eq!((view.position(&cursor), view.position(&end)), (Some(5), Some(8)));
    view.edit(|edit| edit.splice_text(&text, 4, 4, "")).unwrap();
    view.commit().unwrap();
    assert_eq!((view.position(&cursor), view.position(&end)), (Some(4), Some(4)));
    // An element that is replaced stays the same element.
    let list = view.edit(|edit| edit.resolve(&path(&["l"]))).unwrap();
    view.edit(|edit| edit.put(&list, 2, 33)).unwrap();
    let replaced = view.cursor(&path(&["l"]), 2).unwrap();
    assert_eq!(replaced, last);
    view.edit(|edit| edit.delete(&list, 2)).unwrap();
    view.commit().unwrap();
    assert_eq!(view.position(&replaced), Some(2));
    assert_eq!(view.position(&"end/root".parse().unwrap_or(cursor.clone())), Some(4));
    let elsewhere =
        format!("{}/{}", last.to_string().split('/').next().unwrap(), cursor.to_string().split('/').nth(1).unwrap());
    assert_eq!(view.position(&elsewhere.parse().unwrap()), None, "an element of another list");
    assert!(matches!(view.cursor(&path(&["l"]), 9), Err(EditError::Index { .. })));
    assert!(matches!(view.cursor(&[], 0), Err(EditError::WrongKind { .. })));
    assert_eq!("root".parse::<Cursor>(), Err(NotACursor));
}

/// The lie is refused by all, whatever they hold besides, and an honest entry that came with it goes in.
fn refused(forked: &Forked, lie: am::ExpandedChange, expected: impl Fn(&Fault) -> bool) {
    let lie = wire(lie);
    let honest = write(6, &forked.all(), |edit| edit.put(&ObjId::ROOT, "honest", true));
    let all = forked.all();
    for late in [0, 2, 5] {
        let mut view = View::new();
        give(&mut view, &all[..late]);
        let mut batch = all[late..].to_vec();
        batch.extend([lie.clone(), honest.clone()]);
        batch.reverse();
        let out = give(&mut view, &batch);
        assert_eq!((out.applied, out.missing.len()), (all.len() - late + 1, 0), "{out:?}");
        let [(id, fault)] = &out.invalid[..] else { panic!("{out:?}") };
        assert!(*id == lie.0 && expected(fault), "{fault:?}");
        assert_eq!(view.json_at(&path(&["honest"])), Some(json!(true)));
        lives(&mut view);
    }
}

/// A change that puts something in place of the element that is the first letter of a branch's word, under any name.
fn naming(forked: &Forked, of: &Item, name: am::ActorId) -> am::ExpandedChange {
    use am::legacy::{ElementId, Key, ObjectId, OpId};
    let inside = change(&of.1).decode();
    let at = inside.operations.iter().position(|op| op.insert).unwrap() as u64;
    let (list, counter) = (inside.operations[at as usize].obj.clone(), inside.start_op.get() + at);
    let mut lie = forked.upon_both(|edit| {
        let text = edit.resolve(&path(&["t"]))?;
        edit.splice_text(&text, 0, 1, "")
    });
    lie.operations.truncate(1);
    let op = &mut lie.operations[0];
    let ObjectId::Id(list) = list else { panic!() };
    (op.obj, op.key) = (ObjectId::Id(list), Key::Seq(ElementId::Id(OpId(counter, name.clone()))));
    op.pred = vec![OpId(counter, name)].into();
    lie
}

#[test]
fn a_locator_means_the_branch_that_begins_with_the_entry() {
    let forked = Forked::new();
    for branch in [&forked.left, &forked.right] {
        let item = wire(naming(&forked, branch, locator(branch)));
        let mut all = forked.all();
        all.push(item);
        let view = shown_by(&all);
        let word = if branch.0 == forked.left.0 { ["ft", "rght"] } else { ["lft", "ght"] };
        let text: String = view.text(&path(&["t"])).unwrap().chars().filter(|c| c.is_lowercase()).collect();
        assert!(word.iter().all(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn a_name_that_means_two_operations_is_refused() {
    let forked = Forked::new();
    refused(&forked, naming(&forked, &forked.left, am::ActorId::from([1; 16])), |f| matches!(f, Fault::Element(_)));
}

#[test]
fn a_locator_of_an_entry_that_begins_no_branch_is_refused() {
    let forked = Forked::new();
    for other in [&forked.base, &forked.on_left, &forked.on_right] {
        refused(&forked, naming(&forked, &forked.left, locator(other)), |f| matches!(f, Fault::Element(_)));
    }
    let short = am::ActorId::from([&[1; 16][..], &forked.left.0.0[..8]].concat());
    refused(&forked, naming(&forked, &forked.left, short), |f| matches!(f, Fault::Element(_)));
}

#[test]
fn a_locator_outside_the_past_is_refused() {
    let forked = Forked::new();
    for (branch, by) in
        [(&forked.left, &forked.on_right), (&forked.right, &forked.on_right), (&forked.left, &forked.on_left)]
    {
        let mut lie = naming(&forked, branch, locator(branch));
        lie.deps = vec![am::ChangeHash(by.0.0)];
        refused(&forked, lie, |f| matches!(f, Fault::Element(_)));
    }
}

#[test]
fn a_chain_that_goes_on_after_its_past_shows_the_fork_is_refused() {
    let forked = Forked::new();
    let mut lie = forked.upon_both(|edit| edit.put(&ObjId::ROOT, "more", 1));
    (lie.actor_id, lie.seq, lie.extra_bytes) = (am::ActorId::from([1; 16]), 3, Vec::new());
    refused(&forked, lie, |f| matches!(f, Fault::OwnFork));
    // And no app can be made to write it.
    let mut view = shown_by(&forked.all());
    view.set_chain(author(1)).unwrap();
    assert_eq!(view.edit(|edit| edit.put(&ObjId::ROOT, "more", 1)), Err(EditError::ChainForked));
}

#[test]
fn a_change_under_another_name_than_a_chain_is_refused() {
    let forked = Forked::new();
    let mut lie = forked.upon_both(|edit| edit.put(&ObjId::ROOT, "more", 1));
    lie.actor_id = locator(&forked.left);
    refused(&forked, lie, |f| matches!(f, Fault::ChainName(32)));
}

#[test]
fn of_branches_that_begin_alike_the_one_with_the_greater_id_is_refused() {
    let forked = Forked::new();
    admit::TWIN_BYTES.set(0);
    let left_stays = forked.left.0 < forked.right.0;
    let stays = if left_stays { &forked.on_left } else { &forked.on_right };
    let all = forked.all();
    for order in [[0, 1, 2, 3, 4], [0, 3, 4, 1, 2], [4, 3, 2, 1, 0]] {
        for cut in 0..5 {
            let mut view = View::new();
            view.watch(true);
            let order: Vec<Item> = order.iter().map(|at| all[*at].clone()).collect();
            let first = give(&mut view, &order[..cut]);
            // What was missing comes again.
            let out = give(&mut view, &order);
            assert_eq!(out.invalid.len(), 2, "{first:?} {out:?}");
            assert_eq!(view.heads(), vec![stays.0]);
            assert_eq!(view.cost().changes, 3);
            assert!(view.renaming.naming().is_empty());
            lives(&mut view);
        }
    }
    admit::TWIN_BYTES.set(16);
}

proptest! {
    /// Whatever is said of branches, all judge it alike, and what passes lives.
    #[test]
    fn lies_about_branches_are_judged_alike_by_all(
        told_in in prop::collection::vec((0usize..3, prop::collection::vec(liars::lie(), 1..4)), 1..3), seed in any::<u64>()
    ) {
        let forked = Forked::new();
        let mut changes = vec![
            forked.upon_both(|edit| {
                let (text, list) = (edit.resolve(&path(&["t"]))?, edit.resolve(&path(&["l"]))?);
                edit.splice_text(&text, 1, 5, "both")?;
                edit.mark(&text, 0, 9, Expand::Both, "m", true)?;
                (0..4).try_for_each(|at| edit.put(&list, at, 9))
            }),
            change(&forked.on_left.1).decode(),
            change(&forked.right.1).decode(),
        ];
        let name = |n: u8| match n {
            2 => locator(&forked.left),
            3 => locator(&forked.right),
            4 => am::ActorId::from([2; 16]),
            _ => am::ActorId::from([1; 16]),
        };
        for (n, lies) in &told_in {
            lies.iter().for_each(|lie| liars::tell(&mut changes[*n], lie, &name));
        }
        let mut all = forked.all();
        all.extend(changes.into_iter().map(wire));
        let mut dice = world::Dice(seed);
        let mut verdict = None;
        for _ in 0..3 {
            dice.shuffle(&mut all);
            let mut view = View::new();
            view.watch(true);
            let mut shown = json!({});
            let mut invalid = std::collections::BTreeSet::new();
            for at in 0..2 * all.len() {
                // Twice, because what came too early is not kept.
                let some = &all[at % all.len()..(at % all.len() + 1 + dice.below(3)).min(all.len())];
                let out = give(&mut view, some);
                out.patches.iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
                prop_assert_eq!(&shown, &view.to_json());
                invalid.extend(out.invalid.into_iter().map(|(id, _)| id));
            }
            let out = give(&mut view, &all);
            out.patches.iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
            invalid.extend(out.invalid.into_iter().map(|(id, _)| id));
            let found = (invalid, told(&view));
            prop_assert_eq!(verdict.get_or_insert_with(|| found.clone()), &found);
            // An honest edit of what was lied about.
            view.set_chain(author(9)).unwrap();
            let edited: Result<(), EditError> = view.edit(|edit| {
                let text = edit.resolve(&path(&["t"]))?;
                edit.splice_text(&text, edit.len(&text) / 2, 1, "honest")?;
                edit.update_text(&text, "what reads otherwise")
            });
            edited.unwrap();
            view.commit().unwrap();
            view.take_local_patches().iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
            prop_assert_eq!(&shown, &view.to_json());
            lives(&mut view);
        }
    }
}

#[test]
fn many_heads_of_a_forked_document_are_joined() {
    let forked = Forked::new();
    let mut all = forked.all();
    for n in 20..90 {
        let upon: Vec<Item> = if n % 2 == 0 {
            forked.lefts().to_vec()
        } else {
            [forked.base.clone()].into_iter().chain(forked.rights()).collect()
        };
        all.push(write(n, &upon, |edit| edit.put(&ObjId::ROOT, format!("k{n}"), u64::from(n))));
    }
    let mut view = shown_by(&all);
    view.set_chain(author(9)).unwrap();
    view.edit(|edit| edit.set_json(&path(&["t"]), &json!("new"))).unwrap();
    let made = view.flush().unwrap();
    assert!(made.len() > 1 && made.iter().all(|entry| entry.deps.len() <= 64));
    all.extend(made.into_iter().map(|entry| (entry.id, entry.bytes)));
    assert_eq!(told(&shown_by(&all)), told(&view));
    lives(&mut view);
}

fn give_log(to: &mut View, entries: &[Item], log: &[Item]) -> Applied {
    let entries: Vec<(EntryId, &[u8])> = entries.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
    to.apply_remote(&entries, &mut |give| log.iter().for_each(|(_, bytes)| give(bytes)))
}

#[test]
fn a_panic_in_a_forked_document_quarantines_the_guilty_and_keeps_the_rest() {
    let forked = Forked::new();
    let all = forked.all();
    for (held, guilty) in [(3, 3), (3, 4), (0, 3), (0, 4), (5, 5), (3, 5), (0, 1)] {
        let extra = write(6, &forked.lefts(), |edit| edit.put(&ObjId::ROOT, "extra", 1));
        let more = write(7, &all, |edit| edit.set_json(&path(&["t"]), &json!("rewritten")));
        let batch: Vec<Item> = all.iter().cloned().chain([more, extra]).collect();
        let mut view = view(9);
        view.watch(true);
        give(&mut view, &batch[..held]);
        if held > 0 {
            // Closed, and in no log yet.
            view.edit(|edit| edit.put(&ObjId::ROOT, "own", 1)).unwrap();
            view.commit().unwrap();
            view.take_local_patches();
        }
        let mut shown = view.to_json();
        view.panic_on = Some(batch[guilty].0);
        let out = give_log(&mut view, &batch[held..], &batch[..held]);
        out.patches.iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
        assert_eq!(shown, view.to_json());
        let goes = |at: usize| match guilty {
            1 => [1, 2, 5, 6].contains(&at),
            3 => [3, 4, 5].contains(&at),
            4 => [4, 5].contains(&at),
            _ => at == guilty,
        };
        let gone: Vec<EntryId> = (held..7).filter(|at| goes(*at)).map(|at| batch[at].0).collect();
        assert_eq!((out.broken, out.quarantined.len()), (false, gone.len()), "{held} {guilty} {out:?}");
        assert!(gone.iter().all(|id| out.quarantined.contains(id) && !view.contains(id)));
        assert_eq!(out.applied, 7 - held - gone.len());
        // As if it had never come; and it does not come in again.
        assert_eq!(give(&mut view, &batch).quarantined.len(), gone.len());
        let mut rest: Vec<Item> = batch.iter().filter(|(id, _)| !gone.contains(id)).cloned().collect();
        rest.extend(flushed(&mut view));
        assert_eq!(told(&view), told(&shown_by(&rest)));
        view.panic_on = None;
        lives(&mut view);
    }
}

#[test]
fn a_reload_shows_what_the_log_gives_and_keeps_what_can_be_kept() {
    let forked = Forked::new();
    let mut view = view(9);
    view.watch(true);
    give(&mut view, &forked.lefts());
    view.edit(|edit| edit.put(&ObjId::ROOT, "flushed", 1)).unwrap();
    let flushed_entry = flushed(&mut view).remove(0);
    view.edit(|edit| edit.put(&ObjId::ROOT, "closed", 1)).unwrap();
    view.commit().unwrap();
    give(&mut view, &forked.rights());
    // Upon both branches, and one of them is gone.
    view.edit(|edit| edit.put(&ObjId::ROOT, "lost", 1)).unwrap();
    view.take_local_patches();
    let mut shown = view.json_at_heads(&view.heads()).unwrap();
    let handle = view.edit(|edit| edit.resolve(&path(&["t"]))).unwrap();
    let refused = {
        let mut lie = forked.upon_both(|edit| edit.put(&ObjId::ROOT, "more", 1));
        lie.start_op = 1.try_into().unwrap();
        wire(lie)
    };
    let mut log: Vec<Item> = forked.lefts().to_vec();
    log.push(flushed_entry.clone());
    let out = view.reload(&mut |give| log.iter().rev().for_each(|(_, bytes)| give(bytes))).unwrap();
    assert_eq!(out.dropped.len(), 1);
    for patch in out.local_patches.iter().chain(&out.patches) {
        assert!(!patch.path.is_empty(), "the whole document is told again");
        patch::apply(&mut shown, patch).unwrap();
    }
    assert_eq!(shown, view.to_json());
    assert!(view.renaming.naming().is_empty());
    assert_eq!(view.json_at(&path(&["closed"])), Some(json!(1)));
    assert_eq!(view.json_at(&path(&["lost"])), None);
    view.edit(|edit| edit.splice_text(&handle, 0, 0, "on ")).unwrap();
    let more = flushed(&mut view);
    assert_eq!(more.len(), 2);
    log.extend(more);
    assert_eq!(told(&view), told(&shown_by(&log)));
    // It comes back, and something invalid with it.
    let all: Vec<Item> = log.iter().cloned().chain(forked.rights()).collect();
    let mut shown = view.to_json();
    let out = view.reload(&mut |give| all.iter().chain([&refused]).for_each(|(_, bytes)| give(bytes))).unwrap();
    assert_eq!((out.dropped.len(), out.invalid.len(), out.missing.len()), (0, 1, 0), "{out:?}");
    out.patches.iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
    assert_eq!(shown, view.to_json());
    assert_eq!(told(&view), told(&shown_by(&all)));
    // An own entry that was flushed is gone: its number must not be written twice.
    assert!(view.chain.is_some());
    view.reload(&mut |give| forked.lefts().iter().for_each(|(_, bytes)| give(bytes))).unwrap();
    assert_eq!(view.edit(|edit| edit.put(&ObjId::ROOT, "a", 1)), Err(EditError::NoChain));
    lives(&mut view);
}

#[test]
fn a_fork_may_leave_a_chain_inside_a_snapshot() {
    let forked = Forked::new();
    let mut third = view(1);
    give(&mut third, &[forked.base.clone(), forked.left.clone()]);
    third.edit(|edit| edit.put(&ObjId::ROOT, "third", 3)).unwrap();
    let third = flushed(&mut third).remove(0);
    let mut base: Vec<Item> = forked.lefts().to_vec();
    base.push(third.clone());
    let packed = shown_by(&base).pack().unwrap();
    let (mut view, _) = View::from_snapshot(&packed, &SnapshotCaps::default()).unwrap();
    view.watch(true);
    let mut shown = view.to_json();
    let out = give(&mut view, &forked.rights());
    assert_eq!((out.applied, out.invalid, out.bad_base), (2, vec![], None));
    out.patches.iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
    assert_eq!(shown, view.to_json());
    let mut all = forked.all();
    all.push(third);
    assert_eq!(told(&view), told(&shown_by(&all)));
    lives(&mut view);
}

/// Processor time of a reveal under 20,000 changes, against that of applying them.
#[test]
#[ignore = "a measurement for docs/measurements.md; whoever changes document/ runs it: cargo test --release -p commonhold-engine --lib figures_of_a_reveal -- --ignored --nocapture"]
fn figures_of_a_reveal() {
    use std::time::Instant;
    let forked = Forked::new();
    let mut two = view(2);
    give(&mut two, &[forked.base.clone(), forked.left.clone()]);
    let mut entries = vec![forked.base.clone(), forked.left.clone()];
    let text = two.edit(|edit| edit.resolve(&path(&["t"]))).unwrap();
    for n in 0..20_000 {
        let len = two.length(&path(&["t"])).unwrap();
        let at = if n % 100 == 0 { n * 7_919 % len } else { (n * 3 / 4) % len };
        two.edit(|edit| edit.splice_text(&text, at, 0, "x")).unwrap();
        entries.extend(flushed(&mut two));
    }
    for watching in [false, true] {
        let mut view = View::new();
        view.watch(watching);
        let start = Instant::now();
        assert_eq!(give(&mut view, &entries).applied, entries.len());
        let plain = start.elapsed();
        let start = Instant::now();
        assert_eq!(give(&mut view, &forked.rights()).applied, 2);
        let reveal = start.elapsed();
        println!("watching {watching}: apply {plain:?}, reveal {reveal:?}, rewritten {}", view.renaming.len());
        let start = Instant::now();
        let more = write_in(&mut view);
        println!("  one edit after it {:?}", start.elapsed());
        let start = Instant::now();
        let mut other = View::new();
        let all: Vec<Item> = entries.iter().cloned().chain(forked.rights()).chain(more).collect();
        assert_eq!(give(&mut other, &all).applied, all.len());
        println!("  all at once {:?}", start.elapsed());
        let start = Instant::now();
        view.reload(&mut |give| entries.iter().for_each(|(_, bytes)| give(bytes))).unwrap();
        println!("  reload without the fork {:?}", start.elapsed());
    }
}

fn write_in(view: &mut View) -> Vec<Item> {
    view.set_chain(author(9)).unwrap();
    view.edit(|edit| edit.put(&ObjId::ROOT, "more", 1)).unwrap();
    flushed(view)
}
