//! What one document may cost here, and the documents that turned out to cost more: they are neither loaded nor shown until somebody
//! releases them. Their entries are kept, taken and served as ever, for which no view is needed.

use std::collections::BTreeMap;
use std::fmt;

use commonhold_sync::id::{DocId, SpaceId};
use minicbor::{Decode, Encode};

/// Version of the rows that are written; others are left alone.
const ROW_VERSION: u32 = 1;

/// What one document may cost; `None`: any amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DocumentBudget {
    /// At most so many changes, of all chains.
    pub changes: Option<u64>,
    /// At most so many operations in its view.
    pub ops: Option<u64>,
    /// At most so many bytes in the store: its snapshot, and what is kept beside it. Looked at when it is loaded.
    pub bytes: Option<u64>,
    /// At most so many bytes of memory for its view, as the engine estimates them.
    pub memory_bytes: Option<u64>,
}

/// Something that a document costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Measure {
    /// Changes.
    #[n(0)]
    Changes,
    /// Operations.
    #[n(1)]
    Operations,
    /// Bytes in the store.
    #[n(2)]
    Bytes,
    /// Bytes of memory.
    #[n(3)]
    Memory,
}

/// How a document is over its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Excess {
    /// Of what there is too much.
    #[n(0)]
    pub measure: Measure,
    /// How much there is.
    #[n(1)]
    pub is: u64,
    /// How much there may be.
    #[n(2)]
    pub max: u64,
}

/// A document that is, or was, over its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Quarantined {
    #[n(0)]
    version: u32,
    /// Since when, in milliseconds since 1970 by this machine's clock.
    #[n(1)]
    pub since_ms: u64,
    /// How.
    #[n(2)]
    pub excess: Excess,
    /// Somebody has released it: it has no budget any more.
    #[n(3)]
    pub released: bool,
}

impl DocumentBudget {
    /// Whether it allows everything.
    pub(crate) fn is_none(&self) -> bool {
        *self == DocumentBudget::default()
    }

    /// The first of these that is too much.
    pub(crate) fn excess(&self, costs: impl IntoIterator<Item = (Measure, u64)>) -> Option<Excess> {
        let excess = |(measure, is)| {
            let max = match measure {
                Measure::Changes => self.changes,
                Measure::Operations => self.ops,
                Measure::Bytes => self.bytes,
                Measure::Memory => self.memory_bytes,
            };
            max.filter(|max| is > *max).map(|max| Excess { measure, is, max })
        };
        costs.into_iter().find_map(excess)
    }
}

impl Quarantined {
    pub(crate) fn new(excess: Excess, since_ms: u64) -> Quarantined {
        Quarantined { version: ROW_VERSION, since_ms, excess, released: false }
    }

    pub(crate) fn release(self) -> Quarantined {
        Quarantined { released: true, ..self }
    }

    /// Whether this program knows what the row says.
    pub(crate) fn is_known(&self) -> bool {
        self.version == ROW_VERSION
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.measure {
            Measure::Changes => "changes",
            Measure::Operations => "operations",
            Measure::Bytes => "bytes in the store",
            Measure::Memory => "bytes of memory",
        };
        write!(f, "{} {what}, and may have {}", self.is, self.max)
    }
}

/// All that are known. Each is larger than a budget, so that their number is bounded by what is stored.
pub(crate) type Quarantine = BTreeMap<(SpaceId, DocId), Quarantined>;
