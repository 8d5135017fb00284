//! A bounded parser for the two kinds of Automerge chunk that peers exchange: raw changes and uncompressed documents.
//!
//! It decides the structural admission rules before any code that materialises operations sees the bytes. It allocates
//! nothing by a size that the input declares, takes time linear in the bytes plus the capped number of operations, and
//! does not panic. Automerge rebuilds every change from its columns on load and must arrive at the same hash, so a change
//! passes only in the exact form in which Automerge 0.12 would write it again.
//!
//! Not for meaning: whether the objects, elements and predecessors that an operation names exist, and are of the right
//! kind, is the engine's question (it gets them from [`ops()`]). What depends on the causal past (S3–S5) is the caller's.

mod column;
mod document;
mod fault;
mod ops;
mod read;
#[cfg(test)]
mod tests;

use core::cmp::Ordering;
use core::fmt;
use core::ops::Deref;

use sha2::{Digest, Sha256};

pub use self::document::{DocumentCaps, DocumentCost, walk_document};
pub use self::fault::Fault;
pub use self::ops::{Action, Key, Op, OpId, Ops, Preds, Value, ValueKind};
use self::read::Reader;
use crate::id::{ChainId, DeviceId, EntryId};
use crate::limits::Rules;

/// First bytes of every chunk.
const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
/// Chunk types.
const DOCUMENT: u8 = 0;
const CHANGE: u8 = 1;
const DEFLATED: u8 = 2;

/// Timestamps lie in ±(2^53 − 1). Automerge stores them as differences in 64 bits, so the whole range would overflow;
/// this part of it is also exact in JavaScript.
const TIMESTAMP_MAX: u64 = (1 << 53) - 1;
/// Predecessors of one change, per operation allowed. An operation has one for each concurrent value that it replaces.
const PREDS_PER_OP: u64 = 4;
/// The author footer: its tag, the length of a device id, the device id.
const FOOTER: [u8; 2] = [1, 32];

/// A name in a change: a chain, 16 bytes, or the locator of a branch of a forked chain, 32: the chain, and half of the id of the
/// entry that begins the branch. Changes are made under chains only. Ordered by bytes, as Automerge orders them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Actor {
    len: u8,
    bytes: [u8; 32],
}

impl Actor {
    /// The actor of a change.
    fn author(id: &[u8]) -> Result<Self, Fault> {
        Actor::try_from(id).ok().filter(|actor| actor.chain().is_some()).ok_or(Fault::ActorLength)
    }

    /// The chain of this name, unless it is a locator.
    pub fn chain(&self) -> Option<ChainId> {
        ChainId::try_from(&self[..]).ok()
    }
}

impl TryFrom<&[u8]> for Actor {
    type Error = Fault;

    fn try_from(id: &[u8]) -> Result<Self, Fault> {
        let mut bytes = [0; 32];
        match id.len() {
            len @ (16 | 32) => {
                bytes[..len].copy_from_slice(id);
                Ok(Actor { len: len as u8, bytes })
            }
            _ => Err(Fault::ActorLength),
        }
    }
}

impl Deref for Actor {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Ord for Actor {
    fn cmp(&self, other: &Self) -> Ordering {
        self[..].cmp(&other[..])
    }
}

impl PartialOrd for Actor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Actor(")?;
        crate::id::write_hex(f, self)?;
        f.write_str(")")
    }
}

/// What a change says of itself outside its operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeHead {
    /// Automerge's change hash, computed from the bytes.
    pub id: EntryId,
    /// Author of the operations. Operation ids name it by index 0.
    pub actor: Actor,
    /// Place in the actor's line of changes, from 1.
    pub seq: u64,
    /// Counter of the first operation, from 1.
    pub start_op: u64,
    /// Number of operations, possibly 0.
    pub ops: u64,
    /// Sorted, distinct.
    pub deps: Vec<EntryId>,
    /// Actors that operations name by index 1, 2, …; sorted, distinct, each in use.
    pub other_actors: Vec<Actor>,
    /// The author footer. Only ever on seq 1; that it names the device in the tip is for the caller to check (S6).
    pub author: Option<[u8; 32]>,
    /// Whatever the author chose, within ±(2^53 − 1). Automerge suggests seconds since 1970.
    pub timestamp: i64,
    /// Bytes of the commit message; 0 without one.
    pub message_bytes: usize,
}

impl ChangeHead {
    /// Counter of the last operation, or `start_op` − 1 without any.
    pub fn max_op(&self) -> u64 {
        // `walk` kept the sum below `op_counter_end`, and `start_op` at least 1.
        self.start_op + self.ops - 1
    }

    /// The actor that an [`OpId`] names.
    pub fn actor_at(&self, index: u16) -> Option<&Actor> {
        match usize::from(index).checked_sub(1) {
            None => Some(&self.actor),
            Some(at) => self.other_actors.get(at),
        }
    }
}

/// Checks everything about one raw change that can be seen from its bytes alone.
///
/// Cost: a hash over the bytes, and some nanoseconds per operation, of which there are at most `rules.change_ops_max`.
/// Allocates only the dependencies and other actors, within their caps.
pub fn walk(bytes: &[u8], rules: &Rules) -> Result<ChangeHead, Fault> {
    if bytes.len() > rules.change_bytes_max {
        return Err(Fault::Bytes);
    }
    let data = chunk(bytes, CHANGE)?;
    let frame = Frame::read(data)?;

    if frame.deps.len() > rules.deps_max {
        return Err(Fault::Deps);
    }
    if !frame.deps.is_sorted_by(|a, b| a < b) {
        return Err(Fault::DepsOrder);
    }
    if frame.seq == 0 || frame.seq >= rules.op_counter_end {
        return Err(Fault::Seq);
    }
    if frame.timestamp.unsigned_abs() > TIMESTAMP_MAX {
        return Err(Fault::Timestamp);
    }
    if frame.message.len() > rules.value_bytes_max {
        return Err(Fault::Message);
    }
    core::str::from_utf8(frame.message).map_err(|_| Fault::Utf8)?;
    let author = match frame.footer {
        [] => None,
        footer => {
            let device = footer.strip_prefix(&FOOTER).and_then(|device| device.try_into().ok());
            Some(device.filter(|_| frame.seq == 1).ok_or(Fault::Author)?)
        }
    };

    if frame.other_actors >= rules.actors_max as u64 {
        return Err(Fault::Actors);
    }
    let actor = Actor::author(frame.actor)?;
    let mut other_actors = Vec::with_capacity(frame.other_actors as usize);
    let mut actor_bytes = frame.other_actor_bytes;
    while !actor_bytes.is_empty() {
        other_actors.push(Actor::try_from(actor_bytes.prefixed()?)?);
    }
    if !other_actors.is_sorted_by(|a, b| a < b) || other_actors.contains(&actor) {
        return Err(Fault::ActorsOrder);
    }

    let ops = ops::check(&frame, &actor, &other_actors, rules)?;
    Ok(ChangeHead {
        id: EntryId(digest(bytes)),
        actor,
        seq: frame.seq,
        start_op: frame.start_op,
        ops,
        deps: frame.deps.iter().copied().map(EntryId).collect(),
        other_actors,
        author,
        timestamp: frame.timestamp,
        message_bytes: frame.message.len(),
    })
}

/// Automerge's hash of a chunk, from its bytes alone: nothing about them is checked but that a header fits.
pub fn id(bytes: &[u8]) -> Result<EntryId, Fault> {
    if bytes.len() < 10 { Err(Fault::Length) } else { Ok(EntryId(digest(bytes))) }
}

/// The operations of a change that passed [`walk`]. Of any other bytes, those before the first fault.
pub fn ops(bytes: &[u8]) -> Ops<'_> {
    Ops::new(open(bytes, CHANGE).and_then(Frame::read).ok().as_ref())
}

/// SHA-256 over chunk type, length and content: Automerge's hash of a chunk.
fn digest(chunk: &[u8]) -> [u8; 32] {
    Sha256::digest(&chunk[8..]).into()
}

/// The content of a chunk that is of type `kind`, exactly as long as it says, and carries the checksum of its content.
fn chunk(bytes: &[u8], kind: u8) -> Result<&[u8], Fault> {
    let data = open(bytes, kind)?;
    if digest(bytes)[..4] == bytes[4..8] { Ok(data) } else { Err(Fault::Checksum) }
}

fn open(bytes: &[u8], kind: u8) -> Result<&[u8], Fault> {
    let mut input = Reader::new(bytes);
    if input.take(4)? != MAGIC {
        return Err(Fault::Magic);
    }
    input.take(4)?;
    match input.take(1)?[0] {
        found if found == kind => {}
        DEFLATED => return Err(Fault::Compressed),
        other => return Err(Fault::ChunkType(other)),
    }
    let data = input.prefixed()?;
    if input.is_empty() { Ok(data) } else { Err(Fault::Length) }
}

/// A change without operations, the first of its actor, that builds on `deps`: it says that they belong to what its author
/// holds, and nothing else. `start_op` is one more than the highest operation of its past.
pub fn joining(actor: &[u8; 16], author: &DeviceId, deps: &[EntryId], start_op: u64) -> Vec<u8> {
    let mut deps: Vec<EntryId> = deps.to_vec();
    deps.sort_unstable();
    let mut data = Vec::with_capacity(128);
    unsigned(&mut data, deps.len() as u64);
    deps.iter().for_each(|dep| data.extend_from_slice(&dep.0));
    data.push(actor.len() as u8);
    data.extend_from_slice(actor);
    unsigned(&mut data, 1);
    unsigned(&mut data, start_op);
    // Time, message, other actors, columns: none. Then the author.
    data.extend_from_slice(&[0, 0, 0, 0]);
    data.extend_from_slice(&FOOTER);
    data.extend_from_slice(&author.0);
    let mut body = vec![CHANGE];
    unsigned(&mut body, data.len() as u64);
    body.extend_from_slice(&data);
    let hash = Sha256::digest(&body);
    [&MAGIC[..], &hash[..4], &body].concat()
}

fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The parts of a change's content, borrowed, with no more checks than finding their ends needs.
struct Frame<'a> {
    deps: &'a [[u8; 32]],
    actor: &'a [u8],
    seq: u64,
    start_op: u64,
    timestamp: i64,
    message: &'a [u8],
    other_actors: u64,
    other_actor_bytes: Reader<'a>,
    columns: [&'a [u8]; ops::COLUMNS],
    footer: &'a [u8],
}

impl<'a> Frame<'a> {
    fn read(data: &'a [u8]) -> Result<Self, Fault> {
        let mut input = Reader::new(data);
        let deps = input.unsigned()?.checked_mul(32).ok_or(Fault::Length)?;
        let (deps, _) = input.take(deps)?.as_chunks();
        let actor = input.prefixed()?;
        let seq = input.unsigned()?;
        let start_op = input.unsigned()?;
        let timestamp = input.signed()?;
        let message = input.prefixed()?;
        let other_actors = input.unsigned()?;
        let before = input.rest();
        for _ in 0..other_actors {
            // At least one byte each: the loop ends with the input whatever the count says.
            input.prefixed()?;
        }
        let other_actor_bytes = Reader::new(&before[..before.len() - input.rest().len()]);
        let lengths = column::layout(&mut input, &ops::SPECS)?;
        let columns = column::columns(&mut input, lengths)?;
        let footer = input.rest();
        Ok(Frame { deps, actor, seq, start_op, timestamp, message, other_actors, other_actor_bytes, columns, footer })
    }
}
