//! Rights that change after the fact: what counts is the same on every peer, in whatever order it learnt of it.

use rand_chacha::rand_core::Rng;

use super::*;
use crate::authority::Authority;
use crate::record::Right;

impl World {
    fn device_of(&self, host: usize) -> DeviceId {
        self.hosts[host].peer.device()
    }

    fn authority(&self, host: usize, space: SpaceId) -> &Authority {
        self.hosts[host].peer.space(&space).unwrap().authority()
    }

    pub(super) fn grant(&mut self, host: usize, space: SpaceId, to: usize, right: Right) {
        let (by, to) = (self.device_of(host), self.device_of(to));
        let record = self.authority(host, space).grant_again(&by, to.into(), right, false);
        self.say(host, space, Local::Records(vec![record]));
    }

    /// Takes back everything by which a device has a right now.
    fn revoke(&mut self, host: usize, space: SpaceId, whom: usize, keep: Keep) {
        let records = self.authority(host, space).path_of(&self.device_of(whom));
        self.say(host, space, Local::Revoke { records, keep, root: None });
    }

    /// Everybody meets everybody, so often that nothing more can come of it.
    pub(super) fn meet_all(&mut self) {
        for _ in 0..3 {
            for a in 0..self.hosts.len() {
                (0..a).for_each(|b| self.meet(a, b));
            }
        }
    }

    /// The entries that count, by the chain's device: as many as there are.
    fn counted(&mut self, host: usize, space: SpaceId, doc: DocId) -> BTreeMap<DeviceId, u64> {
        let mut counted = BTreeMap::new();
        for line in self.log(host, space, doc).lines().all() {
            *counted.entry(line.opening.device).or_default() += line.counted(0);
        }
        counted.retain(|_, n| *n > 0);
        counted
    }

    /// Host 0's space with writers 1 … (0 is the root), all of whom hold it, and a document of host 0's.
    pub(super) fn granted(count: u8) -> (World, SpaceId, DocId) {
        let mut world = World::of(&(1..=count).collect::<Vec<u8>>());
        let (space, _) = world.space(0, Writers::Granted);
        let doc = world.create(0, space, 1);
        for host in 1..usize::from(count) {
            world.join(host, space);
            world.grant(0, space, host, Right::Write);
        }
        (1..usize::from(count)).for_each(|host| world.meet(host, 0));
        world.meet_all();
        (world, space, doc)
    }

    pub(super) fn assert_same(&mut self, space: SpaceId, doc: DocId) -> BTreeMap<DeviceId, u64> {
        let first = self.counted(0, space, doc);
        for host in 1..self.hosts.len() {
            assert_eq!(self.counted(host, space, doc), first, "hosts {host} and 0\n{}", self.show(space, doc));
        }
        let all = self.fingerprints(space);
        assert!(all.iter().all(|found| *found == all[0]), "{}", self.show(space, doc));
        first
    }

    fn show_records(&self, space: SpaceId) -> String {
        let clocks = self.hosts.iter().map(|host| format!("{:?}\n", host.peer.space(&space).unwrap().clock().0));
        clocks.collect()
    }

    fn shows(&mut self, host: usize, space: SpaceId, doc: DocId) -> bool {
        self.log(host, space, doc).is_shown()
    }
}

#[test]
fn of_a_revoked_writer_stays_what_the_revocation_names_and_what_others_built_upon() {
    let (mut world, space, doc) = World::granted(4);
    world.edit(1, space, doc, "known", 1);
    world.meet_all();
    // Apart, more comes of the writer: host 3 builds on the first of it, and on the rest nobody does.
    world.edit(1, space, doc, "built-upon", 2);
    world.meet(1, 3);
    world.edit(3, space, doc, "honest", 3);
    world.edit(1, space, doc, "alone", 4);
    world.revoke(0, space, 1, Keep::Held);
    // Host 2 learns of the revocation first, host 3 last.
    world.meet(2, 0);
    world.meet(2, 1);
    world.meet(2, 3);
    world.meet_all();
    let (one, three) = (world.device_of(1), world.device_of(3));
    assert_eq!(world.assert_same(space, doc), BTreeMap::from([(one, 2), (three, 1)]));
    // The writer knows as well, and may not go on.
    world.edit(1, space, doc, "late", 5);
    assert_eq!(world.events(1, |e| matches!(e, Event::Failed { why: LocalError::NotAllowed(_), .. })), 1);
    // Let in again, all of it counts.
    world.grant(0, space, 1, Right::Write);
    world.meet_all();
    assert_eq!(world.assert_same(space, doc), BTreeMap::from([(one, 3), (three, 1)]));
}

#[test]
fn a_revocation_that_keeps_nothing_leaves_what_others_built_upon() {
    let (mut world, space, doc) = World::granted(3);
    let other = world.create(1, space, 2);
    world.edit(1, space, doc, "a", 1);
    world.edit(1, space, other, "a", 1);
    world.meet_all();
    world.edit(2, space, doc, "b", 2);
    world.edit(1, space, doc, "c", 3);
    world.meet_all();
    world.revoke(0, space, 1, Keep::Nothing);
    world.meet_all();
    let (one, two) = (world.device_of(1), world.device_of(2));
    assert_eq!(world.assert_same(space, doc), BTreeMap::from([(one, 1), (two, 1)]));
    assert_eq!(world.assert_same(space, other), BTreeMap::new());
    for host in 0..3 {
        assert!(!world.shows(host, space, other));
        assert_eq!(world.events(host, |e| matches!(e, Event::Withdrawn { doc, .. } if *doc == other)), 1);
    }
}

#[test]
fn a_document_whose_creator_was_put_out_is_there_for_everybody_once_somebody_else_wrote_in_it() {
    let (mut world, space, _) = World::granted(4);
    let (written, empty) = (world.create(1, space, 2), world.create(1, space, 3));
    world.edit(1, space, written, "theirs", 1);
    world.meet(1, 3);
    world.edit(3, space, written, "honest", 2);
    world.revoke(0, space, 1, Keep::Held);
    // Host 2 hears of the revocation before it hears of the documents.
    world.meet(2, 0);
    world.meet(2, 3);
    world.meet_all();
    let (one, three) = (world.device_of(1), world.device_of(3));
    assert_eq!(world.assert_same(space, written), BTreeMap::from([(one, 1), (three, 1)]));
    for host in 0..4 {
        assert!(world.shows(host, space, written), "host {host}");
        let log = world.hosts[host].peer.log(space, empty);
        assert!(log.is_none_or(|log| !log.is_shown()), "host {host}");
    }
}

#[test]
fn a_deletion_by_who_had_no_right_to_delete_is_undone() {
    let (mut world, space, doc) = World::granted(4);
    world.grant(0, space, 1, Right::Admin);
    world.edit(2, space, doc, "a", 1);
    world.meet_all();
    world.say(1, space, Local::Records(vec![Record::Tombstone { doc }]));
    world.meet(1, 2);
    let (edges, one) = (world.authority(0, space).edges(), world.device_of(1));
    let mut records: Vec<EntryId> =
        edges.iter().filter(|edge| edge.subject == one.into()).map(|edge| edge.record).collect();
    records.sort_unstable();
    world.say(0, space, Local::Revoke { records, keep: Keep::Held, root: None });
    // Host 3 hears of the revocation first, host 2 of the deletion.
    world.meet(3, 0);
    world.meet(3, 2);
    world.meet_all();
    let two = world.device_of(2);
    assert_eq!(world.assert_same(space, doc), BTreeMap::from([(two, 1)]));
    assert_eq!(world.events(2, |e| matches!(e, Event::Deleted { .. })), 1);
}

/// The revocation lies behind the deletion in what comes: dropped in between, what nobody else has yet would be lost.
#[test]
fn what_only_this_peer_holds_survives_a_deletion_that_the_same_catch_up_undoes() {
    let (mut world, space, doc) = World::granted(3);
    world.grant(0, space, 1, Right::Admin);
    world.meet_all();
    world.edit(2, space, doc, "unsent", 1);
    world.say(1, space, Local::Records(vec![Record::Tombstone { doc }]));
    world.meet(1, 0);
    world.revoke(0, space, 1, Keep::Nothing);
    world.meet(2, 0);
    let two = world.device_of(2);
    assert_eq!(world.counted(0, space, doc), BTreeMap::from([(two, 1)]));
    assert_eq!(world.events(2, |e| matches!(e, Event::Deleted { .. })), 0);
}

#[test]
fn a_deletion_that_a_catch_up_brings_and_does_not_undo_is_carried_out_at_its_end() {
    let (mut world, space, doc) = World::granted(3);
    world.edit(2, space, doc, "unsent", 1);
    world.say(0, space, Local::Records(vec![Record::Tombstone { doc }]));
    world.meet(2, 0);
    assert_eq!(world.events(2, |e| matches!(e, Event::Deleted { .. })), 1);
    assert!(world.hosts[2].store.log.values().all(|(_, stored)| stored.segment.doc != doc));
    world.meet_all();
    world.assert_same(space, doc);
}

/// Host 2 holds a deletion that waits for the end of what a liar tells it, which never comes.
fn with_a_deletion_that_waits() -> World {
    let (mut world, space, doc) = World::granted(3);
    world.edit(0, space, doc, "old", 1);
    world.meet_all();
    let (liar, _) = (world.connect(2, 1), world.connect(2, 0));
    world.settle();
    let link = world.hosts[2].peer.connections.get_mut(&liar).unwrap().links.get_mut(&space).unwrap();
    link.ask = connection::Ask::Paging;
    // As if something came all the time.
    link.progress = Some(Now(u64::MAX / 2));
    world.say(0, space, Local::Records(vec![Record::Tombstone { doc }]));
    while let Some((to, conn, bytes)) = world.wires.pop_front() {
        if conn != liar {
            world.input(to, Input::Frame { conn, bytes });
        }
    }
    assert_eq!(world.events(2, |e| matches!(e, Event::Deleted { .. })), 0);
    world
}

/// Who never ends what it sends holds up no deletion for long.
#[test]
fn a_deletion_waits_no_longer_than_anything_else_that_waits() {
    let mut world = with_a_deletion_that_waits();
    world.settle();
    assert_eq!(world.events(2, |e| matches!(e, Event::Deleted { .. })), 1);
}

/// Which deletions wait is in memory alone. Seed 72 among liars: a peer went on to show an empty document.
#[test]
fn a_deletion_that_waited_is_carried_out_after_a_restart() {
    let mut world = with_a_deletion_that_waits();
    world.links.clear();
    world.hosts[2].peer = Peer::new(start(3, 2, &world.hosts[2].store));
    world.settle();
    assert_eq!(world.events(2, |e| matches!(e, Event::Deleted { .. })), 1);
    assert!(world.hosts[2].store.spaces.values().all(|row| row.recut.is_empty()), "there is nothing left to do");
}

#[test]
fn who_wrote_in_a_document_that_comes_back_goes_on_in_another_chain() {
    let (mut world, space, doc) = World::granted(4);
    world.grant(0, space, 1, Right::Admin);
    world.edit(2, space, doc, "a", 1);
    world.meet_all();
    let before = world.hosts[2].peer.own_opening(&space, &doc);
    world.say(1, space, Local::Records(vec![Record::Tombstone { doc }]));
    // Host 3 keeps what there is; of what host 2 wrote, it holds nothing itself any more.
    world.meet(1, 2);
    world.meet(1, 0);
    world.revoke(0, space, 1, Keep::Nothing);
    world.meet(0, 2);
    assert_ne!(world.hosts[2].peer.own_opening(&space, &doc), before);
    world.edit(2, space, doc, "b", 2);
    world.meet(2, 3);
    assert!((2..4).all(|host| world.forks_told(host) == 0));
}

#[test]
fn of_a_deleted_document_nothing_is_told_when_its_creator_goes_and_comes_back() {
    let (mut world, space, _) = World::granted(3);
    let doc = world.create(1, space, 10);
    world.meet_all();
    world.say(0, space, Local::Records(vec![Record::Tombstone { doc }]));
    world.meet_all();
    world.revoke(0, space, 1, Keep::Nothing);
    world.meet_all();
    let one = world.device_of(1);
    let again = world.authority(0, space).grant_again(&world.device_of(0), one.into(), Right::Write, false);
    world.say(0, space, Local::Records(vec![again]));
    world.meet_all();
    for host in 0..3 {
        let told = |event: &Event| match event {
            Event::Document { doc: of, .. } | Event::Withdrawn { doc: of, .. } | Event::Deleted { doc: of, .. } => {
                *of == doc
            }
            _ => false,
        };
        assert_eq!(world.events(host, told), 2, "at {host}: it was there, and it was deleted");
        assert!(!world.shows(host, space, doc));
    }
}

#[test]
fn what_a_revocation_changes_is_found_though_no_log_is_in_memory() {
    let (mut world, space, _) = World::granted(3);
    let docs: Vec<DocId> = (10..700).map(|n| world.create(1, space, n)).collect();
    docs.iter().for_each(|doc| world.edit(1, space, *doc, "a", 1));
    world.meet_all();
    // Host 2 starts anew, with nothing in memory, and is shut down before all is found again.
    let reopen = |world: &mut World| {
        let start = Start { store: StoreId([102; 16]), ..start(3, 2, &world.hosts[2].store) };
        world.hosts[2].peer = Peer::new(start);
    };
    reopen(&mut world);
    world.revoke(0, space, 1, Keep::Nothing);
    world.meet(2, 0);
    reopen(&mut world);
    world.input(2, Input::Tick);
    world.meet_all();
    let all = world.fingerprints(space);
    assert!(all.iter().all(|found| *found == all[0]));
    assert!(docs.iter().all(|doc| world.hosts[2].peer.log(space, *doc).is_none_or(|log| !log.is_shown())));
    assert!(world.hosts[2].peer.space(&space).unwrap().recut.is_empty());
}

/// What counts in a document by what one peer holds of it and of the authority log: the entries that the rights of their
/// device cover, and everything in the past of those.
fn counted_by_oracle(world: &mut World, host: usize, space: SpaceId, doc: DocId) -> BTreeSet<EntryId> {
    let creator = world.log(host, space, doc).header().creator;
    let held = world.hosts[host].peer.space(&space).unwrap();
    let stored = world.hosts[host].store.log.values().filter(|(_, s)| s.segment.doc == doc);
    let mut deps: BTreeMap<EntryId, Vec<EntryId>> = BTreeMap::new();
    let mut todo: Vec<EntryId> = Vec::new();
    for (_, StoredSegment { segment, .. }) in stored {
        let end = held.limit(&doc, &segment.opening, Some(&creator)).end();
        for (n, bytes) in (segment.first..).zip(&segment.entries) {
            let head = crate::change::walk(bytes, &crate::limits::Rules::V1).unwrap();
            if n <= end {
                todo.push(head.id);
            }
            deps.insert(head.id, head.deps);
        }
    }
    let mut counted = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if counted.insert(id) {
            todo.extend(deps[&id].iter().copied());
        }
    }
    counted
}

/// The entries that count as the log says.
fn counted_ids(world: &mut World, host: usize, space: SpaceId, doc: DocId) -> BTreeSet<EntryId> {
    let lines = world.log(host, space, doc).lines().all().iter();
    let ids = lines.flat_map(|line| line.branches[0].ids.iter().take(line.counted(0) as usize).copied());
    ids.collect()
}

/// What an entry by this host builds on: what counts and nothing counted builds on yet.
fn heads(world: &mut World, host: usize, space: SpaceId, doc: DocId) -> Vec<EntryId> {
    let mut heads = counted_ids(world, host, space, doc);
    let stored = world.hosts[host].store.log.values().filter(|(_, s)| s.segment.doc == doc);
    for bytes in stored.flat_map(|(_, s)| &s.segment.entries) {
        let head = crate::change::walk(bytes, &crate::limits::Rules::V1).unwrap();
        if heads.contains(&head.id) || counted_ids_contains(world, host, space, doc, &head.id) {
            head.deps.iter().for_each(|dep| _ = heads.remove(dep));
        }
    }
    heads.into_iter().collect()
}

fn counted_ids_contains(world: &World, host: usize, space: SpaceId, doc: DocId, id: &EntryId) -> bool {
    let Some(log) = world.hosts[host].peer.log(space, doc) else { return false };
    let counted =
        |line: &crate::lines::Line| line.branches[0].ids.iter().take(line.counted(0) as usize).any(|i| i == id);
    log.lines().all().iter().any(counted)
}

/// Root 0, admins 1 and 2, writers 3 and 4, in any order: edits, grants, revocations that keep this or that, documents,
/// deletions, meetings. In the end all hold what counts by the rights alone. How often what was met: reshown, withdrawn, deleted,
/// deleted and back, and chains of which something counts only because others built upon it.
fn random_history(seed: u64) -> [usize; 5] {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut below = |n: u64| rng.next_u64() % n;
    let (mut world, space, doc) = World::granted(5);
    (1..3).for_each(|admin| world.grant(0, space, admin, Right::Admin));
    world.meet_all();
    let mut docs = vec![doc];
    for step in 0..40 {
        let host = below(5) as usize;
        match below(12) {
            0 => {
                let right = [Right::Read, Right::Write, Right::Write, Right::Admin][below(4) as usize];
                world.grant(host, space, below(5) as usize, right);
            }
            1 | 2 => {
                let keep = if below(2) == 0 { Keep::Held } else { Keep::Nothing };
                let whom = 1 + below(4) as usize;
                if !world.authority(host, space).path_of(&world.device_of(whom)).is_empty() {
                    world.revoke(host, space, whom, keep);
                }
            }
            3 if docs.len() < 4 => docs.push(world.create(host, space, 100 + step)),
            4 if below(3) == 0 => {
                let doc = docs[below(docs.len() as u64) as usize];
                world.say(host, space, Local::Records(vec![Record::Tombstone { doc }]));
            }
            5..=8 => {
                let doc = docs[below(docs.len() as u64) as usize];
                world.input(host, Input::Tick);
                if world.hosts[host].peer.log(space, doc).is_some_and(|log| !log.is_deleted()) {
                    let deps = heads(&mut world, host, space, doc);
                    world.build_on(host, space, doc, &deps);
                }
            }
            _ => {
                let other = (host + 1 + below(4) as usize) % 5;
                world.meet(host, other);
            }
        }
    }
    world.meet_all();
    world.meet_all();
    let all = world.fingerprints(space);
    assert!(all.iter().all(|found| *found == all[0]), "seed {seed}: not the same everywhere");
    let mut met = [0; 5];
    for host in 0..5 {
        met[0] += world.events(host, |e| matches!(e, Event::Reshown { .. }));
        met[1] += world.events(host, |e| matches!(e, Event::Withdrawn { .. }));
        met[2] += world.events(host, |e| matches!(e, Event::Deleted { .. }));
    }
    for doc in docs {
        if let Some(log) = world.hosts[0].peer.log(space, doc) {
            met[3] += usize::from(!log.is_deleted() && !log.tombstones().is_empty());
            met[4] += log.lines().all().iter().filter(|line| line.counted(0) > line.counts_to()).count();
        }
        let shown: Vec<bool> = (0..5)
            .map(|host| world.hosts[host].peer.log(space, doc).is_some_and(|log| log.is_shown() && !log.is_deleted()))
            .collect();
        assert!(shown.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: {doc:?} is shown at {shown:?}");
        if !shown[0] {
            continue;
        }
        let first = counted_ids(&mut world, 0, space, doc);
        for host in 0..5 {
            assert_eq!(counted_ids(&mut world, host, space, doc), first, "seed {seed}, host {host}");
            assert_eq!(counted_by_oracle(&mut world, host, space, doc), first, "seed {seed}, host {host}");
        }
    }
    met
}

#[test]
fn whatever_rights_are_given_and_taken_back_all_peers_show_what_they_cover() {
    let seeds = std::env::var("RIGHTS_SEEDS").map_or(60, |seeds| seeds.parse().unwrap());
    let from = std::env::var("RIGHTS_FROM").map_or(0, |from| from.parse().unwrap());
    let mut met = [0; 5];
    for seed in from..from + seeds {
        random_history(seed).iter().zip(&mut met).for_each(|(more, sum)| *sum += more);
    }
    assert!(seeds < 60 || met.iter().all(|times| *times >= 5), "{met:?}");
    println!("{met:?}");
}

/// Hosts with these keys, the first of which is the root of a space that grants, held by all.
fn granted_to(keys: &[u8]) -> (World, SpaceId, DocId) {
    let mut world = World::of(keys);
    let (space, _) = world.space(0, Writers::Granted);
    let doc = world.create(0, space, 1);
    for host in 1..keys.len() {
        world.join(host, space);
        world.grant(0, space, host, Right::Write);
        world.meet(host, 0);
    }
    world.meet_all();
    (world, space, doc)
}

#[test]
fn copies_of_one_disk_that_both_created_documents_lose_none() {
    // Hosts 1 and 2 are one device and one run.
    let (mut world, space, _) = granted_to(&[1, 2, 2, 3]);
    let first: Vec<DocId> = (10..13).map(|n| world.create(1, space, n)).collect();
    let second: Vec<DocId> = (20..22).map(|n| world.create(2, space, n)).collect();
    first.iter().for_each(|doc| world.edit(1, space, *doc, "a", 1));
    world.meet(0, 1);
    world.meet(3, 2);
    world.meet_all();
    world.meet_all();
    let all = world.fingerprints(space);
    assert!(all.iter().all(|found| *found == all[0]), "{}", world.show_records(space));
    for host in 0..4 {
        for doc in first.iter().chain(&second) {
            let shown = world.hosts[host].peer.log(space, *doc).map(|log| log.is_shown());
            assert_eq!(
                shown,
                Some(true),
                "host {host}, {doc:?} of {first:?} and {second:?}\n{}",
                world.show_records(space)
            );
        }
        assert_eq!(world.forks_told(host), 1, "host {host}");
    }
}

#[test]
fn what_honest_writers_wrote_in_the_documents_of_a_liar_with_two_histories_is_there_for_everybody() {
    // Hosts 1 and 2 are copies of a liar that never meet, and so never say again what they said.
    let (mut world, space, _) = granted_to(&[1, 2, 2, 3, 4, 5]);
    let one = world.create(1, space, 10);
    let other = world.create(2, space, 20);
    world.create(2, space, 21);
    world.meet(3, 1);
    world.meet(4, 2);
    world.edit(3, space, one, "honest", 1);
    world.edit(4, space, other, "honest", 2);
    for _ in 0..3 {
        for (a, b) in [(3, 4), (0, 3), (0, 4), (5, 0), (5, 3), (5, 4)] {
            world.meet(a, b);
        }
    }
    let honest = [0, 3, 4, 5];
    let all = world.fingerprints(space);
    assert!(honest.iter().all(|host| all[*host] == all[0]), "{}", world.show_records(space));
    for host in honest {
        assert_eq!(world.forks_told(host), 1, "host {host}");
        for (doc, writer) in [(one, 3), (other, 4)] {
            assert!(world.shows(host, space, doc), "host {host}");
            let writer = world.device_of(writer);
            assert_eq!(world.counted(host, space, doc), BTreeMap::from([(writer, 1)]), "host {host}");
        }
    }
}

#[test]
fn who_was_let_in_by_a_forked_admin_counts_as_far_as_others_built_upon_it() {
    let (mut world, space, doc) = granted_to(&[1, 2, 2, 3, 4]);
    world.grant(0, space, 1, Right::Admin);
    world.meet_all();
    // Both copies of the admin say something; the stranger is let in by one of them.
    let stranger = {
        let store = ModelStore::default();
        let start = Start { store: StoreId([99; 16]), ..start(9, 1, &store) };
        world.hosts.push(Host::new(start, store));
        world.hosts.len() - 1
    };
    world.join(stranger, space);
    world.grant(1, space, stranger, Right::Write);
    world.create(2, space, 77);
    world.meet(stranger, 1);
    world.edit(stranger, space, doc, "stranger", 1);
    world.meet(3, stranger);
    world.edit(3, space, doc, "honest", 1);
    world.edit(stranger, space, doc, "stranger", 2);
    world.meet(4, 2);
    for _ in 0..3 {
        for (a, b) in [(3, 4), (0, 3), (0, 4)] {
            world.meet(a, b);
        }
    }
    let all = world.fingerprints(space);
    assert!([3, 4].iter().all(|host| all[*host] == all[0]), "{}", world.show_records(space));
    let (stranger, three) = (world.device_of(stranger), world.device_of(3));
    for host in [0, 3, 4] {
        let expected = BTreeMap::from([(stranger, 1), (three, 1)]);
        assert_eq!(world.counted(host, space, doc), expected, "host {host}");
    }
}
