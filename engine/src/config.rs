//! How a node is opened.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use commonhold_sync::id::DeviceId;
use commonhold_sync::limits::Limits;
use commonhold_sync::message::roles;
use commonhold_sync::usage::Quotas;
use tokio::sync::mpsc;

use crate::blobs::{BlobLimits, BlobStore};
use crate::budget::Budgets;
use crate::gate::Knock;
use crate::quarantine::DocumentBudget;
use crate::store::{Store, StoreError};
use crate::tracker::http::HttpTracker;
#[cfg(feature = "tls")]
use crate::transport::tls::Tls;
use crate::transport::{Address, Sockets};

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
    /// Sockets that this process was given: one that is bound to a WebSocket address of `listen` is used there.
    pub sockets: Sockets,
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
    /// How much may be stored at the start ([`Node::set_quotas`](crate::Node::set_quotas) changes it).
    pub quotas: Quotas,
    /// What one document may cost.
    pub document_budget: DocumentBudget,
    /// Bytes that may go to and come from one address in a day (UTC), at the start; `None`: any number.
    pub address_bytes_max: Option<u64>,
    /// What the network may cost.
    pub budgets: Budgets,
    /// Whether the network costs something at the start ([`Node::set_metered`](crate::Node::set_metered) changes it).
    pub metered: bool,
    /// Bits of [`roles`]; [`Discovery::tracker`] and [`Budgets::serving`] add theirs.
    pub roles: u64,
    /// Who is asked about each connection, once its other side has proven who it is; `None`: all are kept that nothing else speaks
    /// against. While an answer is awaited nothing is told to the other side; it may take 10 s
    /// ([`Limits::handshake_ms`](commonhold_sync::limits::Limits)). With no room in the channel, a connection is not kept.
    pub gate: Option<mpsc::Sender<Knock>>,
    /// How it finds others and lets itself be found.
    pub discovery: Discovery,
    /// Name and version of the program, for people.
    pub agent: String,
    /// The certificate to listen with, and the roots to dial with, for `wss://` addresses and trackers at `https://`.
    #[cfg(feature = "tls")]
    pub tls: Tls,
    /// Another store than the one in `data`, for simulators. It has no lineage: every open is a fresh run of its id.
    pub store: Option<OpenStore>,
}

/// How a peer finds others and lets itself be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// False is private mode: nothing is announced, exchanged or looked for. Who was configured, or named in an invite that was taken, is
    /// dialled; whoever knows an address and may connect ([`Discovery::allowed`]) connects.
    pub on: bool,
    /// The only devices that connections are kept with, beside those that [`Config::connect`] and invites that were taken name; `None`:
    /// all.
    pub allowed: Option<BTreeSet<DeviceId>>,
    /// Trackers reached over HTTP. Others are peers: put them in [`Config::connect`].
    pub trackers: Vec<HttpTracker>,
    /// Whether this peer is a tracker for others.
    pub tracker: bool,
    /// Whether to look on the local network, and be found there.
    pub lan: Option<Lan>,
}

/// The local network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lan {
    /// Names of the interfaces that are used; empty: all but loopback.
    pub interfaces: Vec<String>,
}

impl Default for Discovery {
    /// On, with nobody to ask but connected peers that are trackers.
    fn default() -> Self {
        Discovery { on: true, allowed: None, trackers: Vec::new(), tracker: false, lan: None }
    }
}

impl Config {
    /// Bits of [`roles`] that others are told.
    pub(crate) fn roles(&self) -> u64 {
        let leaf = if self.roles & roles::SAVER != 0 { roles::LEAF } else { 0 };
        self.roles | leaf | self.budgets.roles() | if self.discovery.tracker { roles::TRACKER } else { 0 }
    }

    /// The devices that connections are kept with, as far as the configuration names them.
    pub(crate) fn allowed(&self) -> Option<BTreeSet<DeviceId>> {
        let named = self.connect.iter().filter_map(|(_, device)| *device);
        Some(self.discovery.allowed.as_ref()?.iter().copied().chain(named).collect())
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data: None,
            keys: None,
            listen: Vec::new(),
            sockets: Sockets::default(),
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
            quotas: Quotas::default(),
            document_budget: DocumentBudget::default(),
            address_bytes_max: None,
            budgets: Budgets::default(),
            metered: false,
            roles: roles::STORE | roles::RELAY,
            gate: None,
            discovery: Discovery::default(),
            agent: concat!("commonhold/", env!("CARGO_PKG_VERSION")).to_owned(),
            #[cfg(feature = "tls")]
            tls: Tls::default(),
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
