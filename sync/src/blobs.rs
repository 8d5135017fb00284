//! Blobs: content-addressed attachments of a space. A blob is named by its BLAKE3 hash and its size, cut into pieces of
//! [`PIECE_BYTES`], and every piece is verified when it comes, by the nodes of the BLAKE3 tree that lie beside its path.
//!
//! Here is what needs no connection: the tree ([`tree`]), sets of pieces ([`pieces`]), which pieces to ask of whom
//! ([`fetch`]) and in which order to serve them ([`serving`]). What a peer says to another about blobs is in `peer::blobs`;
//! where they lie is the engine's.
//!
//! The tree is BLAKE3's own (`blake3::hazmat`), so no crate beside it is needed: a piece is an aligned subtree of 256 chunks.

pub mod fetch;
pub mod pieces;
pub mod serving;
pub mod tree;

use crate::id::BlobHash;

/// Bytes of a piece, but for the last of a blob. A guess between two costs: a liar wastes one piece, and each piece costs a
/// message, a read and 32 bytes of proof for each doubling of the blob. It must be a power of two of at least 1,024.
pub const PIECE_BYTES: usize = 1 << 18;
/// Pieces of one blob: 16 GiB. A set of them takes 8 KiB on the wire, and a tree 4 MiB in memory while it is fetched.
pub const PIECES_MAX: u32 = 65_536;
/// Nodes beside the path of a piece: one for each doubling up to [`PIECES_MAX`].
pub const PROOF_NODES_MAX: usize = 16;
/// Pieces that one side has asked for on one connection, of all blobs, and that have not come: 16 MiB.
pub const ASKED_PIECES_MAX: usize = 64;
/// Blobs that one side asks about on one connection.
pub const BLOBS_ASKED_MAX: usize = 16;
/// Blobs that are fetched at once. Others wait for their turn.
pub const FETCHES_MAX: usize = 8;
/// Peers that one blob is fetched from at once.
pub const SOURCES_MAX: usize = 32;

/// Which content: its hash and its size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Blob {
    /// BLAKE3 of the bytes.
    pub hash: BlobHash,
    /// How many bytes. A name with another size is the name of another blob, that nobody can have.
    pub size: u64,
}

impl Blob {
    /// The blob that these bytes are.
    pub fn of(bytes: &[u8]) -> Blob {
        Blob { hash: BlobHash(*blake3::hash(bytes).as_bytes()), size: bytes.len() as u64 }
    }

    /// How many pieces it has; `None` if it is empty or larger than [`PIECES_MAX`] pieces. An empty blob is never sent: who
    /// knows its name has it.
    pub fn pieces(&self) -> Option<u32> {
        let pieces = self.size.div_ceil(PIECE_BYTES as u64);
        (pieces > 0 && pieces <= u64::from(PIECES_MAX)).then_some(pieces as u32)
    }

    /// Where a piece lies, and how many bytes it has.
    pub fn piece(&self, piece: u32) -> (u64, usize) {
        let start = u64::from(piece) * PIECE_BYTES as u64;
        (start, self.size.saturating_sub(start).min(PIECE_BYTES as u64) as usize)
    }
}
