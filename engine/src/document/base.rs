//! Edits that were meant for an earlier version: what stood there is read at that version, and written where the same object or
//! element is now. Without a base, both are the present.
//!
//! What others did since is kept: a key that got another value is not deleted, an element that moved is found by the operation that
//! inserted it, and what is inserted goes behind the element that it was put behind.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;

use automerge as am;
use automerge::ReadDoc;
use commonhold_sync::id::EntryId;
use serde_json::Value as Json;

use super::edit::{Edit, EditError, refusal};
use super::ids::Ids;
use super::op_index::{OpIndex, OpRef, Role};
use super::value::{ObjId, ObjKind, Prop, Value, hydrated_json};
use super::view::View;

/// The version that an edit was meant for.
pub(super) struct Base<'a> {
    heads: Version,
    index: &'a OpIndex,
    /// Where the elements of a list or text are that it had then. Each object is edited back to front, so what is found before its
    /// first edit stays good.
    found: RefCell<HashMap<ObjId, Rc<[Found]>>>,
}

/// Where an element is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Its index; behind the last shown one before it, if it is deleted.
    pub(super) at: usize,
    pub(super) shown: bool,
}

/// What a base needs of a view besides the document.
pub(super) type Version = Vec<am::ChangeHash>;

impl View {
    /// The version in the library's terms; none if it is the present one. Pending edits become a change, and what was loaded is checked,
    /// so that every element can be found.
    pub(super) fn base(&mut self, version: &[EntryId]) -> Result<Option<Version>, EditError> {
        self.commit().map_err(|_| EditError::Broken)?;
        if !version.iter().all(|id| self.contains(id)) {
            return Err(EditError::UnknownVersion);
        }
        let (heads, now) = [version, &self.heads()].map(|ids| self.renaming.hashes(&self.graph, ids)).into();
        if sorted(&heads) == sorted(&now) {
            return Ok(None);
        }
        self.verify().map_err(|_| EditError::Broken)?;
        Ok(Some(heads))
    }
}

fn sorted(heads: &[am::ChangeHash]) -> BTreeSet<&am::ChangeHash> {
    heads.iter().collect()
}

impl<'a> Base<'a> {
    pub(super) fn new(heads: Version, index: &'a OpIndex) -> Self {
        Base { heads, index, found: RefCell::default() }
    }

    /// The operation that inserted an element which now has the value of another.
    fn element(&self, ids: Ids<'_>, value: &am::ObjId) -> Option<OpRef> {
        let am::ObjId::Id(counter, actor, _) = value else { return None };
        let op = ids.op(&ids.name(*counter, actor))?;
        match self.index.get(op)?.1 {
            Role::Update(element) => Some(element),
            _ => Some(op),
        }
    }

    /// Where the elements are now that an object had, by index. Reads both versions of it in full.
    fn find(&self, doc: &impl ReadDoc, ids: Ids<'_>, obj: &am::ObjId) -> Vec<Found> {
        // An element of a text may be wider than one code point.
        let width = |value: &am::Value<'_>| match value {
            am::Value::Scalar(scalar) if is_text(doc, obj) => scalar.as_str().map_or(1, |text| text.chars().count()),
            _ => 1,
        };
        let mut now = HashMap::new();
        let mut end = 0;
        for (value, id) in doc.values(obj) {
            let from = end;
            end += width(&value);
            now.extend(self.element(ids, &id).map(|element| (element, from..end)));
        }
        let (mut found, mut behind) = (Vec::new(), 0);
        for (value, id) in doc.values_at(obj, &self.heads) {
            let place = self.element(ids, &id).and_then(|element| now.get(&element)).filter(|place| !place.is_empty());
            for step in 0..width(&value) {
                found.push(match place {
                    Some(place) => Found { at: (place.start + step).min(place.end - 1), shown: true },
                    None => Found { at: behind, shown: false },
                });
            }
            behind = place.map_or(behind, |place| place.end);
        }
        found
    }
}

fn is_text(doc: &impl ReadDoc, obj: &am::ObjId) -> bool {
    matches!(doc.object_type(obj), Ok(am::ObjType::Text))
}

impl Edit<'_> {
    /// Forgets where elements were found: what was edited since has moved them.
    pub(super) fn look_again(&mut self) {
        self.base.iter_mut().for_each(|base| base.found.get_mut().clear());
    }

    /// Whether others have edited since the version that this edit is meant for.
    pub fn merges(&self) -> bool {
        self.base.is_some()
    }

    fn heads(&self) -> Option<&[am::ChangeHash]> {
        self.base.as_ref().map(|base| base.heads.as_slice())
    }

    fn found(&self, obj: &am::ObjId, prop: &Prop) -> Option<(am::Value<'_>, am::ObjId)> {
        let prop = am::Prop::from(prop);
        match self.heads() {
            None => self.tx.get(obj, prop),
            Some(heads) => self.tx.get_at(obj, prop, heads),
        }
        .ok()?
    }

    /// What stood at a place.
    pub(super) fn was(&self, obj: &ObjId, prop: impl Into<Prop>) -> Option<Value> {
        let found = self.found(&self.inner(obj).ok()?, &prop.into());
        found.map(|found| Value::from_am(found, self.ids))
    }

    /// The object at a path from the root, as it was.
    pub(super) fn resolve_was(&self, path: &[Prop]) -> Result<ObjId, EditError> {
        path.iter().try_fold(ObjId::ROOT, |obj, prop| match self.was(&obj, prop.clone()) {
            Some(Value::Object(_, obj)) => Ok(obj),
            _ => Err(super::edit::not_found(path)),
        })
    }

    pub(super) fn keys_were(&self, obj: &ObjId) -> Vec<String> {
        let Ok(obj) = self.inner(obj) else { return Vec::new() };
        match self.heads() {
            None => self.tx.keys(obj).collect(),
            Some(heads) => self.tx.keys_at(obj, heads).collect(),
        }
    }

    pub(super) fn len_was(&self, obj: &ObjId) -> usize {
        let Ok(obj) = self.inner(obj) else { return 0 };
        match self.heads() {
            None => self.tx.length(obj),
            Some(heads) => self.tx.length_at(obj, heads),
        }
    }

    pub(super) fn text_was(&self, obj: &ObjId) -> Result<String, EditError> {
        let obj = self.inner(obj)?;
        match self.heads() {
            None => self.tx.text(obj),
            Some(heads) => self.tx.text_at(obj, heads),
        }
        .map_err(refusal)
    }

    /// What stood at a place, as JSON; null where nothing did.
    pub(super) fn json_was(&self, obj: &ObjId, prop: impl Into<Prop>) -> Json {
        match self.was(obj, prop) {
            None => Json::Null,
            Some(Value::Scalar(scalar)) => scalar.to_json(),
            Some(Value::Object(_, obj)) => {
                let value = self.inner(&obj).ok().and_then(|obj| self.tx.hydrate(obj, self.heads()).ok());
                value.map(|value| hydrated_json(&value)).unwrap_or_default()
            }
        }
    }

    /// Where the element that had an index is now.
    pub(super) fn now(&self, obj: &ObjId, index: usize) -> Result<Found, EditError> {
        let Some(base) = &self.base else { return Ok(Found { at: index, shown: true }) };
        let known = base.found.borrow().get(obj).cloned();
        let found = match known {
            Some(found) => found,
            None => {
                let found: Rc<[Found]> = base.find(&*self.tx, self.ids, &self.inner(obj)?).into();
                base.found.borrow_mut().insert(obj.clone(), found.clone());
                found
            }
        };
        found.get(index).copied().ok_or(EditError::Index { index, len: found.len() })
    }

    /// The index before which to insert what was meant to go before one. What is added at the end of a list stays at its end.
    pub(super) fn gap_now(&self, obj: &ObjId, index: usize) -> Result<usize, EditError> {
        if self.base.is_none() {
            return Ok(index);
        }
        if index == self.len_was(obj) && self.kind(obj)? == ObjKind::List {
            return Ok(self.len(obj));
        }
        match index.checked_sub(1) {
            None => Ok(0),
            Some(before) => self.now(obj, before).map(|found| found.at + usize::from(found.shown)),
        }
    }

    /// Where elements are now that had these indexes, last first; those that are deleted are nowhere.
    pub(super) fn ranges_now(&self, obj: &ObjId, range: Range<usize>) -> Result<Vec<Range<usize>>, EditError> {
        if self.base.is_none() {
            return Ok(if range.is_empty() { Vec::new() } else { vec![range] });
        }
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for index in range.rev() {
            let Found { at, shown } = self.now(obj, index)?;
            match ranges.last_mut() {
                _ if !shown => {}
                Some(last) if last.start <= at + 1 => last.start = at,
                _ => ranges.push(at..at + 1),
            }
        }
        Ok(ranges)
    }

    /// Deletes a key, unless somebody has put another value there since.
    pub(super) fn delete_was(&mut self, obj: &ObjId, key: &str) -> Result<(), EditError> {
        if self.base.is_some() {
            let inner = self.inner(obj)?;
            let is = self.tx.get(&inner, key).map_err(refusal)?.map(|(_, id)| id);
            if is.is_none() || is != self.found(&inner, &Prop::from(key)).map(|(_, id)| id) {
                return Ok(());
            }
        }
        self.delete(obj, key)
    }
}
