//! The role of a tracker, and what an announce looks like over HTTP. One table serves connections and HTTP alike.

pub(crate) mod http;

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Instant;

use commonhold_sync::message::{Announce, Found, Peers};
use commonhold_sync::peer::Now;
use commonhold_sync::peer_record::PeerRecord;
use commonhold_sync::tracker::{Block, Tracker, TrackerLimits, TrackerRefusal, sign_announce, verify_announce};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::shared::locked;
use crate::start::random;

/// Bytes of an announce as JSON, at most: 256 topics of 64 digits, and the largest record as digits.
pub const ANNOUNCE_JSON_MAX: usize = 64 << 10;
/// The same of an answer: 128 of the largest records.
pub(crate) const PEERS_JSON_MAX: usize = 1 << 20;

/// An announce over HTTP. Bytes are hex digits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnounceRequest {
    /// The peer record, CBOR.
    pub record: String,
    /// 32 bytes each.
    pub topics: Vec<String>,
    /// Of the device over both ([`sign_announce`]).
    pub signature: String,
}

/// The answer over HTTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AnnounceAnswer {
    /// Seconds for which the announce counts.
    pub ttl_s: u64,
    /// Who announced the same.
    pub peers: Vec<FoundPeer>,
}

/// One peer of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FoundPeer {
    /// Its record, CBOR.
    pub record: String,
    /// Places of the common topics in the announce, from 0.
    pub topics: Vec<u32>,
}

/// Why an announce over HTTP came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// It does not decode.
    #[error("{0}")]
    Malformed(String),
    /// The tracker does not take it.
    #[error(transparent)]
    Refused(#[from] TrackerRefusal),
    /// The tracker's operator has blocked the device, or the address.
    #[error("this tracker's operator wants nothing to do with that device, or that address")]
    Blocked,
}

impl AnnounceError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            AnnounceError::Malformed(_) => "tracker-malformed",
            AnnounceError::Refused(refusal) => refusal.code(),
            AnnounceError::Blocked => "tracker-blocked",
        }
    }
}

/// The table, and the clock that it goes by.
#[derive(Debug)]
pub(crate) struct TrackerRole {
    table: Mutex<Tracker>,
    epoch: Instant,
}

impl TrackerRole {
    pub(crate) fn new() -> TrackerRole {
        TrackerRole { table: Mutex::new(Tracker::new(TrackerLimits::default())), epoch: Instant::now() }
    }

    /// An announce whose sender is proven to be the device of its record.
    pub(crate) fn announce(&self, announce: &Announce, from: Option<IpAddr>) -> Result<Peers, TrackerRefusal> {
        let seed = random().map_err(|_| TrackerRefusal::Full)?;
        let now = Now(self.epoch.elapsed().as_millis() as u64);
        let block = from.map(Block::of).unwrap_or_default();
        locked(&self.table).announce(now, &announce.record, &announce.topics, block, seed)
    }

    pub(crate) fn devices(&self) -> usize {
        locked(&self.table).len()
    }
}

impl AnnounceRequest {
    /// An announce of this device.
    pub(crate) fn sign(key: &SigningKey, announce: &Announce) -> AnnounceRequest {
        AnnounceRequest {
            record: to_hex(&minicbor::to_vec(&announce.record).expect("writing to a Vec cannot fail")),
            topics: announce.topics.iter().map(ToString::to_string).collect(),
            signature: to_hex(&sign_announce(key, &announce.record, &announce.topics)),
        }
    }

    /// Decodes it and verifies the signature over both parts; that of the record is the table's to verify.
    pub(crate) fn verified(&self) -> Result<Announce, AnnounceError> {
        let malformed = |what: &str| AnnounceError::Malformed(what.to_owned());
        let record =
            record_of(&self.record).ok_or_else(|| malformed("the record is not a peer record in hex digits"))?;
        let topics = self.topics.iter().map(|topic| topic.parse()).collect::<Result<Vec<_>, _>>();
        let topics = topics.map_err(|error| AnnounceError::Malformed(format!("a topic does not decode: {error}")))?;
        if topics.len() > commonhold_sync::message::TOPICS_MAX {
            return Err(TrackerRefusal::TooManyTopics.into());
        }
        let signature = from_hex(&self.signature).and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
        let signature = signature.ok_or_else(|| malformed("the signature is not 128 hex digits"))?;
        verify_announce(&record, &topics, &signature)?;
        Ok(Announce { record, topics })
    }
}

impl From<Peers> for AnnounceAnswer {
    fn from(peers: Peers) -> Self {
        let found = |found: Found| FoundPeer {
            record: to_hex(&minicbor::to_vec(&found.record).expect("writing to a Vec cannot fail")),
            topics: found.topics,
        };
        AnnounceAnswer { ttl_s: peers.ttl_s, peers: peers.found.into_iter().map(found).collect() }
    }
}

impl AnnounceAnswer {
    /// What a tracker answered. Records that do not decode are left out; those that do are not verified yet.
    pub(crate) fn peers(&self) -> Peers {
        let found = self.peers.iter().take(commonhold_sync::message::PEERS_MAX);
        let found =
            found.filter_map(|peer| Some(Found { record: record_of(&peer.record)?, topics: peer.topics.clone() }));
        Peers { ttl_s: self.ttl_s, found: found.collect() }
    }
}

fn record_of(digits: &str) -> Option<PeerRecord> {
    minicbor::decode(&from_hex(digits)?).ok()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use commonhold_sync::id::{SpaceId, Topic};

    use super::*;

    fn announce(n: u8) -> (SigningKey, Announce) {
        let key = SigningKey::from_bytes(&[n; 32]);
        let record = PeerRecord::sign(&key, 1_000, 3, &["ws://192.0.2.1:7340/".into()]);
        (key, Announce { record, topics: vec![Topic::of(&SpaceId([1; 32]), 20_000)] })
    }

    #[test]
    fn an_announce_survives_its_json_and_nothing_in_it_can_be_altered() {
        let (key, said) = announce(1);
        let request = AnnounceRequest::sign(&key, &said);
        let text = serde_json::to_string(&request).unwrap();
        let again: AnnounceRequest = serde_json::from_str(&text).unwrap();
        assert_eq!(again.verified(), Ok(said.clone()));
        let mut other = request.clone();
        other.topics = vec![Topic([9; 32]).to_string()];
        assert_eq!(other.verified(), Err(TrackerRefusal::BadSignature.into()));
        let (_, stranger) = announce(2);
        let mut other = request.clone();
        other.record = AnnounceRequest::sign(&key, &stranger).record;
        assert_eq!(other.verified(), Err(TrackerRefusal::BadSignature.into()));
        let changes: [fn(&mut AnnounceRequest); 3] =
            [|r| r.record.clear(), |r| r.signature.push('0'), |r| r.topics[0].push('é')];
        for change in changes {
            let mut bad = request.clone();
            change(&mut bad);
            assert_eq!(bad.verified().unwrap_err().code(), "tracker-malformed");
        }
    }

    #[test]
    fn the_largest_announce_and_answer_fit_their_bounds() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let record = PeerRecord::sign(&key, u64::MAX, u64::MAX, &vec!["x".repeat(256); 8]);
        let said = Announce { record: record.clone(), topics: vec![Topic([0xff; 32]); 256] };
        assert!(serde_json::to_string(&AnnounceRequest::sign(&key, &said)).unwrap().len() <= ANNOUNCE_JSON_MAX);
        let found = vec![Found { record, topics: vec![255; 16] }; 128];
        let answer = AnnounceAnswer::from(Peers { ttl_s: 1_800, found: found.clone() });
        assert!(serde_json::to_string(&answer).unwrap().len() <= PEERS_JSON_MAX);
        assert_eq!(answer.peers().found, found);
    }

    #[test]
    fn connections_and_http_share_one_table() {
        let role = TrackerRole::new();
        let (_, one) = announce(1);
        let (key, other) = announce(2);
        assert!(role.announce(&one, None).unwrap().found.is_empty());
        let over_http = AnnounceRequest::sign(&key, &other).verified().unwrap();
        let found = role.announce(&over_http, Some([192, 0, 2, 7].into())).unwrap().found;
        assert_eq!((found.len(), found[0].record.device, role.devices()), (1, one.record.device, 2));
    }
}
