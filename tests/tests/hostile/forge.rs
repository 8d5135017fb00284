//! Chunks put together by hand, which no encoder would write.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(dead_code, unreachable_pub, reason = "each test binary that includes this uses its own part of it")]

use automerge as am;

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
pub fn chunk(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, kind];
    out.extend(leb(data.len() as u64));
    out.extend_from_slice(data);
    let id = id_of(&out);
    out[4..8].copy_from_slice(&id.0[..4]);
    out
}

/// The content of a chunk.
pub fn content(bytes: &[u8]) -> &[u8] {
    let length = bytes[9..].iter().position(|b| b & 0x80 == 0).unwrap() + 1;
    &bytes[9 + length..]
}

/// The same change with other dependencies, in any order.
pub fn with_deps(bytes: &[u8], deps: &[am::ChangeHash]) -> Vec<u8> {
    let old = content(bytes);
    let count = usize::from(old[0]);
    let mut data = leb(deps.len() as u64);
    deps.iter().for_each(|dep| data.extend_from_slice(&dep.0));
    data.extend_from_slice(&old[1 + 32 * count..]);
    chunk(1, &data)
}

/// A change of `ops` assignments to one key, in a handful of bytes.
pub fn run_length_bomb(forger: &Forger, base: &[(commonhold_sync::id::EntryId, Vec<u8>)], ops: i64) -> Vec<u8> {
    let honest = forger.put(base, "x", 1);
    let run = |value: &[u8]| [sleb(ops), value.to_vec()].concat();
    let columns: [(u64, Vec<u8>); 5] =
        [(0x15, run(b"\x01x")), (0x34, leb(ops as u64)), (0x42, run(&[1])), (0x56, run(&[0])), (0x70, run(&[0]))];
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
pub fn deflate_bomb(bytes: usize) -> Vec<u8> {
    let mut bits: Vec<bool> = vec![true, true, false];
    bits.extend([false, false, true, true, false, false, false, false]);
    while bits.len() < 8 * bytes {
        bits.extend([true, true, false, false, false, true, false, true]);
        bits.extend([false; 5]);
    }
    bits.extend([false; 7]);
    bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |n, bit| n << 1 | u8::from(*bit))).collect()
}

/// A document chunk with one change of `ops` operations, in a handful of bytes, packed without compression.
pub fn document_bomb(ops: u64) -> Vec<u8> {
    let leb = |mut n: u64| {
        let mut out = Vec::new();
        while n > 0x7f {
            out.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    };
    let sleb = |n: u64| {
        let mut out = leb(n);
        if n > 0 && out.last().is_some_and(|b| b & 0x40 != 0) {
            *out.last_mut().unwrap() |= 0x80;
            out.push(0);
        }
        out
    };
    let run = |value: &[u8]| [sleb(ops), value.to_vec()].concat();
    // Change columns: actor 0; seq 1; max op; time 0; no message; no deps; no extra.
    let one = |value: &[u8]| [vec![0x7f], value.to_vec()].concat();
    let changes: Vec<(u64, Vec<u8>)> = vec![
        (0x01, one(&[0])),
        (0x03, one(&[1])),
        (0x13, one(&sleb(ops))),
        (0x23, one(&[0])),
        (0x35, vec![0, 1]),
        (0x40, one(&[0])),
        (0x56, one(&[7])),
    ];
    let operations: Vec<(u64, Vec<u8>)> = vec![
        (0x15, run(b"\x01x")),
        (0x21, run(&[0])),
        (0x23, run(&[1])),
        (0x34, leb(ops)),
        (0x42, run(&[1])),
        (0x56, run(&[0])),
        (0x80, run(&[0])),
    ];
    let mut data = vec![1, 16];
    data.extend([5; 16]);
    data.extend([1]);
    data.extend([9; 32]);
    for columns in [&changes, &operations] {
        data.extend(leb(columns.len() as u64));
        for (spec, bytes) in columns {
            data.extend(leb(*spec));
            data.extend(leb(bytes.len() as u64));
        }
    }
    changes.iter().chain(&operations).for_each(|(_, bytes)| data.extend_from_slice(bytes));
    data.push(0);
    let raw = chunk(0, &data);
    let mut out = b"CHsn".to_vec();
    out.extend([1, 0]);
    out.extend((raw.len() as u64).to_le_bytes());
    out.extend(raw);
    out
}
