//! Several peers edit at once, through everything the interface offers.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Set(Json),
    Put(Index, u8, Scalar),
    Make(Index, u8, ObjKind),
    Insert(Index, Index, Scalar),
    Delete(Index, Index),
    Increment(Index, u8, i64),
    Splice(Index, Index, u8, String),
    Mark(Index, Index, Index, bool),
    /// The steps fail as a whole at the end.
    Fails(Vec<Step>),
    Commit,
    Flush,
    NewChain,
    /// Receives some of what others made.
    Receive(Index, Index),
}

fn scalar() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        Just(Scalar::Null),
        any::<bool>().prop_map(Scalar::Bool),
        (-3i64..3).prop_map(Scalar::Int),
        Just(Scalar::Uint(u64::MAX)),
        (-1000i32..1000).prop_map(|n| Scalar::F64(f64::from(n) / 8.0)),
        "[a-z🙂]{0,3}".prop_map(Scalar::Str),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(Scalar::Bytes),
        (0i64..9).prop_map(Scalar::Timestamp),
        (0i64..9).prop_map(Scalar::Counter),
        (0i64..9).prop_map(Scalar::Counter),
    ]
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        (0..4).prop_map(Json::from),
        "[ab ]{0,6}".prop_map(Json::from)
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[abc]", inner, 0..4).prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

fn edit_step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(ObjKind::Map), Just(ObjKind::List), Just(ObjKind::Text), Just(ObjKind::Text)];
    let at = any::<Index>;
    prop_oneof![
        1 => json().prop_map(Step::Set),
        3 => (at(), 0u8..4, scalar()).prop_map(|(o, k, v)| Step::Put(o, k, v)),
        3 => (at(), 0u8..4, kind).prop_map(|(o, k, v)| Step::Make(o, k, v)),
        3 => (at(), at(), scalar()).prop_map(|(o, k, v)| Step::Insert(o, k, v)),
        3 => (at(), at()).prop_map(|(o, k)| Step::Delete(o, k)),
        3 => (at(), 0u8..4, -3i64..4).prop_map(|(o, k, v)| Step::Increment(o, k, v)),
        5 => (at(), at(), 0u8..4, "[a-zé🙂]{0,4}").prop_map(|(o, p, d, t)| Step::Splice(o, p, d, t)),
        2 => (at(), at(), at(), any::<bool>()).prop_map(|(o, a, b, on)| Step::Mark(o, a, b, on)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => edit_step(),
        1 => prop::collection::vec(edit_step(), 1..4).prop_map(Step::Fails),
        2 => Just(Step::Commit),
        3 => Just(Step::Flush),
        1 => Just(Step::NewChain),
        4 => (any::<Index>(), any::<Index>()).prop_map(|(from, n)| Step::Receive(from, n)),
    ]
}

/// All objects that can be reached, in a stable order.
pub(super) fn objects(edit: &Edit<'_>) -> Vec<(ObjId, ObjKind)> {
    let mut found = vec![(ObjId::ROOT, ObjKind::Map)];
    let mut next = 0;
    while next < found.len() {
        let (obj, kind) = found[next].clone();
        let children: Vec<Option<Value>> = match kind {
            ObjKind::Map => edit.keys(&obj).into_iter().map(|key| edit.get(&obj, key)).collect(),
            ObjKind::List => (0..edit.len(&obj)).map(|n| edit.get(&obj, n)).collect(),
            ObjKind::Text => vec![],
        };
        for child in children.into_iter().flatten() {
            if let Value::Object(kind, id) = child {
                found.push((id, kind));
            }
        }
        next += 1;
    }
    found
}

/// Does the step where it fits; where it does not, the interface has to say so.
fn perform(edit: &mut Edit<'_>, step: &Step) -> Result<(), EditError> {
    let all = objects(edit);
    let (Step::Put(o, ..)
    | Step::Make(o, ..)
    | Step::Insert(o, ..)
    | Step::Delete(o, ..)
    | Step::Increment(o, ..)
    | Step::Splice(o, ..)
    | Step::Mark(o, ..)) = step
    else {
        if let Step::Set(value) = step {
            edit.set(&path(&["set"]), value)?;
            assert_eq!(edit.json(&ObjId::ROOT, "set"), *value);
        }
        return Ok(());
    };
    let (obj, kind) = &all[o.index(all.len())];
    let len = edit.len(obj);
    let prop = |n: u8| match kind {
        ObjKind::Map => Prop::Key(format!("k{n}")),
        _ => Prop::Index(n as usize),
    };
    match step {
        Step::Put(_, n, value) => edit.put(obj, prop(*n), value.clone()),
        Step::Make(_, n, kind) => edit.put_object(obj, prop(*n), *kind).map(drop),
        Step::Insert(_, at, value) => match at.index(4) {
            3 => edit.insert_many(obj, at.index(len + 1), vec![value.clone(); 3]),
            _ => edit.insert(obj, at.index(len + 1), value.clone()),
        },
        Step::Delete(_, n) => match kind {
            ObjKind::Map => match edit.keys(obj) {
                keys if keys.is_empty() => Ok(()),
                keys => edit.delete(obj, keys[n.index(keys.len())].as_str()),
            },
            _ => edit.delete(obj, n.index(len + 1)),
        },
        Step::Increment(_, n, by) => edit.increment(obj, prop(*n), *by),
        Step::Splice(_, at, delete, text) => edit.splice_text(obj, at.index(len + 1), *delete as usize, text),
        Step::Mark(_, a, b, on) => {
            let (a, b) = (a.index(len + 1), b.index(len + 1));
            let (start, end) = (a.min(b), a.max(b));
            let expand = [Expand::None, Expand::Before, Expand::After, Expand::Both][(a + 3 * b) % 4];
            if *on {
                edit.mark(obj, start, end, expand, "bold", true)
            } else {
                edit.unmark(obj, start, end, expand, "bold")
            }
        }
        _ => Ok(()),
    }
}

struct Peer {
    view: View,
    /// What patches make of nothing.
    shown: Json,
    chain: u8,
}

impl Peer {
    fn show(&mut self, patches: &[Patch]) {
        for patch in patches {
            let wire = serde_json::to_string(patch).unwrap();
            let patch: Patch = serde_json::from_str(&wire).unwrap();
            patch::apply(&mut self.shown, &patch).unwrap_or_else(|e| panic!("{e}: {patch:?} on {}", self.shown));
        }
    }

    fn receive(&mut self, entries: &[(EntryId, Vec<u8>)]) -> Applied {
        let out = give(&mut self.view, entries);
        self.show(&out.local_patches);
        self.show(&out.patches);
        assert_eq!((&out.invalid, out.broken, &out.bad_base), (&vec![], false, &None));
        assert_eq!(self.shown, self.view.to_json(), "after {:?}", out.patches);
        out
    }

    fn settle(&mut self) {
        self.view.commit().unwrap();
        let patches = self.view.take_local_patches();
        self.show(&patches);
        assert_eq!(self.shown, self.view.to_json(), "after {patches:?}");
    }

    fn step(&mut self, step: &Step, pool: &mut Vec<(EntryId, Vec<u8>)>) {
        match step {
            Step::Commit => self.settle(),
            Step::Flush => {
                self.settle();
                pool.extend(flushed(&mut self.view));
            }
            Step::NewChain => {
                self.chain += 10;
                self.view.set_chain(author(self.chain)).unwrap();
            }
            Step::Receive(from, n) if !pool.is_empty() => {
                let from = from.index(pool.len());
                let some = pool[from..from + n.index(pool.len() - from) + 1].to_vec();
                // In reverse, so that order does not matter.
                let some: Vec<_> = some.into_iter().rev().collect();
                self.receive(&some);
            }
            Step::Receive(..) => {}
            Step::Fails(steps) => {
                let before = self.view.to_json();
                let failed: Result<(), EditError> = self.view.edit(|edit| {
                    steps.iter().for_each(|step| drop(perform(edit, step)));
                    Err(EditError::Full)
                });
                assert!(failed.is_err());
                assert_eq!(self.view.to_json(), before);
            }
            edit => drop(self.view.edit(|e| perform(e, edit))),
        }
    }
}

proptest! {
    /// Also: patches rebuild the document, failed closures leave no trace, snapshots load, own changes pass the rules.
    #[test]
    fn whatever_peers_do_they_converge(
        steps in prop::collection::vec((0usize..3, step()), 1..60), order in any::<Index>()
    ) {
        let mut peers: Vec<Peer> = (1..4)
            .map(|n| Peer { view: view(n), shown: json!({}), chain: n })
            .collect();
        peers.iter_mut().for_each(|peer| peer.view.watch(true));
        let mut pool = Vec::new();
        for (peer, step) in &steps {
            peers[*peer].step(step, &mut pool);
        }
        peers.iter_mut().for_each(|peer| peer.step(&Step::Flush, &mut pool));
        for peer in &mut peers {
            let turn = order.index(pool.len() + 1);
            pool.rotate_left(turn);
            let out = peer.receive(&pool);
            prop_assert_eq!(out.missing, vec![]);
        }
        for peer in &peers[1..] {
            prop_assert_eq!(peer.view.to_json(), peers[0].view.to_json());
            prop_assert_eq!(peer.view.heads(), peers[0].view.heads());
        }
        lives(&mut peers[0].view);
    }
}
