//! News of a space among its neighbours: what [`Overlay`] wants done, in terms of connections and segments.
//!
//! Who takes only a part of a space stands outside the overlay, and is pushed what it takes as long as it is connected.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::connection::{Ask, Link, RELEASED, Serve};
use super::receive::From;
use super::{ConnId, Now, Output, Peer};
use crate::id::{ChainId, DeviceId, SpaceId};
use crate::ledger::Conduct;
use crate::log::StoredSegment;
use crate::message::{Gossip as GossipMessage, Message};
use crate::overlay::{Effect, Item, Message as Said, Overlay, OverlayLimits};
use crate::peer_record::PeerRecord;
use crate::violation::Violation;

/// Payloads that whoever heard of them may ask for, bytes in all. At the rate that a peer takes from strangers (4 MiB/s) this is
/// four seconds, several times what a request takes to come; what is older is found by comparing.
const RECENT_BYTES_MAX: usize = 16 << 20;
/// Peers that are being dialled for overlays.
const DIALLING_MAX: usize = 16;
/// Time after which a dial that nobody told the end of is forgotten.
const DIALLING_MS: u64 = 60_000;

/// Time before a connection that no space has a use for is ended: another may have one by then, and whoever is refused learns of others
/// to dial meanwhile.
const RELEASE_MS: u64 = 5_000;

/// How a segment came to be held here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Came {
    /// This device made it, and it is durable.
    Made,
    /// A peer pushed it.
    Pushed(ConnId),
    /// A peer sent it as an answer. What it found missing here, others may lack as well: they are told of it, and ask.
    Found(ConnId),
}

/// What live news cost so far, in segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Pushed here and new.
    pub delivered: u64,
    /// Pushed here and held already.
    pub duplicates: u64,
    /// Pushed to others.
    pub pushed: u64,
}

/// The overlays of all spaces, and what they need to know of connections.
#[derive(Default)]
pub(super) struct Gossip {
    /// What overlays draw at random follows from it.
    seed: [u8; 32],
    overlays: BTreeMap<SpaceId, Overlay>,
    due: BTreeSet<(Now, SpaceId)>,
    due_of: BTreeMap<SpaceId, Now>,
    /// Connections on which a whole space is shared, by peer. The last of several carries news: who dials again has lost the others.
    conns: BTreeMap<(SpaceId, DeviceId), BTreeSet<ConnId>>,
    recent: Recent,
    pub(super) traffic: Traffic,
    dialling: BTreeMap<DeviceId, Now>,
    /// Connections that some space has released, and since when.
    released: BTreeMap<ConnId, Now>,
}

/// Segments that were pushed lately.
#[derive(Default)]
struct Recent {
    by_item: BTreeMap<(SpaceId, ChainId, u64), Arc<StoredSegment>>,
    order: VecDeque<(SpaceId, ChainId, u64)>,
    bytes: usize,
}

impl Recent {
    fn keep(&mut self, space: SpaceId, item: Item, stored: &Arc<StoredSegment>) {
        let key = (space, item.chain, item.n);
        if self.by_item.insert(key, stored.clone()).is_some() {
            return;
        }
        self.order.push_back(key);
        self.bytes += cost(stored);
        while self.bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(gone) = self.by_item.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(cost(&gone));
            }
        }
    }
}

fn cost(stored: &StoredSegment) -> usize {
    256 + stored.segment.body_bytes()
}

impl Gossip {
    pub(super) fn new(seed: &[u8; 32]) -> Gossip {
        Gossip { seed: blake3::derive_key("commonhold overlay 1 random choices", seed), ..Gossip::default() }
    }

    pub(super) fn set_own(&mut self, record: Option<&PeerRecord>) {
        self.overlays.values_mut().for_each(|overlay| overlay.set_own(record.cloned()));
    }

    pub(super) fn set_roles(&mut self, roles: u64) {
        self.overlays.values_mut().for_each(|overlay| overlay.set_roles(roles));
    }

    /// What is said of this space's overlay in `status`.
    pub(super) fn overlay(&self, space: &SpaceId) -> Option<&Overlay> {
        self.overlays.get(space)
    }

    pub(super) fn due(&self) -> Option<Now> {
        let released = self.released.values().map(|since| Now(since.0 + RELEASE_MS));
        self.due.first().map(|(at, _)| *at).into_iter().chain(released).min()
    }

    fn set_due(&mut self, space: SpaceId) {
        let at = self.overlays.get(&space).and_then(Overlay::due);
        let old = match at {
            Some(at) => self.due_of.insert(space, at),
            None => self.due_of.remove(&space),
        };
        if old != at {
            old.map(|old| self.due.remove(&(old, space)));
            at.map(|at| self.due.insert((at, space)));
        }
    }

    /// The connection over which news of a space go to a peer.
    fn conn(&self, space: SpaceId, peer: DeviceId) -> Option<ConnId> {
        self.conns.get(&(space, peer))?.last().copied()
    }
}

impl Peer {
    /// Lets the overlay of a space know of something, and does what it wants done. `at_hand` is the segment that it is about.
    fn with_overlay(
        &mut self,
        space: SpaceId,
        at_hand: Option<(&Arc<StoredSegment>, Option<DeviceId>)>,
        act: impl FnOnce(&mut Overlay, Now),
    ) {
        let (me, own_roles, now) = (self.device, self.roles_told, self.now);
        if !self.gossip.overlays.contains_key(&space) {
            let seed = blake3::keyed_hash(&self.gossip.seed, &space.0);
            let mut overlay = Overlay::new(me, own_roles, *seed.as_bytes(), &OverlayLimits::default());
            overlay.set_own(self.own_record.clone());
            self.gossip.overlays.insert(space, overlay);
        }
        let Some(overlay) = self.gossip.overlays.get_mut(&space) else { return };
        act(overlay, now);
        let effects: Vec<Effect> = core::iter::from_fn(|| overlay.poll()).collect();
        self.gossip.set_due(space);
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.send_gossip(space, to, message),
                Effect::Push { to, item } => {
                    let known =
                        at_hand.filter(|(stored, _)| stored.segment.tip.n == item.n).map(|(stored, _)| stored.clone());
                    let except = at_hand.and_then(|(_, except)| except);
                    let found = known.or_else(|| self.gossip.recent.by_item.get(&(space, item.chain, item.n)).cloned());
                    if except != Some(to) {
                        self.push_to(space, to, found);
                    }
                }
                Effect::Dial { record } => self.dial(record),
                Effect::Release { peer } => self.release(space, peer),
            }
        }
    }

    fn send_gossip(&mut self, space: SpaceId, to: DeviceId, said: Said) {
        let now = self.now;
        let Some(conn) = self.gossip.conn(space, to) else { return };
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if matches!(said, Said::IHave { .. }) && connection.burst(now) {
            // What it is not pushed it finds by comparing, after the burst.
            return;
        }
        let Some(link) = connection.links.get(&space) else { return };
        let message = Message::Gossip(GossipMessage { space: link.theirs, said });
        connection.send(&message);
    }

    /// Pushes a segment to a neighbour. One that lags, or asks for what is not at hand any more, finds it by comparing.
    fn push_to(&mut self, space: SpaceId, to: DeviceId, stored: Option<Arc<StoredSegment>>) {
        if stored.as_ref().is_some_and(|stored| self.unwanted.docs.contains(&stored.segment.doc)) {
            return;
        }
        let (now, high) = (self.now, self.limits.send_queue_bytes_max);
        let Some(conn) = self.gossip.conn(space, to) else { return };
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let room = connection.queued + connection.channel.queued_bytes() < high;
        let Some(link) = connection.links.get_mut(&space) else { return };
        let Some(stored) = stored else { return link.repair.touch(now) };
        if link.serve != Serve::Live {
            return;
        }
        if room {
            link.told = stored.seq;
            if !connection.hold(space, stored, now) {
                self.pushed.insert((conn, space));
            }
            self.gossip.traffic.pushed += 1;
        } else {
            link.lag(stored.seq);
        }
    }

    /// A segment that is new here goes to the neighbours, and to everybody who takes a part of the space.
    pub(super) fn push(&mut self, space: SpaceId, stored: &StoredSegment, came: Came) {
        let shared = Arc::new(stored.clone());
        let (except, from) = match came {
            Came::Made => (None, None),
            Came::Pushed(conn) | Came::Found(conn) => (Some(conn), self.connections.get(&conn).and_then(|c| c.peer)),
        };
        // Only what is new here: anything else would hold up others for nothing.
        if let Came::Found(conn) = came
            && let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space))
        {
            link.progress = Some(self.now);
        }
        self.took |= !matches!(came, Came::Made);
        self.push_to_parts(space, &shared, except);
        self.gossip.traffic.delivered += u64::from(matches!(came, Came::Pushed(_)));
        let chain = stored.segment.opening.chain(&space, &stored.segment.doc);
        let item = Item { chain, n: stored.segment.tip.n };
        self.gossip.recent.keep(space, item, &shared);
        self.with_overlay(space, Some((&shared, from)), |overlay, now| match (came, from) {
            (Came::Made, _) => overlay.publish(now, item),
            (Came::Pushed(_), Some(from)) => overlay.delivered(now, item, from, false),
            // Whose connection has ended is no neighbour any more.
            (Came::Pushed(_) | Came::Found(_), from) => overlay.found(now, item, from.as_ref()),
        });
        self.note_untold(space, stored.seq, except);
    }

    fn push_to_parts(&mut self, space: SpaceId, stored: &Arc<StoredSegment>, except: Option<ConnId>) {
        if self.unwanted.docs.contains(&stored.segment.doc) {
            return;
        }
        let (now, high) = (self.now, self.limits.send_queue_bytes_max);
        for conn in self.connections.of_space(&space) {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            let room = connection.queued + connection.channel.queued_bytes() < high;
            let Some(link) = connection.links.get_mut(&space).filter(|link| !link.is_whole()) else { continue };
            if Some(conn) == except || link.serve != Serve::Live || !link.wants_doc(&space, &stored.segment.doc) {
                continue;
            }
            // One that lags reads the entry from the store.
            if !room {
                link.lag(stored.seq);
            } else if !connection.hold(space, stored.clone(), now) {
                self.pushed.insert((conn, space));
            }
        }
    }

    /// Who was not sent a segment, and did not send it, is not told by a mark that it was.
    fn note_untold(&mut self, space: SpaceId, seq: u64, from: Option<ConnId>) {
        let now = self.now;
        for conn in self.connections.of_space(&space) {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            let Some(link) = connection.links.get_mut(&space) else { continue };
            if Some(conn) != from && link.serve == Serve::Live && link.is_whole() && link.told != seq {
                link.gap = true;
                // Of who saves, it is compared after the burst.
                if !connection.burst(now)
                    && let Some(link) = connection.links.get_mut(&space)
                {
                    link.repair.touch(now);
                }
            }
        }
    }

    /// A segment came that is held already.
    pub(super) fn note_duplicate(&mut self, space: SpaceId, item: Item, from: From) {
        if !from.asked {
            self.gossip.traffic.duplicates += 1;
            self.ledger.note(from.peer, Conduct::Useless, self.now);
            self.with_overlay(space, None, |overlay, now| overlay.delivered(now, item, from.peer, true));
        }
    }

    /// A segment came that is not taken, or not yet.
    pub(super) fn note_received(&mut self, space: SpaceId, item: Item, from: From, done: bool) {
        self.with_overlay(space, None, |overlay, now| overlay.received(now, item, &from.peer, done));
    }

    pub(super) fn on_gossip(&mut self, conn: ConnId, mut message: GossipMessage) -> Result<(), Violation> {
        let Some(connection) = self.connections.get(&conn) else { return Ok(()) };
        let space = connection.space_of(message.space)?;
        let Some(peer) = connection.peer else { return Ok(()) };
        if connection.links.get(&space).is_none_or(|link| !link.is_whole()) {
            return Err(Violation::OutOfPlace("gossip of a space that is not shared as a whole"));
        }
        let verify = |record: &PeerRecord| record.verify().is_ok();
        let now = self.now;
        let overlay = self.gossip.overlays.get_mut(&space);
        let screened = overlay.is_none_or(|overlay| overlay.screen(now, &peer, &mut message.said, verify));
        if !screened {
            return Ok(());
        }
        let mut result = Ok(());
        self.with_overlay(space, None, |overlay, now| result = overlay.receive(now, peer, message.said));
        result.map_err(|_| Violation::OutOfPlace("an announcement that names a chain twice, or no entry"))
    }

    /// A whole space is shared on a connection.
    pub(super) fn gossip_up(&mut self, conn: ConnId, space: SpaceId) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let Some(peer) = connection.peer else { return };
        if connection.links.get(&space).is_none_or(|link| !link.is_whole()) {
            return;
        }
        self.note_identity(space, peer);
        let conns = self.gossip.conns.entry((space, peer)).or_default();
        conns.insert(conn);
        if conns.len() == 1 {
            self.overlay_up(conn, space, peer);
        }
    }

    fn overlay_up(&mut self, conn: ConnId, space: SpaceId, peer: DeviceId) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let (record, theirs, dialled) = (connection.record.clone(), connection.roles, connection.dialled);
        let rtt = connection.rtt_ms;
        let favour = self.ledger.favour(&peer, self.now);
        self.with_overlay(space, None, |overlay, now| {
            overlay.link_up(now, peer, record, theirs, dialled);
            overlay.favour(&peer, favour);
            if let Some(rtt) = rtt {
                overlay.rtt(now, &peer, rtt);
            }
        });
    }

    /// It is not any more: the connection has ended.
    pub(super) fn gossip_down(&mut self, conn: ConnId, peer: DeviceId, spaces: impl Iterator<Item = SpaceId>) {
        for space in spaces {
            self.gossip.released.remove(&conn);
            let Some(conns) = self.gossip.conns.get_mut(&(space, peer)) else { continue };
            let carried = conns.last() == Some(&conn);
            conns.remove(&conn);
            let other = conns.last().copied();
            if other.is_none() {
                self.gossip.conns.remove(&(space, peer));
            }
            if !carried {
                continue;
            }
            // What was said on it last may not have been heard: on another, the two begin anew.
            self.with_overlay(space, None, |overlay, now| overlay.link_down(now, &peer));
            if let Some(other) = other {
                self.overlay_up(other, space, peer);
            }
        }
    }

    /// Somebody told of a peer: an invite, a tracker, the network around, the address book. `space` is what it is said to share.
    pub(super) fn met(&mut self, space: SpaceId, record: PeerRecord) {
        // Who takes a part of a space has no neighbours in it.
        let whole = self.spaces.get(&space).is_some_and(|space| space.filter.is_none());
        if !whole || record.device == self.device {
            return;
        }
        let wanted = self.gossip.overlays.get(&space).is_none_or(|o| o.wants(&record.device, record.made_ms));
        if wanted && record.verify().is_ok() {
            self.with_overlay(space, None, |overlay, now| overlay.met(now, record));
        }
    }

    fn dial(&mut self, record: PeerRecord) {
        let now = self.now;
        self.gossip.dialling.retain(|_, since| now.0 < since.0 + DIALLING_MS);
        let device = record.device;
        let connected = self.gossip.conns.keys().any(|(_, peer)| *peer == device);
        if connected || self.gossip.dialling.contains_key(&device) {
            return;
        }
        if self.gossip.dialling.len() >= DIALLING_MAX {
            return self.dial_failed(device);
        }
        self.gossip.dialling.insert(device, now);
        self.outputs.push_back(Output::Dial { device, addresses: record.addresses });
    }

    pub(super) fn dial_failed(&mut self, device: DeviceId) {
        self.gossip.dialling.remove(&device);
        for space in self.gossip.overlays.keys().copied().collect::<Vec<_>>() {
            self.with_overlay(space, None, |overlay, now| overlay.dial_failed(now, &device));
        }
    }

    /// The connection to a dialled peer is there: it may be dialled again, should it end.
    pub(super) fn dialled(&mut self, device: DeviceId) {
        self.gossip.dialling.remove(&device);
    }

    /// A space has no use for the connection to a peer. It ends when no other has, and nothing is under way.
    fn release(&mut self, space: SpaceId, peer: DeviceId) {
        if let Some(conn) = self.gossip.conn(space, peer)
            && let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&space))
        {
            link.released = Some(self.now);
            self.gossip.released.insert(conn, self.now);
        }
    }

    /// Ends connections that no space has a use for, once nothing is under way on them.
    fn run_released(&mut self) {
        let now = self.now;
        let due = self.gossip.released.iter().filter(|(_, since)| since.0 + RELEASE_MS <= now.0);
        for conn in due.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            let Some((connection, peer)) = self.connections.get(&conn).and_then(|c| Some((c, c.peer?))) else {
                self.gossip.released.remove(&conn);
                continue;
            };
            let used = |space: &SpaceId, link: &Link| {
                let wanted = |overlay: &Overlay| overlay.is_neighbour(&peer) || link.released.is_none();
                !link.is_whole() || self.gossip.overlays.get(space).is_some_and(wanted)
            };
            if connection.links.iter().any(|(space, link)| used(space, link)) {
                self.gossip.released.remove(&conn);
                continue;
            }
            let quiet = |link: &Link| link.ask == Ask::Level && link.serve == Serve::Live && link.wants.is_empty();
            if connection.links.values().all(|link| quiet(link)) {
                self.close(conn, RELEASED, "this peer has neighbours enough in the spaces that both share", false);
            } else {
                self.gossip.released.insert(conn, now);
            }
        }
    }

    pub(super) fn run_gossip(&mut self) {
        self.run_released();
        // Twice: what one tick brings about may be due at once. What is due after that waits for the next.
        for _ in 0..2 {
            let due = self.gossip.due.range(..=(self.now, SpaceId([255; 32])));
            for space in due.map(|(_, space)| *space).collect::<Vec<_>>() {
                self.with_overlay(space, None, Overlay::tick);
            }
        }
    }
}
