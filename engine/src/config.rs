//! How a node is opened.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use commonhold_sync::id::DeviceId;
use commonhold_sync::limits::Limits;
use commonhold_sync::message::roles;

use crate::blobs::{BlobLimits, BlobStore};
use crate::store::{Store, StoreError};
use crate::transport::Address;

/// Opens a store, each time anew: after a failure it is asked again.
pub type OpenStore = Arc<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// How a node is opened. `Config::default()` is a peer in memory that listens nowhere.
#[derive(Clone)]
pub struct Config {
    /// Folder of the store; `None`: everything in memory.
    pub data: Option<PathBuf>,
    /// Folder of the device's secret, outside `data`; `None`: a device for this run only.
    pub keys: Option<PathBuf>,
    /// Where to listen; port 0 lets the system choose.
    pub listen: Vec<Address>,
    /// Where others are told to dial; if empty, the addresses bound.
    pub advertise: Vec<String>,
    /// Peers that are kept dialled, with whom they must be, if that is known.
    pub connect: Vec<(Address, Option<DeviceId>)>,
    /// Whether peers whose invites were taken are dialled, at once and at each later start.
    pub dial_invites: bool,
    /// Milliseconds for which edits are gathered into one change. The first after quiet leaves at once.
    pub flush_ms: u64,
    /// Milliseconds between two updates of a view by others' edits. The first after quiet comes at once.
    pub frame_ms: u64,
    /// Memory of the store for pages, bytes.
    pub cache_bytes: usize,
    /// Memory for views of documents that nobody holds a handle of any more, bytes (estimated).
    pub view_bytes: usize,
    /// How much blobs may take, and what goes first.
    pub blobs: BlobLimits,
    /// Another place for blobs than the folder `blobs` in `data`, for simulators.
    pub blob_store: Option<Arc<dyn BlobStore>>,
    /// Bounds of the protocol.
    pub limits: Limits,
    /// Bits of [`roles`].
    pub roles: u64,
    /// Name and version of the program, for people.
    pub agent: String,
    /// Another store than the one in `data`, for simulators. It has no lineage: every open is a fresh run of its id.
    pub store: Option<OpenStore>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data: None,
            keys: None,
            listen: Vec::new(),
            advertise: Vec::new(),
            connect: Vec::new(),
            dial_invites: true,
            // A keystroke each 50 ms is fast typing: a word or two share a change, and nobody sees the wait.
            flush_ms: 50,
            // One frame of a screen.
            frame_ms: 16,
            // The cache of the system comes on top of it.
            cache_bytes: 16 << 20,
            view_bytes: 64 << 20,
            blobs: BlobLimits::default(),
            blob_store: None,
            limits: Limits::default(),
            roles: roles::STORE | roles::RELAY,
            agent: concat!("commonhold/", env!("CARGO_PKG_VERSION")).to_owned(),
            store: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("data", &self.data)
            .field("keys", &self.keys)
            .field("listen", &self.listen)
            .field("connect", &self.connect)
            .finish_non_exhaustive()
    }
}
