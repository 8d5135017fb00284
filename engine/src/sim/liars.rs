//! Members that lie: devices with a right to write that speak the protocol by hand, know what every honest disk holds, and
//! send what they like to whom they like.
//!
//! A liar keeps all histories that it ever signed of each of its chains. What a lie is made of comes from the seed.

use core::num::NonZeroU64;
use std::collections::{BTreeMap, BTreeSet};

use crate::document::rewritten::{Part, rewritten};
use crate::document::{ChainAuthor, View};
use crate::store::faulty::Rng;
use commonhold_sync::chain::{Kind, Opening, Segment, Tip};
use commonhold_sync::change;
use commonhold_sync::clock::{Clock, Fingerprint};
use commonhold_sync::id::{ChainId, DeviceId, DocId, EntryId, SpaceId, StoreId};
use commonhold_sync::limits::{Limits, Rules};
use commonhold_sync::merkle::{Frontier, Head};
use commonhold_sync::message::{
    Ack, Check, Data, DocRef, Have, Hello, Message, OpeningRef, Proofs, SpaceHello, WireSegment,
};
use commonhold_sync::peer::{ConnId, Input, Load, Loaded};
use commonhold_sync::proof::{ForkProof, Tail};
use commonhold_sync::secure::Channel;
use ed25519_dalek::SigningKey;

use super::app::scribble;
use super::world::{Step, World};

/// Frames that a liar keeps, to send them again in other connections.
const KEPT: usize = 24;
/// Histories of one chain that a liar goes on with; of a storm it keeps none.
const BRANCHES: usize = 6;
/// Branches of a storm.
const STORM: u64 = 60;

/// A history of a chain, from its first entry.
type History = Vec<(EntryId, Vec<u8>)>;
/// A history, and the bytes of an entry behind its last.
type Draft = (History, Vec<u8>);

pub(super) struct Liar {
    /// Its number among all, behind the honest.
    pub(super) index: usize,
    key: SigningKey,
    ends: BTreeMap<ConnId, End>,
    chains: BTreeMap<(SpaceId, DocId), Vec<History>>,
    kept: Vec<Vec<u8>>,
}

/// Its end of a connection.
struct End {
    host: usize,
    channel: Channel,
    greeted: bool,
    /// The other side's handles, in the order of the spaces.
    handles: Vec<Option<u32>>,
    openings: u32,
}

impl Liar {
    pub(super) fn new(index: usize) -> Liar {
        let key = SigningKey::from_bytes(&[index as u8 + 101; 32]);
        Liar { index, key, ends: BTreeMap::new(), chains: BTreeMap::new(), kept: Vec::new() }
    }

    pub(super) fn device(&self) -> DeviceId {
        DeviceId(self.key.verifying_key().to_bytes())
    }

    fn opening(&self) -> Opening {
        Opening { device: self.device(), salt: [7; 8], kind: Kind::Own }
    }

    /// What is left to do once an end hears that it is over.
    pub(super) fn closed(&mut self, conn: ConnId) {
        self.ends.remove(&conn);
    }

    /// Entries of a history behind the first `from`, under one tip.
    fn segment(&self, space: SpaceId, doc: DocId, history: &History, from: usize) -> Segment {
        let mut frontier = Frontier::default();
        history.iter().for_each(|(id, _)| frontier.push(id));
        let opening = self.opening();
        let tip = Tip::sign(&self.key, &space, &doc, &opening, frontier.len(), &frontier.head(), vec![]);
        let entries = history[from..].iter().map(|(_, bytes)| bytes.clone()).collect();
        Segment { doc, opening, first: from as u64 + 1, entries, tip }
    }
}

/// An entry as an honest disk has it.
struct Known {
    id: EntryId,
    bytes: Vec<u8>,
    chain: ChainId,
    deps: Vec<EntryId>,
}

impl World {
    /// What an honest disk holds of a document, in causal order.
    fn known(&self, host: usize, space: SpaceId, doc: DocId) -> Vec<Known> {
        let Some(run) = &self.hosts[host].run else { return Vec::new() };
        let Ok(read) = run.storage.load(&Load::Raw { space, docs: vec![doc] }) else { return Vec::new() };
        let Loaded::Logs(mut logs) = read.value else { return Vec::new() };
        let Some((_, Some((_, segments)))) = logs.pop() else { return Vec::new() };
        let mut rest = Vec::new();
        for stored in segments {
            let chain = stored.segment.opening.chain(&space, &doc);
            for bytes in stored.segment.entries {
                let Ok(head) = change::walk(&bytes, &Rules::V1) else { continue };
                rest.push(Known { id: head.id, bytes, chain, deps: head.deps });
            }
        }
        causal(rest)
    }

    pub(super) fn lie(&mut self, liar: usize) -> Result<(), String> {
        // Some go on while everybody else agrees, with what brings nothing new.
        if self.healing && !self.plan.lies_on {
            return Ok(());
        }
        let pause = if self.healing { 3_000 } else { self.plan.lie_ms };
        let pause = 1 + self.rng.below(2 * pause);
        self.later(pause, Step::Lie { liar });
        let host = self.rng.below(self.plan.peers as u64) as usize;
        let index = self.liars[liar].index;
        let conns: Vec<ConnId> =
            self.liars[liar].ends.iter().filter(|(_, e)| e.host == host).map(|(c, _)| *c).collect();
        let Some(conn) = conns.first().copied() else {
            if self.hosts[host].run.is_some() {
                let delay = 1 + self.rng.below(40);
                let conn = self.network.connect(index, host, delay, 0);
                let seed = self.rng.bytes(32).try_into().map_err(|_| "32 bytes were drawn")?;
                let channel = Channel::dial(&self.liars[liar].key, None, seed, &Limits::default());
                let handles = vec![None; self.spaces.len()];
                let end = End { host, channel, greeted: false, handles, openings: 0 };
                self.liars[liar].ends.insert(conn, end);
                self.input(host, Input::Connected { conn, dialled: false, expected: None })?;
                if self.rng.below(6) == 0 {
                    self.replay(liar, conn);
                }
                self.flush_liar(liar, conn);
            }
            return Ok(());
        };
        let at = self.rng.below(self.spaces.len() as u64) as usize;
        let space = self.spaces[at].0;
        let Some(Some(theirs)) = self.liars[liar].ends.get(&conn).and_then(|end| end.handles.get(at).copied()) else {
            return Ok(());
        };
        let docs: Vec<DocId> = self.hosts[host]
            .run
            .iter()
            .flat_map(|run| run.screen.docs.keys())
            .filter(|(s, _)| *s == space)
            .map(|(_, d)| *d)
            .collect();
        let Some(doc) = docs.get(self.rng.below(docs.len().max(1) as u64) as usize).copied() else { return Ok(()) };
        let kind = if self.healing { 9 + self.rng.below(5) } else { self.rng.below(14) };
        let name = match kind {
            0..=2 => self.fork(liar, host, space, doc, None)?,
            3 => {
                let other = self.rng.below(self.liars.len() as u64) as usize;
                self.fork(liar, host, space, doc, Some(other))?
            }
            4 => self.storm(liar, host, conn, space, doc)?,
            5 | 6 => self.spoil(liar, host, conn, space, doc)?,
            7 => self.show(liar, conn, space, doc, theirs),
            8 => self.accuse(liar, host, conn, space, doc, theirs),
            9 => {
                let data = self.rng.below(9);
                self.tell(liar, conn, &Message::Ack(Ack { data, marks: vec![(theirs, 3)], except: vec![] }));
                "acknowledged what never came"
            }
            10 => {
                let chain = ChainId([self.rng.below(4) as u8; 16]);
                let mut clock = Clock::default();
                clock.insert(chain, 1 + self.rng.below(100), Head([9; 32]));
                self.haves(liar, conn, theirs, vec![Have { doc, clock }]);
                "claimed entries that nobody has"
            }
            11 => {
                self.haves(liar, conn, theirs, vec![Have { doc, clock: Clock::default() }]);
                "showed less than before"
            }
            12 => {
                let fingerprint = Fingerprint::default();
                let check = Check { space: theirs, fingerprint, docs: 0, seq: self.rng.below(50), answer: false };
                self.tell(liar, conn, &Message::Check(check));
                "compared with nothing"
            }
            _ => {
                let fingerprint =
                    self.hosts[host].run.as_ref().and_then(|run| Some(run.peer.space(&space)?.fingerprint));
                let data = Data { upto: Some(1 << 40), fingerprint, ..empty(theirs, true) };
                self.tell(liar, conn, &Message::Data(data));
                "claimed to be level"
            }
        };
        *self.report.lies.entry(name).or_default() += 1;
        Ok(())
    }

    /// A new entry at the end of one of the liar's histories, or at the end of a part of one: a fork, early or late, nested if
    /// the history was one. With `other`, upon what another liar signed last. Told to some of those that it is connected to.
    fn fork(
        &mut self,
        liar: usize,
        host: usize,
        space: SpaceId,
        doc: DocId,
        other: Option<usize>,
    ) -> Result<&'static str, String> {
        let histories = self.liars[liar].chains.entry((space, doc)).or_default().clone();
        let at = self.rng.below(histories.len() as u64 + 1) as usize;
        let mut history = histories.get(at).cloned().unwrap_or_default();
        let forks = self.rng.below(3) == 0 && !history.is_empty();
        if forks {
            history.truncate(self.rng.below(history.len() as u64) as usize);
        }
        let theirs =
            other.and_then(|other| self.liars[other].chains.get(&(space, doc)).and_then(|all| all.last().cloned()));
        let Some(entry) = self.write(liar, host, space, doc, &history, &theirs.clone().unwrap_or_default())? else {
            return Ok("had nothing to build upon");
        };
        let from = history.len();
        history.push(entry);
        let all = self.liars[liar].chains.entry((space, doc)).or_default();
        if !forks && at < all.len() {
            all[at] = history.clone();
        } else if all.len() < BRANCHES {
            all.push(history.clone());
        }
        let conns: Vec<ConnId> = self.liars[liar].ends.keys().copied().collect();
        for conn in conns {
            if self.rng.below(2) == 0 {
                // Sometimes from the start, so that who lacks the rest gets it.
                let from = if self.rng.below(3) == 0 { 0 } else { from };
                let segment = self.liars[liar].segment(space, doc, &history, from);
                if let (Some(theirs), Some(other)) = (&theirs, other.filter(|other| *other != liar)) {
                    let theirs = self.liars[other].segment(space, doc, theirs, 0);
                    self.push(liar, conn, space, theirs);
                }
                self.push(liar, conn, space, segment);
            }
        }
        Ok(match (forks, other) {
            (_, Some(_)) => "colluded",
            (true, _) => "signed another history",
            _ => "went on with a history",
        })
    }

    /// Bytes of an entry upon a history of the liar's, and what a peer's disk shows besides.
    fn write(
        &mut self,
        liar: usize,
        host: usize,
        space: SpaceId,
        doc: DocId,
        history: &History,
        other: &History,
    ) -> Result<Option<(EntryId, Vec<u8>)>, String> {
        let opening = self.liars[liar].opening();
        let chain = opening.chain(&space, &doc);
        let own: BTreeSet<EntryId> = history.iter().chain(other).map(|(id, _)| *id).collect();
        let mut known = self.known(host, space, doc);
        for (id, bytes) in history.iter().chain(other) {
            let Ok(head) = change::walk(bytes, &Rules::V1) else { return Ok(None) };
            let chain = ChainId::try_from(&head.actor[..]).map_err(|_| "an actor has 16 bytes")?;
            known.push(Known { id: *id, bytes: bytes.clone(), chain, deps: head.deps });
        }
        let liars: BTreeSet<ChainId> = self.liars.iter().map(|liar| liar.opening().chain(&space, &doc)).collect();
        let mut taken = BTreeSet::new();
        let mut base: Vec<(EntryId, Vec<u8>)> = Vec::new();
        for entry in causal(known) {
            let mine = !liars.contains(&entry.chain) || own.contains(&entry.id);
            if mine && entry.deps.iter().all(|dep| taken.contains(dep)) && taken.insert(entry.id) {
                base.push((entry.id, entry.bytes));
            }
        }
        if !own.iter().all(|id| taken.contains(id)) {
            return Ok(None);
        }
        let mut view = View::new();
        let refs: Vec<(EntryId, &[u8])> = base.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
        let mut log = |each: &mut dyn FnMut(&[u8])| base.iter().for_each(|(_, bytes)| each(bytes));
        if view.apply_remote(&refs, &mut log).broken {
            return Ok(None);
        }
        if history.iter().chain(other).any(|(id, _)| !view.contains(id)) {
            return Ok(None);
        }
        view.set_chain(ChainAuthor { actor: chain.0, device: opening.device.0 }).map_err(|e| e.to_string())?;
        let rng: &mut Rng = &mut self.rng;
        let done = view.edit(|edit| scribble(edit, rng));
        let made = view.flush().map_err(|e| e.to_string())?;
        Ok(made.into_iter().next().filter(|_| done.is_ok()).map(|entry| (entry.id, entry.bytes)))
    }

    /// The first of its histories, and what it could write at its end.
    fn draft(&mut self, liar: usize, host: usize, space: SpaceId, doc: DocId) -> Result<Option<Draft>, String> {
        let history =
            self.liars[liar].chains.get(&(space, doc)).and_then(|all| all.first().cloned()).unwrap_or_default();
        let written = self.write(liar, host, space, doc, &history, &Vec::new())?;
        Ok(written.map(|(_, bytes)| (history, bytes)))
    }

    /// Sends an entry at the end of a history that nobody goes on with.
    fn push_last(&mut self, liar: usize, conn: ConnId, (space, doc): (SpaceId, DocId), (mut history, bytes): Draft) {
        let Ok(id) = change::id(&bytes) else { return };
        history.push((id, bytes));
        let segment = self.liars[liar].segment(space, doc, &history, history.len() - 1);
        self.push(liar, conn, space, segment);
    }

    /// Many histories that part at one place.
    fn storm(
        &mut self,
        liar: usize,
        host: usize,
        conn: ConnId,
        space: SpaceId,
        doc: DocId,
    ) -> Result<&'static str, String> {
        let Some((history, bytes)) = self.draft(liar, host, space, doc)? else {
            return Ok("had nothing to build upon");
        };
        for n in 0..STORM {
            let Some(bytes) = rewritten(&bytes, Part::Time(n as i64 + 1)) else { continue };
            self.push_last(liar, conn, (space, doc), (history.clone(), bytes));
        }
        Ok("a storm of histories")
    }

    /// An entry that breaks a rule, signed.
    fn spoil(
        &mut self,
        liar: usize,
        host: usize,
        conn: ConnId,
        space: SpaceId,
        doc: DocId,
    ) -> Result<&'static str, String> {
        let Some((history, bytes)) = self.draft(liar, host, space, doc)? else {
            return Ok("had nothing to build upon");
        };
        let (name, bytes) = match self.rng.below(6) {
            0 => ("left a gap", rewritten(&bytes, Part::SeqSkips)),
            1 => ("rewound its operations", rewritten(&bytes, Part::StartOp(NonZeroU64::MIN))),
            2 => {
                let far = NonZeroU64::MIN.saturating_add((1 << 31) - 2);
                ("ran ahead with its operations", rewritten(&bytes, Part::StartOp(far)))
            }
            3 => {
                let nobodys = EntryId([self.rng.below(256) as u8; 32]);
                ("built on what nobody has", rewritten(&bytes, Part::Deps(vec![nobodys])))
            }
            4 => {
                let mut bomb = bytes;
                bomb[8] = 2;
                ("sent a compressed chunk", Some(bomb))
            }
            _ => {
                let mut bytes = bytes;
                for _ in 0..1 + self.rng.below(3) {
                    let at = 9 + self.rng.below(bytes.len() as u64 - 9) as usize;
                    bytes[at] = self.rng.below(256) as u8;
                }
                if let Ok(id) = change::id(&bytes) {
                    bytes[4..8].copy_from_slice(&id.0[..4]);
                }
                ("sent damaged bytes with a right checksum", Some(bytes))
            }
        };
        if let Some(bytes) = bytes {
            self.push_last(liar, conn, (space, doc), (history, bytes));
        }
        Ok(name)
    }

    /// One of its histories, whole.
    fn show(&mut self, liar: usize, conn: ConnId, space: SpaceId, doc: DocId, theirs: u32) -> &'static str {
        let all = self.liars[liar].chains.get(&(space, doc)).cloned().unwrap_or_default();
        let Some(history) = all.get(self.rng.below(all.len().max(1) as u64) as usize).filter(|h| !h.is_empty()) else {
            return "had nothing to build upon";
        };
        let mut frontier = Frontier::default();
        history.iter().for_each(|(id, _)| frontier.push(id));
        let mut clock = Clock::default();
        clock.insert(self.liars[liar].opening().chain(&space, &doc), frontier.len(), frontier.head());
        self.haves(liar, conn, theirs, vec![Have { doc, clock }]);
        "showed one of its histories"
    }

    /// A proof that proves nothing, about somebody honest.
    fn accuse(
        &mut self,
        liar: usize,
        host: usize,
        conn: ConnId,
        space: SpaceId,
        doc: DocId,
        theirs: u32,
    ) -> &'static str {
        let Some(run) = &self.hosts[host].run else { return "had nothing to build upon" };
        let Ok(read) = run.storage.load(&Load::Raw { space, docs: vec![doc] }) else {
            return "had nothing to build upon";
        };
        let Loaded::Logs(mut logs) = read.value else { return "had nothing to build upon" };
        let segments = logs.pop().and_then(|(_, found)| found).map(|(_, segments)| segments).unwrap_or_default();
        let honest =
            segments.iter().map(|s| &s.segment).find(|s| s.opening.device != self.liars[liar].device() && s.first == 1);
        let Some(honest) = honest else { return "had nothing to build upon" };
        let ids: Vec<EntryId> = honest.entries.iter().filter_map(|bytes| change::id(bytes).ok()).collect();
        let mut other = ids.clone();
        let tip = match self.rng.below(3) {
            // Signed by somebody else, over other entries.
            0 => {
                other[0] = EntryId([7; 32]);
                let mut frontier = Frontier::default();
                other.iter().for_each(|id| frontier.push(id));
                Tip::sign(
                    &self.liars[liar].key,
                    &space,
                    &doc,
                    &honest.opening,
                    frontier.len(),
                    &frontier.head(),
                    vec![],
                )
            }
            // The same signature twice.
            1 => honest.tip.clone(),
            _ => {
                other[0] = EntryId([8; 32]);
                Tip { signature: [5; 64], ..honest.tip.clone() }
            }
        };
        let side = |tip, ids| Tail { opening: &honest.opening, tip, ids };
        let proof = ForkProof::of(doc, Frontier::default(), side(&honest.tip, &ids), side(&tip, &other));
        self.tell(liar, conn, &Message::Data(Data { proofs: Some(Proofs(vec![proof])), ..empty(theirs, false) }));
        "accused somebody falsely"
    }

    /// Frames of another connection, or what the other side itself sent there, in place of its own.
    fn replay(&mut self, liar: usize, conn: ConnId) {
        let kept = self.liars[liar].kept.clone();
        let Some(frame) = kept.get(self.rng.below(kept.len().max(1) as u64) as usize) else { return };
        *self.report.lies.entry("replayed or reflected a frame").or_default() += 1;
        self.carry(conn, frame.clone());
    }

    fn haves(&mut self, liar: usize, conn: ConnId, theirs: u32, haves: Vec<Have>) {
        let asked = self.rng.below(4) == 0;
        self.tell(liar, conn, &Message::Data(Data { haves, ..empty(theirs, asked) }));
    }

    fn push(&mut self, liar: usize, conn: ConnId, space: SpaceId, segment: Segment) {
        self.give(liar, conn, space, vec![segment], false);
    }

    fn give(&mut self, liar: usize, conn: ConnId, space: SpaceId, segments: Vec<Segment>, asked: bool) {
        let at = self.spaces.iter().position(|(s, ..)| *s == space).unwrap_or(0);
        let Some(end) = self.liars[liar].ends.get_mut(&conn) else { return };
        let Some(theirs) = end.handles[at] else { return };
        let wires = segments.into_iter().map(|segment| {
            end.openings = (end.openings + 1) % 1_024;
            WireSegment {
                doc: DocRef::Id(segment.doc),
                opening: OpeningRef::New(end.openings, segment.opening),
                first: segment.first,
                tip: segment.tip,
                entries: segment.entries,
            }
        });
        let data = Data { segments: wires.collect(), ..empty(theirs, asked) };
        self.tell(liar, conn, &Message::Data(data));
    }

    fn tell(&mut self, liar: usize, conn: ConnId, message: &Message) {
        let Some(end) = self.liars[liar].ends.get_mut(&conn) else { return };
        end.channel.send(&message.to_bytes());
        self.flush_liar(liar, conn);
    }

    fn flush_liar(&mut self, liar: usize, conn: ConnId) {
        while let Some(bytes) = self.liars[liar].ends.get_mut(&conn).and_then(|end| end.channel.poll_frame()) {
            self.keep(liar, &bytes);
            self.carry(conn, bytes);
        }
    }

    fn keep(&mut self, liar: usize, bytes: &[u8]) {
        if bytes.len() < 400 && self.liars[liar].kept.len() < KEPT {
            self.liars[liar].kept.push(bytes.to_vec());
        }
    }

    fn carry(&mut self, conn: ConnId, bytes: Vec<u8>) {
        let jitter = self.rng.below(4);
        let Some(link) = self.network.links.get_mut(&conn) else { return };
        let at = link.send(0, self.now, jitter, bytes.len());
        self.later(at.saturating_sub(self.now), Step::Frame { conn, end: 1, bytes });
    }

    /// A frame from an honest peer.
    pub(super) fn hear(&mut self, liar: usize, conn: ConnId, bytes: &[u8]) -> Result<(), String> {
        self.keep(liar, bytes);
        let Some(end) = self.liars[liar].ends.get_mut(&conn) else { return Ok(()) };
        let host = end.host;
        if end.channel.receive(bytes, &Limits::default()).is_err() {
            // It replayed something, and is not understood any more.
            self.liars[liar].ends.remove(&conn);
            return Ok(());
        }
        let mut heard = Vec::new();
        while let Some(bytes) = end.channel.poll_message() {
            heard.push(
                Message::from_bytes(&bytes, &Limits::default()).map_err(|e| format!("a peer says nonsense: {e}"))?,
            );
        }
        self.flush_liar(liar, conn);
        self.greet(liar, conn);
        for message in heard {
            self.answer(liar, conn, host, message);
        }
        Ok(())
    }

    fn greet(&mut self, liar: usize, conn: ConnId) {
        let Some(end) = self.liars[liar].ends.get_mut(&conn).filter(|end| !end.greeted) else { return };
        let Some(session) = end.channel.session_hash() else { return };
        end.greeted = true;
        let host = end.host;
        let spaces = self.spaces.iter().zip(0u32..).map(|((space, ..), handle)| {
            let mut hasher = blake3::Hasher::new_keyed(&session);
            hasher.update(b"commonhold space tag 1").update(&[1]).update(&space.0);
            let hash = blake3::hash(&space.0);
            let tag = hasher.finalize().as_bytes()[..16].try_into().expect("16 of 32 bytes");
            let held = self.hosts[host].run.as_ref().and_then(|run| run.peer.space(space));
            SpaceHello {
                handle,
                prefix: u16::from_be_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]),
                tag,
                cursor: None,
                fingerprint: held.map(|held| held.fingerprint).unwrap_or_default(),
                ride: 1 << 16,
                fresh: false,
                filter: None,
                wants_genesis: false,
            }
        });
        let (store, spaces) = (StoreId([200 + liar as u8; 16]), spaces.collect());
        let hello =
            Hello { features: 0, roles: 3, store, agent: "liar".into(), addresses: vec![], spaces, record: None };
        self.tell(liar, conn, &Message::Hello(hello));
    }

    fn answer(&mut self, liar: usize, conn: ConnId, host: usize, message: Message) {
        let spaces = match message {
            Message::Hello(hello) => hello.spaces,
            Message::Spaces(spaces) => spaces.spaces,
            Message::Want(want) => {
                let Some((space, ..)) = self.spaces.get(want.space as usize) else { return };
                let space = *space;
                let mut segments = Vec::new();
                let mut absent = Vec::new();
                for have in want.docs {
                    let all = self.liars[liar].chains.get(&(space, have.doc)).cloned().unwrap_or_default();
                    match all.get(self.rng.below(all.len() as u64 + 1) as usize).filter(|h| !h.is_empty()) {
                        Some(history) => segments.push(self.liars[liar].segment(space, have.doc, history, 0)),
                        None => absent.push(have.doc),
                    }
                }
                let theirs = self.liars[liar].ends.get(&conn).and_then(|end| end.handles[want.space as usize]);
                // Or nothing at all comes.
                if let Some(theirs) = theirs.filter(|_| self.rng.below(4) > 0) {
                    self.give(liar, conn, space, segments, true);
                    self.tell(liar, conn, &Message::Data(Data { absent, ..empty(theirs, true) }));
                }
                return;
            }
            Message::Check(check) if !check.answer => {
                let Some((space, ..)) = self.spaces.get(check.space as usize) else { return };
                let held = self.hosts[host].run.as_ref().and_then(|run| run.peer.space(space));
                let fingerprint =
                    held.map(|held| held.fingerprint).filter(|_| self.rng.below(2) == 0).unwrap_or_default();
                let theirs = self.liars[liar].ends.get(&conn).and_then(|end| end.handles[check.space as usize]);
                if let Some(space) = theirs {
                    let seq = self.rng.below(100);
                    self.tell(liar, conn, &Message::Check(Check { space, fingerprint, docs: 3, seq, answer: true }));
                }
                return;
            }
            _ => return,
        };
        let Some(session) = self.liars[liar].ends.get(&conn).and_then(|end| end.channel.session_hash()) else { return };
        for hello in spaces {
            for (at, (space, ..)) in self.spaces.iter().enumerate() {
                let mut hasher = blake3::Hasher::new_keyed(&session);
                hasher.update(b"commonhold space tag 1").update(&[0]).update(&space.0);
                if hasher.finalize().as_bytes()[..16] == hello.tag
                    && let Some(end) = self.liars[liar].ends.get_mut(&conn)
                {
                    end.handles[at] = Some(hello.handle);
                }
            }
        }
    }
}

/// Entries with everything that they depend on before them; those that lack something are left out.
fn causal(mut rest: Vec<Known>) -> Vec<Known> {
    let (mut done, mut out) = (BTreeSet::new(), Vec::with_capacity(rest.len()));
    loop {
        let (ready, later): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|e: &Known| e.deps.iter().all(|dep| done.contains(dep)));
        if ready.is_empty() {
            return out;
        }
        done.extend(ready.iter().map(|e| e.id));
        out.extend(ready);
        rest = later;
    }
}

fn empty(space: u32, asked: bool) -> Data {
    Data { space, segments: vec![], haves: vec![], upto: None, fingerprint: None, asked, absent: vec![], proofs: None }
}
