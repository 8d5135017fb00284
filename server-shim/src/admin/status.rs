//! How a peer is: one look at everything that metrics, JSON and page show.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use commonhold_engine::Node;
use rustix::fs::statvfs;
use serde::Serialize;

use crate::config::Settings;
use crate::http::Counted;
use crate::operate::STORE_FILE;
use crate::shim::webhooks::{Hooks, Told};

/// Spaces that are told of one by one; the rest is in the sums.
const SPACES_MAX: usize = 100;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    pub(crate) peer: String,
    pub(crate) store: String,
    pub(crate) version: &'static str,
    pub(crate) uptime_s: u64,
    pub(crate) addresses: Vec<String>,
    /// Connected, and known.
    pub(crate) peers: u64,
    pub(crate) peers_known: u64,
    /// Peers that share a space and are not level in it, summed over spaces: what lags.
    pub(crate) behind: u64,
    /// With content, and deleted ones.
    pub(crate) documents: u64,
    pub(crate) store_bytes: u64,
    pub(crate) disk_free_bytes: u64,
    pub(crate) blobs: u64,
    pub(crate) blob_bytes: u64,
    pub(crate) spaces: Vec<Space>,
    pub(crate) network: Network,
    pub(crate) http: Http,
    /// All zero where they are not switched on.
    pub(crate) webhooks: Told,
    /// Resident memory of this process, bytes; 0 where the system does not tell.
    pub(crate) memory_bytes: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Space {
    pub(crate) id: String,
    pub(crate) ready: bool,
    pub(crate) documents: u64,
    /// Last number of the store's sequence.
    pub(crate) sequence: u64,
    /// Connected peers that share it, and those of them that are not level.
    pub(crate) peers: u64,
    pub(crate) behind: u64,
    pub(crate) blobs: u64,
    pub(crate) blob_bytes: u64,
    /// Documents that are not shown because they cost too much.
    pub(crate) quarantined: u64,
    /// What counts for its quota.
    pub(crate) stored_bytes: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Network {
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) pushed: u64,
    pub(crate) metered: bool,
    /// Spent today (UTC), and what may be.
    pub(crate) metered_bytes: u64,
    pub(crate) metered_max: Option<u64>,
    pub(crate) background_bytes: u64,
    pub(crate) background_max: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Http {
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    /// Answered with 5xx.
    pub(crate) failures: u64,
}

/// What the plots keep of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    /// Milliseconds since 1970.
    at_ms: u64,
    peers: u64,
    behind: u64,
    documents: u64,
    store_bytes: u64,
    blob_bytes: u64,
    sent_bytes: u64,
    received_bytes: u64,
    requests: u64,
    memory_bytes: u64,
}

impl Status {
    pub(crate) async fn of(
        node: &Node,
        settings: &Settings,
        counted: &Counted,
        hooks: Option<&Hooks>,
        since: Instant,
    ) -> Status {
        let (mut spaces, mut behind, mut documents) = (Vec::new(), 0, 0);
        let (mut blobs, mut blob_bytes) = (0, 0);
        for info in node.spaces() {
            // A space that went meanwhile shares nothing.
            let sharing = node.sharing(info.id).unwrap_or_default();
            let lag = sharing.iter().filter(|(_, level)| !level).count() as u64;
            let held = node.blobs(info.id).await.unwrap_or_default();
            let bytes: u64 = held.iter().map(|held| held.blob.size).sum();
            let quarantine = node.quarantine(info.id);
            behind += lag;
            documents += info.documents;
            blobs += held.len() as u64;
            blob_bytes += bytes;
            if spaces.len() < SPACES_MAX {
                spaces.push(Space {
                    id: info.id.to_string(),
                    ready: info.ready,
                    documents: info.documents,
                    sequence: info.seq,
                    peers: sharing.len() as u64,
                    behind: lag,
                    blobs: held.len() as u64,
                    blob_bytes: bytes,
                    quarantined: quarantine.values().filter(|row| !row.released).count() as u64,
                    stored_bytes: info.stored.bytes,
                });
            }
        }
        let (traffic, budget) = (node.traffic(), *node.budget().borrow());
        let webhooks = match hooks {
            Some(hooks) => hooks.told().await,
            None => Told::default(),
        };
        let data = settings.data();
        let free = statvfs(&data).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
        Status {
            peer: node.device().to_string(),
            store: node.store_id().to_string(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: since.elapsed().as_secs(),
            addresses: node.listening(),
            peers: node.peers().len() as u64,
            peers_known: node.known_peers().len() as u64,
            behind,
            documents,
            store_bytes: std::fs::metadata(data.join(STORE_FILE)).map_or(0, |facts| facts.len()),
            disk_free_bytes: free,
            blobs,
            blob_bytes,
            spaces,
            network: Network {
                sent_bytes: traffic.sent_bytes,
                received_bytes: traffic.received_bytes,
                delivered: traffic.delivered,
                duplicates: traffic.duplicates,
                pushed: traffic.pushed,
                metered: budget.metered,
                metered_bytes: budget.metered_bytes,
                metered_max: budget.metered_max,
                background_bytes: budget.background_bytes,
                background_max: budget.background_max,
            },
            http: Http {
                connections: counted.connections(),
                requests: counted.requests(),
                failures: counted.failures(),
            },
            webhooks,
            memory_bytes: memory(),
        }
    }

    pub(crate) fn sample(&self) -> Sample {
        Sample {
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            peers: self.peers,
            behind: self.behind,
            documents: self.documents,
            store_bytes: self.store_bytes,
            blob_bytes: self.blob_bytes,
            sent_bytes: self.network.sent_bytes,
            received_bytes: self.network.received_bytes,
            requests: self.http.requests,
            memory_bytes: self.memory_bytes,
        }
    }
}

/// Linux tells it in pages, behind the first word.
fn memory() -> u64 {
    let told = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = told.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}
