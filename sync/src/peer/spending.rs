//! What this peer may spend of the network, and what follows when it is spent: no connections, or nobody served.

use std::sync::Arc;

use super::connection::Connection;
use super::{ConnId, Now, Peer};
use crate::id::SpaceId;
use crate::log::StoredSegment;
use crate::message::roles;

/// Between two bursts to or from a peer that saves. A radio stays awake for some seconds after each, so a tenth of the time is slept
/// away at a burst each second, and most of it at one in fifteen. A guess at what people wait for.
pub(super) const BURST_MS: u64 = 15_000;

/// Bytes that wait for a burst at most. More leave at once.
const HELD_BYTES_MAX: usize = 256 << 10;

impl Connection {
    /// True if what is new waits for a burst, which is planned now if it was not.
    pub(super) fn burst(&mut self, now: Now) -> bool {
        if self.bursts {
            self.burst_at.get_or_insert(Now(now.0 + BURST_MS));
        }
        self.bursts
    }

    /// Puts a segment with those to be pushed. True if they wait for a burst.
    pub(super) fn hold(&mut self, space: SpaceId, stored: Arc<StoredSegment>, now: Now) -> bool {
        let bytes = stored.segment.wire_bytes_max();
        if let Some(link) = self.links.get_mut(&space) {
            link.pushes.push(stored);
        }
        if !self.burst(now) {
            return false;
        }
        self.held_bytes += bytes;
        if self.held_bytes > HELD_BYTES_MAX {
            // The timer finds all links with something held, not only this one.
            self.burst_at = Some(now);
        }
        true
    }
}

impl Peer {
    pub(super) fn roles_now(&self) -> u64 {
        self.roles | if self.spending.serves_nobody() { roles::LEAF } else { 0 }
    }

    /// Whether this peer sends others nothing but what it made itself.
    pub(super) fn is_leaf(&self) -> bool {
        self.roles_now() & roles::LEAF != 0
    }

    /// Bursts whose time it is: what waited for them leaves, and what was not told is compared.
    pub(super) fn run_bursts(&mut self, due: &[ConnId]) {
        let now = self.now;
        for conn in due {
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            if connection.burst_at.is_none_or(|at| at > now) {
                continue;
            }
            connection.burst_at = None;
            connection.held_bytes = 0;
            for (space, link) in &mut connection.links {
                if link.gap {
                    link.repair.quiet(now);
                }
                if !link.pushes.is_empty() {
                    self.pushed.insert((*conn, *space));
                }
            }
        }
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
            true => "nothing more may be sent for others now: this peer sends only what it made",
            false => "this peer serves others again",
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
