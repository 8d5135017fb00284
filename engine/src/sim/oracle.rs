//! What is to be shown, as a pure function of what the honest stores hold together: the first number at which two entries of
//! a chain differ, or of which a proof is held that they do, closes it, entries before that count if their device has the right to write, and everything that those
//! have in their past. Who has which right is taken from a peer: the same model of rights has an oracle of its own.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::View;
use commonhold_sync::change;
use commonhold_sync::id::{ChainId, DocId, EntryId, SpaceId};
use commonhold_sync::limits::Rules;
use commonhold_sync::peer::{Load, Loaded};
use serde_json::Value as Json;

use super::world::World;

struct Entry {
    bytes: Vec<u8>,
    deps: Vec<EntryId>,
}

/// The view of the union, if no honest peer has packed the document: heads and content.
pub(super) fn view(world: &World, space: SpaceId, doc: DocId) -> Result<Option<(Vec<EntryId>, Json)>, String> {
    let mut entries: BTreeMap<EntryId, Entry> = BTreeMap::new();
    let mut places: BTreeMap<(ChainId, u64), BTreeSet<EntryId>> = BTreeMap::new();
    let mut entitled: BTreeMap<ChainId, u64> = BTreeMap::new();
    let mut closed: BTreeMap<ChainId, u64> = BTreeMap::new();
    for host in &world.hosts {
        let Some(run) = &host.run else { continue };
        let load = |load| run.storage.load(&load).map(|read| read.value).map_err(|e| e.to_string());
        if let Loaded::Snapshot(Some(_)) = load(Load::Snapshot { space, doc })? {
            return Ok(None);
        }
        let Loaded::Logs(mut logs) = load(Load::Raw { space, docs: vec![doc] })? else { continue };
        let Some((image, segments)) = logs.pop().and_then(|(_, found)| found) else { continue };
        let held = run.peer.space(&space).ok_or("a document without its space")?;
        for proof in image.proofs().filter(|proof| proof.verifies(&space)) {
            let at = closed.entry(proof.chain(&space)).or_insert(u64::MAX);
            *at = proof.at().min(*at);
        }
        for stored in segments {
            let opening = &stored.segment.opening;
            let chain = opening.chain(&space, &doc);
            entitled.insert(chain, held.limit(&doc, opening, Some(&image.header.creator)).end());
            for (n, bytes) in (stored.segment.first..).zip(stored.segment.entries) {
                let head = change::walk(&bytes, &Rules::V1).map_err(|e| e.to_string())?;
                places.entry((chain, n)).or_default().insert(head.id);
                entries.insert(head.id, Entry { bytes, deps: head.deps });
            }
        }
    }
    for ((chain, n), _) in places.iter().filter(|(_, ids)| ids.len() > 1) {
        let at = closed.entry(*chain).or_insert(u64::MAX);
        *at = (*n).min(*at);
    }
    let open =
        places.iter().filter(|((chain, n), _)| *n <= entitled[chain] && closed.get(chain).is_none_or(|at| n < at));
    let mut todo: Vec<EntryId> = open.flat_map(|(_, ids)| ids.iter().copied()).collect();
    let mut counted = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if counted.insert(id) {
            let entry = entries.get(&id).ok_or_else(|| format!("nobody holds {id:?}, upon which others built"))?;
            todo.extend(&entry.deps);
        }
    }
    let all: Vec<(EntryId, &[u8])> = counted.iter().map(|id| (*id, &entries[id].bytes[..])).collect();
    let mut view = View::new();
    let mut log = |each: &mut dyn FnMut(&[u8])| all.iter().for_each(|(_, bytes)| each(bytes));
    let applied = view.apply_remote(&all, &mut log);
    if applied.broken || applied.bad_base.is_some() {
        return Err(format!("the union does not show: {applied:?}"));
    }
    Ok(Some((view.heads(), view.to_json())))
}
