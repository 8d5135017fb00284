//! The demo is a promise to a person with a minute to spare.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn the_demo_passes_and_leaves_nothing_behind() {
    let temp = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_commonhold"));
    let said = common::finish(command.arg("demo").env("TMPDIR", temp.path()));
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(said.out.matches("   ✓ ").count() >= 8 && said.out.contains("All 8 steps worked"), "{}", said.out);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}
