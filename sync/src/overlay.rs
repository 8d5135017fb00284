//! The overlay of one space: with whom its news is exchanged, and along which links a payload is pushed or only announced.
//!
//! Membership follows HyParView (a small symmetric set of neighbours, a larger set of records to fall back on), broadcast follows
//! Plumtree (push along a tree, announce on the other links, ask for what does not come). Both are changed where a peer may be a leaf,
//! cannot be dialled, does not forward, or lies: every table has a bound in [`OverlayLimits`], and any request can be refused.
//!
//! Contract: call one method, then [`Overlay::poll`] until `None`; call [`Overlay::tick`] when [`Overlay::due`] has come. The overlay
//! never sees a payload, never checks a signature and never opens a connection: it says what should be done ([`Effect`]).

mod limits;
mod message;

use std::collections::{BTreeMap, VecDeque};

pub use self::limits::OverlayLimits;
pub use self::message::{ITEMS_MAX, Item, Message, RECORDS_MAX, TTL_MAX};
use crate::id::DeviceId;
use crate::message::roles;
use crate::peer::Now;
use crate::peer_record::PeerRecord;

/// What the overlay wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send a message over the link to a peer.
    Send {
        /// To whom. There was a link when this was said.
        to: DeviceId,
        /// What.
        message: Message,
    },
    /// Send the payload that ends with this item. It is said in `delivered`, `publish`, and when somebody asks.
    Push {
        /// To whom.
        to: DeviceId,
        /// Which.
        item: Item,
    },
    /// Connect to a peer, for [`Overlay::link_up`] or [`Overlay::dial_failed`] to follow.
    Dial {
        /// Whom and where; it has an address.
        record: PeerRecord,
    },
    /// This space has no use for the link to a peer. Other spaces may.
    Release {
        /// Which.
        peer: DeviceId,
    },
}

/// What an honest peer does not do. The caller closes the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OverlayViolation {
    /// A list names one chain twice.
    #[error("an announcement names a chain twice")]
    ChainTwice,
    /// Items are counted from 1.
    #[error("an announcement of no entry")]
    NoEntry,
}

/// A peer to which there is a connection on which both named the space.
#[derive(Debug)]
struct Link {
    roles: u64,
    record: Option<PeerRecord>,
    dialled: bool,
    rtt_ms: Option<u32>,
}

/// The overlay of one space, at one peer.
#[derive(Debug)]
pub struct Overlay {
    me: DeviceId,
    roles: u64,
    own: Option<PeerRecord>,
    limits: OverlayLimits,
    links: BTreeMap<DeviceId, Link>,
    effects: VecDeque<Effect>,
}

impl Overlay {
    /// An overlay without links. `roles` are bits of [`crate::message::roles`]; what is drawn at random follows from `seed`.
    pub fn new(me: DeviceId, roles: u64, seed: [u8; 32], limits: &OverlayLimits) -> Overlay {
        let _ = seed;
        Overlay { me, roles, own: None, limits: limits.clone(), links: BTreeMap::new(), effects: VecDeque::new() }
    }

    /// This peer's own record, for others to pass on. Without one, or without an address in it, this peer cannot be dialled.
    pub fn set_own(&mut self, record: Option<PeerRecord>) {
        self.own = record;
    }

    /// There is a connection to a peer, on which both named the space. `record` is what it says of itself, verified. The overlay may
    /// refuse it ([`Effect::Release`]).
    pub fn link_up(&mut self, now: Now, peer: DeviceId, record: Option<PeerRecord>, roles: u64, dialled: bool) {
        let _ = now;
        if peer == self.me || (self.links.len() >= self.limits.links && !self.links.contains_key(&peer)) {
            self.effects.push_back(Effect::Release { peer });
            return;
        }
        self.links.insert(peer, Link { roles, record, dialled, rtt_ms: None });
    }

    /// There is no connection to a peer any more, or none on which both name the space.
    pub fn link_down(&mut self, now: Now, peer: &DeviceId) {
        let _ = now;
        self.links.remove(peer);
    }

    /// Whether a record of this device, made then, would change anything here. Only what is wanted need be verified.
    pub fn wants(&self, device: &DeviceId, made_ms: u64) -> bool {
        let held = self.links.get(device).and_then(|link| link.record.as_ref());
        *device != self.me && held.is_none_or(|held| held.made_ms < made_ms)
    }

    /// Takes out of a message the records that are not wanted, or that `verify` refuses. To be called before [`Overlay::receive`].
    /// False if nothing is left of the message.
    pub fn screen(&self, message: &mut Message, mut verify: impl FnMut(&PeerRecord) -> bool) -> bool {
        match message {
            Message::ForwardJoin { record, .. } => record.device != self.me && verify(record),
            Message::Answer { others: records, .. }
            | Message::Shuffle { records, .. }
            | Message::ShuffleReply { records } => {
                records.retain(|record| self.wants(&record.device, record.made_ms) && verify(record));
                true
            }
            _ => true,
        }
    }

    /// A record, verified, from an invite, a tracker or the address book.
    pub fn met(&mut self, now: Now, record: PeerRecord) {
        let _ = (now, record);
    }

    /// What [`Effect::Dial`] asked for did not work.
    pub fn dial_failed(&mut self, now: Now, peer: &DeviceId) {
        let _ = (now, peer);
    }

    /// A round trip over the link to a peer was measured.
    pub fn rtt(&mut self, now: Now, peer: &DeviceId, ms: u32) {
        let _ = now;
        if let Some(link) = self.links.get_mut(peer) {
            link.rtt_ms = Some(ms);
        }
    }

    /// A message came from a peer to which there is a link, screened ([`Overlay::screen`]).
    pub fn receive(&mut self, now: Now, from: DeviceId, message: Message) -> Result<(), OverlayViolation> {
        let _ = (now, from, message);
        Ok(())
    }

    /// Something was made here and is durable.
    pub fn publish(&mut self, now: Now, item: Item) {
        self.delivered(now, item, None, false);
    }

    /// A payload came: new and verified, or a duplicate. `from` is who pushed it, or nobody if it was found by comparing.
    pub fn delivered(&mut self, now: Now, item: Item, from: Option<DeviceId>, duplicate: bool) {
        let _ = now;
        if duplicate || self.roles & roles::LEAF != 0 && from.is_some() {
            return;
        }
        let to = self.links.keys().filter(|peer| Some(**peer) != from);
        self.effects.extend(to.map(|peer| Effect::Push { to: *peer, item }));
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        let _ = now;
    }

    /// When [`Overlay::tick`] should be called, at the latest.
    pub fn due(&self) -> Option<Now> {
        None
    }

    /// The next thing to be done.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether a peer is a neighbour: news go to it and come from it.
    pub fn is_neighbour(&self, peer: &DeviceId) -> bool {
        self.links.contains_key(peer)
    }

    /// The neighbours, and of a leaf the peers it is attached to.
    pub fn neighbours(&self) -> impl Iterator<Item = &DeviceId> {
        self.links.keys()
    }

    /// Neighbours and leaves to whom payloads are pushed at once.
    pub fn eager(&self) -> impl Iterator<Item = &DeviceId> {
        self.links.keys()
    }

    /// Leaves that are attached here.
    pub fn leaves(&self) -> impl Iterator<Item = &DeviceId> {
        self.links.iter().filter(|(_, link)| link.roles & roles::LEAF != 0).map(|(peer, _)| peer)
    }
}
