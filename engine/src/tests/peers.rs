//! Two peers.

use std::time::Duration;

use serde_json::json;

use super::support::*;
use crate::{Config, Error, Node, NodeEvent, Outcome, Right, Writers};

/// Longer than any of these tests waits.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_crosses_to_the_other_peer_and_back() {
    let (one, other, space) = two().await;
    let here = one.create_document(space, "note", "Shopping").await.unwrap();
    here.set("", &json!({ "milk": 1 })).await.unwrap();
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "milk": 1 })).await;
    there.set("/eggs", &6).await.unwrap();
    shows(&here, json!({ "milk": 1, "eggs": 6 })).await;
    soon(there.flush()).await.unwrap();
    assert_eq!(here.heads().await.unwrap(), there.heads().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_shows_in_the_status_of_the_author() {
    let (one, other, space) = two().await;
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("", &json!({ "milk": 1 })).await.unwrap();
    assert_eq!(soon(here.wait_acked(1)).await.unwrap(), vec![other.device()]);
    let status = here.sync_status().await;
    assert!(status.saved_here && status.unsaved == 0 && status.held_by() == 1, "{status:?}");
    soon(one.wait_level(space, other.device())).await.unwrap();
    assert_eq!(here.sync_status().await.level_with, vec![other.device()]);
    assert_eq!(one.space(space).unwrap().documents, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_sign_for_what_they_have_on_disk_and_only_for_that() {
    let (one, other, space) = two().await;
    let here = one.create_document(space, "", "").await.unwrap();
    assert_eq!(here.receipts(&[], 2, PATIENCE).await.unwrap(), []);
    here.set("", &json!({ "milk": 1 })).await.unwrap();
    let version = soon(here.flush()).await.unwrap().0;
    let receipts = soon(here.receipts(&version, 2, PATIENCE)).await.unwrap();
    let mut holders: Vec<_> = receipts.iter().map(|receipt| receipt.holder).collect();
    holders.sort();
    let mut both = vec![one.device(), other.device()];
    both.sort();
    assert_eq!(holders, both);
    assert!(receipts.iter().all(|receipt| receipt.verifies() && receipt.entries == version));
    // Somebody who is not there signs nothing, and is not waited for longer than was said.
    let three = here.receipts(&version, 3, Duration::from_millis(1)).await.unwrap();
    assert_eq!(three.len(), 2);
    one.disconnect(other.device());
    here.set("/eggs", &2).await.unwrap();
    let version = soon(here.flush()).await.unwrap().0;
    // It comes back while somebody waits.
    let back = async { join(&other, &one) };
    let (receipts, ()) = soon(async { tokio::join!(here.receipts(&version, 2, PATIENCE), back) }).await;
    assert_eq!(receipts.unwrap().len(), 2);
    let unknown = here.receipts(&[crate::EntryId([9; 32])], 1, PATIENCE).await;
    assert!(matches!(unknown, Err(Error::Edit(crate::EditError::UnknownVersion))), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_made_apart_meet_when_the_two_meet_again() {
    let (one, other, space) = two().await;
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("", &json!({ "list": [] })).await.unwrap();
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "list": [] })).await;
    let mut events = one.events();
    one.disconnect(other.device());
    soon(async { while !matches!(events.recv().await, Ok(NodeEvent::Closed(_))) {} }).await;
    assert!(one.peers().is_empty());
    here.set("/a", &1).await.unwrap();
    there.set("/b", &2).await.unwrap();
    soon(async { (here.flush().await.unwrap(), there.flush().await.unwrap()) }).await;
    join(&other, &one);
    let both = json!({ "list": [], "a": 1, "b": 2 });
    shows(&here, both.clone()).await;
    shows(&there, both).await;
    soon(one.wait_level(space, other.device())).await.unwrap();
    assert_eq!(one.space(space).unwrap().fingerprint, other.space(space).unwrap().fingerprint);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_document_is_gone_on_both_sides() {
    let (one, other, space) = two().await;
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("", &json!({ "a": 1 })).await.unwrap();
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "a": 1 })).await;
    let mut watch = there.watch();
    assert!(soon(watch.next()).await.is_some());
    one.delete_document(space, here.id()).await.unwrap();
    assert!(soon(watch.next()).await.is_none());
    assert!(matches!(there.set("/a", &2).await, Err(Error::Deleted(_))));
    drop((here, there, watch));
    assert!(matches!(
        other
            .open_document(
                space,
                one.documents(space, crate::DocumentQuery { deleted: true, ..Default::default() }).await.unwrap()[0].id
            )
            .await,
        Err(Error::Deleted(_))
    ));
    assert!(other.documents(space, Default::default()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_right_is_told_so_and_a_grant_helps() {
    let (one, other) = (memory().await, memory().await);
    let space = one.create_space(Writers::Granted).await.unwrap();
    other.join(&one.invite(space).unwrap()).await.unwrap();
    join(&one, &other);
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("", &json!({ "a": 1 })).await.unwrap();
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "a": 1 })).await;
    assert_eq!(there.set("/a", &2).await.unwrap_err().code(), "not_allowed");
    one.grant(space, other.device(), Right::Write, false).await.unwrap();
    soon(other.shared().until(|| other.shared().may_write(&space).is_ok())).await.unwrap();
    there.set("/a", &2).await.unwrap();
    shows(&here, json!({ "a": 2 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_document_reaches_a_newcomer_as_a_snapshot() {
    let one = memory().await;
    let space = one.create_space(Writers::Anyone).await.unwrap();
    let here = one.create_document(space, "", "").await.unwrap();
    for n in 0..3_000 {
        here.set("/n", &n).await.unwrap();
        here.commit().await.unwrap();
    }
    soon(here.flush()).await.unwrap();
    soon(one.compact_now(space, here.id())).await.unwrap();
    let other = memory().await;
    other.join(&one.invite(space).unwrap()).await.unwrap();
    join(&one, &other);
    soon(other.wait_level(space, one.device())).await.unwrap();
    let there = other.open_document(space, here.id()).await.unwrap();
    assert_eq!(there.json().await.unwrap(), json!({ "n": 2_999 }));
    let cost = there.cost().await.unwrap();
    assert_eq!(cost.changes, 3_000);
    assert!(cost.snapshot_bytes > 0, "{cost:?}");
    there.set("/n", &1).await.unwrap();
    shows(&here, json!({ "n": 1 })).await;
    assert!(other.check().await.unwrap().is_sound());
}

/// Neither has the raw entries any more that the other lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_packed_a_document_while_apart_are_level_again() {
    let (one, other) = (memory().await, memory().await);
    let space = one.create_space(Writers::Anyone).await.unwrap();
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("/both", &true).await.unwrap();
    other.join(&one.invite(space).unwrap()).await.unwrap();
    join(&one, &other);
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "both": true })).await;
    soon(other.wait_level(space, one.device())).await.unwrap();
    one.disconnect(other.device());
    soon(other.shared().until(|| other.peers().is_empty())).await.unwrap();
    for (node, document, key) in [(&one, &here, "/one"), (&other, &there, "/other")] {
        for n in 0..3_000 {
            document.set(key, &n).await.unwrap();
            document.commit().await.unwrap();
        }
        soon(document.flush()).await.unwrap();
        soon(node.compact_now(space, document.id())).await.unwrap();
    }
    join(&one, &other);
    let all = json!({ "both": true, "one": 2_999, "other": 2_999 });
    shows(&there, all.clone()).await;
    shows(&here, all.clone()).await;
    soon(one.wait_level(space, other.device())).await.unwrap();
    for (node, document) in [(&one, &here), (&other, &there)] {
        assert_eq!(document.cost().await.unwrap().changes, 6_001);
        assert!(node.check().await.unwrap().is_sound());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_back_is_dialled_again() {
    let folder = tempfile::tempdir().unwrap();
    let listening = |address: &str| Config { listen: vec![address.parse().unwrap()], ..on_disk(folder.path()) };
    let one = Node::open(listening("ws://127.0.0.1:0/")).await.unwrap();
    let address = one.listening()[0].clone();
    let space = one.create_space(Writers::Anyone).await.unwrap();
    let other = memory().await;
    other.join(&one.invite(space).unwrap().to_string().parse().unwrap()).await.unwrap();
    soon(other.wait_level(space, one.device())).await.unwrap();
    assert!(other.peers()[0].dialled && !one.peers()[0].dialled);
    soon(one.close()).await.unwrap();

    let made = other.create_document(space, "", "").await.unwrap();
    made.set("", &json!({ "while": "away" })).await.unwrap();
    soon(made.flush()).await.unwrap();
    let one = Node::open(listening(&address)).await.unwrap();
    let there = arrives(&one, space, made.id()).await;
    shows(&there, json!({ "while": "away" })).await;
    soon(one.wait_level(space, other.device())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_was_set_back_goes_on_under_a_new_chain() {
    let folder = tempfile::tempdir().unwrap();
    let one = Node::open(on_disk(folder.path())).await.unwrap();
    let space = one.create_space(Writers::Anyone).await.unwrap();
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("", &json!({ "a": 1 })).await.unwrap();
    let doc = here.id();
    drop(here);
    soon(one.close()).await.unwrap();
    // Store and keys together, and into the same files: what no local fact can tell.
    let files = || ["data", "keys"].map(|sub| std::fs::read_dir(folder.path().join(sub)).unwrap());
    let files: Vec<_> = files().into_iter().flatten().map(|file| file.unwrap().path()).collect();
    let saved: Vec<_> = files.iter().map(|file| (file, std::fs::read(file).unwrap())).collect();

    let one = Node::open(on_disk(folder.path())).await.unwrap();
    let other = memory().await;
    other.join(&one.invite(space).unwrap()).await.unwrap();
    join(&one, &other);
    let here = one.open_document(space, doc).await.unwrap();
    here.set("/b", &2).await.unwrap();
    soon(here.wait_acked(1)).await.unwrap();
    drop(here);
    soon(one.close()).await.unwrap();
    saved.iter().for_each(|(file, bytes)| std::fs::write(file, bytes).unwrap());

    let one = Node::open(on_disk(folder.path())).await.unwrap();
    assert_eq!(one.outcome(), Outcome::Continue);
    let here = one.open_document(space, doc).await.unwrap();
    assert_eq!(here.json().await.unwrap(), json!({ "a": 1 }));
    let mut events = other.events();
    join(&one, &other);
    shows(&here, json!({ "a": 1, "b": 2 })).await;
    here.set("/c", &3).await.unwrap();
    let there = other.open_document(space, doc).await.unwrap();
    shows(&there, json!({ "a": 1, "b": 2, "c": 3 })).await;
    let mut chains: Vec<_> = there.history().await.unwrap().into_iter().map(|change| change.actor).collect();
    chains.dedup();
    assert_eq!(chains.len(), 2);
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, NodeEvent::Forked { .. }), "{event:?}");
    }
}
