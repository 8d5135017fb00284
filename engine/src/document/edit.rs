//! What a closure may do to a document: typed edits by object handle, checked against the rules before they touch anything.
//!
//! Every edit is also noted as a command, so that a failed closure can be undone by replaying the ones before it: the same
//! commands on the same document make the same operation ids.

use automerge as am;
use automerge::ReadDoc;
use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::{OwnedTransaction, Transactable};
use commonhold_sync::limits::Rules;

use super::base::Base;
use super::diff::diff;
use super::ids::Ids;
use super::read;
use super::value::{ObjId, ObjKind, Prop, Scalar, Value};
use crate::contain::contain;

/// An edit that was refused. The document is as it was before the closure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// Nothing stands at that place, or something that is no object.
    #[error("no object at {0}")]
    NotFound(String),
    /// The edit does not fit what stands there.
    #[error("{edit} does not fit a {found:?}")]
    WrongKind {
        /// The edit.
        edit: &'static str,
        /// What stands there.
        found: ObjKind,
    },
    /// An index or a range beyond the end.
    #[error("index {index} is beyond the end at {len}")]
    Index {
        /// The index, or the end of the range.
        index: usize,
        /// Length of the object.
        len: usize,
    },
    /// Only counters can be incremented.
    #[error("no counter to increment")]
    NotACounter,
    /// Bigger than the rules of the space allow.
    #[error("{what} of {size} bytes, at most {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// An object inside more others than the rules of the space allow.
    #[error("an object inside {max} others, and no more are allowed")]
    TooDeep {
        /// The limit.
        max: u32,
    },
    /// The version that the edit is meant for is not held, or not any more.
    #[error("the version that this edit was made at is not held here")]
    UnknownVersion,
    /// The value has no JSON form.
    #[error("value has no json form: {0}")]
    Json(String),
    /// No chain to write under: call `set_chain` first.
    #[error("no chain to write under")]
    NoChain,
    /// The chain to write under has forked: another peer goes on with it. Call `set_chain` with a new one.
    #[error("the chain to write under has forked")]
    ChainForked,
    /// The document has no operation numbers left.
    #[error("document has no operation numbers left")]
    Full,
    /// The document was damaged by a fault of ours and waits for a rebuild from the log.
    #[error("document waits for a rebuild")]
    Broken,
    /// A refusal that has no name of its own.
    #[error("refused: {0}")]
    Other(String),
}

/// Which side of a mark grows when text is typed at its edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expand {
    /// Neither.
    None,
    /// The start.
    Before,
    /// The end.
    After,
    /// Both.
    Both,
}

impl From<Expand> for ExpandMark {
    fn from(expand: Expand) -> Self {
        match expand {
            Expand::None => ExpandMark::None,
            Expand::Before => ExpandMark::Before,
            Expand::After => ExpandMark::After,
            Expand::Both => ExpandMark::Both,
        }
    }
}

/// One edit as it was made.
#[derive(Debug, Clone)]
pub(super) enum Command {
    Put(am::ObjId, am::Prop, am::ScalarValue),
    PutObject(am::ObjId, am::Prop, am::ObjType),
    Insert(am::ObjId, usize, am::ScalarValue),
    InsertMany(am::ObjId, usize, Vec<am::ScalarValue>),
    InsertObject(am::ObjId, usize, am::ObjType),
    Delete(am::ObjId, am::Prop),
    Increment(am::ObjId, am::Prop, i64),
    Splice(am::ObjId, usize, usize, String),
    Mark(am::ObjId, Box<Mark>, ExpandMark),
}

impl Command {
    pub(super) fn apply(&self, tx: &mut OwnedTransaction) -> Result<Option<am::ObjId>, am::AutomergeError> {
        match self {
            Command::Put(obj, prop, value) => tx.put(obj, prop.clone(), value.clone())?,
            Command::PutObject(obj, prop, kind) => return tx.put_object(obj, prop.clone(), *kind).map(Some),
            Command::Insert(obj, index, value) => tx.insert(obj, *index, value.clone())?,
            Command::InsertMany(obj, index, values) => tx.splice(obj, *index, 0, values.iter().cloned())?,
            Command::InsertObject(obj, index, kind) => return tx.insert_object(obj, *index, *kind).map(Some),
            Command::Delete(obj, prop) => tx.delete(obj, prop.clone())?,
            Command::Increment(obj, prop, by) => tx.increment(obj, prop.clone(), *by)?,
            Command::Splice(obj, at, delete, text) => tx.splice_text(obj, *at, *delete as isize, text)?,
            Command::Mark(obj, mark, expand) => tx.mark(obj, (**mark).clone(), *expand)?,
        }
        Ok(None)
    }

    /// Whether it puts something in place of an element of a list.
    pub(super) fn replaces_element(&self) -> bool {
        matches!(self, Command::Put(_, am::Prop::Seq(_), _) | Command::PutObject(_, am::Prop::Seq(_), _))
    }

    /// An upper bound of the bytes that this adds to a change, and the operations. 16 bytes an operation hold four
    /// numbers of five bytes less what the run-length columns always save; the canary is a test of random edits.
    pub(super) fn cost(&self) -> (usize, usize) {
        let (ops, payload) = match self {
            Command::Put(_, prop, value) => (1, value_bytes(value) + prop_bytes(prop)),
            Command::PutObject(_, prop, _) | Command::Delete(_, prop) | Command::Increment(_, prop, _) => {
                (1, prop_bytes(prop))
            }
            Command::Insert(_, _, value) => (1, value_bytes(value)),
            Command::InsertMany(_, _, values) => (values.len(), values.iter().map(value_bytes).sum()),
            Command::InsertObject(..) => (1, 0),
            Command::Splice(_, _, delete, text) => (delete + text.chars().count(), text.len()),
            Command::Mark(_, mark, _) => (2, mark.name().len() + value_bytes(mark.value())),
        };
        (ops, 16 * ops + payload + 16)
    }
}

fn value_bytes(value: &am::ScalarValue) -> usize {
    Scalar::from(value).size()
}

fn prop_bytes(prop: &am::Prop) -> usize {
    match prop {
        am::Prop::Map(key) => key.len(),
        am::Prop::Seq(_) => 0,
    }
}

/// An open edit of one document.
pub struct Edit<'a> {
    pub(super) tx: &'a mut OwnedTransaction,
    pub(super) commands: &'a mut Vec<Command>,
    pub(super) rules: &'a Rules,
    pub(super) ids: Ids<'a>,
    /// Operations that one command may make, so that changes can be cut between commands.
    pub(super) piece_ops: usize,
    /// A command failed half-way. The closure may go on, but what it did is undone.
    pub(super) torn: bool,
    /// The version that [`Edit::set`] and [`Edit::make_so`] are meant for, if it is not the present one.
    pub(super) base: Option<Base<'a>>,
}

impl Edit<'_> {
    fn run(&mut self, command: Command) -> Result<Option<am::ObjId>, EditError> {
        let before = self.tx.pending_ops();
        match command.apply(self.tx) {
            Ok(made) => {
                if self.tx.pending_ops() != before {
                    self.commands.push(command);
                }
                Ok(made)
            }
            Err(error) => {
                self.torn |= self.tx.pending_ops() != before;
                Err(refusal(error))
            }
        }
    }

    fn made(&mut self, command: Command) -> Result<ObjId, EditError> {
        let made = self.run(command)?.expect("commands that make an object return it");
        Ok(self.ids.handle(&made))
    }

    /// The handle's object in the library.
    pub(super) fn inner(&self, obj: &ObjId) -> Result<am::ObjId, EditError> {
        self.ids.object(obj).ok_or_else(unknown_handle)
    }

    /// The object at a path from the root.
    pub fn resolve(&self, path: &[Prop]) -> Result<ObjId, EditError> {
        read::resolve(&*self.tx, path).map(|(obj, _)| self.ids.handle(&obj)).ok_or_else(|| not_found(path))
    }

    /// The kind of an object.
    pub fn kind(&self, obj: &ObjId) -> Result<ObjKind, EditError> {
        self.tx.object_type(self.inner(obj)?).map(ObjKind::from).map_err(refusal)
    }

    /// What stands at a place; the winner where there is a conflict.
    pub fn get(&self, obj: &ObjId, prop: impl Into<Prop>) -> Option<Value> {
        let found = self.tx.get(self.inner(obj).ok()?, am::Prop::from(&prop.into()));
        found.ok().flatten().map(|found| Value::from_am(found, self.ids))
    }

    /// Keys of a map, sorted.
    pub fn keys(&self, obj: &ObjId) -> Vec<String> {
        self.inner(obj).map(|obj| self.tx.keys(obj).collect()).unwrap_or_default()
    }

    /// Entries of a map, elements of a list, code points of a text.
    pub fn len(&self, obj: &ObjId) -> usize {
        self.inner(obj).map_or(0, |obj| self.tx.length(obj))
    }

    /// Whether an object has nothing in it.
    pub fn is_empty(&self, obj: &ObjId) -> bool {
        self.len(obj) == 0
    }

    /// The content of a text.
    pub fn text(&self, obj: &ObjId) -> Result<String, EditError> {
        self.expect(obj, "reading text", &[ObjKind::Text])?;
        self.tx.text(self.inner(obj)?).map_err(refusal)
    }

    /// Puts a plain value under a key of a map or in place of an element of a list.
    pub fn put(&mut self, obj: &ObjId, prop: impl Into<Prop>, value: impl Into<Scalar>) -> Result<(), EditError> {
        let (prop, value) = (self.place(obj, prop.into(), "put")?, self.value(value.into())?);
        self.run(Command::Put(self.inner(obj)?, prop, value)).map(drop)
    }

    /// Puts a new, empty object under a key of a map or in place of an element of a list.
    pub fn put_object(&mut self, obj: &ObjId, prop: impl Into<Prop>, kind: ObjKind) -> Result<ObjId, EditError> {
        let prop = self.place(obj, prop.into(), "put")?;
        self.room_inside(obj)?;
        self.made(Command::PutObject(self.inner(obj)?, prop, kind.into()))
    }

    /// Inserts a plain value into a list, before `index`.
    pub fn insert(&mut self, list: &ObjId, index: usize, value: impl Into<Scalar>) -> Result<(), EditError> {
        self.gap(list, index)?;
        let value = self.value(value.into())?;
        self.run(Command::Insert(self.inner(list)?, index, value)).map(drop)
    }

    /// Inserts plain values into a list, before `index`: far quicker than one by one, each of which looks through the list.
    pub fn insert_many(
        &mut self,
        list: &ObjId,
        index: usize,
        values: impl IntoIterator<Item = Scalar>,
    ) -> Result<(), EditError> {
        self.gap(list, index)?;
        let obj = self.inner(list)?;
        let mut values = values.into_iter().map(|value| self.value(value)).collect::<Result<Vec<_>, _>>()?;
        // A command must fit one change, as all of its values do if each of them is small.
        let (mut index, most) = (index, self.rules.change_bytes_max / 2);
        while !values.is_empty() {
            let mut bytes = 0;
            let fits = values.iter().take(self.piece_ops).take_while(|value| {
                bytes += 16 + value_bytes(value);
                bytes <= most
            });
            let rest = values.split_off(fits.count().max(1));
            let piece = std::mem::replace(&mut values, rest);
            let count = piece.len();
            self.run(Command::InsertMany(obj.clone(), index, piece))?;
            index += count;
        }
        Ok(())
    }

    /// Inserts a new, empty object into a list, before `index`.
    pub fn insert_object(&mut self, list: &ObjId, index: usize, kind: ObjKind) -> Result<ObjId, EditError> {
        self.gap(list, index)?;
        self.room_inside(list)?;
        self.made(Command::InsertObject(self.inner(list)?, index, kind.into()))
    }

    /// Deletes a key of a map (nothing happens where there is none) or an element of a list.
    pub fn delete(&mut self, obj: &ObjId, prop: impl Into<Prop>) -> Result<(), EditError> {
        let prop = self.place(obj, prop.into(), "delete")?;
        self.run(Command::Delete(self.inner(obj)?, prop)).map(drop)
    }

    /// Adds to a counter.
    pub fn increment(&mut self, obj: &ObjId, prop: impl Into<Prop>, by: i64) -> Result<(), EditError> {
        let prop = self.place(obj, prop.into(), "increment")?;
        self.run(Command::Increment(self.inner(obj)?, prop, by)).map(drop)
    }

    /// Deletes `delete` code points of a text from `at` on and inserts `insert` there.
    pub fn splice_text(&mut self, text: &ObjId, at: usize, delete: usize, insert: &str) -> Result<(), EditError> {
        self.expect(text, "splice", &[ObjKind::Text])?;
        let len = self.len(text);
        match at.checked_add(delete) {
            Some(end) if end <= len => {}
            end => return Err(EditError::Index { index: end.unwrap_or(usize::MAX), len }),
        }
        let mut left = delete;
        while left > 0 {
            let before = self.len(text);
            self.run(Command::Splice(self.inner(text)?, at, left.min(self.piece_ops), String::new()))?;
            // Another program may have made elements wider than one code point; they go as a whole.
            match before - self.len(text) {
                0 => break,
                gone => left = left.saturating_sub(gone),
            }
        }
        let (mut at, mut rest) = (at, insert);
        while !rest.is_empty() {
            let cut = rest.char_indices().nth(self.piece_ops).map_or(rest.len(), |(cut, _)| cut);
            let (piece, tail) = rest.split_at(cut);
            self.run(Command::Splice(self.inner(text)?, at, 0, piece.to_owned()))?;
            (at, rest) = (at + piece.chars().count(), tail);
        }
        Ok(())
    }

    /// Makes a text read `content`, by small splices where it differs.
    pub fn update_text(&mut self, text: &ObjId, content: &str) -> Result<(), EditError> {
        let old: Vec<char> = self.text_was(text)?.chars().collect();
        let new: Vec<char> = content.chars().collect();
        // Back to front, so that earlier positions stay good.
        for hunk in diff(&old, &new).into_iter().rev() {
            let insert: String = new[hunk.new].iter().collect();
            let gap = self.gap_now(text, hunk.old.start)?;
            let gone = self.ranges_now(text, hunk.old)?;
            if let [gone] = gone.as_slice()
                && gone.start == gap
            {
                self.splice_text(text, gap, gone.len(), &insert)?;
                continue;
            }
            gone.into_iter().try_for_each(|gone| self.splice_text(text, gone.start, gone.len(), ""))?;
            self.splice_text(text, gap, 0, &insert)?;
        }
        Ok(())
    }

    /// Marks the code points from `start` to before `end` of a text with a named value.
    pub fn mark(
        &mut self,
        text: &ObjId,
        start: usize,
        end: usize,
        expand: Expand,
        name: &str,
        value: impl Into<Scalar>,
    ) -> Result<(), EditError> {
        self.expect(text, "mark", &[ObjKind::Text])?;
        let len = self.len(text);
        if start >= end || end > len {
            return Err(EditError::Index { index: end, len });
        }
        self.within("mark name", name.len(), self.rules.key_bytes_max)?;
        let value = self.value(value.into())?;
        let mark = Box::new(Mark::new(name.to_owned(), value, start, end));
        self.run(Command::Mark(self.inner(text)?, mark, expand.into())).map(drop)
    }

    /// Takes a mark off the code points from `start` to before `end`.
    pub fn unmark(
        &mut self,
        text: &ObjId,
        start: usize,
        end: usize,
        expand: Expand,
        name: &str,
    ) -> Result<(), EditError> {
        self.mark(text, start, end, expand, name, Scalar::Null)
    }

    fn expect(&self, obj: &ObjId, edit: &'static str, kinds: &[ObjKind]) -> Result<ObjKind, EditError> {
        let found = self.kind(obj)?;
        kinds.contains(&found).then_some(found).ok_or(EditError::WrongKind { edit, found })
    }

    /// A place in a map or list that can be written.
    fn place(&self, obj: &ObjId, prop: Prop, edit: &'static str) -> Result<am::Prop, EditError> {
        match (self.expect(obj, edit, &[ObjKind::Map, ObjKind::List])?, &prop) {
            (ObjKind::Map, Prop::Key(key)) => self.within("key", key.len(), self.rules.key_bytes_max)?,
            (ObjKind::List, Prop::Index(index)) if *index < self.len(obj) => {}
            (ObjKind::List, Prop::Index(index)) => return Err(EditError::Index { index: *index, len: self.len(obj) }),
            (found, _) => return Err(EditError::WrongKind { edit, found }),
        }
        Ok((&prop).into())
    }

    /// Whether another object may lie in this one.
    fn room_inside(&self, obj: &ObjId) -> Result<(), EditError> {
        let max = self.rules.depth_max;
        let obj = self.inner(obj)?;
        // Contained, because the library compares two ways to see whether an object on the way shows, which differ where it
        // conflicts with a counter that was incremented: a build with debug assertions panics. It is not asked that.
        let above = contain(|| self.tx.parents(&obj).map_or(0, Iterator::count)).unwrap_or(0);
        if above as u64 >= u64::from(max) { Err(EditError::TooDeep { max }) } else { Ok(()) }
    }

    fn gap(&self, list: &ObjId, index: usize) -> Result<(), EditError> {
        self.expect(list, "insert", &[ObjKind::List])?;
        let len = self.len(list);
        if index > len { Err(EditError::Index { index, len }) } else { Ok(()) }
    }

    fn value(&self, value: Scalar) -> Result<am::ScalarValue, EditError> {
        self.within("value", value.size(), self.rules.value_bytes_max)?;
        Ok(value.into())
    }

    fn within(&self, what: &'static str, size: usize, max: usize) -> Result<(), EditError> {
        if size > max { Err(EditError::TooLarge { what, size, max }) } else { Ok(()) }
    }
}

pub(super) fn not_found(path: &[Prop]) -> EditError {
    let shown: Vec<String> = path.iter().map(Prop::to_string).collect();
    EditError::NotFound(format!("[{}]", shown.join(", ")))
}

fn unknown_handle() -> EditError {
    EditError::NotFound("that handle".into())
}

pub(super) fn refusal(error: am::AutomergeError) -> EditError {
    match error {
        am::AutomergeError::MissingCounter => EditError::NotACounter,
        am::AutomergeError::NotAnObject | am::AutomergeError::InvalidObjId(_) => unknown_handle(),
        error => EditError::Other(error.to_string()),
    }
}
