//! Blobs: content-addressed attachments of a space, as they are stored, referred to and collected. What peers say to one
//! another about them is `commonhold_sync::blobs`.
//!
//! - [`BlobRef`]: the name of a blob in a document, `blob:<64 hex digits>?size=N&type=T`.
//! - [`BlobStore`]: where they lie: [`FileBlobs`] under `data/blobs`, [`MemoryBlobs`] for nodes without a folder.
//! - `collect`: what no document refers to goes, after a time of grace.
//! - `api`: the methods of [`Node`](crate::Node).

mod api;
mod collect;
mod files;
mod memory;
mod reference;

use std::io::{self, Read};
use std::sync::Arc;
use std::time::SystemTime;

pub use commonhold_sync::blobs::{Blob, PIECE_BYTES, pieces::Pieces, tree::Node as TreeNode};
use commonhold_sync::id::SpaceId;

pub use api::{BlobFetch, BlobProgress, BlobReader};
pub(crate) use api::{FOLDER, Fetches, fetch_failed};
pub use collect::Collected;
pub use files::FileBlobs;
pub use memory::MemoryBlobs;
pub use reference::{BlobRef, BlobRefError, references};

/// What a blob counts in a quota at least: a block of most file systems.
const BLOB_COST_MIN: u64 = 4_096;

/// What stands in the way of storing or reading a blob.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The space's blobs would take more than they may.
    #[error("the blobs of the space would take more than {max} bytes: collect garbage, remove some, or allow more")]
    Quota {
        /// What they may take.
        max: u64,
    },
    /// More pieces than a blob has.
    #[error("a blob has at most 16 GiB")]
    TooLarge,
    /// Bytes that are not what their name says.
    #[error("what is stored of the blob is not what its name says")]
    Damaged,
    /// The disk, or the reader that was given.
    #[error("reading or writing a blob failed")]
    Io(#[from] Arc<io::Error>),
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        BlobError::Io(Arc::new(error))
    }
}

/// A blob that is stored whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Which.
    pub blob: Blob,
    /// When it was put, fetched or pinned, or last used where the least recently used go first.
    pub since: SystemTime,
}

/// A piece, and what proves it.
pub type ProvenPiece = (Vec<u8>, Vec<TreeNode>);

/// Where blobs lie. Calls block, unless [`BlobStore::blocks`] says that they do not.
pub trait BlobStore: Send + Sync {
    /// Whether calls wait for a disk.
    fn blocks(&self) -> bool;
    /// What is there of a blob. Of one that is being fetched, the pieces that were verified.
    fn find(&self, space: &SpaceId, blob: &Blob) -> Result<Option<Pieces>, BlobError>;
    /// Makes room for a blob that is fetched. Gives the pieces that are there, each read and verified.
    fn begin(&self, space: &SpaceId, blob: &Blob) -> Result<Pieces, BlobError>;
    /// Stores a piece that is verified. It can be read afterwards, and need not be durable.
    fn write(
        &self,
        space: &SpaceId,
        blob: &Blob,
        piece: u32,
        bytes: &[u8],
        proof: &[TreeNode],
    ) -> Result<(), BlobError>;
    /// Reads a piece, and verifies it. `None`: it is not there, or damaged and therefore there no more.
    fn read(&self, space: &SpaceId, blob: &Blob, piece: u32) -> Result<Option<ProvenPiece>, BlobError>;
    /// All pieces are written: makes them durable, and the blob whole.
    fn finish(&self, space: &SpaceId, blob: &Blob) -> Result<(), BlobError>;
    /// Stores what a reader gives, durably.
    fn put(&self, space: &SpaceId, from: &mut dyn Read) -> Result<Blob, BlobError>;
    /// The whole blobs of a space, by name.
    fn list(&self, space: &SpaceId) -> Result<Vec<BlobInfo>, BlobError>;
    /// Counts as put now. False: it is not there.
    fn touch(&self, space: &SpaceId, blob: &Blob) -> Result<bool, BlobError>;
    /// Removes it, whole or in part. False: it was not there.
    fn remove(&self, space: &SpaceId, blob: &Blob) -> Result<bool, BlobError>;
}

/// How much blobs may take, and what goes first.
#[derive(Debug, Clone, Copy)]
pub struct BlobLimits {
    /// Bytes of one space's blobs; each counts at least 4 KiB.
    pub bytes_per_space: u64,
    /// What no document refers to goes after so long.
    pub grace: std::time::Duration,
    /// This peer opens no documents, as a relay does not: it keeps what it was asked to keep, and when there is no room, the
    /// least recently used goes.
    pub recent: bool,
}

impl Default for BlobLimits {
    /// 4 GiB a space, and a day from `put` to the edit that refers to it. Guesses.
    fn default() -> Self {
        let grace = std::time::Duration::from_secs(24 * 60 * 60);
        BlobLimits { bytes_per_space: 4 << 30, grace, recent: false }
    }
}

/// A fetch that nobody waits for any more is ended after so long: who drops one and asks again soon goes on with it.
const ABANDONED_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

fn cost(size: u64) -> u64 {
    size.max(BLOB_COST_MIN)
}

/// Fills a buffer from a reader, as far as it goes.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
