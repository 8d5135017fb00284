//! Changes written anew with one part replaced: what liars in the simulator sign.

use core::num::NonZeroU64;

use automerge::{Change, ChangeHash};

use commonhold_sync::id::EntryId;

/// What is replaced.
pub(crate) enum Part {
    /// The number in its chain, by the one after the next.
    SeqSkips,
    /// The counter of its first operation.
    StartOp(NonZeroU64),
    /// What it builds upon.
    Deps(Vec<EntryId>),
    /// When it says that it was made.
    Time(i64),
}

/// The bytes of the change with that part replaced. `None` if these are no change.
pub(crate) fn rewritten(bytes: &[u8], part: Part) -> Option<Vec<u8>> {
    let mut change = Change::try_from(bytes).ok()?.decode();
    match part {
        Part::SeqSkips => change.seq += 1,
        Part::StartOp(start) => change.start_op = start,
        Part::Deps(deps) => change.deps = deps.into_iter().map(|id| ChangeHash(id.0)).collect(),
        Part::Time(time) => change.time = time,
    }
    Some(Change::from(change).raw_bytes().to_vec())
}
