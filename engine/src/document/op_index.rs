//! What each operation of a document made: enough to say whether a later operation may name it.
//!
//! Typing is runs: consecutive operations of one line, each inserting after the one before. A run is 28 bytes whatever its
//! length, so a quarter of a million keystrokes are some hundred kilobytes. Deletions are not kept: nothing may name them.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use super::graph::LineIdx;
use super::value::ObjKind;

/// An operation: the line of its chain, and its counter. Counters of one line never repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct OpRef {
    pub(super) line: LineIdx,
    pub(super) counter: u32,
}

/// Position of an object in the index; 0 is the root.
pub(super) type ObjIdx = u32;

/// What an operation is to later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// An element of a list or text, inserted after `parent` (none: at the head).
    Element { parent: Option<OpRef> },
    /// One end of a mark: later elements may follow it, nothing may update or delete it.
    Mark { parent: Option<OpRef> },
    /// A value under a key of a map.
    Key(u32),
    /// A new value of an element.
    Update(OpRef),
}

#[derive(Debug, Clone, Copy)]
struct Run {
    start: u32,
    len: u32,
    obj: ObjIdx,
    role: Role,
}

#[derive(Debug, Clone)]
struct Object {
    kind: Option<ObjKind>,
    id: Option<OpRef>,
    /// Objects that it is in, the root not counted; 0 for the root.
    depth: u32,
}

/// A point to which the index can be cut back; good until something is cut off before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    line: LineIdx,
    runs: usize,
    last_len: u32,
    objects: usize,
}

#[derive(Debug)]
pub(super) struct OpIndex {
    runs: Vec<Vec<Run>>,
    objects: Vec<Object>,
    object_of: HashMap<OpRef, ObjIdx>,
    keys: HashMap<Box<str>, u32>,
    /// Elements that were given a new value at least once.
    updated: HashSet<OpRef>,
    /// What the operations of the batch at hand mean for its patches; none outside a batch.
    batch: Option<Suspects>,
}

/// Whether the patches of a batch are to be doubted.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// They are.
    pub(super) certain: bool,
    /// They are if something stands under one of these keys, from each of which something was deleted. By the operation that
    /// made the map; none for the root.
    pub(super) keys: Vec<(Option<OpRef>, Box<str>)>,
}

/// See `patch::doubtful`.
#[derive(Debug, Default)]
struct Suspects {
    increment: bool,
    deleted: Vec<OpRef>,
    keys: Vec<(ObjIdx, Box<str>)>,
}

impl Default for OpIndex {
    fn default() -> Self {
        OpIndex {
            runs: Vec::new(),
            objects: vec![Object { kind: Some(ObjKind::Map), id: None, depth: 0 }],
            object_of: HashMap::new(),
            keys: HashMap::new(),
            updated: HashSet::new(),
            batch: None,
        }
    }
}

impl OpIndex {
    /// The operation that made an object; none for the root.
    pub(super) fn object_id(&self, obj: ObjIdx) -> Option<OpRef> {
        self.objects[obj as usize].id
    }

    /// The kind of an object; none where nothing may be put into it (a table).
    pub(super) fn kind(&self, obj: ObjIdx) -> Option<ObjKind> {
        self.objects[obj as usize].kind
    }

    /// How deep an object lies: 0 for the root.
    pub(super) fn depth(&self, obj: ObjIdx) -> u32 {
        self.objects[obj as usize].depth
    }

    /// The object that an operation made.
    pub(super) fn object(&self, id: OpRef) -> Option<ObjIdx> {
        self.object_of.get(&id).copied()
    }

    /// A short name for a key of a map.
    pub(super) fn key(&mut self, key: &str) -> u32 {
        if let Some(known) = self.keys.get(key) {
            return *known;
        }
        let next = self.keys.len() as u32;
        self.keys.insert(key.into(), next);
        next
    }

    /// Where an operation stands, and what it is there.
    pub(super) fn get(&self, id: OpRef) -> Option<(ObjIdx, Role)> {
        let (run, at) = self.locate(id)?;
        let role = match run.role {
            Role::Element { .. } if at > 0 => {
                Role::Element { parent: Some(OpRef { line: id.line, counter: id.counter - 1 }) }
            }
            role => role,
        };
        Some((run.obj, role))
    }

    fn locate(&self, id: OpRef) -> Option<(Run, u32)> {
        let runs = self.runs.get(id.line as usize)?;
        let run = runs[..runs.partition_point(|run| run.start <= id.counter)].last()?;
        let at = id.counter - run.start;
        (at < run.len).then_some((*run, at))
    }

    /// Adds the next operation of a line.
    pub(super) fn push(&mut self, id: OpRef, obj: ObjIdx, role: Role) {
        let line = id.line as usize;
        if self.runs.len() <= line {
            self.runs.resize_with(line + 1, Vec::new);
        }
        if let Role::Update(element) = role {
            self.updated.insert(element);
        }
        let runs = &mut self.runs[line];
        if let (Some(last), Role::Element { parent: Some(parent) }) = (runs.last_mut(), role)
            && last.obj == obj
            && matches!(last.role, Role::Element { .. })
            && last.start + last.len == id.counter
            && parent.line == id.line
            && parent.counter + 1 == id.counter
        {
            last.len += 1;
            return;
        }
        runs.push(Run { start: id.counter, len: 1, obj, role });
    }

    /// Notes that an operation made an object.
    pub(super) fn push_object(&mut self, id: OpRef, kind: Option<ObjKind>, inside: ObjIdx) {
        let depth = self.depth(inside) + 1;
        self.object_of.insert(id, self.objects.len() as ObjIdx);
        self.objects.push(Object { kind, id: Some(id), depth });
    }

    /// Begins to watch for operations whose patches cannot be trusted.
    pub(super) fn begin_batch(&mut self) {
        self.batch = Some(Suspects::default());
    }

    /// Notes a deletion in an object, which is not kept. `key` is the key where the object is a map.
    pub(super) fn note_deletion(&mut self, obj: ObjIdx, role: Role, key: Option<&str>) {
        let Some(batch) = &mut self.batch else { return };
        match (role, key) {
            (Role::Update(element), _) => batch.deleted.push(element),
            (_, Some(key)) => batch.keys.push((obj, key.into())),
            _ => {}
        }
    }

    /// Notes an increment, which is not kept.
    pub(super) fn note_increment(&mut self) {
        if let Some(batch) = &mut self.batch {
            batch.increment = true;
        }
    }

    /// Whether Automerge's patches of the batch that ends here cannot be trusted (see `patch::doubtful`).
    pub(super) fn end_batch(&mut self) -> Doubt {
        let batch = self.batch.take().unwrap_or_default();
        let certain = batch.increment || batch.deleted.iter().any(|element| self.updated.contains(element));
        Doubt { certain, keys: batch.keys.into_iter().map(|(obj, key)| (self.object_id(obj), key)).collect() }
    }

    /// Where the index stands now, for operations of one line to come.
    pub(super) fn mark(&self, line: LineIdx) -> Mark {
        let runs = self.runs.get(line as usize).map_or(&[][..], Vec::as_slice);
        Mark { line, runs: runs.len(), last_len: runs.last().map_or(0, |run| run.len), objects: self.objects.len() }
    }

    /// Forgets the operations pushed since the mark.
    pub(super) fn cut(&mut self, mark: Mark) {
        if let Some(runs) = self.runs.get_mut(mark.line as usize) {
            runs.truncate(mark.runs);
            if let Some(last) = runs.last_mut() {
                last.len = mark.last_len;
            }
        }
        for object in self.objects.drain(mark.objects..) {
            if let Some(id) = object.id {
                self.object_of.remove(&id);
            }
        }
    }

    /// Which of two elements of one list comes first. Elements form a tree (each hangs below the one that it was inserted
    /// after); the list is that tree in depth-first order, the newest child first. `newer` compares two operations as
    /// the CRDT does: by counter, then by the bytes of the name that the line has in the view. None where either is no element, or the walk
    /// exceeds `steps` runs.
    pub(super) fn order(
        &self,
        a: OpRef,
        b: OpRef,
        newer: impl Fn(OpRef, OpRef) -> Ordering,
        steps: &mut usize,
    ) -> Option<Ordering> {
        if a == b {
            return Some(Ordering::Equal);
        }
        // Each step of a path: the first operation of a run, and how far up the run the path enters.
        let mut above_a: HashMap<OpRef, u32> = HashMap::new();
        let mut path_a: Vec<(OpRef, OpRef)> = Vec::new();
        let mut at = Some(a);
        while let Some(id) = at {
            *steps = steps.checked_sub(1)?;
            let (first, parent) = self.climb(id)?;
            above_a.insert(first, id.counter);
            path_a.push((first, id));
            at = parent;
        }
        let mut below_b: Option<OpRef> = None;
        let mut at = Some(b);
        while let Some(id) = at {
            *steps = steps.checked_sub(1)?;
            let (first, parent) = self.climb(id)?;
            if let Some(counter_a) = above_a.get(&first).copied() {
                let meet = OpRef { line: id.line, counter: counter_a.min(id.counter) };
                let step = |counter: u32, below: Option<OpRef>| {
                    if counter > meet.counter { Some(OpRef { counter: meet.counter + 1, ..meet }) } else { below }
                };
                let below_a = path_a.iter().take_while(|(run, _)| *run != first).last().map(|(run, _)| *run);
                return Some(match (step(counter_a, below_a), step(id.counter, below_b)) {
                    (None, _) => Ordering::Less,
                    (_, None) => Ordering::Greater,
                    (Some(a), Some(b)) => newer(b, a),
                });
            }
            below_b = Some(first);
            at = parent;
        }
        // The paths meet at the head of the list only.
        let top_a = path_a.last().map(|(run, _)| *run)?;
        Some(newer(below_b?, top_a))
    }

    /// The first operation of the run that an element is in, and what that one was inserted after.
    fn climb(&self, id: OpRef) -> Option<(OpRef, Option<OpRef>)> {
        let (run, _) = self.locate(id)?;
        match run.role {
            Role::Element { parent } | Role::Mark { parent } => {
                Some((OpRef { line: id.line, counter: run.start }, parent))
            }
            _ => None,
        }
    }

    /// Bytes that the index takes, by its counts.
    pub(super) fn bytes_estimate(&self) -> usize {
        self.runs.iter().map(|runs| 28 * runs.len() + 24).sum::<usize>()
            + 60 * self.objects.len()
            + 16 * self.updated.len()
            + self.keys.keys().map(|key| key.len() + 48).sum::<usize>()
    }
}

/// Operations that one operation may replace are few; a set is only worth its allocation above this.
pub(super) fn all_distinct(ids: &[OpRef]) -> bool {
    if ids.len() < 8 {
        return ids.iter().enumerate().all(|(n, id)| !ids[..n].contains(id));
    }
    let mut seen = HashSet::with_capacity(ids.len());
    ids.iter().all(|id| seen.insert(*id))
}
