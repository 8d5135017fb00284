//! Reading what is inside snapshots: at once, and again as often as costs little.

use super::*;

/// Needs what is inside a document's snapshot from `now` on, which takes `took` to read. Says when it is read.
fn read(peer: &mut Peer, space: SpaceId, doc: DocId, own: bool, mut now: u64, took: u64) -> u64 {
    peer.handle(Now(now), Input::Tick);
    peer.deepen(space, doc, own);
    loop {
        peer.handle(Now(now), Input::Tick);
        let outputs: Vec<Output> = core::iter::from_fn(|| peer.poll_output()).collect();
        let load = outputs.iter().find_map(|output| match output {
            Output::Load { op, load: Load::Deep { doc: of, .. } } if *of == doc => Some(*op),
            _ => None,
        });
        if let Some(op) = load {
            peer.handle(Now(now + took), Input::Loaded { op, loaded: Loaded::Deep(Vec::new()) });
            return now;
        }
        now = peer.poll_timeout().expect("it is to be read").0.max(now + 1);
    }
}

#[test]
fn what_is_inside_a_snapshot_is_read_again_by_what_that_costs() {
    let mut world = World::new(1);
    let (space, _) = world.space(0, Writers::Anyone);
    let docs = [1, 2, 3].map(|n| world.create(0, space, n));
    let peer = &mut world.hosts[0].peer;
    // Each at once, and the first that is read again as well.
    assert_eq!(docs.map(|doc| read(peer, space, doc, false, 100, 5)), [100; 3]);
    assert_eq!(read(peer, space, docs[0], false, 105, 5), 105);
    // Whichever is next: ten times six milliseconds later.
    assert_eq!(read(peer, space, docs[1], false, 110, 3_000), 170);
    // Ten seconds after it was read it is as if it had not been, whatever others cost.
    assert_eq!(read(peer, space, docs[1], false, 3_170, 5), 10_170);
    assert_eq!(read(peer, space, docs[2], false, 10_175, 5), 10_175);
    assert_eq!(read(peer, space, docs[2], false, 10_180, 900), 10_175 + 60);
    // For this device's own sake at once.
    assert_eq!(read(peer, space, docs[2], true, 11_135, 5), 11_135);
    assert_eq!(read(peer, space, docs[2], false, 11_140, 5), 11_135 + 9_010);
}
