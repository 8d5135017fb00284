//! Frames and messages that are wrong in themselves, come too early, or ask for too much: rule T1, and the protocol's order.

use commonhold_sync::chain::Segment;
use commonhold_sync::clock::{Clock, Ends, Fingerprint};
use commonhold_sync::id::{DocId, StoreId};
use commonhold_sync::limits::Limits;
use commonhold_sync::merkle::Head;
use commonhold_sync::message::*;
use commonhold_sync::peer::{Event, Input};

use super::harness::*;

/// Sends one message and expects to be sent away.
fn ends(code: &str, message: impl FnOnce(&mut Stage) -> Message) {
    let mut stage = Stage::new();
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    let message = message(&mut stage);
    stage.liar.send(&mut stage.world, &message);
    println!("row: {code}");
    assert_eq!(stage.world.ended(&stage.liar), Some(code), "{message:.200?}");
    stage.all_is_well();
}

fn ends_bytes(code: &str, bytes: &[u8]) {
    let mut stage = Stage::new();
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    stage.liar.send_bytes(&mut stage.world, bytes);
    println!("row: {code}");
    assert_eq!(stage.world.ended(&stage.liar), Some(code));
    stage.all_is_well();
}

#[test]
fn a_frame_over_the_limit_ends_the_connection() {
    let mut stage = Stage::new();
    let bytes = vec![0; Limits::default().frame_bytes_max + 1];
    let (host, conn) = (stage.liar.host, stage.liar.conn);
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    stage.world.input(host, Input::Frame { conn, bytes });
    println!("row: {:?}", stage.world.ended(&stage.liar));
    assert!(stage.world.ended(&stage.liar).is_some());
    stage.all_is_well();
}

#[test]
fn a_frame_of_garbage_or_of_nothing_ends_the_connection() {
    for bytes in [vec![], vec![0], vec![0, 0], vec![255; 100], vec![0; 1_000]] {
        let mut stage = Stage::new();
        let (host, conn) = (stage.liar.host, stage.liar.conn);
        let honest = stage.honest.clone();
        stage.liar.push(&mut stage.world, vec![honest]);
        stage.world.input(host, Input::Frame { conn, bytes });
        println!("row: {:?}", stage.world.ended(&stage.liar));
        assert!(stage.world.ended(&stage.liar).is_some());
        stage.all_is_well();
    }
}

#[test]
fn a_message_over_the_limit_ends_the_connection() {
    let mut stage = Stage::new();
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    stage.liar.send_bytes(&mut stage.world, &vec![99; Limits::default().message_bytes_max + 1]);
    println!("row: {:?}", stage.world.ended(&stage.liar));
    assert!(stage.world.ended(&stage.liar).is_some());
    stage.all_is_well();
}

#[test]
fn a_message_that_does_not_decode_ends_the_connection() {
    ends_bytes("P.message", &[]);
    for tag in 0..14u8 {
        ends_bytes("P.message", &[tag, 0xff, 0xff]);
        ends_bytes("P.message", &[tag, 0xf6]);
        ends_bytes("P.message", &[tag | 0x80, 0, 0]);
    }
}

#[test]
fn an_unknown_message_is_passed_over() {
    let mut stage = Stage::new();
    let honest = stage.honest.clone();
    stage.liar.send_bytes(&mut stage.world, &[77, 1, 2, 3]);
    stage.liar.push(&mut stage.world, vec![honest]);
    assert_eq!(stage.world.ended(&stage.liar), None);
    stage.all_is_well();
}

#[test]
fn a_message_before_the_hello_ends_the_connection() {
    let mut stage = Stage::new();
    let mut early = stage.world.knock(0, &key(70));
    early.send(&mut stage.world, &Message::Data(empty(0, false)));
    assert_eq!(stage.world.ended(&early), Some("P.order"));
    println!("row: P.order");
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    stage.all_is_well();
}

#[test]
fn a_second_hello_ends_the_connection() {
    ends("P.order", |stage| Message::Hello(stage.liar.hello(&stage.world)));
}

#[test]
fn a_space_named_twice_is_not_served_twice() {
    let mut stage = Stage::new();
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    let mut hello = stage.liar.space_hello(&stage.world, true);
    (hello.fresh, hello.fingerprint) = (true, Fingerprint::default());
    let before = stage.world.hosts[0].sent_bytes;
    let again = Message::Spaces(Spaces { spaces: vec![hello; 1_000] });
    stage.liar.send(&mut stage.world, &again);
    assert_eq!(stage.world.ended(&stage.liar), None);
    assert_eq!(stage.world.hosts[0].sent_bytes, before);
    println!("row: ignored");
    stage.all_is_well();
}

#[test]
fn a_filter_of_absurd_length_ends_the_connection() {
    ends("P.list", |stage| {
        let mut hello = stage.liar.space_hello(&stage.world, true);
        hello.filter = Some(vec![stage.doc; LIST_MAX + 1]);
        Message::Spaces(Spaces { spaces: vec![hello] })
    });
}

#[test]
fn handles_that_were_not_defined_end_the_connection() {
    ends("P.handle", |_| Message::Data(empty(9, false)));
    ends("P.handle", |_| Message::Want(Want { space: u32::MAX, docs: vec![], no_snapshot: false }));
    ends("P.handle", |_| Message::Since(Since { space: 9, after: 0, ride: 0, fresh: false }));
    ends("P.handle", |_| Message::SymbolsWanted(SymbolsWanted { space: 9, from: 0, count: 1, seed: None }));
    ends("P.handle", |_| {
        Message::Check(Check { space: 9, fingerprint: Fingerprint::default(), docs: 0, seq: 0, answer: false })
    });
    ends("P.handle", |_| Message::Ack(Ack { data: 0, marks: vec![(9, 1)], except: vec![] }));
    let wire = |stage: &mut Stage, change: &dyn Fn(&mut WireSegment)| {
        let honest = stage.honest.clone();
        let mut wire = stage.liar.wire(honest);
        change(&mut wire);
        Message::Data(Data { segments: vec![wire], ..empty(stage.liar.theirs, false) })
    };
    ends("P.handle", |stage| wire(stage, &|w| w.opening = OpeningRef::Known(700)));
    ends("P.handle", |stage| wire(stage, &|w| w.doc = DocRef::Header(0)));
    ends("P.handle", |stage| {
        let opening = stage.honest.opening.clone();
        wire(stage, &|w| w.opening = OpeningRef::New(5_000, opening.clone()))
    });
}

#[test]
fn a_segment_whose_numbers_do_not_fit_ends_the_connection() {
    type Spoil<'a> = &'a dyn Fn(&mut Segment);
    let cases: [Spoil<'_>; 5] =
        [&|s| s.first = 0, &|s| s.first += 1, &|s| s.tip.n = u64::MAX, &|s| (s.first, s.tip.n) = (u64::MAX, 0), &|s| {
            s.entries.clear()
        }];
    for spoil in cases {
        ends("T3.shape", |stage| {
            let mut segment = stage.honest.clone();
            spoil(&mut segment);
            stage.liar.data(vec![segment], false)
        });
    }
}

#[test]
fn lists_over_the_limit_end_the_connection() {
    let haves = |n: u32| (0..n).map(|i| Have { doc: doc(i), clock: Clock::default() }).collect::<Vec<_>>();
    fn doc(i: u32) -> DocId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&i.to_be_bytes());
        DocId(id)
    }
    let over = LIST_MAX as u32 + 1;
    ends("P.list", |stage| Message::Data(Data { haves: haves(over), ..empty(stage.liar.theirs, false) }));
    ends("P.list", |stage| {
        Message::Data(Data { absent: (0..over).map(doc).collect(), ..empty(stage.liar.theirs, false) })
    });
    ends("P.list", |stage| {
        Message::Ack(Ack { data: 0, marks: vec![], except: vec![1; stage.liar.theirs as usize + over as usize] })
    });
    ends("P.list", |stage| Message::Want(Want { space: stage.liar.theirs, docs: haves(2 * over), no_snapshot: false }));
    ends("P.list", |stage| {
        Message::Difference(Difference { space: stage.liar.theirs, seed: [0; 16], elements: vec![0; 17].into() })
    });
}

#[test]
fn a_hello_of_absurd_length_ends_the_connection() {
    type Spoil<'a> = &'a dyn Fn(&mut Hello);
    let cases: [Spoil<'_>; 4] = [
        &|h| h.addresses = vec!["ws://a/".into(); 65],
        &|h| h.addresses = vec!["a".repeat(10_000)],
        &|h| h.agent = "a".repeat(257),
        &|h| h.spaces = vec![h.spaces[0].clone(); SPACES_MAX + 1],
    ];
    for spoil in cases {
        let mut stage = Stage::new();
        let mut other = stage.world.knock(0, &key(70));
        let mut hello = other.hello(&stage.world);
        spoil(&mut hello);
        other.send(&mut stage.world, &Message::Hello(hello));
        assert_eq!(stage.world.ended(&other), Some("P.list"));
        println!("row: P.list");
        let honest = stage.honest.clone();
        stage.liar.push(&mut stage.world, vec![honest]);
        stage.all_is_well();
    }
}

#[test]
fn an_inflating_message_is_refused_before_it_inflates() {
    let mut bytes = vec![0x84];
    bytes.extend((4u32 << 20).to_be_bytes());
    bytes.extend(lz4_flex::block::compress(&vec![0u8; 4 << 20]));
    ends_bytes("P.message", &bytes);
    // Within the ratio, but not to the length that it states.
    let mut bytes = vec![0x84];
    bytes.extend(60_000u32.to_be_bytes());
    bytes.extend([0; 2_000]);
    ends_bytes("P.message", &bytes);
}

#[test]
fn numbers_at_the_end_of_their_range_do_no_harm() {
    let mut stage = Stage::new();
    let theirs = stage.liar.theirs;
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    let max = u64::MAX;
    let fingerprint = Fingerprint::default();
    // The clock of who holds two histories of the chain, one of them endless: all branches are wanted.
    let chain = stage.honest.opening.chain(&stage.world.space, &stage.doc);
    let clock =
        Clock([(chain, Ends { closed: Some(max), heads: vec![(1, Head([1; 32])), (max, Head([2; 32]))] })].into());
    let docs = vec![Have { doc: stage.doc, clock }];
    for message in [
        Message::Want(Want { space: theirs, docs, no_snapshot: true }),
        Message::Ack(Ack { data: max, marks: vec![(theirs, max)], except: vec![max] }),
        Message::Check(Check { space: theirs, fingerprint, docs: max, seq: max, answer: true }),
        Message::Check(Check { space: theirs, fingerprint, docs: max, seq: max, answer: false }),
        Message::SymbolsWanted(SymbolsWanted { space: theirs, from: max, count: max, seed: None }),
        Message::SymbolsWanted(SymbolsWanted { space: theirs, from: 0, count: max, seed: Some(vec![1; 3].into()) }),
        Message::Difference(Difference { space: theirs, seed: [3; 16], elements: vec![].into() }),
        Message::Data(Data { upto: Some(max), ..empty(theirs, true) }),
        Message::Data(Data { upto: Some(max), fingerprint: Some(fingerprint), ..empty(theirs, true) }),
        Message::Notice(Notice { space: Some(7), doc: None, code: String::new(), text: String::new() }),
    ] {
        stage.liar.send(&mut stage.world, &message);
        assert_eq!(stage.world.ended(&stage.liar), None, "{message:?}");
        stage.world.settle();
    }
    stage.all_is_well();
}

#[test]
fn a_page_after_the_end_of_all_numbers_is_empty() {
    let mut stage = Stage::new();
    let mut other = stage.world.knock(0, &key(70));
    let mut hello = other.hello(&stage.world);
    hello.spaces[0].cursor = Some(Cursor { store: StoreId([1; 16]), seq: u64::MAX });
    hello.spaces[0].fingerprint = Fingerprint::default();
    hello.spaces[0].fresh = true;
    hello.spaces[0].ride = 1;
    other.send(&mut stage.world, &Message::Hello(hello));
    other.pull(&mut stage.world);
    let since = Since { space: other.theirs, after: u64::MAX, ride: u64::MAX, fresh: true };
    other.send(&mut stage.world, &Message::Since(since));
    stage.world.settle();
    assert_eq!(stage.world.ended(&other), None);
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    stage.all_is_well();
}

#[test]
fn symbols_that_nobody_asked_for_end_the_connection() {
    ends("P.order", |stage| {
        Message::Symbols(Symbols { space: stage.liar.theirs, seed: [0; 16], set: 0, symbols: vec![].into() })
    });
}

#[test]
fn hostile_symbols_end_within_the_bound_and_the_peer_goes_on() {
    let mut stage = Stage::new();
    let honest = stage.honest.clone();
    stage.liar.push(&mut stage.world, vec![honest]);
    // The victim dials a liar with whom it has nothing in common, and asks for symbols.
    let mut liar = stage.world.lure(0, &key(71));
    let mut hello = liar.hello(&stage.world);
    hello.spaces = vec![liar.space_hello(&stage.world, false)];
    hello.spaces[0].fingerprint = Fingerprint::default();
    liar.send(&mut stage.world, &Message::Hello(hello));
    let theirs = liar.theirs;
    liar.send(
        &mut stage.world,
        &Message::Data(Data { fingerprint: Some(Fingerprint::default()), ..empty(theirs, true) }),
    );
    let mut asked = 0;
    for round in 0..200u64 {
        stage.world.settle();
        liar.pull(&mut stage.world);
        let wanted = liar.messages.iter().filter(|m| matches!(m, Message::SymbolsWanted(_))).count();
        let last = liar.messages.iter().rev().find_map(|m| match m {
            Message::SymbolsWanted(wanted) => Some(wanted.clone()),
            _ => None,
        });
        if wanted == asked {
            break;
        }
        asked = wanted;
        let last = last.expect("counted a moment ago");
        // Well-formed symbols of a random set, for ever.
        let elements = (0..100u64).map(|n| {
            let mut id = [round as u8; 16];
            id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            commonhold_sync::reconcile::Element(id)
        });
        let from = last.from as usize;
        let mut symbols = commonhold_sync::reconcile::coded_range(&[5; 16], from..from + last.count as usize, elements);
        symbols.reverse();
        let mark = commonhold_sync::reconcile::Encoder::new(&[5; 16], []).mark();
        let symbols = commonhold_sync::reconcile::encode_symbols(mark, from, &symbols);
        liar.send(
            &mut stage.world,
            &Message::Symbols(Symbols { space: theirs, seed: [5; 16], set: u64::MAX, symbols: symbols.into() }),
        );
        if stage.world.hosts[0].ended.contains_key(&liar.conn) {
            break;
        }
    }
    println!("row: asked {asked} times, ended {:?}", stage.world.hosts[0].ended.get(&liar.conn));
    assert!(asked > 0, "the victim asked at all");
    let level = stage.world.events(0, |e| matches!(e, Event::Level { peer, .. } if *peer == device(&key(71))));
    assert_eq!(level, 0);
    stage.all_is_well();
}
