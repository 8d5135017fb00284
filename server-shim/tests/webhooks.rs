//! Webhooks with real processes over loopback: what the owner of a token does, and what a receiver gets.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver as Channel};
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{Home, PATIENCE, Served, until};
use hmac::{Hmac, KeyInit, Mac};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value as Json, json};
use sha2::Sha256;
use ureq::Agent;
use ureq::http::{Method, Request};

/// What a receiver got: the head, in lower case, and the body as it came.
struct Got {
    head: Vec<String>,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let found = self.head.iter().find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name));
        found.unwrap_or_else(|| panic!("no {name}")).1
    }

    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Answers every request with a status, which can be changed. Ends with the process of the tests.
struct Receiver {
    url: String,
    status: Arc<AtomicU16>,
    got: Channel<Got>,
}

/// Reads a request and answers it; none if it does not come whole.
fn answer(stream: impl Read + Write, status: u16) -> Option<Got> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.trim().split_once(": ").unwrap_or((line.trim(), ""));
        head.push(format!("{}: {value}", name.to_lowercase()));
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    write!(reader.get_mut(), "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok()?;
    reader.get_mut().flush().ok()?;
    Some(Got { head, body: String::from_utf8(body).ok()? })
}

impl Receiver {
    fn new(status: u16) -> Receiver {
        Receiver::with(status, None)
    }

    /// Over TLS, and its certificate, which nobody vouches for.
    fn secure(status: u16) -> (Receiver, String) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        (Receiver::with(status, Some(Arc::new(config))), cert.pem())
    }

    fn with(status: u16, tls: Option<Arc<ServerConfig>>) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let url = match tls {
            Some(_) => format!("https://localhost:{}/hook", at.port()),
            None => format!("http://{at}/hook"),
        };
        let (status, (sender, got)) = (Arc::new(AtomicU16::new(status)), mpsc::channel());
        let answers = status.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, status) = (stream.unwrap(), answers.load(Ordering::Relaxed));
                let got = match &tls {
                    Some(config) => {
                        let server = ServerConnection::new(config.clone()).unwrap();
                        answer(StreamOwned::new(server, stream), status)
                    }
                    None => answer(stream, status),
                };
                if let Some(got) = got
                    && sender.send(got).is_err()
                {
                    return;
                }
            }
        });
        Receiver { url, status, got }
    }

    #[track_caller]
    fn next(&self) -> Got {
        self.got.recv_timeout(PATIENCE).expect("a delivery")
    }
}

/// A peer with a space, in which everybody may write over HTTP, and that sends webhooks to the loopback.
struct Site {
    home: Home,
    served: Served,
    space: String,
}

/// Folders with a space in them, and tokens for it of these names and rights.
fn prepared<const N: usize>(tokens: [(&str, &str); N]) -> (Home, String, [String; N]) {
    let home = Home::in_memory();
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    let tokens = tokens
        .map(|(name, right)| home.run(&["token", "new", name, "--space", &space, "--right", right]).text().to_owned());
    (home, space, tokens)
}

impl Site {
    fn of(home: Home, space: String, enabled: bool) -> Site {
        let mut command = home.command();
        let roots = home.path("roots.pem");
        if roots.exists() {
            command.env("SSL_CERT_FILE", roots);
        }
        command
            .arg("serve")
            .env("COMMONHOLD_HTTP_LISTEN", "127.0.0.1:0")
            .env("COMMONHOLD_ADMIN_LISTEN", "127.0.0.1:0")
            .env("COMMONHOLD_HTTP_OPEN", "*:write")
            .env("COMMONHOLD_WEBHOOKS_ENABLED", enabled.to_string())
            .env("COMMONHOLD_WEBHOOKS_ALLOW_NETWORKS", "127.0.0.0/8");
        let served = home.serve_as(command);
        Site { home, served, space }
    }

    fn ask(&self, method: &str, path: &str, token: &str, body: &Json) -> (u16, Json, ureq::http::HeaderMap) {
        let url = format!("http://{}/v1/spaces/{}{path}", self.served.facts["http"][0].as_str().unwrap(), self.space);
        let mut request = Request::builder().method(method.parse::<Method>().unwrap()).uri(url);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.header("content-type", "application/json").body(body).unwrap();
        let agent: Agent = Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().into();
        let mut answer = agent.run(request).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or_default(), answer.headers().clone())
    }

    /// The status and the type of the problem.
    fn refused(&self, method: &str, path: &str, token: &str, body: &Json) -> (u16, String) {
        let (status, problem, _) = self.ask(method, path, token, body);
        let kind = problem["type"].as_str().unwrap_or_default();
        (status, kind.strip_prefix("urn:commonhold:problem:").unwrap_or_default().to_owned())
    }

    fn document(&self, name: &str, kind: &str) -> String {
        let (status, _, headers) =
            self.ask("POST", "/docs", "", &json!({"name": name, "kind": kind, "content": {"n": 1}}));
        assert_eq!(status, 201);
        headers["location"].to_str().unwrap().rsplit_once('/').unwrap().1.to_owned()
    }

    /// A hook; its path, and the answer.
    #[track_caller]
    fn hook(&self, token: &str, body: &Json) -> (String, Json) {
        let (status, made, headers) = self.ask("POST", "/webhooks", token, body);
        assert_eq!(status, 201, "{made}");
        let location = headers["location"].to_str().unwrap();
        (location.strip_prefix(&format!("/v1/spaces/{}", self.space)).unwrap().to_owned(), made)
    }
}

/// As a receiver verifies it.
#[track_caller]
fn verify(secret: &str, got: &Got) {
    let secret = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
    mac.update(format!("{}.{}.{}", got.header("webhook-id"), got.header("webhook-timestamp"), got.body).as_bytes());
    let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
    assert!(got.header("webhook-signature").split(' ').any(|one| one == expected));
}

#[test]
fn webhooks_are_for_tokens_that_may_write_and_seen_by_nobody_else() {
    let (home, space, [alice, bob, carol]) = prepared([("alice", "write"), ("bob", "write"), ("carol", "read")]);
    let site = Site::of(home, space, true);
    let receiver = Receiver::new(204);
    let url = json!({ "url": receiver.url });
    let refused = |token: &str, body: &Json| site.refused("POST", "/webhooks", token, body);
    assert_eq!(refused("", &url), (401, "no-token".into()), "what is open to all makes no webhooks");
    assert_eq!(refused(&carol, &url), (403, "not-allowed".into()));
    for (body, status, kind) in [
        (json!({}), 422, "unprocessable"),
        (json!({ "url": "http://10.0.0.1/" }), 422, "unprocessable"),
        (json!({ "url": "http://[::ffff:169.254.169.254]/" }), 422, "unprocessable"),
        (json!({ "url": "ftp://example.org/" }), 422, "unprocessable"),
        (json!({ "url": receiver.url, "docs": ["x"] }), 422, "unprocessable"),
        (json!({ "url": receiver.url, "kinds": vec!["k"; 17] }), 413, "too-large"),
        (json!({ "url": receiver.url, "since": "x" }), 400, "bad-request"),
        (json!({ "url": receiver.url, "since": format!("1-{}", "0".repeat(32)) }), 410, "gone"),
        (json!({ "url": receiver.url, "nothing": 1 }), 400, "bad-request"),
    ] {
        assert_eq!(refused(&alice, &body), (status, kind.into()), "{body}");
    }

    let (path, made) =
        site.hook(&alice, &json!({ "url": receiver.url, "kinds": ["list"], "prefix": "shop", "include_docs": true }));
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert_eq!((&made["state"], &made["enabled"], &made["public_key"]), (&json!("active"), &json!(true), &Json::Null));
    assert!(site.ask("GET", &path, &alice, &Json::Null).1.get("secret").is_none(), "shown once");
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("POST", format!("{path}/secret")),
        ("POST", format!("{path}/test")),
    ] {
        assert_eq!(site.refused(method, &path, &bob, &Json::Null), (404, "not-found".into()));
    }
    assert_eq!(site.ask("GET", "/webhooks", &bob, &Json::Null).1, json!({ "webhooks": [] }));
    assert_eq!(site.ask("GET", "/webhooks", &alice, &Json::Null).1["webhooks"][0]["id"], made["id"]);

    // A test, then a change that it wants, among others.
    assert_eq!(site.ask("POST", &format!("{path}/test"), &alice, &Json::Null).1["status"], 204);
    assert_eq!(receiver.next().json()["type"], "webhook.test");
    site.document("work", "list");
    site.document("shopping", "note");
    let doc = site.document("shopping", "list");
    let mut got = receiver.next();
    while got.json()["data"]["document"].is_null() || got.json()["data"]["document"] == json!({}) {
        got = receiver.next();
    }
    verify(&secret, &got);
    assert_eq!((&got.json()["data"]["doc"], &got.json()["data"]["document"]), (&json!(doc), &json!({ "n": 1 })));
    assert_eq!(got.header("content-type"), "application/json");
    let told = until("a delivery that is told of", || {
        let told = site.ask("GET", &format!("{path}/deliveries?state=delivered&limit=1"), &alice, &Json::Null).1;
        Some(told["deliveries"][0].clone()).filter(|told| told["id"] == got.header("webhook-id"))
    });
    assert_eq!((&told["status"], &told["attempts"], &told["doc"]), (&json!(204), &json!(1), &json!(doc)));
    let again =
        site.ask("POST", &format!("{path}/deliveries/{}/redeliver", got.header("webhook-id")), &alice, &Json::Null);
    assert_eq!((again.0, receiver.next().header("webhook-id")), (202, got.header("webhook-id")));
    let nothing = format!("{path}/deliveries/evt_{}/redeliver", "0".repeat(32));
    assert_eq!(site.refused("POST", &nothing, &alice, &Json::Null), (404, "not-found".into()));

    // Both keys sign for a while.
    let rotated = site.ask("POST", &format!("{path}/secret"), &alice, &Json::Null).1;
    let new = rotated["secret"].as_str().unwrap().to_owned();
    assert_ne!(new, secret);
    site.ask("POST", &format!("{path}/test"), &alice, &Json::Null);
    let got = receiver.next();
    verify(&secret, &got);
    verify(&new, &got);

    let patched = site.ask("PATCH", &path, &alice, &json!({ "enabled": false, "description": "off" }));
    assert_eq!((&patched.1["state"], &patched.1["reason"]), (&json!("off"), &json!("its owner switched it off")));
    assert_eq!(site.refused("PATCH", &path, &alice, &json!({ "signature": "ed25519" })), (422, "unprocessable".into()));
    let (_, signed) = site.hook(&alice, &json!({ "url": receiver.url, "signature": "ed25519" }));
    assert!(signed["public_key"].as_str().unwrap().starts_with("whpk_") && signed["secret"].is_null());

    // The operator sees them, and none of their secrets.
    let admin = format!("http://{}", site.served.facts["admin"][0].as_str().unwrap());
    let read = |path: &str| ureq::get(format!("{admin}{path}")).call().unwrap().body_mut().read_to_string().unwrap();
    let listed = read("/admin/webhooks");
    assert!(
        listed.contains("\"token\":\"alice\"") && !listed.contains("whsec_") && !listed.contains("/hook"),
        "{listed}"
    );
    let metrics = until("metrics", || {
        Some(read("/metrics")).filter(|text| text.contains("commonhold_webhooks{state=\"off\"} 1\n"))
    });
    assert!(metrics.contains("commonhold_webhook_attempts_total{outcome=\"delivered\"}"));

    assert_eq!(site.ask("DELETE", &path, &alice, &Json::Null).0, 204);
    assert_eq!(site.refused("GET", &path, &alice, &Json::Null), (404, "not-found".into()));
    let (status, _, log) = site.served.stop();
    assert!(status.success() && !log.contains("whsec_"), "{log}");
    let site = Site::of(site.home, site.space, false);
    assert_eq!(site.refused("GET", "/webhooks", &alice, &Json::Null), (403, "not-allowed".into()));
}

#[test]
fn a_receiver_over_tls_is_told_if_the_system_trusts_its_certificate() {
    let ((trusted, certificate), (stranger, _)) = (Receiver::secure(200), Receiver::secure(200));
    let (home, space, [alice]) = prepared([("alice", "write")]);
    std::fs::write(home.path("roots.pem"), certificate).unwrap();
    let site = Site::of(home, space, true);
    let tested = |receiver: &Receiver| {
        let (path, _) = site.hook(&alice, &json!({ "url": receiver.url }));
        site.ask("POST", &format!("{path}/test"), &alice, &Json::Null).1
    };
    let told = tested(&trusted);
    assert_eq!((&told["delivered"], &told["status"]), (&json!(true), &json!(200)), "{told}");
    assert_eq!(trusted.next().json()["type"], "webhook.test");
    let told = tested(&stranger);
    assert!(told["status"].is_null() && told["error"].as_str().unwrap().contains("certificate"), "{told}");
    assert!(stranger.got.try_recv().is_err());
}

#[test]
fn a_peer_that_is_killed_goes_on_with_what_was_not_taken() {
    let (home, space, [alice]) = prepared([("alice", "write")]);
    let site = Site::of(home, space, true);
    let receiver = Receiver::new(500);
    let (path, _) = site.hook(&alice, &json!({ "url": receiver.url }));
    let doc = site.document("a", "");
    until("an event that waits", || {
        let hook = site.ask("GET", &path, &alice, &Json::Null).1;
        Some(()).filter(|()| hook["waiting"] == 1 && hook["state"] == "failing")
    });
    // Made and filled may have been two events, of which the newer waits.
    let waits = site.ask("GET", &format!("{path}/deliveries?state=waiting"), &alice, &Json::Null).1;
    let Site { home, served, space } = site;
    drop(served);
    while receiver.got.try_recv().is_ok() {}
    receiver.status.store(200, Ordering::Relaxed);
    let site = Site::of(home, space, true);
    let later = site.document("b", "");
    site.ask("PATCH", &path, &alice, &json!({ "enabled": true }));
    let mut ids = Vec::new();
    let mut docs = Vec::new();
    while !(docs.contains(&doc) && docs.contains(&later)) {
        let got = receiver.next();
        ids.push(got.header("webhook-id").to_owned());
        docs.push(got.json()["data"]["doc"].as_str().unwrap().to_owned());
    }
    let waited = waits["deliveries"][0]["id"].as_str().unwrap();
    assert!(ids.iter().any(|id| id == waited), "the same event, under the same id");
    // Revoked, it sends nothing any more; whoever holds the token is nobody.
    site.home.run(&["token", "revoke", "alice"]).text();
    until("the token to be gone", || Some(()).filter(|()| site.ask("GET", &path, &alice, &Json::Null).0 == 401));
    let admin = format!("http://{}/admin/webhooks", site.served.facts["admin"][0].as_str().unwrap());
    let listed: Json = ureq::get(admin).call().unwrap().body_mut().read_json().unwrap();
    assert_eq!(listed["webhooks"][0]["token_valid"], false);
    assert!(site.served.stop().0.success());
}
