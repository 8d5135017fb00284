//! Our overlays under a plan: the driver that stands for connections, storage and comparing.

use std::collections::BTreeMap;

use commonhold_sync::id::{ChainId, DeviceId};
use commonhold_sync::message::roles;
use commonhold_sync::overlay::{Effect, Item, Message, Overlay, OverlayLimits, OverlaySizes};
use commonhold_sync::peer::Now;
use commonhold_sync::peer_record::PeerRecord;
use ed25519_dalek::SigningKey;

use super::flood::inventions;
use super::ledger::{Ledger, schedule};
use super::queue::{Queue, delay_ms, drawn};
use super::scenario::{Cast, Kind};
use super::{DETECT_MS, Plan};

/// Neighbours compare after this long without news.
const QUIET_MS: u64 = 2_000;
/// A dial of a dead peer fails after this.
const DIAL_FAILS_MS: u64 = 1_000;

pub(super) enum Event {
    Join(usize),
    Write(usize),
    Kill(usize),
    Packet { from: usize, to: usize, epoch: u64, packet: Packet },
    Wake(usize),
    Connected { dialler: usize, other: usize },
    DialFailed { at: usize, device: DeviceId },
    Flood(usize),
    Down { at: usize, peer: usize, epoch: u64 },
    Compare(usize),
}

#[derive(Clone)]
pub(super) enum Packet {
    Overlay(Message),
    Payload { item: Item, repair: bool },
    Clock { held: BTreeMap<ChainId, u64>, answer: bool },
}

pub(super) struct Node {
    pub(super) overlay: Overlay,
    pub(super) device: DeviceId,
    pub(super) record: PeerRecord,
    pub(super) kind: Kind,
    pub(super) alive: bool,
    held: BTreeMap<ChainId, u64>,
    wake_ms: u64,
    changed_ms: u64,
    compared_ms: u64,
    /// Per linked peer, the number of the connection.
    pub(super) links: BTreeMap<usize, u64>,
    /// Bytes and messages sent, payloads apart.
    pub(super) sent_bytes: u64,
    pub(super) sent_messages: u64,
}

pub(super) struct Swarm {
    pub(super) plan: Plan,
    pub(super) queue: Queue<Event>,
    pub(super) nodes: Vec<Node>,
    by_device: BTreeMap<DeviceId, usize>,
    epoch: u64,
    pub(super) ledger: Ledger,
    pub(super) end_ms: u64,
    /// Records of peers that do not exist.
    pub(super) inventions: Vec<PeerRecord>,
    /// The most that any honest overlay's tables held.
    pub(super) most: OverlaySizes,
}

pub(super) fn chain_of(writer: usize) -> ChainId {
    ChainId(core::array::from_fn(|at| (writer as u64).to_be_bytes()[at % 8]))
}

fn writer_of(chain: &ChainId) -> usize {
    chain.0[..8].iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

impl Swarm {
    pub(super) fn new(plan: &Plan, cast: &Cast, limits: &OverlayLimits) -> Swarm {
        let mut swarm = Swarm {
            plan: plan.clone(),
            queue: Queue::new(),
            nodes: Vec::new(),
            by_device: BTreeMap::new(),
            epoch: 0,
            ledger: Ledger::new(plan.warm_items),
            end_ms: 0,
            inventions: if plan.hostile_percent > 0 { inventions(plan.seed) } else { Vec::new() },
            most: OverlaySizes::default(),
        };
        for peer in 0..plan.peers {
            let seed: [u8; 32] = core::array::from_fn(|at| drawn(plan.seed, 5, (peer * 32 + at) as u64) as u8);
            let kind = cast.kinds[peer];
            let roles = match kind {
                Kind::Leaf => roles::LEAF,
                // As the program is unless it is told otherwise; apps that embed the engine are not.
                _ if peer == 0 => roles::STORE | roles::RELAY | roles::SPARED,
                _ => roles::STORE | roles::RELAY,
            };
            let dialable = matches!(kind, Kind::Full | Kind::Hole | Kind::Hostile);
            let addresses: Vec<String> =
                dialable.then(|| format!("ws://10.0.{}.{}:4000/", peer / 250, peer % 250)).into_iter().collect();
            let record = PeerRecord::sign(&SigningKey::from_bytes(&seed), 1, roles, &addresses);
            let mut overlay = Overlay::new(record.device, roles, seed, limits);
            overlay.set_own(Some(record.clone()));
            swarm.by_device.insert(record.device, peer);
            swarm.nodes.push(Node {
                overlay,
                device: record.device,
                record,
                kind,
                alive: true,
                held: BTreeMap::new(),
                wake_ms: u64::MAX,
                changed_ms: 0,
                compared_ms: 0,
                links: BTreeMap::new(),
                sent_bytes: 0,
                sent_messages: 0,
            });
            swarm.queue.at(peer as u64 * plan.join_every_ms, Event::Join(peer));
        }
        let joined_ms = plan.peers as u64 * plan.join_every_ms;
        if plan.bootstrap_dies {
            swarm.queue.at(joined_ms + 1_000, Event::Kill(0));
        }
        let writes = schedule(plan, joined_ms + plan.settle_ms, &cast.writers);
        writes.iter().for_each(|(at_ms, writer)| swarm.queue.at(*at_ms, Event::Write(*writer)));
        for peer in &cast.killed {
            swarm.queue.at(cast.kill_ms(plan), Event::Kill(*peer));
        }
        swarm.end_ms = writes.last().map_or(joined_ms, |(at_ms, _)| *at_ms) + plan.drain_ms;
        swarm
    }

    /// Runs to the end of the plan.
    pub(super) fn run(&mut self) {
        self.run_until(self.end_ms);
    }

    pub(super) fn run_until(&mut self, end_ms: u64) {
        while let Some(event) = self.queue.next(end_ms) {
            self.happens(event);
        }
    }

    fn now(&self) -> Now {
        Now(self.queue.now_ms())
    }

    /// Whether what these two say to each other on this connection still arrives.
    fn linked(&self, at: usize, peer: usize, epoch: u64) -> bool {
        self.nodes[at].alive && self.nodes[at].links.get(&peer) == Some(&epoch)
    }

    fn happens(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Join(peer) if self.nodes[peer].kind == Kind::Hostile => self.flood(peer),
            Event::Flood(peer) => self.flood(peer),
            Event::Join(peer) if peer > 0 => {
                let bootstrap = self.nodes[0].record.clone();
                self.nodes[peer].overlay.met(now, bootstrap);
                self.drain(peer);
            }
            Event::Join(_) => {}
            Event::Write(writer) if !self.nodes[writer].alive => {}
            Event::Write(writer) => {
                let (_, n) = self.ledger.write(now.0, writer, self.plan.peers);
                let item = Item { chain: chain_of(writer), n };
                self.nodes[writer].held.insert(item.chain, n);
                self.nodes[writer].overlay.publish(now, item);
                self.changed(writer);
                self.drain(writer);
            }
            Event::Kill(peer) => self.kill(peer),
            Event::Packet { from, to, epoch, packet } if self.linked(to, from, epoch) => {
                self.packet(from, to, packet);
                self.drain(to);
            }
            Event::Packet { .. } => {}
            Event::Wake(peer) if self.nodes[peer].alive && self.nodes[peer].wake_ms <= now.0 => {
                self.nodes[peer].wake_ms = u64::MAX;
                self.nodes[peer].overlay.tick(now);
                self.drain(peer);
            }
            Event::Wake(_) => {}
            Event::Connected { dialler, other } => self.connected(dialler, other),
            Event::DialFailed { at, device } => {
                self.nodes[at].overlay.dial_failed(now, &device);
                self.drain(at);
            }
            Event::Down { at, peer, epoch } if self.linked(at, peer, epoch) => {
                self.nodes[at].links.remove(&peer);
                if self.nodes[at].kind == Kind::Hostile {
                    return;
                }
                let device = self.nodes[peer].device;
                self.nodes[at].overlay.link_down(now, &device);
                self.drain(at);
            }
            Event::Down { .. } => {}
            Event::Compare(peer) => self.compare(peer),
        }
    }

    fn kill(&mut self, peer: usize) {
        self.nodes[peer].alive = false;
        for (at, epoch) in std::mem::take(&mut self.nodes[peer].links) {
            self.queue.after(DETECT_MS, Event::Down { at, peer, epoch });
        }
    }

    fn connected(&mut self, dialler: usize, other: usize) {
        let now = self.now();
        if !self.nodes[dialler].alive || !self.nodes[other].alive {
            let device = self.nodes[other].device;
            return self.queue.after(DIAL_FAILS_MS, Event::DialFailed { at: dialler, device });
        }
        if !self.nodes[dialler].links.contains_key(&other) {
            self.epoch += 1;
            self.nodes[dialler].links.insert(other, self.epoch);
            self.nodes[other].links.insert(dialler, self.epoch);
        }
        let rtt_ms = 2 * delay_ms(self.plan.seed, dialler, other) as u32;
        for (at, peer, dialled) in [(dialler, other, true), (other, dialler, false)] {
            let roles = self.nodes[peer].record.roles;
            if self.nodes[at].kind == Kind::Hostile {
                continue;
            }
            let (device, record) = (self.nodes[peer].device, self.nodes[peer].record.clone());
            self.nodes[at].overlay.link_up(now, device, Some(record), roles, dialled);
            self.drain(at);
            self.nodes[at].overlay.rtt(now, &device, rtt_ms);
            self.drain(at);
        }
    }

    fn packet(&mut self, from: usize, to: usize, packet: Packet) {
        let now = self.now();
        let device = self.nodes[from].device;
        if self.nodes[to].kind == Kind::Hostile {
            return;
        }
        match packet {
            Packet::Overlay(mut message) => {
                let overlay = &mut self.nodes[to].overlay;
                let real = |record: &PeerRecord| self.by_device.contains_key(&record.device) || record.verify().is_ok();
                if overlay.screen(now, &device, &mut message, real) {
                    overlay.receive(now, device, message).expect("our own overlays keep the rules");
                }
            }
            Packet::Payload { item, repair } => {
                let held = self.nodes[to].held.entry(item.chain).or_default();
                let duplicate = *held >= item.n;
                *held = item.n.max(*held);
                self.ledger.arrived(now.0, writer_of(&item.chain), item.n, to, repair);
                match repair {
                    true if duplicate => {}
                    true => self.nodes[to].overlay.found(now, item, None),
                    false => self.nodes[to].overlay.delivered(now, item, device, duplicate),
                }
                if !duplicate {
                    self.changed(to);
                }
            }
            Packet::Clock { held, answer } => {
                let mine = &self.nodes[to].held;
                let lacks = mine.iter().filter(|(chain, n)| held.get(*chain).is_none_or(|theirs| theirs < *n));
                let gives: Vec<Item> = lacks.map(|(chain, n)| Item { chain: *chain, n: *n }).collect();
                let wants = held.iter().any(|(chain, n)| mine.get(chain).is_none_or(|mine| mine < n));
                let mine = (wants && !answer).then(|| mine.clone());
                for item in gives {
                    self.send(to, from, Packet::Payload { item, repair: true });
                }
                if let Some(held) = mine {
                    self.send(to, from, Packet::Clock { held, answer: true });
                }
            }
        }
    }

    /// News came: when it has been quiet for a while, neighbours compare.
    fn changed(&mut self, peer: usize) {
        self.nodes[peer].changed_ms = self.queue.now_ms();
        self.queue.after(QUIET_MS, Event::Compare(peer));
    }

    fn compare(&mut self, peer: usize) {
        let now_ms = self.queue.now_ms();
        let node = &mut self.nodes[peer];
        let quiet = now_ms - node.changed_ms >= QUIET_MS && node.compared_ms <= node.changed_ms;
        if !node.alive || !quiet || matches!(node.kind, Kind::Hole | Kind::Hostile) {
            return;
        }
        node.compared_ms = now_ms;
        let held = node.held.clone();
        let to: Vec<usize> =
            node.overlay.neighbours().chain(node.overlay.leaves()).map(|peer| self.by_device[peer]).collect();
        for other in to {
            self.send(peer, other, Packet::Clock { held: held.clone(), answer: false });
        }
    }

    pub(super) fn send(&mut self, from: usize, to: usize, packet: Packet) {
        let Some(epoch) = self.nodes[from].links.get(&to).copied() else { return };
        // What a hole keeps to itself.
        let forwards = match &packet {
            Packet::Overlay(message) => !matches!(message, Message::IHave { .. } | Message::Graft { .. }),
            Packet::Payload { .. } | Packet::Clock { .. } => false,
        };
        if self.nodes[from].kind == Kind::Hole && !forwards {
            return;
        }
        if let Packet::Overlay(message) = &packet {
            let bytes = minicbor::to_vec(message).map_or(0, |bytes| bytes.len() as u64);
            self.nodes[from].sent_bytes += bytes;
            self.nodes[from].sent_messages += 1;
            if self.ledger.items.len() > self.plan.warm_items {
                self.ledger.messages += 1;
                self.ledger.message_bytes += bytes;
            }
        }
        if from == 0 && matches!(packet, Packet::Payload { repair: false, .. }) {
            self.ledger.bootstrap_gave += u64::from(self.ledger.items.len() > self.plan.warm_items);
        }
        self.queue.after(delay_ms(self.plan.seed, from, to), Event::Packet { from, to, epoch, packet });
    }

    /// Does what the overlay of a peer wants done.
    pub(super) fn drain(&mut self, peer: usize) {
        while let Some(effect) = self.nodes[peer].overlay.poll() {
            match effect {
                Effect::Send { to, message } => self.send(peer, self.by_device[&to], Packet::Overlay(message)),
                Effect::Push { to, item } => {
                    self.send(peer, self.by_device[&to], Packet::Payload { item, repair: false })
                }
                Effect::Dial { record } => {
                    let Some(other) = self.by_device.get(&record.device).copied() else {
                        let device = record.device;
                        self.queue.after(DIAL_FAILS_MS, Event::DialFailed { at: peer, device });
                        continue;
                    };
                    // TCP and the handshake: two round trips.
                    let delay = 4 * delay_ms(self.plan.seed, peer, other);
                    self.queue.after(delay, Event::Connected { dialler: peer, other });
                }
                Effect::Release { peer: other } => {
                    let other = self.by_device[&other];
                    if let Some(epoch) = self.nodes[peer].links.remove(&other) {
                        let device = self.nodes[other].device;
                        let now = self.now();
                        self.nodes[peer].overlay.link_down(now, &device);
                        let delay = delay_ms(self.plan.seed, peer, other);
                        self.queue.after(delay, Event::Down { at: other, peer, epoch });
                    }
                }
            }
        }
        let sizes = self.nodes[peer].overlay.sizes();
        let most = &mut self.most;
        most.links = most.links.max(sizes.links);
        most.passive = most.passive.max(sizes.passive);
        most.shunned = most.shunned.max(sizes.shunned);
        most.seen = most.seen.max(sizes.seen);
        most.missing = most.missing.max(sizes.missing);
        if let Some(due) = self.nodes[peer].overlay.due() {
            let due_ms = due.0.max(self.queue.now_ms() + 1);
            if due_ms < self.nodes[peer].wake_ms {
                self.nodes[peer].wake_ms = due_ms;
                self.queue.at(due_ms, Event::Wake(peer));
            }
        }
    }

    /// Sets of peers that reach one another over neighbours (and attachments): the living and honest only.
    pub(super) fn components(&self) -> usize {
        let mut seen = vec![false; self.nodes.len()];
        let mut components = 0;
        for start in 0..self.nodes.len() {
            if seen[start] || !self.counts(start) {
                continue;
            }
            components += 1;
            let mut open = vec![start];
            while let Some(peer) = open.pop() {
                if std::mem::replace(&mut seen[peer], true) {
                    continue;
                }
                let overlay = &self.nodes[peer].overlay;
                let next = overlay.neighbours().chain(overlay.leaves()).map(|peer| self.by_device[peer]);
                open.extend(next.filter(|peer| self.counts(*peer)));
            }
        }
        components
    }

    fn counts(&self, peer: usize) -> bool {
        self.nodes[peer].alive && !matches!(self.nodes[peer].kind, Kind::Hole | Kind::Hostile)
    }

    /// Pairs of which one takes the other for a neighbour and not the other way round.
    pub(super) fn lopsided(&self) -> usize {
        let pairs = self.nodes.iter().filter(|node| node.alive).flat_map(|node| {
            node.overlay.neighbours().filter(|peer| {
                let other = &self.nodes[self.by_device[*peer]];
                other.alive
                    && !other.overlay.neighbours().chain(other.overlay.leaves()).any(|peer| *peer == node.device)
            })
        });
        pairs.count()
    }
}
