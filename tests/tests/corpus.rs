//! Runs what the fuzzers run over the kept corpus (`fuzz/corpus/<target>`), and over seeds made here: real inputs, and each of
//! them cut short, grown, and with single bytes changed.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../fuzz/bodies.rs"]
mod bodies;
#[path = "hostile/forge.rs"]
mod forge;
#[path = "hostile/harness.rs"]
mod harness;

use std::path::Path;

use harness::*;

fn replay(target: &str, body: fn(&[u8]), seeds: &[Vec<u8>]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let kept = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut runs = 0;
    for file in kept {
        body(&std::fs::read(file.path()).unwrap());
        runs += 1;
    }
    assert!(runs > 0 || !seeds.is_empty(), "the corpus of {target} is kept at {}", folder.display());
    for seed in seeds {
        body(seed);
        for at in (0..seed.len()).step_by(seed.len() / 200 + 1) {
            body(&seed[..at]);
            for byte in [0, 1, 0x7f, 0x80, 0xff, seed[at].wrapping_add(1), seed[at] ^ 0x40] {
                let mut changed = seed.clone();
                changed[at] = byte;
                body(&changed);
                changed.insert(at, byte);
                body(&changed);
            }
            runs += 15;
        }
    }
    println!("{target}: {runs} inputs");
}

fn draft() -> Vec<u8> {
    let stage = Stage::new();
    let change = stage.forger().draft(&stage.base, |edit| {
        let list = edit.resolve(&["list".into()])?;
        edit.put(&list, 1, 9)?;
        edit.insert(&list, 0, 8)?;
        edit.set_json(&["map".into(), "k".into()], &serde_json::json!({"a": [1, true, "x"]}))
    });
    forge::content(&bytes_of(change)).to_vec()
}

#[test]
fn change_walk() {
    replay("change_walk", bodies::change_walk, &[draft()]);
}

#[test]
fn document_walk() {
    let mut stage = Stage::new();
    let doc = stage.doc;
    let view = stage.world.hosts[0].views.get_mut(&doc).unwrap();
    let mut plain = automerge::AutoCommit::new();
    plain.load_incremental(&view.entries_since(&[])[0].1).unwrap();
    let saved = plain.save_nocompress();
    replay("document_walk", bodies::document_walk, &[forge::content(&saved).to_vec()]);
}

#[test]
fn message_decode() {
    let mut stage = Stage::new();
    let honest = stage.honest.clone();
    let data = stage.liar.data(vec![honest], false).to_bytes();
    let hello = commonhold_sync::message::Message::Hello(stage.liar.hello(&stage.world)).to_bytes();
    replay("message_decode", bodies::message_decode, &[data, hello]);
}

#[test]
fn channel_frames() {
    replay("channel_frames", bodies::channel_frames, &[vec![2, 4, 0, 2, 1, 1], vec![3; 300], vec![1; 40]]);
}

#[test]
fn admission() {
    // What follows the start of a change with one assignment: time, message, actors, columns.
    let whole = draft();
    let stage = Stage::new();
    let put = forge::content(&bytes_of(stage.forger().put(&stage.base, "x", 1))).to_vec();
    // Behind the dependency, actor, number and start, all of known length here.
    let tail = |data: &[u8]| data[1 + 32 + 17 + 2..].to_vec();
    replay("admission", bodies::admission, &[tail(&put), tail(&whole)]);
}

/// Bytes of a dice, for bodies that read their input as a plan.
fn plans(lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    lengths.iter().map(|length| (0..*length).map(|_| next()).collect()).collect()
}

#[test]
fn handshake() {
    replay("handshake", bodies::wire::handshake, &plans(&[30, 90, 200]));
}

#[test]
fn statements() {
    let stage = Stage::new();
    let grant = commonhold_sync::record::Record::Tombstone { doc: stage.doc }.to_bytes();
    let genesis = stage.world.hosts[0].peer.space(&stage.world.space).unwrap().genesis().unwrap().to_bytes();
    let invite = commonhold_engine::Invite::new(stage.world.space, None, None, vec!["ws://127.0.0.1:1/".into()]);
    replay("statements", bodies::wire::statements, &[grant, genesis, invite.to_string().into_bytes()]);
}

#[test]
fn symbols() {
    let elements = (40..70u8).map(|n| commonhold_sync::reconcile::Element([n; 16]));
    let mut encoder = commonhold_sync::reconcile::Encoder::new(&[7; 16], elements);
    let mut data = Vec::new();
    for _ in 0..4 {
        let (mark, start) = (encoder.mark(), encoder.position());
        let batch = commonhold_sync::reconcile::encode_symbols(mark, start, &encoder.next_symbols(24));
        data.extend((batch.len() as u16).to_be_bytes());
        data.extend(batch);
    }
    replay("symbols", bodies::wire::symbols, &[data]);
}

#[test]
fn peer_messages() {
    let mut stage = Stage::new();
    let honest = stage.honest.clone();
    let messages = [
        commonhold_sync::message::Message::Hello(stage.liar.hello(&stage.world)).to_bytes(),
        stage.liar.data(vec![honest], false).to_bytes(),
    ];
    let data = messages.iter().flat_map(|m| [&(m.len() as u16).to_be_bytes()[..], m].concat()).collect();
    replay("peer_messages", bodies::wire::peer_messages, &[data]);
}

#[test]
fn rights() {
    replay("rights", bodies::rights::rights, &plans(&[20, 80, 257]));
}

#[test]
fn stored_rows() {
    replay("stored_rows", bodies::stored::stored_rows, &plans(&[8, 40]));
}

#[test]
fn fork_view() {
    replay("fork_view", bodies::forks::fork_view, &plans(&[30, 90, 144]));
}
