//! Storage folders of automerge-repo and samod: each document is taken as the gateway takes what its clients send, under the id that they
//! know it by. What is here already is left out, so that an import may be done again.

use std::collections::{BTreeMap, BTreeSet};

use commonhold_engine::{
    DocId, DocumentQuery, EdgeKind, Error, ForeignSyncError, Node, Right, SpaceId, StoredChanges, Subject, Writers,
};
use tokio::io::AsyncRead;

use super::failure;
use crate::failure::Failure;
use crate::gateway::ids::{self, KIND, RepoId};
use crate::request::{Answered, ImportedFolder, Reply};
use crate::storage_folder;

/// Changes of the space that are looked at in one step.
const CHANGES_AT_ONCE: usize = 1_000;

/// Takes what `storage_folder` sends.
pub(super) async fn import(node: &Node, space: SpaceId, mut from: impl AsyncRead + Unpin) -> Answered {
    if let Some(what) = lacking(node, space).await.map_err(|error| failure(&error))? {
        return Err(no_right(what));
    }
    // The number first: what comes meanwhile is seen after it.
    let seen = node.last_change(space).await.map_err(|error| failure(&error))?;
    let known = node.documents(space, DocumentQuery::default()).await.map_err(|error| failure(&error))?;
    let imported = ImportedFolder { space: space.to_string(), ..ImportedFolder::default() };
    let mut import = Import { node, space, known: ids::directory(&known), seen, imported };
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

/// What this device lacks for an import into the space. Where everybody writes, whoever creates a document may vouch for what is in it.
async fn lacking(node: &Node, space: SpaceId) -> Result<Option<&'static str>, Error> {
    let (info, device) = (node.space(space)?, node.device());
    if !info.ready {
        return Err(Error::SpaceNotReady(space));
    }
    if info.right < Some(Right::Write) {
        return Ok(Some("write"));
    }
    if info.writers == Some(Writers::Anyone) {
        return Ok(None);
    }
    let edges = node.members(space).await?;
    // What its identities have, it has.
    let mut itself = BTreeSet::from([Subject::from(device)]);
    for edge in edges.iter().filter(|edge| edge.in_force() && edge.subject == device.into()) {
        if let EdgeKind::Member { identity, .. } = &edge.kind {
            itself.insert(*identity);
        }
    }
    let root = info.root.is_some_and(|root| itself.contains(&root.into()));
    let vouches = root
        || edges.iter().any(|edge| {
            edge.in_force() && edge.gateway && edge.right >= Some(Right::Write) && itself.contains(&edge.subject)
        });
    Ok((!vouches).then_some("vouch for changes of others"))
}

fn no_right(what: &str) -> Failure {
    Failure::failed(
        Error::NotAllowed("").code(),
        format!("an import needs the gateway right, and this device has no right to {what} in the space"),
        "ask an administrator for: commonhold grant DEVICE --gateway (`commonhold status --json` prints this device's id as \"peer\"), and import the folder again",
    )
}

struct Import<'a> {
    node: &'a Node,
    space: SpaceId,
    known: BTreeMap<RepoId, DocId>,
    /// Number of the last change of the space that `known` has.
    seen: u64,
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
        if !self.known.contains_key(&id) {
            // A client of the gateway may have made it meanwhile.
            self.catch_up().await.map_err(|error| failure(&error))?;
        }
        let (doc, made) = match self.known.get(&id) {
            Some(doc) => (*doc, false),
            None if !stored.has_beginning() => {
                let why = "all that can be read of it builds upon changes that are not there";
                self.imported.skip(id.to_string(), why);
                return Ok(());
            }
            None => match self.create(id).await {
                Ok(doc) => (doc, true),
                Err(Error::NotAllowed(what)) => return Err(no_right(what)),
                Err(error) => return self.left_out(id, error),
            },
        };
        let document = match self.node.open_document(self.space, doc).await {
            Ok(document) => document,
            Err(error) => return self.left_out(id, error),
        };
        let received = match document.take_stored(stored).await {
            Ok(received) => received,
            // Others that are made would stay as empty.
            Err(ForeignSyncError::Engine(Error::NotAllowed(what))) if made => return Err(no_right(what)),
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
            | Error::Quarantined { .. }
            | Error::Damaged { .. }
            | Error::NotAllowed(_) => {
                self.imported.skip(id.to_string(), error.to_string());
                Ok(())
            }
            error => Err(failure(&error)),
        }
    }

    /// Sees which documents have come, and which are gone.
    async fn catch_up(&mut self) -> Result<(), Error> {
        self.node.settle().await?;
        loop {
            let changes = self.node.changes(self.space, self.seen, CHANGES_AT_ONCE).await?;
            for info in changes.rows.iter().map(|change| &change.info) {
                let id = RepoId::of(info);
                match (self.known.get(&id).copied(), info.deleted) {
                    (Some(known), true) if known == info.id => _ = self.known.remove(&id),
                    (None, false) => _ = self.known.insert(id, info.id),
                    // Of two with one id the lesser is meant.
                    (Some(known), false) => _ = self.known.insert(id, known.min(info.id)),
                    _ => {}
                }
            }
            self.seen = changes.last;
            if changes.end {
                return Ok(());
            }
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
