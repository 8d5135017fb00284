//! Inputs that must be refused, and the code of the refusal.

use commonhold_sync::chain::{Kind, Opening, Segment, Tip};
use commonhold_sync::change;
use commonhold_sync::id::{DeviceId, EntryId};
use commonhold_sync::limits::{Limits, Rules};
use commonhold_sync::log::{Admission, Header, Image, Log, Need};
use commonhold_sync::merkle::Frontier;
use commonhold_sync::message::{DocRef, Message, OpeningRef, Since, WireSegment};
use commonhold_sync::reconcile::{BATCH_SYMBOLS_MAX, decode_symbols};
use commonhold_sync::record::{Genesis, Record};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{check, device, doc, genesis, header, hex, key, opening, space};

fn case(form: &str, what: &str, bytes: impl AsRef<[u8]>, code: &str) -> Value {
    json!({ "form": form, "what": what, "bytes": hex(bytes), "code": code })
}

#[test]
fn refused_statements_match_the_vectors() {
    let mut cases = Vec::new();
    let good = genesis().to_bytes();
    let mut unknown_field = good.clone();
    unknown_field[0] += 1;
    unknown_field.extend([9, 0]);
    let mut cut = good.clone();
    cut.pop();
    for (what, bytes) in [
        ("genesis with an unknown field", unknown_field),
        ("genesis with a byte after its end", [&good[..], &[0]].concat()),
        ("genesis without its last byte", cut),
        ("genesis as an indefinite map", [&[0xbf], &good[1..], &[0xff]].concat()),
    ] {
        assert!(Genesis::from_bytes(&bytes).is_err(), "{what}");
        cases.push(case("genesis", what, bytes, "S2.record"));
    }
    let good = header().to_bytes();
    let mut long_number = good.clone();
    long_number.splice(1..2, [0x18, 0x01]);
    for (what, bytes) in [
        ("kind in a longer form than it needs", long_number),
        ("header with a byte after its end", [&good[..], &[0]].concat()),
        ("header with three fields", [&[0x83], &good[1..good.len() - 9]].concat()),
        ("grant of an unknown right", minicbor::to_vec((2u32, DeviceId([1; 32]), 9u8, false)).unwrap()),
        (
            "name longer than 256 bytes",
            Record::Header { nonce: [0; 16], kind: String::new(), name: "x".repeat(257) }.to_bytes(),
        ),
        ("not an array", vec![0xa0]),
    ] {
        assert!(Record::from_bytes(&bytes).is_err(), "{what}");
        cases.push(case("record", what, bytes, "S2.record"));
    }

    let since = Message::Since(Since { space: 3, after: 1, ride: 1, fresh: false }).to_bytes();
    let data = |rights: usize, signature: usize, entry: usize| {
        let mut out = vec![4, 0xa5, 0, 3, 1, 0x81, 0x85, 0xf6, 5, 1, 0x83, 1, 0x80 + rights as u8];
        (0..rights).for_each(|_| out.extend([&[0x58, 32][..], &[1; 32]].concat()));
        out.extend([0x58, signature as u8]);
        out.extend(vec![1; signature]);
        out.extend([0x81, 0x40 + entry as u8]);
        out.extend(vec![1; entry]);
        out.extend([2, 0x80, 5, 0xf5, 6, 0x80]);
        out
    };
    let good = Message::from_bytes(&data(8, 64, 10), &Limits::default());
    assert!(good.is_ok(), "the frame of three of the cases is good");
    let bomb = lz4_flex::block::compress(&vec![0; 256 << 10]);
    for (what, bytes) in [
        ("no bytes", vec![]),
        ("a body that is cut short", since[..since.len() - 1].to_vec()),
        ("a field of another type", vec![3, 0xa4, 0, 3, 1, 0x61, 0x61, 2, 1, 3, 0xf4]),
        ("a required field is missing", vec![3, 0xa1, 0, 3]),
        ("a tip that names nine rights heads", data(9, 64, 10)),
        ("a signature of 63 bytes", data(1, 63, 10)),
        ("an entry of 9 bytes", data(1, 64, 9)),
        ("256 KiB of zeros in 1 KiB", [&[0x84][..], &(256u32 << 10).to_be_bytes(), &bomb].concat()),
        (
            "an inflated size that is not what inflates",
            [&[0x83][..], &[0, 0, 0, 99], &lz4_flex::block::compress(&since[1..])].concat(),
        ),
    ] {
        assert!(Message::from_bytes(&bytes, &Limits::default()).is_err(), "{what}");
        cases.push(case("message", what, bytes, "P.message"));
    }

    let mut zero = vec![5];
    zero.extend([0; 8]);
    zero.extend([0, 0]);
    for (what, bytes) in [
        ("a batch without symbols", zero.clone()),
        ("a batch that is shorter than its symbols", {
            zero[10] = 3;
            zero
        }),
        ("a number with an idle byte", [&[0x85, 0][..], &[0; 40]].concat()),
    ] {
        assert!(decode_symbols(&bytes, BATCH_SYMBOLS_MAX).is_err(), "{what}");
        cases.push(case("symbols", what, bytes, "reconciliation starts again"));
    }
    check("refused", &json!({ "refused": cases }));
}

/// The content of a change without operations.
struct Content<'a> {
    deps: &'a [[u8; 32]],
    actor: &'a [u8],
    seq: &'a [u8],
    start_op: &'a [u8],
    time: &'a [u8],
    columns: &'a [u8],
    footer: &'a [u8],
}

impl Content<'_> {
    const PLAIN: Content<'static> =
        Content { deps: &[], actor: &[7; 16], seq: &[1], start_op: &[1], time: &[0], columns: &[0], footer: &[] };

    fn chunk(&self) -> Vec<u8> {
        let mut content = vec![self.deps.len() as u8];
        self.deps.iter().for_each(|dep| content.extend(dep));
        content.push(self.actor.len() as u8);
        for part in [self.actor, self.seq, self.start_op, self.time, &[0, 0], self.columns, self.footer] {
            content.extend(part);
        }
        chunk(1, &content)
    }
}

fn chunk(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut hashed = vec![kind];
    let mut length = content.len();
    while length >= 0x80 {
        hashed.push(length as u8 | 0x80);
        length >>= 7;
    }
    hashed.push(length as u8);
    hashed.extend(content);
    let checksum = Sha256::digest(&hashed);
    [&[0x85, 0x6f, 0x4a, 0x83][..], &checksum[..4], &hashed].concat()
}

#[test]
fn refused_changes_match_the_vectors() {
    let plain = Content::PLAIN;
    let good = plain.chunk();
    assert!(change::walk(&good, &Rules::V1).is_ok());
    let mut magic = good.clone();
    magic[0] ^= 1;
    let mut checksum = good.clone();
    checksum[4] ^= 1;
    let footer = [&[1, 32][..], &[9; 32]].concat();
    // One run of 5,000,000 in the column of actions.
    let bomb = [&[1, 0x42, 5][..], &[0xc0, 0x96, 0xb1, 0x02, 0x01]].concat();
    let cases = [
        ("first bytes", magic, "S1.magic"),
        ("a deflated change", chunk(2, &[0; 20]), "S1.compressed"),
        ("a document where a change is due", chunk(0, &[0; 20]), "S1.type"),
        ("checksum", checksum, "S2.checksum"),
        ("a byte after the end", [&good[..], &[0]].concat(), "S2.length"),
        ("an actor of 8 bytes", Content { actor: &[7; 8], ..plain }.chunk(), "S2.actor-length"),
        ("the locator of a branch as actor", Content { actor: &[7; 32], ..plain }.chunk(), "S2.actor-length"),
        ("dependencies out of order", Content { deps: &[[2; 32], [1; 32]], ..plain }.chunk(), "S3.deps-order"),
        ("a dependency twice", Content { deps: &[[2; 32], [2; 32]], ..plain }.chunk(), "S3.deps-order"),
        (
            "65 dependencies",
            Content { deps: &core::array::from_fn::<_, 65, _>(|i| [i as u8; 32]), ..plain }.chunk(),
            "S2.deps",
        ),
        ("sequence number 0", Content { seq: &[0], ..plain }.chunk(), "S4.seq"),
        ("first operation 0", Content { start_op: &[0], ..plain }.chunk(), "S5.counter"),
        (
            "first operation beyond 2^31",
            Content { start_op: &[0x81, 0x80, 0x80, 0x80, 0x08], ..plain }.chunk(),
            "S5.counter",
        ),
        ("a number with an idle byte", Content { seq: &[0x81, 0], ..plain }.chunk(), "S2.number"),
        (
            "a timestamp of 2^53",
            Content { time: &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10], ..plain }.chunk(),
            "S6.timestamp",
        ),
        ("an author on sequence number 2", Content { seq: &[2], footer: &footer, ..plain }.chunk(), "S6.author"),
        ("bytes after the columns", Content { footer: &[3], ..plain }.chunk(), "S6.author"),
        ("an unknown column", Content { columns: &[1, 0x75, 1, 0], ..plain }.chunk(), "S2.column"),
        ("5,000,000 operations in 5 bytes", Content { columns: &bomb, ..plain }.chunk(), "S2.ops"),
    ];
    let case_of = |(what, bytes, code): (&str, Vec<u8>, &str)| {
        let fault = change::walk(&bytes, &Rules::V1).expect_err(what);
        assert_eq!(fault.code(), code, "{what}");
        case("change", what, bytes, code)
    };
    check("refused_changes", &json!({ "good": hex(good), "refused": cases.map(case_of).to_vec() }));
}

/// A segment whose tip is good, over changes without operations.
fn segment(opening: &Opening, signer: &SigningKey, first: u64, entries: Vec<Vec<u8>>) -> Segment {
    let mut frontier = Frontier::default();
    entries.iter().for_each(|bytes| frontier.push(&change::id(bytes).unwrap()));
    let n = first - 1 + entries.len() as u64;
    let tip = Tip::sign(signer, &space(), &doc(), opening, n, &frontier.head(), vec![]);
    Segment { doc: doc(), opening: opening.clone(), first, entries, tip }
}

#[test]
fn refused_segments_match_the_vectors() {
    let actor = opening().actor(&space(), &doc());
    let one = Content { actor: &actor, ..Content::PLAIN };
    let first = one.chunk();
    let id = |bytes: &[u8]| change::id(bytes).unwrap().0;
    let after = [id(&first)];
    let own = |entries| segment(&opening(), &key(), 1, entries);
    // A key of small order: anything is "signed" by it unless the check is strict.
    let mut weak = [0; 32];
    weak[0] = 1;
    let weak_opening = Opening { device: DeviceId(weak), ..opening() };
    let weak_actor = weak_opening.actor(&space(), &doc());
    let mut weakly = segment(&weak_opening, &key(), 1, vec![Content { actor: &weak_actor, ..Content::PLAIN }.chunk()]);
    weakly.tip.signature = [0; 64];
    weakly.tip.signature[0] = 1;
    let mut shortened = own(vec![first.clone(), Content { seq: &[2], deps: &after, ..one }.chunk()]);
    shortened.entries.pop();
    shortened.tip.n = 1;
    let mut unsigned = own(vec![first.clone()]);
    unsigned.tip.signature = key().sign(b"something else").to_bytes();
    let mut rights = own(vec![first.clone()]);
    rights.tip.rights = vec![EntryId([1; 32])];
    let footer = |device: &[u8]| [&[1, 32][..], device].concat();
    let cases = [
        ("a signature over something else", unsigned, "T2.tip"),
        ("a tip that covers an entry more than came", shortened, "T2.tip"),
        ("rights heads that were not signed", rights, "T2.tip"),
        (
            "a signature by another device",
            segment(&opening(), &SigningKey::from_bytes(&[99; 32]), 1, vec![first.clone()]),
            "T2.tip",
        ),
        ("a device key of small order", weakly, "T2.tip"),
        ("another actor than the chain", own(vec![Content::PLAIN.chunk()]), "S4.actor"),
        ("sequence number 2 first", own(vec![Content { seq: &[2], ..one }.chunk()]), "S4.seq"),
        (
            "a second entry without the first in its past",
            own(vec![first.clone(), Content { seq: &[2], ..one }.chunk()]),
            "S4.past",
        ),
        ("a first operation that leaves a gap", own(vec![Content { start_op: &[5], ..one }.chunk()]), "S5.start_op"),
        ("an author that did not sign", own(vec![Content { footer: &footer(&[9; 32]), ..one }.chunk()]), "S6.author"),
    ];
    let case_of = |(what, segment, code): (&str, Segment, &str)| {
        let header = Header { creator: device(), kind: String::new(), name: String::new() };
        let (mut log, _) = Log::load(space(), doc(), Image::of_header(header), &[]);
        match log.admit(&Rules::V1, &Limits::default(), segment.clone(), Need::Asked) {
            Admission::Refused(violation) => assert_eq!(violation.code(), code, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        let Segment { opening, first, tip, entries, .. } = segment;
        let wire = WireSegment { doc: DocRef::Id(doc()), opening: OpeningRef::New(0, opening), first, tip, entries };
        case("segment", what, minicbor::to_vec(&wire).unwrap(), code)
    };
    // The same with nothing wrong, so that the cases above fail for the reason they name.
    let good = own(vec![Content { footer: &footer(&device().0), ..one }.chunk()]);
    let header = Header { creator: device(), kind: String::new(), name: String::new() };
    let (mut log, _) = Log::load(space(), doc(), Image::of_header(header), &[]);
    assert!(matches!(log.admit(&Rules::V1, &Limits::default(), good, Need::Asked), Admission::Admitted(_)));
    assert_eq!(opening().kind, Kind::Own);
    let vectors = json!({ "space": hex(space().0), "doc": hex(doc().0), "refused": cases.map(case_of).to_vec() });
    check("refused_segments", &vectors);
}
