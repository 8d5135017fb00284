//! Open, edit, cross, close, reopen.

use serde_json::json;

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_crosses_to_the_other_peer_and_back() {
    let (one, other, space) = two().await;
    let here = one.create_document(space, "note", "Shopping").await.unwrap();
    here.set("", &json!({ "milk": 1 })).await.unwrap();
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "milk": 1 })).await;
    there.set("/eggs", &6).await.unwrap();
    shows(&here, json!({ "milk": 1, "eggs": 6 })).await;
    assert_eq!(here.heads().await.unwrap(), there.heads().await.unwrap());
}
