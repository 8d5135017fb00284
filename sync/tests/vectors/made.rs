//! What is hashed and signed.

use std::collections::BTreeMap;

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, Automerge, ROOT};
use commonhold_sync::authority::{ROOT_KEYS_MAX, RootKeys, invite, redeem, revocation};
use commonhold_sync::chain::{Kind, Opening, Tip, tip_bytes};
use commonhold_sync::change;
use commonhold_sync::clock::{Clock, Ends, Fingerprint};
use commonhold_sync::id::{ChainId, DeviceId, DocId, EntryId, SpaceId};
use commonhold_sync::limits::Rules;
use commonhold_sync::merkle::{Frontier, Head};
use commonhold_sync::message::{DocRef, OpeningRef, WireSegment};
use commonhold_sync::peer_record::PeerRecord;
use commonhold_sync::proof::{ForkProof, Side, Tail};
use commonhold_sync::reconcile::{BATCH_SYMBOLS_MAX, Encoder, decode_symbols, element, encode_symbols};
use commonhold_sync::record::{Genesis, Privacy, Record, Right, Subject, Writers};
use serde_json::{Value, json};

use super::{bytes, check, device, doc, genesis, header, hex, key, opening, session, space};

#[test]
fn records_match_the_vectors() {
    let geneses = [
        genesis(),
        Genesis {
            root: Subject([5; 32]),
            privacy: Privacy::Private,
            writers: Writers::Anyone,
            rules: 7,
            nonce: [6; 16],
        },
    ];
    let genesis_of = |g: &Genesis| {
        json!({
            "root": hex(g.root.0), "privacy": g.privacy as u8, "writers": g.writers as u8, "rules": g.rules,
            "nonce": hex(g.nonce), "bytes": hex(g.to_bytes()), "space": hex(g.space().0),
        })
    };
    let roots = RootKeys::of_seed(&[0x5e; 32], ROOT_KEYS_MAX);
    let stays = BTreeMap::from([
        (space().authority(), BTreeMap::from([(ChainId([1; 16]), 3)])),
        (doc(), BTreeMap::from([(ChainId([2; 16]), 1), (ChainId([3; 16]), 1 << 40)])),
    ]);
    let parts = revocation(vec![EntryId([2; 32]), EntryId([1; 32])], &stays);
    let records = [
        ("header", header()),
        ("header without kind and name", Record::Header { nonce: [7; 16], kind: String::new(), name: String::new() }),
        ("grant", Record::Grant { subject: Subject([8; 32]), right: Right::Write, gateway: true, again: 0 }),
        ("grant, again", Record::Grant { subject: Subject([8; 32]), right: Right::Write, gateway: true, again: 1 }),
        ("tombstone", Record::Tombstone { doc: doc() }),
        ("identity", roots.founding()),
        ("rotation", roots.rotation(1, vec![(ChainId([1; 16]), 7), (ChainId([2; 16]), 70_000)]).unwrap()),
        (
            "member",
            Record::Member { identity: roots.identity(), device: DeviceId([8; 32]), name: "phone".into(), again: 0 },
        ),
        ("cuts", parts[0].clone()),
        ("revocation", parts[1].clone()),
        ("adoption", Record::Adopt { device: device(), header: header().to_bytes() }),
        ("successor", Record::Successor { doc: DocId([1; 32]), old: doc() }),
        ("request to erase", Record::Erase { doc: doc(), note: "asked by its subject".into() }),
        ("erased", Record::Erased { request: EntryId([3; 32]) }),
        ("invite", invite(&key(), Right::Write, 1)),
        ("place", Record::Place { made_ms: 1_700_000_000_000, addresses: vec!["ws://192.0.2.1:7777/".into()] }),
        ("redemption", redeem(&key(), &space(), &EntryId([4; 32]), &device())),
    ];
    let record_of = |(what, record): &(&str, Record)| {
        let bytes = record.to_bytes();
        let id = Record::id(&space(), &device(), &bytes);
        json!({ "what": what, "bytes": hex(&bytes), "id": hex(id.0) })
    };
    let vectors = json!({
        "geneses": geneses.iter().map(genesis_of).collect::<Vec<_>>(),
        "space": hex(space().0),
        "device": hex(device().0),
        "records": records.iter().map(record_of).collect::<Vec<_>>(),
        "root_keys": {
            "seed": hex([0x5e; 32]), "identity": hex(roots.identity().0),
            "keys": roots.keys().iter().map(|key| hex(key.verifying_key())).collect::<Vec<_>>(),
        },
    });
    check("records", &vectors);
}

fn numbered(n: u64) -> EntryId {
    EntryId(*blake3::hash(&n.to_be_bytes()).as_bytes())
}

#[test]
fn heads_match_the_vectors() {
    let head = |n: u64| {
        let mut frontier = Frontier::default();
        (1..=n).for_each(|i| frontier.push(&numbered(i)));
        json!({ "entries": n, "head": hex(frontier.head().0), "frontier": hex(frontier.to_bytes()) })
    };
    let sizes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 1_000, 4_097];
    check("merkle", &json!({ "entry": "BLAKE3 of the number, 8 bytes big-endian, from 1", "heads": sizes.map(head) }));
}

#[test]
fn chains_and_tips_match_the_vectors() {
    let foreign = |salt: u8| Opening { device: device(), salt: [salt; 8], kind: Kind::Foreign(vec![9; 20]) };
    let openings = [opening(), Opening { salt: [2; 8], ..opening() }, foreign(1), foreign(2)];
    let opening_json = |o: &Opening| {
        let foreign = match &o.kind {
            Kind::Own => Value::Null,
            Kind::Foreign(actor) => json!(hex(actor)),
        };
        json!({ "device": hex(o.device.0), "salt": hex(o.salt), "foreign": foreign, "cbor": hex(minicbor::to_vec(o).unwrap()) })
    };
    let logs = [doc(), space().authority()];
    let chains: Vec<Value> = openings
        .iter()
        .flat_map(|o| logs.map(|log| (o, log)))
        .map(|(o, log)| {
            json!({
                "opening": opening_json(o), "doc": hex(log.0), "chain": hex(o.chain(&space(), &log).0),
                "actor": hex(o.actor(&space(), &log)),
            })
        })
        .collect();
    let tip = |(o, n, rights): (&Opening, u64, Vec<EntryId>)| {
        let mut frontier = Frontier::default();
        (1..=n).for_each(|i| frontier.push(&numbered(i)));
        let head = frontier.head();
        let tip = Tip::sign(&key(), &space(), &doc(), o, n, &head, rights.clone());
        assert!(tip.verifies(&space(), &doc(), o, &head));
        json!({
            "opening": opening_json(o), "n": n, "head": hex(head.0), "rights": rights.iter().map(|r| hex(r.0)).collect::<Vec<_>>(),
            "signed": hex(tip_bytes(&space(), &doc(), o, n, &head, &rights)), "signature": hex(tip.signature),
            "cbor": hex(minicbor::to_vec(&tip).unwrap()),
        })
    };
    let tips = [
        (&openings[0], 1, vec![]),
        (&openings[0], 1_000, vec![EntryId([1; 32]), EntryId([2; 32])]),
        (&openings[2], 5, vec![EntryId([3; 32])]),
    ];
    let vectors = json!({
        "space": hex(space().0), "doc": hex(doc().0), "secret": hex(session::FOUNDER),
        "chains": chains, "tips": tips.map(tip),
    });
    check("chains", &vectors);
}

/// Two histories that part after `shared` entries: of the lesser side three entries, of the other two.
pub(super) fn fork_proof(shared: u64) -> ForkProof {
    let ids = |other: u64, own: u64| -> Vec<EntryId> {
        (1..=shared).map(numbered).chain((0..own).map(|i| numbered(other + i))).collect()
    };
    let tree = |ids: &[EntryId]| {
        let mut frontier = Frontier::default();
        ids.iter().for_each(|id| frontier.push(id));
        frontier
    };
    let opening = opening();
    let sides = [ids(1_000, 3), ids(2_000, 2)];
    let tips = sides.each_ref().map(|ids| {
        let head = tree(ids).head();
        Tip::sign(&key(), &space(), &doc(), &opening, ids.len() as u64, &head, vec![])
    });
    let at = shared as usize;
    let tail = |side: usize| Tail { opening: &opening, tip: &tips[side], ids: &sides[side][at..] };
    ForkProof::of(doc(), tree(&sides[0][..at]), tail(0), tail(1))
}

#[test]
fn fork_proofs_match_the_vectors() {
    let case = |shared: u64| {
        let proof = fork_proof(shared);
        assert!(proof.verifies(&space()));
        let side = |side: &Side| {
            let nodes: Vec<String> = side.right.chunks(32).map(hex).collect();
            json!({ "n": side.tip.n, "entry": hex(side.entry.0), "right": nodes, "signature": hex(side.tip.signature) })
        };
        json!({
            "at": proof.at(), "chain": hex(proof.chain(&space()).0), "shared": hex(proof.shared.to_bytes()),
            "sides": [side(&proof.first), side(&proof.second)], "cbor": hex(minicbor::to_vec(&proof).unwrap()),
        })
    };
    let proofs = [0, 1, 3, 8, 1_000].map(case);
    let vectors = json!({
        "space": hex(space().0), "doc": hex(doc().0), "device": hex(device().0), "salt": hex(opening().salt),
        "proofs": proofs,
    });
    check("proofs", &vectors);
}

fn clock(chains: u8) -> Clock {
    let mut clock = Clock::default();
    for i in 0..chains {
        clock.insert(ChainId([i; 16]), u64::from(i) * 1_000 + 1, Head([i ^ 0xff; 32]));
    }
    clock
}

#[test]
fn clocks_and_fingerprints_match_the_vectors() {
    let mut forked = clock(2);
    forked.insert(ChainId([1; 16]), 40, Head([7; 32]));
    let mut closed = forked.clone();
    closed.0.entry(ChainId([1; 16])).or_default().closed = Some(30);
    closed.0.insert(ChainId([9; 16]), Ends { closed: Some(1), heads: vec![] });
    let clocks = [Clock::default(), clock(1), clock(3), forked, closed];
    let clock_of = |clock: &Clock| {
        let chains = clock.0.iter().map(|(chain, ends)| {
            let branches = ends.heads.iter().map(|(n, head)| json!([n, hex(head.0)])).collect::<Vec<_>>();
            json!({ "chain": hex(chain.0), "closed": ends.closed, "branches": branches })
        });
        let chains: Vec<Value> = chains.collect();
        json!({ "chains": chains, "cbor": hex(minicbor::to_vec(clock).unwrap()), "digest": hex(clock.digest()) })
    };
    // The second sum is larger than 2^256 several times over.
    let fingerprint = |count: u8| {
        let logs: Vec<(DocId, [u8; 32])> = (0..count).map(|i| (DocId([i; 32]), clock(i % 4 + 1).digest())).collect();
        let mut sum = Fingerprint::default();
        logs.iter().for_each(|(doc, digest)| sum.add(doc, digest));
        let logs: Vec<Value> = logs.iter().map(|(doc, digest)| json!([hex(doc.0), hex(digest)])).collect();
        json!({ "logs": logs, "fingerprint": hex(sum.to_bytes()) })
    };
    let vectors = json!({
        "clocks": clocks.iter().map(clock_of).collect::<Vec<_>>(),
        "deleted": hex(commonhold_sync::log::digest_of(true, Clock::default).unwrap()),
        "fingerprints": [fingerprint(0), fingerprint(1), fingerprint(20)],
    });
    check("clocks", &vectors);
}

/// What the founder says of itself for others to pass on.
pub(super) fn peer_record() -> PeerRecord {
    PeerRecord::sign(&key(), 1_700_000_000_000, 3, &["ws://192.0.2.1:7777/".into()])
}

pub(super) fn peer_record_json() -> Value {
    let cbor = minicbor::to_vec(peer_record()).unwrap();
    let signature = &cbor[cbor.len() - 64..];
    json!([bytes(device().0), 1_700_000_000_000_u64, 3, ["ws://192.0.2.1:7777/"], bytes(signature)])
}

/// The changes of the session, made by Automerge.
pub(super) fn changes() -> Vec<Vec<u8>> {
    let mut automerge = Automerge::new();
    automerge.set_actor(ActorId::from(opening().actor(&space(), &doc())));
    let mut commit = |key: &str, value: automerge::ScalarValue| {
        let mut tx = automerge.transaction();
        tx.put(ROOT, key, value).unwrap();
        tx.commit_with(CommitOptions::default().with_time(0));
        automerge.get_last_local_change().unwrap().raw_bytes().to_vec()
    };
    vec![commit("title", "tea".into()), commit("done", true.into())]
}

#[test]
fn a_segment_matches_the_vectors() {
    let changes = changes();
    assert_eq!(changes.iter().map(hex).collect::<Vec<_>>(), session::CHANGES, "the constants of the session");
    let mut frontier = Frontier::default();
    let entries: Vec<Value> = changes
        .iter()
        .map(|bytes| {
            let head = change::walk(bytes, &Rules::V1).unwrap();
            frontier.push(&head.id);
            json!({
                "bytes": hex(bytes), "id": hex(head.id.0), "actor": hex(&head.actor[..]), "seq": head.seq,
                "start_op": head.start_op, "ops": head.ops, "deps": head.deps.iter().map(|d| hex(d.0)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let head = frontier.head();
    let tip = Tip::sign(&key(), &space(), &doc(), &opening(), 2, &head, vec![]);
    let wire = WireSegment {
        doc: DocRef::Id(doc()),
        opening: OpeningRef::New(0, opening()),
        first: 1,
        tip: tip.clone(),
        entries: changes,
    };
    let vectors = json!({
        "space": hex(space().0), "doc": hex(doc().0), "chain": hex(opening().chain(&space(), &doc()).0),
        "entries": entries, "head": hex(head.0),
        "signed": hex(tip_bytes(&space(), &doc(), &opening(), 2, &head, &[])), "signature": hex(tip.signature),
        "cbor": hex(minicbor::to_vec(&wire).unwrap()),
    });
    check("segment", &vectors);
}

#[test]
fn reconciliation_matches_the_vectors() {
    let seed = [0x5e; 16];
    let set: Vec<(DocId, [u8; 32])> =
        (0..40u64).map(|i| (DocId(numbered(i).0), *blake3::hash(&[i as u8]).as_bytes())).collect();
    let elements: Vec<_> = set.iter().map(|(doc, digest)| element(&seed, doc, digest)).collect();
    let mut encoder = Encoder::new(&seed, elements.iter().copied());
    let mark = encoder.mark();
    let symbols = encoder.next_symbols(96);
    let encoded = encode_symbols(mark, 0, &symbols);
    assert_eq!(decode_symbols(&encoded, BATCH_SYMBOLS_MAX).unwrap().symbols, symbols);
    let tail = encode_symbols(mark, 64, &symbols[64..]);
    let set_json = |((doc, digest), element): (&(DocId, [u8; 32]), &commonhold_sync::reconcile::Element)| json!({ "doc": hex(doc.0), "digest": hex(digest), "element": hex(element.0) });
    let vectors = json!({
        "seed": hex(seed),
        "set": set.iter().zip(&elements).map(set_json).collect::<Vec<_>>(),
        "mark": { "len": mark.len, "check": hex(mark.check.to_le_bytes()) },
        "symbols": hex(&encoded),
        "symbols_from_64": hex(&tail),
    });
    check("reconciliation", &vectors);
}

#[test]
fn space_hellos_are_tagged_as_in_the_vectors() {
    let session = *blake3::hash(b"a session").as_bytes();
    let of = |from_dialler: bool, space: SpaceId| {
        let mut hasher = blake3::Hasher::new_keyed(&session);
        hasher.update(b"commonhold space tag 1").update(&[u8::from(from_dialler)]).update(&space.0);
        let prefix = blake3::hash(&space.0);
        json!({
            "space": hex(space.0), "from_dialler": from_dialler, "tag": hex(&hasher.finalize().as_bytes()[..16]),
            "prefix": u16::from_be_bytes([prefix.as_bytes()[0], prefix.as_bytes()[1]]),
        })
    };
    // The code's own tags are in the session's hellos, where they are recomputed.
    check(
        "tags",
        &json!({ "session": hex(session), "tags": [of(true, space()), of(false, space()), of(true, SpaceId([1; 32]))] }),
    );
}
