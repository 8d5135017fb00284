//! iroh-gossip's protocol under the same plan: the baseline to beat.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use iroh_gossip::proto::state::MessageKind;
use iroh_gossip::proto::topic::{Command, Event as TopicEvent};
use iroh_gossip::proto::{Config, InEvent, Message, OutEvent, PeerData, Scope, State, Timer, TopicId};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::time::Instant;

use super::ledger::{Ledger, schedule};
use super::queue::{Queue, delay_ms};
use super::scenario::Cast;
use super::{DETECT_MS, Plan};

enum Event {
    Join(usize),
    Write(usize),
    Kill(usize),
    Message { from: usize, to: usize, message: Message<u32> },
    Timer { peer: usize, timer: Timer<u32> },
    Disconnected { at: usize, peer: usize },
}

struct Baseline {
    plan: Plan,
    start: Instant,
    topic: TopicId,
    queue: Queue<Event>,
    peers: Vec<Option<State<u32, ChaCha12Rng>>>,
    links: BTreeSet<(usize, usize)>,
    ledger: Ledger,
    /// What a payload says: item index to (writer, number).
    payloads: HashMap<u64, (usize, u64)>,
}

/// Runs the plan. Leaves, holes and peers that cannot be dialled do not exist here.
pub(super) fn run(plan: &Plan, cast: &Cast) -> Ledger {
    let mut run = Baseline {
        plan: plan.clone(),
        start: Instant::now(),
        topic: TopicId::from([7; 32]),
        queue: Queue::new(),
        peers: Vec::new(),
        links: BTreeSet::new(),
        ledger: Ledger::new(plan.warm_items),
        payloads: HashMap::new(),
    };
    for peer in 0..plan.peers {
        let rng = ChaCha12Rng::seed_from_u64(plan.seed.wrapping_mul(1_000_003) + peer as u64);
        run.peers.push(Some(State::new(peer as u32, PeerData::default(), Config::default(), rng)));
        run.queue.at(peer as u64 * plan.join_every_ms, Event::Join(peer));
    }
    let joined_ms = plan.peers as u64 * plan.join_every_ms;
    if plan.bootstrap_dies {
        run.queue.at(joined_ms + 1_000, Event::Kill(0));
    }
    let writes = schedule(plan, joined_ms + plan.settle_ms, &cast.writers);
    writes.iter().for_each(|(at_ms, writer)| run.queue.at(*at_ms, Event::Write(*writer)));
    for peer in &cast.killed {
        run.queue.at(cast.kill_ms(plan), Event::Kill(*peer));
    }
    let end_ms = writes.last().map_or(joined_ms, |(at_ms, _)| *at_ms) + plan.drain_ms;
    while let Some(event) = run.queue.next(end_ms) {
        run.happens(event);
    }
    run.ledger
}

impl Baseline {
    fn happens(&mut self, event: Event) {
        match event {
            Event::Join(peer) => {
                let others = if peer == 0 { vec![] } else { vec![0] };
                self.handle(peer, InEvent::Command(self.topic, Command::Join(others)));
            }
            Event::Write(writer) => {
                if self.peers[writer].is_none() {
                    return;
                }
                let (index, n) = self.ledger.write(self.queue.now_ms(), writer, self.plan.peers);
                self.payloads.insert(index as u64, (writer, n));
                let content = (index as u64).to_le_bytes().to_vec();
                self.handle(writer, InEvent::Command(self.topic, Command::Broadcast(content.into(), Scope::Swarm)));
            }
            Event::Kill(peer) => {
                self.peers[peer] = None;
                let gone: Vec<(usize, usize)> =
                    self.links.iter().filter(|(a, b)| *a == peer || *b == peer).copied().collect();
                for (a, b) in gone {
                    self.links.remove(&(a, b));
                    let at = if a == peer { b } else { a };
                    self.queue.after(DETECT_MS, Event::Disconnected { at, peer });
                }
            }
            Event::Message { from, to, message } => {
                if self.peers[to].is_none() {
                    // A dial of a dead peer fails after a second.
                    if self.links.contains(&(from.min(to), from.max(to))) {
                        return;
                    }
                    return self.queue.after(1_000, Event::Disconnected { at: from, peer: to });
                }
                self.links.insert((from.min(to), from.max(to)));
                if self.ledger.items.len() > self.plan.warm_items && matches!(message.kind(), MessageKind::Control) {
                    self.ledger.messages += 1;
                    self.ledger.message_bytes += message.size().unwrap_or(0) as u64;
                }
                let data = matches!(message.kind(), MessageKind::Data);
                let before = self.ledger.payloads;
                self.handle(to, InEvent::RecvMessage(from as u32, message));
                // A duplicate causes no event, so the arrival of each payload is counted here.
                let measured = self.ledger.items.len() > self.plan.warm_items;
                if data && measured && self.ledger.payloads == before {
                    self.ledger.payloads += 1;
                }
            }
            Event::Timer { peer, timer } => self.handle(peer, InEvent::TimerExpired(timer)),
            Event::Disconnected { at, peer } => self.handle(at, InEvent::PeerDisconnected(peer as u32)),
        }
    }

    fn handle(&mut self, peer: usize, event: InEvent<u32>) {
        let now_ms = self.queue.now_ms();
        let now = self.start + Duration::from_millis(now_ms);
        let Some(state) = self.peers[peer].as_mut() else { return };
        let out: Vec<OutEvent<u32>> = state.handle(event, now, None).collect();
        for event in out {
            match event {
                OutEvent::SendMessage(to, message) => {
                    let delay = delay_ms(self.plan.seed, peer, to as usize);
                    self.queue.after(delay, Event::Message { from: peer, to: to as usize, message });
                }
                OutEvent::ScheduleTimer(after, timer) => {
                    self.queue.after(after.as_millis() as u64, Event::Timer { peer, timer });
                }
                OutEvent::DisconnectPeer(to) => {
                    let to = to as usize;
                    if self.links.remove(&(peer.min(to), peer.max(to))) {
                        let delay = delay_ms(self.plan.seed, peer, to);
                        self.queue.after(delay, Event::Disconnected { at: to, peer });
                    }
                }
                OutEvent::EmitEvent(_, TopicEvent::Received(received)) => {
                    let index = received.content.as_ref().try_into().map(u64::from_le_bytes);
                    if let Some((writer, n)) = index.ok().and_then(|index| self.payloads.get(&index)) {
                        self.ledger.arrived_one(now_ms, *writer, *n, peer);
                    }
                }
                OutEvent::EmitEvent(..) | OutEvent::PeerData(..) => {}
            }
        }
    }
}
