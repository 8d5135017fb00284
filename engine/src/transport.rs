//! Carries opaque frames between two peers. Encryption, peers' identities and the meaning of a frame are above;
//! addresses of strangers, bounds on what they can make us hold, and keepalive are here.
//!
//! [`dial`] and [`listen`] give a [`Link`], one connection whose ends both sides can use alike; [`spawn`] gives the link
//! to a small task and leaves a [`LinkHandle`]. Kinds: WebSocket (either side may dial), any `AsyncRead + AsyncWrite`
//! ([`Link::over_stream`]), memory, and QUIC with the feature `quic`.
//!
//! Those of WebSockets are inside TLS where the address says so ([`tls`], with the feature `tls`).
//!
//! Not here: retries ([`crate::backoff`]), who may connect.

mod address;
mod frame;
mod link;
mod listener;
#[cfg(feature = "quic")]
mod quic;
mod sockets;
mod task;
#[cfg(feature = "tls")]
pub mod tls;
mod websocket;

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use commonhold_sync::limits::Limits;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use address::{ADDRESS_BYTES_MAX, Address, AddressError};
pub use frame::FrameFault;
pub use link::{Link, Stream};
pub use listener::{Accepted, Admission, Listener, listen, listen_with};
pub use sockets::Sockets;
pub use task::{CloseReason, LinkEvent, LinkHandle, SendError, spawn};
pub use websocket::{SUBPROTOCOL, accept_websocket};

/// Bounds and times of connections.
#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// Bytes of one frame, in either direction.
    pub frame_bytes_max: usize,
    /// Time to connect and to finish the WebSocket upgrade.
    pub handshake: Duration,
    /// Outgoing bytes that one link holds; each frame counts 64 bytes more than it has.
    pub send_queue_bytes_max: usize,
    /// [`LinkEvent::Drained`] comes when a queue that was longer is down to this. A guess: two writes' worth.
    pub drained_bytes: usize,
    /// A link that heard nothing for this long sends a ping; after two that went unanswered as long, it is dead.
    pub keepalive: Duration,
    /// How long a closing link waits for the other side to have heard the reason.
    pub close: Duration,
    /// Connections that have not authenticated, per IPv4 /24 or IPv6 /48.
    pub unauthenticated_per_block: usize,
    /// The same over all blocks. Each costs up to 12 KiB while its upgrade is under way: 12 MiB in all.
    pub unauthenticated_max: usize,
    /// What the keys of QUIC endpoints that listen are made of, so that their addresses stay; `None`: each key is drawn.
    pub quic_seed: Option<QuicSeed>,
    /// What connections with TLS need.
    #[cfg(feature = "tls")]
    pub tls: tls::Tls,
}

/// A secret that only decides at which QUIC address a listener is reached: devices are proven by the channel.
#[derive(Clone, Copy)]
pub struct QuicSeed(pub [u8; 32]);

impl fmt::Debug for QuicSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicSeed")
    }
}

impl TransportConfig {
    /// The defaults, under the limits that the core also works with.
    pub fn new(limits: &Limits) -> Self {
        TransportConfig {
            frame_bytes_max: limits.frame_bytes_max,
            handshake: Duration::from_millis(limits.handshake_ms),
            send_queue_bytes_max: limits.send_queue_bytes_max,
            drained_bytes: 64 << 10,
            keepalive: Duration::from_secs(20),
            close: Duration::from_secs(2),
            unauthenticated_per_block: 64,
            unauthenticated_max: 1_024,
            quic_seed: None,
            #[cfg(feature = "tls")]
            tls: tls::Tls::default(),
        }
    }
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}

/// What ends a connection or keeps it from being made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The system refused, or the connection broke.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The upgrade to a WebSocket failed: not a WebSocket, not ours, or refused by the other side.
    #[error("the WebSocket handshake failed: {0}")]
    Handshake(String),
    /// Connecting or upgrading took longer than [`TransportConfig::handshake`].
    #[error("the handshake took longer than {0:?}")]
    Slow(Duration),
    /// The other side sent what is not a frame.
    #[error("the other side sent {0}")]
    Fault(#[from] FrameFault),
    /// The stream ended without a close.
    #[error("the connection was lost{}", if *midway { " in the middle of a frame" } else { "" })]
    Lost {
        /// Inside a frame.
        midway: bool,
    },
    /// The caller asked to send a frame over the limit.
    #[error("a frame of {bytes} bytes, where {max} are allowed")]
    FrameTooLong {
        /// Bytes of the frame.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The caller sent after closing.
    #[error("the connection is closed")]
    Closed,
    /// A QUIC endpoint could not be made, or its handshake failed: nobody there, another endpoint, or another protocol.
    #[error("QUIC failed: {0}")]
    Quic(String),
    /// The address has `quic://`, and the feature is off.
    #[error("this build has no QUIC: build with the feature quic")]
    NoQuic,
    /// The certificate of who was dialled is for another name, out of date, or of an authority that is not trusted here.
    #[error(
        "the certificate that {host} shows is not trusted ({why}): dial the name that it is for, or add the authority that issued it to the roots"
    )]
    Untrusted {
        /// Whom it should be for.
        host: String,
        /// In the words of the library.
        why: String,
    },
    /// The handshake of TLS failed.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The roots cannot be read.
    #[cfg(feature = "tls")]
    #[error("TLS failed: {0}")]
    Roots(#[from] tls::TlsError),
    /// A listener's address has `wss://`, and there is no certificate to show.
    #[error("to listen with TLS a certificate is needed")]
    NoCertificate,
    /// As many handshakes are under way as there may be.
    #[error("too many handshakes are under way")]
    Crowded,
    /// The address has `wss://` or `https://`, and the feature is off.
    #[error("this build has no TLS: build with the feature tls")]
    NoTls,
    /// The form of a QUIC address that says where to listen was dialled, or the other way round.
    #[error("{0}")]
    Misplaced(&'static str),
    /// Nobody listens under this name, or somebody already does.
    #[error("{0}")]
    Memory(&'static str),
}

impl TransportError {
    /// Whether it stays so until a person changes something.
    pub(crate) fn is_for_people(&self) -> bool {
        #[cfg(feature = "tls")]
        if matches!(self, TransportError::Roots(_)) {
            return true;
        }
        matches!(self, TransportError::Untrusted { .. } | TransportError::NoTls | TransportError::NoQuic)
    }
}

/// Connects to a listening peer, within [`TransportConfig::handshake`].
pub async fn dial(address: &Address, config: &TransportConfig) -> Result<Link, TransportError> {
    let connecting = async {
        match address {
            Address::WebSocket { tls, host, port, .. } => {
                let stream = connect(host, *port, *tls, config).await?;
                websocket::dial(address, stream, config).await
            }
            #[cfg(feature = "quic")]
            Address::Quic { endpoint, sockets, relay } => quic::dial(endpoint, sockets, relay.as_deref(), config).await,
            #[cfg(not(feature = "quic"))]
            Address::Quic { .. } => Err(TransportError::NoQuic),
            Address::QuicSocket { .. } => {
                Err(TransportError::Misplaced("this address says where to listen, not whom to dial"))
            }
            Address::Memory(name) => listener::dial_memory(name, config).await,
        }
    };
    timeout(config.handshake, connecting).await.map_err(|_| TransportError::Slow(config.handshake))?
}

/// A TCP connection, inside TLS if asked for. The caller bounds the time.
pub(crate) async fn connect(
    host: &str,
    port: u16,
    tls: bool,
    config: &TransportConfig,
) -> Result<Box<dyn Stream>, TransportError> {
    #[cfg(not(feature = "tls"))]
    if tls {
        return Err(TransportError::NoTls);
    }
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    #[cfg(feature = "tls")]
    if tls {
        return Ok(Box::new(config.tls.roots.connect(host, stream).await?));
    }
    #[cfg(not(feature = "tls"))]
    let _ = config;
    Ok(Box::new(stream))
}

/// These locks guard plain counts and tables, which a panic elsewhere leaves whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
