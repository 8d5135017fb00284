//! The first words: who is there, which spaces both sides hold, and what each begins to send the other.
//!
//! A space that is being caught up with over one connection is not named on others until that is done: each would send the same.

use super::connection::{Connection, Link, RELEASED};
use super::{ConnId, Event, Now, Peer};
use crate::id::{DeviceId, DocId, SpaceId};
use crate::message::{GenesisOf, Hello, LIST_MAX, Message, SPACES_MAX, SpaceHello, Spaces, roles, runs};
use crate::record::Genesis;
use crate::space::Space;
use crate::violation::Violation;

/// Addresses in a hello.
const ADDRESSES_MAX: usize = 64;
/// Bytes of an address, and of the name of a program.
const TEXT_MAX: usize = 256;
/// Time without anything new after which a catching-up holds up no other: several round trips.
pub(super) const STALLED_MS: u64 = 5_000;
/// Longest time that a space is not named on a connection because it is being caught up with over another.
pub(super) const HELD_BACK_MS: u64 = 20_000;

impl Peer {
    fn tag(session: &[u8; 32], from_dialler: bool, space: &SpaceId) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(session);
        hasher.update(b"commonhold space tag 1").update(&[u8::from(from_dialler)]).update(&space.0);
        let mut tag = [0; 16];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        tag
    }

    fn prefix(space: &SpaceId) -> u16 {
        let hash = blake3::hash(&space.0);
        u16::from_be_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])
    }

    pub(super) fn index_space(&mut self, space: SpaceId) {
        self.prefixes.entry(Self::prefix(&space)).or_default().insert(space);
    }

    fn space_hellos(&mut self, conn: ConnId, wanted: &[SpaceId]) -> Vec<SpaceHello> {
        let ride = self.limits.ride_bytes as u64;
        let Some(connection) = self.connections.get_mut(&conn) else { return Vec::new() };
        let Some(session) = connection.channel.session_hash() else { return Vec::new() };
        let peer = connection.peer.or(connection.expected);
        let mut hellos = Vec::new();
        for id in wanted {
            let Some(space) = self.spaces.get(id) else { continue };
            let handle = connection.handles.len() as u32;
            connection.handles.push(*id);
            self.catching.entry(*id).or_default().insert(conn);
            let fresh = space.logs == 0;
            hellos.push(SpaceHello {
                handle,
                prefix: Self::prefix(id),
                tag: Self::tag(&session, connection.dialled, id),
                cursor: peer.and_then(|p| self.cursors.get(&(*id, p)).copied()),
                fingerprint: self.durable.get(id).copied().unwrap_or_default().fingerprint,
                ride: if fresh { self.limits.in_flight_bytes_per_peer as u64 } else { ride },
                fresh,
                filter: space.filter.as_ref().map(|docs| docs.iter().copied().collect()),
                wants_genesis: space.genesis().is_none(),
            });
        }
        hellos
    }

    /// The same of every space, in runs that fit a message each.
    fn all_space_hellos(&mut self, conn: ConnId) -> Vec<Vec<SpaceHello>> {
        let ids: Vec<SpaceId> = self.spaces.keys().copied().collect();
        let ids = self.nameable(conn, ids.into_iter());
        runs(self.space_hellos(conn, &ids), SPACES_MAX)
    }

    pub(super) fn send_hello(&mut self, conn: ConnId) {
        // Cursors are over the other side's store: a dialler that does not know whom it dials names its spaces later.
        let known = self.connections.get(&conn).is_some_and(|c| c.peer.or(c.expected).is_some());
        let mut spaces = if known { self.all_space_hellos(conn) } else { Vec::new() }.into_iter();
        let hello = Hello {
            features: 0,
            roles: self.roles_now(),
            store: self.store,
            agent: self.agent.clone(),
            addresses: self.addresses.clone(),
            spaces: spaces.next().unwrap_or_default(),
            // A leaf has nothing that others could come for.
            record: self.own_record.clone().filter(|_| !self.is_leaf()),
        };
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        (connection.hello_sent, connection.named) = (true, known);
        connection.send(&Message::Hello(hello));
        for spaces in spaces {
            connection.send(&Message::Spaces(Spaces { spaces }));
        }
    }

    pub(super) fn join(&mut self, id: SpaceId, genesis: Option<Genesis>, filter: Option<Vec<DocId>>) {
        let known = self.spaces.contains_key(&id);
        let space = self.spaces.entry(id).or_insert_with(|| Space::unknown(id));
        let was_ready = space.genesis().is_some();
        if let Some(genesis) = genesis
            && !was_ready
            && let Err(why) = space.set_genesis(genesis)
        {
            if !known {
                self.spaces.remove(&id);
            }
            return self.notice(None, Some(id), None, "space.refused", why);
        }
        if let Some(docs) = filter.filter(|_| !known) {
            space.filter = Some(docs.into_iter().take(LIST_MAX).collect());
        }
        let ready = space.genesis().is_some() && !was_ready;
        self.dirty_spaces.insert(id);
        if ready {
            self.emit(Event::Space { space: id });
            self.send_genesis(id);
        }
        if known {
            return;
        }
        self.index_space(id);
        self.name_everywhere(id);
    }

    /// Names a space on every connection, where it can be named now.
    pub(super) fn name_everywhere(&mut self, id: SpaceId) {
        for conn in self.connections.ids() {
            let named = self.connections.get(&conn).is_none_or(|c| !c.named || c.handles.contains(&id));
            if !named && !self.nameable(conn, core::iter::once(id)).is_empty() {
                self.name_space(conn, id);
            }
        }
    }

    /// Names a space on a connection whose hello is said already. The other side may have named it before.
    fn name_space(&mut self, conn: ConnId, space: SpaceId) {
        let spaces = self.space_hellos(conn, &[space]);
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.send(&Message::Spaces(Spaces { spaces }));
            let again: Vec<SpaceHello> = core::mem::take(&mut connection.unmatched);
            self.match_spaces(conn, again);
        }
    }

    /// Whether somebody is sending what this peer lacks of a space, and gets on with it; or was dialled just now, and may.
    fn is_catching_up(&self, space: &SpaceId) -> bool {
        let conns = self.catching.get(space).into_iter().flatten();
        let mut begun = conns.filter_map(|conn| {
            let connection = self.connections.get(conn)?;
            let progress = connection.links.get(space).and_then(|link| link.progress);
            progress.or(connection.dialled.then_some(connection.opened))
        });
        begun.any(|at| self.now.0 < at.0 + STALLED_MS)
    }

    /// The two are level, or not connected.
    pub(super) fn caught_up(&mut self, conn: ConnId, space: SpaceId) {
        if let Some(conns) = self.catching.get_mut(&space) {
            conns.remove(&conn);
            if conns.is_empty() {
                self.catching.remove(&space);
            }
        }
    }

    /// The spaces that can be named on a connection now. The others are held back, but for those that are blocked.
    fn nameable(&mut self, conn: ConnId, spaces: impl Iterator<Item = SpaceId>) -> Vec<SpaceId> {
        let spaces = spaces.filter(|space| self.spaces.contains_key(space) && !self.unwanted.spaces.contains(space));
        let (busy, free) = spaces.partition::<Vec<SpaceId>, _>(|space| self.is_catching_up(space));
        let until = Now(self.now.0 + HELD_BACK_MS);
        self.held_back.extend(busy.into_iter().map(|space| ((conn, space), until)));
        free
    }

    /// Names spaces that were held back, as soon as they need not be any more.
    pub(super) fn run_held_back(&mut self) {
        let ready = |((conn, space), until): (&(ConnId, SpaceId), &Now)| {
            let gone = self.connections.get(conn).is_none();
            (gone || self.now >= *until || !self.is_catching_up(space)).then_some((*conn, *space))
        };
        for (conn, space) in self.held_back.iter().filter_map(ready).collect::<Vec<_>>() {
            // To have named it may mean to be catching up with it: the next waits its turn.
            let until = self.held_back.get(&(conn, space)).copied().unwrap_or_default();
            if self.now >= until || !self.is_catching_up(&space) {
                self.held_back.remove(&(conn, space));
                self.name_space(conn, space);
            }
        }
    }

    /// Takes other documents than before. What other stores were known to hold was known for the old choice; connections begin
    /// anew.
    pub(super) fn take(&mut self, id: SpaceId, filter: Option<Vec<DocId>>) {
        let Some(space) = self.spaces.get_mut(&id) else { return };
        let filter = filter.map(|docs| docs.into_iter().take(LIST_MAX).collect());
        if space.filter == filter {
            return;
        }
        space.filter = filter;
        self.dirty_spaces.insert(id);
        self.begin_anew(id, "takes other documents from now on");
    }

    /// What other stores were known to hold of a space is asked for again, on new connections.
    pub(super) fn begin_anew(&mut self, id: SpaceId, text: &'static str) {
        for ((space, peer), cursor) in &mut self.cursors {
            if *space == id {
                cursor.seq = 0;
                self.late.push((id, *peer, *cursor));
            }
        }
        // Where it was named and not matched yet, it was named with the old choice.
        let named = |conn: &ConnId| self.connections.get(conn).is_some_and(|c| c.handles.contains(&id));
        for conn in self.connections.ids().into_iter().filter(named).collect::<Vec<_>>() {
            self.close(conn, "filter", text, false);
        }
    }

    pub(super) fn on_hello(&mut self, conn: ConnId, hello: Hello) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        let Some(peer) = connection.peer else { return Err(Violation::OutOfPlace("a hello before authentication")) };
        if connection.store.replace(hello.store).is_some() {
            return Err(Violation::OutOfPlace("a second hello"));
        }
        let addresses_fit =
            hello.addresses.len() <= ADDRESSES_MAX && hello.addresses.iter().all(|a| a.len() <= TEXT_MAX);
        if !spaces_fit(&hello.spaces) || !addresses_fit || hello.agent.len() > TEXT_MAX {
            return Err(Violation::ListTooLong);
        }
        if connection.dialled && self.has_dialled(peer, conn) {
            self.close(conn, RELEASED, "this peer is connected already", false);
            return Ok(());
        }
        let saves = (self.roles | hello.roles) & roles::SAVER != 0;
        let Some(connection) = self.connections.get_mut(&conn) else { return Ok(()) };
        (connection.roles, connection.bursts) = (hello.roles, saves);
        // Somebody else's, or a false one, is no record of this peer; nothing hangs on it.
        connection.record = hello.record.filter(|record| record.device == peer && record.verify().is_ok());
        let named = core::mem::replace(&mut connection.named, true);
        let (agent, roles, addresses) = (hello.agent, hello.roles, hello.addresses);
        if !named {
            for spaces in self.all_space_hellos(conn) {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.send(&Message::Spaces(Spaces { spaces }));
                }
            }
        }
        self.dialled(peer);
        self.emit(Event::Opened { conn, peer, agent, roles, addresses });
        self.match_spaces(conn, hello.spaces);
        // What the other side did not name, it does not send either, unless it names it later.
        let unshared = |c: &Connection| c.handles.iter().filter(|s| !c.links.contains_key(s)).copied().collect();
        let unshared: Vec<SpaceId> = self.connections.get(&conn).map(unshared).unwrap_or_default();
        unshared.into_iter().for_each(|space| self.caught_up(conn, space));
        Ok(())
    }

    /// Whether a peer was reached before on another connection, which this side would know to have ended. Who is dialled for two reasons
    /// at once would be sent everything twice.
    fn has_dialled(&self, peer: DeviceId, not: ConnId) -> bool {
        let others = self.connections.ids().into_iter().filter(|conn| *conn != not);
        let mut others = others.filter_map(|conn| self.connections.get(&conn));
        others.any(|other| other.dialled && other.store.is_some() && other.peer == Some(peer))
    }

    pub(super) fn on_spaces(&mut self, conn: ConnId, spaces: Spaces) -> Result<(), Violation> {
        if !spaces_fit(&spaces.spaces) {
            return Err(Violation::ListTooLong);
        }
        self.match_spaces(conn, spaces.spaces);
        Ok(())
    }

    fn match_spaces(&mut self, conn: ConnId, hellos: Vec<SpaceHello>) {
        for hello in hellos {
            let Some(connection) = self.connections.get_mut(&conn) else { return };
            let Some(session) = connection.channel.session_hash() else { return };
            let candidates = self.prefixes.get(&hello.prefix).into_iter().flatten();
            let from_dialler = !connection.dialled;
            let found = candidates.copied().find(|id| Self::tag(&session, from_dialler, id) == hello.tag);
            // What this side has not named, it would be out of order to send.
            let found = found.filter(|id| !self.held_back.contains_key(&(conn, *id)));
            let found = found.filter(|id| !self.unwanted.spaces.contains(id));
            let Some(id) = found else {
                // Kept for a space that is joined, or named, later on this connection.
                let docs = |h: &SpaceHello| h.filter.as_ref().map_or(0, Vec::len);
                if connection.unmatched.len() < SPACES_MAX
                    && connection.unmatched.iter().map(docs).sum::<usize>() + docs(&hello) <= LIST_MAX
                {
                    connection.unmatched.push(hello);
                }
                continue;
            };
            connection.unmatched.retain(|h| h.tag != hello.tag);
            if connection.links.contains_key(&id) {
                // Named twice. To begin again would buy a page, or lose what is under way, for a hundred bytes.
                continue;
            }
            let partial = self.spaces.get(&id).is_some_and(|space| space.filter.is_some());
            let mut link = Box::new(Link::new(hello.handle, hello.filter.clone(), partial));
            if connection.bursts {
                link.repair.set_bursts();
            }
            connection.links.insert(id, link);
            self.connections.link(conn, id);
            self.catching.entry(id).or_default().insert(conn);
            if let Some(peer) = self.connections.get(&conn).and_then(|c| c.peer) {
                self.emit(Event::Shared { peer, space: id });
            }
            if let Some(link) = self.connections.get_mut(&conn).and_then(|c| c.links.get_mut(&id)) {
                link.wants_genesis = hello.wants_genesis;
            }
            self.send_genesis(id);
            self.begin_serving(conn, id, &hello);
            self.blobs_shared(conn, id);
            self.gossip_up(conn, id);
        }
    }

    /// Gives the genesis of a space, if it is known, to those who asked for it.
    fn send_genesis(&mut self, space: SpaceId) {
        let Some(genesis) = self.spaces.get(&space).and_then(|s| s.genesis()) else { return };
        let bytes = genesis.to_bytes();
        for conn in self.connections.of_space(&space) {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            if let Some(link) = connection.links.get_mut(&space)
                && core::mem::take(&mut link.wants_genesis)
            {
                let message = GenesisOf { space: link.theirs, genesis: bytes.clone().into() };
                connection.send(&Message::GenesisOf(message));
            }
        }
    }

    pub(super) fn on_genesis(&mut self, conn: ConnId, message: GenesisOf) -> Result<(), Violation> {
        let Some(connection) = self.connections.get(&conn) else { return Ok(()) };
        let id = connection.space_of(message.space)?;
        let genesis = Genesis::from_bytes(&message.genesis)?;
        let Some(space) = self.spaces.get_mut(&id) else { return Ok(()) };
        if space.genesis().is_some() {
            return Ok(());
        }
        match space.set_genesis(genesis) {
            Ok(()) => {
                self.dirty_spaces.insert(id);
                self.emit(Event::Space { space: id });
                self.send_genesis(id);
                self.unblock_rights(id);
                Ok(())
            }
            Err(why) => Err(Violation::OutOfPlace(why)),
        }
    }
}

fn spaces_fit(spaces: &[SpaceHello]) -> bool {
    let fits = |h: &SpaceHello| h.filter.as_ref().is_none_or(|docs| docs.len() <= LIST_MAX);
    spaces.len() <= SPACES_MAX && spaces.iter().all(fits)
}
