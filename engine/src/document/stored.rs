//! What Automerge stored: chunks one after another, each a whole document or one change, read with bounds before the library sees anything
//! of them.
//!
//! A document's columns may be compressed one by one, which says nothing of how much they become. So they are inflated here, up to a bound, and
//! the library is given the chunk without compression, once the walk over it (`walk_document`) has found that loading it is affordable.

use std::io::Read;

use commonhold_sync::limits::Rules;
use sha2::{Digest, Sha256};

use super::sync_message::{CHANGE, CHUNK, CHUNK_TYPE_AT, DEFLATED, Reader, WalkedChange, put_number, walked};
use super::{SnapshotCaps, View};

/// Bytes of the columns of one document, inflated: as many as a snapshot may have. 30 million keystrokes.
const DOCUMENT_BYTES_MAX: usize = 64 << 20;
/// Bytes of all changes that are read at once, inflated.
const CHANGES_BYTES_MAX: usize = 256 << 20;
/// Bytes that a call inflates in all, whatever becomes of them: 128 MiB of chunks that each inflate to 64 MiB and then turn out to be nothing
/// would otherwise be 128 GiB of work. Room for eight whole documents of the largest size; a storage seldom has more than two.
const INFLATED_BYTES_MAX: usize = 512 << 20;
/// Damaged chunks of a piece that are told one by one. Beyond them nothing more of it is read: 128 MiB have room for millions.
const DAMAGED_MAX: usize = 100;

/// The type of a chunk that is a whole document.
const DOCUMENT: u8 = 0;
/// The bit of a column's name that says that its bytes are compressed.
const COMPRESSED: u64 = 8;
/// Columns of a list of them; Automerge has 16 at most.
const COLUMNS_MAX: u64 = 256;
/// Actors and heads of a document, each of some bytes of the chunk: as [`commonhold_sync::change::DocumentCaps`] has it.
const LIST_MAX: u64 = 1 << 16;

/// Changes that were read from what Automerge stored. They keep the rules, as far as their own bytes tell.
#[derive(Debug, Default)]
pub struct StoredChanges(pub(crate) Vec<WalkedChange>);

/// What could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPiece {
    /// Which of the pieces.
    pub piece: usize,
    /// What is wrong with it, or with a part of it.
    pub why: String,
}

impl StoredChanges {
    /// Reads pieces of one document's storage, each of whole chunks one after another, in any order. What is damaged is told and takes nothing
    /// else with it but what stands behind it in its piece; of a piece with more than 100 damaged chunks the rest is not read. Changes of 256 MiB
    /// at most; of a document, columns of 64 MiB; 512 MiB that are inflated for all of it. Takes its time, and up to some 900 MB beside the
    /// pieces: not for a thread of the runtime.
    pub fn read(pieces: &[Vec<u8>]) -> (StoredChanges, Vec<DamagedPiece>) {
        StoredChanges::read_within(pieces, Room { changes: CHANGES_BYTES_MAX, inflated: INFLATED_BYTES_MAX })
    }

    fn read_within(pieces: &[Vec<u8>], mut room: Room) -> (StoredChanges, Vec<DamagedPiece>) {
        let (mut changes, mut damaged) = (Vec::new(), Vec::new());
        for (piece, bytes) in pieces.iter().enumerate() {
            let told = read_piece(bytes, &mut changes, &mut room);
            damaged.extend(told.into_iter().map(|why| DamagedPiece { piece, why }));
        }
        (StoredChanges(changes), damaged)
    }

    /// Whether one of them builds upon nothing: without such a one nothing can be shown of a document that is not here yet.
    pub fn has_beginning(&self) -> bool {
        self.0.iter().any(|change| change.head.deps.is_empty())
    }

    /// How many there are; one that was stored twice counts twice.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a call may still take.
struct Room {
    /// Bytes of changes.
    changes: usize,
    /// Bytes that are inflated.
    inflated: usize,
}

impl Room {
    /// Bytes were inflated. One step may go beyond what is left, by what one change may have at most.
    fn inflated(&mut self, bytes: usize) {
        self.inflated = self.inflated.saturating_sub(bytes);
    }
}

/// Reads a piece. Gives what is wrong with it.
fn read_piece(bytes: &[u8], changes: &mut Vec<WalkedChange>, room: &mut Room) -> Vec<String> {
    let mut told = Vec::new();
    if bytes.is_empty() {
        told.push("it is empty".to_owned());
    }
    let mut from = Reader(bytes);
    while !from.0.is_empty() {
        let begins = bytes.len() - from.0.len();
        if told.len() >= DAMAGED_MAX {
            told.push(format!("there are more such chunks: nothing from byte {begins} on was read"));
            break;
        }
        let Ok(chunk) = from.chunk() else {
            told.push(format!("the chunk at byte {begins} is cut off, or is none"));
            break;
        };
        let read = match chunk.get(CHUNK_TYPE_AT) {
            Some(&DOCUMENT) => document(chunk, room).map(|of_document| changes.extend(of_document)),
            Some(&(CHANGE | DEFLATED)) => taken(chunk, room).map(|change| changes.push(change)),
            _ => Err("it is of a kind that this version does not read".to_owned()),
        };
        if let Err(why) = read {
            told.push(format!("the chunk at byte {begins}: {why}"));
        }
    }
    told
}

fn taken(chunk: &[u8], room: &mut Room) -> Result<WalkedChange, String> {
    let deflated = chunk.get(CHUNK_TYPE_AT) == Some(&DEFLATED);
    if deflated && room.inflated == 0 {
        return Err(too_much_inflated());
    }
    let too_much = || format!("more than {} MiB of changes", CHANGES_BYTES_MAX >> 20);
    let read = walked(chunk, &Rules::V1, room.changes);
    if deflated {
        // What was inflated for nothing counts as well.
        room.inflated(read.as_ref().map_or_else(|_| inflates_to(chunk), |change| change.bytes.len()));
    }
    let change = read.map_err(|why| why.unwrap_or_else(too_much))?;
    room.changes -= change.bytes.len();
    Ok(change)
}

fn too_much_inflated() -> String {
    format!("more than {} MiB were inflated for this document", INFLATED_BYTES_MAX >> 20)
}

/// How many bytes a compressed change that was refused has given.
fn inflates_to(chunk: &[u8]) -> usize {
    let Ok(content) = Reader(&chunk[CHUNK_TYPE_AT + 1..]).prefixed() else { return 0 };
    let mut decoder = flate2::bufread::DeflateDecoder::new(content).take(Rules::V1.change_bytes_max as u64 + 1);
    let (mut some, mut all) = ([0; 4_096], 0);
    while let Ok(n @ 1..) = decoder.read(&mut some) {
        all += n;
    }
    all
}

/// All changes of a whole document.
fn document(chunk: &[u8], room: &mut Room) -> Result<Vec<WalkedChange>, String> {
    let raw = inflated(chunk, room)?;
    // As a snapshot that is stored without compression, it is read with the same care.
    let mut packed = b"CHsn\x01\x00".to_vec();
    packed.extend_from_slice(&(raw.len() as u64).to_le_bytes());
    packed.extend_from_slice(&raw);
    drop(raw);
    let caps = SnapshotCaps { foreign: true, ..SnapshotCaps::default() };
    let (mut view, _) = View::from_snapshot(&packed, &caps).map_err(|fault| fault.to_string())?;
    drop(packed);
    view.entries_since(&[]).into_iter().map(|(_, bytes)| taken(&bytes, room)).collect()
}

/// The same document without compression.
fn inflated(chunk: &[u8], all: &mut Room) -> Result<Vec<u8>, String> {
    let cut = |_| "it is cut off".to_owned();
    let body = Reader(&chunk[CHUNK_TYPE_AT + 1..]).prefixed().map_err(cut)?;
    if checksum(&chunk[CHUNK_TYPE_AT..]) != chunk[CHUNK.len()..CHUNK_TYPE_AT] {
        return Err("its checksum is of other bytes".to_owned());
    }
    let mut from = Reader(body);
    for _ in 0..from.count("actors", LIST_MAX).map_err(|error| error.to_string())? {
        from.prefixed().map_err(cut)?;
    }
    from.hashes("heads", LIST_MAX).map_err(|error| error.to_string())?;
    let mut out = body[..body.len() - from.0.len()].to_vec();
    let lists = [columns(&mut from)?, columns(&mut from)?];
    let mut room = DOCUMENT_BYTES_MAX;
    let mut data = Vec::new();
    for list in lists {
        put_number(&mut out, list.len() as u64);
        for (name, length) in list {
            let bytes = from.take(length).map_err(cut)?;
            let before = data.len();
            match name & COMPRESSED == 0 {
                true => data.extend_from_slice(bytes),
                false => {
                    let (left, max) = (all.inflated, all.inflated.min(room));
                    let mut decoder = flate2::bufread::DeflateDecoder::new(bytes).take(max as u64 + 1);
                    let read = decoder.read_to_end(&mut data);
                    let length = data.len() - before;
                    all.inflated(length);
                    read.map_err(|_| "a column does not inflate".to_owned())?;
                    if length > left {
                        return Err(too_much_inflated());
                    }
                }
            }
            let length = data.len() - before;
            let too_much =
                || format!("its columns have more than {} MiB when they are inflated", DOCUMENT_BYTES_MAX >> 20);
            room = room.checked_sub(length).ok_or_else(too_much)?;
            put_number(&mut out, name & !COMPRESSED);
            put_number(&mut out, length as u64);
        }
    }
    out.extend_from_slice(&data);
    drop(data);
    // Where the heads stand among the changes.
    out.extend_from_slice(from.0);
    let mut summed = vec![DOCUMENT];
    put_number(&mut summed, out.len() as u64);
    summed.extend_from_slice(&out);
    let mut raw = CHUNK.to_vec();
    raw.extend_from_slice(&checksum(&summed));
    raw.extend_from_slice(&summed);
    Ok(raw)
}

/// Names of columns, and bytes of each.
fn columns(from: &mut Reader<'_>) -> Result<Vec<(u64, usize)>, String> {
    let text = |error: super::BadMessage| error.to_string();
    let count = from.count("columns", COLUMNS_MAX).map_err(text)?;
    let one =
        |_| Ok((from.number().map_err(text)?, usize::try_from(from.number().map_err(text)?).unwrap_or(usize::MAX)));
    (0..count).map(one).collect()
}

/// Of type, length and content.
fn checksum(summed: &[u8]) -> [u8; 4] {
    let hash = Sha256::digest(summed);
    [hash[0], hash[1], hash[2], hash[3]]
}

#[cfg(test)]
mod tests {
    use automerge as am;
    use automerge::transaction::Transactable;

    use super::*;

    /// A document large enough that Automerge compresses its columns, and its parts as a storage has them: the whole up to some change, and what
    /// came after it.
    fn written() -> (am::AutoCommit, Vec<u8>, Vec<u8>) {
        let mut doc = am::AutoCommit::new();
        let text = doc.put_object(am::ROOT, "text", am::ObjType::Text).unwrap();
        for n in 0..400 {
            doc.splice_text(&text, n, 0, "abcdefgh".get(n % 8..n % 8 + 1).unwrap()).unwrap();
            doc.put(am::ROOT, format!("key {n}"), n as i64).unwrap();
            doc.commit();
        }
        let (whole, heads) = (doc.save(), doc.get_heads());
        doc.put(am::ROOT, "more", "x".repeat(2_000)).unwrap();
        doc.commit();
        doc.put(am::ROOT, "most", 1).unwrap();
        let after = doc.save_after(&heads);
        (doc, whole, after)
    }

    fn ample() -> Room {
        Room { changes: CHANGES_BYTES_MAX, inflated: INFLATED_BYTES_MAX }
    }

    fn ids(stored: &StoredChanges) -> Vec<[u8; 32]> {
        let mut ids: Vec<_> = stored.0.iter().map(|change| change.head.id.0).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_whole_document_and_what_came_after_it_give_every_change() {
        let (mut doc, whole, after) = written();
        let mut all: Vec<_> = doc.get_changes(&[]).iter().map(|change| change.hash().0).collect();
        all.sort_unstable();
        let (stored, damaged) = StoredChanges::read(&[after.clone(), whole.clone()]);
        assert_eq!((ids(&stored), damaged), (all.clone(), vec![]));
        // In one piece, as well.
        let (stored, damaged) = StoredChanges::read(&[[whole, after].concat()]);
        assert_eq!((ids(&stored), damaged), (all, vec![]));
    }

    #[test]
    fn what_is_inflated_here_is_the_document_that_the_library_writes_without_compression() {
        let (_, whole, _) = written();
        let raw = inflated(&whole, &mut ample()).unwrap();
        assert!(raw.len() > whole.len(), "nothing was compressed");
        assert_eq!(raw, am::AutoCommit::load(&whole).unwrap().save_nocompress());
        assert_eq!(inflated(&raw, &mut ample()).unwrap(), raw);
    }

    #[test]
    fn what_is_damaged_is_named_and_takes_no_other_piece_with_it() {
        let (_, whole, after) = written();
        let mut flipped = whole.clone();
        flipped[100] ^= 1;
        let bundle = [&CHUNK[..], &[0, 0, 0, 0, 9, 1, 7]].concat();
        let cut = after[..after.len() - 3].to_vec();
        let (stored, damaged) = StoredChanges::read(&[flipped, cut, vec![], b"nonsense".to_vec(), bundle, after]);
        let told: Vec<_> = damaged.iter().map(|damaged| (damaged.piece, damaged.why.as_str())).collect();
        let [(0, first), (1, second), (2, "it is empty"), (3, third), (4, fourth)] = told[..] else {
            panic!("{told:?}")
        };
        assert!(first.contains("checksum") && second.contains("cut off") && third.contains("is none"), "{told:?}");
        assert!(fourth.contains("does not read"), "{fourth}");
        assert_eq!(stored.len(), 3, "one of the piece that was cut off, and two of the last");
    }

    /// A document of one column that inflates to so much.
    fn bomb(bytes: usize) -> Vec<u8> {
        use std::io::Write;
        let mut deflater = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        deflater.write_all(&vec![0; bytes]).unwrap();
        let column = deflater.finish().unwrap();
        let mut body = vec![0, 0, 1, 9];
        put_number(&mut body, column.len() as u64);
        body.push(0);
        body.extend_from_slice(&column);
        let mut summed = vec![DOCUMENT];
        put_number(&mut summed, body.len() as u64);
        summed.extend_from_slice(&body);
        [&CHUNK[..], &checksum(&summed), &summed].concat()
    }

    #[test]
    fn what_inflates_beyond_its_bound_is_refused() {
        let (stored, damaged) = StoredChanges::read(&[bomb(DOCUMENT_BYTES_MAX + 1)]);
        assert!(stored.is_empty() && damaged[0].why.contains("more than 64 MiB"), "{damaged:?}");
    }

    #[test]
    fn of_a_piece_that_is_all_damaged_some_is_told_and_no_more_read() {
        let (_, _, after) = written();
        let bundle = [&CHUNK[..], &[0, 0, 0, 0, 9, 1, 7]].concat();
        let (stored, damaged) = StoredChanges::read(&[[bundle.repeat(5_000), after.clone()].concat(), after.clone()]);
        assert_eq!(stored.len(), 2, "those of the other piece");
        assert_eq!(damaged.len(), DAMAGED_MAX + 1);
        assert!(damaged[DAMAGED_MAX].why.contains("there are more"), "{damaged:?}");
        // As many as are told take nothing with them if there is nothing behind them.
        let (_, damaged) = StoredChanges::read(&[bundle.repeat(DAMAGED_MAX)]);
        assert_eq!(damaged.len(), DAMAGED_MAX);
    }

    #[test]
    fn all_that_is_inflated_has_one_bound() {
        let (_, whole, after) = written();
        let room = Room { changes: CHANGES_BYTES_MAX, inflated: 3 << 20 };
        // Each is below the bound of a document, and all of them are nothing.
        let bombs = bomb(1 << 20).repeat(5);
        let (stored, damaged) = StoredChanges::read_within(&[bombs, whole, after], room);
        let told: Vec<_> =
            damaged.iter().map(|damaged| (damaged.piece, damaged.why.contains("were inflated"))).collect();
        assert_eq!(told[..5], [(0, false), (0, false), (0, false), (0, true), (0, true)], "{damaged:?}");
        assert!(told[5..].contains(&(1, true)), "the whole document has compressed columns: {damaged:?}");
        assert_eq!(stored.len(), 2, "what came after it is not compressed");
    }

    #[test]
    fn a_compressed_change_that_is_refused_counts_as_well() {
        let (mut doc, _, _) = written();
        let mut changes = doc.get_changes(&[]);
        let mut chunks = changes.iter_mut().map(|change| change.bytes().into_owned());
        let first = chunks.find(|chunk| chunk[CHUNK_TYPE_AT] == DEFLATED).unwrap();
        let mut wrong = first.clone();
        wrong[CHUNK.len()] ^= 1;
        let mut room = ample();
        assert!(taken(&wrong, &mut room).is_err());
        let spent = INFLATED_BYTES_MAX - room.inflated;
        assert!(spent >= 2_000, "{spent}");
        room.inflated = 0;
        assert!(taken(&first, &mut room).unwrap_err().contains("were inflated"));
    }

    #[test]
    fn no_altered_byte_does_harm() {
        let (_, whole, _) = written();
        let raw = inflated(&whole, &mut ample()).unwrap();
        for at in (0..raw.len()).step_by(raw.len() / 300) {
            let mut altered = raw.clone();
            altered[at] = altered[at].wrapping_add(1);
            // With the checksum of what it is now, so that the rest is read.
            let sum = checksum(&altered[CHUNK_TYPE_AT..]);
            altered[CHUNK.len()..CHUNK_TYPE_AT].copy_from_slice(&sum);
            let _ = StoredChanges::read(&[altered]);
        }
    }
}
