//! What hostile input may cost: bytes allocated, measured; times, printed. The tests run one after the other, because the
//! allocator counts for the whole process.

#[path = "hostile/forge.rs"]
mod forge;
#[path = "hostile/harness.rs"]
mod harness;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use automerge as am;
use commonhold_engine::document::{SnapshotCaps, View};
use commonhold_sync::chain::Segment;
use commonhold_sync::clock::Fingerprint;
use commonhold_sync::id::StoreId;
use commonhold_sync::limits::Limits;
use commonhold_sync::message::{Message, Spaces};
use commonhold_sync::peer::Input;
use harness::*;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOC: PeakAlloc = PeakAlloc;

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that `f` had at its peak beyond those before it.
fn peak<T>(what: &str, f: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOC.current_usage();
    ALLOC.reset_peak_usage();
    let started = Instant::now();
    let result = f();
    let extra = ALLOC.peak_usage().saturating_sub(before);
    println!("{what}: {extra} bytes at the peak, {:?}", started.elapsed());
    (extra, result)
}

/// Delivers a message and says what it took beyond its own bytes.
fn cost(stage: &mut Stage, what: &str, message: &[u8]) -> usize {
    let frames = stage.liar.frames(message);
    let (host, conn) = (stage.liar.host, stage.liar.conn);
    let world = &mut stage.world;
    peak(what, || frames.into_iter().for_each(|bytes| world.input(host, Input::Frame { conn, bytes }))).0
}

const MIB: usize = 1 << 20;

#[test]
fn bombs_cost_no_more_than_their_own_bytes() {
    let _alone = alone();
    let bombs: [(&str, Vec<u8>); 3] = {
        let stage = Stage::new();
        let forger = stage.forger();
        [
            ("deflated change, 512 KiB to 83 MiB", forge::chunk(2, &forge::deflate_bomb(512 << 10))),
            ("run of 5,000,000 operations", forge::run_length_bomb(&forger, &stage.base, 5_000_000)),
            ("run of 2^62 operations", forge::run_length_bomb(&forger, &stage.base, 1 << 62)),
        ]
    };
    for (what, bomb) in bombs {
        let mut stage = Stage::new();
        let size = bomb.len();
        let segment = stage.forger().seal(vec![bomb]);
        let honest = stage.honest.clone();
        let message = stage.liar.data(vec![segment, honest], false).to_bytes();
        // The frame, its plaintext, the message inflated, its parts, the segment, and a copy in case it has to wait.
        assert!(cost(&mut stage, what, &message) < MIB + 8 * size, "{what}");
        assert!(stage.world.ended(&stage.liar).is_some());
        stage.all_is_well();
    }
}

#[test]
fn an_inflating_message_costs_nothing() {
    let _alone = alone();
    let mut stage = Stage::new();
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    let mut bytes = vec![0x84];
    bytes.extend((256u32 << 20).to_be_bytes());
    bytes.extend(lz4_flex::block::compress(&vec![0u8; 16 << 20]));
    assert!(cost(&mut stage, "lz4, 256 MiB", &bytes) < MIB);
    assert_eq!(stage.world.ended(&stage.liar), Some("P.message"));
    stage.all_is_well();
}

/// A message of a type with a body, compressed as far as the limits of a receiver allow.
fn packed(tag: u8, mut body: Vec<u8>) -> Vec<u8> {
    let mut packed = lz4_flex::block::compress(&body);
    let limits = Limits::default();
    if packed.len() * limits.inflate_ratio_max < body.len() {
        // Some noise at the end, which does not compress, keeps the ratio.
        let noise = body.len() / limits.inflate_ratio_max + 64;
        let mut x = 1u64;
        body.extend((0..noise).map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (x >> 56) as u8
        }));
        packed = lz4_flex::block::compress(&body);
    }
    let mut out = vec![tag | 0x80];
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(packed);
    out
}

#[test]
fn millions_of_tiny_items_are_never_held() {
    let _alone = alone();
    const ITEMS: u32 = 7 << 20;
    let head = |bytes: &[u8]| [bytes, &[0x9a], &ITEMS.to_be_bytes()].concat();
    // Hello with addresses; ack with exceptions; ack with marks; data whose segment has empty entries.
    let hello = [head(&[0xa1, 0x04]), vec![0x60; ITEMS as usize]].concat();
    let except = [head(&[0xa1, 0x02]), vec![0; ITEMS as usize]].concat();
    let marks =
        [[&[0xa1, 0x01, 0x9a][..], &(ITEMS / 3).to_be_bytes()].concat(), [0x82, 0, 0].repeat(ITEMS as usize / 3)];
    let mut segment = vec![0xa1, 0x01, 0x81, 0x85, 0xf6, 0, 1, 0x83, 1, 0x80, 0x58, 64];
    segment.extend([0; 64]);
    let entries = [head(&segment), vec![0x40; ITEMS as usize]].concat();
    for (what, tag, body) in
        [("addresses", 0, hello), ("except", 7, except), ("marks", 7, marks.concat()), ("entries", 4, entries)]
    {
        let mut stage = Stage::new();
        let honest = stage.honest.clone();
        stage.liar.push(&mut stage.world, vec![honest]);
        let message = packed(tag, body);
        assert!(message.len() < 300_000, "{what}: {}", message.len());
        // What a message may inflate to, and little besides.
        let extra = cost(&mut stage, what, &message);
        assert!(extra < Limits::default().inflated_bytes_max + 2 * MIB, "{what}: {extra}");
        assert_eq!(stage.world.ended(&stage.liar), Some("P.message"));
        stage.all_is_well();
    }
}

#[test]
fn twenty_thousand_changes_with_unknown_dependencies_wait_within_their_bound_and_slow_nobody() {
    let _alone = alone();
    let mut stage = Stage::new();
    let mut waiters: Vec<Segment> = Vec::new();
    for salt in 0..20_000u64 {
        let mut forger = Forger::new(&key(LIAR), 1_000 + salt, stage.world.space, stage.doc);
        let mut deps = [0; 32];
        deps[..8].copy_from_slice(&salt.to_be_bytes());
        let change = am::ExpandedChange {
            operations: vec![],
            actor_id: forger.actor(),
            hash: None,
            seq: 1,
            start_op: 5.try_into().unwrap(),
            time: 0,
            message: None,
            deps: vec![am::ChangeHash(deps)],
            extra_bytes: vec![],
            author: None,
        };
        waiters.push(forger.seal(vec![bytes_of(change)]));
    }
    let frames: Vec<Vec<u8>> = waiters
        .chunks(1_000)
        .flat_map(|chunk| {
            let message = stage.liar.data(chunk.to_vec(), true).to_bytes();
            stage.liar.frames(&message)
        })
        .collect();
    let conn = stage.liar.conn;
    let world = &mut stage.world;
    let (extra, ()) = peak("20,000 changes that wait", || {
        frames.into_iter().for_each(|bytes| world.input(0, Input::Frame { conn, bytes }))
    });
    let max = Limits::default().waiting_bytes_per_peer;
    assert!(stage.world.hosts[0].peer.waiting_bytes() <= max);
    assert!(extra < 4 * max, "{extra}");
    // Honest entries in the same document go their way meanwhile, and do not look at what waits.
    let started = Instant::now();
    let honest = stage.honest.clone();
    let mut other = stage.world.intrude(0, &key(68));
    other.push(&mut stage.world, vec![honest]);
    println!("an honest entry beside them: {:?}", started.elapsed());
    stage.all_is_well();
}

#[test]
fn an_unsolicited_flood_is_answered_busy_and_memory_stays_flat() {
    let _alone = alone();
    let mut stage = Stage::new();
    let mut forger = stage.forger();
    let mut view = view_of(&stage.base);
    view.set_chain(chain_author(&forger.opening, &stage.world.space, &stage.doc)).unwrap();
    for n in 0..6_000 {
        view.edit(|edit| edit.put(&commonhold_engine::document::ObjId::ROOT, "flood", n)).unwrap();
        view.commit().unwrap();
    }
    let entries: Vec<Vec<u8>> = view.flush().unwrap().into_iter().map(|entry| entry.bytes).collect();
    let segments: Vec<Segment> = entries.chunks(1_000).map(|chunk| forger.seal(chunk.to_vec())).collect();
    segments.into_iter().for_each(|segment| stage.liar.push(&mut stage.world, vec![segment]));
    let notices = |stage: &mut Stage| {
        stage.liar.pull(&mut stage.world);
        let busy = |m: &&Message| matches!(m, Message::Notice(n) if n.code == "busy");
        stage.liar.messages.iter().filter(busy).count()
    };
    assert_eq!(stage.world.ended(&stage.liar), None);
    assert_eq!(notices(&mut stage), 2, "two seconds' worth, then no more");
    assert_eq!(stage.world.clock(0, stage.doc).length(&forger.chain()), 4_000);
    // What was dropped is not acknowledged as if it were stored.
    stage.world.settle();
    stage.liar.pull(&mut stage.world);
    for message in &stage.liar.messages {
        if let Message::Ack(ack) = message {
            assert!((5..=6).all(|n| n > ack.data || ack.except.contains(&n)), "{ack:?}");
        }
    }
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    stage.all_is_well();
}

#[test]
fn what_waits_for_a_genesis_is_bounded() {
    let _alone = alone();
    let mut stage = Stage::new();
    // The victim is told of a space whose genesis nobody has; the liar claims to hold it and sends data of it.
    let unknown = commonhold_sync::id::SpaceId([77; 32]);
    let real = stage.world.space;
    stage.world.input(0, Input::Join { space: unknown, genesis: None, filter: None });
    let mut liar = stage.world.knock(0, &key(70));
    stage.world.space = unknown;
    let mut hello = liar.hello(&stage.world);
    hello.spaces[0].fingerprint = Fingerprint::default();
    hello.store = StoreId([201; 16]);
    liar.send(&mut stage.world, &Message::Hello(hello));
    stage.world.space = real;
    let handles: Vec<u32> = liar
        .messages
        .iter()
        .filter_map(|m| match m {
            Message::Hello(hello) => Some(hello.spaces.iter().map(|s| s.handle).collect::<Vec<_>>()),
            _ => None,
        })
        .flatten()
        .collect();
    let honest = stage.honest.clone();
    let big: Vec<u8> = (0..900_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (extra, ()) = peak("data before a genesis", || {
        for n in 0..300 {
            if stage.world.hosts[0].ended.contains_key(&liar.conn) {
                break;
            }
            let mut segment = honest.clone();
            segment.entries = vec![big.clone()];
            let wire = liar.wire(segment);
            let handle = handles[n % handles.len()];
            let data = commonhold_sync::message::Data { segments: vec![wire], ..empty(handle, true) };
            liar.send(&mut stage.world, &Message::Data(data));
        }
    });
    println!("ended: {:?}", stage.world.hosts[0].ended.get(&liar.conn));
    assert!(extra < 2 * (Limits::default().snapshot_bytes_max + 16 * MIB), "{extra}");
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    stage.all_is_well();
}

#[test]
fn spaces_that_nobody_knows_are_kept_within_a_bound() {
    let _alone = alone();
    let mut stage = Stage::new();
    let mut hello = stage.liar.space_hello(&stage.world, true);
    hello.filter = Some(vec![stage.doc; 16_000]);
    let before = ALLOC.current_usage();
    let messages: Vec<Vec<u8>> = (0..100u8)
        .flat_map(|n| {
            hello.tag = [n; 16];
            let message = Message::Spaces(Spaces { spaces: vec![hello.clone()] }).to_bytes();
            stage.liar.frames(&message)
        })
        .collect();
    let conn = stage.liar.conn;
    messages.into_iter().for_each(|bytes| stage.world.input(0, Input::Frame { conn, bytes }));
    let kept = ALLOC.current_usage().saturating_sub(before);
    println!("kept {kept} bytes of 51 MB");
    assert!(kept < 2 * MIB, "{kept}");
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    stage.all_is_well();
}

#[test]
fn a_snapshot_bomb_is_not_loaded() {
    let _alone = alone();
    for ops in [1 << 23, 1 << 25, 1 << 40] {
        let bomb = forge::document_bomb(ops);
        assert!(bomb.len() < 500);
        let (extra, result) = peak("document bomb", || View::from_snapshot(&bomb, &SnapshotCaps::default()).err());
        println!("{result:?}");
        assert!(result.is_some() && extra < MIB, "{extra}");
    }
}

/// A device signs 100,000 histories of one chain, each of which would be valid alone, and pushes them all.
#[test]
fn a_hundred_thousand_branches_grow_nothing_and_hold_up_nobody() {
    const BRANCHES: u32 = 100_000;
    const EACH: u32 = 500;
    let _alone = alone();
    let mut stage = Stage::new();
    let doc = stage.doc;
    let forger = stage.forger();
    let entry = forger.put(&stage.base, "lie", 1);
    let messages: Vec<Message> = (0..BRANCHES / EACH)
        .map(|message| {
            let branches = (0..EACH).map(|n| {
                let mut entry = entry.clone();
                entry.time = i64::from(message * EACH + n) + 1;
                forger.clone().seal(vec![bytes_of(entry)])
            });
            let branches = branches.collect();
            stage.liar.data(branches, false)
        })
        .collect();
    stage.world.connect(2, 0);
    stage.world.settle();
    let stored = |stage: &Stage| -> usize {
        stage.world.segments(0, doc).iter().map(|s| s.body_bytes() + s.tip.signature.len()).sum()
    };
    let before = stored(&stage);
    let started = Instant::now();
    let mut spent = std::time::Duration::ZERO;
    let (extra, ()) = peak("100,000 branches", || {
        for (at, message) in messages.iter().enumerate() {
            stage.world.now += 1_000 * u64::from(EACH) / 2_000;
            let frames = stage.liar.frames(&message.to_bytes());
            let (host, conn) = (stage.liar.host, stage.liar.conn);
            let began = Instant::now();
            frames.into_iter().for_each(|bytes| stage.world.input(host, Input::Frame { conn, bytes }));
            spent += began.elapsed();
            if at % 50 == 25 {
                stage.world.put(2, doc, "honest", at as i64);
                stage.world.settle();
                assert_eq!(stage.world.get(0, doc, "honest"), Some(at as i64), "honest work goes on");
            }
        }
    });
    let grown = stored(&stage).saturating_sub(before);
    println!("100,000 branches: {grown} bytes stored, {spent:?} in the victim, {:?} in all", started.elapsed());
    assert!(grown < MIB, "{grown} bytes are stored of it");
    assert!(extra < 2 * MIB, "{extra} bytes at the peak");
    assert!(stage.world.notices(0).len() < 1_000, "{} notices", stage.world.notices(0).len());
    assert_eq!(stage.world.ended(&stage.liar), None, "to have many histories is no violation: all of it was looked at");
    assert_eq!(stage.world.get(0, doc, "lie"), None);
}
