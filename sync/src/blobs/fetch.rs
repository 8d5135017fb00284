//! One blob that is being fetched: which pieces to ask of whom, and when to ask somebody else.
//!
//! Rarest first, from a random place on; as many pieces under way with each peer as it delivers in `AHEAD_MS`; what a peer
//! is late with is asked of another as well, and so is the rest once there is nothing else to ask for (the end-game). Who
//! sends it first is thanked by telling the others to leave it out.

use std::collections::{BTreeMap, BTreeSet};

use super::pieces::Pieces;
use super::{ASKED_PIECES_MAX, Blob, PIECE_BYTES};
use crate::id::DeviceId;
use crate::peer::{ConnId, Now};
use crate::violation::Violation;

/// How much a peer is asked for ahead, in time: many times the way to most peers, and what a peer that dies takes along is
/// soon asked of another. At least twice the time of its fastest answer.
const AHEAD_MS: f64 = 300.0;
/// Pieces under way with a peer of which nothing is known: 1 MiB.
const WINDOW_FIRST: usize = 4;
/// Time over which throughput is measured.
const MEASURE_MS: u64 = 100;
/// A peer that owes pieces and sent none for so long, and for four times what a piece takes it, is late.
const LATE_MS: u64 = 2_000;
/// How long an ask that may wait has waited before another peer that has the piece is asked.
const PATIENT_MS: u64 = 50;
/// When nothing has come from anybody for so long, and for eight times the time between two pieces so far, some of what others
/// let wait is asked for at once.
const STARVED_MS: u64 = 2_000;
/// As many.
const STARVED_PIECES: usize = 2;
/// Pieces under way or on their way to disk: 64 MiB.
const UNDER_WAY_MAX: usize = 256;
/// Peers that a piece is asked of at once.
const ASKED_OF_MAX: usize = 2;
/// Pieces of which the rarest is chosen. A blob with more is looked at from a random place on.
const LOOK_AT: usize = 2_048;
/// How often a peer may say that it has less than before, as after a collection of garbage.
const SHRINKS_MAX: u8 = 8;

/// What is to be said to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Ask for these.
    Ask {
        /// Whom.
        conn: ConnId,
        /// Which.
        pieces: Vec<u32>,
        /// There are others to have them of.
        patient: bool,
    },
    /// These have come from elsewhere.
    Drop {
        /// Whom.
        conn: ConnId,
        /// Which.
        pieces: Vec<u32>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Fetch {
    blob: Blob,
    /// What is stored, and may be served.
    have: Pieces,
    /// What came, and is on its way to disk.
    storing: BTreeSet<u32>,
    /// How many sources have each piece.
    spread: Vec<u16>,
    asked: BTreeMap<u32, Vec<ConnId>>,
    sources: BTreeMap<ConnId, Source>,
    /// When a piece last came, or patience last ended, and the time between two pieces.
    fed: Now,
    gap_ms: u64,
    /// Who sent what was not the piece. Asked no more.
    liars: BTreeSet<DeviceId>,
}

#[derive(Debug)]
struct Source {
    device: DeviceId,
    /// What it says that it has, once it answered.
    has: Option<Pieces>,
    shrinks: u8,
    asked: BTreeMap<u32, Asked>,
    window: usize,
    /// Bytes a millisecond.
    rate: Option<f64>,
    /// The fastest answer so far.
    fastest_ms: Option<u64>,
    /// Since when, and how many bytes came since then: from the first piece on, or the way there and back would count.
    measured: Option<(Now, usize)>,
    /// When the last piece came, or the first of those that it owes was asked for.
    heard: Now,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Now,
    patient: bool,
}

/// Peers that lied and are remembered, for each fetch. A liar with more names than that is asked again.
const LIARS_MAX: usize = 64;

impl Fetch {
    /// `have` is there already. `None` if a blob of that name has no pieces, or the set is not of this blob.
    pub fn new(blob: Blob, have: Pieces) -> Option<Fetch> {
        let count = blob.pieces()?;
        (have.of() == count).then(|| Fetch {
            blob,
            have,
            storing: BTreeSet::new(),
            spread: vec![0; count as usize],
            asked: BTreeMap::new(),
            sources: BTreeMap::new(),
            fed: Now(0),
            gap_ms: 0,
            liars: BTreeSet::new(),
        })
    }

    /// What is stored.
    pub fn have(&self) -> &Pieces {
        &self.have
    }

    /// Bytes that are stored.
    pub fn bytes(&self) -> u64 {
        let whole = u64::from(self.have.count()) * PIECE_BYTES as u64;
        let last = self.have.of() - 1;
        let short = if self.have.has(last) { PIECE_BYTES - self.blob.piece(last).1 } else { 0 };
        whole - short as u64
    }

    /// Peers that have some of it and are asked.
    pub fn sources(&self) -> usize {
        self.sources.values().filter(|source| source.has.as_ref().is_some_and(|has| has.count() > 0)).count()
    }

    /// Adds a peer that may have some of it. False: there is no room for it, it is there, or it lied.
    pub fn add(&mut self, conn: ConnId, device: DeviceId, now: Now) -> bool {
        let full = self.sources.len() >= super::SOURCES_MAX;
        if full || self.liars.contains(&device) || self.sources.contains_key(&conn) {
            return false;
        }
        let source = Source {
            device,
            has: None,
            shrinks: 0,
            asked: BTreeMap::new(),
            window: WINDOW_FIRST,
            rate: None,
            fastest_ms: None,
            measured: None,
            heard: now,
        };
        self.sources.insert(conn, source);
        true
    }

    /// Takes a peer out, and gives how many pieces it owes.
    pub fn gone(&mut self, conn: ConnId) -> usize {
        let Some(source) = self.sources.remove(&conn) else { return 0 };
        source.has.iter().flat_map(Pieces::iter).for_each(|piece| self.spread[piece as usize] -= 1);
        source.asked.keys().for_each(|piece| self.forget(*piece, conn));
        source.asked.len()
    }

    /// Takes a peer out for good: what it sent was not the piece.
    pub fn lied(&mut self, conn: ConnId) {
        if let Some(source) = self.sources.get(&conn)
            && self.liars.len() < LIARS_MAX
        {
            self.liars.insert(source.device);
        }
        self.gone(conn);
    }

    /// A peer says what it has. To say the same again is a fault: it costs us more than it costs the other side.
    pub fn told(&mut self, conn: ConnId, has: Pieces) -> Result<(), Violation> {
        let Some(source) = self.sources.get_mut(&conn) else { return Ok(()) };
        if has.of() != self.have.of() {
            return Err(Violation::OutOfPlace("a set of pieces of another size"));
        }
        if source.has.as_ref() == Some(&has) {
            return Err(Violation::OutOfPlace("the same pieces were told again"));
        }
        if source.has.as_ref().is_some_and(|before| before.count() >= has.count()) {
            source.shrinks += 1;
            if source.shrinks > SHRINKS_MAX {
                return Err(Violation::OutOfPlace("fewer pieces were told too often"));
            }
        }
        source.has.iter().flat_map(Pieces::iter).for_each(|piece| self.spread[piece as usize] -= 1);
        has.iter().for_each(|piece| self.spread[piece as usize] += 1);
        source.has = Some(has);
        Ok(())
    }

    /// Whether a peer owes a piece.
    pub fn is_asked(&self, conn: ConnId, piece: u32) -> bool {
        self.sources.get(&conn).is_some_and(|source| source.asked.contains_key(&piece))
    }

    /// A piece that was asked for does not come: the peer has it no more.
    pub fn absent(&mut self, conn: ConnId, piece: u32) {
        let Some(source) = self.sources.get_mut(&conn) else { return };
        source.asked.remove(&piece);
        if source.has.as_mut().is_some_and(|has| has.remove(piece)) {
            self.spread[piece as usize] -= 1;
        }
        self.forget(piece, conn);
    }

    /// A piece that was asked for has come, and verifies. Gives whether it is to be stored, and whom to tell that it came.
    pub fn came(&mut self, conn: ConnId, piece: u32, now: Now) -> (bool, Vec<ConnId>) {
        let bytes = self.blob.piece(piece).1;
        if self.have.count() > 0 {
            self.gap_ms = (3 * self.gap_ms + now.0.saturating_sub(self.fed.0)) / 4;
        }
        self.fed = now;
        if let Some(source) = self.sources.get_mut(&conn) {
            source.delivered(piece, bytes, now);
        }
        let others: Vec<ConnId> = self.asked.remove(&piece).into_iter().flatten().filter(|of| *of != conn).collect();
        for other in &others {
            if let Some(source) = self.sources.get_mut(other) {
                source.asked.remove(&piece);
            }
        }
        (!self.have.has(piece) && self.storing.insert(piece), others)
    }

    /// A piece is stored. True if that was the last.
    pub fn stored(&mut self, piece: u32) -> bool {
        self.storing.remove(&piece);
        self.have.insert(piece);
        self.have.is_all()
    }

    /// What to say now. `room` tells how many pieces more may be asked for on a connection; `company`: others fetch it too, and
    /// may soon have what nobody has now but one; `random` is a number.
    pub fn poll(&mut self, now: Now, room: impl Fn(ConnId) -> usize, company: bool, random: u64) -> Vec<Order> {
        let mut orders = Vec::new();
        let mut conns: Vec<ConnId> = self.sources.keys().copied().collect();
        if conns.is_empty() || self.have.is_all() {
            return orders;
        }
        // Nobody is always first, but who has little comes before who has all, and is asked for what it has: so the one that
        // many ask is left what only it has.
        let turn = random as usize % conns.len();
        conns.rotate_left(turn);
        conns.sort_by_key(|conn| self.sources.get(conn).and_then(|of| of.has.as_ref()).map_or(0, Pieces::count));
        let patient = company || self.sources() > 1;
        if now.0 >= self.fed.0 + STARVED_MS.max(8 * self.gap_ms) {
            self.fed = now;
            orders.extend(self.insist(now));
        }
        for conn in conns {
            let under_way = self.asked.len() + self.storing.len();
            let Some(source) = self.sources.get(&conn) else { continue };
            let free = source.free().min(room(conn)).min(UNDER_WAY_MAX.saturating_sub(under_way));
            if free == 0 {
                continue;
            }
            let (fresh, mut leave) = self.choose(conn, free, now, random);
            let mut pieces = fresh;
            if pieces.len() < free {
                pieces.extend(self.choose_again(conn, free - pieces.len(), now));
            }
            if pieces.is_empty() {
                continue;
            }
            for piece in &pieces {
                self.note_asked(conn, *piece, patient, now);
            }
            orders.append(&mut leave);
            orders.push(Order::Ask { conn, pieces, patient });
        }
        orders
    }

    /// The peers that are asked.
    pub fn conns(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.sources.keys().copied()
    }

    /// Whether a peer is asked.
    pub fn is_source(&self, conn: ConnId) -> bool {
        self.sources.contains_key(&conn)
    }

    /// Pieces that a peer owes.
    pub fn owed(&self, conn: ConnId) -> usize {
        self.sources.get(&conn).map_or(0, |source| source.asked.len())
    }

    /// Whether somebody owes a piece that others could be asked for.
    pub fn is_owed(&self) -> bool {
        !self.asked.is_empty() && self.sources.len() > 1
    }

    /// Asks anew, and not to be put off any more, for what was let wait longest.
    fn insist(&mut self, now: Now) -> Vec<Order> {
        let waits = |asked: &Asked| asked.patient && now.0 >= asked.at.0 + STARVED_MS;
        let of = |(conn, source): (&ConnId, &Source)| -> Vec<(Now, ConnId, u32)> {
            let waiting = source.asked.iter().filter(|(_, asked)| waits(asked));
            waiting.map(|(piece, asked)| (asked.at, *conn, *piece)).collect()
        };
        let mut waiting: Vec<(Now, ConnId, u32)> = self.sources.iter().flat_map(of).collect();
        waiting.sort_unstable();
        waiting.truncate(STARVED_PIECES);
        let mut orders = Vec::new();
        for (_, conn, piece) in waiting {
            if let Some(asked) = self.sources.get_mut(&conn).and_then(|source| source.asked.get_mut(&piece)) {
                asked.patient = false;
            }
            orders.push(Order::Drop { conn, pieces: vec![piece] });
            orders.push(Order::Ask { conn, pieces: vec![piece], patient: false });
        }
        orders
    }

    /// The rarest that nobody was asked for; and those that somebody lets wait while this peer has them.
    fn choose(&mut self, conn: ConnId, free: usize, now: Now, random: u64) -> (Vec<u32>, Vec<Order>) {
        let Some(has) = self.sources.get(&conn).and_then(|source| source.has.as_ref()) else {
            return (Vec::new(), Vec::new());
        };
        let (count, mut found) = (self.have.of(), Vec::new());
        let start = (random >> 16) as u32 % count;
        for piece in (start..count).chain(0..start) {
            if !has.has(piece) || self.have.has(piece) || self.storing.contains(&piece) {
                continue;
            }
            match self.asked.get(&piece).map(Vec::as_slice) {
                None => found.push((self.spread[piece as usize], piece, None)),
                Some([of]) if *of != conn && self.waits(*of, piece, now) => {
                    found.push((self.spread[piece as usize], piece, Some(*of)));
                }
                Some(_) => {}
            }
            if found.len() >= LOOK_AT {
                break;
            }
        }
        found.sort_by_key(|(spread, ..)| *spread);
        found.truncate(free);
        let mut leave: BTreeMap<ConnId, Vec<u32>> = BTreeMap::new();
        for (_, piece, of) in &found {
            if let Some(of) = of {
                self.forget(*piece, *of);
                if let Some(source) = self.sources.get_mut(of) {
                    source.asked.remove(piece);
                }
                leave.entry(*of).or_default().push(*piece);
            }
        }
        let leave = leave.into_iter().map(|(conn, pieces)| Order::Drop { conn, pieces }).collect();
        (found.into_iter().map(|(_, piece, _)| piece).collect(), leave)
    }

    /// Whether a peer that was asked lets it wait because others have it too.
    fn waits(&self, of: ConnId, piece: u32, now: Now) -> bool {
        let asked = self.sources.get(&of).and_then(|source| source.asked.get(&piece));
        asked.is_some_and(|asked| asked.patient && now.0 >= asked.at.0 + PATIENT_MS)
            && self.sources.get(&of).is_some_and(|source| now.0 >= source.heard.0 + PATIENT_MS)
    }

    /// Pieces that another owes and will bring much later than this peer can: those that it would bring last, first.
    fn choose_again(&self, conn: ConnId, free: usize, now: Now) -> Vec<u32> {
        let Some(source) = self.sources.get(&conn) else { return Vec::new() };
        let Some(has) = &source.has else { return Vec::new() };
        let ours = source.expected_ms(source.asked.len() + 1, now);
        let mut found = Vec::new();
        for (piece, of) in &self.asked {
            if of.len() >= ASKED_OF_MAX || of.contains(&conn) || !has.has(*piece) {
                continue;
            }
            let theirs = of.iter().filter_map(|of| self.sources.get(of)?.owed_ms(*piece, now)).min();
            if let Some(theirs) = theirs.filter(|theirs| *theirs > 2 * ours + PATIENT_MS) {
                found.push((theirs, *piece));
            }
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.into_iter().take(free).map(|(_, piece)| piece).collect()
    }

    fn note_asked(&mut self, conn: ConnId, piece: u32, patient: bool, now: Now) {
        let Some(source) = self.sources.get_mut(&conn) else { return };
        if source.asked.is_empty() {
            (source.heard, source.measured) = (now, None);
        }
        source.asked.insert(piece, Asked { at: now, patient });
        self.asked.entry(piece).or_default().push(conn);
    }

    fn forget(&mut self, piece: u32, conn: ConnId) {
        if let Some(of) = self.asked.get_mut(&piece) {
            of.retain(|of| *of != conn);
            if of.is_empty() {
                self.asked.remove(&piece);
            }
        }
    }
}

impl Source {
    /// Pieces to ask for now: none until a quarter of the window is free, so that an ask names several.
    fn free(&self) -> usize {
        let free = self.window.saturating_sub(self.asked.len());
        if self.asked.is_empty() || free * 4 >= self.window { free } else { 0 }
    }

    fn delivered(&mut self, piece: u32, bytes: usize, now: Now) {
        let Some(asked) = self.asked.remove(&piece) else { return };
        let took = now.0.saturating_sub(asked.at.0);
        self.fastest_ms = Some(self.fastest_ms.map_or(took, |fastest| fastest.min(took)));
        self.heard = now;
        match &mut self.measured {
            None => self.measured = Some((now, 0)),
            Some((since, came)) => {
                *came += bytes;
                let elapsed = now.0.saturating_sub(since.0);
                if elapsed >= MEASURE_MS {
                    let rate = *came as f64 / elapsed as f64;
                    // A pause may be ours: it counts for less than what was seen to be possible.
                    let share = |before: f64| if rate > before { 0.5 } else { 0.25 };
                    self.rate = Some(self.rate.map_or(rate, |before| before + (rate - before) * share(before)));
                    self.measured = Some((now, 0));
                }
            }
        }
        let ahead_ms = AHEAD_MS.max(2.0 * self.fastest_ms.unwrap_or(0) as f64);
        let wanted = match self.rate {
            Some(rate) => (rate * ahead_ms / PIECE_BYTES as f64) as usize + 1,
            None => ASKED_PIECES_MAX,
        };
        // One more for each that came: twice as many after each round, until it is enough.
        self.window = (self.window + 1).min(wanted).clamp(2, ASKED_PIECES_MAX);
    }

    /// When the n-th of the pieces that it owes may come.
    fn expected_ms(&self, n: usize, now: Now) -> u64 {
        // Of who has not been measured nothing bad is thought.
        let each = self.rate.map_or(1.0, |rate| PIECE_BYTES as f64 / rate.max(0.001));
        let silent = if self.asked.is_empty() { 0 } else { now.0.saturating_sub(self.heard.0) };
        ((each * n as f64) as u64).max(silent)
    }

    /// When a piece that it owes may come. Longer than that it has been late already.
    fn owed_ms(&self, piece: u32, now: Now) -> Option<u64> {
        let asked = self.asked.get(&piece)?;
        let before = self.asked.values().filter(|other| other.at <= asked.at).count();
        if now.0 >= self.heard.0 + self.patience_ms() {
            return Some(u64::MAX / 4);
        }
        Some(self.expected_ms(before, now))
    }

    fn patience_ms(&self) -> u64 {
        let each = self.rate.map_or(0.0, |rate| PIECE_BYTES as f64 / rate.max(0.001));
        LATE_MS.max((4.0 * each) as u64)
    }
}

#[cfg(test)]
mod tests;
