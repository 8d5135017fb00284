//! Sync messages of Automerge clients, read with bounds before the library sees anything of them.
//!
//! The library allocates and computes what a message declares (HOSTILE: a Bloom filter of 14 bytes ends the process), so
//! this reader decides first. What it gives out is heads, needs and one filter in forms that the library takes without
//! harm, and raw changes that passed the structural rules.
//!
//! Layout: 0x42, heads, need, have, changes, and whatever follows. Lists begin with their length; a have is a list of hashes and
//! a filter; a filter and a change begin with their length in bytes. Numbers are LEB128. What follows are flags, by which newer
//! clients offer to take and send whole documents. They are left out, so single changes come and go.

use std::io::Read;

use automerge as am;
use commonhold_sync::change::{self, ChangeHead};
use commonhold_sync::id::EntryId;
use commonhold_sync::limits::Rules;

/// Bytes of one message. Clients send all that they hold of a document in one: 100,000 keystrokes take about as much.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Heads, and hashes of the last sync, in one message: as many lines that nobody has joined. 128 KiB.
const HEADS_MAX: u64 = 4_096;
/// Changes asked for by name in one message. 2 MiB; each is looked up once.
const NEEDS_MAX: u64 = 65_536;
/// What the sender has, in one message. Clients send one; only the first is used.
const HAVES_MAX: u64 = 8;
/// Entries of a Bloom filter: a document of a million changes, in 1.25 MiB.
const BLOOM_ENTRIES_MAX: u64 = 1 << 20;
/// Bits for each entry; clients use 10.
const BLOOM_BITS_MAX: u64 = 64;
/// Bits looked at for each change of ours; clients use 7. Each costs a nanosecond or two.
const BLOOM_PROBES_MAX: u64 = 32;
/// Changes in one message. The smallest take about 80 bytes, so this is the size of a message once more.
const CHANGES_MAX: u64 = 100_000;
/// Bytes of all changes of one message, inflated. One change is bounded by the rules.
const INFLATED_BYTES_MAX: usize = 32 << 20;

/// The first byte of a message, and of one that carries a whole document.
const SINGLE_CHANGES: u8 = 0x42;
const WHOLE_DOCUMENT: u8 = 0x43;
/// The first bytes of a chunk, behind which four bytes of checksum and the type follow.
pub(super) const CHUNK: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
pub(super) const CHUNK_TYPE_AT: usize = 8;
pub(super) const CHANGE: u8 = 1;
pub(super) const DEFLATED: u8 = 2;

/// Why a message was not taken. Its sender is at fault, or speaks something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadMessage {
    /// It ends too early, or is none.
    #[error("not a sync message: {0}")]
    Malformed(&'static str),
    /// What should be raw changes, one after another, is not.
    #[error("not Automerge changes, one after another: the chunk at byte {at} is cut off, or is none")]
    NoChunk {
        /// Where it begins.
        at: usize,
    },
    /// More than is taken.
    #[error("{what}: at most {max} are taken")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much is taken.
        max: u64,
    },
    /// A whole document, which is only for those who offered to take it.
    #[error("a whole document in place of changes; send single changes, as to a peer that sends no flags")]
    WholeDocument,
    /// More changes wait for others than are kept.
    #[error("more than {max} bytes of changes whose dependencies did not come; connect again and sync from the start")]
    TooManyWait {
        /// How many bytes are kept.
        max: usize,
    },
}

/// A change that breaks a structural rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadChange {
    /// Where it stands among the changes of the message.
    pub(crate) at: usize,
    pub(crate) why: String,
}

/// A change that keeps the structural rules, as far as its bytes tell.
#[derive(Debug, Clone)]
pub(crate) struct WalkedChange {
    pub(crate) head: ChangeHead,
    /// Not compressed.
    pub(crate) bytes: Vec<u8>,
}

/// A message that was read.
#[derive(Debug, Default)]
pub(crate) struct SyncMessage {
    pub(crate) heads: Vec<EntryId>,
    pub(crate) changes: Vec<WalkedChange>,
    pub(crate) bad: Vec<BadChange>,
    pub(super) need: Vec<EntryId>,
    pub(super) have: Option<am::sync::Have>,
}

impl SyncMessage {
    /// Reads a message. Bad changes are told, and take no others with them.
    pub(crate) fn read(bytes: &[u8], rules: &Rules) -> Result<SyncMessage, BadMessage> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(BadMessage::TooMuch { what: "bytes", max: MESSAGE_BYTES_MAX as u64 });
        }
        let mut from = Reader(bytes);
        match from.byte()? {
            SINGLE_CHANGES => {}
            WHOLE_DOCUMENT => return Err(BadMessage::WholeDocument),
            _ => return Err(BadMessage::Malformed("it begins with another byte")),
        }
        let heads = from.hashes("heads", HEADS_MAX)?;
        let need = from.hashes("changes asked for", NEEDS_MAX)?;
        let haves = from.count("haves", HAVES_MAX)?;
        let mut have = None;
        for _ in 0..haves {
            let last_sync = from.hashes("hashes of the last sync", HEADS_MAX)?;
            let filter = from.prefixed()?;
            let bloom = bloom(filter)?;
            have.get_or_insert(am::sync::Have { last_sync: last_sync.into_iter().map(hash).collect(), bloom });
        }
        let mut message = SyncMessage { heads, need, have, ..SyncMessage::default() };
        let mut room = INFLATED_BYTES_MAX;
        for at in 0..from.count("changes", CHANGES_MAX)? as usize {
            message.walk(at, from.prefixed()?, rules, &mut room)?;
        }
        Ok(message)
    }

    /// Reads raw changes, one after another, as a message that says nothing else.
    pub(crate) fn read_changes(bytes: &[u8], rules: &Rules) -> Result<SyncMessage, BadMessage> {
        let mut from = Reader(bytes);
        let (mut message, mut room) = (SyncMessage::default(), INFLATED_BYTES_MAX);
        for at in 0.. {
            if from.0.is_empty() {
                break;
            }
            if at as u64 >= CHANGES_MAX {
                return Err(BadMessage::TooMuch { what: "changes", max: CHANGES_MAX });
            }
            let begins = bytes.len() - from.0.len();
            let chunk = from.chunk().map_err(|_| BadMessage::NoChunk { at: begins })?;
            message.walk(at, chunk, rules, &mut room)?;
        }
        Ok(message)
    }

    /// Keeps a change if it is good and there is room.
    fn walk(&mut self, at: usize, chunk: &[u8], rules: &Rules, room: &mut usize) -> Result<(), BadMessage> {
        match walked(chunk, rules, *room) {
            Ok(change) => {
                *room = room.saturating_sub(change.bytes.len());
                self.changes.push(change);
            }
            Err(Some(why)) => self.bad.push(BadChange { at, why }),
            Err(None) => {
                return Err(BadMessage::TooMuch { what: "bytes of changes", max: INFLATED_BYTES_MAX as u64 });
            }
        }
        Ok(())
    }

    /// What the library is told of it: everything but changes and flags.
    pub(super) fn for_library(&self) -> am::sync::Message {
        am::sync::Message {
            heads: self.heads.iter().copied().map(hash).collect(),
            need: self.need.iter().copied().map(hash).collect(),
            have: self.have.iter().cloned().collect(),
            changes: am::sync::ChunkList::empty(),
            flags: None,
            version: am::sync::MessageVersion::V1,
        }
    }
}

/// Asks for everything up to these heads, as a peer that holds nothing does.
pub(crate) fn asking(heads: &[EntryId]) -> Vec<u8> {
    let need = heads.iter().copied().map(hash).collect();
    let message = am::sync::Message {
        heads: Vec::new(),
        need,
        have: vec![am::sync::Have::default()],
        changes: am::sync::ChunkList::empty(),
        flags: None,
        version: am::sync::MessageVersion::V1,
    };
    message.encode()
}

fn hash(id: EntryId) -> am::ChangeHash {
    am::ChangeHash(id.0)
}

/// A filter that the library computes with in bounded time and memory.
fn bloom(bytes: &[u8]) -> Result<am::sync::BloomFilter, BadMessage> {
    if bytes.is_empty() {
        return Ok(am::sync::BloomFilter::default());
    }
    let mut from = Reader(bytes);
    let entries = from.count("entries of a filter", BLOOM_ENTRIES_MAX)?;
    let bits = from.count("bits for an entry of a filter", BLOOM_BITS_MAX)?;
    let probes = from.count("probes of a filter", BLOOM_PROBES_MAX)?;
    if entries == 0 || bits == 0 || probes == 0 {
        return Err(BadMessage::Malformed("a filter without entries, bits or probes"));
    }
    if from.0.len() as u64 != (entries * bits).div_ceil(8) {
        return Err(BadMessage::Malformed("a filter of another length than it says"));
    }
    am::sync::BloomFilter::try_from(bytes).map_err(|_| BadMessage::Malformed("a filter that does not decode"))
}

/// One change, inflated and checked from its bytes alone. `Err(None)`: there is no room for it in the message.
pub(super) fn walked(chunk: &[u8], rules: &Rules, room: usize) -> Result<WalkedChange, Option<String>> {
    let bytes = match chunk.get(CHUNK_TYPE_AT) {
        Some(&DEFLATED) if chunk.starts_with(&CHUNK) => inflated(chunk, rules.change_bytes_max)?,
        _ => chunk.to_vec(),
    };
    if bytes.len() > room {
        return Err(None);
    }
    let head = change::walk(&bytes, rules).map_err(|fault| Some(fault.to_string()))?;
    Ok(WalkedChange { head, bytes })
}

/// The raw form of a change that Automerge deflated: the same checksum, another type and length.
fn inflated(chunk: &[u8], max: usize) -> Result<Vec<u8>, Option<String>> {
    let refused = |why: &str| Some(why.to_owned());
    let content =
        Reader(&chunk[CHUNK_TYPE_AT + 1..]).prefixed().map_err(|_| refused("a compressed change is cut off"))?;
    let mut body = Vec::new();
    let read = flate2::bufread::DeflateDecoder::new(content).take(max as u64 + 1).read_to_end(&mut body);
    read.map_err(|_| refused("a compressed change does not inflate"))?;
    if body.len() > max {
        return Err(refused("a compressed change is larger than a change may be"));
    }
    let mut raw = Vec::with_capacity(body.len() + 14);
    raw.extend_from_slice(&chunk[..CHUNK_TYPE_AT]);
    raw.push(CHANGE);
    put_number(&mut raw, body.len() as u64);
    raw.extend_from_slice(&body);
    Ok(raw)
}

pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads forward, and never beyond what is there.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], BadMessage> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(BadMessage::Malformed("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, BadMessage> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u64, BadMessage> {
        let mut number = 0u64;
        for shift in (0..).step_by(7).take(9) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BadMessage::Malformed("a number of more than nine bytes"))
    }

    pub(super) fn count(&mut self, what: &'static str, max: u64) -> Result<u64, BadMessage> {
        self.number().and_then(|count| if count > max { Err(BadMessage::TooMuch { what, max }) } else { Ok(count) })
    }

    pub(super) fn prefixed(&mut self) -> Result<&'a [u8], BadMessage> {
        let length = self.number()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// A chunk that tells its own length.
    pub(super) fn chunk(&mut self) -> Result<&'a [u8], BadMessage> {
        let whole = self.0;
        if !self.take(CHUNK_TYPE_AT + 1)?.starts_with(&CHUNK) {
            return Err(BadMessage::Malformed("a chunk begins with other bytes"));
        }
        self.prefixed()?;
        Ok(&whole[..whole.len() - self.0.len()])
    }

    pub(super) fn hashes(&mut self, what: &'static str, max: u64) -> Result<Vec<EntryId>, BadMessage> {
        let count = self.count(what, max)? as usize;
        let bytes = self.take(count * 32)?;
        let ids = bytes.as_chunks::<32>().0;
        Ok(ids.iter().map(|id| EntryId(*id)).collect())
    }
}
