use std::sync::{Arc, Mutex};

use commonhold_sync::id::DocId;
use serde_json::json;

use super::*;
use crate::blobs::BlobRef;
use crate::config::Config;
use crate::lineage::Outcome;
use crate::store::{Options, RedbStore, Store, Table};
use crate::{Right, Writers};

/// Bytes that are written, for whoever looks later.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<u8>>>);

impl Write for Taken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        locked(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn data(&self) -> std::path::PathBuf {
        self.0.path().join("data")
    }

    async fn open(&self) -> Node {
        let (data, keys) = (Some(self.data()), Some(self.0.path().join("keys")));
        Node::open(Config { data, keys, ..Config::default() }).await.unwrap()
    }
}

/// A peer with a space, a grant, a document that was packed and edited since, one that was deleted, and a blob.
async fn filled(node: &Node) -> (SpaceId, DocId, BlobRef) {
    let space = node.create_space(Writers::Granted).await.unwrap();
    node.grant(space, commonhold_sync::id::DeviceId([7; 32]), Right::Write, false).await.unwrap();
    let document = node.create_document(space, "list", "shopping").await.unwrap();
    document.set("/milk", &json!(1)).await.unwrap();
    document.flush().await.unwrap();
    node.compact_now(space, document.id()).await.unwrap();
    document.set("/eggs", &json!(6)).await.unwrap();
    document.flush().await.unwrap();
    let gone = node.create_document(space, "", "gone").await.unwrap();
    node.delete_document(space, gone.id()).await.unwrap();
    let blob = node.put_blob(space, &[5; 200_000][..]).await.unwrap();
    (space, document.id(), blob)
}

async fn backup(node: &Node) -> Vec<u8> {
    let to = Taken::default();
    let report = node.backup(true, to.clone()).await.unwrap();
    let bytes = locked(&to.0).clone();
    assert_eq!(report.bytes, bytes.len() as u64);
    bytes
}

fn looked_at(bytes: &[u8]) -> Result<Verified, BackupError> {
    verify(bytes, None, &mut |_| {})
}

fn checked(bytes: &[u8]) -> Result<Verified, BackupError> {
    let scratch = tempfile::tempdir().unwrap();
    verify(bytes, Some(scratch.path()), &mut |_| {})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_store_holds_the_same_and_goes_on_as_another() {
    let home = Home::new();
    let node = home.open().await;
    let (space, doc, blob) = filled(&node).await;
    let bytes = backup(&node).await;
    let (before, chains) = (node.store_id(), node.check().await.unwrap());
    let verified = checked(&bytes).unwrap();
    let check = verified.check.unwrap();
    assert_eq!((check.documents, check.entries), (chains.documents, chains.entries));
    assert_eq!((verified.manifest.blobs, verified.manifest.blob_bytes), (1, 200_000));
    node.close().await.unwrap();

    // In the place of the store that it was made of, after a clean end: nothing else could tell that it is a copy.
    assert!(matches!(restore(&bytes[..], &home.data(), false, &mut |_| {}), Err(BackupError::Exists)));
    let restored = restore(&bytes[..], &home.data(), true, &mut |_| {}).unwrap();
    assert!(restored.replaced.unwrap().join("store.redb").exists());
    assert!(!home.data().join("restoring").exists());
    let node = home.open().await;
    assert_eq!(node.outcome(), Outcome::Restored);
    assert_ne!(node.store_id(), before);
    let document = node.open_document(space, doc).await.unwrap();
    assert_eq!(document.read(|view| view.to_json()).await.unwrap(), json!({"milk": 1, "eggs": 6}));
    assert!(node.blob(space, &blob).await.unwrap().is_some());
    assert!(node.check().await.unwrap().is_sound());
    document.set("/oats", &json!(1)).await.unwrap();
    document.flush().await.unwrap();
    let actors: Vec<_> = document.history().await.unwrap().into_iter().map(|change| change.actor).collect();
    assert!(actors.len() == 3 && actors[0] == actors[1] && actors[1] != actors[2], "a chain of the backup went on");
    node.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_bit_and_every_cut_is_found_and_named() {
    let node = Node::open(Config::default()).await.unwrap();
    filled(&node).await;
    let bytes = backup(&node).await;
    looked_at(&bytes).unwrap();
    // All of the small frames, and samples of the blob.
    let places = (0..bytes.len()).filter(|at| *at < 12_000 || at % 977 == 0 || *at > bytes.len() - 2_000);
    for at in places {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        match looked_at(&flipped) {
            Ok(_) => panic!("a flip at {at} was not found"),
            Err(BackupError::Damaged(damage)) => {
                let named = |place: &Damage| (place.from..place.to).contains(&(at as u64)) && !place.what.is_empty();
                assert!(damage.iter().any(named), "a flip at {at}: {damage:?}");
            }
            Err(BackupError::NotABackup | BackupError::NewerFormat { .. }) => assert!(at < 20, "at {at}"),
            Err(other) => panic!("{other}"),
        }
    }
    for end in (0..bytes.len()).step_by(331).chain(bytes.len() - 100..bytes.len()) {
        assert!(looked_at(&bytes[..end]).is_err(), "a cut at {end} was not found");
    }
    let longer = [&bytes[..], b"\n"].concat();
    assert!(matches!(looked_at(&longer), Err(BackupError::Damaged(damage)) if damage[0].from == bytes.len() as u64));
    // Frames that changed places: the first two are as they were written, each by itself.
    let first = 20 + 5 + frame_length(&bytes, 20) + 16;
    let after = first + 5 + frame_length(&bytes, first) + 16;
    let swapped = [&bytes[..20], &bytes[first..after], &bytes[20..first], &bytes[after..]].concat();
    assert!(matches!(looked_at(&swapped), Err(BackupError::Damaged(damage)) if damage[0].from == 20));
}

fn frame_length(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at + 1..at + 5].try_into().unwrap()) as usize
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_whose_signatures_do_not_hold_is_refused() {
    let node = Node::open(Config::default()).await.unwrap();
    let (space, ..) = filled(&node).await;
    // What somebody makes who knows the format: every digest is right.
    let to = Taken::default();
    let forged = to.clone();
    let alter = move |storage: &Storage| {
        let mut writer = Writer::begin(forged).unwrap();
        let each = storage.store().each_row(&mut |table, key, value| {
            let mut value = Storage::row_of_copy(table, key, value).unwrap_or_default().to_vec();
            if table == Table::Spaces && key == space.0 {
                let mut row: commonhold_sync::space::SpaceRow = minicbor::decode(&value).unwrap();
                row.lines[0].branches[0].tip.signature[5] ^= 1;
                value = minicbor::to_vec(&row).unwrap();
            }
            writer.row(table, key, &value).unwrap();
            true
        });
        each.unwrap();
        let facts = Manifest {
            format: 1,
            program: "x".into(),
            made_ms: 0,
            device: "".into(),
            store: "".into(),
            tables: Vec::new(),
            blobs: 0,
            blob_bytes: 0,
        };
        writer.finish(facts).unwrap();
    };
    node.shared().blocking(alter).await.unwrap();
    let forged = locked(&to.0).clone();
    looked_at(&forged).unwrap();
    assert!(matches!(checked(&forged), Err(BackupError::Unsound(report)) if report.faults.len() == 1));
    let home = Home::new();
    assert!(restore(&forged[..], &home.data(), false, &mut |_| {}).is_err());
    let left: Vec<_> = std::fs::read_dir(home.data()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["store.redb.lock"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_row_and_a_reader_that_leaves_end_a_backup() {
    let home = Home::new();
    let node = home.open().await;
    filled(&node).await;
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    assert!(matches!(node.backup(true, Full).await, Err(Error::Io(_))));
    node.close().await.unwrap();

    // A store that is in use is not replaced.
    let bytes = {
        let node = Node::open(Config::default()).await.unwrap();
        filled(&node).await;
        backup(&node).await
    };
    let open = RedbStore::open(home.data().join("store.redb"), &Options::default()).unwrap();
    let refused = restore(&bytes[..], &home.data(), true, &mut |_| {});
    assert!(matches!(refused, Err(BackupError::Store(StoreError::InUse { .. }))), "{refused:?}");
    drop(open);

    let memory = Arc::new(crate::store::MemoryStore::new());
    let store: Arc<dyn Store> = memory.clone();
    let node =
        Node::open(Config { store: Some(Arc::new(move || Ok(store.clone()))), ..Config::default() }).await.unwrap();
    let (space, ..) = filled(&node).await;
    node.shared().settle().await.unwrap();
    memory.damage(Table::Spaces, &space.0);
    let refused = node.backup(false, Taken::default()).await;
    assert!(matches!(refused, Err(Error::StoreFailed(error)) if matches!(*error, StoreError::Damaged { .. })));
}
