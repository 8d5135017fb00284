//! What this peer has nothing to do with: its operator has said so, in [`Input::Block`](super::Input::Block).
//!
//! This ends what is exchanged with others and changes nothing that is held. What a blocked device wrote still comes through others:
//! documents are the same on all peers that hold the same entries, whoever is connected with whom. To cut its entries off is what
//! revocations are for.

use std::collections::BTreeSet;

use super::{ConnId, Peer};
use crate::id::{DeviceId, DocId, SpaceId};
use crate::record::Subject;

/// The code with which connections to blocked peers end, and of notices about blocked documents.
pub(super) const BLOCKED: &str = "blocked";

/// What a peer has nothing to do with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blocked {
    /// No connection is kept with these devices, nor with those that act for one of these identities, as far as a space that is
    /// held here says so.
    pub peers: BTreeSet<Subject>,
    /// They are named to nobody.
    pub spaces: BTreeSet<SpaceId>,
    /// What is in them is neither sent nor taken. Their headers are, as all records of a space.
    pub docs: BTreeSet<DocId>,
}

impl Peer {
    pub(super) fn block(&mut self, blocked: Blocked) {
        let before = core::mem::replace(&mut self.unwanted, blocked);
        self.held_back.retain(|(_, space), _| !self.unwanted.spaces.contains(space));
        for conn in self.connections.ids() {
            let Some(connection) = self.connections.get(&conn) else { continue };
            let (peer, spaces) = (connection.peer, &self.unwanted.spaces);
            // Where it was named and not matched, the other side may still match it.
            let names = !spaces.is_empty() && connection.handles.iter().any(|space| spaces.contains(space));
            if peer.is_some_and(|peer| self.is_blocked(&peer)) {
                self.hang_up(conn);
            } else if names {
                self.close(conn, "filter", "has to do with other spaces from now on", false);
            }
        }
        for space in before.spaces.difference(&self.unwanted.spaces.clone()) {
            self.name_everywhere(*space);
        }
        let free: Vec<DocId> = before.docs.difference(&self.unwanted.docs).copied().collect();
        if !free.is_empty() {
            self.look_again(&free);
        }
    }

    /// Whether no connection is to be kept with a device.
    pub(super) fn is_blocked(&self, device: &DeviceId) -> bool {
        let peers = &self.unwanted.peers;
        let acts = || self.spaces.values().any(|space| space.authority().acts_for(device, peers));
        !peers.is_empty() && (peers.contains(&Subject::from(*device)) || acts())
    }

    /// Ends the connection to a blocked peer.
    pub(super) fn hang_up(&mut self, conn: ConnId) {
        self.close(conn, BLOCKED, "this peer's operator wants no connection with that peer", false);
    }

    /// Whether somebody whose connection shares a space turned out to act for a blocked identity.
    pub(super) fn look_for_blocked(&mut self, space: SpaceId) {
        if self.unwanted.peers.is_empty() {
            return;
        }
        for conn in self.connections.of_space(&space) {
            let peer = self.connections.get(&conn).and_then(|connection| connection.peer);
            if peer.is_some_and(|peer| self.is_blocked(&peer)) {
                self.hang_up(conn);
            }
        }
    }

    /// These documents are taken and served from now on. Whoever holds a whole space finds them by comparing. Parts are not compared: of
    /// one that is held here all is asked for again, and who takes one from here is told what there is.
    fn look_again(&mut self, free: &[DocId]) {
        let now = self.now;
        let parts: Vec<SpaceId> = self.spaces.values().filter(|s| s.filter.is_some()).map(|s| s.id()).collect();
        for space in parts {
            self.begin_anew(space, "takes other documents from now on");
        }
        for conn in self.connections.ids() {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            let mut offers = Vec::new();
            for (space, link) in &mut connection.links {
                match link.is_whole() {
                    true => link.repair.touch(now),
                    false => {
                        offers.extend(free.iter().filter(|doc| link.wants_doc(space, doc)).map(|doc| (*space, *doc)))
                    }
                }
            }
            offers.into_iter().for_each(|(space, doc)| self.offer(conn, space, [doc]));
        }
    }
}
