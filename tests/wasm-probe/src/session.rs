//! A whole session between two peers with fixed seeds: one that founded a space and wrote a document, and one that knows
//! the id of the space and dials. Compiled into the wasm probe and into the test that writes the vectors.

use std::collections::{BTreeMap, VecDeque};

use commonhold_sync::chain::Opening;
use commonhold_sync::id::{DeviceId, DocId, SpaceId, StoreId};
use commonhold_sync::log::{Image, StoredSegment};
use commonhold_sync::peer::{
    ConnId, Event, Input, Load, Loaded, Local, Now, Output, PageRow, Peer, Start, StoreOp, Ticket,
};
use commonhold_sync::record::{Genesis, Privacy, Record, Writers};
use ed25519_dalek::SigningKey;

/// Secret key of the founder, who accepts the connection.
pub const FOUNDER: [u8; 32] = [1; 32];
/// Secret key of the newcomer, who dials.
pub const NEWCOMER: [u8; 32] = [2; 32];

/// Two changes to one document: `{"title": "tea"}`, then `{"title": "tea", "done": true}`. As Automerge 0.12 writes them
/// under the actor that the founder's chain has here; the test of the vectors compares.
pub const CHANGES: [&str; 2] = [
    concat!(
        "856f4a831353d7ad01350010af4f3ab1f026712cef970efbec4bfb7c0101000000061507340142025602570370027f057469746c65017f01",
        "7f367465617f00",
    ),
    concat!(
        "856f4a8393b990cc014f011353d7adc230783cbc4c038d1b90e06a2062d052bd3a159c47e20b65484657eb10af4f3ab1f026712cef970efb",
        "ec4bfb7c020200000005150634014202560270027f04646f6e65017f017f027f00",
    ),
];

/// A frame on the wire.
pub struct Frame {
    pub from_dialler: bool,
    pub bytes: Vec<u8>,
}

/// What happened.
pub struct Session {
    pub space: SpaceId,
    pub doc: DocId,
    /// Of the chain that the founder writes in the document.
    pub opening: Opening,
    pub frames: Vec<Frame>,
    /// Entries that the newcomer admitted.
    pub admitted: usize,
    /// How often either side found that both hold the same.
    pub level: usize,
}

/// Runs the session to its end.
pub fn run() -> Session {
    let mut founder = Host::new(FOUNDER, 1);
    let mut newcomer = Host::new(NEWCOMER, 2);
    let genesis = Genesis {
        root: founder.peer.device().into(),
        privacy: Privacy::Public,
        writers: Writers::Granted,
        rules: 1,
        nonce: [3; 16],
    };
    let space = genesis.space();
    let header = Record::Header { nonce: [4; 16], kind: "list".into(), name: "Shopping".into() };
    let doc = DocId(Record::id(&space, &founder.peer.device(), &header.to_bytes()).0);
    let opening = founder.peer.own_opening(&space, &doc);
    let entries = CHANGES.iter().map(|hex| unhex(hex)).collect();

    let mut frames = Vec::new();
    let mut now = 0;
    founder.input(now, Input::Join { space, genesis: Some(genesis), filter: None });
    founder.input(now, Input::Local { ticket: Ticket(1), space, local: Local::Records(vec![header]) });
    let local = Local::Entries { doc, opening: opening.clone(), entries };
    founder.input(now, Input::Local { ticket: Ticket(2), space, local });
    newcomer.input(now, Input::Join { space, genesis: None, filter: None });

    let conn = ConnId(1);
    let expected = Some(founder.peer.device());
    founder.input(now, Input::Connected { conn, dialled: false, expected: None });
    newcomer.input(now, Input::Connected { conn, dialled: true, expected });
    while now < 10_000 {
        let (from_newcomer, from_founder) = (newcomer.take(), founder.take());
        if from_newcomer.is_empty() && from_founder.is_empty() {
            let due = [&founder, &newcomer].into_iter().filter_map(|h| h.peer.poll_timeout()).map(|at| at.0).min();
            now = due.unwrap_or(now).max(now + 100);
            founder.input(now, Input::Tick);
            newcomer.input(now, Input::Tick);
        }
        for bytes in from_newcomer {
            frames.push(Frame { from_dialler: true, bytes: bytes.clone() });
            founder.input(now, Input::Frame { conn, bytes });
        }
        for bytes in from_founder {
            frames.push(Frame { from_dialler: false, bytes: bytes.clone() });
            newcomer.input(now, Input::Frame { conn, bytes });
        }
    }
    let level = founder.level + newcomer.level;
    Session { space, doc, opening, frames, admitted: newcomer.admitted, level }
}

/// A peer and the least of a store: what the session needs.
struct Host {
    peer: Peer,
    images: BTreeMap<DocId, Image>,
    segments: Vec<StoredSegment>,
    out: VecDeque<Vec<u8>>,
    admitted: usize,
    level: usize,
}

impl Host {
    fn new(secret: [u8; 32], n: u8) -> Host {
        let empty = Start::empty(SigningKey::from_bytes(&secret), StoreId([n; 16]), [n; 8], [n; 32]);
        let peer = Peer::new(Start { roles: 3, agent: "vectors".into(), ..empty });
        Host { peer, images: BTreeMap::new(), segments: Vec::new(), out: VecDeque::new(), admitted: 0, level: 0 }
    }

    fn take(&mut self) -> Vec<Vec<u8>> {
        self.out.drain(..).collect()
    }

    fn input(&mut self, now: u64, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.peer.handle(Now(now), input);
            while let Some(output) = self.peer.poll_output() {
                match output {
                    Output::Send { conn, bytes } => {
                        self.out.push_back(bytes);
                        inputs.push_back(Input::Drained { conn, pending: 0 });
                    }
                    Output::Store { op, ops } => {
                        ops.into_iter().for_each(|op| self.store(op));
                        inputs.push_back(Input::Stored { op });
                    }
                    Output::Load { op, load } => inputs.push_back(Input::Loaded { op, loaded: self.load(load) }),
                    Output::Emit(Event::Entries { entries, from: Some(_), .. }) => self.admitted += entries.len(),
                    Output::Emit(Event::Level { .. }) => self.level += 1,
                    Output::Emit(_) | Output::Blob(_) | Output::Dial { .. } | Output::Disconnect { .. } => {}
                }
            }
        }
    }

    fn store(&mut self, op: StoreOp) {
        match op {
            StoreOp::Document { doc, image, .. } => drop(self.images.insert(doc, image)),
            StoreOp::Segment { stored, .. } => self.segments.push(stored),
            _ => {}
        }
    }

    fn load(&self, load: Load) -> Loaded {
        match load {
            Load::Page { after, .. } => {
                let rows: Vec<StoredSegment> = self.segments.iter().filter(|s| s.seq > after).cloned().collect();
                let upto = rows.last().map_or(after, |s| s.seq);
                Loaded::Page { rows: rows.into_iter().map(PageRow::Segment).collect(), upto, end: true }
            }
            Load::Logs { docs, .. } | Load::Raw { docs, .. } => {
                let segments = |doc| self.segments.iter().filter(|s| s.segment.doc == doc).cloned().collect();
                let of = |doc| (doc, self.images.get(&doc).map(|image| (image.clone(), segments(doc))));
                Loaded::Logs(docs.into_iter().map(of).collect())
            }
            Load::Digests { .. } => Loaded::Digests(Vec::new()),
            Load::Snapshot { .. } => Loaded::Snapshot(None),
            Load::Deep { .. } => Loaded::Deep(Vec::new()),
            Load::Chain { .. } => Loaded::Chain(Vec::new()),
            Load::Concerned { .. } => Loaded::Concerned(Vec::new()),
        }
    }
}

/// Device ids of the two peers: newcomer (dialler), founder (acceptor).
#[allow(dead_code, reason = "the probe has no use for them")]
pub fn devices() -> [DeviceId; 2] {
    [NEWCOMER, FOUNDER].map(|secret| DeviceId(SigningKey::from_bytes(&secret).verifying_key().to_bytes()))
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).unwrap_or(0) as u8;
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
