//! Four real processes over loopback, an origin and three peers, all edited all the time. They are killed with SIGKILL at
//! moments that a seed chooses (`COMMONHOLD_TEST_SEED` replays one), the origin every time.
//!
//! What must hold: whatever a process said is on its disk is there when it is looked at before the process starts again; no
//! device ever signs two histories of a chain; in the end all hold the same, and everything that anybody acknowledged.
//!
//! The file of a killed process is read as a copy and while nobody is connected, since its peers would fill the gap. Writers
//! are tasks of this test at the local sockets of the processes, as the program's own verbs are. Whoever starts dials those
//! that run, so nobody depends on somebody else's wait before the next dial.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{Home, Served, until};
use commonhold_engine::local::LocalClient;
use commonhold_engine::storage::Storage;
use commonhold_engine::store::{Batch, Options, RedbStore, Store, Table};
use commonhold_engine::sync::log::Log;
use commonhold_engine::sync::peer::{Load, Loaded};
use commonhold_engine::{Config, Node, SpaceId};
use rustix::process::Signal;
use serde_json::{Value as Json, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The origin is the first of them.
const SITES: usize = 4;
const ORIGIN: usize = 0;
const KILLS: usize = 50;
const DOCUMENTS: usize = 3;
/// Edits acknowledged between a restart and the next kill, at most.
const EDITS: u64 = 40;

/// An edit: document, writer, number.
type Made = (usize, usize, u64);

/// What was said to be durable, by the site on whose disk it is.
type Durable = [BTreeSet<Made>; SITES];

struct Site {
    home: Home,
    served: Option<Served>,
    address: String,
    peer: String,
    /// Counts the starts, once they are ready.
    up: watch::Sender<u64>,
}

impl Site {
    fn new() -> Site {
        Site { home: Home::new(), served: None, address: String::new(), peer: String::new(), up: watch::Sender::new(0) }
    }

    fn start(&mut self, dial: &[String]) {
        let mut arguments = vec!["serve"];
        dial.iter().for_each(|address| arguments.extend(["--connect", address]));
        let served = self.home.serve(&arguments);
        self.address = served.facts["addresses"][0].as_str().unwrap().to_owned();
        self.peer = served.facts["peer"].as_str().unwrap().to_owned();
        self.served = Some(served);
        self.up.send_modify(|starts| *starts += 1);
    }

    /// Kills it, and waits until it is gone.
    fn kill(&mut self) {
        let served = self.served.take().unwrap();
        served.signal(Signal::KILL);
        quiet(&served.ended().2);
    }

    fn runs(&self) -> bool {
        self.served.is_some()
    }
}

/// Nothing that an honest peer among honest peers may have to say.
#[track_caller]
fn quiet(log: &str) {
    for word in ["panicked", "two histories", "violation", "damaged", "ERROR"] {
        assert!(!log.contains(word), "{log}");
    }
}

/// One request at the local socket; `None`: the process was killed.
async fn ask(client: &mut LocalClient, request: Json) -> Option<Json> {
    let answered: Json = client.call(&json!({"version": 10, "request": request})).await.ok()?;
    match answered.get("Ok") {
        Some(reply) => Some(reply.as_object().map_or(Json::Null, |reply| reply.values().next().unwrap().clone())),
        None => panic!("a request was refused: {answered}"),
    }
}

struct World {
    runtime: Runtime,
    sites: Vec<Site>,
    space: SpaceId,
    invite: String,
    docs: Vec<String>,
    durable: Arc<Mutex<Durable>>,
    edits: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    rng: u64,
}

impl World {
    /// Four processes that hold one space with its documents.
    fn new() -> World {
        let seed =
            std::env::var("COMMONHOLD_TEST_SEED").map_or(std::process::id().into(), |seed| seed.parse().unwrap());
        println!("seed {seed}");
        let mut world = World {
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
            sites: (0..SITES).map(|_| Site::new()).collect(),
            space: SpaceId([0; 32]),
            invite: String::new(),
            docs: Vec::new(),
            durable: Arc::default(),
            edits: Arc::default(),
            stop: Arc::default(),
            rng: seed,
        };
        world.start(ORIGIN);
        world.asks(ORIGIN, json!({"new_space": {"writers": "anyone"}}));
        let invite = world.asks(ORIGIN, json!({"invite": {"space": null}}));
        world.invite = invite["invite"].as_str().unwrap().to_owned();
        world.space = invite["space"].as_str().unwrap().parse().unwrap();
        for n in 0..DOCUMENTS {
            let name = format!("document {n}");
            let new = world.asks(ORIGIN, json!({"new_document": {"space": null, "kind": "", "name": name}}));
            world.docs.push(new["id"].as_str().unwrap().to_owned());
            for writer in 0..SITES {
                world.asks(ORIGIN, set(&world.docs[n], &format!("w{writer}"), json!({})));
            }
        }
        for peer in 1..SITES {
            world.start(peer);
            let joined = world.asks(peer, json!({"join": {"invite": world.invite, "wait_ms": 30_000}}));
            assert_eq!(joined["level"], true, "{joined}");
        }
        world.converge();
        world
    }

    /// SplitMix64.
    fn below(&mut self, end: u64) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.rng ^ (self.rng >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    /// Starts a site, which dials the origin, or everybody if it is the origin.
    fn start(&mut self, site: usize) {
        let dial = (0..SITES).filter(|other| *other != site && (site == ORIGIN || *other == ORIGIN));
        let running = dial.map(|other| &self.sites[other]).filter(|other| other.runs());
        let dial: Vec<String> = running.map(|other| format!("{}#{}", other.address, other.peer)).collect();
        self.sites[site].start(&dial);
    }

    fn asks(&self, site: usize, request: Json) -> Json {
        let data = self.sites[site].home.data();
        let reply = self.runtime.block_on(async {
            let mut client = LocalClient::connect(&data).await.unwrap().expect("a process serves the store");
            ask(&mut client, request).await
        });
        reply.expect("the process lives")
    }

    /// Sets somebody to write at each of these sites until told to stop.
    fn write(&self, sites: impl IntoIterator<Item = usize>) -> Vec<tokio::task::JoinHandle<()>> {
        self.stop.store(false, Ordering::Release);
        let writer = |site: usize| Writer {
            site,
            data: self.sites[site].home.data(),
            up: self.sites[site].up.subscribe(),
            docs: self.docs.clone(),
            origin: self.sites[ORIGIN].peer.clone(),
            durable: self.durable.clone(),
            edits: self.edits.clone(),
            stop: self.stop.clone(),
        };
        sites.into_iter().map(|site| self.runtime.spawn(writer(site).run())).collect()
    }

    /// Waits for so many more acknowledged edits.
    fn edited(&self, count: usize, writers: &[tokio::task::JoinHandle<()>]) {
        let goal = self.edits.load(Ordering::Acquire) + count;
        until("edits", || {
            assert!(!writers.iter().any(|writer| writer.is_finished()), "a writer gave up");
            (self.edits.load(Ordering::Acquire) >= goal).then_some(())
        });
    }

    fn rest(&self, writers: Vec<tokio::task::JoinHandle<()>>) {
        self.stop.store(true, Ordering::Release);
        // Whoever waits for a process that is not started again looks up.
        self.sites.iter().for_each(|site| site.up.send_modify(|_| ()));
        self.runtime.block_on(async {
            for writer in writers {
                writer.await.unwrap();
            }
        });
    }

    /// Looks at the store of a site that does not run, before anybody can mend it.
    fn inspect(&self, site: usize) {
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join("store.redb");
        fs::copy(self.sites[site].home.data().join("store.redb"), &path).unwrap();
        let store: Arc<dyn Store> = Arc::new(RedbStore::open(&path, &Options::default()).unwrap());
        self.no_forks(site, &Storage::new(store.clone()));
        // A node dials whoever invited it; this one is to see what is here and nothing else.
        let mut invites = Batch::new();
        invites.delete_range(Table::Meta, "invite:", Some(b"invite;".to_vec()));
        store.commit(invites).unwrap();
        let open = Arc::new(move || Ok(store.clone()));
        let held = self.runtime.block_on(async {
            let node = Node::open(Config { store: Some(open), ..Config::default() }).await.unwrap();
            let mut held = Vec::new();
            for doc in &self.docs {
                let document = node.open_document(self.space, doc.parse().unwrap()).await.unwrap();
                held.push(document.json().await.unwrap());
            }
            held
        });
        self.nothing_lost(site, &held);
    }

    fn no_forks(&self, site: usize, storage: &Storage) {
        let docs = self.docs.iter().map(|doc| doc.parse().unwrap()).collect();
        let Loaded::Logs(logs) = storage.load(&Load::Logs { space: self.space, docs }).unwrap().value else {
            panic!("logs were asked for")
        };
        for (doc, found) in logs {
            let (image, segments) = found.expect("the document is there");
            let (log, bad) = Log::load(self.space, doc, image, &segments);
            assert_eq!(bad, 0, "segments do not fit at site {site}");
            for line in log.lines().all() {
                assert_eq!(line.branches.len(), 1, "a device signed two histories: {:?}", line.opening);
            }
        }
    }

    #[track_caller]
    fn nothing_lost(&self, site: usize, held: &[Json]) {
        let durable = self.durable.lock().unwrap();
        for (doc, writer, n) in &durable[site] {
            let there = &held[*doc][format!("w{writer}")][n.to_string()];
            assert_eq!(there, n, "site {site} lost edit {n} of writer {writer} in document {doc}");
        }
    }

    /// Waits until all show the same versions of everything.
    fn converge(&self) {
        let mut last = Vec::new();
        let versions = |site| -> Vec<Json> {
            let heads = |doc: &String| {
                let mut heads = self.asks(site, json!({"get": {"doc": doc_ref(doc), "path": ""}}))["heads"].clone();
                heads.as_array_mut().unwrap().sort_by_key(|head| head.to_string());
                heads
            };
            self.docs.iter().map(heads).collect()
        };
        let begun = std::time::Instant::now();
        loop {
            let now: Vec<_> = (0..SITES).map(versions).collect();
            if now.iter().all(|version| *version == now[0]) {
                return;
            }
            if now != last {
                last = now;
            }
            assert!(begun.elapsed() < common::PATIENCE, "they do not agree: {last:#?}");
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }

    /// All processes end as they should, and each disk holds what anybody ever acknowledged.
    fn end(mut self) {
        let everything: BTreeSet<Made> = self.durable.lock().unwrap().iter().flatten().copied().collect();
        *self.durable.lock().unwrap() = std::array::from_fn(|_| everything.clone());
        for site in &mut self.sites {
            let (status, _, log) = site.served.take().unwrap().stop();
            assert!(status.success(), "{log}");
            quiet(&log);
        }
        (0..SITES).for_each(|site| self.inspect(site));
    }
}

fn doc_ref(doc: &str) -> Json {
    json!({"space": null, "doc": doc})
}

fn set(doc: &str, path: &str, value: Json) -> Json {
    json!({"set": {"doc": doc_ref(doc), "path": path, "value": value}})
}

/// Somebody who edits at one site.
struct Writer {
    site: usize,
    data: PathBuf,
    up: watch::Receiver<u64>,
    docs: Vec<String>,
    /// Peer id.
    origin: String,
    durable: Arc<Mutex<Durable>>,
    edits: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    async fn run(mut self) {
        // Numbers go on where an earlier writer of this site stopped, whether or not its last edits were acknowledged.
        let mut next = 1 + self.edits.load(Ordering::Acquire) as u64 * 1_000;
        while !self.stop.load(Ordering::Acquire) {
            self.up.borrow_and_update();
            if let Ok(Some(client)) = LocalClient::connect(&self.data).await {
                self.write(client, &mut next).await;
            }
            // Until the next start, unless that has been already.
            if !self.stop.load(Ordering::Acquire) {
                self.up.changed().await.unwrap();
            }
        }
    }

    /// Writes until the process is killed.
    async fn write(&self, mut client: LocalClient, next: &mut u64) {
        // What the origin does not have yet.
        let mut waiting: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        while !self.stop.load(Ordering::Acquire) {
            let (doc, n) = (*next as usize % DOCUMENTS, *next);
            *next += 1;
            let edit = set(&self.docs[doc], &format!("w{}/{n}", self.site), json!(n));
            if ask(&mut client, edit).await.is_none() {
                return;
            }
            self.durable.lock().unwrap()[self.site].insert((doc, self.site, n));
            self.edits.fetch_add(1, Ordering::AcqRel);
            waiting.entry(doc).or_default().push(n);
            // Every document in turn, some edits after its last.
            let doc = (doc + 1) % DOCUMENTS;
            let Some(status) = ask(&mut client, json!({"status": doc_ref(&self.docs[doc])})).await else { return };
            let acknowledged = status["acknowledged"].as_array().unwrap();
            if self.site != ORIGIN && acknowledged.iter().any(|peer| peer == self.origin.as_str()) {
                let safe = waiting.remove(&doc).unwrap_or_default();
                self.durable.lock().unwrap()[ORIGIN].extend(safe.into_iter().map(|n| (doc, self.site, n)));
            }
        }
    }
}

#[test]
fn an_origin_that_is_killed_fifty_times_loses_nothing_that_it_acknowledged() {
    let mut world = World::new();
    let writers = world.write(0..SITES);
    let mut peers_killed = 0;
    for _ in 0..KILLS {
        // Some die while they start, or in the middle of making up for what they missed.
        let edits = match world.below(4) {
            0 => 0,
            _ => world.below(EDITS),
        };
        world.edited(edits as usize, &writers);
        let mut killed = vec![ORIGIN];
        if world.below(3) == 0 {
            peers_killed += 1;
            killed.insert(world.below(2) as usize, 1 + world.below(SITES as u64 - 1) as usize);
        }
        killed.iter().for_each(|site| world.sites[*site].kill());
        killed.iter().for_each(|site| world.inspect(*site));
        for site in killed {
            world.start(site);
            assert_eq!(world.asks(site, json!("me"))["opened"], "crashed");
        }
    }
    world.edited(EDITS as usize, &writers);
    world.rest(writers);
    world.converge();
    let at_origin = world.durable.lock().unwrap()[ORIGIN].iter().filter(|(_, writer, _)| *writer != ORIGIN).count();
    let edits = world.edits.load(Ordering::Acquire);
    println!("{edits} edits, {at_origin} of peers acknowledged by the origin, {peers_killed} peers killed");
    assert!(at_origin > 0 && peers_killed > 0);
    world.end();
}

#[test]
fn an_origin_that_lost_its_store_is_filled_again_by_its_peers() {
    let mut world = World::new();
    // First it goes on as the same device, then as a new one that the peers have never met.
    for folders in [&["data"][..], &["data", "keys"]] {
        let writers = world.write(0..SITES);
        world.edited(2 * EDITS as usize, &writers);
        // What the origin made and nobody else has would be gone, and rightly.
        world.rest(writers);
        world.converge();
        let writers = world.write(1..SITES);
        let edits = world.below(EDITS);
        world.edited(edits as usize, &writers);
        let before = world.asks(ORIGIN, json!("me"));
        world.sites[ORIGIN].kill();
        let remove = |folder: &&str| fs::remove_dir_all(world.sites[ORIGIN].home.path(folder)).unwrap();
        folders.iter().for_each(remove);
        // Its disk is another one now.
        world.durable.lock().unwrap()[ORIGIN].clear();
        world.edited(EDITS as usize, &writers);
        world.start(ORIGIN);
        let now = world.asks(ORIGIN, json!("me"));
        assert_eq!((now["peer"] == before["peer"], &now["opened"]), (folders.len() == 1, &json!("fresh")));
        world.asks(ORIGIN, json!({"join": {"invite": world.invite, "wait_ms": 0}}));
        world.edited(EDITS as usize, &writers);
        world.rest(writers);
        until("the documents", || {
            let there = world.asks(ORIGIN, json!({"documents": {"space": null, "kind": null, "deleted": false}}));
            (there.as_array().unwrap().len() == DOCUMENTS).then_some(())
        });
        world.converge();
    }
    world.end();
}

/// The look at a dead store sees what is missing: or the tests above prove nothing.
#[test]
fn a_store_that_lost_an_edit_is_caught() {
    let mut world = World::new();
    let copy = |path: &Path| fs::read(path.join("store.redb")).unwrap();
    world.sites[1].kill();
    let before = copy(&world.sites[1].home.data());
    world.start(1);
    let writers = world.write([1]);
    world.edited(1, &writers);
    world.rest(writers);
    world.sites[1].kill();
    world.inspect(1);
    fs::write(world.sites[1].home.data().join("store.redb"), before).unwrap();
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.inspect(1)));
    let said = *looked.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("site 1 lost edit"), "{said}");
}
