//! Processes that know only a tracker, by HTTP; announces that it refuses; the peers that are known.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Home, Served, until};
use serde_json::{Value as Json, json};

/// A tracker that takes announces over HTTP, and where.
fn tracker(home: &Home, role: bool) -> (Served, String) {
    let mut command = home.command();
    command.arg("serve").env("COMMONHOLD_DISCOVERY_LISTEN", "127.0.0.1:0");
    command.env("COMMONHOLD_DISCOVERY_TRACKER", role.to_string());
    let served = home.serve_as(command);
    let at = served.facts["announces"][0].as_str().unwrap().to_owned();
    (served, at)
}

fn serve(home: &Home, tracker: &str) -> Served {
    let mut command = home.command();
    command.arg("serve").env("COMMONHOLD_DISCOVERY_TRACKERS", format!("http://{tracker}"));
    home.serve_as(command)
}

/// Status, headers and body of what a request is answered.
fn http(at: &str, head: &str, body: &str) -> (u16, String, Json) {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(stream, "{head} HTTP/1.1\r\nhost: {at}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Json::Null))
}

#[test]
fn two_processes_that_know_only_a_tracker_over_http_find_each_other() {
    let (middle, one, other) = (Home::new(), Home::new(), Home::new());
    let (tracker, at) = tracker(&middle, true);
    one.run(&["space", "new", "--writers", "anyone"]).text();
    one.run(&["doc", "new", "--name", "note"]).text();
    let invite = one.run(&["space", "invite"]).text().to_owned();
    other.run(&["join", &invite, "--wait", "0"]).text();
    let first = serve(&one, &at);
    let _second = serve(&other, &at);
    until("the document at the other peer", || {
        (other.run(&["doc", "ls", "--json"]).json()[0]["name"] == "note").then_some(())
    });
    let peers = other.run(&["peers", "--json"]).json();
    assert_eq!((&peers[0]["peer"], &peers[0]["connected"]), (&first.facts["peer"], &json!(true)), "{peers}");
    assert!(peers[0]["known"]["score"].as_f64().unwrap() >= 0.5, "{peers}");
    assert!(other.run(&["peers"]).text().contains("SCORE"));
    // The book is kept, and shown when nobody is connected.
    drop(tracker);
    let _ = _second.stop();
    let known = other.run(&["peers", "--json"]).json();
    assert_eq!((&known[0]["peer"], &known[0]["connected"]), (&first.facts["peer"], &json!(false)), "{known}");
}

#[test]
fn what_a_tracker_does_not_take_is_a_problem_with_a_code() {
    let home = Home::new();
    let (_served, at) = tracker(&home, true);
    let (status, head, body) = http(&at, "POST /v1/announce", "{}");
    assert_eq!((status, body["code"].as_str().unwrap()), (400, "tracker-malformed"));
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let record = "85".to_owned() + "00";
    let body = json!({ "record": record, "topics": [], "signature": "" }).to_string();
    assert_eq!(http(&at, "POST /v1/announce", &body).2["code"], "tracker-malformed");
    assert_eq!(http(&at, "POST /v1/announce", &" ".repeat((64 << 10) + 1)).0, 413);
    assert_eq!(http(&at, "GET /v1/announce", "").0, 405);
    assert_eq!(http(&at, "GET /", "").0, 404);
    let other = Home::new();
    let (_served, at) = tracker(&other, false);
    let (status, _, body) =
        http(&at, "POST /v1/announce", &json!({ "record": "", "topics": [], "signature": "" }).to_string());
    assert_eq!((status, body["code"].as_str().unwrap()), (403, "tracker-off"));
}

#[test]
fn a_peer_says_in_a_space_where_it_is_while_it_is_somewhere() {
    let home = Home::new();
    home.run(&["space", "new"]).text();
    home.run(&["space", "publish"]).fails(1, &["listens nowhere", "commonhold serve"]);
    let _serving = home.serve(&[]);
    let published = home.run(&["space", "publish", "--json"]).json();
    assert!(published["addresses"][0].as_str().unwrap().starts_with("ws://127.0.0.1:"), "{published}");
    assert!(home.run(&["space", "publish", "--withdraw"]).text().contains("nowhere"));
}
