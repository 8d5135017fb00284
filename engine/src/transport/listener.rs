//! Listening: upgrades run side by side, each within its time, and each unauthenticated connection counts against the
//! address block that it came from until the layer above releases its [`Admission`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::link::Link;
use super::websocket::accept_websocket;
use super::{Address, Sockets, TransportConfig, TransportError, locked};

/// Upgraded connections that wait for [`Listener::accept`].
const READY_MAX: usize = 64;

/// A connection that somebody else dialled.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub link: Link,
    /// Where it came from; `None` within this process.
    pub remote: Option<SocketAddr>,
    /// To be dropped once the other side has authenticated, or with the link.
    pub admission: Admission,
}

/// Accepts connections until it is dropped.
#[derive(Debug)]
pub struct Listener {
    address: Address,
    ready: mpsc::Receiver<Accepted>,
    /// Dropping it ends the accepting task, and with that the upgrades under way.
    _accepting: JoinSet<()>,
}

impl Listener {
    /// The next connection whose upgrade is complete. Cancel-safe.
    pub async fn accept(&mut self) -> Accepted {
        // The other end lives as long as the task that `self` holds, or in the table that `drop` clears.
        self.ready.recv().await.expect("a listener's task ends with the listener")
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Memory(name) = &self.address {
            locked(&MEMORY).remove(name);
        }
    }
}

/// Starts to listen. For a WebSocket the host is the interface; the path `/` takes every path.
pub async fn listen(address: &Address, config: &TransportConfig) -> Result<Listener, TransportError> {
    listen_with(address, config, &Sockets::default()).await
}

/// The same, at the socket that was given for this address, if one was. QUIC's are always bound here.
pub async fn listen_with(
    address: &Address,
    config: &TransportConfig,
    sockets: &Sockets,
) -> Result<Listener, TransportError> {
    let (sender, ready) = mpsc::channel(READY_MAX);
    let mut accepting = JoinSet::new();
    let address = match address {
        Address::Memory(name) => {
            let mut table = locked(&MEMORY);
            if table.contains_key(name) {
                return Err(TransportError::Memory("another peer of this process listens under this name"));
            }
            table.insert(name.clone(), sender);
            address.clone()
        }
        Address::WebSocket { tls, host, port, path } => {
            may_listen(*tls, config)?;
            let named: Vec<SocketAddr> = lookup_host((host.as_str(), *port)).await?.collect();
            let socket = sockets.bind(&named).await?;
            let port = socket.local_addr()?.port();
            accepting.spawn(accept_all(socket, (path.clone(), *tls), config.clone(), sender));
            Address::WebSocket { tls: *tls, host: host.clone(), port, path: path.clone() }
        }
        #[cfg(feature = "quic")]
        Address::QuicSocket { socket, relay } => {
            let (endpoint, address) = super::quic::bind(*socket, relay.clone(), config.quic_seed.as_ref()).await?;
            accepting.spawn(super::quic::accept_all(endpoint, super::quic::UNPROVEN_MAX, config.clone(), sender));
            address
        }
        #[cfg(not(feature = "quic"))]
        Address::QuicSocket { .. } => return Err(TransportError::NoQuic),
        Address::Quic { .. } => return Err(TransportError::Misplaced("to listen over QUIC, name quic://IP:PORT")),
    };
    Ok(Listener { address, ready, _accepting: accepting })
}

/// Whether there is what TLS needs, if it is asked for.
fn may_listen(tls: bool, config: &TransportConfig) -> Result<(), TransportError> {
    #[cfg(feature = "tls")]
    let fault = config.tls.certificate.is_none().then_some(TransportError::NoCertificate);
    #[cfg(not(feature = "tls"))]
    let fault = {
        let _ = config;
        Some(TransportError::NoTls)
    };
    match fault {
        Some(fault) if tls => Err(fault),
        _ => Ok(()),
    }
}

async fn accept_all(
    socket: TcpListener,
    (path, tls): (String, bool),
    config: TransportConfig,
    ready: mpsc::Sender<Accepted>,
) {
    let blocks = Arc::new(Blocks::default());
    let path: Arc<str> = path.into();
    let mut upgrades = JoinSet::new();
    loop {
        let (stream, remote) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most often no file descriptors are left; asking again at once would spin.
                debug!(%error, "accepting failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while upgrades.try_join_next().is_some() {}
        let Some(admission) = Admission::ask(&blocks, remote.ip(), &config) else {
            debug!(%remote, "too many unauthenticated connections");
            continue;
        };
        let (path, config, ready) = (path.clone(), config.clone(), ready.clone());
        upgrades.spawn(async move {
            match timeout(config.handshake, upgrade(stream, &path, tls, &config)).await {
                // The receiver is gone only when the listener is.
                Ok(Ok(link)) => drop(ready.send(Accepted { link, remote: Some(remote), admission }).await),
                Ok(Err(error)) => debug!(%remote, %error, "no upgrade"),
                Err(_) => debug!(%remote, "the upgrade took too long"),
            }
        });
    }
}

async fn upgrade(stream: TcpStream, path: &str, tls: bool, config: &TransportConfig) -> Result<Link, TransportError> {
    stream.set_nodelay(true)?;
    #[cfg(feature = "tls")]
    if let Some(certificate) = config.tls.certificate.as_ref().filter(|_| tls) {
        return accept_websocket(certificate.accept(stream).await?, path, config).await;
    }
    #[cfg(not(feature = "tls"))]
    let _ = tls;
    accept_websocket(stream, path, config).await
}

/// A place among the unauthenticated connections of one address block; free again when dropped.
#[derive(Debug)]
pub struct Admission {
    place: Option<(Arc<Blocks>, u64)>,
}

impl Admission {
    pub(super) fn ask(blocks: &Arc<Blocks>, ip: IpAddr, config: &TransportConfig) -> Option<Self> {
        let block = block_of(ip);
        let mut counts = locked(&blocks.0);
        let here = counts.of.get(&block).copied().unwrap_or(0);
        if here >= config.unauthenticated_per_block || counts.total >= config.unauthenticated_max {
            return None;
        }
        counts.of.insert(block, here + 1);
        counts.total += 1;
        Some(Admission { place: Some((blocks.clone(), block)) })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let Some((blocks, block)) = self.place.take() else { return };
        let mut counts = locked(&blocks.0);
        counts.total -= 1;
        if let Some(here) = counts.of.get_mut(&block) {
            *here -= 1;
            if *here == 0 {
                counts.of.remove(&block);
            }
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Blocks(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Only blocks that have a connection.
    of: BTreeMap<u64, usize>,
    total: usize,
}

/// What one party usually holds together: an IPv4 /24 or an IPv6 /48, the latter with a bit that keeps the two apart.
fn block_of(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => u64::from(u32::from(v4) >> 8),
        IpAddr::V6(v6) => 1 << 48 | (u128::from(v6) >> 80) as u64,
    }
}

/// Peers of this process that listen, by name.
static MEMORY: Mutex<BTreeMap<String, mpsc::Sender<Accepted>>> = Mutex::new(BTreeMap::new());

pub(super) async fn dial_memory(name: &str, config: &TransportConfig) -> Result<Link, TransportError> {
    const NOBODY: TransportError = TransportError::Memory("no peer of this process listens under this name");
    let listener = locked(&MEMORY).get(name).cloned().ok_or(NOBODY)?;
    let (ours, theirs) = Link::pair(config);
    let accepted = Accepted { link: theirs, remote: None, admission: Admission { place: None } };
    listener.send(accepted).await.map_err(|_| NOBODY)?;
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_v4_24_or_a_v6_48() {
        let block = |ip: &str| block_of(ip.parse().unwrap());
        assert_eq!(block("10.1.2.3"), block("10.1.2.200"));
        assert_eq!(block("10.1.2.3"), block("::ffff:10.1.2.4"));
        assert_ne!(block("10.1.2.3"), block("10.1.3.3"));
        assert_eq!(block("2001:db8:1:2::1"), block("2001:db8:1:ffff::9"));
        assert_ne!(block("2001:db8:1::1"), block("2001:db8:2::1"));
        assert_ne!(block("::1"), block("0.0.0.1"));
    }

    #[test]
    fn a_place_is_free_again_when_its_guard_is_dropped() {
        let config = TransportConfig { unauthenticated_per_block: 2, unauthenticated_max: 3, ..Default::default() };
        let blocks = Arc::new(Blocks::default());
        let ask = |ip: &str| Admission::ask(&blocks, ip.parse().unwrap(), &config);
        let (first, _second) = (ask("10.0.0.1").unwrap(), ask("10.0.0.2").unwrap());
        assert!(ask("10.0.0.3").is_none(), "the block is full");
        let third = ask("10.0.1.1").unwrap();
        assert!(ask("10.0.2.1").is_none(), "all places are taken");
        drop((first, third));
        assert!(ask("10.0.0.3").is_some());
        assert_eq!(locked(&blocks.0).of.len(), 1, "empty blocks are forgotten");
    }
}
