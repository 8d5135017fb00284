//! What a peer is told about blobs, and what it wants done with them.

use crate::blobs::Blob;
use crate::blobs::pieces::Pieces;
use crate::blobs::tree::Node;
use crate::id::SpaceId;
use crate::peer::OpId;

/// Something about blobs happened.
#[derive(Debug)]
pub enum BlobInput {
    /// Fetch this one. `have` is stored, and was verified.
    Fetch {
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: Blob,
        /// What is there already.
        have: Pieces,
    },
    /// Fetch it no more.
    Cancel {
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: Blob,
    },
    /// This is what is stored of it: the answer to [`BlobOutput::Find`], and told by itself when a blob is whole or gone.
    Has {
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: Blob,
        /// `None`: nothing.
        pieces: Option<Pieces>,
    },
    /// The answer to [`BlobOutput::Read`].
    Read {
        /// Which.
        op: OpId,
        /// The piece and its proof, if it is there.
        piece: Option<(Vec<u8>, Vec<Node>)>,
    },
    /// The answer to [`BlobOutput::Store`]: it can be read. If it could not be stored, the answer is [`BlobInput::Cancel`].
    Stored {
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: Blob,
        /// Which piece.
        piece: u32,
    },
}

/// Something about blobs that the peer wants done.
#[derive(Debug)]
pub enum BlobOutput {
    /// Look up what is stored of it.
    Find {
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: Blob,
    },
    /// Read a piece, and what proves it.
    Read {
        /// Its name.
        op: OpId,
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: Blob,
        /// Which piece.
        piece: u32,
    },
    /// Store a piece, which is verified. It need not be durable.
    Store {
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: Blob,
        /// Which piece.
        piece: u32,
        /// Its bytes.
        bytes: Vec<u8>,
        /// The nodes beside its path.
        proof: Vec<Node>,
    },
    /// So much of a blob that is fetched is stored.
    Progress {
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: Blob,
        /// Bytes.
        bytes: u64,
        /// Peers that have some of it.
        sources: usize,
    },
    /// Every piece is stored: make it durable, then answer with [`BlobInput::Has`].
    Finish {
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: Blob,
    },
    /// It is not fetched: the space is not held, or as many are as may be at once.
    Refused {
        /// In which space.
        space: SpaceId,
        /// Which.
        blob: Blob,
    },
}
