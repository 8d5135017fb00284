//! Streams: events of documents, Braid, and the changes of a space.

use super::*;

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
