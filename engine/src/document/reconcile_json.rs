//! "Make it so": turns a wanted JSON value into the few edits that lead there, so that concurrent edits of other parts survive.
//!
//! Maps go key by key. Strings are collaborative text (as in today's JavaScript apps) and are spliced. Lists of objects with an `id` are
//! matched by it, other lists by equal elements; what is left in a gap is updated in place, pair by pair. Equal values are not touched.
//! What stands there is what stood at the version that the edit is meant for ([`base`](super::base)).

use serde::Serialize;
use serde_json::Value as Json;

use super::base::Found;
use super::diff::diff;
use super::edit::{Edit, EditError, not_found};
use super::value::{ObjId, ObjKind, Prop, Scalar, Value};

/// Depth of JSON that is taken. serde_json reads no deeper than 128 itself.
pub(super) const DEPTH_MAX: usize = 128;

/// Where a value goes.
pub(super) enum Place<'a> {
    Key(&'a str),
    /// In place of the element that had this index.
    At(usize),
    /// Before the element that has this index now.
    Before(usize),
}

/// A string to put as a plain scalar, replaced as a whole: an enumeration, a hash, a URL. Once it stands there,
/// [`Edit::set`] keeps it one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalarString(pub String);

impl From<ScalarString> for Scalar {
    fn from(text: ScalarString) -> Self {
        Scalar::Str(text.0)
    }
}

impl Edit<'_> {
    /// Makes what stands at a path equal to a value. The path's parent must exist; an index equal to the length of its list
    /// appends. An empty path is the document itself, which must be a map.
    pub fn set<T: Serialize + ?Sized>(&mut self, path: &[Prop], value: &T) -> Result<(), EditError> {
        let json = serde_json::to_value(value).map_err(|e| EditError::Json(e.to_string()))?;
        self.set_json(path, &json)
    }

    /// [`Edit::set`] for a JSON value. A string that stands there as a plain scalar stays one.
    pub fn set_json(&mut self, path: &[Prop], value: &Json) -> Result<(), EditError> {
        self.look_again();
        let Some((last, parents)) = path.split_last() else {
            let Json::Object(map) = value else {
                return Err(EditError::Json("the document itself is a map".into()));
            };
            return self.reconcile_map(&ObjId::ROOT, map, DEPTH_MAX);
        };
        let parent = self.resolve_was(parents)?;
        match (self.kind(&parent)?, last) {
            (ObjKind::Map, Prop::Key(key)) => self.reconcile(&parent, Place::Key(key), value, DEPTH_MAX),
            (ObjKind::List, Prop::Index(index)) if *index == self.len_was(&parent) => {
                let place = Place::Before(self.gap_now(&parent, *index)?);
                self.reconcile(&parent, place, value, DEPTH_MAX)
            }
            (ObjKind::List, Prop::Index(index)) => self.reconcile(&parent, Place::At(*index), value, DEPTH_MAX),
            (ObjKind::Text, _) => Err(EditError::WrongKind { edit: "put", found: ObjKind::Text }),
            _ => Err(not_found(path)),
        }
    }

    /// What stood there.
    pub(super) fn stands(&self, parent: &ObjId, place: &Place<'_>) -> Option<Value> {
        match *place {
            Place::Key(key) => self.was(parent, key),
            Place::At(index) => self.was(parent, index),
            Place::Before(_) => None,
        }
    }

    /// What stands there now.
    pub(super) fn stands_now(&self, parent: &ObjId, place: &Place<'_>) -> Result<Option<Value>, EditError> {
        Ok(match *place {
            Place::Key(key) => self.get(parent, key),
            Place::At(index) => match self.now(parent, index)? {
                Found { at, shown: true } => self.get(parent, at),
                Found { shown: false, .. } => None,
            },
            Place::Before(_) => None,
        })
    }

    /// Whether the object that stood there still does.
    pub(super) fn still_stands(&self, parent: &ObjId, place: &Place<'_>, obj: &ObjId) -> Result<bool, EditError> {
        Ok(!self.merges() || matches!(self.stands_now(parent, place)?, Some(Value::Object(_, found)) if found == *obj))
    }

    pub(super) fn reconcile(
        &mut self,
        parent: &ObjId,
        place: Place<'_>,
        value: &Json,
        depth: usize,
    ) -> Result<(), EditError> {
        let depth = depth.checked_sub(1).ok_or(EditError::Json("nested too deep".into()))?;
        let mut stands = self.stands(parent, &place);
        if let Some(Value::Object(_, obj)) = &stands
            && !self.still_stands(parent, &place, obj)?
        {
            // Others took it away, or put something else there. What this edit leaves as it was stays so; else it is written anew.
            let was = match place {
                Place::Key(key) => self.json_was(parent, key),
                Place::At(index) | Place::Before(index) => self.json_was(parent, index),
            };
            if was == *value {
                return Ok(());
            }
            stands = None;
        }
        // What reads the same stays what it is: bytes read as a list of numbers, a counter and a date as a number.
        if let Some(Value::Scalar(old)) = &stands
            && old.to_json() == *value
        {
            return Ok(());
        }
        match (value, stands) {
            (Json::Object(map), Some(Value::Object(ObjKind::Map, obj))) => self.reconcile_map(&obj, map, depth),
            (Json::Array(list), Some(Value::Object(ObjKind::List, obj))) => self.reconcile_list(&obj, list, depth),
            (Json::String(text), Some(Value::Object(ObjKind::Text, obj))) => self.update_text(&obj, text),
            (Json::String(text), Some(Value::Scalar(Scalar::Str(_)))) => {
                self.put_scalar(parent, &place, Scalar::Str(text.clone()))
            }
            (Json::Object(map), _) => {
                let obj = self.make(parent, &place, ObjKind::Map)?;
                self.reconcile_map(&obj, map, depth)
            }
            (Json::Array(list), _) => {
                let obj = self.make(parent, &place, ObjKind::List)?;
                self.insert_json(&obj, 0, list, depth)
            }
            (Json::String(text), _) => {
                let obj = self.make(parent, &place, ObjKind::Text)?;
                self.splice_text(&obj, 0, 0, text)
            }
            // A counter that should read another number goes there by an increment, so that it stays a counter.
            (Json::Number(n), Some(Value::Scalar(Scalar::Counter(old)))) if n.is_i64() => {
                let by = n.as_i64().unwrap_or_default().wrapping_sub(old);
                self.count(parent, &place, by)
            }
            (Json::Number(n), Some(Value::Scalar(Scalar::Timestamp(_)))) if n.is_i64() => {
                self.put_scalar(parent, &place, Scalar::Timestamp(n.as_i64().unwrap_or_default()))
            }
            (plain, _) => self.put_scalar(parent, &place, scalar_of(plain)),
        }
    }

    fn reconcile_map(
        &mut self,
        obj: &ObjId,
        map: &serde_json::Map<String, Json>,
        depth: usize,
    ) -> Result<(), EditError> {
        for key in self.keys_were(obj) {
            if !map.contains_key(&key) {
                self.delete_was(obj, &key)?;
            }
        }
        map.iter().try_for_each(|(key, value)| self.reconcile(obj, Place::Key(key), value, depth))
    }

    fn reconcile_list(&mut self, obj: &ObjId, list: &[Json], depth: usize) -> Result<(), EditError> {
        let depth = depth.checked_sub(1).ok_or(EditError::Json("nested too deep".into()))?;
        let old: Vec<Json> = (0..self.len_was(obj)).map(|n| self.json_was(obj, n)).collect();
        let by_id = old.iter().chain(list).all(|value| identity(value).is_some());
        let hunks = if by_id {
            diff(&old.iter().map(identity).collect::<Vec<_>>(), &list.iter().map(identity).collect::<Vec<_>>())
        } else {
            diff(&old.iter().collect::<Vec<_>>(), &list.iter().collect::<Vec<_>>())
        };
        // Back to front, so that earlier positions stay good.
        let (mut old_end, mut new_end) = (old.len(), list.len());
        for hunk in hunks.into_iter().rev() {
            self.update_pairs(obj, hunk.old.end..old_end, &old, &list[hunk.new.end..new_end], depth)?;
            (old_end, new_end) = (hunk.old.start, hunk.new.start);
            let pairs = if by_id { 0 } else { hunk.old.len().min(hunk.new.len()) };
            let new = &list[hunk.new.start + pairs..hunk.new.end];
            let place = self.gap_now(obj, hunk.old.end)?;
            self.insert_json(obj, place, new, depth)?;
            self.delete_range_was(obj, hunk.old.start + pairs..hunk.old.end)?;
            let paired = hunk.old.start..hunk.old.start + pairs;
            self.update_pairs(obj, paired, &old, &list[hunk.new.start..hunk.new.start + pairs], depth)?;
        }
        self.update_pairs(obj, 0..old_end, &old, &list[..new_end], depth)
    }

    /// Deletes the elements of a list that had these indexes.
    pub(super) fn delete_range_was(&mut self, obj: &ObjId, range: std::ops::Range<usize>) -> Result<(), EditError> {
        for range in self.ranges_now(obj, range)? {
            range.rev().try_for_each(|index| self.delete(obj, index))?;
        }
        Ok(())
    }

    /// Inserts new elements into a list.
    fn insert_json(&mut self, list: &ObjId, index: usize, values: &[Json], depth: usize) -> Result<(), EditError> {
        let is_plain = |value: &Json| !(value.is_object() || value.is_array() || value.is_string());
        let mut index = index;
        for run in values.chunk_by(|a, b| is_plain(a) && is_plain(b)) {
            match is_plain(&run[0]) {
                true => self.insert_many(list, index, run.iter().map(scalar_of))?,
                false => self.reconcile(list, Place::Before(index), &run[0], depth)?,
            }
            index += run.len();
        }
        Ok(())
    }

    fn update_pairs(
        &mut self,
        obj: &ObjId,
        at: std::ops::Range<usize>,
        old: &[Json],
        new: &[Json],
        depth: usize,
    ) -> Result<(), EditError> {
        // Back to front here too: what others deleted comes back by an insertion.
        for (index, value) in at.zip(new).rev() {
            if old[index] != *value {
                self.reconcile(obj, Place::At(index), value, depth)?;
            }
        }
        Ok(())
    }

    pub(super) fn make(&mut self, parent: &ObjId, place: &Place<'_>, kind: ObjKind) -> Result<ObjId, EditError> {
        match *place {
            Place::Key(key) => self.put_object(parent, key, kind),
            Place::At(index) => match self.now(parent, index)? {
                Found { at, shown: true } => self.put_object(parent, at, kind),
                // Others deleted it. To write wins, as it does where both are on their way.
                Found { at, shown: false } => self.insert_object(parent, at, kind),
            },
            Place::Before(index) => self.insert_object(parent, index, kind),
        }
    }

    fn put_scalar(&mut self, parent: &ObjId, place: &Place<'_>, value: Scalar) -> Result<(), EditError> {
        match *place {
            Place::Key(key) => self.put(parent, key, value),
            Place::At(index) => match self.now(parent, index)? {
                Found { at, shown: true } => self.put(parent, at, value),
                Found { at, shown: false } => self.insert(parent, at, value),
            },
            Place::Before(index) => self.insert(parent, index, value),
        }
    }

    /// Adds to a counter, if it is still there: to count what somebody else took away would count nothing.
    fn count(&mut self, parent: &ObjId, place: &Place<'_>, by: i64) -> Result<(), EditError> {
        let prop = match *place {
            Place::Key(key) => Prop::from(key),
            Place::At(index) => match self.now(parent, index)? {
                Found { at, shown: true } => Prop::from(at),
                Found { shown: false, .. } => return Ok(()),
            },
            Place::Before(index) => Prop::from(index),
        };
        match self.get(parent, prop.clone()) {
            Some(Value::Scalar(Scalar::Counter(_))) => self.increment(parent, prop, by),
            _ => Ok(()),
        }
    }
}

/// What an element of a list is known by.
fn identity(value: &Json) -> Option<&Json> {
    value.get("id").filter(|id| id.is_string() || id.is_number())
}

fn scalar_of(plain: &Json) -> Scalar {
    match plain {
        Json::Bool(b) => Scalar::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Scalar::Int(n),
            (None, Some(n)) => Scalar::Uint(n),
            (None, None) => Scalar::F64(n.as_f64().unwrap_or_default()),
        },
        _ => Scalar::Null,
    }
}
