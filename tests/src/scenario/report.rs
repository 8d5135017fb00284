//! One line of JSON with the keys that apply.

use serde::Serialize;

/// Figures of one scenario. Absent keys do not apply to it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Which scenario.
    pub name: String,
    /// Documents, subscribers, connections or changes, as the scenario has them.
    pub size: u64,
    /// Time of the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Time of the obvious alternative (cold-big: a plain `Automerge::load`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_seconds: Option<f64>,
    /// Time of what cannot be avoided, in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_seconds: Option<f64>,
    /// `seconds / floor_seconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_ratio: Option<f64>,
    /// Bytes that the peer received, on the wire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_bytes: Option<u64>,
    /// Bytes that the peer sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_bytes: Option<u64>,
    /// Uncompressed raw change bytes of what was missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<u64>,
    /// Automerge's own compressed save of the same document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_bytes: Option<u64>,
    /// Turns of the wire until the work was done, the handshake's left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trips: Option<f64>,
    /// Turns of the wire of the handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_round_trips: Option<f64>,
    /// Processor time of the origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_cpu_s: Option<f64>,
    /// Resident memory of the origin afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_rss_kb: Option<u64>,
    /// How much of it the work added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_rss_growth_kb: Option<i64>,
    /// The same for each connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kb_per_connection: Option<f64>,
    /// Median latency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// The latency that one in a hundred exceeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// Bytes that the origin sent for each edit that reached a subscriber.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_delivery: Option<f64>,
    /// Copies of a payload that a peer received live, for each one that was new to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies_per_delivery: Option<f64>,
    /// Bytes that the origin sent while others spread one edit, everything else it said meanwhile included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_bytes_per_update: Option<f64>,
    /// Changes a second, acknowledged and durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_s: Option<f64>,
    /// From an edit to a page that follows the document, the latency that one in a hundred exceeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse_p99_ms: Option<f64>,
    /// Time until a stock JavaScript client has all documents of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_seconds: Option<f64>,
    /// The same, of the stock JavaScript server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stock_seconds: Option<f64>,
    /// `gateway_seconds / stock_seconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_ratio: Option<f64>,
    /// Time until a native peer has the same documents on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_seconds: Option<f64>,
    /// Processor time of the client while it got them from the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cpu_s: Option<f64>,
    /// Acknowledged changes that a kill -9 lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_after_kill: Option<u64>,
    /// Time of the same bytes over one plain TCP stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_seconds: Option<f64>,
    /// Throughput, for what one peer alone gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_ratio: Option<f64>,
    /// What of the bytes that had come before a kill -9 was there after it (a little more, where pieces came in between).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_share: Option<f64>,
    /// Pieces that the origin sent to a swarm, for those of one copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_copies: Option<f64>,
    /// Time until the last of the swarm had it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swarm_seconds: Option<f64>,
    /// Time from start to ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_seconds: Option<f64>,
}

impl Report {
    /// Sets the floor and the ratio to it.
    pub fn set_floor(&mut self, seconds: f64) {
        self.floor_seconds = Some(seconds);
        self.floor_ratio = self.seconds.map(|s| s / seconds);
    }

    /// Sets median and 99th percentile from latencies in milliseconds.
    pub fn set_latencies(&mut self, mut ms: Vec<f64>) {
        ms.sort_by(f64::total_cmp);
        let at = |share: f64| ms.get(((ms.len() as f64 * share) as usize).min(ms.len().saturating_sub(1))).copied();
        self.p50_ms = at(0.50);
        self.p99_ms = at(0.99);
    }
}
