//! Bits that flip in the file: found, never shown as data, never a panic that escapes.

use super::*;
use crate::store::faulty::Rng;
use conformance::Model;

/// A store with small, middling and large rows, some history, and its rows.
fn sample() -> (Vec<u8>, Model) {
    let disk = FaultyDisk::new();
    let store = open_on(&disk).unwrap();
    let mut rng = Rng::new(3);
    for round in 0..4_u32 {
        let mut batch = Batch::new();
        for i in 0..100_u32 {
            let len = [20, 200, 1500][rng.below(3) as usize];
            batch.put([Table::Index, Table::Bodies][(i % 2) as usize], (i * 7 + round).to_be_bytes(), rng.bytes(len));
        }
        batch.put(Table::Snapshots, round.to_be_bytes(), rng.bytes(30_000));
        store.commit(batch).unwrap();
    }
    let model = contents(&store).unwrap();
    store.close().unwrap();
    (disk.image(), model)
}

#[derive(Debug, Default)]
struct Tally {
    refused: u32,
    damaged_rows: u32,
    damaged_file: u32,
    missing_rows: u32,
    unnoticed: u32,
}

/// Reads everything that can be read. True: some row was missing and no error said so.
fn read_all(store: &RedbStore, model: &Model, tally: &mut Tally) -> bool {
    let (mut missing, mut faults) = (false, 0);
    for ((table, key), value) in model {
        match store.get(*table, key) {
            Ok(Some(found)) => assert!(found == *value, "a wrong value of {table:?}"),
            Ok(None) => missing = true,
            Err(StoreError::Damaged { table: at, key: of }) => {
                assert_eq!((at, &of), (*table, key));
                tally.damaged_rows += 1;
                faults += 1;
            }
            Err(_) => {
                tally.damaged_file += 1;
                faults += 1;
            }
        }
    }
    for table in Table::ALL {
        let mut start = Vec::new();
        while let Ok(scan) = store.scan(table, &start, None, 50, 100_000) {
            for (key, value) in scan.rows {
                assert!(model.get(&(table, key)) == Some(&value), "a row of {table:?} that was never written");
            }
            let Some(next) = scan.next else { break };
            assert!(next > start);
            start = next;
        }
    }
    tally.missing_rows += u32::from(missing);
    tally.unnoticed += u32::from(faults == 0 && !missing);
    missing
}

#[test]
fn a_flipped_bit_is_an_error_or_harmless_but_never_a_wrong_value() {
    let (image, model) = sample();
    let mut rng = Rng::new(11);
    let mut tally = Tally::default();
    let mut after = model.clone();
    after.insert((Table::Bodies, b"new".to_vec()), b"row".to_vec());
    // All of the header, sparsely all of the file, and the first bytes of pages, where the structure is
    let mut bits: Vec<usize> = (0..512 * 8).step_by(5).collect();
    bits.extend((0..800).map(|_| rng.below(image.len() as u64 * 8) as usize));
    let pages = (image.len() / 4096) as u64;
    bits.extend((0..600).map(|_| rng.below(pages) as usize * 4096 * 8 + rng.below(300 * 8) as usize));
    for &bit in &bits {
        let disk = FaultyDisk::with_image(image.clone());
        disk.flip_bit(bit);
        let Ok(store) = open_on(&disk) else {
            tally.refused += 1;
            continue;
        };
        let missing = read_all(&store, &model, &mut tally);
        // Writing may go on until something is noticed; what is read then is still never wrong
        let wrote = store.commit(one(b"new", b"row")).is_ok();
        drop(store);
        if wrote && let Ok(store) = open_on(&disk) {
            read_all(&store, &after, &mut Tally::default());
        }
        if missing {
            let disk = FaultyDisk::with_image(image.clone());
            disk.flip_bit(bit);
            let verified = RedbStore::open_backend(disk.backend(), &Options { verify: true, ..options() });
            assert!(verified.is_err(), "bit {bit}: rows are missing and the check of all pages finds nothing");
            let disk = FaultyDisk::with_image(image.clone());
            disk.flip_bit(bit);
            let found = open_on(&disk).and_then(|store| store.damaged_rows(1));
            assert!(
                found.as_ref().ok() != Some(&Vec::new()),
                "bit {bit}: rows are missing and reading all finds nothing"
            );
        }
    }
    println!("{} flips: {tally:?}", bits.len());
    assert!(tally.refused > 0 && tally.damaged_rows > 0 && tally.unnoticed > 0, "{tally:?}");
}

#[test]
fn damage_to_one_row_leaves_the_others_readable_and_the_row_can_be_written_again() {
    let disk = FaultyDisk::new();
    let store = open_on(&disk).unwrap();
    let mut batch = Batch::new();
    for i in 0..50_u8 {
        batch.put(Table::Bodies, [i], [i ^ 0x55; 300]);
    }
    store.commit(batch).unwrap();
    store.close().unwrap();
    let image = disk.image();
    let mut at: Vec<usize> = (0..image.len() - 300).filter(|at| image[*at..at + 300] == [20 ^ 0x55; 300]).collect();
    at.drain(..).for_each(|at| disk.flip_bit((at + 150) * 8));

    let store = open_on(&disk).unwrap();
    assert_eq!(store.damaged_rows(9).unwrap(), [(Table::Bodies, vec![20])]);
    let error = store.get(Table::Bodies, &[20]).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { table: Table::Bodies, key } if key == [20]));
    assert_eq!(store.get(Table::Bodies, &[21]).unwrap().unwrap(), [21 ^ 0x55; 300]);
    let scan = store.scan(Table::Bodies, &[19], None, 3, 9999).unwrap();
    assert_eq!(scan.damaged, [vec![20]]);
    assert_eq!(scan.rows.iter().map(|(key, _)| key[0]).collect::<Vec<_>>(), [19, 21]);
    assert_eq!(scan.next, Some(vec![22]));
    store.commit(one(&[20], b"fetched again")).unwrap();
    assert_eq!(store.damaged_rows(9).unwrap(), []);
    assert_eq!(contents(&store).unwrap().len(), 50);
}

#[test]
fn verify_accepts_a_sound_store_and_one_that_crashed() {
    let disk = FaultyDisk::new();
    let verify = Options { verify: true, ..options() };
    let store = Crashable::open(&disk).unwrap();
    store.commit(one(b"a", b"1")).unwrap();
    disk.crash(2);
    drop(store);
    for _ in 0..2 {
        let store = RedbStore::open_backend(disk.backend(), &verify).unwrap();
        assert_eq!(store.get(Table::Bodies, b"a").unwrap().unwrap(), b"1");
    }
}
