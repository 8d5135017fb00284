//! A small world of peers, some of whom write several histories under one chain, drawn from a seed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::super::peers::objects;
use super::*;

/// splitmix64: one seed tells a whole case.
#[derive(Debug, Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        (1..items.len()).for_each(|at| items.swap(at, self.below(at + 1)));
    }
}

/// Number of cases of a random test.
pub(super) fn cases(default: u64) -> u64 {
    std::env::var("COMMONHOLD_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) bytes: Vec<u8>,
    chain: [u8; 16],
    seq: u64,
    /// Itself and all below it, as positions in the pool.
    past: BTreeSet<usize>,
}

/// Who holds what. One that lies is several of these, which share a chain.
pub(super) struct Peer {
    pub(super) view: View,
    chain: [u8; 16],
    holds: BTreeSet<usize>,
    lies: bool,
    /// What patches make of nothing.
    shown: Json,
    /// Handles of maps, and what each holds under "uid".
    handles: Vec<(ObjId, i64)>,
    /// Cursors in the list "u", and the element that each stands at.
    cursors: Vec<(Cursor, i64)>,
}

pub(in super::super) struct World {
    pub(super) dice: Dice,
    pub(super) pool: Vec<Entry>,
    pub(super) peers: Vec<Peer>,
    liars: Vec<[u8; 16]>,
    pub(super) edits: usize,
    /// Edits made where a fork was shown.
    pub(super) forked_edits: usize,
    uid: i64,
}

fn author_of(actor: [u8; 16]) -> ChainAuthor {
    ChainAuthor { actor, device: [actor[0] ^ 0x55; 32] }
}

impl World {
    pub(in super::super) fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let mut names: Vec<u8> = (1..=8).collect();
        dice.shuffle(&mut names);
        let liars = 2 + dice.below(2);
        let honest = 2 + dice.below(4);
        let name = |n: u8| [[n; 8], [7; 8]].concat().try_into().unwrap();
        let liars: Vec<[u8; 16]> = names.drain(..liars).map(name).collect();
        let mut world = World { dice, pool: Vec::new(), peers: Vec::new(), liars, edits: 0, forked_edits: 0, uid: 0 };
        names.truncate(honest);
        names.into_iter().for_each(|n| world.add(name(n), false));
        world.peers[0].view.edit(begin).unwrap();
        world.flush(0);
        let all: BTreeSet<usize> = (0..world.pool.len()).collect();
        (1..world.peers.len()).for_each(|at| world.receive(at, &all));
        world
    }

    fn add(&mut self, chain: [u8; 16], lies: bool) {
        let mut view = View::new();
        view.set_chain(author_of(chain)).unwrap();
        let watching = !lies && !self.dice.one_in(4);
        view.watch(watching);
        let (handles, cursors) = (Vec::new(), Vec::new());
        self.peers.push(Peer { view, chain, holds: BTreeSet::new(), lies, shown: json!({}), handles, cursors });
    }

    /// Whether these entries show two branches of a chain.
    fn forks(&self, entries: &BTreeSet<usize>, chain: [u8; 16]) -> bool {
        let mut seen = BTreeSet::new();
        entries.iter().map(|at| &self.pool[*at]).any(|entry| entry.chain == chain && !seen.insert(entry.seq))
    }

    /// Forks in the whole.
    pub(super) fn forked_chains(&self) -> usize {
        let all = (0..self.pool.len()).collect();
        self.liars.iter().filter(|chain| self.forks(&all, **chain)).count()
    }

    pub(super) fn flush(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        peer.view.commit().unwrap();
        let patches = peer.view.take_local_patches();
        peer.show(&patches);
        for entry in peer.view.flush().unwrap() {
            let wire = change(&entry.bytes);
            assert_eq!(wire.hash().0, entry.id.0);
            assert_eq!(wire.deps().iter().map(|dep| EntryId(dep.0)).collect::<Vec<_>>(), entry.deps);
            commonhold_sync::change::walk(&entry.bytes, &commonhold_sync::limits::Rules::V1).expect("structure");
            let position = self.pool.len();
            let mut past = BTreeSet::from([position]);
            for dep in &entry.deps {
                past.extend(&self.pool.iter().find(|known| known.id == *dep).expect("dependencies are wire ids").past);
            }
            // Two selves of a liar may say the same.
            if let Some(known) = self.pool.iter().position(|known| known.id == entry.id) {
                self.peers[at].holds.insert(known);
                continue;
            }
            self.peers[at].holds.insert(position);
            self.pool.push(Entry { id: entry.id, bytes: entry.bytes, chain: entry.actor, seq: entry.seq, past });
        }
    }

    pub(super) fn receive(&mut self, at: usize, entries: &BTreeSet<usize>) {
        let mut new: Vec<usize> = entries.difference(&self.peers[at].holds).copied().collect();
        self.dice.shuffle(&mut new);
        let batch: Vec<_> = new.iter().map(|n| (self.pool[*n].id, self.pool[*n].bytes.clone())).collect();
        let peer = &mut self.peers[at];
        let out = give(&mut peer.view, &batch);
        assert_eq!((&out.invalid, &out.missing, out.broken, &out.bad_base), (&vec![], &vec![], false, &None));
        // A self of a liar may be about to say what another one said.
        assert!(out.applied == batch.len() || peer.lies);
        assert!(batch.iter().all(|(id, _)| peer.view.contains(id)));
        peer.show(&out.local_patches);
        peer.show(&out.patches);
        peer.holds.extend(new);
        peer.check();
    }

    /// One more self of a liar, who knows an earlier state.
    fn fork(&mut self) {
        let chain = self.liars[self.dice.below(self.liars.len())];
        let mut known = BTreeSet::new();
        if !self.dice.one_in(8) {
            let of_chain: Vec<usize> = (0..self.pool.len()).filter(|at| self.pool[*at].chain == chain).collect();
            let from = match of_chain.is_empty() || self.dice.one_in(4) {
                true => self.dice.below(self.pool.len()),
                false => of_chain[self.dice.below(of_chain.len())],
            };
            known.clone_from(&self.pool[from].past);
        }
        if self.forks(&known, chain) {
            return;
        }
        self.add(chain, true);
        let at = self.peers.len() - 1;
        self.receive(at, &known);
        self.edit(at);
        self.flush(at);
    }

    fn exchange(&mut self, at: usize) {
        let from = self.dice.below(self.pool.len());
        let mut past = self.pool[from].past.clone();
        if self.dice.one_in(3) {
            past = (0..self.pool.len()).collect();
        }
        let peer = &self.peers[at];
        if peer.lies && self.forks(&peer.holds.union(&past).copied().collect(), peer.chain) {
            return;
        }
        self.receive(at, &past);
    }

    pub(super) fn edit(&mut self, at: usize) {
        let (dice, peer) = (&mut self.dice, &mut self.peers[at]);
        self.edits += 1;
        self.forked_edits += usize::from(peer.view.graph.is_forked());
        self.uid += 1;
        let uid = self.uid;
        let mut made = None;
        for _ in 0..1 + dice.below(4) {
            // What does not fit is refused, and leaves no trace.
            let _ = peer.view.edit(|edit| {
                made = random_edit(edit, dice, uid)?.or(made.take());
                Ok::<(), EditError>(())
            });
        }
        if let Some(handle) = made.filter(|_| !peer.lies) {
            peer.handles.push((handle, uid));
        }
        let list = path(&["u"]);
        if !peer.lies && dice.one_in(4) && peer.view.length(&list).is_some_and(|len| len > 0) {
            let index = dice.below(peer.view.length(&list).unwrap());
            let cursor = peer.view.cursor(&list, index).unwrap();
            let value = peer.view.json_at(&[list, vec![index.into()]].concat()).unwrap();
            let text = cursor.to_string();
            assert_eq!(text.parse(), Ok(cursor.clone()));
            peer.cursors.push((cursor, value.as_i64().unwrap()));
        }
    }

    pub(in super::super) fn step(&mut self) {
        let at = self.dice.below(self.peers.len());
        match self.dice.below(20) {
            0..=1 => self.fork(),
            2..=9 => self.exchange(at),
            10..=11 => {
                self.edit(at);
            }
            _ => {
                self.edit(at);
                self.flush(at);
            }
        }
    }

    /// A step of a life where forks are there already: edits, merges, now and then another branch.
    pub(super) fn calm_step(&mut self) {
        let honest = self.peers.iter().filter(|peer| !peer.lies).count();
        let at = self.dice.below(honest);
        match self.dice.below(40) {
            0..=1 => self.fork(),
            2..=9 => self.exchange(at),
            _ => {
                self.edit(at);
                if self.dice.one_in(2) {
                    self.flush(at);
                }
            }
        }
    }

    pub(in super::super) fn flush_all(&mut self) {
        (0..self.peers.len()).for_each(|at| self.flush(at));
    }

    /// A view of all, given in some order and cut into some batches.
    pub(in super::super) fn delivered(&mut self) -> View {
        let mut order: Vec<usize> = (0..self.pool.len()).collect();
        match self.dice.below(3) {
            // Mostly in order, so that late reveals happen under much.
            0 => (0..order.len()).for_each(|at| {
                let other = (at + self.dice.below(4)).min(order.len() - 1);
                order.swap(at, other);
            }),
            _ => self.dice.shuffle(&mut order),
        }
        let mut view = View::new();
        let watching = self.dice.one_in(2);
        view.watch(watching);
        let mut shown = json!({});
        let mut waiting: Vec<(EntryId, Vec<u8>)> = Vec::new();
        let mut rest = &order[..];
        while !rest.is_empty() {
            let most = if self.dice.one_in(3) { rest.len() } else { 6 };
            let (now, later) = rest.split_at(1 + self.dice.below(most.min(rest.len())));
            rest = later;
            waiting.extend(now.iter().map(|at| (self.pool[*at].id, self.pool[*at].bytes.clone())));
            let out = give(&mut view, &waiting);
            assert_eq!((&out.invalid, out.broken), (&vec![], false));
            let missing: BTreeSet<EntryId> = out.missing.into_iter().collect();
            waiting.retain(|(id, _)| missing.contains(id));
            if watching {
                out.patches.iter().for_each(|patch| patch::apply(&mut shown, patch).unwrap());
                assert_eq!(shown, view.to_json());
            }
        }
        assert!(waiting.is_empty());
        view
    }
}

impl Peer {
    fn show(&mut self, patches: &[Patch]) {
        patches.iter().for_each(|patch| {
            patch::apply(&mut self.shown, patch).unwrap_or_else(|e| panic!("{e}: {patch:?} on {}", self.shown));
        });
    }

    /// What an app holds of the view is still good.
    fn check(&mut self) {
        if self.view.watching && !self.view.has_unflushed() {
            assert_eq!(self.shown, self.view.to_json());
        }
        if self.lies {
            return;
        }
        let ids = self.view.ids();
        for (handle, uid) in &self.handles {
            let inner = ids.object(handle).expect("the object is held");
            let found = view::with_doc!(self.view, doc => am::ReadDoc::get_all(doc, &inner, "uid").unwrap());
            assert!(
                found
                    .iter()
                    .any(|(value, _)| matches!(value, am::Value::Scalar(n) if **n == am::ScalarValue::Int(*uid))),
                "{handle:?} is another object"
            );
        }
        let list = self.view.json_at(&path(&["u"])).unwrap_or_default();
        let list: Vec<i64> = list.as_array().into_iter().flatten().filter_map(Json::as_i64).collect();
        for (cursor, value) in &self.cursors {
            let at = self.view.position(cursor).expect("the element is held");
            assert!(at <= list.len());
            if let Some(stands) = list.iter().position(|other| other == value) {
                assert_eq!(at, stands, "{value} in {list:?}");
            }
        }
    }
}

fn begin(edit: &mut Edit<'_>) -> Result<(), EditError> {
    edit.set_json(&[], &json!({"m": {"a": 1}, "l": [1, 2, 3], "t": "some text", "u": []}))?;
    edit.put(&ObjId::ROOT, "c", Scalar::Counter(1))
}

/// Makes some edit; the handle of a map that holds `uid` if one was made.
fn random_edit(edit: &mut Edit<'_>, dice: &mut Dice, uid: i64) -> Result<Option<ObjId>, EditError> {
    if dice.one_in(5) {
        let list = edit.resolve(&path(&["u"]))?;
        let len = edit.len(&list);
        match len > 0 && dice.one_in(3) {
            true => edit.delete(&list, dice.below(len))?,
            false => edit.insert(&list, dice.below(len + 1), uid * 10_000_000 + dice.below(10_000_000) as i64)?,
        }
        return Ok(None);
    }
    let mut all = objects(edit);
    let unique = edit.resolve(&path(&["u"])).ok();
    all.retain(|(obj, _)| Some(obj) != unique.as_ref());
    let (obj, kind) = all[dice.below(all.len())].clone();
    let len = edit.len(&obj);
    let scalar = |dice: &mut Dice| match dice.below(5) {
        0 => Scalar::Counter(dice.below(9) as i64),
        1 => Scalar::Null,
        2 => Scalar::Str(format!("s{}", dice.below(9))),
        _ => Scalar::Int(dice.below(100) as i64),
    };
    let made = [ObjKind::Map, ObjKind::List, ObjKind::Text][dice.below(3)];
    match kind {
        ObjKind::Text => match dice.below(4) {
            0 if len > 0 => {
                let (a, b) = (dice.below(len), dice.below(len));
                let expand = [Expand::None, Expand::Before, Expand::After, Expand::Both][dice.below(4)];
                let name = ["bold", "link"][dice.below(2)];
                let value = if dice.one_in(3) { Scalar::Null } else { Scalar::Int(uid) };
                edit.mark(&obj, a.min(b), a.max(b) + 1, expand, name, value)?;
            }
            _ => {
                let at = dice.below(len + 1);
                let gone = dice.below(3).min(len - at);
                let text: String = (0..dice.below(5)).map(|_| (b'a' + dice.below(26) as u8) as char).collect();
                edit.splice_text(&obj, at, gone, &text)?;
            }
        },
        _ => {
            let prop = match kind {
                ObjKind::List => Prop::Index(dice.below(len + 1)),
                _ if obj == ObjId::ROOT => ["m", "l", "t", "c", "x", "y"][dice.below(6)].into(),
                _ => format!("k{}", dice.below(3)).into(),
            };
            match dice.below(6) {
                0 => edit.increment(&obj, prop, dice.below(9) as i64 - 4)?,
                1 if len > 0 => edit.delete(&obj, prop)?,
                2 => {
                    let obj = match (&prop, dice.one_in(2)) {
                        (Prop::Index(at), true) => edit.insert_object(&obj, *at, made)?,
                        _ => edit.put_object(&obj, prop, made)?,
                    };
                    match made {
                        ObjKind::Map => {
                            edit.put(&obj, "uid", uid)?;
                            return Ok(Some(obj));
                        }
                        ObjKind::Text => edit.splice_text(&obj, 0, 0, "new")?,
                        ObjKind::List => edit.insert(&obj, 0, uid)?,
                    }
                }
                3 => match &prop {
                    Prop::Index(at) => edit.insert(&obj, *at, scalar(dice))?,
                    Prop::Key(_) => edit.put(&obj, prop, scalar(dice))?,
                },
                _ => edit.put(&obj, prop, scalar(dice))?,
            }
        }
    }
    Ok(None)
}

/// Everything that can be told of a view, in words and bytes.
pub(super) fn told(view: &View) -> (Vec<String>, Vec<u8>) {
    let mut facts = vec![view.to_json().to_string(), format!("{:?}", view.heads())];
    let mut paths: Vec<Vec<Prop>> = vec![vec![]];
    while let Some(at) = paths.pop() {
        let inner = match view.json_at(&at) {
            Some(Json::Object(map)) => map.keys().map(|key| Prop::from(key.as_str())).collect(),
            Some(Json::Array(list)) => (0..list.len()).map(Prop::from).collect(),
            _ => Vec::new(),
        };
        facts.push(format!("{at:?} {:?}", view.conflicts(&at)));
        if let Ok(marks) = view.marks(&at) {
            facts.push(format!("{marks:?}"));
        }
        paths.extend(inner.into_iter().map(|prop| [at.clone(), vec![prop]].concat()));
    }
    (facts, canonical_save(view))
}

/// The library's document, made of its changes in an order that depends on nothing else.
fn canonical_save(view: &View) -> Vec<u8> {
    let view::Doc::Idle(doc) = &view.doc else { panic!("something is open") };
    let changes = doc.get_changes(&[]);
    let mut waiting: BTreeMap<am::ChangeHash, am::Change> = changes.into_iter().map(|c| (c.hash(), c)).collect();
    let mut sorted = Vec::new();
    while !waiting.is_empty() {
        let ready = waiting.values().find(|change| !change.deps().iter().any(|dep| waiting.contains_key(dep)));
        let ready = ready.expect("no circles").hash();
        sorted.extend(waiting.remove(&ready));
    }
    let mut again = view::blank();
    again.apply_changes(sorted).unwrap();
    let saved = again.save();
    assert_eq!(am::Automerge::load(&saved).expect("the saved form loads").get_heads(), again.get_heads());
    saved
}
