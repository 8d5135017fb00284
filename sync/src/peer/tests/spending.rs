//! What peers spend of the network stays within what they may.

use super::*;
use crate::blobs::PIECE_BYTES;
use crate::message::roles;
use crate::spending::Allowance;

impl World {
    fn allow(&mut self, host: usize, all: Option<u64>, others: Option<u64>) {
        self.input(host, Input::Allow(Allowance { all, others }));
    }

    /// Three in a line, of which the middle one relays.
    fn line() -> (World, SpaceId, DocId, [ConnId; 2]) {
        let mut world = World::new(3);
        let (space, _) = world.space(0, Writers::Anyone);
        let doc = world.create(0, space, 1);
        world.join(1, space);
        world.join(2, space);
        let conns = [world.connect(1, 0), world.connect(2, 1)];
        world.settle();
        world.edit(0, space, doc, "x", 0);
        world.settle();
        world.assert_level(space);
        (world, space, doc, conns)
    }

    fn is_connected(&self, host: usize) -> bool {
        self.links.keys().any(|(of, _)| *of == host)
    }
}

#[test]
fn no_byte_goes_over_the_network_beyond_what_may_be_spent() {
    let (mut world, space, doc, conns) = World::line();
    for allowed in [0, 1, 700, 5_000, 20_000] {
        let before = (world.hosts[1].peer.spent().all, world.hosts[1].sent_bytes);
        world.allow(1, Some(allowed), None);
        for n in 1..=60 {
            world.edit(0, space, doc, "x", n + 100 * allowed as i64);
            world.settle();
        }
        let spent = world.hosts[1].peer.spent().all - before.0;
        assert!(spent <= allowed && (world.hosts[1].sent_bytes - before.1) as u64 <= spent, "{spent} of {allowed}");
        assert!(allowed < 5_000 || spent > allowed / 2, "what may be spent is used: {spent} of {allowed}");
        assert!(!world.is_connected(1), "sixty edits cost more than {allowed}");
        world.connect(1, 0);
        assert!(!world.is_connected(1), "nor does a connection begin");
        for (host, conn) in world.links.keys().copied().collect::<Vec<_>>() {
            world.cut(host, 1, conn);
        }
        assert_eq!(world.hosts[1].peer.spent().all - before.0, spent);
        world.allow(1, None, None);
        world.connect(1, 0);
        world.connect(2, 1);
        world.settle();
        world.assert_level(space);
    }
    assert!(world.events(1, |e| matches!(e, Event::Closed { conn, .. } if conns.contains(conn))) > 0);
    world.assert_no_complaints();
}

#[test]
fn who_has_spent_what_may_go_to_others_is_a_leaf_says_so_and_still_sends_its_own() {
    const ALLOWED: u64 = 4_000;
    let (mut world, space, doc, _) = World::line();
    let before = world.hosts[1].peer.spent().others;
    assert!(before > 0, "it has relayed");
    world.allow(1, None, Some(ALLOWED));
    for n in 1..=60 {
        world.edit(0, space, doc, "x", n);
        world.settle();
    }
    let spent = world.hosts[1].peer.spent().others - before;
    assert!(spent <= ALLOWED && spent > ALLOWED / 2, "{spent}");
    assert!(world.hosts[1].peer.roles() & roles::LEAF != 0 && !world.is_connected(1), "others are to learn of it");
    // Whoever connects learns it from the hello, and gets what is this peer's own.
    world.connect(1, 0);
    let to_leaf = world.connect(2, 1);
    world.settle();
    let told = |e: &Event| matches!(e, Event::Opened { roles, .. } if roles & roles::LEAF != 0);
    assert_eq!((world.events(0, told), world.events(2, told)), (1, 1));
    let mine = world.create(1, space, 7);
    world.edit(1, space, mine, "mine", 1);
    world.edit(0, space, doc, "theirs", 1);
    world.settle();
    assert_eq!(world.hosts[1].peer.spent().others - before, spent, "nothing of others' left it");
    assert!(world.hosts[2].store.documents.contains_key(&(space, mine)));
    assert!(world.view(2, doc).get_heads() != world.view(0, doc).get_heads());
    // Allowed again, it serves as before.
    world.allow(1, None, None);
    assert!(world.hosts[1].peer.roles() & roles::LEAF == 0 && !world.links.contains_key(&(1, to_leaf)));
    world.connect(1, 0);
    world.connect(2, 1);
    world.settle();
    world.assert_level(space);
}

#[test]
fn a_document_is_served_to_a_newcomer_only_if_it_may_be_paid_for() {
    for (allowed, comes) in [(Some(3_000), false), (Some(1 << 20), true), (None, true)] {
        let mut world = World::new(3);
        let (space, _) = world.space(0, Writers::Anyone);
        let docs: Vec<DocId> = (0..40).map(|n| world.create(0, space, n)).collect();
        docs.iter().for_each(|doc| world.edit_often(0, space, *doc, 1, 10));
        world.join(1, space);
        world.connect(1, 0);
        world.settle();
        world.allow(1, None, allowed);
        world.join(2, space);
        world.connect(2, 1);
        world.settle();
        assert_eq!(world.hosts[2].store.documents.len() >= docs.len(), comes, "{allowed:?}");
        assert!(allowed.is_none_or(|allowed| world.hosts[1].peer.spent().others <= allowed));
    }
}

#[test]
fn pieces_of_blobs_are_paid_for() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    world.join(1, space);
    world.connect(1, 0);
    world.settle();
    let blob = world.hosts[0].blobs.put(space, &blobs::content(1, 12));
    let allowed = 5 * PIECE_BYTES as u64;
    world.allow(0, None, Some(allowed));
    world.fetch(1, space, blob);
    world.fly(200);
    let kept = world.hosts[1].blobs.kept[&(space, blob)].1.len();
    assert!((3..=4).contains(&kept), "{kept} pieces came, each with its proof");
    assert!(world.hosts[0].peer.spent().others <= allowed);
    world.allow(0, None, None);
    world.connect(1, 0);
    world.fly(200);
    assert_eq!(world.hosts[1].blobs.kept[&(space, blob)].1.len(), 12);
}

/// How often `host`'s radio wakes: frames to or from it, of which those within 3 s are one time.
fn wakes(world: &mut World, space: SpaceId, doc: DocId, edits: usize) -> usize {
    let (mut wakes, mut last, mut seen) = (0, None::<u64>, world.hosts[2].sent_bytes);
    for n in 0..edits as i64 * 20 {
        if n % 20 == 0 {
            world.edit((n / 20) as usize % 2, space, doc, "x", n);
        }
        world.now += 50;
        for (to, conn, bytes) in core::mem::take(&mut world.wires) {
            let stirs = to == 2 || world.hosts[2].sent_bytes != seen;
            seen = world.hosts[2].sent_bytes;
            if stirs {
                wakes += usize::from(last.is_none_or(|last| world.now > last + 3_000));
                last = Some(world.now);
            }
            world.input(to, Input::Frame { conn, bytes });
        }
        for host in 0..3 {
            if world.hosts[host].peer.poll_timeout().is_some_and(|due| due <= Now(world.now)) {
                world.input(host, Input::Tick);
            }
        }
    }
    wakes
}

#[test]
fn what_is_new_for_a_peer_that_saves_comes_in_bursts_and_all_of_it() {
    let begin = |role: u64| {
        let mut world = World::new(2);
        let store = ModelStore::default();
        let start = Start { roles: role, ..start(3, 1, &store) };
        world.hosts.push(Host::new(start, store));
        let (space, _) = world.space(0, Writers::Anyone);
        let doc = world.create(0, space, 1);
        [1, 2].into_iter().for_each(|host| world.join(host, space));
        [(1, 0), (2, 0), (2, 1)].into_iter().for_each(|(from, to)| _ = world.connect(from, to));
        world.edit(0, space, doc, "x", -1);
        world.settle();
        world.assert_level(space);
        (world, space, doc)
    };
    // An edit a second for two minutes: one radio never sleeps, the other wakes eight times.
    let (mut world, space, doc) = begin(roles::LEAF);
    let bytes = |world: &World| world.hosts.iter().map(|host| host.sent_bytes).sum::<usize>();
    let before = bytes(&world);
    let always = wakes(&mut world, space, doc, 120);
    let plain = bytes(&world) - before;
    let (mut world, space, doc) = begin(roles::SAVER);
    assert!(world.hosts[2].peer.roles() & roles::LEAF != 0);
    let before = bytes(&world);
    let bursts = wakes(&mut world, space, doc, 120);
    assert!((7..=10).contains(&bursts), "{bursts} bursts in two minutes");
    assert!(bytes(&world) - before < plain, "and they cost less than {plain} bytes, {}", bytes(&world) - before);
    assert_eq!(always, 1, "its radio never slept");
    world.settle();
    world.assert_level(space);
    // What it makes itself waits as well, and comes.
    world.edit(2, space, doc, "mine", 1);
    world.settle();
    world.assert_level(space);
    world.assert_no_complaints();
}
