//! Encoder against decoder: what a difference costs, and what hostile symbols can cost.

use super::symbol::{Cursor, Key};
use super::*;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const SEED: [u8; 16] = *b"a responder seed";

/// `n` distinct uniform elements.
pub(super) fn elements(seed: u64, n: usize) -> Vec<Element> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| random(&mut rng)).collect()
}

fn random(rng: &mut ChaCha8Rng) -> Element {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    Element(bytes)
}

pub(super) struct Parted {
    pub(super) remote: Vec<Element>,
    pub(super) local: Vec<Element>,
    pub(super) only_remote: Vec<Element>,
    pub(super) only_local: Vec<Element>,
}

/// Two sets with so many elements in common and apart.
pub(super) fn parted(seed: u64, shared: usize, only_remote: usize, only_local: usize) -> Parted {
    let all = elements(seed, shared + only_remote + only_local);
    let (shared, apart) = all.split_at(shared);
    let (mut only_remote, mut only_local) = (apart[..only_remote].to_vec(), apart[only_remote..].to_vec());
    let (remote, local) = ([shared, &only_remote].concat(), [&only_local, shared].concat());
    only_remote.sort();
    only_local.sort();
    Parted { remote, local, only_remote, only_local }
}

/// Decodes symbol by symbol, so that the figures are exact. Returns the symbols needed, and their bytes as one batch.
fn symbols_needed(sets: Parted) -> (usize, usize) {
    let mut encoder = Encoder::new(&SEED, sets.remote);
    let mut decoder = Decoder::new(&SEED, sets.local, SYMBOLS_MAX);
    let mark = encoder.mark();
    let mut all = Vec::new();
    loop {
        let start = all.len();
        all.extend(encoder.next_symbols((start / 4).max(64)));
        for (symbol, start) in all[start..].iter().zip(start..) {
            let progress = decoder.push(&Batch { mark, start, symbols: vec![*symbol] }).unwrap();
            assert!(decoder.work() <= work_max(decoder.received()));
            if let Progress::Done { only_remote, only_local } = progress {
                assert_eq!((only_remote, only_local), (sets.only_remote, sets.only_local));
                let bytes =
                    all[..=start].chunks(BATCH_SYMBOLS_MAX).map(|part| encode_symbols(mark, 0, part).len()).sum();
                return (start + 1, bytes);
            }
        }
    }
}

#[test]
fn equal_sets_need_one_symbol() {
    assert_eq!(symbols_needed(parted(1, 0, 0, 0)).0, 1);
    assert_eq!(symbols_needed(parted(1, 10_000, 0, 0)).0, 1);
}

#[test]
fn small_differences_are_found_both_ways() {
    for seed in 0..20 {
        for (remote, local) in [(1, 0), (0, 1), (1, 1), (10, 0), (0, 10), (5, 5)] {
            let (needed, _) = symbols_needed(parted(seed, 500, remote, local));
            assert!(needed <= 60, "{needed} symbols for {remote} and {local}");
        }
    }
}

#[test]
fn from_100_differences_on_less_than_2_symbols_each_are_needed() {
    for (shared, remote, local, runs) in
        [(1_000, 100, 0, 20), (1_000, 0, 100, 20), (20_000, 100, 100, 20), (100_000, 500, 500, 4), (0, 2_000, 2_000, 4)]
    {
        let total: usize = (0..runs).map(|seed| symbols_needed(parted(seed, shared, remote, local)).0).sum();
        let each = total as f64 / (runs as usize * (remote + local)) as f64;
        println!("{each:.2} symbols per difference of {} in {shared}", remote + local);
        assert!((1.2..2.0).contains(&each), "{each}");
    }
}

#[test]
fn a_document_that_both_hold_differently_costs_at_most_80_bytes() {
    for (documents, differing, runs) in [(10_000, 100, 20), (100_000, 1_000, 2), (20_000, 10_000, 1)] {
        let shared = documents - differing;
        let bytes: usize = (0..runs).map(|seed| symbols_needed(parted(seed, shared, differing, differing)).1).sum();
        let each = bytes as f64 / (runs as usize * differing) as f64;
        println!("{each:.1} bytes per document for {differing} of {documents}");
        assert!(each <= 80.0, "{each}");
    }
}

#[test]
fn a_hundred_thousand_differences_are_found_in_few_batches() {
    let sets = parted(9, 100_000, 50_000, 50_000);
    let mut encoder = Encoder::new(&SEED, sets.remote);
    let mut decoder = Decoder::new(&SEED, sets.local, SYMBOLS_MAX);
    for batches in 1.. {
        let symbols = encoder.next_symbols(decoder.wanted());
        let batch = Batch { mark: encoder.mark(), start: decoder.received(), symbols };
        if let Progress::Done { only_remote, only_local } = decoder.push(&batch).unwrap() {
            assert_eq!((only_remote, only_local), (sets.only_remote, sets.only_local));
            println!("{batches} batches, {} symbols, {} steps", decoder.received(), decoder.work());
            // At least 9: a batch is at most 16,384 symbols.
            assert!(batches <= 16 && decoder.received() < 200_000);
            assert!(decoder.work() < work_max(decoder.received()) / 2);
            return;
        }
    }
}

#[test]
fn a_scan_of_the_set_continues_a_stream() {
    let sets = parted(10, 5_000, 300, 300);
    let encoder = Encoder::new(&SEED, sets.remote.clone());
    let mut decoder = Decoder::new(&SEED, sets.local, SYMBOLS_MAX);
    let mut push = |start, symbols| decoder.push(&Batch { mark: encoder.mark(), start, symbols }).unwrap();
    assert_eq!(push(0, coded_range(&SEED, 0..256, sets.remote.iter().copied())), Progress::NeedMore);
    let rest = coded_range(&SEED, 256..1_100, sets.remote.iter().copied());
    assert_eq!(push(256, rest), Progress::Done { only_remote: sets.only_remote, only_local: sets.only_local });
}

#[test]
fn the_first_guess_at_the_difference_is_good() {
    for (remote, local) in [(1_000, 1_000), (3_000, 0), (0, 10_000), (9_000, 1_000)] {
        let sets = parted(11, 10_000, remote, local);
        let mut encoder = Encoder::new(&SEED, sets.remote);
        let mut decoder = Decoder::new(&SEED, sets.local, SYMBOLS_MAX);
        let batch = Batch { mark: encoder.mark(), start: 0, symbols: encoder.next_symbols(256) };
        assert_eq!(decoder.push(&batch), Ok(Progress::NeedMore));
        let guess = (256 + decoder.wanted()) as f64 / (remote + local) as f64;
        assert!((1.0..2.0).contains(&guess), "{guess}");
    }
}

#[test]
fn the_element_depends_on_seed_document_and_clock() {
    let of = |seed, doc, clock| element(&[seed; 16], &DocId([doc; 32]), &[clock; 32]);
    let all = [of(1, 2, 3), of(0, 2, 3), of(1, 0, 3), of(1, 2, 0), of(1, 3, 2)];
    assert!((0..5).all(|i| (0..i).all(|j| all[i] != all[j])));
    // A vector for other implementations.
    assert_eq!(format!("{:x}", all[0].bits()), "3c82b797e8130f61f75fd633fd7e00b4");
}

/// Pushes a hostile stream in batches of `len` symbols until it ends, and checks the bounds on the way.
fn withstand(local: Vec<Element>, mark: SetMark, symbols: &[Symbol], len: usize) -> Result<Progress, Fault> {
    let (own, mut decoder) = (local.clone(), Decoder::new(&SEED, local, SYMBOLS_MAX));
    let mut end = Ok(Progress::NeedMore);
    for symbols in symbols.chunks(len) {
        end = decoder.push(&Batch { mark, start: decoder.received(), symbols: symbols.to_vec() });
        let max = work_max(decoder.received() + symbols.len());
        assert!(decoder.work() <= max, "{} steps of {max}", decoder.work());
        match &end {
            Ok(Progress::NeedMore) => assert!(decoder.received() as u64 <= 4 * (own.len() as u64 + mark.len) + 1_024),
            Ok(Progress::Done { only_remote, only_local }) => {
                assert!(only_local.iter().all(|e| own.contains(e)) && !only_remote.iter().any(|e| own.contains(e)));
                break;
            }
            Err(_) => break,
        }
    }
    if end != Ok(Progress::NeedMore) {
        assert_eq!(decoder.push(&Batch { mark, start: decoder.received(), symbols: vec![] }), Err(Fault::Ended));
    }
    end
}

/// The mark that goes with a made-up first symbol, for a set of `len` elements.
fn pose(symbols: &mut [Symbol], len: u64) -> SetMark {
    symbols[0].count = len as i64;
    SetMark { len, check: symbols[0].check }
}

fn single(element: Element) -> Symbol {
    Symbol { sum: element.bits(), check: Key::new(&SEED).check(element), count: 1 }
}

/// Elements whose own rule puts each into the symbol of its position.
fn one_for_each_symbol(n: usize) -> Vec<Element> {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let holds = |e: Element, index| {
        let mut held = false;
        Cursor::default().visit(e, index + 1, |i| held = i == index);
        held
    };
    (0..n).map(|index| core::iter::repeat_with(|| random(&mut rng)).find(|&e| holds(e, index)).unwrap()).collect()
}

#[test]
fn garbage_ends_at_the_agreed_number_of_symbols() {
    let mut rng = ChaCha8Rng::seed_from_u64(13);
    for count_max in [1, 2, 1_000] {
        let mut symbols: Vec<Symbol> = (0..6_000)
            .map(|_| Symbol {
                sum: random(&mut rng).bits(),
                check: rng.next_u64(),
                count: (rng.next_u64() % (count_max + 1)) as i64,
            })
            .collect();
        let mark = pose(&mut symbols, 1_000);
        assert_eq!(withstand(vec![], mark, &symbols, 100), Err(Fault::TooMany { max: 5_024 }));
        assert_eq!(withstand(elements(1, 100), mark, &symbols, 7), Err(Fault::TooMany { max: 5_424 }));
    }
}

#[test]
fn symbols_that_are_all_zero_are_the_empty_set_or_a_fault() {
    let zero = vec![Symbol::default(); 10_000];
    let mut own = elements(1, 50);
    own.sort();
    let found = Progress::Done { only_remote: vec![], only_local: own.clone() };
    assert_eq!(withstand(own.clone(), SetMark::default(), &zero, 200), Ok(found));
    let mut posed = zero;
    let mark = pose(&mut posed, 1_000);
    assert_eq!(withstand(own, mark, &posed, 100), Err(Fault::TooMany { max: 5_224 }));
}

#[test]
fn impossible_counts_are_refused_at_once() {
    for count in [i64::MAX, i64::MIN, -1, 6, SET_LEN_MAX as i64 + 1] {
        let symbols = [Symbol { sum: 1, check: 2, count: 5 }, Symbol { sum: 1, check: 2, count }];
        let mark = SetMark { len: 5, check: 2 };
        assert!(matches!(withstand(elements(1, 9), mark, &symbols, 2), Err(Fault::Inconsistent(_))));
    }
    let huge = SetMark { len: u64::MAX, check: 0 };
    assert_eq!(withstand(vec![], huge, &[Symbol::default()], 1), Err(Fault::TooMany { max: SET_LEN_MAX }));
    let other = SetMark { len: 5, check: 3 };
    assert!(matches!(
        withstand(vec![], other, &[Symbol { count: 5, ..Symbol::default() }], 1),
        Err(Fault::Inconsistent(_))
    ));
}

#[test]
fn an_element_that_would_come_and_go_for_ever_is_a_fault() {
    // The element stands in one of its symbols only, so each symbol that it is taken out of shows it again, negated.
    let element = elements(14, 1)[0];
    let mut held = Vec::new();
    Cursor::default().visit(element, 500, |i| held.push(i));
    for &at in &held[1..] {
        let mut symbols = vec![Symbol::default(); 500];
        symbols[at] = single(element);
        let mark = pose(&mut symbols, 3);
        assert_eq!(withstand(vec![], mark, &symbols, 500), Err(Fault::Inconsistent("an element came twice")));
    }
    // In a symbol that cannot hold it.
    let at = (0..500).find(|i| !held.contains(i)).unwrap();
    let mut symbols = vec![Symbol::default(); 500];
    symbols[at] = single(element);
    let mark = pose(&mut symbols, 3);
    let fault = Fault::Inconsistent("an element came in a symbol that cannot hold it");
    assert_eq!(withstand(vec![], mark, &symbols, 500), Err(fault));
}

#[test]
fn a_new_element_in_every_symbol_stays_within_the_bound() {
    // Every symbol is single, each with another element, and every peel upsets others.
    let singles: Vec<Symbol> = one_for_each_symbol(1_000).into_iter().map(single).collect();
    for len in [1, 10, 1_000] {
        let mut symbols = singles.clone();
        let mark = pose(&mut symbols, 1_000);
        assert!(withstand(elements(1, 3), mark, &symbols, len).is_err());
        assert!(withstand(vec![], mark, &symbols, len).is_err());
    }
}

#[test]
fn one_symbol_again_and_again_is_a_fault() {
    let set = elements(15, 500);
    let mut encoder = Encoder::new(&SEED, set);
    let first = encoder.next_symbols(2);
    let repeated = [vec![first[0]], vec![first[1]; 5_000]].concat();
    assert_eq!(withstand(vec![], encoder.mark(), &repeated, 64), Err(Fault::TooMany { max: 3_024 }));
    let mut decoder = Decoder::new(&SEED, [], SYMBOLS_MAX);
    let batch = Batch { mark: encoder.mark(), start: 0, symbols: first };
    decoder.push(&batch).unwrap();
    assert_eq!(decoder.push(&batch), Err(Fault::OutOfOrder { expected: 2, found: 0 }));
}

#[test]
fn elements_made_to_be_in_many_symbols_stay_within_the_bound() {
    // Of 300,000 elements those that are in most symbols: what a liar with a seed can search for.
    let mut dense = elements(16, 300_000);
    let weight = |e: &Element| {
        let mut n = 0usize;
        Cursor::default().visit(*e, 8_192, |_| n += 1);
        core::cmp::Reverse(n)
    };
    dense.sort_by_cached_key(weight);
    dense.truncate(2_000);
    let mut encoder = Encoder::new(&SEED, dense);
    let symbols = encoder.next_symbols(9_000);
    for len in [1, 100, 9_000] {
        // Either end is fine; that it ends within the bound is checked on the way.
        assert_ne!(withstand(vec![], encoder.mark(), &symbols, len), Ok(Progress::NeedMore));
    }
}

#[test]
fn a_change_of_the_set_is_noticed() {
    let set = elements(17, 400);
    let mut decoder = Decoder::new(&SEED, [], SYMBOLS_MAX);
    let mut before = Encoder::new(&SEED, set[1..].to_vec());
    decoder.push(&Batch { mark: before.mark(), start: 0, symbols: before.next_symbols(50) }).unwrap();
    let after = Encoder::new(&SEED, set[..399].to_vec());
    let symbols = coded_range(&SEED, 50..100, set[..399].iter().copied());
    assert_eq!(decoder.push(&Batch { mark: after.mark(), start: 50, symbols }), Err(Fault::SetChanged));
}

#[test]
fn the_callers_maximum_is_kept() {
    let mut encoder = Encoder::new(&SEED, elements(18, 100));
    let mut decoder = Decoder::new(&SEED, [], 40);
    let mark = encoder.mark();
    decoder.push(&Batch { mark, start: 0, symbols: encoder.next_symbols(39) }).unwrap();
    assert_eq!(decoder.wanted(), 1);
    let batch = Batch { mark, start: 39, symbols: encoder.next_symbols(2) };
    assert_eq!(decoder.push(&batch), Err(Fault::TooMany { max: 40 }));
}

#[test]
fn what_is_wanted_is_taken_until_nothing_is_wanted() {
    // Garbage that claims a large difference in a small set.
    let mark = SetMark { len: 300, check: 1 };
    let mut decoder = Decoder::new(&SEED, [], SYMBOLS_MAX);
    let mut batches = 0;
    while decoder.wanted() > 0 {
        let mut symbols = vec![Symbol { sum: 1, check: 1, count: 0 }; decoder.wanted()];
        symbols.iter_mut().step_by(2).for_each(|symbol| symbol.count = 300);
        assert_eq!(decoder.push(&Batch { mark, start: decoder.received(), symbols }), Ok(Progress::NeedMore));
        batches += 1;
    }
    assert_eq!((decoder.received(), batches), (4 * 300 + 1_024, 2));
}

proptest! {
    #[test]
    fn every_difference_is_found(shared in 0usize..500, remote in 0usize..100, local in 0usize..100, seed: u64) {
        symbols_needed(parted(seed, shared, remote, local));
    }

    #[test]
    fn a_stream_with_flipped_bits_never_gives_what_the_symbols_do_not_explain(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u32..193), 1..5), len in 1usize..100, seed: u64,
    ) {
        let sets = parted(seed, 100, 30, 30);
        let mut encoder = Encoder::new(&SEED, sets.remote);
        let mut symbols = encoder.next_symbols(1_000);
        for (at, bit) in flips {
            let symbol = at.get_mut(&mut symbols);
            match bit {
                0..128 => symbol.sum ^= 1 << bit,
                128..192 => symbol.check ^= 1 << (bit - 128),
                _ => symbol.count += 1,
            }
        }
        let mark = SetMark { check: symbols[0].check, ..encoder.mark() };
        if let Ok(Progress::Done { only_remote, only_local }) = withstand(sets.local, mark, &symbols, len) {
            // Decoded before the flipped symbol came.
            prop_assert_eq!((only_remote, only_local), (sets.only_remote, sets.only_local));
        }
    }
}
