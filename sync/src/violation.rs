//! What a deliverer must not send. Each has a stable code (docs/protocol.md, "Violations").

use crate::change::Fault;
use crate::record::RecordError;

/// A fault that whoever delivered the bytes had to notice, and for which its connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Numbers of a segment do not fit its entries.
    #[error("a segment's numbers do not fit its entries")]
    SegmentShape,
    /// The tip does not verify over the entries.
    #[error("the tip does not verify over the entries")]
    BadTip,
    /// A change breaks a structural rule.
    #[error("a change breaks a structural rule: {0}")]
    Change(#[from] Fault),
    /// A fork proof that proves nothing.
    #[error("a fork proof does not verify")]
    BadProof,
    /// The change's actor is not its chain's.
    #[error("a change names another actor than its chain's")]
    WrongActor,
    /// The change's sequence number is not its place in the chain.
    #[error("a change's sequence number is not its place in the chain")]
    WrongSeq,
    /// The change does not build on its own predecessor.
    #[error("a change does not have its chain's previous entry in its past")]
    PredecessorNotInPast,
    /// `start_op` is not one more than the highest operation of the past.
    #[error("a change starts at operation {found}; its past ends at {past}")]
    WrongStartOp {
        /// As the change says.
        found: u64,
        /// Highest operation of its past.
        past: u64,
    },
    /// The author footer names another device than the tip.
    #[error("a change claims another author than the device that signed it")]
    WrongAuthor,
    /// A record does not decode.
    #[error("a record does not decode: {0}")]
    Record(#[from] RecordError),
    /// A handle was used before it was defined, or out of range.
    #[error("a handle was used that was not defined")]
    UnknownHandle,
    /// More items in a list than the protocol allows.
    #[error("a list has more items than the protocol allows")]
    ListTooLong,
    /// A message came at a time when the protocol has no place for it.
    #[error("{0}")]
    OutOfPlace(&'static str),
    /// A piece of a blob does not verify.
    #[error("a piece of a blob does not verify")]
    BadPiece,
    /// A snapshot does not hold what its tips say.
    #[error("a snapshot does not hold what its tips say: {0}")]
    BadSnapshot(String),
}

impl Violation {
    /// Stable code of the rule broken.
    pub fn code(&self) -> &'static str {
        match self {
            Violation::SegmentShape => "T3.shape",
            Violation::BadTip => "T2.tip",
            Violation::BadProof => "T2.proof",
            Violation::BadPiece => "T4.piece",
            Violation::Change(fault) => fault.code(),
            Violation::WrongActor => "S4.actor",
            Violation::WrongSeq => "S4.seq",
            Violation::PredecessorNotInPast => "S4.past",
            Violation::WrongStartOp { .. } => "S5.start_op",
            Violation::WrongAuthor => "S6.author",
            Violation::Record(_) => "S2.record",
            Violation::UnknownHandle => "P.handle",
            Violation::ListTooLong => "P.list",
            Violation::OutOfPlace(_) => "P.order",
            Violation::BadSnapshot(_) => "S1.snapshot",
        }
    }
}
