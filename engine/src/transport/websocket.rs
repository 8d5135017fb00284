//! The upgrade of an HTTP connection to a WebSocket, on either side. After it, frames are ours ([`super::frame`] says
//! why), so the library reads no byte past the head.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, Uri, header::SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Error};
use tokio_tungstenite::{accept_hdr_async_with_config, client_async_with_config};

use super::frame::Format;
use super::link::{Link, Stream};
use super::{Address, TransportConfig, TransportError};

/// The WebSocket subprotocol: a dialler asks for it, a listener takes nothing else.
pub const SUBPROTOCOL: &str = "commonhold.1";

/// Bytes of the HTTP head at most. A browser behind a chatty proxy sends about 2 KiB.
const HEAD_BYTES_MAX: usize = 8 << 10;

pub(super) async fn dial(
    address: &Address,
    stream: Box<dyn Stream>,
    config: &TransportConfig,
) -> Result<Link, TransportError> {
    let uri: Uri = address.to_string().parse().map_err(|e| TransportError::Handshake(format!("{e}")))?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    let (socket, _) =
        client_async_with_config(request, Head::new(stream), Some(library_config())).await.map_err(fault)?;
    let Head { stream, rest, .. } = socket.into_inner();
    Ok(Link::new(stream, Format::WebSocket { dialler: true }, rest, config))
}

/// Answers an upgrade request on a fresh connection: GET, this path (`/` takes every path), this subprotocol, a head of
/// at most 8 KiB. The caller bounds the time. For servers that accept connections themselves; others use
/// [`listen`](super::listen).
pub async fn accept_websocket(
    stream: impl Stream,
    path: &str,
    config: &TransportConfig,
) -> Result<Link, TransportError> {
    #[allow(clippy::result_large_err)] // The library's signature.
    let check = |request: &Request, response: Response| check_request(path, request, response);
    let socket = accept_hdr_async_with_config(Head::new(stream), check, Some(library_config())).await.map_err(fault)?;
    let Head { stream, rest, .. } = socket.into_inner();
    Ok(Link::new(Box::new(stream), Format::WebSocket { dialler: false }, rest, config))
}

#[allow(clippy::result_large_err)]
fn check_request(path: &str, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status: StatusCode, why: &str| {
        let mut refusal = ErrorResponse::new(Some(format!("{why}\n")));
        *refusal.status_mut() = status;
        Err(refusal)
    };
    if path != "/" && request.uri().path() != path {
        return refuse(StatusCode::NOT_FOUND, "no peer listens at this path");
    }
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let ours = |value: &HeaderValue| value.to_str().is_ok_and(|list| list.split(',').any(|p| p.trim() == SUBPROTOCOL));
    if !offered.iter().any(ours) {
        return refuse(StatusCode::BAD_REQUEST, "the WebSocket subprotocol must be commonhold.1");
    }
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

/// The library's own frame buffers are never used, so they get no memory.
fn library_config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(0)
}

fn fault(error: Error) -> TransportError {
    match error {
        Error::Io(e) => TransportError::Io(e),
        Error::Http(response) => TransportError::Handshake(format!("the other side answered {}", response.status())),
        other => TransportError::Handshake(other.to_string()),
    }
}

/// Passes an HTTP head through and keeps what follows it: a listener may send frames right behind its answer.
struct Head<S> {
    stream: S,
    seen: usize,
    /// How much of `\r\n\r\n` was just seen.
    matched: usize,
    rest: Vec<u8>,
}

impl<S> Head<S> {
    fn new(stream: S) -> Self {
        Head { stream, seen: 0, matched: 0, rest: Vec::new() }
    }

    /// Bytes of `piece` that belong to the head.
    fn head_len(&mut self, piece: &[u8]) -> usize {
        const END: &[u8] = b"\r\n\r\n";
        for (at, byte) in piece.iter().enumerate() {
            if self.matched == END.len() {
                return at;
            }
            self.matched = match *byte == END[self.matched] {
                true => self.matched + 1,
                false => usize::from(*byte == b'\r'),
            };
        }
        piece.len()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Head<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.seen >= HEAD_BYTES_MAX {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "an HTTP head of more than 8 KiB")));
        }
        let mut space = [const { MaybeUninit::uninit() }; 4096];
        let room = space.len().min(out.remaining());
        let mut piece = ReadBuf::uninit(&mut space[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        let piece = piece.filled();
        let (head, rest) = piece.split_at(self.head_len(piece));
        self.seen += head.len();
        self.rest.extend_from_slice(rest);
        out.put_slice(head);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Head<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
