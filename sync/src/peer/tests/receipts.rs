//! Who holds what on disk, signed.

use super::*;
use crate::message::{Held as Gives, Message, ReceiptWant};
use crate::storage_receipt::StorageReceipt;

impl World {
    fn heads(&self, host: usize, doc: DocId) -> Vec<EntryId> {
        self.view(host, doc).get_heads().iter().map(|hash| EntryId(hash.0)).collect()
    }

    fn ask_receipts(&mut self, host: usize, space: SpaceId, doc: DocId, entries: Vec<EntryId>) {
        self.input(host, Input::AskReceipts { space, doc, entries });
    }

    /// Who has signed for a version, as a host heard.
    fn holders(&self, host: usize, entries: &[EntryId]) -> Vec<DeviceId> {
        let receipts = self.hosts[host].events.iter().filter_map(|event| match event {
            Event::Held { receipt } if receipt.entries == entries => Some(receipt),
            _ => None,
        });
        receipts.inspect(|receipt| assert!(receipt.verifies())).map(|receipt| receipt.holder).collect()
    }

    fn device(&self, host: usize) -> DeviceId {
        self.hosts[host].peer.device()
    }
}

/// Two peers that hold the same of a document, and the connection of the second to the first.
fn level() -> (World, SpaceId, DocId, ConnId) {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    let doc = world.create(0, space, 1);
    world.join(1, space);
    let conn = world.connect(1, 0);
    world.settle();
    world.edit(0, space, doc, "a", 1);
    world.settle();
    (world, space, doc, conn)
}

#[test]
fn those_that_hold_a_version_sign_for_it_and_those_that_do_not_sign_once_they_do() {
    let mut world = World::new(3);
    let (space, _) = world.space(0, Writers::Anyone);
    let doc = world.create(0, space, 1);
    world.join(1, space);
    world.join(2, space);
    let first = world.connect(1, 0);
    world.settle();
    world.edit(0, space, doc, "a", 1);
    world.settle();
    let heads = world.heads(0, doc);
    world.ask_receipts(0, space, doc, heads.clone());
    world.settle();
    assert_eq!(world.holders(0, &heads), [world.device(0), world.device(1)]);
    // Asked before it holds anything, as soon as it is connected.
    world.cut(0, 1, first);
    world.connect(2, 0);
    world.ask_receipts(0, space, doc, heads.clone());
    world.settle();
    world.ask_receipts(0, space, doc, heads.clone());
    world.settle();
    assert!(world.holders(0, &heads).contains(&world.device(2)));
    // What is edited where nobody else has it yet.
    world.edit(2, space, doc, "b", 2);
    let later = world.heads(2, doc);
    world.ask_receipts(0, space, doc, later.clone());
    world.settle();
    assert_eq!(world.holders(0, &later).len(), 2);
    world.assert_no_complaints();
}

#[test]
fn nothing_is_signed_before_it_is_on_disk() {
    let (mut world, space, doc, _) = level();
    let heads = world.heads(0, doc);
    let peer = &mut world.hosts[1].peer;
    // As if it had come just now, and the disk had not answered.
    let op = peer.op();
    peer.stores.insert(op, Vec::new());
    peer.handle(Now(0), Input::AskReceipts { space, doc, entries: heads.clone() });
    let said = |outputs: &[Output]| outputs.iter().any(|output| matches!(output, Output::Emit(Event::Held { .. })));
    let drain = |peer: &mut Peer| core::iter::from_fn(|| peer.poll_output()).collect::<Vec<_>>();
    assert!(!said(&drain(peer)));
    peer.handle(Now(0), Input::Stored { op });
    assert!(said(&drain(peer)));
}

#[test]
fn what_is_not_held_and_what_was_not_asked_for_comes_to_nothing_and_a_false_receipt_ends_the_connection() {
    let (mut world, space, doc, conn) = level();
    // Twice as many as are remembered, of documents that there are not, too.
    for n in 0..128_u8 {
        world.ask_receipts(0, space, if n % 2 == 0 { doc } else { DocId([n; 32]) }, vec![EntryId([n; 32])]);
        world.settle();
    }
    assert_eq!(world.events(0, |e| matches!(e, Event::Held { .. })), 0);
    for peer in [&world.hosts[0].peer, &world.hosts[1].peer] {
        assert!(peer.receipts.sizes() <= (2, 65), "{:?}", peer.receipts.sizes());
    }
    let unasked = StorageReceipt::sign(&key(2), space, doc, vec![EntryId([200; 32])]);
    world.send_raw(1, conn, &Message::Held(Gives { receipt: unasked }));
    world.settle();
    world.assert_no_complaints();
    let by_another = StorageReceipt::sign(&key(9), space, doc, vec![EntryId([126; 32])]);
    world.send_raw(1, conn, &Message::Held(Gives { receipt: by_another }));
    world.settle();
    assert_eq!(world.events(1, |e| matches!(e, Event::Notice { code, .. } if code == "P.order")), 1);
    assert_eq!(world.events(0, |e| matches!(e, Event::Held { .. })), 0);
    assert_eq!(world.hosts[1].peer.receipts.sizes(), (0, 0), "nothing is owed to who is gone");
}

#[test]
fn a_want_that_no_receipt_can_answer_is_out_of_order() {
    for entries in [vec![], vec![EntryId([2; 32]), EntryId([1; 32])]] {
        let (mut world, space, doc, conn) = level();
        let handle = world.hosts[1].peer.connections.get(&conn).unwrap().links[&space].theirs;
        world.send_raw(1, conn, &Message::ReceiptWant(ReceiptWant { space: handle, doc, entries }));
        world.settle();
        assert_eq!(world.events(1, |e| matches!(e, Event::Notice { code, .. } if code == "P.order")), 1);
    }
}
