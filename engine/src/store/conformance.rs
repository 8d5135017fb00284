//! What every [`Store`] must do, as a suite that the tests of each implementation call. Plain models, seeded
//! operations; a failure names its seed.

use super::faulty::{FaultyDisk, Rng};
use super::{Batch, KEY_BYTES_MAX, Options, RedbStore, Row, Store, StoreError, Table, VALUE_BYTES_MAX};
use std::collections::BTreeMap;

/// A store and the disk under it, for [`crashes`].
pub trait Crashable {
    /// The store under test.
    type Store: Store;

    /// Opens the store on what the disk holds now.
    ///
    /// # Errors
    /// What opening said.
    fn open(&self) -> Result<Self::Store, StoreError>;

    /// Cuts the power after this many further writes and syncs.
    fn cut_power_after(&self, operations: u64);

    /// Ends the power cut, or makes one now, with the losses that the seed draws.
    fn crash(&self, seed: u64);
}

impl Crashable for FaultyDisk {
    type Store = RedbStore;

    fn open(&self) -> Result<RedbStore, StoreError> {
        // A small cache, so that pages are also read back and evicted
        let options = Options { cache_bytes: 256 << 10, ..Options::default() };
        RedbStore::open_backend(self.backend(), &options)
    }

    fn cut_power_after(&self, operations: u64) {
        FaultyDisk::cut_power_after(self, operations);
    }

    fn crash(&self, seed: u64) {
        FaultyDisk::crash(self, seed);
    }
}

/// All rows of all tables, as a plain map.
pub type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Runs everything that needs no disk to break. `make` returns a new, empty store each time.
///
/// # Panics
/// When the store breaks the contract of [`Store`].
pub fn run<S: Store>(make: impl Fn() -> S) {
    orders_keys_as_byte_strings(&make());
    keeps_tables_apart(&make());
    takes_empty_and_large_rows(&make());
    refuses_oversized_rows_whole(&make());
    applies_operations_in_order(&make());
    stops_scans_at_their_limits(&make());
    shows_readers_whole_batches(&make());
    for seed in 0..20 {
        equals_a_map(&make(), seed);
    }
}

/// Checks that batches outlive the store they were committed to. `open` opens the same storage each time, empty at first.
///
/// # Panics
/// When they do not.
pub fn reopens<S: Store>(open: impl Fn() -> S) {
    let mut rng = Rng::new(1);
    let mut model = Model::new();
    for _ in 0..8 {
        let store = open();
        assert_eq!(contents(&store).expect("reads"), model);
        for _ in 0..4 {
            commit(&store, &mut model, random_batch(&mut rng));
        }
    }
}

/// Runs one seeded history of commits and power cuts on an empty disk. After each cut the store must open again and hold
/// every acknowledged batch, and of the one batch in doubt all or nothing. Returns the number of power cuts.
///
/// # Errors
/// What went wrong, and the seed.
pub fn crashes<C: Crashable>(disk: &C, seed: u64) -> Result<u32, String> {
    let mut rng = Rng::new(seed);
    let mut model = Model::new();
    let blame = |what: String| format!("seed {seed}: {what}");
    // Making a store is not under test: on a real disk it appears under its name only when it is whole
    let mut store = disk.open().map_err(|error| blame(format!("the empty disk does not open: {error}")))?;
    let rounds = 1 + rng.below(6) as u32;
    for round in 0..rounds {
        disk.cut_power_after(rng.below(40));
        let mut in_doubt = None;
        for _ in 0..rng.below(12) {
            let batch = random_batch(&mut rng);
            let mut after = model.clone();
            apply(&mut after, &batch);
            match store.commit(batch.0) {
                Ok(()) => model = after,
                Err(_) => {
                    in_doubt = Some(after);
                    break;
                }
            }
        }
        let closes_first = rng.below(3) == 0;
        if closes_first {
            drop(store);
            disk.crash(rng.next_u64());
        } else {
            disk.crash(rng.next_u64());
            drop(store);
        }
        while rng.below(3) == 0 {
            // Power fails again while the store recovers, or writes nothing at all
            disk.cut_power_after(rng.below(12));
            drop(disk.open());
            disk.crash(rng.next_u64());
        }
        store = disk.open().map_err(|error| blame(format!("round {round}: does not open: {error}")))?;
        let found = contents(&store).map_err(|error| blame(format!("round {round}: does not read: {error}")))?;
        if found != model {
            if in_doubt.as_ref() != Some(&found) {
                return Err(blame(format!("round {round}: acknowledged rows are lost, or a batch is torn")));
            }
            model = found;
        }
    }
    Ok(rounds)
}

/// Everything that a store holds.
///
/// # Errors
/// What the store said; a damaged row is an error.
pub fn contents(store: &dyn Store) -> Result<Model, StoreError> {
    let mut model = Model::new();
    for table in Table::ALL {
        let mut start = Vec::new();
        loop {
            let scan = store.scan(table, &start, None, 7, 4096)?;
            if let Some(key) = scan.damaged.into_iter().next() {
                return Err(StoreError::Damaged { table, key });
            }
            model.extend(scan.rows.into_iter().map(|(key, value)| ((table, key), value)));
            let Some(next) = scan.next else { break };
            start = next;
        }
    }
    Ok(model)
}

/// A batch and the same operations as a plain list, for the model.
type Twin = (Batch, Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    Put(Table, Vec<u8>, Vec<u8>),
    Delete(Table, Vec<u8>),
    DeleteRange(Table, Vec<u8>, Option<Vec<u8>>),
}

fn apply(model: &mut Model, (_, steps): &Twin) {
    for step in steps {
        match step {
            Step::Put(table, key, value) => drop(model.insert((*table, key.clone()), value.clone())),
            Step::Delete(table, key) => drop(model.remove(&(*table, key.clone()))),
            Step::DeleteRange(table, start, end) => {
                model.retain(|(at, key), _| at != table || key < start || end.as_ref().is_some_and(|end| key >= end))
            }
        }
    }
}

fn commit(store: &dyn Store, model: &mut Model, twin: Twin) {
    apply(model, &twin);
    store.commit(twin.0).expect("commits");
}

/// A short key out of few, so that operations meet each other.
fn random_key(rng: &mut Rng) -> Vec<u8> {
    let len = rng.below(4) as usize;
    (0..len).map(|_| [0, 1, 0x7f, 0xff][rng.below(4) as usize]).collect()
}

fn random_table(rng: &mut Rng) -> Table {
    [Table::Meta, Table::Bodies, Table::Log][rng.below(3) as usize]
}

fn random_batch(rng: &mut Rng) -> Twin {
    let mut batch = Batch::new();
    let mut steps = Vec::new();
    for _ in 0..1 + rng.below(12) {
        let table = random_table(rng);
        let key = random_key(rng);
        match rng.below(10) {
            0 => {
                let end = (rng.below(4) > 0).then(|| random_key(rng));
                batch.delete_range(table, key.clone(), end.clone());
                steps.push(Step::DeleteRange(table, key, end));
            }
            1 | 2 => {
                batch.delete(table, key.clone());
                steps.push(Step::Delete(table, key));
            }
            _ => {
                let len = if rng.below(20) == 0 { rng.below(20_000) } else { rng.below(60) };
                let value = rng.bytes(len as usize);
                batch.put(table, key.clone(), value.clone());
                steps.push(Step::Put(table, key, value));
            }
        }
    }
    (batch, steps)
}

fn put_all(store: &dyn Store, table: Table, rows: &[(&[u8], &[u8])]) {
    let mut batch = Batch::new();
    for (key, value) in rows {
        batch.put(table, *key, *value);
    }
    store.commit(batch).expect("commits");
}

fn keys(store: &dyn Store, start: &[u8], end: Option<&[u8]>) -> Vec<Vec<u8>> {
    let scan = store.scan(Table::Index, start, end, 100, 10_000).expect("scans");
    assert_eq!((scan.damaged.len(), scan.next), (0, None));
    scan.rows.into_iter().map(|(key, _)| key).collect()
}

fn orders_keys_as_byte_strings(store: &dyn Store) {
    let sorted: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"\0\xff", b"\x7f", b"\xff", b"\xff\xff"];
    let shuffled: Vec<(&[u8], &[u8])> = [4, 0, 6, 2, 5, 1, 3].map(|i| (sorted[i], &b"v"[..])).to_vec();
    put_all(store, Table::Index, &shuffled);
    assert_eq!(keys(store, b"", None), sorted);
    assert_eq!(keys(store, b"", Some(b"")), sorted[..0]);
    assert_eq!(keys(store, b"\0", Some(b"\0\xff")), sorted[1..3]);
    assert_eq!(keys(store, b"\0a", Some(b"\xff")), sorted[3..5]);
    assert_eq!(keys(store, b"\xff", None), sorted[5..]);
    assert_eq!(keys(store, b"\xff", Some(b"\0")), sorted[..0], "a range that ends before it starts is empty");
    assert_eq!(keys(store, b"\xff\xff\xff", None), sorted[..0]);
}

fn keeps_tables_apart(store: &dyn Store) {
    for table in Table::ALL {
        assert_eq!(store.get(table, b"key").expect("reads"), None);
        put_all(store, table, &[(b"key", table.name().as_bytes())]);
    }
    for table in Table::ALL {
        assert_eq!(store.get(table, b"key").expect("reads").as_deref(), Some(table.name().as_bytes()));
        assert_eq!(store.scan(table, b"", None, 9, 999).expect("scans").rows.len(), 1);
    }
}

fn takes_empty_and_large_rows(store: &dyn Store) {
    let key = vec![7; KEY_BYTES_MAX];
    let large = Rng::new(5).bytes(3 << 20);
    let mut batch = Batch::new();
    batch.put(Table::Bodies, *b"", *b"");
    batch.put(Table::Bodies, *b"empty", *b"");
    batch.put(Table::Bodies, key.clone(), large.clone());
    store.commit(batch).expect("commits");
    store.commit(Batch::new()).expect("an empty batch is no error");
    let wanted = [b"".to_vec(), b"absent".to_vec(), key.clone(), b"empty".to_vec(), b"".to_vec()];
    let found = wanted.map(|key| store.get(Table::Bodies, &key).expect("reads"));
    assert!(found == [Some(vec![]), None, Some(large), Some(vec![]), Some(vec![])]);
    assert_eq!(store.get(Table::Bodies, &vec![7; KEY_BYTES_MAX + 1]).expect("a key that cannot be is not there"), None);
    assert!(store.size_bytes().expect("measures") >= 3 << 20);
    let scan = store.scan(Table::Bodies, &key, None, 1, 1).expect("scans");
    assert_eq!(scan.rows.len(), 1, "the first row is read however large it is");
    // Grows and shrinks in place
    put_all(store, Table::Bodies, &[(&key, b"small"), (b"empty", b"no more")]);
    assert_eq!(store.get(Table::Bodies, &key).expect("reads").as_deref(), Some(&b"small"[..]));
    assert_eq!(store.get(Table::Bodies, b"empty").expect("reads").as_deref(), Some(&b"no more"[..]));
}

fn refuses_oversized_rows_whole(store: &dyn Store) {
    for (key, value) in [(vec![0; KEY_BYTES_MAX + 1], vec![]), (vec![0], vec![0; VALUE_BYTES_MAX + 1])] {
        let mut batch = Batch::new();
        batch.put(Table::Log, *b"rides along", *b"");
        batch.put(Table::Log, key, value);
        let error = store.commit(batch).expect_err("over the limit");
        assert_eq!(error.code(), "store_too_large");
    }
    assert_eq!(store.scan(Table::Log, b"", None, 9, 99).expect("scans").rows, []);
    put_all(store, Table::Log, &[(b"after", b"")]);
}

fn applies_operations_in_order(store: &dyn Store) {
    put_all(store, Table::Index, &[(b"a", b"old"), (b"b", b"old"), (b"c", b"old"), (b"d", b"old")]);
    let mut batch = Batch::new();
    batch.put(Table::Index, *b"a", *b"1");
    batch.put(Table::Index, *b"a", *b"2");
    batch.put(Table::Index, *b"b1", *b"swept");
    batch.delete_range(Table::Index, *b"b", Some(b"d".to_vec()));
    batch.put(Table::Index, *b"c", *b"new");
    batch.delete(Table::Index, *b"d");
    batch.delete(Table::Index, *b"never was");
    batch.put(Table::Index, *b"e", *b"1");
    batch.delete(Table::Index, *b"e");
    store.commit(batch).expect("commits");
    let rows = store.scan(Table::Index, b"", None, 9, 99).expect("scans").rows;
    assert_eq!(rows, [(b"a".to_vec(), b"2".to_vec()), (b"c".to_vec(), b"new".to_vec())]);
    let mut batch = Batch::new();
    batch.delete_range(Table::Index, *b"c", None);
    store.commit(batch).expect("commits");
    assert_eq!(keys(store, b"", None), [b"a"]);
}

fn stops_scans_at_their_limits(store: &dyn Store) {
    put_all(store, Table::Index, &[(b"a", b"1234"), (b"b", b"1234"), (b"c", b"1234"), (b"d", b"1234")]);
    let scan = |start: &[u8], rows, bytes| {
        let scan = store.scan(Table::Index, start, None, rows, bytes).expect("scans");
        (scan.rows.len(), scan.next)
    };
    assert_eq!(scan(b"", 9, 99), (4, None));
    assert_eq!(scan(b"", 4, 20), (4, None), "limits that are just met keep nothing out");
    assert_eq!(scan(b"", 3, 99), (3, Some(b"d".to_vec())));
    assert_eq!(scan(b"", 9, 19), (3, Some(b"d".to_vec())));
    assert_eq!(scan(b"d", 3, 99), (1, None));
    assert_eq!(scan(b"", 0, 0), (1, Some(b"b".to_vec())), "a scan makes progress whatever its limits");
}

/// Two rows that are always written together are never read apart, while another thread writes them.
fn shows_readers_whole_batches(store: &dyn Store) {
    let pair = [b"left".to_vec(), b"right".to_vec()];
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for i in 0..100_u32 {
                put_all(store, Table::Meta, &[(&pair[0], &i.to_le_bytes()), (&pair[1], &i.to_le_bytes())]);
            }
        });
        while !writer.is_finished() {
            let rows = store.scan(Table::Meta, b"", None, 9, 99).expect("scans").rows;
            assert!(rows.windows(2).all(|rows| rows[0].1 == rows[1].1));
            let mut values = Vec::new();
            let shown = store.each_row(&mut |_, _, value| {
                values.push(value.to_vec());
                true
            });
            shown.expect("reads");
            assert!(values.windows(2).all(|values| values[0] == values[1]));
        }
    });
}

fn equals_a_map(store: &dyn Store, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut model = Model::new();
    for _ in 0..40 {
        commit(store, &mut model, random_batch(&mut rng));
        let (table, start) = (random_table(&mut rng), random_key(&mut rng));
        let end = (rng.below(3) > 0).then(|| random_key(&mut rng));
        let in_range: Vec<Row> = model
            .iter()
            .filter(|((at, key), _)| *at == table && *key >= start && end.as_ref().is_none_or(|end| key < end))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        let rows = 1 + rng.below(20) as usize;
        let scan = store.scan(table, &start, end.as_deref(), rows, usize::MAX).expect("scans");
        assert_eq!(scan.next.as_ref(), in_range.get(rows).map(|(key, _)| key), "seed {seed}");
        assert!(scan.rows == in_range[..in_range.len().min(rows)], "seed {seed}");
        let key = random_key(&mut rng);
        assert_eq!(store.get(table, &key).expect("reads").as_ref(), model.get(&(table, key)), "seed {seed}");
    }
    assert!(contents(store).expect("reads") == model, "seed {seed}");
    let mut shown = Vec::new();
    store
        .each_row(&mut |table, key, value| {
            shown.push(((table, key.to_vec()), value.to_vec()));
            true
        })
        .expect("reads");
    assert!(shown == model.clone().into_iter().collect::<Vec<_>>(), "seed {seed}");
    let mut first = 0;
    store
        .each_row(&mut |_, _, _| {
            first += 1;
            false
        })
        .expect("reads");
    assert_eq!(first, model.len().min(1), "seed {seed}");
}
