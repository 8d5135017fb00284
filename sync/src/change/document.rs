//! What a document chunk would cost to load, found out before Automerge sees it.
//!
//! A document is how a snapshot travels: one chunk with the columns of all changes and all operations. This walk caps it
//! and checks the indices by which Automerge reaches into vectors. It does not prove that the document loads: that the
//! changes in it are the promised ones shows only afterwards, when their ids have been computed again.

use super::column::{Bools, Delta, Rle, columns, layout};
use super::ops::Value;
use super::read::Reader;
use super::{Actor, DOCUMENT, FOOTER, Fault, TIMESTAMP_MAX, chunk};
use crate::limits::Rules;

/// Change columns that Automerge 0.12 writes, in order: actor; sequence number; highest operation; time; message;
/// number of dependencies and their indices; type and bytes of the footer.
const CHANGE_SPECS: [u64; 9] = [0x01, 0x03, 0x13, 0x23, 0x35, 0x40, 0x43, 0x56, 0x57];
/// Operation columns, in order: object actor and counter; key actor, counter and string; id actor and counter; insert;
/// action; value type and bytes; number of successors, their actors and counters; expand; mark name.
const OP_SPECS: [u64; 16] =
    [0x01, 0x02, 0x11, 0x13, 0x15, 0x21, 0x23, 0x34, 0x42, 0x56, 0x57, 0x80, 0x81, 0x83, 0x94, 0xa5];

/// Dependencies and successors may outnumber the changes and operations allowed by this factor. A wild guess that no
/// document we measured came near.
const EDGES_PER_NODE: u64 = 8;

/// Local bounds on a document that is to be loaded. Passing one is no fault of the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentCaps {
    /// Bytes of the chunk.
    pub bytes: u64,
    /// Changes in it.
    pub changes: u64,
    /// Operations in it, not counting deletions.
    pub ops: u64,
    /// Actors in it.
    pub actors: u64,
    /// Bytes of memory that loading takes at its peak, by our estimate.
    pub memory: u64,
}

impl Default for DocumentCaps {
    /// Room for the largest documents that are still pleasant to use: a million changes load in about 2 s.
    fn default() -> Self {
        DocumentCaps { bytes: 256 << 20, changes: 1 << 20, ops: 1 << 24, actors: 1 << 16, memory: 2 << 30 }
    }
}

/// What a document holds, and what loading it will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentCost {
    /// Changes in it.
    pub changes: u64,
    /// Operations in it, not counting deletions.
    pub ops: u64,
    /// Actors in it.
    pub actors: u64,
    /// Bytes of the chunk.
    pub bytes: u64,
    /// Bytes of memory that loading takes at its peak, rather too many than too few.
    pub memory_estimate: u64,
}

/// Checks one uncompressed document chunk against the caps, the limits of the rules on strings, counters and
/// dependencies, and its own indices.
///
/// Cost: a hash over the bytes, time linear in bytes, changes and dependencies, and 4 bytes of memory per change. Counts
/// come from the columns themselves, and each is compared with its cap before anything is done that often.
pub fn walk_document(bytes: &[u8], rules: &Rules, caps: &DocumentCaps) -> Result<DocumentCost, Fault> {
    if bytes.len() as u64 > caps.bytes {
        return Err(Fault::Bytes);
    }
    let mut input = Reader::new(chunk(bytes, DOCUMENT)?);
    let actors = walk_actors(&mut input, caps.actors)?;
    let heads = input.unsigned()?.checked_mul(32).ok_or(Fault::Length)?;
    let (heads, _) = input.take(heads)?.as_chunks::<32>();
    if !heads.is_sorted_by(|a, b| a < b) {
        return Err(Fault::DepsOrder);
    }
    let change_lengths = layout(&mut input, &CHANGE_SPECS)?;
    let op_lengths = layout(&mut input, &OP_SPECS)?;
    let changes = walk_changes(columns(&mut input, change_lengths)?, actors, rules, caps)?;
    let ops = walk_ops(columns(&mut input, op_lengths)?, actors, rules, caps)?;
    for _ in heads {
        if input.unsigned()? >= changes.count {
            return Err(Fault::Graph);
        }
    }
    if !input.is_empty() {
        return Err(Fault::Length);
    }

    let memory_estimate = memory(bytes.len() as u64, actors, &changes, &ops);
    if memory_estimate > caps.memory {
        return Err(Fault::Memory);
    }
    Ok(DocumentCost { changes: changes.count, ops: ops.count, actors, bytes: bytes.len() as u64, memory_estimate })
}

/// Peak memory of a load. The constants are fits to automerge 0.12 (x86-64, release), rounded up: texts, maps, marks and
/// histories of up to 400,000 operations took between a fifth and all but a quarter of the estimate.
fn memory(bytes: u64, actors: u64, changes: &Changes, ops: &Ops) -> u64 {
    let parts = [
        // What the library and the allocator take before the first change.
        (1, 4 << 20),
        // The chunk, its columns, and the raw changes that are rebuilt from it.
        (bytes, 4),
        (changes.count, 1200),
        // Automerge reserves for the operations that a change claims, until a fixed-size encoder is the smaller choice.
        (changes.reserved, 1),
        (changes.deps, 128),
        (ops.count, 320),
        (ops.successors, 256),
        (ops.marks, 512),
        // Each rebuilt change has its own copy of what was one run in the document.
        (changes.message_bytes, 3),
        (ops.name_bytes, 3),
        (actors, 256),
        // A clock, of 4 bytes per actor, for every sixteenth change, and for about every 256th another.
        (changes.count / 14 + 1, actors.saturating_mul(4)),
    ];
    parts.iter().fold(0, |sum, (n, each)| sum.saturating_add(n.saturating_mul(*each)))
}

fn walk_actors(input: &mut Reader<'_>, max: u64) -> Result<u64, Fault> {
    let count = input.unsigned()?;
    if count > max {
        return Err(Fault::Actors);
    }
    let mut before = None;
    for _ in 0..count {
        // No fork is in a document, and so no locator.
        let actor = Actor::author(input.prefixed()?)?;
        if before.replace(actor).is_some_and(|before| before >= actor) {
            return Err(Fault::ActorsOrder);
        }
    }
    Ok(count)
}

struct Changes {
    count: u64,
    deps: u64,
    /// Bytes that Automerge sets aside for operations while it rebuilds changes.
    reserved: u64,
    message_bytes: u64,
}

/// Size of one operation, and of the encoder that replaces the list of a change's operations where that would be
/// larger, in automerge 0.12. Both rounded up.
const OP_BYTES: u64 = 192;
const ENCODER_BYTES: u64 = 3072;

fn walk_changes(columns: [&[u8]; 9], actors: u64, rules: &Rules, caps: &DocumentCaps) -> Result<Changes, Fault> {
    let [actor, seq, max_op, time, message, dep_count, dep_index, footer_meta, footer] = columns;
    let mut authors = vec![false; usize::try_from(actors).map_err(|_| Fault::Actors)?];
    let count = walk_indices(actor, actors, caps.changes, Fault::Changes, |author| authors[author] = true)?;
    // On an actor without a change, Automerge 0.12 panics when it drops it.
    if authors.contains(&false) {
        return Err(Fault::ActorsOrder);
    }
    let counter = |low, high| within(low, high, 1, rules.op_counter_end, Fault::Counter);
    walk_delta(seq, count, false, counter)?;
    let time_fits = |low: i64, high: i64| low.unsigned_abs().max(high.unsigned_abs()) <= TIMESTAMP_MAX;
    walk_delta(time, count, true, |low, high| if time_fits(low, high) { Ok(()) } else { Err(Fault::Timestamp) })?;
    let message_bytes = walk_strings(message, count, rules.value_bytes_max, Fault::Message)?;

    let mut footer_bytes = 0u64;
    walk_rle(Rle::<u64>::new(footer_meta), count, false, |rows, meta| {
        // The whole footer, as bytes, or nothing.
        if ![Some(7), Some(((FOOTER.len() as u64 + 32) << 4) | 7)].contains(&meta) {
            return Err(Fault::Author);
        }
        footer_bytes = footer_bytes.saturating_add(rows.saturating_mul(meta.unwrap_or(0) >> 4));
        Ok(())
    })?;
    if footer_bytes != footer.len() as u64 {
        return Err(Fault::Author);
    }

    let mut deps = 0u64;
    walk_rle(Rle::<u64>::new(dep_count), count, false, |rows, n| {
        let n = n.ok_or(Fault::Encoding)?;
        deps = deps.saturating_add(rows.saturating_mul(n));
        if n > rules.deps_max as u64 || deps > caps.changes.saturating_mul(EDGES_PER_NODE) {
            Err(Fault::Deps)
        } else {
            Ok(())
        }
    })?;

    // The graph: every dependency is an earlier change. Kept beside it are the highest operations so far, because what
    // Automerge reserves for a change is the distance to those of its dependencies.
    let (mut max_op, mut dep_count, mut dep_index) =
        (Delta::new(max_op), Rle::<u64>::new(dep_count), Delta::new(dep_index));
    let mut highest: Vec<u32> = Vec::new();
    let mut reserved = 0u64;
    for _ in 0..count {
        let own = max_op.value()?;
        let own = u32::try_from(own).ok().filter(|&own| u64::from(own) < rules.op_counter_end).ok_or(Fault::Counter)?;
        let mut past = 0;
        for _ in 0..dep_count.value()? {
            let dep = usize::try_from(dep_index.value()?).map_err(|_| Fault::Graph)?;
            past = past.max(*highest.get(dep).ok_or(Fault::Graph)?);
        }
        let claimed = own.checked_sub(past).ok_or(Fault::Counter)?;
        reserved += (u64::from(claimed) * OP_BYTES).min(ENCODER_BYTES);
        highest.push(own);
    }
    max_op.end()?;
    dep_index.end()?;
    Ok(Changes { count, deps, reserved, message_bytes })
}

struct Ops {
    count: u64,
    successors: u64,
    marks: u64,
    /// Bytes of map keys and mark names, counted for each operation that has one.
    name_bytes: u64,
}

fn walk_ops(columns: [&[u8]; 16], actors: u64, rules: &Rules, caps: &DocumentCaps) -> Result<Ops, Fault> {
    let [
        obj_actor,
        obj_counter,
        key_actor,
        key_counter,
        key_str,
        id_actor,
        id_counter,
        insert,
        action,
        value_meta,
        value,
        succ_count,
        succ_actor,
        succ_counter,
        expand,
        mark_name,
    ] = columns;
    let count = walk_indices(id_actor, actors, caps.ops, Fault::Ops, |_| ())?;
    let id = |low, high| within(low, high, 1, rules.op_counter_end, Fault::Id);
    let index =
        |_, actor: Option<u64>| if actor.is_some_and(|a| a >= actors) { Err(Fault::ActorIndex) } else { Ok(()) };
    walk_delta(id_counter, count, false, id)?;
    walk_rle(Rle::new(obj_actor), count, true, index)?;
    walk_rle(Rle::<u64>::new(obj_counter), count, true, |_, counter| {
        if counter.is_some_and(|c| c >= rules.op_counter_end) { Err(Fault::Id) } else { Ok(()) }
    })?;
    walk_rle(Rle::new(key_actor), count, true, index)?;
    walk_delta(key_counter, count, true, |low, high| within(low, high, 0, rules.op_counter_end, Fault::Id))?;
    let key_bytes = walk_strings(key_str, count, rules.key_bytes_max, Fault::KeyBytes)?;
    let mark_bytes = walk_strings(mark_name, count, rules.key_bytes_max, Fault::KeyBytes)?;
    for flags in [insert, expand] {
        if !flags.is_empty() && Bools::new(flags).count(count)? != count {
            return Err(Fault::Rows);
        }
    }
    let mut marks = 0u64;
    walk_rle(Rle::<u64>::new(action), count, false, |rows, action| match action {
        // Deletions live in the successors; tables cannot be applied.
        Some(0..=2 | 4 | 5) => Ok(()),
        Some(7) => {
            marks = marks.saturating_add(rows);
            Ok(())
        }
        other => Err(Fault::Action(other.unwrap_or(u64::MAX))),
    })?;

    let mut value_bytes = 0u64;
    walk_rle(Rle::<u64>::new(value_meta), count, false, |rows, meta| {
        let (_, length) = Value::kind_and_length(meta.ok_or(Fault::Encoding)?);
        value_bytes = value_bytes.saturating_add(rows.saturating_mul(length));
        if length > rules.value_bytes_max as u64 { Err(Fault::ValueBytes) } else { Ok(()) }
    })?;
    if value_bytes != value.len() as u64 {
        return Err(Fault::Rows);
    }

    let mut successors = 0u64;
    walk_rle(Rle::<u64>::new(succ_count), count, false, |rows, n| {
        successors = successors.saturating_add(rows.saturating_mul(n.ok_or(Fault::Encoding)?));
        if successors > caps.ops.saturating_mul(EDGES_PER_NODE) { Err(Fault::Preds) } else { Ok(()) }
    })?;
    if walk_indices(succ_actor, actors, successors, Fault::Rows, |_| ())? != successors {
        return Err(Fault::Rows);
    }
    walk_delta(succ_counter, successors, false, id)?;
    Ok(Ops { count, successors, marks, name_bytes: key_bytes.saturating_add(mark_bytes) })
}

fn within(low: i64, high: i64, from: u64, end: u64, fault: Fault) -> Result<(), Fault> {
    let fits = |n: i64| u64::try_from(n).is_ok_and(|n| (from..end).contains(&n));
    if fits(low) && fits(high) { Ok(()) } else { Err(fault) }
}

/// Shows each run to `visit`. The column has exactly `count` rows, or, where it is `optional`, is missing.
fn walk_rle<'a, T: super::column::Cell<'a>>(
    mut column: Rle<'a, T>,
    count: u64,
    optional: bool,
    mut visit: impl FnMut(u64, Option<T>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut rows = 0u64;
    while let Some((n, value)) = column.next_run(u64::MAX)? {
        rows = rows.saturating_add(n);
        visit(n, value)?;
    }
    if rows == count || (optional && rows == 0) { Ok(()) } else { Err(Fault::Rows) }
}

/// The same for a column of differences; `visit` sees the ends of each run, between which the values lie.
fn walk_delta(
    bytes: &[u8],
    count: u64,
    optional: bool,
    visit: impl Fn(i64, i64) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let (mut column, mut rows) = (Delta::new(bytes), 0u64);
    while let Some((n, ends)) = column.next_run(u64::MAX)? {
        rows = rows.saturating_add(n);
        match ends {
            Some((first, last)) => visit(first, last)?,
            None if optional => {}
            None => return Err(Fault::Encoding),
        }
    }
    if rows == count || (optional && rows == 0) { Ok(()) } else { Err(Fault::Rows) }
}

/// The rows of a column of actor indices, all in range; refused with `fault` once there are more than `max`. `see` gets each
/// index that comes.
fn walk_indices(bytes: &[u8], actors: u64, max: u64, fault: Fault, mut see: impl FnMut(usize)) -> Result<u64, Fault> {
    let (mut column, mut rows) = (Rle::<u64>::new(bytes), 0u64);
    while let Some((n, actor)) = column.next_run(u64::MAX)? {
        rows = rows.saturating_add(n);
        if rows > max {
            return Err(fault);
        }
        let actor = actor.filter(|&actor| actor < actors).and_then(|actor| usize::try_from(actor).ok());
        see(actor.ok_or(Fault::ActorIndex)?);
    }
    Ok(rows)
}

/// Bytes of an optional column of strings, each as often as it has rows.
fn walk_strings(bytes: &[u8], count: u64, max: usize, fault: Fault) -> Result<u64, Fault> {
    let mut total = 0u64;
    walk_rle(Rle::<&str>::new(bytes), count, true, |rows, string| {
        let length = string.map_or(0, str::len);
        total = total.saturating_add(rows.saturating_mul(length as u64));
        if length > max { Err(fault) } else { Ok(()) }
    })?;
    Ok(total)
}

#[cfg(test)]
mod tests {
    use automerge::transaction::Transactable;
    use automerge::{ActorId, AutoCommit, ObjType, ROOT, ReadDoc};
    use proptest::prelude::*;

    use super::*;
    use crate::change::tests::{Edit, document, sealed};
    use crate::change::{MAGIC, open};

    const V1: &Rules = &Rules::V1;

    fn cost(bytes: &[u8]) -> Result<DocumentCost, Fault> {
        walk_document(bytes, V1, &DocumentCaps::default())
    }

    /// A document with many operations in few bytes: a list of maps.
    fn uniform(maps: usize) -> Vec<u8> {
        let mut doc = AutoCommit::new().with_actor(ActorId::from([1; 16]));
        let list = doc.put_object(ROOT, "list", ObjType::List).unwrap();
        for at in 0..maps {
            doc.insert_object(&list, at, ObjType::Map).unwrap();
        }
        doc.save_nocompress()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn documents_that_automerge_saves_pass_with_the_right_counts(edits in proptest::collection::vec(any::<Edit>(), 0..120)) {
            let mut doc = document(&edits);
            let bytes = doc.save_nocompress();
            let (cost, stats) = (cost(&bytes).unwrap(), doc.stats());
            prop_assert_eq!((cost.changes, cost.actors), (stats.num_changes, stats.num_actors));
            prop_assert_eq!((cost.ops, cost.bytes), (stats.num_ops, bytes.len() as u64));
        }
    }

    #[test]
    fn a_mutated_or_truncated_document_does_not_panic() {
        let edits: Vec<Edit> = (0..60).map(|n: u16| (n as u8, (n * 5) as u8, n * 31, n * 17)).collect();
        let bytes = document(&edits).save_nocompress();
        let data = open(&bytes, DOCUMENT).unwrap();
        for at in 0..data.len() {
            cost(&sealed(DOCUMENT, &data[..at])).unwrap_err();
            for new in [0, 1, 0x7f, 0x80, 0xff, data[at] ^ 1, data[at] ^ 0x40] {
                let mut data = data.to_vec();
                data[at] = new;
                let _ = cost(&sealed(DOCUMENT, &data));
            }
        }
        cost(&bytes[..bytes.len() - 1]).unwrap_err();
        assert_eq!(cost(&[&bytes[..], &[0]].concat()), Err(Fault::Length));
        assert_eq!(cost(&[&MAGIC[..], &[0; 4], &[1, 0]].concat()), Err(Fault::ChunkType(1)));
    }

    #[test]
    fn deflated_columns_are_refused() {
        let mut doc = AutoCommit::new().with_actor(ActorId::from([1; 16]));
        doc.put(ROOT, "k", "x".repeat(5000)).unwrap();
        assert_eq!(cost(&doc.save()), Err(Fault::Compressed));
        cost(&doc.save_nocompress()).unwrap();
    }

    #[test]
    fn every_cap_is_kept() {
        let bytes = uniform(1000);
        let full = cost(&bytes).unwrap();
        let exact = DocumentCaps {
            bytes: full.bytes,
            changes: full.changes,
            ops: full.ops,
            actors: full.actors,
            memory: full.memory_estimate,
        };
        assert_eq!(walk_document(&bytes, V1, &exact), Ok(full));
        for (caps, fault) in [
            (DocumentCaps { bytes: exact.bytes - 1, ..exact }, Fault::Bytes),
            (DocumentCaps { changes: exact.changes - 1, ..exact }, Fault::Changes),
            (DocumentCaps { ops: exact.ops - 1, ..exact }, Fault::Ops),
            (DocumentCaps { actors: exact.actors - 1, ..exact }, Fault::Actors),
            (DocumentCaps { memory: exact.memory - 1, ..exact }, Fault::Memory),
        ] {
            assert_eq!(walk_document(&bytes, V1, &caps), Err(fault));
        }
    }

    #[test]
    fn the_estimate_follows_the_operations_and_not_the_bytes() {
        let (small, large) = (uniform(100), uniform(3_000));
        assert!(large.len() < small.len() + 20);
        let grown = cost(&large).unwrap().memory_estimate - cost(&small).unwrap().memory_estimate;
        assert!(grown > 2_900 * 200, "{grown}");
    }

    /// Actors, heads, change columns, operation columns, all written by hand: `n` changes without operations.
    fn changes(n: u8, columns: &[(u8, &[u8])]) -> Result<DocumentCost, Fault> {
        let n = n as i8;
        let defaults: [(u8, Vec<u8>); 5] = [
            (0x01, vec![n as u8, 0]),
            (0x03, vec![n as u8, 1]),
            (0x13, vec![n as u8, 0]),
            (0x40, vec![n as u8, 0]),
            (0x56, vec![n as u8, 7]),
        ];
        let mut all: Vec<(u8, Vec<u8>)> = defaults.into();
        for (spec, bytes) in columns {
            all.retain(|(found, _)| found != spec);
            all.push((*spec, bytes.to_vec()));
        }
        all.sort();
        let mut data = [&[1, 16][..], &[7; 16], &[1], &[9; 32], &[all.len() as u8]].concat();
        all.iter().for_each(|(spec, bytes)| data.extend([*spec, bytes.len() as u8]));
        data.push(0);
        all.iter().for_each(|(_, bytes)| data.extend(bytes));
        data.push(n as u8 - 1);
        cost(&sealed(DOCUMENT, &data))
    }

    /// `document_walk` found it: Automerge panics where it drops the actor (`remove_actor` on an empty table of authors).
    #[test]
    fn an_actor_without_a_change_is_refused() {
        let empty = |actors: &[u8]| cost(&sealed(DOCUMENT, &[actors, &[0, 0, 0]].concat()));
        assert_eq!(empty(&[0]).unwrap().changes, 0);
        assert_eq!(empty(&[&[1, 16][..], &[7; 16]].concat()), Err(Fault::ActorsOrder));
    }

    #[test]
    fn the_graph_points_backwards_and_inside() {
        assert_eq!(changes(3, &[]).unwrap().changes, 3);
        // The second and third change depend on the one before.
        let two: &[u8] = &[0x7f, 0, 2, 1];
        assert_eq!(changes(3, &[(0x40, two), (0x43, &[0x7e, 0, 1])]).unwrap().changes, 3);
        for index in [&[0x7e, 1, 0][..], &[0x7e, 0, 2], &[0x7e, 0, 0x7f]] {
            assert_eq!(changes(3, &[(0x40, two), (0x43, index)]), Err(Fault::Graph), "{index:?}");
        }
        assert_eq!(changes(3, &[(0x40, two), (0x43, &[0x7f, 0])]), Err(Fault::Rows));
        assert_eq!(changes(3, &[(0x40, &[3, 65])]), Err(Fault::Deps));
        assert_eq!(changes(3, &[(0x01, &[3, 1])]), Err(Fault::ActorIndex));
        assert_eq!(changes(3, &[(0x03, &[2, 1])]), Err(Fault::Rows));
        assert_eq!(changes(3, &[(0x13, &[2, 1])]), Err(Fault::Rows));
        assert_eq!(changes(3, &[(0x13, &[3, 0x7f])]), Err(Fault::Counter));
        assert_eq!(changes(3, &[(0x56, &[3, 0x17]), (0x57, &[0; 3])]), Err(Fault::Author));
        assert_eq!(changes(3, &[(0x57, &[0; 34])]), Err(Fault::Author));
        assert_eq!(changes(3, &[(0x63, &[3, 0])]), Err(Fault::Column(0x63)));
    }

    #[test]
    fn a_change_bomb_costs_no_more_than_its_cap() {
        let many = |n: u64, bytes: &[u8]| {
            let mut column = Vec::new();
            crate::change::read::put_signed(&mut column, n as i64);
            column.extend(bytes);
            column
        };
        for n in [DocumentCaps::default().changes + 1, 1 << 62] {
            assert_eq!(changes(3, &[(0x01, &many(n, &[0]))]), Err(Fault::Changes));
            assert_eq!(changes(3, &[(0x40, &many(n, &[0]))]), Err(Fault::Rows));
        }
    }
}
