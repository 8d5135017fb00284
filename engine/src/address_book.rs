//! The peers that this one has heard of: where each can be dialled, how that went, and which spaces it is known to hold. A table and
//! arithmetic; time comes as an argument. It outlives the run (`Storage::put_peers`), so that a peer whose origin is gone for good
//! still knows whom to ask.
//!
//! Bounded: when it is full, the one with the worst score goes, among equals the one that was not heard of for the longest, and never
//! one that the configuration names. So records of strangers never push out a peer that answered.

use std::collections::{BTreeMap, BTreeSet};

use commonhold_sync::id::{DeviceId, SpaceId};
use commonhold_sync::ledger::Account;
use commonhold_sync::message::roles;
use commonhold_sync::peer_record::PeerRecord;
use minicbor::{Decode, Encode};

use crate::transport::Address;

/// Peers in the book: some 600 bytes each with two addresses, 2.4 MB in all, and 20 MB if all records are as large as they may be.
pub(crate) const BOOK_MAX: usize = 4_096;
/// Addresses kept of a peer beside its record: those that worked, and those of its hello.
const ADDRESSES_MAX: usize = 4;
/// Spaces noted of a peer.
const SPACES_MAX: usize = 16;
/// What successes and failures count halves in this time: yesterday's network is half as good a guide. A guess.
const HALF_LIFE_MS: f64 = 86_400_000.0;

/// From whom a peer is known. Bits, since it may be known from several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The configuration names it.
    Configured = 1,
    /// An invite named it.
    Invite = 2,
    /// It was connected.
    Connected = 4,
    /// A tracker named it.
    Tracker = 8,
    /// It was found on the local network.
    Lan = 16,
    /// Another peer named it.
    Exchange = 32,
    /// A space that is held says so.
    Space = 64,
}

impl Source {
    const ALL: [(Source, &'static str); 7] = [
        (Source::Configured, "configured"),
        (Source::Invite, "invite"),
        (Source::Connected, "connected"),
        (Source::Tracker, "tracker"),
        (Source::Lan, "lan"),
        (Source::Exchange, "exchange"),
        (Source::Space, "space"),
    ];
}

/// A peer as the book shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownPeer {
    /// Who.
    pub device: DeviceId,
    /// Where it can be dialled, best first.
    pub addresses: Vec<String>,
    /// What it says that it does: bits of [`roles`].
    pub roles: u64,
    /// From 0 (never answers) over 0.5 (never tried) to 1.
    pub score: f64,
    /// Dials that reached it; those of long ago count less.
    pub successes: f64,
    /// Dials that did not.
    pub failures: f64,
    /// When it was connected last, in milliseconds since 1970.
    pub seen_ms: Option<u64>,
    /// From whom it is known.
    pub sources: Vec<&'static str>,
    /// What it signed of itself, for others.
    pub record: Option<PeerRecord>,
    /// What was exchanged with it, with its last receipt.
    pub account: Account,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Entry {
    record: Option<PeerRecord>,
    /// Address, and when it worked last (0: never tried); the latest first.
    addresses: Vec<(String, u64)>,
    roles: u64,
    score: Score,
    /// When it was last heard of, from anybody.
    heard_ms: u64,
    seen_ms: Option<u64>,
    sources: u8,
    spaces: BTreeSet<SpaceId>,
    account: Account,
}

/// Two counters that forget.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Score {
    successes: f64,
    failures: f64,
    at_ms: u64,
}

impl Score {
    fn decayed(&self, now_ms: u64) -> Score {
        // A clock that was set back forgets nothing.
        let halves = now_ms.saturating_sub(self.at_ms) as f64 / HALF_LIFE_MS;
        let factor = 0.5f64.powf(halves);
        let at_ms = self.at_ms.max(now_ms);
        Score { successes: self.successes * factor, failures: self.failures * factor, at_ms }
    }

    /// Laplace's rule: who was never tried stands between those that answer and those that do not.
    fn value(&self, now_ms: u64) -> f64 {
        let Score { successes, failures, .. } = self.decayed(now_ms);
        (successes + 1.0) / (successes + failures + 2.0)
    }
}

/// The book. What it holds of a peer changes here; who is dialled is decided elsewhere.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    entries: BTreeMap<DeviceId, Entry>,
    /// Changed, or gone, since it was last written.
    unwritten: BTreeSet<DeviceId>,
}

impl AddressBook {
    /// The book as an earlier run wrote it. Whom the configuration named then it need not name now.
    pub(crate) fn load(rows: impl IntoIterator<Item = (DeviceId, BookRow)>) -> AddressBook {
        let entries = rows.into_iter().take(BOOK_MAX).map(|(device, row)| (device, row.into_entry(&device)));
        AddressBook { entries: entries.collect(), unwritten: BTreeSet::new() }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }

    /// A record that somebody brought, which must have been verified. False if it is older than the one that is held.
    pub(crate) fn met(&mut self, record: PeerRecord, space: Option<SpaceId>, source: Source, now_ms: u64) -> bool {
        let Some(entry) = self.entry(record.device, now_ms) else { return false };
        entry.sources |= source as u8;
        note_space(entry, space);
        let newer = entry.record.as_ref().is_none_or(|held| record.replaces(held));
        let same = entry.record.as_ref() == Some(&record);
        if newer {
            entry.roles = record.roles;
            entry.record = Some(record);
        }
        newer || same
    }

    /// What was exchanged with a peer.
    pub(crate) fn exchanged(&mut self, device: DeviceId, account: Account, now_ms: u64) {
        if let Some(entry) = self.entry(device, now_ms) {
            entry.account = account;
        }
    }

    /// All accounts.
    pub(crate) fn accounts(&self) -> Vec<(DeviceId, Account)> {
        let kept = self.entries.iter().filter(|(_, entry)| entry.account != Account::default());
        kept.map(|(device, entry)| (*device, entry.account)).collect()
    }

    /// Where somebody says that a peer is: the configuration or an invite.
    pub(crate) fn told(&mut self, device: DeviceId, address: &str, source: Source, now_ms: u64) {
        let Some(entry) = self.entry(device, now_ms) else { return };
        entry.sources |= source as u8;
        note_address(entry, address, 0);
    }

    /// A peer is connected. `dialled`: the address at which it was reached; `said`: those of its hello.
    pub(crate) fn connected(
        &mut self,
        device: DeviceId,
        dialled: Option<&str>,
        said: &[String],
        roles: u64,
        now_ms: u64,
    ) {
        let Some(entry) = self.entry(device, now_ms) else { return };
        entry.sources |= Source::Connected as u8;
        (entry.roles, entry.seen_ms) = (roles, Some(now_ms));
        // In reverse, since what comes last stands first.
        said.iter().rev().for_each(|address| note_address(entry, address, 0));
        if let Some(address) = dialled {
            note_address(entry, address, now_ms);
            entry.score = entry.score.decayed(now_ms);
            entry.score.successes += 1.0;
        }
    }

    /// A peer holds a space.
    pub(crate) fn shares(&mut self, device: &DeviceId, space: SpaceId) {
        if let Some(entry) = self.entries.get_mut(device)
            && !entry.spaces.contains(&space)
        {
            note_space(entry, Some(space));
            self.unwritten.insert(*device);
        }
    }

    /// A dial reached nobody, or somebody else.
    pub(crate) fn failed(&mut self, device: &DeviceId, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(device) else { return };
        entry.score = entry.score.decayed(now_ms);
        entry.score.failures += 1.0;
        self.unwritten.insert(*device);
    }

    /// Where a peer can be dialled, best first: what worked, then what it signed, then what else was said.
    #[cfg(test)]
    fn addresses(&self, device: &DeviceId) -> Vec<String> {
        self.entries.get(device).map(addresses_of).unwrap_or_default()
    }

    /// The best known peers, best first: of a space, or all.
    pub(crate) fn best(&self, space: Option<&SpaceId>, now_ms: u64) -> Vec<KnownPeer> {
        let of_space = |entry: &&Entry| space.is_none_or(|space| entry.spaces.contains(space));
        let mut found: Vec<(f64, u64, DeviceId)> = self
            .entries
            .iter()
            .filter(|(_, entry)| of_space(entry))
            .map(|(device, entry)| (entry.score.value(now_ms), entry.seen_ms.unwrap_or(0), *device))
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        found.into_iter().filter_map(|(_, _, device)| self.known(&device, now_ms)).collect()
    }

    /// One peer.
    pub(crate) fn known(&self, device: &DeviceId, now_ms: u64) -> Option<KnownPeer> {
        let entry = self.entries.get(device)?;
        let Score { successes, failures, .. } = entry.score.decayed(now_ms);
        let sources = Source::ALL.iter().filter(|(source, _)| entry.sources & *source as u8 != 0);
        Some(KnownPeer {
            device: *device,
            addresses: addresses_of(entry),
            roles: entry.roles,
            score: entry.score.value(now_ms),
            successes,
            failures,
            seen_ms: entry.seen_ms,
            sources: sources.map(|(_, name)| *name).collect(),
            record: entry.record.clone(),
            account: entry.account,
        })
    }

    /// What is to be written; `None`: the row goes.
    pub(crate) fn take_unwritten(&mut self) -> Vec<(DeviceId, Option<BookRow>)> {
        let row = |device: DeviceId| (device, self.entries.get(&device).map(BookRow::of));
        std::mem::take(&mut self.unwritten).into_iter().map(row).collect()
    }

    /// They were not written after all.
    pub(crate) fn put_back(&mut self, devices: impl IntoIterator<Item = DeviceId>) {
        self.unwritten.extend(devices);
    }

    /// The entry of a peer, with room made for it; `None` if all that could go is better than a peer that was never tried.
    fn entry(&mut self, device: DeviceId, now_ms: u64) -> Option<&mut Entry> {
        if !self.entries.contains_key(&device) && self.entries.len() >= BOOK_MAX {
            let worst = self.worst(now_ms)?;
            self.entries.remove(&worst);
            self.unwritten.insert(worst);
        }
        self.unwritten.insert(device);
        let entry = self.entries.entry(device).or_default();
        entry.heard_ms = now_ms;
        Some(entry)
    }

    fn worst(&self, now_ms: u64) -> Option<DeviceId> {
        let may_go = self.entries.iter().filter(|(_, entry)| entry.sources & Source::Configured as u8 == 0);
        let rated = may_go.map(|(device, entry)| (entry.score.value(now_ms), entry.heard_ms, *device));
        let worst = rated.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))?;
        (worst.0 <= 0.5).then_some(worst.2)
    }
}

fn addresses_of(entry: &Entry) -> Vec<String> {
    let worked = entry.addresses.iter().filter(|(_, at)| *at > 0).map(|(address, _)| address);
    let signed = entry.record.iter().flat_map(|record| &record.addresses);
    let said = entry.addresses.iter().filter(|(_, at)| *at == 0).map(|(address, _)| address);
    let mut seen = BTreeSet::new();
    worked.chain(signed).chain(said).filter(|address| seen.insert(*address)).cloned().collect()
}

/// Puts an address first, unless one that worked stands there and this one has not.
fn note_address(entry: &mut Entry, address: &str, at_ms: u64) {
    if address.parse::<Address>().is_err() {
        return;
    }
    let before = entry.addresses.iter().position(|(known, _)| known == address);
    let at_ms = before.map_or(at_ms, |at| entry.addresses.remove(at).1.max(at_ms));
    let place = entry.addresses.iter().take_while(|(_, worked)| *worked > at_ms).count();
    entry.addresses.insert(place, (address.to_owned(), at_ms));
    entry.addresses.truncate(ADDRESSES_MAX);
}

fn note_space(entry: &mut Entry, space: Option<SpaceId>) {
    if let Some(space) = space
        && entry.spaces.len() < SPACES_MAX
    {
        entry.spaces.insert(space);
    }
}

/// A peer in the store.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct BookRow {
    /// 1. A row of a later version is left alone and not read.
    #[n(0)]
    pub(crate) version: u32,
    #[n(1)]
    record: Option<PeerRecord>,
    #[n(2)]
    addresses: Vec<(String, u64)>,
    #[n(3)]
    roles: u64,
    #[n(4)]
    successes: f64,
    #[n(5)]
    failures: f64,
    #[n(6)]
    at_ms: u64,
    #[n(7)]
    heard_ms: u64,
    #[n(8)]
    seen_ms: Option<u64>,
    #[n(9)]
    sources: u8,
    #[n(10)]
    spaces: Vec<SpaceId>,
    #[n(11)]
    account: Option<Account>,
}

/// The version of rows that this program writes and reads.
pub(crate) const ROW_VERSION: u32 = 1;

impl BookRow {
    fn of(entry: &Entry) -> BookRow {
        BookRow {
            version: ROW_VERSION,
            record: entry.record.clone(),
            addresses: entry.addresses.clone(),
            roles: entry.roles,
            successes: entry.score.successes,
            failures: entry.score.failures,
            at_ms: entry.score.at_ms,
            heard_ms: entry.heard_ms,
            seen_ms: entry.seen_ms,
            sources: entry.sources,
            spaces: entry.spaces.iter().copied().collect(),
            account: Some(entry.account).filter(|account| *account != Account::default()),
        }
    }

    fn into_entry(self, device: &DeviceId) -> Entry {
        let sound = |number: f64| if number.is_finite() && number >= 0.0 { number } else { 0.0 };
        Entry {
            record: self.record.filter(|record| record.device == *device),
            addresses: self.addresses.into_iter().take(ADDRESSES_MAX).collect(),
            roles: self.roles,
            score: Score { successes: sound(self.successes), failures: sound(self.failures), at_ms: self.at_ms },
            heard_ms: self.heard_ms,
            seen_ms: self.seen_ms,
            sources: self.sources & !(Source::Configured as u8),
            spaces: self.spaces.into_iter().take(SPACES_MAX).collect(),
            account: self.account.unwrap_or_default(),
        }
    }
}

impl KnownPeer {
    /// Whether it says that it introduces peers to one another.
    pub fn is_tracker(&self) -> bool {
        self.roles & roles::TRACKER != 0
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const DAY: u64 = 86_400_000;

    fn device(n: u32) -> DeviceId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        DeviceId(id)
    }

    fn record(n: u8, made_ms: u64) -> PeerRecord {
        PeerRecord::sign(
            &SigningKey::from_bytes(&[n; 32]),
            made_ms,
            3,
            &[format!("ws://192.0.2.{n}:{}/", made_ms % 1_000)],
        )
    }

    #[test]
    fn an_older_record_never_takes_the_place_of_a_newer_one() {
        let mut book = AddressBook::default();
        let who = record(1, 5).device;
        assert!(book.met(record(1, 5), None, Source::Tracker, NOW));
        assert!(!book.met(record(1, 4), None, Source::Exchange, NOW));
        assert!(book.met(record(1, 5), None, Source::Tracker, NOW), "the same again");
        assert_eq!(book.addresses(&who), ["ws://192.0.2.1:5/"]);
        assert!(book.met(record(1, 6), None, Source::Lan, NOW));
        assert_eq!(book.addresses(&who), ["ws://192.0.2.1:6/"]);
        assert_eq!(book.known(&who, NOW).unwrap().sources, ["tracker", "lan", "exchange"]);
    }

    #[test]
    fn scores_order_peers_and_fade() {
        let mut book = AddressBook::default();
        for n in 1..=3 {
            book.told(device(n), &format!("ws://192.0.2.{n}:1/"), Source::Invite, NOW);
        }
        book.connected(device(1), Some("ws://192.0.2.1:1/"), &[], 3, NOW);
        book.failed(&device(3), NOW);
        let order = |book: &AddressBook, now| book.best(None, now).iter().map(|p| p.device).collect::<Vec<_>>();
        assert_eq!(order(&book, NOW), [device(1), device(2), device(3)]);
        let score = |book: &AddressBook, n, now| book.known(&device(n), now).unwrap().score;
        assert!(score(&book, 3, NOW) < score(&book, 3, NOW + DAY) && score(&book, 3, NOW + DAY) < 0.5);
        assert!((score(&book, 1, NOW + 40 * DAY) - 0.5).abs() < 1e-6, "nothing is remembered for ever");
        // One that answered yesterday and fails today is still better than one that never answered.
        book.failed(&device(1), NOW + DAY);
        assert!(score(&book, 1, NOW + DAY) > score(&book, 3, NOW));
    }

    #[test]
    fn what_worked_is_dialled_first() {
        let mut book = AddressBook::default();
        let said = ["ws://198.51.100.1:1/".to_owned(), "ws://198.51.100.2:1/".to_owned(), "nonsense".to_owned()];
        book.connected(device(1), None, &said, 3, NOW);
        assert_eq!(book.addresses(&device(1)), said[..2]);
        book.connected(device(1), Some(&said[1]), &said, 3, NOW + 1);
        assert_eq!(book.addresses(&device(1)), [&*said[1], &*said[0]]);
        for n in 0..100 {
            book.told(device(1), &format!("ws://198.51.100.9:{n}/"), Source::Exchange, NOW + 2);
        }
        let kept = book.addresses(&device(1));
        assert_eq!((kept.len(), &kept[0]), (ADDRESSES_MAX, &said[1]));
    }

    #[test]
    fn a_flood_of_strangers_leaves_room_neither_for_itself_nor_pushes_out_who_answered() {
        let mut book = AddressBook::default();
        book.told(device(1), "ws://192.0.2.1:1/", Source::Configured, NOW);
        book.failed(&device(1), NOW);
        for n in 2..100 {
            book.connected(device(n), Some("ws://192.0.2.2:1/"), &[], 3, NOW);
        }
        for n in 1_000..20_000 {
            book.told(device(n), "ws://198.51.100.1:1/", Source::Exchange, NOW + u64::from(n));
        }
        assert_eq!(book.len(), BOOK_MAX);
        assert!(
            (1..100).all(|n| book.known(&device(n), NOW).is_some()),
            "the configured and those that answered are there"
        );
        assert!(book.known(&device(19_999), NOW).is_some() && book.known(&device(1_000), NOW).is_none());
        // All have answered: a stranger is not noted.
        for n in 1_000..20_000 {
            book.connected(device(n), Some("ws://198.51.100.1:1/"), &[], 3, NOW + DAY);
        }
        book.told(device(50_000), "ws://198.51.100.1:1/", Source::Exchange, NOW + DAY);
        assert_eq!((book.len(), book.known(&device(50_000), NOW)), (BOOK_MAX, None));
    }

    #[test]
    fn the_book_survives_the_store_and_writes_only_what_changed() {
        let mut book = AddressBook::default();
        let space = SpaceId([7; 32]);
        book.met(record(1, 5), Some(space), Source::Tracker, NOW);
        book.told(device(2), "ws://192.0.2.2:1/", Source::Configured, NOW);
        book.failed(&device(2), NOW);
        let rows = book.take_unwritten();
        assert_eq!(rows.len(), 2);
        assert!(book.take_unwritten().is_empty());
        let stored = rows.into_iter().map(|(device, row)| {
            let bytes = minicbor::to_vec(row.unwrap()).unwrap();
            (device, minicbor::decode::<BookRow>(&bytes).unwrap())
        });
        let again = AddressBook::load(stored);
        assert_eq!(again.best(Some(&space), NOW).len(), 1);
        let (before, after) = (book.known(&device(2), NOW).unwrap(), again.known(&device(2), NOW).unwrap());
        assert_eq!((before.score, before.addresses), (after.score, after.addresses));
        assert_eq!(after.sources, Vec::<&str>::new(), "the configuration of this run decides");
    }
}
