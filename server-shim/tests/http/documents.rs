//! Documents: made, read, edited, listed, by one and by many at once.

use super::*;

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
