//! How documents end: erased on request, or going on in another. And how root keys do.

use serde_json::json;

use super::support::*;
use crate::device::IdentitySecret;
use crate::{DocumentQuery, Error, Keep, Node, Right, Succession, Writers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_right_signs_that_a_document_is_erased() {
    let (one, other) = (memory().await, memory().await);
    let space = one.create_space(Writers::Granted).await.unwrap();
    let doc = one.create_document(space, "person", "somebody").await.unwrap().id();
    other.join(&one.invite(space).unwrap()).await.unwrap();
    join(&one, &other);
    one.grant(space, other.device(), Right::Read, false).await.unwrap();
    arrives(&other, space, doc).await;
    assert!(matches!(other.erase_document(space, doc, "").await, Err(Error::NotAllowed(_))));
    let long = "x".repeat(257);
    assert!(matches!(one.erase_document(space, doc, &long).await, Err(Error::TooMuch { max: 256, .. })));
    assert!(one.erasures(space).await.unwrap().is_empty());

    let request = one.erase_document(space, doc, "she asked for it").await.unwrap();
    let mut both = [one.device(), other.device()];
    both.sort();
    for node in [&one, &other] {
        let all = soon(async {
            loop {
                let found = node.erasures(space).await.unwrap();
                if found.first().is_some_and(|erasure| erasure.awaited.is_empty()) {
                    break found;
                }
                tokio::task::yield_now().await;
            }
        });
        let all = all.await;
        assert_eq!((all.len(), all[0].request, all[0].by), (1, request, one.device()));
        assert_eq!((all[0].note.as_str(), &all[0].erased[..]), ("she asked for it", &both[..]));
        assert!(all[0].document.deleted && all[0].document.name == "somebody");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_goes_on_in_another_without_its_history() {
    let (one, other, space) = two().await;
    let old = one.create_document(space, "note", "Diary").await.unwrap();
    for n in 0..30 {
        old.set("/n", &n).await.unwrap();
        old.commit().await.unwrap();
    }
    let there = arrives(&other, space, old.id()).await;
    shows(&there, json!({ "n": 29 })).await;
    let new = other.succeed_document(space, old.id()).await.unwrap();
    assert_eq!((new.json().await.unwrap(), new.history().await.unwrap().len()), (json!({ "n": 29 }), 1));
    let info = new.info().await.unwrap();
    assert_eq!((info.kind.as_str(), info.name.as_str()), ("note", "Diary"));
    arrives(&one, space, new.id()).await;
    let wanted = [Succession { old: old.id(), new: new.id(), by: other.device() }];
    for node in [&one, &other] {
        soon(async { while node.successions(space).await.unwrap() != wanted {} }).await;
    }
    // A successor that is deleted again is none, and the old document was there all the time.
    other.delete_document(space, new.id()).await.unwrap();
    soon(async { while !one.successions(space).await.unwrap().is_empty() {} }).await;
    assert_eq!(one.documents(space, DocumentQuery::default()).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spaces_in_which_an_identity_has_something_learn_of_its_new_root_key() {
    let folder = tempfile::tempdir().unwrap();
    let config = on_disk(folder.path());
    let keys = config.keys.clone().unwrap();
    let (secret, phrase) = IdentitySecret::create(&keys).unwrap();
    let node = Node::open(config).await.unwrap();
    let mut spaces = Vec::new();
    for _ in 0..3 {
        spaces.push(node.create_space(Writers::Granted).await.unwrap());
    }
    for space in &spaces[..2] {
        node.grant(*space, secret.id(), Right::Write, false).await.unwrap();
        node.add_device(*space, node.device(), "desk").await.unwrap();
    }
    node.revoke_all(spaces[0], secret.id(), Keep::Held).await.unwrap();
    assert!(node.tell_root_keys().await.unwrap().is_empty());
    assert_eq!(
        IdentitySecret::rotate(&keys, &phrase, node.root_keys(secret.id()).await.unwrap()).unwrap().root_keys(),
        2
    );
    assert_eq!(node.tell_root_keys().await.unwrap(), [spaces[1]], "not where it has nothing, or nothing any more");
    assert!(node.tell_root_keys().await.unwrap().is_empty());
    assert_eq!(node.root_keys(secret.id()).await.unwrap(), 2);
    let in_force = |edges: Vec<crate::Edge>| edges.into_iter().filter(crate::Edge::in_force).count();
    assert_eq!(in_force(node.members(spaces[1]).await.unwrap()), 2, "the grant, and the desk");
    soon(node.close()).await.unwrap();
}
