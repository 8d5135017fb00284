//! What apps embed: Automerge documents that peers share, offline and directly.
//!
//! Start at [`Node::open`]; docs/embedding.md tells the rest in order. The pure core is `commonhold_sync`; this crate gives
//! it meaning (views of documents) and lets it out into the world (tokio, disk, network).

mod address_book;
mod addresses;
pub mod backoff;
pub mod backup;
pub mod blobs;
mod block;
mod budget;
mod bundle;
mod check;
mod config;
mod contain;
pub mod device;
mod dial;
mod discovery;
pub mod document;
mod document_handle;
mod driver;
mod erasure;
mod error;
mod foreign;
mod foreign_sync;
mod gate;
mod invite;
pub mod lineage;
pub mod local;
mod members;
mod node;
mod open_document;
mod quarantine;
mod receipts;
mod shared;
#[cfg(feature = "simulator")]
pub mod sim;
mod start;
mod status;
pub mod storage;
pub mod store;
mod succession;
#[cfg(test)]
mod tests;
mod tracker;
pub mod transport;
mod watch;
mod worker;
mod writer;

pub use commonhold_sync as sync;
pub use commonhold_sync::authority::{Edge, EdgeKind};
pub use commonhold_sync::id::{ChainId, DeviceId, DocId, EntryId, SpaceId, StoreId};
pub use commonhold_sync::limits::Limits;
pub use commonhold_sync::peer::Keep;
pub use commonhold_sync::record::{Right, Subject, Writers};
pub use commonhold_sync::storage_receipt::StorageReceipt;
pub use commonhold_sync::usage::{Quota, Quotas, UNSIGNED, Usage, UsageOf};

pub use address_book::KnownPeer;
pub use addresses::{AddressMeter, AddressUsage};
pub use blobs::{Blob, BlobFetch, BlobLimits, BlobProgress, BlobReader, BlobRef, BlobStore};
pub use block::{BlockList, BlockSubject, BlockedInfo};
pub use budget::{BudgetInfo, Budgets, Serving};
pub use bundle::{ExportReport, ImportReport};
pub use check::CheckReport;
pub use config::{Config, Discovery, Lan, OpenStore};
pub use contain::panics_are_contained;
pub use document::{
    Alternative, BadMessage, ChangeInfo, Cursor, DamagedPiece, Edit, EditError, Element, ObjId, ObjKind, Patch,
    PatchAction, Prop, Scalar, StoredChanges, View, Wanted,
};
pub use document_handle::{Document, Path, Version};
pub use erasure::Erasure;
pub use error::{EditFailure, Error, OpenError};
pub use foreign_sync::{ForeignSync, ForeignSyncError, Received, Wants, wants};
pub use gate::Knock;
pub use invite::{Invite, InviteError};
pub use lineage::Outcome;
pub use node::Node;
pub use quarantine::{DocumentBudget, Excess, Measure, Quarantined};
pub use status::{Cost, NodeEvent, PeerInfo, SpaceInfo, SyncStatus, TrafficInfo};
pub use storage::{DocumentChange, DocumentChanges, DocumentInfo, DocumentQuery};
pub use succession::Succession;
pub use tracker::http::{HttpTracker, HttpTrackerError};
pub use tracker::{ANNOUNCE_JSON_MAX, AnnounceAnswer, AnnounceError, AnnounceRequest, FoundPeer};
#[cfg(feature = "tls")]
pub use transport::tls;
pub use transport::{Address, Sockets};
pub use watch::{Change, Origin, Watch};
