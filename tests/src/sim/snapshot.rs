//! What the engine's worker does with snapshots: take one apart for the core, and make one of what is held.

use std::collections::{BTreeMap, BTreeSet};

use commonhold_engine::document::{SnapshotCaps, SnapshotEntry, View};
use commonhold_sync::id::{DocId, EntryId, SpaceId};
use commonhold_sync::limits::Limits;
use commonhold_sync::log::DeepEntry;
use commonhold_sync::peer::{ContentHead, Input, SnapshotContent};

/// The view in a snapshot and its entries, dependencies first.
pub(super) fn open(bytes: &[u8], limits: &Limits) -> Result<(View, Vec<SnapshotEntry>), String> {
    let (view, entries) = View::from_snapshot(bytes, &SnapshotCaps::of(limits)).map_err(|e| e.to_string())?;
    Ok((view, sorted(entries)))
}

fn sorted(entries: Vec<SnapshotEntry>) -> Vec<SnapshotEntry> {
    let mut done = BTreeSet::new();
    let mut out = Vec::with_capacity(entries.len());
    let mut rest = entries;
    while !rest.is_empty() {
        let (ready, later): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|e| e.deps.iter().all(|dep| done.contains(dep)));
        assert!(!ready.is_empty(), "a snapshot holds the past of all its entries");
        done.extend(ready.iter().map(|e| e.id));
        out.extend(ready);
        rest = later;
    }
    out
}

/// The entries for the core's deep index.
pub(super) fn deep(entries: &[SnapshotEntry]) -> Vec<DeepEntry> {
    let mut max_ops: BTreeMap<EntryId, u64> = BTreeMap::new();
    let entry = |e: &SnapshotEntry| {
        let past = e.deps.iter().filter_map(|dep| max_ops.get(dep)).max().copied().unwrap_or(0);
        let max_op = e.max_op.max(past);
        max_ops.insert(e.id, max_op);
        DeepEntry { id: e.id, actor: e.actor.to_vec(), n: e.seq, max_op, deps: e.deps.clone() }
    };
    entries.iter().map(entry).collect()
}

/// What the core asks of a snapshot that came from elsewhere.
pub(super) fn content(entries: &[SnapshotEntry]) -> SnapshotContent {
    let mut chains: BTreeMap<Vec<u8>, Vec<(u64, EntryId)>> = BTreeMap::new();
    let mut pasts: BTreeMap<EntryId, BTreeMap<Vec<u8>, u64>> = BTreeMap::new();
    let mut heads: BTreeSet<EntryId> = BTreeSet::new();
    for e in entries {
        chains.entry(e.actor.to_vec()).or_default().push((e.seq, e.id));
        let mut past: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for dep in &e.deps {
            heads.remove(dep);
            for (actor, n) in &pasts[dep] {
                let most = past.entry(actor.clone()).or_default();
                *most = (*n).max(*most);
            }
        }
        past.insert(e.actor.to_vec(), e.seq);
        heads.insert(e.id);
        pasts.insert(e.id, past);
    }
    let deep = deep(entries);
    let heads = deep.iter().filter(|e| heads.contains(&e.id)).map(|e| {
        let past = pasts[&e.id].iter().filter(|(actor, _)| **actor != e.actor);
        let past = past.map(|(actor, n)| (actor.clone(), *n)).collect();
        ContentHead { id: e.id, actor: e.actor.clone(), n: e.n, max_op: e.max_op, past }
    });
    let heads = heads.collect();
    let chains = chains.into_iter().map(|(actor, mut ids)| {
        ids.sort_unstable();
        (actor, ids.into_iter().map(|(_, id)| id).collect())
    });
    SnapshotContent { chains: chains.collect(), heads }
}

/// One snapshot of two.
pub(super) fn merge(held: &[u8], other: &[u8], limits: &Limits) -> Result<(Vec<u8>, SnapshotContent), String> {
    let ((mut view, _), (mut other, _)) = (open(held, limits)?, open(other, limits)?);
    let entries = other.entries_since(&[]);
    let entries: Vec<(EntryId, &[u8])> = entries.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
    let applied = view.apply_remote(&entries, &mut |_| {});
    if applied.broken || !applied.invalid.is_empty() || !applied.missing.is_empty() {
        return Err(format!("the two do not make one document: {applied:?}"));
    }
    let packed = view.to_snapshot().ok_or("it does not pack")?;
    let (_, entries) = open(&packed, limits)?;
    let content = content(&entries);
    Ok((packed, content))
}

/// A snapshot of everything that a view shows. None while edits wait in it.
pub(super) fn make(view: &View, space: SpaceId, doc: DocId, limits: &Limits) -> Option<Input> {
    let bytes = view.to_snapshot()?;
    let (_, entries) = open(&bytes, limits).ok()?;
    let mut ends: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for e in &entries {
        let end = ends.entry(e.actor.to_vec()).or_default();
        *end = e.seq.max(*end);
    }
    Some(Input::SnapshotMade { space, doc, bytes, heads: view.heads(), ends: ends.into_iter().collect() })
}
