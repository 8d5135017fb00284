//! Who is a neighbour: joining, asking, giving up, and looking for nearer ones.
//!
//! A relation holds once a request was accepted, and ends with one message of either side; links deliver in order, so both sides agree
//! as soon as nothing is under way. Whoever is refused is told of others to try.

use super::branch::Branch;
use super::link::{Link, Place};
use super::message::{Message, RECORDS_MAX};
use super::{Effect, Overlay, below, pick};
use crate::id::DeviceId;
use crate::message::roles;
use crate::peer::Now;
use crate::peer_record::PeerRecord;

/// Records in a shuffle, a reply, or an accepting answer: few, as they are mostly known.
const SHUFFLED: usize = 4;
/// Neighbours that are told of a newcomer. Each tells one more, and so on: the newcomer is dialled by about as many.
const JOIN_WALKS: usize = 4;
/// Steps left at which a newcomer is remembered on the way, as in HyParView's paper.
const JOIN_REMEMBER_TTL: u8 = 3;
/// Neighbours that are kept without regard to how near they are. Near ones alone could part into islands.
const FAR_KEPT: usize = 3;
/// A nearer neighbour has at most this many percent of the round trip of the one that it replaces.
const NEARER_PERCENT: u32 = 70;
/// How many are asked at once by who is cut off.
const CUT_OFF_ASKS: usize = 3;
/// With fewer neighbours that say anything, one that says nothing is replaced.
const SPEAKING_MIN: usize = 3;
/// How far such a one is, so that anybody is nearer.
const MUTE: u32 = u32::MAX;

impl Overlay {
    fn is_leaf(&self) -> bool {
        self.roles & roles::LEAF != 0
    }

    fn aim(&self) -> usize {
        match self.is_leaf() {
            true => self.limits.attachments,
            false => self.limits.neighbours_aim,
        }
    }

    fn neighbours_max(&self) -> usize {
        match self.is_leaf() {
            true => self.limits.attachments,
            false => self.limits.neighbours_max,
        }
    }

    fn count(&self, what: impl Fn(&Place) -> bool) -> usize {
        self.links.values().filter(|link| what(&link.place)).count()
    }

    pub(super) fn neighbour_count(&self) -> usize {
        self.count(|place| matches!(place, Place::Neighbour { .. }))
    }

    /// How many more are looked for, besides those that are asked or dialled now.
    fn lacking(&self) -> usize {
        let (neighbours, asked) = (self.neighbour_count(), self.count(|place| matches!(place, Place::Asked { .. })));
        let chosen = self.count(|place| matches!(place, Place::Neighbour { chosen: true, .. }));
        let chosen_min = if self.is_leaf() { 0 } else { self.limits.chosen_min };
        let lacking = self.aim().saturating_sub(neighbours).max(chosen_min.saturating_sub(chosen));
        let lacking = if self.tree.is_cut_off() { lacking.max(CUT_OFF_ASKS) } else { lacking };
        let room = self.neighbours_max().saturating_sub(neighbours);
        lacking.min(room).saturating_sub(asked + self.dials.values().filter(|dial| !dial.near).count())
    }

    /// Whether a peer is kept away because it did not do what a neighbour does. Who has hardly any other takes it all the same: a
    /// link that stood still for a while is no lie.
    pub(super) fn shunned(&self, now: Now, peer: &DeviceId) -> bool {
        self.is_choosy() && self.shunned.get(peer).is_some_and(|until| *until > now)
    }

    fn is_choosy(&self) -> bool {
        self.neighbour_count() >= SPEAKING_MIN
    }

    fn shun(&mut self, now: Now, peer: DeviceId) {
        if self.shunned.len() >= self.limits.shunned {
            let first = self.shunned.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer);
            first.map(|peer| self.shunned.remove(&peer));
        }
        self.shunned.insert(peer, Now(now.0 + self.limits.shun_ms));
        self.passive.remove(&peer);
    }

    /// Brings the number of neighbours to what it should be. Called after whatever may have changed it.
    pub(super) fn maintain(&mut self, now: Now) {
        if self.tree.is_cut_off() && self.neighbour_count() >= self.neighbours_max() {
            self.give_up_mute(now);
        }
        for _ in 0..self.limits.dials + self.limits.neighbours_aim {
            if self.lacking() == 0 || !self.ask_linked(now) && !self.dial_one(now, false) {
                break;
            }
        }
    }

    /// Makes room among neighbours of whom none says anything.
    fn give_up_mute(&mut self, now: Now) {
        let oldest = self.links.iter().filter_map(|(peer, link)| match link.place {
            Place::Neighbour { since, .. } => Some((since, *peer)),
            _ => None,
        });
        if let Some((_, peer)) = oldest.min() {
            self.leave(now, &peer, true);
        }
    }

    /// Asks a linked peer that may be a neighbour. False if there is none.
    fn ask_linked(&mut self, now: Now) -> bool {
        let free =
            |link: &Link| matches!(link.place, Place::Stranger { .. }) && !link.is_leaf() && link.not_before <= now;
        let linked = self.links.iter().filter(|(peer, link)| free(link) && !self.shunned(now, peer));
        let linked: Vec<DeviceId> = linked.map(|(peer, _)| *peer).collect();
        let Some(peer) = pick(&mut self.rng, &linked) else { return false };
        self.ask_to_be_neighbour(now, peer, false);
        true
    }

    fn ask_to_be_neighbour(&mut self, now: Now, peer: DeviceId, near: bool) {
        let alone = self.neighbour_count() == 0;
        let join = alone && !self.joined && !self.is_leaf();
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.place = Place::Asked { until: Now(now.0 + self.limits.answer_ms), near };
        let message = match join {
            true => Message::Join,
            false => Message::Neighbour { urgent: alone || self.tree.is_cut_off() },
        };
        self.joined |= join;
        self.effects.push_back(Effect::Send { to: peer, message });
    }

    /// Dials a peer to fall back on. False if there is none that may be dialled now, or no dial left.
    fn dial_one(&mut self, now: Now, near: bool) -> bool {
        if self.dials.len() >= self.limits.dials {
            return false;
        }
        let far = if near { self.farthest(now).map(|(_, far)| far) } else { None };
        let worth = |rtt: Option<u32>| !near || rtt.is_none_or(|rtt| far.is_some_and(|far| nearer(rtt, far)));
        // Everybody knows the peer that is to be spared, and would measure it. In the place of one that says nothing anybody will do.
        let sparing = self.roles & roles::SPARED == 0 && far.is_some_and(|far| far != MUTE);
        let may = self.passive.iter().filter(|(peer, held)| {
            held.not_before <= now
                && worth(held.rtt_ms)
                && !(sparing && held.record.roles & roles::SPARED != 0)
                && !self.dials.contains_key(*peer)
                && !self.links.contains_key(*peer)
        });
        let may: Vec<DeviceId> = may.map(|(peer, _)| *peer).collect();
        let Some(peer) = pick(&mut self.rng, &may) else { return false };
        let Some(record) = self.passive.get(&peer).map(|held| held.record.clone()) else { return false };
        self.dial(now, record, near);
        true
    }

    fn dial(&mut self, now: Now, record: PeerRecord, near: bool) {
        self.dials.insert(record.device, super::Dial { until: Now(now.0 + 2 * self.limits.answer_ms), near });
        self.effects.push_back(Effect::Dial { record });
    }

    pub(super) fn linked(&mut self, now: Now, peer: DeviceId, record: Option<PeerRecord>, roles: u64, dialled: bool) {
        let dial = self.dials.remove(&peer);
        if peer == self.me {
            return self.effects.push_back(Effect::Release { peer });
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.record = record.or(link.record.take());
            link.roles = roles;
            return self.maintain(now);
        }
        if self.links.len() >= self.limits.links && !self.make_room() {
            return self.effects.push_back(Effect::Release { peer });
        }
        let mut link = Link::new(now, roles, record, dialled, &self.limits);
        // What is linked is no longer something to fall back on; it comes back when the link ends.
        if let Some(known) = self.passive.remove(&peer) {
            link.record = link.record.or(Some(known.record));
            link.rtt_ms = known.rtt_ms;
        }
        let near = dial.is_some_and(|dial| dial.near);
        if near {
            link.place = Place::Measured { until: Now(now.0 + self.limits.answer_ms) };
        }
        self.links.insert(peer, link);
        if near && self.lacking() > 0 {
            self.ask_to_be_neighbour(now, peer, false);
        }
        self.maintain(now);
    }

    /// Gives up the oldest link that is no neighbour's, for a new one.
    fn make_room(&mut self) -> bool {
        let stranger = |link: &Link| match link.place {
            // Those that were released already go first.
            Place::Stranger { release_at } => Some(Now(if release_at.0 == u64::MAX { 0 } else { release_at.0 })),
            _ => None,
        };
        let oldest = self.links.iter().filter_map(|(peer, link)| Some((stranger(link)?, *peer))).min();
        let Some((_, peer)) = oldest else { return false };
        self.links.remove(&peer);
        self.effects.push_back(Effect::Release { peer });
        true
    }

    pub(super) fn unlinked(&mut self, now: Now, peer: &DeviceId) {
        let Some(link) = self.links.remove(peer) else { return };
        self.tree.down(&mut cx!(self, now), peer);
        let failed = !matches!(link.place, Place::Stranger { .. } | Place::Measured { .. });
        self.remember(now, link, failed);
        self.maintain(now);
    }

    /// Keeps the record of a link that ends, for later.
    fn remember(&mut self, now: Now, link: Link, failed: bool) {
        let rtt_ms = link.rtt_ms;
        let Some(record) = link.record.filter(|record| !link_is_leaf(link.roles) && !record.addresses.is_empty())
        else {
            return;
        };
        let peer = record.device;
        if self.shunned(now, &peer) {
            return;
        }
        // Of its addresses there is only its word if it dialled.
        let source = (!link.dialled).then_some(peer);
        self.passive.insert(record, source, &self.limits, &mut self.rng);
        if let Some(held) = self.passive.get_mut(&peer) {
            held.rtt_ms = rtt_ms;
            held.not_before = held.not_before.max(link.not_before);
        }
        if failed {
            self.passive.failed(now, &peer, &self.limits);
        }
    }

    pub(super) fn dial_has_failed(&mut self, now: Now, peer: &DeviceId) {
        if self.dials.remove(peer).is_some() {
            self.passive.failed(now, peer, &self.limits);
            self.maintain(now);
        }
    }

    /// A record that somebody told of. True if it is new here.
    pub(super) fn learn(&mut self, now: Now, record: PeerRecord, source: Option<DeviceId>) -> bool {
        if record.device == self.me || link_is_leaf(record.roles) || self.shunned(now, &record.device) {
            return false;
        }
        if let Some(link) = self.links.get_mut(&record.device) {
            if link.record.as_ref().is_none_or(|held| record.replaces(held)) {
                link.record = Some(record);
            }
            return false;
        }
        self.passive.insert(record, source, &self.limits, &mut self.rng)
    }

    /// Records to pass on: neighbours and fallbacks that can be dialled and did not fail.
    fn sample(&mut self, count: usize, not: &DeviceId) -> Vec<PeerRecord> {
        let linked = self.links.values().filter(|link| link.is_neighbour()).filter_map(Link::dialable);
        let known = self.passive.iter().filter(|(_, held)| held.fails == 0).map(|(_, held)| &held.record);
        let mut records: Vec<&PeerRecord> = linked.chain(known).filter(|record| record.device != *not).collect();
        let mut some = Vec::with_capacity(count.min(records.len()));
        while some.len() < count && !records.is_empty() {
            let at = below(&mut self.rng, records.len() as u32) as usize;
            some.push(records.swap_remove(at).clone());
        }
        some
    }

    pub(super) fn on_request(&mut self, now: Now, from: DeviceId, urgent: bool, join: bool) {
        let (may, shunned) = (!self.is_leaf(), self.shunned(now, &from));
        let attaches = may && self.attaches(&from, shunned);
        // Nobody loses a place for who does as well with another.
        let neighbour = may && !shunned && self.accepts(now, &from, urgent && !attaches);
        let accepted = neighbour || attaches;
        // A newcomer hears of as many as fit, one with neighbours of a few.
        let count = if urgent || !accepted { RECORDS_MAX } else { SHUFFLED };
        let others = self.sample(count, &from);
        self.effects.push_back(Effect::Send { to: from, message: Message::Answer { accepted, others } });
        if accepted {
            self.becomes_related(now, from, false, false, !neighbour);
        }
        let record = self.links.get(&from).filter(|link| !link.is_leaf()).and_then(Link::dialable).cloned();
        if let (true, Some(record)) = (join, record) {
            let ttl = self.limits.join_ttl;
            let mut to: Vec<DeviceId> =
                self.links.iter().filter(|(_, link)| link.is_neighbour()).map(|(peer, _)| *peer).collect();
            to.retain(|peer| *peer != from);
            for _ in 0..JOIN_WALKS.min(to.len()) {
                let at = below(&mut self.rng, to.len() as u32) as usize;
                let message = Message::ForwardJoin { record: record.clone(), ttl };
                self.effects.push_back(Effect::Send { to: to.swap_remove(at), message });
            }
        }
    }

    /// Whether a peer that asks becomes a neighbour, or a leaf gets a place. Somebody else may lose theirs for it.
    fn accepts(&mut self, now: Now, from: &DeviceId, urgent: bool) -> bool {
        let Some(link) = self.links.get(from) else { return false };
        if link.is_leaf() {
            return false;
        }
        if matches!(link.place, Place::Neighbour { .. } | Place::Asked { .. }) {
            return true;
        }
        let neighbours = self.neighbour_count();
        let unchosen = self.count(|place| matches!(place, Place::Neighbour { chosen: false, .. }));
        // Places of our own choice are kept free: who comes first must not have all.
        let kept = self.limits.chosen_min;
        if neighbours < self.limits.neighbours_max && unchosen + kept < self.limits.neighbours_max {
            return true;
        }
        if !urgent {
            return false;
        }
        let branches = self.tree.branches();
        let useful = |peer: &DeviceId| branches.get(peer).map_or((0, false), |branch| (branch.firsts, branch.speaks()));
        let young = self.links.iter().filter_map(|(peer, link)| match link.place {
            Place::Neighbour { since, chosen: false, .. } => {
                Some((useful(peer), link.favour, core::cmp::Reverse(since), *peer))
            }
            _ => None,
        });
        // The one that brought least lately; of those one that says nothing, then the least favoured, then the youngest: a crowd of
        // newcomers replaces its own.
        let Some(((0..=2, _), _, _, peer)) = young.min() else { return false };
        self.evictions.take(now) && {
            self.leave(now, &peer, true);
            true
        }
    }

    /// Whether a leaf gets a place; or a full peer that cannot be dialled, for which there is no room among the neighbours: it has
    /// nobody to fall back on but those that it dials itself. Nor may who is shunned have anybody else: as little depends on it as on
    /// a leaf.
    fn attaches(&self, from: &DeviceId, shunned: bool) -> bool {
        let attached = |place: &Place| *place == Place::Leaf;
        self.links.get(from).is_some_and(|link| {
            attached(&link.place)
                || (shunned || link.is_leaf() || link.dialable().is_none())
                    && self.count(attached) < self.limits.leaf_places
        })
    }

    fn becomes_neighbour(&mut self, now: Now, peer: DeviceId, chosen: bool, near: bool) {
        self.becomes_related(now, peer, chosen, near, false);
    }

    fn becomes_related(&mut self, now: Now, peer: DeviceId, chosen: bool, near: bool, attached: bool) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        if matches!(link.place, Place::Neighbour { .. } | Place::Leaf) {
            return;
        }
        let roles = link.roles | if attached { roles::LEAF } else { 0 };
        let (leaf, rtt_ms) = (roles & roles::LEAF != 0, link.rtt_ms);
        let chosen = chosen || link.dialled || matches!(link.place, Place::Asked { .. });
        link.place = match leaf {
            true => Place::Leaf,
            false => Place::Neighbour { since: now, chosen, near },
        };
        link.refusals = 0;
        self.tree.up(&mut cx!(self, now), peer, roles, rtt_ms);
        self.joined = true;
        self.improve_at = self.improve_at.or(Some(Now(now.0 + self.improve_every)));
        self.shuffle_soon(now);
    }

    /// Ends a relation, or what might have become one, and says so.
    pub(super) fn leave(&mut self, now: Now, peer: &DeviceId, stays: bool) {
        self.effects.push_back(Effect::Send { to: *peer, message: Message::Leave { stays } });
        self.estranged(now, peer);
    }

    fn estranged(&mut self, now: Now, peer: &DeviceId) {
        let release_at = Now(now.0 + self.limits.linger_ms);
        let Some(link) = self.links.get_mut(peer) else { return };
        link.place = Place::Stranger { release_at };
        link.not_before = Now(now.0 + self.limits.retry_ms * 10);
        self.tree.down(&mut cx!(self, now), peer);
    }

    pub(super) fn on_answer(&mut self, now: Now, from: DeviceId, accepted: bool) {
        let Some(link) = self.links.get_mut(&from) else { return };
        match (link.place, accepted) {
            (Place::Asked { near, .. }, true) => {
                self.becomes_neighbour(now, from, true, near);
                if near {
                    self.give_up_farthest(now, &from);
                }
            }
            (Place::Asked { .. }, false) => {
                let wait = (self.limits.retry_ms << link.refusals.min(20)).min(self.limits.retry_max_ms);
                link.refusals = link.refusals.saturating_add(1);
                link.not_before = Now(now.0 + wait);
                link.place = Place::Stranger { release_at: Now(now.0 + self.limits.linger_ms) };
            }
            (Place::Neighbour { .. } | Place::Leaf, true) => {}
            (Place::Neighbour { .. } | Place::Leaf, false) => self.estranged(now, &from),
            // It accepted what is not wanted any more.
            (_, true) => self.leave(now, &from, true),
            (_, false) => {}
        }
        self.maintain(now);
    }

    pub(super) fn on_leave(&mut self, now: Now, from: DeviceId, stays: bool) {
        let Some(link) = self.links.get_mut(&from) else { return };
        match link.place {
            Place::Neighbour { .. } | Place::Leaf => self.estranged(now, &from),
            // It ended what was before the request, which it will answer.
            _ => {}
        }
        if let (false, Some(link)) = (stays, self.links.get_mut(&from)) {
            (link.record, link.not_before) = (None, Now(now.0 + self.limits.retry_max_ms));
        }
        self.maintain(now);
    }

    pub(super) fn on_forward_join(&mut self, now: Now, from: DeviceId, record: PeerRecord, ttl: u8) {
        let newcomer = record.device;
        if newcomer == self.me || self.is_leaf() || record.addresses.is_empty() || self.links.contains_key(&newcomer) {
            return;
        }
        let neighbours = self.neighbour_count();
        let here = self.lacking() > 0 || neighbours <= 1 || ttl == 0 && neighbours + 1 < self.limits.neighbours_max;
        if here
            && !self.dials.contains_key(&newcomer)
            && self.dials.len() < self.limits.dials
            && !self.shunned(now, &newcomer)
        {
            self.learn(now, record.clone(), Some(from));
            return self.dial(now, record, false);
        }
        if ttl == JOIN_REMEMBER_TTL || ttl == 0 {
            self.learn(now, record.clone(), Some(from));
        }
        let next: Vec<DeviceId> = self
            .links
            .iter()
            .filter(|(peer, link)| link.is_neighbour() && **peer != from)
            .map(|(peer, _)| *peer)
            .collect();
        if let (Some(to), true) = (pick(&mut self.rng, &next), ttl > 0) {
            self.effects.push_back(Effect::Send { to, message: Message::ForwardJoin { record, ttl: ttl - 1 } });
        }
    }

    pub(super) fn on_records(&mut self, now: Now, from: DeviceId, records: Vec<PeerRecord>) {
        let mut new = false;
        for record in records {
            new |= self.learn(now, record, Some(from));
        }
        if new {
            self.shuffle_every = (self.shuffle_every / 4).max(self.limits.shuffle_ms);
        }
        self.maintain(now);
    }

    pub(super) fn on_shuffle(&mut self, now: Now, from: DeviceId, records: Vec<PeerRecord>) {
        let reply = self.sample(SHUFFLED, &from);
        self.effects.push_back(Effect::Send { to: from, message: Message::ShuffleReply { records: reply } });
        self.on_records(now, from, records);
    }

    fn shuffle_soon(&mut self, now: Now) {
        let every = self.limits.shuffle_ms.max(self.shuffle_every / 4);
        self.shuffle_every = every;
        let at = now.0 + every / 2 + u64::from(below(&mut self.rng, (every / 2) as u32 + 1));
        self.shuffle_at = Some(Now(self.shuffle_at.map_or(at, |before| before.0.min(at))));
    }

    fn shuffle(&mut self, now: Now) {
        self.shuffle_at = None;
        let neighbours: Vec<DeviceId> = self.neighbours().copied().collect();
        let Some(to) = pick(&mut self.rng, &neighbours) else { return };
        let mut records = self.sample(SHUFFLED - 1, &to);
        records.extend(self.own.clone().filter(|own| !own.addresses.is_empty() && !self.is_leaf()));
        // Where nobody can be dialled there is nothing to tell.
        if !records.is_empty() {
            self.effects.push_back(Effect::Send { to, message: Message::Shuffle { records } });
        }
        // Four times as long now; a reply with something new takes that back.
        self.shuffle_every = (self.shuffle_every * 4).min(self.limits.shuffle_max_ms);
        let jitter = u64::from(below(&mut self.rng, (self.shuffle_every / 4) as u32 + 1));
        self.shuffle_at = Some(Now(now.0 + self.shuffle_every - jitter));
    }

    /// The neighbour that a nearer one may replace.
    fn farthest(&self, now: Now) -> Option<(DeviceId, u32)> {
        let neighbours = || self.links.iter().filter(|(_, link)| link.is_neighbour());
        let speaks = |peer: &DeviceId| self.tree.branches().get(peer).is_some_and(Branch::speaks);
        if neighbours().filter(|(peer, _)| speaks(peer)).count() < SPEAKING_MIN
            && let Some((peer, _)) = neighbours().find(|(peer, link)| !speaks(peer) && settled(now, link))
        {
            return Some((*peer, MUTE));
        }
        let far_kept = if self.is_leaf() { 0 } else { FAR_KEPT };
        let far = neighbours().filter(|(_, link)| matches!(link.place, Place::Neighbour { near: false, .. })).count();
        let may = neighbours().filter_map(|(peer, link)| match link.place {
            Place::Neighbour { near, .. } if near || far > far_kept => Some((link.rtt_ms?, *peer)),
            _ => None,
        });
        may.max().map(|(rtt, peer)| (peer, rtt))
    }

    fn give_up_farthest(&mut self, now: Now, but: &DeviceId) {
        if self.neighbour_count() <= self.aim() {
            return;
        }
        if let Some((peer, _)) = self.farthest(now).filter(|(peer, _)| peer != but) {
            self.leave(now, &peer, true);
        }
    }

    pub(super) fn measured(&mut self, now: Now, peer: &DeviceId, ms: u32) {
        let far = self.farthest(now);
        let Some(link) = self.links.get_mut(peer) else { return };
        link.rtt_ms = Some(ms);
        self.tree.rtt(peer, ms);
        if !matches!(link.place, Place::Measured { .. }) {
            return;
        }
        if far.is_some_and(|(_, far)| nearer(ms, far)) {
            self.improve_every = self.limits.improve_ms;
            return self.ask_to_be_neighbour(now, *peer, true);
        }
        link.place = Place::Stranger { release_at: now };
        // So that it is neither asked nor dialled for being unknown.
        link.not_before = Now(now.0 + self.limits.retry_ms * 10);
    }

    /// Tries whether somebody is nearer than the farthest neighbour.
    fn improve(&mut self, now: Now) {
        if self.neighbour_count() >= self.aim() && self.farthest(now).is_some() {
            self.dial_one(now, true);
        }
        self.improve_every = (self.improve_every * 5 / 4).min(self.limits.shuffle_max_ms);
        let jitter = u64::from(below(&mut self.rng, (self.improve_every / 2) as u32 + 1));
        self.improve_at = Some(Now(now.0 + self.improve_every - jitter));
    }

    pub(super) fn tick_members(&mut self, now: Now) {
        self.shunned.retain(|_, until| *until > now);
        for peer in self.tree.failed(now) {
            self.shun(now, peer);
            self.leave(now, &peer, true);
        }
        let over: Vec<DeviceId> =
            self.dials.iter().filter(|(_, dial)| dial.until <= now).map(|(peer, _)| *peer).collect();
        for peer in over {
            self.dials.remove(&peer);
            self.passive.failed(now, &peer, &self.limits);
        }
        let passed: Vec<(DeviceId, Place)> = self
            .links
            .iter()
            .filter(|(_, link)| link_due(link) <= now)
            .map(|(peer, link)| (*peer, link.place))
            .collect();
        for (peer, place) in passed {
            match place {
                Place::Asked { .. } => self.leave(now, &peer, true),
                // The room for it is there.
                Place::Stranger { .. } if self.neighbour_count() < self.aim() && !self.is_leaf() => {
                    if let Some(link) = self.links.get_mut(&peer) {
                        link.place = Place::Stranger { release_at: Now(now.0 + self.limits.linger_ms) };
                    }
                }
                // It stays here until the connection ends: other spaces may keep it, and the peer may still ask.
                Place::Stranger { .. } | Place::Measured { .. } => {
                    self.effects.push_back(Effect::Release { peer });
                    if let Some(link) = self.links.get_mut(&peer) {
                        link.place = Place::Stranger { release_at: Now(u64::MAX) };
                    }
                }
                Place::Neighbour { .. } | Place::Leaf => {}
            }
        }
        if self.shuffle_at.is_some_and(|at| at <= now) {
            self.shuffle(now);
        }
        if self.improve_at.is_some_and(|at| at <= now) {
            self.improve(now);
        }
        self.maintain(now);
    }

    pub(super) fn members_due(&self) -> Option<Now> {
        let links = self.links.values().map(link_due);
        let dials = self.dials.values().map(|dial| dial.until);
        let mut due: Vec<Now> = links.chain(dials).chain(self.shuffle_at).chain(self.improve_at).collect();
        if self.lacking() > 0 {
            let linked = self.links.iter();
            let linked = linked.filter(|(_, link)| matches!(link.place, Place::Stranger { .. }) && !link.is_leaf());
            // Who is shunned is not asked before that is over.
            let until = |peer: &DeviceId| self.shunned.get(peer).filter(|_| self.is_choosy()).copied();
            due.extend(linked.map(|(peer, link)| link.not_before.max(until(peer).unwrap_or_default())));
            if self.dials.len() < self.limits.dials {
                let passive = self.passive.iter().filter(|(peer, _)| !self.dials.contains_key(*peer));
                due.extend(passive.map(|(_, held)| held.not_before));
            }
        }
        due.into_iter().filter(|due| due.0 < u64::MAX).min()
    }
}

/// When something about a link is due.
fn link_due(link: &Link) -> Now {
    match link.place {
        Place::Stranger { release_at } => release_at,
        Place::Measured { until } | Place::Asked { until, .. } => until,
        Place::Neighbour { .. } | Place::Leaf => Now(u64::MAX),
    }
}

/// Neighbours for long enough to have said something.
fn settled(now: Now, link: &Link) -> bool {
    matches!(link.place, Place::Neighbour { since, .. } if since.0 + 5_000 <= now.0)
}

fn nearer(ms: u32, far: u32) -> bool {
    u64::from(ms) * 100 <= u64::from(far) * u64::from(NEARER_PERCENT)
}

fn link_is_leaf(roles: u64) -> bool {
    roles & roles::LEAF != 0
}
