//! Connections that wait for whether they are kept.

use super::*;

/// `knows`: the dialler knows whom it dials.
fn world(asks: usize, knows: bool) -> (World, SpaceId, ConnId) {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    let doc = world.create(0, space, 1);
    world.edit(0, space, doc, "x", 1);
    world.join(1, space);
    world.hosts[asks].peer.set_asks(true);
    let conn = ConnId(1);
    world.links.extend([((0, conn), 1), ((1, conn), 0)]);
    let expected = knows.then(|| world.hosts[1].peer.device());
    world.input(1, Input::Connected { conn, dialled: false, expected: None });
    world.input(0, Input::Connected { conn, dialled: true, expected });
    deliver(&mut world);
    let other = world.hosts[1 - asks].peer.device();
    let asked = |e: &Event| match e {
        Event::Asked { conn, peer } if *peer == other => Some(*conn),
        _ => None,
    };
    let conn = world.hosts[asks].events.iter().find_map(asked).expect("it asks");
    assert_eq!(opened(&world), [0, 0], "nobody knows anything of the other before the answer");
    (world, space, conn)
}

/// All that is on the wires, without that time passes.
fn deliver(world: &mut World) {
    while let Some((to, conn, bytes)) = world.wires.pop_front() {
        world.input(to, Input::Frame { conn, bytes });
    }
}

fn opened(world: &World) -> [usize; 2] {
    [0, 1].map(|host| world.events(host, |e| matches!(e, Event::Opened { .. })))
}

#[test]
fn a_connection_that_is_admitted_goes_on_where_it_waited() {
    // Spaces are named once, whether or not the dialler knows whom it dials (seed 218).
    for (asks, knows) in [(0, true), (0, false), (1, true), (1, false)] {
        let (mut world, space, conn) = world(asks, knows);
        world.input(asks, Input::Admit { conn });
        world.settle();
        assert_eq!(opened(&world), [1, 1]);
        world.assert_level(space);
        // It is asked once.
        world.input(asks, Input::Admit { conn });
        world.settle();
        assert_eq!(world.events(asks, |e| matches!(e, Event::Asked { .. })), 1);
    }
}

/// It was named at once, and with all others once the other side was known: held back by then, what came of it was out of order.
/// Found by the simulator, seed 1569.
#[test]
fn a_space_that_is_joined_while_the_other_side_waits_is_named_once() {
    let (mut world, first, conn) = world(1, false);
    let (second, _) = world.space(1, Writers::Anyone);
    world.join(0, second);
    world.input(1, Input::Admit { conn });
    deliver(&mut world);
    let shared = |e: &Event| matches!(e, Event::Shared { space, .. } if *space == second);
    assert_eq!([0, 1].map(|host| world.events(host, shared)), [1, 1]);
    assert_eq!(world.hosts[0].peer.connections.get(&conn).unwrap().handles.len(), 2);
    world.settle();
    world.assert_level(first);
    world.assert_level(second);
}

#[test]
fn a_connection_that_is_refused_or_for_which_nobody_answers_ends() {
    for asks in [0, 1] {
        let (mut world, _, conn) = world(asks, true);
        world.input(asks, Input::End { conn, code: "policy", text: "not wanted" });
        world.settle();
        assert_eq!(opened(&world), [0, 0]);
        assert_eq!(world.events(1 - asks, |e| matches!(e, Event::Notice { code, .. } if code == "policy")), 1);

        let (mut world, ..) = self::world(asks, true);
        world.settle();
        assert_eq!(opened(&world), [0, 0]);
        assert_eq!(world.events(asks, |e| matches!(e, Event::Closed { .. })), 1);
    }
}
