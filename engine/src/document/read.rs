//! Reading a document: values, JSON, history, other versions, raw entries.

use std::collections::HashMap;

use automerge as am;
use automerge::ReadDoc;
use commonhold_sync::id::EntryId;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::compare::compare_versions;
use super::edit::{EditError, not_found, refusal};
use super::graph::{LineIdx, NodeId};
use super::ids::Ids;
use super::patch::{MarkSpan, Patch};
use super::value::{ObjId, ObjKind, Prop, Value, hydrated_json};
use super::view::{Doc, View, with_doc};

/// What is known of an entry besides its operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeInfo {
    /// The entry.
    pub id: EntryId,
    /// Its chain.
    pub actor: Vec<u8>,
    /// Its number in the chain.
    pub seq: u64,
    /// Its first operation.
    pub start_op: u64,
    /// Operations in it.
    pub ops: u64,
    /// What it was made upon.
    pub deps: Vec<EntryId>,
    /// When its author says it was made, in seconds since 1970; 0 where that was not said.
    pub time: i64,
    /// What its author says of it.
    pub message: Option<String>,
    /// The device that its chain claims, unproven here: the tip proves it.
    pub author: Option<Vec<u8>>,
}

/// One of several values that stand at one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// JSON form of the value.
    pub value: Json,
    /// The entry that put it there; none where that is still being edited.
    pub entry: Option<EntryId>,
}

/// The object at a path from the root.
pub(super) fn resolve(doc: &impl ReadDoc, path: &[Prop]) -> Option<(am::ObjId, am::ObjType)> {
    path.iter().try_fold((am::ROOT, am::ObjType::Map), |(obj, kind), prop| {
        match doc.get(&obj, fitting(kind, prop)?).ok()?? {
            (am::Value::Object(kind), made) => Some((made, kind)),
            _ => None,
        }
    })
}

/// A step that fits the object, as the library expects of its caller.
fn fitting(kind: am::ObjType, prop: &Prop) -> Option<am::Prop> {
    let fits = matches!((kind.is_sequence(), prop), (false, Prop::Key(_)) | (true, Prop::Index(_)));
    fits.then(|| prop.into())
}

fn json_of(doc: &impl ReadDoc, path: &[Prop], heads: Option<&[am::ChangeHash]>) -> Option<Json> {
    let mut at = (am::ROOT, am::ObjType::Map);
    for (step, prop) in path.iter().enumerate() {
        let prop = fitting(at.1, prop)?;
        let found = match heads {
            None => doc.get(&at.0, prop),
            Some(heads) => doc.get_at(&at.0, prop, heads),
        };
        match found.ok()?? {
            (am::Value::Object(kind), made) => at = (made, kind),
            (am::Value::Scalar(scalar), _) => {
                return (step + 1 == path.len()).then(|| super::value::Scalar::from(scalar.as_ref()).to_json());
            }
        }
    }
    doc.hydrate(&at.0, heads).ok().map(|value| hydrated_json(&value))
}

/// Paths at which more than one value stands.
fn contested(doc: &impl ReadDoc, max: usize) -> Vec<Vec<Prop>> {
    let (mut found, mut todo) = (Vec::new(), vec![(am::ROOT, am::ObjType::Map, Vec::new())]);
    while let Some((obj, kind, path)) = todo.pop() {
        let props: Vec<am::Prop> = match kind {
            am::ObjType::Text => continue,
            am::ObjType::List => (0..doc.length(&obj)).map(am::Prop::Seq).collect(),
            _ => doc.keys(&obj).map(am::Prop::Map).collect(),
        };
        let mut inside = Vec::new();
        for prop in props {
            let values = doc.get_all(&obj, prop.clone()).unwrap_or_default();
            let mut path = path.clone();
            path.push(Prop::from(prop));
            if let Some((am::Value::Object(kind), made)) = values.last() {
                inside.push((made.clone(), *kind, path.clone()));
            }
            if values.len() > 1 {
                found.push(path);
                if found.len() >= max {
                    return found;
                }
            }
        }
        todo.extend(inside.into_iter().rev());
    }
    found
}

fn strings_of(doc: &impl ReadDoc, each: &mut impl FnMut(&str)) {
    let mut todo = vec![(am::ROOT, am::ObjType::Map)];
    while let Some((obj, kind)) = todo.pop() {
        if kind == am::ObjType::Text {
            each(&doc.text(&obj).unwrap_or_default());
            continue;
        }
        let props: Vec<am::Prop> = match kind.is_sequence() {
            true => (0..doc.length(&obj)).map(am::Prop::Seq).collect(),
            false => doc.keys(&obj).map(am::Prop::Map).collect(),
        };
        for (value, made) in props.into_iter().flat_map(|prop| doc.get_all(&obj, prop).unwrap_or_default()) {
            match value {
                am::Value::Object(kind) => todo.push((made, kind)),
                am::Value::Scalar(scalar) => scalar.as_str().into_iter().for_each(&mut *each),
            }
        }
    }
}

impl View {
    /// The whole document as JSON: texts as strings, bytes as lists of numbers, counters and timestamps as numbers. Pending
    /// edits show.
    pub fn to_json(&self) -> Json {
        self.json_at(&[]).unwrap_or_default()
    }

    /// What stands at a path, as JSON.
    pub fn json_at(&self, path: &[Prop]) -> Option<Json> {
        with_doc!(self, doc => json_of(doc, path, None))
    }

    /// Every string and text that the document shows, those that lost a conflict included.
    pub(crate) fn each_string(&self, mut each: impl FnMut(&str)) {
        with_doc!(self, doc => strings_of(doc, &mut each))
    }

    /// The document as it was at a version. None if the view does not hold that version.
    pub fn json_at_heads(&self, heads: &[EntryId]) -> Option<Json> {
        self.json_at_version(&[], heads)
    }

    /// What stood at a path at a version. None if the view does not hold that version, or nothing stood there.
    pub fn json_at_version(&self, path: &[Prop], heads: &[EntryId]) -> Option<Json> {
        let heads = self.held(heads)?;
        with_doc!(self, doc => json_of(doc, path, Some(&heads)))
    }

    /// What leads from one version to another. None if the view does not hold one of them. Both are read in full; marks are not told.
    pub fn patches_between(&self, from: &[EntryId], to: &[EntryId]) -> Option<Vec<Patch>> {
        let (from, to) = (self.held(from)?, self.held(to)?);
        Some(with_doc!(self, doc => compare_versions(doc, &from, &to)))
    }

    /// The entries whose ids, as text, begin so: one for each, or none at all if one is not held or several begin so.
    pub fn heads_that_begin(&self, beginnings: &[String]) -> Option<Vec<EntryId>> {
        let mut found = vec![None; beginnings.len()];
        for node in 0..self.graph.len() as NodeId {
            let id = self.graph.id(node);
            let text = id.to_string();
            for (found, _) in found.iter_mut().zip(beginnings).filter(|(_, beginning)| text.starts_with(*beginning)) {
                if found.replace(id).is_some() {
                    return None;
                }
            }
        }
        found.into_iter().collect()
    }

    /// A version in the library's terms, if it is held.
    fn held(&self, heads: &[EntryId]) -> Option<Vec<am::ChangeHash>> {
        let mut named = heads.iter().all(|id| self.contains(id)).then(|| self.renaming.hashes(&self.graph, heads))?;
        // The library takes its own heads for the present, pending edits included, and leaves out hashes that it does not know: with one more, the
        // same version is a past one.
        if self.is_gathering() {
            named.push(am::ChangeHash([0; 32]));
        }
        Some(named)
    }

    /// Every place at which concurrent edits left several values, in the order of the document; at most `max`.
    pub fn all_conflicts(&self, max: usize) -> Vec<(Vec<Prop>, Vec<Alternative>)> {
        let paths = with_doc!(self, doc => contested(doc, max));
        paths
            .into_iter()
            .map(|path| {
                let values = self.conflicts(&path);
                (path, values)
            })
            .collect()
    }

    /// The document as other Automerge programs read it. Pending edits become a change.
    pub fn to_automerge(&mut self) -> Result<Vec<u8>, EditError> {
        self.commit().map_err(|_| EditError::Broken)?;
        match &self.doc {
            Doc::Idle(doc) => Ok(doc.save()),
            Doc::Open(_) => Err(EditError::Broken),
        }
    }

    /// What stands at a path, as a type of the application.
    pub fn get<T: DeserializeOwned>(&self, path: &[Prop]) -> Result<T, EditError> {
        let json = self.json_at(path).ok_or_else(|| not_found(path))?;
        serde_json::from_value(json).map_err(|e| EditError::Json(e.to_string()))
    }

    /// What stands at a path; for the root and other objects, their handle.
    pub fn value(&self, path: &[Prop]) -> Option<Value> {
        let Some((last, parents)) = path.split_last() else {
            return Some(Value::Object(ObjKind::Map, ObjId::ROOT));
        };
        with_doc!(self, doc => {
            let (obj, kind) = resolve(doc, parents)?;
            doc.get(&obj, fitting(kind, last)?).ok().flatten().map(|found| Value::from_am(found, self.ids()))
        })
    }

    /// Keys of the map at a path, sorted.
    pub fn keys(&self, path: &[Prop]) -> Option<Vec<String>> {
        with_doc!(self, doc => resolve(doc, path).map(|(obj, _)| doc.keys(&obj).collect()))
    }

    /// Entries of the map, elements of the list, code points of the text at a path.
    pub fn length(&self, path: &[Prop]) -> Option<usize> {
        with_doc!(self, doc => resolve(doc, path).map(|(obj, _)| doc.length(&obj)))
    }

    /// The text at a path.
    pub fn text(&self, path: &[Prop]) -> Result<String, EditError> {
        with_doc!(self, doc => {
            let (obj, kind) = resolve(doc, path).ok_or_else(|| not_found(path))?;
            match kind {
                am::ObjType::Text => doc.text(&obj).map_err(refusal),
                found => Err(EditError::WrongKind { edit: "reading text", found: found.into() }),
            }
        })
    }

    /// The marks of the text at a path.
    pub fn marks(&self, path: &[Prop]) -> Result<Vec<MarkSpan>, EditError> {
        with_doc!(self, doc => {
            let (obj, _) = resolve(doc, path).ok_or_else(|| not_found(path))?;
            doc.marks(&obj).map(|marks| marks.iter().map(MarkSpan::from).collect()).map_err(refusal)
        })
    }

    /// All values that stand at a path, the winner last; more than one where edits were concurrent.
    pub fn conflicts(&self, path: &[Prop]) -> Vec<Alternative> {
        let Some((last, parents)) = path.split_last() else { return Vec::new() };
        with_doc!(self, doc => {
            let found = resolve(doc, parents)
                .and_then(|(obj, kind)| doc.get_all(&obj, fitting(kind, last)?).ok())
                .unwrap_or_default();
            found.into_iter().map(|(value, id)| Alternative {
                value: match value {
                    am::Value::Scalar(scalar) => super::value::Scalar::from(scalar.as_ref()).to_json(),
                    am::Value::Object(_) => ReadDoc::hydrate(doc, &id, None).map(|v| hydrated_json(&v)).unwrap_or_default(),
                },
                entry: doc.hash_for_opid(&id).map(|hash| self.renaming.id(&self.graph, &hash)),
            }).collect()
        })
    }

    /// Ids of the entries that no other builds upon, sorted: the version that the view shows, pending edits aside.
    pub fn heads(&self) -> Vec<EntryId> {
        self.graph.heads()
    }

    /// Every entry of the view, dependencies first. Pending edits become a change.
    pub fn history(&mut self) -> impl Iterator<Item = ChangeInfo> + '_ {
        let settled = self.commit().is_ok();
        let changes = match &self.doc {
            Doc::Idle(doc) if settled => doc.get_changes_meta(&[]),
            _ => Vec::new(),
        };
        let (graph, renaming) = (&self.graph, &self.renaming);
        // The library knows the author of the actor that number 1 went under.
        let mut authors: HashMap<LineIdx, Vec<u8>> = HashMap::new();
        changes.into_iter().filter_map(move |change| {
            let at = renaming.node(graph, &change.hash)?;
            let node = graph.node(at);
            let mut author = change.author.map(|author| author.as_bytes().to_vec());
            if !renaming.naming().is_empty() {
                let first = graph.root_of(node.line);
                match &author {
                    Some(author) => _ = authors.entry(first).or_insert_with(|| author.clone()),
                    None => author = authors.get(&first).cloned(),
                }
            }
            Some(ChangeInfo {
                id: graph.id(at),
                actor: graph.name(node.line).to_vec(),
                seq: u64::from(node.seq),
                start_op: change.start_op,
                ops: change.max_op + 1 - change.start_op,
                deps: change.deps.iter().map(|dep| renaming.id(graph, dep)).collect(),
                time: change.timestamp,
                message: change.message.filter(|message| !message.is_empty()).map(|message| message.into_owned()),
                author,
            })
        })
    }

    /// Raw bytes of an entry.
    pub fn entry(&self, id: &EntryId) -> Option<Vec<u8>> {
        if let Some(bytes) = self.graph.find(id).and_then(|node| self.renaming.wire(node)) {
            return Some(bytes.to_vec());
        }
        with_doc!(self, doc => doc.get_change_by_hash(&am::ChangeHash(id.0)).map(|change| change.raw_bytes().to_vec()))
    }

    /// Raw bytes of the entries that are not in the past of a version, dependencies first. Ids that the view does not hold count
    /// for nothing. Pending edits become a change.
    pub fn entries_since(&mut self, heads: &[EntryId]) -> Vec<(EntryId, Vec<u8>)> {
        let known: Vec<EntryId> = heads.iter().copied().filter(|id| self.contains(id)).collect();
        let known = self.renaming.hashes(&self.graph, &known);
        if self.commit().is_err() {
            return Vec::new();
        }
        self.wire_changes(&known)
            .into_iter()
            .map(|(node, change)| (self.graph.id(node), change.raw_bytes().to_vec()))
            .collect()
    }

    /// The entries outside the past of a version of the library, as they are on the wire. None while a transaction is open.
    pub(super) fn wire_changes(&self, known: &[am::ChangeHash]) -> Vec<(NodeId, am::Change)> {
        let Doc::Idle(doc) = &self.doc else { return Vec::new() };
        let wire = |change: am::Change| {
            let node = self.renaming.node(&self.graph, &change.hash())?;
            match self.renaming.wire(node) {
                Some(bytes) => Some((node, am::Change::try_from(bytes).ok()?)),
                None => Some((node, change)),
            }
        };
        doc.get_changes(known).into_iter().filter_map(wire).collect()
    }

    pub(super) fn ids(&self) -> Ids<'_> {
        Ids { graph: &self.graph, naming: self.renaming.naming() }
    }
}

impl super::edit::Edit<'_> {
    /// What stands at a place, as JSON; null where nothing does.
    pub fn json(&self, obj: &ObjId, prop: impl Into<Prop>) -> Json {
        match self.get(obj, prop) {
            None => Json::Null,
            Some(Value::Scalar(scalar)) => scalar.to_json(),
            Some(Value::Object(_, obj)) => {
                let value = self.inner(&obj).ok().and_then(|obj| self.tx.hydrate(obj, None).ok());
                value.map(|value| hydrated_json(&value)).unwrap_or_default()
            }
        }
    }
}
