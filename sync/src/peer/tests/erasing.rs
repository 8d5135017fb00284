//! Requests to erase a document, and what comes of them.

use super::*;
use crate::authority::COMPLETED_MAX;
use crate::record::Right;

impl World {
    fn erase(&mut self, host: usize, space: SpaceId, doc: DocId) {
        let note = "asked for".to_owned();
        self.say(host, space, Local::Records(vec![Record::Tombstone { doc }, Record::Erase { doc, note }]));
    }

    /// Who has erased a document, as a host knows, whoever asked.
    fn erased(&self, host: usize, space: SpaceId, doc: DocId) -> BTreeSet<DeviceId> {
        let erasures = self.hosts[host].peer.space(&space).unwrap().authority().erasures_of(&doc);
        erasures.into_iter().flat_map(|erasure| erasure.erased).collect()
    }

    fn devices(&self, hosts: &[usize]) -> BTreeSet<DeviceId> {
        hosts.iter().map(|host| self.hosts[*host].peer.device()).collect()
    }

    fn erased_records(&self, host: usize, space: SpaceId) -> usize {
        let rows = self.hosts[host].store.rights.iter().filter(|(of, _)| *of == space);
        let records = rows.map(|(_, row)| Record::from_bytes(&row.bytes).unwrap());
        records.filter(|record| matches!(record, Record::Erased { .. })).count()
    }
}

#[test]
fn who_holds_a_right_signs_once_that_a_document_is_erased_here() {
    let (mut world, space, doc) = World::granted(4);
    // Host 3 loses its right, and comes back to it later.
    let edges = world.hosts[0].peer.space(&space).unwrap().authority().path_of(&world.hosts[3].peer.device());
    world.say(0, space, Local::Revoke { records: edges, keep: Keep::Held, root: None });
    world.edit(1, space, doc, "a", 1);
    world.meet_all();
    world.erase(0, space, doc);
    world.meet_all();
    for host in 0..4 {
        assert_eq!(world.erased(host, space, doc), world.devices(&[0, 1, 2]), "as host {host} knows");
        assert!(world.hosts[host].store.log.values().all(|(_, s)| s.segment.doc != doc));
    }
    world.grant(0, space, 3, Right::Read);
    // Asked again, by others or with other words, nobody says it again.
    world.erase(0, space, doc);
    let again = Record::Erase { doc, note: "and again".into() };
    world.say(0, space, Local::Records(vec![again]));
    world.meet_all();
    assert_eq!(world.erased(1, space, doc), world.devices(&[0, 1, 2, 3]));
    assert_eq!(world.erased_records(1, space), 4);
    let erasures = world.hosts[1].peer.space(&space).unwrap().authority().erasures_of(&doc);
    assert!(
        erasures.len() == 2 && erasures.iter().all(|erasure| erasure.erased.len() == 4),
        "each shows who has erased"
    );
    world.assert_no_complaints();
}

#[test]
fn who_gets_its_first_right_later_signs_then() {
    let (mut world, space, doc) = World::granted(2);
    // Seed 296 of the simulator.
    world.hosts.push(World::of(&[9]).hosts.remove(0));
    world.join(2, space);
    world.erase(0, space, doc);
    world.meet_all();
    assert_eq!(world.erased(2, space, doc), world.devices(&[0, 1]));
    world.grant(0, space, 2, Right::Relay);
    world.meet_all();
    assert_eq!(world.erased(0, space, doc), world.devices(&[0, 1, 2]));
}

#[test]
fn a_request_by_whom_may_not_delete_is_refused_here_and_ignored_elsewhere() {
    let (mut world, space, doc) = World::granted(3);
    world.erase(1, space, doc);
    let refused = |e: &Event| matches!(e, Event::Failed { why: LocalError::NotAllowed("delete the document"), .. });
    assert_eq!(world.events(1, refused), 1);
    // It says so all the same, and the document is deleted by somebody else.
    let request = Record::Erase { doc, note: String::new() };
    world.hosts[1].peer.add_records(space, &[request]).unwrap();
    world.meet_all();
    world.say(0, space, Local::Records(vec![Record::Tombstone { doc }]));
    world.meet_all();
    assert_eq!((world.erased(0, space, doc), world.erased_records(0, space)), (BTreeSet::new(), 0));
    // Its author becomes an admin: rights are about what a device says, whenever it said it.
    world.grant(0, space, 1, Right::Admin);
    world.meet_all();
    assert_eq!(world.erased(2, space, doc), world.devices(&[0, 1, 2]));
}

#[test]
fn a_request_that_was_stored_before_a_crash_is_looked_at_after_it() {
    let (mut world, space, doc) = World::granted(2);
    world.say(0, space, Local::Records(vec![Record::Tombstone { doc }]));
    // The document is not in memory, and power fails while it is read.
    let host = &mut world.hosts[0];
    host.peer = Peer::new(start(1, 2, &host.store));
    host.peer.add_records(space, &[Record::Erase { doc, note: String::new() }]).unwrap();
    host.peer.handle(Now(world.now), Input::Tick);
    while let Some(output) = host.peer.poll_output() {
        if let Output::Store { ops, .. } = output {
            ops.into_iter().for_each(|op| host.store.apply(op));
        }
    }
    assert_eq!(world.erased_records(0, space), 0);
    world.hosts[0].peer = Peer::new(start(1, 3, &world.hosts[0].store));
    world.input(0, Input::Tick);
    assert_eq!(world.erased(0, space, doc), world.devices(&[0]));
    world.meet_all();
    assert_eq!(world.erased(1, space, doc), world.devices(&[0, 1]));
}

#[test]
fn who_asks_without_end_is_answered_so_often() {
    let (mut world, space, _) = World::granted(2);
    let more = COMPLETED_MAX + 40;
    let docs: Vec<DocId> = (0..more).map(|nonce| world.create(0, space, 100 + nonce as u32)).collect();
    let records =
        docs.iter().flat_map(|doc| [Record::Tombstone { doc: *doc }, Record::Erase { doc: *doc, note: String::new() }]);
    world.say(0, space, Local::Records(records.collect()));
    world.meet_all();
    assert_eq!(world.erased_records(1, space), 2 * COMPLETED_MAX);
    assert!(docs.iter().all(|doc| world.log(1, space, *doc).is_deleted()));
}
