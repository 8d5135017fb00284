//! How this peer finds others and lets itself be found: announces to trackers, looks on the local network, dials again who is known
//! when a space has nobody left. One task; what it learns of peers goes into the address book.
//!
//! Which of the peers that were met become neighbours is for the overlay of the space to decide: it is told of them, and asks for
//! connections to those that it wants.
//!
//! Architecture Invariant: a record is believed only when its signature was verified, and in private mode (`Discovery::on` is false)
//! nothing is announced, told or looked for: only who was configured, or named in an invite that was taken, is dialled.

mod lan;
mod own;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use commonhold_sync::authority::Authority;
use commonhold_sync::id::{DeviceId, SpaceId, Topic};
use commonhold_sync::message::{self, Announce, Peers, roles};
use commonhold_sync::peer::ConnId;
use commonhold_sync::peer_record::PeerRecord;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::address_book::Source;
use crate::backoff::Backoff;
use crate::dial::{Dialled, Whom};
use crate::shared::{Command, Mode, Shared, locked};
use crate::tracker::http::{self, HttpTracker};
use crate::transport::{Address, TransportConfig};
use lan::Lan;
pub(crate) use own::{OwnRecord, wall_ms};

/// What the driver tells that waits here. Beyond it news is lost, and learnt again at the next announce.
pub(crate) const HEARD_MAX: usize = 256;
/// Trackers among connected peers that are announced to at once. Some of those may be strangers who like to know.
const CONNECTED_TRACKERS_MAX: usize = 8;
/// Between two announces to one tracker: a space that is joined waits no longer than this, and the tracker's bound of eight a minute
/// is not reached.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);
/// After this an announce that was not answered is made again.
const UNANSWERED: Duration = Duration::from_secs(60);
/// Bounds of what a tracker may say of its TTL, in seconds.
const TTL_S: (u64, u64) = (60, 86_400);
/// How often the book is written, and spaces without connections are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Before the look that follows when somebody has gone: it may have been the last who held a space.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// Peers of the book that are dialled at one look for one space.
const BOOK_DIALS: usize = 3;
/// Of two that find each other on the local network, one waits so long for the other's dial.
const LAN_WAIT: Duration = Duration::from_secs(2);

/// What the task is told.
pub(crate) enum Heard {
    /// A connection is open.
    Opened { conn: ConnId, roles: u64 },
    /// A connection is gone.
    Closed { conn: ConnId },
    /// A connected tracker answered.
    Introduced { conn: ConnId, peers: Peers },
    /// A tracker was asked over HTTP.
    Answered { tracker: HttpTracker, answer: Result<Peers, String> },
    /// A space is held from now on.
    Spaces,
    /// This peer's record changed.
    Record,
}

pub(crate) struct Discovery {
    shared: Arc<Shared>,
    transport: Arc<TransportConfig>,
    heard: mpsc::Receiver<Heard>,
    trackers: BTreeMap<At, Client>,
    lan: Option<Lan>,
    /// When spaces that nobody connected holds are looked for.
    look: Instant,
}

/// A tracker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Http(HttpTracker),
    Connected(ConnId),
}

/// Where this peer stands with a tracker.
struct Client {
    next: Instant,
    last: Option<Instant>,
    backoff: Backoff,
    /// The space of each topic of the announce that awaits its answer.
    asked: Vec<SpaceId>,
    /// Said once: a tracker that is away for a day is not news each minute.
    away: bool,
}

impl Client {
    fn new() -> Client {
        let backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(300), Duration::ZERO);
        Client { next: Instant::now(), last: None, backoff, asked: Vec::new(), away: false }
    }

    /// As soon as it may be.
    fn hurry(&mut self) {
        let soonest = self.last.map_or_else(Instant::now, |last| last + ANNOUNCE_EVERY);
        self.next = self.next.min(soonest);
    }
}

impl Discovery {
    pub(crate) fn new(shared: Arc<Shared>, transport: Arc<TransportConfig>, heard: mpsc::Receiver<Heard>) -> Discovery {
        let config = &shared.config.discovery;
        let http = config.trackers.iter().filter(|_| config.on).cloned();
        let trackers = http.map(|tracker| (At::Http(tracker), Client::new())).collect();
        let lan = config.lan.as_ref().filter(|_| config.on).and_then(|config| {
            let Some(listens) = lan::reachable(&shared.listening) else {
                tracing::warn!("not on the local network: this peer listens at no address that others can reach");
                return None;
            };
            let started = Lan::start(config, listens);
            started.inspect_err(|error| tracing::warn!(error, "cannot look on the local network")).ok()
        });
        Discovery { shared, transport, heard, trackers, lan, look: Instant::now() }
    }

    /// Runs until the node closes.
    pub(crate) async fn run(mut self) {
        let mut mode = self.shared.mode.subscribe();
        self.tell_lan();
        loop {
            let due = self.trackers.values().map(|client| client.next).min();
            let lan = &self.lan;
            let found = async move {
                match lan {
                    Some(lan) => lan.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(heard) = self.heard.recv() => self.take(heard),
                () = sleep_until(due.unwrap_or(self.look)), if due.is_some() => self.announce_due(),
                () = sleep_until(self.look) => {
                    self.look = Instant::now() + LOOK_EVERY;
                    self.tell_lan();
                    self.fill_from_book();
                    self.shared.write_book().await;
                }
                found = found => self.found_on_lan(found),
                () = async { drop(mode.wait_for(|mode| matches!(mode, Mode::Closed)).await) } => return,
            }
        }
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Opened { conn, roles } => {
                let connected = self.trackers.keys().filter(|at| matches!(at, At::Connected(_))).count();
                let wanted = self.shared.config.discovery.on && roles & roles::TRACKER != 0;
                if wanted && connected < CONNECTED_TRACKERS_MAX {
                    self.trackers.insert(At::Connected(conn), Client::new());
                }
            }
            Heard::Closed { conn } => {
                self.trackers.remove(&At::Connected(conn));
                // Whoever comes and goes brings a look forward, once in a while.
                self.look = self.look.min(Instant::now() + LOOK_SOON);
            }
            Heard::Introduced { conn, peers } => self.answered(&At::Connected(conn), Ok(peers)),
            Heard::Answered { tracker, answer } => self.answered(&At::Http(tracker), answer),
            Heard::Spaces => {
                self.trackers.values_mut().for_each(Client::hurry);
                self.tell_lan();
                self.fill_from_book();
            }
            Heard::Record => self.trackers.values_mut().for_each(Client::hurry),
        }
    }

    // Trackers.

    fn announce_due(&mut self) {
        let now = Instant::now();
        let due: Vec<At> =
            self.trackers.iter().filter(|(_, client)| client.next <= now).map(|(at, _)| at.clone()).collect();
        for at in due {
            let (topics, spaces) = self.topics(message::TOPICS_MAX).into_iter().unzip();
            let Some(client) = self.trackers.get_mut(&at) else { continue };
            client.next = now + UNANSWERED;
            client.asked = spaces;
            if !self.shared.budget.borrow().connects {
                continue;
            }
            if client.asked.is_empty() {
                // Nothing to be found by. A space that is joined hurries it.
                continue;
            }
            client.last = Some(now);
            let announce = Announce { record: self.shared.own.record(), topics };
            match at {
                At::Connected(conn) => drop(self.shared.commands.try_send(Command::Announce { conn, announce })),
                At::Http(tracker) => {
                    let (shared, config) = (self.shared.clone(), self.transport.clone());
                    tokio::spawn(async move {
                        let answer = http::announce(&tracker, shared.own.key(), &announce, &config).await;
                        let _ = shared.heard.send(Heard::Answered { tracker, answer }).await;
                    });
                }
            }
        }
    }

    fn answered(&mut self, at: &At, answer: Result<Peers, String>) {
        let Some(client) = self.trackers.get_mut(at) else { return };
        let (now, spaces) = (Instant::now(), std::mem::take(&mut client.asked));
        match answer {
            Ok(peers) => {
                client.backoff.connected(now.into_std());
                client.away = false;
                client.next = now + half_of(Duration::from_secs(peers.ttl_s.clamp(TTL_S.0, TTL_S.1)));
                self.met_by_tracker(peers, &spaces);
            }
            Err(error) => {
                client.next = client.backoff.failed(now.into_std(), random()).into();
                client.next = client.next.max(now + Duration::from_secs(1));
                match std::mem::replace(&mut client.away, true) {
                    false => tracing::info!(?at, error, "a tracker does not answer; trying again"),
                    true => tracing::debug!(?at, error, "a tracker does not answer"),
                }
            }
        }
    }

    fn met_by_tracker(&self, peers: Peers, spaces: &[SpaceId]) {
        let mut met: Vec<(u64, PeerRecord, SpaceId)> = Vec::new();
        for found in peers.found {
            let space = found.topics.first().and_then(|at| spaces.get(*at as usize)).copied();
            if let Some(space) = space
                && self.shared.met(&found.record, Some(space), Source::Tracker)
            {
                met.push((random(), found.record, space));
            }
        }
        // In another order than others who were told the same.
        met.sort_unstable_by_key(|(order, ..)| *order);
        for (_, record, space) in met {
            // One that does not fit now is in the book.
            let _ = self.shared.commands.try_send(Command::Met { space, record });
        }
    }

    /// The topics of all spaces with their spaces; of too many, some by chance.
    fn topics(&self, max: usize) -> Vec<(Topic, SpaceId)> {
        let (now, spaces) = (wall_ms(), self.shared.unblocked_spaces());
        let all = spaces.into_iter().flat_map(|space| Topic::around(&space, now).map(move |topic| (topic, space)));
        let mut all: Vec<(Topic, SpaceId)> = all.collect();
        if all.len() > max {
            all.sort_by_cached_key(|_| random());
            all.truncate(max);
        }
        all
    }

    // The local network.

    fn tell_lan(&mut self) {
        if self.lan.is_some() {
            let topics: Vec<Topic> = self.topics(lan::TOPICS_MAX).into_iter().map(|(topic, _)| topic).collect();
            self.lan.iter_mut().for_each(|lan| lan.tell(&topics));
        }
    }

    fn found_on_lan(&self, found: lan::Found) {
        let ours = self.topics(usize::MAX);
        let common = ours.iter().find(|(topic, _)| found.hints.contains(&lan::hint(topic)));
        let Some((_, space)) = common.copied() else { return };
        let Some(first) = found.addresses.first().cloned() else { return };
        let (shared, config) = (self.shared.clone(), self.transport.clone());
        tokio::spawn(async move {
            if !found.dials_first {
                tokio::time::sleep(LAN_WAIT).await;
            }
            let hosts: BTreeSet<&str> = found.addresses.iter().filter_map(host).collect();
            if shared.is_connected_from(&hosts) {
                return;
            }
            let whom = Whom::Anybody(first);
            if let Dialled::Reached(device) = shared.dialler.dial_peer(&shared, &config, whom, &found.addresses).await {
                tracing::info!(%device, "found on the local network");
                let mut book = locked(&shared.book);
                found.addresses.iter().for_each(|at| book.told(device, &at.to_string(), Source::Lan, wall_ms()));
                book.shares(&device, space);
            }
        });
    }

    // The book.

    /// A space that nobody connected holds is looked for where it was held before: at peers of the book, and where invites say.
    fn fill_from_book(&self) {
        if !self.shared.config.dial_invites {
            return;
        }
        for space in self.shared.unblocked_spaces() {
            if !locked(&self.shared.tracker).sharing(&space).is_empty() {
                continue;
            }
            let hints = locked(&self.shared.hints).get(&space).cloned().unwrap_or_default();
            for address in hints {
                self.dial(Whom::Anybody(address.clone()), vec![address]);
            }
            if !self.shared.config.discovery.on {
                continue;
            }
            self.ask_the_space(space);
            let best = locked(&self.shared.book).best(Some(&space), wall_ms());
            for peer in best.into_iter().take(BOOK_DIALS) {
                self.dial(Whom::Device(peer.device), self.shared.worth_dialling(&peer.addresses));
            }
        }
    }

    /// Those that said in the space itself where they are: whoever holds it, and be it from a file, finds them without a middleman.
    fn ask_the_space(&self, space: SpaceId) {
        let (shared, config) = (self.shared.clone(), self.transport.clone());
        tokio::spawn(async move {
            let (reply, told) = oneshot::channel();
            let look = Box::new(move |authority: &Authority| _ = reply.send(authority.places()));
            if shared.command(Command::Look { space, look }).await.is_err() {
                return;
            }
            let mut places = told.await.unwrap_or_default();
            places.retain(|(device, _)| *device != shared.device);
            places.sort_by_cached_key(|_| random());
            for (device, addresses) in places.into_iter().take(BOOK_DIALS) {
                {
                    let mut book = locked(&shared.book);
                    addresses.iter().for_each(|address| book.told(device, address, Source::Space, wall_ms()));
                    book.shares(&device, space);
                }
                let addresses = shared.worth_dialling(&addresses);
                shared.dialler.dial_peer(&shared, &config, Whom::Device(device), &addresses).await;
            }
        });
    }

    fn dial(&self, whom: Whom, addresses: Vec<Address>) {
        let (shared, config) = (self.shared.clone(), self.transport.clone());
        tokio::spawn(async move { shared.dialler.dial_peer(&shared, &config, whom, &addresses).await });
    }
}

impl Shared {
    /// Somebody brought a peer's record. False if it is not believed, or older than what is known, or this peer's own.
    pub(crate) fn met(&self, record: &PeerRecord, space: Option<SpaceId>, source: Source) -> bool {
        if !self.config.discovery.on || record.device == self.device || record.verify().is_err() {
            return false;
        }
        locked(&self.book).met(record.clone(), space, source, wall_ms())
    }

    pub(crate) fn note_failed(&self, device: &DeviceId) {
        locked(&self.book).failed(device, wall_ms());
    }

    pub(crate) fn is_connected(&self, device: &DeviceId) -> bool {
        locked(&self.peers).values().any(|info| info.device == *device)
    }

    /// Whether a peer at one of these hosts is connected, whoever dialled.
    fn is_connected_from(&self, hosts: &BTreeSet<&str>) -> bool {
        let of = |address: &str| match address.parse::<std::net::SocketAddr>() {
            Ok(remote) => hosts.contains(&*remote.ip().to_canonical().to_string()),
            Err(_) => {
                address.parse::<Address>().is_ok_and(|address| host(&address).is_some_and(|host| hosts.contains(host)))
            }
        };
        locked(&self.peers).values().any(|info| info.address.as_deref().is_some_and(of))
    }

    /// The addresses of a stranger that may lead to it. Those of one's own machine do only for who is nowhere else: they are no way to
    /// send this peer to its neighbours' ports.
    pub(crate) fn worth_dialling(&self, addresses: &[String]) -> Vec<Address> {
        let outside =
            |address: &Address| address.ip().is_some_and(|ip| ip.is_unspecified()) || !address.is_of_this_machine();
        let local = !self.listening.is_empty() && !self.listening.iter().any(outside);
        let parsed = addresses.iter().filter_map(|text| text.parse::<Address>().ok());
        let ours = |address: &Address| self.listening.contains(address);
        parsed.filter(|address| !ours(address) && (local || !address.is_of_this_machine())).collect()
    }

    /// Where others hold a space, best first, for who joins it though this peer is gone: addresses of this machine only where all of this
    /// peer's are.
    pub(crate) fn others_of(&self, space: &SpaceId) -> Vec<String> {
        let mut seen: BTreeSet<String> = self.advertised().into_iter().collect();
        let best = locked(&self.book).best(Some(space), wall_ms());
        let reached = best.into_iter().filter(|peer| peer.score >= 0.5 && peer.device != self.device);
        // The best address of each before the second of any: they do not die together.
        let first = reached.filter_map(|peer| self.worth_dialling(&peer.addresses).into_iter().next());
        first.map(|address| address.to_string()).filter(|address| seen.insert(address.clone())).collect()
    }

    /// Writes what changed in the book. What could not be written is tried again.
    pub(crate) async fn write_book(&self) {
        let rows = locked(&self.book).take_unwritten();
        if rows.is_empty() {
            return;
        }
        let devices: Vec<DeviceId> = rows.iter().map(|(device, _)| *device).collect();
        let made_ms = self.own.record().made_ms;
        let Some(storage) = self.storage.read().unwrap_or_else(PoisonError::into_inner).clone() else {
            return locked(&self.book).put_back(devices);
        };
        let written = tokio::task::spawn_blocking(move || storage.put_peers(rows, made_ms)).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::warn!("the address book could not be written");
            locked(&self.book).put_back(devices);
        }
    }
}

/// Host of an address, as it is written there. The local network announces WebSockets only, so the others have none.
fn host(address: &Address) -> Option<&str> {
    match address {
        Address::WebSocket { host, .. } => Some(host),
        Address::Quic { .. } | Address::QuicSocket { .. } | Address::Memory(_) => None,
    }
}

/// Half of it, a fifth more or less: peers that start together do not announce together for ever.
fn half_of(ttl: Duration) -> Duration {
    ttl.mul_f64(0.4 + 0.2 * (random() as f64 / u64::MAX as f64))
}

fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}
