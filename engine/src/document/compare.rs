//! Patches by comparing two versions of a document: right whatever happened in between, but both versions are read in full. Used where
//! Automerge's own patches cannot be trusted (see [`patch::doubtful`](super::patch::doubtful)).

use std::collections::BTreeSet;

use automerge as am;
use automerge::ReadDoc;
use automerge::hydrate::Value;
use serde_json::Value as Json;

use super::diff::diff;
use super::patch::{MarkSpan, Patch, PatchAction};
use super::value::{Prop, hydrated_json};

/// The patches from an earlier version to the present. Marks are not compared: those of `own` are taken over.
pub(super) fn compare(doc: &am::Automerge, before: &[am::ChangeHash], own: Vec<am::Patch>) -> Vec<Patch> {
    let mut comparison = Comparison { path: Vec::new(), patches: Vec::new() };
    comparison.value(&doc.hydrate(Some(before)), &doc.hydrate(None), false);
    let marks = own.into_iter().filter(|patch| matches!(patch.action, am::PatchAction::Mark { .. }));
    comparison.patches.extend(marks.map(Patch::from_am));
    comparison.patches
}

/// The patches from one version to another. Marks are not compared.
pub(super) fn compare_versions(doc: &impl ReadDoc, from: &[am::ChangeHash], to: &[am::ChangeHash]) -> Vec<Patch> {
    let mut comparison = Comparison { path: Vec::new(), patches: Vec::new() };
    let at = |heads| doc.hydrate(am::ROOT, Some(heads)).unwrap_or_else(|_| Value::map());
    comparison.value(&at(from), &at(to), false);
    comparison.patches
}

/// The patches from one document to another that shows other entries, or the same under other names. Marks are told anew for every
/// text that has any, or might have had.
pub(super) fn compare_documents(old: &am::Automerge, new: &am::Automerge) -> Vec<Patch> {
    let mut comparison = Comparison { path: Vec::new(), patches: Vec::new() };
    comparison.value(&old.hydrate(None), &new.hydrate(None), false);
    let mut before = BTreeSet::new();
    texts(old, &am::ROOT, &mut Vec::new(), &mut |_, text| {
        let marks = old.marks(text).unwrap_or_default();
        before.extend(marks.iter().map(|mark| mark.name().to_owned()));
    });
    comparison.marks(new, &before);
    comparison.patches
}

/// Calls back with every text that shows.
fn texts(doc: &am::Automerge, obj: &am::ObjId, path: &mut Vec<Prop>, each: &mut impl FnMut(&[Prop], &am::ObjId)) {
    let kind = doc.object_type(obj);
    if matches!(kind, Ok(am::ObjType::Text)) {
        return each(path, obj);
    }
    let mut inside = |prop: Prop, value: am::Value<'_>, id: am::ObjId| {
        if value.is_object() {
            path.push(prop);
            texts(doc, &id, path, each);
            path.pop();
        }
    };
    if matches!(kind, Ok(am::ObjType::List)) {
        let values: Vec<_> = doc.values(obj).collect();
        values.into_iter().enumerate().for_each(|(at, (value, id))| inside(at.into(), value, id));
        return;
    }
    for key in doc.keys(obj) {
        if let Ok(Some((value, id))) = doc.get(obj, key.as_str()) {
            inside(key.into(), value, id);
        }
    }
}

struct Comparison {
    path: Vec<Prop>,
    patches: Vec<Patch>,
}

impl Comparison {
    fn emit(&mut self, action: PatchAction) {
        self.patches.push(Patch { path: self.path.clone(), action });
    }

    fn at(&mut self, prop: impl Into<Prop>, f: impl FnOnce(&mut Comparison)) {
        self.path.push(prop.into());
        f(self);
        self.path.pop();
    }

    fn value(&mut self, old: &Value, new: &Value, conflict: bool) {
        match (old, new) {
            (Value::Map(old), Value::Map(new)) => self.map(old, new),
            (Value::List(old), Value::List(new)) => {
                let old: Vec<&Value> = old.iter().map(|entry| &entry.value).collect();
                let conflicts: Vec<bool> = new.iter().map(|entry| entry.conflict).collect();
                self.list(&old, &new.iter().map(|entry| &entry.value).collect::<Vec<_>>(), &conflicts);
            }
            (Value::Text(old), Value::Text(new)) => self.text(&old.to_string(), &new.to_string()),
            (old, new) if old != new => self.emit(PatchAction::Put { value: hydrated_json(new), conflict }),
            _ => {}
        }
    }

    fn marks(&mut self, doc: &am::Automerge, before: &BTreeSet<String>) {
        texts(doc, &am::ROOT, &mut Vec::new(), &mut |path, text| {
            let now = doc.marks(text).unwrap_or_default();
            let end = doc.length(text);
            let off = |name: &String| MarkSpan { start: 0, end, name: name.clone(), value: Json::Null };
            let marks: Vec<MarkSpan> = before.iter().map(off).chain(now.iter().map(MarkSpan::from)).collect();
            if !marks.is_empty() && end > 0 {
                self.patches.push(Patch { path: path.to_vec(), action: PatchAction::Mark { marks } });
            }
        });
    }

    fn map(&mut self, old: &am::hydrate::Map, new: &am::hydrate::Map) {
        let (mut old, mut new): (Vec<_>, Vec<_>) = (old.iter().collect(), new.iter().collect());
        old.sort_unstable_by_key(|(key, _)| *key);
        new.sort_unstable_by_key(|(key, _)| *key);
        let find = |key: &String| old.binary_search_by_key(&key, |(key, _)| key).ok().map(|at| old[at].1);
        for (key, entry) in &new {
            self.at(key.as_str(), |inner| match find(key) {
                Some(was) if was.value == entry.value && entry.conflict && !was.conflict => {
                    inner.emit(PatchAction::Conflict);
                }
                Some(was) => inner.value(&was.value, &entry.value, entry.conflict),
                None => {
                    let (value, conflict) = (hydrated_json(&entry.value), entry.conflict);
                    inner.emit(PatchAction::Put { value, conflict });
                }
            });
        }
        for (key, _) in old {
            if new.binary_search_by_key(&key, |(key, _)| key).is_err() {
                self.at(key.as_str(), |inner| inner.emit(PatchAction::Delete));
            }
        }
    }

    fn list(&mut self, old: &[&Value], new: &[&Value], conflicts: &[bool]) {
        // Back to front, so that earlier positions stay good.
        for hunk in diff(old, new).into_iter().rev() {
            if hunk.old.len() == hunk.new.len() {
                for (index, at) in hunk.old.zip(hunk.new) {
                    self.at(index, |inner| inner.value(old[index], new[at], conflicts[at]));
                }
                continue;
            }
            let index = hunk.old.start;
            if !hunk.old.is_empty() {
                self.emit(PatchAction::DeleteRange { index, length: hunk.old.len() });
            }
            if !hunk.new.is_empty() {
                let values = new[hunk.new].iter().map(|value| hydrated_json(value)).collect();
                self.emit(PatchAction::Insert { index, values });
            }
        }
    }

    fn text(&mut self, old: &str, new: &str) {
        let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
        for hunk in diff(&old, &new).into_iter().rev() {
            let index = hunk.old.start;
            if !hunk.old.is_empty() {
                self.emit(PatchAction::DeleteRange { index, length: hunk.old.len() });
            }
            if !hunk.new.is_empty() {
                let text = new[hunk.new].iter().collect();
                self.emit(PatchAction::SpliceText { index, text, marks: Default::default() });
            }
        }
    }
}
