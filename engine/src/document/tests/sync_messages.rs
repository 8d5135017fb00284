//! Sync messages of clients: what is read, what is refused, and that no bytes do harm.

use std::collections::BTreeSet;
use std::io::Write;

use automerge::sync::{BloomFilter, ChunkList, Have, Message, MessageVersion, State, SyncDoc};
use automerge::transaction::Transactable;
use automerge::{AutoCommit, ROOT, ReadDoc};
use commonhold_sync::limits::Rules;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

use super::super::sync_message::{SyncMessage, asking};
use super::super::sync_state::SyncState;
use super::*;

fn read(bytes: &[u8]) -> Result<SyncMessage, BadMessage> {
    SyncMessage::read(bytes, &Rules::V1)
}

fn message(changes: Vec<Vec<u8>>) -> Message {
    Message {
        heads: vec![am::ChangeHash([1; 32])],
        need: vec![am::ChangeHash([2; 32])],
        have: vec![Have { last_sync: Vec::new(), bloom: BloomFilter::from_hashes([am::ChangeHash([3; 32])].iter()) }],
        changes: ChunkList::from(changes),
        flags: None,
        version: MessageVersion::V1,
    }
}

/// What a client holds that has typed a little.
fn client(n: u8) -> AutoCommit {
    let mut doc = AutoCommit::new().with_actor(am::ActorId::from([n; 16]));
    doc.put(ROOT, "title", "x".repeat(400)).unwrap();
    doc.commit();
    doc.put(ROOT, "n", i64::from(n)).unwrap();
    doc.commit();
    doc
}

fn changes_of(doc: &mut AutoCommit) -> Vec<Vec<u8>> {
    doc.get_changes(&[]).iter().map(|change| change.raw_bytes().to_vec()).collect()
}

/// A message with one have, whose filter is these bytes.
fn with_filter(filter: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x42, 0, 0, 1, 0, filter.len() as u8];
    bytes.extend_from_slice(filter);
    bytes.push(0);
    bytes
}

#[test]
fn a_message_of_a_client_is_read_whole() {
    let mut doc = client(1);
    let changes = changes_of(&mut doc);
    let read = read(&message(changes.clone()).encode()).unwrap();
    assert_eq!((read.heads.len(), read.need.len(), read.have.is_some(), read.bad.len()), (1, 1, true, 0));
    assert_eq!(read.changes.iter().map(|change| change.bytes.clone()).collect::<Vec<_>>(), changes);
    assert!(SyncMessage::read(&asking(&read.heads), &Rules::V1).unwrap().heads.is_empty());
}

#[test]
fn a_change_that_a_client_compressed_is_the_same_change() {
    let mut doc = client(1);
    let compressed: Vec<Vec<u8>> = doc.get_changes(&[]).iter_mut().map(|change| change.bytes().to_vec()).collect();
    assert!(compressed.iter().any(|bytes| bytes[8] == 2), "one of them is long enough");
    let read = read(&message(compressed).encode()).unwrap();
    assert_eq!(read.changes.into_iter().map(|change| change.bytes).collect::<Vec<_>>(), changes_of(&mut doc));
}

#[test]
fn a_filter_that_ends_the_process_is_refused() {
    let most = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let bombs: [&[u8]; 7] = [
        // No bits an entry; 2^32 - 1 probes; as many entries; as many bits; no probes; cut off; longer than it says.
        &[1, 0, 7],
        &[&[1, 8][..], &most, &[0]].concat(),
        &[&most[..], &[1, 7, 0]].concat(),
        &[&[1][..], &most, &[7, 0]].concat(),
        &[1, 8, 0, 0],
        &[1, 8],
        &[1, 8, 7, 0, 0],
    ];
    for bomb in bombs {
        assert!(read(&with_filter(bomb)).is_err(), "{bomb:?}");
    }
    for good in [&[][..], &[1, 8, 7, 0]] {
        assert!(read(&with_filter(good)).is_ok(), "{good:?}");
    }
}

#[test]
fn counts_beyond_the_limits_are_refused_before_anything_is_allocated() {
    let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for before in [&[0x42][..], &[0x42, 0], &[0x42, 0, 0], &[0x42, 0, 0, 0], &[0x42, 0, 0, 1], &[0x42, 0, 0, 1, 0]] {
        let refused = read(&[before, &most].concat()).unwrap_err();
        assert!(matches!(refused, BadMessage::TooMuch { .. } | BadMessage::Malformed(_)), "{refused}");
    }
    assert!(matches!(
        read(&[0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        Err(BadMessage::Malformed(_))
    ));
    let large = vec![0x42; MESSAGE_BYTES_MAX + 1];
    assert!(matches!(read(&large), Err(BadMessage::TooMuch { what: "bytes", .. })));
}

#[test]
fn a_message_that_is_cut_off_is_refused_wherever_that_is() {
    let whole = message(changes_of(&mut client(1))).encode();
    for end in 0..whole.len() {
        assert!(read(&whole[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_whole_document_is_refused_and_flags_are_left_out() {
    let mut bytes = message(Vec::new()).encode();
    bytes[0] = 0x43;
    assert_eq!(read(&bytes).unwrap_err(), BadMessage::WholeDocument);
    let mut doc = client(1);
    let mut state = State::new();
    let offer = doc.sync().generate_sync_message(&mut state).unwrap();
    assert!(offer.flags.is_some(), "the library offers to take whole documents");
    let read = read(&offer.encode()).unwrap();
    assert_eq!(read.for_library().flags, None);
}

#[test]
fn a_change_that_inflates_to_more_than_a_change_may_have_is_refused_alone() {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![0; 64 << 20]).unwrap();
    let body = encoder.finish().unwrap();
    let mut bomb = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 2];
    let mut length = body.len();
    while length >= 0x80 {
        bomb.push(length as u8 | 0x80);
        length >>= 7;
    }
    bomb.push(length as u8);
    bomb.extend_from_slice(&body);
    let mut changes = changes_of(&mut client(1));
    changes.insert(1, bomb);
    let read = read(&message(changes).encode()).unwrap();
    assert_eq!((read.changes.len(), read.bad.len(), read.bad[0].at), (2, 1, 1));
    assert!(read.bad[0].why.contains("larger"), "{}", read.bad[0].why);
}

/// One client, told what a view says, until neither has anything more to say.
fn converses(view: &mut View, state: &mut SyncState, doc: &mut AutoCommit, theirs: &mut State) {
    for _ in 0..20 {
        let question = doc.sync().generate_sync_message(theirs);
        let silent = question.is_none();
        if let Some(question) = question {
            receive(view, state, &question.encode());
        }
        let answer = state.generate(view, &BTreeSet::new()).unwrap();
        if silent && answer.is_none() {
            return;
        }
        if let Some(answer) = answer {
            let answer = Message::decode(&answer).unwrap();
            assert_eq!(answer.flags, None, "a client is not offered whole documents");
            doc.sync().receive_sync_message(theirs, answer).unwrap();
        }
    }
    panic!("they talk for ever");
}

fn receive(view: &mut View, state: &mut SyncState, bytes: &[u8]) {
    let Ok(mut message) = read(bytes) else { return };
    let changes = std::mem::take(&mut message.changes);
    let brought = !changes.is_empty();
    let sorted = view.vouchable(changes);
    let entries: Vec<_> = sorted.runs.into_iter().flatten().map(|change| (change.head.id, change.bytes)).collect();
    give(view, &entries);
    state.receive(view, &message, brought, brought).unwrap();
}

#[test]
fn a_client_and_a_view_end_up_with_the_same() {
    let mut view = view(9);
    set(&mut view, json!({ "ours": [1, 2] }));
    view.flush().unwrap();
    let (mut state, mut doc, mut theirs) = (SyncState::default(), client(1), State::new());
    converses(&mut view, &mut state, &mut doc, &mut theirs);
    set(&mut view, json!({ "ours": [1, 2], "title": "new", "n": 1 }));
    view.flush().unwrap();
    doc.put(ROOT, "more", true).unwrap();
    converses(&mut view, &mut state, &mut doc, &mut theirs);
    assert_eq!(view.json_at(&path(&["more"])), Some(json!(true)));
    assert_eq!(doc.get(ROOT, "title").unwrap().unwrap().0.as_str(), Some("new"));
    let heads: Vec<EntryId> = doc.get_heads().iter().map(|hash| EntryId(hash.0)).collect();
    assert_eq!(heads, view.heads());
}

#[test]
fn a_client_whose_changes_are_refused_is_not_talked_to_for_ever() {
    let mut view = view(9);
    set(&mut view, json!({ "ours": true }));
    view.flush().unwrap();
    let (mut state, mut doc, mut theirs) = (SyncState::default(), AutoCommit::new(), State::new());
    let mut leaps = client(1).get_changes(&[])[0].decode();
    leaps.start_op = (1 << 30).try_into().unwrap();
    doc.apply_changes([am::Change::from(leaps)]).unwrap();
    converses(&mut view, &mut state, &mut doc, &mut theirs);
    assert_eq!(view.to_json(), json!({ "ours": true }));
}

#[test]
fn changes_are_sorted_into_runs_and_what_cannot_be_is_told() {
    let view = view(9);
    let mut one = client(1);
    let mut two = one.fork().with_actor(am::ActorId::from([2; 16]));
    two.put(ROOT, "two", 2).unwrap();
    two.commit();
    one.merge(&mut two).unwrap();
    one.put(ROOT, "three", 3).unwrap();
    one.commit();
    let mut all = read(&message(changes_of(&mut one)).encode()).unwrap().changes;
    all.reverse();
    let sorted = view.vouchable(all.clone());
    let runs: Vec<usize> = sorted.runs.iter().map(Vec::len).collect();
    assert_eq!((runs, sorted.missing.len(), sorted.refused.len()), (vec![2, 1, 1], 0, 0));
    // Without the first, nothing; the first and another with its number: one of the two.
    let first = all.pop().unwrap();
    assert_eq!(view.vouchable(all.clone()).missing.len(), 3);
    let mut other = AutoCommit::new().with_actor(am::ActorId::from([1; 16]));
    other.put(ROOT, "other", 1).unwrap();
    other.commit();
    let twin = read(&message(changes_of(&mut other)).encode()).unwrap().changes;
    let sorted = view.vouchable([vec![first], twin, all].concat());
    assert_eq!(sorted.runs.iter().map(Vec::len).sum::<usize>(), 4);
    assert!(sorted.refused[0].1.contains("number"), "{:?}", sorted.refused);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut with_type = vec![0x42];
        with_type.extend_from_slice(&bytes);
        for bytes in [&bytes, &with_type] {
            let (mut view, mut state) = (view(9), SyncState::default());
            receive(&mut view, &mut state, bytes);
            let _ = state.generate(&mut view, &BTreeSet::new());
        }
    }

    #[test]
    fn no_altered_message_does_harm(
        edits in proptest::collection::vec((any::<Index>(), any::<u8>(), 0u8..3), 1..6),
        cut in proptest::option::of(any::<Index>()),
    ) {
        let mut doc = client(1);
        let mut whole = message(changes_of(&mut doc));
        whole.heads = doc.get_heads();
        let mut bytes = whole.encode();
        for (at, byte, how) in edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        if let Some(cut) = cut.filter(|_| !bytes.is_empty()) {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (mut view, mut state) = (view(9), SyncState::default());
        receive(&mut view, &mut state, &bytes);
        state.generate(&mut view, &BTreeSet::new()).unwrap();
        // Honest ones go on.
        converses(&mut view, &mut SyncState::default(), &mut client(2), &mut State::new());
        prop_assert_eq!(view.json_at(&path(&["n"])).is_some(), true);
    }
}
