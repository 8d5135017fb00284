//! Places in a document's JSON, and what changed between two JSON values, in the terms of the engine's edits.

use commonhold_engine::document::Prop;
use serde_json::Value as Json;

use crate::failure::Failure;

/// Reads a path such as `items/0/title` against the document it is meant for, since a step is an index or a key depending
/// on what stands there. A slash in a key is `~1`, a tilde `~0` (as in JSON pointers); a leading slash is allowed. `-` after a list is
/// its end. The last step need not exist.
pub(crate) fn parse(document: &Json, path: &str) -> Result<Vec<Prop>, Failure> {
    let mut props = Vec::new();
    let mut here = Some(document);
    let path = path.strip_prefix('/').unwrap_or(path);
    for step in path.split('/').filter(|_| !path.is_empty()) {
        let missing = || nothing_at(&props);
        match here.ok_or_else(missing)? {
            Json::Object(map) => {
                let key = step.replace("~1", "/").replace("~0", "~");
                here = map.get(&key);
                props.push(Prop::Key(key));
            }
            Json::Array(list) => {
                let index = match step {
                    "-" => Some(list.len()),
                    digits => digits.parse().ok().filter(|index| *index <= list.len()),
                };
                let index = index.ok_or_else(|| {
                    Failure::not_found(
                        "no_such_place",
                        format!("{} is a list of {}, and {step:?} is no index of it", show(&props), list.len()),
                        "count from 0; use - to append",
                    )
                })?;
                here = list.get(index);
                props.push(Prop::Index(index));
            }
            _ => return Err(missing_object(&props)),
        }
    }
    Ok(props)
}

/// The value at a place, if one stands there.
pub(crate) fn value<'a>(document: &'a Json, path: &[Prop]) -> Option<&'a Json> {
    path.iter().try_fold(document, |here, prop| match prop {
        Prop::Key(key) => here.get(key),
        Prop::Index(index) => here.get(index),
    })
}

/// A place as the person writes it.
pub(crate) fn show(path: &[Prop]) -> String {
    let step = |prop: &Prop| match prop {
        Prop::Key(key) => key.replace('~', "~0").replace('/', "~1"),
        Prop::Index(index) => index.to_string(),
    };
    match path.is_empty() {
        true => "the document".to_owned(),
        false => path.iter().map(step).collect::<Vec<_>>().join("/"),
    }
}

/// Nothing stands there.
pub(crate) fn nothing_at(path: &[Prop]) -> Failure {
    Failure::not_found(
        "no_such_place",
        format!("nothing stands at {}", show(path)),
        "`commonhold get DOC` shows what there is",
    )
}

fn missing_object(path: &[Prop]) -> Failure {
    Failure::not_found(
        "no_such_place",
        format!("{} is neither a map nor a list", show(path)),
        "shorten the path, or set a map or list there first",
    )
}

/// A value that is to stand at a place of maps, or (`None`) the key that is to go.
pub(crate) type Change = (Vec<Prop>, Option<Json>);

/// The least changes of map entries that turn one value into another. Lists and texts change as a whole here; the engine then finds the
/// least edits inside them.
pub(crate) fn changes(before: &Json, after: &Json) -> Vec<Change> {
    let mut found = Vec::new();
    compare(before, after, &mut Vec::new(), &mut found);
    found
}

fn compare(before: &Json, after: &Json, path: &mut Vec<Prop>, found: &mut Vec<Change>) {
    let (Json::Object(old), Json::Object(new)) = (before, after) else {
        if before != after {
            found.push((path.clone(), Some(after.clone())));
        }
        return;
    };
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        found.push((extended(path, key), None));
    }
    for (key, value) in new {
        match old.get(key) {
            Some(old) => {
                path.push(Prop::Key(key.clone()));
                compare(old, value, path, found);
                path.pop();
            }
            None => found.push((extended(path, key), Some(value.clone()))),
        }
    }
}

fn extended(path: &[Prop], key: &str) -> Vec<Prop> {
    path.iter().cloned().chain([Prop::Key(key.to_owned())]).collect()
}

/// What a person's edit comes to on a document that may have changed since they looked: their changes where nobody else
/// touched the place, nothing where the wanted value stands already.
///
/// # Errors
/// The first place that changed meanwhile.
pub(crate) fn rebase(before: &Json, after: &Json, now: &Json) -> Result<Vec<Change>, Vec<Prop>> {
    let mut wanted = changes(before, after);
    wanted.retain(|(path, value_wanted)| value(now, path) != value_wanted.as_ref());
    match wanted.iter().find(|(path, _)| value(now, path) != value(before, path)) {
        Some((path, _)) => Err(path.clone()),
        None => Ok(wanted),
    }
}

/// RFC 7396: null removes a key, an object goes key by key, anything else replaces.
pub(crate) fn merge(target: &Json, patch: &Json) -> Json {
    let Json::Object(patch) = patch else { return patch.clone() };
    let mut merged = target.as_object().cloned().unwrap_or_default();
    for (key, value) in patch {
        match value {
            Json::Null => {
                merged.remove(key);
            }
            value => {
                let under = merged.get(key).cloned().unwrap_or(Json::Null);
                merged.insert(key.clone(), merge(&under, value));
            }
        }
    }
    Json::Object(merged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_is_an_index_only_where_a_list_stands() {
        let document = json!({"0": {"a/b": [10, 20]}});
        let path = parse(&document, "/0/a~1b/1").unwrap();
        assert_eq!(path, [Prop::Key("0".into()), Prop::Key("a/b".into()), Prop::Index(1)]);
        assert_eq!((value(&document, &path), show(&path).as_str()), (Some(&json!(20)), "0/a~1b/1"));
        assert_eq!(parse(&document, "0/a~1b/-").unwrap()[2], Prop::Index(2));
        assert_eq!(parse(&document, "new").unwrap(), [Prop::Key("new".into())]);
        assert_eq!(parse(&document, "").unwrap(), []);
    }

    #[test]
    fn a_path_that_leads_nowhere_says_where_it_ends() {
        let document = json!({"list": [1], "n": 5});
        assert!(parse(&document, "gone/x").unwrap_err().what.contains("nothing stands at gone"));
        assert!(parse(&document, "n/x").unwrap_err().what.contains("n is neither"));
        assert!(parse(&document, "list/2").unwrap_err().what.contains("list of 1"));
        assert!(parse(&document, "list/x").unwrap_err().what.contains("list of 1"));
    }

    #[test]
    fn merge_patches_do_what_their_rfc_says() {
        // The examples of its appendix A, in part.
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1]}), json!({"a": 1}), json!({"a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(merge(&target, &patch), result);
        }
    }

    #[test]
    fn an_edit_goes_onto_what_others_changed_elsewhere() {
        let before = json!({"a": 1, "b": {"c": 2, "d": [1]}, "e": 0});
        let after = json!({"a": 1, "b": {"c": 3, "d": [1]}, "f": 4});
        let now = json!({"a": 9, "b": {"c": 2, "d": [1, 2]}, "e": 0});
        let found = rebase(&before, &after, &now).unwrap();
        let key = |key: &str| Prop::Key(key.into());
        assert_eq!(
            found,
            [(vec![key("e")], None), (vec![key("b"), key("c")], Some(json!(3))), (vec![key("f")], Some(json!(4)))]
        );
    }

    #[test]
    fn an_edit_of_what_others_changed_is_refused_unless_they_agree() {
        let (before, after) = (json!({"list": [1]}), json!({"list": [1, 2]}));
        assert_eq!(rebase(&before, &after, &json!({"list": [0, 1]})), Err(vec![Prop::Key("list".into())]));
        assert_eq!(rebase(&before, &after, &after), Ok(Vec::new()));
        assert_eq!(rebase(&before, &json!({}), &json!({"list": [5]})), Err(vec![Prop::Key("list".into())]));
    }
}
