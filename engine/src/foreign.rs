//! Takes an Automerge file that no peer of ours made: its changes become foreign chains of a new document, for which this
//! device vouches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use commonhold_sync::chain::{Kind, Opening};
use commonhold_sync::id::{EntryId, SpaceId};
use commonhold_sync::peer::Local;
use tokio::sync::oneshot;

use crate::bundle::ImportReport;
use crate::document::{SnapshotCaps, View};
use crate::error::Error;
use crate::node::Node;
use crate::shared::{Command, Reply};
use crate::start::random;

/// The first bytes of every Automerge chunk.
pub(crate) const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];

/// Consecutive changes of one actor.
type Run = (Vec<u8>, Vec<Vec<u8>>);

pub(crate) async fn import(node: &Node, bytes: Vec<u8>, space: SpaceId) -> Result<ImportReport, Error> {
    let worked = tokio::task::spawn_blocking(move || crate::worker::guarded(|| runs(&bytes))).await;
    let runs = worked.map_err(|_| Error::Internal("reading the file failed"))?.map_err(Error::Import)?;
    node.shared().may_write(&space)?;
    let ids = node.create_documents(space, [("", "")]).await?;
    let doc = ids.first().copied().ok_or(Error::Internal("a document without an id"))?;
    let salt = random()?;
    let mut report = ImportReport { space: Some(space), documents: vec![doc], ..ImportReport::default() };
    for (actor, entries) in runs {
        let opening = Opening { device: node.device(), salt, kind: Kind::Foreign(actor) };
        report.entries += entries.len() as u64;
        let (reply, said) = oneshot::channel();
        let local = Local::Entries { doc, opening, entries };
        node.shared().command(Command::Say { space, local, reply: Reply::Entries(reply) }).await?;
        let said = said.await.map_err(|_| node.shared().no_reply())?;
        if let Err(error) = said {
            // Half a document helps nobody.
            let _ = node.delete_document(space, doc).await;
            return Err(match error {
                Error::DoesNotFit(why) => Error::Import(format!("a change of the file breaks a rule: {why}")),
                other => other,
            });
        }
    }
    Ok(report)
}

/// The changes of a file in runs by actor, dependencies first, in as few runs as that allows simply.
fn runs(bytes: &[u8]) -> Result<Vec<Run>, String> {
    // As a snapshot that is stored without compression, it is read with the same care.
    let mut packed = b"CHsn\x01\x00".to_vec();
    packed.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    packed.extend_from_slice(bytes);
    let caps = SnapshotCaps { foreign: true, document: None, ..SnapshotCaps::default() };
    let (mut view, _) = View::from_snapshot(&packed, &caps).map_err(|fault| fault.to_string())?;
    view.verify().map_err(|(id, fault)| format!("change {id}: {fault}"))?;
    let mut waiting: BTreeMap<Vec<u8>, VecDeque<(EntryId, Vec<EntryId>)>> = BTreeMap::new();
    for change in view.history() {
        waiting.entry(change.actor).or_default().push_back((change.id, change.deps));
    }
    let mut bodies: BTreeMap<EntryId, Vec<u8>> = view.entries_since(&[]).into_iter().collect();
    let mut done: BTreeSet<EntryId> = BTreeSet::new();
    let mut runs = Vec::new();
    while !waiting.is_empty() {
        let before = runs.len();
        for (actor, queue) in &mut waiting {
            let mut run = Vec::new();
            while let Some((id, _)) = queue.pop_front_if(|(_, deps)| deps.iter().all(|dep| done.contains(dep))) {
                done.insert(id);
                run.extend(bodies.remove(&id));
            }
            if !run.is_empty() {
                runs.push((actor.clone(), run));
            }
        }
        waiting.retain(|_, queue| !queue.is_empty());
        if runs.len() == before {
            return Err("its changes name dependencies that it does not hold".into());
        }
    }
    Ok(runs)
}
