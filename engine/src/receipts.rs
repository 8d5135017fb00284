//! What other peers have signed for, while somebody waits for it and for some time after.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use commonhold_sync::id::{DeviceId, DocId, EntryId, SpaceId};
use commonhold_sync::storage_receipt::{RECEIPT_ENTRIES_MAX, StorageReceipt};
use tokio::time::{Instant, timeout};

use crate::document::EditError;
use crate::document_handle::Document;
use crate::error::Error;
use crate::shared::{Command, locked};

/// Versions of which receipts are kept, and bytes of them; the oldest are forgotten.
const VERSIONS_MAX: usize = 1_024;
const BYTES_MAX: usize = 16 << 20;
/// Receipts kept of one version: as many peers as anybody waits for.
const HOLDERS_MAX: usize = 64;
/// Those that have connected since are asked as well.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A version of a document, its heads ascending.
type Version = (SpaceId, DocId, Vec<EntryId>);

#[derive(Debug, Default)]
pub(crate) struct Receipts {
    of: BTreeMap<Version, BTreeMap<DeviceId, StorageReceipt>>,
    order: VecDeque<Version>,
    bytes: usize,
}

/// About what one costs: its entries, twice with the key of its version, and the rest.
fn cost(version: &Version) -> usize {
    256 + 2 * 32 * version.2.len()
}

impl Receipts {
    pub(crate) fn keep(&mut self, receipt: StorageReceipt) {
        let version = (receipt.space, receipt.doc, receipt.entries.clone());
        let holders = self.of.entry(version.clone()).or_default();
        if holders.is_empty() {
            self.order.push_back(version.clone());
        }
        if holders.len() < HOLDERS_MAX && holders.insert(receipt.holder, receipt).is_none() {
            self.bytes += cost(&version);
        }
        while self.order.len() > VERSIONS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            let holders = self.of.remove(&oldest).map_or(0, |holders| holders.len());
            self.bytes -= holders * cost(&oldest);
        }
    }
}

impl Document {
    /// Receipts for a version of the document: each is signed by a peer that has it on its disk, and can be shown to somebody who was not
    /// there ([`StorageReceipt::verifies`]). Returns when there are `n`, this peer's own included, or with those that came in time;
    /// at most 64. A version without entries has none.
    ///
    /// # Errors
    ///
    /// [`EditError::UnknownVersion`] if the version is not held here; [`EditError::TooLarge`] if it has more heads than
    /// a receipt can name.
    pub async fn receipts(
        &self,
        version: &[EntryId],
        n: usize,
        patience: Duration,
    ) -> Result<Vec<StorageReceipt>, Error> {
        let mut entries = version.to_vec();
        entries.sort_unstable();
        entries.dedup();
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        if entries.len() > RECEIPT_ENTRIES_MAX {
            let (what, size, max) = ("the version", entries.len(), RECEIPT_ENTRIES_MAX);
            return Err(EditError::TooLarge { what, size, max }.into());
        }
        if !self.read(|view| entries.iter().all(|id| view.contains(id))).await? {
            return Err(EditError::UnknownVersion.into());
        }
        let (shared, key) = (self.shared(), (self.space(), self.id(), entries));
        let end = Instant::now() + patience;
        loop {
            let ask = Command::AskReceipts { space: key.0, doc: key.1, entries: key.2.clone() };
            shared.command(ask).await?;
            let enough =
                || locked(&shared.receipts).of.get(&key).is_some_and(|holders| holders.len() >= n.min(HOLDERS_MAX));
            let left = end.saturating_duration_since(Instant::now());
            match timeout(left.min(ASK_EVERY), shared.until(enough)).await {
                Ok(ended) => break ended?,
                Err(_) if left <= ASK_EVERY => break,
                Err(_) => {}
            }
        }
        let receipts = locked(&shared.receipts).of.get(&key).map(|holders| holders.values().cloned().collect());
        Ok(receipts.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    #[test]
    fn the_oldest_versions_are_forgotten() {
        let mut receipts = Receipts::default();
        let key = SigningKey::from_bytes(&[1; 32]);
        let version = |n: usize| vec![EntryId(std::array::from_fn(|at| (n >> (8 * (at % 4))) as u8))];
        for n in 0..VERSIONS_MAX + 10 {
            receipts.keep(StorageReceipt::sign(&key, SpaceId([1; 32]), DocId([2; 32]), version(n)));
        }
        assert_eq!((receipts.of.len(), receipts.order.len()), (VERSIONS_MAX, VERSIONS_MAX));
        assert!(!receipts.of.contains_key(&(SpaceId([1; 32]), DocId([2; 32]), version(9))));
        let long = |n: usize| (0..1_000).map(|at| version(1_000 * n + at)[0]).collect();
        for n in 0..1_000 {
            receipts.keep(StorageReceipt::sign(&key, SpaceId([1; 32]), DocId([2; 32]), long(n)));
        }
        assert!(receipts.bytes <= BYTES_MAX && receipts.of.len() < 300, "{}", receipts.of.len());
        let held: usize = receipts.of.iter().map(|(version, holders)| holders.len() * cost(version)).sum();
        assert_eq!(held, receipts.bytes);
    }
}
