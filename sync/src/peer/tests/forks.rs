//! Devices that sign two histories, honestly (a copied disk) or not, among several peers.

use super::*;
use crate::message::Message;

impl World {
    /// Hosts with these keys and runs: two with one key and one run are copies of one disk.
    pub(super) fn of(keys: &[u8]) -> World {
        let mut world = World::new(0);
        for (at, key) in keys.iter().enumerate() {
            let store = ModelStore::default();
            let start = Start { store: StoreId([at as u8 + 100; 16]), ..start(*key, 1, &store) };
            world.hosts.push(Host::new(start, store));
        }
        world
    }

    /// A document of host 0's, held by all, who are apart again.
    fn shared_document(&mut self, through: usize) -> (SpaceId, DocId) {
        let (space, _) = self.space(0, Writers::Anyone);
        (1..self.hosts.len()).for_each(|host| self.join(host, space));
        let doc = self.create(0, space, 1);
        for host in (0..self.hosts.len()).filter(|host| *host != through) {
            self.meet(through, host);
        }
        (space, doc)
    }

    /// Two hosts meet until they are level, and part.
    pub(super) fn meet(&mut self, a: usize, b: usize) {
        let conn = self.connect(a, b);
        self.settle();
        self.cut(a, b, conn);
    }

    pub(super) fn log(&mut self, host: usize, space: SpaceId, doc: DocId) -> &Log {
        // Reads it, if it is not in memory.
        self.input(host, Input::Tick);
        self.hosts[host].peer.log(space, doc).expect("in memory, among so few")
    }

    /// Entries that count, and entries that are held and do not.
    fn counts(&mut self, host: usize, space: SpaceId, doc: DocId) -> (u64, u64) {
        let lines = self.log(host, space, doc).lines().all().iter();
        let branches =
            lines.flat_map(|line| (0..line.branches.len()).map(move |at| (line.counted(at), &line.branches[at])));
        branches.fold((0, 0), |(counted, held), (n, branch)| {
            let own = n.saturating_sub(branch.shared);
            (counted + own, held + branch.len() - branch.shared - own)
        })
    }

    /// The last entry of each branch of the chain of a host's run.
    fn ends(&self, host: usize, of: usize, space: SpaceId, doc: DocId) -> Vec<EntryId> {
        let chain = self.hosts[of].peer.own_opening(&space, &doc).chain(&space, &doc);
        let log = self.hosts[host].peer.log(space, doc).unwrap();
        let (_, line) = log.lines().get(&chain).unwrap();
        line.branches.iter().map(|branch| *branch.id_at(branch.len()).unwrap()).collect()
    }

    /// The first entry of a host, which builds on these and says nothing.
    pub(super) fn build_on(&mut self, host: usize, space: SpaceId, doc: DocId, deps: &[EntryId]) -> EntryId {
        let peer = &self.hosts[host].peer;
        let opening = peer.own_opening(&space, &doc);
        let start = deps.iter().filter_map(|dep| peer.log(space, doc).unwrap().max_op(dep)).max().unwrap_or(0) + 1;
        let actor = opening.chain(&space, &doc).0;
        let entry = crate::change::joining(&actor, &opening.device, deps, start);
        let id = crate::change::id(&entry).unwrap();
        self.say(host, space, Local::Entries { doc, opening, entries: vec![entry] });
        id
    }

    /// Sends a proof in the first space that both named.
    fn accuse(&mut self, host: usize, conn: ConnId, proof: ForkProof) {
        let proofs = Some(crate::message::Proofs(vec![proof]));
        let data = Data {
            space: 0,
            segments: vec![],
            haves: vec![],
            upto: None,
            fingerprint: None,
            asked: false,
            absent: vec![],
            proofs,
        };
        let connection = self.hosts[host].peer.connections.get_mut(&conn).unwrap();
        connection.send(&Message::Data(data));
        self.hosts[host].peer.sealing.insert(conn);
    }

    pub(super) fn show(&mut self, space: SpaceId, doc: DocId) -> String {
        let clocks = (0..self.hosts.len()).map(|host| format!("{host}: {:?}\n", self.log(host, space, doc).clock().0));
        clocks.collect()
    }

    pub(super) fn forks_told(&self, host: usize) -> usize {
        self.events(host, |event| matches!(event, Event::Forked { .. }))
    }
}

#[test]
fn copies_of_one_disk_that_both_wrote_lose_nothing_and_are_told() {
    let mut world = World::of(&[1, 1, 2]);
    let (space, doc) = world.shared_document(2);
    (0..3).for_each(|n| world.edit(0, space, doc, "a", n));
    (0..2).for_each(|n| world.edit(1, space, doc, "b", n));
    for host in [0, 1, 0, 1] {
        world.meet(2, host);
    }
    let all = world.fingerprints(space);
    assert!(all.iter().all(|found| *found == all[0]), "{}", world.show(space, doc));
    for host in 0..3 {
        let (counted, idle) = world.counts(host, space, doc);
        // Each branch is built upon by the first entry of a new chain at least.
        assert!(counted >= 5 + 2 && idle == 0, "host {host}: {counted} count, {idle} do not");
        assert_eq!(world.forks_told(host), 1);
    }
    // They go on, under new chains.
    for host in 0..2 {
        assert_eq!(world.events(host, |event| matches!(event, Event::ChainLost { doc: d, .. } if *d == doc)), 1);
        assert!(world.events(host, |event| matches!(event, Event::Failed { .. })) == 0);
    }
}

/// A disk that was set back as a whole: whoever wrote the other history is no more.
#[test]
fn what_a_device_wrote_and_does_not_remember_comes_back_from_others() {
    for late in [false, true] {
        let mut world = World::of(&[1, 1, 2, 3]);
        let (space, doc) = world.shared_document(2);
        (0..3).for_each(|n| world.edit(0, space, doc, "forgotten", n));
        world.meet(2, 0);
        (0..2).for_each(|n| world.edit(1, space, doc, "after", n));
        if late {
            // It hears of its other history from one who has it not.
            world.meet(3, 1);
            let chain = world.hosts[1].peer.own_opening(&space, &doc).chain(&space, &doc);
            let (_, line) = world.log(2, space, doc).lines().get(&chain).unwrap();
            let (opening, other, held) = (line.opening.clone(), line.branches[0].clone(), {
                let (_, line) = world.log(3, space, doc).lines().get(&chain).unwrap();
                line.branches[0].clone()
            });
            fn tail<'a>(opening: &'a Opening, branch: &'a crate::lines::Branch) -> crate::proof::Tail<'a> {
                crate::proof::Tail { opening, tip: &branch.tip, ids: &branch.ids }
            }
            let proof = ForkProof::of(doc, Frontier::default(), tail(&opening, &other), tail(&opening, &held));
            let conn = world.connect(3, 1);
            world.settle();
            world.accuse(3, conn, proof);
            world.settle();
            assert_eq!(world.forks_told(1), 1);
            world.cut(3, 1, conn);
        }
        world.meet(2, 1);
        world.meet(2, 3);
        for host in 1..4 {
            let (counted, idle) = world.counts(host, space, doc);
            assert!(counted >= 5 && idle == 0, "host {host}, late {late}: {counted} count, {idle} do not");
        }
        let all: Vec<_> = world.fingerprints(space).split_off(1);
        assert!(all.iter().all(|found| *found == all[0]), "{}", world.show(space, doc));
    }
}

#[test]
fn a_liars_two_histories_count_as_far_as_others_built_upon_them() {
    // The liar's copies never hear of each other, so neither brings its chain to an end.
    let mut world = World::of(&[1, 1, 2, 3, 4]);
    let (space, doc) = world.shared_document(2);
    (0..3).for_each(|n| world.edit(0, space, doc, "a", n));
    (0..2).for_each(|n| world.edit(1, space, doc, "b", n));
    world.meet(2, 0);
    world.meet(3, 1);
    let end = world.ends(2, 0, space, doc);
    let honest = world.build_on(2, space, doc, &end);
    world.meet(2, 3);
    for host in [2, 3] {
        assert_eq!(world.counts(host, space, doc).0, 4, "three that were built upon, and the entry that was");
    }
    world.build_on(3, space, doc, &[honest]);
    world.meet(3, 2);
    world.meet(4, 3);
    world.meet(4, 2);
    let all: Vec<_> = world.fingerprints(space).split_off(2);
    assert!(all.iter().all(|found| *found == all[0]));
    for host in 2..5 {
        assert_eq!(world.counts(host, space, doc).0, 5);
        assert_eq!(world.forks_told(host), 1);
    }
}

#[test]
fn a_branch_that_nobody_kept_comes_once_somebody_built_upon_it() {
    let mut world = World::of(&[1, 1, 1, 2, 3, 4]);
    let (space, doc) = world.shared_document(3);
    (0..3).for_each(|host| world.edit(host, space, doc, "lie", host as i64));
    world.meet(3, 0);
    world.meet(4, 1);
    world.meet(3, 4);
    // Closed already when host 5 builds on the third.
    world.meet(5, 2);
    let end = world.ends(5, 2, space, doc);
    world.build_on(5, space, doc, &end);
    let live = world.connect(3, 4);
    world.settle();
    world.meet(5, 4);
    world.settle();
    world.cut(3, 4, live);
    let all: Vec<_> = world.fingerprints(space).split_off(3);
    assert!(all.iter().all(|found| *found == all[0]), "{}", world.show(space, doc));
    for host in 3..6 {
        assert_eq!(world.counts(host, space, doc).0, 2, "host {host}");
    }
}

#[test]
fn a_proof_alone_goes_to_everybody_who_follows_live() {
    let mut world = World::of(&[1, 1, 2, 3, 4]);
    let (space, doc) = world.shared_document(2);
    world.edit(0, space, doc, "a", 1);
    world.edit(1, space, doc, "b", 1);
    world.meet(2, 0);
    world.meet(2, 3);
    world.meet(3, 4);
    let links = [world.connect(2, 3), world.connect(3, 4)];
    world.settle();
    world.meet(2, 1);
    for host in 2..5 {
        assert_eq!(world.forks_told(host), 1);
        let proofs = world.log(host, space, doc).image().proofs().count();
        assert_eq!(proofs, 1, "host {host}");
    }
    let _ = links;
}

#[test]
fn a_false_accusation_ends_the_connection_of_who_brings_it_and_closes_nothing() {
    let mut world = World::of(&[1, 2]);
    let (space, doc) = world.shared_document(1);
    world.edit(0, space, doc, "a", 1);
    let conn = world.connect(0, 1);
    world.settle();
    let (_, line) = {
        let peer = &world.hosts[1].peer;
        let chain = world.hosts[0].peer.own_opening(&space, &doc).chain(&space, &doc);
        peer.log(space, doc).unwrap().lines().get(&chain).unwrap()
    };
    let branch = &line.branches[0];
    let other = [EntryId([9; 32])];
    let tail = |ids| crate::proof::Tail { opening: &line.opening, tip: &branch.tip, ids };
    let proof = ForkProof::of(doc, Frontier::default(), tail(&branch.ids), tail(&other));
    world.accuse(0, conn, proof);
    world.settle();
    assert!(!world.links.contains_key(&(1, conn)), "who accuses falsely is not listened to");
    assert_eq!((world.forks_told(1), world.counts(1, space, doc)), (0, (1, 0)));
}
