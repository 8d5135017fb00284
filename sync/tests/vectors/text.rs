//! The tables of docs/protocol.md say what the code says: messages and their fields, codes, limits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use commonhold_sync::limits::{Limits, Rules};
use commonhold_sync::tracker::TrackerLimits;

use super::wire;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cells of each row of a table, without the marks of code.
fn rows() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(repository().join("docs/protocol.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let cells =
        |row: &str| row.trim_matches('|').split(" | ").map(|cell| cell.replace('`', "").trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// Every source file under a folder of the repository.
fn sources(folder: &str) -> String {
    fn read(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => read(&path, all),
                false => all.push_str(&std::fs::read_to_string(path).unwrap()),
            }
        }
    }
    let mut all = String::new();
    read(&repository().join(folder), &mut all);
    all
}

fn number(cell: &str) -> Option<u64> {
    cell.replace(',', "").parse().ok()
}

#[test]
fn the_text_names_every_message_by_its_number() {
    let name = |message: &dyn std::fmt::Debug| format!("{message:?}").split('(').next().unwrap().to_owned();
    let sent: BTreeSet<(u64, String)> =
        wire::messages().iter().map(|(_, message, _)| (message.to_bytes()[0].into(), name(message))).collect();
    let sent: BTreeSet<_> = sent.into_iter().map(|(tag, name)| (tag & 0x7f, name)).collect();
    let is_message = |cells: &Vec<String>| cells.len() == 4 && sent.iter().any(|(_, name)| *name == cells[1]);
    let told: BTreeSet<(u64, String)> =
        rows().into_iter().filter(is_message).filter_map(|c| Some((number(&c[0])?, c[1].clone()))).collect();
    assert_eq!(told, sent);
}

#[test]
fn the_text_names_every_field_by_its_key() {
    let source = std::fs::read_to_string(repository().join("sync/src/message.rs")).unwrap();
    let (mut owner, mut key, mut made) = ("", None, BTreeSet::new());
    for line in source.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub struct ") {
            owner = name.trim_end_matches(" {");
        } else if let Some(rest) = line.strip_prefix("#[n(").or_else(|| line.strip_prefix("#[cbor(n(")) {
            key = rest.split(')').next().and_then(number);
        } else if let (Some(key), Some(field)) = (key, line.strip_prefix("pub ")) {
            made.insert((owner.to_owned(), key, field.split(':').next().unwrap().to_owned()));
        }
        if line.starts_with("pub ") {
            key = None;
        }
    }
    assert!(made.len() > 50, "the source is read");
    let is_field = |cells: &Vec<String>| cells.len() >= 4 && made.iter().any(|(owner, ..)| *owner == cells[0]);
    let told: BTreeSet<(String, u64, String)> = rows()
        .into_iter()
        .filter(is_field)
        .filter_map(|c| Some((c[0].clone(), number(&c[1])?, c[2].clone())))
        .collect();
    assert_eq!(told, made);
}

/// `S2.ops` and the like, and `channel_failed` and the like.
fn is_code(text: &str) -> bool {
    let is_word =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    match text.split_once('.') {
        Some((rule, rest)) => {
            ["T", "S", "P"].contains(&rule.trim_end_matches(|c: char| c.is_ascii_digit())) && is_word(rest)
        }
        None => text.strip_prefix("channel_").is_some_and(is_word),
    }
}

#[test]
fn the_text_names_every_code() {
    let source = sources("sync/src");
    let used: BTreeSet<&str> = source.split('"').filter(|literal| is_code(literal)).collect();
    assert!(used.len() > 50, "the source is read");
    let all = rows();
    let told: BTreeSet<&str> = all.iter().map(|cells| cells[0].as_str()).filter(|cell| is_code(cell)).collect();
    assert_eq!(told, used);
    let everything = source + &sources("engine/src");
    for notice in all.iter().filter(|cells| cells.len() == 3 && ["sent", "local"].contains(&cells[1].as_str())) {
        assert!(everything.contains(&format!("\"{}\"", notice[0])), "nothing says {}", notice[0]);
    }
}

/// `name: number` of everything that a derived `Debug` shows.
fn shown(debug: &str) -> BTreeMap<String, u64> {
    let inside = debug.split_once('{').unwrap().1.trim_end_matches(['}', ' ']);
    let fields = inside.split(',').map(|field| field.split_once(':').unwrap());
    fields.map(|(name, value)| (name.trim().to_owned(), value.trim().parse().unwrap())).collect()
}

/// The value of `1_024`, `1 << 20` and the like.
fn value(expression: &str) -> Option<u64> {
    let plain = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    match expression.split_once("<<") {
        Some((left, right)) => Some(plain(left)? << plain(right)?),
        None => plain(expression),
    }
}

#[test]
fn the_text_names_every_limit_with_its_value() {
    let mut made = shown(&format!("{:?}", Limits::default()));
    made.extend(shown(&format!("{:?}", Rules::V1)));
    made.extend(shown(&format!("{:?}", TrackerLimits::default())));
    let source = sources("sync/src");
    let mut constants: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let bare = |line: &str| line.trim_start_matches("pub ").trim_start_matches("pub(super) ").to_owned();
    let lines: Vec<String> = source.lines().map(bare).collect();
    for line in lines.iter().filter_map(|line| line.strip_prefix("const ")) {
        let (name, rest) = line.split_once(':').unwrap_or_default();
        if let Some(value) = rest.split_once('=').and_then(|(_, rest)| value(rest.trim_end_matches(';'))) {
            constants.entry(name).or_default().insert(value);
        }
    }
    let mut told = BTreeSet::new();
    let is_name = |cell: &str| cell.contains('_') && cell.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
    for cells in rows().iter().filter(|cells| cells.len() == 3 && is_name(&cells[0])) {
        let (name, Some(said)) = (&cells[0], number(&cells[1])) else { continue };
        match made.get(name) {
            Some(is) => assert_eq!(said, *is, "{name}"),
            None => assert_eq!(constants.get(name.as_str()), Some(&BTreeSet::from([said])), "{name}"),
        }
        told.insert(name.clone());
    }
    let missing: Vec<_> = made.keys().filter(|name| !told.contains(*name)).collect();
    assert!(missing.is_empty(), "the text lacks {missing:?}");
    assert!(told.len() > made.len(), "fixed numbers are there as well");
}

#[test]
fn every_test_that_the_text_on_security_names_exists() {
    let text = std::fs::read_to_string(repository().join("docs/security.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| T"));
    let cells: Vec<&str> = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next()).collect();
    assert!(cells.len() >= 17);
    let all: String = ["sync/src", "sync/tests", "engine/src", "server-shim/src", "server-shim/tests", "tests/tests"]
        .map(sources)
        .concat();
    for cell in cells {
        let named: Vec<&str> = cell.split('`').skip(1).step_by(2).filter(|name| !name.contains('/')).collect();
        assert!(!named.is_empty(), "no test in {cell}");
        for name in named {
            assert!(all.contains(&format!("fn {name}(")), "there is no test {name}");
        }
    }
}
