//! Fetching from model peers that send at a steady rate, in milliseconds that cost nothing.

use std::collections::VecDeque;

use super::*;
use crate::id::BlobHash;

const MEGABYTES_100: u64 = 400 * PIECE_BYTES as u64;

struct Server {
    /// Bytes a millisecond.
    rate: usize,
    latency_ms: u64,
    queue: VecDeque<(u64, u32)>,
    done: usize,
}

struct World {
    now: u64,
    fetch: Fetch,
    servers: BTreeMap<ConnId, Server>,
    sent: usize,
    twice: usize,
}

fn blob(size: u64) -> Blob {
    Blob { hash: BlobHash([1; 32]), size }
}

impl World {
    fn new(size: u64) -> World {
        let blob = blob(size);
        let fetch = Fetch::new(blob, Pieces::none(blob.pieces().unwrap())).unwrap();
        World { now: 0, fetch, servers: BTreeMap::new(), sent: 0, twice: 0 }
    }

    fn add(&mut self, n: u64, rate: usize, latency_ms: u64, has: Pieces) {
        let conn = ConnId(n);
        assert!(self.fetch.add(conn, DeviceId([n as u8; 32]), Now(self.now)));
        self.fetch.told(conn, has).unwrap();
        self.servers.insert(conn, Server { rate, latency_ms, queue: VecDeque::new(), done: 0 });
    }

    fn all(&self) -> Pieces {
        Pieces::all(self.fetch.have().of())
    }

    fn ask(&mut self) {
        let random = self.now.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for order in self.fetch.poll(Now(self.now), |_| ASKED_PIECES_MAX, false, random) {
            match order {
                Order::Ask { conn, pieces, .. } => {
                    let server = self.servers.get_mut(&conn).unwrap();
                    server.queue.extend(pieces.into_iter().map(|piece| (self.now + server.latency_ms, piece)));
                }
                Order::Drop { conn, pieces } => self.leave_out(conn, &pieces),
            }
        }
    }

    fn leave_out(&mut self, conn: ConnId, pieces: &[u32]) {
        if let Some(server) = self.servers.get_mut(&conn) {
            server.queue.retain(|(_, piece)| !pieces.contains(piece));
        }
    }

    /// One millisecond.
    fn step(&mut self) {
        self.now += 1;
        let mut came = Vec::new();
        for (conn, server) in &mut self.servers {
            server.done += server.rate;
            while server.done >= PIECE_BYTES && server.queue.front().is_some_and(|(at, _)| *at <= self.now) {
                server.done -= PIECE_BYTES;
                came.extend(server.queue.pop_front().map(|(_, piece)| (*conn, piece)));
            }
            // What it could have sent while nothing was asked of it is gone.
            if server.queue.is_empty() {
                server.done = server.done.min(PIECE_BYTES);
            }
        }
        for (conn, piece) in came {
            if !self.fetch.is_asked(conn, piece) {
                self.twice += 1;
                continue;
            }
            self.sent += 1;
            let (wanted, others) = self.fetch.came(conn, piece, Now(self.now));
            self.twice += usize::from(!wanted);
            others.into_iter().for_each(|other| self.leave_out(other, &[piece]));
            if wanted {
                self.fetch.stored(piece);
            }
        }
        self.ask();
    }

    fn run(&mut self, ms_max: u64) {
        self.ask();
        while !self.fetch.have().is_all() {
            self.step();
            assert!(self.now <= ms_max, "{} of {} pieces", self.fetch.have().count(), self.fetch.have().of());
        }
    }
}

#[test]
fn one_peer_alone_is_kept_busy_near_and_far() {
    for latency in [0, 80, 600] {
        let mut world = World::new(MEGABYTES_100);
        let all = world.all();
        world.add(1, 20_000, latency, all);
        let ideal = MEGABYTES_100 / 20_000;
        // The first round trips find out how far it is.
        world.run(ideal + ideal / 10 + 8 * latency);
        assert_eq!(world.twice, 0);
    }
}

#[test]
fn fast_and_slow_peers_end_together() {
    let mut world = World::new(MEGABYTES_100);
    let all = world.all();
    for (n, rate) in [(1, 20_000), (2, 20_000), (3, 500)] {
        world.add(n, rate, 1, all.clone());
    }
    let ideal = MEGABYTES_100 / 40_500;
    world.run(ideal * 115 / 100);
    assert!(world.twice <= 12, "{} of 400 pieces came twice", world.twice);
}

#[test]
fn what_a_dead_peer_and_a_silent_one_owe_is_had_of_others() {
    let mut world = World::new(MEGABYTES_100);
    let all = world.all();
    for n in 1..=3 {
        world.add(n, 20_000, 1, all.clone());
    }
    world.ask();
    (0..500).for_each(|_| world.step());
    let held = world.fetch.have().count();
    assert!(world.fetch.gone(ConnId(1)) > 0);
    world.servers.remove(&ConnId(1));
    world.servers.get_mut(&ConnId(2)).unwrap().rate = 0;
    let left = u64::from(400 - held) * PIECE_BYTES as u64 / 20_000;
    world.run(500 + LATE_MS.max(left) + left / 10);
}

#[test]
fn a_liar_is_not_asked_again_under_its_name() {
    let mut world = World::new(MEGABYTES_100);
    let all = world.all();
    world.add(1, 20_000, 1, all.clone());
    world.add(2, 20_000, 1, all);
    world.ask();
    let owed = world.fetch.owed(ConnId(1));
    assert!(owed > 0);
    world.fetch.lied(ConnId(1));
    world.servers.remove(&ConnId(1));
    assert!(!world.fetch.add(ConnId(9), DeviceId([1; 32]), Now(0)));
    assert!(world.fetch.add(ConnId(9), DeviceId([9; 32]), Now(0)));
    world.run(10_000);
}

#[test]
fn the_rarest_pieces_are_asked_for_first() {
    let mut world = World::new(64 * PIECE_BYTES as u64);
    let mut most = world.all();
    let rare = [3, 17, 40, 63];
    rare.iter().for_each(|piece| _ = most.remove(*piece));
    let all = world.all();
    world.add(1, 1, 1, all);
    for n in 2..=4 {
        world.add(n, 0, 1, most.clone());
        // These answer nothing: only the first is looked at.
        world.fetch.sources.get_mut(&ConnId(n)).unwrap().window = 0;
    }
    world.ask();
    let asked: BTreeSet<u32> = world.servers[&ConnId(1)].queue.iter().map(|(_, piece)| *piece).collect();
    assert_eq!(asked, rare.into());
}

#[test]
fn what_one_lets_wait_is_asked_of_another_as_soon_as_that_has_it() {
    let mut world = World::new(2 * PIECE_BYTES as u64);
    let all = world.all();
    world.add(1, 0, 1, all);
    world.add(2, 20_000, 1, Pieces::from_bytes(&[1], 2).unwrap());
    // The second has nothing yet that could be asked of it.
    world.fetch.sources.get_mut(&ConnId(2)).unwrap().window = 0;
    world.ask();
    assert_eq!(world.fetch.owed(ConnId(1)), 2);
    world.fetch.sources.get_mut(&ConnId(2)).unwrap().window = 2;
    world.now += PATIENT_MS;
    world.ask();
    assert_eq!((world.fetch.owed(ConnId(1)), world.fetch.owed(ConnId(2))), (1, 1));
    assert_eq!(world.servers[&ConnId(1)].queue.len(), 1, "and the first is told to leave it out");
}

#[test]
fn what_peers_say_that_they_have_is_bounded() {
    let mut world = World::new(MEGABYTES_100);
    let all = world.all();
    world.add(1, 1, 1, Pieces::none(400));
    let conn = ConnId(1);
    assert!(world.fetch.told(conn, Pieces::none(400)).is_err(), "the same again");
    assert!(world.fetch.told(conn, Pieces::all(399)).is_err(), "of another blob");
    for _ in 0..SHRINKS_MAX {
        world.fetch.told(conn, all.clone()).unwrap();
        world.fetch.told(conn, Pieces::none(400)).unwrap();
    }
    world.fetch.told(conn, all).unwrap();
    assert!(world.fetch.told(conn, Pieces::none(400)).is_err(), "less, again and again");
    for n in 2..=super::super::SOURCES_MAX as u64 {
        assert!(world.fetch.add(ConnId(n), DeviceId([2; 32]), Now(0)));
    }
    assert!(!world.fetch.add(ConnId(99), DeviceId([2; 32]), Now(0)), "one more than there may be");
}

#[test]
fn what_a_peer_has_no_more_is_had_of_another_or_waits() {
    let mut world = World::new(PIECE_BYTES as u64);
    let all = world.all();
    world.add(1, 0, 1, all.clone());
    world.ask();
    assert_eq!(world.fetch.owed(ConnId(1)), 1);
    world.fetch.absent(ConnId(1), 0);
    world.ask();
    assert_eq!((world.fetch.owed(ConnId(1)), world.fetch.sources()), (0, 0));
    world.add(2, 20_000, 1, all);
    world.run(100);
    assert_eq!(world.fetch.bytes(), PIECE_BYTES as u64);
}

#[test]
fn who_gets_nothing_from_anybody_is_patient_no_more() {
    let mut world = World::new(9 * PIECE_BYTES as u64);
    let all = world.all();
    world.add(1, 0, 1, all.clone());
    world.add(2, 0, 1, all);
    world.ask();
    let (conns, before) = ([ConnId(1), ConnId(2)], [world.fetch.owed(ConnId(1)), world.fetch.owed(ConnId(2))]);
    world.fetch.fed = Now(0);
    world.now = STARVED_MS;
    let orders = world.fetch.poll(Now(world.now), |_| 0, false, 0);
    let insisted = |order: &&Order| matches!(order, Order::Ask { pieces, patient: false, .. } if pieces.len() == 1);
    let taken_back = |order: &&Order| matches!(order, Order::Drop { .. });
    let counts = [orders.iter().filter(insisted).count(), orders.iter().filter(taken_back).count()];
    assert_eq!((counts, orders.len()), ([STARVED_PIECES; 2], 2 * STARVED_PIECES));
    assert_eq!(conns.map(|conn| world.fetch.owed(conn)), before, "what is asked again is owed once");
    assert!(world.fetch.poll(Now(world.now), |_| 0, false, 0).is_empty());
}
