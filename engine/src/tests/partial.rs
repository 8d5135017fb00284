//! A peer that takes only some documents of a space.

use serde_json::json;

use super::support::*;
use crate::{DocId, Document, Error, Node, SpaceId, Writers};

const DOCS: usize = 200;

/// A peer with a space of [`DOCS`] documents.
async fn full() -> (Node, SpaceId, Vec<DocId>) {
    let node = memory().await;
    let space = node.create_space(Writers::Anyone).await.unwrap();
    let docs = node.create_documents(space, (0..DOCS).map(|n| ("", format!("{n}")))).await.unwrap();
    for doc in &docs {
        let document = node.open_document(space, *doc).await.unwrap();
        document.set("", &json!({ "n": 1 })).await.unwrap();
        document.flush().await.unwrap();
    }
    (node, space, docs)
}

async fn set(node: &Node, space: SpaceId, doc: DocId, n: u32) -> Document {
    let document = node.open_document(space, doc).await.unwrap();
    document.set("/n", &n).await.unwrap();
    soon(document.flush()).await.unwrap();
    document
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundredth_of_a_space_is_held_and_followed_alone() {
    let (one, space, docs) = full().await;
    let part = memory().await;
    part.join_partly(&one.invite(space).unwrap(), [docs[3], docs[77]]).await.unwrap();
    join(&one, &part);
    soon(part.wait_level(space, one.device())).await.unwrap();
    soon(one.wait_level(space, part.device())).await.unwrap();
    assert_eq!(part.space(space).unwrap().documents, 2);
    assert_eq!(part.documents(space, Default::default()).await.unwrap().len(), DOCS);
    assert!(matches!(part.open_document(space, docs[4]).await, Err(Error::NotTaken(doc)) if doc == docs[4]));

    // Live, both ways; the edit of another document comes first, and would have come first.
    set(&one, space, docs[4], 2).await;
    set(&one, space, docs[3], 2).await;
    let followed = part.open_document(space, docs[3]).await.unwrap();
    shows(&followed, json!({ "n": 2 })).await;
    assert_eq!(part.space(space).unwrap().documents, 2);
    let written = set(&part, space, docs[77], 3).await;
    assert_eq!(soon(written.wait_acked(1)).await.unwrap(), vec![one.device()]);
    shows(&one.open_document(space, docs[77]).await.unwrap(), json!({ "n": 3 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_while_apart_comes_and_nothing_else() {
    let (one, space, docs) = full().await;
    let part = memory().await;
    part.join_partly(&one.invite(space).unwrap(), [docs[0]]).await.unwrap();
    join(&one, &part);
    soon(part.wait_level(space, one.device())).await.unwrap();
    part.disconnect(one.device());
    soon(one.shared().until(|| one.peers().is_empty())).await.unwrap();
    soon(part.shared().until(|| part.peers().is_empty())).await.unwrap();
    set(&one, space, docs[1], 5).await;
    set(&one, space, docs[0], 5).await;
    let mine = part.open_document(space, docs[0]).await.unwrap();
    mine.set("/mine", &6).await.unwrap();
    join(&part, &one);
    soon(part.wait_level(space, one.device())).await.unwrap();
    assert_eq!(soon(mine.wait_acked(1)).await.unwrap(), vec![one.device()]);
    shows(&mine, json!({ "n": 5, "mine": 6 })).await;
    assert_eq!(part.space(space).unwrap().documents, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_it_creates_is_taken() {
    let (one, space, docs) = full().await;
    let part = memory().await;
    part.join_partly(&one.invite(space).unwrap(), [docs[0]]).await.unwrap();
    join(&one, &part);
    soon(part.wait_level(space, one.device())).await.unwrap();
    let made = part.create_document(space, "", "made here").await.unwrap();
    made.set("", &json!({ "n": 1 })).await.unwrap();
    let there = arrives(&one, space, made.id()).await;
    shows(&there, json!({ "n": 1 })).await;
    there.set("/n", &2).await.unwrap();
    shows(&made, json!({ "n": 2 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_choice_brings_what_it_adds() {
    let (one, space, docs) = full().await;
    let part = memory().await;
    part.join_partly(&one.invite(space).unwrap(), [docs[0]]).await.unwrap();
    join(&one, &part);
    soon(part.wait_level(space, one.device())).await.unwrap();
    part.take(space, Some(vec![docs[0], docs[9]])).await.unwrap();
    soon(one.shared().until(|| one.peers().is_empty())).await.unwrap();
    join(&part, &one);
    let added = part.open_document(space, docs[9]).await.unwrap();
    shows(&added, json!({ "n": 1 })).await;
    part.take(space, None).await.unwrap();
    soon(one.shared().until(|| one.peers().is_empty())).await.unwrap();
    join(&part, &one);
    soon(part.wait_level(space, one.device())).await.unwrap();
    assert_eq!(part.space(space).unwrap().fingerprint, one.space(space).unwrap().fingerprint);
}
