//! The operations of a change, read row by row from its columns, and the rules for each.

use super::column::{Bools, Delta, Rle};
use super::read::Reader;
use super::{Actor, Fault, Frame, PREDS_PER_OP};
use crate::limits::Rules;

pub(super) const COLUMNS: usize = 14;

/// Column specifications (id × 16 + type) that Automerge 0.12 writes into a change, in order: object actor and counter;
/// key actor, counter and string; insert; action; value type and bytes; number of predecessors, their actors and
/// counters; expand; mark name. All peers must agree on what a change means, so no other column is let through.
pub(super) const SPECS: [u64; COLUMNS] =
    [0x01, 0x02, 0x11, 0x13, 0x15, 0x34, 0x42, 0x56, 0x57, 0x70, 0x71, 0x73, 0x94, 0xa5];

/// Name of an operation: counter and actor, as an index into the change's actors (0 is its author).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpId {
    /// From 1.
    pub counter: u64,
    /// For [`ChangeHead::actor_at`](super::ChangeHead::actor_at).
    pub actor: u16,
}

/// Where in its object an operation acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// Under this key of a map.
    Map(&'a str),
    /// Before the first element of a list or text; only ever with `insert`.
    Head,
    /// At the element that this operation inserted, or directly after it with `insert`.
    Elem(OpId),
}

/// What an operation does. Automerge's table (6) is left out: version 0.12 panics at operations inside one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make a map here.
    MakeMap,
    /// Put a scalar here.
    Set,
    /// Make a list here.
    MakeList,
    /// Remove the predecessors, of which there is at least one.
    Delete,
    /// Make a text here.
    MakeText,
    /// Add an integer to the predecessors, which should be counters.
    Increment,
    /// Begin of a mark if the operation has a mark name, else its end.
    Mark,
}

impl Action {
    fn read(code: u64) -> Result<Self, Fault> {
        Ok(match code {
            0 => Action::MakeMap,
            1 => Action::Set,
            2 => Action::MakeList,
            3 => Action::Delete,
            4 => Action::MakeText,
            5 => Action::Increment,
            7 => Action::Mark,
            other => return Err(Fault::Action(other)),
        })
    }

    /// Whether the operation makes an object, whose id is then the operation's.
    pub fn makes(&self) -> bool {
        matches!(self, Action::MakeMap | Action::MakeList | Action::MakeText)
    }
}

/// Type of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    Null,
    False,
    True,
    Uint,
    Int,
    Float,
    Str,
    Bytes,
    Counter,
    Timestamp,
    /// Types 10 to 15, which later versions may give a meaning.
    Unknown(u8),
}

/// A scalar as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    /// Its type.
    pub kind: ValueKind,
    /// LEB128 for the integer types, 8 bytes little-endian for a float, UTF-8 for a string.
    pub bytes: &'a [u8],
}

impl Value<'_> {
    /// Splits a row of the value column into type and length.
    pub(super) fn kind_and_length(meta: u64) -> (ValueKind, u64) {
        let kind = match (meta & 15) as u8 {
            0 => ValueKind::Null,
            1 => ValueKind::False,
            2 => ValueKind::True,
            3 => ValueKind::Uint,
            4 => ValueKind::Int,
            5 => ValueKind::Float,
            6 => ValueKind::Str,
            7 => ValueKind::Bytes,
            8 => ValueKind::Counter,
            9 => ValueKind::Timestamp,
            other => ValueKind::Unknown(other),
        };
        (kind, meta >> 4)
    }

    fn check(&self, rules: &Rules) -> Result<(), Fault> {
        if self.bytes.len() > rules.value_bytes_max {
            return Err(Fault::ValueBytes);
        }
        let mut input = Reader::new(self.bytes);
        let well_formed = match self.kind {
            ValueKind::Null | ValueKind::False | ValueKind::True => self.bytes.is_empty(),
            ValueKind::Uint => input.unsigned().is_ok() && input.is_empty(),
            ValueKind::Int | ValueKind::Counter | ValueKind::Timestamp => input.signed().is_ok() && input.is_empty(),
            ValueKind::Float => self.bytes.len() == 8,
            ValueKind::Str => return core::str::from_utf8(self.bytes).map(drop).map_err(|_| Fault::Utf8),
            ValueKind::Bytes | ValueKind::Unknown(_) => true,
        };
        if well_formed { Ok(()) } else { Err(Fault::Value) }
    }
}

/// Predecessors of one operation: what it replaces, in ascending order.
#[derive(Debug, Clone)]
pub struct Preds<'a> {
    actor: Rle<'a, u64>,
    counter: Delta<'a>,
    left: u64,
}

impl Preds<'_> {
    fn try_next(&mut self) -> Result<Option<OpId>, Fault> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        id(Some(self.actor.value()?), Some(self.counter.value()?))
    }
}

impl Iterator for Preds<'_> {
    type Item = OpId;

    fn next(&mut self) -> Option<OpId> {
        self.try_next().ok().flatten()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, usize::try_from(self.left).ok())
    }
}

/// One operation of a change.
#[derive(Debug, Clone)]
pub struct Op<'a> {
    /// Its own id; the actor is always 0.
    pub id: OpId,
    /// The object that it changes; `None` is the root map.
    pub obj: Option<OpId>,
    /// The place in that object.
    pub key: Key<'a>,
    /// Whether it makes a new list element after `key`.
    pub insert: bool,
    /// What it does.
    pub action: Action,
    /// What it puts, adds or marks with; null for the other actions.
    pub value: Value<'a>,
    /// What it replaces.
    pub preds: Preds<'a>,
    /// Whether a mark grows at this end.
    pub expand: bool,
    /// Name of the mark that begins here.
    pub mark_name: Option<&'a str>,
}

/// An id from its two columns; `None` where both are null.
fn id(actor: Option<u64>, counter: Option<i64>) -> Result<Option<OpId>, Fault> {
    match (actor, counter) {
        (None, None) => Ok(None),
        (Some(actor), Some(counter @ 1..)) => {
            let actor = u16::try_from(actor).map_err(|_| Fault::ActorIndex)?;
            Ok(Some(OpId { counter: counter.unsigned_abs(), actor }))
        }
        _ => Err(Fault::Id),
    }
}

/// All columns of a change, at one row.
#[derive(Debug, Clone)]
struct Rows<'a> {
    counter: u64,
    left: u64,
    obj_actor: Rle<'a, u64>,
    obj_counter: Rle<'a, u64>,
    key_actor: Rle<'a, u64>,
    key_counter: Delta<'a>,
    key_str: Rle<'a, &'a str>,
    insert: Bools<'a>,
    action: Rle<'a, u64>,
    value_meta: Rle<'a, u64>,
    value: Reader<'a>,
    pred_count: Rle<'a, u64>,
    preds: Preds<'a>,
    expand: Bools<'a>,
    mark_name: Rle<'a, &'a str>,
}

impl<'a> Rows<'a> {
    /// `left` is the number of rows to read at most.
    fn new(frame: &Frame<'a>, left: u64) -> Self {
        let [
            obj_actor,
            obj_counter,
            key_actor,
            key_counter,
            key_str,
            insert,
            action,
            value_meta,
            value,
            pred_count,
            pred_actor,
            pred_counter,
            expand,
            mark_name,
        ] = frame.columns;
        Rows {
            counter: frame.start_op,
            left,
            obj_actor: Rle::new(obj_actor),
            obj_counter: Rle::new(obj_counter),
            key_actor: Rle::new(key_actor),
            key_counter: Delta::new(key_counter),
            key_str: Rle::new(key_str),
            insert: Bools::new(insert),
            action: Rle::new(action),
            value_meta: Rle::new(value_meta),
            value: Reader::new(value),
            pred_count: Rle::new(pred_count),
            preds: Preds { actor: Rle::new(pred_actor), counter: Delta::new(pred_counter), left: 0 },
            expand: Bools::new(expand),
            mark_name: Rle::new(mark_name),
        }
    }

    /// The next row. The caller moves `self.preds` past those of the row.
    #[inline]
    fn next(&mut self) -> Result<Option<Op<'a>>, Fault> {
        if self.left == 0 {
            return Ok(None);
        }
        let action = Action::read(self.action.value()?)?;
        let obj_counter = self.obj_counter.cell()?.map(|c| i64::try_from(c).unwrap_or(i64::MAX));
        let obj = id(self.obj_actor.cell()?, obj_counter)?;
        let key = match (self.key_str.cell()?, self.key_actor.cell()?, self.key_counter.cell()?) {
            (Some(key), None, None) => Key::Map(key),
            (None, None, Some(0)) => Key::Head,
            (None, actor @ Some(_), counter @ Some(_)) => Key::Elem(id(actor, counter)?.ok_or(Fault::Key)?),
            _ => return Err(Fault::Key),
        };
        let insert = self.insert.value()?;
        let (kind, length) = Value::kind_and_length(self.value_meta.value()?);
        let value = Value { kind, bytes: self.value.take(length)? };
        let preds = Preds { left: self.pred_count.value()?, ..self.preds.clone() };
        let (expand, mark_name) = (self.expand.cell()?, self.mark_name.cell()?);
        let id = OpId { counter: self.counter, actor: 0 };
        self.counter = self.counter.saturating_add(1);
        self.left -= 1;
        Ok(Some(Op { id, obj, key, insert, action, value, preds, expand, mark_name }))
    }

    /// Passes over the predecessors of `op`, in a few steps however many it claims.
    fn pass_preds(&mut self, op: &Option<Op<'_>>) -> Result<(), Fault> {
        let count = op.as_ref().map_or(0, |op| op.preds.left);
        self.preds.actor.skip(count)?;
        self.preds.counter.skip(count)
    }

    /// That no column has more rows than there are operations.
    fn end(&self) -> Result<(), Fault> {
        for column in [&self.obj_actor, &self.obj_counter, &self.key_actor, &self.action, &self.value_meta] {
            column.end()?;
        }
        self.key_counter.end()?;
        self.key_str.end()?;
        self.insert.end()?;
        self.pred_count.end()?;
        self.preds.actor.end()?;
        self.preds.counter.end()?;
        self.expand.end_unless_false()?;
        self.mark_name.end()?;
        if self.value.is_empty() { Ok(()) } else { Err(Fault::Rows) }
    }
}

/// Iterator over the operations of a change, in the order of their counters. From [`ops()`](super::ops()).
#[derive(Debug, Clone)]
pub struct Ops<'a> {
    rows: Option<Rows<'a>>,
}

impl<'a> Ops<'a> {
    pub(super) fn new(frame: Option<&Frame<'a>>) -> Self {
        // The action column has a row per operation; it ends where it ends.
        Ops { rows: frame.filter(|f| !f.columns[6].is_empty()).map(|frame| Rows::new(frame, u64::MAX)) }
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Op<'a>;

    fn next(&mut self) -> Option<Op<'a>> {
        let rows = self.rows.as_mut()?;
        let op = rows.next().and_then(|op| rows.pass_preds(&op).map(|()| op)).ok().flatten();
        if op.is_none() {
            self.rows = None;
        }
        op
    }
}

/// Sum over the rows of a column of counts, refused as soon as it passes `max`. Costs a run at a time.
fn total(mut column: Rle<'_, u64>, max: u64, weigh: impl Fn(u64) -> u64, fault: Fault) -> Result<u64, Fault> {
    let mut sum = 0u64;
    while let Some((rows, value)) = column.next_run(u64::MAX)? {
        sum = sum.saturating_add(rows.saturating_mul(weigh(value.ok_or(Fault::Encoding)?)));
        if sum > max {
            return Err(fault);
        }
    }
    Ok(sum)
}

/// Walks all operations and returns their number.
pub(super) fn check(frame: &Frame<'_>, actor: &Actor, others: &[Actor], rules: &Rules) -> Result<u64, Fault> {
    // Runs make millions of rows out of a few bytes, so both totals are known before the first row is read.
    let (start, mut rows) = (frame.start_op, Rows::new(frame, 0));
    let ops = total(rows.action, rules.change_ops_max, |_| 1, Fault::Ops)?;
    total(rows.pred_count, rules.change_ops_max * PREDS_PER_OP, |n| n, Fault::Preds)?;
    if start == 0 || start.checked_add(ops).is_none_or(|end| end > rules.op_counter_end) {
        return Err(Fault::Counter);
    }
    rows.left = ops;

    let mut names =
        Names { start, own_rank: others.partition_point(|other| other < actor), used: vec![false; others.len()] };
    let mut mark_begun = None;
    while let Some(op) = rows.next()? {
        if let Some(obj) = op.obj {
            names.earlier(obj, &op)?;
        }
        if let Key::Elem(elem) = op.key {
            names.earlier(elem, &op)?;
        }
        let mut before = None;
        rows.preds.left = op.preds.left;
        while let Some(pred) = rows.preds.try_next()? {
            names.earlier(pred, &op)?;
            let place = Some((pred.counter, names.rank(pred.actor)));
            if place <= before {
                return Err(Fault::PredsOrder);
            }
            before = place;
        }

        op.check(before.is_some(), rules)?;
        // Automerge takes the operation before a mark's end for its begin, and loads no document where the end comes
        // first: at the head it would, and next to its begin too, because later insertions go further to the front.
        let ends = |(obj, key)| obj == op.obj && key != op.key && op.key != Key::Head;
        if op.action == Action::Mark && op.mark_name.is_none() && !mark_begun.is_some_and(ends) {
            return Err(Fault::Mark);
        }
        mark_begun = op.mark_name.map(|_| (op.obj, op.key));
    }
    rows.end()?;
    if names.used.contains(&false) {
        return Err(Fault::ActorsOrder);
    }
    Ok(ops)
}

/// What the ids in a change may name.
struct Names {
    start: u64,
    /// Where the author would stand among the other actors.
    own_rank: usize,
    used: Vec<bool>,
}

impl Names {
    /// Ids of others come from the past, which ends before `start_op`; the change's own from before the operation.
    fn earlier(&mut self, id: OpId, op: &Op<'_>) -> Result<(), Fault> {
        let end = match usize::from(id.actor).checked_sub(1) {
            None => op.id.counter,
            Some(other) => {
                *self.used.get_mut(other).ok_or(Fault::ActorIndex)? = true;
                self.start
            }
        };
        if id.counter < end { Ok(()) } else { Err(Fault::Id) }
    }

    /// Place of an actor in the order of all actors' bytes, by which ids with equal counters are sorted.
    fn rank(&self, actor: u16) -> usize {
        match usize::from(actor).checked_sub(1) {
            None => self.own_rank,
            Some(other) => other + usize::from(other >= self.own_rank),
        }
    }
}

impl Op<'_> {
    /// That the fields fit together in a way that Automerge writes, and keeps when it stores and rebuilds the change:
    /// a delete, for example, survives only in the successor lists of what it deleted, so it carries nothing else.
    fn check(&self, has_preds: bool, rules: &Rules) -> Result<(), Fault> {
        let key_bytes = if let Key::Map(key) = self.key { key.len() } else { 0 };
        if key_bytes.max(self.mark_name.map_or(0, str::len)) > rules.key_bytes_max {
            return Err(Fault::KeyBytes);
        }
        self.value.check(rules)?;
        let key_fits = match self.key {
            Key::Map(_) => !self.insert,
            Key::Head => self.insert && self.obj.is_some(),
            Key::Elem(_) => self.obj.is_some(),
        };
        if !key_fits {
            return Err(Fault::Key);
        }
        let is_null = self.value.kind == ValueKind::Null;
        let shape_fits = match self.action {
            Action::MakeMap | Action::MakeList | Action::MakeText => is_null,
            Action::Set => true,
            Action::Delete => !self.insert && is_null && has_preds,
            Action::Increment => !self.insert && self.adds() && has_preds,
            Action::Mark => self.insert && (self.mark_name.is_some() || is_null),
        };
        let plain = self.action == Action::Mark || (!self.expand && self.mark_name.is_none());
        // A new element has nothing to replace.
        if shape_fits && plain && !(self.insert && has_preds) { Ok(()) } else { Err(Fault::Shape) }
    }

    /// Whether the value is an integer that Automerge can add.
    fn adds(&self) -> bool {
        match self.value.kind {
            ValueKind::Int => true,
            ValueKind::Uint => Reader::new(self.value.bytes).unsigned().is_ok_and(|n| n <= i64::MAX as u64),
            _ => false,
        }
    }
}
