//! Names of operations that an application may keep: they survive that the view is made again under other names.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use automerge as am;
use commonhold_sync::id::EntryId;

use super::graph::{ChainName, Graph};
use super::naming::Naming;
use super::op_index::OpRef;
use super::value::ObjId;

/// An operation: its chain, its counter, and the entry that holds it. The entry is not known before the change that it is in is
/// closed; a chain that has forked since may then make the name ambiguous, and it names nothing any more.
#[derive(Clone, Copy)]
pub(super) struct OpName {
    pub(super) chain: ChainName,
    /// 0 for the root object, which no operation made.
    pub(super) counter: u32,
    pub(super) entry: Option<EntryId>,
}

impl OpName {
    pub(super) const ROOT: OpName = OpName { chain: [0; 16], counter: 0, entry: None };
}

impl PartialEq for OpName {
    fn eq(&self, other: &Self) -> bool {
        let entries = self.entry.zip(other.entry);
        self.counter == other.counter && self.chain == other.chain && entries.is_none_or(|(one, two)| one == two)
    }
}

impl Eq for OpName {}

impl Hash for OpName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.counter, self.chain).hash(state);
    }
}

/// `12.<chain>.<entry>`, the latter two in hex, without the entry where it is not known; `root` for the root object.
impl fmt::Display for OpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.counter == 0 {
            return f.write_str("root");
        }
        write!(f, "{}.", self.counter)?;
        self.chain.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        self.entry.iter().try_for_each(|entry| write!(f, ".{entry}"))
    }
}

impl FromStr for OpName {
    type Err = ();

    fn from_str(text: &str) -> Result<OpName, ()> {
        if text == "root" {
            return Ok(OpName::ROOT);
        }
        let mut parts = text.split('.');
        let counter = parts.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or(())?;
        let chain = unhex(parts.next().ok_or(())?).ok_or(())?;
        let entry = parts.next().map(|entry| unhex(entry).map(EntryId).ok_or(())).transpose()?;
        if parts.next().is_none() { Ok(OpName { chain, counter, entry }) } else { Err(()) }
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}

/// What turns names into those that the view has for the same, and back.
#[derive(Clone, Copy)]
pub(super) struct Ids<'a> {
    pub(super) graph: &'a Graph,
    pub(super) naming: &'a Naming,
}

impl Ids<'_> {
    pub(super) fn name(&self, counter: u64, actor: &am::ActorId) -> OpName {
        let counter = counter as u32;
        let line = self.naming.line(self.graph, actor);
        let holder = line.and_then(|line| self.graph.holder(line, counter));
        let chain = actor.to_bytes().first_chunk().copied().unwrap_or_default();
        OpName { chain, counter, entry: holder.map(|node| self.graph.id(node)) }
    }

    /// The operation in the graph; none where it is not there, or not yet.
    pub(super) fn op(&self, name: &OpName) -> Option<OpRef> {
        let counter = name.counter;
        match name.entry {
            Some(entry) => {
                let node = self.graph.node(self.graph.find(&entry)?);
                let holds =
                    (node.start_op..=node.max_op).contains(&counter) && *self.graph.name(node.line) == name.chain;
                holds.then_some(OpRef { line: node.line, counter })
            }
            None => {
                let lines = self.graph.lines_of(self.graph.chain(&name.chain)?);
                let mut held = lines.iter().filter(|line| self.graph.holder(**line, counter).is_some());
                let line = *held.next()?;
                held.next().is_none().then_some(OpRef { line, counter })
            }
        }
    }

    /// The actor under which the view has it. What no entry holds yet is being edited, under the chain's own name.
    pub(super) fn actor(&self, name: &OpName) -> Option<am::ActorId> {
        match self.op(name) {
            Some(op) => Some(self.naming.actor(self.graph, op)),
            None => name.entry.is_none().then(|| am::ActorId::from(name.chain)),
        }
    }

    pub(super) fn handle(&self, obj: &am::ObjId) -> ObjId {
        match obj {
            am::ObjId::Root => ObjId::ROOT,
            am::ObjId::Id(counter, actor, _) => ObjId(self.name(*counter, actor)),
        }
    }

    pub(super) fn object(&self, obj: &ObjId) -> Option<am::ObjId> {
        if *obj == ObjId::ROOT {
            return Some(am::ROOT);
        }
        // The last field only helps the library to look.
        self.actor(&obj.0).map(|actor| am::ObjId::Id(u64::from(obj.0.counter), actor, usize::MAX))
    }
}
