//! The status as metrics, in the text format of OpenMetrics that Prometheus reads. Names are promised: `dist/grafana.json` plots them.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::status::Status;
use crate::http::Counted;

pub(super) const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

pub(super) fn text(status: &Status, counted: &Counted) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("commonhold");
    let build = Info::new(vec![("version", status.version.to_owned()), ("peer", status.peer.clone())]);
    registry.register("build", "The program and the peer", build);
    for (name, help, value) in [
        ("uptime_seconds", "Since this process serves", status.uptime_s),
        ("peers_connected", "Peers that are connected", status.peers),
        ("peers_known", "Peers in the address book", status.peers_known),
        ("peers_behind", "Connected peers that are not level, summed over spaces", status.behind),
        ("documents", "Documents with content, and deleted ones", status.documents),
        ("store_bytes", "Size of the store's file", status.store_bytes),
        ("disk_free_bytes", "Free space where the store lies", status.disk_free_bytes),
        ("blobs", "Blobs that are held whole", status.blobs),
        ("blob_bytes", "Bytes of them", status.blob_bytes),
        ("memory_bytes", "Resident memory of the process", status.memory_bytes),
        ("http_connections", "Connections of programs", status.http.connections),
        ("network_metered", "Whether the network is paid for by the byte", u64::from(status.network.metered)),
        ("network_metered_bytes", "Spent today on such a network", status.network.metered_bytes),
        ("network_background_bytes", "Sent today of what others made", status.network.background_bytes),
        ("webhook_events_waiting", "Events that wait for another attempt", status.webhooks.waiting),
        ("webhook_dead_letters", "Events that were given up, and are kept", status.webhooks.dead_letters),
        ("webhook_changes_behind", "Changes that the webhook furthest behind is behind", status.webhooks.behind),
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    for (name, help, value) in [
        ("network_sent_bytes", "Bytes of frames sent", status.network.sent_bytes),
        ("network_received_bytes", "Bytes of frames received", status.network.received_bytes),
        ("segments_delivered", "Live segments that came and were new", status.network.delivered),
        ("segments_duplicate", "Live segments that came and were held already", status.network.duplicates),
        ("segments_pushed", "Live segments pushed to others", status.network.pushed),
        ("webhook_dead", "Events of webhooks that were given up", status.webhooks.dead),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let hooks = Family::<Labels, Gauge>::default();
    let attempts = Family::<Labels, Counter>::default();
    let told = &status.webhooks;
    for (state, count) in
        [("active", told.active), ("failing", told.failing), ("off", told.off), ("stopped", told.stopped)]
    {
        hooks.get_or_create(&vec![("state", state.to_owned())]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    for (outcome, count) in [("delivered", told.delivered), ("failed", told.failed)] {
        attempts.get_or_create(&vec![("outcome", outcome.to_owned())]).inc_by(count);
    }
    registry.register("webhooks", "Webhooks by how they are; stopped: their token has no right any more", hooks);
    registry.register("webhook_attempts", "Attempts to deliver an event, by how they ended", attempts);
    let of_spaces: [(&str, &str, fn(&super::status::Space) -> u64); 7] = [
        ("space_documents", "Documents with content, and deleted ones, of a space", |space| space.documents),
        ("space_peers", "Connected peers that share a space", |space| space.peers),
        ("space_peers_behind", "Those of them that are not level", |space| space.behind),
        ("space_sequence", "Last number of the store's sequence of a space", |space| space.sequence),
        ("space_stored_bytes", "What counts for the quota of a space, without its blobs", |space| space.stored_bytes),
        ("space_documents_quarantined", "Documents of a space that are over their budget", |space| space.quarantined),
        ("space_blob_bytes", "Bytes of blobs of a space", |space| space.blob_bytes),
    ];
    for (name, help, of) in of_spaces {
        let family = Family::<Labels, Gauge>::default();
        for space in &status.spaces {
            let labels = vec![("space", space.id.clone())];
            family.get_or_create(&labels).set(i64::try_from(of(space)).unwrap_or(i64::MAX));
        }
        registry.register(name, help, family);
    }
    counted.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
