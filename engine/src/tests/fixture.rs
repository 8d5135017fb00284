//! Store files that earlier versions wrote. Each opens with today's program, shows what it held, and is written on.
//!
//! `UPDATE_FIXTURE=1 cargo test -p commonhold-engine fixture` writes the file of today's format anew, from fixed keys and
//! seeds. Once a version with a format is out, its file stays as it is, and the next format gets a file of its own.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, ROOT};
use commonhold_sync::chain::{Kind, Opening};
use commonhold_sync::id::{ChainId, DeviceId, DocId, SpaceId, StoreId};
use commonhold_sync::peer::{ConnId, Event, Input, Load, Loaded, Local, Now, Output, Peer, Start, Ticket};
use commonhold_sync::record::{Genesis, Privacy, Record, Right, Writers};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use super::support::*;
use crate::device::private_file;
use crate::document::{ChainAuthor, ObjKind, View};
use crate::storage::{DocumentQuery, Facts, Storage};
use crate::store::{Batch, MemoryStore, Options, RedbStore, Store};
use crate::{Invite, Node, worker};

/// Who founds the space, and whose store is kept.
const FOUNDER: [u8; 32] = [1; 32];
/// Who is granted the right to write.
const GUEST: [u8; 32] = [2; 32];
const TYPED: &str = "the quick brown fox jumps over the lazy dog; ";

/// Of the space, over everything in the file.
const FINGERPRINT: &str = "68e32bd30bfb5d1c8fec3c1ea73c681883df0687863688c602a9c1866b2c1478";
/// Name, number of changes, heads.
const HEADS: [(&str, usize, &str); 3] = [
    ("Imported", 2, "33e5b8a5dae4facb7ce92792c2663ec464dce1d840c268c10226239b8efb2e1e"),
    (
        "Shopping",
        8,
        "345bc0324bfa5ef54482afea5b8c2fb473cf232a7193546417d4828ebbdbe941 dc7b262d914001e0743de0dc0373b42099c9d0ddee02b734897661ee7b970b70",
    ),
    ("Typed", 1_215, "0cd0226f2ed3a337d3a6f1b64627fd476352d1fa39435495df6940b76a243470"),
];

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/store-v1.redb.zst")
}

fn contents(name: &str) -> Value {
    match name {
        "Shopping" => json!({
            "milk": 2, "price": 1.25, "open": true, "nothing": null, "note": "fetch it",
            "list": ["bread", { "what": "eggs", "n": 6 }], "from": "its copy, again",
        }),
        "Typed" => json!({ "text": TYPED.repeat(27) }),
        _ => json!({ "a": 1, "b": [1, 2] }),
    }
}

fn device(secret: [u8; 32]) -> DeviceId {
    DeviceId(SigningKey::from_bytes(&secret).verifying_key().to_bytes())
}

fn genesis() -> Genesis {
    let root = device(FOUNDER);
    Genesis { root: root.into(), privacy: Privacy::Public, writers: Writers::Granted, rules: 1, nonce: [7; 16] }
}

/// A peer whose every wish is granted at once.
struct Machine {
    peer: Peer,
    storage: Storage,
    now: u64,
    /// Ids of the records that were saved last.
    saved: Vec<DocId>,
    forks: usize,
}

impl Machine {
    fn new(secret: [u8; 32], id: u8, store: Arc<dyn Store>) -> Machine {
        let storage = Storage::new(store);
        // Two peers of one device and one salt sign two histories.
        let salt = [secret[0]; 8];
        let facts = Facts { store: Some(StoreId([id; 16])), salt: Some(salt), lineage: None };
        storage.put_facts(&facts, false).unwrap();
        let empty = Start::empty(SigningKey::from_bytes(&secret), StoreId([id; 16]), salt, [id; 32]);
        let start = Start { roles: 3, agent: "fixture".into(), ..empty };
        let mut machine = Machine { peer: Peer::new(start), storage, now: 0, saved: Vec::new(), forks: 0 };
        let genesis = genesis();
        machine.handle(Input::Join { space: genesis.space(), genesis: Some(genesis), filter: None });
        machine
    }

    /// What follows from an input, to its end; the frames that it sends.
    fn handle(&mut self, input: Input) -> Vec<Vec<u8>> {
        let (mut inputs, mut frames) = (VecDeque::from([input]), Vec::new());
        while let Some(input) = inputs.pop_front() {
            self.peer.handle(Now(self.now), input);
            while let Some(output) = self.peer.poll_output() {
                match output {
                    Output::Send { bytes, .. } => frames.push(bytes),
                    Output::Store { op, ops } => {
                        let mut batch = Batch::new();
                        self.storage.write(ops, &mut batch).unwrap();
                        self.storage.store().commit(batch).unwrap();
                        inputs.push_back(Input::Stored { op });
                    }
                    Output::Load { op, load } => {
                        let loaded = match &load {
                            Load::Deep { space, doc } => Loaded::Deep(worker::deep(&self.storage, space, doc)),
                            _ => self.storage.load(&load).unwrap().value,
                        };
                        inputs.push_back(Input::Loaded { op, loaded });
                    }
                    Output::Emit(Event::Saved { records, .. }) => {
                        self.saved = records.into_iter().map(|id| DocId(id.0)).collect();
                    }
                    Output::Emit(Event::Failed { why, .. }) => panic!("{why}"),
                    Output::Emit(Event::Forked { .. }) => self.forks += 1,
                    Output::Emit(_) | Output::Blob(_) => {}
                    Output::Dial { .. } => {}
                    Output::Disconnect { reason, .. } => panic!("{reason:?}"),
                }
            }
        }
        frames
    }

    fn say(&mut self, local: Local) {
        self.handle(Input::Local { ticket: Ticket(1), space: genesis().space(), local });
    }

    /// The document as it is stored, to be edited under this machine's chain.
    fn view(&self, doc: DocId) -> View {
        let space = genesis().space();
        let mut view = worker::load(&self.storage, &space, &doc, &[], &Default::default()).unwrap().unwrap().view;
        let ChainId(actor) = self.peer.own_opening(&space, &doc).chain(&space, &doc);
        view.set_chain(ChainAuthor { actor, device: self.peer.device().0 }).unwrap();
        view
    }

    fn flush(&mut self, doc: DocId, view: &mut View) {
        let entries = view.flush().unwrap().into_iter().map(|entry| entry.bytes).collect();
        let opening = self.peer.own_opening(&genesis().space(), &doc);
        self.say(Local::Entries { doc, opening, entries });
    }

    fn set(&mut self, doc: DocId, path: &str, value: &Value) {
        let mut view = self.view(doc);
        view.edit(|edit| edit.set_json(&crate::Path::from(path).0, value)).unwrap();
        self.flush(doc, &mut view);
    }
}

/// Lets two machines sync over a connection of their own, and ends it.
fn sync(one: &mut Machine, other: &mut Machine, conn: ConnId) {
    let expected = Some(one.peer.device());
    let mut to_other = one.handle(Input::Connected { conn, dialled: false, expected: None });
    let mut to_one = other.handle(Input::Connected { conn, dialled: true, expected });
    for _ in 0..10 {
        while !to_one.is_empty() || !to_other.is_empty() {
            for bytes in std::mem::take(&mut to_one) {
                to_other.extend(one.handle(Input::Frame { conn, bytes }));
            }
            for bytes in std::mem::take(&mut to_other) {
                to_one.extend(other.handle(Input::Frame { conn, bytes }));
            }
        }
        one.now += 3_000;
        other.now += 3_000;
        to_other.extend(one.handle(Input::Tick));
        to_one.extend(other.handle(Input::Tick));
    }
    one.handle(Input::Disconnected { conn });
    other.handle(Input::Disconnected { conn });
}

/// A little of everything that a store can hold.
fn write(path: &Path) {
    let space = genesis().space();
    let store = RedbStore::open(path, &Options::default()).unwrap();
    let mut founder = Machine::new(FOUNDER, 1, Arc::new(store));
    let header =
        |n: u8, kind: &str, name: &str| Record::Header { nonce: [n; 16], kind: kind.into(), name: name.into() };
    founder.say(Local::Records(vec![
        Record::Grant { subject: device(GUEST).into(), right: Right::Write, gateway: false, again: 0 },
        header(1, "list", "Shopping"),
        header(2, "text", "Typed"),
        header(3, "", "Imported"),
        header(4, "note", "Deleted"),
    ]));
    let [_, shopping, typed, imported, deleted] = founder.saved[..] else { panic!("five records") };
    let mut first = contents("Shopping");
    first.as_object_mut().unwrap().remove("from");
    founder.set(shopping, "", &first);
    founder.set(shopping, "/milk", &json!(1));
    founder.set(shopping, "/milk", &json!(2));
    founder.set(deleted, "", &json!({ "secret": "gone" }));

    // Two copies of the guest that both write: their chain is closed, and each ends it with a new one.
    let mut guest = Machine::new(GUEST, 2, Arc::new(MemoryStore::new()));
    let mut copy = Machine::new(GUEST, 3, Arc::new(MemoryStore::new()));
    sync(&mut founder, &mut copy, ConnId(1));
    sync(&mut founder, &mut guest, ConnId(2));
    guest.set(shopping, "/from", &json!("the guest"));
    copy.set(shopping, "/from", &json!("its copy"));
    copy.set(shopping, "/from", &json!("its copy, again"));
    sync(&mut founder, &mut guest, ConnId(3));
    sync(&mut founder, &mut copy, ConnId(4));
    assert_eq!(founder.forks, 1);

    // Typed a letter at a time; all but the end is in a snapshot.
    let mut view = founder.view(typed);
    let text = view.edit(|edit| edit.put_object(&crate::ObjId::ROOT, "text", ObjKind::Text)).unwrap();
    for n in 0..27 {
        for (at, letter) in TYPED.chars().enumerate() {
            let at = n * TYPED.len() + at;
            view.edit(|edit| edit.splice_text(&text, at, 0, &letter.to_string())).unwrap();
            view.commit().unwrap();
        }
        founder.flush(typed, &mut view);
        if n == 25 {
            let packed = worker::compact(&founder.storage, &space, &typed, &Default::default()).unwrap().unwrap();
            let (bytes, heads, ends) = (packed.bytes, packed.heads, packed.ends);
            founder.handle(Input::SnapshotMade { space, doc: typed, bytes, heads, ends });
        }
    }

    let mut foreign = AutoCommit::new().with_actor(ActorId::from([9u8; 16]));
    foreign.put(ROOT, "a", 1).unwrap();
    foreign.commit_with(CommitOptions::default().with_time(0));
    let list = foreign.put_object(ROOT, "b", automerge::ObjType::List).unwrap();
    foreign.insert(&list, 0, 1).unwrap();
    foreign.insert(&list, 1, 2).unwrap();
    foreign.commit_with(CommitOptions::default().with_time(0));
    let entries = foreign.get_changes(&[]).into_iter().map(|change| change.raw_bytes().to_vec()).collect();
    let opening = Opening { device: device(FOUNDER), salt: [5; 8], kind: Kind::Foreign(vec![9; 16]) };
    founder.say(Local::Entries { doc: imported, opening, entries });

    founder.say(Local::Records(vec![Record::Tombstone { doc: deleted }]));
    let invite = Invite::new(space, Some(&genesis()), Some(device(GUEST)), vec!["mem:nobody".into()]);
    founder.storage.put_invite(&space, invite.peer.as_ref(), &invite.to_string()).unwrap();
    founder.handle(Input::Close);
}

/// The store file, and the secret of the device that wrote it.
fn unpack(folder: &Path) -> PathBuf {
    if std::env::var_os("UPDATE_FIXTURE").is_some() {
        let made = folder.join("made.redb");
        write(&made);
        let packed = zstd::bulk::compress(&std::fs::read(made).unwrap(), 19).unwrap();
        std::fs::create_dir_all(file().parent().unwrap()).unwrap();
        std::fs::write(file(), packed).unwrap();
    }
    let store = folder.join("data").join("store.redb");
    std::fs::create_dir(folder.join("data")).unwrap();
    std::fs::write(&store, zstd::stream::decode_all(std::fs::File::open(file()).unwrap()).unwrap()).unwrap();
    private_file::ensure_dir(&folder.join("keys")).unwrap();
    private_file::create(&folder.join("keys/device.key"), "commonhold device 1", &FOUNDER).unwrap();
    store
}

fn rows(store: &Path, space: SpaceId) {
    let storage = Storage::new(Arc::new(RedbStore::open(store, &Options::default()).unwrap()));
    let facts = storage.facts().unwrap().value;
    assert_eq!((facts.store, facts.salt), (Some(StoreId([1; 16])), Some([1; 8])));
    assert_eq!(storage.invites().unwrap()[0].parse::<Invite>().unwrap().genesis(), Some(genesis()));
    let start = storage.start().unwrap();
    assert_eq!((start.spaces.len(), start.spaces[0].2.len(), start.spaces[0].0), (1, 1, space), "one grant");
    assert_eq!((start.cursors.len(), start.cursors[0].1), (1, device(GUEST)));
    let documents = storage.documents(&space, &DocumentQuery { deleted: true, ..Default::default() }).unwrap();
    assert_eq!(
        documents.iter().filter(|info| info.deleted).map(|info| &info.name[..]).collect::<Vec<_>>(),
        ["Deleted"]
    );
    let held = |name| {
        let info = documents.iter().find(|info| info.name == name).unwrap();
        storage.held(&space, &info.id).unwrap().unwrap().value
    };
    assert!(held("Shopping").segments.iter().any(|stored| stored.branch == 1), "a second history is kept");
    let typed = held("Typed");
    assert!(typed.snapshot.is_some() && typed.segments.len() == 1, "a snapshot, and one segment after it");
    assert!(held("Imported").image.lines.iter().all(|line| line.opening.kind == Kind::Foreign(vec![9; 16])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_format_1_opens_shows_what_it_held_and_is_written_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = unpack(folder.path());
    let space = genesis().space();
    rows(&store, space);

    let node = Node::open(on_disk(folder.path())).await.unwrap();
    assert_eq!(node.device(), device(FOUNDER));
    assert!(node.check().await.unwrap().is_sound());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut found = Vec::new();
    for info in node.documents(space, DocumentQuery::default()).await.unwrap() {
        let document = node.open_document(space, info.id).await.unwrap();
        assert_eq!(document.json().await.unwrap(), contents(&info.name), "{}", info.name);
        let heads: Vec<String> = document.heads().await.unwrap().iter().map(|id| id.to_string()).collect();
        found.push((info.name, document.history().await.unwrap().len(), heads.join(" ")));
    }
    found.sort();
    assert_eq!(found, HEADS.map(|(name, changes, heads)| (name.to_owned(), changes, heads.to_owned())));
    assert_eq!(hex(&node.space(space).unwrap().fingerprint), FINGERPRINT);

    let shopping = node.documents(space, DocumentQuery { prefix: Some("Sho".into()), ..Default::default() }).await;
    let shopping = node.open_document(space, shopping.unwrap()[0].id).await.unwrap();
    shopping.set("/milk", &3).await.unwrap();
    soon(shopping.flush()).await.unwrap();
    let doc = shopping.id();
    drop(shopping);
    soon(node.close()).await.unwrap();
    let node = reopened(on_disk(folder.path())).await;
    let shopping = node.open_document(space, doc).await.unwrap();
    assert_eq!(shopping.get::<u64>("/milk").await.unwrap(), 3);
    assert!(node.check().await.unwrap().is_sound());
    soon(node.close()).await.unwrap();
}
