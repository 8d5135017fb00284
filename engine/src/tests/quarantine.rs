//! Documents that cost more than a document may.

use automerge::transaction::Transactable;
use serde_json::json;

use super::support::*;
use crate::{Config, DocumentBudget, Error, Measure, Node, NodeEvent, Writers};

fn with(changes: u64, config: Config) -> Config {
    Config {
        document_budget: DocumentBudget { changes: Some(changes), ..DocumentBudget::default() },
        flush_ms: 1,
        ..config
    }
}

async fn edit(document: &crate::Document, n: u64) -> Result<(), Error> {
    document.set("/n", &n).await?;
    document.flush().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_over_its_budget_is_not_shown_until_it_is_released_and_is_synced_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, relay) = (memory().await, soon(Node::open(with(3, on_disk(folder.path())))).await.unwrap());
    let space = writer.create_space(Writers::Anyone).await.unwrap();
    relay.join(&writer.invite(space).unwrap()).await.unwrap();
    join(&writer, &relay);
    let there = writer.create_document(space, "", "").await.unwrap();
    there.set("", &json!({ "n": 0 })).await.unwrap();
    for n in 1..6 {
        edit(&there, n).await.unwrap();
    }
    soon(writer.wait_level(space, relay.device())).await.unwrap();
    let mut events = relay.events();
    let refused = relay.open_document(space, there.id()).await;
    assert!(
        matches!(&refused, Err(Error::Quarantined { excess, .. }) if excess.measure == Measure::Changes && excess.max == 3),
        "{refused:?}"
    );
    let told = async {
        loop {
            if let Ok(NodeEvent::Notice { code, .. }) = events.recv().await {
                return code;
            }
        }
    };
    assert_eq!(soon(told).await, "quarantined");
    // It goes on being synced, also to others.
    edit(&there, 9).await.unwrap();
    soon(writer.wait_level(space, relay.device())).await.unwrap();
    soon(relay.close()).await.unwrap();
    let relay = reopened(with(3, on_disk(folder.path()))).await;
    assert!(matches!(relay.open_document(space, there.id()).await, Err(Error::Quarantined { .. })));
    let third = memory().await;
    third.join(&relay.invite(space).unwrap()).await.unwrap();
    join(&third, &relay);
    shows(&arrives(&third, space, there.id()).await, json!({ "n": 9 })).await;
    // Whatever it costs from now on.
    assert!(relay.release(space, there.id()).await.unwrap() && !relay.release(space, there.id()).await.unwrap());
    let shown = relay.open_document(space, there.id()).await.unwrap();
    assert_eq!(shown.json().await.unwrap(), json!({ "n": 9 }));
    edit(&shown, 10).await.unwrap();
    soon(relay.close()).await.unwrap();
    let relay = reopened(with(3, on_disk(folder.path()))).await;
    assert_eq!(relay.open_document(space, there.id()).await.unwrap().json().await.unwrap(), json!({ "n": 10 }));
    assert!(relay.quarantine(space)[&there.id()].released);
    soon(relay.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_outgrows_its_budget_while_it_is_open_keeps_what_was_edited() {
    let node = soon(Node::open(with(3, Config::default()))).await.unwrap();
    let space = node.create_space(Writers::Anyone).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    document.set("", &json!({ "n": 0 })).await.unwrap();
    let mut last = 0;
    let refused = loop {
        match edit(&document, last + 1).await {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Quarantined { .. }), "{refused}");
    assert!(last >= 2);
    assert!(matches!(node.open_document(space, document.id()).await, Err(Error::Quarantined { .. })));
    node.release(space, document.id()).await.unwrap();
    drop(document);
    let doc = *node.quarantine(space).keys().next().unwrap();
    let shown = node.open_document(space, doc).await.unwrap();
    assert_eq!(shown.json().await.unwrap(), json!({ "n": last }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_of_clients_that_sign_nothing_counts_for_the_budget() {
    let node = soon(Node::open(with(3, Config::default()))).await.unwrap();
    let space = node.create_space(Writers::Anyone).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    let mut client = automerge::AutoCommit::new();
    for n in 0..5 {
        client.put(automerge::ROOT, "n", n).unwrap();
        client.commit();
    }
    let changes: Vec<u8> = client.get_changes(&[]).iter().flat_map(|change| change.raw_bytes().to_vec()).collect();
    assert_eq!(soon(document.take_changes(changes)).await.unwrap().taken, 5);
    assert!(matches!(node.open_document(space, document.id()).await, Err(Error::Quarantined { .. })));
    assert_eq!(node.quarantine(space).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_over_its_budget_is_set_aside_when_it_would_be_packed_and_forgotten_when_it_is_deleted() {
    let (writer, relay) = (memory().await, soon(Node::open(with(3, Config::default()))).await.unwrap());
    let space = writer.create_space(Writers::Anyone).await.unwrap();
    relay.join(&writer.invite(space).unwrap()).await.unwrap();
    join(&writer, &relay);
    let there = writer.create_document(space, "", "").await.unwrap();
    there.set("", &json!({ "n": 0 })).await.unwrap();
    for n in 1..6 {
        edit(&there, n).await.unwrap();
    }
    soon(writer.wait_level(space, relay.device())).await.unwrap();
    // Nobody opens it here.
    soon(relay.compact_now(space, there.id())).await.unwrap();
    assert_eq!(relay.quarantine(space).into_keys().collect::<Vec<_>>(), [there.id()]);
    writer.delete_document(space, there.id()).await.unwrap();
    soon(writer.wait_level(space, relay.device())).await.unwrap();
    assert!(relay.quarantine(space).is_empty());
}
