//! Snapshots: all entries of a view in one compressed piece, and the way back, which trusts nothing.
//!
//! Layout: `CHsn`, version (1), method (0 stored, 1 zstd), length of the content (8 bytes, little end first), content. The content
//! is Automerge's document chunk with its own compression off, because zstd over the bare columns is smaller than deflate over
//! each. A snapshot is not part of the rules: two peers may pack the same entries differently.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use automerge as am;
use commonhold_sync::change::{DocumentCaps, walk_document};
use commonhold_sync::id::EntryId;
use commonhold_sync::limits::{Limits, Rules};

use super::graph::{Graph, LineIdx, NodeId};
use super::view::{Broken, Doc, View, guarded};

const MAGIC: &[u8; 4] = b"CHsn";
const VERSION: u8 = 1;
const HEADER: usize = 14;
const STORED: u8 = 0;
const ZSTD: u8 = 1;

/// Level of compression. Measured on the 259,778 keystrokes of the automerge-paper trace, one change each (292,795 bytes bare,
/// 129,153 with Automerge's own compression): level 9 118,961 bytes in 10 ms, 17 111,994 in 31 ms, 19 110,430 in 72 ms.
const LEVEL: i32 = 17;
/// Content below this size is not judged by its ratio: it cannot hurt.
const RATIO_FREE_BYTES: usize = 1 << 20;
/// Window of the compression, as a power of two: what a reader has to keep at hand. 8 MiB.
const WINDOW_LOG: u32 = 23;

/// What a snapshot may cost its reader.
#[derive(Debug, Clone)]
pub struct SnapshotCaps {
    /// Bytes of the snapshot.
    pub packed_bytes_max: usize,
    /// Bytes of its content, inflated.
    pub raw_bytes_max: usize,
    /// Content bytes per packed byte, once the content exceeds 1 MiB.
    pub ratio_max: usize,
    /// Whether operation numbers may exceed the past by a bounded jump, as foreign chains' do.
    pub foreign: bool,
    /// What loading the content may take, found out before it is loaded. Without it anything may be loaded: for a file that the
    /// user chose, which may be in any form that Automerge writes.
    pub document: Option<DocumentCaps>,
}

impl SnapshotCaps {
    /// The caps that follow from local limits. Content of 64 MiB is 30 million keystrokes.
    pub fn of(limits: &Limits) -> SnapshotCaps {
        SnapshotCaps {
            packed_bytes_max: limits.snapshot_bytes_max,
            raw_bytes_max: 64 << 20,
            ratio_max: limits.inflate_ratio_max,
            foreign: false,
            // Twice what the largest editing trace takes, with one change for each keystroke.
            document: Some(DocumentCaps { memory: 512 << 20, ..DocumentCaps::default() }),
        }
    }
}

impl Default for SnapshotCaps {
    fn default() -> Self {
        SnapshotCaps::of(&Limits::default())
    }
}

/// Why a view makes no snapshot at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotNow {
    /// There are local changes that were not flushed: what is not on disk must not leave.
    #[error("local changes are not flushed")]
    Unflushed,
    /// A chain has forked among the entries shown. A snapshot would hold the names of this view, not the entries.
    #[error("a chain has forked")]
    Forked,
    /// The document does not show.
    #[error("document waits for a rebuild")]
    Broken,
}

/// Why a snapshot was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotFault {
    /// Not a snapshot, or of a version that this engine does not know.
    #[error("not a snapshot of a known version")]
    Format,
    /// More than the caps allow; a local matter.
    #[error("{what} exceeds {max}")]
    TooLarge {
        /// What exceeds its cap.
        what: &'static str,
        /// The cap.
        max: usize,
    },
    /// The content does not inflate, or to another length than stated.
    #[error("content does not inflate")]
    Inflate,
    /// The content is malformed, or would take too much to load.
    #[error("content is not loaded: {0}")]
    Document(#[source] commonhold_sync::change::Fault),
    /// The CRDT library does not load the content.
    #[error("content does not load: {0}")]
    Load(String),
    /// An entry breaks a rule.
    #[error("entry {id} breaks rule {rule}")]
    Rule {
        /// The entry, by recomputed id.
        id: EntryId,
        /// The rule, as docs/protocol.md names it.
        rule: &'static str,
    },
}

impl SnapshotFault {
    /// Whether another peer, with other caps, might take it: no fault of whoever sent it.
    pub fn is_local(&self) -> bool {
        use commonhold_sync::change::Fault;
        match self {
            SnapshotFault::TooLarge { .. } => true,
            SnapshotFault::Document(fault) => {
                matches!(fault, Fault::Bytes | Fault::Changes | Fault::Ops | Fault::Actors | Fault::Memory)
            }
            _ => false,
        }
    }
}

/// An entry of a loaded snapshot, by its recomputed id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Its id.
    pub id: EntryId,
    /// Its chain.
    pub actor: Arc<[u8]>,
    /// Its number.
    pub seq: u64,
    /// Its first operation.
    pub start_op: u64,
    /// Its last operation; `start_op - 1` where it is empty.
    pub max_op: u64,
    /// What it was made upon.
    pub deps: Vec<EntryId>,
    /// The device that the chain claims; on number 1 only.
    pub author: Option<Vec<u8>>,
}

/// An entry upon which no other builds, and its past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its id.
    pub id: EntryId,
    /// Its chain.
    pub actor: Vec<u8>,
    /// Its number.
    pub seq: u64,
    /// The highest operation up to it.
    pub max_op: u64,
    /// How many entries of each other chain are in its past.
    pub past: Vec<(Vec<u8>, u64)>,
}

impl View {
    /// The heads with their pasts, by id. Meant for a view of a snapshot: of a chain that has forked each branch is told.
    pub fn head_pasts(&self) -> Vec<Head> {
        let name = |line| self.graph.name(line).to_vec();
        let mut heads: Vec<Head> = self
            .graph
            .head_pasts()
            .into_iter()
            .map(|(node, past)| {
                let known = self.graph.node(node);
                Head {
                    id: self.graph.id(node),
                    actor: name(known.line),
                    seq: known.seq.into(),
                    max_op: known.max_op.into(),
                    past: past.iter().map(|(line, seq)| (name(*line), u64::from(*seq))).collect(),
                }
            })
            .collect();
        heads.sort_unstable_by_key(|head| head.id);
        heads
    }

    /// All entries of the view as a snapshot, or why not now.
    pub fn pack(&self) -> Result<Vec<u8>, NotNow> {
        let Doc::Idle(doc) = &self.doc else { return Err(NotNow::Unflushed) };
        match (self.broken, self.queue.is_empty(), self.graph.is_forked()) {
            (true, ..) => Err(NotNow::Broken),
            (_, false, _) => Err(NotNow::Unflushed),
            (.., true) => Err(NotNow::Forked),
            _ => Ok(pack(&doc.save_nocompress(), LEVEL)),
        }
    }

    /// [`View::pack`] where the reason does not matter.
    pub fn to_snapshot(&self) -> Option<Vec<u8>> {
        self.pack().ok()
    }

    /// Loads a snapshot and checks rules S4 to S6 for every entry. Gives the entries grouped by chain, in order: the caller must
    /// find for each chain a verified tip with exactly these ids. Rule M1 is checked before the first remote entry (`View::verify`).
    pub fn from_snapshot(bytes: &[u8], caps: &SnapshotCaps) -> Result<(View, Vec<SnapshotEntry>), SnapshotFault> {
        let raw = unpack(bytes, caps)?;
        if let Some(caps) = &caps.document {
            walk_document(&raw, &Rules::V1, caps).map_err(SnapshotFault::Document)?;
        }
        let loaded = guarded(|| {
            let options = am::LoadOptions::new().text_encoding(am::TextEncoding::UnicodeCodePoint);
            Ok(am::Automerge::load_with_options(&raw, options))
        });
        let doc = match loaded {
            Ok(Ok(doc)) => doc,
            Ok(Err(e)) => return Err(SnapshotFault::Load(e.to_string())),
            Err(Broken) => return Err(SnapshotFault::Load("the library gave up".into())),
        };
        drop(raw);
        let (graph, checked) =
            guarded(|| Ok(graph_of(&doc))).unwrap_or(Err(SnapshotFault::Load("the library gave up".into())))?;
        if let Some(id) = checked.jump.filter(|_| !caps.foreign) {
            return Err(SnapshotFault::Rule { id, rule: "S5" });
        }
        let entries = checked.entries(&graph);
        Ok((View::over(doc, graph, None), entries))
    }
}

pub(super) fn pack(raw: &[u8], level: i32) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() / 4 + HEADER);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, ZSTD]);
    out.extend_from_slice(&(raw.len() as u64).to_le_bytes());
    let compress = || -> std::io::Result<Vec<u8>> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG))?;
        compressor.set_parameter(zstd::zstd_safe::CParameter::ContentSizeFlag(false))?;
        compressor.compress(raw)
    };
    match compress() {
        // What inflates beyond the ratio that readers take would be refused; it goes as it is.
        Ok(packed) if raw.len() <= RATIO_FREE_BYTES || raw.len() / 48 < packed.len() => out.extend(packed),
        _ => {
            out[5] = STORED;
            out.extend_from_slice(raw);
        }
    }
    out
}

fn unpack(bytes: &[u8], caps: &SnapshotCaps) -> Result<Vec<u8>, SnapshotFault> {
    let (header, content) = bytes.split_at_checked(HEADER).ok_or(SnapshotFault::Format)?;
    if &header[..4] != MAGIC || header[4] != VERSION {
        return Err(SnapshotFault::Format);
    }
    if bytes.len() > caps.packed_bytes_max {
        return Err(SnapshotFault::TooLarge { what: "snapshot", max: caps.packed_bytes_max });
    }
    let stated = u64::from_le_bytes(header[6..].try_into().expect("eight bytes are left of the header"));
    let max = caps.raw_bytes_max.min(RATIO_FREE_BYTES.max(caps.ratio_max.saturating_mul(content.len())));
    let stated = usize::try_from(stated).ok().filter(|stated| *stated <= max);
    let stated = stated.ok_or(SnapshotFault::TooLarge { what: "content", max })?;
    match header[5] {
        STORED if content.len() == stated => Ok(content.to_vec()),
        ZSTD => inflate(content, stated).ok_or(SnapshotFault::Inflate),
        _ => Err(SnapshotFault::Format),
    }
}

/// Inflates to exactly the stated length, which was checked; the stream is never asked for more than a byte beyond it.
fn inflate(content: &[u8], stated: usize) -> Option<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(content).ok()?;
    decoder.window_log_max(WINDOW_LOG).ok()?;
    // Grows as the bytes come: a stated length alone allocates nothing.
    let mut raw = Vec::new();
    decoder.take(stated as u64 + 1).read_to_end(&mut raw).ok()?;
    (raw.len() == stated).then_some(raw)
}

/// What the check of a loaded document found, besides its graph.
pub(super) struct Checked {
    authors: HashMap<NodeId, Vec<u8>>,
    /// An entry whose operation numbers exceed its past by more than one.
    jump: Option<EntryId>,
}

/// The graph of a loaded document, with rules S4 to S6 checked: one pass, and a walk only where an entry does not build directly
/// upon its chain's last.
pub(super) fn graph_of(doc: &am::Automerge) -> Result<(Graph, Checked), SnapshotFault> {
    let changes = doc.get_changes_meta(&[]);
    let mut graph = Graph::with_capacity(changes.len());
    let mut checked = Checked { authors: HashMap::new(), jump: None };
    let mut deps: Vec<NodeId> = Vec::new();
    let mut newest: Option<(&[u8], LineIdx)> = None;
    for change in &changes {
        let id = EntryId(change.hash.0);
        let broken = |rule| SnapshotFault::Rule { id, rule };
        deps.clear();
        for dep in &change.deps {
            deps.push(graph.find(&EntryId(dep.0)).ok_or(broken("S3"))?);
        }
        let name = change.actor.to_bytes();
        let line = match newest {
            Some((known, line)) if known == name => line,
            _ => graph.intern(name.try_into().map_err(|_| broken("S2"))?),
        };
        newest = Some((name, line));
        let last = graph.entries(line).last().copied();
        let seq = last.map_or(0, |last| u64::from(graph.node(last).seq)) + 1;
        let builds_on_own =
            last.is_none_or(|last| deps.contains(&last) || u64::from(graph.past(&deps).seq(line)) == seq - 1);
        if change.seq != seq || !builds_on_own {
            return Err(broken("S4"));
        }
        let past = u64::from(graph.max_op(&deps));
        let ops = (change.max_op + 1).checked_sub(change.start_op).ok_or(broken("S5"))?;
        let jump = change.start_op.checked_sub(past + 1).ok_or(broken("S5"))?;
        if jump > Rules::V1.foreign_jump_max || change.max_op >= Rules::V1.op_counter_end {
            return Err(broken("S5"));
        }
        if jump > 0 {
            checked.jump.get_or_insert(id);
        }
        if seq > 1 && !change.extra.is_empty() {
            return Err(broken("S6"));
        }
        let node = graph.push(id, line, change.start_op as u32, ops as u32, &deps, None);
        if seq == 1
            && let Some(author) = &change.author
        {
            checked.authors.insert(node, author.as_bytes().to_vec());
        }
    }
    Ok((graph, checked))
}

impl Checked {
    fn entries(mut self, graph: &Graph) -> Vec<SnapshotEntry> {
        // One line to each chain: what was loaded has no forks.
        let mut lines: Vec<LineIdx> = (0..graph.lines() as LineIdx).collect();
        lines.sort_unstable_by_key(|line| graph.name(*line));
        let mut entries = Vec::with_capacity(graph.len());
        for line in lines {
            let actor: Arc<[u8]> = graph.name(line).as_slice().into();
            for node in graph.entries(line) {
                let known = graph.node(*node);
                entries.push(SnapshotEntry {
                    id: graph.id(*node),
                    actor: actor.clone(),
                    seq: known.seq.into(),
                    start_op: known.start_op.into(),
                    max_op: known.max_op.into(),
                    deps: graph.deps(*node).iter().map(|dep| graph.id(*dep)).collect(),
                    author: if known.seq == 1 { self.authors.remove(node) } else { None },
                });
            }
        }
        entries
    }
}
