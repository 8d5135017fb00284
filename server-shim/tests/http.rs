//! HTTP with real processes over loopback: what a page, a script and a back-end do, and what they are told where it does not work.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::clients::Clients;
use common::{Home, Mounted, Served, finish, until};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value as Json, json};
use ureq::Agent;
use ureq::http::{Method, Request};

const MERGE: &str = "application/merge-patch+json";
const OPERATIONS: &str = "application/json-patch+json";

/// A peer that serves HTTP, and a space of it.
struct Site {
    home: Home,
    served: Served,
    space: String,
}

impl Site {
    /// With one space, in which everybody may do this over HTTP.
    fn new(open: &str) -> Site {
        Site::with(open, &[])
    }

    fn with(open: &str, settings: &[(&str, &str)]) -> Site {
        let home = Home::new();
        let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
        Site::served(home, space, open, settings)
    }

    fn of(home: Home, space: String, open: &str) -> Site {
        Site::served(home, space, open, &[])
    }

    fn served(home: Home, space: String, open: &str, settings: &[(&str, &str)]) -> Site {
        let mut command = home.command();
        command
            .envs(settings.iter().copied())
            .arg("serve")
            .env("COMMONHOLD_HTTP_LISTEN", "127.0.0.1:0")
            .env("COMMONHOLD_HTTP_OPEN", open);
        let served = home.serve_as(command);
        Site { home, served, space }
    }

    /// Another peer that holds the same space.
    fn joined(&self, open: &str) -> Site {
        let home = Home::new();
        home.run(&["join", self.served.invite()]).text();
        Site::of(home, self.space.clone(), open)
    }

    fn host(&self) -> String {
        format!("http://{}", self.served.facts["http"][0].as_str().unwrap())
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/spaces/{}{path}", self.host(), self.space)
    }

    /// A document with this content; its path.
    fn document(&self, content: Json) -> String {
        let created = Ask::new("POST", self.url("/docs")).json(&json!({ "content": content })).send();
        assert_eq!(created.status, 201, "{}", created.text);
        let location = created.header("location").to_owned();
        location.strip_prefix(&format!("/v1/spaces/{}", self.space)).unwrap().to_owned()
    }

    /// The folders of a peer that serves no more, and the space.
    fn stopped(self) -> (Home, String) {
        let Site { home, served, space } = self;
        served.stop();
        (home, space)
    }

    fn patch(&self, path: &str, kind: &str, patch: &Json) -> Answer {
        Ask::new("PATCH", self.url(path)).body(kind, patch.to_string()).send()
    }

    /// A stream of lines.
    fn lines(&self, path: &str) -> impl Iterator<Item = Json> + use<> {
        let answer = agent().get(self.url(path)).call().unwrap();
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        let lines = BufReader::new(answer.into_body().into_reader()).lines().map(Result::unwrap);
        lines.filter(|line| !line.is_empty()).map(|line| serde_json::from_str(&line).unwrap())
    }

    fn get(&self, path: &str) -> Answer {
        Ask::new("GET", self.url(path)).send()
    }
}

struct Ask {
    method: &'static str,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    text: String,
}

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().into()
}

impl Ask {
    fn new(method: &'static str, url: String) -> Ask {
        Ask { method, url, headers: Vec::new(), body: Vec::new() }
    }

    fn header(mut self, name: &str, value: impl Into<String>) -> Ask {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn body(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Ask {
        self.body = body.into();
        self.header("content-type", kind)
    }

    fn json(self, body: &Json) -> Ask {
        self.body("application/json", body.to_string())
    }

    fn send(self) -> Answer {
        self.send_by(&agent())
    }

    /// The status, without waiting for a body that may never end.
    fn status(self) -> u16 {
        let method = self.method.parse::<Method>().unwrap();
        let request = Request::builder().method(method).uri(&self.url).body(self.body).unwrap();
        agent().run(request).unwrap().status().as_u16()
    }

    fn send_by(self, agent: &Agent) -> Answer {
        let mut request = Request::builder().method(self.method.parse::<Method>().unwrap()).uri(&self.url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut answer = agent.run(request.body(self.body).unwrap()).unwrap();
        let text = String::from_utf8_lossy(&answer.body_mut().read_to_vec().unwrap()).into_owned();
        Answer { status: answer.status().as_u16(), headers: answer.headers().clone(), text }
    }
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Json {
        assert!(self.status < 300, "{} {}", self.status, self.text);
        serde_json::from_str(&self.text).unwrap()
    }

    #[track_caller]
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.headers)).to_str().unwrap()
    }

    /// A problem of this kind.
    #[track_caller]
    fn is(&self, status: u16, kind: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        let problem: Json = serde_json::from_str(&self.text).unwrap();
        assert_eq!(problem["type"], format!("urn:commonhold:problem:{kind}"), "{problem}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().unwrap().len() > 10 && problem["trace_id"].as_str().unwrap().len() == 16);
    }
}

/// A stream of events.
struct Stream(Box<dyn BufRead + Send>);

/// One event.
struct Event {
    name: String,
    id: String,
    data: Json,
}

impl Stream {
    fn open(url: &str, last: Option<&str>) -> Stream {
        let mut request = agent().get(url);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.call().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        Stream(Box::new(BufReader::new(answer.into_body().into_reader())))
    }

    /// The next event; none when the stream has ended or broken.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event { name: String::new(), id: String::new(), data: Json::Null };
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                None if line.trim().is_empty() && !(event.name.is_empty() && event.id.is_empty()) => {
                    return Some(event);
                }
                _ => {}
            }
        }
    }
}

/// A document that is kept by events alone.
struct Mirror {
    document: Json,
    last: String,
    /// Versions, each once.
    seen: Vec<String>,
}

impl Mirror {
    fn take(&mut self, event: &Event) {
        match event.name.as_str() {
            "snapshot" => self.document = event.data["document"].clone(),
            "patch" => {
                assert_eq!(event.data["parents"], self.last, "nothing is missing");
                let patch: json_patch::Patch = serde_json::from_value(event.data["patch"].clone()).unwrap();
                json_patch::patch(&mut self.document, &patch).unwrap();
            }
            other => panic!("{other}: {}", event.data),
        }
        assert!(!self.seen.contains(&event.id), "twice");
        self.seen.push(event.id.clone());
        self.last = event.id.clone();
    }
}

#[test]
fn a_document_is_created_read_edited_and_deleted() {
    let site = Site::new("*:write");
    let path = site.document(json!({"items": ["milk", "eggs"], "n": 1}));
    let read = site.get(&path);
    assert_eq!(read.text, r#"{"items":["milk","eggs"],"n":1}"#);
    let (etag, version) = (read.header("etag").to_owned(), read.header("version").to_owned());
    let again = Ask::new("GET", site.url(&path)).header("if-none-match", &etag).send();
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    let head = Ask::new("HEAD", site.url(&path)).send();
    assert_eq!((head.status, head.text.as_str(), head.header("etag")), (200, "", etag.as_str()));

    let merged = site.patch(&path, MERGE, &json!({"n": 2, "who": {"name": "Ann"}}));
    assert_eq!(merged.json(), json!({"items": ["milk", "eggs"], "n": 2, "who": {"name": "Ann"}}));
    assert!(merged.header("etag") != etag && merged.headers.get("merged").is_none());
    // Who has seen the first version meant its second element, and says so by its index.
    let stale = Ask::new("PATCH", site.url(&path)).header("parents", &version);
    let stale = stale.body(
        OPERATIONS,
        json!([{"op": "remove", "path": "/items/1"}, {"op": "test", "path": "/n", "value": 1}]).to_string(),
    );
    let stale = stale.send();
    assert_eq!(stale.json(), json!({"items": ["milk"], "n": 2, "who": {"name": "Ann"}}));
    assert_eq!(stale.header("merged"), "?1");

    Ask::new("PUT", site.url(&path)).json(&json!({})).send().is(428, "precondition");
    let refused = Ask::new("PUT", site.url(&path)).header("if-match", &etag).json(&json!({})).send();
    refused.is(412, "stale");
    let present = refused.header("etag").to_owned();
    let put =
        Ask::new("PUT", site.url(&path)).header("if-match", &present).json(&json!({"items": ["milk", "rice"]})).send();
    assert_eq!(put.json(), json!({"items": ["milk", "rice"]}));
    Ask::new("PUT", site.url(&path)).header("if-none-match", "*").json(&json!({})).send().is(412, "stale");

    let place = |method, place: &str| Ask::new(method, site.url(&format!("{path}/at/{place}")));
    assert_eq!(place("PUT", "items/1").json(&json!("beans")).send().json(), json!({"items": ["milk", "beans"]}));
    assert_eq!(place("PUT", "items/-").json(&json!("tea")).send().json(), json!({"items": ["milk", "beans", "tea"]}));
    assert_eq!(place("GET", "items/2").send().json(), json!("tea"));
    assert_eq!(place("DELETE", "items/0").send().json(), json!({"items": ["beans", "tea"]}));
    place("GET", "items/9").send().is(404, "not-found");
    place("DELETE", "nothing").send().is(404, "not-found");
    let minimal = place("PUT", "n").header("prefer", "return=minimal").json(&json!(5)).send();
    assert_eq!((minimal.status, minimal.text.as_str()), (204, ""));

    // As it was, and what became of it.
    let version = version.trim_matches('"');
    assert_eq!(site.get(&format!("{path}?at={version}")).json(), json!({"items": ["milk", "eggs"], "n": 1}));
    let now = site.get(&path);
    let mut was = site.get(&format!("{path}?at={version}")).json();
    let difference = site.get(&format!("{path}?diff={version}..{}", now.header("version").trim_matches('"')));
    let difference: json_patch::Patch = serde_json::from_value(difference.json()).unwrap();
    json_patch::patch(&mut was, &difference).unwrap();
    assert_eq!(was, now.json());
    let versions = site.get(&format!("{path}/versions")).json();
    assert_eq!(versions["versions"].as_array().unwrap().last().unwrap()["version"], version);
    assert_eq!(site.get(&format!("{path}/conflicts")).json()["conflicts"], json!([]));
    assert_eq!(site.get(&format!("{path}/sync")).json()["saved_here"], true);
    let binary = Ask::new("GET", site.url(&path)).header("accept", "application/vnd.automerge").send();
    assert_eq!(binary.header("content-type"), "application/vnd.automerge");

    let listed = site.get("/docs?limit=1").json();
    assert_eq!(listed["documents"][0]["href"], format!("/v1/spaces/{}{path}", site.space));
    Ask::new("DELETE", site.url(&path)).header("if-match", &etag).send().is(412, "stale");
    assert_eq!(Ask::new("DELETE", site.url(&path)).send().status, 204);
    site.get(&path).is(410, "gone");
}

#[test]
fn a_request_that_is_sent_again_is_done_once() {
    let mut site = Site::new("*:write");
    let path = site.document(json!({"log": []}));
    let keyed = |site: &Site, key: &str, value: &str| {
        let patch = json!([{"op": "add", "path": "/log/-", "value": value}]).to_string();
        Ask::new("PATCH", site.url(&path)).header("idempotency-key", key).body(OPERATIONS, patch).send()
    };
    let append = |key: &str, value: &str| keyed(&site, key, value);
    let (first, again) = (append("k1", "a"), append("k1", "a"));
    assert_eq!((again.status, &again.text, again.header("etag")), (200, &first.text, first.header("etag")));
    assert_eq!(again.header("idempotency-replayed"), "?1");
    assert!(!first.headers.contains_key("idempotency-replayed"));
    append("k1", "b").is(422, "unprocessable");
    append(&"k".repeat(300), "b").is(400, "bad-request");
    assert_eq!(append("k2", "a").json(), json!({"log": ["a", "a"]}));
    // What was refused is refused again, and not kept from anybody else.
    let refused = |key: &str| {
        Ask::new("PATCH", site.url(&path))
            .header("idempotency-key", key)
            .body(OPERATIONS, r#"[{"op": "remove", "path": "/x"}]"#)
            .send()
    };
    refused("k3").is(422, "unprocessable");
    refused("k3").is(422, "unprocessable");
    // A restart forgets nothing.
    let (home, space) = site.stopped();
    site = Site::of(home, space, "*:write");
    let again = keyed(&site, "k1", "a");
    assert_eq!((again.status, &again.text, again.header("etag")), (200, &first.text, first.header("etag")));
    assert_eq!(again.header("idempotency-replayed"), "?1");
    keyed(&site, "k1", "b").is(422, "unprocessable");
    assert_eq!(site.get(&path).json(), json!({"log": ["a", "a"]}));
}

#[test]
fn lists_of_documents_come_in_pages() {
    let site = Site::new("*:write");
    for n in 0..5 {
        let new = json!({"kind": if n < 3 { "a b" } else { "c" }, "name": format!("n{n}")});
        assert_eq!(Ask::new("POST", site.url("/docs")).json(&new).send().status, 201);
    }
    let mut found = Vec::new();
    let mut next = format!("/v1/spaces/{}/docs?kind=a%20b&limit=2", site.space);
    loop {
        let page = Ask::new("GET", format!("{}{next}", site.host())).send();
        let json = page.json();
        found.extend(json["documents"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()));
        let Some(link) = json["next"].as_str() else { break };
        assert_eq!(page.header("link"), format!("<{link}>; rel=\"next\""));
        next = link.to_owned();
    }
    found.sort();
    assert_eq!(found, ["n0", "n1", "n2"]);
    assert_eq!(site.get("/docs?prefix=n4").json()["documents"].as_array().unwrap().len(), 1);
}

#[test]
fn tokens_give_rights_until_they_are_revoked() {
    let site = Site::new("");
    let path = format!("/docs/{}", site.home.run(&["doc", "new", "--name", "x"]).text());
    site.get(&path).is(401, "no-token");
    let token = |name: &str, right: &str| {
        site.home.run(&["token", "new", name, "--space", &site.space, "--right", right]).text().to_owned()
    };
    let (read, write) = (token("reader", "read"), token("writer", "write"));
    let ask =
        |method, token: &str| Ask::new(method, site.url(&path)).header("authorization", format!("Bearer {token}"));
    until("the tokens to be noticed", || (ask("GET", &read).send().status == 200).then_some(()));
    let patch = json!({"a": 1}).to_string();
    ask("PATCH", &read).body(MERGE, patch.clone()).send().is(403, "not-allowed");
    assert_eq!(ask("PATCH", &write).body(MERGE, patch).send().json(), json!({"a": 1}));
    let cookie = Ask::new("GET", site.url(&path)).header("cookie", format!("other=1; commonhold={read}")).send();
    assert_eq!(cookie.status, 200);
    ask("GET", "cht_nonsense").send().is(401, "no-token");
    // Another space is as absent for it as one that does not exist.
    let elsewhere = format!("{}/v1/spaces/{}/docs", site.host(), "0".repeat(64));
    Ask::new("GET", elsewhere).header("authorization", format!("Bearer {read}")).send().is(404, "not-found");

    let ticket = Ask::new("POST", format!("{}/v1/tickets", site.host()));
    let ticket = ticket.header("authorization", format!("Bearer {read}")).send().json();
    let once = format!("{path}?ticket={}", ticket["ticket"].as_str().unwrap());
    assert_eq!(site.get(&once).status, 200);
    site.get(&once).is(401, "no-token");

    site.home.run(&["token", "new", "reader", "--all-spaces"]).fails(2, &["already", "token revoke reader"]);
    site.home.run(&["token", "revoke", "reader"]).text();
    until("the revocation to be noticed", || (ask("GET", &read).send().status == 401).then_some(()));
    assert_eq!(ask("GET", &write).send().status, 200);
    assert!(site.home.run(&["token", "ls"]).text().contains("writer"));
    site.home.run(&["token", "revoke", "reader"]).fails(5, &["no token named"]);
}

#[test]
fn tokens_of_a_provider_give_the_rights_in_them_for_their_time() {
    let home = Home::new();
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    // What RFC 8410 puts before an Ed25519 secret.
    let secret = [&[48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32][..], &[9; 32]].concat();
    let key = EncodingKey::from_ed_der(&secret);
    let keys = home.path("jwks.json");
    let jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap();
    fs::write(&keys, json!({ "keys": [jwk] }).to_string()).unwrap();
    let settings = [
        ("COMMONHOLD_HTTP_JWT_KEYS", keys.to_str().unwrap()),
        ("COMMONHOLD_HTTP_JWT_ISSUER", "https://login.example.org/"),
    ];
    let mut unsure = home.command();
    unsure.args(["serve"]).env("COMMONHOLD_HTTP_LISTEN", "127.0.0.1:0").envs(settings);
    finish(&mut unsure).fails(2, &["http.jwt_audience"]);
    let settings = [settings[0], settings[1], ("COMMONHOLD_HTTP_JWT_AUDIENCE", "commonhold")];
    let site = Site::served(home, space, "", &settings);
    let token = |sub: &str, may: Json| {
        let claims = json!({
            "iss": "https://login.example.org/", "aud": "commonhold", "sub": sub, "exp": 4_000_000_000u64, "commonhold": may,
        });
        encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap()
    };
    let ask = |method, path: &str, token: &str| {
        Ask::new(method, site.url(path)).header("authorization", format!("Bearer {token}"))
    };
    let write = token("alice", json!([format!("{}:write", site.space)]));
    let created = ask("POST", "/docs", &write).json(&json!({ "content": { "n": 1 } })).send();
    assert_eq!(created.status, 201, "{}", created.text);
    let id = created.header("location").rsplit('/').next().unwrap().to_owned();
    let path = format!("/docs/{id}");
    assert_eq!(ask("GET", &path, &token("bob", json!(["*:read"]))).send().json(), json!({ "n": 1 }));
    let patch = json!({ "n": 2 }).to_string();
    ask("PATCH", &path, &token("bob", json!(["*:read"]))).body(MERGE, patch).send().is(403, "not-allowed");
    ask("GET", &path, &token("carol", json!([]))).send().is(404, "not-found");
    ask("GET", &path, &format!("{write}x")).send().is(401, "no-token");
    let cookie = Ask::new("GET", site.url(&path)).header("cookie", format!("commonhold={write}")).send();
    assert_eq!(cookie.status, 200);
    // A provider changes its keys: what the old one signed is good no longer.
    let other = EncodingKey::from_ed_der(&[&secret[..16], &[8; 32]].concat());
    fs::write(&keys, json!({ "keys": [Jwk::from_encoding_key(&other, Algorithm::EdDSA).unwrap()] }).to_string())
        .unwrap();
    until("the new keys to be noticed", || (ask("GET", &path, &write).send().status == 401).then_some(()));
}

#[test]
fn what_does_not_work_is_told_with_its_kind() {
    let site = Site::new("*:write");
    let path = site.document(json!({"n": 1, "list": []}));
    let patch = |kind: &str, body: &str| Ask::new("PATCH", site.url(&path)).body(kind, body).send();
    let unknown = "ab".repeat(32);
    let wrong = patch("text/plain", "{}");
    wrong.is(415, "media-type");
    assert!(wrong.header("accept-patch").contains(MERGE));
    patch(MERGE, "{").is(400, "bad-request");
    patch(MERGE, "[]").is(422, "unprocessable");
    patch(OPERATIONS, r#"[{"op": "test", "path": "/n", "value": 2}]"#).is(409, "conflict");
    patch(OPERATIONS, r#"[{"op": "remove", "path": "/m"}]"#).is(422, "unprocessable");
    patch(OPERATIONS, r#"[{"op": "explode"}]"#).is(400, "bad-request");
    patch(MERGE, &json!({"long": "x".repeat(9 << 20)}).to_string()).is(413, "too-large");
    patch(MERGE, &json!({"x".repeat(2_000): 1}).to_string()).is(413, "too-large");
    site.get(&format!("{path}?at={unknown}")).is(410, "gone");
    site.get(&format!("{path}?at=nonsense")).is(400, "bad-request");
    site.get(&format!("{path}?min={unknown}")).is(503, "not-yet");
    site.get("/docs?limit=many").is(400, "bad-request");
    site.get(&format!("/docs/{unknown}")).is(404, "not-found");
    site.get("/docs/short").is(404, "not-found");
    site.get("/nowhere").is(404, "not-found");
    site.get("/events").is(400, "bad-request");
    Ask::new("GET", format!("{}/v1/spaces/{unknown}/docs", site.host())).send().is(404, "not-found");
    Ask::new("POST", site.url(&path)).send().is(405, "method");
    Ask::new("GET", site.url(&path)).header("accept", "image/png").send().is(406, "not-acceptable");
    Ask::new("POST", site.url("/docs")).json(&json!({"unknown": 1})).send().is(400, "bad-request");
    let both = Ask::new("PUT", site.url(&path)).header("if-match", "*").header("parents", "").json(&json!({})).send();
    both.is(400, "bad-request");
    let stale = Ask::new("PUT", site.url(&path)).header("parents", unknown).json(&json!({})).send();
    stale.is(410, "gone");
    // Nothing of all that has changed anything, and the process lives.
    assert_eq!(site.get(&path).json(), json!({"n": 1, "list": []}));
}

#[test]
fn a_quota_that_is_used_up_is_told_and_documents_go_on() {
    let site = Site::with("*:write", &[("COMMONHOLD_BLOBS_SPACE_MIB", "1")]);
    let store = |bytes: usize| Ask::new("POST", site.url("/blobs")).body("text/plain", vec![7; bytes]).send();
    assert_eq!(store(600_000).status, 201);
    store(600_001).is(507, "quota");
    let path = site.document(json!({"n": 1}));
    assert_eq!(site.get(&path).json(), json!({"n": 1}));
}

/// Needs a file system that can be filled, which only root can make here.
#[test]
fn a_full_disk_is_told_until_there_is_room() {
    let home = Home::new();
    fs::create_dir_all(home.data()).unwrap();
    let Some(_mounted) = Mounted::small(home.data()) else {
        return println!("skipped: no file system can be mounted here");
    };
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    let site = Site::of(home, space, "*:write");
    let path = site.document(json!({"n": 1}));
    let filler = site.home.data().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[7; 4 << 10]).is_ok() {}
    let mut kept = 0;
    let refused = (0..200).find_map(|n| {
        let answer = site.patch(&path, MERGE, &json!({ format!("big{n}"): "x".repeat(100_000) }));
        kept += usize::from(answer.status == 200);
        (answer.status != 200).then_some(answer)
    });
    let refused = refused.expect("the disk is full");
    match refused.status {
        507 => refused.is(507, "quota"),
        _ => refused.is(503, "unavailable"),
    }
    drop(file);
    fs::remove_file(&filler).unwrap();
    until("room", || (site.patch(&path, MERGE, &json!({"n": 2})).status == 200).then_some(()));
    assert_eq!(site.get(&path).json().as_object().unwrap().len(), kept + 1, "what was answered is there, and no more");
}

#[test]
fn who_does_not_read_its_events_is_dropped_with_a_reason_and_can_resume() {
    let site = Site::new("*:write");
    let long = "x".repeat(100_000);
    let path = site.document(json!({ "text": long }));
    let mut slow = Stream::open(&site.url(&format!("{path}/events")), None);
    let snapshot = slow.next().unwrap();
    // Each event has the whole text: together far more than sockets hold, and than waits for one that is slow.
    for n in 0..200 {
        assert_eq!(site.patch(&path, MERGE, &json!({ "text": format!("{long}{n}") })).status, 200);
    }
    let mut last = snapshot.id;
    let reason = loop {
        let event = slow.next().unwrap();
        if event.name == "bye" {
            break event.data["reason"].clone();
        }
        last = event.id;
    };
    assert_eq!(reason, "slow");
    let resumed = Stream::open(&site.url(&format!("{path}/events")), Some(&last)).next().unwrap();
    assert_eq!((resumed.name.as_str(), &resumed.data["parents"]), ("patch", &json!(last)));
    assert_eq!(resumed.data["version"], site.get(&path).header("version").trim_matches('"'));
}

#[test]
fn a_stream_of_events_goes_on_at_another_peer() {
    let origin = Site::new("*:write");
    let path = origin.document(json!({"items": [], "text": "a"}));
    let other = origin.joined("*:write");
    until("the document at the other peer", || (other.get(&path).status == 200).then_some(()));
    let mut mirror = Mirror { document: Json::Null, last: String::new(), seen: Vec::new() };
    let mut stream = Stream::open(&origin.url(&format!("{path}/events")), None);
    mirror.take(&stream.next().unwrap());
    for n in 0..5 {
        let patch = json!([{"op": "add", "path": "/items/-", "value": n}, {"op": "replace", "path": "/text", "value": format!("a{n}")}]);
        let version = origin.patch(&path, OPERATIONS, &patch).header("version").trim_matches('"').to_owned();
        mirror.take(&stream.next().unwrap());
        assert_eq!(mirror.last, version);
    }
    // The other peer has the last that was seen, and edits while the origin dies.
    let arrived = format!("{path}?min={}", mirror.last);
    assert_eq!(Ask::new("GET", other.url(&arrived)).header("prefer", "wait=60").send().status, 200);
    drop(origin);
    assert!(stream.next().is_none());
    assert_eq!(other.patch(&path, MERGE, &json!({"while": "away"})).status, 200);
    let mut stream = Stream::open(&other.url(&format!("{path}/events")), Some(&mirror.last));
    mirror.take(&stream.next().unwrap());
    assert_eq!(other.patch(&path, MERGE, &json!({"text": "b"})).status, 200);
    mirror.take(&stream.next().unwrap());
    assert_eq!(mirror.document, json!({"items": [0, 1, 2, 3, 4], "text": "b", "while": "away"}));
    assert_eq!(mirror.document, other.get(&path).json());

    // A parameter instead of the header, and a version that nobody has.
    let mut same =
        Stream::open(&format!("{}?last_event_id={}", other.url(&format!("{path}/events")), mirror.last), None);
    assert_eq!(other.patch(&path, MERGE, &json!({"text": "c"})).status, 200);
    assert_eq!(same.next().unwrap().name, "patch");
    let mut unknown = Stream::open(&other.url(&format!("{path}/events")), Some(&"ab".repeat(32)));
    let names: Vec<String> = (0..2).map(|_| unknown.next().unwrap().name).collect();
    assert_eq!(names, ["reset", "snapshot"]);
}

#[test]
fn peers_sign_for_the_version_that_an_edit_made() {
    let origin = Site::new("*:write");
    let path = origin.document(json!({"n": 0}));
    let other = origin.joined("*:write");
    until("the document at the other peer", || (other.get(&path).status == 200).then_some(()));
    let edit = |peers: &str| {
        let ask = Ask::new("PATCH", origin.url(&path)).header("prefer", format!("wait=60, durability={peers}"));
        ask.body(MERGE, json!({ "n": peers }).to_string()).send()
    };
    let edited = edit("2");
    assert_eq!(edited.status, 200, "{}", edited.text);
    let (this, that) = (&origin.served.facts["peer"], &other.served.facts["peer"]);
    assert_eq!(edited.header("durable-at"), that.as_str().unwrap());
    let version = edited.header("version").trim_matches('"').to_owned();
    assert!(edited.header("link").contains(&format!("/receipts?version={version}>; rel=\"receipts\"")));
    let answer = origin.get(&format!("{path}/receipts?version={version}")).json();
    let receipts = answer["receipts"].as_array().unwrap();
    assert!(receipts.iter().any(|receipt| &receipt["holder"] == this) && answer["version"] == version.as_str());
    for receipt in receipts {
        // As docs/protocol.md has it.
        let bytes = |name: &str| hex(receipt[name].as_str().unwrap());
        let signed =
            [b"commonhold storage 1".to_vec(), bytes("holder"), bytes("space"), bytes("document"), bytes("version")];
        let key: [u8; 32] = bytes("holder").try_into().unwrap();
        let key = ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap();
        let signature = ed25519_dalek::Signature::from_slice(&bytes("signature")).unwrap();
        key.verify_strict(&signed.concat(), &signature).unwrap();
    }
    // Two are not three; and a peer alone signs for itself.
    let waited = Ask::new("PATCH", origin.url(&path)).header("prefer", "wait=1, durability=3");
    assert_eq!(waited.body(MERGE, "{\"n\": 9}").send().status, 202);
    drop(other);
    let alone = origin.get(&format!("{path}/receipts")).json();
    assert!(alone["receipts"].as_array().unwrap().iter().any(|receipt| &receipt["holder"] == this));
    origin.get(&format!("{path}/receipts?version={}", "ab".repeat(32))).is(410, "gone");
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn several_documents_share_a_stream_that_can_be_resumed() {
    let site = Site::new("*:write");
    let paths = [site.document(json!({"n": 0})), site.document(json!({"n": 0}))];
    let ids: Vec<&str> = paths.iter().map(|path| path.strip_prefix("/docs/").unwrap()).collect();
    let url = site.url(&format!("/events?doc={}&doc={}", ids[0], ids[1]));
    let mut stream = Stream::open(&url, None);
    let first: Vec<Event> = (0..2).map(|_| stream.next().unwrap()).collect();
    assert!(first.iter().all(|event| event.name == "snapshot"));
    site.patch(&paths[0], MERGE, &json!({"n": 1})).json();
    let last = stream.next().unwrap().id;
    drop(stream);
    site.patch(&paths[1], MERGE, &json!({"n": 2})).json();
    let mut stream = Stream::open(&url, Some(&last));
    let event = stream.next().unwrap();
    assert_eq!((event.name.as_str(), &event.data["doc"]), ("patch", &json!(ids[1])));
    assert_eq!(event.data["patch"], json!([{"op": "replace", "path": "/n", "value": 2}]));
    // An id that names a version which nobody has: all anew.
    let unknown = last.replace('=', "=0123456789abcdef.");
    let mut stream = Stream::open(&url, Some(&unknown));
    let names: Vec<String> = (0..4).map(|_| stream.next().unwrap().name).collect();
    assert_eq!(names, ["reset", "snapshot", "reset", "snapshot"]);
}

#[test]
fn every_intent_of_fifty_clients_and_five_peers_is_kept() {
    const CLIENTS: usize = 50;
    const ROUNDS: usize = 4;
    let site = Site::new("*:write");
    let path = site.document(json!({"by": {}, "log": [], "text": "begin."}));
    let doc = path.strip_prefix("/docs/").unwrap().to_owned();
    let peers: Vec<Site> = (0..5).map(|_| site.joined("")).collect();
    let seen = site.get(&path).header("version").to_owned();
    let merged = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (site, path, seen, merged) = (&site, &path, &seen, &merged);
            scope.spawn(move || {
                let agent = agent();
                for round in 0..ROUNDS {
                    // All have seen the same, however much others have written by then.
                    let patch = json!([
                        {"op": "add", "path": format!("/by/c{client}-{round}"), "value": {"n": round}},
                        {"op": "add", "path": "/log/-", "value": format!("c{client}-{round}")},
                        {"op": "replace", "path": "/text", "value": format!("begin. c{client}-{round};")},
                    ]);
                    let ask = Ask::new("PATCH", site.url(path)).header("parents", seen);
                    let answer = ask.body(OPERATIONS, patch.to_string()).send_by(&agent);
                    assert_eq!(answer.status, 200, "{}", answer.text);
                    merged.fetch_add(usize::from(answer.headers.contains_key("merged")), Ordering::Relaxed);
                }
            });
        }
        for (n, peer) in peers.iter().enumerate() {
            let doc = &doc;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let name = format!("p{n}-{round}");
                    until("the document", || {
                        (peer.home.run(&["set", doc, &format!("by/{name}"), "1"]).code == 0).then_some(())
                    });
                    peer.home.run(&["set", doc, "log/-", &format!("\"{name}\"")]).text();
                }
            });
        }
    });
    let all = CLIENTS * ROUNDS + peers.len() * ROUNDS;
    let document = until("all intents at the origin", || {
        let document = site.get(&path).json();
        (document["log"].as_array().unwrap().len() == all && document["by"].as_object().unwrap().len() == all)
            .then_some(document)
    });
    let mut log: Vec<&str> = document["log"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    log.sort_unstable();
    log.dedup();
    assert_eq!(log.len(), all, "each once");
    let text = document["text"].as_str().unwrap();
    for client in 0..CLIENTS {
        for round in 0..ROUNDS {
            assert!(text.contains(&format!(" c{client}-{round};")), "{client} {round}: {text}");
        }
    }
    assert!(
        merged.load(Ordering::Relaxed) >= CLIENTS * ROUNDS - 1,
        "all but the first were meant for an older version"
    );
    for peer in &peers {
        let same = || (peer.home.run(&["get", &doc, "--json"]).json()["value"] == document).then_some(());
        until("the same at each peer", same);
    }
}

#[test]
fn blobs_are_stored_and_read_in_parts() {
    let site = Site::new("*:write");
    let content: Vec<u8> = (0..600_000u32).flat_map(|n| n.to_be_bytes()).collect();
    let stored = Ask::new("POST", site.url("/blobs")).body("image/png", content.clone()).send();
    assert_eq!(stored.status, 201);
    let name = stored.json()["name"].as_str().unwrap().to_owned();
    assert!(name.ends_with("?size=2400000&type=image/png"), "{name}");
    let url = format!("{}{}", site.host(), stored.header("location"));
    let bytes = |range: Option<&str>| {
        let mut request = agent().get(&url);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let mut answer = request.call().unwrap();
        (answer.status().as_u16(), answer.body_mut().with_config().limit(10 << 20).read_to_vec().unwrap())
    };
    assert!(bytes(None) == (200, content.clone()));
    assert!(bytes(Some("bytes=262143-1048577")) == (206, content[262_143..1_048_578].to_vec()));
    assert!(bytes(Some("bytes=-5")) == (206, content[2_399_995..].to_vec()));
    assert_eq!(bytes(Some("bytes=2400000-")).0, 416);
    let head = Ask::new("HEAD", url.clone()).send();
    assert!(head.header("cache-control").contains("immutable") && head.header("content-length") == "2400000");
    let known = Ask::new("GET", url.clone()).header("if-none-match", head.header("etag")).send();
    assert_eq!(known.status, 304);
    let other = Ask::new("PUT", site.url(&format!("/blobs/{}", "ab".repeat(32)))).body("text/plain", "another").send();
    other.is(422, "unprocessable");
    let hash = blake3::hash(b"hello").to_hex();
    assert_eq!(Ask::new("PUT", site.url(&format!("/blobs/{hash}"))).body("text/plain", "hello").send().status, 201);
    assert_eq!(Ask::new("PUT", site.url(&format!("/blobs/{hash}"))).body("text/plain", "hello").send().status, 204);
    Ask::new("GET", site.url(&format!("/blobs/{}", "cd".repeat(32)))).send().is(404, "not-found");
    // A peer that has none of it asks the others.
    let peer = site.joined("*:read");
    let size = format!("/blobs/{hash}?size=5&type=text/plain");
    let fetched = Ask::new("GET", peer.url(&size)).header("prefer", "wait=60").send();
    assert_eq!((fetched.status, fetched.text.as_str(), fetched.header("content-type")), (200, "hello", "text/plain"));
}

#[test]
fn a_peer_that_stops_answers_what_is_under_way_and_says_goodbye_to_streams() {
    let site = Site::new("*:write");
    let path = site.document(json!({"n": 0}));
    let mut streams: Vec<Stream> = (0..20).map(|_| Stream::open(&site.url(&format!("{path}/events")), None)).collect();
    streams.iter_mut().for_each(|stream| assert_eq!(stream.next().unwrap().name, "snapshot"));
    let (url, written) = (site.url(&path), AtomicUsize::new(0));
    let Site { home, served, space } = site;
    thread::scope(|scope| {
        for client in 0..4 {
            let (url, written) = (&url, &written);
            scope.spawn(move || {
                for n in 0.. {
                    let request = agent().patch(url).header("content-type", MERGE);
                    // An error is a connection that was refused: nobody listens any more.
                    let Ok(answer) = request.send(json!({ format!("k{client}-{n}"): n }).to_string()) else { break };
                    if answer.status() == 503 {
                        break;
                    }
                    assert_eq!(answer.status(), 200);
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until("some writes", || (written.load(Ordering::Relaxed) > 100).then_some(()));
        let (status, _, _) = served.stop();
        assert!(status.success());
    });
    for stream in &mut streams {
        let last = std::iter::from_fn(|| stream.next()).last().unwrap();
        assert_eq!((last.name.as_str(), &last.data["reason"]), ("bye", &json!("stopping")));
    }
    let again = Site::of(home, space, "*:read");
    let kept = again.get(&path).json().as_object().unwrap().len() - 1;
    assert!(kept >= written.load(Ordering::Relaxed), "{kept} of {written:?} answered writes are there");
}

#[test]
fn the_lines_of_the_guide_run() {
    let site = Site::new("*:write");
    let guide = include_str!("../../docs/http.md");
    let (_, rest) = guide.split_once("<!-- These lines are run by a test. -->\n```sh\n").unwrap();
    let (script, _) = rest.split_once("```").unwrap();
    let script = script.replace("http://127.0.0.1:7342", &site.host());
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: no curl");
        return;
    }
    let said = finish(Command::new("sh").arg("-c").arg(&script).env("SPACE", &site.space));
    assert!(said.out.contains(r#"{"items":["oat milk","eggs"],"note":"tomorrow"}"#), "{}{}", said.out, said.err);
    assert!(said.out.contains("event: snapshot"), "{}", said.out);
}

#[test]
fn a_blob_is_answered_with_a_media_type_or_none() {
    let site = Site::new("*:write");
    let stored = Ask::new("POST", site.url("/blobs")).body("image/png", "not really").send();
    let path = format!("/blobs/{}", stored.json()["href"].as_str().unwrap().rsplit('/').next().unwrap());
    assert_eq!(site.get(&format!("{path}?type=image/png")).header("content-type"), "image/png");
    assert_eq!(site.get(&format!("{path}?type=")).header("content-type"), "application/octet-stream");
    for nonsense in ["a", "%0a", "image/", "8XO%29/x"] {
        assert_eq!(site.get(&format!("{path}?type={nonsense}")).status, 400, "{nonsense}");
    }
}

#[test]
fn a_wait_that_ends_is_no_fault_in_the_log() {
    let site = Site::new("*:write");
    let path = site.document(json!({}));
    site.get(&format!("{path}?min={}", "0".repeat(64))).is(503, "not-yet");
    let (_, _, err) = site.served.stop();
    assert!(!err.contains("answered with a problem"), "{err}");
}

#[test]
fn the_openapi_document_has_every_route_and_its_examples_work() {
    let webhooks = [("COMMONHOLD_WEBHOOKS_ENABLED", "true"), ("COMMONHOLD_WEBHOOKS_ALLOW_NETWORKS", "127.0.0.1/32")];
    let home = Home::new();
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    let token = home.run(&["token", "new", "a", "--all-spaces", "--right", "write"]).text().to_owned();
    let site = Site::served(home, space, "*:write", &webhooks);
    let ask = |method, url| Ask::new(method, url).header("authorization", format!("Bearer {token}"));
    // Examples lead to places that are none of a test's business.
    let nowhere = json!("http://127.0.0.1:9/");
    let api = Ask::new("GET", format!("{}/openapi.json", site.host())).send().json();
    assert_eq!(api["openapi"], "3.1.0");
    let doc = site.document(json!({"items": ["milk"], "note": "today"}));
    let doc = doc.strip_prefix("/docs/").unwrap();
    let hook = ask("POST", site.url("/webhooks")).json(&json!({ "url": nowhere })).send().json();
    let hook = hook["id"].as_str().unwrap();
    let filled = |path: &str, pointer: &str| {
        let path = path.replace("{space}", &site.space).replace("{doc}", doc).replace("{pointer}", pointer);
        let path = path.replace("{hook}", hook).replace("{event}", &format!("evt_{}", "0".repeat(32)));
        format!("{}{}", site.host(), path.replace("{digest}", &"0".repeat(64)))
    };
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        assert!(!path.contains('*'), "{path}");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let operation = item.get(method.to_lowercase());
            if let Some(operation) = operation {
                assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
                assert!(operation["summary"].as_str().is_some_and(|summary| summary.len() > 8), "{method} {path}");
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
                assert!(responses.values().all(|response| !response["description"].as_str().unwrap().is_empty()));
            }
            // What can be done comes last: one of the methods deletes the document, or the webhook.
            let url = filled(path, "nothing").replace(doc, &"0".repeat(64)).replace(hook, &"0".repeat(32));
            let status = ask(method, url).status();
            assert_eq!(status != 405, operation.is_some(), "{method} {path}: {status}");
        }
        for (method, operation) in item.as_object().unwrap() {
            let Some(forms) = operation["requestBody"]["content"].as_object() else { continue };
            for (kind, form) in forms {
                let example = form.get("example").cloned();
                let example = example.or_else(|| {
                    let schema = form["schema"]["$ref"].as_str()?.strip_prefix("#")?;
                    api.pointer(schema)?.get("example").cloned()
                });
                let Some(mut example) = example else {
                    let binary = ["application/octet-stream", "application/vnd.automerge"].contains(&kind.as_str());
                    assert!(binary, "{method} {path}: {kind} has no example");
                    continue;
                };
                if let Some(url) = example.get_mut("url") {
                    *url = nowhere.clone();
                }
                let method =
                    ["POST", "PUT", "PATCH"].into_iter().find(|name| name.eq_ignore_ascii_case(method)).unwrap();
                let base = site.get(&format!("/docs/{doc}")).header("version").to_owned();
                let asked = ask(method, filled(path, "items/0")).header("parents", base);
                let answer = asked.body(kind, example.to_string()).send();
                assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text);
            }
        }
    }
    // The guide says the same.
    let guide = include_str!("../../docs/http.md");
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `/")).filter_map(|row| row.split_once("` | "));
    let mut told = std::collections::BTreeSet::new();
    for (route, rest) in rows {
        let route = route.split('?').next().unwrap().replace("{id}", "{doc}");
        let methods: Vec<&str> = rest.split(" |").next().unwrap().split(", ").collect();
        let path = format!("/v1/spaces/{{space}}/{route}");
        let item = api["paths"][&path].as_object().unwrap_or_else(|| panic!("no {path} in the document"));
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            assert_eq!(item.contains_key(&method.to_lowercase()), methods.contains(&method), "{method} {route}");
        }
        told.insert(path);
    }
    for path in api["paths"].as_object().unwrap().keys() {
        assert!(told.contains(path) || guide.contains(&format!("{path}`")), "docs/http.md lacks {path}");
    }
}

#[test]
fn programs_of_braid_follow_a_document_and_edit_it() {
    let Some(mut js) = Clients::start() else { return };
    let site = Site::new("*:write");
    let path = site.document(json!({"items": ["milk"], "note": "today"}));
    let (url, read) = (site.url(&path), site.get(&path));
    let first = read.header("version").trim_matches('"').to_owned();
    let patches = "application/json-patch+json, application/json";
    for (name, accept) in [("whole", None), ("patches", Some(patches))] {
        let began = js.make("subscribe", json!({"name": name, "url": url, "accept": accept}));
        assert_eq!((&began["status"], &began["beats"]), (&json!(209), &json!("15s")));
        assert_eq!(began["current"], format!("\"{first}\""));
        let update = js.make("updates", json!({"name": name, "count": 1}))["updates"][0].clone();
        assert_eq!(update["text"], read.text);
        assert_eq!((&update["version"], update.get("parents")), (&json!([first]), None));
    }

    // A version that the client draws, and the one that the edit gets.
    let edit = json!({"url": url, "version": ["ann-1"], "parents": [first], "value": {"items": ["milk", "eggs"], "note": "today"}});
    let put = js.make("put", edit.clone());
    assert_eq!((&put["status"], &put["value"]["items"]), (&json!(200), &json!(["milk", "eggs"])));
    let second = put["version"].as_str().unwrap().trim_matches('"').to_owned();
    let whole = js.make("updates", json!({"name": "whole", "count": 2}))["updates"][1].clone();
    assert_eq!((&whole["version"], &whole["parents"]), (&json!([second]), &json!([first])));
    assert_eq!(whole["text"], site.get(&path).text);
    let patch = js.make("updates", json!({"name": "patches", "count": 2}))["updates"][1].clone();
    assert_eq!(
        (&patch["version"], &patch["parents"], &patch["type"]),
        (&json!([second]), &json!([first]), &json!(OPERATIONS))
    );
    assert_eq!(patch["text"], r#"[{"op":"add","path":"/items/1","value":"eggs"}]"#);
    // Sent again, it is done once.
    assert_eq!(js.make("put", edit)["version"], put["version"]);
    assert_eq!(site.get(&format!("{path}/versions")).json()["total"], 2);

    // Meant for the first version: merged with what came after it.
    let stale =
        json!({"url": url, "version": ["bob-1"], "parents": [first], "value": {"items": ["milk"], "note": "tomorrow"}});
    let merged = js.make("put", stale);
    assert_eq!(
        (&merged["merged"], &merged["value"]),
        (&json!("?1"), &json!({"items": ["milk", "eggs"], "note": "tomorrow"}))
    );
    js.make("updates", json!({"name": "whole", "text": "tomorrow"}));
    js.make("updates", json!({"name": "patches", "text": "tomorrow"}));
    for name in ["whole", "patches"] {
        js.make("unsubscribe", json!({"name": name}));
    }

    // Whoever comes back is told what came after what they have; of what nobody has here, everything.
    let resume = |js: &mut Clients, name: &str, parents: &str| {
        js.make("subscribe", json!({"name": name, "url": url, "accept": patches, "parents": [parents]}));
        js.make("updates", json!({"name": name, "count": 1}))["updates"][0].clone()
    };
    let since = resume(&mut js, "again", &second);
    assert_eq!((&since["parents"], &since["type"]), (&json!([second]), &json!(OPERATIONS)));
    assert_eq!(since["text"], r#"[{"op":"replace","path":"/note","value":"tomorrow"}]"#);
    let everything = resume(&mut js, "lost", &"0".repeat(64));
    assert_eq!((&everything["text"], everything.get("parents")), (&json!(site.get(&path).text), None));

    // A part of a document is never taken for the whole.
    let part =
        Ask::new("PUT", url.clone()).header("parents", format!("\"{second}\"")).header("content-range", "json .note");
    part.json(&json!({})).send().is(400, "bad-request");
    let then = Ask::new("GET", url).header("version", format!("\"{first}\"")).send();
    assert_eq!(then.json(), json!({"items": ["milk"], "note": "today"}));
}

#[test]
fn who_is_at_a_document_is_told_and_forgotten() {
    let site = Site::new("*:write");
    let path = site.document(json!({}));
    let presence = format!("{path}/presence");
    let say = |body: Json| Ask::new("POST", site.url(&presence)).json(&body).send();
    let mut stream = Stream::open(&site.url(&format!("{path}/events")), None);
    assert_eq!(stream.next().unwrap().name, "snapshot");
    assert_eq!(say(json!({"id": "ann", "state": {"at": "/items/0"}})).status, 204);
    let came = stream.next().unwrap();
    assert_eq!((came.name.as_str(), came.id.as_str()), ("presence", ""));
    assert_eq!((&came.data["id"], &came.data["state"]), (&json!("ann"), &json!({"at": "/items/0"})));
    // Whoever comes later is told who is there, also over a stream of several documents.
    let several = site.url(&format!("/events?doc={}", path.strip_prefix("/docs/").unwrap()));
    let mut later = Stream::open(&several, None);
    let names: Vec<String> = (0..2).map(|_| later.next().unwrap().name).collect();
    assert_eq!(names, ["snapshot", "presence"]);
    let present = site.get(&presence).json();
    assert_eq!(present["presence"][0]["state"], json!({"at": "/items/0"}));
    assert!(present["presence"][0]["expires_in"].as_u64().unwrap() <= 30);
    // They leave when their time is over, or when they say so.
    assert_eq!(say(json!({"id": "bob", "state": 1, "ttl": 1})).status, 204);
    assert_eq!(stream.next().unwrap().data["id"], "bob");
    let left = stream.next().unwrap();
    assert_eq!((&left.data["id"], &left.data["state"]), (&json!("bob"), &Json::Null));
    assert_eq!(say(json!({"id": "ann", "state": null})).status, 204);
    assert_eq!(stream.next().unwrap().data["state"], Json::Null);
    assert_eq!(site.get(&presence).json(), json!({"presence": []}));
    // It changes nothing, and says nothing of what nobody said.
    assert_eq!(site.get(&format!("{path}/versions")).json()["total"], 0);
    assert_eq!(say(json!({"id": "nobody", "state": null})).status, 204);

    say(json!({"id": "", "state": 1})).is(400, "bad-request");
    say(json!({"id": "x", "state": 1, "ttl": 301})).is(400, "bad-request");
    say(json!({"id": "x", "state": "x".repeat(5_000)})).is(413, "too-large");
    for n in 0..256 {
        assert_eq!(say(json!({"id": n.to_string(), "state": n})).status, 204);
    }
    say(json!({"id": "one more", "state": 1})).is(429, "too-many");
    assert_eq!(say(json!({"id": "7", "state": "again"})).status, 204);
}

#[test]
fn a_strangers_page_in_a_browser_reaches_nothing() {
    let site = Site::with("*:write", &[("COMMONHOLD_HTTP_ORIGINS", "https://app.example.org")]);
    let address = site.served.facts["http"][0].as_str().unwrap().to_owned();
    let blobs = format!("/v1/spaces/{}/blobs", site.space);
    let status = |line: &str, headers: &[&str]| {
        let mut stream = TcpStream::connect(&address).unwrap();
        let head =
            format!("{line} HTTP/1.1\r\n{}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", headers.join("\r\n"));
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    // A name that was made to lead here.
    for host in ["127.0.0.1:1", "localhost:7342", "app.example.org"] {
        assert_eq!(status("GET /v1/spaces", &[&format!("host: {host}")]), "200", "{host}");
    }
    assert_eq!(status("GET /v1/spaces", &["host: evil.example"]), "403");
    assert_eq!(status("GET /livez", &["host: evil.example"]), "204");
    // A form of another page.
    let here = format!("host: {address}");
    for (origin, expected) in [("http://evil.example", "403"), ("null", "403"), ("https://app.example.org", "201")] {
        assert_eq!(status(&format!("POST {blobs}"), &[&here, &format!("origin: {origin}")]), expected, "{origin}");
    }
    assert_eq!(status(&format!("POST {blobs}"), &[&here, &format!("origin: http://{address}")]), "201");
    assert_eq!(status(&format!("POST {blobs}"), &[&here]), "201");
}

/// The ids told, and whether each is deleted.
fn told(changes: &Json) -> Vec<(String, bool)> {
    let rows = changes["results"].as_array().unwrap().iter();
    rows.map(|row| (row["id"].as_str().unwrap().to_owned(), row["deleted"] == true)).collect()
}

#[test]
fn changes_of_a_space_are_told_once_over_edits_restarts_and_streams() {
    let mut site = Site::new("*:write");
    let paths: Vec<String> = (0..3).map(|n| site.document(json!({ "n": n }))).collect();
    let ids: Vec<String> = paths.iter().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect();
    let row = |at: usize, deleted: bool| (ids[at].clone(), deleted);
    let first = site.get("/changes?limit=2").json();
    assert_eq!(told(&first), [row(0, false), row(1, false)]);
    let since = |last: &Json| format!("/changes?since={}", last["last_seq"].as_str().unwrap());
    // Meanwhile: one that was told changes, one that was not is deleted.
    site.patch(&paths[0], MERGE, &json!({ "n": 7 })).json();
    assert_eq!(Ask::new("DELETE", site.url(&paths[2])).send().status, 204);
    let second = site.get(&format!("{}&include_docs=true", since(&first))).json();
    assert_eq!(told(&second), [row(0, false), row(2, true)]);
    assert_eq!((&second["results"][0]["doc"], &second["results"][1]["doc"]), (&json!({ "n": 7 }), &Json::Null));
    assert_eq!(told(&site.get(&since(&second)).json()), []);
    let idle = site.get(&format!("{}&feed=longpoll&timeout=1", since(&second))).json();
    assert_eq!((told(&idle), &idle["last_seq"]), (vec![], &second["last_seq"]));

    // A stream goes on where the list ended, and somebody else's id of an event goes before `since`.
    let last = second["last_seq"].as_str().unwrap();
    let mut lines = site.lines(&format!("{}&feed=continuous&limit=1", since(&second)));
    let polled = thread::spawn({
        let url = site.url(&format!("{}&feed=longpoll", since(&second)));
        move || Ask::new("GET", url).send().json()
    });
    site.patch(&paths[1], MERGE, &json!({ "n": 8 })).json();
    assert_eq!(told(&polled.join().unwrap()), [row(1, false)]);
    let change = lines.next().unwrap();
    assert_eq!(change["id"], ids[1]);
    assert_eq!(lines.next().unwrap(), json!({ "last_seq": change["seq"], "bye": "limit" }));
    assert!(lines.next().is_none());
    let mut stream = Stream::open(&site.url("/changes?feed=eventsource&since=now"), Some(last));
    let event = stream.next().unwrap();
    assert_eq!((&event.data["id"], event.id.as_str()), (&json!(ids[1]), change["seq"].as_str().unwrap()));
    drop(stream);

    // Over a restart.
    let (home, space) = site.stopped();
    site = Site::of(home, space, "*:write");
    assert_eq!(told(&site.get(&since(&second)).json()), [row(1, false)]);
    assert_eq!(told(&site.get("/changes").json()), [row(0, false), row(2, true), row(1, false)]);
    assert_eq!(told(&site.get("/changes?since=now").json()), []);

    // Another store has another order.
    let other = site.joined("*:write");
    let elsewhere = other.get(&since(&second));
    elsewhere.is(410, "gone");
    assert!(elsewhere.text.contains("without `since`"));
    site.get("/changes?since=nonsense").is(400, "bad-request");
    site.get("/changes?feed=sideways").is(400, "bad-request");
    let ahead = last.split_once('-').map(|(_, store)| format!("/changes?since=999999-{store}"));
    site.get(&ahead.unwrap()).is(410, "gone");
}

#[test]
fn a_token_of_before_a_backup_is_refused_by_the_peer_that_was_restored_from_it() {
    let site = Site::new("*:write");
    site.document(json!({}));
    let last = site.get("/changes").json()["last_seq"].as_str().unwrap().to_owned();
    let (home, space) = site.stopped();
    let file = home.path("backup").to_string_lossy().into_owned();
    home.run(&["backup", &file]).text();
    home.run(&["restore", &file, "--replace"]).text();
    let site = Site::of(home, space, "*:write");
    site.get(&format!("/changes?since={last}")).is(410, "gone");
    assert_eq!(told(&site.get("/changes").json()).len(), 1);
}

/// A change of an Automerge client that has nothing of ours: it puts `n`, 0.
const CHANGE: &str = "856f4a832dfe2efa012f0010070707070707070707070707070707070101000000061503340142025602570170027f016e017f017f14007f00";

#[test]
fn raw_changes_of_a_client_are_taken_and_bad_ones_are_named() {
    let site = Site::new("*:write");
    let (from, into) = (site.document(json!({ "n": 1 })), site.document(json!({})));
    let raw = |path: &str| {
        let mut answer = agent().get(site.url(&format!("{path}/changes"))).call().unwrap();
        answer.body_mut().read_to_vec().unwrap()
    };
    let post = |kind: &str, body: &[u8]| {
        Ask::new("POST", site.url(&format!("{into}/changes"))).body(kind, body.to_vec()).send()
    };
    let automerge = "application/vnd.automerge";
    let change: Vec<u8> =
        CHANGE.as_bytes().chunks(2).map(|hex| u8::from_str_radix(str::from_utf8(hex).unwrap(), 16).unwrap()).collect();
    let taken = post(automerge, &change);
    assert_eq!(
        (&taken.json()["taken"], taken.header("version").trim_matches('"')),
        (&json!(1), taken.json()["version"].as_str().unwrap())
    );
    assert_eq!((site.get(&into).json(), raw(&into)), (json!({ "n": 0 }), change.clone()));
    assert_eq!(post(automerge, &change).json()["taken"], 0, "nothing is taken twice");
    // What a device said in another document is for it to say.
    let own = post(automerge, &raw(&from));
    own.is(422, "unprocessable");
    assert_eq!(serde_json::from_str::<Json>(&own.text).unwrap()["waiting"], 1);
    let mut bent = change;
    *bent.last_mut().unwrap() ^= 1;
    let bent = post(automerge, &bent);
    bent.is(422, "unprocessable");
    assert!(!serde_json::from_str::<Json>(&bent.text).unwrap()["refused"][0]["reason"].is_null());
    post(automerge, b"nonsense").is(400, "bad-request");
    post("application/json", b"{}").is(415, "media-type");
    post(automerge, &vec![0; 9 << 20]).is(413, "too-large");
}
