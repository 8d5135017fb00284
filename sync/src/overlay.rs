//! The overlay of one space: with whom its news is exchanged, and along which links a payload is pushed or only announced.
//!
//! Membership follows HyParView (a small symmetric set of neighbours, a larger set of records to fall back on), broadcast follows
//! Plumtree (push along a tree, announce on the other links, ask for what does not come). Both are changed where a peer may be a leaf,
//! cannot be dialled, does not forward, or lies: every table has a bound in [`OverlayLimits`], and any request can be refused.
//!
//! Contract: call one method, then [`Overlay::poll`] until `None`; call [`Overlay::tick`] when [`Overlay::due`] has come. The overlay
//! never sees a payload, never checks a signature and never opens a connection: it says what should be done ([`Effect`]).

/// What the tree needs for one call, from the fields of an overlay.
macro_rules! cx {
    ($overlay:expr, $now:expr) => {
        $crate::overlay::tree::Context {
            now: $now,
            limits: &$overlay.limits,
            rng: &mut $overlay.rng,
            effects: &mut $overlay.effects,
        }
    };
}

mod branch;
mod bucket;
mod limits;
mod link;
mod membership;
mod message;
mod passive;
mod seen;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use self::bucket::Bucket;
pub use self::limits::OverlayLimits;
use self::link::{Link, Place};
pub use self::message::{ITEMS_MAX, Item, Message, RECORDS_MAX, TTL_MAX};
use self::passive::Passive;
use self::tree::Tree;
use crate::id::DeviceId;
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
    /// Items are counted from 1.
    #[error("an announcement of no entry")]
    NoEntry,
}

/// A dial that was asked for and has not ended.
#[derive(Debug, Clone, Copy)]
struct Dial {
    until: Now,
    /// To see whether it is nearer than a neighbour.
    near: bool,
}

/// The overlay of one space, at one peer.
#[derive(Debug)]
pub struct Overlay {
    me: DeviceId,
    roles: u64,
    own: Option<PeerRecord>,
    limits: OverlayLimits,
    rng: ChaCha8Rng,
    links: BTreeMap<DeviceId, Link>,
    dials: BTreeMap<DeviceId, Dial>,
    passive: Passive,
    shunned: BTreeMap<DeviceId, Now>,
    tree: Tree,
    evictions: Bucket,
    /// Some peer was asked to introduce this one.
    joined: bool,
    shuffle_at: Option<Now>,
    shuffle_every: u64,
    improve_at: Option<Now>,
    improve_every: u64,
    effects: VecDeque<Effect>,
}

/// Sizes of the tables of an overlay, for status and for tests of their bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OverlaySizes {
    /// Links, neighbours or not.
    pub links: usize,
    /// Records of peers to fall back on.
    pub passive: usize,
    /// Peers that are not asked again for a while.
    pub shunned: usize,
    /// Chains remembered as held.
    pub seen: usize,
    /// Chains of which more was announced than has come.
    pub missing: usize,
}

impl Overlay {
    /// An overlay without links. `roles` are bits of [`crate::message::roles`]; what is drawn at random follows from `seed`.
    pub fn new(me: DeviceId, roles: u64, seed: [u8; 32], limits: &OverlayLimits) -> Overlay {
        Overlay {
            me,
            roles,
            own: None,
            limits: limits.clone(),
            rng: ChaCha8Rng::from_seed(seed),
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            passive: Passive::default(),
            shunned: BTreeMap::new(),
            tree: Tree::new(roles),
            evictions: Bucket::new(Now(0), limits.evictions_burst, 1),
            joined: false,
            shuffle_at: None,
            shuffle_every: limits.shuffle_ms,
            improve_at: None,
            improve_every: limits.improve_ms,
            effects: VecDeque::new(),
        }
    }

    /// This peer's own record, for others to pass on. Without one, or without an address in it, this peer cannot be dialled.
    pub fn set_own(&mut self, record: Option<PeerRecord>) {
        self.own = record;
    }

    /// This peer does something else from here on; it has no links now.
    pub fn set_roles(&mut self, roles: u64) {
        debug_assert!(self.links.is_empty(), "links began under other roles");
        self.roles = roles;
        self.tree = Tree::new(roles);
        self.joined = false;
    }

    /// There is a connection to a peer, on which both named the space. `record` is what it says of itself, verified. The overlay may
    /// refuse it ([`Effect::Release`]). `dialled` is true if this side dialled, for whatever reason.
    pub fn link_up(&mut self, now: Now, peer: DeviceId, record: Option<PeerRecord>, roles: u64, dialled: bool) {
        self.linked(now, peer, record, roles, dialled);
    }

    /// How much a linked peer is to be preferred, if one must give way: whether its conduct is bearable, then what it gave beyond
    /// what it got.
    pub fn favour(&mut self, peer: &DeviceId, favour: (bool, i64)) {
        if let Some(link) = self.links.get_mut(peer) {
            link.favour = favour;
        }
    }

    /// There is no connection to a peer any more, or none on which both name the space.
    pub fn link_down(&mut self, now: Now, peer: &DeviceId) {
        self.unlinked(now, peer);
    }

    /// Whether a record of this device, made then, would change anything here. Only what is wanted need be verified.
    pub fn wants(&self, device: &DeviceId, made_ms: u64) -> bool {
        let linked = self.links.get(device).map(|link| link.record.as_ref());
        let held = linked.unwrap_or_else(|| self.passive.get(device).map(|held| &held.record));
        *device != self.me && !self.shunned.contains_key(device) && held.is_none_or(|held| held.made_ms < made_ms)
    }

    /// Takes out of a message the records that are not wanted, or that `verify` refuses. To be called before [`Overlay::receive`]. False
    /// if nothing is left of the message, or it is one too many: then no signature was looked at.
    pub fn screen(
        &self,
        now: Now,
        from: &DeviceId,
        message: &mut Message,
        mut verify: impl FnMut(&PeerRecord) -> bool,
    ) -> bool {
        if message.records().is_empty() {
            return true;
        }
        let near = |link: &&Link| match message {
            Message::Answer { .. } => matches!(link.place, Place::Asked { .. }),
            _ => matches!(link.place, Place::Neighbour { .. } | Place::Leaf),
        };
        if !self.links.get(from).filter(near).is_some_and(|link| link.requests.has(now)) {
            // An answer counts for what it says besides.
            return match message {
                Message::Answer { others, .. } => {
                    others.clear();
                    true
                }
                _ => false,
            };
        }
        match message {
            // Passed on, so it is verified even if it is known here.
            Message::ForwardJoin { record, .. } => record.device != self.me && verify(record),
            Message::Answer { others: records, .. }
            | Message::Shuffle { records }
            | Message::ShuffleReply { records } => {
                records.retain(|record| self.wants(&record.device, record.made_ms) && verify(record));
                true
            }
            _ => true,
        }
    }

    /// A record, verified, from an invite, a tracker or the address book.
    pub fn met(&mut self, now: Now, record: PeerRecord) {
        self.learn(now, record, None);
        self.maintain(now);
    }

    /// What [`Effect::Dial`] asked for did not work.
    pub fn dial_failed(&mut self, now: Now, peer: &DeviceId) {
        self.dial_has_failed(now, peer);
    }

    /// A round trip over the link to a peer was measured. A link that this overlay dialled to find a nearer neighbour waits for it.
    pub fn rtt(&mut self, now: Now, peer: &DeviceId, ms: u32) {
        self.measured(now, peer, ms);
    }

    /// A message came from a peer to which there is a link, screened ([`Overlay::screen`]).
    pub fn receive(&mut self, now: Now, from: DeviceId, message: Message) -> Result<(), OverlayViolation> {
        let items = match &message {
            Message::IHave { items } | Message::Graft { items, .. } => items.as_slice(),
            _ => &[],
        };
        if items.iter().any(|item| item.n == 0) {
            return Err(OverlayViolation::NoEntry);
        }
        let Some(link) = self.links.get_mut(&from) else { return Ok(()) };
        let near = matches!(link.place, Place::Neighbour { .. } | Place::Leaf);
        match message {
            Message::IHave { .. } | Message::Graft { .. } | Message::Prune if !near => {
                // It takes us for a neighbour. Under way when we left, or it was lost: said once a request's worth of time.
                let left = matches!(link.place, Place::Stranger { .. } | Place::Measured { .. });
                if left && link.requests.take(now) {
                    self.effects.push_back(Effect::Send { to: from, message: Message::Leave { stays: true } });
                }
            }
            Message::IHave { items } => self.tree.i_have(&mut cx!(self, now), from, &items),
            Message::Graft { eager, items } => self.tree.graft(&mut cx!(self, now), from, eager, &items),
            Message::Prune => self.tree.prune(&from),
            Message::Leave { stays } => self.on_leave(now, from, stays),
            _ if !link.requests.take(now) => {}
            Message::Join => self.on_request(now, from, true, true),
            Message::Neighbour { urgent } => self.on_request(now, from, urgent, false),
            Message::Answer { accepted, others } => {
                self.on_records(now, from, others);
                self.on_answer(now, from, accepted);
            }
            Message::ForwardJoin { .. } | Message::Shuffle { .. } | Message::ShuffleReply { .. } if !near => {}
            Message::ForwardJoin { record, ttl } => self.on_forward_join(now, from, record, ttl),
            Message::Shuffle { records } => self.on_shuffle(now, from, records),
            Message::ShuffleReply { records } => self.on_records(now, from, records),
        }
        Ok(())
    }

    /// Something was made here and is durable.
    pub fn publish(&mut self, now: Now, item: Item) {
        self.tree.publish(&mut cx!(self, now), item);
    }

    /// A payload was pushed here: new and verified, or a duplicate.
    pub fn delivered(&mut self, now: Now, item: Item, from: DeviceId, duplicate: bool) {
        self.tree.delivered(&mut cx!(self, now), item, from, duplicate);
    }

    /// A payload that is new came in answer to a comparison. Who sent it need not be told of it, and is not silent: its pushes may be
    /// held up behind such answers.
    pub fn found(&mut self, now: Now, item: Item, from: Option<&DeviceId>) {
        self.tree.found(&mut cx!(self, now), item, from);
    }

    /// A payload came that is not taken: it waits for others, or (`done`) is of no use here. That is no fault of who pushed it.
    pub fn received(&mut self, now: Now, item: Item, from: &DeviceId, done: bool) {
        self.tree.received(&mut cx!(self, now), item, from, done);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        self.tree.tick(&mut cx!(self, now));
        if self.members_due().is_some_and(|due| due <= now) || self.tree.any_failed(now) {
            self.tick_members(now);
            // Whoever was given up for a neighbour had been asked for something, which somebody else is asked for at once.
            self.tree.tick(&mut cx!(self, now));
        }
    }

    /// When [`Overlay::tick`] should be called, at the latest.
    pub fn due(&self) -> Option<Now> {
        [self.tree.due(), self.members_due()].into_iter().flatten().min()
    }

    /// The next thing to be done.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether a peer is a neighbour: news go to it and come from it.
    pub fn is_neighbour(&self, peer: &DeviceId) -> bool {
        self.links.get(peer).is_some_and(Link::is_neighbour)
    }

    /// The neighbours, and of a leaf the peers it is attached to.
    pub fn neighbours(&self) -> impl Iterator<Item = &DeviceId> {
        self.links.iter().filter(|(_, link)| link.is_neighbour()).map(|(peer, _)| peer)
    }

    /// Neighbours and leaves to whom payloads are pushed at once.
    pub fn eager(&self) -> impl Iterator<Item = &DeviceId> {
        self.tree.branches().iter().filter(|(_, branch)| branch.eager).map(|(peer, _)| peer)
    }

    /// Leaves that are attached here.
    pub fn leaves(&self) -> impl Iterator<Item = &DeviceId> {
        self.links.iter().filter(|(_, link)| link.place == Place::Leaf).map(|(peer, _)| peer)
    }

    /// How much the tables hold.
    pub fn sizes(&self) -> OverlaySizes {
        let (seen, missing) = self.tree.sizes();
        let (links, passive, shunned) = (self.links.len(), self.passive.len(), self.shunned.len());
        OverlaySizes { links, passive, shunned, seen, missing }
    }
}

/// A number below `end`, which is not 0. Slightly uneven for large ends, which matters to nobody here.
fn below(rng: &mut ChaCha8Rng, end: u32) -> u32 {
    rng.next_u32() % end
}

fn pick(rng: &mut ChaCha8Rng, of: &[DeviceId]) -> Option<DeviceId> {
    (!of.is_empty()).then(|| of[below(rng, of.len() as u32) as usize])
}
