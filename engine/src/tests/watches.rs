//! Watching a document.

use serde_json::{Value, json};

use super::support::*;
use crate::document::patch::apply;
use crate::store::{Batch, Table};
use crate::{Origin, Watch};

/// Applies changes until the document reads so; where they came from.
async fn follow(watch: &mut Watch, mirror: &mut Value, wanted: &Value) -> Vec<Origin> {
    let mut origins = Vec::new();
    while mirror != wanted {
        let change = soon(watch.next()).await.expect("the document is there");
        change.patches.iter().for_each(|patch| apply(mirror, patch).unwrap());
        origins.push(change.origin);
    }
    origins
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_of_both_sides_rebuild_the_document() {
    let (one, other, space) = two().await;
    let here = one.create_document(space, "", "").await.unwrap();
    here.set("", &json!({ "text": "hello", "list": [1] })).await.unwrap();
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "text": "hello", "list": [1] })).await;
    let (mut watch, mut mirror) = (here.watch(), json!(null));
    let origins = follow(&mut watch, &mut mirror, &json!({ "text": "hello", "list": [1] })).await;
    assert_eq!(origins, vec![Origin::Reset]);
    here.set("/list", &json!([1, 2])).await.unwrap();
    let origins = follow(&mut watch, &mut mirror, &json!({ "text": "hello", "list": [1, 2] })).await;
    assert_eq!(origins, vec![Origin::Local]);
    shows(&there, json!({ "text": "hello", "list": [1, 2] })).await;
    there.set("/text", "hello there").await.unwrap();
    let origins = follow(&mut watch, &mut mirror, &json!({ "text": "hello there", "list": [1, 2] })).await;
    assert_eq!(origins, vec![Origin::Remote(other.device())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_sleeps_is_told_the_whole() {
    let node = memory().await;
    let space = node.create_space(crate::Writers::Anyone).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    let mut watch = document.watch();
    soon(watch.next()).await.unwrap();
    for n in 0..400 {
        document.set("/n", &n).await.unwrap();
        document.commit().await.unwrap();
    }
    let change = soon(watch.next()).await.unwrap();
    assert_eq!((change.origin, change.patches.len()), (Origin::Reset, 1));
    let mut mirror = json!(null);
    apply(&mut mirror, &change.patches[0]).unwrap();
    assert_eq!(mirror, json!({ "n": 399 }));
    drop(document);
    let clone = node.clone();
    soon(node.close()).await.unwrap();
    assert!(soon(watch.next()).await.is_none());
    drop(clone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_when_the_document_cannot_be_shown_any_more() {
    let node = memory().await;
    let space = node.create_space(crate::Writers::Anyone).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    document.set("/a", &1).await.unwrap();
    soon(document.flush()).await.unwrap();
    let mut watch = document.watch();
    soon(watch.next()).await.unwrap();
    let doc = document.id();
    let damage = move |storage: &crate::storage::Storage| {
        let rows = storage.store().scan(Table::Bodies, &[space.0, doc.0].concat(), None, 10, 1 << 20).unwrap().rows;
        let mut batch = Batch::new();
        rows.into_iter().for_each(|(key, _)| batch.delete(Table::Bodies, key));
        storage.store().commit(batch).unwrap();
    };
    node.shared().blocking(damage).await.unwrap();
    document.open().reload();
    assert!(soon(watch.next()).await.is_none());
    assert_eq!(document.json().await.unwrap_err().code(), "document_damaged");
}
