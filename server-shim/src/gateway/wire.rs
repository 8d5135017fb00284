//! Frames: one CBOR map each, as automerge-repo's WebSocket adapter of protocol version 1 has them.
//!
//! Read without allocating by what a frame declares: texts and bytes are slices of it, lists have a bound.

use std::collections::BTreeMap;

use commonhold_engine::document::MESSAGE_BYTES_MAX;
use minicbor::data::Type;
use minicbor::{Decoder, Encoder, decode, encode};

use super::ids::RepoId;

/// Bytes of a frame: a sync message, and the map around it.
pub(super) const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + (4 << 10);
/// Bytes of an ephemeral message. They are relayed at once to everybody who has the document open.
pub(super) const EPHEMERAL_BYTES_MAX: usize = 64 << 10;
/// Fields of a frame that are looked at; there are eight at most.
const FIELDS_MAX: usize = 32;
/// Bytes of the name of a peer, a session, a storage. All are some 30 bytes, and clients may choose them.
const NAME_BYTES_MAX: usize = 256;
/// Names in one list.
const NAMES_MAX: usize = 256;
/// The protocol version that is spoken.
const VERSION: &str = "1";

/// A frame that is none. Its sender is at fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFrame {
    #[error("a frame that is no CBOR map with text keys")]
    NoMap,
    #[error("a frame whose field {0} is of the wrong type, too long, or missing")]
    Field(&'static str),
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// Who it is. `speaks`: our version is among its own.
    Join { peer: &'a str, storage: Option<&'a str>, speaks: bool },
    /// It goes.
    Leave,
    /// About a document that it has or wants.
    Sync { id: RepoId, data: &'a [u8] },
    /// For everybody who has the document open.
    Ephemeral(Ephemeral<'a>),
    /// Of which storages it wants to hear what they have.
    Subscribe { add: Vec<&'a str>, remove: Vec<&'a str> },
    /// What needs no answer here: it has no document, tells of others' heads, or says what only later versions know.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ephemeral<'a> {
    pub(super) id: RepoId,
    /// Who said it, which need not be who passes it on.
    pub(super) sender: &'a str,
    pub(super) session: &'a str,
    pub(super) count: u64,
    pub(super) data: &'a [u8],
}

impl Eq for Ephemeral<'_> {}

/// The fields that are looked at, as they came.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    sender: Option<&'a str>,
    session: Option<&'a str>,
    document: Option<&'a str>,
    data: Option<&'a [u8]>,
    count: Option<u64>,
    storage: Option<&'a str>,
    versions: Option<Vec<&'a str>>,
    add: Vec<&'a str>,
    remove: Vec<&'a str>,
}

impl<'a> Frame<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Frame<'a>, BadFrame> {
        let fields = Fields::read(bytes)?;
        let name = |name: Option<&'a str>, field| {
            name.filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX).ok_or(BadFrame::Field(field))
        };
        let id = || {
            let text = fields.document.and_then(|text| text.parse().ok());
            text.ok_or(BadFrame::Field("documentId"))
        };
        let data = || fields.data.filter(|data| !data.is_empty()).ok_or(BadFrame::Field("data"));
        Ok(match fields.kind.ok_or(BadFrame::Field("type"))? {
            "join" => Frame::Join {
                peer: name(fields.sender, "senderId")?,
                storage: fields.storage.map(|storage| name(Some(storage), "peerMetadata")).transpose()?,
                speaks: fields.versions.is_none_or(|versions| versions.contains(&VERSION)),
            },
            "leave" => Frame::Leave,
            "sync" | "request" => Frame::Sync { id: id()?, data: data()? },
            "ephemeral" => Frame::Ephemeral(Ephemeral {
                id: id()?,
                sender: name(fields.sender, "senderId")?,
                session: name(fields.session, "sessionId")?,
                count: fields.count.ok_or(BadFrame::Field("count"))?,
                data: data().and_then(|data| match data.len() > EPHEMERAL_BYTES_MAX {
                    true => Err(BadFrame::Field("data")),
                    false => Ok(data),
                })?,
            }),
            "remote-subscription-change" => Frame::Subscribe { add: fields.add, remove: fields.remove },
            _ => Frame::Other,
        })
    }
}

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Result<Fields<'a>, BadFrame> {
        let mut d = Decoder::new(bytes);
        let mut fields = Fields::default();
        let count = d.map().map_err(|_| BadFrame::NoMap)?;
        for at in 0.. {
            match count {
                Some(count) if at >= count => break,
                None if matches!(d.datatype(), Ok(Type::Break)) => break,
                _ if at >= FIELDS_MAX as u64 => return Err(BadFrame::NoMap),
                _ => {}
            }
            let key = d.str().map_err(|_| BadFrame::NoMap)?;
            match key {
                "type" => fields.kind = field("type", optional(&mut d, Decoder::str))?,
                "senderId" => fields.sender = field("senderId", optional(&mut d, Decoder::str))?,
                "sessionId" => fields.session = field("sessionId", optional(&mut d, Decoder::str))?,
                "documentId" => fields.document = field("documentId", optional(&mut d, Decoder::str))?,
                "data" => fields.data = field("data", optional(&mut d, bytes_of))?,
                "count" => fields.count = field("count", optional(&mut d, whole))?,
                "peerMetadata" => fields.storage = field("peerMetadata", optional(&mut d, storage_of))?.flatten(),
                "supportedProtocolVersions" => {
                    fields.versions = field("supportedProtocolVersions", optional(&mut d, names))?;
                }
                "add" => fields.add = field("add", optional(&mut d, names))?.unwrap_or_default(),
                "remove" => fields.remove = field("remove", optional(&mut d, names))?.unwrap_or_default(),
                _ => d.skip().map_err(|_| BadFrame::NoMap)?,
            }
        }
        Ok(fields)
    }
}

fn field<T>(name: &'static str, read: Result<T, decode::Error>) -> Result<T, BadFrame> {
    read.map_err(|_| BadFrame::Field(name))
}

/// What JavaScript leaves undefined is not there.
fn optional<'a, T>(
    d: &mut Decoder<'a>,
    read: impl FnOnce(&mut Decoder<'a>) -> Result<T, decode::Error>,
) -> Result<Option<T>, decode::Error> {
    match d.datatype()? {
        Type::Null | Type::Undefined => d.skip().map(|()| None),
        _ => read(d).map(Some),
    }
}

/// Bytes, with or without the tag by which typed arrays are told apart.
fn bytes_of<'a>(d: &mut Decoder<'a>) -> Result<&'a [u8], decode::Error> {
    if d.datatype()? == Type::Tag {
        d.tag()?;
    }
    d.bytes()
}

/// A whole number; JavaScript writes large ones as floats.
fn whole(d: &mut Decoder<'_>) -> Result<u64, decode::Error> {
    match d.datatype()? {
        Type::F16 | Type::F32 | Type::F64 => {
            let number = d.f64()?;
            let fits = number >= 0.0 && number.fract() == 0.0 && number <= 9_007_199_254_740_992.0;
            fits.then_some(number as u64).ok_or(decode::Error::message("not a whole number"))
        }
        _ => d.u64(),
    }
}

fn names<'a>(d: &mut Decoder<'a>) -> Result<Vec<&'a str>, decode::Error> {
    let count = d.array()?;
    let mut names = Vec::new();
    for at in 0.. {
        match count {
            Some(count) if at >= count => break,
            None if d.datatype()? == Type::Break => {
                d.skip()?;
                break;
            }
            _ if at >= NAMES_MAX as u64 => return Err(decode::Error::message("too many names")),
            _ => {}
        }
        names.push(d.str().ok().filter(|name| name.len() <= NAME_BYTES_MAX).ok_or(decode::Error::message("no name"))?);
    }
    Ok(names)
}

/// The id of the client's storage, of what it says of itself.
fn storage_of<'a>(d: &mut Decoder<'a>) -> Result<Option<&'a str>, decode::Error> {
    let (count, mut storage) = (d.map()?, None);
    for at in 0.. {
        match count {
            Some(count) if at >= count => break,
            None if d.datatype()? == Type::Break => {
                d.skip()?;
                break;
            }
            _ if at >= FIELDS_MAX as u64 => return Err(decode::Error::message("too many fields")),
            _ => {}
        }
        match d.str()? {
            "storageId" => storage = optional(d, Decoder::str)?,
            _ => d.skip()?,
        }
    }
    Ok(storage)
}

/// What this peer says, and to whom.
pub(super) struct Speech<'a> {
    /// This peer.
    pub(super) from: &'a str,
    pub(super) to: &'a str,
}

impl Speech<'_> {
    /// The answer to a join.
    pub(super) fn peer(&self, storage: &str) -> Vec<u8> {
        self.frame("peer", 2, |e| {
            e.str("selectedProtocolVersion")?.str(VERSION)?;
            e.str("peerMetadata")?.map(2)?.str("storageId")?.str(storage)?.str("isEphemeral")?.bool(false)?.ok()
        })
    }

    pub(super) fn error(&self, message: &str) -> Vec<u8> {
        self.frame("error", 1, |e| e.str("message")?.str(message)?.ok())
    }

    pub(super) fn sync(&self, id: RepoId, data: &[u8]) -> Vec<u8> {
        self.frame("sync", 2, |e| e.str("documentId")?.str(&id.to_string())?.str("data")?.bytes(data)?.ok())
    }

    pub(super) fn unavailable(&self, id: RepoId) -> Vec<u8> {
        self.frame("doc-unavailable", 1, |e| e.str("documentId")?.str(&id.to_string())?.ok())
    }

    pub(super) fn remote_heads(&self, id: RepoId, storage: &str, heads: &[String], at_ms: u64) -> Vec<u8> {
        self.frame("remote-heads-changed", 2, |e| {
            e.str("documentId")?.str(&id.to_string())?.str("newHeads")?.map(1)?.str(storage)?.map(2)?;
            e.str("heads")?.array(heads.len() as u64)?;
            for head in heads {
                e.str(head)?;
            }
            e.str("timestamp")?.u64(at_ms)?.ok()
        })
    }

    /// Passes a message on: it stays its sender's.
    pub(super) fn ephemeral(&self, message: &Ephemeral<'_>) -> Vec<u8> {
        let said = Speech { from: message.sender, to: self.to };
        said.frame("ephemeral", 4, |e| {
            e.str("documentId")?.str(&message.id.to_string())?.str("sessionId")?.str(message.session)?;
            e.str("count")?.u64(message.count)?.str("data")?.bytes(message.data)?.ok()
        })
    }

    fn frame(
        &self,
        kind: &str,
        more: u64,
        rest: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), encode::Error<std::convert::Infallible>>,
    ) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        let written = e.map(3 + more).and_then(|e| {
            e.str("type")?.str(kind)?.str("senderId")?.str(self.from)?.str("targetId")?.str(self.to)?;
            rest(e)
        });
        debug_assert!(written.is_ok(), "writing to memory does not fail");
        e.into_writer()
    }
}

/// How far each source of ephemeral messages has come, so that each message is relayed once.
#[derive(Default)]
pub(super) struct Counts {
    /// By sender and session: the highest count, and when it was last used.
    of: BTreeMap<(String, String), (u64, u64)>,
    used: BTreeMap<u64, (String, String)>,
    clock: u64,
}

/// Sources that are remembered: some 300 bytes each. Of a source that is forgotten a message could come twice.
const SOURCES_MAX: usize = 4_096;

impl Counts {
    /// Whether a message is new.
    pub(super) fn is_new(&mut self, message: &Ephemeral<'_>) -> bool {
        let source = (message.sender.to_owned(), message.session.to_owned());
        let known = self.of.get(&source).copied();
        if known.is_some_and(|(count, _)| count >= message.count) {
            return false;
        }
        if let Some((_, used)) = known {
            self.used.remove(&used);
        }
        self.clock += 1;
        self.used.insert(self.clock, source.clone());
        self.of.insert(source, (message.count, self.clock));
        if self.of.len() > SOURCES_MAX
            && let Some((_, oldest)) = self.used.pop_first()
        {
            self.of.remove(&oldest);
        }
        true
    }
}
