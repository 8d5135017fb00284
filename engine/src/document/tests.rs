//! What one view promises, and what no input may do to it. Scenarios with several peers talk through raw entries only.

#![allow(clippy::unwrap_used, reason = "tests")]

mod base;
mod content;
mod forks;
mod hostile;
mod liars;
mod local;
mod peers;
mod snapshots;
mod sync_messages;
mod traces;

use automerge as am;
use commonhold_sync::id::EntryId;
use serde_json::Value as Json;

use super::*;

fn author(n: u8) -> ChainAuthor {
    ChainAuthor { actor: [n; 16], device: [n.wrapping_add(100); 32] }
}

fn view(n: u8) -> View {
    let mut view = View::new();
    view.set_chain(author(n)).unwrap();
    view
}

/// A log that must not be needed.
fn no_log(_: &mut dyn FnMut(&[u8])) {
    panic!("the log was read");
}

fn give(to: &mut View, entries: &[(EntryId, Vec<u8>)]) -> Applied {
    let entries: Vec<(EntryId, &[u8])> = entries.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
    to.apply_remote(&entries, &mut no_log)
}

fn flushed(view: &mut View) -> Vec<(EntryId, Vec<u8>)> {
    view.flush().unwrap().into_iter().map(|entry| (entry.id, entry.bytes)).collect()
}

fn set(view: &mut View, json: Json) {
    view.edit(|edit| edit.set_json(&[], &json)).unwrap();
}

fn path(steps: &[&str]) -> Vec<Prop> {
    steps.iter().map(|step| step.parse().map(Prop::Index).unwrap_or_else(|_| Prop::from(*step))).collect()
}

fn change(bytes: &[u8]) -> am::Change {
    am::Change::try_from(bytes).unwrap()
}

fn wire(change: am::ExpandedChange) -> (EntryId, Vec<u8>) {
    let change = am::Change::from(change);
    (EntryId(change.hash().0), change.raw_bytes().to_vec())
}

/// The view survives all that an honest life brings: save, load, edit, and an outsider who takes its entries raw.
fn lives(view: &mut View) {
    view.set_chain(author(250)).unwrap();
    view.edit(|edit| edit.put(&ObjId::ROOT, "alive", true)).unwrap();
    flushed(view);
    if view.graph.is_forked() {
        assert_eq!(view.pack(), Err(NotNow::Forked));
        forks::reloads(view);
    } else {
        let packed = view.pack().expect("nothing is pending");
        let caps = SnapshotCaps { foreign: true, ..SnapshotCaps::default() };
        let (mut again, _) = View::from_snapshot(&packed, &caps).expect("own snapshot loads");
        assert_eq!(again.to_json(), view.to_json());
        assert_eq!(again.heads(), view.heads());
        again.verify().expect("what was admitted once is admitted again");
    }
    let mut outsider = View::new();
    let entries = view.entries_since(&[]);
    let out = give(&mut outsider, &entries);
    assert_eq!((out.applied, out.invalid), (entries.len(), vec![]));
    assert_eq!(outsider.to_json(), view.to_json());
}
