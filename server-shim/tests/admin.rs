//! What operators see: metrics, JSON and the page, with real processes over loopback.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Home, Served, until};
use serde_json::Value as Json;

fn at(served: &Served) -> String {
    served.facts["admin"][0].as_str().unwrap().to_owned()
}

/// Status, head and body of one request, written as it stands.
fn ask(at: &str, method: &str, path: &str, headers: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn get(at: &str, path: &str) -> Json {
    let agent: ureq::Agent = ureq::Agent::new_with_defaults();
    agent.get(format!("http://{at}{path}")).call().unwrap().body_mut().read_json().unwrap()
}

fn metrics(at: &str) -> String {
    let agent: ureq::Agent = ureq::Agent::new_with_defaults();
    let mut answer = agent.get(format!("http://{at}/metrics")).call().unwrap();
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    answer.body_mut().read_to_string().unwrap()
}

fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[test]
fn an_operator_sees_the_peer_and_nobody_else_does() {
    let home = Home::new();
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    home.run(&["doc", "new", "--name", "<script>alert(1)</script>"]).text();
    home.run(&["set", "<script>alert(1)</script>", "a", "1"]).text();
    let mut command = home.command();
    command.arg("serve").env("COMMONHOLD_ADMIN_LISTEN", "127.0.0.1:0").env("COMMONHOLD_HTTP_LISTEN", "127.0.0.1:0");
    let served = home.serve_as(command);
    let at = at(&served);

    // A peer comes, and is seen to be level; requests are counted.
    let other = Home::new();
    other.run(&["join", served.invite()]).text();
    let at_other = other.serve(&["serve"]);
    let level = |status: &Json| status["peers"] == 1 && status["behind"] == 0 && status["spaces"][0]["peers"] == 1;
    let status = until("a level peer", || Some(get(&at, "/admin/status")).filter(level));
    assert_eq!((&status["documents"], &status["spaces"][0]["id"]), (&Json::from(1), &Json::from(space.as_str())));
    assert!(status["store_bytes"].as_u64().unwrap() > 0 && status["disk_free_bytes"].as_u64().unwrap() > 0);
    let programs = format!("http://{}", served.facts["http"][0].as_str().unwrap());
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    assert_eq!(agent.get(format!("{programs}/livez")).call().unwrap().status(), 204);
    assert_eq!(agent.get(format!("{programs}/v1/spaces/{space}/docs")).call().unwrap().status(), 401);
    let text = until("requests that are counted", || {
        Some(metrics(&at)).filter(|text| value(text, "commonhold_http_requests_total{status=\"4xx\"}") == Some(1.0))
    });
    assert_eq!(value(&text, "commonhold_http_requests_total{status=\"2xx\"}"), Some(1.0));
    assert_eq!(value(&text, "commonhold_http_request_seconds_count"), Some(2.0));
    assert_eq!(value(&text, "commonhold_peers_connected"), Some(1.0));
    assert_eq!(value(&text, &format!("commonhold_space_peers_behind{{space=\"{space}\"}}")), Some(0.0));
    assert!(value(&text, "commonhold_network_sent_bytes_total").unwrap() > 0.0);
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("commonhold_") && value.parse::<f64>().is_ok(), "{line}");
    }

    // What the dashboard plots is there.
    let dashboard = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/dist/grafana.json")).unwrap();
    let dashboard: Json = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let asked: BTreeSet<String> = panels
        .flat_map(|target| {
            let expression = target["expr"].as_str().unwrap();
            let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            words.filter(|word| word.starts_with("commonhold_")).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert!(asked.len() > 12);
    for name in asked {
        let there = |line: &str| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with([' ', '{']));
        assert!(text.lines().any(there), "the dashboard plots {name}, which there is not");
    }

    // The rest of the JSON.
    assert!(!get(&at, "/admin/history")["samples"].as_array().unwrap().is_empty());
    assert_eq!(get(&at, "/admin/peers")[0]["connected"], true);
    let documents = get(&at, &format!("/admin/spaces/{space}/documents"));
    assert_eq!(documents["documents"][0]["name"], "<script>alert(1)</script>");

    // The page runs its own script and no other, and nothing of the network.
    let (status, head, page) = ask(&at, "GET", "/admin", "host: localhost\r\n");
    let nonce = head.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    assert_eq!((status, nonce.len()), (200, 32));
    assert!(page.contains(&format!("<script nonce=\"{nonce}\">")) && !page.contains("NONCE"));
    assert!(head.contains("default-src 'none'") && head.contains("frame-ancestors 'none'"));
    let without_namespace = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!without_namespace.contains("http:") && !without_namespace.contains("https:"));
    assert_ne!(ask(&at, "GET", "/admin", "host: localhost\r\n").2, page, "the number is drawn for each answer");

    // Not for names that lead here, not for other pages, and nothing to change.
    let port = at.rsplit_once(':').unwrap().1;
    let refused = |method: &str, headers: String| ask(&at, method, "/admin/status", &headers);
    for host in ["evil.example", "127.0.0.1.evil.example", "0.0.0.0"] {
        let (status, head, body) = refused("GET", format!("host: {host}:{port}\r\n"));
        assert!(status == 421 && head.contains("application/problem+json") && !body.contains("store_bytes"), "{host}");
    }
    assert_eq!(refused("GET", format!("host: {at}\r\norigin: http://evil.example\r\n")).0, 403);
    assert_eq!(refused("GET", format!("host: {at}\r\nsec-fetch-site: cross-site\r\n")).0, 403);
    let (status, head, _) = refused("POST", format!("host: {at}\r\ncontent-length: 0\r\n"));
    assert!(status == 405 && head.contains("allow: get, head"));
    assert_eq!(ask(&at, "GET", "/nothing", "host: localhost\r\n").0, 404);
    let head = ask(&at, "GET", "/admin/status", "host: localhost\r\n").1;
    assert!(!head.contains("access-control") && head.contains("cache-control: no-store"));

    for served in [at_other, served] {
        let (status, _, log) = served.stop();
        assert!(status.success(), "{log}");
    }
}

#[test]
fn only_the_loopback_is_taken() {
    let home = Home::new();
    let mut command = home.command();
    command.arg("serve").env("COMMONHOLD_ADMIN_LISTEN", "0.0.0.0:0");
    common::finish(&mut command).fails(2, &["admin.listen", "loopback"]);
}
