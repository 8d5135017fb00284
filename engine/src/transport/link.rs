//! One connection: frames in, frames out, over any byte stream. Both directions live in one value, so that one task can
//! own it; nothing here spawns or keeps time.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{Decoder, Encoder, Format, Item, Kind};
use super::{TransportConfig, TransportError};

/// Bytes of one read. On the stack of the reading call, so an idle connection has no read buffer at all.
const READ_BYTES: usize = 16 << 10;
/// Encoded bytes at which frames stop being gathered and go to the socket. Each write is a system call of a
/// microsecond or more; past this size the copying costs as much.
const WRITE_BYTES: usize = 32 << 10;

/// Any byte stream that can carry frames.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// One connection that carries frames. Dropping it cuts the connection without a word; see [`close`](Link::close).
pub struct Link {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    /// Bytes read behind the frame that was last handed out; empty and without memory when all were used.
    inbox: Vec<u8>,
    inbox_at: usize,
    encoder: Encoder,
    /// Encoded bytes that the stream has not taken; without memory when all were.
    out: Vec<u8>,
    out_at: usize,
    unflushed: bool,
    /// The newest ping that waits for room to be answered. Older ones need no answer (RFC 6455, 5.5.3).
    ping: Option<Vec<u8>>,
    /// Why the other side closed, once it has.
    closed_by_peer: Option<String>,
    close_sent: bool,
    frame_bytes_max: usize,
}

impl Link {
    /// Frames over any reliable byte stream, each behind a u32 length. Both sides must choose the same.
    pub fn over_stream(stream: impl Stream, config: &TransportConfig) -> Self {
        Self::new(Box::new(stream), Format::Prefixed, Vec::new(), config)
    }

    /// Two ends of a connection inside this process, with 64 KiB on the way in each direction at most.
    pub fn pair(config: &TransportConfig) -> (Self, Self) {
        let (one, other) = tokio::io::duplex(64 << 10);
        (Self::over_stream(one, config), Self::over_stream(other, config))
    }

    /// `early` are bytes that arrived together with a handshake and belong to frames.
    pub(super) fn new(stream: Box<dyn Stream>, format: Format, early: Vec<u8>, config: &TransportConfig) -> Self {
        Link {
            stream,
            decoder: Decoder::new(format, config.frame_bytes_max),
            inbox: early,
            inbox_at: 0,
            encoder: Encoder::new(format),
            out: Vec::new(),
            out_at: 0,
            unflushed: false,
            ping: None,
            closed_by_peer: None,
            close_sent: false,
            frame_bytes_max: config.frame_bytes_max,
        }
    }

    /// The next frame, or `None` once the other side closed ([`peer_reason`](Self::peer_reason) tells why). A stream
    /// that ends without a close is [`TransportError::Lost`]. Pings are answered here. Cancel-safe.
    pub async fn recv(&mut self) -> Result<Option<Vec<u8>>, TransportError> {
        poll_fn(|cx| {
            loop {
                match ready!(self.poll_item(cx))? {
                    Some(Item::Frame(frame)) => return Poll::Ready(Ok(Some(frame))),
                    Some(_) => {}
                    None => return Poll::Ready(Ok(None)),
                }
            }
        })
        .await
    }

    /// Takes one frame, of at most `frame_bytes_max` bytes. It leaves with [`flush`](Self::flush), or when enough has
    /// gathered; waits only when the stream takes no more. Once begun it is sent, also when the wait is cancelled.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), TransportError> {
        if frame.len() > self.frame_bytes_max {
            return Err(TransportError::FrameTooLong { bytes: frame.len(), max: self.frame_bytes_max });
        }
        if self.close_sent {
            return Err(TransportError::Closed);
        }
        self.encode(frame);
        if self.wants_flush() { poll_fn(|cx| self.poll_write(cx)).await } else { Ok(()) }
    }

    /// Waits until the stream has taken everything that was sent. Cancel-safe.
    pub async fn flush(&mut self) -> Result<(), TransportError> {
        poll_fn(|cx| self.poll_write(cx)).await
    }

    /// Says why, and waits at most `patience` for the other side to have heard it.
    pub async fn close(mut self, reason: &str, patience: Duration) {
        self.encode_close(reason);
        let goodbye = async {
            self.flush().await?;
            // To leave with unread bytes resets a TCP connection, which can destroy the reason on its way.
            while self.recv().await?.is_some() {}
            Ok::<(), TransportError>(())
        };
        // Either way the connection is over; how it ended interests nobody any more.
        let _ = tokio::time::timeout(patience, goodbye).await;
    }

    /// Why the other side closed, once [`recv`](Self::recv) gave `None`.
    pub fn peer_reason(&self) -> Option<&str> {
        self.closed_by_peer.as_deref()
    }

    /// The next item; `None` after the other side's close.
    pub(super) fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Item>, TransportError>> {
        loop {
            if self.closed_by_peer.is_some() {
                return Poll::Ready(Ok(None));
            }
            let item = match self.decode_inbox()? {
                Some(item) => item,
                None => match ready!(self.poll_read(cx))? {
                    Some(item) => item,
                    None => continue,
                },
            };
            match &item {
                Item::Ping(payload) => self.ping = Some(payload.clone()),
                Item::Close(reason) => {
                    self.closed_by_peer = Some(reason.clone());
                    self.encode_close("");
                }
                Item::Frame(_) | Item::Pong => return Poll::Ready(Ok(Some(item))),
            }
            // An answer that does not fit now leaves with the next write; one to a close that fails changes nothing.
            let answered = self.poll_write(cx);
            if matches!(item, Item::Ping(_)) {
                let _ = answered?;
                return Poll::Ready(Ok(Some(item)));
            }
        }
    }

    fn decode_inbox(&mut self) -> Result<Option<Item>, TransportError> {
        if self.inbox_at == self.inbox.len() {
            return Ok(None);
        }
        let mut rest = &self.inbox[self.inbox_at..];
        let item = self.decoder.decode(&mut rest)?;
        self.inbox_at = self.inbox.len() - rest.len();
        if rest.is_empty() {
            (self.inbox, self.inbox_at) = (Vec::new(), 0);
        }
        Ok(item)
    }

    /// Reads once. `None`: bytes came, but no whole item.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Item>, TransportError>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
            Ok(()) => {}
            // How TLS tells an end without a goodbye, which is nothing else than without TLS.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Poll::Ready(Err(TransportError::Lost { midway: self.decoder.is_midway() }));
            }
            Err(error) => return Poll::Ready(Err(error.into())),
        }
        let mut rest = buffer.filled();
        if rest.is_empty() {
            return Poll::Ready(Err(TransportError::Lost { midway: self.decoder.is_midway() }));
        }
        let item = self.decoder.decode(&mut rest)?;
        if !rest.is_empty() {
            (self.inbox, self.inbox_at) = (rest.to_vec(), 0);
        }
        Poll::Ready(Ok(item))
    }

    /// Queues one frame of allowed size.
    pub(super) fn encode(&mut self, frame: &[u8]) {
        self.encoder.encode(Kind::Data, frame, &mut self.out);
    }

    pub(super) fn encode_ping(&mut self) {
        self.encoder.encode(Kind::Ping, &[], &mut self.out);
    }

    /// Queues a close, once; nothing is queued after it.
    pub(super) fn encode_close(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.close_sent, true) {
            self.encoder.encode_close(reason, &mut self.out);
        }
    }

    /// Enough is gathered for one write.
    pub(super) fn wants_flush(&self) -> bool {
        self.out_bytes() >= WRITE_BYTES
    }

    /// Encoded bytes that the stream has not taken.
    pub(super) fn out_bytes(&self) -> usize {
        self.out.len() - self.out_at
    }

    /// Ready when the stream has taken all that was encoded.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        loop {
            while self.out_at < self.out.len() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.out_at..]))?;
                if written == 0 {
                    return Poll::Ready(Err(TransportError::Lost { midway: true }));
                }
                self.out_at += written;
                self.unflushed = true;
            }
            (self.out, self.out_at) = (Vec::new(), 0);
            match self.ping.take() {
                Some(payload) if !self.close_sent => self.encoder.encode(Kind::Pong, &payload, &mut self.out),
                _ => break,
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("out_bytes", &self.out_bytes()).finish_non_exhaustive()
    }
}
