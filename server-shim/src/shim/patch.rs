//! From patches to what is wanted of a document: Merge Patch (RFC 7396) and JSON Patch (RFC 6902).

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use commonhold_engine::{Element, Wanted};
use json_patch::jsonptr::{Pointer, PointerBuf, Token};
use json_patch::{AddOperation, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::{Map, Value as Json};

use super::BODY_BYTES_MAX;
use super::problem::{Kind, Problem};

/// What `Accept-Patch` says.
/// The media type of a JSON Patch.
pub(super) const OPERATIONS: &str = "application/json-patch+json";
pub(crate) const ACCEPTED: &str = "application/merge-patch+json, application/json-patch+json";
/// Operations of one JSON Patch. Each walks its path once; more than any program writes by hand.
const OPERATIONS_MAX: usize = 10_000;

/// Bytes of JSON that the operations of one patch may add, copy, move, remove or compare in all: `copy` doubles what there is with each
/// step.
const WORK_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;
/// Values inside one another in a document that a patch makes.
const DEPTH_MAX: usize = 100;

/// A body of PATCH.
#[derive(Debug)]
pub(crate) enum Patch {
    Merge(Json),
    Operations(Vec<PatchOperation>),
}

impl Patch {
    pub(crate) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Patch, Problem> {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let unreadable = |error: serde_json::Error| Problem::bad(format!("the patch cannot be read: {error}"));
        match kind.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => serde_json::from_slice(body).map(Patch::Merge).map_err(unreadable),
            OPERATIONS => {
                let operations: Vec<PatchOperation> = serde_json::from_slice(body).map_err(unreadable)?;
                if operations.len() > OPERATIONS_MAX {
                    return Err(Problem::new(
                        Kind::TooLarge,
                        format!("a patch has at most {OPERATIONS_MAX} operations"),
                    ));
                }
                Ok(Patch::Operations(operations))
            }
            other => Err(Problem::new(Kind::MediaType, format!("a patch is {ACCEPTED}; found {other:?}")).header(
                axum::http::HeaderName::from_static("accept-patch"),
                axum::http::HeaderValue::from_static(ACCEPTED),
            )),
        }
    }

    /// Whether what is wanted depends on what stands there.
    pub(crate) fn reads(&self) -> bool {
        matches!(self, Patch::Operations(_))
    }

    /// What is wanted of a document that reads so. `replace`: arrays of a merge patch take the place of what stands there.
    pub(crate) fn wanted(&self, document: &Json, replace: bool) -> Result<Wanted, Problem> {
        match self {
            Patch::Merge(Json::Object(keys)) => Ok(Wanted::Map(merged(keys, replace))),
            Patch::Merge(_) => Err(Problem::new(Kind::Unprocessable, "a merge patch of a document is an object")),
            Patch::Operations(operations) => {
                let mut node = Node::Kept(document);
                let mut work = Work(WORK_BYTES_MAX);
                for (at, operation) in operations.iter().enumerate() {
                    node.perform(operation, &mut work).map_err(|problem| {
                        let detail = format!("operation {at}, at {:?}: {}", operation.path().as_str(), problem.detail);
                        Problem { detail, ..problem }.with("operation", at)
                    })?;
                }
                Ok(node.wanted())
            }
        }
    }
}

fn merged(keys: &Map<String, Json>, replace: bool) -> BTreeMap<String, Option<Wanted>> {
    let wanted = |value: &Json| match value {
        Json::Null => None,
        Json::Object(keys) => Some(Wanted::Map(merged(keys, replace))),
        Json::Array(values) if replace => {
            let new = |value: &Json| Element { was: None, now: Wanted::Value(value.clone()) };
            Some(Wanted::List(values.iter().map(new).collect()))
        }
        value => Some(Wanted::Value(value.clone())),
    };
    keys.iter().map(|(key, value)| (key.clone(), wanted(value))).collect()
}

/// A document under a JSON Patch: what became of each part of it, so that elements of lists keep their identity.
#[derive(Debug)]
enum Node<'a> {
    Kept(&'a Json),
    Map { was: &'a Map<String, Json>, changed: BTreeMap<String, Option<Node<'a>>> },
    List(Vec<(Option<usize>, Node<'a>)>),
    New(Json),
}

/// What a patch may still do.
struct Work(usize);

impl Work {
    /// A value that stands, or is to stand, at a path.
    fn on(&mut self, path: &Pointer, value: &Json) -> Result<(), Problem> {
        let depth = path.tokens().count();
        let bytes = bytes_of(value, DEPTH_MAX.checked_sub(depth).ok_or_else(too_deep)?)?;
        self.0 = self.0.checked_sub(bytes).ok_or_else(|| {
            Problem::new(Kind::TooLarge, format!("its operations move more than {WORK_BYTES_MAX} bytes about"))
        })?;
        Ok(())
    }
}

fn too_deep() -> Problem {
    Problem::new(Kind::TooLarge, format!("a value lies inside at most {DEPTH_MAX} others"))
}

/// About what a value takes.
fn bytes_of(value: &Json, depth: usize) -> Result<usize, Problem> {
    let inside = || depth.checked_sub(1).ok_or_else(too_deep);
    Ok(16
        + match value {
            Json::String(text) => text.len(),
            Json::Array(values) => {
                let depth = inside()?;
                values.iter().try_fold(0, |sum, value| Ok::<_, Problem>(sum + bytes_of(value, depth)?))?
            }
            Json::Object(map) => {
                let depth = inside()?;
                map.iter()
                    .try_fold(0, |sum, (key, value)| Ok::<_, Problem>(sum + key.len() + bytes_of(value, depth)?))?
            }
            _ => 0,
        })
}

fn nowhere() -> Problem {
    Problem::new(Kind::Unprocessable, "its path leads nowhere")
}

impl<'a> Node<'a> {
    fn wanted(self) -> Wanted {
        match self {
            Node::Kept(_) => Wanted::Kept,
            Node::New(json) => Wanted::Value(json),
            Node::Map { changed, .. } => {
                Wanted::Map(changed.into_iter().map(|(key, node)| (key, node.map(Node::wanted))).collect())
            }
            Node::List(elements) => {
                Wanted::List(elements.into_iter().map(|(was, node)| Element { was, now: node.wanted() }).collect())
            }
        }
    }

    fn json(&self) -> Json {
        match self {
            Node::Kept(json) => (*json).clone(),
            Node::New(json) => json.clone(),
            Node::Map { was, changed } => {
                let mut map = (*was).clone();
                for (key, node) in changed {
                    match node {
                        Some(node) => _ = map.insert(key.clone(), node.json()),
                        None => _ = map.remove(key),
                    }
                }
                Json::Object(map)
            }
            Node::List(elements) => elements.iter().map(|(_, node)| node.json()).collect(),
        }
    }

    fn perform(&mut self, operation: &PatchOperation, work: &mut Work) -> Result<(), Problem> {
        match operation {
            PatchOperation::Add(add) => {
                work.on(&add.path, &add.value)?;
                self.add(&add.path, add.value.clone())
            }
            PatchOperation::Remove(remove) => {
                let value = self.remove(&remove.path)?;
                work.on(&remove.path, &value)
            }
            PatchOperation::Replace(replace) => {
                work.on(&replace.path, &replace.value)?;
                self.replace(&replace.path, replace.value.clone())
            }
            PatchOperation::Move(moved) => {
                if moved.path.starts_with(&moved.from) && moved.path != moved.from {
                    return Err(Problem::new(Kind::Unprocessable, "nothing can be moved into itself"));
                }
                let value = self.remove(&moved.from)?;
                work.on(&moved.path, &value)?;
                self.add(&moved.path, value)
            }
            PatchOperation::Copy(copy) => {
                let value = self.get(&copy.from).ok_or_else(nowhere)?;
                work.on(&copy.path, &value)?;
                self.add(&copy.path, value)
            }
            PatchOperation::Test(test) => {
                let found = self.get(&test.path);
                found.iter().try_for_each(|value| work.on(&test.path, value))?;
                match found {
                    Some(value) if value == test.value => Ok(()),
                    Some(_) => Err(Problem::new(Kind::Conflict, "another value stands there")),
                    None => Err(Problem::new(Kind::Conflict, "nothing stands there")),
                }
            }
        }
    }

    fn get(&self, path: &Pointer) -> Option<Json> {
        let Some((step, rest)) = path.split_front() else { return Some(self.json()) };
        match self {
            Node::Kept(json) => json.pointer(path.as_str()).cloned(),
            Node::New(json) => json.pointer(path.as_str()).cloned(),
            Node::Map { was, changed } => match changed.get(&*step.decoded()) {
                Some(node) => node.as_ref()?.get(rest),
                None => was.get(&*step.decoded())?.pointer(rest.as_str()).cloned(),
            },
            Node::List(elements) => elements.get(index(&step, elements.len())?)?.1.get(rest),
        }
    }

    /// Makes a part that is kept one that can change.
    fn open(&mut self) {
        match self {
            Node::Kept(Json::Object(was)) => *self = Node::Map { was, changed: BTreeMap::new() },
            Node::Kept(Json::Array(values)) => {
                *self =
                    Node::List(values.iter().enumerate().map(|(at, value)| (Some(at), Node::Kept(value))).collect());
            }
            _ => {}
        }
    }

    /// Calls back with the part that a step leads to, which must be there.
    fn inside<T>(
        &mut self,
        step: &Token<'_>,
        f: impl FnOnce(&mut Node<'a>) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        self.open();
        match self {
            Node::Map { was, changed } => {
                let key = step.decoded().into_owned();
                let was = *was;
                if let Some(node) = changed.get_mut(&key) {
                    return f(node.as_mut().ok_or_else(nowhere)?);
                }
                let mut node = Node::Kept(was.get(&key).ok_or_else(nowhere)?);
                let result = f(&mut node)?;
                changed.insert(key, Some(node));
                Ok(result)
            }
            Node::List(elements) => {
                let at = index(step, elements.len()).filter(|at| *at < elements.len()).ok_or_else(nowhere)?;
                f(&mut elements[at].1)
            }
            _ => Err(nowhere()),
        }
    }

    fn add(&mut self, path: &Pointer, value: Json) -> Result<(), Problem> {
        if let Node::New(json) = self {
            return plain(json, PatchOperation::Add(AddOperation { path: path.to_buf(), value }));
        }
        let Some((step, rest)) = path.split_front() else {
            *self = Node::New(value);
            return Ok(());
        };
        if !rest.is_root() {
            return self.inside(&step, |node| node.add(rest, value));
        }
        self.open();
        match self {
            Node::Map { changed, .. } => _ = changed.insert(step.decoded().into_owned(), Some(Node::New(value))),
            Node::List(elements) => {
                let at = index(&step, elements.len()).ok_or_else(nowhere)?;
                elements.insert(at, (None, Node::New(value)));
            }
            _ => return Err(nowhere()),
        }
        Ok(())
    }

    /// Gives what stood there.
    fn remove(&mut self, path: &Pointer) -> Result<Json, Problem> {
        if let Node::New(json) = self {
            let was = json.pointer(path.as_str()).cloned().ok_or_else(nowhere)?;
            plain(json, PatchOperation::Remove(RemoveOperation { path: path.to_buf() }))?;
            return Ok(was);
        }
        let Some((step, rest)) = path.split_front() else {
            return Err(Problem::new(Kind::Unprocessable, "the document itself cannot be removed; DELETE it"));
        };
        if !rest.is_root() {
            return self.inside(&step, |node| node.remove(rest));
        }
        let value = self.get(path).ok_or_else(nowhere)?;
        self.open();
        match self {
            Node::Map { changed, .. } => _ = changed.insert(step.decoded().into_owned(), None),
            Node::List(elements) => {
                let at = index(&step, elements.len()).ok_or_else(nowhere)?;
                elements.remove(at);
            }
            _ => return Err(nowhere()),
        }
        Ok(value)
    }

    fn replace(&mut self, path: &Pointer, value: Json) -> Result<(), Problem> {
        if let Node::New(json) = self {
            return plain(json, PatchOperation::Replace(ReplaceOperation { path: path.to_buf(), value }));
        }
        match path.split_front() {
            None => *self = Node::New(value),
            Some((step, rest)) => self.inside(&step, |node| node.replace(rest, value))?,
        }
        Ok(())
    }
}

fn index(step: &Token<'_>, len: usize) -> Option<usize> {
    step.to_index().ok()?.for_len_incl(len).ok()
}

/// Inside of what is new there is nothing to keep the identity of.
fn plain(json: &mut Json, operation: PatchOperation) -> Result<(), Problem> {
    json_patch::patch(json, &[operation]).map_err(|_| nowhere())
}

/// What is wanted where only one place of a document is.
pub(crate) fn at(path: &Pointer, document: &Json, value: Option<Json>) -> Result<Wanted, Problem> {
    let mut node = Node::Kept(document);
    match value {
        None => node.remove(path).map(drop)?,
        // To put means to replace an element of a list, or to add one at its end.
        Some(value) => match node.get(path) {
            Some(_) => node.replace(path, value)?,
            None => node.add(path, value)?,
        },
    }
    Ok(node.wanted())
}

/// Reads a JSON pointer that stands in a URL behind `/at/`, without its first slash.
pub(crate) fn pointer(text: &str) -> Result<PointerBuf, Problem> {
    PointerBuf::parse(format!("/{text}")).map_err(|error| Problem::bad(format!("{text:?} is no JSON pointer: {error}")))
}

#[cfg(test)]
mod tests {
    use commonhold_engine::View;
    use commonhold_engine::document::ChainAuthor;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn view(document: &Json) -> View {
        let mut view = View::new();
        view.set_chain(ChainAuthor { actor: [1; 16], device: [2; 32] }).unwrap();
        view.edit(|edit| edit.set_json(&[], document)).unwrap();
        view.commit().unwrap();
        view
    }

    fn operations(patch: &Json) -> Patch {
        Patch::Operations(serde_json::from_value(patch.clone()).unwrap())
    }

    fn patched(document: &Json, patch: &Patch) -> Result<Json, Problem> {
        let wanted = patch.wanted(document, false)?;
        let mut view = view(document);
        view.edit(|edit| edit.make_so(&wanted))?;
        Ok(view.to_json())
    }

    #[test]
    fn a_patch_is_all_or_nothing_and_says_which_operation_failed() {
        let document = json!({"a": [1, 2], "b": {"c": 1}});
        let bad = |patch: Json, kind| {
            let problem = operations(&patch).wanted(&document, false).unwrap_err();
            assert_eq!(problem.kind, kind, "{}", problem.detail);
            problem.detail
        };
        let said =
            bad(json!([{"op": "remove", "path": "/b"}, {"op": "test", "path": "/a/0", "value": 2}]), Kind::Conflict);
        assert!(said.starts_with("operation 1"), "{said}");
        bad(json!([{"op": "remove", "path": "/x"}]), Kind::Unprocessable);
        bad(json!([{"op": "remove", "path": ""}]), Kind::Unprocessable);
        bad(json!([{"op": "add", "path": "/a/3", "value": 1}]), Kind::Unprocessable);
        bad(json!([{"op": "add", "path": "/a/01", "value": 1}]), Kind::Unprocessable);
        bad(json!([{"op": "add", "path": "/b/c/d", "value": 1}]), Kind::Unprocessable);
        bad(json!([{"op": "replace", "path": "/b/x", "value": 1}]), Kind::Unprocessable);
        bad(json!([{"op": "move", "from": "/b", "path": "/b/c"}]), Kind::Unprocessable);
        bad(json!([{"op": "test", "path": "/x", "value": null}]), Kind::Conflict);
    }

    #[test]
    fn a_patch_that_doubles_what_there_is_ends_soon() {
        let document = json!({});
        let doubling = |from: &str| {
            let mut all = vec![json!({"op": "add", "path": "/a", "value": {"k": "x".repeat(100)}})];
            all.extend((0..100).map(|n| json!({"op": "copy", "from": from, "path": format!("/a/{n}")})));
            operations(&Json::Array(all)).wanted(&document, false).unwrap_err().kind
        };
        assert_eq!(doubling("/a"), Kind::TooLarge);
        let mut deep = vec![json!({"op": "add", "path": "/a", "value": {}})];
        deep.extend((1..200).map(|n| json!({"op": "add", "path": "/a".repeat(n + 1), "value": {}})));
        assert_eq!(operations(&Json::Array(deep)).wanted(&document, false).unwrap_err().kind, Kind::TooLarge);
        let big = json!({ "big": "x".repeat(1 << 20) });
        let copies: Vec<Json> =
            (0..100).map(|n| json!({"op": "copy", "from": "/big", "path": format!("/c{n}")})).collect();
        assert_eq!(operations(&Json::Array(copies)).wanted(&big, false).unwrap_err().kind, Kind::TooLarge);
    }

    #[test]
    fn of_equal_elements_the_one_that_was_named_goes() {
        let document = json!({"a": ["x", "x", "x"]});
        let patch =
            operations(&json!([{"op": "remove", "path": "/a/1"}, {"op": "add", "path": "/a/0", "value": "new"}]));
        let Wanted::Map(keys) = patch.wanted(&document, false).unwrap() else { panic!() };
        let Some(Wanted::List(elements)) = &keys["a"] else { panic!() };
        assert_eq!(elements.iter().map(|element| element.was).collect::<Vec<_>>(), [None, Some(0), Some(2)]);
    }

    #[test]
    fn arrays_of_a_merge_patch_are_compared_or_replaced() {
        let document = json!({"a": [{"id": 1, "n": 1}, {"id": 2, "n": 2}]});
        let patch = Patch::Merge(json!({"a": [{"id": 2, "n": 3}]}));
        let shape = |replace| match patch.wanted(&document, replace).unwrap() {
            Wanted::Map(mut keys) => keys.remove("a").unwrap().unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(matches!(shape(false), Wanted::Value(_)));
        assert!(matches!(shape(true), Wanted::List(elements) if elements[0].was.is_none()));
    }

    fn value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            (0..4i64).prop_map(Json::from),
            "[ab]{0,3}".prop_map(Json::from),
            Just(Json::Null),
            any::<bool>().prop_map(Json::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    fn document() -> impl Strategy<Value = Json> {
        prop::collection::btree_map("[a-c]", value(), 0..4).prop_map(|map| Json::Object(map.into_iter().collect()))
    }

    fn path() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof!["[a-c]", "[0-2]", Just("-".to_owned())], 1..4)
            .prop_map(|steps| format!("/{}", steps.join("/")))
    }

    fn operation() -> impl Strategy<Value = Json> {
        prop_oneof![
            (path(), value()).prop_map(|(path, value)| json!({"op": "add", "path": path, "value": value})),
            (path(), value()).prop_map(|(path, value)| json!({"op": "replace", "path": path, "value": value})),
            path().prop_map(|path| json!({"op": "remove", "path": path})),
            (path(), path()).prop_map(|(from, path)| json!({"op": "move", "from": from, "path": path})),
            (path(), path()).prop_map(|(from, path)| json!({"op": "copy", "from": from, "path": path})),
        ]
    }

    proptest! {
        /// Where nobody else edits, a JSON Patch does what it does to plain JSON, and fails where it fails there.
        #[test]
        fn a_json_patch_does_what_it_does_to_plain_json(
            document in document(),
            tried in prop::collection::vec(operation(), 0..12),
        ) {
            // Those that fit, one after the other: of random ones, most would not.
            let mut plain = document.clone();
            let mut fitting = Vec::new();
            for one in tried {
                let mut next = plain.clone();
                let fits = json_patch::patch(&mut next, &[serde_json::from_value(one.clone()).unwrap()]).is_ok();
                let before = operations(&Json::Array(fitting.clone())).wanted(&document, false);
                prop_assert!(before.is_ok(), "{:?}", before);
                let mut all = fitting.clone();
                all.push(one.clone());
                let ours = operations(&Json::Array(all)).wanted(&document, false);
                prop_assert_eq!(ours.is_ok(), fits, "{} of {}: {:?}", one, plain, ours);
                if fits {
                    fitting.push(one);
                    plain = next;
                }
            }
            let patch = operations(&Json::Array(fitting));
            prop_assert_eq!(patched(&document, &patch).unwrap(), plain);
        }

        #[test]
        fn a_merge_patch_does_what_it_does_to_plain_json(document in document(), patch in document()) {
            let mut plain = document.clone();
            json_patch::merge(&mut plain, &patch);
            prop_assert_eq!(patched(&document, &Patch::Merge(patch)).unwrap(), plain);
        }
    }
}
