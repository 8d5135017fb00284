//! The drill with twelve peers: what a network of peers must outlive, it does.

mod common;

use std::process::Command;

use serde_json::Value as Json;

#[test]
fn twelve_peers_outlive_their_origin_a_partition_and_half_of_themselves() {
    let temp = tempfile::tempdir().unwrap();
    let report = temp.path().join("report");
    let folders = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_commonhold"));
    command.args(["drill", "--peers", "12", "--seed", "4", "--report"]).arg(&report).env("TMPDIR", folders.path());
    let said = common::finish(&mut command);
    let told = std::fs::read_to_string(report.join("report.json")).unwrap_or_default();
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let told: Json = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["passed"], &told["edits_lost"], &told["processes"]), (&true.into(), &0.into(), &15.into()));
    assert_eq!(told["edits"], 6 * 24, "each of six phases has its edits");
    let members = told["members"].as_array().unwrap();
    let held =
        members.iter().filter(|member| member["died_s"].is_null()).map(|member| member["held"].as_u64().unwrap());
    let held: Vec<_> = held.collect();
    assert!(held.len() == 8 && held.iter().all(|held| *held == 144), "{held:?}");
    let new_origin = members.last().unwrap();
    assert!(new_origin["name"] == "new origin" && new_origin["received_bytes"].as_u64().unwrap() > 0);
    let svg = std::fs::read_to_string(report.join("drill.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("://").count(), 1, "only the name of the SVG namespace: nothing is loaded from elsewhere");
    assert_eq!(std::fs::read_dir(folders.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn without_namespaces_the_drill_is_on_the_loopback_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_commonhold"));
    command.args(["drill", "--peers", "4", "--seed", "4", "--loopback", "--json", "--report"]).arg(temp.path());
    let told = common::finish(&mut command).json();
    assert_eq!((&told["passed"], &told["edits_lost"]), (&true.into(), &0.into()));
    assert_eq!(told["network"]["because"], "that was asked for");
}
