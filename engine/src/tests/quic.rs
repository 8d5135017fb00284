//! Two nodes over QUIC on this machine, without a relay.

use serde_json::json;

use super::support::*;
use crate::{Config, Node, Writers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_is_synced_both_ways_over_quic() {
    let config = Config { listen: vec!["quic://127.0.0.1:0".parse().unwrap()], ..Config::default() };
    let one = soon(Node::open(config)).await.unwrap();
    let space = one.create_space(Writers::Anyone).await.unwrap();
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("/milk", &json!(1)).await.unwrap();
    // The invite is all that the other gets: it carries the address.
    let other = memory().await;
    other.join(&one.invite(space).unwrap()).await.unwrap();
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "milk": 1 })).await;
    there.set("/eggs", &json!(6)).await.unwrap();
    shows(&here, json!({ "milk": 1, "eggs": 6 })).await;
    assert_eq!(one.shared().own.record().addresses, one.listening());
    assert!(other.peers()[0].address.as_deref().is_some_and(|address| address.starts_with("quic://")));
    soon(one.close()).await.unwrap();
}
