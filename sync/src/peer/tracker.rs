//! Announces and their answers on a connection. The table is not the peer's ([`crate::tracker::Tracker`] is shared with whatever else
//! announces come by), so an announce leaves as an event and the answer comes back as an input.
//!
//! The channel has proven who announces: no signature is needed beyond that of the record.

use super::{ConnId, Event, Now, Peer};
use crate::message::{Announce, Message, Notice, Peers, TOPICS_MAX, roles};
use crate::tracker::TrackerRefusal;
use crate::violation::Violation;

/// Announces of one connection in a minute. The table counts those of the devices that it lists; who gives no address is not listed.
const ANNOUNCES_PER_MINUTE: u32 = 8;
const MINUTE_MS: u64 = 60_000;

/// What of announces is under way on a connection.
#[derive(Debug, Default)]
pub(super) struct Introductions {
    /// This side announced and was not answered yet.
    asked: bool,
    /// The other side's announce is with the engine.
    answering: bool,
    /// When counting the other side's began, and how many there were.
    window: (Now, u32),
}

impl Introductions {
    fn may_announce(&mut self, now: Now) -> bool {
        if now.0.saturating_sub(self.window.0.0) >= MINUTE_MS {
            self.window = (now, 0);
        }
        self.window.1 = self.window.1.saturating_add(1);
        self.window.1 <= ANNOUNCES_PER_MINUTE && !core::mem::replace(&mut self.answering, true)
    }
}

impl Peer {
    /// Announces to a tracker. Nothing happens if the connection is gone, or its last announce is not answered yet.
    pub(super) fn send_announce(&mut self, conn: ConnId, mut announce: Announce) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if connection.store.is_none() || core::mem::replace(&mut connection.introductions.asked, true) {
            return;
        }
        announce.topics.truncate(TOPICS_MAX);
        connection.send(&Message::Announce(announce));
    }

    pub(super) fn on_announce(&mut self, conn: ConnId, announce: Announce) -> Result<(), Violation> {
        let is_tracker = self.roles & roles::TRACKER != 0;
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let Some(peer) = connection.peer else { return Ok(()) };
        if announce.record.device != peer {
            return Err(Violation::OutOfPlace("an announce in the name of another device"));
        }
        if !is_tracker {
            self.refuse_announce(conn, TrackerRefusal::Off);
        } else if connection.introductions.may_announce(self.now) {
            self.emit(Event::Announced { conn, peer, announce });
        } else {
            self.refuse_announce(conn, TrackerRefusal::TooOften);
        }
        Ok(())
    }

    /// Answers the announce of [`Event::Announced`].
    pub(super) fn answer_announce(&mut self, conn: ConnId, answer: Result<Peers, TrackerRefusal>) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if !core::mem::take(&mut connection.introductions.answering) {
            return;
        }
        match answer {
            Ok(peers) => connection.send(&Message::Peers(peers)),
            Err(refusal) => self.refuse_announce(conn, refusal),
        }
    }

    fn refuse_announce(&mut self, conn: ConnId, refusal: TrackerRefusal) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let (code, text) = (refusal.code().to_owned(), refusal.to_string());
        connection.send(&Message::Notice(Notice { space: None, doc: None, code, text }));
    }

    pub(super) fn on_peers(&mut self, conn: ConnId, peers: Peers) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let Some(peer) = connection.peer else { return Ok(()) };
        if !core::mem::take(&mut connection.introductions.asked) {
            return Err(Violation::OutOfPlace("peers that nobody asked for"));
        }
        self.emit(Event::Introduced { conn, peer, peers });
        Ok(())
    }

    /// A tracker's refusal: its next answer is for the next announce.
    pub(super) fn note_refusal(&mut self, conn: ConnId, code: &str) {
        if code.starts_with("tracker-")
            && let Some(connection) = self.connections.get_mut(&conn)
        {
            connection.introductions.asked = false;
        }
    }
}
