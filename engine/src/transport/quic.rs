//! QUIC through iroh: one bidirectional stream for each connection, which carries the format of byte streams. The key of
//! an endpoint is a part of its address and proves nothing about a peer: the channel above does. A listener's is made
//! of the device's secret and the text it was told to listen at, so that its address stays; who dials draws one.
//!
//! Absent on purpose: relays that the address does not name, discovery services, public name servers, port mapping.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use iroh::dns::DnsResolver;
use iroh::endpoint::{
    BindError, Builder, Connection, Incoming, IncomingAddr, QuicTransportConfig, RecvStream, SendStream, presets,
};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, RelayUrl, SecretKey};
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf, join};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;
use zeroize::Zeroizing;

use super::link::Link;
use super::listener::{Accepted, Admission, Blocks};
use super::{Address, QuicSeed, TransportConfig, TransportError};

/// What both ends must name in the QUIC handshake.
pub(super) const ALPN: &[u8] = b"commonhold/1";
/// Bytes on the way in each direction of a connection, and so what a side holds of the other's that it has not read.
/// 1 MiB is 80 Mbit/s over a round trip of 100 ms.
const WINDOW_BYTES: u32 = 1 << 20;
/// Handshakes under way beyond which a dialler must first show that it receives at its address: a first packet can name
/// any source. A guess: an origin's peers that return within a second.
pub(super) const UNPROVEN_MAX: usize = 128;
const KEY_CONTEXT: &str = "commonhold quic endpoint 1";
/// Longest address that fits a signed record, bytes.
const TOLD_BYTES_MAX: usize = commonhold_sync::peer_record::RECORD_ADDRESS_BYTES_MAX;

/// Connects from an endpoint of its own, which costs a UDP socket and lives as long as the link: nothing tells the others
/// dialled that they have a peer in common, and only the relay of this address is used.
pub(super) async fn dial(
    endpoint: &[u8; 32],
    sockets: &[SocketAddr],
    relay: Option<&str>,
    config: &TransportConfig,
) -> Result<Link, TransportError> {
    let mut address = EndpointAddr::new(EndpointId::from_bytes(endpoint).map_err(fault)?);
    address = sockets.iter().fold(address, |address, socket| address.with_ip_addr(*socket));
    if let Some(relay) = relay {
        address = address.with_relay_url(parse_relay(relay)?);
    }
    let local = Arc::new(Open(builder(relay)?.bind().await.map_err(bind_fault)?));
    let connection = local.0.connect(address, ALPN).await.map_err(fault)?;
    let (send, receive) = connection.open_bi().await.map_err(fault)?;
    Ok(link(send, receive, connection, local, config))
}

/// An endpoint that listens, and where others dial it.
pub(super) async fn bind(
    socket: SocketAddr,
    relay: Option<String>,
    seed: Option<&QuicSeed>,
) -> Result<(Arc<Open>, Address), TransportError> {
    let mut builder = builder(relay.as_deref())?.alpns(vec![ALPN.to_vec()]);
    if let Some(QuicSeed(seed)) = seed {
        // Each listener has its own: a relay knows one endpoint by a key.
        let listens = Address::QuicSocket { socket, relay: relay.clone() }.to_string();
        let material = Zeroizing::new([&seed[..], listens.as_bytes()].concat());
        builder = builder.secret_key(SecretKey::from_bytes(&blake3::derive_key(KEY_CONTEXT, &material)));
    }
    let builder = builder.clear_ip_transports().bind_addr(socket).map_err(fault)?;
    let local = Open(builder.bind().await.map_err(bind_fault)?);
    let (endpoint, told) = (*local.0.id().as_bytes(), local.0.addr());
    let mut address = Address::Quic { endpoint, sockets: told.ip_addrs().copied().collect(), relay };
    // A machine with many interfaces tells of the first: a record with a longer address is none.
    while address.to_string().len() > TOLD_BYTES_MAX
        && let Address::Quic { sockets, .. } = &mut address
        && sockets.pop().is_some()
    {}
    Ok((Arc::new(local), address))
}

/// `unproven_max`: [`UNPROVEN_MAX`], but in tests.
pub(super) async fn accept_all(
    local: Arc<Open>,
    unproven_max: usize,
    config: TransportConfig,
    ready: mpsc::Sender<Accepted>,
) {
    let blocks = Arc::new(Blocks::default());
    let mut handshakes = JoinSet::new();
    while let Some(incoming) = local.0.accept().await {
        while handshakes.try_join_next().is_some() {}
        let proven = incoming.remote_addr_validated();
        if !proven && handshakes.len() >= unproven_max {
            // Nothing is kept of it: the answer carries what has to be remembered.
            drop(incoming.retry());
            continue;
        }
        let remote = match incoming.remote_addr() {
            IncomingAddr::Ip(remote) => Some(remote),
            _ => None,
        };
        // All that come through the relay share one block.
        let ip = remote.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |remote| remote.ip());
        let admission = if proven { Admission::ask(&blocks, ip, &config) } else { None };
        if proven && admission.is_none() {
            debug!(?remote, "too many unauthenticated connections");
            incoming.ignore();
            continue;
        }
        let (local, blocks, ready) = (local.clone(), blocks.clone(), ready.clone());
        let config = config.clone();
        handshakes.spawn(async move {
            let admitted = async {
                let connection = incoming_connection(incoming).await?;
                // The handshake has proven the address.
                let admission = admission.or_else(|| Admission::ask(&blocks, ip, &config));
                let admission = admission.ok_or_else(|| fault("too many unauthenticated connections"))?;
                let (send, receive) = connection.accept_bi().await.map_err(fault)?;
                Ok::<_, TransportError>((link(send, receive, connection, local, &config), admission))
            };
            match timeout(config.handshake, admitted).await {
                // The receiver is gone only when the listener is.
                Ok(Ok((link, admission))) => drop(ready.send(Accepted { link, remote, admission }).await),
                Ok(Err(error)) => debug!(?remote, %error, "no connection"),
                Err(_) => debug!(?remote, "the handshake took too long, or no stream was opened"),
            }
        });
    }
}

async fn incoming_connection(incoming: Incoming) -> Result<Connection, TransportError> {
    incoming.accept().map_err(fault)?.await.map_err(fault)
}

fn builder(relay: Option<&str>) -> Result<Builder, TransportError> {
    let quic = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(1u32.into())
        .max_concurrent_uni_streams(0u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(WINDOW_BYTES.into())
        .send_window(WINDOW_BYTES.into())
        .build();
    let relays = match relay {
        Some(relay) => RelayMode::custom([parse_relay(relay)?]),
        None => RelayMode::Disabled,
    };
    // Without this, a machine that has no name servers would ask public ones for the relay.
    let names = DnsResolver::builder().with_system_defaults().disable_fallback().build();
    Ok(Endpoint::builder(presets::Minimal)
        .clear_address_lookup()
        .relay_mode(relays)
        .dns_resolver(names)
        .transport_config(quic))
}

fn parse_relay(relay: &str) -> Result<RelayUrl, TransportError> {
    relay.parse().map_err(fault)
}

fn fault(error: impl fmt::Display) -> TransportError {
    // The short form names the kind only, the long one also what was behind it.
    TransportError::Quic(format!("{error:#}"))
}

fn bind_fault(error: BindError) -> TransportError {
    match error {
        BindError::Sockets { source, .. } => TransportError::Io(source),
        other => fault(other),
    }
}

/// An endpoint that says goodbye once its listener and its connections are gone.
#[derive(Debug)]
pub(super) struct Open(Endpoint);

impl Drop for Open {
    fn drop(&mut self) {
        let endpoint = self.0.clone();
        // Without a runtime nothing can be sent any more.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { endpoint.close().await });
        }
    }
}

fn link(
    send: SendStream,
    receive: RecvStream,
    connection: Connection,
    local: Arc<Open>,
    config: &TransportConfig,
) -> Link {
    let streams = join(receive, send);
    Link::over_stream(QuicStream { streams, connection, local, linger: config.close }, config)
}

struct QuicStream {
    streams: Join<RecvStream, SendStream>,
    connection: Connection,
    local: Arc<Open>,
    /// How long what was written may take to arrive after the link is gone.
    linger: Duration,
}

impl QuicStream {
    fn streams(self: Pin<&mut Self>) -> Pin<&mut Join<RecvStream, SendStream>> {
        Pin::new(&mut self.get_mut().streams)
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.streams().poll_read(cx, out)
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.streams().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.streams().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.streams().poll_shutdown(cx)
    }
}

/// The system sends what a closed TCP socket holds; here nobody does unless we wait. The reason of a close is in it.
impl Drop for QuicStream {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let (connection, local, linger) = (self.connection.clone(), self.local.clone(), self.linger);
        let send = self.streams.writer_mut();
        // Fails only when the connection is over.
        let finished = send.finish().is_ok().then(|| send.stopped());
        runtime.spawn(async move {
            if let Some(arrived) = finished {
                let _ = timeout(linger, arrived).await;
            }
            connection.close(0u32.into(), b"");
            drop(local);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Listener, dial as dial_address, listen};
    use super::*;

    async fn listener(config: &TransportConfig) -> Listener {
        listen(&"quic://127.0.0.1:0".parse().unwrap(), config).await.unwrap()
    }

    async fn send(link: &mut Link, frame: &[u8]) {
        link.send(frame).await.unwrap();
        link.flush().await.unwrap();
    }

    /// A dialler is heard of with its first frame.
    async fn connected(listener: &mut Listener, config: &TransportConfig) -> (Link, Accepted) {
        let mut link = dial_address(listener.address(), config).await.unwrap();
        send(&mut link, b"first").await;
        let mut accepted = listener.accept().await;
        assert_eq!(accepted.link.recv().await.unwrap().unwrap(), b"first");
        (link, accepted)
    }

    #[tokio::test]
    async fn frames_cross_quic_both_ways_and_the_last_ones_arrive_after_the_link_is_gone() {
        let config = TransportConfig::default();
        let mut listener = listener(&config).await;
        let told = listener.address().to_string();
        assert!(told.starts_with("quic://") && told.contains("?addr=127.0.0.1:"), "{told}");
        let (mut link, mut accepted) = connected(&mut listener, &config).await;
        assert!(accepted.remote.unwrap().ip().is_loopback());
        let long = vec![7; config.frame_bytes_max];
        let (_, read) = tokio::join!(send(&mut accepted.link, &long), link.recv());
        assert!(read.unwrap().unwrap() == long);
        tokio::join!(link.close("enough", config.close), async {
            assert!(accepted.link.recv().await.unwrap().is_none());
        });
        assert_eq!(accepted.link.peer_reason(), Some("enough"));
        let (mut link, mut accepted) = connected(&mut listener, &config).await;
        send(&mut accepted.link, b"last").await;
        drop((accepted, listener));
        assert_eq!(link.recv().await.unwrap().unwrap(), b"last");
        assert!(matches!(link.recv().await, Err(TransportError::Lost { midway: false } | TransportError::Io(_))));
    }

    #[tokio::test]
    async fn who_is_not_there_or_is_somebody_else_is_told_apart() {
        let config = TransportConfig { handshake: Duration::from_millis(500), ..Default::default() };
        let (one, other) = (listener(&config).await, listener(&config).await);
        let (Address::Quic { endpoint, .. }, Address::Quic { sockets, .. }) = (one.address(), other.address()) else {
            panic!()
        };
        let impostor = Address::Quic { endpoint: *endpoint, sockets: sockets.clone(), relay: None };
        let error = dial_address(&impostor, &TransportConfig::default()).await.unwrap_err();
        assert!(matches!(&error, TransportError::Quic(why) if why.contains("certificate")), "{error}");
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sockets = vec![silent.local_addr().unwrap()];
        let nobody = Address::Quic { endpoint: *endpoint, sockets, relay: None };
        let error = dial_address(&nobody, &config).await.unwrap_err();
        assert_eq!(error.to_string(), "the handshake took longer than 500ms");
        let error = dial_address(&"quic://127.0.0.1:1".parse().unwrap(), &config).await.unwrap_err();
        assert!(matches!(error, TransportError::Misplaced(_)));
        assert!(matches!(listen(one.address(), &config).await, Err(TransportError::Misplaced(_))));
        let taken = format!("quic://{}", one.address().to_string().split_once("addr=").unwrap().1);
        let error = listen(&taken.parse().unwrap(), &config).await.unwrap_err();
        assert!(matches!(&error, TransportError::Io(e) if e.kind() == io::ErrorKind::AddrInUse), "{error:?}");
    }

    #[tokio::test]
    async fn an_endpoint_that_opens_no_stream_or_speaks_another_protocol_is_dropped() {
        let config = TransportConfig { handshake: Duration::from_millis(500), ..Default::default() };
        let listener = listener(&config).await;
        let Address::Quic { endpoint, sockets, .. } = listener.address() else { panic!() };
        let address = EndpointAddr::new(EndpointId::from_bytes(endpoint).unwrap()).with_ip_addr(sockets[0]);
        let local = Open(builder(None).unwrap().bind().await.unwrap());
        assert!(local.0.connect(address.clone(), b"another").await.is_err());
        let connection = local.0.connect(address, ALPN).await.unwrap();
        timeout(Duration::from_secs(10), connection.closed()).await.expect("it is dropped long before QUIC gives up");
    }

    #[tokio::test]
    async fn a_full_block_takes_nobody_more_until_one_has_authenticated() {
        let config = TransportConfig { unauthenticated_per_block: 1, ..Default::default() };
        let mut listener = listener(&config).await;
        let (_link, accepted) = connected(&mut listener, &config).await;
        let mut refused = dial_address(listener.address(), &config).await.unwrap();
        assert!(refused.recv().await.is_err());
        drop(accepted.admission);
        connected(&mut listener, &config).await;
    }

    #[tokio::test]
    async fn a_listener_keeps_its_address_over_runs_and_has_it_alone() {
        let seeded = |seed| TransportConfig { quic_seed: Some(QuicSeed([seed; 32])), ..Default::default() };
        let endpoint = async |seed, text: &str| {
            let listener = listen(&text.parse().unwrap(), &seeded(seed)).await.unwrap();
            let Address::Quic { endpoint, .. } = listener.address() else { panic!() };
            *endpoint
        };
        let first = endpoint(1, "quic://127.0.0.1:0").await;
        assert_eq!(endpoint(1, "quic://127.0.0.1:0").await, first);
        assert_ne!(endpoint(2, "quic://127.0.0.1:0").await, first);
        assert_ne!(endpoint(1, "quic://0.0.0.0:0").await, first);
    }

    #[tokio::test]
    async fn who_must_first_prove_its_address_does() {
        let config = TransportConfig::default();
        let (local, address) = bind("127.0.0.1:0".parse().unwrap(), None, None).await.unwrap();
        let (sender, mut ready) = mpsc::channel(1);
        let _accepting = tokio::spawn(accept_all(local, 0, config.clone(), sender));
        let mut link = dial_address(&address, &config).await.unwrap();
        send(&mut link, b"first").await;
        assert_eq!(ready.recv().await.unwrap().link.recv().await.unwrap().unwrap(), b"first");
    }
}
