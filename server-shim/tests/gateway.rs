//! The gateway, as the stock JavaScript clients of automerge-repo meet it, and as liars do.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use commonhold_engine::{Config, DeviceId, Node, Right};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use common::clients::Clients;
use common::{Home, PATIENCE, Served, until};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// A peer with a gateway.
fn origin(home: &Home, at: &str) -> Served {
    origin_with(home, at, &[])
}

fn origin_with(home: &Home, at: &str, settings: &[(&str, &str)]) -> Served {
    let mut command = home.command();
    command.arg("serve").env("COMMONHOLD_GATEWAY_LISTEN", at).envs(settings.iter().copied());
    home.serve_as(command)
}

const HTTP: [(&str, &str); 2] = [("COMMONHOLD_HTTP_LISTEN", "127.0.0.1:0"), ("COMMONHOLD_HTTP_OPEN", "*:write")];

/// Where a peer has a document over HTTP.
fn http_url(served: &Served, space: &str, home: &Home, name: &str) -> String {
    let listed = home.run(&["doc", "ls", "--json"]).json();
    let doc = listed.as_array().unwrap().iter().find(|doc| doc["name"] == name).unwrap()["id"].as_str().unwrap();
    format!("http://{}/v1/spaces/{space}/docs/{doc}", served.facts["http"][0].as_str().unwrap())
}

fn http_get(url: &str) -> Json {
    ureq::get(url).call().unwrap().body_mut().read_json().unwrap()
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

/// The id by which clients know a document that none of them made.
fn id_of(doc: &str) -> String {
    let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&doc[2 * at..2 * at + 2], 16).unwrap()).collect();
    let hash = blake3::Hasher::new().update(b"commonhold automerge-repo 1").update(&bytes).finalize();
    bs58::encode(&hash.as_bytes()[..16]).with_check().into_string()
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
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    let served = origin_with(&home, "127.0.0.1:0", &HTTP);
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

    // Two clients, a native peer and a program over HTTP edit at the same time: the clients from before the first edit of
    // the others until they see the last, the program until the native peer has written its last.
    arrives(&native, id);
    let others = "d.native4 === true && d.over === true";
    let edits = ["alice", "bob"]
        .map(|repo| js.begin("appendUntil", json!({ "repo": repo, "url": at, "list": "items", "code": others })));
    let both = "d.items.some(item => item.startsWith('alice')) && d.items.some(item => item.startsWith('bob'))";
    js.make("until", json!({ "repo": "alice", "url": at, "code": both }));
    let http = http_url(&served, &space, &home, id);
    let over = AtomicBool::new(false);
    let by_http = std::thread::scope(|scope| {
        let program = scope.spawn(|| append_over_http(&http, &over));
        for n in 0..5 {
            native.run(&["set", id, &format!("native{n}"), "true", "--sync"]).text();
        }
        over.store(true, Relaxed);
        program.join().unwrap()
    });
    let by = edits.map(|n| js.end(n)["count"].as_u64().unwrap() as usize);
    let mut every = vec!["milk".to_owned()];
    for (who, count) in [("alice", by[0]), ("bob", by[1]), ("http", by_http)] {
        every.extend((0..count).map(|n| format!("{who} {n}")));
    }
    let all = format!("d.items.length === {} && {others}", every.len());
    let shown = ["alice", "bob"].map(|repo| js.make("until", json!({ "repo": repo, "url": at, "code": all })));
    every.sort();
    assert_eq!(sorted(&shown[0]["value"]["items"]), every);
    (0..5).for_each(|n| assert_eq!(shown[0]["value"][format!("native{n}")], json!(true)));
    assert_eq!(shown[0]["value"], shown[1]["value"]);
    until("every edit at the native peer", || (native.run(&["get", id]).json() == shown[0]["value"]).then_some(()));
    until("every edit over HTTP", || (http_get(&http) == shown[0]["value"]).then_some(()));

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
    let halfway = format!("d.items.length >= {}", every.len() + 40);
    js.make("until", json!({ "repo": "carol", "url": at, "code": halfway }));
    served.signal(Signal::KILL);
    let _ = served.ended();
    js.make("change", json!({ "repo": "carol", "url": at, "code": "d.offline = 'carol'" }));
    let _served = origin(&home, &address);
    edits.into_iter().for_each(|n| drop(js.end(n)));
    every.extend(["alice", "bob"].iter().flat_map(|repo| (0..300).map(move |n| format!("{repo} {n}"))));
    every.sort();
    let all = format!("d.items.length === {} && d.offline === 'carol'", every.len());
    let shown = ["alice", "bob", "carol"].map(|repo| js.make("until", json!({ "repo": repo, "url": at, "code": all })));
    assert_eq!(shown[0]["value"], shown[1]["value"]);
    assert_eq!(shown[0]["value"], shown[2]["value"]);
    assert_eq!(sorted(&shown[0]["value"]["items"]), every);
    until("the same at the origin", || (home.run(&["get", id]).json() == shown[0]["value"]).then_some(()));
}

/// Appends numbers to the document's list, a request each, until `over`, and says so in the last; returns how many.
fn append_over_http(url: &str, over: &AtomicBool) -> usize {
    let agent = ureq::agent();
    for n in 0.. {
        let last = over.load(Relaxed);
        let mut patch = vec![json!({ "op": "add", "path": "/items/-", "value": format!("http {n}") })];
        patch.extend(last.then(|| json!({ "op": "add", "path": "/over", "value": true })));
        let patch = Json::from(patch).to_string();
        agent.patch(url).header("content-type", "application/json-patch+json").send(patch).unwrap();
        if last {
            return n + 1;
        }
    }
    unreachable!("it is over before")
}

#[test]
fn a_native_document_has_an_id_that_clients_find() {
    let Some(mut js) = Clients::start() else { return };
    let home = Home::new();
    let doc = home.with_document("list");
    home.run(&["set", "list", "title", "\"by hand\""]).text();
    let served = origin(&home, "127.0.0.1:0");
    js.make("repo", json!({ "repo": "alice", "address": url(&gateway_of(&served)) }));
    let at = format!("automerge:{}", id_of(&doc));
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

/// Gives a device the right to vouch for others, which the command line does not.
fn grant_gateway(home: &Home, device: &str) {
    let config = Config {
        data: Some(home.data()),
        keys: Some(home.keys()),
        listen: Vec::new(),
        dial_invites: false,
        ..Config::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = Node::open(config).await.unwrap();
        let space = node.spaces()[0].id;
        node.grant(space, device.parse::<DeviceId>().unwrap(), Right::Write, true).await.unwrap();
        node.close().await.unwrap();
    });
}

#[test]
fn two_gateways_that_make_one_document_at_once_end_up_with_one() {
    let Some(mut js) = Clients::start() else { return };
    let (one, two) = (Home::new(), Home::new());
    one.run(&["space", "new"]).text();
    let served = one.serve(&["serve"]);
    two.run(&["join", served.invite()]).text();
    let device = two.run(&["status", "--json"]).json()["me"]["peer"].as_str().unwrap().to_owned();
    assert!(served.stop().0.success());
    grant_gateway(&one, &device);
    let served = one.serve(&["serve"]);
    two.run(&["join", served.invite()]).text();
    until("the right", || two.run(&["members", "--json"]).out.contains(&device).then_some(()));
    assert!(served.stop().0.success());

    // Neither can be dialled where the other knows it.
    let served = [origin(&one, "127.0.0.1:0"), origin(&two, "127.0.0.1:0")];
    let at = [gateway_of(&served[0]), gateway_of(&served[1])];
    js.make("repo", json!({ "repo": "both", "address": url(&at[0]) }));
    js.make("connect", json!({ "repo": "both", "address": url(&at[1]) }));
    let made = js.make("create", json!({ "repo": "both", "value": { "items": [] } }));
    let (document, id) = (&made["url"], made["id"].as_str().unwrap());
    arrives(&one, id);
    arrives(&two, id);
    for (repo, at) in [("left", &at[0]), ("right", &at[1])] {
        js.make("repo", json!({ "repo": repo, "address": url(at) }));
        js.make("find", json!({ "repo": repo, "url": document }));
        js.make("append", json!({ "repo": repo, "url": document, "list": "items", "count": 5 }));
    }
    // Now they meet.
    let [first, second] = served;
    assert!(second.stop().0.success());
    let mut command = two.command();
    command.arg("serve").env("COMMONHOLD_GATEWAY_LISTEN", &at[1]);
    command.env("COMMONHOLD_PEER_CONNECT", first.facts["addresses"][0].as_str().unwrap());
    let _second = two.serve_as(command);
    for repo in ["left", "right", "both"] {
        js.make("append", json!({ "repo": repo, "url": document, "list": "items", "count": 5 }));
    }
    let all = "d.items.length === 25";
    let shown =
        ["left", "right", "both"].map(|repo| js.make("until", json!({ "repo": repo, "url": document, "code": all })));
    assert_eq!(shown[0]["value"], shown[1]["value"]);
    assert_eq!(shown[0]["value"], shown[2]["value"]);
    // Whoever comes now finds the same at either.
    for (repo, at) in [("new left", &at[0]), ("new right", &at[1])] {
        js.make("repo", json!({ "repo": repo, "address": url(at) }));
        js.make("find", json!({ "repo": repo, "url": document }));
        let found = js.make("until", json!({ "repo": repo, "url": document, "code": all }));
        assert_eq!(found["value"], shown[0]["value"]);
    }
}

// Liars.

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A client of our own, which says what it is told to.
struct Raw {
    socket: Socket,
}

/// A CBOR map with text keys.
fn map(fields: &[(&str, Field<'_>)]) -> Vec<u8> {
    let mut e = minicbor::Encoder::new(Vec::new());
    e.map(fields.len() as u64).unwrap();
    for (key, field) in fields {
        e.str(key).unwrap();
        match field {
            Text(text) => e.str(text).unwrap(),
            Bytes(bytes) => e.bytes(bytes).unwrap(),
            Number(number) => e.u64(*number).unwrap(),
        };
    }
    e.into_writer()
}

#[derive(Clone, Copy)]
enum Field<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
    Number(u64),
}
use Field::{Bytes, Number, Text};

/// A valid id that no document has.
fn some_id() -> String {
    bs58::encode([5; 16]).with_check().into_string()
}

fn join_as(name: &str) -> Vec<u8> {
    map(&[("type", Text("join")), ("senderId", Text(name))])
}

fn sync(id: &str, data: &[u8]) -> Vec<u8> {
    map(&[("type", Text("sync")), ("senderId", Text("raw")), ("documentId", Text(id)), ("data", Bytes(data))])
}

/// What a frame from the gateway is: its type, and what it says if it is an error.
fn said(frame: &[u8]) -> (String, String) {
    let mut d = minicbor::Decoder::new(frame);
    let (mut kind, mut text) = (String::new(), String::new());
    for _ in 0..d.map().unwrap().unwrap() {
        match d.str().unwrap() {
            "type" => kind = d.str().unwrap().to_owned(),
            "message" => text = d.str().unwrap().to_owned(),
            _ => d.skip().unwrap(),
        }
    }
    (kind, text)
}

impl Raw {
    async fn open(address: &str) -> Raw {
        let (socket, _) = soon(tokio_tungstenite::connect_async(url(address))).await.unwrap();
        Raw { socket }
    }

    async fn joined(address: &str, name: &str) -> Raw {
        let mut raw = Raw::open(address).await;
        raw.say(join_as(name)).await;
        assert_eq!(raw.hear().await.unwrap().0, "peer");
        raw
    }

    async fn say(&mut self, frame: Vec<u8>) {
        // What is too large may be refused before all of it has left.
        let _ = self.socket.send(Message::Binary(frame.into())).await;
    }

    /// The next frame, or why the connection was closed.
    async fn hear(&mut self) -> Result<(String, String), Option<(u16, String)>> {
        loop {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Binary(frame))) => return Ok(said(&frame)),
                Some(Ok(Message::Close(close))) => {
                    return Err(close.map(|close| (close.code.into(), close.reason.to_string())));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The next error, whatever comes before it.
    async fn hears_error(&mut self) -> String {
        loop {
            let (kind, text) = self.hear().await.unwrap();
            if kind == "error" {
                return text;
            }
        }
    }

    /// Returns once the gateway has answered something of this client: it is there, and serves it.
    async fn is_served(&mut self) {
        let offer = [&[0x42, 1][..], &[7; 32], &[0, 0, 0]].concat();
        self.say(sync(&some_id(), &offer)).await;
        assert_eq!(self.hear().await.unwrap().0, "sync");
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_frames_end_their_own_connection_and_nothing_else() {
    let home = Home::new();
    let native = id_of(&home.with_document("list"));
    let served = origin(&home, "127.0.0.1:0");
    let address = gateway_of(&served);
    let mut witness = Raw::joined(&address, "witness").await;
    witness.is_served().await;

    let null = vec![0xf6];
    let other = some_id();
    let id = other.as_str();
    let data = |data: &[u8]| sync(id, data);
    let filter = |filter: &[u8]| data(&[&[0x42, 0, 0, 1, 0, filter.len() as u8][..], filter, &[0]].concat());
    let most = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let cut_off = {
        let mut whole = join_as("raw");
        whole.truncate(whole.len() - 3);
        whole
    };
    let nested = [&[0xa1, 0x61, b'x'][..], &vec![0x81; 1 << 20]].concat();
    let ephemeral = |count: Field<'_>, data: &[u8]| {
        map(&[
            ("type", Text("ephemeral")),
            ("senderId", Text("raw")),
            ("sessionId", Text("s")),
            ("documentId", Text(id)),
            ("count", count),
            ("data", Bytes(data)),
        ])
    };
    let frames: Vec<(&str, Vec<u8>)> = vec![
        ("null", null.clone()),
        ("nothing", Vec::new()),
        ("a number", vec![0x18, 0x2a]),
        ("a list", vec![0x81, 0x01]),
        ("no CBOR", vec![0xff, 0xfe, 0xfd]),
        ("a map without a type", map(&[("senderId", Text("raw"))])),
        ("a type that is a number", map(&[("type", Number(1))])),
        ("keys that are no text", vec![0xa1, 0x01, 0x02]),
        ("a map of 2^64 fields", vec![0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x61, b'a', 0x00]),
        (
            "bytes of 2^63",
            [&[0xa1, 0x64][..], b"data", &[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat(),
        ),
        ("a million lists inside each other", nested),
        ("a join that is cut off", cut_off),
        ("a second join", join_as("raw")),
        ("an id that is no text", map(&[("type", Text("sync")), ("documentId", Number(1)), ("data", Bytes(&[0x42]))])),
        ("an id with a wrong checksum", sync(&format!("{}1", &id[..id.len() - 1]), &[0x42, 0, 0, 0, 0])),
        ("data that is text", map(&[("type", Text("sync")), ("documentId", Text(id)), ("data", Text("x"))])),
        ("no data", map(&[("type", Text("sync")), ("documentId", Text(id))])),
        ("empty data", data(&[])),
        ("a sync message that is none", data(b"hello")),
        ("a sync message that is cut off", data(&[0x42, 1, 7])),
        ("a whole document", data(&[0x43, 0, 0, 0, 0])),
        ("a filter of no bits", filter(&[1, 0, 7])),
        ("a filter of 2^32 - 1 probes", filter(&[&[1, 8][..], &most, &[0]].concat())),
        ("a filter of 2^32 - 1 entries", filter(&[&most[..], &[10, 7]].concat())),
        ("2^32 - 1 heads", data(&[&[0x42][..], &most].concat())),
        ("2^32 - 1 changes", data(&[&[0x42, 0, 0, 0][..], &most].concat())),
        ("a count that is bytes", ephemeral(Bytes(&[1]), &[1])),
        ("a large ephemeral message", ephemeral(Number(1), &vec![0; (64 << 10) + 1])),
        ("a name of a megabyte", map(&[("type", Text("ephemeral")), ("senderId", Text(&"x".repeat(1 << 20)))])),
        ("a frame that is too large", vec![0; (8 << 20) + (64 << 10)]),
    ];
    for (what, frame) in frames {
        let mut liar = Raw::joined(&address, "liar").await;
        liar.say(frame).await;
        let ended = match liar.hear().await {
            Ok((kind, text)) => {
                assert_eq!(kind, "error", "{what}");
                assert!(!text.is_empty(), "{what}");
                liar.hear().await
            }
            Err(ended) => Err(ended),
        };
        let Err(ended) = ended else { panic!("{what}: it goes on") };
        // Of a frame that is not even read to its end, the socket goes at once.
        assert!(ended.is_none_or(|(code, reason)| code == 1008 && !reason.is_empty()), "{what}");
        witness.is_served().await;
    }
    // The same before a join, and another message than a join.
    for frame in [null, sync(id, &[0x42, 0, 0, 0, 0])] {
        let mut liar = Raw::open(&address).await;
        liar.say(frame).await;
        assert_eq!(liar.hear().await.unwrap().0, "error");
        assert_eq!(liar.hear().await.unwrap_err().unwrap().0, 1008);
    }
    // What is only unknown is passed over.
    let mut honest = Raw::joined(&address, "honest").await;
    honest.say(map(&[("type", Text("a later message")), ("what", Number(1))])).await;
    honest.say(map(&[("type", Text("doc-unavailable")), ("documentId", Text(id))])).await;
    honest.is_served().await;
    // A change that is none is refused and told, and the connection stays.
    honest
        .say(sync(&native, &[&[0x42, 0, 0, 0, 1, 10][..], &[0x85, 0x6f, 0x4a, 0x83, 1, 2, 3, 4, 1, 0]].concat()))
        .await;
    let refused = honest.hears_error().await;
    assert!(refused.contains("change 0 of the message"), "{refused}");
    // Text is no frame of this protocol.
    honest.socket.send(Message::Text("hello".into())).await.unwrap();
    honest.hears_error().await;
    witness.is_served().await;
    drop(witness);
    let (status, _, err) = tokio::task::spawn_blocking(move || served.stop()).await.unwrap();
    assert!(status.success(), "{err}");
    assert!(!err.contains("panicked"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_version_is_told_and_a_client_that_comes_again_replaces_itself() {
    let home = Home::new();
    home.run(&["space", "new"]).text();
    let served = origin(&home, "127.0.0.1:0");
    let address = gateway_of(&served);
    let mut later = Raw::open(&address).await;
    let mut e = minicbor::Encoder::new(Vec::new());
    e.map(3).unwrap().str("type").unwrap().str("join").unwrap().str("senderId").unwrap().str("later").unwrap();
    e.str("supportedProtocolVersions").unwrap().array(1).unwrap().str("2").unwrap();
    later.say(e.into_writer()).await;
    let (kind, text) = later.hear().await.unwrap();
    assert_eq!((kind.as_str(), text.contains("version")), ("error", true));
    assert!(later.hear().await.is_err());

    let mut first = Raw::joined(&address, "same").await;
    let mut second = Raw::joined(&address, "same").await;
    assert_eq!(first.hear().await.unwrap().0, "error");
    assert_eq!(first.hear().await.unwrap_err().unwrap().0, 1000);
    second.is_served().await;
}
