//! Work that loads documents: making views, checking and making snapshots, looking deep into them. It runs on the blocking
//! pool, takes as long as the document is large, and may fail; a panic inside ends as an error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use commonhold_sync::chain::Opening;
use commonhold_sync::change;
use commonhold_sync::id::{ChainId, DocId, EntryId, SpaceId};
use commonhold_sync::limits::Limits;
use commonhold_sync::lines::Line;
use commonhold_sync::log::{DeepEntry, Header};
use commonhold_sync::peer::{ContentHead, SnapshotContent, SnapshotFault as Refusal};

use crate::contain::contain;
use crate::document::{Applied, ChangeInfo, Head, SnapshotCaps, SnapshotEntry, View};
use crate::quarantine::{DocumentBudget, Excess, Measure};
use crate::storage::{Held, Storage};

/// A view, and what it took to make it.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) view: View,
    pub(crate) header: Header,
    pub(crate) deleted: bool,
    /// Bytes of the snapshot and of what came after it.
    pub(crate) snapshot_bytes: u64,
    pub(crate) load_ms: u64,
    /// Entries that are not shown: (id, why).
    pub(crate) hidden: Vec<(EntryId, String)>,
    pub(crate) quarantined: Vec<EntryId>,
    /// Every entry of the snapshot keeps rule M1.
    checked: bool,
    /// All of every chain counts.
    open: bool,
}

/// A snapshot of exactly what is held of a document.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) heads: Vec<EntryId>,
    pub(crate) ends: Vec<(Vec<u8>, u64)>,
}

/// Why there is no view of a document.
#[derive(Debug)]
pub(crate) enum Unloaded {
    /// Its rows do not make one.
    Damaged(String),
    /// It would cost too much, or does.
    Over(Excess),
}

impl From<String> for Unloaded {
    fn from(why: String) -> Unloaded {
        Unloaded::Damaged(why)
    }
}

impl From<Unloaded> for String {
    fn from(why: Unloaded) -> String {
        match why {
            Unloaded::Damaged(why) => why,
            Unloaded::Over(excess) => format!("it has {excess}"),
        }
    }
}

/// Times that a document is read before rows are missing.
const TRIES: usize = 3;

/// Runs work whose panic must not be ours.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    contain(work).unwrap_or_else(|_| Err("the work failed on a fault of ours".into()))
}

/// Makes the view of a document from its rows, if it fits into the budget: what can be told before it is made is. `Ok(None)`: there is
/// no such document.
pub(crate) fn load(
    storage: &Storage,
    space: &SpaceId,
    doc: &DocId,
    quarantined: &[EntryId],
    budget: &DocumentBudget,
) -> Result<Option<Made>, Unloaded> {
    let started = Instant::now();
    let held = || storage.held(space, doc).map_err(|error| error.to_string());
    let Some(mut read) = held()? else { return Ok(None) };
    // Rows are not read in one go: what is written meanwhile must not look like damage.
    for _ in 1..TRIES {
        if lacks_rows(space, doc, &read.value) {
            let Some(again) = held()? else { return Ok(None) };
            read = again;
        }
    }
    if let Some((table, _)) = read.damaged.first() {
        tracing::error!(%space, %doc, table = table.name(), "rows of the document are damaged");
        // Never less than what was there, shown as if it were all; and an edit would build on that.
        if !read.value.image.deleted {
            return Err(format!("{} of its rows are damaged", read.damaged.len()).into());
        }
    }
    if lacks_rows(space, doc, &read.value) {
        tracing::error!(%space, %doc, "rows of the document are missing");
        return Err(Unloaded::Damaged("some of its rows are damaged and cannot be found".into()));
    }
    if let Some(excess) = budget.excess(costs_of(&read.value)) {
        return Err(Unloaded::Over(excess));
    }
    let made = guarded(|| view_of(&read.value, quarantined))?;
    let cost = made.view.cost();
    let costs = [(Measure::Operations, cost.ops as u64), (Measure::Memory, cost.bytes_estimate as u64)];
    if let Some(excess) = budget.excess(costs) {
        return Err(Unloaded::Over(excess));
    }
    if made.checked
        && !read.value.checked
        && let Err(error) = storage.mark_checked(space, doc, &read.value)
    {
        // It is checked again next time.
        tracing::debug!(%space, %doc, %error, "that the snapshot was checked is not kept");
    }
    let load_ms = started.elapsed().as_millis() as u64;
    Ok(Some(Made { load_ms, header: read.value.image.header, deleted: read.value.image.deleted, ..made }))
}

/// What is known of its cost before there is a view.
fn costs_of(held: &Held) -> [(Measure, u64); 2] {
    let bodies = held.segments.iter().map(|stored| stored.segment.body_bytes()).sum::<usize>();
    let snapshot = held.snapshot.as_ref().map_or(0, |(_, bytes)| bytes.len());
    // Of a branch what it does not share with the one that it leaves.
    let branches = held.image.lines.iter().flat_map(|line| &line.branches);
    let changes = branches.map(|branch| branch.len().saturating_sub(branch.shared)).sum();
    [(Measure::Changes, changes), (Measure::Bytes, (bodies + snapshot) as u64)]
}

/// Whether the rows hold fewer changes than the document says it has.
fn lacks_rows(space: &SpaceId, doc: &DocId, held: &Held) -> bool {
    if held.image.deleted {
        return false;
    }
    let mut ends: BTreeMap<(ChainId, u16), u64> = BTreeMap::new();
    for stored in &held.segments {
        let segment = &stored.segment;
        let end = ends.entry((segment.opening.chain(space, doc), stored.branch)).or_default();
        *end += segment.tip.n + 1 - segment.first;
    }
    let lines = held.image.lines.iter().flat_map(|line| {
        let chain = line.opening.chain(space, doc);
        line.branches.iter().enumerate().map(move |(at, branch)| ((chain, at as u16), branch))
    });
    lines.into_iter().any(|(at, branch)| ends.get(&at).copied().unwrap_or(0) < branch.len() - branch.base.len())
        || held.image.covered.is_some() && held.snapshot.is_none()
}

pub(crate) fn view_of(held: &Held, quarantined: &[EntryId]) -> Result<Made, String> {
    let packed = held.snapshot.as_ref().map(|(_, bytes)| &bytes[..]);
    let base = || packed.map_or_else(|| Ok(View::new()), unpacked);
    let mut view = base()?;
    let mut checked = held.checked;
    view.quarantine(quarantined.iter().copied());
    let mut entries: Vec<(EntryId, &[u8])> = Vec::new();
    for stored in &held.segments {
        let counted = held.image.counted(&stored.segment.opening, stored.branch);
        let shown = (counted + 1).saturating_sub(stored.segment.first);
        for bytes in stored.segment.entries.iter().take(shown as usize) {
            entries.push((change::id(bytes).map_err(|fault| fault.to_string())?, bytes));
        }
    }
    let unpacked = parted(held)?;
    if let Some(inside) = &unpacked {
        // What the snapshot holds behind the end of a chain is not to be shown: entry by entry, without it.
        entries.splice(..0, inside.iter().map(|(id, bytes)| (*id, &bytes[..])));
        view = View::new();
        view.quarantine(quarantined.iter().copied());
        checked = true;
    }
    let mut applied = Applied::default();
    if !entries.is_empty() || !checked {
        let mut log = |each: &mut dyn FnMut(&[u8])| {
            if let Ok(mut base) = base() {
                base.entries_since(&[]).iter().for_each(|(_, bytes)| each(bytes));
            }
        };
        applied = view.apply_remote(&entries, &mut log);
        checked = applied.bad_base.is_none();
        if !checked {
            // An entry of the snapshot breaks a rule that it was not checked for: one by one, without it.
            let all = view.entries_since(&[]);
            let all = all.iter().map(|(id, bytes)| (*id, &bytes[..]));
            let all: Vec<(EntryId, &[u8])> = all.chain(entries.iter().copied()).collect();
            view = View::new();
            view.quarantine(quarantined.iter().copied());
            applied = view.apply_remote(&all, &mut |_| {});
        }
        if applied.broken {
            return Err("its entries do not build".into());
        }
    }
    let mut hidden: Vec<(EntryId, String)> =
        applied.invalid.into_iter().map(|(id, fault)| (id, fault.to_string())).collect();
    hidden.extend(applied.missing.into_iter().map(|id| (id, "its past is not shown".into())));
    Ok(Made {
        view,
        header: held.image.header.clone(),
        deleted: held.image.deleted,
        snapshot_bytes: packed.map_or(0, |bytes| bytes.len() as u64),
        load_ms: 0,
        hidden,
        quarantined: applied.quarantined,
        checked,
        open: held.image.lines.iter().all(Line::is_open),
    })
}

/// The entries of the snapshot that are to be shown, if not all are.
#[allow(clippy::type_complexity, reason = "ids and bytes, as everywhere")]
fn parted(held: &Held) -> Result<Option<Vec<(EntryId, Vec<u8>)>>, String> {
    let Some((_, bytes)) = &held.snapshot else { return Ok(None) };
    let lines = held.image.lines.iter().filter(|line| line.counted(0) < line.branches[0].base.len());
    let ends: Vec<(&Opening, u64)> = lines.map(|line| (&line.opening, line.counted(0))).collect();
    if ends.is_empty() {
        return Ok(None);
    }
    let ends: BTreeMap<Vec<u8>, u64> =
        ends.into_iter().map(|(opening, n)| (opening.actor(&held.space, &held.doc), n)).collect();
    let (mut view, inside) = View::from_snapshot(bytes, &own_caps()).map_err(|fault| fault.to_string())?;
    let hidden = inside.iter().filter(|entry| ends.get(&entry.actor[..]).is_some_and(|end| entry.seq > *end));
    let hidden: BTreeSet<EntryId> = hidden.map(|entry| entry.id).collect();
    let mut entries = view.entries_since(&[]);
    entries.retain(|(id, _)| !hidden.contains(id));
    Ok(Some(entries))
}

fn unpacked(bytes: &[u8]) -> Result<View, String> {
    View::from_snapshot(bytes, &own_caps()).map(|(view, _)| view).map_err(|fault| fault.to_string())
}

/// It was checked before it was stored; local caps that were lowered since must not lock the document away.
fn own_caps() -> SnapshotCaps {
    SnapshotCaps { foreign: true, packed_bytes_max: usize::MAX, document: None, ..SnapshotCaps::default() }
}

/// The ids inside a document's snapshot, computed again: each actor's, in order.
pub(crate) fn chains(
    storage: &Storage,
    space: &SpaceId,
    doc: &DocId,
) -> Result<BTreeMap<Vec<u8>, Vec<EntryId>>, String> {
    let bytes = storage.snapshot(space, doc).map_err(|error| error.to_string())?.ok_or("its snapshot is missing")?;
    guarded(|| {
        let (_, entries) = View::from_snapshot(&bytes, &own_caps()).map_err(|fault| fault.to_string())?;
        let mut chains: BTreeMap<Vec<u8>, Vec<EntryId>> = BTreeMap::new();
        for entry in entries {
            chains.entry(entry.actor.to_vec()).or_default().push(entry.id);
        }
        Ok(chains)
    })
}

/// Checks a snapshot from a stranger: its shape, and rules S4 to S6 for every entry. Its tips are the core's, and rule M1 is
/// whoever's that shows it.
pub(crate) fn check_snapshot(bytes: &[u8], limits: &Limits) -> Result<SnapshotContent, Refusal> {
    guarded(|| Ok(foreign(bytes, limits).map(|(view, entries)| content_of(&view, entries))))
        .unwrap_or_else(|why| Err(Refusal::NotTaken(why)))
}

/// Loads a snapshot from a stranger.
fn foreign(bytes: &[u8], limits: &Limits) -> Result<(View, Vec<SnapshotEntry>), Refusal> {
    // Whether a chain is foreign is in its opening, which is the core's; see docs/protocol.md, rule S5.
    let caps = SnapshotCaps { foreign: true, ..SnapshotCaps::of(limits) };
    View::from_snapshot(bytes, &caps).map_err(|fault| match fault.is_local() {
        true => Refusal::NotTaken(fault.to_string()),
        false => Refusal::Broken(fault.to_string()),
    })
}

fn content_of(view: &View, entries: Vec<SnapshotEntry>) -> SnapshotContent {
    let mut chains: Vec<(Vec<u8>, Vec<EntryId>)> = Vec::new();
    for entry in entries {
        match chains.last_mut() {
            Some((actor, ids)) if actor[..] == entry.actor[..] => ids.push(entry.id),
            _ => chains.push((entry.actor.to_vec(), vec![entry.id])),
        }
    }
    let head =
        |head: Head| ContentHead { id: head.id, actor: head.actor, n: head.seq, max_op: head.max_op, past: head.past };
    SnapshotContent { chains, heads: view.head_pasts().into_iter().map(head).collect() }
}

/// One snapshot of a checked one and the one that is stored.
pub(crate) fn merge_snapshots(
    storage: &Storage,
    space: &SpaceId,
    doc: &DocId,
    bytes: &[u8],
    limits: &Limits,
) -> Result<(Vec<u8>, SnapshotContent), String> {
    let held = storage.snapshot(space, doc).map_err(|error| error.to_string())?.ok_or("its snapshot is missing")?;
    guarded(|| {
        let mut view = unpacked(&held)?;
        let (mut theirs, _) = foreign(bytes, limits).map_err(|refusal| refusal.to_string())?;
        let entries = theirs.entries_since(&[]);
        drop(theirs);
        let entries: Vec<(EntryId, &[u8])> = entries.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
        let mut log = |each: &mut dyn FnMut(&[u8])| {
            if let Ok(mut base) = unpacked(&held) {
                base.entries_since(&[]).iter().for_each(|(_, bytes)| each(bytes));
            }
        };
        let applied = view.apply_remote(&entries, &mut log);
        if applied.broken || applied.bad_base.is_some() || !applied.invalid.is_empty() || !applied.missing.is_empty() {
            return Err("the two do not make one document: one holds an entry that is not shown".into());
        }
        let packed = view.to_snapshot().ok_or("it does not pack")?;
        let (view, entries) = foreign(&packed, limits).map_err(|refusal| refusal.to_string())?;
        Ok((packed, content_of(&view, entries)))
    })
}

/// The entries inside a document's snapshot, in causal order; empty if there is none or it does not load.
pub(crate) fn deep(storage: &Storage, space: &SpaceId, doc: &DocId) -> Vec<DeepEntry> {
    let found = guarded(|| {
        let Some(bytes) = storage.snapshot(space, doc).map_err(|error| error.to_string())? else {
            return Ok(Vec::new());
        };
        let entry = |change: ChangeInfo| DeepEntry {
            id: change.id,
            actor: change.actor,
            n: change.seq,
            max_op: change.start_op + change.ops - 1,
            deps: change.deps,
        };
        Ok(unpacked(&bytes)?.history().map(entry).collect())
    });
    found.unwrap_or_else(|why| {
        tracing::error!(%space, %doc, why, "the snapshot does not load");
        Vec::new()
    })
}

/// Packs what is stored of a document. `None` if not all of it can be shown: only what re-extracts id for id may
/// replace raw entries. The error says why it was not tried: a document over its budget is not.
pub(crate) fn compact(
    storage: &Storage,
    space: &SpaceId,
    doc: &DocId,
    budget: &DocumentBudget,
) -> Result<Option<Packed>, Unloaded> {
    let Some(made) = load(storage, space, doc, &[], budget)? else { return Ok(None) };
    // A document with a closed chain travels raw from there on: a snapshot holds whole chains, and shows all of them.
    if made.deleted || !made.open || !made.hidden.is_empty() || !made.quarantined.is_empty() {
        return Ok(None);
    }
    let packed = guarded(|| {
        let mut view = made.view;
        let mut ends: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for change in view.history() {
            let last = ends.entry(change.actor).or_insert(0);
            *last = change.seq.max(*last);
        }
        let Some(bytes) = view.to_snapshot() else { return Ok(None) };
        if !extracts_to(&bytes, &view) {
            return Err("a snapshot does not give back what was packed".into());
        }
        Ok(Some(Packed { bytes, heads: view.heads(), ends: ends.into_iter().collect() }))
    })?;
    Ok(packed)
}

/// Id for id: the heads name everything before them, so equal heads and an equal count are equal sets.
fn extracts_to(bytes: &[u8], view: &View) -> bool {
    unpacked(bytes).is_ok_and(|again| again.heads() == view.heads() && again.cost().changes == view.cost().changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::ChainAuthor;

    fn view_by(actors: &[u8]) -> View {
        let mut view = View::new();
        for (at, actor) in actors.iter().enumerate() {
            view.set_chain(ChainAuthor { actor: [*actor; 16], device: [*actor; 32] }).unwrap();
            view.edit(|edit| edit.set(&[], &serde_json::json!({ "n": at }))).unwrap();
            view.flush().unwrap();
        }
        view
    }

    #[test]
    fn a_checked_snapshot_tells_chains_in_order_and_the_past_of_its_heads() {
        let mut view = view_by(&[7, 7, 3, 3, 7]);
        let content = check_snapshot(&view.to_snapshot().unwrap(), &Limits::default()).unwrap();
        let history: Vec<ChangeInfo> = view.history().collect();
        let of = |n: u8| history.iter().filter(|c| c.actor == [n; 16]).map(|c| c.id).collect::<Vec<_>>();
        assert_eq!(content.chains, vec![(vec![3; 16], of(3)), (vec![7; 16], of(7))]);
        let [head] = &content.heads[..] else { panic!("one head") };
        assert_eq!((head.id, head.n, &head.actor), (view.heads()[0], 3, &vec![7; 16]));
        assert_eq!(head.past, vec![(vec![3; 16], 2)]);
    }

    #[test]
    fn chains_with_and_without_an_author_pack_together() {
        use automerge::transaction::Transactable;
        let mut file = automerge::AutoCommit::new().with_actor(automerge::ActorId::from([1u8; 16]));
        file.put(automerge::ROOT, "a", 1).unwrap();
        let bytes = file.get_last_local_change().unwrap().raw_bytes().to_vec();
        let mut view = View::new();
        assert_eq!(view.apply_remote(&[(change::id(&bytes).unwrap(), &bytes)], &mut |_| {}).applied, 1);
        view.set_chain(ChainAuthor { actor: [9; 16], device: [9; 32] }).unwrap();
        for n in 0..3 {
            view.edit(|edit| edit.set(&["n".into()], &n)).unwrap();
            view.flush().unwrap();
        }
        let content = check_snapshot(&view.to_snapshot().unwrap(), &Limits::default()).unwrap();
        assert_eq!(content.chains.len(), 2);
    }

    #[test]
    fn garbage_is_refused_with_a_reason() {
        assert!(check_snapshot(b"CHsn nonsense that is long enough", &Limits::default()).is_err());
    }
}
