//! TLS: what strangers reach is inside it, peers dial through it, certificates are renewed while a peer runs, and handshakes that do not go on
//! hold up nobody.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use common::issued::Issued;
use common::{Home, PATIENCE, Said, Served, finish, until};
use commonhold_engine::tls::Roots;
use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use tokio_tungstenite::tungstenite::Message;

/// A peer of which all that strangers reach is inside TLS.
fn origin(home: &Home, issued: &Issued) -> Served {
    let mut command = home.command();
    command.arg("serve").envs(issued.shown());
    command.env("COMMONHOLD_PEER_LISTEN", "wss://127.0.0.1:0/").env("COMMONHOLD_LOG_LEVEL", "debug");
    for key in ["HTTP", "GATEWAY", "DISCOVERY"] {
        command.env(format!("COMMONHOLD_{key}_LISTEN"), "127.0.0.1:0");
    }
    command.env("COMMONHOLD_HTTP_OPEN", "*:read").env("COMMONHOLD_DISCOVERY_TRACKER", "true");
    home.serve_as(command)
}

fn at(served: &Served, what: &str) -> SocketAddr {
    served.facts[what][0].as_str().unwrap().parse().unwrap()
}

/// What curl says, which trusts the authorities of this file and no others.
fn curl(root: &Path, arguments: &[&str]) -> Said {
    let mut command = Command::new("curl");
    // No file of the person's, and none of the system's roots.
    command.args(["-q", "-sS", "--noproxy", "*", "--max-time", "60", "--capath", "/nowhere", "--cacert"]).arg(root);
    finish(command.args(arguments))
}

#[test]
fn all_that_strangers_reach_is_inside_tls() {
    let (home, issued) = (Home::new(), Issued::new());
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    let served = origin(&home, &issued);
    assert_eq!(served.facts["tls"], true);
    let root = issued.file("root.pem");

    let url = format!("https://{}/v1/spaces", at(&served, "http"));
    let answered = curl(&root, &["-w", "\n%{http_version} %{http_code}", &url]);
    assert!(answered.text().contains(&space) && answered.text().ends_with("\n1.1 200"), "{}", answered.out);
    let localhost = format!("https://localhost:{}/v1/spaces", at(&served, "http").port());
    assert!(curl(&root, &["-4", &localhost]).text().contains(&space));
    assert_eq!(curl(&Issued::new().file("root.pem"), &[&url]).code, 60, "another authority");
    let announce = format!("https://{}/v1/announce", at(&served, "announces"));
    assert!(curl(&root, &["-d", "{}", &announce]).text().contains("tracker-malformed"));

    // Without TLS nobody is answered.
    for what in ["http", "gateway", "announces"] {
        let mut plain = TcpStream::connect(at(&served, what)).unwrap();
        plain.set_read_timeout(Some(PATIENCE)).unwrap();
        plain.write_all(b"GET /v1/spaces HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        // The bytes that were not read may reset the connection.
        let _ = plain.read_to_end(&mut answer);
        assert!(!answer.windows(4).any(|bytes| bytes == b"HTTP"), "{what}");
    }

    let gateway = at(&served, "gateway");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(gateway).await.unwrap();
        let stream = Roots::with_file(&root).connect("127.0.0.1", stream).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(format!("wss://{gateway}/"), stream).await.unwrap();
        let mut join = Vec::new();
        let mut cbor = minicbor::Encoder::new(&mut join);
        cbor.map(4).unwrap().str("type").unwrap().str("join").unwrap().str("senderId").unwrap().str("me").unwrap();
        cbor.str("peerMetadata").unwrap().map(0).unwrap();
        cbor.str("supportedProtocolVersions").unwrap().array(1).unwrap().str("1").unwrap();
        socket.send(Message::Binary(join.into())).await.unwrap();
        loop {
            // Pings come at once.
            if let Message::Binary(answer) = socket.next().await.unwrap().unwrap() {
                return answer;
            }
        }
    });
    assert!(answer.windows(4).any(|bytes| bytes == b"peer"), "{answer:?}");

    let (ended, _, log) = served.stop();
    assert!(ended.success());
    assert!(log.lines().any(|line| line.contains("DEBUG") && line.contains("what came is not TLS")), "{log}");
}

#[test]
fn peers_sync_through_tls_with_whom_they_trust_and_tell_whom_they_do_not() {
    let (home, friend, stranger, issued) = (Home::new(), Home::new(), Home::new(), Issued::new());
    home.run(&["space", "new", "--writers", "anyone"]).text();
    home.run(&["doc", "new", "--name", "note"]).text();
    let served = origin(&home, &issued);
    assert!(served.facts["addresses"][0].as_str().unwrap().starts_with("wss://127.0.0.1:"));

    let join = |home: &Home, trusts: &Issued, wait: &str| {
        let (name, root) = trusts.trusted();
        finish(home.command().args(["join", served.invite(), "--wait", wait]).env(name, root))
    };
    join(&friend, &issued, "60").text();
    let (name, root) = issued.trusted();
    finish(friend.command().args(["set", "note", "here", "true", "--sync=60"]).env(name, root)).text();
    assert_eq!(home.run(&["get", "note", "here"]).text(), "true");

    let refused = join(&stranger, &Issued::new(), "1");
    refused.fails(6, &[]);
    for words in ["WARN", "the certificate that 127.0.0.1 shows is not trusted", "UnknownIssuer", "add the authority"] {
        assert!(refused.err.contains(words), "no {words:?} in {}", refused.err);
    }
}

#[test]
fn two_peers_that_know_only_a_tracker_inside_tls_find_each_other() {
    let (middle, one, other, issued) = (Home::new(), Home::new(), Home::new(), Issued::new());
    let mut command = middle.command();
    command.arg("serve").envs(issued.shown());
    command.env("COMMONHOLD_DISCOVERY_TRACKER", "true").env("COMMONHOLD_DISCOVERY_LISTEN", "127.0.0.1:0");
    let tracker = middle.serve_as(command);
    one.run(&["space", "new", "--writers", "anyone"]).text();
    one.run(&["doc", "new", "--name", "note"]).text();
    other.run(&["join", one.run(&["space", "invite"]).text(), "--wait", "0"]).text();
    let serve = |home: &Home| {
        let (name, root) = issued.trusted();
        let mut command = home.command();
        command.arg("serve").env(name, root);
        command.env("COMMONHOLD_DISCOVERY_TRACKERS", format!("https://{}", at(&tracker, "announces")));
        home.serve_as(command)
    };
    let (_first, _second) = (serve(&one), serve(&other));
    until("the document at the other peer", || {
        (other.run(&["doc", "ls", "--json"]).json()[0]["name"] == "note").then_some(())
    });
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not_taken() {
    let (home, issued) = (Home::new(), Issued::new());
    home.run(&["space", "new"]).text();
    let manager = UnixDatagram::bind(home.path("manager")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = home.command();
    command.arg("serve").envs(issued.shown()).env("NOTIFY_SOCKET", home.path("manager"));
    command.env("COMMONHOLD_HTTP_LISTEN", "127.0.0.1:0").env("COMMONHOLD_LOG_LEVEL", "info");
    let served = home.serve_as(command);
    let url = format!("https://{}/livez", at(&served, "http"));
    let trusts = |root: &Path| curl(root, &[&url]).code == 0;
    let before = home.path("before.pem");
    std::fs::copy(issued.file("root.pem"), &before).unwrap();
    curl(&before, &[&url]).text();

    issued.renew();
    until("the new certificate", || trusts(&issued.file("root.pem")).then_some(()));
    assert!(!trusts(&before));

    issued.write_key("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600);
    served.signal(Signal::HUP);
    let mut message = [0; 256];
    // Ready after the start, then reloading; what it read before that is judged by then.
    for _ in 0..2 {
        manager.recv(&mut message).unwrap();
    }
    assert!(trusts(&issued.file("root.pem")));
    let (ended, _, log) = served.stop();
    assert!(ended.success(), "{log}");
    let wrong = log.lines().find(|line| line.contains("ERROR") && line.contains("was not taken")).expect(&log);
    assert!(wrong.contains("key.pem") && wrong.contains("shown on"), "{wrong}");
}

#[test]
fn handshakes_that_do_not_go_on_hold_up_nobody_and_leave_room_for_other_addresses() {
    let (home, issued) = (Home::new(), Issued::new());
    home.run(&["space", "new"]).text();
    let served = origin(&home, &issued);
    let url = format!("https://{}/livez", at(&served, "http"));
    let said = |more: &[&str]| curl(&issued.file("root.pem"), &[&[&*url], more].concat());
    let answered = |more: &[&str]| said(more).code == 0;
    let mut slow: Vec<_> = (0..63).map(|_| TcpStream::connect(at(&served, "http")).unwrap()).collect();
    said(&[]).text();
    // As many as may be under way from one block of addresses. Who comes now is hung up on, and others are not.
    until("a refusal", || {
        slow.push(TcpStream::connect(at(&served, "http")).unwrap());
        (!answered(&[])).then_some(())
    });
    said(&["--interface", "127.0.1.1"]).text();
    slow.clear();
    until("an answer", || answered(&[]).then_some(()));
}

#[test]
fn a_configuration_that_cannot_do_tls_says_what_is_wrong() {
    let (home, issued) = (Home::new(), Issued::new());
    let check = |change: &dyn Fn(&mut Command)| {
        let mut command = home.command();
        command.args(["config", "check"]).envs(issued.shown());
        change(&mut command);
        finish(&mut command)
    };
    check(&|_| ()).text();
    let without = |name: &'static str| {
        move |command: &mut Command| {
            command.env_remove(name);
        }
    };
    check(&without("COMMONHOLD_TLS_KEY")).fails(2, &["tls.certificate is set, and tls.key is not"]);
    check(&without("COMMONHOLD_TLS_CERTIFICATE")).fails(2, &["tls.key is set", "set tls.certificate too"]);
    let set = |name: &'static str, value: &str| {
        let value = value.to_owned();
        move |command: &mut Command| {
            command.env(name, &value);
        }
    };
    let neither = |command: &mut Command| {
        command.env_remove("COMMONHOLD_TLS_KEY").env_remove("COMMONHOLD_TLS_CERTIFICATE");
        command.env("COMMONHOLD_PEER_LISTEN", "wss://127.0.0.1:0/");
    };
    check(&neither).fails(2, &["peer.listen has wss://127.0.0.1:0/", "set tls.certificate and tls.key"]);
    check(&set("COMMONHOLD_TLS_KEY", "/nowhere/key.pem")).fails(2, &["cannot read /nowhere/key.pem", "check the path"]);
    let chain = issued.file("chain.pem").display().to_string();
    check(&set("COMMONHOLD_TLS_KEY", &chain)).fails(2, &["chain.pem holds no private key"]);
    check(&set("COMMONHOLD_TLS_ROOTS", &issued.file("key.pem").display().to_string()))
        .fails(2, &["key.pem holds no certificate"]);
    let other = Issued::new();
    check(&set("COMMONHOLD_TLS_KEY", &other.file("key.pem").display().to_string()))
        .fails(2, &["is not that of the first certificate in", "chain.pem"]);
    // The process that would serve says the same.
    finish(home.command().args(["serve"]).envs(issued.shown()).env("COMMONHOLD_TLS_KEY", &chain))
        .fails(2, &["holds no private key"]);

    // A key that everybody reads is told.
    let key = std::fs::read_to_string(issued.file("key.pem")).unwrap();
    issued.write_key(&key, 0o644);
    let told = check(&|_| ());
    assert!(told.text().starts_with("ok") && told.err.contains("everybody on this machine can read"), "{}", told.err);
    assert!(home.run(&["config", "print"]).text().contains("[tls]"));
}
