//! The two kinds of bound: [`Rules`], which all peers of a space share for ever, and [`Limits`], which are local policy.

/// Constants of one rules version. They decide validity, so they are named in the genesis and never configured.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    /// Raw bytes of one change, chunk header included.
    pub change_bytes_max: usize,
    /// Operations in one change.
    pub change_ops_max: u64,
    /// Dependencies of one change.
    pub deps_max: usize,
    /// Actors named by one change, its own included.
    pub actors_max: usize,
    /// Bytes of one value (string, bytes, unknown).
    pub value_bytes_max: usize,
    /// Bytes of one map key or mark name.
    pub key_bytes_max: usize,
    /// Highest operation counter, exclusive. Automerge keeps counters in 32 bits and breaks near the top.
    pub op_counter_end: u64,
    /// How far `start_op` of a foreign chain may exceed the highest operation of its past.
    pub foreign_jump_max: u64,
    /// Objects inside each other, below the root. Who reads a document walks it recursively, on a stack.
    pub depth_max: u32,
}

impl Rules {
    /// Rules version 1.
    pub const V1: Rules = Rules {
        change_bytes_max: 1 << 20,
        change_ops_max: 65_536,
        deps_max: 64,
        actors_max: 256,
        value_bytes_max: 256 << 10,
        key_bytes_max: 1 << 10,
        op_counter_end: 1 << 31,
        foreign_jump_max: 1 << 20,
        depth_max: 100,
    };

    /// The rules that a genesis names, if this engine knows them.
    pub fn of_version(version: u32) -> Option<&'static Rules> {
        (version == 1).then_some(&Rules::V1)
    }
}

/// Local bounds. Reaching one is a normal event: "not held here, try later", never "invalid".
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// One transport frame: one or more Noise messages.
    pub frame_bytes_max: usize,
    /// One protocol message. A segment of a chain under one tip must fit.
    pub message_bytes_max: usize,
    /// One message or snapshot after inflation.
    pub inflated_bytes_max: usize,
    /// Inflated bytes allowed per compressed byte.
    pub inflate_ratio_max: usize,
    /// Entries that wait for their past or for authority, per delivering peer.
    pub waiting_bytes_per_peer: usize,
    /// The same over all peers; the heaviest peer's are dropped first.
    pub waiting_bytes_total: usize,
    /// Age at which a waiting entry is dropped.
    pub waiting_ms: u64,
    /// Asked-for bytes in flight from one peer.
    pub in_flight_bytes_per_peer: usize,
    /// Unsolicited entries a second from one peer.
    pub unsolicited_entries_per_s: u32,
    /// Unsolicited bytes a second from one peer.
    pub unsolicited_bytes_per_s: u32,
    /// Time for a connection to finish its handshake.
    pub handshake_ms: u64,
    /// Chains of one log. A chain costs about 512 bytes while its log is in memory, so all of them 8 MiB, and as much in the
    /// stored form; a list on the wire names no more. One chain a run and ten runs a day last four years.
    pub chains_per_log: usize,
    /// Live chains of one device in one document.
    pub live_chains_per_device: usize,
    /// Branches of one chain that are kept as evidence.
    pub branches_per_chain: usize,
    /// Bodies that ride along with a reconnect answer, unless the asker names another figure.
    pub ride_bytes: usize,
    /// Memory for resident document states in the core.
    pub resident_bytes_max: usize,
    /// Outgoing bytes queued for one connection; beyond it live pushes become a later catch-up.
    pub send_queue_bytes_max: usize,
    /// Session handles (chains named by a small number) per connection and direction.
    pub handles_per_connection: usize,
    /// Snapshot bytes, compressed.
    pub snapshot_bytes_max: usize,
}

impl Default for Limits {
    /// Figures from the design of the protocol, docs/protocol.md "Limits".
    fn default() -> Self {
        Limits {
            frame_bytes_max: 256 << 10,
            message_bytes_max: (1 << 20) + (64 << 10),
            inflated_bytes_max: 8 << 20,
            inflate_ratio_max: 64,
            waiting_bytes_per_peer: 4 << 20,
            waiting_bytes_total: 64 << 20,
            waiting_ms: 600_000,
            in_flight_bytes_per_peer: 8 << 20,
            unsolicited_entries_per_s: 2_000,
            unsolicited_bytes_per_s: 4 << 20,
            handshake_ms: 10_000,
            chains_per_log: 16_384,
            live_chains_per_device: 64,
            branches_per_chain: 8,
            ride_bytes: 64 << 10,
            resident_bytes_max: 16 << 20,
            send_queue_bytes_max: 4 << 20,
            handles_per_connection: 1_024,
            snapshot_bytes_max: 64 << 20,
        }
    }
}
