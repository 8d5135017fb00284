//! Blobs: put, fetched and written out, listed, collected.

use std::path::PathBuf;

use commonhold_engine::blobs::BlobError;
use commonhold_engine::{BlobFetch, BlobReader, BlobRef, Error, Node, SpaceId};

use super::failure;
use crate::failure::Failure;
use crate::local::hex;
use crate::request::{Answered, Blob, BlobProgress, CheckedBlobs, CollectedBlobs, Reply};

fn row(name: &BlobRef, seconds: Option<u64>) -> Blob {
    Blob { blob: name.to_string(), hash: name.blob.hash.to_string(), bytes: name.blob.size, seconds }
}

/// Stores a file of this machine.
pub(super) async fn put(node: &Node, space: SpaceId, path: PathBuf, media_type: &str) -> Answered {
    let put = node.put_blob_file(space, &path).await.map_err(|error| match error {
        Error::Io(source) => {
            let what = format!("cannot read {}: {source}", path.display());
            Failure::usage("unreadable", what, "name a file that can be read")
        }
        error => failure(&error),
    })?;
    Ok(Reply::Blob(row(&BlobRef::with_type(put.blob, media_type), None)))
}

pub(super) async fn list(node: &Node, space: SpaceId) -> Answered {
    let blobs = node.blobs(space).await.map_err(|error| failure(&error))?;
    let of = |info: &commonhold_engine::blobs::BlobInfo| {
        row(&info.blob.into(), info.since.elapsed().ok().map(|age| age.as_secs()))
    };
    Ok(Reply::Blobs(blobs.iter().map(of).collect()))
}

pub(super) async fn collect(node: &Node, space: SpaceId) -> Answered {
    let collected = node.collect_blobs(space).await.map_err(|error| failure(&error))?;
    Ok(Reply::CollectedBlobs(CollectedBlobs {
        blobs: collected.blobs as u64,
        documents: collected.documents as u64,
        removed: collected.removed.iter().map(|blob| BlobRef::from(*blob).to_string()).collect(),
        bytes: collected.removed.iter().map(|blob| blob.size).sum(),
    }))
}

/// Reads every blob of every space.
pub(super) async fn check(node: &Node) -> Answered {
    let mut checked = CheckedBlobs::default();
    for space in node.spaces() {
        for info in node.blobs(space.id).await.map_err(|error| failure(&error))? {
            checked.blobs += 1;
            checked.bytes += info.blob.size;
            let read = match node.blob(space.id, &info.blob.into()).await {
                Ok(Some(reader)) => reader.copy_to(tokio::io::sink()).await.map(drop),
                // Its length, or its tree, told already.
                Ok(None) => Err(Error::BlobFailed(BlobError::Damaged)),
                Err(error) => Err(error),
            };
            match read {
                Ok(()) => {}
                Err(Error::BlobFailed(BlobError::Damaged)) => checked.damaged.push(info.blob.hash.to_string()),
                Err(error) => return Err(failure(&error)),
            }
        }
    }
    Ok(Reply::CheckedBlobs(checked))
}

/// A blob on its way out: progress while it is fetched, then its bytes, then what it was.
pub(crate) struct Getting {
    node: Node,
    space: SpaceId,
    name: BlobRef,
    fetch: Option<BlobFetch>,
    reader: Option<BlobReader>,
    done: bool,
}

/// Fetches a blob if it is not here, and reads it.
pub(crate) async fn get(node: &Node, space: Option<String>, name: &str) -> Result<Getting, Failure> {
    let space = super::find_space(node, space.as_deref())?;
    let name: BlobRef = name.parse().map_err(|error: commonhold_engine::blobs::BlobRefError| {
        Failure::usage("bad_blob", error, "copy the whole name, in quotes; `commonhold blob put` prints it")
    })?;
    let fetch = node.fetch_blob(space, &name).await.map_err(|error| failure(&error))?;
    Ok(Getting { node: node.clone(), space, name, fetch: Some(fetch), reader: None, done: false })
}

fn spent() -> Failure {
    Failure::failed(
        "budget_spent",
        "what the network may cost today is spent (budget.metered_mib)",
        "what has come stays; run the command again tomorrow (UTC), or with budget.metered = false on a network that is not metered",
    )
}

impl Getting {
    /// The next of [`Reply::BlobProgress`], [`Reply::Bytes`] and, at last, [`Reply::Blob`].
    pub(crate) async fn next(&mut self) -> Result<Option<Reply>, Failure> {
        let failed = |error| failure(&error);
        if let Some(fetch) = &mut self.fetch {
            let mut budget = self.node.budget();
            let next = tokio::select! {
                next = fetch.next() => next.map_err(failed)?,
                Ok(_) = budget.wait_for(|budget| !budget.connects) => return Err(spent()),
            };
            if let Some(progress) = next {
                let (bytes, sources) = (progress.bytes, progress.sources as u64);
                let size = self.name.blob.size;
                return Ok(Some(Reply::BlobProgress(BlobProgress { bytes, of: size, sources })));
            }
            self.fetch = None;
            self.reader = self.node.blob(self.space, &self.name).await.map_err(failed)?;
        }
        if let Some(reader) = &mut self.reader {
            if let Some(bytes) = reader.next().await.map_err(failed)? {
                return Ok(Some(Reply::Bytes(hex(&bytes))));
            }
            self.reader = None;
        }
        let end = !std::mem::replace(&mut self.done, true);
        Ok(end.then(|| Reply::Blob(row(&self.name, None))))
    }
}
