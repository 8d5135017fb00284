//! The engine over a disk that loses what was not synced when the power is cut, in whatever order it likes: what was
//! acknowledged, to the app or to another peer, is there afterwards. And a disk that lies about syncing is caught, or the check
//! proves nothing. Processes that are killed are in server-shim/tests/kills.rs; there the system still writes what they left.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use commonhold_engine::store::faulty::{FaultyDisk, Rng};
use commonhold_engine::store::{Options, RedbStore, StoreError};
use commonhold_engine::transport::Link;
use commonhold_engine::{Config, Document, Error, Node, Prop, SpaceId, Writers};
use serde_json::Value as Json;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LIVES: u64 = 25;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

/// A node over the disk, for one life: once the power is cut it does not find the disk again.
fn over(disk: &FaultyDisk) -> Config {
    let (disk, opened) = (disk.clone(), AtomicBool::new(false));
    let open = move || {
        if opened.swap(true, Ordering::AcqRel) {
            return Err(StoreError::Failed { reason: "the power is off".into() });
        }
        Ok(Arc::new(RedbStore::open_backend(disk.backend(), &Options::default())?) as _)
    };
    Config { store: Some(Arc::new(open)), flush_ms: 1, ..Config::default() }
}

fn connect(one: &Node, other: &Node) {
    let (ours, theirs) = Link::pair(&Default::default());
    one.attach(ours, true, Some(other.device()));
    other.attach(theirs, false, None);
}

/// Edits numbered keys until the power is cut in the middle of it; the numbers that were said to be on disk.
async fn live(document: &Document, from: u64) -> Vec<u64> {
    let mut saved = Vec::new();
    for n in from.. {
        let written = async {
            document.set([key(n)], &n).await?;
            document.flush().await
        };
        match soon(written).await {
            Ok(_) => saved.push(n),
            Err(_) => break,
        }
    }
    saved
}

/// Numbers are keys of the document, not positions.
fn key(n: u64) -> Prop {
    Prop::Key(n.to_string())
}

/// The first of those that should be there and are not.
fn missing(shown: &Json, saved: &[u64]) -> Option<String> {
    let gone = saved.iter().find(|n| shown[n.to_string()] != **n)?;
    Some(format!("edit {gone} was acknowledged and is gone"))
}

/// Some lives of a node on one disk, each ended by a power cut. A second node in memory keeps what was acknowledged to it.
async fn lives(disk: FaultyDisk, seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let node = Node::open(over(&disk)).await.map_err(|e| e.to_string())?;
    let space = node.create_space(Writers::Anyone).await.unwrap();
    let doc = node.create_document(space, "", "power").await.unwrap();
    doc.flush().await.unwrap();
    let (id, invite) = (doc.id(), node.invite(space).unwrap());
    // Its part is that nothing of it may be lost by the node on the disk either, once that has acknowledged it.
    let other = Node::open(Config::default()).await.unwrap();
    other.join(&invite).await.unwrap();
    drop(doc);
    soon(node.close()).await.map_err(|e| e.to_string())?;

    let (mut saved, mut acknowledged) = (Vec::new(), Vec::new());
    for life in 0..LIVES {
        disk.crash(rng.next_u64());
        let node = Node::open(over(&disk)).await.map_err(|e| format!("life {life}: {e}"))?;
        let document = open(&node, space, id).await.map_err(|e| format!("life {life}: {e}"))?;
        let shown = document.json().await.map_err(|e| format!("life {life}: {e}"))?;
        let all: Vec<u64> = saved.iter().chain(&acknowledged).copied().collect();
        if let Some(gone) = missing(&shown, &all) {
            return Err(format!("life {life}: {gone}"));
        }
        connect(&node, &other);
        soon(other.wait_level(space, node.device())).await.unwrap();
        let there = soon(open(&other, space, id)).await.unwrap();
        let theirs = 1_000_000 + life;
        there.set([key(theirs)], &theirs).await.unwrap();
        soon(there.wait_acked(1)).await.unwrap();
        acknowledged.push(theirs);
        disk.cut_power_after(rng.below(60));
        saved.extend(live(&document, 1_000 * (life + 1)).await);
        let mut gone = other.events();
        let device = node.device();
        drop((document, node));
        // Its tasks end by themselves; whoever is connected sees it.
        let ended = async {
            while other.peers().iter().any(|peer| peer.device == device) {
                let _ = gone.recv().await;
            }
        };
        soon(ended).await;
    }
    assert!(saved.len() as u64 > LIVES, "seed {seed}: {} edits are too few", saved.len());
    Ok(())
}

async fn open(node: &Node, space: SpaceId, doc: commonhold_engine::DocId) -> Result<Document, Error> {
    let mut events = node.events();
    loop {
        match node.open_document(space, doc).await {
            // It may be known only by the next event of a peer that was told of it.
            Err(Error::UnknownDocument(_)) if !node.peers().is_empty() => drop(events.recv().await),
            opened => return opened,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_acknowledged() {
    for seed in 0..4 {
        lives(FaultyDisk::new(), seed).await.unwrap_or_else(|lost| panic!("seed {seed}: {lost}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_never_syncs_is_caught() {
    for seed in 0..4 {
        let caught = lives(FaultyDisk::that_never_syncs(), seed).await;
        println!("seed {seed}: {caught:?}");
        assert!(caught.is_err(), "seed {seed}");
    }
}
