//! Histories in which a device signed two of one chain, drawn from bytes: every order of arrival shows the same document.

use std::collections::BTreeMap;

use commonhold_engine::document::{ChainAuthor, Edit, EditError, ObjId, ObjKind, Prop, View};
use commonhold_sync::id::EntryId;

type Entries = BTreeMap<EntryId, Vec<u8>>;

fn author(n: u8) -> ChainAuthor {
    ChainAuthor { actor: [n; 16], device: [n; 32] }
}

fn edit(edit: &mut Edit<'_>, op: u8, value: u8) -> Result<(), EditError> {
    let child = |edit: &mut Edit<'_>, key: &str, kind| match edit.resolve(&[Prop::from(key)]) {
        Ok(found) => Ok(found),
        Err(_) => edit.put_object(&ObjId::ROOT, key, kind),
    };
    match op % 6 {
        0 => edit.put(&ObjId::ROOT, ["a", "b"][usize::from(value & 1)], i64::from(value)),
        1 => {
            let list = child(edit, "list", ObjKind::List)?;
            let at = usize::from(value) % (edit.len(&list) + 1);
            edit.insert(&list, at, i64::from(value))
        }
        2 => {
            let list = child(edit, "list", ObjKind::List)?;
            match edit.len(&list) {
                0 => Ok(()),
                len => edit.delete(&list, usize::from(value) % len),
            }
        }
        3 => {
            let text = child(edit, "text", ObjKind::Text)?;
            let at = usize::from(value) % (edit.len(&text) + 1);
            edit.splice_text(&text, at, 0, "xy")
        }
        4 => edit.put_object(&ObjId::ROOT, "nested", ObjKind::Map).map(drop),
        _ => edit.delete(&ObjId::ROOT, ["a", "list", "text", "nested"][usize::from(value & 3)]).or(Ok(())),
    }
}

fn give(view: &mut View, all: &Entries, ids: &[EntryId], held: &mut Vec<EntryId>) {
    let entries: Vec<(EntryId, &[u8])> = ids.iter().map(|id| (*id, &all[id][..])).collect();
    let known = held.clone();
    let out = view.apply_remote(&entries, &mut |each| known.iter().for_each(|id| each(&all[id])));
    assert!(out.invalid.is_empty() && !out.broken, "honest authors made it: {:?}", out.invalid);
    held.extend(ids.iter().filter(|id| view.contains(id) && !known.contains(id)));
}

/// Peers 0 and 1 are one device that lies: they share a chain, and each is only heard of by one of the peers 2 and 3.
pub fn fork_view(data: &[u8]) {
    let mut all = Entries::new();
    let mut views: Vec<View> = (0..4).map(|_| View::new()).collect();
    let mut holds: Vec<Vec<EntryId>> = vec![Vec::new(); 4];
    for (view, name) in views.iter_mut().zip([1, 1, 2, 3]) {
        view.set_chain(author(name)).expect("a new view is whole");
    }
    let flush = |view: &mut View, all: &mut Entries, held: &mut Vec<EntryId>| {
        for entry in view.flush().expect("the view is whole") {
            held.push(entry.id);
            all.insert(entry.id, entry.bytes);
        }
    };
    for op in data.chunks_exact(3).take(48) {
        let at = usize::from(op[0] & 3);
        match op[0] >> 2 & 3 {
            0 => {
                // To who may hear of it.
                let to = [2, 3, 0, 1][at];
                let new: Vec<EntryId> = holds[at].iter().filter(|id| !holds[to].contains(id)).copied().collect();
                let (view, held) = (&mut views[to], &mut holds[to]);
                flush(view, &mut all, held);
                give(view, &all, &new, held);
            }
            _ => {
                let done = views[at].edit(|e| edit(e, op[1], op[2]));
                // A key may hold something of another kind by now.
                assert!(
                    done.is_ok() || matches!(done, Err(EditError::NotFound(_) | EditError::WrongKind { .. })),
                    "{done:?}"
                );
                flush(&mut views[at], &mut all, &mut holds[at]);
            }
        }
    }
    // What the two honest ones built upon counts.
    for at in [2, 3] {
        views[at].edit(|edit| edit.put(&ObjId::ROOT, "last", at as i64)).expect("an honest edit");
        flush(&mut views[at], &mut all, &mut holds[at]);
    }
    let mut counted = holds[2].clone();
    counted.extend(holds[3].iter().filter(|id| !holds[2].contains(id)).copied());
    let mut first = View::new();
    let mut held = Vec::new();
    give(&mut first, &all, &counted, &mut held);
    let mut second = View::new();
    let mut held = Vec::new();
    let step = data.first().map_or(1, |n| usize::from(n % 5) + 1);
    let mut other = holds[3].clone();
    other.extend(holds[2].iter().filter(|id| !holds[3].contains(id)).copied());
    other.chunks(step).for_each(|ids| give(&mut second, &all, ids, &mut held));
    assert_eq!((first.heads(), first.to_json()), (second.heads(), second.to_json()));
    second.set_chain(author(9)).expect("nothing is pending");
    second.edit(|edit| edit.put(&ObjId::ROOT, "alive", true)).expect("an honest edit");
    let made = second.flush().expect("the view is whole");
    let made: Vec<(EntryId, &[u8])> = made.iter().map(|entry| (entry.id, &entry.bytes[..])).collect();
    let out = first.apply_remote(&made, &mut |each| counted.iter().for_each(|id| each(&all[id])));
    assert_eq!(out.applied, made.len());
    assert_eq!(first.to_json(), second.to_json());
}
