//! Overlays in any order of events: bounds hold, nothing panics, and views become symmetric.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::id::ChainId;
use crate::message::roles;

const FULL: u64 = roles::STORE | roles::RELAY;

fn record(name: u8, roles: u64, dialable: bool) -> PeerRecord {
    let addresses = if dialable { vec![format!("ws://10.0.0.{name}:1/")] } else { vec![] };
    PeerRecord::sign(&SigningKey::from_bytes(&[name; 32]), 1, roles, &addresses)
}

fn item(chain: u8, n: u64) -> Item {
    Item { chain: ChainId([chain; 16]), n }
}

/// Overlays, and links between them that deliver in order.
struct Net {
    now: u64,
    records: Vec<PeerRecord>,
    overlays: Vec<Overlay>,
    links: BTreeSet<(usize, usize)>,
    under_way: BTreeMap<(usize, usize), VecDeque<Result<Message, Item>>>,
    held: Vec<BTreeMap<ChainId, u64>>,
    pushes: usize,
    /// By each.
    pushed: Vec<usize>,
    /// How often each was dialled.
    dialled: Vec<usize>,
}

impl Net {
    fn new(peers: usize, leaves: usize, limits: &OverlayLimits) -> Net {
        let roles: Vec<u64> = (0..peers).map(|at| if at < leaves { roles::LEAF } else { FULL }).collect();
        Net::with_roles(&roles, |at| at >= leaves, limits)
    }

    fn with_roles(roles: &[u64], dialable: impl Fn(usize) -> bool, limits: &OverlayLimits) -> Net {
        let record = |(at, roles): (usize, &u64)| record(at as u8 + 1, *roles, dialable(at));
        let records: Vec<PeerRecord> = roles.iter().enumerate().map(record).collect();
        let overlay = |(at, record): (usize, &PeerRecord)| {
            let mut overlay = Overlay::new(record.device, record.roles, [at as u8; 32], limits);
            overlay.set_own(Some(record.clone()));
            overlay
        };
        let overlays = records.iter().enumerate().map(overlay).collect();
        let (held, pushed, dialled) = (vec![BTreeMap::new(); roles.len()], vec![0; roles.len()], vec![0; roles.len()]);
        let (links, under_way) = (BTreeSet::new(), BTreeMap::new());
        Net { now: 0, records, overlays, links, under_way, held, pushes: 0, pushed, dialled }
    }

    fn at(&self, device: &DeviceId) -> usize {
        self.records.iter().position(|record| record.device == *device).unwrap_or(usize::MAX)
    }

    fn connect(&mut self, a: usize, b: usize) {
        if a == b || self.links.contains(&(a.min(b), a.max(b))) {
            return;
        }
        self.links.insert((a.min(b), a.max(b)));
        for (at, peer, dialled) in [(a, b, true), (b, a, false)] {
            let record = self.records[peer].clone();
            let now = Now(self.now);
            self.overlays[at].link_up(now, record.device, Some(record.clone()), record.roles, dialled);
            self.overlays[at].rtt(now, &record.device, 20 + 10 * (at + peer) as u32);
            self.drain(at);
        }
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        if !self.links.remove(&(a.min(b), a.max(b))) {
            return;
        }
        self.under_way.remove(&(a, b));
        self.under_way.remove(&(b, a));
        for (at, peer) in [(a, b), (b, a)] {
            let device = self.records[peer].device;
            self.overlays[at].link_down(Now(self.now), &device);
            self.drain(at);
        }
    }

    fn drain(&mut self, at: usize) {
        let mut released = Vec::new();
        while let Some(effect) = self.overlays[at].poll() {
            let (to, what) = match effect {
                Effect::Send { to, message } => (to, Ok(message)),
                Effect::Push { to, item } => (to, Err(item)),
                Effect::Dial { record } => {
                    assert!(!record.addresses.is_empty());
                    self.under_way
                        .entry((at, at))
                        .or_default()
                        .push_back(Ok(Message::Shuffle { records: vec![record] }));
                    continue;
                }
                Effect::Release { peer } => {
                    released.push(self.at(&peer));
                    continue;
                }
            };
            let to = self.at(&to);
            if to != usize::MAX && self.links.contains(&(at.min(to), at.max(to))) {
                self.under_way.entry((at, to)).or_default().push_back(what);
            }
        }
        released.into_iter().filter(|peer| *peer != usize::MAX).for_each(|peer| self.disconnect(at, peer));
    }

    /// Delivers the oldest of one link; a dial is a link of a peer with itself.
    fn deliver(&mut self, from: usize, to: usize) -> bool {
        let Some(what) = self.under_way.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return false };
        let device = self.records[from].device;
        match what {
            Ok(message) if from == to => {
                let peer = self.at(&message.records()[0].device);
                match peer < self.records.len() && !self.links.contains(&(to.min(peer), to.max(peer))) {
                    true => {
                        self.dialled[peer] += 1;
                        self.connect(to, peer);
                    }
                    false => self.overlays[to].dial_failed(Now(self.now), &message.records()[0].device),
                }
            }
            Ok(mut message) => {
                let bytes = minicbor::to_vec(&message).unwrap();
                assert_eq!(minicbor::decode::<Message>(&bytes).unwrap(), message);
                if self.overlays[to].screen(Now(self.now), &device, &mut message, |record| record.verify().is_ok()) {
                    self.overlays[to].receive(Now(self.now), device, message).unwrap();
                }
            }
            Err(item) => {
                let held = self.held[to].entry(item.chain).or_default();
                let duplicate = *held >= item.n;
                *held = item.n.max(*held);
                self.pushes += 1;
                self.pushed[from] += 1;
                self.overlays[to].delivered(Now(self.now), item, device, duplicate);
            }
        }
        self.drain(to);
        true
    }

    fn deliver_all(&mut self) {
        for _ in 0..100_000 {
            let Some(link) = self.under_way.iter().find(|(_, queue)| !queue.is_empty()).map(|(link, _)| *link) else {
                return;
            };
            self.deliver(link.0, link.1);
        }
        panic!("they do not stop talking");
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.deliver_all();
            let due = self.overlays.iter().filter_map(Overlay::due).map(|due| due.0).min().unwrap_or(u64::MAX);
            self.now = due.max(self.now + 1).min(end);
            self.tick();
        }
        self.deliver_all();
    }

    fn tick(&mut self) {
        for at in 0..self.overlays.len() {
            if self.overlays[at].due().is_some_and(|due| due.0 <= self.now) {
                self.overlays[at].tick(Now(self.now));
                self.drain(at);
            }
        }
    }

    fn publish(&mut self, at: usize, item: Item) {
        self.held[at].insert(item.chain, item.n);
        self.overlays[at].publish(Now(self.now), item);
        self.drain(at);
    }

    fn check(&self, limits: &OverlayLimits) {
        for overlay in &self.overlays {
            let sizes = overlay.sizes();
            assert!(sizes.links <= limits.links && sizes.passive <= limits.passive && sizes.shunned <= limits.shunned);
            assert!(sizes.seen <= limits.seen && sizes.missing <= limits.missing, "{sizes:?}");
            assert!(overlay.neighbours().count() <= limits.neighbours_max + 1);
            assert!(overlay.leaves().count() <= limits.leaf_places);
        }
    }

    fn assert_symmetric(&self) {
        for (at, overlay) in self.overlays.iter().enumerate() {
            for peer in overlay.neighbours().chain(overlay.leaves()) {
                let other = &self.overlays[self.at(peer)];
                let mine = &self.records[at].device;
                assert!(
                    other.is_neighbour(mine) || other.leaves().any(|leaf| leaf == mine),
                    "{at} thinks so of {peer:?}"
                );
            }
        }
    }
}

fn small() -> OverlayLimits {
    OverlayLimits {
        neighbours_aim: 2,
        neighbours_max: 4,
        chosen_min: 1,
        links: 6,
        passive: 4,
        passive_per_source: 2,
        shunned: 2,
        leaf_places: 1,
        seen: 8,
        missing: 4,
        missing_per_source: 2,
        announced: 3,
        ..OverlayLimits::default()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Connect(usize, usize),
    Disconnect(usize, usize),
    Deliver(usize, usize),
    Publish(usize, u8),
    Pass(u64),
    Say(usize, usize, Message),
    Met(usize, usize),
    Found(usize, u8, u64),
}

fn message() -> impl Strategy<Value = Message> {
    let items = || prop::collection::vec((0..20u8, 1..5u64).prop_map(|(chain, n)| item(chain, n)), 0..8);
    let records = || {
        prop::collection::vec((1..20u8, any::<bool>()).prop_map(|(name, dialable)| record(name, FULL, dialable)), 0..4)
    };
    prop_oneof![
        Just(Message::Join),
        (1..20u8, 0..8u8).prop_map(|(name, ttl)| Message::ForwardJoin { record: record(name, FULL, true), ttl }),
        any::<bool>().prop_map(|urgent| Message::Neighbour { urgent }),
        (any::<bool>(), records()).prop_map(|(accepted, others)| Message::Answer { accepted, others }),
        any::<bool>().prop_map(|stays| Message::Leave { stays }),
        records().prop_map(|records| Message::Shuffle { records }),
        records().prop_map(|records| Message::ShuffleReply { records }),
        items().prop_map(|items| Message::IHave { items }),
        (any::<bool>(), items()).prop_map(|(eager, items)| Message::Graft { eager, items }),
        Just(Message::Prune),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let peer = || 0..8usize;
    prop_oneof![
        3 => (peer(), peer()).prop_map(|(a, b)| Step::Connect(a, b)),
        1 => (peer(), peer()).prop_map(|(a, b)| Step::Disconnect(a, b)),
        8 => (peer(), peer()).prop_map(|(a, b)| Step::Deliver(a, b)),
        2 => (peer(), 0..8u8).prop_map(|(at, chain)| Step::Publish(at, chain)),
        2 => (0..8_000u64).prop_map(Step::Pass),
        2 => (peer(), peer(), message()).prop_map(|(a, b, message)| Step::Say(a, b, message)),
        1 => (peer(), peer()).prop_map(|(a, b)| Step::Met(a, b)),
        1 => (peer(), 0..8u8, 1..9u64).prop_map(|(at, chain, n)| Step::Found(at, chain, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn in_any_order_of_events_bounds_hold_and_views_become_symmetric(steps in prop::collection::vec(step(), 1..120)) {
        let limits = small();
        let mut net = Net::new(8, 2, &limits);
        for step in steps {
            match step {
                Step::Connect(a, b) => net.connect(a, b),
                Step::Disconnect(a, b) => net.disconnect(a, b),
                Step::Deliver(a, b) => drop(net.deliver(a, b)),
                Step::Publish(at, chain) => {
                    let chain = 8 * chain + at as u8;
                    let n = net.held[at].get(&ChainId([chain; 16])).copied().unwrap_or(0) + 1;
                    net.publish(at, item(chain, n));
                }
                Step::Pass(ms) => {
                    net.now += ms;
                    net.tick();
                }
                // As if the peer itself had lost its mind.
                Step::Say(a, b, message) if net.links.contains(&(a.min(b), a.max(b))) => {
                    net.under_way.entry((a, b)).or_default().push_back(Ok(message));
                }
                Step::Say(..) => {}
                Step::Met(a, b) => {
                    let record = net.records[b].clone();
                    net.overlays[a].met(Now(net.now), record);
                    net.drain(a);
                }
                Step::Found(at, chain, n) => {
                    net.overlays[at].found(Now(net.now), item(chain, n), None);
                    net.drain(at);
                }
            }
            net.check(&limits);
        }
        net.pass(60_000);
        net.check(&limits);
        net.assert_symmetric();
    }
}

#[test]
fn while_there_are_few_links_all_full_peers_are_neighbours_and_hear_everything_once() {
    let mut net = Net::new(4, 0, &OverlayLimits::default());
    for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)] {
        net.connect(a, b);
    }
    net.pass(1_000);
    assert!(net.overlays.iter().all(|overlay| overlay.neighbours().count() == 3));
    for n in 1..=20u64 {
        net.publish((n % 4) as usize, item((n % 4) as u8, n.div_ceil(4)));
        net.pass(500);
    }
    assert!(net.held.iter().all(|held| held.values().sum::<u64>() == 20), "{:?}", net.held);
    // Each item goes to three others; the first few go twice to some.
    assert!(net.pushes <= 60 + 24, "{} pushes", net.pushes);
}

/// Pushes of twenty items by each peer, after as many that find the tree. The first one writes; nobody can be dialled.
fn pushes_of(roles: &[u64], links: &[(usize, usize)]) -> Vec<usize> {
    let mut net = Net::with_roles(roles, |_| false, &OverlayLimits::default());
    links.iter().for_each(|(a, b)| net.connect(*a, *b));
    net.pass(1_000);
    let mut before = Vec::new();
    for n in 1..=40 {
        if n == 21 {
            before = net.pushed.clone();
        }
        net.publish(0, item(0, n));
        net.pass(500);
    }
    assert!(net.held.iter().all(|held| held.values().sum::<u64>() == 40), "{:?}", net.held);
    net.pushed.iter().zip(before).map(|(all, before)| all - before).collect()
}

#[test]
fn who_is_to_be_spared_pushes_what_nobody_else_does_and_nothing_besides() {
    let spared = FULL | roles::SPARED;
    let nearest_is_1 = [(0, 1), (1, 2), (1, 3), (1, 4), (0, 2), (2, 3), (3, 4)];
    assert!(pushes_of(&[FULL; 5], &nearest_is_1)[1] >= 20);
    let pushes = pushes_of(&[FULL, spared, FULL, FULL, FULL], &nearest_is_1);
    assert!(pushes[1] == 0 && pushes.iter().sum::<usize>() <= 84, "{pushes:?}");
    // Among its like it does what everybody does.
    assert!(pushes_of(&[spared; 5], &nearest_is_1)[1] >= 20);
    let only_over_1 = [(0, 1), (1, 2), (1, 3)];
    assert_eq!(pushes_of(&[FULL, spared, FULL, FULL], &only_over_1)[..2], [20, 40]);
}

/// A relay that all have joined by is known to all. The more there were, the more dialled it to see whether it is near: in a swarm of
/// 200 processes 35 in 40 s.
#[test]
fn who_is_to_be_spared_is_not_measured_by_those_that_hear_others() {
    let dials_of_0 = |roles_of_0| {
        let roles: Vec<u64> = (0..40).map(|at| if at == 0 { roles_of_0 } else { FULL }).collect();
        let mut net = Net::with_roles(&roles, |_| true, &OverlayLimits::default());
        for peer in 1..40 {
            net.connect(peer, 0);
            net.pass(200);
        }
        net.pass(60_000);
        net.dialled = vec![0; 40];
        for n in 1..=600_u64 {
            net.publish(n as usize % 40, item((n % 40) as u8, n.div_ceil(40)));
            net.pass(1_000);
        }
        assert!(net.overlays.iter().all(|overlay| overlay.neighbours().count() >= 4));
        net.dialled[0]
    };
    let (spared, not) = (dials_of_0(FULL | roles::SPARED), dials_of_0(FULL));
    assert!(spared * 20 <= not, "{spared} and {not}");
}

#[test]
fn a_leaf_gets_everything_over_two_attachments_and_forwards_nothing() {
    // It is no link that duplicates come along, so to spare it is nothing that others could do.
    assert_eq!(a_leaf_with(roles::LEAF), a_leaf_with(roles::LEAF | roles::SPARED));
}

/// Pushes of a run with a leaf.
fn a_leaf_with(leaf: u64) -> usize {
    let mut net = Net::with_roles(&[leaf, FULL, FULL, FULL, FULL], |at| at > 0, &OverlayLimits::default());
    for (a, b) in [(1, 2), (2, 3), (3, 4), (4, 1), (0, 1), (0, 2)] {
        net.connect(a, b);
    }
    net.pass(1_000);
    assert_eq!(net.overlays[0].neighbours().count(), 2);
    for n in 1..=10 {
        net.publish(4, item(4, n));
        net.publish(0, item(9, n));
        net.pass(500);
    }
    assert!(net.held.iter().all(|held| held.values().sum::<u64>() == 20), "{:?}", net.held);
    assert_eq!(net.overlays[1].leaves().count() + net.overlays[2].leaves().count(), 2);
    net.pushes
}

#[test]
fn with_nothing_to_say_it_becomes_silent() {
    let mut net = Net::new(4, 0, &OverlayLimits::default());
    for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
        net.connect(a, b);
    }
    net.pass(24 * 3_600_000);
    let due: Vec<u64> = net.overlays.iter().filter_map(Overlay::due).map(|due| due.0 - net.now).collect();
    assert!(due.iter().all(|ms| *ms < 3_600_000) && due.iter().any(|ms| *ms > 60_000), "{due:?}");
}

#[test]
fn a_neighbour_that_announces_what_it_does_not_give_is_asked_so_often_and_no_more() {
    let (me, liar) = (record(1, FULL, true), record(2, FULL, true));
    let mut overlay = Overlay::new(me.device, FULL, [0; 32], &OverlayLimits::default());
    overlay.link_up(Now(0), liar.device, Some(liar.clone()), FULL, false);
    overlay.receive(Now(0), liar.device, Message::Neighbour { urgent: false }).unwrap();
    assert!(overlay.is_neighbour(&liar.device));
    // Who has hardly any neighbour keeps even such a one.
    for other in [3, 4, 5] {
        let other = record(other, FULL, true);
        overlay.link_up(Now(0), other.device, Some(other.clone()), FULL, false);
        overlay.receive(Now(0), other.device, Message::Neighbour { urgent: false }).unwrap();
        assert!(overlay.is_neighbour(&other.device));
    }
    let (mut asked, mut now, mut n) = (0, 0, 0u64);
    while overlay.is_neighbour(&liar.device) && now < 600_000 {
        n += 1;
        let mut chain = [9; 16];
        chain[..8].copy_from_slice(&n.to_be_bytes());
        overlay
            .receive(Now(now), liar.device, Message::IHave { items: vec![Item { chain: ChainId(chain), n: 1 }] })
            .unwrap();
        now += 50;
        overlay.tick(Now(now));
        while let Some(effect) = overlay.poll() {
            if let Effect::Send { message: Message::Graft { items, .. }, .. } = effect {
                asked += items.len();
            }
        }
        assert!(overlay.sizes().missing <= 256);
    }
    assert!(!overlay.is_neighbour(&liar.device) && asked < 64, "asked {asked} times in {now} ms");
    // It gets what there is, as a leaf does, should it be honest and have nobody else.
    overlay.receive(Now(now), liar.device, Message::Neighbour { urgent: true }).unwrap();
    assert!(!overlay.is_neighbour(&liar.device) && overlay.leaves().any(|leaf| *leaf == liar.device));
}

/// Bench fanout: subscribers of one origin took each other's places, and heard nothing for ten seconds.
#[test]
fn peers_that_cannot_be_dialled_are_attached_rather_than_take_each_others_places() {
    let mut overlay = Overlay::new(record(1, FULL, true).device, FULL, [0; 32], &OverlayLimits::default());
    for n in 2..40 {
        let peer = record(n, FULL, false);
        overlay.link_up(Now(0), peer.device, Some(peer.clone()), FULL, false);
        overlay.receive(Now(0), peer.device, Message::Join).unwrap();
    }
    let said: Vec<Message> = core::iter::from_fn(|| overlay.poll())
        .filter_map(|effect| match effect {
            Effect::Send { message, .. } => Some(message),
            _ => None,
        })
        .collect();
    let accepted = said.iter().filter(|said| matches!(said, Message::Answer { accepted: true, .. })).count();
    assert_eq!((accepted, overlay.neighbours().count() + overlay.leaves().count()), (38, 38));
    assert!(!said.iter().any(|said| matches!(said, Message::Leave { .. })), "{said:?}");
}

/// A full peer whose neighbours are these, and who was told all it knows by the last of them.
fn listening_to_one(mute: u8) -> (Overlay, DeviceId) {
    let mut overlay = Overlay::new(record(1, FULL, true).device, FULL, [0; 32], &OverlayLimits::default());
    for name in 2..3 + mute {
        let peer = record(name, FULL, true);
        overlay.link_up(Now(0), peer.device, Some(peer.clone()), FULL, false);
        overlay.receive(Now(0), peer.device, Message::Neighbour { urgent: false }).unwrap();
        assert!(overlay.is_neighbour(&peer.device));
    }
    let speaker = record(2 + mute, FULL, true).device;
    overlay.delivered(Now(10), item(7, 1), speaker, false);
    while overlay.poll().is_some() {}
    (overlay, speaker)
}

/// Simulated with 200 peers, 60 of 100 of them black holes, seed 0: the only neighbour that said anything left, and the peer was
/// content with seven that never did. It heard nothing for seconds.
#[test]
fn who_is_left_by_all_that_said_anything_asks_urgently_and_hears_who_speaks_in_one_round_trip() {
    let (mut overlay, speaker) = listening_to_one(6);
    let other = record(90, FULL, true);
    overlay.link_up(Now(20), other.device, Some(other.clone()), FULL, true);
    assert!(
        !core::iter::from_fn(|| overlay.poll())
            .any(|said| matches!(said, Effect::Send { to, .. } if to == other.device))
    );
    overlay.receive(Now(30), speaker, Message::Leave { stays: true }).unwrap();
    let said: Vec<Effect> = core::iter::from_fn(|| overlay.poll()).collect();
    let asks = Effect::Send { to: other.device, message: Message::Neighbour { urgent: true } };
    assert!(said.contains(&asks), "{said:?}");
    overlay.receive(Now(40), other.device, Message::Answer { accepted: true, others: vec![] }).unwrap();
    overlay.tick(Now(40));
    let said: Vec<Effect> = core::iter::from_fn(|| overlay.poll()).collect();
    let asks = Effect::Send { to: other.device, message: Message::Graft { eager: false, items: vec![item(7, 1)] } };
    assert!(said.contains(&asks), "{said:?}");
    overlay.delivered(Now(60), item(7, 1), other.device, true);
    // Content again: the next that might be asked is not.
    let third = record(91, FULL, true);
    overlay.link_up(Now(70), third.device, Some(third.clone()), FULL, true);
    assert!(
        !core::iter::from_fn(|| overlay.poll())
            .any(|said| matches!(said, Effect::Send { to, .. } if to == third.device))
    );
}

/// Where nobody answers, the search ends, and no neighbour beyond the bound is taken.
#[test]
fn a_search_for_somebody_who_speaks_ends() {
    let (mut overlay, speaker) = listening_to_one(9);
    overlay.receive(Now(30), speaker, Message::Leave { stays: true }).unwrap();
    let mut asked = 0;
    for name in 100..160 {
        let peer = record(name, FULL, true);
        let now = Now(u64::from(name) * 10);
        overlay.link_up(now, peer.device, Some(peer.clone()), FULL, true);
        while let Some(effect) = overlay.poll() {
            if let Effect::Send { to, message: Message::Neighbour { urgent: true } } = effect {
                asked += 1;
                overlay.receive(now, to, Message::Answer { accepted: true, others: vec![] }).unwrap();
            }
        }
        assert!(overlay.neighbours().count() <= OverlayLimits::default().neighbours_max);
    }
    assert!((1..=12).contains(&asked), "{asked}");
}

/// Simulated floods, seed 2: strangers that announced more of a chain than there is were all asked first.
#[test]
fn who_gave_something_before_is_asked_first_whatever_others_announce() {
    let (mut overlay, speaker) = listening_to_one(2);
    let liar = record(2, FULL, true).device;
    overlay.receive(Now(50), liar, Message::IHave { items: vec![item(8, 1_000)] }).unwrap();
    overlay.receive(Now(51), speaker, Message::IHave { items: vec![item(8, 1)] }).unwrap();
    overlay.tick(Now(5_000));
    let asked: Vec<DeviceId> = core::iter::from_fn(|| overlay.poll())
        .filter_map(|effect| match effect {
            Effect::Send { to, message: Message::Graft { .. } } => Some(to),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [speaker]);
}

/// Simulated floods, seed 1: liars held all places for what is missing, and what an honest neighbour announced was not asked for.
#[test]
fn who_announces_most_gives_up_places_for_who_announces_little() {
    let (mut overlay, speaker) = listening_to_one(5);
    let chain = |n: u32| Item { chain: ChainId(core::array::from_fn(|at| n.to_be_bytes()[at % 4])), n: 1 };
    for liar in 2u8..7 {
        let liar_items: Vec<Item> = (0..256).map(|n| chain(u32::from(liar) << 16 | n)).collect();
        overlay.receive(Now(50), record(liar, FULL, true).device, Message::IHave { items: liar_items }).unwrap();
    }
    assert_eq!(overlay.sizes().missing, 1_024);
    overlay.receive(Now(51), speaker, Message::IHave { items: vec![item(8, 1)] }).unwrap();
    assert_eq!(overlay.sizes().missing, 1_024);
    overlay.tick(Now(5_000));
    let asked = core::iter::from_fn(|| overlay.poll()).any(|effect| {
        matches!(effect, Effect::Send { to, message: Message::Graft { items, .. } } if to == speaker && items == [item(8, 1)])
    });
    assert!(asked);
}

/// The same: what liars had announced waited for them in turn, whoever held it.
#[test]
fn what_liars_announced_does_not_wait_for_them_once_another_has_it() {
    let (mut overlay, speaker) = listening_to_one(8);
    let asked = |overlay: &mut Overlay| -> Vec<DeviceId> {
        let to = |effect| match effect {
            Effect::Send { to, message: Message::Graft { .. } } => Some(to),
            _ => None,
        };
        core::iter::from_fn(|| overlay.poll()).filter_map(to).collect()
    };
    // As many as are remembered for one chain.
    for liar in 2u8..10 {
        let liar = record(liar, FULL, true).device;
        overlay.receive(Now(50), liar, Message::IHave { items: vec![item(8, 1_000)] }).unwrap();
    }
    overlay.tick(Now(3_000));
    assert_eq!(asked(&mut overlay).len(), 1);
    overlay.receive(Now(3_001), speaker, Message::IHave { items: vec![item(8, 1)] }).unwrap();
    let due = overlay.due().unwrap();
    assert!(due < Now(4_100), "{due:?}");
    overlay.tick(due);
    assert_eq!(asked(&mut overlay), [speaker]);
}
