//! What an operator has set bounds to: whom this peer has nothing to do with.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use common::{Home, Served, finish, until};
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

/// What Prometheus reads.
fn served_metrics(served: &Served) -> String {
    let admin = at(served, "admin");
    let mut stream = TcpStream::connect(&admin).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_full_space_is_answered_507_until_its_quota_is_raised_and_what_is_stored_is_shown() {
    let (home, served, space) = origin(&[("COMMONHOLD_ADMIN_LISTEN", "127.0.0.1:0")]);
    let http = at(&served, "http");
    let create = || {
        let body = r#"{"content":{"n":1}}"#;
        let mut stream = TcpStream::connect(&http).unwrap();
        write!(stream, "POST /v1/spaces/{space}/docs HTTP/1.1\r\nhost: {http}\r\nconnection: close\r\ncontent-type: application/json\r\n").unwrap();
        write!(stream, "content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), answer)
    };
    assert_eq!(create().0, 201);
    let quota = |documents: u32| {
        let text = format!("[peer]\nlisten = ['ws://127.0.0.1:0/']\n[quota]\nspace_documents = {documents}\n");
        std::fs::write(home.path("new.toml"), text).unwrap();
        std::fs::rename(home.path("new.toml"), home.path("config.toml")).unwrap();
        served.signal(rustix::process::Signal::HUP);
    };
    quota(1);
    let (_, refused) = until("a quota", || Some(create()).filter(|(status, _)| *status == 507));
    assert!(refused.contains("urn:commonhold:problem:quota"), "{refused}");
    home.run(&["doc", "new"]).fails(1, &["takes all that it may", "commonhold usage"]);
    let stored = home.run(&["usage", "--json"]).json();
    assert_eq!(stored["spaces"][0]["id"], space.as_str());
    let documents = stored["spaces"][0]["documents"].as_u64().unwrap();
    assert!(documents >= 1 && stored["spaces"][0]["bytes"].as_u64().unwrap() > 100, "{stored}");
    assert_eq!(stored["identities"][0]["id"], served.facts["peer"]);
    assert!(home.run(&["usage"]).text().contains("IDENTITY"));
    assert_eq!(ask(&at(&served, "admin"), "GET /admin/usage").1, stored);
    assert!(served_metrics(&served).contains(&format!("commonhold_space_stored_bytes{{space=\"{space}\"}}")));
    quota(100);
    until("room", || (create().0 == 201).then_some(()));
    // Counted on over a restart.
    let count = |home: &Home| home.run(&["usage", "--json"]).json()["spaces"][0]["documents"].as_u64().unwrap();
    let before = count(&home);
    served.stop();
    assert_eq!(count(&home), before);
}

#[test]
fn an_address_that_had_all_it_may_is_answered_429() {
    let (home, served, space) = origin(&[("COMMONHOLD_QUOTA_ADDRESS_MIB", "1")]);
    let (http, gateway) = (at(&served, "http"), at(&served, "gateway"));
    let docs = format!("GET /v1/spaces/{space}/docs");
    assert_eq!(ask(&http, &docs).0, 200);
    let mut changes = TcpStream::connect(&http).unwrap();
    let feed = format!("GET /v1/spaces/{space}/changes?feed=continuous&heartbeat=1000");
    write!(changes, "{feed} HTTP/1.1\r\nhost: {http}\r\nconnection: close\r\n\r\n").unwrap();
    let spend = || {
        // Some of it is read, whatever becomes of it.
        let mut stream = TcpStream::connect(&http).unwrap();
        let head = format!(
            "PUT /v1/spaces/{space}/docs/{} HTTP/1.1\r\nhost: {http}\r\ncontent-length: 500000\r\n\r\n",
            "0".repeat(64)
        );
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b' '; 500_000]));
    };
    let (_, problem) = until("429", || {
        spend();
        Some(ask(&http, &docs)).filter(|(status, _)| *status == 429)
    });
    assert_eq!(problem["type"], "urn:commonhold:problem:too-many");
    let mut said = String::new();
    changes.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 200") && said.contains(r#"{"bye":"too-many"}"#), "{said}");
    let upgrade = "GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx:";
    assert_eq!(ask(&gateway, upgrade).0, 429);
    let usage = home.run(&["usage", "--json"]).json();
    assert_eq!(usage["addresses"][0]["network"], "127.0.0.1/32");
    assert!(usage["addresses"][0]["received_bytes"].as_u64().unwrap() > 100_000, "{usage}");
}

#[test]
fn a_document_in_quarantine_is_listed_answered_507_and_released() {
    let (home, served, space) =
        origin(&[("COMMONHOLD_DOCUMENT_CHANGES", "1"), ("COMMONHOLD_ADMIN_LISTEN", "127.0.0.1:0")]);
    let doc = home.run(&["doc", "new", "--name", "note"]).text().to_owned();
    let set = |n: u32| home.run(&["set", "note", "n", &n.to_string()]);
    set(1).text();
    set(2).text();
    let refused = until("the quarantine", || Some(set(3)).filter(|said| said.code != 0));
    refused.fails(1, &["in quarantine", "doc release"]);
    let http = at(&served, "http");
    let get = format!("GET /v1/spaces/{space}/docs/{doc}");
    let (status, problem) = ask(&http, &get);
    assert_eq!((status, &problem["type"]), (507, &json!("urn:commonhold:problem:quota")));
    let listed = home.run(&["doc", "ls", "--json"]).json();
    assert!(listed[0]["quarantined"].as_str().unwrap().contains("changes"), "{listed}");
    assert!(home.run(&["doc", "ls"]).text().contains("in quarantine"));
    let admin = at(&served, "admin");
    let counted = || ask(&admin, "GET /admin/status").1["spaces"][0]["quarantined"].clone();
    until("the count", || (counted() == 1).then_some(()));
    assert!(home.run(&["doc", "release", "note"]).text().starts_with("released"));
    assert_eq!(ask(&http, &get).0, 200);
    set(4).text();
}

/// A policy that lets in the peers that a file names, and carries all documents but spam.
const POLICY: &str = r#"
while read -r question; do
    id=${question#*:} id=${id%%,*}
    case $question in
    *'"kind":"peer"'*)
        peer=${question#*'"peer":"'} peer=${peer%%'"'*}
        grep -qx "$peer" "$1" && accept=true || accept=false ;;
    *'"name":"spam"'*) accept=false ;;
    *) accept=true ;;
    esac
    echo "{\"id\":$id,\"accept\":$accept}"
done
"#;

#[test]
fn a_policy_decides_who_is_let_in_and_which_documents_are_carried() {
    let members = Home::new();
    std::fs::create_dir_all(members.data()).unwrap();
    let [policy, file] = ["policy.sh", "members"].map(|name| members.data().join(name));
    std::fs::write(&policy, POLICY).unwrap();
    std::fs::write(&file, "").unwrap();
    let command = format!("/bin/sh,{},{}", policy.display(), file.display());
    let (origin, served, _) = origin(&[("COMMONHOLD_POLICY_COMMAND", &command)]);
    let other = Home::new();
    other.run(&["join", served.invite(), "--wait", "1"]).fails(6, &["goes on trying"]);
    let peer = other.run(&["status", "--json"]).json()["me"]["peer"].as_str().unwrap().to_owned();
    std::fs::write(&file, format!("{peer}\n")).unwrap();
    other.run(&["join", served.invite()]).text();
    let [spam, good] = ["spam", "good"].map(|name| other.run(&["doc", "new", "--name", name]).text().to_owned());
    other.run(&["set", "good", "n", "1", "--sync"]).text();
    let blocked =
        until("the block", || Some(origin.run(&["block", "ls"]).text().to_owned()).filter(|ls| ls.contains(&spam)));
    assert!(!blocked.contains(&good), "{blocked}");
    assert_eq!(origin.run(&["get", &good, "n"]).text(), "1");
}

#[test]
fn a_policy_that_cannot_be_started_is_told_at_the_start() {
    let home = Home::new();
    let mut command = home.command();
    command.args(["serve", "--listen", "ws://127.0.0.1:0/"]).env("COMMONHOLD_POLICY_COMMAND", "/nonexistent/policy");
    finish(&mut command).fails(2, &["policy.command", "/nonexistent/policy cannot be started", "full path"]);
}

#[test]
fn without_an_answer_of_the_policy_the_config_says_who_is_let_in() {
    for (unanswered, lets_in) in [("refuse", false), ("admit", true)] {
        let settings = [("COMMONHOLD_POLICY_COMMAND", "/bin/false"), ("COMMONHOLD_POLICY_UNANSWERED", unanswered)];
        let (_origin, served, _) = origin(&settings);
        let said = Home::new().run(&["join", served.invite(), "--wait", "1"]);
        assert_eq!(said.code == 0, lets_in, "{}", said.err);
    }
}
