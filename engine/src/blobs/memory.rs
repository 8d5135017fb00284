//! Blobs in memory, for nodes without a data folder.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;
use std::time::SystemTime;

use commonhold_sync::blobs::tree::{Namer, Tree};
use commonhold_sync::blobs::{Blob, PIECE_BYTES, pieces::Pieces};
use commonhold_sync::id::SpaceId;

use super::{BlobError, BlobInfo, BlobLimits, BlobStore, ProvenPiece, TreeNode, cost, fill};
use crate::shared::locked;

/// See the module.
pub struct MemoryBlobs {
    limits: BlobLimits,
    blobs: Mutex<BTreeMap<(SpaceId, Blob), Kept>>,
}

struct Kept {
    /// By piece; empty where it is missing.
    bytes: Vec<Vec<u8>>,
    have: Pieces,
    tree: Tree,
    whole: bool,
    since: SystemTime,
}

type Table = BTreeMap<(SpaceId, Blob), Kept>;

impl MemoryBlobs {
    /// With these bounds.
    pub fn new(limits: BlobLimits) -> MemoryBlobs {
        MemoryBlobs { limits, blobs: Mutex::default() }
    }

    /// Whether so much more fits, after what goes first has gone.
    fn make_room(&self, blobs: &mut Table, space: &SpaceId, size: u64) -> Result<(), BlobError> {
        let max = self.limits.bytes_per_space;
        loop {
            let of_space = blobs.iter().filter(|((of, _), _)| of == space);
            let used: u64 = of_space.clone().map(|((_, blob), _)| cost(blob.size)).sum();
            if used + cost(size) <= max {
                return Ok(());
            }
            let oldest = of_space.filter(|(_, kept)| kept.whole && self.limits.recent).min_by_key(|(_, k)| k.since);
            let oldest = oldest.map(|(key, _)| *key).ok_or(BlobError::Quota { max })?;
            blobs.remove(&oldest);
        }
    }
}

impl BlobStore for MemoryBlobs {
    fn blocks(&self) -> bool {
        false
    }

    fn find(&self, space: &SpaceId, blob: &Blob) -> Result<Option<Pieces>, BlobError> {
        Ok(locked(&self.blobs).get(&(*space, *blob)).map(|kept| kept.have.clone()))
    }

    fn begin(&self, space: &SpaceId, blob: &Blob) -> Result<Pieces, BlobError> {
        let mut blobs = locked(&self.blobs);
        if let Some(kept) = blobs.get(&(*space, *blob)) {
            return Ok(kept.have.clone());
        }
        let tree = Tree::unknown(*blob).ok_or(BlobError::TooLarge)?;
        self.make_room(&mut blobs, space, blob.size)?;
        let count = blob.pieces().unwrap_or(0);
        let have = Pieces::none(count);
        let bytes = vec![Vec::new(); count as usize];
        let kept = Kept { bytes, have: have.clone(), tree, whole: false, since: SystemTime::now() };
        blobs.insert((*space, *blob), kept);
        Ok(have)
    }

    fn write(
        &self,
        space: &SpaceId,
        blob: &Blob,
        piece: u32,
        bytes: &[u8],
        proof: &[TreeNode],
    ) -> Result<(), BlobError> {
        let mut blobs = locked(&self.blobs);
        let Some(kept) = blobs.get_mut(&(*space, *blob)) else { return Err(BlobError::Damaged) };
        if !kept.tree.learn(piece, bytes, proof) {
            return Err(BlobError::Damaged);
        }
        kept.bytes[piece as usize] = bytes.to_vec();
        kept.have.insert(piece);
        Ok(())
    }

    fn read(&self, space: &SpaceId, blob: &Blob, piece: u32) -> Result<Option<ProvenPiece>, BlobError> {
        let mut blobs = locked(&self.blobs);
        let Some(kept) = blobs.get_mut(&(*space, *blob)).filter(|kept| kept.have.has(piece)) else { return Ok(None) };
        if self.limits.recent {
            kept.since = SystemTime::now();
        }
        Ok(kept.tree.proof(piece).map(|proof| (kept.bytes[piece as usize].clone(), proof)))
    }

    fn finish(&self, space: &SpaceId, blob: &Blob) -> Result<(), BlobError> {
        let mut blobs = locked(&self.blobs);
        let kept = blobs.get_mut(&(*space, *blob)).filter(|kept| kept.have.is_all()).ok_or(BlobError::Damaged)?;
        (kept.whole, kept.since) = (true, SystemTime::now());
        Ok(())
    }

    fn put(&self, space: &SpaceId, from: &mut dyn Read) -> Result<Blob, BlobError> {
        let (mut namer, mut bytes, mut size) = (Namer::default(), Vec::new(), 0);
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let filled = fill(from, &mut piece)?;
            piece.truncate(filled);
            size += filled as u64;
            if size > self.limits.bytes_per_space {
                return Err(BlobError::Quota { max: self.limits.bytes_per_space });
            }
            if !namer.push(&piece) {
                return Err(BlobError::TooLarge);
            }
            if filled == 0 {
                break;
            }
            bytes.push(piece);
            if filled < PIECE_BYTES {
                break;
            }
        }
        let (blob, leaves) = namer.finish();
        let Some(tree) = Tree::from_leaves(blob, leaves) else { return Ok(blob) };
        let mut blobs = locked(&self.blobs);
        blobs.remove(&(*space, blob));
        self.make_room(&mut blobs, space, blob.size)?;
        let have = Pieces::all(bytes.len() as u32);
        blobs.insert((*space, blob), Kept { bytes, have, tree, whole: true, since: SystemTime::now() });
        Ok(blob)
    }

    fn list(&self, space: &SpaceId) -> Result<Vec<BlobInfo>, BlobError> {
        let blobs = locked(&self.blobs);
        let of_space = blobs.iter().filter(|((of, _), kept)| of == space && kept.whole);
        Ok(of_space.map(|((_, blob), kept)| BlobInfo { blob: *blob, since: kept.since }).collect())
    }

    fn touch(&self, space: &SpaceId, blob: &Blob) -> Result<bool, BlobError> {
        let mut blobs = locked(&self.blobs);
        let kept = blobs.get_mut(&(*space, *blob)).filter(|kept| kept.whole);
        Ok(kept.map(|kept| kept.since = SystemTime::now()).is_some())
    }

    fn remove(&self, space: &SpaceId, blob: &Blob) -> Result<bool, BlobError> {
        Ok(locked(&self.blobs).remove(&(*space, *blob)).is_some())
    }
}
