//! In which order one peer serves the pieces that another asked for.
//!
//! When many fetch the same blob from the one peer that has it, each piece should leave that peer once and go on from there.
//! So what has not been sent to anybody goes first, and what was sent to somebody else lately waits, if the asker can have
//! it of others ([`BlobWant::patient`](crate::message::BlobWant::patient)). It does not wait for ever: whoever got it may be gone. Who fetches it too lets nobody wait: it is one of
//! those that they are to have it from.

use std::collections::{BTreeMap, VecDeque};

use super::{ASKED_PIECES_MAX, Blob};
use crate::id::SpaceId;
use crate::peer::{ConnId, Now};
use crate::violation::Violation;

/// How long a piece waits that somebody else was sent, while there is something left of `REPEATS_SHARE`. A guess: longer than
/// a piece takes on to the next peer but one.
pub const HOLD_MS: u64 = 1_500;
/// How long it waits at most. Who gets nothing from anybody asks again sooner, and then not patiently.
pub const HOLD_MAX_MS: u64 = 60_000;
/// Of so many pieces that were sent once, one may be sent once more before [`HOLD_MAX_MS`]: where everything takes long, time
/// alone would let all of them go.
const REPEATS_SHARE: usize = 4;
/// Between two looks at what waits.
const HOLD_LOOK_MS: u64 = 100;

/// A piece that the other side of a connection asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// In which space.
    pub space: SpaceId,
    /// Of which blob.
    pub blob: Blob,
    /// Which.
    pub piece: u32,
    /// It may wait.
    pub patient: bool,
    /// Since when.
    pub at: Now,
}

/// What one connection waits for.
#[derive(Default, Debug)]
pub struct Asks(VecDeque<Ask>);

/// What of a blob was sent to whom last, while somebody asks about it.
#[derive(Default, Debug)]
pub struct Sent {
    last: BTreeMap<u32, ConnId>,
    repeats: usize,
}

impl Sent {
    /// A piece leaves.
    pub fn note(&mut self, piece: u32, conn: ConnId) {
        self.repeats += usize::from(self.to_another(piece, conn));
        self.last.insert(piece, conn);
    }

    fn to_another(&self, piece: u32, conn: ConnId) -> bool {
        self.last.get(&piece).is_some_and(|to| *to != conn)
    }

    fn may_repeat(&self) -> bool {
        (self.repeats + 1) * REPEATS_SHARE <= self.last.len()
    }
}

impl Asks {
    /// Adds what was asked for. More than [`ASKED_PIECES_MAX`] at once are refused.
    pub fn push(&mut self, ask: Ask) -> Result<(), Violation> {
        if self.0.len() >= ASKED_PIECES_MAX {
            return Err(Violation::ListTooLong);
        }
        self.0.push_back(ask);
        Ok(())
    }

    /// Takes out pieces of a blob, or all of it.
    pub fn drop(&mut self, space: &SpaceId, blob: &Blob, pieces: &[u32]) {
        let of = |ask: &Ask| ask.space == *space && ask.blob == *blob;
        self.0.retain(|ask| !of(ask) || !(pieces.is_empty() || pieces.contains(&ask.piece)));
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next to be read: first what nobody was sent. `spares` says of which blobs each piece should leave here once.
    pub fn next(
        &mut self,
        conn: ConnId,
        now: Now,
        sent: &BTreeMap<(SpaceId, Blob), Sent>,
        spares: impl Fn(&(SpaceId, Blob)) -> bool,
    ) -> Option<Ask> {
        let repeats = |ask: &Ask| sent.get(&(ask.space, ask.blob)).is_some_and(|s| s.to_another(ask.piece, conn));
        let new = self.0.iter().position(|ask| !repeats(ask));
        let may_repeat = |ask: &Ask| sent.get(&(ask.space, ask.blob)).is_none_or(Sent::may_repeat);
        let hold_ms = |ask: &Ask| if may_repeat(ask) { HOLD_MS } else { HOLD_MAX_MS };
        let waits = |ask: &Ask| ask.patient && now.0 < ask.at.0 + hold_ms(ask) && spares(&(ask.space, ask.blob));
        let due = || self.0.iter().position(|ask| !waits(ask));
        self.0.remove(new.or_else(due)?)
    }

    /// When one that waits may be due: to be looked at again.
    pub fn deadline(&self, now: Now) -> Option<Now> {
        let oldest = self.0.iter().map(|ask| ask.at.0 + HOLD_MS).min()?;
        Some(Now(oldest.max(now.0 + HOLD_LOOK_MS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlobHash;

    #[test]
    fn what_nobody_was_sent_goes_first_and_what_somebody_was_waits_if_it_may() {
        let (space, blob) = (SpaceId([1; 32]), Blob { hash: BlobHash([2; 32]), size: 1 << 30 });
        let (first, second) = (ConnId(1), ConnId(2));
        let ask = |piece, patient| Ask { space, blob, piece, patient, at: Now(0) };
        let mut sent = BTreeMap::from([((space, blob), Sent::default())]);
        // Enough was sent for one to be sent again.
        (0..4).for_each(|piece| sent.get_mut(&(space, blob)).unwrap().note(100 + piece, first));
        sent.get_mut(&(space, blob)).unwrap().note(7, first);
        let mut asks = Asks::default();
        for (piece, patient) in [(7, true), (8, true), (9, true)] {
            asks.push(ask(piece, patient)).unwrap();
        }
        let mut next = |conn, now| asks.next(conn, Now(now), &sent, |_| true).map(|ask| ask.piece);
        assert_eq!([next(second, 0), next(second, 0), next(second, HOLD_MS - 1)], [Some(8), Some(9), None]);
        assert_eq!(next(second, HOLD_MS), Some(7));
        sent.get_mut(&(space, blob)).unwrap().note(7, second);
        asks.push(ask(7, true)).unwrap();
        let mut next = |now| asks.next(first, Now(now), &sent, |_| true).map(|ask| ask.piece);
        assert_eq!([next(HOLD_MAX_MS - 1), next(HOLD_MAX_MS)], [None, Some(7)], "one of four was sent twice already");
        sent.get_mut(&(space, blob)).unwrap().note(7, first);
        asks.push(ask(7, true)).unwrap();
        assert!(
            asks.next(first, Now(0), &sent, |_| true).is_some(),
            "who asks again for what it was sent does not wait"
        );
        asks.push(ask(7, false)).unwrap();
        assert!(asks.next(second, Now(0), &sent, |_| true).is_some(), "nor who has nobody else to ask");
        asks.push(ask(7, true)).unwrap();
        assert!(asks.next(second, Now(0), &sent, |_| false).is_some(), "nor does anybody at one that fetches it too");
    }

    #[test]
    fn asks_have_a_bound_and_can_be_taken_back() {
        let (space, blob) = (SpaceId([1; 32]), Blob { hash: BlobHash([2; 32]), size: 1 << 30 });
        let mut asks = Asks::default();
        let ask = |piece| Ask { space, blob, piece, patient: false, at: Now(0) };
        (0..ASKED_PIECES_MAX as u32).for_each(|piece| asks.push(ask(piece)).unwrap());
        assert_eq!(asks.push(ask(99)), Err(Violation::ListTooLong));
        asks.drop(&space, &blob, &[3, 4]);
        assert_eq!(asks.len(), ASKED_PIECES_MAX - 2);
        asks.drop(&space, &blob, &[]);
        assert!(asks.is_empty());
    }
}
