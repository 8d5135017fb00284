//! The driver's connections: links by id, frames that a link did not take yet, and how much of them is still on its way.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use commonhold_sync::id::DeviceId;
use commonhold_sync::peer::{ConnId, Reason};
use tokio::sync::{mpsc, oneshot};

use crate::addresses::AddressMeter;
use crate::block::BlockList;
use crate::shared::Attach;
use crate::status::PeerInfo;
use crate::transport::{Admission, LinkEvent, LinkHandle, TransportConfig, spawn};

/// Bytes that wait beyond a link's queue: a few of the largest snapshots. A peer that asks for more and does not read is
/// hung up on.
const OVERFLOW_MAX: usize = 256 << 20;
/// Bytes sent after which the machine is told what is left of them.
const REPORT_BYTES: usize = 64 << 10;

pub(super) struct Conns {
    events: mpsc::Sender<LinkEvent>,
    config: Arc<TransportConfig>,
    conns: BTreeMap<ConnId, Conn>,
    next: u64,
    /// Connections of which the machine is to be told how much is on its way.
    reports: Vec<ConnId>,
    /// Bytes of frames since the start.
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    addresses: AddressMeter,
}

struct Conn {
    link: LinkHandle,
    /// Frames beyond the link's queue: the machine sends a snapshot at once. Bounded by what it sends before it is told
    /// of room, which is one snapshot.
    overflow: VecDeque<Vec<u8>>,
    overflow_bytes: usize,
    unreported: usize,
    /// The link is to be closed, with this reason, once the overflow is gone.
    closing: Option<String>,
    dialled: bool,
    address: Option<String>,
    admission: Option<Admission>,
    peer: Option<DeviceId>,
    alive: Option<oneshot::Sender<()>>,
    remote: Option<IpAddr>,
    opened: Option<oneshot::Sender<DeviceId>>,
}

impl Conns {
    pub(super) fn new(events: mpsc::Sender<LinkEvent>, config: Arc<TransportConfig>, addresses: AddressMeter) -> Conns {
        let (conns, reports) = (BTreeMap::new(), Vec::new());
        Conns { events, config, conns, next: 0, reports, sent_bytes: 0, received_bytes: 0, addresses }
    }

    pub(super) fn add(&mut self, attach: Attach) -> ConnId {
        self.next += 1;
        let conn = Conn {
            link: spawn(attach.link, self.next, self.events.clone(), self.config.clone()),
            overflow: VecDeque::new(),
            overflow_bytes: 0,
            unreported: 0,
            closing: None,
            dialled: attach.dialled,
            address: attach.address,
            admission: attach.admission,
            peer: None,
            alive: attach.alive,
            remote: attach.remote,
            opened: attach.opened,
        };
        self.conns.insert(ConnId(self.next), conn);
        ConnId(self.next)
    }

    pub(super) fn send(&mut self, id: ConnId, bytes: Vec<u8>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        self.sent_bytes += bytes.len() as u64;
        conn.remote.into_iter().for_each(|remote| self.addresses.sent(remote, bytes.len()));
        conn.unreported += bytes.len();
        if conn.unreported >= REPORT_BYTES {
            conn.unreported = 0;
            self.reports.push(id);
        }
        conn.overflow_bytes += bytes.len();
        conn.overflow.push_back(bytes);
        conn.pump();
        if conn.overflow_bytes > OVERFLOW_MAX {
            conn.cut("asked for more than it reads");
        }
    }

    /// A frame came. Whether the address it came from has had all that it may today.
    pub(super) fn received(&mut self, id: ConnId, bytes: usize) -> bool {
        self.received_bytes += bytes as u64;
        let Some(remote) = self.remote(id) else { return false };
        self.addresses.received(remote, bytes);
        self.addresses.is_over(remote)
    }

    /// A connection of which the machine should know how many bytes are on their way.
    pub(super) fn poll_drained(&mut self) -> Option<(ConnId, usize)> {
        let id = self.reports.pop()?;
        let pending = self.conns.get(&id).map_or(0, Conn::pending);
        Some((id, pending))
    }

    /// The link has room; bytes that are on their way now.
    pub(super) fn drained(&mut self, id: ConnId) -> Option<usize> {
        let conn = self.conns.get_mut(&id)?;
        conn.pump();
        Some(conn.pending())
    }

    /// The other side is known. What is shown of it.
    pub(super) fn opened(
        &mut self,
        id: ConnId,
        peer: DeviceId,
        agent: String,
        roles: u64,
        addresses: Vec<String>,
    ) -> Option<PeerInfo> {
        let conn = self.conns.get_mut(&id)?;
        conn.admission = None;
        conn.peer = Some(peer);
        if let Some(opened) = conn.opened.take() {
            // Whoever gave up waiting is not told.
            let _ = opened.send(peer);
        }
        let (address, dialled) = (conn.address.clone(), conn.dialled);
        Some(PeerInfo { device: peer, agent, address, roles, addresses, since: SystemTime::now(), dialled })
    }

    pub(super) fn close(&mut self, id: ConnId, reason: &Reason) {
        tracing::debug!(conn = id.0, code = reason.code, text = reason.text, "ending a connection");
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.closing = Some(reason.text.clone());
            conn.pump();
        }
    }

    /// Ends every link once it has sent what it was given.
    pub(super) fn close_all(&mut self, reason: &str) {
        for conn in self.conns.values_mut() {
            conn.closing.get_or_insert_with(|| reason.to_owned());
            conn.pump();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Where a connection came from.
    pub(super) fn remote(&self, id: ConnId) -> Option<IpAddr> {
        self.conns.get(&id)?.remote
    }

    /// Whether this side dialled.
    pub(super) fn dialled(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.dialled)
    }

    /// Those of blocked addresses.
    pub(super) fn of_blocked(&self, list: &BlockList) -> Vec<ConnId> {
        let blocked = |conn: &Conn| conn.remote.is_some_and(|remote| list.has_address(remote));
        self.conns.iter().filter(|(_, conn)| blocked(conn)).map(|(id, _)| *id).collect()
    }

    pub(super) fn disconnect(&mut self, peer: &DeviceId) {
        for conn in self.conns.values().filter(|conn| conn.peer.as_ref() == Some(peer)) {
            conn.link.close("disconnected by the other side's owner");
        }
    }

    /// Tells whoever keeps a peer dialled that neither side had a use for the connection.
    pub(super) fn released(&mut self, id: ConnId) {
        if let Some(alive) = self.conns.get_mut(&id).and_then(|conn| conn.alive.take()) {
            let _ = alive.send(());
        }
    }

    pub(super) fn remove(&mut self, id: ConnId) {
        self.conns.remove(&id);
    }
}

impl Conn {
    fn pending(&self) -> usize {
        self.link.bytes_pending() + self.overflow_bytes
    }

    fn pump(&mut self) {
        while let Some(frame) = self.overflow.front() {
            // A link that is given a frame in vain drops it. One that was asked says when it has room.
            if !self.link.has_room(frame.len()) {
                return;
            }
            let Some(frame) = self.overflow.pop_front() else { return };
            self.overflow_bytes -= frame.len();
            if self.link.send(frame).is_err() {
                return self.cut("a frame could not be sent");
            }
        }
        if let Some(reason) = self.closing.take() {
            self.link.close(&reason);
        }
    }

    /// Ends the link, which is then told as an event. Without a frame the other side could read nothing that follows it.
    fn cut(&mut self, reason: &str) {
        (self.overflow, self.overflow_bytes) = (VecDeque::new(), 0);
        self.link.close(reason);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::Link;

    #[tokio::test]
    async fn a_frame_behind_a_short_queue_leaves_when_the_queue_is_empty() {
        let config = TransportConfig { send_queue_bytes_max: 64 << 10, ..TransportConfig::default() };
        let (link, mut other) = Link::pair(&config);
        let (events, mut links) = mpsc::channel(9);
        let mut conns = Conns::new(events, Arc::new(config), AddressMeter::default());
        let attach = Attach::new(link, true);
        let id = conns.add(attach);
        conns.send(id, vec![1; 100]);
        conns.send(id, vec![2; 250 << 10]);
        let crossing = async {
            assert_eq!(other.recv().await.unwrap().unwrap(), [1; 100]);
            tokio::select! {
                Some(LinkEvent::Drained { .. }) = links.recv() => assert!(conns.drained(id).is_some()),
                else => panic!("the link fell silent"),
            }
            assert_eq!(other.recv().await.unwrap().unwrap().len(), 250 << 10);
        };
        tokio::time::timeout(Duration::from_secs(60), crossing).await.expect("the frame is stuck");
    }
}
