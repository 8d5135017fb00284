//! The config file: TOML, walked with the place of every key, so that a complaint names its line.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, KEYS, Key, Kind};
use super::{Origin, Setting, nearest, unknown};
use crate::failure::Failure;

pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<(&'static Key, Setting)>, Failure> {
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        Failure::usage(
            "config_syntax",
            format!("{}:{line}: {}", path.display(), error.message()),
            "correct the line; the file is TOML: [section], then key = value",
        )
    })?;
    let place = |at: usize| format!("{}:{}", path.display(), line_of(text, at));
    let mut found = Vec::new();
    for (section, body) in document.get_ref() {
        let name = section.get_ref().as_ref();
        if !keys::sections().any(|known| known == name) {
            let near = nearest(name, keys::sections()).map(|near| format!("[{near}]"));
            // A key before the first section is the commoner slip.
            let near =
                near.or_else(|| KEYS.iter().find(|key| key.short() == name).map(|key| format!("[{}]", key.section())));
            return Err(at(&place(section.span().start), unknown(&format!("section {name}"), near.as_deref())));
        }
        let DeValue::Table(body) = body.get_ref() else {
            let failure = Failure::usage(
                "config_value",
                format!("{name} is a section"),
                format!("write [{name}] above its keys"),
            );
            return Err(at(&place(section.span().start), failure));
        };
        for (short, value) in body {
            let full = format!("{name}.{}", short.get_ref());
            let line = line_of(text, short.span().start);
            let Some(key) = KEYS.iter().find(|key| key.name == full) else {
                let near = nearest(&full, KEYS.iter().map(|key| key.name));
                return Err(at(&place(short.span().start), unknown(&format!("key {full}"), near)));
            };
            let texts = texts(key, value).ok_or_else(|| {
                let failure = Failure::usage(
                    "config_value",
                    format!("{full} cannot be this"),
                    format!("give it {}", key.kind.expects()),
                );
                at(&place(value.span().start), failure)
            })?;
            found.push((key, Setting { texts, origin: Origin::File(path.to_owned(), line) }));
        }
    }
    Ok(found)
}

/// The texts of a value of the right TOML type.
fn texts(key: &Key, value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    match (key.kind, value.get_ref()) {
        (Kind::Number(..), DeValue::Integer(number)) => Some(vec![number.to_string()]),
        (Kind::Flag, DeValue::Boolean(flag)) => Some(vec![flag.to_string()]),
        (Kind::Path | Kind::Choice(_) | Kind::Filter | Kind::Space | Kind::Text, DeValue::String(text)) => {
            Some(vec![text.to_string()])
        }
        (Kind::List(_), DeValue::Array(items)) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn at(place: &str, mut failure: Failure) -> Failure {
    failure.what = format!("{place}: {}", failure.what);
    failure
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}
