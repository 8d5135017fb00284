//! The app on each machine: anybody's own, or the one that scribbles.

use std::collections::BTreeMap;

use commonhold_sync::id::{DocId, SpaceId};

use crate::document::{Edit, EditError, ObjId, ObjKind, Scalar, Value, View};
use crate::store::faulty::Rng;

/// An app's own logic, as it runs on one simulated machine.
///
/// Each process has an app of its own, made when it starts and gone when it crashes: what is to outlast that belongs into
/// documents. All that is random comes from the `rng` that it is given, and there is no clock: the same seed then gives the
/// same run. What it answers with `Err`, and a panic, ends the run as a [`Failure`](super::Failure) that names the seed.
pub trait App {
    /// Does one thing that a person would do, in one of the documents.
    ///
    /// # Errors
    ///
    /// What the edit refused. That is a failure of the run: an app is to know what fits.
    fn edit(&mut self, edit: &mut Edit<'_>, rng: &mut Rng) -> Result<(), EditError>;

    /// Looks at a document each time that it is shown: after an edit here, when something came, when it was opened. Others
    /// may be far behind or ahead.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    fn shows(&mut self, document: &View) -> Result<(), String> {
        let _ = document;
        Ok(())
    }

    /// Looks at all documents, once everybody holds the same.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    fn agrees(&mut self, documents: &BTreeMap<(SpaceId, DocId), &View>) -> Result<(), String> {
        let _ = documents;
        Ok(())
    }
}

/// Makes the app of a process. It is given the number of its machine, from 0 on.
pub(super) type Apps = dyn Fn(usize) -> Box<dyn App>;

/// Edits at random: scalars, counters, nested maps, lists, text, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scribbler;

impl App for Scribbler {
    fn edit(&mut self, edit: &mut Edit<'_>, rng: &mut Rng) -> Result<(), EditError> {
        scribble(edit, rng)
    }
}

const WORDS: [&str; 8] = ["a", "bee", "commons", "déjà", "édition", "field", "🌾", "hold the line"];

/// One random edit: scalars, counters, nested maps, lists, text.
pub(super) fn scribble(edit: &mut Edit<'_>, rng: &mut Rng) -> Result<(), EditError> {
    let root = ObjId::ROOT;
    let word = WORDS[rng.below(8) as usize];
    let key = format!("k{}", rng.below(4));
    match rng.below(12) {
        0 | 1 => edit.put(&root, key.as_str(), rng.below(1_000) as i64),
        2 => edit.put(&root, key.as_str(), word),
        3 => edit.delete(&root, key.as_str()),
        4 => match edit.get(&root, "count") {
            Some(Value::Scalar(Scalar::Counter(_))) => edit.increment(&root, "count", rng.below(9) as i64 - 4),
            _ => edit.put(&root, "count", Scalar::Counter(0)),
        },
        5 => {
            let map = child(edit, "map", ObjKind::Map)?;
            edit.put(&map, key.as_str(), word)
        }
        6..=8 => {
            let text = child(edit, "text", ObjKind::Text)?;
            let len = edit.len(&text);
            let at = rng.below(len as u64 + 1) as usize;
            let delete = (rng.below(4) as usize).min(len - at);
            edit.splice_text(&text, at, delete, word)
        }
        9 | 10 => {
            let list = child(edit, "list", ObjKind::List)?;
            let len = edit.len(&list);
            match rng.below(4) {
                0 if len > 0 => edit.delete(&list, rng.below(len as u64) as usize),
                1 if len > 0 => edit.put(&list, rng.below(len as u64) as usize, word),
                2 => edit.insert_object(&list, rng.below(len as u64 + 1) as usize, ObjKind::Map).map(drop),
                _ => edit.insert(&list, rng.below(len as u64 + 1) as usize, word),
            }
        }
        _ => {
            let size = if rng.below(8) == 0 { rng.below(40_000) } else { rng.below(600) };
            edit.put(&root, "blob", rng.bytes(size as usize))
        }
    }
}

fn child(edit: &mut Edit<'_>, key: &str, kind: ObjKind) -> Result<ObjId, EditError> {
    match edit.get(&ObjId::ROOT, key) {
        Some(Value::Object(found, id)) if found == kind => Ok(id),
        _ => edit.put_object(&ObjId::ROOT, key, kind),
    }
}
