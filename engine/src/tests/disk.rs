//! A disk that fails under a running node.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::support::*;
use crate::start::{STORE_FILE, openers};
use crate::storage::Storage;
use crate::store::faulty::{FaultyDisk, Operation};
use crate::store::{MemoryStore, Options, RedbStore, Table};
use crate::{Config, Node, NodeEvent, OpenError, Outcome, Writers};

pub(super) fn over(disk: &FaultyDisk) -> Config {
    let disk = disk.clone();
    let open = move || Ok(Arc::new(RedbStore::open_backend(disk.backend(), &Options::default())?) as _);
    Config { store: Some(Arc::new(open)), ..Config::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_the_edit_and_recovers_when_it_has_room() {
    let disk = FaultyDisk::new();
    let node = Node::open(over(&disk)).await.unwrap();
    let space = node.create_space(Writers::Granted).await.unwrap();
    let document = node.create_document(space, "", "").await.unwrap();
    document.set("/a", &1).await.unwrap();
    soon(document.flush()).await.unwrap();

    let mut events = node.events();
    disk.set_capacity(Some(disk.image().len()));
    let mut lost = None;
    for n in 0..1_000 {
        let edited = document.set("/big", &format!("{n}").repeat(10_000)).await;
        let flushed = match edited {
            Ok(()) => soon(document.flush()).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = flushed {
            lost = Some(error);
            break;
        }
    }
    let lost = lost.expect("the disk was full");
    assert!(lost.code().starts_with("store_"), "{lost}");
    soon(async { while !matches!(events.recv().await, Ok(NodeEvent::StoreFailed { .. })) {} }).await;

    disk.set_capacity(None);
    soon(async { while !matches!(events.recv().await, Ok(NodeEvent::StoreRecovered)) {} }).await;
    let saved = async {
        // The first flush afterwards may still tell of what was lost.
        while document.set("/a", &2).await.is_err() || document.flush().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(saved).await;
    assert_eq!(document.json_at("/a").await.unwrap(), Some(json!(2)));
    assert!(node.check().await.unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_store_in_the_place_of_the_failed_one_is_not_taken_for_it() {
    let (disk, other) = (FaultyDisk::new(), FaultyDisk::new());
    let opened = Arc::new(AtomicUsize::new(0));
    let open = {
        let (disk, other, opened) = (disk.clone(), other.clone(), opened.clone());
        move || {
            let disk = if opened.fetch_add(1, Ordering::Relaxed) == 1 { &other } else { &disk };
            Ok(Arc::new(RedbStore::open_backend(disk.backend(), &Options::default())?) as _)
        }
    };
    let node = Node::open(Config { store: Some(Arc::new(open)), ..Config::default() }).await.unwrap();
    let mut events = node.events();
    disk.fail_nth(Operation::Sync, 1);
    node.create_space(Writers::Granted).await.unwrap_err();
    soon(async { while !matches!(events.recv().await, Ok(NodeEvent::StoreRecovered)) {} }).await;
    assert_eq!(opened.load(Ordering::Relaxed), 3);
    let other = RedbStore::open_backend(other.backend(), &Options::default()).unwrap();
    assert!(Storage::new(Arc::new(other)).is_new().unwrap());
    node.create_space(Writers::Granted).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_gone_is_made_at_start_only() {
    let folder = tempfile::tempdir().unwrap();
    let (first, again) = openers(&on_disk(folder.path())).unwrap();
    let file = folder.path().join("data").join(STORE_FILE);
    drop(first().unwrap());
    drop(again().unwrap());
    std::fs::remove_file(&file).unwrap();
    assert_eq!(again().map(drop).unwrap_err().code(), "store_io");
    assert!(!file.exists());
}

/// A node over this store, and what it turned out to be.
async fn on(memory: &Arc<MemoryStore>) -> Result<Node, OpenError> {
    let memory = memory.clone();
    Node::open(Config { store: Some(Arc::new(move || Ok(memory.clone() as _))), ..Config::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_row_of_a_space_is_damaged_does_not_open() {
    let memory = Arc::new(MemoryStore::new());
    let node = on(&memory).await.unwrap();
    let space = node.create_space(Writers::Granted).await.unwrap();
    soon(node.close()).await.unwrap();
    memory.damage(Table::Spaces, &space.0);
    let error = on(&memory).await.unwrap_err();
    assert!(error.code() == "store_file_damaged" && error.to_string().contains(&space.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_fact_about_the_store_makes_it_a_new_one_that_holds_the_same() {
    for fact in [&b"store"[..], b"salt"] {
        let memory = Arc::new(MemoryStore::new());
        let node = on(&memory).await.unwrap();
        let (space, store) = (node.create_space(Writers::Granted).await.unwrap(), node.store_id());
        soon(node.close()).await.unwrap();
        memory.damage(Table::Meta, fact);
        let node = on(&memory).await.unwrap();
        assert_eq!((node.outcome(), node.spaces()[0].id), (Outcome::Restored, space));
        assert_ne!(node.store_id(), store);
        soon(node.close()).await.unwrap();
    }
}
