//! Blobs as files, `blobs/<space>/<hash>-<size>` in the data folder, with an ending:
//!
//! - `.blob`: whole and durable. Its length is its size. `.tree` beside it: the nodes of its pieces, 32 bytes each; made anew
//!   from the bytes if it is missing or wrong.
//! - `.part`: pieces at their places, as they came. `.log` beside it: number, length of the proof, proof of each piece that was
//!   written, in the order of coming. Neither is synced: a piece counts after a restart if what is read of it verifies.
//! - `.tmp`: being put. `.damaged`: was whole, and one piece read back was not what its name says; kept for a look.
//!
//! A blob becomes whole by a rename, after its bytes and its tree are synced.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use commonhold_sync::blobs::tree::{Namer, Tree};
use commonhold_sync::blobs::{Blob, PIECE_BYTES, PROOF_NODES_MAX, pieces::Pieces};
use commonhold_sync::id::SpaceId;

use super::{BlobError, BlobInfo, BlobLimits, BlobStore, ProvenPiece, TreeNode, cost, fill};
use crate::shared::locked;

/// Whole blobs whose file and tree are kept open. Each costs a file handle and 32 bytes for each 128 KiB.
const OPEN_MAX: usize = 64;
/// How long the last use of a blob is not written down again.
const USED_EVERY: Duration = Duration::from_secs(60);

/// See the module.
pub struct FileBlobs {
    root: PathBuf,
    limits: BlobLimits,
    open: Mutex<BTreeMap<(SpaceId, Blob), Open>>,
    /// What the blobs of each space count, once that was read.
    used: Mutex<BTreeMap<SpaceId, u64>>,
    names: AtomicU64,
}

#[derive(Clone)]
enum Open {
    Part(Arc<Mutex<Part>>),
    Whole(Arc<Whole>),
}

/// A blob that is being fetched.
struct Part {
    bytes: File,
    log: File,
    have: Pieces,
    tree: Tree,
}

struct Whole {
    bytes: File,
    tree: Tree,
}

impl FileBlobs {
    /// In this folder, which is made when there is something to put into it.
    pub fn new(root: PathBuf, limits: BlobLimits) -> FileBlobs {
        FileBlobs { root, limits, open: Mutex::default(), used: Mutex::default(), names: AtomicU64::new(0) }
    }

    fn folder(&self, space: &SpaceId) -> PathBuf {
        self.root.join(space.to_string())
    }

    fn path(&self, space: &SpaceId, blob: &Blob, ending: &str) -> PathBuf {
        self.folder(space).join(format!("{}-{}.{ending}", blob.hash, blob.size))
    }

    /// Takes so much of the space's quota, after what goes first has gone.
    fn take(&self, space: &SpaceId, bytes: u64) -> Result<(), BlobError> {
        let max = self.limits.bytes_per_space;
        let mut used = locked(&self.used);
        if !used.contains_key(space) {
            let counted = self.count(space)?;
            used.insert(*space, counted);
        }
        let used = used.entry(*space).or_default();
        if *used + bytes > max && self.limits.recent {
            let mut all = self.list(space)?;
            all.sort_by_key(|info| std::cmp::Reverse(info.since));
            while *used + bytes > max
                && let Some(oldest) = all.pop()
            {
                *used = used.saturating_sub(self.delete(space, &oldest.blob)?.unwrap_or(0));
            }
        }
        if *used + bytes > max {
            return Err(BlobError::Quota { max });
        }
        *used += bytes;
        Ok(())
    }

    fn give_back(&self, space: &SpaceId, bytes: u64) {
        if let Some(used) = locked(&self.used).get_mut(space) {
            *used = used.saturating_sub(bytes);
        }
    }

    /// What the blobs of a space count, whole and in part. What was being put when a run ended goes.
    fn count(&self, space: &SpaceId) -> Result<u64, BlobError> {
        let mut sum = 0;
        for path in entries(&self.folder(space))? {
            match named(&path) {
                Some((blob, "blob" | "part")) => sum += cost(blob.size),
                _ if path.extension().is_some_and(|ending| ending == "tmp") => fs::remove_file(&path)?,
                _ => {}
            }
        }
        Ok(sum)
    }

    fn opened(&self, space: &SpaceId, blob: &Blob) -> Result<Option<Open>, BlobError> {
        if let Some(open) = locked(&self.open).get(&(*space, *blob)) {
            return Ok(Some(open.clone()));
        }
        let bytes = match File::open(self.path(space, blob, "blob")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if bytes.metadata()?.len() != blob.size {
            self.quarantine(space, blob);
            return Ok(None);
        }
        let Some(tree) = self.tree(space, blob, &bytes)? else {
            self.quarantine(space, blob);
            return Ok(None);
        };
        let open = Open::Whole(Arc::new(Whole { bytes, tree }));
        self.keep_open(space, blob, open.clone());
        Ok(Some(open))
    }

    fn keep_open(&self, space: &SpaceId, blob: &Blob, new: Open) {
        let mut open = locked(&self.open);
        let whole = open.iter().filter(|(_, open)| matches!(open, Open::Whole(_))).map(|(key, _)| *key);
        // Which one goes does not matter much: it is opened again by one read.
        if whole.clone().count() >= OPEN_MAX
            && let Some(key) = { whole }.next()
        {
            open.remove(&key);
        }
        open.insert((*space, *blob), new);
    }

    /// The tree of a whole blob: as it was written, or made anew from the bytes. `None`: the bytes are not the blob.
    fn tree(&self, space: &SpaceId, blob: &Blob, bytes: &File) -> Result<Option<Tree>, BlobError> {
        let written = fs::read(self.path(space, blob, "tree")).unwrap_or_default();
        if let Some(tree) = Tree::from_leaves(*blob, written.as_chunks::<32>().0.to_vec()) {
            return Ok(Some(tree));
        }
        let mut namer = Namer::default();
        let mut buffer = vec![0; PIECE_BYTES];
        for piece in 0..blob.pieces().unwrap_or(0) {
            let (offset, length) = blob.piece(piece);
            read_at(bytes, &mut buffer[..length], offset)?;
            namer.push(&buffer[..length]);
        }
        let (found, leaves) = namer.finish();
        if found != *blob {
            return Ok(None);
        }
        self.write_tree(space, blob, &leaves)?;
        Ok(Tree::from_leaves(*blob, leaves))
    }

    fn write_tree(&self, space: &SpaceId, blob: &Blob, leaves: &[TreeNode]) -> Result<(), BlobError> {
        let new = self.temporary(space);
        let mut file = File::create(&new)?;
        file.write_all(leaves.as_flattened())?;
        file.sync_all()?;
        fs::rename(&new, self.path(space, blob, "tree"))?;
        Ok(())
    }

    fn temporary(&self, space: &SpaceId) -> PathBuf {
        self.folder(space).join(format!("{}.tmp", self.names.fetch_add(1, Ordering::Relaxed)))
    }

    /// What does not read back as its name says is kept apart, and can be fetched again.
    fn quarantine(&self, space: &SpaceId, blob: &Blob) {
        tracing::error!(%space, hash = %blob.hash, "a blob is damaged: it is fetched again when it is wanted");
        locked(&self.open).remove(&(*space, *blob));
        if fs::rename(self.path(space, blob, "blob"), self.path(space, blob, "damaged")).is_ok() {
            self.give_back(space, cost(blob.size));
        }
    }

    /// Removes the files of a blob. Gives what it counted.
    fn delete(&self, space: &SpaceId, blob: &Blob) -> Result<Option<u64>, BlobError> {
        locked(&self.open).remove(&(*space, *blob));
        let mut found = None;
        for ending in ["blob", "part", "tree", "log"] {
            match fs::remove_file(self.path(space, blob, ending)) {
                Ok(()) if matches!(ending, "blob" | "part") => found = Some(cost(blob.size)),
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// What was fetched of a blob so far: every piece in its log that is read back and verifies.
    fn resume(&self, space: &SpaceId, blob: &Blob) -> Result<Part, BlobError> {
        let mut tree = Tree::unknown(*blob).ok_or(BlobError::TooLarge)?;
        let mut have = Pieces::none(blob.pieces().unwrap_or(0));
        let open = |ending| {
            let mut how = OpenOptions::new();
            how.read(true).write(true).create(true).truncate(false).open(self.path(space, blob, ending))
        };
        let (bytes, mut log) = (open("part")?, open("log")?);
        let mut entries = Vec::new();
        log.read_to_end(&mut entries)?;
        let (mut rest, mut buffer) = (&entries[..], vec![0; PIECE_BYTES]);
        while let Some((piece, proof, after)) = logged(rest) {
            rest = after;
            let (offset, length) = blob.piece(piece);
            let there = length > 0 && read_at(&bytes, &mut buffer[..length], offset).is_ok();
            if there && tree.learn(piece, &buffer[..length], proof) {
                have.insert(piece);
            }
        }
        // A torn end would hide what comes after it.
        let sound = (entries.len() - rest.len()) as u64;
        log.set_len(sound)?;
        io::Seek::seek(&mut log, io::SeekFrom::Start(sound))?;
        Ok(Part { bytes, log, have, tree })
    }

    fn note_use(&self, whole: &Whole) {
        let used = whole.bytes.metadata().and_then(|facts| facts.modified());
        let long_ago = used.is_ok_and(|used| used.elapsed().is_ok_and(|since| since > USED_EVERY));
        if self.limits.recent && long_ago {
            // A blob whose use cannot be written down goes a little earlier.
            let _ = whole.bytes.set_modified(SystemTime::now());
        }
    }
}

impl BlobStore for FileBlobs {
    fn blocks(&self) -> bool {
        true
    }

    fn find(&self, space: &SpaceId, blob: &Blob) -> Result<Option<Pieces>, BlobError> {
        Ok(self.opened(space, blob)?.map(|open| match open {
            Open::Part(part) => locked(&part).have.clone(),
            Open::Whole(_) => Pieces::all(blob.pieces().unwrap_or(0)),
        }))
    }

    fn begin(&self, space: &SpaceId, blob: &Blob) -> Result<Pieces, BlobError> {
        if let Some(have) = self.find(space, blob)? {
            return Ok(have);
        }
        if blob.pieces().is_none() {
            return Err(BlobError::TooLarge);
        }
        make_folder(&self.folder(space))?;
        // What a run left behind was counted already.
        let fresh = !self.path(space, blob, "part").exists();
        if fresh {
            self.take(space, cost(blob.size))?;
        }
        let part = self.resume(space, blob).inspect_err(|_| {
            if fresh {
                self.give_back(space, cost(blob.size));
            }
        })?;
        let have = part.have.clone();
        locked(&self.open).insert((*space, *blob), Open::Part(Arc::new(Mutex::new(part))));
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
        let Some(Open::Part(part)) = self.opened(space, blob)? else { return Ok(()) };
        let mut part = locked(&part);
        write_at(&part.bytes, bytes, blob.piece(piece).0)?;
        let mut entry = Vec::with_capacity(5 + 32 * proof.len());
        entry.extend(piece.to_be_bytes());
        entry.push(proof.len() as u8);
        entry.extend(proof.as_flattened());
        part.log.write_all(&entry)?;
        if !part.tree.learn(piece, bytes, proof) {
            return Err(BlobError::Damaged);
        }
        part.have.insert(piece);
        Ok(())
    }

    fn read(&self, space: &SpaceId, blob: &Blob, piece: u32) -> Result<Option<ProvenPiece>, BlobError> {
        let Some(open) = self.opened(space, blob)? else { return Ok(None) };
        let (offset, length) = blob.piece(piece);
        let mut bytes = vec![0; length];
        let (proof, whole) = match &open {
            Open::Part(part) => {
                let part = locked(part);
                if !part.have.has(piece) {
                    return Ok(None);
                }
                read_at(&part.bytes, &mut bytes, offset)?;
                (part.tree.proof(piece), false)
            }
            Open::Whole(whole) => {
                read_at(&whole.bytes, &mut bytes, offset)?;
                self.note_use(whole);
                (whole.tree.proof(piece), true)
            }
        };
        match proof {
            Some(proof) if Tree::verifies(blob, piece, &bytes, &proof) => Ok(Some((bytes, proof))),
            _ if whole => {
                self.quarantine(space, blob);
                Ok(None)
            }
            _ => Err(BlobError::Damaged),
        }
    }

    fn finish(&self, space: &SpaceId, blob: &Blob) -> Result<(), BlobError> {
        let part = match self.opened(space, blob)? {
            Some(Open::Part(part)) => part,
            Some(Open::Whole(_)) => return Ok(()),
            None => return Err(BlobError::Damaged),
        };
        let part = locked(&part);
        if !part.have.is_all() {
            return Err(BlobError::Damaged);
        }
        part.bytes.sync_all()?;
        self.write_tree(space, blob, part.tree.leaves())?;
        fs::rename(self.path(space, blob, "part"), self.path(space, blob, "blob"))?;
        sync_folder(&self.folder(space))?;
        let _ = fs::remove_file(self.path(space, blob, "log"));
        let whole = Whole { bytes: File::open(self.path(space, blob, "blob"))?, tree: part.tree.clone() };
        self.keep_open(space, blob, Open::Whole(Arc::new(whole)));
        Ok(())
    }

    fn put(&self, space: &SpaceId, from: &mut dyn Read) -> Result<Blob, BlobError> {
        let folder = self.folder(space);
        make_folder(&folder)?;
        // Counts what is there, and removes what an earlier run left, before there is a file of this one.
        self.take(space, 0)?;
        let new = self.temporary(space);
        let put = self.put_as(space, &new, from);
        if put.is_err() {
            let _ = fs::remove_file(&new);
        }
        put
    }

    fn list(&self, space: &SpaceId) -> Result<Vec<BlobInfo>, BlobError> {
        let mut found = Vec::new();
        for path in entries(&self.folder(space))? {
            if let Some((blob, "blob")) = named(&path)
                && let Ok(facts) = fs::metadata(&path)
            {
                found.push(BlobInfo { blob, since: facts.modified()? });
            }
        }
        found.sort_by_key(|info| info.blob);
        Ok(found)
    }

    fn touch(&self, space: &SpaceId, blob: &Blob) -> Result<bool, BlobError> {
        match File::open(self.path(space, blob, "blob")) {
            Ok(file) => Ok(file.set_modified(SystemTime::now()).map(|()| true)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&self, space: &SpaceId, blob: &Blob) -> Result<bool, BlobError> {
        let counted = self.delete(space, blob)?;
        self.give_back(space, counted.unwrap_or(0));
        Ok(counted.is_some())
    }
}

impl FileBlobs {
    fn put_as(&self, space: &SpaceId, new: &Path, from: &mut dyn Read) -> Result<Blob, BlobError> {
        let mut file = File::create(new)?;
        let (mut namer, mut buffer) = (Namer::default(), vec![0; PIECE_BYTES]);
        let mut size = 0;
        loop {
            let filled = fill(from, &mut buffer)?;
            size += filled as u64;
            if size > self.limits.bytes_per_space {
                return Err(BlobError::Quota { max: self.limits.bytes_per_space });
            }
            if !namer.push(&buffer[..filled]) {
                return Err(BlobError::TooLarge);
            }
            file.write_all(&buffer[..filled])?;
            if filled < PIECE_BYTES {
                break;
            }
        }
        let (blob, leaves) = namer.finish();
        if blob.size == 0 || self.touch(space, &blob)? {
            fs::remove_file(new)?;
            return Ok(blob);
        }
        file.sync_all()?;
        // It may be half fetched.
        self.remove(space, &blob)?;
        self.take(space, cost(size))?;
        let whole = self.write_tree(space, &blob, &leaves).and_then(|()| {
            fs::rename(new, self.path(space, &blob, "blob"))?;
            Ok(sync_folder(&self.folder(space))?)
        });
        whole.inspect_err(|_| self.give_back(space, cost(size)))?;
        Ok(blob)
    }
}

/// The paths in a folder; none if it is not there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Which blob a file is of, and its ending.
fn named(path: &Path) -> Option<(Blob, &str)> {
    let (name, ending) = path.file_name()?.to_str()?.rsplit_once('.')?;
    let (hash, size) = name.split_once('-')?;
    Some((Blob { hash: hash.parse().ok()?, size: size.parse().ok()? }, ending))
}

/// The first entry of a log of pieces, and what follows.
fn logged(log: &[u8]) -> Option<(u32, &[TreeNode], &[u8])> {
    let (piece, rest) = log.split_first_chunk()?;
    let (nodes, rest) = rest.split_first()?;
    if usize::from(*nodes) > PROOF_NODES_MAX {
        return None;
    }
    let (proof, rest) = rest.split_at_checked(32 * usize::from(*nodes))?;
    Some((u32::from_be_bytes(*piece), proof.as_chunks().0, rest))
}

/// For this person only, as the store is.
fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}
