//! Peers: those that are connected, and those that are known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use commonhold_engine::sync::ledger::Account;
use commonhold_engine::{DeviceId, KnownPeer, Node, PeerInfo};

use crate::request::{Known, Peer};

/// The connected peers; with `known`, then those that were heard of, best first.
pub(super) async fn list(node: &Node, known: bool) -> Vec<Peer> {
    let accounts: BTreeMap<DeviceId, Account> = node.accounts().await.unwrap_or_default().into_iter().collect();
    let account = |device: &DeviceId| accounts.get(device).copied().unwrap_or_default();
    let signed = |account: Account| account.receipt.map_or(0, |receipt| receipt.bytes);
    let book = if known { node.known_peers() } else { Vec::new() };
    let connected = node.peers();
    let here: BTreeSet<_> = connected.iter().map(|peer| peer.device).collect();
    let of = |peer: &PeerInfo| book.iter().find(|entry| entry.device == peer.device).map(known_of);
    let mut all: Vec<Peer> = connected
        .iter()
        .map(|peer| Peer {
            peer: peer.device.to_string(),
            connected: true,
            address: peer.address.clone().or_else(|| peer.addresses.first().cloned()),
            agent: Some(peer.agent.clone()),
            dialled: peer.dialled,
            seconds: peer.since.elapsed().map_or(0, |since| since.as_secs()),
            given: account(&peer.device).given,
            got: account(&peer.device).got,
            signed: signed(account(&peer.device)),
            known: of(peer),
        })
        .collect();
    all.extend(book.iter().filter(|entry| !here.contains(&entry.device)).map(|entry| Peer {
        peer: entry.device.to_string(),
        connected: false,
        address: entry.addresses.first().cloned(),
        agent: None,
        dialled: false,
        seconds: 0,
        given: account(&entry.device).given,
        got: account(&entry.device).got,
        signed: signed(account(&entry.device)),
        known: Some(known_of(entry)),
    }));
    all
}

fn known_of(entry: &KnownPeer) -> Known {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    // Two decimals: what lies beyond is the clock's.
    let rounded = |number: f64| (number * 100.0).round() / 100.0;
    Known {
        addresses: entry.addresses.clone(),
        score: rounded(entry.score),
        successes: rounded(entry.successes),
        failures: rounded(entry.failures),
        seen_seconds: entry.seen_ms.map(|seen| now.saturating_sub(seen) / 1_000),
        sources: entry.sources.iter().map(|source| (*source).to_owned()).collect(),
        tracker: entry.is_tracker(),
    }
}
