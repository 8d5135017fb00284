//! Data folders that were copied, and old copies that were put back: each goes on as a store of its own under chains of its own,
//! so that nobody signs two histories and nothing is lost. What is decided from which facts is tested in the engine's `lineage`;
//! here real processes meet another peer afterwards.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{Home, Served, copy_folder, until};
use serde_json::{Value as Json, json};

/// A peer that everybody meets, and the invite to its space with the document `list`.
fn origin() -> (Home, Served, String) {
    let home = Home::new();
    let served = home.serve(&[]);
    let invite = served.invite().to_owned();
    home.run(&["doc", "new", "--name", "list"]).text();
    home.run(&["set", "list", "origin", "1"]).text();
    (home, served, invite)
}

fn me(home: &Home) -> Json {
    home.run(&["status", "--json"]).json()["me"].clone()
}

#[track_caller]
fn shows(home: &Home, wanted: &Json) {
    until(&format!("{wanted}"), || (home.run(&["get", "list"]).json() == *wanted).then_some(()));
}

/// The chains of a document, by device.
fn chains(home: &Home) -> BTreeSet<(String, String)> {
    let history = home.run(&["history", "list", "--last", "100", "--json"]).json();
    let chain = |change: &Json| (change["author"].to_string(), change["chain"].to_string());
    history.as_array().unwrap().iter().map(chain).collect()
}

/// No process saw two histories of one chain.
#[track_caller]
fn end(served: Served) {
    let (status, _, log) = served.stop();
    assert!(status.success() && !log.contains("two histories") && !log.contains("violation"), "{log}");
}

#[test]
fn an_old_copy_put_back_gets_its_later_edits_from_its_peers_and_writes_under_a_new_chain() {
    for edited_before_meeting in [false, true] {
        let (origin, at_origin, invite) = origin();
        let home = Home::new();
        home.run(&["join", &invite]).text();
        home.run(&["set", "list", "a", "1"]).text();
        let backup = tempfile::tempdir().unwrap();
        copy_folder(&home.data(), &backup.path().join("data"));
        let before = me(&home);

        // After the backup: an edit that the origin has.
        home.run(&["set", "list", "a", "2", "--sync"]).text();
        shows(&origin, &json!({"origin": 1, "a": 2}));

        fs::remove_dir_all(home.data()).unwrap();
        copy_folder(&backup.path().join("data"), &home.data());
        if edited_before_meeting {
            // Made, most likely, in ignorance of the lost one.
            home.run(&["set", "list", "b", "3"]).text();
        }
        let served = home.serve(&["serve"]);
        if !edited_before_meeting {
            shows(&home, &json!({"origin": 1, "a": 2}));
            home.run(&["set", "list", "b", "3"]).text();
        }
        let after = me(&home);
        assert_eq!(before["peer"], after["peer"]);
        assert_ne!(before["store"], after["store"]);
        let all = json!({"origin": 1, "a": 2, "b": 3});
        shows(&origin, &all);
        shows(&home, &all);
        let own = |chains: BTreeSet<(String, String)>| {
            chains.into_iter().filter(|(device, _)| device.contains(after["peer"].as_str().unwrap())).count()
        };
        assert_eq!((own(chains(&home)), own(chains(&origin))), (2, 2), "one of before the copy, one of after it");
        end(served);
        end(at_origin);
    }
}

#[test]
fn a_copied_folder_and_its_original_both_go_on_and_lose_nothing() {
    for copy_first in [false, true] {
        let (origin, at_origin, invite) = origin();
        let home = Home::new();
        home.run(&["join", &invite]).text();
        home.run(&["set", "list", "a", "1"]).text();
        let original = me(&home);
        let copy = home.copied();

        // Both write the same key apart, and then a key of their own while both run and meet the origin.
        let order: [(&Home, i32); 2] = if copy_first { [(&copy, 3), (&home, 2)] } else { [(&home, 2), (&copy, 3)] };
        for (which, value) in order {
            which.run(&["set", "list", "same", &value.to_string()]).text();
        }
        let served = [home.serve(&["serve"]), copy.serve(&["serve"])];
        home.run(&["set", "list", "b", "2"]).text();
        copy.run(&["set", "list", "c", "3"]).text();
        let (at_home, at_copy) = (me(&home), me(&copy));
        assert_ne!(at_home["store"], at_copy["store"], "one at least is a new store");
        assert_eq!((&at_home["peer"], &at_copy["peer"]), (&original["peer"], &original["peer"]));
        for which in [&origin, &home, &copy] {
            until("all edits", || {
                let shown = which.run(&["get", "list"]).json();
                (shown["a"] == 1 && shown["b"] == 2 && shown["c"] == 3 && shown["same"].is_number()).then_some(())
            });
            until("one version", || {
                let heads = |home: &Home| home.run(&["get", "list", "--json"]).json()["heads"].clone();
                (heads(which) == heads(&origin)).then_some(())
            });
            assert_eq!(which.run(&["history", "list", "--json"]).json().as_array().unwrap().len(), 6);
        }
        served.into_iter().for_each(end);
        end(at_origin);
        for which in [&origin, &home, &copy] {
            which.run(&["doctor"]).text();
        }
    }
}

/// Writes what is in one folder into the files of another, which stay the files that they are: a whole disk set back.
fn set_back(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        fs::write(to.join(name), fs::read(path).unwrap()).unwrap();
    }
    for entry in fs::read_dir(to).unwrap() {
        let name = entry.unwrap().file_name();
        if !from.join(&name).exists() {
            fs::remove_file(to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_disk_set_back_with_its_keys_forks_its_chain_and_loses_nothing() {
    let (origin, at_origin, invite) = origin();
    let home = Home::new();
    home.run(&["join", &invite]).text();
    home.run(&["set", "list", "a", "1", "--sync"]).text();
    let earlier = home.copied();

    // Two histories of one chain: nothing on the disk can tell.
    home.run(&["set", "list", "b", "2", "--sync"]).text();
    shows(&origin, &json!({"origin": 1, "a": 1, "b": 2}));
    for folder in ["data", "keys"] {
        set_back(&earlier.path(folder), &home.path(folder));
    }
    let before = chains(&home);
    home.run(&["set", "list", "c", "3"]).text();
    home.run(&["set", "list", "a", "9"]).text();
    assert_eq!(chains(&home), before, "the chain goes on");

    // They meet while another history is written, heal, and go on writing.
    let served = home.serve(&["serve"]);
    let all = json!({"origin": 1, "a": 9, "b": 2, "c": 3});
    shows(&home, &all);
    shows(&origin, &all);
    home.run(&["set", "list", "d", "4"]).text();
    origin.run(&["set", "list", "e", "5"]).text();
    let all = json!({"origin": 1, "a": 9, "b": 2, "c": 3, "d": 4, "e": 5});
    for which in [&home, &origin] {
        shows(which, &all);
        which.run(&["doctor"]).text();
    }
    let newcomer = Home::new();
    newcomer.run(&["join", &at_origin_invite(&origin)]).text();
    newcomer.run(&["status", "list", "--wait", "30"]).text();
    shows(&newcomer, &all);
    let told = |served: Served| {
        let (status, _, log) = served.stop();
        assert!(status.success() && !log.contains("violation"), "{log}");
        log
    };
    let log = told(served);
    assert!(log.contains("this device signed two histories") && log.contains("let only one copy run"), "{log}");
    assert!(told(at_origin).contains("a device signed two histories"));
}

fn at_origin_invite(origin: &Home) -> String {
    origin.run(&["space", "invite"]).text().to_owned()
}
