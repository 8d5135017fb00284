//! The table of keys: names, kinds, defaults, and what each is for.

use std::net::SocketAddr;

use commonhold_engine::{Address, DeviceId, HttpTracker, SpaceId};
use ipnet::IpNet;

use crate::shim::access::Opened;

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A folder.
    Path,
    /// Yes or no.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text of one line, or nothing.
    Text,
    /// A filter of log lines.
    Filter,
    /// A whole number between these, both included.
    Number(u64, u64),
    /// The id of a space, or nothing.
    Space,
    /// A list of these.
    List(Item),
}

/// What a list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    /// `ws://host:port/` or `wss://host:port/`.
    Address,
    /// The same, or with `#<peer id>` behind it.
    Peer,
    /// The same, or `http://host:port` or `https://host:port`.
    Tracker,
    /// A peer id.
    Device,
    /// The name of a network interface.
    Interface,
    /// `address:port`.
    Socket,
    /// The same, of the loopback.
    Loopback,
    /// `SPACE:read` or `*:write`: what everybody may do.
    Opened,
    /// `https://host`, or `*`.
    Origin,
    /// A word of a command.
    Word,
    /// `10.0.0.0/8`.
    Network,
}

/// One key of the config file.
#[derive(Debug)]
pub(crate) struct Key {
    /// `section.key`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// As text; lists comma-separated.
    pub(crate) default: &'static str,
    /// One line, for people.
    pub(crate) about: &'static str,
}

/// Every key. `docs/operating.md` shows this table, and a test compares the two.
pub(crate) const KEYS: &[Key] = &[
    key_of(
        "store.data",
        Kind::Path,
        "$XDG_DATA_HOME/commonhold",
        "data folder: the store, its lock, blobs, the local socket",
    ),
    key_of(
        "store.keys",
        Kind::Path,
        "$XDG_CONFIG_HOME/commonhold/keys",
        "folder of the device's secret and the lineage; never in a backup",
    ),
    key_of("store.cache_mib", Kind::Number(1, 65_536), "16", "memory for the store's cache, MiB"),
    key_of("store.views_mib", Kind::Number(1, 65_536), "256", "memory for documents that are open but idle, MiB"),
    key_of("store.flush_ms", Kind::Number(1, 10_000), "50", "edits within this time become one change, milliseconds"),
    key_of(
        "peer.listen",
        Kind::List(Item::Address),
        "ws://127.0.0.1:7340/",
        "addresses to listen at; port 0 lets the system choose",
    ),
    key_of(
        "peer.advertise",
        Kind::List(Item::Address),
        "",
        "addresses put into invites; empty: those that are listened at",
    ),
    key_of(
        "peer.connect",
        Kind::List(Item::Peer),
        "",
        "peers to stay connected to; ADDRESS#PEERID refuses any other peer there",
    ),
    key_of(
        "peer.frame_ms",
        Kind::Number(1, 1_000),
        "16",
        "remote changes reach watchers at most this often, milliseconds",
    ),
    key_of(
        "discovery.mode",
        Kind::Choice(&["on", "off"]),
        "on",
        "off is private mode: nothing is announced or looked for, only who is configured or invited is dialled",
    ),
    key_of(
        "discovery.allowed",
        Kind::List(Item::Device),
        "",
        "peer ids of the only peers that connections are kept with, beside those that connect and invites name; empty: all",
    ),
    key_of(
        "discovery.trackers",
        Kind::List(Item::Tracker),
        "",
        "trackers to announce to: http://HOST:PORT or https://HOST:PORT, or a peer's ADDRESS or ADDRESS#PEERID",
    ),
    key_of("discovery.tracker", Kind::Flag, "false", "whether this peer is a tracker for others"),
    key_of(
        "discovery.listen",
        Kind::List(Item::Socket),
        "",
        "where announces over HTTP are taken, such as 0.0.0.0:7341; needs discovery.tracker",
    ),
    key_of("discovery.lan", Kind::Flag, "false", "whether to be found, and find others, on the local network (mDNS)"),
    key_of(
        "discovery.lan_interfaces",
        Kind::List(Item::Interface),
        "",
        "network interfaces for that; empty: all but loopback",
    ),
    key_of(
        "gateway.listen",
        Kind::List(Item::Socket),
        "",
        "where automerge-repo clients connect, such as 127.0.0.1:7343; whoever reaches it can create documents, and read and edit those whose ids it knows",
    ),
    key_of("gateway.space", Kind::Space, "", "the space that their documents are in, by id; empty: the only one"),
    key_of(
        "blobs.space_mib",
        Kind::Number(1, 1 << 24),
        "4096",
        "what the blobs of one space may take on this disk, MiB",
    ),
    key_of("http.listen", Kind::List(Item::Socket), "", "where HTTP is served (docs/http.md), such as 127.0.0.1:7342"),
    key_of(
        "http.open",
        Kind::List(Item::Opened),
        "",
        "what everybody may do over HTTP without a token, such as *:read or SPACE:write",
    ),
    key_of("http.files", Kind::Path, "", "folder of an app's pages, served at / beside the API; none if it is empty"),
    key_of("http.origins", Kind::List(Item::Origin), "", "origins of pages that may use HTTP from a browser, or *"),
    key_of(
        "http.jwt_keys",
        Kind::Path,
        "",
        "file with the public keys (JWKS) of a provider whose JSON Web Tokens are taken; none if it is empty",
    ),
    key_of("http.jwt_issuer", Kind::Text, "", "whom those tokens are from (iss); needed with http.jwt_keys"),
    key_of("http.jwt_audience", Kind::Text, "", "whom those tokens are for (aud); needed with http.jwt_keys"),
    key_of(
        "tls.certificate",
        Kind::Path,
        "",
        "PEM file with the certificate, and those of its authorities, of wss:// addresses in peer.listen and of all of http.listen, gateway.listen and discovery.listen; none: no TLS there. Read again when it changes",
    ),
    key_of("tls.key", Kind::Path, "", "PEM file with its key; needed with tls.certificate, and read again like it"),
    key_of(
        "tls.roots",
        Kind::Path,
        "",
        "PEM file with authorities that are trusted beside the system's when wss:// and https:// are dialled; read again when it changes",
    ),
    key_of(
        "webhooks.enabled",
        Kind::Flag,
        "false",
        "whether tokens that may write in a space may have this peer tell its changes to URLs (webhooks)",
    ),
    key_of(
        "webhooks.allow_networks",
        Kind::List(Item::Network),
        "",
        "networks such as 10.1.0.0/16 that webhooks may reach beside public addresses; whoever makes one can reach all that is in them",
    ),
    key_of(
        "admin.listen",
        Kind::List(Item::Loopback),
        "",
        "where metrics, and the page for operators, are served on the loopback, such as 127.0.0.1:7344",
    ),
    key_of("budget.metered", Kind::Flag, "false", "whether the network is paid for by the byte"),
    key_of(
        "budget.metered_mib",
        Kind::Number(0, 1 << 20),
        "0",
        "what may be sent and received on such a network in a day (UTC), MiB; 0: any amount",
    ),
    key_of(
        "budget.background_mib",
        Kind::Number(0, 1 << 20),
        "0",
        "what may be sent in a day of what others made, MiB; 0: any amount",
    ),
    key_of(
        "budget.serving",
        Kind::Choice(&["never", "metered", "always"]),
        "always",
        "when others are sent what they made: never, not on a metered network (metered), or on any",
    ),
    key_of(
        "budget.saver",
        Kind::Flag,
        "false",
        "whether news are sent and taken in bursts, every 15 s, so that a radio can sleep; implies serving = never",
    ),
    key_of(
        "budget.spared",
        Kind::Flag,
        "true",
        "whether peers take news from others where they can, so that this one sends little",
    ),
    key_of(
        "document.changes",
        Kind::Number(0, 1 << 40),
        "0",
        "changes that one document may have to be shown here; 0: any number",
    ),
    key_of(
        "document.operations",
        Kind::Number(0, 1 << 40),
        "0",
        "operations that one document may have; 0: any number",
    ),
    key_of(
        "document.mib",
        Kind::Number(0, 1 << 24),
        "0",
        "what one document may take in the store, MiB; 0: any amount",
    ),
    key_of(
        "document.memory_mib",
        Kind::Number(0, 1 << 24),
        "0",
        "memory that one document may take when it is open, MiB; 0: any amount",
    ),
    key_of("quota.space_mib", Kind::Number(0, 1 << 24), "0", "what may be stored of one space, MiB; 0: any amount"),
    key_of("quota.space_documents", Kind::Number(0, 1 << 40), "0", "documents that one space may have; 0: any number"),
    key_of(
        "quota.identity_mib",
        Kind::Number(0, 1 << 24),
        "0",
        "what may be stored of one identity, or device of none, over all spaces, MiB; 0: any amount",
    ),
    key_of(
        "quota.identity_documents",
        Kind::Number(0, 1 << 40),
        "0",
        "documents that one identity, or device of none, may have created in all; 0: any number",
    ),
    key_of(
        "quota.address_mib",
        Kind::Number(0, 1 << 24),
        "0",
        "what may go to and come from one address (IPv4, or IPv6 /64) in a day (UTC), MiB; 0: any amount",
    ),
    key_of(
        "limits.waiting_mib_per_peer",
        Kind::Number(1, 4_096),
        "4",
        "changes of one peer that wait for what comes before them, MiB",
    ),
    key_of("limits.waiting_mib", Kind::Number(1, 16_384), "64", "the same over all peers, MiB"),
    key_of(
        "limits.unsolicited_entries_per_s",
        Kind::Number(1, 1_000_000),
        "2000",
        "changes a second that one peer may push unasked",
    ),
    key_of("limits.unsolicited_kib_per_s", Kind::Number(1, 1_048_576), "4096", "the same in KiB a second"),
    key_of(
        "limits.send_queue_kib",
        Kind::Number(64, 1_048_576),
        "4096",
        "outgoing bytes queued for one connection, KiB",
    ),
    key_of(
        "policy.command",
        Kind::List(Item::Word),
        "",
        "program, and its arguments, that is asked whom to keep connections with and which documents to carry",
    ),
    key_of("policy.wait_ms", Kind::Number(1, 9_000), "2000", "how long its answer is waited for, milliseconds"),
    key_of(
        "policy.unanswered",
        Kind::Choice(&["refuse", "admit"]),
        "refuse",
        "what becomes of a connection for which no answer comes",
    ),
    key_of("log.format", Kind::Choice(&["text", "json"]), "text", "form of the log on standard error"),
    key_of(
        "log.level",
        Kind::Filter,
        "warn",
        "off, error, warn, info, debug, trace, or a filter such as `commonhold_engine=debug`",
    ),
];

const fn key_of(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, about }
}

/// Keys whose new value a running peer takes. All others need a restart.
pub(crate) const LIVE: [&str; 10] = [
    "peer.advertise",
    "peer.connect",
    "http.open",
    "budget.metered",
    "quota.space_mib",
    "quota.space_documents",
    "quota.identity_mib",
    "quota.identity_documents",
    "quota.address_mib",
    "log.level",
];

/// A key that the program itself names.
pub(super) fn key(name: &str) -> &'static Key {
    KEYS.iter().find(|key| key.name == name).expect("the program names keys of its own table")
}

/// The sections, each once.
pub(super) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.iter().map(|key| key.section()).filter(move |section| std::mem::replace(&mut last, section) != *section)
}

impl Key {
    /// Whether a running peer takes a new value.
    pub(crate) fn is_live(&self) -> bool {
        LIVE.contains(&self.name)
    }

    /// How it stands in the guide and in `config print`: what it is for, and whether a change needs a restart.
    pub(crate) fn explained(&self) -> String {
        format!("{}{}", self.about, if self.is_live() { " (taken at once)" } else { "" })
    }

    pub(super) fn section(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(section, _)| section)
    }

    pub(super) fn short(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(_, key)| key)
    }

    /// The environment variable that sets it.
    pub(crate) fn variable(&self) -> String {
        format!("{}{}", super::PREFIX, self.name.replace('.', "_").to_uppercase())
    }

    pub(super) fn default_texts(&self) -> Vec<String> {
        self.default.split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect()
    }

    /// Whether one text is a value of this key.
    pub(super) fn check(&self, text: &str) -> Result<(), String> {
        match self.kind {
            Kind::Path if text.is_empty() && !self.default.is_empty() => Err("an empty path".into()),
            Kind::Path => Ok(()),
            Kind::Flag => text.parse::<bool>().map(drop).map_err(|_| "neither true nor false".into()),
            Kind::Text if text.len() > 256 || text.contains(char::is_control) => {
                Err("too long, or not of one line".into())
            }
            Kind::Text => Ok(()),
            Kind::Choice(words) if words.contains(&text) => Ok(()),
            Kind::Choice(_) => Err("not one of its words".into()),
            Kind::Filter => {
                let filter = text.parse::<tracing_subscriber::filter::Targets>();
                filter.map(drop).map_err(|error| crate::failure::chain(&error))
            }
            Kind::Space if text.is_empty() => Ok(()),
            Kind::Space => text.parse::<SpaceId>().map(drop).map_err(|error| error.to_string()),
            Kind::Number(least, most) => match text.parse::<u64>() {
                Ok(number) if (least..=most).contains(&number) => Ok(()),
                Ok(_) => Err("out of range".into()),
                Err(error) => Err(error.to_string()),
            },
            Kind::List(Item::Address) => match text.parse::<Address>() {
                Ok(Address::Memory(_)) => Err("this is an address inside one process".into()),
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            Kind::List(Item::Peer) => peer(text).map(drop),
            Kind::List(Item::Tracker) => tracker(text).map(drop),
            Kind::List(Item::Device) => text.parse::<DeviceId>().map(drop).map_err(|error| error.to_string()),
            Kind::List(Item::Interface) if text.is_empty() => Err("an empty name".into()),
            Kind::List(Item::Interface | Item::Word) => Ok(()),
            Kind::List(Item::Socket) => text.parse::<SocketAddr>().map(drop).map_err(|error| error.to_string()),
            Kind::List(Item::Loopback) => match text.parse::<SocketAddr>() {
                Ok(address) if address.ip().is_loopback() => Ok(()),
                Ok(_) => {
                    Err("it is not on the loopback; put a proxy with a password in front to see it from elsewhere"
                        .into())
                }
                Err(error) => Err(error.to_string()),
            },
            Kind::List(Item::Opened) => text.parse::<Opened>().map(drop),
            Kind::List(Item::Network) => text.parse::<IpNet>().map(drop).map_err(|error| error.to_string()),
            Kind::List(Item::Origin) if text == "*" => Ok(()),
            Kind::List(Item::Origin) => match text.strip_prefix("http://").or(text.strip_prefix("https://")) {
                Some(host) if !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/') => Ok(()),
                _ => Err("not an origin, which has no path".into()),
            },
        }
    }
}

impl Kind {
    /// For a message: what would have been right.
    pub(crate) fn expects(&self) -> String {
        match self {
            Kind::Path => "the path of a folder".into(),
            Kind::Flag => "true or false".into(),
            Kind::Text => "a text of one line, of at most 256 bytes".into(),
            Kind::Choice(words) => format!("one of: {}", words.join(", ")),
            Kind::Filter => {
                "one of: off, error, warn, info, debug, trace; or a filter such as commonhold_engine=debug".into()
            }
            Kind::Number(least, most) => format!("a whole number from {least} to {most}"),
            Kind::Space => "the id of a space, of 64 hex digits, or nothing".into(),
            Kind::List(Item::Address) => "addresses such as ws://127.0.0.1:7340/".into(),
            Kind::List(Item::Peer) => {
                "addresses such as ws://example.org:7340/ or ws://example.org:7340/#PEERID".into()
            }
            Kind::List(Item::Tracker) => {
                "trackers such as http://example.org:7341 or ws://example.org:7340/#PEERID".into()
            }
            Kind::List(Item::Device) => "peer ids of 64 hex digits".into(),
            Kind::List(Item::Word) => "a program and its arguments, such as [\"/usr/local/bin/policy\"]".into(),
            Kind::List(Item::Interface) => "names of network interfaces such as eth0".into(),
            Kind::List(Item::Socket) => "addresses with a port such as 127.0.0.1:7341".into(),
            Kind::List(Item::Loopback) => "addresses such as 127.0.0.1:7344 or [::1]:7344".into(),
            Kind::List(Item::Opened) => "rights such as *:read, or SPACE:write with the id of a space".into(),
            Kind::List(Item::Network) => "networks such as 10.1.0.0/16, fd00::/8 or 127.0.0.1/32".into(),
            Kind::List(Item::Origin) => "origins of pages such as https://app.example.org, or *".into(),
        }
    }
}

/// A tracker: reached over HTTP, or a peer to stay connected to.
pub(crate) enum Tracker {
    Http(HttpTracker),
    Peer(Address, Option<DeviceId>),
}

pub(crate) fn tracker(text: &str) -> Result<Tracker, String> {
    if text.starts_with("http") {
        return text.parse().map(Tracker::Http).map_err(|error: commonhold_engine::HttpTrackerError| error.to_string());
    }
    if !text.starts_with("ws://") && !text.starts_with("wss://") {
        return Err(format!(
            "expected http://HOST:PORT, https://HOST:PORT or an address that begins with ws:// or wss://, found {text:?}"
        ));
    }
    peer(text).map(|(address, device)| Tracker::Peer(address, device))
}

/// `ADDRESS` or `ADDRESS#PEERID`; addresses have no fragment of their own.
pub(crate) fn peer(text: &str) -> Result<(Address, Option<DeviceId>), String> {
    let (address, id) = match text.split_once('#') {
        Some((address, id)) => (address, Some(id.parse::<DeviceId>().map_err(|error| error.to_string())?)),
        None => (text, None),
    };
    match address.parse::<Address>() {
        Ok(Address::Memory(_)) => Err("this is an address inside one process".into()),
        Ok(address) => Ok((address, id)),
        Err(error) => Err(error.to_string()),
    }
}
