//! The document as the application sees it: Automerge over the entries that the rules let in.
//!
//! This is the only module that names Automerge. Its types stay inside: what goes in and out is raw entries, ids, JSON, and types of
//! ours. Nothing here does I/O, knows of peers, or checks tips and rights: `commonhold_sync` has done that before.
//!
//! The way in for others' entries: [`View::apply_remote`] → `admit` (rule M1, over `graph` and `op_index`) → one guarded batch
//! (rule M2). Where chains have forked, `naming` and `renaming` stand before the library, so that it sees no fork. The way out for edits: [`View::edit`] → [`View::flush`]. `snapshot` packs a whole view and unpacks it without trust. `sync_message` and
//! `sync_state` talk with clients of Automerge.

mod admit;
mod base;
mod compare;
mod content;
mod cursor;
mod diff;
mod edit;
mod graph;
mod ids;
mod local;
mod naming;
mod op_index;
pub mod patch;
mod read;
mod reconcile_json;
mod remake;
mod renaming;
#[cfg(feature = "simulator")]
pub(crate) mod rewritten;
mod snapshot;
mod stored;
pub(crate) mod sync_message;
pub(crate) mod sync_state;
#[cfg(test)]
mod tests;
mod value;
mod view;
mod wanted;

pub use admit::Fault;
pub use content::Content;
pub use cursor::{Cursor, NotACursor};
pub use edit::{Edit, EditError, Expand};
pub use local::{ChainAuthor, LocalEntry};
pub use patch::{MarkSpan, Patch, PatchAction, PatchMismatch};
pub use read::{Alternative, ChangeInfo};
pub use reconcile_json::ScalarString;
pub use remake::{ReadLog, Reloaded};
pub use snapshot::{Head, NotNow, SnapshotCaps, SnapshotEntry, SnapshotFault};
pub use stored::{DamagedPiece, StoredChanges};
pub use sync_message::{BadMessage, MESSAGE_BYTES_MAX};
pub use value::{ObjId, ObjKind, Prop, Scalar, Value};
pub use view::{Applied, Broken, Cost, View};
pub use wanted::{Element, Wanted};
