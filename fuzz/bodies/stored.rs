//! Rows of a store with any bytes in them: what is damaged is told or left out, and nothing that reads it panics.

use std::sync::{Arc, OnceLock};

use commonhold_engine::document::{ChainAuthor, ObjId, View};
use commonhold_engine::storage::{DocumentQuery, Facts, Storage};
use commonhold_engine::store::{Batch, MemoryStore, Store, Table};
use commonhold_sync::chain::{Kind, Opening};
use commonhold_sync::id::{DeviceId, DocId, SpaceId, StoreId};
use commonhold_sync::log::Log;
use commonhold_sync::peer::{Event, Input, Load, Loaded, Local, Now, Output, Peer, Start, Ticket};
use commonhold_sync::record::{Genesis, Privacy, Record, Right, Writers};
use ed25519_dalek::SigningKey;

type Rows = Vec<(Table, Vec<u8>, Vec<u8>)>;

fn start(storage: &Storage) -> Option<Start> {
    let stored = storage.start().ok()?;
    let empty = Start::empty(SigningKey::from_bytes(&[1; 32]), StoreId([1; 16]), [1; 8], [1; 32]);
    Some(Start { spaces: stored.spaces, cursors: stored.cursors, ..empty })
}

fn drive(peer: &mut Peer, storage: &Storage, first: Input) -> Vec<Event> {
    let (mut inputs, mut events) = (vec![first], Vec::new());
    while let Some(input) = inputs.pop() {
        peer.handle(Now(1), input);
        while let Some(output) = peer.poll_output() {
            match output {
                Output::Store { op, ops } => {
                    let mut batch = Batch::new();
                    let done = storage.write(ops, &mut batch).and_then(|()| storage.store().commit(batch));
                    inputs.push(if done.is_ok() { Input::Stored { op } } else { Input::StoreFailed { op } });
                }
                Output::Load { op, load } => {
                    let loaded = storage.load(&load).map_or(Loaded::Deep(vec![]), |read| read.value);
                    inputs.push(Input::Loaded { op, loaded });
                }
                Output::Emit(event) => events.push(event),
                Output::Send { .. } | Output::Dial { .. } | Output::Disconnect { .. } | Output::Blob(_) => {}
            }
        }
    }
    events
}

/// A store with a space, a grant and a document of two changes.
fn rows() -> &'static (SpaceId, DocId, Rows) {
    static ROWS: OnceLock<(SpaceId, DocId, Rows)> = OnceLock::new();
    ROWS.get_or_init(|| {
        let storage = Storage::new(Arc::new(MemoryStore::new()));
        let facts = Facts { store: Some(StoreId([1; 16])), salt: Some([1; 8]), ..Facts::default() };
        storage.put_facts(&facts, false).expect("a new store takes them");
        let mut peer = Peer::new(start(&storage).expect("a new store"));
        let genesis = Genesis {
            root: peer.device().into(),
            privacy: Privacy::Public,
            writers: Writers::Granted,
            rules: 1,
            nonce: [2; 16],
        };
        let space = genesis.space();
        drive(&mut peer, &storage, Input::Join { space, genesis: Some(genesis), filter: None });
        let header = Record::Header { nonce: [1; 16], kind: "note".into(), name: "n".into() };
        let doc = DocId(Record::id(&space, &peer.device(), &header.to_bytes()).0);
        let grant = Record::Grant { subject: DeviceId([5; 32]).into(), right: Right::Write, gateway: false, again: 0 };
        let local = Local::Records(vec![header, grant]);
        drive(&mut peer, &storage, Input::Local { ticket: Ticket(1), space, local });
        let opening = Opening { device: peer.device(), salt: [1; 8], kind: Kind::Own };
        let mut view = View::new();
        let actor = opening.chain(&space, &doc).0;
        view.set_chain(ChainAuthor { actor, device: opening.device.0 }).expect("a new view");
        for n in 0..2 {
            view.edit(|edit| edit.put(&ObjId::ROOT, "k", n)).expect("an honest edit");
            view.commit().expect("an honest edit");
        }
        let entries = view.flush().expect("honest edits").into_iter().map(|entry| entry.bytes).collect();
        let local = Local::Entries { doc, opening, entries };
        drive(&mut peer, &storage, Input::Local { ticket: Ticket(2), space, local });
        let mut rows = Rows::new();
        for table in Table::ALL {
            let scan = storage.store().scan(table, &[], None, 1_000, 1 << 20).expect("all is well");
            rows.extend(scan.rows.into_iter().map(|(key, value)| (table, key, value)));
        }
        (space, doc, rows)
    })
}

/// The first byte names a row, the second what is done to it (exchanged from a place on, cut there, or its key changed), the
/// third the place; the rest is what is put there.
pub fn stored_rows(data: &[u8]) {
    let (space, doc, rows) = rows();
    let [row, how, at, new @ ..] = data else { return };
    let mut rows = rows.clone();
    let row = usize::from(*row) % rows.len();
    let (_, key, value) = &mut rows[row];
    let of = if how & 4 != 0 { key } else { value };
    let at = usize::from(*at) * (of.len() + 1) / 256;
    match how & 3 {
        0 => of.truncate(at),
        1 => drop(of.splice(at.., new.iter().copied())),
        2 => drop(of.splice(at..at, new.iter().copied())),
        _ => of.iter_mut().skip(at).zip(new).for_each(|(old, new)| *old ^= new),
    }
    let store = MemoryStore::new();
    let mut batch = Batch::new();
    rows.into_iter().for_each(|(table, key, value)| batch.put(table, key, value));
    if store.commit(batch).is_err() {
        return;
    }
    let storage = Storage::new(Arc::new(store));
    let _ = (storage.facts(), storage.invites(), storage.documents(space, &DocumentQuery::default()));
    for docs in [vec![*doc], vec![space.authority()]] {
        for load in [Load::Logs { space: *space, docs: docs.clone() }, Load::Raw { space: *space, docs }] {
            let Ok(read) = storage.load(&load) else { continue };
            let Loaded::Logs(logs) = read.value else { continue };
            for (doc, found) in logs {
                if let Some((image, segments)) = found.filter(|_| doc != space.authority()) {
                    Log::load(*space, doc, image, &segments).0.digest();
                }
            }
        }
    }
    let page = Load::Page { space: *space, after: 0, bytes: 1 << 20, rows: 100, skip: None, snapshots: true };
    let _ = (storage.load(&page), storage.load(&Load::Digests { space: *space }));
    let Some(start) = start(&storage) else { return };
    let mut peer = Peer::new(start);
    let grant = Record::Grant { subject: DeviceId([6; 32]).into(), right: Right::Read, gateway: false, again: 0 };
    for local in [Local::Records(vec![grant]), Local::Records(vec![Record::Tombstone { doc: *doc }])] {
        drive(&mut peer, &storage, Input::Local { ticket: Ticket(3), space: *space, local });
    }
}
