//! Lies about the line of changes that a device makes: rules S3 to S6.

use automerge as am;
use commonhold_engine::document::ObjId;
use commonhold_sync::chain::{Kind, Opening, Segment, Tip};
use commonhold_sync::id::EntryId;
use commonhold_sync::merkle::Frontier;
use commonhold_sync::peer::Event;

use super::harness::*;

/// Two changes in a row by the liar, the second of which may be spoilt.
fn second(stage: &Stage) -> (Forger, Segment, Vec<u8>, am::ExpandedChange) {
    let mut forger = stage.forger();
    let first = bytes_of(forger.put(&stage.base, "lie", 1));
    let mut base = stage.base.clone();
    base.push((id_of(&first), first.clone()));
    let second = forger.put(&base, "lie", 2);
    let segment = forger.seal(vec![first.clone()]);
    (forger, segment, first, second)
}

#[test]
fn a_second_change_with_the_same_number_closes_the_chain_there_and_takes_nothing_with_it() {
    let mut stage = Stage::new();
    let (mut a, mut b) = (stage.forger(), stage.forger());
    let one = a.seal(vec![bytes_of(a.put(&stage.base, "one", 1))]);
    let two = b.seal(vec![bytes_of(b.put(&stage.base, "two", 1))]);
    stage.liar.push(&mut stage.world, vec![one.clone()]);
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![two.clone(), honest]);
    assert_eq!(stage.world.ended(&stage.liar), None, "a fork is the author's fault, not the deliverer's");
    assert_eq!(stage.world.events(0, |e| matches!(e, Event::Forked { .. })), 1);
    // On every peer alike, whichever came first: nobody has built on either.
    assert_eq!(stage.world.get(0, stage.doc, "one"), None);
    assert_eq!(stage.world.get(0, stage.doc, "two"), None);
    let stored = stage.world.segments(0, stage.doc);
    assert!(stored.contains(&one) && stored.contains(&two), "somebody may yet turn out to have built on one");
    println!("row: Forked");
    stage.all_is_well();
}

#[test]
fn what_an_honest_peer_built_on_two_histories_is_shown_on_all_peers_alike() {
    let mut stage = Stage::new();
    let doc = stage.doc;
    let (mut a, mut b) = (stage.forger(), stage.forger());
    let one = a.seal(vec![bytes_of(a.put(&stage.base, "same", 1))]);
    let two = b.seal(vec![bytes_of(b.put(&stage.base, "same", 2))]);
    // Two honest peers that are apart see one history each, and build on it.
    let conn = stage.world.connect(1, 0);
    stage.world.settle();
    stage.world.cut(1, 0, conn);
    stage.liar.push(&mut stage.world, vec![one]);
    stage.world.put(0, doc, "first", 1);
    let mut liar = stage.world.intrude(1, &key(LIAR));
    liar.push(&mut stage.world, vec![two]);
    stage.world.put(1, doc, "second", 2);
    assert_eq!((stage.world.get(0, doc, "same"), stage.world.get(1, doc, "same")), (Some(1), Some(2)));
    stage.world.connect(1, 0);
    stage.world.settle();
    // Both histories live, side by side, and everybody goes on.
    stage.world.put(0, doc, "third", 3);
    stage.world.put(1, doc, "fourth", 4);
    stage.world.settle();
    stage.world.assert_level(0, 1);
    let [one, two] = [0, 1].map(|host| (stage.world.hosts[host].views[&doc].heads(), stage.world.json(host, doc)));
    assert_eq!(one, two);
    for (name, value) in [("first", 1), ("second", 2), ("third", 3), ("fourth", 4)] {
        assert_eq!(stage.world.get(0, doc, name), Some(value));
    }
    assert!(stage.world.get(0, doc, "same").is_some(), "one of the two");
}

#[test]
fn a_fork_inside_one_message_closes_the_chain_as_well() {
    let mut stage = Stage::new();
    let (mut a, mut b) = (stage.forger(), stage.forger());
    let one = a.seal(vec![bytes_of(a.put(&stage.base, "one", 1))]);
    let two = b.seal(vec![bytes_of(b.put(&stage.base, "two", 1))]);
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![one, two, honest]);
    assert_eq!(stage.world.ended(&stage.liar), None);
    assert_eq!(stage.world.events(0, |e| matches!(e, Event::Forked { .. })), 1);
    stage.all_is_well();
}

#[test]
fn a_segment_may_not_hold_two_changes_of_one_number() {
    let stage = Stage::new();
    let mut forger = stage.forger();
    let one = bytes_of(forger.put(&stage.base, "one", 1));
    let two = bytes_of(forger.put(&stage.base, "two", 1));
    let lies = vec![forger.seal(vec![one, two])];
    stage.refuses("S4.seq", lies);
}

/// What the victim would say next, said by the liar.
fn fake_next(stage: &Stage) -> (Opening, Frontier, Vec<u8>) {
    let (space, doc) = (stage.world.space, stage.doc);
    let opening = stage.world.hosts[0].peer.own_opening(&space, &doc);
    let mut fake = Forger::new(&key(1), 0, space, doc).put(&stage.base, "lie", 1);
    fake.actor_id = am::ActorId::from(&opening.actor(&space, &doc)[..]);
    fake.seq = 2;
    fake.extra_bytes = vec![];
    fake.deps = vec![am::ChangeHash([9; 32])];
    let mut frontier = Frontier::default();
    stage.base.iter().for_each(|(id, _)| frontier.push(id));
    (opening, frontier, bytes_of(fake))
}

#[test]
fn a_fake_change_for_a_victims_next_number_never_counts_and_the_real_one_does() {
    let mut stage = Stage::new();
    let (space, doc) = (stage.world.space, stage.doc);
    let (opening, mut frontier, bytes) = fake_next(&stage);
    frontier.push(&id_of(&bytes));
    let tip = Tip::sign(&key(LIAR), &space, &doc, &opening, 2, &frontier.head(), vec![]);
    let fake = Segment { doc, opening, first: 2, entries: vec![bytes], tip };
    // It might be an honest relay's view of a fork: the victim asks for the chain from its start, and holds nothing of it
    // before that comes.
    for _ in 0..2 {
        stage.liar.push(&mut stage.world, vec![fake.clone()]);
        assert_eq!(stage.world.ended(&stage.liar), None);
    }
    assert_eq!(stage.world.events(0, |e| matches!(e, Event::Notice { code, .. } if code == "branches")), 1);
    let held = stage.base.iter().map(|(_, bytes)| bytes.clone());
    let whole = Segment { first: 1, entries: held.chain(fake.entries).collect(), ..fake };
    stage.refuses("T2.tip", vec![whole]);
}

#[test]
fn a_change_under_the_liars_tip_may_not_carry_the_victims_actor() {
    let stage = Stage::new();
    let (_, _, bytes) = fake_next(&stage);
    let mut forger = stage.forger();
    let first = bytes_of(forger.put(&stage.base, "lie", 1));
    let lies = vec![forger.seal(vec![first, bytes])];
    stage.refuses("S4.actor", lies);
}

#[test]
fn a_chain_that_starts_at_two_is_refused() {
    let stage = Stage::new();
    let mut forger = stage.forger();
    let mut change = forger.put(&stage.base, "lie", 1);
    (change.seq, change.extra_bytes) = (2, vec![]);
    let lies = vec![forger.seal(vec![bytes_of(change)])];
    stage.refuses("S4.seq", lies);
}

#[test]
fn a_chain_that_says_it_starts_at_two_waits_and_is_forgotten() {
    let mut stage = Stage::new();
    let mut forger = stage.forger();
    forger.frontier.push(&EntryId([5; 32]));
    let mut change = forger.put(&stage.base, "lie", 1);
    (change.seq, change.extra_bytes) = (2, vec![]);
    let lie = forger.seal(vec![bytes_of(change)]);
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![lie, honest]);
    assert_eq!(stage.world.ended(&stage.liar), None, "its prefix may come from elsewhere");
    assert!(stage.world.hosts[0].peer.waiting_bytes() > 0);
    println!("row: waits");
    stage.world.now += 600_000;
    stage.world.settle();
    assert_eq!(stage.world.hosts[0].peer.waiting_bytes(), 0);
    stage.all_is_well();
}

#[test]
fn a_chain_that_skips_a_number_is_refused() {
    let stage = Stage::new();
    let (mut forger, first, _, mut change) = second(&stage);
    change.seq = 3;
    let lies = [first, forger.seal(vec![bytes_of(change)])];
    let mut stage = stage;
    // What came before the lie is valid, so it stays.
    stage.liar.push(&mut stage.world, vec![lies[0].clone()]);
    assert_eq!(stage.world.get(0, stage.doc, "lie"), Some(1));
    stage.liar.push(&mut stage.world, vec![lies[1].clone(), stage.honest.clone()]);
    assert_eq!(stage.world.ended(&stage.liar), Some("S4.seq"));
    println!("row: S4.seq");
    assert_eq!(stage.world.get(0, stage.doc, "honest"), Some(1));
}

#[test]
fn a_change_that_does_not_build_on_its_own_predecessor_is_refused() {
    let stage = Stage::new();
    let mut forger = stage.forger();
    let first = bytes_of(forger.put(&stage.base, "lie", 1));
    let mut lost = forger.put(&stage.base, "lie", 2);
    (lost.seq, lost.extra_bytes) = (2, vec![]);
    let lies = vec![forger.seal(vec![first, bytes_of(lost)])];
    stage.refuses("S4.past", lies);
}

#[test]
fn numbers_of_operations_are_exactly_those_after_the_past() {
    let top = 1u64 << 31;
    for (start, code) in [
        (1, "S5.start_op"),
        (5, "S5.start_op"),
        (4_000, "S5.start_op"),
        (top - 2, "S5.start_op"),
        (top, "S5.counter"),
        (u64::from(u32::MAX) - 5, "S5.counter"),
        (u64::from(u32::MAX) + 1, "S5.counter"),
        (u64::MAX - 1, "S5.counter"),
    ] {
        let stage = Stage::new();
        let mut forger = stage.forger();
        let mut change = forger.put(&stage.base, "lie", 1);
        change.start_op = start.try_into().unwrap();
        let lies = vec![forger.seal(vec![bytes_of(change)])];
        println!("start_op {start}");
        stage.refuses(code, lies);
    }
}

#[test]
fn a_start_that_is_rewound_inside_a_proper_chain_is_refused() {
    // The same counters twice by one actor: two operations of one id.
    for back in [1, 2] {
        let stage = Stage::new();
        let mut forger = stage.forger();
        let first = forger.draft(&stage.base, |edit| {
            edit.put(&ObjId::ROOT, "x", 1)?;
            edit.put(&ObjId::ROOT, "y", 1)
        });
        let first = bytes_of(first);
        let mut base = stage.base.clone();
        base.push((id_of(&first), first.clone()));
        let mut change = forger.put(&base, "lie", 2);
        change.start_op = (change.start_op.get() - back).try_into().unwrap();
        let lies = vec![forger.seal(vec![first, bytes_of(change)])];
        stage.refuses("S5.start_op", lies);
    }
}

#[test]
fn an_author_footer_stands_on_the_first_change_only() {
    let stage = Stage::new();
    let (mut forger, _, first, mut change) = second(&stage);
    forger.frontier = Frontier::default();
    change.extra_bytes = [&[1, 32][..], &forger.opening.device.0].concat();
    let lies = vec![forger.seal(vec![first, bytes_of(change)])];
    stage.refuses("S6.author", lies);
}

#[test]
fn an_author_footer_that_names_another_device_is_refused() {
    let stage = Stage::new();
    let mut forger = stage.forger();
    let mut change = forger.put(&stage.base, "lie", 1);
    change.author = None;
    change.extra_bytes = [&[1, 32][..], &device(&key(1)).0].concat();
    let lies = vec![forger.seal(vec![bytes_of(change)])];
    stage.refuses("S6.author", lies);
}

#[test]
fn dependencies_are_sorted_and_distinct() {
    for swap in [true, false] {
        let mut stage = Stage::new();
        // Two heads, so that there are two dependencies to put into disorder.
        let honest = (id_of(&stage.honest.entries[0]), stage.honest.entries[0].clone());
        let mut other = Forger::new(&key(77), 1, stage.world.space, stage.doc);
        let beside = bytes_of(other.put(&stage.base, "beside", 1));
        let segment = other.seal(vec![beside.clone()]);
        stage.liar.push(&mut stage.world, vec![segment]);
        let mut forger = stage.forger();
        let base = [stage.base.clone(), vec![honest, (id_of(&beside), beside)]].concat();
        let mut change = forger.put(&base, "lie", 1);
        assert_eq!(change.deps.len(), 2);
        match swap {
            true => change.deps.sort_by(|a, b| b.cmp(a)),
            false => change.deps.push(change.deps[1]),
        }
        // Automerge sorts when it encodes: the bytes are put together by hand.
        let sorted = {
            let mut sorted = change.clone();
            sorted.deps.sort();
            sorted.deps.dedup();
            bytes_of(sorted)
        };
        let bytes = super::forge::with_deps(&sorted, &change.deps);
        let lies = vec![stage.honest.clone(), forger.seal(vec![bytes])];
        stage.refuses("S3.deps-order", lies);
    }
}

#[test]
fn what_builds_on_a_refused_entry_waits_and_is_never_shown() {
    let mut stage = Stage::new();
    let mut forger = stage.forger();
    let mut invalid = forger.put(&stage.base, "lie", 1);
    invalid.start_op = 4_000.try_into().unwrap();
    let invalid = bytes_of(invalid);
    let mut upon = Forger::new(&key(67), 1, stage.world.space, stage.doc);
    let mut change = upon.put(&stage.base, "lie", 1);
    change.deps = vec![am::ChangeHash(id_of(&invalid).0)];
    change.start_op = 4_001.try_into().unwrap();
    let lies = vec![upon.seal(vec![bytes_of(change)]), forger.seal(vec![invalid])];
    stage.liar.push(&mut stage.world, vec![]);
    stage.refuses("S5.start_op", lies);
}

#[test]
fn a_foreign_claim_to_a_devices_own_actor_takes_nothing_from_it() {
    let mut stage = Stage::new();
    let (space, doc) = (stage.world.space, stage.doc);
    // The author (host 2) has written; the liar shows the victim a foreign chain under the author's actor first.
    let actor = stage.honest.opening.actor(&space, &doc);
    let mut forger = stage.forger();
    forger.opening = Opening { kind: Kind::Foreign(actor.clone()), ..forger.opening };
    let mut change = stage.forger().put(&stage.base, "lie", 1);
    change.actor_id = am::ActorId::from(&actor[..]);
    change.extra_bytes = vec![];
    change.author = None;
    let lie = forger.seal(vec![bytes_of(change)]);
    stage.liar.push(&mut stage.world, vec![lie]);
    println!("row: waits (no right to vouch)");
    let honest = stage.honest.clone();
    let mut other = stage.world.intrude(0, &key(68));
    other.push(&mut stage.world, vec![honest]);
    assert_eq!(stage.world.hosts[0].invalid, vec![]);
    stage.all_is_well();
}

#[test]
fn a_gateways_claim_to_an_actor_that_is_held_as_a_devices_own_is_not_held() {
    let mut stage = Stage::new();
    let (space, doc) = (stage.world.space, stage.doc);
    let gateway = commonhold_sync::record::Record::Grant {
        subject: device(&key(LIAR)).into(),
        right: commonhold_sync::record::Right::Write,
        gateway: true,
        again: 0,
    };
    stage.world.say(0, commonhold_sync::peer::Local::Records(vec![gateway]));
    let actor = stage.honest.opening.actor(&space, &doc);
    let mut forger = stage.forger();
    forger.opening = Opening { kind: Kind::Foreign(actor.clone()), ..forger.opening };
    let mut change = stage.forger().put(&stage.base, "lie", 1);
    (change.actor_id, change.extra_bytes, change.author) = (am::ActorId::from(&actor[..]), vec![], None);
    let lie = forger.seal(vec![bytes_of(change)]);
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest, lie]);
    assert_eq!(stage.world.ended(&stage.liar), None);
    assert!(stage.world.notices(0).contains(&"foreign-claim"));
    println!("row: foreign-claim");
    stage.all_is_well();
}
