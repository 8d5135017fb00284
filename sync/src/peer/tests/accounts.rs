//! What peers count of one another, and sign.

use super::*;
use crate::ledger::{Account, RECEIPT_BYTES, Receipt};
use crate::message::{Message, Received};

impl World {
    fn account(&self, host: usize, of: usize) -> Account {
        self.hosts[host].peer.account(&self.hosts[of].peer.device())
    }
}

#[test]
fn who_gets_something_signs_for_it_and_the_giver_keeps_that() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    world.join(1, space);
    world.connect(1, 0);
    world.settle();
    let blob = world.hosts[0].blobs.put(space, &blobs::content(1, 12));
    world.fetch(1, space, blob);
    world.fly(300);
    let (giver, receiver) = (world.account(0, 1), world.account(1, 0));
    assert_eq!(receiver.got, giver.given, "both count the same bytes");
    assert!(giver.given > blob.size && giver.given < blob.size + 20_000);
    let receipt = giver.receipt.expect("it was signed for");
    assert!(receipt.verifies() && receipt.bytes == receiver.signed);
    assert!(receipt.bytes <= giver.given && receipt.bytes + RECEIPT_BYTES + 1_000 > giver.given);
    let told = |e: &Event| matches!(e, Event::Account { account, .. } if account.receipt == Some(receipt));
    assert_eq!(world.events(0, told), 1, "the driver keeps it");
    world.assert_no_complaints();
}

#[test]
fn what_was_here_already_earns_nothing() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    let doc = world.create(0, space, 1);
    world.join(1, space);
    let conn = world.connect(1, 0);
    world.settle();
    world.edit(0, space, doc, "x", 1);
    world.settle();
    let before = (world.account(1, 0), world.account(0, 1));
    let sent: Vec<StoredSegment> = world.hosts[0].store.log.values().map(|(_, stored)| stored.clone()).collect();
    for stored in sent.iter().cycle().take(50) {
        world.hosts[0].peer.connections.get_mut(&conn).unwrap().links.get_mut(&space).unwrap().pushes =
            vec![stored.clone().into()];
        world.hosts[0].peer.pushed.insert((conn, space));
        world.input(0, Input::Tick);
        world.settle();
    }
    assert_eq!(world.account(1, 0), before.0, "it was sent again and again");
    assert!(world.account(0, 1).given > before.1.given);
}

#[test]
fn a_receipt_for_others_or_by_others_ends_the_connection_and_one_for_too_much_is_let_lie() {
    let from = |n: u8, giver, bytes| Receipt::sign(&key(n), giver, bytes);
    type Make = fn(&dyn Fn(u8, DeviceId, u64) -> Receipt, DeviceId, DeviceId) -> Receipt;
    let cases: [(Make, usize); 3] = [
        (|from, me, _| from(2, me, 1 << 40), 0),
        (|from, _, other| from(2, other, 1), 1),
        (|from, me, _| from(3, me, 1), 1),
    ];
    for (make, complaints) in cases {
        let mut world = World::new(2);
        let (space, _) = world.space(0, Writers::Anyone);
        world.create(0, space, 1);
        world.join(1, space);
        let conn = world.connect(1, 0);
        world.settle();
        let (me, other) = (world.hosts[0].peer.device(), DeviceId(key(9).verifying_key().to_bytes()));
        let receipt = make(&from, me, other);
        world.send_raw(1, conn, &Message::Received(Received { receipt }));
        world.settle();
        assert_eq!(world.events(1, |e| matches!(e, Event::Notice { code, .. } if code == "P.order")), complaints);
        assert_eq!(world.account(0, 1).receipt, None);
    }
}
