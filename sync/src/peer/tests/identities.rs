//! Identities whose root key gets into other hands.

use super::*;
use crate::authority::RootKeys;
use crate::record::Right;

impl World {
    fn as_root(&mut self, host: usize, space: SpaceId, keys: usize, records: Vec<Record>) {
        self.say(host, space, Local::AsRoot { root: keys_of(keys), records });
    }

    fn member(&self, host: usize, space: SpaceId, keys: usize, of: usize) -> Record {
        let authority = self.hosts[host].peer.space(&space).unwrap().authority();
        let device = self.hosts[of].peer.device();
        authority.member_again(&keys_of(keys).newest(), keys_of(keys).identity(), device, "")
    }

    /// Takes a device out of the identity.
    fn put_out(&mut self, host: usize, space: SpaceId, keys: usize, whom: usize, keep: Keep) {
        let device = self.hosts[whom].peer.device();
        let edges = self.hosts[host].peer.space(&space).unwrap().authority().edges();
        let of = edges.iter().filter(|edge| edge.counts && edge.subject == device.into() && edge.right.is_none());
        let records = of.map(|edge| edge.record).collect();
        self.say(host, space, Local::Revoke { records, keep, root: Some(keys_of(keys)) });
    }

    /// Host 0 is the root, host 1 a writer; hosts 2 to 4 hold the space and have no right but what the identity gives them.
    fn with_identity() -> (World, SpaceId, DocId) {
        let (mut world, space, doc) = World::granted(2);
        for n in [7, 8, 9] {
            world.hosts.push(World::of(&[n]).hosts.remove(0));
            world.join(world.hosts.len() - 1, space);
        }
        let (by, identity) = (world.hosts[0].peer.device(), keys_of(1).identity());
        let grant =
            world.hosts[0].peer.space(&space).unwrap().authority().grant_again(&by, identity, Right::Write, false);
        world.say(0, space, Local::Records(vec![grant]));
        world.meet_all();
        (world, space, doc)
    }
}

fn keys_of(count: usize) -> RootKeys {
    RootKeys::of_seed(&[5; 32], count)
}

#[test]
fn a_rotation_leaves_what_was_held_and_ends_what_the_thief_says_from_then_on() {
    let (mut world, space, doc) = World::with_identity();
    let members = vec![world.member(2, space, 1, 2), world.member(2, space, 1, 3)];
    world.as_root(2, space, 1, members);
    world.meet_all();
    world.edit_often(3, space, doc, 1, 3);
    world.meet_all();
    world.put_out(2, space, 1, 3, Keep::Held);
    world.edit(2, space, doc, "owner", 1);
    // Somebody has the key, and lets a device of its own in.
    let thief = world.member(4, space, 1, 4);
    world.as_root(4, space, 1, vec![thief]);
    world.edit(4, space, doc, "thief", 1);
    world.meet_all();

    // The owner rotates while the thief goes on, apart.
    world.as_root(2, space, 2, vec![]);
    let more = world.member(4, space, 1, 1);
    world.as_root(4, space, 1, vec![more]);
    world.meet_all();
    world.put_out(2, space, 2, 4, Keep::Nothing);
    world.meet_all();
    let of = |world: &World, host: usize| world.hosts[host].peer.device();
    let counted = world.assert_same(space, doc);
    assert_eq!(counted, BTreeMap::from([(of(&world, 3), 3), (of(&world, 2), 1)]));
    let refused = |e: &Event| matches!(e, Event::Failed { why: LocalError::KeyReplaced(2), .. });
    world.as_root(4, space, 1, vec![]);
    assert_eq!(world.events(4, refused), 1);
    let held = |world: &World, host: usize| world.hosts[host].peer.space(&space).unwrap().authority().clone();
    let members = |world: &World| {
        let edges = held(world, 0).edges();
        let of = edges.into_iter().filter(|edge| edge.in_force() && edge.right.is_none());
        of.map(|edge| edge.subject).collect::<Vec<_>>()
    };
    assert_eq!(members(&world), [of(&world, 2).into()], "what the thief said after the rotation counts for nobody");

    // Twice more at once, and the same again by another device that has the words: each key tells of itself once.
    world.as_root(2, space, 4, vec![]);
    let another = world.member(3, space, 4, 1);
    world.as_root(3, space, 4, vec![another]);
    world.meet_all();
    assert_eq!(held(&world, 1).root_keys(&keys_of(1).identity()).len(), 4);
    assert_eq!(world.assert_same(space, doc), counted);
    assert_eq!(members(&world).len(), 2);
}

#[test]
fn a_space_that_never_heard_of_an_identity_learns_of_all_its_keys_at_once() {
    let (mut world, space, doc) = World::with_identity();
    let member = world.member(2, space, 3, 2);
    world.as_root(2, space, 3, vec![member]);
    world.edit(2, space, doc, "a", 1);
    world.meet_all();
    // Who knew of the first key only, and comes late, hears the same.
    world.hosts.push(World::of(&[10]).hosts.remove(0));
    world.join(5, space);
    world.meet(5, 1);
    world.as_root(5, space, 1, vec![]);
    assert_eq!(world.events(5, |e| matches!(e, Event::Failed { why: LocalError::KeyReplaced(3), .. })), 1);
    world.meet_all();
    assert_eq!(world.assert_same(space, doc).len(), 1);
}
