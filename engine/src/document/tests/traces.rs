//! Real editing sessions, where the data lies beside the checkout or in `COMMONHOLD_TRACES`. Figures are printed; run with `--release -- --nocapture --ignored`.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use automerge::ReadDoc;
use serde_json::json;

use super::*;

struct Trace {
    end: String,
    edits: Vec<(usize, usize, String)>,
}

fn trace(name: &str) -> Option<Trace> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/traces");
    let file = std::env::var_os("COMMONHOLD_TRACES").map_or_else(beside, PathBuf::from).join(name);
    let Ok(packed) = std::fs::read(&file) else {
        println!("skipped: no {}", file.display());
        return None;
    };
    let mut text = String::new();
    gunzip(&packed).as_slice().read_to_string(&mut text).unwrap();
    let data: Json = serde_json::from_str(&text).unwrap();
    let patches = data["txns"].as_array().unwrap().iter().flat_map(|txn| txn["patches"].as_array().unwrap());
    let edits = patches
        .map(|p| (p[0].as_u64().unwrap() as usize, p[1].as_u64().unwrap() as usize, p[2].as_str().unwrap().to_owned()));
    Some(Trace { end: data["endContent"].as_str().unwrap().to_owned(), edits: edits.collect() })
}

/// gzip, by the tool that every system with a shell has: the tests need no crate for it.
fn gunzip(packed: &[u8]) -> Vec<u8> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, packed) = (child.stdin.take().unwrap(), packed.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&packed));
    let mut out = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    out
}

/// The trace as changes of one keystroke each, written by Automerge alone (fast), as a chain of ours.
fn keystrokes(trace: &Trace) -> (View, Vec<(EntryId, Vec<u8>)>) {
    let mut view = view(1);
    view.edit(|edit| edit.put_object(&ObjId::ROOT, "text", ObjKind::Text)).unwrap();
    let text = view.edit(|edit| edit.resolve(&path(&["text"]))).unwrap();
    let mut entries = flushed(&mut view);
    for (at, delete, insert) in &trace.edits {
        view.edit(|edit| edit.splice_text(&text, *at, *delete, insert)).unwrap();
        entries.extend(flushed(&mut view));
    }
    (view, entries)
}

#[test]
fn a_session_coalesced_to_few_changes_ends_as_recorded() {
    let Some(trace) = trace("sveltecomponent.json.gz") else { return };
    let mut view = view(1);
    view.edit(|edit| edit.put_object(&ObjId::ROOT, "text", ObjKind::Text)).unwrap();
    let text = view.edit(|edit| edit.resolve(&path(&["text"]))).unwrap();
    let mut entries = Vec::new();
    for some in trace.edits.chunks(500) {
        for (at, delete, insert) in some {
            view.edit(|edit| edit.splice_text(&text, *at, *delete, insert)).unwrap();
        }
        entries.extend(flushed(&mut view));
    }
    assert_eq!(view.text(&path(&["text"])).unwrap(), trace.end);
    let mut other = View::new();
    assert_eq!(give(&mut other, &entries).applied, entries.len());
    assert_eq!(other.text(&path(&["text"])).unwrap(), trace.end);
    lives(&mut other);
}

/// Processor time of this thread where the system tells it (other work on the machine then matters less), else the clock.
fn spent() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|told| told.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

#[test]
#[ignore = "a measurement; whoever changes document/ runs it: cargo test --release -p commonhold-engine figures_of_the_paper_trace -- --ignored --nocapture"]
fn figures_of_the_paper_trace() {
    let Some(trace) = trace("automerge-paper.json.gz") else { return };
    let time = |what: &str, per: usize, start: Duration| {
        let all = spent() - start;
        println!("{what}: {:.1} ms, {:.2} µs each", all.as_secs_f64() * 1e3, all.as_secs_f64() * 1e6 / per as f64);
    };
    let n = trace.edits.len();
    let start = spent();
    let (view, entries) = keystrokes(&trace);
    time("edit + flush, one change a keystroke", n, start);
    assert_eq!(view.text(&path(&["text"])).unwrap(), trace.end);
    println!("{:?}", view.cost());

    let start = spent();
    let bare: Vec<am::Change> = entries[..20_000].iter().map(|(_, bytes)| change(bytes)).collect();
    time("parse", 20_000, start);
    let start = spent();
    let decoded: Vec<am::ExpandedChange> = bare.iter().map(am::Change::decode).collect();
    time("decode", 20_000, start);
    let start = spent();
    assert!(decoded.into_iter().map(am::Change::from).zip(&bare).all(|(a, b)| a.raw_bytes() == b.raw_bytes()));
    time("encode", 20_000, start);
    let start = spent();
    let mut doc = am::Automerge::new();
    doc.apply_changes(bare).unwrap();
    time("automerge alone, 20,000 parsed changes", 20_000, start);
    for watching in [false, true] {
        let mut other = View::new();
        other.watch(watching);
        let start = spent();
        assert_eq!(give(&mut other, &entries[..20_000]).applied, 20_000);
        time("apply_remote, first 20,000", 20_000, start);
    }
    let mut other = View::new();
    let start = spent();
    assert_eq!(give(&mut other, &entries).applied, entries.len());
    time("apply_remote, all", n, start);
    println!("index: {} bytes for {n}", other.index.as_ref().unwrap().bytes_estimate());

    let view::Doc::Idle(doc) = &view.doc else { panic!() };
    let (start, theirs) = (spent(), doc.save());
    time("automerge save", n, start);
    let raw = doc.save_nocompress();
    println!("automerge save {} bytes, uncompressed {}", theirs.len(), raw.len());
    for level in [3, 9, 12, 15, 17, 19, 22] {
        let start = spent();
        let packed = snapshot::pack(&raw, level);
        println!("level {level}: {} bytes, {:.3}", packed.len(), packed.len() as f64 / theirs.len() as f64);
        time("  pack", n, start);
    }
    let start = spent();
    let packed = view.to_snapshot().unwrap();
    time("to_snapshot", n, start);
    assert!(packed.len() as f64 <= 0.95 * theirs.len() as f64);
    for _ in 0..3 {
        let start = spent();
        let loaded = am::Automerge::load(&theirs).unwrap();
        time("automerge load", n, start);
        assert_eq!(loaded.stats().num_changes as usize, entries.len());
        drop(loaded);
        let start = spent();
        let loaded = View::from_snapshot(&packed, &SnapshotCaps::default()).unwrap();
        time("from_snapshot", n, start);
        assert!(loaded.1.iter().map(|entry| entry.id).eq(entries.iter().map(|(id, _)| *id)));
    }
    let (mut loaded, _) = View::from_snapshot(&packed, &SnapshotCaps::default()).unwrap();
    let start = spent();
    loaded.verify().unwrap();
    time("verify", n, start);
    loaded.set_chain(author(2)).unwrap();
    loaded.watch(true);
    let start = spent();
    for n in 0..100 {
        loaded.edit(|edit| edit.set_json(&path(&["k"]), &json!(n))).unwrap();
        loaded.commit().unwrap();
    }
    time("edit + commit in the loaded document", 100, start);
    let mut small = super::view(3);
    set(&mut small, json!({"x": 1}));
    small.edit(|edit| edit.put(&ObjId::ROOT, "c", Scalar::Counter(1))).unwrap();
    let more = flushed(&mut small);
    let start = spent();
    assert_eq!(give(&mut loaded, &more).applied, 1);
    time("one remote change whose patches are compared", 1, start);
    set(&mut small, json!({"x": 2}));
    let more = flushed(&mut small);
    let start = spent();
    assert_eq!(give(&mut loaded, &more).applied, 1);
    time("one remote change", 1, start);
}
