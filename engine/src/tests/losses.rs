//! Edits that are taken back, and callers that give up half-way. One thread, so that nothing happens between two lines
//! unless the test waits.

use std::task::{Context, Waker};

use commonhold_sync::peer::LocalError;
use serde_json::json;
use tokio::sync::oneshot;

use super::disk::over;
use super::support::*;
use crate::shared::Command;
use crate::store::faulty::{FaultyDisk, Operation};
use crate::{Config, Node, NodeEvent, View, Writers};

/// Edits gather for longer than a test takes.
fn slow(config: Config) -> Config {
    Config { flush_ms: 3_600_000, ..config }
}

#[tokio::test]
async fn everyone_whose_edit_was_taken_back_is_told_and_nobody_twice() {
    let disk = FaultyDisk::new();
    let node = Node::open(slow(over(&disk))).await.unwrap();
    let space = node.create_space(Writers::Granted).await.unwrap();
    let one = node.create_document(space, "", "").await.unwrap();
    one.set("/a", &1).await.unwrap();
    soon(one.flush()).await.unwrap();
    let other = node.open_document(space, one.id()).await.unwrap();
    let mut events = node.events();

    disk.fail_nth(Operation::Sync, 1);
    one.set("/one", &1).await.unwrap();
    other.set("/other", &1).await.unwrap();
    for document in [&one, &other] {
        let lost = soon(document.flush()).await.unwrap_err();
        assert!(lost.code().starts_with("store_"), "{lost}");
    }
    soon(async { while !matches!(events.recv().await, Ok(NodeEvent::StoreRecovered)) {} }).await;
    let late = node.open_document(space, one.id()).await.unwrap();
    shows(&late, json!({ "a": 1 })).await;
    for document in [&one, &other, &late] {
        document.set("/b", &1).await.unwrap();
        soon(document.flush()).await.unwrap();
    }
    assert_eq!(late.json().await.unwrap(), json!({ "a": 1, "b": 1 }));
}

#[tokio::test]
async fn edits_that_gather_when_the_view_is_made_again_without_them_are_told_as_lost() {
    let node = Node::open(slow(Config::default())).await.unwrap();
    let space = node.create_space(Writers::Granted).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    document.set("/a", &1).await.unwrap();
    soon(document.flush()).await.unwrap();
    document.open().resolved(1, Err(LocalError::NotAllowed("write")));
    let late = document.clone();
    late.set("/b", &1).await.unwrap();
    shows(&document, json!({ "a": 1 })).await;
    // The failed batch is the first loss; what built on it is another, for who edited after the first was told.
    let told = std::sync::atomic::AtomicU64::new(1);
    assert_eq!(soon(document.open().flush_for(&told, View::heads)).await.unwrap_err().code(), "not_allowed");
    soon(document.open().flush_for(&told, View::heads)).await.unwrap();
}

#[tokio::test]
async fn an_edit_given_up_half_way_is_saved_all_the_same() {
    let node = Node::open(Config::default()).await.unwrap();
    let space = node.create_space(Writers::Granted).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    // The driver is busy.
    while let Ok(room) = node.shared().commands.try_reserve() {
        room.send(Command::Settle(oneshot::channel().0));
    }
    {
        let mut edit = Box::pin(document.set("/a", &1));
        let _ = edit.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    // Without anybody asking.
    let saved = async {
        while !document.sync_status().await.saved_here {
            tokio::task::yield_now().await;
        }
    };
    soon(saved).await;
    soon(document.flush()).await.unwrap();
    assert_eq!(document.history().await.unwrap().len(), 1);
    soon(node.close()).await.unwrap();
}
