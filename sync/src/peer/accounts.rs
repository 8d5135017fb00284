//! What was exchanged with whom: counted here, kept by the driver.

use super::{ConnId, Event, Peer};
use crate::id::{DeviceId, SpaceId};
use crate::ledger::{Account, Conduct, Receipt};
use crate::message::{Message, Received};
use crate::violation::Violation;

impl Peer {
    /// What was exchanged with a peer.
    pub fn account(&self, device: &DeviceId) -> Account {
        self.ledger.account(device)
    }

    /// All accounts.
    pub fn accounts(&self) -> impl Iterator<Item = (DeviceId, Account)> + '_ {
        self.ledger.all()
    }

    /// Content came that was new here. Its sender gets a receipt now and then.
    pub(super) fn note_content(&mut self, conn: ConnId, bytes: usize) {
        let Some(peer) = self.connections.get(&conn).and_then(|c| c.peer) else { return };
        self.ledger.note(peer, Conduct::Useful, self.now);
        let Some(all) = self.ledger.got(peer, bytes) else { return };
        let receipt = Receipt::sign(&self.key, peer, all);
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.send(&Message::Received(Received { receipt }));
        }
        self.tell_account(peer);
    }

    pub(super) fn on_received(&mut self, conn: ConnId, receipt: Receipt) -> Result<(), Violation> {
        let Some(peer) = self.connections.get(&conn).and_then(|c| c.peer) else { return Ok(()) };
        match self.ledger.signed(self.device, peer, receipt) {
            None => Err(Violation::OutOfPlace("a receipt that its sender did not sign for this peer")),
            Some(new) => {
                if new {
                    self.tell_account(peer);
                }
                Ok(())
            }
        }
    }

    /// A peer had offered something, and does not give it.
    pub(super) fn note_failed(&mut self, conn: ConnId) {
        if let Some(peer) = self.connections.get(&conn).and_then(|c| c.peer) {
            self.ledger.note(peer, Conduct::Failed, self.now);
        }
    }

    /// A peer shares a space in which its device may act for an identity.
    pub(super) fn note_identity(&mut self, space: SpaceId, device: DeviceId) {
        let identity = self.spaces.get(&space).and_then(|held| held.authority().identity_of(&device));
        identity.into_iter().for_each(|identity| self.ledger.join(device, identity));
    }

    /// The driver keeps the account, from here on as it is now.
    pub(super) fn tell_account(&mut self, device: DeviceId) {
        let account = self.ledger.account(&device);
        if account != Account::default() {
            self.emit(Event::Account { device, account });
        }
    }
}
