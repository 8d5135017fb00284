//! Bundles and Automerge files.

use automerge::transaction::Transactable;
use automerge::{AutoCommit, ReadDoc};
use serde_json::json;

use super::support::*;
use crate::{Error, Writers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_space_travels_in_a_file() {
    let one = memory().await;
    let space = one.create_space(Writers::Granted).await.unwrap();
    let first = one.create_document(space, "note", "first").await.unwrap();
    let second = one.create_document(space, "note", "second").await.unwrap();
    first.set("", &json!({ "a": "text" })).await.unwrap();
    second.set("", &json!({ "b": 2 })).await.unwrap();
    soon(async { (first.flush().await.unwrap(), second.flush().await.unwrap()) }).await;
    let mut file = Vec::new();
    let report = soon(one.export(space, None, &mut file)).await.unwrap();
    assert_eq!((report.documents, report.bytes), (2, file.len() as u64));

    let other = memory().await;
    let report = soon(other.import(&file[..], None)).await.unwrap();
    assert_eq!((report.space, report.documents.len(), report.entries), (Some(space), 2, 2));
    let there = other.open_document(space, first.id()).await.unwrap();
    assert_eq!(there.json().await.unwrap(), json!({ "a": "text" }));
    assert_eq!(there.info().await.unwrap().name, "first");
    assert_eq!(other.space(space).unwrap().fingerprint, one.space(space).unwrap().fingerprint);
    soon(other.import(&file[..], Some(space))).await.unwrap();

    let mut part = Vec::new();
    soon(one.export(space, Some(vec![second.id()]), &mut part)).await.unwrap();
    let third = memory().await;
    let report = soon(third.import(&part[..], None)).await.unwrap();
    assert_eq!((report.documents, report.entries), (vec![second.id()], 1));
    let there = third.open_document(space, second.id()).await.unwrap();
    assert_eq!(there.json().await.unwrap(), json!({ "b": 2 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_bundle_is_refused_whole() {
    let one = memory().await;
    let space = one.create_space(Writers::Granted).await.unwrap();
    let mut file = Vec::new();
    soon(one.export(space, None, &mut file)).await.unwrap();
    let other = memory().await;
    for bad in [&b"hello"[..], &file[..file.len() - 1], &[&file[..30], &[1], &file[31..]].concat()] {
        let error = soon(other.import(bad, None)).await.unwrap_err();
        assert!(matches!(error, Error::Import(_)), "{error}");
    }
    assert!(other.spaces().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_automerge_file_becomes_a_document_with_its_history() {
    let mut file = AutoCommit::new().with_actor(automerge::ActorId::from([7u8; 16]));
    file.put(automerge::ROOT, "a", 1).unwrap();
    let mut fork = file.fork().with_actor(automerge::ActorId::from([3u8; 16]));
    fork.put(automerge::ROOT, "b", 2).unwrap();
    file.put(automerge::ROOT, "c", 3).unwrap();
    file.merge(&mut fork).unwrap();
    file.put(automerge::ROOT, "d", 4).unwrap();
    assert_eq!(file.keys(automerge::ROOT).count(), 4);

    let (one, other, space) = two().await;
    let report = soon(one.import(&file.save()[..], Some(space))).await.unwrap();
    assert_eq!((report.documents.len(), report.entries), (1, 4));
    let here = one.open_document(space, report.documents[0]).await.unwrap();
    assert_eq!(here.json().await.unwrap(), json!({ "a": 1, "b": 2, "c": 3, "d": 4 }));
    here.set("/e", &5).await.unwrap();
    let there = arrives(&other, space, here.id()).await;
    shows(&there, json!({ "a": 1, "b": 2, "c": 3, "d": 4, "e": 5 })).await;
    assert_eq!(there.history().await.unwrap().len(), 5);
}
