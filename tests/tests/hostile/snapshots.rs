//! Snapshots that are not what their tips say, or cost more than they may.

use commonhold_engine::document::{ObjId, View};
use commonhold_sync::chain::{Opening, Tip};
use commonhold_sync::message::{Covered, Data, Have, Message, SnapshotPart};
use commonhold_sync::peer::Event;

use super::forge::document_bomb;
use super::harness::*;

/// A document in which the liar's chain has several entries, as the liar would honestly serve it.
struct Served {
    stage: Stage,
    forger: Forger,
    view: View,
    chains: Vec<Covered>,
}

fn served() -> Served {
    let stage = Stage::new();
    let mut forger = stage.forger();
    let mut view = view_of(&stage.base);
    view.set_chain(chain_author(&forger.opening, &stage.world.space, &stage.doc)).unwrap();
    let mut entries = Vec::new();
    for n in 0..5 {
        view.edit(|edit| edit.put(&ObjId::ROOT, "s", n)).unwrap();
        entries.extend(view.flush().unwrap().into_iter().map(|entry| entry.bytes));
    }
    let segment = forger.seal(entries);
    let first = stage.world.segments(0, stage.doc);
    let of = |opening: &Opening, tip: &Tip| Covered { opening: opening.clone(), tip: tip.clone() };
    let chains = vec![of(&first[0].opening, &first[0].tip), of(&segment.opening, &segment.tip)];
    Served { stage, forger, view, chains }
}

impl Served {
    /// Makes the victim want the document, as an honest holder of more would.
    fn offer(&mut self) {
        let doc = self.stage.doc;
        let mut clock = self.stage.world.clock(0, doc);
        clock.insert(self.forger.chain(), 5, self.forger.frontier.head());
        let offer = Data { haves: vec![Have { doc, clock }], ..empty(self.stage.liar.theirs, false) };
        self.stage.liar.send(&mut self.stage.world, &Message::Data(offer));
        assert!(self.stage.liar.messages.iter().any(|m| matches!(m, Message::Want(_))));
    }

    fn part(&self, bytes: Vec<u8>) -> SnapshotPart {
        SnapshotPart {
            space: self.stage.liar.theirs,
            doc: self.stage.doc,
            offset: 0,
            total: bytes.len() as u64,
            bytes: bytes.into(),
            chains: self.chains.clone(),
        }
    }

    fn send(&mut self, part: SnapshotPart) {
        self.stage.liar.send(&mut self.stage.world, &Message::SnapshotPart(part));
    }

    fn refused(mut self, code: &str, bytes: Vec<u8>) {
        self.offer();
        let part = self.part(bytes);
        self.send(part);
        println!("row: {code} {:?}", self.stage.world.hosts[0].ended.get(&self.stage.liar.conn).map(|r| &r.text));
        assert_eq!(self.stage.world.ended(&self.stage.liar), Some(code));
        self.goes_on();
    }

    fn goes_on(mut self) {
        // While the liar sends what the victim lacks, the space is not named to others.
        self.stage.world.settle();
        let mut other = self.stage.world.intrude(0, &key(68));
        let honest = self.stage.honest.clone();
        other.push(&mut self.stage.world, vec![honest]);
        self.stage.all_is_well();
    }
}

#[test]
fn a_snapshot_whose_tips_cover_it_is_taken() {
    let mut served = served();
    served.offer();
    let part = served.part(served.view.to_snapshot().unwrap());
    served.send(part);
    assert_eq!(served.stage.world.ended(&served.stage.liar), None);
    assert_eq!(served.stage.world.events(0, |e| matches!(e, Event::Snapshot { .. })), 1);
    let clock = served.stage.world.clock(0, served.stage.doc);
    assert_eq!(clock.length(&served.forger.chain()), 5);
}

#[test]
fn a_snapshot_with_one_change_missing_is_refused() {
    let mut served = served();
    let mut less = served.view.entries_since(&[]);
    less.pop();
    let packed = view_of(&less).to_snapshot().unwrap();
    served.refused("S1.snapshot", packed);
}

#[test]
fn a_snapshot_with_one_change_more_is_refused() {
    let mut served = served();
    served.view.edit(|edit| edit.put(&ObjId::ROOT, "s", 9)).unwrap();
    served.view.flush().unwrap();
    let packed = served.view.to_snapshot().unwrap();
    served.refused("S1.snapshot", packed);
}

#[test]
fn a_snapshot_with_a_chain_that_no_tip_signs_is_refused() {
    let mut served = served();
    served.chains.pop();
    let packed = served.view.to_snapshot().unwrap();
    served.refused("S1.snapshot", packed);
}

#[test]
fn a_snapshot_under_a_tip_of_another_length_or_key_is_refused() {
    for spoil in [0, 1, 2] {
        let mut served = served();
        match spoil {
            0 => served.chains[1].tip.n = 4,
            1 => served.chains[1].tip.signature[3] ^= 1,
            _ => served.chains[1].opening.device = device(&key(1)),
        }
        let packed = served.view.to_snapshot().unwrap();
        served.refused("S1.snapshot", packed);
    }
}

#[test]
fn a_snapshot_that_shows_another_history_is_not_taken_and_not_held_against_its_deliverer() {
    let mut served = served();
    let (space, doc) = (served.stage.world.space, served.stage.doc);
    // The liar's own chain, first shown as entries, then otherwise in the snapshot.
    let mut other = served.stage.forger();
    let segment = other.seal(vec![bytes_of(other.put(&served.stage.base, "t", 1))]);
    served.stage.liar.push(&mut served.stage.world, vec![segment]);
    assert!(served.stage.world.clock(0, doc).length(&served.forger.opening.chain(&space, &doc)) > 0);
    let before = served.stage.world.clock(0, doc);
    served.offer();
    let part = served.part(served.view.to_snapshot().unwrap());
    served.send(part);
    assert_eq!(served.stage.world.ended(&served.stage.liar), None);
    assert!(served.stage.world.notices(0).contains(&"snapshot.not-taken"));
    assert_eq!(served.stage.world.clock(0, doc), before);
    served.goes_on();
}

#[test]
fn garbage_in_place_of_a_snapshot_is_refused() {
    for bytes in [vec![], vec![0], b"CHsn".to_vec(), vec![7; 5_000]] {
        if bytes.is_empty() {
            continue;
        }
        served().refused("S1.snapshot", bytes);
    }
    let mut served = served();
    let mut packed = served.view.to_snapshot().unwrap();
    let at = packed.len() - 5;
    packed[at] ^= 1;
    served.view = View::new();
    served.refused("S1.snapshot", packed);
}

#[test]
fn a_snapshot_bomb_is_refused_before_it_is_loaded() {
    served().refused("S1.snapshot", document_bomb(1 << 25));
}

#[test]
fn a_snapshot_over_the_limit_or_longer_than_it_said_is_refused() {
    let mut s = served();
    s.offer();
    let mut part = s.part(vec![1, 2, 3]);
    part.total = (64 << 20) + 1;
    s.send(part);
    assert_eq!(s.stage.world.ended(&s.stage.liar), Some("S1.snapshot"));
    s.goes_on();
    let mut s = served();
    s.offer();
    let mut part = s.part(vec![1, 2, 3]);
    part.total = 2;
    s.send(part);
    assert_eq!(s.stage.world.ended(&s.stage.liar), Some("P.order"));
    s.goes_on();
    let mut s = served();
    s.offer();
    let mut part = s.part(vec![1, 2, 3]);
    part.offset = 5;
    s.send(part);
    assert_eq!(s.stage.world.ended(&s.stage.liar), Some("P.order"));
    println!("row: S1.snapshot, P.order");
    s.goes_on();
}

#[test]
fn a_snapshot_that_nobody_asked_for_is_refused_unread() {
    let mut served = served();
    let part = served.part(served.view.to_snapshot().unwrap());
    served.send(part);
    println!("row: dropped");
    assert_eq!(served.stage.world.ended(&served.stage.liar), None, "it may have been asked for and come late");
    assert_eq!(served.stage.world.hosts[0].checks, 0);
    served.goes_on();
}

#[test]
fn one_answer_is_checked_once_however_often_it_comes() {
    let mut served = served();
    served.stage.world.hosts[0].engine_is_slow = true;
    served.offer();
    let part = served.part(served.view.to_snapshot().unwrap());
    (0..100).for_each(|_| served.send(part.clone()));
    assert_eq!(served.stage.world.hosts[0].checks, 1);
    served.goes_on();
}
