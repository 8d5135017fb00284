//! Real peers over perfect wires and a model store, each with the engine's views on top, and an [`Intruder`]: a peer that
//! speaks the real secure channel and may say anything in it.
//!
//! Every promise about hostile input is made for this whole way in, never for a function beside it.

#![allow(dead_code, unreachable_pub, reason = "each test binary that includes the harness uses its own part of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use automerge as am;
use commonhold_engine::document::{Applied, ChainAuthor, Edit, EditError, Fault, ObjId, SnapshotCaps, View};
use commonhold_sync::chain::{Kind, Opening, Segment, Tip};
use commonhold_sync::clock::{Clock, Fingerprint};
use commonhold_sync::id::{ChainId, DeviceId, DocId, EntryId, SpaceId, StoreId};
use commonhold_sync::limits::Limits;
use commonhold_sync::log::{DeepEntry, Image, StoredSegment};
use commonhold_sync::merkle::Frontier;
use commonhold_sync::message::{Cursor, Data, DocRef, Hello, Message, OpeningRef, SpaceHello, WireSegment};
use commonhold_sync::peer::{
    ConnId, ContentHead, Event, Input, Load, Loaded, Local, Now, Output, PageRow, Peer, Reason, SnapshotContent,
    SnapshotFault, Start, StoreOp, Ticket,
};
use commonhold_sync::record::{Genesis, Privacy, Record, Right, Writers};
use commonhold_sync::secure::Channel;
use commonhold_sync::space::{RightRow, SpaceRow};
use ed25519_dalek::SigningKey;

/// The least that satisfies [`StoreOp`] and [`Load`]: maps.
#[derive(Default, Clone)]
pub struct ModelStore {
    spaces: BTreeMap<SpaceId, SpaceRow>,
    rights: Vec<(SpaceId, RightRow)>,
    documents: BTreeMap<(SpaceId, DocId), (Option<[u8; 32]>, Image)>,
    log: BTreeMap<(SpaceId, u64), (Option<StoreId>, Row)>,
    snapshots: BTreeMap<(SpaceId, DocId), Vec<u8>>,
    cursors: BTreeMap<(SpaceId, DeviceId), Cursor>,
}

#[derive(Clone)]
enum Row {
    Segment(StoredSegment),
    Snapshot(DocId),
    Proofs(DocId),
}

impl ModelStore {
    fn apply(&mut self, op: StoreOp) {
        match op {
            StoreOp::Space { space, row } => drop(self.spaces.insert(space, row)),
            StoreOp::Document { space, doc, digest, image } => {
                self.documents.insert((space, doc), (digest, image));
            }
            StoreOp::Segment { space, source, stored } => {
                self.log.insert((space, stored.seq), (source, Row::Segment(stored)));
            }
            StoreOp::Proofs { space, doc, seq, before, source } => {
                self.log.remove(&(space, before));
                self.log.insert((space, seq), (source, Row::Proofs(doc)));
            }
            StoreOp::Right { space, right } => self.rights.push((space, right)),
            StoreOp::Usage { .. } => {}
            StoreOp::Drop { space, doc } => {
                let keep = |row: &Row| !matches!(row, Row::Segment(s) if s.segment.doc == doc);
                self.log.retain(|(s, _), (_, row)| *s != space || keep(row));
            }
            StoreOp::Cursor { space, peer, cursor } => drop(self.cursors.insert((space, peer), cursor)),
            StoreOp::Snapshot { space, doc, seq, source, bytes, .. } => {
                self.snapshots.insert((space, doc), bytes);
                if seq > 0 {
                    self.log.insert((space, seq), (source, Row::Snapshot(doc)));
                }
            }
        }
    }

    fn segments(&self, space: SpaceId, doc: DocId) -> impl Iterator<Item = &StoredSegment> {
        let of_space = self.log.iter().filter(move |((s, _), _)| *s == space);
        of_space.filter_map(move |(_, (_, row))| match row {
            Row::Segment(stored) if stored.segment.doc == doc => Some(stored),
            _ => None,
        })
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
                    let segments = self.segments(space, doc).cloned().collect();
                    Some((self.image(space, doc)?, segments))
                };
                Loaded::Logs(docs.into_iter().map(|doc| (doc, of(doc))).collect())
            }
            Load::Page { space, after, bytes, rows, skip, snapshots } => {
                let (mut out, mut upto, mut size) = (Vec::new(), after, 0);
                let mut range = self.log.range((space, after.saturating_add(1))..=(space, u64::MAX)).peekable();
                while let Some(((_, seq), (source, row))) = range.next_if(|_| size < bytes && out.len() < rows) {
                    upto = *seq;
                    if skip.is_some() && *source == skip {
                        continue;
                    }
                    match row {
                        Row::Segment(stored) => {
                            size += stored.segment.body_bytes();
                            out.push(PageRow::Segment(stored.clone()));
                        }
                        Row::Proofs(doc) => {
                            let image = Box::new(self.image(space, *doc).unwrap());
                            out.push(PageRow::Proofs { doc: *doc, image });
                        }
                        Row::Snapshot(doc) => {
                            let image = Box::new(self.documents[&(space, *doc)].1.clone());
                            let bytes = snapshots.then(|| self.snapshots[&(space, *doc)].clone());
                            out.push(PageRow::Snapshot { doc: *doc, image, bytes });
                        }
                    }
                }
                Loaded::Page { rows: out, upto, end: range.peek().is_none() }
            }
            Load::Digests { space } => {
                let of = self.documents.iter().filter(|((s, _), _)| *s == space);
                Loaded::Digests(of.filter_map(|((_, doc), (digest, _))| Some((*doc, (*digest)?))).collect())
            }
            Load::Snapshot { space, doc } => Loaded::Snapshot(self.snapshots.get(&(space, doc)).cloned()),
            Load::Chain { space, opening, from } => {
                let of_space = self.log.range((space, 0)..=(space, u64::MAX)).map(|(_, (_, row))| row);
                let segments = of_space.filter_map(|row| match row {
                    Row::Segment(stored) => Some(stored),
                    _ => None,
                });
                let of = segments.filter(|s| s.segment.doc == space.authority() && s.segment.opening == opening);
                Loaded::Chain(of.filter(|s| s.segment.tip.n >= from).cloned().collect())
            }
            Load::Concerned { space, devices, after, max } => {
                let of_space = self.documents.iter().filter(|((s, doc), _)| *s == space && Some(*doc) > after);
                let found = of_space.filter(|(_, (_, image))| image.concerns(&devices));
                Loaded::Concerned(found.take(max).map(|((_, doc), (_, image))| (*doc, image.clone())).collect())
            }
            Load::Deep { space, doc } => {
                let load = |bytes: &Vec<u8>| View::from_snapshot(bytes, &SnapshotCaps::default()).ok();
                let view = self.snapshots.get(&(space, doc)).and_then(load);
                let Some((mut view, entries)) = view else { return Loaded::Deep(Vec::new()) };
                let mut of: BTreeMap<EntryId, DeepEntry> = BTreeMap::new();
                for e in entries {
                    let (actor, deps) = (e.actor.to_vec(), e.deps);
                    of.insert(e.id, DeepEntry { id: e.id, actor, n: e.seq, max_op: e.max_op, deps });
                }
                Loaded::Deep(view.entries_since(&[]).iter().filter_map(|(id, _)| of.remove(id)).collect())
            }
        }
    }
}

/// A peer with a store, and the views of its documents.
pub struct Host {
    pub peer: Peer,
    pub store: ModelStore,
    pub events: Vec<Event>,
    pub ended: BTreeMap<ConnId, Reason>,
    pub views: BTreeMap<DocId, View>,
    /// Documents whose view is to be made anew.
    reshown: BTreeSet<DocId>,
    /// What views refused.
    pub invalid: Vec<(EntryId, Fault)>,
    /// Batches that went to Automerge.
    pub batches: usize,
    pub sent_bytes: usize,
    /// Snapshots given to the engine to check.
    pub checks: usize,
    /// The engine does not answer: checks pile up.
    pub engine_is_slow: bool,
}

pub struct World {
    pub now: u64,
    pub hosts: Vec<Host>,
    /// (to, conn, frame)
    wires: VecDeque<(usize, ConnId, Vec<u8>)>,
    /// Frames to an intruder, by its connection.
    to_intruder: BTreeMap<ConnId, VecDeque<Vec<u8>>>,
    links: BTreeMap<(usize, ConnId), usize>,
    next_conn: u64,
    /// Connections whose transport never drains.
    pub stuck: BTreeSet<ConnId>,
    pub space: SpaceId,
}

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub fn device(key: &SigningKey) -> DeviceId {
    DeviceId(key.verifying_key().to_bytes())
}

fn start(n: u8, limits: Limits) -> Start {
    Start { limits, ..Start::empty(key(n), StoreId([n; 16]), [n; 8], [n; 32]) }
}

/// A log that must not be needed: reading it would mean that Automerge failed on what the rules had passed.
pub fn no_log(_: &mut dyn FnMut(&[u8])) {
    panic!("automerge failed on an admitted batch");
}

impl World {
    /// Hosts 0.. in one space of host 0's, which anyone may write unless `writers` says otherwise.
    pub fn new(count: u8, writers: Writers) -> World {
        World::with_limits(count, writers, Limits::default())
    }

    pub fn with_limits(count: u8, writers: Writers, limits: Limits) -> World {
        let host = |n| Host {
            peer: Peer::new(start(n, limits.clone())),
            store: ModelStore::default(),
            events: vec![],
            ended: BTreeMap::new(),
            views: BTreeMap::new(),
            reshown: BTreeSet::new(),
            invalid: vec![],
            batches: 0,
            sent_bytes: 0,
            checks: 0,
            engine_is_slow: false,
        };
        let root = device(&key(1));
        let genesis = Genesis { root: root.into(), privacy: Privacy::Public, writers, rules: 1, nonce: [9; 16] };
        let mut world = World {
            now: 0,
            hosts: (1..=count).map(host).collect(),
            wires: VecDeque::new(),
            to_intruder: BTreeMap::new(),
            links: BTreeMap::new(),
            next_conn: 0,
            stuck: BTreeSet::new(),
            space: genesis.space(),
        };
        for n in 0..usize::from(count) {
            let genesis = Some(genesis.clone());
            world.input(n, Input::Join { space: world.space, genesis, filter: None });
        }
        world
    }

    pub fn input(&mut self, host: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.hosts[host].peer.handle(Now(self.now), input);
            while let Some(output) = self.hosts[host].peer.poll_output() {
                let h = &mut self.hosts[host];
                match output {
                    Output::Send { conn, bytes } => {
                        h.sent_bytes += bytes.len();
                        if let Some(frames) = self.to_intruder.get_mut(&conn) {
                            frames.push_back(bytes);
                        } else if let Some(to) = self.links.get(&(host, conn)) {
                            self.wires.push_back((*to, conn, bytes));
                        }
                        if !self.stuck.contains(&conn) {
                            inputs.push_back(Input::Drained { conn, pending: 0 });
                        }
                    }
                    Output::Store { op, ops } => {
                        ops.into_iter().for_each(|op| h.store.apply(op));
                        inputs.push_back(Input::Stored { op });
                    }
                    Output::Load { op, load } => {
                        let loaded = h.store.load(load);
                        inputs.push_back(Input::Loaded { op, loaded });
                    }
                    Output::Emit(event) => inputs.extend(h.event(event)),
                    // Nobody listens.
                    Output::Dial { .. } => {}
                    Output::Blob(_) => {}
                    Output::Disconnect { conn, reason } => {
                        h.ended.insert(conn, reason);
                        self.links.remove(&(host, conn));
                    }
                }
            }
        }
        let space = self.space;
        self.hosts[host].reshow(&space);
    }

    pub fn connect(&mut self, from: usize, to: usize) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.links.insert((from, conn), to);
        self.links.insert((to, conn), from);
        let expected = Some(self.hosts[to].peer.device());
        self.input(to, Input::Connected { conn, dialled: false, expected: None });
        self.input(from, Input::Connected { conn, dialled: true, expected });
        conn
    }

    pub fn cut(&mut self, a: usize, b: usize, conn: ConnId) {
        for host in [a, b] {
            self.links.remove(&(host, conn));
            self.input(host, Input::Disconnected { conn });
        }
    }

    /// Delivers everything and lets time pass until nothing moves for a minute.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 60 {
            let flight: Vec<_> = self.wires.drain(..).collect();
            if flight.is_empty() {
                let due = self.hosts.iter().filter_map(|h| h.peer.poll_timeout()).map(|n| n.0).min();
                self.now = due.unwrap_or(self.now).max(self.now + 100).min(self.now + 1_000);
                (0..self.hosts.len()).for_each(|host| self.input(host, Input::Tick));
                quiet += 1;
            } else {
                quiet = 0;
            }
            for (to, conn, bytes) in flight {
                self.input(to, Input::Frame { conn, bytes });
            }
        }
    }

    pub fn say(&mut self, host: usize, local: Local) {
        let space = self.space;
        self.input(host, Input::Local { ticket: Ticket(1), space, local });
    }

    pub fn create(&mut self, host: usize, nonce: u32) -> DocId {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&nonce.to_be_bytes());
        let record = Record::Header { nonce: bytes, kind: "t".into(), name: nonce.to_string() };
        let id = Record::id(&self.space, &self.hosts[host].peer.device(), &record.to_bytes());
        self.say(host, Local::Records(vec![record]));
        DocId(id.0)
    }

    pub fn edit(&mut self, host: usize, doc: DocId, f: impl FnOnce(&mut Edit<'_>) -> Result<(), EditError>) {
        let space = self.space;
        let h = &mut self.hosts[host];
        let opening = h.peer.own_opening(&space, &doc);
        let view = h.views.entry(doc).or_default();
        view.set_chain(chain_author(&opening, &space, &doc)).unwrap();
        view.edit(f).unwrap();
        let entries: Vec<Vec<u8>> = view.flush().unwrap().into_iter().map(|entry| entry.bytes).collect();
        self.say(host, Local::Entries { doc, opening, entries });
    }

    pub fn put(&mut self, host: usize, doc: DocId, key: &str, value: i64) {
        self.edit(host, doc, |edit| edit.put(&ObjId::ROOT, key, value));
    }

    pub fn get(&self, host: usize, doc: DocId, key: &str) -> Option<i64> {
        let view = self.hosts[host].views.get(&doc)?;
        view.json_at(&[key.into()]).and_then(|json| json.as_i64())
    }

    pub fn json(&self, host: usize, doc: DocId) -> serde_json::Value {
        self.hosts[host].views[&doc].to_json()
    }

    pub fn fingerprint(&self, host: usize) -> Fingerprint {
        self.hosts[host].peer.space(&self.space).unwrap().fingerprint
    }

    pub fn assert_level(&self, a: usize, b: usize) {
        assert_eq!(self.fingerprint(a), self.fingerprint(b), "hosts {a} and {b} hold different entries");
        let docs: BTreeSet<DocId> = self.hosts[a].views.keys().chain(self.hosts[b].views.keys()).copied().collect();
        for doc in docs {
            let heads = |host: usize| self.hosts[host].views.get(&doc).map(View::heads);
            assert_eq!(heads(a), heads(b), "hosts {a} and {b} show different documents");
        }
    }

    pub fn clock(&self, host: usize, doc: DocId) -> Clock {
        let image = self.hosts[host].store.documents.get(&(self.space, doc));
        image.map(|(_, image)| image.clock(&self.space, &doc)).unwrap_or_default()
    }

    pub fn segments(&self, host: usize, doc: DocId) -> Vec<Segment> {
        self.hosts[host].store.segments(self.space, doc).map(|s| s.segment.clone()).collect()
    }

    pub fn image(&self, host: usize, doc: DocId) -> Image {
        self.hosts[host].store.documents[&(self.space, doc)].1.clone()
    }

    pub fn events(&self, host: usize, pick: impl Fn(&Event) -> bool) -> usize {
        self.hosts[host].events.iter().filter(|e| pick(e)).count()
    }

    pub fn notices(&self, host: usize) -> Vec<&str> {
        let events = self.hosts[host].events.iter();
        let notices =
            events.filter_map(|e| if let Event::Notice { code, .. } = e { Some(code.as_str()) } else { None });
        notices.collect()
    }

    /// Opens a connection to a host in the name of any device.
    pub fn intrude(&mut self, host: usize, key: &SigningKey) -> Intruder {
        let mut intruder = self.knock(host, key);
        let hello = intruder.hello(self);
        intruder.send(self, &Message::Hello(hello));
        intruder.receive();
        intruder
    }

    /// The same up to the handshake; no hello is said.
    pub fn knock(&mut self, host: usize, key: &SigningKey) -> Intruder {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let mut limits = Limits::default();
        (limits.message_bytes_max, limits.frame_bytes_max) = (1 << 30, 1 << 30);
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&conn.0.to_be_bytes());
        let channel = Channel::dial(key, None, seed, &limits);
        self.to_intruder.insert(conn, VecDeque::new());
        self.input(host, Input::Connected { conn, dialled: false, expected: None });
        let mut intruder =
            Intruder { key: key.clone(), channel, conn, host, messages: vec![], theirs: 0, limits, next_opening: 0 };
        while intruder.channel.peer().is_none() {
            intruder.flush(self);
            intruder.pull(self);
            assert!(!self.hosts[host].ended.contains_key(&conn), "the handshake itself is honest");
        }
        intruder
    }

    /// Accepts a connection that a host opens.
    pub fn lure(&mut self, host: usize, key: &SigningKey) -> Intruder {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let limits = Limits::default();
        let mut seed = [8; 32];
        seed[..8].copy_from_slice(&conn.0.to_be_bytes());
        let channel = Channel::accept(key, seed, &limits);
        self.to_intruder.insert(conn, VecDeque::new());
        self.input(host, Input::Connected { conn, dialled: true, expected: Some(device(key)) });
        let mut intruder =
            Intruder { key: key.clone(), channel, conn, host, messages: vec![], theirs: 0, limits, next_opening: 0 };
        while intruder.channel.peer().is_none() {
            intruder.pull(self);
            intruder.flush(self);
        }
        intruder.pull(self);
        intruder.note_handle();
        intruder
    }

    /// Why a host ended a connection.
    pub fn ended(&self, intruder: &Intruder) -> Option<&'static str> {
        self.hosts[intruder.host].ended.get(&intruder.conn).map(|reason| {
            assert!(reason.violation, "ended without blame: {reason:?}");
            reason.code
        })
    }
}

impl Host {
    fn event(&mut self, event: Event) -> Option<Input> {
        let mut answer = None;
        match &event {
            Event::Reshown { doc, .. } => _ = self.reshown.insert(*doc),
            Event::Entries { doc, entries, from: Some(_), .. } if !self.reshown.contains(doc) => {
                let entries: Vec<(EntryId, &[u8])> = entries.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
                let applied = self.views.entry(*doc).or_default().apply_remote(&entries, &mut no_log);
                self.batches += 1;
                self.note(applied);
            }
            Event::CheckSnapshot { op, bytes } => {
                self.checks += 1;
                let result = check(bytes).map_err(SnapshotFault::Broken);
                answer = (!self.engine_is_slow).then_some(Input::SnapshotChecked { op: *op, result });
            }
            Event::Snapshot { doc, .. } => {
                // The view would be made anew from the store; these tests look at the peer.
                self.views.remove(doc);
            }
            _ => {}
        }
        self.events.push(event);
        answer
    }

    /// Makes views anew of what the store says is to be shown.
    fn reshow(&mut self, space: &SpaceId) {
        for doc in std::mem::take(&mut self.reshown) {
            let image = &self.store.documents[&(*space, doc)].1;
            let mut entries: Vec<(EntryId, &[u8])> = Vec::new();
            for stored in self.store.segments(*space, doc) {
                let counted = image.counted(&stored.segment.opening, stored.branch);
                let shown = (counted + 1).saturating_sub(stored.segment.first) as usize;
                entries.extend(stored.segment.entries.iter().take(shown).map(|bytes| (id_of(bytes), &bytes[..])));
            }
            let mut view = View::new();
            let applied = view.apply_remote(&entries, &mut no_log);
            self.views.insert(doc, view);
            self.note(applied);
        }
    }

    fn note(&mut self, applied: Applied) {
        assert!(applied.quarantined.is_empty() && !applied.broken && applied.bad_base.is_none(), "{applied:?}");
        self.invalid.extend(applied.invalid);
    }
}

/// What the engine says of a snapshot.
pub fn check(bytes: &[u8]) -> Result<SnapshotContent, String> {
    let (mut view, entries) = View::from_snapshot(bytes, &SnapshotCaps::default()).map_err(|e| e.to_string())?;
    view.verify().map_err(|(id, fault)| format!("{id}: {fault}"))?;
    let heads: BTreeSet<EntryId> = view.heads().into_iter().collect();
    let by_id: BTreeMap<EntryId, usize> = entries.iter().enumerate().map(|(at, e)| (e.id, at)).collect();
    let past_of = |id: &EntryId| {
        let mut past: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let (mut todo, mut seen) = (vec![*id], BTreeSet::new());
        while let Some(id) = todo.pop() {
            let entry = &entries[by_id[&id]];
            if seen.insert(id) {
                let n = past.entry(entry.actor.to_vec()).or_default();
                *n = entry.seq.max(*n);
                todo.extend(&entry.deps);
            }
        }
        past
    };
    let mut chains: BTreeMap<Vec<u8>, Vec<EntryId>> = BTreeMap::new();
    entries.iter().for_each(|e| chains.entry(e.actor.to_vec()).or_default().push(e.id));
    let heads = entries.iter().filter(|e| heads.contains(&e.id)).map(|e| {
        let actor = e.actor.to_vec();
        let past = past_of(&e.id).into_iter().filter(|(a, _)| *a != actor).collect();
        ContentHead { id: e.id, actor, n: e.seq, max_op: e.max_op, past }
    });
    Ok(SnapshotContent { heads: heads.collect(), chains: chains.into_iter().collect() })
}

/// A liar's end of a connection.
pub struct Intruder {
    pub key: SigningKey,
    pub channel: Channel,
    pub conn: ConnId,
    pub host: usize,
    /// What the host said.
    pub messages: Vec<Message>,
    /// The host's handle for the space.
    pub theirs: u32,
    limits: Limits,
    next_opening: u32,
}

impl Intruder {
    fn flush(&mut self, world: &mut World) {
        while let Some(bytes) = self.channel.poll_frame() {
            // Frames of any size the honest side takes: the channel makes larger ones with these limits.
            for bytes in self.split(bytes) {
                world.input(self.host, Input::Frame { conn: self.conn, bytes });
            }
        }
    }

    /// A frame is a run of records, so it may be cut between them.
    fn split(&self, frame: Vec<u8>) -> Vec<Vec<u8>> {
        if frame.len() <= Limits::default().frame_bytes_max || self.channel.peer().is_none() {
            return vec![frame];
        }
        let (mut out, mut rest) = (Vec::new(), &frame[..]);
        while !rest.is_empty() {
            let length = 2 + usize::from(u16::from_be_bytes([rest[0], rest[1]]));
            let (record, after) = rest.split_at(length);
            out.push(record.to_vec());
            rest = after;
        }
        out
    }

    /// Takes what the host has sent.
    pub fn pull(&mut self, world: &mut World) {
        let frames: Vec<_> = world.to_intruder.get_mut(&self.conn).map(|f| f.drain(..).collect()).unwrap_or_default();
        for frame in frames {
            if self.channel.receive(&frame, &self.limits).is_err() {
                return;
            }
            self.receive();
        }
    }

    fn receive(&mut self) {
        while let Some(bytes) = self.channel.poll_message() {
            self.messages.push(Message::from_bytes(&bytes, &Limits::default()).expect("hosts are honest"));
        }
        self.note_handle();
    }

    fn note_handle(&mut self) {
        for message in &self.messages {
            let spaces = match message {
                Message::Hello(hello) => &hello.spaces,
                Message::Spaces(spaces) => &spaces.spaces,
                _ => continue,
            };
            if let Some(space) = spaces.first() {
                self.theirs = space.handle;
            }
        }
    }

    /// An honest hello: one space, nothing held in common.
    pub fn hello(&self, world: &World) -> Hello {
        Hello {
            features: 0,
            roles: 3,
            store: StoreId([200; 16]),
            agent: "liar".into(),
            addresses: vec![],
            spaces: vec![self.space_hello(world, true)],
            record: None,
        }
    }

    pub fn space_hello(&self, world: &World, dialled: bool) -> SpaceHello {
        let session = self.channel.session_hash().expect("the handshake is done");
        let mut hasher = blake3::Hasher::new_keyed(&session);
        hasher.update(b"commonhold space tag 1").update(&[u8::from(dialled)]).update(&world.space.0);
        let hash = blake3::hash(&world.space.0);
        let mut tag = [0; 16];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        SpaceHello {
            handle: 0,
            prefix: u16::from_be_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]),
            tag,
            cursor: None,
            // Equal, so that nothing is served before it is asked for.
            fingerprint: world.fingerprint(self.host),
            ride: 1 << 20,
            fresh: false,
            filter: None,
            wants_genesis: false,
        }
    }

    pub fn send(&mut self, world: &mut World, message: &Message) {
        self.send_bytes(world, &message.to_bytes());
    }

    pub fn send_bytes(&mut self, world: &mut World, message: &[u8]) {
        self.channel.send(message);
        self.flush(world);
        self.pull(world);
    }

    /// The frames of a message, not delivered yet: so that delivering them can be measured alone.
    pub fn frames(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        self.channel.send(message);
        let mut frames = Vec::new();
        while let Some(bytes) = self.channel.poll_frame() {
            frames.extend(self.split(bytes));
        }
        frames
    }

    /// Entries under one tip, as a live push.
    pub fn push(&mut self, world: &mut World, segments: Vec<Segment>) {
        let message = self.data(segments, false);
        self.send(world, &message);
    }

    pub fn data(&mut self, segments: Vec<Segment>, asked: bool) -> Message {
        let wires = segments.into_iter().map(|s| self.wire(s)).collect();
        Message::Data(Data { segments: wires, ..empty(self.theirs, asked) })
    }

    pub fn wire(&mut self, segment: Segment) -> WireSegment {
        let handle = self.next_opening % 1_024;
        self.next_opening += 1;
        WireSegment {
            doc: DocRef::Id(segment.doc),
            opening: OpeningRef::New(handle, segment.opening),
            first: segment.first,
            tip: segment.tip,
            entries: segment.entries,
        }
    }
}

pub fn empty(space: u32, asked: bool) -> Data {
    Data { space, segments: vec![], haves: vec![], upto: None, fingerprint: None, asked, absent: vec![], proofs: None }
}

pub fn chain_author(opening: &Opening, space: &SpaceId, doc: &DocId) -> ChainAuthor {
    let actor = opening.chain(space, doc).0;
    ChainAuthor { actor, device: opening.device.0 }
}

/// One chain of a liar's, whose entries may be anything.
#[derive(Clone)]
pub struct Forger {
    pub key: SigningKey,
    pub opening: Opening,
    pub space: SpaceId,
    pub doc: DocId,
    pub frontier: Frontier,
}

impl Forger {
    pub fn new(key: &SigningKey, salt: u64, space: SpaceId, doc: DocId) -> Forger {
        let opening = Opening { device: device(key), salt: salt.to_be_bytes(), kind: Kind::Own };
        Forger { key: key.clone(), opening, space, doc, frontier: Frontier::default() }
    }

    pub fn actor(&self) -> am::ActorId {
        am::ActorId::from(&self.opening.actor(&self.space, &self.doc)[..])
    }

    pub fn chain(&self) -> ChainId {
        self.opening.chain(&self.space, &self.doc)
    }

    /// Signs entries as the next of the chain.
    pub fn seal(&mut self, entries: Vec<Vec<u8>>) -> Segment {
        let first = self.frontier.len() + 1;
        entries.iter().for_each(|bytes| self.frontier.push(&id_of(bytes)));
        let (n, head) = (self.frontier.len(), self.frontier.head());
        let tip = Tip::sign(&self.key, &self.space, &self.doc, &self.opening, n, &head, vec![]);
        Segment { doc: self.doc, opening: self.opening.clone(), first, entries, tip }
    }

    /// An honest change of this chain upon what a view shows, taken apart to be spoilt. The view is not changed.
    pub fn draft(
        &self,
        base: &[(EntryId, Vec<u8>)],
        edit: impl FnOnce(&mut Edit<'_>) -> Result<(), EditError>,
    ) -> am::ExpandedChange {
        let mut view = view_of(base);
        view.set_chain(chain_author(&self.opening, &self.space, &self.doc)).unwrap();
        view.edit(edit).unwrap();
        let entry = view.flush().unwrap().pop().expect("something was edited");
        am::Change::try_from(&entry.bytes[..]).unwrap().decode()
    }

    /// A change that puts one value into the map of the root, upon `base`.
    pub fn put(&self, base: &[(EntryId, Vec<u8>)], key: &str, value: i64) -> am::ExpandedChange {
        self.draft(base, |edit| edit.put(&ObjId::ROOT, key, value))
    }
}

pub fn view_of(entries: &[(EntryId, Vec<u8>)]) -> View {
    let mut view = View::new();
    let refs: Vec<(EntryId, &[u8])> = entries.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
    let applied = view.apply_remote(&refs, &mut no_log);
    assert_eq!(applied.applied, entries.len(), "{applied:?}");
    view
}

/// Automerge's hash of a chunk, whatever the chunk is.
pub fn id_of(bytes: &[u8]) -> EntryId {
    commonhold_sync::change::id(bytes).unwrap_or(EntryId([0; 32]))
}

pub fn bytes_of(change: am::ExpandedChange) -> Vec<u8> {
    am::Change::from(change).raw_bytes().to_vec()
}

/// The stage of most tests: a victim (host 0) with a document, an author (host 2) whose newest entries the victim does not
/// have, a bystander (host 1), and a liar that is connected to the victim.
pub struct Stage {
    pub world: World,
    pub doc: DocId,
    pub liar: Intruder,
    /// What the victim's document holds at the start.
    pub base: Vec<(EntryId, Vec<u8>)>,
    /// The author's segment that the victim lacks.
    pub honest: Segment,
}

pub const LIAR: u8 = 66;

impl Stage {
    pub fn new() -> Stage {
        Stage::with_limits(Limits::default())
    }

    pub fn with_limits(limits: Limits) -> Stage {
        let mut world = World::with_limits(3, Writers::Anyone, limits);
        let doc = world.create(0, 1);
        world.edit(0, doc, |edit| {
            edit.set_json(&[], &serde_json::json!({"map": {"k": 1, "l": 1}, "list": [1, 2, 3], "text": "abcdef"}))
        });
        for other in [1, 2] {
            let conn = world.connect(other, 0);
            world.settle();
            world.cut(other, 0, conn);
        }
        let base = world.hosts[0].views.get_mut(&doc).unwrap().entries_since(&[]);
        world.put(2, doc, "honest", 1);
        let honest = world.segments(2, doc).pop().unwrap();
        let liar = world.intrude(0, &key(LIAR));
        Stage { world, doc, liar, base, honest }
    }

    pub fn forger(&self) -> Forger {
        Forger::new(&key(LIAR), 1, self.world.space, self.doc)
    }

    /// The victim has the honest entry, goes on, and serves others; nothing of the liar's is shown.
    pub fn all_is_well(mut self) {
        let doc = self.doc;
        assert_eq!(self.world.get(0, doc, "honest"), Some(1), "the honest entry of the same message survives");
        let stored = self.world.segments(0, doc);
        assert!(stored.contains(&self.honest), "and is stored");
        assert_eq!(self.world.get(0, doc, "lie"), None);
        self.world.put(0, doc, "after", 2);
        self.world.connect(1, 0);
        self.world.settle();
        self.world.put(1, doc, "later", 3);
        self.world.settle();
        self.world.assert_level(0, 1);
        for (key, value) in [("honest", 1), ("after", 2), ("later", 3)] {
            assert_eq!(self.world.get(0, doc, key), Some(value));
            assert_eq!(self.world.get(1, doc, key), Some(value));
        }
        let view = self.world.hosts[0].views.get_mut(&doc).unwrap();
        let packed = view.to_snapshot().expect("nothing is pending");
        let (again, _) = View::from_snapshot(&packed, &SnapshotCaps::default()).expect("the document saves and loads");
        assert_eq!(again.to_json(), view.to_json());
    }

    /// Sends a lie and the honest entry in one message, and expects the liar to be sent away for `code`.
    pub fn refuses(mut self, code: &str, lies: Vec<Segment>) {
        let segments: Vec<Segment> = lies.into_iter().chain([self.honest.clone()]).collect();
        self.liar.push(&mut self.world, segments);
        let found = self.world.ended(&self.liar);
        println!("row: {code}");
        assert_eq!(found, Some(code), "{:?}", self.world.hosts[0].ended);
        self.all_is_well();
    }
}

/// A device's right to write.
pub fn grant(world: &mut World, device: DeviceId) {
    world.say(
        0,
        Local::Records(vec![Record::Grant { subject: device.into(), right: Right::Write, gateway: false, again: 0 }]),
    );
}
