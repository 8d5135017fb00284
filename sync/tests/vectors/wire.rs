//! Messages, and a whole session.

use blake3::derive_key;
use commonhold_sync::blobs::tree::{Tree, leaf};
use commonhold_sync::blobs::{Blob, PIECE_BYTES};
use commonhold_sync::chain::Tip;
use commonhold_sync::clock::{Clock, Fingerprint};
use commonhold_sync::id::{ChainId, DocId, EntryId, StoreId, Topic};
use commonhold_sync::ledger::Receipt;
use commonhold_sync::limits::Limits;
use commonhold_sync::merkle::Head;
use commonhold_sync::message::{
    Ack, Announce, BlobHas, BlobPiece, BlobWant, Bye, Check, Covered, Cursor, Data, Difference, DocRef, Found,
    GenesisOf, Have, Held, Hello, Message, Notice, OpeningRef, Peers, Proofs, ReceiptWant, Received, Since,
    SnapshotPart, SpaceHello, Spaces, Symbols, SymbolsWanted, Want, WireSegment,
};
use commonhold_sync::peer_record::PeerRecord;
use commonhold_sync::proof::{ForkProof, Side};
use commonhold_sync::secure::Channel;
use commonhold_sync::storage_receipt::StorageReceipt;
use commonhold_sync::tracker::sign_announce;
use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{bytes, check, device, doc, genesis, hex, opening, session};

fn tip(n: u64) -> Tip {
    Tip { n, rights: vec![EntryId([6; 32])], signature: [7; 64] }
}

fn tip_json(n: u64) -> Value {
    json!([n, [bytes([6; 32])], bytes([7; 64])])
}

fn opening_json() -> Value {
    json!([bytes(device().0), bytes([1; 8]), null])
}

fn have() -> Have {
    let mut clock = Clock::default();
    clock.insert(ChainId([1; 16]), 300, Head([2; 32]));
    Have { doc: doc(), clock }
}

fn have_json() -> Value {
    json!({ "0": bytes(doc().0), "1": { "pairs": [[bytes([1; 16]), [300, bytes([2; 32])]]] } })
}

fn fingerprint() -> Fingerprint {
    Fingerprint::from_bytes(&[0xab; 32])
}

fn space_hello(full: bool) -> (SpaceHello, Value) {
    let hello = SpaceHello {
        handle: 3,
        prefix: 0xbeef,
        tag: [9; 16],
        cursor: full.then_some(Cursor { store: StoreId([8; 16]), seq: 70_000 }),
        fingerprint: fingerprint(),
        ride: 65_536,
        fresh: !full,
        filter: full.then(|| vec![doc()]),
        wants_genesis: !full,
    };
    let mut json = json!({
        "0": 3, "1": 0xbeef, "2": bytes([9; 16]), "4": bytes([0xab; 32]), "5": 65_536, "6": !full, "8": !full,
    });
    if full {
        json["3"] = json!({ "0": bytes([8; 16]), "1": 70_000 });
        json["7"] = json!([bytes(doc().0)]);
    }
    (hello, json)
}

pub(super) fn messages() -> Vec<(&'static str, Message, Value)> {
    let ((known, known_json), (new, new_json)) = (space_hello(true), space_hello(false));
    let segment = |doc, opening, entries| WireSegment { doc, opening, first: 1, tip: tip(2), entries };
    let segments = vec![
        segment(DocRef::Authority, OpeningRef::New(5, opening()), vec![vec![1; 12], vec![2; 12]]),
        segment(DocRef::Header(0), OpeningRef::Known(5), vec![vec![3; 30], vec![4; 12]]),
        segment(DocRef::Id(doc()), OpeningRef::Known(5), vec![vec![5; 12], vec![6; 12]]),
        segment(DocRef::Last, OpeningRef::Known(5), vec![vec![7; 12], vec![8; 12]]),
    ];
    let segments_json = json!([
        [null, [5, opening_json()], 1, tip_json(2), [bytes([1; 12]), bytes([2; 12])]],
        [0, 5, 1, tip_json(2), [bytes([3; 30]), bytes([4; 12])]],
        [bytes(doc().0), 5, 1, tip_json(2), [bytes([5; 12]), bytes([6; 12])]],
        [true, 5, 1, tip_json(2), [bytes([7; 12]), bytes([8; 12])]],
    ]);
    let hello = Hello {
        features: 0,
        roles: 3,
        store: StoreId([1; 16]),
        agent: "commonhold/0.1.0".into(),
        addresses: vec!["ws://192.0.2.1:7777/".into()],
        spaces: vec![known.clone()],
        record: Some(super::made::peer_record()),
    };
    let data = |segments, haves, upto, fingerprint, asked, absent| {
        Message::Data(Data { space: 3, segments, haves, upto, fingerprint, asked, absent, proofs: None })
    };
    let proof = super::made::fork_proof(3);
    let side_json = |side: &Side| {
        let tip = json!([side.tip.n, [], bytes(side.tip.signature)]);
        json!([tip, bytes(side.entry.0), bytes(&side.right[..])])
    };
    let proof_json = |proof: &ForkProof| {
        let (first, second) = (side_json(&proof.first), side_json(&proof.second));
        json!([bytes(doc().0), opening_json(), null, bytes(proof.shared.to_bytes()), first, second])
    };
    let record =
        PeerRecord::sign(&SigningKey::from_bytes(&[7; 32]), 1_700_000_000_000, 3, &["ws://192.0.2.1:7777/".into()]);
    let encoded = minicbor::to_vec(&record).unwrap();
    let record_json = json!([
        bytes(record.device.0),
        record.made_ms,
        3,
        ["ws://192.0.2.1:7777/"],
        bytes(&encoded[encoded.len() - 64..]),
    ]);
    let topics = [19_675, 19_676].map(|day| Topic::of(&super::space(), day));
    let long = vec![vec![0x61; 700]];
    // Three pieces of nothing but zeros, of which the last has three bytes.
    let content = vec![0; 2 * PIECE_BYTES + 3];
    let Blob { hash, size } = Blob::of(&content);
    let leaves = content.chunks(PIECE_BYTES).enumerate().map(|(at, piece)| leaf(at as u32, piece)).collect();
    let tree = Tree::from_leaves(Blob { hash, size }, leaves).unwrap();
    let proof_of = |piece| tree.proof(piece).unwrap().concat();
    let last = vec![0; 3];
    let none = BlobPiece { space: 3, hash, size, piece: 2, bytes: None, proof: vec![].into() };
    let receipt = Receipt::sign(&SigningKey::from_bytes(&[7; 32]), opening().device, 300_000);
    let encoded = minicbor::to_vec(receipt).unwrap();
    let signature = &encoded[encoded.len() - 64..];
    let receipt_json = json!([bytes(receipt.giver.0), bytes(receipt.receiver.0), receipt.bytes, bytes(signature)]);
    let version = vec![EntryId([3; 32]), EntryId([4; 32])];
    let version_json = json!([bytes([3; 32]), bytes([4; 32])]);
    let held = StorageReceipt::sign(&super::key(), super::space(), doc(), version.clone());
    let part = SnapshotPart {
        space: 3,
        doc: doc(),
        offset: 0,
        total: 4,
        bytes: vec![1, 2, 3, 4].into(),
        chains: vec![Covered { opening: opening(), tip: tip(9) }],
    };
    vec![
        (
            "Hello",
            Message::Hello(hello),
            json!({ "0": 0, "1": 3, "2": bytes([1; 16]), "3": "commonhold/0.1.0", "4": ["ws://192.0.2.1:7777/"], "5": [known_json], "6": super::made::peer_record_json() }),
        ),
        ("Spaces", Message::Spaces(Spaces { spaces: vec![known, new] }), json!({ "0": [known_json, new_json] })),
        (
            "GenesisOf",
            Message::GenesisOf(GenesisOf { space: 3, genesis: genesis().to_bytes().into() }),
            json!({ "0": 3, "1": bytes(genesis().to_bytes()) }),
        ),
        (
            "Since",
            Message::Since(Since { space: 3, after: 70_000, ride: 65_536, fresh: true }),
            json!({ "0": 3, "1": 70_000, "2": 65_536, "3": true }),
        ),
        (
            "Data, last page",
            data(segments, vec![have()], Some(70_003), Some(fingerprint()), true, vec![]),
            json!({ "0": 3, "1": segments_json, "2": [have_json()], "3": 70_003, "4": bytes([0xab; 32]), "5": true, "6": [] }),
        ),
        (
            "Data, pushed",
            data(
                vec![segment(DocRef::Id(doc()), OpeningRef::Known(5), vec![vec![5; 12], vec![6; 12]])],
                vec![],
                None,
                None,
                false,
                vec![],
            ),
            json!({ "0": 3, "1": [segments_json[2]], "2": [], "5": false, "6": [] }),
        ),
        (
            "Data, absent",
            data(vec![], vec![], None, None, true, vec![doc()]),
            json!({ "0": 3, "1": [], "2": [], "5": true, "6": [bytes(doc().0)] }),
        ),
        (
            "Data, a fork proof",
            Message::Data(Data {
                space: 3,
                segments: vec![],
                haves: vec![],
                upto: None,
                fingerprint: None,
                asked: false,
                absent: vec![],
                proofs: Some(Proofs(vec![proof.clone()])),
            }),
            json!({ "0": 3, "1": [], "2": [], "5": false, "6": [], "7": [proof_json(&proof)] }),
        ),
        (
            "Data, compressed",
            data(
                vec![WireSegment { tip: tip(1), ..segment(DocRef::Id(doc()), OpeningRef::Known(5), long.clone()) }],
                vec![],
                None,
                None,
                false,
                vec![],
            ),
            json!({ "0": 3, "1": [[bytes(doc().0), 5, 1, tip_json(1), [bytes(&long[0])]]], "2": [], "5": false, "6": [] }),
        ),
        (
            "Want",
            Message::Want(Want { space: 3, docs: vec![have()], no_snapshot: false }),
            json!({ "0": 3, "1": [have_json()], "2": false }),
        ),
        (
            "SnapshotPart",
            Message::SnapshotPart(part),
            json!({
                "0": 3, "1": bytes(doc().0), "2": 0, "3": 4, "4": bytes([1, 2, 3, 4]),
                "5": [{ "0": opening_json(), "1": tip_json(9) }],
            }),
        ),
        (
            "Ack",
            Message::Ack(Ack { data: 12, marks: vec![(3, 70_003)], except: vec![11] }),
            json!({ "0": 12, "1": [[3, 70_003]], "2": [11] }),
        ),
        (
            "Check",
            Message::Check(Check { space: 3, fingerprint: fingerprint(), docs: 9, seq: 70_003, answer: false }),
            json!({ "0": 3, "1": bytes([0xab; 32]), "2": 9, "3": 70_003, "4": false }),
        ),
        (
            "SymbolsWanted",
            Message::SymbolsWanted(SymbolsWanted { space: 3, from: 64, count: 128, seed: Some(vec![5; 16].into()) }),
            json!({ "0": 3, "1": 64, "2": 128, "3": bytes([5; 16]) }),
        ),
        (
            "Symbols",
            Message::Symbols(Symbols { space: 3, seed: [5; 16], set: 9, symbols: vec![1, 2, 3].into() }),
            json!({ "0": 3, "1": bytes([5; 16]), "2": 9, "3": bytes([1, 2, 3]) }),
        ),
        (
            "Difference",
            Message::Difference(Difference { space: 3, seed: [5; 16], elements: vec![6; 32].into() }),
            json!({ "0": 3, "1": bytes([5; 16]), "2": bytes([6; 32]) }),
        ),
        (
            "Notice",
            Message::Notice(Notice {
                space: Some(3),
                doc: Some(doc()),
                code: "live-chains".into(),
                text: "a local limit".into(),
            }),
            json!({ "0": 3, "1": bytes(doc().0), "2": "live-chains", "3": "a local limit" }),
        ),
        (
            "Bye",
            Message::Bye(Bye { code: "T2.tip".into(), text: "the tip does not verify over the entries".into() }),
            json!({ "0": "T2.tip", "1": "the tip does not verify over the entries" }),
        ),
        (
            "Announce",
            Message::Announce(Announce { record: record.clone(), topics: topics.to_vec() }),
            json!({ "0": record_json, "1": topics.map(|topic| bytes(topic.0)) }),
        ),
        (
            "Peers",
            Message::Peers(Peers { ttl_s: 1_800, found: vec![Found { record, topics: vec![0, 1] }] }),
            json!({ "0": 1_800, "1": [{ "0": record_json, "1": [0, 1] }] }),
        ),
        (
            "BlobWant",
            Message::BlobWant(BlobWant { space: 3, hash, size, pieces: vec![0, 2], end: false, patient: true }),
            json!({ "0": 3, "1": bytes(hash.0), "2": size, "3": [0, 2], "4": false, "5": true }),
        ),
        (
            "BlobHas, some of it",
            Message::BlobHas(BlobHas { space: 3, hash, size, pieces: Some(vec![5].into()) }),
            json!({ "0": 3, "1": bytes(hash.0), "2": size, "3": bytes([5]) }),
        ),
        (
            "BlobHas, all of it",
            Message::BlobHas(BlobHas { space: 3, hash, size, pieces: None }),
            json!({ "0": 3, "1": bytes(hash.0), "2": size }),
        ),
        (
            "BlobPiece",
            Message::BlobPiece(BlobPiece {
                bytes: Some(last.clone().into()),
                proof: proof_of(2).into(),
                ..none.clone()
            }),
            json!({ "0": 3, "1": bytes(hash.0), "2": size, "3": 2, "4": bytes(&last), "5": bytes(proof_of(2)) }),
        ),
        (
            "BlobPiece, held no more",
            Message::BlobPiece(none),
            json!({ "0": 3, "1": bytes(hash.0), "2": size, "3": 2, "5": bytes([]) }),
        ),
        (
            "Received",
            Message::Received(Received { receipt }),
            json!({ "0": receipt_json }),
        ),
        (
            "ReceiptWant",
            Message::ReceiptWant(ReceiptWant { space: 3, doc: doc(), entries: version.clone() }),
            json!({ "0": 3, "1": bytes(doc().0), "2": version_json }),
        ),
        (
            "Held",
            Message::Held(Held { receipt: held.clone() }),
            json!({ "0": [bytes(held.holder.0), bytes(held.space.0), bytes(doc().0), version_json, bytes(held.signature)] }),
        ),
    ]
    .into_iter()
    .chain(gossip())
    .collect()
}

/// What overlays say.
fn gossip() -> Vec<(&'static str, Message, Value)> {
    use commonhold_sync::id::ChainId;
    use commonhold_sync::message::Gossip;
    use commonhold_sync::overlay::{Item, Message as Said};

    let (record, record_json) = (super::made::peer_record(), super::made::peer_record_json());
    let items = vec![Item { chain: ChainId([1; 16]), n: 7 }, Item { chain: ChainId([2; 16]), n: 300 }];
    let items_json = json!([bytes([1; 16]), 7, bytes([2; 16]), 300]);
    let all = [
        ("Gossip, join", Said::Join, json!([0])),
        ("Gossip, forward join", Said::ForwardJoin { record: record.clone(), ttl: 6 }, json!([1, record_json, 6])),
        ("Gossip, neighbour", Said::Neighbour { urgent: true }, json!([2, true])),
        (
            "Gossip, answer",
            Said::Answer { accepted: false, others: vec![record.clone()] },
            json!([3, false, [record_json]]),
        ),
        ("Gossip, leave", Said::Leave { stays: true }, json!([4, true])),
        ("Gossip, shuffle", Said::Shuffle { records: vec![record.clone()] }, json!([5, [record_json]])),
        ("Gossip, shuffle reply", Said::ShuffleReply { records: vec![record] }, json!([6, [record_json]])),
        ("Gossip, i have", Said::IHave { items: items.clone() }, json!([7, items_json])),
        ("Gossip, graft", Said::Graft { eager: true, items }, json!([8, true, items_json])),
        ("Gossip, prune", Said::Prune, json!([9])),
    ];
    let message =
        |(what, said, fields)| (what, Message::Gossip(Gossip { space: 3, said }), json!({ "0": 3, "1": fields }));
    all.into_iter().map(message).collect()
}

#[test]
fn messages_match_the_vectors() {
    let one = |(what, message, fields): (&str, Message, Value)| {
        let bytes = message.to_bytes();
        assert_eq!(Message::from_bytes(&bytes, &Limits::default()).as_ref(), Ok(&message), "{what}");
        json!({ "what": what, "type": bytes[0] & 0x7f, "bytes": hex(&bytes), "fields": fields })
    };
    check("messages", &json!({ "messages": messages().into_iter().map(one).collect::<Vec<_>>() }));
}

#[test]
fn what_trackers_are_told_matches_the_vectors() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let addresses = ["ws://192.0.2.1:7777/".to_owned(), "ws://[2001:db8::1]:7777/".to_owned()];
    let record = PeerRecord::sign(&key, 1_700_000_000_000, 3, &addresses);
    let topics = [19_675, 19_676].map(|day| Topic::of(&super::space(), day));
    let signature = sign_announce(&key, &record, &topics);
    let around = |at: u64| Topic::around(&super::space(), at).map(|topic| hex(topic.0)).collect::<Vec<_>>();
    let midnight = 19_676 * 86_400_000u64;
    let days = [19_675, 19_676].map(|day| json!({ "day": day, "topic": hex(Topic::of(&super::space(), day).0) }));
    let moments = [midnight - 7_200_001, midnight - 1, midnight, midnight + 7_200_001]
        .map(|at| json!({ "at_ms": at, "topics": around(at) }));
    let vectors = json!({
        "space": hex(super::space().0),
        "topics": days,
        "around": moments,
        "announce": {
            "device": hex(record.device.0), "made_ms": record.made_ms, "roles": record.roles, "addresses": addresses,
            "record": hex(minicbor::to_vec(&record).unwrap()),
            "topics": topics.map(|topic| hex(topic.0)), "signature": hex(signature),
        },
    });
    check("discovery", &vectors);
}

/// The keys of one side of the session, from the seed that its peer drew first.
fn noise_keys(secret: [u8; 32], peer_seed: u8, role: u8) -> ([u8; 32], Value) {
    let mut seed = [0; 32];
    ChaCha20Rng::from_seed([peer_seed; 32]).fill_bytes(&mut seed);
    let material = [&seed[..], &secret[..], &[role]].concat();
    let mut rng = ChaCha20Rng::from_seed(derive_key("commonhold channel 1 ephemeral keys", &material));
    let (mut fixed, mut ephemeral) = ([0; 32], [0; 32]);
    rng.fill_bytes(&mut fixed);
    rng.fill_bytes(&mut ephemeral);
    let device = SigningKey::from_bytes(&secret).verifying_key().to_bytes();
    let keys =
        json!({ "device": hex(device), "secret": hex(secret), "static": hex(fixed), "ephemeral": hex(ephemeral) });
    (seed, keys)
}

#[test]
fn a_session_matches_the_vectors() {
    let session = session::run();
    assert_eq!((session.admitted, session.level > 0), (2, true), "the newcomer got the document, and both know it");
    assert_eq!((session.space, session.doc), (super::space(), doc()));
    let limits = Limits::default();
    let (dialler_seed, dialler) = noise_keys(session::NEWCOMER, 2, 0);
    let (acceptor_seed, acceptor) = noise_keys(session::FOUNDER, 1, 1);
    // The same channels again, which now read what the peers wrote.
    let key = |secret| SigningKey::from_bytes(secret);
    let expected = Some(session::devices()[1]);
    let mut channels = [
        Channel::dial(&key(&session::NEWCOMER), expected, dialler_seed, &limits),
        Channel::accept(&key(&session::FOUNDER), acceptor_seed, &limits),
    ];
    let mut frames = Vec::new();
    for (at, frame) in session.frames.iter().enumerate() {
        let (from, to) = if frame.from_dialler { (0, 1) } else { (1, 0) };
        if at < 2 {
            let again = channels[from].poll_frame();
            assert_eq!(again.as_deref(), Some(&frame.bytes[..]), "flight {} is made of the keys", at + 1);
        }
        channels[to].receive(&frame.bytes, &limits).unwrap();
        let mut messages = Vec::new();
        while let Some(message) = channels[to].poll_message() {
            let decoded = Message::from_bytes(&message, &limits).unwrap();
            let name = format!("{decoded:?}").split('(').next().unwrap_or_default().to_owned();
            messages.push(json!({ "what": name, "bytes": hex(message) }));
        }
        frames.push(json!({ "from_dialler": frame.from_dialler, "bytes": hex(&frame.bytes), "messages": messages }));
    }
    let vectors = json!({
        "space": hex(session.space.0),
        "doc": hex(session.doc.0),
        "dialler": dialler,
        "acceptor": acceptor,
        "session_hash": hex(channels[0].session_hash().unwrap()),
        "digest": hex(&session_digest(&session)[..8]),
        "frames": frames,
    });
    check("session", &vectors);
}

/// What the wasm probe must find as well.
fn session_digest(session: &session::Session) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    session.frames.iter().for_each(|frame| {
        hasher.update(&frame.bytes);
    });
    *hasher.finalize().as_bytes()
}

#[test]
fn the_session_fits_the_opening_of_its_document() {
    let session = session::run();
    assert_eq!(session.opening, opening());
    assert_ne!(session.doc, DocId([0; 32]));
}
