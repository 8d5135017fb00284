//! What the machine tells the application, passed on to whoever it concerns; and what links tell the machine.

use std::sync::atomic::Ordering;

use commonhold_sync::id::{ChainId, DocId, EntryId, SpaceId};
use commonhold_sync::peer::{ConnId, Event, Input};
use tokio::time::Instant;

use super::{Done, Driver, LOOSE_AGAIN, LOOSE_QUIET, answer};
use crate::discovery::{Heard, wall_ms};
use crate::gate::Knock;
use crate::shared::{Reply, locked};
use crate::status::NodeEvent;
use crate::transport::LinkEvent;
use crate::worker;

/// Why a connection ends whose address is over its quota.
const OVER: &str = "that address has had all that it may on this peer until midnight UTC";

/// What became of something said.
pub(super) struct Said {
    pub(super) records: Vec<EntryId>,
    pub(super) end: Option<(ChainId, u64)>,
}

impl Driver {
    pub(super) fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Frame { id, bytes } => {
                let conn = ConnId(id);
                match self.conns.received(conn, bytes.len()) {
                    false => self.handle(Input::Frame { conn, bytes }),
                    true => self.handle(Input::End { conn, code: "quota", text: OVER }),
                }
            }
            LinkEvent::Drained { id, .. } => {
                if let Some(pending) = self.conns.drained(ConnId(id)) {
                    self.handle(Input::Drained { conn: ConnId(id), pending });
                }
            }
            LinkEvent::Closed { id, reason } => {
                tracing::debug!(conn = id, %reason, "a connection ended");
                self.conns.remove(ConnId(id));
                self.handle(Input::Disconnected { conn: ConnId(id) });
            }
        }
    }

    /// What is deleted costs nothing any more.
    fn forget_quarantine(&mut self, space: SpaceId, doc: DocId) {
        if locked(&self.shared.quarantine).remove(&(space, doc)).is_none() {
            return;
        }
        let Some(storage) = self.machine.as_ref().map(|machine| machine.storage.clone()) else { return };
        self.barrier(move || {
            if let Err(error) = storage.put_quarantined(&space, &doc, None) {
                tracing::warn!(%space, %doc, %error, "the row of a deleted document in quarantine stays");
            }
        });
    }

    pub(super) fn emit(&mut self, event: Event) {
        match event {
            Event::Asked { conn, peer } => {
                let Some(gate) = &self.shared.config.gate else { return };
                let said = Knock::at(gate, peer, self.conns.remote(conn), self.conns.dialled(conn));
                let (tell, run) = (self.tell.clone(), self.run);
                tokio::spawn(async move {
                    let admitted = said.await;
                    let _ = tell.send((run, Done::Asked { conn, admitted }));
                });
            }
            Event::Opened { conn, peer, agent, roles, addresses } => {
                if let Some(info) = self.conns.opened(conn, peer, agent, roles, addresses) {
                    locked(&self.shared.peers).insert(conn.0, info.clone());
                    let dialled = info.address.as_deref().filter(|_| info.dialled);
                    locked(&self.shared.book).connected(peer, dialled, &info.addresses, roles, wall_ms());
                    self.hear(Heard::Opened { conn, roles });
                    self.shared.emit(NodeEvent::Opened(info));
                }
            }
            Event::Closed { conn, peer, released } => {
                if released {
                    self.conns.released(conn);
                }
                locked(&self.shared.peers).remove(&conn.0);
                self.hear(Heard::Closed { conn });
                if let Some(peer) = peer {
                    let gone = !locked(&self.shared.peers).values().any(|info| info.device == peer);
                    if gone {
                        locked(&self.shared.tracker).closed(&peer);
                    }
                    self.shared.emit(NodeEvent::Closed(peer));
                }
                self.shared.moved();
            }
            Event::Announced { conn, announce, .. } => {
                // The machine says so only if this peer plays the role. Its answer is an input of its own.
                let Some(role) = &self.shared.tracker_role else { return };
                let answer = role.announce(&announce, self.conns.remote(conn));
                let _ = self.tell.send((self.run, Done::Announced { conn, answer }));
            }
            Event::Account { device, account } => {
                locked(&self.shared.book).exchanged(device, account, wall_ms());
            }
            Event::Introduced { conn, peers, .. } => self.hear(Heard::Introduced { conn, peers }),
            Event::Space { space } => {
                self.note_space(&space);
                self.shared.emit(NodeEvent::Space(space));
                self.shared.moved();
            }
            Event::Document { space, doc, header } => {
                // It may have been withdrawn, or deleted by who turned out to have had no right to.
                if let Some(open) = self.shared.open_document(space, doc) {
                    open.reload();
                }
                self.shared.emit(NodeEvent::Document { space, doc, kind: header.kind, name: header.name });
            }
            Event::Withdrawn { space, doc } => {
                if let Some(open) = self.shared.open_document(space, doc) {
                    open.deleted();
                }
                self.loose.remove(&(space, doc));
                self.shared.emit(NodeEvent::Withdrawn { space, doc });
            }
            Event::Deleted { space, doc } => {
                if let Some(open) = self.shared.open_document(space, doc) {
                    open.deleted();
                }
                self.loose.remove(&(space, doc));
                self.forget_quarantine(space, doc);
                self.shared.emit(NodeEvent::Deleted { space, doc });
            }
            Event::Entries { space, doc, chain, entries, from, .. } => {
                if let Some(at) = self.loose.get_mut(&(space, doc)) {
                    *at = (*at).max(Instant::now() + LOOSE_QUIET);
                }
                if let Some(from) = from {
                    self.shared.emit(NodeEvent::Changed { space, doc, from });
                }
                // What the view itself made it has.
                let peer = self.machine.as_ref().map(|m| &m.peer);
                let own =
                    from.is_none() && peer.is_some_and(|p| p.own_opening(&space, &doc).chain(&space, &doc) == chain);
                if let Some(open) = self.shared.open_document(space, doc).filter(|_| !own) {
                    open.entries(entries, from);
                }
            }
            Event::Saved { ticket, records, end } => {
                let Some((space, doc, reply)) = self.tickets.remove(&ticket) else { return };
                self.note_saved(space, doc, end, &reply);
                answer(&self.shared, space, doc, reply, Ok(Said { records, end }));
                self.shared.moved();
            }
            Event::Failed { ticket, why } => {
                if let Some((space, doc, reply)) = self.tickets.remove(&ticket) {
                    answer(&self.shared, space, doc, reply, Err(why));
                }
            }
            Event::Acked { peer, space, doc, chain, n } => {
                locked(&self.shared.tracker).acked(peer, space, doc, chain, n);
                self.shared.moved();
            }
            Event::Held { receipt } => {
                locked(&self.shared.receipts).keep(receipt);
                self.shared.moved();
            }
            Event::Shared { peer, space } => {
                locked(&self.shared.tracker).shares(peer, space);
                locked(&self.shared.book).shares(&peer, space);
                self.shared.moved();
            }
            Event::Level { peer, space, whole } => {
                locked(&self.shared.tracker).level(peer, space, whole);
                self.shared.emit(NodeEvent::Level { peer, space });
                self.shared.moved();
            }
            Event::Forked { space, doc, device, .. } => {
                match self.machine.as_ref().is_some_and(|machine| machine.peer.device() == device) {
                    true => tracing::warn!(
                        %space, %doc,
                        "this device signed two histories: its data folder and keys were copied, or set back to an earlier state. \
                         Both histories are kept; let only one copy run"
                    ),
                    false => tracing::warn!(%space, %doc, %device, "a device signed two histories"),
                }
                self.shared.emit(NodeEvent::Forked { space, doc, device });
            }
            Event::ChainLost { space, doc } => {
                tracing::info!(%space, %doc, "others hold more of what this device wrote than it does itself; going on under a new chain");
                // The next run may know of it no more than this one did.
                self.shared.chain_lost.store(true, Ordering::Relaxed);
                let opening = self.machine.as_ref().map(|m| m.peer.own_opening(&space, &doc));
                if let Some((open, opening)) = self.shared.open_document(space, doc).zip(opening) {
                    open.opening(opening);
                }
            }
            Event::CheckSnapshot { op, bytes } => {
                let limits = self.shared.config.limits.clone();
                self.heavy(move || Done::Checked { op, result: worker::check_snapshot(&bytes, &limits) });
            }
            Event::MergeSnapshots { op, space, doc, bytes } => {
                let Some(storage) = self.machine.as_ref().map(|machine| machine.storage.clone()) else { return };
                let limits = self.shared.config.limits.clone();
                self.heavy(move || {
                    let result = worker::merge_snapshots(&storage, &space, &doc, &bytes, &limits);
                    Done::Merged { op, result }
                });
            }
            Event::Reshown { space, doc } => {
                if let Some(open) = self.shared.open_document(space, doc) {
                    open.reshow();
                }
            }
            Event::Snapshot { space, doc } => {
                if let Some(open) = self.shared.open_document(space, doc) {
                    open.reload();
                }
            }
            Event::Notice { peer, space, doc, code, text } => {
                tracing::info!(?peer, ?space, ?doc, code, text, "notice");
                self.shared.emit(NodeEvent::Notice { peer, space, doc, code, text });
            }
            Event::Loose { space, doc } => {
                let rested = Instant::now() + LOOSE_QUIET;
                let at = self.packed_at.get(&(space, doc)).map_or(rested, |at| rested.max(*at + LOOSE_AGAIN));
                self.loose.entry((space, doc)).or_insert(at);
            }
        }
    }

    fn hear(&self, heard: Heard) {
        // What is lost is learnt again at the next announce; a connection that closed is found to be gone.
        let _ = self.shared.heard.try_send(heard);
    }

    fn note_saved(&self, space: SpaceId, doc: Option<DocId>, end: Option<(ChainId, u64)>, reply: &Reply) {
        let mut tracker = locked(&self.shared.tracker);
        match (doc, end, reply) {
            (Some(doc), Some((chain, n)), Reply::Document(..)) => tracker.saved(space, doc, chain, n),
            (None, ..) => {
                let authority = space.authority();
                let Some(peer) = self.machine.as_ref().map(|m| &m.peer) else { return };
                let opening = peer.own_opening(&space, &authority);
                let Some(held) = peer.space(&space) else { return };
                let (chain, n) = (held.authority_chain(&opening), held.chain_length(&opening));
                tracker.saved(space, authority, chain, n);
            }
            _ => {}
        }
    }
}
