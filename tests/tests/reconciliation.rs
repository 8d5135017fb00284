//! Strangers with much in common: two peers that never met, and hold the same documents but for some, become level over
//! what differs. Differences of 0, 1 and 1,000 documents run between real peers; 100,000 run on the sets alone, because to make
//! so many documents takes minutes.

#[path = "hostile/harness.rs"]
mod harness;

use commonhold_sync::id::DocId;
use commonhold_sync::reconcile::{
    BATCH_SYMBOLS_MAX, Decoder, Element, Encoder, Fault, Progress, SYMBOLS_MAX, coded_range, decode_symbols, element,
    encode_symbols, work_max,
};
use commonhold_sync::record::Writers;
use harness::World;

/// Hosts 0 and 1 hold `common` documents from host 2, of which `differ` were edited on one side or the other since.
fn strangers(common: u32, differ: usize) -> usize {
    let mut world = World::new(3, Writers::Anyone);
    let docs: Vec<DocId> = (0..common).map(|n| world.create(2, n)).collect();
    docs.iter().for_each(|doc| world.put(2, *doc, "x", 1));
    for host in [0, 1] {
        let conn = world.connect(host, 2);
        world.settle();
        world.cut(host, 2, conn);
    }
    for (n, doc) in docs.iter().enumerate().take(differ) {
        world.put(n % 2, *doc, "x", 2);
    }
    let before = world.hosts[0].sent_bytes + world.hosts[1].sent_bytes;
    world.connect(0, 1);
    world.settle();
    world.assert_level(0, 1);
    let bytes = world.hosts[0].sent_bytes + world.hosts[1].sent_bytes - before;
    println!("{differ} of {common} documents differ: {bytes} bytes both ways, entries included");
    world.settle();
    assert_eq!(world.hosts[0].sent_bytes + world.hosts[1].sent_bytes - before, bytes, "silence follows");
    bytes
}

#[test]
fn strangers_without_a_difference_say_hello_and_fall_silent() {
    assert!(strangers(300, 0) < 2_048);
}

#[test]
fn strangers_with_one_difference_pay_for_one() {
    assert!(strangers(300, 1) < 8_192);
}

#[test]
fn strangers_with_a_thousand_differences_converge_exactly() {
    let bytes = strangers(1_200, 1_000);
    assert!(bytes < 1_000 * 1_000 + 8_192, "{bytes}");
}

fn elements(seed: &[u8; 16], docs: impl Iterator<Item = (u32, u8)>) -> Vec<Element> {
    let of = |(n, version): (u32, u8)| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        element(seed, &DocId(id), &[version; 32])
    };
    docs.map(of).collect()
}

#[test]
fn a_hundred_thousand_differences_decode_exactly() {
    const DOCS: u32 = 200_000;
    let seed = [3; 16];
    let mut remote = elements(&seed, (0..DOCS).map(|n| (n, u8::from(n % 4 == 0))));
    let mut local = elements(&seed, (0..DOCS).map(|n| (n, 0)));
    let mut encoder = Encoder::new(&seed, remote.iter().copied());
    let mut decoder = Decoder::new(&seed, local.iter().copied(), SYMBOLS_MAX);
    let (mut bytes, started) = (0, std::time::Instant::now());
    let (only_remote, only_local) = loop {
        let from = encoder.position();
        let symbols = encoder.next_symbols(decoder.wanted().clamp(1, BATCH_SYMBOLS_MAX));
        let wire = encode_symbols(encoder.mark(), from, &symbols);
        bytes += wire.len();
        let batch = decode_symbols(&wire, BATCH_SYMBOLS_MAX).unwrap();
        if let Progress::Done { only_remote, only_local } = decoder.push(&batch).unwrap() {
            break (only_remote, only_local);
        }
    };
    remote.sort();
    local.sort();
    let lacks = |of: &[Element], in_: &[Element]| -> Vec<Element> {
        of.iter().filter(|e| in_.binary_search(e).is_err()).copied().collect()
    };
    assert_eq!((only_remote.len(), only_local.len()), (50_000, 50_000));
    assert_eq!(only_remote, lacks(&remote, &local));
    assert_eq!(only_local, lacks(&local, &remote));
    println!("100,000 elements differ of {DOCS}: {bytes} bytes of symbols, {:?}", started.elapsed());
}

#[test]
fn symbols_that_are_no_set_end_within_the_work_bound() {
    let seed = [4; 16];
    let local = elements(&seed, (0..1_000).map(|n| (n, 0)));
    for lie in 0..4 {
        let mut decoder = Decoder::new(&seed, local.iter().copied(), 1 << 16);
        let theirs = elements(&seed, (0..if lie == 3 { 2_000 } else { 100_000 }).map(|n| (n, 7)));
        let mark = Encoder::new(&seed, theirs.iter().copied()).mark();
        let outcome = loop {
            let (from, count) = (decoder.received(), decoder.wanted().clamp(1, BATCH_SYMBOLS_MAX));
            let mut symbols = coded_range(&seed, from..from + count, theirs.iter().copied());
            // The first symbol is held against the size and checksum of the whole set, so that one is honest.
            let lies = &mut symbols[usize::from(from == 0)..];
            match lie {
                0 => lies.reverse(),
                1 => {
                    let one = lies[0];
                    lies.fill(one);
                }
                2 => lies.rotate_left(1),
                _ => lies.swap(0, count / 2),
            }
            let wire = encode_symbols(mark, from, &symbols);
            let batch = decode_symbols(&wire, BATCH_SYMBOLS_MAX).unwrap();
            assert!(decoder.work() <= work_max(decoder.received().max(1)), "{}", decoder.work());
            match decoder.push(&batch) {
                Ok(Progress::NeedMore) if decoder.received() < 1 << 16 => {}
                other => break other,
            }
        };
        println!("lie {lie}: {} symbols, {} steps, {:.80?}", decoder.received(), decoder.work(), outcome);
        assert!(matches!(
            outcome,
            Err(Fault::Inconsistent(_) | Fault::TooMany { .. } | Fault::WorkExceeded { .. }) | Ok(Progress::NeedMore)
        ));
        assert!(decoder.work() <= work_max(decoder.received() + BATCH_SYMBOLS_MAX));
    }
}
