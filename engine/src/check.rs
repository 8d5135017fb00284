//! Reading a whole store and computing again what can be computed: ids, trees, the signatures over them.
//!
//! Nothing is repaired here, and rules that were checked at admission are not checked again, but for those that a load checks.

use std::collections::{BTreeMap, BTreeSet};

use commonhold_sync::chain::{Opening, Segment, Tip};
use commonhold_sync::id::{ChainId, DocId, EntryId, SpaceId};
use commonhold_sync::log::{Image, Log, StoredSegment};
use commonhold_sync::merkle::Frontier;
use commonhold_sync::peer::{Load, Loaded};
use commonhold_sync::record::Record;
use commonhold_sync::space::RightRow;

use crate::quarantine::DocumentBudget;
use crate::storage::{DocumentQuery, Storage};
use crate::store::StoreError;

/// Damaged rows that a check lists.
const DAMAGED_MAX: usize = 1_000;
/// Times that a log is read before it is called at fault.
const TRIES: usize = 3;

/// What a check of the store found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Spaces read.
    pub spaces: usize,
    /// Documents read; the logs of records, one a space, are read beside them.
    pub documents: usize,
    /// Entries whose ids were computed again, those inside snapshots included.
    pub entries: u64,
    /// Bytes of the store.
    pub store_bytes: u64,
    /// Rows that do not match their checksum: table, and key in hex.
    pub damaged_rows: Vec<(String, String)>,
    /// Documents in which something does not hold, and what. The document of a log of records is [`SpaceId::authority`].
    pub faults: Vec<(SpaceId, DocId, String)>,
}

impl CheckReport {
    /// Nothing was found.
    pub fn is_sound(&self) -> bool {
        self.damaged_rows.is_empty() && self.faults.is_empty()
    }
}

/// Reads everything.
pub(crate) fn check(storage: &Storage) -> Result<CheckReport, StoreError> {
    let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect();
    let damaged = storage.store().damaged_rows(DAMAGED_MAX)?;
    let mut report = CheckReport {
        store_bytes: storage.store().size_bytes()?,
        damaged_rows: damaged.into_iter().map(|(table, key)| (table.name().to_owned(), hex(&key))).collect(),
        ..CheckReport::default()
    };
    for (space, _, mut rights) in storage.start()?.spaces {
        report.spaces += 1;
        let documents = storage.documents(&space, &DocumentQuery { deleted: true, ..DocumentQuery::default() })?;
        report.documents += documents.len();
        let logs = documents.into_iter().map(|info| (info.id, false)).chain([(space.authority(), true)]);
        for (doc, authority) in logs {
            let mut look = |again: bool| -> Result<Result<u64, String>, StoreError> {
                Ok(match read(storage, &space, doc, authority)? {
                    Ok((image, segments)) if authority => {
                        if again {
                            let spaces = storage.start()?.spaces;
                            rights = spaces.into_iter().find(|(id, ..)| *id == space).map_or(Vec::new(), |(.., r)| r);
                        }
                        records(&space, &image, &segments, &rights)
                    }
                    Ok((image, segments)) => changes(storage, &space, doc, image, &segments),
                    Err(why) => Err(why),
                })
            };
            let mut checked = look(false)?;
            // Its rows are not read in one go: what is written meanwhile must not look like a fault.
            for _ in 1..TRIES {
                if checked.is_err() {
                    checked = look(true)?;
                }
            }
            match checked {
                Ok(entries) => report.entries += entries,
                Err(fault) => report.faults.push((space, doc, fault)),
            }
        }
    }
    Ok(report)
}

type Found = Result<(Image, Vec<StoredSegment>), String>;

fn read(storage: &Storage, space: &SpaceId, doc: DocId, raw: bool) -> Result<Found, StoreError> {
    let (space, docs) = (*space, vec![doc]);
    let load = if raw { Load::Raw { space, docs } } else { Load::Logs { space, docs } };
    let Loaded::Logs(mut logs) = storage.load(&load)?.value else { return Ok(Err("its rows were not read".into())) };
    Ok(logs.pop().and_then(|(_, found)| found).ok_or_else(|| "its row is missing".into()))
}

/// The log of records of a space: all of it is there raw.
fn records(space: &SpaceId, image: &Image, segments: &[StoredSegment], rights: &[RightRow]) -> Result<u64, String> {
    let doc = space.authority();
    let rights: BTreeSet<(ChainId, u64, &[u8])> =
        rights.iter().map(|right| (right.chain, right.n, &right.bytes[..])).collect();
    let mut trees: BTreeMap<ChainId, Frontier> = BTreeMap::new();
    for segment in segments.iter().map(|stored| &stored.segment) {
        let device = segment.opening.device;
        let chain = segment.opening.chain(space, &doc);
        let tree = trees.entry(chain).or_default();
        if segment.first != tree.len() + 1 {
            return Err(format!("records of chain {chain} are missing"));
        }
        for bytes in &segment.entries {
            tree.push(&Record::id(space, &device, bytes));
            let right = Record::from_bytes(bytes).is_ok_and(|record| record.is_authority());
            if right && !rights.contains(&(chain, tree.len(), bytes)) {
                return Err("a record is missing among the rights".into());
            }
        }
    }
    let mut entries = 0;
    for line in &image.lines {
        let branch = &line.branches[0];
        let chain = line.opening.chain(space, &doc);
        if trees.remove(&chain).as_ref() != Some(&branch.frontier) {
            return Err(format!("records of chain {chain} are missing or changed"));
        }
        signed(space, doc, &line.opening, &branch.tip, &branch.frontier)?;
        entries += branch.len();
    }
    match trees.keys().next() {
        None => Ok(entries),
        Some(chain) => Err(format!("records of chain {chain} are in no chain that is known")),
    }
}

/// The log of a document, and its snapshot.
fn changes(
    storage: &Storage,
    space: &SpaceId,
    doc: DocId,
    image: Image,
    segments: &[StoredSegment],
) -> Result<u64, String> {
    let covered = image.covered.clone().filter(|_| !image.deleted);
    let (log, bad) = Log::load(*space, doc, image, segments);
    if bad > 0 {
        return Err(format!("{bad} segments do not fit it"));
    }
    let packed = match &covered {
        Some(_) => crate::worker::chains(storage, space, &doc)?,
        None => BTreeMap::new(),
    };
    for (line, tip) in covered.iter().flat_map(|covered| &covered.tips) {
        let line = log.lines().all().get(*line as usize).ok_or("its snapshot covers a chain that is not known")?;
        let inside = tree_of(packed.get(&line.opening.actor(space, &doc)).map_or(&[], Vec::as_slice));
        if inside != line.branches[0].base {
            let chain = line.opening.chain(space, &doc);
            return Err(format!("entries of chain {chain} in the snapshot are missing or changed"));
        }
        signed(space, doc, &line.opening, tip, &inside)?;
    }
    if covered.is_some_and(|covered| covered.tips.len() != packed.len()) {
        return Err("its snapshot holds other chains than it covers".into());
    }
    let mut entries = 0;
    for line in log.lines().all() {
        let chain = line.opening.chain(space, &doc);
        for branch in &line.branches {
            let mut tree = branch.base.clone();
            branch.ids.iter().for_each(|id| tree.push(id));
            if tree != branch.frontier {
                return Err(format!("entries of chain {chain} are missing or changed"));
            }
            // A second gateway may have gone on with a foreign chain: the segment tells which.
            let newest = || segments.iter().map(|stored| &stored.segment).find(|segment| segment.tip == branch.tip);
            let by = |segment: &Segment| match segment.opening.chain(space, &doc) == chain {
                true => signed(space, doc, &segment.opening, &branch.tip, &tree),
                false => Err(format!("the newest segment of chain {chain} is of another")),
            };
            signed(space, doc, &line.opening, &branch.tip, &tree).or_else(|why| newest().map_or(Err(why), by))?;
            entries += branch.len() - branch.shared;
        }
    }
    // Whatever it costs: somebody asked.
    crate::worker::load(storage, space, &doc, &[], &DocumentBudget::default()).map(|_| entries).map_err(String::from)
}

fn tree_of(ids: &[EntryId]) -> Frontier {
    let mut tree = Frontier::default();
    ids.iter().for_each(|id| tree.push(id));
    tree
}

fn signed(space: &SpaceId, doc: DocId, opening: &Opening, tip: &Tip, tree: &Frontier) -> Result<(), String> {
    match tip.n == tree.len() && tip.verifies(space, &doc, opening, &tree.head()) {
        true => Ok(()),
        false => Err(format!("the signature over chain {} does not verify", opening.chain(space, &doc))),
    }
}

#[cfg(test)]
mod tests {
    use commonhold_sync::id::DeviceId;
    use commonhold_sync::space::SpaceRow;
    use serde_json::json;

    use super::*;
    use crate::store::{Batch, Table};
    use crate::{Config, Document, Node, Writers};

    async fn node() -> (Node, SpaceId) {
        let node = Node::open(Config::default()).await.unwrap();
        let space = node.create_space(Writers::Granted).await.unwrap();
        node.grant(space, DeviceId([7; 32]), crate::Right::Write, false).await.unwrap();
        (node, space)
    }

    async fn packed(node: &Node, space: SpaceId, value: u32) -> Document {
        let document = node.create_document(space, "", "").await.unwrap();
        document.set("/a", &json!(value)).await.unwrap();
        document.flush().await.unwrap();
        node.compact_now(space, document.id()).await.unwrap();
        document
    }

    /// What a check finds once the store was changed so; before, it finds nothing.
    async fn faults(node: &Node, change: impl FnOnce(&Storage, &mut Batch) + Send + 'static) -> Vec<String> {
        node.shared().settle().await.unwrap();
        let look = move |storage: &Storage| {
            let sound = check(storage).unwrap();
            assert!(sound.is_sound(), "{sound:?}");
            let mut batch = Batch::new();
            change(storage, &mut batch);
            storage.store().commit(batch).unwrap();
            let found = check(storage).unwrap();
            assert!(found.damaged_rows.is_empty());
            found.faults.into_iter().map(|(_, _, why)| why).collect()
        };
        node.shared().blocking(look).await.unwrap()
    }

    fn get(storage: &Storage, table: Table, key: &[u8]) -> Vec<u8> {
        storage.store().get(table, key).unwrap().expect("the row is there")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_check_counts_records_and_what_is_inside_snapshots() {
        let (node, space) = node().await;
        packed(&node, space, 1).await;
        let report = node.check().await.unwrap();
        assert!(report.is_sound());
        assert_eq!((report.spaces, report.documents, report.entries), (1, 1, 2 + 1), "a grant, a header, a change");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_check_finds_a_snapshot_that_holds_other_entries() {
        let (node, space) = node().await;
        let (one, other) = (packed(&node, space, 1).await, packed(&node, space, 2).await);
        let key = |doc: DocId| [&space.0[..], &doc.0, b"b"].concat();
        let (one, other) = (key(one.id()), key(other.id()));
        let found = faults(&node, move |storage, batch| {
            batch.put(Table::Snapshots, one, get(storage, Table::Snapshots, &other));
        });
        let found = found.await;
        assert!(found.len() == 1 && found[0].contains("in the snapshot are missing or changed"), "{found:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_check_verifies_the_signatures_over_the_log_of_records() {
        let (node, space) = node().await;
        let found = faults(&node, move |storage, batch| {
            let mut row: SpaceRow = minicbor::decode(&get(storage, Table::Spaces, &space.0)).unwrap();
            row.lines[0].branches[0].tip.signature[5] ^= 1;
            batch.put(Table::Spaces, space.0, minicbor::to_vec(&row).unwrap());
        });
        let found = found.await;
        assert!(found.len() == 1 && found[0].contains("does not verify"), "{found:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_check_finds_records_and_rights_that_are_missing() {
        let (node, space) = node().await;
        let found = faults(&node, move |storage, batch| {
            let rows = storage.store().scan(Table::Records, &space.0, None, 10, 1 << 20).unwrap().rows;
            rows.into_iter().for_each(|(key, _)| batch.delete(Table::Records, key));
        });
        assert_eq!(found.await, ["a record is missing among the rights"]);

        let (node, space) = self::node().await;
        let found = faults(&node, move |storage, batch| {
            let rows = storage.store().scan(Table::Bodies, &space.0, None, 10, 1 << 20).unwrap().rows;
            rows.into_iter().for_each(|(key, _)| batch.delete(Table::Bodies, key));
        });
        let found = found.await;
        assert!(found.len() == 1 && found[0].contains("records of chain"), "{found:?}");
    }
}
