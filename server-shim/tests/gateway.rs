//! The gateway, as the stock JavaScript clients of automerge-repo meet it, and as liars do.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};

use common::{Home, PATIENCE, Served, until};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// Where the packages of the clients are, once they are installed.
fn clients_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway")
}

/// Stock clients in a process of node's.
struct Clients {
    child: Child,
    commands: Option<ChildStdin>,
    answers: mpsc::Receiver<Json>,
    early: BTreeMap<u64, Json>,
    last: u64,
}

impl Clients {
    /// None where there is no node or npm, which is said.
    fn start() -> Option<Clients> {
        static INSTALLING: Mutex<()> = Mutex::new(());
        let folder = clients_folder();
        let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        if !folder.join("node_modules/.package-lock.json").exists() {
            let npm = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
            let installed = Command::new("npm").args(npm).current_dir(&folder).status();
            if !installed.is_ok_and(|status| status.success()) {
                println!("skipped: npm is not there, or could not fetch @automerge/automerge-repo");
                return None;
            }
        }
        let mut child = Command::new("node")
            .arg(folder.join("clients.js"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok();
        let Some(mut child) = child.take() else {
            println!("skipped: node is not there");
            return None;
        };
        let (commands, out) = (child.stdin.take(), child.stdout.take().unwrap());
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(answer) => drop(sender.send(answer)),
                    Err(_) => println!("node: {line}"),
                }
            }
        });
        Some(Clients { child, commands, answers, early: BTreeMap::new(), last: 0 })
    }

    /// Begins something. Its answer is taken with [`Clients::end`].
    fn begin(&mut self, op: &str, mut command: Json) -> u64 {
        self.last += 1;
        (command["op"], command["n"]) = (op.into(), self.last.into());
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        self.last
    }

    #[track_caller]
    fn end(&mut self, n: u64) -> Json {
        loop {
            if let Some(answer) = self.early.remove(&n) {
                return answer;
            }
            let answer = self.answers.recv_timeout(PATIENCE).expect("the clients answer in time");
            self.early.insert(answer["n"].as_u64().unwrap(), answer);
        }
    }

    #[track_caller]
    fn try_do(&mut self, op: &str, command: Json) -> Json {
        let n = self.begin(op, command);
        self.end(n)
    }

    #[track_caller]
    fn make(&mut self, op: &str, command: Json) -> Json {
        let answer = self.try_do(op, command);
        assert_eq!(answer.get("error"), None, "{op}");
        answer
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A peer with a gateway.
fn origin(home: &Home, at: &str) -> Served {
    let mut command = home.command();
    command.arg("serve").env("COMMONHOLD_GATEWAY_LISTEN", at);
    home.serve_as(command)
}

fn gateway_of(served: &Served) -> String {
    served.facts["gateway"][0].as_str().unwrap().to_owned()
}

fn url(address: &str) -> String {
    format!("ws://{address}/")
}

/// Returns when a peer has something of a document.
#[track_caller]
fn arrives(home: &Home, id: &str) {
    let has = || {
        let got = home.run(&["get", id]);
        got.code == 0 && got.json() != json!({})
    };
    until("a document", || has().then_some(()));
}

/// What a list holds, sorted.
fn sorted(list: &Json) -> Vec<String> {
    let mut all: Vec<String> = list.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect();
    all.sort();
    all
}

#[test]
fn stock_clients_share_documents_through_the_origin_and_with_native_peers() {
    let Some(mut js) = Clients::start() else { return };
    let (home, native) = (Home::new(), Home::new());
    home.run(&["space", "new", "--writers", "anyone"]).text();
    let served = origin(&home, "127.0.0.1:0");
    let address = gateway_of(&served);
    native.run(&["join", served.invite()]).text();
    let _native_served = native.serve(&["serve"]);
    for repo in ["alice", "bob"] {
        js.make("repo", json!({ "repo": repo, "address": url(&address) }));
    }

    // Create, find.
    let made = js.make("create", json!({ "repo": "alice", "value": { "title": "shopping", "items": ["milk"] } }));
    let (at, id) = (&made["url"], made["id"].as_str().unwrap());
    arrives(&home, id);
    let found = js.make("find", json!({ "repo": "bob", "url": at }));
    assert_eq!(found["value"], json!({ "title": "shopping", "items": ["milk"] }));

    // What nobody has is unavailable, and that is told.
    let nowhere = js.make("nowhere", json!({}));
    let answer = js.try_do("find", json!({ "repo": "bob", "url": nowhere["url"] }));
    assert!(answer["error"].as_str().unwrap().contains("unavailable"), "{answer}");

    // Concurrent edits, of two clients and a native peer.
    arrives(&native, id);
    let edits = ["alice", "bob"]
        .map(|repo| js.begin("append", json!({ "repo": repo, "url": at, "list": "items", "count": 20 })));
    for n in 0..5 {
        native.run(&["set", id, &format!("native{n}"), "true", "--sync"]).text();
    }
    edits.into_iter().for_each(|n| drop(js.end(n)));
    let all = "d.items.length === 41 && d.native4 === true";
    let shown = ["alice", "bob"].map(|repo| js.make("until", json!({ "repo": repo, "url": at, "code": all })));
    assert_eq!(shown[0]["value"], shown[1]["value"]);
    until("the clients' edits at the native peer", || {
        (native.run(&["get", id]).json() == shown[0]["value"]).then_some(())
    });

    // Ephemeral messages: to the others, each once, in order.
    js.make("repo", json!({ "repo": "carol", "address": url(&address) }));
    js.make("find", json!({ "repo": "carol", "url": at }));
    for n in 1..=3 {
        js.make("broadcast", json!({ "repo": "alice", "url": at, "message": { "cursor": n } }));
    }
    for repo in ["bob", "carol"] {
        js.make("heard", json!({ "repo": repo, "url": at, "count": 3 }));
    }
    js.make("broadcast", json!({ "repo": "bob", "url": at, "message": "last" }));
    for repo in ["alice", "carol"] {
        js.make("heard", json!({ "repo": repo, "url": at, "count": if repo == "alice" { 1 } else { 4 } }));
    }
    let said = |from: &str, message: Json| json!({ "senderId": from, "message": message });
    let alices: Vec<Json> = (1..=3).map(|n| said("alice", json!({ "cursor": n }))).collect();
    let with_bobs: Vec<Json> = alices.iter().cloned().chain([said("bob", json!("last"))]).collect();
    for (repo, heard) in
        [("alice", json!([said("bob", json!("last"))])), ("bob", json!(alices)), ("carol", json!(with_bobs))]
    {
        let answer = js.make("heard", json!({ "repo": repo, "url": at, "count": 1 }));
        assert_eq!(answer["heard"], heard, "{repo}");
    }

    // The origin is killed while both edit, and comes back.
    let edits = ["alice", "bob"]
        .map(|repo| js.begin("append", json!({ "repo": repo, "url": at, "list": "items", "count": 300 })));
    let halfway = "d.items.length >= 80";
    js.make("until", json!({ "repo": "carol", "url": at, "code": halfway }));
    served.signal(Signal::KILL);
    let _ = served.ended();
    js.make("change", json!({ "repo": "carol", "url": at, "code": "d.offline = 'carol'" }));
    let _served = origin(&home, &address);
    edits.into_iter().for_each(|n| drop(js.end(n)));
    let all = "d.items.length === 641 && d.offline === 'carol'";
    let shown = ["alice", "bob", "carol"].map(|repo| js.make("until", json!({ "repo": repo, "url": at, "code": all })));
    assert_eq!(shown[0]["value"], shown[1]["value"]);
    assert_eq!(shown[0]["value"], shown[2]["value"]);
    let every = ["alice", "bob"].iter().flat_map(|repo| {
        let numbers = (0..20).chain(0..300);
        numbers.map(move |n| format!("{repo} {n}"))
    });
    let mut every: Vec<String> = every.chain(["milk".to_owned()]).collect();
    every.sort();
    assert_eq!(sorted(&shown[0]["value"]["items"]), every);
    until("the same at the origin", || (home.run(&["get", id]).json() == shown[0]["value"]).then_some(()));
}

#[test]
fn a_native_document_has_an_id_that_clients_find() {
    let Some(mut js) = Clients::start() else { return };
    let home = Home::new();
    let doc = home.with_document("list");
    home.run(&["set", "list", "title", "\"by hand\""]).text();
    let served = origin(&home, "127.0.0.1:0");
    js.make("repo", json!({ "repo": "alice", "address": url(&gateway_of(&served)) }));
    let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&doc[2 * at..2 * at + 2], 16).unwrap()).collect();
    let hash = blake3::Hasher::new().update(b"commonhold automerge-repo 1").update(&bytes).finalize();
    let at = format!("automerge:{}", bs58::encode(&hash.as_bytes()[..16]).with_check().into_string());
    let found = js.make("find", json!({ "repo": "alice", "url": at }));
    assert_eq!(found["value"], json!({ "title": "by hand" }));
    js.make("change", json!({ "repo": "alice", "url": at, "code": "d.seen = true" }));
    until("the client's edit", || {
        (home.run(&["get", "list"]).json() == json!({ "title": "by hand", "seen": true })).then_some(())
    });
}

#[test]
fn a_document_that_a_client_waits_for_comes_when_it_is_there() {
    let Some(mut js) = Clients::start() else { return };
    let home = Home::new();
    home.run(&["space", "new"]).text();
    let served = origin(&home, "127.0.0.1:0");
    let address = gateway_of(&served);
    js.make("repo", json!({ "repo": "alice", "address": url(&address) }));
    js.make("repo", json!({ "repo": "bob", "address": "ws://127.0.0.1:1/" }));
    let made = js.make("create", json!({ "repo": "bob", "value": { "late": true } }));
    let at = &made["url"];
    let answer = js.try_do("find", json!({ "repo": "alice", "url": at }));
    assert!(answer["error"].as_str().unwrap().contains("unavailable"), "{answer}");
    js.make("connect", json!({ "repo": "bob", "address": url(&address) }));
    let found = js.make("comes", json!({ "repo": "alice", "url": at }));
    assert_eq!(found["value"], json!({ "late": true }));
}

#[test]
fn clients_learn_what_the_storages_of_others_have() {
    let Some(mut js) = Clients::start() else { return };
    let (home, folder) = (Home::new(), tempfile::tempdir().unwrap());
    home.run(&["space", "new"]).text();
    let served = origin(&home, "127.0.0.1:0");
    let address = url(&gateway_of(&served));
    let storage = folder.path().join("alice");
    let alice = js.make("repo", json!({ "repo": "alice", "address": address, "storage": storage, "gossip": true }));
    js.make("repo", json!({ "repo": "bob", "address": address, "gossip": true }));
    let made = js.make("create", json!({ "repo": "alice", "value": { "n": 0 } }));
    let at = &made["url"];
    arrives(&home, made["id"].as_str().unwrap());
    js.make("find", json!({ "repo": "bob", "url": at }));
    let origins = js.make("server", json!({ "repo": "bob" }));
    assert!(origins["name"].as_str().unwrap().starts_with("commonhold-"), "{origins}");
    assert_eq!(origins["isEphemeral"], json!(false));
    js.make("follow", json!({ "repo": "bob", "storage": alice["storage"] }));
    js.make("change", json!({ "repo": "bob", "url": at, "code": "d.n = 1" }));
    for storage in [&alice["storage"], &origins["storageId"]] {
        js.make("remote", json!({ "repo": "bob", "url": at, "storage": storage }));
    }
}
