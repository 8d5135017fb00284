//! The BLAKE3 tree above the pieces of a blob: proofs that a piece belongs to a hash, made and checked.
//!
//! BLAKE3 splits n chunks into the largest power of two below n, and the rest. Seen from below, level by level: two
//! neighbours have a parent, and a last one without a neighbour stands for itself on the next level. Pieces are aligned
//! subtrees, so the same holds above them.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::{Blob, PIECE_BYTES};
use crate::id::BlobHash;

/// A node of the tree. Zero stands for one that is not known: none that can be found has that value.
pub type Node = ChainingValue;

const UNKNOWN: Node = [0; 32];

/// The node of one piece. Not for the only piece of a blob, whose hash is the blob's.
pub fn leaf(piece: u32, bytes: &[u8]) -> Node {
    Hasher::new().set_input_offset(u64::from(piece) * PIECE_BYTES as u64).update(bytes).finalize_non_root()
}

/// The known nodes above the pieces of a blob.
#[derive(Clone, Debug)]
pub struct Tree {
    blob: Blob,
    /// From the pieces up; the root, which the blob's name holds, left out.
    levels: Vec<Vec<Node>>,
}

impl Tree {
    /// Of a blob of which only the name is known. `None` if such a blob has no pieces ([`Blob::pieces`]).
    pub fn unknown(blob: Blob) -> Option<Tree> {
        let mut width = blob.pieces()? as usize;
        let mut levels = Vec::new();
        while width > 1 {
            levels.push(vec![UNKNOWN; width]);
            width = width.div_ceil(2);
        }
        Some(Tree { blob, levels })
    }

    /// From the nodes of all pieces. `None` if they are not those of this blob.
    pub fn from_leaves(blob: Blob, leaves: Vec<Node>) -> Option<Tree> {
        let mut tree = Tree::unknown(blob)?;
        if blob.pieces() != u32::try_from(leaves.len()).ok() {
            return None;
        }
        if tree.levels.is_empty() {
            // The hash of the only piece is the root, and that is known.
            return Some(tree);
        }
        tree.levels[0] = leaves;
        for level in 1..tree.levels.len() {
            let below = &tree.levels[level - 1];
            tree.levels[level] = below.chunks(2).map(parent).collect();
        }
        let top = tree.levels.last()?;
        (root(top.first()?, top.get(1)?) == blob.hash).then_some(tree)
    }

    /// Its blob.
    pub fn blob(&self) -> Blob {
        self.blob
    }

    /// The nodes of the pieces; unknown ones are zero.
    pub fn leaves(&self) -> &[Node] {
        self.levels.first().map_or(&[], Vec::as_slice)
    }

    /// What proves a piece: the nodes beside its path, from the bottom. `None` if one is not known.
    pub fn proof(&self, piece: u32) -> Option<Vec<Node>> {
        let mut at = piece as usize;
        let mut proof = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            if let Some(beside) = level.get(at ^ 1) {
                proof.push(*beside);
            }
            at /= 2;
        }
        proof.iter().all(|node| *node != UNKNOWN).then_some(proof)
    }

    /// Whether these bytes are that piece, by the nodes beside its path.
    pub fn verifies(blob: &Blob, piece: u32, bytes: &[u8], proof: &[Node]) -> bool {
        Tree::path(blob, piece, bytes, proof).is_some()
    }

    /// Takes in a piece that verifies, and what its proof tells. False: it does not.
    pub fn learn(&mut self, piece: u32, bytes: &[u8], proof: &[Node]) -> bool {
        let Some(path) = Tree::path(&self.blob, piece, bytes, proof) else { return false };
        let (mut at, mut beside) = (piece as usize, proof.iter());
        for (level, node) in self.levels.iter_mut().zip(path) {
            level[at] = node;
            if let Some(known) = level.get_mut(at ^ 1)
                && let Some(node) = beside.next()
            {
                *known = *node;
            }
            at /= 2;
        }
        true
    }

    /// The nodes of the path from the piece to below the root, if it leads there.
    fn path(blob: &Blob, piece: u32, bytes: &[u8], proof: &[Node]) -> Option<Vec<Node>> {
        let pieces = blob.pieces()?;
        if piece >= pieces || bytes.len() != blob.piece(piece).1 {
            return None;
        }
        if pieces == 1 {
            let fits = proof.is_empty() && BlobHash(*blake3::hash(bytes).as_bytes()) == blob.hash;
            return fits.then(Vec::new);
        }
        let (mut at, mut width, mut node) = (piece, pieces, leaf(piece, bytes));
        let mut rest = proof.iter();
        let mut path = vec![node];
        while width > 2 {
            if at ^ 1 < width {
                node = join(at, &node, rest.next()?, merge);
            }
            path.push(node);
            (at, width) = (at / 2, width.div_ceil(2));
        }
        let found = join(at, &node, rest.next()?, root);
        (found == blob.hash && rest.next().is_none()).then_some(path)
    }
}

fn merge(left: &Node, right: &Node) -> Node {
    merge_subtrees_non_root(left, right, Mode::Hash)
}

fn root(left: &Node, right: &Node) -> BlobHash {
    BlobHash(*merge_subtrees_root(left, right, Mode::Hash).as_bytes())
}

fn join<T>(at: u32, node: &Node, beside: &Node, with: impl Fn(&Node, &Node) -> T) -> T {
    if at.is_multiple_of(2) { with(node, beside) } else { with(beside, node) }
}

fn parent(pair: &[Node]) -> Node {
    match pair {
        [left, right] => merge(left, right),
        alone => alone.first().copied().unwrap_or(UNKNOWN),
    }
}

/// Finds the name of content that comes piece by piece.
#[derive(Default)]
pub struct Namer {
    leaves: Vec<Node>,
    only: Option<BlobHash>,
    size: u64,
}

impl Namer {
    /// Takes the next piece: [`PIECE_BYTES`], and fewer only the last. False if there are more than a blob has.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let piece = self.leaves.len() as u32;
        if piece >= super::PIECES_MAX || bytes.is_empty() {
            return bytes.is_empty();
        }
        if piece == 0 {
            self.only = Some(BlobHash(*blake3::hash(bytes).as_bytes()));
        }
        self.leaves.push(leaf(piece, bytes));
        self.size += bytes.len() as u64;
        true
    }

    /// The name, and the nodes of the pieces.
    pub fn finish(self) -> (Blob, Vec<Node>) {
        let mut level = self.leaves.clone();
        while level.len() > 2 {
            level = level.chunks(2).map(parent).collect();
        }
        let hash = match level.as_slice() {
            [left, right] => root(left, right),
            _ => self.only.unwrap_or_else(|| BlobHash(*blake3::hash(&[]).as_bytes())),
        };
        (Blob { hash, size: self.size }, self.leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content that differs in each piece.
    pub(crate) fn content(bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn named(bytes: &[u8]) -> (Blob, Vec<Node>) {
        let mut namer = Namer::default();
        assert!(bytes.chunks(PIECE_BYTES).all(|piece| namer.push(piece)));
        namer.finish()
    }

    #[test]
    fn each_piece_of_each_shape_is_proven_and_nothing_else() {
        for size in [1, 1_024, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 5 * PIECE_BYTES - 7, 7 * PIECE_BYTES + 9]
        {
            let bytes = content(size);
            let (blob, leaves) = named(&bytes);
            assert_eq!(blob, Blob::of(&bytes), "the name is the plain BLAKE3 of the bytes");
            let tree = Tree::from_leaves(blob, leaves.clone()).unwrap();
            let mut learnt = Tree::unknown(blob).unwrap();
            for (piece, bytes) in bytes.chunks(PIECE_BYTES).enumerate() {
                let proof = tree.proof(piece as u32).unwrap();
                assert!(proof.len() <= super::super::PROOF_NODES_MAX);
                assert!(learnt.learn(piece as u32, bytes, &proof));
                assert_eq!(learnt.proof(piece as u32), Some(proof.clone()), "what one has one can prove to others");
                let mut other = bytes.to_vec();
                other[bytes.len() / 2] ^= 1;
                assert!(!Tree::verifies(&blob, piece as u32, &other, &proof));
                assert!(!Tree::verifies(&blob, piece as u32, &bytes[1..], &proof));
                assert!(!Tree::verifies(&blob, piece as u32 + 1, bytes, &proof));
                assert!(!Tree::verifies(&blob, piece as u32, bytes, &[proof.clone(), vec![[1; 32]]].concat()));
                if !proof.is_empty() {
                    assert!(!Tree::verifies(&blob, piece as u32, bytes, &proof[1..]));
                }
                let longer = Blob { size: blob.size + 1, ..blob };
                let last = piece + 1 == blob.pieces().unwrap() as usize;
                assert!(!last || !Tree::verifies(&longer, piece as u32, bytes, &proof));
            }
            if leaves.len() > 1 {
                assert_eq!(learnt.leaves(), leaves);
                assert!(Tree::from_leaves(blob, leaves[1..].to_vec()).is_none());
            }
        }
    }

    #[test]
    fn a_blob_has_as_many_pieces_as_a_set_can_name() {
        let largest = u64::from(super::super::PIECES_MAX) * PIECE_BYTES as u64;
        let blob = |size| Blob { hash: BlobHash([1; 32]), size };
        assert_eq!(blob(largest).pieces(), Some(super::super::PIECES_MAX));
        assert_eq!((blob(largest + 1).pieces(), blob(0).pieces(), blob(u64::MAX).pieces()), (None, None, None));
        assert!(Tree::unknown(blob(largest + 1)).is_none());
        assert_eq!(Namer::default().finish().0, Blob::of(&[]));
    }
}
