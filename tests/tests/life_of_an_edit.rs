//! One edit, from the app that makes it to the app that is told of it, and back to its author as an acknowledgement. Three
//! peers in a row, Ann – Ben – Cleo, so that a relay is on the way; each step is one input and everything that comes out.
//! Read it from the test downwards.
//!
//! Where the machine goes another way than the walk in the design, this is what it does:
//! - What is signed, stored, sent and acknowledged is a segment: the entries under one tip.
//! - The author's own entries are told ([`Event::Entries`], from nobody) in the step that stores them; [`Event::Saved`] comes once
//!   they are on disk, and with it the first byte leaves.
//! - Structural admission, forwarding, storing and the event for the view are one step at the receiver. Semantic admission is the
//!   view's, when it applies the batch; an entry that fails there is held and relayed but not shown.
//! - An acknowledgement to the author itself leaves in the step that says stored. One to a relay, which waits for nothing, is
//!   gathered with others for two seconds and sent from a timer.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

use std::collections::VecDeque;
use std::sync::Arc;

use commonhold_engine::document::{ChainAuthor, EditError, LocalEntry, ObjId, Patch, PatchAction, Prop, View};
use commonhold_engine::storage::Storage;
use commonhold_engine::store::{Batch, MemoryStore};
use commonhold_engine::transport::Link;
use commonhold_engine::{Config, Node};
use commonhold_sync::id::{ChainId, DocId, SpaceId, StoreId};
use commonhold_sync::merkle::Frontier;
use commonhold_sync::peer::{ConnId, Event, Input, Load, Loaded, Local, Now, Output, Peer, Start, StoreOp, Ticket};
use commonhold_sync::record::{Genesis, Privacy, Record, Writers};
use ed25519_dalek::SigningKey;
use serde_json::json;

const ANN: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
/// Ann and Ben.
const FIRST: ConnId = ConnId(1);
/// Ben and Cleo.
const SECOND: ConnId = ConnId(2);
/// How long an acknowledgement to a relay may be gathered, milliseconds.
const ACK_DELAY: u64 = 2_000;

#[test]
fn an_edit_is_signed_stored_sent_forwarded_stored_shown_and_acknowledged() {
    let Row { mut sides, space, doc, now } = Row::level();
    let [ann, ben, cleo] = &mut sides;
    let opening = ann.peer.own_opening(&space, &doc);
    let chain: ChainId = opening.chain(&space, &doc);

    // The app edits, and a flush makes a change of it.
    let entry = edit(&mut ann.view, ChainAuthor { actor: chain.0, device: opening.device.0 });
    assert_eq!((entry.actor, entry.seq), (chain.0, 1));

    // The machine signs a tip over the entry and wants both stored in one transaction. Nothing leaves yet.
    let entries = Local::Entries { doc, opening: opening.clone(), entries: vec![entry.bytes.clone()] };
    let outputs = ann.handle(now, Input::Local { ticket: Ticket(7), space, local: entries });
    let [Output::Emit(Event::Entries { from: None, .. }), Output::Store { op, ops }] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    let [(None, stored)] = segments(ops)[..] else { panic!("{ops:?}") };
    assert_eq!((stored.doc, stored.first, &stored.entries), (doc, 1, &vec![entry.bytes.clone()]));
    let mut tree = Frontier::default();
    tree.push(&entry.id);
    assert!(stored.tip.verifies(&space, &doc, &opening, &tree.head()));
    assert!(ops.iter().any(|op| matches!(op, StoreOp::Document { doc: d, .. } if *d == doc)), "its row");
    assert!(ops.iter().any(|op| matches!(op, StoreOp::Space { .. })), "the sequence of the store");

    // On disk: the app hears that it is saved, and the segment leaves for the neighbour, in this order.
    ann.commit(ops.clone());
    let outputs = ann.handle(now, Input::Stored { op: *op });
    let [
        Output::Emit(Event::Saved { ticket: Ticket(7), end: Some((saved, 1)), .. }),
        Output::Send { conn: FIRST, bytes: pushed },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(*saved, chain);

    // The neighbour checks tip, right and structure, and in one step tells its view, stores, and forwards: not back, and without
    // waiting for its disk.
    let outputs = ben.handle(now, Input::Frame { conn: FIRST, bytes: pushed.clone() });
    let [
        Output::Emit(Event::Entries { from: Some(from), n: 1, entries: arrived, .. }),
        Output::Store { op, ops },
        Output::Send { conn: SECOND, bytes: forwarded },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((*from, arrived), (ann.peer.device(), &vec![(entry.id, entry.bytes.clone())]));
    let [(Some(source), relayed)] = segments(ops)[..] else { panic!("{ops:?}") };
    let hash = blake3::hash(&[&ann.peer.device().0[..], &ann.peer.store_id().0].concat());
    assert_eq!((&source.0[..], relayed), (&hash.as_bytes()[..16], stored));

    // Its view admits the entry by its meaning, and applies it; the app's watchers are told in patches.
    assert_eq!(ben.show(arrived), greeting());
    assert_eq!(ben.view.to_json(), json!({ "greeting": "hello" }));

    // Two steps away it is the same, from whoever delivered it; there is nobody to forward it to.
    let outputs = cleo.handle(now, Input::Frame { conn: SECOND, bytes: forwarded.clone() });
    let [
        Output::Emit(Event::Entries { from: Some(from), entries: arrived, .. }),
        Output::Store { op: last, ops: there },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(*from, ben.peer.device());
    assert_eq!(cleo.show(arrived), greeting());
    cleo.commit(there.clone());
    assert!(cleo.handle(now, Input::Stored { op: *last }).is_empty(), "a relay can wait");
    assert!(cleo.peer.poll_timeout().unwrap().0 <= now.0 + ACK_DELAY);
    assert_eq!(sent(&cleo.handle(Now(now.0 + ACK_DELAY), Input::Tick), SECOND).len(), 1);

    // As long as it is not on the neighbour's disk, nothing is acknowledged, whatever time passes.
    let later = Now(now.0 + ACK_DELAY);
    let early = ben.handle(later, Input::Tick);
    for frame in sent(&early, FIRST) {
        let outputs = ann.handle(later, Input::Frame { conn: FIRST, bytes: frame });
        assert!(!outputs.iter().any(|output| matches!(output, Output::Emit(Event::Acked { .. }))), "{outputs:?}");
    }

    // On its disk: the author, who delivered it, has the acknowledgement at once.
    ben.commit(ops.clone());
    let outputs = ben.handle(later, Input::Stored { op: *op });
    let [Output::Send { conn: FIRST, bytes: acknowledgement }] = &outputs[..] else { panic!("{outputs:?}") };

    // The author, whose clock is her own, learns that a second disk has it.
    let outputs = ann.handle(now, Input::Frame { conn: FIRST, bytes: acknowledgement.clone() });
    let [Output::Emit(Event::Acked { peer, doc: of, chain: acked, n: 1, .. })] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((*peer, *of, *acked), (ben.peer.device(), doc, chain));

    // What is on both disks is the same segment.
    assert_eq!(ben.held(space, doc), ann.held(space, doc));
    assert_eq!(ben.held(space, doc).len(), 1);
}

/// The status of the author counts a comparison that finds both the same as an acknowledgement, so it may not come before one.
#[test]
fn a_comparison_does_not_say_that_an_edit_is_held_before_it_is_on_disk() {
    let Row { mut sides, space, doc, now } = Row::level();
    let [ann, ben, _] = &mut sides;
    let opening = ann.peer.own_opening(&space, &doc);
    let chain: ChainId = opening.chain(&space, &doc);
    let entry = edit(&mut ann.view, ChainAuthor { actor: chain.0, device: opening.device.0 });
    let local = Local::Entries { doc, opening, entries: vec![entry.bytes] };
    let mut waiting = vec![(ANN, Input::Local { ticket: Ticket(7), space, local })];
    // Ben's disk is slow: nothing that he wants stored is on it before the end. Ann's is not.
    for tick in 0..60 {
        let at = Now(now.0 + 500 * tick);
        waiting.extend([(ANN, Input::Tick), (BEN, Input::Tick)]);
        let mut inputs = VecDeque::from(std::mem::take(&mut waiting));
        while let Some((side, input)) = inputs.pop_front() {
            let it = if side == ANN { &mut *ann } else { &mut *ben };
            for output in it.handle(at, input) {
                match output {
                    Output::Send { conn: FIRST, bytes } => {
                        inputs.push_back((BEN - side, Input::Frame { conn: FIRST, bytes }));
                        inputs.push_back((side, Input::Drained { conn: FIRST, pending: 0 }));
                    }
                    Output::Store { op, ops } if side == ANN => {
                        it.commit(ops);
                        inputs.push_back((side, Input::Stored { op }));
                    }
                    Output::Load { op, load } => {
                        let loaded = it.storage.load(&load).unwrap().value;
                        inputs.push_back((side, Input::Loaded { op, loaded }));
                    }
                    Output::Emit(event @ (Event::Level { .. } | Event::Acked { .. })) if side == ANN => {
                        panic!("after {} ms: {event:?}", 500 * tick)
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The last line of the walk, which is the engine's: what it makes of the machine's answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_the_author_says_who_has_it_on_disk() {
    let (ann, ben) = (Node::open(Config::default()).await.unwrap(), Node::open(Config::default()).await.unwrap());
    let space = ann.create_space(Writers::Anyone).await.unwrap();
    ben.join(&ann.invite(space).unwrap()).await.unwrap();
    let document = ann.create_document(space, "", "").await.unwrap();
    document.set("/greeting", "hello").await.unwrap();
    document.flush().await.unwrap();
    let alone = document.sync_status().await;
    assert!(alone.saved_here && alone.acknowledged.is_empty(), "{alone:?}");

    let (ours, theirs) = Link::pair(&Default::default());
    ann.attach(ours, true, Some(ben.device()));
    ben.attach(theirs, false, None);
    assert_eq!(document.wait_acked(1).await.unwrap(), vec![ben.device()]);
    assert_eq!(document.sync_status().await.acknowledged, vec![(ben.device(), true)]);
}

fn edit(view: &mut View, author: ChainAuthor) -> LocalEntry {
    view.set_chain(author).unwrap();
    view.edit(|edit| edit.put(&ObjId::ROOT, "greeting", "hello")).map_err(|error: EditError| error).unwrap();
    let [entry] = &view.flush().unwrap()[..] else { panic!("one flush of one edit is one change") };
    entry.clone()
}

fn greeting() -> Vec<Patch> {
    let action = PatchAction::Put { value: json!("hello"), conflict: false };
    vec![Patch { path: vec![Prop::Key("greeting".into())], action }]
}

/// The segments to be stored, and the stores that they came from.
fn segments(ops: &[StoreOp]) -> Vec<(Option<StoreId>, &commonhold_sync::chain::Segment)> {
    let segment = |op| match op {
        &StoreOp::Segment { source, ref stored, .. } => Some((source, &stored.segment)),
        _ => None,
    };
    ops.iter().filter_map(segment).collect()
}

fn sent(outputs: &[Output], to: ConnId) -> Vec<Vec<u8>> {
    let frame = |output: &Output| match output {
        Output::Send { conn, bytes } if *conn == to => Some(bytes.clone()),
        _ => None,
    };
    outputs.iter().filter_map(frame).collect()
}

/// A machine, its disk, and what its app sees.
struct Side {
    peer: Peer,
    storage: Storage,
    view: View,
}

impl Side {
    fn new(index: usize) -> Side {
        let n = index as u8 + 1;
        let peer = Peer::new(Start::empty(SigningKey::from_bytes(&[n; 32]), StoreId([n; 16]), [n; 8], [n; 32]));
        let mut view = View::new();
        view.watch(true);
        Side { peer, storage: Storage::new(Arc::new(MemoryStore::new())), view }
    }

    /// One input, and everything that comes out.
    fn handle(&mut self, now: Now, input: Input) -> Vec<Output> {
        self.peer.handle(now, input);
        std::iter::from_fn(|| self.peer.poll_output()).collect()
    }

    fn commit(&self, ops: Vec<StoreOp>) {
        let mut batch = Batch::new();
        self.storage.write(ops, &mut batch).unwrap();
        self.storage.store().commit(batch).unwrap();
    }

    fn show(&mut self, entries: &[(commonhold_sync::id::EntryId, Vec<u8>)]) -> Vec<Patch> {
        let entries: Vec<_> = entries.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
        let applied = self.view.apply_remote(&entries, &mut |_| {});
        assert_eq!((applied.applied, applied.invalid, applied.missing), (entries.len(), vec![], vec![]));
        applied.patches
    }

    fn held(&self, space: SpaceId, doc: DocId) -> Vec<commonhold_sync::chain::Segment> {
        let read = self.storage.load(&Load::Logs { space, docs: vec![doc] }).unwrap();
        let Loaded::Logs(mut logs) = read.value else { panic!("logs were asked for") };
        let (_, segments) = logs.pop().unwrap().1.expect("the document is there");
        segments.into_iter().map(|stored| stored.segment).collect()
    }
}

/// The three, before the edit.
struct Row {
    sides: [Side; 3],
    space: SpaceId,
    doc: DocId,
    now: Now,
}

impl Row {
    /// They are connected, hold one space with an empty document, and have fallen silent.
    fn level() -> Row {
        let mut row =
            Row { sides: [ANN, BEN, CLEO].map(Side::new), space: SpaceId([0; 32]), doc: DocId([0; 32]), now: Now(0) };
        let root = row.sides[ANN].peer.device();
        let genesis =
            Genesis { root: root.into(), privacy: Privacy::Public, writers: Writers::Anyone, rules: 1, nonce: [9; 16] };
        row.space = genesis.space();
        for side in [ANN, BEN, CLEO] {
            row.run(side, Input::Join { space: row.space, genesis: Some(genesis.clone()), filter: None });
        }
        for (conn, from, to) in [(FIRST, ANN, BEN), (SECOND, CLEO, BEN)] {
            let expected = Some(row.sides[to].peer.device());
            row.run(to, Input::Connected { conn, dialled: false, expected: None });
            row.run(from, Input::Connected { conn, dialled: true, expected });
        }
        let header = Record::Header { nonce: [1; 16], kind: String::new(), name: "walk".into() };
        let local = Local::Records(vec![header]);
        row.run(ANN, Input::Local { ticket: Ticket(1), space: row.space, local });
        // Timers until nothing is sent for a while: comparisons are over, acknowledgements delivered.
        for _ in 0..100 {
            row.now = Now(row.now.0 + 100);
            (ANN..=CLEO).for_each(|side| row.run(side, Input::Tick));
        }
        assert_ne!(row.doc, DocId([0; 32]));
        row
    }

    /// An input, and what follows from it until nothing does, over wires and disks without a fault.
    fn run(&mut self, side: usize, input: Input) {
        let mut inputs = VecDeque::from([(side, input)]);
        while let Some((side, input)) = inputs.pop_front() {
            for output in self.sides[side].handle(self.now, input) {
                match output {
                    Output::Send { conn, bytes } => {
                        let to = if side == BEN { [ANN, CLEO][conn.0 as usize - 1] } else { BEN };
                        inputs.push_back((to, Input::Frame { conn, bytes }));
                        inputs.push_back((side, Input::Drained { conn, pending: 0 }));
                    }
                    Output::Store { op, ops } => {
                        self.sides[side].commit(ops);
                        inputs.push_back((side, Input::Stored { op }));
                    }
                    Output::Load { op, load } => {
                        let loaded = self.sides[side].storage.load(&load).unwrap().value;
                        inputs.push_back((side, Input::Loaded { op, loaded }));
                    }
                    Output::Emit(Event::Document { doc, .. }) => self.doc = doc,
                    Output::Emit(_) | Output::Blob(_) => {}
                    Output::Dial { .. } => {}
                    Output::Disconnect { reason, .. } => panic!("{reason:?}"),
                }
            }
        }
    }
}
