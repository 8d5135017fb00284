use std::sync::LazyLock;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::model::Model;
use super::*;
use crate::record::{Privacy, Record};

mod property;
mod rules;

const SPACE: SpaceId = SpaceId([0x5a; 32]);
const DOC: DocId = DocId([0xd0; 32]);
const OTHER: DocId = DocId([0xd1; 32]);
const EVER: u64 = u64::MAX;

/// The keys of two identities.
static ROOTS: LazyLock<[RootKeys; 2]> =
    LazyLock::new(|| [1, 2].map(|seed| RootKeys::of_seed(&[seed; 32], ROOT_KEYS_MAX)));

fn device(n: u8) -> DeviceId {
    DeviceId([n; 32])
}

fn key_of(identity: usize, index: usize) -> DeviceId {
    DeviceId(ROOTS[identity].keys()[index].verifying_key().to_bytes())
}

/// The chain of a run of a device in a log.
fn chain(log: &DocId, device: &DeviceId, run: u8) -> ChainId {
    let hash = blake3::hash(&[&log.0[..], &device.0, &[run]].concat());
    ChainId(hash.as_bytes()[..16].try_into().unwrap())
}

/// Devices that say records, and what has been said.
#[derive(Default)]
struct Talk {
    said: Vec<(RecordAt, Record)>,
    lengths: BTreeMap<ChainId, u64>,
}

impl Talk {
    /// The device says a record as the next of its chain of run 0.
    fn say(&mut self, device: DeviceId, record: Record) -> RecordAt {
        self.say_in(0, device, record)
    }

    fn say_in(&mut self, run: u8, device: DeviceId, record: Record) -> RecordAt {
        let chain = chain(&SPACE.authority(), &device, run);
        let n = self.lengths.entry(chain).or_default();
        *n += 1;
        let at = RecordAt { device, chain, n: *n, id: Record::id(&SPACE, &device, &record.to_bytes()) };
        self.said.push((at, record));
        at
    }

    fn grant(&mut self, by: DeviceId, subject: impl Into<Subject>, right: Right) -> EntryId {
        self.say(by, Record::Grant { subject: subject.into(), right, gateway: false, again: 0 }).id
    }

    /// Takes back records, and leaves so much of what chains.
    fn revoke(&mut self, by: DeviceId, records: &[EntryId], stays: &[(DocId, ChainId, u64)]) -> RecordAt {
        let mut list: BTreeMap<DocId, BTreeMap<ChainId, u64>> = BTreeMap::new();
        for (doc, chain, n) in stays {
            list.entry(*doc).or_default().insert(*chain, *n);
        }
        let records = revocation(records.to_vec(), &list);
        records.into_iter().map(|record| self.say(by, record)).last().unwrap()
    }

    fn found(&mut self, identity: usize, index: usize) {
        self.say(key_of(identity, index), ROOTS[identity].founding());
    }

    fn member(&mut self, identity: usize, index: usize, device: DeviceId) -> EntryId {
        let identity_id = ROOTS[identity].identity();
        let record = Record::Member { identity: identity_id, device, name: "a device".into(), again: 0 };
        self.say(key_of(identity, index), record).id
    }

    fn authority(&self, root: impl Into<Subject>) -> Authority {
        let mut authority = space(root.into(), Writers::Granted);
        self.said.iter().for_each(|(at, record)| authority.note(*at, record));
        authority
    }
}

fn space(root: Subject, writers: Writers) -> Authority {
    let mut authority = Authority::new(SPACE);
    authority.set_genesis(&Genesis { root, privacy: Privacy::Public, writers, rules: 1, nonce: [0; 16] });
    authority
}

/// Number of the last entry of run 0 of a device in a log that counts as written by it.
fn written(authority: &Authority, log: DocId, device: DeviceId) -> u64 {
    authority.limit(&log, &chain(&log, &device, 0), &device, Right::Write).end()
}
