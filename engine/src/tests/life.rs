//! Edit, flush, close, reopen.

use serde_json::json;

use super::support::*;
use crate::document::EditError;
use crate::{
    Config, Document, DocumentChanges, DocumentQuery, EditFailure, Error, Node, OpenError, Outcome, SpaceId, View,
    Writers,
};

async fn actors(document: &Document) -> usize {
    let mut actors: Vec<_> = document.history().await.unwrap().into_iter().map(|change| change.actor).collect();
    actors.sort();
    actors.dedup();
    actors.len()
}

async fn with_document(node: &Node) -> (SpaceId, Document) {
    let space = node.create_space(Writers::Granted).await.unwrap();
    (space, node.create_document(space, "note", "Shopping").await.unwrap())
}

/// A node that can be dialled, and a space of its own.
async fn listening() -> (Node, SpaceId) {
    let listening = Config { listen: vec!["ws://127.0.0.1:0/".parse().unwrap()], ..Config::default() };
    let node = Node::open(listening).await.unwrap();
    let space = node.create_space(Writers::Anyone).await.unwrap();
    (node, space)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_close_lets_the_next_run_continue_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(on_disk(folder.path())).await.unwrap();
    assert_eq!(node.outcome(), Outcome::Fresh);
    let (space, document) = with_document(&node).await;
    document.set("", &json!({ "milk": 1 })).await.unwrap();
    let (doc, device, store) = (document.id(), node.device(), node.store_id());
    assert!(matches!(Node::open(on_disk(folder.path())).await, Err(OpenError::Store(e)) if e.code() == "store_in_use"));
    soon(node.close()).await.unwrap();

    let node = Node::open(on_disk(folder.path())).await.unwrap();
    assert_eq!((node.outcome(), node.device(), node.store_id()), (Outcome::Continue, device, store));
    let document = node.open_document(space, doc).await.unwrap();
    document.set("/eggs", &6).await.unwrap();
    assert_eq!(document.json().await.unwrap(), json!({ "milk": 1, "eggs": 6 }));
    assert_eq!(actors(&document).await, 1);
    assert!(node.check().await.unwrap().is_sound());
    soon(node.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_flushed_survives_a_crash_and_the_chain_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(on_disk(folder.path())).await.unwrap();
    let (space, document) = with_document(&node).await;
    document.set("", &json!({ "milk": 1 })).await.unwrap();
    soon(document.flush()).await.unwrap();
    assert!(document.sync_status().await.saved_here);
    let (doc, seq) = (document.id(), node.space(space).unwrap().seq);
    drop((document, node));

    let node = reopened(on_disk(folder.path())).await;
    assert_eq!(node.outcome(), Outcome::Crashed);
    assert!(node.space(space).unwrap().seq > seq + 1_000, "numbers that were shown are not given out again");
    let document = node.open_document(space, doc).await.unwrap();
    assert_eq!(document.json().await.unwrap(), json!({ "milk": 1 }));
    document.set("/eggs", &6).await.unwrap();
    assert_eq!(actors(&document).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_share_a_change_until_a_flush_and_commit_parts_them() {
    let config = Config { flush_ms: 60_000, ..Config::default() };
    let node = Node::open(config).await.unwrap();
    let (_, document) = with_document(&node).await;
    for n in 0..20 {
        document.set("/n", &n).await.unwrap();
    }
    soon(document.flush()).await.unwrap();
    assert_eq!(document.history().await.unwrap().len(), 2, "the first left at once, the others together");
    for n in 0..5 {
        document.set("/m", &n).await.unwrap();
        document.commit().await.unwrap();
    }
    soon(document.flush()).await.unwrap();
    assert_eq!(document.history().await.unwrap().len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_saved_is_read_before_the_next_edits_gather() {
    let node = Node::open(Config { flush_ms: 60_000, ..Config::default() }).await.unwrap();
    let (_, document) = with_document(&node).await;
    for n in 0..3 {
        document.set("/n", &n).await.unwrap();
    }
    let read = |view: &View| (view.is_gathering(), view.heads(), view.to_json());
    let (gathering, heads, json) = soon(document.flush_and_read(read)).await.unwrap();
    document.set("/n", &3).await.unwrap();
    assert_eq!((gathering, json), (false, json!({ "n": 2 })));
    assert_eq!(document.json_at_heads(&heads).await.unwrap(), Some(json!({ "n": 2 })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_that_fails_leaves_nothing_and_gives_its_own_reason() {
    #[derive(Debug, PartialEq)]
    struct Full;
    let node = memory().await;
    let (_, document) = with_document(&node).await;
    let result = document
        .edit(|edit| {
            edit.put(&crate::ObjId::ROOT, "a", 1).map_err(|_| Full)?;
            Err::<(), Full>(Full)
        })
        .await;
    assert!(matches!(result, Err(EditFailure::App(Full))));
    assert_eq!(document.json().await.unwrap(), json!({}));
    let refused = document.set("/no/such/place", &1).await;
    assert!(matches!(refused, Err(Error::Edit(EditError::NotFound(_)))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_listed_by_kind_and_name_and_page() {
    let node = memory().await;
    let space = node.create_space(Writers::Granted).await.unwrap();
    let named = (0..10).map(|n| (if n % 2 == 0 { "note" } else { "list" }, format!("name {n}")));
    let made = node.create_documents(space, named).await.unwrap();
    let all = node.documents(space, DocumentQuery::default()).await.unwrap();
    assert_eq!((made.len(), all.len()), (10, 10));
    let notes = DocumentQuery { kind: Some("note".into()), ..DocumentQuery::default() };
    assert_eq!(node.documents(space, notes).await.unwrap().len(), 5);
    let third = DocumentQuery { prefix: Some("name 3".into()), ..DocumentQuery::default() };
    assert_eq!(node.documents(space, third).await.unwrap()[0].id, made[3]);
    let rest = DocumentQuery { after: Some(all[6].id), limit: 2, ..DocumentQuery::default() };
    let rest: Vec<_> = node.documents(space, rest).await.unwrap();
    assert_eq!(rest, all[7..9]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_nobody_holds_leaves_memory_and_comes_back() {
    let node = Node::open(Config { view_bytes: 0, ..Config::default() }).await.unwrap();
    let (space, document) = with_document(&node).await;
    let doc = document.id();
    document.set("", &json!({ "a": [1, 2] })).await.unwrap();
    soon(document.flush()).await.unwrap();
    drop(document);
    assert!(node.shared().open_document(space, doc).is_none());
    let document = node.open_document(space, doc).await.unwrap();
    assert_eq!(document.json().await.unwrap(), json!({ "a": [1, 2] }));
    assert_eq!(document.cost().await.unwrap().changes, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_documents_opened_one_after_the_other_stay_within_the_budget_for_views() {
    let node = Node::open(Config { view_bytes: 1 << 20, ..Config::default() }).await.unwrap();
    let space = node.create_space(Writers::Anyone).await.unwrap();
    let names = (0..200).map(|n| ("note", format!("name {n}")));
    for doc in node.create_documents(space, names).await.unwrap() {
        let document = node.open_document(space, doc).await.unwrap();
        document.set("", &json!({ "a": 1 })).await.unwrap();
        soon(document.flush()).await.unwrap();
    }
    // Each costs 25 KB at least, however little it holds.
    let open = crate::shared::locked(&node.shared().documents).open.len();
    assert!((1..=42).contains(&open), "{open} views");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_name_what_is_missing() {
    let node = memory().await;
    let (space, _) = with_document(&node).await;
    let (nowhere, nothing) = (SpaceId([9; 32]), crate::DocId([9; 32]));
    assert_eq!(node.open_document(nowhere, nothing).await.unwrap_err().code(), "unknown_space");
    assert_eq!(node.open_document(space, nothing).await.unwrap_err().code(), "unknown_document");
    assert_eq!(node.delete_document(space, nothing).await.unwrap_err().code(), "unknown_document");
    let clone = node.clone();
    soon(node.close()).await.unwrap();
    assert_eq!(clone.create_space(Writers::Anyone).await.unwrap_err().code(), "closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_not_to_dial_invites_keeps_them_and_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (one, space) = listening().await;
    let quiet = || Config { dial_invites: false, ..on_disk(folder.path()) };
    for round in 0..2 {
        let other = reopened(quiet()).await;
        if round == 0 {
            other.join(&one.invite(space).unwrap()).await.unwrap();
        }
        assert_eq!(other.dials(), 0);
        soon(other.close()).await.unwrap();
    }
    let other = reopened(on_disk(folder.path())).await;
    assert_eq!(other.dials(), 1);
    soon(other.wait_level(space, one.device())).await.unwrap();
}

/// A copy of the whole machine set back is not noticed at start: here only the other peer knows that there was more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_run_that_was_shown_more_of_its_chain_the_next_begins_new_ones() {
    let (folder, other) = (tempfile::tempdir().unwrap(), memory().await);
    let node = Node::open(on_disk(folder.path())).await.unwrap();
    let (space, document) = with_document(&node).await;
    document.set("/a", &1).await.unwrap();
    let doc = document.id();
    soon(node.close()).await.unwrap();
    let files = ["data", "keys"].into_iter().flat_map(|at| std::fs::read_dir(folder.path().join(at)).unwrap());
    let image: Vec<_> = files.map(|file| file.unwrap().path()).map(|at| (at.clone(), std::fs::read(at))).collect();

    let node = reopened(on_disk(folder.path())).await;
    let document = node.open_document(space, doc).await.unwrap();
    document.set("/b", &2).await.unwrap();
    other.join(&node.invite(space).unwrap()).await.unwrap();
    join(&node, &other);
    shows(&arrives(&other, space, doc).await, json!({ "a": 1, "b": 2 })).await;
    soon(node.close()).await.unwrap();

    // Written over, so that each stays the file that it was.
    image.into_iter().for_each(|(at, bytes)| std::fs::write(at, bytes.unwrap()).unwrap());
    let node = reopened(on_disk(folder.path())).await;
    assert_eq!(node.outcome(), Outcome::Continue);
    let document = node.open_document(space, doc).await.unwrap();
    join(&node, &other);
    shows(&document, json!({ "a": 1, "b": 2 })).await;
    soon(node.close()).await.unwrap();

    let node = reopened(on_disk(folder.path())).await;
    assert_eq!(node.outcome(), Outcome::Continue);
    let document = node.open_document(space, doc).await.unwrap();
    document.set("/c", &3).await.unwrap();
    assert_eq!(actors(&document).await, 2);
    soon(node.close()).await.unwrap();
}

/// The device that an address is known by may have lost its keys, and a new invite says who is there now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_invite_says_who_answers_at_an_address_and_in_later_runs_too() {
    let folder = tempfile::tempdir().unwrap();
    let (one, space) = listening().await;
    let invite = one.invite(space).unwrap();
    let mut old = invite.clone();
    old.peer = Some(memory().await.device());

    let other = Node::open(on_disk(folder.path())).await.unwrap();
    other.join(&old).await.unwrap();
    other.join(&invite).await.unwrap();
    assert_eq!(other.dials(), 1);
    soon(other.wait_level(space, one.device())).await.unwrap();
    soon(other.close()).await.unwrap();
    let other = reopened(on_disk(folder.path())).await;
    soon(other.wait_level(space, one.device())).await.unwrap();
    soon(other.close()).await.unwrap();
}

/// The names of the documents told, and whether each is gone.
fn told(changes: &DocumentChanges) -> Vec<(&str, bool)> {
    changes.rows.iter().map(|row| (&row.info.name[..], row.info.deleted)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_on_from_the_last_change_misses_nothing_over_edits_deletions_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let node = reopened(on_disk(folder.path())).await;
    let space = node.create_space(Writers::Anyone).await.unwrap();
    let mut stored = node.stored();
    for name in ["a", "b", "c"] {
        let document = node.create_document(space, "", name).await.unwrap();
        document.set("n", &1).await.unwrap();
        document.flush().await.unwrap();
    }
    assert!(stored.has_changed().unwrap());
    stored.mark_unchanged();
    let first = node.changes(space, 0, 2).await.unwrap();
    assert_eq!((told(&first), first.end), (vec![("a", false), ("b", false)], false));
    let docs = node.documents(space, DocumentQuery::default()).await.unwrap();
    let id_of = |name: &str| docs.iter().find(|doc| doc.name == name).unwrap().id;
    let a = node.open_document(space, id_of("a")).await.unwrap();
    a.set("n", &2).await.unwrap();
    a.flush().await.unwrap();
    node.delete_document(space, id_of("c")).await.unwrap();
    let second = node.changes(space, first.last, 10).await.unwrap();
    assert_eq!((told(&second), second.end), (vec![("a", false), ("c", true)], true));
    // A snapshot changes nothing that others see.
    node.compact_now(space, a.id()).await.unwrap();
    assert_eq!(node.changes(space, second.last, 10).await.unwrap().rows, []);
    drop(a);
    let store = node.store_id();
    node.close().await.unwrap();
    let node = reopened(on_disk(folder.path())).await;
    assert_eq!((node.store_id(), node.last_change(space).await.unwrap()), (store, second.last));
    let b = node.open_document(space, id_of("b")).await.unwrap();
    b.set("n", &3).await.unwrap();
    b.flush().await.unwrap();
    assert_eq!(told(&node.changes(space, second.last, 10).await.unwrap()), [("b", false)]);
    let all = node.changes(space, 0, 10).await.unwrap();
    assert_eq!(told(&all), [("a", false), ("c", true), ("b", false)], "each once, at its last change");
    node.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_the_program_outlive_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let node = reopened(on_disk(folder.path())).await;
    let row = |key: &str, value: Option<&str>| (key.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec()));
    node.put_app_rows(vec![row("a:1", Some("x")), row("a:2", Some("y")), row("b:1", Some("z"))]).await.unwrap();
    node.put_app_rows(vec![row("a:1", None)]).await.unwrap();
    drop(node);
    let node = reopened(on_disk(folder.path())).await;
    assert_eq!(node.app_rows(b"a:").await.unwrap(), [(b"a:2".to_vec(), b"y".to_vec())]);
    let too_long = node.put_app_rows(vec![(vec![0; 2_000], Some(Vec::new()))]).await;
    assert!(too_long.is_err() && node.app_rows(b"").await.unwrap().len() == 2, "and the store goes on");
    node.close().await.unwrap();
}
