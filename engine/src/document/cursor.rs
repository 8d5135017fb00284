//! Cursors: places in lists and texts that stay where they are while others edit around them.

use std::fmt;
use std::str::FromStr;

use automerge as am;
use automerge::ReadDoc;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::edit::{Command, EditError, not_found, refusal};
use super::ids::OpName;
use super::op_index::{OpRef, Role};
use super::read;
use super::value::{ObjId, Prop};
use super::view::{Doc, View, with_doc};
use crate::contain::contain;

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
        let Some(element) = &cursor.element else {
            return with_doc!(self, doc => doc.object_type(&obj).ok()?.is_sequence().then(|| doc.length(&obj)));
        };
        // The library panics where the element is not in that object.
        if let (Some(op), Some(index)) = (ids.op(element), &self.index) {
            let (holder, role) = index.get(op)?;
            let list = index.object_id(holder);
            let fits = matches!(role, Role::Element { .. }) && list == ids.op(&cursor.obj.0);
            if !fits {
                return None;
            }
        }
        let actor = ids.actor(element)?;
        let inner = am::Cursor::try_from(format!("{}@{actor}", element.counter)).ok()?;
        let found = contain(|| with_doc!(self, doc => doc.get_cursor_position(&obj, &inner, None).ok()));
        match (found, &self.doc) {
            (Ok(found), _) => found,
            // With debug assertions the library compares two ways to find it, which differ where elements conflict.
            (Err(_), Doc::Idle(doc)) => {
                let heads = doc.get_heads();
                contain(|| doc.get_cursor_position(&obj, &inner, Some(&heads)).ok()).ok().flatten()
            }
            (Err(_), Doc::Open(_)) => None,
        }
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
