//! Verbs on a store that nobody serves, and on one that a process serves.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::fs;
use std::process::Stdio;

use common::{Home, finish, mode, until};
use serde_json::json;

#[test]
fn the_first_run_makes_a_space_and_prints_an_invite_and_what_to_try() {
    let home = Home::new();
    let served = home.serve(&[]);
    assert!(served.invite().starts_with("commonhold1"));
    assert_eq!(served.facts["pid"], served.pid());
    assert!(!served.facts["addresses"][0].as_str().unwrap().contains(":0/"), "the bound port is told");
    assert_eq!(mode(&home.path("ready.json")), 0o600);
    let (invite, peer) = (served.invite().to_owned(), served.facts["peer"].as_str().unwrap().to_owned());
    // The three lines to try work as printed.
    home.run(&["doc", "new", "--name", "hello"]).text();
    home.run(&["set", "hello", "greeting", "\"hi\""]).text();
    assert_eq!(home.run(&["get", "hello"]).json(), json!({"greeting": "hi"}));
    let (status, out, _) = served.stop();
    assert!(status.success() && !home.path("ready.json").exists());
    for words in [&invite, &peer, "read AND WRITE", "commonhold doc new", "commonhold set", "commonhold get"] {
        assert!(out.contains(words), "no {words:?} in {out}");
    }
    // Once is enough.
    let (_, out, _) = home.serve(&[]).stop();
    assert!(out.contains(&peer) && !out.contains("first run"), "{out}");
    assert_eq!(home.run(&["space", "ls", "--json"]).json().as_array().unwrap().len(), 1);
}

#[test]
fn serve_makes_no_space() {
    let home = Home::new();
    let served = home.serve(&["serve"]);
    assert!(served.facts["invite"].is_null());
    assert_eq!(home.run(&["space", "ls"]).text(), "no spaces");
    assert!(served.stop().0.success());
}

/// The same verbs with the same output, whoever has the store.
fn set_get_history_status(served: bool) {
    let home = Home::new();
    let doc = home.with_document("list");
    let process = served.then(|| home.serve(&["serve"]));
    let changed = home.run(&["set", "list", "items", "[\"milk\"]", "--json"]).json();
    assert_eq!((&changed["doc"], &changed["changed"]), (&json!(doc), &json!(true)));
    assert_eq!(changed["heads"].as_array().unwrap().len(), 1);
    assert_eq!(home.run(&["set", "list", "items", "[\"milk\"]", "--json"]).json()["changed"], false);
    home.run(&["set", &doc[..8], "items/-", "\"bread\""]).text();
    let got = home.run(&["get", "list", "--json"]).json();
    assert_eq!(got["value"], json!({"items": ["milk", "bread"]}));
    assert_eq!(home.run(&["get", &doc, "items/1"]).json(), json!("bread"));
    home.run(&["edit", "list", "--patch", "{\"items\": null, \"n\": {\"a\": 1}}"]).text();
    assert_eq!(home.run(&["get", "list"]).json(), json!({"n": {"a": 1}}));

    let history = home.run(&["history", "list", "--json"]).json();
    let history = history.as_array().unwrap();
    assert_eq!(history.len(), 3);
    for field in ["id", "chain", "number", "operations", "author", "time", "message"] {
        assert!(history[0].get(field).is_some(), "{field}");
    }
    assert_eq!(home.run(&["history", "list", "--last", "1", "--json"]).json().as_array().unwrap()[0], history[2]);
    let status = home.run(&["status", "list", "--json"]).json();
    assert_eq!((&status["saved_here"], &status["heads"]), (&json!(true), &json!([history[2]["id"]])));
    assert_eq!((&status["acknowledged"], &status["cost"]["changes"]), (&json!([]), &json!(3)));
    let whole = home.run(&["status", "--json"]).json();
    assert_eq!((whole["spaces"].as_array().unwrap().len(), &whole["peers"]), (1, &json!([])));

    let listed = home.run(&["doc", "ls", "--json"]).json();
    assert_eq!(
        (&listed[0]["id"], &listed[0]["name"], &listed[0]["deleted"]),
        (&json!(doc), &json!("list"), &json!(false))
    );
    home.run(&["doc", "rm", "list"]).text();
    assert_eq!(home.run(&["doc", "ls", "--json"]).json(), json!([]));
    home.run(&["get", "list"]).fails(5, &["no document \"list\"", "doc ls"]);
    if let Some(process) = process {
        assert!(process.stop().0.success());
    }
}

#[test]
fn verbs_work_on_a_store_that_nobody_serves() {
    set_get_history_status(false);
}

#[test]
fn verbs_work_through_the_process_that_serves_the_store() {
    set_get_history_status(true);
}

#[test]
fn one_joins_and_reads_what_another_serves() {
    let (origin, home) = (Home::new(), Home::new());
    let served = origin.serve(&[]);
    origin.run(&["doc", "new", "--name", "notes"]).text();
    origin.run(&["set", "notes", "title", "\"shared\""]).text();
    let joined = home.run(&["join", served.invite(), "--wait", "50", "--json"]).json();
    assert_eq!((&joined["space"], &joined["level"]), (&served.facts["space"], &json!(true)));
    assert_eq!(home.run(&["get", "notes", "title"]).json(), json!("shared"));
    // An edit of one command reaches the origin when asked to.
    home.run(&["set", "notes", "title", "\"edited\"", "--sync=50"]).text();
    assert_eq!(origin.run(&["get", "notes", "title"]).json(), json!("edited"));
    // And a served peer by itself, in both directions.
    let second = home.serve(&["serve"]);
    origin.run(&["set", "notes", "title", "\"again\""]).text();
    until("the edit", || (home.run(&["get", "notes", "title"]).out.trim() == "\"again\"").then_some(()));
    assert_eq!(home.run(&["peers", "--json"]).json()[0]["peer"], served.facts["peer"]);
    home.run(&["status", "notes", "--wait", "50"]).text();
    assert!(second.stop().0.success() && served.stop().0.success());
}

#[test]
fn a_space_where_writers_are_granted_refuses_the_others_until_they_are() {
    let (origin, home) = (Home::new(), Home::new());
    origin.with_document("notes");
    let served = origin.serve(&["serve"]);
    home.run(&["join", served.invite(), "--wait", "50"]).text();
    home.run(&["set", "notes", "x", "1"]).fails(1, &["grant"]);
    let status = home.run(&["status", "--json"]).json();
    let peer = status["me"]["peer"].as_str().unwrap();
    origin.run(&["grant", peer]).text();
    home.run(&["status", "--wait", "50"]).text();
    home.run(&["set", "notes", "x", "1", "--sync=50"]).text();
    assert_eq!(origin.run(&["get", "notes"]).json(), json!({"x": 1}));
    origin
        .run(&["grant", "--space", &served.facts["space"].as_str().unwrap()[..6], "abc"])
        .fails(2, &["64 hex digits"]);
}

#[test]
fn an_invite_may_bring_a_right_and_using_it_too_often_shows() {
    let (origin, home, thief) = (Home::new(), Home::new(), Home::new());
    origin.with_document("notes");
    let served = origin.serve(&["serve"]);
    origin.run(&["space", "invite", "--right", "admin"]).fails(2, &["cannot make administrators", "grant DEVICE"]);
    origin.run(&["space", "invite", "--right", "write", "--uses", "17"]).fails(1, &["at most 16"]);
    let invite = origin.run(&["space", "invite", "--right", "write"]).text().trim().to_owned();
    assert!(home.run(&["join", &invite, "--wait", "50"]).text().contains("right is this device's now"));
    home.run(&["set", "notes", "x", "1", "--sync=50"]).text();
    assert_eq!(origin.run(&["get", "notes"]).json(), json!({"x": 1}));
    // A second time by the same device changes nothing.
    assert_eq!(home.run(&["join", &invite, "--wait", "50", "--json"]).json()["redeemed"], json!(false));
    let redeemed = || {
        let members = origin.run(&["members", "--json"]).json();
        members.as_array().unwrap().iter().filter(|member| member["kind"] == "redeemed").count()
    };
    assert_eq!(redeemed(), 1);
    // Another one, after it has said records of its own.
    home.run(&["doc", "new", "--name", "mine"]).text();
    let second = origin.run(&["space", "invite", "--right", "read", "--uses", "2"]).text().trim().to_owned();
    assert_eq!(home.run(&["join", &second, "--wait", "50", "--json"]).json()["redeemed"], json!(true));
    until("the second claim", || (redeemed() == 2).then_some(()));
    // What lies on the disk brings no right, and the text that got out does.
    let stolen = fs::read(home.data().join("store.redb")).unwrap();
    let secret = invite.as_bytes();
    assert!(!stolen.windows(secret.len()).any(|window| window == secret));
    thief.run(&["join", &invite, "--wait", "50"]).text();
    until("the thief's claim", || (redeemed() == 3).then_some(()));
    let members = origin.run(&["members", "--json"]).json();
    let used = members.as_array().unwrap().iter().find(|member| member["uses"] == 1).unwrap();
    assert_eq!((&used["uses"], &used["used"]), (&json!(1), &json!(2)));
    assert!(origin.run(&["members"]).text().contains("2 of 1"));
    // Taken back with all that came of it; the text is worth nothing then.
    origin.run(&["revoke", used["record"].as_str().unwrap()]).text();
    assert_eq!(redeemed(), 1);
    let late = Home::new();
    late.run(&["join", &invite, "--wait", "50"]).fails(1, &["invite that was taken back"]);
    assert!(served.stop().0.success());
}

#[test]
fn who_takes_a_grant_back_where_anybody_writes_is_told_that_it_ends_nothing() {
    let home = Home::new();
    home.run(&["space", "new", "--writers", "anyone"]).text();
    let peer = "07".repeat(32);
    home.run(&["grant", &peer]).text();
    assert!(home.run(&["revoke", &peer]).text().contains("anybody may write all the same"));
}

#[test]
fn what_was_granted_is_listed_taken_back_and_given_again() {
    let (origin, home) = (Home::new(), Home::new());
    origin.with_document("notes");
    let served = origin.serve(&["serve"]);
    home.run(&["join", served.invite(), "--wait", "50"]).text();
    let second = home.serve(&["serve"]);
    let status = home.run(&["status", "--json"]).json();
    let peer = status["me"]["peer"].as_str().unwrap();
    let may = |wanted: Option<&str>| {
        until("the right", || {
            let spaces = home.run(&["space", "ls", "--json"]).json();
            (spaces[0]["right"].as_str() == wanted).then_some(())
        })
    };
    let listed = |arguments: &[&str]| {
        let members = origin.run(arguments).json();
        let members = members.as_array().unwrap().iter().filter(|member| member["subject"] == peer);
        members.map(|member| (member["right"].clone(), member["in_force"].clone())).collect::<Vec<_>>()
    };
    origin.run(&["revoke", peer]).fails(5, &["no member", "commonhold members"]);
    origin.run(&["grant", peer]).text();
    may(Some("write"));
    assert_eq!(listed(&["members", "--json"]), [(json!("write"), json!(true))]);
    home.run(&["set", "notes", "kept", "1"]).text();
    let shows = |wanted: &serde_json::Value| {
        for which in [&origin, &home] {
            until(&format!("{wanted}"), || (which.run(&["get", "notes"]).json() == *wanted).then_some(()));
        }
    };
    shows(&json!({"kept": 1}));

    // Taken back: what was held stays, and nothing follows.
    origin.run(&["revoke", &peer[..8]]).text();
    may(None);
    home.run(&["set", "notes", "refused", "1"]).fails(1, &["no right to write", "commonhold grant"]);
    assert_eq!(listed(&["members", "--json"]), []);
    assert_eq!(listed(&["members", "--all", "--json"]), [(json!("write"), json!(false))]);
    assert!(origin.run(&["members", "--all"]).text().contains("taken back"));
    shows(&json!({"kept": 1}));
    // Who may not give cannot take.
    home.run(&["grant", peer]).fails(1, &["no right to grant"]);

    // Given again, and taken back with everything.
    origin.run(&["grant", peer]).text();
    may(Some("write"));
    home.run(&["set", "notes", "again", "2"]).text();
    shows(&json!({"kept": 1, "again": 2}));
    origin.run(&["revoke", peer, "--keep", "nothing"]).text();
    shows(&json!({}));
    assert!(second.stop().0.success() && served.stop().0.success());
}

#[test]
fn devices_of_one_identity_have_its_rights_until_they_are_lost() {
    let (origin, phone, laptop) = (Home::new(), Home::new(), Home::new());
    origin.with_document("notes");
    let served = origin.serve(&["serve"]);
    laptop.run(&["identity", "show"]).fails(5, &["holds no identity", "identity new"]);
    let made = laptop.run(&["identity", "new", "--json"]).json();
    laptop.run(&["identity", "new"]).fails(1, &["holds the identity"]);
    let identity = made["identity"].as_str().unwrap();
    for home in [&phone, &laptop] {
        home.run(&["join", served.invite(), "--wait", "50"]).text();
    }
    let peer = |home: &Home| home.run(&["status", "--json"]).json()["me"]["peer"].as_str().unwrap().to_owned();
    origin.run(&["grant", identity]).text();
    let running = [phone.serve(&["serve"]), laptop.serve(&["serve"])];
    laptop.run(&["device", "add", &peer(&laptop), "--name", "laptop"]).text();
    laptop.run(&["device", "add", &peer(&phone), "--name", "phone"]).text();
    let may = |home: &Home, wanted: Option<&str>| {
        until("the right", || {
            let spaces = home.run(&["space", "ls", "--json"]).json();
            (spaces[0]["right"].as_str() == wanted).then_some(())
        })
    };
    for home in [&phone, &laptop] {
        may(home, Some("write"));
    }
    phone.run(&["set", "notes", "phone", "1"]).text();
    laptop.run(&["set", "notes", "laptop", "1"]).text();
    let shows = |wanted: serde_json::Value| {
        for which in [&origin, &laptop] {
            until(&format!("{wanted}"), || (which.run(&["get", "notes"]).json() == wanted).then_some(()));
        }
    };
    shows(json!({"phone": 1, "laptop": 1}));
    let devices = laptop.run(&["device", "ls", "--json"]).json();
    let names: Vec<&str> = devices.as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert!(names.len() == 2 && names.contains(&"phone") && names.contains(&"laptop"), "{names:?}");

    // Who administers the space takes back what it gave: not who acts for whom.
    origin.run(&["revoke", &peer(&phone)]).fails(1, &["acts for the identity", "device rm"]);
    origin.run(&["grant", &peer(&phone), "--right", "read"]).text();
    origin.run(&["revoke", &peer(&phone)]).text();
    phone.run(&["set", "notes", "phone", "1"]).text();

    // The phone is lost; what it wrote stays. Its successor is the same person, by the words on paper.
    laptop.run(&["device", "rm", "phone"]).text();
    may(&phone, None);
    phone.run(&["set", "notes", "thief", "1"]).fails(1, &["no right to write"]);
    let new_phone = Home::new();
    assert_eq!(new_phone.run_with(&["identity", "recover"], made["phrase"].as_str().unwrap()).text().trim(), identity);
    new_phone.run(&["join", served.invite(), "--wait", "50"]).text();
    new_phone.run(&["device", "add", &peer(&new_phone), "--name", "phone"]).text();
    new_phone.run(&["set", "notes", "again", "1", "--sync=50"]).text();
    shows(json!({"phone": 1, "laptop": 1, "again": 1}));
    assert!(running.into_iter().all(|one| one.stop().0.success()) && served.stop().0.success());
}

#[test]
fn a_stolen_root_key_is_replaced_by_the_words() {
    let (origin, laptop, desk, thief) = (Home::new(), Home::new(), Home::new(), Home::new());
    origin.with_document("notes");
    let served = origin.serve(&["serve"]);
    let made = laptop.run(&["identity", "new", "--json"]).json();
    let words = made["phrase"].as_str().unwrap();
    laptop.run_with(&["identity", "rotate"], "some words").fails(2, &["not a recovery phrase", "24 words"]);
    desk.run_with(&["identity", "recover"], words).text();
    for home in [&laptop, &desk, &thief] {
        home.run(&["join", served.invite(), "--wait", "50"]).text();
    }
    let peer = |home: &Home| home.run(&["status", "--json"]).json()["me"]["peer"].as_str().unwrap().to_owned();
    origin.run(&["grant", made["identity"].as_str().unwrap()]).text();
    let running = [laptop.serve(&["serve"]), desk.serve(&["serve"]), thief.serve(&["serve"])];
    let may = |home: &Home, wanted: Option<&str>| {
        until("the right", || {
            let spaces = home.run(&["space", "ls", "--json"]).json();
            (spaces[0]["right"].as_str() == wanted).then_some(())
        })
    };
    laptop.run(&["device", "add", &peer(&laptop), "--name", "laptop"]).text();
    desk.run(&["device", "add", &peer(&desk), "--name", "desk"]).text();
    for home in [&laptop, &desk] {
        may(home, Some("write"));
    }
    desk.run(&["set", "notes", "desk", "1"]).text();

    // Somebody copies the laptop's key.
    let key = |home: &Home| home.keys().join("identity.key");
    fs::copy(key(&laptop), key(&thief)).unwrap();
    thief.run(&["device", "add", &peer(&thief), "--name", "desk 2"]).text();
    may(&thief, Some("write"));
    until("the thief at the desk", || {
        (desk.run(&["device", "ls", "--json"]).json().as_array().unwrap().len() == 3).then_some(())
    });
    let rotated = desk.run_with(&["identity", "rotate", "--json"], words).json();
    assert_eq!(
        (rotated["identity"].clone(), rotated["spaces"].as_array().unwrap().len()),
        (made["identity"].clone(), 1)
    );
    desk.run(&["device", "rm", "desk 2"]).text();
    may(&thief, None);
    // The old key is good for nothing more: not where the new one is known, and not where it comes to be.
    thief.run(&["device", "add", &peer(&thief)]).fails(1, &["was replaced", "identity recover"]);
    let known = |home: &Home| home.run(&["identity", "show", "--json"]).json()["root_keys"].clone();
    assert_eq!([known(&laptop), known(&desk)], [json!(1), json!(2)]);

    // Whoever was let in before stays; the laptop's person types the words, which know of the replacement by the space.
    may(&laptop, Some("write"));
    laptop.run(&["device", "add", &peer(&origin)]).fails(1, &["was replaced"]);
    laptop.run_with(&["identity", "recover"], words).text();
    assert_eq!(known(&laptop), 2);
    laptop.run(&["device", "add", &peer(&origin), "--name", "tower"]).text();
    laptop.run(&["set", "notes", "laptop", "1"]).text();
    until("both edits", || (origin.run(&["get", "notes"]).json() == json!({"desk": 1, "laptop": 1})).then_some(()));
    assert!(running.into_iter().all(|one| one.stop().0.success()) && served.stop().0.success());
}

#[test]
fn a_document_is_erased_on_request_and_another_goes_on_without_its_history() {
    let (origin, other) = (Home::new(), Home::new());
    origin.with_document("somebody");
    origin.run(&["set", "somebody", "secret", "\"the needle in the store\""]).text();
    let diary = origin.run(&["doc", "new", "--name", "diary"]).text().to_owned();
    for n in ["1", "2", "3"] {
        origin.run(&["set", "diary", "day", n]).text();
    }
    let served = origin.serve(&["serve"]);
    other.run(&["join", served.invite(), "--wait", "50"]).text();
    let running = other.serve(&["serve"]);
    let peer = other.run(&["status", "--json"]).json()["me"]["peer"].as_str().unwrap().to_owned();
    origin.run(&["grant", &peer, "--right", "read"]).text();
    let receipts = origin.run(&["doc", "receipts", "diary", "--peers", "2", "--wait", "50", "--json"]).json();
    let holders: Vec<&str> =
        receipts["receipts"].as_array().unwrap().iter().filter_map(|r| r["holder"].as_str()).collect();
    assert!(holders.len() == 2 && holders.contains(&peer.as_str()), "{receipts}");
    assert_eq!(receipts["receipts"][0]["heads"], receipts["heads"]);
    assert!(origin.run(&["doc", "receipts", "diary"]).text().contains("SIGNATURE"));
    origin.run(&["doc", "receipts", "nobody"]).fails(5, &["nobody"]);
    origin
        .run(&["doc", "receipts", "diary", "--peers", "3", "--wait", "1"])
        .fails(6, &["2 of 3 peers signed within 1 s"]);
    other.run(&["doc", "erase", "somebody"]).fails(1, &["no right to delete"]);
    other.run(&["doc", "erasures"]).text();
    origin.run(&["doc", "erase", "nobody"]).fails(5, &["nobody"]);
    let long = "x".repeat(300);
    origin.run(&["doc", "erase", "somebody", "--note", &long]).fails(1, &["note", "256"]);
    // Deleted first, or not: it is found.
    origin.run(&["doc", "rm", "somebody"]).text();
    let asked = origin.run(&["doc", "erase", "somebody", "--note", "she asked", "--json"]).json();
    assert_eq!((asked[0]["name"].as_str(), asked[0]["note"].as_str()), (Some("somebody"), Some("she asked")));
    let done = until("everybody's signature", || {
        let all = other.run(&["doc", "erasures", "--json"]).json();
        (all[0]["awaited"] == json!([]) && all[0]["erased"].as_array().unwrap().len() == 2).then_some(all)
    });
    assert!(done[0]["erased"].as_array().unwrap().contains(&json!(peer)));
    assert!(other.run(&["doc", "erasures"]).text().contains("2 of 2"));

    let new = origin.run(&["doc", "succeed", "diary"]).text().to_owned();
    let all = origin.run(&["doc", "ls", "--json"]).json();
    let of = |id: &str| all.as_array().unwrap().iter().find(|doc| doc["id"] == id).unwrap().clone();
    assert_eq!((&of(&diary)["successors"], &of(&new)["name"]), (&json!([new]), &json!("diary")));
    assert_eq!(origin.run(&["get", &new]).json(), json!({"day": 3}));
    assert_eq!(origin.run(&["history", &new, "--json"]).json().as_array().unwrap().len(), 1);
    assert!(origin.run(&["doc", "ls"]).text().contains("goes on in"));
    assert!(running.stop().0.success() && served.stop().0.success());
}

#[test]
fn watch_shows_the_document_and_then_its_changes() {
    let home = Home::new();
    home.with_document("list");
    let _served = home.serve(&["serve"]);
    home.run(&["set", "list", "a", "1"]).text();
    let mut watch = home.command();
    watch.args(["watch", "list", "--count", "2", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    let mut next = || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!((&first["origin"], &first["patches"][0]["value"]), (&json!("reset"), &json!({"a": 1})));
    home.run(&["set", "list", "a", "2"]).text();
    let second = next();
    assert_eq!(second["origin"], "local");
    assert_eq!((&second["patches"][0]["path"], &second["patches"][0]["value"]), (&json!(["a"]), &json!(2)));
    assert!(watch.wait().unwrap().success());
}

#[test]
fn a_file_carries_a_document_to_another_peer() {
    for served in [false, true] {
        let (one, other) = (Home::new(), Home::new());
        one.with_document("notes");
        one.run(&["set", "notes", "text", "\"on a stick\""]).text();
        let processes = served.then(|| (one.serve(&["serve"]), other.serve(&["serve"])));
        let file = one.path("stick.commonhold");
        let exported = one.run(&["export", file.to_str().unwrap(), "--json"]).json();
        assert_eq!(exported["documents"], 1);
        assert_eq!(exported["bytes"], fs::metadata(&file).unwrap().len());
        let imported = other.run(&["import", file.to_str().unwrap(), "--json"]).json();
        assert_eq!(imported["documents"].as_array().unwrap().len(), 1);
        assert_eq!(other.run(&["get", "notes", "text"]).json(), json!("on a stick"));
        // Through pipes, too.
        let piped = finish(one.command().args(["export", "-"]).stdout(fs::File::create(one.path("piped")).unwrap()));
        assert_eq!(piped.code, 0, "{}", piped.err);
        let again = finish(other.command().args(["import", "-"]).stdin(fs::File::open(one.path("piped")).unwrap()));
        assert_eq!(again.code, 0, "{}", again.err);
        fs::write(&file, "no export").unwrap();
        other.run(&["import", file.to_str().unwrap()]).fails(1, &["not imported"]);
        drop(processes);
    }
}

#[test]
fn a_reader_of_the_output_that_hangs_up_ends_the_verb_quietly() {
    let home = Home::new();
    home.with_document("notes");
    // More in all than the buffers on the way hold, in documents that load fast.
    for n in 0..6 {
        let name = n.to_string();
        home.run(&["doc", "new", "--name", &name]).text();
        home.run(&["set", &name, "text", &format!("\"{}\"", name.repeat(100_000))]).text();
    }
    for served in [false, true] {
        let process = served.then(|| home.serve(&["serve"]));
        for arguments in [&["export", "-"][..], &["watch", "notes"]] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let said = finish(home.command().args(arguments).stdout(writer));
            assert_eq!((said.code, &said.err[..]), (141, ""), "{arguments:?}");
        }
        home.run(&["get", "notes"]).text();
        drop(process);
    }
}

#[test]
fn who_lacks_a_space_is_not_waited_for() {
    let (origin, home) = (Home::new(), Home::new());
    let served = origin.serve(&["serve"]);
    let shared = origin.run(&["space", "new"]).text().to_owned();
    let invite = origin.run(&["space", "invite"]).text().to_owned();
    origin.run(&["doc", "new", "--name", "notes"]).text();
    home.run(&["join", &invite, "--wait", "50"]).text();
    let second = home.serve(&["serve"]);
    let other = origin.run(&["space", "new"]).text().to_owned();
    origin.run(&["status", "--wait", "50"]).text();
    origin.run(&["set", "notes", "a", "1", "--sync=50", "--space", &shared]).text();
    assert_eq!(home.run(&["get", "notes", "a"]).json(), json!(1));
    origin.run(&["status", "--wait", "1", "--space", &other]).fails(6, &["no peer that holds the space"]);
    origin.run(&["doc", "new", "--name", "alone", "--space", &other]).text();
    origin.run(&["set", "alone", "a", "1", "--sync=1", "--space", &other]).fails(6, &["no peer that holds"]);
    drop((served, second));
}

#[test]
fn an_edit_in_the_editor_is_applied_and_a_bad_one_is_kept() {
    let home = Home::new();
    home.with_document("list");
    home.run(&["set", "list", "a", "1"]).text();
    let edit = |editor: &str| finish(home.command().args(["edit", "list"]).env_remove("VISUAL").env("EDITOR", editor));
    edit("sed -i s/1/7/").text();
    assert_eq!(home.run(&["get", "list"]).json(), json!({"a": 7}));
    assert!(edit("true").text().contains("nothing to change"));
    let bad = edit("sed -i s/7/7,,/");
    bad.fails(1, &["not JSON", "your text is kept in "]);
    let kept = bad.err.split("kept in ").nth(1).unwrap().trim();
    assert!(fs::read_to_string(kept).unwrap().contains("7,,"));
    fs::remove_dir_all(std::path::Path::new(kept).parent().unwrap()).unwrap();
    edit("false").fails(1, &["nothing was changed"]);
    edit("").fails(2, &["EDITOR"]);
}

/// On a disk in memory where there is one: each run makes some seventeen syncs, to make sure of what is not the subject here.
#[test]
fn a_thousand_runs_edit_one_document_in_one_chain() {
    const RUNS: u64 = 1_000;
    let home = Home::in_memory();
    home.with_document("counter");
    let begun = std::time::Instant::now();
    for n in 0..RUNS {
        home.run(&["set", "counter", "n", &n.to_string()]).text();
    }
    println!("{RUNS} runs took {:?}", begun.elapsed());
    let history = home.run(&["history", "counter", "--last", "2000", "--json"]).json();
    let history = history.as_array().unwrap();
    let numbers: Vec<_> = history.iter().map(|change| change["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=RUNS).collect::<Vec<_>>());
    assert!(history.iter().all(|change| change["chain"] == history[0]["chain"]), "one chain");
    assert_eq!(home.run(&["get", "counter", "n"]).json(), json!(RUNS - 1));
}

#[test]
fn two_commands_at_once_wait_for_each_other() {
    let home = Home::new();
    home.with_document("list");
    std::thread::scope(|scope| {
        for key in ["a", "b", "c"] {
            let home = &home;
            scope.spawn(move || home.run(&["set", "list", key, "1"]).text().to_owned());
        }
    });
    assert_eq!(home.run(&["get", "list"]).json(), json!({"a": 1, "b": 1, "c": 1}));
}

#[test]
fn completions_and_help_need_no_store() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.run(&["completions", shell]).text().contains("commonhold"));
    }
    assert!(home.run(&["--help"]).text().contains("Exit codes"));
    assert!(!home.data().exists());
}

#[test]
fn manual_pages_tell_every_verb_and_are_taken_by_groff() {
    let home = Home::new();
    let page = home.run(&["man"]);
    for verb in ["serve", "backup", "restore", "verify", "doctor"] {
        assert!(page.text().contains(verb), "{verb}");
    }
    home.run(&["man", "--out", home.path("man").to_str().unwrap()]).text();
    let pages: Vec<_> = fs::read_dir(home.path("man")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.iter().any(|path| path.ends_with("commonhold.1")) && pages.len() > 20);
    for page in pages {
        match std::process::Command::new("groff")
            .args(["-K", "utf8", "-man", "-ww", "-z", "-Tutf8"])
            .arg(&page)
            .output()
        {
            Ok(said) => {
                assert!(said.stderr.is_empty(), "{}: {}", page.display(), String::from_utf8_lossy(&said.stderr))
            }
            Err(error) => return eprintln!("skipped: no groff here ({error})"),
        }
    }
}
