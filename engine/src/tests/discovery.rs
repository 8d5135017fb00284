//! How peers meet: over a tracker, through the address book, by invites of a peer that is gone.

use std::collections::BTreeSet;

use serde_json::json;

use super::support::*;
use crate::{Address, Config, DeviceId, Discovery, Node, NodeEvent, SpaceId, Writers};

/// A peer in memory that listens on loopback.
async fn listening(change: impl FnOnce(&mut Config)) -> Node {
    let mut config = Config { listen: vec!["ws://127.0.0.1:0/".parse().unwrap()], ..Config::default() };
    change(&mut config);
    soon(Node::open(config)).await.unwrap()
}

fn address(node: &Node) -> Address {
    node.listening()[0].parse().unwrap()
}

/// Holds a space of which it knows nothing but the id.
async fn hold(node: &Node, of: &Node, space: SpaceId) {
    let invite = crate::Invite::new(space, None, Some(of.device()), Vec::new());
    node.join(&invite).await.unwrap();
}

/// Returns when the two are connected and level.
async fn meet(one: &Node, other: &Node, space: SpaceId) {
    soon(one.wait_level(space, other.device())).await.unwrap();
    soon(other.wait_level(space, one.device())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_know_only_a_tracker_find_each_other_and_sync_without_it() {
    let tracker = listening(|config| config.discovery.tracker = true).await;
    let connect = |config: &mut Config| config.connect = vec![(address(&tracker), Some(tracker.device()))];
    let (one, other) = (listening(connect).await, listening(connect).await);
    let space = one.create_space(Writers::Anyone).await.unwrap();
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("", &json!({ "milk": 1 })).await.unwrap();
    hold(&other, &one, space).await;
    meet(&one, &other, space).await;
    assert_eq!(tracker.announced(), Some(2));
    assert!(tracker.spaces().is_empty(), "it was told of no space");
    let known = one.known_peers();
    let entry = known.iter().find(|peer| peer.device == other.device()).unwrap();
    assert!(entry.sources.contains(&"connected"), "{entry:?}");
    let of_tracker = |node: &Node| node.known_peers().iter().any(|peer| peer.sources.contains(&"tracker"));
    assert!(of_tracker(&one) || of_tracker(&other));
    soon(tracker.close()).await.unwrap();
    here.set("/eggs", &6).await.unwrap();
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "milk": 1, "eggs": 6 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_private_mode_nothing_is_announced() {
    let tracker = listening(|config| config.discovery.tracker = true).await;
    let private = listening(|config| {
        config.connect = vec![(address(&tracker), None)];
        config.discovery.on = false;
    })
    .await;
    let space = private.create_space(Writers::Anyone).await.unwrap();
    let other = listening(|config| config.connect = vec![(address(&tracker), None)]).await;
    hold(&other, &private, space).await;
    soon(async {
        while tracker.announced() != Some(1) {
            tokio::task::yield_now().await
        }
    })
    .await;
    // The other's announce was answered by now or will be; the private peer is connected and is none of those named.
    assert!(other.peers().iter().all(|peer| peer.device != private.device()));
    assert!(private.known_peers().iter().all(|peer| peer.device == tracker.device()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_not_allowed_is_hung_up_on_with_a_reason() {
    let friend = listening(|_| {}).await;
    let private = listening(|config| {
        config.discovery =
            Discovery { on: false, allowed: Some(BTreeSet::from([friend.device()])), ..Discovery::default() };
    })
    .await;
    let stranger = memory().await;
    let mut events = stranger.events();
    stranger.connect(address(&private), Some(private.device()));
    let code = async {
        loop {
            if let Ok(NodeEvent::Notice { code, .. }) = events.recv().await {
                return code;
            }
        }
    };
    assert_eq!(soon(code).await, "not-allowed");
    assert!(private.peers().is_empty() && stranger.peers().is_empty());
    friend.connect(address(&private), Some(private.device()));
    let mut events = private.events();
    while private.peers().is_empty() {
        drop(soon(events.recv()).await);
    }
    assert_eq!(private.peers()[0].device, friend.device());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_leads_to_others_when_whoever_invited_is_gone() {
    let origin = listening(|_| {}).await;
    let space = origin.create_space(Writers::Anyone).await.unwrap();
    let keeper = listening(|_| {}).await;
    keeper.join(&origin.invite(space).unwrap()).await.unwrap();
    meet(&origin, &keeper, space).await;
    let invite = origin.invite(space).unwrap();
    assert_eq!(invite.others(), keeper.listening());
    soon(origin.close()).await.unwrap();
    let newcomer = memory().await;
    newcomer.join(&invite).await.unwrap();
    meet(&keeper, &newcomer, space).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_back_finds_in_its_book_whom_its_invite_did_not_name() {
    let folder = tempfile::tempdir().unwrap();
    let origin = listening(|_| {}).await;
    let space = origin.create_space(Writers::Anyone).await.unwrap();
    let keeper = listening(|_| {}).await;
    keeper.join(&origin.invite(space).unwrap()).await.unwrap();
    meet(&origin, &keeper, space).await;
    let config = Config { listen: vec!["ws://127.0.0.1:0/".parse().unwrap()], ..on_disk(folder.path()) };
    let peer = soon(Node::open(config.clone())).await.unwrap();
    hold(&peer, &origin, space).await;
    peer.connect(address(&keeper), None);
    meet(&peer, &keeper, space).await;
    let device: DeviceId = keeper.device();
    soon(peer.close()).await.unwrap();
    soon(origin.close()).await.unwrap();
    let again = reopened(config).await;
    let known = again.known_peers().into_iter().find(|peer| peer.device == device).unwrap();
    assert!(known.score > 0.6 && known.seen_ms.is_some(), "{known:?}");
    meet(&again, &keeper, space).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_says_of_itself_is_newer_each_time() {
    let node = listening(|_| {}).await;
    let first = node.shared().own.record();
    assert_eq!((first.device, &first.addresses), (node.device(), &node.listening()));
    node.advertise(vec!["ws://192.0.2.1:7340/".into()]).await.unwrap();
    let second = node.shared().own.record();
    assert!(second.replaces(&first) && second.verify().is_ok());
    assert_eq!(second.addresses, ["ws://192.0.2.1:7340/"]);
    assert!(!node.shared().met(&first, None, crate::address_book::Source::Exchange), "of itself it knows best");
    let mut fake = memory().await.shared().own.record();
    fake.addresses = vec!["ws://192.0.2.66:1/".into()];
    assert!(!node.shared().met(&fake, None, crate::address_book::Source::Exchange));
    assert!(node.known_peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_not_send_a_peer_to_its_own_machine() {
    let said = ["ws://127.0.0.1:22/", "ws://192.0.2.1:1/", "mem:a", "nonsense"].map(str::to_owned);
    let local = listening(|_| {}).await;
    assert_eq!(local.shared().worth_dialling(&said).len(), 3);
    let outside = listening(|config| config.listen = vec!["ws://0.0.0.0:0/".parse().unwrap()]).await;
    // All that it listens at may be reached from outside.
    assert_eq!(outside.shared().worth_dialling(&said), ["ws://192.0.2.1:1/".parse().unwrap()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_a_space_from_a_file_finds_those_who_said_in_it_where_they_are() {
    let one = listening(|_| {}).await;
    let space = one.create_space(Writers::Anyone).await.unwrap();
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("", &json!({ "milk": 1 })).await.unwrap();
    assert_eq!(one.publish_addresses(space, false).await.unwrap(), one.listening());
    let mut stick = Vec::new();
    soon(one.export(space, None, &mut stick)).await.unwrap();

    let other = listening(|_| {}).await;
    soon(other.import(&stick[..], None)).await.unwrap();
    meet(&other, &one, space).await;
    here.set("/eggs", &json!(6)).await.unwrap();
    shows(&arrives(&other, space, here.id()).await, json!({ "milk": 1, "eggs": 6 })).await;
    let known = other.known_peers();
    assert!(known.iter().any(|peer| peer.device == one.device() && peer.sources.contains(&"space")), "{known:?}");

    // Who listens nowhere has nothing to say, and who goes takes it back.
    let third = soon(Node::open(Config::default())).await.unwrap();
    soon(third.import(&stick[..], None)).await.unwrap();
    let nowhere = third.publish_addresses(space, false).await.unwrap_err();
    assert_eq!(nowhere.code(), "no_address");
    one.publish_addresses(space, true).await.unwrap();
    soon(async {
        while !other.published_addresses(space).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
