//! What changed, in the terms of the application: applied in order to the JSON form of a document, patches give its new JSON form.

use std::collections::BTreeMap;

use automerge as am;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::value::{ObjKind, Prop, Scalar};

/// One change of the visible document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// Where: for [`PatchAction::Put`], [`PatchAction::Delete`], [`PatchAction::Increment`] and [`PatchAction::Conflict`] the
    /// place itself, for the others the list or text.
    pub path: Vec<Prop>,
    /// What.
    #[serde(flatten)]
    pub action: PatchAction,
}

/// What happened at a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PatchAction {
    /// A value was put under a key or in place of an element. A new object is empty; what it holds follows. With an empty
    /// path the whole document is meant.
    Put {
        /// JSON form of the value.
        value: Json,
        /// Whether concurrent values stand there too.
        conflict: bool,
    },
    /// Elements were inserted.
    Insert {
        /// Before this index.
        index: usize,
        /// JSON forms, in order.
        values: Vec<Json>,
    },
    /// Text was inserted.
    SpliceText {
        /// Before this code point.
        index: usize,
        /// The text.
        text: String,
        /// Marks that hold for it.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        marks: BTreeMap<String, Json>,
    },
    /// A key was deleted.
    Delete,
    /// Elements or code points were deleted.
    DeleteRange {
        /// From this index on.
        index: usize,
        /// So many.
        length: usize,
    },
    /// A counter went up or down.
    Increment {
        /// By how much.
        by: i64,
    },
    /// Marks of a text changed. The JSON form does not show them.
    Mark {
        /// The marks that now hold.
        marks: Vec<MarkSpan>,
    },
    /// A concurrent value appeared that does not win.
    Conflict,
}

/// A mark over a part of a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MarkSpan {
    /// First code point.
    pub start: usize,
    /// Code point after the last.
    pub end: usize,
    /// Name of the mark.
    pub name: String,
    /// JSON form of its value; null takes the mark off.
    pub value: Json,
}

impl From<&am::marks::Mark> for MarkSpan {
    fn from(mark: &am::marks::Mark) -> Self {
        MarkSpan {
            start: mark.start,
            end: mark.end,
            name: mark.name().to_owned(),
            value: Scalar::from(mark.value()).to_json(),
        }
    }
}

/// A patch that does not fit the document it is applied to: an earlier one was missed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("patch does not fit the document at step {0} of its path")]
pub struct PatchMismatch(pub usize);

/// Whether Automerge's own patches for a batch cannot be trusted. Version 0.12, where concurrent values stand at a place, says no
/// more than "conflict" when the winner goes and an older value comes up, and shows a counter that comes up without its increments.
/// It also loses increments where values conflict, and miscounts positions behind an element that a deletion or an increment leaves
/// visible, and is silent where the winner under a key goes while a value that does not win comes; those the patches do not show, but
/// the admission does (`OpIndex::end_batch`). Its
/// `diff` is no better where elements of lists conflict. Found by the test `whatever_peers_do_they_converge`; all are rare. The way out
/// is `compare`.
pub(super) fn doubtful(patch: &am::Patch) -> bool {
    match &patch.action {
        am::PatchAction::Conflict { .. } => true,
        am::PatchAction::PutMap { value, .. } | am::PatchAction::PutSeq { value, .. } => {
            matches!(&value.0, am::Value::Scalar(scalar) if matches!(**scalar, am::ScalarValue::Counter(_)))
        }
        _ => false,
    }
}

fn value_json(value: &am::Value<'_>) -> Json {
    match value {
        am::Value::Object(kind) => match ObjKind::from(*kind) {
            ObjKind::Map => Json::Object(serde_json::Map::new()),
            ObjKind::List => Json::Array(Vec::new()),
            ObjKind::Text => Json::String(String::new()),
        },
        am::Value::Scalar(scalar) => Scalar::from(scalar.as_ref()).to_json(),
    }
}

impl Patch {
    /// The patch that replaces the whole document.
    pub(super) fn reset(value: Json) -> Patch {
        Patch { path: Vec::new(), action: PatchAction::Put { value, conflict: false } }
    }

    pub(super) fn from_am(patch: am::Patch) -> Patch {
        let mut path: Vec<Prop> = patch.path.into_iter().map(|(_, prop)| prop.into()).collect();
        let action = match patch.action {
            am::PatchAction::PutMap { key, value, conflict } => {
                path.push(Prop::Key(key));
                PatchAction::Put { value: value_json(&value.0), conflict }
            }
            am::PatchAction::PutSeq { index, value, conflict } => {
                path.push(Prop::Index(index));
                PatchAction::Put { value: value_json(&value.0), conflict }
            }
            am::PatchAction::Insert { index, values } => {
                PatchAction::Insert { index, values: values.iter().map(|(value, _, _)| value_json(value)).collect() }
            }
            am::PatchAction::SpliceText { index, value, marks } => {
                let marks = marks.iter().flat_map(|marks| marks.iter());
                PatchAction::SpliceText {
                    index,
                    text: value.make_string(),
                    marks: marks.map(|(name, value)| (name.to_owned(), Scalar::from(value).to_json())).collect(),
                }
            }
            am::PatchAction::Increment { prop, value } => {
                path.push(prop.into());
                PatchAction::Increment { by: value }
            }
            am::PatchAction::Conflict { prop } => {
                path.push(prop.into());
                PatchAction::Conflict
            }
            am::PatchAction::DeleteMap { key } => {
                path.push(Prop::Key(key));
                PatchAction::Delete
            }
            am::PatchAction::DeleteSeq { index, length } => PatchAction::DeleteRange { index, length },
            am::PatchAction::Mark { marks } => PatchAction::Mark { marks: marks.iter().map(MarkSpan::from).collect() },
        };
        Patch { path, action }
    }
}

/// Applies a patch to the JSON form of the document. Time is linear in a text or list that is spliced.
pub fn apply(document: &mut Json, patch: &Patch) -> Result<(), PatchMismatch> {
    let depth = patch.path.len();
    let fits = match &patch.action {
        PatchAction::Put { value, .. } => put(document, &patch.path, value.clone()),
        PatchAction::Delete => match patch.path.split_last() {
            Some((Prop::Key(key), parents)) => {
                target(document, parents)?.and_then(Json::as_object_mut).map(|map| drop(map.remove(key)))
            }
            _ => None,
        },
        PatchAction::Increment { by } => match target(document, &patch.path)? {
            Some(Json::Number(n)) => n.as_i64().map(|old| *n = old.wrapping_add(*by).into()),
            _ => None,
        },
        PatchAction::Insert { index, values } => match target(document, &patch.path)? {
            Some(Json::Array(list)) if *index <= list.len() => {
                list.splice(index..index, values.iter().cloned());
                Some(())
            }
            // A block inside a text reads as one placeholder.
            Some(Json::String(text)) => splice(text, *index, 0, &"\u{fffc}".repeat(values.len())),
            _ => None,
        },
        PatchAction::SpliceText { index, text: new, .. } => match target(document, &patch.path)? {
            Some(Json::String(text)) => splice(text, *index, 0, new),
            _ => None,
        },
        PatchAction::DeleteRange { index, length } => match target(document, &patch.path)? {
            Some(Json::Array(list)) if index + length <= list.len() => {
                list.drain(*index..index + length);
                Some(())
            }
            Some(Json::String(text)) => splice(text, *index, *length, ""),
            _ => None,
        },
        PatchAction::Mark { .. } | PatchAction::Conflict => Some(()),
    };
    fits.ok_or(PatchMismatch(depth))
}

fn put(document: &mut Json, path: &[Prop], value: Json) -> Option<()> {
    let Some((last, parents)) = path.split_last() else {
        *document = value;
        return Some(());
    };
    match (target(document, parents).ok()??, last) {
        (Json::Object(map), Prop::Key(key)) => drop(map.insert(key.clone(), value)),
        (Json::Array(list), Prop::Index(index)) => *list.get_mut(*index)? = value,
        (Json::String(text), Prop::Index(index)) => {
            let value = value.as_str().unwrap_or("\u{fffc}");
            splice(text, *index, 1, value)?;
        }
        _ => return None,
    }
    Some(())
}

/// What stands at a path.
fn target<'a>(document: &'a mut Json, path: &[Prop]) -> Result<Option<&'a mut Json>, PatchMismatch> {
    let mut at = document;
    for (step, prop) in path.iter().enumerate() {
        at = match (at, prop) {
            (Json::Object(map), Prop::Key(key)) => map.get_mut(key),
            (Json::Array(list), Prop::Index(index)) => list.get_mut(*index),
            _ => None,
        }
        .ok_or(PatchMismatch(step))?;
    }
    Ok(Some(at))
}

/// Positions count code points.
fn splice(text: &mut String, at: usize, delete: usize, insert: &str) -> Option<()> {
    let byte = |n: usize| text.char_indices().map(|(byte, _)| byte).chain([text.len()]).nth(n);
    let (from, to) = (byte(at)?, byte(at + delete)?);
    text.replace_range(from..to, insert);
    Some(())
}
