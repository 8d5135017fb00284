//! Finds what the person named: by id, by the first digits of one, or by name.

use crate::failure::Failure;

/// Digits that are enough for a prefix; fewer are too likely to be a name.
const PREFIX_MIN: usize = 4;

/// Something that has an id and perhaps a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named<T> {
    pub(crate) id: T,
    /// Empty: none.
    pub(crate) name: String,
}

/// The one that is meant: a whole id first, then a name, then the first digits of an id. `what` is for messages.
pub(crate) fn find<T: Copy + ToString>(what: &str, given: &str, all: &[Named<T>]) -> Result<T, Failure> {
    let lower = given.to_ascii_lowercase();
    let digits = lower.len() >= PREFIX_MIN && lower.bytes().all(|byte| byte.is_ascii_hexdigit());
    let ids = all.iter().map(|one| (one, one.id.to_string()));
    let by_prefix: Vec<_> = ids.filter(|(_, id)| digits && id.starts_with(&lower)).collect();
    if let Some((whole, _)) = by_prefix.iter().find(|(_, id)| *id == lower) {
        return Ok(whole.id);
    }
    let by_name: Vec<_> = all.iter().filter(|one| !one.name.is_empty() && one.name == given).collect();
    let found = match by_name.is_empty() {
        true => by_prefix.into_iter().map(|(one, _)| one).collect(),
        false => by_name,
    };
    match found[..] {
        [one] => Ok(one.id),
        [] => Err(Failure::not_found(
            &format!("no_such_{what}"),
            format!("there is no {what} {given:?} here"),
            match what {
                "member" => "`commonhold members` lists those who were given something".to_owned(),
                _ => format!(
                    "`commonhold {} ls` lists them; if it should be here, `commonhold doctor` checks the store",
                    if what == "space" { "space" } else { "doc" }
                ),
            },
        )),
        _ => Err(Failure::not_found(
            &format!("ambiguous_{what}"),
            format!("{given:?} names {} {what}s", found.len()),
            format!("use one of these ids: {}", shown(&found)),
        )),
    }
}

/// The only one there is, when none was named.
pub(crate) fn only<T: Copy + ToString>(what: &str, all: &[Named<T>]) -> Result<T, Failure> {
    match all {
        [one] => Ok(one.id),
        [] => Err(Failure::not_found(
            &format!("no_such_{what}"),
            format!("there is no {what} yet"),
            "found one with `commonhold space new`, or `commonhold join INVITE`",
        )),
        _ => Err(Failure::not_found(
            &format!("ambiguous_{what}"),
            format!("there are {} {what}s, and none was named", all.len()),
            format!("add --{what} with one of: {}", shown(&all.iter().collect::<Vec<_>>())),
        )),
    }
}

/// A few ids, to choose from.
fn shown<T: Copy + ToString>(found: &[&Named<T>]) -> String {
    let first = found.iter().take(5).map(|one| one.id.to_string().chars().take(16).collect::<String>());
    let more = if found.len() > 5 { ", …" } else { "" };
    format!("{}{more}", first.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use commonhold_engine::DocId;

    use super::*;

    fn all() -> Vec<Named<DocId>> {
        let named = |byte: u8, name: &str| Named { id: DocId([byte; 32]), name: name.into() };
        let mut close = named(0xab, "notes");
        close.id.0[31] = 0;
        vec![named(0xab, "notes"), named(0xcd, "list"), named(0xef, ""), close, named(1, "cdcd")]
    }

    #[test]
    fn a_whole_id_a_name_or_a_unique_prefix_finds_it() {
        let find = |given: &str| find("document", given, &all()).map(|id| id.0[0]).map_err(|failure| failure.code);
        assert_eq!(find(&"ab".repeat(32)), Ok(0xab));
        assert_eq!(find("list"), Ok(0xcd));
        assert_eq!(find("EFEF"), Ok(0xef));
        // A name goes before a prefix.
        assert_eq!(find("cdcd"), Ok(1));
        assert_eq!(find("notes"), Err("ambiguous_document".into()));
        assert_eq!(find("abab"), Err("ambiguous_document".into()));
        assert_eq!(find("efe"), Err("no_such_document".into()));
        assert_eq!(find(""), Err("no_such_document".into()));
    }

    #[test]
    fn nothing_need_be_named_where_there_is_one() {
        assert_eq!(only("space", &all()[..1]).unwrap().0[0], 0xab);
        assert_eq!(only("space", &all()[..0]).unwrap_err().code, "no_such_space");
        assert!(only("space", &all()).unwrap_err().remedy.contains("--space"));
    }
}
