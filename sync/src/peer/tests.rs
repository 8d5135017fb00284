//! Peers over perfect wires and a model store: the protocol itself. Loss, crashes and liars are the simulator's.

use std::collections::{BTreeMap, VecDeque};

use automerge::transaction::Transactable;
use automerge::{ActorId, Automerge, Change};

use super::*;

mod accounts;
mod blobs;
mod block;
mod deepening;
mod erasing;
mod forks;
mod gate;
mod identities;
mod quota;
mod receipts;
#[allow(clippy::disallowed_methods, reason = "tests that run as many seeds as asked")]
mod rights;
mod spending;
mod tracker;
use crate::log::Image;
use crate::message::Data;
use crate::record::{Genesis, Privacy, Record, Right, Writers};
use crate::space::{RightRow, SpaceRow};
use crate::usage::Usage;

/// The least that satisfies [`StoreOp`] and [`Load`]: maps.
#[derive(Default, Clone)]
struct ModelStore {
    spaces: BTreeMap<SpaceId, SpaceRow>,
    rights: Vec<(SpaceId, RightRow)>,
    documents: BTreeMap<(SpaceId, DocId), (Option<[u8; 32]>, Image)>,
    log: BTreeMap<(SpaceId, u64), (Option<StoreId>, StoredSegment)>,
    proofs: BTreeMap<(SpaceId, u64), (Option<StoreId>, DocId)>,
    cursors: BTreeMap<(SpaceId, DeviceId), Cursor>,
    usage: BTreeMap<(SpaceId, DeviceId), Usage>,
}

impl ModelStore {
    fn apply(&mut self, op: StoreOp) {
        match op {
            StoreOp::Space { space, row } => drop(self.spaces.insert(space, row)),
            StoreOp::Document { space, doc, digest, image } => {
                self.documents.insert((space, doc), (digest, image));
            }
            StoreOp::Segment { space, source, stored } => drop(self.log.insert((space, stored.seq), (source, stored))),
            StoreOp::Proofs { space, doc, seq, before, source } => {
                self.proofs.remove(&(space, before));
                self.proofs.insert((space, seq), (source, doc));
            }
            StoreOp::Right { space, right } => self.rights.push((space, right)),
            StoreOp::Drop { space, doc } => self.log.retain(|(s, _), (_, x)| *s != space || x.segment.doc != doc),
            StoreOp::Cursor { space, peer, cursor } => drop(self.cursors.insert((space, peer), cursor)),
            StoreOp::Usage { space, device, usage } => drop(self.usage.insert((space, device), usage)),
            StoreOp::Snapshot { .. } => unreachable!("these peers make no snapshots, and are sent none"),
        }
    }

    fn image(&self, space: SpaceId, doc: DocId) -> Option<Image> {
        match doc == space.authority() {
            true => self.spaces.get(&space).map(SpaceRow::image),
            false => self.documents.get(&(space, doc)).map(|(_, image)| image.clone()),
        }
    }

    fn load(&self, load: Load) -> Loaded {
        match load {
            Load::Logs { space, docs } | Load::Raw { space, docs } => {
                let of = |doc: DocId| {
                    let segments = self.log.values().filter(|(_, s)| s.segment.doc == doc).map(|(_, s)| s.clone());
                    Some((self.image(space, doc)?, segments.collect()))
                };
                Loaded::Logs(docs.into_iter().map(|doc| (doc, of(doc))).collect())
            }
            Load::Page { space, after, bytes, rows, skip, .. } => {
                let (mut out, mut upto, mut size) = (Vec::new(), after, 0);
                let mut range = self.log.range((space, after + 1)..=(space, u64::MAX)).peekable();
                while let Some(((_, seq), (source, stored))) = range.next_if(|_| size < bytes && out.len() < rows) {
                    upto = *seq;
                    if skip.is_none() || *source != skip {
                        size += stored.segment.body_bytes();
                        out.push(PageRow::Segment(stored.clone()));
                    }
                }
                let end = range.peek().is_none();
                for ((_, seq), (source, doc)) in self.proofs.range((space, after + 1)..=(space, u64::MAX)) {
                    if (end || *seq <= upto) && (skip.is_none() || *source != skip) {
                        let image = Box::new(self.image(space, *doc).unwrap());
                        out.push(PageRow::Proofs { doc: *doc, image });
                    }
                    upto = if end { upto.max(*seq) } else { upto };
                }
                Loaded::Page { rows: out, upto, end }
            }
            Load::Digests { space } => {
                let of = self.documents.iter().filter(|((s, _), _)| *s == space);
                Loaded::Digests(of.filter_map(|((_, doc), (digest, _))| Some((*doc, (*digest)?))).collect())
            }
            Load::Snapshot { .. } => Loaded::Snapshot(None),
            Load::Deep { .. } => Loaded::Deep(Vec::new()),
            Load::Chain { space, opening, from } => {
                let of_space = self.log.range((space, 0)..=(space, u64::MAX)).map(|(_, (_, stored))| stored);
                let of = of_space.filter(|s| s.segment.doc == space.authority() && s.segment.opening == opening);
                Loaded::Chain(of.filter(|s| s.segment.tip.n >= from).cloned().collect())
            }
            Load::Concerned { space, devices, after, max } => {
                let of_space = self.documents.iter().filter(|((s, doc), _)| *s == space && Some(*doc) > after);
                let found = of_space.filter(|(_, (_, image))| image.concerns(&devices));
                Loaded::Concerned(found.take(max).map(|((_, doc), (_, image))| (*doc, image.clone())).collect())
            }
        }
    }
}

struct Host {
    peer: Peer,
    store: ModelStore,
    blobs: blobs::ModelBlobs,
    /// Its work on blobs is never done.
    deaf: bool,
    events: Vec<Event>,
    sent_bytes: usize,
}

impl Host {
    fn new(start: Start, store: ModelStore) -> Host {
        Host { peer: Peer::new(start), store, blobs: Default::default(), deaf: false, events: vec![], sent_bytes: 0 }
    }
}

struct World {
    now: u64,
    hosts: Vec<Host>,
    /// (to, conn, frame)
    wires: VecDeque<(usize, ConnId, Vec<u8>)>,
    /// (host, conn) → other host
    links: BTreeMap<(usize, ConnId), usize>,
    next_conn: u64,
    flights: usize,
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn start(n: u8, run: u8, store: &ModelStore) -> Start {
    let spaces = store.spaces.iter().map(|(id, row)| {
        let rights = store.rights.iter().filter(|(s, _)| s == id).map(|(_, right)| right.clone());
        (*id, row.clone(), rights.collect())
    });
    let cursors = store.cursors.iter().map(|((s, d), c)| (*s, *d, *c)).collect();
    let empty = Start::empty(key(n), StoreId([n; 16]), [run; 8], [n ^ run; 32]);
    let usage = store.usage.iter().map(|((s, d), u)| (*s, *d, *u)).collect();
    Start { spaces: spaces.collect(), cursors, usage, ..empty }
}

impl World {
    fn new(count: u8) -> World {
        let host = |n| {
            let store = ModelStore::default();
            Host::new(start(n, 1, &store), store)
        };
        World {
            now: 0,
            hosts: (1..=count).map(host).collect(),
            wires: VecDeque::new(),
            links: BTreeMap::new(),
            next_conn: 0,
            flights: 0,
        }
    }

    fn input(&mut self, host: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let h = &mut self.hosts[host];
            h.peer.handle(Now(self.now), input);
            while let Some(output) = h.peer.poll_output() {
                match output {
                    Output::Send { conn, bytes } => {
                        h.sent_bytes += bytes.len();
                        if let Some(to) = self.links.get(&(host, conn)) {
                            self.wires.push_back((*to, conn, bytes));
                        }
                        inputs.push_back(Input::Drained { conn, pending: 0 });
                    }
                    Output::Store { op, ops } => {
                        ops.into_iter().for_each(|op| h.store.apply(op));
                        inputs.push_back(Input::Stored { op });
                    }
                    Output::Load { op, load } => {
                        let loaded = h.store.load(load);
                        inputs.push_back(Input::Loaded { op, loaded });
                    }
                    Output::Blob(_) if h.deaf => {}
                    Output::Blob(output) => inputs.extend(h.blobs.answer(output)),
                    Output::Emit(event) => h.events.push(event),
                    // Nobody listens.
                    Output::Dial { .. } => {}
                    Output::Disconnect { conn, reason } => {
                        if reason.violation {
                            println!("host {host} ends {conn:?}: {reason:?}");
                        }
                        self.links.remove(&(host, conn));
                    }
                }
            }
        }
    }

    fn connect(&mut self, from: usize, to: usize) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.links.insert((from, conn), to);
        self.links.insert((to, conn), from);
        let expected = Some(self.hosts[to].peer.device());
        self.input(to, Input::Connected { conn, dialled: false, expected: None });
        self.input(from, Input::Connected { conn, dialled: true, expected });
        conn
    }

    fn cut(&mut self, a: usize, b: usize, conn: ConnId) {
        for host in [a, b] {
            self.links.remove(&(host, conn));
            self.input(host, Input::Disconnected { conn });
        }
    }

    /// Delivers everything and lets time pass until nothing moves for a minute.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 60 {
            let flight: Vec<_> = self.wires.drain(..).collect();
            if flight.is_empty() {
                let due = self.hosts.iter().filter_map(|h| h.peer.poll_timeout()).map(|n| n.0).min();
                self.now = due.unwrap_or(self.now).max(self.now + 100).min(self.now + 1_000);
                (0..self.hosts.len()).for_each(|host| self.input(host, Input::Tick));
                quiet += 1;
            } else {
                self.flights += 1;
                quiet = 0;
            }
            for (to, conn, bytes) in flight {
                self.input(to, Input::Frame { conn, bytes });
            }
        }
    }

    fn space(&mut self, host: usize, writers: Writers) -> (SpaceId, Genesis) {
        let root = self.hosts[host].peer.device();
        let genesis = Genesis { root: root.into(), privacy: Privacy::Public, writers, rules: 1, nonce: [9; 16] };
        let space = genesis.space();
        self.input(host, Input::Join { space, genesis: Some(genesis.clone()), filter: None });
        (space, genesis)
    }

    fn join(&mut self, host: usize, space: SpaceId) {
        self.input(host, Input::Join { space, genesis: None, filter: None });
    }

    fn say(&mut self, host: usize, space: SpaceId, local: Local) {
        self.input(host, Input::Local { ticket: Ticket(1), space, local });
    }

    fn create(&mut self, host: usize, space: SpaceId, nonce: u32) -> DocId {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&nonce.to_be_bytes());
        let record = Record::Header { nonce: bytes, kind: "t".into(), name: nonce.to_string() };
        let id = Record::id(&space, &self.hosts[host].peer.device(), &record.to_bytes());
        self.say(host, space, Local::Records(vec![record]));
        DocId(id.0)
    }

    /// An edit by `host` that builds on what it holds.
    fn edit(&mut self, host: usize, space: SpaceId, doc: DocId, key: &str, value: i64) {
        let h = &self.hosts[host];
        let opening = h.peer.own_opening(&space, &doc);
        let mut automerge = self.view(host, doc);
        automerge.set_actor(ActorId::from(opening.actor(&space, &doc)));
        let mut tx = automerge.transaction();
        tx.put(automerge::ROOT, key, value).unwrap();
        tx.commit();
        let entry = automerge.get_last_local_change().unwrap().raw_bytes().to_vec();
        self.say(host, space, Local::Entries { doc, opening, entries: vec![entry] });
    }

    /// Several changes under one tip.
    fn edit_often(&mut self, host: usize, space: SpaceId, doc: DocId, value: i64, times: usize) {
        let opening = self.hosts[host].peer.own_opening(&space, &doc);
        let mut automerge = self.view(host, doc);
        automerge.set_actor(ActorId::from(opening.actor(&space, &doc)));
        let entry = |n| {
            let mut tx = automerge.transaction();
            tx.put(automerge::ROOT, "value", value + n as i64).unwrap();
            tx.commit();
            automerge.get_last_local_change().unwrap().raw_bytes().to_vec()
        };
        let entries = (0..times).map(entry).collect();
        self.say(host, space, Local::Entries { doc, opening, entries });
    }

    fn view(&self, host: usize, doc: DocId) -> Automerge {
        let stored = self.hosts[host].store.log.values().filter(|(_, s)| s.segment.doc == doc && s.branch == 0);
        let bytes = stored.flat_map(|(_, s)| s.segment.entries.clone());
        let mut automerge = Automerge::new();
        automerge.apply_changes(bytes.map(|b| Change::from_bytes(b).unwrap())).unwrap();
        automerge
    }

    /// Two that were level, and have parted and edited ten documents each since.
    fn apart(docs: u32) -> (World, SpaceId) {
        let mut world = World::new(2);
        let (space, _) = world.space(0, Writers::Anyone);
        let docs: Vec<DocId> = (0..docs).map(|n| world.create(0, space, n)).collect();
        docs.iter().for_each(|doc| world.edit(0, space, *doc, "x", 1));
        world.join(1, space);
        let conn = world.connect(1, 0);
        world.settle();
        world.cut(0, 1, conn);
        docs.iter().take(10).for_each(|doc| world.edit(0, space, *doc, "x", 2));
        docs.iter().rev().take(10).for_each(|doc| world.edit(1, space, *doc, "x", 3));
        (world, space)
    }

    fn fingerprints(&self, space: SpaceId) -> Vec<[u8; 32]> {
        self.hosts.iter().map(|h| h.peer.space(&space).unwrap().fingerprint.to_bytes()).collect()
    }

    fn assert_level(&self, space: SpaceId) {
        let all = self.fingerprints(space);
        assert!(all.windows(2).all(|w| w[0] == w[1]), "peers differ");
        let docs: Vec<DocId> = self.hosts[0].store.documents.keys().map(|(_, d)| *d).collect();
        for doc in docs {
            let heads: Vec<_> = (0..self.hosts.len()).map(|h| self.view(h, doc).get_heads()).collect();
            assert!(heads.windows(2).all(|w| w[0] == w[1]));
        }
    }

    fn events(&self, host: usize, pick: impl Fn(&Event) -> bool) -> usize {
        self.hosts[host].events.iter().filter(|e| pick(e)).count()
    }

    fn assert_no_complaints(&self) {
        for (n, host) in self.hosts.iter().enumerate() {
            for event in &host.events {
                assert!(!matches!(event, Event::Notice { .. } | Event::Failed { .. }), "host {n}: {event:?}");
            }
        }
    }
}

#[test]
fn an_edit_crosses_live_and_is_acknowledged() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    world.join(1, space);
    world.connect(1, 0);
    world.settle();
    let doc = world.create(0, space, 1);
    world.edit(0, space, doc, "a", 1);
    world.settle();
    world.edit(1, space, doc, "b", 2);
    world.settle();
    world.assert_level(space);
    world.assert_no_complaints();
    assert!(world.events(0, |e| matches!(e, Event::Acked { doc: d, .. } if *d == doc)) > 0);
    assert!(world.events(1, |e| matches!(e, Event::Acked { doc: d, .. } if *d == doc)) > 0);
    assert!(world.events(0, |e| matches!(e, Event::Level { .. })) > 0);
}

#[test]
fn an_empty_peer_gets_everything_and_silence_follows() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    for n in 0..300 {
        let doc = world.create(0, space, n);
        world.edit(0, space, doc, "n", i64::from(n));
    }
    world.join(1, space);
    world.connect(1, 0);
    world.settle();
    world.assert_level(space);
    world.assert_no_complaints();
    let before = world.hosts[0].sent_bytes + world.hosts[1].sent_bytes;
    world.settle();
    assert_eq!(world.hosts[0].sent_bytes + world.hosts[1].sent_bytes, before, "silence");
}

/// A started peer dialled the origin for its invite and for its address book, and kept both connections.
#[test]
fn of_two_connections_that_a_peer_made_to_another_the_first_stays() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    world.join(1, space);
    let first = world.connect(1, 0);
    world.connect(1, 0);
    world.settle();
    for host in &world.hosts {
        assert_eq!(host.peer.connections.ids(), [first]);
    }
    assert_eq!(world.events(1, |e| matches!(e, Event::Closed { released: true, .. })), 1);
    let doc = world.create(0, space, 1);
    world.settle();
    world.edit(1, space, doc, "a", 1);
    world.settle();
    world.assert_level(space);
    world.assert_no_complaints();
}

#[test]
fn a_deletion_is_not_lost_when_its_document_must_be_read_and_the_header_comes_with_it_again() {
    let mut world = World::new(3);
    let (space, _) = world.space(0, Writers::Anyone);
    (1..3).for_each(|host| world.join(host, space));
    let conn = world.connect(1, 0);
    let doc = world.create(0, space, 1);
    world.settle();
    world.cut(0, 1, conn);
    world.say(0, space, Local::Records(vec![Record::Tombstone { doc }]));
    // Header and tombstone come to this one under one tip, and stay together.
    let conn = world.connect(2, 0);
    world.settle();
    world.cut(0, 2, conn);
    let store = &world.hosts[1].store;
    world.hosts[1].peer = Peer::new(start(2, 2, store));
    world.connect(1, 2);
    world.settle();
    assert_eq!(world.events(1, |e| matches!(e, Event::Deleted { doc: d, .. } if *d == doc)), 1);
    world.assert_level(space);
    world.assert_no_complaints();
}

#[test]
fn reconnecting_by_cursor_sends_the_difference_both_ways_and_little_else() {
    let (mut world, space) = World::apart(200);
    let before = world.hosts[0].sent_bytes + world.hosts[1].sent_bytes;
    world.flights = 0;
    world.connect(1, 0);
    world.settle();
    world.assert_level(space);
    world.assert_no_complaints();
    let bytes = world.hosts[0].sent_bytes + world.hosts[1].sent_bytes - before;
    assert!(bytes < 20 * 100 + 4_096, "{bytes} bytes");
}

#[test]
fn peers_that_were_apart_hold_the_same_after_one_round_trip_and_a_half() {
    let (mut world, space) = World::apart(20);
    world.hosts.iter_mut().for_each(|host| host.events.clear());
    world.connect(1, 0);
    // When each side first knows the other, and that both are level. Whatever the overlays say meanwhile, nothing waits for it.
    let mut first: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    for flight in 1..10 {
        for (to, conn, bytes) in world.wires.drain(..).collect::<Vec<_>>() {
            world.input(to, Input::Frame { conn, bytes });
        }
        for host in 0..2 {
            if world.events(host, |e| matches!(e, Event::Opened { .. })) > 0 {
                first.entry((host, "opened")).or_insert(flight);
            }
            if world.events(host, |e| matches!(e, Event::Level { .. })) > 0 {
                first.entry((host, "level")).or_insert(flight);
            }
        }
    }
    // Two flights of handshake; with the third the dialler's hello, with the fourth the acceptor's and what the dialler lacks, with the
    // fifth what the acceptor lacks, with the sixth the word that it is stored.
    let expected = [((0, "level"), 5), ((0, "opened"), 3), ((1, "level"), 6), ((1, "opened"), 4)];
    assert_eq!(first, BTreeMap::from(expected));
    world.settle();
    world.assert_level(space);
}

#[test]
fn a_signature_is_checked_for_each_tip_and_not_for_each_change() {
    const FLUSHES: u64 = 20;
    const EACH: usize = 50;
    let mut world = World::new(3);
    let (space, _) = world.space(0, Writers::Anyone);
    (1..3).for_each(|host| world.join(host, space));
    let doc = world.create(0, space, 1);
    world.connect(1, 0);
    world.settle();
    let checked = |world: &mut World, work: &dyn Fn(&mut World)| {
        let before = crate::chain::SIGNATURES_CHECKED.get();
        work(world);
        crate::chain::SIGNATURES_CHECKED.get() - before
    };
    let live = checked(&mut world, &|world| {
        for flush in 0..FLUSHES {
            world.edit_often(0, space, doc, flush as i64 * 1_000, EACH);
            world.settle();
        }
    });
    assert_eq!(live, 2 * FLUSHES, "each flush has a tip, which its author checks once and who gets it once");
    // All of a chain comes under its last tip, and so does the log of records.
    let late = checked(&mut world, &|world| {
        world.connect(2, 0);
        world.settle();
    });
    assert_eq!(late, 2);
    assert_eq!(world.view(2, doc).get_changes(&[]).len(), FLUSHES as usize * EACH);
}

#[test]
fn strangers_with_much_in_common_reconcile() {
    let mut world = World::new(3);
    let (space, _) = world.space(0, Writers::Anyone);
    let docs: Vec<DocId> = (0..300).map(|n| world.create(0, space, n)).collect();
    docs.iter().for_each(|doc| world.edit(0, space, *doc, "x", 1));
    for host in [1, 2] {
        world.join(host, space);
        let conn = world.connect(host, 0);
        world.settle();
        world.cut(host, 0, conn);
    }
    docs[..20].iter().for_each(|doc| world.edit(1, space, *doc, "x", 2));
    docs[10..40].iter().for_each(|doc| world.edit(2, space, *doc, "y", 3));
    let before = world.hosts[1].sent_bytes + world.hosts[2].sent_bytes;
    world.connect(1, 2);
    world.settle();
    let bytes = world.hosts[1].sent_bytes + world.hosts[2].sent_bytes - before;
    let fingerprints = world.fingerprints(space);
    assert_eq!(fingerprints[1], fingerprints[2]);
    assert!(bytes < 40 * 800 + 4_096, "{bytes} bytes");
    world.connect(0, 1);
    world.settle();
    world.assert_level(space);
    world.assert_no_complaints();
}

#[test]
fn a_document_travels_over_a_relay_that_never_reads_it() {
    let mut world = World::new(3);
    let (space, _) = world.space(0, Writers::Anyone);
    world.join(1, space);
    world.join(2, space);
    world.connect(1, 0);
    world.connect(2, 1);
    world.settle();
    let doc = world.create(0, space, 1);
    (0..20).for_each(|i| {
        world.edit(0, space, doc, "a", i);
        world.settle();
        world.edit(2, space, doc, "b", i);
    });
    world.settle();
    world.assert_level(space);
    world.assert_no_complaints();
}

#[test]
fn entries_of_a_device_without_a_grant_wait_until_it_comes() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Granted);
    world.join(1, space);
    world.connect(1, 0);
    world.settle();
    let doc = world.create(0, space, 1);
    world.settle();
    world.edit(1, space, doc, "a", 1);
    assert_eq!(world.events(1, |e| matches!(e, Event::Failed { .. })), 1);
    let device = world.hosts[1].peer.device();
    world.say(
        0,
        space,
        Local::Records(vec![Record::Grant { subject: device.into(), right: Right::Write, gateway: false, again: 0 }]),
    );
    world.settle();
    world.edit(1, space, doc, "a", 1);
    world.settle();
    world.assert_level(space);
    assert_eq!(world.view(0, doc).get_heads().len(), 1);
}

#[test]
fn a_deleted_document_is_gone_everywhere_and_stays_gone() {
    let mut world = World::new(2);
    let (space, _) = world.space(0, Writers::Anyone);
    world.join(1, space);
    let conn = world.connect(1, 0);
    let doc = world.create(0, space, 1);
    world.edit(0, space, doc, "a", 1);
    world.settle();
    world.cut(0, 1, conn);
    world.say(0, space, Local::Records(vec![Record::Tombstone { doc }]));
    world.edit(1, space, doc, "late", 1);
    world.connect(1, 0);
    world.settle();
    assert_eq!(world.fingerprints(space)[0], world.fingerprints(space)[1]);
    assert!(world.hosts.iter().all(|h| h.store.log.values().all(|(_, s)| s.segment.doc != doc)));
    assert_eq!(world.events(1, |e| matches!(e, Event::Deleted { .. })), 1);
}

#[test]
fn two_histories_of_one_chain_are_kept_as_evidence_and_honest_entries_go_on() {
    let mut world = World::new(3);
    let (space, _) = world.space(0, Writers::Anyone);
    for host in [1, 2] {
        world.join(host, space);
        let conn = world.connect(host, 0);
        world.settle();
        world.cut(host, 0, conn);
    }
    let doc = world.create(0, space, 1);
    world.edit(0, space, doc, "a", 1);
    // A copy of host 0's whole state, run beside it: the same chain is written twice.
    let copy = world.hosts[0].store.clone();
    let conn = world.connect(1, 0);
    world.edit(0, space, doc, "a", 2);
    world.settle();
    world.cut(0, 1, conn);
    world.hosts[0].peer = Peer::new(start(1, 1, &copy));
    world.hosts[0].store = copy;
    world.edit(0, space, doc, "a", 3);
    world.connect(0, 2);
    world.connect(2, 1);
    world.settle();
    assert!(
        world.events(1, |e| matches!(e, Event::Forked { .. })) + world.events(2, |e| matches!(e, Event::Forked { .. }))
            > 0
    );
    let fingerprints = world.fingerprints(space);
    assert_eq!(fingerprints[1], fingerprints[2], "both branches are held on both sides");
    world.edit(1, space, doc, "honest", 1);
    world.settle();
    assert_eq!(world.fingerprints(space)[1], world.fingerprints(space)[2]);
}

#[test]
fn data_of_a_space_that_was_not_named_by_both_is_out_of_order() {
    let mut world = World::new(2);
    let (space, genesis) = world.space(0, Writers::Anyone);
    world.join(1, space);
    let genesis = Genesis { nonce: [8; 16], ..genesis };
    world.input(0, Input::Join { space: genesis.space(), genesis: Some(genesis), filter: None });
    let conn = world.connect(1, 0);
    world.settle();
    let data = |space| Data {
        space,
        segments: vec![],
        haves: vec![],
        upto: None,
        fingerprint: None,
        asked: true,
        absent: vec![],
        proofs: None,
    };
    let peer = &mut world.hosts[0].peer;
    let codes = [0, 1, 2].map(|handle| peer.on_data(conn, data(handle)).err().map_or("", |violation| violation.code()));
    assert!(codes == ["", "P.order", "P.handle"] || codes == ["P.order", "", "P.handle"], "{codes:?}");
}

#[test]
fn a_peer_that_closes_tells_every_other_goodbye() {
    let mut world = World::new(3);
    let (space, _) = world.space(0, Writers::Anyone);
    (1..3).for_each(|host| world.join(host, space));
    let conns = [world.connect(1, 0), world.connect(0, 2)];
    world.settle();
    world.input(0, Input::Close);
    world.settle();
    for (host, conn) in [(1, conns[0]), (2, conns[1])] {
        assert_eq!(world.events(host, |e| matches!(e, Event::Closed { conn: c, .. } if *c == conn)), 1);
    }
    world.assert_no_complaints();
}

/// Two peers, 1 and 2, each with a history of its own of one chain of host 0, which is gone; a third knows nothing.
fn forked(one: i64, two: i64) -> (World, SpaceId) {
    let mut world = World::new(4);
    let (space, _) = world.space(0, Writers::Anyone);
    let doc = world.create(0, space, 1);
    world.edit(0, space, doc, "a", 0);
    world.join(3, space);
    let copy = world.hosts[0].store.clone();
    for (host, edits) in [(1, one), (2, two)] {
        world.hosts[0].peer = Peer::new(start(1, 1, &copy));
        world.hosts[0].store = copy.clone();
        world.join(host, space);
        let conn = world.connect(host, 0);
        for value in 1..=edits {
            world.edit(0, space, doc, "a", 10 * host as i64 + value);
            world.settle();
        }
        world.cut(host, 0, conn);
    }
    (world, space)
}

#[test]
fn a_second_history_reaches_every_peer_however_long_it_is() {
    for (one, two) in [(1, 1), (2, 2), (3, 1), (1, 3), (4, 3)] {
        let (mut world, space) = forked(one, two);
        let branches = |world: &World, host: usize| {
            let of = world.hosts[host].store.documents.values().map(|(_, image)| image.lines[0].branches.len());
            of.collect::<Vec<_>>()
        };
        assert_eq!((branches(&world, 1), branches(&world, 2)), (vec![1], vec![1]));
        world.connect(1, 2);
        world.settle();
        assert_eq!((branches(&world, 1), branches(&world, 2)), (vec![2], vec![2]), "{one} and {two} entries");
        assert_eq!(world.fingerprints(space)[1], world.fingerprints(space)[2]);
        world.connect(3, 2);
        world.settle();
        assert_eq!(world.fingerprints(space)[3], world.fingerprints(space)[2]);
        world.assert_no_complaints();
        let sent: usize = world.hosts.iter().map(|host| host.sent_bytes).sum();
        world.settle();
        assert_eq!(world.hosts.iter().map(|host| host.sent_bytes).sum::<usize>(), sent, "silence");
    }
}

/// Record ids do not contain their place: a liar may say the same header twice.
#[test]
fn a_header_that_comes_again_changes_nothing() {
    let mut world = World::new(3);
    let (space, _) = world.space(0, Writers::Anyone);
    let record = Record::Header { nonce: [1; 16], kind: "t".into(), name: "n".into() };
    let doc = DocId(Record::id(&space, &world.hosts[0].peer.device(), &record.to_bytes()).0);
    let other = |n: u8| Record::Header { nonce: [n; 16], kind: "t".into(), name: "n".into() };
    world.say(0, space, Local::Records(vec![record.clone()]));
    world.edit(0, space, doc, "x", 1);
    world.join(1, space);
    world.connect(1, 0);
    world.settle();
    // Nothing is in memory any more.
    let store = world.hosts[1].store.clone();
    world.hosts[1].peer = Peer::new(start(2, 2, &store));
    world.links.clear();
    world.say(0, space, Local::Records(vec![other(2), record.clone(), record, other(3)]));
    let third = DocId(Record::id(&space, &world.hosts[0].peer.device(), &other(3).to_bytes()).0);
    world.edit(0, space, third, "x", 1);
    world.connect(1, 0);
    world.settle();
    assert_eq!(world.view(1, doc).get_heads(), world.view(0, doc).get_heads());
    assert!(!world.hosts[1].store.documents[&(space, doc)].1.lines.is_empty());
    // Everything in one message, to somebody new.
    world.join(2, space);
    world.connect(2, 1);
    world.settle();
    world.assert_level(space);
    world.assert_no_complaints();
}

/// Somebody dials twice at once, for two reasons, and one of the connections goes: what the overlays of the two said on it, and the
/// other never heard, must not leave one a neighbour of the other and not the other way round.
#[test]
fn news_go_both_ways_whichever_of_two_connections_stays() {
    for order in 0..256u32 {
        let mut world = World::new(2);
        let (space, _) = world.space(0, Writers::Anyone);
        let doc = world.create(0, space, 1);
        world.join(1, space);
        world.settle();
        let conns = [world.connect(1, 0), world.connect(1, 0)];
        // Frames of a connection come in their order, those of the two in any.
        let mut turns = 0;
        while !world.wires.is_empty() {
            let first = conns[(order >> (turns % 8) & 1) as usize];
            turns += 1;
            let at = world.wires.iter().position(|(_, conn, _)| *conn == first).unwrap_or(0);
            let (to, conn, bytes) = world.wires.remove(at).unwrap();
            world.now += 1;
            world.input(to, Input::Frame { conn, bytes });
        }
        world.fly(40);
        for (from, to) in [(1, 0), (0, 1)] {
            world.edit(from, space, doc, "x", i64::from(order) + from as i64 + 10);
            world.fly(4);
            assert_eq!(
                world.fingerprints(space)[from],
                world.fingerprints(space)[to],
                "order {order:08b}, from {from}"
            );
        }
    }
}
