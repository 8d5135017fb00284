//! Documents: reading, editing, history, status.

use std::time::Duration;

use commonhold_engine::{
    Change as Update, DeviceId, DocId, Document, DocumentInfo, DocumentQuery, Edit, EditError, EditFailure, EntryId,
    Erasure, Error, Node, ObjId, Origin, Prop, SpaceId, StorageReceipt,
};
use serde_json::Value as Json;

use super::failure;
use crate::failure::Failure;
use crate::local::hex;
use crate::place;
use crate::request::{
    Answered, Change, Changed, Cost, Document as Row, Erasure as ErasureRow, Receipt, Receipts, Released, Reply,
    Status, Value, Watched,
};

pub(super) async fn list(node: &Node, space: SpaceId, kind: Option<String>, deleted: bool) -> Answered {
    let query = DocumentQuery { kind, deleted, ..DocumentQuery::default() };
    let all = node.documents(space, query).await.map_err(|error| failure(&error))?;
    let successions = node.successions(space).await.map_err(|error| failure(&error))?;
    let quarantine = node.quarantine(space);
    let with_successors = |info: &DocumentInfo| {
        let of = successions.iter().filter(|succession| succession.old == info.id);
        let excess = quarantine.get(&info.id).filter(|row| !row.released).map(|row| row.excess.to_string());
        let successors = of.map(|succession| succession.new.to_string()).collect();
        Row { successors, quarantined: excess, ..row(space, info) }
    };
    Ok(Reply::Documents(all.iter().map(with_successors).collect()))
}

pub(super) async fn create(node: &Node, space: SpaceId, kind: &str, name: &str) -> Answered {
    let document = node.create_document(space, kind, name).await.map_err(|error| failure(&error))?;
    let info = document.info().await.map_err(|error| failure(&error))?;
    Ok(Reply::Document(row(space, &info)))
}

pub(super) async fn delete(node: &Node, space: SpaceId, doc: DocId) -> Answered {
    let all = node.documents(space, DocumentQuery::default()).await.map_err(|error| failure(&error))?;
    node.delete_document(space, doc).await.map_err(|error| failure(&error))?;
    let gone = all.iter().find(|info| info.id == doc).map(|info| Row { deleted: true, ..row(space, info) });
    gone.map(Reply::Document).ok_or_else(|| failure(&Error::UnknownDocument(doc)))
}

fn row(space: SpaceId, info: &DocumentInfo) -> Row {
    Row {
        id: info.id.to_string(),
        space: space.to_string(),
        kind: info.kind.clone(),
        name: info.name.clone(),
        creator: info.creator.to_string(),
        deleted: info.deleted,
        successors: Vec::new(),
        quarantined: None,
    }
}

/// Shows a document again that is over its budget.
pub(super) async fn release(node: &Node, space: SpaceId, doc: DocId) -> Answered {
    let released = node.release(space, doc).await.map_err(|error| failure(&error))?;
    Ok(Reply::Released(Released { doc: doc.to_string(), released }))
}

/// Who has the document as it is now.
pub(super) async fn receipts(document: &Document, peers: usize, patience: Duration) -> Answered {
    let heads = document.flush().await.map_err(|error| failure(&error))?.0;
    let found = document.receipts(&heads, peers, patience).await.map_err(|error| failure(&error))?;
    let row = |receipt: &StorageReceipt| Receipt {
        holder: receipt.holder.to_string(),
        space: receipt.space.to_string(),
        doc: receipt.doc.to_string(),
        heads: texts(&receipt.entries),
        signature: hex(&receipt.signature),
    };
    let receipts = found.iter().map(row).collect();
    Ok(Reply::Receipts(Receipts { doc: document.id().to_string(), heads: texts(&heads), receipts }))
}

/// Asks for it, and shows how far it has come.
pub(super) async fn erase(node: &Node, space: SpaceId, doc: DocId, note: &str) -> Answered {
    let request = node.erase_document(space, doc, note).await.map_err(|error| failure(&error))?;
    let all = node.erasures(space).await.map_err(|error| failure(&error))?;
    Ok(Reply::Erasures(all.iter().filter(|erasure| erasure.request == request).map(erasure_row).collect()))
}

pub(super) async fn erasures(node: &Node, space: SpaceId) -> Answered {
    let all = node.erasures(space).await.map_err(|error| failure(&error))?;
    Ok(Reply::Erasures(all.iter().map(erasure_row).collect()))
}

fn erasure_row(erasure: &Erasure) -> ErasureRow {
    let texts = |devices: &[DeviceId]| devices.iter().map(ToString::to_string).collect();
    ErasureRow {
        doc: erasure.document.id.to_string(),
        name: erasure.document.name.clone(),
        request: erasure.request.to_string(),
        by: erasure.by.to_string(),
        note: erasure.note.clone(),
        erased: texts(&erasure.erased),
        awaited: texts(&erasure.awaited),
    }
}

pub(super) async fn succeed(node: &Node, space: SpaceId, doc: DocId) -> Answered {
    let new = node.succeed_document(space, doc).await.map_err(|error| failure(&error))?;
    let info = new.info().await.map_err(|error| failure(&error))?;
    Ok(Reply::Document(row(space, &info)))
}

pub(super) async fn get(document: &Document, path: &str) -> Answered {
    let read = document.read(|view| (view.to_json(), view.heads())).await;
    let (whole, heads) = read.map_err(|error| failure(&error))?;
    let path = place::parse(&whole, path)?;
    let value = place::value(&whole, &path).ok_or_else(|| place::nothing_at(&path))?.clone();
    Ok(Reply::Value(Value { doc: document.id().to_string(), value, heads: texts(&heads) }))
}

pub(super) async fn set(document: &Document, path: &str, value: Json) -> Answered {
    apply(document, |now| {
        let path = place::parse(now, path)?;
        Ok(match place::value(now, &path) == Some(&value) {
            true => Vec::new(),
            false => vec![(path, Some(value))],
        })
    })
    .await
}

pub(super) async fn patch(document: &Document, patch: Json) -> Answered {
    if !patch.is_object() {
        return Err(Failure::usage(
            "bad_patch",
            "the patch is not a JSON object",
            "a document is a map: '{\"key\": value}', null removes",
        ));
    }
    apply(document, |now| Ok(place::changes(now, &place::merge(now, &patch)))).await
}

pub(super) async fn edit(document: &Document, before: Json, after: Json) -> Answered {
    if !after.is_object() {
        return Err(Failure::usage(
            "bad_document",
            "the edited text is not a JSON object",
            "a document is a map: {\"key\": value}",
        ));
    }
    apply(document, |now| {
        place::rebase(&before, &after, now).map_err(|path| {
            Failure::failed(
                "edited_meanwhile",
                format!("{} was changed by somebody else while you edited it", place::show(&path)),
                "nothing was written; look at the document as it is now and edit again",
            )
        })
    })
    .await
}

/// Why an edit was not made, from inside it.
enum Refusal {
    Ours(Failure),
    Edit(EditError),
}

impl From<EditError> for Refusal {
    fn from(error: EditError) -> Self {
        Refusal::Edit(error)
    }
}

/// Makes changes that are worked out on the document as it is at that moment, and waits until they are on disk.
async fn apply(
    document: &Document,
    work_out: impl FnOnce(&Json) -> Result<Vec<place::Change>, Failure> + Send,
) -> Answered {
    let made = document
        .edit(move |edit: &mut Edit<'_>| -> Result<bool, Refusal> {
            let now = whole(edit);
            let changes = work_out(&now).map_err(Refusal::Ours)?;
            for (path, value) in &changes {
                make(edit, path, value.as_ref())?;
            }
            Ok(!changes.is_empty())
        })
        .await;
    let changed = match made {
        Ok(changed) => changed,
        Err(EditFailure::App(Refusal::Ours(failure))) => return Err(failure),
        Err(EditFailure::App(Refusal::Edit(error))) => return Err(failure(&error.into())),
        Err(EditFailure::Engine(error)) => return Err(failure(&error)),
    };
    if changed {
        document.flush().await.map_err(|error| failure(&error))?;
    }
    let heads = document.heads().await.map_err(|error| failure(&error))?;
    Ok(Reply::Changed(Changed { doc: document.id().to_string(), heads: texts(&heads), changed }))
}

fn whole(edit: &Edit<'_>) -> Json {
    Json::Object(edit.keys(&ObjId::ROOT).into_iter().map(|key| (key.clone(), edit.json(&ObjId::ROOT, key))).collect())
}

fn make(edit: &mut Edit<'_>, path: &[Prop], value: Option<&Json>) -> Result<(), EditError> {
    match (value, path.split_last()) {
        (Some(value), _) => edit.set_json(path, value),
        (None, Some((key, parents))) => {
            let parent = edit.resolve(parents)?;
            edit.delete(&parent, key.clone())
        }
        // The document itself cannot go this way; `place::changes` does not ask for it.
        (None, None) => Ok(()),
    }
}

pub(super) async fn history(document: &Document, last: usize) -> Answered {
    let mut all = document.history().await.map_err(|error| failure(&error))?;
    all.drain(..all.len().saturating_sub(last));
    let row = |change: commonhold_engine::ChangeInfo| Change {
        id: change.id.to_string(),
        chain: hex(&change.actor),
        number: change.seq,
        operations: change.ops,
        author: change.author.as_deref().map(hex),
        time: change.time,
        message: change.message,
    };
    Ok(Reply::History(all.into_iter().map(row).collect()))
}

pub(super) async fn status(document: &Document) -> Answered {
    let sync = document.sync_status().await;
    let cost = document.cost().await.map_err(|error| failure(&error))?;
    let heads = document.heads().await.map_err(|error| failure(&error))?;
    Ok(Reply::Status(Status {
        doc: document.id().to_string(),
        heads: texts(&heads),
        saved_here: sync.saved_here,
        acknowledged: sync.acknowledged.iter().filter(|(_, all)| *all).map(|(peer, _)| peer.to_string()).collect(),
        level_with: sync.level_with.iter().map(ToString::to_string).collect(),
        cost: Cost {
            changes: cost.changes as u64,
            operations: cost.ops as u64,
            chains: cost.actors as u64,
            memory_bytes: cost.memory_bytes as u64,
        },
    }))
}

pub(super) fn watched(update: Update) -> Result<Watched, Failure> {
    let (origin, peer) = match update.origin {
        Origin::Local => ("local", None),
        Origin::Remote(peer) => ("remote", Some(peer.to_string())),
        Origin::Rebuilt => ("rebuilt", None),
        Origin::Reset => ("reset", None),
    };
    let patches: Result<_, _> = update.patches.iter().map(serde_json::to_value).collect();
    let patches = patches.map_err(|error| Failure::failed("internal", error, "please report it"))?;
    Ok(Watched { origin: origin.to_owned(), peer, patches, heads: texts(&update.heads) })
}

fn texts(heads: &[EntryId]) -> Vec<String> {
    heads.iter().map(ToString::to_string).collect()
}
