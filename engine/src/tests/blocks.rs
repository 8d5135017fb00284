//! What an operator has blocked, on the way of every connection and document.

use serde_json::json;

use super::support::*;
use crate::{BlockSubject, Config, Error, Node, NodeEvent};

/// A peer in memory that listens on loopback.
async fn listening() -> Node {
    let config = Config { listen: vec!["ws://127.0.0.1:0/".parse().unwrap()], ..Config::default() };
    soon(Node::open(config)).await.unwrap()
}

async fn connected(node: &Node, wanted: bool) {
    let mut events = node.events();
    while node.peers().is_empty() == wanted {
        drop(soon(events.recv()).await);
    }
}

fn subject(text: &str) -> BlockSubject {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_when_its_address_is_blocked_and_is_made_again_when_it_is_not() {
    let (here, there) = (listening().await, memory().await);
    there.connect(here.listening()[0].parse().unwrap(), Some(here.device()));
    connected(&here, true).await;
    connected(&there, true).await;
    let mut events = there.events();
    assert!(here.block(subject("network:127.0.0.0/8")).await.unwrap());
    assert!(!here.block(subject("network:127.0.0.1/8")).await.unwrap(), "it is the same");
    let told = async {
        loop {
            if let Ok(NodeEvent::Notice { code, .. }) = events.recv().await {
                return code;
            }
        }
    };
    assert_eq!(soon(told).await, "blocked");
    connected(&here, false).await;
    assert!(here.unblock(subject("network:127.0.0.1/8")).await.unwrap());
    connected(&here, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_dialled_whom_this_peer_has_blocked() {
    let (here, there) = (memory().await, listening().await);
    let peer = BlockSubject::Peer(there.device().into());
    here.block(peer).await.unwrap();
    here.connect(there.listening()[0].parse().unwrap(), Some(there.device()));
    // A second one, which is dialled after the first, or would be.
    let other = listening().await;
    here.connect(other.listening()[0].parse().unwrap(), Some(other.device()));
    connected(&here, true).await;
    assert_eq!(here.peers().iter().map(|info| info.device).collect::<Vec<_>>(), [other.device()]);
    here.unblock(peer).await.unwrap();
    let mut events = here.events();
    while here.peers().len() < 2 {
        drop(soon(events.recv()).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_document_is_not_shown_until_it_is_free_and_then_shows_what_came_meanwhile() {
    let (one, other, space) = two().await;
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("", &json!({ "n": 1 })).await.unwrap();
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "n": 1 })).await;
    let mut watch = there.watch();
    let doc = BlockSubject::Document(here.id());
    other.block(doc).await.unwrap();
    while soon(watch.next()).await.is_some() {}
    assert!(matches!(there.json().await, Err(Error::Blocked(_))));
    assert!(matches!(there.set("/n", &5).await, Err(Error::Blocked(_))));
    assert!(matches!(other.open_document(space, here.id()).await, Err(Error::Blocked(_))));
    here.set("/n", &2).await.unwrap();
    other.unblock(doc).await.unwrap();
    shows(&arrives(&other, space, here.id()).await, json!({ "n": 2 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_blocked_stays_so_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let node = soon(Node::open(on_disk(folder.path()))).await.unwrap();
    let space = node.create_space(crate::Writers::Anyone).await.unwrap();
    let invite = node.invite(space).unwrap();
    let doc = node.create_document(space, "", "").await.unwrap().id();
    for text in [format!("space:{space}"), "network:192.0.2.0/24".into(), "network:2001:db8::/32".into()] {
        assert!(node.block(subject(&text)).await.unwrap());
    }
    assert!(node.unblock(subject("network:192.0.2.0/24")).await.unwrap());
    let before = node.blocked();
    soon(node.close()).await.unwrap();
    let node = reopened(on_disk(folder.path())).await;
    assert_eq!(node.blocked(), before);
    assert_eq!(before.len(), 2);
    assert!(matches!(node.open_document(space, doc).await, Err(Error::Blocked("the space"))));
    assert!(matches!(node.create_document(space, "", "").await, Err(Error::Blocked("the space"))));
    assert!(matches!(node.join(&invite).await, Err(Error::Blocked("the space"))));
    soon(node.close()).await.unwrap();
}
