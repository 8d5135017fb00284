//! Bounds and timers of an overlay, with where each number comes from and what it costs.

/// Bounds and timers of one overlay. All tables together stay below 1 MiB for one space, whatever peers send, and take a few KiB in
/// a quiet space of ordinary size.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OverlayLimits {
    /// Neighbours that a full peer looks for: the fan-out of the design. HyParView's paper has 5 for 10,000 peers. A neighbour costs
    /// about 300 bytes, and what waits to be announced to it (`announced`).
    pub neighbours_aim: usize,
    /// Neighbours that a full peer accepts. The room above the aim is for those that cannot be dialled and for newcomers.
    pub neighbours_max: usize,
    /// Neighbours of its own choice that a full peer looks for, however many chose it: what strangers do cannot fill these places.
    pub chosen_min: usize,
    /// Peers that a leaf is attached to: one pushes, the other announces and steps in.
    pub attachments: usize,
    /// Leaves attached to one full peer, and full peers that cannot be dialled. Each payload goes to about half of them, so this is what
    /// sharing costs in upload: as many as an origin of ordinary size has clients.
    pub leaf_places: usize,
    /// Links known here, neighbours or not; beyond it a link that nobody needs makes room, or the new one is released. About 400 bytes
    /// each and at most 2.5 KiB with the longest record; the connection itself costs more.
    pub links: usize,
    /// Records of peers to fall back on. HyParView's paper has 30. About 200 bytes each, at most 2.2 KiB: 88 KiB.
    pub passive: usize,
    /// Of these, records that one neighbour told of. A neighbour that invents peers replaces its own inventions.
    pub passive_per_source: usize,
    /// Peers that are not asked again for `shun_ms`, because they did not do what a neighbour does. 48 bytes each.
    pub shunned: usize,
    /// How long they are shunned. Ten minutes: long against an outage, short against a mistake.
    pub shun_ms: u64,
    /// Dials at once. Three of six, so that one dead address does not delay the rest.
    pub dials: usize,
    /// After this a dial or a request that nobody answered has failed. Handshakes are given 10 s by `Limits`; a neighbour that answers
    /// more slowly than 5 s is of no use for live news.
    pub answer_ms: u64,
    /// First wait after a refusal or a failed dial; it doubles up to `retry_max_ms`.
    pub retry_ms: u64,
    /// Longest wait between two tries of one peer.
    pub retry_max_ms: u64,
    /// A link that is no neighbour's is released after this long: time for the other side to ask.
    pub linger_ms: u64,
    /// Requests about membership that one link may make at once.
    pub requests_burst: u32,
    /// Requests about membership that one link may make per second after that. The rest is ignored.
    pub requests_per_s: u32,
    /// Neighbours given up at once for peers that have none; after that one every second.
    pub evictions_burst: u32,
    /// Steps of the walk of a newcomer's record: as in HyParView's paper, and within the eight of the design.
    pub join_ttl: u8,
    /// Time to the first exchange of records, and after one that brought something new.
    pub shuffle_ms: u64,
    /// Most time between two exchanges; it grows fourfold with each that brings nothing. With 5 records an exchange is about 1.5 KiB: 100 spaces stay below 1 KiB a minute.
    pub shuffle_max_ms: u64,
    /// Time to the first try of a nearer neighbour. It doubles with each try that finds none, up to `shuffle_max_ms`.
    pub improve_ms: u64,
    /// Chains whose highest number is remembered, so that announcements of it are known to be old. 64 bytes each: 256 KiB.
    pub seen: usize,
    /// How long a chain is remembered, at least half of it: the seen cache of the design, 2 min.
    pub seen_ms: u64,
    /// Chains that were announced and have not come. About 150 bytes each: 150 KiB.
    pub missing: usize,
    /// Of these, chains that one neighbour was the first to announce.
    pub missing_per_source: usize,
    /// Peers remembered for one missing chain, to ask in turn.
    pub sources: usize,
    /// Chains that wait to be announced to one neighbour; beyond it they go at once. 32 bytes each: 8 KiB.
    pub announced: usize,
    /// How long announcements are gathered. Short against a link of 10 ms, long against the time between two payloads of one batch.
    pub announce_ms: u64,
    /// Least time between an announcement and asking for the payload, when the tree is whole.
    pub ask_min_ms: u64,
    /// Most time between an announcement and asking.
    pub ask_max_ms: u64,
    /// Payloads that one neighbour may ask for at once.
    pub grafts_burst: u32,
    /// Payloads that one neighbour may ask for per second after that.
    pub grafts_per_s: u32,
    /// Duplicates in 100 deliveries that are put up with: a few links more than a tree needs make it faster and survive a loss.
    pub duplicates_percent: u32,
}

impl Default for OverlayLimits {
    fn default() -> OverlayLimits {
        OverlayLimits {
            neighbours_aim: 6,
            neighbours_max: 10,
            chosen_min: 3,
            attachments: 2,
            leaf_places: 2_048,
            links: 4_096,
            passive: 40,
            passive_per_source: 10,
            shunned: 64,
            shun_ms: 600_000,
            dials: 3,
            answer_ms: 5_000,
            retry_ms: 1_000,
            retry_max_ms: 300_000,
            linger_ms: 20_000,
            requests_burst: 64,
            requests_per_s: 4,
            evictions_burst: 8,
            join_ttl: 6,
            shuffle_ms: 10_000,
            shuffle_max_ms: 3_600_000,
            improve_ms: 4_000,
            seen: 4_096,
            seen_ms: 120_000,
            missing: 1_024,
            missing_per_source: 256,
            sources: 8,
            announced: 256,
            announce_ms: 5,
            ask_min_ms: 20,
            ask_max_ms: 1_000,
            grafts_burst: 512,
            grafts_per_s: 128,
            duplicates_percent: 25,
        }
    }
}
