//! Chunks that are not what they say: rules S1 and S2.

use automerge as am;
use commonhold_engine::document::ObjId;

use super::harness::*;

fn leb(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (n & 0x7f) as u8;
        n >>= 7;
        if n == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

fn sleb(mut n: i64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (n & 0x7f) as u8;
        n >>= 7;
        if (n == 0 && byte & 0x40 == 0) || (n == -1 && byte & 0x40 != 0) {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

/// A chunk of a type over a content, with the right checksum.
pub(crate) fn chunk(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, kind];
    out.extend(leb(data.len() as u64));
    out.extend_from_slice(data);
    let id = id_of(&out);
    out[4..8].copy_from_slice(&id.0[..4]);
    out
}

/// The content of a chunk.
pub(crate) fn content(bytes: &[u8]) -> &[u8] {
    let length = bytes[9..].iter().position(|b| b & 0x80 == 0).unwrap() + 1;
    &bytes[9 + length..]
}

/// The same change with other dependencies, in any order.
pub(crate) fn with_deps(bytes: &[u8], deps: &[am::ChangeHash]) -> Vec<u8> {
    let old = content(bytes);
    let count = usize::from(old[0]);
    let mut data = leb(deps.len() as u64);
    deps.iter().for_each(|dep| data.extend_from_slice(&dep.0));
    data.extend_from_slice(&old[1 + 32 * count..]);
    chunk(1, &data)
}

/// A change of `ops` assignments to one key, in a handful of bytes.
pub(crate) fn run_length_bomb(forger: &Forger, base: &[(commonhold_sync::id::EntryId, Vec<u8>)], ops: i64) -> Vec<u8> {
    let honest = forger.put(base, "x", 1);
    let run = |value: &[u8]| [sleb(ops), value.to_vec()].concat();
    let columns: [(u64, Vec<u8>); 5] = [
        (0x15, run(b"\x01x")),
        (0x34, leb(ops as u64)),
        (0x42, run(&[1])),
        (0x56, run(&[0])),
        (0x70, run(&[0])),
    ];
    let mut data = vec![honest.deps.len() as u8];
    honest.deps.iter().for_each(|dep| data.extend_from_slice(&dep.0));
    data.push(16);
    data.extend_from_slice(forger.actor().to_bytes());
    data.extend(leb(1));
    data.extend(leb(honest.start_op.get()));
    data.extend([0, 0, 0]);
    data.extend(leb(columns.len() as u64));
    for (spec, bytes) in &columns {
        data.extend(leb(*spec));
        data.extend(leb(bytes.len() as u64));
    }
    columns.iter().for_each(|(_, bytes)| data.extend_from_slice(bytes));
    chunk(1, &data)
}

/// A deflate stream of `bytes` bytes that inflates 158-fold: a literal zero, then "258 times the byte before" in 13 bits each.
pub(crate) fn deflate_bomb(bytes: usize) -> Vec<u8> {
    let mut bits: Vec<bool> = vec![true, true, false];
    bits.extend([false, false, true, true, false, false, false, false]);
    while bits.len() < 8 * bytes {
        bits.extend([true, true, false, false, false, true, false, true]);
        bits.extend([false; 5]);
    }
    bits.extend([false; 7]);
    bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |n, bit| n << 1 | u8::from(*bit))).collect()
}

#[test]
fn a_deflated_change_bomb_is_refused_by_its_type() {
    let stage = Stage::new();
    let lies = vec![stage.forger().seal(vec![chunk(2, &deflate_bomb(512 << 10))])];
    stage.refuses("S1.compressed", lies);
}

#[test]
fn a_change_that_automerge_itself_deflated_is_refused_too() {
    let stage = Stage::new();
    let mut forger = stage.forger();
    let change = forger.draft(&stage.base, |edit| edit.put(&ObjId::ROOT, "lie", "x".repeat(10_000)));
    let mut change = am::Change::from(change);
    assert_ne!(change.bytes().len(), change.raw_bytes().len());
    let lies = vec![forger.seal(vec![change.bytes().to_vec()])];
    stage.refuses("S1.compressed", lies);
}

#[test]
fn a_run_length_bomb_is_refused_by_its_count() {
    for ops in [65_537, 5_000_000, 1 << 40, i64::MAX] {
        let stage = Stage::new();
        let mut forger = stage.forger();
        let bomb = run_length_bomb(&forger, &stage.base, ops);
        assert!(bomb.len() < 200);
        let lies = vec![forger.seal(vec![bomb])];
        stage.refuses("S2.ops", lies);
    }
}

#[test]
fn a_corrupt_chunk_is_refused_and_not_passed_over_in_silence() {
    let stage = Stage::new();
    let mut forger = stage.forger();
    let mut bytes = bytes_of(forger.put(&stage.base, "lie", 1));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    let lies = vec![forger.seal(vec![bytes])];
    stage.refuses("S2.checksum", lies);
}

#[test]
fn a_wrong_checksum_is_refused() {
    let stage = Stage::new();
    let mut forger = stage.forger();
    let mut bytes = bytes_of(forger.put(&stage.base, "lie", 1));
    bytes[5] ^= 1;
    assert!(am::Change::from_bytes(bytes.clone()).is_ok(), "automerge takes it");
    let lies = vec![forger.seal(vec![bytes])];
    stage.refuses("S2.checksum", lies);
}

#[test]
fn a_chunk_of_another_kind_or_length_is_refused() {
    let cut = |bytes: &[u8]| bytes[..bytes.len() - 1].to_vec();
    let long = |bytes: &[u8]| [bytes, &[0]].concat();
    let magic = |bytes: &[u8]| [&[0x86], &bytes[1..]].concat();
    let document = |bytes: &[u8]| chunk(0, content(bytes));
    let unknown = |bytes: &[u8]| chunk(9, content(bytes));
    let few = |_: &[u8]| vec![1, 2, 3];
    type Spoil<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let cases: [(Spoil<'_>, &str); 6] = [
        (&cut, "S2.length"),
        (&long, "S2.length"),
        (&magic, "S1.magic"),
        (&document, "S1.type"),
        (&unknown, "S1.type"),
        (&few, "S2.length"),
    ];
    for (spoil, code) in cases {
        let stage = Stage::new();
        let mut forger = stage.forger();
        let bytes = spoil(&bytes_of(forger.put(&stage.base, "lie", 1)));
        let lies = vec![forger.seal(vec![bytes])];
        stage.refuses(code, lies);
    }
}

#[test]
fn what_exceeds_the_constants_of_the_rules_is_refused() {
    let stage = Stage::new();
    let forger = stage.forger();
    let put = |key: String, value: String| {
        let mut change = forger.put(&stage.base, "x", 1);
        change.operations[0].key = am::legacy::Key::Map(key.into());
        change.operations[0].action = am::legacy::OpType::Put(value.as_str().into());
        change
    };
    let mut many_deps = put("x".into(), "y".into());
    many_deps.deps = (0..65u8).map(|n| am::ChangeHash([n; 32])).collect();
    let mut many_ops = put("x".into(), "y".into());
    many_ops.operations = vec![many_ops.operations[0].clone(); 65_537];
    let mut message = put("x".into(), "y".into());
    message.message = Some("m".repeat((256 << 10) + 1));
    let mut late = put("x".into(), "y".into());
    late.time = i64::MAX;
    let mut actor = put("x".into(), "y".into());
    actor.actor_id = am::ActorId::from([1; 17]);
    let mut many_bytes = put("x".into(), "y".repeat(256 << 10));
    many_bytes.operations = vec![many_bytes.operations[0].clone(); 4];
    let cases = [
        (put("k".repeat(1_025), "y".into()), "S2.key-bytes"),
        (put("k".into(), "y".repeat((256 << 10) + 1)), "S2.value-bytes"),
        (many_deps, "S2.deps"),
        (many_ops, "S2.ops"),
        (message, "S2.message"),
        (late, "S6.timestamp"),
        (actor, "S2.actor-length"),
        (many_bytes, "S2.bytes"),
    ];
    for (change, code) in cases {
        let stage = Stage::new();
        let lies = vec![stage.forger().seal(vec![bytes_of(change)])];
        stage.refuses(code, lies);
    }
}
