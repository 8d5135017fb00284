//! What a document should show, said in part: how patches from outside become edits.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::edit::{Edit, EditError};
use super::reconcile_json::{DEPTH_MAX, Place};
use super::value::{ObjId, ObjKind, Value};

/// What should stand at a place.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// What stands there.
    Kept,
    /// This value, by the smallest edits ([`Edit::set`]).
    Value(Json),
    /// A map. Keys that are not named stay as they are, `None` deletes one.
    Map(BTreeMap<String, Option<Wanted>>),
    /// A list of exactly these elements.
    List(Vec<Element>),
}

/// An element of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    /// The index that it had; `None` for a new one. Those that stay are in their old order.
    pub was: Option<usize>,
    /// What it should be.
    pub now: Wanted,
}

impl Edit<'_> {
    /// Makes the document what is wanted. The document itself is a map.
    pub fn make_so(&mut self, wanted: &Wanted) -> Result<(), EditError> {
        self.look_again();
        match wanted {
            Wanted::Kept => Ok(()),
            Wanted::Value(json) => self.set_json(&[], json),
            Wanted::Map(keys) => self.want_keys(&ObjId::ROOT, keys, DEPTH_MAX),
            Wanted::List(_) => Err(EditError::Json("the document itself is a map".into())),
        }
    }

    fn want(&mut self, parent: &ObjId, place: Place<'_>, wanted: &Wanted, depth: usize) -> Result<(), EditError> {
        let depth = depth.checked_sub(1).ok_or(EditError::Json("nested too deep".into()))?;
        let kind = match wanted {
            Wanted::Kept => return Ok(()),
            Wanted::Value(json) => return self.reconcile(parent, place, json, depth),
            Wanted::Map(_) => ObjKind::Map,
            Wanted::List(_) => ObjKind::List,
        };
        let stood = match self.stands(parent, &place) {
            Some(Value::Object(found, obj)) if found == kind => Some(obj),
            _ => None,
        };
        let there = stood.as_ref().map_or(Ok(false), |obj| self.still_stands(parent, &place, obj))?;
        let obj = match (stood, &place) {
            (Some(obj), _) if there => obj,
            // A part of an element that others deleted does not bring it back.
            (Some(_), Place::At(_)) => return Ok(()),
            (Some(_), _) => match self.stands_now(parent, &place)? {
                Some(Value::Object(found, other)) if found == kind => other,
                _ => self.make(parent, &place, kind)?,
            },
            (None, _) => self.make(parent, &place, kind)?,
        };
        match wanted {
            Wanted::Map(keys) => self.want_keys(&obj, keys, depth),
            Wanted::List(elements) if there => self.want_elements(&obj, elements, depth),
            // Of another list than was meant, nothing is known but what comes to it.
            Wanted::List(elements) => {
                let new: Vec<Element> = elements.iter().filter(|element| element.was.is_none()).cloned().collect();
                self.want_elements(&obj, &new, depth)
            }
            Wanted::Kept | Wanted::Value(_) => Ok(()),
        }
    }

    fn want_keys(
        &mut self,
        obj: &ObjId,
        keys: &BTreeMap<String, Option<Wanted>>,
        depth: usize,
    ) -> Result<(), EditError> {
        keys.iter().try_for_each(|(key, wanted)| match wanted {
            Some(wanted) => self.want(obj, Place::Key(key), wanted, depth),
            None => self.delete_was(obj, key),
        })
    }

    fn want_elements(&mut self, obj: &ObjId, elements: &[Element], depth: usize) -> Result<(), EditError> {
        // Back to front, so that earlier positions stay good.
        let (mut end, mut rest) = (self.len_was(obj), elements);
        while !rest.is_empty() {
            let kept = rest.iter().rposition(|element| element.was.is_some());
            let gap = kept.and_then(|at| rest[at].was).map_or(0, |index| index + 1);
            if gap > end {
                return Err(EditError::Index { index: gap, len: end });
            }
            self.delete_range_was(obj, gap..end)?;
            let place = self.gap_now(obj, gap)?;
            for new in rest[kept.map_or(0, |at| at + 1)..].iter().rev() {
                self.want(obj, Place::Before(place), &new.now, depth)?;
            }
            let Some(at) = kept else { return Ok(()) };
            self.want(obj, Place::At(gap - 1), &rest[at].now, depth)?;
            (end, rest) = (gap - 1, &rest[..at]);
        }
        self.delete_range_was(obj, 0..end)
    }
}
