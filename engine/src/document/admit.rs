//! Semantic admission (rule M1): an entry may touch Automerge only if everything that it names is in its causal past
//! and of the right kind, and if its bytes are the one encoding that Automerge itself would write for it (a save keeps the
//! meaning, not the bytes, so any other encoding makes a document that does not load again).
//!
//! What is checked depends on the entry and its past only, so that all peers agree.

use std::cmp::Ordering;

use automerge as am;
use automerge::legacy;
use commonhold_sync::id::EntryId;
use commonhold_sync::limits::Rules;

use super::graph::{BRANCH_BYTES, ChainName, Clock, Graph, LineIdx, NodeId, Place, Span};
use super::op_index::{ObjIdx, OpIndex, OpRef, Role, all_distinct};
use super::value::ObjKind;
use crate::contain::contain;

/// Runs that the mark-order checks of one change may walk. Part of what makes a change valid, so as fixed as the rules:
/// 1,000 marks in a text of 16,000 runs (the largest editing trace has 11,000) pass; the bound is under a second.
const MARK_STEPS: usize = 1 << 24;

#[cfg(test)]
thread_local! {
    /// Fewer in a test that wants twins.
    pub(super) static TWIN_BYTES: std::cell::Cell<usize> = const { std::cell::Cell::new(BRANCH_BYTES) };
}

/// Why an entry may not be applied. All but `Missing` hold for good, and are the fault of the author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The bytes are no change.
    #[error("not a change: {0}")]
    Malformed(String),
    /// The bytes do not hash to the id that they came under.
    #[error("bytes hash to another id")]
    WrongId,
    /// The bytes are not what the CRDT library would write for the same operations.
    #[error("not in canonical encoding")]
    NotCanonical,
    /// The number does not follow the chain's last.
    #[error("number {found} where the chain goes on with {expected}")]
    Number {
        /// The next number of the chain.
        expected: u64,
        /// The number in the change.
        found: u64,
    },
    /// The chain's previous entry is not in the past.
    #[error("previous entry of the chain is not in the past")]
    OwnPast,
    /// The past shows two branches of the chain that goes on here.
    #[error("the past shows that the chain has forked")]
    OwnFork,
    /// Two branches begin with ids that share so many bytes that they cannot be told apart by name.
    #[error("a branch that begins like another")]
    Twin,
    /// The actor is no chain id.
    #[error("actor of {0} bytes, chains have 16")]
    ChainName(usize),
    /// The first operation does not exceed the past, or the last one exceeds the ceiling.
    #[error("operations from {start}, past ends at {past}")]
    StartOp {
        /// First operation of the change.
        start: u64,
        /// Highest operation of its past.
        past: u32,
    },
    /// Something follows the operations, as an author does, on another entry than the first.
    #[error("footer on number {0}")]
    Author(u64),
    /// An operation names an object that its past does not hold.
    #[error("operation {0}: no such object")]
    Object(u64),
    /// The key does not fit the object: a map key in a list, an element in a map, anything in a table.
    #[error("operation {0}: key does not fit the object")]
    Key(u64),
    /// An element does not exist in the past, or belongs to another list.
    #[error("operation {0}: no such element")]
    Element(u64),
    /// A predecessor does not exist in the past, stands elsewhere, or is named twice.
    #[error("operation {0}: bad predecessor")]
    Predecessor(u64),
    /// A kind of operation that cannot stand where it does.
    #[error("operation {0}: {1}")]
    Operation(u64, &'static str),
    /// A mark ends before it begins, or one end is missing.
    #[error("operation {0}: ends of a mark out of order")]
    MarkOrder(u64),
    /// An entry of its past is invalid.
    #[error("an entry in its past is invalid")]
    PastInvalid,
}

/// Reads a change without trusting it. The slot for `sync::change::walk`: its caps on operations, actors and strings have to
/// hold before this allocates.
pub(super) fn parse(id: EntryId, bytes: &[u8]) -> Result<am::Change, Fault> {
    let change = guarded(|| am::Change::try_from(bytes).map_err(|e| Fault::Malformed(e.to_string())))?;
    if change.hash().0 != id.0 {
        return Err(Fault::WrongId);
    }
    // A compressed change parses to the raw bytes, which differ from what was given.
    if change.raw_bytes() != bytes {
        return Err(Fault::NotCanonical);
    }
    Ok(change)
}

fn guarded<T>(f: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    contain(f).unwrap_or_else(|_| Err(Fault::Malformed("the decoder gave up".into())))
}

/// How much of an entry is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Everything.
    None,
    /// It was read out of a loaded document: its encoding is canonical by construction.
    Loaded,
}

/// Checks an entry whose dependencies are all in the graph, and adds it to graph and index, or leaves both as they were.
pub(super) fn admit(
    graph: &mut Graph,
    index: &mut OpIndex,
    rules: &Rules,
    change: &am::Change,
    deps: &[NodeId],
) -> Result<NodeId, Fault> {
    let name = change.actor_id().to_bytes();
    let name: &ChainName = name.try_into().map_err(|_| Fault::ChainName(name.len()))?;
    let (chain, found) = (graph.chain(name), change.seq());
    // The footer is a tag, the length of a device id, and the id (rule S6, as the walker of `sync` has it).
    let footer = change.extra_bytes();
    if !footer.is_empty() && (found > 1 || footer.len() != 34 || footer[..2] != [1, 32]) {
        return Err(Fault::Author(found));
    }
    let (start, past) = (change.start_op().get(), graph.max_op(deps));
    if start <= u64::from(past) || start + change.len() as u64 > rules.op_counter_end {
        return Err(Fault::StartOp { start, past });
    }
    let clock = graph.past(deps);
    // An entry continues the branch on which its predecessor lies.
    let last = chain.map_or(Ok(None), |chain| graph.last_in(chain, &clock)).map_err(|()| Fault::OwnFork)?;
    let expected = last.map_or(0, |node| u64::from(graph.node(node).seq)) + 1;
    if found != expected {
        let held = |line: &LineIdx| {
            let (_, shared) = graph.parent(*line);
            let end = u64::from(shared) + graph.entries(*line).len() as u64;
            found > expected && found <= end + 1
        };
        let known = chain.is_some_and(|chain| graph.lines_of(chain).iter().any(held));
        return Err(if known { Fault::OwnPast } else { Fault::Number { expected, found } });
    }
    let place = graph.place_after(chain, last);
    let id = EntryId(change.hash().0);
    if let (Some(chain), Place::Beside { parent, shared }) = (chain, place)
        && twin(graph, &graph.siblings(chain, parent, shared), &id).is_some_and(|twin| graph.id(twin) < id)
    {
        return Err(Fault::Twin);
    }
    // A chain that turns out to have no valid first entry stays in the table, empty. The rules bound chains per device.
    let line = graph.line_at(name, place);
    if let Err(fault) = check_ops(graph, index, rules, line, change, &clock, Trust::None) {
        graph.drop_empty(line);
        return Err(fault);
    }
    Ok(graph.push(id, line, start as u32, change.len() as u32, deps, Some(clock)))
}

/// One of these entries whose branch would be named like that of an entry with this id.
pub(super) fn twin(graph: &Graph, siblings: &[NodeId], id: &EntryId) -> Option<NodeId> {
    #[cfg(test)]
    let bytes = TWIN_BYTES.get();
    #[cfg(not(test))]
    let bytes = BRANCH_BYTES;
    siblings.iter().copied().find(|node| graph.id(*node).0[..bytes] == id.0[..bytes])
}

/// Checks the operations of a change and adds them to the index, or leaves it as it was.
pub(super) fn check_ops(
    graph: &Graph,
    index: &mut OpIndex,
    rules: &Rules,
    line: LineIdx,
    change: &am::Change,
    clock: &Clock,
    trust: Trust,
) -> Result<(), Fault> {
    let mark = index.mark(line);
    let checked = guarded(|| {
        let decoded = change.decode();
        let mut check = Check {
            graph,
            index,
            depth_max: rules.depth_max,
            clock,
            line,
            name: change.actor_id(),
            start: decoded.start_op.get() as u32,
            next: decoded.start_op.get() as u32,
            seen: Vec::new(),
            open_mark: None,
            steps: MARK_STEPS,
        };
        decoded.operations.iter().try_for_each(|op| check.op(op))?;
        if check.open_mark.is_some() {
            return Err(Fault::MarkOrder(u64::from(check.next)));
        }
        // Last, because it consumes the operations.
        if trust == Trust::None && am::Change::from(decoded).raw_bytes() != change.raw_bytes() {
            return Err(Fault::NotCanonical);
        }
        Ok(())
    });
    if checked.is_err() {
        index.cut(mark);
    }
    checked
}

struct Check<'a> {
    graph: &'a Graph,
    index: &'a mut OpIndex,
    depth_max: u32,
    clock: &'a Clock,
    line: LineIdx,
    name: &'a am::ActorId,
    /// Counter of the first operation of the change.
    start: u32,
    /// Counter of the operation at hand.
    next: u32,
    /// Names met in this change, and the operations of its past that they may mean.
    seen: Vec<(am::ActorId, Vec<Span>)>,
    /// A mark that began with the operation before: itself, its object, and what it was inserted after.
    open_mark: Option<(OpRef, ObjIdx, Option<OpRef>)>,
    steps: usize,
}

impl Check<'_> {
    fn op(&mut self, op: &legacy::Op) -> Result<(), Fault> {
        let id = OpRef { line: self.line, counter: self.next };
        let n = u64::from(self.next);
        let obj = match &op.obj {
            legacy::ObjectId::Root => 0,
            legacy::ObjectId::Id(made) => {
                self.resolve(made).and_then(|made| self.index.object(made)).ok_or(Fault::Object(n))?
            }
        };
        let kind = self.index.kind(obj).ok_or(Fault::Key(n))?;
        let role = match (&op.key, kind) {
            (legacy::Key::Map(key), ObjKind::Map) if !op.insert => Role::Key(self.index.key(key)),
            (legacy::Key::Seq(element), ObjKind::List | ObjKind::Text) => self.sequence_role(n, obj, op, element)?,
            _ => return Err(Fault::Key(n)),
        };
        self.action(n, id, obj, kind, op, role)?;
        self.predecessors(n, obj, op, role)?;
        if let legacy::OpType::Make(made) = op.action {
            self.index.push_object(id, Some(made.into()), obj);
        }
        match op.action {
            // Nothing may name these two later: a deletion leaves no trace but on what it deletes, and what an increment
            // changes is the counter.
            legacy::OpType::Delete => {
                let key = if let legacy::Key::Map(key) = &op.key { Some(key.as_str()) } else { None };
                self.index.note_deletion(obj, role, key);
            }
            legacy::OpType::Increment(_) => self.index.note_increment(),
            _ => self.index.push(id, obj, role),
        }
        self.next += 1;
        Ok(())
    }

    fn sequence_role(
        &mut self,
        n: u64,
        obj: ObjIdx,
        op: &legacy::Op,
        element: &legacy::ElementId,
    ) -> Result<Role, Fault> {
        let element = match element {
            legacy::ElementId::Head => None,
            legacy::ElementId::Id(id) => Some(self.resolve(id).ok_or(Fault::Element(n))?),
        };
        let stands = element.map(|element| self.index.get(element).ok_or(Fault::Element(n))).transpose()?;
        if stands.is_some_and(|(list, _)| list != obj) {
            return Err(Fault::Element(n));
        }
        let is_mark = matches!(op.action, legacy::OpType::MarkBegin(_) | legacy::OpType::MarkEnd(_));
        match (stands.map(|(_, role)| role), element) {
            (None | Some(Role::Element { .. } | Role::Mark { .. }), parent) if op.insert && is_mark => {
                Ok(Role::Mark { parent })
            }
            (None | Some(Role::Element { .. } | Role::Mark { .. }), parent) if op.insert => {
                Ok(Role::Element { parent })
            }
            (Some(Role::Element { .. }), Some(element)) if !op.insert => Ok(Role::Update(element)),
            _ => Err(Fault::Element(n)),
        }
    }

    fn action(
        &mut self,
        n: u64,
        id: OpRef,
        obj: ObjIdx,
        kind: ObjKind,
        op: &legacy::Op,
        role: Role,
    ) -> Result<(), Fault> {
        let begun = self.open_mark.take();
        if begun.is_some() && !matches!(op.action, legacy::OpType::MarkEnd(_)) {
            return Err(Fault::MarkOrder(n));
        }
        match (&op.action, role) {
            (legacy::OpType::Delete | legacy::OpType::Increment(_), _) if op.insert || op.pred.is_empty() => {
                Err(Fault::Operation(n, "deletion or increment of nothing"))
            }
            // Automerge panics at the next deletion where such a place has two values, as two authors make it have.
            (action, Role::Update(_)) if kind == ObjKind::Text && !matches!(action, legacy::OpType::Delete) => {
                Err(Fault::Operation(n, "value in place of an element of a text"))
            }
            // Automerge panics on whatever is put into one; the walker of `sync` refuses it as well.
            (legacy::OpType::Make(am::ObjType::Table), _) => Err(Fault::Operation(n, "table")),
            (legacy::OpType::Make(am::ObjType::List | am::ObjType::Text), _) if kind == ObjKind::Text => {
                Err(Fault::Operation(n, "list or text inside a text"))
            }
            (legacy::OpType::Make(_), _) if self.index.depth(obj) >= self.depth_max => {
                Err(Fault::Operation(n, "objects too deep inside each other"))
            }
            (legacy::OpType::MarkBegin(_), Role::Mark { parent }) if kind == ObjKind::Text => {
                self.open_mark = Some((id, obj, parent));
                Ok(())
            }
            (legacy::OpType::MarkEnd(_), Role::Mark { parent }) if kind == ObjKind::Text => {
                let (begin, list, begins_after) = begun.ok_or(Fault::MarkOrder(n))?;
                let ordered = list == obj && self.mark_ends_after(begin, begins_after, parent);
                ordered.then_some(()).ok_or(Fault::MarkOrder(n))
            }
            (legacy::OpType::MarkBegin(_) | legacy::OpType::MarkEnd(_), _) => {
                Err(Fault::Operation(n, "mark outside a text"))
            }
            _ => Ok(()),
        }
    }

    /// Both ends are the newest in their past, so each stands right behind what it was inserted after.
    fn mark_ends_after(&mut self, begin: OpRef, begins_after: Option<OpRef>, ends_after: Option<OpRef>) -> bool {
        let Some(ends_after) = ends_after else { return false };
        let Some(begins_after) = begins_after else { return true };
        if ends_after == begin {
            return true;
        }
        let newer = |a: OpRef, b: OpRef| self.graph.op_order(a, b);
        self.index.order(begins_after, ends_after, newer, &mut self.steps) == Some(Ordering::Less)
    }

    fn predecessors(&mut self, n: u64, obj: ObjIdx, op: &legacy::Op, role: Role) -> Result<(), Fault> {
        if op.pred.is_empty() {
            return Ok(());
        }
        let mut named = Vec::with_capacity(op.pred.len());
        for pred in op.pred.iter() {
            let pred = self.resolve(pred).ok_or(Fault::Predecessor(n))?;
            let (stands, was) = self.index.get(pred).ok_or(Fault::Predecessor(n))?;
            let same_place = match (role, was) {
                (Role::Key(key), Role::Key(old)) => key == old,
                (Role::Update(element), Role::Element { .. }) => pred == element,
                (Role::Update(element), Role::Update(old)) => element == old,
                _ => false,
            };
            if stands != obj || !same_place {
                return Err(Fault::Predecessor(n));
            }
            named.push(pred);
        }
        all_distinct(&named).then_some(()).ok_or(Fault::Predecessor(n))
    }

    /// The operation of that name, if it is before the one at hand.
    fn resolve(&mut self, id: &legacy::OpId) -> Option<OpRef> {
        let counter = u32::try_from(id.0).ok()?;
        // The numbers of the past all lie below.
        if counter >= self.start && id.1 == *self.name {
            return (counter < self.next).then_some(OpRef { line: self.line, counter });
        }
        let at = match self.seen.iter().position(|(name, _)| *name == id.1) {
            Some(at) => at,
            None => {
                self.seen.push((id.1.clone(), self.graph.spans(id.1.to_bytes(), self.clock)));
                self.seen.len() - 1
            }
        };
        self.graph.pick(&self.seen[at].1, counter)
    }
}
