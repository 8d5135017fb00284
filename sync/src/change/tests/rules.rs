//! Rule by rule, on changes written by hand.

use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, Change, ROOT};

use super::super::read::{put_signed, put_unsigned};
use super::super::*;
use super::{Raw, V1, compare, sealed};

fn run(n: i64, value: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_signed(&mut bytes, n);
    bytes.push(value);
    bytes
}

fn count(n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_unsigned(&mut bytes, n);
    bytes
}

/// `n` operations that all set key "k" to null: five runs.
fn uniform(n: i64) -> Raw {
    Raw::default()
        .column(0x15, &[run(n, 1), b"k".to_vec()].concat())
        .column(0x34, &count(n as u64))
        .column(0x42, &run(n, 1))
        .column(0x56, &run(n, 0))
        .column(0x70, &run(n, 0))
}

#[test]
fn the_hand_written_change_passes() {
    let raw = Raw::default();
    compare(&raw.bytes(), &Change::from_bytes(raw.bytes()).unwrap());
    compare(&uniform(65_536).bytes(), &Change::from_bytes(uniform(65_536).bytes()).unwrap());
}

#[test]
fn a_run_length_bomb_is_refused_before_its_rows_are_walked() {
    let bomb = uniform(5_000_000);
    assert!(bomb.bytes().len() < 80);
    assert_eq!(bomb.fault(), Fault::Ops);
    assert_eq!(uniform(65_537).fault(), Fault::Ops);
    assert_eq!(uniform(i64::MAX).fault(), Fault::Ops);
}

#[test]
fn a_predecessor_bomb_is_refused_before_its_rows_are_walked() {
    let mut counts = vec![0x7f];
    put_unsigned(&mut counts, 1 << 60);
    let bomb = Raw { start_op: 9, ..Raw::default() }.column(0x70, &counts);
    let bomb = bomb.column(0x71, &run(1 << 60, 0)).column(0x73, &run(1 << 60, 1));
    assert_eq!(bomb.fault(), Fault::Preds);
    assert_eq!(ops(&bomb.bytes()).count(), 1, "passed over in one step");
}

#[test]
fn claimed_counts_of_dependencies_and_actors_allocate_nothing() {
    for claim in [65, 1 << 40, u64::MAX / 32, u64::MAX] {
        assert_eq!(Raw { deps_claimed: Some(claim), ..Raw::default() }.fault(), Fault::Length);
        let fault = Raw { others_claimed: Some(claim), ..Raw::default() }.fault();
        assert!(matches!(fault, Fault::Length | Fault::Column(_)), "{fault:?}");
    }
}

#[test]
fn dependencies_are_capped_sorted_and_distinct() {
    let with = |deps: Vec<[u8; 32]>| Raw { deps, ..Raw::default() };
    with((0..64).map(|n| [n; 32]).collect()).walk().unwrap();
    assert_eq!(with((0..65).map(|n| [n; 32]).collect()).fault(), Fault::Deps);
    assert_eq!(with(vec![[2; 32], [1; 32]]).fault(), Fault::DepsOrder);
    assert_eq!(with(vec![[1; 32], [1; 32]]).fault(), Fault::DepsOrder);
}

/// One operation in the list 1@0 with one predecessor for each of `others`.
fn with_others(others: Vec<Vec<u8>>) -> Raw {
    let n = others.len() as u64;
    let mut counts = vec![0x7f];
    put_unsigned(&mut counts, n);
    let mut actors = Vec::new();
    put_signed(&mut actors, -(n as i64));
    (1..=n).for_each(|actor| put_unsigned(&mut actors, actor));
    // Counter 5 for all: one step of 5, then steps of 0.
    let mut counters = vec![0x7f, 5];
    match n {
        1 => {}
        2 => counters = vec![0x7e, 5, 0],
        n => counters.extend(run(n as i64 - 1, 0)),
    }
    Raw { others, start_op: 9, ..Raw::default() }.column(0x70, &counts).column(0x71, &actors).column(0x73, &counters)
}

#[test]
fn other_actors_are_capped_sorted_distinct_and_in_use() {
    let id = |n: u16| [&n.to_be_bytes()[..], &[0; 14]].concat();
    with_others((1..=255).map(id).collect()).walk().unwrap();
    assert_eq!(with_others((1..=256).map(id).collect()).fault(), Fault::Actors);
    assert_eq!(with_others(vec![id(2), id(1)]).fault(), Fault::ActorsOrder);
    assert_eq!(with_others(vec![id(1), id(1)]).fault(), Fault::ActorsOrder);
    assert_eq!(with_others(vec![vec![7; 16]]).fault(), Fault::ActorsOrder);
    assert_eq!(with_others(vec![vec![7; 17]]).fault(), Fault::ActorLength);
    assert_eq!(Raw { others: vec![id(1)], ..Raw::default() }.fault(), Fault::ActorsOrder);
    assert_eq!(Raw { actor: vec![7; 21], ..Raw::default() }.fault(), Fault::ActorLength);
    assert_eq!(with_others(vec![id(1)]).column(0x71, &[0x7f, 2]).fault(), Fault::ActorIndex);
    assert_eq!(with_others(vec![id(1)]).column(0x71, &[0x7f, 0x80, 0x80, 4]).fault(), Fault::ActorIndex);
}

#[test]
fn only_raw_changes_are_changes() {
    let data = open(&Raw::default().bytes(), CHANGE).unwrap().to_vec();
    assert_eq!(walk(&sealed(DEFLATED, &data), V1), Err(Fault::Compressed));
    assert_eq!(walk(&sealed(DOCUMENT, &data), V1), Err(Fault::ChunkType(0)));
    assert_eq!(walk(&sealed(3, &data), V1), Err(Fault::ChunkType(3)));
    assert_eq!(walk(b"not a chunk", V1), Err(Fault::Magic));
    assert_eq!(walk(&[], V1), Err(Fault::Length));
    let mut wrong = Raw::default().bytes();
    wrong[5] ^= 1;
    assert_eq!(walk(&wrong, V1), Err(Fault::Checksum));
}

#[test]
fn an_honest_change_that_automerge_deflated_is_refused_in_that_form() {
    let mut doc = AutoCommit::new().with_actor(ActorId::from([1; 16]));
    doc.put(ROOT, "k", "x".repeat(1000)).unwrap();
    let mut change = doc.get_changes(&[]).swap_remove(0);
    assert_eq!(walk(&change.bytes(), V1), Err(Fault::Compressed));
    walk(change.raw_bytes(), V1).unwrap();
}

#[test]
fn sizes_are_capped() {
    let value = |n: usize| {
        let mut meta = vec![0x7f];
        put_unsigned(&mut meta, (n as u64) << 4 | 7);
        Raw::default().column(0x56, &meta).column(0x57, &vec![0; n])
    };
    value(V1.value_bytes_max).walk().unwrap();
    assert_eq!(value(V1.value_bytes_max + 1).fault(), Fault::ValueBytes);
    assert_eq!(value(V1.change_bytes_max).fault(), Fault::Bytes);
    let key = |n: usize| {
        let mut column = vec![0x7f];
        put_unsigned(&mut column, n as u64);
        column.extend(vec![b'k'; n]);
        Raw::default().column(0x15, &column)
    };
    key(0).walk().unwrap();
    key(1024).walk().unwrap();
    assert_eq!(key(1025).fault(), Fault::KeyBytes);
    assert_eq!(Raw { message: vec![b'm'; V1.value_bytes_max + 1], ..Raw::default() }.fault(), Fault::Message);
    assert_eq!(Raw { message: vec![0xff], ..Raw::default() }.fault(), Fault::Utf8);
}

#[test]
fn counters_sequence_numbers_and_timestamps_stay_in_range() {
    let end = V1.op_counter_end;
    Raw { start_op: end - 1, ..Raw::default() }.walk().unwrap();
    assert_eq!(Raw { start_op: end, ..Raw::default() }.fault(), Fault::Counter);
    assert_eq!(Raw { start_op: u64::MAX, ..Raw::default() }.fault(), Fault::Counter);
    assert_eq!(Raw { start_op: 0, ..Raw::default() }.fault(), Fault::Counter);
    assert_eq!(Raw { seq: 0, ..Raw::default() }.fault(), Fault::Seq);
    assert_eq!(Raw { seq: end, ..Raw::default() }.fault(), Fault::Seq);
    Raw { time: -(1 << 53) + 1, ..Raw::default() }.walk().unwrap();
    for time in [i64::MIN, i64::MAX, 1 << 53] {
        assert_eq!(Raw { time, ..Raw::default() }.fault(), Fault::Timestamp);
    }
    let empty = Raw { columns: vec![], start_op: end, ..Raw::default() };
    assert_eq!(empty.walk().unwrap().max_op(), end - 1);
}

#[test]
fn the_author_footer_is_exact_and_on_the_first_change() {
    let footer =
        |seq, footer: &[u8]| Raw { seq, footer: footer.to_vec(), ..Raw::default() }.walk().map(|head| head.author);
    let good = [&[1, 32][..], &[8; 32]].concat();
    assert_eq!(footer(1, &good), Ok(Some([8; 32])));
    assert_eq!(footer(2, &[]), Ok(None));
    assert_eq!(footer(2, &good), Err(Fault::Author));
    for bad in
        [&[0][..], &[1, 0], &[2, 32], &good[..33], &[&good[..], &[0]].concat(), &[&[0x81, 0][..], &good[1..]].concat()]
    {
        assert_eq!(footer(1, bad), Err(Fault::Author), "{bad:?}");
    }
}

#[test]
fn columns_agree_on_the_number_of_rows() {
    for (spec, bytes) in
        [(0x15, vec![2, 1, b'k']), (0x34, vec![2]), (0x56, vec![2, 0]), (0x70, vec![2, 0]), (0x42, vec![2, 1])]
    {
        assert_eq!(Raw::default().column(spec, &bytes).fault(), Fault::Rows, "{spec:#x}");
    }
    for spec in [0x34, 0x42, 0x56, 0x70] {
        assert_eq!(Raw::default().column(spec, &[]).fault(), Fault::Rows, "{spec:#x}");
    }
    assert_eq!(Raw::default().column(0x71, &[0x7f, 0]).fault(), Fault::Rows);
    assert_eq!(Raw::default().column(0x57, &[0]).fault(), Fault::Rows);
    assert_eq!(Raw::default().column(0x94, &[1]).fault(), Fault::Encoding);
    assert_eq!(Raw::default().column(0xa5, &[0, 1]).fault(), Fault::Encoding);
    assert_eq!(Raw::default().column(0x91, &[0x7f, 0]).fault(), Fault::Column(0x91));
    assert_eq!(Raw::default().column(0x15 | 8, &[1]).fault(), Fault::Compressed);
}

/// One operation on element 3@0 of the list 2@0.
fn on_list(action: u8) -> Raw {
    Raw { start_op: 9, ..Raw::default() }
        .column(0x01, &[0x7f, 0])
        .column(0x02, &[0x7f, 2])
        .column(0x11, &[0x7f, 0])
        .column(0x13, &[0x7f, 3])
        .column(0x15, &[])
        .column(0x42, &[0x7f, action])
}

#[test]
fn ids_are_whole_and_come_before_the_operation() {
    on_list(1).walk().unwrap();
    for (spec, bytes, fault) in [
        (0x01, vec![], Fault::Id),
        (0x02, vec![], Fault::Id),
        (0x02, vec![0x7f, 0], Fault::Id),
        (0x02, vec![0x7f, 9], Fault::Id),
        (0x02, [&[0x7f][..], &count(u64::MAX)].concat(), Fault::Id),
        (0x13, vec![0x7f, 9], Fault::Id),
        (0x13, vec![0x7f, 0x7f], Fault::Id),
        (0x13, vec![0x7f, 0], Fault::Id),
        (0x13, vec![], Fault::Key),
        (0x11, vec![], Fault::Key),
        (0x15, vec![0x7f, 1, b'k'], Fault::Key),
    ] {
        assert_eq!(on_list(1).column(spec, &bytes).fault(), fault, "{spec:#x} {bytes:?}");
    }
    let with_pred =
        |counter| on_list(1).column(0x70, &[0x7f, 1]).column(0x71, &[0x7f, 0]).column(0x73, &[0x7f, counter]);
    with_pred(8).walk().unwrap();
    assert_eq!(with_pred(9).fault(), Fault::Id);
    // Another actor's ids come from the past, which ends before the first operation.
    let other = with_others(vec![vec![1; 16]]);
    other.clone().column(0x73, &[0x7f, 8]).walk().unwrap();
    assert_eq!(other.column(0x73, &[0x7f, 9]).fault(), Fault::Id);
}

#[test]
fn an_operation_names_an_earlier_one_of_its_own_change_but_no_later_one() {
    // Two elements: the first at the head, the second after it.
    let two = |elem| {
        Raw { start_op: 9, ..Raw::default() }
            .column(0x01, &[2, 0])
            .column(0x02, &[2, 2])
            .column(0x11, &[0, 1, 0x7f, 0])
            .column(0x13, &[0x7e, 0, elem])
            .column(0x15, &[])
            .column(0x34, &[0, 2])
            .column(0x42, &[2, 1])
            .column(0x56, &[2, 0])
            .column(0x70, &[2, 0])
    };
    two(9).walk().unwrap();
    assert_eq!(two(10).fault(), Fault::Id);
}

#[test]
fn keys_fit_their_object_and_the_insert_flag() {
    assert_eq!(Raw::default().column(0x34, &[0, 1]).fault(), Fault::Key);
    assert_eq!(on_list(1).column(0x01, &[]).column(0x02, &[]).fault(), Fault::Key);
    let head = on_list(1).column(0x11, &[]).column(0x13, &[0x7f, 0]);
    assert_eq!(head.fault(), Fault::Key);
    head.column(0x34, &[0, 1]).walk().unwrap();
}

#[test]
fn predecessors_are_sorted_by_counter_then_actor_and_distinct() {
    // The author [7; 16] stands between the other two.
    let preds = |actors: [u8; 3], steps: [u8; 3]| {
        Raw { start_op: 9, others: vec![vec![1; 16], vec![8; 16]], ..Raw::default() }
            .column(0x70, &[0x7f, 3])
            .column(0x71, &[&[0x7d][..], &actors].concat())
            .column(0x73, &[&[0x7d][..], &steps].concat())
            .walk()
            .map(drop)
    };
    assert_eq!(preds([1, 0, 2], [3, 0, 1]), Ok(()));
    assert_eq!(preds([0, 1, 2], [3, 0, 1]), Err(Fault::PredsOrder));
    assert_eq!(preds([2, 0, 1], [3, 0, 1]), Err(Fault::PredsOrder));
    assert_eq!(preds([2, 1, 0], [3, 0x7f, 1]), Err(Fault::PredsOrder));
    assert_eq!(preds([2, 1, 2], [3, 1, 0x7f]), Err(Fault::PredsOrder));
}

#[test]
fn shapes_that_automerge_would_not_keep_are_refused() {
    let pred = |raw: Raw| raw.column(0x70, &[0x7f, 1]).column(0x71, &[0x7f, 0]).column(0x73, &[0x7f, 3]);
    let int = |raw: Raw| raw.column(0x56, &[0x7f, 0x14]).column(0x57, &[1]);
    let insert = |raw: Raw| raw.column(0x34, &[0, 1]);
    let named = |raw: Raw| raw.column(0xa5, &[0x7f, 1, b'b']);
    let expand = |raw: Raw| raw.column(0x94, &[0, 1]);
    let good = [
        pred(on_list(3)),
        pred(int(on_list(5))),
        insert(on_list(0)),
        insert(on_list(2)),
        insert(on_list(4)),
        expand(named(insert(int(on_list(7))))),
    ];
    for raw in good {
        compare(&raw.bytes(), &Change::from_bytes(raw.bytes()).unwrap());
    }
    let bad = [
        on_list(3),
        insert(pred(on_list(3))),
        pred(int(on_list(3))),
        int(on_list(5)),
        pred(on_list(5)),
        int(on_list(0)),
        insert(pred(on_list(1))),
        expand(on_list(1)),
        named(on_list(1)),
        named(on_list(7)),
        insert(int(on_list(7))),
    ];
    for (n, raw) in bad.iter().enumerate() {
        assert_eq!(raw.fault(), Fault::Shape, "case {n}");
    }
    assert_eq!(on_list(6).fault(), Fault::Action(6));
    assert_eq!(on_list(8).fault(), Fault::Action(8));
    assert_eq!(insert(on_list(7)).fault(), Fault::Mark);
}

#[test]
fn a_mark_ends_directly_after_its_begin_and_further_back() {
    // Two marks in the list 2@0.
    let mark = |names: &[u8], actors: &[u8], counters: &[u8]| {
        Raw { start_op: 9, ..Raw::default() }
            .column(0x01, &[2, 0])
            .column(0x02, &[2, 2])
            .column(0x11, actors)
            .column(0x13, counters)
            .column(0x15, &[])
            .column(0x34, &[0, 2])
            .column(0x42, &[2, 7])
            .column(0x56, &[2, 0])
            .column(0x70, &[2, 0])
            .column(0xa5, names)
            .walk()
            .map(drop)
    };
    let (begin_end, end_begin) = (&[0x7f, 1, b'b', 0, 1][..], &[0, 1, 0x7f, 1, b'b'][..]);
    assert_eq!(mark(begin_end, &[2, 0], &[0x7e, 3, 1]), Ok(()));
    // Right behind the begin itself.
    assert_eq!(mark(begin_end, &[2, 0], &[0x7e, 3, 6]), Ok(()));
    assert_eq!(mark(begin_end, &[2, 0], &[0x7e, 3, 0]), Err(Fault::Mark));
    assert_eq!(mark(begin_end, &[0x7f, 0, 0, 1], &[0x7e, 3, 0x7d]), Err(Fault::Mark));
    assert_eq!(mark(end_begin, &[2, 0], &[0x7e, 3, 1]), Err(Fault::Mark));
}

#[test]
fn values_fit_their_types() {
    let value = |meta: &[u8], bytes: &[u8]| {
        Raw::default().column(0x56, &[&[0x7f], meta].concat()).column(0x57, bytes).walk().map(drop)
    };
    assert_eq!(value(&[0x85, 1], &[0; 8]), Ok(()));
    assert_eq!(value(&[0x75], &[0; 7]), Err(Fault::Value));
    assert_eq!(value(&[0x10], &[0]), Err(Fault::Value));
    assert_eq!(value(&[0x11], &[0]), Err(Fault::Value));
    assert_eq!(value(&[0x23], &[0x80, 0]), Err(Fault::Value));
    assert_eq!(value(&[0x28], &[0x81, 0]), Err(Fault::Value));
    assert_eq!(value(&[0x29], &[1, 1]), Err(Fault::Value));
    assert_eq!(value(&[0x03], &[]), Err(Fault::Value));
    assert_eq!(value(&[0x16], &[0xff]), Err(Fault::Utf8));
    assert_eq!(value(&[0x27], &[0xff]), Err(Fault::Length));
    assert_eq!(value(&[0x1f], &[0xff]), Ok(()));
}
