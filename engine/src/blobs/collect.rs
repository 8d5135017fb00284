//! Garbage: a blob stays while a document that is shown refers to it, or while its time of grace has not passed since it was
//! put, fetched or pinned.
//!
//! Documents are loaded one at a time, off the runtime, from the store and not through open views: what is not saved yet is not
//! seen, and the time of grace is for that. Where one cannot be read nothing is removed, since it may refer to anything.

use std::collections::BTreeSet;

use commonhold_sync::blobs::Blob;
use commonhold_sync::id::{DocId, SpaceId};

use super::{BlobInfo, references};
use crate::error::Error;
use crate::quarantine::DocumentBudget;
use crate::shared::{Shared, locked};
use crate::storage::DocumentQuery;
use crate::worker;

/// Documents that are listed at once.
const PAGE: usize = 1_024;

/// What a collection came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs that were looked at.
    pub blobs: usize,
    /// Documents that were read for the names in them.
    pub documents: usize,
    /// What was removed.
    pub removed: Vec<Blob>,
}

pub(super) async fn collect(shared: &Shared, space: SpaceId) -> Result<Collected, Error> {
    let info = locked(&shared.spaces).get(&space).cloned().ok_or(Error::UnknownSpace(space))?;
    let limits = shared.config.blobs;
    // Who takes a part of a space does not know what the rest refers to, and a relay opens nothing.
    if limits.recent || info.takes.is_some() {
        return Ok(Collected::default());
    }
    let blobs = shared.blobs.store.clone();
    let listed = blobs.clone();
    let of_space = blocking(move || listed.list(&space)).await??;
    let is_old = |info: &BlobInfo| info.since.elapsed().is_ok_and(|age| age >= limits.grace);
    let old: Vec<Blob> = of_space.iter().filter(|info| is_old(info)).map(|info| info.blob).collect();
    if old.is_empty() {
        return Ok(Collected { blobs: of_space.len(), ..Collected::default() });
    }
    let (kept, documents) = referenced(shared, space).await?;
    let mut removed = Vec::new();
    for blob in old.into_iter().filter(|blob| !kept.contains(blob)) {
        let from = blobs.clone();
        // It may have been pinned while documents were read.
        let gone = blocking(move || match from.list(&space)?.iter().find(|info| info.blob == blob) {
            Some(info) if info.since.elapsed().is_ok_and(|age| age >= limits.grace) => from.remove(&space, &blob),
            _ => Ok(false),
        });
        if gone.await?? {
            removed.push(blob);
            shared.tell_blob(space, blob, false).await;
        }
    }
    Ok(Collected { blobs: of_space.len(), documents, removed })
}

/// The blobs that documents of the space refer to, and how many documents were read.
async fn referenced(shared: &Shared, space: SpaceId) -> Result<(BTreeSet<Blob>, usize), Error> {
    shared.settle().await?;
    let (mut kept, mut documents, mut after) = (BTreeSet::new(), 0, None::<DocId>);
    loop {
        let query = DocumentQuery { after, limit: PAGE, ..DocumentQuery::default() };
        let page = shared.blocking(move |storage| storage.documents(&space, &query)).await??;
        let Some(last) = page.last() else { return Ok((kept, documents)) };
        after = Some(last.id);
        for document in page {
            let doc = document.id;
            let read = move |storage: &crate::storage::Storage| {
                worker::guarded(|| {
                    let Some(made) = worker::load(storage, &space, &doc, &[], &DocumentBudget::default())? else {
                        return Ok(Vec::new());
                    };
                    let mut found = Vec::new();
                    made.view.each_string(|text| found.extend(references(text).map(|name| name.blob)));
                    Ok(found)
                })
            };
            let found = shared.blocking(read).await?.map_err(|why| Error::Damaged { doc, why })?;
            kept.extend(found);
            documents += 1;
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Internal("work on blobs failed"))
}
