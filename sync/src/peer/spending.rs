//! What this peer may spend of the network, and what follows when it is spent: no connections, or nobody served.

use super::Peer;
use crate::message::roles;

impl Peer {
    pub(super) fn roles_now(&self) -> u64 {
        self.roles | if self.spending.serves_nobody() { roles::LEAF } else { 0 }
    }

    /// Whether this peer sends others nothing but what it made itself.
    pub(super) fn is_leaf(&self) -> bool {
        self.roles_now() & roles::LEAF != 0
    }

    /// Others are told in the hello what this peer does. When that changes, connections begin anew: a neighbour that turned leaf
    /// in silence would be shunned as one that forwards nothing.
    pub(super) fn run_roles(&mut self) {
        let roles = self.roles_now();
        if roles == self.roles_told {
            return;
        }
        self.roles_told = roles;
        for conn in self.connections.ids() {
            self.close(conn, "roles", "this peer serves others from here on, or ceases to: connect again", false);
        }
        self.gossip.set_roles(roles);
        let text = match self.spending.serves_nobody() {
            true => "what may be sent for others is spent: this peer sends only what it made until it is allowed more",
            false => "this peer serves others",
        };
        self.notice(None, None, None, "budget.others", text);
    }

    /// When everything is spent, all connections end, those that are new as well.
    pub(super) fn run_spending(&mut self) {
        if !self.spending.is_over() {
            return;
        }
        for conn in self.connections.ids() {
            self.close(conn, "budget.all", "what the network may cost this peer is spent", false);
        }
    }
}
