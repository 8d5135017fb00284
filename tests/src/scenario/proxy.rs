//! A forwarder on loopback that counts bytes and turns of the wire.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Result;

#[derive(Default)]
struct Counts {
    to_origin: AtomicU64,
    to_peer: AtomicU64,
    turns: AtomicU64,
    last_from_origin: AtomicBool,
    log: Mutex<Vec<(bool, usize)>>,
}

/// See the module. Dropping it cuts all its connections.
pub struct Proxy {
    address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Forwards a port of its own to `origin`.
    pub async fn start(origin: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((peer, _)) = listener.accept().await {
                let Ok(origin) = TcpStream::connect(origin).await else { continue };
                let _ = (peer.set_nodelay(true), origin.set_nodelay(true));
                let (peer_in, peer_out) = peer.into_split();
                let (origin_in, origin_out) = origin.into_split();
                connections.spawn(copy(peer_in, origin_out, shared.clone(), false));
                connections.spawn(copy(origin_in, peer_out, shared.clone(), true));
            }
        });
        Ok(Proxy { address, counts, task })
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes to the origin and to the peer so far.
    pub fn bytes(&self) -> (u64, u64) {
        (self.counts.to_origin.load(SeqCst), self.counts.to_peer.load(SeqCst))
    }

    /// How often the direction changed so far: two turns are one round trip.
    pub fn turns(&self) -> u64 {
        self.counts.turns.load(SeqCst)
    }

    /// (from the origin, bytes) of each read so far, for looking at.
    pub fn log(&self) -> Vec<(bool, usize)> {
        self.counts.log.lock().map(|log| log.clone()).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    counts: Arc<Counts>,
    from_origin: bool,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let bytes = if from_origin { &counts.to_peer } else { &counts.to_origin };
        bytes.fetch_add(n as u64, SeqCst);
        if counts.last_from_origin.swap(from_origin, SeqCst) != from_origin {
            counts.turns.fetch_add(1, SeqCst);
        }
        if let Ok(mut log) = counts.log.lock()
            && log.len() < 10_000
        {
            log.push((from_origin, n));
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
