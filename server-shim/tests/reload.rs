//! The configuration of a running peer, changed: what is taken at once, what is told to need a restart, and what a wrong file changes.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;

use common::{Home, PATIENCE, until};
use rustix::process::Signal;

fn config(open: &str, more: &str) -> String {
    format!("[peer]\nlisten = ['ws://127.0.0.1:0/']\n[http]\nlisten = ['127.0.0.1:0']\nopen = [{open}]\n{more}")
}

/// Written beside and renamed, as people's editors do.
fn write(home: &Home, text: &str) {
    fs::write(home.path("new.toml"), text).unwrap();
    fs::rename(home.path("new.toml"), home.path("config.toml")).unwrap();
}

/// Waits until the service manager, which this is, was told so.
fn told(manager: &UnixDatagram, what: &str) {
    let mut message = [0; 256];
    loop {
        let n = manager.recv(&mut message).unwrap();
        if std::str::from_utf8(&message[..n]).unwrap().contains(what) {
            return;
        }
    }
}

#[test]
fn a_running_peer_takes_what_it_can_and_tells_the_rest() {
    let other = Home::new();
    let at_other = other.serve(&["serve"]);
    let address = at_other.facts["addresses"][0].as_str().unwrap().to_owned();

    let home = Home::new();
    let space = home.run(&["space", "new"]).text().to_owned();
    write(&home, &config("", ""));
    let manager = UnixDatagram::bind(home.path("manager")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = home.command();
    command.arg("serve").env("NOTIFY_SOCKET", home.path("manager"));
    let served = home.serve_as(command);
    told(&manager, "READY=1");
    let url = format!("http://{}/v1/spaces/{space}/docs", served.facts["http"][0].as_str().unwrap());
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let status = || agent.get(&url).call().unwrap().status().as_u16();
    assert_eq!(status(), 401);

    // By the signal.
    write(&home, &config("'*:read'", ""));
    served.signal(Signal::HUP);
    until("an open space", || (status() == 200).then_some(()));
    told(&manager, "RELOADING=1");
    told(&manager, "READY=1");

    // By the file alone; a file that is wrong changes nothing, and the next that is right does.
    write(&home, &config("", "listn = 3\n"));
    told(&manager, "RELOADING=1");
    told(&manager, "READY=1");
    assert_eq!(status(), 200);
    write(&home, &config("", "[log]\nlevel = 'info'\n[store]\nflush_ms = 51\n"));
    until("a closed space", || (status() == 401).then_some(()));

    // Through a link that is switched.
    let connected =
        || home.run(&["peers", "--json"]).json().to_string().contains(at_other.facts["peer"].as_str().unwrap());
    assert!(!connected());
    let text = config("", "[log]\nlevel = 'info'\n[store]\nflush_ms = 51\n");
    let text = text.replace("[http]", &format!("connect = ['{address}']\n[http]"));
    fs::write(home.path("linked.toml"), text).unwrap();
    symlink(home.path("linked.toml"), home.path("link")).unwrap();
    fs::rename(home.path("link"), home.path("config.toml")).unwrap();
    until("a connection", || connected().then_some(()));

    let (ended, _, log) = served.stop();
    told(&manager, "STOPPING=1");
    assert!(ended.success(), "{log}");
    let logged = |words: &[&str]| log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(logged(&["config.toml:", "was not taken"]), "{log}");
    assert!(logged(&["WARN", "store.flush_ms", "started again"]), "{log}");
    assert!(logged(&["INFO", "peer.connect"]), "{log}");
}
