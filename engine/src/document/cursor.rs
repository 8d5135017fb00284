//! Cursors: places in lists and texts that stay where they are while others edit around them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use automerge as am;
use automerge::ReadDoc;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::edit::{Command, EditError, not_found, refusal};
use super::ids::OpName;
use super::op_index::{OpIndex, OpRef, Role};
use super::read;
use super::value::{ObjId, Prop};
use super::view::{View, with_doc};
use crate::contain::contain;

/// Runs of elements walked to find one position. Far more than any document has; a bound all the same.
const ORDER_STEPS: usize = 1 << 24;

/// A place in a list or text: at an element, or behind the last. It has a text form, means the same to every peer that holds the
/// entry that made the element, and stays good whatever happens to the names inside a view.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor {
    obj: ObjId,
    /// None: behind the last element, whatever that is.
    element: Option<OpName>,
}

impl Cursor {
    /// The list or text that it is in.
    pub fn object(&self) -> &ObjId {
        &self.obj
    }
}

impl fmt::Debug for OpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.element {
            Some(element) => write!(f, "{}/{element}", self.obj.0),
            None => write!(f, "{}/end", self.obj.0),
        }
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor")]
pub struct NotACursor;

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Cursor, NotACursor> {
        let (obj, element) = text.split_once('/').ok_or(NotACursor)?;
        let name = |text: &str| text.parse::<OpName>().map_err(|()| NotACursor);
        let element = if element == "end" { None } else { Some(name(element)?) };
        Ok(Cursor { obj: ObjId(name(obj)?), element })
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cursor, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl View {
    /// A cursor at an index of the list or text at a path; at its length, one that stays behind the last element. The first one of
    /// a loaded view pays for checking what was loaded, as the first batch does. Elements of a list that were replaced since
    /// the last change was closed close it.
    pub fn cursor(&mut self, path: &[Prop], index: usize) -> Result<Cursor, EditError> {
        if self.index.is_none() || self.commands.iter().any(Command::replaces_element) {
            self.commit().map_err(|_| EditError::Broken)?;
            self.verify().map_err(|_| EditError::Broken)?;
        }
        let (inner, element) = with_doc!(self, doc => {
            let (obj, kind) = read::resolve(doc, path).ok_or_else(|| not_found(path))?;
            if !kind.is_sequence() {
                return Err(EditError::WrongKind { edit: "a cursor", found: kind.into() });
            }
            let len = doc.length(&obj);
            if index > len {
                return Err(EditError::Index { index, len });
            }
            let found = (index < len).then(|| doc.get_cursor(&obj, index, None).map_err(refusal)).transpose()?;
            (obj, found)
        });
        let obj = self.ids().handle(&inner);
        let element = element.map(|element| self.element(&element).ok_or(EditError::Broken)).transpose()?;
        Ok(Cursor { obj, element })
    }

    /// Where a cursor stands now; where the element was, if it is deleted. None if the view does not hold the element.
    pub fn position(&self, cursor: &Cursor) -> Option<usize> {
        let ids = self.ids();
        let obj = ids.object(&cursor.obj)?;
        let len = with_doc!(self, doc => doc.object_type(&obj).ok()?.is_sequence().then(|| doc.length(&obj)))?;
        let Some(element) = &cursor.element else { return Some(len) };
        match (ids.op(element), &self.index) {
            (Some(op), Some(index)) => self.search(index, &obj, len, op),
            // Being edited, or in a view that was loaded and not checked yet.
            _ => {
                let inner = am::Cursor::try_from(format!("{}@{}", element.counter, ids.actor(element)?)).ok()?;
                // The library panics where the element is not in that object.
                contain(|| with_doc!(self, doc => doc.get_cursor_position(&obj, &inner, None).ok())).ok().flatten()
            }
        }
    }

    /// The first index of a list or text that is not before an element. The library's own cursors are no help: where elements
    /// conflict or are deleted at the end, its two ways to find them differ, on which a build with debug assertions panics.
    fn search(&self, index: &OpIndex, obj: &am::ObjId, len: usize, element: OpRef) -> Option<usize> {
        let ids = self.ids();
        let list = |op: OpRef| index.get(op).map(|(obj, role)| (index.object_id(obj), role));
        let named = match obj {
            am::ObjId::Root => None,
            am::ObjId::Id(counter, actor, _) => ids.op(&ids.name(*counter, actor)),
        };
        match list(element)? {
            (holder, Role::Element { .. }) if holder == named => {}
            _ => return None,
        }
        let at = |place: usize| {
            let (_, id) = with_doc!(self, doc => doc.get(obj, place).ok().flatten())?;
            let am::ObjId::Id(counter, actor, _) = id else { return None };
            let op = ids.op(&ids.name(counter, &actor))?;
            match list(op)?.1 {
                Role::Update(element) => Some(element),
                _ => Some(op),
            }
        };
        let (mut from, mut to, mut steps) = (0, len, ORDER_STEPS);
        while from < to {
            let middle = from + (to - from) / 2;
            // What is being edited is in no index yet.
            let known = (middle..to).find_map(|index| at(index).map(|element| (index, element)));
            let order = match known {
                Some((_, other)) => index.order(other, element, |a, b| self.graph.op_order(a, b), &mut steps)?,
                None => Ordering::Greater,
            };
            match (order, known) {
                (Ordering::Less, Some((index, _))) => from = index + 1,
                // An element may be wider than one code point.
                (Ordering::Equal, Some((index, _))) if index > middle || middle == from => return Some(index),
                _ => to = middle,
            }
        }
        Some(from)
    }

    /// The operation that inserted the element on which a cursor of the library stands: that one may name its present value.
    fn element(&self, cursor: &am::Cursor) -> Option<OpName> {
        let text = cursor.to_string();
        let (counter, actor) = text.split_once('@')?;
        let (counter, actor) = (counter.parse().ok()?, am::ActorId::try_from(actor).ok()?);
        let ids = self.ids();
        let name = ids.name(counter, &actor);
        let stands = ids.op(&name).and_then(|op| self.index.as_ref()?.get(op));
        let Some((_, Role::Update(OpRef { line, counter }))) = stands else { return Some(name) };
        let holder = self.graph.holder(line, counter)?;
        Some(OpName { chain: *self.graph.name(line), counter, entry: Some(self.graph.id(holder)) })
    }
}
