//! Storage folders of automerge-repo and samod: each document is taken as the gateway takes what its clients send, under the id that they
//! know it by. What is here already is left out, so that an import may be done again.

use std::collections::BTreeMap;

use commonhold_engine::{DocId, DocumentQuery, Error, ForeignSyncError, Node, SpaceId, StoredChanges};
use tokio::io::AsyncRead;

use super::failure;
use crate::failure::Failure;
use crate::gateway::ids::{self, KIND, RepoId};
use crate::request::{Answered, ImportedFolder, Reply};
use crate::storage_folder;

/// Takes what `storage_folder` sends.
pub(super) async fn import(node: &Node, space: SpaceId, mut from: impl AsyncRead + Unpin) -> Answered {
    let known = node.documents(space, DocumentQuery::default()).await.map_err(|error| failure(&error))?;
    let imported = ImportedFolder { space: space.to_string(), ..ImportedFolder::default() };
    let mut import = Import { node, space, known: ids::directory(&known), imported };
    drop(known);
    loop {
        let next = storage_folder::next(&mut from).await.map_err(|error| {
            Failure::failed(
                "import_folder",
                format!("the import broke off: {error}"),
                "import the folder again: what is here already is left out",
            )
        })?;
        match next {
            Some((id, files)) => import.document(id, files).await?,
            None => return Ok(Reply::ImportedFolder(import.imported)),
        }
    }
}

struct Import<'a> {
    node: &'a Node,
    space: SpaceId,
    known: BTreeMap<RepoId, DocId>,
    imported: ImportedFolder,
}

impl Import<'_> {
    /// Takes one. What is wrong with it is told, and is no failure of the import.
    async fn document(&mut self, id: RepoId, files: Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
        let (names, pieces): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        let reading = tokio::task::spawn_blocking(move || StoredChanges::read(&pieces)).await;
        let (stored, damaged) = reading.map_err(|_| failure(&Error::Internal("reading a document failed")))?;
        let nothing = stored.is_empty() && damaged.is_empty();
        for damaged in damaged {
            self.imported.skip(names.get(damaged.piece).cloned().unwrap_or_default(), damaged.why);
        }
        if nothing {
            self.imported.skip(id.to_string(), "there is nothing in it");
        }
        if stored.is_empty() {
            return Ok(());
        }
        let doc = match self.known.get(&id) {
            Some(doc) => *doc,
            None if !stored.has_beginning() => {
                let why = "all that can be read of it builds upon changes that are not there";
                self.imported.skip(id.to_string(), why);
                return Ok(());
            }
            None => match self.create(id).await {
                Ok(doc) => doc,
                Err(error) => return self.left_out(id, error),
            },
        };
        let document = match self.node.open_document(self.space, doc).await {
            Ok(document) => document,
            Err(error) => return self.left_out(id, error),
        };
        let received = match document.take_stored(stored).await {
            Ok(received) => received,
            Err(ForeignSyncError::Engine(error)) => return self.left_out(id, error),
            Err(error) => {
                self.imported.skip(id.to_string(), error.to_string());
                return Ok(());
            }
        };
        self.imported.documents += 1;
        self.imported.changes += received.taken as u64;
        if let Some((_, why)) = received.refused.first() {
            let why = format!("{} of its changes were not taken, the first because {why}", received.refused.len());
            self.imported.skip(id.to_string(), why);
        }
        if received.waiting > 0 {
            let why = format!("{} of its changes build upon others that are not there", received.waiting);
            self.imported.skip(id.to_string(), why);
        }
        Ok(())
    }

    /// An error of one document is told, and the others go on.
    fn left_out(&mut self, id: RepoId, error: Error) -> Result<(), Failure> {
        match error {
            Error::UnknownDocument(_)
            | Error::Deleted(_)
            | Error::NotTaken(_)
            | Error::Blocked(_)
            | Error::Quota
            | Error::NotAllowed(_) => {
                self.imported.skip(id.to_string(), error.to_string());
                Ok(())
            }
            error => Err(failure(&error)),
        }
    }

    async fn create(&mut self, id: RepoId) -> Result<DocId, Error> {
        let made = self.node.create_documents(self.space, [(KIND, id.to_string())]).await?;
        let doc = made.first().copied().ok_or(Error::Internal("a document without an id"))?;
        self.known.insert(id, doc);
        self.imported.created += 1;
        Ok(doc)
    }
}
