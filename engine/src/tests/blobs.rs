//! Blobs between nodes, and in folders.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::support::{join, memory, on_disk, reopened, shows, soon, two};
use crate::blobs::{Blob, BlobLimits, BlobStore, FileBlobs, MemoryBlobs, PIECE_BYTES, Pieces};
use crate::{BlobRef, Config, Node, SpaceId, Writers};

/// Bytes that differ from piece to piece, and by seed.
fn content(seed: u8, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

async fn read(node: &Node, space: SpaceId, name: &BlobRef) -> Vec<u8> {
    let mut out = Vec::new();
    soon(node.blob(space, name).await.unwrap().unwrap().copy_to(&mut out)).await.unwrap();
    out
}

#[tokio::test]
async fn a_blob_goes_from_one_peer_to_another() {
    let (one, other, space) = two().await;
    for size in [0, 1, PIECE_BYTES, 5 * PIECE_BYTES + 3] {
        let bytes = content(1, size);
        let name = one.put_blob(space, io::Cursor::new(bytes.clone())).await.unwrap();
        assert_eq!(name.blob, Blob::of(&bytes));
        let mut fetch = other.fetch_blob(space, &name).await.unwrap();
        let mut last = 0;
        while let Some(progress) = soon(fetch.next()).await.unwrap() {
            assert!(progress.bytes >= last && progress.bytes <= size as u64);
            last = progress.bytes;
        }
        assert_eq!(read(&other, space, &name).await, bytes);
        soon(other.fetch_blob(space, &name).await.unwrap().held()).await.unwrap();
    }
}

#[tokio::test]
async fn a_blob_that_nobody_has_comes_once_somebody_does() {
    let (one, other, space) = two().await;
    let bytes = content(2, 2 * PIECE_BYTES);
    let fetch = other.fetch_blob(space, &Blob::of(&bytes).into()).await.unwrap();
    let dropped = other.fetch_blob(space, &Blob::of(b"nobody has this").into()).await.unwrap();
    drop(dropped);
    one.put_blob(space, io::Cursor::new(bytes.clone())).await.unwrap();
    soon(fetch.held()).await.unwrap();
    assert_eq!(read(&other, space, &Blob::of(&bytes).into()).await, bytes);
    let stranger = one.create_space(Writers::Anyone).await.unwrap();
    assert!(one.blob(stranger, &Blob::of(&bytes).into()).await.unwrap().is_none(), "a blob belongs to its space");
}

#[tokio::test]
async fn what_two_peers_fetch_together_comes_from_both_sides() {
    let (one, middle, space) = two().await;
    let last = memory().await;
    last.join(&one.invite(space).unwrap()).await.unwrap();
    join(&middle, &last);
    let bytes = content(3, 9 * PIECE_BYTES);
    // The last is not connected to who has it: it gets from the middle what that one gets.
    let far = last.fetch_blob(space, &Blob::of(&bytes).into()).await.unwrap();
    let near = middle.fetch_blob(space, &Blob::of(&bytes).into()).await.unwrap();
    one.put_blob(space, io::Cursor::new(bytes.clone())).await.unwrap();
    soon(near.held()).await.unwrap();
    soon(far.held()).await.unwrap();
    assert_eq!(read(&last, space, &Blob::of(&bytes).into()).await, bytes);
}

#[tokio::test]
async fn a_space_that_is_full_says_so() {
    let blobs = BlobLimits { bytes_per_space: 3 * PIECE_BYTES as u64, ..BlobLimits::default() };
    let node = soon(Node::open(Config { blobs, ..Config::default() })).await.unwrap();
    let space = node.create_space(Writers::Anyone).await.unwrap();
    node.put_blob(space, io::Cursor::new(content(1, 2 * PIECE_BYTES))).await.unwrap();
    let error = node.put_blob(space, io::Cursor::new(content(2, 2 * PIECE_BYTES))).await.unwrap_err();
    assert_eq!(error.code(), "blob_quota");
    let large = Blob { size: 2 * PIECE_BYTES as u64, ..Blob::of(b"x") };
    let fetch = node.fetch_blob(space, &large.into()).await.unwrap();
    assert_eq!(soon(fetch.held()).await.unwrap_err().code(), "blob_quota");
    let other = node.create_space(Writers::Anyone).await.unwrap();
    node.put_blob(other, io::Cursor::new(content(2, 2 * PIECE_BYTES))).await.unwrap();
}

#[tokio::test]
async fn what_a_document_refers_to_stays_and_the_rest_goes_after_its_time() {
    let blobs = BlobLimits { grace: Duration::ZERO, ..BlobLimits::default() };
    let node = soon(Node::open(Config { blobs, ..Config::default() })).await.unwrap();
    let space = node.create_space(Writers::Anyone).await.unwrap();
    let mut names = Vec::new();
    for seed in 0..4 {
        names.push(node.put_blob(space, io::Cursor::new(content(seed, 100))).await.unwrap());
    }
    let document = node.create_document(space, "", "").await.unwrap();
    let (in_map, in_list) = (names[0].to_string(), format!("![picture]({})", names[1]));
    let edit = |edit: &mut crate::Edit<'_>| -> Result<(), crate::EditError> {
        let root = edit.resolve(&[])?;
        edit.put(&root, "picture", in_map.as_str())?;
        let list = edit.put_object(&root, "notes", crate::ObjKind::List)?;
        edit.insert(&list, 0, in_list.as_str())
    };
    document.edit(edit).await.unwrap();
    shows(&document, json!({"picture": in_map, "notes": [in_list]})).await;
    document.flush().await.unwrap();
    let collected = node.collect_blobs(space).await.unwrap();
    let gone: std::collections::BTreeSet<_> = collected.removed.iter().copied().collect();
    assert_eq!(gone, [names[2].blob, names[3].blob].into());
    assert_eq!((collected.blobs, collected.documents), (4, 1));
    node.delete_document(space, document.id()).await.unwrap();
    assert_eq!(node.collect_blobs(space).await.unwrap().removed.len(), 2, "a deleted document refers to nothing");
    assert!(node.blobs(space).await.unwrap().is_empty());
}

#[tokio::test]
async fn blobs_in_a_folder_are_there_in_the_next_run_and_are_served_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(5, 3 * PIECE_BYTES + 1);
    let (space, name) = {
        let node = soon(Node::open(on_disk(folder.path()))).await.unwrap();
        let space = node.create_space(Writers::Anyone).await.unwrap();
        let name = node.put_blob(space, io::Cursor::new(bytes.clone())).await.unwrap();
        soon(node.close()).await.unwrap();
        (space, name)
    };
    let node = reopened(on_disk(folder.path())).await;
    assert_eq!(node.blobs(space).await.unwrap().len(), 1);
    let other = memory().await;
    other.join(&node.invite(space).unwrap()).await.unwrap();
    join(&node, &other);
    soon(other.fetch_blob(space, &name).await.unwrap().held()).await.unwrap();
    assert_eq!(read(&other, space, &name).await, bytes);
    soon(node.close()).await.unwrap();
}

const SPACE: SpaceId = SpaceId([7; 32]);

fn file_of(folder: &Path, ending: &str) -> PathBuf {
    let space = folder.join(SPACE.to_string());
    let found = fs::read_dir(space).unwrap().map(|entry| entry.unwrap().path());
    found.into_iter().find(|path| path.extension().is_some_and(|of| of == ending)).unwrap()
}

/// Every piece and its proof.
fn proven(bytes: &[u8]) -> (Blob, Vec<crate::blobs::ProvenPiece>) {
    let whole = MemoryBlobs::new(BlobLimits::default());
    let blob = whole.put(&SPACE, &mut &bytes[..]).unwrap();
    (blob, (0..blob.pieces().unwrap()).map(|piece| whole.read(&SPACE, &blob, piece).unwrap().unwrap()).collect())
}

#[test]
fn a_fetch_goes_on_where_the_last_run_ended_and_takes_nothing_on_trust() {
    let folder = tempfile::tempdir().unwrap();
    let store = || FileBlobs::new(folder.path().into(), BlobLimits::default());
    let bytes = content(6, 6 * PIECE_BYTES - 5);
    let (blob, pieces) = proven(&bytes);
    let first = store();
    assert_eq!(first.begin(&SPACE, &blob).unwrap().count(), 0);
    for piece in [5, 0, 3, 1] {
        let (bytes, proof) = &pieces[piece as usize];
        first.write(&SPACE, &blob, piece, bytes, proof).unwrap();
        assert_eq!(
            first.read(&SPACE, &blob, piece).unwrap().unwrap(),
            pieces[piece as usize],
            "what came can be served"
        );
    }
    assert!(first.finish(&SPACE, &blob).is_err() && first.list(&SPACE).unwrap().is_empty());
    drop(first);
    // The disk lost a piece, and the end of the log is torn.
    let part = file_of(folder.path(), "part");
    let mut there = fs::read(&part).unwrap();
    there[3 * PIECE_BYTES + 9] ^= 1;
    fs::write(&part, there).unwrap();
    let log = file_of(folder.path(), "log");
    let entries = fs::read(&log).unwrap();
    fs::write(&log, &entries[..entries.len() - 1]).unwrap();
    let second = store();
    assert_eq!(second.begin(&SPACE, &blob).unwrap().iter().collect::<Vec<_>>(), [0, 5]);
    for piece in [1, 2, 3, 4] {
        let (bytes, proof) = &pieces[piece as usize];
        second.write(&SPACE, &blob, piece, bytes, proof).unwrap();
    }
    second.finish(&SPACE, &blob).unwrap();
    assert_eq!(fs::read(file_of(folder.path(), "blob")).unwrap(), bytes);
    assert_eq!(second.list(&SPACE).unwrap().len(), 1);
    assert_eq!(store().find(&SPACE, &blob).unwrap(), Some(Pieces::all(6)));
}

#[test]
fn a_piece_that_reads_back_wrong_is_not_served_and_the_blob_can_be_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileBlobs::new(folder.path().into(), BlobLimits::default());
    let bytes = content(7, 3 * PIECE_BYTES);
    let blob = store.put(&SPACE, &mut &bytes[..]).unwrap();
    let mut there = bytes.clone();
    there[PIECE_BYTES] ^= 1;
    fs::write(file_of(folder.path(), "blob"), there).unwrap();
    assert!(store.read(&SPACE, &blob, 0).unwrap().is_some());
    assert!(store.read(&SPACE, &blob, 1).unwrap().is_none());
    assert!(store.find(&SPACE, &blob).unwrap().is_none() && file_of(folder.path(), "damaged").exists());
    assert_eq!(store.begin(&SPACE, &blob).unwrap().count(), 0);
    // A tree that is lost or wrong is made anew.
    let blob = store.put(&SPACE, &mut &bytes[..]).unwrap();
    fs::write(file_of(folder.path(), "tree"), [1; 96]).unwrap();
    let next = FileBlobs::new(folder.path().into(), BlobLimits::default());
    assert!(next.read(&SPACE, &blob, 2).unwrap().is_some());
}

#[test]
fn quotas_hold_for_files_and_the_least_recently_used_goes_where_that_is_wanted() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the reader fails"))
        }
    }
    let limits = BlobLimits { bytes_per_space: 3 * PIECE_BYTES as u64, ..BlobLimits::default() };
    for store in [true, false].map(|files| -> (tempfile::TempDir, Arc<dyn BlobStore>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        (folder, if files { Arc::new(FileBlobs::new(path, limits)) } else { Arc::new(MemoryBlobs::new(limits)) })
    }) {
        let (folder, store) = store;
        let put = |seed, pieces: usize| store.put(&SPACE, &mut &content(seed, pieces * PIECE_BYTES)[..]);
        assert!(store.put(&SPACE, &mut Failing).is_err());
        let first = put(1, 2).unwrap();
        assert_eq!(put(1, 2).unwrap(), first, "the same counts once");
        assert!(put(2, 2).is_err() && put(2, 4).is_err());
        assert!(store.remove(&SPACE, &first).unwrap() && !store.remove(&SPACE, &first).unwrap());
        put(2, 3).unwrap();
        let left = fs::read_dir(folder.path().join(SPACE.to_string())).map(|found| found.count());
        assert!(left.is_err() || left.is_ok_and(|count| count == 2), "nothing is left of what was refused");
    }
    let folder = tempfile::tempdir().unwrap();
    let store = FileBlobs::new(folder.path().into(), BlobLimits { recent: true, ..limits });
    let put = |seed, pieces: usize| store.put(&SPACE, &mut &content(seed, pieces * PIECE_BYTES)[..]).unwrap();
    let (first, second) = (put(1, 1), put(2, 1));
    store.touch(&SPACE, &first).unwrap();
    let third = put(3, 2);
    let there: Vec<_> = [first, second, third].iter().map(|b| store.find(&SPACE, b).unwrap().is_some()).collect();
    assert_eq!(there, [true, false, true]);
}
