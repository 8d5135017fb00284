//! The file of a backup: frames, each with a digest of its own, so that damage is found where it is.
//!
//! Format 1: `commonhold backup 1\n`, frames, and the BLAKE3 (32 bytes) of everything before. A frame is its kind (1 byte), the length of its
//! payload (4 bytes, big end first), the payload, and the first 16 bytes of the BLAKE3 of: the frame's number from 0 (8 bytes, big end first), kind,
//! length, payload. The number keeps frames from changing places.
//!
//! | kind | payload |
//! |---|---|
//! | 1 rows | table id (1 byte), then rows: length of key and of value (4 bytes each, big end first), key, value |
//! | 2 blob | space (32 bytes), hash (32 bytes), size (8 bytes, big end first); its pieces follow |
//! | 3 piece | the next bytes of that blob |
//! | 4 manifest | JSON: [`Manifest`]. The last frame |

use std::io::{self, Read, Write};

use commonhold_sync::blobs::Blob;
use commonhold_sync::id::{BlobHash, SpaceId};
use serde::{Deserialize, Serialize};

use super::{BackupError, Damage};
use crate::store::{KEY_BYTES_MAX, Table, VALUE_BYTES_MAX};

pub(super) const FORMAT: u32 = 1;
const MAGIC: &str = "commonhold backup ";
/// Digits of the format at most.
const FORMAT_DIGITS_MAX: usize = 6;
/// Bytes of rows, or of a blob, that share a frame. A larger row has one for itself.
const FRAME_BYTES: usize = 1 << 20;
/// The largest row, with its table and lengths.
const FRAME_BYTES_MAX: usize = 1 + 8 + KEY_BYTES_MAX + VALUE_BYTES_MAX;
const HEAD_BYTES: usize = 5;
const DIGEST_BYTES: usize = 16;
/// Places that are told of.
const DAMAGED_MAX: usize = 100;

const ROWS: u8 = 1;
const BLOB: u8 = 2;
const PIECE: u8 = 3;
const MANIFEST: u8 = 4;

/// What a backup holds, at its end, for programs and people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the file: 1.
    pub format: u32,
    /// The program that made it.
    pub program: String,
    /// When, milliseconds since 1970.
    pub made_ms: u64,
    /// The device whose store it was.
    pub device: String,
    /// The store's id then.
    pub store: String,
    /// Tables that have rows.
    pub tables: Vec<TableDigest>,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of them.
    pub blob_bytes: u64,
}

/// The rows of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDigest {
    /// Its name.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// BLAKE3 of the rows as they lie in the frames, in hex.
    pub blake3: String,
}

impl Manifest {
    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

/// What counts and digests the rows of each table, when they are written and when they are read.
#[derive(Default)]
struct Tables(Vec<(TableDigest, blake3::Hasher)>);

impl Tables {
    fn add(&mut self, table: Table, rows: u64, bytes: u64, encoded: &[u8]) {
        if self.0.last().is_none_or(|(last, _)| last.name != table.name()) {
            self.0
                .push((TableDigest { name: table.name().to_owned(), ..TableDigest::default() }, blake3::Hasher::new()));
        }
        if let Some((digest, hasher)) = self.0.last_mut() {
            digest.rows += rows;
            digest.bytes += bytes;
            hasher.update(encoded);
        }
    }

    fn finish(self) -> Vec<TableDigest> {
        let digest = |(digest, hasher): (TableDigest, blake3::Hasher)| TableDigest {
            blake3: hasher.finalize().to_hex().to_string(),
            ..digest
        };
        self.0.into_iter().map(digest).collect()
    }
}

/// Writes a backup.
pub(super) struct Writer<W> {
    to: W,
    all: blake3::Hasher,
    bytes: u64,
    frames: u64,
    /// Rows that are gathered for a frame: the table, how many, bytes of keys and values, and as they lie in it.
    rows: (Option<Table>, u64, u64, Vec<u8>),
    tables: Tables,
}

impl<W: Write> Writer<W> {
    pub(super) fn begin(to: W) -> io::Result<Writer<W>> {
        let rows = (None, 0, 0, Vec::with_capacity(FRAME_BYTES));
        let mut writer =
            Writer { to, all: blake3::Hasher::new(), bytes: 0, frames: 0, rows, tables: Tables::default() };
        writer.write(format!("{MAGIC}{FORMAT}\n").as_bytes())?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.all.update(bytes);
        self.bytes += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let head = head(kind, payload.len());
        let digest = digest(self.frames, &head, payload);
        self.frames += 1;
        self.write(&head)?;
        self.write(payload)?;
        self.write(&digest)
    }

    /// Adds a row. Those of a table come one after the other.
    pub(super) fn row(&mut self, table: Table, key: &[u8], value: &[u8]) -> io::Result<()> {
        let (of, _, _, gathered) = &self.rows;
        if *of != Some(table) || gathered.len() + key.len() + value.len() > FRAME_BYTES {
            self.end_rows()?;
        }
        let (of, rows, bytes, gathered) = &mut self.rows;
        *of = Some(table);
        *rows += 1;
        *bytes += (key.len() + value.len()) as u64;
        gathered.extend((key.len() as u32).to_be_bytes());
        gathered.extend((value.len() as u32).to_be_bytes());
        gathered.extend_from_slice(key);
        gathered.extend_from_slice(value);
        Ok(())
    }

    fn end_rows(&mut self) -> io::Result<()> {
        let (of, rows, bytes, gathered) = std::mem::take(&mut self.rows);
        let Some(table) = of else { return Ok(()) };
        self.tables.add(table, rows, bytes, &gathered);
        let payload = [&[table.id()][..], &gathered].concat();
        self.frame(ROWS, &payload)
    }

    /// Begins a blob. All rows are written by then.
    pub(super) fn blob(&mut self, space: &SpaceId, blob: &Blob) -> io::Result<()> {
        self.end_rows()?;
        self.frame(BLOB, &[&space.0[..], &blob.hash.0, &blob.size.to_be_bytes()].concat())
    }

    /// The next bytes of the blob.
    pub(super) fn piece(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.frame(PIECE, bytes)
    }

    /// The end. Gives the manifest as it was written, and the bytes of the file.
    pub(super) fn finish(mut self, facts: Manifest) -> io::Result<(Manifest, u64)> {
        self.end_rows()?;
        let manifest = Manifest { tables: std::mem::take(&mut self.tables).finish(), ..facts };
        self.frame(MANIFEST, &serde_json::to_vec(&manifest)?)?;
        let all = *self.all.finalize().as_bytes();
        self.to.write_all(&all)?;
        self.to.flush()?;
        Ok((manifest, self.bytes + all.len() as u64))
    }
}

fn head(kind: u8, length: usize) -> [u8; HEAD_BYTES] {
    let mut head = [kind; HEAD_BYTES];
    // A frame is never near 4 GiB.
    head[1..].copy_from_slice(&(length as u32).to_be_bytes());
    head
}

fn digest(number: u64, head: &[u8], payload: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_be_bytes()).update(head).update(payload);
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// What takes what a backup holds. An error of it ends the reading.
pub(super) trait Unpack {
    fn row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), BackupError>;
    /// A blob begins. All rows have come.
    fn blob(&mut self, space: &SpaceId, blob: &Blob) -> Result<(), BackupError>;
    fn piece(&mut self, bytes: &[u8]) -> Result<(), BackupError>;
    /// The blob is whole, and is what its name says.
    fn end_blob(&mut self) -> Result<(), BackupError>;
}

/// What was read of a backup.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// Absent if it was not reached, or is damaged.
    pub(super) manifest: Option<Manifest>,
    pub(super) bytes: u64,
    /// Damaged places, by where they are; none: all is as it was written.
    pub(super) damage: Vec<Damage>,
}

impl Found {
    fn damaged(&mut self, from: u64, what: impl Into<String>) {
        if self.damage.len() < DAMAGED_MAX {
            self.damage.push(Damage { from, to: self.bytes, what: what.into() });
        }
    }
}

/// Reads a whole backup and gives to `to` what is sound. What is damaged is listed; what cannot be read beyond it, too.
pub(super) fn read(from: impl Read, to: &mut dyn Unpack, progress: &mut dyn FnMut(u64)) -> Result<Found, BackupError> {
    let mut reader = Reader {
        from,
        all: blake3::Hasher::new(),
        number: 0,
        found: Found::default(),
        tables: Tables::default(),
        blob: None,
        blobs: (0, 0),
    };
    reader.magic()?;
    while reader.frame(to)? {
        progress(reader.found.bytes);
    }
    Ok(reader.found)
}

struct Reader<R> {
    from: R,
    all: blake3::Hasher,
    number: u64,
    found: Found,
    tables: Tables,
    /// The blob whose pieces come: which, where it began, bytes that came, and their digest.
    blob: Option<(Blob, u64, u64, blake3::Hasher)>,
    /// Whole blobs, and their bytes.
    blobs: (u64, u64),
}

impl<R: Read> Reader<R> {
    /// Fills the buffer as far as the file goes.
    fn fill(&mut self, buffer: &mut Vec<u8>, length: usize) -> io::Result<bool> {
        buffer.clear();
        // Grows with what comes: a length is no promise.
        (&mut self.from).take(length as u64).read_to_end(buffer)?;
        self.found.bytes += buffer.len() as u64;
        Ok(buffer.len() == length)
    }

    fn magic(&mut self) -> Result<(), BackupError> {
        let mut line = Vec::new();
        if !self.fill(&mut line, MAGIC.len())? || line != MAGIC.as_bytes() {
            return Err(BackupError::NotABackup);
        }
        self.all.update(&line);
        let (mut digits, mut next) = (String::new(), Vec::new());
        while digits.len() <= FORMAT_DIGITS_MAX && self.fill(&mut next, 1)? {
            self.all.update(&next);
            match next[0] {
                b'\n' => break,
                digit => digits.push(char::from(digit)),
            }
        }
        match digits.parse() {
            Ok(FORMAT) => Ok(()),
            Ok(found) if found > FORMAT => Err(BackupError::NewerFormat { found, known: FORMAT }),
            _ => Err(BackupError::NotABackup),
        }
    }

    /// Reads one frame. `false`: the file was read to its end, or cannot be read further.
    fn frame(&mut self, to: &mut dyn Unpack) -> Result<bool, BackupError> {
        let begin = self.found.bytes;
        let (mut head, mut payload, mut told) = (Vec::new(), Vec::new(), Vec::new());
        if !self.fill(&mut head, HEAD_BYTES)? {
            self.found.damaged(begin, "the file is cut short");
            return Ok(false);
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > FRAME_BYTES_MAX {
            self.found.damaged(begin, "nothing can be read from here on: the length of a frame is damaged");
            return Ok(false);
        }
        if !self.fill(&mut payload, length)? || !self.fill(&mut told, DIGEST_BYTES)? {
            self.found.damaged(begin, "the file is cut short, or the length of a frame is damaged");
            return Ok(false);
        }
        let number = self.number;
        self.number += 1;
        for part in [&head, &payload, &told] {
            self.all.update(part);
        }
        let sound = told == digest(number, &head, &payload);
        match head[0] {
            ROWS if sound => self.rows(&payload, begin, to)?,
            BLOB if sound => self.begin_blob(&payload, begin, to)?,
            PIECE if sound => self.piece(&payload, begin, to)?,
            MANIFEST if sound => {
                self.manifest(&payload, begin, to)?;
                return Ok(false);
            }
            kind if sound => {
                self.found.damaged(begin, format!("a frame is of kind {kind}, which this format does not have"))
            }
            kind => {
                let what = match kind {
                    ROWS => {
                        payload.first().and_then(|id| table(*id)).map(|table| format!("rows of table {}", table.name()))
                    }
                    BLOB => Some("the name of a blob".to_owned()),
                    PIECE => self.blob.as_ref().map(|(blob, ..)| format!("a piece of blob {}", blob.hash)),
                    MANIFEST => Some("the manifest".to_owned()),
                    _ => None,
                };
                self.found.damaged(begin, what.unwrap_or_else(|| "a frame".to_owned()));
            }
        }
        Ok(true)
    }

    fn rows(&mut self, payload: &[u8], begin: u64, to: &mut dyn Unpack) -> Result<(), BackupError> {
        let Some((table, mut rest)) = payload.split_first().and_then(|(id, rest)| Some((table(*id)?, rest))) else {
            self.found.damaged(begin, "rows of a table that this format does not have");
            return Ok(());
        };
        let (encoded, mut rows, mut bytes) = (rest, 0, 0);
        while let Some((key, value, after)) = row(rest) {
            to.row(table, key, value)?;
            rest = after;
            rows += 1;
            bytes += (key.len() + value.len()) as u64;
        }
        if !rest.is_empty() {
            self.found.damaged(begin, format!("rows of table {} do not fit their frame", table.name()));
        }
        self.tables.add(table, rows, bytes, encoded);
        Ok(())
    }

    fn begin_blob(&mut self, payload: &[u8], begin: u64, to: &mut dyn Unpack) -> Result<(), BackupError> {
        self.end_blob(to)?;
        let named = payload.split_first_chunk::<32>().and_then(|(space, rest)| {
            let (hash, size) = rest.split_first_chunk::<32>()?;
            let size = u64::from_be_bytes(size.try_into().ok()?);
            Some((SpaceId(*space), Blob { hash: BlobHash(*hash), size }))
        });
        let Some((space, blob)) = named else {
            self.found.damaged(begin, "the name of a blob does not fit its frame");
            return Ok(());
        };
        to.blob(&space, &blob)?;
        self.blob = Some((blob, begin, 0, blake3::Hasher::new()));
        Ok(())
    }

    fn piece(&mut self, payload: &[u8], begin: u64, to: &mut dyn Unpack) -> Result<(), BackupError> {
        let Some((_, _, bytes, hasher)) = &mut self.blob else {
            self.found.damaged(begin, "a piece of no blob");
            return Ok(());
        };
        *bytes += payload.len() as u64;
        hasher.update(payload);
        to.piece(payload)
    }

    fn end_blob(&mut self, to: &mut dyn Unpack) -> Result<(), BackupError> {
        let Some((blob, begin, bytes, hasher)) = self.blob.take() else { return Ok(()) };
        if bytes != blob.size || hasher.finalize().as_bytes() != &blob.hash.0 {
            self.found.damaged(begin, format!("blob {} is not what its name says", blob.hash));
            return Ok(());
        }
        self.blobs = (self.blobs.0 + 1, self.blobs.1 + bytes);
        to.end_blob()
    }

    /// What the manifest says is what was read, and after it comes the digest of everything and nothing else.
    fn manifest(&mut self, payload: &[u8], begin: u64, to: &mut dyn Unpack) -> Result<(), BackupError> {
        self.end_blob(to)?;
        let all = *self.all.finalize().as_bytes();
        // What is damaged before does not fit the manifest either.
        let intact = self.found.damage.is_empty();
        match serde_json::from_slice::<Manifest>(payload) {
            Ok(manifest) => {
                let read = std::mem::take(&mut self.tables).finish();
                for (told, read) in manifest.tables.iter().zip(&read) {
                    if intact && told != read {
                        self.found
                            .damaged(begin, format!("the rows of table {} are not those of the manifest", told.name));
                    }
                }
                let as_many = manifest.tables.len() == read.len();
                if intact && (!as_many || (manifest.blobs, manifest.blob_bytes) != self.blobs) {
                    self.found.damaged(begin, "the manifest lists other tables or blobs than there are");
                }
                self.found.manifest = Some(manifest);
            }
            Err(error) => self.found.damaged(begin, format!("the manifest cannot be read: {error}")),
        }
        let (end, mut told, mut more) = (self.found.bytes, Vec::new(), Vec::new());
        if !self.fill(&mut told, all.len())? {
            self.found.damaged(end, "the file is cut short");
        } else if told != all {
            self.found.damaged(end, "the digest of the whole file does not match");
        } else if self.fill(&mut more, 1)? {
            self.found.damaged(end + all.len() as u64, "there is something behind the end");
        }
        Ok(())
    }
}

/// The first row of a frame, and what follows.
fn row(from: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key, rest) = from.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_first_chunk::<4>()?;
    let (key, value) = (u32::from_be_bytes(*key) as usize, u32::from_be_bytes(*value) as usize);
    let (key, rest) = rest.split_at_checked(key).filter(|(key, _)| key.len() <= KEY_BYTES_MAX)?;
    let (value, rest) = rest.split_at_checked(value)?;
    Some((key, value, rest))
}

fn table(id: u8) -> Option<Table> {
    Table::ALL.into_iter().find(|table| table.id() == id)
}
