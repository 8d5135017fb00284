//! Backups with real processes: made under load, looked at, and put back.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{Home, mode, until};
use serde_json::{Value as Json, json};

fn path(home: &Home, name: &str) -> String {
    home.path(name).display().to_string()
}

fn keys(home: &Home) -> BTreeSet<String> {
    home.run(&["get", "list"]).json().as_object().unwrap().keys().cloned().collect()
}

fn chains(home: &Home) -> BTreeSet<String> {
    let history = home.run(&["history", "list", "--last", "1000", "--json"]).json();
    history.as_array().unwrap().iter().map(|change: &Json| change["chain"].to_string()).collect()
}

#[test]
fn a_backup_made_under_load_restores_to_a_peer_that_converges_with_the_others() {
    let origin = Home::new();
    let at_origin = origin.serve(&[]);
    origin.run(&["doc", "new", "--name", "list"]).text();
    origin.run(&["set", "list", "first", "1"]).text();
    fs::write(origin.path("photo"), vec![7; 300_000]).unwrap();
    origin.run(&["blob", "put", &path(&origin, "photo")]).text();
    let other = Home::new();
    other.run(&["join", at_origin.invite()]).text();
    let at_other = other.serve(&["serve"]);

    // Both write while the backup is made.
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (backup, before) = thread::scope(|scope| {
        for (name, home) in [("o", &origin), ("p", &other)] {
            let (stop, written) = (&stop, &written);
            scope.spawn(move || {
                for n in 0.. {
                    home.run(&["set", "list", &format!("{name}{n}"), "1"]).text();
                    written.fetch_add(1, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        until("some edits", || (written.load(Ordering::Relaxed) >= 4).then_some(()));
        let before = keys(&origin);
        let backup = origin.run(&["backup", &path(&origin, "backup"), "--json"]);
        let so_far = written.load(Ordering::Relaxed);
        until("edits after the backup", || (written.load(Ordering::Relaxed) > so_far + 2).then_some(()));
        stop.store(true, Ordering::Relaxed);
        (backup.json(), before)
    });
    assert_eq!((mode(&origin.path("backup")), origin.path("backup.partial").exists()), (0o600, false));
    assert_eq!(backup["manifest"]["blobs"], 1);
    let verified = origin.run(&["verify", &path(&origin, "backup"), "--json"]).json();
    assert_eq!((&verified["sound"], &verified["check"]["documents"]), (&json!(true), &json!(1)));
    assert_eq!(verified["bytes"], fs::metadata(origin.path("backup")).unwrap().len());

    // While a process serves the store, and where there is one, nothing is put in its place by accident.
    let file = path(&origin, "backup");
    let dry = origin.run(&["restore", &file, "--dry-run", "--replace", "--json"]).json();
    assert_eq!((&dry["would_restore"], &dry["served"]), (&json!(false), &json!(true)));
    origin.run(&["restore", &file, "--replace"]).fails(4, &["in use"]);
    let all = keys(&origin);
    let (status, _, log) = at_origin.stop();
    assert!(status.success(), "{log}");
    origin.run(&["restore", &file]).fails(1, &["there is a store", "--replace"]);
    assert_eq!(keys(&origin), all);
    let dry = origin.run(&["restore", &file, "--dry-run", "--replace", "--json"]).json();
    assert_eq!((&dry["would_restore"], &dry["store_exists"]), (&json!(true), &json!(true)));
    assert_eq!(keys(&origin), all, "a dry run changes nothing");

    // Back to an earlier state, with the keys of before: it edits in ignorance of what it once wrote.
    let chains_before = chains(&origin);
    origin.run(&["restore", &file, "--replace"]).text();
    assert!(origin.path("data/replaced-1/store.redb").exists());
    let back = keys(&origin);
    assert!(back.is_superset(&before), "what was acknowledged before the backup is in it");
    origin.run(&["set", "list", "after", "2"]).text();
    assert!(!chains(&origin).is_subset(&chains_before), "a chain went on");
    let served = origin.serve(&["serve"]);
    other.run(&["join", origin.run(&["space", "invite"]).text()]).text();
    let everything: BTreeSet<String> = all.into_iter().chain(["after".to_owned()]).collect();
    for home in [&origin, &other] {
        until("everything", || (keys(home) == everything).then_some(()));
        home.run(&["verify"]).text();
    }
    for served in [served, at_other] {
        let (status, _, log) = served.stop();
        assert!(status.success() && !log.contains("two histories") && !log.contains("violation"), "{log}");
    }
    // The blob came back as well.
    assert!(origin.run(&["verify", "--json"]).json()["blobs"]["blobs"] == 1);
}

#[test]
fn what_is_no_sound_backup_is_refused_and_says_where() {
    let home = Home::new();
    home.with_document("list");
    home.run(&["set", "list", "a", "1"]).text();
    // Of a store that nobody serves, and through a pipe.
    let file = path(&home, "backup");
    home.run(&["backup", &file]).text();
    home.run(&["verify", &file]).text();
    let piped = common::finish(home.command().args(["verify", "-", "--json"]).stdin(fs::File::open(&file).unwrap()));
    assert_eq!(piped.json()["manifest"]["format"], 1);
    assert_eq!(home.run(&["verify", &file, "--quick", "--json"]).json()["check"], json!(null));

    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    fs::write(home.path("flipped"), &flipped).unwrap();
    fs::write(home.path("cut"), &whole[..whole.len() - 7]).unwrap();
    fs::write(home.path("newer"), [b"commonhold backup 2\n", &whole[20..]].concat()).unwrap();
    fs::write(home.path("other"), b"{}").unwrap();
    let empty = Home::new();
    for (name, words) in [
        ("flipped", &["damaged", "bytes"][..]),
        ("cut", &["cut short"]),
        ("newer", &["format 2", "newer version"]),
        ("other", &["no backup"]),
    ] {
        home.run(&["verify", &path(&home, name)]).fails(1, words);
        empty.run(&["restore", &path(&home, name)]).fails(1, words);
        assert!(!empty.path("data/store.redb").exists() && !empty.path("data/restoring").exists());
    }
    home.run(&["verify", &path(&home, "none")]).fails(5, &["cannot read"]);

    // On another machine, with other keys: a device of its own.
    empty.run(&["restore", &file]).text();
    assert_eq!(empty.run(&["get", "list"]).json(), json!({"a": 1}));
    let peer = |home: &Home| home.run(&["status", "--json"]).json()["me"]["peer"].clone();
    assert_ne!(peer(&empty), peer(&home));

    // A store whose blob rots.
    fs::write(home.path("photo"), vec![7; 300_000]).unwrap();
    home.run(&["blob", "put", &path(&home, "photo")]).text();
    home.run(&["verify"]).text();
    let folder = fs::read_dir(home.path("data/blobs")).unwrap().next().unwrap().unwrap().path();
    let blob = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let blob = blob.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "blob")).unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[200_000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let said = home.run(&["verify", "--json"]);
    assert_eq!((said.code, said.out.contains("\"sound\":false")), (3, true), "{}", said.err);
}
