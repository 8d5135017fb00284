//! Quotas: what is over them is refused and told, what is held stays, and nobody else is held up.

use super::*;
use crate::chain::{Segment, Tip};
use crate::usage::{Quota, Quotas, UNSIGNED};

impl World {
    fn quotas(&mut self, host: usize, space: Option<u64>, identity: Option<u64>) {
        let bytes = |bytes| Quota { bytes, documents: None };
        self.input(host, Input::Quotas(Quotas { space: bytes(space), identity: bytes(identity) }));
    }

    fn stored(&self, host: usize, of: usize) -> Usage {
        let device = self.hosts[of].peer.device();
        let all = self.hosts[host].peer.usage().filter(|row| row.device == device);
        all.map(|row| row.usage).fold(Usage::default(), |sum, usage| Usage {
            bytes: sum.bytes + usage.bytes,
            documents: sum.documents + usage.documents,
        })
    }
}

#[test]
fn what_is_counted_is_what_is_stored_and_survives_a_restart() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    world.join(1, space);
    let (first, second) = (world.create(0, space, 1), world.create(0, space, 2));
    world.connect(1, 0);
    world.settle();
    world.edit(0, space, first, "x", 1);
    world.edit(1, space, second, "x", 2);
    world.settle();
    for host in [0, 1] {
        let stored = world.hosts[host].store.log.values().map(|(_, stored)| stored.segment.body_bytes() as u64);
        let counted = [0, 1].map(|of| world.stored(host, of));
        assert_eq!(counted[0].bytes + counted[1].bytes, stored.sum::<u64>());
        assert_eq!(counted.map(|usage| usage.documents), [2, 0]);
        let again = Peer::new(start(host as u8 + 1, 2, &world.hosts[host].store));
        assert!(again.usage().eq(world.hosts[host].peer.usage()));
    }
    // What is deleted is free again, but for the records that tell of it.
    let before = world.stored(1, 0);
    world.say(0, space, Local::Records(vec![Record::Tombstone { doc: first }]));
    world.settle();
    let after = world.stored(1, 0);
    assert!(after.documents == 1 && after.bytes < before.bytes, "{before:?} {after:?}");
    assert!(world.hosts[1].peer.usage().all(|row| row.device != UNSIGNED));
}

#[test]
fn an_identity_over_its_quota_is_refused_and_told_and_everybody_else_goes_on() {
    let mut world = World::new(3);
    let (space, _) = world.space(0, Writers::Anyone);
    let doc = world.create(0, space, 1);
    (1..3).for_each(|host| world.join(host, space));
    world.connect(1, 0);
    world.connect(2, 0);
    world.settle();
    world.edit(1, space, doc, "kept", 1);
    world.settle();
    let room = world.stored(0, 1).bytes + 150;
    world.quotas(0, None, Some(room));
    (0..20).for_each(|n| world.edit(1, space, doc, "much", n));
    world.settle();
    assert!(world.stored(0, 1).bytes <= room);
    assert!(world.events(1, |e| matches!(e, Event::Notice { code, .. } if code == "quota")) > 0);
    let acked = |world: &World, n| {
        world.events(1, |e| matches!(e, Event::Acked { doc: of, n: m, .. } if *of == doc && *m == n))
    };
    assert_eq!(
        (acked(&world, 1), acked(&world, 21)),
        (1, 0),
        "what was acknowledged is held, the rest is not acknowledged"
    );
    let kept = |world: &World, host: usize| {
        use automerge::ReadDoc;
        world.view(host, doc).get(automerge::ROOT, "kept").unwrap().is_some()
    };
    assert!(kept(&world, 0));
    // In the same document and in others.
    world.edit(2, space, doc, "other", 7);
    let another = world.create(2, space, 2);
    world.edit(2, space, another, "x", 1);
    world.settle();
    assert!(world.hosts[0].store.log.values().any(|(_, s)| s.segment.doc == another));
    // It costs little meanwhile.
    let sent = world.hosts[1].sent_bytes;
    (0..20).for_each(|_| world.settle());
    let per_minute = (world.hosts[1].sent_bytes - sent) / 20;
    assert!(per_minute < 4_000, "{per_minute} bytes a minute");
    world.quotas(0, None, None);
    (0..3).for_each(|_| world.settle());
    world.assert_level(space);
}

#[test]
fn a_full_space_takes_nothing_and_another_goes_on() {
    let mut world = World::new(2);
    let ((full, _), (other, _)) = (world.space(0, Writers::Anyone), world.space(1, Writers::Anyone));
    world.join(1, full);
    world.join(0, other);
    let docs = [world.create(0, full, 1), world.create(1, other, 2)];
    world.connect(1, 0);
    world.settle();
    world.quotas(0, Some(1), None);
    let ours = world.events(0, |e| matches!(e, Event::Failed { why: LocalError::Quota, .. }));
    world.edit(0, full, docs[0], "x", 1);
    world.create(0, full, 3);
    assert_eq!(world.events(0, |e| matches!(e, Event::Failed { why: LocalError::Quota, .. })), ours + 2);
    let before = world.hosts[0].store.log.len();
    world.edit(1, full, docs[0], "x", 2);
    world.create(1, full, 4);
    world.settle();
    assert_eq!(world.hosts[0].store.log.len(), before);
    world.quotas(0, Some(1 << 20), None);
    (0..3).for_each(|_| world.settle());
    world.assert_level(full);
}

/// The deletion stands behind the header that did not fit.
#[test]
fn who_deletes_a_document_makes_room_for_the_one_that_did_not_fit() {
    for second_goes in [false, true] {
        let mut world = World::new(2);
        let (space, _) = world.space(0, Writers::Anyone);
        world.join(1, space);
        world.connect(1, 0);
        world.settle();
        let first = world.create(1, space, 1);
        world.settle();
        let documents = Quota { bytes: None, documents: Some(1) };
        world.input(0, Input::Quotas(Quotas { identity: documents, ..Quotas::default() }));
        let second = world.create(1, space, 2);
        world.edit(1, space, second, "x", 1);
        world.settle();
        assert_eq!(world.stored(0, 1).documents, 1);
        assert!(!world.hosts[0].store.log.values().any(|(_, s)| s.segment.doc == second));
        let doc = if second_goes { second } else { first };
        world.say(1, space, Local::Records(vec![Record::Tombstone { doc }]));
        (0..3).for_each(|_| world.settle());
        world.assert_level(space);
        assert_eq!(world.stored(0, 1).documents, 1);
        // Of others' documents nothing is counted: to delete them is not this device's to do.
        let third = world.create(1, space, 3);
        let others = world.create(0, space, 4);
        (0..3).for_each(|_| world.settle());
        world.say(1, space, Local::Records(vec![Record::Tombstone { doc: others }]));
        (0..3).for_each(|_| world.settle());
        world.edit(1, space, third, "x", 1);
        world.settle();
        assert_eq!(world.stored(0, 1).documents, 1);
        assert!(!world.hosts[0].store.log.values().any(|(_, s)| s.segment.doc == third));
    }
}

/// Room is made by what will be dropped, and once: not by a deletion before its header, which is forgotten, nor by one of a device that may
/// not write, of somebody else's document, or of one that is deleted already.
#[test]
fn a_deletion_that_drops_nothing_makes_no_room() {
    let (mut world, space, _) = World::granted(2);
    let reader = key(9).verifying_key().to_bytes();
    world.meet_all();
    let (own, others) = (world.create(1, space, 1), world.create(0, space, 2));
    world.edit(1, space, own, "x", 1);
    world.meet_all();
    let header = |nonce| Record::Header { nonce: [nonce; 16], kind: String::new(), name: String::new() };
    let gone = |doc| Record::Tombstone { doc };
    let freed = |world: &World, device, records: &[Record]| {
        let peer = &world.hosts[0].peer;
        let opening = Opening { device, ..peer.own_opening(&space, &space.authority()) };
        let entries: Vec<Vec<u8>> = records.iter().map(Record::to_bytes).collect();
        let tip = Tip { n: entries.len() as u64, rights: vec![], signature: [0; 64] };
        let freed = peer.freed_by(space, &Segment { doc: space.authority(), opening, first: 1, entries, tip });
        (freed.documents, freed.bytes > 0)
    };
    let device = world.hosts[1].peer.device();
    let new = DocId(Record::id(&space, &device, &header(3).to_bytes()).0);
    assert_eq!(freed(&world, device, &[gone(own), header(4)]), (1, true));
    assert_eq!(freed(&world, device, &[header(3), gone(new)]), (1, false));
    assert_eq!(freed(&world, device, &[gone(new), header(3)]), (0, false));
    assert_eq!(freed(&world, device, &[header(3), gone(new), header(3), gone(new)]), (1, false));
    assert_eq!(freed(&world, device, &[header(3), gone(new), gone(new), gone(own), gone(own)]), (2, true));
    assert_eq!(freed(&world, device, &[gone(others), header(4)]), (0, false));
    assert_eq!(freed(&world, DeviceId(reader), &[header(3), gone(new), gone(own)]), (0, false));
    world.say(1, space, Local::Records(vec![gone(own)]));
    world.meet_all();
    assert_eq!(freed(&world, device, &[gone(own), header(4)]), (0, false));
}

#[test]
fn an_administrator_says_what_is_to_be_said_about_rights_over_any_quota() {
    let (mut world, space, _) = World::granted(2);
    world.meet_all();
    world.quotas(1, Some(0), Some(0));
    let device = world.hosts[1].peer.device();
    let authority = world.hosts[0].peer.space(&space).unwrap().authority();
    let grant = authority.grant_again(&world.hosts[0].peer.device(), device.into(), Right::Admin, false);
    world.say(0, space, Local::Records(vec![grant]));
    world.create(0, space, 77);
    world.meet_all();
    assert_eq!(world.hosts[1].peer.space(&space).unwrap().right_of(&device), Some(Right::Admin));
}

#[test]
fn a_part_of_a_space_gets_what_did_not_fit_once_there_is_room() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    let doc = world.create(0, space, 1);
    world.edit(0, space, doc, "x", 1);
    world.input(1, Input::Join { space, genesis: None, filter: Some(vec![doc]) });
    world.connect(1, 0);
    world.settle();
    let held = |world: &World| world.hosts[1].store.log.values().filter(|(_, s)| s.segment.doc == doc).count();
    let room = world.stored(1, 0).bytes;
    world.quotas(1, None, Some(room));
    world.edit(0, space, doc, "x", 2);
    world.settle();
    assert_eq!(held(&world), 1);
    world.quotas(1, None, None);
    world.connect(1, 0);
    world.settle();
    assert_eq!(held(&world), 2);
}
