use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// A data folder with a store file whose contents are the stored lineage.
struct Store {
    keys: PathBuf,
    file: PathBuf,
}

impl Store {
    fn new(dir: &Path) -> Self {
        fs::create_dir(dir.join("data")).unwrap();
        let file = dir.join("data/store");
        fs::write(&file, []).unwrap();
        Store { keys: dir.join("keys"), file }
    }

    fn kept(&self) -> Option<Vec<u8>> {
        let bytes = fs::read(&self.file).unwrap();
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Over the same inode, as a database or `cp` writes.
    fn keep(&self, bytes: &[u8]) {
        fs::write(&self.file, bytes).unwrap();
    }

    fn look(&self) -> Opening {
        open(&self.keys, &self.file, self.kept().as_deref()).unwrap()
    }

    fn start(&self) -> (Outcome, StoreId, Lineage) {
        let opening = self.look();
        self.keep(&opening.to_store());
        (opening.outcome, opening.store_id, opening.stored().unwrap())
    }

    fn stop(&self, mut lineage: Lineage) {
        self.keep(&lineage.closing().unwrap());
        lineage.closed().unwrap();
    }

    /// Starts, stops cleanly.
    fn run(&self) -> (Outcome, StoreId) {
        let (outcome, id, lineage) = self.start();
        self.stop(lineage);
        (outcome, id)
    }
}

#[test]
fn a_clean_stop_and_start_continues() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let (outcome, id) = store.run();
    assert_eq!(outcome, Outcome::Fresh);
    for _ in 0..3 {
        assert_eq!(store.run(), (Outcome::Continue, id));
    }
}

#[test]
fn a_killed_run_keeps_the_store_id_but_no_chain() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let (_, id, _killed) = store.start();
    let (outcome, same, _killed) = store.start();
    assert_eq!((outcome, same), (Outcome::Crashed, id));
    assert_eq!(store.run(), (Outcome::Crashed, id));
    assert_eq!(store.run(), (Outcome::Continue, id), "after a clean stop all is well again");
}

#[test]
fn a_token_is_good_for_one_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let (_, id) = store.run();
    let opening = store.look();
    assert_eq!(opening.outcome, Outcome::Continue);
    drop(opening);
    let (outcome, same, _) = store.start();
    assert_eq!((outcome, same), (Outcome::Crashed, id), "looked at, then killed before anything was stored");
}

#[test]
fn a_crash_between_any_two_steps_keeps_the_store_id() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let (_, id) = store.run();
    for _ in 0..2 {
        drop(store.look());
        let opening = store.look();
        assert_eq!((opening.outcome, opening.store_id), (Outcome::Crashed, id), "before it was stored");
        store.keep(&opening.to_store());
        let opening = store.look();
        assert_eq!((opening.outcome, opening.store_id), (Outcome::Crashed, id), "stored, but not confirmed");
    }
    let (_, _, mut lineage) = store.start();
    store.keep(&lineage.closing().unwrap());
    drop(lineage);
    assert_eq!(store.run(), (Outcome::Crashed, id), "a token in the store alone");
    assert_eq!(store.run(), (Outcome::Continue, id));
}

#[test]
fn a_copy_beside_its_original_becomes_another_store_whichever_starts_first() {
    for copy_first in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let (_, id) = store.run();
        let copy = Store { keys: store.keys.clone(), file: dir.path().join("copied") };
        fs::copy(&store.file, &copy.file).unwrap();
        let (original, copied) = if copy_first {
            let copied = copy.run();
            (store.run(), copied)
        } else {
            (store.run(), copy.run())
        };
        assert_eq!(original, (Outcome::Continue, id));
        assert_eq!(copied.0, Outcome::Copied);
        assert_ne!(copied.1, id);
        assert!(copied.0.message().is_some());
        assert_eq!(copy.run(), (Outcome::Continue, copied.1), "from then on it is a store like any other");
        assert_eq!(store.run(), (Outcome::Continue, id));
    }
}

#[test]
fn an_old_copy_put_back_over_the_same_file_is_a_restore() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let (_, id, lineage) = store.start();
    let while_it_ran = store.kept().unwrap();
    store.stop(lineage);
    let when_it_was_stopped = store.kept().unwrap();

    store.keep(&while_it_ran);
    let (outcome, other, _) = store.start();
    assert_eq!(outcome, Outcome::Restored, "set back to before the clean stop of the same run");
    assert_ne!(other, id);

    store.keep(&when_it_was_stopped);
    assert_eq!(store.run(), (Outcome::Continue, id), "the newest state put back is no older state");
    let (_, _, _killed) = store.start();
    for old in [&while_it_ran, &when_it_was_stopped] {
        store.keep(old);
        let opening = store.look();
        assert_eq!(opening.outcome, Outcome::Restored);
        assert_ne!(opening.store_id, id);
    }
}

#[test]
fn a_copy_put_in_place_as_a_new_file_is_a_restore() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let (_, id) = store.run();
    let backup = dir.path().join("backup");
    fs::copy(&store.file, &backup).unwrap();
    fs::rename(&backup, &store.file).unwrap();
    let (outcome, other) = store.run();
    assert_eq!(outcome, Outcome::Restored);
    assert_ne!(other, id);
}

#[test]
fn a_renamed_data_folder_continues() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(dir.path());
    let (_, id) = store.run();
    fs::rename(dir.path().join("data"), dir.path().join("moved")).unwrap();
    store.file = dir.path().join("moved/store");
    assert_eq!(store.run(), (Outcome::Continue, id));
}

#[test]
fn a_store_whose_keys_folder_was_lost_or_damaged_is_a_restore() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let (_, id) = store.run();
    let outside = outside_path(&store.keys, id);
    let mut bytes = fs::read(&outside).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&outside, bytes).unwrap();
    let (outcome, second) = store.run();
    assert_eq!((outcome, second == id), (Outcome::Restored, false));
    fs::remove_dir_all(&store.keys).unwrap();
    let (outcome, third) = store.run();
    assert_eq!((outcome, third == second), (Outcome::Restored, false));
}

#[test]
fn unreadable_facts_in_the_store_are_a_restore() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let (_, id) = store.run();
    store.keep(b"junk");
    let (outcome, other) = store.run();
    assert_eq!((outcome, other == id), (Outcome::Restored, false));
}

#[test]
fn another_machine_is_a_copy_and_a_new_device_number_is_not() {
    let place = |inode, device, machine, path: &str| Place {
        inode,
        device,
        machine: Nonce::from([machine; 16]),
        path: path.to_owned(),
    };
    let token = Some(Nonce::from([7; 16]));
    let facts =
        Facts { store: StoreId([1; 16]), run: Nonce::from([2; 16]), token, pending: None, place: place(5, 6, 1, "/a") };
    let ask = |here: Place| decide(Some(&facts), Some(&facts), &here, false);
    assert_eq!(ask(place(5, 6, 1, "/a")), Outcome::Continue);
    assert_eq!(ask(place(5, 9, 1, "/a")), Outcome::Continue, "a device number changed with a reboot");
    assert_eq!(ask(place(5, 9, 1, "/b")), Outcome::Restored);
    assert_eq!(ask(place(5, 6, 2, "/a")), Outcome::Copied);
    assert_eq!(ask(place(8, 6, 1, "/a")), Outcome::Restored);
    let other = Facts { token: Some(Nonce::from([8; 16])), ..facts.clone() };
    assert_eq!(decide(Some(&facts), Some(&other), &facts.place, false), Outcome::Restored, "tokens differ");
}
