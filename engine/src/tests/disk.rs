//! A disk that fails under a running node.

use std::sync::Arc;

use serde_json::json;

use super::support::*;
use crate::store::faulty::FaultyDisk;
use crate::store::{Options, RedbStore};
use crate::{Config, Node, NodeEvent, Writers};

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
