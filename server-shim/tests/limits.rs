//! What an operator has set bounds to: whom this peer has nothing to do with.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use common::{Home, Served, until};
use serde_json::{Value as Json, json};

/// A peer that serves HTTP and the gateway, and its space.
fn origin(settings: &[(&str, &str)]) -> (Home, Served, String) {
    let home = Home::new();
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    let mut command: Command = home.command();
    command.arg("serve").env("COMMONHOLD_HTTP_LISTEN", "127.0.0.1:0").env("COMMONHOLD_HTTP_OPEN", "*:write");
    command.env("COMMONHOLD_GATEWAY_LISTEN", "127.0.0.1:0").envs(settings.iter().copied());
    let served = home.serve_as(command);
    (home, served, space)
}

fn at(served: &Served, what: &str) -> String {
    served.facts[what][0].as_str().unwrap().to_owned()
}

/// Status and problem of what a request is answered; 0 if nothing is.
fn ask(at: &str, head: &str) -> (u16, Json) {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(stream, "{head} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let status = answer.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
    (status, serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap_or_default()).unwrap_or(Json::Null))
}

#[test]
fn a_blocked_address_is_answered_403_and_its_streams_end() {
    let (home, served, space) = origin(&[]);
    let doc = home.run(&["doc", "new", "--name", "note"]).text().to_owned();
    let (http, gateway) = (at(&served, "http"), at(&served, "gateway"));
    let get = format!("GET /v1/spaces/{space}/docs/{doc}");
    assert_eq!(ask(&http, &get).0, 200);
    let mut stream = BufReader::new(TcpStream::connect(&http).unwrap());
    write!(stream.get_mut(), "{get}/events HTTP/1.1\r\nhost: {http}\r\n\r\n").unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.contains("200"), "{line}");

    let said = home.run(&["block", "add", "network", "127.0.0.1"]);
    assert!(said.text().ends_with("is blocked"), "{}", said.text());
    assert!(home.run(&["block", "add", "network", "127.0.0.1/32"]).text().ends_with("is already blocked"));
    // To its end, which comes.
    let _ = stream.read_to_end(&mut Vec::new());
    let (status, problem) = ask(&http, &get);
    assert_eq!((status, &problem["type"]), (403, &json!("urn:commonhold:problem:blocked")));
    assert_eq!(ask(&http, "GET /livez").0, 403);
    let upgrade = "GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx:";
    let (status, problem) = ask(&gateway, upgrade);
    assert_eq!((status, &problem["type"]), (403, &json!("urn:commonhold:problem:blocked")));

    let listed = home.run(&["block", "list", "--json"]).json();
    assert_eq!((&listed[0]["kind"], &listed[0]["what"]), (&json!("network"), &json!("127.0.0.1/32")));
    assert!(listed[0]["since"].as_str().unwrap().starts_with("20"));
    home.run(&["block", "rm", "network", "127.0.0.1"]).text();
    assert_eq!(home.run(&["block", "ls", "--json"]).json(), json!([]));
    assert_eq!(ask(&http, &get).0, 200);
}

#[test]
fn blocked_documents_spaces_and_peers_are_refused_by_their_kind() {
    let (home, served, space) = origin(&[]);
    let doc = home.run(&["doc", "new", "--name", "note"]).text().to_owned();
    let http = at(&served, "http");
    let docs = format!("GET /v1/spaces/{space}/docs");
    home.run(&["block", "add", "doc", "note"]).text();
    assert_eq!(ask(&http, &format!("{docs}/{doc}")).0, 403);
    assert_eq!(ask(&http, &docs).0, 200);
    home.run(&["get", "note"]).fails(1, &["blocked on this peer", "block rm"]);
    home.run(&["block", "add", "space", &space]).text();
    assert_eq!(ask(&http, &docs).1["type"], "urn:commonhold:problem:blocked");
    home.run(&["block", "rm", "space", &space[..8]]).text();

    // A peer that is connected.
    let other = Home::new();
    other.run(&["join", served.invite()]).text();
    let there = other.serve(&["serve"]);
    let connected = |home: &Home| home.run(&["status", "--json"]).json()["peers"].as_array().unwrap().len();
    until("a connection", || (connected(&home) == 1).then_some(()));
    home.run(&["block", "add", "peer", there.facts["peer"].as_str().unwrap()]).text();
    until("its end", || (connected(&home) == 0).then_some(()));
    home.run(&["block", "add", "peer", "12"]).fails(2, &["64 hex digits", "peers --json"]);
    assert_eq!(home.run(&["block", "ls", "--json"]).json().as_array().unwrap().len(), 2);
}
