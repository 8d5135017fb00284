//! All connections, and which of them have something to do: a step costs what it touches, not what is connected.

use std::collections::{BTreeMap, BTreeSet};

use super::connection::Connection;
use super::{ConnId, Now};
use crate::id::SpaceId;

#[derive(Default)]
pub(super) struct Connections {
    map: BTreeMap<ConnId, Box<Connection>>,
    /// Looked at for a change in this drain: their frames are sealed and their timers set at its end.
    touched: BTreeSet<ConnId>,
    by_space: BTreeMap<SpaceId, BTreeSet<ConnId>>,
    timers: BTreeSet<(Now, ConnId)>,
    timer_of: BTreeMap<ConnId, Now>,
}

impl Connections {
    pub(super) fn get(&self, conn: &ConnId) -> Option<&Connection> {
        self.map.get(conn).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, conn: &ConnId) -> Option<&mut Connection> {
        let found: &mut Connection = self.map.get_mut(conn)?;
        self.touched.insert(*conn);
        Some(found)
    }

    pub(super) fn insert(&mut self, conn: ConnId, connection: Connection) {
        self.map.insert(conn, Box::new(connection));
        self.touched.insert(conn);
    }

    pub(super) fn remove(&mut self, conn: &ConnId) -> Option<Connection> {
        let gone = self.map.remove(conn)?;
        self.touched.remove(conn);
        self.set_timer(*conn, None);
        self.by_space.retain(|_, conns| {
            conns.remove(conn);
            !conns.is_empty()
        });
        Some(*gone)
    }

    pub(super) fn ids(&self) -> Vec<ConnId> {
        self.map.keys().copied().collect()
    }

    /// Notes that both sides of a connection hold a space.
    pub(super) fn link(&mut self, conn: ConnId, space: SpaceId) {
        self.by_space.entry(space).or_default().insert(conn);
    }

    /// The connections over which a space is shared.
    pub(super) fn of_space(&self, space: &SpaceId) -> Vec<ConnId> {
        self.by_space.get(space).into_iter().flatten().copied().collect()
    }

    pub(super) fn take_touched(&mut self) -> BTreeSet<ConnId> {
        core::mem::take(&mut self.touched)
    }

    pub(super) fn set_timer(&mut self, conn: ConnId, at: Option<Now>) {
        let old = match at {
            Some(at) => self.timer_of.insert(conn, at),
            None => self.timer_of.remove(&conn),
        };
        if old != at {
            old.map(|old| self.timers.remove(&(old, conn)));
            at.map(|at| self.timers.insert((at, conn)));
        }
    }

    /// Connections whose timer is due.
    pub(super) fn due(&self, now: Now) -> Vec<ConnId> {
        self.timers.range(..=(now, ConnId(u64::MAX))).map(|(_, conn)| *conn).collect()
    }

    pub(super) fn next_timer(&self) -> Option<Now> {
        self.timers.first().map(|(at, _)| *at)
    }
}
