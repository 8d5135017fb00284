//! A peer that floods: it connects to as many as let it, and says to each whatever costs most.

use commonhold_sync::id::ChainId;
use commonhold_sync::message::roles;
use commonhold_sync::overlay::{ITEMS_MAX, Item, Message, RECORDS_MAX, TTL_MAX};
use commonhold_sync::peer_record::PeerRecord;
use ed25519_dalek::SigningKey;

use super::queue::drawn;
use super::swarm::{Event, Packet, Swarm, chain_of};

/// Between two bursts. 40 messages a second to each of its links.
pub(super) const BURST_EVERY_MS: u64 = 200;
/// Links that it keeps.
const LINKS: usize = 20;

/// Records of peers that do not exist, well signed.
pub(super) fn inventions(seed: u64) -> Vec<PeerRecord> {
    let invent = |i: u64| {
        let secret: [u8; 32] = core::array::from_fn(|at| drawn(seed, 900 + i, at as u64) as u8);
        let address = format!("ws://10.9.{}.{}:4000/", i / 250, i % 250);
        PeerRecord::sign(&SigningKey::from_bytes(&secret), 1, roles::STORE, &[address])
    };
    (0..400).map(invent).collect()
}

impl Swarm {
    pub(super) fn flood(&mut self, peer: usize) {
        self.queue.after(BURST_EVERY_MS, Event::Flood(peer));
        let now_ms = self.queue.now_ms();
        let mut draws = 0;
        let mut draw = |end: u64| {
            draws += 1;
            drawn(self.plan.seed ^ now_ms, peer as u64, draws) % end
        };
        if self.nodes[peer].links.len() < LINKS {
            let other = draw(self.plan.peers as u64) as usize;
            if !self.nodes[peer].links.contains_key(&other) && other != peer {
                self.queue.after(100, Event::Connected { dialler: peer, other });
            }
        }
        let mut records = |count: usize| -> Vec<PeerRecord> {
            (0..count).map(|_| self.inventions[draw(self.inventions.len() as u64) as usize].clone()).collect()
        };
        let known = records(RECORDS_MAX);
        let fake = |i: u64| Item {
            chain: ChainId(core::array::from_fn(|at| drawn(now_ms, i, at as u64 / 8) as u8)),
            n: 1 + i,
        };
        // Chains that nobody has, and the next of those that all wait for.
        let mut items: Vec<Item> = (0..ITEMS_MAX as u64 / 2).map(fake).collect();
        items.extend((0..self.plan.peers.min(ITEMS_MAX / 2)).map(|writer| Item { chain: chain_of(writer), n: 1_000 }));
        let held: Vec<Item> =
            (0..self.plan.peers.min(ITEMS_MAX)).map(|writer| Item { chain: chain_of(writer), n: 1 }).collect();
        let burst = [
            Message::Join,
            Message::Neighbour { urgent: true },
            Message::Answer { accepted: true, others: known.clone() },
            Message::IHave { items },
            Message::Graft { eager: true, items: held },
            Message::Shuffle { records: known.clone() },
            Message::ShuffleReply { records: known.clone() },
            Message::ForwardJoin { record: known[0].clone(), ttl: TTL_MAX },
        ];
        for other in self.nodes[peer].links.keys().copied().collect::<Vec<_>>() {
            burst.iter().for_each(|message| self.send(peer, other, Packet::Overlay(message.clone())));
        }
    }
}
