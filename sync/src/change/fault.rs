//! What can be wrong with a chunk, one variant per rule.

/// A chunk that breaks a rule. The deliverer had to check it, so the deliverer is charged.
///
/// The numbers in the codes are those of the admission rules (S1–S6) in the protocol's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The first four bytes are not Automerge's.
    #[error("not an automerge chunk")]
    Magic,
    /// A deflated change, or a deflated column.
    #[error("compressed by automerge, where only raw bytes are allowed")]
    Compressed,
    /// Another type of chunk than the one asked for.
    #[error("chunk of type {0} where another was due")]
    ChunkType(u8),
    /// The chunk as a whole is larger than allowed.
    #[error("chunk larger than allowed")]
    Bytes,
    /// Something ends before or after the place that its declared length says.
    #[error("declared length and bytes differ")]
    Length,
    /// The checksum is not the start of the hash.
    #[error("checksum does not match the content")]
    Checksum,
    /// A LEB128 number that overflows or is longer than it needs to be.
    #[error("number out of range or not in its shortest form")]
    Number,
    /// A string that is not UTF-8.
    #[error("string is not utf-8")]
    Utf8,
    /// More dependencies than allowed.
    #[error("too many dependencies")]
    Deps,
    /// Dependencies out of order or named twice.
    #[error("dependencies not sorted and distinct")]
    DepsOrder,
    /// The author of a change whose id is not 16 bytes long, or another actor with neither 16 nor 32.
    #[error("actor id is not 16 bytes long, or 32 where a branch is located")]
    ActorLength,
    /// More actors than allowed.
    #[error("too many actors")]
    Actors,
    /// Other actors out of order, named twice, equal to the author, or used by no operation; in a document, an actor without
    /// a change.
    #[error("other actors not sorted, distinct and each in use")]
    ActorsOrder,
    /// An operation names an actor that the chunk does not list.
    #[error("actor index out of range")]
    ActorIndex,
    /// Sequence number 0, or beyond the range of counters.
    #[error("sequence number out of range")]
    Seq,
    /// Operation counters that start at 0 or pass the end of their range.
    #[error("operation counters out of range")]
    Counter,
    /// A timestamp that Automerge cannot keep next to every other one.
    #[error("timestamp out of range")]
    Timestamp,
    /// A commit message larger than allowed.
    #[error("message too long")]
    Message,
    /// Bytes after the columns that are not exactly an author footer, or a footer on a later change than the first.
    #[error("author footer malformed or misplaced")]
    Author,
    /// A column that Automerge does not write, twice, out of order, or empty.
    #[error("unknown, repeated, misplaced or empty column {0:#x}")]
    Column(u64),
    /// A column that decodes, but to which Automerge would give other bytes.
    #[error("column is not in the form that automerge writes")]
    Encoding,
    /// Columns that disagree about the number of rows.
    #[error("columns differ in their number of rows")]
    Rows,
    /// More operations than allowed.
    #[error("too many operations")]
    Ops,
    /// More predecessors than allowed.
    #[error("too many predecessors")]
    Preds,
    /// Predecessors out of order or named twice.
    #[error("predecessors not sorted and distinct")]
    PredsOrder,
    /// An operation id that is half missing, has counter 0, or does not come before the operation that names it.
    #[error("operation id malformed or not earlier than the operation that names it")]
    Id,
    /// A key that is neither a map key nor a place in a list, or of the wrong sort for its operation.
    #[error("key malformed or of the wrong sort")]
    Key,
    /// A map key or mark name larger than allowed.
    #[error("map key or mark name too long")]
    KeyBytes,
    /// A value whose bytes do not fit its type.
    #[error("value malformed")]
    Value,
    /// A value larger than allowed.
    #[error("value too large")]
    ValueBytes,
    /// An unknown action, or a table, whose contents Automerge 0.12 cannot apply.
    #[error("unknown action {0}")]
    Action(u64),
    /// A combination of fields that Automerge never writes and would not keep.
    #[error("fields of the operation contradict its action")]
    Shape,
    /// A mark end that does not directly follow its begin in the same object, or would stand before it there.
    #[error("mark end without its begin before it")]
    Mark,
    /// A document with more changes than allowed.
    #[error("too many changes")]
    Changes,
    /// A document whose change graph points forwards or out of itself.
    #[error("dependency of a change out of range")]
    Graph,
    /// A document that would take too much memory to load.
    #[error("too costly to load")]
    Memory,
}

impl Fault {
    /// A short name that is stable across releases, for logs, metrics and the wire.
    pub fn code(&self) -> &'static str {
        match self {
            Fault::Magic => "S1.magic",
            Fault::Compressed => "S1.compressed",
            Fault::ChunkType(_) => "S1.type",
            Fault::Bytes => "S2.bytes",
            Fault::Length => "S2.length",
            Fault::Checksum => "S2.checksum",
            Fault::Number => "S2.number",
            Fault::Utf8 => "S2.utf8",
            Fault::Deps => "S2.deps",
            Fault::DepsOrder => "S3.deps-order",
            Fault::ActorLength => "S2.actor-length",
            Fault::Actors => "S2.actors",
            Fault::ActorsOrder => "S2.actors-order",
            Fault::ActorIndex => "S2.actor-index",
            Fault::Seq => "S4.seq",
            Fault::Counter => "S5.counter",
            Fault::Timestamp => "S6.timestamp",
            Fault::Message => "S2.message",
            Fault::Author => "S6.author",
            Fault::Column(_) => "S2.column",
            Fault::Encoding => "S2.encoding",
            Fault::Rows => "S2.rows",
            Fault::Ops => "S2.ops",
            Fault::Preds => "S2.preds",
            Fault::PredsOrder => "S2.preds-order",
            Fault::Id => "S2.id",
            Fault::Key => "S2.key",
            Fault::KeyBytes => "S2.key-bytes",
            Fault::Value => "S2.value",
            Fault::ValueBytes => "S2.value-bytes",
            Fault::Action(_) => "S2.action",
            Fault::Shape => "S2.shape",
            Fault::Mark => "S2.mark",
            Fault::Changes => "S2.changes",
            Fault::Graph => "S2.graph",
            Fault::Memory => "S2.memory",
        }
    }
}
