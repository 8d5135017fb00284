//! The handle of an open document: edits, reads, watches, and whether it is synced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use commonhold_sync::id::{DeviceId, DocId, EntryId, SpaceId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::document::{ChangeInfo, Cursor, Edit, EditError, Prop, View};
use crate::error::{EditFailure, Error};
use crate::open_document::OpenDocument;
use crate::shared::{Shared, locked};
use crate::status::{Cost, SyncStatus};
use crate::storage::DocumentInfo;
use crate::watch::Watch;

/// A place in a document. From text it is a JSON pointer (`""` the whole, `"/todos/0/title"`), in which steps of digits
/// are positions in lists; a map's key that looks like a number is given as [`Prop::Key`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(pub Vec<Prop>);

impl From<&str> for Path {
    fn from(pointer: &str) -> Path {
        let step = |text: &str| match text.parse::<usize>() {
            Ok(index) if text == "0" || !text.starts_with(['0', '+']) => Prop::Index(index),
            _ => Prop::Key(text.replace("~1", "/").replace("~0", "~")),
        };
        Path(
            pointer.strip_prefix('/').unwrap_or(pointer).split('/').filter(|_| !pointer.is_empty()).map(step).collect(),
        )
    }
}

impl From<&[Prop]> for Path {
    fn from(steps: &[Prop]) -> Path {
        Path(steps.to_vec())
    }
}

impl From<Vec<Prop>> for Path {
    fn from(steps: Vec<Prop>) -> Path {
        Path(steps)
    }
}

impl<const N: usize> From<[Prop; N]> for Path {
    fn from(steps: [Prop; N]) -> Path {
        Path(steps.to_vec())
    }
}

/// A version of a document: the ids of the entries that no other builds upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub Vec<EntryId>);

/// A handle of an open document. Cheap to clone; the document stays in memory while there is one.
pub struct Document {
    open: Arc<OpenDocument>,
    shared: Arc<Shared>,
    /// How many losses of edits this handle was told of, or were told before there was this handle.
    told: AtomicU64,
}

impl Clone for Document {
    fn clone(&self) -> Self {
        locked(&self.shared.documents).hold(&self.open);
        let told = AtomicU64::new(self.told.load(Ordering::Acquire));
        Document { open: self.open.clone(), shared: self.shared.clone(), told }
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        self.open.weigh();
        locked(&self.shared.documents).release(&self.open, self.shared.config.view_bytes);
    }
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Document({})", self.open.doc)
    }
}

impl Document {
    /// Opens a document, or gives a further handle of one that is open.
    pub(crate) async fn open_in(shared: &Arc<Shared>, space: SpaceId, doc: DocId) -> Result<Document, Error> {
        let document = {
            let mut documents = locked(&shared.documents);
            let open = documents.open.entry((space, doc));
            let open = open.or_insert_with(|| OpenDocument::spawn(shared, space, doc)).clone();
            documents.hold(&open);
            let told = AtomicU64::new(open.told());
            Document { open, shared: shared.clone(), told }
        };
        match document.open.header().await {
            Ok(_) => Ok(document),
            Err(error) => {
                locked(&shared.documents).remove(&document.open);
                document.open.close();
                Err(error)
            }
        }
    }

    pub(crate) fn open(&self) -> &OpenDocument {
        &self.open
    }

    pub(crate) fn open_arc(&self) -> Arc<OpenDocument> {
        self.open.clone()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Its id.
    pub fn id(&self) -> DocId {
        self.open.doc
    }

    /// Its space.
    pub fn space(&self) -> SpaceId {
        self.open.space
    }

    /// What its header says.
    pub async fn info(&self) -> Result<DocumentInfo, Error> {
        let header = self.open.header().await?;
        Ok(DocumentInfo {
            id: self.id(),
            kind: header.kind,
            name: header.name,
            creator: header.creator,
            deleted: false,
        })
    }

    /// Edits the document: at once in the view, on disk and on its way to others within [`crate::Config::flush_ms`]
    /// ([`Document::flush`] waits for that). If the closure fails, nothing of it stays. Blocks the task for as long as the
    /// closure runs, so it should do nothing else.
    pub async fn edit<T, E>(&self, f: impl FnOnce(&mut Edit<'_>) -> Result<T, E> + Send) -> Result<T, EditFailure<E>> {
        self.open.edit(None, f).await
    }

    /// Edits the document as it was at a version, which the caller has seen: [`Edit::set`] and [`Edit::make_so`] compare with what stood there
    /// then, and write where the same objects and elements are now, so that what others did since stays.
    /// [`EditError::UnknownVersion`] if that version is not held.
    pub async fn edit_at<T, E>(
        &self,
        version: &[EntryId],
        f: impl FnOnce(&mut Edit<'_>) -> Result<T, E> + Send,
    ) -> Result<T, EditFailure<E>> {
        self.open.edit(Some(version), f).await
    }

    /// Makes what stands at a path equal to a value, by the smallest edits.
    pub async fn set<T: Serialize + ?Sized + Sync>(&self, path: impl Into<Path>, value: &T) -> Result<(), Error> {
        let path = path.into();
        self.edit(|edit| edit.set(&path.0, value)).await.map_err(EditFailure::<EditError>::flatten)
    }

    /// Ends the change that edits are being gathered into, without waiting for a flush: for one change a keystroke.
    pub async fn commit(&self) -> Result<(), Error> {
        self.open.commit().await
    }

    /// Returns when every edit so far is on this disk. If an earlier edit was not saved, whoever made it, that is told here:
    /// once by each handle that was there when it happened. The document then shows what is saved.
    pub async fn flush(&self) -> Result<Version, Error> {
        self.flush_and_read(|view| Version(view.heads())).await
    }

    /// The same, with what was read of the view as it is saved: no edit is pending in it, whatever others do meanwhile.
    pub async fn flush_and_read<T>(&self, f: impl FnOnce(&View) -> T) -> Result<T, Error> {
        self.open.flush_for(&self.told, f).await
    }

    /// Reads from the view, pending edits included. Blocks other users of the document meanwhile.
    pub async fn read<T>(&self, f: impl FnOnce(&View) -> T) -> Result<T, Error> {
        self.open.read(f).await
    }

    /// What stands at a path, as a type of the application.
    pub async fn get<T: DeserializeOwned>(&self, path: impl Into<Path>) -> Result<T, Error> {
        let path = path.into();
        Ok(self.open.read(|view| view.get(&path.0)).await??)
    }

    /// The document as JSON.
    pub async fn json(&self) -> Result<Json, Error> {
        self.open.read(View::to_json).await
    }

    /// What stands at a path, as JSON; `None` where nothing does.
    pub async fn json_at(&self, path: impl Into<Path>) -> Result<Option<Json>, Error> {
        let path = path.into();
        self.open.read(|view| view.json_at(&path.0)).await
    }

    /// A cursor at an index of the list or text at a path, which stays at its element while others edit around it; at the
    /// length of the list or text, one that stays behind the last.
    pub async fn cursor(&self, path: impl Into<Path>, index: usize) -> Result<Cursor, Error> {
        let path = path.into();
        Ok(self.open.read_mut(|view| view.cursor(&path.0, index)).await??)
    }

    /// Where a cursor stands now; where its element was, if that is deleted. `None` if the document does not hold it.
    pub async fn position(&self, cursor: &Cursor) -> Result<Option<usize>, Error> {
        self.open.read(|view| view.position(cursor)).await
    }

    /// The document as it was at a version; `None` if that version is not held.
    pub async fn json_at_heads(&self, heads: &[EntryId]) -> Result<Option<Json>, Error> {
        self.open.read(|view| view.json_at_heads(heads)).await
    }

    /// The document as other Automerge programs read it, with the version that shows.
    pub async fn automerge_file(&self) -> Result<(Vec<u8>, Version), Error> {
        let saved = self.open.read_mut(|view| view.to_automerge().map(|bytes| (bytes, Version(view.heads()))));
        Ok(saved.await??)
    }

    /// The version that the view shows. Pending edits become a change.
    pub async fn heads(&self) -> Result<Vec<EntryId>, Error> {
        self.open.read_mut(|view| view.commit().map(|()| view.heads())).await?.map_err(|_| EditError::Broken.into())
    }

    /// Every change, dependencies first. Pending edits become one.
    pub async fn history(&self) -> Result<Vec<ChangeInfo>, Error> {
        self.open.read_mut(|view| view.history().collect()).await
    }

    /// The raw entries that are not in the past of a version, dependencies first.
    pub async fn entries_since(&self, heads: &[EntryId]) -> Result<Vec<(EntryId, Vec<u8>)>, Error> {
        self.open.read_mut(|view| view.entries_since(heads)).await
    }

    /// The same, with the version that they lead to.
    pub async fn changes_since(&self, heads: &[EntryId]) -> Result<(Vec<(EntryId, Vec<u8>)>, Version), Error> {
        self.open.read_mut(|view| (view.entries_since(heads), Version(view.heads()))).await
    }

    /// Watches the document, from the next call of [`Watch::next`] on.
    pub fn watch(&self) -> Watch {
        Watch::new(self.clone())
    }

    /// Whether it is synced.
    pub async fn sync_status(&self) -> SyncStatus {
        let (space, doc) = (self.space(), self.id());
        let (saved_here, unsaved) = self.open.is_saved();
        let tracker = locked(&self.shared.tracker);
        SyncStatus {
            saved_here,
            unsaved,
            acknowledged: tracker.acknowledged(&space, &doc),
            level_with: tracker.level_with(&space),
        }
    }

    /// Returns when every edit made so far is on this disk and on those of `n` other peers. Puts no limit to the time.
    pub async fn wait_acked(&self, n: usize) -> Result<Vec<DeviceId>, Error> {
        self.flush().await?;
        let (space, doc) = (self.space(), self.id());
        let mut held = Vec::new();
        let enough = || {
            let acknowledged = locked(&self.shared.tracker).acknowledged(&space, &doc);
            held = acknowledged.into_iter().filter(|(_, all)| *all).map(|(peer, _)| peer).collect();
            held.len() >= n
        };
        self.shared.until(enough).await?;
        Ok(held)
    }

    /// [`Document::wait_acked`] for so long at most; the peers that hold it when that time is over.
    pub async fn wait_acked_for(&self, n: usize, patience: Duration) -> Result<Vec<DeviceId>, Error> {
        match tokio::time::timeout(patience, self.wait_acked(n)).await {
            Ok(held) => held,
            Err(_) => {
                let acknowledged = locked(&self.shared.tracker).acknowledged(&self.space(), &self.id());
                Ok(acknowledged.into_iter().filter(|(_, all)| *all).map(|(peer, _)| peer).collect())
            }
        }
    }

    /// What the document costs.
    pub async fn cost(&self) -> Result<Cost, Error> {
        self.open.cost().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_name_places() {
        let key = |text: &str| Prop::Key(text.into());
        assert_eq!(Path::from("").0, vec![]);
        assert_eq!(Path::from("/todos/0/title").0, vec![key("todos"), Prop::Index(0), key("title")]);
        assert_eq!(Path::from("title").0, vec![key("title")]);
        assert_eq!(Path::from("/a~1b/~01/007").0, vec![key("a/b"), key("~1"), key("007")]);
    }
}
