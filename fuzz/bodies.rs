//! What the fuzzers run. An ordinary test (`tests/tests/corpus.rs`) runs the same over the kept corpus.

#![allow(dead_code, unreachable_pub, reason = "each target uses one")]

#[path = "bodies/forks.rs"]
pub mod forks;
#[path = "bodies/rights.rs"]
pub mod rights;
#[path = "bodies/stored.rs"]
pub mod stored;
#[path = "bodies/wire.rs"]
pub mod wire;

use automerge as am;
use commonhold_engine::document::{ChainAuthor, ObjId, View};
use commonhold_sync::chain::{Kind, Opening, Segment, Tip};
use commonhold_sync::change::{self, DocumentCaps, walk, walk_document};
use commonhold_sync::id::{DeviceId, DocId, SpaceId};
use commonhold_sync::limits::{Limits, Rules};
use commonhold_sync::log::{Admission, Header, Image, Log, Need};
use commonhold_sync::merkle::Frontier;
use commonhold_sync::message::Message;
use commonhold_sync::secure::Channel;
use ed25519_dalek::SigningKey;

/// Data as the content of a chunk, with the right length and checksum.
fn chunk(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, kind];
    let mut length = data.len();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(data);
    let id = change::id(&out).expect("longer than a header");
    out[4..8].copy_from_slice(&id.0[..4]);
    out
}

/// A change that passes the walk is one to Automerge too, with the same id, number and operations.
pub fn change_walk(data: &[u8]) {
    let bytes = chunk(1, data);
    let Ok(head) = walk(&bytes, &Rules::V1) else { return };
    assert_eq!(change::ops(&bytes).count() as u64, head.ops);
    let parsed = am::Change::from_bytes(bytes.clone()).expect("what passes the walk parses");
    assert_eq!((parsed.hash().0, parsed.seq(), parsed.len() as u64), (head.id.0, head.seq, head.ops));
    assert_eq!(am::Change::from(parsed.decode()).raw_bytes(), &bytes[..], "and is in the form that Automerge writes");
}

/// A document that passes the walk loads, or is refused, without a panic and within what the walk foretold.
pub fn document_walk(data: &[u8]) {
    let bytes = chunk(0, data);
    let caps = DocumentCaps { bytes: 1 << 20, changes: 1_000, ops: 10_000, actors: 100, memory: 64 << 20 };
    if walk_document(&bytes, &Rules::V1, &caps).is_ok() {
        let mut packed = b"CHsn\x01\x00".to_vec();
        packed.extend((bytes.len() as u64).to_le_bytes());
        packed.extend(bytes);
        if let Ok((mut view, _)) = View::from_snapshot(&packed, &Default::default()) {
            let _ = view.verify();
        }
    }
}

/// A message decodes or does not, and what decodes survives its encoding.
pub fn message_decode(data: &[u8]) {
    let limits = Limits::default();
    if let Ok(message) = Message::from_bytes(data, &limits) {
        assert_eq!(Message::from_bytes(&message.to_bytes(), &limits), Ok(message));
    }
}

/// Frames of any content, to either side at any stage. The first byte of each piece is its length.
pub fn channel_frames(data: &[u8]) {
    let limits = Limits::default();
    let (a, b) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    let mut dialler = Channel::dial(&a, None, [3; 32], &limits);
    let mut acceptor = Channel::accept(&b, [4; 32], &limits);
    let (honest, mut rest) = data.split_first().map_or((0, data), |(n, rest)| (n % 4, rest));
    for step in 0..honest {
        let (from, to) = if step % 2 == 0 { (&mut dialler, &mut acceptor) } else { (&mut acceptor, &mut dialler) };
        if let Some(frame) = from.poll_frame() {
            to.receive(&frame, &limits).expect("both are honest so far");
        }
    }
    while let Some((length, after)) = rest.split_first() {
        let (frame, after) = after.split_at(usize::from(*length).min(after.len()));
        for channel in [&mut dialler, &mut acceptor] {
            let _ = channel.receive(frame, &limits);
            while channel.poll_message().is_some() {}
            while channel.poll_frame().is_some() {}
        }
        rest = after;
    }
}

/// A change goes all the way in: walk, log, view. Whatever comes through leaves a document that saves, loads and edits.
pub fn admission(data: &[u8]) {
    let (space, doc) = (SpaceId([1; 32]), DocId([2; 32]));
    let key = SigningKey::from_bytes(&[1; 32]);
    let opening = Opening { device: DeviceId(key.verifying_key().to_bytes()), salt: [0; 8], kind: Kind::Own };
    let author = ChainAuthor { actor: opening.chain(&space, &doc).0, device: opening.device.0 };
    let mut view = View::new();
    view.set_chain(author).expect("a new view is whole");
    view.edit(|edit| edit.put(&ObjId::ROOT, "k", 1)).expect("an honest edit");
    let first = view.flush().expect("a new view is whole").remove(0);
    // The actor, number, start and dependency of the next change, so that the rest is reached.
    let mut content = vec![1];
    content.extend(first.id.0);
    content.push(16);
    content.extend(author.actor);
    content.extend([2, 2]);
    content.extend_from_slice(data);
    let bytes = chunk(1, &content);
    let id = change::id(&bytes).expect("longer than a header");
    let header = Header { creator: opening.device, kind: String::new(), name: String::new() };
    let (mut log, _) = Log::load(space, doc, Image::of_header(header), &[]);
    let mut frontier = Frontier::default();
    for (n, (id, bytes)) in (1..).zip([(first.id, first.bytes), (id, bytes.clone())]) {
        frontier.push(&id);
        let tip = Tip::sign(&key, &space, &doc, &opening, n, &frontier.head(), vec![]);
        let segment = Segment { doc, opening: opening.clone(), first: n, entries: vec![bytes], tip };
        if !matches!(log.admit(&Rules::V1, &Limits::default(), segment, Need::Asked), Admission::Admitted(_)) {
            assert_ne!(n, 1, "the first is honest");
            return;
        }
    }
    let out = view.apply_remote(&[(id, &bytes)], &mut |_| panic!("automerge failed on an admitted change"));
    if out.applied == 1 {
        view.set_chain(ChainAuthor { actor: [7; 16], device: [7; 32] }).expect("nothing is pending");
        view.edit(|edit| edit.put(&ObjId::ROOT, "alive", true)).expect("an honest edit");
        view.flush().expect("the view is whole");
        let packed = view.to_snapshot().expect("nothing is pending");
        let (again, _) = View::from_snapshot(&packed, &Default::default()).expect("its own snapshot loads");
        assert_eq!(again.heads(), view.heads());
        let content = view.content();
        let mut fresh = View::new();
        fresh.set_chain(author).expect("a new view is whole");
        fresh.edit(|edit| edit.fill(&ObjId::ROOT, &content)).expect("what a document shows fits another");
        // As words: a number that is none does not equal itself.
        assert_eq!(format!("{:?}", fresh.content()), format!("{content:?}"));
    }
}
