//! The figures in `docs/storage.md`. Not run with the others:
//! `cargo test --release -p commonhold-engine store::redb_store::tests::measure -- --ignored --nocapture --test-threads 1`

use super::*;
use crate::store::faulty::Rng;
use std::time::Instant;

const VALUE_BYTES: usize = 120;

/// Rows like those of `Bodies`: a hash as the key, so that they land all over the tree.
fn scattered(rng: &mut Rng, rows: usize) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..rows {
        batch.put(Table::Bodies, rng.bytes(32), rng.bytes(VALUE_BYTES));
    }
    batch
}

/// Rows like those of `Log`: ascending keys.
fn ascending(from: u64, rng: &mut Rng, rows: usize) -> Batch {
    let mut batch = Batch::new();
    for i in 0..rows as u64 {
        batch.put(Table::Log, (from + i).to_be_bytes(), rng.bytes(VALUE_BYTES));
    }
    batch
}

#[test]
#[ignore = "a measurement for docs/storage.md; whoever changes the store runs it, as the head of this file says"]
fn commit_rates_on_a_file() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let store = RedbStore::open(dir.path().join("store"), &Options::default()).unwrap();
    let mut rng = Rng::new(1);
    let batch = scattered(&mut rng, 50_000);
    let start = Instant::now();
    store.commit(batch).unwrap();
    println!("50,000 scattered rows of 152 bytes in one commit: {:?}", start.elapsed());
    for rows in [1, 1000] {
        for kind in ["scattered", "ascending"] {
            let batches: Vec<Batch> = (0..100)
                .map(|i| match kind {
                    "scattered" => scattered(&mut rng, rows),
                    _ => ascending(((rows as u64) << 32) + i * rows as u64, &mut rng, rows),
                })
                .collect();
            let start = Instant::now();
            batches.into_iter().for_each(|batch| store.commit(batch).unwrap());
            let per_second = 100.0 / start.elapsed().as_secs_f64();
            println!("commits of {rows} {kind} rows: {per_second:.0}/s; file {} bytes", store.size_bytes().unwrap());
        }
    }
}

#[test]
#[ignore = "a measurement for docs/storage.md; whoever changes the store runs it, as the head of this file says"]
fn bytes_written_per_byte_stored() {
    for (two_phase, quick_repair) in [(false, false), (true, false), (true, true)] {
        for rows_before in [0, 300_000] {
            for (kind, rows) in [("scattered", 1), ("scattered", 1000), ("ascending", 1), ("ascending", 1000)] {
                let disk = FaultyDisk::new();
                let store = RedbStore::open_backend(disk.backend(), &Options::default()).unwrap();
                let mut rng = Rng::new(1);
                store.commit(scattered(&mut rng, rows_before)).unwrap();
                let before = disk.counters();
                let commits = 50;
                let mut logical = 0;
                for i in 0..commits {
                    let batch = match kind {
                        "scattered" => scattered(&mut rng, rows),
                        _ => ascending(i * rows as u64, &mut rng, rows),
                    };
                    logical += batch.size_bytes() as u64;
                    let mut txn = begin_write(store.writable().unwrap()).unwrap();
                    txn.set_two_phase_commit(two_phase);
                    txn.set_quick_repair(quick_repair);
                    for (table, ops) in batch.into_tables().unwrap() {
                        let mut open = txn.open_table(definition(table)).unwrap();
                        for (key, value) in ops.rows {
                            put(&mut open, table.id(), &key, &value.unwrap()).unwrap();
                        }
                    }
                    txn.commit().unwrap();
                }
                let after = disk.counters();
                let written = after.bytes_written - before.bytes_written;
                println!(
                    "two-phase {two_phase}, quick repair {quick_repair}, on {rows_before} rows, {rows} {kind} rows a commit: \
                     {:.1} bytes per byte, {} bytes and {:.1} syncs a commit",
                    written as f64 / logical as f64,
                    written / commits,
                    (after.syncs - before.syncs) as f64 / commits as f64,
                );
            }
        }
    }
}

#[test]
#[ignore = "a measurement for docs/storage.md; whoever changes the store runs it, as the head of this file says"]
fn opening_a_million_rows_after_kill() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("store");
    let mut child = start_child("measure::child_that_writes_a_million_rows", &path);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    number_said(&mut lines, 1050).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    for what in ["after kill -9", "after a clean close"] {
        let start = Instant::now();
        let store = RedbStore::open(&path, &Options::default()).unwrap();
        let opened = start.elapsed();
        assert_eq!(store.scan(Table::Bodies, b"", None, 1, 1).unwrap().rows.len(), 1);
        println!("{what}: open {opened:?}, first read {:?}", start.elapsed() - opened);
        println!("  file {} bytes", store.size_bytes().unwrap());
    }
    let start = Instant::now();
    let store = RedbStore::open(&path, &Options { verify: true, ..Options::default() }).unwrap();
    println!("with verify: open {:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(store.damaged_rows(1).unwrap(), []);
    println!("reading every row: {:?}", start.elapsed());
}

#[test]
#[ignore = "the process that opening_a_million_rows_after_kill starts and kills; that measurement owns it"]
fn child_that_writes_a_million_rows() {
    let Some(path) = std::env::var_os("STORE_PATH") else { return };
    let store = RedbStore::open(path, &Options::default()).unwrap();
    let mut rng = Rng::new(1);
    for i in 0.. {
        store.commit(scattered(&mut rng, 1000)).unwrap();
        println!("acked {i}");
    }
}
