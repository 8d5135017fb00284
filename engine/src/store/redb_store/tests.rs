//! Tests of the store on disk. Where a process has to die, this test binary starts itself as the child.

use super::super::conformance::{self, Crashable, contents};
use super::super::faulty::{FaultyDisk, Operation};
use super::*;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

mod damage;
mod measure;

fn options() -> Options {
    Options { cache_bytes: 1 << 20, ..Options::default() }
}

fn open_on(disk: &FaultyDisk) -> Result<RedbStore, StoreError> {
    RedbStore::open_backend(disk.backend(), &options())
}

fn one(key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Bodies, key, value);
    batch
}

#[test]
fn passes_the_conformance_suite() {
    conformance::run(|| open_on(&FaultyDisk::new()).unwrap());
}

#[test]
fn batches_outlive_the_store_that_took_them() {
    let dir = tempfile::tempdir().unwrap();
    conformance::reopens(|| RedbStore::open(dir.path().join("store"), &options()).unwrap());
    let disk = FaultyDisk::new();
    conformance::reopens(|| open_on(&disk).unwrap());
}

#[test]
fn nothing_acknowledged_is_lost_in_a_crash() {
    let mut cuts = 0;
    for seed in 0..3000 {
        cuts += conformance::crashes(&FaultyDisk::new(), seed).unwrap();
    }
    assert!(cuts > 10_000, "{cuts}");
}

#[test]
fn the_crash_suite_catches_a_disk_that_never_syncs() {
    let caught = (0..20).filter(|seed| conformance::crashes(&FaultyDisk::that_never_syncs(), *seed).is_err()).count();
    assert!(caught > 10, "{caught} of 20");
}

#[test]
fn any_failed_write_or_sync_stops_writing_until_the_store_is_opened_again() {
    for operation in [Operation::Write, Operation::Sync] {
        let mut n = 0;
        loop {
            n += 1;
            let disk = FaultyDisk::new();
            let store = open_on(&disk).unwrap();
            store.commit(one(b"a", b"1")).unwrap();
            disk.fail_nth(operation, n);
            let Err(error) = store.commit(one(b"b", b"2")) else { break };
            assert_eq!(error.code(), "store_io", "{operation:?} {n}");
            let again = store.commit(one(b"c", b"3")).unwrap_err();
            assert_eq!(again.code(), "store_failed", "{operation:?} {n}");
            assert!(again.to_string().contains("injected fault"), "{again}");
            drop(store);
            let store = open_on(&disk).unwrap();
            assert_eq!(store.get(Table::Bodies, b"a").unwrap().unwrap(), b"1");
            assert!(matches!(store.get(Table::Bodies, b"b").unwrap().as_deref(), None | Some(b"2")));
            assert_eq!(store.get(Table::Bodies, b"c").unwrap(), None);
            store.commit(one(b"c", b"3")).unwrap();
        }
        assert!(n > 2, "a commit makes at least two writes and two syncs, {operation:?} failed {n} times");
    }
}

#[test]
fn a_full_disk_is_told_apart_and_leaves_the_store_as_it_was() {
    let disk = FaultyDisk::new();
    let store = open_on(&disk).unwrap();
    store.commit(one(b"a", b"1")).unwrap();
    disk.set_capacity(Some(store.size_bytes().unwrap() as usize));
    assert_eq!(store.commit(one(b"b", &[0; 1 << 20])).unwrap_err().code(), "store_full");
    assert_eq!(store.commit(one(b"b", b"2")).unwrap_err().code(), "store_failed");
    drop(store);
    let store = open_on(&disk).unwrap();
    assert_eq!(contents(&store).unwrap().len(), 1);
    disk.set_capacity(None);
    store.commit(one(b"b", &[0; 1 << 20])).unwrap();
}

#[test]
fn an_empty_foreign_or_cut_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let code = |name: &str, image: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, image).unwrap();
        let code = RedbStore::open(&path, &options()).unwrap_err().code();
        (code, fs::read(&path).unwrap() == image)
    };
    let disk = FaultyDisk::new();
    let store = open_on(&disk).unwrap();
    store.commit(one(b"a", &[7; 100_000])).unwrap();
    store.close().unwrap();
    let good = disk.image();
    assert_eq!(code("empty", b""), ("store_not_a_store", true));
    assert_eq!(code("text", b"a letter to my aunt"), ("store_not_a_store", true));
    assert_eq!(code("zeros", &[0; 100_000]), ("store_not_a_store", true));
    assert_eq!(code("noise", &super::super::faulty::Rng::new(1).bytes(100_000)), ("store_not_a_store", true));
    for len in [9, 64, 511, 512, 4095, 4096, 8192, good.len() / 2, good.len() - 4096, good.len() - 1] {
        let (code, _) = code("cut", &good[..len]);
        assert_eq!(code, "store_file_damaged", "cut to {len} of {}", good.len());
    }
}

#[test]
fn a_redb_file_of_another_program_is_not_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other");
    drop(Database::create(&path).unwrap());
    assert_eq!(RedbStore::open(&path, &options()).unwrap_err().code(), "store_not_a_store");
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let disk = FaultyDisk::new();
    let store = open_on(&disk).unwrap();
    let txn = begin_write(store.writable().unwrap()).unwrap();
    put(&mut txn.open_table(FORMAT_TABLE).unwrap(), FORMAT_TABLE_ID, FORMAT_KEY, &2_u32.to_le_bytes()).unwrap();
    txn.commit().unwrap();
    drop(store);
    let error = open_on(&disk).unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { found: 2, known: 1 }), "{error}");
}

#[test]
fn a_missing_file_is_made_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let error = RedbStore::open(&path, &Options { create: false, ..options() }).unwrap_err();
    assert_eq!(error.code(), "store_io");
    let error = RedbStore::open(&path, &Options { read_only: true, ..options() }).unwrap_err();
    assert_eq!(error.code(), "store_io");
    // What a crash left of an earlier attempt is in nobody's way
    fs::write(beside(&path, ".new"), b"half a sto").unwrap();
    drop(RedbStore::open(&path, &options()).unwrap());
    assert!(!beside(&path, ".new").exists());
}

#[cfg(unix)]
#[test]
fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(RedbStore::open(&path, &options()).unwrap());
    for path in [path.clone(), beside(&path, ".lock")] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
}

#[test]
fn a_read_only_store_reads_and_refuses_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    RedbStore::open(&path, &options()).unwrap().commit(one(b"a", b"1")).unwrap();
    let read_only = Options { read_only: true, ..options() };
    let store = RedbStore::open(&path, &read_only).unwrap();
    let another = RedbStore::open(&path, &read_only).unwrap();
    assert_eq!(another.get(Table::Bodies, b"a").unwrap().unwrap(), b"1");
    assert_eq!(store.commit(one(b"b", b"2")).unwrap_err().code(), "store_read_only");
    assert_eq!(RedbStore::open(&path, &options()).unwrap_err().code(), "store_in_use");
}

#[test]
fn a_table_that_an_older_store_lacks_reads_as_empty() {
    let disk = FaultyDisk::new();
    let store = open_on(&disk).unwrap();
    let txn = begin_write(store.writable().unwrap()).unwrap();
    txn.delete_table(definition(Table::Tips)).unwrap();
    txn.commit().unwrap();
    assert_eq!(store.get(Table::Tips, b"a").unwrap(), None);
    assert_eq!(store.scan(Table::Tips, b"", None, 9, 9).unwrap(), Scan::default());
}

/// Runs one of the tests marked `ignored` below as a process of its own.
fn start_child(name: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(format!("store::redb_store::tests::{name}"))
        .env("STORE_PATH", path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The last number that the child said, once it has said `at_least`; `None` at its end.
fn number_said(lines: &mut impl Iterator<Item = io::Result<String>>, at_least: u64) -> Option<u64> {
    // The test harness may write before it on the same line
    lines
        .map_while(Result::ok)
        .find_map(|line| line.rsplit_once("acked ")?.1.parse().ok().filter(|number| *number >= at_least))
}

/// The greatest key of the log, 0 if it is empty.
fn last_logged(store: &RedbStore) -> u64 {
    let rows = store.scan(Table::Log, b"", None, usize::MAX, usize::MAX).unwrap().rows;
    rows.last().map_or(0, |(key, _)| u64::from_be_bytes(key[..].try_into().unwrap()))
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut acked = 0;
    for _ in 0..3 {
        let mut child = start_child("child_that_writes_until_killed", &path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        acked = number_said(&mut lines, acked + 15).unwrap();
        let in_use = RedbStore::open(&path, &options()).unwrap_err();
        assert!(matches!(in_use, StoreError::InUse { pid: Some(pid) } if pid == child.id()), "{in_use}");
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(more) = number_said(&mut lines, acked) {
            acked = more;
        }
        let store = RedbStore::open(&path, &options()).unwrap();
        let last = last_logged(&store);
        assert!(last == acked || last == acked + 1, "acknowledged {acked}, found {last}");
        for i in 1..=last {
            assert_eq!(store.get(Table::Log, &i.to_be_bytes()).unwrap().unwrap(), vec![i as u8; 3000]);
        }
    }
}

#[test]
#[ignore = "the process that a_killed_process_loses_nothing_it_acknowledged starts and kills; that test owns it"]
fn child_that_writes_until_killed() {
    let Some(path) = std::env::var_os("STORE_PATH") else { return };
    let store = RedbStore::open(path, &options()).unwrap();
    for i in last_logged(&store) + 1.. {
        let mut batch = Batch::new();
        batch.put(Table::Log, i.to_be_bytes(), vec![i as u8; 3000]);
        store.commit(batch).unwrap();
        println!("acked {i}");
    }
}
