//! What was promised: everything that a peer said it had saved, or that another peer acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use crate::storage::Storage;
use commonhold_sync::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use commonhold_sync::peer::{Load, Loaded};
use commonhold_sync::record::Record;
use commonhold_sync::storage_receipt::StorageReceipt;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Entries that their author saved, and where.
    pub(super) entries: BTreeMap<(SpaceId, DocId), BTreeMap<EntryId, (ChainId, u64)>>,
    /// Documents whose header was saved, and by whom.
    pub(super) documents: BTreeMap<(SpaceId, DocId), usize>,
    /// Documents whose tombstone was saved, and by whom; those that somebody deleted, saved or not.
    pub(super) deleted: BTreeMap<(SpaceId, DocId), usize>,
    pub(super) perhaps_deleted: BTreeSet<(SpaceId, DocId)>,
    pub(super) grants: BTreeSet<(SpaceId, DeviceId)>,
    /// By peer: how much of each chain it said that it holds.
    pub(super) held: BTreeMap<usize, BTreeMap<(SpaceId, DocId, ChainId), u64>>,
}

impl Ledger {
    pub(super) fn hold(&mut self, host: usize, space: SpaceId, doc: DocId, chain: ChainId, n: u64) {
        let most = self.held.entry(host).or_default().entry((space, doc, chain)).or_default();
        *most = n.max(*most);
    }

    /// An author saved entries, the last of them at `end`.
    pub(super) fn wrote(&mut self, space: SpaceId, doc: DocId, (chain, n): (ChainId, u64), ids: &[EntryId]) {
        let numbers = (n + 1).saturating_sub(ids.len() as u64)..;
        let entries = ids.iter().zip(numbers).map(|(id, n)| (*id, (chain, n)));
        self.entries.entry((space, doc)).or_default().extend(entries);
    }

    /// A peer signed that it has these entries on disk.
    pub(super) fn signed(&mut self, host: usize, receipt: &StorageReceipt) {
        let (space, doc) = (receipt.space, receipt.doc);
        let known = self.entries.get(&(space, doc));
        let ends: Vec<(ChainId, u64)> =
            receipt.entries.iter().filter_map(|id| known.and_then(|known| known.get(id)).copied()).collect();
        ends.into_iter().for_each(|(chain, n)| self.hold(host, space, doc, chain, n));
    }

    pub(super) fn saved(&mut self, host: usize, space: SpaceId, records: &[Record], ids: &[EntryId]) {
        for (record, id) in records.iter().zip(ids) {
            match record {
                Record::Header { .. } => drop(self.documents.insert((space, DocId(id.0)), host)),
                Record::Grant { subject, .. } => drop(self.grants.insert((space, subject.device()))),
                Record::Tombstone { doc } => drop(self.deleted.insert((space, *doc), host)),
                _ => {}
            }
        }
    }

    /// Whether a store holds what its peer said that it holds.
    pub(super) fn check_store(&self, host: usize, storage: &Storage) -> Result<(), String> {
        let Some(held) = self.held.get(&host) else { return Ok(()) };
        for ((space, doc, chain), n) in held {
            if self.perhaps_deleted.contains(&(*space, *doc)) {
                continue;
            }
            let found = chain_on_disk(storage, *space, *doc, chain)?;
            if found < *n {
                return Err(format!(
                    "peer {host} acknowledged {doc:?} {chain:?} up to {n}, and its disk holds it up to {found}"
                ));
            }
        }
        Ok(())
    }
}

/// Up to where a store holds a chain without a gap.
fn chain_on_disk(storage: &Storage, space: SpaceId, doc: DocId, chain: &ChainId) -> Result<u64, String> {
    let read = storage.load(&Load::Raw { space, docs: vec![doc] }).map_err(|e| e.to_string())?;
    let Loaded::Logs(mut logs) = read.value else { return Err("logs were asked for".into()) };
    let Some((image, segments)) = logs.pop().and_then(|(_, found)| found) else { return Ok(0) };
    let line = image.lines.iter().find(|line| line.opening.chain(&space, &doc) == *chain);
    let Some(branch) = line.and_then(|line| line.branches.first()) else { return Ok(0) };
    // Records are never covered by a snapshot; their base only says that single ids are forgotten.
    let mut at = if doc == space.authority() { 0 } else { branch.base.len() };
    for stored in segments.iter().filter(|s| s.branch == 0 && s.segment.opening.chain(&space, &doc) == *chain) {
        if stored.segment.first <= at + 1 {
            at = at.max(stored.segment.tip.n);
        }
    }
    Ok(at.min(branch.len()))
}
