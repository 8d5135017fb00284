//! What an operator has blocked: peers, identities, spaces, documents.

use super::*;
use crate::authority::RootKeys;
use crate::record::Subject;

impl World {
    fn block(&mut self, host: usize, blocked: Blocked) {
        self.input(host, Input::Block(blocked));
        self.settle();
    }

    fn notices(&self, host: usize, code: &str) -> usize {
        self.events(host, |e| matches!(e, Event::Notice { code: said, .. } if said == code))
    }

    /// Whether the last that was heard of connections is that one is open.
    fn is_open(&self, host: usize) -> bool {
        let events = self.hosts[host].events.iter().rev();
        let mut connections = events.filter(|e| matches!(e, Event::Opened { .. } | Event::Closed { .. }));
        connections.next().is_some_and(|e| matches!(e, Event::Opened { .. }))
    }

    fn newest(&self, host: usize, doc: DocId, key: &str) -> Option<i64> {
        use automerge::ReadDoc;
        self.view(host, doc).get(automerge::ROOT, key).unwrap().and_then(|(value, _)| value.as_i64())
    }
}

fn docs(docs: impl IntoIterator<Item = DocId>) -> Blocked {
    Blocked { docs: docs.into_iter().collect(), ..Blocked::default() }
}

#[test]
fn the_connection_to_a_peer_ends_when_it_is_blocked_and_no_other_is_kept_until_it_is_not() {
    for (blocks, blocked) in [(0, 1), (1, 0)] {
        let mut world = World::new(2);
        let (space, _) = world.space(0, Writers::Anyone);
        world.join(1, space);
        world.connect(0, 1);
        world.settle();
        let peers = [Subject::from(world.hosts[blocked].peer.device())].into();
        world.block(blocks, Blocked { peers, ..Blocked::default() });
        assert!(!world.is_open(0) && !world.is_open(1));
        assert_eq!(world.notices(blocked, "blocked"), 1);
        for (from, to) in [(0, 1), (1, 0)] {
            world.connect(from, to);
            world.settle();
            assert!(!world.is_open(blocks));
        }
        assert_eq!(world.notices(blocked, "blocked"), 3);
        world.block(blocks, Blocked::default());
        world.connect(0, 1);
        world.settle();
        assert!(world.is_open(0) && world.is_open(1));
    }
}

#[test]
fn who_acts_for_a_blocked_identity_is_hung_up_on_as_soon_as_that_is_known() {
    let keys = RootKeys::of_seed(&[5; 32], 1);
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    world.join(1, space);
    world.connect(0, 1);
    world.settle();
    world.block(0, Blocked { peers: [keys.identity()].into(), ..Blocked::default() });
    assert!(world.is_open(0), "nothing says that the other acts for it");
    let device = world.hosts[1].peer.device();
    let member = world.hosts[1].peer.space(&space).unwrap().authority().member_again(
        &keys.newest(),
        keys.identity(),
        device,
        "",
    );
    world.say(1, space, Local::AsRoot { root: RootKeys::of_seed(&[5; 32], 1), records: vec![member] });
    world.settle();
    assert!(!world.is_open(0) && world.notices(1, "blocked") == 1);
    world.connect(1, 0);
    world.settle();
    assert!(!world.is_open(0));
}

#[test]
fn a_blocked_document_is_neither_served_nor_taken_and_comes_after_all_once_it_is_free() {
    let mut world = World::new(3);
    let (space, _) = world.space(0, Writers::Anyone);
    let [kept, shared] = [1, 2].map(|n| world.create(0, space, n));
    world.edit(0, space, kept, "x", 1);
    world.join(1, space);
    world.join(2, space);
    world.connect(1, 0);
    world.connect(2, 1);
    world.settle();
    // In the middle: what comes is not taken, so it does not go on either.
    world.block(1, docs([kept]));
    world.edit(0, space, kept, "x", 2);
    world.edit(0, space, shared, "x", 3);
    world.settle();
    assert_eq!([0, 1, 2].map(|host| world.newest(host, kept, "x")), [Some(2), Some(1), Some(1)]);
    assert_eq!([0, 1, 2].map(|host| world.newest(host, shared, "x")), [Some(3); 3]);
    assert!(world.notices(0, "blocked") >= 1, "its author is told");
    assert_eq!(world.events(0, |e| matches!(e, Event::Acked { doc, n: 2, .. } if *doc == kept)), 0);
    let refused = world.events(1, |e| matches!(e, Event::Failed { why: LocalError::Blocked(_), .. }));
    world.edit(1, space, kept, "x", 9);
    assert_eq!(world.events(1, |e| matches!(e, Event::Failed { why: LocalError::Blocked(_), .. })), refused + 1);
    // Who holds none of it gets none.
    world.hosts.push(World::of(&[7]).hosts.remove(0));
    world.join(3, space);
    world.connect(3, 1);
    world.settle();
    assert_eq!((world.newest(3, kept, "x"), world.newest(3, shared, "x")), (None, Some(3)));
    world.block(1, Blocked::default());
    world.settle();
    world.assert_level(space);
    assert_eq!(world.newest(3, kept, "x"), Some(2));
}

#[test]
fn a_part_of_a_space_gets_what_came_while_a_document_of_it_was_blocked() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    let doc = world.create(0, space, 1);
    world.edit(0, space, doc, "x", 1);
    world.input(1, Input::Join { space, genesis: None, filter: Some(vec![doc]) });
    world.connect(1, 0);
    world.settle();
    world.block(1, docs([doc]));
    world.edit(0, space, doc, "x", 2);
    world.settle();
    assert_eq!(world.newest(1, doc, "x"), Some(1));
    world.block(1, Blocked::default());
    let conn = world.connect(1, 0);
    world.settle();
    assert_eq!(world.newest(1, doc, "x"), Some(2));
    // The same where it is blocked by who has the whole.
    world.cut(0, 1, conn);
    world.edit(0, space, doc, "x", 3);
    world.block(0, docs([doc]));
    world.connect(1, 0);
    world.settle();
    assert_eq!(world.newest(1, doc, "x"), Some(2));
    world.block(0, Blocked::default());
    assert_eq!(world.newest(1, doc, "x"), Some(3));
}

#[test]
fn a_blocked_space_is_named_to_nobody_and_the_others_go_on() {
    let mut world = World::new(2);
    let ((one, _), (other, _)) = (world.space(0, Writers::Anyone), world.space(1, Writers::Anyone));
    world.join(1, one);
    world.join(0, other);
    let (in_one, in_other) = (world.create(0, one, 1), world.create(1, other, 2));
    world.connect(0, 1);
    world.settle();
    world.block(0, Blocked { spaces: [one].into(), ..Blocked::default() });
    assert!(!world.is_open(1), "connections begin anew without it");
    world.connect(1, 0);
    world.settle();
    world.edit(0, one, in_one, "x", 1);
    world.edit(1, other, in_other, "x", 2);
    world.settle();
    assert_eq!((world.newest(1, in_one, "x"), world.newest(0, in_other, "x")), (None, Some(2)));
    // On the connection that is open.
    world.block(0, Blocked::default());
    assert!(world.is_open(1));
    assert_eq!(world.newest(1, in_one, "x"), Some(1));
}
