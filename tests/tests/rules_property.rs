//! The statement behind all admission rules: whatever passes them, Automerge applies, saves, loads again and edits without a
//! panic. Real changes are spoilt in their structure and in their bytes (with the checksum put right), and go through the
//! walker, the admission to a log, and the view.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "hostile/forge.rs"]
mod forge;
#[path = "hostile/harness.rs"]
mod harness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use am::ReadDoc;
use am::legacy::{ElementId, Key, ObjectId, Op, OpId, OpType};
use am::transaction::Transactable;
use automerge as am;
use commonhold_engine::document::ObjId;
use commonhold_sync::id::{DeviceId, DocId, EntryId, SpaceId};
use commonhold_sync::limits::{Limits, Rules};
use commonhold_sync::log::{Admission, Header, Image, Log, Need};
use harness::{Forger, id_of, key, no_log, view_of};
use proptest::prelude::*;

const SPACE: SpaceId = SpaceId([1; 32]);
const DOC: DocId = DocId([2; 32]);

/// A document with one of everything, and an honest change upon it that touches all of it.
struct Ground {
    base: Vec<(EntryId, Vec<u8>)>,
    author: Forger,
    draft: am::ExpandedChange,
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let author = Forger::new(&key(1), 1, SPACE, DOC);
        let first = author.draft(&[], |edit| {
            edit.set_json(
                &[],
                &serde_json::json!({"map": {"k": 1, "l": [2]}, "list": [1, {"m": 2}, 3], "text": "abcdef"}),
            )?;
            edit.put(&ObjId::ROOT, "n", commonhold_engine::document::Scalar::Counter(5))
        });
        let first = harness::bytes_of(first);
        let base = vec![(id_of(&first), first)];
        let draft = Forger::new(&key(2), 1, SPACE, DOC).draft(&base, |edit| {
            let list = edit.resolve(&["list".into()])?;
            edit.put(&list, 0, 9)?;
            edit.insert(&list, 1, 8)?;
            edit.delete(&list, 3)?;
            edit.increment(&ObjId::ROOT, "n", 2)?;
            let text = edit.resolve(&["text".into()])?;
            edit.splice_text(&text, 2, 1, "xyz")?;
            edit.mark(&text, 1, 3, commonhold_engine::document::Expand::None, "bold", true)?;
            edit.set_json(&["map".into(), "k".into()], &serde_json::json!({"deep": [5]}))
        });
        Ground { base, author, draft }
    })
}

fn name(which: u64) -> am::ActorId {
    let forger = |n| Forger::new(&key(n), 1, SPACE, DOC).actor();
    match which % 8 {
        0..4 => forger(1),
        4..7 => forger(2),
        _ => am::ActorId::from([9; 16]),
    }
}

fn op_id(a: u64, b: u64) -> OpId {
    OpId(1 + b % 48, name(a))
}

/// One way to spoil a change.
fn spoil(change: &mut am::ExpandedChange, kind: u8, a: u64, b: u64) {
    let len = change.operations.len().max(1) as u64;
    let at = (a % len) as usize;
    let other = (b % len) as usize;
    let some: Option<Op> = change.operations.get(at).cloned();
    let Some(mut op) = some else { return };
    match kind % 20 {
        0 => op.obj = ObjectId::Root,
        1 => op.obj = ObjectId::Id(op_id(a, b)),
        2 => op.obj = change.operations[other].obj.clone(),
        3 => op.key = change.operations[other].key.clone(),
        4 => op.key = Key::Seq(ElementId::Id(op_id(a, b))),
        5 => op.key = Key::head(),
        6 => op.key = Key::Map(["k", "l", "text", "n", ""][(b % 5) as usize].into()),
        7 => op.insert = !op.insert,
        8 => op.pred = vec![op_id(a, b)].into(),
        9 => op.pred = Vec::new().into(),
        10 => op.pred = change.operations[other].pred.clone(),
        11 => op.action = change.operations[other].action.clone(),
        12 => {
            op.action = match b % 7 {
                0 => OpType::Delete,
                1 => OpType::Increment(b as i64),
                2 => OpType::Make(am::ObjType::Text),
                3 => OpType::Make(am::ObjType::Table),
                4 => OpType::MarkEnd(true),
                5 => OpType::Put(am::ScalarValue::Timestamp(b as i64)),
                _ => OpType::Put(am::ScalarValue::counter(b as i64)),
            }
        }
        13 => change.operations.insert(other, op.clone()),
        14 => {
            change.operations.remove(at);
            return;
        }
        15 => change.operations.swap(at, other),
        16 => change.operations.truncate(at),
        17 => change.start_op = (change.start_op.get().wrapping_add(a % 5).wrapping_sub(2).max(1)).try_into().unwrap(),
        18 => change.time = b as i64 >> (a % 64),
        _ => change.message = Some("m".repeat((b % 300) as usize)),
    }
    if let Some(target) = change.operations.get_mut(at) {
        *target = op;
    }
}

static TRIED: AtomicUsize = AtomicUsize::new(0);
static WALKED: AtomicUsize = AtomicUsize::new(0);
static ADMITTED: AtomicUsize = AtomicUsize::new(0);
static SHOWN: AtomicUsize = AtomicUsize::new(0);

/// Lets bytes through every gate; if they pass, Automerge must live with them.
fn judge(bytes: &[u8]) {
    TRIED.fetch_add(1, Ordering::Relaxed);
    let ground = ground();
    if commonhold_sync::change::walk(bytes, &Rules::V1).is_err() {
        return;
    }
    WALKED.fetch_add(1, Ordering::Relaxed);
    let header = Header { creator: DeviceId([0; 32]), kind: String::new(), name: String::new() };
    let (mut log, _) = Log::load(SPACE, DOC, Image::of_header(header), &[]);
    let first = ground.author.clone().seal(ground.base.iter().map(|(_, bytes)| bytes.clone()).collect());
    assert!(matches!(log.admit(&Rules::V1, &Limits::default(), first, Need::Asked), Admission::Admitted(_)));
    let segment = Forger::new(&key(2), 1, SPACE, DOC).seal(vec![bytes.to_vec()]);
    if !matches!(log.admit(&Rules::V1, &Limits::default(), segment, Need::Asked), Admission::Admitted(_)) {
        return;
    }
    ADMITTED.fetch_add(1, Ordering::Relaxed);
    let mut view = view_of(&ground.base);
    let out = view.apply_remote(&[(id_of(bytes), bytes)], &mut no_log);
    assert!(out.quarantined.is_empty() && !out.broken);
    if out.applied == 0 {
        return;
    }
    SHOWN.fetch_add(1, Ordering::Relaxed);
    // Plain Automerge, without the view's guards.
    let all = ground.base.iter().map(|(_, bytes)| bytes.clone()).chain([bytes.to_vec()]);
    let changes: Vec<am::Change> = all.map(|bytes| am::Change::from_bytes(bytes).unwrap()).collect();
    let mut doc = am::AutoCommit::new();
    doc.apply_changes(changes).unwrap();
    assert_eq!(doc.get_heads(), vec![am::ChangeHash(id_of(bytes).0)]);
    let saved = doc.save();
    let mut again = am::AutoCommit::load(&saved).unwrap();
    assert_eq!(again.get_heads(), doc.get_heads());
    for doc in [&mut doc, &mut again] {
        doc.put(am::ROOT, "alive", true).unwrap();
        if let Some((am::Value::Object(am::ObjType::Text), text)) = doc.get(am::ROOT, "text").unwrap() {
            doc.splice_text(&text, 0, 0, "alive").unwrap();
        }
        if let Some((am::Value::Object(am::ObjType::List), list)) = doc.get(am::ROOT, "list").unwrap() {
            doc.insert(&list, 0, 1).unwrap();
        }
        doc.commit();
        let saved = doc.save();
        am::AutoCommit::load(&saved).unwrap();
    }
}

fn report() {
    println!(
        "{} tried, {} walked, {} admitted, {} shown",
        TRIED.load(Ordering::Relaxed),
        WALKED.load(Ordering::Relaxed),
        ADMITTED.load(Ordering::Relaxed),
        SHOWN.load(Ordering::Relaxed)
    );
}

#[test]
fn an_honest_change_passes() {
    judge(&harness::bytes_of(ground().draft.clone()));
    assert!(SHOWN.load(Ordering::Relaxed) > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn automerge_lives_with_every_spoilt_change_that_passes_the_rules(
        spoils in proptest::collection::vec((any::<u8>(), any::<u64>(), any::<u64>()), 1..4),
    ) {
        let mut change = ground().draft.clone();
        spoils.iter().for_each(|(kind, a, b)| spoil(&mut change, *kind, *a, *b));
        // The library's own encoder gives up on some; no liar is bound to it, which is what the bytes below are for.
        let encoded = catch_unwind(AssertUnwindSafe(|| harness::bytes_of(change)));
        if let Ok(bytes) = encoded {
            judge(&bytes);
        }
        if TRIED.load(Ordering::Relaxed).is_multiple_of(8_000) { report(); }
    }

    #[test]
    fn automerge_lives_with_every_altered_byte_that_passes_the_rules(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..3),
    ) {
        let bytes = harness::bytes_of(ground().draft.clone());
        // Behind the dependency and the actor, where the rules are at work.
        let mut data = forge::content(&bytes).to_vec();
        for (at, byte, how) in edits {
            let at = 50 + at.index(data.len() - 50);
            match how {
                0 => data[at] = byte,
                1 => data[at] = data[at].wrapping_add(byte % 3).wrapping_sub(1),
                2 => data.insert(at, byte),
                _ => drop(data.remove(at)),
            }
        }
        judge(&forge::chunk(1, &data));
        if TRIED.load(Ordering::Relaxed).is_multiple_of(8_000) { report(); }
    }
}
