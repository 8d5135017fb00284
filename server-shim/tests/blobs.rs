//! Blobs with real processes over loopback: the verbs, and a fetch that is killed with SIGKILL.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Stdio};

use common::Home;
use serde_json::Value as Json;

/// A file of bytes that no compression helps with.
fn file(home: &Home, mib: usize) -> PathBuf {
    let mut bytes = vec![0; mib << 20];
    blake3::Hasher::new().update(b"content").finalize_xof().fill(&mut bytes);
    let path = home.path("content");
    fs::write(&path, bytes).unwrap();
    path
}

fn ends_with(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let spaces = fs::read_dir(folder.join("blobs")).unwrap().map(|space| space.unwrap().path());
    let files = spaces.flat_map(|space| fs::read_dir(space).unwrap()).map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|of| of == ending)).collect()
}

/// The bytes that had come when a fetch next said so.
fn progress(lines: &mut impl Iterator<Item = String>) -> Option<u64> {
    lines.find_map(|line| serde_json::from_str::<Json>(&line).ok()?["bytes"].as_u64().filter(|bytes| *bytes > 0))
}

fn lines(stderr: ChildStderr) -> impl Iterator<Item = String> {
    BufReader::new(stderr).lines().map_while(|line| line.ok())
}

#[test]
fn a_fetch_that_is_killed_goes_on_with_what_had_come() {
    let (origin, peer) = (Home::new(), Home::new());
    let served = origin.serve(&[]);
    let content = file(&origin, 24);
    let name = origin.run(&["blob", "put", content.to_str().unwrap()]).text().to_owned();
    peer.run(&["join", served.invite()]).text();
    let out = peer.path("out");
    let get = ["blob", "get", &name, "--json", "--out", out.to_str().unwrap()];
    let spawn = || peer.command().args(get).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();

    let mut killed = spawn();
    let mut said = lines(killed.stderr.take().unwrap());
    let mut before = 0;
    while before < 4 << 20 {
        before = progress(&mut said).unwrap();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!((ends_with(&peer.data(), "part").len(), ends_with(&peer.data(), "blob").len()), (1, 0));
    assert!(!out.exists());

    let mut again = spawn();
    let mut said = lines(again.stderr.take().unwrap());
    assert!(progress(&mut said).unwrap() >= before, "what had come is not fetched again");
    said.for_each(drop);
    assert!(again.wait().unwrap().success());
    assert!(fs::read(&out).unwrap() == fs::read(&content).unwrap());
    assert_eq!((ends_with(&peer.data(), "part").len(), ends_with(&peer.data(), "blob").len()), (0, 1));
}

#[test]
fn blobs_are_put_listed_written_out_and_collected() {
    let home = Home::new();
    home.run(&["space", "new"]).text();
    let content = file(&home, 1);
    let put = home.run(&["blob", "put", content.to_str().unwrap(), "--type", "image/png", "--json"]).json();
    let name = put["blob"].as_str().unwrap();
    assert!(name.ends_with("?size=1048576&type=image/png"), "{name}");
    let list = home.run(&["blob", "list", "--json"]).json();
    assert_eq!((list[0]["hash"].clone(), list[0]["bytes"].clone()), (put["hash"].clone(), put["bytes"].clone()));
    for served in [false, true] {
        let _serving = served.then(|| home.serve(&["serve"]));
        let out = home.path("out");
        home.run(&["blob", "get", name, "--out", out.to_str().unwrap()]).text();
        assert!(fs::read(&out).unwrap() == fs::read(&content).unwrap());
        fs::remove_file(&out).unwrap();
        let gone = home.run(&["blob", "gc", "--json"]).json();
        assert_eq!((gone["blobs"].as_u64(), gone["removed"].as_array().map(Vec::len)), (Some(1), Some(0)), "a day");
        home.run(&["blob", "get", "blob:no"]).fails(2, &["not the name of a blob"]);
        home.run(&["blob", "put", "nowhere"]).fails(2, &["nowhere", "a file that can be read"]);
    }
}

#[test]
fn a_budget_ends_a_fetch_with_a_reason_and_what_came_stays() {
    let (origin, peer) = (Home::new(), Home::new());
    let served = origin.serve(&[]);
    let content = file(&origin, 3);
    let name = origin.run(&["blob", "put", content.to_str().unwrap()]).text().to_owned();
    peer.run(&["join", served.invite()]).text();
    let out = peer.path("out");
    let get = ["blob", "get", &name, "--out", out.to_str().unwrap()];
    let metered = [("COMMONHOLD_BUDGET_METERED", "true"), ("COMMONHOLD_BUDGET_METERED_MIB", "1")];
    for _ in 0..2 {
        let ended = peer.command().args(get).envs(metered).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == Some(1) && said.contains("budget.metered_mib"), "{said}");
    }
    let status = peer.command().args(["status", "--json"]).envs(metered).output().unwrap();
    let status: Json = serde_json::from_slice(&status.stdout).unwrap();
    let network = &status["me"]["network"];
    assert!(network["metered_bytes"].as_u64().unwrap() <= 1 << 20, "{network}");
    assert_eq!(network["metered_max"].as_u64(), Some(1 << 20));
    peer.run(&get).text();
    assert!(fs::read(&out).unwrap() == fs::read(&content).unwrap());
    let peers = origin.run(&["peers", "--json"]).json();
    assert!(peers[0]["given"].as_u64() >= Some(3 << 20) && peers[0]["signed"].as_u64() > Some(1 << 20), "{peers}");
}
