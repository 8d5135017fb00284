//! Blobs between peers that keep them in maps.

use super::*;
use crate::blobs::pieces::Pieces;
use crate::blobs::tree::{Node, Tree, leaf};
use crate::blobs::{ASKED_PIECES_MAX, BLOBS_ASKED_MAX, Blob, FETCHES_MAX, PIECE_BYTES};
use crate::message::{BlobHas, BlobPiece, BlobWant, Message, roles};

type Key = (SpaceId, Blob);

/// Blobs in memory, whole or in part.
#[derive(Default)]
pub(super) struct ModelBlobs {
    pub(super) kept: BTreeMap<Key, (Tree, BTreeMap<u32, Vec<u8>>)>,
    finished: BTreeSet<Key>,
    refused: BTreeSet<Key>,
    /// Pieces read, which is what leaves.
    reads: usize,
    /// A bit of each piece is another.
    lies: bool,
}

fn pieces_of(kept: &BTreeMap<u32, Vec<u8>>, blob: &Blob) -> Pieces {
    let mut pieces = Pieces::none(blob.pieces().unwrap());
    kept.keys().for_each(|piece| _ = pieces.insert(*piece));
    pieces
}

impl ModelBlobs {
    pub(super) fn put(&mut self, space: SpaceId, bytes: &[u8]) -> Blob {
        let blob = Blob::of(bytes);
        let cut: BTreeMap<u32, Vec<u8>> =
            bytes.chunks(PIECE_BYTES).map(<[u8]>::to_vec).enumerate().map(|(n, b)| (n as u32, b)).collect();
        let leaves = cut.iter().map(|(piece, bytes)| leaf(*piece, bytes)).collect();
        self.kept.insert((space, blob), (Tree::from_leaves(blob, leaves).unwrap(), cut));
        blob
    }

    pub(super) fn answer(&mut self, output: BlobOutput) -> Option<Input> {
        let input = match output {
            BlobOutput::Find { space, blob } => {
                let pieces = self.kept.get(&(space, blob)).map(|(_, kept)| pieces_of(kept, &blob));
                BlobInput::Has { space, blob, pieces }
            }
            BlobOutput::Read { op, space, blob, piece } => {
                BlobInput::Read { op, piece: self.read(&(space, blob), piece) }
            }
            BlobOutput::Store { space, blob, piece, bytes, proof } => {
                let (tree, kept) =
                    self.kept.entry((space, blob)).or_insert_with(|| (Tree::unknown(blob).unwrap(), BTreeMap::new()));
                assert!(tree.learn(piece, &bytes, &proof));
                assert!(kept.insert(piece, bytes).is_none(), "stored twice");
                BlobInput::Stored { space, blob, piece }
            }
            BlobOutput::Finish { space, blob } => {
                self.finished.insert((space, blob));
                BlobInput::Has { space, blob, pieces: blob.pieces().map(Pieces::all) }
            }
            BlobOutput::Refused { space, blob } => {
                self.refused.insert((space, blob));
                return None;
            }
            BlobOutput::Progress { .. } => return None,
        };
        Some(Input::Blob(input))
    }

    fn read(&mut self, key: &Key, piece: u32) -> Option<(Vec<u8>, Vec<Node>)> {
        let (tree, kept) = self.kept.get(key)?;
        let mut bytes = kept.get(&piece)?.clone();
        self.reads += 1;
        bytes[0] ^= u8::from(self.lies);
        Some((bytes, tree.proof(piece)?))
    }
}

pub(super) fn content(seed: u8, pieces: usize) -> Vec<u8> {
    let mut out = vec![0; pieces * PIECE_BYTES - 9];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

impl World {
    /// A space that all hold, each connected with each.
    fn meshed(count: u8) -> (World, SpaceId) {
        let mut world = World::new(count);
        let (space, _) = world.space(0, Writers::Anyone);
        for host in 1..usize::from(count) {
            world.join(host, space);
            (0..host).for_each(|to| _ = world.connect(host, to));
        }
        world.settle();
        (world, space)
    }

    pub(super) fn fetch(&mut self, host: usize, space: SpaceId, blob: Blob) {
        let have = self.hosts[host].blobs.kept.get(&(space, blob)).map(|(_, kept)| pieces_of(kept, &blob));
        let have = have.unwrap_or_else(|| Pieces::none(blob.pieces().unwrap()));
        self.input(host, Input::Blob(BlobInput::Fetch { space, blob, have }));
    }

    /// So many flights of 5 ms each.
    pub(super) fn fly(&mut self, flights: usize) {
        for _ in 0..flights {
            self.now += 5;
            for (to, conn, bytes) in core::mem::take(&mut self.wires) {
                self.input(to, Input::Frame { conn, bytes });
            }
            for host in 0..self.hosts.len() {
                if self.hosts[host].peer.poll_timeout().is_some_and(|due| due <= Now(self.now)) {
                    self.input(host, Input::Tick);
                }
            }
        }
    }

    fn has(&self, host: usize, space: SpaceId, bytes: &[u8]) -> bool {
        let key = (space, Blob::of(bytes));
        let kept = self.hosts[host].blobs.kept.get(&key);
        let whole = kept.map(|(_, kept)| kept.values().map(Vec::as_slice).collect::<Vec<&[u8]>>().concat());
        self.hosts[host].blobs.finished.contains(&key) && whole.as_deref() == Some(bytes)
    }

    /// A message as a liar would send it.
    pub(super) fn send_raw(&mut self, from: usize, conn: ConnId, message: &Message) {
        self.hosts[from].peer.connections.get_mut(&conn).unwrap().send(message);
        self.input(from, Input::Tick);
    }
}

#[test]
fn a_swarm_takes_little_more_than_one_copy_from_the_origin() {
    const PEERS: u8 = 8;
    let (mut world, space) = World::meshed(PEERS + 1);
    let bytes = content(1, 24);
    let blob = world.hosts[0].blobs.put(space, &bytes);
    (1..=usize::from(PEERS)).for_each(|host| world.fetch(host, space, blob));
    let all = |world: &World| (1..=usize::from(PEERS)).all(|host| world.hosts[host].blobs.finished.len() == 1);
    for _ in 0..100 {
        if all(&world) {
            break;
        }
        world.fly(10);
    }
    for host in 1..=usize::from(PEERS) {
        assert!(world.has(host, space, &bytes), "host {host}");
    }
    let copies = world.hosts[0].blobs.reads as f64 / 24.0;
    assert!(copies <= 1.5, "the origin sent {copies} copies");
    world.assert_no_complaints();
    assert!(world.hosts.iter().all(|host| host.peer.blobs.is_idle()), "nothing is left of it");
}

#[test]
fn peers_that_know_only_the_origin_do_not_wait_for_one_another() {
    let mut world = World::new(4);
    let (space, _) = world.space(0, Writers::Anyone);
    for host in 1..4 {
        world.join(host, space);
        world.connect(host, 0);
    }
    world.settle();
    let bytes = content(1, 20);
    let blob = world.hosts[0].blobs.put(space, &bytes);
    (1..4).for_each(|host| world.fetch(host, space, blob));
    // A second, less than a piece that waits for somebody else to have it would take.
    world.fly(200);
    assert!((1..4).all(|host| world.has(host, space, &bytes)));
}

#[test]
fn a_liar_is_dropped_and_its_pieces_are_had_of_the_others() {
    let (mut world, space) = World::meshed(4);
    let bytes = content(2, 30);
    let blob = world.hosts[0].blobs.put(space, &bytes);
    for host in [1, 2] {
        world.hosts[host].blobs.put(space, &bytes);
    }
    world.hosts[1].blobs.lies = true;
    world.fetch(3, space, blob);
    world.fly(400);
    assert!(world.has(3, space, &bytes));
    let liar = world.hosts[1].peer.device();
    assert_eq!(world.events(1, |e| matches!(e, Event::Notice { code, .. } if code == "T4.piece")), 1);
    assert_eq!(world.events(3, |e| matches!(e, Event::Closed { peer: Some(peer), .. } if *peer == liar)), 1);
}

#[test]
fn a_fetch_goes_on_from_what_is_there_and_serves_it_meanwhile() {
    let (mut world, space) = World::meshed(3);
    let bytes = content(3, 12);
    let blob = world.hosts[0].blobs.put(space, &bytes);
    let (tree, mut some) = world.hosts[0].blobs.kept[&(space, blob)].clone();
    some.retain(|piece, _| piece % 2 == 0);
    world.hosts[1].blobs.kept.insert((space, blob), (tree, some));
    world.hosts[0].blobs.kept.get_mut(&(space, blob)).unwrap().1.retain(|piece, _| piece % 2 == 1);
    world.fetch(1, space, blob);
    world.fetch(2, space, blob);
    world.fly(600);
    assert!(world.has(1, space, &bytes) && world.has(2, space, &bytes));
    world.fetch(2, space, blob);
    assert!(world.has(2, space, &bytes), "what is whole is told at once");
}

#[test]
fn what_is_cancelled_is_not_sent_any_more() {
    let (mut world, space) = World::meshed(2);
    let blob = world.hosts[0].blobs.put(space, &content(4, 300));
    world.fetch(1, space, blob);
    world.fly(3);
    world.input(1, Input::Blob(BlobInput::Cancel { space, blob }));
    world.fly(100);
    assert!(world.hosts[0].blobs.reads < 300 && world.hosts.iter().all(|host| host.peer.blobs.is_idle()));
    world.assert_no_complaints();
}

#[test]
fn a_leaf_serves_nobody_and_a_stranger_to_the_space_gets_nothing() {
    let (mut world, space) = World::meshed(2);
    let bytes = content(5, 2);
    (world.hosts[0].peer.roles, world.hosts[0].peer.roles_told) = (roles::LEAF, roles::LEAF);
    let blob = world.hosts[0].blobs.put(space, &bytes);
    world.fetch(1, space, blob);
    world.fly(100);
    assert_eq!(world.hosts[0].blobs.reads, 0);
    // A handle that was never given.
    let conn = *world.links.keys().map(|(_, conn)| conn).next().unwrap();
    let want = BlobWant { space: 9, hash: blob.hash, size: blob.size, pieces: vec![], end: false, patient: false };
    world.send_raw(1, conn, &Message::BlobWant(want));
    world.fly(2);
    assert_eq!(world.events(1, |e| matches!(e, Event::Notice { code, .. } if code == "P.handle")), 1);
}

#[test]
fn nothing_that_is_said_of_blobs_is_without_a_bound() {
    let base = |blob: Blob| BlobWant {
        space: 0,
        hash: blob.hash,
        size: blob.size,
        pieces: vec![],
        end: false,
        patient: false,
    };
    let blob = |n: u64| Blob { size: 70 * PIECE_BYTES as u64 + n, ..Blob::of(b"") };
    let want = |n, pieces: Vec<u32>| Message::BlobWant(BlobWant { pieces, ..base(blob(n)) });
    let full: Vec<u32> = (0..ASKED_PIECES_MAX as u32).collect();
    let unasked =
        BlobPiece { space: 0, hash: blob(0).hash, size: blob(0).size, piece: 0, bytes: None, proof: vec![].into() };
    let cases: [(&str, &str, Vec<Message>); 7] = [
        ("P.list", "blobs", (0..=BLOBS_ASKED_MAX as u64).map(|n| want(n, vec![])).collect()),
        ("P.order", "the same blob", vec![want(0, vec![]), want(0, vec![])]),
        ("P.list", "pieces", vec![want(0, vec![]), want(0, full.clone()), want(0, full)]),
        ("P.order", "a piece that there is not", vec![want(0, vec![]), want(0, vec![71])]),
        ("P.order", "pieces of what was not asked about", vec![want(0, vec![1])]),
        ("P.order", "no pieces", vec![Message::BlobWant(BlobWant { size: 0, ..base(blob(0)) })]),
        ("P.order", "a piece that nobody wants", vec![Message::BlobPiece(unasked)]),
    ];
    for (code, what, messages) in cases {
        let (mut world, _) = World::meshed(2);
        let conn = *world.links.keys().map(|(_, conn)| conn).next().unwrap();
        // Nothing is read here, so that asks stay where they are.
        world.hosts[0].deaf = true;
        messages.iter().for_each(|message| world.hosts[1].peer.connections.get_mut(&conn).unwrap().send(message));
        world.input(1, Input::Tick);
        world.fly(2);
        let told = world.events(1, |e| matches!(e, Event::Notice { code: found, .. } if found == code));
        assert_eq!(told, 1, "{what}");
        assert!(world.hosts[0].peer.blobs.is_idle(), "{what}");
    }
}

#[test]
fn as_many_blobs_are_fetched_at_once_as_may_be_and_what_is_not_asked_about_is_no_fault() {
    let (mut world, space) = World::meshed(2);
    let blob = |n: u64| Blob { size: 1 + n, ..Blob::of(b"") };
    (0..=FETCHES_MAX as u64).for_each(|n| world.fetch(1, space, blob(n)));
    assert_eq!(world.hosts[1].blobs.refused, [(space, blob(FETCHES_MAX as u64))].into());
    let conn = *world.links.keys().map(|(_, conn)| conn).next().unwrap();
    let has = BlobHas { space: 0, hash: blob(99).hash, size: 99, pieces: None };
    world.send_raw(0, conn, &Message::BlobHas(has));
    world.fly(4);
    world.assert_no_complaints();
}

#[test]
fn no_swarm_waits_for_peers_that_put_one_another_off() {
    const PEERS: u8 = 12;
    let (mut world, space) = World::meshed(PEERS + 1);
    let bytes = content(1, 40);
    let blob = world.hosts[0].blobs.put(space, &bytes);
    let (begun, peers) = (world.now, 1..=usize::from(PEERS));
    peers.clone().for_each(|host| world.fetch(host, space, blob));
    while !peers.clone().all(|host| world.hosts[host].blobs.finished.len() == 1) {
        world.fly(1);
        // Less than anybody waits who gets nothing.
        assert!(world.now < begun + 1_500, "after {} ms not all have it", world.now - begun);
    }
    let sent: usize = world.hosts.iter().map(|host| host.blobs.reads).sum();
    assert!(sent <= 40 * usize::from(PEERS) * 11 / 10, "{sent} pieces were sent");
    assert!(world.hosts[0].blobs.reads <= 60, "{} of them by the origin", world.hosts[0].blobs.reads);
}
