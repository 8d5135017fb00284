//! What can go wrong at start: each has its exit code, says what was wrong in one line, and what to do in another.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use common::{Home, Mounted, finish, mode, until};
use redb::ReadableTable;
use rustix::process::Signal;
use serde_json::json;

#[test]
fn a_typo_in_the_config_is_refused_with_its_line() {
    let home = Home::new();
    fs::write(home.path("config.toml"), "[peer]\nlisen = []\n").unwrap();
    for arguments in [&["serve"][..], &["space", "ls"], &["config", "check"]] {
        home.run(arguments).fails(2, &["config.toml:2: unknown key peer.lisen", "did you mean peer.listen?"]);
    }
    assert!(!home.data().exists(), "nothing was done");
    let variable = finish(
        home.command().args(["config", "check"]).env("COMMONHOLD_LOG_LEVL", "info").env_remove("COMMONHOLD_CONFIG"),
    );
    variable.fails(2, &["COMMONHOLD_LOG_LEVL", "did you mean COMMONHOLD_LOG_LEVEL?"]);
    let slip = home.run(&["sevre"]);
    assert!(slip.code == 2 && slip.err.contains("'serve'"), "{}", slip.err);
    let missing = home.path("gone.toml");
    home.run(&["config", "check", "--config", missing.to_str().unwrap()]).fails(2, &["gone.toml"]);
}

#[test]
fn the_config_is_printed_with_where_each_value_comes_from() {
    let home = Home::new();
    let printed = home.run(&["config", "print", "--json", "--log-level", "info"]).json();
    assert_eq!(printed["log.level"], json!({"value": "info", "origin": "--log-level"}));
    assert_eq!(printed["store.data"]["origin"], "$COMMONHOLD_STORE_DATA");
    assert!(printed["peer.listen"]["origin"].as_str().unwrap().ends_with("config.toml:2"));
    // What is printed is a config file that says the same.
    let text = home.run(&["config", "print"]).text().to_owned();
    fs::write(home.path("config.toml"), &text).unwrap();
    home.run(&["config", "check"]).text();
}

#[test]
fn a_wrong_invite_is_refused_before_anything_is_done() {
    let home = Home::new();
    home.run(&["join", "hello"]).fails(2, &["commonhold1"]);
    let origin = Home::new();
    let invite = origin.serve(&[]).invite().to_owned();
    let cut = &invite[..invite.len() - 3];
    home.run(&["join", cut]).fails(2, &["invite", "copy"]);
}

#[test]
fn an_invite_whose_peer_is_away_is_kept_and_said_to_be_unreachable() {
    let (origin, home) = (Home::new(), Home::new());
    let invite = origin.serve(&[]).invite().to_owned();
    home.run(&["join", &invite, "--wait", "1"]).fails(6, &["stored", "goes on trying"]);
    assert_eq!(home.run(&["space", "ls", "--json"]).json().as_array().unwrap().len(), 1);
}

#[test]
fn an_invite_to_an_address_that_is_somebody_elses_now_is_not_fooled() {
    let (origin, stranger, home) = (Home::new(), Home::new(), Home::new());
    stranger.with_document("theirs");
    let served = origin.serve(&[]);
    let (invite, address) = (served.invite().to_owned(), served.facts["addresses"][0].as_str().unwrap().to_owned());
    served.stop();
    let _served = stranger.serve(&["serve", "--listen", &address]);
    home.run(&["join", &invite, "--wait", "1"]).fails(6, &["stored", "goes on trying"]);
    assert_eq!(home.run(&["doc", "ls", "--json"]).json(), json!([]));
}

#[test]
fn an_occupied_port_is_named() {
    let home = Home::new();
    home.with_document("list");
    home.run(&["set", "list", "a", "1"]).text();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("ws://{}/", taken.local_addr().unwrap());
    home.run(&["serve", "--listen", &address]).fails(4, &[&address, "--listen"]);
    // It was not a crash: chains go on.
    let next = home.run(&["status", "--json"]).json();
    assert_eq!(next["me"]["opened"], "continue");
    home.run(&["set", "list", "a", "2"]).text();
    let history = home.run(&["history", "list", "--json"]).json();
    assert_eq!(history[0]["chain"], history[1]["chain"]);
    let doctor = home.run(&["--listen", &address, "doctor"]);
    assert!(doctor.code == 4 && doctor.out.contains(&format!("{address} is in use")), "{}{}", doctor.out, doctor.err);
}

#[test]
fn a_second_process_on_a_store_is_told_who_has_it() {
    let home = Home::new();
    let served = home.serve(&["serve"]);
    home.run(&["serve"]).fails(4, &["in use", &served.pid().to_string()]);
    assert!(served.stop().0.success());
}

#[test]
fn a_verb_without_a_store_says_how_to_make_one() {
    let home = Home::new();
    home.run(&["get", "x"]).fails(5, &["no store", "join INVITE"]);
    assert!(!home.data().exists() && !home.path("keys").exists(), "reading makes nothing");
    assert_eq!(home.run(&["doctor"]).code, 0);
}

#[test]
fn names_that_lead_nowhere_are_not_found() {
    let home = Home::new();
    home.run(&["space", "new"]).text();
    home.run(&["get", "gone"]).fails(5, &["no document \"gone\""]);
    home.run(&["doc", "new", "--name", "twin"]).text();
    home.run(&["doc", "new", "--name", "twin"]).text();
    home.run(&["get", "twin"]).fails(5, &["names 2 documents"]);
    home.run(&["doc", "new", "--name", "one"]).text();
    home.run(&["get", "one", "a/b"]).fails(5, &["nothing stands at a"]);
    home.run(&["set", "one", "a", "milk"]).fails(2, &["not JSON"]);
    home.run(&["space", "new"]).text();
    home.run(&["doc", "ls"]).fails(5, &["2 spaces", "--space"]);
    let failure = home.run(&["doc", "ls", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&failure.err).unwrap();
    assert_eq!((&error["error"]["exit"], &error["error"]["code"]), (&json!(5), &json!("ambiguous_space")));
}

/// Root may write anywhere, so the program runs as somebody else then.
#[test]
fn a_data_folder_that_cannot_be_written_is_a_store_problem() {
    const NOBODY: u32 = 65_534;
    let home = Home::new();
    home.run(&["space", "new"]).text();
    let root = rustix::process::getuid().is_root();
    let program = home.path("commonhold");
    if root {
        fs::copy(env!("CARGO_BIN_EXE_commonhold"), &program).unwrap();
        chown(home.path(""), Some(NOBODY), None).unwrap();
        for folder in ["keys", "data"] {
            chown(home.path(folder), Some(NOBODY), None).unwrap();
            for file in fs::read_dir(home.path(folder)).unwrap() {
                chown(file.unwrap().path(), Some(NOBODY), None).unwrap();
            }
        }
    } else {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_commonhold"), &program).unwrap();
    }
    let run = |arguments: &[&str]| {
        let mut command = home.command_of(&program);
        if root {
            command.uid(NOBODY);
        }
        finish(command.args(arguments))
    };
    run(&["space", "ls"]).text();
    let set_mode =
        |folder: &str, mode: u32| fs::set_permissions(home.path(folder), Permissions::from_mode(mode)).unwrap();
    for file in fs::read_dir(home.data()).unwrap() {
        fs::set_permissions(file.unwrap().path(), Permissions::from_mode(0o400)).unwrap();
    }
    set_mode("data", 0o500);
    run(&["space", "new"]).fails(3, &["data"]);
    run(&["serve"]).fails(3, &["data"]);
    let doctor = run(&["doctor"]);
    assert!(doctor.code == 3 && doctor.out.contains("not writable"), "{}{}", doctor.out, doctor.err);
    set_mode("data", 0o700);
    // No folder can be made there.
    set_mode("", 0o500);
    let nowhere = home.path("new");
    run(&["space", "new", "--data", nowhere.to_str().unwrap()]).fails(3, &["new"]);
    set_mode("", 0o700);
}

#[test]
fn a_store_that_is_none_is_left_alone() {
    for contents in [&b""[..], b"somebody's letter"] {
        let home = Home::new();
        fs::create_dir_all(home.data()).unwrap();
        fs::write(home.data().join("store.redb"), contents).unwrap();
        home.run(&["serve"]).fails(3, &["not a store"]);
        home.run(&["space", "ls"]).fails(3, &["not a store"]);
        assert_eq!(fs::read(home.data().join("store.redb")).unwrap(), contents);
    }
}

#[test]
fn a_store_of_a_newer_format_is_left_alone() {
    let home = Home::new();
    home.with_document("list");
    home.run(&["set", "list", "a", "1"]).text();
    let path = home.data().join("store.redb");
    set_format(&path, 99);
    home.run(&["serve"]).fails(3, &["format 99", "newer version"]);
    let doctor = home.run(&["doctor"]);
    assert!(doctor.code == 3 && doctor.err.contains("newer version"), "{}", doctor.err);
    // The newer version finds everything as it left it.
    set_format(&path, 1);
    assert_eq!(home.run(&["get", "list"]).json(), json!({"a": 1}));
}

/// Writes the row that docs/storage.md describes under "Format version".
fn set_format(path: &Path, format: u32) {
    const TABLE: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("commonhold");
    let (key, value) = (b"format", format.to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[255]).update(&(key.len() as u32).to_le_bytes()).update(key).update(&value);
    let row = [&value[..], &hasher.finalize().as_bytes()[..8]].concat();
    let transaction = redb::Database::open(path).unwrap().begin_write().unwrap();
    transaction.open_table(TABLE).unwrap().insert(&key[..], &row[..]).unwrap();
    transaction.commit().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let home = Home::new();
    home.with_document("list");
    home.run(&["set", "list", "a", "1"]).text();
    for arguments in [&["get", "list"][..], &["status", "--json"], &["export", "-"], &["config", "print"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = home.command();
        let ended = command.args(arguments).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == Some(1) && said.contains("cannot write the"), "{arguments:?}: {said}");
    }
    // None of them went down without closing the store.
    assert_eq!(home.run(&["status", "--json"]).json()["me"]["opened"], "continue");
}

#[test]
fn a_watch_of_nothing_closes_the_store() {
    let home = Home::new();
    home.with_document("list");
    home.run(&["watch", "lost"]).fails(5, &["no document \"lost\""]);
    assert_eq!(home.run(&["status", "--json"]).json()["me"]["opened"], "continue");
}

/// Flips a bit in the checksum of a row (the first of its table, if none is named), and nowhere else.
fn damage(path: &Path, table: &str, key: Option<&[u8]>) {
    let table: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new(table);
    let transaction = redb::Database::open(path).unwrap().begin_write().unwrap();
    let mut rows = transaction.open_table(table).unwrap();
    let key = key.map_or_else(|| rows.first().unwrap().unwrap().0.value().to_vec(), <[u8]>::to_vec);
    let mut row = rows.get(&key[..]).unwrap().unwrap().value().to_vec();
    *row.last_mut().unwrap() ^= 1;
    rows.insert(&key[..], &row[..]).unwrap();
    drop(rows);
    transaction.commit().unwrap();
}

#[test]
fn a_store_that_lost_a_space_is_not_taken_for_a_first_run() {
    let home = Home::new();
    home.with_document("list");
    damage(&home.data().join("store.redb"), "spaces", None);
    for arguments in [&[][..], &["serve"], &["space", "ls"]] {
        let said = home.run(arguments);
        assert!(said.code == 3 && said.err.contains("the row of space") && said.out.is_empty(), "{}", said.err);
    }
    let doctor = home.run(&["doctor"]);
    assert!(doctor.code == 3 && doctor.out.contains("the row of space"), "{}{}", doctor.out, doctor.err);
}

#[test]
fn a_damaged_fact_about_the_store_does_not_keep_it_shut() {
    for fact in ["store", "salt", "lineage"] {
        let home = Home::new();
        home.with_document("list");
        home.run(&["set", "list", "a", "1"]).text();
        damage(&home.data().join("store.redb"), "meta", Some(fact.as_bytes()));
        let doctor = home.run(&["doctor"]);
        assert!(doctor.code == 0 && doctor.out.contains("restored"), "{fact}: {}{}", doctor.out, doctor.err);
        assert_eq!(home.run(&["get", "list"]).json(), json!({"a": 1}));
        home.run(&["set", "list", "b", "2"]).text();
        let history = home.run(&["history", "list", "--json"]).json();
        assert_ne!(history[0]["chain"], history[1]["chain"]);
    }
}

#[test]
fn a_damaged_store_file_is_reported_and_not_written() {
    let home = Home::new();
    home.with_document("list");
    let path = home.data().join("store.redb");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    home.run(&["get", "list"]).fails(3, &["damaged", "join the space again"]);
    home.run(&["serve"]).fails(3, &["damaged"]);
    let doctor = home.run(&["doctor", "--json"]);
    assert_eq!(doctor.code, 3);
    let found: serde_json::Value = serde_json::from_str(&doctor.out).unwrap();
    assert_eq!(found["ok"], false);
}

/// A flip in the body of a change: its row has a checksum, and another peer has the row.
#[test]
fn a_flipped_bit_in_a_change_is_found_named_and_left_for_a_peer_to_mend() {
    const NEEDLE: &[u8] = b"needle in the store";
    let (home, other) = (Home::new(), Home::new());
    home.with_document("list");
    home.run(&["set", "list", "a", &format!("\"{}\"", str::from_utf8(NEEDLE).unwrap())]).text();
    home.run(&["set", "list", "b", "2"]).text();
    let whole = home.run(&["get", "list"]).json();
    let served = home.serve(&["serve"]);
    let invite = home.run(&["space", "invite"]).text().to_owned();
    other.run(&["join", &invite]).text();
    assert!(served.stop().0.success());

    let path = home.data().join("store.redb");
    let sound = fs::read(&path).unwrap();
    let mut flipped = sound.clone();
    let at = sound.windows(NEEDLE.len()).enumerate().filter(|(_, bytes)| *bytes == NEEDLE).map(|(at, _)| at);
    at.for_each(|at| flipped[at] ^= 1);
    assert_ne!(flipped, sound);
    fs::write(&path, &flipped).unwrap();
    for arguments in [&["get", "list"][..], &["set", "list", "b", "3"], &["history", "list"]] {
        let said = home.run(arguments);
        // The log says it too.
        let two: Vec<&str> = said.err.lines().filter(|line| !line.contains(" ERROR ")).collect();
        assert!(said.code == 3 && two.len() == 2 && two[0].contains("1 of its rows are damaged"), "{}", said.err);
        assert!(two[1].contains("other peers still have the document"), "{}", said.err);
    }
    let doctor = home.run(&["doctor"]);
    assert!(doctor.code == 3 && doctor.out.contains("try: "), "{}{}", doctor.out, doctor.err);
    // The other has all of it, and a new store is filled from there.
    assert_eq!(other.run(&["get", "list"]).json(), whole);
    fs::remove_dir_all(home.data()).unwrap();
    let served = other.serve(&["serve"]);
    let invite = other.run(&["space", "invite"]).text().to_owned();
    home.run(&["join", &invite]).text();
    assert_eq!(home.run(&["get", "list"]).json(), whole);
    drop(served);
}

/// A flip in the row of a document, which has its name.
#[test]
fn a_document_whose_row_is_damaged_is_not_said_never_to_have_been_here() {
    let home = Home::new();
    home.with_document("needle in the store");
    home.run(&["doc", "new", "--name", "other"]).text();
    home.run(&["set", "other", "a", "1"]).text();
    let path = home.data().join("store.redb");
    let mut store = fs::read(&path).unwrap();
    let at = store.windows(13).enumerate().filter(|(_, bytes)| bytes == b"needle in the").map(|(at, _)| at);
    at.collect::<Vec<_>>().into_iter().for_each(|at| store[at] ^= 1);
    fs::write(&path, &store).unwrap();
    let by_name = home.run(&["get", "needle in the store"]);
    assert!(by_name.code == 5 && by_name.err.contains("doctor") && by_name.err.contains("ERROR"), "{}", by_name.err);
    assert_eq!(home.run(&["doctor"]).code, 3);
    assert_eq!(home.run(&["get", "other"]).json(), json!({"a": 1}));
}

/// Anywhere in the file: the program shows what was there or says that it cannot, and never less than was there.
#[test]
fn a_flipped_bit_anywhere_is_never_shown_as_something_else() {
    let home = Home::new();
    home.with_document("list");
    for n in 0..4 {
        home.run(&["set", "list", &format!("key{n}"), &n.to_string()]).text();
    }
    let whole = home.run(&["get", "list"]).json();
    let path = home.data().join("store.redb");
    let sound = fs::read(&path).unwrap();
    let used: Vec<usize> = (0..sound.len()).filter(|at| sound[*at] != 0).collect();
    let flips = std::env::var("COMMONHOLD_FLIPS").map_or(40, |flips| flips.parse().unwrap());
    let mut found = 0;
    for n in 0..flips {
        let at = used[n * used.len() / flips];
        let mut flipped = sound.clone();
        flipped[at] ^= 1 << (n % 8);
        fs::write(&path, &flipped).unwrap();
        let said = home.run(&["get", "list", "--json"]);
        assert!(!said.err.contains("panicked at"), "byte {at}: {}", said.err);
        match said.code {
            0 => assert_eq!(said.json()["value"], whole, "byte {at}: {}", said.err),
            code => {
                // A flip in the file's header can lead to an older state of the whole, which is told as that.
                let older = said.err.contains("restored from a copy");
                let told = code == 3 || code == 5 && (older || said.err.contains("ERROR"));
                assert!(told && said.err.contains("\"remedy\""), "byte {at}: {code}, {}", said.err);
                found += 1;
            }
        }
    }
    println!("{found} of {flips} flips were in the way of reading the document");
}

/// Needs a file system that can be filled, which only root can make here; the failing disk of the engine's tests stands for it otherwise.
#[test]
fn a_full_disk_is_a_store_problem_until_there_is_room() {
    let home = Home::new();
    fs::create_dir_all(home.data()).unwrap();
    let Some(_mounted) = Mounted::small(home.data()) else {
        return println!("skipped: no file system can be mounted here");
    };
    home.with_document("list");
    home.run(&["set", "list", "a", "1"]).text();
    let served = home.serve(&["serve"]);
    // Somebody else's file takes all that is left.
    let filler = home.data().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[7; 4 << 10]).is_ok() {}
    let big = format!("\"{}\"", "x".repeat(100_000));
    let mut kept = 0;
    let refused = (0..200).find_map(|n| {
        let said = home.run(&["set", "list", &format!("big{n}"), &big]);
        kept += i32::from(said.code == 0);
        (said.code != 0).then_some(said)
    });
    refused.expect("the disk is full").fails(3, &["full", "free"]);
    drop(file);
    fs::remove_file(&filler).unwrap();
    // It opens its store again by itself.
    until("room", || (home.run(&["set", "list", "a", "2"]).code == 0).then_some(()));
    let shown = home.run(&["get", "list"]).json();
    assert_eq!((shown["a"].clone(), shown.as_object().unwrap().len() as i32), (json!(2), kept + 1));
    assert!(served.stop().0.success());
    assert_eq!(home.run(&["get", "list"]).json(), shown);
    // That the disk is nearly full is another of its findings.
    let found: serde_json::Value = serde_json::from_str(&home.run(&["doctor", "--json"]).out).unwrap();
    let rows = found["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "rows");
    assert_eq!(rows.unwrap()["state"], "ok", "{found}");
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let home = Home::new();
    home.run(&["space", "new"]).text();
    fs::set_permissions(home.path("keys/device.key"), Permissions::from_mode(0o644)).unwrap();
    home.run(&["space", "ls"]).fails(2, &["chmod 600"]);
    assert_eq!(home.run(&["doctor"]).code, 2);
}

#[test]
fn doctor_finds_a_sound_peer_sound() {
    let home = Home::new();
    home.with_document("list");
    home.run(&["set", "list", "a", "1"]).text();
    let found = home.run(&["doctor", "--json"]).json();
    let states: Vec<_> = found["findings"].as_array().unwrap().iter().map(|finding| &finding["state"]).collect();
    assert!(found["ok"] == true && !states.contains(&&json!("fault")), "{found}");
    let served = home.serve(&["serve"]);
    assert!(home.run(&["doctor"]).text().contains(&format!("served by process {}", served.pid())));
}

#[test]
fn a_signal_drains_and_the_next_run_continues() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new();
        home.with_document("list");
        let served = home.serve(&["serve"]);
        home.run(&["set", "list", "a", "1"]).text();
        served.signal(signal);
        let (status, _, _) = served.ended();
        assert_eq!(status.code(), Some(0));
        assert!(!home.path("ready.json").exists() && !home.data().join("peer.sock").exists());
        let next = home.run(&["status", "--json"]).json();
        assert_eq!(next["me"]["opened"], "continue");
        assert_eq!(home.run(&["get", "list"]).json(), json!({"a": 1}));
    }
}

#[test]
fn a_killed_process_leaves_everything_that_was_acknowledged() {
    let home = Home::new();
    home.with_document("list");
    let served = home.serve(&["serve"]);
    home.run(&["set", "list", "a", "1"]).text();
    served.signal(Signal::KILL);
    assert!(!served.ended().0.success());
    assert_eq!(home.run(&["get", "list"]).json(), json!({"a": 1}));
}

#[test]
fn a_watcher_does_not_keep_a_process_from_stopping() {
    let home = Home::new();
    home.with_document("list");
    let served = home.serve(&["serve"]);
    let mut watch = home.command();
    watch.args(["watch", "list", "--json"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = watch.spawn().unwrap();
    let mut first = String::new();
    let mut lines = std::io::BufReader::new(watch.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut lines, &mut first).unwrap();
    assert!(served.stop().0.success());
    assert_eq!(until("the watcher", || watch.try_wait().unwrap()).code(), Some(1));
}

/// What the guide says about backups.
#[test]
fn a_restored_copy_is_noticed_and_goes_on_as_a_new_store() {
    let home = Home::new();
    home.with_document("list");
    home.run(&["set", "list", "a", "1"]).text();
    let path = home.data().join("store.redb");
    let copy = fs::read(&path).unwrap();
    home.run(&["set", "list", "a", "2"]).text();
    let before = home.run(&["status", "--json"]).json();
    assert_eq!(before["me"]["opened"], "continue");

    // Over the same file, so that only the token tells.
    fs::write(&path, &copy).unwrap();
    let after = home.run(&["status", "--json"]).json();
    assert_eq!((&after["me"]["opened"], &after["me"]["peer"]), (&json!("restored"), &before["me"]["peer"]));
    assert_ne!(after["me"]["store"], before["me"]["store"]);
    home.run(&["set", "list", "a", "3"]).text();
    let history = home.run(&["history", "list", "--json"]).json();
    assert_ne!(history[0]["chain"], history[1]["chain"], "the old chain is not continued");

    // Without the keys it is whole, under another device.
    let keys = home.path("other keys");
    let other = home.run(&["status", "--json", "--keys", keys.to_str().unwrap()]).json();
    assert_eq!((&other["me"]["opened"], &other["spaces"][0]["documents"]), (&json!("restored"), &json!(1)));
    assert_ne!(other["me"]["peer"], before["me"]["peer"]);
}

#[test]
fn the_files_have_the_modes_that_the_guide_promises() {
    let home = Home::new();
    let served = home.serve(&["--log", "json", "--log-level", "info"]);
    for (file, expected) in [
        ("data/store.redb", 0o600),
        ("data/store.redb.lock", 0o600),
        ("data/peer.sock", 0o600),
        ("keys", 0o700),
        ("keys/device.key", 0o600),
        ("ready.json", 0o600),
    ] {
        assert_eq!(mode(&home.path(file)), expected, "{file}");
    }
    let lineage = fs::read_dir(home.path("keys")).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(lineage.filter(|name| name.starts_with("lineage-")).count(), 1);
    let (_, _, log) = served.stop();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!lines.is_empty());
}
