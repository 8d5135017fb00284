//! Introducing peers to one another: who announced a topic, for a while. Soft state: it is never stored, and a tracker that
//! starts anew knows everybody again after half a TTL.
//!
//! A topic is a hash of a space and a day, so a tracker that does not know a space learns only that some peers have something
//! in common today. It is not told the id, and tomorrow's topic says nothing about today's.
//!
//! Not here: who is asked and when (the engine), and how an announce comes (`message`, or HTTP).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::id::{DeviceId, SpaceId, Topic};
use crate::message::{Found, PEERS_MAX, Peers, TOPICS_MAX};
use crate::peer::Now;
use crate::peer_record::PeerRecord;

/// Seconds for which an announce counts. Whoever is gone is named for half an hour at most, and 10,000 peers that announce
/// again after half of it are 11 announces a second. A guess.
pub const TRACKER_TTL_S: u64 = 1_800;
/// Peers named for one topic in an answer: more than an overlay has neighbours.
pub const TRACKER_SAMPLE_MAX: usize = 16;
/// How close to midnight the neighbouring day is announced too: by this much may two clocks differ.
pub const TOPIC_OVERLAP_MS: u64 = 7_200_000;

const DAY_MS: u64 = 86_400_000;
/// In which the announces of one device are counted.
const WINDOW_MS: u64 = 60_000;

impl Topic {
    /// `BLAKE3("commonhold topic 1" ‖ space ‖ day (u64 be))`; days are counted from 1970, in UTC.
    pub fn of(space: &SpaceId, day: u64) -> Topic {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"commonhold topic 1").update(&space.0).update(&day.to_be_bytes());
        Topic(*hasher.finalize().as_bytes())
    }

    /// Today's, and within [`TOPIC_OVERLAP_MS`] of midnight that of the day beyond it. `wall_ms` counts from 1970.
    pub fn around(space: &SpaceId, wall_ms: u64) -> impl Iterator<Item = Topic> + use<> {
        let day = |at: u64| at / DAY_MS;
        let (before, after) = (wall_ms.saturating_sub(TOPIC_OVERLAP_MS), wall_ms.saturating_add(TOPIC_OVERLAP_MS));
        let neighbour = [day(before), day(after)].into_iter().find(|other| *other != day(wall_ms));
        let space = *space;
        [Some(day(wall_ms)), neighbour].into_iter().flatten().map(move |day| Topic::of(&space, day))
    }
}

/// What a device signs whose announce comes over HTTP, where no channel proves who sends it:
/// `"commonhold announce 1" ‖ BLAKE3(record as CBOR) ‖ number of topics (u16 be) ‖ topics`. Said again by somebody else, it keeps a device
/// listed that is gone; of no other topic, and of these for the rest of their day.
fn announce_bytes(record: &PeerRecord, topics: &[Topic]) -> Vec<u8> {
    let encoded = minicbor::to_vec(record).expect("writing to a Vec cannot fail");
    let mut bytes = b"commonhold announce 1".to_vec();
    bytes.extend(blake3::hash(&encoded).as_bytes());
    bytes.extend((topics.len() as u16).to_be_bytes());
    topics.iter().for_each(|topic| bytes.extend(topic.0));
    bytes
}

/// Signs an announce of this device.
pub fn sign_announce(key: &SigningKey, record: &PeerRecord, topics: &[Topic]) -> [u8; 64] {
    key.sign(&announce_bytes(record, topics)).to_bytes()
}

/// Whether the device of the record signed this announce. The record itself is verified by [`Tracker::announce`].
pub fn verify_announce(record: &PeerRecord, topics: &[Topic], signature: &[u8; 64]) -> Result<(), TrackerRefusal> {
    let key = VerifyingKey::from_bytes(&record.device.0).map_err(|_| TrackerRefusal::BadSignature)?;
    let signed = announce_bytes(record, topics);
    key.verify_strict(&signed, &Signature::from_bytes(signature)).map_err(|_| TrackerRefusal::BadSignature)
}

/// The neighbourhood that an announce came from: an IPv4 /24 or an IPv6 /48, which one party is likely to command as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Block {
    /// No address: this process, or a transport without any.
    #[default]
    Local,
    /// First three bytes.
    V4([u8; 3]),
    /// First six bytes.
    V6([u8; 6]),
}

impl Block {
    /// The block of an address.
    pub fn of(address: IpAddr) -> Block {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Block::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, ..] = address.octets();
                Block::V6([a, b, c, d, e, f])
            }
        }
    }
}

/// Bounds of a tracker. A device costs about 400 bytes with an ordinary record and 2.5 KiB with the largest, a device in a
/// topic about 100: by default 13 MiB, and 30 at worst.
#[derive(Debug, Clone)]
pub struct TrackerLimits {
    /// Devices in all.
    pub devices_max: usize,
    /// Devices of one block: many at one office's or one provider's address.
    pub devices_per_block: usize,
    /// Devices of one topic.
    pub devices_per_topic: usize,
    /// Of those, from one block.
    pub devices_per_topic_and_block: usize,
    /// Devices in topics, in all.
    pub places_max: usize,
    /// Announces of one device in a minute.
    pub announces_per_minute: u32,
}

impl Default for TrackerLimits {
    /// Guesses: an attacker who is to have all places needs addresses in 32 blocks.
    fn default() -> Self {
        TrackerLimits {
            devices_max: 8_192,
            devices_per_block: 256,
            devices_per_topic: 1_024,
            devices_per_topic_and_block: 32,
            places_max: 131_072,
            announces_per_minute: 8,
        }
    }
}

/// Why an announce was not taken. Each has a stable code (docs/protocol.md, "Notices").
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrackerRefusal {
    /// This peer does not play the role.
    #[error("this peer is no tracker")]
    Off,
    /// The record is not signed by its device, or the announce is not.
    #[error("the announce is not signed by its device")]
    BadSignature,
    /// More topics than one announce may have.
    #[error("an announce has at most {TOPICS_MAX} topics")]
    TooManyTopics,
    /// An older record than the one that is held.
    #[error("the device has announced a newer record already")]
    Outdated,
    /// The device announces too often.
    #[error("too many announces of this device within a minute")]
    TooOften,
    /// No room, and nobody who takes up more of it than the newcomer's block.
    #[error("the tracker has no room for another peer; try again later")]
    Full,
}

impl TrackerRefusal {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            TrackerRefusal::Off => "tracker-off",
            TrackerRefusal::BadSignature => "tracker-signature",
            TrackerRefusal::TooManyTopics => "tracker-topics",
            TrackerRefusal::Outdated => "tracker-outdated",
            TrackerRefusal::TooOften => "tracker-busy",
            TrackerRefusal::Full => "tracker-full",
        }
    }
}

/// Who announced what.
#[derive(Debug)]
pub struct Tracker {
    limits: TrackerLimits,
    devices: BTreeMap<DeviceId, Listed>,
    /// Sorted, so that a sample costs what it holds and not what the topic holds.
    topics: BTreeMap<Topic, Vec<DeviceId>>,
    /// By when they expire, so that the one that has been silent for the longest goes first.
    blocks: BTreeMap<Block, BTreeSet<(Now, DeviceId)>>,
    expiry: BTreeSet<(Now, DeviceId)>,
    places: usize,
}

#[derive(Debug)]
struct Listed {
    record: PeerRecord,
    block: Block,
    topics: BTreeSet<Topic>,
    until: Now,
    /// When counting began, and announces since.
    window: (Now, u32),
}

impl Tracker {
    /// A tracker that knows nobody.
    pub fn new(limits: TrackerLimits) -> Tracker {
        Tracker {
            limits,
            devices: BTreeMap::new(),
            topics: BTreeMap::new(),
            blocks: BTreeMap::new(),
            expiry: BTreeSet::new(),
            places: 0,
        }
    }

    /// Devices listed now.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether nobody is listed.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Lists a device under these topics, in place of those that it announced before, and names others. Who can be dialled
    /// nowhere is told of others, and not listed. `seed` decides who is named.
    pub fn announce(
        &mut self,
        now: Now,
        record: &PeerRecord,
        topics: &[Topic],
        block: Block,
        seed: [u8; 32],
    ) -> Result<Peers, TrackerRefusal> {
        self.expire(now);
        if topics.len() > TOPICS_MAX {
            return Err(TrackerRefusal::TooManyTopics);
        }
        let window = self.window(now, &record.device)?;
        record.verify().map_err(|_| TrackerRefusal::BadSignature)?;
        if self.devices.get(&record.device).is_some_and(|listed| listed.record.replaces(record)) {
            return Err(TrackerRefusal::Outdated);
        }
        let known = self.remove(&record.device).is_some();
        if !record.addresses.is_empty() && !topics.is_empty() {
            self.list(now, record, topics, block, window, known)?;
        }
        Ok(Peers { ttl_s: TRACKER_TTL_S, found: self.sample(&record.device, topics, seed) })
    }

    /// Forgets those whose time is over.
    pub fn expire(&mut self, now: Now) {
        while let Some((until, device)) = self.expiry.first().copied().filter(|(until, _)| *until <= now) {
            if self.remove(&device).is_none() {
                self.expiry.remove(&(until, device));
            }
        }
    }

    fn window(&self, now: Now, device: &DeviceId) -> Result<(Now, u32), TrackerRefusal> {
        let Some(listed) = self.devices.get(device) else { return Ok((now, 1)) };
        match listed.window {
            (since, count) if now.0.saturating_sub(since.0) < WINDOW_MS => {
                if count >= self.limits.announces_per_minute {
                    return Err(TrackerRefusal::TooOften);
                }
                Ok((since, count + 1))
            }
            _ => Ok((now, 1)),
        }
    }

    fn list(
        &mut self,
        now: Now,
        record: &PeerRecord,
        topics: &[Topic],
        block: Block,
        window: (Now, u32),
        known: bool,
    ) -> Result<(), TrackerRefusal> {
        let of_block = self.blocks.get(&block).map_or(0, BTreeSet::len);
        if of_block >= self.limits.devices_per_block {
            self.drop_oldest_of(&block);
        } else if self.devices.len() >= self.limits.devices_max && !self.make_room(of_block, known) {
            return Err(TrackerRefusal::Full);
        }
        let until = Now(now.0 + TRACKER_TTL_S * 1_000);
        let device = record.device;
        let mut listed = Listed { record: record.clone(), block, topics: BTreeSet::new(), until, window };
        // Noted first, so that a place that is taken from others is never taken from this device.
        self.expiry.insert((until, device));
        self.blocks.entry(block).or_default().insert((until, device));
        for topic in topics {
            if !listed.topics.contains(topic) && self.take_place(*topic, device, block) {
                listed.topics.insert(*topic);
            }
        }
        self.devices.insert(device, listed);
        Ok(())
    }

    /// The block with the most devices gives one up, if it has more than the newcomer's; whoever was here already may stay if
    /// it has as many.
    fn make_room(&mut self, of_block: usize, known: bool) -> bool {
        let largest = self.blocks.iter().max_by_key(|(_, devices)| devices.len());
        let Some((block, largest)) = largest.map(|(block, devices)| (*block, devices.len())) else { return false };
        let fair = largest > of_block + 1 || (known && largest > of_block);
        fair && self.drop_oldest_of(&block)
    }

    fn drop_oldest_of(&mut self, block: &Block) -> bool {
        let oldest = self.blocks.get(block).and_then(|devices| devices.first()).map(|(_, device)| *device);
        oldest.is_some_and(|device| self.remove(&device).is_some())
    }

    /// Puts a device under a topic. The places of a topic and those of a block in it are given to whoever was heard of last.
    fn take_place(&mut self, topic: Topic, device: DeviceId, block: Block) -> bool {
        if self.places >= self.limits.places_max {
            return false;
        }
        let there = self.topics.get(&topic).map_or(&[][..], Vec::as_slice);
        let until = |other: &DeviceId| self.devices.get(other).map_or(Now(0), |listed| listed.until);
        let of_block = |other: &&DeviceId| self.devices.get(*other).is_some_and(|listed| listed.block == block);
        let neighbours = there.iter().filter(of_block).count();
        let goes = if neighbours >= self.limits.devices_per_topic_and_block {
            there.iter().filter(of_block).min_by_key(|other| until(other))
        } else if there.len() >= self.limits.devices_per_topic {
            there.iter().min_by_key(|other| until(other))
        } else {
            None
        };
        if let Some(other) = goes.copied() {
            self.leave(&topic, &other);
            if let Some(listed) = self.devices.get_mut(&other) {
                listed.topics.remove(&topic);
            }
        }
        let there = self.topics.entry(topic).or_default();
        if let Err(at) = there.binary_search(&device) {
            there.insert(at, device);
            self.places += 1;
        }
        true
    }

    fn leave(&mut self, topic: &Topic, device: &DeviceId) {
        let Some(there) = self.topics.get_mut(topic) else { return };
        if let Ok(at) = there.binary_search(device) {
            there.remove(at);
            self.places -= 1;
        }
        if there.is_empty() {
            self.topics.remove(topic);
        }
    }

    fn remove(&mut self, device: &DeviceId) -> Option<Listed> {
        let listed = self.devices.remove(device)?;
        listed.topics.iter().for_each(|topic| self.leave(topic, device));
        self.expiry.remove(&(listed.until, *device));
        if let Some(devices) = self.blocks.get_mut(&listed.block) {
            devices.remove(&(listed.until, *device));
            if devices.is_empty() {
                self.blocks.remove(&listed.block);
            }
        }
        Some(listed)
    }

    /// Of each topic a few, one of each topic first, so that none is crowded out by another.
    fn sample(&self, asker: &DeviceId, topics: &[Topic], seed: [u8; 32]) -> Vec<Found> {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut drawn: Vec<(u32, Vec<DeviceId>)> = Vec::new();
        for (at, topic) in topics.iter().enumerate() {
            let Some(there) = self.topics.get(topic) else { continue };
            let picked = draw(there.len(), TRACKER_SAMPLE_MAX + 1, &mut rng).into_iter().map(|at| there[at]);
            drawn.push((at as u32, picked.filter(|device| device != asker).take(TRACKER_SAMPLE_MAX).collect()));
        }
        let mut named: BTreeMap<DeviceId, Vec<u32>> = BTreeMap::new();
        for round in 0..TRACKER_SAMPLE_MAX {
            for (at, devices) in &drawn {
                let Some(device) = devices.get(round) else { continue };
                if named.len() < PEERS_MAX || named.contains_key(device) {
                    named.entry(*device).or_default().push(*at);
                }
            }
        }
        let found = |(device, topics)| Some(Found { record: self.devices.get(&device)?.record.clone(), topics });
        named.into_iter().filter_map(found).collect()
    }
}

/// Up to `count` different numbers below `below`, in the order of the draw (Floyd's method, then shuffled).
fn draw(below: usize, count: usize, rng: &mut ChaCha20Rng) -> Vec<usize> {
    let count = count.min(below);
    let mut random = |below: usize| (rng.next_u64() % below as u64) as usize;
    let mut drawn: Vec<usize> = Vec::with_capacity(count);
    for top in below - count..below {
        let number = random(top + 1);
        drawn.push(if drawn.contains(&number) { top } else { number });
    }
    for at in (1..drawn.len()).rev() {
        drawn.swap(at, random(at + 1));
    }
    drawn
}

#[cfg(test)]
mod tests;
