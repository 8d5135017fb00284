//! Announces on a connection, and devices that are not allowed.

use super::*;
use crate::id::Topic;
use crate::message::{Announce, Found, Message, Peers, roles};
use crate::peer_record::PeerRecord;
use crate::tracker::TrackerRefusal;

fn announce(n: u8) -> Announce {
    let record = PeerRecord::sign(&key(n), 1_000, 3, &["ws://192.0.2.1:1/".into()]);
    Announce { record, topics: vec![Topic([1; 32])] }
}

/// Two peers, the second of which plays these roles, connected.
fn world(played: u64) -> (World, ConnId) {
    let mut world = World::new(2);
    world.hosts[1].peer = Peer::new(Start { roles: played, ..start(2, 1, &ModelStore::default()) });
    let conn = world.connect(0, 1);
    world.settle();
    (world, conn)
}

fn codes(world: &World, host: usize) -> Vec<&str> {
    let events = world.hosts[host].events.iter();
    events.filter_map(|event| if let Event::Notice { code, .. } = event { Some(code.as_str()) } else { None }).collect()
}

fn told(world: &World, host: usize, what: impl Fn(&Event) -> bool) -> usize {
    world.hosts[host].events.iter().filter(|event| what(event)).count()
}

#[test]
fn an_announce_reaches_the_tracker_and_its_answer_whoever_announced() {
    let (mut world, conn) = world(roles::TRACKER);
    world.input(0, Input::Announce { conn, announce: announce(1) });
    // Nothing more is said before the answer.
    world.input(0, Input::Announce { conn, announce: announce(1) });
    world.settle();
    assert_eq!(told(&world, 1, |e| matches!(e, Event::Announced { announce: a, .. } if *a == announce(1))), 1);
    let peers = Peers { ttl_s: 1_800, found: vec![Found { record: announce(9).record, topics: vec![0] }] };
    world.input(1, Input::AnnounceAnswered { conn, answer: Ok(peers.clone()) });
    // A second answer to one announce is not sent.
    world.input(1, Input::AnnounceAnswered { conn, answer: Ok(peers.clone()) });
    world.settle();
    assert_eq!(told(&world, 0, |e| matches!(e, Event::Introduced { peers: p, .. } if *p == peers)), 1);
    assert_eq!(told(&world, 0, |e| matches!(e, Event::Closed { .. })), 0);
    world.input(0, Input::Announce { conn, announce: announce(1) });
    world.settle();
    world.input(1, Input::AnnounceAnswered { conn, answer: Err(TrackerRefusal::Full) });
    world.settle();
    assert_eq!(codes(&world, 0), ["tracker-full"]);
    world.input(0, Input::Announce { conn, announce: announce(1) });
    world.settle();
    assert_eq!(told(&world, 1, |e| matches!(e, Event::Announced { .. })), 3, "a refusal is an answer");
}

#[test]
fn who_is_no_tracker_says_so_and_goes_on() {
    let (mut world, conn) = world(roles::STORE);
    world.input(0, Input::Announce { conn, announce: announce(1) });
    world.settle();
    assert_eq!(codes(&world, 0), ["tracker-off"]);
    assert_eq!(told(&world, 1, |e| matches!(e, Event::Announced { .. })), 0);
    assert_eq!(told(&world, 0, |e| matches!(e, Event::Closed { .. })), 0);
}

#[test]
fn an_announce_in_anothers_name_and_peers_unasked_for_end_the_connection() {
    let (mut world, conn) = world(roles::TRACKER);
    world.input(0, Input::Announce { conn, announce: announce(9) });
    world.settle();
    assert_eq!((codes(&world, 0), told(&world, 1, |e| matches!(e, Event::Closed { .. }))), (vec!["P.order"], 1));
    let (mut world, conn) = self::world(roles::TRACKER);
    let message = Message::Peers(Peers { ttl_s: 1, found: vec![] });
    world.hosts[1].peer.connections.get_mut(&conn).unwrap().send(&message);
    world.input(1, Input::Tick);
    world.settle();
    assert_eq!(codes(&world, 1), ["P.order"]);
}

#[test]
fn a_second_announce_before_the_answer_is_refused() {
    let (mut world, conn) = world(roles::TRACKER);
    for _ in 0..3 {
        let message = Message::Announce(announce(1));
        world.hosts[0].peer.connections.get_mut(&conn).unwrap().send(&message);
    }
    world.input(0, Input::Tick);
    world.settle();
    assert_eq!(told(&world, 1, |e| matches!(e, Event::Announced { .. })), 1);
    assert_eq!(codes(&world, 0), ["tracker-busy", "tracker-busy"]);
}

#[test]
fn more_announces_than_eight_a_minute_are_refused() {
    let (mut world, conn) = world(roles::TRACKER);
    let answer = || Ok(Peers { ttl_s: 1_800, found: vec![] });
    // A window of its own: connecting took no announce.
    world.now += 60_000;
    for _ in 0..12 {
        world.input(0, Input::Announce { conn, announce: announce(1) });
        while let Some((to, conn, bytes)) = world.wires.pop_front() {
            world.input(to, Input::Frame { conn, bytes });
        }
        world.input(1, Input::AnnounceAnswered { conn, answer: answer() });
        while let Some((to, conn, bytes)) = world.wires.pop_front() {
            world.input(to, Input::Frame { conn, bytes });
        }
    }
    assert_eq!(told(&world, 1, |e| matches!(e, Event::Announced { .. })), 8);
    assert_eq!(codes(&world, 0), ["tracker-busy"; 4]);
}

#[test]
fn a_device_that_is_not_allowed_is_told_so_and_learns_nothing() {
    for (refuses, refused) in [(1, 0), (0, 1)] {
        let mut world = World::new(2);
        let (_, _) = world.space(refuses, Writers::Anyone);
        world.hosts[refuses].peer.set_allowed(Some(BTreeSet::from([DeviceId([9; 32])])));
        world.connect(0, 1);
        world.settle();
        assert_eq!(codes(&world, refused), ["not-allowed"]);
        for host in [0, 1] {
            assert_eq!(told(&world, host, |e| matches!(e, Event::Closed { .. })), 1);
        }
        assert_eq!(told(&world, refuses, |e| matches!(e, Event::Opened { .. })), 0);
        // A dialler's hello leaves before it knows who answers.
        let opened = usize::from(refuses == 0);
        assert_eq!(told(&world, refused, |e| matches!(e, Event::Opened { .. })), opened);
        let device = world.hosts[refused].peer.device();
        world.hosts[refuses].peer.set_allowed(Some(BTreeSet::from([device])));
        world.connect(0, 1);
        world.settle();
        assert_eq!(told(&world, refuses, |e| matches!(e, Event::Opened { .. })), 1);
    }
}
